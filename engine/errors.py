"""Errors that a user can mend, each one line: what key or file, what was found, what is accepted, what to do."""

from __future__ import annotations

import errno
import io
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

MOST_CHARACTERS = 1500
"""Of a message; commands that it names are long, a file's content may be longer."""


OF_THE_SYSTEM = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room, or raise the quota",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f), or choose another disk",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs: the system's limit of open files is reached",
    errno.ENOMEM: "close other programs, or ask for less",
    errno.EAGAIN: "raise the limit of processes (ulimit -u)",
    errno.EROFS: "choose a place that you may write",
    errno.EIO: "check the disk",
}
"""What to do where the system refuses something, whatever it was."""


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

    resumable: whether the script knows --resume. Where nobody reads the output any more (`| head`), the script ends
    without a word. What an output cannot show, such as a file name on an ASCII terminal, is escaped.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = main()
        if sys.stdout is not None:
            sys.stdout.flush()  # here, since at the interpreter's end a failure is a traceback
    except UserError as error:
        _say(f"error: {error}")
        sys.exit(2)
    except MemoryError as error:
        _say(f"error: {one_line(f'not enough memory {error}')}; close other programs, or ask for less")
        sys.exit(2)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            sys.exit(128 + signal.SIGPIPE)
        if error.errno not in OF_THE_SYSTEM:
            raise
        name = f"{error.filename}: " if error.filename else ""
        _say(f"error: {one_line(f'{name}{error.strerror}')}; {OF_THE_SYSTEM[error.errno]}")
        sys.exit(2)
    except KeyboardInterrupt as error:
        told = str(error) if isinstance(error, Interrupted) else "interrupted"
        _say(f"{told}; continue with --resume" if resumable else told)
        sys.exit(error.status if isinstance(error, Interrupted) else 130)
    sys.exit(status or 0)


def _say(line: str) -> None:
    """A line on standard error, where there is one that can be written."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):  # the latter where somebody has closed it
            sys.stderr.write(line + "\n")
            sys.stderr.flush()


def _nobody_reads() -> bool:
    """Whether standard output is a pipe without a reader; what is left to print then goes nowhere."""
    if sys.stdout is None:
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
    return True
