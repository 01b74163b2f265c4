"""Finding neighbours by the cosine of prefixes: exactly, with a shortlist, through a funnel.

Comparing k numbers instead of D reads k / D of the memory. So find a *shortlist* with short
prefixes, and *rerank* those few with all numbers (Kusupati et al., 2022,
https://arxiv.org/abs/2205.13147, call it adaptive retrieval). A *funnel* does so in several steps.

The prefixes of a (n, D) array lie D numbers apart, so that reading them takes nearly as long as
reading everything. A :class:`PrefixIndex` holds them side by side, which makes the speed real.

Everywhere: scores are cosines as float32, rounded to 7 decimals, the best first; equal scores are
ordered by row number. Lengths of vectors do not matter, however extreme. A zero vector has cosine 0
with everything; a UserWarning counts such rows, once a call, or once where an index is made.
Results do not depend on the size of blocks, nor on whether an array or an index was given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mrl_course.arguments import (
    check_count,
    check_dims,
    check_finite,
    check_list,
    check_number,
    check_numbers,
    check_queries,
    check_rows,
    check_seed,
    check_steps,
    check_vectors,
    default_dims,
    warn_zero_rows,
    zero_rows,
)
from mrl_course.costs import SearchCost, search_cost, time_calls
from mrl_course.errors import WrongKind, WrongValue
from mrl_course.ranking import (
    QUERIES,
    SAME,
    PrefixIndex,
    Rows,
    keep_rows,
    narrow,
    order_rows,
    parts,
    scan,
    shrunk,
    unit_rows,
)

if TYPE_CHECKING:
    import torch

Emb = TypeVar("Emb", np.ndarray, "torch.Tensor")

FEWEST = 20  # queries on each side of a tuning: below that its recalls say nothing
MEMBERS = 256  # of rows that are tied for the last place of a result, so many are looked at


class Neighbours(NamedTuple):
    """What a search found; unpacks into ``indices, scores``.

    Attributes:
        indices: (q, top_k) int64 corpus rows, the best first; (top_k,) for one query.
        scores: float32 cosines in [-1, 1], of the same shape.
    """

    indices: np.ndarray
    scores: np.ndarray


def truncate(emb: Emb, dim: int) -> Emb:
    """Keep the first ``dim`` numbers of each embedding, then divide them by their length.

    In this order: a vector of length 1 has prefixes shorter than 1, each by another factor.

    Args:
        emb: (n, D) or (D,) NumPy array or torch tensor; gradients pass through a tensor.
        dim: 1 <= dim <= D.

    Returns:
        (n, dim) or (dim,) of the same kind; half precision and integers become float32. A zero
        prefix has no direction: it stays zero, and a UserWarning counts such rows.

    Raises:
        TypeError, ValueError: no numbers, wrong shape, NaN or infinite, ``dim`` out of range.
    """
    if hasattr(emb, "detach"):
        return _truncate_tensor(emb, dim)  # pyright: ignore[reportReturnType, reportArgumentType]
    array = check_vectors("emb", emb)
    dim = _check_prefix(array.shape, dim)
    prefix = np.array(array[..., :dim], np.float64 if array.dtype == np.float64 else np.float32)
    rows = prefix.reshape(-1, dim)  # one row for one vector; the same memory
    square = np.einsum("ij,ij->i", rows, rows)
    odd = np.flatnonzero(~((square > 1e-30) & (square < 1e30)))
    if len(odd):  # dividing by the largest number keeps the squares within the range of floats
        check_finite("emb", rows)
        rows[odd] = shrunk(rows[odd].astype(np.float64))
        square[odd] = np.einsum("ij,ij->i", rows[odd], rows[odd])
        warn_zero_rows(f"emb[..., :{dim}]", square == 0)
        square[square == 0] = 1
    rows /= np.sqrt(square)[:, None]
    return prefix  # pyright: ignore[reportReturnType]


def _truncate_tensor(emb: torch.Tensor, dim: int) -> torch.Tensor:
    """The same for tensors, so that gradients pass through."""
    import torch

    if emb.dtype in (torch.bool, torch.uint8) or emb.is_complex():
        raise WrongKind(f"emb must hold numbers, no bits or packed bits, got dtype {emb.dtype}")
    dim = _check_prefix(tuple(emb.shape), dim)
    prefix = emb[..., :dim]
    if prefix.dtype not in (torch.float32, torch.float64):
        prefix = prefix.float()
    peak = prefix.detach().abs().amax(dim=-1, keepdim=True)
    if not torch.isfinite(peak).all():
        check_finite("emb", np.atleast_2d(check_numbers("emb", prefix)))
    zero = peak == 0
    warn_zero_rows(f"emb[..., :{dim}]", check_numbers("zero", zero.int()).ravel() > 0)
    scaled = prefix / torch.where(zero, torch.ones_like(peak), peak)
    return scaled / torch.where(zero, 1, torch.linalg.vector_norm(scaled, dim=-1, keepdim=True))


def _check_prefix(shape: tuple[int, ...], dim: int) -> int:
    """``dim`` as a plain int, if such a prefix of such embeddings exists."""
    if len(shape) not in (1, 2) or 0 in shape:
        raise WrongValue(f"emb must have shape (n, D) or (D,), got {shape}")
    return check_count("dim", dim, most=shape[-1], of="the numbers of an embedding")


def exact_search(
    queries: ArrayLike, corpus: ArrayLike | PrefixIndex, top_k: int, dim: int | None = None
) -> Neighbours:
    """Compare each query with every row, by the cosine of the first ``dim`` numbers.

    Args:
        queries: (q, D) embeddings, or one of shape (D,).
        corpus: (n, D) embeddings, in memory or memory-mapped; or a :class:`PrefixIndex`, which
            must hold ``dim`` unless it is D.
        top_k: results per query, 1 <= top_k <= n.
        dim: numbers to compare, 1 to D; all by default.

    Returns:
        The :class:`Neighbours`. A zero vector has cosine 0 with everything.

    Raises:
        TypeError, ValueError: no numbers, wrong or different shapes, NaN, empty corpus, ``top_k``
            or ``dim`` out of range.
    """
    rows = Rows.of(corpus, dim)
    queries, one = check_queries(queries, rows.full_dim)
    top_k = check_count("top_k", top_k, most=len(rows), of="the rows of the corpus")
    found = list(_exact(queries, rows, top_k))
    name = "corpus" if rows.dim == rows.full_dim else f"corpus[:, :{rows.dim}]"
    _warn_zeros(queries, rows.dim, {name: rows.zero})
    return _neighbours(found, one)


def _exact(queries: np.ndarray, rows: Rows, top_k: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Row numbers and scores of each query, unchecked."""
    for part in parts(queries):
        for query, best in zip(part, scan(part, rows, top_k), strict=True):
            yield order_rows(query, rows, *best, top_k)


