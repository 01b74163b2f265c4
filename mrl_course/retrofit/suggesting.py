"""How few bytes are enough: numbers, int8 or bits, with and without a second stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import pandas as pd
import torch

from mrl_course.arguments import check_count
from mrl_course.costs import vector_bytes
from mrl_course.retrofit.judging import mean_interval, nearest, unit

KINDS = {"float32": 32, "int8": 8, "bits": 1}  # bits of a number
_TIMES = (2, 5, 10, 20)  # top_k: lengths of shortlists
_SHORT = 20  # a shortlist holds at most one in so many rows
_SIZES = [factor * 2**power for power in range(2, 13) for factor in (2, 3)]


@dataclass(frozen=True, eq=False)
class Suggestion:
    """The smallest vectors that find enough, and what the same bytes hold otherwise.

    ``print(suggestion)`` shows it.

    Attributes:
        dim: k, the numbers to keep without a second stage; D if nothing less is enough.
        rerank_dim, shortlist_size: the fewest numbers with a second stage, and the shortest list
            for them; ``shortlist_size`` is 0 if none was tried or none is enough.
        target, top_k: what was asked for.
        queries, corpus: how many rows choose (as many others check), among how many.
        table: one row for each kind (``float32``, ``int8``, ``bits``), size and shortlist:
            ``kind, numbers, bytes`` (of one vector), ``shortlist`` (0: none), ``recall`` (of the
            queries that choose), ``checked`` (of the others) with its 95 % interval ``low`` and
            ``high``, ``reaches`` (both are at least the target).
    """

    dim: int
    rerank_dim: int
    shortlist_size: int
    target: float
    top_k: int
    queries: int
    corpus: int
    table: pd.DataFrame = field(repr=False)

    def __str__(self) -> str:
        """The choice, and bits or numbers at its bytes."""
        lines = [
            f"recall@{self.top_k} of {self.target:g}, by {self.queries} queries among "
            f"{self.corpus:,} rows, checked by as many (a larger store finds less: measure there)"
        ]
        choices = [(self.dim, 0, "alone")]
        if self.shortlist_size:
            words = f"with a shortlist of {self.shortlist_size}, reranked with the full vectors"
            choices.append((self.rerank_dim, self.shortlist_size, words))
        for dim, shortlist, words in choices:
            lines.append(f"\n{dim} float32 numbers, {4 * dim} bytes, {words}. In as many bytes:")
            lines += [
                f"  {row['numbers']:5} {row['kind']:8} {row['bytes']:6} bytes  recall "
                f"{row['checked']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
                for row in self.at(4 * dim, shortlist).to_dict("records")
            ]
        return "\n".join(lines)

    def at(self, size: int, shortlist: int = 0) -> pd.DataFrame:
        """The three kinds in at most so many bytes, each as large as it can be.

        Args:
            size: bytes of a vector.
            shortlist: one of those that were tried, 0 for none.
        """
        size, shortlist = check_count("size", size), check_count("shortlist", shortlist, least=0)
        mine = (self.table.shortlist == shortlist) & (self.table.bytes <= size)
        mine = cast("pd.DataFrame", self.table[mine])
        largest = mine.sort_values("bytes", kind="stable").drop_duplicates("kind", keep="last")
        return largest.sort_values("numbers", kind="stable").reset_index(drop=True)


def suggested(
    queries: np.ndarray,
    corpus: np.ndarray,
    weight: np.ndarray,
    dims: Sequence[int],
    target: float,
    top_k: int,
    rerank: int | None,
) -> Suggestion:
    """Try all sizes, kinds and shortlists on (q, D) and (n, D) unit rows; arguments are checked."""
    full_dim, n = weight.shape[0], len(corpus)
    shortlists = [0]
    if rerank is None:
        shortlists += [top_k * times for times in _TIMES if top_k * times * _SHORT <= n]
    elif rerank:
        shortlists.append(rerank)
    asked, rows = torch.from_numpy(queries), torch.from_numpy(corpus)
    wanted = nearest(asked, rows, top_k)
    change = torch.from_numpy(np.ascontiguousarray(weight))
    asked, rows = asked @ change, rows @ change
    order = torch.randperm(
        len(asked), generator=torch.Generator("cpu").manual_seed(0), device="cpu"
    )
    half = len(asked) // 2
    tried = []
    for kind, bits in KINDS.items():
        codes = _codes(kind, asked, rows)
        for size in sorted({k for k in (*_SIZES, *dims) if k < full_dim} | {full_dim}):
            one, two = (unit(x[:, :size]) for x in codes)
            found = nearest(one, two, max(top_k, *shortlists))
            for shortlist in shortlists:
                among = found[:, : shortlist or top_k]
                share = (among[:, :, None] == wanted[:, None, :]).any(1).double().mean(1)
                mean, low, high = mean_interval(share[order[half:]].numpy())
                chosen = float(share[order[:half]].mean())
                numbers = (chosen, mean, max(low, 0.0), min(high, 1.0))
                reaches = min(numbers[:2]) >= target - 1e-12
                tried.append((kind, size, vector_bytes(size, bits), shortlist, *numbers, reaches))
    names = ["kind", "numbers", "bytes", "shortlist", "recall", "checked", "low", "high", "reaches"]
    table = pd.DataFrame(tried, columns=names)
    enough = cast("pd.DataFrame", table[(table.kind == "float32") & table.reaches])
    enough = enough.sort_values(["numbers", "shortlist"])
    alone, listed = enough[enough.shortlist == 0], enough[enough.shortlist > 0]
    best = listed.iloc[0] if len(listed) else None
    return Suggestion(
        dim=int(alone.numbers.iloc[0]) if len(alone) else full_dim,
        rerank_dim=full_dim if best is None else int(best.numbers),
        shortlist_size=0 if best is None else int(best.shortlist),
        target=target,
        top_k=top_k,
        queries=half,
        corpus=n,
        table=table,
    )


def _codes(kind: str, queries: torch.Tensor, corpus: torch.Tensor) -> list[torch.Tensor]:
    """Both sides as numbers of one kind, still as float32, to be compared by cosine.

    int8: each number by its own range over the corpus. Bits: the signs after subtracting the
    corpus' mean, as every engine compares them (the cosine of signs is the Hamming distance).
    """
    if kind == "float32":
        return [queries, corpus]
    if kind == "bits":
        mean = corpus.mean(0)
        return [torch.where(x > mean, 1.0, -1.0).to(x.dtype) for x in (queries, corpus)]
    range_of = corpus.abs().amax(0).clamp_min(1e-30) / 127
    return [(x / range_of).round().clamp(-127, 127) * range_of for x in (queries, corpus)]
