"""The two files in docs/extending/dataset.md work for its 200 photographs, with the settings there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search.check import data_checks
from search.config import SearchConfig
from supernet.space import Space

CLASSES, TRAIN, TEST = 5, 32, 8


@pytest.fixture
def recipe(checkout, tmp_path, monkeypatch) -> tuple[Path, Path]:
    """flowers.yaml and flowers_retrain.yaml, as the page has them; data.root is a folder of 200 small JPEG files."""
    monkeypatch.chdir(tmp_path)
    text = (checkout / "docs" / "extending" / "dataset.md").read_text().split("## Folders of images", 1)[1]
    blocks = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)[:2]
    files = (tmp_path / "flowers.yaml", tmp_path / "flowers_retrain.yaml")
    for file, block in zip(files, blocks, strict=True):
        assert "/images/flowers" in block
        file.write_text(block.replace("/images/flowers", str(tmp_path / "flowers")))
    rng = np.random.default_rng(0)
    for part, count in (("train", TRAIN), ("test", TEST)):
        for c in range(CLASSES):
            folder = tmp_path / "flowers" / part / f"flower {c}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 50, (40, 30, 3)) + 40 * c
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"IMG_{i:04d}.JPG")
    return files


def test_200_photographs_are_enough_with_the_settings_of_the_readme(recipe):
    """Each class has 40 photographs, of which 32 train: 128 in all for the weights, 32 for the architecture. No check
    refuses that or warns of it."""
    config = SearchConfig.read(recipe[0])
    (check,) = data_checks(config, 128, 32)
    assert (check.level, check.text) == ("ok", "128 training and 32 validation images, 8 steps an epoch")
    (check,) = data_checks(config, 64, 16)  # of the 80 images that the page requires
    assert check.level in ("ok", "warn")
    (check,) = data_checks(config, 60, 15)
    assert check.level == "FAIL"


def test_the_files_of_the_readme_are_checked_searched_and_retrained(recipe, door, tmp_path, formula_table):
    """The written files, in a narrow network on small images and for one epoch each."""
    search, retraining = recipe
    small = ["space.input_size=32", "space.width_multiplier=0.25", "space.feature_mix=64"]
    few = [*small, "search.warmup_epochs=0", "search.bn_batches=2", "search.regression.final_steps=2", "run.threads=1"]
    config = SearchConfig.read(search, few)
    formula_table(Space(config.space), config.measure).save(tmp_path / "tables" / "own_images_cpu.yaml")
    ended = door("check_search", search, *few)
    assert ended.status == 0, ended.out
    assert "ok   data: 128 training and 32 validation images" in ended.out
    ended = door("run_search", search, "--out", "run", *few, "search.epochs=1", "data.workers=0")
    assert ended.status == 0, ended.err
    found = ["--architecture", "run/architecture.json", "--out", "retrained", "retrain.epochs=1", "run.threads=1"]
    ended = door("run_retrain", retraining, *found, "data.workers=0")
    assert ended.status == 0, ended.err
    assert ended.out.splitlines()[-1] == (
        "to classify an image: proxyless-nas predict retrained IMAGE; to export it: proxyless-nas export retrained "
        "--to onnx --out FOLDER"
    )
    assert json.loads((tmp_path / "retrained" / "result.json").read_text())["test"]["images"] == CLASSES * TEST
    ended = door("run_retrain", retraining, *found, "--resume", "data.workers=1")
    assert ended.status == 0, ended.err


def test_a_wrong_folder_is_answered_by_the_right_one(recipe, door, tmp_path, formula_table):
    config = SearchConfig.read(recipe[0])
    formula_table(Space(config.space), config.measure).save(tmp_path / "tables" / "own_images_cpu.yaml")
    ended = door("run_search", recipe[0], "--out", "run", f"data.root={tmp_path / 'flower'}")
    assert ended.status == 2
    assert ended.err.rstrip().endswith(f". Did you mean '{tmp_path / 'flowers'}'?; correct it")
