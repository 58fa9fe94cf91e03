"""Opens the images to evaluate a network on where there is no configuration: a folder, or shards."""

from __future__ import annotations

import os
from pathlib import Path

from engine.data.folder import FolderImages
from engine.data.layout import Layout, evaluation_layout, holds_shards
from engine.data.preprocessing import Preprocessing
from engine.data.shards import check_test_shards, open_test_shards
from engine.errors import ConfigError
from engine.nearest import nearest_path


def open_test_images(root: Path, preprocessing: Preprocessing, classes: int) -> tuple[FolderImages, tuple[str, ...]]:
    """Returns the image files to evaluate a network on, and the names of their classes, sorted.

    root: a folder that holds val/ or test/ with one folder per class, or with all images and a file of their labels
    (engine/data/label_files.py); one that holds the class folders itself; or one of shards with a part test
    (engine/data/shards.py). classes: how many there must be. Raises ConfigError, whose place is the root's path, if
    there are others, or a class has no image.
    """
    if preprocessing.colours not in (1, 3):
        found = f"image files give 1 or 3 channels, but the network's images have {preprocessing.colours}"
        raise ConfigError(str(root), found)
    if holds_shards(root):
        return open_test_shards(root, preprocessing, classes)
    folder, layout = _evaluation_layout(root, classes)
    try:
        parts = layout.parts()
    except ConfigError as error:
        raise error if error.where != "data.root" else error.at(str(folder)) from None
    parts.log_left_out()
    part = parts.train
    return FolderImages(part.root, part.files, part.labels, preprocessing, flip=False), layout.class_names


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
