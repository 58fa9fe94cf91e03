"""Reads from the system what a device is, and how much energy it has used."""

from __future__ import annotations

import glob
import os
import platform
from typing import Callable


def cpu_name() -> str:
    """Returns the name of the board or processor, from the kernel."""
    board = "/proc/device-tree/model"
    if os.path.exists(board):
        with open(board, encoding="utf-8", errors="replace") as file:
            return file.read().strip("\0 \n")
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.lower().startswith(("model name", "hardware")):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only; it respects containers and taskset
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def energy_counter(root: str = "/sys/class/powercap") -> Callable[[], float] | None:
    """Returns a function that returns the joules used so far by all processor packages (RAPL); None if they cannot be
    read.

    Zones inside a package (cores, memory) and around it (psys) would count its energy again and are left out.
    The counters wrap around, which the function corrects as long as it is called about once a minute.
    """
    zones = sorted(glob.glob(os.path.join(root, "intel-rapl:*")))
    try:
        packages = [zone for zone in zones if _text(os.path.join(zone, "name")).startswith("package")]
        files = [os.path.join(path, "energy_uj") for path in packages]
        last = [_number(file) for file in files]
        spans = [_number(os.path.join(path, "max_energy_range_uj")) for path in packages]
    except OSError:  # readable by root alone on most systems
        return None
    if not files:
        return None
    total = [0.0]

    def joules() -> float:
        for i, file in enumerate(files):
            now = _number(file)
            total[0] += now - last[i] if now >= last[i] else now - last[i] + spans[i]
            last[i] = now
        return total[0] / 1e6

    return joules


def _number(path: str) -> int:
    """Returns the whole number in a file of the system."""
    return int(_text(path))


def _text(path: str) -> str:
    """Returns the text of a file of the system."""
    with open(path, encoding="ascii") as file:
        return file.read().strip()
