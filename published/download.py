"""Fetches published checkpoints, checks them against their git blob ids, and caches them where torch.hub does.

A file gets its final name only after its check, so nothing opens a file that was not checked. A download that a signal
or a power cut interrupts is resumed by the next one; one that fails leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import email.utils
import errno
import fcntl
import hashlib
import http.client
import logging
import os
import re
import secrets
import time
from collections.abc import Iterator
from http import HTTPStatus
from io import FileIO
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import Request, urlopen

import torch

from engine.errors import UserError
from engine.files import WriteError, fsync_folder, in_home, make_folder, opened, writing
from engine.progress import Report, silent

log = logging.getLogger("published")

SOURCE = "PROXYLESS_NAS_WEIGHTS"
"""The environment variable that names another source: the URL of a mirror, or a folder that holds the files."""
PUBLISHED = "https://raw.githubusercontent.com/han-cai/files/master/proxylessnas/"
"""The folder of the official files."""
MOST_BYTES = 1 << 30
"""The largest file that is fetched; the largest official one has some 30 MB."""
TIMEOUT_S = 30.0
"""Seconds without a byte after which a connection counts as broken."""
CONNECTIONS = 5
"""The most connections for one file: a broken one is followed by another, which asks for the rest."""
PAUSE_S = 1.0
"""Seconds between two connections, and between two looks at a lock."""
MOST_PAUSE_S = 60.0
"""The most seconds between two connections, if the server names a time (Retry-After)."""
_CHUNK = 1 << 18
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
_REMEDY = f"set {SOURCE} to the URL of a mirror, or to a folder that holds the file"
_PLACES = "an http or https URL, or a folder"
_CACHE = "TORCH_HOME sets where the cache is"


class DownloadError(UserError):
    """A published file cannot be fetched, or is not the published one."""


def fetch(name: str, blob_id: str, *, report: Report = silent) -> Path:
    """Returns the path of a published file whose content has the git blob id, downloading it if it is not cached.

    name: the file's name, e.g. `proxyless_cpu.pth`. blob_id: git's name of the content, the digits of
    sha1(b"blob <size>\\0" + content). The file is kept in `torch.hub.get_dir()`/checkpoints. If the environment
    variable PROXYLESS_NAS_WEIGHTS names a folder, the file there is used in place. One process at a time downloads a
    file, the others wait for it. Raises DownloadError if the file cannot be had or is another one, and WriteError if
    the cache cannot be written.
    """
    assert Path(name).name == name, name
    cached = Path(torch.hub.get_dir()) / "checkpoints" / name
    actual = blob_id_of(cached)
    if actual == blob_id:
        return cached
    if actual is not None:
        log.info("%s: is not the published file, so it is fetched again", cached)
    place = _place(name)
    if isinstance(place, Path):
        _refuse_other(place, str(place), blob_id)
        return place
    with _writing(cached.parent):
        make_folder(cached.parent)
    with _part_of(cached, blob_id, report) as part:
        if part is not None:
            _complete(part, place, blob_id, name, report)
            with _writing(cached):
                os.fsync(part.fileno())
                os.replace(part.name, cached)
                fsync_folder(cached.parent)
    return cached


def blob_id_of(path: Path) -> str | None:
    """Returns the git blob id of a file, and None if there is none. Raises DownloadError if it cannot be read."""
    if not os.path.exists(path):  # also if a folder above may not be entered
        return None
    with opened(path, "a checkpoint", DownloadError) as file:
        return _id_of(file)


def _id_of(file: BinaryIO | FileIO) -> str:
    """Returns the git blob id of an open file's content."""
    digest = hashlib.sha1(b"blob %d\0" % file.seek(0, os.SEEK_END), usedforsecurity=False)
    file.seek(0)
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _place(name: str) -> str | Path:
    """Returns the file's URL, or its path if the source is a folder."""
    source = os.environ.get(SOURCE) or PUBLISHED
    if "://" not in source:
        return in_home(Path(source)) / name
    try:
        parts = urlsplit(source)
    except ValueError:  # such as http://[::1
        raise DownloadError(SOURCE, f"got '{source}', which is no URL", _PLACES) from None
    if "@" in parts.netloc:  # urllib would take it for a part of the host's name, and errors would show the password
        raise DownloadError(SOURCE, "has a user or a password, which are not sent", f"{_PLACES}, without them")
    if parts.scheme in ("http", "https"):
        return f"{source.rstrip('/')}/{quote(name)}"
    if parts.scheme == "file":
        return Path(unquote(parts.path)) / name
    raise DownloadError(SOURCE, f"got '{source}'", _PLACES)


