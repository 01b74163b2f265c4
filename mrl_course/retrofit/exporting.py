"""The map in forms that other languages read."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from mrl_course.errors import WrongKind, WrongValue

_ENDINGS = (".npy", ".json", ".sql")


def written_as(
    ending: str, weight: np.ndarray, about: Mapping[str, Any], column: str
) -> str | bytes:
    """The content of a file with this ending.

    Args:
        ending: ``.npy``, ``.json`` or ``.sql``.
        weight: (D, dim) float32.
        about: what else JSON holds.
        column: name of a column, for SQL.

    Raises:
        WrongKind, WrongValue: another ending; a column that is no name.
    """
    ending = ending.lower()
    if ending not in _ENDINGS:
        raise WrongValue(f"path must end in {', '.join(_ENDINGS)}, got {ending or 'no ending'!r}")
    if ending == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(weight))
        return buffer.getvalue()
    if ending == ".json":
        rows = [[float(str(x)) for x in row] for row in weight]  # as short as float32 allows
        return json.dumps({**about, "weight": rows}) + "\n"
    return sql_expression(weight, column) + "\n"


def sql_expression(weight: np.ndarray, column: str) -> str:
    """An expression of PostgreSQL with pgvector, of any version: the mapped, cut vector.

    ``<#>`` is pgvector's negative inner product: each new number is the one with minus a column
    of the map.
    """
    if not isinstance(column, str):
        raise WrongKind(f"column must be a string, got {column!r}")
    if not column or "\0" in column:
        raise WrongValue(f"column must name a column, got {column!r}")
    quoted = '"' + column.replace('"', '""') + '"'
    lines = ",\n  ".join(
        f"({quoted} <#> '[{','.join(map(str, -direction))}]')::real"
        for direction in weight.T.astype(np.float32)
    )
    return f"ARRAY[\n  {lines}\n]::vector({weight.shape[1]})"
