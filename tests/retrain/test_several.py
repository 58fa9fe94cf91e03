"""Networks that are retrained side by side are the same as if each was retrained alone."""

from __future__ import annotations

import pickle

import pytest

from engine.config import validate
from engine.errors import ConfigError, Interrupted, UserError
from retrain.config import RetrainConfig
from retrain.run import retrain
from retrain.several import retrain_all
from supernet.architecture import Architecture
from supernet.space import Space, SpaceConfig


@pytest.fixture
def config():
    settings = {"epochs": 1, "batch_size": 8, "lr": 0.4}
    data = {"name": "fake", "fake_images": 32, "fake_classes": 4}
    return validate(RetrainConfig, {"data": data, "retrain": settings, "run": {"threads": 1}}, "retrain.yaml")


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
    reports = []
    found = retrain_all(
        config, architectures, [tmp_path / "a", tmp_path / "b"], lambda *report: reports.append(report[1:])
    )
    alone = [retrain(config, a, tmp_path / f"alone{i}").test for i, a in enumerate(architectures)]
    assert found == alone
    assert found[0] != found[1]
    assert reports == [(0, 2), (1, 2), (2, 2)]
    assert (tmp_path / "b" / "result.json").exists()


def test_own_candidates_are_known_in_the_processes_side_by_side(config, tmp_path):
    module = {"candidate_modules": ["docs/examples/ghost.py"], "input_size": 8, "input_channels": 1, "classes": 4}
    parts = {"stem": {"stride": 1, "width": 4}, "stages": [{"width": 8, "candidates": ["ghost_k3_e3", "conv_k3"]}]}
    space = Space(validate(SpaceConfig, module | parts | {"feature_mix": 8}, "space"))
    (found,) = retrain_all(config, [Architecture(space, (0,))], [tmp_path / "a"])
    assert found.images > 0


def test_an_interrupt_in_a_process_is_raised_as_an_interrupt():
    again = pickle.loads(pickle.dumps(Interrupted(15, "step 3 of 8 is saved")))
    assert (again.status, str(again)) == (143, "interrupted; step 3 of 8 is saved")


def test_retraining_side_by_side_on_a_gpu_is_refused(config, architectures, tmp_path):
    on_gpu = config.model_copy(update={"run": config.run.model_copy(update={"device": "cuda"})})
    with pytest.raises(ConfigError, match=r"run\.device: networks are retrained side by side on a CPU alone"):
        retrain_all(on_gpu, architectures, [tmp_path / "a", tmp_path / "b"])


def test_a_user_error_in_one_process_is_raised_as_it_is(config, architectures, tmp_path):
    retrain(config, architectures[1], tmp_path / "b")
    with pytest.raises(UserError, match="holds a run already"):
        retrain_all(config, architectures, [tmp_path / "a", tmp_path / "b"])
    found = retrain_all(config, architectures, [tmp_path / "a", tmp_path / "b"], resume=True)
    assert found[1] == retrain(config, architectures[1], tmp_path / "b", resume=True).test
