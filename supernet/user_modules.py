"""Modules of the user's own: who may name one, how it is found, imported once per process, and called; whatever goes
wrong in it is one line.

A module is code. One that the user names, in the YAML file of a command or in a program, is imported. One that is named
inside a file which came from elsewhere, such as an architecture.json, is not, unless the user allows it: `permitted`.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import logging
import os
import shlex
import stat
import sys
import threading
import traceback
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from types import FunctionType, ModuleType
from typing import Any

import torch

log = logging.getLogger("supernet")

CHECKOUT = Path(__file__).resolve().parents[1]
MOST_BYTES = 16 << 20
"""The largest .py file that is imported."""
MOST_CHARACTERS = 4000
"""Of what an error of the user's code says."""
FIRST_WORD_S, NEXT_WORD_S = 10.0, 60.0
"""After how many seconds it is said that a user's code is being waited for, and how often from then on."""
_PREFIX = "_user_"  # of the names in sys.modules of files
_CALLERS = (CHECKOUT / "supernet", CHECKOUT / "search", Path(torch.__file__).parent)
_ON_THE_WAY = ("<", str(importlib.__file__), *(f"{folder}{os.sep}" for folder in _CALLERS))
"""What the names of files begin with that lie between a door and the user's code."""


def load(module: str) -> ModuleType:
    """Import a module, once per process.

    module: a dotted name ('my_package.ops') or a path to a .py file, looked for in the working folder and then beside
    this package, where the files of docs/examples/ are. Raises ValueError where it is not found or cannot be imported.
    """
    path = _found(module) if _is_path(module) else None
    try:
        with _waiting(f"{module} to be imported"):
            loaded = importlib.import_module(module) if path is None else _import_file(path)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        words = in_words(error)
        remedy = "correct it" if path or ", line " in words else "give a dotted module or a path to a .py file"
        raise ValueError(f"cannot import '{module}': {words}; {remedy}") from error
    if not isinstance(loaded, ModuleType):  # a module may put anything in its own place
        raise ValueError(f"cannot import '{module}': it gives a value of type {type(loaded).__name__}; correct it")
    return loaded


def call(module: str, function: str, *arguments: object) -> object:
    """What a function of a module returns. Raises ValueError where there is no such function, or where it raises."""
    return named_function(module, function)(*arguments)


def named_function(module: str, function: str, takes: Sequence[str] = ()) -> Callable[..., Any]:
    """A function of a module, which raises ValueError for whatever goes wrong in it. ValueError where there is none.

    takes: what it is called with, by name, for the message where it takes something else.
    """
    functions = _functions(load(module))
    if function not in functions:
        near = difflib.get_close_matches(function, functions, n=1)
        raise ValueError(
            f"'{module}' has no function '{function}', expected {' or '.join(functions) or 'one to be written there'}"
            + (f". Did you mean '{near[0]}'?" if near else "")
        )
    found = functions[function]
    where = f"'{module}': {function}()"
    for kind, is_kind in _KINDS_THAT_RETURN_NOTHING.items():
        if is_kind(found):
            raise ValueError(f"{where} is {kind}, expected a plain function that returns its result; correct it")

    def run(*arguments: Any) -> Any:
        _check_arguments(where, found, takes, arguments)
        with failures_named(where), _waiting(f"{where} to return"):
            value = found(*arguments)
        if inspect.iscoroutine(value) or inspect.isgenerator(value):
            value.close()  # one that is never awaited would warn about it
            raise ValueError(f"{where} returned a {type(value).__name__}, expected its result; correct it")
        return value

    return run


@contextmanager
def failures_named(where: str) -> Iterator[None]:
    """Turn whatever a user's code raises inside into a ValueError that begins with `where`; Ctrl-C alone stays."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ValueError(f"{where} failed: {in_words(error)}; correct it") from error


def permitted(modules: Sequence[str], allowed: Collection[str], called: Collection[str] = ()) -> tuple[str, ...]:
    """What `load` may be given for each of the modules that a file from elsewhere names; ValueError names the others.

    allowed: what the user allows: the same names, or paths that end with the path in the file and then decide which
    file is imported. What this process has imported already needs no permission, since importing it again runs nothing,
    unless it is in `called`, which are those whose functions will be called. A path that leads out of the working
    folder (absolute, `..`, `~`) always needs it, word for word.
    """
    found = [(module, _permitted(module, allowed, module in called)) for module in modules]
    if refused := [module for module, name in found if name is None]:
        strays = [module for module in refused if _leaves(module)]
        reason = f", and '{strays[0]}' leads out of the working folder" if strays else ""
        raise ValueError(
            f"the file would run {', '.join(map(repr, refused))}{reason}; read that code and, if you trust it, allow "
            f"it with --allow-modules {shlex.join(refused)} (allow_modules=[...] from Python)"
        )
    return tuple(name for _, name in found if name is not None)


def portable(modules: Sequence[str]) -> tuple[str, ...]:
    """The same modules for a file that is read elsewhere: paths that lead out of the working folder become relative to
    the framework's own folder, or as many of their last parts as tell them apart."""
    paths = {module: Path(module).expanduser().resolve() for module in modules if _leaves(module)}
    names = {module: module for module in modules if module not in paths}
    names |= {m: str(path.relative_to(CHECKOUT)) for m, path in paths.items() if path.is_relative_to(CHECKOUT)}
    left = {module: path for module, path in paths.items() if module not in names}
    for parts in range(1, max((len(path.parts) for path in left.values()), default=1)):
        short = {module: str(Path(*path.parts[-parts:])) for module, path in left.items()}
        if len({*short.values(), *names.values()}) == len({*left.values(), *names.values()}):
            return tuple(names.get(module) or short[module] for module in modules)
    return tuple(names.get(module) or left[module].name for module in modules)


