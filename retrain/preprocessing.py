"""Records how an image becomes a network's input, and does the same with a picture of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from engine.config import Section
from engine.data import ImageSet
from engine.data.folder import evaluation_transform, shorter_side_of
from engine.data.images import normalised
from engine.data.memory import resized
from engine.data.pictures import UnreadableError, read_picture
from engine.errors import ConfigError, InvalidError
from supernet.design import Design


class Preprocessing(Section):
    """The way from a picture to a network's input in an evaluation, as a checkpoint records it."""

    input_size: int = Field(ge=1)
    """Height and width of the network's input in pixels."""
    channels: int = Field(ge=1)
    """The channels of the network's input."""
    colours: int = Field(ge=1)
    """The channels of the images: as many as `channels`, or 1 (grey), which is repeated."""
    resize: str
    """The resizing in words."""
    shorter_side: int | None = Field(ge=1, le=1 << 16)
    """The shorter side in pixels to which a picture is resized before its centre is cut out; None if the whole picture
    is resized to a square."""
    mean: tuple[float, ...]
    """The mean of each input channel, of pixels in [0, 1]."""
    std: tuple[float, ...]
    """The standard deviation of each input channel, of pixels in [0, 1]."""

    @model_validator(mode="after")
    def channels_fit(self) -> Self:
        if self.colours not in (1, self.channels):
            raise InvalidError("colours", f"got {self.colours} for {self.channels} channels", "as many, or 1")
        if not len(self.mean) == len(self.std) == self.channels:
            found = f"got {len(self.mean)} numbers, and {len(self.std)} of std, for {self.channels} channels"
            raise InvalidError("mean", found)
        return self

    @classmethod
    def of(cls, images: ImageSet, architecture: Design) -> Self:
        """Returns what an evaluation of the architecture on these images does."""
        mean, std = images.recipe.mean, images.recipe.std
        repeated = architecture.input_channels if len(mean) == 1 else 1
        return cls(
            input_size=architecture.input_size,
            channels=architecture.input_channels,
            colours=len(mean),
            resize=images.resizing,
            shorter_side=images.shorter_side,
            mean=tuple(mean) * repeated,
            std=tuple(std) * repeated,
        )

    def record(self) -> dict[str, Any]:
        """Returns plain values for a checkpoint."""
        return self.model_dump(mode="json")

    def input_of(self, path: Path) -> Tensor:
        """Reads an image file: (1, channels, S, S) float32, S being `input_size`. Raises ConfigError, which begins with
        the path, if it cannot be read as an image with these colours."""
        if self.colours not in (1, 3):
            found = f"the network's images have {self.colours} channels, but image files give 1 or 3"
            raise ConfigError(str(path), found)
        try:
            picture = read_picture(str(path), self.colours)
        except UnreadableError as error:
            raise ConfigError.of(error, str(path)) from None
        images = normalised(self._pixels(picture)[None], self.mean[: self.colours], self.std[: self.colours])
        return images.expand(-1, self.channels, -1, -1).contiguous()

    def _pixels(self, picture: Image.Image) -> Tensor:
        """Returns (colours, S, S) uint8."""
        if self.shorter_side is not None:
            pixels: Tensor = evaluation_transform(self.shorter_side, self.input_size)(picture)
            return pixels
        whole = torch.from_numpy(np.array(picture)).view(picture.height, picture.width, -1).permute(2, 0, 1)
        return resized(whole[None], self.input_size)[0]


def completed(record: dict[str, Any]) -> dict[str, Any]:
    """Returns a checkpoint's record with `colours` and `shorter_side`, which earlier versions left out.

    They recorded the resizing in words alone; equal means and deviations of several channels are those of grey images.
    """
    if {"colours", "shorter_side"} <= record.keys():
        return record
    size, mean, std = record.get("input_size"), record.get("mean"), record.get("std")
    if not isinstance(size, int) or not isinstance(mean, list) or not isinstance(std, list):
        return record
    side = shorter_side_of(size)
    of_files = f"bilinear with antialiasing, the shorter side to {side}, then the central {size} x {size}"
    grey = len(set(zip(mean, std, strict=False))) == 1
    cut = record.get("resize") == of_files
    # a set of image files that is read in three channels has three means of its own
    return {"colours": 1 if grey else len(mean), "shorter_side": side if cut else None} | record
