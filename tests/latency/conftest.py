"""Fixtures: a space that is small enough to be measured in a test, and the settings for it."""

from __future__ import annotations

import pytest

from latency.config import MeasureConfig
from supernet.space import Space

SMALL = {
    "input_size": 8,
    "input_channels": 1,
    "classes": 2,
    "stem": {"kernel": 3, "stride": 1, "width": 8},
    "stages": [
        {"width": 8, "candidates": ["mbconv_k3_e3", "mbconv_k3_e3_se", "conv_k1", "skip"]},
        {"width": 16, "depth": 2, "stride": 2, "first": ["proj", "conv_k3"], "candidates": ["mbconv_k3_e1", "skip"]},
    ],
    "feature_mix": 16,
}


@pytest.fixture(scope="session")
def small_section() -> dict[str, object]:
    """The YAML section of the small space."""
    return SMALL


@pytest.fixture
def small_space(space_of) -> Space:
    """Three searchable edges with 4, 2 and 2 candidates."""
    return space_of(SMALL)


@pytest.fixture
def quick() -> MeasureConfig:
    """Settings with as few timings as are allowed."""
    return MeasureConfig(rounds=2, passes=2, warmup_passes=1, coverings=2, calibration_networks=10)
