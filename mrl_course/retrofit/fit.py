"""From vectors to a head: sample, PCA, the rotation, the choice, the report."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from mrl_course.arguments import (
    check_count,
    check_dims,
    check_number,
    check_seed,
    check_weights,
    default_dims,
)
from mrl_course.errors import WrongKind, WrongValue
from mrl_course.evaluation import TEMPERS, tempered_scales
from mrl_course.ranking import unit_rows
from mrl_course.retrofit.head import HELD_NUMBERS, Head, Held
from mrl_course.retrofit.judging import Field, make_report, mean_interval
from mrl_course.retrofit.recipe import Lesson, Linear, Rotation, Side, learn
from mrl_course.retrofit.rows import (
    MOST_JUDGES,
    Collected,
    Moments,
    Split,
    collect,
    open_source,
    principal_axes,
    split,
)

TURNED = (512, 256, 128, 64)  # principal directions that may be turned among themselves
_ROWS_A_DIRECTION = 3  # that are fitted, at least
_SHARES = ((1.0, 1.0), (1.0, 0.5), (1.0, 0.0), (0.7, 0.7), (0.7, 0.0))
"""Of the way from PCA to what was learnt: among the directions of the prefixes, and to others."""
_WEIGHT = 0.75  # power of k: the divergences of the small prefixes are the largest
_SURE = 2.0  # standard errors by which a rotation must beat PCA
_EVEN = 0.005  # overlap that may be lost at a single size
_LEAST_SPREAD = 1e-9  # of directions; the rounding of float32 alone gives less
_CORPUS = 20_000  # rows that are searched: in a thinner crowd more neighbours are kept
_TRIES = 3
_MANY_A_NUMBER = 5  # rows for each number, from which on a tenth of them changes no PCA
_TEMPERING = 200, 4_000
_FINGERPRINT = 4_096


@dataclass(frozen=True)
class Settings:
    """The arguments of ``fit_head``, checked."""

    rotation: bool
    turned: int | None
    steps: int
    batch_size: int
    lr: float
    perplexity: float
    weights: Sequence[float] | None
    label_share: float
    seed: int
    progress: bool
    device: torch.device


def fit_head(
    embeddings: ArrayLike | tuple[ArrayLike, ...] | Iterable[ArrayLike],
    dims: Sequence[int] | None = None,
    *,
    rotation: bool = True,
    turned: int | None = None,
    steps: int = 200,
    batch_size: int = 384,
    lr: float = 4e-3,
    perplexity: float = 12.0,
    weights: Sequence[float] | None = None,
    label_share: float = 0.0,
    held_out: float | int | None = None,
    seed: int = 0,
    progress: bool = True,
    model: str = "",
    device: str | torch.device | None = None,
) -> Head:
    """Rotate and distil: fit a rotation after which the prefixes of these vectors are good.

    It starts as PCA and turns the first m principal directions among themselves, so that the
    span of every longer prefix stays that of PCA. How large m may be, and whether anything is
    turned at all, held-out rows decide: where nothing that was learnt is clearly better, the head
    is PCA, or nothing at all, and its report says so. Fit it on vectors like those you will
    search. How the settings compare is recorded in ``data/results/retrofit_providers.json``.

    Args:
        embeddings: (n, D) vectors of one model, n >= 40, in memory or memory-mapped; or an
            iterator of such blocks, for example one for each file. No labels and no texts are
            needed. Or a tuple of arrays, (queries, documents), where row i of one belongs to row i
            of the other: then queries are compared with documents. A third array holds a hard
            negative for each query. All rows are read once, and go into the mean and the
            covariance; the rotation is learnt on at most 50,000 of them (fewer above 1,342
            numbers), drawn at random.
        dims: prefix sizes to be good at, in any order; by default those of ``DEFAULT_DIMS`` below
            D, and D.
        rotation: True keeps all cosines of the full vectors as they are. False allows any linear
            map, which may change the full vectors too; sensible with labels only.
        turned: m, how many principal directions are turned; by default the largest of 512, 256,
            128, 64 (and D, if that is smaller) that held-out rows approve of. 0 is PCA.
        steps: of Adam.
        batch_size: vectors compared with each other in a step; at most half of the rows.
        lr: learning rate; falls to 0 along a cosine.
        perplexity: how many neighbours the teacher looks at: the softmax of its cosines is made so
            sharp that the mean perplexity of a row is this, whatever the model's cosines are.
        weights: of the prefixes, one per dim; by default the dims to the power 0.75, since
            the divergences of the small ones are the largest.
        label_share: with pairs, the share of the loss that is InfoNCE, which takes "row i belongs
            to row i" as a label. 0, no labels, is distillation alone; 1 with ``rotation=False``
            is the usual Matryoshka loss on a linear head.
        held_out: share (below 1) or number of rows that make the report, 20 to half of them; by
            default a tenth, and at least 20. They search the fitted rows. Another tenth, from 100
            rows on, makes the choice. No vector stands on two sides. Where there are fewer
            than five rows for each number, these join the PCA after the report was made.
        seed: of the split and the batches.
        progress: show a bar on a terminal (never in a notebook or a file).
        model: name of the model, kept in the head and in its file.
        device: of torch, for the learning; by default the CPU. The head is on the CPU.

    Returns:
        The :class:`Head`. Interrupting (Ctrl-C) returns the best map so far.

    Raises:
        WrongKind, WrongValue: wrong shapes, NaN, fewer than 40 distinct directions, arguments out
            of range.

    Rows of zeros are left out, and vectors that come again count once; a warning says how many.
    """
    began = time.perf_counter()
    settings = Settings(
        rotation=rotation,
        turned=turned,
        steps=check_count("steps", steps),
        batch_size=check_count("batch_size", batch_size, least=2),
        lr=check_number("lr", lr, above=0),
        perplexity=check_number("perplexity", perplexity, above=1),
        weights=weights,
        label_share=check_number("label_share", label_share, least=0, most=1),
        seed=check_seed(seed),
        progress=progress,
        device=_device(device),
    )
    source = open_source(embeddings)
    full_dim, arrays = source.full_dim, len(source.arrays)
    dims = check_dims(default_dims(full_dim) if dims is None else dims, full_dim)
    check_weights(weights, len(dims), training=True)
    if settings.label_share and arrays == 1:
        raise WrongValue("labels come from pairs: give (queries, documents), or label_share=0")
    if turned is not None and check_count(
        "turned", turned, 0, full_dim, "the numbers of an embedding"
    ):
        if turned <= min(dims):
            raise WrongValue(
                f"turned must be above the smallest of dims, {min(dims)}, to change anything; got "
                f"{turned}"
            )
    collected = collect(source, settings.seed)
    sides = split(collected.parts, held_out, settings.seed)
    _trained(dims, weights, full_dim if rotation else full_dim + 1)
    with settings.device:  # what torch's optimiser makes by itself goes there, too
        head = _Fit(collected, sides, dims, settings).run()
    head.model, head.seconds = model, time.perf_counter() - began
    return head


def _device(device: str | torch.device | None) -> torch.device:
    try:
        chosen = torch.device("cpu" if device is None else device)
        if chosen.type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.zeros(1, device=chosen)
    except TypeError:
        raise WrongKind(f"device must be a name such as 'cpu' or 'cuda', got {device!r}") from None
    except (RuntimeError, AssertionError) as error:
        first = str(error).split("\n")[0]
        raise WrongValue(f"torch cannot compute on the device {device!r}: {first}") from None
    return chosen


def _trained(
    dims: Sequence[int], weights: Sequence[float] | None, below: int
) -> tuple[list[int], list[float]]:
    """The prefixes that can change, ascending, with their weights."""
    given = check_weights(weights, len(dims), training=True)
    if weights is None:
        given = [k**_WEIGHT for k in dims]
    pairs = [(k, w) for k, w in sorted(zip(dims, given, strict=True)) if k < below and w]
    if not pairs:
        raise WrongValue(
            f"a rotation changes nothing at the full size {below}; give smaller dims too"
        )
    least = min(w for _, w in pairs)
    return [k for k, _ in pairs], [w / least for _, w in pairs]


@dataclass
class _Option:
    """One map, and what the rows that choose say of it.

    ``gains`` is (sizes, q), overlap above PCA's.
    """

    method: str
    turned: int = 0
    turn: np.ndarray | None = None
    gains: np.ndarray | None = None

    @property
    def gain(self) -> float:
        """The mean over queries and sizes."""
        return 0.0 if self.gains is None else float(self.gains.mean())

    @property
    def clear(self) -> bool:
        """Surely better than PCA on the whole, and at no size likely to be worse."""
        if self.gains is None:
            return False
        mean, low, _ = mean_interval(self.gains.mean(axis=0), _SURE)
        worst = min(mean_interval(gains, 1.0)[1] for gains in self.gains)
        return mean > 0 and low >= 0 and worst >= -_EVEN


class _Fit:
    """One fit: what all its steps need."""

    def __init__(
        self, collected: Collected, sides: Split, dims: list[int], settings: Settings
    ) -> None:
        """Take the rows apart and find the principal axes."""
        self.settings, self.dims, self.numbers = settings, dims, collected.numbers
        self.sides = sides
        self.fit, self.choose, self.judge = (
            [part[rows] for part in collected.parts]
            for rows in (sides.fit, sides.choose, sides.judge)
        )
        self.full_dim = self.fit[0].shape[1]
        self.sampled = collected.moments is not None
        self.axes, self.variances = self._axes(collected.moments)
        self.interrupted, self.history = False, pd.DataFrame()
        self.court = self._field(self.choose, MOST_JUDGES, _CORPUS)

    def _axes(self, moments: Moments | None) -> tuple[np.ndarray, np.ndarray]:
        """PCA of the rows that are fitted, or of all rows but those that choose and judge."""
        whole = moments is None
        moments = moments or Moments(self.full_dim)
        for part in self.fit if whole else [*self.choose, *self.judge]:
            moments.add(part, 1 if whole else -1)
        few = np.concatenate(self.fit) if whole and moments.count < self.full_dim else None
        self.mean = moments.mean.astype(np.float32)
        axes, variances = principal_axes(moments, few)
        if variances.sum() < _LEAST_SPREAD:
            raise WrongValue(
                "all vectors point in one direction, up to rounding: nothing can be learnt"
            )
        return axes, variances

    def _field(self, side: list[np.ndarray], queries: int, corpus: int) -> Field | None:
        """Some held-out rows that search the fitted ones; with pairs, their own documents too."""
        if not len(side[0]):
            return None
        some = np.sort(
            np.random.default_rng(self.settings.seed).permutation(len(side[0]))[:queries]
        )
        own = [x[some] for x in side[1:]]
        searched = np.concatenate([*own, *[x[:corpus] for x in self.fit[1:] or self.fit]])
        one, two = (self._tensor(x) for x in (side[0][some], searched))
        return Field(one, two, paired=bool(own), numbers=some)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.settings.device)

    def run(self) -> Head:
        """Learn, choose, judge."""
        chosen = self._chosen()
        weight, turn = self.axes, chosen.turn
        if chosen.method == "raw":
            weight = np.eye(self.full_dim, dtype=np.float32)
        elif turn is not None:
            weight = self.axes.copy()
            front = self.axes[:, : chosen.turned].astype(np.float64)
            weight[:, : chosen.turned] = front @ turn
        head = Head(weight, list(self.dims), history=self.history, interrupted=self.interrupted)
        head.method, head.turned, head.mean = chosen.method, chosen.turned, self.mean
        some = np.concatenate([part[:_FINGERPRINT] for part in self.fit])
        head.energy = np.square(unit_rows(some @ weight)).mean(axis=0).astype(np.float32)
        head.variances = self.variances.astype(np.float32)
        head.temper = self._temper()
        if chosen.method in ("pca", "rotated"):
            head.turn = np.zeros((0, 0)) if turn is None else turn
            head.turn = head.turn.astype(np.float32)
        self._judge(head)
        self._complete(head)
        return head

    def _complete(self, head: Head) -> None:
        """Few rows: let those that chose and judged into the PCA, and turn its axes likewise.

        Where there are not many more rows than numbers, a PCA without a fifth of them keeps less
        of the neighbours of that fifth. What was learnt is carried over to the new axes by the
        rotation that brings those nearest to the old ones (Procrustes).
        """
        rows = np.concatenate([*self.fit, *self.choose, *self.judge])
        if head.turn is None or self.sampled or len(rows) >= _MANY_A_NUMBER * self.full_dim:
            return
        moments, size = Moments(self.full_dim).add(rows), len(head.turn)
        axes, variances = principal_axes(moments, rows)
        if size:
            left, _, right = np.linalg.svd(axes[:, :size].T @ self.axes[:, :size])
            head.turn = (left @ right @ head.turn).astype(np.float32)
        head.weight = axes.copy()
        head.weight[:, :size] = axes[:, :size].astype(np.float64) @ head.turn
        head.variances, head.mean = variances.astype(np.float32), moments.mean.astype(np.float32)
        new = unit_rows(rows[:_FINGERPRINT] @ head.weight)
        head.energy = np.square(new).mean(axis=0).astype(np.float32)

    # ----------------------------------------------------------------------- learn and choose

    def _chosen(self) -> _Option:
        """What the rows that choose like best: the vectors as they are, PCA, or PCA turned."""
        settings, best = self.settings, _Option("pca")
        if not settings.rotation:
            free = self._learnt(self.full_dim)[0]
            return free if self.court is None or free.gain > 0 else best
        if settings.turned is not None:
            return self._learnt(settings.turned)[0] if settings.turned else best
        if self.court is None:
            return best
        for size in self._sizes():
            clear = [option for option in self._learnt(size, _SHARES) if option.clear]
            if clear:
                best = max(clear, key=lambda option: option.gain)
            if clear or self.interrupted:
                break
        raw = _Option("raw", gains=self._shares(None) - self._shares(self.axes))
        return raw if raw.gain > best.gain else best

    def _sizes(self) -> list[int]:
        """How many directions may be turned, the most first: each wants some rows."""
        most = min(self.full_dim, len(self.fit[0]) // _ROWS_A_DIRECTION)
        sizes = {m for m in TURNED if m < self.full_dim} | {min(self.full_dim, TURNED[0])}
        return sorted((m for m in sizes if min(self.dims) < m <= most), reverse=True)[:_TRIES]

    def _learnt(self, size: int, shares: Sequence[tuple[float, ...]] = ((),)) -> list[_Option]:
        """Turn the first ``size`` directions, and look at shares of the way."""
        settings = self.settings
        dims, weights = _trained(self.dims, settings.weights, size + (not settings.rotation))
        lesson = Lesson(dims, weights, settings.perplexity, settings.label_share)
        kind = Rotation if settings.rotation else Linear
        change = kind(size, max(dims), settings.device)
        train, unseen = self._side(self.fit, size), self._side(self.choose or self.judge, size)
        self.history, self.interrupted = learn(
            change, lesson, train, unseen,
            steps=settings.steps, batch_size=settings.batch_size, lr=settings.lr,
            seed=settings.seed, progress=settings.progress,
        )  # fmt: skip
        turns = [change.whole(*share).cpu().numpy() for share in shares]
        method = "rotated" if settings.rotation else "linear"
        return [_Option(method, size, turn, self._gains(size, turn)) for turn in turns]

    def _side(self, parts: list[np.ndarray], size: int) -> Side:
        full = [self._tensor(x) for x in parts]
        front = self._tensor(self.axes[:, :size])
        return Side(full, [x @ front for x in full])

    def _gains(self, size: int, turn: np.ndarray) -> np.ndarray | None:
        """(sizes, q): overlap, or with labels the own document found, above that of PCA."""
        if self.court is None:
            return None
        turned = self.axes.copy()
        turned[:, :size] = self.axes[:, :size] @ turn.astype(np.float32)
        return self._shares(turned) - self._shares(self.axes)

    def _shares(self, change: np.ndarray | None) -> np.ndarray:
        """(sizes, q) by the rows that choose."""
        assert self.court is not None
        dims = [k for k in self.dims if k < self.full_dim or not self.settings.rotation]
        return self.court.shares(change, dims, own=bool(self.settings.label_share))

    def _temper(self) -> dict[int, float]:
        """The exponent of tempered PCA for each size, as held-out rows like it best."""
        dims = [k for k in self.dims if k < self.full_dim]
        ground = self._field(self.choose, *_TEMPERING)
        if ground is None:
            return dict.fromkeys(dims, 0.5)
        found = [
            ground.shares(self.axes * tempered_scales(self.variances, power), dims).mean(axis=1)
            for power in TEMPERS
        ]
        return dict(
            zip(sorted(dims), np.array(TEMPERS)[np.argmax(found, axis=0)].tolist(), strict=True)
        )

    # ---------------------------------------------------------------------------------- judge

    def _judge(self, head: Head) -> None:
        """The report on rows that took no part, and what ``suggest`` needs of them."""
        ground = self._field(self.judge, MOST_JUDGES, _CORPUS)
        assert ground is not None  # split made sure
        ground.numbers = self.numbers[self.sides.judge][ground.numbers]
        head.outside = head.share_outside(self.judge[0])
        head.report = make_report(
            ground, head.methods(self.axes), self.dims, first_words=[self._verdict(head)]
        )
        most = max(HELD_NUMBERS // self.full_dim - len(ground.queries), 1)
        head.held = Held(ground.queries.cpu().numpy(), ground.corpus[:most].cpu().numpy().copy())

    def _verdict(self, head: Head) -> str:
        """What was chosen, and why."""
        rows = f"{len(self.fit[0]):,} distinct vectors"
        if head.method == "raw":
            return (
                f"Do nothing: on held-out rows neither PCA nor a rotation learnt from {rows} finds "
                "more than the vectors as they are; this head changes nothing."
            )
        if head.method == "pca" and self.settings.turned == 0:
            return "This head is PCA, as asked for (turned=0)."
        if head.method == "pca" and (self.court is None or not self._sizes()):
            return f"Use PCA here: {rows} are too few to learn more from; this head is PCA."
        if head.method == "pca":
            return (
                f"Use PCA here: nothing learnt from {rows} is clearly better on held-out rows; "
                "this head is PCA. More vectors may change that."
            )
        return f"Use this head: {head.turned} principal directions turned, learnt from {rows}."
