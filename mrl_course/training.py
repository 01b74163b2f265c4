"""A plain, fast training loop for static models, and the *twins*: regular and Matryoshka.

All texts are turned into token ids once; a step then only gathers numbers, so that what takes
time is the mathematics and not Python.
"""

from __future__ import annotations

import copy
import heapq
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler, SequentialLR
from tqdm import tqdm

from mrl_course.arguments import (
    check_count,
    check_dims,
    check_matrix,
    check_number,
    check_seed,
    check_text,
    check_weights,
    default_dims,
    warn,
)
from mrl_course.errors import WrongKind, WrongValue
from mrl_course.losses import nested_distillation, nested_losses, similarity_softmax
from mrl_course.models import build_static_model, token_ids

COLUMNS = ("anchor", "positive", "negative")


@dataclass(frozen=True, eq=False)
class History:
    """What happened in a training: the loss of each prefix at each step.

    Attributes:
        dims: the prefix sizes trained, in the order of the columns of ``losses``.
        losses: (steps, len(dims)) float32 array of unweighted losses.
        seconds: wall-clock time of the loop (without tokenising).
        interrupted: True if the training was stopped by hand; the model keeps what it learnt.
        clipped: share of the steps whose gradient was longer than ``max_grad_norm``, 0 to 1.
    """

    dims: list[int]
    losses: np.ndarray
    seconds: float
    interrupted: bool = False
    clipped: float = 0.0

    @property
    def steps(self) -> int:
        """Number of optimiser steps made."""
        return len(self.losses)

    def to_frame(self) -> pd.DataFrame:
        """One row per step, one column per prefix size."""
        index = pd.RangeIndex(1, self.steps + 1, name="step")
        return pd.DataFrame(self.losses, index=index, columns=self.dims)


@dataclass(frozen=True, eq=False)
class Twins:
    """Two models that differ in one thing only: the prefixes their loss looked at."""

    regular: SentenceTransformer
    matryoshka: SentenceTransformer
    history: dict[str, History] = field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[str, SentenceTransformer]]:
        """Yield ("regular", model), then ("matryoshka", model)."""
        return iter((("regular", self.regular), ("matryoshka", self.matryoshka)))


@dataclass(frozen=True, eq=False)
class TokenisedTriplets:
    """Triplets as numbers: each distinct text once, as a slice of one flat array of token ids.

    Attributes:
        rows: (n, 3) or (n, 2) int64, text numbers of anchor, positive and, if any, negative.
        ids: all token ids, one text after the other.
        starts, lengths: where the tokens of each text stand in ``ids``.
    """

    rows: np.ndarray
    ids: Tensor
    starts: Tensor
    lengths: Tensor

    def features(self, texts: Tensor) -> dict[str, Tensor]:
        """The input of a static model for these text numbers, gathered without a Python loop."""
        lengths = self.lengths[texts]
        offsets = lengths.cumsum(0) - lengths
        shift = torch.repeat_interleave(self.starts[texts] - offsets, lengths)
        places = torch.arange(len(shift), device=shift.device)
        return {"input_ids": self.ids[shift + places], "offsets": offsets}


def read_triplets(triplets: Any) -> list[list[str]]:
    """Columns of texts, [anchors, positives, negatives] or [anchors, positives].

    Args:
        triplets: a ``datasets.Dataset``, a mapping or a pandas frame with columns ``anchor``,
            ``positive`` and, if there are hard negatives, ``negative``; or a list of tuples.

    Raises:
        WrongKind, WrongValue: missing columns, no rows, columns of different length, texts that
            are no strings, blank, or not to be written as UTF-8; the message names row and column.
    """
    columns = _columns(triplets)
    if len({len(texts) for texts in columns.values()}) != 1 or not len(columns["anchor"]):
        sizes = {name: len(texts) for name, texts in columns.items()}
        raise WrongValue(f"columns must have the same length, at least 1; got {sizes}")
    for name, texts in columns.items():
        for row, text in enumerate(texts):
            check_text(f"{name} in row {row}", text, blank=False)
    return [list(texts) for texts in columns.values()]


