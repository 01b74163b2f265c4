"""What a vector knows about groups: neighbours, clusters, pictures and recommendations.

All similarities are cosines. To ask about the first k numbers, pass ``emb[:, :k]``: the rows are
normalised here, after the cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mrl_course.arguments import (
    check_count,
    check_dims,
    check_embeddings,
    check_labels,
    check_list,
    check_number,
    check_numbers,
    check_rows,
    check_seed,
    warn_zero_rows,
    zero_rows,
)
from mrl_course.errors import WrongKind, WrongValue
from mrl_course.ranking import PrefixIndex, unit_rows
from mrl_course.search import Neighbours, exact_search, truncate


class ClusterScores(NamedTuple):
    """How well clusters agree with known groups; both numbers lie in [0, 1].

    Attributes:
        purity: share of rows whose group is the most frequent one in their cluster. It grows with
            the number of clusters, and is 1 when each row is a cluster of its own.
        nmi: normalised mutual information, 0 when clusters and groups have nothing to do with
            each other, 1 when they are the same.
    """

    purity: float
    nmi: float


def nearest_rows(emb: ArrayLike, top_k: int = 10) -> np.ndarray:
    """The ``top_k`` rows most similar to each row, itself left out.

    Args:
        emb: (n, D) embeddings or prefixes.
        top_k: how many, 1 <= top_k < n.

    Returns:
        (n, top_k) int64 row numbers, the most similar first, equal cosines by row number.

    Raises:
        WrongKind, WrongValue: wrong shape, NaN, ``top_k`` out of range.
    """
    emb = check_embeddings("emb", emb)
    top_k = check_count("top_k", top_k, most=len(emb) - 1, of="the other rows")
    found = exact_search(emb, emb, top_k=top_k + 1).indices
    other = found != np.arange(len(emb))[:, None]
    other[other.all(axis=1), -1] = False  # a row with many equals need not have found itself
    return found[other].reshape(len(emb), top_k)


def neighbour_overlap(emb: ArrayLike, reference: ArrayLike, top_k: int = 10) -> float:
    """The share of each row's neighbours that are the same in two spaces, averaged over rows.

    ``neighbour_overlap(emb[:, :k], emb)`` says how much of a neighbourhood a cut leaves alone. No
    labels are needed. Expect top_k / (n - 1) by chance.

    Args:
        emb: (n, D) vectors, for example prefixes.
        reference: (n, D') vectors of the same n items, for example the full ones.
        top_k: how many neighbours count, 1 <= top_k < n.

    Returns:
        A number in [0, 1]; the order among the neighbours does not matter.

    Raises:
        WrongKind, WrongValue: wrong shapes, NaN, ``top_k`` out of range.
    """
    emb, reference = check_embeddings("emb", emb), check_embeddings("reference", reference)
    if len(emb) != len(reference):
        raise WrongValue(
            f"emb has {len(emb)} rows and reference {len(reference)}; both must hold the same items"
        )
    first, second = nearest_rows(emb, top_k), nearest_rows(reference, top_k)
    return share_in_both(first, second)


def share_in_both(first: np.ndarray, second: np.ndarray) -> float:
    """Two (n, m) arrays of row numbers, none twice in a row -> the mean share that rows share.

    Raises:
        WrongKind, WrongValue: no integers, or shapes that differ.
    """
    first, second = check_numbers("first", first), check_numbers("second", second)
    for name, numbers in (("first", first), ("second", second)):
        if numbers.dtype.kind not in "iu":
            raise WrongKind(f"{name} must hold row numbers (integers), got dtype {numbers.dtype}")
    if first.ndim != 2 or first.shape != second.shape or not first.size:
        raise WrongValue(
            "first and second must have one shape (n, m), n and m >= 1, got "
            f"{first.shape} and {second.shape}"
        )
    return float((first[:, :, None] == second[:, None, :]).any(axis=2).mean())


def neighbour_agreement(emb: ArrayLike, labels: Sequence, top_k: int = 10) -> float:
    """The share of each row's neighbours that carry its own label, averaged over rows.

    Compare it with :func:`label_chance`: with few labels, chance alone gives much.

    Args:
        emb: (n, D) vectors.
        labels: n labels, strings or numbers.
        top_k: how many neighbours count, 1 <= top_k < n.

    Returns:
        A number in [0, 1].

    Raises:
        WrongKind, WrongValue: wrong shapes, NaN, ``top_k`` out of range.
    """
    emb = check_embeddings("emb", emb)
    codes = check_labels("labels", labels, len(emb))
    return float((codes[nearest_rows(emb, top_k)] == codes[:, None]).mean())


def score_clusters(clusters: Sequence | np.ndarray, labels: Sequence | np.ndarray) -> ClusterScores:
    """Purity and normalised mutual information of clusters against known groups.

    Args:
        clusters: the cluster of each of n rows, numbers or strings.
        labels: the group of each row.

    Returns:
        :class:`ClusterScores`. NMI is the mutual information over the mean of the two entropies;
        if clusters and groups are both a single one, it is 1.

    Raises:
        WrongKind: labels that are neither all integers nor all strings: 1 and 1.0 would be two
            groups.
        WrongValue: no rows, or different lengths.
    """
    from sklearn.metrics import normalized_mutual_info_score

    first = check_labels("clusters", clusters, None)
    second = check_labels("labels", labels, len(first))
    counts = np.zeros((first.max() + 1, second.max() + 1))  # rows: clusters, columns: groups
    np.add.at(counts, (first, second), 1)
    purity = float(counts.max(axis=1).sum() / len(first))
    return ClusterScores(purity, float(normalized_mutual_info_score(second, first)))


def cluster(emb: ArrayLike, groups: int, seed: int = 0, restarts: int = 5) -> np.ndarray:
    """k-means on vectors of length 1, where the nearest centre is the one most alike in direction.

    Args:
        emb: (n, D) vectors; normalised here.
        groups: how many clusters, 1 <= groups <= n.
        seed: of the starts.
        restarts: how many starts; the tightest result is kept.

    Returns:
        (n,) int64 cluster numbers from 0.

    Raises:
        WrongKind, WrongValue: wrong shape, NaN, ``groups`` out of range.
    """
    emb = check_embeddings("emb", emb)
    groups = check_count("groups", groups, most=len(emb), of="the rows")
    restarts = check_count("restarts", restarts, most=1000, of="a sensible number of starts")
    return _k_means(truncate(emb, emb.shape[1]), groups, check_seed(seed), restarts)


def _k_means(unit: np.ndarray, groups: int, seed: int, restarts: int = 5) -> np.ndarray:
    """:func:`cluster` of rows of length 1 or 0, of arguments that were checked."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    starts: Any = restarts  # the default is a string, so type checkers expect one
    means = KMeans(groups, n_init=starts, random_state=seed)
    # One thread: the order of sums, and so the result, must not depend on how many there are. For
    # some thousand rows it is no slower.
    with threadpool_limits(limits=1):
        return means.fit_predict(unit).astype(np.int64)


def cluster_scores(
    emb: ArrayLike,
    labels: Sequence | np.ndarray,
    groups: int | None = None,
    seed: int = 0,
    restarts: int = 5,
) -> ClusterScores:
    """Cluster without looking at the labels, then compare: :func:`cluster`, `score_clusters`.

    Args:
        emb: (n, D) vectors.
        labels: n labels.
        groups: how many clusters; as many as there are labels by default. Compare purities only
            between results with the same number.
        seed, restarts: as in :func:`cluster`.

    Raises:
        WrongKind, WrongValue: wrong shapes, NaN, ``groups`` out of range.
    """
    emb = check_embeddings("emb", emb)
    codes = check_labels("labels", labels, len(emb))
    groups = int(codes.max()) + 1 if groups is None else groups
    return score_clusters(cluster(emb, groups, seed, restarts), codes)


def nested_clusters(
    emb: ArrayLike, dims: Sequence[int], groups: Sequence[int], seed: int = 0
) -> np.ndarray:
    """Clusters inside clusters: few numbers split the whole, more numbers split the parts.

    Args:
        emb: (n, D) vectors.
        dims: the prefix size of each level, the top level first, for example ``[8, 64]``.
        groups: into how many parts each cluster of the level above is split, for example
            ``[7, 4]``. A cluster with fewer rows is split into single rows.
        seed: of the starts.

    Returns:
        (n, levels) int64. Column i holds cluster numbers from 0; two rows that share a cluster in
        a column share one in every column before it.

    Raises:
        WrongKind, WrongValue: wrong shapes, NaN, ``dims`` and ``groups`` of different length.
    """
    emb = check_embeddings("emb", emb)
    dims, groups = check_list("dims", dims), check_list("groups", groups)
    if len(dims) != len(groups) or not len(dims):
        raise WrongValue(f"dims and groups need one entry for each level, got {dims} and {groups}")
    # One at a time: two levels may look at the same prefix.
    dims = [check_dims([dim], emb.shape[1])[0] for dim in dims]
    seed, groups = check_seed(seed), [check_count("groups", g, most=len(emb)) for g in groups]
    prefixes = {dim: unit_rows(emb[:, :dim]) for dim in dims}
    zero = {f"emb[:, :{dim}]": zero_rows(unit) for dim, unit in prefixes.items()}
    warn_zero_rows(*zero.popitem(), **zero)
    parts = np.zeros(len(emb), dtype=np.int64)
    levels = []
    for dim, count in zip(dims, groups, strict=True):
        split = np.zeros_like(parts)
        for part in range(parts.max() + 1):
            mine = parts == part
            split[mine] = _k_means(prefixes[dim][mine], min(count, int(mine.sum())), seed)
        parts = np.unique(parts * (split.max() + 1) + split, return_inverse=True)[1]
        levels.append(parts)
    return np.stack(levels, axis=1)


def align_picture(picture: ArrayLike, reference: ArrayLike) -> np.ndarray:
    """Turn, flip, shift and scale a picture so that its points lie near those of another.

    This is the orthogonal Procrustes problem. Distances inside the picture all change by one common
    factor, so nothing is bent: what differs afterwards differs for real.

    Args:
        picture: (n, 2) points, or (n, any number).
        reference: points of the same n items, of the same shape.

    Returns:
        (n, 2) float64: c * (picture - its mean) @ R + the mean of the reference, with R orthogonal
        and c >= 0 such that the squared distances to the reference are smallest.

    Raises:
        WrongKind, WrongValue: different shapes, NaN, or all points of the picture are equal.
    """
    from scipy.linalg import orthogonal_procrustes

    points = check_embeddings("picture", picture).astype(np.float64)
    wanted = check_embeddings("reference", reference).astype(np.float64)
    size = np.abs(points).max()
    points = points / (size if size > 0 else 1)  # squares stay within the range of floats
    if points.shape != wanted.shape:
        raise WrongValue(
            f"picture has shape {points.shape} and reference {wanted.shape}; must be equal"
        )
    centred, target = points - points.mean(axis=0), wanted - wanted.mean(axis=0)
    spread = (centred**2).sum()
    if spread == 0:
        raise WrongValue("all points of picture are equal; there is nothing to turn")
    turn, stretch = orthogonal_procrustes(centred, target)
    return stretch / spread * centred @ turn + wanted.mean(axis=0)


def kept_above_chance(score: float, full_score: float, chance: float) -> float:
    """The share of what a model knows at full size that is left after a cut.

    Retention, with the score that knowing nothing would get taken off first: with few labels that
    score is high, and plain retention then looks good for a cut that lost everything.

    Args:
        score: after the cut.
        full_score: at full size; it must be above ``chance``.
        chance: what vectors without any information would score.

    Returns:
        1 if nothing is lost, 0 at the level of chance, below 0 under it.

    Raises:
        WrongValue: ``full_score`` is not above ``chance``.
    """
    score, chance = check_number("score", score), check_number("chance", chance)
    full_score = check_number("full_score", full_score)
    if not full_score > chance:
        raise WrongValue(f"full_score must be above chance, got {full_score} and {chance}")
    return (score - chance) / (full_score - chance)


def label_chance(labels: Sequence) -> float:
    """How often two rows drawn by chance have the same label: the sum of the squared shares.

    This is what :func:`neighbour_agreement` would be if neighbours were drawn by chance (with the
    row itself among the candidates).
    """
    codes = check_labels("labels", labels, None)
    shares = np.bincount(codes) / len(codes)
    return float((shares**2).sum())


def recommend(
    emb: ArrayLike, liked: Sequence[int], dim: int | None = None, top_k: int = 10
) -> Neighbours:
    """The items nearest to the mean of what a person liked, without those items themselves.

    Each liked item counts the same: its prefix is cut and normalised before the mean is taken, so
    that a long vector does not decide alone.

    Args:
        emb: (n, D) embeddings of all items.
        liked: row numbers of liked items, each once, at least one.
        dim: compare only the first ``dim`` numbers; all by default.
        top_k: how many to return, at most n minus the liked ones.

    Returns:
        :class:`~mrl_course.search.Neighbours`: (top_k,) row numbers and cosines, the best first.

    Raises:
        WrongKind, WrongValue: wrong shape, NaN, a row number that is no row or comes twice, likes
            that cancel out, ``dim`` or ``top_k`` out of range.
    """
    emb = check_embeddings("emb", emb)
    rows = check_rows("liked", liked, len(emb), of="items")
    if not len(rows):
        raise WrongValue("liked is empty; name at least one item")
    most = len(emb) - len(rows)
    top_k = check_count("top_k", top_k, most=most, of="the items not liked yet")
    unit = truncate(emb, emb.shape[1] if dim is None else dim)
    taste = unit[rows].mean(axis=0)
    if not np.linalg.norm(taste) > 1e-6:
        raise WrongValue("the liked items point in opposite directions; their mean is zero")
    index, _ = PrefixIndex.build(unit, unit.shape[1])  # its zero rows were reported above
    found = exact_search(taste, index, top_k=top_k + len(rows))
    new = ~np.isin(found.indices, rows)
    return Neighbours(found.indices[new][:top_k], found.scores[new][:top_k])
