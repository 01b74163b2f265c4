"""Recorded runs are read whole, with their circumstances, or refused with a reason."""

import json
from pathlib import Path

import pytest

from mrl_course import results
from mrl_course.commands import twins
from mrl_course.errors import WrongValue
from mrl_course.files import results_folder
from mrl_course.results import load_results

ROW = ["regular", 0, "sts_spearman", 8, 0.5, 0.7]


@pytest.fixture
def record(tmp_path, monkeypatch):
    """A function that writes a run named ``run`` with some keys changed."""
    monkeypatch.setattr(results, "results_folder", lambda: tmp_path / "results")
    (tmp_path / "results").mkdir()

    def write(text=None, **changes):
        content = {"date": "2026-01-01", "columns": list(twins.CSV_COLUMNS), "rows": [ROW]}
        file = tmp_path / "results" / "run.json"
        file.write_text(text or json.dumps(content | changes), encoding="utf-8")

    return write


def test_a_run_comes_with_its_circumstances(record):
    record(machine="two cores")
    frame = load_results("run")
    assert list(frame.columns) == list(twins.CSV_COLUMNS)
    assert frame.values.tolist() == [ROW]
    assert frame.attrs == {"date": "2026-01-01", "machine": "two cores"}


def test_an_unknown_name_lists_what_there_is(record):
    with pytest.raises(ValueError, match="'other'; there are: none"):
        load_results("other")
    record()
    with pytest.raises(ValueError, match="'../run'; there are: run"):
        load_results("../run")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"text": "{"}, "not readable as JSON"),
        ({"text": "[1]"}, "columns None"),
        ({"columns": []}, "expected a list of different names"),
        ({"columns": ["k", "k"]}, "expected a list of different names"),
        ({"columns": ["k", "score"]}, "row 0"),
        ({"rows": []}, "no rows"),
        ({"rows": {}}, "no rows"),
        ({"rows": [ROW, ROW[:-1]]}, "row 1"),
        ({"rows": [ROW, [*ROW[:4], "0.5", 0.7]]}, "row 1"),
        ({"rows": [ROW, ["regular", 0, "sts_spearman", "8", 0.5, 0.7]]}, "row 1"),
        ({"rows": [ROW, [3, *ROW[1:]]]}, "row 1"),
        ({"rows": [[None, *ROW[1:]]]}, "row 0"),
        ({"rows": [ROW, [None, *ROW[1:]]]}, "row 1"),
        ({"rows": [[None, *ROW[1:]], ROW]}, "row 1"),
        ({"rows": [[*ROW[:5], None]]}, "'retention' holds nothing"),
        ({"rows": [[True, *ROW[1:]]]}, "row 0"),
        ({"rows": ["abcdef"]}, "row 0"),
    ],
)
def test_a_broken_run_is_refused(record, changes, says):
    record(**changes)
    with pytest.raises(ValueError, match=f"run.json.*{says}"):
        load_results("run")


def test_a_missing_number_is_none_in_the_file_and_nan_in_the_frame(record):
    record(rows=[[*ROW[:5], None], ROW])
    assert load_results("run")["retention"].isna().tolist() == [True, False]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), object()])
def test_what_json_does_not_have_is_not_written(bad):
    with pytest.raises(WrongValue, match="row 1 of the record"):
        results.record_text({"rows": [[1], [bad]]})
    with pytest.raises(WrongValue, match="before the rows"):
        results.record_text({"rows": [[1]], "seconds": bad})
    assert json.loads(results.record_text({"a": 1, "rows": [[1, None], ["x"]]})) == {
        "a": 1,
        "rows": [[1, None], ["x"]],
    }


def test_it_reads_what_the_command_writes(record, tmp_path):
    record()
    frame = load_results("run")
    frame.attrs = {"triplets": 7, "seconds": {"regular": [0.1]}}
    twins.write_results(frame, tmp_path / "results", "mrl-course twins", "mini")
    again = load_results("retention")
    assert again.values.tolist() == [ROW]
    assert again.attrs["triplets"] == 7 and again.attrs["command"] == "mrl-course twins"


@pytest.mark.parametrize("path", sorted(results_folder().glob("*.json")), ids=lambda p: p.stem)
def test_every_shipped_run_says_how_it_was_made(path):
    about = load_results(path.stem).attrs
    assert {"what", "date", "command", "source", "machine", "versions"} <= set(about)


def test_the_recorded_twins_are_sound():
    frame = load_results("twins_allnli")
    assert list(frame.columns) == list(twins.CSV_COLUMNS)
    assert not frame.duplicated(["model", "seed", "task", "k"]).any()
    assert frame["score"].between(-1, 1).all() and (frame["k"] >= 1).all()
    full = frame[frame["k"] == frame["k"].max()]
    assert (full["retention"] == 1).all()
    kept = frame.merge(full, on=["model", "seed", "task"], suffixes=("", "_full"))
    assert len(kept) == len(frame)
    share = kept["score"] / kept["score_full"]
    assert (share - kept["retention"]).abs().max() < 1e-4  # both are stored with five decimals


