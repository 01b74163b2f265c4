"""``mrl-course doctor``: what works on this machine, and what to do about the rest.

Every check is a function that returns findings and has no other effect. Only a ``problem`` stops
the course; a ``note`` says what is missing for a part of it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from mrl_course.errors import LessonError
from mrl_course.files import home_folder

OK, NOTE, PROBLEM = "ok", "note", "problem"
DISTRIBUTION = "mrl-course"
OLDEST_PYTHON = (3, 10)
ROOM_FOR_RESULTS = 0.2e9
ROOM_FOR_DOWNLOADS = 1e9  # AllNLI, STS-B and one small pretrained model, with room to unpack
SET_HOME = "set HOME to a folder that can be written, for example HOME=/tmp"
INSTALL = "install the course again, as its README says"
# Importing finds what versions cannot tell: a broken or half-removed installation.
IMPORTED = (
    "numpy",
    "scipy",
    "pandas",
    "matplotlib",
    "sklearn",
    "datasets",
    "sentence_transformers",
)
PACKAGE_OF = {"sklearn": "scikit-learn", "sentence_transformers": "sentence-transformers"}


@dataclass(frozen=True)
class Finding:
    """One fact about this machine, and what to do if it is not a good one."""

    level: str
    fact: str
    fix: str = ""

    def __str__(self) -> str:
        """Return one line, and a second one with the fix."""
        return f"{self.level:<8} {self.fact}" + (f"\n{'':8} -> {self.fix}" if self.fix else "")


# --------------------------------------------------------------------- Python and packages


def check_home() -> Iterable[Finding]:
    """Tell whether this process has a home folder, which some containers do not give it."""
    home = home_folder()
    if home is None:
        yield Finding(PROBLEM, "this process has no home folder, and Jupyter needs one", SET_HOME)
    else:
        yield Finding(OK, f"the home folder is {home}")


def check_python() -> Iterable[Finding]:
    """Tell whether this Python is new enough."""
    version = ".".join(map(str, sys.version_info[:3]))
    if tuple(sys.version_info[:2]) < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        yield Finding(
            PROBLEM, f"Python {version} is too old", f"use Python {oldest} or newer in a new venv"
        )
    else:
        yield Finding(OK, f"Python {version} at {sys.executable}")


def check_versions() -> Iterable[Finding]:
    """Compare the installed packages with the bounds that the course declares."""
    from packaging.requirements import Requirement

    try:
        declared = [Requirement(text) for text in metadata.requires(DISTRIBUTION) or []]
    except metadata.PackageNotFoundError:
        yield Finding(
            NOTE,
            f"{DISTRIBUTION} is not installed; it runs from its folder, versions are not checked",
            'in that folder: pip install -e ".[lessons]"',
        )
        return
    core = [r for r in declared if r.marker is None or r.marker.evaluate({"extra": ""})]
    extra = [
        r
        for r in declared
        if r.marker is not None and r not in core and r.marker.evaluate({"extra": "lessons"})
    ]
    good = 0
    for level, wanted, use in ((PROBLEM, core, ""), (NOTE, extra, " (to read and run lessons)")):
        for requirement in wanted:
            try:
                version = metadata.version(requirement.name)
            except metadata.PackageNotFoundError:
                yield Finding(level, f"{requirement.name} is not installed{use}", _pip(requirement))
                continue
            if requirement.specifier.contains(version, prereleases=True):
                good += 1
            else:
                yield Finding(
                    level,
                    f"{requirement.name} {version} does not fit {requirement.specifier}{use}",
                    _pip(requirement),
                )
    yield Finding(OK, f"{good} of {len(core) + len(extra)} packages have a version that fits")


def _pip(requirement: Any) -> str:
    return f'pip install "{requirement.name}{requirement.specifier}"'


def check_imports() -> Iterable[Finding]:
    """Import the large packages, which fails if one of them is broken."""
    for name in IMPORTED:
        try:
            importlib.import_module(name)
        except Exception as error:  # a broken package may raise anything
            yield Finding(
                PROBLEM,
                f"{name} cannot be imported ({_short(error)})",
                f"pip install --force-reinstall {PACKAGE_OF.get(name, name)}",
            )
            return
    yield Finding(OK, f"{', '.join(IMPORTED)} can be imported")


# --------------------------------------------------------------------------- the processor


def check_torch() -> Iterable[Finding]:
    """Multiply two small matrices on every kind of device that torch sees."""
    try:
        import torch
    except Exception as error:  # a broken installation may raise anything
        yield Finding(
            PROBLEM,
            f"torch cannot be imported ({_short(error)})",
            "install it as https://pytorch.org/get-started/locally says",
        )
        return
    devices = ["cpu"]
    devices += ["cuda"] if torch.cuda.is_available() else []
    devices += ["mps"] if torch.backends.mps.is_available() else []
    for device in devices:
        try:
            ones = torch.ones(64, 64, device=device)
            total = (ones @ ones).sum().item()
            if total != 64.0**3:
                raise ArithmeticError(f"a sum is {total} instead of {64.0**3}")
        except Exception as error:  # each device has its own family of errors
            fix = {
                "cpu": "install it as https://pytorch.org/get-started/locally says",
                "cuda": "set CUDA_VISIBLE_DEVICES to nothing: the course needs no GPU",
                "mps": "update macOS and torch, or install a torch without mps",
            }[device]
            yield Finding(
                PROBLEM, f"torch {torch.__version__} fails on {device} ({_short(error)})", fix
            )
        else:
            yield Finding(OK, f"torch {torch.__version__} multiplies matrices on {device}")


def check_threads() -> Iterable[Finding]:
    """Tell how many processors torch uses."""
    import torch

    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    setting = os.environ.get("OMP_NUM_THREADS")
    fact = f"torch uses {threads} thread(s) on {cores} processor(s); OMP_NUM_THREADS is " + (
        setting if setting else "not set"
    )
    if threads > cores:
        yield Finding(NOTE, fact, f"more threads than processors are slow: OMP_NUM_THREADS={cores}")
    elif threads == 1 < cores:
        yield Finding(NOTE, fact, "training uses one processor only: unset OMP_NUM_THREADS")
    else:
        yield Finding(OK, fact)


# -------------------------------------------------------------------------------- the data


def check_data() -> Iterable[Finding]:
    """Load the smallest data set from the source in use."""
    from mrl_course import data

    try:
        source = data.describe_source()
        with contextlib.redirect_stdout(io.StringIO()):  # `auto` announces itself when it loads
            pairs = len(data.load_stsb("test"))
    except Exception as error:  # DataSourceError says what to do; anything else is news to us
        fix = "set MRL_COURSE_DATA=mini, or do what the line above says"
        yield Finding(PROBLEM, f"the data cannot be loaded: {_short(error)}", fix)
    else:
        yield Finding(OK, f"data: {source}; {pairs:,} test pairs loaded")


def check_hub() -> Iterable[Finding]:
    """Ask the hub for one small file."""
    from mrl_course import data

    start = time.perf_counter()
    obstacle = data.probe_hub(data.ALLNLI)
    if obstacle:
        yield Finding(
            NOTE,
            f"no real AllNLI from the hub: {obstacle}",
            "all lessons run on the embedded miniature; for real data without internet: "
            "`mrl-course data --download FOLDER` on a connected machine",
        )
    else:
        yield Finding(OK, f"the hub answers in {time.perf_counter() - start:.1f} s")


# ------------------------------------------------------------------------------------ disk


def check_current_folder() -> Iterable[Finding]:
    """Tell whether results can be written here."""
    level, fact = _room(Path.cwd(), ROOM_FOR_RESULTS)
    fix = "free some space, or work in another folder" if level else ""
    yield Finding(PROBLEM if level else OK, f"the current folder {fact}", fix)


def check_cache_folder() -> Iterable[Finding]:
    """Tell whether downloads have a place."""
    from huggingface_hub import constants

    level, fact = _room(Path(constants.HF_HUB_CACHE), ROOM_FOR_DOWNLOADS)
    fix = "set HF_HOME to a folder with more room; needed for downloads only" if level else ""
    yield Finding(NOTE if level else OK, f"the cache of downloads {fact}", fix)


def _room(folder: Path, needed: float) -> tuple[bool, str]:
    """Return whether something is wrong with a folder, and what can be said about it."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
        free = shutil.disk_usage(place).free
    except OSError as error:
        return True, f"{folder} cannot be written to ({error.strerror or error})"
    return free < needed, f"{folder} has {free / 1e9:.1f} GB free (wanted: {needed / 1e9:.1f} GB)"


