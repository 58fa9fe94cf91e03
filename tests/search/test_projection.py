"""Tests that the projection onto limits is the nearest distribution that meets them, and meets them exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import null_space
from scipy.optimize import minimize

from engine.errors import UserError
from search.derive.derivation import InfeasibleError
from search.learn.objective import expected_cost
from search.learn.projection import Projector, targets_of
from search.limits.combine import WorstCase, members
from supernet.alpha import Alpha
from supernet.cost import Cost


def random_alpha(mask, seed, scale=1.0):
    draws = torch.Generator().manual_seed(seed)
    return Alpha(scale * torch.randn(mask.shape, dtype=torch.float64, generator=draws), torch.from_numpy(mask))


def mobile_like_cost(seed: int, spread: float = 1.0) -> Cost:
    """21 edges of 7 candidates, 15 with skip; the entries of an edge lie within `spread` decades."""
    rng = np.random.default_rng(seed)
    mask = np.ones((21, 7), dtype=bool)
    mask[[0, 4, 8, 12, 16, 20], 6] = False
    table = rng.uniform(1.5, 8.0, (21, 1)) * 10 ** rng.uniform(-spread, 0, (21, 7))
    table[:, 6] = 0.0
    return Cost(11.0, table, mask)


def errors(p, limits):
    """Returns E / T - 1 of each limit."""
    return [float(expected_cost(p, limit.cost)) / limit.bound - 1 for limit in limits]


def divergence(q, p):
    """Returns KL(q || p) in nats."""
    return float(torch.special.xlogy(q, q / p.clamp_min(1e-300)).sum())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kinds", [(True,), (False,), (True, False), (True, True)], ids=str)
def test_the_projection_is_the_minimum_that_a_general_solver_finds(space, make_cost, make_limit, seed, kinds):
    """SLSQP minimises KL over all entries of q, without the form of a tilt."""
    limits = [make_limit(make_cost(space, 10 * seed + k), (0.35, 0.5)[k], at=at) for k, at in enumerate(kinds)]
    alpha = random_alpha(space.mask, seed)
    p, real = alpha.probabilities(), space.mask
    edge, log_p = np.nonzero(real)[0], p.log().numpy()[real]
    sums = np.eye(len(real))[edge].T
    constraints = [{"type": "eq", "fun": lambda q: sums @ q - 1, "jac": lambda q: sums}]
    for limit in limits:
        F, T = limit.cost.table[real], limit.bound - limit.cost.fixed
        constraints.append(
            {
                "type": "eq" if limit.kind == "at" else "ineq",
                "fun": lambda q, F=F, T=T: T - F @ q,
                "jac": lambda q, F=F: -F,
            }
        )
    solution = minimize(
        lambda q: float(np.sum(q * (np.log(q) - log_p))), np.full(len(edge), 0.3), bounds=[(1e-12, 1)] * len(edge),
        jac=lambda q: np.log(q) - log_p + 1, constraints=constraints, method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 1000},
    )  # fmt: skip
    assert solution.success
    q = Projector(limits)(alpha).alpha.probabilities()
    np.testing.assert_allclose(q.numpy()[real], solution.x, atol=2e-6)
    assert divergence(q, p) == pytest.approx(solution.fun, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_every_other_distribution_at_the_targets_is_farther(space, make_cost, make_limit, seed):
    """Steps from q along random directions that keep sum_i q_e,i and both expectations."""
    mask, draws = space.mask, torch.Generator().manual_seed(seed)
    limits = [make_limit(make_cost(space, seed), 0.5), make_limit(make_cost(space, seed + 50), 0.45)]
    alpha = random_alpha(mask, seed)
    p, q = (a.probabilities() for a in (alpha, Projector(limits)(alpha).alpha))
    rows = np.vstack([np.eye(len(mask))[np.nonzero(mask)[0]].T, *(limit.cost.table[mask] for limit in limits)])
    kept = torch.from_numpy(null_space(rows))
    for _ in range(20):
        direction = torch.zeros_like(q)
        direction[mask] = kept @ torch.randn(kept.shape[1], dtype=torch.float64, generator=draws)
        other = q + 0.5 * direction * float((q[mask] / direction[mask].abs()).min())
        assert errors(other, limits) == pytest.approx([0, 0], abs=1e-9)
        assert divergence(other, p) > divergence(q, p)


SHARES = (0.0, 1e-6, 0.001, 0.3, 0.5, 0.9, 0.999, 1.0)


@pytest.mark.parametrize("scale", [0, 1, 5, 30, 300])
@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_expected_cost_is_exactly_the_bound_whatever_alpha_and_bound(make_limit, scale, spread):
    """They agree to 1e-9, and to 1e-7 of the reachable range after alpha is rounded to float32, in which a search
    stores it."""
    for seed in range(6):
        cost = mobile_like_cost(seed, spread)
        low, high = cost.reachable
        for share in SHARES:
            limit = make_limit(cost, share)
            projected = Projector([limit])(random_alpha(cost.mask, seed, scale)).alpha
            assert errors(projected.probabilities(), [limit]) == pytest.approx([0], abs=1e-9), (seed, share)
            rounded = float(expected_cost(projected.with_values(projected.values.float()).probabilities(), cost))
            assert abs(rounded - limit.bound) <= 1e-7 * (high - low), (seed, share)


def alike(cost: Cost, seed: int) -> Cost:
    """A cost within 10 % of another one everywhere, as MACs and latency may be."""
    return Cost(cost.fixed, cost.table * np.random.default_rng(seed).uniform(0.9, 1.1, cost.table.shape), cost.mask)


@pytest.mark.parametrize("scale", [1, 30, 300])
@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_several_limits_are_met_together(make_limit, scale, spread):
    """Each `at` is at its bound and no `below` above it, to 1e-9. What presses is at its bound, and a `below` presses
    downwards only."""
    pressing = resting = 0
    for seed in range(20):
        first, rng = mobile_like_cost(seed, spread), np.random.default_rng(seed)
        costs = [first, *(alike(first, k) if seed % 2 else mobile_like_cost(100 * k + seed, spread) for k in (1, 2, 3))]
        kinds = [seed % 3 > 0, False, False, seed % 5 == 0]
        limits = [make_limit(cost, rng.uniform(0.3, 0.6), at=at) for cost, at in zip(costs, kinds, strict=True)]
        projector = Projector(limits)
        projected = projector(random_alpha(first.mask, seed, scale))
        q = projected.alpha.probabilities()
        for limit, error, pressure in zip(limits, errors(q, limits), projected.pressures, strict=True):
            if pressure != 0 or (limit.kind == "at" and not projector.loosened):
                assert error == pytest.approx(0, abs=1e-9), seed
                pressing += limit.kind == "below"
            else:
                assert error < 1e-9, seed
                resting += 1
            assert pressure >= 0 or limit.kind == "at", seed
    assert min(pressing, resting) > 0


def test_a_limit_that_is_met_has_no_pressure(space, make_cost, make_limit):
    """`below` at 90 % leaves an alpha at 50 % as it is; `at` raises it, with a pressure below 0."""
    cost = make_cost(space, 0)
    alpha = Projector([make_limit(cost, 0.5)])(random_alpha(space.mask, 1)).alpha
    held = Projector([make_limit(cost, 0.9, at=False)])(alpha)
    assert held.pressures == (0.0,)
    assert torch.equal(held.alpha.probabilities(), alpha.probabilities())
    assert Projector([make_limit(cost, 0.9)])(alpha).pressures[0] < 0
    assert Projector([make_limit(cost, 0.3, at=False)])(alpha).pressures[0] > 0


def test_the_pressure_is_the_fall_of_the_log_odds_of_a_cost_of_the_whole_bound(space, make_cost, make_limit):
    alpha = random_alpha(space.mask, 2)
    limits = [make_limit(make_cost(space, 0), 0.4), make_limit(make_cost(space, 1), 0.5)]
    projected = Projector(limits)(alpha)
    shift = sum(
        pressure * torch.from_numpy(limit.cost.table) / limit.bound
        for pressure, limit in zip(projected.pressures, limits, strict=True)
    )
    torch.testing.assert_close(
        projected.alpha.probabilities(), alpha.with_values(alpha.values - shift).probabilities(), rtol=1e-9, atol=1e-12
    )


def test_candidates_of_equal_cost_keep_the_ratio_of_their_probabilities(make_limit):
    cost = mobile_like_cost(3)
    cost.table[:, 1] = cost.table[:, 0]
    alpha = random_alpha(cost.mask, 0, 3.0)
    before, after = alpha.values, Projector([make_limit(cost, 0.2)])(alpha).alpha.values
    torch.testing.assert_close(after[:, 1] - after[:, 0], before[:, 1] - before[:, 0], rtol=1e-12, atol=1e-12)
    assert (after - before).std() > 0.5


@pytest.mark.parametrize("scale", [1, 300])
def test_projecting_twice_changes_nothing(make_limit, scale):
    one, other = mobile_like_cost(1), mobile_like_cost(2)
    projector = Projector([make_limit(one, 0.4), make_limit(other, 0.3, at=False)])
    once = projector(random_alpha(one.mask, 0, scale))
    twice = projector(once.alpha)
    torch.testing.assert_close(twice.alpha.probabilities(), once.alpha.probabilities(), rtol=1e-9, atol=1e-12)
    assert abs(once.pressures[0]) > 1
    assert max(map(abs, twice.pressures)) < 1e-6


@pytest.mark.parametrize("multiple", [-3.0, 0.1, 20.0])
def test_adding_a_multiple_of_the_cost_to_alpha_does_not_change_its_projection(space, make_cost, make_limit, multiple):
    """alpha and alpha + a F have the same projection onto E = T: the limit's own direction is free."""
    cost = make_cost(space, 0)
    projector, alpha = Projector([make_limit(cost, 0.45)]), random_alpha(space.mask, 5)
    plain, shifted = (
        projector(alpha),
        projector(alpha.with_values(alpha.values + multiple * torch.from_numpy(cost.table))),
    )
    torch.testing.assert_close(shifted.alpha.probabilities(), plain.alpha.probabilities(), rtol=1e-8, atol=1e-11)


