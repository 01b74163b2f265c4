"""What lesson 04 builds by hand is what the package does, and its published numbers are cited."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lesson_source import functions_of

from mrl_course.evaluation import Curve, similarity_curve

LESSON = functions_of("04_dimension_retention")


@pytest.mark.filterwarnings("ignore:invalid value")  # k = 1: all cosines may be equal
@settings(deadline=None, max_examples=50)
@given(st.integers(3, 30), st.integers(1, 10), st.integers(0, 10**6))
def test_curve_in_one_pass_is_the_packages_curve(n, dim, seed):
    rng = np.random.default_rng(seed)
    emb1, emb2 = rng.normal(size=(2, n, dim))
    scores = rng.permutation(n)
    curve = similarity_curve(emb1, emb2, scores, dims=range(2, dim + 1) if dim > 1 else None)
    one_pass = LESSON["curve_in_one_pass"](emb1, emb2, scores)
    assert one_pass.shape == (dim,)
    for k in curve:
        if k == 1:
            continue  # cosines are 1 or -1: equal on paper, not in the last digit
        assert one_pass[k - 1] == pytest.approx(curve[k], abs=1e-6)
        assert LESSON["score_of_prefix"](emb1, emb2, scores, k) == pytest.approx(curve[k], abs=1e-6)


def test_a_prefix_of_zeros_has_cosine_zero():
    emb = np.array([[0.0, 1.0], [1.0, 0.0]])
    np.testing.assert_array_equal(
        LESSON["cosines_of_all_prefixes"](emb, emb), [[0.0, 1.0], [1.0, 1.0]]
    )


def test_above_line_is_the_distance_from_the_straight_line_over_the_log_axis():
    curve = Curve({8: 0.2, 16: 0.5, 32: 0.6}, "score", 32, 0.6)
    assert LESSON["above_line"](curve, 16, 8, 32) == pytest.approx(0.1)  # the middle of the line
    assert LESSON["above_line"](curve, 8, 8, 32) == pytest.approx(0)
