"""What a runtime has to offer so that tables can be measured with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Protocol, Self

import torch
from torch import nn

from latency.config import MeasureConfig
from latency.plan import Job
from supernet.blocks import Block, init_weights
from supernet.ops import OpSettings
from supernet.space import Layer, Space


class Opened(Protocol):
    """A chain of layers ready to run."""

    def run(self, passes: int) -> None:
        """Forward passes, not timed."""

    def times(self, passes: int) -> list[Any]:
        """Milliseconds of each of `passes` forward passes: a number, or a list with one per layer for a job
        `inside`."""

    def close(self) -> None: ...


class Runtime(ABC):
    """Runs chains of layers as its MeasureConfig says. Use as a context manager; raises ConfigError on entering.

    `name` and `version` go into the table's header. `sees_inside`: whether the layers of a running network can be
    timed; where they cannot, a table's entries come from ops alone.
    """

    name: str
    version: str
    sees_inside: bool
    how: str
    """What runs, for the table's reader."""

    def __init__(self, space: Space, measure: MeasureConfig) -> None:
        self.name = measure.runtime
        self._space, self._measure = space, measure
        self._undo = ExitStack()

    @classmethod
    @abstractmethod
    def installed(cls, name: str) -> str | None:
        """The version of `name`, a runtime of this class, on this machine; None where it is not installed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._undo.close()

    @abstractmethod
    def prepare(self, jobs: Sequence[Job], progress: Callable[[int, int], None] | None = None) -> None:
        """Everything that must not happen between timings: building, exporting, compiling."""

    @abstractmethod
    def open(self, job: Job) -> Opened:
        """A prepared job."""


def timing_module(layer: Layer, settings: OpSettings) -> nn.Module:
    """A layer's module in eval mode, to be timed: what it computes does not matter as long as nothing vanishes.

    Biases of BN are random, so that activations keep a size of order 0.1 through the deepest network: with the usual 0
    they shrink from layer to layer, down to subnormal numbers, which some processors are slow with.
    """
    block = Block(layer, settings)
    init_weights(block)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.normal_(module.bias, std=0.1)
    return block.eval()


def random_images(layer: Layer, batch: int) -> torch.Tensor:
    """(batch, C_in, H, W): an input of the layer."""
    return torch.randn(batch, layer.c_in, layer.size, layer.size)
