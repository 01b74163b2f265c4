"""Curves over dimensions: how good is the embedding when only its first k numbers are used?

Two tasks. *Similarity* (STS): does the cosine of two sentences rank pairs as people do?
Spearman's correlation, -1 to 1. *Retrieval*: is the right text among the first ten found?
recall@10, 0 to 1. A dot product over k numbers is the one over k - 1 plus one product, so the
scores of all prefixes come from running sums in one pass over the dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from mrl_course.arguments import check_dims, check_finite, check_matrix

_EPS = 1e-12
_BLOCK = 250_000  # scores at a time: 2 MB, so that they stay in the processor's cache
_TIE = 1e-9  # cosines closer than this are equal: float64 rounding is about 1e-15, far below


@dataclass(frozen=True)
class Curve(Mapping):
    """Scores of one model over prefix sizes: a read-only mapping from k to score.

    ``print(curve)`` shows a table, ``curve[64]`` one score, ``curve.to_frame()`` a pandas frame,
    ``curve.plot()`` a figure.

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

    def __str__(self) -> str:
        """A table of at most about 20 rows."""
        sizes = list(self.scores)
        if len(sizes) > 20:  # all D sizes: show the powers of two and the last
            sizes = [k for k in sizes if k & (k - 1) == 0 or k == sizes[-1]]
        lines = [f"{'k':>6}  {self.metric}"] + [f"{k:>6}  {self.scores[k]:.4f}" for k in sizes]
        return "\n".join(lines)

    def to_frame(self) -> pd.DataFrame:
        """Columns ``k``, ``score`` and ``retention`` (NaN where the score at D is not above 0)."""
        scores = np.array(list(self.scores.values()))
        kept = scores / self.full_score if self.full_score > 0 else np.full(len(scores), np.nan)
        return pd.DataFrame({"k": list(self.scores), "score": scores, "retention": kept})

    def plot(self, ax=None, **style):
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
        0; if all pairs have the same cosine the correlation is undefined and the score is NaN.

    Raises:
        TypeError, ValueError: wrong shapes, mismatched lengths, NaN, equal scores, bad dims.
    """
    emb1, emb2 = _embeddings("emb1", emb1), _embeddings("emb2", emb2)
    if emb1.shape != emb2.shape:
        raise ValueError(f"emb1 has shape {emb1.shape} and emb2 {emb2.shape}; they must be equal")
    target = np.asarray(scores, dtype=np.float64)
    if target.shape != (len(emb1),):
        raise ValueError(f"{len(emb1)} pairs need {len(emb1)} scores, got shape {target.shape}")
    if not np.isfinite(target).all():
        raise ValueError(f"scores hold NaN, first at pair {int(np.argmin(np.isfinite(target)))}")
    if len(target) < 2 or np.ptp(target) == 0:
        raise ValueError("scores must hold at least two different values to rank anything")
    wanted, full_dim = _sizes(dims, emb1.shape[1])
    # (n, D) running sums; column k - 1 belongs to the prefix of k numbers
    dot = np.cumsum(emb1 * emb2, axis=1)
    norms = np.sqrt(np.cumsum(emb1**2, axis=1)) * np.sqrt(np.cumsum(emb2**2, axis=1))
    cosine = dot / np.maximum(norms, _EPS)
    cosine = np.round(cosine[:, [k - 1 for k in wanted]], 9)  # equal cosines must share a rank
    values = _pearson(rankdata(cosine, axis=0), rankdata(target)[:, None])
    return _curve(wanted, values, "sts_spearman", full_dim, dims)


def retrieval_curve(
    queries: ArrayLike,
    corpus: ArrayLike,
    relevant: Sequence[int] | Sequence[Sequence[int]],
    dims: Sequence[int] | None = None,
    k: int = 10,
) -> Curve:
    """recall@k of exact search by the cosine of prefixes: what share of the right texts is found?

    Args:
        queries: (q, D) embeddings.
        corpus: (n, D) embeddings.
        relevant: for each query the corpus row that answers it, or a list of such rows.
        dims: prefix sizes in any order; all sizes 1 to D by default. The time grows with their
            number: on a corpus of thousands, ask for those you need.
        k: how many results count, 1 <= k <= n.

    Returns:
        A :class:`Curve`: the mean over queries of (relevant rows among the first k results) /
        (relevant rows), in [0, 1]. Among equal cosines the smaller row number comes first.

    Raises:
        TypeError, ValueError: wrong shapes, NaN, a query without relevant rows, a row number
            outside the corpus, k out of range, bad dims.
    """
    queries, corpus = _embeddings("queries", queries), _embeddings("corpus", corpus)
    if queries.shape[1] != corpus.shape[1]:
        raise ValueError(
            f"queries have {queries.shape[1]} numbers and the corpus {corpus.shape[1]}; "
            "both must come from the same model"
        )
    if isinstance(k, bool) or not 1 <= k <= len(corpus):
        raise ValueError(f"k must be between 1 and the corpus size {len(corpus)}, got {k!r}")
    owner, row = _relevance(relevant, len(queries), len(corpus))
    wanted, full_dim = _sizes(dims, corpus.shape[1])
    share = 1 / np.bincount(owner, minlength=len(queries))[owner] / len(queries)
    values = np.zeros(len(wanted))
    by_number = np.ascontiguousarray(corpus.T)  # (D, n): a slice of numbers is one piece of memory
    block = max(1, _BLOCK // len(corpus))
    for start in range(0, len(queries), block):
        mine = (owner >= start) & (owner < start + block)
        ranks = _ranks(
            queries[start : start + block], by_number, owner[mine] - start, row[mine], wanted
        )
        values += (ranks < k) @ share[mine]
    return _curve(wanted, values, f"retrieval_recall_at_{k}", full_dim, dims)


def retention(curve: Curve) -> Curve:
    """The share of its own full-size score that a model keeps at each k: score(k) / score(D).

    Always read it beside the absolute score: a weak model may keep 100 % of little.

    Raises:
        ValueError: the score at D is not above 0, so that a share of it means nothing.
    """
    if not curve.full_score > 0:
        raise ValueError(
            f"retention needs a full-size score above 0, got {curve.full_score} at D = "
            f"{curve.full_dim}"
        )
    kept = {k: score / curve.full_score for k, score in curve.items()}
    return Curve(kept, f"{curve.metric} retention", curve.full_dim, 1.0)


def pca_rotation(emb: ArrayLike) -> np.ndarray:
    """The rotation that moves as much of the variance as possible into the first numbers.

    ``emb @ pca_rotation(train_emb)`` has the same cosines at full size (a rotation keeps angles;
    nothing is centred), but its prefixes are the best linear summary of the *training* vectors.
    Fit it on training embeddings, never on those you test.

    Args:
        emb: (n, D) training embeddings, n >= 2.

    Returns:
        (D, D) float32 orthogonal matrix; its columns are the principal directions, the one with
        the largest variance first, signs fixed so that the largest entry is positive.

    Raises:
        TypeError, ValueError: wrong shape, NaN, fewer than 2 rows.
    """
    emb = _embeddings("emb", emb)
    if len(emb) < 2:
        raise ValueError("pca_rotation needs at least 2 rows to see any variance, got 1")
    _, axes = np.linalg.eigh(np.cov(emb, rowvar=False).reshape(emb.shape[1], -1))
    axes = axes[:, ::-1]  # eigh sorts ascending
    largest = np.abs(axes).argmax(axis=0)
    return (axes * np.sign(axes[largest, np.arange(axes.shape[1])])).astype(np.float32)


def random_dims_curve(
    curve_function: Callable[..., Curve],
    emb1: ArrayLike,
    emb2: ArrayLike,
    *labels,
    dims: Sequence[int] | None = None,
    draws: int = 5,
    seed: int = 0,
    **options,
) -> Curve:
    """The curve of k *random* numbers instead of the first k, averaged over several draws.

    If a model's prefix is no better than this, its first numbers are not special.

    Args:
        curve_function: :func:`similarity_curve` or :func:`retrieval_curve`.
        emb1, emb2: the two (n, D) arrays that function takes.
        *labels: its third argument, the scores or the relevant rows.
        dims: as in that function.
        draws: how many random orders of the D numbers to average over, at least 1.
        seed: of the orders.
        **options: passed on, for example ``k=10``.

    Raises:
        ValueError: ``draws`` below 1; and whatever the function raises.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    emb1, emb2 = _embeddings("emb1", emb1), _embeddings("emb2", emb2)
    rng = np.random.default_rng(seed)
    curves = []
    for _ in range(draws):
        order = rng.permutation(emb1.shape[1])  # a prefix of a random order is a random choice
        curves.append(curve_function(emb1[:, order], emb2[:, order], *labels, dims=dims, **options))
    mean = {k: float(np.mean([curve[k] for curve in curves])) for k in curves[0]}
    full = float(np.mean([curve.full_score for curve in curves]))
    return Curve(mean, curves[0].metric, curves[0].full_dim, full)


