"""What the evidence is judged on: three tasks, a value for every query, intervals for every mean.

A curve of the package is one number a size. To say how sure it is, the values behind it are needed:
of each sentence pair the cosine, of each query its recall@10 or NDCG@10.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import rankdata, t

from mrl_course.data import Retrieval, load_retrieval, load_stsb

TOP = 10
RESAMPLES = 1_000
TASKS = {
    "sts": "STS-B test, Spearman",
    "premises": "held-out premises, recall@10",
    "cranfield": "Cranfield, NDCG@10",
}
_BLOCK = 500  # queries at a time: 20 MB of scores

Values = dict[str, np.ndarray]  # of each task (sizes, queries)


@dataclass(frozen=True)
class Graded:
    """Queries, a corpus, and for each query the grades of the rows that answer it."""

    queries: list[str]
    corpus: list[str]
    grades: list[dict[int, int]]


def read_cranfield(folder: Path) -> Graded:
    """Questions on aerodynamics, 1,400 abstracts, grades 1 to 4, in the layout of BEIR."""
    texts = {
        name: [json.loads(line) for line in open(folder / f"{name}.jsonl", encoding="utf-8")]
        for name in ("corpus", "queries")
    }
    place = {row["_id"]: i for i, row in enumerate(texts["corpus"])}
    grades: dict[str, dict[int, int]] = {}
    with open(folder / "qrels" / "test.tsv", encoding="utf-8") as file:
        for query, document, grade in list(csv.reader(file, delimiter="\t"))[1:]:
            if int(grade) > 0 and document in place:
                grades.setdefault(query, {})[place[document]] = int(grade)
    asked = [row for row in texts["queries"] if row["_id"] in grades]
    return Graded(
        [row["text"] for row in asked],
        [f"{row['title']} {row['text']}" for row in texts["corpus"]],
        [grades[row["_id"]] for row in asked],
    )


def first_of(retrieval: Retrieval, few: int) -> Retrieval:
    """A small part of a retrieval task: some queries, and ten times as many texts."""
    return Retrieval(
        retrieval.queries[:few], retrieval.corpus[: 10 * few], retrieval.relevant[:few]
    )


def as_graded(retrieval: Retrieval) -> Graded:
    """A retrieval task with one grade, so that a smoke test needs no other collection."""
    grades = [{row: 1} for row in retrieval.relevant]
    return Graded(list(retrieval.queries), list(retrieval.corpus), grades)


class Judge:
    """The three tasks, read once."""

    def __init__(self, cranfield: Path | None, dims: Sequence[int], few: int | None = None):
        """Read the tasks; without a folder the third is the second in another measure.

        ``few`` queries only, for a smoke test.
        """
        self.dims, self.resamples = list(dims), RESAMPLES if few is None else 100
        self.stsb, self.retrieval = load_stsb("test"), load_retrieval("test")
        if few is not None:
            self.retrieval = first_of(self.retrieval, few)
        graded = as_graded(self.retrieval) if cranfield is None else read_cranfield(cranfield)
        self.graded, self.target = graded, np.asarray(self.stsb["score"], np.float64)

    def encode(self, model) -> list[np.ndarray]:
        """Six arrays: two for STS-B, queries and corpus for each of the others."""
        texts = [self.stsb["sentence1"], self.stsb["sentence2"]]
        texts += [self.retrieval.queries, self.retrieval.corpus]
        texts += [self.graded.queries, self.graded.corpus]
        return [
            model.encode(list(column), batch_size=1024, show_progress_bar=False) for column in texts
        ]

    def values(
        self, emb: list[np.ndarray], dims: Sequence[int] | None = None, only: Sequence[str] = ()
    ) -> Values:
        """The value of every pair and query at every size: each task (sizes, queries)."""
        dims = self.dims if dims is None else list(dims)
        made = {
            "sts": lambda: pair_cosines(emb[0], emb[1], dims),
            "premises": lambda: recalls(emb[2], emb[3], self.retrieval.relevant, dims),
            "cranfield": lambda: ndcgs(emb[4], emb[5], self.graded.grades, dims),
        }
        return {task: make() for task, make in made.items() if task in (only or made)}

    def score(self, task: str, values: np.ndarray) -> np.ndarray:
        """(...,) scores of (..., queries) values."""
        return spearman(values, self.target) if task == "sts" else values.mean(axis=-1)

    def resampled(self, task: str, values: np.ndarray, seed: int = 0) -> np.ndarray:
        """(resamples, ...) scores of random samples of queries, drawn with replacement.

        The same samples for the same task, so that differences between models are paired.
        """
        rng, n = np.random.default_rng(seed), values.shape[-1]
        drawn = rng.integers(n, size=(self.resamples, n))
        if task != "sts":
            counts = np.stack([np.bincount(sample, minlength=n) for sample in drawn])
            flat = values.reshape(-1, n)
            return (counts @ flat.T.astype(np.float64) / n).reshape(-1, *values.shape[:-1])
        return np.stack([spearman(values[..., s], self.target[s]) for s in drawn])


# ------------------------------------------------------------------------ values of queries


def pair_cosines(one: np.ndarray, two: np.ndarray, dims: Sequence[int]) -> np.ndarray:
    """(sizes, pairs)."""
    found = []
    for k in dims:
        first, second = _unit(one[:, :k]), _unit(two[:, :k])
        found.append(np.einsum("ij,ij->i", first, second).round(7))
    return np.stack(found)


def recalls(
    queries: np.ndarray, corpus: np.ndarray, relevant: Sequence[int], dims: Sequence[int]
) -> np.ndarray:
    """(sizes, queries): 1 where the right row is among the first ten, else 0."""
    relevant = np.asarray(relevant)
    found = np.empty((len(dims), len(queries)), np.float32)
    for i, k in enumerate(dims):
        right = np.ascontiguousarray(_unit(corpus[:, :k]).T)
        for start in range(0, len(queries), _BLOCK):
            here = slice(start, start + _BLOCK)
            score = _unit(queries[here, :k]) @ right
            mine = score[np.arange(len(score)), relevant[here]]
            found[i, here] = (score > mine[:, None]).sum(axis=1) < TOP
    return found


def ndcgs(
    queries: np.ndarray, corpus: np.ndarray, grades: list[dict[int, int]], dims: Sequence[int]
) -> np.ndarray:
    """(sizes, queries) NDCG@10; the gain is the grade, as in trec_eval."""
    gain = np.zeros((len(queries), len(corpus)), np.float32)
    for query, rows in enumerate(grades):
        gain[query, list(rows)] = list(rows.values())
    discount = 1 / np.log2(np.arange(2, TOP + 2))[: len(corpus)]
    best = -np.sort(-gain, axis=1)[:, :TOP] @ discount
    found = []
    for k in dims:
        score = _unit(queries[:, :k]) @ _unit(corpus[:, :k]).T
        order = np.argsort(-score, axis=1, kind="stable")[:, :TOP]
        found.append(np.take_along_axis(gain, order, axis=1) @ discount / best)
    return np.stack(found)


def spearman(values: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(...,) Spearman's correlation of (..., n) values with n numbers."""
    ranks, wanted = rankdata(values, axis=-1), rankdata(target)
    ranks -= ranks.mean(axis=-1, keepdims=True)
    wanted -= wanted.mean()
    return ranks @ wanted / np.sqrt((ranks**2).sum(axis=-1) * (wanted**2).sum())


def _unit(emb: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(emb, axis=1, keepdims=True)
    return emb / np.where(lengths > 0, lengths, 1)


# ------------------------------------------------------------------------ intervals


def over_seeds(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Mean of one value a seed, and the 95 % interval of Student's t; no interval for one seed."""
    values = np.asarray(values, np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return mean, None, None
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return mean, float(mean - half), float(mean + half)


def over_queries(sample: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of what resampled queries give."""
    low, high = np.percentile(sample, [2.5, 97.5])
    return float(low), float(high)
