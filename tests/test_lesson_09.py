"""What lesson 09 builds by hand is what the package and the library do."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from lesson_source import functions_of
from sentence_transformers.base.sampler import NoDuplicatesBatchSampler
from sentence_transformers.sentence_transformer import losses

from mrl_course.check.lesson_09 import evaluator_over_dims, shallow
from mrl_course.models import build_static_model, build_tiny_transformer, train_tokenizer
from mrl_course.results import load_results

LESSON = functions_of("09_sentence_transformers_in_practice")
TEXTS = ["a dog runs", "the cat sleeps on a mat", "two birds sing", "a dog and a cat wait here"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=100)


def test_the_lessons_transformer_is_the_packages(tokenizer):
    ours = LESSON["tiny_transformer"](tokenizer, 16, 2, 7)
    theirs = build_tiny_transformer(tokenizer, width=16, layers=2, seed=7)
    assert str(ours[0].auto_model.config) == str(theirs[0].auto_model.config)
    np.testing.assert_array_equal(ours.encode(TEXTS), theirs.encode(TEXTS))


@pytest.mark.parametrize("batches", [1, 3])
def test_all_depths_are_those_of_the_cut_models(tokenizer, batches):
    model = build_tiny_transformer(tokenizer, width=16, layers=3, seed=2)
    texts = TEXTS * (1 if batches == 1 else 200)  # more than the 256 of one batch
    depths = LESSON["embed_all_depths"](model, texts)
    assert depths.shape == (4, len(texts), 16)
    for layers in (0, 1, 2, 3):
        np.testing.assert_allclose(
            depths[layers], shallow(model, layers).encode(texts), rtol=1e-4, atol=1e-5
        )


def test_a_shallow_model_stays_shallow_on_disk(tokenizer, tmp_path):
    model = shallow(build_tiny_transformer(tokenizer, width=8, layers=3, heads=2), 1)
    model.save_pretrained(str(tmp_path), create_model_card=False)
    loaded = type(model)(str(tmp_path), device="cpu")
    assert len(loaded[0].auto_model.encoder.layer) == 1
    np.testing.assert_allclose(loaded.encode(TEXTS), model.encode(TEXTS), atol=1e-6)


def test_one_evaluator_for_each_size_in_the_order_given():
    pairs = {"sentence1": TEXTS[:3], "sentence2": TEXTS[1:], "score": [0.1, 0.9, 0.4]}
    evaluators = LESSON["evaluators_over_dims"](pairs, [4, 8, 2])
    assert [(e.name, e.truncate_dim) for e in evaluators] == [
        ("sts-4", 4), ("sts-8", 8), ("sts-2", 2)
    ]  # fmt: skip
    key = evaluator_over_dims(*pairs.values(), [4, 8, 2])
    model = build_static_model(TEXTS, dim=8)
    for evaluator in evaluators:
        for name, value in evaluator(model).items():
            assert key(model)[name] == pytest.approx(value)


def test_the_loss_of_three_columns_is_that_of_their_features():
    model = build_static_model(TEXTS, dim=8, seed=3)
    loss = losses.MultipleNegativesRankingLoss(model)
    columns = [TEXTS[:2], TEXTS[1:3], TEXTS[2:]]
    value = LESSON["library_loss"](loss, model, columns)
    assert value.requires_grad
    emb = [torch.tensor(model.encode(column)) for column in columns]
    torch.testing.assert_close(value.detach(), loss.compute_loss_from_embeddings(emb, None))


def test_repeats_counts_texts_of_other_rows():
    repeats = LESSON["repeats"]
    assert repeats([("a", "b", "c"), ("d", "e", "f")]) == 0
    assert repeats([("a", "a", "c")]) == 0  # within one row it is no clash
    assert repeats([("a", "b", "c"), ("c", "a", "d"), ("a", "x", "y")]) == 3


def test_the_samplers_batches_share_no_text():
    rows = [(f"a{i % 5}", f"p{i}", f"n{i}") for i in range(40)]
    columns = dict(zip(("anchor", "positive", "negative"), zip(*rows, strict=True), strict=True))
    sampler = NoDuplicatesBatchSampler(
        Dataset.from_dict({k: list(v) for k, v in columns.items()}),
        4,
        drop_last=True,
        generator=torch.Generator().manual_seed(0),
    )
    batches = list(sampler)
    assert len(batches) > 5
    assert all(LESSON["repeats"]([rows[i] for i in batch]) == 0 for batch in batches)


@pytest.mark.slow
def test_fit_leaves_no_trace_and_says_nothing(triplets, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    columns = [list(column) for column in zip(*triplets, strict=True)]
    data = Dataset.from_dict(dict(zip(("anchor", "positive", "negative"), columns, strict=True)))
    model = build_static_model(sum(columns, []), dim=8)
    before = model[0].embedding.weight.detach().clone()
    loss = losses.MatryoshkaLoss(model, losses.MultipleNegativesRankingLoss(model), [4, 8])
    trainer = LESSON["fit"](model, loss, data, per_device_train_batch_size=4, num_train_epochs=1)
    assert trainer.state.global_step > 5
    assert not torch.equal(before, model[0].embedding.weight)
    assert not list(tmp_path.iterdir())
    output = capfd.readouterr()
    assert output.out == "" and output.err == ""
    model.save_pretrained("saved")
    head = (tmp_path / "saved" / "README.md").read_text(encoding="utf-8").split("---")[1]
    assert "widget" in head and "barn" not in head  # no training text in the card's examples


def test_the_recorded_run_holds_both_twins_and_both_limits():
    recorded = load_results("clipping_allnli")
    assert set(recorded.model) == {"regular", "matryoshka"}
    assert set(recorded.seed) == {0, 1, 2} and set(recorded.max_grad_norm) == {0.0, 1.0}
    assert len(recorded) == 2 * 2 * 3 * 2 * recorded.k.nunique()
    free = recorded[recorded.max_grad_norm == 0]
    assert (free.clipped_steps == 0).all() and recorded.score.between(0, 1).all()