def _refuse_other(path: Path, where: str, blob_id: str) -> None:
    """Raises DownloadError unless the file exists and has the git blob id."""
    actual = blob_id_of(path)
    if actual is None:
        raise DownloadError(where, "no such file", remedy=f"put it there, or correct {SOURCE}")
    if actual != blob_id:
        raise _other_file(where, actual, blob_id)


def _other_file(where: str, actual: str, blob_id: str) -> DownloadError:
    found = f"is not the published file: its git blob id is {actual}"
    return DownloadError(where, found, blob_id, f"it was not opened; {_REMEDY}")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns an OSError raised inside into a WriteError that says how to choose another cache."""
    try:
        with writing(path):
            yield
    except WriteError as error:
        raise error.with_note(_CACHE) from error


@contextlib.contextmanager
def _part_of(cached: Path, blob_id: str, report: Report) -> Iterator[FileIO | None]:
    """Yields the locked file of a download, with what an interrupted one has left in it; None if another process has
    completed the download meanwhile.

    The file is deleted if the block raises an Exception; it stays after Ctrl-C. The lock is on the file itself, so that
    nothing but the downloaded file remains: whoever gets the lock checks that the name still belongs to what it locked.
    """
    path = cached.parent / f".{cached.name}.{blob_id[:12]}.part"
    locks, own = True, False
    while True:
        if blob_id_of(cached) == blob_id:
            yield None
            return
        with _writing(cached):
            part = open(path, "r+b", buffering=0, opener=_opened_or_made)  # noqa: SIM115  # closed below
        with part:
            with _writing(cached):
                locks = locks and _lock(part, cached, report)
            if not (locks or own):
                own = True
                path.unlink()
                path = path.with_suffix(f".{secrets.token_hex(8)}.part")  # a name that no other process has
                continue
            if not _is_at(part, path):  # the process that had the lock has moved or deleted the file
                continue
            if blob_id_of(cached) == blob_id:
                path.unlink()
                yield None
                return
            try:
                yield part
            except Exception:
                with contextlib.suppress(OSError):
                    path.unlink()
                raise
            return


def _opened_or_made(path: str, _: int) -> int:
    """Opens a file for reading and writing, never through a link, and makes it if it is absent."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def _lock(part: FileIO, cached: Path, report: Report) -> bool:
    """Waits until no other process has the file locked, and locks it. Returns False if the file system has no locks."""
    waits = False
    while True:
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if not waits:
                log.info("%s: another process is fetching it; waiting", cached)
                report(f"wait for {cached.name}", 0, 0)
            waits = True
            time.sleep(PAUSE_S)
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
            return False


