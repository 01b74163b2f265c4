"""What lesson 07 builds by hand is what the package and the page do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lesson_source import functions_of

from mrl_course import demo

LESSON = functions_of("07_interactive_demo")


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 20), st.integers(1, 10), st.integers(0, 10**6))
def test_codes_and_scales_are_the_packages(n, dim, seed):
    emb = np.random.default_rng(seed).normal(size=(n, dim))
    codes, scales = LESSON["to_int8"](emb)
    want_codes, want_scales = demo.quantise_rows(emb)
    np.testing.assert_allclose(scales, want_scales, rtol=1e-6)
    assert codes.dtype == np.int8
    assert np.abs(codes.astype(int) - want_codes).max() <= 1  # float32 scales may round a tie
    assert (codes == want_codes).mean() > 0.9


@pytest.mark.parametrize("seed", range(6))
def test_search_and_overlap_are_the_packages(seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(-127, 128, (60, 9)).astype(np.int8)
    query = rng.normal(size=9)
    for k in range(1, 10):
        mine = LESSON["scores_at"](query, codes, k)
        np.testing.assert_allclose(mine, demo.prefix_scores(query, codes, k), atol=1e-9)
    # k = 1 is left out: all scores are equal up to the last digit, and the order is luck.
    mine = LESSON["overlap_at_every_k"](query, codes)
    np.testing.assert_array_equal(mine[1:], demo.overlap_curve(query, codes)[1:])


def test_the_shown_bug_is_right_at_full_size_and_wrong_at_small_k():
    rng = np.random.default_rng(2)
    codes = rng.integers(-127, 128, (200, 16)).astype(np.int8)
    query = rng.normal(size=16)
    buggy, right = LESSON["buggy_scores"], LESSON["scores_at"]
    assert buggy(query, codes, 16) == pytest.approx(right(query, codes, 16))
    assert np.argmax(buggy(query, codes, 3)) != np.argmax(right(query, codes, 3))


def test_break_point():
    assert demo.break_point([0, 6, 4, 5, 10], 5) == 4
    assert demo.break_point([5, 5], 5) == 1
    with pytest.raises(ValueError, match="never is whole"):
        demo.break_point([9, 4], 5)
    with pytest.raises(ValueError, match="at least one value"):
        demo.break_point([], 5)
