"""Recorded runs: numbers that took too long, or needed data too large, for a lesson.

Each is a file ``data/results/NAME.json`` as ``mrl-course twins`` writes it: a table of scores, and
the circumstances in which they were measured.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from mrl_course.miniature import miniature_folder
from mrl_course.twins import CSV_COLUMNS

TEXT_COLUMNS = ("model", "task")


def results_folder() -> Path:
    """Folder that holds the recorded runs, in a checkout or in an installed wheel."""
    return miniature_folder().parent / "results"


def load_results(name: str) -> pd.DataFrame:
    """Read a recorded run.

    Args:
        name: of the file without ``.json``, for example ``"twins_allnli"``.

    Returns:
        A frame with the columns ``model, seed, task, k, score, retention``, one row per score;
        see :func:`mrl_course.twins.compare_twins`. Everything else in the file, such as
        ``machine``, ``date`` and ``command``, is in its ``attrs``.

    Raises:
        ValueError: there is no such run (the message lists those that there are), or the file is
            broken: no JSON, other columns, no rows, text in place of a number.
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
    if columns != list(CSV_COLUMNS):
        raise ValueError(f"{file} has columns {columns}, expected {list(CSV_COLUMNS)}")
    rows = record.pop("rows", None)
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{file} has no rows")
    for number, row in enumerate(rows):
        if not isinstance(row, list) or not _fits(row):
            raise ValueError(f"{file}, row {number}: {row} does not fit the columns {columns}")
    frame = pd.DataFrame(rows, columns=columns)
    frame.attrs = {key: value for key, value in record.items() if key != "columns"}
    return frame


def _fits(row: list) -> bool:
    """Whether a row holds a text or a number in each column, as the column needs it."""
    if len(row) != len(CSV_COLUMNS):
        return False
    cells = dict(zip(CSV_COLUMNS, row, strict=True))
    whole = all(type(cells[name]) is int for name in ("seed", "k"))
    text = all(isinstance(cells[name], str) for name in TEXT_COLUMNS)
    return whole and text and all(type(cells[name]) in (int, float) for name in CSV_COLUMNS[4:])
