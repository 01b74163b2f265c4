"""The settings of other machines do what they say, and start-up files change what they should."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import elsewhere
import faults
import nudge
import pytest
from elsewhere import REPOSITORY, SETTINGS, STARTUP, Setting, compare
from nbformat.v4 import new_code_cell, new_notebook, new_output

from mrl_course.commands.lessons import clean_notebook, notebook_text


def python(code, **environment):
    """Run code in a process with the start-up files; return what it prints, evaluated."""
    path = os.pathsep.join([str(STARTUP), str(REPOSITORY)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return eval(done.stdout)


NUDGED = """
import numpy as np, torch
from sklearn.cluster import KMeans
from mrl_course.models import build_static_model
from mrl_course.evaluation import pca_rotation
first, second = (build_static_model(["a dog", "a cat"], dim=8, seed=seed) for seed in (0, 0))
rows = np.random.default_rng(0).normal(size=(50, 8))
torch.manual_seed(0)
layer = torch.nn.Linear(8, 8).weight
print([
    np.float64(first[0].embedding.weight.detach().numpy()).tolist(),
    np.float64(second[0].embedding.weight.detach().numpy()).tolist(),
    np.float64(layer.detach().numpy()).tolist(),
    np.float64(KMeans(2, n_init=1, random_state=0).fit(rows).cluster_centers_).tolist(),
    np.float64(pca_rotation(rows)).tolist(),
])
"""


@pytest.mark.slow
def test_a_nudge_moves_the_last_bits_of_models_and_fits(tmp_path):
    import numpy as np

    log = tmp_path / "log"
    plain = python(NUDGED)
    assert plain[0] == plain[1]
    both = [python(NUDGED, MRL_TEST_NUDGE=seed, MRL_TEST_LOG=str(log)) for seed in "12"]
    assert len(log.read_text().split()) == 2  # one line for each process
    for nudged in both:
        assert nudged[0] == nudged[1]  # two models with one start still have one start
        for before, after in zip(plain, nudged, strict=True):
            before, after = np.array(before), np.array(after)
            assert (before != after).any()
            np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
        change = np.array(nudged[0]) / np.array(plain[0]) - 1
        np.testing.assert_allclose(np.abs(change), nudge.SIZE, rtol=0.2)  # float32 rounds it
        assert 0 < (change > 0).mean() < 1
    assert both[0] != both[1]


def test_a_planted_fault_is_there_and_nothing_else():
    code = "import numpy as np; from mrl_course.search import truncate\n"
    code += "print(truncate(np.array([3.0, 4.0, 12.0]), 2).tolist())"
    assert python(code) == pytest.approx([0.6, 0.8])
    assert len(python(code, MRL_TEST_FAULT="one-number-more")) == 3
    assert python(code, MRL_TEST_FAULT="twins-swapped") == pytest.approx([0.6, 0.8])


def test_what_is_patched_exists_in_the_package():
    for module, function, _, lesson in faults.FAULTS.values():
        assert callable(getattr(importlib.import_module(module), function))
        assert elsewhere.lesson_files([lesson])
    assert len(faults.FAULTS) >= 12
    assert elsewhere.lesson_files([*elsewhere.TRAINING, *elsewhere.STRANGERS])
    with pytest.raises(SystemExit, match="no lesson 99"):
        elsewhere.lesson_files(["99"])


def test_settings_have_names_of_their_own_and_keep_what_the_environment_sets():
    assert len({setting.name for setting in SETTINGS}) == len(SETTINGS)
    assert elsewhere.avx2({})["OPENBLAS_CORETYPE"] == "Haswell"
    assert elsewhere.avx2({"OPENBLAS_CORETYPE": "Zen"})["OPENBLAS_CORETYPE"] == "Zen"


# ---------------------------------------------------------------------- a run of lessons


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A copy of the course, with one short lesson whose outputs are given."""
    folder = tmp_path / "course"
    for name in ("tests", "mrl_course", "data"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(REPOSITORY / name)
    for name in ("conftest.py", "pyproject.toml"):
        (folder / name).write_bytes((REPOSITORY / name).read_bytes())
    (folder / "notebooks").mkdir()
    monkeypatch.setattr(elsewhere, "REPOSITORY", folder)

    def lesson(number, *cells):
        codes = [
            new_code_cell(source, outputs=[new_output("stream", name="stdout", text=text)])
            for source, text in cells
        ]
        for count, code in enumerate(codes, start=1):
            code.execution_count = count
        path = folder / "notebooks" / f"{number}_lesson.ipynb"
        path.write_text(notebook_text(clean_notebook(new_notebook(cells=codes))), "utf-8")

    return lesson


@pytest.mark.slow
def test_a_strangers_machine_is_one(course):
    facts = "import os, sys, time, locale, mrl_course\n"
    course(
        "00",
        (facts + "print(os.getcwd().split(os.sep)[-2])", elsewhere.FOREIGN_FOLDER + "\n"),
        (
            "print(os.sep.join(mrl_course.__file__.split(os.sep)[-3:-2]))",
            elsewhere.FOREIGN_FOLDER + "\n",
        ),
        ("print('HOME' in os.environ, time.strftime('%Z'))", "False FAR\n"),
        ("print(sys.flags.utf8_mode, os.environ['MRL_COURSE_DATA'])", "0 mini\n"),
        ("print('here', 0.1)", "there 0.1\n"),
    )
    setting = Setting(
        "all at once",
        {"TZ": "FAR-14", "LC_ALL": "C", "PYTHONUTF8": "0"},
        without=("HOME",),
        spinning=1,
        moved=True,
    )
    result = compare(["00"], setting)
    assert (result.cells, list(result.differ)) == (5, ["00_lesson, Cell 4"]), result.differ
    (why,) = result.differ.values()
    assert "Cell outputs differ" in why and "stored is 'there', got 'here'" in why


@pytest.mark.slow
def test_settings_report_cells_that_differ_and_nudges_that_change_nothing(course, capsys):
    model = "from mrl_course.models import build_static_model as build\n"
    weight = "print(f\"{build(['a dog'], dim=2)[0].embedding.weight[0, 0].item():.12f}\")"
    course("00", ("print(1)", "1\n"))
    course("03", (model + weight, "0.000000000000\n"))
    nudged = next(setting for setting in SETTINGS if setting.name == "nudge-1")
    assert not elsewhere.try_settings([nudged, Setting("as here")], [])
    out = capsys.readouterr().out
    assert "nudge-1            1 of 2 cells agree" in out and "as here" in out
    first, second = [line for line in out.splitlines() if "is stored as" in line]
    assert first != second
    assert not elsewhere.try_settings([nudged], ["00"])
    assert "no kernel was nudged" in capsys.readouterr().out


def test_the_reason_of_a_cell_is_short():
    text = "Cell 3: Cell outputs differ\n\nInput:\nx\n\nTraceback:\n"
    text += "stdout, 1\n  a\n  b\n mismatch 'stdout'\n5\n"
    assert elsewhere.reason(text) == "Cell outputs differ\nstdout, 1\n  a\n  b"
    text = "Cell 3: Cell execution failed\n\nInput:\nx\n\nTraceback:\n\n1\n#x1B[31m2\n3\n4"
    assert elsewhere.reason(text) == "Cell execution failed\n2\n3\n4"


def test_unknown_names_are_refused(capsys):
    for arguments in (["--settings", "windows"], ["--faults", "none-such"]):
        with pytest.raises(SystemExit):
            elsewhere.main(arguments)
        assert "unknown" in capsys.readouterr().err


def test_the_choice_of_lessons_reaches_the_settings(monkeypatch):
    calls = []
    monkeypatch.setattr(elsewhere, "try_settings", lambda s, only: calls.append((s, only)) or True)
    assert elsewhere.main(["--only", "6,10"]) == 0
    assert elsewhere.main(["--training", "--settings", "nudge-1"]) == 0
    assert calls[0] == (SETTINGS, ["06", "10"])
    assert [s.name for s in calls[1][0]] == ["nudge-1"] and calls[1][1] == list(elsewhere.TRAINING)
    assert Path(elsewhere.STARTUP, "sitecustomize.py").is_file()
