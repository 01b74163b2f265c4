"""Nested heads equal naive ones; the cascade keeps what its thresholds promise."""

import copy
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from mrl_course import losses
from mrl_course.classification import (
    NestedClassifier,
    cascade_score,
    cascade_stops,
    confidence_and_right,
    nested_cross_entropy,
    oracle_score,
    tune_thresholds,
)

quick = settings(deadline=None, max_examples=60)


def test_the_names_of_the_loss_are_in_losses_too():
    assert losses.NestedClassifier is NestedClassifier
    assert losses.nested_cross_entropy is nested_cross_entropy


# ------------------------------------------------------------------------------------- the heads


def make(dim, classes, dims, tied=False, seed=0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a missing full size is wanted here
        generator = torch.Generator().manual_seed(seed)
        return NestedClassifier(dim, classes, dims, tied, generator=generator).double()


def normal(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@st.composite
def problems(draw):
    """A batch with labels, heads of some sizes in any order, and perhaps weights."""
    dim, classes, batch = draw(st.integers(1, 9)), draw(st.integers(1, 5)), draw(st.integers(1, 6))
    dims = draw(st.lists(st.integers(1, dim), min_size=1, max_size=5, unique=True))
    weights = draw(st.none() | st.lists(st.floats(0, 3), min_size=len(dims), max_size=len(dims)))
    seed, tied = draw(st.integers(0, 10**6)), draw(st.booleans())
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (batch,), generator=generator)
    return normal(seed, batch, dim), labels, make(dim, classes, dims, tied, seed), weights


def naive_logits(emb, module):
    """The definition: each size by itself, tied heads by slicing the weight."""
    found = []
    for i, k in enumerate(module.dims):
        head = module.heads[0] if module.tied else module.heads[i]
        found.append(F.linear(emb[:, :k], head.weight[:, :k], head.bias))
    return found


@quick
@given(problems())
def test_values_and_gradients_are_those_of_naive_heads(problem):
    emb, labels, module, weights = problem
    results = []
    for naive in (True, False):
        x = emb.clone().requires_grad_()
        if naive:
            each = [F.cross_entropy(one, labels) for one in naive_logits(x, module)]
            total = sum(w * loss for w, loss in zip(weights or [1] * 9, each, strict=False))
        else:
            logits = module(x)
            assert logits.shape == (len(module.dims), len(emb), module.num_classes)
            total, each = nested_cross_entropy(logits, labels, weights, return_per_dim=True)
            assert torch.equal(total, nested_cross_entropy(logits, labels, weights))
            each = list(each)
        if weights is not None and not any(weights):
            total = total + 0 * sum(each)  # keeps the graph of the naive sum
        results.append([total, *each, *torch.autograd.grad(total, [x, *module.parameters()])])
    for mine, wanted in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-9)


@quick
@given(problems())
def test_parameters_are_counted_as_documented_and_survive_a_round_trip(problem):
    emb, _, module, _ = problem
    classes, dims = module.num_classes, module.dims
    documented = classes * (max(dims) + 1 if module.tied else sum(dims) + len(dims))
    assert sum(p.numel() for p in module.parameters()) == documented
    assert sum(p.numel() for p in module.state_dict().values()) == documented
    other = make(module.dim, classes, dims, module.tied, seed=1)
    other.load_state_dict(module.state_dict())
    for copied in (other, copy.deepcopy(module)):
        assert torch.equal(copied(emb), module(emb))
    with torch.no_grad():
        for p in copied.parameters():
            p.zero_()
    assert (copied(emb) == 0).all() and (module(emb) != 0).any()  # a copy, not a view


@quick
@given(problems())
def test_a_head_can_be_taken_out_and_stands_alone(problem):
    emb, _, module, _ = problem
    for i, k in enumerate(module.dims):
        alone = module.head(k)
        assert isinstance(alone, nn.Linear) and alone.in_features == k
        torch.testing.assert_close(alone(emb[:, :k]), module(emb)[i], rtol=1e-9, atol=1e-9)
        with torch.no_grad():
            alone.weight.fill_(7)
        assert not (module.head(k).weight == 7).any()


