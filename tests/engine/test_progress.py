"""Progress is a bar on a terminal, and a few plain lines on stderr elsewhere."""

from __future__ import annotations

import io
import logging
import re

import pytest
from rich.console import Console

from engine import progress as module
from engine.progress import Progress, Stages, reported, set_up_logging


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def lines(monkeypatch):
    """Returns the lines that were written to a narrow console that is no terminal."""
    out = io.StringIO()
    monkeypatch.setattr(module, "console", Console(file=out, width=80, force_terminal=False))
    return lambda: out.getvalue().splitlines()


def run(clock, total: int, start: int = 0, seconds: float = 10.0, each: float = 1.0) -> None:
    with Progress(total, start, "search", seconds=seconds) as progress:
        for step in range(start + 1, total + 1):
            clock.now += each
            progress.update(step, loss=1.0)


def test_the_first_and_last_steps_are_printed_and_others_at_least_some_seconds_apart(clock, lines):
    run(clock, 35)
    assert [line.split()[1] for line in lines()] == ["1/35", "11/35", "21/35", "31/35", "35/35"]


def test_each_step_is_printed_if_no_seconds_have_to_pass(clock, lines):
    run(clock, 5, seconds=0)
    assert len(lines()) == 5


def test_the_time_left_follows_from_recent_steps_once_there_are_enough(clock, lines):
    """No time left is shown after the first step, which includes the time of the set-up."""
    with Progress(1000, 900, "search", seconds=0) as progress:
        for step in range(901, 1001):
            clock.now += 3600.0 if step == 901 else 100.0 if step < 950 else 1.0
            progress.update(step)
    found = lines()
    assert found[:5] == [f"search {step}/1000" for step in range(901, 906)]
    assert found[5] == "search 906/1000  2:36:40 left"
    assert found[-2] == "search 999/1000  0:01 left"
    assert found[-1] == f"search 1000/1000  in {(3600 + 48 * 100 + 51) // 3600}:20:51"


def test_few_updates_of_many_steps_suffice_for_the_time_left(clock, lines):
    with Progress(1000, 0, "search", seconds=0) as progress:
        for step in (1, 100):
            clock.now += step
            progress.update(step)
    assert lines() == ["search 1/1000", "search 100/1000  15:09 left"]  # 100 s for 99 steps


def test_the_time_left_is_that_of_the_phase_whose_steps_are_alike(clock, lines):
    """A step of the warm-up takes a second, one of the search ten."""
    with Progress(100, 0, "search", seconds=0, phases=(("warm-up", 50), ("search", 100))) as progress:
        for step in range(1, 101):
            clock.now += 1.0 if step <= 50 else 10.0
            progress.update(step)
    found = lines()
    assert found[39] == "search 40/100  0:10 left of the warm-up"
    assert found[49] == "search 50/100"  # no step of the search has been done yet
    assert found[53] == "search 54/100"
    assert found[54] == "search 55/100  7:30 left"


def test_what_is_done_between_two_steps_is_printed_if_it_takes_long(clock, lines):
    with Progress(100, 0, "search") as progress:
        clock.now += 1
        progress.between_steps("evaluating", 1, 4)
        progress.update(1, loss=1.0)
        for done in range(1, 5):
            clock.now += 4
            progress.between_steps("evaluating", done, 4)
    assert lines() == ["search 1/100  loss 1", "search 1/100  evaluating 3/4"]


def test_what_is_done_between_two_steps_is_in_the_bar_of_a_terminal(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(module, "console", Console(file=out, width=120, force_terminal=True))
    with Progress(10, 4, "search") as progress:
        progress.between_steps("evaluating", 3, 7)
    assert "4/10" in out.getvalue()
    assert "evaluating 3/7" in out.getvalue()
    assert "left" not in out.getvalue()


def test_a_narrow_terminal_shows_the_steps_and_the_time_left_in_full_and_the_figures_below(clock, monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(module, "console", Console(file=out, width=80, force_terminal=True, color_system=None))
    with Progress(4360, 0, "search", phases=(("warm-up", 2000), ("search", 4360))) as progress:
        for step in range(1, 8):
            clock.now += 1.0
            progress.update(step, phase="warm-up", loss=2.334, top1=46.88, latency="0.8245 ms of 0.7608 ms")
    text = re.sub(r"\x1b\[[0-9?]*[A-Za-z]", "", out.getvalue())  # without movements of the cursor
    first, second = [line.rstrip() for line in text.splitlines() if line.strip()][-2:]
    assert first.startswith("search ")
    assert first.endswith("7/4360 33:13 left of the warm-up")
    assert second == "phase warm-up  loss 2.334  top1 46.88  latency 0.8245 ms of 0.7608 ms"


def test_each_stage_is_printed_when_it_begins(clock, lines):
    with Stages() as report:
        report("deriving", 0, 0)
        report("timing the network", 0, 30)
        clock.now += 1
        report("timing the network", 1, 30)
        report("timing again, the machine is busy", 0, 30)
    assert lines() == ["deriving", "timing the network 0/30", "timing again, the machine is busy 0/30"]


def test_processes_that_print_nothing_have_silent_stages(clock, lines):
    with Stages(shown=False) as report:
        report("deriving", 0, 1)
    with Progress(3, 0, "search", shown=False) as progress:
        clock.now += 100
        progress.between_steps("evaluating", 1, 2)
    assert lines() == []


def test_items_are_reported_when_they_are_dealt_with():
    calls = []
    items = reported("ab", "scoring", 2, lambda *call: calls.append(call))
    assert [(item, calls[-1]) for item in items] == [("a", ("scoring", 0, 2)), ("b", ("scoring", 1, 2))]
    assert calls[-1] == ("scoring", 2, 2)


def test_a_long_line_is_not_wrapped(clock, lines):
    with Progress(10, 0, "search") as progress:
        clock.now += 1
        progress.update(1, **{f"figure_{i}": i / 3 for i in range(30)}, name="[bold] 3 [/x]")
    (line,) = lines()
    assert len(line) > 400
    assert line.endswith("name [bold] 3 [/x]")


def test_no_escape_codes_off_a_terminal(clock, lines):
    run(clock, 5, seconds=0)
    assert all(line.isprintable() for line in lines())


def test_figures_have_four_digits_and_text_stays_as_it_is(clock, lines):
    with Progress(3, 0, "retrain") as progress:
        progress.update(3, loss=0.123456, lr=1.5e-05, top1="71.2 %")
    assert lines() == ["retrain 3/3  loss 0.1235  lr 1.5e-05  top1 71.2 %  in 0:00"]


def test_progress_goes_to_stderr(clock, capsys, monkeypatch):
    monkeypatch.setattr(module, "console", Console(stderr=True, force_terminal=False))
    run(clock, 1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "search 1/1  loss 1  in 0:01\n"


def test_a_terminal_gets_a_bar_with_text_as_it_is(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(module, "console", Console(file=out, width=120, force_terminal=True))
    with Progress(10, 4, "search") as progress:
        progress.update(10, name="[bold]")
    assert "10/10" in out.getvalue()
    assert "[bold]" in out.getvalue()


def test_warnings_are_plain_lines_off_a_terminal(lines, capsys):
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        set_up_logging()
        logging.getLogger("engine").warning("a checkpoint %s", "is damaged")
        assert capsys.readouterr().err == "WARNING: a checkpoint is damaged\n"
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