def _warn_zeros(queries: np.ndarray, dim: int, corpus: dict[str, np.ndarray]) -> None:
    """One warning for zero queries and zero rows; those of an index were reported when made."""
    name = "queries" if dim == queries.shape[1] else f"queries[:, :{dim}]"
    warn_zero_rows(name, zero_rows(queries[:, :dim]), 0, **corpus)


def shortlist_rerank(
    queries: ArrayLike,
    corpus: ArrayLike | PrefixIndex,
    shortlist_dim: int,
    shortlist_size: int,
    top_k: int,
) -> Neighbours:
    """Find a shortlist with short prefixes, and order it by the cosine of all numbers.

    Args:
        queries: (q, D) embeddings, or one of shape (D,).
        corpus: (n, D) embeddings, or a :class:`PrefixIndex` that holds ``shortlist_dim``. From
            an array the prefixes are copied first, in each call.
        shortlist_dim: numbers compared with every row, 1 to D.
        shortlist_size: rows that get to the second stage, at least ``top_k``; more than n is n.
        top_k: results per query, 1 <= top_k <= n.

    Returns:
        The :class:`Neighbours`; scores are full-size cosines. A neighbour that is not on the
        shortlist is lost: :func:`tune_shortlist` measures how many are.

    Raises:
        TypeError, ValueError: as :func:`exact_search`; a shortlist shorter than ``top_k``.
    """
    return funnel_search(queries, corpus, [(shortlist_dim, shortlist_size)], top_k)


