"""Curves: one pass over the dimensions equals the evaluation of each prefix on its own."""

import subprocess
import sys
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
    tempered_pca,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*hold only zeros:UserWarning"),
    pytest.mark.filterwarnings("ignore:all pairs have the same cosine:UserWarning"),
    pytest.mark.filterwarnings("error::RuntimeWarning"),
]


def unit(emb):
    return emb / np.maximum(np.linalg.norm(emb, axis=1, keepdims=True), 1e-12)


def naive_similarity(emb1, emb2, scores, k):
    cosine = (unit(emb1[:, :k]) * unit(emb2[:, :k])).sum(axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # equal cosines: NaN, as in ours
        return spearmanr(np.round(cosine, 9), scores)[0]


def naive_recall(queries, corpus, relevant, size, top_k):
    """The definition: the mean over the orders of tied rows, by how many stand ahead and beside."""
    cosine = np.round(unit(queries[:, :size]) @ unit(corpus[:, :size]).T, 9)
    shares = []
    for scores, rows in zip(cosine, relevant, strict=True):
        chances = []
        for row in rows:
            ahead, tied = (scores > scores[row]).sum(), (scores == scores[row]).sum()
            chances.append(min(max((top_k - ahead) / tied, 0), 1))
        shares.append(np.mean(chances))
    return np.mean(shares)


def ordered_recall(queries, corpus, relevant, size, top_k):
    """One search, equal cosines by row number."""
    cosine = np.round(unit(queries[:, :size]) @ unit(corpus[:, :size]).T, 9)
    found = np.argsort(-cosine, axis=1, kind="stable")[:, :top_k]
    return np.mean([row in mine for row, mine in zip(relevant, found, strict=True)])


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
def test_retrieval_curve_equals_naive_search_with_ties_in_any_order(queries, corpus, data):
    rows = st.integers(0, len(corpus) - 1)
    several = st.lists(rows, min_size=1, max_size=3, unique=True)
    relevant = [data.draw(several) for _ in range(len(queries))]
    top_k = data.draw(st.integers(1, len(corpus)))
    curve = retrieval_curve(queries, corpus, relevant, top_k=top_k)
    for size in curve:
        wide = queries.astype(float), corpus.astype(float)
        expected = naive_recall(*wide, relevant, size, top_k)
        np.testing.assert_allclose(curve[size], expected, atol=1e-12)


def test_retrieval_in_blocks_is_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    queries, corpus = rng.normal(size=(23, 6)), rng.normal(size=(40, 6))
    relevant = rng.integers(0, 40, 23).tolist()
    whole = retrieval_curve(queries, corpus, relevant)
    monkeypatch.setattr(evaluation, "_BLOCK", 40 * 5)
    assert retrieval_curve(queries, corpus, relevant).scores == whole.scores


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_curve_is_the_mean_of_searches_in_shuffled_corpora(dtype):
    """Sign codes: the right rows first, last or anywhere, the score is the same."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(200, 16))
    queries = np.sign(base[:60] + rng.normal(size=(60, 16)))
    corpus = np.sign(base).astype(dtype)
    curve = retrieval_curve(queries, corpus, range(60), dims=[4, 8, 16])
    real = {k: [] for k in curve}
    for _ in range(100):
        order = rng.permutation(200)
        place = np.argsort(order)[:60].tolist()
        shuffled = retrieval_curve(queries, corpus[order], place, dims=[4, 8, 16])
        np.testing.assert_allclose(list(shuffled.values()), list(curve.values()), atol=1e-12)
        for k, found in real.items():
            found.append(ordered_recall(queries, corpus[order], place, k, 10))
    for k, found in real.items():
        assert curve[k] == pytest.approx(np.mean(found), abs=4 * np.std(found) / 10)


def test_duplicates_in_a_large_corpus_are_ties():
    """BLAS may add up equal rows in a different order; equal cosines must stay equal."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(3, 64)).astype(np.float32)
    corpus = np.repeat(base, 667, axis=0)[:2000]
    for rows in ([0, 667, 1334], [9, 677, 1400], [666, 1333, 1999]):
        curve = retrieval_curve(base, corpus, rows, dims=[5, 64])
        assert curve[64] == pytest.approx((10 / 667 * 2 + 10 / 666) / 3)
    scaled = corpus * rng.uniform(0.1, 10, size=(2000, 1)).astype(np.float32)
    # float32 rounds the numbers of a scaled row, each copy otherwise: still tied, also at an angle
    queries = base + rng.normal(size=base.shape).astype(np.float32)
    want = retrieval_curve(queries, corpus, [9, 677, 1400], dims=[5, 64])
    again = retrieval_curve(queries, scaled, [9, 677, 1400], dims=[5, 64])
    assert again[64] == pytest.approx(want[64]) and again[5] == pytest.approx(want[5])


@pytest.mark.parametrize("queries", [1, 9, 11, 49, 100, 399])
def test_recall_is_never_above_1(queries):
    rows = np.random.default_rng(0).normal(size=(400, 8))
    assert retrieval_curve(rows[:queries], rows, range(queries), [8], top_k=1)[8] == 1
    triples = [[i, (i + 1) % 400, (i + 2) % 400] for i in range(queries)]
    assert retrieval_curve(rows[:queries], rows, triples, [8], top_k=400)[8] == 1


FACTORS = [1e-15, 1e-22, 1e-160, 1e-300, 1e30, 1e200, 1e300]


@pytest.mark.parametrize("factor", [*FACTORS, "mixed", "extremely mixed"])
def test_the_lengths_of_vectors_do_not_matter(factor, recwarn):
    rng = np.random.default_rng(1)
    corpus = rng.normal(size=(150, 8))
    queries = corpus[:50] + 0.7 * rng.normal(size=(50, 8))
    labels = rng.random(50)
    if isinstance(factor, str):
        spread = 21 if factor == "mixed" else 290
        factor = 10.0 ** rng.integers(-spread, spread + 1, size=(150, 1))
    scaled = corpus * factor, queries * np.broadcast_to(factor, (150, 1))[:50]
    want = retrieval_curve(queries, corpus, range(50), top_k=3)
    got = retrieval_curve(scaled[1], scaled[0], range(50), top_k=3)
    np.testing.assert_allclose(list(got.values()), list(want.values()), atol=1e-12)
    want = similarity_curve(queries, corpus[:50], labels)
    got = similarity_curve(scaled[1], scaled[0][:50], labels)
    np.testing.assert_allclose(list(got.values()), list(want.values()), atol=1e-12)
    for curve, third in ((similarity_curve, labels), (retrieval_curve, range(50))):
        want = random_dims_curve(curve, queries, corpus[:50], third, draws=2)
        got = random_dims_curve(curve, scaled[1], scaled[0][:50], third, draws=2)
        np.testing.assert_allclose(list(got.values()), list(want.values()), atol=1e-12)
    assert not recwarn.list


def test_a_prefix_that_is_tiny_beside_the_rest_has_a_direction():
    rng = np.random.default_rng(2)
    corpus, labels = rng.normal(size=(60, 6)), rng.random(60)
    queries = corpus + rng.normal(size=(60, 6))
    shrunk = np.array([1e-250, 1e-250, 1e-90, 1, 1, 1])
    want = retrieval_curve(queries[:, :3], corpus[:, :3], range(60), [2])
    assert retrieval_curve(queries * shrunk, corpus * shrunk, range(60), [2])[2] == want[2]
    want = similarity_curve(queries[:, :2], corpus[:, :2], labels)[2]
    assert similarity_curve(queries * shrunk, corpus * shrunk, labels)[2] == pytest.approx(want)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_smallest_and_the_largest_numbers_of_a_type_count(dtype):
    info = np.finfo(dtype)
    rng = np.random.default_rng(3)
    signs = rng.choice([-1.0, 1.0], size=(80, 8))
    sizes = rng.choice([float(info.max), float(info.smallest_subnormal)], size=(80, 1))
    rows = (signs * sizes).astype(dtype)
    want = retrieval_curve(signs[:30], signs, range(30), top_k=3)
    assert retrieval_curve(rows[:30], rows, range(30), top_k=3) == want


def test_zero_rows_have_cosine_0_and_one_warning_a_call(recwarn):
    rng = np.random.default_rng(4)
    emb, labels = rng.normal(size=(20, 4)), rng.random(20)
    other = emb + rng.normal(size=(20, 4))
    emb[[3, 8]], other[5] = 0, 0
    cosine = (unit(emb) * unit(other)).sum(axis=1)
    curve = similarity_curve(emb, other, labels)
    assert curve[4] == pytest.approx(spearmanr(cosine, labels)[0])
    (warning,) = recwarn.list
    assert "2 of 20 rows of emb1 hold only zeros, first row 3; 1 of 20 rows of emb2 hold only" in (
        str(warning.message)
    )
    assert warning.filename == __file__
    recwarn.clear()
    found = retrieval_curve(emb, other, range(20), [4], top_k=5)
    assert found[4] == pytest.approx(naive_recall(emb, other, [[i] for i in range(20)], 4, 5))
    (warning,) = recwarn.list
    assert "2 of 20 rows of queries" in str(warning.message) and warning.filename == __file__
    recwarn.clear()
    random_dims_curve(retrieval_curve, emb, other, range(20), draws=4)
    (warning,) = recwarn.list
    assert warning.filename == __file__


def test_judgements_may_come_in_their_usual_shapes():
    rng = np.random.default_rng(5)
    queries, corpus = rng.normal(size=(30, 8)), rng.normal(size=(90, 8))
    rows = [[(i + 7) % 90, (i + 50) % 90] for i in range(30)]
    want = retrieval_curve(queries, corpus, rows)
    for shape in (
        np.array(rows),
        torch.tensor(rows),
        [set(r) for r in rows],
        dict(enumerate(rows)),
        {i: dict.fromkeys(r, 2) | {3: 0} for i, r in reversed(list(enumerate(rows)))},
    ):
        assert retrieval_curve(queries, corpus, shape) == want
    one = retrieval_curve(queries, corpus, [r[0] for r in rows])
    for shape in ({i: [r[0]] for i, r in enumerate(rows)}, np.array(rows, np.uint8)[:, 0]):
        assert retrieval_curve(queries, corpus, shape) == one


def test_accepts_tensors_lists_and_half_precision():
    emb = torch.randn(8, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    other = emb.detach().flip(1)
    scores = list(range(8))
    want = similarity_curve(emb, other, scores).scores
    assert similarity_curve(emb.tolist(), other.tolist(), scores).scores == want
    assert similarity_curve(list(emb), other, torch.tensor(scores)).scores == want
    labels = torch.arange(8.0, requires_grad=True).bfloat16()
    assert similarity_curve(list(emb), other, labels).scores == want
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
    assert Curve({2: 0.1}, "m", 4, 0.0).to_frame().retention.isna().all()


def test_a_curve_is_a_mapping():
    curve, same = Curve({2: 0.5, 4: 0.75}, "a", 4, 0.75), Curve({4: 0.75, 2: 0.5}, "b", 4, 0.75)
    assert curve == dict(curve) and dict(curve) == curve
    assert curve == same and hash(curve) == hash(same) and len({curve, same}) == 1
    assert curve != Curve({2: 0.5}, "a", 4, 0.75) and curve != {2: 0.5, 4: 0.7}
    assert list(curve.to_frame().retention) == list(retention(curve).values()) == [2 / 3, 1]


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
    with pytest.raises(TypeError, match="draws must be an integer, got 2.5"):
        random_dims_curve(*arguments, draws=2.5)
    with pytest.raises(ValueError, match="seed must be between 0"):
        random_dims_curve(*arguments, seed=-1)
    with pytest.raises(TypeError, match="similarity_curve or retrieval_curve, got 'sts'"):
        random_dims_curve("sts", emb1, emb2, scores)


E = np.eye(4)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: similarity_curve(E, E[:3], range(4)), ValueError, "must be equal"),
        (lambda: similarity_curve(E, E, range(3)), ValueError, "need 4 scores"),
        (lambda: similarity_curve(E, E, [1, 1, 1, 1]), ValueError, "two different"),
        (lambda: similarity_curve(E[:1], E[:1], [1]), ValueError, "two different"),
        (
            lambda: similarity_curve(E, E, [1, np.nan, 2, 3]),
            ValueError,
            "scores holds NaN.*row 1: nan",
        ),
        (lambda: similarity_curve(E * np.nan, E, range(4)), ValueError, "emb1 holds NaN.*row 0"),
        (lambda: similarity_curve(E, E, range(4), dims=[5]), ValueError, "holds 5"),
        (lambda: similarity_curve(E[0], E[0], range(4)), ValueError, "shape"),
        (lambda: similarity_curve([["a"]], [["b"]], [1]), TypeError, "numbers"),
        (lambda: retrieval_curve(E, E, [0, 1, 2], top_k=1), ValueError, "need 4 entries"),
        (
            lambda: retrieval_curve(E, E, [0, 1, 2, 4], top_k=1),
            ValueError,
            r"relevant\[3\] holds 4 at place 0",
        ),
        (
            lambda: retrieval_curve(E, E, [0, 1, 2, -1], top_k=1),
            ValueError,
            r"relevant\[3\] holds -1 at place 0",
        ),
        (lambda: retrieval_curve(E, E, [[0], [1], [], [3]], top_k=1), ValueError, "query 2 has no"),
        (lambda: retrieval_curve(E, E, range(4)), ValueError, "top_k must be between 1 and"),
        (lambda: retrieval_curve(E, E[:, :3], range(4), top_k=1), ValueError, "4 numbers and the"),
        (lambda: retrieval_curve(E, E, range(4), top_k=2.5), TypeError, "top_k must be an integer"),
        (lambda: retrieval_curve(E, E, range(4), top_k="10"), TypeError, "top_k .*got '10'"),
        (
            lambda: retrieval_curve(E, E, [0.9, 1.9, 2, 3], top_k=1),
            TypeError,
            "got 0.9 .float. at place 0",
        ),
        (
            lambda: retrieval_curve(E, E, ["0", "1", "2", "3"], top_k=1),
            TypeError,
            "got '0' .str. at place",
        ),
        (
            lambda: retrieval_curve(E, E, [True] * 4, top_k=1),
            TypeError,
            "got True .bool. at place 0",
        ),
        (
            lambda: retrieval_curve(E, E, [[0], [1, 1], [2], [3]], top_k=1),
            ValueError,
            "row 1 twice",
        ),
        (lambda: retrieval_curve(E, E, E.astype(bool), top_k=1), TypeError, "matrix of 4 x 4"),
        (
            lambda: retrieval_curve(E, E, [(0, 2)] * 4, top_k=1),
            ValueError,
            r"could be \(row, grade\)",
        ),
        (
            lambda: retrieval_curve(E, E, {"q1": [0], 1: [1], 2: [2], 3: [3]}, top_k=1),
            TypeError,
            "'q1'",
        ),
        (
            lambda: retrieval_curve(E, E, {1: [0], 2: [1], 3: [2], 4: [3]}, top_k=1),
            ValueError,
            "holds 4",
        ),
        (
            lambda: retrieval_curve(E, E, [[{0: 1}], [1], [2], [3]], top_k=1),
            TypeError,
            "relevant.0.",
        ),
        (
            lambda: similarity_curve(E, E, ["a", "b", "c", "d"]),
            TypeError,
            "scores must hold numbers",
        ),
        (lambda: similarity_curve(E, E, [True, False] * 2), TypeError, "scores must hold numbers"),
        (
            lambda: similarity_curve(np.ones((4, 2), np.uint8), E[:, :2], range(4)),
            TypeError,
            "packed",
        ),
        (lambda: retention({4: 0.5}), TypeError, "needs a Curve"),
        (lambda: retrieval_curve(E[:0], E, [], top_k=1), ValueError, "shape"),
    ],
)
def test_bad_input_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_constant_prefix_has_no_correlation_and_a_warning_says_so(recwarn):
    emb = np.ones((4, 2))
    emb[:, 1] = [1, 2, 3, 4]
    curve = similarity_curve(emb, np.ones((4, 2)), [4, 3, 2, 1])
    assert np.isnan(curve[1]) and curve[2] == pytest.approx(1)
    (warning,) = recwarn.list
    assert "all pairs have the same cosine at k = 1: there is nothing to rank" in (
        str(warning.message)
    )
    assert warning.filename == __file__
    recwarn.clear()
    curve = similarity_curve(np.ones((4, 9)), np.ones((4, 9)), [4, 3, 2, 1])
    assert np.isnan(list(curve.values())).all()
    assert "at k = 1, 2, 3, 4, 5, ...: there" in str(recwarn.list[0].message)


