"""Measures the accuracy of a network with any checkpoint's weights on a set of images."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.config import differences, keys_of, naming
from engine.data import ImageSet, Preprocessing, Splits, evaluation_batches, open_images, statistics_batches
from engine.data.evaluated import open_test_images
from engine.device import memory_format, on_device, prepare_device
from engine.distributed import ALONE, Group
from engine.errors import ConfigError
from engine.evaluation import ClassCounts, Evaluation, evaluate, evaluate_by_class, recalibrate_bn
from engine.files import as_path
from engine.imagenet import same_classes
from engine.progress import Report, reported, silent
from engine.run_config import RunConfig
from retrain.config import RetrainConfig
from retrain.data import images_for
from retrain.weights import SPACE_KEYS, architecture_of, load_network
from supernet import user_modules
from supernet.design import Design

BN_BATCHES = 20
"""Training batches from which the BN statistics of a supernet's network are collected."""


@dataclass(frozen=True)
class Scores:
    """The result of evaluating a network on a set of images."""

    test: Evaluation
    class_names: tuple[str, ...]
    seconds: float
    """The time that the pass over the images took, in seconds; of several processes, the longest one."""
    by_class: ClassCounts | None = None
    """How the images of each class were classified, if it was asked for."""

    @property
    def images_per_second(self) -> float:
        """How many images all processes together evaluated in a second, including reading and preparing them."""
        return self.test.images / self.seconds


def evaluate_checkpoint(
    config: RetrainConfig | str | Path | Mapping[str, Any],
    architecture: Design | str | Path | None,
    checkpoint: str | Path,
    allow_modules: Collection[str] = (),
    *,
    overrides: Sequence[str] = (),
) -> tuple[Design, Evaluation]:
    """Returns the network's architecture, and its top-1, top-5 and loss on the test set; see `score_checkpoint`."""
    design, scores = score_checkpoint(config, architecture, checkpoint, allow_modules, overrides=overrides)
    return design, scores.test


def score_checkpoint(
    config: RetrainConfig | str | Path | Mapping[str, Any],
    architecture: Design | str | Path | None,
    checkpoint: str | Path,
    allow_modules: Collection[str] = (),
    *,
    overrides: Sequence[str] = (),
    size: int | None = None,
    by_class: bool = False,
    group: Group = ALONE,
    report: Report = silent,
) -> tuple[Design, Scores]:
    """Returns the network's architecture, and how well it does on the test set.

    config: a YAML file or its content, of which the sections data and run and the batch size are used; `overrides`
    (key.sub=value) change it. architecture: an architecture or the path of an architecture.json; None takes the one
    that a retraining's checkpoint carries. checkpoint: a .pt file, or the folder of a run, whose newest good one is
    taken. If it is a search's, BN statistics are first collected over BN_BATCHES training batches without augmentation.
    allow_modules: as for `load_architecture`. size: the input's height and width in pixels; None takes the
    architecture's. by_class: whether to count the images of each class. The processes of `group` share every batch of
    the test set, and each image counts once. Raises CheckpointError, and ConfigError, also if the data have other
    classes than those of the checkpoint's training.
    """
    settings = RetrainConfig.read(config, overrides)
    given, path = (None, None) if architecture is None else architecture_of(architecture, allow_modules)
    with naming(config, keys_of(RetrainConfig)):
        file = as_path(checkpoint, "checkpoint")
        return _scored(settings, given, path, file, allow_modules, size, by_class, group, report)


