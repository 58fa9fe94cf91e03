"""A job of several processes ends with one line, whichever of them fails and however many fail alike."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from engine import job
from engine.distributed import ALONE, LostPeerError
from engine.errors import UserError
from engine.job import open_group
from tests.processes import torchrun

PROGRAM = """
import os, signal, sys, threading, time
from engine.errors import UserError, run_command
from engine import job
from engine.job import open_group

def slow(self):
    time.sleep(0.5)
    return False

def main():
    case = sys.argv[1]
    if case == "status":
        job.LOOK_S, job._Board.launcher_ended = 0.0, slow
    with open_group() as group:
        if group.first:
            print("usage")
        assert group.gathered(group.rank) == [0, 1]
        if os.environ["TORCHELASTIC_RESTART_COUNT"] != "0":
            raise UserError("found after a restart")
        if case == "all":
            raise UserError("a wrong setting; correct it")
        if case == "bug":
            raise ZeroDivisionError("a bug in all")
        if case == "second" and group.rank == 1:
            raise UserError("a file that only this machine lacks; copy it")
        if case == "killed":
            if group.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        if case == "status" and group.first:
            time.sleep(2.0)  # longer than the other process waits for its slow store
            print("the result")
        if case == "text":
            sys.exit("a text as the status")
        if case == "loop" and group.first:
            time.sleep(90)  # longer than the test waits
        if case == "saves":
            came = []
            signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
            if group.rank == 1:
                raise UserError("the other one has to stop")
            while not came:
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1.0)
            print("saved", flush=True)
        if case in ("second", "loop"):
            group.barrier()
    if "launcher" in [thread.name for thread in threading.enumerate()]:
        print("a thread still asks the launcher's store")
    return 3

