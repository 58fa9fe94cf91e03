"""A state is restored only if its names, shapes, types and settings are those of the network or optimizer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from engine.runs.states import check_module, check_optimizer

NETWORK = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def sgd() -> torch.optim.SGD:
    return torch.optim.SGD(NETWORK.parameters(), lr=0.1, momentum=0.9, nesterov=True)


def adam() -> torch.optim.Adam:
    return torch.optim.Adam(NETWORK.parameters(), lr=0.1)


def stepped(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    for p in NETWORK.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    return copy.deepcopy(optimizer.state_dict())


def test_what_a_module_or_an_optimizer_has_saved_is_accepted():
    check_module(NETWORK.state_dict(), NETWORK)
    for optimizer in (sgd(), adam()):
        state = stepped(optimizer)
        check_optimizer(state, optimizer, scheduled=False)
        fresh = sgd() if isinstance(optimizer, torch.optim.SGD) else adam()
        check_optimizer(state, fresh, scheduled=False)
        state["param_groups"][0]["lr"] = 7.0
        check_optimizer(state, fresh, scheduled=True)
        with pytest.raises(ValueError, match="lr is"):
            check_optimizer(state, fresh, scheduled=False)


WEIGHT = "0.weight"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (
            torch.zeros(1, 1),
            r"0.weight has shape \(1, 1\) of float32, expected \(4, 3\) of float32",
        ),
        (torch.zeros(4, 3, dtype=torch.float64), "of float64, expected"),
        (torch.zeros(4, 3, dtype=torch.complex64), "of complex64, expected"),
        (torch.full((4, 3), float("nan")), "0.weight has values that are not finite"),
        (torch.zeros(4, 3, device="meta"), "is another kind of tensor"),
        (torch.zeros(4, 3).to_sparse(), "is another kind of tensor"),
        ([[0.0] * 3] * 4, "is a value of type list"),
        (None, "is a value of type NoneType"),
    ],
)
def test_a_tensor_that_is_not_exactly_the_modules_is_refused(value, says):
    with pytest.raises(ValueError, match=says):
        check_module(NETWORK.state_dict() | {WEIGHT: value}, NETWORK)


def test_missing_and_unknown_names_are_refused():
    state = dict(NETWORK.state_dict())
    with pytest.raises(ValueError, match=r"it has an unknown 9\.weight"):
        check_module(state | {"9.weight": torch.zeros(1)}, NETWORK)
    del state[WEIGHT]
    with pytest.raises(ValueError, match=r"it lacks 0\.weight"):
        check_module(state, NETWORK)
    with pytest.raises(ValueError, match="the weights are a value of type int"):
        check_module(3, NETWORK)


def changed(state: dict[str, Any], change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    copied = copy.deepcopy(state)
    change(copied)
    return copied


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s["state"][0].update(exp_avg=torch.zeros(1)), "exp_avg of parameter 0 has shape"),
        (lambda s: s["state"][0].update(exp_avg_sq=torch.full((4, 3), float("inf"))), "not finite"),
        (lambda s: s["state"][1].update(step=5), "step of parameter 1 is a value of type int"),
        (lambda s: s["state"][1].pop("exp_avg"), "state of parameter 1 is not exp_avg, exp_avg_sq, step"),
        (lambda s: s["state"].update({9: s["state"][0]}), "state of parameter 9 is not"),
        (lambda s: s["state"].update({"0": s["state"][0]}), "state of parameter '0' is not"),
        (lambda s: s["state"].update({0: 3}), "state of parameter 0 is not"),
        (lambda s: s.pop("state"), "expected its state and its groups"),
        (lambda s: s["param_groups"].append({}), "2 groups of parameters, expected 1"),
        (lambda s: s["param_groups"][0].update(params=[0, 0, 0, 0]), "not of the 4 parameters"),
        (lambda s: s["param_groups"][0].update(betas=(0.5, 2.0)), "the optimizer's betas is"),
        (lambda s: s["param_groups"][0].update(weight_decay=torch.ones(3)), "the optimizer's weight_decay is"),
        (lambda s: s["param_groups"][0].update(maximize=1), "the optimizer's maximize is a value of type int 1"),
    ],
)  # fmt: skip
def test_an_optimizers_state_that_is_not_exactly_its_own_is_refused(change, says):
    state = stepped(adam())
    with pytest.raises(ValueError, match=says):
        check_optimizer(changed(state, change), adam(), scheduled=False)


def test_an_optimizer_that_begins_with_a_momentum_for_every_parameter_needs_it_from_a_checkpoint():
    optimizer = sgd()
    whole = stepped(optimizer)
    with pytest.raises(ValueError, match="lacks the state of parameter 2"):
        check_optimizer(changed(whole, lambda s: s["state"].pop(2)), optimizer, scheduled=True)