def test_the_recorded_search_reaches_its_goals_and_the_readme_quotes_it():
    run = load_results("search")
    assert set(run.corpus) == {10_000, 100_000, 1_000_000} and set(run.batch) == {1, 100}
    assert (run.low <= run.milliseconds).all() and (run.milliseconds <= run.high).all()
    assert (run[run.method != "prefix only"].recall >= 0.99).all()
    one = run[(run.batch == 1) & (run.corpus == 1_000_000)].groupby("method").milliseconds.min()
    exact = one[["exact (numpy)", "exact (FAISS flat)"]].min()
    assert exact > 10 * one["two-stage"] and exact > 20 * one["FAISS binary + rerank"]
    assert one["funnel"] <= one["two-stage"]
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    for ms in (exact, one["two-stage"], one["FAISS binary + rerank"], one["HNSW full"]):
        assert f"{ms:.1f} ms" in readme


def test_the_recorded_heads_are_complete_and_the_readme_quotes_them():
    run = load_results("retrofit")
    means = run.groupby(["fitted_on", "method", "task", "k"]).score.mean()
    seeds = run[~run.method.isin(["pca", "raw prefix"])].groupby(["fitted_on", "method"]).seed
    assert (seeds.unique().map(sorted).map(tuple) == (0, 1, 2)).all()
    assert set(run.task) == {"sts", "premises", "docstrings", "cranfield"}
    assert len(run) == len(run.drop_duplicates(["fitted_on", "method", "seed", "task", "k"]))
    assert run.groupby(["fitted_on", "method", "seed"]).size().eq(4 * run.k.nunique()).all()
    readme = (
        (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8").replace("\n", " ")
    )
    a, b = (means["nli", m, "premises", 8] for m in ("rotate and distil", "pca"))
    raw = means["-", "raw prefix", "premises", 8]
    assert f"8 of 384 numbers found {a:.2f} of 2,000" in readme
    assert f"PCA {b:.2f} and the raw prefix {raw:.2f}" in readme


def test_the_recorded_heads_on_other_peoples_vectors_are_complete():
    run = load_results("retrofit_providers")
    reported = run[run.part == "report"]
    new = reported[reported.method == "new head"]
    assert new.groupby("set").seed.unique().map(set).eq({0, 1, 2}).all() and new.set.nunique() == 4
    assert set(reported.method) == {"raw", "pca", "tempered", "old head", "new head"}
    chosen = run[run.part == "choose"]
    assert not set(chosen.set) & set(reported.set)
    assert run.overlap.between(0, 1).all() and (run.gain.between(run.low, run.high)).all()
    means = reported.groupby(["set", "method", "k"]).overlap.mean().unstack("method")
    assert (means["new head"] > means["pca"]).unstack("k")[[8, 16, 32]].all().all()
    best = means[["raw", "pca"]].max(axis=1)
    assert (means["new head"] - best).min() > -0.01
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    for name in ("jina_v5_small_int8_docs", "multilingual_e5_base_slides"):
        table = means.loc[name]
        for method in ("raw", "pca", "new head"):
            numbers = " | ".join(f"{x:.2f}" for x in table[method])
            assert f"| {numbers} |" in readme, (name, method)


def test_the_readme_says_what_clipping_does():
    run = load_results("ablations").query("what == 'difference' and over == 'seeds'")
    run = run.query("task == 'premises' and k == 16").set_index(["method", "against"])
    gain = run.loc[("matryoshka, gradient clipped at 1", "matryoshka")]
    readme = (
        (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8").replace("\n", " ")
    )
    assert (
        f"gains {gain.value:.3f} of recall at 16 numbers, 95 % interval {gain.low:.3f} to "
        in readme
    )
    assert f" to {gain.high:.3f}, and the regular twin stays" in readme
    same = run.loc[("regular, gradient clipped at 1", "regular")]
    assert abs(same.value) < 0.001


def test_the_readme_quotes_the_recorded_headline():
    run = load_results("headline").query("what == 'kept' and over == 'seeds' and k == 64")
    kept = run.set_index(["task", "method"]).value
    readme = (
        (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8").replace("\n", " ")
    )
    for task, words in {
        "sts": "head keeps {:.1f} % of its similarity score and the Matryoshka head {:.1f} %",
        "premises": "of its recall they keep {:.1f} % and {:.1f} %",
    }.items():
        shares = [kept[task, method] for method in ("regular", "matryoshka")]
        assert words.format(*(100 * s if s < 2 else s for s in shares)) in readme


def test_the_recorded_fine_tuning_and_distillation_are_complete():
    tuned = load_results("finetune_allnli")
    assert set(tuned.method) == {"regular", "matryoshka", "regular, rotated"}
    assert tuned.groupby("method").seed.unique().map(set).eq({0, 1, 2}).all()
    assert len(tuned) == 3 * 3 * 2 * tuned.k.nunique() and tuned.score.between(0, 1).all()
    full = tuned[tuned.k == tuned.k.max()].pivot_table("score", ["seed", "task"], "method")
    assert (full["regular"] - full["regular, rotated"]).abs().max() < 0.001
    distilled = load_results("distill_allnli")
    assert set(distilled.distill) == {0.0, 1.0} and set(distilled.seed) == {0, 1, 2, 3, 4}
    assert len(distilled) == 2 * 5 * 2 * distilled.k.nunique()
