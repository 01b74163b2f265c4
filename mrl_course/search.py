"""Finding neighbours by the cosine of prefixes: exactly, with a shortlist, through a funnel.

Comparing k numbers instead of D reads k / D of the memory. So find a *shortlist* with short
prefixes, and *rerank* those few with all numbers (Kusupati et al., 2022,
https://arxiv.org/abs/2205.13147, call it adaptive retrieval). A *funnel* does so in several steps.

The prefixes of a (n, D) array lie D numbers apart, so that reading them takes nearly as long as
reading everything. A :class:`PrefixIndex` holds them side by side, which makes the speed real.

Everywhere: scores are cosines as float32, rounded to 7 decimals, the best first; equal scores are
ordered by row number.
Results do not depend on the size of blocks, nor on whether an array or an index was given.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from mrl_course.arguments import (
    check_count,
    check_dims,
    check_numbers,
    check_queries,
    check_steps,
    default_dims,
)
from mrl_course.costs import search_cost, time_calls
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
    unit_rows,
)

Emb = TypeVar("Emb", np.ndarray, torch.Tensor)


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
    array = emb if isinstance(emb, torch.Tensor) else check_numbers("emb", emb)
    if array.ndim not in (1, 2) or 0 in array.shape:
        raise ValueError(f"emb must have shape (n, D) or (D,), got {tuple(array.shape)}")
    check_count("dim", dim, most=array.shape[-1], of="the numbers of an embedding")
    prefix = array[..., :dim]
    if not isinstance(emb, torch.Tensor):
        prefix = torch.from_numpy(np.array(prefix))  # torch wants memory of its own kind
    if prefix.dtype not in (torch.float32, torch.float64):
        prefix = prefix.float()
    # Dividing by the largest number first keeps the squares within the range of floats.
    peak = prefix.detach().abs().amax(dim=-1, keepdim=True)
    if not torch.isfinite(peak).all():
        row = int((~torch.isfinite(peak)).flatten().int().argmax())
        raise ValueError(f"emb holds NaN or infinite numbers, first in row {row}")
    zero = peak == 0
    if zero.any():
        row = int(zero.flatten().int().argmax())
        warnings.warn(
            f"{int(zero.sum())} of {zero.numel()} embeddings have only zeros in their first {dim} "
            f"numbers, first in row {row}; they stay zero",
            UserWarning,
            stacklevel=2,
        )
    scaled = prefix / torch.where(zero, torch.ones_like(peak), peak)
    unit = scaled / torch.where(zero, 1, torch.linalg.vector_norm(scaled, dim=-1, keepdim=True))
    return unit if isinstance(emb, torch.Tensor) else unit.numpy()


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
    check_count("top_k", top_k, most=len(rows), of="the rows of the corpus")
    found = []
    for part in parts(queries):
        for query, best in zip(part, scan(part, rows, top_k), strict=True):
            found.append(order_rows(query, rows, *best, top_k))
    return _neighbours(found, one)


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
        steps: (dim, keep) pairs: compare ``dim`` numbers of the rows left, keep the best
            ``keep``. The dims ascend; the keeps never grow, and the last is at least ``top_k``.
        top_k: results per query, 1 <= top_k <= n.

    Returns:
        The :class:`Neighbours` among the rows of the last step, by full-size cosine.

    Raises:
        TypeError, ValueError: as :func:`exact_search`; no steps, or steps in the wrong order.
    """
    full = Rows.of(corpus)
    queries, one = check_queries(queries, full.full_dim)
    check_count("top_k", top_k, most=len(full), of="the rows of the corpus")
    steps = check_steps(steps, full.full_dim, top_k)
    if not isinstance(corpus, PrefixIndex):
        corpus = PrefixIndex(full.array, steps[0][0])
        full = Rows.of(corpus)
    scanned = Rows.of(corpus, steps[0][0])
    found = []
    for part in parts(queries):
        keep = steps[0][1]
        for query, best in zip(part, scan(part, scanned, keep), strict=True):
            rows = keep_rows(query, scanned, *best, keep)
            found.append(narrow(query, full, rows, steps[1:], top_k))
    return _neighbours(found, one)


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
            ``top_k`` candidates for some query.
    """
    full = Rows.of(corpus)
    queries, one = check_queries(queries, full.full_dim)
    candidates = np.atleast_2d(np.asarray(candidates))
    if candidates.dtype.kind not in "iu":
        raise TypeError(f"candidates must be row numbers, got dtype {candidates.dtype}")
    if candidates.ndim != 2 or len(candidates) != len(queries):
        raise ValueError(
            f"{len(queries)} queries need {len(queries)} rows of candidates, "
            f"got shape {candidates.shape}"
        )
    if candidates.size and (candidates.max() >= len(full) or candidates.min() < -1):
        bad = candidates.max() if candidates.max() >= len(full) else candidates.min()
        raise ValueError(f"candidates name row {bad}, but the corpus has {len(full)} rows")
    check_count("top_k", top_k, most=candidates.shape[1], of="the candidates of a query")
    found = []
    for number, (query, rows) in enumerate(zip(queries, candidates, strict=True)):
        rows = np.unique(rows[rows >= 0]).astype(np.int64)
        if len(rows) < top_k:
            raise ValueError(f"query {number} has {len(rows)} candidates, top_k is {top_k}")
        found.append(narrow(query, full, rows, [], top_k))
    return _neighbours(found, one)


def _neighbours(found: list[tuple[np.ndarray, np.ndarray]], one: bool) -> Neighbours:
    indices, scores = (np.stack(arrays) for arrays in zip(*found, strict=True))
    return Neighbours(indices[0], scores[0]) if one else Neighbours(indices, scores)


# ------------------------------------------------------------------------- choosing a setting


@dataclass(frozen=True)
class Tuning:
    """The cheapest shortlist that finds enough, and everything that was tried.

    ``print(tuning)`` is the report; ``shortlist_rerank(queries, index, tuning.dim, tuning.size,
    top_k)`` uses it.

    Attributes:
        dim, size: of the shortlist. If ``dim`` is D, no shortlist was cheaper than exact search.
        recall: share of the exact results found, on the queries used to choose.
        checked_recall: the same on other queries, which the choice did not see.
        target_recall, top_k, full_dim, corpus_size, queries: what was asked for and of what;
            ``queries`` is how many were used to choose (as many again to check).
        chosen_by: ``"multiply_adds"`` or ``"milliseconds"``.
        table: one row per setting: ``dim, size, recall, checked_recall, bytes_read,
            multiply_adds, of_exact`` (multiply-adds as a share of exact search), ``reaches``, and
            ``milliseconds`` if measured. The last row is exact search.
    """

    dim: int
    size: int
    recall: float
    checked_recall: float
    target_recall: float
    top_k: int
    full_dim: int
    corpus_size: int
    queries: int
    chosen_by: str
    table: pd.DataFrame = field(repr=False)

    def __str__(self) -> str:
        """The cheapest setting of each dim that reaches the target, and the choice."""
        lines = [
            f"recall@{self.top_k} of at least {self.target_recall:g} among {self.corpus_size:,} "
            f"rows of {self.full_dim} numbers",
            f"chosen on {self.queries} queries, checked on as many others",
            "",
            f"{'dim':>6} {'shortlist':>10} {'recall':>7} {'checked':>8} {'multiply-adds':>14} "
            f"{'of exact':>9}" + (f" {'ms':>8}" if "milliseconds" in self.table else ""),
        ]
        for row in self.cheapest().itertuples():
            mark = "  <- chosen" if (row.dim, row.size) == (self.dim, self.size) else ""
            ms = f" {row.milliseconds:8.2f}" if "milliseconds" in self.table else ""
            lines.append(
                f"{row.dim:6} {row.size:10,} {row.recall:7.3f} {row.checked_recall:8.3f} "
                f"{row.multiply_adds:14,} {row.of_exact:9.1%}{ms}{mark}"
            )
        missing = sorted(set(self.table.dim) - set(self.cheapest().dim))
        if missing:
            sizes = ", ".join(map(str, missing))
            lines.append(
                f"no shortlist up to {self.table['size'][:-1].max():,} is enough at {sizes}"
            )
        if self.dim == self.full_dim:
            lines.append("no shortlist is cheaper than exact search here")
        return "\n".join(lines)

    def cheapest(self) -> pd.DataFrame:
        """Of each dim the smallest shortlist that reaches the target; the last row is exact."""
        reaching = self.table[self.table.reaches]
        return reaching.sort_values(["dim", "size"]).drop_duplicates("dim").reset_index(drop=True)


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
    """Find the cheapest (dim, size) with which a two-stage search finds what exact search finds.

    A result of exact search is found again if it gets onto the shortlist: the second stage then
    ranks it right. So one ranking per dim tells the recall of every size.

    Args:
        queries: (q, D) embeddings of real queries, q >= 2. Half of the sample chooses, the other
            half checks the choice; below 100 the recalls are rough.
        corpus: (n, D) embeddings or a :class:`PrefixIndex`, whose dims are then the ones tried.
        target_recall: share of the exact ``top_k`` results to be found, above 0, at most 1.
        top_k: results per query, 1 <= top_k <= n.
        dims: prefix sizes to try; by default those of ``DEFAULT_DIMS`` below D.
        sizes: shortlist sizes to try, each at least ``top_k``; by default ``top_k`` times 1, 2, 5,
            10, 20, 50, ... up to n / 4.
        sample: at most so many queries are used, drawn at random.
        measure: time the cheapest setting of each dim, and exact search, one query at a time on
            this machine, and choose by that. Otherwise choose by multiply-adds, which is the
            same on every machine.
        seed: of the sample.

    Returns:
        A :class:`Tuning`. Exact search always reaches the target, so there always is one.

    Raises:
        TypeError, ValueError: as :func:`exact_search`; fewer than 2 queries, target out of
            range, sizes below ``top_k``.
    """
    full = Rows.of(corpus)
    queries, _ = check_queries(queries, full.full_dim)
    n, full_dim = len(full), full.full_dim
    check_count("top_k", top_k, most=n, of="the rows of the corpus")
    if not 0 < target_recall <= 1:
        raise ValueError(f"target_recall must be above 0 and at most 1, got {target_recall}")
    if len(queries) < 2 or sample < 2:
        raise ValueError("give at least 2 queries: one half chooses, the other half checks")
    if dims is None:
        dims = corpus.dims if isinstance(corpus, PrefixIndex) else default_dims(full_dim)
    dims = [k for k in sorted(check_dims(dims, full_dim)) if k < full_dim]
    sizes = _shortlist_sizes(sizes, top_k, n)
    drawn = np.random.default_rng(seed).permutation(len(queries))[:sample]
    queries = queries[drawn[: 2 * (len(drawn) // 2)]]
    half = len(queries) // 2
    truth = exact_search(queries, corpus, top_k).indices
    trials = []
    for dim in dims:
        index = corpus if isinstance(corpus, PrefixIndex) else PrefixIndex(corpus, dim)
        places = _places(queries, Rows.of(index, dim), truth)
        for size in sizes:
            found = places < size
            recalls = float(found[:half].mean()), float(found[half:].mean())
            trials.append((dim, size, *recalls, search_cost(n, full_dim, dim, size)))
    trials.append((full_dim, top_k, 1.0, 1.0, search_cost(n, full_dim)))
    table = _trial_table(trials, target_recall)
    chosen_by = "multiply_adds"
    if measure:
        chosen_by = "milliseconds"
        table[chosen_by] = _measured(table, queries[:half], corpus, top_k)
    best = table[table.reaches].sort_values([chosen_by, "multiply_adds"]).iloc[0]
    return Tuning(
        int(best.dim), int(best["size"]), float(best.recall), float(best.checked_recall),
        float(target_recall), int(top_k), full_dim, n, half, chosen_by, table,
    )  # fmt: skip


def _shortlist_sizes(sizes: Sequence[int] | None, top_k: int, n: int) -> list[int]:
    if sizes is None:
        sizes = [top_k * factor * 10**power for power in range(9) for factor in (1, 2, 5)]
        return [size for size in sizes if size <= max(top_k, n // 4)]
    for size in sizes:
        check_count("a shortlist size", size, most=n, of="the rows of the corpus")
        if size < top_k:
            raise ValueError(f"a shortlist of {size} cannot hold top_k = {top_k} results")
    if not len(sizes):
        raise ValueError("sizes is empty; give at least one shortlist size")
    return sorted({int(size) for size in sizes})


def _places(queries: np.ndarray, rows: Rows, truth: np.ndarray) -> np.ndarray:
    """(q, top_k): how many rows stand before each of these rows in the order of the prefix."""
    places = np.zeros(truth.shape, np.int64)
    for first in range(0, len(queries), QUERIES):
        part = queries[first : first + QUERIES]
        unit = unit_rows(part[:, : rows.dim])
        own = [rows.fast_scores_at(*pair) for pair in zip(part, truth[first:], strict=False)]
        for which in rows.blocks(len(part)):
            scores = rows.fast_scores(unit, which)
            for i in range(len(part)):
                hits = np.flatnonzero(scores[i] >= own[i].min() - SAME)
                values = scores[i, hits]
                for j, (row, score) in enumerate(zip(truth[first + i], own[i], strict=True)):
                    ahead = values > score + SAME
                    ahead |= (values >= score - SAME) & (hits + which.start < row)
                    places[first + i, j] += ahead.sum()
    return places


def _trial_table(trials: list[tuple], target_recall: float) -> pd.DataFrame:
    columns = ["dim", "size", "recall", "checked_recall"]
    table = pd.DataFrame([trial[:4] for trial in trials], columns=columns)
    table["bytes_read"] = [cost.bytes_read for *_, cost in trials]
    table["multiply_adds"] = [cost.multiply_adds for *_, cost in trials]
    table["of_exact"] = table.multiply_adds / trials[-1][-1].multiply_adds
    table["reaches"] = table.recall >= target_recall - 1e-12  # 0.99 as a mean of tenths
    return table


def _measured(table: pd.DataFrame, queries: np.ndarray, corpus, top_k: int) -> list[float]:
    """Median milliseconds of one query, for the smallest sufficient shortlist of each dim."""
    milliseconds = np.full(len(table), np.nan)
    exact = len(table) - 1
    for place in table[table.reaches].drop_duplicates("dim").index:
        setting = int(table.dim[place]), int(table["size"][place])
        held = isinstance(corpus, PrefixIndex)
        index = corpus if held else PrefixIndex(corpus, setting[0])
        if place == exact:
            search = partial(exact_search, corpus=index, top_k=top_k)
        else:
            search = partial(_two_stages, index=index, setting=setting, top_k=top_k)
        search(queries[0])  # fills caches
        times = [time_calls(partial(search, query), runs=1, warmup=0) for query in queries[:15]]
        milliseconds[place] = np.median([timing.median for timing in times])
    return milliseconds.tolist()


def _two_stages(query: np.ndarray, index: PrefixIndex, setting: tuple[int, int], top_k: int):
    return shortlist_rerank(query, index, *setting, top_k)
