"""One table over every public function, every argument that holds numbers, and every kind of input.

Functions and their arguments are found by inspection. One without an entry in ``CALLS`` (or a
reason in ``NO_DOOR``) turns :func:`test_every_argument_has_its_door` red, and its message says
what to add. An entry is a small valid call, and for each argument a ``Door``: inputs that must
give the same answer as plain float32 arrays, lists and ints, and inputs that must be refused, by
which kind of error, in which words.
"""

from __future__ import annotations

import inspect
import re
import tempfile
import types
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tokenizers import Tokenizer

from mrl_course import (
    classification,
    costs,
    engines,
    evaluation,
    losses,
    models,
    neighbours,
    planning,
    plots,
    ranking,
    retrofit,
    search,
    training,
)
from mrl_course.demo import int8
from mrl_course.errors import MrlCourseError, WrongKind, WrongValue

# --------------------------------------------------------------------------- what a door must do


@dataclass
class Door:
    """What one argument takes and refuses; every function gets the valid value of the argument.

    Attributes:
        same: name -> (what is given, the plain value that must give the same answer).
        wrong: name -> (what is given, the error, a pattern for its words).
        clear: name -> what is given: finite numbers, a refusal, or a warning where there is a NaN.
    """

    same: dict[str, tuple[Callable, Callable]] = field(default_factory=dict)
    wrong: dict[str, tuple[Callable, type[Exception], str]] = field(default_factory=dict)
    clear: dict[str, Callable] = field(default_factory=dict)

    def but(self, *names: str, **more: Any) -> Door:
        """This door without some cases, or with others in their place."""
        kept = [
            {name: case for name, case in cases.items() if name not in names}
            for cases in (self.same, self.wrong, self.clear)
        ]
        assert sum(map(len, kept)) == self.size - len(set(names)), f"no such cases: {names}"
        return Door(
            kept[0] | more.get("same", {}),
            kept[1] | more.get("wrong", {}),
            kept[2] | more.get("clear", {}),
        )

    @property
    def size(self) -> int:
        return len(self.same) + len(self.wrong) + len(self.clear)


@dataclass
class Call:
    """A valid call of one function: ``run(**arguments())``, and the doors of its arguments."""

    run: Callable
    arguments: dict[str, Any]
    doors: dict[str, Door]
    tolerance: float = 1e-5

    def __call__(self, parameter: str | None = None, value: Any = None) -> Any:
        changed = {} if parameter is None else {parameter: value}
        return self.run(**(self.arguments | changed))


def _plain(value: Any) -> Any:
    return value


# ------------------------------------------------------------------------------ arrays of numbers


def _backwards(a: np.ndarray) -> np.ndarray:
    turn = (slice(None, None, -1),) * a.ndim
    return a[turn].copy()[turn]


def _strided(a: np.ndarray) -> np.ndarray:
    wide = np.full([2 * n for n in a.shape], 99, a.dtype)
    wide[(slice(None, None, 2),) * a.ndim] = a
    return wide[(slice(None, None, 2),) * a.ndim]


def _mapped(a: np.ndarray) -> np.ndarray:
    with tempfile.TemporaryFile() as file:
        mapped = np.memmap(file, a.dtype, "w+", shape=a.shape)
    mapped[:] = a
    return mapped


