"""Make anyone's vectors Matryoshka: rotate and distil. No labels, no texts, seconds on a CPU.

A rotation changes no cosine between full vectors, but it decides what stands in the first numbers.
So, given embeddings of any model or provider, look for the rotation with the best prefixes. It
starts as PCA, which moves the variance to the front. Then, in random batches, the similarity
softmax of every prefix is pulled to the one of the full vectors
(:func:`mrl_course.losses.nested_distillation`): they are the teacher, so nothing has to be known
about the texts, and at full size nothing can be lost.

The result is a :class:`Head`: apply it to arrays, save it, or put it behind a
``SentenceTransformer`` as its last module. Related: Matryoshka-Adaptor (Yoon et al., 2024,
https://aclanthology.org/2024.emnlp-main.576/) tunes a small network for the same purpose.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from safetensors import safe_open
from safetensors.torch import save
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense
from tqdm import tqdm

from mrl_course.arguments import (
    check_count,
    check_dims,
    check_finite,
    check_matrix,
    check_weights,
    default_dims,
)
from mrl_course.evaluation import pca_rotation
from mrl_course.files import write_whole
from mrl_course.losses import nested_distillation, nested_info_nce, similarity_softmax
from mrl_course.neighbours import share_in_both
from mrl_course.ranking import unit_rows
from mrl_course.search import exact_search

_BLOCK = 16_384  # rows mapped at a time
_MOST_ROTATED = 768  # principal directions; the work grows with the cube
_EVERY = 25  # steps between two looks at the held-out rows
_MEASURES = {
    "nearest": "share of rows whose nearest neighbour by the original is among the ten nearest",
    "overlap": "share of the ten nearest neighbours by the original that stay the same",
    "recall": "share of queries whose own document is among the ten nearest",
}


@dataclass
class Head:
    """A rotation, or another linear map, after which the prefixes of one model's vectors are good.

    Attributes:
        weight: (D, D) float32; new vectors are ``old @ weight``.
        dims: the prefix sizes it was fitted for.
        report: held-out rows search the fitted ones: columns ``k, method, nearest, overlap``;
            methods ``raw``, ``pca``, ``head``. ``nearest`` is the share of rows whose nearest
            neighbour by the original full vectors is among the ten nearest by the prefix,
            ``overlap`` the share of the ten nearest that stay the same. With pairs there is a
            column ``recall`` too: the share of queries whose own document is among the ten
            nearest. Empty if loaded from a file.
        history: the held-out divergence of each trained prefix, by step (empty if loaded).
        seconds: wall-clock time of the fit.
    """

    weight: np.ndarray
    dims: list[int]
    report: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    history: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    seconds: float = 0.0

    @property
    def full_dim(self) -> int:
        """D."""
        return len(self.weight)

    def __str__(self) -> str:
        """The report as a table."""
        if self.report.empty:
            return f"Head({self.full_dim} -> {self.full_dim}, fitted for {self.dims})"
        text = "vectors that were not used to fit search those that were"
        for column, title in _MEASURES.items():
            if column in self.report:
                table = self.report.pivot_table(index="k", columns="method", values=column)
                table = table[["raw", "pca", "head"]].to_string(float_format="{:.3f}".format)
                text += f"\n\n{title}\n{table}"
        return text

    def transform(
        self, emb: ArrayLike, dim: int | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Map embeddings, in blocks: a million rows, or a memory-mapped file, are no problem.

        Args:
            emb: (n, D) embeddings of the model that the head was fitted for.
            dim: keep so many numbers; all by default.
            out: (n, dim) float32 array to write into, for example a memory-mapped one.

        Returns:
            (n, dim) float32 of length 1 each (zero rows stay zero).

        Raises:
            TypeError, ValueError: no numbers, wrong shape, NaN, ``dim`` out of range.
        """
        emb = check_matrix("emb", emb)
        if emb.shape[1] != self.full_dim:
            raise ValueError(
                f"this head maps vectors of {self.full_dim} numbers, got {emb.shape[1]}; "
                "it belongs to one model"
            )
        dim = self.full_dim if dim is None else check_dims([dim], self.full_dim)[0]
        if out is None:
            out = np.empty((len(emb), dim), np.float32)
        if out.shape != (len(emb), dim) or out.dtype != np.float32:
            raise ValueError(
                f"out must be float32 of shape {(len(emb), dim)}, got {out.dtype} {out.shape}"
            )
        weight = np.ascontiguousarray(self.weight[:, :dim])
        for start in range(0, len(emb), _BLOCK):
            rows = unit_rows(check_finite("emb", emb[start : start + _BLOCK], start))
            out[start : start + len(rows)] = unit_rows(rows @ weight)
        return out

    def save(self, path: str | Path) -> Path:
        """Write the head as one safetensors file, whole or not at all; return the path.

        Raises:
            OSError: it cannot be written.
        """
        tensors = {"weight": torch.from_numpy(np.ascontiguousarray(self.weight))}
        metadata = {"mrl_course": "head", "dims": json.dumps(self.dims)}
        return write_whole(path, save(tensors, metadata))

    @classmethod
    def load(cls, path: str | Path) -> Head:
        """Read a saved head.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is no head.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no file {path}")
        try:
            with safe_open(path, framework="np") as file:
                dims = json.loads((file.metadata() or {})["dims"])
                weight = file.get_tensor("weight")
        except Exception as error:  # safetensors raises its own kinds
            raise ValueError(f"{path} is no head saved by mrl_course: {error}") from error
        return cls(weight, dims)

    def as_module(self) -> Dense:
        """The map as a Sentence Transformers ``Dense`` module without bias or activation."""
        dense = Dense(
            self.full_dim,
            self.full_dim,
            bias=False,
            activation_function=torch.nn.Identity(),
            init_weight=torch.from_numpy(np.ascontiguousarray(self.weight.T)),
        )
        return dense.requires_grad_(False)

    def attach(self, model: SentenceTransformer) -> SentenceTransformer:
        """A new model: the given one, followed by this head. Their modules are shared.

        Raises:
            ValueError: the model's vectors have another size.
        """
        size = model.get_embedding_dimension()
        if size != self.full_dim:
            raise ValueError(f"the head maps {self.full_dim} numbers, the model gives {size}")
        return SentenceTransformer(
            modules=[*model.children(), self.as_module()], device=str(model.device)
        )

    def absorb(self, model: SentenceTransformer) -> SentenceTransformer:
        """A copy of a *static* model whose table has this map built in: no additional module.

        The vector of a text is the mean of its rows of the table, so mapping the rows maps it.

        Raises:
            TypeError: the model is not one ``StaticEmbedding``.
            ValueError: its vectors have another size.
        """
        kinds = [type(module).__name__ for module in model.children()]
        if kinds != ["StaticEmbedding"]:
            raise TypeError(f"only a StaticEmbedding can absorb a head, got {kinds}; use attach")
        if model[0].embedding_dim != self.full_dim:
            raise ValueError(
                f"the head maps {self.full_dim} numbers, the model gives {model[0].embedding_dim}"
            )
        model = copy.deepcopy(model)
        with torch.no_grad():
            table = model[0].embedding.weight
            table.copy_(table @ torch.from_numpy(self.weight))
        return model


def fit_head(
    embeddings: ArrayLike | tuple[ArrayLike, ...],
    dims: Sequence[int] | None = None,
    *,
    rotation: bool = True,
    steps: int = 300,
    batch_size: int = 512,
    lr: float = 3e-3,
    scale: float = 20.0,
    teacher_scale: float = 40.0,
    weights: Sequence[float] | None = None,
    label_share: float = 0.0,
    held_out: float | int = 0.1,
    patience: int = 4,
    seed: int = 0,
    progress: bool = True,
) -> Head:
    """Rotate and distil: fit a rotation after which the prefixes of these vectors are good.

    Fit it on vectors like those you will search: on another kind of text it helps no more than PCA.
    How the defaults compare with other settings is recorded in ``data/results/retrofit.json``.

    Args:
        embeddings: (n, D) vectors of one model, n >= 40; no labels and no texts are needed. Or a
            tuple of such arrays, (queries, documents), where row i of one belongs to row i of the
            other: then queries are compared with documents. A third array holds a hard negative
            for each query. Of more than 153,600 rows (``steps * batch_size``, but at least
            50,000) a random part is used.
        dims: prefix sizes to be good at, in any order; by default those of ``DEFAULT_DIMS`` below
            D, and D.
        rotation: True keeps all cosines of the full vectors as they are. False allows any linear
            map, which may change the full vectors too; sensible with labels only.
        steps: of Adam, at most.
        batch_size: vectors compared with each other in a step.
        lr: learning rate; falls to 0 along a cosine.
        scale: multiplies the cosines of prefixes before the softmax.
        teacher_scale: the same for the original full vectors. Larger: only near neighbours count.
        weights: of the prefixes, one per dim; all 1 by default.
        label_share: with pairs, the share of the loss that is InfoNCE, which takes "row i belongs
            to row i" as a label. 0, no labels, is distillation alone; 1 with ``rotation=False``
            is the usual Matryoshka loss on a linear head.
        held_out: share (below 1) or number of rows that are not fitted on. They search the fitted
            rows: this stops the fit and makes the report.
        patience: stop after so many looks (one every 25 steps) without improvement; the best map
            is kept.
        seed: of the split and the batches.
        progress: show a bar on a terminal (never in a notebook or a file).

    Returns:
        The :class:`Head`. Interrupting (Ctrl-C) returns the best map so far.

    Raises:
        TypeError, ValueError: wrong shapes, NaN, too few rows, arguments out of range.
    """
    parts = _parts(embeddings)
    n, full_dim = parts[0].shape
    dims = check_dims(default_dims(full_dim) if dims is None else dims, full_dim)
    _check_settings(steps, batch_size, patience, lr, scale, teacher_scale)
    _check_labels(label_share, len(parts))
    fitted, judged = _split(n, held_out, seed, max(50_000, steps * batch_size))
    train, judge = (
        [torch.from_numpy(unit_rows(x[rows])) for x in parts] for rows in (fitted, judged)
    )
    start = torch.from_numpy(pca_rotation(torch.cat(train).numpy()))
    loss_of = _Loss(*_trained(dims, weights, full_dim, rotation), scale, teacher_scale, label_share)
    change = (_Rotation if rotation else _Linear)(full_dim)
    began = time.perf_counter()
    history = _fit(
        change, loss_of, [x @ start for x in train],
        [x @ start for x in _search(judge, train, 500, 4_000)],
        steps, batch_size, lr, patience, seed, progress,
    )  # fmt: skip
    head = Head(change.after(start).numpy(), list(dims), history=history)
    head.seconds = time.perf_counter() - began
    head.report = _report(_search(judge, train, 2_000, 20_000), len(parts), start.numpy(), head)
    return head


def _fit(
    change, loss_of, train, judge, steps, batch_size, lr, patience, seed, progress
) -> pd.DataFrame:  # fmt: skip
    """Fit ``change`` in place, leave it at its best, and return the held-out divergences."""
    optimiser = torch.optim.Adam([change.free], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    batches = _batches(len(train[0]), batch_size, torch.Generator().manual_seed(seed))
    best, best_loss, looks, stale = change.free.detach().clone(), np.inf, {}, 0
    bar = tqdm(
        range(steps + 1), desc="rotate and distil", disable=None if progress else True, leave=False
    )
    try:
        for step in bar:
            if step % _EVERY == 0 or step == steps:
                with torch.no_grad():
                    total, each = loss_of(judge, change)
                looks[step] = each.tolist()
                stale += 1
                if total < best_loss:
                    best, best_loss, stale = change.free.detach().clone(), float(total), 0
                if stale > patience or step == steps:
                    break
            rows = next(batches)
            optimiser.zero_grad()
            loss_of([x[rows] for x in train], change)[0].backward()
            optimiser.step()
            schedule.step()
    except KeyboardInterrupt:
        pass  # the best map so far is kept
    finally:
        bar.close()
        change.free.data = best
    history = pd.DataFrame.from_dict(looks, orient="index", columns=loss_of.dims)
    return history.rename_axis("step")


def _batches(n: int, batch_size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Row numbers of batches without end; a row comes again when all others have come."""
    while True:
        order = torch.randperm(n, generator=generator)
        yield from order.split(batch_size)[: max(1, n // batch_size)]


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
        ValueError: not a square matrix.
    """
    if free.ndim != 2 or free.shape[0] != free.shape[1]:
        raise ValueError(f"free must be a square matrix, got shape {tuple(free.shape)}")
    skew = (free - free.T) / 2
    eye = torch.eye(len(free), dtype=free.dtype, device=free.device)
    return torch.linalg.solve(eye + skew, eye - skew)


class _Rotation:
    """A rotation of the first numbers among themselves; no rotation at the start.

    After PCA the numbers beyond ``_MOST_ROTATED`` hold little; to turn them too would cost time and
    give nothing.
    """

    def __init__(self, full_dim: int):
        """Start with no rotation."""
        self.size = min(full_dim, _MOST_ROTATED)
        self.free = torch.zeros(self.size, self.size, requires_grad=True)

    def __call__(self, rows: list[torch.Tensor], most: int) -> list[torch.Tensor]:
        """The first ``most`` numbers of rows after the rotation."""
        matrix = cayley(self.free)[:, :most]
        return [torch.cat([x[:, : self.size] @ matrix, x[:, self.size : most]], 1) for x in rows]

    def after(self, start: torch.Tensor) -> torch.Tensor:
        """One matrix that does ``start`` and then this."""
        weight = start.double()
        weight[:, : self.size] = weight[:, : self.size] @ cayley(self.free.detach().double())
        return weight.float()


class _Linear:
    """Any linear map."""

    def __init__(self, full_dim: int):
        """Start with the map that changes nothing."""
        self.free = torch.eye(full_dim, requires_grad=True)

    def __call__(self, rows: list[torch.Tensor], most: int) -> list[torch.Tensor]:
        """The first ``most`` numbers of rows after the map."""
        return [x @ self.free[:, :most] for x in rows]

    def after(self, start: torch.Tensor) -> torch.Tensor:
        """One matrix that does ``start`` and then this."""
        return start @ self.free.detach()


class _Loss:
    """The weighted divergence of all prefixes from the softmax of the original full vectors."""

    def __init__(self, dims, weights, scale: float, teacher_scale: float, label_share: float):
        """Keep the settings."""
        self.dims, self.weights, self.scale = dims, weights, scale
        self.teacher_scale, self.label_share = teacher_scale, label_share

    def __call__(self, rows: list[torch.Tensor], change):
        """One to three (B, D) arrays of unit rows -> (total, one divergence per prefix)."""
        itself = torch.eye(len(rows[0]), dtype=torch.bool) if len(rows) == 1 else None
        targets = similarity_softmax(
            rows[0], torch.cat(rows[1:] or rows), self.teacher_scale, itself
        )
        new = change(rows, max(self.dims))
        new = (new[0], torch.cat(new[1:] or new))
        settings = (self.dims, self.weights, self.scale)
        total, each = nested_distillation(
            *new, targets, *settings, left_out=itself, return_per_dim=True
        )
        if self.label_share:
            labels = nested_info_nce(*new, *settings)
            total = (1 - self.label_share) * total + self.label_share * labels
        return total, each.detach()


def _parts(embeddings) -> list[np.ndarray]:
    """One array, or two or three that belong together row by row."""
    alone = not isinstance(embeddings, tuple)
    names = ("embeddings",) if alone else ("queries", "documents", "negatives")
    arrays = (embeddings,) if alone else embeddings
    if not alone and not 2 <= len(arrays) <= 3:
        raise ValueError(
            "give one array, or a tuple (queries, documents) or (queries, documents, negatives); "
            f"got a tuple of {len(arrays)}"
        )
    arrays = [
        check_finite(name, check_matrix(name, x)) for name, x in zip(names, arrays, strict=False)
    ]
    if len({x.shape for x in arrays}) > 1:
        shapes = ", ".join(f"{name} {x.shape}" for name, x in zip(names, arrays, strict=False))
        raise ValueError(f"row i of each belongs together, but their shapes differ: {shapes}")
    return arrays


def _split(n: int, held_out: float | int, seed: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers to fit on, at most ``most``, and at most 2,000 to judge with."""
    if n < 40:
        raise ValueError(f"{n} rows are too few to learn from; give at least 40, better thousands")
    count = round(n * held_out) if held_out < 1 else int(held_out)
    if not 20 <= count <= n // 2:
        if not 0 < held_out < 1:
            raise ValueError(f"held_out must leave 20 to {n // 2} of {n} rows, got {held_out}")
        count = min(max(count, 20), n // 2)
    order = np.random.default_rng(seed).permutation(n)
    return np.sort(order[count:][:most]), np.sort(order[:count][:2_000])


def _trained(dims, weights, full_dim: int, rotation: bool) -> tuple[list[int], list[float]]:
    """The prefixes that can change, with their weights: a rotation leaves the full size alone."""
    weights = check_weights(weights, len(dims))
    pairs = [(k, w) for k, w in zip(dims, weights, strict=True) if not (rotation and k == full_dim)]
    if not pairs:
        raise ValueError(
            f"a rotation changes nothing at the full size {full_dim}; give smaller dims too"
        )
    return [k for k, _ in pairs], [w for _, w in pairs]


def _check_settings(steps, batch_size, patience, lr, scale, teacher_scale) -> None:
    check_count("steps", steps)
    check_count("batch_size", batch_size, least=2)
    check_count("patience", patience)
    for name, value in (("lr", lr), ("scale", scale), ("teacher_scale", teacher_scale)):
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be above 0, got {value}")


def _check_labels(label_share: float, arrays: int) -> None:
    if not 0 <= label_share <= 1:
        raise ValueError(f"label_share must lie in [0, 1], got {label_share}")
    if label_share and arrays == 1:
        raise ValueError("labels come from pairs: give (queries, documents), or label_share=0")


def _search(judge, train, queries: int, corpus: int) -> list[torch.Tensor]:
    """What heads are judged on: held-out rows search the fitted ones, as queries search a corpus.

    With pairs, the own document of query i is row i of the corpus.
    """
    own = [x[:queries] for x in judge[1:]]
    return [judge[0][:queries], torch.cat([*own, *[x[:corpus] for x in train[1:] or train]])]


def _report(judge: list[torch.Tensor], arrays: int, start: np.ndarray, head: Head) -> pd.DataFrame:
    """Held-out rows by raw prefix, PCA and the head: what they find, and recall of pairs."""
    queries, corpus = (x.numpy() for x in judge)
    top_k = min(10, len(corpus))
    raw = np.eye(head.full_dim, dtype=np.float32)
    wanted = exact_search(queries, corpus, top_k).indices
    rows = []
    for method, change in (("raw", raw), ("pca", start), ("head", head.weight)):
        for k in sorted(head.dims):
            cut = change[:, :k]
            found = exact_search(queries @ cut, corpus @ cut, top_k).indices
            nearest = (found == wanted[:, :1]).any(axis=1).mean()
            same = share_in_both(found, wanted)
            row = {"k": k, "method": method, "nearest": float(nearest), "overlap": same}
            if arrays > 1:
                own = found == np.arange(len(queries))[:, None]
                row["recall"] = float(own.any(axis=1).mean())
            rows.append(row)
    return pd.DataFrame(rows)
