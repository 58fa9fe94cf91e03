"""Opens the sets that fit in memory, which come from scikit-learn, torchvision or a random generator."""

from __future__ import annotations

import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.data.cluttered import cluttered
from engine.data.config import DataConfig
from engine.data.images import FAKE, Splits
from engine.data.memory import MemoryImages, Recipe
from engine.data.order import random_numbers, stratified_split
from engine.data.preprocessing import resized
from engine.errors import ConfigError, IncompleteDataError
from engine.files import in_home
from engine.nearest import nearest_path

DIGITS_TEST_SHARE = 0.2
DIGITS_SPLIT_SEED = 0
CLUTTERED_TRAIN, CLUTTERED_TEST = 5000, 2000
FAKE_TRAIN_PER_TEST = 4


class Pixels(NamedTuple):
    """One part of a set: images (N, C, H, W) uint8, labels (N,) int64."""

    images: Tensor
    labels: np.ndarray


# Mean and std over the 80 % of scikit-learn's digits that are the training part here.
_DIGITS = Recipe(mean=(0.3051,), std=(0.3757,), flip=False)
# Mean and std over all pixels of the training images made of the digits.
_CLUTTERED = Recipe(mean=(0.0787,), std=(0.2349,), flip=False)
# Mean and std over all pixels of the 60,000 training images (Xiao et al. 2017, arXiv 1708.07747).
_FASHION_MNIST = Recipe(mean=(0.2860,), std=(0.3530,), flip=True)
# Mean and std over all pixels of the 50,000 training images (Krizhevsky 2009), as in most published CIFAR-10 code.
_CIFAR10 = Recipe(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616), flip=True)


def open_in_memory(config: DataConfig, *, input_size: int, channels: int, classes: int | None) -> Splits:
    """Reads a set and resizes it once, to N * C * input_size^2 bytes. Raises ConfigError as `engine.data.open_images`
    does."""
    if config.name == "fake":
        check_classes(config, config.fake_classes, classes)
        train, test, names, recipe = _fake(config, input_size, channels)
    else:
        train, test, names, recipe = _OPENERS[config.name](config)
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
    """Returns both parts, resized to `input_size`. Raises ConfigError if their images cannot give `channels`."""
    colours = train.images.shape[1]
    if channels not in (colours, 3 if colours == 1 else colours):
        found = f"got {channels}, but the images of data.name '{config.name}' have {colours}"
        remedy = f"set it to {'1, or 3 (grey repeated)' if colours == 1 else colours}"
        raise ConfigError("space.input_channels", found, remedy=remedy)
    first, second = (
        MemoryImages(resized(part.images, input_size), part.labels, recipe, channels=channels) for part in (train, test)
    )
    return Splits(first, second, names)


def check_classes(config: DataConfig, own: int, classes: int | None) -> None:
    """Raises ConfigError unless the data, which has `own` classes, has as many as the network. classes: those of the
    network; None accepts any number."""
    if classes not in (None, own):
        key = " (data.fake_classes)" if config.name == "fake" else ""
        found = f"got {classes}, but data.name '{config.name}' has {own} classes{key}"
        raise ConfigError("space.classes", found, remedy=f"set space.classes: {own}, or choose other data")


_Opened = tuple[Pixels, Pixels, tuple[str, ...], Recipe]
"""The training part, the test part, the names of the classes, and the recipe of a set."""


def _digits(config: DataConfig) -> _Opened:
    """Returns scikit-learn's digits: 1797 images, 8 x 8, grey 0..16.

    The set has no official test part; a stratified fifth, the same for everyone, is the test part here.
    """
    from sklearn.datasets import load_digits  # takes 0.5 s, which most programs need not wait for

    digits = load_digits()
    images = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)  # (1797, 1, 8, 8)
    labels = digits.target.astype(np.int64)
    train, test = (
        Pixels(images[torch.from_numpy(part)], labels[part])
        for part in stratified_split(labels, DIGITS_TEST_SHARE, DIGITS_SPLIT_SEED)
    )
    return train, test, tuple(str(digit) for digit in digits.target_names), _DIGITS


