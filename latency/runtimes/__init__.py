"""The runtimes that run networks while they are timed: subclasses of `Runtime` (latency/runtimes/base.py)."""

from __future__ import annotations

from engine.errors import ConfigError
from latency.config import MeasureConfig
from latency.device import this_device
from latency.runtimes.base import Opened, Runtime
from latency.runtimes.exported import FILE_RUNTIMES, Exported
from latency.runtimes.pytorch import PyTorch, PyTorchCompile
from supernet.space import Space

__all__ = ["RUNTIMES", "Opened", "Runtime", "open_runtime", "version_here"]

RUNTIMES: dict[str, type[Runtime]] = {
    "pytorch": PyTorch,
    "pytorch_compile": PyTorchCompile,
    **dict.fromkeys(FILE_RUNTIMES, Exported),
}
"""Maps the name of a runtime, as `measure.runtime` and a table's header have it, to its class."""


def version_here(runtime: str) -> str | None:
    """Returns the version of a runtime on this machine; None if it is not installed, or is not one of RUNTIMES."""
    return RUNTIMES[runtime].installed(runtime) if runtime in RUNTIMES else None


def open_runtime(space: Space | None, measure: MeasureConfig) -> Runtime:
    """Returns the runtime for these settings, to be used with `with`. space: that of the jobs; None if whole networks
    alone are timed. Raises ConfigError if its device is not here."""
    if measure.device == "external":
        raise ConfigError(
            "measure.device",
            "got 'external', a device that cannot be timed from here",
            remedy=(
                "export a kit for it with proxyless-nas kit, import its table with "
                "proxyless-nas import, or set measure.device to cpu or cuda"
            ),
        )
    this_device(measure.device)  # if there is no CUDA, the error names the key
    return RUNTIMES[measure.runtime](space, measure)