def _read_only(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flags.writeable = False
    return a


def _to(a: np.ndarray, largest: float) -> np.ndarray:
    return a.astype(np.float64) / np.abs(a).max() * largest


def _f16(a: np.ndarray, largest: float) -> np.ndarray:
    return _to(a, largest).astype(np.float16)


def _bf16(a: np.ndarray, largest: float) -> torch.Tensor:
    return torch.from_numpy(_to(a, largest)).to(torch.bfloat16)


def _mixed(a: np.ndarray, power: float, dtype: type) -> np.ndarray:
    lengths = 10.0 ** np.linspace(-power, power, len(a))
    return (a * lengths[:, None]).astype(dtype)


def _whole(a: np.ndarray, dtype: type = np.int16) -> np.ndarray:
    return np.rint(_to(a, 1000)).astype(dtype)


MEMORY = {
    "float64": (lambda a: a.astype(np.float64), _plain),
    "big-endian": (lambda a: a.astype(a.dtype.newbyteorder(">")), _plain),
    "longdouble": (lambda a: a.astype(np.longdouble), _plain),
    "read-only": (_read_only, _plain),
    "negative strides": (_backwards, _plain),
    "Fortran order": (np.asfortranarray, _plain),
    "not contiguous": (_strided, _plain),
    "memory-mapped": (_mapped, _plain),
    "nested list": (lambda a: a.tolist(), _plain),
    "list of tensors": (lambda a: list(torch.from_numpy(a)), _plain),
    "tensor": (lambda a: torch.from_numpy(a.copy()), _plain),
    "masked, nothing hidden": (lambda a: np.ma.masked_array(a, mask=np.zeros(a.shape)), _plain),
}
FLOATS = {
    "tensor with gradient": (lambda a: torch.from_numpy(a.copy()).requires_grad_(), _plain),
    "float16": (lambda a: _f16(a, 2.0), lambda a: _f16(a, 2.0).astype(np.float32)),
    "bfloat16": (lambda a: _bf16(a, 2.0), lambda a: _bf16(a, 2.0).float().numpy()),
    "int16": (_whole, lambda a: _whole(a).astype(np.float32)),
}
EXTREMES = {
    "x 1e-15": (lambda a: a * np.float32(1e-15), _plain),
    "x 1e-22": (lambda a: a * np.float32(1e-22), _plain),
    "x 1e30": (lambda a: a * np.float32(1e30), _plain),
    "x 1e-200": (lambda a: a.astype(np.float64) * 1e-200, _plain),
    "x 1e200": (lambda a: a.astype(np.float64) * 1e200, _plain),
    "float16 near its largest": (
        lambda a: _f16(a, 6e4),
        lambda a: _f16(a, 6e4).astype(np.float64),
    ),
    "float16 near its smallest": (
        lambda a: _f16(a, 6e-6),
        lambda a: _f16(a, 6e-6).astype(np.float64) * 1e5,
    ),
    "bfloat16 near its largest": (
        lambda a: _bf16(a, 3e38),
        lambda a: _bf16(a, 3e38).double().numpy() * 1e-38,
    ),
    "bfloat16 near its smallest": (
        lambda a: _bf16(a, 2e-37),
        lambda a: _bf16(a, 2e-37).double().numpy() * 1e37,
    ),
}
MIXED = {
    "mixed lengths, float32": (lambda a: _mixed(a, 18, np.float32), _plain),
    "mixed lengths, float64": (lambda a: _mixed(a, 120, np.float64), _plain),
}
TABLE = {"DataFrame": (pd.DataFrame, _plain)}


def _with(a: Any, place: Any, value: Any) -> Any:
    a = a.copy() if isinstance(a, np.ndarray) else a.clone()
    a[place] = value
    return a


def _hidden(a: np.ndarray) -> np.ma.MaskedArray:
    return np.ma.masked_array(a, mask=_with(np.zeros(a.shape, bool), 1, True))


NO_NUMBERS = {
    "a hidden value": (_hidden, WrongKind, "masked"),
    "booleans": (lambda a: a > 0, WrongKind, "bool"),
    "strings": (lambda a: a.astype(str), WrongKind, "<U"),
    "objects": (lambda a: a.astype(object), WrongKind, "object"),
    "complex": (lambda a: a.astype(np.complex64), WrongKind, "complex64"),
    "ragged": (lambda a: [a[0].ravel().tolist(), [1.0, 2.0, 3.0]], WrongKind, ""),
    "None": (lambda a: None, WrongKind, "object|None"),
    "a word": (lambda a: "vectors", WrongKind, "<U|vectors"),
    "a mapping": (lambda a: {0: a}, WrongKind, "object|mapping|\\{"),
    "sparse tensor": (lambda a: torch.from_numpy(a.copy()).to_sparse(), WrongKind, ""),
}
SHAPES = {
    "no rows": (lambda a: a[:0], WrongValue, r"\(0, \d+\)"),
    "no numbers in a row": (lambda a: a[:, :0], WrongValue, r"\(\d+, 0\)"),
    "three axes": (lambda a: a[None], WrongValue, r"\(1, \d+, \d+\)"),
    "one axis": (lambda a: a[0], WrongValue, r"\(\d+,\)|must have shape"),
}
PACKED = {"packed bits": (lambda a: np.packbits(a > 0, axis=-1), WrongKind, "uint8")}
NOT_FINITE = {
    "NaN in row 5": (lambda a: _with(a, (5, 1), np.nan), WrongValue, "row 5"),
    "inf in row 5": (lambda a: _with(a, (5, 1), np.inf), WrongValue, "row 5"),
    "-inf in row 5, float16": (
        lambda a: _with(a.astype(np.float16), (5, 1), -np.inf),
        WrongValue,
        "row 5",
    ),
}
WIDER = {
    "another model's size": (
        lambda a: np.concatenate([a, a], axis=1),
        WrongValue,
        r"\b16\b",
    )
}
DEGENERATE = {
    "all rows equal": lambda a: np.repeat(a[:1], len(a), axis=0),
    "all numbers equal": lambda a: np.full_like(a, 0.3),
    "all zero": np.zeros_like,
    "one row": lambda a: a[:1],
    "two different rows only": lambda a: np.where(np.arange(len(a))[:, None] % 2, a[0], a[1]),
    "one number a row": lambda a: a[:, :1],
}


def vectors(*, wider: bool = True) -> Door:
    """(n, D) embeddings, compared by cosine."""
    return Door(
        MEMORY | FLOATS | TABLE | EXTREMES | MIXED,
        NO_NUMBERS | SHAPES | PACKED | NOT_FINITE | (WIDER if wider else {}),
        DEGENERATE,
    )


def queries() -> Door:
    """As :func:`vectors`, and one vector alone is a query."""
    return vectors().but("one axis", same={"one vector": (lambda a: a[2], _plain_first(2))})


def _plain_first(row: int) -> Callable:
    """A single vector has the answer of that vector in a list: the first axis is left out."""
    return lambda a: a[row : row + 1]


def values() -> Door:
    """(n,) numbers, such as scores."""
    return Door(
        MEMORY | FLOATS,
        NO_NUMBERS
        | {
            "another length": (lambda a: a[:-1], WrongValue, r"\(\d+,\)"),
            "two axes": (lambda a: a[None], WrongValue, r"\(1, \d+\)"),
            "NaN in row 5": (lambda a: _with(a, 5, np.nan), WrongValue, "row 5"),
            "inf in row 5": (lambda a: _with(a, 5, np.inf), WrongValue, "row 5"),
        },
        {"all equal": np.ones_like, "all zero": np.zeros_like},
    ).but("ragged")


def codes() -> Door:
    """(n, D) whole numbers of 8 bits."""
    return Door(
        MEMORY
        | TABLE
        | {"int64": (lambda a: a.astype(np.int64), _plain)}
        | {"float32": (lambda a: a.astype(np.float32), _plain)},
        NO_NUMBERS | SHAPES | PACKED,
        {name: case for name, case in DEGENERATE.items() if name != "one number a row"},
    )


# -------------------------------------------------------------------------------------- tensors


def _torch_16(kind: torch.dtype, largest: float, back: float) -> tuple[Callable, Callable]:
    def made(t: torch.Tensor) -> torch.Tensor:
        return (t.double() / t.abs().max() * largest).to(kind)

    return made, lambda t: (made(t).double() * back).float()


def _torch_mixed(t: torch.Tensor) -> torch.Tensor:
    return t * (10.0 ** torch.linspace(-18, 18, len(t)))[:, None]


def _torch_wide(t: torch.Tensor) -> torch.Tensor:
    wide = torch.full((2 * len(t), 2 * t.shape[1]), 99.0)
    wide[::2, ::2] = t
    return wide[::2, ::2]


TENSOR_MEMORY = {
    "column-major": (lambda t: t.T.contiguous().T, _plain),
    "not contiguous": (_torch_wide, _plain),
    "tensor with gradient": (lambda t: t.clone().requires_grad_(), _plain),
    "float64": (lambda t: t.double(), _plain),
}
TENSOR_SCALE = {
    "x 1e-15": (lambda t: t * 1e-15, _plain),
    "x 1e-22": (lambda t: t * 1e-22, _plain),
    "x 1e30": (lambda t: t * 1e30, _plain),
    "mixed lengths": (_torch_mixed, _plain),
    "float16": _torch_16(torch.float16, 2.0, 1),
    "bfloat16": _torch_16(torch.bfloat16, 2.0, 1),
    "float16 near its largest": _torch_16(torch.float16, 6e4, 1e-4),
    "float16 near its smallest": _torch_16(torch.float16, 6e-6, 1e5),
    "bfloat16 near its largest": _torch_16(torch.bfloat16, 3e38, 1e-38),
    "bfloat16 near its smallest": _torch_16(torch.bfloat16, 2e-37, 1e37),
}
TENSOR_WRONG = {
    "array": (lambda t: t.numpy(), WrongKind, "tensor.*ndarray|tensor"),
    "list": (lambda t: t.tolist(), WrongKind, "tensor.*list|tensor"),
    "whole numbers": (lambda t: t.long(), WrongKind, "int64"),
    "booleans": (lambda t: t > 0, WrongKind, "bool"),
    "complex": (lambda t: t.to(torch.complex64), WrongKind, "complex64"),
    "None": (lambda t: None, WrongKind, "None"),
}
TENSOR_SHAPES = {
    "one axis": (lambda t: t[0], WrongValue, r"\(8,\)"),
    "three axes": (lambda t: t[None], WrongValue, r"\(1, \d+, 8\)"),
    "no rows": (lambda t: t[:0], WrongValue, r"\(0, 8\)"),
    "no numbers in a row": (lambda t: t[:, :0], WrongValue, r"\(\d+, 0\)"),
    "another model's size": (lambda t: torch.cat([t, t], 1), WrongValue, r"\b16\b"),
}
TENSOR_NOT_FINITE = {
    "NaN in row 5": (lambda t: _with(t, (5, 1), torch.nan), WrongValue, "row 5"),
    "inf in row 5": (lambda t: _with(t, (5, 1), torch.inf), WrongValue, "row 5"),
}


def tensors() -> Door:
    """(n, D) float tensors of a loss, compared by cosine."""
    return Door(
        TENSOR_MEMORY | TENSOR_SCALE,
        TENSOR_WRONG | TENSOR_SHAPES | TENSOR_NOT_FINITE,
        {
            "all rows equal": lambda t: t[:1].expand(len(t), -1),
            "all zero": torch.zeros_like,
            "a zero row": lambda t: _with(t, 3, 0.0),
        },
    )


# -------------------------------------------------------- counts, numbers, sizes, rows and labels


def count(least: int = 1, most: int | None = None, *, none: bool = False) -> Door:
    """An integer."""
    same = {
        "np.int64": (np.int64, _plain),
        "np.uint16": (np.uint16, _plain),
        "0-d array": (lambda n: np.array(n), _plain),
        "0-d tensor": (lambda n: torch.tensor(n), _plain),
    }
    wrong = {
        "True": (lambda n: True, WrongKind, "True"),
        "np.True_": (lambda n: np.True_, WrongKind, "True"),
        "2.0": (lambda n: 2.0, WrongKind, r"2\.0"),
        "np.float32(2)": (lambda n: np.float32(2), WrongKind, r"2\.0"),
        "'3'": (lambda n: "3", WrongKind, "'3'"),
        "a list": (lambda n: [3], WrongKind, r"\[3\]"),
        "NaN": (lambda n: float("nan"), WrongKind, "nan"),
        "too small": (lambda n: least - 1, WrongValue, rf"{least - 1}\b"),
        "negative": (lambda n: np.int64(-7), WrongValue, "-7"),
    }
    if not none:
        wrong["None"] = (lambda n: None, WrongKind, "None")
    if most is not None:
        wrong["too large"] = (lambda n: most + 1, WrongValue, rf"\b{most + 1}\b")
    return Door(same, wrong)


def seed() -> Door:
    """A seed."""
    return count(0, 2**32 - 1)


def number(*, low: float | None = None, high: float | None = None, none: bool = False) -> Door:
    """A real number; ``low`` and ``high`` are just outside its limits."""
    same = {
        "np.float64": (np.float64, _plain),
        "0-d array": (lambda x: np.array(float(x)), _plain),
        "0-d tensor": (lambda x: torch.tensor(float(x), dtype=torch.float64), _plain),
        "big-endian": (lambda x: np.array([x], ">f8")[0], _plain),
    }
    wrong = {
        "True": (lambda x: True, WrongKind, "True"),
        "'2'": (lambda x: "2", WrongKind, "'2'"),
        "a list": (lambda x: [2.0], WrongKind, r"\[2\.0\]"),
        "complex": (lambda x: 1j, WrongKind, "1j"),
        "NaN": (lambda x: np.float32("nan"), WrongValue, "nan"),
        "inf": (lambda x: float("inf"), WrongValue, "inf"),
        "too large for a float": (lambda x: 10**400, WrongValue, "inf"),
    }
    if not none:
        wrong["None"] = (lambda x: None, WrongKind, "None")
    for name, value in {"too small": low, "too large": high}.items():
        if value is not None:
            wrong[name] = (lambda x, value=value: value, WrongValue, re.escape(f"{value}"))
    return Door(same, wrong)


INTEGERS = {
    "tuple": (tuple, _plain),
    "int64 array": (np.array, _plain),
    "uint8 array": (lambda v: np.array(v, np.uint8), _plain),
    "big-endian array": (lambda v: np.array(v, ">i4"), _plain),
    "negative strides": (lambda v: np.array(v[::-1])[::-1], _plain),
    "tensor": (torch.tensor, _plain),
    "list of np.int32": (lambda v: list(map(np.int32, v)), _plain),
}


def _second(value: Any) -> Callable:
    return lambda v: [v[0], value, *v[2:]]


NO_INTEGERS = {
    "a float": (_second(1.0), WrongKind, r"1\.0"),
    "a boolean": (_second(True), WrongKind, "True"),
    "a string": (_second("1"), WrongKind, "'1'"),
    "None in place of one": (_second(None), WrongKind, "None"),
    "float array": (lambda v: np.array(v, float), WrongKind, r"\d\.0"),
    "None": (lambda v: None, WrongKind, "None"),
    "a text": (lambda v: "12", WrongKind, "'12'"),
    "one number": (lambda v: 3, WrongKind, "3"),
    "negative": (_second(-1), WrongValue, "-1"),
    "too large": (_second(10**6), WrongValue, "1000000"),
    "twice": (lambda v: [v[0], v[0], *v[2:]], WrongValue, "twice|more than once"),
    "none at all": (lambda v: [], WrongValue, ""),
}


def dims(*, none: bool = False) -> Door:
    """Prefix sizes."""
    wrong = NO_INTEGERS | {
        "zero": (_second(0), WrongValue, r"\b0\b"),
        "a mapping": (lambda v: dict.fromkeys(v, 1), WrongKind, r"\{"),
    }
    door = Door(INTEGERS, wrong)
    return door.but("None") if none else door


def rows() -> Door:
    """Different row numbers."""
    return Door(
        INTEGERS,
        NO_INTEGERS
        | {
            "a mask": (lambda v: np.arange(12) < 3, WrongKind, "True"),
            "a mapping": (lambda v: dict.fromkeys(v, 1), WrongKind, r"\{"),
        },
    )


def relevant() -> Door:
    """For each of 6 queries its rows among 24."""
    judged = lambda v: {q: {row: 1, (row + 1) % 24: 0} for q, row in enumerate(v)}  # noqa: E731
    one_hot = lambda v: np.eye(24, dtype=int)[v]  # noqa: E731
    return Door(
        INTEGERS
        | {
            "a list for each query": (lambda v: [[row] for row in v], _plain),
            "a set for each query": (lambda v: [{row} for row in v], _plain),
            "an array for each query": (lambda v: np.array(v)[:, None], _plain),
            "mapping to rows": (lambda v: {q: [row] for q, row in enumerate(v)}, _plain),
            "judgements with grades": (judged, _plain),
            "judgements in another order": (
                lambda v: dict(reversed(judged(v).items())),
                _plain,
            ),
        },
        {
            name: case
            for name, case in NO_INTEGERS.items()
            if name not in ("twice", "none at all", "a text")
        }
        | {
            "a text": (lambda v: "123456", WrongKind, "'123456'"),
            "one short": (lambda v: v[:-1], WrongValue, "5"),
            "none at all": (lambda v: [], WrongValue, "0"),
            "a query without answer": (_second([]), WrongValue, "query 1"),
            "twice": (_second([3, 3]), WrongValue, "3 twice"),
            "matrix of zeros and ones": (one_hot, WrongKind, "6 x 24"),
            "matrix of booleans": (lambda v: one_hot(v) > 0, WrongKind, "6 x 24"),
            "string ids": (lambda v: [f"d{row}" for row in v], WrongKind, "'d"),
            "a query is missing": (
                lambda v: {q: r for q, r in judged(v).items() if q},
                WrongValue,
                "5",
            ),
            "string queries": (
                lambda v: {f"q{q}": r for q, r in judged(v).items()},
                WrongKind,
                "'q0'",
            ),
            "a set of rows": (lambda v: {1, 2, 3, 4, 5, 6}, WrongKind, "set"),
            "row and grade": (_second((2, 1)), WrongValue, r"\(2, 1\)"),
        },
    )


def labels(*, length: bool = True) -> Door:
    """One label for each row."""
    names = lambda v: [f"group {x}" for x in v]  # noqa: E731
    wrong = {
        "a float": (_second(1.0), WrongKind, r"1\.0"),
        "a boolean": (_second(True), WrongKind, "True"),
        "mixed": (_second("1"), WrongKind, "'1'"),
        "None in place of one": (_second(None), WrongKind, "None"),
        "float array": (lambda v: np.array(v, float), WrongKind, r"\d\.0"),
        "NaN": (lambda v: np.array([*v[1:], np.nan]), WrongKind, r"\d\.0"),
        "None": (lambda v: None, WrongKind, "None"),
        "a text": (lambda v: "a" * len(v), WrongKind, "'a"),
        "one number": (lambda v: 3, WrongKind, "3"),
        "none at all": (lambda v: [], WrongValue, "0|at least one"),
    }
    if length:
        wrong["one short"] = (lambda v: v[:-1], WrongValue, r"\d")
    return Door(
        INTEGERS
        | {
            "strings": (names, _plain),
            "array of strings": (lambda v: np.array(names(v)), _plain),
            "Series": (pd.Series, _plain),
            "negative ones": (lambda v: [x - 7 for x in v], _plain),
        },
        wrong,
    )


def weights(*, training: bool = False) -> Door:
    """A weight for each of the prefixes."""
    wrong = {
        "a string": (_second("1"), WrongKind, "'1'"),
        "a boolean": (_second(True), WrongKind, "True"),
        "negative": (_second(-0.5), WrongValue, r"-0\.5"),
        "NaN": (_second(float("nan")), WrongValue, "nan"),
        "inf": (_second(float("inf")), WrongValue, "inf"),
        "one short": (lambda v: v[:-1], WrongValue, "got"),
        "one number": (lambda v: 1.0, WrongKind, r"1\.0"),
        "a text": (lambda v: "111", WrongKind, "'111'"),
        "a mapping": (lambda v: dict(enumerate(v)), WrongKind, r"\{"),
    }
    if training:
        wrong["all zero"] = (lambda v: [0.0] * len(v), WrongValue, "all 0")
    return Door(
        {
            "tuple": (tuple, _plain),
            "array": (np.array, _plain),
            "big-endian array": (lambda v: np.array(v, ">f8"), _plain),
            "tensor": (lambda v: torch.tensor(v, dtype=torch.float64), _plain),
            "float32 scalars": (lambda v: list(map(np.float32, v)), _plain),
        },
        wrong,
    )


def texts() -> Door:
    """A list of strings."""
    return Door(
        {
            "tuple": (tuple, _plain),
            "array": (np.array, _plain),
            "Series": (pd.Series, _plain),
            "generator": (iter, _plain),
        },
        {
            "one string": (lambda v: "one", WrongKind, "'one'"),
            "a number": (_second(7), WrongKind, "7"),
            "None in place of one": (_second(None), WrongKind, "None"),
            "bytes": (_second(b"two"), WrongKind, "b'two'"),
            "None": (lambda v: None, WrongKind, "None"),
            "half a character": (_second("\ud800"), WrongValue, r"\[1\]"),
            "a table": (lambda v: pd.DataFrame({"text": v}), WrongKind, "table"),
        },
    )


# -------------------------------------------------------------------------------- the small calls

_rng = np.random.default_rng(14)
_FALL = np.float32(0.85) ** np.arange(8, dtype=np.float32)  # the first numbers are the largest


def _normal(n: int) -> np.ndarray:
    return (_rng.normal(size=(n, 8)) * _FALL).astype(np.float32)


CORPUS, OTHER, QUERIES, MANY, FITTED = (_normal(n) for n in (24, 24, 6, 48, 64))
NARROW = FITTED * _FALL**6  # so that a head can tell its model from others
STORE = np.random.default_rng(16).normal(size=(120, 8)).astype(np.float32) * _FALL
GROUPS = [0, 1, 2] * 8
CLUSTERS = (CORPUS * np.float32(0.1) + 2 * np.eye(8, dtype=np.float32)[GROUPS]).astype(np.float32)
SCORES = _rng.normal(size=24).astype(np.float32)
RELEVANT = [3, 1, 20, 7, 5, 11]
INT8 = np.rint(CORPUS / np.abs(CORPUS).max() * 127).astype(np.int8)
ANCHORS, CANDIDATES = torch.from_numpy(QUERIES), torch.from_numpy(_normal(9))
TARGETS = torch.from_numpy(_rng.dirichlet(np.ones(9), 6).astype(np.float32))
LEFT_OUT = torch.eye(6, 9).flip(1) > 0
LOGITS = torch.from_numpy(_rng.normal(size=(3, 12, 4)).astype(np.float32))
CLASSES = torch.from_numpy(_rng.integers(0, 4, 12))
CONFIDENCE = _rng.uniform(0.2, 1, (3, 12)).astype(np.float32)
RIGHT = _rng.uniform(size=(3, 12)) < np.array([[0.4], [0.6], [0.9]])
DIMS = [2, 4, 8]
WORDS = "red green blue small large old new warm cold round flat soft".split()
TRIPLETS = [(f"a {w} thing", f"some {w} thing", f"no {w} box") for w in WORDS]
TEXTS = [text for triplet in TRIPLETS for text in triplet]


@cache
def _tokenizer() -> Tokenizer:
    return models.train_tokenizer(TEXTS, 120)


def _static() -> Any:
    return models.build_static_model(TEXTS, 8, tokenizer=_tokenizer())


@cache
def _head() -> retrofit.Head:
    return retrofit.fit_head(NARROW, DIMS, steps=2, progress=False)


def _fitted(embeddings: Any, **settings: Any) -> np.ndarray:
    return retrofit.fit_head(embeddings, progress=False, **settings).weight


def _exported(dim: Any) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        return np.load(_head().export(f"{folder}/map.npy", dim))


def _index(run: Callable, dim: int = 8, prefix: int = 4) -> Any:
    with engines.SqliteIndex(":memory:", dim, prefix) as index:
        return run(index)


def _added(emb: Any, ids: Any) -> Any:
    def run(index: engines.SqliteIndex) -> Any:
        index.add(emb, ids)
        return index.exact(QUERIES, min(5, len(index)))

    return _index(run)


def _searched(method: str, **arguments: Any) -> Any:
    def run(index: engines.SqliteIndex) -> Any:
        index.add(CORPUS)
        return getattr(index, method)(**arguments)

    return _index(run)


def _classifier(**changed: Any) -> classification.NestedClassifier:
    settings: dict[str, Any] = {"dim": 8, "num_classes": 4, "dims": DIMS} | changed
    generator = torch.Generator().manual_seed(0)
    return classification.NestedClassifier(**settings, generator=generator)


def _axes() -> Axes:
    return Figure().subplots()


def _trained(**settings: Any) -> Any:
    return training.train(_static(), progress=False, **settings)


def _history() -> training.History:
    table = np.linspace(3, 1, 24, dtype=np.float32).reshape(8, 3)
    return training.History(DIMS, table, 0.1)


def _truncated(emb: Any, dim: int) -> Any:
    cut = search.truncate(emb, dim)
    return cut if cut.ndim == 2 else cut[None]


CORPUS_OR_INDEX = vectors().but(
    "another model's size",
    same={"PrefixIndex": (lambda a: ranking.PrefixIndex(a, [4, 8]), _plain)},
)
_TOP = {"top_k": count(most=24)}
_SEARCHED = {"queries": queries(), "corpus": CORPUS_OR_INDEX, **_TOP}
_RESULTS = {"queries": QUERIES, "corpus": CORPUS, "top_k": 5}
_LOSS = {"anchors": ANCHORS, "candidates": CANDIDATES, "scale": 20.0}
_LOSS_DOORS = {"anchors": tensors(), "candidates": tensors(), "scale": number(low=0)}
_NESTED = _LOSS | {"dims": DIMS, "weights": [1.0, 0.5, 2.0]}
_NESTED_DOORS = _LOSS_DOORS | {"dims": dims(), "weights": weights()}
_PAGE = {"query": QUERIES[0], "codes": INT8}
_QUERY = Door(
    MEMORY | FLOATS,
    NO_NUMBERS
    | {
        "two axes": (lambda a: a[None], WrongValue, r"\(1, 8\)"),
        "another size": (lambda a: a[:5], WrongValue, r"\(5,\)"),
        "NaN": (lambda a: _with(a, 1, np.nan), WrongValue, "nan"),
        "inf": (lambda a: _with(a, 1, np.inf), WrongValue, "inf"),
    },
    {"all zero": np.zeros_like, "all equal": np.ones_like},
).but("ragged")
_RANKED_QUERY = _QUERY.but(same=EXTREMES)  # whose order does not depend on its length
_PAGE_DOORS = {"query": _RANKED_QUERY, "codes": codes()}
_BOOLS = Door(
    {
        "read-only": (_read_only, _plain),
        "negative strides": (_backwards, _plain),
        "Fortran order": (np.asfortranarray, _plain),
        "not contiguous": (_strided, _plain),
        "nested list": (lambda a: a.tolist(), _plain),
        "tensor": (lambda a: torch.from_numpy(a.copy()), _plain),
        "DataFrame": (pd.DataFrame, _plain),
    },
    {
        "zeros and ones": (lambda a: a.astype(int), WrongKind, "int64"),
        "strings": (lambda a: a.astype(str), WrongKind, "<U"),
        "objects": (lambda a: a.astype(object), WrongKind, "object"),
        "one axis": (lambda a: a[0], WrongValue, r"\(12,\)"),
        "three axes": (lambda a: a[None], WrongValue, r"\(1, 3, 12\)"),
        "no examples": (lambda a: a[:, :0], WrongValue, r"\(3, 0\)"),
        "ragged": (lambda a: [[True], [True, False]], WrongKind, ""),
        "a hidden value": (_hidden, WrongKind, "masked"),
    },
    {"never right": np.zeros_like, "always right": np.ones_like},
)
_CONFIDENCE = Door(
    MEMORY | FLOATS | TABLE,
    NO_NUMBERS | SHAPES | {"NaN": (lambda a: _with(a, (1, 5), np.nan), WrongValue, "NaN|nan")},
    {"all equal": np.ones_like},
)
_SIZES = dims().but("too large")
_TARGETS = Door(
    TENSOR_MEMORY,
    TENSOR_WRONG
    | {
        "another shape": (lambda t: t[:, :-1], WrongValue, r"\(6, 8\)"),
        "below 0": (lambda t: _with(t, (5, 1), -0.5), WrongValue, "probabilities"),
        "sums of 2": (lambda t: 2 * t, WrongValue, "sum to 1"),
        "NaN": (lambda t: _with(t, (5, 1), torch.nan), WrongValue, "probabilities|row 5"),
    },
).but("float64")
_LEFT_OUT = Door(
    {
        "not contiguous": (lambda t: t.T.contiguous().T, _plain),
    },
    {
        "array": (lambda t: t.numpy(), WrongKind, "left_out.*tensor"),
        "whole numbers": (lambda t: t.long(), WrongKind, "left_out.*int64"),
        "another shape": (lambda t: t[:, :-1], WrongValue, r"left_out.*\(6, 8\)"),
    },
)
_CLASS_LABELS = Door(
    {
        "int32": (lambda t: t.int(), _plain),
        "uint8": (lambda t: t.byte(), _plain),
        "not contiguous": (lambda t: torch.stack([t, t], 1)[:, 0], _plain),
    },
    {
        "array": (lambda t: t.numpy(), WrongKind, "tensor"),
        "list": (lambda t: t.tolist(), WrongKind, "tensor"),
        "floats": (lambda t: t.float(), WrongKind, "float32"),
        "booleans": (lambda t: t > 1, WrongKind, "bool"),
        "negative": (lambda t: _with(t, 5, -1), WrongValue, "-1"),
        "no class": (lambda t: _with(t, 5, 4), WrongValue, r"\b4\b"),
        "one short": (lambda t: t[:-1], WrongValue, r"\(11,\)"),
    },
)
_LOGITS = Door(
    {
        "not contiguous": (lambda t: t.permute(2, 1, 0).contiguous().permute(2, 1, 0), _plain),
        "tensor with gradient": (lambda t: t.clone().requires_grad_(), _plain),
        "float64": (lambda t: t.double(), _plain),
    },
    {
        "array": (lambda t: t.numpy(), WrongKind, "tensor"),
        "list": (lambda t: t.tolist(), WrongKind, "tensor"),
        "None": (lambda t: None, WrongKind, "tensor"),
        "whole numbers": (lambda t: t.long(), WrongKind, "int64"),
        "two axes": (lambda t: t[0], WrongValue, r"12, 4"),
        "no examples": (lambda t: t[:, :0], WrongValue, r"3, 0, 4"),
    },
    {"all equal": torch.zeros_like},
)
_TRIPLETS = Door(
    {
        "tuple": (tuple, _plain),
        "DataFrame": (lambda v: pd.DataFrame(v, columns=training.COLUMNS), _plain),
        "mapping": (
            lambda v: dict(zip(training.COLUMNS, zip(*v, strict=True), strict=True)),
            _plain,
        ),
        "lists": (lambda v: list(map(list, v)), _plain),
    },
    {
        "a text": (lambda v: "text", WrongKind, "str"),
        "None": (lambda v: None, WrongKind, "None"),
        "nothing": (lambda v: [], WrongValue, "at least one"),
        "texts in place of tuples": (lambda v: ["a", "b"], WrongValue, "tuples"),
        "a number": (_second(("a", 7, "b")), WrongKind, "positive in row 1.*7"),
        "a blank text": (_second(("a", " ", "b")), WrongValue, "positive in row 1"),
        "half a character": (_second(("a", "\ud800", "b")), WrongValue, "positive in row 1"),
        "a short row": (_second(("a", "b")), WrongValue, r"\[2, 3\]"),
        "no positives": (lambda v: pd.DataFrame({"anchor": ["a"]}), WrongValue, "positive"),
    },
)
_WAYS = planning.default_ways(8, 4, 10)
_PIECES = planning.Pieces({32: 1e10, 8: 1e10, 1: 1e10}, 1e4, 1e9)
_POSITIVE = number(low=0)


def _random(**arguments: Any) -> Any:
    emb1, emb2, scores = (arguments.pop(name) for name in ("emb1", "emb2", "labels"))
    function = evaluation.similarity_curve
    return evaluation.random_dims_curve(function, emb1, emb2, scores, **arguments)


CALLS: dict[str, Call] = {
    # ------------------------------------------------------------------------------- evaluation
    "evaluation.similarity_curve": Call(
        evaluation.similarity_curve,
        {"emb1": CORPUS, "emb2": OTHER, "scores": SCORES, "dims": DIMS},
        {"emb1": vectors(), "emb2": vectors(), "scores": values(), "dims": dims(none=True)},
    ),
    "evaluation.retrieval_curve": Call(
        evaluation.retrieval_curve,
        _RESULTS | {"relevant": RELEVANT, "dims": DIMS},
        {"queries": vectors(), "corpus": vectors(), "relevant": relevant()}
        | {"dims": dims(none=True), **_TOP},
    ),
    "evaluation.pca_rotation": Call(
        evaluation.pca_rotation,
        {"emb": FITTED},
        {"emb": vectors(wider=False).but(*MIXED)},  # long rows have more variance, rightly
        tolerance=1e-3,
    ),
    "evaluation.tempered_pca": Call(
        evaluation.tempered_pca,
        {"emb": FITTED, "dim": 4, "gamma": 0.5, "seed": 0},
        {
            "emb": vectors(wider=False).but(*MIXED),
            "dim": count(most=8),
            "gamma": number(low=-0.5, high=1.5, none=True),
            "seed": seed(),
        },
        tolerance=1e-3,
    ),
    "evaluation.random_dims_curve": Call(
        _random,
        {"emb1": CORPUS, "emb2": OTHER, "labels": SCORES, "dims": DIMS, "draws": 2, "seed": 0},
        {"emb1": vectors(), "emb2": vectors(), "labels": values(), "dims": dims(none=True)}
        | {"draws": count(), "seed": seed()},
    ),
    # ----------------------------------------------------------------------------------- search
    "search.truncate": Call(
        _truncated,
        {"emb": CORPUS, "dim": 4},
        {"emb": queries().but("another model's size", "sparse tensor"), "dim": count(most=8)},
    ),
    "search.exact_search": Call(
        search.exact_search,
        _RESULTS | {"dim": 4},
        _SEARCHED | {"dim": count(most=8, none=True)},
    ),
    "search.shortlist_rerank": Call(
        search.shortlist_rerank,
        _RESULTS | {"shortlist_dim": 4, "shortlist_size": 10},
        _SEARCHED | {"shortlist_dim": count(most=8), "shortlist_size": count(5)},
    ),
    "search.funnel_search": Call(
        search.funnel_search,
        _RESULTS | {"steps": [(4, 12), (6, 8)]},
        _SEARCHED
        | {
            "steps": Door(
                {
                    "tuple": (tuple, _plain),
                    "array": (np.array, _plain),
                    "big-endian array": (lambda v: np.array(v, ">i8"), _plain),
                    "tensor": (torch.tensor, _plain),
                },
                {
                    "floats": (lambda v: [(4.0, 12)], WrongKind, r"4\.0"),
                    "booleans": (lambda v: [(True, 12)], WrongKind, "True"),
                    "strings": (lambda v: [("4", 12)], WrongKind, "'4'"),
                    "one pair": (lambda v: (4, 12), WrongKind, "4"),
                    "three numbers": (lambda v: [(4, 12, 3)], WrongKind, "3"),
                    "no steps": (lambda v: [], WrongValue, "empty"),
                    "a mapping": (lambda v: dict(v), WrongKind, r"\{"),
                    "too many numbers": (lambda v: [(9, 12)], WrongValue, r"\b9\b"),
                    "too few rows": (lambda v: [(4, 3)], WrongValue, r"\b3\b"),
                    "dims that fall": (lambda v: [(6, 12), (4, 8)], WrongValue, "4 follows 6"),
                    "sizes that grow": (lambda v: [(4, 8), (6, 12)], WrongValue, "12"),
                },
            )
        },
    ),
    "search.rerank": Call(
        search.rerank,
        _RESULTS | {"candidates": np.arange(60).reshape(6, 10) % 24},
        _SEARCHED
        | {
            "queries": queries().but("one vector"),  # whose candidates have one axis too
            "top_k": count(most=10),
            "candidates": Door(
                {name: MEMORY[name] for name in MEMORY if name not in ("float64", "longdouble")}
                | {"uint8": (lambda a: a.astype(np.uint8), _plain), **TABLE},
                NO_NUMBERS
                | {
                    "floats": (lambda a: a.astype(float), WrongKind, "float64"),
                    "too large": (lambda a: _with(a, (5, 1), 24), WrongValue, r"\[5\].* 24 at"),
                    "negative": (lambda a: _with(a, (5, 1), -2), WrongValue, r"\[5\].*-2"),
                    "twice": (lambda a: _with(a, 5, 7), WrongValue, r"\[5\].*7 twice"),
                    "too few": (lambda a: _with(a, 5, -1), WrongValue, "query 5 has 0"),
                    "a row short": (lambda a: a[:-1], WrongValue, r"\(5, 10\)"),
                },
            ),
        },
    ),
    "search.tune_shortlist": Call(
        search.tune_shortlist,
        {"queries": MANY, "corpus": CORPUS, "target_recall": 0.9, "top_k": 3}
        | {"dims": [2, 4], "sizes": [3, 6, 12], "sample": 44, "seed": 0},
        _SEARCHED
        | {
            "queries": vectors().but("one axis"),
            "corpus": vectors().but("another model's size"),
            "target_recall": number(low=0, high=1.5),
            "dims": dims(none=True),
            "sizes": dims(none=True).but("twice"),
            "sample": count(40),
            "seed": seed(),
        },
    ),
    "ranking.PrefixIndex.__init__": Call(
        lambda **k: ranking.PrefixIndex(**k).prefix(4),
        {"corpus": CORPUS, "dims": [4, 6]},
        {
            "corpus": vectors(wider=False).but("one number a row"),
            "dims": Door(
                {**INTEGERS, "one size": (lambda v: v[0], _plain)},
                {**dims().wrong},
            ).but("one number"),
        },
    ),
    "ranking.PrefixIndex.prefix": Call(
        ranking.PrefixIndex(CORPUS, [4, 6]).prefix, {"dim": 4}, {"dim": count(most=8)}
    ),
    # ------------------------------------------------------------------------------- neighbours
    "neighbours.nearest_rows": Call(
        neighbours.nearest_rows,
        {"emb": CORPUS, "top_k": 5},
        {"emb": vectors(wider=False), "top_k": count(most=23)},
    ),
    "neighbours.neighbour_overlap": Call(
        neighbours.neighbour_overlap,
        {"emb": CORPUS, "reference": OTHER, "top_k": 5},
        {"emb": vectors(wider=False), "reference": vectors(wider=False), "top_k": count(most=23)},
    ),
    "neighbours.share_in_both": Call(
        neighbours.share_in_both,
        {"first": np.arange(12).reshape(4, 3), "second": np.arange(1, 13).reshape(4, 3)},
        dict.fromkeys(
            ("first", "second"),
            Door(
                {name: MEMORY[name] for name in MEMORY if name not in ("float64", "longdouble")}
                | TABLE,
                NO_NUMBERS
                | {
                    "floats": (lambda a: a.astype(float), WrongKind, "float64"),
                    "one row short": (lambda a: a[:-1], WrongValue, r"\(3, 3\)"),
                    "one axis": (lambda a: a[0], WrongValue, r"\(3,\)"),
                    "no rows": (lambda a: a[:0], WrongValue, r"\(0, 3\)"),
                },
            ),
        ),
    ),
    "neighbours.neighbour_agreement": Call(
        neighbours.neighbour_agreement,
        {"emb": CLUSTERS, "labels": GROUPS, "top_k": 5},
        {"emb": vectors(wider=False), "labels": labels(), "top_k": count(most=23)},
    ),
    "neighbours.score_clusters": Call(
        neighbours.score_clusters,
        {"clusters": [0, 1, 2, 2] * 6, "labels": GROUPS},
        {"clusters": labels(), "labels": labels()},
    ),
    "neighbours.cluster": Call(
        neighbours.cluster,
        {"emb": CLUSTERS, "groups": 3, "seed": 0, "restarts": 2},
        {"emb": vectors(wider=False), "groups": count(most=24), "seed": seed()}
        | {"restarts": count(most=1000)},
    ),
    "neighbours.cluster_scores": Call(
        neighbours.cluster_scores,
        {"emb": CLUSTERS, "labels": GROUPS, "groups": 3, "seed": 0, "restarts": 2},
        {"emb": vectors(wider=False), "labels": labels(), "groups": count(most=24, none=True)}
        | {"seed": seed(), "restarts": count(most=1000)},
    ),
    "neighbours.nested_clusters": Call(
        neighbours.nested_clusters,
        {"emb": CLUSTERS, "dims": [4, 8], "groups": [3, 2], "seed": 0},
        {
            "emb": vectors(wider=False),
            "dims": dims().but("twice"),
            "groups": dims().but("twice"),
            "seed": seed(),
        },
    ),
    "neighbours.align_picture": Call(
        neighbours.align_picture,
        {"picture": CORPUS[:, :2], "reference": OTHER[:, :2]},
        {
            "picture": vectors().but(
                *MIXED,
                "another model's size",
                wrong={"another shape": (lambda a: a[:, :1], WrongValue, r"\(24, 1\)")},
            ),
            "reference": Door(
                MEMORY | FLOATS | TABLE, NO_NUMBERS | SHAPES | PACKED | NOT_FINITE, DEGENERATE
            ),
        },
    ),
    "neighbours.kept_above_chance": Call(
        neighbours.kept_above_chance,
        {"score": 0.6, "full_score": 0.8, "chance": 0.2},
        {"score": number(), "full_score": number(low=0.125), "chance": number(high=0.9)},
    ),
    "neighbours.label_chance": Call(
        neighbours.label_chance, {"labels": GROUPS}, {"labels": labels(length=False)}
    ),
    "neighbours.recommend": Call(
        neighbours.recommend,
        {"emb": CORPUS, "liked": [3, 1, 7], "dim": 4, "top_k": 5},
        {
            "emb": vectors(wider=False),
            "liked": rows().but(same={"set": (set, _plain)}),
            "dim": count(most=8, none=True),
            "top_k": count(most=21),
        },
    ),
    # --------------------------------------------------------------------------------- retrofit
    "retrofit.Head.transform": Call(
        lambda **k: _head().transform(**k),
        {"emb": CORPUS, "dim": 4, "out": None},
        {
            "emb": vectors().but("one axis", "one number a row"),
            "dim": count(most=8, none=True),
            "out": Door(
                {},
                {
                    "float64": (lambda _: np.empty((24, 4)), WrongValue, "float64"),
                    "another shape": (
                        lambda _: np.empty((24, 8), np.float32),
                        WrongValue,
                        r"\(24, 8\)",
                    ),
                    "a list": (lambda _: [[0.0]], WrongKind, "out.*list"),
                    "a tensor": (lambda _: torch.empty(24, 4), WrongKind, "out.*Tensor"),
                },
            ),
        },
        tolerance=1e-4,
    ),
    "retrofit.Head.agreement": Call(
        lambda **k: _head().agreement(**k),
        {"emb": NARROW},
        {"emb": vectors().but("one number a row", "all zero")},
        tolerance=1e-4,
    ),
    "retrofit.Head.transform_blocks": Call(
        lambda blocks, dim: np.concatenate(list(_head().transform_blocks([blocks], dim))),
        {"blocks": CORPUS, "dim": 4},
        {"blocks": vectors().but("one number a row"), "dim": count(most=8, none=True)},
        tolerance=1e-4,
    ),
    "retrofit.Head.report_on": Call(
        lambda **k: _head().report_on(**k).table[["overlap", "lost"]].to_numpy(),
        {"vectors": NARROW, "pairs": FITTED, "seed": 0},
        {"vectors": vectors(), "pairs": vectors().but("None"), "seed": seed()},
    ),
    "retrofit.Head.suggest": Call(
        lambda **k: _head().suggest(**k).table[["recall", "checked"]].to_numpy(),
        {"vectors": STORE, "recall": 0.9, "top_k": 5, "rerank": 20},
        {
            "vectors": vectors().but("None"),
            "recall": number(low=0, high=1.5),
            "top_k": count(most=60),
            "rerank": count(0, 60, none=True),
        },
    ),
    "retrofit.Head.export": Call(
        _exported, {"dim": 4}, {"dim": count(most=8, none=True)}, tolerance=1e-4
    ),
    "retrofit.Report.overlap": Call(lambda k: _head().report.overlap(k), {"k": 4}, {"k": count()}),
    "retrofit.Suggestion.at": Call(
        lambda **k: _head().suggest(vectors=STORE).at(**k).bytes,
        {"size": 16, "shortlist": 0},
        {"size": count(), "shortlist": count(0)},
    ),
    "retrofit.fit_head": Call(
        _fitted,
        {"embeddings": FITTED, "dims": DIMS, "steps": 2, "batch_size": 16, "lr": 3e-3}
        | {"perplexity": 5.0, "weights": [1.0, 0.5, 2.0], "label_share": 0.0, "turned": 8}
        | {"held_out": 24, "seed": 0},
        {
            "embeddings": vectors(wider=False).but("list of tensors"),
            "dims": dims(none=True),
            "steps": count(),
            "batch_size": count(2),
            "lr": number(low=0),
            "perplexity": number(low=1),
            "turned": count(0, 8, none=True),
            "weights": weights(training=True),
            "label_share": number(low=-0.5, high=1.5),
            "held_out": number(low=0, high=60, none=True),
            "seed": seed(),
        },
        tolerance=2e-2,
    ),
    "retrofit.cayley": Call(
        retrofit.cayley,
        {"free": torch.from_numpy(CORPUS[:8])},
        {
            "free": Door(
                TENSOR_MEMORY,
                TENSOR_WRONG
                | {
                    "not square": (lambda t: t[:5], WrongValue, r"\(5, 8\)"),
                    "one axis": (lambda t: t[0], WrongValue, r"\(8,\)"),
                },
            )
        },
    ),
    # ----------------------------------------------------------------------------------- losses
    "losses.info_nce": Call(losses.info_nce, _LOSS, _LOSS_DOORS),
    "losses.matryoshka_info_nce": Call(losses.matryoshka_info_nce, _NESTED, _NESTED_DOORS),
    "losses.nested_info_nce": Call(losses.nested_info_nce, _NESTED, _NESTED_DOORS),
    "losses.similarity_softmax": Call(
        losses.similarity_softmax,
        _LOSS | {"left_out": LEFT_OUT},
        _LOSS_DOORS | {"left_out": _LEFT_OUT},
    ),
    "losses.nested_distillation": Call(
        losses.nested_distillation,
        _NESTED | {"targets": TARGETS, "left_out": None},
        _NESTED_DOORS
        | {
            "anchors": tensors().but("no rows"),
            "candidates": tensors().but("no rows"),
            "targets": _TARGETS,
            "left_out": Door(
                wrong={
                    name: (lambda _, f=f: f(LEFT_OUT), error, words)
                    for name, (f, error, words) in _LEFT_OUT.wrong.items()
                }
            ),
        },
    ),
    # --------------------------------------------------------------------------- classification
    "classification.NestedClassifier.__init__": Call(
        _classifier,
        {"dim": 8, "num_classes": 4, "dims": DIMS},
        {"dim": count(8), "num_classes": count(), "dims": dims()},
    ),
    "classification.NestedClassifier.forward": Call(
        lambda emb: _classifier()(emb),
        {"emb": ANCHORS},
        {"emb": Door(TENSOR_MEMORY, TENSOR_WRONG | TENSOR_SHAPES).but("float64", "no rows")},
    ),
    "classification.NestedClassifier.head": Call(
        lambda k: _classifier().head(k), {"k": 4}, {"k": count(most=8)}
    ),
    "classification.nested_cross_entropy": Call(
        classification.nested_cross_entropy,
        {"logits": LOGITS, "labels": CLASSES, "weights": [1.0, 0.5, 2.0]},
        {"logits": _LOGITS, "labels": _CLASS_LABELS, "weights": weights()},
    ),
    "classification.confidence_and_right": Call(
        classification.confidence_and_right,
        {"logits": LOGITS, "labels": CLASSES},
        {"logits": _LOGITS, "labels": _CLASS_LABELS},
    ),
    "classification.tune_thresholds": Call(
        classification.tune_thresholds,
        {"confidence": CONFIDENCE, "right": RIGHT, "slack": 0.1},
        {"confidence": _CONFIDENCE, "right": _BOOLS, "slack": number(low=-0.5, high=1.5)},
    ),
    "classification.cascade_stops": Call(
        classification.cascade_stops,
        {"confidence": CONFIDENCE, "thresholds": np.array([0.9, 0.6, 0.0], np.float32)},
        {
            "confidence": _CONFIDENCE,
            "thresholds": Door(
                MEMORY | FLOATS,
                NO_NUMBERS
                | {
                    "one short": (lambda a: a[:-1], WrongValue, "0.6"),
                    "NaN": (lambda a: _with(a, 1, np.nan), WrongValue, "nan"),
                },
            ).but("ragged", "float16", "bfloat16", "int16"),
        },
    ),
    "classification.cascade_score": Call(
        classification.cascade_score,
        {"stops": [0, 1, 2] * 4, "right": RIGHT, "dims": DIMS},
        {
            "stops": rows().but(
                "twice",
                "none at all",
                "a mask",
                wrong={"float array": (lambda v: np.array(v, float), WrongKind, "float64")},
            ),
            "right": _BOOLS,
            "dims": _SIZES,
        },
    ),
    "classification.oracle_score": Call(
        classification.oracle_score,
        {"right": RIGHT, "dims": DIMS},
        {"right": _BOOLS, "dims": _SIZES},
    ),
    # ------------------------------------------------------------------------ costs and planning
    "costs.vector_bytes": Call(
        costs.vector_bytes, {"dim": 100, "bits": 8}, {"dim": count(), "bits": count()}
    ),
    "costs.search_cost": Call(
        costs.search_cost,
        {"n": 1000, "full_dim": 100, "dim": 20, "shortlist_size": 10, "bits": 8, "full_bits": 32},
        {"n": count(), "full_dim": count(), "dim": count(most=100, none=True)}
        | {"shortlist_size": count(0), "bits": count(), "full_bits": count()},
    ),
    "costs.time_calls": Call(
        lambda **k: costs.time_calls(int, **k).runs,
        {"runs": 3, "warmup": 1},
        {"runs": count(), "warmup": count(0)},
    ),
    "planning.default_ways": Call(
        planning.default_ways,
        {"full_dim": 100, "dim": 20, "shortlist_size": 10},
        {"full_dim": count(2), "dim": count(most=100), "shortlist_size": count()},
    ),
    "planning.machines_needed": Call(
        planning.machines_needed,
        {"memory": 10.0, "ram": 3.0},
        {"memory": _POSITIVE, "ram": _POSITIVE},
    ),
    "planning.scan_seconds": Call(
        planning.scan_seconds,
        {"memory": 10.0, "rate": 3.0, "machines": 2},
        {"memory": _POSITIVE, "rate": _POSITIVE, "machines": count()},
    ),
    "planning.encode_hours": Call(
        planning.encode_hours,
        {"texts": 10.0, "texts_per_second": 3.0, "processes": 2},
        {"texts": _POSITIVE, "texts_per_second": _POSITIVE, "processes": count()},
    ),
    "planning.copies_needed": Call(
        planning.copies_needed,
        {"queries_per_second": 10.0, "seconds_per_query": 3.0},
        {"queries_per_second": _POSITIVE, "seconds_per_query": _POSITIVE},
    ),
    "planning.plan": Call(
        lambda **k: planning.plan(pieces=_PIECES, **k),
        {"n": 1000, "full_dim": 8, "ways": _WAYS, "rates_of_ways": {_WAYS[0].name: 2e9}},
        {
            "n": count(),
            "full_dim": count(8),
            "ways": Door(
                {"tuple": (tuple, _plain), "generator": (iter, _plain)},
                {
                    "one way": (lambda v: v[0], WrongKind, "Way"),
                    "a name": (_second("int8"), WrongKind, "'int8' at place 1"),
                    "none": (lambda v: [], WrongValue, "empty"),
                    "twice": (lambda v: [v[0], v[0]], WrongValue, "name"),
                },
            ),
            "rates_of_ways": Door(
                {"np.float32": (lambda v: {k: np.float32(x) for k, x in v.items()}, _plain)},
                {
                    "a string": (lambda v: dict.fromkeys(v, "2"), WrongKind, "'2'"),
                    "zero": (lambda v: dict.fromkeys(v, 0), WrongValue, "0"),
                    "an unknown way": (lambda v: {"x": 1.0}, WrongValue, "'x'"),
                    "NaN": (lambda v: dict.fromkeys(v, float("nan")), WrongValue, "nan"),
                },
            ),
        },
    ),
    # ------------------------------------------------------------------------------------ plots
    "plots.plot_picture": Call(
        lambda **k: plots.plot_picture(ax=_axes(), **k),
        {"points": CORPUS[:, :2], "labels": list(map(str, GROUPS)), "show": ["1", "2"]},
        {
            "points": Door(MEMORY | FLOATS | TABLE, NO_NUMBERS | SHAPES | NOT_FINITE, DEGENERATE),
            "labels": Door(
                {"tuple": (tuple, _plain), "array": (np.array, _plain)}
                | {"Series": (pd.Series, _plain), "ints": (lambda v: list(map(int, v)), _plain)},
                {"one short": (lambda v: v[:-1], WrongValue, r"\(23,\)")},
            ),
            "show": Door(
                {"tuple": (tuple, _plain), "array": (np.array, _plain)},
                {
                    "an unknown group": (_second("9"), WrongValue, "'9'"),
                    "eight groups": (lambda v: ["1"] * 8, WrongValue, "8"),
                },
            ),
        },
    ),
    "plots.plot_history": Call(
        lambda smooth: plots.plot_history(_history(), _axes(), smooth),
        {"smooth": 2},
        {"smooth": count()},
    ),
    "plots.plot_grid": Call(
        lambda **k: plots.plot_grid(ax=_axes(), **k),
        {"scores": CORPUS[:3, :2], "rows": [1, 2, 3], "columns": [4, 8], "low": -1.0, "high": 1.0},
        {
            "scores": Door(
                MEMORY | FLOATS | TABLE,
                NO_NUMBERS
                | {
                    "one axis": (lambda a: a[0], WrongValue, r"\(2,\)"),
                    "a row short": (lambda a: a[:-1], WrongValue, r"\(2, 2\)"),
                },
                {"all equal": np.ones_like},
            ),
            "rows": Door(INTEGERS, {"one short": (lambda v: v[:-1], WrongValue, r"\(2, 2\)")}),
            "columns": Door(INTEGERS, {"one short": (lambda v: v[:-1], WrongValue, r"\(3, 1\)")}),
            "low": number(none=True),
            "high": number(none=True),
        },
    ),
    "plots.k_axis": Call(
        lambda sizes: plots.k_axis(ax := _axes(), sizes) or ax.xaxis.get_majorticklocs(),
        {"sizes": [4, 8, 32]},
        {
            "sizes": Door(INTEGERS | {"Series": (pd.Series, _plain)}, NO_INTEGERS).but(
                "too large", "twice"
            )
        },
    ),
    # ---------------------------------------------------------------------------------- engines
    "engines.SqliteIndex.__init__": Call(
        lambda dim, prefix: _index(lambda index: (index.dim, index.prefix), dim, prefix),
        {"dim": 8, "prefix": 4},
        {"dim": count(4), "prefix": count(most=8)},
    ),
    "engines.SqliteIndex.add": Call(
        _added,
        {"emb": CORPUS, "ids": list(range(100, 124))},
        {
            "emb": vectors().but("one row", "one number a row"),
            "ids": rows()
            .but(
                "too large",
                wrong={
                    "too large": (
                        lambda v: np.array([*v[1:], 2**63], np.uint64),
                        WrongValue,
                        "9223372036854775808 at place 23",
                    ),
                    "a mask": (lambda v: np.ones(24, bool), WrongKind, "bool"),
                    "a float": (_second(1.5), WrongKind, r"1\.5"),
                    "float array": (lambda v: np.array(v) + 0.5, WrongKind, r"\d\.5"),
                    "one number": (lambda v: 3, WrongValue, r"\(\)"),
                    "none at all": (lambda v: [], WrongKind, r"\[\]"),
                    "one short": (lambda v: v[:-1], WrongValue, r"\(23,\)"),
                },
            )
            .but("None"),
        },
        tolerance=1e-4,
    ),
    "engines.SqliteIndex.exact": Call(
        lambda **k: _searched("exact", **k),
        {"queries": QUERIES, "top_k": 5},
        {"queries": queries(), "top_k": count(most=24)},
        tolerance=1e-4,
    ),
    "engines.SqliteIndex.search": Call(
        lambda **k: _searched("search", **k),
        {"queries": QUERIES, "top_k": 5, "shortlist_size": 10},
        {
            "queries": queries(),
            "top_k": count(most=24),
            "shortlist_size": count(5, 4096, none=True),
        },
        tolerance=1e-4,
    ),
    # ------------------------------------------------------------------------------------- int8
    "int8.quantise_rows": Call(
        lambda emb: int8.quantise_rows(emb)[0],
        {"emb": CORPUS},
        {
            "emb": vectors(wider=False).but(
                "x 1e200",
                "mixed lengths, float64",
                wrong={"x 1e200": (lambda a: a * np.float64(1e200), WrongValue, "row")},
            )
        },
        tolerance=1.01,  # half of a code may be rounded the other way
    ),
    "int8.mean_of_rows": Call(
        int8.mean_of_rows,
        {"ids": [3, 1, 7], "codes": INT8, "scales": np.ones(24, np.float32)},
        {
            "ids": rows().but("twice", "none at all", "a mask"),
            "codes": codes().but(*DEGENERATE.keys() - {"one number a row"}),
            "scales": values().but("all equal", "all zero", "int16"),
        },
    ),
    "int8.prefix_scores": Call(
        int8.prefix_scores,
        _PAGE | {"dim": 4},
        {"query": _QUERY, "codes": codes(), "dim": count(most=8)},
        tolerance=1e-3,
    ),
    "int8.rank_rows": Call(
        int8.rank_rows,
        _PAGE | {"dim": 4, "top_k": 5},
        _PAGE_DOORS | {"dim": count(most=8), "top_k": count()},
    ),
    "int8.rerank_rows": Call(
        int8.rerank_rows,
        _PAGE | {"dim": 4, "shortlist_size": 10, "top_k": 5},
        _PAGE_DOORS | {"dim": count(most=8), "shortlist_size": count(), "top_k": count()},
    ),
    "int8.overlap_curve": Call(
        int8.overlap_curve,
        _PAGE | {"top_k": 5, "shortlist_size": 7},
        _PAGE_DOORS
        # One number ties all rows of a sign; the last digit of a score decides, as on the page.
        | {"query": _QUERY, "top_k": count(), "shortlist_size": count(none=True)},
    ),
    "int8.break_point": Call(
        int8.break_point,
        {"curve": [1.0, 3.0, 2.0, 4.0, 4.0, 4.0], "enough": 3.5},
        {
            "curve": Door(
                {
                    "array": (np.array, _plain),
                    "big-endian": (lambda v: np.array(v, ">f8"), _plain),
                    "tensor": (torch.tensor, _plain),
                    "whole numbers": (lambda v: list(map(int, v)), _plain),
                    "tuple": (tuple, _plain),
                },
                {
                    "strings": (lambda v: list(map(str, v)), WrongKind, "<U"),
                    "None": (lambda v: None, WrongKind, "object"),
                    "two axes": (lambda v: [v], WrongValue, r"\(1, 6\)"),
                    "nothing": (lambda v: [], WrongValue, r"\(0,\)"),
                    "NaN": (lambda v: [*v[:5], np.nan], WrongValue, "row 5"),
                    "never whole": (lambda v: v[:3], WrongValue, r"\b2\b"),
                },
            ),
            "enough": number(high=4.5),
        },
    ),
    # ----------------------------------------------------------------------- models and training
    "models.train_tokenizer": Call(
        models.train_tokenizer,
        {"sentences": TEXTS, "vocab_size": 120},
        {"sentences": texts(), "vocab_size": count(100)},
    ),
    "models.build_static_model": Call(
        models.build_static_model,
        {"sentences": TEXTS, "dim": 8, "vocab_size": 120, "seed": 0},
        {"sentences": texts(), "dim": count(), "vocab_size": count(100), "seed": seed()},
    ),
    "models.build_tiny_transformer": Call(
        lambda **k: models.build_tiny_transformer(_tokenizer(), **k),
        {"width": 8, "layers": 1, "heads": 2, "max_tokens": 8, "seed": 0},
        {name: count() for name in ("width", "layers", "heads", "max_tokens")} | {"seed": seed()},
    ),
    "models.unknown_share": Call(
        lambda texts: models.unknown_share(_tokenizer(), texts),
        {"texts": [*TEXTS, "zzz"]},
        {"texts": texts()},
    ),
    "training.read_triplets": Call(
        training.read_triplets, {"triplets": TRIPLETS}, {"triplets": _TRIPLETS}
    ),
    "training.tokenise_triplets": Call(
        lambda triplets: training.tokenise_triplets(_static(), triplets).rows,
        {"triplets": TRIPLETS},
        {"triplets": _TRIPLETS},
    ),
    "training.batches_without_duplicates": Call(
        lambda **k: training.batches_without_duplicates(rng=np.random.default_rng(0), **k),
        {"rows": np.arange(24).reshape(12, 2), "batch_size": 4},
        {
            "rows": Door(
                {name: MEMORY[name] for name in MEMORY if name not in ("float64", "longdouble")},
                NO_NUMBERS
                | {
                    "floats": (lambda a: a.astype(float), WrongKind, "float64"),
                    "one axis": (lambda a: a[0], WrongValue, r"\(2,\)"),
                },
            ),
            "batch_size": count(),
        },
    ),
    "training.train": Call(
        _trained,
        {"triplets": TRIPLETS, "dims": DIMS, "epochs": 1, "batch_size": 4, "lr": 0.05, "seed": 0}
        | {"weights": [1.0, 0.5, 2.0], "scale": 20.0, "warmup": 0.1, "distill": 0.5}
        | {"max_grad_norm": 1.0},
        {
            "triplets": _TRIPLETS,
            "dims": dims(),
            "epochs": count(),
            "batch_size": count(2),
            "lr": number(low=0),
            "seed": seed(),
            "weights": weights(training=True),
            "scale": number(low=0),
            "warmup": number(low=-0.5, high=1),
            "distill": number(low=-0.5),
            "max_grad_norm": number(low=0, none=True),
        },
        tolerance=1e-4,
    ),
    "training.train_twins": Call(
        lambda triplets, **k: training.train_twins(
            triplets, epochs=1, batch_size=4, progress=False, **k
        ),
        {"triplets": TRIPLETS, "dim": 8, "dims": DIMS, "seed": 0, "vocab_size": 120},
        {"triplets": _TRIPLETS, "dim": count(8), "dims": dims(none=True), "seed": seed()}
        | {"vocab_size": count(100)},
        tolerance=1e-4,
    ),
}

# Arguments that look like numbers and have no door of their own, and why.
NO_DOOR: dict[str, str] = {
    "losses.nested_losses": "of arguments that were checked: for training loops",
    "int8.ranks_of_the_best": "of arguments that were checked by overlap_curve",
    "evaluation.random_dims_curve.options": "passed on to the curve, which checks them",
    "training.TokenisedTriplets.features": "of rows that tokenise_triplets made",
    "retrofit.Head.methods": "takes axes that a fit made",
    "retrofit.Head.share_outside": "of unit rows that were checked",
    "evaluation.tempered_scales": "of values that were checked",
    "evaluation.fixed_signs": "of values that were checked",
    "ranking.PrefixIndex.build": "of arguments that were checked: for callers that warn",
    "ranking.PrefixIndex.name_of": "of a size that was checked",
    "plots.plot_curves": "takes curves, which were checked when they were made",
}

# ------------------------------------------------------------------------------- found by looking

MODULES = {
    module.__name__.rsplit(".", 1)[-1]: module
    for module in (
        evaluation,
        search,
        ranking,
        neighbours,
        retrofit,
        losses,
        classification,
        costs,
        planning,
        plots,
        engines,
        int8,
        models,
        training,
    )
}
ONLY = {"ranking": {"PrefixIndex"}, "engines": {"SqliteIndex"}}  # others are inner, or need servers
NUMERIC = re.compile(r"ArrayLike|ndarray|Tensor|Sequence|Emb\b|\bint\b|\bfloat\b|\bAny\b")


def _public(name: str, module: types.ModuleType) -> dict[str, Callable]:
    """The public functions and methods of a module, and constructors that somebody wrote."""
    named = getattr(module, "__all__", None)
    found: dict[str, Callable] = {}
    for key, thing in vars(module).items():
        own = getattr(thing, "__module__", "").startswith(module.__name__)
        if key.startswith("_") or not own or (named is not None and key not in named):
            continue
        if key not in ONLY.get(name, {key}):
            continue
        if inspect.isfunction(thing):
            found[f"{name}.{key}"] = thing
        elif inspect.isclass(thing):
            for attribute, value in vars(thing).items():
                method = getattr(value, "__func__", value)
                # Those that dataclass and NamedTuple make come from no file.
                written = inspect.isfunction(method) and method.__code__.co_filename[0] != "<"
                if written and (attribute == "__init__" or not attribute.startswith("_")):
                    found[f"{name}.{key}.{attribute}"] = method
    return found


def _numeric(function: Callable) -> list[str]:
    """The arguments that take numbers, by their annotations."""
    found = []
    for parameter in inspect.signature(function).parameters.values():
        kind = re.sub(r"Callable\[.*\]", "", str(parameter.annotation))
        unmarked = parameter.annotation is parameter.empty and parameter.name not in ("self", "cls")
        if parameter.kind != parameter.VAR_KEYWORD and (unmarked or NUMERIC.search(kind)):
            found.append(parameter.name)
    return found


FUNCTIONS = {
    full: function
    for name, module in MODULES.items()
    for full, function in _public(name, module).items()
}


def test_every_argument_has_its_door():
    """A new function, or a new argument that holds numbers, must come with its door."""
    missing = []
    for name, function in FUNCTIONS.items():
        if name in NO_DOOR:
            continue
        doors = CALLS[name].doors if name in CALLS else {}
        for parameter in _numeric(function):
            if parameter not in doors and f"{name}.{parameter}" not in NO_DOOR:
                missing.append(
                    f"{name}({parameter}): add Call(function, valid arguments, "
                    f"{{{parameter!r}: a Door such as vectors(), rows(), dims() or count()}}) to "
                    f"CALLS[{name!r}], or a reason to NO_DOOR"
                )
    assert not missing, "arguments without a door:\n" + "\n".join(missing)
    gone = [
        f"{name}({parameter})"
        for name, call in CALLS.items()
        for parameter in call.doors
        if name not in FUNCTIONS or parameter not in inspect.signature(FUNCTIONS[name]).parameters
    ]
    assert not gone, f"doors of functions or arguments that are no more: {gone}"
    reasons = [n for n in NO_DOOR if n not in FUNCTIONS and n.rsplit(".", 1)[0] not in FUNCTIONS]
    assert not reasons, f"reasons for functions that are no more: {reasons}"


def test_a_function_without_a_door_is_found():
    """The inspection sees functions, methods, written constructors and unannotated arguments."""
    module = types.ModuleType("made_up")
    source = """
def search(vectors, name: str = ""): ...
class Index:
    def __init__(self, dim: int): ...
    def add(self, ids: "int"): ...
"""
    exec(compile(source, "made_up.py", "exec"), module.__dict__)  # that nobody has registered
    assert _numeric(module.search) == ["vectors"]
    found = {"made_up.search", "made_up.Index.__init__", "made_up.Index.add"}
    assert set(_public("made_up", module)) == found
    assert _numeric(module.Index.add) == ["ids"]
    assert {"search.exact_search", "engines.SqliteIndex.add"} <= set(FUNCTIONS)
    assert "classification.NestedClassifier.__init__" in FUNCTIONS
    assert "retrofit.Head.load" in FUNCTIONS  # a class method


# ----------------------------------------------------------------------------------- the one table


def _cases(part: str) -> list:
    found = []
    for name, call in CALLS.items():
        for parameter, door in call.doors.items():
            for case in getattr(door, part):
                full = f"{name}-{parameter}-{case}"
                found.append(pytest.param(name, parameter, case, id=full))
    return found


@cache
def _plain_answer(name: str) -> Any:
    return CALLS[name]()


def _parts(result: Any) -> list:
    """A result as a flat list of arrays of numbers."""
    if isinstance(result, torch.Tensor):
        return [result.detach().double().numpy()]
    if isinstance(result, torch.nn.Module):
        return _parts(list(result.state_dict().values()))
    if isinstance(result, Tokenizer):
        return [np.array(sorted(result.get_vocab().items()))]
    if isinstance(result, Axes):
        images = [np.asarray(image.get_array()) for image in result.images]
        points = [np.asarray(dots.get_offsets()) for dots in result.collections]
        return images + points + [line.get_ydata() for line in result.lines]
    if isinstance(result, training.Twins):
        return _parts([result.regular, result.matryoshka])
    if isinstance(result, training.History):
        return [result.losses]
    if isinstance(result, pd.DataFrame):
        return [result.to_numpy(np.float64)]
    if is_dataclass(result):
        return _parts([getattr(result, f.name) for f in fields(result)])
    if isinstance(result, Mapping):
        return _parts([*result.keys(), *result.values()])
    if isinstance(result, (list, tuple)):
        return [part for item in result for part in _parts(item)]
    return [np.asarray(result)]


def _assert_same(found: Any, wanted: Any, tolerance: float) -> None:
    found, wanted = _parts(found), _parts(wanted)
    assert len(found) == len(wanted)
    for one, two in zip(found, wanted, strict=True):
        if one.dtype.kind in "fiub":
            assert one.size == two.size
            one, two = one.reshape(two.shape), two
            np.testing.assert_allclose(one, two, rtol=tolerance, atol=tolerance)
        else:
            assert np.array_equal(one, two)


def _bytes(value: Any) -> bytes | None:
    return value.tobytes() if isinstance(value, np.ndarray) and value.dtype != object else None


@pytest.mark.parametrize(("name", "parameter", "case"), _cases("same"))
def test_the_same_answer(name, parameter, case):
    """However numbers are stored, however long vectors are: the answer of the plain call."""
    call = CALLS[name]
    make, plain = call.doors[parameter].same[case]
    value = call.arguments[parameter]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = _plain_answer(name) if plain is _plain else call(parameter, plain(value))
        given = make(value)
    before = _bytes(given)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = call(parameter, given)
    _assert_same(found, wanted, call.tolerance)
    numeric = [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)]
    assert not numeric, f"arithmetic went wrong on the way: {numeric}"
    assert _bytes(given) == before, "the argument was changed"


