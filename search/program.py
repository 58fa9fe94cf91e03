"""Solves integer programs by scipy.optimize.milp (HiGHS) within a time limit, and marks results that are not proven by
then."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp

from engine.errors import UserError

MOST_SECONDS = 60.0
"""The time limit of one call that solves programs, such as a derivation. With windows of 0.1 % and more it takes well
under a second (docs/design.md)."""
MOST_SECONDS_TO_CONFIRM = 5.0
"""The time limit of the second solution of a program that seems to have none."""


class UnfinishedError(UserError):
    """The solver has neither found an answer nor proven that there is none."""


@dataclass(frozen=True)
class Deadline:
    """A time limit that several programs share."""

    seconds: float
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        return max(0.0, self.began + self.seconds - time.monotonic())


@dataclass(frozen=True)
class Solution:
    """The result of an integer program."""

    x: np.ndarray | None
    """The solution. None if none exists (`proven`), or if none was found in time."""
    proven: bool
    """Whether the solver finished, so that the result is exact."""
    least: float
    """A lower bound on the objective of every solution; infinite if there is none."""


def solve(
    objective: np.ndarray,
    constraints: Sequence[LinearConstraint],
    bounds: Bounds,
    integrality: np.ndarray,
    deadline: Deadline,
) -> Solution:
    """Minimises `objective @ x`. Raises UnfinishedError if the solver gives up for another reason than the deadline.

    The presolve of HiGHS (1.12, in scipy 1.17) calls some programs infeasible that are not: 2 of 250 on tiny spaces of
    which costs differ by a factor of 1e6. So a program without a solution is solved again without it; if that takes
    too long, the first answer counts.
    """

    def minimised(seconds: float, *, presolve: bool) -> OptimizeResult:
        return milp(
            objective, constraints=constraints, bounds=bounds, integrality=integrality,
            options={"mip_rel_gap": 0, "time_limit": seconds, "presolve": presolve},
        )  # fmt: skip

    answer = minimised(deadline.left, presolve=True)
    if answer.status == 2:
        again = minimised(min(deadline.left, MOST_SECONDS_TO_CONFIRM), presolve=False)
        if again.x is None:
            return Solution(None, True, math.inf)
        answer = again
    least = answer.get("mip_dual_bound")
    if answer.status not in (0, 1):
        raise UnfinishedError("the solver of integer programs (scipy.optimize.milp) gives up", answer.message)
    return Solution(answer.x, answer.status == 0, -math.inf if least is None else float(least))
