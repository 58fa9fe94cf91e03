"""Brings the expected cost of alpha exactly to its limits, by the nearest distribution that has it (docs/design.md).

Of all path distributions q that meet the limits in expectation, the projection is the one with the smallest
KL(q || softmax(alpha)) (the I-projection; Csiszar, Annals of Probability 3, 1975). It is an exponential tilt,

    q_e,i ~ exp(alpha_e,i - sum_k tau_k F_k,e,i),

with ONE multiplier tau_k for each cost k and all edges e: two candidates of equal cost keep the ratio of their
probabilities. tau_k >= 0 for `below`, and 0 where that limit is met without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from scipy.optimize import linprog

from search.derive.derivation import infeasible
from search.limits.combine import magnitude, members
from search.limits.limit import AdditiveLimit
from supernet.alpha import Alpha
from supernet.cost import Cost

EXACT = 1e-11
"""An expectation is at its bound if it is off by less than this share of it."""
ROUNDING = 1e-15
"""The rounding error of an expectation, as a share of the largest cost."""
MOST_STEPS, MOST_HALVINGS = 60, 50


@dataclass(frozen=True)
class Target:
    """A condition on one expected cost: it equals its limit's bound, or is at most that."""

    limit: AdditiveLimit
    cost: Cost
    """The limit's cost; if that is a worst case, one of its members."""
    equal: bool
    """Whether the expected cost must equal the bound."""


@dataclass(frozen=True)
class Projected:
    """The projection of an alpha."""

    alpha: Alpha
    """Its values are log q, (E, N) float64, and 0 where padded. Rounded to float32 they still have the expected cost to
    about 1e-7 of the reachable range, however far apart they are, because those of likely candidates are near 0."""
    pressures: tuple[float, ...]
    """For each limit, tau times its bound: the amount by which the projection lowers the log-odds of a candidate that
    costs the whole bound, beside one that costs nothing. For a worst case, the sum over its members."""


class Projector:
    """Projects alpha onto the limits. It is made once for a search, since linear programs determine which targets can
    be met together."""

    def __init__(self, limits: Sequence[AdditiveLimit]):
        """Raises InfeasibleError if not even all expected costs can be below their bounds."""
        self.limits = limits
        self.choices = targets_of(limits)
        self.loosened = not self.choices
        """Whether no distribution meets all limits, so that `at` counts as `below`, as in the derivation."""
        if self.loosened:
            self.choices = targets_of([replace(limit, kind="below") for limit in limits])
        if not self.choices:
            raise infeasible(limits)

    def __call__(self, alpha: Alpha) -> Projected:
        """Returns the projection of alpha, the nearest one if a worst case leaves a choice."""
        log_p = alpha.log_probabilities().numpy()
        best = min((nearest(log_p, targets) for targets in self.choices), key=lambda each: each.divergence)
        tau = iter(best.tau.tolist())
        pressures = tuple(sum(next(tau) for _ in members(limit.cost)) for limit in self.limits)
        values = torch.from_numpy(best.log_q).masked_fill(~alpha.mask, 0.0)
        return Projected(alpha.with_values(values), pressures)


def targets_of(limits: Sequence[AdditiveLimit]) -> list[tuple[Target, ...]]:
    """Returns the targets of the projection: one tuple, or several if meeting any one of them meets the limits, or none
    if no distribution meets the limits together. Each tuple has a target for each member of each limit, in their order.

    `at` asks for equality, `below` for at most the bound. A worst case over devices is at its bound if one member is
    and no other is above: a choice for each member.
    """
    each = []
    for limit in limits:
        parts = members(limit.cost)
        reached = parts if limit.kind == "at" else (None,)
        each.append([[Target(limit, part, part is one) for part in parts] for one in reached])
    choices = [tuple(target for group in choice for target in group) for choice in product(*each)]
    return [targets for targets in choices if attainable(targets)]


def attainable(targets: Sequence[Target]) -> bool:
    """Returns whether some distribution over paths, with independent edges, meets all targets. This is a linear program
    in its probabilities q."""
    F, T, equal = _scaled(targets)
    mask = targets[0].cost.mask
    edge, candidate = np.nonzero(mask)
    one_each = (edge == np.arange(len(mask))[:, None]).astype(float)
    rows = F[:, edge, candidate]
    solution = linprog(
        np.zeros(len(edge)),
        A_eq=np.vstack([one_each, rows[equal]]),
        b_eq=np.concatenate([np.ones(len(mask)), T[equal]]),
        A_ub=rows[~equal],
        b_ub=T[~equal],
        bounds=(0, 1),
        options={"primal_feasibility_tolerance": 1e-10},  # the least that HiGHS takes
    )
    return bool(solution.status != 2)  # 2: infeasible


