"""Training: what is promised about batches, seeds, interruption and saving."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize
from tokenizers import normalizers

from mrl_course import training
from mrl_course.losses import matryoshka_info_nce
from mrl_course.models import build_static_model
from mrl_course.training import (
    batches_without_duplicates,
    read_triplets,
    tokenise_triplets,
    train,
    train_twins,
)

SETTINGS = {"epochs": 2, "batch_size": 8, "lr": 0.02}
WORDS = ["red fox", "blue bird", "Zürich 東京", "café déjà-vu", "number 1234"]


def table(model):
    return model[0].embedding.weight.detach().numpy().copy()


@pytest.fixture
def model(triplets):
    return build_static_model([text for row in triplets for text in row], dim=16, seed=3)


# --- triplets and batches ---


def test_triplets_come_as_dataset_frame_mapping_or_list(triplets):
    columns = dict(zip(training.COLUMNS, map(list, zip(*triplets, strict=True)), strict=True))
    want = list(columns.values())
    for given_as in (triplets, columns, pd.DataFrame(columns), Dataset.from_dict(columns)):
        assert read_triplets(given_as) == want
    pairs = [row[:2] for row in triplets]
    assert read_triplets(pairs) == want[:2]


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        ([], ValueError, "at least one"),
        ([("a",)], ValueError, "lengths"),
        ([("a", "b"), ("a", "b", "c")], ValueError, "same length"),
        ({"anchor": ["a"]}, ValueError, "no column 'positive'"),
        ({"anchor": ["a"], "positive": []}, ValueError, "same length"),
        ({"anchor": [], "positive": []}, ValueError, "at least 1"),
        ({"anchor": ["a", "b"], "positive": ["c", 7]}, TypeError, "positive in row 1 is 7"),
        ([("a", "b"), ("a", None)], TypeError, "positive in row 1 is None"),
        ([("a", "b"), (" ", "b")], ValueError, "anchor in row 1 is blank"),
        (7, TypeError, "int"),
    ],
)
def test_bad_triplets_are_named(bad, error, words):
    with pytest.raises(error, match=words):
        read_triplets(bad)


def test_features_gather_what_the_model_itself_would_tokenise(model, triplets):
    data = tokenise_triplets(model, triplets)
    texts = list(dict.fromkeys(text for column in zip(*triplets, strict=True) for text in column))
    chosen = [5, 0, 41, 5]
    got = data.features(torch.tensor(chosen))
    want = model[0].preprocess([texts[i] for i in chosen])
    assert got["input_ids"].tolist() == want["input_ids"].tolist()
    assert got["offsets"].tolist() == want["offsets"].tolist()


row_numbers = st.lists(st.tuples(*[st.integers(0, 12)] * 3), min_size=1, max_size=30)


@settings(deadline=None)
@given(row_numbers, st.integers(1, 6), st.integers(0, 99))
def test_no_text_stands_twice_in_a_batch_and_no_row_is_lost(rows, batch_size, seed):
    rows = np.array(rows)
    batches = batches_without_duplicates(rows, batch_size, np.random.default_rng(seed))
    assert batches
    for batch in batches:
        texts = [text for row in batch for text in set(rows[row].tolist())]
        assert len(texts) == len(set(texts))
    used = np.concatenate(batches)
    assert len(used) == len(set(used.tolist()))
    if len(batches[0]) < batch_size:  # no complete batch: then all rows are there
        assert sorted(used) == list(range(len(rows)))
    else:
        assert {len(batch) for batch in batches} == {batch_size}


def test_batches_of_distinct_rows_leave_out_less_than_one_batch():
    rows = np.arange(3 * 103).reshape(103, 3)
    batches = batches_without_duplicates(rows, 10, np.random.default_rng(0))
    assert len(batches) == 10
    other = batches_without_duplicates(rows, 10, np.random.default_rng(1))
    assert any((a != b).any() for a, b in zip(batches, other, strict=True))


# --- training ---


def test_training_lowers_the_loss_of_every_prefix(model, triplets):
    history = train(model, triplets, [4, 16], epochs=10, batch_size=8, lr=0.02)
    frame = history.to_frame()
    assert list(frame.columns) == [4, 16] and len(frame) == history.steps >= 20
    assert (frame.iloc[-5:].mean() < 0.7 * frame.iloc[:5].mean()).all()
    assert not history.interrupted and history.seconds > 0


def test_one_step_is_adam_on_the_taught_loss(model, triplets):
    """The fast loop does what the lesson writes by hand: encode, naive loss, Adam."""
    by_hand = build_static_model([text for row in triplets for text in row], dim=16, seed=3)
    rows = triplets[:6]  # one batch: all texts differ
    with pytest.warns(UserWarning, match="fewer than one batch"):
        history = train(model, rows, [4, 16], epochs=1, lr=0.02, weights=[2, 1])
    order = np.random.default_rng(0).permutation(6)
    anchors, positives, negatives = (
        by_hand(by_hand.preprocess([rows[i][c] for i in order]))["sentence_embedding"]
        for c in range(3)
    )
    loss = matryoshka_info_nce(anchors, torch.cat([positives, negatives]), [4, 16], [2, 1])
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=0.02)
    loss.backward()
    optimizer.step()
    np.testing.assert_allclose(table(model), table(by_hand), atol=1e-6)
    assert history.losses[0] @ [2, 1] == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.filterwarnings("ignore:.*rows are fewer")
def test_one_step_of_self_distillation_adds_a_divergence_from_the_full_vector(model, triplets):
    by_hand = build_static_model([text for row in triplets for text in row], dim=16, seed=3)
    rows = triplets[:6]
    train(model, rows, [4, 16], epochs=1, lr=0.02, distill=0.7)
    order = np.random.default_rng(0).permutation(6)
    anchors, positives, negatives = (
        by_hand(by_hand.preprocess([rows[i][c] for i in order]))["sentence_embedding"]
        for c in range(3)
    )
    candidates = torch.cat([positives, negatives])

    def logits(k):
        unit = torch.nn.functional.normalize
        return 20 * unit(anchors[:, :k], dim=1) @ unit(candidates[:, :k], dim=1).T

    divergence = torch.nn.functional.kl_div(
        logits(4).log_softmax(1), logits(16).detach().softmax(1), reduction="batchmean"
    )
    loss = matryoshka_info_nce(anchors, candidates, [4, 16]) + 0.7 * divergence
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=0.02)
    loss.backward()
    optimizer.step()
    np.testing.assert_allclose(table(model), table(by_hand), atol=1e-6)


def test_pairs_train_too_and_normalize_may_follow(triplets):
    pairs = [row[:2] for row in triplets]
    model = build_static_model([text for row in pairs for text in row], dim=8)
    model = SentenceTransformer(modules=[model[0], Normalize()], device="cpu")
    history = train(model, pairs, [8], epochs=5, batch_size=8, lr=0.02)
    assert history.losses[-1] < history.losses[0]


def test_training_is_the_same_each_time_and_depends_on_the_seed(triplets):
    def run(seed):
        model = build_static_model(["a dog runs", "the cat sleeps"], dim=8)
        train(model, triplets, [8], seed=seed, **SETTINGS)
        return table(model)

    first, again, other = run(0), run(0), run(1)
    assert (first == again).all() and (first != other).any()


def test_twins_differ_only_in_the_loss(triplets):
    twins = train_twins(triplets, dim=8, dims=[2, 8], seed=4, **SETTINGS)
    start = build_static_model([t for c in zip(*triplets, strict=True) for t in c], 8, seed=4)
    for name, dims in (("regular", [8]), ("matryoshka", [2, 8])):
        model = build_static_model([], 8, seed=4, tokenizer=start[0].tokenizer)
        train(model, triplets, dims, seed=4, **SETTINGS)
        np.testing.assert_array_equal(table(dict(twins)[name]), table(model))
        assert twins.history[name].dims == dims
    assert (table(twins.regular) != table(twins.matryoshka)).any()


def test_weights_reach_the_matryoshka_twin_only(triplets):
    plain, weighted = (
        train_twins(triplets, dim=8, dims=[2, 8], weights=w, **SETTINGS) for w in (None, [0, 1])
    )
    np.testing.assert_array_equal(table(plain.regular), table(weighted.regular))
    # With no weight on the short prefix the Matryoshka twin is a regular one.
    np.testing.assert_allclose(table(weighted.matryoshka), table(plain.regular), atol=1e-5)
    assert np.abs(table(plain.matryoshka) - table(plain.regular)).max() > 1e-3


def test_distillation_reaches_the_matryoshka_twin_only(triplets):
    plain, taught = (
        train_twins(triplets, dim=8, dims=[2, 8], distill=d, **SETTINGS) for d in (0, 1.0)
    )
    np.testing.assert_array_equal(table(plain.regular), table(taught.regular))
    assert np.abs(table(plain.matryoshka) - table(taught.matryoshka)).max() > 1e-3


def test_interrupting_keeps_the_model_so_far(model, triplets, monkeypatch, capsys):
    before = table(model)
    real, calls = training.nested_losses, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(training, "nested_losses", interrupted)
    history = train(model, triplets, [16], **SETTINGS)
    assert history.interrupted and history.steps == 3
    assert (table(model) != before).any() and np.isfinite(table(model)).all()
    assert "after 3 of" in capsys.readouterr().out
    calls.clear()
    twins = train_twins(triplets, dim=8, **SETTINGS)
    assert list(twins.history) == ["regular"] and twins.history["regular"].interrupted


def test_no_progress_bar_where_there_is_no_terminal(model, triplets, capfd):
    train(model, triplets, [16], **SETTINGS)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"dims": [0]}, ValueError, "holds 0"),
        ({"dims": [16, 17]}, ValueError, "holds 17"),
        ({"dims": []}, ValueError, "empty"),
        ({"epochs": 0}, ValueError, "epochs"),
        ({"batch_size": 1}, ValueError, "batch_size"),
        ({"batch_size": 8.0}, TypeError, "8.0"),
        ({"lr": 0}, ValueError, "lr"),
        ({"warmup": 1}, ValueError, "warmup"),
        ({"distill": -1}, ValueError, "distill must be at least 0"),
        ({"distill": 1}, ValueError, "distill needs prefixes below the full size"),
        ({"weights": [1, 2]}, ValueError, "1 dims need 1 weights"),
        ({"weights": [0]}, ValueError, "trains nothing"),
        ({"max_grad_norm": 0}, ValueError, "max_grad_norm must be above 0"),
        ({"epochs": True}, TypeError, "epochs"),
        ({"seed": -1}, ValueError, "seed"),
        ({"lr": float("nan")}, ValueError, "lr"),
        ({"triplets": [("a b", "\u200b\ufeff"), ("c", "d")]}, ValueError, "row 0 is blank"),
        ({"triplets": [("a b", "\ud83d"), ("c", "d")]}, ValueError, "half a character"),
        ({"triplets": [("a b", "c d")]}, ValueError, "nothing to learn"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*rows are fewer")
def test_bad_settings_are_named_and_leave_the_model_alone(model, triplets, change, error, words):
    before = table(model)
    arguments = {"triplets": triplets, "dims": [16]} | change
    with pytest.raises(error, match=words):
        train(model, arguments.pop("triplets"), arguments.pop("dims"), **arguments)
    assert (table(model) == before).all()


@pytest.mark.filterwarnings("ignore:.*rows are fewer")
def test_one_triplet_is_enough_to_train_on(model):
    history = train(model, [("a dog", "an animal", "no dog")], [16], epochs=3, lr=0.01)
    assert history.losses[-1] < history.losses[0]


def test_other_models_are_refused_with_the_way_to_go(triplets):
    with pytest.raises(TypeError, match="SentenceTransformerTrainer"):
        tokenise_triplets(torch.nn.Linear(2, 2), triplets)


# --- what strangers bring ---


def naive_batches(rows, batch_size, rng):
    """The rule itself: go through all waiting rows, then through the new ones."""
    stream = rng.permutation(len(rows)).tolist()
    batches = []
    while stream:
        batch, seen, rest = [], set(), []
        for row in stream:
            if len(batch) < batch_size and seen.isdisjoint(rows[row].tolist()):
                batch.append(row)
                seen |= set(rows[row].tolist())
            else:
                rest.append(row)
        batches.append(batch)
        stream = rest
    complete = [batch for batch in batches if len(batch) == batch_size]
    return complete or batches


@given(
    rows=st.lists(st.tuples(*[st.integers(0, 12)] * 3), min_size=1, max_size=60),
    batch_size=st.integers(2, 9),
    seed=st.integers(0, 99),
)
def test_batches_are_those_of_the_plain_rule(rows, batch_size, seed):
    rows = np.array(rows)
    got = batches_without_duplicates(rows, batch_size, np.random.default_rng(seed))
    want = naive_batches(rows, batch_size, np.random.default_rng(seed))
    assert [batch.tolist() for batch in got] == want


def test_few_different_texts_do_not_make_planning_quadratic():
    """20,000 rows and five class names: asking all waiting rows for each batch took 16 s."""
    asked = 0

    class Text(int):
        __hash__ = int.__hash__

        def __eq__(self, other):
            nonlocal asked
            asked += 1
            return int(self) == int(other)

    n = 20_000
    rows = np.stack([10**5 + np.arange(n), np.arange(n) % 5], axis=1)
    counted = np.vectorize(Text, otypes=[object])(rows)
    texts = list(map(frozenset, counted.tolist()))
    batches = training._batches(texts, 512, np.random.default_rng(0))
    assert len(batches) >= n / 5 and asked < 30 * n


def test_small_batches_are_said(triplets):
    pairs = [(anchor, "same") for anchor, *_ in triplets]
    pairs += [(f"{anchor} again", "other") for anchor, *_ in triplets]
    model = build_static_model([text for row in pairs for text in row], dim=8)
    with pytest.warns(UserWarning, match="at most 2 rows, not 32: .* 2 different texts in 80 rows"):
        train(model, pairs, [8], epochs=1, batch_size=32, progress=False)


def test_each_warning_comes_once_and_at_the_callers_line(triplets):
    given = [*triplets, ("A dog runs", "One runs", "No dog")]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train_twins(given, dim=16, dims=[4], batch_size=64, epochs=2, progress=False)
    said = sorted(str(warning.message)[:24] for warning in caught)
    assert said == ["41 rows are fewer than o", "the full size 16 is not "]
    assert {warning.filename for warning in caught} == {__file__}


def test_texts_without_tokens_train_nothing_and_are_counted(triplets):
    model = build_static_model([text for row in triplets for text in row], dim=8)
    strip = "\x00x"  # one token, the other character is dropped
    given = [*triplets, ("\x00\x01y", strip, "No dog today")]
    model[0].tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace("y", ""), model[0].tokenizer.normalizer]
    )
    with pytest.warns(UserWarning, match="1 of .* texts have no tokens"):
        train(model, given, [4, 8], epochs=1, batch_size=16, progress=False)
    assert np.isfinite(table(model)).all()


def test_clipping_shortens_the_steps_that_are_too_long(triplets):
    lengths = {}
    for limit in (None, 1e-3, 1e6):
        model = build_static_model([t for row in triplets for t in row], dim=16, seed=3)
        history = train(model, triplets, [16], max_grad_norm=limit, progress=False, **SETTINGS)
        lengths[limit] = history.clipped, table(model)
    assert [lengths[limit][0] for limit in (None, 1e-3, 1e6)] == [0, 1, 0]
    np.testing.assert_array_equal(lengths[None][1], lengths[1e6][1])
    assert (lengths[None][1] != lengths[1e-3][1]).any()


def test_on_step_sees_every_step(model, triplets):
    seen = []
    history = train(
        model, triplets, [8, 16], on_step=lambda step, losses: seen.append((step, losses.tolist())),
        progress=False, **SETTINGS,
    )  # fmt: skip
    assert [step for step, _ in seen] == list(range(1, history.steps + 1))
    np.testing.assert_allclose([losses for _, losses in seen], history.losses)


def test_a_loss_that_is_no_number_is_an_error_with_a_way_out(model, triplets):
    with pytest.raises(ValueError, match="no number any more; lower the learning rate"):
        train(model, triplets, [16], lr=1e38, epochs=5, batch_size=8, progress=False)


def test_integers_of_numpy_are_integers_for_train(model, triplets):
    options = {"epochs": np.int64(1), "batch_size": np.int32(8), "seed": np.uint8(3)}
    assert train(model, triplets, np.array([8, 16]), progress=False, **options).dims == [8, 16]


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.0), (1, 0.9), (7, 0.0), (40, 0.1), (9, 0.99)])
def test_the_rate_rises_in_a_line_and_falls_in_a_line_to_zero(steps, warmup):
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=2.0)
    schedule = training._warmup_then_decay(optimizer, steps, warmup)
    rise = max(1, round(warmup * steps))
    for step in range(steps):
        want = (step + 1) / rise if step < rise else (steps - step) / max(1, steps - rise)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(2 * want, abs=1e-9)
        optimizer.step()
        schedule.step()
