"""Read a person's own texts from a .txt or .csv file: all of it, or an error that names the line.

What is not understood is never read as something else: a separator that is not the one of the
header, a cell too many, a quotation mark that is not closed, another kind of file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mrl_course.arguments import is_blank
from mrl_course.demo.page import DemoCorpus
from mrl_course.errors import WrongValue
from mrl_course.files import user_path

COLUMNS = ("text", "name", "query")
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
LONGEST_CELL = 10_000_000  # characters; what is longer has lost a quotation mark
_LINE_END = re.compile(r"\r\n|\n|\r")


def read_corpus(path: str | Path) -> DemoCorpus:
    """Read texts, names and queries from a file in UTF-8.

    A .txt holds one text a line; blank lines do not count. A .csv has a first line with names of
    columns: ``text``, perhaps ``name`` and ``query``, in capitals or not; others are left alone.
    Its cells are divided by commas, semicolons, tabs or bars, whichever divides the first line, or
    by what a line ``sep=;`` above it says. A cell that holds the separator, a line end or a
    quotation mark at its beginning stands in quotation marks. Lines end with LF, CR LF or CR, and
    with nothing else.

    Args:
        path: the file; ``~`` is the home folder.

    Returns:
        A :class:`~mrl_course.demo.DemoCorpus`; ``queries`` are pairs (query, row of its text), and
        ``about`` says how many rows without a text were left out, if there were any.

    Raises:
        OSError: the file cannot be read.
        WrongValue: it is no .txt or .csv, no UTF-8, holds no text, or a line is not as it should
            be; the message names the line and what to do.
    """
    path = user_path(path)
    kind = path.suffix.lower()
    if kind not in (".txt", ".csv"):
        raise WrongValue(
            f"{path} is no .txt (one text a line) or .csv (with a column `text`); save it as one "
            "of these"
        )
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise WrongValue(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from None
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror or error}") from error
    if "\0" in content:
        raise WrongValue(f"{path} holds NUL characters, as UTF-16 does; save it as UTF-8")
    corpus = _lines(content) if kind == ".txt" else _table(content, path)
    if not corpus.texts:
        raise WrongValue(f"{path} holds no text; one per line, or a .csv with a column `text`")
    return corpus


def _lines(content: str) -> DemoCorpus:
    return DemoCorpus([line.strip() for line in _LINE_END.split(content) if not is_blank(line)])


def _table(content: str, path: Path) -> DemoCorpus:
    separator, start = _separator(content, path)
    records = _records(content, separator, path, start)
    _, header = next(records, (1, []))
    columns = _columns(header, separator, path)
    corpus, left_out = DemoCorpus([]), 0
    names: list[str] = []
    queries: list[tuple[str, int]] = []
    for line, cells in records:
        if len(cells) != len(header):
            marks = '; put a text that holds the separator into quotation marks ("...")'
            raise WrongValue(
                f"{path}, line {line} has {_count(len(cells), 'cell')}, and the header has "
                f"{len(header)}{marks if len(cells) > len(header) else ''}"
            )
        row = {column: cells[place].strip() for column, place in columns.items()}
        if is_blank(row["text"]):
            left_out += any(cell.strip() for cell in cells)
            continue
        if not is_blank(row.get("query", "")):
            queries.append((row["query"], len(corpus.texts)))
        names.append("(no name)" if is_blank(row.get("name", "")) else row["name"])
        corpus.texts.append(row["text"])
    corpus.queries = list(queries)
    if "name" in columns:
        corpus.names = names
    if left_out:
        corpus.about.append(f"{_count(left_out, 'row')} without a text left out.")
    return corpus


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _separator(content: str, path: Path) -> tuple[str, int]:
    """What divides the cells of a table, and the place in it where the header begins."""
    stated = re.match(r"\s*sep=([,;\t|])[ \t]*(?:\r\n|\n|\r)", content, re.IGNORECASE)
    if stated:  # as Excel writes it
        return stated[1], stated.end()
    found = []
    for separator in SEPARATORS:
        try:
            _, header = next(_records(content, separator, path, 0), (1, []))
        except WrongValue:
            continue
        if "text" in [_plain(cell) for cell in header]:
            return separator, 0
        found.append((len(header), separator))
    return max(found, key=lambda item: item[0])[1] if found else ",", 0


def _plain(name: str) -> str:
    return name.strip().lower()


def _columns(header: list[str], separator: str, path: Path) -> dict[str, int]:
    """Place of each column that is known, by name."""
    names = [_plain(name) for name in header]
    shown = ", ".join(cell.strip()[:60] for cell in header)
    if "text" not in names:
        raise WrongValue(
            f"{path} has no column `text`; its columns: {shown} (divided by "
            f"{SEPARATORS[separator]}). If the first line is a text already, write `text` above "
            "it, or save the texts one per line as .txt"
        )
    for name in COLUMNS:
        if names.count(name) > 1:
            raise WrongValue(f"{path} has more than one column `{name}`; its columns: {shown}")
    return {name: names.index(name) for name in COLUMNS if name in names}


def _records(
    content: str, separator: str, path: Path, start: int
) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table after RFC 4180, each with the number of the line where it begins.

    The library's ``csv`` has one limit on the length of a cell for the whole process, reads on to
    the end of the file after a quotation mark that is not closed, and names no line.
    """
    blank = "" if separator == "\t" else "\t"
    quoted = re.compile(rf'[ {blank}]*"([^"]*(?:""[^"]*)*)"[ {blank}]*')
    plain = re.compile(rf"[^{re.escape(separator)}\r\n]*")
    opens = re.compile(rf'[ {blank}]*"')
    line, place, cells, first = 1 + len(_LINE_END.findall(content, 0, start)), start, [], 0
    first = line
    while place < len(content) or cells:
        match = quoted.match(content, place)
        if match:
            cell = match[1].replace('""', '"')
        elif opens.match(content, place):
            raise WrongValue(f"{path}, line {line}: a quotation mark is not closed")
        else:
            match = plain.match(content, place)
            assert match is not None  # it matches nothing at all, too
            cell = match[0]
        if len(cell) > LONGEST_CELL:
            raise WrongValue(
                f"{path}, line {line}: a cell has {len(cell):,} characters, and at most "
                f"{LONGEST_CELL:,} are read; is a quotation mark missing?"
            )
        cells.append(cell)
        line += len(_LINE_END.findall(match[0]))
        place = match.end()
        if content.startswith(separator, place):
            place += 1
            continue
        end = _LINE_END.match(content, place)
        if end is None and place < len(content):
            raise WrongValue(
                f"{path}, line {line}: there is something behind a closing quotation mark; write "
                'a quotation mark inside a quoted cell twice ("")'
            )
        if len(cells) > 1 or not is_blank(cells[0]):
            yield first, cells
        place, line, cells = (end.end() if end else place), line + 1, []
        first = line