def _columns(triplets: Any) -> dict[str, Sequence[str]]:
    if isinstance(triplets, (list, tuple)):
        sizes = {len(row) if isinstance(row, (list, tuple)) else 0 for row in triplets}
        if len(sizes) != 1 or sizes <= {0, 1} or max(sizes) > 3:
            raise WrongValue(
                "a list of triplets must hold (anchor, positive, negative) or (anchor, positive) "
                f"tuples, at least one, all of the same length; got lengths {sorted(sizes)}"
            )
        return dict(zip(COLUMNS, zip(*triplets, strict=True), strict=False))
    if not hasattr(triplets, "__getitem__") or isinstance(triplets, str):
        raise WrongKind(
            "triplets must be a Dataset, a frame or a list of tuples, "
            f"got {type(triplets).__name__}"
        )
    names = list(getattr(triplets, "column_names", triplets))
    missing = [name for name in COLUMNS[:2] if name not in names]
    if missing:
        raise WrongValue(f"triplets have no column {missing[0]!r}; their columns: {names}")
    return {name: list(triplets[name]) for name in COLUMNS if name in names}


def tokenise_triplets(model: SentenceTransformer, triplets: Any) -> TokenisedTriplets:
    """Turn triplets (see :func:`read_triplets`) into token ids, each distinct text once."""
    columns = read_triplets(triplets)
    number: dict[str, int] = {}
    rows = [[number.setdefault(text, len(number)) for text in texts] for texts in columns]
    listed = token_ids(_static_module(model).tokenizer, list(number))
    lengths = torch.from_numpy(np.fromiter(map(len, listed), np.int64, len(listed)))
    ids = torch.from_numpy(np.fromiter(chain.from_iterable(listed), np.int64))
    return TokenisedTriplets(
        np.array(rows, dtype=np.int64).T, ids, lengths.cumsum(0) - lengths, lengths
    )


