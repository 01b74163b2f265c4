"""Neighbours, clusters, pictures and recommendations against definitions and other libraries."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes
from sklearn.metrics import normalized_mutual_info_score

from mrl_course.neighbours import (
    align_picture,
    cluster,
    cluster_scores,
    kept_above_chance,
    label_chance,
    nearest_rows,
    neighbour_agreement,
    neighbour_overlap,
    nested_clusters,
    recommend,
    score_clusters,
)

seeds = st.integers(0, 10**6)
quick = settings(deadline=None, max_examples=40)


def vectors(seed, n=30, dim=6):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, dim)) * rng.uniform(0.1, 9, size=(n, 1))).astype(np.float32)


def three_groups(seed=0, n=20, dim=8):
    """Three tight bundles of directions, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(["a", "b", "c"], n)
    emb = np.eye(dim)[np.repeat([0, 1, 2], n)] + 0.05 * rng.normal(size=(3 * n, dim))
    return emb.astype(np.float32), labels


# ------------------------------------------------------------------------------- neighbours


@quick
@given(seeds, st.integers(2, 25), st.integers(1, 6))
def test_nearest_rows_sorts_the_cosines_of_all_other_rows(seed, n, dim):
    emb = vectors(seed, n, dim).astype(np.float64)
    unit = emb / np.linalg.norm(emb, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    top_k = max(1, (n - 1) // 2)
    found = nearest_rows(emb, top_k)
    assert found.shape == (n, top_k) and (found != np.arange(n)[:, None]).all()
    wanted = -np.sort(-cosine, axis=1)[:, :top_k]
    np.testing.assert_allclose(np.take_along_axis(cosine, found, 1), wanted, atol=1e-5)


def test_equal_rows_do_not_push_a_row_onto_its_own_list():
    found = nearest_rows(np.ones((6, 2), np.float32), 2)
    assert (found != np.arange(6)[:, None]).all()
    np.testing.assert_array_equal(found, [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1], [0, 1]])


@quick
@given(seeds, st.integers(1, 9))
def test_overlap_is_symmetric_and_one_with_itself(seed, top_k):
    emb, other = vectors(seed), vectors(seed + 1, dim=3)
    overlap = neighbour_overlap(emb, other, top_k)
    assert 0 <= overlap <= 1
    assert overlap == pytest.approx(neighbour_overlap(other, emb, top_k))
    assert neighbour_overlap(emb, emb, top_k) == 1
    sets = zip(nearest_rows(emb, top_k), nearest_rows(other, top_k), strict=True)
    assert overlap == pytest.approx(np.mean([len(set(a) & set(b)) / top_k for a, b in sets]))


@quick
@given(seeds)
def test_neighbours_do_not_see_lengths_and_rotations(seed):
    emb = vectors(seed)
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(6, 6)))[0]
    assert neighbour_overlap(emb * 3, emb @ rotation) > 0.99
    assert neighbour_overlap(emb / np.linalg.norm(emb, axis=1, keepdims=True), emb) == 1


def test_agreement_on_tight_groups_and_on_shuffled_labels():
    emb, labels = three_groups()
    assert neighbour_agreement(emb, labels) == 1
    shuffled = np.random.default_rng(0).permutation(labels)
    assert neighbour_agreement(emb, shuffled) == pytest.approx(label_chance(labels), abs=0.08)
    assert label_chance(["x", "x", "y", "z"]) == pytest.approx(0.25 + 2 / 16)


@pytest.mark.parametrize(
    ("score", "kept"), [(0.8, 1), (0.2, 0), (0.5, 0.5), (0.05, -0.25), (1.0, 4 / 3)]
)
def test_kept_above_chance(score, kept):
    assert kept_above_chance(score, 0.8, 0.2) == pytest.approx(kept)


# ---------------------------------------------------------------------------------- clusters


@quick
@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from("xyz")), min_size=1, max_size=40))
def test_scores_are_those_of_scikit_learn_and_of_counting(rows):
    clusters, labels = map(list, zip(*rows, strict=True))
    got = score_clusters(clusters, labels)
    assert got.nmi == pytest.approx(normalized_mutual_info_score(labels, clusters), abs=1e-9)
    right = 0
    for number in set(clusters):
        inside = [label for c, label in rows if c == number]
        right += max(inside.count(label) for label in "xyz")
    assert got.purity == pytest.approx(right / len(rows))


@quick
@given(seeds, st.integers(2, 8))
def test_splitting_clusters_never_lowers_purity_and_names_do_not_matter(seed, groups):
    rng = np.random.default_rng(seed)
    clusters, labels = rng.integers(0, groups, 50), rng.integers(0, 4, 50)
    split = clusters * 2 + rng.integers(0, 2, 50)
    assert score_clusters(split, labels).purity >= score_clusters(clusters, labels).purity
    renamed = rng.permutation(groups)[clusters]
    np.testing.assert_allclose(score_clusters(renamed, labels), score_clusters(clusters, labels))
    assert score_clusters(np.arange(50), labels).purity == 1


