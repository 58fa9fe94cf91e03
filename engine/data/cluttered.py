"""Makes images of handwritten digits among pieces of others: hard enough that networks differ in accuracy.

After the cluttered, translated MNIST of Mnih et al. 2014 (arXiv 1406.6247, Sec. 4.1), with the 8 x 8 digits of
scikit-learn.
"""

from __future__ import annotations

import numpy as np

from engine.data.order import random_numbers

SIZE = 20
"""Width and height of an image."""
PIECES = 2
"""The number of pieces of other digits in an image."""
PIECE = 4
"""Width and height of a piece."""
MARGIN = 2
"""The least number of pixels between the digit and the border: as many as a random crop moves it at this size."""
CLUTTER = 0x636C7574
"""The last part of the key of the random numbers drawn here, which no other use of a seed has."""


def cluttered(digits: np.ndarray, labels: np.ndarray, images: int, part: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes `images` images out of digits (N, 8, 8) uint8 with labels (N,).

    Returns (images, SIZE, SIZE) uint8 and their labels (images,). Each digit is used equally often, to one image. The
    digit and PIECES pieces of others lie anywhere; where they overlap, the brighter pixel is seen. The result is a pure
    function of the arguments. part: the seed, 0 for training and 1 for test images.
    """
    rng = random_numbers(part, CLUTTER)
    count, height, width = digits.shape
    chosen = rng.permutation(np.arange(images) % count)
    canvas = np.zeros((images, SIZE, SIZE), dtype=np.uint8)
    for i, index in enumerate(chosen):
        top, left = rng.integers(MARGIN, (SIZE - MARGIN - height + 1, SIZE - MARGIN - width + 1))
        canvas[i, top : top + height, left : left + width] = digits[index]
        for other in rng.integers(count, size=PIECES):
            y, x = rng.integers(0, (height - PIECE + 1, width - PIECE + 1))
            top, left = rng.integers(SIZE - PIECE + 1, size=2)
            piece = digits[other, y : y + PIECE, x : x + PIECE]
            under = canvas[i, top : top + PIECE, left : left + PIECE]
            np.maximum(under, piece, out=under)
    return canvas, labels[chosen]
