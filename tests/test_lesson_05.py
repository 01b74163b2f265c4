"""What lesson 05 builds by hand is what the package and the library do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lesson_source import functions_of
from sentence_transformers.util import quantize_embeddings

from mrl_course.check.lesson_05 import cosines_of_sizes, int8_codes, unpack_signs
from mrl_course.evaluation import retrieval_curve
from mrl_course.search import truncate

LESSON = functions_of("05_truncation_in_practice")

seeds = st.integers(0, 10**6)
quick = settings(deadline=None, max_examples=50)


def vectors(rng, n, dim):
    """Rows of different lengths."""
    emb = rng.normal(size=(n, dim)) * rng.uniform(0.1, 9, size=(n, 1))
    return emb.astype(np.float32)


@quick
@given(st.integers(1, 9), st.integers(1, 12), seeds, st.data())
def test_cut_then_normalise_is_truncate(n, dim, seed, data):
    emb, k = vectors(np.random.default_rng(seed), n, dim), data.draw(st.integers(1, dim))
    np.testing.assert_allclose(LESSON["cut_then_normalise"](emb, k), truncate(emb, k), atol=1e-5)


@quick
@given(st.integers(10, 40), st.integers(1, 12), st.integers(1, 8), seeds)
def test_recall_without_ties_is_the_packages(n, dim, queries, seed):
    rng = np.random.default_rng(seed)
    q, c = rng.normal(size=(queries, dim)), rng.normal(size=(n, dim))
    relevant = rng.integers(0, n, size=queries)
    scores = truncate(q, dim) @ truncate(c, dim).T
    if dim > 1:  # with one number all cosines are 1 or -1
        want = retrieval_curve(q, c, relevant, [dim], top_k=10)[dim]
        assert LESSON["recall_at_10"](scores, relevant) == pytest.approx(want)


def test_recall_counts_the_chance_of_a_place_among_equal_scores():
    recall = LESSON["recall_at_10"]
    for rows, want in ((8, 1), (10, 1), (20, 0.5), (100, 0.1)):  # all equal: ten places, by lot
        assert recall(np.zeros((1, rows)), np.array([rows - 1])) == pytest.approx(want)
    ahead = np.r_[np.ones(9), np.zeros(4)][None]  # nine are better: one place for four rows
    assert recall(ahead, np.array([12])) == pytest.approx(1 / 4)
    assert recall(np.r_[np.ones(10), np.zeros(4)][None], np.array([12])) == 0


@quick
@given(st.integers(2, 30), st.integers(1, 10), seeds)
def test_int8_codes_are_the_librarys_also_outside_the_range(n, k, seed):
    rng = np.random.default_rng(seed)
    emb, sample = vectors(rng, n, k), vectors(rng, 120, k)
    sample[:, 0] = 1  # a number that never varies
    ranges = LESSON["int8_ranges"](sample)
    codes = LESSON["to_int8"](emb, ranges)
    library = quantize_embeddings(emb, precision="int8", calibration_embeddings=sample)
    assert codes.dtype == library.dtype == np.int8
    np.testing.assert_array_equal(codes, library)


@quick
@given(st.integers(2, 30), st.integers(1, 10), seeds)
def test_int8_comes_back_within_a_step_of_the_clipped_number(n, k, seed):
    rng = np.random.default_rng(seed)
    emb, sample = vectors(rng, n, k), vectors(rng, 50, k)
    low, high = ranges = LESSON["int8_ranges"](sample)
    back = LESSON["from_int8"](LESSON["to_int8"](emb, ranges), ranges)
    off = np.clip(emb, low, high) - back
    step = (high - low) / 255
    assert back.dtype == np.float32
    assert (off > -0.01 * step - 1e-6).all() and (off < 1.01 * step + 1e-6).all()


@quick
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 30), seeds)
def test_bits_signs_and_hamming_distance(n, m, k, seed):
    rng = np.random.default_rng(seed)
    a, b = vectors(rng, n, k), vectors(rng, m, k)
    bits_a, bits_b = LESSON["to_bits"](a), LESSON["to_bits"](b)
    np.testing.assert_array_equal(bits_a, quantize_embeddings(a, precision="ubinary"))
    distances = LESSON["hamming"](bits_a, bits_b)
    np.testing.assert_array_equal(distances, [[((x > 0) != (y > 0)).sum() for y in b] for x in a])
    dots = LESSON["signs"](a) @ LESSON["signs"](b).T
    np.testing.assert_array_equal(dots, k - 2 * distances)


@quick
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_frontier_holds_what_nothing_smaller_or_equal_beats(points):
    points = [(size, score / 10) for size, score in points]
    chosen = [points[i] for i in LESSON["frontier"](points, least=1e-9)]
    beaten = {
        p
        for p in points
        for other in points
        if other != p and other[0] <= p[0] and other[1] >= p[1]
    }
    assert chosen == sorted(set(points) - beaten)


def test_frontier_asks_for_a_gain():
    points = [(4, 0.50), (1, 0.30), (2, 0.495), (8, 0.504)]
    assert LESSON["frontier"](points, least=0.01) == [1, 2]


def test_layer_norm_is_torchs_without_weights():
    import torch

    emb = vectors(np.random.default_rng(0), 4, 7)
    want = torch.nn.functional.layer_norm(torch.from_numpy(emb), (7,), eps=0).numpy()
    np.testing.assert_allclose(LESSON["layer_norm"](emb), want, atol=1e-4)


def test_a_longer_tail_leaves_the_prefix_alone():
    emb = vectors(np.random.default_rng(1), 5, 6)
    other = LESSON["blow_up_the_tail"](emb, 2, factor=10)
    np.testing.assert_array_equal(other[:, :2], emb[:, :2])
    np.testing.assert_allclose(other[:, 2:], 10 * emb[:, 2:])


# ------------------------------------------------------------------- keys of the exercises


@quick
@given(st.integers(1, 9), st.integers(1, 9), seeds)
def test_cosines_of_sizes_do_not_depend_on_lengths_or_on_extra_numbers(k, m, seed):
    rng = np.random.default_rng(seed)
    query, corpus = vectors(rng, 1, k)[0], vectors(rng, 5, m)
    both = min(k, m)
    want = [
        np.dot(query[:both], row[:both])
        / (np.linalg.norm(query[:both]) * np.linalg.norm(row[:both]))
        for row in corpus
    ]
    np.testing.assert_allclose(cosines_of_sizes(query, corpus), want, atol=1e-4)


def test_int8_codes_do_not_depend_on_lengths_nor_on_the_corpus_of_the_day():
    rng = np.random.default_rng(2)
    sample, corpus = vectors(rng, 150, 12), vectors(rng, 30, 12)
    codes = int8_codes(sample, corpus, 4)
    np.testing.assert_array_equal(codes[:10], int8_codes(sample, corpus[:10], 4))
    np.testing.assert_array_equal(codes, int8_codes(2 * sample, 4 * corpus, 4))


@quick
@given(st.integers(1, 6), st.integers(1, 30), seeds)
def test_unpack_signs_undoes_the_librarys_binary_codes(n, k, seed):
    emb = vectors(np.random.default_rng(seed), n, k)
    signs = unpack_signs(quantize_embeddings(emb, precision="binary"), k)
    np.testing.assert_array_equal(signs, np.where(emb > 0, 1, -1))
