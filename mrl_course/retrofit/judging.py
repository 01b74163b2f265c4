"""Held-out rows search others: what raw prefixes, PCA, tempered PCA and the head find, and lose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import pandas as pd
import torch

from mrl_course.arguments import check_count

TOP_K = 10
_SCORES = 2**23  # at a time: 32 MB
_EXAMPLES = 5  # of the worst queries, for each size
_EVEN = 0.005  # overlaps that differ by less are even
_HALF = 0.5
MEASURES = {
    "overlap": "share of the ten nearest neighbours by the original that stay the same",
    "lost": "share of rows that lose all ten",
    "nearest": "share of rows whose nearest neighbour by the original is among the ten nearest",
    "recall": "share of queries whose own document is among the ten nearest",
}
METHODS = ("raw", "pca", "tempered", "head")


def nearest(queries: torch.Tensor, corpus: torch.Tensor, top_k: int) -> torch.Tensor:
    """(q, top_k) rows of the corpus with the largest products, the largest first."""
    step = max(1, _SCORES // len(corpus))
    return torch.cat([(part @ corpus.T).topk(top_k, 1).indices for part in queries.split(step)])


def shares_found(found: torch.Tensor, wanted: torch.Tensor) -> np.ndarray:
    """(q,): which share of the wanted rows each query found."""
    return (found[:, :, None] == wanted[:, None, :]).any(1).double().mean(1).cpu().numpy()


def unit(rows: torch.Tensor) -> torch.Tensor:
    """Rows of length 1; zero rows stay zero."""
    return torch.nn.functional.normalize(rows, dim=1, eps=1e-30)


Method = np.ndarray | Mapping[int, np.ndarray] | None
"""A map of all sizes, (D, m); one of (D, k) for each size; or None: no map, the raw prefix."""


def is_rotation(method: Method) -> bool:
    """Whether the full vectors keep their cosines."""
    if method is None:
        return True
    if isinstance(method, Mapping) or method.shape[0] != method.shape[1]:
        return False
    some = method[:, :: max(1, len(method) // 32)].astype(np.float64)  # columns enough to tell
    return bool(np.abs(some.T @ some - np.eye(some.shape[1])).max() < 1e-3)


@dataclass
class Field:
    """Queries that search a corpus, and what they find with all numbers.

    Attributes:
        queries, corpus: (q, D) and (n, D) float32 unit rows.
        paired: row i of the corpus is the own document of query i.
        numbers: (q,) the row numbers of the queries where they came from.
    """

    queries: torch.Tensor
    corpus: torch.Tensor
    paired: bool = False
    numbers: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        """Search once with all numbers."""
        self.top_k = min(TOP_K, len(self.corpus))
        self.wanted = nearest(self.queries, self.corpus, self.top_k)

    def search(self, method: Method, dims: Sequence[int]) -> Iterator[tuple[int, torch.Tensor]]:
        """(k, (q, top_k) found) for each size that the method has, ascending."""
        full_dim = self.queries.shape[1]
        sizes = [k for k in sorted(dims) if k < full_dim or not isinstance(method, Mapping)]
        inner = [k for k in sizes if k < full_dim or not is_rotation(method)]
        both = self.queries, self.corpus
        if isinstance(method, np.ndarray) and inner:
            both = [x @ self._tensor(method[:, : inner[-1]]) for x in both]
        for k in sizes:
            if k not in inner:
                yield k, self.wanted  # a rotation changes nothing at full size
                continue
            cut = both
            if isinstance(method, Mapping):
                cut = [x @ self._tensor(method[k]) for x in both]
            one, two = (unit(x[:, :k]) for x in cut)
            yield k, nearest(one, two, self.top_k)

    def _tensor(self, change: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(change, np.float32)).to(self.queries.device)

    def shares(self, method: Method, dims: Sequence[int], own: bool = False) -> np.ndarray:
        """(sizes, q) overlap with the original, or whether the own document is found."""
        return np.stack(
            [
                self.own_found(found) if own else shares_found(found, self.wanted)
                for _, found in self.search(method, dims)
            ]
        )

    def own_found(self, found: torch.Tensor) -> np.ndarray:
        """(q,) 1 where the own document is among what was found."""
        own = torch.arange(len(found), device=found.device)[:, None]
        return (found == own).any(1).double().cpu().numpy()


@dataclass(frozen=True, eq=False)
class Report:
    """What held-out rows find by raw prefixes, PCA, tempered PCA and a head; and what to do.

    ``print(report)`` shows all of it.

    Attributes:
        table: one row a size and method (``raw``, ``pca``, ``tempered``, ``head``): ``k``,
            ``method``, ``overlap`` (mean share of the nearest neighbours by the original vectors
            that stay the same) with its 95 % interval ``low`` and ``high``, ``lost`` (share of
            queries that lose all of them: the tail that a mean hides), ``nearest`` (share of
            queries whose nearest neighbour is still among the ten nearest), and with pairs
            ``recall`` (share of queries whose own document is).
        gains: overlap of the head minus that of each other method, query by query: ``k``,
            ``than``, ``gain``, ``low``, ``high``.
        worst: for each size the queries that the head serves worst: ``k``, ``row`` (its number in
            what was given), ``overlap``.
        queries, corpus, top_k: how many rows searched among how many, and for how many.
        kinds: how far the vectors are of the kind that was fitted: ``agreement``, ``outside``
            (share of their variance in directions where the fitted ones have next to none), or
            empty for the fit's own report.
        advice: what to do, in words, the most important first.
    """

    table: pd.DataFrame = field(repr=False)
    gains: pd.DataFrame = field(repr=False)
    worst: pd.DataFrame = field(repr=False)
    queries: int
    corpus: int
    top_k: int
    kinds: Mapping[str, float]
    advice: tuple[str, ...]

    def __str__(self) -> str:
        """The advice, the tables, the tail."""
        lines = list(self.advice)
        lines.append(
            f"\n{self.queries:,} rows that were not used to fit search {self.corpus:,} others"
        )
        for column, title in MEASURES.items():
            if column in self.table:
                wide = self.table.pivot_table(index="k", columns="method", values=column)
                wide = cast("pd.DataFrame", wide[[m for m in METHODS if m in wide]])
                lines.append(
                    f"\n{title}\n" + wide.to_string(float_format="{:.3f}".format, na_rep="-")
                )
        half = [int(k) for k in self.worst.k.unique()][:1]
        for k in half:
            rows = ", ".join(map(str, self.worst[self.worst.k == k].row))
            lines.append(f"\nthe head serves these rows worst at {k} numbers: {rows}")
        return "\n".join(lines)

    def overlap(self, k: int, method: str = "head") -> float:
        """The mean overlap of one method at one size; KeyError if that was not measured."""
        k = check_count("k", k)
        found = self.table[(self.table.k == k) & (self.table.method == method)].overlap
        if not len(found):
            raise KeyError(f"{method} at k = {k} was not measured")
        return float(found.iloc[0])


def mean_interval(shares: np.ndarray, errors: float = 1.96) -> tuple[float, float, float]:
    """Mean over queries, and its interval of so many standard errors to both sides."""
    mean = float(shares.mean())
    wide = errors * float(shares.std(ddof=1)) / len(shares) ** 0.5 if len(shares) > 1 else 0.0
    return mean, mean - wide, mean + wide


def make_report(
    ground: Field,
    methods: Mapping[str, Method],
    dims: Sequence[int],
    *,
    kinds: Mapping[str, float] | None = None,
    first_words: Sequence[str] = (),
) -> Report:
    """Judge all methods on the same queries.

    Args:
        ground: who searches where.
        methods: by name, ``"head"`` among them.
        dims: sizes.
        kinds: see :class:`Report`.
        first_words: what the advice begins with.
    """
    rows, worst = [], []
    shares: dict[tuple[str, int], np.ndarray] = {}
    for method, change in methods.items():
        for k, found in ground.search(change, dims):
            mine = shares[method, k] = shares_found(found, ground.wanted)
            mean, low, high = mean_interval(mine)
            row = {"k": k, "method": method, "overlap": mean}
            row |= {"low": max(low, 0.0), "high": min(high, 1.0), "lost": float((mine == 0).mean())}
            row["nearest"] = float((found == ground.wanted[:, :1]).any(1).double().mean())
            if ground.paired:
                row["recall"] = float(ground.own_found(found).mean())
            rows.append(row)
    for k in sorted(dims):
        mine = shares["head", k]
        bad = np.argsort(mine, kind="stable")[:_EXAMPLES]
        worst += [(k, int(ground.numbers[i]), float(mine[i])) for i in bad]
    gains = [
        (k, method, *mean_interval(shares["head", k] - other))
        for (method, k), other in shares.items()
        if method != "head"
    ]
    table = pd.DataFrame(rows).sort_values("k", kind="stable", ignore_index=True)
    compared = pd.DataFrame(gains, columns=["k", "than", "gain", "low", "high"])
    advice = [*first_words, *_advice(table, compared)]
    return Report(
        table=table,
        gains=compared,
        worst=pd.DataFrame(worst, columns=["k", "row", "overlap"]),
        queries=len(ground.queries),
        corpus=len(ground.corpus),
        top_k=ground.top_k,
        kinds=dict(kinds or {}),
        advice=tuple(advice),
    )


def _advice(table: pd.DataFrame, gains: pd.DataFrame) -> list[str]:
    """Where the head is behind, and how far the vectors may be cut."""
    words = []
    for method, name in (
        ("raw", "the raw prefix"), ("pca", "PCA"), ("tempered", "tempered PCA")
    ):  # fmt: skip
        mine = (gains.than == method) & (gains.gain < -_EVEN) & (gains.high < 0)
        behind = cast("pd.DataFrame", gains[mine])
        if len(behind):
            sizes = ", ".join(
                f"{k} ({gain:+.3f})" for k, gain in zip(behind.k, behind.gain, strict=True)
            )
            words.append(f"{name} keeps more than this head at k = {sizes}: use it there.")
    head = table[table.method == "head"].set_index("k").overlap
    enough = [int(k) for k in head.index if head[k] >= _HALF]
    if enough and enough[0] > head.index[0]:
        words.append(
            f"Do nothing below {enough[0]} numbers: there even the head keeps less than half of "
            "the ten nearest neighbours, so rerank with longer vectors or do not cut so far."
        )
    return words
