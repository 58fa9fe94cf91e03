"""What device this is: the part of a table's provenance that tells whether its numbers hold here."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path
from typing import Literal

import torch

from engine.config import Section
from engine.errors import ConfigError


class Device(Section):
    """The device a table was measured on."""

    kind: Literal["cpu", "gpu", "phone", "other"]
    name: str
    cores: int | None = None
    """CPU cores that the process could use; GPU multiprocessors."""
    fingerprint: str
    """Equal where timings may be compared: a hash of kind, name, cores and machine type."""


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _usable_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only; it respects containers and taskset
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def this_device(device: Literal["cpu", "cuda"]) -> Device:
    """This machine's CPU or first GPU. Raises ConfigError for cuda without a GPU."""
    kind: Literal["cpu", "gpu"] = "cpu"
    name, cores = _cpu_name(), _usable_cores()
    if device == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError("measure.device: got 'cuda', but torch finds no CUDA device; use measure.device=cpu")
        properties = torch.cuda.get_device_properties(0)
        kind, name, cores = "gpu", properties.name, properties.multi_processor_count
    identity = f"{kind}|{name}|{cores}|{platform.machine()}"
    return Device(kind=kind, name=name, cores=cores, fingerprint=hashlib.sha256(identity.encode()).hexdigest()[:16])