def _embeddings(name: str, emb: ArrayLike) -> np.ndarray:
    """(n, D) float64: running sums over many numbers lose digits in float32."""
    return check_finite(name, check_matrix(name, emb).astype(np.float64))


def _sizes(dims: Sequence[int] | None, full_dim: int) -> tuple[list[int], int]:
    """The sizes to compute, ascending, the full size always among them."""
    asked = range(1, full_dim + 1) if dims is None else check_dims(dims, full_dim)
    return sorted({*asked, full_dim}), full_dim


def _curve(wanted, values, metric, full_dim, dims) -> Curve:
    scores = dict(zip(wanted, map(float, values), strict=True))
    full_score = scores[full_dim]
    if dims is not None and full_dim not in set(map(int, dims)):
        del scores[full_dim]
    return Curve(scores, metric, full_dim, full_score)


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    spread = np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))
    with np.errstate(invalid="ignore"):
        return (x * y).sum(axis=0) / np.where(spread > 0, spread, np.nan)


def _relevance(relevant, queries: int, corpus: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (query, relevant row) as two flat arrays, in query order."""
    if len(relevant) != queries:
        raise ValueError(
            f"{queries} queries need {queries} entries in relevant, got {len(relevant)}"
        )
    owner, row = [], []
    for query, rows in enumerate(relevant):
        rows = [rows] if np.ndim(rows) == 0 and not isinstance(rows, (set, frozenset)) else rows
        rows = sorted({int(r) for r in rows})
        if not rows:
            raise ValueError(f"query {query} has no relevant row; leave such queries out")
        if rows[0] < 0 or rows[-1] >= corpus:
            bad = rows[0] if rows[0] < 0 else rows[-1]
            raise ValueError(f"query {query} names row {bad}, but the corpus has {corpus} rows")
        owner += [query] * len(rows)
        row += rows
    return np.array(owner), np.array(row)


def _ranks(queries, by_number, owner, row, sizes) -> np.ndarray:
    """(len(sizes), len(row)): how many corpus rows stand before each relevant one, 0 is best."""
    dot = np.zeros((len(queries), by_number.shape[1]))
    square = np.zeros(by_number.shape[1])
    ranks = np.empty((len(sizes), len(row)), dtype=np.int64)
    before = np.arange(by_number.shape[1]) < row[:, None]
    start = 0
    for i, k in enumerate(sizes):
        dot += queries[:, start:k] @ by_number[start:k]
        square += (by_number[start:k] ** 2).sum(axis=0)
        # A query's own norm scales all its scores alike and cannot change their order, so no
        # score is divided by it; the tie margin, which is meant for cosines, is multiplied.
        score = dot / np.maximum(np.sqrt(square), _EPS)
        margin = _TIE * np.linalg.norm(queries[:, :k], axis=1)[owner]
        mine = score[owner, row]
        if len(owner) > len(queries):
            score = score[owner]
        ahead = score > (mine + margin)[:, None]
        ahead |= before & (score >= (mine - margin)[:, None])
        ranks[i] = ahead.sum(axis=1)
        start = k
    return ranks
