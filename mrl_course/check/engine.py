"""How an exercise checks an answer: the machinery behind :mod:`mrl_course.check`."""

from __future__ import annotations

import contextlib
import functools
import inspect
import keyword
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mrl_course.errors import WrongKind, WrongValue

NOT_ATTEMPTED, WRONG, CORRECT = "not attempted", "wrong", "correct"


# ---------------------------------------------------------------------------------- claims


class ClaimError(AssertionError):
    """A claim in a lesson does not hold in this run."""


_held: ContextVar[list[str] | None] = ContextVar("claims that held", default=None)


@contextlib.contextmanager
def findings() -> Iterator[None]:
    """Collect the claims made inside: one line in place of a tick for each.

    The learner reads numbers and figures; this line says that the sentences around them were
    tested on this run too, whatever the data and the seed.

    Raises:
        ClaimError: a claim inside does not hold; the error names it with its numbers.
        WrongValue: no claim was made inside.
    """
    held: list[str] = []
    token = _held.set(held)
    try:
        yield
    finally:
        _held.reset(token)
    if not held:
        raise WrongValue("check.findings() needs at least one check.claim(...) inside")
    what = (
        "1 finding of this section holds"
        if len(held) == 1
        else f"{len(held)} findings of this section hold"
    )
    _say(f"✓ {what} in this run")


def claim(text: str, condition: Any, **numbers: Any) -> None:
    """Print ``✓ text`` if the condition holds, else raise with the numbers.

    Inside :func:`findings` nothing is printed for a claim that holds.

    Args:
        text: the finding, as a sentence.
        condition: one truth value: a bool, a NumPy bool, or a boolean array or tensor with no
            dimensions. Nothing else, so that a mistake such as ``a > b`` between two arrays, or a
            forgotten comparison, cannot pass as true.
        numbers: what the condition was computed from; shown when it is false.

    Raises:
        ClaimError: the condition is false.
        WrongKind: the text is not a sentence, or the condition is not one truth value.
    """
    if not isinstance(text, str) or not text.strip():
        raise WrongKind(f"the first argument of claim is the text of the claim; got {text!r}")
    if _one_bool(condition):
        held = _held.get()
        if held is None:
            _say(f"✓ {text}")
        else:
            held.append(text)
        return
    shown = ", ".join(f"{name} = {_describe(value)}" for name, value in numbers.items())
    raise ClaimError(f"✗ {text}: not true in this run" + (f" ({shown})" if shown else ""))


def _one_bool(condition: Any) -> bool:
    if isinstance(condition, bool):
        return condition
    if isinstance(condition, np.generic | np.ndarray | torch.Tensor) and condition.ndim == 0:
        value = condition.item()
        if isinstance(value, bool):
            return value
    raise WrongKind(
        f"a claim needs one truth value, got {_describe(condition)}. Pass a comparison of two "
        "numbers such as a > b; for arrays say which one you mean: (a > b).all() or (a > b).any()"
    )


# ------------------------------------------------------------------------------- exercises


@dataclass(frozen=True)
class Wrong:
    """A known wrong answer, and words that the checker's message about it must contain."""

    answer: Any
    says: str


class _Problem(Exception):
    """What is wrong with an answer, in words meant for the learner."""


class _NotAttempted(Exception):
    """The answer is still a stub; the argument says how we know, or is empty."""


