"""Runs jobs in two processes that are connected by gloo, and Python programs in a process of their own.

A server that has imported what they need forks the processes, so that importing is paid once.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import search.curves
from engine.distributed import WAIT, Group

PRELOADED = [
    "search.loop", "retrain.run", "proxyless_nas.verbs", "torch.distributed.run",
    "scipy.optimize", "scipy.stats", "torch._dynamo", "torchvision.transforms.v2",  # which searches and trainings need
]  # fmt: skip
"""What the server imports. It is set at each start, since the first one starts the server."""


def black_pixel(*_: object) -> npt.NDArray[np.uint8]:
    """Stands in for search.curves.probabilities_picture, which takes half of a tiny search's time, and in a new process
    two seconds for its imports. tests/search/test_curves.py has the probabilities drawn."""
    return np.zeros((1, 1, 3), np.uint8)


def together(job: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """Runs `job(group, *arguments)`, a function of a module, in two processes. Returns its results by rank."""
    folder.mkdir(parents=True)
    multiprocessing.set_forkserver_preload(PRELOADED)
    mp.start_processes(_run, args=(job, folder, arguments), nprocs=2, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def _run(rank: int, job: Callable[..., Any], folder: Path, arguments: tuple[Any, ...]) -> None:
    search.curves.probabilities_picture = black_pixel
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=WAIT)
    group = Group(rank, 2, rank, host=dist.group.WORLD).on(torch.device("cpu"))
    torch.save(job(group, *arguments), folder / f"{rank}.pt")
    group.barrier()
    dist.destroy_process_group()


class Python:
    """A process that runs what follows `python` on a command line: `-c PROGRAM`, `-m MODULE` or a script, and words.

    It begins within milliseconds, since modules such as torch are imported already. It differs from a new interpreter
    in two more points: its parent is the server, and it ends without the functions of atexit. The names are those of
    subprocess.Popen. The process leads a session of its own.
    """

    def __init__(
        self,
        *words: object,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        child: bool = False,
    ):
        """child: whether this process forks it, in place of the server. It shares stdout and stderr then; otherwise
        they are pipes, which `communicate` reads."""
        multiprocessing.set_forkserver_preload(PRELOADED)
        pipes = [] if child else [os.pipe() for _ in range(2)]
        ends = [Connection(write, readable=False) for _, write in pipes]  # how the server gets a descriptor
        given = ([*map(str, words)], dict(os.environ if env is None else env), str(cwd or Path.cwd()), *ends)
        self._process = multiprocessing.get_context("fork" if child else "forkserver").Process(
            target=_python, args=given
        )
        self._process.start()
        for end in ends:
            end.close()
        assert self._process.pid is not None
        self.pid = self._process.pid
        if pipes:
            self.stdout, self.stderr = (os.fdopen(read, encoding="utf-8") for read, _ in pipes)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("python", timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """Waits for its end. Returns what it has written since the last read."""
        texts: dict[int, str] = {}
        streams = (self.stdout, self.stderr)
        readers = [
            threading.Thread(target=lambda k=k, stream=stream: texts.update({k: stream.read()}), daemon=True)  # type: ignore[misc]
            for k, stream in enumerate(streams)
        ]
        for reader in readers:
            reader.start()
        for reader, stream in zip(readers, streams, strict=True):
            reader.join(timeout)
            if reader.is_alive():
                raise subprocess.TimeoutExpired("python", timeout)
            stream.close()
        self.wait(timeout)
        return texts[0], texts[1]


def nothing() -> None:
    """Prepares nothing."""


class Child:
    """Stands in for subprocess.Popen where a sweep starts `python -P -m MODULE`: the server forks the process.

    The process leads a session of its own, and its parent is the server, which its argument --parent names.
    """

    prepare: Callable[[], None] = staticmethod(nothing)
    """A function of a module, which the process calls first."""

    def __init__(self, command: list[str], stdout: IO[bytes], env: Mapping[str, str], **_: Any):
        assert command[:3] == [sys.executable, "-P", "-m"]
        multiprocessing.set_forkserver_preload(PRELOADED)
        given = (command[2:], str(Path(stdout.name).resolve()), dict(env), str(Path.cwd()), type(self).prepare)
        self.process = multiprocessing.get_context("forkserver").Process(target=_child, args=given)
        self.process.start()
        self.pid = self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode


def _child(words: list[str], log: str, env: dict[str, str], cwd: str, prepare: Callable[[], None]) -> None:
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    parent = words.index("--parent") + 1
    prepare()
    _python([*words[:parent], str(os.getppid()), *words[parent + 1 :]], env, cwd)


def _python(words: list[str], env: dict[str, str], cwd: str, *ends: Connection) -> None:
    search.curves.probabilities_picture = black_pixel
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):  # which torchrun handles
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a program that a shell runs in the background ignores it
    for stream, end in enumerate(ends, 1):
        os.dup2(end.fileno(), stream)
        end.close()
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    torch.set_num_threads(int(env.get("OMP_NUM_THREADS", "1")))
    first, *others = words
    if first == "-m":
        sys.argv = others
        runpy.run_module(others[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *others[1:]]
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(others[0], sys.modules["__main__"].__dict__)
    else:
        sys.argv = words
        runpy.run_path(first, run_name="__main__")


def python(
    *words: object, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Runs `python WORDS` in a process of its own, as subprocess.run does with text that it captures. See Python."""
    process = Python(*words, env=env, cwd=cwd)
    out, err = process.communicate(timeout)
    return subprocess.CompletedProcess([*words], process.wait(), out, err)


_FORKING_TORCHRUN = """
import subprocess, sys
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler
from torch.distributed.run import main
from tests.processes import Python

def popen(args, env, **others):
    if args[1] == "-u":  # python -u SCRIPT
        return Python(*args[2:], env=env, child=True)
    return subprocess.Popen(args, env=env, **others)

subprocess_handler.Popen = popen
main(["--standalone", "--nproc-per-node", "2", *sys.argv[1:]])
"""


def torchrun(*words: object, env: Mapping[str, str], cwd: Path | None = None) -> Python:
    """Starts torchrun with two processes, which it forks. None of the three imports torch anew.

    After --no-python and the name of an interpreter, the two are new interpreters.
    """
    return Python("-c", _FORKING_TORCHRUN, *words, env=env, cwd=cwd)
