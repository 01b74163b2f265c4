"""The main job without a notebook: train the twins, measure them beside honest baselines."""

from __future__ import annotations

import argparse
import os
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
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
        from mrl_course.evaluation import random_dims_curve, retrieval_curve, similarity_curve

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


# --- the command -------------------------------------------------------------------------------


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command ``twins`` to a parser made with ``add_subparsers``."""
    parser = subparsers.add_parser(
        "twins",
        help="train a regular and a Matryoshka model and draw how far each may be cut",
        description="Train the twins for each seed, score them and the baselines at many sizes, "
        "print the table and write retention.csv, retention.json and retention.png.",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("build/twins"))
    parser.add_argument("--source", help="auto, hub, mini or a folder; see `mrl-course data`")
    parser.add_argument(
        "--limit",
        metavar="N",
        type=positive,
        default=DEFAULT_LIMIT,
        help="use at most the first N training triplets (default: %(default)s)",
    )
    parser.add_argument("--seeds", type=_seeds, default=[0], help="for example 0,1,2 (default: 0)")
    parser.add_argument("--dim", type=positive, default=768, help="D (default: %(default)s)")
    parser.add_argument("--epochs", type=positive, default=3, help="(default: %(default)s)")
    parser.add_argument(
        "--save-models",
        action="store_true",
        help="also save each twin as a SentenceTransformer in DIR/seed-N/",
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit code is 0, or 1 with a message on stderr."""
    check_writable(args.out)  # before minutes of training, not after them
    started = time.perf_counter()

    def keep(seed: int, twins) -> None:
        for name, model in twins if args.save_models else ():
            model.save(str(args.out / f"seed-{seed}" / name), create_model_card=False)

    results = compare_twins(
        args.source,
        limit=args.limit,
        seeds=args.seeds,
        dim=args.dim,
        epochs=args.epochs,
        say=lambda line: print(f"[{time.perf_counter() - started:5.0f} s] {line}", flush=True),
        keep=keep,
    )
    print(f"\n{table(results)}\n")
    for path in write_results(results, args.out, _command(args), args.source):
        print(f"wrote {path}")
    return 0


def table(results) -> str:
    """Scores and retention by k and model, means over seeds, as text."""
    from mrl_course.plots import TASKS

    many = results["seed"].nunique()
    parts = []
    for task, rows in results.groupby("task", sort=False):
        rows = rows[rows["k"].isin([*DEFAULT_DIMS, rows["k"].max(), rows["k"].max() // 12])]
        for column, title in (("score", ""), ("retention", ", share of own full-size score")):
            pivot = rows.pivot_table(index="k", columns="model", values=column, aggfunc="mean")
            pivot = pivot[[name for name in rows["model"].unique()]]
            pivot.columns.name = None
            seeds = f" (mean of {many} seeds)" if many > 1 else ""
            text = pivot.to_string(float_format="{:.3f}".format, na_rep="-")
            parts.append(f"{TASKS[task]}{title}{seeds}\n{text}")
    return "\n\n".join(parts)


def write_results(results, out: Path, command: str, source: str | Path | None) -> list[Path]:
    """Write the frame as CSV, JSON with its circumstances, and figure; each file whole or not."""
    from mrl_course.results import circumstances, record_text

    record = {
        **circumstances("mrl-course twins: scores of prefixes on STS and retrieval", command),
        "source": source_kind(source),
        **results.attrs,
        "columns": list(CSV_COLUMNS),
        "rows": [
            [model, int(seed), task, int(k), round(score, 5), round(kept, 5)]
            for model, seed, task, k, score, kept in results.itertuples(index=False)
        ],
    }
    writers: dict[str, Callable[[Path], None]] = {
        "retention.csv": lambda path: results.to_csv(path, index=False, lineterminator="\n"),
        "retention.json": lambda path: path.write_text(record_text(record), encoding="utf-8"),
        "retention.png": lambda path: _draw(results, path),
    }
    written = []
    for name, write in writers.items():
        temporary = out / f".{name.replace('.', '-partial.')}"
        try:
            write(temporary)
            os.replace(temporary, out / name)
        finally:
            temporary.unlink(missing_ok=True)
        written.append(out / name)
    return written


def check_writable(folder: Path) -> None:
    """Make ``folder`` if needed and prove that a file can be written there.

    Raises:
        OSError: it cannot; the message names the folder and what to do.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"cannot write into {folder}: {error.strerror}; choose another folder with --out"
        ) from error


def source_kind(source: str | Path | None) -> str:
    """Hub, mini or "a folder": where data came from, without a path of this machine."""
    from mrl_course.data import describe_source, resolve_source

    chosen = resolve_source(source)
    if isinstance(chosen, Path):
        return "a folder in the layout of the hub"
    return describe_source(source).split(",")[0].split(" (")[0]


def _draw(results, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from mrl_course.plots import plot_retention

    tasks = list(dict.fromkeys(results["task"]))
    figure, grid = plt.subplots(2, 2, figsize=(11, 8), layout="constrained", sharex=True)
    for column, task in enumerate(tasks):
        for row, measure in enumerate(("score", "retention")):
            ax = plot_retention(results, task, measure, ax=grid[row, column])
            if row or column:
                ax.get_legend().remove()
            if row == 0:
                ax.set_xlabel("")
    seeds = results["seed"].nunique()
    bands = f"; bands: lowest to highest of {seeds} seeds" if seeds > 1 else ""
    figure.suptitle(f"How much is left when only the first k numbers are kept{bands}")
    figure.savefig(path, dpi=110, format="png")
    plt.close(figure)


def _command(args: argparse.Namespace) -> str:
    """The command that gives these numbers again, a folder's own name left out."""
    parts = ["mrl-course", "twins", "--seeds", ",".join(map(str, args.seeds))]
    parts += ["--dim", str(args.dim), "--epochs", str(args.epochs), "--limit", str(args.limit)]
    return shlex.join(parts)


def positive(text: str) -> int:
    """A number of at least 1 on the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"needs a whole number of at least 1, got {text!r}")
    return int(text)


def _seeds(text: str) -> list[int]:
    parts: Iterator[str] = (part.strip() for part in text.split(","))
    seeds = [int(part) if part.isdecimal() else None for part in parts]
    if None in seeds or len(set(seeds)) != len(seeds):
        raise argparse.ArgumentTypeError(
            f"needs different whole numbers with commas between, such as 0,1,2; got {text!r}"
        )
    return seeds
