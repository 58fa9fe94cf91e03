"""Finds modules of the user's own, imports each once per process, and calls their functions. Any error in one becomes
an InvalidError, one line.

supernet/module_names.py decides whether a file may name a module.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import inspect
import logging
import os
import stat
import sys
import threading
import traceback
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from supernet.errors import InvalidError

log = logging.getLogger("supernet")

CHECKOUT = Path(__file__).resolve().parents[1]
MOST_BYTES = 16 << 20
"""The largest .py file that is imported."""
MOST_CHARACTERS = 4000
"""The most characters of a message of the user's code that are shown."""
FIRST_REMINDER_S, NEXT_REMINDER_S = 10.0, 60.0
"""Seconds until the first message that a user's code is still running, and between further ones."""
FILE_PREFIX = "_user_"
"""The beginning of the names in sys.modules of modules that are files."""
_CALLERS = (CHECKOUT / "supernet", CHECKOUT / "search", Path(torch.__file__).parent)
_ON_THE_WAY = ("<", str(importlib.__file__), *(f"{folder}{os.sep}" for folder in _CALLERS))
"""The beginnings of the names of files that lie between a script and the user's code in a traceback."""


def load(module: str) -> ModuleType:
    """Imports a module, once per process, and returns it.

    module: a dotted name ('my_package.ops') or a path to a .py file, looked for in the working folder and then beside
    this package, where the files of docs/examples/ are. Raises InvalidError if it is not found or cannot be imported.
    """
    path = _located(module) if is_path(module) else None
    try:
        with _waiting(f"{module} to be imported"):
            loaded = importlib.import_module(module) if path is None else _import_file(path)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        words = in_words(error)
        remedy = "correct it" if path or ", line " in words else "give a dotted module or a path to a .py file"
        raise InvalidError("", f"cannot import '{module}': {words}", remedy=remedy) from error
    if not isinstance(loaded, ModuleType):  # a module may replace itself by any object in sys.modules
        found = f"cannot import '{module}': it gives a value of type {type(loaded).__name__}"
        raise InvalidError("", found, remedy="correct it")
    return loaded


def file_of(module: str) -> Path | None:
    """Returns the file that a module is imported from, None for a module without a file. Raises InvalidError as `load`
    does.

    A path in a file from elsewhere may be only the end of the path that was imported (supernet/module_names.py).
    """
    if is_path(module):
        parts = Path(module).parts
        files = (Path(str(m.__file__)) for name, m in sys.modules.items() if name.startswith(FILE_PREFIX))
        imported = [file for file in files if file.parts[-len(parts) :] == parts]
        return _located(module) if len(imported) != 1 else imported[0]
    file = getattr(load(module), "__file__", None)
    return Path(file) if file else None


def call(module: str, function: str, *arguments: object) -> object:
    """Returns the result of a module's function. Raises InvalidError if there is no such function, or if it raises."""
    return named_function(module, function)(*arguments)


def named_function(module: str, function: str, takes: Sequence[str] = ()) -> Callable[..., Any]:
    """Returns a function of a module, wrapped so that any error in it becomes an InvalidError. Raises InvalidError if
    the module has no such function.

    takes: the names of the arguments that it is called with, for the message if it takes others.
    """
    functions = _functions(load(module))
    if function not in functions:
        near = difflib.get_close_matches(function, functions, n=1, cutoff=0.7)
        raise InvalidError(
            "",
            f"'{module}' has no function '{function}'",
            " or ".join(functions) or "one to be written there",
            suggestion=near[0] if near else "",
        )
    own = functions[function]
    where, call = f"'{module}'", f"{function}()"
    for kind, is_kind in _KINDS_THAT_RETURN_NOTHING.items():
        if is_kind(own):
            raise InvalidError(where, f"{call} is {kind}", "a plain function that returns its result", "correct it")

    def run(*arguments: Any) -> Any:
        _check_arguments(where, call, own, takes, arguments)
        with failures_named(call, where), _waiting(f"{where}: {call} to return"):
            value = own(*arguments)
        if inspect.iscoroutine(value) or inspect.isgenerator(value):
            value.close()  # a coroutine that is never awaited would print a warning
            raise InvalidError(where, f"{call} returned a {type(value).__name__}", "its result", "correct it")
        return value

    return run


