"""Tests that a checkpoint restores the state of a search, and that its optimizer equals torch's on sampled paths."""

from __future__ import annotations

import copy
import random
from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F

from engine.errors import CheckpointError
from engine.training import split_decay
from search.config import SearchSettings
from search.learn.collapse import Settled
from search.learn.forms import Projection
from search.learn.regression import Evidence
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
    """Returns a supernet after as many weights steps on random paths, and its optimizer. Checks that no step moves the
    weights of paths that it did not run."""
    torch.manual_seed(0)
    # float64: AdamW takes whole steps along gradients that are rounding errors
    net = Supernet(space, seed=1).double().to(device=device, memory_format=torch.channels_last)
    optimizer = make_optimizer(net)
    images, labels = torch.randn(8, 1, 8, 8, device=device, dtype=torch.float64), torch.arange(8, device=device) % 4
    draw = random.Random(2)
    for step in range(steps):
        paths = tuple(draw.randrange(len(edge.candidates)) for edge in space.searchable)
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (1 + step)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(images, paths), labels).backward()
        idle = [p for p in net.parameters() if p.grad is None]
        assert idle
        before = [(p.detach().clone(), moments_of(optimizer, p)) for p in idle]
        optimizer.step()
        for p, (value, moments) in zip(idle, before, strict=True):
            assert p.equal(value)
            assert all(map(torch.equal, moments_of(optimizer, p), moments))
    return net, optimizer


