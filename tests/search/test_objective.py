"""Expected cost, loss forms, and the controller of the lagrangian form."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from search.combine import WorstCase, members
from search.config import AddLinear, Hinge, Lagrangian, MulLog
from search.gradient import pair_jacobian, restore_unsampled, second_order, second_order_pair, softmax_jacobian
from search.limits import Limit
from search.objective import Dual, Objective, alpha_gradient, expected_cost, loss_value, movable, slope
from supernet.alpha import mask_of, probabilities, sample_pairs, sample_paths
from supernet.cost import Cost

LOSSES = [AddLinear(form="add_linear"), Hinge(form="hinge"), MulLog(form="mul_log"), Lagrangian(form="lagrangian")]


def test_expected_cost_at_one_hot_alpha_is_the_tables_sum(space, make_cost):
    cost = make_cost(space, 0)
    rng = np.random.default_rng(0)
    for _ in range(10):
        paths = tuple(int(i) for i in rng.integers(space.mask.sum(axis=1)))
        alpha = torch.full(space.mask.shape, -1000.0)
        alpha[range(len(paths)), list(paths)] = 1000.0
        expected = expected_cost(probabilities(alpha, mask_of(space)), cost)
        assert float(expected) == pytest.approx(cost.of(paths), rel=1e-12)


def test_expected_cost_is_the_expectation_over_all_architectures(space, make_cost):
    cost = make_cost(space, 1)
    p = probabilities(torch.randn(space.mask.shape, generator=torch.Generator().manual_seed(0)), mask_of(space))
    total = 0.0
    for paths in np.ndindex(*space.mask.sum(axis=1)):
        probability = float(torch.stack([p[e, i] for e, i in enumerate(paths)]).prod())
        total += probability * cost.of(tuple(int(i) for i in paths))
    assert float(expected_cost(p, cost)) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.form)
@pytest.mark.parametrize("at", [True, False])
@pytest.mark.parametrize("share", [0.8, 0.9985, 1.0005, 1.3])
def test_slope_is_the_derivative_of_the_loss_in_expected_cost(space, make_cost, make_limit, loss, at, share):
    limit = make_limit(make_cost(space, 0), 0.5, at=at)
    dual = Dual(multiplier=0.3, ce_norm=2.0, cost_norm=5.0)
    E, h, ce = share * limit.bound, 1e-6, 1.7
    values = [loss_value(loss, [limit], [E + shift], ce, [dual]) for shift in (h, -h)]
    assert slope(loss, limit, E, ce, dual) == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-4, abs=1e-9)


def test_below_never_rewards_a_higher_cost_and_at_does(space, make_cost, make_limit):
    cost, loss = make_cost(space, 0), Lagrangian()
    for at in (True, False):
        limit = make_limit(cost, 0.5, at=at)
        value = slope(loss, limit, 0.9 * limit.bound, 1.0, Dual(0.0, 1.0, 1.0))
        assert (value < 0) if at else (value == 0)


def test_multiplier_stays_where_expected_cost_cannot_move():
    settled = torch.tensor([[0.999, 0.001], [0.995, 0.005]], dtype=torch.float64)
    assert not movable(settled)
    assert movable(torch.tensor([[0.98, 0.02], [0.999, 0.001]], dtype=torch.float64))
    dual = Dual(multiplier=0.5)
    assert dual.step(0.3, False, Lagrangian(), 1e-3, at=True) == dual
    assert dual.step(0.3, True, Lagrangian(), 1e-3, at=True).multiplier > 0.5


def test_multiplier_respects_its_clip():
    loss = Lagrangian(clip=1.0)
    assert Dual(1.0).step(5.0, True, loss, 1.0, at=True).multiplier == 1.0
    assert Dual(-1.0).step(-5.0, True, loss, 1.0, at=True).multiplier == -1.0
    assert Dual(0.0).step(-5.0, True, loss, 1.0, at=False).multiplier == 0.0


def mobile_like_cost(seed: int = 7) -> Cost:
    """21 edges of 7 candidates, 15 with skip, with the proportions of a phone's table."""
    rng = np.random.default_rng(seed)
    mask = np.ones((21, 7), dtype=bool)
    mask[[0, 4, 8, 12, 16, 20], 6] = False
    base = np.array([1.0, 2.0, 1.15, 2.25, 1.4, 2.6, 0.0])
    table = base * rng.uniform(1.5, 8.0, size=(21, 1)) * rng.uniform(0.95, 1.05, size=(21, 7))
    return Cost(11.0, np.where(mask, table, 0.0), mask)


SCALES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
TARGETS = [(0.05 + 0.9 * i / 19, SCALES[i % 5]) for i in range(20)]
CASES = [*((*case, "first_order") for case in TARGETS), *((*case, "second_order") for case in TARGETS[::3])]


