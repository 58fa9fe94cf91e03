"""Defines the errors that a user can mend. Each has parts: key or file, what was found, what is accepted, what to do.

`str(error)` joins the parts to one line; code that needs a part reads it from the error, never from the line.
"""

from __future__ import annotations

import copy
import errno
import io
import os
import select
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Self

MOST_CHARACTERS = 1500
"""The longest message. Commands in it are long, but a file's content quoted in it may be far longer."""


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
"""The remedy for each number of a system error, whatever was refused."""


def one_line(text: str, most: int = MOST_CHARACTERS) -> str:
    """Returns a text for a terminal: one line of at most `most` characters, control characters escaped; the middle of a
    longer text is left out."""
    if len(text) > 4 * most:  # first, so that the work below is bounded
        text = f"{text[: 2 * most]} ... {text[-2 * most :]}"
    text = " ".join(text.split())
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    if len(text) <= most:
        return text
    return f"{text[: most * 2 // 3]} ... {text[-(most - most * 2 // 3 - 5) :]}"


@dataclass(frozen=True)
class Action:
    """The user's next step, as data: a subcommand of `proxyless-nas` and its arguments. The command line prints the
    command after an error's remedy; a program that calls the library reads the parts."""

    command: str
    """The subcommand, e.g. `measure`."""
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Returns the whole command, quoted for a shell."""
        return shlex.join(["proxyless-nas", *self.command.split(), *self.arguments])


class _PartsError(Exception):
    """An error whose text has parts: `where: found, expected E. Did you mean 'S'?; remedy (note)`."""

    def __init__(
        self,
        where: str = "",
        found: str = "",
        expected: str = "",
        remedy: str = "",
        *,
        suggestion: str | Sequence[str] = "",
        note: str = "",
        action: Action | None = None,
    ):
        """Takes the parts; each may be empty.

        where: the file, key or option at fault. found: what is there. expected: what is accepted. remedy: what to do.
        suggestion: the accepted name that is nearest, or several. note: a remark in parentheses. action: the command
        that mends it.
        """
        super().__init__(where, found, expected, remedy)
        self.where, self.found, self.expected, self.remedy = where, found, expected, remedy
        self.suggestions = tuple(filter(None, [suggestion] if isinstance(suggestion, str) else suggestion))
        self.note, self.action = note, action

    @classmethod
    def of(cls, error: Exception, place: str = "") -> Self:
        """Returns an error of this class with the parts of another one, found at `place`. The text of an error without
        parts is what was found."""
        place = ": ".join(filter(None, [place, getattr(error, "where", "")]))
        if not hasattr(error, "found"):
            return cls(place, str(error))
        texts = (getattr(error, name, "") for name in ("found", "expected", "remedy"))
        suggestion, note = getattr(error, "suggestions", ()), getattr(error, "note", "")
        return cls(place, *texts, suggestion=suggestion, note=note, action=getattr(error, "action", None))

    def __str__(self) -> str:
        return one_line(self._joined(self.remedy))

    @property
    def problem(self) -> str:
        """Where, what was found and what is accepted, in one line."""
        return one_line(self._problem)

    @property
    def what_to_do(self) -> str:
        """The nearest name, the remedy and the command of `action`, in one line; empty if none of them is known."""
        return one_line("; ".join(filter(None, [self._question, self._command])))

    @property
    def with_command(self) -> str:
        """The whole line for a terminal: the text, with the command of `action` at its end."""
        return one_line(self._joined(self._command))

    @property
    def _problem(self) -> str:
        text = ", ".join(filter(None, [self.found, self.expected and f"expected {self.expected}"]))
        return ": ".join(filter(None, [self.where, text]))

    @property
    def _command(self) -> str:
        return ": ".join(filter(None, [self.remedy, "" if self.action is None else str(self.action)]))

    @property
    def _question(self) -> str:
        return f"Did you mean {' or '.join(map(repr, self.suggestions))}?" if self.suggestions else ""

    def _joined(self, remedy: str) -> str:
        """Returns the parts as one text."""
        text = ". ".join(filter(None, [self._problem, self._question]))
        text = "; ".join(filter(None, [text, remedy]))
        return f"{text} ({self.note})" if self.note else text


class UserError(_PartsError):
    """A fault that the user can mend. Commands print its one line and exit with status 2; any other error is a bug."""

    def within(self, place: str) -> Self:
        """Returns the same error with an outer place, such as a file, in front of `where`."""
        return self._changed(where=": ".join(filter(None, [place, self.where])))

    def at(self, place: str) -> Self:
        """Returns the same error with another `where`, such as the option of a command that stands for a key."""
        return self._changed(where=place)

    def with_note(self, note: str) -> Self:
        """Returns the same error with a remark in parentheses at its end."""
        return self._changed(note=note)

    def _changed(self, **parts: str) -> Self:
        error = copy.copy(self)
        for name, value in parts.items():
            setattr(error, name, value)
        error.args = (error.where, error.found, error.expected, error.remedy)
        return error


class InvalidError(_PartsError, ValueError):
    """A wrong value, found by code that does not know where the value came from. `explain` adds the place."""


class ConfigError(UserError):
    """A setting or a file of settings is wrong, or data do not fit the settings."""


class IncompleteDataError(ConfigError):
    """Some files of a data set are missing, and they can be downloaded."""


class CheckpointError(UserError):
    """A checkpoint cannot be read or does not fit."""


class Interrupted(KeyboardInterrupt):
    """A run was stopped by a signal, SIGINT or SIGTERM, after it had saved its state or, at once, without."""

    def __init__(self, signal: int, saved: str = ""):
        """saved: words for what the run has saved, e.g. `step 12 of 40 is saved`."""
        super().__init__(f"interrupted; {saved}" if saved else "interrupted")
        self.signal, self.saved = signal, saved
        self.status = 128 + signal
        """The exit status of the process: 130 for SIGINT, 143 for SIGTERM."""

    def __reduce__(self) -> tuple[type[Interrupted], tuple[int, str]]:
        """Returns how to make it again, so that it can be sent to another process."""
        return type(self), (self.signal, self.saved)


@contextmanager
def explain(where: str) -> Iterator[None]:
    """Turns a ValueError raised inside into a ConfigError that begins with `where`."""
    try:
        yield
    except ValueError as error:
        raise ConfigError.of(error, where) from error


def run_command(main: Callable[[], int | None], *, resumable: bool = False) -> None:
    """Runs the main function of a command and ends the process with its status.

    An error that the user can mend becomes one line and status 2; the status is 130 after Ctrl-C and 143 after SIGTERM
    during a run. If nobody reads the output any more (`| head`), the command ends without a message. Characters that an
    output cannot show, such as a file name's on an ASCII terminal, are escaped. resumable: whether there is --resume.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = main()
        if sys.stdout is not None:
            sys.stdout.flush()  # flushed here, since a failure at the interpreter's end would be a traceback
    except UserError as error:
        _say(f"error: {error.with_command}")
        sys.exit(2)
    except MemoryError as error:
        _say(f"error: {one_line(f'not enough memory {error}')}; close other programs, or ask for less")
        sys.exit(2)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            sys.exit(128 + signal.SIGPIPE)
        if isinstance(error, FileNotFoundError) and error.filename is None and not _temporary_files_can_be_made():
            _say("error: TMPDIR: no folder for temporary files can be written; make room in /tmp, or name another one")
            sys.exit(2)
        if error.errno not in OF_THE_SYSTEM:
            raise
        name = f"{error.filename}: " if error.filename else ""
        _say(f"error: {one_line(f'{name}{error.strerror}')}; {OF_THE_SYSTEM[error.errno]}")
        sys.exit(2)
    except (KeyboardInterrupt, RuntimeError) as error:
        # Python 3.11 wraps what comes while a class is made, as at every import
        if isinstance(error, RuntimeError) and not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        line = str(error) if isinstance(error, Interrupted) else "interrupted"
        _say(f"{line}; continue with --resume" if resumable else line)
        sys.exit(error.status if isinstance(error, Interrupted) else 130)
    sys.exit(status or 0)


def _say(line: str) -> None:
    """Prints a line on standard error, if that can be written."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):  # ValueError if it has been closed
            sys.stderr.write(line + "\n")
            sys.stderr.flush()


def _temporary_files_can_be_made() -> bool:
    """Returns whether Python finds a folder for temporary files. If /tmp and the current folder are full, it finds
    none."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        return False
    return True


def _nobody_reads() -> bool:
    """Returns whether standard output is a pipe without a reader; if so, further output is discarded."""
    if sys.stdout is None:
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
    return True
