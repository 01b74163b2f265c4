"""The functions that a lesson defines, without a kernel: tests compare them with the package."""

from __future__ import annotations

import ast
from typing import Any

from IPython.core.inputtransformer2 import TransformerManager
from notebook_rules import REPOSITORY

from mrl_course.commands.lessons import read_notebook


def functions_of(name: str) -> dict[str, Any]:
    """Run the imports and function definitions of ``notebooks/<name>.ipynb``, and nothing else.

    Returns:
        All names they define. A function that needs a value of the lesson finds none: lessons
        pass values as arguments.
    """
    body: list[ast.stmt] = []
    for cell in read_notebook(REPOSITORY / "notebooks" / f"{name}.ipynb")["cells"]:
        if cell["cell_type"] != "code":
            continue
        source = TransformerManager().transform_cell(cell["source"])  # %pip is not Python
        kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef)
        body += [node for node in ast.parse(source).body if isinstance(node, kinds)]
    namespace: dict[str, Any] = {}
    exec(compile(ast.Module(body, type_ignores=[]), name, "exec"), namespace)
    return namespace
