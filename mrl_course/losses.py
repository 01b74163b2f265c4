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

import torch
import torch.nn.functional as F
from torch import Tensor

from mrl_course.arguments import check_dims, check_weights
from mrl_course.classification import NestedClassifier, nested_cross_entropy

__all__ = [
    "NestedClassifier",
    "info_nce",
    "matryoshka_info_nce",
    "nested_cross_entropy",
    "nested_distillation",
    "nested_info_nce",
    "similarity_softmax",
]

_NEVER = -1e4  # a logit whose softmax is 0, without the NaN that 0 * -inf gives
_EPS = 1e-12  # F.normalize's own floor, so that zero rows behave alike in every version here


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
        TypeError, ValueError: wrong shapes or types, M < B, NaN or infinite numbers, scale <= 0.
    """
    _check_pair(anchors, candidates, scale)
    return _info_nce(anchors, candidates, scale)


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
        TypeError, ValueError: as :func:`info_nce`; also bad ``dims`` or ``weights``.
    """
    dims, weight = _check_nested(anchors, candidates, dims, weights, scale)
    losses = torch.stack([_info_nce(anchors[:, :k], candidates[:, :k], scale) for k in dims])
    total = (weight * losses).sum()
    return (total, losses) if return_per_dim else total


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
    dims, weight = _check_nested(anchors, candidates, dims, weights, scale)
    order = sorted(range(len(dims)), key=dims.__getitem__)
    ascending = _NestedCrossEntropy.apply(
        anchors, candidates, tuple(dims[i] for i in order), scale, None, None
    )
    position = torch.tensor(order, device=ascending.device).argsort()
    losses = ascending[position]
    total = (weight * losses).sum()
    return (total, losses) if return_per_dim else total


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
    """
    with torch.no_grad():
        logits = scale * (F.normalize(anchors, dim=1) @ F.normalize(candidates, dim=1).T)
        if left_out is not None:
            logits = logits.masked_fill(left_out, _NEVER)
        return logits.softmax(1)


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
        TypeError, ValueError: as :func:`matryoshka_info_nce`, except for M < B; targets of another
            shape, below 0, or rows that do not sum to 1.
    """
    dims, weight = _check_nested(anchors, candidates, dims, weights, scale, more=False)
    targets = targets.detach()
    if targets.shape != (len(anchors), len(candidates)):
        raise ValueError(
            f"targets must have shape {(len(anchors), len(candidates))}, got {tuple(targets.shape)}"
        )
    sums = targets.sum(1)
    if targets.min() < 0 or not torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        raise ValueError("each row of targets must be probabilities that sum to 1")
    order = sorted(range(len(dims)), key=dims.__getitem__)
    ascending = _NestedCrossEntropy.apply(
        anchors, candidates, tuple(dims[i] for i in order), scale, targets, left_out
    )
    entropy = torch.special.entr(targets).sum(1).mean()
    losses = ascending[torch.tensor(order, device=ascending.device).argsort()] - entropy
    total = (weight * losses).sum()
    return (total, losses) if return_per_dim else total


def _info_nce(anchors: Tensor, candidates: Tensor, scale: float) -> Tensor:
    similarity = F.normalize(anchors, dim=1) @ F.normalize(candidates, dim=1).T  # (B, M)
    own_positive = torch.arange(len(anchors), device=anchors.device)
    return F.cross_entropy(scale * similarity, own_positive)


