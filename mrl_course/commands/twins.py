"""The command ``mrl-course twins``: train the twins, measure them, write table and figure."""

from __future__ import annotations

import argparse
import contextlib
import math
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from mrl_course import DEFAULT_DIMS
from mrl_course.commands.shared import at_least, positive, seed
from mrl_course.comparison import (
    CSV_COLUMNS,
    DEFAULT_LIMIT,
    SMALLEST_DIM,
    compare_twins,
    source_kind,
)
from mrl_course.files import check_target, check_writable, write_whole

if TYPE_CHECKING:
    import pandas as pd

    from mrl_course.training import Twins

FILES = ("retention.csv", "retention.json", "retention.png")


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
    parser.add_argument(
        "--dim",
        metavar="N",
        type=at_least(SMALLEST_DIM),
        default=768,
        help=f"D, at least {SMALLEST_DIM} (default: %(default)s)",
    )
    parser.add_argument("--epochs", type=positive, default=3, help="(default: %(default)s)")
    parser.add_argument(
        "--save-models",
        action="store_true",
        help="also save each twin as a SentenceTransformer in DIR/seed-N/",
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit code is 0.

    Raises:
        MrlCourseError: the data or a setting cannot be used.
        OSError: a file cannot be written; the others are there.
    """
    out = check_writable(args.out)  # before minutes of training, not after them
    for name in FILES:
        check_target(out / name)
    for number in args.seeds if args.save_models else ():
        check_writable(out / f"seed-{number}")
    started = time.perf_counter()
    failed: list[str] = []

    def keep(seed: int, twins: Twins) -> None:
        for name, model in twins if args.save_models else ():
            try:
                model.save(str(out / f"seed-{seed}" / name), create_model_card=False)
            except OSError as error:  # the scores are still to come
                failed.append(f"cannot save the model {name} of seed {seed}: {error}")

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
    written, problems = write_results(results, out, _command(args), args.source)
    for path in written:
        print(f"wrote {path}")
    if failed or problems:
        raise OSError("; ".join([*failed, *problems]))
    return 0


def table(results: pd.DataFrame) -> str:
    """Scores and retention by k and model, means over seeds, as text."""
    from mrl_course.plots import TASKS

    many = results["seed"].nunique()
    parts = []
    for task, rows in results.groupby("task", sort=False):
        shown = rows["k"].isin([*DEFAULT_DIMS, rows["k"].max(), rows["k"].max() // 12])
        rows = cast("pd.DataFrame", rows[shown])
        for column, title in (("score", ""), ("retention", ", share of own full-size score")):
            means = cast("pd.Series", rows.groupby(["k", "model"])[column].mean())
            pivot = cast("pd.DataFrame", means.unstack("model"))
            pivot = pivot.reindex(columns=rows["model"].unique())
            pivot.columns.name = None
            seeds = f" (mean of {many} seeds)" if many > 1 else ""
            text = pivot.to_string(float_format="{:.3f}".format, na_rep="-")
            parts.append(f"{TASKS[str(task)]}{title}{seeds}\n{text}")
    return "\n\n".join(parts)


class Written(NamedTuple):
    """The files that were written, and a line for each that could not be."""

    paths: list[Path]
    problems: list[str]


def write_results(
    results: pd.DataFrame, out: Path, command: str, source: str | Path | None
) -> Written:
    """Write the frame as CSV, JSON with its circumstances, and figure.

    Each file is whole or as it was, and one that cannot be written (another program may hold it
    open) does not cost the others.
    """
    from mrl_course.results import circumstances, record_text

    record = {
        **circumstances("mrl-course twins: scores of prefixes on STS and retrieval", command),
        "source": source_kind(source),
        **results.attrs,
        "columns": list(CSV_COLUMNS),
        "rows": [
            [model, int(seed), task, int(k), _rounded(score), _rounded(kept)]
            for model, seed, task, k, score, kept in results.itertuples(index=False)
        ],
    }
    writers: tuple[Callable[[Path], object], ...] = (
        lambda path: results.to_csv(path, index=False, lineterminator="\n"),
        lambda path: path.write_text(record_text(record), encoding="utf-8"),
        lambda path: _draw(results, path),
    )
    written = Written([], [])
    for name, write in zip(FILES, writers, strict=True):
        try:
            written.paths.append(write_whole(out / name, write))
        except (OSError, ValueError) as error:  # ValueError: what cannot be drawn or put in JSON
            whole = isinstance(error, OSError)
            written.problems.append(str(error) if whole else f"cannot write {out / name}: {error}")
    return written


def _rounded(number: float) -> float | None:
    """Five decimals for a record; None, for JSON has no NaN."""
    return None if math.isnan(number) else round(float(number), 5)


def _draw(results: pd.DataFrame, path: Path) -> None:
    from matplotlib.figure import Figure

    from mrl_course.plots import plot_retention

    tasks = list(dict.fromkeys(results["task"]))
    figure = Figure(figsize=(11, 8), layout="constrained")
    grid = figure.subplots(2, 2, sharex=True)
    for column, task in enumerate(tasks):
        for row, measure in enumerate(("score", "retention")):
            ax = plot_retention(results, task, measure, ax=grid[row, column])
            legend = ax.get_legend()
            if legend is not None and (row or column):
                legend.remove()
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
    with contextlib.suppress(argparse.ArgumentTypeError):
        seeds = [seed(part.strip()) for part in text.split(",")]
        if len(set(seeds)) == len(seeds):
            return seeds
    raise argparse.ArgumentTypeError(
        "needs different whole numbers from 0 to 2**32 - 1 with commas between, such as 0,1,2; "
        f"got {text!r}"
    )
