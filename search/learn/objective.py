"""Computes the gradient of alpha's objective: cross entropy, limits and further terms (Sec. 3.3.1).

p = softmax(alpha), E = expected cost, F = the cost matrix. In shapes, E is the number of searchable edges and N that of
the candidates of an edge. forms.py defines how a limit enters the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from search.learn.forms import ExpectedCost, LossForm, slopes_of
from search.limits.combine import WorstCase, members
from search.limits.limit import AdditiveLimit
from supernet.cost import Cost

Jacobian = Callable[[Tensor], Tensor]
"""A function from a gradient in the gates or in p to one in alpha, both (E, N) float64. It is linear, and each mode has
its own."""


def expected_cost(p: Tensor, cost: Cost | WorstCase) -> Tensor:
    """Returns E = fixed + sum_e sum_i p[e, i] F[e, i], 0-dim float64, differentiable in p (E, N) float64.

    For a worst case, it is the largest of its members' expectations.
    """
    return torch.stack([m.fixed + (p * torch.from_numpy(m.table)).sum() for m in members(cost)]).max()


def cost_slopes(p: Tensor, cost: Cost | WorstCase) -> Tensor:
    """Returns dE/dp, (E, N) float64: the cost's table F; for a worst case, F of the member whose expectation is
    largest."""
    worst = max(members(cost), key=lambda member: float(expected_cost(p, member)))
    return torch.from_numpy(worst.table)


def expected_costs(p: Tensor, limits: Sequence[AdditiveLimit], duals: Sequence[float] = ()) -> tuple[ExpectedCost, ...]:
    """Returns each limit's expected cost, bound, kind and dual, from which a loss form computes the loss.

    p: (E, N) float64, the path probabilities; E is the number of searchable edges, N that of candidates. duals: the
    numbers that the form keeps, one for each limit; empty if it keeps none.
    """
    return tuple(
        ExpectedCost(float(expected_cost(p, limit.cost)), limit.bound, limit.kind, dual)
        for limit, dual in zip(limits, duals or (0.0,) * len(limits), strict=True)
    )


@dataclass(frozen=True)
class Objective:
    """The parts of alpha's loss beside the cross entropy, at one architecture step."""

    limits: Sequence[AdditiveLimit]
    loss: LossForm
    """The form in which the limits enter the loss."""
    d_terms: Tensor | None = None
    """(E, N) float64: the gradient in p of further terms, if there are any (search/learn/terms.py)."""
    duals: Sequence[float] = ()
    """The numbers that the form keeps, one for each limit; empty if it keeps none."""


@dataclass(frozen=True)
class AlphaGradient:
    """The gradient of one architecture step, and the norms of its shares."""

    gradient: Tensor
    """dL/dalpha, (E, N) float64."""
    ce_norm: float
    """The norm of CE's share of the gradient; its ratio to `limits_norm` shows which of the two dominates."""
    limits_norm: float
    """The norm of the share of all limits together."""


def alpha_gradient(from_ce: Tensor, ce: float, p: Tensor, objective: Objective, jacobian: Jacobian) -> AlphaGradient:
    """Returns the gradient in alpha of the whole loss. from_ce: the gradient in alpha of CE alone. All (E, N) float64.

    Limits and terms are functions of p: (dL/dE) F_i + d_terms_i goes through the mode's Jacobian; E is the expectation
    over all candidates in every mode.
    """
    slopes = slopes_of(objective.loss, ce, expected_costs(p, objective.limits, objective.duals))
    from_ce = slopes.ce * from_ce
    d_limits = torch.zeros_like(p)
    for limit, slope in zip(objective.limits, slopes.limits, strict=True):
        d_limits = d_limits + slope * cost_slopes(p, limit.cost)
    from_limits = jacobian(d_limits)
    gradient = from_ce + from_limits
    if objective.d_terms is not None:
        gradient = gradient + jacobian(objective.d_terms)
    return AlphaGradient(gradient, float(from_ce.norm()), float(from_limits.norm()))
