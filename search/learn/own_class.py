"""Finds classes of the user's own: forms of the loss, ways in which alpha learns."""

from __future__ import annotations

from typing import TypeVar

from engine.errors import InvalidError
from engine.nearest import nearest
from supernet.user_modules import load

T = TypeVar("T")


def own_class(reference: str, base: type[T], where: str = "") -> type[T]:
    """Returns the subclass of `base` that a reference names. Raises InvalidError, which names `where`, if there is
    none.

    reference: path/to/file.py:name or package.module:name.
    """
    module, _, name = reference.rpartition(":")
    classes = {
        key: value
        for key, value in vars(load(module)).items()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ not in (base.__module__, "builtins")
    }
    if name not in classes:
        found = f"'{module}' has no subclass of {base.__module__}.{base.__name__} called '{name}'"
        expected = " or ".join(classes) or "one to be written there"
        raise InvalidError(where, found, expected, suggestion=nearest(name, classes))
    return classes[name]
