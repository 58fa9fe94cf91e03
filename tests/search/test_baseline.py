"""Tests that random architectures are uniform among all that meet the limits, for any bound."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest

from search.baseline import random_architectures
from search.derive.derivation import InfeasibleError, meets


@pytest.mark.parametrize(("share", "at"), [(0.15, True), (0.5, True), (0.9, True), (1.0, True), (0.3, False)])
@pytest.mark.parametrize("listed", [True, False])
def test_draws_are_uniform_among_those_that_meet_the_limit(
    space, make_cost, make_limit, share, at, listed, monkeypatch
):
    """The first of each seed's draws: its frequencies by chi-squared, at four standard deviations. Likewise where the
    space is drawn from because it is too large to be listed; at the largest cost, no distribution with the bound for
    its mean has another network than the dearest."""
    if not listed:
        monkeypatch.setattr("search.baseline.FEW", 0)
        monkeypatch.setattr("search.baseline.MOST_DRAWS", 2000)
    monkeypatch.setattr("search.baseline.AT_ONCE", 50)
    limit = make_limit(make_cost(space, 3), share, at=at, tolerance=0.4)
    fitting = [x for x in product(range(3), range(3), range(2), range(3)) if meets(x, [limit])]
    assert 3 <= len(fitting) < 54
    count = 12 * len(fitting)
    frequencies = Counter(random_architectures(space, [limit], 1, seed=seed)[0] for seed in range(count))
    assert set(frequencies) <= set(fitting)
    squared = sum((frequencies[x] - 12) ** 2 / 12 for x in fitting)
    freedom = len(fitting) - 1
    assert squared < freedom + 4 * np.sqrt(2 * freedom)


def test_fewer_networks_are_accepted_down_to_at_least(space, make_cost, make_limit):
    limit = make_limit(make_cost(space, 0), 0.5, tolerance=0.2)
    count = sum(meets(x, [limit]) for x in product(range(3), range(3), range(2), range(3)))
    assert len(random_architectures(space, [limit], 1000, seed=0, at_least=1)) == count
    with pytest.raises(InfeasibleError, match=f"hold only {count} of 1000"):
        random_architectures(space, [limit], 1000, seed=0)
