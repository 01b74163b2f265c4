"""What comes in: arrays, files and streams of blocks -> a sample of rows, and mean and covariance.

Everything is read once, in blocks, whatever its size: a memory-mapped file of a million rows or a
generator of ten million. What stays in memory is a sample that a fit can use up, and one (D, D)
matrix.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from scipy.sparse import bmat, coo_matrix
from scipy.sparse.csgraph import connected_components

from mrl_course.arguments import (
    check_finite,
    check_matrix,
    check_number,
    warn,
    warn_zero_rows,
)
from mrl_course.errors import WrongKind, WrongValue
from mrl_course.evaluation import fixed_signs
from mrl_course.ranking import unit_rows

BLOCK = 16_384  # rows mapped or read at a time
MOST_ROWS = 50_000  # that a fit uses; 200 steps of 384 rows see each once or twice
MOST_NUMBERS = 2**26  # of them: 256 MB
LEAST_ROWS = 40
LEAST_JUDGES = 20
ENOUGH_TO_CHOOSE = 100  # distinct rows; below that PCA is all that can be had
MOST_JUDGES = 500  # rows that search to make a report: known to about 0.01
_SMALL = 1_024  # rows whose products are summed in float32


def is_stream(emb: Any) -> bool:
    """Whether something gives blocks of rows, one after the other: a generator, an iterator."""
    return hasattr(emb, "__next__") and not hasattr(emb, "shape")


def blocks_of(name: str, emb: Any, full_dim: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """(number of the first row, (n, D) block) of a checked array or an unchecked stream.

    Raises:
        WrongKind, WrongValue: a block of a stream has another size or holds no numbers; NaN.
    """
    first = 0
    for block in emb if is_stream(emb) else _slices(emb):
        array = check_matrix(name, block) if is_stream(emb) else block
        full_dim = array.shape[1] if full_dim is None else full_dim
        if array.shape[1] != full_dim:
            raise WrongValue(
                f"the block of {name} that begins at row {first} has {array.shape[1]} numbers a "
                f"row, expected {full_dim}"
            )
        for start in range(0, len(array), BLOCK):
            part = array[start : start + BLOCK]
            yield first + start, check_finite(name, part, first + start)
        first += len(array)


def _slices(array: np.ndarray) -> Iterable[np.ndarray]:
    return (array[start : start + BLOCK] for start in range(0, len(array), BLOCK))


class Moments:
    """Mean and covariance of rows that come in blocks, in memory for one (D, D) matrix.

    Products are summed in float32 over few rows, and in float64 over all. What is squared is the
    difference from the first block's mean, so that nothing is lost where all vectors are close to
    one direction.
    """

    def __init__(self, full_dim: int) -> None:
        """Nothing was seen yet."""
        self.count = 0
        self._shift: np.ndarray | None = None
        self._sum = np.zeros(full_dim)
        self._square = np.zeros((full_dim, full_dim))

    def add(self, rows: np.ndarray, sign: int = 1) -> Moments:
        """Count (n, D) float32 rows, or take them out again with ``sign=-1``."""
        if self._shift is None:
            self._shift = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        for start in range(0, len(rows), _SMALL):
            part = rows[start : start + _SMALL] - self._shift
            self._sum += sign * part.sum(axis=0, dtype=np.float64)
            self._square += sign * (part.T @ part)
            self.count += sign * len(part)
        return self

    @property
    def mean(self) -> np.ndarray:
        """(D,) float64."""
        assert self._shift is not None
        return self._shift + self._sum / self.count

    def covariance(self) -> np.ndarray:
        """(D, D) float64."""
        away = self._sum / self.count
        return self._square / self.count - np.outer(away, away)


def principal_axes(
    moments: Moments, rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rotation and variances, the largest first.

    Args:
        moments: of the rows.
        rows: (n, D), all the rows there are. With n < D their products are decomposed, an (n, n)
            matrix, and the directions without variance are completed to a rotation.

    Returns:
        (D, D) float32, columns are directions, signs fixed so that the largest entry is positive;
        and (D,) float64 variances.
    """
    full_dim = len(moments.mean)
    if rows is not None and len(rows) < full_dim:
        centred = rows - moments.mean
        values, vectors = np.linalg.eigh(centred @ centred.T / len(rows))
        keep = values > 1e-10 * max(values[-1], 1e-30)
        axes = centred.T @ vectors[:, keep][:, ::-1]
        values = values[keep][::-1]
        axes, triangle = np.linalg.qr(axes, mode="complete")
        axes[:, : len(values)] *= np.sign(np.diag(triangle))
        values = np.concatenate([values, np.zeros(full_dim - len(values))])
    else:
        values, axes = np.linalg.eigh(moments.covariance())
        values, axes = values[::-1], axes[:, ::-1]
    return fixed_signs(axes).astype(np.float32), np.maximum(values, 0)


# ------------------------------------------------------------------------- one pass over all rows


