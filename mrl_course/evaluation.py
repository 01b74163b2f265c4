"""Curves over dimensions: how good is the embedding when only its first k numbers are used?

Two tasks. *Similarity* (STS): does the cosine of two sentences rank pairs as people do?
Spearman's correlation, -1 to 1. *Retrieval*: is the right text among the first ten found?
recall@10, 0 to 1. A dot product over k numbers is the one over k - 1 plus one product, so the
scores of all prefixes come from running sums in one pass over the dimensions.

Neither depends on the lengths of the vectors, however small, large or different they are, nor on
the order of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from mrl_course.arguments import (
    check_count,
    check_dims,
    check_embeddings,
    check_number,
    check_relevant,
    check_same_size,
    check_seed,
    check_values,
    warn,
    warn_zero_rows,
    zero_rows,
)
from mrl_course.errors import WrongKind, WrongValue

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BLOCK = 250_000  # scores at a time: 2 MB, so that they stay in the processor's cache
_TIE = 1e-9  # cosines closer than this are equal: float64 rounding is about 1e-15, far below
_ANGLE = 2**-22  # float32 vectors, rounded 4 units in the last place apart, point the same way


@dataclass(frozen=True, eq=False)
class Curve(Mapping[int, float]):
    """Scores of one model over prefix sizes: a read-only mapping from k to score.

    ``print(curve)`` shows a table, ``curve[64]`` one score, ``curve.to_frame()`` a pandas frame,
    ``curve.plot()`` a figure. Two curves are equal, as all mappings are, if sizes and scores are;
    a curve also equals a ``dict`` that holds the same.

    Attributes:
        scores: score by k, ascending in k.
        metric: what is measured, for example ``"sts_spearman"``.
        full_dim: D, the size of the whole embedding.
        full_score: the score at D, known even where D is not among the asked sizes.
    """

    scores: dict[int, float]
    metric: str
    full_dim: int
    full_score: float = field(repr=False)

    def __getitem__(self, k: int) -> float:
        """The score at prefix size ``k``; KeyError if that size was not measured."""
        try:
            return self.scores[k]
        except KeyError:
            raise KeyError(f"k = {k} was not measured; sizes: {list(self.scores)}") from None

    def __iter__(self) -> Iterator[int]:
        """Iterate over the sizes, ascending."""
        return iter(self.scores)

    def __len__(self) -> int:
        """Number of sizes."""
        return len(self.scores)

    def __hash__(self) -> int:
        """Equal curves have equal hashes."""
        return hash(frozenset(self.scores.items()))

    def __str__(self) -> str:
        """A table of at most about 20 rows."""
        sizes = list(self.scores)
        if len(sizes) > 20:  # all D sizes: show the powers of two and the last
            sizes = [k for k in sizes if k & (k - 1) == 0 or k == sizes[-1]]
        lines = [f"{'k':>6}  {self.metric}"] + [f"{k:>6}  {self.scores[k]:.4f}" for k in sizes]
        return "\n".join(lines)

    def to_frame(self) -> pd.DataFrame:
        """Columns ``k``, ``score`` and ``retention``: score(k) / score(D).

        The retention is NaN where the score at D is not above 0: a share of it means nothing.
        """
        scores = np.array(list(self.scores.values()), np.float64)
        full = self.full_score if self.full_score > 0 else np.nan
        return pd.DataFrame({"k": list(self.scores), "score": scores, "retention": scores / full})

    def plot(self, ax: Axes | None = None, **style: Any) -> Axes:
        """Draw the curve, k on a log axis; returns the Axes."""
        from mrl_course.plots import plot_curves

        return plot_curves({style.pop("label", self.metric): self}, ax=ax, **style)


def similarity_curve(
    emb1: ArrayLike, emb2: ArrayLike, scores: ArrayLike, dims: Sequence[int] | None = None
) -> Curve:
    """Spearman's correlation between the cosine of prefixes and given scores, for each k.

    Args:
        emb1, emb2: (n, D) embeddings of the first and second sentence of n >= 2 pairs.
        scores: n numbers, how similar people find each pair; any scale.
        dims: prefix sizes in any order; all sizes 1 to D by default, in one pass.

    Returns:
        A :class:`Curve` of correlations in [-1, 1]. A pair with a zero prefix counts as cosine
        0, and a UserWarning counts rows that are zero throughout. If all pairs have the same cosine
        there is nothing to rank: the score is NaN, and a UserWarning says where.

    Raises:
        TypeError, ValueError: wrong shapes, mismatched lengths, NaN, equal scores, bad dims.
    """
    job = _similarity_job(emb1, emb2, scores, dims)
    return _without_silent_nan(job.curve(job.values(job.one, job.two)))


def retrieval_curve(
    queries: ArrayLike,
    corpus: ArrayLike,
    relevant: Sequence[int] | Sequence[Sequence[int]] | Mapping[int, Any],
    dims: Sequence[int] | None = None,
    top_k: int = 10,
) -> Curve:
    """recall@top_k of exact search by the cosine of prefixes: what share of right texts is found?

    Args:
        queries: (q, D) embeddings.
        corpus: (n, D) embeddings.
        relevant: for each query the corpus row that answers it, or a list of such rows; or
            relevance judgements, a mapping from query number to rows or to ``{row: grade}``.
        dims: prefix sizes in any order; all sizes 1 to D by default. The time grows with their
            number: on a corpus of thousands, ask for those you need.
        top_k: how many results count, 1 <= top_k <= n.

    Returns:
        A :class:`Curve`: the mean over queries of (relevant rows among the first top_k results) /
        (relevant rows), in [0, 1]. Rows with the same cosine (up to rounding of their numbers) are
        tied, and a tie is in no order: what counts is the expected value over all orders of the
        tied rows. With 3 rows tied for the last 2 places, each counts 2/3. So the score does not
        depend on the order of the corpus, as it would for sign bits, where ties are common. A zero
        vector has cosine 0 with everything, and a UserWarning counts such rows.

    Raises:
        TypeError, ValueError: wrong shapes, NaN, a query without relevant rows, a row number
            outside the corpus or given twice, top_k out of range, bad dims.
    """
    job = _retrieval_job(queries, corpus, relevant, dims, top_k)
    return job.curve(job.values(job.one, job.two))


def retention(curve: Curve) -> Curve:
    """The share of its own full-size score that a model keeps at each k: score(k) / score(D).

    Always read it beside the absolute score: a weak model may keep 100 % of little.

    Raises:
        TypeError: not a curve.
        ValueError: the score at D is not above 0, so that a share of it means nothing.
    """
    if not isinstance(curve, Curve):
        raise WrongKind(f"retention needs a Curve, which knows its score at D, got {curve!r}")
    if not curve.full_score > 0:
        raise WrongValue(
            f"retention needs a full-size score above 0, got {curve.full_score} at D = "
            f"{curve.full_dim}"
        )
    kept = dict(zip(curve, map(float, curve.to_frame().retention), strict=True))
    return Curve(kept, f"{curve.metric} retention", curve.full_dim, 1.0)


def pca_rotation(emb: ArrayLike) -> np.ndarray:
    """The rotation that moves as much of the variance as possible into the first numbers.

    ``emb @ pca_rotation(train_emb)`` has the same cosines at full size (a rotation keeps angles;
    nothing is centred), but its prefixes are the best linear summary of the *training* vectors.
    Fit it on training embeddings, never on those you test.

    Args:
        emb: (n, D) training embeddings, n >= 2. With n <= D rows at most n - 1 directions have
            any variance; the others come in no order that means something.

    Returns:
        (D, D) float32 orthogonal matrix; its columns are the principal directions, the one with
        the largest variance first, signs fixed so that the largest entry is positive. If all rows
        are equal no direction is better than another, and a UserWarning says so.

    Raises:
        TypeError, ValueError: wrong shape, NaN, fewer than 2 rows.
    """
    given = check_embeddings("emb", emb)
    if len(given) < 2:
        raise WrongValue("pca_rotation needs at least 2 rows to see any variance, got 1")
    if (given == given[0]).all():
        warn(
            f"all {len(given)} rows of emb are equal: they have no variance, and this rotation is "
            "no better than any other"
        )
    return _spectrum(given)[0].astype(np.float32)


def _spectrum(given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Principal directions as columns and their variances, the largest first."""
    # All numbers by one power of two: exact, and the squares stay within the range of floats.
    wide = given.astype(np.float64)
    wide = np.ldexp(wide, -np.frexp(np.abs(wide).max())[1])
    variances, axes = np.linalg.eigh(np.cov(wide, rowvar=False).reshape(wide.shape[1], -1))
    return fixed_signs(axes[:, ::-1]), np.maximum(variances[::-1], 0)  # eigh sorts ascending


