"""A plain, fast training loop for static models, and the *twins*: regular and Matryoshka.

All texts are turned into token ids once; a step then only gathers numbers, so that what takes
time is the mathematics and not Python.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from torch import Tensor
from tqdm import tqdm

from mrl_course.arguments import check_dims, default_dims
from mrl_course.losses import nested_distillation, nested_info_nce, similarity_softmax
from mrl_course.models import build_static_model

COLUMNS = ("anchor", "positive", "negative")


@dataclass
class History:
    """What happened in a training: the loss of each prefix at each step.

    Attributes:
        dims: the prefix sizes trained, in the order of the columns of ``losses``.
        losses: (steps, len(dims)) float32 array of unweighted losses.
        seconds: wall-clock time of the loop (without tokenising).
        interrupted: True if the training was stopped by hand; the model keeps what it learnt.
    """

    dims: list[int]
    losses: np.ndarray
    seconds: float
    interrupted: bool = False

    @property
    def steps(self) -> int:
        """Number of optimiser steps made."""
        return len(self.losses)

    def to_frame(self) -> pd.DataFrame:
        """One row per step, one column per prefix size."""
        index = pd.RangeIndex(1, self.steps + 1, name="step")
        return pd.DataFrame(self.losses, index=index, columns=self.dims)


@dataclass
class Twins:
    """Two models that differ in one thing only: the prefixes their loss looked at."""

    regular: SentenceTransformer
    matryoshka: SentenceTransformer
    history: dict[str, History] = field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[str, SentenceTransformer]]:
        """Yield ("regular", model), then ("matryoshka", model)."""
        return iter((("regular", self.regular), ("matryoshka", self.matryoshka)))


@dataclass
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
        return {"input_ids": self.ids[shift + torch.arange(len(shift))], "offsets": offsets}


def read_triplets(triplets) -> list[list[str]]:
    """Columns of texts, [anchors, positives, negatives] or [anchors, positives].

    Args:
        triplets: a ``datasets.Dataset``, a mapping or a pandas frame with columns ``anchor``,
            ``positive`` and, if there are hard negatives, ``negative``; or a list of tuples.

    Raises:
        TypeError, ValueError: missing columns, no rows, columns of different length, texts that
            are no strings or blank; the message names row and column.
    """
    if isinstance(triplets, (list, tuple)):
        sizes = {len(row) if isinstance(row, (list, tuple)) else 0 for row in triplets}
        if len(sizes) != 1 or sizes <= {0, 1} or max(sizes) > 3:
            raise ValueError(
                "a list of triplets must hold (anchor, positive, negative) or (anchor, positive) "
                f"tuples, at least one, all of the same length; got lengths {sorted(sizes)}"
            )
        columns = dict(zip(COLUMNS, zip(*triplets, strict=True), strict=False))
    else:
        if not hasattr(triplets, "__getitem__") or isinstance(triplets, str):
            raise TypeError(
                "triplets must be a Dataset, a frame or a list of tuples, "
                f"got {type(triplets).__name__}"
            )
        names = list(getattr(triplets, "column_names", triplets))
        missing = [name for name in COLUMNS[:2] if name not in names]
        if missing:
            raise ValueError(f"triplets have no column {missing[0]!r}; their columns: {names}")
        columns = {name: list(triplets[name]) for name in COLUMNS if name in names}
    if len({len(texts) for texts in columns.values()}) != 1 or not len(columns["anchor"]):
        sizes = {name: len(texts) for name, texts in columns.items()}
        raise ValueError(f"columns must have the same length, at least 1; got {sizes}")
    for name, texts in columns.items():
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"{name} in row {row} is {text!r}, not a string")
            if not text.strip():
                raise ValueError(f"{name} in row {row} is blank; drop that row")
    return [list(texts) for texts in columns.values()]


def tokenise_triplets(model: SentenceTransformer, triplets) -> TokenisedTriplets:
    """Turn triplets (see :func:`read_triplets`) into token ids, each distinct text once."""
    columns = read_triplets(triplets)
    number: dict[str, int] = {}
    rows = [[number.setdefault(text, len(number)) for text in texts] for texts in columns]
    encodings = _static_module(model).tokenizer.encode_batch(list(number), add_special_tokens=False)
    lengths = torch.tensor([len(encoding.ids) for encoding in encodings])
    ids = torch.tensor([i for encoding in encodings for i in encoding.ids], dtype=torch.long)
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
    stream = iter(rng.permutation(len(rows)).tolist())
    texts = [frozenset(row) for row in rows.tolist()]
    waiting: list[int] = []
    batches: list[list[int]] = []
    exhausted = False
    while not exhausted or waiting:
        batch: list[int] = []
        seen: set[int] = set()
        clashing: list[int] = []
        candidates = iter(waiting)
        while len(batch) < batch_size:
            row = next(candidates, None)
            if row is None:
                row = next(stream, None)
            if row is None:
                exhausted = True
                break
            if seen.isdisjoint(texts[row]):
                batch.append(row)
                seen |= texts[row]
            else:
                clashing.append(row)
        waiting = clashing + list(candidates)
        if batch:
            batches.append(batch)
    complete = [batch for batch in batches if len(batch) == batch_size]
    return [np.array(batch) for batch in complete or batches]


def train(
    model: SentenceTransformer,
    triplets,
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
        progress: show a bar on a terminal (never in a notebook or a file).

    Returns:
        The :class:`History`. Ctrl-C, or "interrupt the kernel", ends the training early: the
        model keeps what it learnt so far and the history says ``interrupted``.

    Raises:
        TypeError, ValueError: a model that is not static, bad triplets, dims, weights or numbers.
    """
    dims = check_dims(dims, model.get_embedding_dimension(), warn_missing_full=True)
    _check_settings(epochs, batch_size, lr, warmup, distill)
    inner = [k for k in dims if k < model.get_embedding_dimension()]
    if distill and not inner:
        raise ValueError("distill needs prefixes below the full size in dims, to teach them")
    data = (
        triplets if isinstance(triplets, TokenisedTriplets) else tokenise_triplets(model, triplets)
    )
    if len(data.rows) < batch_size:
        warnings.warn(
            f"{len(data.rows)} rows are fewer than one batch of {batch_size}; "
            "each step sees all rows that do not repeat a text",
            stacklevel=2,
        )
    rng = np.random.default_rng(seed)
    plan = [
        batch
        for _ in range(epochs)
        for batch in batches_without_duplicates(data.rows, batch_size, rng)
    ]
    if data.rows.shape[1] == 2 and max(map(len, plan)) == 1:
        raise ValueError(
            "there is nothing to learn from: without hard negatives a batch needs at least two "
            "rows with different texts"
        )
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warmup_then_decay(len(plan), warmup))
    losses: list[Tensor] = []
    interrupted = False
    model.train()
    started = time.perf_counter()
    try:
        # disable=None: no bar where the output is not a terminal, so none is ever stored
        for batch in tqdm(plan, desc="training", unit="step", disable=None if progress else True):
            texts = torch.from_numpy(data.rows[batch].T.reshape(-1))  # anchors, then candidates
            features = {k: v.to(model.device) for k, v in data.features(texts).items()}
            emb = model(features)["sentence_embedding"]  # (3 * B, D)
            loss, per_dim = nested_info_nce(
                emb[: len(batch)], emb[len(batch) :], dims, weights, scale, return_per_dim=True
            )
            if distill:
                loss = loss + distill * _inner_dolls(emb, len(batch), inner, scale)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(per_dim.detach())
    except KeyboardInterrupt:
        interrupted = True
        print(
            f"Training stopped by hand after {len(losses)} of {len(plan)} steps; "
            "the model keeps what it has learnt so far."
        )
    finally:
        model.eval()
    table = torch.stack(losses).cpu().numpy() if losses else np.empty((0, len(dims)), np.float32)
    return History(dims, table, time.perf_counter() - started, interrupted)


