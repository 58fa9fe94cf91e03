"""Constrained derivation is exact: brute force on a small space, dynamic programming on a large one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from search import program
from search.derive.derivation import InfeasibleError, argmax, constrained, derive, likeliest, meets, smallest
from search.limits.combine import WorstCase
from search.limits.limit import AdditiveLimit
from search.program import UnfinishedError
from supernet.alpha import Alpha
from supernet.cost import Cost, macs_cost, params_cost


def random_alpha(space, seed):
    return Alpha.of_space(space, 2 * torch.randn(space.mask.shape, generator=torch.Generator().manual_seed(seed)))


def brute_force(alpha, limits):
    """The largest log probability among all architectures that meet the limits, or None."""
    log_p = alpha.log_probabilities().numpy()
    best = None
    for paths in np.ndindex(*alpha.mask.sum(dim=1).tolist()):
        if meets(paths, limits):
            value = log_p[range(len(paths)), list(paths)].sum()
            best = value if best is None else max(best, value)
    return best


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("at", [True, False])
def test_a_derivation_equals_brute_force(space, make_cost, make_limit, seed, at):
    alpha = random_alpha(space, seed)
    limit = make_limit(make_cost(space, seed), np.random.default_rng(seed).uniform(), at=at, tolerance=0.1)
    expected = brute_force(alpha, [limit])
    derivation = constrained(alpha, [limit])
    if expected is None:  # nothing in the window: it reaches down to the nearest below, and that is said
        paths = np.ndindex(*alpha.mask.sum(dim=1).tolist())
        nearest = max(cost for p in paths if (cost := limit.cost.of(p)) <= limit.bound)
        window = replace(limit, tolerance=1 - 0.9 * nearest / limit.bound)
        expected = brute_force(alpha, [window])
        assert "no architecture lies in" in derivation.notes[0]
    else:
        assert not derivation.notes
    assert derivation.log_probability == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_equals_brute_force_with_several_limits(space, make_cost, make_limit, seed):
    alpha = random_alpha(space, seed)
    costs = (make_cost(space, seed), macs_cost(space), params_cost(space))
    limits = [make_limit(cost, share, at=False) for cost, share in zip(costs, (0.6, 0.5, 0.5), strict=True)]
    assert constrained(alpha, limits).log_probability == pytest.approx(brute_force(alpha, limits), abs=1e-9)


@pytest.mark.parametrize("share", [0.1, 0.4, 0.7, 0.95])
def test_equals_dynamic_programming_on_a_large_space(share, make_bounded):
    """21 edges of 7 candidates with whole-number costs: a knapsack over every reachable sum."""
    rng = np.random.default_rng(3)
    table = rng.integers(1, 60, size=(21, 7)).astype(float)
    cost = Cost(10.0, table, np.ones((21, 7), dtype=bool))
    alpha = Alpha(torch.from_numpy(2 * rng.standard_normal((21, 7))), torch.ones(21, 7, dtype=torch.bool))
    low, high = cost.reachable
    bound = float(round(low + share * (high - low)))
    log_p = alpha.log_probabilities().numpy()
    best = np.full(int(bound) + 1, -np.inf)  # best[s]: the largest log probability with sum s
    best[int(cost.fixed)] = 0.0
    for e in range(21):
        following = np.full_like(best, -np.inf)
        for i in range(7):
            step = int(table[e, i])
            following[step:] = np.maximum(following[step:], best[: len(best) - step] + log_p[e, i])
        best = following
    derivation = constrained(alpha, [make_bounded(cost, bound)])
    assert derivation.log_probability == pytest.approx(best.max(), abs=1e-9)


def test_a_generous_bound_gives_argmax(space, make_cost, make_limit):
    alpha = random_alpha(space, 0)
    limit = make_limit(make_cost(space, 0), 1.0, at=False)
    assert constrained(alpha, [limit]).paths == argmax(alpha).paths == derive(alpha, [limit], "argmax").paths


def test_infeasible_names_the_smallest_reachable_value(space, make_cost, make_bounded):
    cost = make_cost(space, 0)
    limit = make_bounded(cost, cost.reachable[0] * 0.9)
    with pytest.raises(InfeasibleError, match=f"smallest reachable {cost.reachable[0]:.6g} ms"):
        constrained(random_alpha(space, 0), [limit])


def test_the_bound_itself_is_feasible(space, make_cost, make_bounded):
    """A bound equal to an architecture's own sum admits it, rounding or not."""
    cost = make_cost(space, 4)
    for paths in np.ndindex(*space.mask.sum(axis=1)):
        bound = cost.of(tuple(int(i) for i in paths))
        alpha = Alpha.of_space(space)
        alpha.values[range(len(paths)), list(paths)] = 5.0
        assert constrained(alpha, [make_bounded(cost, bound, "at")]).paths == paths