# --------------------------------------------------------------------------------- lessons


def check_kernel() -> Iterable[Finding]:
    """Find out which Python the Jupyter kernel ``python3`` starts."""
    if home_folder() is None:  # Jupyter would make a folder called ~ here
        return
    fix = f"{sys.executable} -m ipykernel install --sys-prefix"
    try:
        from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    except ImportError:
        yield Finding(NOTE, "Jupyter is not installed", "pip install jupyterlab ipykernel")
        return
    try:
        command = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        yield Finding(
            PROBLEM, "Jupyter has no kernel called python3", f"pip install ipykernel, then {fix}"
        )
        return
    # Compare folders: a virtual environment's python, python3 and python3.x are links out of it.
    here, there = (os.path.normcase(os.path.dirname(path)) for path in (sys.executable, command))
    if there and there != here:
        yield Finding(NOTE, f"the kernel python3 starts {command}, not this Python", fix)
    else:
        yield Finding(OK, "the kernel python3 starts this Python")


def check_lessons() -> Iterable[Finding]:
    """Count the lessons."""
    from mrl_course.commands import lessons

    try:
        found = lessons.list_lessons()
    except LessonError as error:
        yield Finding(PROBLEM, str(error).split(". ")[0], INSTALL)
    else:
        yield Finding(OK, f"{len(found)} lessons in {lessons.notebook_folder()}")


