"""Recorded runs: numbers that took too long, or needed data too large, for a lesson.

Each is a file ``data/results/NAME.json``: a table, and the circumstances in which it was measured.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Sequence
from importlib import metadata

import pandas as pd

from mrl_course.files import results_folder

_PACKAGES = ("torch", "sentence-transformers", "tokenizers", "numpy")


def circumstances(what: str, command: str, packages: Sequence[str] = _PACKAGES) -> dict:
    """Date, kind of machine and versions, for a record: nothing that names this machine."""
    versions = {name: metadata.version(name) for name in packages}
    return {
        "what": what,
        "date": datetime.date.today().isoformat(),
        "command": command,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "versions": versions | {"python": platform.python_version()},
    }


def record_text(record: dict) -> str:
    """JSON of a record, indented, but one line for each row, so that a diff can be read."""
    rows = ",\n  ".join(json.dumps(row) for row in record["rows"])
    head = json.dumps(record | {"rows": []}, indent=1)
    return head.replace('"rows": []', f'"rows": [\n  {rows}\n ]') + "\n"


def load_results(name: str) -> pd.DataFrame:
    """Read a recorded run.

    Args:
        name: of the file without ``.json``, for example ``"twins_allnli"``.

    Returns:
        A frame with the columns that the file names, one row per measurement; those of
        ``twins_allnli`` are described at :func:`mrl_course.comparison.compare_twins`, those of
        ``search`` in ``data/results/README.md``. Everything else in the file, such as
        ``machine``, ``date`` and ``command``, is in its ``attrs``.

    Raises:
        ValueError: there is no such run (the message lists those that there are), or the file is
            broken: no JSON, no columns, no rows, rows that do not fit, a column in which text
            and numbers are mixed.
    """
    folder = results_folder()
    known = sorted(path.stem for path in folder.glob("*.json"))
    if name not in known:
        raise ValueError(f"no recorded run {name!r}; there are: {', '.join(known) or 'none'}")
    file = f"the recorded run {name}.json"
    try:
        record = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    except ValueError as error:  # also what is not UTF-8
        raise ValueError(f"{file} is not readable as JSON ({error}); write it again") from error
    columns = record.get("columns") if isinstance(record, dict) else None
    if not _names(columns):
        raise ValueError(f"{file} has columns {columns}, expected a list of different names")
    rows = record.pop("rows", None)
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{file} has no rows")
    kinds = [_kind(cell) for cell in rows[0]] if isinstance(rows[0], list) else []
    for number, row in enumerate(rows):
        fits = isinstance(row, list) and len(row) == len(columns)
        if not fits or [_kind(cell) for cell in row] != kinds or None in kinds:
            raise ValueError(f"{file}, row {number}: {row} does not fit the columns {columns}")
    frame = pd.DataFrame(rows, columns=columns)
    frame.attrs = {key: value for key, value in record.items() if key != "columns"}
    return frame


def _names(columns) -> bool:
    """Whether this is a list of different column names."""
    good = isinstance(columns, list) and columns and all(isinstance(c, str) for c in columns)
    return bool(good) and len(set(columns)) == len(columns)


def _kind(cell) -> str | None:
    """Text, number, or None for what does not belong into a table."""
    if isinstance(cell, bool) or not isinstance(cell, (str, int, float)):
        return None
    return "text" if isinstance(cell, str) else "number"
