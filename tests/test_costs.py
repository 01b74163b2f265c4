"""Costs on paper are plain arithmetic; costs in milliseconds are measured, not computed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_course import costs
from mrl_course.costs import search_cost, time_calls, vector_bytes


def test_bytes_of_a_vector():
    assert vector_bytes(768) == 3072
    assert vector_bytes(64, bits=8) == 64
    assert vector_bytes(768, bits=1) == 96
    assert vector_bytes(12, bits=1) == 2  # whole bytes


def test_two_stages_on_paper():
    cost = search_cost(1_000_000, 768, 64, 200)
    assert cost.multiply_adds == 64_000_000 + 200 * 768
    assert cost.bytes_read == 256_000_000 + 200 * 3072
    assert cost.bytes_stored == 256_000_000 + 3_072_000_000
    binary = search_cost(1_000_000, 768, 512, 200, bits=1, full_bits=8)
    assert binary.bytes_stored == 64_000_000 + 768_000_000
    assert search_cost(1000, 768, 64).bytes_stored == 256_000  # no second stage: the rest can go


@settings(deadline=None)
@given(st.integers(1, 10**9), st.integers(1, 4096))
def test_exact_search_reads_and_multiplies_everything(n, dim):
    cost = search_cost(n, dim)
    assert cost.bytes_stored == cost.bytes_read == 4 * n * dim
    assert cost.multiply_adds == n * dim
    assert search_cost(n, dim, dim, 10**12).multiply_adds == 2 * n * dim  # a shortlist of all


def test_timing_has_a_median_and_a_spread(monkeypatch):
    clock = iter([0, 0.003, 10, 10.001, 20, 20.002])
    monkeypatch.setattr(costs.time, "perf_counter", lambda: next(clock))
    calls = []
    timing = time_calls(lambda: calls.append(1), runs=3, warmup=2)
    assert len(calls) == 5
    assert (timing.median, timing.low, timing.high) == pytest.approx((2, 1, 3))
    assert str(timing) == "2.00 ms [1.00 to 3.00, 3 runs]"


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: vector_bytes(0), ValueError, "dim must be at least 1"),
        (lambda: vector_bytes(8, bits=0.5), TypeError, "bits must be an integer"),
        (lambda: search_cost(0, 8), ValueError, "n must be at least 1"),
        (lambda: search_cost(10, 8, 9), ValueError, "dim must be between 1 and 8 .*got 9"),
        (
            lambda: search_cost(10, 8, 4, -1),
            ValueError,
            "shortlist_size must be at least 0, got -1",
        ),
        (lambda: search_cost(10, 8, 4, False), TypeError, "shortlist_size must be an integer"),
        (lambda: time_calls(3), TypeError, "call must be a function without arguments, got 3"),
        (lambda: time_calls(int, runs=0), ValueError, "runs must be at least 1"),
        (lambda: time_calls(int, warmup=-1), ValueError, "warmup must be at least 0"),
    ],
)
def test_bad_input_is_named(call, error, match):
    with pytest.raises(error, match=match):
        call()
