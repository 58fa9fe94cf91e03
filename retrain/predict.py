"""Classifies image files with a network from a retraining."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from engine.data.pictures import check_pictures
from engine.data.preprocessing import Preprocessing
from engine.device import prepare_device
from engine.errors import CheckpointError, one_line
from engine.run_config import RunConfig
from retrain.preprocessing import preprocessing_in
from retrain.weights import is_from_search, load_network_of, read_checkpoint


@dataclass(frozen=True)
class Prediction:
    """The classes of one image, the likeliest first, with their probabilities."""

    path: Path
    """The image file."""
    classes: tuple[str, ...]
    """The names of all classes; their numbers as text if the checkpoint has no names."""
    probabilities: tuple[float, ...]
    """The probability of each of `classes`; their sum is 1."""

    def __str__(self) -> str:
        """Returns the path and the likeliest classes, at most five, such as `a.png: cat 97.1 %, dog 2.9 %`."""
        return self.in_words(5)

    def in_words(self, most: int) -> str:
        """Returns the path and the likeliest classes, at most `most`, in one line."""
        pairs = list(zip(self.classes, self.probabilities, strict=True))[:most]
        return f"{one_line(str(self.path))}: {', '.join(f'{one_line(name)} {100 * p:.1f} %' for name, p in pairs)}"


def classify_with_run(
    source: Path,
    paths: Sequence[Path],
    *,
    allow_modules: Collection[str] = (),
    device: Literal["cpu", "cuda"] = "cpu",
) -> list[Prediction]:
    """Classifies image files with the network of a retraining.

    source: its folder, whose newest good checkpoint is taken, or a checkpoint's .pt file. Everything else is in the
    checkpoint: the architecture, the classes' names, and the resizing, mean and std of an evaluation. The images of the
    training are not needed. Each image is computed alone, in float32. allow_modules: as for `Architecture.from_json`.
    Raises CheckpointError if the checkpoint cannot be read, is a search's or has no preprocessing, and ConfigError if
    an image cannot be read; a file that is no image is refused first.
    """
    check_pictures(paths)
    checkpoint, where = read_checkpoint(source)
    if is_from_search(checkpoint):
        found, expected = "is of a search, whose supernet has no BN statistics", "a checkpoint of a retraining"
        raise CheckpointError(where, found, expected, "retrain the search's architecture.json first")
    loaded = load_network_of(checkpoint, where, allow_modules=allow_modules)
    preprocessing = _preprocessing(checkpoint, where)
    design = loaded.network.architecture
    if (preprocessing.input_size, preprocessing.channels) != (design.input_size, design.input_channels):
        found = "its preprocessing is not that of its network"
        raise CheckpointError(where, found, "a step-*.pt file of a run")
    names = loaded.classes or tuple(map(str, range(design.classes)))
    return classify(loaded.network, preprocessing, names, paths, device=device)


def classify(
    network: nn.Module,
    preprocessing: Preprocessing,
    classes: Sequence[str],
    paths: Sequence[Path],
    *,
    device: Literal["cpu", "cuda"] = "cpu",
) -> list[Prediction]:
    """Classifies image files with a network of any origin, which is put into evaluation mode on the device.

    classes: their names in the order of the logits. Raises ConfigError if an image cannot be read.
    """
    place = prepare_device(RunConfig(device=device))
    network = network.to(place).eval()
    return [_predicted(network, preprocessing, tuple(classes), path, place) for path in paths]


def _preprocessing(checkpoint: dict[str, Any], where: str) -> Preprocessing:
    preprocessing = preprocessing_in(checkpoint, where)
    if preprocessing is None:
        raise CheckpointError(
            where,
            "has no preprocessing, so it is of an earlier version, which did not record how images are resized",
            remedy="retrain the architecture, or load the network and prepare its input yourself",
        )
    return preprocessing


@torch.no_grad()
def _predicted(
    network: nn.Module, preprocessing: Preprocessing, names: tuple[str, ...], path: Path, device: torch.device
) -> Prediction:
    logits = network(preprocessing.input_of(path).to(device))[0]  # (classes,)
    probabilities, order = logits.double().softmax(dim=0).sort(descending=True, stable=True)
    return Prediction(path, tuple(names[i] for i in order.tolist()), tuple(probabilities.tolist()))
