"""Locks a run folder, so that one process at a time writes there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from engine.errors import ConfigError
from engine.files import make_folder, refuse_write, writing

log = logging.getLogger("engine")

LOCK = ".lock"
"""The file's name. The file remains when a process ends and then has no effect: only the kernel's lock on it counts."""
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
_HOLDER = re.compile(r"(\d{1,10}) ([\w.-]{1,255})\n")

# flock belongs to the open file, which a forked process shares: a worker that outlived its killed parent would keep it.
_held: set[int] = set()


def _let_go_in_child() -> None:
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)  # the parent's own descriptor keeps the lock
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Creates the folder if it is absent, and locks it against other processes for the block.

    Raises ConfigError if another process has the lock; the error names its number and machine. The kernel releases the
    lock when the process ends, however it ends. Between machines that share a folder the lock works if their file
    system has locks (NFS has, unless mounted with `nolock` or `local_lock`); if it has none, a warning is logged.
    """
    make_folder(folder, "--out")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"--out {folder}", "is not writable", remedy="choose a folder you may write")
    path = folder / LOCK
    with writing(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    _held.add(descriptor)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ConfigError(str(path), "is a device or a pipe", "the file that locks the folder", "delete it")
        _lock(descriptor, folder)
        with writing(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        if descriptor in _held:  # not in a forked process, which has closed it
            _held.discard(descriptor)
            os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _HOLDER.fullmatch(os.pread(descriptor, 300, 0).decode(errors="replace"))
        who = f"process {holder[1]} on {holder[2]}" if holder else "another process"
        remedy = "wait until it has ended, or stop it, then use --resume"
        raise ConfigError(f"--out {folder}", f"{who} works in this folder", remedy=remedy) from None
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            refuse_write(folder / LOCK, error)
        log.warning("%s: its file system has no locks; see to it yourself that one process alone works there", folder)
