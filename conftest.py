"""Lessons are compared as tests/nbval_numbers.py says, wherever `pytest --nbval` is called."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "tests"))

pytest_plugins = ["nbval_numbers"]
