"""Search: equal to a naive argsort, the same from arrays and indexes, clear about bad input."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_course import ranking, search
from mrl_course.search import (
    PrefixIndex,
    exact_search,
    funnel_search,
    rerank,
    shortlist_rerank,
    truncate,
    tune_shortlist,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*hold only zeros:UserWarning"),
    pytest.mark.filterwarnings("error::RuntimeWarning"),
]
quick = settings(deadline=None, max_examples=60)


def unit(emb):
    emb = np.asarray(emb, dtype=np.float64)
    length = np.linalg.norm(emb, axis=-1, keepdims=True)
    return emb / np.where(length > 0, length, 1)


def naive(queries, corpus, top_k, dim, rows=None):
    """The definition: cosines of prefixes, 7 decimals, a stable sort, the first top_k."""
    scores = unit(queries[:, :dim]) @ unit(corpus[:, :dim]).T
    scores = np.round(scores, 7).astype(np.float32)
    if rows is not None:  # only these rows take part
        masked = np.full_like(scores, -np.inf)
        for line, mine, allowed in zip(masked, scores, rows, strict=True):
            line[allowed] = mine[allowed]
        scores = masked
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    return order, np.take_along_axis(scores, order, axis=1)


@st.composite
def problems(draw):
    """Queries and a corpus of random shape; small integers, so that many cosines are equal."""
    n, dim = draw(st.integers(1, 60)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    queries = rng.integers(-2, 3, size=(draw(st.integers(1, 5)), dim))
    corpus = rng.integers(-2, 3, size=(n, dim))
    corpus[rng.integers(0, n, size=n // 3)] = corpus[0]  # copies: equal scores for sure
    if draw(st.booleans()):
        corpus = corpus * rng.choice([1, 2, 4], size=(n, 1))  # equal directions of other lengths
    return queries, corpus, draw(st.integers(1, n)), draw(st.integers(1, dim))


@pytest.fixture(params=[None, 3, 7], ids=["usual blocks", "blocks of 3", "blocks of 7"])
def blocks(request, monkeypatch):
    """Tiny blocks, so that the seams between them are tested."""
    if request.param:
        monkeypatch.setattr(ranking, "SCORES", request.param)
        monkeypatch.setattr(ranking, "QUERIES", 2)
    return request.param


def assert_same(found, expected):
    np.testing.assert_array_equal(found.indices, expected[0])
    np.testing.assert_allclose(found.scores, expected[1], atol=1e-6)
    assert found.indices.dtype == np.int64 and found.scores.dtype == np.float32


# --------------------------------------------------------------------------- right results


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("dtype", [np.int64, np.float16, np.float32, np.float64])
def test_exact_search_is_a_stable_argsort(dtype):
    @quick
    @given(problems())
    def check(problem):
        queries, corpus, top_k, dim = problem
        queries, corpus = queries.astype(dtype), corpus.astype(dtype)
        expected = naive(queries, corpus, top_k, dim)
        assert_same(exact_search(queries, corpus, top_k, dim), expected)
        assert_same(exact_search(queries, PrefixIndex(corpus, dim), top_k, dim), expected)

    check()


@quick
@given(problems(), st.data())
def test_two_stages_are_two_argsorts(problem, data):
    queries, corpus, top_k, dim = problem
    size = data.draw(st.integers(top_k, len(corpus) + 3))
    full_dim = corpus.shape[1]
    shortlist, _ = naive(queries, corpus, size, dim)
    expected = naive(queries, corpus, top_k, full_dim, rows=shortlist)
    for given_as in (corpus, PrefixIndex(corpus, [dim])):
        assert_same(shortlist_rerank(queries, given_as, dim, size, top_k), expected)
        assert_same(rerank(queries, given_as, shortlist, top_k), expected)


@quick
@given(problems(), st.data())
def test_a_funnel_is_one_argsort_after_another(problem, data):
    queries, corpus, top_k, _ = problem
    n, full_dim = corpus.shape
    dims = sorted(data.draw(st.sets(st.integers(1, full_dim), min_size=1, max_size=4)))
    keeps = sorted(data.draw(st.integers(top_k, n)) for _ in dims)[::-1]
    steps = list(zip(dims, keeps, strict=True))
    rows = [np.arange(n)] * len(queries)
    for dim, keep in steps:
        rows, _ = naive(queries, corpus, keep, dim, rows)
    expected = naive(queries, corpus, top_k, full_dim, rows)
    assert_same(funnel_search(queries, corpus, steps, top_k), expected)
    assert_same(funnel_search(queries, PrefixIndex(corpus, dims[0]), steps, top_k), expected)


def test_with_everything_on_the_shortlist_nothing_is_lost():
    rng = np.random.default_rng(0)
    queries, corpus = rng.normal(size=(4, 16)), rng.normal(size=(300, 16))
    expected = exact_search(queries, corpus, 10)
    assert_same(shortlist_rerank(queries, corpus, 1, 300, 10), expected)
    assert_same(funnel_search(queries, corpus, [(2, 300), (8, 300)], 10), expected)


def test_one_query_gives_one_row():
    rng = np.random.default_rng(1)
    queries, corpus = rng.normal(size=(3, 8)), rng.normal(size=(50, 8))
    many = exact_search(queries, corpus, 5)
    indices, scores = exact_search(queries[1], corpus, 5)
    assert indices.shape == scores.shape == (5,)
    np.testing.assert_array_equal(indices, many.indices[1])
    two = shortlist_rerank(queries[1], corpus, 4, 20, 5)
    assert two.indices.shape == (5,)
    assert rerank(queries[1], corpus, two.indices, 2).indices.shape == (2,)


def test_a_flood_of_equal_rows_is_settled_block_by_block(monkeypatch):
    """All rows equal: the first row numbers win, and memory stays bounded."""
    monkeypatch.setattr(ranking, "SCORES", 6_000)
    corpus = np.ones((30_000, 4), np.float32)
    most = 0
    settle = ranking.order_rows

    def watched(query, rows, numbers, values, keep):
        nonlocal most
        most = max(most, len(numbers))
        return settle(query, rows, numbers, values, keep)

    monkeypatch.setattr(ranking, "order_rows", watched)
    monkeypatch.setattr(search, "order_rows", watched)
    found = exact_search(np.ones(4), corpus, 5)
    np.testing.assert_array_equal(found.indices, np.arange(5))
    assert most <= 6_000 + 5, most
    zero = exact_search(np.zeros(4), corpus, 5)
    np.testing.assert_array_equal(zero.indices, np.arange(5))
    np.testing.assert_array_equal(zero.scores, 0)


@pytest.mark.parametrize("order", ["C", "F"])
def test_non_contiguous_input_gives_the_same(order):
    rng = np.random.default_rng(2)
    wide = rng.normal(size=(80, 24)).astype(np.float32)
    corpus = np.asarray(wide, order=order)[::2, ::3]
    queries = wide[:6, 4:20:2][:, :8]
    found = exact_search(queries, corpus, 7, dim=5)
    assert_same(found, naive(queries, corpus, 7, 5))
    assert_same(shortlist_rerank(queries, corpus, 5, 40, 7), naive(queries, corpus, 7, 8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_tensors_are_taken_too(dtype):
    queries = torch.randn(2, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    corpus = torch.randn(30, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected = naive(queries.double().numpy(), corpus.double().numpy(), 5, 8)
    assert_same(exact_search(queries.requires_grad_(), corpus, 5), expected)


def test_a_memory_mapped_file_is_searched_in_pieces(tmp_path, monkeypatch):
    """No piece that is copied into memory is larger than the limit, whatever the file holds."""
    rng = np.random.default_rng(3)
    corpus = rng.normal(size=(5_000, 32)).astype(np.float16)
    np.save(tmp_path / "corpus.npy", corpus)
    mapped = np.load(tmp_path / "corpus.npy", mmap_mode="r")
    queries = rng.normal(size=(3, 32))
    monkeypatch.setattr(ranking, "NUMBERS", 64 * 32)
    largest = 0
    convert = ranking.to_float32

    def watched(rows):
        nonlocal largest
        largest = max(largest, rows.size)
        return convert(rows)

    monkeypatch.setattr(ranking, "to_float32", watched)
    expected = exact_search(queries, corpus, 10)
    assert_same(exact_search(queries, mapped, 10), expected)
    index = PrefixIndex(mapped, 8)
    assert isinstance(index.corpus, np.memmap)
    two = shortlist_rerank(queries, index, 8, 2_000, 10)
    assert 64 * 8 < largest <= 2_000 * 32
    assert np.isin(two.indices, expected.indices).mean() > 0.7
    largest = 0
    exact_search(queries, mapped, 10)
    PrefixIndex(mapped, [8, 16])
    assert 0 < largest <= 64 * 32


@pytest.mark.parametrize("spread", [18, 150, 300])
def test_extreme_lengths_do_not_matter(spread):
    rng = np.random.default_rng(4)
    corpus = rng.normal(size=(60, 8))
    scaled = corpus * 10.0 ** rng.integers(-spread, spread + 1, size=(60, 1))
    queries = rng.normal(size=(2, 8))
    expected = naive(queries, corpus, 10, 4)
    given = scaled.copy()
    for factor in (1.0, 10.0**-spread, 10.0**spread):
        assert_same(exact_search(queries * factor, scaled, 10, 4), expected)
        assert_same(exact_search(queries * factor, PrefixIndex(scaled, 4), 10, 4), expected)
        assert_same(
            shortlist_rerank(queries * factor, scaled, 4, 60, 10), naive(queries, corpus, 10, 8)
        )
        index = PrefixIndex(scaled, 4)
        assert_same(exact_search(queries, index, 10), naive(queries, corpus, 10, 8))
        assert_same(truncate_scores(queries * factor, scaled, 4, 10), expected)
    np.testing.assert_array_equal(scaled, given)


def truncate_scores(queries, corpus, dim, top_k):
    return exact_search(truncate(queries, dim), truncate(corpus, dim), top_k)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_smallest_and_the_largest_numbers_of_a_type_count(dtype):
    info = np.finfo(dtype)
    signs = np.random.default_rng(5).choice([-1.0, 1.0], size=(30, 8))
    rows = np.concatenate([signs * float(info.max), signs * float(info.smallest_subnormal)])
    queries = np.concatenate([signs[:2], signs[:2] * float(info.max) / 4]).astype(dtype)
    expected = naive(np.tile(signs[:2], (2, 1)), np.tile(signs, (2, 1)), 20, 8)
    assert_same(exact_search(queries, rows.astype(dtype), 20), expected)
    cut = truncate(rows.astype(dtype), 4)
    np.testing.assert_allclose(cut, np.tile(signs[:, :4], (2, 1)) / 2, atol=1e-6)


def test_zero_rows_have_cosine_0_and_one_warning_a_call(recwarn):
    corpus = np.random.default_rng(6).normal(size=(50, 8))
    corpus[[7, 9]] = 0
    corpus[11, :4] = 0
    queries = np.concatenate([corpus[:2], np.zeros((1, 8))])
    said = "1 of 3 rows of queries hold only zeros, first row 2; 2 of 50 rows of corpus hold only"
    calls = [
        (lambda: exact_search(queries, corpus, 50), said),
        (lambda: exact_search(queries, corpus, 50, 4), r"3 of 50 rows of corpus[:, :4] hold only"),
        (lambda: shortlist_rerank(queries, corpus, 4, 50, 50), "3 of 50 rows of corpus[:, :4]"),
        (lambda: rerank(queries, corpus, [list(range(50))] * 3, 50), said),
        (lambda: PrefixIndex(corpus, [4, 8]), "3 of 50 rows of corpus[:, :4]"),
        (lambda: truncate(corpus, 4), "3 of 50 rows of emb[..., :4] hold only zeros, first row 7"),
    ]
    for call, words in calls:
        recwarn.clear()
        found = call()
        (warning,) = recwarn.list
        assert words in str(warning.message) and warning.filename == __file__
        if isinstance(found, search.Neighbours):
            assert (found.scores[np.isin(found.indices, [7, 9])] == 0).all()
            assert (found.scores[2] == 0).all()
    index = PrefixIndex(corpus, [4])
    recwarn.clear()
    exact_search(corpus[:2], index, 5, 4)
    assert not recwarn.list  # said where the index was made


def test_equal_rows_have_equal_scores_wherever_they_stand():
    rng = np.random.default_rng(7)
    for dim in (3, 31, 384):
        base = rng.normal(size=(4, dim)).astype(np.float32)
        corpus = base[rng.integers(0, 4, 997)]
        indices, scores = exact_search(base[0] + base[1], corpus, 997)
        for row in base:
            assert len(set(scores[(corpus[indices] == row).all(axis=1)])) == 1


# ------------------------------------------------------------------------------- the index


def test_the_index_holds_contiguous_unit_prefixes_and_says_its_bytes():
    corpus = np.random.default_rng(5).normal(size=(100, 16)).astype(np.float32)
    corpus[7] = 0
    index = PrefixIndex(corpus, [8, 4])
    assert index.dims == [4, 8] and index.full_dim == 16 and len(index) == 100
    assert index.nbytes == 4 * 100 * (4 + 8 + 1)
    assert index.corpus is corpus
    prefix = index.prefix(4)
    assert prefix.flags.c_contiguous and prefix.dtype == np.float32
    np.testing.assert_allclose(prefix, unit(corpus[:, :4]), atol=1e-6)
    assert "100 x 16" in repr(index) and "[4, 8]" in repr(index)
    with pytest.raises(ValueError, match=r"holds prefixes of \[4, 8\], not 6"):
        shortlist_rerank(corpus[:1], index, 6, 20, 5)


# -------------------------------------------------------------------------------- truncate


@quick
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6), st.data())
def test_truncate_cuts_then_normalises(n, dim, seed, data):
    k = data.draw(st.integers(1, dim))
    emb = np.random.default_rng(seed).normal(size=(n, dim))
    for array in (emb, emb.astype(np.float32)):
        cut = truncate(array, k)
        assert cut.shape == (n, k) and cut.dtype == array.dtype
        np.testing.assert_allclose(cut, unit(array[:, :k]), atol=1e-5)
    tensor = truncate(torch.from_numpy(emb), k)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_allclose(tensor, unit(emb[:, :k]), atol=1e-9)
    np.testing.assert_allclose(truncate(emb[0], k), unit(emb[0, :k]), atol=1e-9)


def test_truncate_twice_is_truncate_once():
    emb = np.random.default_rng(6).normal(size=(20, 12))
    np.testing.assert_allclose(truncate(truncate(emb, 8), 3), truncate(emb, 3), atol=1e-12)


def test_truncate_reports_zero_rows_and_keeps_them():
    emb = np.array([[0.0, 0.0, 1.0], [3.0, 4.0, 0.0], [0.0, 0.0, 0.0]])
    with pytest.warns(
        UserWarning, match=r"2 of 3 rows of emb\[..., :2\] hold only zeros, first row 0"
    ):
        cut = truncate(emb, 2)
    np.testing.assert_allclose(cut, [[0, 0], [0.6, 0.8], [0, 0]])


def test_truncate_of_half_precision_does_not_overflow():
    emb = np.array([[60_000, 60_000, 1]], np.float16)  # the square of 60,000 is not a float16
    cut = truncate(emb, 2)
    assert cut.dtype == np.float32
    np.testing.assert_allclose(cut, [[0.5**0.5, 0.5**0.5]], atol=1e-6)
    assert truncate(torch.from_numpy(emb), 2).dtype == torch.float32
    tiny = truncate(np.array([[3e-30, 4e-30, 1.0]], np.float32), 2)
    np.testing.assert_allclose(tiny, [[0.6, 0.8]], atol=1e-6)


def test_truncate_takes_read_only_and_reversed_arrays(tmp_path, recwarn):
    emb = np.random.default_rng(0).normal(size=(6, 5))
    np.save(tmp_path / "emb.npy", emb)
    mapped = np.load(tmp_path / "emb.npy", mmap_mode="r")
    np.testing.assert_allclose(truncate(mapped, 2), unit(emb[:, :2]), atol=1e-9)
    np.testing.assert_allclose(
        truncate(emb[::-1, ::-1], 2), unit(emb[::-1, ::-1][:, :2]), atol=1e-9
    )
    cut = truncate(emb, 2)
    cut[:] = 0
    assert np.load(tmp_path / "emb.npy").any() and emb.any() and not recwarn.list


def test_gradients_pass_through_truncate():
    emb = torch.tensor([[3.0, 4.0, 5.0], [0.0, 0.0, 1.0]], requires_grad=True)
    with pytest.warns(UserWarning, match="first row 1"):
        truncate(emb, 2)[:, 0].sum().backward()
    assert torch.isfinite(emb.grad).all()
    # d/dx of x / sqrt(x^2 + y^2) is y^2 / length^3
    np.testing.assert_allclose(emb.grad[0], [16 / 125, -12 / 125, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("emb", "dim", "error", "match"),
    [
        (np.ones((2, 3)), 4, ValueError, "dim must be between 1 and 3"),
        (np.ones((2, 3)), 0, ValueError, "between 1 and 3"),
        (np.ones((2, 3)), 2.0, TypeError, "integer"),
        (np.ones((2, 3)), True, TypeError, "integer"),
        (np.ones((0, 3)), 2, ValueError, "shape"),
        (np.ones((2, 3, 4)), 2, ValueError, "shape"),
        (np.array([["a", "b"]]), 1, TypeError, "numbers"),
        (np.array([[1.0, 2.0], [np.nan, 1.0]]), 1, ValueError, "first in row 1"),
        (torch.tensor([[float("inf"), 1.0]]), 2, ValueError, "first in row 0"),
        (np.packbits(np.ones((2, 16), bool), axis=1), 1, TypeError, "packed sign bits"),
        (torch.ones(2, 3, dtype=torch.uint8), 1, TypeError, "packed bits"),
        (torch.ones(2, 3, dtype=torch.bool), 1, TypeError, "no bits"),
        ([[1.0, 2.0], [3.0]], 1, TypeError, "one array of numbers"),
    ],
)
def test_truncate_refuses(emb, dim, error, match):
    with pytest.raises(error, match=match):
        truncate(emb, dim)


# ------------------------------------------------------------------------------- bad input

Q, C = np.ones((2, 8)), np.random.default_rng(7).normal(size=(20, 8))


class Engine:
    """Something that is no array and searches by itself."""

    def search(self, queries, top_k):
        raise AssertionError


def with_nan(array, row, column):
    array = array.copy()
    array[row, column] = np.nan
    return array


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: exact_search(Q, C, 21), ValueError, r"top_k must be between 1 and 20 .*got 21"),
        (lambda: exact_search(Q, C, 0), ValueError, "top_k must be between 1 and 20"),
        (lambda: exact_search(Q, C, 2.5), TypeError, "top_k must be an integer, got 2.5"),
        (lambda: exact_search(Q, C, 5, dim=9), ValueError, "dim must be between 1 and 8"),
        (lambda: exact_search(Q, C[:0], 1), ValueError, r"corpus must have shape \(n, D\)"),
        (lambda: exact_search(Q[:0], C, 1), ValueError, "queries must have shape"),
        (lambda: exact_search(Q[:, :4], C, 1), ValueError, "queries have 4 numbers"),
        (lambda: exact_search(Q, C.astype(str), 1), TypeError, "corpus must hold numbers"),
        (lambda: exact_search(Q, C > 0, 1), TypeError, "corpus must hold numbers"),
        (lambda: exact_search(with_nan(Q, 1, 0), C, 1), ValueError, "queries .*first in row 1"),
        (lambda: exact_search(Q, with_nan(C, 13, 2), 1), ValueError, "corpus .*first in row 13"),
        (lambda: PrefixIndex(with_nan(C, 13, 7), 2), ValueError, "corpus .*first in row 13"),
        (lambda: shortlist_rerank(Q, with_nan(C, 3, 7), 2, 5, 1), ValueError, "first in row 3"),
        (lambda: PrefixIndex(C, [2, 2]), ValueError, "more than once"),
        (lambda: PrefixIndex(C, 9), ValueError, "between 1 and 8"),
        (lambda: shortlist_rerank(Q, C, 9, 10, 5), ValueError, "dim must be between 1 and 8"),
        (lambda: shortlist_rerank(Q, C, 4, 4, 5), ValueError, "shortlist of 4 cannot hold top_k"),
        (lambda: shortlist_rerank(Q, C, 4, 30, 21), ValueError, "top_k must be between"),
        (lambda: funnel_search(Q, C, [], 5), ValueError, "steps is empty"),
        (lambda: funnel_search(Q, C, [(4, 10), (4, 8)], 5), ValueError, "dims of steps must asc"),
        (lambda: funnel_search(Q, C, [(4, 10), (2, 8)], 5), ValueError, "2 follows 4"),
        (lambda: funnel_search(Q, C, [(2, 8), (4, 10)], 5), ValueError, "10 rows cannot follow"),
        (lambda: funnel_search(Q, C, [(2, 8), (4, 3)], 5), ValueError, "shortlist of 3"),
        (lambda: funnel_search(Q, C, [(2, 8, 1)], 5), TypeError, "pairs"),
        (lambda: funnel_search(Q, C, [(2.0, 8)], 5), TypeError, "pairs of integers"),
        (lambda: rerank(Q, C, [[1, 2], [3, 20]], 1), ValueError, "holds 20 at place 1"),
        (lambda: rerank(Q, C, [[1, 2], [3, -2]], 1), ValueError, r"candidates\[1\] holds -2"),
        (lambda: rerank(Q, C, [[1, 2], [3, -1]], 2), ValueError, "query 1 has 1 candidates"),
        (
            lambda: rerank(Q, C, [[1, 1], [3, 4]], 2),
            ValueError,
            "holds row 1 twice, again at place 1",
        ),
        (lambda: rerank(Q, C, [["1", "2"], ["3", "4"]], 1), TypeError, "candidates must hold num"),
        (lambda: rerank(Q, C, [[True, False], [True, True]], 1), TypeError, "candidates must"),
        (lambda: exact_search(Q, Engine(), 1), TypeError, "got Engine, which searches by itself"),
        (lambda: PrefixIndex(C, 4).prefix("4"), TypeError, "dim must be an integer"),
        (lambda: rerank(Q, C, [[1, 2]], 1), ValueError, "2 queries need 2 rows"),
        (lambda: rerank(Q, C, [[0.5], [1.0]], 1), TypeError, "row numbers"),
        (lambda: rerank(Q, C, [[1, 2], [3, 4]], 3), ValueError, "top_k must be between 1 and 2"),
        (lambda: tune_shortlist(Q, C, 1.5, 5), ValueError, "target_recall .*got 1.5"),
        (lambda: tune_shortlist(Q, C, 0, 5), ValueError, "target_recall"),
        (lambda: tune_shortlist(Q, C, "0.9", 5), TypeError, "target_recall must be a number"),
        (
            lambda: tune_shortlist(C, C, 0.9, 5),
            ValueError,
            "at least 40 different queries .*got 20",
        ),
        (lambda: tune_shortlist(Q.repeat(30, axis=0), C, 0.9, 5), ValueError, "got 1 different"),
        (lambda: tune_shortlist(C, C, 0.9, 5, sample=39), ValueError, "sample must be at least 40"),
        (lambda: tune_shortlist(C, C, 0.9, 5, sample=40.5), TypeError, "sample must be an integer"),
        (lambda: tune_shortlist(C, C, 0.9, 5, seed=-1), ValueError, "seed must be between 0"),
        (lambda: tune_shortlist(C, C, 0.9, 5, sizes=5), TypeError, "sizes must be a list"),
        (lambda: tune_shortlist(Q, C, 0.9, 5, sizes=[4]), ValueError, "cannot hold top_k = 5"),
        (lambda: tune_shortlist(Q, C, 0.9, 5, sizes=[]), ValueError, "sizes is empty"),
        (lambda: tune_shortlist(Q, C, 0.9, 5, sizes=[21]), ValueError, "between 1 and 20"),
    ],
)
def test_bad_input_is_named(call, error, match):
    with pytest.raises(error, match=match):
        call()


# ------------------------------------------------------------------------------ the tuning


def sorted_numbers(rng, n, dim):
    """Vectors whose first numbers matter most, like those of a Matryoshka model."""
    return rng.normal(size=(n, dim)) * 0.85 ** np.arange(dim)


@pytest.fixture(scope="module")
def tuned():
    rng = np.random.default_rng(8)
    corpus = sorted_numbers(rng, 2_000, 32)
    queries = corpus[:120] + 0.3 * sorted_numbers(rng, 120, 32)
    dims, sizes = [2, 4, 8, 16], [10, 20, 50, 100, 200]
    return queries, corpus, tune_shortlist(queries, corpus, 0.95, 10, dims=dims, sizes=sizes)


def test_the_table_holds_what_a_real_search_finds(tuned):
    queries, corpus, tuning = tuned
    drawn = np.random.default_rng(0).permutation(120)
    exact = exact_search(queries, corpus, 10).indices
    for row in tuning.table.itertuples():
        found = shortlist_rerank(queries, corpus, row.dim, row.shortlist_size, 10).indices
        each = [len(set(a) & set(b)) / 10 for a, b in zip(found, exact, strict=True)]
        assert row.recall == pytest.approx(np.mean([each[i] for i in drawn[:60]]), abs=2e-3)
        assert row.checked_recall == pytest.approx(np.mean([each[i] for i in drawn[60:]]), abs=2e-3)


def test_what_is_chosen_reaches_the_target_on_both_halves(tuned):
    _, _, tuning = tuned
    for target in sorted({*tuning.table.recall, *tuning.table.checked_recall} - {0.0}):
        again = tune_shortlist(*tuned[:2], target, 10, dims=[2, 4, 8, 16], sizes=[10, 20, 50])
        both = again.table[["recall", "checked_recall"]].min(axis=1)
        assert (again.table.reaches == (both >= target - 1e-9)).all()
        assert min(again.recall, again.checked_recall) >= target - 1e-9


def test_nothing_below_the_target_is_called_chosen():
    """Near-duplicates in a large group: no short prefix can tell them apart."""
    rng = np.random.default_rng(11)
    corpus = np.repeat(rng.normal(size=(40, 32)), 25, axis=0)
    corpus = corpus + 0.05 * rng.normal(size=corpus.shape)
    queries = corpus[::10] + 0.02 * rng.normal(size=(100, 32))
    tuning = tune_shortlist(queries, corpus, 0.999, 10, dims=[4, 8], sizes=[10, 12])
    report = str(tuning)
    assert (tuning.dim, tuning.shortlist_size, tuning.recall) == (32, 10, 1.0)
    assert "<- chosen" not in report and "<- exact search is left" in report
    best = tuning.table[:-1].sort_values("checked_recall").iloc[-1]
    assert (
        f"no candidate reached it: the best is a shortlist of 12 at 8 numbers, recall "
        f"{best.recall:.3f}, checked {best.checked_recall:.3f} [{best.low:.3f}, {best.high:.3f}]"
    ) in report


def test_the_interval_holds_the_recall_of_many_other_queries():
    rng = np.random.default_rng(12)
    corpus = sorted_numbers(rng, 1_000, 16)
    many = corpus[rng.integers(0, 1_000, 4_000)] + 0.3 * sorted_numbers(rng, 4_000, 16)
    exact = exact_search(many, corpus, 10).indices
    found = shortlist_rerank(many, corpus, 4, 30, 10).indices
    true = np.mean([len({*a} & {*b}) / 10 for a, b in zip(exact, found, strict=True)])
    inside = 0
    for seed in range(40):
        tuning = tune_shortlist(many, corpus, 0.5, 10, dims=[4], sizes=[30], seed=seed, sample=60)
        low, high = tuning.table.low[0], tuning.table.high[0]
        assert 0 <= low <= tuning.table.checked_recall[0] <= high <= 1
        inside += low <= true <= high
    assert inside >= 35 and high - low < 0.3
    assert tuning.interval == (low, high)


def test_copies_of_a_row_are_as_good_as_each_other():
    """Any two of five equal rows are right: a shortlist of two that holds two of them has all."""
    rng = np.random.default_rng(10)
    corpus = np.concatenate([np.repeat(rng.normal(size=(1, 4)), 5, axis=0), np.eye(4)])
    queries = corpus[0] + 1e-4 * rng.normal(size=(40, 4))
    tuning = tune_shortlist(queries, corpus, 1.0, 2, dims=[3], sizes=[2, 3])
    assert tuning.table.recall.tolist() == [1.0, 1.0, 1.0]
    assert tuning.table.shortlist_size[0] == 2
    flood = np.concatenate([np.ones((20_000, 4)), -np.ones((10, 4))])
    tuning = tune_shortlist(1 + queries * 0.1, flood, 1.0, 10, dims=[2], sizes=[10, 20])
    assert tuning.table.recall.tolist() == [1.0, 1.0, 1.0]


def test_the_recall_of_a_tuning_does_not_depend_on_the_order_of_the_corpus():
    """Sign codes: most rows of a short prefix are tied, and many of the full ones."""
    rng = np.random.default_rng(13)
    corpus, queries = np.sign(rng.normal(size=(600, 16))), np.sign(rng.normal(size=(80, 16)))
    options = {"dims": [4, 8], "sizes": [10, 40]}
    want = tune_shortlist(queries, corpus, 0.9, 10, **options).table
    real = []
    for _ in range(60):
        shuffled = corpus[rng.permutation(600)]
        got = tune_shortlist(queries, shuffled, 0.9, 10, **options).table
        np.testing.assert_allclose(got.recall, want.recall, atol=1e-9)
        exact = exact_search(queries, shuffled, 10).scores
        found = shortlist_rerank(queries, shuffled, 8, 40, 10).scores
        better, tied = found > exact[:, -1:], found == exact[:, -1:]
        places = 10 - (exact > exact[:, -1:]).sum(axis=1)  # those with the score of the last one
        real.append((better.sum(axis=1) + np.minimum(tied.sum(axis=1), places)).mean() / 10)
    both = (want.recall + want.checked_recall) / 2
    assert both[3] == pytest.approx(np.mean(real), abs=0.01)


def test_the_cheapest_setting_that_reaches_the_target_is_chosen(tuned):
    _, _, tuning = tuned
    reaching = tuning.table[tuning.table[["recall", "checked_recall"]].min(axis=1) >= 0.95]
    assert 0 < len(reaching) < len(tuning.table)
    best = reaching.loc[reaching.multiply_adds.idxmin()]
    assert (tuning.dim, tuning.shortlist_size) == (best.dim, best.shortlist_size)
    assert tuning.dim < 32 and tuning.queries == 60
    # (rows scanned x dim) + (shortlist x D)
    assert best.multiply_adds == 2_000 * tuning.dim + tuning.shortlist_size * 32
    assert best.of_exact == best.multiply_adds / (2_000 * 32)


def test_the_report_shows_the_choice_and_what_was_not_enough(tuned):
    _, _, tuning = tuned
    report = str(tuning)
    assert report.count("<- chosen") == 1
    (line,) = [line for line in report.splitlines() if "<- chosen" in line]
    assert line.split()[:2] == [str(tuning.dim), str(tuning.shortlist_size)]
    assert "no shortlist up to 200 is enough at 2" in report
    assert "60 queries" in report and "ms" not in report


def test_measured_milliseconds_decide_if_asked_for(tuned, monkeypatch):
    queries, corpus, _ = tuned
    clock = iter(range(10**6))
    monkeypatch.setattr("mrl_course.costs.time.perf_counter", lambda: next(clock) ** 0.5)
    tuning = tune_shortlist(queries, corpus, 0.95, 10, dims=[8, 16], sizes=[50, 100], measure=True)
    times = tuning.table.milliseconds
    assert tuning.chosen_by == "milliseconds" and times.notna().sum() == 3
    # this clock makes every later call faster: exact search, measured last, wins
    assert (tuning.dim, tuning.shortlist_size) == (32, 10)
    assert "no shortlist is cheaper than exact search" in str(tuning) and " ms" in str(tuning)


def test_exact_search_is_the_way_out_when_nothing_else_is_enough():
    rng = np.random.default_rng(9)
    corpus = rng.normal(size=(400, 8))
    tuning = tune_shortlist(corpus[:50], corpus, 1.0, 10, dims=[1], sizes=[10])
    assert (tuning.dim, tuning.shortlist_size, tuning.recall) == (8, 10, 1.0)


def test_an_index_offers_its_own_dims_and_the_same_seed_the_same_choice(tuned):
    queries, corpus, _ = tuned
    index = PrefixIndex(corpus, [4, 8])
    one = tune_shortlist(queries, index, 0.9, 10, sample=40, seed=3)
    assert set(one.table.dim) == {4, 8, 32} and one.queries == 20
    two = tune_shortlist(queries, index, 0.9, 10, sample=40, seed=3)
    assert str(one) == str(two) and one.table.equals(two.table)
