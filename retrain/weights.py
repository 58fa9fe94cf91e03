"""Loads networks: an architecture from architecture.json, and weights from a retraining's or a search's checkpoint."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.config import differences
from engine.errors import CheckpointError, ConfigError, explain
from engine.evaluation import recalibrate_bn
from engine.files import as_path, as_texts, read_text
from engine.runs.checkpoints import Checkpoints, load_checkpoint, misfit
from engine.runs.states import check_module
from engine.wording import shown
from supernet.architecture import Architecture
from supernet.design import Design
from supernet.design_file import read_design
from supernet.network import Network
from supernet.space import SpaceConfig
from supernet.supernet import Supernet

SPACE_KEYS = frozenset(f"space.{key}" for key in SpaceConfig.model_fields)
"""The keys of architecture.json that data may not fit."""
_NO_MATTER = ("candidate_modules", "dropout")
"""Keys of a space that change no weight: the places of own files, and the dropout."""
_EXPECTED = "a step-*.pt file of a run"


def load_architecture(path: Path, allow_modules: Collection[str] = ()) -> Design:
    """Reads architecture.json, of a search or of a chain of layers. Raises ConfigError if it is absent or malformed, or
    names modules that are not allowed.

    allow_modules: as for `Architecture.from_json`.
    """
    missing = "a search writes architecture.json into its run folder"
    expected = "an architecture.json"
    text = read_text(path, expected, missing=missing)
    allow_modules = as_texts(allow_modules, "allow_modules")
    if not text.lstrip().startswith(("{", "[")):
        raise ConfigError(str(path), "is not JSON", expected)
    with explain(str(path)):
        return read_design(text, allow_modules=allow_modules)


def load_chosen(path: Path, allow_modules: Collection[str] = ()) -> Architecture:
    """Reads the architecture.json of a search. Raises what `load_architecture` raises, also if it is a chain's."""
    design = load_architecture(path, allow_modules)
    if not isinstance(design, Architecture):
        raise ConfigError(f"{path}: format", "is of a chain of layers", "the architecture.json of a search")
    return design


def architecture_of(
    architecture: Design | str | Path, allow_modules: Collection[str] = ()
) -> tuple[Design, Path | None]:
    """Returns an architecture that is given as an object or as the path of an architecture.json, and that path. Raises
    what `load_architecture` raises."""
    if isinstance(architecture, Design):
        return architecture, None
    path = as_path(architecture, "architecture")
    return load_architecture(path, allow_modules), path


def is_from_search(checkpoint: dict[str, object]) -> bool:
    """Returns whether a checkpoint holds a supernet, of a search, rather than a network, of a retraining."""
    return "search" in checkpoint


def layers_of(architecture: Design) -> dict[str, Any]:
    """Returns the description of a network in a retraining's checkpoint, by which it is distinguished from others: all
    that determines its weights' shapes and its computation."""
    return {"activation": architecture.op_settings.activation, "layers": [str(layer) for layer in architecture.layers]}


def in_words(architecture: Design) -> str:
    """Returns a network's name for a message."""
    return f"the network '{architecture.name}' ({' '.join(architecture.names)})"


def refuse_other_network(checkpoint: Mapping[str, Any], architecture: Design, where: str) -> None:
    """Raises CheckpointError, naming both, if the description in a checkpoint is of another network or supernet."""
    if "space" in checkpoint:
        if not isinstance(architecture, Architecture):
            found = f"is of a search, but {in_words(architecture)} is of no space"
            raise CheckpointError(where, found, remedy="use the architecture.json of its run")
        theirs, own = (
            {key: value for key, value in space.items() if key not in _NO_MATTER}
            for space in (_mapping(checkpoint["space"]), architecture.space.config.model_dump(mode="json"))
        )
        changes, wanted = differences(theirs, own, "space."), f"a supernet that holds {in_words(architecture)}"
    elif "layers" in checkpoint:
        own = layers_of(architecture)
        changes, wanted = differences({key: checkpoint.get(key) for key in own}, own), in_words(architecture)
    else:  # an earlier version did not describe the network
        return
    if changes:
        other = checkpoint.get("network", "another network")
        found = f"is of {other}, not of {wanted}: {'; '.join(changes[:3])}"
        raise CheckpointError(where, found, remedy="use the architecture.json of its run")


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