def test_numbers_beyond_a_prefix_cannot_change_its_logits():
    for tied in (False, True):
        module, emb = make(6, 3, [4, 2, 6], tied), normal(0, 5, 6)
        changed = emb.clone()
        changed[:, 2:] += 1
        same = (module(emb) == module(changed)).flatten(1).all(1)
        assert same.tolist() == [False, True, False]


def test_a_generator_decides_the_start_and_torchs_own_is_left_alone():
    state = torch.get_rng_state()
    first, again, other = (make(8, 4, [2, 8], seed=s) for s in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.heads[1].weight, again.heads[1].weight)
    assert not torch.equal(first.heads[1].weight, other.heads[1].weight)
    assert first.heads[0].weight.abs().max() <= 2**-0.5  # the range that nn.Linear draws from
    assert make(512, 50, [512]).heads[0].weight.abs().max().item() == pytest.approx(
        512**-0.5, rel=1e-2
    )


@pytest.mark.parametrize("tied", [False, True])
def test_heads_and_loss_move_to_another_device_and_type(tied):
    """The meta device refuses to mix with the CPU, as a GPU does."""
    module = make(8, 5, [8, 2], tied).float().to("meta")
    assert all(p.is_meta for p in module.parameters())
    emb = torch.empty(3, 8, device="meta")
    labels = torch.empty(3, dtype=torch.long, device="meta")
    total, each = nested_cross_entropy(module(emb), labels, [0.5, 2.0], return_per_dim=True)
    assert total.is_meta and each.is_meta
    total.backward()
    assert all(p.grad.is_meta for p in module.parameters())
    with pytest.raises(RuntimeError, match="device"):  # or the test above proves nothing
        total = (torch.tensor([0.5, 2.0]) * each).sum()
    assert module.head(2).weight.is_meta
    half = make(8, 5, [8, 2], tied).to(torch.bfloat16)
    assert half(torch.ones(3, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert half.head(2).weight.dtype == torch.bfloat16


def test_training_reaches_every_parameter():
    for tied in (False, True):
        module = make(8, 4, [2, 8, 4], tied)
        labels = torch.tensor([0, 1, 2, 3, 1])
        nested_cross_entropy(module(normal(1, 5, 8)), labels).backward()
        assert all((p.grad != 0).any() for p in module.parameters())


def test_labels_of_a_small_integer_type_are_fine():
    logits, labels = normal(0, 2, 3, 4), torch.tensor([0, 3, 1])
    expected = nested_cross_entropy(logits, labels)
    for dtype in (torch.uint8, torch.int32):
        assert torch.equal(nested_cross_entropy(logits, labels.to(dtype)), expected)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((8, 3, []), ValueError, "empty"),
        ((8, 3, [9]), ValueError, "holds 9"),
        ((8, 3, [2, 2]), ValueError, "2 more than once"),
        ((8, 3, [2.0]), TypeError, "2.0"),
        ((0, 3, [1]), ValueError, "dim must be at least 1, got 0"),
        ((8, 0, [8]), ValueError, "num_classes must be at least 1, got 0"),
        ((8, 2.5, [8]), TypeError, "2.5"),
    ],
)
def test_bad_sizes_are_named(arguments, error, words):
    with pytest.raises(error, match=words):
        NestedClassifier(*arguments)


def test_a_missing_full_size_is_a_warning():
    with pytest.warns(UserWarning, match="full size 8 is not in dims"):
        NestedClassifier(8, 3, [4])


@pytest.mark.parametrize(
    ("emb", "error", "words"),
    [
        (torch.ones(2, 7), ValueError, r"shape \(B, 8\), got \(2, 7\)"),
        (torch.ones(8), ValueError, "shape"),
        (torch.ones(2, 8, dtype=torch.int64), TypeError, "int64"),
        (np.ones((2, 8)), TypeError, "ndarray"),
    ],
)
def test_bad_embeddings_are_named(emb, error, words):
    with pytest.raises(error, match=words):
        NestedClassifier(8, 3, [8])(emb)


