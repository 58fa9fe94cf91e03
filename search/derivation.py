"""From alpha to one architecture: the likeliest (argmax), or the likeliest that meets the limits (constrained)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor

from engine.errors import UserError
from search.combine import least_worst, members
from search.limits import Limit, limit_names
from supernet.alpha import log_probabilities
from supernet.cost import Cost

ROUNDING = 1e-9
"""Relative; the sums of two equal sets of entries differ by less than this."""


class InfeasibleError(UserError):
    """No architecture of the space meets the limits."""


@dataclass(frozen=True)
class Derivation:
    paths: tuple[int, ...]
    log_probability: float
    """sum_e log p[e, paths[e]]."""
    notes: tuple[str, ...] = ()
    """What the reader should know, e.g. that an `at` window was empty."""


def argmax(alpha: Tensor, mask: Tensor) -> Derivation:
    """The likeliest candidate of each edge, as in the paper; limits are not looked at. Ties: the first candidate."""
    log_p = log_probabilities(alpha.detach(), mask).numpy()
    paths = tuple(int(i) for i in log_p.argmax(axis=1))
    return Derivation(paths, _log_probability(log_p, paths))


def constrained(alpha: Tensor, mask: Tensor, limits: Sequence[Limit]) -> Derivation:
    """Maximise sum_e log p[e, path_e] subject to every limit, exactly, as an integer program. See `likeliest`."""
    return likeliest(alpha, mask, limits, 1)[0]


def likeliest(alpha: Tensor, mask: Tensor, limits: Sequence[Limit], count: int) -> list[Derivation]:
    """The `count` likeliest architectures that meet every limit, exactly, the likeliest first; fewer where no more do.

    Each further one is the solution of the program that excludes those found.

    With `at`, the cost must also reach bound (1 - tolerance); where no architecture lies in that window, it is extended
    down to the nearest that does (see `extended`), and a note says so. Raises InfeasibleError naming the smallest
    reachable value.
    """
    log_p = log_probabilities(alpha.detach(), mask).numpy()
    used = list(limits)
    paths = _solve(log_p, mask.numpy(), used)
    notes: tuple[str, ...] = ()
    if paths is None and any(limit.at for limit in limits):
        used = extended(mask, limits) or []
        paths = _solve(log_p, mask.numpy(), used) if used else None
        notes = (f"no architecture lies in {_windows(limits)}; derived in the nearest below, {_windows(used)}",)
    if paths is None:
        raise _infeasible(limits)
    found = [paths]
    while len(found) < count and (following := _solve(log_p, mask.numpy(), used, found)) is not None:
        found.append(following)
    return [Derivation(paths, _log_probability(log_p, paths), notes) for paths in found]


def _windows(limits: Sequence[Limit]) -> str:
    return ", ".join(
        f"{name} [{limit.bound * (1 - limit.tolerance):.6g}, {limit.bound:.6g}] {limit.unit}"
        for name, limit in zip(limit_names(limits), limits, strict=True)
        if limit.at
    )


def _infeasible(limits: Sequence[Limit]) -> InfeasibleError:
    reach = "; ".join(
        f"{name}: bound {limit.bound:.6g}, smallest reachable {limit.cost.reachable[0]:.6g} {limit.unit}"
        for name, limit in zip(limit_names(limits), limits, strict=True)
    )
    return InfeasibleError(f"no architecture meets the limits together ({reach}); raise a bound")


def extended(mask: Tensor, limits: Sequence[Limit]) -> list[Limit] | None:
    """The limits, `at` windows reaching down to (1 - tolerance) times the largest cost below the bound that the other
    limits allow; one after the other, so an earlier window narrows what a later one can reach. None where no
    architecture is below all bounds.
    """
    found = [replace(limit, at=False) for limit in limits]
    for i, limit in enumerate(limits):
        if not limit.at:
            continue
        dearest = []
        for cost in members(limit.cost):
            # the likeliest architecture under the alpha that is the cost is the dearest one
            log_p = log_probabilities(torch.from_numpy(cost.table / limit.bound), mask).numpy()
            if (paths := _solve(log_p, mask.numpy(), found)) is None:
                return None
            dearest.append(limit.cost.of(paths))
        reach = min(1.0, max(dearest) / limit.bound)
        found[i] = replace(limit, tolerance=1 - reach * (1 - limit.tolerance))
    return found


def smallest(limit: Limit, others: Sequence[Limit]) -> float:
    """The smallest cost, in the limit's unit, of the architectures below all bounds of `others`. Raises
    InfeasibleError where there is none."""
    below = [(cost, other.bound * (1 + ROUNDING)) for other in others for cost in members(other.cost)]
    least = least_worst(members(limit.cost), below)
    if math.isinf(least):
        raise _infeasible(others)
    return least


def derive(
    alpha: Tensor,
    mask: Tensor,
    limits: Sequence[Limit],
    method: str,
    among: int = 1,
    loss: Callable[[tuple[int, ...]], float] | None = None,
) -> Derivation:
    """method: argmax or constrained; of the `among` likeliest that meet the limits, the one with the smallest `loss`.

    A path probability is learned from a linear estimate of the loss, edge by edge; this loss is of a whole network. One
    that is not a number counts as infinite.
    """
    if method == "argmax":
        return argmax(alpha, mask)
    if among == 1 or loss is None:
        return constrained(alpha, mask, limits)

    def order(found: Derivation) -> float:
        value = loss(found.paths)
        return math.inf if math.isnan(value) else value

    return min(likeliest(alpha, mask, limits, among), key=order)  # ties: the likelier


def _log_probability(log_p: np.ndarray, paths: tuple[int, ...]) -> float:
    return float(log_p[np.arange(len(paths)), list(paths)].sum())


def meets(paths: tuple[int, ...], limits: Sequence[Limit]) -> bool:
    """Whether an architecture meets every limit on the table, an `at` window's lower side included.

    Sums are compared up to ROUNDING: 50 % of the reachable range is often a sum of entries itself, and whether it then
    comes out a bit above or below the bound depends on the order of adding.
    """
    costs = [(limit.cost.of(paths) / limit.bound, limit) for limit in limits]
    return all(
        share <= 1 + ROUNDING and (not limit.at or share >= 1 - limit.tolerance - ROUNDING) for share, limit in costs
    )


def _solve(
    log_p: np.ndarray, mask: np.ndarray, limits: Sequence[Limit], excluded: Sequence[tuple[int, ...]] = ()
) -> tuple[int, ...] | None:
    """The integer program over one binary variable per (edge, candidate); None where infeasible.

    excluded: architectures that are no answer; another one differs from each on at least one edge.

    A worst case is below a bound exactly if all its members are, and reaches one if any of them does: with `at`, one
    program for each choice of the members that have to, and the likeliest of their answers.

    The solver accepts a constraint violated by 1e-6, variables that are 1e-6 off a whole number, and stops at an
    absolute gap of 1e-6. Rows are scaled such that the first is less than ROUNDING of the bound, and the objective such
    that the last is negligible in log probability. So it may return an architecture that is no answer, but never miss
    one: what it returns is added up again, and what does not meet the limits is excluded and the program solved anew.
    """
    choices = product(*(members(limit.cost) if limit.at else (None,) for limit in limits))
    found = [paths for reaching in choices if (paths := _program(log_p, mask, limits, reaching, excluded)) is not None]
    return max(found, key=lambda paths: (_log_probability(log_p, paths), [-i for i in paths]), default=None)


def _program(
    log_p: np.ndarray,
    mask: np.ndarray,
    limits: Sequence[Limit],
    reaching: Sequence[Cost | None],
    excluded: Sequence[tuple[int, ...]],
) -> tuple[int, ...] | None:
    """reaching: for each limit that is `at`, the sum that has to reach the lower side of its window."""
    edge, candidate = np.nonzero(mask)
    excluded = list(excluded)
    constraints = [LinearConstraint((edge == np.arange(len(mask))[:, None]).astype(float), 1, 1)]
    scale = 1e-6 / (ROUNDING / 10)
    for limit, reached in zip(limits, reaching, strict=True):
        for cost in members(limit.cost):
            row = scale * cost.table[edge, candidate] / limit.bound
            fixed = cost.fixed / limit.bound
            low = 1 - limit.tolerance - ROUNDING - fixed if reached is cost else -np.inf
            constraints.append(LinearConstraint(row[None], scale * low, scale * (1 + ROUNDING - fixed)))
    regret = (log_p.max(axis=1, keepdims=True) - np.where(mask, log_p, 0.0))[edge, candidate]
    regret = regret * (1e4 / regret.max()) if regret.max() > 0 else regret
    integrality = np.ones(len(regret), dtype=np.int64)
    while True:
        others = [
            LinearConstraint((candidate == np.array(paths)[edge]).astype(float)[None], -np.inf, len(paths) - 1)
            for paths in excluded
        ]
        found = milp(
            regret, constraints=[*constraints, *others], bounds=Bounds(0, 1), integrality=integrality,
            options={"mip_rel_gap": 0},
        )  # fmt: skip
        if found.status == 2:
            return None
        if not found.success:
            raise RuntimeError(f"scipy.optimize.milp: {found.message}")
        # nonzero() is in row order, so edges are too
        paths = tuple(int(i) for i in candidate[np.round(found.x).astype(bool)])
        if meets(paths, limits):
            return paths
        excluded.append(paths)
