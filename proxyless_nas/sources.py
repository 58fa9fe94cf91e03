"""Finds the trained network that a user names, with all that a file of it needs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from engine.config import load_config, validate
from engine.data import DataConfig, Preprocessing, Splits, open_images
from engine.errors import CheckpointError, UserError
from engine.imagenet import imagenet_classes
from engine.progress import Report, silent
from engine.runs.checkpoints import STATES
from published.designs import design_of
from published.int8 import Int8Model, is_int8, read_int8
from published.networks import build, class_names, is_named, load_published
from published.preprocessing import preprocessing_of
from published.trained import likely_class_names
from published.weights import read_state
from retrain.preprocessing import preprocessing_in
from retrain.weights import is_from_search, load_network_of, read_checkpoint
from supernet import user_modules
from supernet.design import Design
from supernet.network import Network


@dataclass(frozen=True)
class Source:
    """A network with its weights."""

    network: Network
    preprocessing: Preprocessing
    """How its images are prepared."""
    classes: tuple[str, ...]
    """The names of its classes; their numbers as text if nobody has named them."""
    folder_names: tuple[str, ...] | None
    """The names that folders of labelled images must have; None if they are not known."""
    int8: Int8Model | None = None
    """The trained int8 network whose float network this is; None if there is none."""

    @property
    def as_stored(self) -> nn.Module:
        """The network that computes as its file says: in codes if it is an int8 network, in floats otherwise."""
        return self.network if self.int8 is None else self.int8.quantised_network()


def trained_network(
    source: Design | str | Path | None,
    checkpoint: Path | None = None,
    allow_modules: Collection[str] = (),
    *,
    report: Report | None = None,
    of_search: str = "retrain the search's architecture.json first",
) -> Source:
    """Returns a network with its weights.

    source: the name of a published network, the folder of a retraining or a .pt file of its checkpoints, a trained int8
    network (.pkl), or, with a checkpoint, an architecture.json, a net.config, a name, a design, or None for that of the
    checkpoint. checkpoint: one of a retraining, or an official one. report: shows a download. of_search: what an error
    advises if the checkpoint is a search's. Raises ConfigError, CheckpointError and DownloadError.
    """
    if checkpoint is None and isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir() or path.suffix == ".pt":
            content, where = read_checkpoint(path)
            if is_from_search(content):
                raise _is_of_a_search(where, of_search)
            return _of_run(content, where, None, allow_modules, of_search)
        if is_int8(path):
            model = read_int8(path)
            network = model.float_network()
            return Source(network, model.preprocessing, _named_classes(network), None, model)
        if not path.exists() and is_named(str(source)):
            network = build(str(source), report=report or silent)
            design = network.architecture
            names = class_names(design.name)
            return Source(network, preprocessing_of(design.name, design.input_size), names, as_folders(names))
    own = source if source is None or isinstance(source, Design) else design_of(source, allow_modules=allow_modules)
    if checkpoint is None:
        raise UserError("--checkpoint", "is missing", "a .pt file of a run's checkpoints/, or an official checkpoint")
    if own is None or checkpoint.is_dir() or any(key in read_state(checkpoint) for key in STATES):
        content, where = read_checkpoint(checkpoint)
        return _of_run(content, where, own, allow_modules, of_search)
    network = Network(own)
    load_published(network, checkpoint)
    names = _named_classes(network)
    return Source(network, preprocessing_of(own.name, own.input_size), names, None)


def _of_run(
    content: dict[str, object], where: str, design: Design | None, allow_modules: Collection[str], of_search: str
) -> Source:
    """Returns the network in a checkpoint of a retraining. Raises CheckpointError if it is one of a search, or does not
    say how images are prepared and is not one of ImageNet."""
    loaded = load_network_of(content, where, design, allow_modules)
    if loaded.needs_statistics:
        raise _is_of_a_search(where, of_search)
    network, own = loaded.network, loaded.network.architecture
    preprocessing = preprocessing_in(content, where) or preprocessing_of(own.name, own.input_size)
    return Source(network, preprocessing, _named_classes(network), as_folders(network.class_names))


def _is_of_a_search(where: str, remedy: str) -> CheckpointError:
    """Returns the error about a checkpoint whose weights are a supernet's."""
    found = "is of a search, whose supernet has no BN statistics"
    return CheckpointError(where, found, "a checkpoint of a retraining", remedy)


def _named_classes(network: Network) -> tuple[str, ...]:
    """Returns the names of a network's classes, or what they are likely to be."""
    return likely_class_names(network.architecture) if network.class_names is None else network.class_names


def as_folders(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Returns the names that the folders of classes must have; None for ImageNet's, whose folders have ids as names."""
    return None if names == imagenet_classes() else names


def own_images(source: str | Path, network: Network, preprocessing: Preprocessing) -> Splits | None:
    """Returns the images on which a retraining was trained and tested, at a network's input size; None if the source
    is no run. Raises ConfigError if the data are not there any more.

    source: the folder of a retraining or a .pt file of its checkpoints.
    """
    path = Path(source)
    run = path.parent.parent if path.suffix == ".pt" else path
    file = run / "config.yaml"
    if not file.is_file():
        return None
    data = validate(DataConfig, load_config(file).get("data", {}), f"{file}: data")
    design = network.architecture
    return open_images(
        data,
        input_size=preprocessing.input_size,
        channels=design.input_channels,
        classes=design.classes,
        call=user_modules.call,
    )


def sized(network: nn.Module, preprocessing: Preprocessing, size: int | None) -> Preprocessing:
    """Returns the preprocessing at another input size. Raises UserError if the network cannot take it."""
    import torch

    if size is None:
        return preprocessing
    preprocessing = preprocessing.at(size)
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, preprocessing.channels, size, size))
    except RuntimeError:
        remedy = "choose a larger size or the network's own"
        raise UserError("--size", f"got {size}, which this network cannot take", remedy=remedy) from None
    return preprocessing
