"""One set of processes reads image files for a whole run, and if one of them ends, the error is a single line."""

import contextlib
import errno
import multiprocessing
import multiprocessing.context
import os
import pickle
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest
import torch

from engine.data import BatchStream, DataConfig, evaluation_batches, open_images, statistics_batches
from engine.data import readers as module
from engine.data.preprocessing import Preprocessing
from engine.data.readers import MOST_WORKERS, worker_count
from engine.errors import UserError
from retrain.config import RetrainConfig
from tests.engine.image_folder import write_images
from tests.processes import Python


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), per_class=20, size=8)


@pytest.fixture
def images(root):
    found = open_images(DataConfig(name="folder", root=root), input_size=8, channels=3, classes=2).train
    yield found
    found.readers.close()
    assert not multiprocessing.active_children()


def pids():
    return {process.pid for process in multiprocessing.active_children()}


def test_evaluations_start_no_processes_of_their_own(images):
    """A training stream, statistics and evaluations of one set use the processes that the first of them has started."""
    stream = BatchStream(images, batch_size=8, seed=0, workers=2)
    first = next(stream)
    started = pids()
    assert len(started) == 2
    for _ in range(3):
        assert sum(len(batch.labels) for batch in evaluation_batches(images, 7, 2)) == 40
        assert sum(len(batch.labels) for batch in statistics_batches(images, 8, 2, 2)) == 16
        next(stream)
        assert pids() == started
    stream.close()
    assert not pids()
    again = BatchStream(images, batch_size=8, seed=0, workers=2)
    assert next(again).images.equal(first.images)


def test_an_evaluation_that_is_left_early_disturbs_nothing(images):
    expected = [batch.images for batch in evaluation_batches(images, 5, 0)]
    for taken in (1, 3, 0, 5):
        left = evaluation_batches(images, 5, 2)
        assert len(list(islice(left, taken))) == taken
        left.close()
        assert all(map(torch.equal, expected, (batch.images for batch in evaluation_batches(images, 5, 2))))
    pool = images.readers._pool
    while any(worker.tickets for worker in pool._workers):
        pool._receive()
    assert not pool._arrived  # batches that nobody waits for are not kept


def test_a_stream_that_closes_leaves_another_one_of_the_same_set_whole(images):
    def stream():
        return BatchStream(images, batch_size=8, seed=3, workers=2)

    expected = [batch.images for batch in islice(BatchStream(images, batch_size=8, seed=3, workers=0), 12)]
    one, other = stream(), stream()
    assert all(map(torch.equal, expected[:4], (batch.images for batch in islice(one, 4))))
    next(other)
    other.close()
    assert all(map(torch.equal, expected[4:], (batch.images for batch in islice(one, 8))))


def test_two_streams_and_evaluations_in_turn_give_what_they_give_alone(images):
    """Batches get ready in any order and are handed out in theirs."""
    streams = [BatchStream(images, batch_size=4, seed=seed, workers=3) for seed in range(2)]
    alone = [BatchStream(images, batch_size=4, seed=seed, workers=0) for seed in range(2)]
    for i in range(25):
        assert next(streams[i % 2]).images.equal(next(alone[i % 2]).images)
        if i % 7 == 0:
            evaluation = evaluation_batches(images, 16, 3)
            expected = evaluation_batches(images, 16, 0)
            assert all(one.images.equal(other.images) for one, other in zip(evaluation, expected, strict=True))


def read_on(stream):
    for _ in range(20):
        next(stream)


def test_a_killed_process_is_one_line_with_the_remedy(images):
    """The system kills processes with SIGKILL if memory is short."""
    stream = BatchStream(images, batch_size=8, seed=0, workers=2)
    next(stream)
    os.kill(min(pids()), signal.SIGKILL)
    with pytest.raises(UserError) as caught:
        read_on(stream)
    text = str(caught.value)
    assert text.startswith("data.workers: a process that reads images has ended (killed by SIGKILL): ")
    for words in ("memory is short", "/dev/shm", "lower data.workers (now 2)", "--resume"):
        assert words in text
    assert not pids()
    assert sum(len(batch.labels) for batch in evaluation_batches(images, 8, 2)) == 40


def test_signals_that_go_to_all_processes_do_not_stop_those_that_read(images):
    """A launcher sends SIGTERM to all processes of a job; the step being finished needs its batches."""
    stream = BatchStream(images, batch_size=8, seed=0, workers=2)
    next(stream)
    started = pids()
    for number in (signal.SIGINT, signal.SIGTERM):
        for process in started:
            os.kill(process, number)
    for _ in range(10):
        next(stream)
    assert pids() == started


def test_shared_memory_that_is_full_is_one_line(images, monkeypatch):
    def full(self):
        raise RuntimeError("unable to mmap 77 bytes from file </torch_1>: No space left on device (28)\nat line 5")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(UserError, match=r"^data\.workers: no shared memory for a batch \(unable to mmap 77 bytes"):
        list(evaluation_batches(images, 8, 2))
    assert not pids()


def test_processes_that_the_system_refuses_are_one_line(images, monkeypatch):
    start = multiprocessing.context.ForkProcess.start
    started = []

    def refuse(self):
        if len(started) == 2:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        started.append(self)
        start(self)

    monkeypatch.setattr(multiprocessing.context.ForkProcess, "start", refuse)
    with pytest.raises(UserError, match=r"^data\.workers: the system starts no further process \(Resource temporarily"):
        list(evaluation_batches(images, 8, 4))
    assert len(started) == 2
    assert not pids()


