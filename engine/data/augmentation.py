"""Augments training images one by one: colours, RandAugment, TrivialAugment and erasing, at a size that may grow."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from engine.data.images import POLICY, Images, Item
from engine.data.readers import Readers
from engine.errors import InvalidError
from engine.seeding import mix

if TYPE_CHECKING:
    from torchvision.transforms import v2

Policy = Literal["published", "none", "jitter", "randaugment", "trivialaugment"]
LEAST_AREA = 0.08
"""The smallest share of a picture's area in a training crop (Szegedy et al. 2014, arXiv 1409.4842)."""
MOST_MAGNITUDE = 30


@dataclass(frozen=True)
class Augmentation:
    """How training images are changed, beside the random crop and the mirroring that every set has.

    The defaults are the published training's: brightness by 32/255 and saturation by 0.5 for image files
    (ProxylessNAS's ImageNet training, `distort_color: tf`), nothing for sets in memory.
    """

    policy: Policy = "published"
    magnitude: int = 9
    """The strength of RandAugment, 0 to MOST_MAGNITUDE, on torchvision's scale."""
    erasing: float = 0.0
    """The probability that a random rectangle of an image is erased (Zhong et al. 2017, arXiv 1708.04896)."""
    least_area: float = LEAST_AREA
    """Image files: the smallest share of a picture's area in a crop."""
    sizes: tuple[int, ...] = ()
    """Height and width of training images in pixels, in as many equal parts of the training; empty: the input size of
    an evaluation throughout."""
    epochs: int = 1
    """The epochs of the training, which `sizes` divide."""

    def size_at(self, epoch: int, input_size: int) -> int:
        """Returns the height and width of the training images of an epoch, counted from 0. input_size: that of an
        evaluation."""
        if not self.sizes:
            return input_size
        return self.sizes[min(epoch * len(self.sizes) // self.epochs, len(self.sizes) - 1)]

    @property
    def costly(self) -> bool:
        """Whether it changes images one by one, beside cropping and mirroring."""
        return self.policy not in ("published", "none") or self.erasing > 0

    def applied(self, pixels: Tensor, items: Sequence[Item], mean: Sequence[float]) -> Tensor:
        """Returns images (N, C, S, S) uint8 of a set in memory, cropped and mirrored already, as the policy changes
        them. C is 1 or 3 if there is a policy.

        An image is a function of its pixels and its item alone. mean: the mean of each of the C colours, for pixels in
        [0, 1]; it fills what an operation leaves empty.
        """
        if not self.costly:
            return pixels
        transform = self.changing(filling(mean))
        out = torch.empty_like(pixels)
        for i, item in enumerate(items):
            with seeded(mix(item.seed, item.turn, item.index, POLICY)):
                out[i] = transform(pixels[i])
        return out

    def changing(self, fill: tuple[int, ...]) -> v2.Transform:
        """Returns the transform of an image (C, S, S) uint8 that is cropped and mirrored already: the policy, then the
        erasing. fill: the colour (C,) of empty places, 0 to 255.

        The policy works on a picture of Pillow's, four times as fast as on a tensor (torchvision 0.29).
        """
        from torchvision.transforms import InterpolationMode, v2

        bilinear = InterpolationMode.BILINEAR
        policies: dict[Policy, v2.Transform] = {
            "jitter": v2.ColorJitter(0.4, 0.4, 0.4),
            "randaugment": v2.RandAugment(2, self.magnitude, interpolation=bilinear, fill=list(fill)),
            "trivialaugment": v2.TrivialAugmentWide(interpolation=bilinear, fill=list(fill)),
        }
        policy = policies.get(self.policy)
        return v2.Compose(
            [
                v2.Identity(),
                *([v2.ToPILImage(), policy, v2.PILToTensor()] if policy else []),
                *([v2.RandomErasing(self.erasing, value=list(fill))] if self.erasing else []),
            ]
        )


def filling(mean: Sequence[float]) -> tuple[int, ...]:
    """Returns the colour (C,) of empty places, 0 to 255: the mean of each colour, for pixels in [0, 1]."""
    return tuple(round(255 * value) for value in mean)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's global generator of the CPU inside the block, and puts it back at the end."""
    with torch.random.fork_rng(devices=[]):
        # not torch.manual_seed: that reseeds the GPUs too, and fork_rng would not put them back
        torch.default_generator.manual_seed(seed)
        yield


def augmented(images: Images, augmentation: Augmentation) -> Images:
    """Returns the same images with an augmentation of their training batches. Processes that read them are its own.

    Images in memory, which are loaded by the program itself otherwise, get such processes if the augmentation is
    costly. Raises InvalidError if their colours are not 1 or 3 and there is a policy.
    """
    other = copy.copy(images)
    colours = images.preprocessing.colours
    if augmentation.policy not in ("published", "none") and colours not in (1, 3):
        found = f"got {augmentation.policy} for images of {colours} colours"
        raise InvalidError("policy", found, "'published' or 'none'; the others change grey and RGB images")
    if augmentation.costly and getattr(images, "on_gpu", False):
        changes = augmentation.policy if augmentation.policy not in ("published", "none") else "erasing"
        found = f"got {changes} beside data.decode: cuda, which leaves no single images to the CPU"
        raise InvalidError("", found, remedy="remove one of the two")
    other.augmentation = augmentation
    if images.readers is not None or augmentation.costly:
        other.readers = Readers()
    return other
