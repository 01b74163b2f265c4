"""What lesson 06 builds by hand is what the package does, and its bugs are bugs."""

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lesson_source import functions_of

from mrl_course import check
from mrl_course.check import lesson_06 as exercises
from mrl_course.costs import search_cost
from mrl_course.search import (
    exact_search,
    funnel_search,
    shortlist_rerank,
    truncate,
    tune_shortlist,
)

LESSON = functions_of("06_shortlist_and_rerank")
seeds = st.integers(0, 10**6)


def vectors(seed, rows=60, dim=12):
    """Unit queries and corpus; random, so that no two cosines of 3 or more numbers are equal."""
    rng = np.random.default_rng(seed)
    emb = rng.normal(size=(rows + 3, dim)) * 0.8 ** np.arange(dim)
    return np.split(truncate(emb.astype(np.float32), dim), [3])


@settings(deadline=None, max_examples=50)
@given(seeds, st.integers(3, 12), st.integers(5, 60))
def test_two_stages_by_hand_are_those_of_the_package(seed, dim, size):
    queries, corpus = vectors(seed)
    prefixes = truncate(corpus, dim)
    got = [LESSON["two_stages"](query, corpus, prefixes, size, 5) for query in queries]
    want = shortlist_rerank(queries, corpus, dim, size, 5)
    np.testing.assert_array_equal(got, want.indices)
    exact = [LESSON["exact"](query, corpus, 5) for query in queries]
    np.testing.assert_array_equal(exact, exact_search(queries, corpus, 5).indices)


@settings(deadline=None, max_examples=50)
@given(seeds, st.sets(st.integers(3, 11), min_size=1, max_size=3), st.data())
def test_the_funnel_by_hand_is_that_of_the_package(seed, dims, data):
    keeps = data.draw(st.lists(st.integers(4, 60), min_size=len(dims), max_size=len(dims)))
    steps = list(zip(sorted(dims), sorted(keeps, reverse=True), strict=True))
    queries, corpus = vectors(seed)
    prefixes = truncate(corpus, steps[0][0])
    got = [LESSON["funnel"](query, corpus, prefixes, steps, 4) for query in queries]
    np.testing.assert_array_equal(got, funnel_search(queries, corpus, steps, 4).indices)


def test_the_cost_of_a_funnel_is_the_sum_of_its_rounds():
    cost = LESSON["funnel_cost"]
    assert cost(1000, 768, [(32, 50)]) == search_cost(1000, 768, 32, 50).multiply_adds
    assert cost(1000, 100, [(4, 50), (10, 20)]) == 1000 * 4 + 50 * 10 + 20 * 100


def test_the_two_recalls_count_what_they_say():
    found = np.array([[1, 2, 3], [4, 5, 6]])
    wanted = np.array([[3, 1, 9], [6, 5, 4]])
    assert LESSON["share_found"](found, wanted) == pytest.approx((2 / 3 + 1) / 2)
    assert LESSON["share_right"](found, np.array([3, 9])) == 0.5


def test_a_graph_that_walks_further_sees_more_rows_and_finds_more():
    queries, corpus = vectors(1, rows=2000, dim=32)
    truth = exact_search(queries, corpus, 10, dim=24).indices
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        graph = LESSON["build_graph"](truncate(corpus, 24))
        lazy, few = LESSON["walk"](graph, queries, 10, 10)
        eager, many = LESSON["walk"](graph, queries, 10, 400)
    finally:
        faiss.omp_set_num_threads(threads)
    assert 10 < few < many < 2 * len(corpus)
    assert LESSON["share_found"](eager, truth) >= LESSON["share_found"](lazy, truth)
    assert LESSON["share_found"](eager, truth) > 0.95


def test_the_recall_of_exercise_2_is_the_one_that_tune_shortlist_reports():
    queries, corpus = vectors(2, rows=400)
    queries = np.concatenate([queries, corpus[:37] + 0.3 * corpus[37:74]])
    tuning = tune_shortlist(queries, corpus, 1, 5, dims=[4], sizes=[10, 30], sample=40)
    for row in tuning.table[tuning.table.dim == 4].itertuples():
        want = exercises.recall_of_two_stages(queries, corpus, 4, row.shortlist_size, 5)
        assert (row.recall + row.checked_recall) / 2 == pytest.approx(want)
        assert want < 1


@pytest.mark.parametrize("seed", range(3))
def test_the_honest_funnels_of_exercise_3_are_those_of_the_package(seed):
    (query, *_), corpus = vectors(seed, rows=200)
    neighbours = exact_search(query, corpus, 120, dim=3).indices
    (rows,) = exercises.compare_funnels(query, corpus, neighbours, [[(6, 100), (12, 20)]])
    want = funnel_search(query, corpus, [(3, 100), (6, 20)], 20).indices
    np.testing.assert_array_equal(rows, want)


@pytest.mark.parametrize(
    ("name", "exercise", "words"),
    [
        ("compare_funnels", "funnels_that_share", "in place"),
        ("rerank_rows", "candidates_with_gaps", "the last row"),
    ],
)
def test_the_bugs_of_the_lesson_are_found_by_their_checks(name, exercise, words):
    checker = getattr(check, exercise)
    checker(LESSON[name])
    assert checker.state == "wrong" and words in checker.message


def test_in_place_sorting_lets_a_narrow_funnel_find_what_it_should_not():
    """The reason for exercise 3: after a wide setting the narrow one is better than it can be."""
    queries, corpus = vectors(5, rows=2000, dim=24)
    gains = []
    for query in queries:
        exact = exact_search(query, corpus, 10).indices
        neighbours = exact_search(query, corpus, 400, dim=3).indices
        settings = [[(24, 400)], [(24, 20)]]
        _, honest = exercises.compare_funnels(query, corpus, neighbours, settings)
        _, cheating = LESSON["compare_funnels"](query, corpus, neighbours.copy(), settings)
        gains.append(np.isin(exact, cheating).mean() - np.isin(exact, honest).mean())
    assert min(gains) > 0
