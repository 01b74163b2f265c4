"""Write ``docs/evidence.md`` and its figures from the recorded runs; no number is typed by hand.

    python benchmarks/make_evidence.py

Sentences that name sizes or a direction are put together from the records. Those
that draw a conclusion are fixed text: read them again after a new record.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from judging import TASKS
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, StrMethodFormatter

from mrl_course.files import results_folder, write_whole
from mrl_course.plots import OKABE_ITO
from mrl_course.results import load_results

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "evidence.md"
DIMS = (8, 16, 32, 64, 128, 256, 512, 768)
FULL, TWELFTH = 768, 64
SMALL = (8, 16, 32)
OVER = ("seeds", "queries")
SHORT = {"sts": "STS-B", "premises": "premises", "cranfield": "Cranfield"}
HEADLINE = {"sts": TASKS["sts"], "premises": TASKS["premises"]}
COLOURS = {
    "regular": OKABE_ITO["vermillion"],
    "matryoshka": OKABE_ITO["blue"],
    "matryoshka + distillation": OKABE_ITO["sky blue"],
    "regular+pca": OKABE_ITO["green"],
    "pca": OKABE_ITO["green"],
    "regular+tempered-pca": OKABE_ITO["orange"],
    "random-dims": OKABE_ITO["purple"],
    "raw": OKABE_ITO["purple"],
    "trained-at-k": OKABE_ITO["black"],
}
MARKERS = {
    "regular": "s",
    "matryoshka": "o",
    "matryoshka + distillation": "P",
    "regular+pca": "^",
    "pca": "^",
    "regular+tempered-pca": "v",
    "random-dims": "x",
    "raw": "x",
    "trained-at-k": "D",
}
NAMES = {
    "regular": "regular, cut",
    "matryoshka": "Matryoshka, cut",
    "regular+pca": "regular, PCA",
    "regular+tempered-pca": "regular, tempered PCA",
    "random-dims": "k random numbers",
    "trained-at-k": "trained with k numbers",
    "raw": "raw prefix, no head",
    "pca": "raw model's PCA, no head",
    "matryoshka + distillation": "Matryoshka + self-distillation",
}
HEAD_NAMES = NAMES | {"regular": "regular head", "matryoshka": "Matryoshka head"}
HERE = {
    "regular": "regular, cut",
    "matryoshka": "Matryoshka, cut",
    "regular+pca here": "regular, PCA of these texts",
    "matryoshka+pca here": "Matryoshka, PCA of these texts",
    "matryoshka+head here": "Matryoshka, rotated on these texts",
}
ABLATED = (16, 64, 768)


class Estimate(NamedTuple):
    """A mean, and its 95 % interval; NaN without one."""

    value: float
    low: float
    high: float


class Record:
    """One recorded run, asked by name."""

    def __init__(self, name: str):
        """Read it."""
        self.frame = load_results(name)
        self.attrs = self.frame.attrs

    def methods(self) -> list[str]:
        """In the order of the record."""
        return list(dict.fromkeys(self.frame["method"]))

    def get(self, what, method, task, k, against="-", over="seeds") -> Estimate:
        """One row of means, shares kept or differences."""
        f = self.frame
        found = f[
            (f["what"] == what)
            & (f["method"] == method)
            & (f["task"] == task)
            & (f["k"] == k)
            & (f["against"] == against)
            & (f["over"] == over)
        ]
        if len(found) != 1:
            raise LookupError(f"{len(found)} rows of {what} {method} {task} {k} {against} {over}")
        row = found.iloc[0]
        return Estimate(row["value"], row["low"], row["high"])

    def sizes(self, what, method, task) -> list[int]:
        """Those that were measured."""
        f = self.frame
        mine = f[(f["what"] == what) & (f["method"] == method) & (f["task"] == task)]
        return sorted(set(mine["k"]))

    def seeds(self) -> int:
        """How many there are."""
        return int(self.frame["seed"].nunique())


# ------------------------------------------------------------------------ numbers as text


def interval(estimate: Estimate) -> str:
    """The interval of a difference; empty if there is none."""
    return "" if pd.isna(estimate.low) else f"[{estimate.low:+.3f}, {estimate.high:+.3f}]"


def points(estimate: Estimate) -> str:
    """A difference with its interval."""
    return f"{estimate.value:+.3f} {interval(estimate)}".strip()


def percent(estimate: Estimate) -> str:
    """A share with its interval."""
    value = f"{100 * estimate.value:.1f}"
    if pd.isna(estimate.low):
        return f"{value} %"
    return f"{value} % [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """Markdown; the first column is text, the others numbers."""
    lines = ["| " + " | ".join(map(str, header)) + " |"]
    lines.append("|---|" + "---:|" * (len(header) - 1))
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def scores(record: Record, methods: Sequence[str], task: str, names: dict[str, str]) -> str:
    """Mean scores by method and size; the best of a column in bold."""
    columns = [k for k in DIMS if k in record.sizes("mean", methods[0], task)]
    cells = {
        (m, k): record.get("mean", m, task, k).value
        for m in methods
        for k in columns
        if k in record.sizes("mean", m, task)
    }
    rows = []
    for method in methods:
        row = [names.get(method, method)]
        for k in columns:
            best = max(cells[m, k] for m in methods if (m, k) in cells)
            value = cells.get((method, k))
            text = "" if value is None else f"{value:.3f}"
            row.append(f"**{text}**" if value is not None and value >= best - 5e-4 else text)
        rows.append(row)
    return table(["numbers kept", *columns], rows)


# ------------------------------------------------------------------------ figures


def axis_of_sizes(ax: Axes, sizes: Sequence[int]) -> None:
    """k on a log axis, with these sizes named."""
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(list(sizes)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    ax.tick_params(labelsize=10)
    ax.set_xlabel("numbers kept (log scale)", fontsize=11)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="0.9")


def line(ax: Axes, method: str, sizes, estimates: list[Estimate]) -> None:
    """One line with its band."""
    style = {"color": COLOURS[method], "marker": MARKERS[method], "ms": 5, "lw": 1.8}
    ax.plot(sizes, [e.value for e in estimates], **style)
    low, high = [e.low for e in estimates], [e.high for e in estimates]
    ax.fill_between(sizes, low, high, color=COLOURS[method], alpha=0.2, lw=0)


def draw_headline(record: Record) -> Figure:
    """Scores by size of the heads on the frozen transformer."""
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    methods = ["raw", "pca", "regular", "matryoshka", "matryoshka + distillation"]
    for ax, (task, title) in zip(figure.subplots(1, 2), HEADLINE.items(), strict=True):
        for method in methods:
            line(ax, method, DIMS, [record.get("mean", method, task, k) for k in DIMS])
        axis_of_sizes(ax, DIMS)
        ax.set_title(title, fontsize=12, loc="left")
        key(ax, {m: HEAD_NAMES[m] for m in methods[::-1]}, 0.4, 0.5)
    figure.suptitle(
        "Frozen all-mpnet-base-v2 and linear heads; bands: 95 % interval over "
        f"{record.seeds()} seeds; the vertical axes do not start at 0",
        fontsize=11,
    )
    return figure


def draw_twins(record: Record) -> Figure:
    """Ahead of the regular prefix: every method, three tasks."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    methods = [
        "matryoshka", "regular+pca", "regular+tempered-pca", "trained-at-k", "random-dims",
    ]  # fmt: skip
    for ax, task in zip(figure.subplots(1, 3), TASKS, strict=True):
        ax.axhline(0, color=COLOURS["regular"], lw=1.5)
        ends = {"regular": (FULL, 0.0)}
        for method in methods:
            sizes = record.sizes("difference", method, task)
            found = [record.get("difference", method, task, k, "regular") for k in sizes]
            line(ax, method, sizes, found)
            ends[method] = (sizes[-1], found[-1].value)
        axis_of_sizes(ax, [k for k in DIMS if k != 512])  # its name would touch that of 768
        ax.set_title(TASKS[task], fontsize=11, loc="left")
        if task == "sts":
            ax.set_ylabel("ahead of the regular twin's prefix", fontsize=11)
        if task == "premises":  # where the lines leave room
            key(ax, {m: NAMES[m] for m in ["regular", *methods]}, 0.97, 0.47)
    figure.suptitle(
        f"Paired differences, D = 768; bands: 95 % interval over {record.seeds()} seeds",
        fontsize=11,
    )
    return figure


