"""Vectors as whole numbers from -127 to 127, and search over them, as the page computes it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from mrl_course.arguments import (
    check_count,
    check_embeddings,
    check_finite,
    check_list,
    check_matrix,
    check_number,
    check_numbers,
    check_values,
)
from mrl_course.errors import WrongValue

TOP = 10


def quantise_rows(emb: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Store each row as int8 and one scale: ``emb`` is close to ``codes * scales[:, None]``.

    Args:
        emb: (n, D) finite numbers, none beyond what float32 holds.

    Returns:
        codes: (n, D) int8 from -127 to 127, the largest number of a row becomes 127 or -127.
        scales: (n,) float32, above 0; a row of zeros has scale 1.

    Raises:
        WrongKind, WrongValue: another shape, NaN or infinity, numbers that float32 cannot hold.
    """
    rows = check_embeddings("emb", emb).astype(np.float64)
    largest = np.abs(rows).max(axis=1)
    if largest.max() > np.finfo(np.float32).max:
        row = int(largest.argmax())
        raise WrongValue(f"emb holds {largest[row]:g} in row {row}, more than float32 can hold")
    largest = np.where(largest > 0, largest, 127.0)
    # The codes do not go through the scale, which float32 rounds to 0 in very short rows.
    codes = np.rint(rows / largest[:, None] * 127).astype(np.int8)
    scales = np.maximum((largest / 127).astype(np.float32), np.finfo(np.float32).tiny)
    return codes, scales


def mean_of_rows(ids: Sequence[int], codes: ArrayLike, scales: ArrayLike) -> np.ndarray:
    """The mean of some rows of an int8 table, (D,) float64: how the page embeds a query.

    No ids give zeros. Rows are added one after the other, as the page does, so that both get the
    same last digit.

    Args:
        ids: row numbers; one may come several times.
        codes, scales: (n, D) and (n,), from :func:`quantise_rows`.

    Raises:
        WrongKind, WrongValue: a number that is no row of the table, sizes that do not fit, NaN.
    """
    codes = check_embeddings("codes", codes)
    scales = check_values("scales", scales, len(codes), "rows")
    ids = check_list("ids", ids)
    total = np.zeros(codes.shape[1])
    for place, i in enumerate(ids):
        i = check_count(f"ids[{place}]", i, 0, len(codes) - 1, "rows of the table")
        total += scales[i] * codes[i]
    return total / max(1, len(ids))


def prefix_scores(query: ArrayLike, codes: ArrayLike, dim: int) -> np.ndarray:
    """Score each corpus row by its first ``dim`` numbers: dot product over that prefix's length.

    This is the cosine times the length of the query's prefix, which is the same for all rows. The
    scale of a row would stand above and below the fraction line, so the codes are enough.

    Args:
        query: (D,) numbers.
        codes: (n, D) int8.
        dim: prefix size, from 1 to D.

    Returns:
        (n,) float64; a row whose prefix is zero has score 0.

    Raises:
        WrongKind, WrongValue: NaN, or sizes that do not fit.
    """
    query, codes = _checked(query, codes)
    dim = check_count("dim", dim, 1, len(query), "numbers of a vector")
    dot = np.zeros(len(codes))
    for j in range(dim):  # one number after the other, as the page adds them up
        dot += query[j] * codes[:, j]
    squares = (codes[:, :dim].astype(np.int64) ** 2).sum(axis=1)
    return dot / np.sqrt(np.maximum(squares, 1))


def rank_rows(query: ArrayLike, codes: ArrayLike, dim: int, top_k: int = TOP) -> np.ndarray:
    """The ``top_k`` best rows by their first ``dim`` numbers, best first.

    Among equals the smaller row comes first; fewer rows than ``top_k`` are all there are.

    Raises:
        WrongKind, WrongValue: as :func:`prefix_scores`, or ``top_k`` below 1.
    """
    scores = prefix_scores(query, codes, dim)
    return np.argsort(-scores, kind="stable")[: check_count("top_k", top_k)]


def rerank_rows(
    query: ArrayLike, codes: ArrayLike, dim: int, shortlist_size: int, top_k: int = TOP
) -> np.ndarray:
    """Find ``shortlist_size`` rows by their first ``dim`` numbers, then order those by all D."""
    query, codes = _checked(query, codes)
    shortlist_size = check_count("shortlist_size", shortlist_size)
    rows = np.sort(rank_rows(query, codes, dim, shortlist_size))
    scores = prefix_scores(query, codes[rows], codes.shape[1])
    return rows[np.argsort(-scores, kind="stable")[: check_count("top_k", top_k)]]


def overlap_curve(
    query: ArrayLike, codes: ArrayLike, top_k: int = TOP, shortlist_size: int | None = None
) -> np.ndarray:
    """How many of the ``top_k`` results at full size are still found, for every prefix size.

    Args:
        query: (D,) numbers.
        codes: (n, D) int8.
        top_k: length of the lists that are compared; all rows if there are fewer.
        shortlist_size: compare the list after :func:`rerank_rows` with a shortlist of this size
            instead.

    Returns:
        (D,) int64; entry j belongs to a prefix of j + 1 numbers and lies between 0 and ``top_k``.

    Raises:
        WrongKind, WrongValue: as :func:`rerank_rows`.
    """
    query, codes = _checked(query, codes)
    top_k = check_count("top_k", top_k)
    if shortlist_size is not None:
        shortlist_size = check_count("shortlist_size", shortlist_size)
    ranks = ranks_of_the_best(query, codes, top_k)
    return (ranks < max(shortlist_size or 0, min(top_k, len(codes)))).sum(axis=1)


def break_point(curve: Sequence[float] | np.ndarray, enough: float) -> int:
    """The smallest prefix size from which on a curve never falls below ``enough`` again.

    Args:
        curve: (D,) values, in the form of :func:`overlap_curve`.
        enough: the least value that counts as whole.

    Raises:
        WrongKind, WrongValue: no values, NaN, or a curve that is below ``enough`` even at D.
    """
    values, enough = check_numbers("curve", curve), check_number("enough", enough)
    if values.ndim != 1 or not len(values):
        raise WrongValue(f"curve must be a list of at least one value, got shape {values.shape}")
    check_finite("curve", values)
    if values[-1] < enough:
        raise WrongValue(f"the curve ends at {values[-1]:g}, below {enough:g}: it never is whole")
    below = np.flatnonzero(values < enough)  # counted from 0: position j belongs to size j + 1
    return int(below[-1]) + 2 if len(below) else 1


def _checked(query: ArrayLike, codes: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    query = check_numbers("query", query)
    codes = check_matrix("codes", codes)
    if query.ndim != 1 or codes.shape[1] != len(query):
        raise WrongValue(
            f"a query of shape {query.shape} and codes of shape {codes.shape} do not fit: "
            "(D,) and (n, D) are needed"
        )
    return check_finite("query", query).astype(np.float64), codes


def ranks_of_the_best(query: np.ndarray, codes: np.ndarray, top_k: int) -> np.ndarray:
    """The places, from 0, that the best rows at full size have at every size, (D, top_k)."""
    query, n = np.asarray(query, dtype=np.float64), len(codes)
    best = rank_rows(query, codes, codes.shape[1], top_k)
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