@dataclass
class Collected:
    """What one pass over all rows leaves.

    Attributes:
        parts: float32 unit rows of a sample, one array or several that belong together.
        numbers: their row numbers.
        moments: of all rows, where the sample is not all of them; else None.
    """

    parts: list[np.ndarray]
    numbers: np.ndarray
    moments: Moments | None


@dataclass
class Source:
    """Arrays that were checked, or one stream whose first block was."""

    names: tuple[str, ...]
    arrays: list[Any]
    full_dim: int


def collect(source: Source, seed: int) -> Collected:
    """Look at every row once: NaN is an error, zero rows are counted, a random sample is kept.

    Args:
        source: what :func:`open_source` gave.
        seed: of the sample; the same rows are kept whatever the size of the blocks.

    Raises:
        WrongKind, WrongValue: NaN; a block of a stream without numbers or of another size.
    """
    names, sources = source.names, source.arrays
    unknown = is_stream(sources[0])
    streams = [blocks_of(name, source) for name, source in zip(names, sources, strict=True)]
    sample, moments, zeros = _Sample(seed), None, []
    for pieces in zip(*streams, strict=True):
        first, rows = pieces[0][0], [unit_rows(block) for _, block in pieces]
        full = np.all([part.any(axis=1) for part in rows], axis=0)
        zeros.append(~full)
        if not full.all():
            rows = [part[full] for part in rows]
        sample.add(first + np.flatnonzero(full), rows)
        if unknown or len(sources[0]) > sample.most:
            moments = moments or Moments(rows[0].shape[1])
            for part in rows:
                moments.add(part)
    warn_zero_rows("embeddings", np.concatenate(zeros))
    numbers, parts = sample.finish()
    return Collected(parts, numbers, moments if sample.dropped else None)


def open_source(embeddings: Any) -> Source:
    """One array or stream, or two or three arrays that belong together row by row.

    Raises:
        WrongKind, WrongValue: no numbers, wrong or different shapes, an empty stream.
    """
    if is_stream(embeddings):
        first = next(embeddings, None)
        if first is None:
            raise WrongValue("embeddings gave no blocks: is the stream used up?")
        array = check_matrix("embeddings", first)
        return Source(("embeddings",), [chain([array], embeddings)], array.shape[1])
    alone = not isinstance(embeddings, tuple)
    names = ("embeddings",) if alone else ("queries", "documents", "negatives")
    given = (embeddings,) if alone else embeddings
    if not alone and not 2 <= len(given) <= 3:
        raise WrongValue(
            "give one array, or a tuple (queries, documents) or (queries, documents, negatives); "
            f"got a tuple of {len(given)}"
        )
    names = names[: len(given)]
    if any(map(is_stream, given)):
        raise WrongKind("pairs come as arrays, in memory or memory-mapped; not as streams")
    arrays = [check_matrix(name, x) for name, x in zip(names, given, strict=True)]
    if len({x.shape for x in arrays}) > 1:
        shapes = ", ".join(f"{name} {x.shape}" for name, x in zip(names, arrays, strict=True))
        raise WrongValue(f"row i of each belongs together, but their shapes differ: {shapes}")
    return Source(names, arrays, arrays[0].shape[1])


