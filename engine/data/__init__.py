"""Images in, batches out: data sets, splits, and streams whose order and augmentation are functions of a seed."""

from engine.data.config import DataConfig
from engine.data.folder import TEST_FOLDERS, open_folder
from engine.data.images import Batch, ImageSet, Item, Splits, subset
from engine.data.order import stratified_split
from engine.data.own import Arrays, CallModule, Files, OwnSet, open_own
from engine.data.sources import open_in_memory
from engine.data.stream import BatchStream, evaluation_batches, statistics_batches

__all__ = [
    "Arrays",
    "Batch",
    "BatchStream",
    "DataConfig",
    "Files",
    "ImageSet",
    "Item",
    "OwnSet",
    "Splits",
    "evaluation_batches",
    "open_images",
    "statistics_batches",
    "stratified_split",
    "subset",
]


def open_images(
    config: DataConfig, *, input_size: int, channels: int, classes: int, call: CallModule | None = None
) -> Splits:
    """The training and test part of the data set that `config` names.

    Batches are (N, channels, input_size, input_size). Grey images fill 3 channels by repetition, image files give 1
    channel by conversion to grey. `call` is needed with `data.module` (engine/data/own.py). ConfigError if the data
    has another number of classes than `classes`, if it cannot give `channels`, or if files are missing; its one line
    names the key to change.
    """
    if config.module is not None:
        assert call is not None, "a set of the user's own is opened with supernet.user_modules.call"
        return open_own(config, call, input_size=input_size, channels=channels, classes=classes)
    opened = open_folder if config.name in TEST_FOLDERS else open_in_memory
    return opened(config, input_size=input_size, channels=channels, classes=classes)
