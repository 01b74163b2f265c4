"""Vectors as whole numbers from -127 to 127, and search over them, as the page computes it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mrl_course.arguments import check_finite

TOP = 10


def quantise_rows(emb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Store each row as int8 and one scale: ``emb`` is close to ``codes * scales[:, None]``.

    Args:
        emb: (n, D) finite numbers.

    Returns:
        codes: (n, D) int8 from -127 to 127, the largest number of a row becomes 127 or -127.
        scales: (n,) float32, above 0; a row of zeros has scale 1.

    Raises:
        ValueError: another shape, NaN or infinity.
    """
    emb = np.asarray(emb, dtype=np.float64)
    if emb.ndim != 2:
        raise ValueError(f"emb must have shape (n, D), got {emb.shape}")
    check_finite("emb", emb)
    largest = np.abs(emb).max(axis=1, initial=0.0)
    scales = (np.where(largest > 0, largest, 127.0) / 127).astype(np.float32)
    scales = np.maximum(scales, np.finfo(np.float32).tiny)
    codes = np.rint(emb / scales[:, None].astype(np.float64))
    return np.clip(codes, -127, 127).astype(np.int8), scales


def mean_of_rows(ids: Sequence[int], codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The mean of some rows of an int8 table, (D,) float64: how the page embeds a query.

    No ids give zeros. Rows are added one after the other, as the page does, so that both get the
    same last digit.
    """
    total = np.zeros(codes.shape[1])
    for i in ids:
        total += float(scales[i]) * codes[i]
    return total / max(1, len(ids))


def prefix_scores(query: np.ndarray, codes: np.ndarray, k: int) -> np.ndarray:
    """Score each corpus row by its first k numbers: dot product over the length of that prefix.

    This is the cosine times the length of the query's prefix, which is the same for all rows. The
    scale of a row would stand above and below the fraction line, so the codes are enough.

    Args:
        query: (D,) numbers.
        codes: (n, D) int8.
        k: prefix size, 1 <= k <= D.

    Returns:
        (n,) float64; a row whose prefix is zero has score 0.

    Raises:
        ValueError: sizes that do not fit.
    """
    query, codes = np.asarray(query, dtype=np.float64), np.asarray(codes)
    if query.ndim != 1 or codes.ndim != 2 or codes.shape[1] != len(query):
        raise ValueError(
            f"a query of shape {query.shape} and codes of shape {codes.shape} do not fit: "
            "(D,) and (n, D) are needed"
        )
    if not 1 <= k <= len(query):
        raise ValueError(f"k must be between 1 and D = {len(query)}, got {k}")
    dot = np.zeros(len(codes))
    for j in range(k):  # one number after the other, as the page adds them up
        dot += query[j] * codes[:, j]
    squares = (codes[:, :k].astype(np.int64) ** 2).sum(axis=1)
    return dot / np.sqrt(np.maximum(squares, 1))


def rank_rows(query: np.ndarray, codes: np.ndarray, k: int, top: int = TOP) -> np.ndarray:
    """The ``top`` best rows at prefix size k, best first; among equals the smaller row first."""
    scores = prefix_scores(query, codes, k)
    return np.argsort(-scores, kind="stable")[:top]


def rerank_rows(
    query: np.ndarray, codes: np.ndarray, k: int, shortlist: int, top: int = TOP
) -> np.ndarray:
    """Find ``shortlist`` rows by their first k numbers, then order those by all D numbers."""
    rows = np.sort(rank_rows(query, codes, k, shortlist))
    scores = prefix_scores(query, codes[rows], codes.shape[1])
    return rows[np.argsort(-scores, kind="stable")[:top]]


def overlap_curve(
    query: np.ndarray, codes: np.ndarray, top: int = TOP, shortlist: int | None = None
) -> np.ndarray:
    """How many of the ``top`` results at full size are still found, for every prefix size.

    Args:
        query: (D,) numbers.
        codes: (n, D) int8.
        top: length of the lists that are compared; at most n.
        shortlist: compare the list after :func:`rerank_rows` with a shortlist of this size instead.

    Returns:
        (D,) int64; entry k - 1 belongs to k and lies between 0 and ``top``.

    Raises:
        ValueError: sizes that do not fit.
    """
    ranks = ranks_of_the_best(query, codes, top)
    return (ranks < max(shortlist or 0, min(top, len(codes)))).sum(axis=1)


def break_point(curve: Sequence[float], enough: float) -> int:
    """The smallest k from which on a curve never falls below ``enough`` again.

    Args:
        curve: (D,) values; entry k - 1 belongs to k, as :func:`overlap_curve` gives them.
        enough: the least value that counts as whole.

    Raises:
        ValueError: no values, or the curve is below ``enough`` even at D.
    """
    values = np.asarray(curve)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"curve must be a list of at least one value, got shape {values.shape}")
    if values[-1] < enough:
        raise ValueError(f"the curve ends at {values[-1]:g}, below {enough:g}: it never is whole")
    below = np.flatnonzero(values < enough)  # counted from 0: position j belongs to k = j + 1
    return int(below[-1]) + 2 if len(below) else 1


def ranks_of_the_best(query: np.ndarray, codes: np.ndarray, top: int) -> np.ndarray:
    """The places, from 0, that the best rows at full size have at every k, (D, top)."""
    query, n = np.asarray(query, dtype=np.float64), len(codes)
    best = rank_rows(query, codes, codes.shape[1], top)
    dot, squares = np.zeros(n), np.zeros(n)
    ranks = np.empty((codes.shape[1], len(best)), dtype=np.int64)
    for j in range(codes.shape[1]):
        column = codes[:, j].astype(np.float64)
        dot += query[j] * column
        squares += column * column
        scores = dot / np.sqrt(np.maximum(squares, 1))
        ahead = np.flatnonzero(scores >= scores[best].min())  # the others are behind all of them
        better = scores[ahead] > scores[best][:, None]
        equal = (scores[ahead] == scores[best][:, None]) & (ahead < best[:, None])
        ranks[j] = (better | equal).sum(axis=1)
    return ranks
