"""What several commands need."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """A number of at least 1 on the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"needs a whole number of at least 1, got {text!r}")
    return int(text)
