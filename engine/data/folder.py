"""Loads image files, from class folders or from a list, and augments them one by one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from engine.data.augmentation import Augmentation, filling, seeded
from engine.data.config import DataConfig
from engine.data.images import AUGMENTATION, Batch, CorruptFiles, FileList, Item, Splits
from engine.data.layout import Layout, evaluation_layout, folder_layout
from engine.data.listed import listed_layout
from engine.data.memory import Recipe
from engine.data.parts import Part
from engine.data.pictures import UnreadableError, read_picture
from engine.data.preprocessing import MEAN_OF_PHOTOGRAPHS, STD_OF_PHOTOGRAPHS, Preprocessing
from engine.data.readers import Readers
from engine.data.sources import check_classes
from engine.errors import ConfigError
from engine.files import nearest_path
from engine.seeding import mix

LAYOUTS: dict[str, Callable[[DataConfig], Layout]] = {
    "imagenet": folder_layout,
    "folder": folder_layout,
    "csv": listed_layout,
}
"""The function that finds the files of each set of image files."""


def recipe_of_photographs(channels: int, *, flip: bool = True) -> Recipe:
    """Returns ImageNet's mean and std. Raises ConfigError unless image files can give so many channels."""
    if channels not in MEAN_OF_PHOTOGRAPHS:
        found = f"got {channels}, but image files give 1 (grey) or 3 (RGB)"
        raise ConfigError("space.input_channels", found, remedy="set it to 3")
    return Recipe(MEAN_OF_PHOTOGRAPHS[channels], STD_OF_PHOTOGRAPHS[channels], flip)


class FolderImages:
    """A set of N image files, sorted by class, then by path.

    files: (N,), paths below `root` as bytes; labels: (N,). An unreadable file is replaced by the next readable one of
    its class in this very set. engine/data/pictures.py decodes the files.

    Training: random resized crop of 8 to 100 % of the area, horizontal flip if `flip` is set, then what `augmentation`
    adds, by default brightness by 32/255 and saturation by 0.5. Evaluation: what `preprocessing`
    does, by default the shorter side to round(S / 0.875), then the central S x S.
    """

    def __init__(self, root: Path, files: np.ndarray, labels: np.ndarray, preprocessing: Preprocessing, *, flip: bool):
        assert (np.diff(labels) >= 0).all()
        self.root = root
        self.files = files  # one array of bytes: a million strings would be copied page by page into each worker
        self.labels = np.asarray(labels, dtype=np.int64)
        self.preprocessing = preprocessing
        self.flip = flip
        self.readers: Readers | None = Readers()
        self.corrupt = CorruptFiles(len(files), self.path)
        self.augmentation = Augmentation()

    def __len__(self) -> int:
        return len(self.files)

    def path(self, index: int) -> str:
        """Returns the path of the file at `index`."""
        return os.path.join(self.root, os.fsdecode(self.files[index]))

    def load(self, items: Sequence[Item], *, augment: bool) -> Batch:
        """Returns images (n, channels, S, S) float32. Raises ConfigError if a class has no readable image."""
        corrupt: dict[int, str] = {}
        colours, size = self.preprocessing.colours, self.preprocessing.input_size
        if augment and items:
            size = self.augmentation.size_at(items[0].epoch, size)
        pixels = torch.empty((len(items), colours, size, size), dtype=torch.uint8)
        for out, item in zip(pixels, items, strict=True):
            picture, unreadable = self._picture(item.index)
            corrupt.update(unreadable)
            # seeded by the item even if another file stands in, so that a repaired file changes no other image
            out.copy_(self._augmented(picture, item) if augment else self.preprocessing.pixels_of(picture))
        labels = torch.from_numpy(self.labels[[item.index for item in items]])
        return Batch(self.preprocessing.normalised(pixels), labels, dict(sorted(corrupt.items())))

    def restrict(self, indices: np.ndarray) -> FolderImages:
        """Returns the set of these images alone, numbered from 0."""
        return FolderImages(self.root, self.files[indices], self.labels[indices], self.preprocessing, flip=self.flip)

    def content(self) -> dict[str, Any]:
        """Returns a checksum of the names and sizes of the files, since reading a million files would take too long,
        and their list."""
        digest = hashlib.sha256()
        sizes = [_size(self.path(i)) for i in range(len(self))]
        names = self.files.tolist()
        for name, size in zip(names, sizes, strict=True):
            digest.update(b"%d %d " % (len(name), size))
            digest.update(name)
        above = os.fsencode(os.path.basename(os.path.abspath(self.root)))
        listed = np.array([os.path.join(above, name) for name in names], dtype=bytes)
        files = FileList(listed, np.array(sizes, dtype=np.int64), self.labels)
        return {"file names and sizes": digest.hexdigest(), "files": files}

    def _augmented(self, picture: Image.Image, item: Item) -> Tensor:
        """Returns (channels, S, S) uint8, a function of the picture and the item alone."""
        size = self.augmentation.size_at(item.epoch, self.preprocessing.input_size)
        fill = filling(self.preprocessing.mean[: self.preprocessing.colours])
        with seeded(mix(item.seed, item.turn, item.index, AUGMENTATION)):
            pixels: Tensor = _cropping(self.augmentation, size, self.flip, fill)(picture)
            return pixels

    def _picture(self, index: int) -> tuple[Image.Image, dict[int, str]]:
        """Returns the image at `index`, or the next readable one of its class, wrapping around; and the unreadable
        ones, each with the reason."""
        begin, end = np.searchsorted(self.labels, [self.labels[index], self.labels[index] + 1]).tolist()
        unreadable: dict[int, str] = {}
        for candidate in (*range(index, end), *range(begin, index)):
            try:
                return read_picture(self.path(candidate), self.preprocessing.colours), unreadable
            except UnreadableError as error:
                unreadable[candidate] = str(error)
        raise ConfigError(
            "data.root",
            f"none of the {end - begin} files of the class of {self.path(index)} can be read as an image "
            f"(it {unreadable[index]})",
            "at least one",
            "repair or replace them",
        )


