"""A tiny space with a random cost table, for tests that need numbers and no device."""

from __future__ import annotations

import numpy as np
import pytest

from search.limits import Limit
from supernet.cost import Cost
from supernet.space import Space, SpaceConfig


def tiny_config(**changes: object) -> dict[str, object]:
    config: dict[str, object] = {
        "input_size": 8,
        "input_channels": 1,
        "classes": 4,
        "stem": {"kernel": 3, "stride": 1, "width": 4},
        "stages": [
            {"width": 4, "depth": 2, "candidates": ["mbconv_k3_e1", "mbconv_k3_e2", "skip"]},
            {"width": 8, "depth": 2, "stride": 2, "candidates": ["mbconv_k3_e1", "conv_k3", "skip"]},
        ],
        "feature_mix": 8,
    }
    return config | changes


@pytest.fixture
def space() -> Space:
    """4 searchable edges; the third, which changes the shape, has 2 candidates and the others 3."""
    return Space(SpaceConfig.model_validate(tiny_config(), strict=False))


def random_cost(space: Space, seed: int) -> Cost:
    """Costs like a latency table's: `skip` free, everything else between 1 and 5."""
    rng = np.random.default_rng(seed)
    prices: dict[object, float] = {}
    return Cost.of_space(
        space, lambda layer, _: 0.0 if str(layer.spec) == "skip" else prices.setdefault(layer, rng.uniform(1, 5))
    )


def limit_on(cost: Cost, share: float, *, at: bool = True, tolerance: float = 0.02) -> Limit:
    """A limit at a share of the reachable range."""
    low, high = cost.reachable
    return Limit("latency", low + share * (high - low), at, tolerance, cost)


@pytest.fixture
def make_cost():
    return random_cost


@pytest.fixture
def make_limit():
    return limit_on


@pytest.fixture
def make_tiny_config():
    return tiny_config
