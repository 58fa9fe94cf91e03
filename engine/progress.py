"""How far a run is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from engine.distributed import ALONE, Group

console = Console(stderr=True)


def set_up_logging(group: Group = ALONE) -> None:
    """Warnings and notes through the progress bar's console, so that they do not tear it. Scripts call this once.

    What all processes find is said by process 0; an unreadable file by the one that met it.
    """
    handler: logging.Handler = RichHandler(console=console, show_path=False, show_time=False)
    handler.setFormatter(logging.Formatter("%(message)s"))  # it shows the level itself; basicConfig would add it again
    if not console.is_terminal:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    if not group.first:
        handler.addFilter(logging.Filter("engine.data"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class Progress:
    """`with Progress(total, start, "search") as progress: progress.update(step, loss=...)`.

    total, start: in steps; a resumed run starts above 0. seconds: least time between two plain lines. shown: False in
    the processes that print nothing.
    """

    def __init__(self, total: int, start: int, what: str, *, seconds: float = 10.0, shown: bool = True):
        self.total, self.start, self.what, self.seconds, self.shown = total, start, what, seconds, shown
        self._began = time.monotonic()
        self._printed = -float("inf")
        self._bar: Bar | None = None
        if shown and console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Bar(*columns, TextColumn("{task.fields[figures]}", markup=False), console=console)
            self._task = self._bar.add_task(what, total=total, completed=start, figures="")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, step: int, **figures: float | str) -> None:
        """`step` steps are done."""
        if not self.shown:
            return
        shown = "  ".join(f"{k} {v}" if isinstance(v, str) else f"{k} {v:.4g}" for k, v in figures.items())
        if self._bar:
            self._bar.update(self._task, completed=step, figures=shown)
            return
        now = time.monotonic()
        if now - self._printed >= self.seconds or step == self.total:
            self._printed = now
            left = (now - self._began) / max(1, step - self.start) * (self.total - step)
            # out, unlike print, neither wraps the line nor reads [..] as markup
            console.out(f"{self.what} {step}/{self.total}  {shown}  {_duration(left)} left", highlight=False)


class Stages:
    """`with Stages() as told: told("measure", 3, 10)`: a Progress for each thing that is done, one after the other."""

    def __init__(self) -> None:
        self._what = ""
        self._current: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __call__(self, what: str, done: int, total: int) -> None:
        """`done` of `total` are done of `what`."""
        if self._current is None or what != self._what:
            self.__exit__(None, None, None)
            self._what, self._current = what, Progress(total, 0, what).__enter__()
        self._current.update(done)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._current is not None:
            self._current.__exit__(kind, error, trace)
            self._current = None


def _duration(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
