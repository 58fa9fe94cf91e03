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
    """What an expectation has to be: equal to its limit's bound, or at most that."""

    limit: AdditiveLimit
    cost: Cost
    """That of the limit; of a worst case, one of its members."""
    equal: bool


@dataclass(frozen=True)
class Projected:
    alpha: Alpha
    """Its values are log q, (E, N) float64, and 0 where padded. Rounded to float32 they still have the expected cost to
    about 1e-7 of the reachable range, however far apart they are, because those of likely candidates are near 0."""
    pressures: tuple[float, ...]
    """For each limit, tau times its bound: by how much the log-odds of a candidate that costs all of it fall. For a
    worst case, the sum over its members."""


class Projector:
    """Projects alpha onto what the limits allow. Made once for a search, since it takes linear programs to find out
    which targets can be met together. Raises InfeasibleError if not even all costs can be below their bounds."""

    def __init__(self, limits: Sequence[AdditiveLimit]):
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
        found = [nearest(log_p, targets) for targets in self.choices]
        best = min(range(len(found)), key=lambda i: found[i].divergence)
        tau = iter(found[best].tau.tolist())
        pressures = tuple(sum(next(tau) for _ in members(limit.cost)) for limit in self.limits)
        values = torch.from_numpy(found[best].log_q).masked_fill(~alpha.mask, 0.0)
        return Projected(alpha.with_values(values), pressures)


def targets_of(limits: Sequence[AdditiveLimit]) -> list[tuple[Target, ...]]:
    """Returns what the expectations have to be: one tuple of targets, or several of which any will do, or none if no
    distribution meets the limits together. Each tuple has a target for each member of each limit, in their order.

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
    """Whether some distribution over paths, edges independent, meets all targets: a linear program in its q."""
    F, T, equal = _scaled(targets)
    mask = targets[0].cost.mask
    edge, candidate = np.nonzero(mask)
    one_each = (edge == np.arange(len(mask))[:, None]).astype(float)
    rows = F[:, edge, candidate]
    found = linprog(
        np.zeros(len(edge)),
        A_eq=np.vstack([one_each, rows[equal]]),
        b_eq=np.concatenate([np.ones(len(mask)), T[equal]]),
        A_ub=rows[~equal],
        b_ub=T[~equal],
        bounds=(0, 1),
        options={"primal_feasibility_tolerance": 1e-10},  # the least that HiGHS takes
    )
    return bool(found.status != 2)  # 2: there is none


def _scaled(targets: Sequence[Target]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """F (K, E, N) and T (K,), as shares of each bound and without fixed costs; equal (K,) bool."""
    units = np.array([magnitude([t.cost], t.limit.bound) for t in targets])
    F = np.stack([t.cost.table for t in targets])
    T = np.array([t.limit.bound - t.cost.fixed for t in targets])
    return F / units[:, None, None], T / units, np.array([t.equal for t in targets])


@dataclass(frozen=True)
class Nearest:
    log_q: np.ndarray
    """(E, N), -inf where padded."""
    tau: np.ndarray
    """(K,), for costs as shares of their bounds."""
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
    """tau (K,) of the projection.

    Where p has decided against the targets, the dual is nearly all flat faces and edges, among which an ascent from 0
    may lose its way. Then it begins at the solution for p flattened, p^(1/2) normalised, whose multipliers are about
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
    """Maximises the dual from tau on, and returns whether that came to its end.

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
    """Whether a change of tau raises the dual, whose tilt so far is log_q, as its slope promises, up to rounding."""
    _, log_z = _tilted(log_q, F, change)
    rounding = 1e-14 * (1 + float(np.abs(change) @ np.abs(F).max(axis=(1, 2))))
    return -float(log_z.sum() + change @ T) >= 1e-4 * float(slope @ change) - rounding


def _tilted(log_p: np.ndarray, F: np.ndarray, tau: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log of p exp(-sum_k tau_k F_k) normalised within each edge, (E, N), and log of what it was divided by, (E,)."""
    logits = log_p - np.tensordot(tau, F, axes=1)
    top = logits.max(axis=1, keepdims=True)
    logits = logits - top  # first: where logits are large, their digits are few
    log_z = np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logits - log_z, (top + log_z)[:, 0]


def _newton_step(F: np.ndarray, q: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """The Newton step of the dual in tau (K,). F (K, E, N), q (E, N), slope (K,).

    The dual's curvature is minus the covariance of the K costs under q; it vanishes where q has decided.
    """
    centred = F - (F * q).sum(axis=2, keepdims=True)
    covariance = np.einsum("ken,len,en->kl", centred, centred, q)
    scale = max(float(np.trace(covariance)), 1e-100)
    regular = covariance / scale + 1e-14 * np.eye(len(slope))  # costs may be alike
    step: np.ndarray = np.linalg.solve(regular, slope)
    return step / scale
