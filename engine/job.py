"""A job of one process or, under torchrun, of several: how it opens, and how it ends with one clear line."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch.distributed as dist

from engine.distributed import ALONE, WAIT, Group, LostPeerError
from engine.errors import Interrupted, UserError

# When one process has ended with a failure, torchrun stops the others. So those that have nothing to say end later than
# the one that speaks, and process 0 speaks before the others where all found the same.
_HEAD_START_S, _SILENCE_S = 0.3, 1.0
_SAVING_S = 20.0
"""How long a training loop that was told to stop by SIGTERM has to save a checkpoint; torchrun kills after 30 s."""


@contextlib.contextmanager
def open_group() -> Iterator[Group]:
    """`with open_group() as group`: the processes that torchrun has started, else ALONE.

    An error in any of them ends them all; one of them raises it, the others end without a word. At the end each waits
    until all are done, because torchrun stops what still runs when one returns a status other than 0.
    """
    if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield ALONE
        return
    store, rank, world_size = next(dist.rendezvous("env://"))
    board = dist.PrefixStore("job", store.clone())  # a connection of its own, that no waiting call can block
    _stop_on_sigterm(board)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=WAIT)
    group = Group(rank, world_size, int(os.environ["LOCAL_RANK"]), host=dist.group.WORLD)
    try:
        yield group
        group.barrier()
    except BaseException as error:
        if not group.first:
            time.sleep(_HEAD_START_S)
        if not _first_to_speak(board):
            time.sleep(_SILENCE_S)
            raise SystemExit(_status(error)) from None
        if isinstance(error, UserError) and not isinstance(error, LostPeerError):
            if not group.first:
                error.args = (f"{error} (found by process {rank}, on {socket.gethostname()})",)
            _tell_torchrun(f"error: {error}")
        raise
    dist.destroy_process_group()


def _first_to_speak(board: dist.Store) -> bool:
    try:
        return board.add("spoken", 1) == 1
    except RuntimeError:  # torchrun itself is gone, and with it the board
        return True


def _status(error: BaseException) -> int:
    """The exit status of a process whose error another one reports."""
    if isinstance(error, SystemExit):
        return int(error.code or 0)
    if isinstance(error, Interrupted):
        return error.status
    return 130 if isinstance(error, KeyboardInterrupt) else 2 if isinstance(error, UserError) else 1


def _tell_torchrun(line: str) -> None:
    """The line, as the cause that torchrun's own report of the failure names at its end."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        reason = {"message": line, "extraInfo": {"timestamp": str(int(time.time()))}}
        Path(path).write_text(json.dumps({"message": reason}), encoding="utf-8")


def _stop_on_sigterm(board: dist.Store) -> None:
    """End with a line on SIGTERM, which torchrun sends when another process has ended, even while this one waits.

    A handler in Python would have to wait for the main thread, which may sit in a collective for as long as its
    timeout; the signal's number arrives in a pipe at once, where a thread of its own reads it.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)

    def note(*_: object) -> None: ...

    signal.signal(signal.SIGTERM, note)
    signal.set_wakeup_fd(write)

    def as_usual() -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    os.register_at_fork(after_in_child=as_usual)  # processes that read data

    def watch() -> None:
        while os.read(read, 1)[0] != signal.SIGTERM:
            pass
        if signal.getsignal(signal.SIGTERM) is not note:  # a training loop saves first (engine/interrupts.py)
            time.sleep(_SAVING_S)
        if _first_to_speak(board):
            sys.stderr.write(
                "error: stopped by SIGTERM: another process of this job has ended, or the job was cancelled; continue "
                "with --resume\n"
            )
            sys.stderr.flush()
        else:
            time.sleep(_SILENCE_S)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
