"""Progress off a terminal: few, plain, whole lines on stderr."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from engine import progress as module
from engine.progress import Progress, set_up_logging


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
    """What a narrow console that is no terminal got."""
    out = io.StringIO()
    monkeypatch.setattr(module, "console", Console(file=out, width=80, force_terminal=False))
    return lambda: out.getvalue().splitlines()


def run(clock, total: int, start: int = 0, seconds: float = 10.0, each: float = 1.0) -> None:
    with Progress(total, start, "search", seconds=seconds) as progress:
        for step in range(start + 1, total + 1):
            clock.now += each
            progress.update(step, loss=1.0)


def test_first_and_last_step_and_no_more_often_than_seconds_between(clock, lines):
    run(clock, 35)
    assert [line.split()[1] for line in lines()] == ["1/35", "11/35", "21/35", "31/35", "35/35"]


def test_seconds_0_prints_each_step(clock, lines):
    run(clock, 5, seconds=0)
    assert len(lines()) == 5


def test_the_time_left_is_that_of_the_steps_since_the_start(clock, lines):
    run(clock, 1000, start=900, seconds=40, each=100.0)
    assert lines()[0] == "search 901/1000  loss 1  2:45:00 left"
    assert lines()[-2] == "search 999/1000  loss 1  1:40 left"
    assert lines()[-1] == "search 1000/1000  loss 1  0:00 left"


def test_a_long_line_is_not_wrapped(clock, lines):
    with Progress(10, 0, "search") as progress:
        clock.now += 1
        progress.update(1, **{f"figure_{i}": i / 3 for i in range(30)}, name="[bold] 3 [/x]")
    (line,) = lines()
    assert len(line) > 400
    assert line.endswith("name [bold] 3 [/x]  0:09 left")


def test_no_escape_codes_off_a_terminal(clock, lines):
    run(clock, 5, seconds=0)
    assert all(line.isprintable() for line in lines())


def test_figures_have_four_digits_and_text_stays_as_it_is(clock, lines):
    with Progress(3, 0, "retrain") as progress:
        progress.update(3, loss=0.123456, lr=1.5e-05, top1="71.2 %")
    assert lines() == ["retrain 3/3  loss 0.1235  lr 1.5e-05  top1 71.2 %  0:00 left"]


def test_lines_go_to_stderr(clock, capsys, monkeypatch):
    monkeypatch.setattr(module, "console", Console(stderr=True, force_terminal=False))
    run(clock, 1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "search 1/1  loss 1  0:00 left\n"


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
