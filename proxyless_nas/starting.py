"""Finds published networks for a retraining: as the network to train, to start from, or to learn from."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from engine.files import as_path
from published.designs import design_of
from published.networks import build, is_named
from published.preprocessing import preprocessing_of
from retrain.start import Trained
from supernet.design import Design


def published_network(name: str) -> Trained | None:
    """Returns the published network of a name with its weights, which are downloaded once; None if there is none of
    this name. The names of its classes are left out: folders of ImageNet are named by numbers."""
    if not is_named(name):
        return None
    network = build(name)
    design = network.architecture
    return Trained(network, f"the published {name}", preprocessing_of(design.name, design.input_size), None)


def architecture_or_file(
    architecture: Design | Path | str | None, allow_modules: Collection[str] = ()
) -> Design | Path | None:
    """Returns the design of a published network's name or of a net.config; the path of any other file, which then names
    its errors; or what is no path as it is."""
    if architecture is None or isinstance(architecture, Design):
        return architecture
    path = as_path(architecture, "architecture")
    if path.suffix == ".json" or (path.exists() and not path.is_file()):
        return path
    return design_of(path, allow_modules=allow_modules) if path.exists() or is_named(str(path)) else path
