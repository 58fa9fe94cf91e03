"""Where the sets that fit in memory come from: scikit-learn, torchvision or a random generator."""

from __future__ import annotations

import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torchvision
from sklearn.datasets import load_digits
from torch import Tensor

from engine.data.cluttered import cluttered
from engine.data.config import DataConfig
from engine.data.images import FAKE, Splits
from engine.data.memory import MemoryImages, Recipe, resized
from engine.data.order import random_numbers, stratified_split
from engine.errors import ConfigError, IncompleteDataError
from engine.files import in_home, nearest_path

DIGITS_TEST_SHARE = 0.2
DIGITS_SPLIT_SEED = 0
CLUTTERED_TRAIN, CLUTTERED_TEST = 5000, 2000
FAKE_TRAIN_PER_TEST = 4


class Pixels(NamedTuple):
    """images (N, C, H, W) uint8, labels (N,) int64."""

    images: Tensor
    labels: np.ndarray


# Mean and std over the 80 % of scikit-learn's digits that are the training part here.
_DIGITS = Recipe(mean=(0.3051,), std=(0.3757,), flip=False)
# Over all pixels of the training images made of them.
_CLUTTERED = Recipe(mean=(0.0787,), std=(0.2349,), flip=False)
# Over all pixels of the 60,000 training images (Xiao et al. 2017, arXiv 1708.07747); a mirrored shoe is a shoe.
_FASHION_MNIST = Recipe(mean=(0.2860,), std=(0.3530,), flip=True)
# Over all pixels of the 50,000 training images (Krizhevsky 2009), as in most published CIFAR-10 code.
_CIFAR10 = Recipe(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616), flip=True)


def open_in_memory(config: DataConfig, *, input_size: int, channels: int, classes: int) -> Splits:
    """Read a set and resize it once, to N * C * input_size^2 bytes. ConfigError: see `engine.data.open_images`."""
    if config.name == "fake":
        check_classes(config, config.fake_classes, classes)
        train, test, names, recipe = _fake(config, input_size, channels)
    else:
        train, test, names, recipe = _SOURCES[config.name](config)
        check_classes(config, len(names), classes)
    return in_memory(config, train, test, names, recipe, input_size=input_size, channels=channels)


def in_memory(
    config: DataConfig,
    train: Pixels,
    test: Pixels,
    names: tuple[str, ...],
    recipe: Recipe,
    *,
    input_size: int,
    channels: int,
) -> Splits:
    """Both parts resized. ConfigError where they cannot give `channels`."""
    colours = train.images.shape[1]
    if channels not in (colours, 3 if colours == 1 else colours):
        raise ConfigError(
            f"space.input_channels: got {channels}, but the images of data.name '{config.name}' have {colours}; set it "
            f"to {'1, or 3 (grey repeated)' if colours == 1 else colours}"
        )
    first, second = (
        MemoryImages(resized(part.images, input_size), part.labels, recipe, channels=channels) for part in (train, test)
    )
    return Splits(first, second, names)


def check_classes(config: DataConfig, found: int, classes: int) -> None:
    """ConfigError unless the data has as many classes as the network."""
    if found != classes:
        key = " (data.fake_classes)" if config.name == "fake" else ""
        raise ConfigError(
            f"space.classes: got {classes}, but data.name '{config.name}' has {found} classes{key}; set space.classes: "
            f"{found}, or choose other data"
        )


_Source = tuple[Pixels, Pixels, tuple[str, ...], Recipe]


def _digits(config: DataConfig) -> _Source:
    """1797 images, 8 x 8, grey 0..16. The set has no official test part: a stratified fifth, the same for everyone,
    is the test part here."""
    digits = load_digits()
    images = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)  # (1797, 1, 8, 8)
    labels = digits.target.astype(np.int64)
    train, test = (
        Pixels(images[torch.from_numpy(part)], labels[part])
        for part in stratified_split(labels, DIGITS_TEST_SHARE, DIGITS_SPLIT_SEED)
    )
    return train, test, tuple(str(digit) for digit in digits.target_names), _DIGITS


