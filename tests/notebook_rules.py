"""The rules that every stored notebook keeps, one small function each.

A rule takes a notebook as a dict and the path of its file, and returns a list of problems. The
path says what the notebook's links mean; only the rules about links read other files.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbval_numbers import count_numbers, prints_a_time, texts

from mrl_course.commands.lessons import FINDINGS_TAG, WIDGET_VIEW, clean_notebook, notebook_text

Rule = Callable[[dict, Path], list[str]]
RULES: list[Rule] = []

MAX_BYTES = 900_000
MAX_CODE_LINES = 25
REPOSITORY = Path(__file__).resolve().parents[1]
COLAB_GUARD = re.compile(r"""["']google\.colab["'] in sys\.modules""")
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:root|home|Users|tmp|work)/|\bC:\\|\bsite-packages\b")
TIMERS = {"perf_counter", "time_calls", "timeit", "seconds"}
"""Names by which a lesson measures a time; `seconds` is that of a training's history."""
COMMENT_MARKER = re.compile(r"^\s*#\s*(?:NBVAL_IGNORE_OUTPUT|NBVAL_SKIP)\b", re.MULTILINE)


def rule(function: Rule) -> Rule:
    """Add a function to the rules that every notebook keeps."""
    RULES.append(function)
    return function


# ------------------------------------------------------------------------ looking at cells


def cells_of(nb: dict, kind: str) -> Iterator[tuple[int, dict]]:
    """Yield the cells of a kind with their places, counted from 1 over all cells."""
    for number, cell in enumerate(nb["cells"], start=1):
        if cell["cell_type"] == kind:
            yield number, cell