@lru_cache(maxsize=8)
def _cropping(augmentation: Augmentation, size: int, flip: bool, fill: tuple[int, ...]) -> v2.Transform:
    """Returns the transform of a picture to (C, size, size) uint8."""
    jitter = [v2.ColorJitter(brightness=32 / 255, saturation=0.5)] if augmentation.policy == "published" else []
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(augmentation.least_area, 1.0)),
            v2.RandomHorizontalFlip(0.5 if flip else 0.0),
            *jitter,
            v2.PILToTensor(),
            augmentation.changing(fill),
        ]
    )


def _size(path: str) -> int:
    """Returns the size of a file in bytes; -1 if it has been deleted since it was found, which loading it reports."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def open_files(config: DataConfig, *, input_size: int, channels: int, classes: int | None) -> Splits:
    """Finds the files of `imagenet`, `folder` or `csv`. Raises ConfigError as `engine.data.open_images` does."""
    layout = LAYOUTS[config.name](config)
    check_classes(config, len(layout.class_names), classes)
    recipe = recipe_of_photographs(channels)
    preprocessing = Preprocessing.of_files(input_size, recipe.mean, recipe.std)
    parts = layout.parts()
    parts.log()

    def images(part: Part) -> FolderImages:
        return FolderImages(part.root, part.files, part.labels, preprocessing, flip=recipe.flip)

    assert parts.test is not None  # these layouts have one
    selecting = images(parts.validation) if parts.validation is not None else None
    return Splits(images(parts.train), images(parts.test), layout.class_names, selecting)


def open_test_images(root: Path, preprocessing: Preprocessing, classes: int) -> tuple[FolderImages, tuple[str, ...]]:
    """Returns the image files to evaluate a network on, and the names of their classes, sorted.

    root: a folder that holds val/ or test/ with one folder per class, or with all images and a file of their labels
    (engine/data/label_files.py); or one that holds the class folders itself. classes: how many there must be.
    Raises ConfigError, whose place is the root's path, if there are others, or a class has no image.
    """
    if not os.path.isdir(root):
        accepted = "a folder that holds val/ (or test/) with one folder per class"
        raise ConfigError(str(root), "no such folder", accepted, suggestion=nearest_path(root))
    if preprocessing.colours not in (1, 3):
        found = f"image files give 1 or 3 channels, but the network's images have {preprocessing.colours}"
        raise ConfigError(str(root), found)
    folder = root
    try:
        folder, layout = evaluation_layout(root)
        if len(layout.class_names) != classes:
            found = f"has {len(layout.class_names)} class folders"
            raise ConfigError(str(folder), found, f"{classes}, one for each class of the network")
        parts = layout.parts()
    except ConfigError as error:
        raise error if error.where != "data.root" else error.at(str(folder)) from None
    parts.log_left_out()
    part = parts.train
    return FolderImages(part.root, part.files, part.labels, preprocessing, flip=False), layout.class_names
