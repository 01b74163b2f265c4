"""Every check of an argument, once: counts, sizes, weights, texts, row numbers, arrays of numbers.

A wrong kind is a ``TypeError``, a wrong value a ``ValueError``, both also
:class:`~mrl_course.errors.MrlCourseError`; the message names the argument, the first offending
value with its place, and what to give instead. Checks stand at the outer door: inner loops get what
was checked.

**Zero rows.** A row of zeros has no direction. Everywhere in the package its cosine with anything
is 0, it stays zero when it is cut or mapped, and :func:`warn_zero_rows` says once a call how many
there are and where the first one is.
"""

from __future__ import annotations

import math
import operator
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mrl_course import DEFAULT_DIMS
from mrl_course.errors import WrongKind, WrongValue

# ------------------------------------------------------------------------- counts and numbers


def check_count(
    name: str, value: Any, least: int = 1, most: int | None = None, of: str = ""
) -> int:
    """Return ``value`` as a plain int from ``least`` to ``most``, or say what is wrong.

    Args:
        name: of the argument, for the message.
        value: an integer of Python, NumPy or torch; ``True`` and ``2.0`` are none.
        least, most: the limits; no upper one by default.
        of: says what there are ``most`` of.

    Raises:
        WrongKind: not an integer.
        WrongValue: outside the limits; the message names the value.
    """
    number = _integer(value, f"{name} must be an integer, got {_short(value)}")
    if most is not None and not least <= number <= most:
        raise WrongValue(
            f"{name} must be between {least} and {most}{f' ({of})' if of else ''}, got {value}"
        )
    if number < least:
        raise WrongValue(f"{name} must be at least {least}, got {value}")
    return number


def check_list(name: str, value: Any) -> list:
    """The items of a list, array or tensor, not yet checked; a text or a mapping is none."""
    return _listed(value, f"{name} must be a list of integers such as [8, 16, 32]")


def check_seed(value: Any, name: str = "seed") -> int:
    """Return a seed that NumPy and torch both take: an integer from 0 to 2**32 - 1."""
    return check_count(name, value, 0, 2**32 - 1, "seeds")


def check_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
) -> float:
    """Return ``value`` as a finite float within its limits, or say what is wrong.

    Raises:
        WrongKind: no number (``True`` and arrays are none).
        WrongValue: NaN, infinite or outside the limits.
    """
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()  # NumPy scalars and tensors of no dimension
    if isinstance(value, bool) or not isinstance(value, Real):
        raise WrongKind(f"{name} must be a number, got {_short(value)}")
    try:
        number = float(value)
    except OverflowError:  # an integer of more than 308 digits
        number = math.inf
    wanted = [f"above {above:g}"] if above is not None else []
    if least is not None and most is not None:
        wanted += [f"between {least:g} and {most:g}"]
    elif least is not None or most is not None:
        wanted += [f"at least {least:g}" if least is not None else f"at most {most:g}"]
    fits = math.isfinite(number)
    if wanted and not fits:
        wanted += ["finite"]
    fits = fits and (above is None or number > above)
    fits = fits and (least is None or number >= least) and (most is None or number <= most)
    if not fits:
        raise WrongValue(f"{name} must be {' and '.join(wanted) or 'finite'}, got {number!r}")
    return number


def check_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """Return ``value`` if it is one of a few words, or list them."""
    if not isinstance(value, str):
        raise WrongKind(f"{name} must be one of {list(choices)}, got {value!r}")
    if value not in choices:
        raise WrongValue(f"{name} must be one of {list(choices)}, got {value!r}")
    return value


def _integer(value: Any, message: str) -> int:
    try:
        if isinstance(value, (bool, np.bool_)) or getattr(value, "ndim", 0):
            raise TypeError
        if str(getattr(value, "dtype", "")) in ("bool", "torch.bool"):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise WrongKind(message) from None


# --------------------------------------------------------------------------- sizes and weights