def test_ties_break_the_same_way_every_time(space, make_cost, make_limit):
    alpha, limit = Alpha.of_space(space), make_limit(make_cost(space, 0), 0.5)
    assert len({constrained(alpha, [limit]).paths for _ in range(5)}) == 1
    assert argmax(alpha).paths == (0, 0, 0, 0)


@pytest.mark.parametrize("at", [True, False])
def test_half_the_range_of_repeated_edges_is_met_exactly_and_at_once(at, make_limit):
    """Equal edges make many architectures tie at the bound, and rounding puts the bound a bit below their sum."""
    n = 12
    cost = Cost(0.3, np.tile([0.1, 0.3], (n, 1)), np.ones((n, 2), dtype=bool))
    alpha = Alpha(torch.tensor([[0.0, 1.0]]).repeat(n, 1), torch.ones(n, 2, dtype=torch.bool))
    limit = make_limit(cost, 0.5, at=at)
    derivation = constrained(alpha, [limit])
    assert sum(derivation.paths) == n // 2
    assert not derivation.notes


@pytest.mark.parametrize("gap", [1e-7, 1e-6, 1e-5])
def test_near_ties_are_decided_exactly(space, make_cost, make_limit, gap):
    """The candidates differ by less than a solver's default gap."""
    draws = torch.Generator().manual_seed(0)
    alpha = Alpha.of_space(space, gap * torch.randn(space.mask.shape, dtype=torch.float64, generator=draws))
    limit = make_limit(make_cost(space, 1), 0.6, at=False)
    assert constrained(alpha, [limit]).log_probability == pytest.approx(brute_force(alpha, [limit]), abs=gap / 1e4)


@pytest.mark.parametrize("at", [True, False])
def test_the_likeliest_are_those_of_brute_force_in_order(space, make_cost, make_limit, at):
    alpha = random_alpha(space, 5)
    limit = make_limit(make_cost(space, 5), 0.6, at=at, tolerance=0.3)
    log_p = alpha.log_probabilities().numpy()
    allowed = [p for p in np.ndindex(*alpha.mask.sum(dim=1).tolist()) if meets(p, [limit])]
    expected = sorted((log_p[range(len(p)), list(p)].sum() for p in allowed), reverse=True)
    derivations = likeliest(alpha, [limit], 7)
    assert [d.log_probability for d in derivations] == pytest.approx(expected[:7], abs=1e-9)
    assert len({d.paths for d in derivations}) == 7
    everything = likeliest(alpha, [limit], len(allowed) + 5)
    assert {d.paths for d in everything} == set(allowed)  # and no more than there are


def test_derive_among_takes_the_smallest_loss_of_the_likeliest(space, make_cost, make_limit):
    alpha = random_alpha(space, 2)
    limit = make_limit(make_cost(space, 2), 0.8, at=False)
    best = likeliest(alpha, [limit], 4)
    asked = []

    def loss(paths):
        asked.append(paths)
        return 0.5 - 0.1 * (paths == best[2].paths)

    assert derive(alpha, [limit], "constrained", 4, loss).paths == best[2].paths
    assert asked == [d.paths for d in best]
    assert derive(alpha, [limit], "constrained", 2, loss).paths == best[0].paths  # a tie: the likelier
    assert derive(alpha, [limit], "constrained").paths == best[0].paths
    assert derive(alpha, [limit], "argmax", 4, loss).paths == argmax(alpha).paths
    ruined = {best[0].paths: float("nan"), best[1].paths: float("inf"), best[2].paths: 3.0, best[3].paths: 2.0}
    assert derive(alpha, [limit], "constrained", 4, ruined.__getitem__).paths == best[3].paths


