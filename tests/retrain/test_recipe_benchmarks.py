"""What benchmarks/recipes.py, fine_tuning.py and imagenet_cost.py compute: identities, on made-up figures and files."""

from __future__ import annotations

import argparse
import csv
import math

import numpy as np
import pytest
from PIL import Image

from engine.errors import ConfigError, Interrupted
from fine_tuning import RECIPES as STARTS
from fine_tuning import write_split
from imagenet_cost import FILES, IMAGES, TEST_IMAGES, hours, recipe
from recipes import BATCH, CONFIGS, RATES, RECIPES, Job, data_of, summary
from retrain.config import RetrainConfig
from retrain.recipe import lr_at
from retrain.run import retrain
from small_sets import pictures, write_pictures
from stopping import stopped_when


def test_differences_are_paired_by_seed():
    def runs(*top1: float) -> list[dict[str, float]]:
        return [{"top1": value, "seconds": 1.0, "speed": 2.0} for value in top1]

    found = summary({"published": runs(80, 90, 70), "modern": runs(81, 92, 73)})
    assert found["modern"]["difference"] == pytest.approx(2)
    assert found["modern"]["difference_error"] == pytest.approx(1 / math.sqrt(3))  # of 1, 2 and 3: the spread of
    assert found["published"]["error"] == pytest.approx(10 / math.sqrt(3))  # the seeds themselves is not in it
    assert "difference" not in found["published"]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_its_file_with_few_changes(name, tmp_path):
    job = Job(data_of("cifar10", tmp_path, 6, 3), None, RECIPES[name], 3, 6, 0.1, tmp_path, "cpu", 1)  # type: ignore[arg-type]
    file = RetrainConfig.read(CONFIGS / f"retrain/{RECIPES[name].file}.yaml").retrain
    changed = {key for key, value in job.config.retrain if value != getattr(file, key)}
    assert changed <= {"epochs", "batch_size", "lr", "warmup_epochs", "augment", "ema"}
    assert ("augment" in changed) == name.endswith("_strong")
    assert ("ema" in changed) == (name == "averaged")
    assert job.config.retrain.batch_size == BATCH
    assert file.resolved_lr in RATES[RECIPES[name].file]


def test_the_networks_are_those_that_the_text_names(tmp_path):
    fashion, cifar10 = data_of("fashion_mnist", tmp_path, 6, 3), data_of("cifar10", tmp_path, 6, 3)
    assert fashion.network.complexity.macs == pytest.approx(3.05e6, rel=0.005)  # docs/results.md
    assert (cifar10.network.complexity.macs, cifar10.network.complexity.params) == (46_451_200, 838_986)  # its authors
    assert cifar10.largest.complexity.macs > cifar10.network.complexity.macs
    small = data_of("cifar10_small", tmp_path, 6, 3)
    assert small.network.names == fashion.network.names
    assert small.network.complexity.macs == pytest.approx(3.64e6, rel=0.005)  # in colour, 32 px for 28


def test_pictures_come_back_as_they_were_written(tmp_path):
    random = np.random.default_rng(0)
    kept = {}
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            for i in range(3):
                pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "photos" / part / name / f"{i}.png")
                kept[part, name, i] = pixels
    write_pictures(tmp_path / "photos", tmp_path / "all", None)
    write_pictures(tmp_path / "all" / "images.npz", tmp_path / "some", 4)
    found = pictures(tmp_path / "some")
    assert list(found.classes) == ["cat", "dog"]
    assert found.train.labels.tolist() == [0, 0, 1, 1]  # type: ignore[union-attr]
    assert found.test.labels.tolist() == [0, 0, 0, 1, 1, 1]  # type: ignore[union-attr]
    assert (found.train.images[3] == kept["train", "dog", 1]).all()  # type: ignore[union-attr]


def test_a_split_holds_every_photograph_once_and_each_class_with_its_share(tmp_path):
    for name, count in (("rose", 7), ("tulip", 9)):
        (tmp_path / name).mkdir()
        for i in range(count):
            (tmp_path / name / f"{i}.jpg").touch()
    assert write_split(tmp_path, 10, 0, tmp_path / "0.csv") == (10, 6)
    write_split(tmp_path, 10, 1, tmp_path / "1.csv")
    lists = []
    for seed in (0, 1):
        with (tmp_path / f"{seed}.csv").open(newline="") as file:
            lists.append(list(csv.DictReader(file)))
    assert len({row["path"] for row in lists[0]}) == 16
    assert [sum(r["label"] == n and r["split"] == "train" for r in lists[0]) for n in ("rose", "tulip")] == [5, 5]
    train = [{row["path"] for row in rows if row["split"] == "train"} for rows in lists]
    assert train[0] != train[1]  # each seed has a split of its own
    with pytest.raises(ConfigError, match="7 photographs of rose"):
        write_split(tmp_path, 14, 0, tmp_path / "2.csv")


def test_scratch_differs_from_folder_small_in_its_start_alone():
    assert STARTS["scratch"][0] == STARTS["folder_small"][0]
    assert STARTS["scratch"][1] == "retrain.start=null"


@pytest.mark.parametrize("name", FILES)
def test_a_step_has_the_learning_rate_that_it_has_on_imagenet(name, tmp_path):
    args = argparse.Namespace(batch=256, per_class=2, workers=None, device="cpu")
    ours = recipe(name, tmp_path, args).retrain
    theirs = RetrainConfig.read(CONFIGS / f"retrain/{FILES[name]}.yaml", ["retrain.batch_size=256"]).retrain
    steps, all_steps = ours.epochs * (2000 // 256), theirs.epochs * (IMAGES // 256)
    for step in (0, 100, 199):
        assert lr_at(ours, step, steps) == pytest.approx(lr_at(theirs, step, all_steps), rel=1e-3)


def test_hours_are_images_over_images_per_second():
    published, short = hours("published", [1000.0], 500.0), hours("short", [1000.0, 1000.0, 500.0], 500.0)
    assert published["training"] == pytest.approx(300 * IMAGES / 1000 / 3600)
    assert published["evaluations"] == pytest.approx(300 * TEST_IMAGES / 500 / 3600)
    assert short["training"] == pytest.approx(100 / 3 * IMAGES * (1 / 1000 + 1 / 1000 + 1 / 500) / 3600)
    assert short["evaluations"] == pytest.approx(
        2 * 100 * TEST_IMAGES / 500 / 3600
    )  # the averaged network, and the other


def test_a_stopped_training_goes_on_to_the_same_result(tmp_path):
    network = data_of("fashion_mnist", tmp_path, 6, 3).network
    config = RetrainConfig.model_validate(
        {
            "data": {"name": "fake", "fake_images": 40},
            "retrain": {"epochs": 2, "batch_size": 10},
            "run": {"threads": 1},
        }
    )
    whole = retrain(config, network, tmp_path / "whole", shown=False)
    steps = iter(range(1, 100))
    with stopped_when(lambda: next(steps) == 3), pytest.raises(Interrupted, match="step 3 of 8"):
        retrain(config, network, tmp_path / "stopped", shown=False)
    assert retrain(config, network, tmp_path / "stopped", resume=True, shown=False).test == whole.test
