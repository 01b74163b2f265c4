r"""The loss of the Matryoshka paper: one classifier per prefix, and a cascade that stops early.

Kusupati et al. (2022, https://arxiv.org/abs/2205.13147) train an encoder for classification. Each
prefix of the embedding :math:`z` gets a linear classifier, and the loss is the weighted **sum** of
their cross-entropies:

.. math:: L = \sum_k c_k \, \mathrm{CE}(W^{(k)} z_{1:k} + b^{(k)},\, y)

The heads may be *separate*, or *tied* (MRL-E in the paper): one matrix whose first k columns are
the classifier of the first k numbers.

A *cascade* reads a prefix, and goes on to the next one only if it is not sure. Its cost is counted
in numbers read. Prefixes are nested, so who stops at k has read k numbers, not the sum of all sizes
tried on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast, overload

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from mrl_course.arguments import (
    check_count,
    check_dims,
    check_list,
    check_number,
    check_numbers,
    check_weights,
)
from mrl_course.errors import WrongKind, WrongValue

# ------------------------------------------------------------------------------------ the loss


class NestedClassifier(nn.Module):
    """A linear classifier for each prefix of an embedding, on top of any encoder.

    With separate heads there is a weight (num_classes, k) and a bias (num_classes,) for each k:
    num_classes * (sum(dims) + len(dims)) parameters. With tied heads there is one weight, whose
    first k columns serve the prefix k, and **one bias** for all prefixes:
    num_classes * (max(dims) + 1) parameters. That is all a plain ``nn.Linear`` has, so the heads of
    the short prefixes are free.

    Args:
        dim: D, numbers per embedding.
        num_classes: C, at least 1.
        dims: prefix sizes in any order, each 1 <= k <= D. Warns if D is missing: then no loss
            reaches the last numbers.
        tied: one weight for all prefixes instead of one each.
        generator: draws the start, by the rule of ``nn.Linear``; torch's own by default.

    Attributes:
        dims: tuple of the sizes in the order given; the logits come in the same order.
        heads: an ``nn.Linear`` per size; if tied, a single one of max(dims) columns.

    Raises:
        WrongKind, WrongValue: a size that is no integer or out of range, bad ``dims``.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        dims: Sequence[int],
        tied: bool = False,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        """Make the heads; see the class."""
        super().__init__()
        self.dim = check_count("dim", dim)
        self.num_classes = check_count("num_classes", num_classes)
        self.dims = tuple(check_dims(dims, self.dim, warn_missing_full=True))
        self.tied = bool(tied)
        sizes = [max(self.dims)] if self.tied else self.dims
        heads = [_empty_linear(k, self.num_classes) for k in sizes]
        for head in heads:
            bound = head.in_features**-0.5
            nn.init.uniform_(head.weight, -bound, bound, generator=generator)
            nn.init.uniform_(head.bias, -bound, bound, generator=generator)
        self.heads = nn.ModuleList(heads)

    def forward(self, emb: Tensor) -> Tensor:
        """The logits of all prefixes: (B, D) embeddings -> (len(dims), B, num_classes).

        Raises:
            WrongKind, WrongValue: not a float tensor of that shape.
        """
        if not isinstance(emb, Tensor) or not emb.is_floating_point():
            kind = emb.dtype if isinstance(emb, Tensor) else type(emb).__name__
            raise WrongKind(f"emb must be a tensor of floats, got {kind}")
        if emb.ndim != 2 or emb.shape[1] != self.dim:
            raise WrongValue(f"emb must have shape (B, {self.dim}), got {tuple(emb.shape)}")
        if not self.tied:
            pairs = zip(self.dims, self.heads, strict=True)
            return torch.stack([head(emb[:, :k]) for k, head in pairs])
        # The logits of a prefix are those of the prefix before it plus those of its own slice.
        tied = cast("nn.Linear", self.heads[0])
        weight, logits, start, by_size = tied.weight, tied.bias, 0, {}
        for k in sorted(self.dims):
            logits = logits + emb[:, start:k] @ weight[:, start:k].T
            by_size[k], start = logits, k
        return torch.stack([by_size[k] for k in self.dims])

    def head(self, k: int) -> nn.Linear:
        """A copy of the classifier of one trained size: what you deploy when you have chosen k.

        Raises:
            WrongValue: no head was trained for that size.
        """
        k = check_count("k", k)
        if k not in self.dims:
            raise WrongValue(f"no head was trained for k = {k}; sizes: {list(self.dims)}")
        trained = cast("nn.Linear", self.heads[0 if self.tied else self.dims.index(k)])
        alone = _empty_linear(
            k, self.num_classes, device=trained.weight.device, dtype=trained.weight.dtype
        )
        with torch.no_grad():
            alone.weight.copy_(trained.weight[:, :k])
            alone.bias.copy_(trained.bias)
        return alone

    def extra_repr(self) -> str:
        """What ``print(model)`` says about the heads."""
        return f"dim={self.dim}, num_classes={self.num_classes}, dims={self.dims}, tied={self.tied}"


