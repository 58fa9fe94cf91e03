"""Runs the cells of a notebook in this process, without Jupyter, which is a large dependency for one test."""

from __future__ import annotations

import ast
import contextlib
import io
import json
from pathlib import Path
from typing import Any


def sources(path: Path) -> list[str]:
    """Returns the text of each code cell."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]


def lines_of_code(path: Path) -> int:
    """Returns the number of lines in all code cells, blank ones and comments left out."""
    lines = (line.strip() for text in sources(path) for line in text.splitlines())
    return sum(bool(line) and not line.startswith("#") for line in lines)


def run_cells(path: Path) -> list[list[dict[str, Any]]]:
    """Runs all code cells in one namespace, in the current folder. Returns the outputs of each, as a notebook has them:
    what it prints, and the value of its last expression as text and as a picture, if it has one."""
    names: dict[str, Any] = {"__name__": "__main__"}
    return [_outputs(text, k, names) for k, text in enumerate(sources(path), 1)]


def _outputs(text: str, number: int, names: dict[str, Any]) -> list[dict[str, Any]]:
    tree = ast.parse(text)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    value = None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, f"cell {number}", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": printed.getvalue()})
    if value is not None:
        data = {"text/plain": repr(value)}
        if hasattr(value, "_repr_png_"):
            data["image/png"] = value._repr_png_()
        outputs.append({"output_type": "execute_result", "execution_count": number, "metadata": {}, "data": data})
    return outputs
