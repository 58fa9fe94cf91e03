"""Defines the YAML section `measure`: the device that a latency table is measured on, and how."""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator

from engine.config import ConfigFile, Section
from engine.errors import InvalidError
from engine.run_config import MOST_THREADS
from latency.on_device.models import RUNTIMES
from supernet.space import SpaceConfig

EXPORTED = tuple(RUNTIMES)
"""The runtimes that read model files written by this package, here or on another device."""
FILE_DTYPES = ("float32", "int8")
"""The precisions of model files."""
FEWEST_CALIBRATION_NETWORKS = 10
LARGEST_BATCH = 1 << 16
"""The most images at once."""
MOST_REPEATS = 10_000
"""The most repetitions of anything that is timed; more would take days."""
LARGEST_ERROR = 10.0
"""The error in percent of a table's sums above which a search refuses it, unless it sets another bound."""


class MeasureConfig(Section):
    """YAML section `measure`. device, runtime, threads, batch, dtype and memory format are part of a table's
    identity."""

    device: Literal["cpu", "cuda", "external"] = "cpu"
    """external: the table comes from another device, through `proxyless-nas kit`, `import` or `fit`."""
    runtime: Literal["pytorch", "pytorch_compile", "onnxruntime", "litert"] = "pytorch"
    """The runtime that runs the network (latency/runtimes/). pytorch: eager. pytorch_compile: torch.compile, layer by
    layer."""
    threads: int = Field(1, ge=1, le=MOST_THREADS)
    """The number of CPU threads inside an op."""
    batch: int = Field(1, ge=1, le=LARGEST_BATCH)
    """Images of one forward pass."""
    dtype: Literal["float32", "bfloat16", "float16", "int8"] = "float32"
    """The precision of weights and activations. int8: for onnxruntime and litert, as exported int8 files have it: a
    scale for each output channel of a weight, 8-bit activations. Its table also has the milliseconds of float32, and a
    search warns where int8 is not faster."""
    channels_last: bool = True
    """PyTorch's memory format; the other runtimes choose their own."""
    rounds: int = Field(4, ge=2, le=MOST_REPEATS)
    """The number of times that each network is timed. Every round has its own random order, so that a drift affects all
    alike."""
    passes: int = Field(6, ge=1, le=MOST_REPEATS)
    """The number of forward passes that are timed in each round."""
    warmup_passes: int = Field(2, ge=1, le=MOST_REPEATS)
    """The number of forward passes before them in each round, which are not timed."""
    coverings: int = Field(24, ge=1, le=MOST_REPEATS)
    """The number of times that each candidate of each edge occurs in the networks whose layers are timed one by one."""
    calibration_networks: int = Field(60, ge=0, le=MOST_REPEATS)
    """The number of whole networks that the entries are corrected by; 0 leaves them as measured."""

    @model_validator(mode="after")
    def runtime_can(self) -> Self:
        """Raises ValueError if the runtime does not run on the device or in the precision."""
        if self.dtype == "float16" and self.device == "cpu":
            raise InvalidError("measure.dtype", "got 'float16' with device cpu", "float32 or bfloat16 there")
        if self.dtype == "int8" and self.runtime not in EXPORTED and self.device != "external":
            accepted = f"measure.runtime {' or '.join(EXPORTED)} with it"
            raise InvalidError("measure.dtype", f"got 'int8' with runtime {self.runtime}", accepted)
        if self.runtime in EXPORTED and self.device != "external":
            if self.device == "cuda":
                remedy = (
                    "use runtime pytorch, or a device kit (proxyless-nas kit) with --provider CUDAExecutionProvider"
                )
                found = f"got 'cuda' with runtime {self.runtime}, which is timed on the CPU here"
                raise InvalidError("measure.device", found, remedy=remedy)
            if self.dtype not in FILE_DTYPES:
                raise InvalidError(
                    "measure.dtype", f"got '{self.dtype}' with runtime {self.runtime}", " or ".join(FILE_DTYPES)
                )
        if 0 < self.calibration_networks < FEWEST_CALIBRATION_NETWORKS:
            accepted = f"0 (none) or at least {FEWEST_CALIBRATION_NETWORKS}"
            raise InvalidError("measure.calibration_networks", f"got {self.calibration_networks}", accepted)
        return self

    @property
    def torch_dtype(self) -> torch.dtype:
        """The torch dtype that `dtype` names."""
        return {
            "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.int8
        }[self.dtype]  # fmt: skip

    @property
    def memory_format(self) -> torch.memory_format:
        """The torch memory format that `channels_last` selects."""
        return torch.channels_last if self.channels_last else torch.contiguous_format


SEARCH_SECTIONS = frozenset({"data", "limits", "search", "run"})


class LatencyConfig(ConfigFile):
    """A file of configs/latency/: a space, and how to measure it. Search configs extend it."""

    space: SpaceConfig
    """The space whose layers are timed."""
    measure: MeasureConfig = MeasureConfig()
    """On what device, and how, they are timed."""

    @classmethod
    def part_of(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Returns the file without the sections of a search, so that one YAML per device also makes its table."""
        return {key: value for key, value in content.items() if key not in SEARCH_SECTIONS}
