"""Rotate and distil: better prefixes on vectors it has not seen, nothing lost at full size."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from mrl_course import retrofit
from mrl_course.evaluation import pca_rotation
from mrl_course.models import build_static_model
from mrl_course.retrofit import Head, cayley, fit_head


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
    return fit_head(vectors, [4, 8, 16, 48], batch_size=256, progress=False)


def overlap(head, k, method):
    row = head.report.query("k == @k and method == @method")
    return row.overlap.item()


def test_short_prefixes_find_more_neighbours_than_raw_and_pca(head):
    for k in (4, 8):
        assert overlap(head, k, "head") > overlap(head, k, "raw") + 0.05
        assert overlap(head, k, "head") > overlap(head, k, "pca") - 0.03  # Gaussian: PCA is best
    assert overlap(head, 48, "raw") == overlap(head, 48, "pca") == overlap(head, 48, "head") == 1


def test_the_report_is_what_counting_gives(head, vectors):
    order = np.random.default_rng(0).permutation(1_600)
    judged, fitted = vectors[np.sort(order[:160])], vectors[np.sort(order[160:])]

    def ten(change):
        unit = [x @ change / np.linalg.norm(x @ change, axis=1)[:, None] for x in (judged, fitted)]
        return np.argsort(-(unit[0] @ unit[1].T), axis=1)[:, :10]

    full, cut = ten(np.eye(48)), ten(head.weight[:, :4])
    row = head.report.query("k == 4 and method == 'head'")
    nearest = [full[i, 0] in cut[i] for i in range(160)]
    same = [len(set(full[i]) & set(cut[i])) / 10 for i in range(160)]
    assert row.nearest.item() == pytest.approx(np.mean(nearest), abs=0.01)
    assert row.overlap.item() == pytest.approx(np.mean(same), abs=0.01)


def test_a_rotation_keeps_every_cosine_of_the_full_vectors(head, vectors):
    np.testing.assert_allclose(head.weight.T @ head.weight, np.eye(48), atol=1e-5)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    new = head.transform(vectors)
    np.testing.assert_allclose(new[:200] @ new.T, unit[:200] @ unit.T, atol=1e-5)


def test_only_the_first_principal_directions_are_turned(vectors, monkeypatch):
    monkeypatch.setattr("mrl_course.retrofit._MOST_ROTATED", 12)
    options = {"steps": 20, "batch_size": 128, "progress": False}
    few = fit_head(vectors, [4, 8, 24, 48], **options)
    np.testing.assert_allclose(few.weight.T @ few.weight, np.eye(48), atol=1e-5)
    barely = fit_head(vectors, [4, 8, 24, 48], lr=1e-9, **options)  # PCA
    np.testing.assert_array_equal(few.weight[:, 12:], barely.weight[:, 12:])
    turned = few.weight[:, :12]
    assert not np.allclose(turned, barely.weight[:, :12], atol=1e-3)
    outside = turned - barely.weight[:, :12] @ (barely.weight[:, :12].T @ turned)
    assert np.abs(outside).max() < 1e-5  # they span what they did


def test_any_linear_map_may_change_the_full_vectors(vectors):
    free = fit_head(vectors, [4, 48], rotation=False, batch_size=256, progress=False)
    assert np.abs(free.weight.T @ free.weight - np.eye(48)).max() > 0.01
    assert list(free.history.columns) == [4, 48]


def test_the_fit_lowers_the_divergence_it_is_about(head):
    first, last = head.history.iloc[0], head.history.iloc[-1]
    assert (head.history.index[0], list(head.history.columns)) == (0, [4, 8, 16])
    assert last.sum() < 0.9 * first.sum()


def test_it_starts_as_the_pca_rotation_of_the_fitted_rows(vectors):
    barely = fit_head(vectors, [8, 48], steps=1, lr=1e-9, held_out=100, progress=False)
    order = np.random.default_rng(0).permutation(1_600)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    rotation = pca_rotation(unit[np.sort(order[100:])])
    np.testing.assert_allclose(np.abs((barely.weight * rotation).sum(axis=0)), 1, atol=1e-4)


def test_the_same_seed_gives_the_same_head(vectors):
    options = {"steps": 20, "batch_size": 64, "progress": False}
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
    monkeypatch.setattr("mrl_course.retrofit._BLOCK", 100)
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
    options = {"steps": 50, "batch_size": 128, "progress": False}
    plain = fit_head((vectors, documents), [4, 48], **options)
    labelled = fit_head((vectors, documents), [4, 48], label_share=0.5, **options)
    assert not np.array_equal(plain.weight, labelled.weight)
    assert overlap(plain, 4, "head") > overlap(plain, 4, "raw")
    recall = labelled.report.set_index(["method", "k"]).recall
    assert recall["head", 4] > recall["raw", 4]
    assert recall["raw", 48] == recall["pca", 48] > 0.5
    assert "whose own document" in str(labelled)


def test_hard_negatives_are_candidates_for_each_query(vectors):
    rng = np.random.default_rng(1)
    documents = vectors + 0.2 * rng.normal(size=vectors.shape).astype(np.float32)
    negatives = np.roll(vectors, 1, axis=0)
    options = {"steps": 25, "batch_size": 128, "progress": False}
    two = fit_head((vectors, documents), [4, 48], **options)
    three = fit_head((vectors, documents, negatives), [4, 48], **options)
    assert not np.array_equal(two.weight, three.weight)
    recall = [x.report.query("method == 'raw' and k == 48").recall.item() for x in (two, three)]
    assert recall[1] <= recall[0]  # twice as many candidates


def test_an_interrupted_fit_keeps_the_best_so_far(vectors, monkeypatch):
    calls = []
    real = torch.optim.Adam.step

    def step(self, *args, **kwargs):
        calls.append(1)
        if len(calls) > 30:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    head = fit_head(vectors, [4, 48], batch_size=64, progress=False)
    assert list(head.history.index) == [0, 25] and len(calls) == 31
    assert not head.report.empty


def test_a_fit_that_gets_worse_stops_and_keeps_the_start(vectors):
    head = fit_head(
        vectors, [4, 48], rotation=False, lr=3.0, batch_size=64, patience=1, held_out=200,
        progress=False,
    )  # fmt: skip
    assert head.history.index[-1] < 300
    assert overlap(head, 4, "head") == pytest.approx(overlap(head, 4, "pca"))


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
        (lambda: fit_head(E, [2, 6], teacher_scale=0), ValueError, "teacher_scale must be above"),
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
    pd.testing.assert_frame_equal(many.report, once.report)
    assert overlap(many, 4, "raw") < 0.6


def test_a_document_with_many_queries_is_on_one_side(vectors):
    """FAQ: 100 answers, five questions each; no answer is fitted and judged."""
    documents = np.repeat(vectors[:100], 5, axis=0)
    noise = np.random.default_rng(3).normal(size=documents.shape).astype(np.float32)
    fitted, judged = retrofit._split([documents + 0.1 * noise, documents], 100, 0, 10**6)
    assert len(judged) == 100 and len(fitted) == 400
    assert not set(map(bytes, documents[fitted])) & set(map(bytes, documents[judged]))


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
    assert np.isfinite(head.weight).all() and np.isfinite(head.report.overlap).all()


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
        assert min(own) > 0.15, name
        assert head.agreement(head.transform(emb)) < 0.04, name
        for other, vectors in files.items():
            if other != name and vectors.shape[1] == emb.shape[1]:
                blocks = range(0, len(vectors) - 50, len(vectors) // 10)
                found = [head.agreement(vectors[i : i + 50]) for i in blocks]
                assert max(found) < 0.04, (name, other)


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


def test_ctrl_c_is_told(vectors, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(retrofit._Loss, "__call__", stop)
    assert fit_head(vectors, [4, 48], progress=False).interrupted
