"""An update of alpha: what moves in the state, and the multipliers that follow alpha."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.data import Batch
from engine.distributed import ALONE
from search.config import Lagrangian
from search.limits import resolve
from search.objective import Dual, expected_cost, movable
from search.plan import Plan
from search.state import SearchState
from search.update import ArchitectureUpdate
from supernet.alpha import mask_of, probabilities
from supernet.space import Space


@pytest.fixture
def plan_of(make_search_file, tmp_path):
    """plan_of(search): of a tiny space under limits on MACs and parameters."""

    def make(**search: object) -> Plan:
        limits = [{"metric": "macs", "at": "40%"}, {"metric": "params", "below": "60%"}]
        config = make_search_file(limits, search={"epochs": 4, "warmup_epochs": 1, "batch_size": 8, **search})
        resolved = resolve(config, tmp_path / "search.yaml")
        images = range(80)
        return Plan(resolved.config, resolved.space, resolved.limits, torch.device("cpu"), images, images)

    return make


def batch(space: Space, seed: int = 0) -> Batch:
    draws = torch.Generator().manual_seed(seed)
    shape = (8, space.config.input_channels, space.config.input_size, space.config.input_size)
    return Batch(torch.randn(shape, generator=draws), torch.arange(8) % space.config.classes)


@pytest.mark.parametrize("search", [{"arch_update": "two_path"}, {"arch_update": "full_v2"}], ids=str)
def test_multipliers_follow_the_alpha_that_has_moved(plan_of, search):
    plan = plan_of(arch_lr=0.05, **search)
    state, update = SearchState.fresh(plan.config, plan.space, plan.device), ArchitectureUpdate(plan, ALONE)
    for i in range(4):
        before, duals = state.alpha.detach().clone(), state.duals
        done = update.step(state, batch(plan.space, i))
        assert not torch.equal(before, state.alpha)
        assert state.arch_steps == i + 1
        p = probabilities(state.alpha.detach(), mask_of(plan.space))
        for old, new, limit in zip(duals, state.duals, plan.limits, strict=True):
            c = float(expected_cost(p, limit.cost)) / limit.bound - 1
            expected = Dual(old.multiplier).step(c, movable(p), Lagrangian(), 0.05, at=limit.at)
            assert new.multiplier == expected.multiplier
            assert new.cost_norm > 0
        assert done.norms is not None
        assert min(done.norms) > 0
        assert done.figures.keys() == {"arch/ce"}
    assert state.duals[0].multiplier != 0


@pytest.mark.parametrize("mode", ["two_path", "full_v2"])
def test_gate_gradient_is_of_the_steps_own_and_absent_is_the_published_one(plan_of, mode):
    """The same draws and the same batch; alpha after three steps, for Adam's first is of the gradient's sign alone."""
    alphas = {}
    for order in (None, "first_order", "second_order"):
        plan = plan_of(arch_update=mode, gate_gradient=order, arch_lr=0.05)
        state, update = SearchState.fresh(plan.config, plan.space, plan.device), ArchitectureUpdate(plan, ALONE)
        for i in range(3):
            update.step(state, batch(plan.space, i))
        alphas[order] = state.alpha.detach()
    assert torch.equal(alphas[None], alphas["first_order"])
    assert not torch.equal(alphas["first_order"], alphas["second_order"])


def test_the_same_step_draws_the_same(plan_of):
    plan = plan_of(arch_update="two_path")
    update = ArchitectureUpdate(plan, ALONE)
    one, two = (SearchState.fresh(plan.config, plan.space, plan.device) for _ in range(2))
    assert update.step(one, batch(plan.space)) == update.step(two, batch(plan.space))
    assert torch.equal(one.alpha, two.alpha)
    two.arch_steps = 0
    assert update.step(one, batch(plan.space)) != update.step(two, batch(plan.space))


REINFORCE = {"arch_update": "reinforce", "arch_lr": 0.05}


def test_reinforce_carries_its_baseline_and_begins_with_a_step_that_only_sets_it(plan_of):
    plan = plan_of(**REINFORCE, reinforce={"samples": 3, "baseline": "moving_average"})
    state, update = SearchState.fresh(plan.config, plan.space, plan.device), ArchitectureUpdate(plan, ALONE)
    done = update.step(state, batch(plan.space))
    assert state.baseline == done.figures["arch/reward"]
    assert torch.count_nonzero(state.alpha.detach()[mask_of(plan.space)]) == 0
    assert done.norms is None
    first = state.baseline
    update.step(state, batch(plan.space, 1))
    assert state.baseline != first
    assert state.duals == (Dual(), Dual())  # the limits are in the reward


def test_under_the_lagrangian_multipliers_follow_even_where_all_samples_are_equally_good(plan_of, monkeypatch):
    """No advantage, no policy gradient: the limits move alpha alone, so their multipliers have to follow."""
    plan = plan_of(**REINFORCE, reinforce={"samples": 4, "baseline": "leave_one_out", "limits": "lagrangian"})
    state, update = SearchState.fresh(plan.config, plan.space, plan.device), ArchitectureUpdate(plan, ALONE)
    monkeypatch.setattr(state.net, "forward", lambda images, paths: torch.zeros(len(images), 4))
    before = state.alpha.detach().clone()
    done = update.step(state, batch(plan.space))
    assert done.figures["arch/gradient"] == 0
    assert not torch.equal(before, state.alpha)
    p = probabilities(state.alpha.detach(), mask_of(plan.space))
    c = float(expected_cost(p, plan.limits[0].cost)) / plan.limits[0].bound - 1
    assert state.duals[0].multiplier == pytest.approx(float(np.clip(Lagrangian().dual_rate * 0.05 * c, -10, 10)))
    assert done.norms is not None
    assert (done.norms[0], done.norms[1] > 0) == (0, True)
