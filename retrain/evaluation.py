"""Measures the accuracy of a network with any checkpoint's weights on the test set."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.config import differences, keys_of, naming
from engine.data import evaluation_batches, statistics_batches
from engine.device import memory_format, on_device, prepare_device
from engine.errors import ConfigError
from engine.evaluation import Evaluation, evaluate, recalibrate_bn
from engine.files import as_path
from retrain.config import RetrainConfig
from retrain.data import images_for
from retrain.weights import SPACE_KEYS, architecture_of, load_network
from supernet.architecture import Architecture

BN_BATCHES = 20
"""Training batches from which the BN statistics of a supernet's network are collected."""


def evaluate_checkpoint(
    config: RetrainConfig | str | Path | Mapping[str, Any],
    architecture: Architecture | str | Path | None,
    checkpoint: str | Path,
    allow_modules: Collection[str] = (),
    *,
    overrides: Sequence[str] = (),
) -> tuple[Architecture, Evaluation]:
    """Returns the network's architecture, and its top-1, top-5 and loss on the test set.

    config: a YAML file or its content, of which the sections data and run and the batch size are used; `overrides`
    (key.sub=value) change it. architecture: an architecture or the path of an architecture.json; None takes the one
    that a retraining's checkpoint carries. checkpoint: a .pt file. If it is a search's, BN statistics are first
    collected over BN_BATCHES training batches without augmentation. allow_modules: as for `load_architecture`. Raises
    CheckpointError, and ConfigError, also if the data have other classes than those of the checkpoint's training.
    """
    settings = RetrainConfig.read(config, overrides)
    given, path = (None, None) if architecture is None else architecture_of(architecture, allow_modules)
    with naming(config, keys_of(RetrainConfig)):
        return _evaluated(settings, given, path, as_path(checkpoint, "checkpoint"), allow_modules)


def _evaluated(
    config: RetrainConfig,
    given: Architecture | None,
    path: Path | None,
    checkpoint: Path,
    allow_modules: Collection[str],
) -> tuple[Architecture, Evaluation]:
    """Does the work of `evaluate_checkpoint`. path: the file of the architecture that is given, None if it has none."""
    device = prepare_device(config.run)
    if given is None:
        loaded = load_network(checkpoint, allow_modules=allow_modules)
        with naming(checkpoint, SPACE_KEYS):
            images = images_for(loaded.network.architecture, config.data)
    else:
        with naming(path, SPACE_KEYS):
            images = images_for(given, config.data)
        loaded = load_network(checkpoint, given)
    network = loaded.network
    if loaded.classes is not None and (changes := differences(list(loaded.classes), list(images.class_names))):
        first = "; class ".join(changes[:3])
        found = f"other classes than {checkpoint} was trained on: class {first}"
        raise ConfigError("data.name", found, remedy="use data with its classes, in their order")
    network.to(device=device, memory_format=memory_format(config.run))  # type: ignore[call-overload]
    size, workers = config.retrain.batch_size, config.data.workers
    if loaded.needs_statistics:
        batches = statistics_batches(images.train, size, BN_BATCHES, workers)
        recalibrate_bn(network, (on_device(batch, device, config.run).images for batch in batches))
    scores = evaluate(network, evaluation_batches(images.test, size, workers), device, config.run)
    return network.architecture, scores