def moments_of(optimizer, p):
    """Returns the moments that an optimizer keeps for a parameter; zeros if it has made no step."""
    slots = ["exp_avg", "exp_avg_sq"] if isinstance(optimizer, torch.optim.AdamW) else ["momentum_buffer"]
    kept = [optimizer.state[p].get(slot) if p in optimizer.state else None for slot in slots]
    return [torch.zeros_like(p) if value is None else value.clone() for value in kept]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "settings",
    [{"optimizer": "sgd"}, {"optimizer": "sgd", "momentum": 0.0}, {"optimizer": "adamw"}],
    ids=["nesterov", "sgd", "adamw"],
)
def test_the_fused_optimizer_equals_torchs_loop_on_sampled_paths(space, device, settings):
    settings = SearchSettings(**settings, weight_decay=0.05)

    def loop(net):
        if settings.optimizer == "adamw":
            groups = split_decay(net, 0.05)
            return torch.optim.AdamW(groups, lr=1.0, foreach=False)
        m = settings.momentum
        return torch.optim.SGD(net.parameters(), lr=1.0, momentum=m, nesterov=m > 0, weight_decay=0.05, foreach=False)

    expected, plain = train(space, device, 12, loop)
    net, optimizer = train(space, device, 12, lambda net: weights_optimizer(net, settings))
    moved = 0.0
    for (name, p), q, start in zip(
        net.named_parameters(), expected.parameters(), Supernet(space, seed=1).parameters(), strict=True
    ):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
        for ours, theirs in zip(moments_of(optimizer, p), moments_of(plain, q), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        moved = max(moved, float((p.detach().cpu() - start.detach().double()).abs().max()))
    assert moved > 0.01
    keeps = settings.optimizer == "adamw" or settings.momentum > 0
    assert (len(optimizer.state_dict()["state"]) > 0) == keeps


def test_a_checkpoint_holds_every_field_of_the_state(space, make_search_file, monkeypatch):
    """Every field that is no module or optimizer is set to another value, saved, and restored into a fresh state."""
    monkeypatch.setattr(Projection, "keeps_duals", True)  # as no form does today
    config = make_search_file([{"metric": "macs", "at": "50%"}])
    state, fresh = (SearchState.fresh(config, space, torch.device("cpu")) for _ in range(2))
    state.alpha.values.add_(1.0)
    changed = {
        "pressures": (2.5,),
        "duals": (1.5,),
        "baseline": 0.25,
        "final_steps": 4,
        "step": 7,
        "arch_steps": 3,
        "settled": Settled(((0.5, 0.25, 0.25),) * 4, 5),
        "warned": {"skip": "collapsing"},
        "gradients": [(0.5, 0.25)],
        "kept": {"sums": [1.0]},
    }
    for name, value in changed.items():
        assert getattr(fresh, name) != value
        setattr(state, name, value)
    state.evidence = Evidence.none(4, 3).with_batch([(0, 1, 0, 2), (1, 0, 1, 0)], torch.tensor([1.0, 3.0]).double(), 3)
    fresh.restore(state.to_checkpoint())
    assert {name: getattr(fresh, name) for name in changed} == changed
    assert torch.equal(fresh.alpha.values, state.alpha.values)
    for name in ("squares", "products"):
        assert torch.equal(getattr(fresh.evidence, name), getattr(state.evidence, name))
    assert (fresh.evidence.energy, fresh.evidence.freedom) == (2.0, 1.0)
    tensors = {"net", "optimizer", "alpha", "arch_optimizer", "evidence"}
    assert {f.name for f in fields(SearchState)} == tensors | set(changed)


def state_of(make_search_file, space, **search):
    config = make_search_file([{"metric": "macs", "at": "50%"}], search={"epochs": 1, "batch_size": 8} | search)
    return SearchState.fresh(config, space, torch.device("cpu"))


HINGE = {"arch_update": "two_path", "loss": {"form": "hinge"}}


@pytest.mark.parametrize(
    ("saved", "resumed", "says"),
    [
        ({}, {"arch_update": "two_path"}, "it has evidence of a regression, unlike this search"),
        ({"arch_update": "two_path"}, {}, "it has no evidence of a regression, unlike this search"),
        ({"arch_update": "reinforce"}, {}, "it has no evidence of a regression, unlike this search"),
        ({"arch_update": "two_path"}, HINGE, "it has pressures of 1 limits, expected 0"),
        (HINGE, {"arch_update": "two_path"}, "it has pressures of 0 limits, expected 1"),
    ],
)
def test_a_checkpoint_of_another_mode_is_refused_in_one_line(space, make_search_file, saved, resumed, says):
    state, fresh = (state_of(make_search_file, space, **search) for search in (saved, resumed))
    with pytest.raises(CheckpointError, match=says) as error:
        fresh.restore(state.to_checkpoint())
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_an_earlier_version_with_a_published_loss_is_restored(space, make_search_file):
    """Such a checkpoint has multipliers, which the loss never used, and lacks the newer parts."""
    state, fresh = (state_of(make_search_file, space, **HINGE) for _ in range(2))
    state.step = 3
    earlier = state.to_checkpoint() | {"duals": [{"multiplier": 0.0, "ce_norm": 0.0, "cost_norm": 0.0}]}
    for key in ("pressures", "evidence", "final_steps"):
        del earlier[key]
    fresh.restore(earlier)
    assert (fresh.step, fresh.pressures, fresh.evidence, fresh.final_steps) == (3, (), None, 0)


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
        (lambda c: c["optimizer"]["state"][0].update(exp_avg_sq=torch.zeros(1)), "exp_avg_sq of parameter 0"),
        (lambda c: c["optimizer"]["state"].pop(3), "the optimizer lacks the state of parameter 3"),
        (lambda c: c["optimizer"]["param_groups"][0].update(eps=0.5), "the optimizer's eps is"),
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
        (lambda c: c.update(pressures=[]), "it has pressures of 0 limits, expected 1"),
        (lambda c: c.pop("pressures"), "it has pressures of 0 limits, expected 1"),
        (lambda c: c.update(pressures=[NAN]), "pressures.0"),
        (lambda c: c.update(pressures=["high"]), "pressures.0"),
        (lambda c: c.update(final_steps=-1), "final_steps"),
        (lambda c: c.update(final_steps=True), "final_steps"),
        (lambda c: c.update(arch_steps=10, final_steps=2), "counts more than the 7 steps"),
        (lambda c: c.pop("evidence"), "it has no evidence of a regression, unlike this search"),
        (lambda c: c.update(evidence=[1]), "its evidence is not that of a regression"),
        (lambda c: c["evidence"].pop("energy"), "its evidence is not that of a regression"),
        (lambda c: c["evidence"].update(energy=NAN), "evidence.energy is nan, expected a number of at least 0"),
        (lambda c: c["evidence"].update(freedom=-1.0), "evidence.freedom is -1.0, expected a number of at least 0"),
        (lambda c: c["evidence"].update(squares=torch.zeros(2, 2)), r"evidence.squares has shape \(2, 2\)"),
        (lambda c: c["evidence"].update(products=torch.full((12,), NAN, dtype=torch.float64)), "evidence.products has"),
        (lambda c: c.update(more=1), "more"),
        (lambda c: c.update(baseline="high"), "baseline"),
        (lambda c: c.pop("baseline"), "baseline"),
        (lambda c: c.pop("net"), "the checkpoint has no 'net'"),
    ],
)  # fmt: skip
def test_a_state_that_does_not_fit_this_search_is_refused_and_changes_nothing(space, make_search_file, change, says):
    config = make_search_file([{"metric": "macs", "at": "50%"}])
    state, fresh = (SearchState.fresh(config, space, torch.device("cpu")) for _ in range(2))
    state.step, state.arch_steps, state.settled = 7, 3, Settled(((0.5, 0.25, 0.25),) * 4, 5)
    state.alpha.values.add_(1.0)
    with pytest.raises(CheckpointError, match=says) as error:
        fresh.restore(altered(state, change))
    assert "\n" not in str(error.value)
    assert fresh.step == 0
    assert torch.equal(fresh.alpha.values, torch.zeros(4, 3))
    fresh.restore(state.to_checkpoint())
