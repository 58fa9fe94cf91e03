"""Evaluations: every image counts once, by class too, in one process or several, on a configuration or a folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from engine.config import validate
from engine.data import Batch, Preprocessing, evaluation_batches
from engine.data.memory import MemoryImages, Recipe
from engine.distributed import Group
from engine.errors import CheckpointError, ConfigError
from engine.evaluation import Evaluation, evaluate, evaluate_by_class, wilson
from engine.run_config import RunConfig
from retrain.config import RetrainConfig
from retrain.evaluation import Scores, score_checkpoint, score_files
from retrain.run import retrain
from supernet.architecture import Architecture
from tests.engine.image_folder import cut_off, write_images
from tests.processes import together, torchrun

CPU, PLAIN = torch.device("cpu"), RunConfig(channels_last=False)
SPACE: dict[str, Any] = {
    "input_size": 8,
    "input_channels": 3,
    "classes": 7,
    "stem": {"stride": 1, "width": 8},
    "stages": [{"width": 8, "candidates": ["mbconv_k3_e1"]}],
    "feature_mix": 16,
}
COLOURS = Preprocessing.of_files(8, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def some_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 7, 3), nn.BatchNorm2d(7), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """7 classes of 9 pictures for training and 9 for testing, 20 pixels high and 22 wide."""
    return write_images(tmp_path_factory.mktemp("images"), 9, classes=7, size=20)


def config_of(folder: Path) -> dict[str, Any]:
    return {
        "data": {"name": "folder", "root": str(folder), "workers": 0},
        "retrain": {"epochs": 1, "batch_size": 9, "lr": 1.0},
        "run": {"threads": 1},
    }


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, space_of, folder) -> Path:
    out = tmp_path_factory.mktemp("retrained") / "run"
    retrain(validate(RetrainConfig, config_of(folder), "retrain.yaml"), Architecture(space_of(SPACE), ()), out)
    return max((out / "checkpoints").glob("step-*.pt"))


def test_the_folder_of_a_run_stands_for_its_newest_checkpoint(checkpoint, folder):
    (_, of_file), (_, of_folder) = (
        score_checkpoint(config_of(folder), None, place) for place in (checkpoint, checkpoint.parent.parent)
    )
    assert of_folder.test == of_file.test
    with pytest.raises(CheckpointError, match=r"has no checkpoint, expected the folder of a run"):
        score_checkpoint(config_of(folder), None, folder)


@pytest.mark.parametrize(("hits", "images"), [(0, 8), (3, 8), (8, 8), (1, 1), (37_300, 50_000)])
def test_the_interval_is_the_one_of_wilson(hits, images):
    low, high = wilson(100 * hits / images, images)
    expected = binomtest(hits, images).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-6)


def test_counts_by_class_are_those_of_a_loop_over_the_images():
    torch.manual_seed(0)
    logits, labels = torch.randn(60, 7), torch.randint(0, 7, (60,))
    logits[:5] = 0  # ties count against the network
    logits[5] = torch.nan
    batches = [Batch(logits[i : i + 8], labels[i : i + 8]) for i in range(0, 60, 8)]
    result, counts = evaluate_by_class(nn.Identity(), batches, CPU, PLAIN, 7)
    assert repr(result) == repr(evaluate(nn.Identity(), batches, CPU, PLAIN))  # the loss is NaN
    assert counts.images.tolist() == [int((labels == c).sum()) for c in range(7)]
    assert 100 * int(counts.top1.sum()) / 60 == result.top1
    assert 100 * int(counts.top5.sum()) / 60 == result.top5
    expected = torch.zeros(7, 7, dtype=torch.int64)
    for row, label in zip(logits[6:], labels[6:], strict=True):
        expected[label, row.argmax()] += 1
    rest = counts.confusions - expected  # the six without one largest logit are in no class of their own
    assert (int(rest.sum()), int(rest.diagonal().sum()), int(rest.min())) == (6, 0, 0)


def test_the_most_frequent_confusions_come_first():
    logits = torch.eye(3)[[1, 1, 2, 0, 0, 2]]
    batch = Batch(logits, torch.tensor([0, 0, 0, 1, 2, 2]))
    _, counts = evaluate_by_class(nn.Identity(), [batch], CPU, PLAIN, 3)
    assert counts.most_confused(10) == [(2, 0, 1), (1, 0, 2), (1, 1, 0), (1, 2, 0)]
    assert counts.most_confused(1) == [(2, 0, 1)]


def scores_of(group: Group, folder: str) -> Scores:
    return score_files(
        some_network(),
        folder,
        COLOURS,
        7,
        batch_size=8,
        workers=0,
        run=RunConfig(threads=1),
        by_class=True,
        group=group,
    )


def test_two_processes_count_every_image_once(folder, tmp_path):
    """63 images in batches of 8: the last batch of 7 is shared unevenly."""
    alone = scores_of(Group(), str(folder))
    for shared in together(scores_of, tmp_path / "job", str(folder)):
        assert shared.test.images == 63
        assert (shared.test.top1, shared.test.top5) == (alone.test.top1, alone.test.top5)
        assert shared.test.loss == pytest.approx(alone.test.loss, rel=1e-6)
        assert torch.equal(shared.by_class.confusions, alone.by_class.confusions)
        assert torch.equal(shared.by_class.top5, alone.by_class.top5)
        assert shared.seconds > 0


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_any_number_of_images_is_counted_once_in_any_number_of_processes(processes):
    """Labels that are all different show which images the processes have evaluated."""
    for total in range(1, 258):
        images = MemoryImages(
            torch.zeros(total, 1, 1, 1, dtype=torch.uint8), np.arange(total), Recipe((0.5,), (0.5,), False), channels=1
        )
        seen = [
            label
            for rank in range(processes)
            for batch in evaluation_batches(images, 64, 0, rank=rank, world_size=processes)
            for label in batch.labels.tolist()
        ]
        assert sorted(seen) == list(range(total))


def test_a_folder_alone_gives_the_scores_of_a_configuration(folder, checkpoint):
    from retrain.weights import load_network

    design, scores = score_checkpoint(config_of(folder), None, checkpoint, by_class=True)
    assert design.classes == 7
    assert scores.test == score_checkpoint(config_of(folder), None, checkpoint)[1].test
    for root in (folder, folder / "test"):
        again = score_files(load_network(checkpoint).network, root, COLOURS, 7, workers=0, batch_size=9)
        assert again.test == scores.test
        assert again.class_names == scores.class_names == tuple(f"class{c}" for c in range(7))
        assert again.images_per_second == 63 / again.seconds


def test_another_input_size_shows_the_same_part_of_each_picture(folder, checkpoint):
    shape = Preprocessing.of_files(16, COLOURS.mean, COLOURS.std)
    assert COLOURS.at(16) == shape
    assert COLOURS.at(8) is COLOURS
    from retrain.weights import load_network

    _, scores = score_checkpoint(config_of(folder), None, checkpoint, size=16)
    assert scores.test == score_files(load_network(checkpoint).network, folder, shape, 7, workers=0, batch_size=9).test
    assert scores.test.loss != score_checkpoint(config_of(folder), None, checkpoint)[1].test.loss
    squares = Preprocessing.of_squares(8, 3, (0.5,), (0.2,))
    assert squares.at(12) == Preprocessing.of_squares(12, 3, (0.5,), (0.2,))


def test_a_recorded_bicubic_preprocessing_is_bicubic_and_a_bilinear_record_has_no_such_key():
    from PIL import Image

    bicubic = Preprocessing.of_files(8, COLOURS.mean, COLOURS.std, interpolation="bicubic")
    assert "interpolation" not in COLOURS.record()
    assert Preprocessing.model_validate_json(bicubic.model_dump_json()) == bicubic
    assert bicubic.record()["interpolation"] == "bicubic"
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 18, 3), dtype=np.uint8))
    expected = np.asarray(picture.resize((9, 10), Image.Resampling.BICUBIC).crop((0, 1, 8, 9)))
    assert np.array_equal(bicubic.pixels_of(picture).permute(1, 2, 0).numpy(), expected)


def test_folders_that_do_not_fit_are_one_line(folder, tmp_path):
    def line(root: Path, classes: int = 7, how: Preprocessing = COLOURS) -> str:
        with pytest.raises(ConfigError) as error:
            score_files(some_network(), root, how, classes, workers=0)
        return str(error.value)

    assert line(tmp_path / "none").startswith(f"{tmp_path / 'none'}: no such folder, expected a folder that holds val/")
    expected = f"{folder / 'test'}: has 7 class folders, expected 1000, one for each class of the network"
    assert line(folder, 1000) == expected
    two = Preprocessing.of_squares(8, 2, (0.5, 0.5), (0.5, 0.5))
    assert line(folder, 7, two).startswith(
        f"{folder}: image files give 1 or 3 channels, but the network's images have 2"
    )
    for c in range(7):
        (tmp_path / "val" / f"class{c}").mkdir(parents=True)
    assert line(tmp_path).startswith(f"{tmp_path / 'val'}: class folder '{tmp_path / 'val' / 'class0'}' has no image")


def test_an_unreadable_file_is_replaced_as_in_a_training(tmp_path, caplog):
    root = write_images(tmp_path, 60, classes=2, size=12, parts=["val"])
    cut_off(root / "val" / "class0" / "003.png")
    scores = score_files(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), root, COLOURS, 2, workers=0, by_class=True)
    assert scores.by_class is not None
    assert scores.by_class.images.tolist() == [60, 60]
    assert "unreadable image" in caplog.text


# The command


def figures(out: str) -> list[str]:
    """Returns the lines of an evaluation without its speed."""
    assert re.search(r"; [0-9.e+]+ images/s\n", out)
    return re.sub(r"; [0-9.e+]+ images/s\n", "\n", out).splitlines()


def test_the_command_evaluates_a_folder_and_shows_classes_and_confusions(
    folder, checkpoint, door, write_yaml, tmp_path
):
    config = write_yaml(tmp_path / "retrain.yaml", config_of(folder))
    plain = door("evaluate", config, "--checkpoint", checkpoint)
    assert plain.status == 0, plain.err
    detailed = door(
        "evaluate", "--path", folder, "--checkpoint", checkpoint, "--per-class", "--confusions", 3, "--workers", 0,
        "--batch-size", 9, "--device", "cpu",
    )  # fmt: skip
    assert detailed.status == 0, detailed.err
    lines = figures(detailed.out)
    assert lines[:2] == figures(plain.out)
    _, scores = score_checkpoint(config_of(folder), None, checkpoint, by_class=True)
    low, high = wilson(scores.test.top1, 63)
    assert lines[1].startswith(f"95 % interval: top-1 {low:.2f} % to {high:.2f} %, top-5 ")
    assert lines[2].split() == [
        "class",
        "images",
        "top-1",
        "95",
        "%",
        "interval",
        "top-5",
        "most",
        "often",
        "taken",
        "for",
    ]
    assert [line.split()[:2] for line in lines[3:10]] == [[f"class{c}", "9"] for c in range(7)]
    assert scores.by_class is not None
    assert lines[10:] == [
        f"{n} of 9 images of class{own} were taken for class{other}"
        for n, own, other in scores.by_class.most_confused(3)
    ]
    larger = door("evaluate", config, "--checkpoint", checkpoint, "--size", 16)
    again = door("evaluate", "--path", folder, "--checkpoint", checkpoint, "--size", 16, "--device", "cpu")
    assert figures(larger.out) == figures(again.out) != figures(plain.out)
    by_run = door("evaluate", "--arch", checkpoint.parent.parent, "--path", folder, "--device", "cpu")
    assert figures(by_run.out) == figures(plain.out), by_run.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "got neither a configuration nor --path, expected one of the two"),
        (("x.yaml", "--path", "p"), "got a configuration and --path, expected one of the two"),
        (("--path", "p", "data.workers=1"), "--path: got data.workers=1 beside it"),
        (("--path", "p", "--device", "cpu", "data.workers=1", "a=b"), "--path: got data.workers=1 beside it"),
        (("data.workers=1",), "got neither a configuration nor --path"),
        (("x.yaml",), "--checkpoint: is missing, expected a .pt file"),
        (("--path", "p"), "--checkpoint: is missing, expected a .pt file"),
    ],
)
def test_arguments_that_do_not_go_together_are_one_line(arguments, says, door):
    ended = door("evaluate", *arguments)
    assert ended.status == 2
    assert ended.err.startswith(f"error: {says}")
    assert len(ended.err.splitlines()) == 1


def test_a_checkpoint_of_a_search_needs_a_configuration(checkpoint, space_of, folder, door, tmp_path):
    from engine.runs.checkpoints import Checkpoints
    from supernet.supernet import Supernet

    architecture = Architecture(space_of(SPACE), ())
    (tmp_path / "architecture.json").write_text(architecture.to_json())
    file = Checkpoints(tmp_path).save(3, {"search": {"net": Supernet(architecture.space).state_dict()}})
    ended = door("evaluate", "--path", folder, "--arch", tmp_path / "architecture.json", "--checkpoint", file)
    assert ended.status == 2
    assert "whose supernet has no BN statistics, " in ended.err
    assert "; give a configuration in place of --path" in ended.err


def test_a_folder_of_other_classes_is_refused(checkpoint, door, tmp_path):
    root = write_images(tmp_path, 1, classes=7, size=20, parts=["val"])
    (root / "val" / "class3").rename(root / "val" / "dog")
    ended = door("evaluate", "--path", root, "--checkpoint", checkpoint, "--device", "cpu")
    assert ended.status == 2
    says = f"error: {root}: other classes than the network was trained on: class 3: 'class3' -> 'class4'; class 4: "
    assert ended.err.startswith(says)
    assert ended.err.endswith("; use data with its classes, in their order\n")


def test_under_torchrun_the_command_prints_once_and_counts_every_image_once(folder, checkpoint, door, shell, tmp_path):
    arguments = ["--path", folder, "--checkpoint", checkpoint, "--workers", 0, "--batch-size", 8, "--device", "cpu"]
    arguments += ["--confusions", 5]
    process = torchrun("-m", "proxyless_nas", "evaluate", *arguments, env=shell, cwd=tmp_path)
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    assert figures(out) == figures(door("evaluate", *arguments).out)


def test_an_evaluation_reports_its_progress(folder):
    shown: list[tuple[str, int, int]] = []
    score_files(
        some_network(), folder, COLOURS, 7, batch_size=30, workers=0, report=lambda *progress: shown.append(progress)
    )
    assert shown == [("evaluate", done, 3) for done in range(4)]


def test_a_tensor_has_a_class_for_each_logit() -> None:
    """A single batch in which each class is right once: every class has one hit, and nothing is confused."""
    logits: Tensor = torch.eye(6)
    result, counts = evaluate_by_class(nn.Identity(), [Batch(logits, torch.arange(6))], CPU, PLAIN, 6)
    assert result == Evaluation(result.loss, 100.0, 100.0, 6)
    assert torch.equal(counts.confusions, torch.eye(6, dtype=torch.int64))
    assert counts.most_confused(5) == []
