"""How a fresh run of the lessons is compared with what they store: a pytest plugin around nbval.

Processors round differently, and a training multiplies the last bits: the same lesson prints .43
on one machine and .42 on another. So a decimal number agrees with the stored one if, as decimals,
they differ by at most one unit of the stored number's last digit. All else is compared exactly:
words, their order, whole numbers ("97 %" and "1,536" too), ``nan`` and ``inf``, versions such as
``0.6.2``, HTML tags, how many lines there are, and everything that nbval compares besides text.

If a number is longer or shorter than the stored one, the columns of its table move. Only then runs
of blanks and of rules (``-----``) may differ in length, in this one output.

What the comparison cannot see: a stored ``0.5`` and a new ``0.58``, if another format came with
another value; a number without a point or with nothing after it (``1.``, as NumPy writes it, or
``1e-06``) is exact, so print such residues as a bound; pictures, which nbval does not compare
either.

nbval marks the cells after a time-out as expected to fail, and counts a skipped cell as fine: a
slow machine would be green without having been tested. With this plugin every such cell is red,
and says why. So is a cell whose output is ignored (``nbval-ignore-output``) and holds no time.

The plugin is on in every ``pytest --nbval`` below the repository's ``conftest.py``; elsewhere it
is ``-p nbval_numbers`` with this folder on the path.
"""

from __future__ import annotations

import copy
import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from decimal import Decimal

import pytest

COMPARED = ("stdout", "stderr", "text/plain", "text/html")
"""The texts in which decimal numbers may differ; nbval itself compares the others."""

OUTPUT_TIMEOUT = 60
"""Seconds to wait for the outputs of a finished cell; nbval's 5 are too few for a busy machine."""

NUMBER = re.compile(
    r"""
    (?<![\w.])                              # not within a word, a hash or a version
    [+\-\u2212]?                            # a minus between two numbers (1-8) is no sign
    (?: \d+\.(?=[\s\],;)eE]|$) | (?: \d{1,3}(?:,\d{3})+ | \d+ ) (?: \.\d+ )? | \.\d+ )
    (?: [eE][+-]?\d+ )?
    (?! \.?\d )                             # 0.6.2 is a version
    """,
    re.VERBOSE,
)
TAG = re.compile(r"<[^<>]*>")
RULE = re.compile(r"([-=_~─━═])\1{2,}")

TIME = re.compile(
    r"""
    \d \s? (?: s | ms | [µμu]s | ns | sec | seconds? | minutes? | min | milliseconds? ) \b
    | \b (?: ms | [µμ]s | seconds | milliseconds | minutes ) \b   # in the head of a column
    | (?: \ba | \bper | / ) \s? (?: s | second ) \b               # a rate
    | \d \s? (?: x | times ) \s (?: as\s )? (?: fast | slow | long )
    """,
    re.VERBOSE | re.IGNORECASE,
)


# ------------------------------------------------------------------------------- two numbers


def is_decimal(number: str) -> bool:
    """Tell whether a number has digits after the point, so that it may differ in the last one."""
    return re.search(r"\.\d", number) is not None


def value(number: str) -> Decimal:
    return Decimal(number.replace(",", "").replace("\u2212", "-"))


def last_unit(number: str) -> Decimal:
    """Return one unit of a number's last digit: 0.01 for ``0.42``, 100 for ``1.5e3``."""
    return Decimal(1).scaleb(value(number).as_tuple().exponent)


def numbers_agree(stored: str, got: str) -> bool:
    """Compare two numbers as they are printed; the stored one says how exactly."""
    if stored == got:
        return True
    if not is_decimal(stored) or "." not in got:
        return False
    if (
        got.startswith("+")
        if stored[0] not in "+-\u2212"
        else stored[0] == "+" and got[0].isdigit()
    ):
        return False  # a format with explicit signs became one without, or the reverse
    return abs(value(stored) - value(got)) <= last_unit(stored)


# --------------------------------------------------------------------------------- two texts


def pieces(text: str, html: bool = False) -> Iterator[tuple[str, bool]]:
    """Cut a text into (piece, whether it is a number); together they are the text."""
    tags = [match.span() for match in TAG.finditer(text)] if html else []
    start = 0
    for tag, after in [*tags, (len(text), len(text))]:
        for match in NUMBER.finditer(text, start, tag):
            yield text[start : match.start()], False
            yield match[0], True
            start = match.end()
        yield text[start:tag], False
        yield text[tag:after], False
        start = after


def count_numbers(text: str, html: bool = False) -> tuple[int, int]:
    """Return how many decimal and how many whole numbers of a text are compared."""
    found = [is_decimal(piece) for piece, number in pieces(text, html) if number]
    return sum(found), len(found) - sum(found)


def tokens(line: str, html: bool = False) -> list[tuple[str, bool]]:
    """Return the words and numbers of a line, without blanks; rules get one length."""
    found = []
    for piece, number in pieces(line, html):
        if number or (html and TAG.fullmatch(piece)):
            found.append((piece, number))
        else:
            found += [(RULE.sub(r"\1\1\1", word), False) for word in piece.split()]
    return found


