"""Reads files that people and other programs made, and writes files that stay whole if the process is killed.

Every file that a user can name is read here: only regular files of a bounded size, and each fault is one line. Every
file that a run writes is written here: it is complete or absent, and a full disk is one line too.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import json
import math
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from engine.errors import OF_THE_SYSTEM, ConfigError, UserError, one_line
from engine.nearest import nearest_path

MOST_TEXT_BYTES = 64 << 20
"""The largest text file that is read; the largest table of the ImageNet space has 0.1 MB."""
_LONGEST_PATH, _LONGEST_NAME = 4096, 255  # bytes, of Linux
TEMPORARY = ".tmp"
"""The end of a half-written file's name, which begins with a dot and the name of the finished file."""


class WriteError(UserError):
    """A file cannot be written: the disk is full, a limit of the system is reached, or the place is forbidden."""


@contextlib.contextmanager
def opened(path: Path, expected: str, error: type[UserError] = ConfigError, missing: str = "") -> Iterator[BinaryIO]:
    """Opens a regular file of any size for reading. Raises what read_bytes raises, for reads inside the block too."""
    try:
        # Opening a pipe without a writer would wait for one
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        accepted = "" if missing else expected
        raise error(str(path), "no such file", accepted, missing, suggestion=nearest_path(path)) from None
    except ValueError:  # the path has a NUL character
        raise error(str(path), "is no file name, it has a NUL character", expected) from None
    except OSError as problem:
        found = f"cannot be read ({reason_of(problem)})"
        if problem.errno in _SHORTAGES:  # not a fault of this file
            raise UserError(str(path), found, remedy=_REMEDIES[problem.errno]) from None
        raise error(str(path), found, expected) from None
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"
            raise error(str(path), f"is {what}", expected)
        with open(descriptor, "rb", closefd=False) as file:
            yield file
    except OSError as problem:
        raise error(str(path), f"cannot be read ({reason_of(problem)})", expected) from None
    finally:
        os.close(descriptor)


def read_bytes(
    path: Path, expected: str, error: type[UserError] = ConfigError, most: int = MOST_TEXT_BYTES, missing: str = ""
) -> bytes:
    """Returns the content of a regular file of at most `most` bytes.

    expected: a noun for what the file should be, e.g. "a latency table", for errors. missing: the remedy if there is no
    such file, in place of `expected`. Raises `error` if there is no such file (the nearest path that exists is
    suggested), for a folder, a device, a loop of links, and for a file that is too large or not readable; UserError if
    the system can open no more files.
    """
    with opened(path, expected, error, missing) as file:
        # This takes as much memory as the file needs; files of the system itself (/proc) have a size of 0.
        size = os.fstat(file.fileno()).st_size
        content = file.read(min(most, size) + 1)
        if len(content) > size:
            content += file.read(most + 1 - len(content))
    if len(content) > most:
        raise error(str(path), f"has more than {most >> 20} MB", expected)
    return content


def read_text(
    path: Path, expected: str, error: type[UserError] = ConfigError, most: int = MOST_TEXT_BYTES, missing: str = ""
) -> str:
    """Returns the text of a UTF-8 file, with or without a byte order mark.

    Raises what read_bytes raises, and `error` if the content is no text.
    """
    content = read_bytes(path, expected, error, most, missing)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise error(str(path), "is not UTF-8 text", expected) from None


def parsed_json(text: str, where: str, error: type[UserError] = ConfigError, remedy: str = "") -> Any:
    """Returns the value of a JSON text. Raises `error` if the text is no JSON, has numbers that are not finite, names a
    key twice, or nests too deeply. where, remedy: parts of that error."""

    def number(written: str) -> float:
        value = float(written)
        if not math.isfinite(value):
            raise ValueError(f"{written} is not a finite number")
        return value

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key, value in pairs:
            if key in mapping:
                raise ValueError(f"key '{key}' is given twice")
            mapping[key] = value
        return mapping

    try:
        return json.loads(text, parse_float=number, parse_constant=number, object_pairs_hook=once)
    except RecursionError:
        raise error(where, "has too many brackets inside each other", remedy=remedy) from None
    except ValueError as problem:
        raise error(where, f"not JSON: {problem}", remedy=remedy) from None


def read_json(
    path: Path, expected: str, error: type[UserError] = ConfigError, remedy: str = "", missing: str = ""
) -> Any:
    """Returns the value of a JSON file. Raises what read_text and parsed_json raise."""
    return parsed_json(read_text(path, expected, error, missing=missing), str(path), error, remedy)


