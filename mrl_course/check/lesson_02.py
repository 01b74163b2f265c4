"""Exercises of lesson 02: hard negatives, and two bugs of Matryoshka losses."""

import inspect
import warnings
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mrl_course.check.engine import Wrong, register
from mrl_course.losses import info_nce, matryoshka_info_nce


def loss_with_hard_negatives(
    anchors: Tensor, positives: Tensor, negatives: Tensor, scale: float = 20.0
) -> Tensor:
    """InfoNCE in which each anchor chooses among all positives and all hard negatives."""
    return info_nce(anchors, torch.cat([positives, negatives]), scale)


def weighted_sum(losses: Tensor, weights: Sequence[float] | None = None) -> Tensor:
    """The weighted sum of losses, on their device and with their gradient; weights default to 1."""
    if weights is None:
        return losses.sum()
    return (losses.new_tensor(weights) * losses).sum()


# ---------------------------------------------------------------------- known wrong answers


def _dot_products(anchors, positives, negatives, scale=20.0):
    logits = scale * anchors @ torch.cat([positives, negatives]).T
    return F.cross_entropy(logits, torch.arange(len(anchors)))


def _own_negative_only(anchors, positives, negatives, scale=20.0):
    own = F.cosine_similarity(anchors, negatives)[:, None]
    cos = F.normalize(anchors) @ F.normalize(positives).T
    return F.cross_entropy(scale * torch.cat([cos, own], dim=1), torch.arange(len(anchors)))


HARD_NEGATIVE_MISTAKES: list[tuple[Callable, str]] = [
    (
        lambda a, p, n, scale=20.0: info_nce(a, p, scale),
        "the hard negatives are not among the candidates.",
    ),
    (
        lambda a, p, n, scale=20.0: info_nce(a, torch.cat([n, p]), scale),
        "the hard negatives come first, so the loss takes them for the right answers.",
    ),
    (
        _own_negative_only,
        "each anchor sees its own hard negative only; those of the other anchors are candidates "
        "too, 2 B in all.",
    ),
    (
        lambda a, p, n, scale=20.0: info_nce(a, p, scale) + info_nce(a, n, scale),
        "the second of these two losses pulls each anchor towards its hard negative.",
    ),
    (
        lambda a, p, n, scale=20.0: loss_with_hard_negatives(a, p, n),
        "the argument scale has no effect.",
    ),
    (
        lambda a, p, n, scale=20.0: len(a) * loss_with_hard_negatives(a, p, n, scale),
        "that is the sum over anchors; InfoNCE is their mean.",
    ),
    (_dot_products, "you use dot products; divide the vectors by their lengths first."),
]


def _cut_what_was_cut(anchors, candidates, dims, weights, scale=20.0):
    total = 0
    for k, w in zip(dims, weights, strict=True):
        anchors, candidates = anchors[:, :k], candidates[:, :k]
        total = total + w * info_nce(anchors, candidates, scale)
    return total


def _rows(anchors, candidates, dims, weights, scale=20.0):
    pairs = zip(dims, weights, strict=True)
    return sum(w * info_nce(anchors[:k], candidates[:k], scale) for k, w in pairs)


def _normalised_before_the_cut(anchors, candidates, dims, weights, scale=20.0):
    a, c, right = F.normalize(anchors), F.normalize(candidates), torch.arange(len(anchors))
    pairs = zip(dims, weights, strict=True)
    return sum(w * F.cross_entropy(scale * a[:, :k] @ c[:, :k].T, right) for k, w in pairs)


LOOP_MISTAKES: list[tuple[Callable, str]] = [
    (
        _cut_what_was_cut,
        "a size after a smaller one gets vectors that are already cut: `anchors` and `candidates` "
        "are overwritten in the loop. Slicing past the end of a row is no error in Python.",
    ),
    (
        _rows,
        "`x[:k]` takes the first k rows, that is k sentences; the first k numbers of each row are "
        "`x[:, :k]`.",
    ),
    (
        _normalised_before_the_cut,
        "the vectors are normalised before the cut only; each prefix must be divided by its own "
        "length.",
    ),
    (
        lambda a, c, dims, weights, scale=20.0: (
            matryoshka_info_nce(a, c, dims, weights, scale) / len(dims)
        ),
        "that is the mean over sizes; the Matryoshka loss is the sum.",
    ),
    (
        lambda a, c, dims, weights, scale=20.0: matryoshka_info_nce(a, c, dims, None, scale),
        "the weights have no effect.",
    ),
    (
        lambda a, c, dims, weights, scale=20.0: matryoshka_info_nce(
            a, c, sorted(dims, reverse=True), weights, scale
        ),
        "the sizes are sorted and their weights are not, so a size gets the weight of another.",
    ),
    (
        lambda a, c, dims, weights, scale=20.0: matryoshka_info_nce(
            a, c, sorted(dims), weights, scale
        ),
        "the sizes are sorted and their weights are not, so a size gets the weight of another.",
    ),
]


# ------------------------------------------------------------------------------- exercises


@register(
    lesson=2,
    answer=loss_with_hard_negatives,
    expects="a function loss_with_hard_negatives(anchors, positives, negatives, scale) -> scalar "
    "tensor",
    why="A hard negative of one anchor is a free negative for all the others.",
    hints=[
        "info_nce takes any number of candidates; row i must be the positive of anchor i.",
        "torch.cat([x, y]) puts the rows of y below those of x. Which of the two must come first?",
    ],
    wrong_answers=[Wrong(mistake, says=words[:50]) for mistake, words in HARD_NEGATIVE_MISTAKES]
    + [Wrong(lambda *args: loss_with_hard_negatives(*args).item(), says="a torch tensor")],
)
def hard_negatives(answer):
    """Check values and gradients for random vectors of all lengths and an unusual scale."""
    emb = _emb(18, 8, seed=2)

    def call(function):
        return function(*emb.split(6), 5.0)

    return _compare(call, answer, loss_with_hard_negatives, HARD_NEGATIVE_MISTAKES, emb)


