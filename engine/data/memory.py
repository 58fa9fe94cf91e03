"""Keeps a set of images in memory as one uint8 tensor, and augments a batch at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.data.augmentation import Augmentation
from engine.data.images import AUGMENTATION, Batch, CorruptFiles, Item, RawBatch
from engine.data.order import random_numbers
from engine.data.preprocessing import Preprocessing, resized
from engine.data.readers import Readers


@dataclass(frozen=True)
class Recipe:
    """The numbers by which the pixels of a set are normalised, and whether they are mirrored.

    mean, std: the mean and standard deviation of each channel, for pixels in [0, 1]. flip: whether a mirrored image is
    still one of its class.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool


class MemoryImages:
    """A set of N images in memory: pixels (N, C, S, S) uint8, labels (N,). C is 1 or `channels`; grey is repeated.

    Training images are cropped at random after zero padding of max(1, S // 8) pixels on each side (He et al. 2015,
    arXiv 1512.03385, Sec. 4.2: 4 pixels at 32) and mirrored at random if `recipe.flip` is set; then comes
    what `augmentation` adds.
    """

    def __init__(self, pixels: Tensor, labels: np.ndarray, recipe: Recipe, *, channels: int):
        self.pixels = pixels
        self.labels = np.asarray(labels, dtype=np.int64)
        self.recipe = recipe
        self.channels = channels
        self.preprocessing = Preprocessing.of_squares(pixels.shape[-1], channels, recipe.mean, recipe.std)
        self.readers: Readers | None = None
        self.augmentation = Augmentation()
        self.corrupt = CorruptFiles(len(self.labels), "image {}".format)  # stays empty: nothing is read from a file

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, items: Sequence[Item], *, augment: bool) -> Batch:
        """Returns images (n, channels, S, S) float32."""
        return self.preprocessing.finished(self.read(items, augment=augment))

    def prepare(self) -> None:
        """Does nothing: the images are in memory."""

    def read(self, items: Sequence[Item], *, augment: bool) -> RawBatch:
        """Returns pixels (n, C, S, S) uint8, cropped and mirrored if `augment` is set."""
        keys = np.array([(item.seed, item.turn, item.index) for item in items], dtype=np.int64).reshape(-1, 3)
        if not augment:
            x = self.pixels[torch.from_numpy(keys[:, 2])]  # (n, C, S, S)
        else:
            x = self._augmented(keys)
            if items:
                x = resized(x, self.augmentation.size_at(items[0].epoch, x.shape[-1]))
            x = self.augmentation.applied(x, items, self.recipe.mean)
        return RawBatch(x, torch.from_numpy(self.labels[keys[:, 2]]))

    def restrict(self, indices: np.ndarray) -> MemoryImages:
        """Returns the set of these images alone, numbered from 0."""
        return MemoryImages(
            self.pixels[torch.from_numpy(indices)], self.labels[indices], self.recipe, channels=self.channels
        )

    def content(self) -> dict[str, Any]:
        """Returns a checksum of the pixels."""
        return {"pixels": hashlib.sha256(self.pixels.contiguous().numpy().data).hexdigest()}

    def _augmented(self, keys: np.ndarray) -> Tensor:
        """Returns images (n, C, S, S) uint8 cropped and mirrored at random. keys: (n, 3), seed, turn and index.

        Image by image: each is a few copies of rows. Indexing all windows of a padded batch at once would copy byte by
        byte, which takes ten times as long at 224 pixels.
        """
        size = self.pixels.shape[-1]
        pad = max(1, size // 8)
        draws = np.empty((len(keys), 3), dtype=np.int64)  # top, left, mirrored
        for seed, turn in np.unique(keys[:, :2], axis=0).tolist():
            rows = (keys[:, 0] == seed) & (keys[:, 1] == turn)
            draws[rows] = _draws(seed, turn, len(self), pad)[keys[rows, 2]]
        pixels = self.pixels.numpy()  # its slices cost a fifth of a tensor's
        out = np.zeros((len(keys), *pixels.shape[1:]), dtype=np.uint8)
        for image, index, (top, left, mirrored) in zip(out, keys[:, 2].tolist(), draws.tolist(), strict=True):
            down, right = top - pad, left - pad  # where the crop begins in the picture; outside there are zeros
            seen = pixels[index, :, max(0, down) : size + min(0, down), max(0, right) : size + min(0, right)]
            begin = max(0, -right)
            if mirrored and self.recipe.flip:
                seen, begin = seen[..., ::-1], max(0, right)
            image[:, max(0, -down) : size - max(0, down), begin : begin + seen.shape[-1]] = seen
        return torch.from_numpy(out)


@lru_cache(maxsize=8)  # a turn's table is drawn once; some streams (training, validation) run side by side
def _draws(seed: int, turn: int, total: int, pad: int) -> np.ndarray:
    """Returns (total, 3): top and left of the crop in [0, 2 pad], mirrored in {0, 1}. Row i belongs to image i."""
    return random_numbers(seed, turn, AUGMENTATION).integers(0, (2 * pad + 1, 2 * pad + 1, 2), size=(total, 3))
