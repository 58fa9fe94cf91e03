"""Retraining in two processes: the same network in both, a resume that equals an uninterrupted run, one writer."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.config import validate
from engine.data import DataConfig, images
from engine.data.images import CorruptFiles
from engine.distributed import Group
from engine.errors import Interrupted
from engine.runs.checkpoints import Checkpoints
from retrain import loop
from retrain.config import RetrainConfig
from retrain.run import retrain
from supernet.architecture import Architecture
from supernet.space import Space, SpaceConfig
from tests.engine.image_folder import cut_off, write_images
from tests.processes import together

SPACE = {
    "input_size": 8, "input_channels": 1, "classes": 2, "stem": {"kernel": 3, "stride": 1, "width": 8},
    "stages": [{"width": 8, "depth": 2, "candidates": ["mbconv_k3_e1", "conv_k1", "skip"]}], "feature_mix": 16,
    "dropout": 0.2,
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "data": {"name": "fake", "fake_images": 32, "fake_classes": 2, "workers": 0},
    "retrain": {"epochs": 2, "batch_size": 8, "lr": 1.0},
    "run": {"seed": 0, "threads": 1, "log_every": 1, "checkpoint_every": 3},
}


def architecture() -> Architecture:
    return Architecture(Space(SpaceConfig.model_validate(SPACE, strict=False)), (0, 1))


EVERYTHING = {"ema": 0.99, "accumulate": 2, "clip": 0.5, "augment": {"mixup": 0.4, "cutmix": 1.0}}
"""Settings whose state, or whose draws, the processes share."""


def config_of(**settings: Any) -> RetrainConfig:
    return validate(RetrainConfig, CONFIG | {"retrain": CONFIG["retrain"] | settings}, "retrain.yaml")


def images_in(folder: Path) -> DataConfig:
    return DataConfig(name="folder", root=folder / "images", workers=0)


def job(group: Group, folder: Path) -> dict[str, Any]:
    whole = retrain(config_of(), architecture(), folder / "whole", group=group)
    group.from_first(lambda: shutil.copytree(folder / "whole", folder / "resumed"))
    files = sorted((folder / "resumed" / "checkpoints").glob("*.pt"))
    group.from_first(files[-1].unlink)  # back to the one before the last
    resumed = retrain(config_of(), architecture(), folder / "resumed", resume=True, group=group)
    unlearning = retrain(config_of(lr=1e-9), architecture(), folder / "unlearning", group=group)
    met = set()
    add = CorruptFiles.add

    def watched(self: CorruptFiles, indices: Iterable[int]) -> None:
        met.update(indices)
        add(self, indices)

    CorruptFiles.add, images.MAX_CORRUPT_SHARE = watched, 0.5  # type: ignore[method-assign]
    retrain(config_of(epochs=1).model_copy(update={"data": images_in(folder)}), architecture(), folder / "files",
            group=group)  # fmt: skip
    return {
        "met": met,
        "interrupted": interrupted(config_of(), group, folder / "interrupted"),
        "everything": retrain(
            config_of(**EVERYTHING), architecture(), folder / "all", group=group
        ).network.state_dict(),
        "everything interrupted": interrupted(config_of(**EVERYTHING), group, folder / "all_interrupted")[0],
        "whole": (whole.network.state_dict(), whole.test),
        "resumed": (resumed.network.state_dict(), resumed.test),
        "unlearning": unlearning.network.state_dict(),
    }


def interrupted(once: RetrainConfig, group: Group, out: Path) -> tuple[Any, ...]:
    """Returns the network, the score and the message of an interrupt, of a retraining whose process 1 gets SIGTERM in
    step 2."""
    message, plain = "", loop.Training._train

    def train(self: Any, batch: Any) -> Any:
        if self.step == 3 and group.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, batch)

    loop.Training._train = train  # type: ignore[method-assign]
    try:
        retrain(once, architecture(), out, group=group)
    except Interrupted as error:
        message = str(error)
    loop.Training._train = plain  # type: ignore[method-assign]
    ended = retrain(once, architecture(), out, resume=True, group=group)
    return ended.network.state_dict(), ended.test, message


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def found(folder) -> list[dict[str, Any]]:
    write_images(folder / "images", 12, parts=("train",))
    write_images(folder / "images", 2, parts=("test",))
    for file in ("class0/001", "class0/005", "class1/002", "class1/007"):
        cut_off(folder / "images" / "train" / f"{file}.png")
    return together(job, folder / "job", folder)


def test_both_processes_end_with_the_same_network_and_score(found, folder):
    (first, score), (second, other) = (own["whole"] for own in found)
    assert score == other
    assert score.images == 8
    for name, value in first.items():  # BN's running statistics among them
        assert torch.equal(value, second[name]), name
    newest = Checkpoints(folder / "whole" / "checkpoints").newest()
    assert newest is not None
    assert newest[0] == 8
    assert all(torch.equal(value, first[name]) for name, value in newest[1]["retrain"]["net"].items())
    assert (folder / "whole" / "result.json").exists()


def test_a_resumed_retraining_equals_an_uninterrupted_one(found):
    for own in found:
        (whole, score), (resumed, other) = own["whole"], own["resumed"]
        assert score == other
        assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_interrupted_in_one_process_and_resumed_equals_an_uninterrupted_one(found):
    """Both stop after the step that follows the signal. BN's running statistics are the same too, of which each process
    has its own between two evaluations."""
    for own in found:
        (whole, score), (resumed, other, message) = own["whole"], own["interrupted"]
        assert message == "interrupted; step 5 of 8 is saved"
        assert score == other
        for name, value in whole.items():
            assert torch.equal(value, resumed[name]), name


def test_averaged_weights_and_mixed_images_are_resumed_exactly_in_two_processes(found):
    """The weights that are averaged are the same in both processes, and so are BN's averaged statistics."""
    first, second = (own["everything"] for own in found)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        for own in found:
            assert torch.equal(value, own["everything interrupted"][name]), name


def test_a_checkpoint_lists_the_unreadable_files_of_all_processes(found, folder):
    newest = Checkpoints(folder / "files" / "checkpoints").newest()
    assert newest is not None
    assert newest[1]["corrupt"] == [1, 5, 14, 19]
    first, second = (own["met"] for own in found)
    assert first | second == {1, 5, 14, 19}
    assert first != second


def test_bn_statistics_average_the_images_of_both_processes(found, tmp_path):
    """If nothing is learned, the running mean of the first BN is that of one process with the same batches."""
    alone = retrain(config_of(lr=1e-9), architecture(), tmp_path / "alone").network.state_dict()["stem.bn.running_mean"]
    assert alone.abs().max() > 1e-3
    torch.testing.assert_close(found[0]["unlearning"]["stem.bn.running_mean"], alone, rtol=1e-4, atol=1e-6)
