"""Defines an image set: labels, and batches that are pure functions of the items in them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, TypeVar

import numpy as np
from torch import Tensor

from engine.errors import ConfigError, InvalidError, one_line

if TYPE_CHECKING:
    from engine.data.augmentation import Augmentation
    from engine.data.preprocessing import Preprocessing
    from engine.data.readers import Readers

logger = logging.getLogger("engine.data")

# Random streams: the last part of a key (seed, epoch, ..., stream), so that no two uses share their random numbers.
ORDER, AUGMENTATION, SPLIT, FAKE, STATISTICS, BALANCE, POLICY = range(7)

_TURNS = 1 << 32
"""More than there are epochs."""
MAX_CORRUPT_SHARE = 0.01
"""The largest share of a set's files that may be unreadable."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a set. Seed, turn and index together seed its augmentation."""

    seed: int
    epoch: int
    index: int
    again: int = 0
    """How often the image has come before in this epoch."""

    @property
    def turn(self) -> int:
        """A number that no other epoch, and no other time in this epoch, has; the epoch, if the image comes once."""
        return self.epoch + self.again * _TURNS


class Batch(NamedTuple):
    """A batch: images (N, C, H, W) float32, normalised; labels (N,) int64; corrupt: the unreadable files that were
    replaced while this batch was loaded, by their index in the set that loaded it, each with the reason."""

    images: Tensor
    labels: Tensor
    corrupt: Mapping[int, str] = {}


class Encoded(NamedTuple):
    """The n files of a batch that a GPU decodes (engine/data/on_gpu.py)."""

    content: Tensor
    """Their bytes, one file after the other, uint8."""
    ends: Tensor
    """Where each ends in `content`, (n,) int64."""
    boxes: Tensor
    """The part of each picture that is shown: top, left, height and width, (n, 4) int64."""
    mirrored: Tensor
    """(n,) bool."""
    items: tuple[Item, ...]

    def each(self, change: Callable[[Tensor], Tensor]) -> Encoded:
        """Returns the files with each of the tensors changed."""
        content, ends, boxes, mirrored, items = self
        return Encoded(change(content), change(ends), change(boxes), change(mirrored), items)


class RawBatch(NamedTuple):
    """A batch as it travels from the process that reads it: a quarter of the bytes of a Batch.

    pixels (N, C, S, S) uint8, C being 1 or the channels; labels, corrupt: as in Batch. factors: (N, 2) float32, by
    which the brightness and the saturation of each image are multiplied in `Preprocessing.finished`, on the network's
    device; None: they stay. encoded: n files that are not decoded yet, and encoded_at (n,) their places in the batch;
    `pixels` has the N - n other images then.
    """

    pixels: Tensor
    labels: Tensor
    corrupt: Mapping[int, str] = {}
    factors: Tensor | None = None
    encoded: Encoded | None = None
    encoded_at: Tensor | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> RawBatch:
        """Returns the batch with each of its tensors changed, such as moved to another place; an empty one stays."""

        def changed(tensor: Tensor | None) -> Tensor | None:
            return tensor if tensor is None or tensor.numel() == 0 else change(tensor)

        encoded = None if self.encoded is None else self.encoded.each(change)
        at, pixels = changed(self.encoded_at), changed(self.pixels)
        assert pixels is not None
        return RawBatch(pixels, change(self.labels), self.corrupt, changed(self.factors), encoded, at)


class CorruptFiles:
    """Collects the unreadable files that this process has found in one set. Each is named in one warning, however often
    it is found."""

    def __init__(self, total: int, path: Callable[[int], str]):
        self.total = total
        self.indices: set[int] = set()
        self._path = path

    def add(self, reasons: Mapping[int, str]) -> None:
        """Counts unreadable files and warns of the new ones, with their reasons. Raises ConfigError once more than 1 %
        of the set's files are unreadable."""
        for index in sorted(reasons.keys() - self.indices):
            self.indices.add(index)
            text = "%s: unreadable image (%s), replaced by the next one of its class"
            logger.warning(text, one_line(self._path(index)), reasons[index])
        if len(self.indices) > MAX_CORRUPT_SHARE * self.total:
            raise ConfigError(
                "data.root",
                f"{len(self.indices)} of {self.total} image files are unreadable",
                f"at most 1 %; the first is {self._path(min(self.indices))}",
                "repair or delete them and start again",
            )

    def restore(self, indices: Iterable[int]) -> None:
        """Replaces the collection by `indices`, from a checkpoint, without a warning.

        Raises InvalidError if one is not an index of this set.
        """
        restored = {int(index) for index in indices}
        if outside := sorted(i for i in restored if not 0 <= i < self.total):
            found = f"corrupt file {outside[0]} is not an index of a set of {self.total} images"
            raise InvalidError("", found)
        self.indices = restored


class ImageSet(Protocol):
    """Labelled images of one size."""

    labels: np.ndarray
    """The class of each image, (N,) int64."""
    preprocessing: Preprocessing
    """How its images become a network's input."""
    readers: Readers | None
    """The processes that load its batches. None if loading is so cheap that processes would only slow it down."""
    corrupt: CorruptFiles
    augmentation: Augmentation
    """How training images are augmented."""

    def __len__(self) -> int: ...

    def prepare(self) -> None:
        """Does what is to be done once, before the first batch is read."""
        ...

    def read(self, items: Sequence[Item], *, augment: bool) -> RawBatch:
        """Returns the images of `items` in that order, before `preprocessing.finished`.

        An image depends on its item and on `augment` only, never on the rest of the batch, the process or any global
        random state. The items to augment are of one epoch, which may decide on the images' size. Raises ConfigError
        if a class has no readable image.
        """
        ...

    def load(self, items: Sequence[Item], *, augment: bool) -> Batch:
        """Returns the batch that `read` and `preprocessing.finished` give, on the CPU."""
        ...

    def restrict(self, indices: np.ndarray) -> Self:
        """Returns the set of these images alone, numbered from 0; see `subset`."""
        ...

    def content(self) -> dict[str, Any]:
        """Returns checksums by which a change of the images is noticed, by their names; a set of files also `files`, a
        FileList, by which the change is described."""
        ...


class FileList(NamedTuple):
    """The files of a set, for a run's record: names (N,) bytes, sizes in bytes (N,) int64, and classes (N,) int64."""

    names: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Splits:
    """A data set as published: images for training, and images on which results are reported."""

    train: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    """The name of class i at position i."""
    validation: ImageSet | None = None
    """Images of its own on which a retraining selects its best epoch; None if the set has none. A search uses the
    training images alone."""


Images = TypeVar("Images", bound=ImageSet)


def subset(images: Images, indices: np.ndarray) -> Images:
    """Returns the images at `indices` (n,), strictly increasing, as a set of its own.

    `Item.index` counts from 0 within it, unreadable files are replaced from within it, and it keeps its own count of
    them. Raises ValueError if the indices are out of range, repeated or not in order.
    """
    indices = np.asarray(indices, dtype=np.int64)
    if indices.size and (indices[0] < 0 or indices[-1] >= len(images) or (np.diff(indices) <= 0).any()):
        raise ValueError(f"the indices of a subset are strictly increasing in [0, {len(images)})")
    part = images.restrict(indices)
    part.augmentation = images.augmentation
    return part
