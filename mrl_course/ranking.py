"""How rows are compared: the machinery behind :mod:`mrl_course.search`.

Fast float32 products choose candidates; what is close to a border or in the result is computed
again in float64, row by row, so that equal rows have equal scores whatever the block or BLAS.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mrl_course.arguments import (
    check_count,
    check_dims,
    check_matrix,
)

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
        array = corpus.corpus if isinstance(corpus, PrefixIndex) else check_matrix("corpus", corpus)
        full_dim = array.shape[1]
        if dim is not None:
            check_count("dim", dim, most=full_dim, of="the numbers of an embedding")
        dim = full_dim if dim is None else int(dim)
        if not isinstance(corpus, PrefixIndex):
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


class PrefixIndex:
    """A corpus that is searched again and again, its prefixes held side by side in memory.

    Any search function takes it in place of an array. The full vectors are not copied: they stay
    where they are, also in a memory-mapped file (``np.load(path, mmap_mode="r")``), and only the
    rows of a shortlist are read. Do not change the array afterwards.

    Attributes:
        corpus: the (n, D) array that was given.
        dims: the prefix sizes held, ascending.
        full_dim: D.
        lengths: (n,) float32, of the full vectors; 1 for zero rows.
    """

    def __init__(self, corpus: ArrayLike, dims: int | Sequence[int]):
        """Copy and normalise the prefixes, in blocks.

        Args:
            corpus: (n, D) embeddings.
            dims: one prefix size or several, each 1 to D.

        Raises:
            TypeError, ValueError: no numbers, wrong shape, no rows, NaN or infinite (also beyond
                the prefixes), dims out of range.
        """
        self.corpus = check_matrix("corpus", corpus)
        self.full_dim = self.corpus.shape[1]
        self.dims = sorted(check_dims([dims] if np.ndim(dims) == 0 else dims, self.full_dim))
        self._prefixes = {k: np.empty((len(self), k), np.float32) for k in self.dims}
        self.lengths = np.empty(len(self), np.float32)
        step = max(1, NUMBERS // self.full_dim)
        for start in range(0, len(self), step):
            rows = to_float32(self.corpus[start : start + step])
            here = slice(start, start + len(rows))
            self.lengths[here] = lengths_of(rows, start)
            for k, prefix in self._prefixes.items():
                prefix[here] = rows[:, :k] / lengths_of(rows[:, :k], start)[:, None]

    def __len__(self) -> int:
        """Number of corpus rows."""
        return len(self.corpus)

    @property
    def nbytes(self) -> int:
        """Bytes that this index holds beside the corpus: prefixes, and one length a row."""
        return self.lengths.nbytes + sum(prefix.nbytes for prefix in self._prefixes.values())

    def prefix(self, dim: int) -> np.ndarray:
        """The contiguous (n, dim) float32 prefixes of length 1 (zero rows stay zero).

        Raises:
            ValueError: this size is not held; the message says which are.
        """
        if dim not in self._prefixes:
            raise ValueError(
                f"this index holds prefixes of {self.dims}, not {dim}; "
                f"make one with PrefixIndex(corpus, [{dim}])"
            )
        return self._prefixes[dim]

    def __repr__(self) -> str:
        """Shape, sizes and bytes."""
        return (
            f"PrefixIndex({len(self):,} x {self.full_dim}, prefixes {self.dims}, "
            f"{self.nbytes / 1e6:,.1f} MB)"
        )


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


# ------------------------------------------------------------------------- lengths of rows


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
