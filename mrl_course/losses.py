r"""The loss, from scratch: InfoNCE, and the same loss over several prefixes at once.

InfoNCE asks, for each anchor, "which of these candidates is your positive?" and is the
cross-entropy of the answer. With anchors :math:`a_i`, candidates :math:`c_j` (the positive of
anchor i is candidate i), cosine similarity and a scale s:

.. math:: L = -\frac1B \sum_i \log \frac{e^{s\cos(a_i, c_i)}}{\sum_j e^{s\cos(a_i, c_j)}}

The Matryoshka loss is the weighted **sum** of that loss over prefixes of the vectors:
:math:`\sum_k w_k\, L(a_{1:k}, c_{1:k})` (Kusupati et al., 2022, https://arxiv.org/abs/2205.13147;
for contrastive models as in Sentence Transformers' ``MatryoshkaLoss``). A sum, not a mean: with
five prefixes of weight 1 the value is about five times that of one.

*Distillation* replaces the question "which is your positive?" by "how does the teacher spread its
attention over the candidates?": each prefix learns the teacher's whole softmax, so no labels are
needed. The teacher may be the full vector itself.

The paper's own loss, for classification, is in :mod:`mrl_course.classification`; its names can be
imported from here, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from mrl_course.arguments import check_dims, check_number, check_weights, warn_zero_rows
from mrl_course.classification import NestedClassifier, nested_cross_entropy
from mrl_course.errors import WrongKind, WrongValue

__all__ = [
    "NestedClassifier",
    "info_nce",
    "matryoshka_info_nce",
    "nested_cross_entropy",
    "nested_distillation",
    "nested_info_nce",
    "nested_losses",
    "similarity_softmax",
]

_NEVER = -1e30  # a logit whose softmax is 0 at any scale, without the NaN that 0 * -inf gives
_SAFE_SCALE = 50.0  # exp(50) times a million candidates is within float32
_SAFE = 1e15  # squares of numbers up to this, and down to one over it, are no problem in float32


def info_nce(anchors: Tensor, candidates: Tensor, scale: float = 20.0) -> Tensor:
    """Cross-entropy of finding each anchor's own positive among all candidates, by cosine.

    Args:
        anchors: (B, D) float tensor.
        candidates: (M, D) float tensor, M >= B. Row i is the positive of anchor i; all other
            rows are its negatives: the other positives of the batch, then any hard negatives.
        scale: multiplies the cosine (which lies in [-1, 1]) before the softmax; 1 / temperature.

    Returns:
        A scalar: the mean over anchors, between 0 and about log(M) + 2 * scale.

    Raises:
        WrongKind, WrongValue: wrong shapes or types, M < B, NaN or infinite numbers, scale <= 0.

    A row of zeros has cosine 0 with everything and gradient 0; a warning counts such rows. Half
    precision is computed in float32. So it is in all losses of this module.
    """
    anchors, candidates, scale = _checked_pair(anchors, candidates, scale)
    return _info_nce(anchors, candidates, scale)


@overload
def matryoshka_info_nce(
    anchors: Tensor,
    candidates: Tensor,
    dims: Sequence[int],
    weights: Sequence[float] | None = None,
    scale: float = 20.0,
    *,
    return_per_dim: Literal[False] = False,
) -> Tensor: ...
@overload
def matryoshka_info_nce(
    anchors: Tensor,
    candidates: Tensor,
    dims: Sequence[int],
    weights: Sequence[float] | None = None,
    scale: float = 20.0,
    *,
    return_per_dim: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def matryoshka_info_nce(
    anchors: Tensor,
    candidates: Tensor,
    dims: Sequence[int],
    weights: Sequence[float] | None = None,
    scale: float = 20.0,
    *,
    return_per_dim: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The Matryoshka loss as it is taught: a loop over prefixes, one ``info_nce`` for each.

    Args:
        anchors: (B, D) float tensor.
        candidates: (M, D) float tensor, as in :func:`info_nce`.
        dims: prefix sizes in any order, each 1 <= k <= D. Warns if D is missing.
        weights: one number >= 0 per entry of ``dims``; all 1 by default.
        scale: as in :func:`info_nce`.
        return_per_dim: also return the unweighted loss of each prefix.

    Returns:
        The scalar weighted sum; with ``return_per_dim`` the pair (sum, losses), where losses has
        shape (len(dims),) in the order of ``dims``.

    Raises:
        WrongKind, WrongValue: as :func:`info_nce`; also bad ``dims`` or ``weights``.
    """
    anchors, candidates, scale = _checked_pair(anchors, candidates, scale)
    dims, weight = _checked_sizes(anchors, dims, weights)
    losses = torch.stack([_info_nce(anchors[:, :k], candidates[:, :k], scale) for k in dims])
    total = (weight * losses).sum()
    return (total, losses) if return_per_dim else total


