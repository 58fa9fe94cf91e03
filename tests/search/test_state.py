"""The state of a search survives a checkpoint; its optimizer is SGD as torch's loop computes it, on sampled paths."""

from __future__ import annotations

import copy
import random
from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F

from engine.errors import CheckpointError
from search.collapse import Settled
from search.config import SearchConfig
from search.objective import Dual
from search.state import SearchState, weights_optimizer
from supernet.supernet import Supernet

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")],
    ),
]


def train(space, device, steps, make_optimizer):
    """A supernet after as many weights steps on random paths, its optimizer. No step moves what it left out."""
    torch.manual_seed(0)
    net = Supernet(space, seed=1).to(device=device, memory_format=torch.channels_last)
    optimizer = make_optimizer(net)
    images, labels = torch.randn(8, 1, 8, 8, device=device), torch.arange(8, device=device) % 4
    draw = random.Random(2)
    for step in range(steps):
        paths = tuple(draw.randrange(len(edge.candidates)) for edge in space.searchable)
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (1 + step)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(images, paths), labels).backward()
        idle = [p for p in net.parameters() if p.grad is None]
        assert idle
        before = [(p.detach().clone(), momentum_of(optimizer, p)) for p in idle]
        optimizer.step()
        for p, (value, momentum) in zip(idle, before, strict=True):
            assert p.equal(value)
            assert momentum_of(optimizer, p).equal(momentum)
    return net, optimizer


def momentum_of(optimizer, p):
    momentum = optimizer.state[p].get("momentum_buffer") if p in optimizer.state else None
    return torch.zeros_like(p) if momentum is None else momentum.clone()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_the_optimizer_is_torchs_loop_over_sampled_paths(space, device, momentum):
    settings = SearchConfig(momentum=momentum, weight_decay=0.05)

    def loop(net):
        return torch.optim.SGD(
            net.parameters(), lr=1.0, momentum=momentum, nesterov=momentum > 0, weight_decay=0.05, foreach=False
        )

    expected, plain = train(space, device, 12, loop)
    net, optimizer = train(space, device, 12, lambda net: weights_optimizer(net, settings))
    moved = 0.0
    for (name, p), q, start in zip(
        net.named_parameters(), expected.parameters(), Supernet(space, seed=1).parameters(), strict=True
    ):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
        torch.testing.assert_close(momentum_of(optimizer, p), momentum_of(plain, q), rtol=1e-4, atol=1e-5)
        moved = max(moved, float((p.detach().cpu() - start.detach()).abs().max()))
    assert moved > 0.01
    assert (len(optimizer.state_dict()["state"]) > 0) == (momentum > 0)


def test_a_checkpoint_forgets_nothing_of_the_state(space, make_search_file):
    """Every field that is no module or optimizer is set to another value, saved, and restored into a fresh state."""
    config = make_search_file([{"metric": "macs", "at": "50%"}])
    state, fresh = (SearchState.fresh(config, space, torch.device("cpu")) for _ in range(2))
    with torch.no_grad():
        state.alpha.add_(1.0)
    changed = {
        "duals": (Dual(multiplier=2.5),),
        "baseline": 0.25,
        "step": 7,
        "arch_steps": 3,
        "settled": Settled(((0.5, 0.25, 0.25),) * 4, 5),
        "told": {"skip": "collapsing"},
        "gradients": [(0.5, 0.25)],
    }
    for name, value in changed.items():
        assert getattr(fresh, name) != value
        setattr(state, name, value)
    fresh.restore(state.to_checkpoint())
    assert {name: getattr(fresh, name) for name in changed} == changed
    assert torch.equal(fresh.alpha, state.alpha)
    assert {f.name for f in fields(SearchState)} == {"net", "optimizer", "alpha", "arch_optimizer", *changed}


def altered(state: SearchState, change) -> dict:
    checkpoint = copy.deepcopy(state.to_checkpoint())
    change(checkpoint)
    return checkpoint


NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.update(alpha=torch.zeros(1, 3)), r"alpha has shape \(1, 3\) of float32, expected \(4, 3\)"),
        (lambda c: c.update(alpha=torch.zeros(3)), "alpha has shape"),
        (lambda c: c.update(alpha=torch.zeros(4, 3, dtype=torch.float64)), "alpha has shape .* of float64"),
        (lambda c: c.update(alpha=torch.full((4, 3), NAN)), "alpha has values that are not finite"),
        (lambda c: c["net"].update({"stem.conv.weight": torch.zeros(1)}), "stem.conv.weight has shape"),
        (lambda c: c["optimizer"]["state"][0].update(momentum_buffer=torch.zeros(1)), "momentum_buffer of parameter 0"),
        (lambda c: c["optimizer"]["state"].pop(3), "the optimizer lacks the state of parameter 3"),
        (lambda c: c["optimizer"]["param_groups"][0].update(momentum=0.5), "the optimizer's momentum is"),
        (lambda c: c["arch_optimizer"]["param_groups"][0].update(lr=1e9), "the optimizer's lr is"),
        (lambda c: c["arch_optimizer"]["state"].update({0: dict.fromkeys(("step", "exp_avg", "exp_avg_sq"),
                                                            torch.tensor(1.0))}), "exp_avg of parameter 0"),
        (lambda c: c.update(step=-1), "step"),
        (lambda c: c.update(step=7.0), "step"),
        (lambda c: c.update(step=True), "step"),
        (lambda c: c.update(step=10**30, arch_steps=10**31), "arch_steps|step|more than"),
        (lambda c: c.update(arch_steps=8), "counts more than the 7 steps"),
        (lambda c: c.update(arch_steps="3"), "arch_steps"),
        (lambda c: c.update(settled={"anchor": ((0.5, 0.5),), "since": 5}), "settled.anchor has another shape"),
        (lambda c: c.update(settled={"anchor": ((0.5,), (0.5, 0.5)), "since": 5}), "settled"),
        (lambda c: c["settled"].update(since=8), "counts more than the 7 steps"),
        (lambda c: c["settled"].update(since=-8), "settled.since"),
        (lambda c: c.update(settled=[1]), "settled"),
        (lambda c: c.update(told=["skip"]), "told"),
        (lambda c: c.update(told={"skip": 3}), "told"),
        (lambda c: c.update(gradients=[(0.5,)]), "gradients"),
        (lambda c: c.update(gradients=[("a", 0.5)]), "gradients"),
        (lambda c: c.update(gradients=torch.zeros(2)), "Tensor"),
        (lambda c: c.update(duals=[]), "it has 0 multipliers, expected 1"),
        (lambda c: c["duals"][0].update(multiplier=NAN), "duals.0.multiplier"),
        (lambda c: c["duals"][0].update(more=1.0), "more"),
        (lambda c: c["duals"][0].pop("ce_norm"), "ce_norm"),
        (lambda c: c.update(baseline="high"), "baseline"),
        (lambda c: c.pop("baseline"), "baseline"),
        (lambda c: c.pop("net"), "the checkpoint has no 'net'"),
    ],
)  # fmt: skip
def test_a_state_that_is_not_exactly_of_this_search_is_refused_and_leaves_the_other_as_it_was(
    space, make_search_file, change, says
):
    config = make_search_file([{"metric": "macs", "at": "50%"}])
    state, fresh = (SearchState.fresh(config, space, torch.device("cpu")) for _ in range(2))
    state.step, state.arch_steps, state.settled = 7, 3, Settled(((0.5, 0.25, 0.25),) * 4, 5)
    with torch.no_grad():
        state.alpha.add_(1.0)
    with pytest.raises(CheckpointError, match=says) as error:
        fresh.restore(altered(state, change))
    assert "\n" not in str(error.value)
    assert fresh.step == 0
    assert torch.equal(fresh.alpha, torch.zeros(4, 3))
    fresh.restore(state.to_checkpoint())
