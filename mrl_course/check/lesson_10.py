"""Exercises of lesson 10: the teacher, a rotation, the order of mapping and cutting, a choice."""

import numpy as np
import torch
import torch.nn.functional as F

from mrl_course.check.engine import Wrong, compare_arrays, register
from mrl_course.check.shared import unit
from mrl_course.losses import nested_distillation, similarity_softmax
from mrl_course.retrofit import cayley
from mrl_course.search import truncate

# ------------------------------------------------------------------------------------ the teacher


def teacher_choices(emb, scale):
    """(B, D) -> (B, B) probabilities: whom each row would choose among the others."""
    itself = torch.eye(len(emb), dtype=torch.bool)
    return similarity_softmax(emb, emb, scale, itself)


def _with_itself(emb, scale):
    return similarity_softmax(emb, emb, scale)


def _zeroed_afterwards(emb, scale):
    return _with_itself(emb, scale).fill_diagonal_(0)


def _zero_logit(emb, scale):
    unit = F.normalize(emb, dim=1)
    return (scale * unit @ unit.T).fill_diagonal_(0).softmax(1)


def _raw_products(emb, scale):
    return (scale * emb @ emb.T).fill_diagonal_(-1e4).softmax(1)


@register(
    lesson=10,
    answer=teacher_choices,
    expects="a function teacher_choices(emb, scale) -> (B, B) tensor of probabilities",
    why="This is all the supervision that rotate and distil needs: the vectors teach themselves.",
    hints=[
        "F.normalize(emb, dim=1) first; then scale * unit @ unit.T are the logits.",
        "A row must not choose itself: its logit has to be very low BEFORE the softmax.",
        "logits.fill_diagonal_(-1e4).softmax(dim=1).",
    ],
    wrong_answers=[
        Wrong(_with_itself, says="chooses itself"),
        Wrong(_zeroed_afterwards, says="sum to"),
        Wrong(_zero_logit, says="chooses itself"),
        Wrong(_raw_products, says="length"),
        Wrong(lambda emb, scale: teacher_choices(emb, scale).T, says="row"),
        Wrong(lambda emb, scale: teacher_choices(emb, 1.0), says="scale"),
        Wrong(lambda emb, scale: teacher_choices(emb, scale).log(), says="probabilities"),
    ],
    solution_text="mrl_course.losses.similarity_softmax with the diagonal left out:",
)
def teacher(answer):
    """Check rows of different lengths, two scales."""
    emb = torch.randn(6, 4, generator=torch.Generator().manual_seed(10))
    emb = emb * torch.arange(1, 7)[:, None]
    for scale in (5.0, 40.0):
        want, got = teacher_choices(emb, scale), answer(emb, scale)
        if not torch.is_tensor(got) or got.shape != want.shape:
            return compare_arrays(got, want) or "return a torch tensor."
        if not torch.isfinite(got).all() or got.min() < 0 or got.max() > 1 + 1e-5:
            return "return probabilities, between 0 and 1, and not their logarithms."
        diagonal = got.diagonal().max().item()
        if diagonal > 1e-4:
            return f"a row chooses itself with probability {diagonal:.2f}; it must be 0."
        if not torch.allclose(got.sum(1), torch.ones(6), atol=1e-4):
            if torch.allclose(got.sum(0), torch.ones(6), atol=1e-4):
                return "the columns sum to 1; each row should: it is the row that chooses."
            sums = got.sum(1)
            return (
                f"rows sum to {sums.min():.2f} to {sums.max():.2f}, not 1. Take the diagonal out "
                "before the softmax, not after it."
            )
        if torch.allclose(got, _raw_products(emb, scale), atol=1e-4):
            return "long vectors are chosen more often: give all rows length 1 first."
        if torch.allclose(got, teacher_choices(emb, 1.0), atol=1e-4):
            return f"multiply the cosines by the scale, here {scale:.0f}, before the softmax."
        problem = compare_arrays(got, want, atol=1e-4)
        if problem:
            return f"at scale {scale:.0f}: {problem}"
    return None


# ----------------------------------------------------------------------------------- the rotation


def _not_skew(free):
    eye = torch.eye(len(free))
    return torch.linalg.solve(eye + free, eye - free)


def _half_of_it(free):
    skew = (free - free.T) / 2
    return torch.linalg.inv(torch.eye(len(free)) + skew)


def _one_step(free):
    return torch.eye(len(free)) - (free - free.T)


