"""Handles Ctrl-C and SIGTERM between steps, never inside one, and after the same step in all processes of a job."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from engine.distributed import ALONE, Group
from engine.errors import Interrupted

STOPPING = b"\nstopping after this step; Ctrl-C again stops at once\n"

Agreed = Callable[[], int | None]
"""A function that is called after each step and returns the number of the signal that stops the run now; None if the
run continues."""


@contextmanager
def interrupts_between_steps(group: Group = ALONE) -> Iterator[Agreed]:
    """Yields a function that every process of the group calls after every step and that returns the same in all of
    them: the number of the signal (SIGINT or SIGTERM) that stops the run, None if the run goes on.

    A process alone stops after the step in which it received a signal. The processes of a group exchange after each
    step whether one has received a signal; the exchange goes on while they compute the next step, after which all have
    its result. So a run stops one step after the last process received its signal, with the same step done everywhere.

    A second Ctrl-C raises at once; a further SIGTERM does not, because launchers send it to a process more than once.
    The first Ctrl-C does not raise: an exception would be lost inside a destructor, and inside a queue's lock it could
    block another thread for ever, so that the program never ends. Changes nothing outside the main thread, nor for a
    signal that is ignored, as SIGINT is by jobs in the background.
    """
    came: list[int] = []
    answer: list[Callable[[], int]] = []  # waits for the result of the exchange that goes on

    def agreed() -> int | None:
        mine = came[0] if came else 0
        if group.alone:
            return mine or None
        largest = answer.pop()() if answer else 0
        answer.append(group.largest(mine))
        return largest or None

    def note(number: int, _: FrameType | None) -> None:
        if came and number == signal.SIGINT:
            raise Interrupted(number)
        if not came:
            os.write(2, STOPPING)  # safe in a handler: a stream might be interrupted in its own write
        came.append(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        before = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, note)
    try:
        yield agreed
        for wait in answer:
            wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