def key(ax: Axes, names: dict[str, str], top: float, left: float = 0.4) -> None:
    """Names in the colours of the lines, from ``top`` downwards, in shares of the axes."""
    for place, (method, name) in enumerate(names.items()):
        y, style = top - 0.065 * place, {"color": COLOURS[method], "transform": ax.transAxes}
        ax.plot([left - 0.04], [y], marker=MARKERS[method], clip_on=False, **style)
        ax.text(left, y, name, fontsize=10, va="center", **style)


def draw_domain(record: Record) -> Figure:
    """Cranfield, four rows, three sizes, with the interval over queries."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    rows = ["regular", "matryoshka", "regular+pca here", "matryoshka+head here"]
    colours = [OKABE_ITO[c] for c in ("vermillion", "blue", "green", "black")]
    for ax, k in zip(figure.subplots(1, len(SMALL), sharey=True, sharex=True), SMALL, strict=True):
        for place, (method, colour) in enumerate(zip(rows, colours, strict=True)):
            e = record.get("mean", method, "cranfield", k, over="seeds")
            ax.plot([e.low, e.high], [place, place], color=colour, lw=3, alpha=0.5)
            ax.plot(e.value, place, "o", color=colour)
            ax.annotate(
                f"{e.value:.3f}", (e.value, place), (0, 8), textcoords="offset points",
                fontsize=10, ha="center", color=colour,
            )  # fmt: skip
        ax.set_title(f"{k} of 768 numbers", fontsize=11, loc="left")
        ax.set_yticks(range(len(rows)), [HERE[m] for m in rows], fontsize=10)
        ax.set_ylim(len(rows) - 0.5, -0.7)
        ax.tick_params(axis="x", labelsize=10)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_xlabel("NDCG@10", fontsize=11)
    ax.set_xlim(0, 1.15 * ax.get_xlim()[1])
    figure.suptitle(f"Cranfield: bars are 95 % intervals over {record.seeds()} seeds", fontsize=11)
    return figure


def changes_of(record: Record) -> list[tuple[str, str]]:
    """(name, twin it is compared with) of every changed twin."""
    return [(m, m.split(",")[0]) for m in record.methods() if ", " in m]


def draw_ablations(record: Record) -> Figure:
    """Each change against the twin of the same kind, at three sizes."""
    changes = changes_of(record)
    figure = Figure(figsize=(11, 1.6 + 0.33 * len(changes)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    looks = dict(zip(ABLATED, [("blue", "o"), ("orange", "^"), ("black", "D")], strict=True))
    for ax, (task, title) in zip(axes, HEADLINE.items(), strict=True):
        ax.axvline(0, color="0.5", lw=1)
        for place, (name, base) in enumerate(changes):
            for shift, (k, (colour, marker)) in zip((-0.2, 0, 0.2), looks.items(), strict=True):
                e = record.get("difference", name, task, k, base)
                y, colour = place + shift, OKABE_ITO[colour]
                ax.plot([e.low, e.high], [y, y], color=colour, lw=2, alpha=0.45)
                ax.plot(e.value, y, marker, color=colour, ms=5)
        ax.set_yticks(range(len(changes)), [name for name, _ in changes], fontsize=10)
        ax.set_ylim(len(changes) - 0.4, -0.6)
        ax.set_title(title, fontsize=11, loc="left")
        ax.tick_params(axis="x", labelsize=10)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.set_xlabel("change against the same twin of the base", fontsize=11)
        ax.grid(axis="y", color="0.92")
        ax.spines[["top", "right"]].set_visible(False)
    for k, (colour, marker) in looks.items():
        axes[0].plot([], [], marker, color=OKABE_ITO[colour], label=f"{k} numbers kept")
    figure.legend(loc="outside lower center", ncols=3, fontsize=10, frameon=False)
    return figure


# ------------------------------------------------------------------------ the page


def facts(record: Record) -> str:
    """When, on what and with what a record was made."""
    versions = ", ".join(f"{name} {v}" for name, v in record.attrs["versions"].items())
    return f"{record.attrs['date']}, {record.attrs['machine']}, {versions}"


def both_intervals(record: Record, method: str, against: str, sizes=DIMS) -> str:
    """Differences: one row a size, for each task the mean and both intervals."""
    tasks = [task for task in TASKS if task in set(record.frame["task"])]
    rows = []
    for k in sizes:
        row: list[object] = [k]
        for task in tasks:
            seeds, queries = (
                record.get("difference", method, task, k, against, over) for over in OVER
            )
            row += [f"{seeds.value:+.3f}", interval(seeds), interval(queries)]
        rows.append(row)
    header = [text for task in tasks for text in (SHORT[task], *(f"over {over}" for over in OVER))]
    return table(["numbers kept", *header], rows)


def clear(record: Record, method: str, against: str, task: str, sign: int = 1) -> list[int]:
    """Sizes at which a method is ahead, or behind (-1), and neither interval holds 0."""
    ahead = []
    for k in record.sizes("difference", method, task):
        found = [record.get("difference", method, task, k, against, over) for over in OVER]
        if all(min(sign * e.low, sign * e.high) > 0 for e in found):
            ahead.append(k)
    return ahead


def listed(sizes: Sequence[int]) -> str:
    """Sizes as words."""
    if not sizes:
        return "none"
    *most, last = map(str, sizes)
    return f"{', '.join(most)} and {last}" if most else last


def kept_table(
    record: Record, methods: Sequence[str], tasks: Sequence[str], names: dict[str, str]
) -> str:
    """Share of the own full-size score at 64 of 768, with both intervals."""
    rows = []
    for method in methods:
        row = [names[method]]
        for task in tasks:
            for over in OVER:
                row.append(percent(record.get("kept", method, task, TWELFTH, over=over)))
        rows.append(row)
    header = [f"{SHORT[task]}, over {over}" for task in tasks for over in OVER]
    return table(["kept at 64 of 768", *header], rows)


TOP = """# The evidence

