"""Checks of sizes and counts: a list of prefix sizes, their weights, one size, a number of rows."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Sequence

from mrl_course import DEFAULT_DIMS


def check_dims(dims: Sequence[int], full_dim: int, *, warn_missing_full: bool = False) -> list[int]:
    """Return ``dims`` as a list of plain ints in the given order, or say what is wrong.

    Args:
        dims: prefix sizes k in any order, each an integer with 1 <= k <= ``full_dim``.
        full_dim: D, the size of the whole embedding.
        warn_missing_full: warn when D is not among them (in training, the full vector is
            then never optimised; in evaluation that is nobody's problem).

    Raises:
        TypeError: ``dims`` is not a sequence of integers.
        ValueError: empty, repeated, below 1 or above D; the message names the value.
    """
    if isinstance(dims, (str, bytes)) or not hasattr(dims, "__iter__"):
        raise TypeError(f"dims must be a list of integers such as [8, 16, 32], got {dims!r}")
    checked: list[int] = []
    for k in dims:
        k = _integer(k, f"dims must be integers, got {k!r} ({type(k).__name__})")
        if not 1 <= k <= full_dim:
            raise ValueError(
                f"dims holds {k}, but a prefix of a {full_dim}-number embedding has between "
                f"1 and {full_dim} numbers"
            )
        if k in checked:
            raise ValueError(f"dims holds {k} more than once; list each prefix size once")
        checked.append(k)
    if not checked:
        raise ValueError("dims is empty; give at least one prefix size, for example [64, 768]")
    if warn_missing_full and full_dim not in checked:
        warnings.warn(
            f"the full size {full_dim} is not in dims {checked}: the last numbers of the "
            "embedding will not be trained",
            UserWarning,
            stacklevel=3,
        )
    return checked


def check_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    """Return the weights of ``count`` prefixes as floats, all 1 if None, or say what is wrong.

    Raises:
        ValueError: another number of them; one that is below 0, NaN or infinite.
    """
    if weights is None:
        return [1.0] * count
    weights = [float(w) for w in weights]
    if len(weights) != count:
        raise ValueError(f"{count} dims need {count} weights, got {len(weights)}")
    for w in weights:
        if not 0 <= w < float("inf"):
            raise ValueError(f"weights must be finite and >= 0, got {w}")
    return weights


def default_dims(full_dim: int) -> list[int]:
    """The sizes of ``DEFAULT_DIMS`` below ``full_dim``, then ``full_dim`` itself, ascending."""
    return [k for k in DEFAULT_DIMS if k < full_dim] + [full_dim]


def check_count(
    name: str, value: int, least: int = 1, most: int | None = None, of: str = ""
) -> int:
    """Return ``value`` as a plain int from ``least`` to ``most``, or say what is wrong.

    Args:
        name: of the argument, for the message.
        value: what was given.
        least, most: the limits; no upper one by default.
        of: says what there are ``most`` of.

    Raises:
        TypeError: not an integer (``True`` is none here).
        ValueError: outside the limits; the message names the value.
    """
    number = _integer(value, f"{name} must be an integer, got {value!r}")
    if most is not None and not least <= number <= most:
        raise ValueError(f"{name} must be between {least} and {most} ({of}), got {value}")
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return number


def _integer(value, message: str) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(message) from None
