"""The command line, ``mrl-course``: one subcommand for each thing to do without a notebook."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import mrl_course
from mrl_course.commands import data, demo, doctor, lessons, twins


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``mrl-course`` with these arguments (those of the process by default).

    Returns:
        The exit code: 0 if all went well, 1 if not, 2 for wrong arguments, 130 after Ctrl-C.
        What went wrong is one line on stderr.
    """
    parser = argparse.ArgumentParser(
        prog="mrl-course", description="A hands-on course on Matryoshka embeddings."
    )
    parser.add_argument("--version", action="version", version=mrl_course.__version__)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (twins, lessons, demo, data, doctor):
        command.add_parser(subparsers)
    args = parser.parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a console that knows no tick gets "?" and no crash
            stream.reconfigure(errors="replace")
    try:
        return args.func(args)
    except KeyboardInterrupt:
        print("mrl-course: stopped by hand, nothing half-written", file=sys.stderr)
        return 130
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"mrl-course: error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
