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
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from safetensors import safe_open
from safetensors.numpy import save
from scipy.sparse import bmat, coo_matrix
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from mrl_course.arguments import (
    check_count,
    check_dims,
    check_embeddings,
    check_finite,
    check_matrix,
    check_number,
    check_numbers,
    check_seed,
    check_weights,
    default_dims,
    warn,
    warn_zero_rows,
)
from mrl_course.errors import WrongKind, WrongValue
from mrl_course.evaluation import pca_rotation
from mrl_course.files import user_path, write_whole
from mrl_course.losses import nested_distillation, nested_info_nce, similarity_softmax
from mrl_course.neighbours import share_in_both
from mrl_course.ranking import unit_rows
from mrl_course.search import exact_search

if TYPE_CHECKING:  # slow to import, and not needed by whoever has arrays
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, StaticEmbedding

_BLOCK = 16_384  # rows mapped at a time
_MOST_ROTATED = 768  # principal directions; the work grows with the cube
_EVERY = 25  # steps between two looks at the held-out rows
_LEAST_ROWS = 40
_LEAST_SPREAD = 1e-9  # of directions; the rounding of float32 alone gives less
_LEAST_JUDGES = 20
_ENOUGH_TO_JUDGE = 50  # rows from which on a model can be told from another by where they lie
_OTHER_MODEL = 0.06
"""Agreement below which vectors are of another model: between eight real models at most 0.03 was
seen, between kinds of text of one model at least 0.22."""
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
        model: name of the model whose vectors were fitted, where it was given.
        mean: (D,) float32, mean of the fitted vectors, each of length 1.
        energy: (D,) float32, mean square of each new number over the fitted vectors; sums to 1.
            With ``mean`` it is the fingerprint by which :meth:`transform` notices another model's
            vectors.
        interrupted: whether Ctrl-C ended the fit early; the map is the best one until then.
    """

    weight: np.ndarray
    dims: list[int]
    report: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    history: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    seconds: float = 0.0
    model: str = ""
    mean: np.ndarray | None = field(default=None, repr=False)
    energy: np.ndarray | None = field(default=None, repr=False)
    interrupted: bool = False

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
                table = cast("pd.DataFrame", table[["raw", "pca", "head"]])
                text += f"\n\n{title}\n" + table.to_string(float_format="{:.3f}".format)
        return text

    def transform(
        self, emb: ArrayLike, dim: int | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Map embeddings, in blocks: a million rows, or a memory-mapped file, are no problem.

        Vectors of another model are mapped into nonsense, and their numbers do not tell. So the
        first rows of 50 or more are compared with what the head was fitted on; where nearly
        nothing agrees, a UserWarning says so (:meth:`agreement`).

        Args:
            emb: (n, D) embeddings of the model that the head was fitted for, or one of shape (D,).
            dim: keep so many numbers; all by default.
            out: float32 array of the result's shape to write into, for example a memory-mapped one.

        Returns:
            (n, dim) or (dim,) float32 of length 1 each. Zero rows stay zero, with a warning.

        Raises:
            WrongKind, WrongValue: no numbers, wrong shape, NaN, ``dim`` out of range.
        """
        array = check_numbers("emb", emb)
        one = array.ndim == 1
        array = check_matrix("emb", array[None] if one else array)
        self._check_size(array.shape[1])
        dim = self.full_dim if dim is None else check_dims([dim], self.full_dim)[0]
        shape = (dim,) if one else (len(array), dim)
        if out is None:
            out = np.empty(shape, np.float32)
        if not isinstance(out, np.ndarray):
            raise WrongKind(f"out must be a NumPy array, got {type(out).__name__}")
        if out.shape != shape or out.dtype != np.float32:
            raise WrongValue(f"out must be float32 of shape {shape}, got {out.dtype} {out.shape}")
        self._map(array, dim, out[None] if one else out)
        return out

    def _map(self, emb: np.ndarray, dim: int, out: np.ndarray) -> None:
        weight = np.ascontiguousarray(self.weight[:, :dim])
        zero = np.zeros(len(emb), bool)
        for start in range(0, len(emb), _BLOCK):
            rows = unit_rows(check_finite("emb", emb[start : start + _BLOCK], start))
            if start == 0:
                self._warn_of_another_model(rows)
            zero[start : start + len(rows)] = ~rows.any(axis=1)
            out[start : start + len(rows)] = unit_rows(rows @ weight)
        warn_zero_rows("emb", zero)

    def agreement(self, emb: ArrayLike) -> float:
        """How far vectors lie where those lay that the head was fitted on.

        0 is what vectors of another model get (at random they put 1/D of their length into each
        direction), 1 what the fitted vectors get. Other texts of the same model lie between.

        Args:
            emb: (n, D) embeddings, best 50 or more; rows of zeros are left out.

        Returns:
            A share, about -0.05 to 1.2; NaN if the head knows nothing of the vectors that it was
            fitted on, or if those lay in all directions alike.

        Raises:
            WrongKind, WrongValue: no numbers, wrong shape, NaN.
        """
        array = check_embeddings("emb", emb)
        self._check_size(array.shape[1])
        return self._agreement(unit_rows(array))

    def _agreement(self, rows: np.ndarray) -> float:
        rows = rows[rows.any(axis=1)]
        if self.energy is None or not len(rows):
            return float("nan")
        chance = 1 / self.full_dim
        own = float(self.energy @ self.energy) - chance
        if own < chance:  # no direction holds more than others: nothing to tell models apart by
            return float("nan")
        new = np.square(unit_rows(rows @ self.weight)).mean(axis=0)
        return (float(new @ self.energy) - chance) / own

    def _warn_of_another_model(self, rows: np.ndarray) -> None:
        if len(rows) < _ENOUGH_TO_JUDGE:
            return
        share = self._agreement(rows[:2_000])
        if share < _OTHER_MODEL:
            named = f" of {self.model}" if self.model else ""
            warn(
                f"these vectors do not look like those{named} that the head was fitted on "
                f"(agreement {share:.2f}; other texts of the same model have above "
                f"{_OTHER_MODEL}): are they of another model, cut, packed, or mapped already?"
            )

    def _check_size(self, size: int) -> None:
        if size != self.full_dim:
            raise WrongValue(
                f"this head maps vectors of {self.full_dim} numbers, got {size}; it belongs to one "
                "model, and to its full vectors"
            )

    def save(self, path: str | Path) -> Path:
        """Write the head as one safetensors file, whole or not at all; return the path.

        Raises:
            OSError: it cannot be written.
        """
        tensors = {"weight": self.weight}
        if self.mean is not None and self.energy is not None:
            tensors |= {"mean": self.mean, "energy": self.energy}
        tensors = {name: np.ascontiguousarray(t, np.float32) for name, t in tensors.items()}
        metadata = {"mrl_course": "head", "dims": json.dumps(self.dims), "model": self.model}
        return write_whole(path, save(tensors, metadata))

    @classmethod
    def load(cls, path: str | Path) -> Head:
        """Read a saved head, and look at what it holds: shapes, sizes, finite numbers.

        Raises:
            FileNotFoundError: there is no such file.
            WrongValue: the file is no head, or a damaged one.
        """
        path = user_path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        try:
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
                dims = json.loads(metadata["dims"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            weight = check_embeddings("weight", tensors["weight"])
            if weight.shape[0] != weight.shape[1]:
                raise WrongValue(f"weight must be a square matrix, got shape {weight.shape}")
            dims = check_dims(dims, len(weight))
            for name in ("mean", "energy"):
                if name in tensors and tensors[name].shape != (len(weight),):
                    raise WrongValue(f"{name} must have shape ({len(weight)},)")
                check_finite(name, tensors.get(name, weight[0]))
        except Exception as error:  # safetensors raises its own kinds
            raise WrongValue(f"{path} is no head saved by mrl_course: {error}") from error
        mean, energy = tensors.get("mean"), tensors.get("energy")
        return cls(weight, dims, model=metadata.get("model", ""), mean=mean, energy=energy)

    def as_module(self) -> Dense:
        """The map as a Sentence Transformers ``Dense`` module without bias or activation."""
        from sentence_transformers.sentence_transformer.modules import Dense

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

        What else changes a vector or a score goes along: prompts, the default prompt, the
        similarity function.

        Raises:
            WrongValue: the model's vectors have another size, or the model cuts them
                (``truncate_dim``): the head needs full vectors, and the cut comes after it.
        """
        from sentence_transformers import SentenceTransformer

        if model.truncate_dim is not None:
            raise WrongValue(
                f"the model cuts its vectors to {model.truncate_dim} numbers, and the head maps "
                "full ones: set model.truncate_dim = None here, and cut what attach returns"
            )
        size = model.get_embedding_dimension()
        if size != self.full_dim:
            raise WrongValue(f"the head maps {self.full_dim} numbers, the model gives {size}")
        return SentenceTransformer(
            modules=[*model.children(), self.as_module()],
            device=str(model.device),
            prompts=cast("dict[str, str]", dict(model.prompts)),
            default_prompt_name=model.default_prompt_name,
            similarity_fn_name=model.similarity_fn_name,
        )

    def absorb(self, model: SentenceTransformer) -> SentenceTransformer:
        """A copy of a *static* model whose table has this map built in: no additional module.

        The vector of a text is the mean of its rows of the table, so mapping the rows maps it. The
        table keeps its kind of numbers and its device.

        Raises:
            WrongKind: the model is not one ``StaticEmbedding``.
            WrongValue: its vectors have another size.
        """
        kinds = [type(module).__name__ for module in model.children()]
        if kinds != ["StaticEmbedding"]:
            raise WrongKind(f"only a StaticEmbedding can absorb a head, got {kinds}; use attach")
        if model[0].embedding_dim != self.full_dim:
            raise WrongValue(
                f"the head maps {self.full_dim} numbers, the model gives {model[0].embedding_dim}"
            )
        model = copy.deepcopy(model)
        with torch.no_grad():
            table = cast("StaticEmbedding", model[0]).embedding.weight
            weight = torch.from_numpy(np.ascontiguousarray(self.weight)).to(table.device)
            table.copy_((table.float() @ weight).to(table.dtype))
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
    held_out: float | int | None = None,
    patience: int = 4,
    seed: int = 0,
    progress: bool = True,
    model: str = "",
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
        held_out: share (below 1) or number of rows that are not fitted on, 20 to half of them; by
            default a tenth, and at least 20. They search the fitted rows: this stops the fit and
            makes the report. No vector stands on both sides.
        patience: stop after so many looks (one every 25 steps) without improvement; the best map
            is kept.
        seed: of the split and the batches.
        progress: show a bar on a terminal (never in a notebook or a file).
        model: name of the model, kept in the head and in its file.

    Returns:
        The :class:`Head`. Interrupting (Ctrl-C) returns the best map so far.

    Raises:
        WrongKind, WrongValue: wrong shapes, NaN, fewer than 40 distinct directions, arguments out
            of range.

    Rows of zeros are left out, and vectors that come again count once; a warning says how many.
    """
    parts = _parts(embeddings)
    full_dim = parts[0].shape[1]
    dims = check_dims(default_dims(full_dim) if dims is None else dims, full_dim)
    steps, batch_size = check_count("steps", steps), check_count("batch_size", batch_size, least=2)
    patience, seed = check_count("patience", patience), check_seed(seed)
    lr, scale = check_number("lr", lr, above=0), check_number("scale", scale, above=0)
    teacher_scale = check_number("teacher_scale", teacher_scale, above=0)
    label_share = _checked_label_share(label_share, len(parts))
    fitted, judged = _split(parts, held_out, seed, max(50_000, steps * batch_size))
    train, judge = (
        [torch.from_numpy(unit_rows(x[rows])) for x in parts] for rows in (fitted, judged)
    )
    if float(torch.cat(train).var(dim=0).sum()) < _LEAST_SPREAD:
        raise WrongValue(
            "all vectors point in one direction, up to rounding: nothing can be learnt"
        )
    start = torch.from_numpy(pca_rotation(torch.cat(train).numpy()))
    loss_of = _Loss(*_trained(dims, weights, full_dim, rotation), scale, teacher_scale, label_share)
    change = (_Rotation if rotation else _Linear)(full_dim)
    began = time.perf_counter()
    history, interrupted = _fit(
        change, loss_of, [x @ start for x in train],
        [x @ start for x in _search(judge, train, 500, 4_000)],
        steps, batch_size, lr, patience, seed, progress,
    )  # fmt: skip
    head = Head(change.after(start).numpy(), list(dims), history=history, model=model)
    head.interrupted = interrupted
    head.seconds = time.perf_counter() - began
    head.mean, head.energy = _seen(train, head.weight)
    head.report = _report(_search(judge, train, 2_000, 20_000), len(parts), start.numpy(), head)
    return head


def _seen(train: list[torch.Tensor], weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the fitted unit vectors, and mean square of each of their new numbers."""
    mean, energy, n = np.zeros(len(weight)), np.zeros(len(weight)), sum(map(len, train))
    for rows in (block for x in train for block in x.split(_BLOCK)):
        mean += rows.sum(dim=0).numpy() / n
        energy += np.square(unit_rows(rows.numpy() @ weight)).sum(axis=0) / n
    return mean.astype(np.float32), energy.astype(np.float32)


def _fit(
    change: _Rotation | _Linear,
    loss_of: _Loss,
    train: list[torch.Tensor],
    judge: list[torch.Tensor],
    steps: int,
    batch_size: int,
    lr: float,
    patience: int,
    seed: int,
    progress: bool,
) -> tuple[pd.DataFrame, bool]:
    """Fit ``change`` in place and leave it at its best: held-out divergences, was it stopped."""
    interrupted = False
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
        interrupted = True  # the best map so far is kept
    finally:
        bar.close()
        change.free.data = best
    history = pd.DataFrame.from_dict(looks, orient="index", columns=loss_of.dims)
    return history.rename_axis("step"), interrupted


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


class _Rotation:
    """A rotation of the first numbers among themselves; no rotation at the start.

    After PCA the numbers beyond ``_MOST_ROTATED`` hold little; to turn them too would cost time and
    give nothing.
    """

    def __init__(self, full_dim: int) -> None:
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

    def __init__(self, full_dim: int) -> None:
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

    def __init__(
        self,
        dims: list[int],
        weights: list[float],
        scale: float,
        teacher_scale: float,
        label_share: float,
    ) -> None:
        """Keep the settings."""
        self.dims, self.weights, self.scale = dims, weights, scale
        self.teacher_scale, self.label_share = teacher_scale, label_share

    def __call__(
        self, rows: list[torch.Tensor], change: _Rotation | _Linear
    ) -> tuple[torch.Tensor, torch.Tensor]:
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


def _parts(embeddings: Any) -> list[np.ndarray]:
    """One array, or two or three that belong together row by row."""
    alone = not isinstance(embeddings, tuple)
    names = ("embeddings",) if alone else ("queries", "documents", "negatives")
    arrays = (embeddings,) if alone else embeddings
    if not alone and not 2 <= len(arrays) <= 3:
        raise WrongValue(
            "give one array, or a tuple (queries, documents) or (queries, documents, negatives); "
            f"got a tuple of {len(arrays)}"
        )
    arrays = [
        check_finite(name, check_matrix(name, x)) for name, x in zip(names, arrays, strict=False)
    ]
    if len({x.shape for x in arrays}) > 1:
        shapes = ", ".join(f"{name} {x.shape}" for name, x in zip(names, arrays, strict=False))
        raise WrongValue(f"row i of each belongs together, but their shapes differ: {shapes}")
    return arrays


def _split(
    parts: list[np.ndarray], held_out: float | int | None, seed: int, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers to fit on, at most ``most``, and at most 2,000 to judge with.

    Zero rows and repetitions are in neither. A vector that belongs to several others (a document
    with many queries) is on one side only, with all of them, or the report would praise memory.
    """
    rows, group = _distinct(parts)
    n = len(rows)
    if n < _LEAST_ROWS:
        raise WrongValue(
            f"{n} different directions among {len(parts[0])} rows are too few to learn from; give "
            f"at least {_LEAST_ROWS}, better thousands"
        )
    if held_out is None:
        count = max(_LEAST_JUDGES, n // 10)
    else:
        held_out = check_number("held_out", held_out, above=0)
        count = round(n * held_out) if held_out < 1 else int(held_out)
        if not _LEAST_JUDGES <= count <= n // 2:
            raise WrongValue(
                f"held_out must leave {_LEAST_JUDGES} to {n // 2} of {n} distinct rows, got "
                f"{held_out:g}, which is {count}"
            )
    rng = np.random.default_rng(seed)
    place = np.argsort(rng.permutation(group.max() + 1))[group]  # of each group in a random order
    order = np.argsort(place, kind="stable")
    sizes = np.bincount(place)
    held = np.repeat(_groups_that_fit(sizes, count), sizes)
    judged, fitted = rows[order[held]], rows[order[~held]]
    if len(judged) < _LEAST_JUDGES:
        raise WrongValue(
            "no rows can be held out: nearly all hang together, because a few vectors belong to "
            f"most rows ({group.max() + 1} groups). Fit on the different vectors alone, for "
            "example fit_head(documents)"
        )
    fitted = rng.permutation(fitted)[:most]
    return np.sort(fitted), np.sort(judged[:2_000])


def _groups_that_fit(sizes: np.ndarray, count: int) -> np.ndarray:
    """Which groups, in the given order, are held out: about ``count`` rows, none over a half."""
    held, total = np.zeros(len(sizes), bool), 0
    for i, size in enumerate(sizes.tolist()):
        if total >= count:
            break
        if total + size <= max(count, _LEAST_JUDGES) * 1.5:
            held[i], total = True, total + size
    return held


def _distinct(parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rows that count (no zeros, nothing twice), and the group of each.

    Two rows are in one group if they share a vector in one of the arrays, or if others join them.
    """
    keys = [_codes(x) for x in parts]
    zero = np.any([key < 0 for key in keys], axis=0)
    warn_zero_rows("embeddings", zero)
    rows = np.flatnonzero(~zero)
    if len(rows):
        _, first = np.unique(
            np.stack([key[rows] for key in keys], axis=1), axis=0, return_index=True
        )
        repeated = len(rows) - len(first)
        if repeated:
            warn(
                f"{repeated} of {len(rows)} rows repeat another one; each distinct "
                f"{'vector' if len(parts) == 1 else 'pair'} counts once"
            )
        rows = rows[np.sort(first)]
    if len(parts) == 1 or not len(rows):
        return rows, np.arange(len(rows))
    ends = [key[rows] for key in keys]
    shift = np.cumsum([0] + [end.max() + 1 for end in ends])
    nodes = np.concatenate([end + s for end, s in zip(ends, shift, strict=False)])
    owner = np.tile(np.arange(len(rows)), len(ends))
    graph = coo_matrix((np.ones(len(nodes)), (owner, nodes)), (len(rows), shift[-1])).tocsr()
    square = coo_matrix((len(rows), len(rows)))
    both = bmat([[square, graph], [graph.T, None]])
    _, component = connected_components(both, directed=False)
    return rows, np.unique(component[: len(rows)], return_inverse=True)[1]


def _codes(emb: np.ndarray) -> np.ndarray:
    """A number for each direction, the same for the same direction; -1 for rows of zeros."""
    codes, known = np.empty(len(emb), np.int64), {}
    for start in range(0, len(emb), _BLOCK):
        for i, row in enumerate(unit_rows(emb[start : start + _BLOCK]) + 0.0):  # no -0.0
            key = hashlib.blake2b(row.tobytes(), digest_size=16).digest() if row.any() else None
            codes[start + i] = -1 if key is None else known.setdefault(key, len(known))
    return codes


def _trained(
    dims: list[int], weights: Sequence[float] | None, full_dim: int, rotation: bool
) -> tuple[list[int], list[float]]:
    """The prefixes that can change, with their weights: a rotation leaves the full size alone."""
    weights = check_weights(weights, len(dims), training=True)
    pairs = [(k, w) for k, w in zip(dims, weights, strict=True) if not (rotation and k == full_dim)]
    if not pairs:
        raise WrongValue(
            f"a rotation changes nothing at the full size {full_dim}; give smaller dims too"
        )
    return [k for k, _ in pairs], [w for _, w in pairs]


def _checked_label_share(label_share: float, arrays: int) -> float:
    share = check_number("label_share", label_share, least=0, most=1)
    if share and arrays == 1:
        raise WrongValue("labels come from pairs: give (queries, documents), or label_share=0")
    return share


def _search(
    judge: list[torch.Tensor], train: list[torch.Tensor], queries: int, corpus: int
) -> list[torch.Tensor]:
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
