"""Starting points and teachers of a retraining: trained networks, with another classifier where classes differ."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from engine.config import validate
from engine.data import Preprocessing
from engine.errors import CheckpointError, ConfigError, UserError
from engine.evaluation import recalibrate_bn
from engine.runs.checkpoints import FORMAT, Checkpoints
from proxyless_nas.starting import architecture_or_file, published_network
from published import networks
from retrain import run
from retrain.config import RetrainConfig
from retrain.recipe import Loss
from retrain.run import retrain, run_retrain
from retrain.start import Trained, checksum
from retrain.teacher import Teacher, open_teacher
from supernet.architecture import Architecture
from supernet.chain import Chain, ChainConfig, ConvConfig
from supernet.network import Network
from supernet.space import Space, SpaceConfig
from supernet.supernet import Supernet

SPACE = {
    "input_size": 8, "input_channels": 3, "classes": 2, "stem": {"kernel": 3, "stride": 1, "width": 8},
    "stages": [{"width": 8, "depth": 2, "candidates": ["mbconv_k3_e1", "conv_k1", "skip"]}], "feature_mix": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def architecture() -> Architecture:
    return Architecture(Space(SpaceConfig.model_validate(SPACE, strict=False)), (0, 1), "small")


def config_of(classes: int = 2, **settings: Any) -> RetrainConfig:
    values: dict[str, Any] = {
        "data": {"name": "fake", "fake_images": 16, "fake_classes": classes},
        "retrain": {"epochs": 1, "batch_size": 8, "lr": 1e-9, "weight_decay": 0.0} | settings,
        "run": {"threads": 1, "checkpoint_every": 1},
    }
    return validate(RetrainConfig, values, "retrain.yaml")


@pytest.fixture(scope="module")
def earlier(tmp_path_factory, architecture) -> Path:
    """The folder of a retraining on two classes."""
    out = tmp_path_factory.mktemp("earlier") / "run"
    retrain(config_of(lr=0.5), architecture, out, shown=False)
    return out


def first_weights(out: Path) -> dict[str, torch.Tensor]:
    """The weights of the last step: those of the first one, since nothing is learned at this learning rate; BN's
    statistics do change."""
    state = torch.load(max((out / "checkpoints").glob("*.pt")), weights_only=True)["retrain"]["net"]
    return {name: value for name, value in state.items() if "running" not in name and "batches" not in name}


def assert_begins_with(out: Path, source: dict[str, torch.Tensor], fresh: tuple[str, ...] = ()) -> None:
    for name, value in first_weights(out).items():
        if name not in fresh:
            torch.testing.assert_close(value, source[name], rtol=0, atol=1e-6)
    for name in fresh:
        assert first_weights(out)[name].shape != source[name].shape or not torch.equal(
            first_weights(out)[name], source[name]
        )


CLASSIFIER = ("classifier.linear.weight", "classifier.linear.bias")


@pytest.mark.parametrize("named", ["folder", "file"])
def test_a_retraining_starts_from_another_one_without_its_architecture(named, earlier, architecture, tmp_path):
    source = earlier if named == "folder" else max((earlier / "checkpoints").glob("*.pt"))
    result = run_retrain(config_of(start=str(source)), None, tmp_path / "run")
    assert result.architecture == architecture
    assert_begins_with(tmp_path / "run", first_weights(earlier))


def test_the_classifier_is_replaced_if_the_data_have_other_classes(earlier, architecture, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        result = run_retrain(config_of(classes=5, start=str(earlier)), None, tmp_path / "run")
    assert "its classifier of 2 classes is replaced by a fresh one of the data's 5 classes" in caplog.messages
    assert result.architecture == architecture.with_classes(5)
    assert result.architecture.classes == 5
    assert_begins_with(tmp_path / "run", first_weights(earlier), CLASSIFIER)
    content = torch.load(max((tmp_path / "run" / "checkpoints").glob("*.pt")), weights_only=True)
    assert len(content["classes"]) == 5
    assert Architecture.from_json(content["architecture"]) == result.architecture


def test_the_classifier_is_replaced_if_the_same_number_of_classes_have_other_names(
    earlier, tmp_path, monkeypatch, caplog
):
    plain = run.images_to_train_on

    def other_names(*arguments: Any) -> Any:
        return replace(plain(*arguments), class_names=("cat", "dog"))

    monkeypatch.setattr(run, "images_to_train_on", other_names)
    with caplog.at_level(logging.INFO):
        run_retrain(config_of(start=str(earlier)), None, tmp_path / "run")
    assert "its classifier of 2 classes is replaced by a fresh one of the data's 2 classes" in caplog.messages
    assert_begins_with(tmp_path / "run", first_weights(earlier), CLASSIFIER)


def test_a_run_that_started_from_another_one_resumes_without_it(earlier, architecture, tmp_path):
    """The resume is given neither the folder nor the architecture."""
    out, source = tmp_path / "run", tmp_path / "source"
    source.symlink_to(earlier)
    config = config_of(classes=5, start=str(source))
    run_retrain(config, None, out)
    source.unlink()
    written = (out / "result.json").read_text()
    result = run_retrain(config, None, out, resume=True)
    assert (out / "result.json").read_text() == written
    assert result.architecture == architecture.with_classes(5)


def test_another_network_than_that_of_the_start_is_refused(earlier, architecture, tmp_path):
    other = Architecture(architecture.space, (1, 1))
    with pytest.raises(ConfigError) as error:
        run_retrain(config_of(start=str(earlier)), other, tmp_path / "run")
    says = "of another network than the one to train: mbconv_k3_e1 8 -> 8 stride 1 residual -> conv_k1 8 -> 8 stride 1"
    assert str(error.value).startswith(f"retrain.start: {earlier / 'checkpoints'}, step 2 is {says}")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_no_network_at_all_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"architecture: is missing; say which network to train \(--architecture\), or"):
        run_retrain(config_of(), None, tmp_path / "run")


@pytest.fixture
def tiny(monkeypatch) -> Network:
    """A published network of three layers, under the name `tiny`, with weights."""
    stem = ConvConfig(op="conv", width=8, stride=2)
    chain = Chain(ChainConfig(input_size=8, stem=stem, blocks=(ConvConfig(op="conv", width=8),)), "tiny")
    network = Network(chain, seed=5)
    monkeypatch.setattr(networks, "NAMED", {**networks.NAMED, "tiny": networks.Named(lambda: chain)})
    monkeypatch.setattr("proxyless_nas.starting.build", lambda name: network)
    return network


def test_a_retraining_starts_from_a_published_network(tiny, tmp_path):
    """1000 classes become those of the data."""
    result = run_retrain(config_of(start="tiny"), None, tmp_path / "run", published=published_network)
    assert (result.architecture.name, result.architecture.classes) == ("tiny", 2)
    assert_begins_with(tmp_path / "run", tiny.state_dict(), CLASSIFIER)
    assert json.loads((tmp_path / "run" / "inputs.json").read_text())["inputs"]["starting weights"] == {
        "content": checksum(tiny)
    }


def test_the_architecture_may_be_a_published_networks_name(tmp_path, architecture):
    found = architecture_or_file("mobilenet_v2")
    assert isinstance(found, Chain)
    assert found.name == "mobilenet_v2"
    assert architecture_or_file(architecture) is architecture
    assert architecture_or_file(tmp_path / "a.json") == tmp_path / "a.json"
    assert architecture_or_file(None) is None
    with pytest.raises(ConfigError, match="no such file"):
        run_retrain(config_of(), architecture_or_file("mobilenet_v9"), tmp_path / "run")


def images_as(mean: float, std: float, channels: int = 3) -> Preprocessing:
    return Preprocessing.of_squares(8, channels, (mean,) * channels, (std,) * channels)


def teacher_of(architecture: Architecture, own: Preprocessing, theirs: Preprocessing, **settings: Any) -> Teacher:
    network = Network(architecture, seed=9)
    trained = Trained(network, "it", theirs, None)
    config = config_of(teacher={"network": "it"} | settings)
    return open_teacher(
        "it", architecture, ("class 0", "class 1"), own, torch.device("cpu"), config.run, (), lambda name: trained
    )


def test_a_teacher_sees_the_images_normalised_as_its_own(architecture):
    own, theirs = images_as(0.4, 0.2), images_as(0.5, 0.3)
    teacher = teacher_of(architecture, own, theirs)
    pixels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    plain = Network(architecture, seed=9).eval()
    expected = plain(theirs.normalised(pixels))
    torch.testing.assert_close(teacher.logits(own.normalised(pixels)), expected, rtol=1e-4, atol=1e-5)
    assert not any(p.requires_grad for p in teacher.network.parameters())


def test_the_loss_of_a_teacher_is_the_divergence_at_a_temperature(architecture):
    """(1 - w) CE + w T^2 sum p log(p / q), p and q the softmax of the teacher's and the network's logits over T."""
    own = images_as(0.5, 0.5)
    teacher = teacher_of(architecture, own, own)
    settings = config_of(teacher={"network": "it", "weight": 0.3, "temperature": 2.0}, label_smoothing=0.0).retrain
    images, logits, labels = torch.randn(4, 3, 8, 8), torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
    p = (teacher.logits(images) / 2).softmax(dim=1)
    divergence = (p * (p.log() - (logits / 2).log_softmax(dim=1))).sum(dim=1).mean()
    expected = 0.7 * F.cross_entropy(logits, labels) + 0.3 * 4 * divergence
    torch.testing.assert_close(Loss(settings, teacher)(images, logits, labels), expected)
    mixed = torch.tensor([[0.3, 0.7]] * 4)
    expected = 0.7 * F.cross_entropy(logits, mixed) + 0.3 * 4 * divergence
    torch.testing.assert_close(Loss(settings, teacher)(images, logits, mixed), expected)


def test_a_grey_image_fills_the_channels_of_a_teacher_of_colours(architecture, tmp_path):
    grey = Architecture(Space(architecture.space.config.model_copy(update={"input_channels": 1})), (0, 1))
    trained = Trained(Network(architecture), "it", images_as(0.5, 0.5), None)
    teacher = open_teacher(
        "it", grey, ("a", "b"), images_as(0.4, 0.2, 1), torch.device("cpu"), config_of().run, (), lambda name: trained
    )
    assert teacher.logits(torch.zeros(2, 1, 8, 8)).shape == (2, 2)


def test_a_teacher_of_other_classes_or_channels_is_refused(architecture):
    trained = Trained(Network(architecture), "it", images_as(0.5, 0.5), ("cat", "dog"))
    opening: dict[str, Any] = {
        "preprocessing": images_as(0.5, 0.5), "device": torch.device("cpu"), "run": config_of().run
    }  # fmt: skip
    with pytest.raises(ConfigError, match="it knows other classes than those of the data"):
        open_teacher("it", architecture, ("a", "b"), published=lambda name: trained, **opening)
    nameless = replace(trained, classes=None)
    with pytest.raises(ConfigError, match="it has 2 classes, the data 3"):
        open_teacher("it", architecture, ("a", "b", "c"), published=lambda name: nameless, **opening)
    opening["preprocessing"] = images_as(0.5, 0.5, 2)
    with pytest.raises(ConfigError, match="the teacher's images have 3 channels, those of the data 2"):
        open_teacher("it", architecture, ("a", "b"), published=lambda name: nameless, **opening)


def test_a_resume_with_another_teacher_is_refused(earlier, architecture, tmp_path):
    source = tmp_path / "source"
    source.symlink_to(earlier)
    config = config_of(teacher={"network": str(source)})
    retrain(config, architecture, tmp_path / "run", shown=False)
    retrain(config_of(lr=0.3), architecture, tmp_path / "other", shown=False)
    source.unlink()
    source.symlink_to(tmp_path / "other")
    with pytest.raises(ConfigError, match="teacher: weights changed since the run in"):
        retrain(config, architecture, tmp_path / "run", resume=True, shown=False)


def test_a_teacher_of_torchvision_is_a_model_with_its_default_weights(architecture, monkeypatch):
    from torchvision import models

    asked = []

    def model(name: str, *, weights: Any, progress: bool) -> nn.Module:
        asked.append((name, weights))
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))

    monkeypatch.setattr(models, "get_model", model)
    own = images_as(0.5, 0.5)
    name = "torchvision:resnet18"
    teacher = open_teacher(name, architecture, ("a", "b"), own, torch.device("cpu"), config_of().run)
    assert asked == [("resnet18", models.ResNet18_Weights.DEFAULT)]
    black = own.normalised(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    at_black = -torch.tensor([[0.485, 0.456, 0.406]]) / torch.tensor([[0.229, 0.224, 0.225]])
    torch.testing.assert_close(teacher.logits(black), teacher.network[2](at_black))

    def unreachable(*arguments: Any, **options: Any) -> Any:
        raise OSError("no route to host")

    monkeypatch.setattr(models, "get_model", unreachable)
    with pytest.raises(UserError, match=r"retrain\.teacher\.network: https://.*resnet18.* cannot be had \(no route"):
        open_teacher(name, architecture, ("a", "b"), own, torch.device("cpu"), config_of().run)


def test_the_teacher_of_a_search_is_the_largest_network_of_its_space(architecture, tmp_path):
    """It has the supernet's weights, and BN statistics of training images."""
    supernet = Supernet(architecture.space)
    space = architecture.space.config.model_dump(mode="json")
    state = {"format": FORMAT, "network": "a supernet", "space": space, "search": {"net": supernet.state_dict()}}
    Checkpoints(tmp_path / "search" / "checkpoints").save(1, state)
    batches = [torch.randn(4, 3, 8, 8) for _ in range(3)]
    small = Architecture(architecture.space, (2, 2))  # skip, skip
    teacher = open_teacher(
        str(tmp_path / "search"), small, ("a", "b"), images_as(0.5, 0.5), torch.device("cpu"), config_of().run,
        statistics=iter(batches),
    )  # fmt: skip
    costs = [layer.complexity.macs for layer in architecture.space.edges[0].layers]
    path = costs.index(max(costs))
    largest = Network.inherit(supernet, Architecture(architecture.space, (path, path)))
    recalibrate_bn(largest, batches)
    torch.testing.assert_close(teacher.logits(batches[0]), largest.eval()(batches[0]))
    settings = {"teacher": {"network": str(tmp_path / "search")}}
    assert retrain(config_of(**settings), small, tmp_path / "run", shown=False).test.images == 4


def test_a_start_that_is_no_checkpoint_is_refused(architecture, tmp_path):
    (tmp_path / "some.pt").write_text("nothing")
    with pytest.raises(CheckpointError, match=r"some\.pt: is not a checkpoint of this framework"):
        retrain(config_of(start=str(tmp_path / "some.pt")), architecture, tmp_path / "run", shown=False)