def _cluttered_digits(config: DataConfig) -> _Opened:
    """Returns images made of those of `_digits`; the test images are made of its test part, so no digit is in both."""
    train, test, names, _ = _digits(config)

    def made(part: Pixels, images: int, number: int) -> Pixels:
        pixels, labels = cluttered(part.images[:, 0].numpy(), part.labels, images, number)
        return Pixels(torch.from_numpy(pixels).unsqueeze(1), labels)

    return made(train, CLUTTERED_TRAIN, 0), made(test, CLUTTERED_TEST, 1), names, _CLUTTERED


def _fashion_mnist(config: DataConfig) -> _Opened:
    """Returns torchvision's Fashion-MNIST: 60,000 and 10,000 images, 28 x 28, grey."""

    def read(root: Path, train: bool, download: bool) -> tuple[Pixels, tuple[str, ...]]:
        from torchvision.datasets import FashionMNIST

        dataset = FashionMNIST(root, train=train, download=download)
        return Pixels(dataset.data.unsqueeze(1), dataset.targets.numpy().astype(np.int64)), tuple(dataset.classes)

    return *_both_parts(config, read), _FASHION_MNIST


def _cifar10(config: DataConfig) -> _Opened:
    """Returns torchvision's CIFAR-10: 50,000 and 10,000 images, 32 x 32, RGB."""

    def read(root: Path, train: bool, download: bool) -> tuple[Pixels, tuple[str, ...]]:
        from torchvision.datasets import CIFAR10

        dataset = CIFAR10(root, train=train, download=download)
        images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()  # (N, 32, 32, 3) -> (N, 3, 32, 32)
        return Pixels(images, np.array(dataset.targets, dtype=np.int64)), tuple(dataset.classes)

    return *_both_parts(config, read), _CIFAR10


def _both_parts(
    config: DataConfig, read: Callable[[Path, bool, bool], tuple[Pixels, tuple[str, ...]]]
) -> tuple[Pixels, Pixels, tuple[str, ...]]:
    """Returns both parts of a torchvision set. Raises ConfigError, in one line, for each of the errors by which
    torchvision reports missing or damaged files and failed downloads."""
    assert config.root is not None  # DataConfig requires it
    root = in_home(config.root)
    try:
        train, names = read(root, True, config.download)
        test, _ = read(root, False, config.download)
    except (RuntimeError, urllib.error.URLError, OSError, ValueError, EOFError) as error:
        # torchvision: RuntimeError for files that are absent or fail their checksum and for failed downloads; URLError
        # and OSError from the network and the disk; ValueError and EOFError from a damaged file without checksum
        reason = " ".join(str(error).split()) or type(error).__name__
        if config.download:
            found = f"could not fetch '{config.name}' into data.root '{root}' ({reason})"
            remedy = "check the network and the folder, or put the files there yourself"
            raise ConfigError("data.download", found, remedy=remedy) from error
        found = f"no complete '{config.name}' in '{root}' ({reason})"
        remedy = "put torchvision's files there or set data.download: true"
        raise IncompleteDataError("data.root", found, remedy=remedy, suggestion=nearest_path(root)) from error
    return train, test, names


def _fake(config: DataConfig, input_size: int, channels: int) -> _Opened:
    """Returns images of noise, the same every time, with labels 0, 1, 2, ... in turn."""

    def noise(part: int, total: int) -> Pixels:
        shape = (total, channels, input_size, input_size)
        images = random_numbers(part, FAKE).integers(0, 256, size=shape, dtype=np.uint8)
        return Pixels(torch.from_numpy(images), np.arange(total, dtype=np.int64) % config.fake_classes)

    names = tuple(f"class {i}" for i in range(config.fake_classes))
    uniform = Recipe(mean=(0.5,) * channels, std=(12**-0.5,) * channels, flip=True)  # those of the uniform distribution
    test_images = max(config.fake_classes, config.fake_images // FAKE_TRAIN_PER_TEST)
    return noise(0, config.fake_images), noise(1, test_images), names, uniform


_OPENERS: dict[str, Callable[[DataConfig], _Opened]] = {
    "digits": _digits,
    "cluttered_digits": _cluttered_digits,
    "fashion_mnist": _fashion_mnist,
    "cifar10": _cifar10,
}