def fixed_signs(axes: np.ndarray) -> np.ndarray:
    """Each column with the sign that makes its largest entry positive; of checked values."""
    largest = np.abs(axes).argmax(axis=0)
    return axes * np.sign(axes[largest, np.arange(axes.shape[1])])


TEMPERS = (0.0, 0.25, 0.5, 0.75, 1.0)  # the exponents that tempered PCA chooses from
_FLOOR = 1e-4  # of the largest variance; directions with less would be blown up to noise
_TEMPERED_BY = 40, 500  # rows at least, and queries at most, that choose an exponent
_TEMPERED_AMONG = 4_000  # rows that they search


def tempered_pca(emb: ArrayLike, dim: int, gamma: float | None = None, seed: int = 0) -> np.ndarray:
    """PCA whose directions are scaled by a power of their variance: between PCA and whitening.

    ``emb @ tempered_pca(train_emb, k)`` are k numbers each. PCA (``gamma=0``) lets the loudest
    directions rule every cosine, whitening (``gamma=1``) makes all equally loud, noise included;
    between them lies an optimum that needs no labels to find ("Spectral Tempering", Li,
    Eustratiadis & Kanoulas 2026, https://arxiv.org/abs/2603.19339). Unlike a rotation this
    changes the cosines of full vectors, and each k has an exponent of its own.

    Args:
        emb: (n, D) training embeddings, n >= 40, or n >= 2 if ``gamma`` is given.
        dim: how many numbers to keep, 1 to D.
        gamma: the exponent, 0 to 1: direction j is multiplied by its variance to the power
            ``-gamma / 2``. By default that of 0, 0.25, 0.5, 0.75, 1 with which held-out rows keep
            most of their ten nearest neighbours.
        seed: which rows are held out: a tenth, at least 20 and at most 500.

    Returns:
        (D, dim) float32; columns are scaled directions, the first one has length 1.

    Raises:
        TypeError, ValueError: wrong shape, NaN, too few rows, ``dim`` or ``gamma`` out of range.
    """
    given, seed = check_embeddings("emb", emb), check_seed(seed)
    dim = check_count("dim", dim, most=given.shape[1], of="the numbers of an embedding")
    if gamma is not None:
        gamma = check_number("gamma", gamma, least=0, most=1)
        if len(given) < 2:
            raise WrongValue("tempered_pca needs at least 2 rows to see any variance, got 1")
    elif len(given) < _TEMPERED_BY[0]:
        raise WrongValue(
            f"{len(given)} rows are too few to choose gamma with, at least {_TEMPERED_BY[0]} are "
            "needed; give gamma"
        )
    else:
        gamma = _best_temper(given, dim, seed)
    rotation, variances = _spectrum(given)
    return (rotation * tempered_scales(variances, gamma))[:, :dim].astype(np.float32)


