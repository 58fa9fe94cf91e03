"""Modules of the user's own: found, imported once per process, and whatever goes wrong in them told in one line."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]


def load(module: str) -> ModuleType:
    """Import a module, once per process.

    module: a dotted name ('my_package.ops') or a path to a .py file, looked for in the working folder and then beside
    this package, where the files of docs/examples/ are. Raises ValueError where it is not found or cannot be imported.
    """
    path = _found(module) if module.endswith(".py") else None
    try:
        return importlib.import_module(module) if path is None else _import_file(path)
    except (Exception, SystemExit) as error:
        words = _in_words(error)
        remedy = "correct it" if path or ", line " in words else "give a dotted module or a path to a .py file"
        raise ValueError(f"cannot import '{module}': {words}; {remedy}") from error


def file_of(module: str) -> Path | None:
    """The file that a module is imported from; None for one without a file. Raises ValueError as `load` does."""
    if module.endswith(".py"):
        return _found(module)
    file = getattr(load(module), "__file__", None)
    return Path(file) if file else None


def call(module: str, function: str, *arguments: object) -> object:
    """What a function of a module returns. Raises ValueError where there is no such function, or where it raises."""
    return named_function(module, function)(*arguments)


def named_function(module: str, function: str) -> Callable[..., Any]:
    """A function of a module, which raises ValueError for whatever goes wrong in it. ValueError where there is none."""
    functions = _functions(load(module))
    if function not in functions:
        near = difflib.get_close_matches(function, functions, n=1)
        raise ValueError(
            f"'{module}' has no function '{function}', expected {' or '.join(functions) or 'one to be written there'}"
            + (f". Did you mean '{near[0]}'?" if near else "")
        )

    def run(*arguments: Any) -> Any:
        try:
            return functions[function](*arguments)
        except (Exception, SystemExit) as error:
            raise ValueError(f"'{module}': {function}() failed: {_in_words(error)}; correct it") from error

    return run


def _found(file: str) -> Path:
    """The file below the working folder, or else below the checkout. ValueError where it is in neither."""
    for path in (Path(file).expanduser(), CHECKOUT / file):
        if path.is_file():
            return path.resolve()
    raise ValueError(
        f"no such file '{file}', neither in the working folder nor in {CHECKOUT}; give a dotted module or a path to a "
        ".py file"
    )


def _import_file(path: Path) -> ModuleType:
    name = f"_user_{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded  # dataclasses look their module up while the file runs
    complete = False
    try:
        spec.loader.exec_module(loaded)
        complete = True
    finally:
        if not complete:  # as if it had never been named
            del sys.modules[name]
    return loaded


def _functions(module: ModuleType) -> dict[str, Callable[..., object]]:
    """The public functions that a module defines; what it imports is not its own."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, FunctionType) and value.__module__ == module.__name__ and not name.startswith("_")
    }


def _in_words(error: BaseException) -> str:
    """`my_ops.py, line 3: NameError: name 'x' is not defined`, of the last line of the user's file on the way there."""
    passed = {__file__, importlib.__file__}
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename not in passed and f.filename[0] != "<"]
    place = ""
    if frames:  # the first file behind ours is the user's; what it calls may be any library
        line = [f.lineno for f in frames if f.filename == frames[0].filename][-1]
        place = f"{Path(frames[0].filename).name}, line {line}: "
    return f"{place}{type(error).__name__}: {' '.join(str(error).split())}"
