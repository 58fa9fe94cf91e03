"""Predictions and pretrained networks: the same numbers as an evaluation, from a checkpoint alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import proxyless_nas as pn
from engine.config import validate
from engine.data import Splits, statistics_batches
from engine.data.preprocessing import Preprocessing
from engine.errors import CheckpointError, ConfigError
from engine.runs.checkpoints import Checkpoints
from proxyless_nas.predictions import predict
from retrain.config import RetrainConfig
from retrain.data import images_for
from retrain.evaluation import evaluate_checkpoint
from retrain.predict import Prediction
from retrain.preprocessing import completed
from retrain.run import retrain
from retrain.weights import load_network, pretrained
from supernet.architecture import Architecture
from supernet.supernet import Supernet
from tests.engine.image_folder import write_images

SPACE: dict[str, Any] = {
    "input_size": 8,
    "input_channels": 3,
    "classes": 2,
    "stem": {"stride": 1, "width": 8},
    "stages": [{"width": 8, "candidates": ["mbconv_k3_e1", "conv_k1", "skip"]}],
    "feature_mix": 16,
}


def config_of(data: dict[str, Any]) -> RetrainConfig:
    values = {
        "data": {"workers": 0} | data,
        "retrain": {"epochs": 1, "batch_size": 8, "lr": 1.0},
        "run": {"threads": 1, "channels_last": False},
    }
    return validate(RetrainConfig, values, "retrain.yaml")


def architecture_of(space_of: Any, **keys: Any) -> Architecture:
    return Architecture(space_of(SPACE | keys), (0,), "small")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder of colour images that are neither square nor of the network's size."""
    return write_images(tmp_path_factory.mktemp("images"), 8, size=20)


@pytest.fixture(scope="module")
def run(tmp_path_factory, space_of, folder) -> Path:
    """The folder of a retraining on class folders."""
    out = tmp_path_factory.mktemp("retrained") / "run"
    retrain(config_of({"name": "folder", "root": str(folder)}), architecture_of(space_of), out)
    return out


def newest_file(run: Path) -> Path:
    return max((run / "checkpoints").glob("step-*.pt"))


def rewritten(run: Path, folder: Path, **changes: Any) -> Path:
    """Returns a checkpoint with other values, under a name whose hash is right; None removes a key."""
    state = torch.load(newest_file(run), weights_only=True) | changes
    return Checkpoints(folder).save(4, {key: value for key, value in state.items() if value is not None})


def loss_of(predictions: list[Prediction], images: Splits) -> float:
    """Returns the mean cross entropy of predictions for the test images, in their order."""
    labels = [images.class_names[label] for label in images.test.labels]
    likelihoods = [dict(zip(p.classes, p.probabilities, strict=True)) for p in predictions]
    return -sum(math.log(known[label]) for known, label in zip(likelihoods, labels, strict=True)) / len(labels)


def top1_of(predictions: list[Prediction], images: Splits) -> float:
    labels = [images.class_names[label] for label in images.test.labels]
    return 100 * sum(p.classes[0] == label for p, label in zip(predictions, labels, strict=True)) / len(labels)


def test_predictions_for_image_files_give_the_loss_and_the_accuracy_of_an_evaluation(run, folder, space_of):
    config, architecture = config_of({"name": "folder", "root": str(folder)}), architecture_of(space_of)
    images = images_for(architecture, config.data)
    files = [images.test.path(i) for i in range(len(images.test))]
    _, scored = evaluate_checkpoint(config, None, newest_file(run))
    for source in (run, str(newest_file(run))):
        predictions = predict(source, files)
        assert loss_of(predictions, images) == pytest.approx(scored.loss, rel=1e-5)
        assert top1_of(predictions, images) == scored.top1


