"""Two image sets of one's own: one made in memory, one listed in a file (docs/extending/dataset.md)."""

import csv

import numpy as np
from sklearn.datasets import load_digits

from engine.data import Arrays, Files, OwnSet


def even_or_odd(root):
    """scikit-learn's 1797 digits, told apart as even and odd numbers; every fifth image tests. Reads no files."""
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]  # (1797, 8, 8, 1)
    labels = digits.target % 2
    tests = np.arange(len(labels)) % 5 == 0
    return OwnSet(
        train=Arrays(images[~tests], labels[~tests]),
        test=Arrays(images[tests], labels[tests]),
        classes=["even", "odd"],
        flip=False,  # a mirrored digit is no digit
    )


def labelled_files(root):
    """Image files below `root`, named in its labels.csv: columns file, class, part (train or test)."""
    if root is None or not (root / "labels.csv").is_file():
        raise ValueError(f"data.root: no labels.csv in '{root}'")
    with (root / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    classes = sorted({row["class"] for row in rows})

    def part(name):
        own = [row for row in rows if row["part"] == name]
        return Files([row["file"] for row in own], [classes.index(row["class"]) for row in own])

    return OwnSet(part("train"), part("test"), classes, flip=True)