def check_dims(dims: Any, full_dim: int, *, warn_missing_full: bool = False) -> list[int]:
    """Return ``dims`` as a list of plain ints in the given order, or say what is wrong.

    Args:
        dims: prefix sizes k in any order, each an integer with 1 <= k <= ``full_dim``.
        full_dim: D, the size of the whole embedding.
        warn_missing_full: warn when D is not among them (in training, the full vector is
            then never optimised; in evaluation that is nobody's problem).

    Raises:
        WrongKind: ``dims`` is not a list of integers.
        WrongValue: empty, repeated, below 1 or above D; the message names the value.
    """
    checked: list[int] = []
    for k in _listed(dims, "dims must be a list of integers such as [8, 16, 32]"):
        k = _integer(k, f"dims must be integers, got {k!r} ({type(k).__name__})")
        if not 1 <= k <= full_dim:
            raise WrongValue(
                f"dims holds {k}, but a prefix of a {full_dim}-number embedding has between "
                f"1 and {full_dim} numbers"
            )
        if k in checked:
            raise WrongValue(f"dims holds {k} more than once; list each prefix size once")
        checked.append(k)
    if not checked:
        raise WrongValue("dims is empty; give at least one prefix size, for example [64, 768]")
    if warn_missing_full and full_dim not in checked:
        warn(
            f"the full size {full_dim} is not in dims {checked}: the last numbers of the "
            "embedding will not be trained"
        )
    return checked


def check_weights(weights: Any, count: int, *, training: bool = False) -> list[float]:
    """Return the weights of ``count`` prefixes as floats, all 1 if None, or say what is wrong.

    Raises:
        WrongKind: not a list of numbers.
        WrongValue: another number of them; one that is below 0, NaN or infinite; for
            ``training`` also all of them 0, which would train nothing.
    """
    if weights is None:
        return [1.0] * count
    listed = _listed(weights, "weights must be a list of numbers such as [1, 1, 2]")
    checked = [check_number(f"weights[{i}]", w, least=0) for i, w in enumerate(listed)]
    if len(checked) != count:
        raise WrongValue(f"{count} dims need {count} weights, got {len(checked)}")
    if training and not any(checked):
        raise WrongValue("weights are all 0, which trains nothing; at least one must be above 0")
    return checked


def default_dims(full_dim: int) -> list[int]:
    """The sizes of ``DEFAULT_DIMS`` below ``full_dim``, then ``full_dim`` itself, ascending."""
    return [k for k in DEFAULT_DIMS if k < full_dim] + [full_dim]


# ------------------------------------------------------------------------ arrays of numbers


def check_numbers(name: str, emb: ArrayLike) -> np.ndarray:
    """Return an array of numbers, without a copy where there is one already.

    Tensors of any kind, of any device and with gradients, and lists of them, become arrays;
    half precision becomes float32 (NumPy knows no bfloat16), wider floats than float64 and foreign
    byte orders become the machine's own. A memory-mapped file stays one.

    Raises:
        WrongKind: text, booleans, objects or complex numbers; a masked array with masked values; a
            list of rows of different lengths.
    """
    try:
        array = np.asanyarray(_without_torch(emb))
    except (ValueError, TypeError, RuntimeError) as error:  # ragged rows, sparse tensors
        raise WrongKind(f"{name} must be one array of numbers: {error}") from None
    if isinstance(array, np.ma.MaskedArray):
        if np.ma.is_masked(array):
            raise WrongKind(f"{name} is masked in places; leave those rows out, or fill them")
        array = array.data
    if isinstance(array, np.matrix):
        array = np.asarray(array)
    if array.dtype.kind not in "fiu":
        raise WrongKind(f"{name} must hold numbers, got dtype {array.dtype}")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array


def _without_torch(emb: Any) -> Any:
    """Tensors as arrays, alone or in a list; torch itself is slow to import and not needed."""
    if hasattr(emb, "detach"):
        emb = emb.detach().cpu()
        half = emb.is_floating_point() and emb.element_size() < 4
        return (emb.float() if half else emb).numpy()
    if isinstance(emb, (list, tuple)) and any(hasattr(row, "detach") for row in emb):
        return [_without_torch(row) for row in emb]
    return emb


def check_vectors(name: str, emb: ArrayLike) -> np.ndarray:
    """As :func:`check_numbers`, but no bytes: packed sign bits are not numbers to compare."""
    array = check_numbers(name, emb)
    if array.dtype == np.uint8:
        raise WrongKind(
            f"{name} holds unsigned bytes (uint8), as packed sign bits do; unpack those with "
            "numpy.unpackbits, or convert to float32 if the bytes really are numbers"
        )
    return array


