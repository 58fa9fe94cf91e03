"""Defines the interface of a runtime, with which tables can be measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn

from engine.errors import UserError
from latency.config import MeasureConfig
from latency.plan import TimingJob
from supernet.blocks import Block, init_weights
from supernet.ops import OpSettings
from supernet.space import Layer, Space


class Opened(Protocol):
    """A chain of layers ready to run."""

    def run(self, passes: int) -> None:
        """Runs forward passes without timing them."""

    def times(self, passes: int) -> list[Any]:
        """Returns the milliseconds of each of `passes` forward passes: a number, or a list with one number per layer if
        the job is `inside`."""

    def close(self) -> None:
        """Frees what was opened."""


class Runtime(ABC):
    """Runs chains of layers as its MeasureConfig says. Use as a context manager; raises ConfigError on entering.

    `name` and `version` go into the table's header. `sees_inside`: whether the layers of a running network can be
    timed; if not, each op is timed alone for the table's entries.
    """

    name: str
    version: str
    sees_inside: bool
    how: str
    """A description of the runtime and its settings, for the table's reader."""

    def __init__(self, space: Space | None, measure: MeasureConfig) -> None:
        """space: the space of the jobs; None if only whole networks are loaded."""
        self.name = measure.runtime
        self._space, self._measure = space, measure
        self._undo = ExitStack()

    @classmethod
    @abstractmethod
    def installed(cls, name: str) -> str | None:
        """Returns the version of `name`, a runtime of this class, on this machine; None if it is not installed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._undo.close()

    @abstractmethod
    def prepare(self, jobs: Sequence[TimingJob], progress: Callable[[int, int], None] | None = None) -> None:
        """Builds, exports or compiles all jobs, so that this does not happen between timings.

        progress: called with (done, total), in jobs.
        """

    @abstractmethod
    def open(self, job: TimingJob) -> Opened:
        """Returns a prepared job, ready to run."""

    def load(self, name: str, network: nn.Module, images: Tensor) -> Callable[[], Opened]:
        """Builds, exports or compiles a whole network now. Returns a function that opens it.

        name: a word of its own, for its file. network: any module in eval mode, see `ready_to_time`; images (N, C, H,
        W) float32 is its input. Raises UserError if this runtime cannot run it.
        """
        found = f"{self.name} runs chains of layers only"
        raise UserError("measure.runtime", found, remedy="choose another runtime")


def timing_module(layer: Layer, settings: OpSettings) -> nn.Module:
    """Returns a layer's module in eval mode, with random weights, to be timed.

    Biases of BN, or of the convolutions that it is folded into, are random, so that activations keep a size of order
    0.1 through the deepest network: with the usual 0 they shrink from layer to layer, down to subnormal numbers, which
    some processors are slow with.
    """
    block = Block(layer, settings)
    init_weights(block)
    for inner in block.modules():
        if settings.folded and isinstance(inner, nn.Conv2d) and inner.bias is not None:
            nn.init.normal_(inner.bias, std=BIAS)
    return ready_to_time(block)


BIAS = 0.1
"""The standard deviation of random biases."""


def ready_to_time(module: nn.Module) -> nn.Module:
    """Returns a module with fresh weights in eval mode, the biases of its BN random (see `timing_module`)."""
    for inner in module.modules():
        if isinstance(inner, nn.BatchNorm2d) and inner.affine:
            nn.init.normal_(inner.bias, std=BIAS)
    return module.eval()


def random_images(layer: Layer, batch: int) -> torch.Tensor:
    """Returns a random input of the layer, (batch, C_in, H, W)."""
    return torch.randn(batch, layer.c_in, layer.size, layer.size)


TOLERANCE = 1e-3
"""The largest difference of a model from PyTorch, relative to the largest output: float32 in another order of
adding."""
INT8_TOLERANCE = 0.3
"""The largest RMS difference of an int8 model from PyTorch, relative to the RMS output. Rounding costs some 2 % in a
layer and 10 % in a deep network of random weights; a wrong model is off by 100 %."""
CALIBRATION_INPUTS = 4
"""The random inputs from which the ranges of an int8 model follow. What ranges it has does not change its speed."""


def alike(there: np.ndarray, here: np.ndarray) -> bool:
    """Returns whether the outputs of a model and of its module are the same, up to rounding."""
    return bool(np.abs(there - here).max() <= TOLERANCE * np.abs(here).max())


def int8_alike(there: np.ndarray, here: np.ndarray) -> bool:
    """Returns whether the outputs of an int8 model and of its module are the same, up to the steps of the codes."""
    return bool(np.sqrt(np.mean((there - here) ** 2)) <= INT8_TOLERANCE * np.sqrt(np.mean(here**2)))