def test_clusters_find_tight_groups_whatever_the_lengths():
    emb, labels = three_groups()
    emb *= np.random.default_rng(1).uniform(0.1, 50, size=(len(emb), 1)).astype(np.float32)
    assert cluster_scores(emb, labels) == pytest.approx((1, 1))
    assert cluster_scores(emb, labels, groups=1) == pytest.approx((1 / 3, 0))
    np.testing.assert_array_equal(cluster(emb, 3, seed=4), cluster(emb, 3, seed=4))
    assert set(cluster(emb, 3)) == {0, 1, 2}


@quick
@given(seeds, st.integers(1, 4), st.integers(1, 4))
def test_nested_clusters_are_nested(seed, first, second):
    emb = vectors(seed, n=25)
    levels = nested_clusters(emb, [2, 6], [first, second], seed=seed)
    assert levels.shape == (25, 2)
    top, fine = levels.T
    for number in set(fine):
        assert len(set(top[fine == number])) == 1
    assert len(set(top)) == first and len(set(fine)) == max(fine) + 1 <= first * second
    np.testing.assert_array_equal(top, nested_clusters(emb, [2], [first], seed=seed)[:, 0])


def test_a_small_cluster_is_split_into_its_rows():
    levels = nested_clusters(vectors(0, n=5), [2, 6], [5, 3])
    np.testing.assert_array_equal(np.sort(levels[:, 1]), np.arange(5))


def test_the_top_level_looks_at_its_prefix_only():
    emb, labels = three_groups()
    emb = np.c_[emb[:, :3], 100 * vectors(3, n=60)]  # the later numbers know nothing
    levels = nested_clusters(emb, [3, 3], [3, 2])
    assert score_clusters(levels[:, 0], labels) == pytest.approx((1, 1))
    assert cluster_scores(emb, labels).nmi < 0.5


# ---------------------------------------------------------------------------------- pictures


@quick
@given(seeds, st.booleans(), st.floats(0.1, 20))
def test_a_turned_flipped_scaled_shifted_picture_comes_back(seed, flip, scale):
    rng = np.random.default_rng(seed)
    reference = rng.normal(size=(12, 2))
    turn = np.linalg.qr(rng.normal(size=(2, 2)))[0] @ np.diag([1, -1 if flip else 1])
    moved = scale * reference @ turn + rng.normal(size=2) * 5
    np.testing.assert_allclose(align_picture(moved, reference), reference, atol=1e-8)


@quick
@given(seeds)
def test_alignment_is_that_of_scipy_and_keeps_shapes(seed):
    rng = np.random.default_rng(seed)
    picture, reference = rng.normal(size=(2, 15, 2)) + 3
    got = align_picture(picture, reference)
    a, b = picture - picture.mean(axis=0), reference - reference.mean(axis=0)
    turn, stretch = orthogonal_procrustes(a, b)
    wanted = stretch / (a**2).sum() * a @ turn + reference.mean(axis=0)
    np.testing.assert_allclose(got, wanted, atol=1e-10)
    before = np.linalg.norm(picture[:, None] - picture[None], axis=2)
    after = np.linalg.norm(got[:, None] - got[None], axis=2)
    inside = before > 0.1
    assert np.ptp(after[inside] / before[inside]) < 1e-6  # one common factor
    moved = ((got + [0.01, 0]) - reference) ** 2
    assert ((got - reference) ** 2).sum() <= moved.sum()


# --------------------------------------------------------------------------- recommendations


@quick
@given(seeds, st.integers(1, 6), st.integers(1, 4))
def test_recommendations_are_nearest_to_the_mean_direction(seed, dim, likes):
    emb = vectors(seed).astype(np.float64)
    liked = list(np.random.default_rng(seed).permutation(30)[:likes])
    unit = emb[:, :dim] / np.linalg.norm(emb[:, :dim], axis=1, keepdims=True)
    taste = unit[liked].mean(axis=0)
    assume(np.linalg.norm(taste) > 1e-3)
    found = recommend(emb, liked, dim, top_k=5)
    assert not set(found.indices) & set(liked) and len(set(found.indices)) == 5
    scores = unit @ taste / np.linalg.norm(taste)
    scores[liked] = -np.inf
    np.testing.assert_allclose(found.scores, -np.sort(-scores)[:5], atol=1e-5)
    longer = emb.copy()
    longer[liked[0]] *= 50  # a long liked vector has no louder voice
    np.testing.assert_allclose(recommend(longer, liked, dim, 5).scores, found.scores, atol=1e-5)