def check_values(name: str, values: ArrayLike, count: int, of: str) -> np.ndarray:
    """(count,) float64 finite numbers, one for each of ``of``."""
    array = check_numbers(name, values)
    if array.shape != (count,):
        raise WrongValue(f"{count} {of} need {count} {name}, got shape {array.shape}")
    return check_finite(name, array).astype(np.float64)


def check_matrix(name: str, emb: ArrayLike) -> np.ndarray:
    """(n, D) as it is given, memory-mapped or not, without a copy; NaN is not looked for."""
    array = check_vectors(name, emb)
    if array.ndim != 2 or array.size == 0:
        raise WrongValue(f"{name} must have shape (n, D), n and D >= 1, got {array.shape}")
    return array


def check_embeddings(name: str, emb: ArrayLike) -> np.ndarray:
    """(n, D) without NaN, as it is given: what most functions take."""
    return check_finite(name, check_matrix(name, emb))


def check_same_size(name: str, emb: np.ndarray, other: str, full_dim: int) -> None:
    """Two models' vectors cannot be compared; the message says which sizes came."""
    if emb.shape[-1] != full_dim:
        raise WrongValue(
            f"{name} have {emb.shape[-1]} numbers and {other} {full_dim}; both must come from the "
            "same model (pass full vectors: cutting is done for both)"
        )


def check_queries(emb: ArrayLike, full_dim: int) -> tuple[np.ndarray, bool]:
    """(q, D) queries, and whether only one was given, of shape (D,)."""
    array = check_vectors("queries", emb)
    one = array.ndim == 1
    array = check_matrix("queries", array[None] if one else array)
    check_same_size("queries", array, "the corpus", full_dim)
    return check_finite("queries", array), one


def check_finite(name: str, array: np.ndarray, first: int = 0) -> np.ndarray:
    """Return the array, or name the row that holds a NaN; ``first`` is the number of row 0."""
    if array.dtype.kind != "f":
        return array
    finite = np.isfinite(array)
    if not finite.all():
        place = np.unravel_index(int(finite.argmin()), array.shape)
        row = first + int(place[0]) if place else first
        column = f" (number {place[1]} of the row)" if len(place) > 1 else ""
        raise WrongValue(
            f"{name} holds NaN or infinite numbers, first in row {row}: {array[place]}{column}"
        )
    return array


def check_steps(
    steps: Sequence[tuple[int, int]], full_dim: int, top_k: int
) -> list[tuple[int, int]]:
    """The steps of a funnel as plain integers, in an order that makes sense."""
    wanted = "steps must be (dim, size) pairs of integers"
    checked = []
    for step in _listed(steps, wanted):
        pair = _listed(step, wanted)
        message = f"{wanted}, got {_short(step)}"
        if len(pair) != 2:
            raise WrongKind(message)
        checked.append((_integer(pair[0], message), _integer(pair[1], message)))
    if not checked:
        raise WrongValue("steps is empty; give at least one (dim, size) pair such as (64, 200)")
    for dim, keep in checked:
        if not 1 <= dim <= full_dim:
            raise WrongValue(f"dim must be between 1 and {full_dim}, got {dim}")
        if keep < top_k:
            raise WrongValue(
                f"a shortlist of {keep} cannot hold top_k = {top_k} results; keep at least {top_k}"
            )
    for (dim, keep), (next_dim, next_keep) in zip(checked, checked[1:], strict=False):
        if next_dim <= dim:
            raise WrongValue(f"the dims of steps must ascend, but {next_dim} follows {dim}")
        if next_keep > keep:
            raise WrongValue(f"a step of {next_keep} rows cannot follow one of {keep}")
    return checked


# ------------------------------------------------------------- row numbers, labels and texts


