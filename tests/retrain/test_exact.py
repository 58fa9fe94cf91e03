"""A retraining that is stopped and resumed equals one that runs through, bit for bit, under all options together.

benchmarks/retrain_kills.py kills real processes under every pair of options.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.config import validate
from engine.data import Batch
from engine.runs.checkpoints import Checkpoints
from retrain import loop
from retrain.config import RetrainConfig
from retrain.run import retrain
from supernet.architecture import Architecture
from supernet.space import Space, SpaceConfig

SPACE = {
    "input_size": 8, "input_channels": 3, "classes": 4, "stem": {"kernel": 3, "stride": 1, "width": 8}, "dropout": 0.2,
    "stages": [{"width": 8, "depth": 2, "candidates": ["mbconv_k3_e1", "conv_k1", "skip"]}], "feature_mix": 16,
}  # fmt: skip
EVERYTHING = {
    "ema": 0.99, "accumulate": 2, "clip": 0.5, "warmup_epochs": 0.5,
    "augment": {"policy": "randaugment", "erasing": 0.5, "mixup": 0.4, "cutmix": 1.0, "sizes": [6, 8]},
}  # fmt: skip


def architecture() -> Architecture:
    return Architecture(Space(SpaceConfig.model_validate(SPACE, strict=False)), (0, 1))


def config_of(amp: str = "none", **settings: Any) -> RetrainConfig:
    values: dict[str, Any] = {
        "data": {"name": "fake", "fake_images": 32, "fake_classes": 4, "workers": 0},
        "retrain": {"epochs": 2, "batch_size": 8} | settings,
        "run": {"seed": 0, "threads": 1, "log_every": 1, "checkpoint_every": 3, "amp": amp},
    }
    return validate(RetrainConfig, values, "retrain.yaml")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("teacher") / "run"
    retrain(config_of(epochs=1), architecture(), out, shown=False)
    return out


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from leaves(inner, f"{path}.{i}")
    else:
        yield path, value


def contents(out: Path) -> dict[str, Any]:
    """Everything that a run leaves, but its speeds."""
    newest = Checkpoints(out / "checkpoints").newest()
    assert newest is not None
    lines = (json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines())
    curves = [{tag: v for tag, v in line.items() if not tag.startswith("speed/")} for line in lines]
    return dict(
        leaves({"checkpoint": newest[1], "curves": curves, "result": json.loads((out / "result.json").read_text())})
    )


@pytest.mark.parametrize(
    ("optimizer", "validation", "amp"), [("sgd", None, "fp16"), ("adamw", 8, "bf16"), ("rmsprop", None, "bf16")]
)
def test_stopped_at_any_step_and_resumed_equals_uninterrupted(
    optimizer, validation, amp, teacher, tmp_path, monkeypatch
):
    """The training is stopped twice: in an epoch after a checkpoint, and right after the size of the images has
    changed."""
    learning = {"network": str(teacher), "temperature": 2.0}
    config = config_of(amp, **EVERYTHING, optimizer=optimizer, validation=validation, teacher=learning)
    retrain(config, architecture(), tmp_path / "whole", shown=False)
    plain, stops = loop.Training._train, iter((2, 4))

    def train(self: Any, batch: Batch) -> Any:
        if self.step == stop:
            raise RuntimeError("stopped")
        return plain(self, batch)

    monkeypatch.setattr(loop.Training, "_train", train)
    for stop in stops:  # noqa: B007  # read by `train`
        with pytest.raises(RuntimeError, match="stopped"):
            retrain(config, architecture(), tmp_path / "run", resume=True, shown=False)
    stop = -1
    retrain(config, architecture(), tmp_path / "run", resume=True, shown=False)
    whole, resumed = contents(tmp_path / "whole"), contents(tmp_path / "run")
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        same = torch.equal(value, resumed[name]) if isinstance(value, torch.Tensor) else value == resumed[name]
        assert same, name


def test_a_step_whose_scaled_gradient_overflows_is_left_out(tmp_path, monkeypatch):
    """The weights stay, and the scale is in the checkpoint."""
    plain, weights = loop.Training._train, []

    def train(self: Any, batch: Batch) -> Any:
        before = self.learned.network.classifier.linear.weight.detach().clone()
        if self.step == 0:
            self.learned.scaler.load_state_dict(self.learned.scaler.state_dict() | {"scale": 2.0**60})
        found = plain(self, batch)
        weights.append(torch.equal(before, self.learned.network.classifier.linear.weight))
        if self.step == 0:
            self.learned.scaler.update(2.0**10)
        return found

    monkeypatch.setattr(loop.Training, "_train", train)
    retrain(config_of("fp16"), architecture(), tmp_path / "run", shown=False)
    assert weights == [True, *[False] * 7]
    kept = Checkpoints(tmp_path / "run" / "checkpoints").newest()
    assert kept is not None
    assert kept[1]["retrain"]["scaler"]["scale"] == 2.0**10
