"""Exercises of lesson 11: parameters of heads, tied heads, a loss on any device, the cascade."""

import numpy as np
import torch
import torch.nn.functional as F

from mrl_course.check.engine import Wrong, compare_arrays, register
from mrl_course.classification import cascade_score, cascade_stops, nested_cross_entropy

# ------------------------------------------------------------------------------- how many numbers


def head_parameters(num_classes, dims, tied):
    """Parameters of nested heads: weights and biases, separate or tied."""
    return num_classes * (max(dims) + 1) if tied else num_classes * (sum(dims) + len(dims))


@register(
    lesson=11,
    answer=head_parameters,
    expects="a function head_parameters(num_classes, dims, tied) -> an integer",
    why="With sizes that double, separate heads cost nearly twice the largest head alone.",
    hints=[
        "A linear classifier on k numbers has num_classes * k weights and num_classes biases.",
        "Separate: add that up over dims. Tied: one weight of max(dims) columns, and one bias.",
        "The sizes may come in any order, so dims[-1] need not be the largest.",
    ],
    wrong_answers=[
        Wrong(lambda c, dims, tied: c * max(dims) if tied else c * sum(dims), says="biases"),
        Wrong(
            lambda c, dims, tied: c * (dims[-1] + 1 if tied else sum(dims) + len(dims)),
            says="any order",
        ),
        Wrong(lambda c, dims, tied: c * (sum(dims) + len(dims)), says="tied"),
        Wrong(
            lambda c, dims, tied: c * (max(dims) + len(dims) if tied else sum(dims) + len(dims)),
            says="one bias",
        ),
        Wrong(lambda c, dims, tied: c * (sum(dims) + 1), says="separate"),
        Wrong(lambda c, dims, tied: [c], says="one integer"),
    ],
)
def parameters_of_the_heads(answer):
    """Check both kinds, with sizes that ascend and sizes that do not."""
    for classes, dims in ((3, [2, 4, 8]), (10, [16, 4]), (7, [5])):
        for tied in (False, True):
            got, want = answer(classes, dims, tied), head_parameters(classes, dims, tied)
            if isinstance(got, bool) or not isinstance(got, (int, np.integer)):
                return "return one integer."
            if got == want:
                continue
            case = (
                f"for {classes} classes, dims = {dims} and {'tied' if tied else 'separate'} heads"
            )
            shown = f"{case} you return {got}, expected {want}"
            if got == classes * (max(dims) if tied else sum(dims)):
                return f"{shown}: the biases are missing."
            if tied and got == classes * (max(dims) + len(dims)):
                return f"{shown}: tied heads share one bias."
            if tied and got == classes * (dims[-1] + 1):
                return f"{shown}: the sizes may come in any order."
            return f"{shown}."
    return None


# --------------------------------------------------------------------------------- tied by hand


def tied_logits(emb, weight, bias, dims):
    """Logits of tied heads: (B, D), (C, D), (C,), sizes in any order -> (len(dims), B, C)."""
    return torch.stack([emb[:, :k] @ weight[:, :k].T + bias for k in dims])


def _stacked(logits_of):
    return lambda emb, weight, bias, dims: torch.stack(
        [logits_of(emb, weight, bias, k) for k in dims]
    )


