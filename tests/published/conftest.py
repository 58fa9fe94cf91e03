"""Fixtures that tests of published networks share: real photographs that come with Python packages."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

PHOTOGRAPHS = {
    "china": ("sklearn.datasets", "images/china.jpg"),
    "flower": ("sklearn.datasets", "images/flower.jpg"),
    "grace_hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    "camera": ("skimage", "data/camera.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
}
"""The package and the path in it of each photograph."""


class Photographs:
    """The photographs by name; asking for one whose package is not installed skips the test."""

    def __getitem__(self, name: str) -> Path:
        package, inside = PHOTOGRAPHS[name]
        found = find_spec(package)
        if found is None or found.origin is None:
            pytest.skip(f"{package} is not installed, which has the photograph {name} (pip install scikit-image)")
        return Path(found.origin).parent / inside


@pytest.fixture(scope="session")
def photographs() -> Photographs:
    return Photographs()