def _empty_linear(inputs: int, outputs: int, **kind: Any) -> nn.Linear:
    """A layer whose numbers are not set: those from torch's own generator are not wanted."""
    return cast("nn.Linear", nn.utils.skip_init(nn.Linear, inputs, outputs, **kind))


@overload
def nested_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    weights: Sequence[float] | None = None,
    *,
    return_per_dim: Literal[False] = False,
) -> Tensor: ...
@overload
def nested_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    weights: Sequence[float] | None = None,
    *,
    return_per_dim: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def nested_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    weights: Sequence[float] | None = None,
    *,
    return_per_dim: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The paper's loss: the weighted sum over prefixes of the mean cross-entropy.

    A sum, not a mean: m prefixes of weight 1 give about m times the loss of one.

    Args:
        logits: (m, B, C) as from :class:`NestedClassifier`.
        labels: (B,) integers from 0 to C - 1, on the same device.
        weights: one number >= 0 per prefix, in the same order; all 1 by default, as in the paper.
        return_per_dim: also return the unweighted loss of each prefix.

    Returns:
        The scalar weighted sum; with ``return_per_dim`` the pair (sum, losses), where losses has
        shape (m,).

    Raises:
        WrongKind, WrongValue: wrong shapes or types, a label that is no class, bad ``weights``.
    """
    prefixes, batch, _ = _check_logits(logits, labels)
    weight = logits.new_tensor(check_weights(weights, prefixes))  # on the device of the logits
    each = F.cross_entropy(logits.flatten(0, 1), labels.long().repeat(prefixes), reduction="none")
    losses = each.view(prefixes, batch).mean(1)
    total = (weight * losses).sum()
    return (total, losses) if return_per_dim else total


def _check_logits(logits: Tensor, labels: Tensor) -> tuple[int, int, int]:
    """The shape (m, B, C) of logits that are one, if the labels are B of C classes."""
    for name, given in (("logits", logits), ("labels", labels)):
        if not isinstance(given, Tensor):
            kind = type(given).__name__
            raise WrongKind(f"logits and labels must be torch tensors, got {name} of kind {kind}")
    if not logits.is_floating_point():
        raise WrongKind(f"logits must hold floats, got {logits.dtype}")
    if logits.ndim != 3 or logits.numel() == 0:
        raise WrongValue(
            f"logits must have shape (m, B, C), none of them 0, got {tuple(logits.shape)}"
        )
    prefixes, batch, classes = logits.shape
    if labels.shape != (batch,):
        raise WrongValue(f"labels must have shape ({batch},), got {tuple(labels.shape)}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise WrongKind(f"labels must be integers, got {labels.dtype}")
    if not labels.is_meta:  # a tensor without numbers has nothing to check
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            bad = low if low < 0 else high
            raise WrongValue(f"labels must lie between 0 and {classes - 1}, got {bad}")
    return prefixes, batch, classes


# --------------------------------------------------------------------------------- the cascade


_ANY_SIZE = 2**31  # the sizes of a cascade are those that were trained; D is not asked for


class CascadeScore(NamedTuple):
    """What a cascade achieves and costs.

    Attributes:
        accuracy: share of examples that were right where they stopped, 0 to 1.
        expected_dims: mean of the numbers read, that is of the prefix size of the stop. What an
            earlier prefix read counts once, since it is the beginning of the next one. Not counted:
            the encoder, which makes all D numbers in any case, and the work of the heads tried.
    """

    accuracy: float
    expected_dims: float


def confidence_and_right(logits: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """How sure each prefix is of its class, and whether it is right.

    Args:
        logits: (m, n, C) as from :class:`NestedClassifier`.
        labels: (n,) right classes.

    Returns:
        (m, n) float array of the largest softmax probability, above 0 and up to 1; (m, n) bool
        array, True where the class of that probability is the label.

    Raises:
        WrongKind, WrongValue: wrong shapes or types, a label that is no class.
    """
    _check_logits(logits, labels)
    sure, chosen = logits.detach().softmax(2).max(2)
    return sure.cpu().numpy(), (chosen == labels).cpu().numpy()


def tune_thresholds(confidence: ArrayLike, right: ArrayLike, slack: float = 0.0) -> np.ndarray:
    """For each prefix the smallest confidence at which one may stop, from validation data.

    Prefixes are tuned one after the other, each on the examples that went on until there. Its
    threshold is as low as possible, so that as many as possible stop, under one condition: of
    those who stop, at most the share ``slack`` is lost by not going on to the last prefix (right
    there and wrong here, less those the other way round). So on the data used for tuning the
    cascade is right at least as often as the last prefix, less ``slack``.

    Args:
        confidence: (m, n) numbers, one row per prefix, **the smallest prefix first**.
        right: (m, n) bools, whether each prefix is right.
        slack: share of those who stop that may be lost, 0 to 1.

    Returns:
        (m,) thresholds: infinity where nobody may stop, minus infinity for the last prefix, where
        all stop.

    Raises:
        WrongValue: wrong shapes, NaN, a ``slack`` outside 0 to 1.
    """
    confidence, right = _rows("confidence", confidence), _rows("right", right)
    if confidence.shape != right.shape:
        raise WrongValue(f"confidence has shape {confidence.shape} and right {right.shape}")
    slack = check_number("slack", slack, least=0, most=1)
    thresholds = np.full(len(right), np.inf)
    thresholds[-1] = -np.inf
    waiting = np.ones(right.shape[1], dtype=bool)
    for j in range(len(right) - 1):
        rows = np.flatnonzero(waiting)
        rows = rows[np.argsort(-confidence[j, rows], kind="stable")]
        lost = np.cumsum(right[-1, rows].astype(int) - right[j, rows])
        allowed = lost <= slack * np.arange(1, len(rows) + 1) + 1e-9
        sure = confidence[j, rows]
        allowed[:-1] &= sure[:-1] > sure[1:]  # who is as sure as the next one stops with it
        if allowed.any():
            thresholds[j] = sure[np.flatnonzero(allowed)[-1]]
        waiting &= confidence[j] < thresholds[j]
    return thresholds


def cascade_stops(confidence: ArrayLike, thresholds: ArrayLike) -> np.ndarray:
    """Where each example stops: the first prefix whose confidence reaches its threshold.

    Args:
        confidence: (m, n) numbers, the smallest prefix first.
        thresholds: (m,) as from :func:`tune_thresholds`; the last one is ignored, since who comes
            that far stops there.

    Returns:
        (n,) int64 row numbers, 0 to m - 1.

    Raises:
        WrongValue: shapes that do not fit, NaN.
    """
    confidence = _rows("confidence", confidence)
    thresholds = check_numbers("thresholds", thresholds)
    if thresholds.shape != (len(confidence),) or np.isnan(thresholds).any():
        raise WrongValue(
            f"{len(confidence)} prefixes need {len(confidence)} thresholds without NaN, got "
            f"{thresholds}"
        )
    stop_here = confidence >= thresholds[:, None]
    stop_here[-1] = True
    return stop_here.argmax(axis=0)


def cascade_score(stops: ArrayLike, right: ArrayLike, dims: Sequence[int]) -> CascadeScore:
    """Accuracy and expected dims of a cascade.

    Args:
        stops: (n,) row numbers, as from :func:`cascade_stops`.
        right: (m, n) bools, whether each prefix is right.
        dims: the m prefix sizes, ascending.

    Raises:
        WrongValue: shapes that do not fit, a row number that does not exist, sizes that do not
            ascend.
    """
    right, sizes = _right_and_sizes(right, dims)
    if not hasattr(stops, "dtype"):  # a list is looked at one by one: NumPy would cast it
        stops = check_list("the row numbers of stops", stops)
        stops = [check_count(f"stops[{i}], of row numbers,", x, 0) for i, x in enumerate(stops)]
    stops = check_numbers("stops", stops)
    if stops.dtype.kind not in "iu":
        raise WrongKind(f"stops must be row numbers (integers), got dtype {stops.dtype}")
    if stops.shape != right.shape[1:]:
        raise WrongValue(f"stops must be {right.shape[1]} row numbers, got shape {stops.shape}")
    outside = (stops < 0) | (stops >= len(right))
    if outside.any():
        place = int(outside.argmax())
        raise WrongValue(
            f"stops holds {stops[place]} at place {place}, but there are prefixes 0 to "
            f"{len(right) - 1}"
        )
    hit = right[stops, np.arange(len(stops))]
    return CascadeScore(float(hit.mean()), float(sizes[stops].mean()))


def oracle_score(right: ArrayLike, dims: Sequence[int]) -> CascadeScore:
    """The bound: what if somebody told each example the first prefix that gets it right?

    An example that no prefix gets right stops at the smallest; nothing is gained by going on. No
    cascade over these prefixes is right more often. Beware: with many prefixes that guess, one of
    them is right by chance, and the oracle takes it.

    Args:
        right: (m, n) bools, whether each prefix is right.
        dims: the m prefix sizes, ascending.

    Raises:
        WrongValue: as :func:`cascade_score`.
    """
    right, _ = _right_and_sizes(right, dims)
    return cascade_score(right.argmax(axis=0), right, dims)  # the first True; 0 if there is none


def _right_and_sizes(right: ArrayLike, dims: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    right = _rows("right", right)
    sizes = check_dims(dims, _ANY_SIZE)
    if len(sizes) != len(right) or sizes != sorted(sizes):
        raise WrongValue(
            f"right needs one row per size, the smallest first; got {len(right)} rows, dims {dims}"
        )
    return right, np.array(sizes)


def _rows(name: str, values: ArrayLike) -> np.ndarray:
    array = _bools(values) if name == "right" else check_numbers(name, values)
    if array.ndim != 2 or array.size == 0:
        raise WrongValue(
            f"{name} must have shape (prefixes, examples), none of them 0, got {array.shape}"
        )
    if name != "right" and np.isnan(array).any():
        prefix, example = np.argwhere(np.isnan(array))[0]
        raise WrongValue(f"{name} holds NaN, first in row {prefix}, example {example}")
    return array


def _bools(values: ArrayLike) -> np.ndarray:
    if np.ma.is_masked(values):
        raise WrongKind("right is masked in places; leave those examples out, or fill them")
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise WrongKind(f"right must be one array of bools: {error}") from None
    if array.dtype != bool:
        raise WrongKind(f"right must hold bools, got {array.dtype}; compare classes with ==")
    return array
