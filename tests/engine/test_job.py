"""How a job of several processes ends: with one line, whoever fails and however many fail alike."""

from __future__ import annotations

import subprocess
import sys

import pytest

from engine.distributed import ALONE
from engine.job import open_group

PROGRAM = """
import os, signal, sys, time
from engine.errors import UserError, run_door
from engine.job import open_group

def main():
    with open_group() as group:
        if group.first:
            print("usage")
        assert group.gathered(group.rank) == [0, 1]
        case = sys.argv[1]
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
            time.sleep(0.5)
            print("the result")
        if case == "second":
            group.barrier()
    return 3

run_door(main, resumable=True)
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory, shell):
    program = tmp_path_factory.mktemp("job") / "program.py"
    program.write_text(PROGRAM)

    def run(case: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        return subprocess.run(
            [*command, str(program), case], env=shell, capture_output=True, text=True, timeout=120, check=False
        )

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


def test_a_killed_process_is_one_line_even_while_the_others_compute(ended):
    end = ended("killed")
    assert end.returncode != 0
    (line,) = errors(end.stderr)
    assert "another process of this job has ended" in line
    assert line.endswith("continue with --resume")


def test_a_status_waits_for_what_process_0_has_to_print(ended):
    end = ended("status")
    assert end.stdout == "usage\nthe result\n"
    assert "exitcode  : 3" in end.stderr


def test_without_torchrun_a_process_is_alone(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")  # of something else
    with open_group() as group:
        assert group is ALONE