@dataclass(frozen=True)
class Loaded:
    """A network with a checkpoint's weights."""

    network: Network
    needs_statistics: bool
    """Whether its BN statistics must still be collected, since a supernet has none."""
    classes: tuple[str, ...] | None = None
    """The names of its classes; None if the checkpoint does not have them."""


def weights_of_result(state: Mapping[str, Any]) -> Any:
    """Returns the weights in a retraining's state that are its result: those of the best epoch if epochs are compared,
    else the averaged ones if there are any, else those of its last step. Raises KeyError if it has none."""
    for kind in ("best", "ema"):
        if state.get(kind) is not None:
            return state[kind]
    return state["net"]


def read_checkpoint(source: Path) -> tuple[dict[str, Any], str]:
    """Returns the content of a checkpoint, and the place to name in errors about it.

    source: a .pt file, or the folder of a run, whose newest good checkpoint is read. Raises CheckpointError.
    """
    if not source.is_dir():
        return load_checkpoint(source, "a step-*.pt file of a run, or the folder of a run"), str(source)
    checkpoints = Checkpoints(source / "checkpoints")
    newest = checkpoints.newest()
    if newest is None:
        expected = "the folder of a run, with checkpoints/step-*.pt"
        raise CheckpointError(str(source), "has no checkpoint", expected, "give such a folder or file")
    return newest[1], f"{checkpoints.folder}, step {newest[0]}"


def load_network(path: Path, architecture: Design | None = None, allow_modules: Collection[str] = ()) -> Loaded:
    """Returns a network with the weights of a checkpoint. path: as in `read_checkpoint`. See `load_network_of`."""
    content, where = read_checkpoint(path)
    return load_network_of(content, where, architecture, allow_modules)


def load_network_of(
    checkpoint: dict[str, Any],
    where: str,
    architecture: Design | None = None,
    allow_modules: Collection[str] = (),
) -> Loaded:
    """Returns a network with a checkpoint's weights; None as the architecture takes the checkpoint's own.

    A search's checkpoint gives the supernet's weights on the architecture's paths. where: the checkpoint's place, for
    errors. allow_modules: as for `Architecture.from_json`. Raises CheckpointError if the checkpoint does not fit, or if
    no architecture is given and it has none.
    """
    if architecture is None:
        architecture = _own_architecture(checkpoint, where, allow_modules)
    refuse_other_network(checkpoint, architecture, where)
    try:
        if is_from_search(checkpoint):
            if not isinstance(architecture, Architecture):
                raise CheckpointError(where, "is of a search", "the checkpoint of a retraining for a chain of layers")
            supernet = Supernet(architecture.space)
            check_module(checkpoint["search"]["net"], supernet)
            supernet.load_state_dict(checkpoint["search"]["net"])
            return Loaded(Network.inherit(supernet, architecture), needs_statistics=True)
        network = Network(architecture)
        weights = weights_of_result(checkpoint["retrain"])
        check_module(weights, network)
        network.load_state_dict(weights)
    except (KeyError, TypeError) as error:
        lacks = f"has no {error}" if isinstance(error, KeyError) else "holds something else"
        found = f"{lacks}, so it is no checkpoint of a search or a retraining"
        raise CheckpointError(where, found, _EXPECTED) from error
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(where, f"does not fit the architecture: {misfit(error)}") from error
    classes = checkpoint.get("classes")
    if classes is None:
        return Loaded(network, needs_statistics=False)
    if not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise CheckpointError(where, "its classes are no list of names", _EXPECTED)
    if len(classes) != architecture.classes:
        own = architecture.classes
        raise CheckpointError(where, f"has the names of {len(classes)} classes, but its network has {own}", _EXPECTED)
    network.class_names = tuple(classes)
    return Loaded(network, needs_statistics=False, classes=tuple(classes))


