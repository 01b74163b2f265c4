"""The main job without a notebook: train the twins, measure them beside honest baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mrl_course import DEFAULT_DIMS
from mrl_course.arguments import check_count, check_seed
from mrl_course.errors import WrongKind, WrongValue

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    from mrl_course.data import Retrieval
    from mrl_course.evaluation import Curve
    from mrl_course.training import Twins

Curves = tuple["Curve", "Curve"]  # of sentence similarity and of retrieval

CSV_COLUMNS = ("model", "seed", "task", "k", "score", "retention")
DEFAULT_LIMIT = 50_000  # the hub's 557,850 rows would take ten times as long as the course allows
SMALLEST_DIM = min(DEFAULT_DIMS)  # below it the table would have no row to compare
SIZES = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768)  # trained and untrained


def compare_twins(
    source: str | Path | None = None,
    *,
    limit: int = DEFAULT_LIMIT,
    seeds: Sequence[int] = (0,),
    dim: int = 768,
    epochs: int = 3,
    say: Callable[[str], None] = lambda line: None,
    keep: Callable[[int, Twins], None] = lambda seed, twins: None,
) -> pd.DataFrame:
    """Train the twins for each seed and score them and their baselines on both tasks.

    Baselines: ``regular+pca`` (the regular twin turned by a PCA fitted on training premises),
    ``random-dims`` (k random numbers of the regular twin, mean of five draws) and
    ``trained-at-k`` (for each k a model that has only k numbers).

    Args:
        source: as in :func:`mrl_course.data.load_allnli`.
        limit: at most this many training triplets, the first ones.
        seeds: one pair of twins for each; different integers from 0 on.
        dim: D of the twins, at least 8.
        epochs: passes over the triplets.
        say: called with a line of progress now and then.
        keep: called with (seed, twins) when a pair is trained, for example to save it.

    Returns:
        A pandas frame with the columns ``model, seed, task, k, score, retention`` and, in its
        ``attrs``, ``triplets`` (their number) and ``seconds`` (by model, a list over seeds).
        Retention is score(k) / score(D) of the same model; for ``trained-at-k``, where each k
        is a model of its own, it is relative to the one trained at D, which is the regular twin.
        It is NaN where the score at D is not above 0.

    Raises:
        DataSourceError, TypeError, ValueError: bad data or settings, before any training.
        KeyboardInterrupt: the training was stopped by hand.
    """
    import pandas as pd

    from mrl_course.data import load_allnli, load_retrieval, load_stsb
    from mrl_course.training import train_twins

    seeds, dim = check_seeds(seeds), check_count("dim", dim, SMALLEST_DIM)
    limit, epochs = check_count("limit", limit), check_count("epochs", epochs)
    triplets = load_allnli("train", limit=limit, source=source)
    tasks = _Tasks(load_stsb("test", source=source), load_retrieval("test", source=source))
    say(f"{len(triplets):,} triplets; {tasks.describe()}")
    sizes = sorted({k for k in (*SIZES, dim // 12) if 0 < k < dim} | {dim})
    rows: list[tuple] = []
    seconds: dict[str, list[float]] = {"regular": [], "matryoshka": []}
    for seed in seeds:
        twins = train_twins(triplets, dim=dim, seed=seed, epochs=epochs)
        for name, history in twins.history.items():
            if history.interrupted:
                raise KeyboardInterrupt
            seconds[name].append(round(history.seconds, 1))
            say(f"seed {seed}: {name} trained in {history.seconds:.1f} s, {history.steps} steps")
        keep(seed, twins)
        curves = _twin_curves(twins, triplets, tasks, sizes, seed)
        say(f"seed {seed}: twins, PCA and random numbers scored at {len(sizes)} sizes")
        curves["trained-at-k"] = _trained_at_k(twins.regular, triplets, tasks, dim, seed, epochs)
        say(f"seed {seed}: one model for each k trained and scored")
        for model, pair in curves.items():
            for curve in pair:
                for k, score, kept in curve.to_frame().itertuples(index=False):
                    rows.append((model, seed, curve.metric, k, score, kept))
    results = pd.DataFrame(rows, columns=CSV_COLUMNS)
    results.attrs = {"triplets": len(triplets), "seconds": seconds}
    return results


def check_seeds(seeds: Sequence[int]) -> list[int]:
    """Different seeds, at least one, or an error that names the first that will not do."""
    try:
        listed = list(seeds)
    except TypeError:
        raise WrongKind(f"seeds must be a list of integers such as [0, 1], got {seeds!r}") from None
    checked = [check_seed(seed, f"seeds[{place}]") for place, seed in enumerate(listed)]
    if not checked or len(set(checked)) < len(checked):
        raise WrongValue(f"seeds must be different, and at least one, got {listed}")
    return checked


class _Tasks:
    """Both tasks with their texts; turns a model into its two curves."""

    def __init__(self, stsb: Dataset, retrieval: Retrieval) -> None:
        self.stsb, self.retrieval = stsb, retrieval

    def describe(self) -> str:
        return (
            f"{len(self.stsb):,} STS pairs; {len(self.retrieval.queries):,} queries over "
            f"{len(self.retrieval.corpus):,} texts"
        )

    def encode(self, model: SentenceTransformer) -> list[np.ndarray]:
        texts = self.stsb["sentence1"], self.stsb["sentence2"]
        texts += self.retrieval.queries, self.retrieval.corpus
        return [_encode(model, column) for column in texts]

    def curves(
        self,
        emb: list[np.ndarray],
        dims: Sequence[int],
        change: Callable[[np.ndarray], np.ndarray] = lambda emb: emb,
    ) -> Curves:
        from mrl_course.evaluation import retrieval_curve, similarity_curve

        first, second, queries, corpus = map(change, emb)
        return (
            similarity_curve(first, second, self.stsb["score"], dims),
            retrieval_curve(queries, corpus, self.retrieval.relevant, dims),
        )

    def random_curves(self, emb: list[np.ndarray], dims: Sequence[int], seed: int) -> Curves:
        from mrl_course.evaluation import (
            random_dims_curve,
            retrieval_curve,
            similarity_curve,
        )

        first, second, queries, corpus = emb
        labels = self.stsb["score"], self.retrieval.relevant
        return (
            random_dims_curve(similarity_curve, first, second, labels[0], dims=dims, seed=seed),
            random_dims_curve(retrieval_curve, queries, corpus, labels[1], dims=dims, seed=seed),
        )


def _encode(model: SentenceTransformer, texts: Any) -> np.ndarray:
    return model.encode(list(texts), batch_size=1024, show_progress_bar=False)


def _twin_curves(
    twins: Twins, triplets: Dataset, tasks: _Tasks, sizes: list[int], seed: int
) -> dict[str, Curves]:
    from mrl_course.evaluation import pca_rotation

    regular = tasks.encode(twins.regular)
    premises = list(dict.fromkeys(triplets["anchor"]))[:20_000]
    rotation = pca_rotation(_encode(twins.regular, premises))
    return {
        "regular": tasks.curves(regular, sizes),
        "matryoshka": tasks.curves(tasks.encode(twins.matryoshka), sizes),
        "regular+pca": tasks.curves(regular, sizes, lambda emb: emb @ rotation),
        "random-dims": tasks.random_curves(regular, [k for k in sizes if k in DEFAULT_DIMS], seed),
    }


def _trained_at_k(
    regular: SentenceTransformer,
    triplets: Dataset,
    tasks: _Tasks,
    dim: int,
    seed: int,
    epochs: int,
) -> Curves:
    """The curves of models that have k numbers from the start; at D that is the regular twin."""
    from mrl_course.evaluation import Curve
    from mrl_course.models import build_static_model
    from mrl_course.training import tokenise_triplets, train

    data = tokenise_triplets(regular, triplets)
    models = {dim: regular}
    tokenizer = cast("StaticEmbedding", regular[0]).tokenizer
    for k in (k for k in DEFAULT_DIMS if k < dim):
        models[k] = build_static_model([], k, seed=seed, tokenizer=tokenizer)
        if train(models[k], data, [k], seed=seed, epochs=epochs).interrupted:
            raise KeyboardInterrupt
    pairs = {k: tasks.curves(tasks.encode(models[k]), [k]) for k in sorted(models)}

    def joined(task: int) -> Curve:
        full = pairs[dim][task]
        scores = {k: pair[task][k] for k, pair in pairs.items()}
        return Curve(scores, full.metric, dim, full[dim])

    return joined(0), joined(1)


def source_kind(source: str | Path | None) -> str:
    """Hub, mini or "a folder": where data came from, without a path of this machine."""
    from mrl_course.data import describe_source, resolve_source

    chosen = resolve_source(source)
    if isinstance(chosen, Path):
        return "a folder in the layout of the hub"
    return describe_source(source).split(",")[0].split(" (")[0]
