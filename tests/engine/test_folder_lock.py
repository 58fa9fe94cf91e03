"""Only one process at a time works in a run folder, even after others were killed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.files import WriteError
from engine.runs.lock import LOCK, locked

HOLDER = """
import os, signal, subprocess, sys, time
from pathlib import Path
from engine.runs.lock import locked

with locked(Path(sys.argv[1])):
    others = []
    if sys.argv[2] == "forks":  # as workers that read data are started
        child = os.fork()
        if child == 0:
            time.sleep(60)
        others.append(child)
    if sys.argv[2] == "starts":  # as a sweep starts searches
        others.append(subprocess.Popen(["sleep", "60"], close_fds=False).pid)
    print(os.getpid(), *others, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def hold(shell):
    """hold(folder, how) starts a process that holds the lock. Returns it, and the ids of those that it has started."""
    holders: list[subprocess.Popen[str]] = []
    begun: list[int] = []

    def start(folder: Path, how: str = "alone") -> tuple[subprocess.Popen[str], list[int]]:
        command = [sys.executable, "-c", HOLDER, str(folder), how]
        process = subprocess.Popen(command, env=shell, stdout=subprocess.PIPE, text=True)
        holders.append(process)
        assert process.stdout is not None
        own, *others = map(int, process.stdout.readline().split())
        begun.extend([own, *others])
        return process, others

    yield start
    for pid in begun:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for holder in holders:
        holder.communicate()  # waits for its end and closes the pipe


def test_a_second_process_is_refused_and_the_first_one_named(tmp_path, hold):
    process, _ = hold(tmp_path / "new" / "run")
    with pytest.raises(ConfigError) as error, locked(tmp_path / "new" / "run"):
        pass
    assert str(error.value) == (
        f"--out {tmp_path / 'new' / 'run'}: process {process.pid} on {os.uname().nodename} works in this folder; wait "
        "until it has ended, or stop it, then use --resume"
    )


def _wait_until_free(folder: Path) -> None:
    """Returns once nobody holds the folder's lock, or after 5 seconds."""
    ended = time.monotonic() + 5
    with (folder / LOCK).open() as file:
        while time.monotonic() < ended:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(0.01)


@pytest.mark.parametrize("how", ["alone", "forks", "starts"])
def test_a_killed_process_holds_no_lock_even_while_those_that_it_started_live_on(tmp_path, hold, how):
    process, others = hold(tmp_path, how)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _wait_until_free(tmp_path)  # a child that was forked a moment ago may not have closed the file yet
    with locked(tmp_path):
        for pid in others:
            os.kill(pid, 0)  # it lives
        assert (tmp_path / LOCK).read_text().startswith(f"{os.getpid()} ")


def test_a_forked_process_that_ends_leaves_the_lock_to_its_parent(tmp_path):
    with locked(tmp_path):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(ConfigError, match=f"process {os.getpid()} on "), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("below", ["", "deeper", "deeper/still"])
def test_out_is_not_a_file(tmp_path, below):
    file = tmp_path / "file"
    file.write_text("kept")
    with pytest.raises(WriteError, match="is a file, or lies below one, expected a folder"), locked(file / below):
        pass
    assert file.read_text() == "kept"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    try:
        for folder in (tmp_path, tmp_path / "new"):
            with pytest.raises((ConfigError, WriteError), match="you may write"), locked(folder):
                pass
    finally:
        tmp_path.chmod(0o700)


def a_folder(path: Path) -> None:
    path.mkdir()


def a_link(path: Path) -> None:
    path.symlink_to(path.parent / "elsewhere")


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("make", [a_folder, a_link, a_pipe])
def test_something_else_in_the_place_of_the_lock_is_named(tmp_path, make):
    make(tmp_path / LOCK)
    with pytest.raises((ConfigError, WriteError)) as error, locked(tmp_path):
        pass
    assert str(error.value).startswith(f"{tmp_path / LOCK}: ")
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_system_without_locks_causes_a_warning(tmp_path, monkeypatch, caplog):
    def without(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without)
    with caplog.at_level(logging.WARNING), locked(tmp_path):
        pass
    assert "its file system has no locks" in caplog.text
