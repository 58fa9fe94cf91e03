"""Converts networks and their weights between the published formats and ours."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from engine.data.preprocessing import Preprocessing
from engine.errors import CheckpointError, ConfigError, explain
from engine.files import write_atomically
from engine.imagenet import imagenet_classes
from engine.runs.checkpoints import FORMAT
from published.designs import design_of
from published.int8 import is_int8, read_int8
from published.net_config.conversion import net_config_of
from published.preprocessing import preprocessing_of
from published.state_names import official_state, spoken_names
from published.weights import load_state, read_state
from retrain.weights import in_words, layers_of, load_network_of
from supernet.design import Design
from supernet.network import Network

IMAGENET = (1000, 3)
"""Classes and channels of the networks that are taken for ImageNet's."""


@dataclass(frozen=True)
class Converted:
    """What `convert` has written."""

    design: Design
    files: tuple[Path, ...]


def convert(
    source: Path | str,
    target: Path | str,
    weights: tuple[Path | str, Path | str] | None = None,
    *,
    input_size: int | None = None,
    allow_modules: Collection[str] = (),
) -> Converted:
    """Writes a network in the other format, and its weights.

    source: an architecture.json, a net.config, a trained int8 network (.pkl), or the name of a published network.
    target: the file to write, an architecture.json if it ends with `.json`, else a net.config. weights: a checkpoint,
    under official names or of a retraining, or an int8 network, whose weights are dequantised, and the file to write: a
    checkpoint beside an architecture.json, an official state dict beside a net.config. input_size: of a net.config's
    images in pixels, see `published.net_config.conversion.chain_of`. Raises ConfigError and CheckpointError, before
    anything is written; neither a file that is read nor one that holds anything else is written over.
    """
    source, target = str(source), Path(target)
    written = [("target", target), *([("--weights", Path(weights[1]))] if weights else [])]
    for (place, path), read in product(written, [Path(source), *([Path(weights[0])] if weights else [])]):
        if path.exists() and read.exists() and path.samefile(read):
            raise ConfigError(place, f"got {path}, which is read", "another file")
    design = design_of(source, allow_modules=allow_modules, input_size=input_size)
    ours = target.suffix.lower() == ".json"
    with explain(source):
        text = design.to_json() if ours else json.dumps(net_config_of(design), indent=4) + "\n"
    contents: dict[Path, str | bytes] = {target: text}
    if weights is not None:
        (network, preprocessing), after = _network(design, Path(weights[0])), Path(weights[1])
        if after == target:
            raise ConfigError("--weights", f"got {after}, where the network is written", "another file")
        contents[after] = _content(
            _checkpoint(network, preprocessing) if ours else {"state_dict": official_state(network)}
        )
    for path, content in contents.items():
        _refuse_other_content(path, content, "target" if path == target else "--weights")
    for path, content in contents.items():
        write_atomically(path, content)
    return Converted(design, tuple(contents))


def _refuse_other_content(path: Path, content: str | bytes, place: str) -> None:
    """Raises ConfigError if there is a file of another content at `path`, which would be lost."""
    if not os.path.lexists(path):
        return
    own = content.encode() if isinstance(content, str) else content
    if not path.is_file() or path.stat().st_size != len(own) or path.read_bytes() != own:
        raise ConfigError(place, f"{path} exists, and holds something else", remedy="choose another file, or delete it")


def _network(design: Design, path: Path) -> tuple[Network, Preprocessing]:
    """Returns the network with the weights of a checkpoint, of a retraining or under official names, or of an int8
    network, and how its images are prepared if it is one of ImageNet."""
    if is_int8(path):
        model = read_int8(path)
        if model.chain.layers != design.layers:
            raise CheckpointError(str(path), "is of another network", "the int8 network that is converted")
        return model.float_network(), model.preprocessing
    preprocessing = preprocessing_of(design.name, design.input_size)
    state: dict[str, Any] = dict(read_state(path))
    if "retrain" in state or "search" in state:
        return load_network_of(state, str(path), design).network, preprocessing
    network = Network(design)
    load_state(state, str(path), network, spoken_names(network, state))
    return network, preprocessing


def _checkpoint(network: Network, preprocessing: Preprocessing) -> dict[str, Any]:
    """Returns a checkpoint like that of a retraining. A network of 1000 classes and 3 channels is taken for one of
    ImageNet: it gets its classes and the preprocessing."""
    design = network.architecture
    content: dict[str, Any] = {
        "format": FORMAT,
        "network": in_words(design),
        **layers_of(design),
        "architecture": design.to_json(),
        "retrain": {"net": network.state_dict()},
    }
    if (design.classes, design.input_channels) == IMAGENET:
        content["classes"] = list(imagenet_classes())
        content["preprocessing"] = preprocessing.record()
    return content


def _content(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()
