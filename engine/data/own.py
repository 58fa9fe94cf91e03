"""Opens image sets of the user's own: calls the function that `data.module` and `data.name` name, checks its result.

A module is a file such as docs/examples/own_data.py, see docs/extending/dataset.md:

    def pairs(root):                        # data: {module: own_data.py, name: pairs}
        return OwnSet(Arrays(images, labels), Arrays(test_images, test_labels), ("even", "odd"), flip=False)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from engine.data.config import DataConfig
from engine.data.folder import FolderImages, recipe_of_photographs
from engine.data.images import Splits
from engine.data.memory import Recipe
from engine.data.preprocessing import Preprocessing
from engine.data.sources import Pixels, check_classes, in_memory
from engine.errors import InvalidError, explain
from engine.files import in_home
from engine.wording import shown

CallModule = Callable[[str, str, Path | None], object]
"""A function of (module, function, root) that calls the user's function and returns its result. It raises ValueError if
that fails. Callers pass `supernet.user_modules.call`, because engine/ imports no other package of this project."""


@dataclass(frozen=True)
class Arrays:
    """One part of a set that fits in memory: images (N, H, W, C) uint8, labels (N,) integers from 0."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Files:
    """One part of a set of image files: paths (N,), absolute or below `data.root`; labels (N,) integers from 0."""

    paths: Sequence[str | Path]
    labels: Sequence[int] | np.ndarray


@dataclass(frozen=True)
class OwnSet:
    """A whole set. Both parts are Arrays, or both are Files."""

    train: Arrays | Files
    test: Arrays | Files
    """The part on which a retraining reports its accuracy. A search never uses it."""
    classes: list[str] | tuple[str, ...]
    """The name of class i at position i."""
    flip: bool
    """Whether a mirrored image is still one of its class."""
    mean: Sequence[float] | None = None
    """The mean of each channel, of pixels in [0, 1]. None: it is computed from the training images, or, for image
    files, that of ImageNet is taken."""
    std: Sequence[float] | None = None
    """The standard deviation of each channel; None exactly if `mean` is."""


def open_own(config: DataConfig, call: CallModule, *, input_size: int, channels: int, classes: int | None) -> Splits:
    """Calls the user's function and opens the set that it returns. Raises ConfigError as `engine.data.open_images`
    does."""
    assert config.module is not None
    root = in_home(config.root) if config.root else None
    with explain("data.module"):
        returned = call(config.module, config.name, root)
    where = f"data.module: '{config.module}': {config.name}()"
    with explain(where):
        own = _checked(returned)
        names = tuple(own.classes)
    check_classes(config, len(names), classes)
    if isinstance(own.train, Arrays) and isinstance(own.test, Arrays):
        with explain(where):
            train, test = (_pixels(name, part, names) for name, part in (("train", own.train), ("test", own.test)))
            if test.images.shape[1] != train.images.shape[1]:
                found = f"test.images have {test.images.shape[1]} channels, train.images {train.images.shape[1]}"
                raise InvalidError("", found)
            recipe = _stated(own, train.images.shape[1]) or _measured(train, flip=own.flip)
        return in_memory(config, train, test, names, recipe, input_size=input_size, channels=channels)
    assert isinstance(own.train, Files)
    assert isinstance(own.test, Files)
    photographs = recipe_of_photographs(channels, flip=own.flip)
    with explain(where):
        recipe = _stated(own, channels) or photographs
        preprocessing = Preprocessing.of_files(input_size, recipe.mean, recipe.std)
        lists = [_listed(name, part, names, root) for name, part in (("train", own.train), ("test", own.test))]
    first, second = (
        FolderImages(root or Path(), files, labels, preprocessing, flip=recipe.flip) for files, labels in lists
    )
    return Splits(first, second, names)


def _checked(own: object) -> OwnSet:
    """Returns the result of the user's function. Raises InvalidError unless it is a set whose parts are of one kind and
    whose classes have names."""
    if not isinstance(own, OwnSet):
        raise InvalidError("", f"returned {_kind(own)}", "an engine.data.OwnSet")
    for name, part in (("train", own.train), ("test", own.test)):
        if not isinstance(part, Arrays | Files):
            raise InvalidError(name, f"got {_kind(part)}", "Arrays or Files of engine.data")
    if type(own.train) is not type(own.test):
        found = f"train is {_kind(own.train)}, test is {_kind(own.test)}"
        raise InvalidError("", found, "both to be of one kind")
    names = own.classes
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise InvalidError("classes", f"got {names!r}", "a list of names")
    if len(set(names)) < max(2, len(names)):
        accepted = "at least two names, each of them once"
        raise InvalidError("classes", f"got {shown(list(names))}", accepted)
    if not isinstance(own.flip, bool):
        raise InvalidError("flip", f"got {own.flip!r}", "True or False")
    return own


