"""What lesson 10 builds by hand is what the package does, and its records are complete."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lesson_source import functions_of

from mrl_course.evaluation import pca_rotation
from mrl_course.losses import nested_distillation, similarity_softmax
from mrl_course.retrofit import cayley

LESSON = functions_of("10_retrofit_a_pretrained_model")
quick = settings(deadline=None, max_examples=30)
seeds = st.integers(0, 10**6)


def rows(seed, n=12, dim=6):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


@quick
@given(seeds, st.floats(1, 60))
def test_the_choices_of_the_full_vectors_are_the_teacher_of_the_package(seed, scale):
    emb = rows(seed)
    teacher = LESSON["choices"](emb, 6, scale).exp()
    itself = torch.eye(12, dtype=torch.bool)
    torch.testing.assert_close(teacher, similarity_softmax(emb, emb, scale, itself))


@quick
@given(seeds)
def test_the_nested_divergence_and_its_gradient(seed):
    emb, dims = rows(seed), [2, 3, 6]
    itself = torch.eye(12, dtype=torch.bool)
    teacher = similarity_softmax(rows(seed + 1), rows(seed + 1), 40.0, itself)
    values = []
    for loss_of in (
        lambda x: LESSON["nested_divergence"](teacher, x, dims),
        lambda x: nested_distillation(x, x, teacher, dims, left_out=itself),
    ):
        leaf = emb.clone().requires_grad_()
        loss = loss_of(leaf)
        loss.backward()
        values.append((loss.detach(), leaf.grad))
    torch.testing.assert_close(values[0], values[1], atol=1e-4, rtol=1e-4)


@quick
@given(seeds)
def test_cayley(seed):
    free = rows(seed, 6)
    torch.testing.assert_close(LESSON["cayley"](free), cayley(free))


def test_the_loop_gives_a_rotation_with_a_smaller_loss():
    rng = np.random.default_rng(0)
    emb = rng.normal(size=(20, 12))[rng.integers(0, 20, 400)] + 0.3 * rng.normal(size=(400, 12))
    emb = (emb / np.linalg.norm(emb, axis=1, keepdims=True)).astype(np.float32)
    start = pca_rotation(emb)
    weight, losses = LESSON["rotate_and_distil"](emb, start, [2, 4], steps=60, batch_size=128)
    np.testing.assert_allclose(weight.T @ weight, np.eye(12), atol=1e-4)
    assert np.mean(losses[-5:]) < 0.97 * np.mean(losses[:5])
    again, _ = LESSON["rotate_and_distil"](emb, start, [2, 4], steps=60, batch_size=128)
    np.testing.assert_array_equal(weight, again)
