"""The command line, ``mrl-course``: one subcommand for each thing to do without a notebook."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Sequence

import mrl_course
from mrl_course.commands import data, demo, doctor, lessons, twins
from mrl_course.errors import MrlCourseError

DEBUG = "MRL_COURSE_DEBUG"
"""The environment variable that shows the traceback of an unexpected error."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``mrl-course`` with these arguments (those of the process by default).

    Returns:
        The exit code: 0 if all went well; 1 if a command found a problem, or an error was not
        expected; 2 for wrong arguments, data or files; 130 after Ctrl-C; 141 where the reader of
        a pipe stopped reading. What went wrong is one line on stderr, and never a traceback.
    """
    try:
        code = _run(argv)
        sys.stdout.flush()  # here, where a closed pipe is still an error that can be caught
    except BrokenPipeError:  # `mrl-course doctor | head -1` is no error of anybody
        _forget_output()
        return 141
    except KeyboardInterrupt:
        print("mrl-course: stopped by hand, nothing half-written", file=sys.stderr)
        return 130
    except (MrlCourseError, OSError, ImportError) as error:
        return _fail(f"error: {_one_line(error)}", 2, error)
    except Exception as error:  # a fault of ours, or of a library
        kind = type(error).__name__
        return _fail(f"unexpected {kind}: {_one_line(error)} ({DEBUG}=1 shows where)", 1, error)
    return code


def _run(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="mrl-course", description="A hands-on course on Matryoshka embeddings."
    )
    parser.add_argument("--version", action="version", version=mrl_course.__version__)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (twins, lessons, demo, data, doctor):
        command.add_parser(subparsers)
    args = parser.parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console without ticks gets "?" and no crash
            stream.reconfigure(errors="replace")
    return args.func(args)


def _fail(line: str, code: int, error: BaseException) -> int:
    """Say what went wrong; with the traceback for those who asked for it."""
    if os.environ.get(DEBUG, "") not in ("", "0"):
        import traceback

        traceback.print_exception(type(error), error, error.__traceback__)
    print(f"mrl-course: {line}", file=sys.stderr)
    return code


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _forget_output() -> None:
    """Let what is still to be written go nowhere: else Python complains as it ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