run_command(main, resumable=True)
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory, shell):
    program = tmp_path_factory.mktemp("job") / "program.py"
    program.write_text(PROGRAM)

    def run(case: str, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        process = torchrun(*options, program, case, env={**shell, **variables})
        out, err = process.communicate()
        return subprocess.CompletedProcess([case], process.wait(), out, err)

    return run


def errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error: ")]


def test_an_error_that_all_find_is_one_line_and_the_cause_that_torchrun_names(ended):
    end = ended("all")
    assert end.returncode != 0
    assert errors(end.stderr) == ["error: a wrong setting; correct it"]
    assert "  traceback : error: a wrong setting; correct it\n" in end.stderr
    assert end.stdout == "usage\n"


def test_an_error_of_one_process_ends_the_others_and_names_it(ended):
    end = ended("second")
    assert end.returncode != 0
    (line,) = errors(end.stderr)
    assert line.startswith("error: a file that only this machine lacks; copy it (found by process 1, on ")


def test_a_bug_shows_one_traceback(ended):
    end = ended("bug")
    assert end.stderr.count("ZeroDivisionError: a bug in all\n") == 1
    assert not errors(end.stderr)


def test_a_killed_process_is_one_line_even_while_the_others_compute_and_a_restart_reports_again(ended):
    """torchrun starts the processes again with the same store: the report of the first attempt does not prevent that
    of the second."""
    end = ended("killed", "--max-restarts", "1")
    assert end.returncode != 0
    line, second = errors(end.stderr)
    assert "another process of this job has ended" in line
    assert line.endswith("continue with --resume")
    assert second == "error: found after a restart"


def test_a_status_waits_for_what_process_0_has_to_print_and_for_the_thread_that_asks_the_store(ended):
    """The store of a busy machine answers slowly. The thread's C++ code cannot be unwound while it asks, so an
    interpreter that ended then would abort: only a new interpreter ends in that way."""
    end = ended("status", "--no-python", sys.executable)
    assert end.stdout == "usage\nthe result\n"
    assert "exitcode  : 3" in end.stderr


def test_a_status_that_is_a_text_is_printed_once(ended):
    end = ended("text")
    assert end.stderr.count("a text as the status") == 1
    assert "Traceback" not in end.stderr.split("a text as the status")[0]
    assert "exitcode  : 1" in end.stderr


def test_a_program_that_handles_sigterm_has_time_to_save(ended):
    """torchrun sends SIGTERM to process 0, which needs another second: it is not ended within it, nor by a further
    SIGTERM, which launchers send too."""
    end = ended("saves")
    assert end.stdout == "usage\nsaved\n"
    (line,) = errors(end.stderr)
    assert line.startswith("error: the other one has to stop (found by process 1, on ")


def test_processes_that_cannot_connect_name_the_network_interface(ended):
    end = ended("all", GLOO_SOCKET_IFNAME="no-such-interface0")
    (line,) = errors(end.stderr)
    assert line.startswith("error: the processes cannot connect to each other (")
    assert "GLOO_SOCKET_IFNAME" in line


@pytest.mark.parametrize("between", [[], ["bash", "-c", '"$@"; true', "between"]], ids=["its child", "a wrapper's"])
def test_processes_end_once_their_launcher_was_killed(tmp_path, shell, between):
    """Process 0 computes and process 1 waits in a collective when the launcher is killed. If a shell stands between, it
    lives on, and only the launcher's store shows that the launcher is gone. Both processes end: communicate() waits for
    all that hold the pipes."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace('if case == "loop" and', 'os.write(1, b"ready\\n")\n        if'))
    interpreter = ["--no-python", *between, sys.executable] if between else []
    launcher = torchrun(*interpreter, program, "loop", env=shell)
    try:
        ready = 0
        while ready < 2:
            line = launcher.stdout.readline()
            assert line, "the job has ended before both processes were ready"
            ready += line.count("ready")
    finally:
        launcher.send_signal(signal.SIGKILL)
    _, stderr = launcher.communicate(timeout=60)
    assert errors(stderr) == [f"error: {job.LauncherEndedError()}"]
    assert "Traceback" not in stderr


class FakeStore(dist.Store):
    """A board that is reached, or one whose server has gone."""

    def __init__(self, gone: bool = False):
        super().__init__()
        self.gone, self.values = gone, dict[str, int]()

    def add(self, key: str, amount: int) -> int:
        if self.gone:
            raise dist.DistNetworkError("failed to recv, got 0 bytes")
        self.values[key] = self.values.get(key, 0) + amount
        return self.values[key]


def test_one_process_of_a_job_reports_and_one_of_its_threads():
    store = FakeStore()
    first, second = (job._Board(store, os.getppid(), rank == 0) for rank in range(2))
    assert not first.launcher_ended()
    assert [second.reports(), first.reports(), second.twin(store).reports()] == [True, False, False]


@pytest.mark.parametrize("parent", [os.getppid(), 1 << 30], ids=["the store has gone", "the parent has gone"])
def test_without_a_launcher_the_first_process_of_a_machine_reports_and_any_process_with_a_bug(parent):
    def board(first_here: bool) -> job._Board:
        return job._Board(FakeStore(gone=parent == os.getppid()), parent, first_here)

    assert board(True).launcher_ended()
    assert [board(True).reports(), board(False).reports(), board(False).reports(always=True)] == [True, False, True]
    lost = LostPeerError("another process has ended")
    assert str(job._last_error(lost, board(True), 0)) == str(job.LauncherEndedError())
    silent = job._last_error(lost, board(False), 0)
    assert isinstance(silent, SystemExit)
    assert silent.code == 2


@pytest.mark.parametrize(("code", "status"), [(None, 0), (0, 0), (3, 3), ("a text", 1)])
def test_the_silent_status_is_the_one_python_would_give(code, status):
    assert job._status(SystemExit(code)) == status


def test_a_report_that_torchrun_cannot_receive_is_no_error(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "no" / "such" / "folder.json"))
    error = UserError("a wrong setting")
    assert job._last_error(error, job._Board(FakeStore(), os.getppid(), True), 0) is error


@pytest.fixture
def launched(monkeypatch):
    """The environment of process 1 of 2, each on its machine, as torchrun makes it. Nobody listens at the port."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    values = {
        "TORCHELASTIC_RUN_ID": "test", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "False",
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(job, "CONNECT_WAIT", timedelta(seconds=1))
    monkeypatch.setattr(job, "LAUNCHER_WAIT", timedelta(seconds=0.5))
    return monkeypatch


def refused() -> str:
    with pytest.raises(UserError) as error, open_group():
        raise AssertionError("the job has opened")
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("WORLD_SIZE", "two", "WORLD_SIZE: got 'two', expected a whole number from 1 on; start the program with "),
        ("WORLD_SIZE", "0", "WORLD_SIZE: got '0', expected a whole number from 1 on; "),
        ("WORLD_SIZE", None, "WORLD_SIZE: is not set, expected a whole number from 1 on; "),
        ("RANK", "-1", "RANK: got '-1', expected a whole number from 0 on; "),
        ("RANK", "2", "RANK: got 2, expected less than WORLD_SIZE, which is 2; "),
        ("RANK", "1" * 5000, "RANK: got '1111111111111111111111111111111111111111', expected a whole number"),
        ("LOCAL_RANK", None, "LOCAL_RANK: is not set, expected a whole number from 0 on; "),
        ("MASTER_ADDR", None, "MASTER_ADDR: is not set, expected where the store of the job is; "),
        ("MASTER_PORT", "http", "MASTER_PORT: got 'http', expected a whole number from 1 on; "),
        ("MASTER_PORT", "99999", "MASTER_ADDR, MASTER_PORT: got 127.0.0.1:99999: port must have value from 0 to 65535"),
    ],
)  # fmt: skip
def test_an_environment_that_torchrun_did_not_make_is_one_line(launched, name, value, line):
    launched.setenv(name, value) if value is not None else launched.delenv(name)
    assert refused().startswith(line)


@pytest.mark.parametrize(("keeps_it", "said"), [("True", "torchrun, which keeps it, may have ended; "), ("False", "")])
def test_a_store_that_cannot_be_reached_is_one_line_after_a_bounded_wait(launched, keeps_it, said):
    """A store that torchrun keeps is there before any process is; here torchrun was killed while this process imported
    torch."""
    launched.setenv("TORCHELASTIC_USE_AGENT_STORE", keeps_it)
    line = refused()
    assert line.startswith(f"process 1, on {socket.gethostname()}, cannot join the job at 127.0.0.1:")
    assert f"); {said}each machine has to reach that name and port: see --rdzv-endpoint and " in line


def test_one_process_of_a_machine_that_cannot_join_reports(launched, tmp_path):
    launched.setenv("LOCAL_RANK", "1")
    launched.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "reason.json"))
    with pytest.raises(SystemExit) as ended, open_group():
        raise AssertionError("the job has opened")
    assert ended.value.code == 2
    assert "cannot join the job" in (tmp_path / "reason.json").read_text()


def test_a_port_that_is_taken_is_one_line(launched):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        launched.setenv("RANK", "0")
        launched.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        assert "another program uses that port; name a free one (torchrun --master-port)" in refused()


def test_memory_that_does_not_suffice_is_one_line_in_a_job_too(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with pytest.raises(UserError, match=r"^the GPU's memory does not suffice \(CUDA out of memory"), open_group():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_without_torchrun_a_process_is_alone(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")  # of something else
    with open_group() as group:
        assert group is ALONE
