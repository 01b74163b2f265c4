"""What a vector search costs: bytes, multiply-adds, and milliseconds that were measured.

The first two are arithmetic and hold everywhere. The third is what people wait for; it depends on
memory, caches and libraries, and does not follow from the others. So it is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mrl_course.arguments import check_count
from mrl_course.errors import WrongKind


@dataclass(frozen=True)
class SearchCost:
    """Cost of one query, on paper.

    Attributes:
        bytes_stored: of all vectors that the search needs.
        bytes_read: from memory, for one query.
        multiply_adds: products that are computed and summed, for one query.
    """

    bytes_stored: int
    bytes_read: int
    multiply_adds: int


def vector_bytes(dim: int, bits: int = 32) -> int:
    """Bytes of one vector of ``dim`` numbers of ``bits`` bits each, rounded up to whole bytes.

    Raises:
        TypeError, ValueError: not an integer, or below 1.
    """
    return -(-check_count("dim", dim) * check_count("bits", bits) // 8)


def search_cost(
    n: int,
    full_dim: int,
    dim: int | None = None,
    shortlist_size: int = 0,
    *,
    bits: int = 32,
    full_bits: int = 32,
) -> SearchCost:
    """What it costs to compare a query with ``dim`` numbers of all rows, then to rerank a few.

    Args:
        n: corpus rows.
        full_dim: D, numbers of a full vector.
        dim: numbers compared with every row; all by default, which is exact search.
        shortlist_size: rows compared again with all D numbers; 0 for no second stage, and then no
            full vectors need to be stored.
        bits: of each number in the first stage: 32 float32, 8 int8, 1 binary.
        full_bits: of each number of the full vectors.

    Returns:
        The :class:`SearchCost`. With 1-bit numbers a multiply-add stands for one bit compared.

    Raises:
        TypeError, ValueError: not integers, out of range; ``dim`` above D.
    """
    n, full_dim = check_count("n", n), check_count("full_dim", full_dim)
    of = "the numbers of an embedding"
    dim = full_dim if dim is None else check_count("dim", dim, most=full_dim, of=of)
    shortlist_size = min(check_count("shortlist_size", shortlist_size, least=0), n)
    short, full = vector_bytes(dim, bits), vector_bytes(full_dim, full_bits)
    return SearchCost(
        bytes_stored=n * (short + (full if shortlist_size else 0)),
        bytes_read=n * short + shortlist_size * full,
        multiply_adds=n * dim + shortlist_size * full_dim,
    )


@dataclass(frozen=True)
class Timing:
    """Milliseconds of several runs of the same call: the median, the fastest, the slowest."""

    median: float
    low: float
    high: float
    runs: int

    def __str__(self) -> str:
        """The median, and the spread in brackets."""
        return f"{self.median:,.2f} ms [{self.low:,.2f} to {self.high:,.2f}, {self.runs} runs]"


def time_calls(call: Callable[[], object], runs: int = 7, warmup: int = 1) -> Timing:
    """Run ``call`` several times and measure the wall-clock time of each run.

    Args:
        call: takes no arguments, for example ``lambda: exact_search(query, corpus, 10)``.
        runs: measured runs, at least 1.
        warmup: runs before that, not measured: the first one fills caches and starts threads.

    Raises:
        TypeError, ValueError: ``runs`` below 1, ``warmup`` below 0, not integers; no function.
    """
    if not callable(call):
        raise WrongKind(f"call must be a function without arguments, got {call!r}")
    runs = check_count("runs", runs)
    for _ in range(check_count("warmup", warmup, least=0)):
        call()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    milliseconds = 1000 * np.array(seconds)
    low, high = float(milliseconds.min()), float(milliseconds.max())
    return Timing(float(np.median(milliseconds)), low, high, runs)
