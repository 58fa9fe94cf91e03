"""Opens the images that an architecture is trained and tested on."""

from __future__ import annotations

from engine.data import DataConfig, Splits, open_images, open_images_for
from engine.runs.inputs import checksums
from retrain.config import RetrainConfig
from supernet import user_modules
from supernet.design import Design


def images_for(architecture: Design, data: DataConfig) -> Splits:
    """Returns the data set that `data` names, in the shape of the architecture. Raises ConfigError if it does
    not fit."""
    return open_images_for(architecture, data, user_modules.call)


def images_of_any_classes(architecture: Design, data: DataConfig) -> Splits:
    """Returns the data set that `data` names, of any number of classes, with the input size and the channels of the
    architecture."""
    size, channels = architecture.input_size, architecture.input_channels
    return open_images(data, input_size=size, channels=channels, classes=None, call=user_modules.call)


def images_to_train_on(architecture: Design, config: RetrainConfig) -> Splits:
    """Returns the data set of a retraining: of any classes if it starts from a trained network, whose classifier is
    replaced for other ones. Raises ConfigError if it does not fit."""
    opened = images_for if config.retrain.start is None else images_of_any_classes
    return opened(architecture, config.data)


def own_files(architecture: Design, data: DataConfig) -> dict[str, str]:
    """Returns the checksum of each file of the user's own that a retraining runs, by key and module. Modules that these
    files import in turn are left out."""
    named = [("space.candidate_modules", module) for module in architecture.candidate_modules]
    return checksums(named + ([("data.module", data.module)] if data.module else []), user_modules.file_of)