def test_a_rotation_of_rows_of_any_size_and_of_equal_rows():
    rng = np.random.default_rng(6)
    emb = rng.normal(size=(50, 5)) * [3, 1, 2, 0.5, 4]
    want = pca_rotation(emb)
    for factor in (2.0**-600, 2.0**600, 2.0**-1060):
        np.testing.assert_allclose(pca_rotation(emb * factor), want, atol=1e-4)
    with pytest.warns(UserWarning, match="all 7 rows of emb are equal"):
        rotation = pca_rotation(np.ones((7, 3)))
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=1e-6)
    with pytest.warns(UserWarning, match="are equal"):
        pca_rotation(np.zeros((7, 3)))


@pytest.mark.parametrize("module", ["costs", "evaluation", "search", "ranking", "planning"])
def test_arrays_need_no_torch(module):
    """torch comes in with the first tensor, the rest with what needs it."""
    heavy = ["torch", "datasets", "sentence_transformers", "transformers", "matplotlib", "sklearn"]
    code = f"import sys, mrl_course.{module}; print([m for m in {heavy} if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


# -------------------------------------------------------------------------------- tempered PCA


def decaying(seed=0, n=600):
    rng = np.random.default_rng(seed)
    emb = rng.normal(size=(n, 12)) * 0.7 ** np.arange(12)
    return (emb @ np.linalg.qr(rng.normal(size=(12, 12)))[0]).astype(np.float32)