def check_rows(name: str, rows: Any, count: int, *, of: str = "rows") -> np.ndarray:
    """Different whole row numbers from 0 to ``count`` - 1, as int64, in the given order.

    Args:
        name: of the argument, for the message.
        rows: a list, array, tensor or set of integers.
        count: how many rows there are.
        of: what the rows are, for the message.

    Raises:
        WrongKind: strings, floats, booleans (a mask is no list of row numbers), a mapping.
        WrongValue: a negative number, one that is too large, one that comes twice; the message
            says at which place.
    """
    if hasattr(rows, "detach"):
        rows = rows.detach().cpu().numpy()
    if isinstance(rows, np.ndarray) and rows.dtype.kind in "iu":
        rows = rows.tolist()
    listed = _listed(rows, f"{name} must be a list of row numbers")
    numbers: list[int] = []
    for place, row in enumerate(listed):
        if type(row) is not int:  # the message is made only where it may be needed
            row = _integer(
                row,
                f"{name} must hold row numbers (integers from 0 to {count - 1}), got "
                f"{_short(row)} ({type(row).__name__}) at place {place}",
            )
        if not 0 <= row < count:
            raise WrongValue(
                f"{name} holds {row} at place {place}, but there are {count} {of}: 0 to {count - 1}"
            )
        numbers.append(row)
    if len(set(numbers)) < len(numbers):
        seen: set[int] = set()
        place = next(i for i, row in enumerate(numbers) if row in seen or seen.add(row))
        raise WrongValue(f"{name} holds row {numbers[place]} twice, again at place {place}")
    return np.array(numbers, np.int64)


def check_relevant(relevant: Any, queries: int, corpus: int) -> list[np.ndarray]:
    """For each query the int64 rows of the corpus that answer it.

    Args:
        relevant: one row number per query, or one list (array, set) of row numbers per query. Or
            relevance judgements in their usual shape, a mapping from query number to rows, or to
            ``{row: grade}``: then every query from 0 on must be there, and grades of 0 do not
            count.
        queries, corpus: how many there are.

    Raises:
        WrongKind: string ids, floats, booleans or a matrix of zeros and ones in place of row
            numbers.
        WrongValue: another number of entries, a query without an answer, a row that does not
            exist or comes twice.
    """
    wanted = "relevant must be a list with one entry a query"
    if isinstance(relevant, (set, frozenset)):
        raise WrongKind(f"{wanted}, got a set, which has no order")
    if hasattr(relevant, "detach"):
        relevant = relevant.detach().cpu().numpy()
    if not isinstance(relevant, Mapping):
        shape = getattr(relevant, "shape", None)
        relevant = _listed(relevant, wanted)
    else:
        shape = None
    if shape is not None and len(shape) == 2 and tuple(shape) == (queries, corpus) and corpus > 1:
        raise WrongKind(
            f"relevant is a matrix of {queries} x {corpus} booleans or numbers, one column for "
            "each row of the corpus; row numbers are needed: [numpy.flatnonzero(row) for row in "
            "matrix]"
        )
    if len(relevant) != queries:
        raise WrongValue(
            f"{queries} queries need {queries} entries in relevant, got {len(relevant)}"
        )
    if isinstance(relevant, Mapping):
        check_rows("the keys of relevant", list(relevant), queries, of="queries")
        relevant = [relevant[query] for query in sorted(relevant)]
    checked = []
    for query, rows in enumerate(relevant):
        name = f"relevant[{query}]"
        rows = check_rows(name, _answers(name, rows), corpus, of="rows in the corpus")
        if not len(rows):
            raise WrongValue(f"query {query} has no relevant row; leave such queries out")
        checked.append(rows)
    return checked


def _answers(name: str, rows: Any) -> Any:
    """What stands in relevance judgements for one query, as a list that is still unchecked."""
    if isinstance(rows, Mapping):
        return [row for row, grade in rows.items() if check_number(f"grade in {name}", grade) > 0]
    if isinstance(rows, (set, frozenset)):
        return rows
    if isinstance(rows, (str, bytes)) or not hasattr(rows, "__iter__") or np.ndim(rows) == 0:
        return [rows]
    if isinstance(rows, tuple) and len(rows) == 2:
        raise WrongValue(
            f"{name} is the tuple {_short(rows)}, which could be (row, grade); give a list of row "
            "numbers, or a mapping {row: grade}"
        )
    return rows