@pytest.mark.parametrize("delta", [1.5e-9, 3e-9, 1e-8])
@pytest.mark.parametrize("seed", range(4))
def test_a_network_that_exceeds_its_bound_by_next_to_nothing_gives_way_to_the_next(seed, delta, make_limit):
    """It exceeds the bound by less than the solver's own tolerances, so that the solver may answer with it."""
    rng = np.random.default_rng(seed)
    ops = np.array([1, 1.4, 1.9, 2.2, 3, 4, 0])
    table = rng.uniform(0.2, 2, (21, 1)) * ops * rng.uniform(0.9, 1.1, (21, 7))
    cost = Cost(2.0, table, np.ones((21, 7), dtype=bool))
    alpha = Alpha(torch.from_numpy(rng.normal(size=(21, 7))), torch.from_numpy(cost.mask))
    limit = make_limit(cost, 0.4, at=False)
    first = constrained(alpha, [limit])
    limit = replace(limit, bound=cost.of(first.paths))
    second = next(derivation for derivation in likeliest(alpha, [limit], 2) if derivation.paths != first.paths)
    derivation = constrained(alpha, [replace(limit, bound=limit.bound * (1 - delta))])
    assert derivation.paths == second.paths


def test_the_smallest_worst_case_below_other_bounds_is_that_of_brute_force(space, make_cost, make_limit, make_bounded):
    everything = list(np.ndindex(*space.mask.sum(axis=1).tolist()))
    for seed in range(12):
        worst = WorstCase((make_cost(space, seed), make_cost(space, seed + 50)))
        limit = make_bounded(worst, worst.reachable[1])
        table = macs_cost(space).table
        opposite = Cost(1.0, np.where(space.mask, table.max() - table, 0.0), space.mask)  # what is fast costs most
        others = [make_limit(opposite, 0.6, at=False), make_limit(make_cost(space, seed + 100), 0.9, at=False)]
        expected = min(worst.of(paths) for paths in everything if meets(paths, others))
        assert expected > worst.reachable[0]
        assert smallest(limit, others) == pytest.approx(expected, rel=1e-6)


def narrow(edges=7, tolerance=0.0):
    """Many different sums and a window of no width: the solver needs minutes to prove that it is empty."""
    rng = np.random.default_rng(0)
    cost = Cost(2.0, rng.uniform(0.2, 2, (edges, 7)), np.ones((edges, 7), dtype=bool))
    low, high = cost.reachable
    alpha = Alpha(torch.from_numpy(rng.normal(size=(edges, 7))), torch.ones(edges, 7, dtype=torch.bool))
    limit = AdditiveLimit(
        name="latency",
        metric="latency",
        kind="at",
        bound=low + 0.5 * (high - low),
        unit="ms",
        tolerance=tolerance,
        cost=cost,
    )
    return alpha, limit


def test_a_program_stopped_by_its_time_limit_proves_nothing():
    """The error states neither that the window is empty nor that there is no architecture."""
    alpha, limit = narrow()
    with pytest.raises(UnfinishedError) as error:
        constrained(alpha, [limit], seconds=0.2)
    text = str(error.value)
    assert text.startswith("in 0.2 s no architecture was found that meets the limits (latency [")
    assert "nor proven that there is none; a larger `tolerance`" in text
    assert not isinstance(error.value, InfeasibleError)


@pytest.fixture
def stopped(monkeypatch):
    """Makes the solver's answers from the given one on unproven, with a bound that is better by at most half."""
    calls = []

    def after(first):
        def solve(objective, constraints, bounds, integrality, deadline):
            calls.append(deadline)
            solution = program.solve(objective, constraints, bounds, integrality, deadline)
            if len(calls) < first or solution.x is None:
                return solution
            return program.Solution(solution.x, False, solution.least / 2)

        monkeypatch.setattr("search.derive.derivation.solve", solve)

    return after


def test_an_architecture_not_proven_to_be_the_likeliest_has_a_note(space, make_cost, make_limit, stopped):
    alpha = random_alpha(space, 0)
    limit = make_limit(make_cost(space, 0), 0.2, at=False)
    best = constrained(alpha, [limit])
    assert best.proven
    assert best.notes == ()
    stopped(1)
    derivation = constrained(alpha, [limit], seconds=7.0)
    assert derivation.paths == best.paths  # what the solver had when it was stopped
    assert not derivation.proven
    (note,) = derivation.notes
    ahead = (argmax(alpha).log_probability - best.log_probability) / 2
    assert ahead > 0.1
    assert note.startswith(
        "the network meets the limits but is not proven to be the likeliest that does: the solver was"
    )
    assert "stopped after 7 s, and another one may be likelier by up to" in note
    assert f"by up to {ahead:.3g} in log p" in note


