"""A plan is arithmetic: checked by hand once, and by its laws everywhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_course.costs import search_cost
from mrl_course.planning import (
    Pieces,
    Way,
    copies_needed,
    default_ways,
    encode_hours,
    machines_needed,
    plan,
    scan_seconds,
)

PIECES = Pieces(scan_rate={32: 20e9, 8: 5e9, 1: 20e9}, read_rate=50_000, ram=48e9)
numbers = st.integers(1, 10**9)
positive = st.floats(1e-3, 1e12)


def test_a_hundred_million_by_hand():
    got = plan(100_000_000, 768, PIECES, default_ways(768, 64, 1_000))
    assert list(got.index) == [
        "float32, all 768", "int8, all 768", "float32, first 64 only",
        "float32, first 64, rerank", "int8, first 64, rerank", "binary, first 512, rerank",
    ]  # fmt: skip
    assert list(got.memory) == [307.2e9, 76.8e9, 25.6e9, 25.6e9, 6.4e9, 6.4e9]
    assert list(got.disk) == [0, 0, 0, 307.2e9, 307.2e9, 307.2e9]
    assert list(got.machines) == [7, 2, 1, 1, 1, 1]  # 307.2 / 48 = 6.4; 76.8 / 48 = 1.6
    assert list(got.rerank) == [0, 0, 0, 0.02, 0.02, 0.04]
    scans = [307.2 / 7 / 20, 76.8 / 2 / 5, 25.6 / 20, 25.6 / 20, 6.4 / 5, 6.4 / 20]
    assert list(got.scan) == pytest.approx(scans)
    assert list(got.seconds) == pytest.approx([a + b for a, b in zip(scans, got.rerank)])  # noqa: B905
    assert list(got.times) == pytest.approx([1, 4, 12, 12, 48, 48])


def test_a_rate_of_its_own_beats_that_of_the_bits():
    ways = [Way("a", 64), Way("b", 64)]
    got = plan(1_000_000, 768, PIECES, ways, {"b": 10e9})
    assert got.scan["a"] == pytest.approx(0.0128) and got.scan["b"] == pytest.approx(0.0256)


def test_the_small_formulae_by_hand():
    assert machines_needed(100, 30) == 4 and machines_needed(90, 30) == 3
    assert machines_needed(1, 1e12) == 1
    assert scan_seconds(60e9, 20e9) == 3 and scan_seconds(60e9, 20e9, machines=3) == 1
    assert encode_hours(100_000_000, 1_000) == pytest.approx(27.777, abs=1e-3)
    assert encode_hours(7_200, 1, processes=2) == 1
    assert copies_needed(100, 0.05) == 5 and copies_needed(101, 0.05) == 6
    assert copies_needed(1, 0.001) == 1


@settings(deadline=None)
@given(numbers, st.integers(2, 4096), st.data())
def test_memory_and_disk_are_those_of_search_cost(n, full_dim, data):
    way = Way("x", data.draw(st.integers(1, full_dim)), data.draw(st.sampled_from([1, 8, 32])),
              data.draw(st.integers(0, 5000)))  # fmt: skip
    got = plan(n, full_dim, PIECES, [way]).iloc[0]
    cost = search_cost(n, full_dim, way.dim, way.shortlist_size, bits=way.bits)
    assert got.memory + got.disk == cost.bytes_stored
    assert got.disk == (4 * n * full_dim if way.shortlist_size else 0)
    assert got.seconds == got.scan + got.rerank
    assert got.memory <= got.machines * PIECES.ram
    assert got.machines == 1 or got.memory > (got.machines - 1) * PIECES.ram


def test_a_shortlist_longer_than_the_store_reads_each_row_once():
    rerank = plan(10, 8, PIECES, [Way("short", 4, 32, 5), Way("long", 4, 32, 50)]).rerank
    assert rerank["long"] == 2 * rerank["short"] == 10 / PIECES.read_rate


@settings(deadline=None)
@given(numbers, numbers, st.integers(2, 2048), st.data())
def test_more_rows_never_cost_less_and_costs_add_up(a, b, full_dim, data):
    prefix = data.draw(st.integers(1, full_dim))
    ways = default_ways(full_dim, prefix, 100)
    small, large, both = (plan(n, full_dim, PIECES, ways) for n in (a, a + b, b))
    for column in ("memory", "disk", "machines"):
        assert (small[column] <= large[column]).all()
    assert (small.memory + both.memory == large.memory).all()
    assert (small.disk + both.disk == large.disk).all()
    assert (large.machines <= small.machines + both.machines).all()
    # The more numbers and bits are compared, the more memory.
    assert large.memory.iloc[0] >= large.memory.iloc[3] >= large.memory.iloc[4]
    # One machine more may not make a query slower: each scans its part.
    assert (large.scan <= large.memory / [PIECES.scan_rate[w.bits] for w in ways] + 1e-9).all()


def test_numbers_of_numpy_are_numbers_and_do_not_overflow():
    """One hundred million rows of 3,072 bytes do not fit an int32."""
    ways = [Way("x", np.int32(768))]
    got = plan(np.int32(100_000_000), np.int32(768), PIECES, ways)
    assert got.memory["x"] == 307_200_000_000
    assert machines_needed(np.float32(100), np.int64(30)) == 4


@settings(deadline=None)
@given(positive, positive, st.integers(1, 1000))
def test_more_machines_and_faster_ones_never_take_longer(memory, rate, machines):
    alone = scan_seconds(memory, rate)
    assert scan_seconds(memory, rate, machines) == pytest.approx(alone / machines)
    assert scan_seconds(memory, 2 * rate) == pytest.approx(alone / 2)
    assert encode_hours(memory, rate, machines) == pytest.approx(alone / machines / 3600)
    assert machines_needed(memory, rate) >= memory / rate > machines_needed(memory, rate) - 1 - 1e-6


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: plan(0, 768, PIECES, [Way("a", 64)]), ValueError, "n must be at least 1"),
        (lambda: plan(10, 768, PIECES, []), ValueError, "ways is empty"),
        (
            lambda: plan(10.5, 768, PIECES, [Way("a", 64)]),
            TypeError,
            "n must be an integer, got 10",
        ),
        (lambda: plan(10, 768, PIECES, Way("a", 64)), TypeError, "ways must be a list of Way"),
        (lambda: plan(10, 768, PIECES, ["a"]), TypeError, "got 'a' at place 0"),
        (lambda: plan(10, 768, PIECES, [Way("a", 64)], {"b": 1}), ValueError, r"names \['b'\]"),
        (lambda: machines_needed(np.array([1.0, 2.0]), 5), TypeError, "memory must be a number"),
        (lambda: machines_needed(True, 5), TypeError, "memory must be a number, got True"),
        (lambda: plan(10, 8, PIECES, [Way("a", 9)]), ValueError, "dim must be between 1 and 8"),
        (lambda: plan(10, 8, PIECES, [Way("a", 8), Way("a", 4)]), ValueError, "name of its own"),
        (lambda: plan(10, 8, PIECES, [Way("a", 8, 16)]), ValueError, "no scan_rate for 16 bits"),
        (lambda: plan(10, 8, Pieces({32: 0}, 1, 1), [Way("a", 8)]), ValueError, "rate must be abo"),
        (lambda: plan(10, 8, Pieces({32: 1}, 0, 1), [Way("a", 8)]), ValueError, "read_rate must"),
        (lambda: machines_needed(0, 5), ValueError, "memory must be above 0"),
        (lambda: machines_needed(5, float("nan")), ValueError, "ram must be above 0 and finite"),
        (lambda: scan_seconds(5, "fast"), TypeError, "rate must be a number, got 'fast'"),
        (lambda: encode_hours(5, 5, 0), ValueError, "processes must be at least 1"),
        (lambda: default_ways(8, 9, 5), ValueError, "dim must be between 1 and 8"),
    ],
)
def test_bad_input_is_named(call, error, match):
    with pytest.raises(error, match=match):
        call()
