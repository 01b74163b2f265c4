"""The command ``mrl-course twins``: train the twins, measure them, write table and figure."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mrl_course import DEFAULT_DIMS
from mrl_course.commands.shared import positive
from mrl_course.comparison import CSV_COLUMNS, DEFAULT_LIMIT, compare_twins, source_kind
from mrl_course.files import check_writable, write_whole


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
    return [write_whole(out / name, write) for name, write in writers.items()]


def _draw(results, path: Path) -> None:
    from matplotlib.figure import Figure

    from mrl_course.plots import plot_retention

    tasks = list(dict.fromkeys(results["task"]))
    figure = Figure(figsize=(11, 8), layout="constrained")
    grid = figure.subplots(2, 2, sharex=True)
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


def _command(args: argparse.Namespace) -> str:
    """The command that gives these numbers again, a folder's own name left out."""
    parts = ["mrl-course", "twins", "--seeds", ",".join(map(str, args.seeds))]
    parts += ["--dim", str(args.dim), "--epochs", str(args.epochs), "--limit", str(args.limit)]
    return shlex.join(parts)


def _seeds(text: str) -> list[int]:
    parts: Iterator[str] = (part.strip() for part in text.split(","))
    seeds = [int(part) if part.isdecimal() else None for part in parts]
    if None in seeds or len(set(seeds)) != len(seeds):
        raise argparse.ArgumentTypeError(
            f"needs different whole numbers with commas between, such as 0,1,2; got {text!r}"
        )
    return seeds
