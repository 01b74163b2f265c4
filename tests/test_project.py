"""What the project says about itself agrees: dependencies, lock, environment, wheel, licence."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mrl_course.commands import lessons

REPO = Path(__file__).parent.parent
PYPROJECT = (REPO / "pyproject.toml").read_text(encoding="utf-8")


def table(name):
    """The text of one table of pyproject.toml (tomllib is missing in Python 3.10)."""
    return re.search(rf"^\[{re.escape(name)}\]\n(.*?)(?=^\[|\Z)", PYPROJECT, re.M | re.S)[1]


def requirements_in(text):
    return [Requirement(line) for line in re.findall(r'^  "([^"]+)",\s*#', text, re.M)]


DIRECT = requirements_in(table("project")) + requirements_in(table("project.optional-dependencies"))


def locked():
    lines = (REPO / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    for pin in pins:
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), f"{pin} is not exact"
    return pins


def test_every_dependency_has_a_reason_and_a_lower_bound_only():
    assert len(DIRECT) >= 20
    for requirement in DIRECT:
        assert [spec.operator for spec in requirement.specifier] == [">="], requirement
    quoted = table("project") + table("project.optional-dependencies")
    named = re.findall(r'^  "[a-z][\w[\]-]*>=.*$', quoted, re.M)
    assert len(named) == len(DIRECT), "a dependency without a reason beside it"


def test_lock_pins_everything_pyproject_names_within_its_bounds():
    pins = locked()
    for requirement in DIRECT:
        mine = [p for p in pins if canonicalize_name(p.name) == canonicalize_name(requirement.name)]
        assert mine, f"{requirement.name} is not in requirements.lock; run `make lock`"
        for pin in mine:
            version = str(pin.specifier).removeprefix("==")
            assert requirement.specifier.contains(version), f"{pin} is outside {requirement}"


def test_lock_covers_every_supported_python():
    """Each package has exactly one pin for this Python, and at least one for 3.10 and 3.13."""
    for version in ("3.10", "3.11", "3.12", "3.13"):
        environment = {"python_version": version, "python_full_version": f"{version}.4"}
        names = [
            canonicalize_name(p.name)
            for p in locked()
            if p.marker is None or p.marker.evaluate(environment)
        ]
        assert len(names) == len(set(names))
        wanted = [r for r in DIRECT if r.marker is None or r.marker.evaluate(environment)]
        assert len(wanted) >= len(DIRECT) - 1, "only pgserver lacks wheels for some Pythons"
        assert {canonicalize_name(r.name) for r in wanted} <= set(names)


def test_torch_is_pinned_without_its_cuda_libraries():
    pins = {canonicalize_name(p.name): str(p.specifier) for p in locked()}
    assert pins["torch"] == "==2.13.0"
    assert not [name for name in pins if name.startswith(("nvidia", "cuda", "triton"))]


def test_environment_installs_the_package_with_all_its_extras():
    text = (REPO / "environment.yml").read_text(encoding="utf-8")
    extras = re.findall(r"^(\w+) = \[", table("project.optional-dependencies"), re.M)
    assert f"-e .[{','.join(extras)}]" in text
    python = re.search(r'requires-python = "(.+)"', PYPROJECT)[1]
    assert f"- python{python}" in text
    # Thin: nothing that pyproject.toml names is named again.
    names = re.findall(r"^\s+- ([a-z][\w-]*)", text, re.M)
    assert set(names) == {"conda-forge", "python", "pip"}


def test_ci_calls_make_test_in_a_fresh_environment():
    text = (REPO / ".ci" / "run").read_text(encoding="utf-8")
    assert "rm -rf .venv" in text and "make test" in text


def test_nbval_runs_in_the_environment_that_stored_the_outputs():
    text = (REPO / "Makefile").read_text(encoding="utf-8")
    given = re.search(r"^NBVAL_ENV := ((?:.*\\\n)*.*)$", text, re.M)[1].replace("\\\n", "")
    wanted = lessons.KERNEL_ENVIRONMENT | lessons.OFFLINE_ENVIRONMENT
    assert dict(part.split("=", 1) for part in given.split()) == wanted


def test_the_lessons_run_has_a_limit_as_a_safety_net_and_one_nudge():
    text = (REPO / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^test: .*\n((?:\t.*\n)+)", text, re.M)[1]
    assert "--nbval-cell-timeout=600" in recipe
    assert "tests/elsewhere.py --training --settings nudge-1" in recipe
    assert "$(BIN)/python tests/elsewhere.py $(if $(ONLY),--only $(ONLY))" in text


def test_readme_shows_the_two_commands_and_every_subcommand():
    text = (REPO / "README.md").read_text(encoding="utf-8")
    commands = ["make course", "make test", "conda env create"]
    commands += [
        f"mrl-course {name}" for name in ("twins", "run", "demo", "data --download", "doctor")
    ]
    for command in commands:
        assert command in text, command


def test_relative_links_of_the_documents_resolve():
    for name in ("README.md", "CONTRIBUTING.md", "data/README.md", "data/miniature/README.md"):
        path = REPO / name
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", path.read_text("utf-8")):
            assert (path.parent / target).exists(), f"{name} links to {target}"


def test_no_machine_path_in_what_is_committed():
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPO, capture_output=True, text=True, check=False
    ).stdout.split("\0")
    files = [name for name in files if name]
    if not files:
        pytest.skip("not a git checkout")
    bad = re.compile(r"/(root|work)/|/home/[a-z]|/Users/[a-z]")
    for name in files:
        path = REPO / name
        if path.suffix in (".parquet", ".png") or not path.is_file():
            continue
        if name in ("tests/test_project.py", "tests/notebook_rules.py", "tests/test_notebooks.py"):
            continue  # they name such paths in order to find them
        found = bad.search(path.read_text(encoding="utf-8"))
        assert not found, f"{name} holds {found[0]!r}"


@pytest.mark.slow
def test_wheel_carries_data_and_lessons_and_works_from_there(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", tmp_path, REPO],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    names = {str(p.relative_to(tmp_path / "site")) for p in (tmp_path / "site").rglob("*")}
    assert "mrl_course/_notebooks/00_start_here.ipynb" in names
    assert "mrl_course/_data/miniature/manifest.json" in names
    pages = {f"mrl_course/demo/assets/{name}" for name in ("page.html", "style.css", "script.js")}
    assert pages <= names
    lessons_in_wheel = {name for name in names if name.startswith("mrl_course/_notebooks/")}
    assert all(name.endswith(".ipynb") for name in lessons_in_wheel), lessons_in_wheel
    code = (
        "import mrl_course.data as d, mrl_course.commands.lessons as l, pathlib; "
        "assert 'site' in pathlib.Path(d.__file__).parts; "
        "print(len(d.load_allnli('test', source='mini')), len(l.list_lessons()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "site",
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": "", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    rows, lessons = map(int, done.stdout.split())
    assert rows >= 2000 and lessons >= 1
