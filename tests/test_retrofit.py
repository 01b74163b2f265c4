"""Rotate and distil: better prefixes on vectors it has not seen, nothing lost at full size."""

import json
import re
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from mrl_course.evaluation import pca_rotation
from mrl_course.losses import nested_distillation, similarity_softmax
from mrl_course.models import build_static_model
from mrl_course.retrofit import Head, cayley, fit_head
from mrl_course.retrofit.recipe import Lesson, Rotation, Side
from mrl_course.retrofit.rows import Moments, collect, open_source, split


@pytest.fixture(scope="module")
def vectors():
    """Items in tight groups, plus loud numbers that tell nothing apart: PCA keeps the noise."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 24))
    emb = np.zeros((1_600, 48), np.float32)
    emb[:, :24] = centres[rng.integers(0, 40, 1_600)] + 0.3 * rng.normal(size=(1_600, 24))
    emb[:, 24:] = 0.6 * rng.normal(size=(1_600, 24))
    mixed = emb @ np.linalg.qr(rng.normal(size=(48, 48)))[0].astype(np.float32)
    return mixed


@pytest.fixture(scope="module")
def head(vectors):
    return fit_head(vectors, [4, 8, 16, 48], turned=48, progress=False)


def overlap(head, k, method):
    return head.report.overlap(k, method)


def sides_of(vectors, held_out=None, seed=0):
    """Row numbers to fit, to choose and to judge with, as a fit of these vectors takes them."""
    sides = split(collect(open_source(vectors), seed).parts, held_out, seed)
    return sides.fit, sides.choose, sides.judge


def test_short_prefixes_find_more_neighbours_than_raw_and_pca(head):
    for k in (4, 8):
        assert overlap(head, k, "head") > overlap(head, k, "raw") + 0.05
        assert overlap(head, k, "head") > overlap(head, k, "pca") - 0.03  # Gaussian: PCA is best
    assert overlap(head, 48, "raw") == overlap(head, 48, "pca") == overlap(head, 48, "head") == 1


def test_the_report_is_what_counting_gives(head, vectors):
    fitted, _, judged = sides_of(vectors)
    assert len(judged) == 160 and len(fitted) == 1_280
    fitted, judged = vectors[fitted], vectors[judged]

    def ten(change):
        unit = [x @ change / np.linalg.norm(x @ change, axis=1)[:, None] for x in (judged, fitted)]
        return np.argsort(-(unit[0] @ unit[1].T), axis=1)[:, :10]

    full, cut = ten(np.eye(48)), ten(head.weight[:, :4])
    row = head.report.table.query("k == 4 and method == 'head'")
    nearest = [full[i, 0] in cut[i] for i in range(160)]
    same = np.array([len(set(full[i]) & set(cut[i])) / 10 for i in range(160)])
    assert row.nearest.item() == pytest.approx(np.mean(nearest), abs=0.01)
    assert row.overlap.item() == pytest.approx(np.mean(same), abs=0.01)
    assert row.lost.item() == pytest.approx(np.mean(same == 0), abs=0.01)
    assert row.high.item() - row.low.item() == pytest.approx(
        2 * 1.96 * same.std(ddof=1) / 160**0.5, abs=0.003
    )
    raw = ten(np.eye(48)[:, :4])
    than = np.array([len(set(full[i]) & set(raw[i])) / 10 for i in range(160)])
    gain = head.report.gains.query("k == 4 and than == 'raw'").gain.item()
    assert gain == pytest.approx(np.mean(same - than), abs=0.01)


def test_the_worst_rows_are_those_of_what_was_given(head, vectors):
    judged = sides_of(vectors)[2]
    worst = head.report.worst.query("k == 4")
    assert set(worst.row) <= set(judged.tolist()) and len(worst) == 5
    asked = vectors[worst.row.to_numpy()]
    one, two = head.transform(asked, 4), head.transform(vectors[sides_of(vectors)[0]], 4)
    full, rest = head.transform(asked), head.transform(vectors[sides_of(vectors)[0]])
    cut, ten = (np.argsort(-(a @ b.T), axis=1)[:, :10] for a, b in ((one, two), (full, rest)))
    same = [len(set(a) & set(b)) / 10 for a, b in zip(cut, ten, strict=True)]
    np.testing.assert_allclose(same, worst.overlap, atol=0.1001)  # a tie at the tenth place
    assert worst.overlap.max() <= head.report.overlap(4)


def test_a_rotation_keeps_every_cosine_of_the_full_vectors(head, vectors):
    np.testing.assert_allclose(head.weight.T @ head.weight, np.eye(48), atol=1e-5)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    new = head.transform(vectors)
    np.testing.assert_allclose(new[:200] @ new.T, unit[:200] @ unit.T, atol=1e-5)


def test_only_the_first_principal_directions_are_turned(vectors):
    options = {"steps": 20, "batch_size": 128, "progress": False}
    few = fit_head(vectors, [4, 8, 24, 48], turned=12, **options)
    assert (few.method, few.turned) == ("rotated", 12)
    np.testing.assert_allclose(few.weight.T @ few.weight, np.eye(48), atol=1e-5)
    pca = fit_head(vectors, [4, 8, 24, 48], turned=0, **options)
    assert (pca.method, pca.turned) == ("pca", 0)
    np.testing.assert_array_equal(few.weight[:, 12:], pca.weight[:, 12:])
    turned = few.weight[:, :12]
    assert not np.allclose(turned, pca.weight[:, :12], atol=1e-3)
    outside = turned - pca.weight[:, :12] @ (pca.weight[:, :12].T @ turned)
    assert np.abs(outside).max() < 1e-5  # they span what they did
    assert few.report.overlap(24) == pca.report.overlap(24) == few.report.overlap(24, "pca")
    np.testing.assert_allclose(few.methods()["pca"], pca.weight, atol=1e-5)  # turned back


def test_any_linear_map_may_change_the_full_vectors(grouped):
    free = fit_head(grouped, [4, 48], rotation=False, progress=False)
    assert free.method == "linear"
    assert np.abs(free.weight.T @ free.weight - np.eye(48)).max() > 0.01
    assert list(free.history.columns) == [4, 48]


def test_the_fit_lowers_the_divergence_it_is_about(head):
    first, last = head.history.iloc[0], head.history.iloc[-1]
    assert (head.history.index[0], list(head.history.columns)) == (0, [4, 8, 16])
    assert last.sum() < 0.9 * first.sum()


def test_it_starts_as_the_pca_rotation_of_the_fitted_rows(vectors):
    pca = fit_head(vectors, [8, 48], turned=0, held_out=100, progress=False)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    rotation = pca_rotation(unit[sides_of(vectors, 100)[0]])
    np.testing.assert_allclose((pca.weight * rotation).sum(axis=0), 1, atol=1e-4)


def test_fewer_rows_than_numbers(vectors):
    """PCA of 46 rows in 48 numbers: 45 directions with variance, the others complete a rotation."""
    few = vectors[:46]
    pca = fit_head(few, [8, 48], turned=0, progress=False)
    np.testing.assert_allclose(pca.weight.T @ pca.weight, np.eye(48), atol=1e-5)
    rotation = pca_rotation(few / np.linalg.norm(few, axis=1, keepdims=True))
    found = np.abs((pca.weight * rotation).sum(axis=0))
    np.testing.assert_allclose(found[:45], 1, atol=1e-3)
    assert (pca.variances[:45] > 1e-6).all() and (pca.variances[45:] < 1e-6).all()


def test_few_rows_join_the_pca_after_the_report(vectors):
    """The turn is carried over: the new first numbers are near the old ones, in the new span."""
    few, options = vectors[:230], {"turned": 24, "steps": 20, "progress": False}
    head = fit_head(few, [4, 48], **options)
    unit = few / np.linalg.norm(few, axis=1, keepdims=True)
    rotation = pca_rotation(unit)
    np.testing.assert_allclose(head.weight[:, 24:], rotation[:, 24:], atol=1e-3)
    np.testing.assert_allclose(head.methods()["pca"], rotation, atol=1e-3)
    np.testing.assert_allclose(head.weight.T @ head.weight, np.eye(48), atol=1e-5)
    np.testing.assert_allclose(head.mean, unit.mean(axis=0), atol=1e-5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mrl_course.retrofit.fit._MANY_A_NUMBER", 0)
        before = fit_head(few, [4, 48], **options)
    pd.testing.assert_frame_equal(before.report.table, head.report.table)
    along = (before.weight[:, :4] * head.weight[:, :4]).sum(axis=0)
    assert (along > 0.9).all() and not np.allclose(before.weight, head.weight, atol=1e-3)


def test_the_same_seed_gives_the_same_head(vectors):
    options = {"steps": 20, "batch_size": 64, "turned": 48, "progress": False}
    one, two = (fit_head(vectors, [8, 48], **options) for _ in range(2))
    np.testing.assert_array_equal(one.weight, two.weight)
    other = fit_head(vectors, [8, 48], seed=1, **options)
    assert not np.array_equal(one.weight, other.weight)


def test_transform_is_the_map_in_blocks_with_rows_of_length_one(head, vectors, monkeypatch):
    vectors = vectors.copy()
    vectors[3] = 0
    expected = vectors @ head.weight[:, :8]
    length = np.linalg.norm(expected, axis=1, keepdims=True)
    expected = expected / np.where(length > 0, length, 1)
    monkeypatch.setattr("mrl_course.retrofit.head.BLOCK", 100)
    with pytest.warns(UserWarning, match="1 of 1600 rows of emb hold only zeros, first row 3"):
        np.testing.assert_allclose(head.transform(vectors, 8), expected, atol=1e-5)
    vectors[3] = 1
    tripled = head.transform(3 * vectors.astype(np.float64), 8)
    np.testing.assert_allclose(tripled, head.transform(vectors, 8), atol=1e-5)
    assert head.transform(vectors).shape == vectors.shape


def test_transform_writes_into_a_memory_mapped_file(head, vectors, tmp_path):
    np.save(tmp_path / "old.npy", vectors)
    old = np.load(tmp_path / "old.npy", mmap_mode="r")
    new = np.lib.format.open_memmap(tmp_path / "new.npy", "w+", np.float32, (1_600, 8))
    assert head.transform(old, 8, out=new) is new
    np.testing.assert_array_equal(np.load(tmp_path / "new.npy"), head.transform(vectors, 8))


def test_a_saved_head_comes_back_whole(head, vectors, tmp_path):
    path = head.save(tmp_path / "head.safetensors")
    again = Head.load(path)
    assert again.dims == head.dims
    np.testing.assert_array_equal(again.transform(vectors), head.transform(vectors))
    assert [p.name for p in tmp_path.iterdir()] == ["head.safetensors"]
    (tmp_path / "text").write_text("no head")
    with pytest.raises(ValueError, match="no head saved by mrl_course"):
        Head.load(tmp_path / "text")
    with pytest.raises(FileNotFoundError, match="nothing"):
        Head.load(tmp_path / "nothing")


def test_attached_to_a_model_it_is_one_sentence_transformer(tmp_path):
    texts = [f"{a} {b} {c}" for a in "abcd" for b in "efgh" for c in "ijkl"]
    model = build_static_model(texts, dim=16, vocab_size=100)
    emb = model.encode(texts)
    head = fit_head(emb, [4, 16], steps=5, batch_size=32, progress=False)
    pair = head.attach(model)
    np.testing.assert_allclose(
        pair.encode(texts, truncate_dim=4, normalize_embeddings=True),
        head.transform(emb, 4), atol=1e-5,
    )  # fmt: skip
    np.testing.assert_array_equal(model.encode(texts), emb)  # the old model is as it was
    pair.save(str(tmp_path / "pair"))
    again = type(pair)(str(tmp_path / "pair"), device="cpu")
    np.testing.assert_allclose(again.encode(texts), pair.encode(texts), atol=1e-6)
    with pytest.raises(ValueError, match="maps 16 numbers, the model gives 8"):
        head.attach(build_static_model(texts, dim=8, vocab_size=100))


def test_a_static_model_absorbs_a_head():
    texts = [f"{a} {b} {c}" for a in "abcd" for b in "efgh" for c in "ijkl"]
    model = build_static_model(texts, dim=16, vocab_size=100)
    emb = model.encode(texts)
    head = fit_head(emb, [4, 16], steps=5, batch_size=32, progress=False)
    absorbed = head.absorb(model)
    np.testing.assert_allclose(
        absorbed.encode(texts, truncate_dim=4, normalize_embeddings=True),
        head.transform(emb, 4), atol=1e-5,
    )  # fmt: skip
    np.testing.assert_array_equal(model.encode(texts), emb)  # the old model is as it was
    with pytest.raises(TypeError, match="got .*'Dense'.*use attach"):
        head.absorb(head.attach(model))
    with pytest.raises(ValueError, match="maps 16 numbers, the model gives 8"):
        head.absorb(build_static_model(texts, dim=8, vocab_size=100))


def test_pairs_and_labels(vectors):
    rng = np.random.default_rng(1)
    documents = vectors + 0.2 * rng.normal(size=vectors.shape).astype(np.float32)
    options = {"steps": 50, "batch_size": 128, "turned": 48, "progress": False}
    plain = fit_head((vectors, documents), [4, 48], **options)
    labelled = fit_head((vectors, documents), [4, 48], label_share=0.5, **options)
    assert not np.array_equal(plain.weight, labelled.weight)
    assert overlap(plain, 4, "head") > overlap(plain, 4, "raw")
    recall = labelled.report.table.set_index(["method", "k"]).recall
    assert recall["head", 4] > recall["raw", 4]
    assert recall["raw", 48] == recall["pca", 48] > 0.5
    assert "whose own document" in str(labelled)


def test_hard_negatives_are_candidates_for_each_query(vectors):
    rng = np.random.default_rng(1)
    documents = vectors + 0.2 * rng.normal(size=vectors.shape).astype(np.float32)
    negatives = np.roll(vectors, 1, axis=0)
    options = {"steps": 25, "batch_size": 128, "turned": 48, "progress": False}
    two = fit_head((vectors, documents), [4, 48], **options)
    three = fit_head((vectors, documents, negatives), [4, 48], **options)
    assert not np.array_equal(two.weight, three.weight)
    recall = [
        x.report.table.query("method == 'raw' and k == 48").recall.item() for x in (two, three)
    ]
    assert recall[1] <= recall[0]  # twice as many candidates


def interrupted_after(monkeypatch, steps):
    calls = []
    real = torch.optim.Adam.step

    def step(self, *args, **kwargs):
        calls.append(1)
        if len(calls) > steps:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    return calls


def test_an_interrupted_fit_keeps_the_map_so_far(vectors, monkeypatch):
    calls = interrupted_after(monkeypatch, 30)
    head = fit_head(vectors, [4, 48], turned=48, batch_size=64, progress=False)
    assert head.interrupted and len(calls) == 31
    assert list(head.history.index) == [0, 25]
    np.testing.assert_allclose(head.weight.T @ head.weight, np.eye(48), atol=1e-5)
    monkeypatch.undo()
    pca = fit_head(vectors, [4, 48], turned=0, progress=False)
    assert np.abs(head.weight - pca.weight).max() > 0.01
    assert len(head.report.table) == 7


def test_an_interrupt_ends_the_whole_search(vectors, monkeypatch):
    calls = interrupted_after(monkeypatch, 3)
    head = fit_head(vectors, [4, 48], progress=False)
    assert head.interrupted and len(calls) == 4  # no other number of directions is tried


def test_a_map_that_is_worse_than_pca_is_not_taken(vectors):
    """Any linear map at an absurd rate; and a rotation of what has no better one."""
    head = fit_head(vectors, [4, 48], rotation=False, lr=3.0, batch_size=64, progress=False)
    assert head.method == "pca"
    assert overlap(head, 4, "head") == overlap(head, 4, "pca")
    rng = np.random.default_rng(0)
    gaussian = rng.normal(size=(900, 48)) * 0.9 ** np.arange(48)
    gaussian = gaussian @ np.linalg.qr(rng.normal(size=(48, 48)))[0]
    head = fit_head(gaussian, [4, 48], progress=False)
    assert (head.method, head.turned) == ("pca", 0)
    assert "Use PCA here: nothing learnt from" in str(head)
    np.testing.assert_array_equal(head.weight, fit_head(gaussian, [4, 48], turned=0).weight)


def test_few_rows_get_pca_and_are_told(vectors):
    for count in (60, 120):  # without rows to choose with, and with some
        head = fit_head(vectors[:count], [4, 48], progress=False)
        assert head.method == "pca" and head.history.empty
        assert "are too few to learn more from; this head is PCA" in str(head)


@pytest.fixture(scope="module")
def turned_head(grouped):
    return fit_head(grouped, [2, 4, 48], progress=False)


def test_tight_groups_are_worth_turning_for(turned_head):
    assert turned_head.method == "rotated" and turned_head.turned == 48
    assert overlap(turned_head, 4, "head") > overlap(turned_head, 4, "pca") + 0.02
    assert "Use this head: 48 principal directions turned" in str(turned_head)
    gains = turned_head.report.gains.query("than == 'pca' and k < 48")
    assert (gains.low > -0.01).all() and (gains.low <= gains.gain).all()


def test_vectors_that_are_matryoshka_already_stay_as_they_are(grouped, turned_head):
    """What was turned once is better than its own PCA; at this rate nothing can be learnt."""
    new = turned_head.transform(grouped)
    head = fit_head(new, [2, 4, 48], steps=1, lr=1e-9, progress=False)
    assert head.method == "raw" and head.report.overlap(4, "raw") == head.report.overlap(4)
    np.testing.assert_array_equal(head.weight, np.eye(48))
    assert "Do nothing" in head.report.advice[0]


@pytest.fixture(scope="module")
def grouped():
    """Groups in few directions, and loud numbers of two values each: variance without meaning."""
    rng = np.random.default_rng(0)
    emb = np.zeros((1_600, 48), np.float32)
    emb[:, :12] = rng.normal(size=(160, 12))[rng.integers(0, 160, 1_600)]
    emb[:, :12] += 0.1 * rng.normal(size=(1_600, 12))
    emb[:, 12:] = 1.1 * rng.normal(size=(1_600, 36)) * (np.arange(36) < 6) + 0.05
    return emb @ np.linalg.qr(rng.normal(size=(48, 48)))[0].astype(np.float32)


# ------------------------------------------------------------------------------- the learning


def a_lesson(seed=0, n=40, dim=24):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(n, dim, generator=generator), dim=1)
    lesson = Lesson([4, 8, 12], [1.0, 1.5, 2.0], 5.0)
    return lesson, Side([rows], [rows[:, :20]]), generator


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6))
def test_the_written_out_gradient_is_that_of_the_loss(seed):
    lesson, side, generator = a_lesson(seed)
    lesson.set_scale(side)
    change = Rotation(20, 12, torch.device("cpu"))
    for parameter in change.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    log_scales = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    every = [*change.parameters(), log_scales]
    targets = lesson.targets(side.full)
    total, each = lesson.divergences(side.front, targets, change.columns(), log_scales)
    wanted = torch.autograd.grad(total, every)
    lesson.pull(side, change.columns(), log_scales)
    for parameter, gradient in zip(every, wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-4, rtol=1e-3)
    new = side.front[0] @ change.columns()
    itself = torch.eye(40, dtype=torch.bool)
    teacher = similarity_softmax(side.full[0], side.full[0], lesson.scale, itself)
    for i, k in enumerate(lesson.dims):
        cut, scale = new[:, :k].detach(), float(log_scales[i].detach().exp())
        one = nested_distillation(cut, cut, teacher, [k], scale=scale, left_out=itself)
        assert one.item() == pytest.approx(each[i].item(), abs=1e-4)


@pytest.mark.parametrize("squeezed", [0.0, 3.0, 30.0])
def test_the_teacher_looks_at_as_many_neighbours_whatever_the_cosines(squeezed):
    """Random pairs with cosines of 0, 0.9 or 0.999: the same perplexity, other scales."""
    rng = torch.Generator().manual_seed(0)
    rows = torch.randn(300, 24, generator=rng, dtype=torch.float64)
    rows[:, 0] += squeezed * 24**0.5
    rows = torch.nn.functional.normalize(rows, dim=1)
    lesson = Lesson([4], [1.0], 12.0)
    lesson.set_scale(Side([rows], [rows]))
    targets, _ = lesson.targets([rows])
    assert not targets.diagonal().any()
    perplexity = torch.special.entr(targets).sum(1).exp().mean().item()
    assert perplexity == pytest.approx(12, abs=0.05)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.floats(0.01, 2))
def test_the_columns_are_those_of_cayleys_rotation(seed, size):
    change = Rotation(9, 4, torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed)
    for parameter in change.parameters():
        parameter.data = size * torch.randn(parameter.shape, generator=generator)
    whole = change.whole()
    torch.testing.assert_close(whole.T @ whole, torch.eye(9).double())
    torch.testing.assert_close(change.columns().double(), whole[:, :4], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(change.whole(0.0, 0.0), torch.eye(9).double())
    half = change.whole(0.5, 0.5)
    torch.testing.assert_close(half.T @ half, torch.eye(9).double())
    assert (half - torch.eye(9)).norm() < (whole - torch.eye(9)).norm() + 1e-6
    inside = change.whole(1.0, 0.0)  # the first four keep their span
    torch.testing.assert_close(inside.T @ inside, torch.eye(9).double())
    assert not inside[4:, :4].any() and not torch.equal(inside[:4, :4], torch.eye(4).double())


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.floats(0, 20), st.integers(0, 10**6))
def test_cayley_makes_a_rotation_of_any_matrix(dim, size, seed):
    free = size * torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed)).double()
    rotation = cayley(free)
    torch.testing.assert_close(rotation.T @ rotation, torch.eye(dim).double())
    assert torch.linalg.det(rotation).item() == pytest.approx(1)
    torch.testing.assert_close(cayley(free + free.T), cayley(torch.zeros_like(free)))
    torch.testing.assert_close(cayley(-free), rotation.T)


def test_cayley_wants_a_square():
    with pytest.raises(ValueError, match="square matrix, got shape \\(2, 3\\)"):
        cayley(torch.zeros(2, 3))


E = np.random.default_rng(2).normal(size=(60, 6))
NAN = E.copy()
NAN[7, 2] = np.nan


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: fit_head(E[:30], [2, 6]), ValueError, "30 different directions among 30 rows"),
        (lambda: fit_head(E, [2, 6], held_out=0.9), ValueError, "held_out must leave 20 to 30"),
        (lambda: fit_head(E, [2, 6], held_out=0.1), ValueError, "which is 6"),
        (lambda: fit_head(np.ones((60, 6)), [2, 6]), ValueError, "1 different directions"),
        (lambda: fit_head(np.zeros((60, 6)), [2, 6]), ValueError, "0 different directions"),
        (
            lambda: fit_head(np.ones((60, 6)) * np.linspace(1, 2, 60)[:, None], [2, 6]),
            ValueError,
            "directions",
        ),
        (lambda: fit_head(E > 0, [2, 6]), TypeError, "dtype bool"),
        (lambda: fit_head((E * 9 + 99).astype(np.uint8), [2, 6]), TypeError, "packed sign bits"),
        (lambda: fit_head(E, [2, 6], steps=2.0), TypeError, "steps must be an integer"),
        (lambda: fit_head(E, [2, 6], seed=-1), ValueError, "seed must be between"),
        (lambda: fit_head(NAN, [2, 6]), ValueError, "first in row 7"),
        (lambda: fit_head(E, [2, 7]), ValueError, "dims holds 7"),
        (lambda: fit_head((E, E[:50]), [2, 6]), ValueError, "row i of each belongs together"),
        (lambda: fit_head((E, E, E, E), [2, 6]), ValueError, "tuple of 4"),
        (lambda: fit_head(E, [2, 6], steps=0), ValueError, "steps must be at least 1"),
        (lambda: fit_head(E, [2, 6], batch_size=1), ValueError, "batch_size .*at least 2"),
        (lambda: fit_head(E, [6]), ValueError, "changes nothing at the full size 6"),
        (lambda: fit_head(E, [2, 6], perplexity=1), ValueError, "perplexity must be above 1"),
        (lambda: fit_head(E, [2, 6], turned=7), ValueError, "turned must be between 0 and 6"),
        (lambda: fit_head(E, [2, 6], turned=2), ValueError, "turned must be above the smallest"),
        (lambda: fit_head(E, [2, 6], device="meta"), ValueError, "holds no numbers"),
        (lambda: fit_head(E, [2, 6], device="xyz"), ValueError, "cannot compute on the device"),
        (lambda: fit_head(E, [2, 6], device=[1]), TypeError, "device must be a name"),
        (lambda: fit_head(E, [2, 6], lr=0), ValueError, "lr must be above 0"),
        (lambda: fit_head(E, [2, 6], label_share=1), ValueError, "labels come from pairs"),
        (
            lambda: fit_head((E, E), [2, 6], label_share=2),
            ValueError,
            "label_share must be between 0 and 1",
        ),
        (lambda: fit_head(E, [2, 6], held_out=50), ValueError, "held_out must leave 20 to 30"),
        (lambda: fit_head(E, [2, 6], weights=[1]), ValueError, "2 dims need 2 weights"),
    ],
)
def test_bad_input_is_named(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_transform_refuses_what_it_was_not_fitted_for(head):
    with pytest.raises(ValueError, match="maps vectors of 48 numbers, got 6"):
        head.transform(E)
    with pytest.raises(ValueError, match="first in row 1"):
        head.transform(np.array([[1.0] * 48, [np.nan] * 48]))
    with pytest.raises(ValueError, match="out must be float32"):
        head.transform(np.ones((2, 48)), 8, out=np.empty((2, 9), np.float32))
    with pytest.raises(ValueError, match="between 1 and 48"):
        head.transform(np.ones((2, 48)), 49)


# ------------------------------------------------------------- what strangers bring (and get)


def test_one_vector_is_mapped_as_in_a_batch(head, vectors):
    one = head.transform(vectors[3], 8)
    assert one.shape == (8,)
    np.testing.assert_allclose(one, head.transform(vectors[:5], 8)[3], atol=1e-6)
    out = np.empty(48, np.float32)
    assert head.transform(vectors[3], out=out) is out
    np.testing.assert_array_equal(out, head.transform(vectors[3]))


def test_rows_that_come_again_count_once_and_are_on_one_side(vectors):
    """Ten times the same 200 vectors: held-out twins would be found by any prefix."""
    few = vectors[:200]
    options = {"steps": 5, "progress": False}
    with pytest.warns(UserWarning, match="1800 of 2000 rows repeat another one"):
        many = fit_head(np.repeat(few, 10, axis=0), [4, 48], **options)
    once = fit_head(few, [4, 48], **options)
    pd.testing.assert_frame_equal(many.report.table, once.report.table)
    assert overlap(many, 4, "raw") < 0.6


def test_a_document_with_many_queries_is_on_one_side(vectors):
    """FAQ: 100 answers, five questions each; no answer is fitted and judged."""
    documents = np.repeat(vectors[:100], 5, axis=0)
    noise = np.random.default_rng(3).normal(size=documents.shape).astype(np.float32)
    sides = sides_of((documents + 0.1 * noise, documents), 100)
    assert [len(side) for side in sides] == [350, 50, 100]
    for i, one in enumerate(sides):
        for two in sides[:i]:
            assert not set(map(bytes, documents[one])) & set(map(bytes, documents[two]))


def test_pairs_that_all_hang_together_are_refused(vectors):
    labels = np.tile(vectors[:1], (300, 1))
    with pytest.raises(ValueError, match="hang together"):
        fit_head((vectors[:300], labels), [4, 48], progress=False)


def test_zero_rows_are_left_out_and_counted(vectors):
    holes = vectors[:300].copy()
    holes[[5, 9]] = 0
    with pytest.warns(UserWarning, match="2 of 300 rows .* first row 5") as caught:
        head = fit_head(holes, [4, 48], steps=5, progress=False)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert np.isfinite(head.weight).all() and np.isfinite(head.report.table.overlap).all()


@pytest.mark.parametrize("factor", [1e-22, 1e-15, 1e30])
def test_lengths_do_not_matter(vectors, head, factor):
    scaled = (vectors.astype(np.float64) * factor).astype(np.float64)
    options = {"steps": 5, "progress": False}
    one, two = (fit_head(x, [4, 48], **options) for x in (vectors, scaled))
    np.testing.assert_allclose(one.weight, two.weight, atol=1e-4)
    np.testing.assert_allclose(head.transform(scaled), head.transform(vectors), atol=1e-6)


@pytest.fixture(scope="module")
def skewed():
    """As embeddings are: a few directions hold most of the length."""
    rng = np.random.default_rng(4)
    emb = rng.normal(size=(900, 48)) * 0.8 ** np.arange(48)
    return (emb @ np.linalg.qr(rng.normal(size=(48, 48)))[0]).astype(np.float32)


def test_another_models_vectors_are_noticed(skewed):
    head = fit_head(skewed, [4, 48], steps=5, progress=False, model="some-model")
    rng = np.random.default_rng(5)
    other = skewed @ np.linalg.qr(rng.normal(size=(48, 48)))[0].astype(np.float32)
    for wrong in (other, head.transform(skewed[:60])):
        with pytest.warns(UserWarning, match="do not look like those of some-model") as caught:
            head.transform(wrong)
        assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head.transform(other[:49])  # too few to tell
        head.transform(other[0])
        head.transform(skewed[:60])
    assert head.agreement(skewed) == pytest.approx(1, abs=0.1)
    assert abs(head.agreement(other)) < 0.06


def test_vectors_in_all_directions_alike_cannot_be_told_apart(head, vectors):
    assert np.isnan(head.agreement(vectors))


def test_the_fingerprint_is_saved_with_the_head(skewed, tmp_path):
    head = fit_head(skewed, [4, 48], steps=5, progress=False, model="minilm")
    loaded = Head.load(head.save(tmp_path / "head.safetensors"))
    assert loaded.model == "minilm"
    assert loaded.agreement(skewed) == pytest.approx(head.agreement(skewed))
    assert loaded.energy.sum() == pytest.approx(1, abs=1e-4)


PROVIDERS = Path(__file__).parents[2] / "shared" / "data" / "providers"


@pytest.mark.slow
@pytest.mark.skipif(not PROVIDERS.is_dir(), reason="needs the vectors of providers")
def test_real_models_are_told_apart():
    """50 rows of another model always; other kinds of text of the same model never."""
    files = {path.stem: np.load(path) for path in sorted(PROVIDERS.glob("*.npy"))}
    for name, emb in files.items():
        third = len(emb) // 3
        head = fit_head(emb[:third], [8], steps=25, progress=False)
        own = [head.agreement(emb[i : i + 50]) for i in range(third, len(emb) - 50, len(emb) // 40)]
        assert min(own) > 0.06, name
        assert head.agreement(head.transform(emb)) < 0.03, name
        for other, vectors in files.items():
            if other != name and vectors.shape[1] == emb.shape[1]:
                blocks = range(0, len(vectors) - 50, len(vectors) // 10)
                found = [head.agreement(vectors[i : i + 50]) for i in blocks]
                assert max(found) < 0.03, (name, other)


def test_damaged_heads_are_refused(head, tmp_path):
    def stored(**changes):
        tensors = {"weight": head.weight, "mean": head.mean, "energy": head.energy} | changes
        dims = tensors.pop("dims", "[4, 48]")
        save_file(tensors, tmp_path / "h", metadata={"mrl_course": "head", "dims": dims})
        return tmp_path / "h"

    Head.load(stored())
    broken = head.weight.copy()
    broken[2, 3] = np.nan
    for changes, match in (
        ({"weight": broken}, "NaN"),
        ({"weight": head.weight[:4]}, "square"),
        ({"dims": "[999]"}, "dims holds 999"),
        ({"dims": "7"}, "dims must be a list"),
        ({"energy": head.energy[:4]}, "energy must have shape"),
    ):
        with pytest.raises(ValueError, match=match):
            Head.load(stored(**changes))


def test_saving_where_nothing_can_be_written_is_an_oserror(head, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="cannot write"):
        head.save(tmp_path / "file" / "head")
    assert head.save(tmp_path / "new" / "head").is_file()  # a missing folder is made


def any_rotation():
    return np.linalg.qr(np.random.default_rng(0).normal(size=(48, 48)))[0].astype(np.float32)


def test_attach_keeps_what_changes_a_vector_or_a_score():
    model = build_static_model(["a red barn", "blue birds sing"], dim=48)
    model.prompts = {"query": "blue bird ", "document": ""}
    model.default_prompt_name = "query"
    model.similarity_fn_name = "dot"
    head = Head(
        np.linalg.qr(np.random.default_rng(0).normal(size=(48, 48)))[0].astype("f"), [4, 48]
    )
    attached = head.attach(model)
    assert attached.prompts["query"] == "blue bird "
    assert (attached.default_prompt_name, attached.similarity_fn_name) == ("query", "dot")
    texts = ["a red barn", "sing"]
    np.testing.assert_allclose(attached.encode(texts), model.encode(texts) @ head.weight, atol=1e-6)
    model.truncate_dim = 8
    with pytest.raises(ValueError, match="cuts its vectors to 8"):
        head.attach(model)


def test_absorb_works_for_half_precision():
    model = build_static_model(["a red barn", "blue birds sing"], dim=48).half()
    head = Head(
        np.linalg.qr(np.random.default_rng(0).normal(size=(48, 48)))[0].astype("f"), [4, 48]
    )
    table = head.absorb(model)[0].embedding.weight
    assert table.dtype == torch.float16
    expected = model[0].embedding.weight.detach().float().numpy() @ head.weight
    np.testing.assert_allclose(table.detach().float().numpy(), expected, atol=1e-3)


# ----------------------------------------------------------------------- files, streams, devices


def blocks(emb, size):
    return (emb[start : start + size] for start in range(0, len(emb), size))


QUICK = {"steps": 5, "progress": False, "turned": 24}


def test_a_stream_of_blocks_is_fitted_as_the_array(vectors, tmp_path):
    np.save(tmp_path / "v.npy", vectors)
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    wanted = fit_head(vectors, [4, 48], **QUICK)
    for form in (blocks(vectors, 700), iter(vectors.reshape(16, 100, 48)), mapped):
        head = fit_head(form, [4, 48], **QUICK)
        np.testing.assert_array_equal(head.weight, wanted.weight)
        pd.testing.assert_frame_equal(head.report.table, wanted.report.table)


def test_of_more_rows_than_fit_a_sample_is_learnt_from(vectors, monkeypatch):
    """The same sample whatever the blocks are; PCA of all rows but those held out."""
    monkeypatch.setattr("mrl_course.retrofit.rows.MOST_ROWS", 300)
    wanted = fit_head(vectors, [4, 48], **QUICK)
    for size in (64, 1_000):
        head = fit_head(blocks(vectors, size), [4, 48], **QUICK)
        np.testing.assert_allclose(head.weight, wanted.weight, atol=1e-2)  # PCA's rounding, grown
        assert head.report.corpus == wanted.report.corpus == 240
        np.testing.assert_array_equal(head.report.worst.row, wanted.report.worst.row)
    collected = collect(open_source(vectors), 0)
    assert len(collected.numbers) == 300
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(collected.parts[0], unit[collected.numbers], atol=1e-6)
    sides = split(collected.parts, None, 0)
    held = collected.numbers[np.concatenate([sides.choose, sides.judge])]
    rotation = pca_rotation(np.delete(unit, held, axis=0))
    pca = fit_head(vectors, [4, 48], turned=0, progress=False)
    found = np.abs((pca.weight * rotation).sum(axis=0))
    np.testing.assert_allclose(found, 1, atol=1e-3)


def test_the_memory_of_a_fit_does_not_grow_with_the_rows(monkeypatch):
    monkeypatch.setattr("mrl_course.retrofit.rows.MOST_ROWS", 1_000)
    rng = np.random.default_rng(0)
    shape = 0.9 ** np.arange(32)

    def peak(count):
        made = ((rng.normal(size=(4_000, 32)) * shape).astype(np.float32) for _ in range(count))
        tracemalloc.start()
        head = fit_head(made, [4, 32], steps=1, turned=16, progress=False)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert head.report.corpus == 800
        return size

    few, many = peak(2), peak(40)
    assert many < 1.2 * few + 2**20  # 40 blocks hold 20 MB


def test_mean_and_covariance_by_blocks():
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(5_000, 6)) @ rng.normal(size=(6, 6)) + 30).astype(np.float32)
    moments = Moments(6)
    for block in blocks(rows, 777):
        moments.add(block)
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0, dtype=float), rtol=1e-6)
    covariance = np.cov(rows.astype(float).T, bias=True)
    np.testing.assert_allclose(moments.covariance(), covariance, atol=1e-4 * covariance.max())
    moments.add(rows[:1_000], -1)
    assert moments.count == 4_000
    covariance = np.cov(rows[1_000:].astype(float).T, bias=True)
    np.testing.assert_allclose(moments.covariance(), covariance, atol=1e-4 * covariance.max())


def test_bad_blocks_are_named(vectors):
    broken = vectors[:300].copy()
    broken[250, 3] = np.nan
    with pytest.raises(ValueError, match="first in row 250"):
        fit_head(blocks(broken, 100), [4, 48], **QUICK)
    with pytest.raises(ValueError, match="begins at row 100 has 7 numbers a row, expected 48"):
        fit_head(iter([vectors[:100], vectors[:100, :7]]), [4, 48], **QUICK)
    with pytest.raises(ValueError, match="no blocks: is the stream used up"):
        fit_head(iter([]), [4, 48])
    with pytest.raises(TypeError, match="pairs come as arrays"):
        fit_head((iter([vectors]), vectors), [4, 48])
    with pytest.raises(TypeError, match="dtype"):
        fit_head(iter([vectors[:100], vectors[:100] > 0]), [4, 48], **QUICK)


def test_a_stream_is_mapped_block_by_block(head, vectors):
    holes = vectors.copy()
    holes[150] = 0
    with pytest.warns(UserWarning, match="1 of 100 rows of blocks hold only zeros, first row 150"):
        small = list(head.transform_blocks(blocks(holes, 100), 8))
    assert [x.shape for x in small] == [(100, 8)] * 16
    keep = np.arange(1_600) != 150
    np.testing.assert_allclose(
        np.concatenate(small)[keep], head.transform(vectors[keep], 8), atol=1e-6
    )
    lazy = head.transform_blocks(iter([vectors[:5], vectors[:5, :7]]), 8)
    assert next(lazy).shape == (5, 8)
    with pytest.raises(ValueError, match="begins at row 5 has 7"):
        next(lazy)
    with pytest.raises(TypeError, match="transform takes a single array"):
        next(head.transform_blocks(vectors))


def test_every_tensor_is_made_where_its_input_is(vectors):
    """A default device without numbers: whatever forgot its device would fail on it."""
    options = {"steps": 3, "turned": 24, "progress": False}
    wanted = fit_head(vectors[:400], [4, 48], **options)
    torch.set_default_device("meta")
    try:
        head = fit_head(vectors[:400], [4, 48], **options)
        pairs = fit_head((vectors[:400], vectors[400:800]), [4, 48], label_share=0.5, **options)
        suggestion, report = head.suggest(), head.report_on(vectors[400:800])
        turned = cayley(torch.zeros(3, 3, device="cpu"))
    finally:
        torch.set_default_device(None)
    np.testing.assert_array_equal(head.weight, wanted.weight)
    assert pairs.weight.shape == (48, 48) and turned.device.type == "cpu"
    assert len(suggestion.table) and len(report.table)


# ------------------------------------------------------------------- reports on other vectors


def test_a_report_on_other_rows_of_the_same_kind(skewed):
    head = fit_head(skewed[:600], [4, 48], turned=0, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = head.report_on(skewed[600:])
    assert (report.queries, report.corpus) == (150, 150)
    assert set(report.table.method) == {"raw", "pca", "tempered", "head"}
    assert report.overlap(4) == report.overlap(4, "pca") > report.overlap(4, "raw")
    assert report.overlap(48) == 1
    assert abs(report.kinds["outside"] - head.outside) < 0.05
    assert report.kinds["agreement"] > 0.9


def test_a_report_on_vectors_of_another_kind_warns(skewed, tmp_path):
    """As loud in other directions: their variance is outside, and raw is better than the head."""
    rng = np.random.default_rng(8)
    other = rng.normal(size=(400, 48)) * 0.8 ** np.arange(48)
    head = fit_head(skewed, [4, 48], turned=0, progress=False, model="some-model")
    head = Head.load(head.save(tmp_path / "head.safetensors"))  # a scheduled job has a file
    with pytest.warns(UserWarning) as caught:
        report = head.report_on(other)
    said = [str(w.message) for w in caught]
    assert any("of another kind than those that were fitted" in words for words in said)
    assert any("less than the raw prefix at k = 4 " in words for words in said)
    assert all(w.filename == __file__ for w in caught)
    assert list(report.advice[: len(said)]) == said
    assert report.kinds["outside"] > head.outside + 0.1


def test_a_report_on_pairs(head, vectors):
    rng = np.random.default_rng(1)
    documents = vectors + 0.2 * rng.normal(size=vectors.shape).astype(np.float32)
    report = head.report_on(vectors[:400], documents[:400])
    assert report.queries == 200 and report.corpus == 400
    recall = report.table.set_index(["method", "k"]).recall
    assert recall["raw", 48] > 0.9 and recall["head", 4] > recall["raw", 4]
    with pytest.raises(ValueError, match="400 vectors need as many pairs, got 5"):
        head.report_on(vectors[:400], documents[:5])
    with pytest.raises(ValueError, match="39 different vectors are too few"):
        head.report_on(vectors[:39])


def test_the_advice_names_where_another_method_is_better(vectors):
    """A rotation of noise spoils PCA: the report of the fit and of others says so."""
    head = fit_head(vectors, [4, 24, 48], turned=0, progress=False)
    rng = np.random.default_rng(0)
    spoilt = np.linalg.qr(rng.normal(size=(48, 48)))[0].astype(np.float32)
    head.weight, head.turn = head.weight @ spoilt, spoilt
    head.mean = head.energy = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = head.report_on(vectors)
    assert any(
        words.startswith("PCA keeps more than this head at k = 4") for words in report.advice
    )
    assert any(words.startswith("Do nothing below") for words in report.advice)


# ------------------------------------------------------------------------------ how few bytes


def test_a_suggestion_is_what_counting_gives(head, vectors):
    few = head.suggest(0.6, 5, vectors=vectors)
    assert few.queries == 250 and few.corpus == 1_100
    assert set(few.table.shortlist) == {0, 10, 25, 50}
    table = few.table[few.table.kind == "float32"].set_index(["numbers", "shortlist"])
    assert table.checked[48, 0] == table.recall[48, 0] == 1
    enough = table[table.reaches].reset_index()
    assert few.dim == enough[enough.shortlist == 0].numbers.min() < 48
    listed = enough[enough.shortlist > 0].sort_values(["numbers", "shortlist"]).iloc[0]
    assert (few.rerank_dim, few.shortlist_size) == (listed.numbers, listed.shortlist)
    assert few.rerank_dim < few.dim
    assert (few.table.low <= few.table.checked).all()
    assert (few.table.checked <= few.table.high).all()
    by_size = table.checked.unstack()
    assert (by_size.diff(axis=1).iloc[:, 1:] >= 0).all().all()  # a longer shortlist finds more
    text = str(few)
    assert f"{few.dim} float32 numbers, {4 * few.dim} bytes, alone" in text
    assert f"with a shortlist of {few.shortlist_size}" in text


def test_bits_and_int8_in_the_same_bytes(head, vectors):
    few = head.suggest(0.8, vectors=vectors)
    at = few.at(32).set_index("kind")
    assert at.numbers.to_dict() == {"float32": 8, "int8": 32, "bits": 48}
    assert at.bytes.to_dict() == {"float32": 32, "int8": 32, "bits": 6}
    assert at.checked["int8"] > at.checked["float32"]
    rows = head.transform(vectors)
    order = few.table[(few.table.kind == "bits") & (few.table.shortlist == 0)].checked
    assert order.is_monotonic_increasing
    one = few.table[(few.table.kind == "int8") & (few.table.numbers == 48)].checked.max()
    assert one > 0.97 and rows.shape == (1_600, 48)


def test_suggestions_need_vectors_and_say_so(head, tmp_path):
    assert head.suggest().corpus == 1_280  # those that were held out and fitted
    loaded = Head.load(head.save(tmp_path / "h"))
    with pytest.raises(ValueError, match="came from a file, .* pass vectors="):
        loaded.suggest()
    with pytest.raises(ValueError, match="a shortlist of 7 cannot hold top_k = 10"):
        head.suggest(rerank=7)
    with pytest.raises(ValueError, match="at least 100"):
        loaded.suggest(vectors=np.random.default_rng(0).normal(size=(50, 48)))
    assert set(head.suggest(rerank=0).table.shortlist) == {0}
    hard = head.suggest(1.0, rerank=0)
    assert hard.dim == 48 and hard.shortlist_size == 0


# --------------------------------------------------------------------------------- other places


def test_a_loaded_head_reports_as_the_one_that_was_saved(grouped, turned_head, tmp_path):
    loaded = Head.load(turned_head.save(tmp_path / "head.safetensors"))
    assert (loaded.method, loaded.turned, loaded.report) == ("rotated", 48, None)
    assert loaded.temper == turned_head.temper and loaded.outside == turned_head.outside
    one, two = (each.report_on(grouped) for each in (turned_head, loaded))
    pd.testing.assert_frame_equal(one.table, two.table)
    assert "for [2, 4, 48]" in str(loaded)


def test_exported_files_hold_the_map(head, vectors, tmp_path):
    weight = np.load(head.export(tmp_path / "map.npy", 4))
    np.testing.assert_array_equal(weight, head.weight[:, :4])
    about = json.loads(head.export(tmp_path / "map.json", 8).read_text())
    assert (about["full_dim"], about["dim"], about["dims"]) == (48, 8, [4, 8])
    np.testing.assert_array_equal(np.array(about["weight"], np.float32), head.weight[:, :8])
    text = head.export(tmp_path / "map.sql", 2, column='odd "name"').read_text()
    numbers = re.findall(r"\(\"odd \"\"name\"\"\" <#> '\[(.*?)\]'\)::real", text)
    back = -np.array([list(map(float, each.split(","))) for each in numbers])
    np.testing.assert_allclose(back.T, head.weight[:, :2], rtol=1e-6)
    assert text.startswith("ARRAY[") and text.endswith("]::vector(2)\n")
    with pytest.raises(ValueError, match="must end in .npy, .json, .sql, got '.csv'"):
        head.export(tmp_path / "map.csv")
    with pytest.raises(ValueError, match="column must name a column"):
        head.export(tmp_path / "map.sql", 2, column="")
    with pytest.raises(TypeError, match="column must be a string"):
        head.export(tmp_path / "map.sql", 2, column=7)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.json", "map.npy", "map.sql"]


@pytest.mark.slow
def test_the_expression_maps_inside_postgresql(head, vectors, tmp_path):
    pgserver = pytest.importorskip("pgserver")
    psycopg = pytest.importorskip("psycopg")
    expression = head.export(tmp_path / "map.sql", 8, column="a vector").read_text()
    try:
        server = pgserver.get_server(tmp_path / "server")
    except Exception as error:
        pytest.skip(f"no PostgreSQL can be started here: {error}")
    with psycopg.connect(server.get_uri()) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute('CREATE TABLE v (id int, "a vector" vector(48))')
        for i, row in enumerate(vectors[:5]):
            connection.execute("INSERT INTO v VALUES (%s, %s)", (i, str(row.tolist())))
        found = connection.execute(f"SELECT ({expression})::text FROM v ORDER BY id").fetchall()
    server.cleanup()
    found = np.array([json.loads(row[0]) for row in found])
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    np.testing.assert_allclose(found, head.transform(vectors[:5], 8), atol=1e-5)
