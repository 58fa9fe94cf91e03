"""Computes the peak activation memory of a layer: how many elements of feature maps it needs at once in inference.

One image runs through the layer as in a derived network, residual add included. A tensor lives from the op that makes
it to the last op that reads it. An op's working set is every tensor alive while it runs: its inputs, its output, and
tensors that a later op still reads, such as the edge's input if it is added at the end, or the tensor that
squeeze-excite is going to scale. The layer's working set is the largest one of its ops. An elementwise op (activation,
residual add, and BN, which runtimes fold into its convolution) writes over an input of its output's size that no later
op reads, so it needs no second tensor. Weights, views and an op's scratch memory do not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from supernet.blocks import Block, isolated_rng
from supernet.errors import InvalidError
from supernet.ops import OpSettings
from supernet.space import Layer

_ELEMENTWISE = {"batch_norm", "hardswish", "hardtanh", "elu", "gelu", "silu", "mish", "leaky_relu", "softplus"}
"""Ops that torch itself does not tag `pointwise` in every version; BN is elementwise once its statistics are fixed."""


@cache
def working_set(layer: Layer, settings: OpSettings) -> int:
    """Returns the elements per image that the layer needs at once, as defined above.

    The layer's module runs on the meta device, which computes shapes without numbers; every op inside is recorded, also
    those of a user's own candidates. Raises InvalidError, which names the layer, if its module cannot run there.
    """
    settings = replace(settings, running_stats=True)
    try:
        with isolated_rng(0), torch.device("meta"), torch.inference_mode():
            block = Block(layer, settings).eval()
            image = torch.empty(1, layer.c_in, layer.size, layer.size)
            record = _LifetimeRecorder(image)
            with record:
                out = block(image)
    except (NotImplementedError, RuntimeError) as error:
        first = str(error).partition("\n")[0]
        raise InvalidError(
            f"'{layer}'",
            f"its peak activation cannot be computed, because its module does not run on torch's meta device ({first})",
            remedy="let it compute with tensors alone, or remove the limit on peak_activation_bytes",
        ) from error
    return record.peak(out)


@dataclass(frozen=True)
class _Step:
    """One op of a layer. A tensor is identified by its storage."""

    reads: frozenset[int]
    makes: frozenset[int]
    elementwise: bool


class _LifetimeRecorder(TorchDispatchMode):
    """Records which tensors each op reads and makes, starting from one image."""

    def __init__(self, image: Tensor):
        super().__init__()
        self.elements = {_storage(image): image.numel()}
        self.steps: list[_Step] = []
        self.kept: list[Tensor] = [image]  # a storage that is freed would lend its name to a later one

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        reads = frozenset(_storage(t) for t in _tensors((args, kwargs))) & self.elements.keys()
        if reads:  # other ops prepare weights
            made = [t for t in _tensors(out) if t.is_floating_point() and _storage(t) not in self.elements]
            self.kept += _tensors(out)
            self.elements |= {_storage(t): t.numel() for t in made}
            name = func.overloadpacket.__name__
            elementwise = torch.Tag.pointwise in func.tags or name in _ELEMENTWISE
            self.steps.append(_Step(reads, frozenset(map(_storage, made)), elementwise))
        return out

    def peak(self, out: Tensor) -> int:
        """Returns the largest working set of a step, in elements; `out` lives to the end."""
        image = next(iter(self.elements))
        born, last = {image: -1}, {image: -1}
        for i, step in enumerate(self.steps):
            born |= dict.fromkeys(step.makes, i)
            last |= dict.fromkeys(step.makes | step.reads, i)
        last[_storage(out)] = len(self.steps)
        largest = self.elements[image]
        for i, step in enumerate(self.steps):
            alive = sum(self.elements[t] for t in born if born[t] <= i <= last[t])
            if step.elementwise:
                dying = [self.elements[t] for t in step.reads if last[t] == i]
                alive -= sum(self.elements[t] for t in step.makes if self.elements[t] in dying)
            largest = max(largest, alive)
        return largest


def _storage(t: Tensor) -> int:
    """Returns a number that identifies the memory of a tensor; views share it."""
    return int(t.untyped_storage()._cdata)


def _tensors(value: Any) -> list[Tensor]:
    """Returns the tensors inside nested lists, tuples and dictionaries."""
    return list(_walk(value))


def _walk(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _walk(inner)
    elif isinstance(value, dict):
        yield from _walk(list(value.values()))
