"""Finds the warnings in the sources, for test_troubleshooting.py."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.packages import PACKAGES

FOLDERS = (*PACKAGES, "scripts")
MAKERS = (
    "new_warnings", "undecided", "notes", "unreliable", "_unproven", "_unfinished", "_verdict", "_disturbed", "misses",
    "verdict", "print_fit", "_of_the_prior",
)  # fmt: skip
"""Functions that return or print the text of a warning. Each sentence in them counts as one."""
VARIABLE = "\0"
_COMMAND = re.compile(r"(scripts/\w+\.py|proxyless-nas)( \w+)?")
_CONVERSION = re.compile(r"%[-+#0 ]*[\d.]*[sdifgeruxX%]")
FEWEST_LETTERS = 8
"""A text with fewer letters, such as '{path}: {error}', says nothing by itself: its parts are made elsewhere."""


@dataclass(frozen=True)
class Text:
    """The text of a warning, and where it stands."""

    where: str
    fragments: tuple[str, ...]
    """What is between its variable parts, in order."""

    def is_in(self, line: str) -> bool:
        """Whether the line has all fragments, in order."""
        at = 0
        for fragment in self.fragments:
            found = line.find(fragment, at)
            if found < 0:
                return False
            at = found + len(fragment)
        return True


def all_warnings(checkout: Path) -> list[Text]:
    """Returns the texts of all warnings that the packages can print."""
    return [
        text
        for package in FOLDERS
        for path in sorted((checkout / package).rglob("*.py"))
        for text in _of_a_file(path, str(path.relative_to(checkout)))
    ]


def makers(checkout: Path) -> set[str]:
    """Returns the names of MAKERS that are functions of the packages."""
    files = (path for package in FOLDERS for path in (checkout / package).rglob("*.py"))
    nodes = (node for path in files for node in ast.walk(ast.parse(path.read_text())))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)} & set(MAKERS)


def _of_a_file(path: Path, name: str) -> Iterator[Text]:
    text = path.read_text()
    if not any(word in text for word in ("warning", "Note", "Check", "notes.append", *MAKERS)):
        return  # saves most of the time
    for function in ast.walk(ast.parse(text)):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in _found(function):
            for template in _templates(node, function):
                parts = [part.strip(" :;,.()'`\n") for part in _COMMAND.sub(VARIABLE, template).split(VARIABLE)]
                fragments = tuple(part for part in parts if len(part) > 3)
                if sum(map(len, fragments)) >= FEWEST_LETTERS:
                    yield Text(f"{name}:{node.lineno}", fragments)


def _found(function: ast.FunctionDef) -> Iterator[ast.expr]:
    """Yields the expressions in a function that are texts of warnings."""
    nodes = list(ast.walk(function))
    inner = [part for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values]
    for node in nodes:
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            level = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
            if called in ("warning", "Note") and node.args:
                yield node.args[level == "%s"]
            elif called == "Check" and level == "warn":
                yield node.args[2]
            elif called == "append" and ast.unparse(node.func).endswith("notes.append"):
                yield node.args[0]
        if function.name in MAKERS and isinstance(node, ast.Constant | ast.JoinedStr) and node not in inner:
            words = "".join(_templates(node, function)).split()
            if len(words) >= 5 and not _is_docstring(node, function):
                yield node


def _is_docstring(node: ast.expr, function: ast.FunctionDef) -> bool:
    first = function.body[0]
    return isinstance(first, ast.Expr) and first.value is node


def _templates(node: ast.expr, function: ast.FunctionDef) -> list[str]:
    """Returns what the expression may read, with VARIABLE in place of what is only known at run time."""
    if isinstance(node, ast.Constant):
        if not isinstance(node.value, str):
            return []
        return [_CONVERSION.sub(lambda m: "%" if m[0] == "%%" else VARIABLE, node.value)]
    if isinstance(node, ast.JoinedStr):
        return ["".join(part.value if isinstance(part, ast.Constant) else VARIABLE for part in node.values)]
    if isinstance(node, ast.IfExp):
        return _templates(node.body, function) + _templates(node.orelse, function)
    if isinstance(node, ast.BinOp):
        return _templates(node.left, function) + _templates(node.right, function)
    if isinstance(node, ast.Call):  # one_line(...)
        return [text for argument in node.args for text in _templates(argument, function)]
    if isinstance(node, ast.Name):
        given = [
            n.value
            for n in ast.walk(function)
            if isinstance(n, ast.Assign | ast.AugAssign)
            and any(getattr(t, "id", "") == node.id for t in (n.targets if isinstance(n, ast.Assign) else [n.target]))
        ]
        return [text for value in given if not isinstance(value, ast.Name) for text in _templates(value, function)]
    return []
