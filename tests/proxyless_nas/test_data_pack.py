"""`proxyless-nas data pack`: from a folder of images to shards that a retraining reads."""

from __future__ import annotations

import pytest

from engine.data import DataConfig, open_images
from tests.engine.image_folder import write_images


def test_a_folder_becomes_shards_and_the_command_says_how_to_read_them(command, tmp_path):
    folder = write_images(tmp_path / "images", per_class=5)
    out = tmp_path / "shards"
    status, printed, _ = command("data", "pack", folder, "--out", out, "--size", "4k")
    assert status == 0
    assert printed.splitlines()[0].startswith("20 images in ")
    assert printed.splitlines()[1] == f"to read them: data.name=shards data.root={out}"
    images = open_images(DataConfig(name="shards", root=out), input_size=8, channels=3, classes=2)
    assert len(images.train) == len(images.test) == 10
    status, printed, _ = command("data", "show", out)
    assert status == 0
    assert printed.startswith("shards: 20 images in shards, 2 classes\n")
    status, _, error = command("data", "pack", folder, "--out", out)
    assert status == 2
    line = f"--out {out}: exists and is not empty, expected a folder that does not exist yet; choose another"
    assert error.endswith(f"error: {line}\n")


@pytest.mark.parametrize("size", ["0", "-1", "1.5G", "256MB", "many"])
def test_a_wrong_size_is_one_line(size, command, tmp_path):
    status, _, error = command("data", "pack", tmp_path, "--out", tmp_path / "out", f"--size={size}")
    assert status == 2
    assert error.endswith(f"argument --size: got '{size}', expected a size such as 256M or 1G\n")


def test_a_folder_without_images_is_one_line(command, tmp_path):
    status, _, error = command("data", "pack", tmp_path, "--out", tmp_path / "out")
    assert status == 2
    assert error.startswith(f"error: data.root: no train/ in '{tmp_path}'")
    assert not (tmp_path / "out").exists()
