"""Run the lessons in a fresh kernel, and keep stored notebooks in one clean form.

``mrl-course run`` executes lessons and writes the results to ``build/lessons/``; with
``--inplace`` it refreshes the outputs stored in the lessons themselves. A stored notebook is
always in clean form (:func:`clean_notebook`), so that two runs with equal results are equal files.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import copy
import os
import re
import sys
import textwrap
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrl_course.errors import LessonError
from mrl_course.files import (
    PACKAGE,
    check_target,
    home_folder,
    in_checkout,
    notebook_folder,
    user_path,
    write_whole,
)

OUTPUT_FOLDER = Path("build", "lessons")
CELL_TIMEOUT = 600

# What a stored output must not depend on. The test run of the notebooks sets the same.
KERNEL_ENVIRONMENT = {
    "PYTHONHASHSEED": "0",  # the order of sets
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # figures land in the notebook
    "TQDM_DISABLE": "1",  # progress bars hold times, and go to stderr
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",  # these two do not look at TQDM_DISABLE
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "PYTHONWARNINGS": "ignore:IProgress",  # "not found", says tqdm where there are no ipywidgets
    "MRL_COURSE_UNATTENDED": "1",  # nobody is there to move a widget; lessons show a table instead
}
OFFLINE_ENVIRONMENT = {"MRL_COURSE_DATA": "mini", "HF_HUB_OFFLINE": "1"}

KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
FINDINGS_TAG = "findings"
"""The tag of a cell that tests the text around it: stored folded, out of the learner's way."""


# -------------------------------------------------------------------------- finding lessons


