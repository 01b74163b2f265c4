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
