"""Prepares batches while the caller computes: in a thread, and on a GPU in a stream of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from engine.data.images import Batch

X = TypeVar("X")
Y = TypeVar("Y")


def in_thread(function: Callable[[X], Y], inputs: Iterable[X], ahead: int = 1) -> Generator[Y]:
    """Yields function(x) for each of the inputs, in order. A thread computes `ahead` of them while the caller works.

    The inputs are taken from their iterator by the caller's thread. An error of the function is raised when its result
    is due. The thread ends with the generator.
    """
    waiting: deque[Future[Y]] = deque()
    pool = ThreadPoolExecutor(1, "batches")
    try:
        for x in inputs:
            waiting.append(pool.submit(function, x))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def beside_the_training(finish: Callable[[X], Batch], inputs: Iterable[X], device: torch.device) -> Generator[Batch]:
    """Yields finish(x) for each of the inputs, in order; `finish` copies to a GPU and computes there.

    Its work goes to a stream of its own, one batch ahead, so that neither the copy nor the computation waits for the
    training step before, nor the step for them. The caller's stream waits for a batch when it gets it.
    """
    stream = torch.cuda.Stream(device)

    def started(x: X) -> tuple[Batch, torch.cuda.Event]:
        with torch.cuda.stream(stream):
            return finish(x), stream.record_event()

    def arrived(batch: Batch, done: torch.cuda.Event) -> Batch:
        current = torch.cuda.current_stream(device)
        current.wait_event(done)
        for tensor in (batch.images, batch.labels):
            tensor.record_stream(current)  # its memory is not used again before the step that reads it has ended
        return batch

    before = None
    for x in inputs:
        now = started(x)
        if before is not None:
            yield arrived(*before)
        before = now
    if before is not None:
        yield arrived(*before)
