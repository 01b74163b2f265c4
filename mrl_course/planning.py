"""From measured pieces to a system that is too large to try: memory, disk, machines, time.

All of it is arithmetic over what *you* measured on one machine: bytes that a scan reads in a
second, rows that a disk reads in a second, texts that a model encodes in a second. It leaves out
networks, replicas, growth and failures; multiply for those, do not hope.

A giga here is 10**9, as on the label of a disk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from mrl_course.arguments import check_count, check_number
from mrl_course.costs import search_cost, vector_bytes
from mrl_course.errors import WrongKind, WrongValue

GIGA = 10**9


@dataclass(frozen=True)
class Way:
    """One way to store and search vectors.

    Attributes:
        name: for the table.
        dim: numbers compared with every row.
        bits: of each of them: 32 float32, 8 int8, 1 binary.
        shortlist_size: rows that are compared again with the full float32 vectors; 0 for none, and
            then no full vectors are kept.
    """

    name: str
    dim: int
    bits: int = 32
    shortlist_size: int = 0


@dataclass(frozen=True)
class Pieces:
    """What was measured, or assumed, about one machine.

    Attributes:
        scan_rate: bits of a number -> bytes of vectors scanned in a second, by one query.
        read_rate: full vectors read from disk in a second, at random places.
        ram: bytes of memory for vectors on a machine; leave some for everything else.
    """

    scan_rate: Mapping[int, float]
    read_rate: float
    ram: float


def default_ways(full_dim: int, dim: int, shortlist_size: int) -> list[Way]:
    """Six ways to compare: full float32 and int8, prefixes in float32 and int8, and sign bits.

    The last three have a second stage, and the binary one, which loses most, a shortlist twice
    as long over a prefix of two thirds of the numbers.

    Args:
        full_dim: D, at least 2.
        dim: numbers of the prefix, 1 to D.
        shortlist_size: rows that the prefixes find for the second stage, at least 1.

    Raises:
        TypeError, ValueError: not integers, or out of range.
    """
    full_dim = check_count("full_dim", full_dim, least=2)
    dim = check_count("dim", dim, most=full_dim, of="the numbers of an embedding")
    shortlist_size = check_count("shortlist_size", shortlist_size)
    binary = math.ceil(2 * full_dim / 3)
    return [
        Way(f"float32, all {full_dim}", full_dim),
        Way(f"int8, all {full_dim}", full_dim, 8),
        Way(f"float32, first {dim} only", dim),
        Way(f"float32, first {dim}, rerank", dim, 32, shortlist_size),
        Way(f"int8, first {dim}, rerank", dim, 8, shortlist_size),
        Way(f"binary, first {binary}, rerank", binary, 1, 2 * shortlist_size),
    ]


def machines_needed(memory: float, ram: float) -> int:
    """Machines that together hold ``memory`` bytes, each at most ``ram``; at least one.

    Raises:
        TypeError, ValueError: no numbers; no memory to hold, or no room on a machine.
    """
    return max(1, math.ceil(_positive("memory", memory) / _positive("ram", ram)))


def scan_seconds(memory: float, rate: float, machines: int = 1) -> float:
    """Seconds in which ``machines`` read ``memory`` bytes, each its part, at ``rate`` a second.

    Raises:
        TypeError, ValueError: something that is no number above 0.
    """
    machines = check_count("machines", machines)
    return _positive("memory", memory) / machines / _positive("rate", rate)


def encode_hours(texts: float, texts_per_second: float, processes: int = 1) -> float:
    """Hours until ``texts`` are vectors, by ``processes`` that each do ``texts_per_second``.

    Measure the rate with as many processes at work as there will be on that machine: they share
    its cores and its memory.

    Raises:
        TypeError, ValueError: something that is no number above 0.
    """
    processes = check_count("processes", processes)
    rate = _positive("texts_per_second", texts_per_second) * processes
    return _positive("texts", texts) / rate / 3600


def copies_needed(queries_per_second: float, seconds_per_query: float) -> int:
    """Copies of the system that answer so many queries, each busy ``seconds_per_query`` with one.

    Raises:
        TypeError, ValueError: something that is no number above 0.
    """
    queries = _positive("queries_per_second", queries_per_second)
    busy = queries * _positive("seconds_per_query", seconds_per_query)
    return max(1, math.ceil(busy * (1 - 1e-12)))


def plan(
    n: int,
    full_dim: int,
    pieces: Pieces,
    ways: Sequence[Way],
    rates_of_ways: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """The bill of each way: what it holds in memory and on disk, and how long a query takes.

    Args:
        n: vectors.
        full_dim: D of the full vectors.
        pieces: of one machine.
        ways: see :class:`Way`, for example :func:`default_ways`; names differ.
        rates_of_ways: bytes scanned in a second, by name of a way, where that differs from the
            ``scan_rate`` for its bits.

    Returns:
        A frame indexed by the name of the way, with
        ``memory`` (bytes scanned by every query), ``disk`` (bytes of the full vectors that a
        second stage reads), ``machines`` (whose memory holds it; each scans its part),
        ``scan`` and ``rerank`` (seconds of the two stages), ``seconds`` (their sum), and ``times``
        (how many times less memory than the first way).

    Raises:
        TypeError, ValueError: no ways, equal names, sizes out of range, a rate that is missing or
            not above 0.
    """
    n = check_count("n", n)
    ways, rates = _checked_ways(ways), dict(rates_of_ways or {})
    unknown = set(rates) - {way.name for way in ways}
    if unknown:
        raise WrongValue(
            f"rates_of_ways names {sorted(map(str, unknown))}, which is none of the ways "
            f"{[way.name for way in ways]}"
        )
    rows = []
    for way in ways:
        rate = rates.get(way.name, pieces.scan_rate.get(way.bits))
        if rate is None:
            raise WrongValue(
                f"no scan_rate for {way.bits} bits ({way.name}); measured: "
                f"{sorted(pieces.scan_rate)}"
            )
        cost = search_cost(n, full_dim, way.dim, way.shortlist_size, bits=way.bits)
        memory = n * vector_bytes(way.dim, way.bits)
        machines = machines_needed(memory, pieces.ram)
        scan = scan_seconds(memory, rate, machines)
        rerank = min(way.shortlist_size, n) / _positive("read_rate", pieces.read_rate)
        rows.append((memory, cost.bytes_stored - memory, machines, scan, rerank, scan + rerank))
    columns = ["memory", "disk", "machines", "scan", "rerank", "seconds"]
    index = pd.Index([way.name for way in ways], name="way")
    frame = pd.DataFrame(rows, columns=columns, index=index)
    frame["times"] = frame.memory.iloc[0] / frame.memory
    return frame


def _checked_ways(ways: Sequence[Way]) -> list[Way]:
    if isinstance(ways, Way) or not hasattr(ways, "__iter__"):
        raise WrongKind(f"ways must be a list of Way, got {ways!r}")
    checked = list(ways)
    for place, way in enumerate(checked):
        if not isinstance(way, Way):
            raise WrongKind(f"ways must be a list of Way, got {way!r} at place {place}")
    if not checked:
        raise WrongValue("ways is empty; give at least one Way")
    names = [way.name for way in checked]
    if len(set(names)) < len(names):
        raise WrongValue(f"each way needs a name of its own, got {names}")
    return checked


def _positive(name: str, value: float) -> float:
    return check_number(name, value, above=0)
