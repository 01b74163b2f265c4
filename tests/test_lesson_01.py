"""What lesson 01 builds by hand is what the package does, and its exercises grade fairly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lesson_source import functions_of

from mrl_course import check
from mrl_course.check.lesson_01 import largest_size, recommend
from mrl_course.costs import vector_bytes
from mrl_course.search import exact_search, truncate

LESSON = functions_of("01_embeddings_and_their_cost")
SEEDS = st.integers(0, 10**6)


def vectors(seed, n, dim):
    """(n, dim) vectors of very different lengths."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, dim)) * rng.uniform(0.1, 10, size=(n, 1))


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 40), st.integers(2, 12), SEEDS)
def test_nearest_and_cosine_are_exact_search(n, dim, seed):
    query, *corpus = vectors(seed, n + 1, dim)
    corpus = np.array(corpus)
    indices, scores = exact_search(query, corpus, top_k=n)
    np.testing.assert_array_equal(LESSON["nearest"](query, corpus, n), indices)
    by_hand = [LESSON["cosine"](query, corpus[row]) for row in indices]
    np.testing.assert_allclose(by_hand, scores, atol=1e-6)


def test_nearest_keeps_the_order_of_equal_cosines():
    corpus = np.tile([1.0, 2.0], (30, 1))
    np.testing.assert_array_equal(LESSON["nearest"](corpus[0], corpus, 5), range(5))


@settings(deadline=None, max_examples=30)
@given(st.integers(12, 40), st.integers(2, 8), SEEDS)
def test_recommend_is_the_answer_of_the_exercise(n, dim, seed):
    items = vectors(seed, n, dim)
    liked = np.random.default_rng(seed).choice(n, size=3, replace=False)
    rows = LESSON["recommend"](liked, truncate(items, dim), 5)
    np.testing.assert_array_equal(rows, recommend(liked, items, 5))
    assert len(rows) == 5 and not np.isin(rows, liked).any()


def test_share_in_majority_counts_by_hand():
    cluster = np.array([0, 0, 0, 1, 1])
    labels = np.array(["a", "a", "b", "b", "b"])
    assert LESSON["share_in_majority"](cluster, labels) == pytest.approx(4 / 5)


def test_share_together_counts_pairs_of_different_libraries_only():
    cluster = np.array([0, 0, 0, 1])
    libraries = np.array(["a", "b", "b", "a"])  # pairs 0-1, 0-2 share; 1-3, 2-3 do not
    rows = np.arange(4)
    assert LESSON["share_together"](rows, cluster, libraries) == pytest.approx(1 / 2)


def test_share_from_same_module_is_all_or_nothing_at_the_extremes():
    rng = np.random.default_rng(0)
    modules = np.repeat(["a", "b"], 10)
    groups = np.repeat([[1.0, 0.0], [0.0, 1.0]], 10, axis=0)
    items = truncate(groups + 0.01 * rng.normal(size=(20, 2)), 2)
    assert LESSON["share_from_same_module"]("a", items, modules, rng) == 1
    swapped = np.array(["a"] * 3 + ["b"] * 10 + ["a"] * 7)  # liked: always a minority nearby
    assert LESSON["share_from_same_module"]("a", items, swapped, rng) < 1


def test_content_words_leave_out_short_and_common_words():
    words = LESSON["content_words"]("The FFT of an array, array-like", {"the", "like"})
    assert words == {"fft", "array"}


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 10**6), st.integers(1, 1000), st.sampled_from([1, 4, 8, 16, 32, 64]))
def test_the_largest_size_fits_and_one_more_does_not(budget, n, bits):
    size = largest_size(budget, n, bits)
    assert size == 0 or n * vector_bytes(size, bits) <= budget
    assert n * vector_bytes(size + 1, bits) > budget


def test_a_search_that_returns_scores_too_is_accepted():
    check.neighbours_by_cosine(lambda query, corpus, top_k: exact_search(query, corpus, top_k))
    assert check.neighbours_by_cosine.state == "correct"


def test_the_bugs_that_the_lesson_shows_are_found():
    check.neighbours_by_cosine(LESSON["search_with_a_bug"])
    assert "dot product" in check.neighbours_by_cosine.message
    check.bytes_of_a_vector(LESSON["bits_of_a_vector"])
    assert "counted it twice" in check.bytes_of_a_vector.message
    check.recommendation(LESSON["recommend"])  # right only for items of length 1
    assert check.recommendation.state == "wrong"
