"""Ends a retraining before its last step, as a signal would."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import retrain.loop
from engine.distributed import ALONE, Group
from engine.interrupts import interrupts_between_steps


@contextmanager
def stopped_when(over: Callable[[], bool]) -> Iterator[None]:
    """Inside the block, a retraining saves a checkpoint and raises Interrupted after the first step after which
    `over()` is true; it is called once after each step."""

    @contextmanager
    def either(group: Group = ALONE) -> Iterator[Callable[[], int | None]]:
        with interrupts_between_steps(group) as came:
            yield lambda: came() or (signal.SIGTERM if over() else None)

    with patch.object(retrain.loop, "interrupts_between_steps", either):
        yield
