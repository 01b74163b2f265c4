"""How rows are compared: the machinery behind :mod:`mrl_course.search`.

Fast float32 products choose candidates; what is close to a border or in the result is computed
again in float64, row by row, so that equal rows have equal scores whatever the block or BLAS.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from mrl_course.dims import check_count

if TYPE_CHECKING:
    from mrl_course.search import PrefixIndex

SLACK = 2e-5  # fast float32 scores are off by less (D in the thousands); closer ones are settled
DECIMALS = 7  # what a float32 near 1 can tell apart
SAME = 1e-6  # two float32 scores of one and the same row differ by less
SCORES = 2**23  # scores held at a time: 32 MB
QUERIES = 1024  # queries scored at a time
NUMBERS = 2**22  # numbers of a raw corpus copied at a time: 16 MB


# ---------------------------------------------------------------- the rows that are compared


@dataclass(frozen=True)
class Rows:
    """The first ``dim`` numbers of every corpus row, wherever they lie.

    ``array[:, :dim]`` holds them. ``unit`` rows have length 1 already and are used for fast
    scores; ``lengths`` are those of the raw rows if they are known.
    """

    array: np.ndarray
    dim: int
    unit: np.ndarray | None = None
    lengths: np.ndarray | None = None

    @classmethod
    def of(cls, corpus: ArrayLike | PrefixIndex, dim: int | None = None) -> Rows:
        """Rows of an array or an index, all numbers by default; wrong input is an error."""
        array = corpus.corpus if hasattr(corpus, "prefix") else check_matrix("corpus", corpus)
        full_dim = array.shape[1]
        if dim is not None:
            check_count("dim", dim, most=full_dim, of="the numbers of an embedding")
        dim = full_dim if dim is None else int(dim)
        if not hasattr(corpus, "prefix"):
            return cls(array, dim)
        if dim == full_dim and dim not in corpus.dims:
            return cls(array, dim, lengths=corpus.lengths)
        return cls(array, dim, unit=corpus.prefix(dim))

    def __len__(self) -> int:
        """Number of corpus rows."""
        return len(self.array)

    @property
    def full_dim(self) -> int:
        """D, of the vectors that the prefixes come from."""
        return self.array.shape[1]

    def blocks(self, queries: int) -> Iterator[slice]:
        """Slices of rows, small enough for the scores of so many queries to fit in memory."""
        most = SCORES // queries
        if self.unit is None:
            most = min(most, NUMBERS // self.dim)
        most = min(max(most, 1), 2**17)
        start, step = 0, min(most, 2**13)  # small ones first: they tell what is not worth keeping
        while start < len(self):
            yield slice(start, min(start + step, len(self)))
            start, step = start + step, min(most, 2 * step)

    def fast_scores(self, queries: np.ndarray, which: slice) -> np.ndarray:
        """(q, dim) float32 queries of length 1 -> (q, rows) float32 cosines."""
        if self.unit is not None:
            return _product(queries, self.unit[which])
        rows = to_float32(self.array[which, : self.dim])
        known = self.lengths is not None
        lengths = self.lengths[which] if known else lengths_of(rows, which.start)
        return _product(queries, rows) / lengths

    def fast_scores_at(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Float32 cosines of one (D,) query with a few rows."""
        taken = to_float32(self.array[rows, : self.dim])
        lengths = self.lengths[rows] if self.lengths is not None else lengths_of(taken, rows)
        return (taken @ unit_rows(query[None, : self.dim])[0]) / lengths

    def exact_scores_at(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Cosines computed in float64 and rounded: what is equal on paper gets the same score."""
        scores = np.empty(len(rows), np.float32)
        step = max(1, NUMBERS // self.dim)
        query = query[: self.dim].astype(np.float64)
        query /= np.linalg.norm(query) or 1.0
        for start in range(0, len(rows), step):
            here = slice(start, start + step)
            taken = self.array[rows[here], : self.dim].astype(np.float64)
            dot = np.einsum("ij,j->i", taken, query)
            lengths = np.sqrt(np.einsum("ij,ij->i", taken, taken))
            scores[here] = np.round(dot / np.where(lengths > 0, lengths, 1), DECIMALS)
        return scores


# ------------------------------------------------------------------- scanning and settling


def scan(queries: np.ndarray, rows: Rows, keep: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each (D,) query the rows that may be among the best ``keep``, with fast scores.

    A row whose fast score is clearly below the best ``keep`` so far is out: after the first
    block nearly all are, and one comparison a row is enough.
    """
    keep = min(keep, len(rows))
    best = [(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in queries]
    floor = np.full(len(queries), -np.inf, np.float32)
    unit = unit_rows(queries[:, : rows.dim])
    for which in rows.blocks(len(queries)):
        scores = rows.fast_scores(unit, which)
        for i, query in enumerate(queries):
            hits = np.flatnonzero(scores[i] >= floor[i])
            if not len(hits):
                continue
            numbers = np.concatenate([best[i][0], hits + which.start])
            values = np.concatenate([best[i][1], scores[i, hits]])
            if len(values) > keep:
                floor[i] = np.partition(values, -keep)[-keep] - SLACK
                stay = values >= floor[i]
                numbers, values = numbers[stay], values[stay]
            if len(values) > 4 * keep + 4096:  # a flood of equal scores: settle it now
                numbers, values = order_rows(query, rows, numbers, values, keep)
                numbers, values = numbers[by_row := np.argsort(numbers)], values[by_row]
            best[i] = numbers, values
    return best


def order_rows(query, rows: Rows, numbers, values, keep: int) -> tuple[np.ndarray, np.ndarray]:
    """The best ``keep`` of a few rows, the best first, equal ones by row number."""
    if len(values) > keep:
        stay = values >= np.partition(values, -keep)[-keep] - SLACK
        numbers = numbers[stay]
    values = rows.exact_scores_at(query, numbers)
    order = np.lexsort((numbers, -values))[:keep]
    return numbers[order], values[order]


def keep_rows(query, rows: Rows, numbers, values, keep: int) -> np.ndarray:
    """The row numbers of the best ``keep``, ascending; exact scores only near the border."""
    if len(values) <= keep:
        return np.sort(numbers)
    border = np.partition(values, -keep)[-keep]
    sure = values > border + SLACK
    near = np.flatnonzero(~sure & (values >= border - SLACK))
    wanted = keep - int(sure.sum())
    settled, _ = order_rows(query, rows, numbers[near], values[near], wanted)
    return np.sort(np.concatenate([numbers[sure], settled]))


def narrow(query, full: Rows, numbers, steps, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps of a funnel on the rows of one query, then the final order by all numbers."""
    for dim, keep in steps:
        prefix = Rows(full.array, dim)
        numbers = keep_rows(query, prefix, numbers, prefix.fast_scores_at(query, numbers), keep)
    return order_rows(query, full, numbers, full.fast_scores_at(query, numbers), top_k)


def _product(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(q, d), (n, d) -> (q, n); one query is a matrix times a vector, which BLAS does faster."""
    return (rows @ queries[0])[None] if len(queries) == 1 else queries @ rows.T


def parts(queries: np.ndarray) -> Iterator[np.ndarray]:
    """Queries in groups that are scored together."""
    for start in range(0, len(queries), QUERIES):
        yield queries[start : start + QUERIES]


# -------------------------------------------------------------------------- checked inputs


def check_numbers(name: str, emb: ArrayLike) -> np.ndarray:
    """Return an array of numbers, without a copy where there is one already."""
    if hasattr(emb, "detach"):  # a tensor; torch itself is not needed here, and slow to import
        emb = emb.detach().cpu()
        half = emb.is_floating_point() and emb.element_size() < 4
        emb = (emb.float() if half else emb).numpy()  # NumPy knows no bfloat16
    array = np.asanyarray(emb)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must hold numbers, got dtype {array.dtype}")
    return array


def check_matrix(name: str, emb: ArrayLike) -> np.ndarray:
    """(n, D) as it is given, memory-mapped or not, without a copy."""
    array = check_numbers(name, emb)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name} must have shape (n, D), n and D >= 1, got {array.shape}")
    return array


def check_queries(emb: ArrayLike, full_dim: int) -> tuple[np.ndarray, bool]:
    """(q, D) queries, and whether only one was given, of shape (D,)."""
    array = check_numbers("queries", emb)
    one = array.ndim == 1
    array = check_matrix("queries", array[None] if one else array)
    if array.shape[1] != full_dim:
        raise ValueError(
            f"queries have {array.shape[1]} numbers and the corpus {full_dim}; both must come "
            "from the same model (pass full vectors: the search cuts both)"
        )
    return check_finite("queries", array), one


def check_finite(name: str, array: np.ndarray, first: int = 0) -> np.ndarray:
    """Return the array, or name the row that holds a NaN; ``first`` is the number of row 0."""
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        row = first + int(finite.argmin())
        raise ValueError(f"{name} holds NaN or infinite numbers, first in row {row}")
    return array


def check_steps(
    steps: Sequence[tuple[int, int]], full_dim: int, top_k: int
) -> list[tuple[int, int]]:
    """The steps of a funnel as plain integers, in an order that makes sense."""
    try:
        checked = [(operator.index(dim), operator.index(keep)) for dim, keep in steps]
    except (TypeError, ValueError):
        raise TypeError(f"steps must be (dim, keep) pairs of integers, got {steps!r}") from None
    if not checked:
        raise ValueError("steps is empty; give at least one (dim, keep) pair such as (64, 200)")
    for dim, keep in checked:
        if not 1 <= dim <= full_dim:
            raise ValueError(f"dim must be between 1 and {full_dim}, got {dim}")
        if keep < top_k:
            raise ValueError(
                f"a shortlist of {keep} cannot hold top_k = {top_k} results; keep at least {top_k}"
            )
    for (dim, keep), (next_dim, next_keep) in zip(checked, checked[1:], strict=False):
        if next_dim <= dim:
            raise ValueError(f"the dims of steps must ascend, but {next_dim} follows {dim}")
        if next_keep > keep:
            raise ValueError(f"steps must keep ever fewer rows, but {next_keep} follows {keep}")
    return checked


def to_float32(rows: np.ndarray) -> np.ndarray:
    """A copy only where the numbers are of another kind."""
    return np.asarray(rows, dtype=np.float32)


def lengths_of(rows: np.ndarray, first: int | np.ndarray) -> np.ndarray:
    """Length of each float32 row, 1 for zero rows; a NaN is an error that names the corpus row."""
    square = np.einsum("ij,ij->i", rows, rows)
    odd = np.flatnonzero(~((square > 1e-30) & (square < 1e30)))
    if not len(odd):
        return np.sqrt(square)
    finite = np.isfinite(rows[odd]).all(axis=1)
    if not finite.all():
        row = odd[finite.argmin()]
        row = row + first if np.ndim(first) == 0 else first[row]
        raise ValueError(f"corpus holds NaN or infinite numbers, first in row {row}")
    lengths = np.sqrt(square, dtype=np.float64)
    lengths[odd] = np.linalg.norm(rows[odd].astype(np.float64), axis=1)
    return np.where(lengths > 0, lengths, 1).astype(np.float32)


def unit_rows(queries: np.ndarray) -> np.ndarray:
    """Float32 rows of length 1; zero rows stay zero."""
    wide = queries.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return (wide / np.where(lengths > 0, lengths, 1)).astype(np.float32)