def as_path(value: object, where: str) -> Path:
    """Returns a path that a caller gave as text or as a path, `~` replaced by the home folder.

    where: the name of the parameter, for errors. Raises ConfigError if the value is nothing of the kind, or if no file
    can have that name.
    """
    expected = "the name of a file or folder"
    if not isinstance(value, str | Path):
        raise ConfigError(where, f"got {one_line(repr(value), 80)} of type {type(value).__name__}", expected)
    text = str(value)
    if not value or "\0" in text:
        raise ConfigError(where, f"got {text!r}", expected)
    if size := impossible_size(text):
        raise ConfigError(where, f"got {one_line(text, 80)!r}, a name of {size} bytes, which no file can have",
            remedy="shorten it")  # fmt: skip
    try:
        return in_home(Path(value))
    except ConfigError as error:
        raise error.within(where) from None


def as_list(values: object, where: str) -> list[Any]:
    """Returns the entries of a list, tuple or other collection that a caller gave.

    where: the name of the parameter, for errors. Raises ConfigError for a single text, whose characters would be taken
    for the entries, and for anything else that is no collection.
    """
    if isinstance(values, Iterable) and not isinstance(values, str | bytes | bytearray | Mapping):
        return list(values)
    found = one_line(repr(values), 80)
    remedy = f"write [{found}]" if isinstance(values, str) else ""
    raise ConfigError(where, f"got {found}", "a list", remedy)


def as_texts(values: object, where: str) -> tuple[str, ...]:
    """Returns the entries of a list of texts that a caller gave. Raises ConfigError if it is none; see `as_list`."""
    entries = as_list(values, where)
    for entry in entries:
        if not isinstance(entry, str):
            raise ConfigError(where, f"got an entry {one_line(repr(entry), 80)}", "a list of texts")
    return tuple(entries)


def impossible_size(text: str) -> int:
    """Returns the bytes of a path, or of its longest name, if no file can have so many; 0 if one can."""
    size, longest = len(os.fsencode(text)), max(len(os.fsencode(part)) for part in text.split("/"))
    return max(size, longest) if size > _LONGEST_PATH or longest > _LONGEST_NAME else 0


def in_home(path: Path) -> Path:
    """Returns the path with `~` replaced by the home folder. Raises ConfigError if there is no such user."""
    try:
        return path.expanduser()
    except RuntimeError:
        found = "there is no home folder of that name"
        raise ConfigError(str(path), found, remedy="write the path in full") from None


_REMEDIES = OF_THE_SYSTEM | {
    errno.EACCES: "choose a place that you may write",
    errno.EPERM: "choose a place that you may write",
}
_SHORTAGES = (errno.EMFILE, errno.ENFILE)


def reason_of(error: OSError) -> str:
    """Returns the system's description of an error, in a few words."""
    return error.strerror or " ".join(str(error).split()) or type(error).__name__


def refuse_write(path: Path | str, error: OSError) -> NoReturn:
    """Raises WriteError in one line for an OSError that occurred while `path` was written."""
    remedy = _REMEDIES.get(error.errno or 0, "choose another place")
    raise WriteError(str(path), f"cannot be written ({reason_of(error)})", remedy=remedy) from error


@contextlib.contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turns an OSError raised inside into a WriteError that names `path`, e.g. if the disk is full."""
    try:
        yield
    except OSError as error:
        refuse_write(path, error)


def make_folder(path: Path, key: str = "") -> Path:
    """Creates a folder and those above it. Raises WriteError, which begins with `key`, if that is impossible or a file
    has that name."""
    named = f"{key} {path}".strip()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise WriteError(named, "is a file, or lies below one", "a folder") from None
    except ValueError:
        raise WriteError(named, "is no folder name, it has a NUL character") from None
    except OSError as error:
        refuse_write(named, error)
    return path


def check_writable(path: Path, key: str) -> None:
    """Creates the folder of a file that shall be written later. Raises WriteError, which begins with `key`, if no file
    can be written there. Call it before minutes of work."""
    if path.is_dir():
        raise WriteError(f"{key} {path}", "is a folder", "the name of a file")
    make_folder(path.parent, key)
    try:
        temporary, descriptor = _new_temporary(path.parent, f".{path.name[:200]}.")
        os.close(descriptor)
        temporary.unlink()
    except OSError as error:
        refuse_write(f"{key} {path}", error)


def fsync_folder(folder: Path) -> None:
    """Makes a rename inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(path: Path, name: str | None = None) -> Iterator[Path]:
    """Yields the path of an empty temporary file, which replaces `path` if the block ends without an error.

    The temporary file lies in the same folder under a name that nobody can predict. At the end it has the permissions
    of the file that it replaces, or those that the umask gives to a new file. It is deleted if the block raises; that
    of a process that was killed is deleted by the next one that writes `path`. name: what its name contains in place of
    the name of `path`, for files that other programs find by a part of their name. Raises WriteError if the system
    refuses.
    """
    begin = f".{(name or path.name)[:200]}."
    temporary, held = None, -1
    try:
        with writing(path):
            _remove_abandoned(path.parent, begin)
            temporary, held = _new_temporary(path.parent, begin)
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(held, stat.S_IMODE(path.stat().st_mode))
        yield temporary
        with writing(path):
            descriptor = os.open(temporary, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(temporary, path)
            fsync_folder(path.parent)
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):  # it does not exist any more once it has been renamed
                temporary.unlink()
            os.close(held)


