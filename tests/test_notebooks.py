"""The notebook guard: every stored notebook keeps every rule, and every rule finds something.

nbval compares a fresh run with the stored outputs; it passes a notebook without outputs, and never
looks at figures, links, alt text or metadata. The rules in notebook_rules.py do.
"""

import os
import re
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from notebook_rules import REPOSITORY, RULES, compared_numbers

from mrl_course.commands.lessons import (
    WIDGET_VIEW,
    clean_notebook,
    execute_lesson,
    notebook_text,
    read_notebook,
)

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
DECIMALS, NUMBERS = 1633, 2909
"""How many decimals, and numbers of any kind, were compared when a run on any processor had to be
exactly the stored one. Printing less would make the comparison green as well; ticks don't count."""

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


# ----------------------------------------------------------------------------- the lessons


@each_notebook
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_notebook_keeps_every_rule(path, rule):
    assert rule(read_notebook(path), path) == [], rule.__doc__


@each_notebook
def test_every_file_is_its_own_clean_form_byte_for_byte(path):
    stored = path.read_bytes().replace(b"\r\n", b"\n")  # git may change line ends on Windows
    assert stored == notebook_text(clean_notebook(read_notebook(path))).encode("utf-8"), (
        f"refresh it with `mrl-course run {path.stem} --inplace`"
    )


def test_no_fewer_numbers_are_compared_than_when_they_had_to_be_equal():
    each = {path.stem: compared_numbers(read_notebook(path)) for path in NOTEBOOKS}
    decimals, whole = map(sum, zip(*each.values(), strict=True))
    assert decimals >= DECIMALS and decimals + whole >= NUMBERS, each


# Real data in the hub's layout: beside the repository, or where this variable says.
REAL_DATA = Path(os.environ.get("MRL_COURSE_REAL_DATA", REPOSITORY.parent / "shared" / "data"))


@pytest.mark.slow
@pytest.mark.skipif(
    not REAL_DATA.is_dir(),
    reason="needs real data: `mrl-course data --download DIR`, then MRL_COURSE_REAL_DATA=DIR",
)
@pytest.mark.parametrize(
    "path",
    # The others read no sentences: their run would be that of nbval once more.
    [p for p in NOTEBOOKS if re.search(r"load_(allnli|stsb|retrieval)", p.read_text("utf-8"))],
    ids=lambda path: path.stem,
)
def test_every_claim_holds_on_real_data(path):
    result = execute_lesson(path, {"MRL_COURSE_DATA": str(REAL_DATA.resolve())})
    assert result.failure == ""


# -------------------------------------------------------------------- the rules themselves

COLAB = "https://colab.research.google.com"
HEAD = (
    "# Title\n\nPrevious: none. [Next](02_next.ipynb), [back](#part-one), [site](https://a.b/home/c)\n"
    f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]"
    f"({COLAB}/github/mrl-course/mrl_course/blob/main/notebooks/01_this.ipynb)\n"
    "```python\n# no heading [nor](link)\n```\n"
)


