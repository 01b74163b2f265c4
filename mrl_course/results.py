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
from pathlib import Path

import pandas as pd

from mrl_course.errors import WrongValue
from mrl_course.files import results_folder

_PACKAGES = ("torch", "sentence-transformers", "tokenizers", "numpy")


def circumstances(what: str, command: str, packages: Sequence[str] = _PACKAGES) -> dict:
    """Date, kind of machine and versions, for a record: nothing that names this machine."""
    versions = {name: metadata.version(name) for name in packages}
    return {
        "what": what,
        "date": datetime.date.today().isoformat(),
        "command": command,
        "machine": f"{os.cpu_count()} cores, {_processor()}, {platform.system()}",
        "versions": versions | {"python": platform.python_version()},
    }


def _processor() -> str:
    """The kind of processor as far as the system tells, such as "Intel Xeon @ 2.5GHz, x86_64"."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.partition(":")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # another system, or a processor that says no name
        model = platform.processor()
    return ", ".join(dict.fromkeys(filter(None, (model.strip(), platform.machine()))))


def record_text(record: dict) -> str:
    """JSON of a record, indented, but one line for each row, so that a diff can be read.

    Args:
        record: with ``rows``, a list of lists; a number that there is not is ``None``.

    Raises:
        ValueError: NaN or infinity, which JSON does not have; the message names the row.
    """
    rows = ",\n  ".join(_strict(row, f"row {i}") for i, row in enumerate(record["rows"]))
    head = _strict(record | {"rows": []}, "the part before the rows", indent=1)
    return head.replace('"rows": []', f'"rows": [\n  {rows}\n ]') + "\n"


def _strict(part: object, place: str, indent: int | None = None) -> str:
    try:
        return json.dumps(part, allow_nan=False, indent=indent)
    except (ValueError, TypeError) as error:
        raise WrongValue(
            f"{place} of the record cannot be written as JSON ({error}): {part!r:.200}; write None "
            "for a number that there is not"
        ) from error


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
            and numbers are mixed. A missing number (``null``) is NaN in the frame.
    """
    folder = results_folder()
    known = sorted(path.stem for path in folder.glob("*.json"))
    if name not in known:
        raise WrongValue(f"no recorded run {name!r}; there are: {', '.join(known) or 'none'}")
    file = f"the recorded run {name}.json"
    try:
        record = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    except ValueError as error:  # also what is not UTF-8
        raise WrongValue(f"{file} is not readable as JSON ({error}); write it again") from error
    columns = record.get("columns") if isinstance(record, dict) else None
    if not isinstance(columns, list) or not _names(columns):
        raise WrongValue(f"{file} has columns {columns}, expected a list of different names")
    rows = record.pop("rows", None)
    if not isinstance(rows, list) or not rows:
        raise WrongValue(f"{file} has no rows")
    kinds = ["unknown"] * len(columns)
    for number, row in enumerate(rows):
        if not _fits(row, kinds):
            raise WrongValue(f"{file}, row {number}: {row} does not fit the columns {columns}")
    if "null" in kinds:
        empty = columns[kinds.index("null")]
        raise WrongValue(f"{file}, row 0: the column {empty!r} holds nothing, in no row")
    frame = pd.DataFrame(rows, columns=columns)  # a missing number becomes NaN
    frame.attrs = {key: value for key, value in record.items() if key != "columns"}
    return frame


def _names(columns: list) -> bool:
    """Whether these are different column names."""
    good = bool(columns) and all(isinstance(name, str) for name in columns)
    return good and len(set(columns)) == len(columns)


def _fits(row: object, kinds: list[str]) -> bool:
    """Whether a row has the kinds of the rows before it; fills in those that were unknown.

    A missing number, ``null``, fits any column but one of texts.
    """
    if not isinstance(row, list) or len(row) != len(kinds):
        return False
    for place, cell in enumerate(row):
        if isinstance(cell, bool) or not isinstance(cell, (str, int, float, type(None))):
            return False
        kind = "text" if isinstance(cell, str) else "number"
        if cell is None:
            kind = "null" if kinds[place] == "unknown" else kinds[place]
        allowed = {"unknown": ("text", "number", "null"), "null": ("number", "null")}
        if kind not in allowed.get(kinds[place], (kinds[place],)) or (
            cell is None and kind == "text"
        ):
            return False
        kinds[place] = kind
    return True