def batches_without_duplicates(
    rows: np.ndarray, batch_size: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """One epoch of batches in random order in which no text stands twice.

    A text that stands twice in a batch would be pushed away as a "negative" of itself. A row
    that clashes waits for the next batch. Incomplete batches at the end are dropped if there is
    at least one complete one. (Sentence Transformers: ``BatchSamplers.NO_DUPLICATES``.)

    Args:
        rows: (n, columns) int array of text numbers.
        batch_size: rows per batch.
        rng: source of the order.

    Returns:
        A list of int arrays of row numbers.
    """
    batch_size, rows = check_count("batch_size", batch_size), check_matrix("rows", rows)
    if rows.dtype.kind not in "iu":
        raise WrongKind(f"rows must hold text numbers (integers), got dtype {rows.dtype}")
    return _batches([frozenset(row) for row in rows.tolist()], batch_size, rng)


def _batches(
    texts: list[frozenset[int]], batch_size: int, rng: np.random.Generator
) -> list[np.ndarray]:
    order = rng.permutation(len(texts)).tolist()
    # A row that clashes waits under the text that it shares with the batch, the earliest row on
    # top. While that text is in the batch, all that wait under it clash: nobody asks them again.
    waiting: dict[int, list[int]] = {}
    batches: list[list[int]] = []
    start = 0
    while start < len(order) or waiting:
        batch: list[int] = []
        seen: set[int] = set()

        def place(position: int, batch: list[int] = batch, seen: set[int] = seen) -> None:
            row = order[position]
            if clash := texts[row] & seen:
                heapq.heappush(waiting.setdefault(min(clash), []), position)
            else:
                batch.append(row)
                seen |= texts[row]

        tops = [(positions[0], text) for text, positions in waiting.items()]
        heapq.heapify(tops)
        while tops and len(batch) < batch_size:
            _, text = heapq.heappop(tops)
            if text in seen:
                continue
            position = heapq.heappop(waiting[text])
            place(position)
            if not waiting[text]:
                del waiting[text]
            elif text not in seen:
                heapq.heappush(tops, (waiting[text][0], text))
        while start < len(order) and len(batch) < batch_size:
            place(start)
            start += 1
        batches.append(batch)
    complete = [batch for batch in batches if len(batch) == batch_size]
    return [np.array(batch) for batch in complete or batches]


def train(
    model: SentenceTransformer,
    triplets: Any,
    dims: Sequence[int],
    *,
    epochs: int = 3,
    batch_size: int = 512,
    lr: float = 0.05,
    seed: int = 0,
    weights: Sequence[float] | None = None,
    scale: float = 20.0,
    warmup: float = 0.1,
    distill: float = 0.0,
    max_grad_norm: float | None = None,
    on_step: Callable[[int, Tensor], None] | None = None,
    progress: bool = True,
) -> History:
    """Train a static model in place: Adam on the Matryoshka loss over in-batch and hard negatives.

    With ``dims=[D]`` this is regular training; with more prefixes it is Matryoshka training.

    Args:
        model: from :func:`~mrl_course.models.build_static_model`, or any SentenceTransformer
            that starts with a ``StaticEmbedding``.
        triplets: see :func:`read_triplets`, or the result of :func:`tokenise_triplets`.
        dims: prefix sizes, in any order; warns if the model's full size is missing.
        epochs: passes over the data, at least 1.
        batch_size: rows per step, at least 2; with fewer rows than that, one batch of all rows.
        lr: highest learning rate. It rises linearly over the first ``warmup`` of the steps and
            falls linearly to zero after that.
        seed: of the order of the data.
        weights: one per entry of ``dims``, >= 0; all 1 by default.
        scale: of the cosine inside the loss.
        warmup: share of the steps, 0 to below 1.
        distill: add so much of the self-distillation loss: the softmax of each prefix is pulled
            to that of the full vector, which gets no gradient from it
            (:func:`~mrl_course.losses.nested_distillation`). 0 is the plain Matryoshka loss.
        max_grad_norm: scale the gradient of a step down to this length where it is longer, as
            Sentence Transformers' trainer does (its default is 1). None: no clipping.
        on_step: called after each step with its number, from 1, and the detached losses of the
            prefixes, shape (len(dims),).
        progress: show a bar on a terminal (never in a notebook or a file).

    Returns:
        The :class:`History`. Ctrl-C, or "interrupt the kernel", ends the training early: the
        model keeps what it learnt so far and the history says ``interrupted``.

    Raises:
        WrongKind, WrongValue: a model that is not static, bad triplets, dims, weights or numbers;
            a loss that is no number any more (the rate is too high).
    """
    dims = check_dims(dims, check_model_size(model), warn_missing_full=True)
    settings = _Settings.checked(
        epochs, batch_size, lr, seed, scale, warmup, distill, max_grad_norm, on_step, progress
    )
    given = isinstance(triplets, TokenisedTriplets)
    data = triplets if given else tokenise_triplets(model, triplets)
    plan = _plan(data, settings)
    return _train(
        model, data, plan, dims, check_weights(weights, len(dims), training=True), settings
    )


@dataclass(frozen=True)
class _Settings:
    """What :func:`train` was asked for, checked once."""

    epochs: int = 3
    batch_size: int = 512
    lr: float = 0.05
    seed: int = 0
    scale: float = 20.0
    warmup: float = 0.1
    distill: float = 0.0
    max_grad_norm: float | None = None
    on_step: Callable[[int, Tensor], None] | None = None
    progress: bool = True

    @classmethod
    def checked(cls, *values: Any, **named: Any) -> _Settings:
        given = cls(*values, **named)
        clip = given.max_grad_norm
        warmup = check_number("warmup", given.warmup, least=0)
        if warmup >= 1:
            raise WrongValue(f"warmup is a share of the steps, 0 <= warmup < 1, got {warmup}")
        return replace(
            given,
            epochs=check_count("epochs", given.epochs),
            batch_size=check_count("batch_size", given.batch_size, least=2),
            lr=check_number("lr", given.lr, above=0),
            seed=check_seed(given.seed),
            scale=check_number("scale", given.scale, above=0),
            warmup=warmup,
            distill=check_number("distill", given.distill, least=0),
            max_grad_norm=None if clip is None else check_number("max_grad_norm", clip, above=0),
        )


def _train(
    model: SentenceTransformer,
    data: TokenisedTriplets,
    plan: list[np.ndarray],
    dims: list[int],
    weights: list[float],
    settings: _Settings,
) -> History:
    """:func:`train`, of arguments that were checked."""
    inner = [k for k in dims if k < check_model_size(model)]
    if settings.distill and not inner:
        raise WrongValue("distill needs prefixes below the full size in dims, to teach them")
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr, fused=True)
    schedule = _warmup_then_decay(optimizer, len(plan), settings.warmup)
    weight = torch.tensor(weights, device=model.device)
    bar = tqdm(plan, desc="training", unit="step", disable=None if settings.progress else True)
    losses: list[Tensor] = []
    interrupted, clipped = False, 0
    model.train()
    started = time.perf_counter()
    try:
        for batch in bar:  # disable=None: no bar where the output is not a terminal
            texts = torch.from_numpy(data.rows[batch].T.reshape(-1))  # anchors, then candidates
            features = {k: v.to(model.device) for k, v in data.features(texts).items()}
            emb = model(features)["sentence_embedding"]  # (3 * B, D)
            anchors, candidates = emb[: len(batch)], emb[len(batch) :]
            loss, per_dim = nested_losses(anchors, candidates, dims, weight, settings.scale)
            _check_loss(per_dim, len(losses) + 1)
            if settings.distill:
                dolls = _inner_dolls(anchors, candidates, inner, settings.scale)
                loss = loss + settings.distill * dolls
            optimizer.zero_grad()
            loss.backward()
            if settings.max_grad_norm is not None:
                length = clip_grad_norm_(model.parameters(), settings.max_grad_norm)
                clipped += float(length) > settings.max_grad_norm
            optimizer.step()
            schedule.step()
            losses.append(per_dim.detach())
            if settings.on_step is not None:
                settings.on_step(len(losses), losses[-1])
    except KeyboardInterrupt:
        interrupted = True
        print(
            f"Training stopped by hand after {len(losses)} of {len(plan)} steps; "
            "the model keeps what it has learnt so far."
        )
    finally:
        model.eval()
    table = torch.stack(losses).cpu().numpy() if losses else np.empty((0, len(dims)), np.float32)
    seconds = time.perf_counter() - started
    return History(dims, table, seconds, interrupted, clipped / max(1, len(losses)))


