"""What lesson 08 builds by hand is what the package does."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lesson_source import functions_of

from mrl_course import neighbours

LESSON = functions_of("08_pictures_clusters_recommendations")
quick = settings(deadline=None, max_examples=40)
seeds = st.integers(0, 10**6)


def vectors(seed, n=40, dim=8):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, dim)) * rng.uniform(0.2, 5, size=(n, 1))


@quick
@given(seeds, st.integers(1, 12), st.integers(2, 8))
def test_neighbours_overlap_and_agreement(seed, top_k, k):
    emb, labels = vectors(seed), np.random.default_rng(seed).integers(0, 3, 40)
    near, whole = LESSON["neighbours"](emb[:, :k], top_k), LESSON["neighbours"](emb, top_k)
    np.testing.assert_array_equal(
        np.sort(near, axis=1), np.sort(neighbours.nearest_rows(emb[:, :k], top_k), axis=1)
    )
    assert LESSON["overlap"](near, whole) == pytest.approx(
        neighbours.neighbour_overlap(emb[:, :k], emb, top_k)
    )
    assert LESSON["same_label"](near, labels) == pytest.approx(
        neighbours.neighbour_agreement(emb[:, :k], labels, top_k)
    )
    assert LESSON["by_chance"](labels) == pytest.approx(neighbours.label_chance(labels))


@quick
@given(seeds)
def test_laying_over_and_how_far_dots_moved(seed):
    rng = np.random.default_rng(seed)
    points, reference = rng.normal(size=(2, 15, 2)) + 4
    laid = LESSON["lay_over"](points, reference)
    np.testing.assert_allclose(laid, neighbours.align_picture(points, reference), atol=1e-9)
    assert 0 <= LESSON["moved"](laid, reference) <= 1  # shrinking to the mean would give 1
    assert LESSON["moved"](reference, reference) == 0


def test_nearest_dots_are_those_at_the_smallest_distance():
    line = np.c_[np.arange(30) ** 1.5, np.zeros(30)]
    near = LESSON["near_on_paper"](line)
    assert near.shape == (30, 10)
    np.testing.assert_array_equal(near[0], np.arange(1, 11))
    np.testing.assert_array_equal(np.sort(near[29]), np.arange(19, 29))


@quick
@given(seeds, st.integers(1, 6))
def test_purity_and_nmi(seed, clusters):
    rng = np.random.default_rng(seed)
    found, labels = rng.integers(0, clusters, 30), np.r_[0, 1, rng.integers(0, 3, 28)]
    by_hand = LESSON["purity_and_nmi"](found, labels)
    np.testing.assert_allclose(by_hand, neighbours.score_clusters(found, labels), atol=1e-9)


def test_k_means_finds_tight_groups_and_ignores_lengths():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 20)
    emb = np.eye(6)[labels] + 0.05 * rng.normal(size=(60, 6))
    emb *= rng.uniform(0.1, 9, size=(60, 1))
    tries = [
        neighbours.score_clusters(LESSON["k_means"](emb, 3, seed), labels) for seed in range(8)
    ]
    assert max(tries) == (1, 1)  # a single start may get stuck, eight do not
    assert LESSON["k_means"](emb, 1, seed=0).tolist() == [0] * 60


@quick
@given(seeds, st.integers(1, 8), st.integers(1, 5))
def test_suggestions(seed, k, likes):
    emb = vectors(seed)
    liked = np.random.default_rng(seed).permutation(40)[:likes].tolist()
    unit = emb[:, :k] / np.linalg.norm(emb[:, :k], axis=1, keepdims=True)
    taste = unit[liked].mean(axis=0)
    assume(np.linalg.norm(taste) > 1e-3)  # with one number, two likes may cancel out
    by_hand, package = LESSON["suggest"](emb, liked, k, 7), neighbours.recommend(emb, liked, k, 7)
    scores = unit @ taste / np.linalg.norm(taste)
    assert not set(by_hand) & set(liked)
    np.testing.assert_allclose(scores[by_hand], package.scores, atol=1e-5)  # k = 1 has many ties
