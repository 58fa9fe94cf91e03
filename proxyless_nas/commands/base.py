"""Defines a subcommand of `proxyless-nas`.

A module of this folder imports nothing slow, such as torch: its `run` imports what it needs after the arguments have
been parsed, so `--help` and a mistyped option are answered at once.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.arguments import path_argument

EXIT_MISSED = 3
"""The exit status of a command that has done its work, with a result that does not meet what was asked for."""


@dataclass(frozen=True)
class Command:
    """A subcommand. The files of scripts/ run the same ones under other names."""

    text: str
    """The text that `--help` prints: a summary in one line, which the list of commands shows too, then an example."""
    arguments: Callable[[argparse.ArgumentParser], None]
    """Adds its arguments to a parser."""
    run: Callable[[argparse.Namespace], int | None]
    """Does the work. Returns the exit status; None is 0."""
    resumable: bool = False
    """Whether it has --resume."""

    @property
    def summary(self) -> str:
        return self.text.partition("\n")[0].rstrip(":.")


def add_config(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds the argument `config`: a file, or the name of a shipped configuration (see `config_path`)."""
    parser.add_argument("config", type=path_argument, help=f"{what}, or a name that `proxyless-nas configs` lists")


def table_argument(text: str) -> Path:
    """Converts the file of a latency table to write (`type=` of argparse). A name without an ending is meant as a
    folder: a file of that name would be in the way of the next table. What is said of a folder that exists is said
    where the table is to be written."""
    path = path_argument(text)
    if not path.suffix and not path.is_dir():
        raise argparse.ArgumentTypeError(f"got '{text[:200]}', expected the table's file, e.g. {path / 'table.yaml'}")
    return path


def add_overrides(parser: argparse.ArgumentParser, example: str) -> None:
    """Adds the last argument `overrides`: settings `key=value` that replace those of the file."""
    parser.add_argument("overrides", nargs="*", default=[], help=f"key=value, e.g. {example}")  # [] makes it optional


def config_path(args: argparse.Namespace) -> Path:
    """Returns the file that the argument `config` names. Raises ConfigError if it is neither a file nor a name."""
    from engine.shipped import located

    path: Path = args.config
    return located(path)


@contextlib.contextmanager
def going_on() -> Iterator[None]:
    """Says at Ctrl-C that the same command goes on, for a command that works in stages."""
    try:
        yield
    except KeyboardInterrupt:
        print("the same command goes on where this one was stopped", file=sys.stderr)
        raise


def say_at_once(line: str) -> None:
    """Prints a line, also into a file or a pipe, before the next work begins, which may take hours."""
    print(line, flush=True)


def at_least(least: int) -> Callable[[str], int]:
    """Returns a `type=` of argparse: a whole number of at least `least`."""

    def count(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"got '{text[:80]}', expected a whole number") from None
        if number < least:
            raise argparse.ArgumentTypeError(f"got {number}, expected {least} or more")
        return number

    return count


def seed_argument(text: str) -> int:
    """Converts one of `--seeds` (`type=` of argparse)."""
    if not text.isdecimal():
        where = "; write key=value before --seeds" if "=" in text else ""
        raise argparse.ArgumentTypeError(f"got '{text[:80]}', expected a whole number{where}")
    return int(text)