def pretrained(
    architecture: Design | str | Path | None,
    checkpoint: str | Path,
    *,
    images: Iterable[Tensor] | None = None,
    allow_modules: Collection[str] = (),
) -> Network:
    """Returns a network in eval mode, on the CPU, with the weights of a checkpoint.

    architecture: an architecture or the path of an architecture.json; None takes the one that a retraining's checkpoint
    carries. checkpoint: a .pt file of a retraining or a search, or the folder of a run, whose newest good checkpoint is
    taken. images: batches (N, C, H, W) float32, normalised, from which the BN statistics are collected. A search's
    checkpoint needs them, since a supernet has no statistics; a retraining's has its own. allow_modules: as for
    `Architecture.from_json`. The names of the classes, if the checkpoint has them, are in the network's `class_names`.
    Raises ConfigError if the architecture cannot be read, and CheckpointError if the checkpoint cannot be read, does
    not fit, or is a search's and no `images` are given.
    """
    if architecture is not None:
        architecture, _ = architecture_of(architecture, allow_modules)
    content, where = read_checkpoint(as_path(checkpoint, "checkpoint"))
    loaded = load_network_of(content, where, architecture, allow_modules)
    if images is not None:
        recalibrate_bn(loaded.network, _batches(images, loaded.network.architecture.layers[0].c_in))
    elif loaded.needs_statistics:
        remedy = "give batches of training images to collect them from (images=...), or a retraining's checkpoint"
        raise CheckpointError(where, "is of a search, whose supernet has no BN statistics", remedy=remedy)
    return loaded.network.eval()


def _batches(images: object, channels: int) -> Iterator[Tensor]:
    """Yields the batches that a caller gave. Raises ConfigError if they are no batches for a network on the CPU that
    takes images of so many channels, or if there is none."""
    expected = f"batches of normalised images, each a float32 tensor (N, {channels}, H, W) on the CPU"
    if not isinstance(images, Iterable) or isinstance(images, str | bytes | Mapping):
        raise ConfigError("images", f"got {shown(images)}", expected)
    none = True
    for batch in images:
        none = False
        if not isinstance(batch, Tensor):
            raise ConfigError("images", f"got an entry {shown(batch)}", expected)
        fits = batch.ndim == 4 and batch.shape[1] == channels and batch.numel() > 0
        if not fits or batch.dtype != torch.float32 or batch.device.type != "cpu":
            found = (
                f"got a {str(batch.dtype).removeprefix('torch.')} tensor {tuple(batch.shape)} on {batch.device.type}"
            )
            remedy = "write [images] for a single batch" if isinstance(images, Tensor) and images.ndim == 4 else ""
            raise ConfigError("images", found, expected, remedy)
        yield batch
    if none:
        raise ConfigError("images", "has no batch", expected)


def _own_architecture(checkpoint: dict[str, Any], where: str, allow_modules: Collection[str]) -> Design:
    """Returns the architecture in a checkpoint of a retraining.

    Raises CheckpointError if it has none, or names a module that is not allowed: a checkpoint runs no code by itself.
    """
    allow_modules = as_texts(allow_modules, "allow_modules")
    text = checkpoint.get("architecture")
    if not isinstance(text, str):
        why = "is of a search, whose supernet holds many networks" if is_from_search(checkpoint) else "does not say"
        raise CheckpointError(where, why, remedy="say which network: --architecture architecture.json")
    try:
        return read_design(text, allow_modules=allow_modules)
    except ValueError as error:
        raise CheckpointError.of(error, f"{where}: its architecture") from None