@pytest.mark.parametrize("channels", [1, 3])
def test_predictions_for_grey_images_saved_as_files_give_the_loss_of_an_evaluation(channels, space_of, tmp_path):
    """The digits, 8 x 8 pixels, are resized to 12 x 12; with 3 channels, the grey images are repeated. A picture in
    colour is converted to grey."""
    config = config_of({"name": "digits"})
    architecture = architecture_of(space_of, input_channels=channels, classes=10, input_size=12)
    retrain(config, architecture, tmp_path / "run")
    small = architecture_of(space_of, input_channels=1, classes=10, input_size=8)
    raw = images_for(small, config.data).test.pixels[:, 0].numpy()
    for i, pixels in enumerate(raw):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    predictions = predict(tmp_path / "run", [tmp_path / f"{i}.png" for i in range(len(raw))])
    _, scored = evaluate_checkpoint(config, None, newest_file(tmp_path / "run"))
    images = images_for(architecture, config.data)
    colourful = Image.fromarray(np.random.default_rng(0).integers(0, 256, size=(8, 8, 3), dtype=np.uint8))
    colourful.save(tmp_path / "colourful.png")
    colourful.convert("L").save(tmp_path / "grey.png")
    in_colour, in_grey = predict(tmp_path / "run", [tmp_path / "colourful.png", tmp_path / "grey.png"])
    assert in_colour.probabilities == in_grey.probabilities
    assert loss_of(predictions, images) == pytest.approx(scored.loss, rel=1e-4)
    assert top1_of(predictions, images) == scored.top1


def test_a_prediction_lists_all_classes_with_the_likeliest_first(run, folder):
    path = folder / "test" / "class0" / "000.png"
    prediction = predict(run, path)
    assert prediction.path == path
    assert sorted(prediction.classes) == ["class0", "class1"]
    assert sum(prediction.probabilities) == pytest.approx(1)
    assert prediction.probabilities[0] >= prediction.probabilities[1]
    first = f"{prediction.classes[0]} {100 * prediction.probabilities[0]:.1f} %"
    assert str(prediction).startswith(f"{path}: {first}, ")
    assert predict(run, [path, path]) == [prediction, prediction]
    assert predict(run, str(path)) == prediction


def test_a_prediction_is_one_line_whatever_the_names_hold():
    prediction = Prediction(Path("a\nb.png"), ("\x1b[31mred", "x\ny"), (0.75, 0.25))
    assert str(prediction) == r"a b.png: \x1b[31mred 75.0 %, x y 25.0 %"
    assert prediction.in_words(1) == r"a b.png: \x1b[31mred 75.0 %"


def test_a_prediction_needs_no_images_of_the_training(space_of, tmp_path):
    root = write_images(tmp_path / "images", 8)
    retrain(config_of({"name": "folder", "root": str(root)}), architecture_of(space_of), tmp_path / "run")
    (root / "test" / "class1" / "000.png").rename(tmp_path / "own.png")
    (root / "train").rename(tmp_path / "gone")
    assert set(predict(tmp_path / "run", tmp_path / "own.png").classes) == {"class0", "class1"}


def test_a_damaged_newest_checkpoint_is_skipped_in_a_run_folder(run, folder, tmp_path, caplog):
    good = rewritten(run, tmp_path / "run" / "checkpoints")
    (good.parent / "step-000000009-0123456789ab.pt").write_bytes(b"half")
    path = folder / "test" / "class0" / "000.png"
    assert predict(tmp_path / "run", path) == predict(run, path)
    assert "is damaged" in caplog.text


def test_classes_without_names_are_numbers(run, folder, tmp_path):
    old = rewritten(run, tmp_path, classes=None)
    assert sorted(predict(old, folder / "test" / "class0" / "000.png").classes) == ["0", "1"]


def test_a_checkpoint_of_an_earlier_version_preprocesses_alike(run, folder, tmp_path):
    """Earlier versions recorded the resizing in words alone."""
    record = dict(torch.load(newest_file(run), weights_only=True)["preprocessing"])
    earlier = {key: value for key, value in record.items() if key not in ("colours", "shorter_side")}
    assert completed(earlier) == record
    old = rewritten(run, tmp_path, preprocessing=earlier)
    path = folder / "test" / "class0" / "000.png"
    assert predict(old, path) == predict(run, path)
    grey = {"input_size": 8, "channels": 3, "resize": "bilinear with antialiasing to 8 x 8", "mean": [0.5] * 3}
    assert completed(grey | {"std": [0.1] * 3}) == grey | {"std": [0.1] * 3, "colours": 1, "shorter_side": None}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"preprocessing": None}, "has no preprocessing, so it is of an earlier version"),
        ({"preprocessing": {"input_size": 8}}, r"preprocessing: channels: is missing"),
        ({"classes": ["one"]}, "has the names of 1 classes, but its network has 2"),
        ({"architecture": None}, "does not say; say which network"),
    ],
)
def test_a_checkpoint_that_lacks_what_a_prediction_needs_is_refused(run, folder, tmp_path, changes, says):
    path = rewritten(run, tmp_path, **changes)
    with pytest.raises(CheckpointError, match=says) as error:
        predict(path, folder / "test" / "class0" / "000.png")
    assert str(error.value).startswith(f"{path}: ")


