"""Runs the same function on several jobs, each in a process of its own; ends a process with the one that started it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from engine.errors import UserError

R = TypeVar("R")


def side_by_side(
    work: Callable[..., R], jobs: Sequence[tuple[Any, ...]], workers: int, finished: Callable[[int, R], None]
) -> list[R]:
    """Calls `work(*job)` for each job in one of `workers` processes and returns the results in the order of the jobs.

    work: a function at the top of a module; it and the jobs are pickled. finished: called with a job's place and its
    result as soon as it has one. If a job fails, those that have begun are finished, the others are not begun, and its
    error is raised. If this process is killed, its workers stop as at SIGTERM. Raises UserError if one of them was
    killed.
    """
    # spawned, since a fork would copy the locks of this process's threads
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin_worker, (os.getpid(),))
    try:
        places = {pool.submit(_worked, os.getpid(), work, job): i for i, job in enumerate(jobs)}
        for done in as_completed(places):
            finished(places[done], done.result())
        return [done.result() for done in places]
    except BrokenProcessPool as error:
        found = "a process was killed, perhaps for lack of memory"
        raise UserError(found=found, remedy="free some, or let fewer run at once") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker(parent: int) -> None:
    """Prepares a worker of the process `parent`. SIGTERM ends one that waits for a job at once, and reaches one whose
    parent ignores SIGINT, as programs in the background do."""
    stop_with_parent(signal.SIGTERM, parent=parent)


def _worked(parent: int, work: Callable[..., R], job: tuple[Any, ...]) -> R:
    """Returns the result of a job. Ends the worker after it if the process `parent` is gone: no other job comes."""
    try:
        return work(*job)
    finally:
        if os.getppid() != parent:
            os._exit(128 + signal.SIGTERM)


def stop_with_parent(number: int = signal.SIGINT, *, parent: int | None = None, pause: float = 0.5) -> None:
    """Lets this process stop as at Ctrl-C once the process that started it is gone, which may have been killed.

    Otherwise it would go on unseen and keep its folder locked. number: the signal that this process gets then. parent:
    the process that started it, None for the one that is its parent now, which is another one if that has been killed
    already, as it may be while Python starts. pause: seconds between two looks.
    """
    known = os.getppid() if parent is None else parent

    def watch() -> None:
        while os.getppid() == known:
            time.sleep(pause)
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, daemon=True, name="stop_with_parent").start()
