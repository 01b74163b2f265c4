"""The result of a fit: a map for one model's vectors, what it is good for, and where it goes."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from safetensors import safe_open
from safetensors.numpy import save

from mrl_course.arguments import (
    check_count,
    check_dims,
    check_embeddings,
    check_finite,
    check_matrix,
    check_number,
    check_numbers,
    check_same_size,
    check_seed,
    warn,
    warn_zero_rows,
    zero_rows,
)
from mrl_course.errors import WrongKind, WrongValue
from mrl_course.evaluation import tempered_scales
from mrl_course.files import user_path, write_whole
from mrl_course.ranking import unit_rows
from mrl_course.retrofit.exporting import written_as
from mrl_course.retrofit.judging import Field, Method, Report, make_report
from mrl_course.retrofit.rows import (
    BLOCK,
    LEAST_JUDGES,
    LEAST_ROWS,
    MOST_JUDGES,
    blocks_of,
    distinct_rows,
)
from mrl_course.retrofit.suggesting import Suggestion, suggested

if TYPE_CHECKING:  # slow to import, and not needed by whoever has arrays
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, StaticEmbedding

HELD_NUMBERS = 2**24  # of held-out vectors that a head keeps for ``suggest``: 64 MB
_CORPUS = 20_000  # rows that are searched for a report
_ENOUGH_TO_JUDGE = 50  # rows from which on a model can be told from another by where they lie
_SQUEEZED = 0.5  # mean cosine of two rows, above which their mean tells a model from another
_OTHER_MODEL = 0.04
"""Agreement below which vectors are of another model: between eight real models at most 0.02 was
measured, for other kinds of text of the same model at least 0.07."""
_INSIDE = 0.9  # of the variance of the fitted vectors lies in their first directions
_OTHER_KIND = 0.1  # more variance outside these directions than held-out rows had


class Held(NamedTuple):
    """Vectors that the fit did not use, and those they search; unit rows, as many as fit."""

    queries: np.ndarray
    corpus: np.ndarray


@dataclass
class Head:
    """A rotation, or another linear map, after which the prefixes of one model's vectors are good.

    Attributes:
        weight: (D, D) float32; new vectors are ``old @ weight``.
        dims: the prefix sizes it was fitted for.
        report: what held-out rows find with it, with the raw prefix, PCA and tempered PCA, and
            what to do; see :class:`Report`. It is of the head before the held-out rows joined
            the PCA, where there are few rows (``fit_head``). None if loaded from a file.
        history: the divergence of each trained prefix on rows that were not fitted, by step
            (empty if nothing was learnt, or loaded).
        seconds: wall-clock time of the fit, from the call to the report.
        model: name of the model whose vectors were fitted, where it was given.
        mean: (D,) float32, mean of the fitted vectors, each of length 1.
        energy: (D,) float32, mean square of each new number over the fitted vectors; sums to 1.
            It is the fingerprint by which :meth:`transform` notices another model's vectors.
        interrupted: whether Ctrl-C ended the fit early; the map is the one until then, if that
            is better than PCA.
        method: what was chosen: ``"rotated"``, ``"pca"``, ``"raw"`` (no change), or ``"linear"``.
        turned: how many principal directions were turned among themselves.
        turn: (turned, turned) float32, that rotation: ``weight`` is PCA followed by it. None
            where it is not PCA that was turned.
        variances: (D,) float32, of the principal directions.
        temper: the exponent of tempered PCA for each size, for reports.
        outside: share of the variance of held-out rows that lies outside the directions which
            hold nine tenths of the fitted rows'.
        held: vectors for :meth:`suggest`; None if loaded.
    """

    weight: np.ndarray
    dims: list[int]
    report: Report | None = field(default=None, repr=False)
    history: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    seconds: float = 0.0
    model: str = ""
    mean: np.ndarray | None = field(default=None, repr=False)
    energy: np.ndarray | None = field(default=None, repr=False)
    interrupted: bool = False
    method: str = "rotated"
    turned: int = 0
    turn: np.ndarray | None = field(default=None, repr=False)
    variances: np.ndarray | None = field(default=None, repr=False)
    temper: dict[int, float] = field(default_factory=dict, repr=False)
    outside: float = float("nan")
    held: Held | None = field(default=None, repr=False)

    @property
    def full_dim(self) -> int:
        """D."""
        return len(self.weight)

    def __str__(self) -> str:
        """The report, or what is known without one."""
        if self.report is None:
            return f"Head({self.full_dim} -> {self.full_dim}, {self.method}, for {self.dims})"
        return str(self.report)

    def transform(
        self, emb: ArrayLike, dim: int | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Map embeddings, in blocks: a million rows, or a memory-mapped file, are no problem.

        For a stream of blocks see :meth:`transform_blocks`.

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
        for start in range(0, len(emb), BLOCK):
            rows = unit_rows(check_finite("emb", emb[start : start + BLOCK], start))
            if start == 0:
                self._warn_of_another_model(rows)
            zero[start : start + len(rows)] = ~rows.any(axis=1)
            out[start : start + len(rows)] = unit_rows(rows @ weight)
        warn_zero_rows("emb", zero)

    def transform_blocks(
        self, blocks: Iterable[ArrayLike], dim: int | None = None
    ) -> Iterator[np.ndarray]:
        """Map a stream: a block of small vectors for each block of vectors, one at a time.

        Args:
            blocks: (n, D) arrays, for example one for each file; any number of them.
            dim: keep so many numbers; all by default.

        Yields:
            (n, dim) float32 of length 1 each, as :meth:`transform` gives them.

        Raises:
            WrongKind, WrongValue: at the block that has no numbers, another size, or NaN (the
                message counts rows from the first block on); ``dim`` out of range.
        """
        dim = self.full_dim if dim is None else check_dims([dim], self.full_dim)[0]
        if isinstance(blocks, np.ndarray) or not hasattr(blocks, "__iter__"):
            raise WrongKind("blocks must be an iterable of arrays; transform takes a single array")
        weight = np.ascontiguousarray(self.weight[:, :dim])
        for first, block in blocks_of("blocks", iter(blocks), self.full_dim):
            rows = unit_rows(block)
            if first == 0:
                self._warn_of_another_model(rows)
            warn_zero_rows("blocks", zero_rows(rows), first)
            yield unit_rows(rows @ weight)

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
        share = (float(new @ self.energy) - chance) / own
        if self.mean is not None and float(self.mean @ self.mean) > _SQUEEZED:
            # All rows lie around one direction. Others must lie there, too, and not where the map
            # puts it: those were mapped already.
            around = np.stack([self.mean, unit_rows(self.mean[None] @ self.weight)[0]])
            cosines = unit_rows(around) @ unit_rows(unit_rows(rows).mean(axis=0)[None])[0]
            share *= max(float(cosines[0]), 0.0) if cosines[0] >= cosines[1] - 1e-6 else 0.0
        return share

    def _warn_of_another_model(self, rows: np.ndarray) -> None:
        if len(rows) < _ENOUGH_TO_JUDGE:
            return
        share = self._agreement(rows[:2_000])
        if share < _OTHER_MODEL:
            warn(self._words_on_model(share))

    def _words_on_model(self, share: float) -> str:
        named = f" of {self.model}" if self.model else ""
        return (
            f"these vectors do not look like those{named} that the head was fitted on "
            f"(agreement {share:.2f}; other texts of the same model have above {_OTHER_MODEL}): "
            "are they of another model, cut, packed, or mapped already?"
        )

    def _check_size(self, size: int) -> None:
        if size != self.full_dim:
            raise WrongValue(
                f"this head maps vectors of {self.full_dim} numbers, got {size}; it belongs to one "
                "model, and to its full vectors"
            )

    # --------------------------------------------------------------------- how good is it, where

    def methods(self, axes: np.ndarray | None = None) -> dict[str, Method]:
        """The maps that a report compares: no map, PCA, tempered PCA, and this one."""
        if axes is None:
            axes = self._axes()
        maps: dict[str, Method] = {"raw": None}
        if axes is not None and self.variances is not None:
            maps["pca"] = axes
            maps["tempered"] = {
                k: (axes * tempered_scales(self.variances, power).astype(np.float32))[:, :k]
                for k, power in self.temper.items()
            }
        return maps | {"head": self.weight}

    def _axes(self) -> np.ndarray | None:
        """PCA, found by turning back."""
        if self.turn is None:
            return None
        axes, m = self.weight.copy(), len(self.turn)
        axes[:, :m] = axes[:, :m] @ self.turn.T
        return axes

    def share_outside(self, rows: np.ndarray) -> float:
        """Share of the variance of (n, D) unit rows outside where the fitted ones have most."""
        axes = self._axes()
        if axes is None or self.variances is None or len(rows) < 2:
            return float("nan")
        order = np.cumsum(self.variances, dtype=np.float64)
        inside = 1 + int(np.searchsorted(order, _INSIDE * order[-1]))
        away = rows - rows.mean(axis=0)
        total = float(np.square(away, dtype=np.float64).sum())
        kept = float(np.square(away @ axes[:, :inside], dtype=np.float64).sum())
        return 1 - kept / total if total > 0 else float("nan")

    def report_on(
        self, vectors: ArrayLike, pairs: ArrayLike | None = None, *, seed: int = 0
    ) -> Report:
        """Judge this head on other vectors: before a store is mapped with it, or as a store grows.

        Some of them search the others, as in the report of the fit, with the PCA and the tempered
        PCA of the vectors that were *fitted*. A UserWarning, and the advice, say where the vectors
        are of another kind than those: much of their variance lies where the fitted ones had next
        to none, or the head finds less than the raw prefix.

        Args:
            vectors: (n, D), at least 40 different ones, best thousands, that were not fitted on.
            pairs: (n, D), row i belongs to row i of ``vectors``: then these search those.
            seed: which rows search.

        Returns:
            The :class:`Report`.

        Raises:
            WrongKind, WrongValue: no numbers, wrong shapes, NaN, too few rows.
        """
        given = [check_embeddings("vectors", vectors)]
        if pairs is not None:
            given.append(check_embeddings("pairs", pairs))
            check_same_size("pairs", given[1], "the vectors", given[0].shape[1])
            if len(given[0]) != len(given[1]):
                raise WrongValue(f"{len(given[0])} vectors need as many pairs, got {len(given[1])}")
        self._check_size(given[0].shape[1])
        parts = [unit_rows(x) for x in given]
        zero = np.any([zero_rows(part) for part in parts], axis=0)
        warn_zero_rows("vectors", zero)
        ground = _searching(parts, np.flatnonzero(~zero), check_seed(seed))
        kinds = {
            "agreement": self._agreement(parts[0]),
            "outside": self.share_outside(parts[0][~zero]),
        }
        report = make_report(ground, self.methods(), self.dims, kinds=kinds)
        words = self._words_on_kind(report)
        for word in words:
            warn(word)
        return replace(report, advice=(*words, *report.advice))

    def _words_on_kind(self, report: Report) -> list[str]:
        """What is wrong with vectors for which this head was not made."""
        words, kinds = [], report.kinds
        if kinds["agreement"] < _OTHER_MODEL:
            words.append(self._words_on_model(kinds["agreement"]))
        if kinds["outside"] > self.outside + _OTHER_KIND:
            words.append(
                f"these vectors are of another kind than those that were fitted: "
                f"{kinds['outside']:.0%} of their variance lies outside the directions that held "
                f"90 % of the fitted ones' (of held-out rows of that kind {self.outside:.0%}); fit "
                "a head on vectors like these"
            )
        worse = report.gains[(report.gains.than == "raw") & (report.gains.high < 0)]
        if len(worse):
            sizes = ", ".join(map(str, worse.k))
            words.append(
                f"this head finds less than the raw prefix at k = {sizes} on these vectors: do not "
                "map them with it; fit one on vectors like these"
            )
        return words

    def suggest(
        self,
        recall: float = 0.95,
        top_k: int = 10,
        rerank: int | None = None,
        vectors: ArrayLike | None = None,
    ) -> Suggestion:
        """The smallest vectors that still find what the full ones find; and bits or numbers?

        Held-out vectors search others. For each number of numbers k it is counted which share of
        the full vectors' ``top_k`` is found, directly or on a shortlist that the full vectors
        rerank. Beside it what the same bytes hold otherwise: int8 numbers (four times as many), or
        sign bits of the mapped and centred vectors (32 times as many).

        Args:
            recall: share of the results of the full vectors to be found, above 0, at most 1.
            top_k: results of a query.
            rerank: length of the shortlist, at least ``top_k``; 0 for none. By default none and
                2, 5, 10 and 20 times ``top_k`` are tried, up to a twentieth of the rows.
            vectors: (n, D), at least 100 different ones, to measure on; by default those that the
                fit held out and fitted, as many as the head keeps. A loaded head has none. Recall
                falls as a store grows, so give as many as you can.

        Returns:
            A :class:`Suggestion`: half of the queries choose, the other half checks.

        Raises:
            WrongKind, WrongValue: out of range, wrong shapes, NaN; a loaded head without
                ``vectors``.
        """
        recall = check_number("recall", recall, above=0, most=1)
        if vectors is not None:
            rows = unit_rows(check_embeddings("vectors", vectors))
            self._check_size(rows.shape[1])
            zero = zero_rows(rows)
            warn_zero_rows("vectors", zero)
            ground = _searching([rows], np.flatnonzero(~zero), 0, 5 * LEAST_JUDGES)
            held = Held(ground.queries.numpy(), ground.corpus.numpy())
        elif self.held is None:
            raise WrongValue(
                "this head came from a file, without vectors to measure on: pass vectors=, (n, D) "
                "of the same model, best some that were not fitted on"
            )
        else:
            held = self.held
        top_k = check_count("top_k", top_k, most=len(held.corpus), of="the rows that are searched")
        if rerank is not None:
            rerank = check_count("rerank", rerank, 0, len(held.corpus), "0 for no second stage")
            if 0 < rerank < top_k:
                raise WrongValue(f"a shortlist of {rerank} cannot hold top_k = {top_k} results")
        return suggested(held.queries, held.corpus, self.weight, self.dims, recall, top_k, rerank)

    # ------------------------------------------------------------------------------ where it goes

    def export(self, path: str | Path, dim: int | None = None, column: str = "embedding") -> Path:
        """Write the map for a service in another language, by the ending of the file's name.

        ``.npy`` holds the (D, dim) matrix; ``.json`` the same as ``{"full_dim", "dim", "dims",
        "model", "weight"}``, weight[i][j] from old number i to new number j; ``.sql`` one
        expression of PostgreSQL with pgvector that turns a column of full vectors into
        ``vector(dim)``. Multiply, then cut; the results have different lengths, so compare them by
        cosine (``<=>`` in pgvector), or divide them by their lengths.

        Args:
            path: ends in ``.npy``, ``.json`` or ``.sql``.
            dim: numbers to keep; all by default. Keep few for SQL: it has D times ``dim`` numbers.
            column: name of the column of full vectors, for SQL; it is quoted.

        Returns:
            The path.

        Raises:
            WrongValue: another ending, ``dim`` out of range, a column that cannot be named.
            OSError: it cannot be written.
        """
        dim = self.full_dim if dim is None else check_dims([dim], self.full_dim)[0]
        about = {"full_dim": self.full_dim, "dim": dim, "model": self.model}
        about["dims"] = [k for k in self.dims if k <= dim]
        path = user_path(path)
        content = written_as(path.suffix, self.weight[:, :dim], about, column)
        return write_whole(path, content)

    def save(self, path: str | Path) -> Path:
        """Write the head as one safetensors file, whole or not at all; return the path.

        Raises:
            OSError: it cannot be written.
        """
        tensors: dict[str, np.ndarray] = {"weight": self.weight}
        for name in _STORED:
            if (array := getattr(self, name)) is not None:
                tensors[name] = array
        tensors = {name: np.ascontiguousarray(t, np.float32) for name, t in tensors.items()}
        known = {"method": self.method, "outside": self.outside, "temper": self.temper}
        metadata = {"mrl_course": "head", "dims": json.dumps(self.dims), "model": self.model}
        return write_whole(path, save(tensors, metadata | {"known": json.dumps(known)}))

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
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            return cls._loaded(tensors, metadata)
        except Exception as error:  # safetensors raises its own kinds
            raise WrongValue(f"{path} is no head saved by mrl_course: {error}") from error

    @classmethod
    def _loaded(cls, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> Head:
        """A head of what a file held, checked."""
        weight = check_embeddings("weight", tensors["weight"])
        if weight.shape[0] != weight.shape[1]:
            raise WrongValue(f"weight must be a square matrix, got shape {weight.shape}")
        head = cls(weight, check_dims(json.loads(metadata["dims"]), len(weight)))
        head.model = metadata.get("model", "")
        for name in _STORED:
            if name in tensors:
                array = check_finite(name, tensors[name])
                wanted = (len(weight),) if name != "turn" else (len(array), len(array))
                if array.shape != wanted or len(array) > len(weight):
                    raise WrongValue(f"{name} must have shape {wanted}")
                setattr(head, name, array)
        known = json.loads(metadata.get("known", "{}"))
        head.method = str(known.get("method", "rotated"))
        head.outside = float(known.get("outside", "nan"))
        powers = {
            int(k): check_number("temper", v, least=0) for k, v in known.get("temper", {}).items()
        }
        head.temper = (
            dict(zip(check_dims(list(powers), len(weight)), powers.values(), strict=True))
            if powers
            else {}
        )
        head.turned = 0 if head.turn is None else len(head.turn)
        return head

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


_STORED = ("mean", "energy", "turn", "variances")


def _searching(
    parts: list[np.ndarray], rows: np.ndarray, seed: int, least: int = LEAST_ROWS
) -> Field:
    """Some of the different rows search the others; with pairs, all the pairs."""
    rows = rows[distinct_rows([part[rows] for part in parts])]
    if len(rows) < least:
        raise WrongValue(
            f"{len(rows)} different vectors are too few to judge with; give at least {least}, best "
            "thousands"
        )
    order = np.random.default_rng(seed).permutation(rows)
    count = min(MOST_JUDGES, len(rows) // 2)
    asked, rest = np.sort(order[:count]), np.sort(order[count:])[:_CORPUS]
    own = [part[asked] for part in parts[1:]]
    corpus = np.concatenate([*own, parts[-1][rest]])
    one, two = torch.from_numpy(parts[0][asked]), torch.from_numpy(corpus)
    return Field(one, two, paired=bool(own), numbers=asked)