def test_a_size_without_a_head_is_named():
    with pytest.raises(ValueError, match=r"k = 5; sizes: \[2, 8\]"):
        NestedClassifier(8, 3, [2, 8]).head(5)


LOGITS, LABELS = torch.zeros(2, 3, 4), torch.tensor([0, 1, 2])


@pytest.mark.parametrize(
    ("logits", "labels", "weights", "error", "words"),
    [
        (LOGITS[0], LABELS, None, ValueError, "logits must have shape"),
        (LOGITS[:0], LABELS, None, ValueError, "none of them 0"),
        (LOGITS, LABELS[:2], None, ValueError, r"labels must have shape \(3,\), got \(2,\)"),
        (LOGITS, LABELS.float(), None, TypeError, "float32"),
        (LOGITS, LABELS > 0, None, TypeError, "bool"),
        (LOGITS, LABELS + 2, None, ValueError, "between 0 and 3, got 4"),
        (LOGITS, LABELS - 1, None, ValueError, "got -1"),
        (LOGITS, [0, 1, 2], None, TypeError, "tensors"),
        (LOGITS, LABELS, [1], ValueError, "2 weights, got 1"),
        (LOGITS, LABELS, [1, -1], ValueError, "-1"),
    ],
)
def test_bad_logits_labels_and_weights_are_named(logits, labels, weights, error, words):
    with pytest.raises(error, match=words):
        nested_cross_entropy(logits, labels, weights)


# ----------------------------------------------------------------------------------- the cascade


