"""Runs a queue of jobs, each in a process of its own: on the CPU and on each GPU as many at a time as it has slots."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from types import FrameType
from typing import Literal, Protocol, TypeVar

Kind = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Slot:
    """A place for one job at a time."""

    kind: Kind
    name: str
    """The name of a GPU, as in CUDA_VISIBLE_DEVICES, or the number of a CPU slot."""
    place: int = 0
    """Which of several slots of one GPU it is."""


class Job(Protocol):
    """Something to run."""

    @property
    def kind(self) -> Kind:
        """The kind of slot that the job needs."""


class Process(Protocol):
    """The part of subprocess.Popen that the queue uses. The process must lead a process group of its own."""

    pid: int

    def poll(self) -> int | None:
        """Returns the exit status; None while the process runs."""


J = TypeVar("J", bound=Job)


def cpu_slots(count: int) -> list[Slot]:
    """Returns `count` slots of the CPU."""
    return [Slot("cpu", str(i)) for i in range(count)]


def gpu_slots(visible: str | None, count: int, each: int = 1) -> list[Slot]:
    """Returns `each` slots for each GPU, the first of every GPU first. visible: the environment's CUDA_VISIBLE_DEVICES,
    None if it is not set. count: the number of GPUs that torch can use.

    CUDA ignores what follows the first unknown name, so torch's count is the number of valid names. If the names are
    parts of a GPU (MIG), a process can use only the first, but each name is a slot for another process.
    """
    names = [str(i) for i in range(count)] if visible is None else [name.strip() for name in visible.split(",")]
    if count and names[0].startswith("MIG-"):
        parts = takewhile(lambda name: name.startswith("MIG-"), names)
        names, count = list(dict.fromkeys(parts)), len(names)
    return [Slot("cuda", name, place) for place in range(each) for name in names[:count]]


def run_queue(
    jobs: Sequence[J],
    slots: Sequence[Slot],
    start: Callable[[J, Slot], Process],
    ended: Callable[[J, int, bool], None],
    *,
    pause: float = 0.2,
) -> int | None:
    """Starts the jobs in order, each as soon as a slot of its kind is free. `ended` is called with each exit status,
    and with whether the queue had been interrupted before.

    After SIGINT, SIGTERM or SIGHUP no further job is started; the running ones get SIGINT and are waited for. At a
    second signal they are killed. Returns the first signal, or None if all jobs were run.
    pause: seconds between two checks of the processes. Raises ValueError if there is no slot for a job.
    """
    lacking = {job.kind for job in jobs} - {slot.kind for slot in slots}
    if lacking:
        raise ValueError(f"there is no slot of kind {', '.join(sorted(lacking))}")
    waiting, running = list(jobs), dict[Slot, tuple[J, Process]]()
    with _signals_counted() as signals, _stopped_on_error(running):
        passed_on = 0
        while running or (waiting and not signals):
            for slot in slots:
                job = next((job for job in waiting if job.kind == slot.kind), None)
                if job is not None and slot not in running and not signals:
                    waiting.remove(job)
                    running[slot] = (job, start(job, slot))
            if len(signals) > passed_on:
                first, passed_on = passed_on == 0, len(signals)  # several at once, as at a logout, count as one
                for _, process in running.values():
                    _signal_group(process, signal.SIGINT if first else signal.SIGKILL)
            time.sleep(pause)
            for slot, (job, process) in list(running.items()):
                status = process.poll()
                if status is not None:
                    del running[slot]
                    ended(job, status, bool(signals))
        return signals[0] if signals else None


@contextlib.contextmanager
def _stopped_on_error(running: dict[Slot, tuple[J, Process]]) -> Iterator[None]:
    """Interrupts the processes that still run if the queue ends by an exception."""
    try:
        yield
    finally:
        for _, process in running.values():
            _signal_group(process, signal.SIGINT)


@contextlib.contextmanager
def _signals_counted() -> Iterator[list[int]]:
    """Yields the list of the signals received so far. A signal is added to it and raises nothing, so that a process
    that was just started is not forgotten.

    The handlers also have an effect on children: a child of a background job would inherit that SIGINT is ignored, but
    with a handler in this process it does not.
    """
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)

    wanted = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        wanted.append(signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in wanted}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _signal_group(process: Process, number: int) -> None:
    """Sends a signal to the process and those that it has started, as a terminal does."""
    with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
        os.killpg(process.pid, number)
