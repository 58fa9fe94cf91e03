"""Chooses where and how a program computes: device, threads, memory format and precision; moves batches there."""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from engine.data.images import Batch
from engine.distributed import ALONE, Group
from engine.errors import ConfigError
from engine.run_config import RunConfig

Autocast = Callable[[], AbstractContextManager[object]]
"""A function that returns the autocast context for one forward pass, such as a partial of `autocast`."""


def keep_freed_memory() -> None:
    """Lets the C library reuse freed memory, which it would return to the kernel and fault in again page by page.

    A step frees and allocates the same large tensors over and over. Works with glibc (Linux)
    alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_threshold = -1, -3  # parameters of mallopt(3)
    libc = ctypes.CDLL(None)
    libc.mallopt(mmap_threshold, 1 << 30)
    libc.mallopt(trim_threshold, (1 << 31) - 1)


def prepare_device(run: RunConfig, group: Group = ALONE) -> torch.device:
    """Sets the thread count and returns the device. Each of several processes on a machine gets a GPU of its own.

    Raises ConfigError for cuda if there is no GPU for this process, and for bf16 on a GPU that only emulates it.
    The thread count is all that a CPU needs to repeat a run bit for bit: the ops of these networks are deterministic on
    a CPU for a given thread count, so torch.use_deterministic_algorithms would change nothing.
    """
    keep_freed_memory()
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    if run.device == "cuda" and not torch.cuda.is_available():
        raise no_gpu()
    if run.device == "cuda":
        if group.local_rank >= torch.cuda.device_count():
            raise ConfigError(
                "run.device",
                f"got 'cuda', but there is no GPU for process {group.local_rank} of this machine, counted from 0: "
                f"torch finds {torch.cuda.device_count()}",
                remedy="start as many with torchrun --nproc-per-node",
            )
        device = torch.device("cuda", group.local_rank)
        torch.cuda.set_device(device)
        if run.amp == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise ConfigError(
                "run.amp",
                f"got 'bf16', but {torch.cuda.get_device_name(device)} only emulates it, slower than float32",
                remedy="set run.amp=none, or take a GPU of compute capability 8.0 or newer",
            )
        return device
    return torch.device(run.device)


def no_gpu(place: str = "run.device") -> ConfigError:
    """Returns the error for cuda on a machine without a GPU. place: the key, with its file if several are read."""
    remedy = "set run.device=cpu, and run.amp=none, which is faster there"
    return ConfigError(place, "got 'cuda', but torch finds no CUDA device", remedy=remedy)


def seed_draws(seed: int, device: torch.device) -> None:
    """Seeds the global generators of the CPU and of the device, from which dropout draws.

    torch.manual_seed also notes a call for every kind of accelerator that is not in use, which takes ten times as long.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def memory_format(run: RunConfig) -> torch.memory_format:
    """Returns the memory format of images (N, C, H, W) and of weights."""
    return torch.channels_last if run.channels_last else torch.contiguous_format


def autocast(run: RunConfig, device: torch.device) -> AbstractContextManager[object]:
    """Returns a new autocast context for one forward pass."""
    if run.amp == "none":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if run.amp == "bf16" else torch.float16)


def on_device(batch: Batch, device: torch.device, run: RunConfig) -> Batch:
    """Returns the batch on the network's device. A copy from pinned memory goes on while the caller does other work."""
    images = batch.images.to(device, memory_format=memory_format(run), non_blocking=True)
    return batch._replace(images=images, labels=batch.labels.to(device, non_blocking=True))
