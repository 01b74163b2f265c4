"""The main job without a notebook: train the twins, measure them beside honest baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mrl_course import DEFAULT_DIMS

CSV_COLUMNS = ("model", "seed", "task", "k", "score", "retention")
DEFAULT_LIMIT = 50_000  # the hub's 557,850 rows would take ten times as long as the course allows
SIZES = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768)  # trained and untrained


def compare_twins(
    source: str | Path | None = None,
    *,
    limit: int = DEFAULT_LIMIT,
    seeds: Sequence[int] = (0,),
    dim: int = 768,
    epochs: int = 3,
    say: Callable[[str], None] = lambda line: None,
    keep: Callable[[int, object], None] = lambda seed, twins: None,
):
    """Train the twins for each seed and score them and their baselines on both tasks.

    Baselines: ``regular+pca`` (the regular twin turned by a PCA fitted on training premises),
    ``random-dims`` (k random numbers of the regular twin, mean of five draws) and
    ``trained-at-k`` (for each k a model that has only k numbers).

    Args:
        source: as in :func:`mrl_course.data.load_allnli`.
        limit: at most this many training triplets, the first ones.
        seeds: one pair of twins for each.
        dim: D of the twins.
        epochs: passes over the triplets.
        say: called with a line of progress now and then.
        keep: called with (seed, twins) when a pair is trained, for example to save it.

    Returns:
        A pandas frame with the columns ``model, seed, task, k, score, retention`` and, in its
        ``attrs``, ``triplets`` (their number) and ``seconds`` (by model, a list over seeds).
        Retention is score(k) / score(D) of the same model; for ``trained-at-k``, where each k
        is a model of its own, it is relative to the one trained at D, which is the regular twin.

    Raises:
        DataSourceError, ValueError: bad data or settings.
        KeyboardInterrupt: the training was stopped by hand.
    """
    import pandas as pd

    from mrl_course.data import load_allnli, load_retrieval, load_stsb
    from mrl_course.training import train_twins

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
                full = curve.full_score
                for k, score in curve.items():
                    rows.append((model, seed, curve.metric, k, score, score / full))
    results = pd.DataFrame(rows, columns=CSV_COLUMNS)
    results.attrs = {"triplets": len(triplets), "seconds": seconds}
    return results


class _Tasks:
    """Both tasks with their texts; turns a model into its two curves."""

    def __init__(self, stsb, retrieval):
        self.stsb, self.retrieval = stsb, retrieval

    def describe(self) -> str:
        return (
            f"{len(self.stsb):,} STS pairs; {len(self.retrieval.queries):,} queries over "
            f"{len(self.retrieval.corpus):,} texts"
        )

    def encode(self, model):
        texts = self.stsb["sentence1"], self.stsb["sentence2"]
        texts += self.retrieval.queries, self.retrieval.corpus
        return [_encode(model, column) for column in texts]

    def curves(self, emb, dims, change=lambda emb: emb):
        from mrl_course.evaluation import retrieval_curve, similarity_curve

        first, second, queries, corpus = map(change, emb)
        return (
            similarity_curve(first, second, self.stsb["score"], dims),
            retrieval_curve(queries, corpus, self.retrieval.relevant, dims),
        )

    def random_curves(self, emb, dims, seed):
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


def _encode(model, texts):
    return model.encode(list(texts), batch_size=1024, show_progress_bar=False)


def _twin_curves(twins, triplets, tasks: _Tasks, sizes: list[int], seed: int) -> dict:
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


def _trained_at_k(regular, triplets, tasks: _Tasks, dim: int, seed: int, epochs: int):
    """The curves of models that have k numbers from the start; at D that is the regular twin."""
    from mrl_course.evaluation import Curve
    from mrl_course.models import build_static_model
    from mrl_course.training import tokenise_triplets, train

    data = tokenise_triplets(regular, triplets)
    models = {dim: regular}
    for k in (k for k in DEFAULT_DIMS if k < dim):
        models[k] = build_static_model([], k, seed=seed, tokenizer=regular[0].tokenizer)
        if train(models[k], data, [k], seed=seed, epochs=epochs).interrupted:
            raise KeyboardInterrupt
    pairs = {k: tasks.curves(tasks.encode(models[k]), [k]) for k in sorted(models)}
    return [
        Curve(
            {k: pair[i][k] for k, pair in pairs.items()},
            pairs[dim][i].metric,
            dim,
            pairs[dim][i][dim],
        )
        for i in range(2)
    ]


def source_kind(source: str | Path | None) -> str:
    """Hub, mini or "a folder": where data came from, without a path of this machine."""
    from mrl_course.data import describe_source, resolve_source

    chosen = resolve_source(source)
    if isinstance(chosen, Path):
        return "a folder in the layout of the hub"
    return describe_source(source).split(",")[0].split(" (")[0]