def _plan(data: TokenisedTriplets, settings: _Settings) -> list[np.ndarray]:
    """The row numbers of every step, or an error where no step could teach anything."""
    rows, batch_size = data.rows, settings.batch_size
    empty = (data.lengths == 0).numpy()
    if empty.any():
        warn(
            f"{int(empty.sum())} of {len(empty)} texts have no tokens; their vectors are zeros, "
            "which have no direction: cosine 0, and no gradient"
        )
    if len(rows) < batch_size:
        warn(
            f"{len(rows)} rows are fewer than one batch of {batch_size}; "
            "each step sees all rows that do not repeat a text"
        )
    rng = np.random.default_rng(settings.seed)
    epochs = [batches_without_duplicates(rows, batch_size, rng) for _ in range(settings.epochs)]
    plan = [batch for epoch in epochs for batch in epoch]
    largest = max(map(len, plan))
    if rows.shape[1] == 2 and largest == 1:
        raise WrongValue(
            "there is nothing to learn from: without hard negatives a batch needs at least two "
            "rows with different texts"
        )
    if largest < min(batch_size, len(rows)) / 4:
        few = min(len(np.unique(column)) for column in rows.T)
        warn(
            f"a batch holds at most {largest} rows, not {batch_size}: no text may stand twice in "
            f"it, and one of the columns has {few} different texts in {len(rows)} rows"
        )
    return plan