class _NestedCrossEntropy(torch.autograd.Function):
    """Cross-entropies of all prefixes, shape (len(dims),), for strictly ascending dims.

    Without targets the right answer of anchor i is candidate i.
    """

    @staticmethod
    def forward(ctx, anchors, candidates, dims: tuple[int, ...], scale: float, targets, left_out):
        rows = torch.arange(len(anchors), device=anchors.device)
        gram = anchors.new_zeros(len(anchors), len(candidates))
        square_a, square_c = anchors.new_zeros(len(anchors)), candidates.new_zeros(len(candidates))
        saved, losses, start = [], [], 0
        for k in dims:
            a, c = anchors[:, start:k], candidates[:, start:k]
            gram.addmm_(a, c.T)  # <a_{1:k}, c_{1:k}> from the prefix before
            square_a = square_a + a.square().sum(1)
            square_c = square_c + c.square().sum(1)
            inv_a, inv_c = (
                s.sqrt().clamp_min(_EPS).reciprocal() for s in (square_a, square_c)
            )  # 1 / prefix norms
            logits = gram * (scale * inv_a[:, None]) * inv_c
            if left_out is not None:
                logits.masked_fill_(left_out, _NEVER)
            log_z = logits.logsumexp(1)
            right = logits[rows, rows] if targets is None else (targets * logits).sum(1)
            losses.append((log_z - right).mean())
            saved += [logits, log_z, inv_a, inv_c]
            start = k
        ctx.save_for_backward(anchors, candidates, *saved)
        ctx.dims, ctx.scale, ctx.targets = dims, scale, targets
        return torch.stack(losses)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_losses: Tensor):
        anchors, candidates, *saved = ctx.saved_tensors
        rows = torch.arange(len(anchors), device=anchors.device)
        grad_a, grad_c = torch.empty_like(anchors), torch.empty_like(candidates)
        # Sums over all prefixes that contain the current slice: d loss / d Gram matrix, and how
        # much of its own direction each row loses because it is divided by its norm.
        d_gram = anchors.new_zeros(len(anchors), len(candidates))
        own_a, own_c = anchors.new_zeros(len(anchors)), candidates.new_zeros(len(candidates))
        for j in reversed(range(len(ctx.dims))):
            logits, log_z, inv_a, inv_c = saved[4 * j : 4 * j + 4]
            d_logits = (logits - log_z[:, None]).exp_()  # softmax ...
            if ctx.targets is None:
                d_logits[rows, rows] -= 1  # ... minus the right answer
            else:
                d_logits -= ctx.targets
            d_logits *= grad_losses[j] / len(anchors)
            pull = d_logits * logits
            # F.normalize divides a row shorter than eps by eps, a constant: no such term there.
            own_a += pull.sum(1) * inv_a.square() * (inv_a < 1 / _EPS)
            own_c += pull.sum(0) * inv_c.square() * (inv_c < 1 / _EPS)
            d_gram.addcmul_(d_logits.mul_(inv_c), (ctx.scale * inv_a)[:, None])
            cut = slice(ctx.dims[j - 1] if j else 0, ctx.dims[j])
            grad_a[:, cut] = d_gram @ candidates[:, cut] - own_a[:, None] * anchors[:, cut]
            grad_c[:, cut] = d_gram.T @ anchors[:, cut] - own_c[:, None] * candidates[:, cut]
        grad_a[:, ctx.dims[-1] :] = 0  # numbers that no prefix contains
        grad_c[:, ctx.dims[-1] :] = 0
        return grad_a, grad_c, None, None, None, None


def _check_pair(anchors: Tensor, candidates: Tensor, scale: float, more: bool = True) -> None:
    for name, emb in (("anchors", anchors), ("candidates", candidates)):
        if not isinstance(emb, Tensor):
            raise TypeError(f"{name} must be a torch tensor, got {type(emb).__name__}")
        if emb.ndim != 2 or emb.numel() == 0:
            raise ValueError(f"{name} must have shape (n, D), n and D >= 1, got {tuple(emb.shape)}")
        if not emb.is_floating_point():
            raise TypeError(f"{name} must hold floats, got {emb.dtype}; call .float() first")
        if not torch.isfinite(emb.detach().sum()):  # one pass; a NaN or infinity survives a sum
            row = (~torch.isfinite(emb.detach()).all(1)).nonzero().flatten()
            if len(row):
                raise ValueError(
                    f"{name} holds NaN or infinite numbers, first in row {int(row[0])}"
                )
    if anchors.shape[1] != candidates.shape[1]:
        raise ValueError(
            f"anchors have {anchors.shape[1]} numbers each and candidates {candidates.shape[1]}; "
            "both must come from the same model"
        )
    if more and len(candidates) < len(anchors):
        raise ValueError(
            f"{len(anchors)} anchors need at least as many candidates (row i is the positive of "
            f"anchor i), got {len(candidates)}"
        )
    if not scale > 0:
        raise ValueError(f"scale must be above 0, got {scale}")


def _check_nested(
    anchors, candidates, dims, weights, scale, more: bool = True
) -> tuple[list[int], Tensor]:
    _check_pair(anchors, candidates, scale, more)
    dims = check_dims(dims, anchors.shape[1], warn_missing_full=True)
    return dims, anchors.new_tensor(check_weights(weights, len(dims)))
