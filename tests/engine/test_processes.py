"""A process ends with the one that has started it."""

import os
import select
import signal
import subprocess
import sys
import time

import pytest

import proxyless_nas.retrainings.child
import search.many.child
from engine.processes import stop_with_parent

PROGRAM = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from engine.processes import stop_with_parent

if os.fork() == 0:
    stop_with_parent(pause=0.02)
    try:
        print("watching", os.getpid(), flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("stopped", flush=True)
    os._exit(0)
time.sleep(60)
"""


SIDE_BY_SIDE = """
import os, signal, sys, time
from engine.processes import side_by_side

def work(seconds):
    os.write(1, f"{os.getpid()}\\n".encode())  # in one piece
    time.sleep(seconds)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background; the workers inherit it
    side_by_side(work, [(60,), (60,)], 2, print)
"""


def test_workers_end_when_the_process_that_waits_for_them_is_killed(checkout, tmp_path):
    (tmp_path / "program.py").write_text(SIDE_BY_SIDE)
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, str(tmp_path / "program.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        workers = {int(parent.stdout.readline()) for _ in range(2)}
        assert len(workers) == 2
        parent.kill()
        ended, _, _ = select.select([parent.stdout], [], [], 60)  # at its end, when no process has it open any more
        for worker in () if ended else workers:
            os.kill(worker, signal.SIGKILL)
        assert ended
        assert parent.stdout.read() == ""


def test_a_process_stops_as_at_ctrl_c_when_its_parent_is_killed(checkout):
    command = [sys.executable, "-c", PROGRAM, str(checkout)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline().split()[1])
        os.kill(child, 0)  # it runs
        parent.kill()
        assert parent.stdout.readline() == "stopped\n"
    assert parent.returncode == -signal.SIGKILL


def test_a_process_whose_parent_was_killed_before_it_looked_stops_too():
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        stop_with_parent(parent=os.getpid(), pause=0.02)  # no process is its own parent
        time.sleep(60)


@pytest.mark.parametrize("child", [search.many.child, proxyless_nas.retrainings.child])
def test_a_job_of_a_sweep_watches_the_process_that_started_it(child, monkeypatch):
    """Not the one that is its parent after Python has started: the sweep may have been killed meanwhile."""

    def watched(*, parent: int) -> None:
        assert parent == 7
        raise KeyboardInterrupt

    monkeypatch.setattr(child, "stop_with_parent", watched)
    monkeypatch.setattr(sys, "argv", ["child", "a.yaml", "--out", "o", "--error", "e", "--parent", "7"])
    with pytest.raises(KeyboardInterrupt):
        child.main()
