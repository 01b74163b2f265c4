"""What the engines share: checks, so that bad input reaches none, and the modules they need."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Sequence
from types import ModuleType

import numpy as np

from mrl_course.arguments import check_count, check_matrix, check_queries
from mrl_course.ranking import to_float32
from mrl_course.search import Neighbours

SQLITE_MAX_SHORTLIST = 4096  # sqlite-vec refuses a larger k
POSTGRES_MAX_SHORTLIST = 1000  # pgvector refuses a larger hnsw.ef_search
POSTGRES_MAX_GRAPH_DIM = 2000  # pgvector refuses a graph over longer vectors of float32
BATCH = 2_000  # rows that are converted and sent at a time
_MODULES = {"sqlite": ("apsw", "sqlite_vec"), "postgres": ("psycopg", "pgserver")}


def missing_modules(engine: str) -> list[str]:
    """Modules that ``engine`` needs and this Python does not have; empty if it can be used.

    Args:
        engine: ``"sqlite"``, or ``"postgres"`` with a server of our own
            (:class:`TemporaryPostgres`; with another server, ``psycopg`` is enough).

    Raises:
        ValueError: another name.
    """
    if engine not in _MODULES:
        raise ValueError(f"engine must be one of {sorted(_MODULES)}, got {engine!r}")
    return [name for name in _MODULES[engine] if importlib.util.find_spec(name) is None]


def need(name: str) -> ModuleType:
    """Import a module of the extra ``servers``, or say how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"this engine needs the module {name!r}, which cannot be imported ({error}); "
            'install it with: pip install "mrl-course[servers]"',
            name=name,
        ) from error


def check_table_name(name: str) -> str:
    """Return a name that is safe inside SQL: letters, digits and ``_``, no digit first, 1 to 40.

    Names cannot be sent as parameters, so what is no plain name does not get into a statement.

    Raises:
        ValueError: anything else; the message names it.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,39}", name):
        raise ValueError(
            "table must be a name of 1 to 40 ASCII letters, digits and '_' that does not start "
            f"with a digit, got {name!r}"
        )
    return name


class TwoStageIndex:
    """What both engines check, so that bad input reaches neither."""

    def __init__(self, dim: int, prefix: int, table: str):
        """Check the sizes and the name."""
        self.dim = check_count("dim", dim)
        self.prefix = check_count("prefix", prefix, most=self.dim, of="the numbers of a vector")
        self.table = check_table_name(table)

    def __enter__(self):
        """Return the index itself."""
        return self

    def __exit__(self, *_exception) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close what the index keeps open."""
        raise NotImplementedError

    def __len__(self) -> int:
        """Number of vectors."""
        raise NotImplementedError

    def _count_up_to(self, most: int) -> int:
        raise NotImplementedError

    def _checked_rows(self, emb, ids, next_id: int) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of shape (n, dim) and int64 ids, or an error before anything is written."""
        emb = check_matrix("emb", emb)
        if emb.shape[1] != self.dim:
            raise ValueError(f"emb has {emb.shape[1]} numbers in a row, the index {self.dim}")
        ids = np.arange(next_id, next_id + len(emb)) if ids is None else np.asarray(ids)
        if ids.dtype.kind not in "iu":
            raise TypeError(f"ids must be integers, got dtype {ids.dtype}")
        if ids.shape != (len(emb),):
            raise ValueError(f"{len(emb)} vectors need as many ids, got shape {ids.shape}")
        for odd in (ids.min(), ids.max()):
            if not 0 <= odd < 2**63:
                raise ValueError(f"ids must be from 0 to 2**63 - 1, got {odd}")
        values, counts = np.unique(ids, return_counts=True)
        if len(values) < len(ids):
            raise ValueError(f"the id {values[counts.argmax()]} is given more than once")
        for start in range(0, len(emb), BATCH):
            self._check_vectors("emb", to_float32(emb[start : start + BATCH]), start)
        return emb, ids.astype(np.int64)

    def _checked_search(self, queries, top_k, shortlist, limit) -> tuple[np.ndarray, bool, int]:
        """Queries of shape (q, dim), whether one was given, and top_k."""
        queries, one = check_queries(queries, self.dim)
        queries = to_float32(queries)
        self._check_vectors("queries", queries, 0)
        check_count("top_k", top_k)
        there = self._count_up_to(top_k)  # counting all of them would take longer than the search
        if not there:
            raise ValueError("the index is empty; add vectors first")
        check_count("top_k", top_k, most=there, of="the rows of the index")
        if shortlist is not None:
            check_count("shortlist", shortlist, most=limit, of="what this engine allows")
            if shortlist < top_k:
                raise ValueError(f"a shortlist of {shortlist} cannot hold top_k = {top_k} results")
        return queries, one, top_k

    def _check_vectors(self, name: str, rows: np.ndarray, first: int) -> None:
        if not np.isfinite(rows).all():
            row = first + int((~np.isfinite(rows).all(axis=1)).argmax())
            raise ValueError(f"{name} holds NaN or infinite numbers, first in row {row}")
        zero = ~rows[:, : self.prefix].any(axis=1)
        if zero.any():
            raise ValueError(
                f"row {first + int(zero.argmax())} of {name} has only zeros in its first "
                f"{self.prefix} numbers: it has no direction, and no cosine; leave it out"
            )


def as_neighbours(found: list[Sequence[tuple[int, float]]], one: bool) -> Neighbours:
    """(id, score) pairs of each query as arrays; of one query without the first axis."""
    indices = np.array([[row for row, _ in rows] for rows in found], np.int64)
    scores = np.array([[score for _, score in rows] for rows in found], np.float32)
    return Neighbours(indices[0], scores[0]) if one else Neighbours(indices, scores)