Every number, table and figure of this page is read from the recorded runs in
[`data/results/`](../data/results/README.md) by `benchmarks/make_evidence.py`; a test compares the
page with them. [How to run it again](#run-it-again) stands at the end.

**Question.** The Matryoshka loss trains the first 8, 16, ... numbers of a vector as embeddings of
their own. Cut to k numbers, is such a model better than a regular one that is cut, than a regular
one that is turned by a PCA first, than a model that has only k numbers? At which k, on which
tasks, by how much, and how sure is that? And does it hold for texts of another kind?
"""


def found_text(twins: Record, head: Record | None) -> str:
    """The findings in a few lines, each with its numbers."""
    lead = {task: [lead_at(twins, task, k) for k in (8, 16, 64, FULL)] for task in TASKS}
    own = [
        twins.get("difference", "trained-at-k", task, TWELFTH, "matryoshka").value
        for task in ("sts", "premises")
    ]
    here = [twins.get("mean", m, "cranfield", 16).value for m in FOUR]
    chosen_here = min(here[2:]) > max(here[:2])
    moral = ": what stands first must be chosen for such texts" if chosen_here else ""
    kept = [twins.get("kept", m, "sts", TWELFTH).value for m in ("regular", "matryoshka")]
    heads = ""
    if head is not None:
        shares = [head.get("kept", m, "sts", TWELFTH).value for m in HEADS_SHOWN[2:]]
        heads = (
            f"; with heads on a frozen transformer {100 * shares[0]:.1f}, {100 * shares[1]:.1f} "
            f"and, with self-distillation, {100 * shares[2]:.1f} %"
        )
    return f"""## In short

- *Finding one text among thousands*: at 8, 16, 64 and {FULL} numbers the Matryoshka twin is ahead
  of the cut regular one by {", ".join(lead["premises"])} of recall@10.
- *Similarity of sentences*: the same lead is {", ".join(lead["sts"])} of Spearman's correlation.
  What is kept of the full-size score at 64 of {FULL} numbers: {100 * kept[0]:.1f} % (regular) and
  {100 * kept[1]:.1f} % (Matryoshka){heads}.
- *One model for all sizes*: a model trained with only 64 numbers differs from the Matryoshka twin's
  prefix by {own[0]:+.3f} (similarity) and {own[1]:+.3f} (recall@10).
- *Texts of another kind*: on Cranfield the lead is {", ".join(lead["cranfield"])} of NDCG@10. At 16
  numbers the regular twin has {here[0]:.3f}, the Matryoshka twin {here[1]:.3f}, the regular one
  after a PCA of those texts {here[2]:.3f}, the Matryoshka one after a rotation fitted on them
  {here[3]:.3f}{moral}.
"""


def lead_at(twins: Record, task: str, k: int) -> str:
    """Matryoshka minus regular, without the interval."""
    return f"{twins.get('difference', 'matryoshka', task, k, 'regular').value:+.3f}"


def method_text(twins: Record) -> str:
    """How everything was measured."""
    trained = listed(twins.sizes("mean", "trained-at-k", "sts"))
    return f"""## Method

*Twins.* A regular and a Matryoshka model are static models (a vector for each of 12,000 tokens, a
sentence is their mean) with {FULL} numbers. They have the same vocabulary, random start, order of
the data and number of steps; only the loss differs: InfoNCE over the full vector, or summed over
the prefixes {listed(DIMS)}. Three epochs over 41,144 AllNLI-style triplets, batches of 512 with
hard negatives, scale 20, Adam at 0.05. {twins.seeds()} seeds, each of another start and order.

*Baselines.* The regular twin's prefix; its vectors turned by a **PCA** fitted on 20,000 training
premises; **tempered PCA**, the same axes multiplied by λ^(-γ/2)
([Spectral Tempering](https://arxiv.org/abs/2603.19339)), where γ is chosen for each k, without
labels, as the value that keeps most of the ten nearest neighbours of held-out premises; **k random
numbers** of the regular twin (three draws a seed); and a regular model **trained with only k
numbers**, for k = {trained}.

*Tasks.* **STS-B** test: 1,379 sentence pairs, Spearman's correlation of the cosine with people's
scores. **Held-out premises**: 2,000 queries, each entailed by one premise that no model has seen,
among 10,000 premises (8,000 of them from training); recall@10. **Cranfield**: 225 questions on
aerodynamics and 1,400 abstracts, graded answers, NDCG@10: texts of a kind no model was trained on.

*Intervals*, all 95 %. *Over seeds*: Student's t of the paired differences, seed by seed; it says
whether another training would give the same. *Over queries*: the middle of
1,000 resamples of the queries (or pairs), the same for both models, of the mean over seeds; it says
whether other queries would. Neither is corrected for the number of comparisons.
"""


def figure_line(file: str, alt: str) -> str:
    """A picture with its text for those who cannot see it."""
    return f"![{alt}]({file})\n"


def twins_alt(twins: Record) -> str:
    """What the figure of the twins shows."""
    told = [
        f"{TASKS[task]}: Matryoshka "
        + ", ".join(
            f"{twins.get('difference', 'matryoshka', task, k, 'regular').value:+.3f} at {k}"
            for k in (8, 64, 768)
        )
        for task in TASKS
    ]
    return "Differences from the regular twin's prefix by numbers kept. " + "; ".join(told)


def twins_text(twins: Record) -> str:
    """Findings and tables."""
    methods = [m for m in NAMES if m in twins.methods()]
    parts = []
    for task, title in TASKS.items():
        parts.append(f"{title}, mean of {twins.seeds()} seeds; the best of a column in bold:\n")
        parts.append(scores(twins, methods, task, NAMES) + "\n")
    lines = []
    for task, title in TASKS.items():
        ahead, behind = (clear(twins, "matryoshka", "regular", task, sign) for sign in (1, -1))
        lines.append(
            f"- **{title}.** Ahead of the regular twin's prefix, with both intervals above 0, at "
            f"k = {listed(ahead)}; behind it, with both intervals below 0, at k = {listed(behind)}."
        )
    against = []
    for method in ("regular+pca", "regular+tempered-pca", "random-dims", "trained-at-k"):
        words = []
        for task in TASKS:
            sizes = [k for k in twins.sizes("difference", method, task) if k < FULL]
            ahead = [k for k in clear(twins, method, "matryoshka", task, sign=-1) if k in sizes]
            words.append(f"{SHORT[task]} at k = {listed(ahead)}")
        against.append(f"- *{NAMES[method]}* is clearly behind it on " + "; ".join(words) + ".")
    parts.append("Where the Matryoshka twin's prefix differs from the regular twin's:\n")
    parts.append("\n".join(lines) + "\n")
    parts.append("And against the other baselines (k below 768 as far as they were measured):\n")
    parts.append("\n".join(against) + "\n")
    parts.append("Matryoshka minus regular, both cut, with both intervals:\n")
    parts.append(both_intervals(twins, "matryoshka", "regular") + "\n")
    gammas = twins.attrs["gamma_by_seed_and_size"]
    parts.append(
        f"γ of the tempered PCA at {twins.attrs['sizes'].replace(' ', ', ')} numbers, seed by "
        f"seed: {'; '.join(line.replace(' ', ', ') for line in gammas)}.\n"
    )
    return "\n".join(parts)


def kept_text(twins: Record) -> str:
    """The share of the full-size score that is left at 64 of 768."""
    sts, recall = (
        [twins.get("kept", m, task, TWELFTH) for m in ("regular", "matryoshka")]
        for task in ("sts", "premises")
    )
    text = f"""The figure that is quoted most, after a
[blog post on fine-tuned models](https://huggingface.co/blog/matryoshka): at 64 of 768 numbers the
regular model keeps 96.46 % of its STS-B score and the Matryoshka model 98.37 % (one seed, no
interval). Our twins keep {percent(sts[0])} and {percent(sts[1])} (over seeds). The same cut costs
far more where one text must be found among thousands: of recall@10 the regular twin keeps
{percent(recall[0])}, the Matryoshka twin {percent(recall[1])}. A share of one's own score hides how
good that score is: read it beside the table above.
"""
    return text + "\n" + kept_table(twins, ("regular", "matryoshka"), tuple(TASKS), NAMES) + "\n"


def headline_alt(head: Record) -> str:
    """What the figure of the heads shows."""
    told = []
    for task in HEADLINE:
        values = [
            f"{HEAD_NAMES[m]} {head.get('mean', m, task, TWELFTH).value:.3f}" for m in HEADS_SHOWN
        ]
        told.append(f"{TASKS[task]} at 64 numbers: {', '.join(values)}")
    return "Scores by numbers kept. " + "; ".join(told)


HEADS_SHOWN = ["raw", "pca", "regular", "matryoshka", "matryoshka + distillation"]


def headline_text(head: Record) -> str:
    """Findings and tables."""
    sts = {m: head.get("kept", m, "sts", TWELFTH) for m in HEADS_SHOWN}
    recall = {m: head.get("kept", m, "premises", TWELFTH) for m in HEADS_SHOWN}
    mean = {
        (m, task): head.get("mean", m, task, TWELFTH).value
        for m in HEADS_SHOWN
        for task in HEADLINE
    }
    best = {task: max(HEADS_SHOWN, key=lambda m: mean[m, task]) for task in HEADLINE}
    full = {task: head.get("difference", "matryoshka", task, FULL, "regular") for task in HEADLINE}
    rates = ", ".join(f"{name} {rate:g}" for name, rate in head.attrs["learning_rates"].items())
    text = f"""The vectors of all-mpnet-base-v2 are kept as they are; a linear map of 768 x 768
numbers learns on top of them from 7,000 triplets: {head.attrs["epochs"]} epochs in batches of
{head.attrs["batch"]}, {head.seeds()} seeds, from a random rotation on. The learning rate of each
kind is the one of four, 0.0001 to 0.003, with the lowest loss on 500 other triplets ({rates}).

Kept of the STS-B score at 64 of 768: regular {percent(sts["regular"])}, Matryoshka
{percent(sts["matryoshka"])}, with self-distillation {percent(sts["matryoshka + distillation"])}
(published for fine-tuned models: 96.46 % and 98.37 %). Of recall@10: {percent(recall["regular"])},
{percent(recall["matryoshka"])} and {percent(recall["matryoshka + distillation"])}.

In absolute terms the best at 64 numbers is *{HEAD_NAMES[best["sts"]]}* on STS-B
({mean[best["sts"], "sts"]:.3f}) and *{HEAD_NAMES[best["premises"]]}* in
retrieval ({mean[best["premises"], "premises"]:.3f}). The model's own PCA, without any label, has
{mean["pca", "sts"]:.3f} and {mean["pca", "premises"]:.3f}; the Matryoshka head
{mean["matryoshka", "sts"]:.3f} and {mean["matryoshka", "premises"]:.3f}. With all 768 numbers the
Matryoshka head differs from the regular one by {points(full["sts"])} (STS-B) and
{points(full["premises"])} (recall@10), over seeds; its learning rate, chosen by
its own loss, is another one, and which of the two causes this was not measured.
"""
    parts = [text]
    for task, title in HEADLINE.items():
        parts.append(f"{title}:\n")
        parts.append(scores(head, HEADS_SHOWN, task, HEAD_NAMES) + "\n")
    parts.append("Matryoshka minus regular:\n")
    parts.append(both_intervals(head, "matryoshka", "regular") + "\n")
    parts.append(kept_table(head, HEADS_SHOWN, tuple(HEADLINE), HEAD_NAMES) + "\n")
    return "\n".join(parts)


def domain_alt(twins: Record) -> str:
    """What the figure of Cranfield shows."""
    told = [
        f"{name} " + ", ".join(f"{twins.get('mean', m, 'cranfield', k).value:.3f}" for k in SMALL)
        for m, name in HERE.items()
        if m in FOUR
    ]
    return f"NDCG@10 at {listed(SMALL)} numbers: " + "; ".join(told)


FOUR = ("regular", "matryoshka", "regular+pca here", "matryoshka+head here")


def domain_text(twins: Record) -> str:
    """The finding, and its tables."""
    gain, here, both = (
        [twins.get("difference", m, "cranfield", k, against) for k in SMALL]
        for m, against in (
            ("matryoshka", "regular"),
            ("regular+pca here", "regular"),
            ("matryoshka+head here", "matryoshka"),
        )
    )
    means = [f"{twins.get('mean', 'matryoshka+pca here', 'cranfield', k).value:.3f}" for k in SMALL]
    rows = [[name, *(percent_free(twins, m, k) for k in SMALL)] for m, name in HERE.items()]
    text = f"""The twins learnt from pairs of everyday sentences; Cranfield's abstracts are on
aerodynamics. There the Matryoshka twin gains on the regular one {points(gain[0])} at 8 numbers,
{points(gain[1])} at 16 and {points(gain[2])} at 32 (over seeds). A PCA that is fitted on the 1,400
abstracts' own vectors, never on the questions, gives the *regular* twin {points(here[0])},
{points(here[1])} and {points(here[2])}. Rotating the Matryoshka twin on the same abstracts with
`fit_head` adds {points(both[0])}, {points(both[1])} and {points(both[2])} to its own prefix. After
a PCA of these texts the Matryoshka twin has {means[0]}, {means[1]} and {means[2]}, close to the
regular one: what helps is the fit, not the twin.
"""
    return "\n".join(
        [
            text,
            f"NDCG@10 on Cranfield, mean and interval over {twins.seeds()} seeds:\n",
            table(["numbers kept", *SMALL], rows) + "\n",
            "Differences with the interval over the 225 queries:\n",
            table(
                ["", *SMALL],
                [
                    [f"{HERE[m]}, minus {HERE[a]}"]
                    + [
                        points(twins.get("difference", m, "cranfield", k, a, "queries"))
                        for k in SMALL
                    ]
                    for m, a in DOMAIN_PAIRS
                ],
            )
            + "\n",
        ]
    )


DOMAIN_PAIRS = (
    ("matryoshka", "regular"),
    ("regular+pca here", "regular"),
    ("matryoshka+head here", "matryoshka"),
    ("matryoshka+head here", "regular+pca here"),
)


def percent_free(record: Record, method: str, k: int) -> str:
    """A mean score with its interval over seeds."""
    e = record.get("mean", method, "cranfield", k)
    return f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]"


def ablations_alt(ablations: Record) -> str:
    """What the figure of the ablations shows: the largest change."""
    changes = changes_of(ablations)
    found = {
        (name, task, k): ablations.get("difference", name, task, k, base).value
        for name, base in changes
        for task in HEADLINE
        for k in ABLATED
    }
    best, worst = max(found, key=lambda x: found[x]), min(found, key=lambda x: found[x])
    return (
        f"Changes of score for {len(changes)} changed settings. The largest gain: {best[0]}, "
        f"{SHORT[best[1]]} at {best[2]}, {found[best]:+.3f}; the largest loss: {worst[0]}, "
        f"{SHORT[worst[1]]} at {worst[2]}, {found[worst]:+.3f}"
    )


def ablations_text(ablations: Record) -> str:
    """Tables of what each change does, and the lead of Matryoshka under it."""
    parts = [
        "Each row is a twin with one setting changed, minus the twin of the same kind and seed "
        f"with none changed; {ablations.seeds()} seeds, the interval is over them, and with so few "
        "it is wide. Fewer triplets are trained for the same number of steps, with the vocabulary "
        "of all. Weights are the square root of k (large sizes weigh more) or one over it.\n"
    ]
    for task, title in HEADLINE.items():
        rows = []
        for name, base in changes_of(ablations):
            found = [ablations.get("difference", name, task, k, base) for k in ABLATED]
            rows.append([name, *map(points, found)])
        parts += [f"{title}, change at {listed(ABLATED)} numbers:\n"]
        parts += [table(["change", *ABLATED], rows) + "\n"]
    rows = []
    leads = [("matryoshka", "regular", "none")]
    leads += [
        (name, f"regular, {label}", label)
        for name, base in changes_of(ablations)
        for label in [name.split(", ", 1)[1]]
        if base == "matryoshka" and f"regular, {label}" in ablations.methods()
    ]
    for name, other, label in leads:
        found = [
            ablations.get("difference", name, task, k, other) for task in HEADLINE for k in (16, 64)
        ]
        rows.append([label, *map(points, found)])
    header = [f"{SHORT[task]}, {k}" for task in HEADLINE for k in (16, 64)]
    parts += ["The lead of Matryoshka over regular where both twins have the change:\n"]
    parts += [table(["change", *header], rows) + "\n"]
    return "\n".join(parts)


def earlier_text() -> str:
    """Clipping and distillation, from records of their own."""
    clip, distil = load_results("clipping_allnli"), load_results("distill_allnli")
    clip, full = clip[clip["task"] == "sts_spearman"], clip["k"].max()
    share = clip.groupby(["model", "max_grad_norm", "k"])["score"].mean().unstack("k")
    kept = share[TWELFTH] / share[full]
    recall = distil[distil["task"] != "sts_spearman"]
    by = recall.groupby(["distill", "k"])["score"].mean().unstack("k")
    gains = {k: by.loc[1.0, k] - by.loc[0.0, k] for k in (16, TWELFTH)}
    return f"""From records of their own: *clipping* the gradient at length 1, the default of
Sentence Transformers' trainer, changes what the twins of {full} numbers keep of STS-B
at 64 from {100 * kept["regular", 0.0]:.1f} to {100 * kept["regular", 1.0]:.1f} % (regular) and from
{100 * kept["matryoshka", 0.0]:.1f} to {100 * kept["matryoshka", 1.0]:.1f} % (Matryoshka;
`clipping_allnli.json`, {clip["seed"].nunique()} seeds). *Self-distillation* adds
{gains[16]:+.3f} of recall@10 at 16 numbers and {gains[TWELFTH]:+.3f} at 64 (`distill_allnli.json`,
{distil["seed"].nunique()} seeds).
"""


LIMITS = """## Limits

- The models are small: static ones, and linear heads on a frozen transformer. A fine-tuned
  transformer is in `finetune_allnli.json` (all-MiniLM-L6-v2), with fewer seeds.
- The triplets are a stand-in of 41,144 rows, not the hub's 557,850; English only.
- all-mpnet-base-v2 and all-MiniLM-L6-v2 have seen AllNLI when they were trained, so retrieval of
  held-out premises is easier for them than it looks.
- 8,000 of the 10,000 premises in the corpus are training premises. That is the same for every
  method, and the right answers are not among them.
- One collection of another kind (Cranfield, 225 questions, 1,400 abstracts) is one, and small:
  look at its interval over queries.
- An interval over five seeds is wide and leans on the normal distribution; many comparisons are
  shown and none is corrected for that. Look at the pattern over sizes, not at one cell.
- Full-size vectors of "trained with k numbers" cost k numbers, too: it is what a Matryoshka prefix
  competes with if only one size is ever needed.
"""


def again(records: dict[str, Record]) -> str:
    """Commands and circumstances."""
    commands = [record.attrs["command"] for record in records.values()]
    made = [
        f"- `{name}.json`: {facts(record)}. {record.attrs.get('note', '')}".rstrip()
        for name, record in records.items()
    ]
    return (
        "## Run it again\n\nFOLDER holds `all-nli` and `stsb` in the layout of the hub and "
        "`cranfield` in that of BEIR; `--quick` runs a small form on the miniature. The last line "
        "writes this page and its figures.\n\n```bash\n"
        + "\n".join([*commands, "python benchmarks/make_evidence.py"])
        + "\n```\n\nThe records were made on:\n\n"
        + "\n".join(made)
    )


def read_records() -> dict[str, Record]:
    """Those that have been made; the twins must be among them."""
    there = {file.stem for file in results_folder().glob("*.json")}
    return {name: Record(name) for name in RECORDS if name in there or name == "evidence"}


def page(records: dict[str, Record]) -> str:
    """The whole page; a part whose record has not been made is left out."""
    twins, head, ablations = (records.get(name) for name in RECORDS)
    parts = [TOP, found_text(twins, head), method_text(twins), "## Twins\n"]
    parts += [figure_line("evidence_twins.png", twins_alt(twins)), twins_text(twins)]
    parts += ["## Kept at a twelfth\n", kept_text(twins)]
    if head is not None:
        parts += ["## The published headline, on a frozen transformer\n"]
        parts += [figure_line("headline.png", headline_alt(head)), headline_text(head)]
    parts += ["## Trained elsewhere, or fitted here?\n"]
    parts += [figure_line("evidence_domain.png", domain_alt(twins)), domain_text(twins)]
    parts += ["## One setting at a time\n"]
    if ablations is not None:
        alt = ablations_alt(ablations)
        parts += [figure_line("ablations.png", alt), ablations_text(ablations)]
    parts += [earlier_text(), LIMITS, again(records)]
    return reflowed("\n".join(parts))


def reflowed(text: str) -> str:
    """Paragraphs in lines of equal length, whatever the length of the numbers in them."""
    blocks = []
    for block in text.split("\n\n"):
        if not block.lstrip("\n").startswith(("|", "!", "#", "```")):
            items = re.split(r"\n(?=- )", block.strip("\n"))
            block = "\n".join(_filled(item) for item in items)
        blocks.append(block.strip("\n"))
    return "\n\n".join(block for block in blocks if block) + "\n"


def _filled(item: str) -> str:
    indent = "  " if item.startswith("- ") else ""
    return textwrap.fill(
        " ".join(re.split(r"[ \n]+", item.strip())).replace(" %", "\N{NO-BREAK SPACE}%"),
        100,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


RECORDS = ("evidence", "headline", "ablations")
FIGURES = {
    "evidence_twins.png": ("evidence", draw_twins),
    "headline.png": ("headline", draw_headline),
    "evidence_domain.png": ("evidence", draw_domain),
    "ablations.png": ("ablations", draw_ablations),
}


def main() -> None:
    """Write the page and draw the figures."""
    records = read_records()
    write_whole(PAGE, page(records))
    for file, (name, draw) in FIGURES.items():
        if name in records:
            figure = draw(records[name])
            write_whole(DOCS / file, lambda path, f=figure: f.savefig(path, dpi=110, format="png"))
    print("wrote", PAGE.name, "from", *records)


if __name__ == "__main__":
    main()
