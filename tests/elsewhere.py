"""Run the lessons as other machines would, and say which cells differ.

    python tests/elsewhere.py                     all settings, one after the other
    python tests/elsewhere.py --only 06,10        these lessons
    python tests/elsewhere.py --settings nudge-1  these settings
    python tests/elsewhere.py --faults            plant mistakes instead: each must be noticed

Some settings are real (threads, kernels, a foreign folder); what no switch reaches, another
vendor's processor, is simulated by a nudge of the last bits (``startup/nudge.py``). A lesson that
is green in all of them has margin enough for its numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

REPOSITORY = Path(__file__).resolve().parents[1]
STARTUP = REPOSITORY / "tests" / "startup"
sys.path[:0] = [str(REPOSITORY), str(STARTUP)]

from faults import FAULTS  # noqa: E402

from mrl_course.commands.lessons import KERNEL_ENVIRONMENT, OFFLINE_ENVIRONMENT  # noqa: E402

TRAINING = ("03", "04", "08", "09", "10", "11")
"""The lessons in which a training multiplies rounding; CI nudges these."""
STRANGERS = ("00", "04", "12")
"""The lessons that run as on strangers' machines: the first, a long one, and one with servers."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
FOREIGN_FOLDER = "Mes leçons à moi, 講義"


@dataclass(frozen=True)
class Setting:
    """One kind of machine: what the environment says there, and for which lessons it is tried."""

    name: str
    environment: dict[str, str] = field(default_factory=dict)
    lessons: tuple[str, ...] = ()  # all of them by default
    without: tuple[str, ...] = ()  # variables that are not set there
    spinning: int = 0  # other processes that never rest
    moved: bool = False  # to a folder whose name has blanks and letters beyond ASCII
    at_once: int = 1  # lessons; with one thread each, two on two cores take hardly longer


def threads(count: int) -> dict[str, str]:
    return dict.fromkeys(THREADS, str(count))


def nudge(seed: int) -> dict[str, str]:
    return {"MRL_TEST_NUDGE": str(seed), "PYTHONPATH": str(STARTUP)} | threads(1)


def avx2(environment: Mapping[str, str]) -> dict[str, str]:
    # Where the environment sets OpenBLAS's kernels, it may guard against a processor's wrong sums.
    return {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "OPENBLAS_CORETYPE": environment.get("OPENBLAS_CORETYPE", "Haswell"),
    }


SETTINGS = [
    Setting("all-cores"),  # as the outputs were stored; `make test` compares on one thread
    Setting("one-thread", threads(1), at_once=2),
    Setting("four-threads", threads(4)),
    Setting("AVX2-only", avx2(os.environ)),
    Setting("no-vector-kernels", {"ATEN_CPU_CAPABILITY": "default"}),
    Setting("nudge-1", nudge(1), at_once=2),
    Setting("nudge-2", nudge(2), at_once=2),
    Setting("busy-machine", lessons=STRANGERS, spinning=2),
    Setting("foreign-folder", lessons=STRANGERS, moved=True),
    Setting("no-HOME", lessons=STRANGERS, without=("HOME", "USERPROFILE")),
    Setting("ASCII-only", {"LC_ALL": "C", "PYTHONUTF8": "0"}, STRANGERS),
    Setting("far-time-zone", {"TZ": "FAR-14"}, STRANGERS),
    Setting("random-hashes", {"PYTHONHASHSEED": "random"}, STRANGERS),
]


@dataclass(frozen=True)
class Result:
    """What came of the lessons under one setting."""

    agree: int
    differ: dict[str, str]  # "lesson, cell" -> the first lines of why
    seconds: float
    changed: int  # kernels that a start-up file has changed

    @property
    def cells(self) -> int:
        return self.agree + len(self.differ)