class Exercise:
    """One exercise: call it with an answer; ask it for a ``hint()`` or the ``solution()``.

    ``state`` is ``"not attempted"``, ``"wrong"`` or ``"correct"``; ``message`` is the line printed
    last. Calling an exercise returns nothing, so that a cell which ends with the call shows only
    that line, and it raises nothing, so that a lesson with open exercises runs to its end.
    """

    def __init__(
        self,
        checker: Callable[[Any], str | None],
        *,
        lesson: int,
        answer: Any,
        expects: str,
        why: str,
        hints: Sequence[str],
        wrong_answers: Sequence[Wrong],
        solution_text: str = "",
    ) -> None:
        """Store the parts of an exercise; lessons make one with :func:`register`.

        Args:
            checker: see :func:`register`.
            lesson: number of the lesson that asks for it.
            answer: the key: usually the package's own tested function, else a value.
            expects: what kind of answer is wanted: "a function cut(emb, dim) -> (n, dim)".
            why: one sentence on why it matters, printed when the answer is right.
            hints: at least one, each saying more than the one before.
            wrong_answers: typical mistakes, each with words that the message must contain.
            solution_text: printed before the key.

        Raises:
            WrongValue: a part is empty.
        """
        self.name = checker.__name__
        self.lesson = lesson
        self.answer = answer
        self.expects = expects
        self.why = why
        self.hints = list(hints)
        self.wrong_answers = list(wrong_answers)
        self.solution_text = solution_text
        self.state = NOT_ATTEMPTED
        self.message = ""
        self._checker = checker
        if not (self.expects and self.why and self.hints and self.wrong_answers):
            raise WrongValue(
                f"exercise {self.name!r}: expects, why, hints and wrong_answers must not be empty"
            )

    def __repr__(self) -> str:
        """Describe the exercise without giving the answer away."""
        return f"<exercise check.{self.name}: {self.state}; it expects {self.expects}>"

    def __call__(self, answer: Any = ...) -> None:
        """Check an answer and print one line; the result is kept in ``state``."""
        try:
            problem = self._problem_with(answer)
        except _NotAttempted as reason:
            detail = f" ({reason})" if str(reason) else ""
            self._report(
                NOT_ATTEMPTED,
                f"○ {self.name}: not attempted yet{detail}. For a hint: check.{self.name}.hint()",
            )
            return
        if problem is None:
            self._report(CORRECT, f"✓ {self.name}: correct. {self.why}")
            return
        given = "" if callable(answer) else f"you gave {_describe(answer)}. "
        self._report(WRONG, f"✗ {self.name}: {given}{problem} Expected: {self.expects}.")

    def hint(self, n: int = 1) -> None:
        """Print hint ``n``, counted from 1; each says more than the one before."""
        count = len(self.hints)
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            _say(f"Hints are numbered from 1 to {count}: check.{self.name}.hint(1)")
        elif n > count:
            _say(
                f"There is no hint {n}: {self.name} has {count}. "
                f"To see the solution: check.{self.name}.solution()"
            )
        else:
            more = f"\n(the next one: check.{self.name}.hint({n + 1}))" if n < count else ""
            _say(f"Hint {n} of {count}: {self.hints[n - 1]}{more}")

    def solution(self) -> None:
        """Print the solution: what the lesson says on it, then the key itself.

        The key is the source of the course's own function, or the value, however long it is.
        """
        parts = [self.solution_text] if self.solution_text else []
        parts.append(_source(self.answer) if callable(self.answer) else _whole(self.answer))
        _say(f"Solution of {self.name}:\n" + "\n".join(parts))

    def _report(self, state: str, message: str) -> None:
        self.state, self.message = state, message
        _say(message)

    def _problem_with(self, answer: Any) -> str | None:
        """Say what is wrong with an answer, or None; raises only _NotAttempted."""
        if _holds_ellipsis(answer) or answer is None:
            raise _NotAttempted
        if callable(self.answer) and not callable(answer):
            return (
                "this is not a function. Pass the function itself, without calling it: "
                f"check.{self.name}(my_function)."
            )
        if callable(answer) and not callable(self.answer):
            return "this is a function, not its result. Call it, and pass what it returns."
        try:
            problem = self._checker(_watched(answer) if inspect.isroutine(answer) else answer)
        except _NotAttempted:
            raise
        except _Problem as found:
            return str(found)
        except NotImplementedError as error:  # from a class, whose methods are not watched
            raise _NotAttempted(_raised(error)) from None
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a learner's class may do anything, even sys.exit()
            return f"checking {_describe(answer)} stopped with {_raised(error)}."
        if problem is not None and not isinstance(problem, str):
            raise WrongKind(
                f"the checker of {self.name} must return None or a sentence, not {problem!r}"
            )
        return problem


