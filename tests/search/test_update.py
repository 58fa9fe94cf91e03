"""Tests an update of alpha: the changes of the state, and the projection that follows in every mode."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from engine.data import Batch
from engine.distributed import ALONE
from engine.errors import UserError
from search.learn.objective import expected_cost
from search.learn.projection import Projector
from search.learn.regression import fit
from search.limits.combine import WorstCase
from search.limits.limit import AdditiveLimit
from search.limits.resolve import resolve
from search.plan import Plan
from search.state import SearchState
from search.update import ArchitectureUpdate
from supernet.alpha import Alpha
from supernet.space import Space

MACS, PARAMS = {"metric": "macs", "at": "40%"}, {"metric": "params", "below": "60%"}


@pytest.fixture
def plan_of(make_search_file, tmp_path):
    """plan_of(limits, **search) returns the plan of a tiny space; by default the limits are on MACs and parameters."""

    def make(limits=(MACS, PARAMS), space: dict[str, object] | None = None, **search: object) -> Plan:
        settings = {"epochs": 4, "warmup_epochs": 1, "batch_size": 8, **search}
        resolved = resolve(make_search_file(list(limits), space, search=settings), tmp_path / "search.yaml")
        images = range(80)
        return Plan(resolved.config, resolved.space, resolved.limits, torch.device("cpu"), images, images)

    return make


def begun(plan: Plan) -> tuple[SearchState, ArchitectureUpdate]:
    return SearchState.fresh(plan.config, plan.space, plan.device), ArchitectureUpdate(plan, ALONE)


def batch(space: Space, seed: int = 0) -> Batch:
    draws = torch.Generator().manual_seed(seed)
    shape = (8, space.config.input_channels, space.config.input_size, space.config.input_size)
    return Batch(torch.randn(shape, generator=draws), torch.arange(8) % space.config.classes)


def missed(alpha: Alpha, limit: AdditiveLimit) -> float:
    """Returns E/T - 1."""
    return float(expected_cost(alpha.probabilities(), limit.cost)) / limit.bound - 1


MODES = {
    "full": {"arch_update": "full"},
    "full_v2": {"arch_update": "full_v2"},
    "two_path": {"arch_update": "two_path"},
    "second_order": {"arch_update": "two_path", "gate_gradient": "second_order"},
    "moving_average": {"arch_update": "reinforce", "reinforce": {"samples": 2, "limits": "projection"}},
    "leave_one_out": {
        "arch_update": "reinforce",
        "reinforce": {"samples": 2, "limits": "projection", "baseline": "leave_one_out"},
    },
    "regression": {"arch_update": "regression", "regression": {"samples": 3}},
}
GRADIENTS = list(MODES)[:4]

LIMITS = {
    "at": [MACS],
    "below": [{"metric": "macs", "below": "20%"}],
    "at and at": [MACS, {"metric": "params", "at": "45%"}],
    "at and below": [MACS, {"metric": "params", "below": "35%"}],
    "worst case": [MACS, {"metric": "params", "below": "35%"}],
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("limits", LIMITS)
def test_every_limit_is_met_after_every_step(plan_of, make_cost, make_limit, mode, limits):
    """|E/T - 1| <= 1e-6 for `at`, and for a `below` that presses; no `below` is above its bound."""
    plan = plan_of(LIMITS[limits], arch_lr=0.5, **MODES[mode])
    if limits == "worst case":
        worst = make_limit(WorstCase((make_cost(plan.space, 1), make_cost(plan.space, 2))), 0.4)
        plan = replace(plan, limits=(worst, plan.limits[1]))
    state, update = begun(plan)
    assert not update.projector.loosened
    moved = 0
    for i in range(6):
        before, pressures = state.alpha.values.clone(), state.pressures
        done = update.step(state, batch(plan.space, i))
        moved += not torch.equal(before, state.alpha.values)
        assert state.alpha.values.dtype == torch.float32
        assert state.arch_steps == i + 1
        assert done.norms is None
        for limit, old, new in zip(plan.limits, pressures, state.pressures, strict=True):
            c = missed(state.alpha, limit)
            assert c <= 1e-6
            since = 0.0 if mode == "regression" else old  # whose alpha is made anew in each step
            assert limit.kind == "at" or new >= since
            assert c >= -1e-6 or (limit.kind == "below" and new == since)
    assert moved >= 3  # samples that are equally good move nothing
    assert state.pressures[0] != 0


@pytest.mark.parametrize("mode", GRADIENTS)
def test_a_step_equals_a_step_of_the_cross_entropy_followed_by_the_projection(plan_of, mode):
    """The same step without limits in the loss, followed by the projection, gives the same alpha; the pressures add
    up."""
    plan = plan_of(arch_lr=0.1, **MODES[mode])
    free = plan_of(arch_lr=0.1, **MODES[mode], loss={"form": "add_linear", "weight": 0.0})
    state, update = begun(plan)
    twin, unprojected = begun(free)
    project, total = Projector(plan.limits), (0.0, 0.0)
    for i in range(4):
        twin.alpha.values.copy_(state.alpha.values)
        update.step(state, batch(plan.space, i))
        unprojected.step(twin, batch(plan.space, i))
        projected = project(twin.alpha)
        assert torch.equal(state.alpha.values, projected.alpha.values.float())
        total = tuple(a + b for a, b in zip(total, projected.pressures, strict=True))
        assert state.pressures == total
    assert twin.pressures == ()


def test_the_pressure_of_a_regression_is_that_of_its_last_projection(plan_of):
    plan = plan_of(regression={"samples": 3})
    state, update = begun(plan)
    for i in range(4):
        update.step(state, batch(plan.space, i))
    effects = fit(state.evidence, state.alpha.mask, state.alpha.alike).alpha().float()
    projected = Projector(plan.limits)(state.alpha.with_values(effects))
    assert torch.equal(state.alpha.values, projected.alpha.values.float())
    assert state.pressures == projected.pressures


FIVE = ["mbconv_k3_e1", "mbconv_k3_e2", "mbconv_k5_e1", "conv_k3", "skip"]


def test_unsampled_candidates_of_two_path_move_by_the_tilt_alone(plan_of, make_tiny_config, monkeypatch):
    """Their log-odds change by the difference of their costs times tau, whatever the pair beside them does."""
    stages = [{"width": 4, "depth": 3, "candidates": FIVE}]
    plan = plan_of(space=make_tiny_config(stages=stages), arch_update="two_path", arch_lr=0.3, arch_betas=(0.9, 0.999))
    state, update = begun(plan)
    mask, drawn, real = state.alpha.mask, [], Alpha.sample_pairs

    def sampled(*arguments):
        drawn.append(real(*arguments))
        return drawn[-1]

    monkeypatch.setattr(Alpha, "sample_pairs", sampled)
    compared = 0
    for i in range(6):
        before, pressures = state.alpha.log_probabilities(), state.pressures
        update.step(state, batch(plan.space, i))
        tilt = sum(
            (new - old) * torch.from_numpy(limit.cost.table) / limit.bound
            for new, old, limit in zip(state.pressures, pressures, plan.limits, strict=True)
        )
        rest = state.alpha.log_probabilities() - before + tilt  # one number for each edge
        unsampled = mask & ~torch.zeros_like(mask).scatter(1, drawn[i].pairs, True)
        for row, others, pair in zip(rest, unsampled, drawn[i].pairs, strict=True):
            assert float(row[others].max() - row[others].min()) < 1e-5
            assert float((row[pair] - row[others][0]).abs().max()) > 1e-3  # the pair moves by more than that
            compared += int(others.sum()) - 1
    assert compared >= 6 * 3
    assert state.pressures[0] != 0


@pytest.mark.parametrize("mode", ["two_path", "full_v2"])
def test_other_forms_leave_the_limits_to_the_gradient(plan_of, mode):
    plan = plan_of(arch_update=mode, arch_lr=0.05, loss={"form": "add_linear"})
    state, update = begun(plan)
    done = update.step(state, batch(plan.space))
    assert update.projector is None
    assert state.pressures == ()
    assert abs(missed(state.alpha, plan.limits[0])) > 1e-3
    assert min(done.norms) > 0
    assert done.figures.keys() == {"arch/ce"}


@pytest.mark.parametrize("mode", ["two_path", "full_v2"])
def test_second_order_changes_a_step_and_the_default_is_first_order(plan_of, mode):
    """The draws and batches are the same. alpha is compared after three steps, since Adam's first step depends only on
    the sign of the gradient."""
    alphas = {}
    for order in (None, "first_order", "second_order"):
        plan = plan_of(arch_update=mode, gate_gradient=order, arch_lr=0.05)
        state, update = begun(plan)
        for i in range(3):
            update.step(state, batch(plan.space, i))
        alphas[order] = state.alpha.values
    assert torch.equal(alphas[None], alphas["first_order"])
    assert not torch.equal(alphas["first_order"], alphas["second_order"])


@pytest.mark.parametrize("mode", ["two_path", "regression"])
def test_two_updates_of_the_same_step_are_equal(plan_of, mode):
    plan = plan_of(**MODES[mode])
    (one, update), (two, _) = begun(plan), begun(plan)
    assert update.step(one, batch(plan.space)) == update.step(two, batch(plan.space))
    assert torch.equal(one.alpha.values, two.alpha.values)
    two.arch_steps = 0
    assert update.step(one, batch(plan.space)) != update.step(two, batch(plan.space))


REINFORCE = {"arch_update": "reinforce", "arch_lr": 0.05}


def test_reinforce_carries_its_baseline_and_begins_with_a_step_that_only_sets_it(plan_of):
    plan = plan_of(**REINFORCE, reinforce={"samples": 3, "baseline": "moving_average"})
    state, update = begun(plan)
    done = update.step(state, batch(plan.space))
    assert state.baseline == done.figures["arch/reward"]
    assert torch.count_nonzero(state.alpha.values[state.alpha.mask]) == 0
    assert done.norms is None
    first = state.baseline
    update.step(state, batch(plan.space, 1))
    assert state.baseline != first
    assert state.pressures == ()  # the limits are in the reward


def test_limits_are_met_even_if_all_samples_are_equally_good(plan_of, monkeypatch):
    """Without advantages the policy gradient is 0, so alpha is the projection of equal probabilities."""
    plan = plan_of(**REINFORCE, reinforce={"samples": 4, "baseline": "leave_one_out", "limits": "projection"})
    state, update = begun(plan)
    monkeypatch.setattr(state.net, "forward", lambda images, paths: torch.zeros(len(images), 4))
    done = update.step(state, batch(plan.space))
    assert done.figures["arch/gradient"] == 0
    assert torch.equal(state.alpha.values, update.projector(Alpha.of_space(plan.space)).alpha.values.float())
    assert abs(missed(state.alpha, plan.limits[0])) <= 1e-6


def test_old_evidence_fades_while_weights_learn_but_not_in_final_steps(plan_of):
    """Each step of 3 networks adds 2 degrees of freedom. The alpha that draws them does not change."""
    plan = plan_of(arch_update="regression", regression={"samples": 3, "memory": 5})
    state, update = begun(plan)
    drawn_from = update.estimator.drawn_from.values.clone()
    assert torch.equal(drawn_from, update.projector(Alpha.of_space(plan.space)).alpha.values)
    freedom = 0.0
    for i, final in enumerate([False, False, True, False]):
        done = update.step(state, batch(plan.space, i), final=final)
        freedom = freedom * (1 if final else math.exp(-1 / 5)) + 2
        assert state.evidence.freedom == pytest.approx(freedom, rel=1e-12)
        assert done.figures.keys() == {"arch/ce", "arch/effect", "arch/error", "arch/noise"}
    assert torch.equal(update.estimator.drawn_from.values, drawn_from)


def test_an_alpha_that_is_not_finite_is_refused_before_the_projection(plan_of):
    plan = plan_of(arch_update="two_path")
    state, update = begun(plan)
    with torch.no_grad():
        state.alpha.values[0, 0] = math.inf
    with pytest.raises(UserError, match=r"alpha is not finite at step 1: .* lower search\.arch_lr"):
        update.project(state)
    assert state.pressures == (0.0, 0.0)