def lesson_files(numbers: Sequence[str], folder: Path = REPOSITORY) -> list[Path]:
    """Return the notebooks of these numbers, or all."""
    found = sorted((folder / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    chosen = [path for path in found if not numbers or path.name[:2] in numbers]
    missing = set(numbers) - {path.name[:2] for path in chosen}
    if missing or not chosen:
        raise SystemExit(f"no lesson {', '.join(sorted(missing))} in {folder / 'notebooks'}")
    return chosen


def compare(numbers: Sequence[str], setting: Setting) -> Result:
    """Run lessons under a setting, and compare their outputs as ``make test`` does."""
    environment = {name: value for name, value in os.environ.items() if name not in setting.without}
    environment |= KERNEL_ENVIRONMENT | OFFLINE_ENVIRONMENT
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        log = scratch / "changed"
        # Vectors kept from another setting would be no test of this one.
        environment |= {"MRL_COURSE_CACHE": str(scratch / "cache"), "MRL_TEST_LOG": str(log)}
        environment |= setting.environment
        here = REPOSITORY
        if setting.moved:
            here = copy_of_the_course(scratch / FOREIGN_FOLDER)
            environment["PYTHONPATH"] = str(here)
        stack.enter_context(busy(setting.spinning))
        files = lesson_files(numbers, here)
        parts = [[file] for file in files] if setting.at_once > 1 else [files]
        start = time.perf_counter()
        with ThreadPoolExecutor(setting.at_once) as pool:
            compared = list(pool.map(lambda part: run_nbval(part, here, environment), parts))
        seconds = time.perf_counter() - start
        changed = len(log.read_text().split()) if log.is_file() else 0
    differ = {place: why for _, problems in compared for place, why in problems.items()}
    return Result(sum(agree for agree, _ in compared), differ, seconds, changed)


def run_nbval(
    files: Sequence[Path], folder: Path, environment: Mapping[str, str]
) -> tuple[int, dict[str, str]]:
    """Compare notebooks in a process of its own; return what :func:`read_report` says."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "report.xml")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "--color=no"]
            + ["--nbval-cell-timeout=600", "--nbval-kernel-startup-timeout=300", "-q"]
            + ["-p", "no:cacheprovider", f"--junitxml={report}", *map(str, files)],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if done.returncode not in (0, 1) or not report.is_file():
            raise SystemExit(f"pytest ended with {done.returncode}\n{done.stdout}")
        agree, differ = read_report(report)
    if (done.returncode == 1) != bool(differ):
        raise SystemExit(f"pytest's report and its exit code disagree\n{done.stdout}")
    return agree, differ


def read_report(path: Path) -> tuple[int, dict[str, str]]:
    """Return how many cells passed in pytest's XML report, and what it says of the others."""
    agree, differ = 0, {}
    for case in ElementTree.parse(path).iter("testcase"):
        problems = [child for child in case if child.tag in ("failure", "error", "skipped")]
        if problems:
            text = (problems[0].text or problems[0].get("message") or "").strip()
            lesson = case.get("classname", "").removesuffix(".ipynb").split(".")[-1]
            place = f"{lesson}, {case.get('name')}"
            differ[place] = reason(text)
        else:
            agree += 1
    return agree, differ


def reason(text: str) -> str:
    """Return why a cell is red, without its source: what is said after "Traceback:", or at once."""
    text = re.sub(r"(?:\x1b|#x1B)\[[\d;]*m", "", text)  # colours, and how XML writes them
    first = next((line for line in text.splitlines() if line.startswith("Cell ")), "")
    _, found, after = text.partition("Traceback:\n")
    after = after.partition(" mismatch '")[0]  # nbval says it again, with the whole text
    lines = [line for line in after.splitlines() if line.strip()] if found else []
    return "\n".join([first.partition(": ")[2], *(lines[:4] if "differ" in first else lines[-3:])])


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep processors busy with something else."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def copy_of_the_course(folder: Path) -> Path:
    """Copy what the lessons need, and the tests' comparison, into another folder."""
    folder.mkdir(parents=True)
    leave = shutil.ignore_patterns("__pycache__", "build", ".ipynb_checkpoints")
    for name in ("notebooks", "mrl_course", "data", "tests"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=leave)
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, folder / name)
    return folder


def try_settings(settings: Sequence[Setting], only: Sequence[str]) -> bool:
    """Print a line for each setting; return whether every cell agreed in each of them."""
    good = True
    for setting in settings:
        numbers = [n for n in setting.lessons or only if not only or n in only]
        if setting.lessons and not numbers:
            continue
        result = compare(numbers, setting)
        print(
            f"{setting.name:18} {result.agree} of {result.cells} cells agree"
            f" ({result.seconds / 60:.1f} min)",
            flush=True,
        )
        for place, why in result.differ.items():
            print("    " + f"{place}: {why}".replace("\n", "\n        "), flush=True)
        nudged = "MRL_TEST_NUDGE" in setting.environment
        if nudged and not result.changed:
            print("    no kernel was nudged: nothing has been tested")
        good &= not result.differ and bool(result.changed) >= nudged
    return good


def try_faults(names: Sequence[str]) -> bool:
    """Plant one mistake after the other; return whether a lesson noticed each of them."""
    good = True
    for name in names or FAULTS:
        lesson = FAULTS[name][3]
        environment = {"MRL_TEST_FAULT": name, "PYTHONPATH": str(STARTUP)}
        result = compare([lesson], Setting(name, environment))
        good &= bool(result.differ)
        print(
            f"{name:38} lesson {lesson}: {len(result.differ)} of {result.cells} cells red"
            f"{'' if result.differ else ': NOT NOTICED'} ({result.seconds / 60:.1f} min)",
            flush=True,
        )
        for place, why in list(result.differ.items())[:1]:
            print("    " + f"{place}: {why}".replace("\n", "\n        "), flush=True)
    return good


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    listed = {"type": lambda text: [part.strip() for part in text.split(",") if part.strip()]}
    parser.add_argument("--only", default=[], metavar="06,10", help="these lessons", **listed)
    parser.add_argument("--training", action="store_true", help="only lessons that train long")
    parser.add_argument("--settings", default=[], help="these settings, by name", **listed)
    parser.add_argument("--faults", nargs="?", const="all", help="plant mistakes, all or by name")
    options = parser.parse_args(arguments)
    if options.faults:
        names = [] if options.faults == "all" else options.faults.split(",")
        if unknown := set(names) - set(FAULTS):
            parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(FAULTS)}")
        return 0 if try_faults(names) else 1
    known = {setting.name: setting for setting in SETTINGS}
    if unknown := set(options.settings) - set(known):
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    settings = [known[name] for name in options.settings or known]
    only = [number.zfill(2) for number in options.only]
    only = [n for n in TRAINING if not only or n in only] if options.training else only
    return 0 if try_settings(settings, only) else 1


if __name__ == "__main__":
    raise SystemExit(main())
