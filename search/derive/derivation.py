"""Derives one architecture from alpha: the likeliest (argmax), or the likeliest that meets the limits (constrained).

E is the number of searchable edges, N that of the candidates of an edge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint

from engine.errors import UserError
from engine.progress import Report, reported, silent
from engine.quantities import quantity
from search.limits.combine import least_worst, members
from search.limits.limit import ROUNDING, AdditiveLimit
from search.program import MOST_SECONDS, Deadline, UnfinishedError, solve
from supernet.alpha import Alpha
from supernet.cost import Cost


class InfeasibleError(UserError):
    """No architecture of the space meets the limits."""


@dataclass(frozen=True)
class Derivation:
    """An architecture that was derived from alpha."""

    paths: tuple[int, ...]
    """The index of the candidate of each edge."""
    log_probability: float
    """sum_e log p[e, paths[e]]."""
    notes: tuple[str, ...] = ()
    """Notes for the user, e.g. that an `at` window was empty."""
    proven: bool = True
    """Whether no other architecture that meets the limits is likelier. False if the time limit has stopped the
    solver."""


def argmax(alpha: Alpha) -> Derivation:
    """Returns the likeliest candidate of each edge, as in the paper; limits are not looked at. Ties: the first
    candidate."""
    log_p = alpha.log_probabilities().numpy()
    paths = tuple(int(i) for i in log_p.argmax(axis=1))
    return Derivation(paths, _log_probability(log_p, paths))


def constrained(alpha: Alpha, limits: Sequence[AdditiveLimit], seconds: float = MOST_SECONDS) -> Derivation:
    """Returns the architecture that maximises sum_e log p[e, path_e] subject to every limit, exactly, by an integer
    program. See `likeliest`."""
    return likeliest(alpha, limits, 1, seconds)[0]


def likeliest(
    alpha: Alpha, limits: Sequence[AdditiveLimit], count: int, seconds: float = MOST_SECONDS
) -> list[Derivation]:
    """Returns exactly the `count` likeliest architectures that meet every limit, the likeliest first; fewer if no more
    do.

    Each further one is the solution of the program that excludes those networks.

    With `at`, the cost must also reach bound (1 - tolerance). If no architecture lies in that window, it is extended
    down to the nearest one (see `extended`), and a note is added. Raises InfeasibleError naming the smallest reachable
    value.

    seconds: the time limit for each architecture. If it stops the solver, the best architecture found is returned,
    marked as not proven, with a note; if none was found, UnfinishedError is raised.
    """
    log_p, mask = alpha.log_probabilities().numpy(), alpha.mask
    used, notes = list(limits), list[str]()
    answer = _solve(log_p, mask.numpy(), used, seconds)
    if answer.paths is None and answer.proven and any(limit.kind == "at" for limit in limits):
        used, nearest = extended(mask, limits, seconds)
        notes.append(f"no architecture lies in {_windows(limits)}; derived in the nearest below, {_windows(used)}")
        if not nearest:
            notes.append(f"a nearer window may exist: the search for it was stopped after {seconds:g} s")
        answer = _solve(log_p, mask.numpy(), used, seconds)
    if answer.paths is None:
        raise infeasible(limits) if answer.proven else _unfinished(limits, seconds)
    networks = [answer.paths]
    while answer.proven and len(networks) < count:
        answer = _solve(log_p, mask.numpy(), used, seconds, networks)
        if answer.paths is None:
            break
        networks.append(answer.paths)
    if not answer.proven:
        notes.append(_unproven(answer, log_p, networks, count, seconds))
    return [Derivation(paths, _log_probability(log_p, paths), tuple(notes), answer.proven) for paths in networks]


def _windows(limits: Sequence[AdditiveLimit]) -> str:
    """Returns the range of costs that each `at` allows, as text."""
    return ", ".join(
        f"{limit.name} [{quantity(limit.bound - limit.tolerance * limit.scale, limit.unit, 6)}, "
        f"{quantity(limit.bound, limit.unit, 6)}]"
        for limit in limits
        if limit.kind == "at"
    )


def infeasible(limits: Sequence[AdditiveLimit]) -> InfeasibleError:
    """Returns the error that no architecture meets the limits; it names each bound and the smallest reachable cost."""
    reach = "; ".join(
        f"{limit.name}: bound {quantity(limit.bound, limit.unit, 6)}, smallest reachable "
        f"{quantity(limit.cost.reachable[0], limit.unit, 6)}"
        for limit in limits
    )
    return InfeasibleError(found=f"no architecture meets the limits together ({reach})", remedy="raise a bound")


QUICKER = "a larger `tolerance`, or `below` in place of an `at`, makes that quick"
"""The remedy if the solver has not finished in its time."""


def _unfinished(limits: Sequence[AdditiveLimit], seconds: float) -> UnfinishedError:
    return UnfinishedError(
        found=f"in {seconds:g} s no architecture was found that meets the limits "
        f"({_windows(limits) or 'upper bounds'}), nor proven that there is none",
        remedy=QUICKER,
    )


def _unproven(last: _Answer, log_p: np.ndarray, networks: Sequence[tuple[int, ...]], count: int, seconds: float) -> str:
    """Returns the note about a program that the time limit has stopped, after `networks`."""
    if last.paths is None:
        return (
            f"{len(networks)} of {count} likeliest networks: the search for the next was stopped after {seconds:g} s; "
            f"{QUICKER}"
        )
    ahead = max(0.0, last.most - _log_probability(log_p, networks[-1]))
    which = "the network" if len(networks) == 1 else f"network {len(networks)} of {count}"
    return (
        f"{which} meets the limits but is not proven to be the likeliest that does: the solver was stopped after "
        f"{seconds:g} s, and another one may be likelier by up to {ahead:.3g} in log p; {QUICKER}"
    )


def extended(
    mask: torch.Tensor, limits: Sequence[AdditiveLimit], seconds: float = MOST_SECONDS
) -> tuple[list[AdditiveLimit], bool]:
    """Returns the limits with extended `at` windows, and whether the largest costs behind them are proven.

    Each window reaches down to (1 - tolerance) times the largest cost below the bound that the other limits allow. The
    windows are extended one after the other, so an earlier one narrows what a later one can reach.

    Raises InfeasibleError if no architecture is below all bounds, UnfinishedError if none was found in time.
    """
    widened, proven = [replace(limit, kind="below") for limit in limits], True
    for i, limit in enumerate(limits):
        if limit.kind == "below":
            continue
        dearest = []
        for cost in members(limit.cost):
            # the likeliest architecture under the alpha that is the cost is the dearest one
            log_p = Alpha(torch.from_numpy(cost.table / limit.scale), mask).log_probabilities().numpy()
            answer = _solve(log_p, mask.numpy(), widened, seconds)
            if answer.paths is None:
                raise infeasible(limits) if answer.proven else _unfinished(limits, seconds)
            proven &= answer.proven
            dearest.append(limit.cost.of(answer.paths))
        low = max(dearest) - limit.tolerance * abs(max(dearest))
        widened[i] = replace(limit, tolerance=max(limit.tolerance, (limit.bound - low) / limit.scale))
    return widened, proven


def smallest(limit: AdditiveLimit, others: Sequence[AdditiveLimit]) -> float:
    """Returns the smallest cost, in the limit's unit, of the architectures below all bounds of `others`. Raises
    InfeasibleError if there is none."""
    below = [(cost, other.most) for other in others for cost in members(other.cost)]
    least = least_worst(members(limit.cost), below)
    if math.isinf(least):
        raise infeasible(others)
    return least


def derive(
    alpha: Alpha,
    limits: Sequence[AdditiveLimit],
    method: str,
    among: int = 1,
    loss: Callable[[tuple[int, ...]], float] | None = None,
    report: Report = silent,
    what: str = "deriving",
) -> Derivation:
    """Derives an architecture: among the `among` likeliest that meet the limits, the one with the smallest `loss`.

    method: argmax or constrained. A path probability is learned from a linear estimate of the loss, edge by edge; this
    loss is of a whole network. A loss that is not a number counts as infinite. report: called during the scoring, as a
    part of `what`.
    """
    if method == "argmax":
        return argmax(alpha)
    if among == 1 or loss is None:
        return constrained(alpha, limits)

    def order(derivation: Derivation) -> float:
        value = loss(derivation.paths)
        return math.inf if math.isnan(value) else value

    candidates = likeliest(alpha, limits, among)
    scoring = reported(candidates, f"{what}: scoring the candidates", len(candidates), report)
    return min(scoring, key=order)  # if losses tie, the likelier one


def _log_probability(log_p: np.ndarray, paths: tuple[int, ...]) -> float:
    """Returns sum_e log p[e, paths[e]]. log_p: (E, N)."""
    return float(log_p[np.arange(len(paths)), list(paths)].sum())


def meets(paths: tuple[int, ...], limits: Sequence[AdditiveLimit]) -> bool:
    """Returns whether an architecture meets every limit on the table, an `at` window's lower side included.

    Sums are compared up to ROUNDING: 50 % of the reachable range is often a sum of entries itself, and whether it then
    comes out a bit above or below the bound depends on the order of adding.
    """
    return bool(meeting(np.array([paths], dtype=np.int64), limits)[0])


def meeting(networks: np.ndarray, limits: Sequence[AdditiveLimit]) -> np.ndarray:
    """Returns whether each of many architectures, (n, E) int64, meets every limit (see `meets`): (n,) bool."""
    rows = np.arange(networks.shape[1])
    fine = np.ones(len(networks), dtype=bool)
    for limit in limits:
        costs = np.max([m.fixed + m.table[rows, networks].sum(axis=1) for m in members(limit.cost)], axis=0)
        fine &= costs <= limit.most
        if limit.kind == "at":
            fine &= costs >= limit.least
    return fine


@dataclass(frozen=True)
class _Answer:
    """The result of one integer program, or of several of which the best counts."""

    paths: tuple[int, ...] | None
    """The solution. None if no architecture meets the limits (`proven`), or if none was found in time."""
    proven: bool
    most: float
    """An upper bound on the log probability of every architecture that meets the limits."""


def _solve(
    log_p: np.ndarray,
    mask: np.ndarray,
    limits: Sequence[AdditiveLimit],
    seconds: float,
    excluded: Sequence[tuple[int, ...]] = (),
) -> _Answer:
    """Solves the integer program over one binary variable per (edge, candidate).

    log_p, mask: (E, N). excluded: architectures that are no answer; the answer differs from each on at least one edge.

    A worst case is below a bound exactly if all its members are, and reaches one if any of them does: with `at`, one
    program for each choice of the members that have to, and the likeliest of their answers.

    The solver accepts a constraint violated by 1e-6, variables that are 1e-6 off a whole number, and stops at an
    absolute gap of 1e-6. Rows are scaled such that the first is less than ROUNDING of the bound, and the objective such
    that the last is negligible in log probability. So it may return an architecture that is no answer, but never miss
    one: what it returns is added up again, and what does not meet the limits is excluded and the program solved anew.
    """
    choices = product(*(members(limit.cost) if limit.kind == "at" else (None,) for limit in limits))
    deadline = Deadline(seconds)
    answers = [_program(log_p, mask, limits, reaching, excluded, deadline) for reaching in choices]
    paths = max(
        (answer.paths for answer in answers if answer.paths is not None),
        key=lambda paths: (_log_probability(log_p, paths), [-i for i in paths]),
        default=None,
    )
    return _Answer(paths, all(answer.proven for answer in answers), max(answer.most for answer in answers))


def _program(
    log_p: np.ndarray,
    mask: np.ndarray,
    limits: Sequence[AdditiveLimit],
    reaching: Sequence[Cost | None],
    excluded: Sequence[tuple[int, ...]],
    deadline: Deadline,
) -> _Answer:
    """Solves one integer program.

    log_p, mask: (E, N). reaching: for each limit that is `at`, the sum that has to reach the lower side of its window;
    None for the others. excluded, and how rows and objective are scaled: see `_solve`.
    """
    edge, candidate = np.nonzero(mask)
    excluded = list(excluded)
    constraints = [LinearConstraint((edge == np.arange(len(mask))[:, None]).astype(float), 1, 1)]
    for limit, reached in zip(limits, reaching, strict=True):
        scale = 1e-6 / (ROUNDING / 10) / limit.scale
        for cost in members(limit.cost):
            row = scale * cost.table[edge, candidate]
            low = scale * (limit.least - cost.fixed) if reached is cost else -np.inf
            constraints.append(LinearConstraint(row[None], low, scale * (limit.most - cost.fixed)))
    best = log_p.max(axis=1, keepdims=True)
    # the objective: by how much each variable's candidate is less likely than the best of its edge, in log p
    regret = (best - np.where(mask, log_p, 0.0))[edge, candidate]
    stretch = 1e4 / regret.max() if regret.max() > 0 else 1.0
    while True:
        others = [
            LinearConstraint((candidate == np.array(paths)[edge]).astype(float)[None], -np.inf, len(paths) - 1)
            for paths in excluded
        ]
        solution = solve(
            stretch * regret, [*constraints, *others], Bounds(0, 1), np.ones(len(regret), dtype=np.int64), deadline
        )
        most = float(best.sum()) - max(0.0, solution.least / stretch)
        if solution.x is None:
            return _Answer(None, solution.proven, most)
        # nonzero() is in row order, so edges are too
        paths = tuple(int(i) for i in candidate[np.round(solution.x).astype(bool)])
        if meets(paths, limits):
            return _Answer(paths, solution.proven, most)
        excluded.append(paths)