@pytest.mark.parametrize(("name", "parameter", "case"), _cases("wrong"))
def test_refused_in_its_words(name, parameter, case):
    """The right kind of error, and in its words what was wrong."""
    call = CALLS[name]
    make, error, words = call.doors[parameter].wrong[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(MrlCourseError, match=f"(?s){words}") as raised:
            call(parameter, make(call.arguments[parameter]))
    assert raised.type is error, f"{raised.type.__name__}: {raised.value}"


@pytest.mark.parametrize(("name", "parameter", "case"), _cases("clear"))
def test_degenerate_data_is_no_silent_nan(name, parameter, case):
    """Finite numbers, or a refusal, or a warning where there is a NaN."""
    call = CALLS[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = call(parameter, call.doors[parameter].clear[case](call.arguments[parameter]))
        except MrlCourseError as error:
            assert len(str(error)) > 10
            return
    numeric = [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)]
    assert not numeric, f"arithmetic went wrong on the way: {numeric}"
    parts = [part for part in _parts(result) if part.dtype.kind == "f"]
    said = [w for w in caught if w.category is UserWarning]
    assert said or all(not np.isnan(part).any() for part in parts), "NaN without a word"
    ours = [str(w.message) for w in said]
    assert len(set(ours)) == len(ours), f"the same warning twice: {ours}"


# ----------------------------------------------------------------- zero rows, ties, equal rows

_COSINES = [
    (name, parameter)
    for name, call in CALLS.items()
    for parameter, door in call.doors.items()
    if "x 1e-22" in door.same
    and not name.startswith(
        ("int8.", "evaluation.pca", "evaluation.tem", "neighbours.al", "retrofit.Head.agr")
    )
]


@pytest.mark.parametrize(("name", "parameter"), _COSINES)
def test_a_zero_row_is_said_once(name, parameter):
    """One warning that counts zero rows and says which is the first; no NaN comes of it."""
    call = CALLS[name]
    emb = _with(call.arguments[parameter], 3, 0.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call(parameter, emb)
    said = [w for w in caught if "only zeros" in str(w.message)]
    if name == "neighbours.nested_clusters":  # each part is clustered, and says it again
        said = said[:1]
    assert len(said) == 1, [str(w.message) for w in caught]
    if name != "search.tune_shortlist":  # where the row is that of the sample
        assert f"1 of {len(emb)} rows" in str(said[0].message)
        assert "first row 3" in str(said[0].message)
    assert said[0].filename == __file__
    assert all(not np.isnan(p).any() for p in _parts(result) if p.dtype.kind == "f")


def _quiet(function: Callable, *arguments: Any, **named: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return function(*arguments, **named)


def _cosine(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """(n, m) by the book, zero rows 0."""
    one, two = one.astype(np.float64), two.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1)[:, None] * np.linalg.norm(two, axis=1)
    return (one @ two.T) / np.where(lengths > 0, lengths, 1)


@pytest.mark.parametrize("scale", [1.0, 1e-15, 1e-22, 1e30])
@pytest.mark.parametrize("what", ["search", "index", "rerank", "retrieval", "sqlite", "loss"])
def test_a_zero_row_has_cosine_0(what, scale):
    """Everywhere the same: a row without direction is as near as one at a right angle."""
    factor = np.float32(scale)
    corpus, asked = _with(CORPUS, [3, 9], 0.0), _with(QUERIES, 2, 0.0)
    wanted = _cosine(asked, corpus)
    order = np.argsort(-np.round(wanted, 6), axis=1, kind="stable")
    corpus, asked = corpus * factor, asked * factor
    if what == "retrieval":
        # Each query asks for one zero row: it is found by chance among all that have cosine 0.
        found = _quiet(evaluation.retrieval_curve, asked, corpus, [3] * 6, [8], 10)[8]
        ahead = (wanted > 1e-7).sum(axis=1)
        tied = (np.abs(wanted) <= 1e-7).sum(axis=1)
        assert found == pytest.approx(np.clip((10 - ahead) / tied, 0, 1).mean(), abs=1e-9)
        return
    if what == "loss":
        anchors, table = (torch.from_numpy(x).requires_grad_() for x in (asked, corpus))
        loss = _quiet(losses.nested_info_nce, anchors, table, [8])
        logits = 20 * torch.from_numpy(wanted)
        right = torch.nn.functional.cross_entropy(logits, torch.arange(6))
        assert loss.item() == pytest.approx(right.item(), rel=1e-4)
        loss.backward()
        assert not anchors.grad[2].any()
        assert not table.grad[[3, 9]].any()
        assert torch.isfinite(table.grad).all()
        return
    if what == "sqlite":

        def run(index: engines.SqliteIndex) -> Any:
            index.add(corpus)
            return index.exact(asked, 24)

        found = _quiet(_index, run)
    elif what == "rerank":
        every = np.tile(np.arange(24), (6, 1))
        found = _quiet(search.rerank, asked, corpus, every, 24)
    elif what == "index":
        index = _quiet(ranking.PrefixIndex, corpus, [8])
        found = _quiet(search.exact_search, asked, index, 24)
    else:
        found = _quiet(search.exact_search, asked, corpus, 24)
    np.testing.assert_allclose(
        found.scores, np.take_along_axis(wanted, found.indices, 1), atol=1e-5
    )
    clear = np.arange(6) != 2  # the zero query ties with all
    assert np.array_equal(found.indices[clear], order[clear])
    assert not found.scores[2].any()


@pytest.mark.parametrize("scale", [1.0, 1e-22, 1e30])
def test_zero_rows_stay_zero(scale):
    """Cut or mapped, a row without direction gets none."""
    emb = _with(FITTED, 3, 0.0) * np.float32(scale)
    for cut in (
        _quiet(search.truncate, emb, 4),
        _quiet(_head().transform, emb, 4),
        _quiet(search.truncate, torch.from_numpy(emb), 4).numpy(),
    ):
        assert not cut[3].any()
        rest = np.delete(cut, 3, axis=0)
        np.testing.assert_allclose(np.linalg.norm(rest, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scale", [1.0, 1e-22, 1e30])
def test_ties_do_not_know_the_order_of_the_corpus(seed, scale):
    """Sign bits tie a lot: curve, search and tuning say the same for every order of the rows."""
    signs = np.sign(CORPUS[:, :5]) * np.float32(scale)
    asked = np.sign(MANY[:, :5])
    order = np.random.default_rng(seed).permutation(24)
    place = np.argsort(order)  # where each row stands now
    relevant = np.arange(48) % 24
    first = evaluation.retrieval_curve(asked, signs, relevant, [3, 5], 3)
    again = evaluation.retrieval_curve(asked, signs[order], place[relevant], [3, 5], 3)
    assert dict(again) == pytest.approx(dict(first), abs=1e-12)
    one, two = (search.exact_search(asked, rows, 24).scores for rows in (signs, signs[order]))
    np.testing.assert_array_equal(one, two)  # equal rows have equal scores, to the last bit
    real = MANY  # different queries, rows that tie
    tuned = [
        search.tune_shortlist(
            np.sign(real) + 0.01 * real, np.sign(rows) * np.float32(scale), 0.9, 3,
            dims=[4], sizes=[3, 6, 12],
        ).table[["recall", "checked_recall"]]
        for rows in (CORPUS, CORPUS[order])
    ]  # fmt: skip
    np.testing.assert_allclose(*tuned, atol=1e-12)


@pytest.mark.parametrize("length", [1.0, 1e-22, 1e30])
@pytest.mark.parametrize("rows", [1, 2, 24])
def test_rows_that_are_all_equal(rows, length):
    """One direction: every cosine is 1, every order is as good, and nothing can be learnt."""
    equal = np.repeat(CORPUS[:1], rows, axis=0) * np.float32(length)
    found = search.exact_search(CORPUS[:1], equal, rows)
    np.testing.assert_allclose(found.scores, 1, atol=1e-6)
    assert found.indices.tolist() == [list(range(rows))]
    curve = evaluation.retrieval_curve(CORPUS[:1], equal, [0], [4, 8], 1)
    assert curve[4] == curve[8] == pytest.approx(1 / rows)
    if rows > 1:
        with pytest.warns(UserWarning, match="all pairs have the same cosine"):
            curve = evaluation.similarity_curve(equal, equal, np.arange(rows), [4, 8])
        assert np.isnan(curve[8])
        with pytest.warns(UserWarning, match="no variance"):
            evaluation.pca_rotation(equal)
    with pytest.raises(WrongValue, match=f"{rows} rows are too few|one direction|different"):
        _quiet(retrofit.fit_head, np.repeat(equal, 4, axis=0), progress=False)