def in_words(error: BaseException) -> str:
    """`my_ops.py, line 3: NameError: name 'x' is not defined`, of the last line of the user's file on the way there."""
    files = [(f.f_code.co_filename, line) for f, line in traceback.walk_tb(error.__traceback__)]
    files = [(name, line) for name, line in files if name and not name.startswith(_ON_THE_WAY)]
    place = ""
    if files:  # the first file behind ours is the user's; what it calls may be any library
        line = [line for name, line in files if name == files[0][0]][-1]
        place = f"{Path(files[0][0]).name}, line {line}: "
    return f"{place}{type(error).__name__}: {_text_of(error)}".removesuffix(": ")


def _text_of(error: BaseException) -> str:
    try:
        return " ".join(str(error)[:MOST_CHARACTERS].split())
    except KeyboardInterrupt:
        raise
    except BaseException as other:  # the user's own class, whose text fails  # noqa: BLE001
        return f"(its text fails with {type(other).__name__})"


def _is_path(module: str) -> bool:
    return module.endswith(".py")


def _leaves(module: str) -> bool:
    """Whether it is a path that leads out of the folder where it is looked for."""
    path = PurePath(module)
    return _is_path(module) and (path.is_absolute() or ".." in path.parts or module.startswith("~"))


def _permitted(module: str, allowed: Collection[str], called: bool) -> str | None:
    if module in allowed:
        return module
    if not _is_path(module):
        return module if module in sys.modules and not called else None
    if _leaves(module):
        return None
    imported = [] if called else [str(m.__file__) for name, m in sys.modules.items() if name.startswith(_PREFIX)]
    parts = PurePath(module).parts
    for path in (*filter(_is_path, allowed), *sorted(imported)):
        if parts in (PurePath(path).parts[-len(parts) :], _expanded(path).resolve().parts[-len(parts) :]):
            return path
    return None


def _found(file: str) -> Path:
    """The file below the working folder, or else below the checkout. ValueError where it is in neither."""
    for path in (_expanded(file), CHECKOUT / file):
        try:
            found = path.stat()
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it has a NUL character"
            raise ValueError(f"'{file}' cannot be read ({reason}); expected a .py file") from None
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"'{file}' is a folder, a device or a pipe; expected a .py file")
        if found.st_size > MOST_BYTES:
            raise ValueError(f"'{file}' has more than {MOST_BYTES >> 20} MB; expected a .py file")
        return path.resolve()
    raise ValueError(
        f"no such file '{file}', neither in the working folder nor in {CHECKOUT}; give a dotted module or a path to a "
        ".py file"
    )


def _expanded(file: str) -> Path:
    try:
        return Path(file).expanduser()
    except RuntimeError:
        raise ValueError(f"'{file}': there is no home folder of that name; write the path in full") from None


def _import_file(path: Path) -> ModuleType:
    name = f"{_PREFIX}{path.stem}_{zlib.crc32(str(path).encode(errors='surrogateescape')):08x}"
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
        sys.modules.pop(name, None)  # as if it had never been named; the file may have removed it itself
        if complete:
            sys.modules[name] = loaded
    return loaded


_KINDS_THAT_RETURN_NOTHING: dict[str, Callable[[object], bool]] = {
    "an `async def`": lambda f: inspect.iscoroutinefunction(f) or inspect.isasyncgenfunction(f),
    "a generator": inspect.isgeneratorfunction,
}
"""Kinds of functions of which a call computes nothing yet."""


def _functions(module: ModuleType) -> dict[str, Callable[..., object]]:
    """The public functions that a module defines; what it imports is not its own."""
    return {
        name: value
        for name, value in list(vars(module).items())
        if isinstance(value, FunctionType)
        and value.__module__ == module.__name__
        and isinstance(name, str)
        and not name.startswith("_")
    }


def _check_arguments(where: str, function: Callable[..., object], takes: Sequence[str], given: Sequence[Any]) -> None:
    """ValueError where the function cannot be called with so many arguments."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # one that a decorator has made up
        return
    try:
        signature.bind(*given)
    except TypeError as error:
        expected = f"({', '.join(takes)})" if takes else f"{len(given)} argument{'s' if len(given) != 1 else ''}"
        raise ValueError(f"{where} takes {signature}, expected it to take {expected}: {error}; correct it") from None


@contextmanager
def _waiting(what: str) -> Iterator[None]:
    """Say from time to time what is waited for, should it take long: a user's code may never end."""
    over = threading.Event()

    def remind() -> None:
        seconds = FIRST_WORD_S
        while not over.wait(seconds):
            log.warning("still waiting for %s; Ctrl-C stops", what)
            seconds = NEXT_WORD_S

    thread = threading.Thread(target=remind, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
