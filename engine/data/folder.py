"""Loads image files, from class folders or from a list, and augments them one by one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from engine.data.augmentation import Augmentation, filling
from engine.data.cache import DecodedPictures
from engine.data.config import DataConfig
from engine.data.images import AUGMENTATION, Batch, CorruptFiles, FileList, Item, RawBatch, Splits
from engine.data.layout import Layout, folder_layout
from engine.data.listed import listed_layout
from engine.data.memory import Recipe
from engine.data.on_gpu import encoded
from engine.data.parts import Part
from engine.data.pictures import Box, UnreadableError, content_of, for_a_gpu, part_of_picture, whole_picture
from engine.data.preprocessing import MEAN_OF_PHOTOGRAPHS, STD_OF_PHOTOGRAPHS, Preprocessing
from engine.data.readers import Readers
from engine.data.sources import check_classes
from engine.errors import ConfigError
from engine.seeding import mix

if TYPE_CHECKING:
    from torchvision.transforms import v2

LAYOUTS: dict[str, Callable[[DataConfig], Layout]] = {
    "imagenet": folder_layout,
    "folder": folder_layout,
    "csv": listed_layout,
}
"""The function that finds the files of each set of image files."""


AUGMENTATION_VERSION = "2"
"""Changes with the pixels of augmented images: a run that began with other ones is not resumed. 1 (not recorded): whole
pictures were decoded, Pillow resized the crops, and colours were rounded."""

_FACTORS = torch.tensor([[64 / 255, 1.0], [1 - 32 / 255, 0.5]])
"""The width and the lower end of the uniform draws of brightness and saturation, by which a training image is
multiplied."""


def recipe_of_photographs(channels: int, *, flip: bool = True) -> Recipe:
    """Returns ImageNet's mean and std. Raises ConfigError unless image files can give so many channels."""
    if channels not in MEAN_OF_PHOTOGRAPHS:
        found = f"got {channels}, but image files give 1 (grey) or 3 (RGB)"
        raise ConfigError("space.input_channels", found, remedy="set it to 3")
    return Recipe(MEAN_OF_PHOTOGRAPHS[channels], STD_OF_PHOTOGRAPHS[channels], flip)