@register(
    lesson=10,
    answer=cayley,
    expects="a function rotation_of(free) -> (D, D) tensor",
    why="Any matrix in, a rotation out: so plain Adam can search among rotations.",
    hints=[
        "First make S = (free - free.T) / 2; check that S.T equals -S.",
        "Then (I + S)^-1 (I - S). torch.linalg.solve(a, b) is a^-1 b.",
        "torch.linalg.solve(eye + skew, eye - skew), with eye = torch.eye(len(free)).",
    ],
    wrong_answers=[
        Wrong(_not_skew, says="right angles"),
        Wrong(_half_of_it, says="right angles"),
        Wrong(_one_step, says="right angles"),
        Wrong(lambda free: torch.linalg.qr(free)[0], says="not that of the formula"),
        Wrong(lambda free: torch.eye(len(free)) + 0 * free, says="whatever"),
        Wrong(lambda free: cayley(free.detach()), says="gradient"),
    ],
)
def rotation_of(answer):
    """Check the start, right angles, and the gradient."""
    free = torch.randn(5, 5, generator=torch.Generator().manual_seed(3))
    start = answer(torch.zeros(5, 5))
    if not torch.is_tensor(start) or start.shape != (5, 5):
        return compare_arrays(start, torch.eye(5)) or "return a torch tensor."
    if not torch.isfinite(start).all() or compare_arrays(start, torch.eye(5), atol=1e-5):
        return "for free = 0 the result should be no rotation at all: the identity."
    free.requires_grad_()
    got = answer(free)
    off = (got.T @ got - torch.eye(5)).abs().max().item()
    if off > 1e-4:
        return (
            f"the columns are not at right angles with length 1: Q^T Q is off by up to {off:.2f}. "
            "Is S skew, and is it (I + S)^-1 (I - S)?"
        )
    if compare_arrays(got.detach(), torch.eye(5), atol=1e-3) is None:
        return "the result is the identity whatever free holds."
    if not got.requires_grad:
        return "no gradient reaches free, so nothing could be learnt; do not detach it."
    problem = compare_arrays(got.detach(), cayley(free).detach(), atol=1e-4)
    return f"this is a rotation, but not that of the formula: {problem}" if problem else None


# ------------------------------------------------------------------------------------ the pupil


def distil_loss(original, weight, dims):
    """The teacher is computed from the original vectors and gets no gradient."""
    new = original @ weight
    itself = torch.eye(len(original), dtype=torch.bool)
    return nested_distillation(new, new, teacher_choices(original, 40.0), dims, left_out=itself)


def _log_choices(emb, k, scale):
    prefix = F.normalize(emb[:, :k], dim=1)
    return (scale * prefix @ prefix.T).fill_diagonal_(-1e4).log_softmax(1)


def _loss(teacher_of, reverse=False, divide=None):
    def loss(original, weight, dims):
        new = original @ weight
        total = 0
        for k in dims:
            log_t, log_p = teacher_of(original, new), _log_choices(new, k, 20.0)
            log_t, log_p = (log_p, log_t) if reverse else (log_t, log_p)
            total = total + (log_t.exp() * (log_t - log_p)).sum(1).mean()
        return total / (divide or 1)

    return loss


def _moving(original, new):
    return _log_choices(new, new.shape[1], 40.0)


def _fixed(original, new):
    return _log_choices(original, original.shape[1], 40.0).detach()


@register(
    lesson=10,
    answer=distil_loss,
    expects="a function distil_loss(original, weight, dims) -> scalar tensor",
    why="A teacher that moves towards its pupils makes the loss small and the vectors worse.",
    hints=[
        "Which vectors does the teacher see in this code: the old ones or the new ones?",
        "With the new ones, the loss can fall by making the TEACHER worse.",
        "teacher = choices(original, original.shape[1], 40.0).exp().detach()",
    ],
    wrong_answers=[
        Wrong(_loss(_moving), says="new vectors"),
        Wrong(_loss(lambda original, new: _moving(original, new).detach()), says="new vectors"),
        Wrong(_loss(_fixed, reverse=True), says="order"),
        Wrong(_loss(_fixed, divide=3), says="factor"),
        Wrong(lambda original, weight, dims: _loss(_fixed)(original, weight, dims[:1]), says="all"),
        Wrong(
            lambda original, weight, dims: distil_loss(original, weight, dims).detach(),
            says="gradient",
        ),
    ],
    solution_text="mrl_course.losses.nested_distillation, with the teacher of exercise 1:",
)
def teacher_that_stays(answer):
    """Check value and gradient with a map that changes the full vectors."""
    generator = torch.Generator().manual_seed(4)
    original = torch.randn(8, 6, generator=generator)
    start = torch.eye(6) + 0.4 * torch.randn(6, 6, generator=generator)
    dims = [2, 4, 6]

    def value_and_gradient(function):
        weight = start.clone().requires_grad_()
        value = function(original, weight, list(dims))
        if not torch.is_tensor(value) or value.numel() != 1:
            return None, "return one number, as a torch tensor."
        if not value.requires_grad:
            return None, "the result has no gradient; only the teacher is detached."
        (gradient,) = torch.autograd.grad(value, weight)
        return (value.item(), gradient), None

    got, problem = value_and_gradient(answer)
    if got is None:
        return problem
    known = {
        "the teacher looks at the new vectors; it must look at the original ones.": _loss(_moving),
        "the teacher looks at the new vectors, though without gradient; give it the original "
        "ones.": _loss(lambda original, new: _moving(original, new).detach()),
        "teacher and pupil are in the wrong order inside the divergence: sum t log(t / p).": _loss(
            _fixed, reverse=True
        ),
        f"only one size counts; sum over all of {dims}.": (
            lambda original, weight, dims: _loss(_fixed)(original, weight, [2])
        ),
    }
    want, _ = value_and_gradient(distil_loss)
    assert want is not None  # the right answer has a gradient
    if abs(got[0] - want[0]) < 1e-3 and torch.allclose(got[1], want[1], atol=1e-3):
        return None
    for says, function in known.items():
        other, _ = value_and_gradient(function)
        assert other is not None  # each of these has one, too
        if abs(got[0] - other[0]) < 1e-3 and torch.allclose(got[1], other[1], atol=1e-3):
            return says
    if abs(got[0] / want[0] - 1) > 1e-3:
        return f"the loss is {got[0]:.3f}, expected {want[0]:.3f}: a factor {got[0] / want[0]:.2f}."
    return "the value is right, but its gradient is not: is the teacher detached?"


