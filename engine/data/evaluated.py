"""Opens the images to evaluate a network on where there is no configuration: a folder, or shards."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.data.folder import FolderImages
from engine.data.layout import Layout, evaluation_layout, holds_shards
from engine.data.preprocessing import Preprocessing
from engine.data.shards import check_test_shards, open_test_shards
from engine.errors import ConfigError, one_line
from engine.imagenet import are_wordnet_ids
from engine.nearest import nearest_path

logger = logging.getLogger("engine.data")


def open_test_images(
    root: Path, preprocessing: Preprocessing, classes: int, class_names: Sequence[str] | None = None
) -> tuple[FolderImages, tuple[str, ...]]:
    """Returns the image files to evaluate a network on, and the names of their classes, in the order of the network's.

    root: a folder that holds val/ or test/ with one folder per class, or with all images and a file of their labels
    (engine/data/label_files.py); one that holds the class folders itself; or one of shards with a part test
    (engine/data/shards.py). classes: how many there must be. class_names: those of the network; if the images have the
    same ones in another order, their labels follow the network. None, if it does not say: class i is the i-th in the
    order of names, and of numbers if all names are numbers (10 after 9). Raises ConfigError, whose place is the root's
    path, if there are others, or a class has no image.
    """
    if preprocessing.colours not in (1, 3):
        found = f"image files give 1 or 3 channels, but the network's images have {preprocessing.colours}"
        raise ConfigError(str(root), found)
    if holds_shards(root):
        return _as_the_network(*open_test_shards(root, preprocessing, classes), class_names)
    folder, layout = _evaluation_layout(root, classes)
    try:
        parts = layout.parts()
    except ConfigError as error:
        raise error if error.where != "data.root" else error.at(str(folder)) from None
    parts.log_left_out()
    part = parts.train
    images = FolderImages(part.root, part.files, part.labels, preprocessing, flip=False)
    return _as_the_network(images, layout.class_names, class_names)


def _as_the_network(
    images: FolderImages, names: tuple[str, ...], own: Sequence[str] | None
) -> tuple[FolderImages, tuple[str, ...]]:
    """Returns the images with the labels that a network gives their classes, and the classes' names in that order.

    names: those of the classes of the images. own: those of the network's classes, None if they are not known. If they
    are other ones, everything stays.
    """
    wanted = tuple(own or ())
    if own is None:
        wanted = names
        if all(name.isdecimal() for name in names):
            wanted = tuple(sorted(names, key=int))
        if [int(name) if name.isdecimal() else -1 for name in wanted] != [*range(len(names))] and not are_wordnet_ids(
            names
        ):
            text = "%s: the network does not say how its classes are called; %s"
            order = f"class i is taken to be the i-th of the folders from {wanted[0]!r} to {wanted[-1]!r}"
            logger.warning(text, one_line(str(images.root)), one_line(order))
    if wanted == names or sorted(wanted) != sorted(names):
        return images, names
    place = {name: i for i, name in enumerate(wanted)}
    return images.renumbered(np.array([place[name] for name in names])), wanted


def check_test_images(root: Path, classes: int) -> None:
    """Raises what open_test_images raises if there is no such folder, or it has other numbers of classes. Image files
    are not listed. Call it before a network for them is loaded or downloaded."""
    if holds_shards(root):
        check_test_shards(root, classes)
    else:
        _evaluation_layout(root, classes)


def _evaluation_layout(root: Path, classes: int) -> tuple[Path, Layout]:
    """Returns the folder of the images to evaluate a network on, and its layout. Raises ConfigError."""
    if not os.path.isdir(root):
        accepted = "a folder that holds val/ (or test/) with one folder per class"
        raise ConfigError(str(root), "no such folder", accepted, suggestion=nearest_path(root))
    folder = root
    try:
        folder, layout = evaluation_layout(root)
        if len(layout.class_names) != classes:
            found = f"has {len(layout.class_names)} class folders"
            raise ConfigError(str(folder), found, f"{classes}, one for each class of the network")
    except ConfigError as error:
        raise error if error.where != "data.root" else error.at(str(folder)) from None
    return folder, layout