@pytest.mark.parametrize("gamma", [0.0, 0.4, 1.0])
def test_tempered_pca_scales_the_directions_by_their_variances(gamma):
    emb = decaying()
    scaled = tempered_pca(emb, 5, gamma)
    rotation = pca_rotation(emb)
    variances = (emb.astype(float) @ rotation).var(axis=0)
    wanted = rotation * (variances / variances[0]) ** (-gamma / 2)
    np.testing.assert_allclose(scaled, wanted[:, :5], rtol=1e-3, atol=1e-5)
    spread = (emb.astype(float) @ scaled).var(axis=0)
    if gamma == 1:  # whitened
        np.testing.assert_allclose(spread, spread[0], rtol=1e-3)


def test_the_exponent_is_the_one_with_which_held_out_rows_keep_most():
    """All the numbers whitened would lose neighbours; and PCA at full size keeps all."""
    emb = decaying()
    np.testing.assert_array_equal(tempered_pca(emb, 12), tempered_pca(emb, 12, 0.0))
    rng = np.random.default_rng(1)
    few = np.repeat(rng.normal(size=(60, 4)), 10, axis=0) * np.array([30, 1, 1, 1])
    few = few / np.linalg.norm(few, axis=1, keepdims=True)
    loud = few.copy()
    loud[:, 0] = 0.02 * rng.choice([-1, 1], size=600) + 0.9  # signs of nothing
    chosen = tempered_pca(loud, 4)
    kept = [np.allclose(chosen, tempered_pca(loud, 4, gamma)) for gamma in evaluation.TEMPERS]
    assert sum(kept) == 1
    same = tempered_pca(emb, 6, seed=3)
    np.testing.assert_array_equal(same, tempered_pca(emb, 6, seed=3))


def test_tempered_pca_does_not_blow_up_directions_without_variance():
    emb = decaying(n=60)[:, :12].copy()
    emb[:, 6:] = 0
    scaled = tempered_pca(emb, 12, 1.0)
    assert np.isfinite(scaled).all()
    assert np.linalg.norm(scaled, axis=0).max() <= 100.01


def test_tempered_pca_needs_rows_to_choose_with():
    with pytest.raises(ValueError, match="39 rows are too few to choose gamma"):
        tempered_pca(decaying(n=39), 4)
    assert tempered_pca(decaying(n=39), 4, 0.5).shape == (12, 4)
