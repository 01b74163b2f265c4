import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrl_course import data, docstrings
from mrl_course.errors import WrongKind

NUMPYDOC = """
    clip_all(x, low,
             high=None) -> array

    Limit the values of ``x``, see :func:`~lib.other` and `maybe <https://x.org>`_. Second
    sentence is *not* the summary.

    .. versionadded:: 1.2
        Not prose.

    .. note::
        Limits are **included**, e.g. A stays A.

    The rule is::

        code()

    === =====
    a   table
    === =====

    A sum of :math:`\\alpha` is dropped. This stays [1]_.

    Parameters
    ----------
    x : array
        Not part of the description.
"""


def test_a_docstring_becomes_plain_summary_and_description():
    summary, description = docstrings.split_docstring(NUMPYDOC)
    assert summary == "Limit the values of x, see lib.other and maybe."
    assert description == (
        "Second sentence is not the summary. Limits are included, e.g. A stays A. This stays [1]."
    )


def test_notes_and_returns_help_where_a_description_is_missing():
    sections = "Returns\n-------\nx : array\n    The limits of every column, one row for each.\n"
    doc = "Compute the limits.\n\n" + sections
    assert docstrings.split_docstring(doc) == (
        "Compute the limits.",
        "The limits of every column, one row for each.",
    )
    doc += "\nNotes\n-----\nColumns without any number in them are left out of it.\n"
    assert docstrings.split_docstring(doc) == (
        "Compute the limits.",
        "Columns without any number in them are left out of it.",
    )


@pytest.mark.parametrize(
    "doc",
    [
        "",
        "Only a summary is here, and nothing more at all.",
        "Short.\n\nA description that is long enough to stand, but for what?",
        "See :func:`torch.abs` for this.\n\nA description that is long enough to stand alone.",
        "Alias for the other one.\n\nA description that is long enough to stand alone.",
        "Deprecated since long ago.\n\nA description that is long enough to stand alone.",
        "Do one good thing.\n\nToo short.",
        "Do one good thing.\n\nArgs:\n    x: a text that is long enough to be a description.",
    ],
)
def test_stubs_are_no_pairs(doc):
    assert docstrings.split_docstring(doc) is None


@given(st.text(alphabet="ab A.:`*()[]|<>_\\\n\t=-", max_size=300))
def test_no_text_breaks_the_splitter(doc):
    pair = docstrings.split_docstring(doc)
    if pair is not None:
        for text, (shortest, longest) in zip(
            pair, (docstrings.SUMMARY_LENGTH, docstrings.DESCRIPTION_LENGTH), strict=True
        ):
            assert shortest <= len(text) <= longest
            assert text == " ".join(text.split())


def test_a_long_description_ends_with_a_sentence_or_says_that_it_goes_on():
    sentence = "This sentence is one of many that are alike. "
    _, description = docstrings.split_docstring("Do one good thing.\n\n" + sentence * 50)
    assert description.endswith("alike.") and 500 < len(description) <= 600
    _, description = docstrings.split_docstring("Do one good thing.\n\n" + "word " * 500)
    assert description.endswith("word …") and len(description) <= 600


@pytest.fixture(scope="module")
def everything():
    return data.load_docstrings().to_pandas()


def test_the_corpus_is_large_sorted_and_without_repeats(everything):
    assert len(everything) > 7_000  # 8,147 with the locked versions
    assert list(everything)[:3] == ["name", "summary", "description"]
    assert set(everything["library"]) == set(docstrings.LIBRARIES)
    assert everything["name"].is_monotonic_increasing
    assert everything["name"].is_unique
    assert everything["summary"].str.lower().is_unique
    assert everything["summary"].str.len().between(*docstrings.SUMMARY_LENGTH).all()
    assert everything["description"].str.len().between(*docstrings.DESCRIPTION_LENGTH).all()
    assert not (everything["summary"] == everything["description"]).any()


def test_the_texts_are_prose(everything):
    text = everything["summary"] + " " + everything["description"]
    for leftover in (r":\w+:`", "``", r"\n", r"\\frac", ">>> ", r"^\S+\(.*\) -> "):
        assert text.str.contains(leftover).mean() < 0.002, leftover