def _scored(
    config: RetrainConfig,
    given: Design | None,
    path: Path | None,
    checkpoint: Path,
    allow_modules: Collection[str],
    size: int | None,
    by_class: bool,
    group: Group,
    report: Report,
) -> tuple[Design, Scores]:
    """Does the work of `score_checkpoint`. path: the file of the architecture that is given, None if it has none."""
    device = prepare_device(config.run, group)
    with group.in_turn() if config.data.download else nullcontext():
        if given is None:
            loaded = load_network(checkpoint, allow_modules=allow_modules)
            with naming(checkpoint, SPACE_KEYS):
                images = _images(loaded.network.architecture, config, size)
        else:
            with naming(path, SPACE_KEYS):
                images = _images(given, config, size)
            loaded = load_network(checkpoint, given)
    network = loaded.network
    refuse_other_classes(loaded.classes, images.class_names, str(checkpoint), "data.name")
    network.to(device=device, memory_format=memory_format(config.run))  # type: ignore[call-overload]
    batch_size, workers = config.retrain.batch_size, config.data.workers
    if loaded.needs_statistics:  # every process collects all of them, so that their number changes no figure
        batches = statistics_batches(images.train, batch_size, BN_BATCHES, workers, device=device)
        recalibrate_bn(network, (on_device(batch, device, config.run).images for batch in batches))
    scores = _pass(
        network, images.test, images.class_names, batch_size, workers, device, config.run, by_class, group, report
    )
    return network.architecture, scores


def refuse_other_classes(own: Sequence[str] | None, names: Sequence[str], network: str, place: str) -> None:
    """Raises ConfigError, at `place`, if a network that knows its classes gets others. network: its name."""
    if own is not None and not same_classes(own, names):
        first = "; class ".join(differences(list(own), list(names))[:3])
        found = f"other classes than {network} was trained on: class {first}"
        raise ConfigError(place, found, remedy="use data with its classes, in their order")


def _images(design: Design, config: RetrainConfig, size: int | None) -> Splits:
    """Returns the images of a configuration in the shape of a network, at another input size if one is given."""
    if size is None:
        return images_for(design, config.data)
    shape = {"channels": design.input_channels, "classes": design.classes}
    return open_images(config.data, input_size=size, call=user_modules.call, **shape)


def score_files(
    network: nn.Module,
    root: str | Path,
    preprocessing: Preprocessing,
    classes: int,
    *,
    batch_size: int = 100,
    workers: int | None = None,
    run: RunConfig = RunConfig(),  # noqa: B008  # frozen
    class_names: Sequence[str] | None = None,
    by_class: bool = False,
    group: Group = ALONE,
    report: Report = silent,
) -> Scores:
    """Returns how well any network does on a folder of images, such as ImageNet's.

    network: (N, C, S, S) -> logits (N, classes). It is moved to the device of `run`. root: a folder that holds val/ or
    test/, or the class folders themselves. preprocessing: how an image becomes its input. class_names: the names of the
    network's classes, which the folders must have; None if they are not known: class i is then the i-th folder in the
    order of names, and of numbers if all names are numbers. batch_size: images of all processes together, which share
    them; each image counts once. workers: as in the YAML section data. Raises ConfigError if the images do not fit.
    """
    device = prepare_device(run, group)
    images, names = open_test_images(Path(root), preprocessing, classes, class_names)
    refuse_other_classes(class_names, names, "the network", str(root))
    network.to(device=device, memory_format=memory_format(run))  # type: ignore[call-overload]
    return _pass(network, images, names, batch_size, workers, device, run, by_class, group, report)


def _pass(
    network: nn.Module,
    images: ImageSet,
    class_names: tuple[str, ...],
    batch_size: int,
    workers: int | None,
    device: torch.device,
    run: RunConfig,
    by_class: bool,
    group: Group,
    report: Report,
) -> Scores:
    """Evaluates a network, which is on its device, on all images of a set."""
    began = time.perf_counter()
    batches = evaluation_batches(images, batch_size, workers, device=device, **group.slice)
    shown = reported(batches, "evaluate", -(-len(images) // batch_size), report)
    if by_class:
        test, counts = evaluate_by_class(network, shown, device, run, len(class_names), group)
    else:
        test, counts = evaluate(network, shown, device, run, group), None
    seconds = max(group.gathered(time.perf_counter() - began))
    if images.readers is not None:
        images.readers.close()
    return Scores(test, class_names, seconds, counts)
