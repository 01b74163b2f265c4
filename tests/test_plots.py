"""Figures say what they show: labels, zero at the bottom, a band over seeds, own colours."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from mrl_course import plots
from mrl_course.evaluation import Curve
from mrl_course.training import History


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def results():
    rows = [
        (model, seed, "retrieval_recall_at_10", k, 0.1 * i + 0.05 * seed, 0.3 + 0.1 * i)
        for model in ("regular", "matryoshka", "mine")
        for seed in (0, 1)
        for i, k in enumerate((8, 16, 768), start=1)
    ]
    return pd.DataFrame(rows, columns=["model", "seed", "task", "k", "score", "retention"])


def test_plot_retention_draws_means_bands_and_labels(results):
    ax = plots.plot_retention(results, "retrieval_recall_at_10", "score")
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert list(lines) == ["matryoshka", "regular", "mine"]
    np.testing.assert_allclose(lines["regular"].get_ydata(), [0.125, 0.225, 0.325])
    assert len(ax.collections) == 3  # one band each, since the seeds differ
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(0.1) and band.max() == pytest.approx(0.35)
    assert ax.get_xscale() == "log" and ax.get_ylim()[0] == 0
    assert "k" in ax.get_xlabel() and "recall@10" in ax.get_ylabel()
    assert ax.get_legend() is not None
    assert len({line.get_color() for line in lines.values()}) == 3
    assert len({line.get_marker() for line in lines.values()}) == 3
    assert [t.get_text() for t in ax.get_xticklabels()] == [
        "8", "16", "32", "64", "128", "256", "512", "768"
    ]  # fmt: skip


def test_no_band_where_the_seeds_agree(results):
    ax = plots.plot_retention(results)
    assert not ax.collections and "full-size" in ax.get_ylabel()


def test_draws_into_a_given_axes_and_returns_it(results):
    _, ax = plt.subplots()
    assert plots.plot_retention(results, ax=ax) is ax
    history = History([4, 8], np.ones((5, 2), np.float32), 0.1)
    assert plots.plot_history(history, ax=ax) is ax


def test_negative_scores_stay_visible(results):
    results.loc[0, "score"] = -0.5
    assert plots.plot_retention(results, column="score").get_ylim()[0] <= -0.5


def test_panels_that_share_an_axis_both_fit(results):
    _, (left, right) = plt.subplots(1, 2, sharey=True)
    plots.plot_retention(results.assign(score=results["score"] / 10), column="score", ax=left)
    plots.plot_retention(results, column="score", ax=right)
    plots.plot_retention(results.assign(score=results["score"] / 10), column="score", ax=left)
    assert left.get_ylim() == right.get_ylim() and right.get_ylim()[1] > results["score"].max()


def test_curve_plots_itself():
    ax = Curve({k: k / 99 for k in range(1, 100)}, "recall", 99, 1.0).plot(label="my model")
    (line,) = ax.get_lines()
    assert line.get_label() == "my model" and line.get_marker() in ("None", None)
    assert ax.get_ylabel() == "recall"


def test_plot_history_smooths_and_names_each_prefix():
    losses = np.array([[4.0, 2.0], [2.0, 1.0], [0.0, 0.0]], np.float32)
    ax = plots.plot_history(History([16, 8], losses, 0.1), smooth=2)
    lines = {line.get_label(): line.get_ydata() for line in ax.get_lines()}
    np.testing.assert_allclose(lines["k = 16"], [4, 3, 1])
    np.testing.assert_allclose(lines["k = 8"], [2, 1.5, 0.5])


@pytest.fixture
def searches():
    rows = [
        ("two-stage", 0.5, 1.0, 0.9, 1.5, 100),
        ("two-stage", 0.9, 4.0, 3.0, 5.0, 400),
        ("two-stage", 0.8, 5.0, 4.5, 5.5, 200),  # costs more milliseconds and finds less
        ("exact (numpy)", 1.0, 20.0, 19.0, 30.0, 1000),
        ("mine", 0.7, 2.0, 1.0, 3.0, 300),
    ]
    columns = ["method", "recall", "milliseconds", "low", "high", "multiply_adds"]
    return pd.DataFrame(rows, columns=columns)


def test_recall_vs_cost_joins_the_settings_that_are_not_beaten(searches):
    ax = plots.plot_recall_vs_cost(searches)
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert list(lines) == ["exact (numpy)", "two-stage", "mine"]
    np.testing.assert_allclose(lines["two-stage"].get_xydata(), [[1, 0.5], [4, 0.9]])
    dots = [
        tuple(point)
        for points in ax.collections
        if hasattr(points, "get_sizes")
        for point in np.ma.getdata(points.get_offsets())
    ]
    assert dots == [(5.0, 0.8)]
    assert ax.get_xscale() == "log" and ax.get_ylim()[0] == 0 and ax.get_ylim()[1] >= 1
    assert "milliseconds" in ax.get_xlabel() and "recall" in ax.get_ylabel()


def test_of_equal_costs_the_better_recall_beats_the_other(searches):
    ax = plots.plot_recall_vs_cost(searches.assign(milliseconds=[4.0, 4.0, 5.0, 20.0, 2.0]))
    two_stage = next(line for line in ax.get_lines() if line.get_label() == "two-stage")
    np.testing.assert_allclose(two_stage.get_xydata(), [[4, 0.9]])


def test_recall_vs_cost_shows_the_spread_of_milliseconds_only(searches):
    def bars(ax):
        return [
            segment[:, 0].tolist()
            for lines in ax.collections
            if hasattr(lines, "get_segments")
            for segment in lines.get_segments()
        ]

    assert sorted(bars(plots.plot_recall_vs_cost(searches))) == [
        [0.9, 1.5], [1.0, 3.0], [3.0, 5.0], [19.0, 30.0]
    ]  # fmt: skip
    ax = plots.plot_recall_vs_cost(searches, "multiply_adds")
    assert not bars(ax) and "multiply-adds" in ax.get_xlabel()
    assert not bars(plots.plot_recall_vs_cost(searches.drop(columns="low")))
    two_stage = next(line for line in ax.get_lines() if line.get_label() == "two-stage")
    np.testing.assert_allclose(two_stage.get_xdata(), [100, 200, 400])  # none is beaten here


def test_recall_vs_cost_has_short_numbers_on_its_cost_axis(searches):
    def ticks(ax):
        low, high = ax.get_xlim()
        labels = zip(ax.get_xticks(), ax.get_xticklabels(), strict=True)
        return [label.get_text() for x, label in labels if low <= x <= high]

    assert ticks(plots.plot_recall_vs_cost(searches)) == ["1", "2", "5", "10", "20"]
    wide = searches.assign(multiply_adds=[10**4, 10**5, 10**6, 10**7, 10**4])
    assert ticks(plots.plot_recall_vs_cost(wide, "multiply_adds")) == ["10k", "100k", "1M", "10M"]


def test_recall_vs_cost_draws_into_a_given_axes(searches):
    _, ax = plt.subplots()
    assert plots.plot_recall_vs_cost(searches, ax=ax, label="time") is ax
    assert ax.get_xlabel() == "time"


def test_no_two_ways_of_searching_look_alike():
    markers = [look["marker"] for look in plots.METHODS.values()]
    strokes = [(look["color"], look.get("linestyle", "-")) for look in plots.METHODS.values()]
    assert len(set(markers)) == len(set(strokes)) == len(plots.METHODS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.drop(columns="recall"), "no recall"),
        (lambda s: s.drop(columns="milliseconds"), "no milliseconds"),
        (lambda s: s[:0], "no rows"),
        (lambda s: s.assign(milliseconds=[1, 0, 1, 1, 1]), "'two-stage' has milliseconds 0"),
        (lambda s: s.assign(milliseconds=[1, 1, 1, 1, np.nan]), "'mine' has milliseconds nan"),
        (lambda s: s.assign(recall=[1, 1, 1, 1.5, 1]), r"'exact \(numpy\)' .* recall 1.5"),
    ],
)
def test_bad_searches_are_named(searches, change, words):
    with pytest.raises(ValueError, match=words):
        plots.plot_recall_vs_cost(change(searches))


def test_plot_picture_colours_and_names_the_shown_groups():
    points = np.array([[0, 0], [2, 2], [1, 1], [9, 9], [5, 0]], float)
    labels = ["a", "a", "a", "b", "rest"]
    ax = plots.plot_picture(points, labels, show=["b", "a"])
    grey, b, a = ax.collections
    np.testing.assert_array_equal(a.get_offsets(), points[:3])
    np.testing.assert_array_equal(b.get_offsets(), points[3:4])
    np.testing.assert_array_equal(grey.get_offsets(), points[4:])
    assert [c.get_label() for c in (b, a)] == ["b", "a"]
    assert not np.array_equal(a.get_facecolor(), b.get_facecolor())
    assert {t.get_text(): t.get_position() for t in ax.texts} == {"b": (9, 9), "a": (1, 1)}
    assert ax.texts[0].get_fontweight() == "bold"
    assert len(ax.get_xticks()) == len(ax.get_yticks()) == 0 and ax.get_aspect() == 1
    again = plots.plot_picture(points, labels, ax=plt.figure().add_subplot(), names=False)
    assert not again.texts and len(again.collections) == 4  # all groups, most frequent first
    assert again.collections[1].get_label() == "a"


def test_names_stand_where_their_group_is_densest_and_never_on_each_other():
    rng = np.random.default_rng(0)
    bundle = rng.normal(size=(20, 2)) * 0.1
    far = np.array([[8.0, 8], [9, 1], [-7, 3]])
    points = np.concatenate([bundle, far, bundle])
    labels = ["a"] * 23 + ["b"] * 20
    a, b = plots.plot_picture(points, labels, ["a", "b"]).texts
    assert np.linalg.norm(a.get_position()) < 0.3  # not pulled by the three far points
    assert b.get_position()[1] - a.get_position()[1] > 0.05 * np.ptp(points[:, 1])
    assert abs(b.get_position()[0]) < 0.3


def test_plot_grid_writes_each_score_into_its_cell():
    scores = np.array([[0.0, 0.1, 0.2], [0.3, 0.4, 1.0]])
    ax = plots.plot_grid(scores, [1, 2], [8, 16, 32], low=0, high=2)
    cells = {text.get_position(): text for text in ax.texts}
    assert {place: text.get_text() for place, text in cells.items()} == {
        (column, row): f"{scores[row, column]:.2f}" for row in range(2) for column in range(3)
    }
    (image,) = ax.get_images()
    assert image.get_clim() == (0, 2) and image.origin == "lower"  # more layers are further up
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["8", "16", "32"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["1", "2"]
    assert "k" in ax.get_xlabel() and "layers" in ax.get_ylabel()


def test_plot_grid_writes_dark_on_light_and_light_on_dark():
    ax = plots.plot_grid([[0.0, 1.0]], [1], [8, 16])
    assert [text.get_color() for text in ax.texts] == ["white", "black"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda r: plots.plot_picture(np.ones((3, 2)), list("abc"), ["d"]), "label 'd'"),
        (lambda r: plots.plot_picture(np.ones((9, 2)), list("abcdefghi"), "abcdefgh"), "at most 7"),
        (lambda r: plots.plot_picture(np.ones((3, 3)), list("abc")), "shape"),
        (lambda r: plots.plot_picture(np.ones((3, 2)), list("ab")), "shape"),
        (lambda r: plots.plot_retention(r, "unknown"), "no rows with task 'unknown'"),
        (lambda r: plots.plot_retention(r.drop(columns="k")), "no k"),
        (lambda r: plots.plot_retention(r[:0]), "no rows"),
        (lambda r: plots.plot_curves({}), "empty"),
        (lambda r: plots.plot_history(History([4], np.empty((0, 1)), 0.0)), "no steps"),
        (lambda r: plots.plot_history(History([4], np.ones((1, 1)), 0.0), smooth=0), "smooth"),
        (lambda r: plots.plot_grid([[0.5]], [1, 2], [8]), "shape"),
    ],
)
def test_bad_input_is_named(results, call, words):
    with pytest.raises(ValueError, match=words):
        call(results)


# ------------------------------------------------------------------------- what strangers bring


def test_a_curve_without_any_score_is_drawn_empty():
    curve = Curve({8: float("nan"), 16: float("nan")}, "sts_spearman", 16, float("nan"))
    ax = curve.plot()
    ax.figure.canvas.draw()
    assert np.isnan(ax.lines[0].get_ydata()).all()


@pytest.mark.parametrize("name", ["$5 model vs $10 model", "$$", "a_b $x", "50 % $"])
def test_a_name_is_text_and_no_formula(name):
    curve = Curve({8: 0.5, 16: 1.0}, "sts_spearman", 16, 1.0)
    axes = [
        plots.plot_curves({name: curve}),
        plots.plot_picture(np.arange(12.0).reshape(6, 2), [name] * 6),
        plots.plot_recall_vs_cost(
            pd.DataFrame({"method": [name], "recall": [1.0], "milliseconds": [2.0]})
        ),
    ]
    for ax in axes:
        ax.legend()
        ax.figure.canvas.draw()  # a formula that cannot be read fails here


def test_names_are_placed_without_comparing_all_points(monkeypatch):
    """30,000 points of one group took 42 GB: each was compared with each other."""
    largest = 0
    norm = np.linalg.norm

    def watched(array, *args, **kwargs):
        nonlocal largest
        largest = max(largest, array.size)
        return norm(array, *args, **kwargs)

    monkeypatch.setattr(np.linalg, "norm", watched)
    points = np.random.default_rng(0).random((30_000, 2))
    plots.plot_picture(points, ["all"] * 30_000)
    assert 0 < largest <= 2_000_000
