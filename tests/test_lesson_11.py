"""What lesson 11 builds by hand is what the package does; its data are what it says."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lesson_source import functions_of

from mrl_course.check import lesson_11 as exercises
from mrl_course.classification import NestedClassifier, cascade_stops, nested_cross_entropy

LESSON = functions_of("11_images_and_the_papers_own_loss")
quick = settings(deadline=None, max_examples=40)
seeds = st.integers(0, 10**6)


@quick
@given(seeds, st.lists(st.integers(1, 8), min_size=1, unique=True).filter(lambda d: 8 in d))
def test_heads_and_loss_by_hand(seed, dims):
    generator = torch.Generator().manual_seed(seed)
    nested = NestedClassifier(8, 5, dims, generator=generator)
    emb = torch.randn(6, 8, generator=generator)
    labels = torch.randint(5, (6,), generator=generator)
    logits = LESSON["logits_by_hand"](emb, nested.heads, dims)
    torch.testing.assert_close(torch.stack(logits), nested(emb))
    torch.testing.assert_close(
        LESSON["paper_loss"](logits, labels), nested_cross_entropy(nested(emb), labels)
    )


@quick
@given(seeds, st.integers(1, 5))
def test_the_cascade_by_hand(seed, m):
    rng = np.random.default_rng(seed)
    confidence, thresholds = rng.integers(0, 5, (m, 9)), rng.integers(0, 6, m)
    stops = LESSON["stops_by_hand"](confidence, thresholds)
    np.testing.assert_array_equal(stops, cascade_stops(confidence, thresholds))
    dims = [2, 4, 8, 16, 32][:m]
    assert LESSON["mean_size"](stops, dims) == np.mean([dims[stop] for stop in stops])


@quick
@given(seeds, st.booleans())
def test_the_keys_of_the_exercises_are_the_packages_results(seed, tied):
    dims = [4, 8, 2]
    generator = torch.Generator().manual_seed(seed)
    nested = NestedClassifier(8, 3, dims, tied, generator=generator)
    count = sum(p.numel() for p in nested.parameters())
    assert exercises.head_parameters(3, dims, tied) == count == LESSON["parameters"](nested)
    emb, labels = torch.randn(5, 8, generator=generator), torch.tensor([0, 1, 2, 1, 0])
    if tied:
        head = nested.heads[0]
        torch.testing.assert_close(
            exercises.tied_logits(emb, head.weight, head.bias, dims), nested(emb)
        )
        torch.testing.assert_close(
            LESSON["sliced"]((torch.nn.Identity(), nested), emb, dims), nested(emb)
        )
    weights = [0.5, 2.0, 0.0]
    torch.testing.assert_close(
        exercises.weighted_loss(nested(emb), labels, weights),
        nested_cross_entropy(nested(emb), labels, weights),
    )


def test_neighbours_see_the_direction_of_the_prefix_only():
    emb = torch.tensor([[1.0, 0.0, 9.0], [0.0, 1.0, 0.0]])
    gallery = torch.tensor([[5.0, 0.1, 0.0], [0.1, 0.2, 0.0], [9.0, 9.0, 9.0]])
    labels, gallery_labels = torch.tensor([7, 8]), torch.tensor([7, 8, 9])
    assert LESSON["neighbour_accuracy"](emb, gallery, labels, gallery_labels, 2) == 1.0
    assert LESSON["neighbour_accuracy"](emb, gallery, labels, gallery_labels, 3) == 0.5
    assert LESSON["neighbour_accuracy"](emb, gallery, labels, gallery_labels, 1) == 0.5


def test_superclasses_count_the_first_digit():
    logits = F.one_hot(torch.tensor([[37, 31, 42], [7, 70, 77]]), 100).double()
    right = LESSON["first_digit"](logits, torch.tensor([38, 31, 24]))
    assert right == pytest.approx([2 / 3, 0.0])
    assert LESSON["accuracies"](logits, torch.tensor([37, 70, 42])) == pytest.approx([2 / 3, 1 / 3])


def test_the_same_seed_trains_the_same_model_and_training_helps():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, generator=generator)
    y = (x[:, :3].argmax(1)).long()
    models = [LESSON["train_nested"](x, y, 3, [2, 4], seed, steps=60) for seed in (0, 0, 1)]
    first, again, other = (model[1](model[0](x)) for model in models)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert min(LESSON["accuracies"](first, y)) > 0.8
    assert not any(p.requires_grad for part in models[0] for p in part.parameters())


def test_sounds_glide_as_their_class_says():
    waves, labels = LESSON["make_sounds"](400, seed=3)
    again, _ = LESSON["make_sounds"](400, seed=3)
    assert waves.shape == (400, 1600) and set(labels.tolist()) == set(range(25))
    assert torch.equal(waves, again)
    features = LESSON["spectrogram"](waves)
    assert features.shape == (400, 160) and torch.isfinite(features).all()
    for label in range(25):  # the loudest band of the first and the last piece
        average = features[labels == label].mean(0).reshape(10, 16)
        first, last = average[0].argmax(), average[-1].argmax()
        start, end = divmod(label, 5)
        assert (last - first).sign() == np.sign(end - start), (label, first, last)