def test_a_preprocessing_of_another_network_is_refused(run, folder, tmp_path):
    record = torch.load(newest_file(run), weights_only=True)["preprocessing"]
    for change, says in (
        ({"input_size": 9}, "its preprocessing is not that of its network"),
        ({"mean": [0.5]}, "preprocessing: mean: got 1 numbers, and 3 of std, for 3"),
        ({"colours": 2}, "preprocessing: colours: got 2 for 3 channels, expected as many, or 1"),
    ):
        path = rewritten(run, tmp_path, preprocessing=record | change)
        with pytest.raises(CheckpointError, match=says):
            predict(path, folder / "test" / "class0" / "000.png")


def test_an_image_that_cannot_be_read_is_named(run, tmp_path):
    (tmp_path / "note.txt").write_text("hello")
    for name, says in (("note.txt", "is no image"), ("none.png", "no such file")):
        with pytest.raises(ConfigError, match=says) as error:
            predict(run, tmp_path / name)
        assert str(error.value).startswith(f"{tmp_path / name}: ")


def test_a_folder_without_checkpoints_is_refused(folder):
    with pytest.raises(CheckpointError, match="has no checkpoint, expected the folder of a run"):
        predict(folder, folder / "test" / "class0" / "000.png")


def test_images_whose_colours_no_file_has_are_refused(tmp_path):
    record = {"input_size": 8, "channels": 2, "colours": 2, "resize": "", "shorter_side": None}
    two = validate(Preprocessing, record | {"mean": [0.5] * 2, "std": [0.5] * 2}, "preprocessing")
    with pytest.raises(ConfigError, match=r"a\.png: the network's images have 2 channels, but image files give 1 or 3"):
        two.input_of(tmp_path / "a.png")


def test_a_pretrained_network_is_ready_to_classify(run, space_of, tmp_path):
    architecture = architecture_of(space_of)
    (tmp_path / "architecture.json").write_text(architecture.to_json())
    expected = load_network(newest_file(run)).network.state_dict()
    for given in (architecture, tmp_path / "architecture.json", str(tmp_path / "architecture.json"), None):
        for checkpoint in (newest_file(run), str(newest_file(run)), run):
            network = pretrained(given, checkpoint)
            assert not any(module.training for module in network.modules())
            assert network.class_names == ("class0", "class1")
            assert network.architecture == architecture
            assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())


def test_a_pretrained_network_of_a_search_gets_its_bn_statistics_from_images(space_of, folder, tmp_path):
    architecture = architecture_of(space_of)
    supernet = Supernet(architecture.space, seed=1)
    state = {"net": supernet.state_dict()}
    path = Checkpoints(tmp_path).save(3, {"search": state})
    with pytest.raises(CheckpointError, match="whose supernet has no BN statistics; give batches of training images"):
        pretrained(architecture, path)
    with pytest.raises(
        CheckpointError, match="is of a search, whose supernet has no BN statistics, expected a checkpoint of a"
    ):
        predict(path, folder / "test" / "class0" / "000.png")
    with pytest.raises(CheckpointError, match=r"retraining; retrain the search's architecture\.json first$"):
        pn.export(path, tmp_path / "exported")  # it has no option --architecture
    train = images_for(architecture, config_of({"name": "folder", "root": str(folder)}).data).train
    images = [batch.images for batch in statistics_batches(train, 8, 2, 0)]
    network = pretrained(architecture, path, images=images)
    assert not network.training
    assert network.class_names is None
    assert torch.equal(network.stem.conv.weight, supernet.stem.conv.weight)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(m.num_batches_tracked == 2 for m in norms)
    expected = r"expected batches of normalised images, each a float32 tensor \(N, 3, H, W\) on the CPU"
    for given, found in (
        (3, "got 3"),
        ("images", "got 'images'"),
        ([], "has no batch"),
        ([3], "got an entry 3"),
        (images[0], r"got a float32 tensor \(3, 8, 8\) on cpu"),
        ([images[0][:, :1]], r"got a float32 tensor \(8, 1, 8, 8\) on cpu"),
        ([images[0].double()], r"got a float64 tensor \(8, 3, 8, 8\) on cpu"),
    ):
        with pytest.raises(ConfigError, match=f"^images: {found}, {expected}"):
            pretrained(architecture, path, images=given)