@st.composite
def cascades(draw, most=4):
    """Confidences with many ties, and who is right."""
    m, n = draw(st.integers(1, most)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    confidence = rng.integers(0, draw(st.sampled_from([2, 5, 1000])), size=(m, n)) / 10
    dims = np.cumsum(rng.integers(1, 5, size=m)).tolist()
    return confidence, rng.random((m, n)) < draw(st.sampled_from([0.2, 0.5, 0.9])), dims


def stops_one_by_one(confidence, thresholds):
    found = []
    for column in confidence.T:
        sure = [j for j, value in enumerate(column) if value >= thresholds[j]]
        found.append(min([*sure, len(confidence) - 1]))
    return np.array(found)


@quick
@given(cascades(), st.integers(0, 10**6))
def test_a_cascade_stops_at_the_first_sure_prefix(problem, seed):
    confidence, right, dims = problem
    thresholds = np.random.default_rng(seed).choice(
        [-np.inf, 0.0, 0.1, 0.3, np.inf], len(confidence)
    )
    stops = cascade_stops(confidence, thresholds)
    np.testing.assert_array_equal(stops, stops_one_by_one(confidence, thresholds))
    score = cascade_score(stops, right, dims)
    hits = [right[stop, i] for i, stop in enumerate(stops)]
    assert score.accuracy == pytest.approx(sum(hits) / len(hits))
    assert score.expected_dims == pytest.approx(sum(dims[stop] for stop in stops) / len(stops))


def thresholds_by_trial(confidence, right, slack):
    """Try every threshold that could matter, the lowest first."""
    waiting = np.ones(right.shape[1], dtype=bool)
    found = []
    for j in range(len(right) - 1):
        best = np.inf
        for candidate in np.unique(confidence[j, waiting]):
            stop = waiting & (confidence[j] >= candidate)
            lost = right[-1, stop].sum() - right[j, stop].sum()
            if lost <= slack * stop.sum() + 1e-9:
                best = candidate
                break
        found.append(best)
        waiting &= confidence[j] < best
    return np.array([*found, -np.inf])


@settings(deadline=None, max_examples=200)
@given(cascades(), st.sampled_from([0.0, 0.1, 0.25, 1.0]))
def test_thresholds_are_the_lowest_that_lose_no_more_than_the_slack(problem, slack):
    confidence, right, dims = problem
    thresholds = tune_thresholds(confidence, right, slack)
    np.testing.assert_array_equal(thresholds, thresholds_by_trial(confidence, right, slack))
    score = cascade_score(cascade_stops(confidence, thresholds), right, dims)
    assert score.accuracy >= right[-1].mean() - slack - 1e-9
    assert dims[0] <= score.expected_dims <= dims[-1]
    if slack == 1:
        assert score.expected_dims == dims[0]  # who may lose everything stops at once


@quick
@given(cascades(), st.integers(0, 10**6))
def test_no_cascade_beats_the_oracle(problem, seed):
    _, right, dims = problem
    bound = oracle_score(right, dims)
    stops = np.random.default_rng(seed).integers(0, len(dims), right.shape[1])
    assert cascade_score(stops, right, dims).accuracy <= bound.accuracy
    assert bound.accuracy == pytest.approx(right.any(axis=0).mean())


def test_a_cascade_worked_out_by_hand():
    dims = [2, 4, 8]
    confidence = np.array([[0.9, 0.8, 0.7, 0.6], [0.5, 0.5, 0.9, 0.6], [1, 1, 1, 1.0]])
    right = np.array([[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]], dtype=bool)
    # k = 2: only the surest is no loss. k = 4: the next two lose nothing (one is even won), and
    # with the last one it is one won, one lost.
    thresholds = tune_thresholds(confidence, right)
    assert thresholds.tolist() == [0.9, 0.5, -np.inf]
    assert tune_thresholds(confidence, right, slack=0.4).tolist()[0] == 0.7
    stops = cascade_stops(confidence, thresholds)
    assert stops.tolist() == [0, 1, 1, 1]
    assert cascade_score(stops, right, dims) == (0.75, 3.5)
    assert oracle_score(right, dims) == (1.0, (2 + 4 + 4 + 8) / 4)
    assert oracle_score(np.zeros((3, 5), dtype=bool), dims) == (0.0, 2.0)


def test_a_prefix_nobody_may_stop_at():
    right = np.array([[False, False], [True, True]])
    assert tune_thresholds(np.ones((2, 2)), right).tolist() == [np.inf, -np.inf]


@quick
@given(problems())
def test_confidence_is_the_probability_of_the_chosen_class(problem):
    emb, labels, module, _ = problem
    logits = module(emb)
    sure, right = confidence_and_right(logits, labels)
    p = torch.softmax(logits, 2)
    assume((p.topk(min(2, p.shape[2]), 2).values.diff(dim=2) < -1e-9).all())  # no two are equal
    np.testing.assert_allclose(sure, p.amax(2).detach())
    np.testing.assert_array_equal(right, p.argmax(2) == labels)


OK = np.ones((3, 4))
YES = np.ones((3, 4), dtype=bool)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: tune_thresholds(OK, OK), "right must hold bools, got float64"),
        (lambda: tune_thresholds(OK, YES[:2]), "has shape"),
        (lambda: tune_thresholds(OK, YES, slack=1.5), "slack must be between 0 and 1, got 1.5"),
        (lambda: tune_thresholds(OK, YES, slack=float("nan")), "slack"),
        (lambda: tune_thresholds(OK * np.nan, YES), "NaN"),
        (lambda: tune_thresholds(OK[0], YES[0]), "shape"),
        (lambda: cascade_stops(OK, [0.5, 0.5]), "3 prefixes need 3 thresholds"),
        (lambda: cascade_stops(OK, [0.5, np.nan, 0]), "without NaN"),
        (lambda: cascade_score([0, 1, 2], YES, [1, 2, 4]), "4 row numbers"),
        (lambda: cascade_score([0, 1, 2, 3], YES, [1, 2, 4]), "are prefixes 0 to 2"),
        (lambda: cascade_score([0.0, 1, 2, 2], YES, [1, 2, 4]), "row numbers"),
        (lambda: cascade_score([0, 1, 2, 2], YES, [1, 4, 2]), "the smallest first"),
        (lambda: oracle_score(YES, [1, 2]), "one row per size"),
        (lambda: oracle_score(YES, [1, 2, 2]), "more than once"),
        (lambda: oracle_score(YES, []), "empty"),
        (lambda: confidence_and_right(LOGITS, LABELS[:2]), "labels"),
    ],
)
def test_bad_cascades_are_named(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call()