def _kind(value: object) -> str:
    return f"a value of type {type(value).__name__}"


def _labels(name: str, values: Sequence[int] | np.ndarray, total: int, names: tuple[str, ...]) -> np.ndarray:
    """Returns the labels as (total,) int64. Raises InvalidError unless each is below the number of classes, and every
    class has a training image. name: the part, train or test."""
    labels = np.asarray(values)
    if labels.dtype.kind not in "iu" or labels.shape != (total,):
        accepted = f"integers of shape ({total},), one per image"
        raise InvalidError(f"{name}.labels", f"got {labels.dtype} {labels.shape}", accepted)
    if total == 0:
        raise InvalidError(name, "has no image", "at least one")
    outside = np.flatnonzero((labels < 0) | (labels >= len(names)))
    if outside.size:
        found = f"image {outside[0]} has label {labels[outside[0]]}"
        accepted = f"0 to {len(names) - 1}, the places of the {len(names)} classes"
        raise InvalidError(f"{name}.labels", found, accepted)
    lacking = np.setdiff1d(np.arange(len(names)), labels)
    if name == "train" and lacking.size:
        found = f"class {lacking[0]} ('{names[lacking[0]]}') has no image"
        raise InvalidError("train.labels", found, "at least one")
    return labels.astype(np.int64)


def _pixels(name: str, part: Arrays, names: tuple[str, ...]) -> Pixels:
    """Returns one part of a set as tensors. Raises InvalidError if its arrays are of another shape or type."""
    images = part.images
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape[1:]:
        got = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else _kind(images)
        raise InvalidError(f"{name}.images", f"got {got}", "a numpy array (N, H, W, C) of uint8")
    labels = _labels(name, part.labels, len(images), names)
    return Pixels(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))), labels)


def _stated(own: OwnSet, channels: int) -> Recipe | None:
    """Returns the set's own mean and std, None if it leaves both out. Raises InvalidError for anything but numbers."""
    if own.mean is None and own.std is None:
        return None
    for name, values in (("mean", own.mean), ("std", own.std)):
        if values is None or np.shape(values) != (channels,) or not np.isfinite(np.array(values, dtype=float)).all():
            accepted = f"{channels} numbers, one for each channel, or neither of mean and std"
            raise InvalidError(name, f"got {values}", accepted)
    assert own.mean is not None
    assert own.std is not None
    if min(own.std) <= 0:
        raise InvalidError("std", f"got {tuple(own.std)}", "numbers above 0")
    return Recipe(tuple(map(float, own.mean)), tuple(map(float, own.std)), own.flip)


def _measured(train: Pixels, *, flip: bool) -> Recipe:
    """Returns mean and std of the training pixels / 255, channel by channel, from exact counts of the 256 values."""
    values = np.arange(256) / 255
    means, stds = [], []
    for c in range(train.images.shape[1]):
        counts = np.bincount(train.images[:, c].numpy().ravel(), minlength=256)
        mean = float(np.average(values, weights=counts))
        std = float(np.average((values - mean) ** 2, weights=counts)) ** 0.5
        if std == 0:
            found = f"every pixel of channel {c} is {mean * 255:g}"
            raise InvalidError("train.images", found, "images that differ")
        means.append(mean)
        stds.append(std)
    return Recipe(tuple(means), tuple(stds), flip)


def _listed(name: str, part: Files, names: tuple[str, ...], root: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the files as bytes (N,), below `root` or absolute, and labels (N,) int64; sorted by label, then path."""
    if strange := [path for path in part.paths if not isinstance(path, str | Path)]:
        raise InvalidError(f"{name}.paths", f"got {strange[0]!r}", "texts or paths")
    files = []
    for path in part.paths:
        try:
            files.append(os.fsencode(path))
        except UnicodeEncodeError:
            raise InvalidError(f"{name}.paths", f"got {path!r}, which is no file name") from None
    labels = _labels(name, part.labels, len(files), names)
    below = os.fsencode(root or Path())
    absent = [file for file in files if not os.path.isfile(os.path.join(below, file))]
    if absent:
        found = f"{len(absent)} of {len(files)} are no files (first: '{os.fsdecode(absent[0])}')"
        accepted = f"paths below data.root ('{root or '.'}') or absolute ones"
        raise InvalidError(f"{name}.paths", found, accepted)
    paths = np.array(files, dtype=bytes)
    order = np.lexsort((paths, labels))
    return paths[order], labels[order]
