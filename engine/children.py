"""Runs the jobs of a sweep: each in a process of its own, with a folder, a log, and a file for its error."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Generic, Literal, TypeVar

import torch

from engine.arguments import path_argument
from engine.data.readers import worker_count
from engine.device import no_gpu
from engine.errors import ConfigError, UserError, one_line
from engine.files import read_json, write_atomically
from engine.progress import Progress
from engine.queue import Kind, Slot, cpu_slots, gpu_slots, run_queue
from engine.runs.folder import run_begun

log = logging.getLogger("engine")


class Child(ABC):
    """A job of a sweep: something that a process works on in a run folder, and that can be resumed there."""

    name: str
    """The name of its folder, and of the log beside the folder."""
    out: Path
    """The folder of the sweep."""
    config: Path
    """The file of its settings."""
    kind: Kind
    """The kind of slot that it needs: cuda if `run.device` is cuda."""
    overrides: tuple[str, ...]
    """The last arguments of its process, `key=value`."""

    @abstractmethod
    def command(self) -> Sequence[str]:
        """Returns the module that does the work and its arguments, without those of `add_child_arguments`."""

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return self.out / self.name

    @property
    def log(self) -> Path:
        """The file that holds all that its process prints. It lies beside the run folder, since a run begins in an
        empty folder."""
        return self.out / f"{self.name}.log"

    @property
    def error_file(self) -> Path:
        """The file with its error as data, if it has failed; see `write_error`."""
        return self.out / f"{self.name}.error.json"

    @property
    def error(self) -> str | None:
        """The error that it has left, in one line; None if there is none."""
        if not self.error_file.exists():
            return None
        return str(read_json(self.error_file, "the error of a run").get("text"))


C = TypeVar("C", bound=Child)


@dataclass(frozen=True)
class Ending:
    """How the process of a child has ended."""

    status: Literal["ended", "failed", "interrupted"]
    seconds: float
    """The time of its processes, including those before a resume of the sweep."""
    error: str | None = None
    """The error of a failed one, in one line."""


def add_child_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments with which a sweep starts each child, beside those of `Child.command`."""
    parser.add_argument("--out", type=path_argument, required=True)
    parser.add_argument("--error", type=path_argument, required=True)
    parser.add_argument("--parent", type=int, help="the process that started this one, which stops if that is gone")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("overrides", nargs="*")


@contextmanager
def error_written(path: Path) -> Iterator[None]:
    """Writes an error of the block to `path`, for the sweep, and raises it on; see `write_error`."""
    try:
        yield
    except Exception as error:
        write_error(path, error)
        raise


def write_error(path: Path, error: Exception) -> None:
    """Writes an error as JSON: its text in one line, and for a UserError its parts."""
    record: dict[str, object] = {"text": one_line(f"{type(error).__name__}: {error}")}
    if isinstance(error, UserError):
        record = {"text": error.with_command, "where": error.where, "found": error.found}
        record |= {"expected": error.expected, "remedy": error.remedy}
    write_atomically(path, json.dumps(record, indent=2) + "\n")


def earlier_seconds(record: Path, key: str) -> dict[str, float]:
    """Returns the seconds that earlier commands of a sweep spent on each run, by its name.

    record: the sweep's JSON, whose entry `key` has a row for each run. Raises ConfigError if it is damaged.
    """
    if not record.exists():
        return {}
    try:
        return {row["name"]: float(row["seconds"]) for row in read_json(record, "the record of a sweep")[key]}
    except (ConfigError, ValueError, KeyError, TypeError):
        remedy = "delete it, the runs are in their own folders"
        raise ConfigError(str(record), "is no record of a sweep", remedy=remedy) from None


def slots_for(children: Sequence[Child], jobs: int, *, each_gpu: int = 1) -> list[Slot]:
    """Returns the slots of this machine for the children: `each_gpu` on each GPU that this process sees, and `jobs` on
    the CPU, of each no more than there are children. Raises ConfigError if a child needs a GPU and there is none."""
    jobs, each_gpu = (min(number, len(children)) for number in (jobs, each_gpu))
    gpus = gpu_slots(os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count(), each_gpu)
    needs_gpu = next((child for child in children if child.kind == "cuda"), None)
    if needs_gpu is not None and not gpus:
        raise no_gpu(f"{needs_gpu.config}: run.device")
    return [*gpus, *cpu_slots(jobs)]


