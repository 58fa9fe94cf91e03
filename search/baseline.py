"""Random architectures that meet the limits: what a search has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from search.derivation import InfeasibleError, meets
from search.limits import Limit
from supernet.space import Space

MOST_DRAWS = 1_000_000


def random_architectures(
    space: Space, limits: Sequence[Limit], count: int, *, seed: int, tolerance: float | None = None
) -> list[tuple[int, ...]]:
    """`count` distinct paths, uniform among all architectures that meet the limits (rejection of uniform draws).

    tolerance: replaces that of `at` limits, which asks for costs in [bound (1 - tolerance), bound].
    Raises InfeasibleError if MOST_DRAWS draws do not find enough.
    """
    if tolerance is not None:
        limits = [replace(limit, tolerance=tolerance) for limit in limits]
    rng = np.random.default_rng(seed)
    counts = space.mask.sum(axis=1)
    found: dict[tuple[int, ...], None] = {}
    for _ in range(MOST_DRAWS):
        paths = tuple(int(i) for i in rng.integers(counts))
        if meets(paths, limits):
            found[paths] = None
            if len(found) == count:
                return list(found)
    raise InfeasibleError(f"{MOST_DRAWS} random architectures held only {len(found)} of {count} that meet the limits")
