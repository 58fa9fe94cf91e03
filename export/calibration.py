"""Chooses the images from which an int8 file gets the ranges of its activations: images of the training set, prepared
as in an evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.data import ImageSet, Preprocessing
from engine.data.folder import FolderImages
from engine.data.images import Item
from engine.data.order import mixed_choice
from engine.data.scan import all_image_files
from engine.errors import ConfigError
from engine.nearest import nearest_path
from engine.progress import Report, silent

IMAGES = 512
"""How many images calibrate a file by default."""
_SEED = 0
_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class Calibration:
    """Images that calibrate, and further ones of the same set that do not."""

    pixels: Tensor
    """(N, colours, S, S) uint8."""
    others: Tensor
    """(M, colours, S, S) uint8; M is 0 if all images of the set calibrate."""
    preprocessing: Preprocessing
    source: str
    """Where the images are from, for a reader."""

    def inputs(self, layout: str, normalise: bool, batch: int) -> Iterator[np.ndarray]:
        """Yields the calibration images as a file of any batch takes them, (N, ...) float32, N being `batch` but for
        the last. layout: nchw or nhwc. normalise: whether the file takes pixels from 0 to 255."""
        for part in self.pixels.split(batch):
            yield as_input(part, self.preprocessing, layout, normalise)

    def whole_batches(self, layout: str, normalise: bool, batch: int) -> Iterator[np.ndarray]:
        """Yields what `inputs` does for a file that takes `batch` images alone: the last batch is filled up with its
        own images."""
        for part in self.pixels.split(batch):
            yield as_input(part[torch.arange(batch) % len(part)], self.preprocessing, layout, normalise)

    def record(self) -> dict[str, Any]:
        """Returns plain values for export.json."""
        digest = hashlib.sha256(self.pixels.contiguous().numpy().tobytes()).hexdigest()
        return {"images": len(self.pixels), "source": self.source, "pixels_sha256": digest}


def as_input(pixels: Tensor, preprocessing: Preprocessing, layout: str, normalise: bool) -> np.ndarray:
    """Returns pixels (N, colours, S, S) uint8 as the input of a file, float32."""
    if normalise:
        images = pixels.float().expand(-1, preprocessing.channels, -1, -1)
    else:
        images = preprocessing.normalised(pixels)
    given: np.ndarray = (images if layout == "nchw" else images.permute(0, 2, 3, 1)).contiguous().numpy()
    return given


def calibration_of_set(
    images: ImageSet, count: int, source: str, *, others: int = 0, report: Report = silent
) -> Calibration:
    """Returns `count` images of a set, or all if it has fewer, each class with its share, and at most `others` others.
    They are always the same. Raises ConfigError if one cannot be read."""
    images.prepare()
    chosen = mixed_choice(images.labels, min(count + others, len(images)), _SEED)
    read = []
    for begin in range(0, len(chosen), _AT_ONCE):
        report("read images", begin, len(chosen))
        part = [Item(0, 0, index) for index in chosen[begin : begin + _AT_ONCE].tolist()]
        read.append(images.read(part, augment=False).pixels)
    report("read images", len(chosen), len(chosen))
    pixels = torch.cat(read)
    return Calibration(pixels[:count], pixels[count:], images.preprocessing, source)


def calibration_of_folder(
    folder: Path, preprocessing: Preprocessing, count: int, *, others: int = 0, report: Report = silent
) -> Calibration:
    """Returns images of a folder: of train/ in it if there is one, at any depth. Labels are not needed. Raises
    ConfigError if there is no image, or if the network's images have neither 1 nor 3 colours."""
    if preprocessing.colours not in (1, 3):
        found = f"image files give 1 or 3 channels, but the network's images have {preprocessing.colours}"
        raise ConfigError("calibration", found)
    if not folder.is_dir():
        expected = "a folder of training images"
        raise ConfigError(f"calibration: {folder}", "no such folder", expected, suggestion=nearest_path(folder))
    root = folder / "train" if (folder / "train").is_dir() else folder
    files, _ = all_image_files(root)
    if not len(files):
        raise ConfigError(f"calibration: {root}", "has no image", "a folder of training images, at any depth")
    images = FolderImages(root, files, np.zeros(len(files), np.int64), preprocessing, flip=False)
    return calibration_of_set(images, count, str(folder), others=others, report=report)
