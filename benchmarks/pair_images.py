"""Composes pairs of Fashion-MNIST's garments, far apart on one picture, as a data set (docs/extending/dataset.md).

The class is that of the garment on the left. To tell which one that is, a network has to see the other garment, or the
border, from where it sees the first: a bag of local features knows both garments and not their order.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d
from torchvision.datasets import FashionMNIST

from engine.data.own import Arrays, OwnSet

SIZE = 32
"""Width and height of a picture."""
GARMENT = 8
"""Width and height of a garment, to which Fashion-MNIST's pictures are averaged."""
APART = 12
"""Pixels from the left border of one garment to that of the other, at least; at most SLACK more."""
SLACK = 2
KINDS = (0, 1, 7, 8)
"""The classes of Fashion-MNIST that are used: T-shirt/top, Trouser, Sneaker and Bag, which are told apart easily."""
TRAINING, TEST = 6_000, 4_000
"""Pictures; there are 24,000 and 4,000 garments of these kinds."""


def pairs(root: Path | None) -> OwnSet:
    """Returns the pictures (N, SIZE, SIZE, 1) of the garments below `root`, which has torchvision's FashionMNIST."""
    if root is None or not (root / "FashionMNIST").is_dir():
        raise ValueError(f"data.root: no folder FashionMNIST in '{root}'")
    return _pairs(root)


@cache  # a benchmark trains hundreds of networks in one process
def _pairs(root: Path) -> OwnSet:
    train, test = (FashionMNIST(str(root), train=part) for part in (True, False))
    classes = [train.classes[kind] for kind in KINDS]
    return OwnSet(_part(train, TRAINING, 1), _part(test, TEST, 0), classes, flip=False)


def _part(source: FashionMNIST, count: int, seed: int) -> Arrays:
    labels = source.targets.numpy()
    kept = np.isin(labels, KINDS)
    return Arrays(*composed(source.data.numpy()[kept], np.searchsorted(KINDS, labels[kept]), count, seed))


def composed(garments: np.ndarray, labels: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes `count` pictures out of garments (N, 28, 28) uint8 with labels (N,).

    Returns (count, SIZE, SIZE, 1) uint8 and the labels (count,) of the garments on the left. Each garment is used
    equally often, to one, on the left and on the right. Their heights are independent of each other.
    """
    rng = np.random.default_rng(seed)
    small = adaptive_avg_pool2d(torch.from_numpy(garments).float(), GARMENT).round().to(torch.uint8).numpy()
    left, right = (rng.permutation(np.resize(rng.permutation(len(labels)), count)) for _ in range(2))
    apart = rng.integers(APART, APART + SLACK + 1, count)
    begin = rng.integers(0, SIZE - GARMENT - apart + 1)  # anywhere, so that the border says little
    canvas = np.zeros((count, SIZE, SIZE, 1), dtype=np.uint8)
    for chosen, xs in ((left, begin), (right, begin + apart)):
        tops = rng.integers(0, SIZE - GARMENT + 1, count)
        for picture, index, top, x in zip(canvas, chosen, tops, xs, strict=True):
            picture[top : top + GARMENT, x : x + GARMENT, 0] = small[index]
    return canvas, labels[left].astype(np.int64)
