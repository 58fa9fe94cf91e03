"""The accuracy of any architecture with any checkpoint, on the test set."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from engine.config import differences, naming
from engine.data import evaluation_batches, statistics_batches
from engine.device import memory_format, on_device, prepare_device
from engine.errors import ConfigError
from engine.evaluation import Evaluation, evaluate, recalibrate_bn
from retrain.config import RetrainConfig
from retrain.data import images_for
from retrain.weights import SPACE_KEYS, load_architecture, load_network
from supernet.architecture import Architecture

BN_BATCHES = 20


def evaluate_checkpoint(
    config: RetrainConfig, architecture_path: Path | None, checkpoint: Path, allow_modules: Collection[str] = ()
) -> tuple[Architecture, Evaluation]:
    """Returns the network's architecture, and its top-1, top-5 and loss on the test set.

    architecture_path: None takes the architecture that a retraining's checkpoint carries. With a search's checkpoint,
    BN statistics are first collected over BN_BATCHES training batches without augmentation. allow_modules: as for
    `load_architecture`. Raises CheckpointError, and ConfigError, also if the data have other classes than those of the
    checkpoint's training.
    """
    device = prepare_device(config.run)
    if architecture_path is None:
        loaded = load_network(checkpoint, allow_modules=allow_modules)
        with naming(checkpoint, SPACE_KEYS):
            images = images_for(loaded.network.architecture, config.data)
    else:
        architecture = load_architecture(architecture_path, allow_modules)
        with naming(architecture_path, SPACE_KEYS):
            images = images_for(architecture, config.data)
        loaded = load_network(checkpoint, architecture)
    network = loaded.network
    if loaded.classes is not None and (changes := differences(list(loaded.classes), list(images.class_names))):
        first = "; class ".join(changes[:3])
        raise ConfigError(
            f"data.name: other classes than {checkpoint} was trained on: class {first}; use data with its classes, in "
            "their order"
        )
    network.to(device=device, memory_format=memory_format(config.run))  # type: ignore[call-overload]
    size, workers = config.retrain.batch_size, config.data.workers
    if loaded.needs_statistics:
        batches = statistics_batches(images.train, size, BN_BATCHES, workers)
        recalibrate_bn(network, (on_device(batch, device, config.run).images for batch in batches))
    found = evaluate(network, evaluation_batches(images.test, size, workers), device, config.run)
    return network.architecture, found