def _cluttered_digits(config: DataConfig) -> _Source:
    """Images made of those of `_digits`: the test part of its test part, so no digit is in both."""
    train, test, names, _ = _digits(config)

    def made(part: Pixels, images: int, number: int) -> Pixels:
        pixels, labels = cluttered(part.images[:, 0].numpy(), part.labels, images, number)
        return Pixels(torch.from_numpy(pixels).unsqueeze(1), labels)

    return made(train, CLUTTERED_TRAIN, 0), made(test, CLUTTERED_TEST, 1), names, _CLUTTERED


def _fashion_mnist(config: DataConfig) -> _Source:
    def read(root: Path, train: bool, download: bool) -> tuple[Pixels, tuple[str, ...]]:
        found = torchvision.datasets.FashionMNIST(root, train=train, download=download)
        return Pixels(found.data.unsqueeze(1), found.targets.numpy().astype(np.int64)), tuple(found.classes)

    return *_both_parts(config, read), _FASHION_MNIST


def _cifar10(config: DataConfig) -> _Source:
    def read(root: Path, train: bool, download: bool) -> tuple[Pixels, tuple[str, ...]]:
        found = torchvision.datasets.CIFAR10(root, train=train, download=download)
        images = torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous()  # (N, 32, 32, 3) -> (N, 3, 32, 32)
        return Pixels(images, np.array(found.targets, dtype=np.int64)), tuple(found.classes)

    return *_both_parts(config, read), _CIFAR10


def _both_parts(
    config: DataConfig, read: Callable[[Path, bool, bool], tuple[Pixels, tuple[str, ...]]]
) -> tuple[Pixels, Pixels, tuple[str, ...]]:
    """Training and test part of a torchvision set, whose ways of saying that files are missing become one line."""
    assert config.root is not None  # DataConfig asks for it
    root = in_home(config.root)
    try:
        train, names = read(root, True, config.download)
        test, _ = read(root, False, config.download)
    except (RuntimeError, urllib.error.URLError, OSError, ValueError, EOFError) as error:
        # torchvision: RuntimeError for files that are absent or fail their checksum and for failed downloads; URLError
        # and OSError from the network and the disk; ValueError and EOFError from a damaged file without checksum
        reason = " ".join(str(error).split()) or type(error).__name__
        if config.download:
            raise ConfigError(
                f"data.download: could not fetch '{config.name}' into data.root '{root}' ({reason}); check the network "
                f"and the folder, or put the files there yourself"
            ) from error
        raise IncompleteDataError(
            f"data.root: no complete '{config.name}' in '{root}' ({reason}); put torchvision's files there or set "
            f"data.download: true{nearest_path(root)}"
        ) from error
    return train, test, names


def _fake(config: DataConfig, input_size: int, channels: int) -> _Source:
    """Noise, the same every time; labels 0, 1, 2, ... in turn."""

    def noise(part: int, total: int) -> Pixels:
        shape = (total, channels, input_size, input_size)
        images = random_numbers(part, FAKE).integers(0, 256, size=shape, dtype=np.uint8)
        return Pixels(torch.from_numpy(images), np.arange(total, dtype=np.int64) % config.fake_classes)

    names = tuple(f"class {i}" for i in range(config.fake_classes))
    uniform = Recipe(mean=(0.5,) * channels, std=(12**-0.5,) * channels, flip=True)  # of the uniform distribution
    test_images = max(config.fake_classes, config.fake_images // FAKE_TRAIN_PER_TEST)
    return noise(0, config.fake_images), noise(1, test_images), names, uniform


_SOURCES: dict[str, Callable[[DataConfig], _Source]] = {
    "digits": _digits,
    "cluttered_digits": _cluttered_digits,
    "fashion_mnist": _fashion_mnist,
    "cifar10": _cifar10,
}