def test_all_other_items_can_be_recommended():
    emb = vectors(0, n=8)
    assert sorted(recommend(emb, [2, 5], top_k=6).indices) == [0, 1, 3, 4, 6, 7]


# ---------------------------------------------------------------------------------- bad input

EMB = vectors(0, n=6, dim=4)
OPPOSITE = np.array([[1.0, 0], [-1, 0], [0, 1]])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: nearest_rows(EMB, 6), "between 1 and 5"),
        (lambda: nearest_rows(EMB[0], 1), "shape"),
        (lambda: neighbour_overlap(EMB, EMB[:5], 2), "6 rows and reference 5"),
        (lambda: neighbour_agreement(EMB, ["a"] * 5, 2), "6 rows need 6 labels"),
        (lambda: label_chance([]), "at least one"),
        (lambda: kept_above_chance(0.3, 0.2, 0.2), "above chance, got 0.2 and 0.2"),
        (lambda: score_clusters([0, 1], ["a"]), "2 rows need 2 labels"),
        (lambda: score_clusters([], []), "at least one"),
        (lambda: cluster(EMB, 7), "between 1 and 6"),
        (lambda: cluster(EMB, 2, restarts=0), "restarts must be between"),
        (lambda: nested_clusters(EMB, [2, 4], [2]), "one entry for each level"),
        (lambda: nested_clusters(EMB, [], []), "one entry for each level"),
        (lambda: nested_clusters(EMB, [2, 5], [2, 2]), "dims holds 5"),
        (lambda: nested_clusters(EMB, [2], [0]), "groups must be between"),
        (lambda: align_picture(EMB, EMB[:, :2]), "must be equal"),
        (lambda: align_picture(np.ones((3, 2)), OPPOSITE), "nothing to turn"),
        (lambda: recommend(EMB, []), "at least one"),
        (lambda: recommend(EMB, [2, 6], top_k=1), "liked holds 6 at place 1, .* 0 to 5"),
        (lambda: recommend(EMB, [-1], top_k=1), "liked holds -1 at place 0"),
        (lambda: recommend(EMB, [1, 1], top_k=1), "row 1 twice, again at place 1"),
        (lambda: recommend(EMB, [1, 2], top_k=5), "between 1 and 4"),
        (lambda: recommend(EMB, [1], dim=5, top_k=1), "between 1 and 4"),
        (lambda: recommend(OPPOSITE, [0, 1], top_k=1), "opposite"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_nan_is_refused():
    broken = EMB.copy()
    broken[3, 1] = np.nan
    near = lambda emb: nearest_rows(emb, 2)  # noqa: E731
    for call in (near, lambda emb: cluster(emb, 2), lambda emb: align_picture(emb, EMB)):
        with pytest.raises(ValueError, match="NaN"):
            call(broken)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: recommend(EMB, [1.7], top_k=1), "1.7 .float. at place 0"),
        (lambda: recommend(EMB, [True] + [False] * 5, top_k=1), "True .bool. at place 0"),
        (lambda: recommend(EMB, ["1"], top_k=1), "'1' .str. at place 0"),
        (lambda: recommend(EMB, "1", top_k=1), "list of row numbers"),
        (lambda: score_clusters([0, 0], [1, 1.0]), "labels .* got 1.0 .float. at place 1"),
        (lambda: score_clusters([0, True], [1, 1]), "clusters .* True .bool. at place 1"),
        (lambda: neighbour_agreement(EMB, ["a"] * 5 + [None], 2), "None .NoneType. at place 5"),
        (lambda: label_chance("abc"), "one label a row"),
        (lambda: cluster(EMB, 2.0), "groups must be an integer"),
        (lambda: nearest_rows(EMB, True), "top_k must be an integer"),
    ],
)
def test_the_wrong_kind_is_named_with_its_place(call, words):
    with pytest.raises(TypeError, match=words):
        call()


def test_labels_of_any_integer_or_string_kind_are_the_same():
    plain = [2, 1, 2, 1, 2, 1]
    for labels in (
        np.array(plain, np.uint8),
        pd.Series(plain),
        ["b", "a"] * 3,
        np.array(["b", "a"] * 3),
    ):
        assert neighbour_agreement(EMB, labels, 2) == neighbour_agreement(EMB, plain, 2)
        assert label_chance(labels) == 0.5


def test_sizes_may_be_integers_of_numpy():
    assert len(recommend(EMB, np.array([1]), np.int64(2), np.int32(2)).indices) == 2
    assert nearest_rows(EMB, np.int16(2)).shape == (6, 2)


def test_zero_rows_are_said_once_for_all_levels():
    emb = vectors(0, n=12)
    emb[3] = 0
    with pytest.warns(UserWarning, match=r"1 of 12 rows of emb\[:, :6\].*first row 3") as said:
        nested_clusters(emb, [2, 6], [3, 2])
    assert len(said) == 1
