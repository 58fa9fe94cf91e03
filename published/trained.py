"""Says which networks come with their weights, and how their classes are likely to be named."""

from __future__ import annotations

from pathlib import Path

from engine.imagenet import imagenet_classes
from published.int8 import is_int8
from published.networks import is_named
from supernet.design import Design


def comes_with_weights(source: str) -> bool:
    """Returns whether a text is a published name, or the path of an int8 network."""
    return is_named(source) or is_int8(Path(source))


def likely_class_names(design: Design) -> tuple[str, ...]:
    """Returns names for the classes of a network whose weights come without any: ImageNet's for 1000 classes of colour
    images, otherwise their numbers."""
    if (design.classes, design.input_channels) == (1000, 3):
        return imagenet_classes()
    return tuple(map(str, range(design.classes)))
