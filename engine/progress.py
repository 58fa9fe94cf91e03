"""Shows how far a run is and what it waits for: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console, RenderableType
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from engine.distributed import ALONE, Group

T = TypeVar("T")
Report = Callable[[str, int, int], None]
"""A function that is called with the name of a task, how much of it is done, and the total (0: it cannot be counted).
Stages and Progress.between_steps are such functions."""

console = Console(stderr=True)
FEWEST_STEPS = 5
"""The time left is not shown before so many steps of a phase have been done after its first one."""
RECENT_UPDATES = 20
"""The time left is computed from the last so many updates."""
ONE_LINE = 120
"""A terminal with so many columns shows a task in one line; a narrower one shows the figures in a second line."""


def set_up_logging(group: Group = ALONE) -> None:
    """Sends the log to the progress bar's console, so that its lines do not break the bar. Scripts call this once.

    Process 0 logs what all processes have in common. A process that finds an unreadable file logs it itself.
    """
    handler: logging.Handler = RichHandler(console=console, show_path=False, show_time=False)
    handler.setFormatter(logging.Formatter("%(message)s"))  # it shows the level itself; basicConfig would add it again
    if not console.is_terminal:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    if not group.first:
        handler.addFilter(logging.Filter("engine.data"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def silent(what: str, done: int, total: int) -> None:
    """Shows nothing: the Report for callers that want none."""


def reported(items: Iterable[T], what: str, total: int, report: Report) -> Iterator[T]:
    """Yields the items, and calls `report` before the first one and after each."""
    report(what, 0, total)
    for done, item in enumerate(items, 1):
        yield item
        report(what, done, total)


class _Bar(RichProgress):
    """A bar whose figures stand in a second line if the terminal is narrow, so that the time left stays readable."""

    def __init__(self, console: Console) -> None:
        self._wide = console.width >= ONE_LINE
        columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False)]
        columns += [BarColumn(40 if self._wide else 20), MofNCompleteColumn()]
        fields = ("left", "figures") if self._wide else ("left",)
        columns += [TextColumn("{task.fields[" + field + "]}", markup=False) for field in fields]
        super().__init__(*columns, console=console)

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if not self._wide and task.fields["figures"]:
                yield Text(task.fields["figures"], no_wrap=True, overflow="ellipsis")


class Progress:
    """Shows the progress of one task: `with Progress(total, start, "search") as progress: progress.update(step)`.

    total, start: in steps; a resumed run starts above 0. A total of 0 means that it cannot be counted. seconds: the
    least time between two plain lines. shown: False in the processes that print nothing. phases: (name, step at which
    it ends) in order, if the steps of one take longer than those of another; the time left is then that of the current
    phase.
    """

    def __init__(
        self,
        total: int,
        start: int,
        what: str,
        *,
        seconds: float = 10.0,
        shown: bool = True,
        phases: Sequence[tuple[str, int]] = (),
    ):
        self.total, self.step, self.what, self.seconds, self.shown = total, start, what, seconds, shown
        self.phases = phases
        self._began = time.monotonic()
        self._printed = -float("inf")
        self._seen: deque[tuple[float, int]] = deque(maxlen=RECENT_UPDATES)
        self._bar: _Bar | None = None
        if shown and console.is_terminal:
            self._bar = _Bar(console)
            self._task = self._bar.add_task(what, total=total or None, completed=start, figures="", left="")

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
        """Shows that `step` steps are done, with `figures` beside them."""
        if not self.shown:
            return
        now = time.monotonic()
        if self._phase(step) != self._phase(self.step) or step < self.step:
            self._seen.clear()
        self.step = step
        self._seen.append((now, step))
        shown = "  ".join(f"{k} {v}" if isinstance(v, str) else f"{k} {v:.4g}" for k, v in figures.items())
        if self._bar:
            self._bar.update(self._task, completed=step, figures=shown, left=self._left(now))
        elif now - self._printed >= self.seconds or step == self.total:
            self._print(now, shown, self._left(now))

    def between_steps(self, what: str, done: int, total: int) -> None:
        """Reports what is done between two steps. Elsewhere than on a terminal, a line appears only if it takes
        `seconds`."""
        if not self.shown:
            return
        now, shown = time.monotonic(), what + _counted(done, total)
        if self._bar:
            self._bar.update(self._task, figures=shown)
        elif now - max(self._printed, self._began) >= self.seconds:
            self._print(now, shown)

    def _print(self, now: float, *texts: str) -> None:
        self._printed = now
        # unlike print, out neither wraps the line nor reads [..] as markup
        console.out("  ".join(filter(None, [self.what + _counted(self.step, self.total), *texts])), highlight=False)

    def _phase(self, step: int) -> tuple[str, int]:
        """Returns the name of the phase of the next step, and the step at which that phase ends."""
        return next(((name, end) for name, end in self.phases if step < end), ("", self.total))

    def _left(self, now: float) -> str:
        """Returns the time left, if it can be estimated; after the last step, the time that all steps took."""
        if self.total == 0:
            return ""
        if self.step >= self.total:
            return f"in {_duration(now - self._began)}"
        began, first = self._seen[0]
        if self.step - first < FEWEST_STEPS:
            return ""
        name, end = self._phase(self.step)
        left = _duration((now - began) / (self.step - first) * (end - self.step))
        return f"{left} left of the {name}" if name and end < self.total else f"{left} left"


class Stages:
    """Shows one Progress for each task, one after the other: `with Stages() as report: report("measure", 3, 10)`.

    A Stages is a Report. shown: as in Progress.
    """

    def __init__(self, *, shown: bool = True) -> None:
        self._what = ""
        self._current: Progress | None = None
        self.shown = shown

    def __enter__(self) -> Self:
        return self

    def __call__(self, what: str, done: int, total: int) -> None:
        """Shows that `done` of `total` parts of the task `what` are done."""
        if self._current is None or what != self._what:
            self.__exit__(None, None, None)
            self._what, self._current = what, Progress(total, 0, what, shown=self.shown).__enter__()
        self._current.update(done)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._current is not None:
            self._current.__exit__(kind, error, trace)
            self._current = None


def _counted(done: int, total: int) -> str:
    return f" {done}/{total}" if total else ""


def _duration(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
