"""Every figure of the course. Each function returns the Axes and takes ``ax=None``.

Colours are those of Okabe and Ito, which people with any colour vision can tell apart; each line
also has a marker of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.ticker import (
    EngFormatter,
    FixedLocator,
    LogLocator,
    NullLocator,
    StrMethodFormatter,
)

from mrl_course.arguments import (
    check_count,
    check_embeddings,
    check_list,
    check_number,
    check_numbers,
)
from mrl_course.errors import WrongValue

if TYPE_CHECKING:
    from mrl_course.evaluation import Curve
    from mrl_course.training import History

OKABE_ITO = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky blue": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "purple": "#CC79A7",
}
# One look per model, the same in every figure of the course.
STYLES: dict[str, dict[str, Any]] = {
    "matryoshka": {"color": OKABE_ITO["blue"], "marker": "o"},
    "matryoshka-tied": {"color": OKABE_ITO["sky blue"], "marker": "P", "linestyle": "--"},
    "regular": {"color": OKABE_ITO["vermillion"], "marker": "s"},
    "regular+pca": {"color": OKABE_ITO["green"], "marker": "^"},
    "random-dims": {"color": OKABE_ITO["purple"], "marker": "x"},
    "trained-at-k": {"color": OKABE_ITO["black"], "marker": "D"},
    # Frozen vectors of a pretrained model, and what is made of them.
    "raw prefix": {"color": OKABE_ITO["vermillion"], "marker": "s"},
    "random numbers": {"color": OKABE_ITO["purple"], "marker": "x"},
    "pca": {"color": OKABE_ITO["green"], "marker": "^"},
    "rotate and distil": {"color": OKABE_ITO["blue"], "marker": "o"},
    "frozen": {"color": OKABE_ITO["purple"], "marker": "x"},
    "frozen, rotated": {"color": OKABE_ITO["black"], "marker": "D"},
    "regular, rotated": {"color": OKABE_ITO["green"], "marker": "^"},
}
_OTHERS: list[dict[str, Any]] = [
    {"color": OKABE_ITO["orange"], "marker": "v"},
    {"color": OKABE_ITO["sky blue"], "marker": "P"},
    {"color": OKABE_ITO["yellow"], "marker": "*"},
]
# One look per way of searching; the names are those of the recorded run ``search``.
METHODS: dict[str, dict[str, Any]] = {
    "exact (numpy)": {"color": OKABE_ITO["black"], "marker": "D"},
    "exact (FAISS flat)": {"color": OKABE_ITO["black"], "marker": "s", "linestyle": "--"},
    "prefix only": {"color": OKABE_ITO["orange"], "marker": "v"},
    "two-stage": {"color": OKABE_ITO["blue"], "marker": "o"},
    "funnel": {"color": OKABE_ITO["green"], "marker": "^"},
    "FAISS flat prefix + rerank": {"color": OKABE_ITO["sky blue"], "marker": "P"},
    "FAISS int8 prefix + rerank": {
        "color": OKABE_ITO["sky blue"],
        "marker": "X",
        "linestyle": "--",
    },
    "FAISS binary + rerank": {"color": OKABE_ITO["sky blue"], "marker": "*", "linestyle": ":"},
    "HNSW prefix + rerank": {"color": OKABE_ITO["purple"], "marker": "h"},
    "HNSW full": {"color": OKABE_ITO["vermillion"], "marker": "p"},
}
COSTS = {
    "milliseconds": "milliseconds per query (log scale)",
    "multiply_adds": "multiply-adds per query (log scale)",
    "bytes_read": "bytes read per query (log scale)",
    "bytes_scanned": "bytes held for the first stage (log scale)",
    "bytes_stored": "bytes stored (log scale)",
}
# Seven groups; yellow is left out, it is too pale for small dots.
_GROUP_LOOKS: list[dict[str, Any]] = [
    {"color": OKABE_ITO[color], "marker": marker}
    for color, marker in zip(
        ("blue", "vermillion", "green", "orange", "purple", "sky blue", "black"),
        "osD^vPX",
        strict=True,
    )
]
_ENOUGH_FOR_A_NAME = 1_000
TASKS = {
    "sts_spearman": "Similarity (STS): Spearman's correlation",
    "retrieval_recall_at_10": "Retrieval: recall@10",
}


def plot_curves(curves: Mapping[str, Curve], ax: Axes | None = None, **style: Any) -> Axes:
    """Draw curves over k by name.

    Args:
        curves: name -> :class:`~mrl_course.evaluation.Curve`; known model names get their colour.
        ax: where to draw; a new figure by default.
        **style: passed to every line.

    Raises:
        WrongValue: no curve given.
    """
    if not curves:
        raise WrongValue("curves is empty; give at least one name and Curve")
    frames = [curve.to_frame().assign(model=name, seed=0) for name, curve in curves.items()]
    first = next(iter(curves.values()))
    return plot_retention(
        pd.concat(frames),
        column="score",
        label=TASKS.get(first.metric, first.metric),
        ax=ax,
        **style,
    )


def plot_retention(
    results: pd.DataFrame,
    task: str | None = None,
    column: str = "retention",
    ax: Axes | None = None,
    label: str | None = None,
    **style: Any,
) -> Axes:
    """Draw one line per model over k, with a band from the lowest to the highest seed.

    The y axis starts at zero, so that a small difference looks small; k is on a log axis.

    Args:
        results: rows with columns ``model``, ``k`` and the one named by ``column``; ``seed`` if
            there are several; ``task`` if ``task`` is given. ``retention.csv`` has all of them.
        task: draw only the rows of this task.
        column: ``"retention"`` (share of the model's own full-size score) or ``"score"``.
        ax: where to draw; a new figure by default.
        label: of the y axis.
        **style: passed to every line.

    Raises:
        WrongValue: a column is missing or nothing is left to draw.
    """
    if task is not None:
        if "task" not in results or task not in set(results["task"]):
            raise WrongValue(f"results hold no rows with task {task!r}")
        results = _where(results, results["task"] == task)
    missing = [name for name in ("model", "k", column) if name not in results]
    if missing or results.empty:
        raise WrongValue(f"results have no {missing[0] if missing else 'rows'} to draw")
    ax = ax or plt.subplots(figsize=(6.4, 4.2), layout="constrained")[1]
    order = [name for name in STYLES if name in set(results["model"])]
    order += [name for name in dict.fromkeys(results["model"]) if name not in STYLES]
    for number, name in enumerate(order):
        by_k = results[results["model"] == name].groupby("k")[column].agg(["mean", "min", "max"])
        usual = STYLES.get(name, _OTHERS[number % len(_OTHERS)])
        look: dict[str, Any] = {**usual, "markersize": 5, **style}
        if len(by_k) > 40:  # all D sizes: a marker on each would hide the line
            look["marker"] = None
        ax.plot(by_k.index, by_k["mean"], label=_plain(name), **look)
        if (by_k["max"] > by_k["min"]).any():
            ax.fill_between(by_k.index, by_k["min"], by_k["max"], color=look["color"], alpha=0.2)
    k_axis(ax, sorted({int(k) for k in results["k"]}))
    known = results[column].replace([np.inf, -np.inf], np.nan).dropna()  # a score may be undefined
    if len(known):
        low, high = min(0, known.min()), 1.05 * known.max()
        ax.set_ylim(low, max(high, ax.get_ylim()[1]))  # a panel that shares this axis needs more
    if label is None:
        label = column if task is None else TASKS.get(task, column)
        label = label.split(": ")[-1]  # the title names the task
        label = "share of own full-size score" if column == "retention" else label
    ax.set_ylabel(label)
    if task is not None:
        ax.set_title(TASKS.get(task, task), fontsize="medium")
    ax.legend()
    return ax


def plot_picture(
    points: np.ndarray,
    labels: Sequence[str],
    show: Sequence[str] | None = None,
    ax: Axes | None = None,
    names: bool = True,
) -> Axes:
    """Draw a two-dimensional picture of items, a few groups in colour and named where they lie.

    The axes carry no numbers: in a picture made by UMAP or t-SNE they mean nothing.

    Args:
        points: (n, 2) positions.
        labels: the group of each item.
        show: groups to draw in colour, at most 7, in this order; the others stay grey. By default
            the most frequent ones.
        ax: where to draw; a new figure by default.
        names: write the name of each group where its points lie densest, a little higher if
            another name stands there. Each group also has its own marker and an entry for a
            legend (``ax.legend()``).

    Raises:
        WrongValue: wrong shapes, more than 7 groups to show, or one that no item has.
    """
    points, groups = check_embeddings("points", points), np.asarray(labels, dtype=str)
    if points.shape[1] != 2 or groups.shape != (len(points),):
        raise WrongValue(
            f"points must have shape (n, 2) and labels (n,), got {points.shape} and {groups.shape}"
        )
    if show is None:
        show = pd.Series(groups).value_counts(sort=True).index[: len(_GROUP_LOOKS)].tolist()
    missing = sorted(set(show) - set(groups))
    if missing or len(show) > len(_GROUP_LOOKS):
        raise WrongValue(
            f"no item has the label {missing[0]!r}"
            if missing
            else f"at most {len(_GROUP_LOOKS)} groups can be told apart by colour, got {len(show)}"
        )
    ax = ax or plt.subplots(figsize=(5.6, 5.0), layout="constrained")[1]
    rest = ~np.isin(groups, list(show))
    ax.scatter(*points[rest].T, s=5, color="0.8", linewidths=0)
    for name, look in zip(show, _GROUP_LOOKS, strict=False):
        ax.scatter(*points[groups == name].T, s=16, linewidths=0, label=_plain(name), **look)
    if names:
        spots = _name_spots([points[groups == name] for name in show], np.ptp(points, axis=0))
        for name, spot in zip(show, spots, strict=True):
            text = ax.text(spot[0], spot[1], name, ha="center", va="center", parse_math=False)
            text.set(fontsize="small", fontweight="bold")
            text.set_path_effects([withStroke(linewidth=3, foreground="white")])
    ax.set(xticks=[], yticks=[])
    ax.set_aspect("equal", adjustable="datalim")
    return ax


def _name_spots(groups: list[np.ndarray], size: np.ndarray) -> list[np.ndarray]:
    """Where to write the name of each (n, 2) group: at its densest point, clear of the others."""
    spots: list[np.ndarray] = []
    rng = np.random.default_rng(0)
    for points in groups:
        if len(points) > _ENOUGH_FOR_A_NAME:  # all pairs are compared: keep their number small
            points = rng.choice(points, _ENOUGH_FOR_A_NAME, replace=False)
        apart = np.linalg.norm(points[:, None] - points[None], axis=2)
        fifth = np.sort(apart, axis=1)[:, min(5, len(points) - 1)]
        spot = points[fifth.argmin()].astype(float)
        while any((np.abs(spot - other) < size * [0.24, 0.06]).all() for other in spots):
            spot[1] += 0.03 * size[1]
        spots.append(spot)
    return spots


def plot_history(history: History, ax: Axes | None = None, smooth: int = 10) -> Axes:
    """Draw the loss of each prefix over the steps of a training.

    Args:
        history: from :func:`mrl_course.training.train`.
        ax: where to draw; a new figure by default.
        smooth: each point is the mean of this many steps, at least 1.

    Raises:
        WrongValue: no step was made, or ``smooth`` below 1.
    """
    smooth = check_count("smooth", smooth)
    frame = history.to_frame()
    if frame.empty:
        raise WrongValue("the history holds no steps to draw")
    ax = ax or plt.subplots(figsize=(6.4, 4.2), layout="constrained")[1]
    smoothed = cast("pd.DataFrame", frame.rolling(smooth, min_periods=1).mean())
    # From light (short prefixes) to dark (long ones) in an order that everyone can see.
    shades = plt.get_cmap("cividis_r")(np.linspace(0.15, 1, len(frame.columns)))
    for shade, k in zip(shades, sorted(frame.columns), strict=True):
        ax.plot(smoothed.index, smoothed[k], color=shade, label=f"k = {k}")
    ax.set_xlabel("step")
    ax.set_ylabel("loss of the prefix")
    ax.set_ylim(bottom=0)
    ax.legend(ncols=2)
    return ax


def plot_recall_vs_cost(
    results: pd.DataFrame,
    cost: str = "milliseconds",
    ax: Axes | None = None,
    label: str | None = None,
    **style: Any,
) -> Axes:
    """Draw how much each way of searching finds against what a query costs: up and left is good.

    A line joins those settings of a method that no other setting of the same method beats: it
    finds more than all cheaper ones. The settings that are beaten are pale dots. The cost is on a
    log axis; recall starts at zero, so that a small difference looks small.

    Args:
        results: one row per measured setting, with columns ``method``, ``recall`` (0 to 1) and the
            one named by ``cost``; if ``low`` and ``high`` are there too, milliseconds get their
            spread as a thin bar. Methods named in :data:`METHODS` keep their look everywhere.
        cost: the column for the x axis, all above 0.
        ax: where to draw; a new figure by default.
        label: of the x axis; costs named in :data:`COSTS` have one.
        **style: passed to every line.

    Raises:
        WrongValue: a column is missing, nothing is left to draw, a cost that is not above 0, a
            recall that is not between 0 and 1.
    """
    missing = [name for name in ("method", "recall", cost) if name not in results]
    if missing or results.empty:
        raise WrongValue(f"results have no {missing[0] if missing else 'rows'} to draw")
    good = (results[cost] > 0) & results["recall"].between(0, 1)
    if not good.all():
        bad = results[~good].iloc[0]
        raise WrongValue(
            f"{bad['method']!r} has {cost} {bad[cost]} and recall {bad['recall']}; a cost must be "
            "above 0 and a recall between 0 and 1"
        )
    ax = ax or plt.subplots(figsize=(6.4, 4.2), layout="constrained")[1]
    order = [name for name in METHODS if name in set(results["method"])]
    order += [name for name in dict.fromkeys(results["method"]) if name not in METHODS]
    spread = cost == "milliseconds" and {"low", "high"} <= set(results)
    for number, name in enumerate(order):
        rows = _where(results, results["method"] == name)
        rows = rows.sort_values([cost, "recall"], ascending=[True, False])
        usual = METHODS.get(name, _OTHERS[number % len(_OTHERS)])
        look: dict[str, Any] = {**usual, "markersize": 6, **style}
        best_so_far = rows["recall"].cummax().shift(fill_value=-1.0)
        front = rows[rows["recall"] > best_so_far]
        ax.plot(front[cost], front["recall"], label=_plain(name), **look)
        beaten = rows[rows["recall"] <= best_so_far]
        ax.scatter(
            beaten[cost], beaten["recall"], s=14, color=look["color"], alpha=0.35, linewidths=0
        )
        if spread:
            ax.hlines(front["recall"], front["low"], front["high"], color=look["color"], lw=1)
    _cost_axis(ax, results[cost], plain=cost == "milliseconds")
    ax.set_ylim(0, 1.05)
    ax.set_xlabel(label or COSTS.get(cost, f"{cost} (log scale)"))
    ax.set_ylabel("recall: share of the exact results found")
    ax.legend(fontsize="small")
    return ax


def _cost_axis(ax: Axes, costs: pd.Series, plain: bool) -> None:
    """Make x a log axis with short numbers (200k, 5M), or plain ones (0.5), as ticks."""
    ax.set_xscale("log")
    few = costs.max() / costs.min() < 300  # then 1, 2 and 5 of each power of ten have room
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=20))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}") if plain else EngFormatter(sep=""))


def plot_grid(
    scores: np.ndarray,
    rows: Sequence[int],
    columns: Sequence[int],
    ax: Axes | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Axes:
    """Draw a score for each depth (row) and prefix size (column) as a heat map with its numbers.

    Args:
        scores: (rows, columns) array.
        rows: layers used, shown from the bottom upwards in the order given.
        columns: prefix sizes.
        ax: where to draw; a new figure by default.
        low, high: scores of the darkest and the lightest colour, to compare two maps; those of
            this map by default.

    Raises:
        WrongKind, WrongValue: no numbers; the shape of ``scores`` is not (rows, columns).
    """
    scores = check_numbers("scores", scores).astype(float)
    low = None if low is None else check_number("low", low)
    high = None if high is None else check_number("high", high)
    if scores.shape != (len(rows), len(columns)):
        raise WrongValue(f"scores must have shape {(len(rows), len(columns))}, got {scores.shape}")
    ax = ax or plt.subplots(figsize=(5, 3.6), layout="constrained")[1]
    image = ax.imshow(scores, cmap="cividis", vmin=low, vmax=high, origin="lower", aspect="auto")
    for (row, column), score in np.ndenumerate(scores):
        dark = np.less(image.norm(score), 0.6)  # the number must be readable on its own cell
        color = "white" if dark else "black"
        ax.text(column, row, f"{score:.2f}", ha="center", va="center", color=color)
    ax.set_xticks(range(len(columns)), [str(k) for k in columns])
    ax.set_yticks(range(len(rows)), [str(layers) for layers in rows])
    ax.set_xlabel("k, numbers kept of each embedding")
    ax.set_ylabel("layers used")
    return ax


def _where(frame: pd.DataFrame, chosen: pd.Series) -> pd.DataFrame:
    """The chosen rows; pandas does not say that a mask leaves a frame a frame."""
    return cast("pd.DataFrame", frame[chosen])


def _plain(name: str) -> str:
    """A name for a legend: two dollar signs would make a formula of what stands between."""
    return str(name).replace("$", r"\$")


def k_axis(ax: Axes, sizes: Collection[int]) -> None:
    """Make x a log axis over prefix sizes with plain numbers as ticks."""
    checked = [check_count("sizes", size) for size in check_list("sizes", sizes)]
    if not checked:
        raise WrongValue("sizes is empty; give at least one prefix size")
    low, high = min(checked), max(checked)
    ticks = [2**i for i in range(13) if low <= 2**i <= high]
    if ticks and high / ticks[-1] > 1.4:
        ticks.append(high)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(ticks or [low, high]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.set_xlabel("k, numbers kept of each embedding (log scale)")
