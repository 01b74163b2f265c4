"""Twins against honest baselines, five seeds, three tasks, every difference with its interval.

    MRL_COURSE_DATA=FOLDER python benchmarks/evidence.py [--seeds 0,1,2,3,4] [--out FILE] [--quick]

The twins are those of ``train_twins``: 3 epochs in batches of 512, learning rate 0.05. FOLDER holds
``cranfield`` too. Half an hour of one core; trained models and judged values are kept in
``build/evidence``, so that a run that was stopped goes on where it was. ``--quick`` is a smoke test
on the miniature: 32 numbers, two seeds, half a minute.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from common import GRAMMAR, static_triplets, write_record
from judging import Judge, Values, over_queries, over_seeds
from sentence_transformers import SentenceTransformer

from mrl_course import retrofit
from mrl_course.arguments import default_dims
from mrl_course.data import load_allnli
from mrl_course.evaluation import pca_rotation
from mrl_course.files import results_folder, write_whole
from mrl_course.models import build_static_model
from mrl_course.training import train

CACHE = Path("build/evidence")
COLUMNS = ["what", "method", "against", "over", "seed", "task", "k", "value", "low", "high"]
GAMMAS = np.arange(0, 11) / 10  # 0 is PCA, 1 makes all directions equally long
FITTED = 20_000  # premises that PCA sees, as in ``mrl-course twins``
HERE = [("regular", "pca"), ("matryoshka", "pca"), ("matryoshka", "head")]
"""What is fitted on Cranfield's abstracts themselves; the head takes longest and comes last."""
DRAWS = 3  # of random numbers, for each seed


def recipe() -> str:
    """A hash of what ``fit_head`` is made of: its values are kept until that changes."""
    files = sorted(Path(str(retrofit.__file__)).parent.glob("*.py"))
    return hashlib.sha256(b"".join(map(Path.read_bytes, files))).hexdigest()[:8]


class Lab:
    """Models of one size on one data set, trained when they are first asked for."""

    def __init__(self, dim: int, cache: Path, most: int | None = None):
        """Read and tokenise the triplets once; train on at most the first ``most``."""
        self.dim, self.dims, self.cache = dim, default_dims(dim), cache
        self.tokenizer, self.data = static_triplets(dim)
        self.data = replace(self.data, rows=self.data.rows[:most])
        self.premises = list(dict.fromkeys(load_allnli("train")["anchor"]))

    def model(self, name: str, seed: int, size: int | None = None, **settings):
        """A trained model, from the cache if there; ``settings`` are those of ``train``."""
        file = self.cache / "models" / f"{name}-{seed}"
        if file.is_dir():
            return SentenceTransformer(str(file), device="cpu")
        size = size or self.dim
        model = build_static_model([], size, seed=seed, tokenizer=self.tokenizer)
        data = settings.pop("data", self.data)
        dims = settings.pop("dims", [size])
        history = train(model, data, dims, seed=seed, progress=False, **settings)
        print(f"{name}, seed {seed}: {history.steps} steps, {history.seconds:.0f} s", flush=True)
        model.save(str(file), create_model_card=False)
        return model

    def twin(self, name: str, seed: int):
        """``"regular"`` or ``"matryoshka"``."""
        return self.model(name, seed, dims=[self.dim] if name == "regular" else self.dims)

    def kept(self, name: str, seed: int, make: Callable[[], Values]) -> Values:
        """Judged values, from the cache if they were made before."""
        file = self.cache / "values" / f"{name}-{seed}.npz"
        if not file.exists():
            write_whole(file, lambda path: _save(path, make()))
        with np.load(file) as stored:
            return {task: stored[task] for task in stored}


def _save(path: Path, values: Values) -> None:
    with open(path, "wb") as file:  # savez would add a suffix to a path
        np.savez_compressed(file, **values)


# ------------------------------------------------------------------------ baselines


def tempered_pca(fitted: np.ndarray, held_out: np.ndarray, dims: list[int]) -> tuple:
    r"""PCA whose axes are multiplied by :math:`\lambda^{-\gamma/2}`, gamma chosen without labels.

    (Spectral Tempering, https://arxiv.org/abs/2603.19339.) For each size the gamma counts with
    which held-out rows keep most of their ten nearest neighbours, by the original full vectors,
    among 5,000 of the fitted rows.

    Returns:
        The rotation (D, D), the variances (D,), and gamma by size.
    """
    rotation = pca_rotation(fitted)
    variance = np.maximum((fitted @ rotation).var(axis=0), 1e-12)
    corpus, queries = fitted[:5_000], held_out
    truth = _nearest(queries, corpus)
    gammas = {}
    for k in dims:
        overlap = []
        for gamma in GAMMAS:
            axes = rotation[:, :k] * variance[:k] ** (-gamma / 2)
            found = _nearest(queries @ axes, corpus @ axes)
            overlap.append(
                np.mean([len(set(a) & set(b)) for a, b in zip(truth, found, strict=True)])
            )
        gammas[k] = float(GAMMAS[int(np.argmax(overlap))])
    return rotation, variance, gammas


