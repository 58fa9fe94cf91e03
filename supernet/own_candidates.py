"""Checks a user's own candidates before a space is built with them. Each error is one line that names the candidate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from supernet.catalogue import Candidate
from supernet.complexity import Complexity
from supernet.errors import InvalidError
from supernet.ops import OpSettings
from supernet.user_modules import failures_named

if TYPE_CHECKING:
    from supernet.space import Layer

SETTINGS = OpSettings("relu", 1e-3, 0.1, running_stats=True)
BATCH = 2  # BN needs two images


def is_own(spec: Candidate) -> bool:
    """Returns whether a candidate is the user's own rather than of this package."""
    return type(spec).__module__.partition(".")[0] != __name__.partition(".")[0]


def answer(spec: Candidate, method: str, function: Callable[..., Any], *arguments: object) -> Any:
    """Returns the result of `function`, a method of a candidate. Raises InvalidError, which names the candidate and the
    method, if it raises."""
    with failures_named(f"{method}()", f"candidate '{spec}'"):
        return function(*arguments)


def check_declared(layers: Iterable[Layer]) -> None:
    """Raises InvalidError unless every own candidate returns its parameters and MACs on each of the layers, and builds
    a module on its smallest layer.

    The module is not run, and the state of torch's random numbers is restored.
    """
    own = [layer for layer in layers if is_own(layer.spec)]
    for layer in own:
        declared = answer(
            layer.spec, "complexity", layer.spec.complexity, layer.c_in, layer.c_out, layer.size, layer.stride
        )
        numbers = (declared.params, declared.macs) if isinstance(declared, Complexity) else ()
        if not numbers or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers):
            raise InvalidError(
                f"candidate '{layer.spec}'",
                f"complexity() returned {_described(declared)} for {layer}",
                "a Complexity of two whole numbers, 0 or more",
                "correct it",
            )
    for layer in _smallest_of_each(own):
        _built(layer)


def check_running(layers: Iterable[Layer], device: torch.device) -> None:
    """Raises InvalidError unless every own candidate, on its smallest layer, returns a map of the expected shape,
    leaves its input unchanged, which the other candidates of an edge get too, and has as many parameters as it
    declares. The MACs are not compared: an op may compute them in ways that nothing sees from outside."""
    for layer in _smallest_of_each(layer for layer in layers if is_own(layer.spec)):
        op = _built(layer).to(device)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            x = torch.randn(BATCH, layer.c_in, layer.size, layer.size).to(device)
            before = x.clone()
            with torch.no_grad():
                out = answer(layer.spec, "forward", op, x)
        where, shape = f"candidate '{layer.spec}'", (BATCH, layer.c_out, layer.size_out, layer.size_out)
        if not isinstance(out, Tensor) or tuple(out.shape) != shape or out.dtype != x.dtype or out.device != x.device:
            raise InvalidError(
                where,
                f"forward() made {_described(out)} of {_described(x)}",
                f"{shape} of the same kind: stride {layer.stride}, {layer.c_out} channels",
                "correct it",
            )
        if not torch.equal(x, before):
            found = "forward() changed its input in place, which other candidates get too"
            raise InvalidError(where, found, remedy="correct it")
        built = sum(parameter.numel() for parameter in op.parameters())  # lazy ones have their shape by now
        if built != layer.complexity.params:
            found = f"complexity() declares {layer.complexity.params} parameters for {layer}, its module has {built}"
            raise InvalidError(where, found, remedy="correct the formula, since limits and tables use it")


def _smallest_of_each(layers: Iterable[Layer]) -> list[Layer]:
    """Returns one layer of each candidate and stride: the one with the least to compute."""
    smallest: dict[tuple[str, int], Layer] = {}
    for layer in sorted(layers, key=lambda layer: layer.c_in * layer.c_out * layer.size**2):
        smallest.setdefault((str(layer.spec), layer.stride), layer)
    return list(smallest.values())


def _built(layer: Layer) -> nn.Module:
    """Returns a layer's module without changing the state of torch's random numbers. Raises InvalidError."""
    with torch.random.fork_rng(devices=[]):
        op = answer(layer.spec, "build", layer.spec.build, layer.c_in, layer.c_out, layer.stride, SETTINGS)
    if not isinstance(op, nn.Module):
        found = f"build() returned {_described(op)}"
        raise InvalidError(f"candidate '{layer.spec}'", found, "a torch.nn.Module", "correct it")
    return op


def _described(value: object) -> str:
    """Returns the type of a value in words for a message, with a tensor's shape or a Complexity's numbers."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')} on {value.device}"
    if isinstance(value, Complexity):
        return f"Complexity(params={value.params!r:.40}, macs={value.macs!r:.40})"
    return "None" if value is None else f"a value of type {type(value).__name__}"