def tags_of(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def outputs_of(nb: dict) -> Iterator[tuple[int, dict, dict]]:
    for number, cell in cells_of(nb, "code"):
        for output in cell.get("outputs", []):
            yield number, cell, output


def has_figure(cell: dict) -> bool:
    mimes = [mime for output in cell["outputs"] for mime in output.get("data", {})]
    return any(mime.startswith("image/") for mime in mimes)


def printed(cell: dict) -> str:
    """Return what a cell shows as text, without the stand-in text of its figures."""
    texts = []
    for output in cell["outputs"]:
        if output.get("name") == "stdout":
            texts.append(output["text"])
        elif not any(mime.startswith("image/") for mime in output.get("data", {})):
            texts.append(str(output.get("data", {}).get("text/plain", "")))
    return "\n".join(texts)


def prose(cell: dict) -> str:
    """Return a Markdown cell without its code, whose ``#`` and ``[]`` mean something else."""
    text = re.sub(r"^( *)(```+|~~~+).*?^ *\2", "", cell["source"], flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "code", text)


def headings(nb: dict) -> list[tuple[int, int, str]]:
    """Return (cell, level, text) of every heading."""
    found = []
    for number, cell in cells_of(nb, "markdown"):
        for line in prose(cell).splitlines():
            if match := re.match(r" {0,3}(#{1,6})\s+(.*?)\s*#*$", line):
                found.append((number, len(match[1]), match[2]))
            elif match := re.search(r"<h([1-6])[ >]", line, re.IGNORECASE):
                found.append((number, int(match[1]), line))
    return found


def links(cell: dict) -> list[str]:
    """Return the targets of all links and images in a Markdown cell."""
    text = prose(cell)
    targets = re.findall(r"\]\(\s*<?([^)\s>]*)", text)
    targets += re.findall(r"^ {0,3}\[[^\]]+\]:\s*<?([^\s>]+)", text, re.MULTILINE)
    targets += re.findall(r"""<(?:a|img)\b[^>]*?\b(?:href|src)=["']?([^"'\s>]+)""", text)
    return targets


@functools.cache
def syntax_tree(source: str) -> ast.Module:
    """Parse a code cell; ``!`` and ``%`` lines appear as calls of get_ipython()."""
    return ast.parse(TransformerManager().transform_cell(source))


def trees(nb: dict) -> Iterator[tuple[int, dict, ast.Module]]:
    for number, cell in cells_of(nb, "code"):
        try:
            yield number, cell, syntax_tree(cell["source"])
        except SyntaxError:
            continue  # `valid_python` reports it


# ------------------------------------------------------------------------ format and state


@rule
def valid_format(nb: dict, path: Path) -> list[str]:
    """The notebook is valid nbformat 4.5."""
    problems = []
    if (nb.get("nbformat"), nb.get("nbformat_minor")) != (4, 5):
        problems.append(f"format {nb.get('nbformat')}.{nb.get('nbformat_minor')}, not 4.5")
    errors = nbformat.validator.iter_validate(nbformat.from_dict(nb), version=4, version_minor=5)
    return problems + [str(error.message) for error in errors]


@rule
def counts_in_order(nb: dict, path: Path) -> list[str]:
    """Every code cell ran, in order, in a fresh kernel: otherwise nbval compares nothing."""
    counts = [cell.get("execution_count") for _, cell in cells_of(nb, "code")]
    expected = list(range(1, len(counts) + 1))
    return [] if counts == expected else [f"execution counts are {counts}, not 1..{len(counts)}"]


@rule
def kernel_is_python3(nb: dict, path: Path) -> list[str]:
    """Any other name exists on one machine only."""
    name = nb["metadata"].get("kernelspec", {}).get("name")
    return [] if name == "python3" else [f"the kernel is {name!r}, not 'python3'"]


@rule
def unique_ids(nb: dict, path: Path) -> list[str]:
    """Every cell has an id of its own, which keeps diffs readable."""
    counts = Counter(cell.get("id") for cell in nb["cells"])
    return [f"the id {id!r} belongs to {n} cells" for id, n in counts.items() if n > 1 or not id]


@rule
def clean_form(nb: dict, path: Path) -> list[str]:
    """The notebook holds nothing that clean_notebook would take out or change."""
    clean = notebook_text(clean_notebook(nb)).splitlines()
    lines = notebook_text(nb).splitlines()
    for number, (line, wanted) in enumerate(zip(lines, clean, strict=False), start=1):
        if line != wanted:
            return [
                f"line {number}: {line.strip()[:80]!r}; its clean form: {wanted.strip()[:80]!r}"
            ]
    return [] if len(lines) == len(clean) else ["the clean form is shorter or longer"]


@rule
def small_file(nb: dict, path: Path) -> list[str]:
    """GitHub and slow networks show small notebooks only."""
    size = len(notebook_text(nb).encode())
    return [] if size < MAX_BYTES else [f"{size:,} bytes; the limit is {MAX_BYTES:,}"]


# --------------------------------------------------------------------------------- outputs


@rule
def no_stderr(nb: dict, path: Path) -> list[str]:
    """Warnings are fixed, not stored."""
    return [
        f"cell {number} wrote to stderr: {output['text'][:80]!r}"
        for number, _, output in outputs_of(nb)
        if output.get("name") == "stderr"
    ]


@rule
def no_errors(nb: dict, path: Path) -> list[str]:
    """No cell failed, except those that show an error on purpose."""
    return [
        f"cell {number} failed with {output['ename']}: {output['evalue'][:80]}"
        for number, cell, output in outputs_of(nb)
        if output["output_type"] == "error" and "raises-exception" not in tags_of(cell)
    ]


@rule
def no_widgets(nb: dict, path: Path) -> list[str]:
    """Stored widgets stop GitHub from showing a notebook."""
    problems = ["widget state in the metadata"] if "widgets" in nb["metadata"] else []
    return problems + [
        f"cell {number} shows a widget"
        for number, _, output in outputs_of(nb)
        if WIDGET_VIEW in output.get("data", {})
    ]


@rule
def no_machine_paths(nb: dict, path: Path) -> list[str]:
    """A path of the author's machine means nothing to a reader, and differs in every run."""
    problems = []
    for number, cell in enumerate(nb["cells"], start=1):
        texts = [cell["source"]]
        for output in cell.get("outputs", []):
            data = {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/")}
            traceback = output.get("traceback", [])
            texts += [output.get("text", ""), output.get("evalue", ""), *map(str, data.values())]
            texts += [re.sub(r"\x1b\[[\d;]*m", "", line) for line in traceback]
        found = [match[0] for text in texts for match in MACHINE_PATH.finditer(text)]
        problems += [f"cell {number} names a machine's path: {text}" for text in sorted(set(found))]
    return problems


@rule
def figures_have_numbers(nb: dict, path: Path) -> list[str]:
    """A sentence with a number stands under each figure: nbval and screen readers see no image."""
    code = list(cells_of(nb, "code"))
    nothing = {"outputs": []}
    problems = []
    for (number, cell), (next_number, following) in zip(
        code, [*code[1:], (0, nothing)], strict=True
    ):
        follows = following if next_number == number + 1 else nothing
        lines = f"{printed(cell)}\n{printed(follows)}".splitlines()
        sentences = [
            line
            for line in lines
            if re.search(r"\d", line) and len(re.findall(r"[^\W\d]+", line)) > 2
        ]
        if has_figure(cell) and not sentences:
            problems.append(f"cell {number} shows a figure and no sentence with a number")
    return problems


# ----------------------------------------------------------------------------------- prose


@rule
def one_title(nb: dict, path: Path) -> list[str]:
    """The first cell holds the title, and there is one title."""
    places = [number for number, level, _ in headings(nb) if level == 1]
    return [] if places == [1] else [f"titles (level 1) in cells {places}, expected one, in cell 1"]


@rule
def headings_in_order(nb: dict, path: Path) -> list[str]:
    """No level is left out on the way down."""
    found = headings(nb)
    return [
        f"cell {number}: level {level} ({text}) follows level {above}"
        for (_, above, _), (number, level, text) in zip(found, found[1:], strict=False)
        if level > above + 1
    ]


@rule
def links_resolve(nb: dict, path: Path) -> list[str]:
    """Every link inside the repository leads to a file, a heading or an attachment."""
    anchors = {re.sub(r"\s+", "-", text).lower() for _, _, text in headings(nb)}
    problems = []
    for number, cell in cells_of(nb, "markdown"):
        for target in links(cell):
            parts = urlsplit(target)
            if parts.scheme == "attachment":
                good = parts.path in cell.get("attachments", {})
            elif parts.scheme or parts.netloc:
                continue
            elif parts.path:
                good = (path.parent / unquote(parts.path)).exists() and parts.path[0] != "/"
            else:
                good = unquote(parts.fragment).lower() in anchors
            if not good:
                problems.append(f"cell {number}: the link {target!r} leads nowhere")
    return problems


@rule
def neighbours_linked(nb: dict, path: Path) -> list[str]:
    """The first cell links the lesson before and the lesson after, as far as they exist."""
    lessons = sorted(file.name for file in path.parent.glob("[0-9][0-9]_*.ipynb"))
    before = [name for name in lessons if name < path.name][-1:]
    after = [name for name in lessons if name > path.name][:1]
    targets = links(nb["cells"][0]) if nb["cells"] else []
    return [
        f"the first cell does not link {name}" for name in before + after if name not in targets
    ]


@rule
def images_have_alt_text(nb: dict, path: Path) -> list[str]:
    """Every image in the text says in words what it shows."""
    problems = []
    for number, cell in cells_of(nb, "markdown"):
        text = prose(cell)
        images = re.findall(r"!\[\s*\](?:\(|\[)[^)\]]*", text)
        images += [
            tag
            for tag in re.findall(r"<img\b[^>]*>", text)
            if not re.search(r"""\balt=(?:"\s*[^"\s]|'\s*[^'\s])""", tag)
        ]
        problems += [f"cell {number}: no alt text in {image[:60]}" for image in images]
    return problems


@rule
def colab_badge(nb: dict, path: Path) -> list[str]:
    """The first cell holds the Colab badge, and it opens this very file."""
    settings = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    repository = re.search(r'^Homepage = "https://github\.com/(.+)"$', settings, re.MULTILINE)[1]
    link = f"https://colab.research.google.com/github/{repository}/blob/main/notebooks/{path.name}"
    targets = links(nb["cells"][0]) if nb["cells"] else []
    problems = [] if link in targets else [f"no link to {link} in the first cell"]
    if "https://colab.research.google.com/assets/colab-badge.svg" not in targets:
        problems.append("no Colab badge in the first cell")
    return problems


# ------------------------------------------------------------------------------------ code


@rule
def valid_python(nb: dict, path: Path) -> list[str]:
    """Every code cell can be parsed."""
    problems = []
    for number, cell in cells_of(nb, "code"):
        try:
            syntax_tree(cell["source"])
        except SyntaxError as error:
            problems.append(f"cell {number}: {error.msg} in line {error.lineno}")
    return problems


@rule
def no_shell_or_magics(nb: dict, path: Path) -> list[str]:
    """No ``!`` and ``%`` lines, except ``%pip`` in a cell that asks whether this is Colab."""
    problems = []
    for number, cell, tree in trees(nb):
        calls = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and ast.unparse(node.func.value) == "get_ipython()"
        ]
        for call in calls:
            pip = call.func.attr == "run_line_magic" and ast.unparse(call.args[0]) == "'pip'"
            if not (pip and COLAB_GUARD.search(cell["source"])):
                problems.append(
                    f"cell {number} has a shell line or magic: {ast.unparse(call)[:80]}"
                )
    return problems


@rule
def no_star_imports(nb: dict, path: Path) -> list[str]:
    """A reader sees where every name comes from."""
    return [
        f"cell {number} imports * from {node.module}"
        for number, _, tree in trees(nb)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"
    ]


@rule
def imports_resolve(nb: dict, path: Path) -> list[str]:
    """Every import works here, except in a ``try`` that expects an ImportError."""
    problems = []
    for number, _, tree in trees(nb):
        optional = {
            node
            for block in ast.walk(tree)
            if isinstance(block, ast.Try)
            and any(
                handler.type is not None
                and re.search("ImportError|ModuleNotFoundError", ast.unparse(handler.type))
                for handler in block.handlers
            )
            for statement in block.body
            for node in ast.walk(statement)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Import) and node not in optional:
                wanted = [(alias.name, "") for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node not in optional:
                module = "." * node.level + (node.module or "")
                wanted = [(module, alias.name) for alias in node.names]
            else:
                continue
            failed = [error for pair in wanted if (error := _import_error(*pair))]
            problems += [f"cell {number}: {error}" for error in failed]
    return problems


@functools.cache
def _import_error(module: str, name: str) -> str:
    """Import a module, or a name from it; return what went wrong, or nothing."""
    if module.startswith("google.colab"):
        return ""
    try:
        imported = importlib.import_module(module)
        if name not in ("", "*") and not hasattr(imported, name):
            importlib.import_module(f"{module}.{name}")
    except (ImportError, TypeError) as error:  # TypeError: relative, and there is no package
        return str(error)
    return ""


@rule
def short_code_cells(nb: dict, path: Path) -> list[str]:
    """A code cell fits on a screen with its output."""
    lengths = [(number, len(cell["source"].splitlines())) for number, cell in cells_of(nb, "code")]
    return [
        f"cell {number} has {length} lines; the limit is {MAX_CODE_LINES}"
        for number, length in lengths
        if length > MAX_CODE_LINES
    ]


@rule
def claims_are_folded(nb: dict, path: Path) -> list[str]:
    """A learner reads numbers: claims stand in one folded cell a section, and print one line."""
    problems = []
    in_section: Counter[str] = Counter()
    section = ""
    for number, cell in enumerate(nb["cells"], start=1):
        if cell["cell_type"] == "markdown":
            for line in prose(cell).splitlines():
                section = line if line.startswith("## ") else section
            continue
        claims = "check.claim(" in cell["source"]
        folded = FINDINGS_TAG in tags_of(cell)
        if claims and not (folded and "with check.findings():" in cell["source"]):
            problems.append(f"cell {number} makes claims outside a cell tagged {FINDINGS_TAG!r}")
        if folded:
            in_section[section] += 1
            if not cell["source"].startswith("# @title "):
                problems.append(f"cell {number} is folded and needs a first line `# @title ...`")
            if not re.fullmatch(r"✓ .* in this run\n?", printed(cell)):
                problems.append(f"cell {number} must print one line: ✓ ... in this run")
    return problems + [
        f"{section!r} has {count} cells of findings"
        for section, count in in_section.items()
        if count > 1
    ]


@rule
def no_empty_cells(nb: dict, path: Path) -> list[str]:
    """No cell is left over from editing."""
    return [
        f"cell {number} is empty"
        for number, cell in enumerate(nb["cells"], start=1)
        if not cell["source"].strip()
    ]


@rule
def only_times_are_ignored(nb: dict, path: Path) -> list[str]:
    """nbval compares every output, except of a cell that prints times measured in this lesson."""
    problems = []
    timed: set[str] = set()  # names that hold a time, or a function that takes one
    for number, cell in cells_of(nb, "code"):
        if "nbval-skip" in tags_of(cell) or COMMENT_MARKER.search(cell["source"]):
            problems.append(f"cell {number} is kept from nbval by something else than a tag for it")
        statements = []
        with contextlib.suppress(SyntaxError):  # `valid_python` reports it
            statements = syntax_tree(cell["source"]).body
        measured = [_touches(statement, timed) for statement in statements]
        if "nbval-ignore-output" not in tags_of(cell):
            continue
        if not any(measured):
            problems.append(f"cell {number} is not compared, and measures no time")
        elif not prints_a_time(cell["outputs"]):
            problems.append(f"cell {number} is not compared, and prints no time")
    return problems


def _touches(statement: ast.stmt, timed: set[str]) -> bool:
    """Tell whether a statement measures or uses a time, and add the names that it binds then."""
    names, bound = set(), set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.Name):
            (bound if isinstance(node.ctx, ast.Store) else names).add(node.id)
        elif isinstance(node, ast.FunctionDef):
            bound.add(node.name)
        # `times[k] = ...` and `times.append(...)` fill a name that they only read
        filled = node.value if isinstance(node, ast.Subscript) else None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            filled = node.func.value
        if isinstance(filled, ast.Name):
            bound.add(filled.id)
    if not names & (timed | TIMERS):
        return False
    timed |= bound
    return True


def compared_numbers(nb: dict) -> tuple[int, int]:
    """Return how many decimal and how many whole numbers nbval compares, ticks left out."""
    decimal = whole = 0
    for _, cell, output in outputs_of(nb):
        ignored = "nbval-ignore-output" in tags_of(cell)
        if ignored or any(mime.startswith("image/") for mime in output.get("data", {})):
            continue
        for kind, text in texts(output):
            findings = re.sub(r"^✓.*$", "", text, flags=re.MULTILINE)
            more = count_numbers(findings, html=kind == "text/html")
            decimal, whole = decimal + more[0], whole + more[1]
    return decimal, whole
