"""SIGINT and SIGTERM are noted inside a step and answered after it; a second SIGINT raises at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from engine.distributed import Group
from engine.errors import Interrupted, run_command
from engine.interrupts import interrupts_between_steps
from tests.processes import together


@pytest.fixture(autouse=True)
def heeded():
    """SIGINT has its handler of a terminal, also if these tests run in the background."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def steps_until_told(*signals: int) -> tuple[list[int], int | None]:
    """The steps done when the signals come in step 1, and what was answered then."""
    done: list[int] = []
    with interrupts_between_steps() as stop_signal:
        for step in range(3):
            for number in signals if step == 1 else ():
                os.kill(os.getpid(), number)
            done.append(step)
            if number := stop_signal():
                return done, number
    return done, None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_step_is_finished_first(capfd, number):
    before = signal.getsignal(number)
    assert steps_until_told(number) == ([0, 1], number)
    assert "Ctrl-C again stops at once" in capfd.readouterr().err
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_does_not_wait():
    with pytest.raises(Interrupted) as raised:
        steps_until_told(signal.SIGINT, signal.SIGINT)
    assert raised.value.status == 130


def test_a_second_sigterm_waits_for_the_step_as_the_first_one_does(capfd):
    """Launchers send it to a process and to its group."""
    assert steps_until_told(signal.SIGTERM, signal.SIGTERM) == ([0, 1], signal.SIGTERM)
    assert capfd.readouterr().err.count("stopping after this step") == 1


def test_a_job_in_the_background_goes_on_ignoring_it():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert steps_until_told(signal.SIGINT) == ([0, 1, 2], None)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_another_thread_sets_no_handler():
    raised = []

    def work():
        try:
            with interrupts_between_steps() as stop_signal:
                assert stop_signal() is None
        except ValueError as error:  # what Python says of a handler set outside the main thread
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert raised == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_last_line_names_the_saved_step(capsys, number, status):
    def main() -> int:
        raise Interrupted(number, "step 3 of 9 is saved")

    with pytest.raises(SystemExit) as end:
        run_command(main, resumable=True)
    assert end.value.code == status
    assert capsys.readouterr().err == "interrupted; step 3 of 9 is saved; continue with --resume\n"


def stop_in_one(group: Group, signalled: int) -> tuple[int, int | None]:
    """(the step after which this process stops, the answer): one of the two gets SIGTERM in step 5, and the other one
    is at times faster, at times slower."""
    with interrupts_between_steps(group) as stop_signal:
        for step in range(20):
            time.sleep(0.003 * ((step + group.rank) % 2))
            if step == 5 and group.rank == signalled:
                os.kill(os.getpid(), signal.SIGTERM)
            assert group.gathered(step) == [step, step]  # other messages meanwhile
            if number := stop_signal():
                return step, number
    return step, None


@pytest.mark.parametrize("signalled", [0, 1, 2], ids=["the first process", "the second one", "none"])
def test_all_processes_stop_after_the_same_step_whichever_gets_the_signal(tmp_path: Path, signalled):
    ended = together(stop_in_one, tmp_path / "job", signalled)
    assert ended == ([(6, signal.SIGTERM)] * 2 if signalled < 2 else [(19, None)] * 2)
