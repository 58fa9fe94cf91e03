"""A few thousand CIFAR-10 images, chosen by a seed, as a data set of a search (docs/extending/dataset.md)."""

from pathlib import Path

import numpy as np

from engine.data.own import Arrays, OwnSet

FILE = "images.npz"


def chosen(root: Path) -> OwnSet:
    """The images that benchmarks/nas_bench_macro.py has written into `root`; nothing tests here."""
    with np.load(root / FILE) as kept:
        images, labels = kept["images"], kept["labels"]
        classes = kept["classes"].tolist()
    first = [int(np.flatnonzero(labels == c)[0]) for c in range(len(classes))]
    return OwnSet(Arrays(images, labels), Arrays(images[first], labels[first]), classes, flip=True)
