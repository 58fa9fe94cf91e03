"""The images that an architecture is trained and tested on."""

from __future__ import annotations

from typing import Any

from engine.data import DataConfig, ImageSet, Splits, open_images_for
from engine.runs.inputs import checksums
from supernet import user_modules
from supernet.architecture import Architecture


def images_for(architecture: Architecture, data: DataConfig) -> Splits:
    """The set that `data` names, in the shape of the architecture's space. ConfigError where it does not fit."""
    return open_images_for(architecture.space.config, data, user_modules.call)


def preprocessing(images: ImageSet, architecture: Architecture) -> dict[str, Any]:
    """Describes how an image becomes the network's input, in words and numbers, for a checkpoint that is used alone.

    mean and std are of pixels in [0, 1], one for each channel.
    """
    size, channels = architecture.space.config.input_size, architecture.space.config.input_channels
    mean, std = images.recipe.mean, images.recipe.std
    grey = len(mean) == 1  # repeated if the network has 3 channels
    return {
        "input_size": size,
        "channels": channels,
        "resize": images.resizing,
        "mean": list(mean) * channels if grey else list(mean),
        "std": list(std) * channels if grey else list(std),
    }


def own_files(architecture: Architecture, data: DataConfig) -> dict[str, str]:
    """Returns the checksum of each file of the user's own that a retraining runs, by key and module. Modules that these
    files import in turn are left out."""
    named = [("space.candidate_modules", module) for module in architecture.space.config.candidate_modules]
    return checksums(named + ([("data.module", data.module)] if data.module else []), user_modules.file_of)
