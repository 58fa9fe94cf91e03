"""Errors that a user can mend, each one line: what key or file, what was found, what is accepted, what to do."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MOST_CHARACTERS = 1500
"""Of a message; commands that it names are long, a file's content may be longer."""


def one_line(text: str, most: int = MOST_CHARACTERS) -> str:
    """A text for a terminal: one line of at most `most` characters, control characters escaped, its middle left out
    where it is longer."""
    if len(text) > 4 * most:  # before any work that grows with it
        text = f"{text[: 2 * most]} ... {text[-2 * most :]}"
    text = " ".join(text.split())
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    if len(text) <= most:
        return text
    return f"{text[: most * 2 // 3]} ... {text[-(most - most * 2 // 3 - 5) :]}"


class UserError(Exception):
    """Something the user can fix. Scripts print its one line and exit with status 2; anything else is a bug."""

    def __init__(self, message: str):
        super().__init__(one_line(message))


class ConfigError(UserError):
    """A setting, a file of settings, or data that does not fit them."""


class IncompleteDataError(ConfigError):
    """Files of a data set that can be downloaded are not all there."""


class CheckpointError(UserError):
    """A checkpoint that cannot be read or does not fit."""


class Interrupted(KeyboardInterrupt):
    """A run was stopped by a signal, SIGINT or SIGTERM, after it had saved its state or, at once, without."""

    def __init__(self, signal: int, saved: str = ""):
        """saved: what the run has saved, e.g. `step 12 of 40 is saved`."""
        super().__init__(f"interrupted; {saved}" if saved else "interrupted")
        self.status = 128 + signal
        """What the process exits with: 130 for SIGINT, 143 for SIGTERM."""


@contextmanager
def explain(where: str) -> Iterator[None]:
    """Turn a ValueError raised inside into a ConfigError that begins with `where`."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def run_door(main: Callable[[], int | None], *, resumable: bool = False) -> None:
    """Run a script's main: one line and exit status 2 for what the user can mend, 130 for Ctrl-C, 143 for
    SIGTERM during a run.

    resumable: whether the script knows --resume.
    """
    try:
        status = main()
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt as error:
        told = str(error) if isinstance(error, Interrupted) else "interrupted"
        sys.stderr.write(f"{told}; continue with --resume\n" if resumable else f"{told}\n")
        sys.exit(error.status if isinstance(error, Interrupted) else 130)
    sys.exit(status or 0)
