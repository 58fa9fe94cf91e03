"""Random architectures that meet the limits: what a search has to beat."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import product

import numpy as np
from scipy.optimize import linprog

from search.derive.derivation import InfeasibleError, meeting
from search.learn.projection import Projector
from search.limits.combine import members
from search.limits.limit import AdditiveLimit
from supernet.alpha import Alpha
from supernet.space import Space

MOST_DRAWS = 1_000_000
AT_ONCE = 10_000
FEW = 10_000
"""Spaces of at most so many architectures are listed instead of drawn from."""


def random_architectures(
    space: Space,
    limits: Sequence[AdditiveLimit],
    count: int,
    *,
    seed: int,
    tolerance: float | None = None,
    at_least: int | None = None,
) -> list[tuple[int, ...]]:
    """Returns `count` distinct paths, uniform among all architectures that meet the limits.

    tolerance: replaces that of `at` limits, which asks for costs in [bound (1 - tolerance), bound].
    Raises InfeasibleError if fewer than `count` are found, or than `at_least` if that is given.
    """
    if tolerance is not None:
        limits = [replace(limit, tolerance=tolerance) for limit in limits]
    rng = np.random.default_rng(seed)
    few = math.prod(len(edge.candidates) for edge in space.searchable) <= FEW
    networks: dict[tuple[int, ...], None] = {}
    for drawn in _listed(space, limits, rng) if few else _drawn(space, limits, rng):
        networks |= dict.fromkeys(map(tuple, drawn.tolist()))
        if len(networks) >= count:
            return list(networks)[:count]
    if at_least is not None and len(networks) >= at_least:
        return list(networks)
    looked = "all architectures of the space hold" if few else f"{MOST_DRAWS} or more random architectures held"
    raise InfeasibleError(found=f"{looked} only {len(networks)} of {count} that meet the limits")


def every_architecture(space: Space) -> np.ndarray:
    """Returns the paths of all architectures of a space that is small enough: (n, E) int64."""
    return np.array(list(product(*(range(n) for n in space.mask.sum(axis=1)))), dtype=np.int64)


def _listed(space: Space, limits: Sequence[AdditiveLimit], rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yields all architectures that meet the limits, in a random order: (n, E) int64."""
    every = every_architecture(space)
    yield rng.permutation(every[meeting(every, limits)])


def _tilted(uniform: Alpha, limits: Sequence[AdditiveLimit]) -> Iterator[Alpha]:
    """Yields distributions to draw from: the projection of equal probabilities onto the limits, and then that onto the
    lower side of each `at` window.

    Near the largest cost of a space, nearly all networks of a window are at its lower side, and the first distribution
    has hardly any of them.
    """
    yield Projector(limits)(uniform).alpha
    lower = [
        replace(limit, bound=max(limit.bound - limit.tolerance * limit.scale, limit.cost.reachable[0]))
        if limit.kind == "at"
        else limit
        for limit in limits
    ]
    if any(low.bound < limit.bound for low, limit in zip(lower, limits, strict=True)):
        with suppress(InfeasibleError):  # the other limits may exclude the lower side
            yield Projector(lower)(uniform).alpha


def _drawn(space: Space, limits: Sequence[AdditiveLimit], rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yields those of MOST_DRAWS random architectures that are kept and meet the limits, (n, E) int64 at a time; then
    those of as many from a second distribution, if there is one.

    They are drawn from a tilt of equal probabilities, p(x) ~ exp(-sum_k tau_k F_k(x)), since few uniform draws come
    near a bound far from the middle; each is kept with a probability proportional to 1 / p(x), which takes the tilt off
    again.
    """
    real, uniform = space.mask, Alpha.of_space(space)
    log_uniform, rows = uniform.log_probabilities().numpy(), np.arange(len(real))
    for tilted in _tilted(uniform, limits):
        log_p = tilted.log_probabilities().numpy()
        weights = np.zeros(log_p.shape)  # log 1 / p, up to a constant
        weights[real] = log_uniform[real] - log_p[real]
        heaviest = _largest(weights, real, limits)
        for _ in range(MOST_DRAWS // AT_ONCE):
            drawn = (log_p[None] + rng.gumbel(size=(AT_ONCE, *log_p.shape))).argmax(axis=2)
            keep = np.log(rng.uniform(size=AT_ONCE)) <= weights[rows, drawn].sum(axis=1) - heaviest
            yield drawn[keep & meeting(drawn, limits)]


def _largest(weights: np.ndarray, real: np.ndarray, limits: Sequence[AdditiveLimit]) -> float:
    """Returns an upper bound on the sum of weights (E, N) over the architectures that meet the limits: the linear
    relaxation.

    Exact to a fraction of an entry, and quick where the integer program is not: the weights are a multiple of a limit's
    own costs, so that nearly all architectures of a window are nearly as good.
    """
    edge, candidate = np.nonzero(real)
    rows, bounds = [], []
    for limit in limits:
        for cost in members(limit.cost):
            unit = max(abs(limit.bound), 1e-300)
            row = cost.table[edge, candidate] / unit
            rows.append(row)
            bounds.append((limit.bound - cost.fixed) / unit + 1e-9)
            # of a worst case, any member may be the one that reaches the window
            if limit.kind == "at" and cost is limit.cost:
                rows.append(-row)
                bounds.append(-((limit.bound - cost.fixed) / unit - limit.tolerance) + 1e-9)
    solution = linprog(
        -weights[edge, candidate],
        A_ub=np.array(rows) if rows else None,
        b_ub=np.array(bounds) if rows else None,
        A_eq=(edge == np.arange(len(real))[:, None]).astype(float),
        b_eq=np.ones(len(real)),
        bounds=(0, 1),
    )
    if solution.status != 0:  # no distribution, so no architecture, meets the limits
        return float(np.where(real, weights, -np.inf).max(axis=1).sum())
    return -float(solution.fun or 0.0)
