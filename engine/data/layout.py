"""Finds the parts of a set that lies in folders: train/, val/ and test/, or class folders alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.data.config import DataConfig
from engine.data.label_files import class_names_in, label_file, labels_in
from engine.data.parts import Part, Parts, as_it_looks, held_out
from engine.data.scan import all_image_files, class_folders, image_files
from engine.errors import ConfigError
from engine.files import in_home
from engine.nearest import nearest_path

VALIDATION_FOLDERS = ("val", "valid", "validation")
"""The names of the folder between train/ and test/, of which a set has one at most."""


SHARD_INDEX = "index.json"
"""The file by which a folder of shards is recognised."""


@dataclass(frozen=True)
class Layout:
    """The classes of a set of files, which cost little to find, and the function that finds the files."""

    class_names: tuple[str, ...]
    parts: Callable[[], Parts]


def holds_shards(root: Path) -> bool:
    """Returns whether a folder is one of shards (engine/data/shards.py)."""
    return (root / SHARD_INDEX).is_file()


def folder_layout(config: DataConfig) -> Layout:
    """Returns the layout of `imagenet` or `folder`.

    The test part is test/ for a folder, val/ for ImageNet, whose public test images have no labels; the other one if
    that is absent. If a folder has both, val/ is the validation part. With `data.test` the folder that has no test part
    is divided. Raises ConfigError, and so does `parts`, as `engine.data.open_images` does.
    """
    assert config.root is not None  # DataConfig requires it
    root = in_home(config.root)
    if not os.path.isdir(root):
        found, accepted = f"no folder '{root}'", "one that holds train/ and val/ or test/"
        raise ConfigError("data.root", found, accepted, "correct it", suggestion=nearest_path(root))
    train = root / "train"
    if config.test is not None and not (train.is_dir() and class_folders(train)):
        return _undivided(root, config.test)
    if not train.is_dir():
        found, near = f"no train/ in '{root}'", nearest_path(train)
        remedy = "add it or correct the path"
        if holds_shards(root):
            raise ConfigError(
                "data.name", f"got '{config.name}', but '{root}' holds shards", "shards", "set it to shards"
            )
        if config.name == "folder" and not near:
            classes = len(class_folders(root))
            if classes > 1:
                remedy += "; if its folders are the classes, set data.test: 0.2, a fifth of each for the test"
            elif not classes and any(root.iterdir()):
                remedy += f"; if its files are the images of one class, give the folder above it, '{root.parent}'"
        raise ConfigError("data.root", found, "train/<class>/<image>", remedy, suggestion=near)
    middle, last = validation_folder(root), root / "test" if (root / "test").is_dir() else None
    if config.test is not None:
        if last is not None:
            found = f"got {config.test:g}, but '{root}' has test/"
            raise ConfigError("data.test", found, "null where there are test images", "remove it")
        test, validation = None, middle
    elif config.name == "imagenet":
        test, validation = middle or last, None
    else:
        test, validation = last or middle, middle if last is not None else None
    folders = class_folders(train)
    names = tuple(folders)
    if test is None and config.test is None:
        wanted = ("val/", "test/") if config.name == "imagenet" else ("test/", "val/")
        found, remedy = f"neither {wanted[0]} nor {wanted[1]} in '{root}'", "add it"
        if config.name == "folder":
            remedy += ", or set data.test: 0.2, which holds out a fifth of train/"
        raise ConfigError("data.root", found, "one of them with the classes of train/", remedy)
    notes = []
    labels = None if test is None else _labels_of_flat(config, root, test, names)
    if test is not None and labels is None and (difference := _difference(names, tuple(class_folders(test)))):
        found = f"the class folders of {test.name}/ are not those of train/ in '{root}': {difference}"
        remedy = "both need the same folders"
        if not set(class_folders(test)) & set(names):
            remedy += ", or the file with the labels of its images (data.labels)"
        raise ConfigError("data.root", found, remedy=remedy)
    if validation is not None and (reason := _unusable(validation, last, names)):
        notes.append(f"{validation}: not used, {reason}")
        validation = None

    def parts() -> Parts:
        whole = _part(train, folders)
        if config.test is not None:
            whole, tested = held_out(whole, config.test, names)
        else:
            assert test is not None
            tested = _part(test, class_folders(test)) if labels is None else _flat(test, labels, names)
        selecting = _part(validation, class_folders(validation)) if validation is not None else None
        return Parts(names, whole, tested, selecting, tuple(notes))

    return Layout(names, parts)


def undivided_layout(root: Path) -> Layout:
    """Returns the layout of a folder of class folders without a test part."""
    folders = class_folders(root)
    return Layout(tuple(folders), lambda: Parts(tuple(folders), _part(root, folders), None))


def validation_folder(root: Path) -> Path | None:
    """Returns val/, valid/ or validation/ in `root`, None if there is none. Raises ConfigError if there are several."""
    there = [root / name for name in VALIDATION_FOLDERS if (root / name).is_dir()]
    if len(there) > 1:
        found = f"'{root}' has {' and '.join(f'{folder.name}/' for folder in there)}"
        raise ConfigError("data.root", found, "one folder of validation images", "put them into one, or rename one")
    return there[0] if there else None


def _undivided(root: Path, share: float) -> Layout:
    """Returns the layout of a folder of class folders of which a share is held out for the test."""
    whole = undivided_layout(root)
    strays = [name for name in whole.class_names if name in (*VALIDATION_FOLDERS, "test")]
    if strays:
        found = f"got {share:g}, but '{root}' has {strays[0]}/ and no train/"
        raise ConfigError("data.test", found, "class folders alone, or train/ without test/", "rename it or remove it")

    def parts() -> Parts:
        return Parts(whole.class_names, *held_out(whole.parts().train, share, whole.class_names))

    return Layout(whole.class_names, parts)


def _part(folder: Path, folders: dict[str, str]) -> Part:
    """Returns the images of a folder of class folders. folders: as `class_folders` returns them."""
    files, labels, left_out = image_files(folder, [*folders.values()])
    return Part(f"{folder.name}/", folder, files, labels, left_out)


def _labels_of_flat(config: DataConfig, root: Path, folder: Path, names: tuple[str, ...]) -> Path | None:
    """Returns the file with the labels of a folder's images, if the folder has none of the class folders. Raises
    ConfigError if `data.labels` is set and the folder has some."""
    mixed = set(class_folders(folder)) & set(names)
    if mixed and config.labels is not None:
        found = f"got '{config.labels}', but '{folder}' has class folders"
        raise ConfigError("data.labels", found, "null where folders give the labels", "remove it")
    return None if mixed else label_file(root, folder, config.labels)


def evaluation_layout(root: Path) -> tuple[Path, Layout]:
    """Returns the folder in `root` with the images to evaluate a network on, and its layout, of one part.

    root: a folder that holds val/ or test/, or one that holds class folders itself. Images in one folder get their
    labels from a file, if there is one; the classes are then those of train/, or those of that file. Raises
    ConfigError.
    """
    tested, train = root / "test", root / "train"
    folder = validation_folder(root) or (tested if tested.is_dir() else root)
    folders = class_folders(folder)
    if folders.keys() - {"images"} or not (labels := label_file(root, folder)):
        names = tuple(folders)
        return folder, Layout(names, lambda: Parts(names, _part(folder, folders), None))
    classes = tuple(class_folders(train)) if train.is_dir() else class_names_in(labels)
    return folder, Layout(classes, lambda: Parts(classes, _flat(folder, labels, classes), None))


def _flat(folder: Path, labels: Path, names: tuple[str, ...]) -> Part:
    """Returns the images of a folder, whatever folders lie in it, with the classes that a file of labels gives."""
    files, left_out = all_image_files(folder)
    if not len(files):
        raise ConfigError("data.root", f"no image in '{folder}'", f"those that '{labels}' labels", "add them")
    places = labels_in(labels, files, names)
    order = np.lexsort((files, places))
    left_out[f"files ending in {labels.suffix}"] -= labels.parent == folder  # it is used
    return Part(f"{folder.name}/, labels of {labels.name}", folder, files[order], places[order], +left_out)


def _unusable(validation: Path, test: Path | None, names: tuple[str, ...]) -> str:
    """Returns why val/ cannot be the validation part; empty if it can."""
    if test is not None and os.path.samefile(validation, test):
        return "since it is test/ by another name"
    difference = _difference(names, tuple(class_folders(validation)))
    return f"since its class folders are not those of train/: {difference}" if difference else ""


def _difference(names: tuple[str, ...], test_names: tuple[str, ...]) -> str:
    """Returns how the class folders of two parts differ, in words; names that look alike are escaped."""
    missing, extra = sorted({*names} - {*test_names}), sorted({*test_names} - {*names})
    parts = [(missing, "missing"), (extra, "not in train/")]
    alike = {as_it_looks(name) for name in missing} & {as_it_looks(name) for name in extra}
    shown = ascii if alike else "'{}'".format
    return ", ".join(f"{len(folders)} {what} (first: {shown(folders[0])})" for folders, what in parts if folders)
