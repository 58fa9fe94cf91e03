"""Opens a job of one process or, under torchrun, of several, and ends it with one clear line."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from engine.distributed import ALONE, STEP_WAIT, WAIT, Group, LostPeerError, detail_of
from engine.errors import Interrupted, UserError
from engine.memory import memory_explained

# When one process has ended with a failure, torchrun stops the others. So processes that print nothing end later than
# the one that prints, and process 0 prints before the others if all have the same error.
_HEAD_START_S, _SILENCE_S = 0.3, 1.0
CONNECT_WAIT = timedelta(minutes=5)
"""The wait for the store of the job if process 0 keeps it, which may start later than others."""
LAUNCHER_WAIT = timedelta(seconds=20)
"""The wait for the store of the job if torchrun keeps it, which opens it before it starts any process."""
LOOK_S = 1.0
"""Seconds between two checks of whether the launcher still runs."""
SAVE_S = 20.0
"""Seconds that a program which handles SIGTERM itself gets to save and end; torchrun and Slurm kill after 30."""


class LauncherEndedError(UserError):
    """The launcher of this job, torchrun, has ended, so its processes end too."""

    def __init__(self) -> None:
        found = "the launcher of this job (torchrun) has ended, so this process ends too"
        super().__init__(found=found, remedy="continue with --resume")


@contextlib.contextmanager
def open_group() -> Iterator[Group]:
    """Yields the processes that torchrun has started, connected to each other; ALONE without torchrun.

    An error in any process ends them all; one of them raises it, the others end without a message. At the end each
    waits until all are done, because torchrun stops the others if one returns a status other than 0. If torchrun itself
    is killed, each process ends within seconds. Raises UserError if the processes cannot be connected.
    """
    if not dist.is_torchelastic_launched() or _number("WORLD_SIZE", 1) == 1:
        with memory_explained():
            yield ALONE
        return
    rank, world_size, local_rank = _number("RANK", 0), _number("WORLD_SIZE", 1), _number("LOCAL_RANK", 0)
    if rank >= world_size:
        raise UserError("RANK", f"got {rank}", f"less than WORLD_SIZE, which is {world_size}", _START)
    launcher = os.getppid()
    store = _connect_store(rank, world_size, first_here=local_rank == 0)
    # connections of their own, which no waiting call can block
    board = _Board(dist.PrefixStore("job", store.clone()), launcher, local_rank == 0)
    ended = threading.Event()
    watching = _end_with_launcher(board.twin(dist.PrefixStore("job", store.clone())), ended)
    _stop_on_sigterm(board)
    try:
        with _explain_gloo():
            dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=WAIT)
        group = Group(rank, world_size, local_rank, host=dist.group.WORLD)
        with memory_explained():
            yield group
        group.barrier()
    except BaseException as error:
        last = _last_error(error, board, rank)
        if last is error:
            raise
        raise last from None
    finally:
        ended.set()
        # an interpreter that ends while a thread asks the store aborts the process: its C++ code cannot be unwound
        watching.join(LAUNCHER_WAIT.total_seconds())
    dist.destroy_process_group()


def _last_error(error: BaseException, board: _Board, rank: int) -> BaseException:
    """Returns the exception that a process ends with after `error`: `error` itself, or a SystemExit without a message
    if another process reports."""
    if isinstance(error, LostPeerError) and board.launcher_ended():
        error = LauncherEndedError()
    if rank != 0:
        time.sleep(_HEAD_START_S)
    if not board.reports(always=not isinstance(error, UserError | SystemExit | KeyboardInterrupt)):
        time.sleep(_SILENCE_S)
        return SystemExit(_status(error))
    if isinstance(error, UserError) and not isinstance(error, LostPeerError):
        if rank != 0 and not isinstance(error, LauncherEndedError):
            error = error.with_note(f"found by process {rank}, on {socket.gethostname()}")
        _write_cause(f"error: {error.with_command}")
    return error


_START = "start the program with torchrun, which sets it (docs/cluster.md), or unset TORCHELASTIC_RUN_ID"


def _number(name: str, least: int) -> int:
    """Returns a whole number from the environment that torchrun sets. Raises UserError if it is none."""
    text = os.environ.get(name)
    if text is None or not re.fullmatch("[0-9]{1,9}", text) or int(text) < least:
        given = "is not set" if text is None else f"got '{text[:40]}'"
        raise UserError(name, given, f"a whole number from {least} on", _START)
    return int(text)


def _connect_store(rank: int, world_size: int, first_here: bool) -> dist.Store:
    """Returns the store that all processes of the job share. If it cannot be reached within a bounded wait, the first
    process of each machine raises UserError and the others SystemExit."""
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise UserError(name, "is not set", "where the store of the job is", _START)
    port = _number("MASTER_PORT", 1)
    place = f"{os.environ['MASTER_ADDR']}:{port}"
    of_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    wait = LAUNCHER_WAIT if of_launcher else CONNECT_WAIT
    try:
        store, _, _ = next(dist.rendezvous("env://", rank, world_size, timeout=wait))
    except ValueError as error:
        raise UserError("MASTER_ADDR, MASTER_PORT", f"got {place}: {error}", remedy=_START) from None
    except RuntimeError as error:
        if "EADDRINUSE" in str(error):
            ways = "another program uses that port; name a free one (torchrun --master-port)"
        else:
            cause = "torchrun, which keeps it, may have ended; " if of_launcher else ""
            ways = (
                f"{cause}each machine has to reach that name and port: see --rdzv-endpoint and --local-addr of "
                "torchrun, and firewalls"
            )
        found = f"process {rank}, on {socket.gethostname()}, cannot join the job at {place} ({detail_of(error)})"
        refusal = UserError(found=found, remedy=ways)
        _write_cause(f"error: {refusal}")
        if not first_here:
            raise SystemExit(2) from None
        raise refusal from None
    store.set_timeout(STEP_WAIT)  # other processes may start much later, on a machine where imports are slow
    # torchrun --max-restarts starts the processes again with the same store: what was written before does not count
    return dist.PrefixStore(f"attempt{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


@contextlib.contextmanager
def _explain_gloo() -> Iterator[None]:
    """Turns a failure to connect the processes into a UserError."""
    try:
        yield
    except RuntimeError as error:
        raise UserError(
            found=f"the processes cannot connect to each other ({detail_of(error)})",
            remedy="where a machine has several network interfaces, name the one to use in GLOO_SOCKET_IFNAME (and "
            "NCCL_SOCKET_IFNAME)",
        ) from error


class _Board:
    """Lets the processes of a job agree which one of them reports its end."""

    def __init__(self, store: dist.Store, launcher: int, first_here: bool):
        """launcher: the number of the process that has started this one. first_here: whether this process is the first
        of its machine."""
        self._store, self._launcher, self._first_here = store, launcher, first_here
        self._asked = threading.Lock()  # several threads of this process may call reports()

    def twin(self, store: dist.Store) -> _Board:
        """Returns the same board over another connection."""
        other = _Board(store, self._launcher, self._first_here)
        other._asked = self._asked
        return other

    def launcher_ended(self) -> bool:
        """Returns whether the process that started this one has ended, or the store that torchrun keeps."""
        if os.getppid() != self._launcher:  # first: torch writes a page about a store that does not answer
            return True
        try:
            self._store.add("spoken", 0)
        except RuntimeError:
            return True
        return False

    def reports(self, always: bool = False) -> bool:
        """Returns whether the caller reports for the job: True for the first call, False for later ones.

        If the launcher, and with it the board, has ended, the first process of each machine reports; so does any
        process with an error of its own (`always`).
        """
        if not self._asked.acquire(blocking=False):
            return False
        if os.getppid() == self._launcher:
            with contextlib.suppress(RuntimeError):
                return int(self._store.add("spoken", 1)) == 1
        return always or self._first_here


def _status(error: BaseException) -> int:
    """Returns the exit status of a process whose error another one reports."""
    if isinstance(error, SystemExit):  # its code may be a text, which Python prints; the status is then 1
        return error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    if isinstance(error, Interrupted):
        return error.status
    return 130 if isinstance(error, KeyboardInterrupt) else 2 if isinstance(error, UserError) else 1


def _write_cause(line: str) -> None:
    """Writes the line where torchrun looks for the cause that its own report of the failure ends with."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        reason = {"message": line, "extraInfo": {"timestamp": str(int(time.time()))}}
        with contextlib.suppress(OSError):  # the line itself is printed in any case
            Path(path).write_text(json.dumps({"message": reason}), encoding="utf-8")


