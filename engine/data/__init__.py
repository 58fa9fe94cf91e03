"""Reads images and yields batches, whose order and augmentation are functions of a seed.

- `config.py`: the YAML section `data`
- `images.py`: an image set, an item, a batch
- `sources.py`, `cluttered.py`: sets that fit in memory, which `memory.py` augments
- `folder.py`: sets of image files, which `pictures.py` decodes; `evaluated.py`: those that a network is evaluated on
- `parts.py`: what is found of them: in folders (`layout.py`, `scan.py`) or by a CSV list (`listed.py`);
  `label_files.py`: the labels of images that lie in one folder; `survey.py`: what the files hold
- `augmentation.py`: how training images are changed beside cropping and mirroring
- `shards.py`: image files packed into a few large ones; `cache.py`: pictures that are decoded once
- `preprocessing.py`: the way from a picture to a network's input
- `own.py`: sets of the user's own
- `order.py`: splits, and which images come when
- `stream.py`: batches for training and evaluation; `readers.py`: the processes that read files for them; `ahead.py`:
  what is prepared while the caller computes; `on_gpu.py`: JPEG files that a GPU decodes
"""

from pathlib import Path
from typing import Protocol

from engine.data.augmentation import Augmentation
from engine.data.config import DataConfig
from engine.data.folder import LAYOUTS, FolderImages, open_files
from engine.data.images import Batch, FileList, ImageSet, Item, Splits, subset
from engine.data.order import class_weights, stratified_split
from engine.data.own import Arrays, CallModule, Files, OwnSet, open_own
from engine.data.preprocessing import Preprocessing
from engine.data.shards import open_shards
from engine.data.sources import open_in_memory
from engine.data.stream import BatchStream, evaluation_batches, statistics_batches
from engine.errors import ConfigError

__all__ = [
    "Arrays",
    "Augmentation",
    "Batch",
    "BatchStream",
    "DataConfig",
    "FileList",
    "Files",
    "ImageSet",
    "InputShape",
    "Item",
    "OwnSet",
    "Preprocessing",
    "Splits",
    "class_weights",
    "evaluation_batches",
    "open_images",
    "open_images_for",
    "statistics_batches",
    "stratified_split",
    "subset",
]


class InputShape(Protocol):
    """The size and channels of the images that a network takes, and its classes; SpaceConfig has these keys."""

    @property
    def input_size(self) -> int: ...
    @property
    def input_channels(self) -> int: ...
    @property
    def classes(self) -> int: ...


def open_images_for(space: InputShape, config: DataConfig, call: CallModule) -> Splits:
    """Returns the data set that `config` names in the shape that a network of `space` takes; see `open_images`."""
    size, channels = space.input_size, space.input_channels
    return open_images(config, input_size=size, channels=channels, classes=space.classes, call=call)


def open_images(
    config: DataConfig, *, input_size: int, channels: int, classes: int | None, call: CallModule | None = None
) -> Splits:
    """Returns the training and test part of the data set that `config` names.

    Batches are (N, channels, input_size, input_size). Grey images fill 3 channels by repetition; image files give 1
    channel by conversion to grey. call: runs the user's own function; needed with `data.module` (engine/data/own.py).
    Raises ConfigError, which begins with the key to change, if the data has another number of classes than `classes`
    (None accepts any), if it cannot give `channels`, or if files are missing.
    """
    if config.module is not None:
        assert call is not None, "a set of the user's own is opened with supernet.user_modules.call"
        splits = open_own(config, call, input_size=input_size, channels=channels, classes=classes)
    else:
        opened = open_files if config.name in LAYOUTS else open_in_memory
        if config.name == "shards":
            opened = open_shards
        splits = opened(config, input_size=input_size, channels=channels, classes=classes)
    if config.decode is not None:
        _let_a_gpu_decode(splits.train)
    return splits if config.cache is None else _kept_decoded(splits, config.cache)


def _let_a_gpu_decode(images: ImageSet) -> None:
    """Lets a GPU decode the training images of a set; see `data.decode`. Raises ConfigError if it cannot."""
    if not isinstance(images, FolderImages):
        raise ConfigError("data.decode", "got 'cuda', but the set is in memory anyway", remedy="remove it")
    if images.preprocessing.colours != 3:
        raise ConfigError("data.decode", "got 'cuda' for grey images", "images of 3 channels", "remove it")
    images.on_gpu = True


def _kept_decoded(splits: Splits, place: Path) -> Splits:
    """Lets image files be decoded once; see `data.cache`. Raises ConfigError for a set in memory."""
    for images in filter(None, (splits.train, splits.validation, splits.test)):
        if not isinstance(images, FolderImages):
            raise ConfigError("data.cache", f"got '{place}', but the set is in memory anyway", remedy="remove it")
        images.keep_decoded(place)
    return splits
