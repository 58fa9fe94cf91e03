"""Describes the device of a table, by which one can see whether its numbers hold on this machine."""

from __future__ import annotations

import hashlib
import platform
from typing import Literal

import torch

from engine.config import Section
from engine.errors import ConfigError
from latency.on_device.machine import cpu_name, usable_cores

Kind = Literal["cpu", "gpu", "phone", "other"]


class Device(Section):
    """The device a table was measured on."""

    kind: Kind
    name: str
    cores: int | None = None
    """CPU cores that the process could use; GPU multiprocessors."""
    fingerprint: str
    """A hash of kind, name, cores and machine type. Timings of devices with the same hash may be compared."""


def this_device(device: Literal["cpu", "cuda"]) -> Device:
    """Returns this machine's CPU, or the GPU that this process uses. Raises ConfigError for cuda without a GPU."""
    kind: Kind = "cpu"
    name, cores = cpu_name(), usable_cores()
    if device == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(
                "measure.device",
                "got 'cuda', but torch finds no CUDA device",
                remedy=(
                    "measure where the GPU is and search here with its table by measure.device=external, or "
                    "measure this CPU by measure.device=cpu"
                ),
            )
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        kind, name, cores = "gpu", properties.name, properties.multi_processor_count
    return named_device(kind, name, cores, platform.machine())


def made_on() -> dict[str, str]:
    """Returns what figures of this process depend on: the device (its CPU and cores), torch and Python."""
    device = this_device("cpu")
    return {
        "device": f"{device.name}, {device.cores} cores",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def named_device(kind: Kind, name: str, cores: int | None, machine: str) -> Device:
    """Returns a device with its fingerprint. machine: its instruction set, as platform.machine() has it."""
    identity = f"{kind}|{name}|{cores}|{machine}"
    return Device(kind=kind, name=name, cores=cores, fingerprint=hashlib.sha256(identity.encode()).hexdigest()[:16])
