"""The objective of alpha: cross entropy and expected cost (Sec. 3.3.1).

p = softmax(alpha), E = expected cost, T = the limit's bound, c = E/T - 1, F = the cost matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from search.config import AddLinear, Hinge, Loss, MulLog
from search.limits.combine import WorstCase, members
from search.limits.limit import AdditiveLimit
from supernet.cost import Cost

Jacobian = Callable[[Tensor], Tensor]
"""From a gradient in the gates or in p, (E, N) float64, to one in alpha: a linear map, another in each mode."""


def expected_cost(p: Tensor, cost: Cost | WorstCase) -> Tensor:
    """E = fixed + sum_e sum_i p[e, i] F[e, i], differentiable in p (E, N) float64: 0-dim float64.

    Of a worst case, the largest of its members' expectations.
    """
    return torch.stack([m.fixed + (p * torch.from_numpy(m.table)).sum() for m in members(cost)]).max()


def cost_slopes(p: Tensor, cost: Cost | WorstCase) -> Tensor:
    """dE/dp, (E, N) float64: the cost's table F; of a worst case that of the member whose expectation is largest."""
    worst = max(members(cost), key=lambda member: float(expected_cost(p, member)))
    return torch.from_numpy(worst.table)


def slope(loss: Loss, limit: AdditiveLimit, expected: float, ce: float) -> float:
    """dL/dE of one limit; 0 under projection, where E is at T already. `ce`: the cross entropy, which only mul_log
    reads."""
    T = limit.bound
    if isinstance(loss, AddLinear):
        return loss.weight / T
    if isinstance(loss, Hinge):
        return loss.weight / T if expected > T else 0.0
    if isinstance(loss, MulLog):
        ratio = math.log(expected) / math.log(T)
        return float(loss.scale * ce * loss.power * ratio ** (loss.power - 1) / (expected * math.log(T)))
    return 0.0


def ce_factor(loss: Loss, limits: Sequence[AdditiveLimit], expected: Sequence[float]) -> float:
    """dL/dCE: 1 but for mul_log."""
    if isinstance(loss, MulLog):
        return float(loss.scale * (math.log(expected[0]) / math.log(limits[0].bound)) ** loss.power)
    return 1.0


def loss_value(loss: Loss, limits: Sequence[AdditiveLimit], expected: Sequence[float], ce: float) -> float:
    """The loss itself. A search needs its derivatives alone, `slope` and `ce_factor`; this is what they are of."""
    total = ce_factor(loss, limits, expected) * ce
    for limit, e in zip(limits, expected, strict=True):
        c = e / limit.bound - 1
        if isinstance(loss, AddLinear):
            total += loss.weight * c
        elif isinstance(loss, Hinge):
            total += loss.weight * max(0.0, c)
    return total


@dataclass(frozen=True)
class Objective:
    """What alpha's loss has beside the cross entropy, at one architecture step."""

    limits: Sequence[AdditiveLimit]
    loss: Loss
    """How they enter it."""
    d_terms: Tensor | None = None
    """(E, N) float64: the gradient in p of further terms, if there are any (search/learn/terms.py)."""


@dataclass(frozen=True)
class AlphaGradient:
    """What one architecture step finds before alpha moves."""

    gradient: Tensor
    """dL/dalpha, (E, N) float64."""
    ce_norm: float
    """The norm of CE's share of the gradient; its ratio to the next norm shows which of the two dominates."""
    limits_norm: float
    """The norm of the share of all limits together."""


def alpha_gradient(from_ce: Tensor, ce: float, p: Tensor, objective: Objective, jacobian: Jacobian) -> AlphaGradient:
    """From CE's own gradient in alpha, `from_ce`, to that of the whole loss; both (E, N) float64, like p.

    Limits and terms are functions of p: (dL/dE) F_i + d_terms_i goes through the mode's Jacobian; E is the expectation
    over all candidates in every mode.
    """
    expected = [float(expected_cost(p, limit.cost)) for limit in objective.limits]
    from_ce = ce_factor(objective.loss, objective.limits, expected) * from_ce
    d_limits = torch.zeros_like(p)
    for limit, e in zip(objective.limits, expected, strict=True):
        d_limits = d_limits + slope(objective.loss, limit, e, ce) * cost_slopes(p, limit.cost)
    from_limits = jacobian(d_limits)
    gradient = from_ce + from_limits
    if objective.d_terms is not None:
        gradient = gradient + jacobian(objective.d_terms)
    return AlphaGradient(gradient, float(from_ce.norm()), float(from_limits.norm()))