def _end(board: _Board, line: str, status: int) -> None:
    """Ends this process at once, whatever its main thread does; prints a line if it is the process that reports."""
    if board.reports():

        def write() -> None:
            with contextlib.suppress(OSError):  # the terminal may have been closed too
                os.write(2, f"error: {line}\n".encode())

        # in a thread, because a full pipe without a reader would block for ever
        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        writer.join(_SILENCE_S)
    else:
        time.sleep(_SILENCE_S)
    os._exit(status)


def _end_with_launcher(board: _Board, ended: threading.Event) -> threading.Thread:
    """Ends this process within seconds once its launcher has ended, even while it waits in a collective. Returns the
    thread that watches.

    Nobody would stop the process any more, and a job that is started again would write into the same folder. ended: set
    once the job is over, so that the store may end.
    """

    def watch() -> None:
        while not ended.wait(LOOK_S):
            # the second wait: where process 0 keeps the store, it may have ended a moment before this one
            if board.launcher_ended() and not ended.wait(LOOK_S):
                _end(board, str(LauncherEndedError()), 2)

    watching = threading.Thread(target=watch, daemon=True, name="launcher")
    watching.start()
    return watching


def _stop_on_sigterm(board: _Board) -> None:
    """Ends the process with a line on SIGTERM, which torchrun sends when another process has ended, even during a wait.

    A handler in Python would have to wait for the main thread, which may stay in a collective until its timeout. The
    signal's number is written to a pipe at once, and a thread of its own reads it. A program that has meanwhile set its
    own handler for SIGTERM, to save before it ends, has SAVE_S for that. Further SIGTERMs change nothing, because
    launchers send the signal more than once.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # Python sets handlers in the main thread alone
    read, write = os.pipe()
    os.set_blocking(write, False)

    def heard(number: int, frame: object) -> None:
        """Does nothing: the thread below acts, since the main thread may never run this handler."""

    signal.signal(signal.SIGTERM, heard)
    signal.set_wakeup_fd(write)

    def as_usual() -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    os.register_at_fork(after_in_child=as_usual)  # processes that read data

    def end() -> None:
        line = "stopped by SIGTERM: another process of this job has ended, or the job was cancelled"
        _end(board, f"{line}; continue with --resume", 128 + signal.SIGTERM)

    def watch() -> None:
        saving = False
        for received in iter(lambda: os.read(read, 1), b""):
            if received[0] != signal.SIGTERM or saving:
                continue
            if signal.getsignal(signal.SIGTERM) is heard:
                end()
            saving = True
            last = threading.Timer(SAVE_S, end)
            last.daemon = True
            last.start()

    threading.Thread(target=watch, daemon=True).start()