def test_further_networks_end_where_the_solver_is_stopped(space, make_cost, make_limit, stopped):
    alpha = random_alpha(space, 5)
    limit = make_limit(make_cost(space, 5), 0.6, at=False)
    best = likeliest(alpha, [limit], 2)
    stopped(2)
    derivations = likeliest(alpha, [limit], 9)
    assert [d.paths for d in derivations] == [d.paths for d in best]
    assert all("network 2 of 9 meets the limits but is not proven" in d.notes[0] for d in derivations)


def test_a_nearest_window_that_is_not_proven_has_a_note(space, make_cost, make_limit, stopped, make_bounded):
    alpha, cost = random_alpha(space, 1), make_cost(space, 1)
    sums = sorted(cost.of(p) for p in np.ndindex(*alpha.mask.sum(dim=1).tolist()))
    gap = int(np.argmax(np.diff(sums)))
    limit = make_bounded(cost, (sums[gap] + sums[gap + 1]) / 2, "at", 1e-6)
    assert len(constrained(alpha, [limit]).notes) == 1
    stopped(2)  # the first one proves the window empty
    notes = constrained(alpha, [limit]).notes
    assert notes[1].startswith("a nearer window may exist")


def test_a_program_that_presolve_calls_infeasible_is_solved_all_the_same(make_bounded):
    """One network is below both bounds, far below the first. HiGHS 1.12 finds none unless presolve is off."""
    mask = np.array([[True, True, True], [True, True, False]])
    macs = Cost(100.0, np.array([[1.0, 4e6, 3000001.0], [4000001.0, 1.0, 0.0]]), mask)
    latency = Cost(100.0, np.array([[1.23813465, 3.89120658, 3.65322298], [9.22478018, 9.18392878, 0.0]]), mask)
    alpha = Alpha(torch.zeros(2, 3), torch.from_numpy(mask))
    limits = [make_bounded(macs, 4000101.0, "at", 0.02, metric="macs"), make_bounded(latency, 112.4765, "at", 0.3)]
    below = [p for p in np.ndindex(3, 2) if all(limit.allows(p) for limit in limits)]
    assert below == [(0, 1)]
    assert constrained(alpha, limits).paths == (0, 1)


@pytest.mark.parametrize("at", [True, False])
@pytest.mark.parametrize("shift", [-100.0, -7.0, 0.0])
@pytest.mark.parametrize("seed", range(4))
def test_costs_of_any_sign_are_derived_as_brute_force_has_it(space, make_cost, seed, shift, at, make_bounded):
    """A bound below 0 or exactly 0, and entries below 0: the exact answer, or an error that is true."""
    cost, alpha = make_cost(space, seed), random_alpha(space, seed)
    moved = Cost(cost.fixed + shift, np.where(space.mask, cost.table - 1.5, 0.0), cost.mask)
    every = [tuple(map(int, p)) for p in np.ndindex(*alpha.mask.sum(dim=1).tolist())]
    sums = sorted(moved.of(p) for p in every)
    log_p = alpha.log_probabilities().numpy()
    for bound in (sums[len(sums) // 3], sums[-1] + 1, 0.0):
        limit = make_bounded(moved, bound, "at" if at else "below", 0.02)
        allowed = [p for p in every if moved.of(p) <= bound + 1e-12]
        if not allowed:
            with pytest.raises(InfeasibleError, match=f"smallest reachable {sums[0]:.6g} ms"):
                constrained(alpha, [limit])
            continue
        if at:
            dearest = max(map(moved.of, allowed))
            reached = [p for p in allowed if moved.of(p) >= bound - 0.02 * abs(bound) - 1e-9]
            allowed = reached or [p for p in allowed if moved.of(p) >= dearest - 0.02 * abs(dearest) - 1e-12]
        derivation = constrained(alpha, [limit])
        assert derivation.paths in allowed
        best = max(log_p[range(len(p)), list(p)].sum() for p in allowed)
        assert derivation.log_probability == pytest.approx(best, abs=1e-9)
