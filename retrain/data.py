"""The images that an architecture is trained and tested on."""

from __future__ import annotations

from engine.data import DataConfig, Splits, open_images
from supernet import user_modules
from supernet.architecture import Architecture


def images_for(architecture: Architecture, data: DataConfig) -> Splits:
    """The set that `data` names, in the shape of the architecture's space. ConfigError where it does not fit."""
    space = architecture.space.config
    return open_images(
        data,
        input_size=space.input_size,
        channels=space.input_channels,
        classes=space.classes,
        call=user_modules.call,
    )
