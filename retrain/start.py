"""Finds the weights that a training starts from, and copies them into its network."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from engine.data.preprocessing import Preprocessing
from engine.errors import ConfigError, UserError
from engine.files import in_home
from engine.imagenet import same_classes
from retrain.preprocessing import preprocessing_in
from retrain.weights import is_from_search, load_network_of, read_checkpoint
from supernet.design import Design
from supernet.network import Network

log = logging.getLogger("retrain")


@dataclass(frozen=True)
class Trained:
    """A trained network."""

    network: Network
    """On the CPU."""
    origin: str
    """Where it comes from, in words."""
    preprocessing: Preprocessing | None
    """How its images are prepared; None if that is not known."""
    classes: tuple[str, ...] | None
    """The names of its classes; None if they are not known, or are not those of the images' folders."""
    needs_statistics: bool = False
    """Whether its BN statistics must still be collected, since a supernet has none."""


FindPublished = Callable[[str], Trained | None]
"""A function that returns the published network of a name, None if there is none of this name. Callers that know
published networks pass one; retrain/ imports none of them."""


def none_published(name: str) -> Trained | None:
    """Returns None: no name is that of a published network."""
    return None


def find_trained(
    source: str,
    key: str,
    design: Design | None,
    allow_modules: Collection[str] = (),
    published: FindPublished = none_published,
) -> Trained:
    """Returns the trained network that `source` names: a published one, or that of a checkpoint or of a run's folder.

    key: the setting that names it, for errors. design: the network to take out of a search's checkpoint; for other
    checkpoints it only stands in for one that an earlier version did not record. Raises UserError.
    """
    found = published(source)
    if found is not None:
        return found
    path = in_home(Path(source))
    if not path.exists():
        expected = "a published network's name, a checkpoint's .pt file, or the folder of a run"
        raise ConfigError(key, f"there is no '{source}'", expected, "correct it")
    content, where = read_checkpoint(path)
    recorded = isinstance(content.get("architecture"), str)
    own = None if recorded and not is_from_search(content) else design
    loaded = load_network_of(content, where, own, allow_modules)
    known = preprocessing_in(content, where)
    return Trained(loaded.network, where, known, loaded.classes, loaded.needs_statistics)


def checksum(network: nn.Module) -> str:
    """Returns a SHA-256 of the names and values of a network's weights and buffers."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@torch.no_grad()
def begin_with(trained: Trained, network: Network, classes: tuple[str, ...], key: str) -> None:
    """Copies the weights of a trained network into a fresh one of the same layers.

    The classifier stays fresh if its number of classes, or their names, are others, which is logged. classes: the names
    of the data's classes. key: the setting that names the trained network. Raises ConfigError if layers differ.
    """
    theirs, own = (_layers_of(n.architecture) for n in (trained.network, network))
    different = [f"{a} -> {b}" for a, b in zip(theirs, own, strict=False) if a != b]
    if different or len(theirs) != len(own):
        what = different[0] if different else f"{len(theirs)} layers -> {len(own)}"
        found = f"{trained.origin} is of another network than the one to train: {what}"
        raise ConfigError(key, found, remedy="use its own architecture (leave --architecture out)")
    source, target = trained.network.state_dict(), network.state_dict()
    fresh = {name for name, value in target.items() if source[name].shape != value.shape}
    if trained.classes is not None and not same_classes(trained.classes, classes):
        fresh |= {name for name in target if name.startswith("classifier.linear.")}
    for name, value in target.items():
        if name not in fresh:
            value.copy_(source[name])
    log.info("training begins with the weights of %s", trained.origin)
    if fresh:
        before, now = trained.network.architecture.classes, network.architecture.classes
        log.info("its classifier of %d classes is replaced by a fresh one of the data's %d classes", before, now)


def _layers_of(design: Design) -> list[str]:
    """Returns what determines the weights and computation of each layer but the classifier, input sizes left out."""
    settings = [design.op_settings.activation]
    return settings + [
        f"{layer.spec} {layer.c_in} -> {layer.c_out} stride {layer.stride}{' residual' if layer.residual else ''}"
        for layer in design.layers[:-1]
    ]


def design_of_start(trained: Trained | None) -> Design:
    """Returns the architecture of the network that a training starts from. Raises UserError if there is none."""
    if trained is None:
        remedy = "say which network to train (--architecture), or name a trained one in retrain.start"
        raise UserError("architecture", "is missing", remedy=remedy)
    return trained.network.architecture
