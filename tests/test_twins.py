"""The main job and its command: the table's shape, the figure, and files that are whole or not."""

import csv
import json
import math

import pandas as pd
import pytest

from mrl_course import cli
from mrl_course.commands import twins
from mrl_course.errors import MrlCourseError

FRAME = pd.DataFrame([("regular", 0, "sts_spearman", 8, 0.5, 1.0)], columns=list(twins.CSV_COLUMNS))
COMMAND = ["twins", "--source", "mini", "--limit", "600", "--dim", "16", "--epochs", "1"]


@pytest.fixture(scope="module")
def run_once(tmp_path_factory):
    out = tmp_path_factory.mktemp("twins") / "new" / "folder"
    assert cli.main([*COMMAND, "--seeds", "0,3", "--save-models", "--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_csv_has_the_agreed_columns_models_and_tasks(run_once):
    with open(run_once / "retention.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["model", "seed", "task", "k", "score", "retention"]
    models = {"regular", "matryoshka", "regular+pca", "random-dims", "trained-at-k"}
    tasks = {"sts_spearman", "retrieval_recall_at_10"}
    found = {(row["model"], row["seed"], row["task"]) for row in rows}
    assert found == {(m, s, t) for m in models for s in ("0", "3") for t in tasks}
    assert {row["k"] for row in rows if row["model"] == "regular"} == {"1", "4", "8", "12", "16"}


@pytest.mark.slow
def test_retention_is_score_over_full_score_of_the_same_model_and_seed(run_once):
    frame = pd.read_csv(run_once / "retention.csv")
    full = frame[frame["k"] == 16].set_index(["model", "seed", "task"])["score"]
    for row in frame.itertuples():
        expected = row.score / full[row.model, row.seed, row.task]
        assert row.retention == pytest.approx(expected, rel=1e-9)
    # A rotation keeps angles, a random order keeps all numbers, and D alone is the regular twin.
    at_full = frame[frame["k"] == 16].pivot_table(
        index=["seed", "task"], columns="model", values="score"
    )
    for baseline in ("regular+pca", "random-dims", "trained-at-k"):
        assert (at_full[baseline] - at_full["regular"]).abs().max() < 1e-3


@pytest.mark.slow
def test_record_holds_numbers_and_circumstances_but_no_path(run_once):
    text = (run_once / "retention.json").read_text(encoding="utf-8")
    record = json.loads(text)
    frame = pd.read_csv(run_once / "retention.csv")
    assert len(record["rows"]) == len(frame) and record["triplets"] == 600
    assert record["command"].startswith("mrl-course twins --seeds 0,3")
    assert len(record["seconds"]["matryoshka"]) == 2
    assert str(run_once) not in text
    assert all(math.isfinite(row[4]) for row in record["rows"])


@pytest.mark.slow
def test_figure_is_a_png_and_models_are_saved(run_once):
    from sentence_transformers import SentenceTransformer

    assert (run_once / "retention.png").read_bytes().startswith(b"\x89PNG")
    model = SentenceTransformer(str(run_once / "seed-3" / "matryoshka"), device="cpu")
    assert model.encode(["a dog"]).shape == (1, 16)
    assert not [path for path in run_once.iterdir() if "partial" in path.name]


@pytest.mark.slow
def test_the_same_command_gives_the_same_numbers(run_once, tmp_path, capsys):
    assert cli.main([*COMMAND, "--seeds", "3", "--out", str(tmp_path)]) == 0
    first = pd.read_csv(run_once / "retention.csv").query("seed == 3").reset_index(drop=True)
    pd.testing.assert_frame_equal(first, pd.read_csv(tmp_path / "retention.csv"))
    printed = capsys.readouterr().out
    assert "Retrieval: recall@10" in printed and "share of own full-size score" in printed


def test_unwritable_folder_is_told_before_any_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(twins, "compare_twins", lambda *a, **k: pytest.fail("trained first"))
    blocked = tmp_path / "file"
    blocked.write_text("kept", encoding="utf-8")
    assert cli.main([*COMMAND, "--out", str(blocked / "inside")]) == 2
    assert "cannot write into" in capsys.readouterr().err
    assert blocked.read_text(encoding="utf-8") == "kept"


@pytest.mark.parametrize("name", ["retention.csv", "retention.json", "retention.png", "seed-1"])
def test_a_file_that_cannot_be_replaced_is_told_before_any_training(
    tmp_path, capsys, monkeypatch, name
):
    monkeypatch.setattr(twins, "compare_twins", lambda *a, **k: pytest.fail("trained first"))
    if name == "seed-1":
        (tmp_path / name).write_text("a file where the models should go", encoding="utf-8")
    else:
        (tmp_path / name).mkdir()
    assert cli.main([*COMMAND, "--out", str(tmp_path), "--seeds", "0,1", "--save-models"]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / name) in error and error.count("\n") == 1


def test_one_locked_file_costs_no_other(tmp_path, capsys, monkeypatch):
    """A spreadsheet is opened in another program while the twins are trained."""

    def train(*args, keep, **settings):
        (tmp_path / "retention.csv").mkdir()  # stands for the lock
        keep(0, [("regular", Broken())])
        return FRAME.copy()

    class Broken:
        def save(self, *args, **settings):
            raise OSError("disk full")

    monkeypatch.setattr(twins, "compare_twins", train)
    assert cli.main([*COMMAND, "--out", str(tmp_path), "--save-models"]) == 2
    captured = capsys.readouterr()
    assert str(tmp_path / "retention.csv") in captured.err
    assert "close it where it is open" in captured.err and captured.err.count("\n") == 1
    assert "cannot save the model regular of seed 0: disk full" in captured.err
    for name in ("retention.json", "retention.png"):
        assert (tmp_path / name).is_file() and f"wrote {tmp_path / name}" in captured.out


def test_a_score_of_nothing_at_full_size_is_a_gap_and_no_crash(tmp_path, monkeypatch):
    """A5: the share of a full-size score of 0 means nothing."""
    from mrl_course import comparison
    from mrl_course.evaluation import Curve

    nothing = Curve({8: 0.0}, "sts_spearman", 8, 0.0)
    monkeypatch.setattr(comparison, "_twin_curves", lambda *a: {"regular": (nothing,)})
    monkeypatch.setattr(comparison, "_trained_at_k", lambda *a: (nothing,))
    frame = comparison.compare_twins("mini", limit=64, dim=8, epochs=1)
    assert frame["score"].tolist() == [0, 0] and frame["retention"].isna().all()
    assert "-" in twins.table(frame)
    mixed = pd.concat([FRAME, frame])
    assert twins.write_results(mixed, tmp_path, "command", "mini").problems == []
    record = json.loads((tmp_path / "retention.json").read_text(encoding="utf-8"))
    assert [row[5] for row in record["rows"]] == [1.0, None, None]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"dim": 7}, "dim must be at least 8, got 7"),
        ({"seeds": [0, -1]}, r"seeds\[1\] must be between 0"),
        ({"seeds": [1, 1]}, "seeds must be different"),
        ({"seeds": []}, "at least one"),
        ({"seeds": 3}, "seeds must be a list"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"limit": 2.5}, "limit must be an integer"),
    ],
)
def test_settings_are_checked_before_the_data_is_read(monkeypatch, settings, says):
    monkeypatch.setattr("mrl_course.data.load_allnli", lambda *a, **k: pytest.fail("read first"))
    with pytest.raises(MrlCourseError, match=says):
        twins.compare_twins("mini", **settings)


