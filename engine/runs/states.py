"""Checks the content of a checkpoint: whether every number is finite, and whether it fits a network or an optimizer
exactly. torch alone copies tensors of another shape or type if it can.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import InvalidError

_SLOTS = {
    torch.optim.SGD: frozenset({"momentum_buffer"}),
    torch.optim.Adam: frozenset({"step", "exp_avg", "exp_avg_sq"}),
    torch.optim.AdamW: frozenset({"step", "exp_avg", "exp_avg_sq"}),
    torch.optim.RMSprop: frozenset({"step", "square_avg", "momentum_buffer"}),
}
"""The names of what these optimizers keep for each parameter; `step` is one number. RMSprop without momentum has no
`momentum_buffer`."""
_HOW = ("fused", "foreach")
"""Settings of an optimizer that say how it computes, not what."""


def not_finite(state: Any) -> str | None:
    """Returns the path of the first value of a nested state that is infinite or not a number; None if all are
    finite."""
    return next((path for path, value in _leaves(state, "") if not _finite(value)), None)


def _leaves(state: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(state, Mapping):
        for key, value in state.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(state, list | tuple):
        for i, value in enumerate(state):
            yield from _leaves(value, f"{path}.{i}" if path else str(i))
    else:
        yield path, state


def _finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not (value.is_floating_point() or value.is_complex()) or bool(value.isfinite().all())
    return not isinstance(value, float) or math.isfinite(value)


def check_tensor(name: str, value: Any, shape: torch.Size, dtype: torch.dtype) -> None:
    """Raises InvalidError, which begins with `name`, unless `value` is a finite tensor of this shape and type."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        raise InvalidError("", f"{name} is {_kind(value)}", f"a tensor of shape {tuple(shape)}")
    if value.shape != shape or value.dtype != dtype:
        got, expected = (
            f"{tuple(size)} of {_short(kind)}" for size, kind in ((value.shape, value.dtype), (shape, dtype))
        )
        raise InvalidError("", f"{name} has shape {got}", expected)
    if not _finite(value):
        raise InvalidError("", f"{name} has values that are not finite")


def check_module(state: Any, module: nn.Module) -> None:
    """Raises InvalidError unless `state` is a state_dict of exactly this module, with finite values."""
    wanted = module.state_dict()
    if not isinstance(state, Mapping):
        raise InvalidError("", f"the weights are {_kind(state)}", "a tensor for each name")
    for names, what in ((wanted.keys() - state.keys(), "lacks"), (state.keys() - wanted.keys(), "has an unknown")):
        if names:
            first = next(name for name in (*wanted, *state) if name in names)
            raise InvalidError("", f"it {what} {first}")
    for name, value in wanted.items():
        check_tensor(name, state[name], value.shape, value.dtype)


def check_optimizer(saved: Any, optimizer: torch.optim.Optimizer, *, scheduled: bool) -> None:
    """Raises InvalidError unless `saved` is a state_dict of exactly this optimizer: its settings, and finite tensors of
    the shapes and types of its parameters.

    scheduled: whether the learning rate is set before each step; a checkpoint may then hold any. A setting that only
    one of the two has comes from another version of torch and does not count.
    """
    wanted = optimizer.state_dict()
    groups = saved.get("param_groups") if isinstance(saved, Mapping) else None
    state = saved.get("state") if isinstance(saved, Mapping) else None
    if not isinstance(groups, list) or not isinstance(state, Mapping):
        raise InvalidError("", f"the optimizer's state is {_kind(saved)}", "its state and its groups of parameters")
    if len(groups) != len(wanted["param_groups"]):
        found = f"the optimizer has {len(groups)} groups of parameters"
        raise InvalidError("", found, str(len(optimizer.param_groups)))
    for own, other in zip(wanted["param_groups"], groups, strict=True):
        if not isinstance(other, Mapping) or other.get("params") != own["params"]:
            found = f"the optimizer's groups are not of the {len(own['params'])} parameters of this network"
            raise InvalidError("", found)
        for key in own:
            if key in other and key != "params" and key not in _HOW and not (scheduled and key == "lr"):
                value = other[key]
                if type(value) is not type(own[key]) or value != own[key]:
                    found = f"the optimizer's {key} is {_kind(value)} {value!r:.40}"
                    raise InvalidError("", found, f"{own[key]!r}")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if lacking := wanted["state"].keys() - state.keys():
        raise InvalidError("", f"the optimizer lacks the state of parameter {min(lacking)}")
    slots = _SLOTS[type(optimizer)]
    if isinstance(optimizer, torch.optim.RMSprop) and not optimizer.param_groups[0]["momentum"]:
        slots -= {"momentum_buffer"}
    for i, kept in state.items():
        if type(i) is not int or not 0 <= i < len(parameters) or not isinstance(kept, Mapping) or kept.keys() != slots:
            found = f"the optimizer's state of parameter {i!r:.20} is not {', '.join(sorted(slots))}"
            raise InvalidError("", found)
        for slot, value in kept.items():
            one_number = slot == "step"
            shape, dtype = (torch.Size(), torch.float32) if one_number else (parameters[i].shape, parameters[i].dtype)
            check_tensor(f"the optimizer's {slot} of parameter {i}", value, shape, dtype)


def _kind(value: object) -> str:
    return "another kind of tensor" if isinstance(value, Tensor) else f"a value of type {type(value).__name__}"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