def violations(limits, mode, order, scale, seed, steps=2000):
    """(steps, limits): c = E/T - 1 after each architecture step, under a CE of random slopes of this scale."""
    loss, arch_lr, mask = Lagrangian(), 0.01, torch.from_numpy(members(limits[0].cost)[0].mask)
    draws = torch.Generator().manual_seed(seed)
    preference = scale * torch.randn(mask.shape, generator=draws)
    alpha = torch.zeros(mask.shape, requires_grad=True)
    optimizer = torch.optim.Adam([alpha], lr=arch_lr, betas=(0.0, 0.999))
    duals, found = tuple(Dual() for _ in limits), []
    for _ in range(steps):
        pair = sample_pairs(alpha, mask, draws)
        p = probabilities(alpha.detach(), mask)
        if mode == "two_path":
            jacobian, second = partial(pair_jacobian, sample=pair), partial(second_order_pair, sample=pair)
        else:
            active = torch.tensor(sample_paths(alpha.detach(), mask, draws))
            jacobian, second = partial(softmax_jacobian, p=p), partial(second_order, p=p, active=active)
        d_ce = (preference + scale * torch.randn(mask.shape, generator=draws)) * mask  # with a minibatch's noise
        from_ce = (jacobian if order == "first_order" else second)(d_ce.double())
        step = alpha_gradient(from_ce, 1.0, p, Objective(limits, loss, duals), jacobian)
        before = alpha.detach().clone()
        alpha.grad = step.gradient.float()
        optimizer.step()
        if mode == "two_path":
            restore_unsampled(alpha, before, pair.pairs)
        p = probabilities(alpha.detach(), mask)
        found.append([float(expected_cost(p, limit.cost)) / limit.bound - 1 for limit in limits])
        duals = tuple(
            dual.step(c, movable(p), loss, arch_lr, at=limit.at)
            for dual, c, limit in zip(step.duals, found[-1], limits, strict=True)
        )
    return np.array(found)


def a_limit(cost: Cost | WorstCase, share: float, *, at: bool = True) -> Limit:
    low, high = cost.reachable
    return Limit("latency", low + share * (high - low), at, 0.02, cost)


@pytest.mark.parametrize("mode", ["two_path", "full_v2"])
@pytest.mark.parametrize(("share", "scale", "order"), CASES)
def test_controller_meets_every_target_whatever_the_scale_of_ce(mode, share, scale, order):
    """|E - T| / T <= 1 %, mean of the last 20 % of steps, same settings for 20 targets and CE scales of 1e-3 to 10."""
    found = violations([a_limit(mobile_like_cost(), share)], mode, order, scale, seed=int(1000 * share))
    assert np.abs(found[-400:]).mean() <= 0.01


ONE, OTHER = mobile_like_cost(7), mobile_like_cost(8)
SEVERAL = {
    "below": [a_limit(ONE, 0.3, at=False)],
    "at and at": [a_limit(ONE, 0.5), a_limit(OTHER, 0.45)],
    "at and below": [a_limit(ONE, 0.5), a_limit(OTHER, 0.4, at=False)],
    "worst case": [a_limit(WorstCase((ONE, OTHER)), 0.4)],
}


@pytest.mark.parametrize("mode", ["two_path", "full_v2"])
@pytest.mark.parametrize("scale", [1e-2, 1.0])
@pytest.mark.parametrize("name", SEVERAL)
def test_every_limit_has_a_multiplier_that_brings_it_to_its_bound(name, mode, scale):
    """`at` within 1 % of its bound, `below` at most 1 % above it, both in the mean of the last 20 % of steps."""
    limits = SEVERAL[name]
    last = violations(limits, mode, "first_order", scale, seed=3)[-400:]
    for c, limit in zip(last.T, limits, strict=True):
        assert np.mean(np.abs(c) if limit.at else c.clip(min=0)) <= 0.01


@pytest.mark.parametrize("loss", LOSSES[:3], ids=lambda loss: loss.form)
def test_alpha_gradient_is_autograds_gradient_of_the_whole_loss(space, make_cost, make_limit, loss):
    """With CE linear in p, both terms and CE's own factor (mul_log) against autograd."""
    limit, mask = make_limit(make_cost(space, 2), 0.4), mask_of(space)
    alpha = torch.randn(mask.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    slopes = torch.randn(mask.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * mask
    p = probabilities(alpha, mask)
    ce, E = 3.0 + (p * slopes).sum(), expected_cost(p, limit.cost)
    if loss.form == "mul_log":
        value = loss.scale * ce * (E.log() / np.log(limit.bound)) ** loss.power
    else:
        c = E / limit.bound - 1
        value = ce + loss.weight * (c.clamp_min(0) if loss.form == "hinge" else c)
    (expected,) = torch.autograd.grad(value, [alpha])
    jacobian = partial(softmax_jacobian, p=p.detach())
    objective = Objective([limit], loss, (Dual(),))
    found = alpha_gradient(jacobian(slopes), ce.item(), p.detach(), objective, jacobian).gradient
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
