"""Defines how a picture becomes a network's input: one object for training, evaluation, prediction and export."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from engine.config import Section
from engine.data.images import Batch, RawBatch
from engine.data.pictures import UnreadableError, read_picture, refused_picture
from engine.errors import ConfigError, InvalidError

MOST_ELONGATED = 16
"""The largest ratio of a picture's longer side to its shorter one in evaluation. Only the middle part of this shape is
taken from a longer picture: resizing a line of 30,000 pixels would take 9 GB, though only the central square is
used."""
# Mean and std of ImageNet's training images, as in every torchvision reference; for grey, their average over RGB.
MEAN_OF_PHOTOGRAPHS = {3: (0.485, 0.456, 0.406), 1: (0.449,)}
STD_OF_PHOTOGRAPHS = {3: (0.229, 0.224, 0.225), 1: (0.226,)}
CPU = torch.device("cpu")
_LUMA = (0.299, 0.587, 0.114)  # red, green, blue (ITU-R BT.601), as in Pillow and torchvision
_FINISHED_AT_ONCE = 1 << 18  # numbers at a time on a CPU: they stay in its cache from one operation to the next
_RESIZED_AT_ONCE = 2048  # images in float32 at a time: resizing needs 4 times the memory of the result otherwise


def shorter_side_of(input_size: int) -> int:
    """Returns the shorter side in pixels of a picture that is evaluated, before its centre is cut out."""
    return round(input_size / 0.875)


class Preprocessing(Section):
    """The way from a picture to a network's input in an evaluation, as a checkpoint records it. A training takes its
    input size, colours, mean and std too, and crops and resizes at random."""

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
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How a picture is resized, with antialiasing in both cases."""

    @model_validator(mode="after")
    def channels_fit(self) -> Self:
        if self.colours not in (1, self.channels):
            raise InvalidError("colours", f"got {self.colours} for {self.channels} channels", "as many, or 1")
        if not len(self.mean) == len(self.std) == self.channels:
            found = f"got {len(self.mean)} numbers, and {len(self.std)} of std, for {self.channels} channels"
            raise InvalidError("mean", found)
        return self

    @classmethod
    def of_squares(cls, size: int, channels: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Self:
        """Returns the preprocessing of images in memory: the whole image is resized to a square. mean, std: one number
        per colour."""
        repeated = channels if len(mean) == 1 else 1
        return cls(
            input_size=size,
            channels=channels,
            colours=len(mean),
            resize=f"bilinear with antialiasing to {size} x {size}",
            shorter_side=None,
            mean=tuple(mean) * repeated,
            std=tuple(std) * repeated,
        )

    @classmethod
    def of_files(
        cls,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        interpolation: Literal["bilinear", "bicubic"] = "bilinear",
    ) -> Self:
        """Returns the preprocessing of image files: the shorter side to round(size / 0.875), then the central square.
        mean, std: one number per channel."""
        side = shorter_side_of(size)
        return cls(
            input_size=size,
            channels=len(mean),
            colours=len(mean),
            resize=f"{interpolation} with antialiasing, the shorter side to {side}, then the central {size} x {size}",
            shorter_side=side,
            mean=mean,
            std=std,
            interpolation=interpolation,
        )

    def at(self, size: int) -> Preprocessing:
        """Returns the same for another input size; the part of the picture that is used stays the same."""
        if size == self.input_size:
            return self
        if self.shorter_side is None:
            words, side = f"{self.interpolation} with antialiasing to {size} x {size}", None
        else:
            side = max(size, round(size * self.shorter_side / self.input_size))
            words = f"{self.interpolation} with antialiasing, the shorter side to {side}, then the central "
            words += f"{size} x {size}"
        return self.model_copy(update={"input_size": size, "shorter_side": side, "resize": words})

    def record(self) -> dict[str, Any]:
        """Returns plain values for a checkpoint; the interpolation only if it is not bilinear."""
        values = self.model_dump(mode="json")
        if self.interpolation == "bilinear":  # earlier versions have no such key
            del values["interpolation"]
        return values

    def pixels_of(self, picture: Image.Image) -> Tensor:
        """Returns the pixels (colours, S, S) uint8 of a picture (engine/data/pictures.py), S being `input_size`."""
        if self.shorter_side is None:
            whole = torch.from_numpy(np.array(picture)).view(picture.height, picture.width, -1).permute(2, 0, 1)
            return resized(whole[None], self.input_size, self.interpolation)[0]
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional

        mode = InterpolationMode(self.interpolation)
        small = functional.resize(_middle(picture), [self.shorter_side], interpolation=mode)
        pixels: Tensor = functional.pil_to_tensor(functional.center_crop(small, [self.input_size] * 2))
        return pixels

    def normalised(self, pixels: Tensor) -> Tensor:
        """Returns the input (N, channels, S, S) float32 that pixels (N, colours, S, S) uint8 give."""
        return self.finished(RawBatch(pixels, torch.empty(0))).images

    def finished(self, raw: RawBatch, device: torch.device = CPU) -> Batch:
        """Returns the network's input on `device`: images coloured, clipped and normalised, (N, channels, S, S).

        Brightness b and saturation s make b (s x + (1 - s) grey(x)) of a colour x, and b x of grey; the result is
        clipped to 0..255 once, and x becomes (x / 255 - mean) / std. Copies from pinned memory go on while the caller
        does other work. The result of an image does not depend on the rest of the batch.
        """
        raw = raw.each(lambda tensor: tensor.to(device, non_blocking=True))
        shift, scale = (_per_channel(values[: self.colours], device) for values in (self.mean, self.std))
        images = torch.empty(raw.pixels.shape, dtype=torch.float32, device=device)
        at_once = max(1, _FINISHED_AT_ONCE // max(1, raw.pixels[:1].numel())) if device.type == "cpu" else len(images)
        for begin in range(0, len(images), max(1, at_once)):
            part = slice(begin, begin + at_once)
            x = images[part].copy_(raw.pixels[part])
            if raw.factors is not None:
                _colour(x, *raw.factors[part].view(-1, 2, 1, 1).unbind(1))
            x.sub_(shift).div_(scale)
        if self.colours != self.channels:
            images = images.expand(-1, self.channels, -1, -1).contiguous()
        return Batch(images, raw.labels, raw.corrupt)

    def input_of(self, path: Path) -> Tensor:
        """Reads an image file: (1, channels, S, S) float32, S being `input_size`. Raises ConfigError, which begins with
        the path, if it cannot be read as an image with these colours."""
        if self.colours not in (1, 3):
            found = f"the network's images have {self.colours} channels, but image files give 1 or 3"
            raise ConfigError(str(path), found)
        try:
            picture = read_picture(str(path), self.colours)
        except UnreadableError as error:
            raise refused_picture(path, error) from None
        return self.normalised(self.pixels_of(picture)[None])


@cache  # made once: a copy to a GPU waits for it
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Returns 255 times the values, (C, 1, 1), on the device."""
    return (255 * torch.tensor(values)).view(-1, 1, 1).to(device)


def _colour(x: Tensor, brightness: Tensor, saturation: Tensor) -> None:
    """Changes images x (n, C, S, S) float32 in place; brightness, saturation: (n, 1, 1). See `Preprocessing.finished`.

    Each operation rounds by itself: a fused one (alpha=, addcmul) rounds otherwise at the end of a vector register, and
    an image would depend on its place in the batch.
    """
    if x.shape[1] == 3:
        share = brightness * (1 - saturation)  # of grey
        grey = x[:, 0] * (share * _LUMA[0])  # (n, S, S)
        grey.add_(x[:, 1] * (share * _LUMA[1])).add_(x[:, 2] * (share * _LUMA[2]))
        x.mul_((brightness * saturation).unsqueeze(1)).add_(grey.unsqueeze(1))
    else:
        x.mul_(brightness.unsqueeze(1))
    x.clamp_(0, 255)


def resized(pixels: Tensor, size: int, interpolation: str = "bilinear") -> Tensor:
    """Returns pixels (N, C, H, W) uint8 as (N, C, size, size) uint8, resized with antialiasing.

    Computed in float32, because torchvision's uint8 kernel is used on some CPUs only and rounds differently.
    """
    if pixels.shape[-2:] == (size, size):
        return pixels
    out = torch.empty((*pixels.shape[:2], size, size), dtype=torch.uint8)
    for begin in range(0, len(pixels), _RESIZED_AT_ONCE):
        part = slice(begin, begin + _RESIZED_AT_ONCE)
        x = F.interpolate(pixels[part].float(), size=(size, size), mode=interpolation, antialias=True)
        out[part] = x.round_().clamp_(0, 255).to(torch.uint8)
    return out


def _middle(picture: Image.Image) -> Image.Image:
    """Returns the picture, or its middle part if it is longer than MOST_ELONGATED times its shorter side."""
    width, height = picture.size
    most = MOST_ELONGATED * min(width, height)
    left, top = max(0, width - most) // 2, max(0, height - most) // 2
    if left == top == 0 and max(width, height) <= most:
        return picture
    return picture.crop((left, top, left + min(width, most), top + min(height, most)))
