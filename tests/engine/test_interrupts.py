"""SIGINT is noted inside a step and raised after it; a second one at once."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from engine.interrupts import interrupts_between_steps


@pytest.fixture(autouse=True)
def heeded():
    """As in a terminal, also where these tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted_in_step_1(done, times):
    with interrupts_between_steps() as check:
        for step in range(3):
            for _ in range(times if step == 1 else 0):
                os.kill(os.getpid(), signal.SIGINT)
            done.append(step)
            check()


def test_a_step_is_finished_first(capfd):
    done = []
    with pytest.raises(KeyboardInterrupt):
        interrupted_in_step_1(done, times=1)
    assert done == [0, 1]
    assert "Ctrl-C again stops at once" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_one_does_not_wait():
    done = []
    with pytest.raises(KeyboardInterrupt):
        interrupted_in_step_1(done, times=2)
    assert done == [0]


def test_a_job_in_the_background_goes_on_ignoring_it():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts_between_steps() as check:
        os.kill(os.getpid(), signal.SIGINT)
        check()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_another_thread_sets_no_handler():
    raised = []

    def work():
        try:
            with interrupts_between_steps() as check:
                check()
        except ValueError as error:  # what Python says of a handler set outside the main thread
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert raised == []