# ----------------------------------------------------------------------- `mrl-course doctor`

CHECKS: list[Callable[[], Iterable[Finding]]] = [
    check_python,
    check_versions,
    check_imports,
    check_torch,
    check_threads,
    check_home,
    check_data,
    check_hub,
    check_current_folder,
    check_cache_folder,
    check_kernel,
    check_lessons,
]


def add_parser(subparsers: Any) -> None:
    """Add ``doctor`` to the subcommands of ``mrl-course``."""
    parser = subparsers.add_parser(
        "doctor",
        help="say what works on this machine, and what to do about the rest",
        description="Check Python, packages, torch, data, disk and Jupyter. The exit code is 1 if "
        "something stops the course, else 0.",
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Print all findings; return 1 if one of them is a problem, else 0."""
    problems = 0
    for check in CHECKS:
        for finding in _findings(check):
            print(finding, flush=True)
            problems += finding.level == PROBLEM
    print(f"\n{problems} problem(s) to solve." if problems else "\nReady for lesson 00.")
    return 1 if problems else 0


def _findings(check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Run a check quietly; if it breaks, that is a finding too, and no traceback."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return list(check())
    except Exception as error:  # whatever is broken here is what the reader came to learn
        name = check.__name__.removeprefix("check_").replace("_", " ")
        fact = f"the check of {name} stopped with {_short(error)}"
        homeless = isinstance(error, RuntimeError) and home_folder() is None
        return [Finding(PROBLEM, fact, SET_HOME if homeless else INSTALL)]


def _short(error: Exception) -> str:
    text = re.sub(r"\s+", " ", f"{type(error).__name__}: {error}").strip()
    return text if len(text) <= 300 else text[:297] + "..."
