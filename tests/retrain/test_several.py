"""Networks retrained side by side are the networks that each retraining alone gives."""

from __future__ import annotations

import pytest

from engine.config import validate
from engine.errors import UserError
from retrain.config import RetrainFile
from retrain.loop import retrain
from retrain.several import retrain_all
from supernet.architecture import Architecture
from supernet.space import Space, SpaceConfig


@pytest.fixture
def config():
    settings = {"epochs": 1, "batch_size": 8, "lr": 0.4}
    data = {"name": "fake", "fake_images": 32, "fake_classes": 4}
    return validate(RetrainFile, {"data": data, "retrain": settings, "run": {"threads": 1}}, "retrain.yaml")


@pytest.fixture
def architectures():
    space = {
        "input_size": 8,
        "input_channels": 1,
        "classes": 4,
        "stem": {"stride": 1, "width": 4},
        "stages": [{"width": 4, "candidates": ["mbconv_k3_e1", "conv_k3"]}],
        "feature_mix": 8,
    }
    return [Architecture(Space(validate(SpaceConfig, space, "space")), (i,)) for i in range(2)]


def test_each_result_is_that_of_a_retraining_alone_in_the_order_asked_for(config, architectures, tmp_path):
    told = []
    found = retrain_all(
        config, architectures, [tmp_path / "a", tmp_path / "b"], lambda *report: told.append(report[1:])
    )
    alone = [retrain(config, a, tmp_path / f"alone{i}").test for i, a in enumerate(architectures)]
    assert found == alone
    assert found[0] != found[1]
    assert told == [(0, 2), (1, 2), (2, 2)]
    assert (tmp_path / "b" / "result.json").exists()


def test_the_error_of_one_is_the_users(config, architectures, tmp_path):
    retrain(config, architectures[1], tmp_path / "b")
    with pytest.raises(UserError, match="holds a run already"):
        retrain_all(config, architectures, [tmp_path / "a", tmp_path / "b"])