def train_twins(
    triplets,
    *,
    dim: int = 768,
    dims: Sequence[int] | None = None,
    seed: int = 0,
    vocab_size: int = 12_000,
    **settings,
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
    dims = default_dims(dim) if dims is None else check_dims(dims, dim, warn_missing_full=True)
    columns = read_triplets(triplets)
    regular = build_static_model(
        list(dict.fromkeys(text for texts in columns for text in texts)), dim, vocab_size, seed
    )
    matryoshka = copy.deepcopy(regular)
    data = tokenise_triplets(regular, list(zip(*columns, strict=True)))
    only = {name: settings.pop(name) for name in ("weights", "distill") if name in settings}
    history = {"regular": train(regular, data, [dim], seed=seed, **settings)}
    if not history["regular"].interrupted:
        history["matryoshka"] = train(matryoshka, data, dims, seed=seed, **only, **settings)
    return Twins(regular, matryoshka, history)


def _inner_dolls(emb: Tensor, batch: int, dims: list[int], scale: float) -> Tensor:
    """How far each prefix's softmax is from that of the full vectors, summed over prefixes."""
    anchors, candidates = emb[:batch], emb[batch:]
    teacher = similarity_softmax(anchors, candidates, scale)
    return nested_distillation(
        anchors[:, : max(dims)], candidates[:, : max(dims)], teacher, dims, scale=scale
    )


def _static_module(model: SentenceTransformer) -> StaticEmbedding:
    if not isinstance(model, SentenceTransformer) or not isinstance(model[0], StaticEmbedding):
        raise TypeError(
            "this loop trains static models only (the first module must be a StaticEmbedding, as "
            "in build_static_model); train other models with SentenceTransformerTrainer"
        )
    return model[0]


def _check_settings(epochs: int, batch_size: int, lr: float, warmup: float, distill: float) -> None:
    for name, value, least in (("epochs", epochs, 1), ("batch_size", batch_size, 2)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    if not lr > 0:
        raise ValueError(f"lr must be above 0, got {lr}")
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup is a share of the steps, 0 <= warmup < 1, got {warmup}")
    if not 0 <= distill < float("inf"):
        raise ValueError(f"distill must be 0 or more, got {distill}")


def _warmup_then_decay(steps: int, warmup: float):
    rise = max(1, round(warmup * steps))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return max(0.0, (steps - step) / max(1, steps - rise))

    return factor