@register(
    lesson=11,
    answer=tied_logits,
    expects="a function tied_logits(emb, weight, bias, dims) -> (len(dims), B, C) tensor",
    why="One matrix serves every prefix; that is all there is to MRL-E.",
    hints=[
        "The prefix of the embeddings is emb[:, :k]. Which part of weight (C, D) belongs to it?",
        "The first k columns, weight[:, :k]; a row of weight belongs to a class, not to a number.",
        "torch.stack([emb[:, :k] @ weight[:, :k].T + bias for k in dims])",
    ],
    wrong_answers=[
        Wrong(_stacked(lambda emb, w, b, k: emb[:, :k] @ w[:, :k].T), says="bias"),
        Wrong(_stacked(lambda emb, w, b, k: emb @ w.T + b), says="all numbers"),
        Wrong(_stacked(lambda emb, w, b, k: emb[:, -k:] @ w[:, -k:].T + b), says="last"),
        Wrong(_stacked(lambda emb, w, b, k: emb[:, :k] @ w[:, -k:].T + b), says="not the logits"),
        Wrong(lambda emb, w, b, dims: tied_logits(emb, w, b, sorted(dims)), says="order of dims"),
        Wrong(lambda emb, w, b, dims: [tied_logits(emb, w, b, [k])[0] for k in dims], says="stack"),
        Wrong(lambda emb, w, b, dims: tied_logits(emb, w, b, dims).mT, says="shape"),
    ],
)
def tied_heads(answer):
    """Check three sizes that are not in order."""
    generator = torch.Generator().manual_seed(11)
    emb, weight = (torch.randn(n, 6, generator=generator) for n in (5, 3))
    bias, dims = torch.randn(3, generator=generator), [4, 6, 2]
    got, want = answer(emb, weight, bias, list(dims)), tied_logits(emb, weight, bias, dims)
    if not isinstance(got, torch.Tensor):
        return "return one tensor: torch.stack puts the logits of all sizes together."
    if got.shape != want.shape:
        return f"the result has shape {tuple(got.shape)}, expected {tuple(want.shape)}."
    known = {
        "the bias is missing.": tied_logits(emb, weight, 0 * bias, dims),
        "every size uses all numbers; cut emb and weight.": tied_logits(emb, weight, bias, [6] * 3),
        "you take the last numbers, not the first.": _stacked(
            lambda emb, w, b, k: emb[:, -k:] @ w[:, -k:].T + b
        )(emb, weight, bias, dims),
        "the sizes are sorted; return them in the order of dims.": want[[2, 0, 1]],
    }
    for message, wrong in known.items():
        if torch.allclose(got, wrong, atol=1e-5):
            return message
    if not torch.allclose(got, want, atol=1e-5):
        return f"these are not the logits for k = {dims[0]}: check which columns of weight you use."
    return None


# ------------------------------------------------------------------------------ the loss on a GPU


def weighted_loss(logits, labels, weights):
    """The paper's loss, (m, B, C), (B,), m numbers -> a scalar on the device of the logits."""
    losses = torch.stack([F.cross_entropy(one, labels) for one in logits])
    return (losses.new_tensor(weights) * losses).sum()


def _losses(logits, labels):
    return torch.stack([F.cross_entropy(one, labels) for one in logits])


@register(
    lesson=11,
    answer=weighted_loss,
    expects="a function weighted_loss(logits, labels, weights) -> a scalar tensor, on any device",
    why="The weights now live where the losses live, and the loss runs on a GPU.",
    hints=[
        "Which tensor in this function is made from plain numbers? On which device is it made?",
        "torch.tensor(...) makes a tensor on the CPU unless told otherwise.",
        "losses.new_tensor(weights) has the device and the type of losses.",
    ],
    wrong_answers=[
        Wrong(
            lambda logits, labels, weights: (torch.tensor(weights) * _losses(logits, labels)).sum(),
            says="device",
        ),
        Wrong(
            lambda logits, labels, weights: (
                torch.tensor(weights) * _losses(logits, labels).cpu()
            ).sum(),
            says="device",
        ),
        Wrong(
            lambda logits, labels, weights: (
                torch.tensor(weights, device="cpu").to(logits.device) * _losses(logits, labels)
            ).mean(),
            says="mean",
        ),
        Wrong(lambda logits, labels, weights: _losses(logits, labels).sum(), says="weights"),
        Wrong(
            lambda logits, labels, weights: weighted_loss(logits, labels, weights).item(),
            says="tensor",
        ),
        Wrong(
            lambda logits, labels, weights: weighted_loss(logits.detach(), labels, weights),
            says="gradient",
        ),
        Wrong(lambda logits, labels, weights: _losses(logits, labels)[0], says="instead of"),
    ],
    solution_text="The package's nested_cross_entropy makes its weights with new_tensor, too:",
)
def loss_on_any_device(answer):
    """Check values on the CPU, then shapes on torch's meta device, which needs no GPU."""
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(3, 4, 5, generator=generator).requires_grad_()
    labels = torch.tensor([0, 4, 2, 2])
    weights = [1.0, 0.5, 2.0]
    got, want = answer(logits, labels, weights), nested_cross_entropy(logits, labels, weights)
    if not isinstance(got, torch.Tensor) or got.ndim:
        return "return a scalar tensor, not a Python number: the training needs its gradient."
    value, right = got.item(), want.item()
    if abs(value - right) > 1e-4:
        if abs(value - right / 3) < 1e-4:
            return "that is the mean over the sizes; the paper's loss is the sum."
        if abs(value - nested_cross_entropy(logits, labels).item()) < 1e-4:
            return "the weights are not used."
        return f"the loss is {value:.3f} instead of {right:.3f}."
    if not got.requires_grad:
        return "the loss has no gradient: do not detach the logits."
    # A meta tensor has a shape and a device, and no numbers. Mixed with a CPU tensor it fails, as
    # a GPU tensor would.
    result = answer(logits.detach().to("meta"), labels.to("meta"), weights)
    if not result.is_meta:
        return f"with logits on another device, the loss is on the device {result.device}."
    return None


