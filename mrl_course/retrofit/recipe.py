"""The learning itself: which rotation, what loss. Tensors in, a map out.

The teacher is the similarity softmax of the full vectors in a batch. Its sharpness is not given but
found: the scale at which its rows have a given *perplexity*, that is, spread their attention over
so many neighbours (as in t-SNE, van der Maaten & Hinton 2008,
https://jmlr.org/papers/v9/vandermaaten08a.html). Cosines of one model lie between 0.7 and 0.9,
those of another between 0 and 0.5; the number of neighbours that matter does not depend on that.
The pupils, one for each prefix, learn their own scales.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from mrl_course.errors import WrongKind, WrongValue
from mrl_course.losses import nested_losses

EVERY = 25  # steps between two looks at rows that are not fitted
_RATE_OF_SCALES = 2e-2
_NEVER = -1e4  # a logit whose softmax is 0
_SCALES = 1.0, 1e6  # the teacher's scale is looked for between these


def cayley(free: torch.Tensor) -> torch.Tensor:
    r"""A rotation from any square matrix, by Cayley's formula.

    With :math:`S = (A - A^\top) / 2`, which is skew, :math:`(I + S)^{-1} (I - S)` is a rotation
    (https://en.wikipedia.org/wiki/Cayley_transform). So an optimiser may change A freely; A = 0
    gives the identity.

    Args:
        free: (D, D) float tensor A.

    Returns:
        (D, D) tensor Q with :math:`Q^\top Q = I` and determinant 1; gradients flow into ``free``.

    Raises:
        WrongKind, WrongValue: no float tensor, or not a square matrix.
    """
    if not isinstance(free, torch.Tensor) or not free.is_floating_point():
        kind = free.dtype if isinstance(free, torch.Tensor) else type(free).__name__
        raise WrongKind(f"free must be a float tensor, got {kind}")
    if free.ndim != 2 or free.shape[0] != free.shape[1]:
        raise WrongValue(f"free must be a square matrix, got shape {tuple(free.shape)}")
    skew = (free - free.T) / 2
    eye = torch.eye(len(free), dtype=free.dtype, device=free.device)
    return torch.linalg.solve(eye + skew, eye - skew)


class Rotation:
    """A rotation of the first ``size`` numbers among themselves; none at the start.

    Only its first ``most`` columns matter to the prefixes. With the skew matrix in blocks,

        S = [[A, -B'], [B, 0]],   X = (I + A + B'B)^-1,

    they are [2X - I; -2BX], so that a step inverts a matrix of ``most`` numbers a side, whatever
    ``size`` and D are. (The lower right block would turn the other columns among themselves.)
    """

    def __init__(self, size: int, most: int, device: torch.device) -> None:
        """Start with no rotation."""
        self.size, self.most = size, most
        self.inner = torch.zeros(most, most, device=device, requires_grad=True)
        self.outer = torch.zeros(size - most, most, device=device, requires_grad=True)

    def parameters(self) -> list[torch.Tensor]:
        """What the optimiser changes."""
        return [self.inner, self.outer]

    def columns(self) -> torch.Tensor:
        """(size, most): the first columns of the rotation."""
        eye = torch.eye(self.most, dtype=self.inner.dtype, device=self.inner.device)
        skew = (self.inner - self.inner.T) / 2
        solved = torch.linalg.inv(eye + skew + self.outer.T @ self.outer)
        return 2 * torch.cat([solved - eye / 2, -self.outer @ solved])

    def whole(self, inner_share: float = 1.0, outer_share: float = 1.0) -> torch.Tensor:
        """(size, size) float64 rotation.

        With an ``outer_share`` below 1 the first ``most`` directions turn less towards the others
        (with 0 they keep their span), with an ``inner_share`` less among themselves.
        """
        inner = inner_share * self.inner.detach().double()
        outer = outer_share * self.outer.detach().double()
        free = inner.new_zeros(self.size, self.size)
        free[: self.most, : self.most] = inner
        free[self.most :, : self.most] = 2 * outer  # cayley takes half of what is skew in it
        return cayley(free)


class Linear:
    """Any linear map of all numbers."""

    def __init__(self, size: int, most: int, device: torch.device) -> None:
        """Start with the map that changes nothing."""
        self.size, self.most = size, most
        self.free = torch.eye(size, device=device).requires_grad_()

    def parameters(self) -> list[torch.Tensor]:
        """What the optimiser changes."""
        return [self.free]

    def columns(self) -> torch.Tensor:
        """(size, most): the first columns of the map."""
        return self.free[:, : self.most]

    def whole(self) -> torch.Tensor:
        """(size, size) float64 map."""
        return self.free.detach().double()


@dataclass
class Side:
    """The arrays of one set of rows: one, or queries, documents (and negatives).

    Attributes:
        full: (n, D) unit rows each, for the teacher.
        front: (n, size) each, the first principal numbers, for the pupils.
    """

    full: list[torch.Tensor]
    front: list[torch.Tensor]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.full[0])

    def take(self, rows: torch.Tensor) -> Side:
        """Some of the rows."""
        return Side([x[rows] for x in self.full], [x[rows] for x in self.front])


@dataclass
class Lesson:
    """What is learnt: prefixes, their weights, how many neighbours the teacher looks at."""

    dims: list[int]
    weights: list[float]
    perplexity: float
    label_share: float = 0.0
    scale: float = field(default=1.0, init=False)

    def set_scale(self, batch: Side) -> None:
        """Find the teacher's scale on one batch, by bisection: sharper means fewer neighbours."""
        one, two, itself = _who_meets_whom(batch.full)
        cosines = one @ two.T
        target = min(self.perplexity, cosines.shape[1] / 2)
        low, high = _SCALES
        for _ in range(40):
            middle = (low * high) ** 0.5
            if _perplexity(cosines * middle, itself) > target:
                low = middle
            else:
                high = middle
        self.scale = (low * high) ** 0.5

    def targets(self, full: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The teacher's probabilities, and which pairs take no part (a row with itself)."""
        one, two, itself = _who_meets_whom(full)
        logits = one @ two.T * self.scale
        if itself is not None:
            logits.fill_diagonal_(_NEVER)
        return logits.softmax(1), itself

    def divergences(
        self,
        front: list[torch.Tensor],
        targets: tuple[torch.Tensor, torch.Tensor | None],
        columns: torch.Tensor,
        log_scales: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(total, one divergence per prefix) of rows after a map."""
        probable, itself = targets
        new = [x @ columns for x in front]
        anchors, candidates = new[0], torch.cat(new[1:] or new)
        weight = log_scales.new_tensor(self.weights)
        scales = log_scales.exp()
        _, cross = nested_losses(anchors, candidates, self.dims, weight, scales, probable, itself)
        each = cross - torch.special.entr(probable).sum(1).mean()
        total = (weight * each).sum()
        if self.label_share:
            labels, _ = nested_losses(anchors, candidates, self.dims, weight, scales)
            total = (1 - self.label_share) * total + self.label_share * labels
        return total, each.detach()

    def pull(self, rows: Side, columns: torch.Tensor, log_scales: torch.Tensor) -> None:
        """Put the gradient of :meth:`divergences` where the optimiser looks for it.

        For one array it is written out: of the two halves of each symmetric matrix one is enough,
        and no value of the loss is needed. That is three times as fast.
        """
        targets, itself = self.targets(rows.full)
        if itself is None or self.label_share:
            total, _ = self.divergences(rows.front, (targets, itself), columns, log_scales)
            total.backward()
            return
        new = rows.front[0] @ columns
        with torch.no_grad():
            pulled, log_scales.grad = self._gradient(new, targets, log_scales)
        new.backward(pulled)

    def _gradient(
        self, new: torch.Tensor, targets: torch.Tensor, log_scales: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the weighted divergences with respect to (B, most) rows and to the log scales."""
        pulled, of_scales = torch.zeros_like(new), torch.zeros_like(log_scales)
        for i, (k, weight) in enumerate(zip(self.dims, self.weights, strict=True)):
            prefix, scale = new[:, :k], float(log_scales[i].exp())
            length = torch.linalg.vector_norm(prefix, dim=1, keepdim=True).clamp_min(1e-30)
            unit = prefix / length
            logits = (unit * scale) @ unit.T
            logits.fill_diagonal_(_NEVER)
            wrong = logits.softmax(1).sub_(targets)  # 0 on the diagonal
            of_scales[i] = torch.dot(wrong.flatten(), logits.flatten()) * (weight / len(new))
            both = (wrong + wrong.T) @ unit
            both -= (both * unit).sum(1, keepdim=True) * unit  # a length changes no cosine
            pulled[:, :k] += both * (scale * weight / len(new)) / length
        return pulled, of_scales


def _who_meets_whom(
    full: list[torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Rows that choose, rows they choose among, and the pairs to leave out."""
    if len(full) > 1:
        return full[0], torch.cat(full[1:]), None
    itself = torch.eye(len(full[0]), dtype=torch.bool, device=full[0].device)
    return full[0], full[0], itself


def _perplexity(logits: torch.Tensor, itself: torch.Tensor | None) -> float:
    """The mean over rows of exp(entropy): over how many candidates a row spreads itself."""
    if itself is not None:
        logits = logits.masked_fill(itself, _NEVER)
    return float(torch.special.entr(logits.softmax(1)).sum(1).exp().mean())


def learn(
    change: Rotation | Linear,
    lesson: Lesson,
    train: Side,
    unseen: Side,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    seed: int,
    progress: bool,
) -> tuple[pd.DataFrame, bool]:
    """Fit ``change`` in place.

    Args:
        change: the map; both sides hold its ``size`` first numbers in ``front``.
        lesson: what is learnt; its scale is set here.
        train: rows to fit.
        unseen: rows that are looked at now and then, for the history.
        steps, batch_size, lr, seed, progress: as in ``fit_head``.

    Returns:
        The divergences of the unseen rows by step, and whether Ctrl-C came; the map is then the
        one until there.
    """
    device = train.full[0].device
    batch_size = min(batch_size, max(2, len(train) // 2))
    generator = torch.Generator(device="cpu").manual_seed(seed)
    batches = _batches(len(train), batch_size, generator)
    lesson.set_scale(train.take(next(batches).to(device)))
    start = torch.full((len(lesson.dims),), float(np.log(lesson.scale / 2)), device=device)
    log_scales = start.requires_grad_()
    settings = [
        {"params": change.parameters(), "lr": lr},
        {"params": [log_scales], "lr": _RATE_OF_SCALES},
    ]
    optimiser = torch.optim.Adam(settings)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    judged = lesson.targets(unseen.full)
    looks, interrupted = {}, False
    bar = tqdm(
        range(steps + 1), desc="rotate and distil", disable=None if progress else True, leave=False
    )
    try:
        for step in bar:
            if step % EVERY == 0 or step == steps:
                with torch.no_grad():
                    _, each = lesson.divergences(unseen.front, judged, change.columns(), log_scales)
                looks[step] = each.tolist()
            if step == steps:
                break
            rows = train.take(next(batches).to(device))
            optimiser.zero_grad()
            lesson.pull(rows, change.columns(), log_scales)
            optimiser.step()
            schedule.step()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        bar.close()
    history = pd.DataFrame.from_dict(looks, orient="index", columns=lesson.dims)
    return history.rename_axis("step"), interrupted


def _batches(n: int, batch_size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Row numbers of batches without end; a row comes again when all others have come."""
    while True:
        order = torch.randperm(n, generator=generator, device="cpu")
        yield from order.split(batch_size)[: max(1, n // batch_size)]