@register(
    lesson=2,
    answer=matryoshka_info_nce,
    expects="a function repaired_loop(anchors, candidates, dims, weights, scale) -> scalar tensor",
    why="Each prefix is cut from the whole vector, so the order of dims cannot matter.",
    hints=[
        "Print anchors.shape inside the loop, for both orders of dims.",
        "In the second round, what does the name `anchors` stand for?",
        "Give the cut vectors names of their own, and leave `anchors` and `candidates` whole.",
    ],
    wrong_answers=[Wrong(mistake, says=words[:50]) for mistake, words in LOOP_MISTAKES],
)
def matryoshka_loop(answer):
    """Check values and gradients for falling, rising and mixed orders of the sizes."""
    emb = _emb(18, 12, seed=3)
    for dims in ([12, 6, 2], [2, 6, 12], [6, 12, 2]):

        def call(function, dims=dims):
            return function(emb[:6], emb[6:], dims, [1.0, 0.5, 2.0], 5.0)

        if problem := _compare(call, answer, matryoshka_info_nce, LOOP_MISTAKES, emb):
            return f"for dims = {dims}, {problem}"
    return None


@register(
    lesson=2,
    answer=weighted_sum,
    expects="a function repaired_sum(losses, weights=None) -> scalar tensor",
    why="A tensor that is made inside a function must be made where its partners are.",
    hints=[
        "On which device does torch.tensor(...) make its result? On which are the losses?",
        "torch.tensor has an argument device=, and each tensor knows its own: losses.device.",
        "losses.new_tensor(weights) makes a tensor of the same type on the same device.",
    ],
    wrong_answers=[
        Wrong(
            lambda losses, weights=None: (
                (torch.ones_like(losses) if weights is None else torch.tensor(weights))
                .mul(losses)
                .sum()
            ),
            says="on another device",
        ),
        Wrong(lambda losses, weights=None: weighted_sum(losses.cpu(), weights), says="another"),
        Wrong(lambda losses, weights=None: losses.sum(), says="weights have no effect"),
        Wrong(
            lambda losses, weights=None: torch.tensor(
                sum(
                    w * loss.item()
                    for w, loss in zip(weights or [1.0] * len(losses), losses, strict=True)
                )
            ),
            says="no gradient",
        ),
        Wrong(lambda losses, weights=None: weighted_sum(losses, weights) / 3, says="6.5"),
        Wrong(lambda losses, weights=None: losses.new_tensor(weights) @ losses, says="None"),
    ],
)
def weights_on_the_device(answer):
    """Check the sum and its gradient on the CPU, then run on ``meta``, which holds no numbers."""
    losses = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    for weights in ([2.0, 0.0, 1.5], None):
        want = weighted_sum(losses, weights)
        start = f"for losses [1, 2, 3] and weights = {weights}"
        got = answer(losses, weights)
        if problem := _scalar_problem(got):
            return f"{start}, {problem}"
        if not torch.isclose(got, want):
            if torch.isclose(got, losses.sum()):
                return f"{start} you return {got:g}, the plain sum: the weights have no effect."
            return f"{start} you return {got:g}, expected {want:g}."
    # Unwrapped: the wrapper compares arguments afterwards, and meta has no numbers to compare.
    try:
        total = inspect.unwrap(answer)(torch.ones(3, device="meta"), [2.0, 0.0, 1.5])
    except Exception as error:
        return (
            "on the CPU it is right, but with losses on another device it raised "
            f"{type(error).__name__} ({error})."
        )
    if not isinstance(total, Tensor) or total.device.type != "meta":
        return "the result must stay on another device if the losses are there."
    return None


# -------------------------------------------------------------------------------- checking


def _emb(rows: int, dim: int, seed: int) -> Tensor:
    """Random rows of very different lengths, so that a missing normalisation shows."""
    emb = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
    return (emb * torch.linspace(0.3, 1.5, rows)[:, None]).requires_grad_()


def _compare(call, answer, key, mistakes, emb) -> str | None:
    """Compare value and gradient of the answer with the key's, and name a known mistake."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a mistake may leave out the full size
        got, want = call(answer), call(key)
        if problem := _scalar_problem(got):
            return problem
        if not torch.isclose(got, want, rtol=1e-4, atol=1e-5):
            for mistake, words in mistakes:
                if torch.isclose(got, call(mistake), rtol=1e-4, atol=1e-5):
                    return f"you return {got:.4f}, expected {want:.4f}: {words}"
            return f"you return {got:.4f}, expected {want:.4f}."
    gradients = [torch.autograd.grad(value, emb)[0] for value in (got, want)]
    if not torch.allclose(*gradients, rtol=1e-3, atol=1e-5):
        return "the value is right and its gradient is not: is a part of it detached?"
    return None


def _scalar_problem(got) -> str | None:
    if not isinstance(got, Tensor):
        return f"you return {type(got).__name__}; return a torch tensor, so that it has a gradient."
    if got.ndim:
        return f"you return a tensor of shape {tuple(got.shape)}; the loss is one number."
    if not got.requires_grad:
        return "the result has no gradient: .item(), .detach() or torch.tensor(...) cuts it off."
    return None
