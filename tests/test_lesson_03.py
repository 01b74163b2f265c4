"""What lesson 03 builds by hand is what the package does."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lesson_source import functions_of

from mrl_course.check.lesson_03 import loss_of_texts, mean_of_tokens
from mrl_course.losses import info_nce
from mrl_course.models import build_static_model
from mrl_course.training import (
    _warmup_then_decay,
    batches_without_duplicates,
    tokenise_triplets,
    train,
)

LESSON = functions_of("03_train_the_twins")


@pytest.fixture
def columns(triplets):
    return [list(column) for column in zip(*triplets, strict=True)]


@pytest.fixture
def model(columns):
    return build_static_model(sum(columns, []), dim=16, seed=5)


def test_tokenise_and_embed_give_the_numbers_of_the_package(model, columns, triplets):
    rows, tokens = LESSON["tokenise"](model, columns)
    data = tokenise_triplets(model, triplets)
    np.testing.assert_array_equal(rows, data.rows)
    assert torch.cat(tokens).tolist() == data.ids.tolist()
    texts = np.array([3, 60, 3, 0])
    ours = LESSON["embed"](model[0].embedding.weight, tokens, texts)
    theirs = model(data.features(torch.from_numpy(texts)))["sentence_embedding"]
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dims", [[16], [2, 4, 16]])
def test_the_loop_makes_the_steps_of_train(model, columns, triplets, dims):
    rows, tokens = LESSON["tokenise"](model, columns)
    rng = np.random.default_rng(2)
    plan = [batch for _ in range(3) for batch in batches_without_duplicates(rows, 8, rng)]
    twin = build_static_model([], dim=16, seed=5, tokenizer=model.tokenizer)
    by_hand = LESSON["train_by_hand"](model, rows, tokens, plan, dims)
    packaged = train(twin, triplets, dims, epochs=3, batch_size=8, seed=2)
    assert by_hand.dims == packaged.dims and by_hand.steps == packaged.steps == len(plan)
    np.testing.assert_allclose(by_hand.losses, packaged.losses, rtol=1e-3, atol=1e-4)
    tables = [m[0].embedding.weight for m in (model, twin)]
    torch.testing.assert_close(*tables, rtol=1e-3, atol=1e-3)


@given(steps=st.integers(1, 300), warmup=st.floats(0, 0.9), data=st.data())
def test_the_learning_rate_is_that_of_train(steps, warmup, data):
    step = data.draw(st.integers(0, steps - 1))
    ours = LESSON["learning_rate"](step, steps, 0.2, warmup)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    schedule = _warmup_then_decay(optimizer, steps, warmup)
    for _ in range(step):
        optimizer.step()
        schedule.step()
    assert ours == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)


@given(
    rows=st.lists(st.tuples(*[st.integers(0, 30)] * 3), min_size=1, max_size=40),
    seed=st.integers(0, 99),
)
def test_repeats_counts_texts_shared_by_rows(rows, seed):
    rows = np.array(rows)
    seen, shared = set(), 0
    for row in rows.tolist():
        shared += len(seen & set(row))
        seen |= set(row)
    assert LESSON["repeats"](rows) == shared
    for batch in batches_without_duplicates(rows, 4, np.random.default_rng(seed)):
        assert LESSON["repeats"](rows[batch]) == 0


@settings(deadline=None)
@given(texts=st.lists(st.text("abc ", max_size=12), min_size=1, max_size=5))
def test_the_key_of_the_padded_mean_is_what_the_model_computes(texts):
    model = build_static_model(["a b c ab bc ca abc"], dim=3, seed=1)
    encodings = model.tokenizer.encode_batch(texts, add_special_tokens=False)
    lengths = torch.tensor([len(encoding.ids) for encoding in encodings])
    width = max(1, int(lengths.max()))
    ids = torch.tensor([encoding.ids + [0] * (width - len(encoding.ids)) for encoding in encodings])
    got = mean_of_tokens(model[0].embedding.weight.detach(), ids, lengths)
    np.testing.assert_allclose(got.numpy(), model.encode(texts), atol=1e-6)


def test_the_key_of_the_training_loss_has_the_value_of_info_nce(model, columns):
    first, second = columns[0][:4], columns[1][:4]
    want = info_nce(*(torch.tensor(model.encode(texts)) for texts in (first, second)))
    torch.testing.assert_close(loss_of_texts(model, first, second).detach(), want)
