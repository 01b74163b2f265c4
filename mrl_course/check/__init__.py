"""Exercises that check themselves, and claims that a run has to confirm.

A lesson uses three things::

    check.cut_then_normalise(my_function)  # not attempted, wrong (and why), or correct
    with check.findings():  # one line for all claims of a section, in a folded cell
        check.claim("a is larger than b", a > b, a=a, b=b)  # or a ClaimError with the numbers

The exercises of each lesson stand in ``lesson_NN.py`` beside this file, declared with
:func:`register`. Every exercise carries its own answer key and a list of wrong answers, so one test
can prove that its checker accepts the key and says something useful about each known mistake.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil

from mrl_course.check import engine
from mrl_course.check.engine import (
    ClaimError,
    Exercise,
    Wrong,
    claim,
    compare_arrays,
    findings,
    register,
)

__all__ = [
    "ClaimError",
    "Exercise",
    "Wrong",
    "claim",
    "compare_arrays",
    "exercises",
    "findings",
    "register",
]


def exercises(lesson: int | None = None) -> list[Exercise]:
    """Return all exercises of the course, or of one lesson, in the order of declaration."""
    _load()
    return [exercise for exercise in engine.REGISTRY.values() if lesson in (None, exercise.lesson)]


def _load() -> None:
    """Import the lessons' exercises: on demand, since they need most of the package."""
    for module in sorted(found.name for found in pkgutil.iter_modules(__path__)):
        if module.startswith("lesson_"):
            importlib.import_module(f"{__name__}.{module}")


def __getattr__(name: str) -> Exercise:
    if not name.startswith("_"):
        _load()
        if name in engine.REGISTRY:
            return engine.REGISTRY[name]
    close = difflib.get_close_matches(name, engine.REGISTRY, n=3)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise AttributeError(
        f"there is no exercise or function {name!r} in mrl_course.check.{hint}"
        " dir(check) lists them all."
    )


def __dir__() -> list[str]:
    _load()
    return sorted([*__all__, *engine.REGISTRY])