@contextlib.contextmanager
def open_files_left(amount):
    """This process can open so many files more."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    filling = []
    try:
        with contextlib.suppress(OSError):
            while True:
                filling.append(os.dup(0))
        for descriptor in filling[:amount]:
            os.close(descriptor)
        yield
    finally:
        for descriptor in filling[amount:]:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("begun", [False, True], ids=["for the connections", "for the batches"])
@pytest.mark.parametrize("left", [0, 1, 3, 5, 7])
def test_no_more_open_files_is_one_line(begun, left, images):
    if begun:
        assert len(list(evaluation_batches(images, 20, 2))) == 2
    with pytest.raises(UserError) as caught, open_files_left(left):
        list(evaluation_batches(images, 2, 2))  # 20 batches in shared memory, hence 40 files
    assert str(caught.value).startswith("data.workers: ")
    assert "(ulimit -n, -u)" in str(caught.value)
    assert not pids()


def test_a_fault_of_the_program_in_a_process_keeps_its_trace(images, monkeypatch):
    def broken(preprocessing, picture):
        raise ValueError("bug")

    monkeypatch.setattr(Preprocessing, "pixels_of", broken)
    with pytest.raises(RuntimeError, match=r"in a process that reads images:\nTraceback (.|\n)*ValueError: bug"):
        list(evaluation_batches(images, 8, 2))


@pytest.fixture
def with_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)


def test_beside_cuda_processes_are_not_forked_and_give_the_same_batches(images, with_a_gpu):
    """They come from a server that has neither a GPU nor connections of this process."""
    expected = [batch.images for batch in evaluation_batches(images, 7, 0)]
    found = list(evaluation_batches(images, 7, 2))
    assert all(map(torch.equal, expected, (batch.images for batch in found)))
    (child, *_) = multiprocessing.active_children()
    parents = Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()
    assert int(parents[1]) != os.getpid()
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(UserError, match=r"^data\.workers: a process that reads images has ended"):
        read_on(BatchStream(images, batch_size=8, seed=0, workers=2))


def test_a_set_is_sent_to_a_process_without_its_processes(images):
    list(evaluation_batches(images, 8, 2))
    sent = pickle.loads(pickle.dumps(images))
    assert sent.readers._pool is None
    assert sent.path(3) == images.path(3)


SCRIPT = """
import os, signal, sys, torch
from pathlib import Path
from engine.data import BatchStream, DataConfig, evaluation_batches, open_images

print("begun", flush=True)
if sys.argv[2] == "server":
    torch.cuda.is_initialized = lambda: True
images = open_images(DataConfig(name="folder", root=Path(sys.argv[1])), input_size=8, channels=3, classes=2).train
stream = BatchStream(images, batch_size=8, seed=0, workers=2)
next(stream)
validation = open_images(DataConfig(name="folder", root=Path(sys.argv[1])), input_size=8, channels=3, classes=2).test
print(sum(len(b.labels) for b in evaluation_batches(validation, 8, 2)), flush=True)
pools = images.readers._pool, validation.readers._pool
print(*(worker.process.pid for pool in pools for worker in pool._workers), flush=True)
if sys.argv[3] == "wait":
    signal.pause()
"""


@pytest.fixture
def script(tmp_path):
    """A program without `if __name__ == "__main__"`."""
    path = tmp_path / "mine.py"
    path.write_text(SCRIPT)
    return path


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def gone(found):
    """Returns whether all processes have ended; waits for a minute at most."""
    for _ in range(600):
        if not any(map(alive, found)):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize("how", ["fork", "server"])
def test_a_script_without_a_guard_runs_once_and_its_processes_end_with_it(how, script, root, shell):
    ended = subprocess.run(
        [sys.executable, script, root, how, "end"], env=shell, capture_output=True, text=True, check=False, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    begun, images, found = ended.stdout.splitlines()
    assert (begun, images) == ("begun", "40")
    assert gone(map(int, found.split()))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize("how", ["fork", "server"])
def test_processes_end_when_the_program_is_killed(how, script, root):
    program = Python(script, root, how, "wait")
    assert program.stdout.readline() == "begun\n"
    assert program.stdout.readline() == "40\n"
    found = [int(pid) for pid in program.stdout.readline().split()]
    assert len(found) == 4
    assert all(map(alive, found))
    program.send_signal(signal.SIGKILL)
    assert gone(found)
    program.communicate()


def test_workers_are_the_cores_that_a_process_may_use(monkeypatch, tmp_path):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(module, "_CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    assert worker_count(None) == 12
    assert (worker_count(0), worker_count(50)) == (0, 50)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert worker_count(None) == 12
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert worker_count(None) == 3
    (tmp_path / "cpu.max").write_text("250000 100000\n")  # two and a half cores
    assert worker_count(None) == 1
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert worker_count(None) == 2
    (tmp_path / "cpu.max").unlink()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(200)))
    assert worker_count(None) == MOST_WORKERS


def test_a_run_does_not_record_how_many_processes_read():
    """A resume on another machine, or after memory was short, may have another number."""
    sections = [{"data": {"name": "digits"} | workers, "retrain": {"epochs": 1}} for workers in ({}, {"workers": 7})]
    found = [RetrainConfig.model_validate(section) for section in sections]
    assert [config.data.workers for config in found] == [None, 7]
    first, second = (config.model_dump(mode="json", exclude_none=True) for config in found)
    assert first == second
    assert "workers" not in first["data"]