@contextmanager
def failures_named(call: str, where: str = "") -> Iterator[None]:
    """Turns whatever a user's code raises inside into an InvalidError that names the call and its place. Only Ctrl-C
    passes unchanged."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise InvalidError(where, f"{call} failed: {in_words(error)}", remedy="correct it") from error


def in_words(error: BaseException) -> str:
    """Returns `my_ops.py, line 3: NameError: name 'x' is not defined`: the error, and the last line of the user's file
    in its traceback."""
    files = [(f.f_code.co_filename, line) for f, line in traceback.walk_tb(error.__traceback__)]
    files = [(name, line) for name, line in files if name and not name.startswith(_ON_THE_WAY)]
    place = ""
    if files:  # the first file behind ours is the user's; what it calls may be any library
        line = [line for name, line in files if name == files[0][0]][-1]
        place = f"{Path(files[0][0]).name}, line {line}: "
    return f"{place}{type(error).__name__}: {_text_of(error)}".removesuffix(": ")


def presentable(text: str) -> str:
    """Returns a text of the user's code as one line that any message can hold: half a surrogate pair is written out."""
    return " ".join(text[:MOST_CHARACTERS].split()).encode(errors="backslashreplace").decode()


def _text_of(error: BaseException) -> str:
    """Returns the text of an exception of the user's code, whatever its `__str__` does."""
    try:
        return presentable(str(error))
    except KeyboardInterrupt:
        raise
    except BaseException as other:  # the user's own class, whose __str__ fails  # noqa: BLE001
        return f"(its text fails with {type(other).__name__})"


def is_path(module: str) -> bool:
    """Returns whether a module is named as a file rather than as Python names it."""
    return module.endswith(".py")


def _located(file: str) -> Path:
    """Returns the path of a file in the working folder, or else beside this package. Raises InvalidError if it is in
    neither place."""
    for path in (expanded(file), CHECKOUT / file):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it has a NUL character"
            raise InvalidError("", f"'{file}' cannot be read ({reason})", "a .py file") from None
        if not stat.S_ISREG(status.st_mode):
            raise InvalidError("", f"'{file}' is a folder, a device or a pipe", "a .py file")
        if status.st_size > MOST_BYTES:
            raise InvalidError("", f"'{file}' has more than {MOST_BYTES >> 20} MB", "a .py file")
        return path.resolve()
    raise InvalidError(
        "",
        f"no such file '{file}', neither in the working folder nor in {CHECKOUT}",
        remedy="give a dotted module or a path to a .py file",
    )


def expanded(file: str) -> Path:
    """Returns the path with `~` replaced by the home folder. Raises InvalidError if there is no such user."""
    try:
        return Path(file).expanduser()
    except RuntimeError:
        found = "there is no home folder of that name"
        raise InvalidError(f"'{file}'", found, remedy="write the path in full") from None


def _import_file(path: Path) -> ModuleType:
    """Imports a .py file under a name of its own in sys.modules, once per process."""
    name = f"{FILE_PREFIX}{path.stem}_{zlib.crc32(str(path).encode(errors='surrogateescape')):08x}"
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
        sys.modules.pop(name, None)  # as before the import; the file may have removed it itself
        if complete:
            sys.modules[name] = loaded
    return loaded


_KINDS_THAT_RETURN_NOTHING: dict[str, Callable[[object], bool]] = {
    "an `async def`": lambda f: inspect.iscoroutinefunction(f) or inspect.isasyncgenfunction(f),
    "a generator": inspect.isgeneratorfunction,
}
"""Kinds of functions whose call computes nothing yet."""


def _functions(module: ModuleType) -> dict[str, Callable[..., object]]:
    """Returns the public functions that a module defines itself, by name: plain ones, those that functools.cache or
    functools.partial wraps, and objects with `__call__`."""
    return {
        name: value
        for name, value in list(vars(module).items())
        if isinstance(name, str)
        and not name.startswith("_")
        and callable(value)
        and not isinstance(value, type)
        and _defined_in(value) == module.__name__
    }


def _defined_in(function: object) -> object:
    """Returns the name of the module that defines a function, None if it is not known."""
    while isinstance(function, functools.partial):
        function = function.func
    try:
        return getattr(function, "__module__", None)
    except Exception:  # an object of the user's own, whose attributes may do anything  # noqa: BLE001
        return None


def _check_arguments(
    where: str, call: str, function: Callable[..., object], takes: Sequence[str], given: Sequence[Any]
) -> None:
    """Raises InvalidError if the function cannot be called with so many arguments."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a signature that a decorator has made up
        return
    try:
        signature.bind(*given)
    except TypeError as error:
        expected = f"({', '.join(takes)})" if takes else f"{len(given)} argument{'s' if len(given) != 1 else ''}"
        raise InvalidError(
            where, f"{call} takes {signature}", f"it to take {expected}: {error}", "correct it"
        ) from None


@contextmanager
def _waiting(what: str) -> Iterator[None]:
    """Logs a reminder from time to time if the code inside takes long, since a user's code may never end. what: the
    event that is waited for, in words."""
    over = threading.Event()

    def remind() -> None:
        seconds = FIRST_REMINDER_S
        while not over.wait(seconds):
            log.warning("still waiting for %s; Ctrl-C stops", what)
            seconds = NEXT_REMINDER_S

    thread = threading.Thread(target=remind, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
