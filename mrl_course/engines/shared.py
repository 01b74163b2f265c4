"""What the engines share: checks, so that bad input reaches none, and the modules they need."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from mrl_course.arguments import (
    check_count,
    check_finite,
    check_matrix,
    check_queries,
    warn_zero_rows,
    zero_rows,
)
from mrl_course.errors import WrongKind, WrongValue
from mrl_course.ranking import fit_float32
from mrl_course.search import Neighbours

SQLITE_MAX_SHORTLIST = 4096  # sqlite-vec refuses a larger k
POSTGRES_MAX_SHORTLIST = 1000  # pgvector refuses a larger hnsw.ef_search
POSTGRES_MAX_GRAPH_DIM = 2000  # pgvector refuses a graph over longer vectors of float32
LOCK_SECONDS = 5  # that another program may hold a lock before it is an error
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
        raise WrongValue(f"engine must be one of {sorted(_MODULES)}, got {engine!r}")
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
        raise WrongValue(
            "table must be a name of 1 to 40 ASCII letters, digits and '_' that does not start "
            f"with a digit, got {name!r}"
        )
    return name


_Index = TypeVar("_Index", bound="TwoStageIndex")


class TwoStageIndex:
    """What both engines check, so that bad input reaches neither.

    A row of zeros has cosine 0 with everything, as in the whole package; so has a zero prefix in
    the first stage.
    """

    def __init__(self, dim: int, prefix: int, table: str) -> None:
        """Check the sizes and the name."""
        self.dim = check_count("dim", dim)
        self.prefix = check_count("prefix", prefix, most=self.dim, of="the numbers of a vector")
        self.table = check_table_name(table)

    def __enter__(self: _Index) -> _Index:
        """Return the index itself."""
        return self

    def __exit__(self, *_exception: object) -> None:
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

    def _checked_rows(
        self, emb: ArrayLike, ids: ArrayLike | None, next_id: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of shape (n, dim) and int64 ids, or an error before anything is written."""
        emb = check_matrix("emb", emb)
        if emb.shape[1] != self.dim:
            raise WrongValue(f"emb has {emb.shape[1]} numbers in a row, the index {self.dim}")
        numbers = np.arange(next_id, next_id + len(emb)) if ids is None else _ids(ids, len(emb))
        zero = np.zeros(len(emb), bool)
        for start in range(0, len(emb), BATCH):
            block = check_finite("emb", emb[start : start + BATCH], start)
            zero[start : start + BATCH] = zero_rows(block)
        warn_zero_rows("emb", zero)
        return emb, numbers

    def _checked_search(
        self, queries: ArrayLike, top_k: int, shortlist_size: int | None, limit: int | None
    ) -> Search:
        rows, one = check_queries(queries, self.dim)
        rows = check_finite("queries", rows)
        warn_zero_rows("queries", zero_rows(rows))
        rows = fit_float32(rows, slice(0, len(rows)))[0]
        top_k = check_count("top_k", top_k)
        there = self._count_up_to(top_k)  # counting all of them would take longer than the search
        if not there:
            raise WrongValue("the index is empty; add vectors first")
        check_count("top_k", top_k, most=there, of="the rows of the index")
        if shortlist_size is not None:
            shortlist_size = check_count(
                "shortlist_size", shortlist_size, 1, limit, "what this engine allows"
            )
            if shortlist_size < top_k:
                raise WrongValue(
                    f"a shortlist of {shortlist_size} cannot hold top_k = {top_k} results"
                )
        return Search(rows, one, top_k, shortlist_size)


class Search(NamedTuple):
    """The checked arguments of a search."""

    queries: np.ndarray  # (q, dim) float32, of lengths that float32 can square
    one: bool  # whether a single vector was given
    top_k: int
    shortlist_size: int | None


def fitted_blocks(emb: np.ndarray, ids: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of (ids, float32 rows); rows that are too long or too short for float32 are scaled."""
    for start in range(0, len(emb), BATCH):
        which = slice(start, min(start + BATCH, len(emb)))
        yield ids[which], np.ascontiguousarray(fit_float32(emb[which], which)[0])


def _ids(ids: ArrayLike, rows: int) -> np.ndarray:
    """(rows,) different int64 from 0 on, or an error that names the first that will not do."""
    tensor: Any = ids
    if isinstance(ids, (list, tuple)):  # NumPy makes a 1 of a True among integers
        place = next((i for i, x in enumerate(ids) if isinstance(x, (bool, np.bool_))), None)
        if place is not None:
            raise WrongKind(f"ids must be integers, got {ids[place]} at place {place}")
    array = np.asarray(tensor.detach().cpu() if hasattr(tensor, "detach") else ids)
    if array.dtype.kind not in "iu":
        raise WrongKind(f"ids must be integers, got dtype {array.dtype}: {array!r:.80}")
    if array.shape != (rows,):
        raise WrongValue(f"{rows} vectors need as many ids, got shape {array.shape}")
    bad = (array < 0) | (array > 2**63 - 1)
    if bad.any():
        place = int(bad.argmax())
        raise WrongValue(f"ids must be from 0 to 2**63 - 1, got {array[place]} at place {place}")
    values, counts = np.unique(array, return_counts=True)
    if len(values) < len(array):
        twice = values[counts.argmax()]
        place = int(np.flatnonzero(array == twice)[1])
        raise WrongValue(f"the id {twice} is given more than once, again at place {place}")
    return array.astype(np.int64)


def as_neighbours(found: list[Sequence[tuple[int, float]]], one: bool) -> Neighbours:
    """(id, score) pairs of each query as arrays; of one query without the first axis."""
    indices = np.array([[row for row, _ in rows] for rows in found], np.int64)
    scores = np.array([[score for _, score in rows] for rows in found], np.float32)
    return Neighbours(indices[0], scores[0]) if one else Neighbours(indices, scores)
