"""A tiny space with a random cost table, for tests that need numbers and no device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.config import validate
from latency.table import LatencyTable
from search.config import BoundKind, SearchConfig
from search.limits.combine import WorstCase
from search.limits.limit import AdditiveLimit
from search.limits.resolve import UNITS
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


def limit_on(cost: Cost | WorstCase, share: float, *, at: bool = True, tolerance: float = 0.02) -> AdditiveLimit:
    """A limit on a latency at a share of the reachable range: `at`, or else `below`."""
    low, high = cost.reachable
    return bounded(cost, low + share * (high - low), "at" if at else "below", tolerance)


def bounded(
    cost: Cost | WorstCase,
    bound: float,
    kind: BoundKind = "below",
    tolerance: float = 0.0,
    *,
    metric: str = "latency",
    name: str = "",
) -> AdditiveLimit:
    """A limit with this bound, in the metric's unit, without tables."""
    return AdditiveLimit(
        name=name or metric, metric=metric, kind=kind, bound=bound, unit=UNITS[metric], tolerance=tolerance, cost=cost
    )


@pytest.fixture
def make_cost():
    return random_cost


@pytest.fixture
def make_limit():
    return limit_on


@pytest.fixture
def make_bounded():
    return bounded


@pytest.fixture
def make_tiny_config():
    return tiny_config


def search_file(limits: list[dict[str, Any]], space: dict[str, object] | None = None, **sections: Any) -> SearchConfig:
    """A search of the tiny space under these limits, as read from a file called search.yaml."""
    data = {"name": "fake", "fake_images": 80, "fake_classes": 4, "validation": 0.4}
    search = {"warmup_epochs": 0, "epochs": 1, "batch_size": 8, "arch_every": 2, "bn_batches": 1}
    config = {"space": space or tiny_config(), "data": data, "limits": limits, "search": search}
    return validate(SearchConfig, config | {"run": {"threads": 1, "checkpoint_every": 3}} | sections, "search.yaml")


def made_table(space: Space, path: Path, **changes: Any) -> LatencyTable:
    """A complete table of another device, saved at `path`: 0.1 ms a layer and 1 ms for 1e6 MACs, 10 GMAC/s at most.

    Its column energy_mj is 0.25 for each network, and for each layer half of its ms.
    """
    ms = {str(layer): 0.1 + layer.complexity.macs / 1e6 for layer in space.all_layers if str(layer.spec) != "skip"}
    values = {
        "device": {"kind": "other", "name": "made up", "fingerprint": "none"},
        "runtime": {"name": "pytorch", "version": "1"},
        "threads": 1,
        "batch": 1,
        "dtype": "float32",
        "memory_format": "channels_last",
        "activation": space.config.activation,
        "input_size": space.config.input_size,
        "date": "2026-01-31",
        "method": "in_context",
        "how": "made up for a test",
        "constant_ms": 0.5,
        "columns": {
            "energy_mj": {"unit": "mJ", "how": "made up", "constant": 0.25, "values": {k: v / 2 for k, v in ms.items()}}
        },
        "entries": {key: {"median_ms": value, "n": 3} for key, value in ms.items()},
    }
    table = validate(LatencyTable, values | changes, str(path))
    table.save(path)
    return table


def verification(error: float = 2.5, *, holds: bool = True) -> dict[str, Any]:
    """A table's section `verification` with this MAPE in percent."""
    scores = {"mape_percent": error, "rmse_ms": 0.1, "bias_percent": 0.0, "mape_percent_thirds": [error, error, error]}
    return {
        "date": "2026-01-31",
        "networks": 4,
        "measured_range_ms": [1.0, 3.0],
        "noise_mape_percent": 1.2,
        **dict.fromkeys(("table", "raw", "constant", "macs"), scores),
        "holds": holds,
        "measured_ms": [1.0, 1.5, 2.0, 3.0],
        "predicted_ms": [1.0, 1.5, 2.0, 3.0],
    }


@pytest.fixture
def make_search_file():
    return search_file


@pytest.fixture
def make_table():
    return made_table


@pytest.fixture
def make_verification():
    return verification
