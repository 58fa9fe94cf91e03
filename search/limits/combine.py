"""Combines the costs of several devices in one limit: by their weighted sum, or by the worst of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import Bounds, LinearConstraint

from search.program import MOST_SECONDS, Deadline, UnfinishedError, solve
from supernet.cost import Cost


def scaled(cost: Cost, weight: float) -> Cost:
    """Returns the cost weight * cost(paths)."""
    return Cost(weight * cost.fixed, weight * cost.table, cost.mask)


def weighted_sum(costs: Sequence[Cost], weights: Sequence[float]) -> Cost:
    """Returns the cost sum_k w_k cost_k(paths), which is again a sum over layers."""
    parts = [scaled(cost, weight) for cost, weight in zip(costs, weights, strict=True)]
    return Cost(sum(part.fixed for part in parts), np.sum([part.table for part in parts], axis=0), costs[0].mask)


@dataclass(frozen=True, eq=False)
class WorstCase:
    """cost(paths) = max_k cost_k(paths). No sum over layers, but below a bound exactly if every member is."""

    members: tuple[Cost, ...]

    def of(self, paths: tuple[int, ...]) -> float:
        """Returns the largest cost of the network with these paths among the members."""
        return max(member.of(paths) for member in self.members)

    @cached_property
    def reachable(self) -> tuple[float, float]:
        """Smallest and largest cost of any architecture. The smallest is an integer program: a network that is good on
        one device may be bad on another."""
        return least_worst(self.members), max(member.reachable[1] for member in self.members)


def members(cost: Cost | WorstCase) -> tuple[Cost, ...]:
    """Returns the sums over layers behind a cost: one for a plain cost."""
    return cost.members if isinstance(cost, WorstCase) else (cost,)


def magnitude(costs: Sequence[Cost], bound: float) -> float:
    """Returns the divisor of costs with one bound, of which a tolerance is a share: the bound's absolute value. If the
    bound is negligible beside the costs, it is 1e-6 of these, so that it is above 0 in any case."""
    return max(abs(bound), 1e-6 * max(abs(end) for cost in costs for end in cost.reachable)) or 1.0


def least_worst(
    costs: Sequence[Cost], below: Sequence[tuple[Cost, float]] = (), seconds: float = MOST_SECONDS
) -> float:
    """Returns the minimum over architectures of max_k cost_k: minimise t subject to cost_k <= t for every k.

    below: further costs, each with what it may be at most. The result is infinite if no architecture is below all of
    them. Raises UnfinishedError if the solver does not finish within `seconds`.
    """
    mask = costs[0].mask
    edge, candidate = np.nonzero(mask)  # a binary variable for each (edge, candidate); t is the last variable
    scale = max(abs(end) for cost in costs for end in cost.reachable) or 1.0
    one_each = np.column_stack([(edge == np.arange(len(mask))[:, None]).astype(float), np.zeros(len(mask))])
    constraints = [LinearConstraint(one_each, 1, 1)]
    for cost in costs:
        row = np.append(cost.table[edge, candidate] / scale, -1.0)
        constraints.append(LinearConstraint(row[None], -np.inf, -cost.fixed / scale))
    for cost, bound in below:
        unit = magnitude([cost], bound)
        row = np.append(cost.table[edge, candidate] / unit, 0.0)
        constraints.append(LinearConstraint(row[None], -np.inf, (bound - cost.fixed) / unit))
    solution = solve(
        np.append(np.zeros(len(edge)), 1.0),
        constraints,
        Bounds(np.append(np.zeros(len(edge)), -np.inf), np.append(np.ones(len(edge)), np.inf)),
        np.append(np.ones(len(edge)), 0),
        Deadline(seconds),
    )
    if not solution.proven:
        raise UnfinishedError(
            found=f"the smallest cost that can be reached under {len(costs) + len(below)} costs together was not found "
            f"in {seconds:g} s",
            remedy="combine fewer tables, or combine them by weighted_sum",
        )
    if solution.x is None:
        return math.inf
    # add the chosen entries up again: the solver's own value carries its tolerance
    paths = tuple(int(i) for i in candidate[np.round(solution.x[:-1]).astype(bool)])
    return max(cost.of(paths) for cost in costs)
