"""Curves: one pass over the dimensions equals the evaluation of each prefix on its own."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr

from mrl_course import evaluation
from mrl_course.evaluation import (
    Curve,
    pca_rotation,
    random_dims_curve,
    retention,
    retrieval_curve,
    similarity_curve,
)


def unit(emb):
    return emb / np.maximum(np.linalg.norm(emb, axis=1, keepdims=True), 1e-12)


def naive_similarity(emb1, emb2, scores, k):
    cosine = (unit(emb1[:, :k]) * unit(emb2[:, :k])).sum(axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # equal cosines: NaN, as in ours
        return spearmanr(np.round(cosine, 9), scores)[0]


def naive_recall(queries, corpus, relevant, size, k):
    cosine = np.round(unit(queries[:, :size]) @ unit(corpus[:, :size]).T, 9)
    found = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    shares = [
        len(set(rel) & set(row)) / len(set(rel)) for rel, row in zip(relevant, found, strict=True)
    ]
    return np.mean(shares)


@st.composite
def pairs(draw):
    n, dim = draw(st.integers(2, 20)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    return rng.normal(size=(n, dim)), rng.normal(size=(n, dim)), rng.permutation(n) / n


@settings(deadline=None, max_examples=60)
@given(pairs())
def test_similarity_curve_equals_one_evaluation_per_prefix(pair):
    emb1, emb2, scores = pair
    curve = similarity_curve(emb1, emb2, scores)
    assert list(curve) == list(range(1, emb1.shape[1] + 1))
    for k in curve:
        expected = naive_similarity(emb1, emb2, scores, k)
        np.testing.assert_allclose(curve[k], expected, atol=1e-9)


# Small whole numbers make many exact ties and zero vectors.
few_values = arrays(
    np.int64, st.tuples(st.integers(1, 12), st.just(4)), elements=st.integers(-1, 2)
)


@settings(deadline=None, max_examples=150)
@given(few_values, few_values, st.data())
def test_retrieval_curve_equals_naive_search_with_ties_by_index(queries, corpus, data):
    rows = st.integers(0, len(corpus) - 1)
    relevant = [data.draw(st.lists(rows, min_size=1, max_size=3)) for _ in range(len(queries))]
    k = data.draw(st.integers(1, len(corpus)))
    curve = retrieval_curve(queries, corpus, relevant, k=k)
    for size in curve:
        expected = naive_recall(queries.astype(float), corpus.astype(float), relevant, size, k)
        np.testing.assert_allclose(curve[size], expected, atol=1e-12)


def test_retrieval_in_blocks_is_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    queries, corpus = rng.normal(size=(23, 6)), rng.normal(size=(40, 6))
    relevant = rng.integers(0, 40, 23).tolist()
    whole = retrieval_curve(queries, corpus, relevant)
    monkeypatch.setattr(evaluation, "_BLOCK", 40 * 5)
    assert retrieval_curve(queries, corpus, relevant).scores == whole.scores


def test_duplicates_in_a_large_corpus_are_ties():
    """BLAS may add up equal rows in a different order; equal cosines must stay equal."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(3, 64)).astype(np.float32)
    corpus = np.repeat(base, 667, axis=0)[:2000]
    curve = retrieval_curve(base, corpus, [9, 667 + 10, 1334], dims=[5, 64], k=10)
    assert curve[64] == pytest.approx(2 / 3)  # places 9 and 0 are found, place 10 is not