def disagreement(stored: str, got: str, html: bool = False) -> str:
    """Return where and how two texts disagree, or nothing."""
    lines, new_lines = stored.split("\n"), got.split("\n")
    moved = False  # by a number that is longer or shorter than the stored one
    bent = ""  # the first line whose blanks or rules differ
    for place, (line, new_line) in enumerate(zip(lines, new_lines, strict=False), start=1):
        old, new = tokens(line, html), tokens(new_line, html)
        both = f"\n  stored: {line}\n  got:    {new_line}"
        if problem := _first_difference(old, new):
            return f"line {place}: {problem}{both}"
        pairs = zip(old, new, strict=True)
        moved |= any(number and len(a) != len(b) for (a, number), (b, _) in pairs)
        if not bent and _without_numbers(line, html) != _without_numbers(new_line, html):
            bent = f"line {place}: blanks or rules differ, and no number changed its length{both}"
    if len(lines) != len(new_lines):
        shorter, longer = sorted((lines, new_lines), key=len)
        kind = "missing" if longer is lines else "new"
        return (
            f"stored are {len(lines)} lines, got {len(new_lines)}; {kind}: {longer[len(shorter)]!r}"
        )
    return "" if moved else bent


def _first_difference(old: list[tuple[str, bool]], new: list[tuple[str, bool]]) -> str:
    place = 0
    for (stored, number), (got, new_number) in zip(old, new, strict=False):
        place += number
        if number and new_number:
            if not numbers_agree(stored, got):
                margin = (
                    f"may differ by {last_unit(stored):f}" if is_decimal(stored) else "must agree"
                )
                return f"number {place} is stored as {stored}, got {got}; they {margin}"
        elif (stored, number) != (got, new_number):
            return f"stored is {stored!r}, got {got!r}"
    if len(old) != len(new):
        shorter, longer = sorted((old, new), key=len)
        kind = "missing" if longer is old else "new"
        return f"{kind} is {longer[len(shorter)][0]!r}"
    return ""


def _without_numbers(line: str, html: bool) -> str:
    return "".join("0" if number else piece for piece, number in pieces(line, html))


# ------------------------------------------------------------------------------- the outputs


def texts(output: dict) -> Iterator[tuple[str, str]]:
    """Yield (kind, text) of an output, for the kinds in which numbers are compared."""
    if output["output_type"] == "stream":
        yield output["name"], output["text"]
    for kind, text in output.get("data", {}).items():
        if kind in COMPARED:
            yield kind, text


def prints_a_time(outputs: Iterable[dict]) -> bool:
    """Tell whether outputs hold a duration, a rate, or how many times as fast something is."""
    return any(TIME.search(text) for output in outputs for _, text in texts(output))


def adopt_what_agrees(outputs: list[dict], stored: list[dict]) -> list[str]:
    """Replace each new text that agrees by the stored one; return how the others disagree.

    nbval compares the texts of a kind in their order, wherever they stand among other kinds.
    """
    wanted: dict[str, list[str]] = defaultdict(list)
    for output in stored:
        for kind, text in texts(output):
            wanted[kind].append(text)
    left = {kind: iter(found) for kind, found in wanted.items()}
    problems = []
    for output in outputs:
        for kind, text in texts(output):
            expected = next(left.get(kind, iter(())), None)
            if expected is None:
                continue  # nbval says what is new
            if problem := disagreement(expected, text, html=kind == "text/html"):
                problems.append(f"{kind}, {problem}")
            elif output["output_type"] == "stream":
                output["text"] = expected
            else:
                output["data"][kind] = expected
    return problems


# ------------------------------------------------------------------------------- the plugin


class LessonCell:
    """What this plugin changes in nbval's cell, which offers no hooks."""

    def setup(self) -> None:
        self.output_timeout = OUTPUT_TIMEOUT  # and no mark: after a time-out nbval sets `xfail`

    def runtest(self) -> None:
        if self.parent.timed_out:
            self.raise_cell_error("Not tested, because a cell before this one timed out")
        if self.options["skip"]:
            self.raise_cell_error("Not tested, because the cell is tagged nbval-skip")
        super().runtest()
        if self.parent.timed_out:  # it caught the interrupt, and its outputs agree
            limit = self.config.option.nbval_cell_timeout
            self.raise_cell_error(f"The cell took longer than {limit:g} seconds")
        if self.cell.execution_count is None:
            self.raise_cell_error("Not compared, because the stored cell was never run")
        if not self.options["check"] and not prints_a_time(self.test_outputs):
            self.raise_cell_error("Not compared, though the cell prints no time")

    def compare_outputs(self, test: list, ref: list, skip_compare=None) -> bool:
        test = copy.deepcopy(test)
        problems = adopt_what_agrees(test, ref)
        same = super().compare_outputs(test, ref, skip_compare)
        self.comparison_traceback[:0] = problems
        return same


@functools.cache
def strict(cell_class: type) -> type:
    return type("LessonCell", (LessonCell, cell_class), {})


def pytest_itemcollected(item: pytest.Item) -> None:
    if type(item).__name__ == "IPyNbCell" and item.config.option.nbval:
        item.__class__ = strict(type(item))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item):
    """Turn red whatever else pytest would count as neither passed nor failed."""
    report = yield
    if isinstance(item, LessonCell) and (report.skipped or hasattr(report, "wasxfail")):
        reason = getattr(report, "wasxfail", "") or str(report.longrepr)
        report.__dict__.pop("wasxfail", None)
        report.outcome = "failed"
        report.longrepr = f"Not tested: the cell was skipped or expected to fail ({reason})"
    return report