# ------------------------------------------------------------------------------ map, cut, compare


def small_scores(queries, corpus, weight, k):
    """Cosines of every query with every text by the first k numbers after the map, (q, n)."""
    return truncate(queries @ weight, k) @ truncate(corpus @ weight, k).T


MAP_MISTAKES = [
    (
        lambda q, c, w, k: unit(q[:, :k] @ w[:k, :k]) @ unit(c[:, :k] @ w[:k, :k]).T,
        "you cut before the map; the first new number needs all old ones.",
    ),
    (
        lambda q, c, w, k: truncate(q @ w, k) @ truncate(c, k).T,
        "only one side was mapped; queries and corpus need the same map.",
    ),
    (
        lambda q, c, w, k: (unit(q) @ w)[:, :k] @ (unit(c) @ w)[:, :k].T,
        "normalise after the cut, not before it.",
    ),
    (
        lambda q, c, w, k: small_scores(q, c, w.T, k),
        "the map is transposed: new = old @ weight.",
    ),
]


@register(
    lesson=10,
    answer=small_scores,
    expects="a function small_scores(queries, corpus, weight, k) -> (q, n) array of cosines",
    why="Map with all D numbers, then cut, then normalise, and the same for both sides.",
    hints=[
        "The map needs all D old numbers to make the first new one.",
        "new = old @ weight for queries AND corpus; then new[:, :k]; then length 1.",
        "truncate(queries @ weight, k) @ truncate(corpus @ weight, k).T",
    ],
    wrong_answers=[Wrong(mistake, says=words[:25]) for mistake, words in MAP_MISTAKES]
    + [Wrong(lambda q, c, w, k: small_scores(c, q, w, k), says="shape")],
)
def scores_after_the_map(answer):
    """Check with a rotation; vectors of different lengths."""
    rng = np.random.default_rng(10)
    queries, corpus = rng.normal(size=(3, 6)), rng.normal(size=(5, 6)) * 4
    weight = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    for k in (2, 4):
        case = queries, corpus, weight, k
        got = answer(*case)
        problem = compare_arrays(got, small_scores(*case), atol=1e-4)
        if problem is None:
            continue
        for mistake, words in MAP_MISTAKES:
            if compare_arrays(got, mistake(*case), atol=1e-4) is None:
                return words
        return f"at k = {k}: {problem}"
    return None


# -------------------------------------------------------------------------------- what to choose


def best_at(scores, k):
    """The name of the method with the highest score at k."""
    return max(scores, key=lambda name: scores[name][k])


def _best_retention(scores, k):
    return max(scores, key=lambda name: scores[name][k] / scores[name][max(scores[name])])


@register(
    lesson=10,
    answer=best_at,
    expects="a function best_at(scores, k) -> the name of a method",
    why="Retention compares a model with itself; users get the score.",
    hints=[
        "scores[name][k] is a score. Do you need any other number?",
        "Dividing by the full-size score rewards a method for being bad at full size.",
        "max(scores, key=lambda name: scores[name][k])",
    ],
    wrong_answers=[
        Wrong(_best_retention, says="retention"),
        Wrong(lambda scores, k: best_at(scores, max(scores["fine-tuned"])), says="full size"),
        Wrong(lambda scores, k: min(scores, key=lambda name: scores[name][k]), says="lowest"),
        Wrong(lambda scores, k: max(s[k] for s in scores.values()), says="name"),
    ],
)
def choice_at_a_size(answer):
    """Check on made-up scores in which best score, retention and full size disagree."""
    scores = {
        "raw": {32: 0.60, 384: 0.84},
        "rotated": {32: 0.79, 384: 0.84},
        "fine-tuned": {32: 0.78, 384: 0.86},
        "head": {32: 0.77, 384: 0.80},
    }
    got = answer({name: dict(curve) for name, curve in scores.items()}, 32)
    if got not in scores:
        return f"return the name of a method, one of {', '.join(scores)}; got {got!r}."
    if got == "rotated":
        return None
    shown = f"with 32 numbers {got} has {scores[got][32]:.2f} and rotated has 0.79"
    reasons = {
        "head": "it has the highest retention only because its full size is poor",
        "fine-tuned": "it is the best at full size, but that is not what you store",
        "raw": "it is the lowest",
    }
    return f"{shown}: {reasons[got]}."