class FolderImages:
    """A set of N image files, sorted by class, then by path.

    files: (N,), paths below `root` as bytes; labels: (N,). An unreadable file is replaced by the next readable one of
    its class in this very set. engine/data/pictures.py decodes the files.

    Training: random resized crop of 8 to 100 % of the area, horizontal flip if `flip` is set, then what `augmentation`
    adds, by default brightness by 32/255 and saturation by 0.5, clipped once. A process reads the crop;
    `Preprocessing.finished` changes the colours of a batch. Evaluation: what `preprocessing` does, by default the
    shorter side to round(S / 0.875), then the central S x S.
    """

    def __init__(self, root: Path, files: np.ndarray, labels: np.ndarray, preprocessing: Preprocessing, *, flip: bool):
        import torchvision.transforms.v2  # noqa: F401  # for the processes that read, forks of this one: it takes seconds

        assert (np.diff(labels) >= 0).all()
        self.root = root
        self.files = files  # one array of bytes: a million strings would be copied page by page into each worker
        self.labels = np.asarray(labels, dtype=np.int64)
        self.preprocessing = preprocessing
        self.flip = flip
        self.readers: Readers | None = Readers()
        self.corrupt = CorruptFiles(len(files), self.path)
        self.augmentation = Augmentation()
        self.cache: tuple[DecodedPictures, np.ndarray] | None = None
        """The decoded pictures of a set that has these images, and their numbers there (N,); see `keep_decoded`."""
        self.on_gpu = False
        """Whether a GPU decodes the JPEG files of training batches; see engine/data/on_gpu.py."""

    def __len__(self) -> int:
        return len(self.files)

    def path(self, index: int) -> str:
        """Returns the path of the file at `index`."""
        return os.path.join(self.root, os.fsdecode(self.files[index]))

    def load(self, items: Sequence[Item], *, augment: bool) -> Batch:
        """Returns images (n, channels, S, S) float32. Raises ConfigError if a class has no readable image."""
        return self.preprocessing.finished(self.read(items, augment=augment))

    def read(self, items: Sequence[Item], *, augment: bool) -> RawBatch:
        """Returns pixels (n, channels, S, S) uint8, and what is to be done with them if `augment` is set. Raises
        ConfigError if a class has no readable image."""
        return self._read(items, augment, on_gpu=self.on_gpu and augment)

    def read_here(self, items: Sequence[Item]) -> RawBatch:
        """Returns what `read` returns of items to augment if no GPU decodes files."""
        return self._read(items, True, on_gpu=False)

    def _read(self, items: Sequence[Item], augment: bool, *, on_gpu: bool) -> RawBatch:
        corrupt: dict[int, str] = {}
        colours, size = self.preprocessing.colours, self.preprocessing.input_size
        if augment and items:
            size = self.augmentation.size_at(items[0].epoch, size)
        pixels = torch.empty((len(items), colours, size, size), dtype=torch.uint8)
        draws = torch.empty((len(items), 2))
        files, places = [], []
        rest = iter(pixels)
        with torch.random.fork_rng(devices=[]):
            for i, (drawn, item) in enumerate(zip(draws, items, strict=True)):
                if on_gpu and (file := self._encoded(item, drawn)) is not None:
                    files.append((item, *file))
                    places.append(i)
                    continue
                convert = partial(self._augmented, item, drawn) if augment else self._evaluated
                shown, unreadable = self._readable(item.index, size, convert)
                next(rest).copy_(shown)
                corrupt.update(unreadable)
        labels = torch.from_numpy(self.labels[[item.index for item in items]])
        coloured = augment and self.augmentation.policy == "published"
        factors = draws * _FACTORS[0] + _FACTORS[1] if coloured else None
        read = RawBatch(pixels, labels, dict(sorted(corrupt.items())), factors)
        if not files:
            return read
        mine = pixels[: len(items) - len(files)].clone()
        return read._replace(pixels=mine, encoded=encoded(files), encoded_at=torch.tensor(places))

    def restrict(self, indices: np.ndarray) -> Self:
        """Returns the set of these images alone, numbered from 0."""
        return self._share(self._chosen(indices, self.labels[indices]), indices)

    def renumbered(self, places: np.ndarray) -> Self:
        """Returns the set whose class `places[i]` is class i of this one, sorted anew. places: (classes,)."""
        labels = places[self.labels]
        order = np.argsort(labels, kind="stable")
        return self._share(self._chosen(order, labels[order]), order)

    def _chosen(self, indices: np.ndarray, labels: np.ndarray) -> Self:
        """Returns the set of the images at `indices`, with these labels, both (n,); it shares nothing with this one
        yet."""
        return type(self)(self.root, self.files[indices], labels, self.preprocessing, flip=self.flip)

    def keep_decoded(self, place: Path) -> None:
        """Lets the set, and all sets made of it, decode each picture once; see DecodedPictures. place: `data.cache`."""
        way = self.preprocessing
        pictures = DecodedPictures(
            place, self._bytes, len(self), channels=way.colours, most=way.input_size, identity=self._identity()
        )
        self.cache = (pictures, np.arange(len(self)))

    def prepare(self) -> None:
        """Decodes the pictures if they are to be kept and have not been decoded yet."""
        if self.cache is not None:
            self.cache[0].prepare()

    def content(self) -> dict[str, Any]:
        """Returns a checksum of the names and sizes of the files, since reading a million files would take too long,
        their list, and the version of the augmentation."""
        digest = hashlib.sha256()
        sizes = [_size(self.path(i)) for i in range(len(self))]
        names = self.files.tolist()
        for name, size in zip(names, sizes, strict=True):
            digest.update(b"%d %d " % (len(name), size))
            digest.update(name)
        above = os.fsencode(os.path.basename(os.path.abspath(self.root)))
        listed = np.array([os.path.join(above, name) for name in names], dtype=bytes)
        files = FileList(listed, np.array(sizes, dtype=np.int64), self.labels)
        version = {"version of the augmentation": AUGMENTATION_VERSION}
        return {"file names and sizes": digest.hexdigest(), "files": files} | version

    def _evaluated(self, content: bytes | np.ndarray) -> Tensor:
        """Returns the pixels (channels, S, S) uint8 that an evaluation sees of a file with this content."""
        return self.preprocessing.pixels_of(whole_picture(content, self.preprocessing.colours))

    def _encoded(self, item: Item, drawn: Tensor) -> tuple[bytes, Box, bool] | None:
        """Returns the content of an item's file, the part of the picture that is shown and whether it is mirrored, and
        fills `drawn` as `_augmented` does, which draws the same; None if no GPU can decode it."""
        torch.default_generator.manual_seed(mix(item.seed, item.turn, item.index, AUGMENTATION))
        try:
            content = self._bytes(item.index)
        except UnreadableError:
            return None
        box = for_a_gpu(content, self._part)
        if box is None:
            return None
        mirrored = bool(torch.rand(()) < 0.5) and self.flip
        drawn.uniform_()
        return content, box, mirrored

    def _augmented(self, item: Item, drawn: Tensor, content: bytes | np.ndarray) -> Tensor:
        """Returns a part of the picture in a file with this content, mirrored or not, (channels, S, S) uint8, and fills
        `drawn`, (2,) float32, with numbers in [0, 1): functions of the picture and the item alone.

        Seeded by the item even if another file stands in, so that a repaired file changes no other image.
        """
        from torchvision.transforms.v2 import functional

        # not torch.manual_seed: that reseeds the GPUs too, and fork_rng would not put them back
        torch.default_generator.manual_seed(mix(item.seed, item.turn, item.index, AUGMENTATION))
        way, size = self.preprocessing, self.augmentation.size_at(item.epoch, self.preprocessing.input_size)
        part = torch.from_numpy(part_of_picture(content, way.colours, self._part, size)).permute(2, 0, 1)
        mirrored = bool(torch.rand(()) < 0.5) and self.flip
        drawn.uniform_()
        shown: Tensor = functional.resize(part, [size, size], antialias=True)
        changed: Tensor = _changing(self.augmentation, filling(way.mean[: way.colours]))(
            shown.flip(-1) if mirrored else shown
        )
        return changed

    def _part(self, height: int, width: int) -> Box:
        """Draws the part of a picture of this size that is shown."""
        drawn = _crop(self.augmentation.least_area).make_params([torch.empty((1, height, width), device="meta")])
        return Box(*(drawn[key] for key in ("top", "left", "height", "width")))

    def _content(self, index: int, least: int) -> bytes | np.ndarray:
        """Returns the decoded picture at `index` if it is kept, and if a training at `least` pixels would decode its
        whole file; else the bytes of the file."""
        if self.cache is not None:
            pictures, numbers = self.cache
            pixels = pictures.get(int(numbers[index]))
            if pixels is not None and min(pixels.shape[:2]) // 2 < least:
                return pixels
        return self._bytes(index)

    def _bytes(self, index: int) -> bytes:
        """Returns the bytes of the file at `index`. Raises UnreadableError, or UserError if the system is at a
        limit."""
        return content_of(self.path(index))

    def _identity(self) -> str:
        """Returns a text that changes with the files."""
        digest = hashlib.sha256()
        for i, name in enumerate(self.files.tolist()):
            with suppress(OSError):  # reading it will report that
                status = os.stat(self.path(i))
                digest.update(b"%d %d %d " % (len(name), status.st_size, status.st_mtime_ns) + name)
        return f"{os.path.abspath(self.root)} {digest.hexdigest()}"

    def _share(self, part: Self, indices: np.ndarray) -> Self:
        """Lets a set of the images at `indices` use the same decoder and decoded pictures, and returns it."""
        part.on_gpu = self.on_gpu
        if self.cache is not None:
            part.cache = (self.cache[0], self.cache[1][indices])
        return part

    def _candidates(self, index: int) -> Iterator[int]:
        """Yields `index`, then the others of its class, from the next one on, wrapping around."""
        yield index
        begin, end = np.searchsorted(self.labels, [self.labels[index], self.labels[index] + 1]).tolist()
        yield from (*range(index + 1, end), *range(begin, index))

    def _readable(
        self, index: int, size: int, convert: Callable[[bytes | np.ndarray], Tensor]
    ) -> tuple[Tensor, dict[int, str]]:
        """Converts the file at `index`, or the next readable one of its class, wrapping around. Returns the pixels, and
        the unreadable ones, each with the reason."""
        unreadable: dict[int, str] = {}
        for candidate in self._candidates(index):
            try:
                return convert(self._content(candidate, size)), unreadable
            except UnreadableError as error:
                unreadable[candidate] = str(error)
        raise ConfigError(
            "data.root",
            f"none of the {len(unreadable)} files of the class of {self.path(index)} can be read as an image "
            f"(it {unreadable[index]})",
            "at least one",
            "repair or replace them",
        )


