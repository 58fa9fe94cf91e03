"""The state of a search survives a checkpoint; its optimizer is SGD as torch's loop computes it, on sampled paths."""

from __future__ import annotations

import random
from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F

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