def _best_temper(emb: np.ndarray, dim: int, seed: int) -> float:
    """The exponent with which held-out rows keep most of their ten nearest among the others."""
    least, most = 20, _TEMPERED_BY[1]
    order = np.random.default_rng(seed).permutation(len(emb))
    held = min(max(least, len(emb) // 10), most)
    asked, rest = emb[order[:held]], emb[order[held:]]
    rotation, variances = _spectrum(rest)
    rest = rest[:_TEMPERED_AMONG]
    wanted = _nearest(asked, rest)
    kept = []
    for gamma in TEMPERS:
        change = (rotation * tempered_scales(variances, gamma))[:, :dim]
        found = _nearest(_unit_wide(asked) @ change, _unit_wide(rest) @ change)
        kept.append((found[:, :, None] == wanted[:, None, :]).any(axis=2).mean())
    return TEMPERS[int(np.argmax(kept))]


def _nearest(queries: np.ndarray, corpus: np.ndarray) -> np.ndarray:
    """(q, 10) rows with the largest cosines, in no order."""
    cosines = _unit_wide(queries) @ _unit_wide(corpus).T
    top_k = min(10, len(corpus))
    return np.argpartition(-cosines, top_k - 1, axis=1)[:, :top_k]


def _unit_wide(emb: np.ndarray) -> np.ndarray:
    """(n, D) float64 rows of length 1; zero rows stay zero."""
    wide = _wide(emb)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return wide / np.where(lengths > 0, lengths, 1)


def tempered_scales(variances: np.ndarray, gamma: float) -> np.ndarray:
    """(D,) what tempered PCA multiplies its directions by, 1 for the first; of checked values."""
    largest = max(float(variances.max()), 1e-300)
    return np.maximum(variances / largest, _FLOOR) ** (-gamma / 2)


def random_dims_curve(
    curve_function: Callable[..., Curve],
    emb1: ArrayLike,
    emb2: ArrayLike,
    *labels: Any,
    dims: Sequence[int] | None = None,
    draws: int = 5,
    seed: int = 0,
    **options: Any,
) -> Curve:
    """The curve of k *random* numbers instead of the first k, averaged over several draws.

    If a model's prefix is no better than this, its first numbers are not special.

    Args:
        curve_function: :func:`similarity_curve` or :func:`retrieval_curve`.
        emb1, emb2: the two (n, D) arrays that function takes.
        *labels: its third argument, the scores or the relevant rows.
        dims: as in that function.
        draws: how many random orders of the D numbers to average over, at least 1.
        seed: of the orders, at least 0.
        **options: passed on, for example ``top_k=10``.

    Raises:
        TypeError, ValueError: ``draws`` below 1, another function; and whatever the function
            raises.
    """
    draws, seed = check_count("draws", draws), check_seed(seed)
    if curve_function is similarity_curve:
        job = _similarity_job(emb1, emb2, *labels, dims=dims, **options)
    elif curve_function is retrieval_curve:
        job = _retrieval_job(emb1, emb2, *labels, dims=dims, **options)
    else:
        raise WrongKind(
            f"curve_function must be similarity_curve or retrieval_curve, got {curve_function!r}"
        )
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(job.one.shape[1]) for _ in range(draws)]
    # A prefix of a random order is a random choice.
    values = [job.values(job.one[:, order], job.two[:, order]) for order in orders]
    return _without_silent_nan(job.curve(np.mean(values, axis=0)))


# --------------------------------------------------------------- arguments, checked once


@dataclass(frozen=True)
class _Job:
    """What a curve is computed from, after all checks.

    ``measure(one, two, sizes)`` takes the arrays with as many numbers as the last size, and gives
    one score a size. ``sizes`` ascend and end with D; ``asked`` are those for the curve.
    """

    one: np.ndarray
    two: np.ndarray
    sizes: list[int]
    asked: set[int]
    metric: str
    measure: Callable[[np.ndarray, np.ndarray, list[int]], np.ndarray]

    def values(self, one: np.ndarray, two: np.ndarray) -> np.ndarray:
        """One score for each of ``sizes``."""
        groups = [self.sizes]
        if _underflows(one, self.sizes[0]) or _underflows(two, self.sizes[0]):
            groups = [[k] for k in self.sizes]  # each prefix brought into range for itself
        scores = [self.measure(_wide(one[:, : g[-1]]), _wide(two[:, : g[-1]]), g) for g in groups]
        return np.concatenate(scores)

    def curve(self, values: np.ndarray) -> Curve:
        """The scores of the asked sizes as a curve."""
        scores = dict(zip(self.sizes, map(float, values), strict=True))
        asked = {k: score for k, score in scores.items() if k in self.asked}
        return Curve(asked, self.metric, self.sizes[-1], scores[self.sizes[-1]])


def _similarity_job(
    emb1: ArrayLike, emb2: ArrayLike, scores: ArrayLike, dims: Sequence[int] | None = None
) -> _Job:
    one, two = check_embeddings("emb1", emb1), check_embeddings("emb2", emb2)
    if one.shape != two.shape:
        raise WrongValue(f"emb1 has shape {one.shape} and emb2 {two.shape}; they must be equal")
    target = check_values("scores", scores, len(one), "pairs")
    if (target == target[0]).all():
        raise WrongValue(
            f"scores must hold at least two different values to rank anything, all are {target[0]}"
        )
    sizes, asked = _sizes(dims, one.shape[1])
    warn_zero_rows("emb1", zero_rows(one), emb2=zero_rows(two))
    ranks = rankdata(target)

    def measure(one: np.ndarray, two: np.ndarray, sizes: list[int]) -> np.ndarray:
        by_size = np.ascontiguousarray(_cosines(one, two, sizes).T)  # ranked a third faster
        return _pearson(rankdata(by_size, axis=1), ranks)

    return _Job(one, two, sizes, asked, "sts_spearman", measure)


def _retrieval_job(
    queries: ArrayLike,
    corpus: ArrayLike,
    relevant: Any,
    dims: Sequence[int] | None = None,
    top_k: int = 10,
) -> _Job:
    one, two = check_embeddings("queries", queries), check_embeddings("corpus", corpus)
    check_same_size("queries", one, "the corpus", two.shape[1])
    top_k = check_count("top_k", top_k, most=len(two), of="the rows of the corpus")
    rows = check_relevant(relevant, len(one), len(two))
    sizes, asked = _sizes(dims, two.shape[1])
    warn_zero_rows("queries", zero_rows(one), corpus=zero_rows(two))
    owner = np.repeat(np.arange(len(rows)), [len(mine) for mine in rows])
    row = np.concatenate(rows)
    angle = _ANGLE if two.dtype.kind == "f" and two.dtype.itemsize <= 4 else 0.0

    def measure(queries: np.ndarray, corpus: np.ndarray, sizes: list[int]) -> np.ndarray:
        return _recalls(queries, corpus, owner, row, sizes, top_k, angle)

    return _Job(one, two, sizes, asked, f"retrieval_recall_at_{top_k}", measure)


def _sizes(dims: Sequence[int] | None, full_dim: int) -> tuple[list[int], set[int]]:
    """The sizes to compute, ascending, the full size always among them; and those asked for."""
    asked = set(range(1, full_dim + 1) if dims is None else check_dims(dims, full_dim))
    return sorted({*asked, full_dim}), asked


def _without_silent_nan(curve: Curve) -> Curve:
    """The curve, after a warning where it has no correlation."""
    nan = [k for k, score in {curve.full_dim: curve.full_score, **curve}.items() if score != score]
    if nan:
        sizes = ", ".join(map(str, sorted(nan)[:5])) + (", ..." if len(nan) > 5 else "")
        warn(
            f"all pairs have the same cosine at k = {sizes}: there is nothing to rank, and the "
            "score is NaN; are all vectors equal, or of one number?"
        )
    return curve


# ------------------------------------------------------------------------- running sums


def _wide(emb: np.ndarray) -> np.ndarray:
    """(n, D) float64, since running sums lose digits in float32; no square leaves its range.

    Rows of extreme size are multiplied by a power of two, which is exact and changes no cosine.
    """
    wide = emb.astype(np.float64)
    if emb.dtype == np.float64:  # the squares of all others fit
        peak = np.maximum(wide.max(axis=1), -wide.min(axis=1))
        odd = (peak < 1e-100) | (peak > 1e100)
        if odd.any():
            wide[odd] = np.ldexp(wide[odd], -np.frexp(peak[odd])[1][:, None])
    return wide


def _underflows(emb: np.ndarray, first: int) -> bool:
    """Whether a row begins so much smaller than it goes on that squares would become 0."""
    if emb.dtype != np.float64:
        return False
    begin = np.abs(emb[:, :first]).max(axis=1)
    small = np.abs(emb[begin < 1e-100])
    return bool(((small > 0) & (small < 1e-100 * small.max(axis=1, keepdims=True))).any())


def _cosines(one: np.ndarray, two: np.ndarray, sizes: list[int]) -> np.ndarray:
    """(n, sizes): of each pair, rounded, since cosines that are equal must share a rank."""
    every = len(sizes) == one.shape[1]
    columns = slice(None) if every else [k - 1 for k in sizes]  # of the (n, D) running sums
    cosine = np.cumsum(one * two, axis=1)[:, columns]
    norms = np.sqrt(np.cumsum(one**2, axis=1)[:, columns])
    norms *= np.sqrt(np.cumsum(two**2, axis=1)[:, columns])
    norms[norms == 0] = 1
    cosine /= norms
    return np.round(cosine, 9, out=cosine)


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of each row of (sizes, n) with (n,); NaN where a row holds one value only."""
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean()
    spread = np.sqrt((x**2).sum(axis=1) * (y**2).sum())
    r = x @ y / np.where(spread > 0, spread, np.nan)
    return np.clip(r, -1, 1)  # rounding may go beyond


def _recalls(
    queries: np.ndarray,
    corpus: np.ndarray,
    owner: np.ndarray,
    row: np.ndarray,
    sizes: list[int],
    top_k: int,
    angle: float,
) -> np.ndarray:
    """recall@top_k at each size; ``owner`` and ``row`` are the pairs (query, relevant row)."""
    by_number = np.ascontiguousarray(corpus.T)  # (D, n): a slice of numbers is one piece of memory
    lengths = _lengths(by_number, sizes)
    count = np.bincount(owner)
    shares = np.empty((len(sizes), len(queries)))
    block = max(1, _BLOCK // len(corpus))
    for start in range(0, len(queries), block):
        here = slice(start, start + block)
        mine = (owner >= start) & (owner < start + block)
        pairs = owner[mine] - start, row[mine]
        chances = _chances(queries[here], by_number, lengths, pairs, sizes, top_k, angle)
        first = np.cumsum(count[here]) - count[here]  # the pairs of a query stand side by side
        shares[:, here] = np.add.reduceat(chances, first, axis=1) / count[here]
    return np.minimum(shares.mean(axis=1), 1)  # a mean of many may be rounded up


def _lengths(by_number: np.ndarray, sizes: list[int]) -> np.ndarray:
    """(sizes, n): of the prefixes of all rows, 1 for zero ones."""
    lengths = np.empty((len(sizes), by_number.shape[1]))
    square, start = np.zeros(by_number.shape[1]), 0
    for i, k in enumerate(sizes):
        square += np.einsum("ij,ij->j", by_number[start:k], by_number[start:k])
        lengths[i], start = np.sqrt(np.where(square > 0, square, 1)), k
    return lengths


def _chances(
    queries: np.ndarray,
    by_number: np.ndarray,
    lengths: np.ndarray,
    pairs: tuple[np.ndarray, np.ndarray],
    sizes: list[int],
    top_k: int,
    angle: float,
) -> np.ndarray:
    """(sizes, pairs): how likely each relevant row is among the first top_k, ties in any order."""
    owner, row = pairs
    dot = np.zeros((len(queries), by_number.shape[1]))
    chances = np.ones((len(sizes), len(row)))
    start = 0
    for i, k in enumerate(sizes):
        dot += queries[:, start:k] @ by_number[start:k]
        # A query's own norm scales all its scores alike and cannot change their order, so no
        # score is divided by it; the margins, which are meant for cosines, are multiplied.
        score = dot / lengths[i]
        norm = np.linalg.norm(queries[:, :k], axis=1)[owner]
        mine = score[owner, row]
        # Turned by a small angle a cosine changes by the angle times the sine.
        sine = np.sqrt(np.maximum(norm**2 - mine**2, 0))
        margin = np.maximum(_TIE * norm, angle * sine)
        if len(owner) > len(queries):
            score = score[owner]
        reach = _count(score >= (mine - margin)[:, None])  # ahead, or tied with it (or itself)
        late = np.flatnonzero(reach > top_k)
        ahead = _count(score[late] > (mine + margin)[late, None])
        chances[i, late] = np.clip((top_k - ahead) / (reach[late] - ahead), 0, 1)
        start = k
    return chances


def _count(rows: np.ndarray) -> np.ndarray:
    """How many booleans are true in each row."""
    return rows.sum(axis=1)