def out(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def figure():
    return new_output(
        "display_data", {"image/png": "AA==", "text/plain": "<Figure size 6x4 with 1 A>"}
    )


def good() -> dict:
    """Return a notebook that keeps all rules, in the folder of the fixture below."""
    cells = [
        new_markdown_cell(HEAD, id="a"),
        new_code_cell(
            'import sys\n\nif "google.colab" in sys.modules:\n    %pip install -q x', id="b"
        ),
        new_markdown_cell(
            "## Part one\n### Part two\n![a curve](pic.png) $C: \\mathbb{R}$", id="c"
        ),
        new_code_cell(
            "from mrl_course import cli\n\ntry:\n    import y\nexcept ImportError:\n    pass",
            id="d",
            outputs=[figure(), out("It keeps 97 % of it.")],
        ),
        new_code_cell("x = 7 % 2\nx", id="e", outputs=[figure()]),
        new_code_cell("x", id="f", outputs=[out("recall at 8 is 3 here")]),
        new_code_cell(
            '# @title Findings\nwith check.findings():\n    check.claim("more", 2 > 1)',
            id="g",
            outputs=[out("✓ 1 finding of this section holds in this run\n")],
            metadata={"tags": ["findings"]},
        ),
    ]
    for count, cell in enumerate([cell for cell in cells if cell.cell_type == "code"], start=1):
        cell.execution_count = count
    return clean_notebook(new_notebook(cells=cells))


@pytest.fixture
def path(tmp_path):
    for name in ("01_this.ipynb", "02_next.ipynb", "03_last.ipynb", "pic.png"):
        (tmp_path / name).touch()
    return tmp_path / "01_this.ipynb"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_good_notebook_keeps_every_rule(rule, path):
    assert rule(good(), path) == []


def source(cell, text):
    return lambda nb: nb["cells"][cell].update(source=text)


def append(cell, text):
    return lambda nb: nb["cells"][cell].update(source=nb["cells"][cell]["source"] + text)


def replace(cell, old, new):
    def change(nb):
        assert old in nb["cells"][cell]["source"]
        nb["cells"][cell]["source"] = nb["cells"][cell]["source"].replace(old, new)

    return change


def outputs(cell, *new):
    return lambda nb: nb["cells"][cell].update(outputs=list(new))


def both(*changes):
    return lambda nb: [change(nb) for change in changes]


def metadata(**new):
    return lambda nb: nb["metadata"].update(new)


def error(evalue="x", traceback=()):
    return new_output("error", ename="E", evalue=evalue, traceback=list(traceback))


VIOLATIONS = {
    "valid_format": [
        lambda nb: nb.update(nbformat_minor=4),
        lambda nb: nb["cells"][1].pop("outputs"),
        lambda nb: nb["cells"][0].pop("id"),
    ],
    "counts_in_order": [
        lambda nb: nb["cells"][1].update(execution_count=2),
        lambda nb: nb["cells"][1].update(execution_count=None),
        lambda nb: nb["cells"].pop(1),
    ],
    "kernel_is_python3": [metadata(kernelspec={"name": "venv"}), metadata(kernelspec={})],
    "unique_ids": [
        lambda nb: nb["cells"][1].update(id="a"),
        lambda nb: nb["cells"][1].update(id=None),
    ],
    "clean_form": [
        metadata(colab={"name": "x"}),
        lambda nb: nb["cells"][1]["metadata"].update(scrolled=True),
        lambda nb: nb["cells"][1]["metadata"].update(tags=[]),
        outputs(5, out("recall at 8 is 3 here"), out("and more")),
    ],
    "small_file": [
        lambda nb: nb["cells"][3]["outputs"][0]["data"].update({"image/png": "A" * 900_000})
    ],
    "no_stderr": [outputs(3, out("Warning", "stderr"))],
    "no_errors": [outputs(3, error())],
    "no_widgets": [metadata(widgets={}), outputs(3, new_output("display_data", {WIDGET_VIEW: {}}))],
    "no_machine_paths": [
        append(0, " see /home/me/x"),
        append(3, "\nopen('/tmp/x')"),
        append(3, "\nopen('C:\\\\x')"),
        append(0, " in `/Users/me/x`"),
        outputs(5, out("wrote /root/x")),
        outputs(5, error("no file /work/x")),
        outputs(5, error(traceback=["File \x1b[32m/root/x.py"])),
        outputs(5, new_output("display_data", {"text/html": "<b>lib/site-packages/x</b>"})),
    ],
    "figures_have_numbers": [
        outputs(3, figure()),
        outputs(3, figure(), out("It keeps most of it.\n97")),
        outputs(5, out("no number here")),
        lambda nb: nb["cells"].insert(5, new_markdown_cell("between")),
        outputs(5, figure()),
    ],
    "one_title": [
        source(0, "no title"),
        append(2, "\n# Second"),
        append(0, "\n# Second"),
        append(2, "\n<h1>Second</h1>"),
        lambda nb: nb["cells"].insert(0, new_markdown_cell("first")),
    ],
    "headings_in_order": [append(2, "\n## A\n#### B"), replace(2, "## Part one\n", "")],
    "links_resolve": [
        append(0, "[gone](04_later.ipynb)"),
        append(2, "[no part](#part-three)"),
        append(2, '<a href="gone.md">x</a>'),
        append(2, "![x](attachment:gone.png)"),
        append(2, "![x](/etc)"),
        append(2, "\n\n[ref]: gone.md"),
    ],
    "neighbours_linked": [replace(0, "[Next](02_next.ipynb)", "Next: 02_next")],
    "images_have_alt_text": [
        replace(2, "![a curve]", "![]"),
        replace(2, "![a curve]", "![ ]"),
        append(2, '<img src="pic.png">'),
        append(2, '<img alt="" src="pic.png">'),
    ],
    "colab_badge": [
        replace(0, "blob/main/notebooks/01_this", "blob/main/notebooks/02_next"),
        replace(0, "github/mrl-course", "github/someone"),
        replace(0, "assets/colab-badge.svg", "assets/other.svg"),
    ],
    "valid_python": [append(3, "\nx = (")],
    "no_shell_or_magics": [
        append(3, "\n!ls"),
        append(3, "\nx = !ls"),
        append(3, "\n%matplotlib inline"),
        append(3, "\nx = %pwd"),
        append(3, "\n%pip install x"),
        append(1, "\n%time"),
        append(1, "\n!pip install x"),
        source(3, "%%bash\nls"),
        append(3, "\nlen?"),
    ],
    "no_star_imports": [append(3, "\nfrom os import *")],
    "imports_resolve": [
        append(3, "\nimport no_such_package"),
        append(3, "\nfrom mrl_course.commands.lessons import no_such_name"),
        append(3, "\ndef f():\n    from mrl_course import no_such_module"),
        append(3, "\nimport os.no_such_module"),
        append(3, "\ntry:\n    import no_such_package\nexcept ValueError:\n    pass"),
        append(3, "\nfrom . import x"),
    ],
    "short_code_cells": [append(3, "\n1" * 25)],
    "claims_are_folded": [
        append(3, '\ncheck.claim("more", 2 > 1)'),
        replace(6, "# @title Findings", "# Findings"),
        lambda nb: nb["cells"][6].update(metadata={}),
        outputs(6, out("✓ more is more\n✓ 2 findings of this section hold in this run\n")),
        lambda nb: nb["cells"].append(nb["cells"][6]),
    ],
    "no_empty_cells": [source(3, ""), source(2, " \n")],
    "only_times_are_ignored": [
        lambda nb: nb["cells"][3].update(metadata={"tags": ["nbval-ignore-output"]}),
        lambda nb: nb["cells"][3].update(metadata={"tags": ["nbval-skip"]}),
        append(3, "\n# NBVAL_IGNORE_OUTPUT"),
        both(  # a time, but from a record
            source(5, "print(recorded)"),
            outputs(5, out("it took 3 ms")),
            lambda nb: nb["cells"][5].update(metadata={"tags": ["nbval-ignore-output"]}),
        ),
        both(  # measured, but not printed
            source(5, "print(time_calls(f) > 0)"),
            lambda nb: nb["cells"][5].update(metadata={"tags": ["nbval-ignore-output"]}),
        ),
    ],
}


@pytest.mark.parametrize(
    ("name", "change"),
    [(name, change) for name, changes in VIOLATIONS.items() for change in changes],
    ids=[f"{name}-{i}" for name, changes in VIOLATIONS.items() for i in range(len(changes))],
)
def test_each_rule_finds_its_violation(name, change, path):
    rule = next(rule for rule in RULES if rule.__name__ == name)
    notebook = good()
    change(notebook)
    problems = rule(notebook, path)
    assert problems and all(isinstance(problem, str) and problem for problem in problems)


def test_no_rule_is_without_a_violation():
    assert [rule.__name__ for rule in RULES] == list(VIOLATIONS)


def test_an_error_shown_on_purpose_is_allowed(path):
    notebook = good()
    notebook["cells"][3].update(outputs=[error()], metadata={"tags": ["raises-exception"]})
    rule = next(rule for rule in RULES if rule.__name__ == "no_errors")
    assert rule(notebook, path) == []


TIMED = """
from time import perf_counter
def clock(call):
    start = perf_counter()
    call()
    return perf_counter() - start
""".strip()


@pytest.mark.parametrize(
    ("before", "source", "text"),
    [
        ("x = 1", "print(f'{time_calls(f).low:.1f} ms')", "0.3 ms"),
        (TIMED, "print(f'{clock(f):.1f} s')", "0.3 s"),
        (TIMED + "\ntimes = {}\ntimes[8] = clock(f)", "ratio = times[8]\nprint(ratio)", "2 s"),
        ("times = []\ntimes.append(perf_counter())", "show(times)", "4 times as fast"),
        ("rows = history.seconds", "print(rows)", "k   ms\n8  0.3"),
    ],
)
def test_a_cell_that_prints_a_measured_time_may_be_ignored(before, source, text, path):
    notebook = good()
    notebook["cells"][3]["source"] = before
    notebook["cells"][5].update(
        source=source, outputs=[out(text)], metadata={"tags": ["nbval-ignore-output"]}
    )
    rule = next(rule for rule in RULES if rule.__name__ == "only_times_are_ignored")
    assert rule(notebook, path) == []


def test_compared_numbers_are_counted():
    notebook = good()
    outputs(5, figure(), out("0.5 of 8\n✓ 2 of 2.5\n1,000.5"))(notebook)
    assert compared_numbers(notebook) == (2, 2)  # and the 97 of cell 4
    notebook["cells"][5]["metadata"] = {"tags": ["nbval-ignore-output"]}
    assert compared_numbers(notebook) == (0, 1)