def _is_at(file: FileIO, path: Path) -> bool:
    """Returns whether an open file is the one that has this path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.lstat())
    except FileNotFoundError:
        return False


def _complete(part: FileIO, url: str, blob_id: str, name: str, report: Report) -> None:
    """Downloads what is missing of a file. Raises DownloadError if the whole has another git blob id."""
    begun = part.seek(0, os.SEEK_END) > 0
    if begun and _id_of(part) == blob_id:
        return
    _download(part, url, name, report)
    if begun and _id_of(part) != blob_id:  # what an earlier download had left was wrong
        part.truncate(0)
        _download(part, url, name, report)
    actual = _id_of(part)
    if actual != blob_id:
        raise _other_file(url, actual, blob_id)


def _download(part: FileIO, url: str, name: str, report: Report) -> None:
    """Appends the rest of what the URL holds to a file, over as many connections as it takes, at most CONNECTIONS.
    Raises DownloadError, also if a server that is busy asks for a longer pause than MOST_PAUSE_S."""
    begun = part.seek(0, os.SEEK_END)
    for left in reversed(range(CONNECTIONS)):
        have, pause_s = part.seek(0, os.SEEK_END), PAUSE_S
        try:
            _receive(part, url, name, report)
            return
        except HTTPError as error:
            error.close()
            if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
                part.truncate(0)
                continue
            pause_s = max(PAUSE_S, _asked_pause_s(error))
            found = f"the server answered {error.code} {error.reason}"
            if pause_s > MOST_PAUSE_S:
                remedy = f"try again then, or {_REMEDY}"
                raise DownloadError(url, f"{found} and asks to wait {pause_s:.0f} s", remedy=remedy) from None
            busy = error.code >= HTTPStatus.INTERNAL_SERVER_ERROR or error.code == HTTPStatus.TOO_MANY_REQUESTS
            if not busy or not left:
                raise DownloadError(url, found, remedy=_REMEDY) from None
        except (OSError, http.client.HTTPException) as error:
            received = part.seek(0, os.SEEK_END)
            if received <= begun:
                remedy = f"check the network and its proxy, or {_REMEDY}"
                raise DownloadError(url, f"cannot be reached ({_reason(error)})", remedy=remedy) from None
            if not left:
                found = f"the connection broke {CONNECTIONS} times, the last one after {received} bytes"
                raise DownloadError(url, f"{found} ({_reason(error)})", remedy=f"try again, or {_REMEDY}") from None
        report(f"wait for {urlsplit(url).netloc}", 0, 0)
        time.sleep(pause_s)


def _asked_pause_s(error: HTTPError) -> float:
    """Returns the seconds after which a server asks to be asked again, by its header Retry-After, which has a number of
    seconds or a date (RFC 9110, 10.2.3); 0 if there is none that can be read, or if the answer is no pause (429,
    503)."""
    if error.code not in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        return 0.0
    asked = (error.headers.get("Retry-After") or "").strip()
    if re.fullmatch("[0-9]{1,9}", asked):
        return float(asked)
    with contextlib.suppress(ValueError, OverflowError):
        return max(0.0, email.utils.parsedate_to_datetime(asked).timestamp() - time.time())
    return 0.0


def _reason(error: Exception) -> str:
    """Returns why a connection failed, in a few words."""
    reason = error.reason if isinstance(error, URLError) else error
    return (reason.strerror if isinstance(reason, OSError) else "") or str(reason) or type(reason).__name__


def _receive(part: FileIO, url: str, name: str, report: Report) -> None:
    """Appends what one connection gives. Raises OSError or HTTPException if it ends early, DownloadError if the answer
    is no such file."""
    have = part.seek(0, os.SEEK_END)
    headers = {"Accept-Encoding": "identity", "User-Agent": "proxyless-nas"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with urlopen(Request(url, headers=headers), timeout=TIMEOUT_S) as answer:
        if have and not (answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")):
            part.truncate(0)  # the server sends the whole file
            have = part.seek(0)
        length = answer.headers.get("Content-Length", "")
        total = have + int(length) if re.fullmatch("[0-9]{1,18}", length) else None
        while chunk := answer.read(_CHUNK):
            if have == 0 and _is_page(answer.headers.get_content_type(), chunk):
                remedy = f"a network that asks for a login answers so: open any page in a browser, or {_REMEDY}"
                raise DownloadError(url, f"is a web page, of {answer.url}", "the file itself", remedy)
            have += len(chunk)
            if max(have, total or 0) > MOST_BYTES:
                found = f"has more than {MOST_BYTES >> 20} MB"
                raise DownloadError(url, found, "a checkpoint", _REMEDY)
            _write(part, chunk)
            report(f"fetch {name}, in kB", have >> 10, (total or 0) >> 10)
        if total is not None and have < total:
            raise http.client.IncompleteRead(b"", total - have)


def _write(part: FileIO, chunk: bytes) -> None:
    """Appends a whole chunk; one call of the system may take less of it."""
    rest = memoryview(chunk)
    with _writing(Path(str(part.name))):
        while rest:
            rest = rest[part.write(rest) :]


def _is_page(kind: str, beginning: bytes) -> bool:
    """Returns whether a content is a web page, by its declared kind or its first bytes."""
    return kind == "text/html" or beginning.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html"))
