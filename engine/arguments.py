"""Parses the command line.

This module imports nothing slow, such as torch. A command imports what it runs after its arguments have been parsed, so
`--help` and a mistyped option are answered at once.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from engine.errors import ConfigError, one_line
from engine.files import as_path
from engine.nearest import nearest

SILENCE_S = 1.0
"""Seconds that processes which print nothing wait before they end. torchrun stops all processes once one has failed, so
the one that prints must end first."""


class _Parser(argparse.ArgumentParser):
    """A parser whose error about an unknown option names the option, or the setting, that was probably meant."""

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: --([\w.-]+)", message)
        if unknown:
            options = (name for name in self._option_string_actions if name.startswith("--"))
            near = nearest(f"--{unknown[1]}", options)
            if near:
                message += f". Did you mean '{near}'?"
            elif any(action.dest == "overrides" for action in self._actions):
                message += "; a setting is given without hyphens, as section.key=value, e.g. space.classes=4"
        super().error(message)


def parser_of(description: str | None, prog: str | None = None) -> argparse.ArgumentParser:
    """Returns a parser that shows a description as it is written."""
    return _Parser(prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def parsed(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns the parsed arguments, by default those of the command line. Ends the process with a usage line if they
    are wrong; of the processes that torchrun has started, only the first one prints it."""
    with _first_process_alone():
        return parser.parse_intermixed_args(arguments)


def path_argument(text: str) -> Path:
    """Converts an argument to a path (`type=` of argparse): `~` is the home folder, also in `--out=~/runs`, where no
    shell replaces it."""
    try:
        return as_path(text, "")
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def module_argument(text: str) -> str:
    """Checks an argument that names a Python module (`type=` of argparse): a dotted name, or the path of a .py file."""
    if text.endswith(".py") or all(part.isidentifier() for part in text.split(".")):
        return text
    raise argparse.ArgumentTypeError(
        f"got {one_line(text)!r}, expected a dotted module or a path to a .py file; options and overrides come first"
    )


def add_allow_modules(parser: argparse.ArgumentParser, source: str) -> None:
    """Adds `--allow-modules` to a command that reads `source`, a file that may have come from elsewhere."""
    parser.add_argument(
        "--allow-modules",
        type=module_argument,
        nargs="+",
        action="extend",
        default=[],
        metavar="MODULE",
        help=f"modules that {source} names and that you trust: they are code, and it runs",
    )


@contextlib.contextmanager
def _first_process_alone() -> Iterator[None]:
    """Discards output inside, and delays the end, in all processes of torchrun but the first one."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("RANK", "0") == "0":
        yield
        return
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            yield
        except SystemExit:
            time.sleep(SILENCE_S)
            raise
