"""Ctrl-C between steps, not inside one."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

TOLD = b"\nstopping after this step; Ctrl-C again stops at once\n"


@contextmanager
def interrupts_between_steps() -> Iterator[Callable[[], None]]:
    """Yields `check`, to be called between steps: KeyboardInterrupt if SIGINT has come. A second SIGINT raises at once.

    Raised wherever the program happens to be, a KeyboardInterrupt is lost where that is a destructor, and can leave a
    queue that another thread waits for, such as that of TensorBoard's writer, so that the program never ends.
    Changes nothing outside the main thread, nor where SIGINT is ignored, as by jobs in the background.
    """
    came: list[int] = []

    def check() -> None:
        if came:
            raise KeyboardInterrupt

    def note(number: int, _: FrameType | None) -> None:
        check()
        came.append(number)
        os.write(2, TOLD)  # unlike a stream, not in the middle of its own write

    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (signal.SIG_IGN, None):
        yield check
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