REGISTRY: dict[str, Exercise] = {}
"""All exercises by name, in the order of declaration."""
TAKEN = frozenset(
    {"engine", "shared", "findings", "claim", "exercises", "register", "compare_arrays"}
)


def register(**parts: Any) -> Callable[[Callable[[Any], str | None]], Exercise]:
    """Turn a checking function into the exercise ``check.<name of that function>``.

    The checking function gets the learner's answer and returns None if it is right, else a
    sentence that says what is wrong. An answer that is a function arrives wrapped: it works on
    copies of its arguments (gradients still reach the originals); a change to an argument, an
    exception and a missing result are reported without the checker's help.

    Args:
        parts: what :class:`Exercise` is made of, by name.

    Raises:
        WrongValue: the name is taken or cannot be used, or a part is empty.
    """

    def add(checker: Callable[[Any], str | None]) -> Exercise:
        name = checker.__name__
        if name in REGISTRY or name in TAKEN or keyword.iskeyword(name) or name[0] in "_<":
            raise WrongValue(f"an exercise cannot be called {name!r}: the name is taken or private")
        REGISTRY[name] = Exercise(checker, **parts)
        return REGISTRY[name]

    return add


# ------------------------------------------------------------------- a learner's function


def _watched(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a learner's function so that what commonly goes wrong becomes a sentence."""
    returned = 0

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal returned
        given_args, given_kwargs = _copy(args), _copy(kwargs)
        try:
            result = function(*given_args, **given_kwargs)
        except KeyboardInterrupt:
            raise
        except NotImplementedError as error:
            if returned:
                raise _Problem(f"your function raised {_raised(error, function)}.") from None
            raise _NotAttempted(_raised(error) if str(error) else "") from None
        except BaseException as error:
            raise _Problem(f"your function raised {_raised(error, function)}.") from None
        if result is None or _holds_ellipsis(result):
            if returned:
                raise _Problem(
                    "your function returned a result for one input and none for another: "
                    "is there a branch without `return`?"
                )
            raise _NotAttempted(
                "your function returns None: is a `return` missing?" if result is None else ""
            )
        returned += 1
        names = _parameter_names(function, len(args))
        pairs = [*zip(names, given_args, args, strict=True)]
        pairs += [(f"`{key}`", given_kwargs[key], value) for key, value in kwargs.items()]
        for name, given, original in pairs:
            if not _same(given, original):
                raise _Problem(
                    f"your function changes its argument {name} in place, so the caller's data "
                    "is different afterwards. Work on a copy."
                )
        return result

    return call


def _parameter_names(function: Callable[..., Any], count: int) -> list[str]:
    try:
        names = [f"`{name}`" for name in inspect.signature(function).parameters]
    except (TypeError, ValueError):  # built-in functions do not always tell
        names = []
    return (names + [f"number {i + 1}" for i in range(len(names), count)])[:count]


def _raised(error: BaseException, function: Callable[..., Any] | None = None) -> str:
    """Return the error's name, message and, if it is known, the learner's own line."""
    text = f"{type(error).__name__}: {error}".strip().rstrip(":")
    code = getattr(function, "__code__", None)
    if code is not None:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.line for frame in frames if frame.filename == code.co_filename]
        if lines and lines[-1]:
            text += f" (at `{lines[-1]}`)"
    return text


