"""Runs a job in two processes that are connected by gloo, without torchrun and without a port."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from engine.distributed import WAIT, Group


def together(job: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """Runs `job(group, *arguments)`, a function of a module, in two processes. Returns its results by rank."""
    folder.mkdir(parents=True)
    # a server that has imported what jobs need forks the processes, so that importing is paid once
    multiprocessing.set_forkserver_preload(["search.loop", "retrain.run"])
    mp.start_processes(_run, args=(job, folder, arguments), nprocs=2, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def _run(rank: int, job: Callable[..., Any], folder: Path, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=WAIT)
    group = Group(rank, 2, rank, host=dist.group.WORLD).on(torch.device("cpu"))
    torch.save(job(group, *arguments), folder / f"{rank}.pt")
    group.barrier()
    dist.destroy_process_group()
