"""Integer programs, solved by scipy.optimize.milp (HiGHS) within a time: what is not proven by then is not claimed."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from engine.errors import UserError

MOST_SECONDS = 60.0
"""Of one question to the solver. With windows of 0.1 % and more it takes well under a second (docs/design.md)."""


class UnfinishedError(UserError):
    """The solver has neither found an answer nor proven that there is none."""


@dataclass(frozen=True)
class Deadline:
    """A time to be used up by several programs together."""

    seconds: float
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        return max(0.0, self.began + self.seconds - time.monotonic())


@dataclass(frozen=True)
class Solution:
    x: np.ndarray | None
    """None: none exists if `proven`, else none was found in time."""
    proven: bool
    """Whether the solver has come to its end."""
    least: float
    """No solution has a smaller objective; infinite if none exists."""


def solve(
    objective: np.ndarray,
    constraints: Sequence[LinearConstraint],
    bounds: Bounds,
    integrality: np.ndarray,
    deadline: Deadline,
) -> Solution:
    """Minimise objective x. Raises UnfinishedError where the solver gives up for another reason than the deadline."""
    found = milp(
        objective, constraints=constraints, bounds=bounds, integrality=integrality,
        options={"mip_rel_gap": 0, "time_limit": deadline.left},
    )  # fmt: skip
    if found.status == 2:
        return Solution(None, True, math.inf)
    least = found.get("mip_dual_bound")
    if found.status not in (0, 1):
        raise UnfinishedError(f"the solver of integer programs (scipy.optimize.milp) gives up: {found.message}")
    return Solution(found.x, found.status == 0, -math.inf if least is None else float(least))