@overload
def nested_info_nce(
    anchors: Tensor,
    candidates: Tensor,
    dims: Sequence[int],
    weights: Sequence[float] | None = None,
    scale: float = 20.0,
    *,
    return_per_dim: Literal[False] = False,
) -> Tensor: ...
@overload
def nested_info_nce(
    anchors: Tensor,
    candidates: Tensor,
    dims: Sequence[int],
    weights: Sequence[float] | None = None,
    scale: float = 20.0,
    *,
    return_per_dim: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def nested_info_nce(
    anchors: Tensor,
    candidates: Tensor,
    dims: Sequence[int],
    weights: Sequence[float] | None = None,
    scale: float = 20.0,
    *,
    return_per_dim: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """:func:`matryoshka_info_nce` in one pass over the D numbers: same values, same gradients.

    A dot product over k numbers is the dot product over the first j plus the one over the rest,
    so each prefix only adds its own slice to the Gram matrix and to the norms of the prefix
    before it. The backward pass runs the other way: the gradient of slice j is the sum over all
    prefixes that contain it, collected from the longest to the shortest.

    It keeps one (B, M) matrix per prefix for the backward pass. Arguments, result and errors are
    those of :func:`matryoshka_info_nce`; gradients of gradients are not supported.
    """
    anchors, candidates, scale = _checked_pair(anchors, candidates, scale)
    dims, weight = _checked_sizes(anchors, dims, weights)
    total, losses = nested_losses(anchors, candidates, dims, weight, scale)
    return (total, losses) if return_per_dim else total


def nested_losses(
    anchors: Tensor,
    candidates: Tensor,
    dims: list[int],
    weight: Tensor,
    scale: float | Tensor,
    targets: Tensor | None = None,
    left_out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What :func:`nested_info_nce` computes, of arguments that were checked: for training loops.

    Args:
        anchors, candidates: float32 or float64, finite, no length beyond 1e15 or below 1e-15.
        dims: checked prefix sizes.
        weight: (len(dims),) tensor of weights.
        scale: of the cosine; or a (len(dims),) tensor, one for each prefix, that may be learnt.
        targets: (B, M) probabilities in place of "candidate i is right".
        left_out: (B, M) bool, pairs that take no part.

    Returns:
        The weighted sum, and the cross-entropy of each prefix in the order of ``dims``.
    """
    order = sorted(range(len(dims)), key=dims.__getitem__)
    place = torch.tensor(order, device=anchors.device)
    if isinstance(scale, Tensor):
        scale = scale[place]
    ascending = _NestedCrossEntropy.apply(
        anchors, candidates, tuple(dims[i] for i in order), scale, targets, left_out
    )
    losses = ascending[place.argsort()]
    return (weight * losses).sum(), losses


def similarity_softmax(
    anchors: Tensor, candidates: Tensor, scale: float = 20.0, left_out: Tensor | None = None
) -> Tensor:
    """How a full vector spreads its attention over candidates, without a gradient: the teacher.

    Args:
        anchors, candidates: (B, D) and (M, D) float tensors, any B and M.
        scale: multiplies the cosine before the softmax; larger looks at the nearest only.
        left_out: (B, M) bool, True for pairs that get probability 0, such as a row with itself.

    Returns:
        (B, M) detached probabilities; each row sums to 1.

    Raises:
        WrongKind, WrongValue: wrong shapes or types, NaN or infinite numbers, scale <= 0.
    """
    with torch.no_grad():
        anchors, candidates, scale = _checked_pair(anchors, candidates, scale, more=False)
        logits = scale * (_unit(anchors) @ _unit(candidates).T)
        _check_left_out(left_out, logits.shape)
        if left_out is not None:
            logits = logits.masked_fill(left_out, _NEVER)
        return logits.softmax(1)


@overload
def nested_distillation(
    anchors: Tensor,
    candidates: Tensor,
    targets: Tensor,
    dims: Sequence[int],
    weights: Sequence[float] | None = None,
    scale: float = 20.0,
    *,
    left_out: Tensor | None = None,
    return_per_dim: Literal[False] = False,
) -> Tensor: ...
@overload
def nested_distillation(
    anchors: Tensor,
    candidates: Tensor,
    targets: Tensor,
    dims: Sequence[int],
    weights: Sequence[float] | None = None,
    scale: float = 20.0,
    *,
    left_out: Tensor | None = None,
    return_per_dim: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def nested_distillation(
    anchors: Tensor,
    candidates: Tensor,
    targets: Tensor,
    dims: Sequence[int],
    weights: Sequence[float] | None = None,
    scale: float = 20.0,
    *,
    left_out: Tensor | None = None,
    return_per_dim: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Pull the similarity softmax of every prefix to given probabilities, in one pass over D.

    The loss of a prefix is the mean over anchors of the Kullback-Leibler divergence
    :math:`\sum_j t_{ij} \log (t_{ij} / p_{ij})` from the targets t to the prefix's softmax p, 0 if
    they agree. The total is their weighted sum.

    Args:
        anchors, candidates: (B, D) and (M, D) float tensors; unlike in :func:`info_nce` any B and
            M, and row i of one need not belong to row i of the other.
        targets: (B, M) probabilities, each row sums to 1, as from :func:`similarity_softmax`; no
            gradient flows into them.
        dims, weights, scale, return_per_dim: as in :func:`matryoshka_info_nce`.
        left_out: (B, M) bool, True for pairs that take no part; their targets must be 0.

    Raises:
        WrongKind, WrongValue: as :func:`matryoshka_info_nce`, except for M < B; targets of another
            shape, below 0, or rows that do not sum to 1.
    """
    anchors, candidates, scale = _checked_pair(anchors, candidates, scale, more=False)
    dims, weight = _checked_sizes(anchors, dims, weights)
    if not isinstance(targets, Tensor):
        raise WrongKind(f"targets must be a torch tensor, got {type(targets).__name__}")
    if not targets.is_floating_point():
        raise WrongKind(f"targets must hold floats, got {targets.dtype}")
    targets = targets.detach().to(anchors.dtype)
    _check_left_out(left_out, targets.shape)
    if targets.shape != (len(anchors), len(candidates)):
        raise WrongValue(
            f"targets must have shape {(len(anchors), len(candidates))}, got {tuple(targets.shape)}"
        )
    sums = targets.sum(1)
    if not targets.min() >= 0 or not torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        raise WrongValue("each row of targets must be probabilities that sum to 1")
    _, cross = nested_losses(anchors, candidates, dims, weight, scale, targets, left_out)
    losses = cross - torch.special.entr(targets).sum(1).mean()
    total = (weight * losses).sum()
    return (total, losses) if return_per_dim else total


def _check_left_out(left_out: Tensor | None, shape: torch.Size) -> None:
    if left_out is None:
        return
    if not isinstance(left_out, Tensor) or left_out.dtype != torch.bool:
        kind = left_out.dtype if isinstance(left_out, Tensor) else type(left_out).__name__
        raise WrongKind(f"left_out must be a tensor of booleans, got {kind}")
    if left_out.shape != shape:
        raise WrongValue(f"left_out must have shape {tuple(shape)}, got {tuple(left_out.shape)}")


def _info_nce(anchors: Tensor, candidates: Tensor, scale: float) -> Tensor:
    similarity = _unit(anchors) @ _unit(candidates).T  # (B, M)
    own_positive = torch.arange(len(anchors), device=anchors.device)
    return F.cross_entropy(scale * similarity, own_positive)


def _unit(rows: Tensor) -> Tensor:
    """Rows of length 1. A zero row stays zero and gets no gradient: it has no direction."""
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows * torch.where(length > 0, length, torch.inf).reciprocal()


class _NestedCrossEntropy(torch.autograd.Function):
    """Cross-entropies of all prefixes, shape (len(dims),), for strictly ascending dims.

    Without targets the right answer of anchor i is candidate i. Softmax minus target is the
    gradient of a prefix's logits, so the forward pass leaves just that for the backward pass,
    which has then one addition a prefix to do beside its products of matrices.
    """

    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        candidates: Tensor,
        dims: tuple[int, ...],
        scale: float | Tensor,
        targets: Tensor | None,
        left_out: Tensor | None,
    ) -> Tensor:
        scales = scale.tolist() if isinstance(scale, Tensor) else [scale] * len(dims)
        gram = anchors.new_zeros(len(anchors), len(candidates))
        square_a, square_c = anchors.new_zeros(len(anchors)), candidates.new_zeros(len(candidates))
        logits, kept = torch.empty_like(gram), gram.new_empty(len(dims), *gram.shape)
        saved, losses, of_scales, start = [], [], [], 0
        for k, scale_k, d_logits in zip(dims, scales, kept, strict=True):
            a, c = anchors[:, start:k], candidates[:, start:k]
            gram.addmm_(a, c.T)  # <a_{1:k}, c_{1:k}> from the prefix before
            square_a = square_a + a.square().sum(1)
            square_c = square_c + c.square().sum(1)
            # 1 / prefix norms; 0 for a zero prefix, whose cosines and gradients are 0 then
            inv_a, inv_c = (torch.where(s > 0, s.rsqrt(), 0.0) for s in (square_a, square_c))
            torch.mul(gram, inv_c, out=logits).mul_((scale_k * inv_a)[:, None])
            if left_out is not None:
                logits.masked_fill_(left_out, _NEVER)
            losses.append(_cross_entropy(logits, targets, scale_k, d_logits))
            # How much of its own direction each row loses because it is divided by its norm.
            pull = logits.mul_(d_logits)
            by_row = pull.sum(1)
            saved += [inv_a, inv_c, by_row * inv_a.square(), pull.sum(0) * inv_c.square()]
            of_scales.append(by_row.sum() / scale_k)
            start = k
        ctx.save_for_backward(anchors, candidates, kept, torch.stack(of_scales), *saved)
        ctx.dims, ctx.scales = dims, scales
        return torch.stack(losses)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides names
        ctx: Any, grad_losses: Tensor
    ) -> tuple[Tensor | None, ...]:
        anchors, candidates, kept, of_scales, *saved = ctx.saved_tensors
        grad_a, grad_c = torch.empty_like(anchors), torch.empty_like(candidates)
        # Sums over all prefixes that contain the current slice.
        d_gram = anchors.new_zeros(len(anchors), len(candidates))
        own_a, own_c = anchors.new_zeros(len(anchors)), candidates.new_zeros(len(candidates))
        part = torch.empty_like(d_gram)
        for j in reversed(range(len(ctx.dims))):
            inv_a, inv_c, pull_a, pull_c = saved[4 * j : 4 * j + 4]
            share = grad_losses[j] / len(anchors)
            own_a += share * pull_a
            own_c += share * pull_c
            torch.mul(kept[j], inv_c, out=part)
            d_gram.addcmul_(part, (share * ctx.scales[j] * inv_a)[:, None])
            cut = slice(ctx.dims[j - 1] if j else 0, ctx.dims[j])
            a, c = anchors[:, cut], candidates[:, cut]
            torch.mm(d_gram, c, out=grad_a[:, cut]).addcmul_(own_a[:, None], a, value=-1)
            torch.mm(d_gram.T, a, out=grad_c[:, cut]).addcmul_(own_c[:, None], c, value=-1)
        grad_a[:, ctx.dims[-1] :] = 0  # numbers that no prefix contains
        grad_c[:, ctx.dims[-1] :] = 0
        learnt = grad_losses * of_scales / len(anchors) if ctx.needs_input_grad[3] else None
        return grad_a, grad_c, None, learnt, None, None


def _cross_entropy(logits: Tensor, targets: Tensor | None, scale: float, out: Tensor) -> Tensor:
    """The mean cross-entropy of (B, M) logits from -scale to scale; ``out``: softmax - target."""
    # exp of a small scale overflows nowhere; for others the largest logit of a row becomes 0.
    peak = logits.amax(1) if scale > _SAFE_SCALE else logits.new_zeros(len(logits))
    torch.exp(logits - peak[:, None] if scale > _SAFE_SCALE else logits, out=out)
    total = out.sum(1)
    out *= total.reciprocal()[:, None]
    if targets is None:
        right = logits.diagonal()
        out.diagonal().sub_(1)
    else:
        right = (targets * logits).sum(1)
        out -= targets
    return (total.log() + peak - right).mean()


def _checked_pair(
    anchors: Tensor, candidates: Tensor, scale: float, more: bool = True
) -> tuple[Tensor, Tensor, float]:
    """Both arrays in float32 or wider, of lengths whose squares are no problem, and the scale."""
    scale = check_number("scale", scale, above=0)
    checked, zero = [], []
    for name, emb in (("anchors", anchors), ("candidates", candidates)):
        if not isinstance(emb, Tensor):
            raise WrongKind(f"{name} must be a torch tensor, got {type(emb).__name__}")
        if emb.ndim != 2 or emb.numel() == 0:
            raise WrongValue(f"{name} must have shape (n, D), n and D >= 1, got {tuple(emb.shape)}")
        if not emb.is_floating_point():
            raise WrongKind(f"{name} must hold floats, got {emb.dtype}; call .float() first")
        emb = emb.float() if emb.element_size() < 4 else emb
        length = torch.linalg.vector_norm(emb.detach(), dim=1)
        if length.min() > 1 / _SAFE and length.max() < _SAFE:  # no NaN passes this either
            zero.append(torch.zeros_like(length, dtype=torch.bool))
        else:
            emb, zeros = _rescued(name, emb)
            zero.append(zeros)
        checked.append(emb)
    wide = torch.promote_types(checked[0].dtype, checked[1].dtype)
    checked = [emb.to(wide) for emb in checked]
    if anchors.shape[1] != candidates.shape[1]:
        raise WrongValue(
            f"anchors have {anchors.shape[1]} numbers each and candidates {candidates.shape[1]}; "
            "both must come from the same model"
        )
    if more and len(candidates) < len(anchors):
        raise WrongValue(
            f"{len(anchors)} anchors need at least as many candidates (row i is the positive of "
            f"anchor i), got {len(candidates)}"
        )
    for name, rows in zip(("anchors", "candidates"), zero, strict=True):
        if rows.any():
            warn_zero_rows(name, rows.cpu().numpy())
    return checked[0], checked[1], scale


def _rescued(name: str, emb: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of odd lengths, divided by their largest number where they must be; which are zero."""
    peak = torch.linalg.vector_norm(emb.detach(), torch.inf, dim=1)  # keeps NaN
    if not torch.isfinite(peak).all():
        row = int((~torch.isfinite(peak)).nonzero()[0])
        raise WrongValue(f"{name} holds NaN or infinite numbers, first in row {row}")
    zero = peak == 0
    peak = torch.where(zero, 1.0, peak)
    if peak.max() > _SAFE or peak.min() < 1 / _SAFE:
        emb = emb / peak[:, None]  # a cosine does not depend on lengths
    return emb, zero


def _checked_sizes(
    anchors: Tensor, dims: Sequence[int], weights: Sequence[float] | None
) -> tuple[list[int], Tensor]:
    sizes = check_dims(dims, anchors.shape[1], warn_missing_full=True)
    return sizes, anchors.new_tensor(check_weights(weights, len(sizes)))
