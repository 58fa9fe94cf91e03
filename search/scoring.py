"""Computes the accuracy of a derived network with the supernet's weights, for a search's curves and for families."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch

from engine.data import (
    Batch,
    ImageSet,
    evaluation_batches,
    open_images_for,
    statistics_batches,
    stratified_split,
    subset,
)
from engine.device import memory_format
from engine.distributed import ALONE, Group
from engine.evaluation import Evaluation, evaluate, recalibrate_bn
from engine.progress import Report, silent
from engine.runs.inputs import Inputs, of_images
from engine.seeding import mix
from search.config import SearchConfig
from search.state import SPLIT
from supernet import user_modules
from supernet.architecture import Architecture
from supernet.network import Network
from supernet.supernet import Supernet


def open_parts(config: SearchConfig) -> tuple[ImageSet, ImageSet]:
    """Returns the part of the training set that the weights learn on, and the part for alpha and for scores.

    The split depends on the config alone, including `run.seed`. Raises ConfigError if the images cannot be used.
    """
    images = open_images_for(config.space, config.data, user_modules.call).train
    chosen, held_out = stratified_split(images.labels, config.data.validation, mix(config.run.seed, SPLIT))
    return subset(images, chosen), subset(images, held_out)


def image_inputs(training: ImageSet, validation: ImageSet) -> Inputs:
    """Returns the images that a search depends on."""
    return {"training images": of_images(training), "validation images": of_images(validation)}


def score(
    net: Supernet,
    architecture: Architecture,
    config: SearchConfig,
    training: ImageSet,
    validation: ImageSet,
    device: torch.device,
    group: Group = ALONE,
    *,
    report: Report = silent,
    what: str = "scoring the derived network",
) -> Evaluation:
    """Returns an architecture's accuracy on `search.evaluation_images` validation images, with a copy of its weights
    and BN statistics over `search.bn_batches` training batches. The supernet stays unchanged.

    device: the supernet's device. The processes of `group` each run their slices of the batches. report: called with
    `what` is being done, in batches.
    """
    s, layout, workers = config.search, memory_format(config.run), config.data.workers
    network = Network.inherit(net, architecture)
    network.to(memory_format=layout)
    for_statistics = min(s.bn_batches, max(1, len(training) // s.batch_size))
    to_score = math.ceil(min(s.evaluation_images or len(validation), len(validation)) / s.batch_size)

    def counted(batches: Iterable[Batch], before: int) -> Iterator[Batch]:
        for done, batch in enumerate(batches, before):
            report(what, done, for_statistics + to_score)
            yield batch

    batches = statistics_batches(training, s.batch_size, s.bn_batches, workers, device=device, **group.slice)
    images = (batch.images.to(device, memory_format=layout, non_blocking=True) for batch in counted(batches, 0))
    recalibrate_bn(network, images, group)
    limit = s.evaluation_images
    scored = evaluation_batches(validation, s.batch_size, workers, limit, device=device, **group.slice)
    evaluation = evaluate(network, counted(scored, for_statistics), device, config.run, group)
    report(what, for_statistics + to_score, for_statistics + to_score)
    return evaluation
