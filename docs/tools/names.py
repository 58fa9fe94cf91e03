"""Writes the reference of the commands and of the Python names, for hooks.py."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

FACE = "proxyless_nas"
EXTENSION = {
    "engine.data": ("OwnSet", "Arrays", "Files"),
    "supernet.catalogue": ("register", "Candidate"),
    "supernet.ops": ("OpSettings", "ConvBN", "ConvBNAct"),
    "supernet.complexity": ("Complexity", "conv_complexity", "linear_complexity"),
    "search.learn.reinforce": ("Sampled",),
    "proxyless_nas_tensorflow": ("keras_model", "export_saved_model", "build", "InTorch"),
}
"""The names that modules of a user's own import, beside those of the face."""

PYTHON = """# Python

`import proxyless_nas as pn` has all names of the first part; each is imported when it is first used.
[My own program](../extending/python.md) shows them at work.
"""
NAMES_FOR_EXTENSIONS = """# Names for extensions

Modules of your own import these: see [Extending](../extending/README.md), and
[Published networks](../published.md#in-tensorflow) for those of proxyless_nas_tensorflow.
"""
ALL_COMMANDS = """# Every command

`proxyless-nas COMMAND --help` prints the same. A mistake in a file or an argument ends a command with one line and exit
status 2; Ctrl-C ends it with 130, SIGTERM with 143.
"""


def _face() -> Any:
    return importlib.import_module(FACE)


def _names() -> Iterator[tuple[str, Any]]:
    """Yields each public name, as one imports it, with its object."""
    face = _face()
    yield from ((f"{FACE}.{name}", getattr(face, name)) for name in face.__all__)
    for module, names in EXTENSION.items():
        yield from ((f"{module}.{name}", getattr(importlib.import_module(module), name)) for name in names)


def undocumented() -> list[str]:
    """Returns the public names without a docstring, and the public methods without one of public classes."""
    return [path for name, found in _names() for path in _bare(name, found)]


def _bare(name: str, found: Any) -> Iterator[str]:
    doc = found.__doc__ or ""
    if not doc or doc.startswith(f"{name.rpartition('.')[2]}("):  # what a dataclass gets that has none
        yield name
    # a model's methods check its keys, which have a reference of their own
    if isinstance(found, type) and not issubclass(found, BaseModel):
        for method, value in vars(found).items():
            given = value.__func__ if isinstance(value, classmethod | staticmethod) else value
            public = not method.startswith("_") and (inspect.isfunction(given) or isinstance(given, property))
            if public and not inspect.getdoc(getattr(found, method)):
                yield f"{name}.{method}"


def python() -> str:
    """Returns the page of the Python names, which mkdocstrings fills with signatures and docstrings."""
    lines = [PYTHON]
    extra = False
    for name, found in _names():
        if not name.startswith(f"{FACE}.") and not extra:
            extra = True
            lines.append(NAMES_FOR_EXTENSIONS)
        lines += [f"::: {found.__module__}.{found.__qualname__}", ""]
    return "\n".join(lines)


def commands() -> str:
    """Returns the page of the commands: what `--help` prints of each, for a terminal of 100 columns."""
    os.environ["COLUMNS"] = "100"
    lines = [ALL_COMMANDS]
    for name, parser in _parsers():
        lines += [f"## {name}", "", "```text", parser.format_help().rstrip(), "```", ""]
    return "\n".join(lines)


def _parsers() -> Iterator[tuple[str, Any]]:
    """Yields each command with its parser."""
    from engine.arguments import parser_of

    found = importlib.import_module(f"{FACE}.commands")

    def below(prog: str, commands: Any) -> Iterator[tuple[str, Any]]:
        for word, command in commands.items():
            if isinstance(command, dict):
                yield from below(f"{prog} {word}", command)
                continue
            parser = parser_of(command.text, f"{prog} {word}")
            command.arguments(parser)
            yield f"{prog.partition(' ')[2]} {word}".strip(), parser

    yield from below(found.NAME, found.COMMANDS)
