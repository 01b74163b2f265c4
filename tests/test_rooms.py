"""The house: every room is on the map, imports go downwards, and light rooms stay light."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mrl_course

REPO = Path(__file__).resolve().parents[1]
PACKAGE = REPO / "mrl_course"
ROOMS = sorted(
    path.stem if path.is_file() else path.name
    for path in PACKAGE.iterdir()
    if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").is_file()
)
HEAVY = {"torch", "datasets", "sentence_transformers", "transformers", "matplotlib", "sklearn"}
# What may come along with an import of the module alone.
ALLOWED = {
    "errors": set(),
    "files": set(),
    "arguments": set(),
    "costs": set(),
    "planning": set(),
    "evaluation": set(),
    "ranking": set(),
    "search": set(),
    "neighbours": set(),
    "results": set(),
    "plots": {"matplotlib"},
    "classification": {"torch"},
    "losses": {"torch"},
    "retrofit": {"torch"},
    "cli": set(),
}


def test_every_room_is_on_the_map():
    text = (REPO / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## The rooms")[1]
    named = {name.rstrip("/") for cell in re.findall(r"^\| (.*?) \|", text, re.M)
             for name in re.findall(r"`([\w/]+)`", cell)}  # fmt: skip
    assert named == set(ROOMS)


def test_every_room_has_a_layer():
    text = (REPO / "pyproject.toml").read_text(encoding="utf-8")
    layers = re.search(r"^layers = \[\n(.*?)^\]", text, re.M | re.S)[1]
    assert set(re.findall(r"\w+", layers)) == set(ROOMS)


def loaded(code: str) -> set[str]:
    """The heavy libraries that a fresh process has loaded after running some code."""
    code = f"import sys; {code}; print(*(set({sorted(HEAVY)!r}) & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(("room", "allowed"), ALLOWED.items(), ids=ALLOWED)
def test_importing_a_room_loads_only_what_it_uses(room, allowed):
    assert loaded(f"import mrl_course.{room}") <= allowed


@pytest.mark.parametrize(
    ("call", "allowed"),
    [
        ("from mrl_course.evaluation import *; retrieval_curve(e, e, range(40), [2])", set()),
        ("from mrl_course.evaluation import *; similarity_curve(e, e[::-1], range(40))", set()),
        ("from mrl_course.search import *; shortlist_rerank(e[0], e, 2, 9, 3)", set()),
        ("from mrl_course.search import truncate; truncate(e, 2)", set()),
        ("from mrl_course.neighbours import *; recommend(e, [1], 2, 3)", set()),
        ("from mrl_course.retrofit import *; fit_head(e, [2], steps=1, progress=False)", {"torch"}),
    ],
)
def test_a_function_on_arrays_loads_no_classroom(call, allowed):
    arrays = "import numpy as np; e = np.random.default_rng(0).normal(size=(40, 6))"
    assert loaded(f"{arrays}; {call}") <= allowed


def test_the_version_stands_in_one_place():
    assert re.fullmatch(r"\d+\.\d+\.\d+", mrl_course.__version__)
    pyproject = (REPO / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["version"' in pyproject and not re.search(r"^version = ", pyproject, re.M)
    citation = (REPO / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {mrl_course.__version__}" in citation.replace('"', "")


def test_types_are_shipped():
    assert (PACKAGE / "py.typed").is_file()