def check_labels(name: str, labels: Any, rows: int | None) -> np.ndarray:
    """(rows,) int64 codes of labels: equal codes where labels are equal.

    Args:
        name: of the argument, for the message.
        labels: integers or strings, one for each row; not both.
        rows: how many there must be; None for any number but 0.

    Raises:
        WrongKind: floats, booleans, None, or integers and strings mixed.
        WrongValue: another number of them.
    """
    listed = _listed(labels, f"{name} must be a list with one label a row")
    listed = [x.item() if hasattr(x, "item") and np.ndim(x) == 0 else x for x in listed]
    if len(listed) != (rows or max(1, len(listed))):
        wanted = f"{rows} rows need {rows} {name}" if rows else f"{name} must hold at least one"
        raise WrongValue(f"{wanted}, got {len(listed)}")
    kind = str if listed and isinstance(listed[0], str) else int
    for place, label in enumerate(listed):
        if isinstance(label, bool) or not isinstance(label, kind):
            raise WrongKind(
                f"{name} must be all integers or all strings, got {_short(label)} "
                f"({type(label).__name__}) at place {place}"
            )
    codes = {label: code for code, label in enumerate(sorted(set(listed)))}
    return np.array([codes[label] for label in listed], np.int64)


def check_texts(name: str, texts: Any, *, blank: bool = True) -> list[str]:
    """A list of strings that can be written as UTF-8.

    Args:
        name: of the argument, for the message.
        texts: one column of texts; no single string, no table.
        blank: whether texts without a visible character are allowed.

    Raises:
        WrongKind: one string, a table, something else than strings; the message names the place.
        WrongValue: half a character (a lone surrogate), or a blank text where none is allowed.
    """
    if isinstance(texts, (str, bytes)) or not hasattr(texts, "__iter__"):
        raise WrongKind(f"{name} must be a list of strings, got {_short(texts)}")
    if isinstance(texts, Mapping) or hasattr(texts, "column_names") or hasattr(texts, "columns"):
        raise WrongKind(f"{name} must be one column of texts, such as data['text'], not a table")
    checked = list(texts)
    for row, text in enumerate(checked):
        check_text(f"{name}[{row}]", text, blank=blank)
    return checked


def check_text(name: str, text: Any, *, blank: bool = True) -> str:
    """One string that can be written as UTF-8; see :func:`check_texts`."""
    if not isinstance(text, str):
        raise WrongKind(f"{name} is {_short(text)}, not a string")
    if not blank and is_blank(text):
        raise WrongValue(f"{name} is blank; leave it out")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise WrongValue(
            f"{name} holds half a character (a lone surrogate, place {error.start}); read the file "
            "it came from as UTF-8"
        ) from None
    return text


def is_blank(text: str) -> bool:
    """Whether a text shows nothing: only white space, control and zero-width characters."""
    import unicodedata

    return all(c.isspace() or unicodedata.category(c) in ("Cc", "Cf") for c in text)


def _listed(value: Any, wanted: str) -> list:
    """The items of a list, array, set or iterator; of a text or a mapping that is an error."""
    try:
        if isinstance(value, (str, bytes, Mapping)):
            raise TypeError
        return sorted(value) if isinstance(value, (set, frozenset)) else list(value)
    except TypeError:  # no items, or a set of things that cannot be sorted
        raise WrongKind(f"{wanted}, got {_short(value)}") from None


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}... ({type(value).__name__})"


# ----------------------------------------------------------------------------------- warnings


def zero_rows(rows: np.ndarray) -> np.ndarray:
    """(n,) booleans: which of the (n, D) rows hold only zeros."""
    return np.asarray(~rows.any(axis=1))


def warn_zero_rows(name: str, zero: np.ndarray, first: int = 0, **others: np.ndarray) -> None:
    """Say once, at the caller's line, how many rows hold only zeros and where the first one is.

    Args:
        name: what the rows are, for the message.
        zero: (n,) booleans.
        first: the number of row 0.
        **others: more arrays of the same call, by name: (m,) booleans. All go into one warning.
    """
    found = [
        f"{int(np.count_nonzero(rows))} of {len(rows)} rows of {whose} hold only zeros, first row "
        f"{(first if whose == name else 0) + int(np.argmax(rows))}"
        for whose, rows in {name: zero, **others}.items()
        if rows.any()
    ]
    if found:
        warn(f"{'; '.join(found)}; they have no direction, and their cosine counts as 0")


def warn(message: str) -> None:
    """A UserWarning at the line outside this package from which it was called."""
    package = os.path.dirname(os.path.abspath(__file__)) + os.sep
    level, frame = 1, sys._getframe(0)
    while frame is not None and os.path.abspath(frame.f_code.co_filename).startswith(package):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)