def test_accepts_tensors_lists_and_half_precision():
    emb = torch.randn(8, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    other = emb.detach().flip(1)
    scores = list(range(8))
    want = similarity_curve(emb, other, scores).scores
    assert similarity_curve(emb.tolist(), other.tolist(), scores).scores == want
    half = similarity_curve(emb.half(), other.half(), scores)
    assert half.full_score == pytest.approx(want[4], abs=0.1)


def test_only_asked_sizes_but_the_full_score_is_known():
    rng = np.random.default_rng(0)
    emb1, emb2, scores = rng.normal(size=(9, 8)), rng.normal(size=(9, 8)), rng.normal(size=9)
    every = similarity_curve(emb1, emb2, scores)
    some = similarity_curve(emb1, emb2, scores, dims=[6, 2])
    assert list(some) == [2, 6] and some[6] == every[6]
    assert some.full_score == every[8] and some.full_dim == 8


def test_retention_is_relative_to_the_same_models_full_size():
    curve = Curve({2: 0.2, 4: 0.6}, "m", full_dim=8, full_score=0.8)
    assert retention(curve).scores == pytest.approx({2: 0.25, 4: 0.75})
    assert retention(curve).full_score == 1
    for bad in (0.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="above 0"):
            retention(Curve({2: 0.2}, "m", 8, bad))


def test_curve_prints_as_table_and_frame():
    curve = Curve({k: k / 100 for k in range(1, 65)}, "recall", 64, 0.64)
    assert "    64  0.6400" in str(curve) and len(str(curve).splitlines()) == 8
    frame = curve.to_frame()
    assert list(frame.columns) == ["k", "score", "retention"] and len(frame) == 64
    assert frame["retention"].iloc[-1] == 1
    with pytest.raises(KeyError, match="k = 65 was not measured"):
        curve[65]


def test_pca_rotation_keeps_angles_and_orders_variance():
    rng = np.random.default_rng(0)
    emb = rng.normal(size=(500, 6)) * [0.1, 3, 1, 0.5, 2, 0.2] + 1
    rotation = pca_rotation(emb)
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(6), atol=1e-5)
    variance = np.var(emb @ rotation, axis=0)
    assert (np.diff(variance) < 0).all() and variance[0] == pytest.approx(9, rel=0.2)
    assert (pca_rotation(emb) == rotation).all()
    full = (emb @ rotation) @ (emb @ rotation).T
    np.testing.assert_allclose(full, emb @ emb.T, rtol=1e-4, atol=1e-4)
    assert pca_rotation(rng.normal(size=(2, 5))).shape == (5, 5)  # fewer rows than numbers
    with pytest.raises(ValueError, match="at least 2 rows"):
        pca_rotation(np.ones((1, 3)))


def test_random_dims_average_over_draws():
    rng = np.random.default_rng(0)
    emb1, emb2, scores = rng.normal(size=(30, 8)), rng.normal(size=(30, 8)), rng.normal(size=30)
    arguments = (similarity_curve, emb1, emb2, scores)
    curve = random_dims_curve(*arguments, dims=[3, 8], draws=4, seed=1)
    orders = np.random.default_rng(1)
    expected = [
        naive_similarity(emb1[:, order], emb2[:, order], scores, 3)
        for order in (orders.permutation(8) for _ in range(4))
    ]
    assert curve[3] == pytest.approx(np.mean(expected))
    assert curve[8] == pytest.approx(similarity_curve(emb1, emb2, scores)[8])
    assert random_dims_curve(*arguments, dims=[3], seed=1) == random_dims_curve(
        *arguments, dims=[3], seed=1
    )
    with pytest.raises(ValueError, match="draws"):
        random_dims_curve(*arguments, draws=0)


E = np.eye(4)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: similarity_curve(E, E[:3], range(4)), ValueError, "must be equal"),
        (lambda: similarity_curve(E, E, range(3)), ValueError, "need 4 scores"),
        (lambda: similarity_curve(E, E, [1, 1, 1, 1]), ValueError, "two different"),
        (lambda: similarity_curve(E[:1], E[:1], [1]), ValueError, "two different"),
        (lambda: similarity_curve(E, E, [1, np.nan, 2, 3]), ValueError, "pair 1"),
        (lambda: similarity_curve(E * np.nan, E, range(4)), ValueError, "emb1 holds NaN.*row 0"),
        (lambda: similarity_curve(E, E, range(4), dims=[5]), ValueError, "holds 5"),
        (lambda: similarity_curve(E[0], E[0], range(4)), ValueError, "shape"),
        (lambda: similarity_curve([["a"]], [["b"]], [1]), TypeError, "numbers"),
        (lambda: retrieval_curve(E, E, [0, 1, 2], k=1), ValueError, "need 4 entries"),
        (lambda: retrieval_curve(E, E, [0, 1, 2, 4], k=1), ValueError, "query 3 names row 4"),
        (lambda: retrieval_curve(E, E, [0, 1, 2, -1], k=1), ValueError, "query 3 names row -1"),
        (lambda: retrieval_curve(E, E, [[0], [1], [], [3]], k=1), ValueError, "query 2 has no"),
        (lambda: retrieval_curve(E, E, range(4)), ValueError, "k must be between 1 and"),
        (lambda: retrieval_curve(E, E[:, :3], range(4), k=1), ValueError, "4 numbers and the"),
        (lambda: retrieval_curve(E[:0], E, [], k=1), ValueError, "shape"),
    ],
)
def test_bad_input_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_constant_prefix_has_no_correlation():
    emb = np.ones((4, 2))
    emb[:, 1] = [1, 2, 3, 4]
    curve = similarity_curve(emb, np.ones((4, 2)), [4, 3, 2, 1])
    assert np.isnan(curve[1]) and curve[2] == pytest.approx(1)
