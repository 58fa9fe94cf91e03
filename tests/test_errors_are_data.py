"""Errors are data until they are printed: whoever raises one passes its parts, and nobody reads a message back."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import errors
from engine.errors import InvalidError, UserError
from tests.packages import PACKAGES

CHECKOUT = Path(__file__).resolve().parents[1]


def kinds(cls: type) -> set[str]:
    """Returns the names of a class and its subclasses."""
    return {cls.__name__}.union(*map(kinds, cls.__subclasses__()))


def raised_as_one_text(tree: ast.AST, names: set[str]) -> Iterator[int]:
    """Yields the lines on which an error of one of the classes is made of a single text, its place."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name), args=[ast.Constant() | ast.JoinedStr() | ast.BinOp()], keywords=[]):
                if name in names:
                    yield node.lineno


@pytest.mark.parametrize("package", PACKAGES)
def test_every_error_is_raised_with_its_parts(package):
    files = sorted((CHECKOUT / package).rglob("*.py"))
    # Classes of packages that are not imported here count by their definition
    defined = {
        node.name
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef) and {b.id for b in node.bases if isinstance(b, ast.Name)} & kinds(UserError)
    }
    names = kinds(UserError) | kinds(InvalidError) | defined
    found = [
        f"{file.relative_to(CHECKOUT)}:{line}"
        for file in files
        for line in raised_as_one_text(ast.parse(file.read_text()), names)
    ]
    assert found == []


def test_an_error_made_of_one_text_is_seen():
    source = 'raise ConfigError(f"{path}: is damaged; copy it again")\nraise ConfigError(str(path), "is damaged")'
    assert list(raised_as_one_text(ast.parse(source), kinds(errors.UserError))) == [1]