def list_lessons() -> list[Path]:
    """Return the paths of all lessons, ``00_….ipynb`` first.

    Raises:
        LessonError: there are none.
    """
    found = sorted(notebook_folder().glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise LessonError(
            f"There are no lessons in {notebook_folder()}. Install the course again, or run from "
            "a checkout of its repository."
        )
    return found


def find_lessons(wanted: Iterable[str]) -> list[Path]:
    """Return the notebooks meant by numbers (``4``), names (``04_retention``) or paths, each once.

    Nothing wanted means all lessons, in order.

    Raises:
        LessonError: one of them does not exist; the message lists what does. Or two of them have
            the same file name, and one result would overwrite the other.
    """
    lessons = list_lessons()
    chosen: list[Path] = []
    for text in wanted:
        if text.isdecimal():
            matches = [path for path in lessons if int(path.stem[:2]) == int(text)]
        elif Path(text).suffix == ".ipynb" and Path(text).is_file():
            matches = [Path(text).resolve()]
        else:
            matches = [path for path in lessons if text in (path.stem, path.name)]
        if not matches:
            names = "\n  ".join(path.stem for path in lessons)
            raise LessonError(f"There is no lesson {text!r}. The lessons are:\n  {names}")
        chosen += matches
    unique = list(dict.fromkeys(path.resolve() for path in chosen or lessons))
    names = [path.name for path in unique]
    for name in names:
        if names.count(name) > 1:
            raise LessonError(f"Two notebooks are called {name}: run them one at a time.")
    return unique


# --------------------------------------------------------------------- reading and writing


def read_notebook(path: Path) -> dict[str, Any]:
    """Read a notebook of format 4 and change nothing in it, except that texts become strings.

    Raises:
        LessonError: the file is missing, is not JSON, or is not such a notebook.
    """
    try:
        from nbformat import v4
    except ImportError as error:
        raise _missing(error) from None
    try:
        notebook = v4.reads(Path(path).read_text(encoding="utf-8"))
        major = notebook["nbformat"]
        cells_are_cells = all("cell_type" in cell and "source" in cell for cell in notebook.cells)
    except OSError as error:
        raise LessonError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LessonError(
            f"{path} is not a readable notebook ({type(error).__name__}: {error}). "
            "Restore it, for example with `git checkout -- FILE`."
        ) from None
    if major != 4 or not cells_are_cells:
        raise LessonError(
            f"{path} is not a notebook of format 4; open and save it in JupyterLab once."
        )
    return notebook


def notebook_text(notebook: dict[str, Any]) -> str:
    """Return the text of a notebook file: indented by one, keys sorted, one newline at the end."""
    from nbformat import from_dict, v4

    return v4.writes(from_dict(notebook)).rstrip("\n") + "\n"


def write_notebook(notebook: dict[str, Any], path: Path) -> None:
    """Write a notebook so that no reader, and no interruption, ever sees half of it."""
    write_whole(path, notebook_text(notebook))


def clean_notebook(notebook: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a notebook in the form in which the course stores it.

    Kept are sources, attachments, outputs, non-empty tags and the ids of cells; everything else
    that editors and kernels leave in a notebook goes. Cells tagged ``findings`` are folded.
    Missing and repeated ids are replaced, the
    counts of cells that ran in order become 1, 2, 3 and so on, and stream outputs that follow each
    other are joined. Counts that are not in order stay, so that the notebook guard can see them.
    Cleaning a clean notebook changes nothing.
    """
    cells = [_clean_cell(cell) for cell in notebook["cells"]]
    _fill_ids(cells)
    ran = [cell for cell in cells if cell.get("execution_count") is not None]
    counts = [cell["execution_count"] for cell in ran]
    if counts == sorted(set(counts)):
        for count, cell in enumerate(ran, start=1):
            cell["execution_count"] = count
    for cell in cells:
        for output in cell.get("outputs", []):
            if "execution_count" in output:
                output["execution_count"] = cell["execution_count"]
    return {
        "cells": cells,
        "metadata": {"kernelspec": dict(KERNELSPEC), "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _clean_cell(cell: dict[str, Any]) -> dict[str, Any]:
    keep = ["cell_type", "id", "source"]
    keep += ["execution_count", "outputs"] if cell["cell_type"] == "code" else ["attachments"]
    clean = {key: copy.deepcopy(cell[key]) for key in keep if key in cell}
    tags = list(cell.get("metadata", {}).get("tags") or [])
    clean["metadata"] = _folded(tags) if FINDINGS_TAG in tags else {"tags": tags} if tags else {}
    if cell["cell_type"] == "code":
        clean.setdefault("execution_count", None)
        clean["outputs"] = _clean_outputs(clean.get("outputs", []))
    return clean


def _folded(tags: list[str]) -> dict[str, Any]:
    """Fold a cell's source wherever lessons are read: JupyterLab, Colab and the site."""
    return {
        "cellView": "form",
        "jupyter": {"source_hidden": True},
        "tags": [*tags, *(tag for tag in ["hide-input"] if tag not in tags)],
    }


def _clean_outputs(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    clean: list[dict[str, Any]] = []
    for output in outputs:
        output.pop("transient", None)
        output.get("data", {}).pop(WIDGET_VIEW, None)
        before = clean[-1] if clean else {}
        if output["output_type"] == "stream" and output["name"] == before.get("name"):
            before["text"] += output["text"]
        else:
            clean.append(output)
    return clean


def _fill_ids(cells: list[dict[str, Any]]) -> None:
    """Give cells without an id, or with the id of an earlier cell, one made from their place."""
    taken = {cell.get("id") for cell in cells}
    seen = set()
    for number, cell in enumerate(cells, start=1):
        if not cell.get("id") or cell["id"] in seen:
            new = f"cell-{number}"
            while new in taken:
                new += "-b"
            taken.add(new)
            cell["id"] = new
        seen.add(cell["id"])


# ---------------------------------------------------------------------------------- running


@dataclass(frozen=True)
class LessonRun:
    """What came of executing one lesson."""

    path: Path
    notebook: dict[str, Any]
    """The executed notebook in clean form; after a failure, what had run until then."""
    seconds: float
    failure: str
    """Empty, or where and how it failed."""
    stderr: str
    """Empty, or the first cell that wrote to stderr, and its first line."""


def execute_lesson(
    path: Path,
    environment: dict[str, str] | None = None,
    timeout: int = CELL_TIMEOUT,
) -> LessonRun:
    """Execute a notebook in a new kernel of this Python, in the notebook's own folder.

    Args:
        path: the notebook; it is not changed.
        environment: variables to set in the kernel, on top of this process's own and
            ``KERNEL_ENVIRONMENT``.
        timeout: seconds that one cell may take.

    Raises:
        LessonError: the file cannot be read, or the packages that run notebooks are missing.
        KeyboardInterrupt: Ctrl-C; the kernel has been stopped.
    """
    start = time.perf_counter()
    notebook: Any = read_notebook(path)  # nbformat's own kind of dict
    started: list[int] = []  # the places of the cells, so that the last one is where it failed
    client = _client(notebook, timeout, started)
    try:
        _execute(client, cwd=str(path.parent), env=_kernel_environment(environment or {}))
        failure = ""
    except Exception as error:  # nbclient, jupyter_client and zmq each have their own families
        place = f"cell {started[-1]} of {len(notebook.cells)}" if started else "starting the kernel"
        failure = f"{place}\n{_last_lines(error, timeout)}"
    return LessonRun(
        path=path,
        notebook=clean_notebook(notebook),
        seconds=time.perf_counter() - start,
        failure=failure,
        stderr=_stderr(notebook),
    )


def _client(notebook: Any, timeout: int, started: list[int]) -> Any:
    """Remove the stored outputs from a notebook and return an nbclient that will fill it."""
    try:
        from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
        from jupyter_client.manager import AsyncKernelManager
        from nbclient import NotebookClient
    except ImportError as error:
        raise _missing(error) from None

    class ThisPython(KernelSpecManager):
        """Knows one kernel. An installed ``python3`` spec may start another environment."""

        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            command.append("--log-level=CRITICAL")  # or its notes break the progress lines
            return KernelSpec(
                argv=command, display_name=KERNELSPEC["display_name"], language="python"
            )

    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return NotebookClient(
        notebook,
        km=AsyncKernelManager(kernel_name="python3", kernel_spec_manager=ThisPython()),
        timeout=timeout,
        on_cell_start=lambda cell, cell_index: started.append(cell_index + 1),
    )


def _missing(error: ImportError) -> LessonError:
    return LessonError(f"Lessons need {error.name}: pip install nbclient nbformat ipykernel")


def _kernel_environment(extra: dict[str, str]) -> dict[str, str]:
    environment = {**os.environ, **KERNEL_ENVIRONMENT, **extra}
    if in_checkout():  # the lesson gets the package that runs it, installed or not
        paths = [str(PACKAGE.parent), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return environment


def _execute(client: Any, **options: Any) -> None:
    """Run all cells; on Ctrl-C stop the kernel and raise KeyboardInterrupt.

    In a thread: in the main thread nbclient handles Ctrl-C itself, and reports no more than a dead
    kernel. The wait has a timeout because on Windows Ctrl-C does not end a wait without one. The
    loop is a selector loop because that is the only kind zmq knows on every system.
    """
    loop = asyncio.SelectorEventLoop()
    task = loop.create_task(client.async_execute(cleanup_kc=True, **options))

    def work() -> None:
        try:
            loop.run_until_complete(task)
        finally:
            for other in asyncio.all_tasks(loop):  # nbclient leaves some behind when cancelled
                other.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    loop.run_until_complete(other)

    with contextlib.closing(loop), ThreadPoolExecutor(max_workers=1) as pool:
        future = pool.submit(work)
        try:
            while not future.done():
                wait([future], timeout=0.2)
        except KeyboardInterrupt:
            loop.call_soon_threadsafe(task.cancel)  # the task stops the kernel before it ends
            raise
    future.result()


def _last_lines(error: Exception, timeout: int) -> str:
    if isinstance(error, TimeoutError):
        return f"took longer than {timeout} s (--timeout SECONDS sets another limit)"
    text = re.sub(r"\x1b\[[\d;]*m", "", str(error))  # colours
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-4:]) or type(error).__name__


def _stderr(notebook: Any) -> str:
    for number, cell in enumerate(notebook.cells, start=1):
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                line = (output.text.strip().splitlines() or [""])[0]
                return f"cell {number} wrote to stderr: {line[:200]}"
    return ""


# ----------------------------------------------------------------------- `mrl-course run`


def add_parser(subparsers: Any) -> None:
    """Add ``run`` to the subcommands of ``mrl-course``."""
    parser = subparsers.add_parser(
        "run",
        help="execute lessons and say which of them run",
        description=f"Execute lessons in a fresh kernel. Results go to {OUTPUT_FOLDER.as_posix()}/"
        " in the current folder.",
    )
    parser.add_argument(
        "lessons",
        nargs="*",
        metavar="LESSON",
        help="a number (4), a name (04_...) or a path; all lessons if none is given",
    )
    parser.add_argument(
        "--inplace",
        action="store_true",
        help="refresh the outputs stored in the lessons instead, from the embedded miniature",
    )
    parser.add_argument(
        "--source",
        metavar="SRC",
        help="auto, hub, mini or a folder: where the sentences come from (MRL_COURSE_DATA)",
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=CELL_TIMEOUT,
        metavar="SECONDS",
        help="how long one cell may take (default: %(default)s)",
    )
    parser.set_defaults(func=run)


def _seconds(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of seconds above 0")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Execute lessons; return 0 (all ran), 1 (one failed) or 130 (Ctrl-C).

    Raises:
        LessonError: there is no such lesson, or it cannot be run as wished.
        OSError: the folder of the results cannot be written, which is found out before any runs.
    """
    done = failed = 0
    paths: list[Path] = []
    try:
        environment = _requested_environment(args)
        paths = find_lessons(args.lessons)
        _check_room(paths, args.inplace)
        for path in paths:
            print(f"{path.stem} ... ", end="", flush=True)
            try:
                result = execute_lesson(path, environment, args.timeout)
                failed += not _report_and_store(result, args.inplace)
            except (LessonError, OSError) as error:  # this one cannot be read, or not be written
                print(f"FAILED\n{textwrap.indent(str(error), '    ')}")
                failed += 1
            done += 1
    except KeyboardInterrupt:
        print(f"\nStopped by Ctrl-C after {done} of {len(paths)} lessons; nothing is half-written.")
        return 130
    print(f"{done - failed} of {done} lessons ran without a problem.")
    return 1 if failed else 0


def _check_room(paths: list[Path], inplace: bool) -> None:
    """What would stop all lessons, or cost their results, said before the first one runs."""
    if home_folder() is None:
        raise LessonError(
            "this process has no home folder, and Jupyter needs one: set HOME to a folder that can "
            "be written, for example HOME=/tmp"
        )
    for path in paths:
        check_target(path if inplace else OUTPUT_FOLDER / path.name)


def _requested_environment(args: argparse.Namespace) -> dict[str, str]:
    """Return the variables that the arguments ask for; a folder becomes absolute."""
    if args.inplace and not in_checkout():
        raise LessonError(
            "--inplace refreshes the lessons of a checkout of the repository. This is an installed "
            "package: run without --inplace and find the results in " + OUTPUT_FOLDER.as_posix()
        )
    if args.inplace:
        if args.source not in (None, "mini"):
            raise LessonError(
                f"--inplace stores what the embedded miniature gives, not {args.source!r}. "
                "Leave out --inplace or --source."
            )
        return OFFLINE_ENVIRONMENT
    source = os.environ.get("MRL_COURSE_DATA", "") if args.source is None else args.source
    if source.strip().lower() in ("", "auto", "hub", "mini"):
        return {"MRL_COURSE_DATA": source}
    try:
        folder = user_path(source)
    except OSError as error:
        raise LessonError(str(error)) from None
    if not folder.is_dir():
        raise LessonError(f"No data source {source!r}: use auto, hub, mini or an existing folder.")
    return {"MRL_COURSE_DATA": str(folder.resolve())}  # the kernel works in another folder


def _report_and_store(result: LessonRun, inplace: bool) -> bool:
    """Finish the progress line and write the notebook; return whether all is well."""
    problem = result.failure or (result.stderr if inplace else "")
    note = f" ({result.stderr})" if result.stderr and not problem else ""
    print(f"{'FAILED' if problem else 'ok'} {result.seconds:.1f} s{note}")
    if problem:
        print(textwrap.indent(problem, "    "))
    if not inplace:
        write_notebook(result.notebook, OUTPUT_FOLDER / result.path.name)
    elif problem:
        print("    The stored notebook is as it was.")
    else:
        write_notebook(result.notebook, result.path)
    return not problem