def funnel_search(
    queries: ArrayLike,
    corpus: ArrayLike | PrefixIndex,
    steps: Sequence[tuple[int, int]],
    top_k: int,
) -> Neighbours:
    """Compare ever fewer rows with ever more numbers, and the last few with all of them.

    Args:
        queries: (q, D) embeddings, or one of shape (D,).
        corpus: (n, D) embeddings, or a :class:`PrefixIndex` that holds the dim of the first step
            (later steps read few rows, wherever those are).
        steps: (dim, shortlist_size) pairs: compare ``dim`` numbers of the rows left, and keep so
            many of the best. The dims ascend; the sizes never grow, and the last is at least
            ``top_k``.
        top_k: results per query, 1 <= top_k <= n.

    Returns:
        The :class:`Neighbours` among the rows of the last step, by full-size cosine.

    Raises:
        TypeError, ValueError: as :func:`exact_search`; no steps, or steps in the wrong order.
    """
    full = Rows.of(corpus)
    queries, one = check_queries(queries, full.full_dim)
    top_k = check_count("top_k", top_k, most=len(full), of="the rows of the corpus")
    steps = check_steps(steps, full.full_dim, top_k)
    dim, size = steps[0]
    zero: dict[str, np.ndarray] = {}
    if not isinstance(corpus, PrefixIndex):
        corpus, zeros = PrefixIndex.build(full.array, dim)
        zero[corpus.name_of(dim)] = zeros
        full = Rows.of(corpus)
    _warn_zeros(queries, dim, zero)
    found = list(_funnel(queries, full, Rows.of(corpus, dim), size, steps[1:], top_k))
    return _neighbours(found, one)


