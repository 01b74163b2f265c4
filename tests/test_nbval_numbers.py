"""How lessons are compared: what agrees, what doesn't, and that no cell goes untested."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from nbval_numbers import count_numbers, disagreement, pieces, prints_a_time

from mrl_course.commands.lessons import execute_lesson, notebook_text

HERE = Path(__file__).parent

# ---------------------------------------------------------------------------- two texts

AGREE = [
    ("recall 0.42", "recall 0.43"),
    ("recall .43", "recall .42"),
    ("0.99", "1.00"),
    ("0.5", "0.42"),  # within a unit of the stored last digit, however the new one is printed
    ("9.95 and 10.0", "9.96 and 10.1"),
    ("-0.42", "-0.43"),
    ("-0.00", "0.00"),
    ("0.00", "-0.01"),
    ("+0.01", "-0.00"),
    ("+0.01 (+0.5)", "+0.02 (+0.4)"),
    ("\u22120.42", "\u22120.43"),
    ("96.0% of it, 96.0 %", "95.9% of it, 96.1 %"),
    ("1,228.8 GB", "1,228.9 GB"),
    ("999.9 GB", "1,000.0 GB"),
    ("1,000.0 GB", "999.9 GB"),
    ("loss 1.5e-07", "loss 1.6e-07"),
    ("rate 1.50E+03", "rate 1.51E+03"),
    ("loss 9.9e-05", "loss 1.0e-04"),
    ("[0.9 0.1]", "[1.  0.1]"),  # NumPy cuts zeros off
    ("[1. 2.]", "[1. 2.]"),
    ("nan inf -inf 0.1", "nan inf -inf 0.2"),
    ("It is 0.42.", "It is 0.43."),
    ("0.1-0.3, 1.5x, k=0.5", "0.2-0.4, 1.6x, k=0.4"),
    ("a  9.99  b\nc 10.00  d", "a 10.00  b\nc 10.00  d"),
    ("   x\n0.99", "    x\n1.000"),
    ("-----\n9.99\n", "------\n10.00\n"),
    ("", ""),
]

DISAGREE = [
    ("recall 0.42", "recall 0.44", "number 1 is stored as 0.42, got 0.44; they may differ by 0.01"),
    ("a 0.1\nb 0.1 0.30", "a 0.1\nb 0.1 0.28", "line 2: number 2 is stored as 0.30, got 0.28"),
    ("0.42", "-0.42", "stored as 0.42"),
    ("0.01", "-0.01", "may differ by 0.01"),
    ("+0.5", "0.5", "stored as +0.5"),
    ("0.5", "+0.5", "got +0.5"),
    ("96.0%", "95.8%", "may differ by 0.1"),
    ("97%", "98%", "stored as 97, got 98; they must agree"),
    ("97 %", "96 %", "must agree"),
    ("12 of 64", "13 of 64", "must agree"),
    ("1,536", "1,537", "must agree"),
    ("1,536", "1536", "must agree"),
    ("1,228.8", "1,229.0", "may differ by 0.1"),
    ("1", "1.0", "must agree"),
    ("1.0", "1", "may differ"),
    ("[1. 2.]", "[1. 3.]", "must agree"),
    ("1.5e-07", "1.7e-07", "may differ"),
    ("1e-06", "2e-06", "must agree"),
    ("rate 1.50e+03", "rate 1.52e+03", "may differ by 10"),
    ("0.42", "nan", "stored is '0.42', got 'nan'"),
    ("nan", "0.42", "stored is 'nan', got '0.42'"),
    ("inf", "-inf", "stored is 'inf'"),
    ("word 0.42", "world 0.42", "stored is 'word', got 'world'"),
    ("more 0.42 less", "less 0.42 more", "stored is 'more'"),
    ("0.42 0.43", "0.42", "missing is '0.43'"),
    ("0.42", "0.42 0.43", "new is '0.43'"),
    ("a\nb", "a", "stored are 2 lines, got 1; missing: 'b'"),
    ("a", "a\nb", "new: 'b'"),
    ("a\n\nb", "a\nb", "line 2"),
    ("a b", "ab", "stored is 'a'"),
    ("a  b 0.1", "a b 0.1", "blanks or rules differ"),
    ("a\tb", "a b", "blanks or rules differ"),
    ("-----\n0.1", "------\n0.1", "blanks or rules differ"),
    ("a  0.42", "a 0.43", "blanks or rules differ"),
    ("k = 0.5 ✓", "k = 0.5 ✗", "stored is '✓'"),
    ("0.6.2", "0.6.3", "stored is '0.6.2'"),
    ("2026-11-25", "2026-11-26", "must agree"),
    ("Qwen2.5", "Qwen2.6", "stored is 'Qwen2.5'"),
    ("ab0.5cd", "ab0.4cd", "stored is 'ab0.5cd'"),
]


@pytest.mark.parametrize(("stored", "got"), AGREE)
def test_texts_that_agree(stored, got):
    assert disagreement(stored, got) == ""


@pytest.mark.parametrize(("stored", "got", "says"), DISAGREE)
def test_texts_that_disagree(stored, got, says):
    assert says in disagreement(stored, got)


def table(*rows):
    cells = "\n".join(f'<tr>\n  <td class="c{i}">{row}</td>\n</tr>' for i, row in enumerate(rows))
    return f'<style>td {{width: 0.5em}}</style>\n<table border="1">\n{cells}\n</table>'


def test_tables_in_html():
    assert disagreement(table("0.42", "-1.5", "7"), table("0.43", "-1.4", "7"), html=True) == ""
    for got in [
        table("0.44", "-1.5", "7"),
        table("0.42", "1.5", "7"),
        table("0.42", "-1.5", "8"),
        table("0.42", "-1.5"),
        table("0.42", "-1.5", "7", "7"),
        table("0.42", "-1.5", "7").replace("td>", "th>"),
        table("0.42", "-1.5", "7").replace('border="1"', 'border="2"'),
    ]:
        assert disagreement(table("0.42", "-1.5", "7"), got, html=True)


def test_numbers_in_tags_are_exact():
    assert disagreement('<i width="0.42">', '<i width="0.43">', html=True)
    assert disagreement('<i width="0.42">', '<i width="0.43">') == ""


def test_a_frame_whose_column_becomes_wider_agrees():
    pandas = pytest.importorskip("pandas")
    old, new = (
        str(pandas.DataFrame({"low": [0.1, low], "high score": [1.2, 3.4]}, index=["first", "b"]))
        for low in (9.9, 10.0)
    )
    assert old.index("high") != new.index("high")
    assert disagreement(old, new) == ""
    assert disagreement(old, new.replace("3.4", "3.6"))
    assert disagreement(old, new.replace("high", "low"))


@pytest.mark.parametrize(
    "text", [*(pair[0] for pair in AGREE), table("0.1", "2", "1,000"), "a<b 1"]
)
@pytest.mark.parametrize("html", [True, False])
def test_pieces_are_the_text(text, html):
    assert "".join(piece for piece, _ in pieces(text, html)) == text


def test_decimal_and_whole_numbers_are_counted():
    assert count_numbers("k = 8: 0.42 of 1,536.5, 97%, version 0.6.2, L6, 1e-06, 2. 3.\n") == (2, 5)
    assert count_numbers(table("0.1", "2"), html=True) == (2, 1)  # and the width in the style


@pytest.mark.parametrize(
    ("text", "is_time"),
    [
        ("3.5 ms for one query", True),
        ("it takes 12 s", True),
        ("0.3s", True),
        ("20 µs", True),
        ("4.1 times as fast", True),
        ("   k   ms\n   8  0.3", True),
        ("21,177 texts/s", True),
        ("1,000 texts a second", True),
        ("k = 8: 0.42", False),
        ("8 sentences, 3 times", False),
        ("items 7", False),
    ],
)
def test_a_time_is_recognised(text, is_time):
    assert prints_a_time([new_output("stream", name="stdout", text=text)]) is is_time


# ---------------------------------------------------------------------- a run of pytest


def run_pytest(path, *options):
    """Compare one notebook in a process of its own; return exit code, {cell: outcome}, output."""
    report = path.with_suffix(".xml")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "nbval_numbers", "--nbval", "--nbval-current-env"]
        + ["-p", "no:cacheprovider", "--rootdir", path.parent, "--junitxml", report]
        + [*options, path],
        cwd=path.parent,
        env={**os.environ, "PYTHONPATH": str(HERE)},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        outcomes[case.get("name")] = kinds[0] if kinds else "passed"
    return done.returncode, list(outcomes.values()), done.stdout


def stored(path, *sources):
    """Write a notebook with the outputs that its cells have here."""
    cells = [new_code_cell(source) for source in sources]
    nbformat.write(new_notebook(cells=cells), path)
    path.write_text(notebook_text(execute_lesson(path).notebook), encoding="utf-8")
    return nbformat.read(path, as_version=4)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [[], ["-n", "2", "--dist", "loadfile"]])
def test_the_plugin_judges_every_kind_of_cell(tmp_path, workers):
    path = tmp_path / "x.ipynb"
    notebook = stored(
        path,
        "print(0.42, 7)",
        "import pandas; pandas.DataFrame({'a': [0.42]})",
        "print('recall', 0.42)",
        "print(7)",
        "print('ignored 3.5 ms')",
        "print('ignored, without any reason')",
        "print('skipped')",
        "print('never run')",
        "print('word')",
    )
    cells = notebook.cells
    cells[0].outputs[0].text = "0.43 7\n"
    for kind, text in cells[1].outputs[0].data.items():
        cells[1].outputs[0].data[kind] = text.replace("0.42", "0.41")
    cells[2].outputs[0].text = "recall 0.40\n"
    cells[3].outputs[0].text = "8\n"
    cells[4].metadata.tags = cells[5].metadata.tags = ["nbval-ignore-output"]
    cells[4].outputs[0].text = "ignored 9.1 ms\n"
    cells[6].metadata.tags = ["nbval-skip"]
    cells[7].outputs, cells[7].execution_count = [], None
    cells[8].outputs[0].text = "world\n"
    nbformat.write(notebook, path)
    code, outcomes, out = run_pytest(path, *workers)
    assert code == 1
    assert outcomes == ["passed"] * 2 + ["failure"] * 2 + ["passed"] + ["failure"] * 4
    for says in (
        "stdout, line 1: number 1 is stored as 0.40, got 0.42; they may differ by 0.01",
        "they must agree",
        "Not compared, though the cell prints no time",
        "tagged nbval-skip",
        "the stored cell was never run",
        "stored is 'world', got 'word'",
    ):
        assert says in out


@pytest.mark.slow
def test_a_slow_machine_is_not_green_without_having_been_tested(tmp_path):
    """A cell that survives the interrupt, then a wrong output: nbval alone passes such a run."""
    path = tmp_path / "x.ipynb"
    notebook = stored(path, "import time", "print('right')")
    # As `fit_head` does, it ends at an interrupt and goes on; the interrupt may come late.
    notebook.cells[
        0
    ].source = "import time\ntry:\n    time.sleep(600)\nexcept KeyboardInterrupt: pass"
    notebook.cells[1].outputs[0].text = "wrong\n"
    nbformat.write(notebook, path)
    code, outcomes, out = run_pytest(path, "--nbval-cell-timeout=2")
    assert code == 1
    assert outcomes == ["failure", "failure"]
    assert "2 seconds" in out
    assert "Not tested, because a cell before this one timed out" in out


@pytest.mark.slow
def test_marks_that_excuse_a_cell_are_red(tmp_path):
    path = tmp_path / "x.ipynb"
    stored(path, "print(1)", "print(2)")
    (tmp_path / "conftest.py").write_text(
        "import pytest\n"
        "def pytest_collection_modifyitems(items):\n"
        "    items[0].add_marker(pytest.mark.xfail(reason='excused'))\n"
        "    items[1].add_marker(pytest.mark.skip(reason='left out'))\n"
    )
    code, outcomes, out = run_pytest(path)
    assert code == 1
    assert outcomes == ["failure", "failure"] or outcomes == ["failure", "error"]
    assert "expected to fail (excused)" in out and "left out" in out
