"""Image files in class folders, decoded and augmented one by one."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2

from engine.data.config import DataConfig
from engine.data.images import AUGMENTATION, Batch, CorruptFiles, Item, Splits, normalised
from engine.data.memory import Recipe
from engine.data.sources import check_classes
from engine.errors import ConfigError
from engine.seeding import mix

# The test part's folder, the first that exists: ImageNet's public test images have no labels, so `val` is what is
# reported there; elsewhere `test` is, and a `val` next to it is somebody's own hold-out.
TEST_FOLDERS = {"imagenet": ("val", "test"), "folder": ("test", "val")}

# Mean and std of ImageNet's training images, as in every torchvision reference; for grey, their average over RGB.
_MEAN = {3: (0.485, 0.456, 0.406), 1: (0.449,)}
_STD = {3: (0.229, 0.224, 0.225), 1: (0.226,)}


def recipe_of_photographs(channels: int, *, flip: bool = True) -> Recipe:
    """ImageNet's. ConfigError unless image files can give so many channels."""
    if channels not in _MEAN:
        raise ConfigError(
            f"space.input_channels: got {channels}, but image files give 1 (grey) or 3 (RGB); set it to 3"
        )
    return Recipe(_MEAN[channels], _STD[channels], flip)


# What Pillow raises for a file that is no image, is damaged or is cut off (UnidentifiedImageError is an OSError).
_UNREADABLE = (OSError, EOFError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)


class FolderImages:
    """Files sorted by class, then by path; labels (N,). `files` are paths below `root`, as bytes.

    Training: random resized crop of 8 to 100 % of the area, horizontal flip where the recipe has it, brightness by
    32/255 and saturation by 0.5 (ProxylessNAS's ImageNet training, `distort_color: tf`). Evaluation: the shorter side
    to round(S / 0.875), then the central S x S. An unreadable file is replaced by the next readable one of its class
    in this very set.
    """

    in_memory = False

    def __init__(
        self, root: Path, files: np.ndarray, labels: np.ndarray, recipe: Recipe, *, input_size: int, channels: int
    ):
        assert (np.diff(labels) >= 0).all()
        self.root = root
        self.files = files  # one array of bytes: a million strings would be copied page by page into each worker
        self.labels = np.asarray(labels, dtype=np.int64)
        self.recipe = recipe
        self.input_size = input_size
        self.channels = channels
        self.corrupt = CorruptFiles(len(files), self.path)
        self._train = v2.Compose(
            [
                v2.RandomResizedCrop(input_size, scale=(0.08, 1.0)),
                v2.RandomHorizontalFlip(0.5 if recipe.flip else 0.0),
                v2.ColorJitter(brightness=32 / 255, saturation=0.5),
                v2.PILToTensor(),
            ]
        )
        self._evaluate = v2.Compose([v2.Resize(round(input_size / 0.875)), v2.CenterCrop(input_size), v2.PILToTensor()])

    def __len__(self) -> int:
        return len(self.files)

    def path(self, index: int) -> str:
        return os.path.join(self.root, os.fsdecode(self.files[index]))

    def load(self, items: Sequence[Item], *, augment: bool) -> Batch:
        """-> images (n, channels, S, S) float32. ConfigError if a class has no readable image."""
        corrupt: set[int] = set()
        pixels = torch.empty((len(items), self.channels, self.input_size, self.input_size), dtype=torch.uint8)
        for out, item in zip(pixels, items, strict=True):
            picture, unreadable = self._picture(item.index)
            corrupt.update(unreadable)
            # seeded by the item even if another file stands in, so that a repaired file changes no other image
            out.copy_(self._augmented(picture, item) if augment else self._evaluate(picture))
        labels = torch.from_numpy(self.labels[[item.index for item in items]])
        images = normalised(pixels, self.recipe.mean, self.recipe.std)
        return Batch(images, labels, tuple(sorted(corrupt)))

    def restrict(self, indices: np.ndarray) -> FolderImages:
        shape = {"input_size": self.input_size, "channels": self.channels}
        return FolderImages(self.root, self.files[indices], self.labels[indices], self.recipe, **shape)

    def _augmented(self, picture: Image.Image, item: Item) -> Tensor:
        """-> (channels, S, S) uint8, a function of the picture and the item alone."""
        with torch.random.fork_rng(devices=[]):
            # not torch.manual_seed: that reseeds the GPUs too, and fork_rng would not put them back
            torch.default_generator.manual_seed(mix(item.seed, item.epoch, item.index, AUGMENTATION))
            return self._train(picture)

    def _picture(self, index: int) -> tuple[Image.Image, list[int]]:
        """The image at `index`, or the next readable one of its class, wrapping around; and the unreadable ones."""
        begin, end = np.searchsorted(self.labels, [self.labels[index], self.labels[index] + 1]).tolist()
        unreadable: list[int] = []
        for candidate in (*range(index, end), *range(begin, index)):
            try:
                with Image.open(self.path(candidate)) as picture:
                    return picture.convert("RGB" if self.channels == 3 else "L"), unreadable
            except _UNREADABLE:
                unreadable.append(candidate)
        raise ConfigError(
            f"data.root: none of the {end - begin} files of the class of {self.path(index)} can be read as an image, "
            f"expected at least one; repair or replace them"
        )


