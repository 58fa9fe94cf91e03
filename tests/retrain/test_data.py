"""A retraining on data as they come: a list without a split, with classes of different sizes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine.config import validate
from engine.errors import ConfigError
from retrain import passes
from retrain.config import RetrainConfig
from retrain.run import retrain
from supernet.architecture import Architecture
from tests.engine.image_folder import labelled_list


@pytest.fixture
def architecture(tiny_search, space_of) -> Architecture:
    space = space_of(tiny_search["space"])
    return Architecture(space, tuple(0 for _ in space.searchable), "some network")


@pytest.fixture
def listed(tmp_path) -> Path:
    """A list of 8 grey images of class a and 24 of class b."""
    return labelled_list(tmp_path, ["a" if i % 4 == 0 else "b" for i in range(32)])


def config_of(listed: Path, balance: str | None) -> RetrainConfig:
    data = {"name": "csv", "csv": str(listed), "test": 0.25, "balance": balance, "workers": 0}
    values = {"data": data, "retrain": {"epochs": 2, "batch_size": 6}, "run": {"threads": 1, "checkpoint_every": 2}}
    return validate(RetrainConfig, values, "retrain.yaml")


@pytest.mark.parametrize("balance", [None, "weights", "sampling"])
def test_a_balanced_retraining_is_interrupted_and_resumed_exactly(balance, listed, architecture, tmp_path, monkeypatch):
    seen: list[int] = []
    weights: list[Any] = []
    real = passes.backward_pass

    def step(network: Any, batch: Any, loss: Any, *rest: Any) -> Any:
        if len(seen) == fatal:
            raise RuntimeError("killed")
        seen.extend(batch.labels.tolist())
        weights.append(loss.class_weights)
        return real(network, batch, loss, *rest)

    monkeypatch.setattr(passes, "backward_pass", step)
    config, fatal = config_of(listed, balance), -1
    whole = retrain(config, architecture, tmp_path / "whole")
    assert whole.test.images == 8
    expected = {0: 24, 1: 24} if balance == "sampling" else {0: 12, 1: 36}
    assert Counter(seen) == expected
    given = [4 / 2, 4 / 6] if balance == "weights" else None
    assert all((w is None) if given is None else torch.allclose(w, torch.tensor(given)) for w in weights)
    seen.clear()
    fatal = 5 * 6
    with pytest.raises(RuntimeError, match="killed"):
        retrain(config, architecture, tmp_path / "run")
    fatal = -1
    again = retrain(config, architecture, tmp_path / "run", resume=True)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name


def test_the_images_of_val_choose_the_epoch_if_there_are_three_parts(architecture, tmp_path):
    """A part of the training images may not be held out beside them."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 3), ("test", 2)):
        for name in ("a", "b"):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for i in range(count):
                picture = Image.fromarray(rng.integers(0, 256, (10, 10), dtype=np.uint8))
                picture.save(tmp_path / "images" / part / name / f"{i}.png")
    data = {"name": "folder", "root": str(tmp_path / "images"), "workers": 0}
    values = {"data": data, "retrain": {"epochs": 2, "batch_size": 8}, "run": {"threads": 1}}
    config = validate(RetrainConfig, values, "retrain.yaml")
    assert retrain(config, architecture, tmp_path / "run").test.images == 4
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["chosen"]["step"] in (2, 4)
    points = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [point["step"] for point in points if "validation/top1" in point] == [2, 4]
    assert not any("test/top1" in point for point in points)
    values["retrain"]["validation"] = 0.25
    with pytest.raises(ConfigError, match=r"retrain\.validation: got 0.25, but the data have 6 images to"):
        retrain(validate(RetrainConfig, values, "retrain.yaml"), architecture, tmp_path / "other")
