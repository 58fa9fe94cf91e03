"""Tests where and when jobs run, on made-up processes, and the effect of signals on real ones."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

import pytest

from engine.children import slots_for
from engine.queue import Slot, cpu_slots, gpu_slots, run_queue


@dataclass(frozen=True)
class MadeUpJob:
    name: str
    kind: str
    polls: int
    status: int = 0


@dataclass
class Clockwork:
    """Processes that end at a given poll, and a record of what runs on which slot."""

    busy: dict[Slot, MadeUpJob] = field(default_factory=dict)
    began: list[tuple[str, Slot]] = field(default_factory=list)
    ended: list[tuple[str, int]] = field(default_factory=list)
    most: int = 0

    def start(self, job, slot):
        assert slot not in self.busy, "a slot has two jobs at once"
        assert slot.kind == job.kind
        self.busy[slot] = job
        self.began.append((job.name, slot))
        self.most = max(self.most, len(self.busy))
        return _MadeUpProcess(job.polls, job.status)

    def end(self, job, status, interrupted):
        assert not interrupted
        (slot,) = (slot for slot, running in self.busy.items() if running is job)
        del self.busy[slot]
        self.ended.append((job.name, status))


@dataclass
class _MadeUpProcess:
    polls: int
    status: int
    pid: int = -1

    def poll(self):
        self.polls -= 1
        return self.status if self.polls <= 0 else None


@pytest.mark.parametrize("seed", range(20))
def test_a_gpu_never_holds_two_jobs_and_is_never_idle_while_one_waits(seed):
    rng = random.Random(seed)
    jobs = [MadeUpJob(str(i), "cuda", rng.randint(1, 9), rng.choice([0, 1, 3])) for i in range(12)]
    clock = Clockwork()
    assert run_queue(jobs, gpu_slots(None, 2), clock.start, clock.end, pause=0) is None
    assert [name for name, _ in clock.began] == [job.name for job in jobs]  # in order
    assert sorted(clock.ended) == sorted((job.name, job.status) for job in jobs)  # failures stop nobody
    assert {slot.name for _, slot in clock.began} == {"0", "1"}
    assert clock.most == 2
    assert not clock.busy


def test_a_gpu_that_is_free_first_takes_the_next_job():
    jobs = [MadeUpJob("long", "cuda", 6), *(MadeUpJob(f"short{i}", "cuda", 1) for i in range(4))]
    clock = Clockwork()
    run_queue(jobs, gpu_slots(None, 2), clock.start, clock.end, pause=0)
    assert [slot.name for _, slot in clock.began] == ["0", "1", "1", "1", "1"]


def test_jobs_of_the_cpu_do_not_wait_for_gpus():
    jobs = [*(MadeUpJob(f"g{i}", "cuda", 3) for i in range(2)), *(MadeUpJob(f"c{i}", "cpu", 1) for i in range(3))]
    clock = Clockwork()
    run_queue(jobs, [*gpu_slots(None, 1), *cpu_slots(2)], clock.start, clock.end, pause=0)
    assert [name for name, _ in clock.began] == ["g0", "c0", "c1", "c2", "g1"]
    assert clock.most == 3


def test_a_job_without_a_slot_is_a_bug_and_nothing_starts():
    clock = Clockwork()
    with pytest.raises(ValueError, match="no slot of kind cuda"):
        run_queue([MadeUpJob("a", "cpu", 1), MadeUpJob("b", "cuda", 1)], cpu_slots(1), clock.start, clock.end)
    assert clock.began == []


@pytest.mark.parametrize(
    ("visible", "count", "names"),
    [
        (None, 2, ["0", "1"]),
        ("3,1", 2, ["3", "1"]),
        ("GPU-8f2a, GPU-77c1", 2, ["GPU-8f2a", "GPU-77c1"]),
        ("0,9,1", 1, ["0"]),  # CUDA stops at the first unknown one
        ("MIG-5c89,MIG-7b1e,MIG-5c89,0", 1, ["MIG-5c89", "MIG-7b1e"]),  # of parts of GPUs, a process sees one
        ("MIG-GPU-8f2a/1/0,MIG-GPU-8f2a/2/0", 1, ["MIG-GPU-8f2a/1/0", "MIG-GPU-8f2a/2/0"]),
        ("MIG-gone", 0, []),
        ("", 0, []),
        ("-1", 0, []),
        (None, 0, []),
    ],
)
def test_a_slot_is_made_for_each_gpu_that_cuda_visible_devices_names(visible, count, names):
    assert [slot.name for slot in gpu_slots(visible, count)] == names


SLEEPER = """
import signal, sys, time
if sys.argv[1] == "stubborn":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
try:
    print("up", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(
    ("manner", "signals", "apart", "status"),
    [
        ("polite", [signal.SIGINT], 0.5, 130),
        ("polite", [signal.SIGTERM], 0.5, 130),
        ("polite", [signal.SIGTERM, signal.SIGHUP], 0.0, 130),
        ("stubborn", [signal.SIGINT, signal.SIGINT], 0.5, -9),
    ],
)
def test_an_interrupted_queue_stops_what_runs_and_starts_no_more(manner, signals, apart, status):
    """One signal, or several at once, are passed on as SIGINT; one that comes later kills what ignores it."""
    before = signal.getsignal(signal.SIGINT)
    processes, ended = [], []

    def start(job, slot):
        command = [sys.executable, "-c", SLEEPER, manner]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True))
        if len(processes) == 2:
            threading.Thread(target=interrupt).start()
        return processes[-1]

    def interrupt():
        for process in processes:
            process.stdout.readline()  # it is up
        for number in signals:
            os.kill(os.getpid(), number)
            time.sleep(apart)

    jobs = [MadeUpJob(str(i), "cpu", 0) for i in range(3)]
    first = run_queue(jobs, cpu_slots(2), start, lambda job, *how: ended.append((job.name, *how)), pause=0.2)
    assert first == signals[0] or (first in signals and not apart)  # of several at once, either may be handled first
    assert sorted(ended) == [("0", status, True), ("1", status, True)]
    assert len(processes) == 2
    assert signal.getsignal(signal.SIGINT) is before
    for process in processes:
        process.stdout.close()


def test_no_process_outlives_a_queue_that_breaks():
    started = []

    def start(
        job, slot
    ):  # in the queue, whose children do not ignore SIGINT even where these tests run in the background
        if job.name == "bad":
            started[0].stdout.readline()
            raise OSError("no space left")
        command = [sys.executable, "-c", SLEEPER, "polite"]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True))
        return started[0]

    with pytest.raises(OSError, match="no space"):
        run_queue(
            [MadeUpJob("good", "cpu", 0), MadeUpJob("bad", "cpu", 0)], cpu_slots(2), start, lambda *_: None, pause=0
        )
    assert started[0].wait(timeout=60) == 130
    started[0].stdout.close()


def test_a_sweep_has_no_more_slots_than_jobs():
    """--jobs 1000000000 took all memory."""
    jobs = [MadeUpJob("a", "cpu", 1), MadeUpJob("b", "cpu", 1)]
    slots = slots_for(jobs, 10**30, each_gpu=10**30)  # type: ignore[arg-type]
    assert sum(slot.kind == "cpu" for slot in slots) == 2