def _nearest(queries: np.ndarray, corpus: np.ndarray, top: int = 10) -> np.ndarray:
    unit = [
        x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (queries, corpus)
    ]
    return np.argpartition(-(unit[0] @ unit[1].T), min(top, len(corpus) - 1), axis=1)[:, :top]


def tempered_values(judge: Judge, emb: list, fit: tuple) -> Values:
    """Values of every size with its own gamma."""
    rotation, variance, gammas = fit
    parts = []
    for k, gamma in gammas.items():
        axes = rotation[:, :k] * variance[:k] ** (-gamma / 2)
        parts.append(judge.values([x @ axes for x in emb], [k]))
    return {task: np.concatenate([part[task] for part in parts]) for task in parts[0]}


def random_values(judge: Judge, emb: list, seed: int, draw: int) -> Values:
    """Values of k random numbers."""
    order = np.random.default_rng([seed, draw]).permutation(emb[0].shape[1])
    return judge.values([x[:, order] for x in emb])


# ------------------------------------------------------------------------ a seed


def judge_seed(
    lab: Lab, judge: Judge, seed: int, trained_at: list[int], heads: bool
) -> dict[str, Values]:
    """The values of every method for one seed, with or without the heads, which take longest."""
    emb: dict[str, list[np.ndarray]] = {}

    def vectors(name: str) -> list[np.ndarray]:
        if name not in emb:
            emb[name] = judge.encode(lab.twin(name, seed))
        return emb[name]

    def pca() -> Values:
        rotation = pca_rotation(_encode(lab.twin("regular", seed), lab.premises[:FITTED]))
        return judge.values([x @ rotation for x in vectors("regular")])

    def tempered() -> Values:
        fitted = _encode(lab.twin("regular", seed), lab.premises[: FITTED + 1_000])
        held_out = len(fitted) - min(1_000, len(fitted) // 5)
        fit = tempered_pca(fitted[:held_out], fitted[held_out:], judge.dims)
        gammas = {"gamma": np.array(list(fit[2].values()))}
        return tempered_values(judge, vectors("regular"), fit) | gammas

    def at_k(k: int) -> Values:
        return judge.values(judge.encode(lab.model(f"only-{k}", seed, size=k)), [k])

    def here(name: str, method: str) -> Values:
        # The abstracts' own vectors, never the questions.
        own = vectors(name)[5]
        if method == "pca":
            change = pca_rotation(own)
        else:
            change = retrofit.fit_head(own, judge.dims, seed=seed, progress=False).weight
        changed = [x @ change if i > 3 else x for i, x in enumerate(vectors(name))]
        return judge.values(changed, only=["cranfield"])

    makers: dict[str, Callable[[], Values]] = {
        "regular": lambda: judge.values(vectors("regular")),
        "matryoshka": lambda: judge.values(vectors("matryoshka")),
        "regular+pca": pca,
        "regular+tempered-pca": tempered,
        **{f"random-dims-{i}": (lambda i=i: random_values(judge, vectors("regular"), seed, i))
           for i in range(DRAWS)},
        **{f"only-{k}": (lambda k=k: at_k(k)) for k in trained_at},
        **{f"{twin}+{method} here": (lambda t=twin, m=method: here(t, m))
           for twin, method in HERE[: None if heads else -1]},
    }  # fmt: skip
    found = {}
    for name, make in makers.items():
        version = f"-{recipe()}" if "head" in name else ""
        found[name] = lab.kept(name.replace(" ", "-") + version, seed, make)
        print(seed, name, flush=True)
    return found


def _encode(model, texts) -> np.ndarray:
    return model.encode(list(texts), batch_size=1024, show_progress_bar=False)


# ------------------------------------------------------------------------ the table


class Table:
    """Rows of the record: scores of every seed, then means, shares kept and differences."""

    def __init__(self, judge: Judge, seeds: list[int]):
        """Start empty."""
        self.judge, self.seeds, self.rows = judge, seeds, []
        self.score: dict[tuple, np.ndarray] = {}  # (method, task) -> (seeds, sizes)
        self.sample: dict[tuple, np.ndarray] = {}  # -> (resamples, seeds, sizes)
        self.sizes: dict[str, list[int]] = {}

    def add(
        self,
        method: str,
        sizes: list[int],
        values: list[list[Values]],
        seeds: list[int] | None = None,
    ) -> None:
        """Score a method: for each seed one or more values, which are averaged after scoring.

        ``seeds`` where they are fewer than the others: what hangs on no chance has one.
        """
        self.sizes[method] = sizes
        for task in [task for task in values[0][0] if task != "gamma"]:
            stacked = np.stack([np.stack([draw[task] for draw in seed]) for seed in values])
            scores = self.judge.score(task, stacked).mean(axis=1)
            self.score[method, task] = scores
            self.sample[method, task] = self.judge.resampled(task, stacked).mean(axis=2)
            for seed, line in zip(seeds or self.seeds, scores, strict=True):
                for k, score in zip(sizes, line, strict=True):
                    self.row("score", method, "-", "-", seed, task, k, score)

    def row(self, what, method, against, over, seed, task, k, value, low=None, high=None):
        """One row, rounded."""
        numbers = [None if x is None else round(float(x), 5) for x in (value, low, high)]
        self.rows.append([what, method, against, over, seed, task, int(k), *numbers])

    def intervals(self, what, method, against, task, k, by_seed, sample) -> None:
        """A mean with both intervals: over seeds, and over queries (of the mean over seeds)."""
        mean, low, high = over_seeds(by_seed)
        self.row(what, method, against, "seeds", None, task, k, mean, low, high)
        self.row(what, method, against, "queries", None, task, k, mean, *over_queries(sample))

    def means(self, method: str) -> None:
        """Mean scores, and the share of the full-size score that is kept."""
        for task in self.tasks(method):
            score, sample = self.score[method, task], self.sample[method, task]
            for i, k in enumerate(self.sizes[method]):
                self.intervals("mean", method, "-", task, k, score[:, i], sample[:, :, i].mean(1))
                full = self.sizes[method][-1]
                if full == self.judge.dims[-1] and k < full:
                    kept = score[:, i] / score[:, -1]
                    samples = (sample[:, :, i] / sample[:, :, -1]).mean(1)
                    self.intervals("kept", method, "-", task, k, kept, samples)

    def difference(self, method: str, against: str) -> None:
        """Paired differences at the sizes that both have."""
        for task in [task for task in self.tasks(method) if task in self.tasks(against)]:
            for i, k in enumerate(self.sizes[method]):
                j = self.sizes[against].index(k)
                by_seed = self.score[method, task][:, i] - self.score[against, task][:, j]
                sample = self.sample[method, task][:, :, i] - self.sample[against, task][:, :, j]
                self.intervals("difference", method, against, task, k, by_seed, sample.mean(1))

    def tasks(self, method: str) -> list[str]:
        """Those a method was judged on."""
        return [task for name, task in self.score if name == method]


def tabulate(judge: Judge, found: dict[int, dict[str, Values]], trained_at: list[int]) -> Table:
    """All rows, from the values of every seed."""
    table, by_seed = Table(judge, list(found)), list(found.values())
    single = [name for name in by_seed[0] if not name.startswith(("only-", "random-dims-"))]
    for name in single:
        table.add(name, judge.dims, [[values[name]] for values in by_seed])
    draws = [name for name in by_seed[0] if name.startswith("random-dims-")]
    table.add("random-dims", judge.dims, [[values[name] for name in draws] for values in by_seed])
    joined = [
        {
            task: np.concatenate([values[f"only-{k}"][task] for k in trained_at])
            for task in ("sts", "premises", "cranfield")
        }
        for values in by_seed
    ]
    table.add("trained-at-k", trained_at, [[values] for values in joined])
    for method in table.sizes:
        table.means(method)
        if method != "regular":
            table.difference(method, "regular")
    others = ("regular+pca", "regular+tempered-pca", "random-dims", "trained-at-k")
    for method in others:  # what Matryoshka is ahead of, or behind
        table.difference(method, "matryoshka")
    for method in ("regular+pca here", "matryoshka+pca here", "matryoshka+head here"):
        table.difference(method, "matryoshka")
    table.difference("matryoshka+head here", "regular+pca here")
    return table


def main() -> None:
    """Train, judge, and record."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--trained-at", default="8,16,32,64,128")
    parser.add_argument("--out", type=Path, default=results_folder() / "evidence.json")
    parser.add_argument("--quick", action="store_true", help="a smoke test on the miniature")
    args = parser.parse_args()
    torch.set_num_threads(1)
    seeds, trained_at = (
        [int(x) for x in text.split(",")] for text in (args.seeds, args.trained_at)
    )
    dim, cache, cranfield = 768, CACHE, Path(os.environ["MRL_COURSE_DATA"]) / "cranfield"
    if args.quick:
        seeds, trained_at, dim, cranfield = seeds[:2], [8, 16], 32, None
        cache = args.out.parent / "cache"
    lab = Lab(dim, cache, 2_048 if args.quick else None)
    judge = Judge(cranfield, lab.dims, 200 if args.quick else None)
    for seed in seeds:
        judge_seed(lab, judge, seed, trained_at, heads=False)
    found = {seed: judge_seed(lab, judge, seed, trained_at, heads=True) for seed in seeds}
    table = tabulate(judge, found, trained_at)
    what = (
        f"twins (D = {dim}) on {len(lab.data.rows):,} AllNLI-style triplets and their baselines: "
        "Spearman on STS-B, recall@10 of held-out premises, NDCG@10 on Cranfield; mean scores, "
        "shares kept and paired differences with 95 % intervals"
    )
    gammas = [values["regular+tempered-pca"]["gamma"].tolist() for values in found.values()]
    write_record(
        args.out,
        what,
        f"benchmarks/evidence.py --seeds {args.seeds} --trained-at {args.trained_at}",
        COLUMNS,
        table.rows,
        source=GRAMMAR if args.quick else None,
        gamma_by_seed_and_size=[" ".join(map(str, line)) for line in gammas],
        sizes=" ".join(map(str, judge.dims)),
    )


if __name__ == "__main__":
    main()
