"""Records what a retraining depends on, in its folder: its settings, its architecture, and the content of its files."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from engine.data import Splits
from engine.errors import CheckpointError
from engine.runs.checkpoints import Checkpoints
from engine.runs.inputs import Inputs, of_file, of_images, recorded
from retrain.config import RetrainConfig
from retrain.data import own_files
from retrain.start import Trained, checksum
from retrain.teacher import Teacher
from retrain.weights import read_checkpoint
from supernet.design import Design
from supernet.design_file import read_design

_FIRST_KEYS = ("epochs", "batch_size", "lr", "momentum", "weight_decay", "label_smoothing", "inherit")
"""Keys of the section `retrain` that every version has. The others are left out of config.yaml if they have their
defaults, so that runs of earlier versions can be resumed."""


def resolved_training(config: RetrainConfig, architecture: Design) -> dict[str, Any]:
    """Returns the content of a run's config.yaml. The architecture is part of it, so that a resume with another one is
    refused."""
    settings = config.retrain
    values = config.model_dump(mode="json", exclude_none=True)
    new = settings.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    values["retrain"] = {key: value for key, value in values["retrain"].items() if key in _FIRST_KEYS or key in new}
    values["retrain"] |= {"lr": settings.resolved_lr, "weight_decay": settings.resolved_weight_decay}
    return values | {"architecture": json.loads(architecture.to_json())}


def image_inputs(images: Splits) -> Inputs:
    """Returns the images that a retraining depends on."""
    inputs: Inputs = {"training images": of_images(images.train), "test images": of_images(images.test)}
    return inputs | ({} if images.validation is None else {"validation images": of_images(images.validation)})


def inputs_of(
    config: RetrainConfig,
    architecture: Design,
    images: Splits,
    out: Path,
    trained: Trained | None = None,
    teacher: Teacher | None = None,
) -> Inputs:
    """Returns what a retraining depends on beside its config: images, classes, own files, the weights that it begins
    with and its teacher."""
    inputs: Inputs = {
        **image_inputs(images),
        "classes": {"names": list(images.class_names)},
        "own files": own_files(architecture, config.data),
    }
    # once a checkpoint exists, it has the weights: those of the beginning are no longer needed, and their record stays
    known = (recorded(out) or {}) if Checkpoints(out / "checkpoints").steps() else {}
    if config.retrain.inherit is not None:
        content = known.get("inherited weights")
        inputs["inherited weights"] = content or {"content": of_file(config.retrain.inherit, "retrain.inherit")}
    if config.retrain.start is not None:
        begun = {} if trained is None else {"content": checksum(trained.network)}
        inputs["starting weights"] = known.get("starting weights") or begun
    if teacher is not None:
        inputs["teacher"] = {"weights": teacher.identity}
    return inputs


def recorded_design(out: Path, allow_modules: Collection[str]) -> Design:
    """Returns the architecture in the newest checkpoint of a run."""
    content, where = read_checkpoint(out)
    try:
        return read_design(content["architecture"], allow_modules=allow_modules)
    except (KeyError, ValueError) as error:
        raise CheckpointError(where, "does not say which network it is of", remedy="give --architecture") from error
