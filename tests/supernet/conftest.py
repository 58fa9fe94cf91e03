"""Spaces by name, random paths."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from supernet import CANDIDATES, Space, SpaceConfig

SPACES = Path(__file__).parent / "spaces"


@pytest.fixture(autouse=True)
def one_thread():
    """Sets torch to one thread: with tensors as small as these, threads would mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def load_space() -> Callable[..., Space]:
    """load_space("cifar", classes=100): the space of spaces/cifar.yaml with some keys replaced."""

    def load(name: str, **changes: object) -> Space:
        values = yaml.safe_load((SPACES / f"{name}.yaml").read_text()) | changes
        return Space(SpaceConfig.model_validate_json(json.dumps(values)))

    return load


@pytest.fixture(scope="session")
def make_space() -> Callable[..., Space]:
    """make_space({"width": 8, "candidates": [...]}, ...): a space of these stages; keywords are its other keys."""

    def make(*stages: dict[str, object], **values: object) -> Space:
        return Space(SpaceConfig.model_validate_json(json.dumps({"stages": stages, **values})))

    return make


@pytest.fixture(scope="session")
def random_paths() -> Callable[[Space, int], tuple[int, ...]]:
    def draw(space: Space, seed: int) -> tuple[int, ...]:
        generator = torch.Generator().manual_seed(seed)
        return tuple(int(torch.randint(len(e.candidates), (), generator=generator)) for e in space.searchable)

    return draw


@pytest.fixture(scope="session")
def published(shared_data: Path) -> dict[str, dict]:
    """The published networks, block by block, by name."""
    return json.loads((shared_data / "reference_archs.json").read_text())["networks"]


@pytest.fixture
def own_candidates():
    """Removes the candidates that a test has registered after it."""
    before = dict(CANDIDATES)
    yield
    CANDIDATES.clear()
    CANDIDATES.update(before)
