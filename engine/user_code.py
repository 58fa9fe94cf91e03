"""Functions that a user wrote and a config names as `path/to/file.py:function` or `package.module:function`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from engine.errors import ConfigError, UserError


def load_function(reference: str, key: str) -> Callable[..., Any]:
    """The function that `reference` names; relative paths start at the working directory.

    key: the config's, which errors name. What the function raises when called comes as a UserError of one line.
    """
    where, _, name = reference.rpartition(":")
    if not where or not name.isidentifier():
        raise ConfigError(f"{key}: got '{reference}', expected path/to/file.py:function or package.module:function")
    module = _module(where, f"{key}: '{reference}'")
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"{key}: '{where}' has no function '{name}'; correct one of the two")

    def call(*args: Any) -> Any:
        with user_code(f"{key}: '{reference}'"):
            return function(*args)

    return call


@contextmanager
def user_code(what: str) -> Iterator[None]:
    """Turn whatever a user's code raises into one line with the place of its last frame."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"{what} raised {type(error).__name__}: {error} ({frame.filename}, line {frame.lineno}); correct it"
        ) from error


def _module(where: str, what: str) -> ModuleType:
    if not where.endswith(".py"):
        with user_code(what):
            return importlib.import_module(where)
    path = Path(where)
    if not path.is_file():
        raise ConfigError(f"{what}: no such file '{where}'; give a path to a .py file, or a dotted module")
    path = path.resolve()
    name = f"_user_{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # the file ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while the file runs
    try:
        with user_code(what):
            spec.loader.exec_module(module)
    except UserError:
        del sys.modules[name]
        raise
    return module