def _new_temporary(folder: Path, begin: str) -> tuple[Path, int]:
    """Makes a temporary file, which is locked until its descriptor, which is returned too, is closed."""
    while True:
        path = folder / f"{begin}{secrets.token_hex(8)}{TEMPORARY}"
        # O_EXCL: never a file or a link that somebody has put there
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        taken = False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            taken = True
        except OSError:  # the file system has no locks
            pass
        if not taken and os.fstat(descriptor).st_nlink:
            return path, descriptor
        os.close(descriptor)  # another process took it for abandoned before it was locked


def _remove_abandoned(folder: Path, begin: str) -> None:
    """Deletes the temporary files whose names begin so and that no process has locked: theirs were killed."""
    for path in folder.glob(f"{glob.escape(begin)}{'[0-9a-f]' * 16}{TEMPORARY}"):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(descriptor)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file so that a reader gets the old content or the new one, never a part; see `replacing`. Raises
    WriteError."""
    raw = content.encode() if isinstance(content, str) else content
    with replacing(path) as temporary, writing(path):
        temporary.write_bytes(raw)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yields an empty temporary folder, which becomes `path` if the block ends without an error, and takes the place of
    a folder there.

    A reader gets the old folder or the new one, never a part of either. The temporary folder lies beside `path`; it is
    deleted if the block raises, and that of a process that was killed by the next one. If a process was killed after
    it had put the old folder aside and before the new one had its place, the next one puts the old folder back first.
    Folders above are made. Raises WriteError if the system refuses.
    """
    path = path.resolve()  # a link keeps pointing to the folder
    make_folder(path.parent)
    _tidy(path)
    end = secrets.token_hex(8)
    new, old = (path.parent / f".{path.name[:200]}.{kind}{end}{TEMPORARY}" for kind in ("", "old"))
    try:
        with writing(path):
            new.mkdir()
        with _locked(new):
            yield new
            with writing(path):
                for file in filter(Path.is_file, new.rglob("*")):
                    with file.open("rb") as content:
                        os.fsync(content.fileno())
                fsync_folder(new)
                if not path.is_dir() or not any(path.iterdir()):
                    os.rename(new, path)  # fails if `path` is a file
                else:
                    with _locked(path):
                        os.rename(path, old)
                        try:
                            os.rename(new, path)
                        except OSError:
                            os.rename(old, path)
                            raise
                        shutil.rmtree(old, ignore_errors=True)
                fsync_folder(path.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _tidy(path: Path) -> None:
    """Deletes what killed processes have left of replacing a folder, and puts the folder back if it is missing."""
    begin, end = f".{glob.escape(path.name[:200])}.", f"{'[0-9a-f]' * 16}{TEMPORARY}"
    for old in path.parent.glob(f"{begin}old{end}"):
        with contextlib.suppress(OSError), _locked(old):
            if not os.path.lexists(path):
                os.rename(old, path)
            else:
                shutil.rmtree(old, ignore_errors=True)
    for stale in path.parent.glob(f"{begin}{end}"):
        with contextlib.suppress(OSError), _locked(stale):
            shutil.rmtree(stale, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Locks a folder for the block. Raises BlockingIOError if a running process has locked it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def remove_stale(folder: Path) -> None:
    """Deletes half-written files of killed processes in `folder`. Call it only while no other process writes there."""
    for path in folder.glob(f".*{TEMPORARY}"):
        with contextlib.suppress(OSError):
            path.unlink()
