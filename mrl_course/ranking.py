"""How rows are compared: the machinery behind :mod:`mrl_course.search`.

Fast float32 products choose candidates; what is close to a border or in the result is computed
again in float64, row by row, so that equal rows have equal scores whatever the block or BLAS.

Rows of extreme size are divided by their largest number before anything is squared or summed, so
that neither float32 nor float64 ends. Zero rows have cosine 0 with everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from mrl_course.arguments import (
    check_count,
    check_dims,
    check_matrix,
    warn_zero_rows,
)
from mrl_course.errors import WrongKind, WrongValue

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
    scores; ``lengths`` are those of the raw rows if they are known. ``zero`` collects which rows
    were seen to be zero.
    """

    array: np.ndarray
    dim: int
    unit: np.ndarray | None = None
    lengths: np.ndarray | None = None
    zero: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """No zero rows were seen yet."""
        object.__setattr__(self, "zero", np.zeros(len(self.array), bool))

    @classmethod
    def of(cls, corpus: ArrayLike | PrefixIndex, dim: int | None = None) -> Rows:
        """Rows of an array or an index, all numbers by default; wrong input is an error."""
        if not isinstance(corpus, PrefixIndex) and callable(getattr(corpus, "search", None)):
            raise WrongKind(
                f"corpus must be an array or a PrefixIndex, got {type(corpus).__name__}, which "
                "searches by itself: call its search"
            )
        array = corpus.corpus if isinstance(corpus, PrefixIndex) else check_matrix("corpus", corpus)
        full_dim = array.shape[1]
        of = "the numbers of an embedding"
        kept: int = full_dim if dim is None else check_count("dim", dim, most=full_dim, of=of)
        if not isinstance(corpus, PrefixIndex):
            return cls(array, kept)
        if kept == full_dim and kept not in corpus.dims:
            return cls(array, kept, lengths=corpus.lengths if corpus.plain else None)
        return cls(array, kept, unit=corpus.prefix(kept))

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
        rows, lengths = self._fit(which)
        return _product(queries, rows) / lengths

    def fast_scores_at(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Float32 cosines of one (D,) query with a few rows."""
        taken, lengths = self._fit(rows)
        return (taken @ unit_rows(query[None, : self.dim])[0]) / lengths

    def _fit(self, which: slice | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Some rows as float32, and what to divide their products by."""
        rows = self.array[which, : self.dim]
        if self.lengths is not None:
            return to_float32(rows), self.lengths[which]
        rows, lengths, _ = fit_float32(rows, which)
        if not lengths.all():
            self.zero[which] |= lengths == 0
            lengths[lengths == 0] = 1
        return rows, lengths

    def exact_scores_at(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Cosines computed in float64 and rounded: what is equal on paper gets the same score."""
        scores = np.empty(len(rows), np.float32)
        step = max(1, NUMBERS // self.dim)
        query = query[: self.dim].astype(np.float64)
        length = np.sqrt(np.einsum("i,i", query, query))
        query = query / length if 1e-100 < length < 1e100 else _unit64(query[None])[0]
        for start in range(0, len(rows), step):
            here = slice(start, start + step)
            taken = self.array[rows[here], : self.dim].astype(np.float64)
            dot = np.einsum("ij,j->i", taken, query)
            square = np.einsum("ij,ij->i", taken, taken)
            if not (square.min(initial=1) > 1e-200 and square.max(initial=1) < 1e200):
                odd = np.flatnonzero(~((square > 1e-200) & (square < 1e200)))
                taken = shrunk(taken[odd])
                dot[odd] = np.einsum("ij,j->i", taken, query)
                square[odd] = np.einsum("ij,ij->i", taken, taken)
                square[square == 0] = 1
            scores[here] = np.round(dot / np.sqrt(square), DECIMALS)
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
        lengths: (n,) float32, of the full vectors; 1 for zero rows. Of a row that is divided by
            its largest number because of its extreme size, the length after that.
        plain: whether there is no such row.
    """

    def __init__(self, corpus: ArrayLike, dims: int | Sequence[int]) -> None:
        """Copy and normalise the prefixes, in blocks.

        Args:
            corpus: (n, D) embeddings.
            dims: one prefix size or several, each 1 to D.

        Warns:
            UserWarning: some rows hold only zeros in the shortest prefix: cosine 0.

        Raises:
            TypeError, ValueError: no numbers, wrong shape, no rows, NaN or infinite (also beyond
                the prefixes), dims out of range.
        """
        array = check_matrix("corpus", corpus)
        zero = self._fill(array, check_dims([dims] if np.ndim(dims) == 0 else dims, array.shape[1]))
        warn_zero_rows(self.name_of(self.dims[0]), zero)

    @classmethod
    def build(cls, array: np.ndarray, dim: int) -> tuple[PrefixIndex, np.ndarray]:
        """An index of checked things, and which prefixes are zero: for callers that warn."""
        index = cls.__new__(cls)
        return index, index._fill(array, [dim])

    def _fill(self, array: np.ndarray, dims: list[int]) -> np.ndarray:
        """Hold the prefixes; the answer is (n,) booleans, which of the shortest are zero."""
        self.corpus, self.full_dim, self.dims = array, array.shape[1], sorted(dims)
        self._prefixes = {k: np.empty((len(self), k), np.float32) for k in self.dims}
        self.lengths = np.empty(len(self), np.float32)
        self.plain = True
        zero = np.zeros(len(self), bool)
        step = max(1, NUMBERS // self.full_dim)
        for start in range(0, len(self), step):
            here = slice(start, start + step)
            _, lengths, plain = fit_float32(array[here], here)
            self.plain &= plain
            self.lengths[here] = np.where(lengths > 0, lengths, 1)
            for k, prefix in self._prefixes.items():
                rows, lengths, _ = fit_float32(array[here, :k], here)
                if not lengths.all():
                    if k == self.dims[0]:
                        zero[here] = lengths == 0
                    lengths[lengths == 0] = 1
                np.divide(rows, lengths[:, None], out=prefix[here])
        return zero

    def name_of(self, dim: int) -> str:
        """How a message calls the prefixes of the corpus."""
        return "corpus" if dim == self.full_dim else f"corpus[:, :{dim}]"

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
        dim = check_count("dim", dim)
        if dim not in self._prefixes:
            raise WrongValue(
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


def order_rows(
    query: np.ndarray, rows: Rows, numbers: np.ndarray, values: np.ndarray, keep: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best ``keep`` of a few rows, the best first, equal ones by row number."""
    if len(values) > keep:
        stay = values >= np.partition(values, -keep)[-keep] - SLACK
        numbers = numbers[stay]
    values = rows.exact_scores_at(query, numbers)
    order = np.lexsort((numbers, -values))[:keep]
    return numbers[order], values[order]


def keep_rows(
    query: np.ndarray, rows: Rows, numbers: np.ndarray, values: np.ndarray, keep: int
) -> np.ndarray:
    """The row numbers of the best ``keep``, ascending; exact scores only near the border."""
    if len(values) <= keep:
        return np.sort(numbers)
    border = np.partition(values, -keep)[-keep]
    sure = values > border + SLACK
    near = np.flatnonzero(~sure & (values >= border - SLACK))
    wanted = keep - int(sure.sum())
    settled, _ = order_rows(query, rows, numbers[near], values[near], wanted)
    return np.sort(np.concatenate([numbers[sure], settled]))


def narrow(
    query: np.ndarray, full: Rows, numbers: np.ndarray, steps: Sequence[tuple[int, int]], top_k: int
) -> tuple[np.ndarray, np.ndarray]:
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
    """A copy only where the numbers are of another kind; what is too large becomes infinite."""
    if rows.dtype == np.float32:
        return rows
    with np.errstate(over="ignore"):
        return np.asarray(rows, dtype=np.float32)


def fit_float32(rows: np.ndarray, which: slice | np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Rows as float32, their lengths (0 for zero rows), and whether all were left as they are.

    Rows whose squares float32 cannot hold are divided by their largest number, which changes no
    cosine. ``which`` tells the numbers of the rows: a NaN is an error that names its row.
    """
    narrow = to_float32(rows)
    square = np.einsum("ij,ij->i", narrow, narrow)
    lengths = np.sqrt(square)
    if square.min(initial=1) > 1e-30 and square.max(initial=1) < 1e30:  # false for NaN, too
        return narrow, lengths, True
    odd = np.flatnonzero(~((square > 1e-30) & (square < 1e30)))
    wide = rows[odd].astype(np.float64)
    finite = np.isfinite(wide).all(axis=1)
    if not finite.all():
        row = int(odd[finite.argmin()])
        row = row + which.start if isinstance(which, slice) else int(which[row])
        raise WrongValue(f"corpus holds NaN or infinite numbers, first in row {row}")
    if wide.any():
        wide = shrunk(wide)
        narrow = np.array(narrow)  # a copy: what was given stays as it is
        narrow[odd] = wide
    lengths[odd] = np.linalg.norm(wide, axis=1)
    return narrow, lengths, not wide.any()


def unit_rows(queries: np.ndarray) -> np.ndarray:
    """Float32 rows of length 1; zero rows stay zero."""
    return _unit64(queries).astype(np.float32)


def _unit64(rows: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float64)
    lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    if not (lengths.min(initial=1) > 1e-100 and lengths.max(initial=1) < 1e100):
        odd = np.flatnonzero(~((lengths > 1e-100) & (lengths < 1e100)))
        wide[odd] = shrunk(wide[odd])
        lengths[odd] = np.linalg.norm(wide[odd], axis=1)
        lengths[lengths == 0] = 1
    wide /= lengths[:, None]
    return wide


def shrunk(wide: np.ndarray) -> np.ndarray:
    """(n, D) float64 rows, each divided by its largest absolute number; zero rows stay zero."""
    peak = np.abs(wide).max(axis=1, keepdims=True)
    return wide / np.where(peak > 0, peak, 1)
