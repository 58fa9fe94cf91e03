"""The accuracy of any architecture with any checkpoint, on the test set."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from engine.config import naming
from engine.data import evaluation_batches, statistics_batches
from engine.training import Evaluation, evaluate, memory_format, prepare_device, recalibrate_bn
from retrain.config import RetrainFile
from retrain.data import images_for
from retrain.weights import SPACE_KEYS, load_architecture, load_weights

BN_BATCHES = 20


def evaluate_checkpoint(
    config: RetrainFile, architecture_path: Path, checkpoint: Path, allow_modules: Collection[str] = ()
) -> Evaluation:
    """Top-1, top-5 and loss on the test set.

    With a search's checkpoint, BN statistics are first collected over BN_BATCHES training batches without augmentation.
    allow_modules: as for `load_architecture`. Raises ConfigError or CheckpointError.
    """
    device = prepare_device(config.run)
    architecture = load_architecture(architecture_path, allow_modules)
    with naming(architecture_path, SPACE_KEYS):
        images = images_for(architecture, config.data)
    network, needs_statistics = load_weights(architecture, checkpoint)
    network.to(device=device, memory_format=memory_format(config.run))  # type: ignore[call-overload]
    size, workers = config.retrain.batch_size, config.data.workers
    if needs_statistics:
        batches = statistics_batches(images.train, size, BN_BATCHES, workers)
        recalibrate_bn(network, (batch.images.to(device) for batch in batches))
    return evaluate(network, evaluation_batches(images.test, size, workers), device, config.run)


TOP5_NEEDS = 6
"""Classes: with fewer, every image is among the top 5."""


def in_words(test: Evaluation, classes: int) -> str:
    """A test's figures on one line."""
    top5 = f", top-5 {test.top5:.2f} %" if classes >= TOP5_NEEDS else ""
    return f"test set, {test.images} images: top-1 {test.top1:.2f} %{top5}, loss {test.loss:.4f}"
