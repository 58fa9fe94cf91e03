"""Tests the expected cost, the loss forms, and the gradient of the whole loss."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from search.learn.forms import FORMS, ExpectedCost, Projection
from search.learn.gradient import softmax_jacobian
from search.learn.objective import Objective, alpha_gradient, expected_cost
from search.limits.combine import WorstCase
from supernet.alpha import Alpha

LOSSES = [form() for form in FORMS.values()]


def at_share(limit, share):
    """A limit whose expected cost is this share of its bound."""
    return ExpectedCost(share * limit.bound, limit.bound, limit.kind)


def test_expected_cost_at_one_hot_alpha_is_the_tables_sum(space, make_cost):
    cost = make_cost(space, 0)
    rng = np.random.default_rng(0)
    for _ in range(10):
        paths = tuple(int(i) for i in rng.integers(space.mask.sum(axis=1)))
        alpha = torch.full(space.mask.shape, -1000.0)
        alpha[range(len(paths)), list(paths)] = 1000.0
        expected = expected_cost(Alpha.of_space(space, alpha).probabilities(), cost)
        assert float(expected) == pytest.approx(cost.of(paths), rel=1e-12)


def test_expected_cost_is_the_expectation_over_all_architectures(space, make_cost):
    cost = make_cost(space, 1)
    p = Alpha.of_space(space, torch.randn(space.mask.shape, generator=torch.Generator().manual_seed(0))).probabilities()
    total = 0.0
    for paths in np.ndindex(*space.mask.sum(axis=1)):
        probability = float(torch.stack([p[e, i] for e, i in enumerate(paths)]).prod())
        total += probability * cost.of(tuple(int(i) for i in paths))
    assert float(expected_cost(p, cost)) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.form)
@pytest.mark.parametrize("at", [True, False])
@pytest.mark.parametrize("share", [0.8, 0.9985, 1.0005, 1.3])
def test_slopes_are_the_derivatives_of_the_loss_in_expected_cost_and_cross_entropy(
    space, make_cost, make_limit, loss, at, share
):
    limit = make_limit(make_cost(space, 0), 0.5, at=at)
    here, h, ce = at_share(limit, share), 1e-6, 1.7
    up, down = (loss.value(ce, [replace(here, expected=here.expected + shift)]) for shift in (h, -h))
    assert loss.slopes(ce, [here]).limits == pytest.approx(((up - down) / (2 * h),), rel=1e-4, abs=1e-9)
    up, down = (loss.value(ce + shift, [here]) for shift in (h, -h))
    assert loss.slopes(ce, [here]).ce == pytest.approx((up - down) / (2 * h), rel=1e-4)


def test_a_higher_cost_is_never_rewarded_and_a_hinge_has_no_slope_below_its_bound(space, make_cost, make_limit):
    limit = make_limit(make_cost(space, 0), 0.5)
    for loss in LOSSES[:3]:
        assert loss.slopes(1.0, [at_share(limit, 1.1)]).limits[0] > 0
        (below,) = loss.slopes(1.0, [at_share(limit, 0.9)]).limits
        assert (below == 0) if loss.form == "hinge" else (below > 0)


def autograds(p, cost):
    """E of each member by itself, and the largest."""
    return torch.stack(
        [m.fixed + (p * torch.from_numpy(m.table)).sum() for m in getattr(cost, "members", [cost])]
    ).max()


@pytest.mark.parametrize("loss", LOSSES[:3], ids=lambda loss: loss.form)
@pytest.mark.parametrize("devices", [1, 3])
def test_alpha_gradient_is_autograds_gradient_of_the_whole_loss(space, make_cost, make_limit, loss, devices):
    """The cross entropy is linear in p here. The test compares both terms, and the factor of the cross entropy in
    mul_log, with autograd; for a worst case too."""
    costs = tuple(make_cost(space, 2 + k) for k in range(devices))
    limit, mask = make_limit(costs[0] if devices == 1 else WorstCase(costs), 0.4), torch.from_numpy(space.mask)
    alpha = torch.randn(mask.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    slopes = torch.randn(mask.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * mask
    p = Alpha(alpha, mask).probabilities()
    ce, E = 3.0 + (p * slopes).sum(), autograds(p, limit.cost)
    if loss.form == "mul_log":
        value = loss.scale * ce * (E.log() / np.log(limit.bound)) ** loss.power
    else:
        c = E / limit.bound - 1
        value = ce + loss.weight * (c.clamp_min(0) if loss.form == "hinge" else c)
    (expected,) = torch.autograd.grad(value, [alpha])
    jacobian = partial(softmax_jacobian, p=p.detach())
    computed = alpha_gradient(jacobian(slopes), ce.item(), p.detach(), Objective([limit], loss), jacobian).gradient
    torch.testing.assert_close(computed, expected, rtol=1e-9, atol=1e-12)


def test_under_projection_the_gradient_is_that_of_the_cross_entropy(space, make_cost, make_limit):
    limit, mask = make_limit(make_cost(space, 2), 0.4), torch.from_numpy(space.mask)
    p = Alpha.of_space(space, torch.randn(mask.shape, generator=torch.Generator().manual_seed(0))).probabilities()
    from_ce = torch.randn(mask.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * mask
    computed = alpha_gradient(from_ce, 1.7, p, Objective([limit], Projection()), partial(softmax_jacobian, p=p))
    assert torch.equal(computed.gradient, from_ce)
    assert (computed.ce_norm, computed.limits_norm) == (float(from_ce.norm()), 0.0)
