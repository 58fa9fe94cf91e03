"""Reads the labels of images that lie in one folder, such as ImageNet's val/, from the file beside them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import ConfigError
from engine.files import in_home, read_bytes, read_text

USUAL_NAMES = (
    "ILSVRC2012_validation_ground_truth.txt",
    "LOC_val_solution.csv",
    "imagenet_2012_validation_synset_labels.txt",
    "val_annotations.txt",
    "val.txt",
)
"""The names under which a file of labels is looked for."""
DEVKIT = "ILSVRC2012_devkit_t12/data"
_NUMBERED = ("meta.mat", "map_clsloc.txt")
"""The files of ImageNet's development kits that have the class of each number."""


def label_file(root: Path, folder: Path, given: Path | None = None) -> Path | None:
    """Returns the file with the labels of the images in `folder`: the one that is given, or one of the usual names in
    `root`, in the folder or in the development kit; None if there is none."""
    if given is not None:
        return in_home(given)
    places = (root, folder, root / DEVKIT)
    return next((place / name for name in USUAL_NAMES for place in places if (place / name).is_file()), None)


def labels_in(file: Path, images: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Returns the class of each image, (N,) int64, as a file of labels has it.

    images: the paths of all images of the folder, (N,) bytes, sorted. names: the names of the classes, sorted.

    Each line of the file is one of:

    - the name of an image, with or without ending, and its class: the name of a class, or its place among the sorted
      names, counted from 0. Commas, spaces and tabs separate, and what follows is ignored (LOC_val_solution.csv,
      val_annotations.txt of Tiny ImageNet, Caffe's val.txt).
    - the name of a class. Line k belongs to the k-th image in the order of names
      (imagenet_2012_validation_synset_labels.txt).
    - a number of ILSVRC2012, from 1 on, whose class meta.mat or map_clsloc.txt of the development kit gives, which lies
      beside the file. These numbers are not the places among the sorted names. Line k belongs to the k-th image.

    Raises ConfigError for any other file, if an image has no label or two, and if a class is unknown.
    """
    rows = _rows(file)
    named = {name for path in images.tolist() for name in _names_of(path)}
    if any(len(row) > 1 and row[0] in named for row in rows):
        return _by_name(file, rows, images, names)
    if any(len(row) > 1 for row in rows):
        found = f"'{' '.join(rows[0])[:80]}' begins with the name of none of the {len(images)} images"
        raise ConfigError(str(file), found, "a name and a class in each line, or a class alone", "correct data.labels")
    if len(rows) != len(images):
        found = f"has {len(rows)} lines for {len(images)} images"
        raise ConfigError(str(file), found, "a line for each image", "add the missing images, or correct data.labels")
    words = [row[0] for row in rows]
    places = {name: i for i, name in enumerate(names)}
    if words[0] not in places and all(word.isdecimal() for word in words):
        words = _of_numbers(file, words)
    return np.array([_place(file, line, word, places) for line, word in enumerate(words, 1)], dtype=np.int64)


def class_names_in(file: Path) -> tuple[str, ...]:
    """Returns the names of the classes that a file of labels knows, sorted. Raises ConfigError if it has the places of
    the classes in place of their names, or if it is no such file."""
    rows = _rows(file)
    words = [row[min(1, len(row) - 1)] for row in rows]
    if not all(word.isdecimal() for word in words):
        return tuple(sorted(set(words)))
    if len(rows[0]) > 1:
        raise ConfigError(str(file), "has places of classes, whose names are not known", "the folder train/ beside it")
    return tuple(sorted(_names_of_numbers(file).values()))


def _rows(file: Path) -> list[list[str]]:
    """Returns the words of each line. Raises ConfigError if there is none."""
    rows = [line.replace(",", " ").split() for line in read_text(file, "the labels of images").splitlines()]
    rows = [row for row in rows if row]
    if rows and rows[0][0] == "ImageId":  # the header of LOC_val_solution.csv
        del rows[0]
    if not rows:
        raise ConfigError(str(file), "has no line", "a label for each image")
    return rows


def _names_of(path: bytes) -> tuple[str, str]:
    """Returns the names by which a list may call a file: with and without its ending."""
    name = os.path.basename(os.fsdecode(path))
    return name, os.path.splitext(name)[0]


def _by_name(file: Path, rows: Sequence[Sequence[str]], images: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Returns the class of each image from lines that begin with names of images."""
    places = {name: i for i, name in enumerate(names)}
    index: dict[str, int] = {}
    for i, path in enumerate(images.tolist()):
        for name in dict.fromkeys(_names_of(path)):
            if index.setdefault(name, i) != i:
                found = (
                    f"cannot tell '{os.fsdecode(images[index[name]])}' and '{os.fsdecode(path)}' apart by their names"
                )
                raise ConfigError(str(file), found, remedy="rename or remove one of them")
    labels = np.full(len(images), -1, dtype=np.int64)
    for line, row in enumerate(rows, 1):
        if len(row) == 1:
            raise ConfigError(str(file), f"label {line} has no class: '{row[0][:80]}'", "a name and a class")
        word = row[1]
        if word not in places and word.isdecimal():
            if int(word) >= len(names):
                accepted = f"0 to {len(names) - 1}, the place of the class among the sorted names"
                raise ConfigError(str(file), f"label {line} is {word}", accepted)
            word = names[int(word)]
        label, image = _place(file, line, word, places), index.get(row[0], -1)
        if image >= 0 and labels[image] not in (-1, label):
            raise ConfigError(str(file), f"gives '{row[0]}' two classes", "one for each image")
        if image >= 0:
            labels[image] = label
    if (absent := np.flatnonzero(labels < 0)).size:
        first = os.fsdecode(images[absent[0]])
        found = f"has no label for {len(absent)} of {len(images)} images (first: '{first}')"
        raise ConfigError(str(file), found, "a label for each image", "remove these images, or correct data.labels")
    return labels


def _place(file: Path, line: int, word: str, places: dict[str, int]) -> int:
    if word not in places:
        first = next(iter(places))
        found = f"label {line} is '{word[:80]}', which is no class of train/"
        raise ConfigError(str(file), found, f"a class folder of train/, such as '{first}'", "correct data.labels")
    return places[word]


def _of_numbers(file: Path, words: Sequence[str]) -> list[str]:
    """Returns the names of classes (WordNet ids) of numbers of ILSVRC2012."""
    names = _names_of_numbers(file)
    unknown = [word for word in words if int(word) not in names]
    if unknown:
        accepted = f"one of the {len(names)} numbers of the development kit"
        raise ConfigError(str(file), f"has the number {unknown[0]}", accepted)
    return [names[int(word)] for word in words]


def _names_of_numbers(file: Path) -> dict[int, str]:
    """Returns the names of classes of the numbers in the kit beside a file. Raises ConfigError if there is none."""
    there = next((file.parent / name for name in _NUMBERED if (file.parent / name).is_file()), None)
    if there is None:
        found = "has numbers alone, whose classes are in meta.mat or map_clsloc.txt of the development kit"
        remedy = "put one of them beside it, or take a list with the names of the classes"
        raise ConfigError(str(file), found, "one of these files beside it", remedy)
    return _of_matlab(there) if there.suffix == ".mat" else _of_map(there)


def _of_matlab(file: Path) -> dict[int, str]:
    """Returns the WordNet id of each number of a meta.mat, of the entries without children (the classes)."""
    import io

    import scipy.io

    expected = "the table `synsets` of ImageNet's development kit"
    try:
        content: Any = io.BytesIO(read_bytes(file, expected))
        table = scipy.io.loadmat(content, squeeze_me=True)["synsets"]
        ids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in table if int(row["num_children"]) == 0}
    except ConfigError:
        raise
    except Exception:  # noqa: BLE001  a damaged file makes scipy raise any exception
        raise ConfigError(str(file), "cannot be read", expected) from None
    return ids


def _of_map(file: Path) -> dict[int, str]:
    """Returns the WordNet id of each number of a map_clsloc.txt, whose lines are `n02119789 1 kit_fox`."""
    ids = {}
    for line in read_text(file, "a map of ImageNet's classes").splitlines():
        match line.split():
            case [wnid, number, *_] if number.isdecimal():
                ids[int(number)] = wnid
            case [_, *_]:
                raise ConfigError(str(file), f"got '{line[:80]}'", "lines such as 'n02119789 1 kit_fox'")
    return ids