def _funnel(
    queries: np.ndarray,
    full: Rows,
    scanned: Rows,
    size: int,
    steps: Sequence[tuple[int, int]],
    top_k: int,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Row numbers and scores of each query, unchecked."""
    for part in parts(queries):
        for query, best in zip(part, scan(part, scanned, size), strict=True):
            rows = keep_rows(query, scanned, *best, size)
            yield narrow(query, full, rows, steps, top_k)


def rerank(
    queries: ArrayLike, corpus: ArrayLike | PrefixIndex, candidates: ArrayLike, top_k: int
) -> Neighbours:
    """Order candidates, from whichever engine they come, by the cosine of all numbers.

    Args:
        queries: (q, D) embeddings, or one of shape (D,).
        corpus: (n, D) embeddings, or a :class:`PrefixIndex`.
        candidates: (q, m) corpus rows, or (m,) for one query; -1 means none, as in FAISS.
        top_k: results per query, 1 <= top_k <= m.

    Raises:
        TypeError, ValueError: as :func:`exact_search`; rows outside the corpus, or fewer than
            ``top_k`` candidates for some query, or one of them twice.
    """
    full = Rows.of(corpus)
    queries, one = check_queries(queries, full.full_dim)
    listed = np.atleast_2d(check_numbers("candidates", candidates))
    if listed.dtype.kind not in "iu":
        raise WrongKind(f"candidates must be row numbers (integers), got dtype {listed.dtype}")
    if listed.ndim != 2 or len(listed) != len(queries):
        raise WrongValue(
            f"{len(queries)} queries need {len(queries)} rows of candidates, "
            f"got shape {listed.shape}"
        )
    top_k = check_count("top_k", top_k, most=listed.shape[1], of="the candidates of a query")
    found = []
    for number, (query, rows) in enumerate(zip(queries, listed, strict=True)):
        rows = check_rows(
            f"candidates[{number}]", rows[rows != -1], len(full), of="rows in the corpus"
        )
        if len(rows) < top_k:
            raise WrongValue(f"query {number} has {len(rows)} candidates, top_k is {top_k}")
        found.append(narrow(query, full, np.sort(rows), [], top_k))
    _warn_zeros(queries, full.dim, {"corpus": full.zero})
    return _neighbours(found, one)


def _neighbours(found: list[tuple[np.ndarray, np.ndarray]], one: bool) -> Neighbours:
    indices, scores = (np.stack(arrays) for arrays in zip(*found, strict=True))
    return Neighbours(indices[0], scores[0]) if one else Neighbours(indices, scores)


# ------------------------------------------------------------------------- choosing a setting


@dataclass(frozen=True)
class Tuning:
    """The cheapest shortlist that finds enough, and everything that was tried.

    ``print(tuning)`` is the report; ``shortlist_rerank(queries, index, tuning.dim,
    tuning.shortlist_size, top_k)`` uses it.

    Attributes:
        dim, shortlist_size: of the first stage. If ``dim`` is D, this is exact search: no
            shortlist reached the target, or none was cheaper.
        recall: share of the exact results found, in [0, 1], on the queries used to choose.
        checked_recall: the same on as many other queries. Both reach the target.
        interval: the 95 % interval of the checked recall, (low, high).
        target_recall, top_k, full_dim, corpus_size, queries: what was asked for and of what;
            ``queries`` is how many were used to choose (as many again to check).
        chosen_by: ``"multiply_adds"`` or ``"milliseconds"``.
        table: one row per setting: ``dim, shortlist_size, recall, checked_recall``, ``low`` and
            ``high`` (the interval), ``bytes_read`` and ``multiply_adds`` (for one query),
            ``of_exact`` (multiply-adds as a share of exact search), ``reaches`` (both recalls are
            at least the target), and ``milliseconds`` of one query if measured. The last row is
            exact search.
    """

    dim: int
    shortlist_size: int
    recall: float
    checked_recall: float
    interval: tuple[float, float]
    target_recall: float
    top_k: int
    full_dim: int
    corpus_size: int
    queries: int
    chosen_by: str
    table: pd.DataFrame = field(repr=False)

    def __str__(self) -> str:
        """The cheapest setting of each dim that reaches the target, and the choice."""
        timed = "milliseconds" in self.table
        lines = [
            f"recall@{self.top_k} of at least {self.target_recall:g} among {self.corpus_size:,} "
            f"rows of {self.full_dim} numbers",
            f"chosen on {self.queries} queries, checked on as many others; in brackets the 95 % "
            "interval of the checked recall",
            "",
            f"{'dim':>6} {'shortlist':>10} {'recall':>7} {'checked':>8} {'95 %':>14} "
            f"{'multiply-adds':>14} {'of exact':>9}" + (f" {'ms':>8}" if timed else ""),
        ]
        tried = self.table.head(-1)
        none = not tried.reaches.any()
        for _, row in self.cheapest().iterrows():
            mine = (row.dim, row.shortlist_size) == (self.dim, self.shortlist_size)
            mark = "" if not mine else "  <- exact search is left" if none else "  <- chosen"
            ms = f" {row.milliseconds:8.2f}" if timed else ""
            lines.append(
                f"{row.dim:6} {row.shortlist_size:10,} {row.recall:7.3f} {row.checked_recall:8.3f} "
                f"{_brackets(row.low, row.high):>14} {row.multiply_adds:14,} "
                f"{row.of_exact:9.1%}{ms}{mark}"
            )
        missing = sorted(set(tried.dim) - set(self.cheapest().dim))
        if missing and not none:
            sizes = ", ".join(map(str, missing))
            lines.append(f"no shortlist up to {tried.shortlist_size.max():,} is enough at {sizes}")
        if none and len(tried):
            best = tried.sort_values(["checked_recall", "recall"]).iloc[-1]
            lines.append(
                f"no candidate reached it: the best is a shortlist of {best.shortlist_size:,} at "
                f"{best.dim} numbers, recall {best.recall:.3f}, checked {best.checked_recall:.3f} "
                f"{_brackets(best.low, best.high)}"
            )
        elif self.dim == self.full_dim:
            lines.append("no shortlist is cheaper than exact search here")
        return "\n".join(lines)

    def cheapest(self) -> pd.DataFrame:
        """Of each dim the smallest shortlist that reaches the target; the last row is exact."""
        reaching = self.table.query("reaches")
        ordered = reaching.sort_values(["dim", "shortlist_size"])
        return ordered.drop_duplicates("dim").reset_index(drop=True)


def _brackets(low: float, high: float) -> str:
    return f"[{low:.3f}, {high:.3f}]"


def tune_shortlist(
    queries: ArrayLike,
    corpus: ArrayLike | PrefixIndex,
    target_recall: float,
    top_k: int,
    *,
    dims: Sequence[int] | None = None,
    sizes: Sequence[int] | None = None,
    sample: int = 200,
    measure: bool = False,
    seed: int = 0,
) -> Tuning:
    """Find the cheapest (dim, shortlist_size) that finds what exact search finds.

    A result of exact search is found again if it gets onto the shortlist: the second stage then
    ranks it right. So one ranking per dim tells the recall of every size. Ties are in no order:
    a row with the score of the last result is as good as that one, and among rows that are tied for
    the last places of a shortlist each has the same chance. So the recall does not depend on the
    order of the corpus.

    Args:
        queries: (q, D) embeddings of real queries, at least 40 different ones. Half of the sample
            chooses, the other half checks the choice; no vector is in both. With 100 the recalls
            are still rough: look at the interval.
        corpus: (n, D) embeddings or a :class:`PrefixIndex`, whose dims are then the ones tried.
        target_recall: share of the exact ``top_k`` results to be found, above 0, at most 1.
        top_k: results per query, 1 <= top_k <= n.
        dims: prefix sizes to try; by default those of ``DEFAULT_DIMS`` below D.
        sizes: shortlist sizes to try, each ``top_k`` to n; by default ``top_k`` times 1, 2, 5, 10,
            20, 50, ... up to n / 4.
        sample: at most so many queries are used, drawn at random; at least 40.
        measure: time the cheapest setting of each dim, and exact search, one query at a time on
            this machine, and choose by that. Otherwise choose by multiply-adds, which is the
            same on every machine.
        seed: of the sample, at least 0.

    Returns:
        A :class:`Tuning`: the cheapest setting whose recall reaches the target on both halves.
        Exact search always does, so there always is one; if nothing else did, the report says so,
        with the best that was tried.

    Raises:
        TypeError, ValueError: as :func:`exact_search`; fewer than 40 different queries, target out
            of range, sizes below ``top_k``.
    """
    full = Rows.of(corpus)
    given, _ = check_queries(queries, full.full_dim)
    n, full_dim = len(full), full.full_dim
    top_k = check_count("top_k", top_k, most=n, of="the rows of the corpus")
    target = check_number("target_recall", target_recall, above=0, most=1)
    if dims is None:
        dims = corpus.dims if isinstance(corpus, PrefixIndex) else default_dims(full_dim)
    dims = [k for k in sorted(check_dims(dims, full_dim)) if k < full_dim]
    sizes = _shortlist_sizes(sizes, top_k, n)
    drawn = _sampled(given, check_count("sample", sample, 2 * FEWEST), check_seed(seed))
    half = len(drawn) // 2
    scanned = _scanned(drawn, full, top_k + MEMBERS)
    truth = [_tied(query, full, *best, top_k) for query, best in scanned]
    _warn_zeros(given, full_dim, {"corpus": full.zero})
    trials = []
    for dim in dims:
        index = corpus if isinstance(corpus, PrefixIndex) else PrefixIndex.build(full.array, dim)[0]
        found = _found(drawn, Rows.of(index, dim), truth, sizes, top_k)
        for size, shares in zip(sizes, found.T, strict=True):
            recalls = float(shares[:half].mean()), float(shares[half:].mean())
            cost = search_cost(n, full_dim, dim, size)
            trials.append((dim, size, *recalls, *_interval(shares[half:], top_k), cost))
    trials.append((full_dim, top_k, 1.0, 1.0, 1.0, 1.0, search_cost(n, full_dim)))
    table = _trial_table(trials, target)
    chosen_by = "milliseconds" if measure else "multiply_adds"
    if measure:
        table[chosen_by] = _measured(table, drawn[:half], corpus, full, top_k)
    best = table.query("reaches").sort_values([chosen_by, "multiply_adds"]).iloc[0]
    return Tuning(
        dim=int(best.dim),
        shortlist_size=int(best.shortlist_size),
        recall=float(best.recall),
        checked_recall=float(best.checked_recall),
        interval=(float(best.low), float(best.high)),
        target_recall=target,
        top_k=top_k,
        full_dim=full_dim,
        corpus_size=n,
        queries=half,
        chosen_by=chosen_by,
        table=table,
    )


def _shortlist_sizes(sizes: Sequence[int] | None, top_k: int, n: int) -> list[int]:
    if sizes is None:
        every = [top_k * factor * 10**power for power in range(9) for factor in (1, 2, 5)]
        return [size for size in every if size <= max(top_k, n // 4)]
    checked = set()
    for size in check_list("sizes", sizes):
        size = check_count("a shortlist size", size, most=n, of="the rows of the corpus")
        if size < top_k:
            raise WrongValue(f"a shortlist of {size} cannot hold top_k = {top_k} results")
        checked.add(size)
    if not checked:
        raise WrongValue("sizes is empty; give at least one shortlist size")
    return sorted(checked)


def _sampled(queries: np.ndarray, sample: int, seed: int) -> np.ndarray:
    """An even number of different queries: a vector that chooses may not check as well."""
    first: dict[int, int] = {}
    for i, row in enumerate(queries):
        first.setdefault(hash(row.tobytes()), i)
    different = queries[list(first.values())]
    if len(different) < 2 * FEWEST:
        raise WrongValue(
            f"give at least {2 * FEWEST} different queries ({FEWEST} choose, {FEWEST} check), got "
            f"{len(different)}{' different ones' if len(different) < len(queries) else ''}"
        )
    drawn = np.random.default_rng(seed).permutation(len(different))[:sample]
    return different[drawn[: 2 * (len(drawn) // 2)]]


def _scanned(
    queries: np.ndarray, rows: Rows, keep: int
) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]]:
    for part in parts(queries):
        yield from zip(part, scan(part, rows, keep), strict=True)


@dataclass(frozen=True)
class _Truth:
    """What exact search finds for one query.

    ``rows`` are the ``sure`` ones, whose score is above that of the last result, and then up to
    ``MEMBERS`` of the ``tied`` rows that have this score: any of them may take the places left.
    """

    rows: np.ndarray
    sure: int
    tied: int


def _tied(
    query: np.ndarray, full: Rows, numbers: np.ndarray, values: np.ndarray, top_k: int
) -> _Truth:
    numbers, scores = order_rows(query, full, numbers, values, len(numbers))
    last = scores[top_k - 1]
    sure, reach = int((scores > last).sum()), int((scores >= last).sum())
    tied = reach - sure
    if tied >= MEMBERS:  # the scan may have settled a flood of them: count once more
        own = full.fast_scores_at(query, numbers[sure : sure + 1])[0]
        unit = unit_rows(query[None])
        pieces = (full.fast_scores(unit, which) for which in full.blocks(1))
        tied = max(tied, sum(int((np.abs(piece - own) <= SAME).sum()) for piece in pieces))
    spread = np.linspace(sure, reach - 1, min(reach - sure, MEMBERS)).astype(int)
    return _Truth(np.concatenate([numbers[:sure], numbers[spread]]), sure, tied)


def _found(
    queries: np.ndarray, rows: Rows, truth: list[_Truth], sizes: list[int], top_k: int
) -> np.ndarray:
    """(q, sizes): share of the exact results on the shortlists of a prefix, ties in any order."""
    shares = np.empty((len(queries), len(sizes)))
    places = zip(truth, _places(queries, rows, [each.rows for each in truth]), strict=True)
    for i, (each, (ahead, reach)) in enumerate(places):
        chance = (np.array(sizes) - ahead[:, None]) / np.maximum(reach - ahead, 1)[:, None]
        chance = np.clip(chance, 0, 1)
        likely = each.tied * chance[each.sure :].mean(axis=0)
        shares[i] = chance[: each.sure].sum(axis=0) + np.minimum(likely, top_k - each.sure)
    return np.minimum(shares / top_k, 1)


def _places(
    queries: np.ndarray, rows: Rows, wanted: list[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each query: how many rows score higher than each wanted row; how many not lower."""
    for first in range(0, len(queries), QUERIES):
        part = queries[first : first + QUERIES]
        unit = unit_rows(part[:, : rows.dim])
        own = [rows.fast_scores_at(*pair) for pair in zip(part, wanted[first:], strict=False)]
        ahead = [np.zeros(len(scores), np.int64) for scores in own]
        reach = [np.zeros(len(scores), np.int64) for scores in own]
        for which in rows.blocks(len(part)):
            for i, scores in enumerate(rows.fast_scores(unit, which)):
                hits = np.sort(scores[scores >= own[i].min() - SAME])
                ahead[i] += len(hits) - np.searchsorted(hits, own[i] + SAME, side="right")
                reach[i] += len(hits) - np.searchsorted(hits, own[i] - SAME, side="left")
        yield from zip(ahead, reach, strict=True)


def _interval(shares: np.ndarray, top_k: int) -> tuple[float, float]:
    """The 95 % interval of a mean of shares (Wilson's), one share of top_k results a query.

    The results of a query are found or lost together, so that they count as fewer than
    q * top_k draws; how many fewer, the spread between queries tells.
    """
    n, p = len(shares), float(shares.mean())
    spread, draws = float(shares.var(ddof=1)), float(n)
    if spread > 0:
        draws = min(max(n * p * (1 - p) / spread, n), n * top_k)
    z = 1.96
    middle = (p + z**2 / (2 * draws)) / (1 + z**2 / draws)
    wide = z / (1 + z**2 / draws) * np.sqrt(p * (1 - p) / draws + z**2 / (4 * draws**2))
    return float(max(middle - wide, 0.0)), float(min(middle + wide, 1.0))


def _trial_table(trials: list[tuple], target_recall: float) -> pd.DataFrame:
    columns = ["dim", "shortlist_size", "recall", "checked_recall", "low", "high"]
    table = pd.DataFrame([trial[:6] for trial in trials], columns=columns)
    costs: list[SearchCost] = [trial[-1] for trial in trials]
    table["bytes_read"] = [cost.bytes_read for cost in costs]
    table["multiply_adds"] = [cost.multiply_adds for cost in costs]
    table["of_exact"] = table.multiply_adds / costs[-1].multiply_adds
    both = table[["recall", "checked_recall"]].min(axis=1)
    table["reaches"] = both >= target_recall - 1e-12  # 0.99 as a mean of tenths
    return table


def _measured(
    table: pd.DataFrame,
    queries: np.ndarray,
    corpus: ArrayLike | PrefixIndex,
    full: Rows,
    top_k: int,
) -> list[float]:
    """Median milliseconds of one query, for the smallest sufficient shortlist of each dim."""
    milliseconds = np.full(len(table), np.nan)
    exact = len(table) - 1
    for place in table.query("reaches").drop_duplicates("dim").index:
        dim, size = int(table.dim[place]), int(table.shortlist_size[place])
        held = isinstance(corpus, PrefixIndex)
        index = corpus if held else PrefixIndex.build(full.array, dim)[0]
        rows = Rows.of(index)
        if place == exact:
            search = partial(_exact, rows=rows, top_k=top_k)
        else:
            first = Rows.of(index, dim)
            search = partial(_funnel, full=rows, scanned=first, size=size, steps=[], top_k=top_k)
        one_by_one = [partial(_run, search, query[None]) for query in queries[:15]]
        one_by_one[0]()  # fills caches
        times = [time_calls(call, runs=1, warmup=0) for call in one_by_one]
        milliseconds[place] = np.median([timing.median for timing in times])
    return milliseconds.tolist()


def _run(search: partial, query: np.ndarray) -> None:
    list(search(query))
