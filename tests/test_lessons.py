"""`mrl-course run`: finding, executing, cleaning and storing lessons."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mrl_course import cli, files
from mrl_course.commands import lessons
from mrl_course.commands.lessons import LessonError, clean_notebook, notebook_text, read_notebook

PROBE = """
import os, sys
names = ["MRL_COURSE_DATA", "HF_HUB_OFFLINE", "PYTHONHASHSEED"]
print(sys.executable, os.getcwd(), *[os.environ.get(name) for name in names], sep="|")
"""
NOISY = """
import matplotlib.pyplot as plt
from tqdm import tqdm
_ = [_ for _ in tqdm(range(3))]
_ = plt.plot([1, 2])
plt.show()
"""


def save(path: Path, *sources: str) -> Path:
    stale = {"outputs": [new_output("stream", name="stdout", text="old")], "execution_count": 9}
    cells = [new_code_cell(source, id=f"c{i}", **stale) for i, source in enumerate(sources)]
    nbformat.write(new_notebook(cells=[new_markdown_cell("# T", id="head"), *cells]), path)
    return path


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with three lessons: a good one, a failing one, one that writes to stderr."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    save(tmp_path / "notebooks" / "00_good.ipynb", PROBE, NOISY, "", "1 + 1")
    save(tmp_path / "notebooks" / "01_fails.ipynb", "x = 1", "raise KeyError('no ☃')", "x")
    save(tmp_path / "notebooks" / "02_noise.ipynb", "import sys; print('oh', file=sys.stderr)")
    for module in (files, lessons):
        monkeypatch.setattr(module, "PACKAGE", tmp_path / "mrl_course")
    monkeypatch.delenv("MRL_COURSE_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> int:
    return cli.main(["run", *arguments])


def outputs(path: Path, cell: int) -> list:
    return read_notebook(path).cells[cell].outputs


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# -------------------------------------------------------------------------------- executing


def test_all_lessons_run_and_a_failing_one_stops_none(checkout, capsys):
    before = {path: path.read_bytes() for path in checkout.glob("notebooks/*")}
    assert run("--source", "notebooks", "--timeout", "600") == 1
    out = capsys.readouterr().out
    assert "00_good ... ok " in out
    assert "01_fails ... FAILED" in out
    assert "cell 3 of 4" in out and "raise KeyError('no ☃')" in out and "KeyError: 'no ☃'" in out
    assert "02_noise ... ok" in out and "(cell 2 wrote to stderr: oh)" in out
    assert "2 of 3 lessons ran without a problem" in out
    assert before == {path: path.read_bytes() for path in checkout.glob("notebooks/*")}
    built = checkout / "build" / "lessons"
    assert listing(built) == ["00_good.ipynb", "01_fails.ipynb", "02_noise.ipynb"]

    # this Python, the notebook's own folder, a folder of data made absolute, no hash surprises
    folder = str(checkout / "notebooks")
    said = outputs(built / "00_good.ipynb", 1)[0].text.strip().split("|")
    assert said == [sys.executable, folder, folder, os.environ.get("HF_HUB_OFFLINE", "None"), "0"]
    noisy = outputs(built / "00_good.ipynb", 2)
    assert [output.output_type for output in noisy] == ["display_data"]
    assert set(noisy[0].data) == {"image/png", "text/plain"}
    good = read_notebook(built / "00_good.ipynb")
    assert [cell.get("execution_count") for cell in good.cells] == [None, 1, 2, None, 3]
    assert notebook_text(good) == notebook_text(clean_notebook(good))
    assert outputs(built / "01_fails.ipynb", 3) == []


def test_inplace_refreshes_good_lessons_from_the_miniature_and_leaves_the_others(
    checkout, capsys, monkeypatch
):
    monkeypatch.setenv("MRL_COURSE_DATA", "hub")
    notebooks = checkout / "notebooks"
    failing = (notebooks / "01_fails.ipynb").read_bytes()
    noisy = (notebooks / "02_noise.ipynb").read_bytes()
    assert run("--inplace") == 1
    out = capsys.readouterr().out
    assert out.count("The stored notebook is as it was") == 2
    assert "02_noise ... FAILED" in out and "cell 2 wrote to stderr: oh" in out
    assert (notebooks / "01_fails.ipynb").read_bytes() == failing
    assert (notebooks / "02_noise.ipynb").read_bytes() == noisy
    assert outputs(notebooks / "00_good.ipynb", 1)[0].text.strip().split("|")[2:4] == ["mini", "1"]
    first = (notebooks / "00_good.ipynb").read_bytes()
    assert run("0", "--inplace", "--source", "mini") == 0
    assert (notebooks / "00_good.ipynb").read_bytes() == first
    assert listing(notebooks) == ["00_good.ipynb", "01_fails.ipynb", "02_noise.ipynb"]
    assert not (checkout / "build").exists()


@pytest.mark.parametrize(
    ("source", "timeout", "says"),
    [
        ("while True: pass", 1, r"cell 2 of 2\ntook longer than 1 s"),
        ("import os; os._exit(1)", 600, r"cell 2 of 2\nKernel died"),
    ],
)
def test_a_hanging_and_a_dying_kernel_are_failures(tmp_path, source, timeout, says):
    result = lessons.execute_lesson(save(tmp_path / "x.ipynb", source), timeout=timeout)
    assert re.fullmatch(says + ".*", result.failure)


def test_an_expected_exception_is_no_failure(tmp_path):
    path = save(tmp_path / "x.ipynb", "1 / 0", "2")
    notebook = read_notebook(path)
    notebook.cells[1].metadata.tags = ["raises-exception"]
    nbformat.write(notebook, path)
    result = lessons.execute_lesson(path)
    assert result.failure == ""
    assert result.notebook["cells"][1]["outputs"][0]["ename"] == "ZeroDivisionError"
    assert result.notebook["cells"][2]["execution_count"] == 2


@pytest.mark.skipif(sys.platform == "win32", reason="sends the signal of a POSIX terminal")
def test_ctrl_c_stops_the_kernel_and_writes_nothing(checkout):
    started = checkout / "pid"
    hang = f"import os, time; open({str(started)!r}, 'w').write(str(os.getpid()))\ntime.sleep(3600)"
    save(checkout / "notebooks" / "00_good.ipynb", hang)
    code = (
        "import argparse, signal; from pathlib import Path\n"
        "from mrl_course import files; from mrl_course.commands import lessons\n"
        # a job started in the background inherits that Ctrl-C is ignored
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"files.PACKAGE = lessons.PACKAGE = Path({str(checkout / 'mrl_course')!r})\n"
        "parser = argparse.ArgumentParser(); lessons.add_parser(parser.add_subparsers())\n"
        "args = parser.parse_args(['run', '--inplace']); raise SystemExit(args.func(args))"
    )
    before = (checkout / "notebooks" / "00_good.ipynb").read_bytes()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(lessons.__file__).parents[2])},
        encoding="utf-8",
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 600
        while not (started.exists() and started.read_text()) and time.monotonic() < deadline:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Stopped by Ctrl-C after 0 of 3 lessons" in out
    assert err == ""
    deadline = time.monotonic() + 600
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:  # who kills it need not be who clears it away
            os.kill(int(started.read_text()), 0)
            time.sleep(0.05)
    assert (checkout / "notebooks" / "00_good.ipynb").read_bytes() == before
    assert not list(checkout.rglob("*.tmp"))


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = save(tmp_path / "x.ipynb", "1")
    before = path.read_bytes()

    def full(*args):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        lessons.write_notebook(new_notebook(), path)
    assert path.read_bytes() == before
    assert listing(tmp_path) == ["x.ipynb"]


# ------------------------------------------------------------------------------ which ones


def test_lessons_are_found_by_number_name_and_path_each_once(checkout):
    names = lambda *wanted: [path.stem for path in lessons.find_lessons(wanted)]  # noqa: E731
    assert names() == ["00_good", "01_fails", "02_noise"]
    assert names("2", "00", "00_good", "notebooks/02_noise.ipynb", "00_good.ipynb") == [
        "02_noise",
        "00_good",
    ]
    other = save(checkout / "other.ipynb", "1")
    assert lessons.find_lessons(["other.ipynb"]) == [other]


@pytest.mark.parametrize("wanted", ["7", "good", "other.ipynb", "-", "²", ""])
def test_an_unknown_lesson_lists_those_there_are(checkout, capsys, wanted):
    assert run("0", "--", wanted) == 2
    assert f"no lesson {wanted!r}" in capsys.readouterr().err
    with pytest.raises(LessonError, match=r"00_good\n  01_fails\n  02_noise"):
        lessons.find_lessons([wanted])


def test_results_that_cannot_be_written_are_told_before_any_lesson_runs(checkout, capsys):
    (checkout / "build" / "lessons" / "01_fails.ipynb").mkdir(parents=True)
    assert run() == 2
    captured = capsys.readouterr()
    assert "01_fails.ipynb: it is a folder" in captured.err and captured.out == ""


def test_one_result_that_cannot_be_written_costs_no_other(checkout, capsys, monkeypatch):
    write = lessons.write_notebook

    def locked(notebook, path):
        if path.name == "00_good.ipynb":
            raise OSError(f"cannot write {path}: it is open; close it where it is open")
        write(notebook, path)

    monkeypatch.setattr(lessons, "write_notebook", locked)
    save(checkout / "notebooks" / "01_fails.ipynb", "1")
    assert run("0", "1") == 1
    out = capsys.readouterr().out
    assert "close it where it is open" in out and "01_fails ... ok" in out
    assert listing(checkout / "build") == ["01_fails.ipynb"]


def test_without_a_home_folder_the_cure_is_named(checkout, capsys, monkeypatch):
    monkeypatch.setattr(lessons, "home_folder", lambda: None)
    assert run() == 2
    assert "set HOME" in capsys.readouterr().err
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert files.home_folder() is None
    assert not (checkout / "build").exists()


def test_two_notebooks_of_one_name_are_refused(checkout):
    (checkout / "b").mkdir()
    save(checkout / "b" / "00_good.ipynb", "1")
    with pytest.raises(LessonError, match="Two notebooks are called 00_good.ipynb"):
        lessons.find_lessons(["0", "b/00_good.ipynb"])


def test_an_installed_package_has_its_own_lessons_and_refuses_inplace(checkout, capsys):
    (checkout / "pyproject.toml").unlink()
    assert lessons.notebook_folder() == checkout / "mrl_course" / "_notebooks"
    assert run() == 2
    assert "There are no lessons in" in capsys.readouterr().err
    assert run("--inplace") == 2
    assert "--inplace refreshes the lessons of a checkout" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--source", "nowhere"], "No data source 'nowhere'"),
        (["--inplace", "--source", "hub"], "not 'hub'"),
    ],
)
def test_a_wrong_source_stops_before_anything_runs(checkout, capsys, arguments, says):
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert says in captured.err and captured.out == ""


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "soon", "²", ""])
def test_a_timeout_is_a_number_of_seconds(text, capsys):
    with pytest.raises(SystemExit):
        run(f"--timeout={text}")
    assert "is not a whole number of seconds above 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "{}", '{"cells": [], "nbformat": 3, "metadata": {}}', '{"nbformat": 4}']
    + ['{"nbformat": 4, "cells": [{}]}', '{"nbformat": 4, "cells": [1]}', "\xff"],
)
def test_a_broken_notebook_is_named_and_the_others_run(checkout, capsys, text):
    broken = checkout / "notebooks" / "01_fails.ipynb"
    broken.write_bytes(text.encode("latin-1"))
    with pytest.raises(LessonError, match="01_fails.ipynb is not a"):
        read_notebook(broken)
    assert run("1", "--inplace") == 1
    assert "01_fails ... FAILED" in capsys.readouterr().out
    assert broken.read_bytes() == text.encode("latin-1")


def test_missing_packages_are_named_with_the_fix(tmp_path, monkeypatch):
    path = save(tmp_path / "x.ipynb", "1")
    monkeypatch.setitem(sys.modules, "nbclient", None)
    with pytest.raises(LessonError, match="need nbclient: pip install nbclient"):
        lessons.execute_lesson(path)
    monkeypatch.setitem(sys.modules, "nbformat", None)
    with pytest.raises(LessonError, match="nbformat: pip install"):
        lessons.execute_lesson(path)


# ------------------------------------------------------------------------------ clean form


def test_cleaning_keeps_what_a_reader_sees_and_drops_the_rest():
    stream = [new_output("stream", name=n, text=t) for n, t in ["ao", "ap", "bq"]]
    figure = new_output("display_data", {"image/png": "AA==", "text/plain": "<Figure>"})
    result = new_output("execute_result", {"text/plain": "1", lessons.WIDGET_VIEW: {}})
    result.execution_count = 9
    code = new_code_cell("1", id="one", outputs=[*stream, figure, result], execution_count=7)
    code.metadata.update({"tags": ["a"], "scrolled": True, "execution": {"iopub": "now"}})
    last = new_code_cell("2", id="one", execution_count=12)
    text = new_markdown_cell("hi", attachments={"x.png": {"image/png": "AA=="}})
    text.metadata.tags = []
    del text["id"]
    notebook = {"cells": [code, text, last], "metadata": {"widgets": {}, "colab": {}}}
    before = json.dumps(notebook)
    clean = clean_notebook(notebook)
    assert json.dumps(notebook) == before
    nbformat.validate(nbformat.from_dict(clean))
    assert clean["metadata"] == {
        "kernelspec": {
            "display_name": "Python 3 (ipykernel)",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python"},
    }
    assert [cell["id"] for cell in clean["cells"]] == ["one", "cell-2", "cell-3"]
    assert [cell["metadata"] for cell in clean["cells"]] == [{"tags": ["a"]}, {}, {}]
    assert [cell.get("execution_count") for cell in clean["cells"]] == [1, None, 2]
    assert clean["cells"][1]["attachments"] == text.attachments
    outputs = clean["cells"][0]["outputs"]
    assert [output.get("text") for output in outputs] == ["op", "q", None, None]
    assert outputs[2]["data"] == figure.data
    assert outputs[3]["data"] == {"text/plain": "1"} and outputs[3]["execution_count"] == 1


def test_counts_out_of_order_stay_visible():
    cells = [new_code_cell("1", execution_count=count) for count in (3, 1, None)]
    clean = clean_notebook(new_notebook(cells=cells))
    assert [cell["execution_count"] for cell in clean["cells"]] == [3, 1, None]


def test_the_text_of_a_notebook_is_written_one_way(tmp_path):
    path = tmp_path / "x.ipynb"
    lessons.write_notebook(clean_notebook(new_notebook(cells=[new_markdown_cell("é☃\nb")])), path)
    data = path.read_bytes()
    assert data.endswith(b"}\n") and not data.endswith(b"\n\n")
    assert '"é☃\\n",\n    "b"'.encode() in data and b"\r" not in data
    assert b'{\n "cells": [\n  {\n   "cell_type": "markdown",\n   "id": "' in data


identifiers = st.sampled_from(["a", "b", "cell-2", "cell-2-b", None])
streams = st.builds(
    lambda name, text: new_output("stream", name=name, text=text),
    st.sampled_from(["stdout", "stderr"]),
    st.text(max_size=5),
)
code_cells = st.builds(
    lambda id, count, outputs, source: {
        **new_code_cell(source, execution_count=count, outputs=outputs),
        "id": id,
    },
    identifiers,
    st.none() | st.integers(1, 5),
    st.lists(streams, max_size=4),
    st.text(max_size=8),
)


@given(st.lists(code_cells, max_size=5))
def test_cleaning_is_idempotent_and_survives_the_file(cells):
    clean = clean_notebook({"cells": cells})
    assert clean_notebook(clean) == clean
    assert len({cell["id"] for cell in clean["cells"]}) == len(cells)
    text = notebook_text(clean)
    nbformat.validate(nbformat.reads(text, as_version=4))
    assert notebook_text(nbformat.v4.reads(text)) == text