def _check_loss(per_dim: Tensor, step: int) -> None:
    if not torch.isfinite(per_dim.detach()).all():
        raise WrongValue(
            f"the loss of step {step} is {per_dim.detach().tolist()}, no number any more; "
            "lower the learning rate, or set max_grad_norm=1"
        )


def train_twins(
    triplets: Any,
    *,
    dim: int = 768,
    dims: Sequence[int] | None = None,
    seed: int = 0,
    vocab_size: int = 12_000,
    **settings: Any,
) -> Twins:
    """Train a regular and a Matryoshka model that differ only in the loss.

    Both have the same vocabulary, the same random start, the same order of the data and the same
    number of steps. The regular twin's loss sees the full vector, the other's all ``dims``.

    Args:
        triplets: see :func:`read_triplets`.
        dim: D, the full size of both.
        dims: prefix sizes of the Matryoshka twin; ``DEFAULT_DIMS`` up to ``dim`` by default.
        seed: of the start and of the order.
        vocab_size: the most tokens in the vocabulary.
        **settings: passed to :func:`train` for both twins (``weights`` and ``distill`` for the
            Matryoshka twin only).

    Returns:
        :class:`Twins` with ``history["regular"]`` and ``history["matryoshka"]``. If the first
        training is stopped by hand, the second is not started.
    """
    dim = check_count("dim", dim)
    dims = default_dims(dim) if dims is None else check_dims(dims, dim, warn_missing_full=True)
    columns = read_triplets(triplets)
    texts = list(dict.fromkeys(text for column in columns for text in column))
    regular = build_static_model(texts, dim, vocab_size, seed)
    matryoshka = copy.deepcopy(regular)
    data = tokenise_triplets(regular, list(zip(*columns, strict=True)))
    weights = check_weights(settings.pop("weights", None), len(dims), training=True)
    with_distill = _Settings.checked(seed=seed, **settings)
    without = replace(with_distill, distill=0.0)
    plan = _plan(data, without)  # both see the same rows in the same order
    history = {"regular": _train(regular, data, plan, [dim], [1.0], without)}
    if not history["regular"].interrupted:
        history["matryoshka"] = _train(matryoshka, data, plan, dims, weights, with_distill)
    return Twins(regular, matryoshka, history)


def _inner_dolls(anchors: Tensor, candidates: Tensor, dims: list[int], scale: float) -> Tensor:
    """How far each prefix's softmax is from that of the full vectors, summed over prefixes."""
    teacher = similarity_softmax(anchors, candidates, scale)
    most = max(dims)
    return nested_distillation(anchors[:, :most], candidates[:, :most], teacher, dims, scale=scale)


def _static_module(model: SentenceTransformer) -> StaticEmbedding:
    first = model[0] if isinstance(model, SentenceTransformer) else None
    if not isinstance(first, StaticEmbedding):
        raise WrongKind(
            "this loop trains static models only (the first module must be a StaticEmbedding, as "
            "in build_static_model); train other models with SentenceTransformerTrainer"
        )
    return first


def check_model_size(model: SentenceTransformer) -> int:
    """D of a static model; another kind of model is an error."""
    return _static_module(model).embedding_dim


def _warmup_then_decay(optimizer: Optimizer, steps: int, warmup: float) -> LRScheduler:
    """A rise in a line over the first share of the steps, then a fall in a line to zero."""
    rise = max(1, round(warmup * steps))
    up = LinearLR(optimizer, 1 / rise, 1.0, max(1, rise - 1))
    down = LinearLR(optimizer, 1.0, 0.0, max(1, steps - rise))
    return SequentialLR(optimizer, [up, down], [rise])