def _scaled(targets: Sequence[Target]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (F (K, E, N), T (K,), equal (K,) bool) of K targets: F and T as shares of each bound, T without the fixed
    cost."""
    units = np.array([magnitude([t.cost], t.limit.bound) for t in targets])
    F = np.stack([t.cost.table for t in targets])
    T = np.array([t.limit.bound - t.cost.fixed for t in targets])
    return F / units[:, None, None], T / units, np.array([t.equal for t in targets])


@dataclass(frozen=True)
class Nearest:
    """The distribution q nearest to p that meets targets."""

    log_q: np.ndarray
    """(E, N), -inf where padded."""
    tau: np.ndarray
    """(K,): the multipliers of the costs, which are in shares of their bounds."""
    divergence: float
    """KL(q || p) in nats."""


def nearest(log_p: np.ndarray, targets: Sequence[Target]) -> Nearest:
    """Returns the distribution nearest to log_p (E, N; float64, -inf where padded) that meets targets."""
    F, T, equal = _scaled(targets)
    tau = _multipliers(log_p, F, T, equal)
    log_q, _ = _tilted(log_p, F, tau)
    real = np.isfinite(log_p)
    return Nearest(log_q, tau, float((np.exp(log_q[real]) * (log_q[real] - log_p[real])).sum()))


def _multipliers(log_p: np.ndarray, F: np.ndarray, T: np.ndarray, equal: np.ndarray) -> np.ndarray:
    """Returns tau (K,) of the projection.

    If p has decided against the targets, the dual is nearly piecewise linear, and Newton's ascent from 0 may not
    converge. In that case it starts from the solution for a flatter p, p^(1/2) normalised, whose multipliers are about
    half as large.
    """
    tau, ended = _ascended(log_p, F, T, equal, np.zeros(len(T)))
    smallest = log_p.min(axis=1, where=np.isfinite(log_p), initial=np.inf)
    if ended or (log_p.max(axis=1) - smallest).max() < 1:
        return tau
    return _ascended(log_p, F, T, equal, 2 * _multipliers(log_p / 2, F, T, equal))[0]


def _ascended(
    log_p: np.ndarray, F: np.ndarray, T: np.ndarray, equal: np.ndarray, tau: np.ndarray
) -> tuple[np.ndarray, bool]:
    """Maximises the dual, starting at tau. Returns (the last tau, whether it has converged).

    The dual, -sum_e log sum_i p_e,i exp(-sum_k tau_k F_k,e,i) - sum_k tau_k T_k, is concave, its slope in tau_k is
    E_k - T_k, and its largest value is KL(q || p). Newton's steps are halved until it rises. A bound at the end of what
    can be reached needs an infinite tau: the steps end once E_k is T_k up to EXACT.
    """
    near = np.maximum(EXACT, ROUNDING * np.abs(F).max(axis=2).sum(axis=1))
    for _ in range(MOST_STEPS):
        log_q, _ = _tilted(log_p, F, tau)
        q = np.exp(log_q)
        slope = (F * q).sum(axis=(1, 2)) - T
        free = equal | (tau > 0) | (slope > 0)
        if not (np.abs(slope) > near)[free].any():
            return tau, True
        step = np.zeros(len(T))
        step[free] = _newton_step(F[free], q, slope[free])
        for halvings in range(MOST_HALVINGS):
            change = np.where(equal, step / 2**halvings, np.maximum(step / 2**halvings, -tau))
            if _rises(log_q, F, T, slope, change):
                break
        else:
            return tau, False
        tau = tau + change
    return tau, False


def _rises(log_q: np.ndarray, F: np.ndarray, T: np.ndarray, slope: np.ndarray, change: np.ndarray) -> bool:
    """Returns whether a change of tau raises the dual by at least 1e-4 of the rise that its slope predicts (Armijo's
    condition), up to rounding. log_q: the distribution at the present tau."""
    _, log_z = _tilted(log_q, F, change)
    rounding = 1e-14 * (1 + float(np.abs(change) @ np.abs(F).max(axis=(1, 2))))
    return -float(log_z.sum() + change @ T) >= 1e-4 * float(slope @ change) - rounding


def _tilted(log_p: np.ndarray, F: np.ndarray, tau: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (log q, log Z): the exponential tilt q = p exp(-sum_k tau_k F_k) / Z, (E, N), and its normaliser Z of
    each edge, (E,).

    log_p: (E, N), -inf where padded. F: (K, E, N). tau: (K,).
    """
    logits = log_p - np.tensordot(tau, F, axes=1)
    top = logits.max(axis=1, keepdims=True)
    logits = logits - top  # first: where logits are large, their digits are few
    log_z = np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logits - log_z, (top + log_z)[:, 0]


def _newton_step(F: np.ndarray, q: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Returns the Newton step of the dual in tau, (K,). F (K, E, N), q (E, N), slope (K,).

    The dual's curvature is minus the covariance of the K costs under q; it vanishes where q has decided.
    """
    centred = F - (F * q).sum(axis=2, keepdims=True)
    covariance = np.einsum("ken,len,en->kl", centred, centred, q)
    scale = max(float(np.trace(covariance)), 1e-100)
    regular = covariance / scale + 1e-14 * np.eye(len(slope))  # costs may be alike
    step: np.ndarray = np.linalg.solve(regular, slope)
    return step / scale