# ------------------------------------------------------------------------------------ the cascade


@register(
    lesson=11,
    answer=cascade_stops,
    expects="a function stops(confidence, thresholds) -> (n,) row numbers",
    why="Easy examples stop early, and everybody stops somewhere.",
    hints=[
        "confidence >= thresholds[:, None] is an (m, n) array of bools. Where is its first True?",
        "On bools, argmax(axis=0) finds the first True. What does it give if there is none?",
        "Set the last row to True before argmax: who gets there stops, sure or not.",
    ],
    wrong_answers=[
        Wrong(lambda c, t: (c >= t[:, None]).argmax(axis=0), says="nowhere sure"),
        Wrong(lambda c, t: len(c) - 1 - (c >= t[:, None])[::-1].argmax(axis=0), says="last prefix"),
        Wrong(lambda c, t: c.argmax(axis=0), says="surest"),
        Wrong(
            lambda c, t: np.where((c > t[:, None]).any(axis=0), (c > t[:, None]).argmax(axis=0), 3),
            says="exactly",
        ),
        Wrong(lambda c, t: (c < t[:, None]).argmax(axis=0), says="first prefix"),
        Wrong(lambda c, t: cascade_stops(c, t) + 1, says="count from 0"),
        Wrong(lambda c, t: np.array([2, 4, 8, 16])[cascade_stops(c, t)], says="row numbers"),
    ],
)
def where_to_stop(answer):
    """Check one example for each case: early, late, on the threshold, never sure."""
    thresholds = np.array([0.9, 0.8, 0.7, 0.0])
    confidence = np.array(
        [
            [0.95, 0.30, 0.90, 0.20, 0.10, 0.50],
            [0.50, 0.85, 0.40, 0.30, 0.20, 0.60],
            [0.75, 0.95, 0.75, 0.10, 0.72, 0.40],
            [0.99, 0.99, 0.99, -0.1, 0.90, 0.80],
        ]
    )
    got, want = np.asarray(answer(confidence, thresholds)), cascade_stops(confidence, thresholds)
    if got.shape != want.shape or got.dtype.kind not in "iu":
        return f"return one of the row numbers 0 to 3 for each of the {want.size} examples."
    if (got == want).all():
        return None
    if (got == want + 1).all():
        return "the rows count from 0; yours are one too high."
    if got.max() > 3:
        return "return row numbers of confidence, not sizes."
    if (got == confidence.argmax(axis=0)).all():
        return "you take the surest prefix; to know it one has to read all of them."
    if (got[[0, 1, 3, 4, 5]] == want[[0, 1, 3, 4, 5]]).all():
        return "who reaches the threshold exactly stops as well: compare with >=."
    if (got[[0, 1, 2, 4, 5]] == want[[0, 1, 2, 4, 5]]).all():
        return (
            "an example that is nowhere sure must stop at the last row; yours stops at the first."
        )
    last = len(confidence) - 1 - (confidence >= thresholds[:, None])[::-1].argmax(axis=0)
    if (got == last).all():
        return "that is the last prefix that is sure; the first one is cheaper."
    return f"expected the first prefix that is sure, {want.tolist()}; yours: {got.tolist()}."