def test_interrupted_training_writes_nothing_and_keeps_old_results(tmp_path, capsys, monkeypatch):
    (tmp_path / "retention.csv").write_text("old", encoding="utf-8")

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(twins, "compare_twins", stop)
    assert cli.main([*COMMAND, "--out", str(tmp_path)]) == 130
    assert "stopped by hand" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["retention.csv"]
    assert (tmp_path / "retention.csv").read_text(encoding="utf-8") == "old"


def test_failing_writer_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "retention.png").write_bytes(b"old")

    def broken(results, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(twins, "_draw", broken)
    written = twins.write_results(FRAME, tmp_path, "command", "mini")
    assert [path.name for path in written.paths] == ["retention.csv", "retention.json"]
    assert len(written.problems) == 1 and "disk full" in written.problems[0]
    assert (tmp_path / "retention.png").read_bytes() == b"old"
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_a_training_stopped_by_hand_stops_the_job(monkeypatch):
    from mrl_course import training

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "nested_losses", stop)
    with pytest.raises(KeyboardInterrupt):
        twins.compare_twins("mini", limit=50, dim=8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seeds", "0,0"], "0,0"),
        (["--seeds", "a"], "0,1,2"),
        (["--limit", "0"], "at least 1"),
        (["--dim", "-3"], "at least 8"),
        (["--dim", "7"], "at least 8"),
        (["--dim", "1"], "at least 8"),
        (["--seeds=-1"], "from 0"),
        (["--seeds", "4294967296"], "2**32"),
        (["--epochs", "9" * 5000], "at least 1"),
    ],
)
def test_wrong_arguments_are_named(arguments, words, capsys):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["twins", *arguments])
    assert exit_info.value.code == 2
    assert words in capsys.readouterr().err


def test_unknown_source_is_one_line_on_stderr(tmp_path, capsys):
    assert cli.main(["twins", "--source", "nowhere", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "nowhere" in error and len(error.splitlines()) == 1


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    printed = capsys.readouterr().out
    assert all(f"\n    {name}" in printed for name in ("twins", "run", "data", "doctor"))