def test_padding_stays_finite_and_edges_are_normalised(space, make_cost, make_limit):
    projected = Projector([make_limit(make_cost(space, 0), 0.5)])(random_alpha(space.mask, 0)).alpha
    assert (projected.values[~projected.mask] == 0).all()
    torch.testing.assert_close(
        projected.values.masked_fill(~projected.mask, -torch.inf).logsumexp(dim=1),
        torch.zeros(4).double(),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("share", [0.3, 0.7])
@pytest.mark.parametrize("seed", range(4))
def test_a_worst_case_is_at_its_bound_on_one_device_and_above_it_on_none(space, make_cost, make_limit, share, seed):
    """It is the nearest of the projections that put one of the devices at the bound."""
    devices = tuple(make_cost(space, 10 * seed + k) for k in range(3))
    alpha = random_alpha(space.mask, seed, 2.0)
    limit = make_limit(WorstCase(devices), share)
    projected = Projector([limit])(alpha)
    p, q = alpha.probabilities(), projected.alpha.probabilities()
    assert errors(q, [limit]) == pytest.approx([0], abs=1e-9)
    assert all(float(expected_cost(q, device)) <= limit.bound * (1 + 1e-9) for device in devices)
    others = []
    for reached in devices:
        rest = [replace(limit, cost=device, kind="below") for device in devices if device is not reached]
        wanted = [replace(limit, cost=reached), *rest]
        if targets_of(wanted):
            others.append(divergence(Projector(wanted)(alpha).alpha.probabilities(), p))
    assert divergence(q, p) == pytest.approx(min(others), rel=1e-9)
    assert len(projected.pressures) == 1


def test_the_pressure_of_a_worst_case_is_the_sum_of_its_members(space, make_cost, make_limit):
    """Upper bounds on two devices are the same whether they make one limit or two; a further limit keeps its own."""
    one, other, third = (make_cost(space, k) for k in (564, 565, 566))  # which all press
    joint = make_limit(WorstCase((one, other)), 0.3, at=False)
    apart = [replace(joint, cost=one), replace(joint, cost=other)]
    last = make_limit(third, 0.3, at=False)
    alpha = random_alpha(space.mask, 188)
    together, each = (Projector([*limits, last])(alpha).pressures for limits in ([joint], apart))
    assert together == pytest.approx((each[0] + each[1], each[2]), rel=1e-9)
    assert min(each) > 0


def opposed(space, make_cost):
    """Two costs of which one rises where the other falls."""
    one = make_cost(space, 0)
    top = one.table.max(axis=1, keepdims=True)
    return one, Cost(one.fixed, np.where(one.mask, top - one.table, 0.0), one.mask)


def test_limits_that_exclude_each_other_count_as_upper_bounds(space, make_cost, make_limit):
    """Where one cost is at 20 % the other is at 80 %, so both at 70 % is impossible, and both below it is not."""
    one, other = opposed(space, make_cost)
    alpha = random_alpha(space.mask, 0)
    limits = [make_limit(one, 0.7), make_limit(other, 0.7)]
    assert targets_of(limits) == []
    projector = Projector(limits)
    assert projector.loosened
    assert not Projector([make_limit(one, 0.7), make_limit(other, 0.3)]).loosened
    q, below = projector(alpha).alpha.probabilities(), [replace(limit, kind="below") for limit in limits]
    assert max(errors(q, limits)) <= 1e-9
    assert torch.equal(q, Projector(below)(alpha).alpha.probabilities())


def test_limits_that_nothing_meets_are_an_error_in_one_line(space, make_cost, make_limit):
    one, other = opposed(space, make_cost)
    with pytest.raises(InfeasibleError, match="no architecture meets the limits together") as error:
        Projector([make_limit(one, 0.2), make_limit(other, 0.2)])
    assert isinstance(error.value, UserError)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("scale", [1, 30, 300])
def test_equal_costs_may_have_bounds_that_differ_by_rounding_alone(space, make_cost, make_limit, scale):
    """No tau is large enough for both; a difference that can be seen, in the ninth digit, excludes one by the other."""
    cost = make_cost(space, 0)
    limit = make_limit(cost, 0.5)
    limits = [limit, replace(limit, bound=limit.bound * (1 + 1e-13))]
    projected = Projector(limits)(random_alpha(space.mask, 0, scale))
    assert errors(projected.alpha.probabilities(), limits) == pytest.approx([0, 0], abs=1e-9)
    assert projected.alpha.values.float().isfinite().all()
    assert Projector([limit, replace(limit, bound=limit.bound * (1 + 1e-9))]).loosened


def test_a_cost_that_no_choice_changes_leaves_alpha_as_it_is(space, make_limit):
    flat = Cost(1.0, np.where(space.mask, 2.0, 0.0), space.mask)
    alpha = random_alpha(space.mask, 0)
    projected = Projector([make_limit(flat, 0.5)])(alpha)
    torch.testing.assert_close(projected.alpha.probabilities(), alpha.probabilities())
    assert projected.pressures == (0.0,)


def test_each_member_of_a_worst_case_has_a_target(space, make_cost, make_limit):
    """A tuple of targets for each way of meeting the limits, in the order of limits and members."""
    one, two, three = (make_cost(space, k) for k in range(3))
    limits = [make_limit(WorstCase((one, two)), 0.6), make_limit(three, 0.9, at=False)]
    choices = targets_of(limits)
    assert [[t.equal for t in targets] for targets in choices] == [[True, False, False], [False, True, False]]
    for targets in choices:
        assert [t.cost for t in targets] == [*members(limits[0].cost), three]