class _Sample:
    """A random sample of rows that come in blocks, of a number that nobody knows yet.

    Each row draws a number, and those with the smallest stay.
    """

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng([seed, 1])
        self._keys: list[np.ndarray] = []
        self._numbers: list[np.ndarray] = []
        self._parts: list[list[np.ndarray]] = []
        self._highest, self.most, self.dropped = np.inf, MOST_ROWS, False

    def add(self, numbers: np.ndarray, rows: list[np.ndarray]) -> None:
        """Offer some rows."""
        self.most = min(MOST_ROWS, max(LEAST_ROWS, MOST_NUMBERS // (rows[0].shape[1] * len(rows))))
        keys = self._rng.random(len(numbers))
        stay = keys < self._highest
        self.dropped |= not stay.all()
        self._keys.append(keys[stay])
        self._numbers.append(numbers[stay])
        self._parts.append([part[stay] for part in rows])
        if sum(map(len, self._keys)) > 2 * self.most:
            self._shrink()

    def _shrink(self) -> None:
        """Put the pieces together, and let those beyond the most go."""
        keys, numbers = np.concatenate(self._keys), np.concatenate(self._numbers)
        stay: slice | np.ndarray = slice(None)
        if len(keys) > self.most:
            stay = np.sort(np.argpartition(keys, self.most)[: self.most])
            self._highest, self.dropped = float(keys[stay].max()), True
        self._keys, self._numbers = [keys[stay]], [numbers[stay]]
        self._parts = [[np.concatenate(pieces)[stay] for pieces in zip(*self._parts, strict=True)]]

    def finish(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """Row numbers, ascending, and the rows."""
        self._shrink()
        return self._numbers[0], self._parts[0]


# ------------------------------------------------------------------------------- who does what


@dataclass
class Split:
    """Places in the sample: rows to fit, to choose a recipe with, and to make the report with."""

    fit: np.ndarray
    choose: np.ndarray
    judge: np.ndarray


def split(parts: list[np.ndarray], held_out: float | int | None, seed: int) -> Split:
    """Divide the distinct rows; no vector stands on two sides.

    Repetitions are on no side. A vector that belongs to several others (a document with many
    queries) is on one side only, with all of them, or the report would praise memory.

    Raises:
        WrongValue: too few distinct rows, or ``held_out`` out of range.
    """
    rows, group = _distinct(parts)
    n = len(rows)
    if n < LEAST_ROWS:
        raise WrongValue(
            f"{n} different directions among {len(parts[0])} rows are too few to learn from; give "
            f"at least {LEAST_ROWS}, better thousands"
        )
    count = _held_out(held_out, n)
    rng = np.random.default_rng(seed)
    place = np.argsort(rng.permutation(group.max() + 1))[group]  # of each group in a random order
    order = np.argsort(place, kind="stable")
    sizes = np.bincount(place)
    held = _groups_that_fit(sizes, count)
    choosing = np.zeros(len(sizes), bool)
    if n >= ENOUGH_TO_CHOOSE:
        choosing[~held] = _groups_that_fit(sizes[~held], min(max(10, n // 10), MOST_JUDGES))
    judge, choose = (rows[order[np.repeat(side, sizes)]] for side in (held, choosing))
    fit = rows[order[np.repeat(~held & ~choosing, sizes)]]
    if len(judge) < LEAST_JUDGES:
        raise WrongValue(
            "no rows can be held out: nearly all hang together, because a few vectors belong to "
            f"most rows ({group.max() + 1} groups). Fit on the different vectors alone, for "
            "example fit_head(documents)"
        )
    return Split(np.sort(fit), np.sort(choose), np.sort(judge))


def _held_out(held_out: float | int | None, n: int) -> int:
    if held_out is None:
        return max(LEAST_JUDGES, n // 10)
    held_out = check_number("held_out", held_out, above=0)
    count = round(n * held_out) if held_out < 1 else int(held_out)
    if not LEAST_JUDGES <= count <= n // 2:
        raise WrongValue(
            f"held_out must leave {LEAST_JUDGES} to {n // 2} of {n} distinct rows, got "
            f"{held_out:g}, which is {count}"
        )
    return count


def _groups_that_fit(sizes: np.ndarray, count: int) -> np.ndarray:
    """Which groups, in the given order, are held out: about ``count`` rows, none over a half."""
    held, total = np.zeros(len(sizes), bool), 0
    for i, size in enumerate(sizes.tolist()):
        if total >= count:
            break
        if total + size <= max(count, LEAST_JUDGES) * 1.5:
            held[i], total = True, total + size
    return held


def distinct_rows(parts: list[np.ndarray]) -> np.ndarray:
    """Places of the rows that count, ascending: nothing twice; a warning says how many are left."""
    return _without_repetition([_codes(x) for x in parts])


def _without_repetition(keys: list[np.ndarray]) -> np.ndarray:
    _, first = np.unique(np.stack(keys, axis=1), axis=0, return_index=True)
    repeated = len(keys[0]) - len(first)
    if repeated:
        warn(
            f"{repeated} of {len(keys[0])} rows repeat another one; each distinct "
            f"{'vector' if len(keys) == 1 else 'pair'} counts once"
        )
    return np.sort(first)


def _distinct(parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rows that count, and the group of each.

    Two rows are in one group if they share a vector in one of the arrays, or if others join them.
    """
    keys = [_codes(x) for x in parts]
    rows = _without_repetition(keys)
    if len(parts) == 1 or not len(rows):
        return rows, np.arange(len(rows))
    ends = [key[rows] for key in keys]
    shift = np.cumsum([0] + [end.max() + 1 for end in ends])
    nodes = np.concatenate([end + s for end, s in zip(ends, shift, strict=False)])
    owner = np.tile(np.arange(len(rows)), len(ends))
    graph = coo_matrix((np.ones(len(nodes)), (owner, nodes)), (len(rows), shift[-1])).tocsr()
    square = coo_matrix((len(rows), len(rows)))
    both = bmat([[square, graph], [graph.T, None]])
    _, component = connected_components(both, directed=False)
    return rows, np.unique(component[: len(rows)], return_inverse=True)[1]


def _codes(emb: np.ndarray) -> np.ndarray:
    """A number for each unit row, the same for the same row."""
    codes, known = np.empty(len(emb), np.int64), {}
    for i, row in enumerate(emb):
        key = hashlib.blake2b((row + 0.0).tobytes(), digest_size=16).digest()  # no -0.0
        codes[i] = known.setdefault(key, len(known))
    return codes