def open_folder(config: DataConfig, *, input_size: int, channels: int, classes: int) -> Splits:
    """Find the files of `imagenet` or `folder`. ConfigError: see `engine.data.open_images`."""
    assert config.root is not None  # DataConfig asks for it
    root = config.root.expanduser()
    if not root.is_dir():
        raise ConfigError(
            f"data.root: no folder '{root}', expected one that holds train/ and val/ or test/; correct it"
        )
    train_folder = root / "train"
    if not train_folder.is_dir():
        raise ConfigError(
            f"data.root: no train/ in '{root}', expected train/<class>/<image>; add it or correct the path"
        )
    wanted = TEST_FOLDERS[config.name]
    test_folder = next((root / name for name in wanted if (root / name).is_dir()), None)
    if test_folder is None:
        raise ConfigError(
            f"data.root: neither {wanted[0]}/ nor {wanted[1]}/ in '{root}', expected one of them with the classes of "
            f"train/; add it"
        )
    names = _class_names(train_folder)
    if (test_names := _class_names(test_folder)) != names:
        raise ConfigError(
            f"data.root: the class folders of {test_folder.name}/ are not those of train/ in '{root}': "
            f"{_difference(names, test_names)}; both need the same folders"
        )
    check_classes(config, len(names), classes)
    recipe = recipe_of_photographs(channels)
    train, test = (
        FolderImages(folder, *_files(folder, names), recipe, input_size=input_size, channels=channels)
        for folder in (train_folder, test_folder)
    )
    return Splits(train, test, names)


def _class_names(folder: Path) -> tuple[str, ...]:
    """Sub-folders by name; hidden ones (.ipynb_checkpoints) are no class."""
    return tuple(sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith(".")))


def _difference(names: tuple[str, ...], test_names: tuple[str, ...]) -> str:
    missing, extra = sorted({*names} - {*test_names}), sorted({*test_names} - {*names})
    parts = [(missing, "missing"), (extra, "not in train/")]
    return ", ".join(f"{len(found)} {what} (first: '{found[0]}')" for found, what in parts if found)


def _files(folder: Path, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """All images below each class folder, as bytes relative to `folder`, (N,), and their classes, (N,) int64."""
    files: list[bytes] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = sorted(
            os.fsencode(os.path.relpath(os.path.join(place, file), folder))
            for place, _, inside in os.walk(folder / name, followlinks=True)
            for file in inside
            if file.lower().endswith(IMG_EXTENSIONS) and not file.startswith(".")  # ._x.jpg is no image (macOS)
        )
        if not found:
            raise ConfigError(
                f"data.root: class folder '{folder / name}' has no image, expected files ending in "
                f"{', '.join(IMG_EXTENSIONS)}; add images or remove the folder from every part"
            )
        files += found
        labels += [label] * len(found)
    return np.array(files, dtype=bytes), np.array(labels, dtype=np.int64)