def at_once(children: Sequence[Child], slots: Sequence[Slot]) -> int:
    """Returns how many of the children run at the same time at most."""
    kinds = Counter(child.kind for child in children)
    return sum(min(kinds[kind], sum(slot.kind == kind for slot in slots)) for kind in kinds)


def run_children(
    children: Sequence[C],
    slots: Sequence[Slot],
    ended: Callable[[C, Ending], None],
    has_ended: Callable[[C], bool],
    *,
    seconds: Mapping[str, float],
    done: int = 0,
) -> int | None:
    """Runs the children that are left of a sweep. Returns the signal that has interrupted it, None if there was none.

    ended: called as soon as a child's process has ended. has_ended: whether the run in a child's folder is complete; a
    signal may come between its last file and the end of its process. seconds: what earlier commands spent on each, by
    name. done: how many children of the sweep have ended already.
    """
    runner = _Runner(children, slots, ended, has_ended, seconds, done)
    with Progress(done + len(children), done, "sweep") as runner.progress:
        return run_queue(children, slots, runner.start, runner.ended)


@dataclass
class _Running:
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    began: float


class _Runner(Generic[C]):
    """Starts the processes of a sweep, and finds out how they ended."""

    progress: Progress

    def __init__(
        self,
        children: Sequence[C],
        slots: Sequence[Slot],
        ended: Callable[[C, Ending], None],
        has_ended: Callable[[C], bool],
        seconds: Mapping[str, float],
        done: int,
    ):
        self._ended, self._has_ended, self._seconds, self._done = ended, has_ended, seconds, done
        self._at_once, self._running = at_once(children, slots), dict[str, _Running]()

    def start(self, child: C, slot: Slot) -> subprocess.Popen[bytes]:
        # -P: no module of the folder in which the sweep was started takes the place of another one
        command = [sys.executable, "-P", "-m", *child.command(), "--out", str(child.folder)]
        command += ["--error", str(child.error_file), "--parent", str(os.getpid())]
        command += ["--resume"] if run_begun(child.folder) else []
        command += child.overrides
        child.error_file.unlink(missing_ok=True)  # of an earlier attempt
        environment = dict(os.environ)
        if slot.kind == "cuda":
            environment["CUDA_VISIBLE_DEVICES"] = slot.name
        if self._at_once > 1:  # each its share of the cores; see run.threads
            environment["OMP_NUM_THREADS"] = str(max(1, worker_count(None) // self._at_once))
        output = child.log.open("ab")
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment,
            start_new_session=True,  # a Ctrl-C of the terminal comes once, from here
        )  # fmt: skip
        self._running[child.name] = _Running(process, output, time.monotonic())
        log.info("%s starts on %s %s, log in %s", child.name, slot.kind, slot.name, child.log)
        return process

    def ended(self, child: C, status: int, interrupted: bool) -> None:
        running = self._running.pop(child.name)
        running.log.close()
        seconds = self._seconds.get(child.name, 0.0) + time.monotonic() - running.began
        ending = ending_of(child, status, interrupted, seconds, self._has_ended)
        self._done += 1
        log.info("%s: %s%s", child.name, ending.status, f": {ending.error}" if ending.error else "")
        self._ended(child, ending)
        self.progress.update(self._done, running=", ".join(self._running) or "none")


def ending_of(child: C, status: int, interrupted: bool, seconds: float, has_ended: Callable[[C], bool]) -> Ending:
    """Returns how a process ended. It exits with 0 or 3 after a run that ended, with 130 after Ctrl-C and with 143
    after SIGTERM."""
    if status in (0, 3):
        return Ending("ended", seconds)
    if status in (130, 143) or (interrupted and status < 0):
        return Ending("ended" if has_ended(child) else "interrupted", seconds)
    if status < 0:
        return Ending("failed", seconds, f"killed by signal {-status} ({signal.Signals(-status).name})")
    return Ending("failed", seconds, child.error or f"exit status {status}, no message: see {child.log}")
