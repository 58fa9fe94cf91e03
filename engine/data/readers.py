"""Reads a set's image files in processes, which are started once for a run and serve all its streams of batches."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import traceback
import types
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import util
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.multiprocessing

from engine.data.images import Item, RawBatch
from engine.errors import UserError

if TYPE_CHECKING:
    from engine.data.images import ImageSet

MOST_WORKERS = 16
"""The most processes if `data.workers` is not set: each has a batch or two in shared memory."""
_AHEAD = 2  # requests that a process has at a time: the batch that it reads, and the next
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def worker_count(workers: int | None) -> int:
    """Returns `data.workers`, or if it is not set, the cores that this process may use, 1 to MOST_WORKERS.

    These are the cores that the system and the container allow, divided by the processes that torchrun has started on
    this machine.
    """
    if workers is not None:
        return workers
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
        quota, period = map(int, _CPU_QUOTA.read_text().split())
        cores = min(cores, quota / period)
    return max(1, min(MOST_WORKERS, int(cores / int(os.environ.get("LOCAL_WORLD_SIZE", "1")))))


class Readers:
    """The processes of one set. They start with the first batch and run until `close`: a training stream and all
    evaluations of the set use the same ones.

    They are forked as long as this process has neither a CUDA context nor connections to other processes: that takes
    milliseconds. A fork of a process that has them copies locks and sockets in whatever state they are, so that it may
    hang, and keeps the connections of a rank open after its end; then the processes come from a server that has
    neither, which takes the seconds of an import once.
    """

    def __init__(self) -> None:
        self._pool: _Pool | None = None

    def __reduce__(self) -> tuple[type[Readers], tuple[()]]:
        return Readers, ()  # a set that is sent to a process has no processes there

    def read(
        self, images: ImageSet, lists: Iterable[list[Item]], *, augment: bool, workers: int, pin_memory: bool
    ) -> Generator[RawBatch]:
        """Yields a batch for each list of items, in order, read ahead by `workers` processes.

        While iterating, raises the UserError that `images.read` raises, and one if a process was killed or the system
        refuses processes, memory or files. The processes have ended then.
        """
        lists = iter(lists)
        waiting: deque[tuple[_Pool, int, list[Item]]] = deque()

        def request(items: list[Item]) -> tuple[_Pool, int, list[Item]]:
            pool = self._started(images, workers)
            return pool, pool.request(items, augment, pin_memory), items

        try:
            while True:
                while len(waiting) < _AHEAD * workers and (items := next(lists, None)) is not None:
                    waiting.append(request(items))
                if not waiting:
                    return
                pool, ticket, items = waiting.popleft()
                if pool.closed:  # closed by another stream of this set that has ended
                    pool, ticket, _ = request(items)
                yield pool.batch_of(ticket)
        except UserError:
            self.close()
            raise
        finally:
            for pool, ticket, _ in waiting:
                pool.cancel(ticket)

    def close(self) -> None:
        """Ends the processes; the next batch starts them anew."""
        if self._pool:
            self._pool.close()
            self._pool = None

    def _started(self, images: ImageSet, workers: int) -> _Pool:
        """Returns the processes, which are started if they do not run or if their number changes."""
        if self._pool and self._pool.size != workers:
            self.close()
        if not self._pool:
            self._pool = _Pool(images, workers)
        return self._pool


@dataclass(frozen=True)
class _Failure:
    """The reply of a process in place of a batch, if a fault of the program or a shortage of the system stopped it."""

    text: str
    shortage: bool


class _Worker:
    """A process, this end of its connection, and the tickets of the batches that it reads."""

    def __init__(self, images: ImageSet, context: BaseContext):
        self.connection, other = multiprocessing.Pipe()
        # a process that is forked later must not keep this end open: the end of this program is seen by its closing
        util.register_after_fork(self.connection, Connection.close)
        with _no_main_module(), other:
            self.process: BaseProcess = context.Process(  # type: ignore[attr-defined]
                target=_serve, args=(images, other), daemon=True, name="reader"
            )
            self.process.start()
        self.tickets: set[int] = set()


class _Pool:
    """Processes that read the batches requested from them. A request has a number, its ticket; batches get ready in any
    order."""

    def __init__(self, images: ImageSet, size: int):
        self.size = size
        self.closed = False
        self._workers: list[_Worker] = []
        self._backlog: deque[tuple[int, list[Item], bool]] = deque()
        self._arrived: dict[int, RawBatch | UserError | _Failure | Future[RawBatch]] = {}
        self._pinned: set[int] = set()
        self._cancelled: set[int] = set()
        self._next = 0
        # memory is pinned beside the training, by a thread: it is copied
        self._pinning = ThreadPoolExecutor(1, "pinning")
        self._processes: list[BaseProcess] = []
        # They ignore SIGTERM, with which Python ends such processes at its own end before it waits for them
        util.Finalize(self, _kill, (self._processes,), exitpriority=0)
        try:
            for _ in range(size):
                self._workers.append(_Worker(images, _context()))
                self._processes.append(self._workers[-1].process)
        except OSError as error:
            self.close()
            raise _shortage(f"the system starts no further process ({error.strerror or error})", size) from error

    def request(self, items: list[Item], augment: bool, pin_memory: bool) -> int:
        """Requests a batch and returns its ticket."""
        ticket, self._next = self._next, self._next + 1
        if pin_memory:
            self._pinned.add(ticket)
        self._backlog.append((ticket, items, augment))
        self._hand_out()
        return ticket

    def batch_of(self, ticket: int) -> RawBatch:
        """Waits for a batch and returns it, once for each ticket. Raises UserError if it could not be read."""
        while ticket not in self._arrived:
            self._receive()
        reply = self._arrived.pop(ticket)
        self._receive(timeout_s=0)  # batches that are ready by now are pinned while the program goes on
        if isinstance(reply, Future):
            reply = reply.result()
        if isinstance(reply, UserError):
            raise reply
        if isinstance(reply, _Failure):
            if reply.shortage:
                raise _shortage(reply.text, self.size)
            raise RuntimeError(f"in a process that reads images:\n{reply.text}")
        return reply

    def cancel(self, ticket: int) -> None:
        """Discards a batch that nobody waits for any more, now or when it arrives."""
        if self._arrived.pop(ticket, None) is None:
            self._cancelled.add(ticket)

    def close(self) -> None:
        self.closed = True
        for worker in self._workers:
            worker.connection.close()  # this ends the process, once it has read its batch
        for worker in self._workers:
            worker.process.join(5)
            if worker.process.exitcode is None:
                worker.process.kill()
                worker.process.join()
        self._pinning.shutdown()
        self._arrived.clear()

    def _hand_out(self) -> None:
        while self._backlog:
            worker = min(self._workers, key=lambda worker: len(worker.tickets))
            if len(worker.tickets) >= _AHEAD:
                return
            ticket, items, augment = self._backlog.popleft()
            if ticket in self._cancelled:
                self._cancelled.remove(ticket)
                continue
            worker.tickets.add(ticket)
            try:
                worker.connection.send((ticket, items, augment))
            except OSError:
                self._refuse(worker)

    def _receive(self, timeout_s: float | None = None) -> None:
        """Receives the replies that the processes have sent; waits for the first one, at most `timeout_s` seconds."""
        by_connection = {worker.connection: worker for worker in self._workers}
        for ready in wait(list(by_connection), timeout_s):
            assert isinstance(ready, Connection)
            worker = by_connection[ready]
            try:
                ticket, reply = ready.recv()
            except (EOFError, ConnectionError):
                self._refuse(worker)
            except (OSError, RuntimeError) as error:  # without a free descriptor; Python says "0 items of ancdata"
                raise _shortage(f"a batch cannot be received ({error})", self.size) from error
            worker.tickets.remove(ticket)
            if ticket in self._cancelled:
                self._cancelled.remove(ticket)
            elif ticket in self._pinned and isinstance(reply, RawBatch):
                self._arrived[ticket] = self._pinning.submit(pinned, reply)
            else:
                self._arrived[ticket] = reply
            self._pinned.discard(ticket)
        self._hand_out()

    def _refuse(self, worker: _Worker) -> None:
        """Raises UserError for a process that has ended by itself."""
        worker.process.join(2)
        code = worker.process.exitcode
        if code is None:
            raise _shortage("a process that reads images cannot be reached", self.size)
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"status {code}"
        raise _shortage(f"a process that reads images has ended ({how})", self.size)


def _kill(processes: list[BaseProcess]) -> None:
    for process in processes:
        with contextlib.suppress(ValueError):  # closed already
            process.kill()


def pinned(batch: RawBatch) -> RawBatch:
    """Returns the batch in pinned memory, which a GPU can fetch by itself."""
    return batch.each(torch.Tensor.pin_memory)


def _shortage(what: str, workers: int) -> UserError:
    """Returns the error for a shortage of processes, memory or files. what: what has failed."""
    shared = Path("/dev/shm")
    room = ""
    with contextlib.suppress(OSError):
        usage = shutil.disk_usage(shared)
        room = f" ({shared} has {usage.free >> 20} of {usage.total >> 20} MB free)"
    return UserError(
        "data.workers",
        f"{what}: most often memory is short, or shared memory{room}, or the limits of open files and processes "
        "(ulimit -n, -u)",
        remedy=f"lower data.workers (now {workers}) or the batch size, or make room (docker run --shm-size), then "
        "continue a run with --resume",
    )


def _context() -> BaseContext:
    """Returns the way in which processes are started; see Readers."""
    if sys.platform == "linux" and not torch.cuda.is_initialized() and not dist.is_initialized():
        return multiprocessing.get_context("fork")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "engine.data.folder", "torchvision.transforms.v2"])
    return context


@contextlib.contextmanager
def _no_main_module() -> Iterator[None]:
    """Hides the program's main module inside the block.

    A new process that is not forked imports the main module, and so would run a script of the user's that has no
    `if __name__ == "__main__"`. The processes started here need nothing of it.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _serve(images: ImageSet, connection: Connection) -> None:
    """Reads batches in a process until the program that requests them has closed the connection, or ended."""
    torch.set_num_threads(1)  # the processes share the cores among themselves
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all processes; the step being finished needs its batches
        signal.signal(number, signal.SIG_IGN)
    while True:
        try:
            ticket, items, augment = connection.recv()
        except (EOFError, ConnectionError):
            return
        answer = _batch(images, items, augment)
        try:
            connection.send((ticket, answer))
        except ConnectionError:
            return
        except OSError as error:  # a batch travels as an open file
            connection.send((ticket, _Failure(error.strerror or str(error), shortage=True)))


def _batch(images: ImageSet, items: list[Item], augment: bool) -> RawBatch | UserError | _Failure:
    """Returns the batch of `items` in shared memory, or the reason why there is none."""
    try:
        batch = images.read(items, augment=augment)
    except UserError as error:
        return error
    except Exception:  # noqa: BLE001  raised again, with this text, where the batch is awaited
        return _Failure(traceback.format_exc(), shortage=False)
    try:
        return batch.each(torch.Tensor.share_memory_)
    except (OSError, RuntimeError) as error:  # torch has no type of its own for it
        return _Failure(f"no shared memory for a batch ({str(error).splitlines()[0]})", shortage=True)
