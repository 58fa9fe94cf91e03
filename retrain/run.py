"""Runs a retraining in its folder, from the settings, the network, the images and the weights to begin with.

A network is trained on all training images, and its last epoch is reported. If a part of them is held out to choose an
epoch by, that one is reported; none is ever chosen by the test images.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from engine.config import keys_of, naming
from engine.data import Splits, statistics_batches
from engine.device import prepare_device
from engine.distributed import ALONE, Group
from engine.errors import ConfigError
from engine.files import as_path, read_json
from engine.runs.checkpoints import Checkpoints
from engine.runs.folder import open_run
from engine.runs.lock import locked
from retrain.config import RetrainConfig, RetrainSettings
from retrain.data import images_to_train_on
from retrain.evaluation import BN_BATCHES
from retrain.inputs import inputs_of, recorded_design, resolved_training
from retrain.loop import RetrainResult, Training
from retrain.passes import check_passes
from retrain.report import predicted_latency
from retrain.source import record_source
from retrain.start import FindPublished, design_of_start, find_trained, none_published
from retrain.teacher import open_teacher
from retrain.weights import SPACE_KEYS, architecture_of
from supernet.design import Design


def run_retrain(
    config: RetrainConfig | str | Path | Mapping[str, Any],
    architecture: Design | str | Path | None,
    out: str | Path,
    *,
    resume: bool = False,
    overrides: Sequence[str] = (),
    allow_modules: Collection[str] = (),
    group: Group = ALONE,
    published: FindPublished = none_published,
) -> RetrainResult:
    """Trains an architecture and writes config.yaml, curves, checkpoints/, result.json and source.json into `out`.

    config: a YAML file, or its content as dictionaries or a model; `overrides` (key.sub=value) change it. architecture:
    an architecture, or the path of an architecture.json, whose predicted latency is then shown in TensorBoard; None
    takes that of the network in `retrain.start`. allow_modules: the modules that the architecture's file, or the
    checkpoint that the training starts from, may import, see `Architecture.from_json`. The processes of `group` share
    every batch; the first one writes. published: finds the published networks that `retrain.start` and
    `retrain.teacher` may name. Raises UserError for anything wrong that the user can mend.
    """
    settings = RetrainConfig.read(config, overrides)
    network, path = (None, None) if architecture is None else architecture_of(architecture, allow_modules)
    with naming(config, keys_of(RetrainConfig)), naming(path, SPACE_KEYS):
        content = {} if path is None else read_json(path, "an architecture.json")
        out = as_path(out, "out")
        result = retrain(
            settings, network, out, resume=resume, group=group, predicted_ms=predicted_latency(content),
            allow_modules=allow_modules, published=published,
        )  # fmt: skip
    if path is not None and group.first:
        record_source(out, path, content)
    return result


def retrain(
    config: RetrainConfig,
    architecture: Design | None,
    out: Path,
    *,
    resume: bool = False,
    group: Group = ALONE,
    predicted_ms: float | None = None,
    shown: bool = True,
    allow_modules: Collection[str] = (),
    published: FindPublished = none_published,
) -> RetrainResult:
    """Does the same as `run_retrain`, from objects alone.

    predicted_ms: the network's latency by its search's table, shown in TensorBoard; None if it is not known. shown:
    whether progress is printed.
    """
    settings = config.retrain
    _check_parts(settings, group)
    check_passes(settings, config.run, group)
    device = prepare_device(config.run, group)
    group = group.on(device)
    begun = group.from_first(lambda: bool(resume and Checkpoints(out / "checkpoints").steps()))
    fetches = config.data.download or settings.start is not None or settings.teacher is not None
    with group.in_turn() if fetches else nullcontext():  # the first process downloads what is not here yet
        trained = None
        if settings.start is not None and not begun:  # once a checkpoint exists, it has the weights
            trained = find_trained(settings.start, "retrain.start", architecture, allow_modules, published)
        if architecture is None:
            architecture = recorded_design(out, allow_modules) if begun else design_of_start(trained)
        images = images_to_train_on(architecture, config)
        if settings.start is not None:
            architecture = architecture.with_classes(len(images.class_names))
        teacher = None
        if settings.teacher is not None:
            teacher = open_teacher(
                settings.teacher.network, architecture, images.class_names, images.train.preprocessing, device,
                config.run, allow_modules, published, _statistics_of(images, settings.batch_size, config.data.workers),
            )  # fmt: skip
    resolved = resolved_training(config, architecture)
    group.check_same(resolved, "the config")
    group.check_same([len(images.train), zlib.crc32(images.train.labels.tobytes())], "the images of data.root")
    with locked(out) if group.first else nullcontext():
        group.from_first(
            lambda: open_run(
                out, resolved, inputs_of(config, architecture, images, out, trained, teacher), resume=resume
            )
        )
        job = Training(config, architecture, images, device, out, resume, group, predicted_ms, shown, trained, teacher)
        return job.run()


def _statistics_of(images: Splits, batch_size: int, workers: int | None) -> Iterator[torch.Tensor]:
    """Yields training images (N, C, H, W), not augmented, and ends the processes that read them."""
    for batch in statistics_batches(images.train, batch_size, BN_BATCHES, workers):
        yield batch.images
    if images.train.readers is not None:
        images.train.readers.close()


def _check_parts(settings: RetrainSettings, group: Group) -> None:
    """Raises ConfigError unless the processes can share a batch, and each can divide its share into equal parts."""
    share = group.share_of(settings.batch_size, "retrain.batch_size")
    parts = settings.accumulate
    if parts > 1 and (share % parts or share < 2 * parts):
        found = f"got {parts} for the {share} images of a step that a process has"
        accepted = "a divisor that leaves 2 images or more (BN needs 2)"
        raise ConfigError("retrain.accumulate", found, accepted, "change it or retrain.batch_size")
