"""What lesson 02 builds by hand is what the package computes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lesson_source import functions_of

from mrl_course import check, losses

LESSON = functions_of("02_the_loss_from_scratch")


@st.composite
def problems(draw):
    """Anchors, candidates, ascending dims and their weights."""
    batch, dim = draw(st.integers(1, 6)), draw(st.integers(1, 10))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    emb = torch.randn(3 * batch, dim, generator=generator, dtype=torch.float64)
    dims = sorted({*draw(st.lists(st.integers(1, dim), max_size=3)), dim})
    weights = draw(st.lists(st.floats(0, 3), min_size=len(dims), max_size=len(dims)))
    return emb, batch, dims, weights, draw(st.sampled_from([1.0, 20.0]))


def assert_same(first, second, emb):
    results = []
    for loss in (first, second):
        x = emb.clone().requires_grad_()
        value = loss(x)
        results.append((value, torch.autograd.grad(value, x)[0]))
    torch.testing.assert_close(*results, rtol=1e-8, atol=1e-8)


@settings(deadline=None, max_examples=40)
@given(problems())
def test_both_info_nce_are_the_packages(problem):
    emb, batch, _, _, scale = problem
    args = emb[:batch], emb[batch:]
    want = losses.info_nce(*args, scale).item()
    assert LESSON["info_nce_numpy"](*(x.numpy() for x in args), scale) == pytest.approx(want)
    assert_same(
        lambda x: LESSON["info_nce"](x[:batch], x[batch:], scale),
        lambda x: losses.info_nce(x[:batch], x[batch:], scale),
        emb,
    )


@pytest.mark.parametrize("name", ["matryoshka_info_nce", "one_pass"])
@settings(deadline=None, max_examples=40)
@given(problem=problems())
def test_the_loop_and_the_one_pass_are_the_packages(name, problem):
    emb, batch, dims, weights, scale = problem
    assert_same(
        lambda x: LESSON[name](x[:batch], x[batch:], dims, weights, scale),
        lambda x: losses.nested_info_nce(x[:batch], x[batch:], dims, weights, scale),
        emb,
    )


def test_the_loss_by_hand():
    cosines = np.array([0.6, 0.8])  # of one anchor with unit vectors
    anchor, candidates = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8], [0.8, 0.6]])
    want = losses.info_nce(anchor, candidates, 5.0).item()
    assert LESSON["loss_of"](cosines) == pytest.approx(want, rel=1e-5)


def test_the_bugs_of_the_lesson_are_bugs():
    for name, exercise in (
        ("loop_with_a_bug", check.matryoshka_loop),
        ("weighted_sum_with_a_bug", check.weights_on_the_device),
    ):
        try:
            exercise(LESSON[name])
            assert exercise.state == "wrong", exercise.message
        finally:
            exercise(...)


@pytest.mark.parametrize(
    ("name", "answer", "state", "says"),
    [
        # other ways to be right
        (
            "matryoshka_loop",  # from the largest size to the smallest, each with its weight
            lambda a, c, dims, weights, scale=20.0: LESSON["loop_with_a_bug"](
                a,
                c,
                *zip(*sorted(zip(dims, weights, strict=True), reverse=True), strict=True),
                scale,
            ),
            "correct",
            "",
        ),
        (
            "weights_on_the_device",
            lambda losses, weights=None: sum(
                w * loss for w, loss in zip(weights or [1.0] * len(losses), losses, strict=True)
            ),
            "correct",
            "",
        ),
        # right values, broken gradients
        (
            "hard_negatives",
            lambda a, p, n, scale=20.0: losses.info_nce(a, torch.cat([p, n]).detach(), scale),
            "wrong",
            "detached",
        ),
        ("hard_negatives", lambda a, p, n, scale: a @ p.T, "wrong", "shape (6, 6)"),
        (
            "weights_on_the_device",
            lambda losses, weights=None: losses.new_tensor(6.5),
            "wrong",
            "no",
        ),
    ],
)
def test_other_answers(name, answer, state, says):
    exercise = getattr(check, name)
    try:
        exercise(answer)
        assert exercise.state == state, exercise.message
        assert says in exercise.message
    finally:
        exercise(...)