def accuracy_and_cost(stops, right, dims):
    """Share of right answers, and mean of the numbers read, as a pair."""
    return tuple(cascade_score(stops, right, dims))


@register(
    lesson=11,
    answer=accuracy_and_cost,
    expects="a function accuracy_and_cost(stops, right, dims) -> (accuracy, expected dims)",
    why="A fair bill: every number is read once, and accuracy is counted where the stop was.",
    hints=[
        "right[stops, np.arange(n)] picks from each column the row of its stop.",
        "An example that stops at k = 8 after trying 2 and 4 has read 8 numbers, not 14.",
        "(right[stops, np.arange(len(stops))].mean(), np.array(dims)[stops].mean())",
    ],
    wrong_answers=[
        Wrong(
            lambda stops, right, dims: (
                accuracy_and_cost(stops, right, dims)[0],
                np.cumsum(dims)[stops].mean(),
            ),
            says="twice",
        ),
        Wrong(
            lambda stops, right, dims: (
                right.any(axis=0).mean(),
                accuracy_and_cost(stops, right, dims)[1],
            ),
            says="oracle",
        ),
        Wrong(
            lambda stops, right, dims: (right[-1].mean(), np.array(dims)[stops].mean()),
            says="last prefix",
        ),
        Wrong(
            lambda stops, right, dims: (accuracy_and_cost(stops, right, dims)[0], stops.mean()),
            says="row numbers",
        ),
        Wrong(lambda stops, right, dims: accuracy_and_cost(stops, right, dims)[::-1], says="first"),
        Wrong(lambda stops, right, dims: accuracy_and_cost(stops, right, dims)[0], says="pair"),
        Wrong(lambda stops, right, dims: (0.1, 0.2), says="expected"),
    ],
)
def bill_of_a_cascade(answer):
    """Check on examples where every known miscount gives another pair."""
    dims = [2, 4, 8, 16]
    right = np.array(
        [
            [1, 0, 0, 0, 1, 0, 0, 1],
            [1, 1, 0, 0, 0, 0, 1, 1],
            [1, 1, 1, 0, 1, 0, 0, 0],
            [1, 0, 1, 0, 1, 0, 1, 1],
        ],
        dtype=bool,
    )
    stops = np.array([0, 1, 2, 3, 1, 0, 2, 3])
    got, want = answer(stops, right, list(dims)), accuracy_and_cost(stops, right, dims)
    if not isinstance(got, (tuple, list)) or len(got) != 2:
        return "return a pair: accuracy, then expected dims."
    if compare_arrays(list(got), list(want), atol=1e-6) is None:
        return None
    if np.allclose(got[::-1], want):
        return "the accuracy comes first."
    accuracy, cost = (float(number) for number in got)
    if abs(cost - np.cumsum(dims)[stops].mean()) < 1e-9:
        return "you count numbers twice: the prefix of 4 begins with the 2 that were read before."
    if abs(cost - stops.mean()) < 1e-9:
        return "that is the mean of the row numbers; look the sizes up in dims."
    if abs(accuracy - right.any(axis=0).mean()) < 1e-9:
        return "that is the oracle's accuracy; count who is right where the stop was."
    if abs(accuracy - right[-1].mean()) < 1e-9:
        return "that is the accuracy of the last prefix; count who is right where the stop was."
    return f"you return ({accuracy:.3f}, {cost:.3f}), expected ({want[0]:.3f}, {want[1]:.3f})."
