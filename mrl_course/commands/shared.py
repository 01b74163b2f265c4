"""What several commands need."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable


def positive(text: str) -> int:
    """A number of at least 1 on the command line."""
    return _at_least(1, text)


def at_least(least: int) -> Callable[[str], int]:
    """A kind of argument for argparse: a whole number from ``least`` on."""
    return functools.partial(_at_least, least)


def seed(text: str) -> int:
    """A seed on the command line, 0 to 2**32 - 1, as NumPy and torch take it."""
    number = _at_least(0, text)
    if number >= 2**32:
        raise argparse.ArgumentTypeError(f"needs a number below 2**32, got {text!r}")
    return number


def _at_least(least: int, text: str) -> int:
    if not text.isdecimal() or len(text) > 18 or int(text) < least:
        raise argparse.ArgumentTypeError(f"needs a whole number of at least {least}, got {text!r}")
    return int(text)
