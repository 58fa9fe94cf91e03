"""Runs jobs in two processes that are connected by gloo, and scripts in a process of their own.

A server that has imported what they need forks the processes, so that importing is paid once.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from engine.distributed import WAIT, Group

PRELOADED = ["search.loop", "retrain.run", "proxyless_nas.verbs"]
"""What the server imports. It is set at each start, since the first one starts the server."""


def together(job: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """Runs `job(group, *arguments)`, a function of a module, in two processes. Returns its results by rank."""
    folder.mkdir(parents=True)
    multiprocessing.set_forkserver_preload(PRELOADED)
    mp.start_processes(_run, args=(job, folder, arguments), nprocs=2, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def _run(rank: int, job: Callable[..., Any], folder: Path, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=WAIT)
    group = Group(rank, 2, rank, host=dist.group.WORLD).on(torch.device("cpu"))
    torch.save(job(group, *arguments), folder / f"{rank}.pt")
    group.barrier()
    dist.destroy_process_group()


def started(script: Path, words: Sequence[str], printed: Path) -> multiprocessing.process.BaseProcess:
    """Starts a script in a process of its own. printed: the file that gets its stderr; its stdout is dropped."""
    multiprocessing.set_forkserver_preload(PRELOADED)
    process = multiprocessing.get_context("forkserver").Process(target=_script, args=(script, list(words), printed))
    process.start()
    return process


def _script(script: Path, words: list[str], printed: Path) -> None:
    for stream, file in ((1, Path(os.devnull)), (2, printed)):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(opened, stream)
        os.close(opened)
    sys.argv = [str(script), *words]
    runpy.run_path(str(script), run_name="__main__")