def test_objects_get_their_public_names(everything):
    rows = everything.set_index("name")
    assert rows.loc["numpy.linalg.norm", "summary"] == "Matrix or vector norm."
    assert rows.loc["torch.cumsum", "library"] == "torch"
    assert rows.loc["os.path.join", "module"] == "os.path"
    assert "sorted" in rows.index  # a builtin needs no prefix
    assert "asyncio.Queue.join" in rows.index  # not of LifoQueue, which inherits it
    assert "pandas.DataFrame.quantile" in rows.index  # of a private base class
    assert "matplotlib.cm.brg" not in rows.index  # an object with the docstring of its class
    private = everything["name"].str.contains(r"(?:^|\.)_")
    assert not private.any()


def test_packages_restrict_and_extend(everything):
    only = data.load_docstrings(["numpy"]).to_pandas()
    assert set(only["library"]) == {"numpy"} and len(only) > 500
    module = data.load_docstrings(["scipy.stats"]).to_pandas()
    assert set(module["module"]) == {"scipy.stats"}
    assert "huggingface_hub" not in set(everything["library"])
    other = data.load_docstrings(["huggingface_hub"]).to_pandas()
    assert set(other["library"]) == {"huggingface_hub"}


def test_what_cannot_be_read_is_named():
    with pytest.raises(data.DataSourceError, match="no package 'no_such_thing'.*Install"):
        data.load_docstrings(["numpy", "no_such_thing"])
    with pytest.raises(data.DataSourceError, match="write \\['numpy'\\]"):
        data.load_docstrings("numpy")
    with pytest.raises(data.DataSourceError, match="an empty list"):
        data.load_docstrings([])
    with pytest.raises(data.DataSourceError, match="No documented .* in errno"):
        data.load_docstrings(["errno"])


def test_neither_import_order_nor_hash_seed_change_the_rows_and_nothing_is_printed():
    code = (
        "import {first}; from mrl_course import data; import hashlib, json, sys, warnings;"
        "warnings.simplefilter('{warnings}');"
        "rows = data.load_docstrings(['numpy', 'pandas', 'scipy', 'stdlib', 'sklearn']).to_dict();"
        "sys.stdout.write(hashlib.sha256(json.dumps(rows).encode()).hexdigest())"
    )
    answers = set()
    for seed, first, warn in (("1", "pandas", "error"), ("2", "sklearn.linear_model", "always")):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run(
            [sys.executable, "-c", code.format(first=first, warnings=warn)],
            env=env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 and done.stderr == "", done.stderr
        answers.add(done.stdout)
    assert len(answers) == 1 and len(answers.pop()) == 64


@pytest.mark.parametrize("packages", [3, ["numpy", 3], [None], {"numpy": 1}])
def test_names_of_packages_are_texts(packages):
    with pytest.raises(WrongKind, match="packages"):
        docstrings.load_docstrings(packages)


def test_half_a_character_is_no_obstacle():
    doc = "Return the half of it.\n\nThis is a long sentence with half a character \ud83d in it."
    summary, description = docstrings.split_docstring(doc)
    assert summary == "Return the half of it." and "character ? in it" in description


def test_reading_docstrings_needs_no_library_until_it_is_asked_for():
    code = "import sys; import mrl_course.docstrings; assert 'datasets' not in sys.modules"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)


def test_what_another_library_patched_in_changes_no_row(monkeypatch):
    """transformers adds methods to Logger, Jupyter replaces input: neither may be seen."""

    def warn_twice(self):
        """Write the same warning two times.

        It is written once now, and once more when nobody expects it any longer, at the very end.
        """

    before = docstrings._columns.__wrapped__(("stdlib",))
    warn_twice.__module__ = "elsewhere.logging"
    monkeypatch.setattr(logging.Logger, "warn_twice", warn_twice, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt="": "")
    after = docstrings._columns.__wrapped__(("stdlib",))
    assert after == before
    warn_twice.__module__ = "logging"  # the library's own would be seen
    assert "logging.Logger.warn_twice" in docstrings._columns.__wrapped__(("stdlib",))["name"]