def _holds_ellipsis(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return value is ... or (isinstance(value, list | tuple) and any(v is ... for v in value))


def _copy(value: Any) -> Any:
    """Copy data, and leave alone what is meant to change, such as a model or a generator."""
    if isinstance(value, torch.Tensor):
        return value.clone()  # not deepcopy: gradients must still reach the checker's own tensor
    if isinstance(value, np.ndarray):
        return value.copy()
    if type(value) in (list, tuple, set):
        return type(value)(_copy(item) for item in value)
    if type(value) is dict:
        return {key: _copy(item) for key, item in value.items()}
    return value


def _same(left: Any, right: Any) -> bool:
    """Compare a copy made by _copy with its original, after a function has had the copy."""
    if isinstance(left, torch.Tensor) and left.is_meta:  # it holds no numbers that could differ
        return left.shape == right.shape and left.dtype == right.dtype
    if isinstance(left, torch.Tensor | np.ndarray):
        a, b = _as_array(left), _as_array(right)
        return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if type(left) in (list, tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    if type(left) is dict:
        return list(left) == list(right) and all(_same(left[key], right[key]) for key in left)
    return left is right or bool(left == right)


# ----------------------------------------------------------------------- comparing arrays


def compare_arrays(got: Any, want: Any, atol: float = 1e-6, rtol: float = 1e-5) -> str | None:
    """Say in one sentence how an array differs from the expected one; None if it does not.

    Args:
        got: the learner's array, tensor, number or nested list.
        want: the expected one.
        atol: absolute tolerance, on top of ``rtol`` times the expected value.
        rtol: relative tolerance.

    Returns:
        None, or a sentence on the first of: not numbers, another shape, NaN or infinity, the wrong
        kind of number, a constant factor or shift, rows that differ in length only, another order;
        and if it is none of these, the largest difference and where it is.
    """
    want = _as_array(want)
    try:
        got = _as_array(got)
    except (TypeError, ValueError) as error:
        return f"the result cannot be read as an array ({error})."
    if got.dtype.kind not in "biuf":
        return f"the result should hold numbers; it is {_describe(got)}."
    if got.shape != want.shape:
        return _shape_problem(got, want)
    if got.size == 0:
        return None
    if problem := _kind_problem(got, want):
        return problem
    g, w = got.astype(np.float64), want.astype(np.float64)
    broken = ~np.isfinite(g) & ~((g == w) | (np.isnan(g) & np.isnan(w)))
    if broken.any():
        return (
            f"the result holds {broken.sum()} value(s) that are NaN or infinite, the first at "
            f"{_where(broken)}: look for a division by zero or the logarithm of zero."
        )

    def close(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.isclose(a, b, atol=atol, rtol=rtol, equal_nan=True)

    differs = ~close(g, w)
    if not differs.any():
        return None
    if want.dtype.kind == "f":
        pattern = _float_pattern(g, w, close)
        if pattern is None and got.dtype.kind != "f":
            pattern = "the result holds whole numbers only, and decimal numbers are expected"
    else:
        pattern = _order_pattern(g, w, close)
    return _difference(got, want, differs, pattern)


def _kind_problem(got: np.ndarray, want: np.ndarray) -> str | None:
    """Truth values, integers and decimal numbers are not the same where integers are expected."""
    kinds = {"b": "True or False", "i": "integers", "u": "integers", "f": "decimal numbers"}
    given, wanted = kinds[got.dtype.kind], kinds[want.dtype.kind]
    if want.dtype.kind == "f" or given == wanted:
        return None
    return f"the result holds {given}, and {wanted} are expected."


def _difference(got: np.ndarray, want: np.ndarray, differs: np.ndarray, pattern: str | None) -> str:
    """The sentence on values that are not equal, with the one that is furthest off."""
    apart = np.abs(got.astype(np.float64) - want.astype(np.float64))
    worst = np.unravel_index(np.argmax(np.where(differs, apart, -1)), got.shape)
    at = f" at {_index([int(i) for i in worst])}" if got.ndim else ""
    detail = f"{_number(got[worst])} instead of {_number(want[worst])}"
    if pattern is not None:
        return f"{pattern} (for example {detail}{at})."
    if got.size == 1:
        return f"the result is {detail}."
    return (
        f"{differs.sum()} of {got.size} values are wrong; the largest difference is {detail}{at}."
    )


def _shape_problem(got: np.ndarray, want: np.ndarray) -> str:
    text = f"the result has shape {got.shape}, and {want.shape} is expected"
    if got.ndim == 0:
        text = f"the result is a single number, and an array of shape {want.shape} is expected"
    elif want.ndim == 0:
        text = f"the result is an array of shape {got.shape}, and a single number is expected"
    elif got.shape == want.shape[::-1]:
        text += ": it is transposed"
    elif np.squeeze(got).shape == np.squeeze(want).shape:
        text += ": an axis of length 1 is missing or too many"
    return text + "."


def _float_pattern(g: np.ndarray, w: np.ndarray, close: Callable) -> str | None:
    """Name the relation between two float arrays that are not equal, if it is a known one."""
    if g.size == 1:
        if close(g, -w).all():
            return "the sign is wrong"
        return None
    factor = (g * w).sum() / max((w * w).sum(), np.finfo(float).tiny)
    if close(g, factor * w).all():
        if np.isclose(factor, -1):
            return "every value has the wrong sign"
        if not g.any():
            return "every value is zero"
        return f"every value is the right one multiplied by {_number(factor)}"
    shift = (g - w).mean()
    if g.std() > 0 and close(g, w + shift).all():
        return f"every value is the right one plus {_number(shift)}"
    if g.ndim == 2 and g.shape[1] > 1:
        lengths = np.linalg.norm(w, axis=1, keepdims=True)
        factors = (g * w).sum(1, keepdims=True) / np.maximum(lengths**2, np.finfo(float).tiny)
        if (factors > 0).all() and close(g, factors * w).all():
            return "every row points the right way and has the wrong length: check normalisation"
    return _order_pattern(g, w, close)


def _order_pattern(g: np.ndarray, w: np.ndarray, close: Callable) -> str | None:
    if g.ndim == 0:
        return None
    if close(g[..., ::-1], w).all():
        return "the values are in reverse order"
    if g.ndim == 2 and g.shape[0] == g.shape[1] and close(g.T, w).all():
        return "the result is transposed"
    if close(np.sort(g, axis=-1), np.sort(w, axis=-1)).all():
        return "the right values are there, in the wrong order"
    if close(np.sort(g, axis=None), np.sort(w, axis=None)).all():
        return "the right values are there, in the wrong places"
    return None


def _as_array(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    elif isinstance(value, list | tuple) and any(isinstance(v, torch.Tensor) for v in value):
        value = [_as_array(v) for v in value]
    return np.asarray(value)


def _where(mask: np.ndarray) -> str:
    return _index(np.argwhere(mask)[0]) if mask.ndim else "the only place"


def _index(index: Sequence[int | np.intp]) -> str:
    return "index [" + ", ".join(str(int(i)) for i in index) + "]"


def _number(value: Any, digits: int = 4) -> str:
    value = value.item() if hasattr(value, "item") else value
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


# ------------------------------------------------------------------------------- printing


def _describe(value: Any) -> str:
    """Return a short text for a value: its shape if it is an array, else its repr."""
    if isinstance(value, np.ndarray | torch.Tensor) and value.ndim:
        kind = "a tensor" if isinstance(value, torch.Tensor) else "an array"
        return f"{kind} of shape {tuple(value.shape)} and type {value.dtype}"
    if isinstance(value, float | np.generic | np.ndarray | torch.Tensor):
        return _number(value, digits=6)  # enough to see that two scores differ
    if inspect.isroutine(value) or inspect.isclass(value):
        return f"`{value.__name__}`"
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a learner's class may have a broken __repr__
        text = f"an object of type {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def _whole(value: Any) -> str:
    """A key as the learner would give it: text as it is, anything else as Python writes it."""
    if isinstance(value, str):
        return value
    return repr(value) if isinstance(value, (dict, list, tuple)) else _describe(value)


def _source(function: Callable[..., Any]) -> str:
    where = f"{function.__module__}.{getattr(function, '__qualname__', function)}"
    try:
        return f"# {where}\n{inspect.getsource(function).rstrip()}"
    except (OSError, TypeError):
        return f"# {where} (its source is not available here)"


def _say(text: str) -> None:
    try:
        print(text)
    except UnicodeEncodeError:  # an old Windows console has no ✓; the words still matter
        print(text.encode("ascii", "replace").decode())
