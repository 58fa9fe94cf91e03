"""Builds networks that come with their weights: by name, or from a file of a trained int8 network."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from engine.data.preprocessing import Preprocessing
from engine.progress import Report
from published.int8 import is_int8, read_int8
from published.networks import build, class_names, imagenet_classes, is_named
from published.preprocessing import preprocessing_of
from supernet.design import Design


def comes_with_weights(source: str) -> bool:
    """Returns whether a text is a published name, or the path of an int8 network."""
    return is_named(source) or is_int8(Path(source))


def trained(source: str, report: Report | None = None) -> tuple[nn.Module, Design, Preprocessing, tuple[str, ...]]:
    """Returns a network with its weights, its design, how its images are prepared, and the names of its classes.

    source: a published name, or the path of an int8 network (.pkl), which computes in codes. report: as in `build`.
    Raises ConfigError if there is no network of this name, and DownloadError or CheckpointError if its weights cannot
    be had.
    """
    if is_int8(Path(source)):
        model = read_int8(Path(source))
        return model.quantised_network(), model.chain, model.preprocessing, likely_class_names(model.chain)
    network = build(source, report=report)
    design = network.architecture
    return network, design, preprocessing_of(design.name, design.input_size), class_names(source)


def likely_class_names(design: Design) -> tuple[str, ...]:
    """Returns names for the classes of a network whose weights come without any: ImageNet's for 1000 classes of colour
    images, otherwise their numbers."""
    if (design.classes, design.input_channels) == (1000, 3):
        return imagenet_classes()
    return tuple(map(str, range(design.classes)))