@lru_cache(maxsize=8)
def _crop(least_area: float) -> v2.RandomResizedCrop:
    """Returns the transform that draws a part of a picture; it resizes nothing here, so its size does not matter."""
    from torchvision.transforms import v2

    return v2.RandomResizedCrop(1, scale=(least_area, 1.0))


@lru_cache(maxsize=8)
def _changing(augmentation: Augmentation, fill: tuple[int, ...]) -> v2.Transform:
    return augmentation.changing(fill)


def _size(path: str) -> int:
    """Returns the size of a file in bytes; -1 if it has been deleted since it was found, which loading it reports."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def open_files(config: DataConfig, *, input_size: int, channels: int, classes: int | None) -> Splits:
    """Finds the files of `imagenet`, `folder` or `csv`. Raises ConfigError as `engine.data.open_images` does."""
    layout = LAYOUTS[config.name](config)
    check_classes(config, len(layout.class_names), classes)
    recipe = recipe_of_photographs(channels)
    preprocessing = Preprocessing.of_files(input_size, recipe.mean, recipe.std)
    parts = layout.parts()
    parts.log()

    def images(part: Part) -> FolderImages:
        return FolderImages(part.root, part.files, part.labels, preprocessing, flip=recipe.flip)

    assert parts.test is not None  # these layouts have one
    selecting = images(parts.validation) if parts.validation is not None else None
    return Splits(images(parts.train), images(parts.test), layout.class_names, selecting)
