"""The objective of alpha: cross entropy and expected cost (Sec. 3.3.1), and the controller of the lagrangian form.

p = softmax(alpha), E = expected cost, T = the limit's bound, c = E/T - 1, F = the cost matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from search.combine import WorstCase, members
from search.config import AddLinear, Hinge, Lagrangian, Loss, MulLog
from search.limits import Limit
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


@dataclass(frozen=True)
class Dual:
    """State of one limit's multiplier (form lagrangian). Immutable; each step returns the next one."""

    multiplier: float = 0.0
    """lambda."""
    ce_norm: float = 0.0
    """Moving average of the norm of CE's gradient in alpha."""
    cost_norm: float = 0.0
    """Moving average of the norm of c's gradient in alpha."""

    NORM_DECAY = 0.99
    LEAST_RATIO = 1e-3

    def observe(self, ce_gradient: Tensor, cost_gradient: Tensor) -> Dual:
        """Take in both gradients in alpha of one architecture step, (E, N) each: CE's, c's by the mode's Jacobian."""
        d = self.NORM_DECAY
        return replace(
            self,
            ce_norm=d * self.ce_norm + (1 - d) * float(ce_gradient.norm()),
            cost_norm=d * self.cost_norm + (1 - d) * float(cost_gradient.norm()),
        )

    @property
    def ratio(self) -> float:
        """r: how large CE's gradient is beside c's. Its floor only keeps latency in charge where CE has no gradient."""
        return max(self.LEAST_RATIO, self.ce_norm / self.cost_norm) if self.cost_norm > 0 else self.LEAST_RATIO

    def pressure(self, c: float, loss: Lagrangian, *, at: bool) -> float:
        """mu / r = lambda + rho c, clipped; `below` never rewards a higher cost."""
        raw = self.multiplier + loss.rho * c
        return min(loss.clip, max(-loss.clip if at else 0.0, raw))

    def step(self, c: float, movable: bool, loss: Lagrangian, arch_lr: float, *, at: bool) -> Dual:
        """lambda <- clip(lambda + eta c), with c of the new alpha; unchanged where E can no longer move."""
        if not movable:
            return self
        moved = self.multiplier + loss.dual_rate * arch_lr * c
        return replace(self, multiplier=min(loss.clip, max(-loss.clip if at else 0.0, moved)))


def movable(p: Tensor) -> bool:
    """Whether E can still move: some edge has a probability of 1 % or more off its likeliest candidate."""
    return bool((1 - p.max(dim=1).values).max() >= 0.01)


def slope(loss: Loss, limit: Limit, expected: float, ce: float, dual: Dual) -> float:
    """dL/dE of one limit. `ce`: the cross entropy, which only mul_log reads."""
    T = limit.bound
    c = expected / T - 1
    if isinstance(loss, AddLinear):
        return loss.weight / T
    if isinstance(loss, Hinge):
        return loss.weight / T if c > 0 else 0.0
    if isinstance(loss, MulLog):
        ratio = math.log(expected) / math.log(T)
        return loss.scale * ce * loss.power * ratio ** (loss.power - 1) / (expected * math.log(T))
    return dual.ratio * dual.pressure(c, loss, at=limit.at) / T


def ce_factor(loss: Loss, limits: Sequence[Limit], expected: Sequence[float]) -> float:
    """dL/dCE: 1 but for mul_log."""
    if isinstance(loss, MulLog):
        return loss.scale * (math.log(expected[0]) / math.log(limits[0].bound)) ** loss.power
    return 1.0


def loss_value(
    loss: Loss, limits: Sequence[Limit], expected: Sequence[float], ce: float, duals: Sequence[Dual]
) -> float:
    """The loss itself. A search needs its derivatives alone, `slope` and `ce_factor`; this is what they are of."""
    if isinstance(loss, MulLog):
        return ce_factor(loss, limits, expected) * ce
    total = ce
    for limit, e, dual in zip(limits, expected, duals, strict=True):
        c = e / limit.bound - 1
        if isinstance(loss, AddLinear):
            total += loss.weight * c
        elif isinstance(loss, Hinge):
            total += loss.weight * max(0.0, c)
        else:
            total += dual.ratio * _integrated_pressure(dual, c, loss, at=limit.at)
    return total


def _integrated_pressure(dual: Dual, c: float, loss: Lagrangian, *, at: bool) -> float:
    """The integral of `pressure` from 0 to c: quadratic where lambda + rho c is inside its clip, linear outside."""
    low, high = (-loss.clip if at else 0.0), loss.clip

    def antiderivative(m: float) -> float:  # of clip(m, low, high) in m = lambda + rho c
        inside = min(high, max(low, m))
        return inside**2 / 2 + inside * (m - inside)

    start = dual.multiplier
    return (antiderivative(start + loss.rho * c) - antiderivative(start)) / loss.rho


@dataclass(frozen=True)
class Objective:
    """What alpha's loss has beside the cross entropy, at one architecture step."""

    limits: Sequence[Limit]
    loss: Loss
    """How they enter it."""
    duals: Sequence[Dual]
    """One for each limit; read and updated by the lagrangian alone."""
    d_terms: Tensor | None = None
    """(E, N) float64: the gradient in p of further terms, if there are any (search/terms.py)."""


@dataclass(frozen=True)
class AlphaGradient:
    """What one architecture step finds before alpha moves."""

    gradient: Tensor
    """dL/dalpha, (E, N) float64."""
    duals: tuple[Dual, ...]
    """With their norms updated."""
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
    d_limits, observed = limits_gradient(from_ce, ce, p, objective, jacobian)
    from_limits = jacobian(d_limits)
    gradient = from_ce + from_limits
    if objective.d_terms is not None:
        gradient = gradient + jacobian(objective.d_terms)
    return AlphaGradient(gradient, observed, float(from_ce.norm()), float(from_limits.norm()))


def limits_gradient(
    from_ce: Tensor, ce: float, p: Tensor, objective: Objective, jacobian: Jacobian
) -> tuple[Tensor, tuple[Dual, ...]]:
    """(sum over limits of dL/dE F, (E, N) float64, still to go through the mode's Jacobian; the duals with their norms
    updated).

    from_ce (E, N): what else moves alpha, that r compares c's gradient with: that of CE, or REINFORCE's estimate.
    """
    d_limits = torch.zeros_like(p)
    observed = []
    for limit, dual in zip(objective.limits, objective.duals, strict=True):
        F = cost_slopes(p, limit.cost)
        if isinstance(objective.loss, Lagrangian):
            dual = dual.observe(from_ce, jacobian(F / limit.bound))
        d_limits = d_limits + slope(objective.loss, limit, float(expected_cost(p, limit.cost)), ce, dual) * F
        observed.append(dual)
    return d_limits, tuple(observed)
