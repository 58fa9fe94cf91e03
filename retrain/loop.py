"""Training a derived network from scratch on all training images; the last epoch is what counts."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.checkpoints import Checkpoints, misfit
from engine.config import keys_of, load_config, naming, validate
from engine.data import Batch, BatchStream, Splits, evaluation_batches
from engine.distributed import ALONE, Group, reduce_gradients
from engine.errors import CheckpointError
from engine.files import write_atomically
from engine.interrupts import interrupts_between_steps
from engine.metrics import MetricsLog, accuracy_curves
from engine.progress import Progress
from engine.runs import open_run
from engine.seeding import mix
from engine.training import (
    Evaluation,
    Throughput,
    accuracy,
    autocast,
    check_finite,
    cosine_lr,
    evaluate,
    memory_format,
    on_device,
    prepare_device,
    split_decay,
    training_step,
)
from retrain.config import RetrainFile
from retrain.data import images_for
from retrain.report import CURVES, log_begin, log_end, predicted_latency
from retrain.weights import SPACE_KEYS, load_architecture, load_weights
from supernet.architecture import Architecture
from supernet.network import Network

WEIGHTS, DROPOUT, TRAINING_ORDER = range(3)  # what a random draw is for, beside the run's seed


@dataclass(frozen=True)
class RetrainResult:
    architecture: Architecture
    network: nn.Module
    test: Evaluation
    """After the last epoch, on the test set. Nothing was selected on it."""


def run_retrain(
    config_path: Path,
    architecture_path: Path,
    out: Path,
    *,
    resume: bool = False,
    overrides: Sequence[str] = (),
    group: Group = ALONE,
) -> RetrainResult:
    """Train an architecture as a YAML file says; write config.yaml, curves, checkpoints/, result.json.

    The processes of `group` share every batch; the first one writes. Raises UserError where something the user can
    mend is wrong.
    """
    config = validate(RetrainFile, load_config(config_path, overrides), str(config_path))
    architecture = load_architecture(architecture_path)
    with naming(config_path, keys_of(RetrainFile)), naming(architecture_path, SPACE_KEYS):
        predicted_ms = predicted_latency(architecture_path.read_text(encoding="utf-8"))
        return retrain(config, architecture, out, resume=resume, group=group, predicted_ms=predicted_ms)


def retrain(
    config: RetrainFile,
    architecture: Architecture,
    out: Path,
    *,
    resume: bool = False,
    group: Group = ALONE,
    predicted_ms: float | None = None,
) -> RetrainResult:
    """As run_retrain, from objects. predicted_ms: the network's latency by its search's table, shown in TensorBoard."""
    group.share_of(config.retrain.batch_size, "retrain.batch_size")
    device = prepare_device(config.run, group)
    group = group.on(device)
    with group.in_turn() if config.data.download else nullcontext():
        images = images_for(architecture, config.data)
    resolved = resolved_training(config, architecture)
    group.check_same(resolved, "the config")
    group.check_same([len(images.train), zlib.crc32(images.train.labels.tobytes())], "the images of data.root")
    group.from_first(lambda: open_run(out, resolved, resume=resume))
    return _Retrain(config, architecture, images, device, out, resume, group, predicted_ms).run()


def resolved_training(config: RetrainFile, architecture: Architecture) -> dict[str, Any]:
    """What config.yaml of a run holds: with the architecture, so that a resume with another one is refused."""
    return config.model_dump(mode="json", exclude_none=True) | {"architecture": json.loads(architecture.to_json())}


class _Retrain:
    """One process's work on a run: opens what has to be closed again."""

    def __init__(
        self,
        config: RetrainFile,
        architecture: Architecture,
        images: Splits,
        device: torch.device,
        out: Path,
        resume: bool,
        group: Group,
        predicted_ms: float | None,
    ):
        self.config, self.architecture, self.images, self.device, self.out = config, architecture, images, device, out
        self.group, self.predicted_ms = group, predicted_ms
        self.classes = architecture.space.config.classes
        settings, run = config.retrain, config.run
        network = Network(architecture, seed=mix(run.seed, WEIGHTS))
        if settings.inherit is not None:
            network, _ = load_weights(architecture, settings.inherit)
        self.network = network.to(device=device, memory_format=memory_format(run))  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(
            split_decay(self.network, settings.weight_decay),
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.momentum > 0,
        )
        self.step = 0
        self.checkpoints = Checkpoints(out / "checkpoints")
        newest = group.from_first(self.checkpoints.newest) if resume else None
        corrupt = self._restore(newest[1]) if newest else []
        self.stream = BatchStream(
            images.train,
            batch_size=settings.batch_size,
            seed=mix(run.seed, TRAINING_ORDER),
            workers=config.data.workers,
            start=self.step,
            pin_memory=device.type == "cuda",
            **group.slice,
            key="retrain.batch_size",
        )
        self.stream.corrupt = corrupt
        group.broadcast(self.network.parameters())
        self.reduction = reduce_gradients(list(self.network.parameters()), group)
        self.steps = settings.epochs * self.stream.batches_per_epoch
        self.autocast = partial(autocast, run, device)
        # last: where anything above is refused, the folder stays one without a run
        resume_step = self.step if newest else None
        self.metrics = MetricsLog(out, resume_step=resume_step, curves=CURVES) if group.first else None
        if self.metrics and not newest:
            log_begin(self.metrics, config, architecture, out)

    def run(self) -> RetrainResult:
        settings, run, group = self.config.retrain, self.config.run, self.group
        throughput = Throughput()
        base_lr = settings.lr * settings.batch_size / 256
        test: Evaluation | None = None
        try:
            with (
                Progress(self.steps, self.step, "retrain", shown=group.first) as progress,
                interrupts_between_steps() as check_interrupt,
            ):
                self.network.train()
                while self.step < self.steps:
                    lr = cosine_lr(base_lr, self.step, self.steps)
                    for parameters in self.optimizer.param_groups:
                        parameters["lr"] = lr
                    # dropout draws from the global generator; each process has other images
                    torch.manual_seed(mix(run.seed, DROPOUT, self.step, group.rank))
                    loss, logits, batch = self._train(next(self.stream))
                    throughput.add(len(batch.labels) * group.world_size)
                    self.step += 1
                    if self.step == 1 or self.step % run.log_every == 0 or self.step == self.steps:
                        means = group.mean_of(torch.stack([loss, *accuracy(logits, batch.labels)]))
                        scalars = accuracy_curves("train", means.tolist(), self.classes)
                        scalars |= {"lr/weights": lr, "speed/images_per_second": throughput.per_second()}
                        check_finite(scalars["train/loss"], self.step)
                        if self.metrics:
                            self.metrics.scalars(self.step, scalars)
                        progress.update(self.step, loss=scalars["train/loss"], top1=scalars["train/top1"])
                    test = self._epoch_end(loss) or test
                    check_interrupt()
            final = test or self._test()  # a finished run that is resumed has no step left to do
            if self.metrics:
                log_end(self.metrics, self.step, self.architecture, final, self.predicted_ms)
                self.metrics.flush()
        finally:
            self.stream.close()
            if self.metrics:
                self.metrics.close()
        if group.first:
            record = {"architecture": self.architecture.name, "epochs": settings.epochs, "test": asdict(final)}
            write_atomically(self.out / "result.json", json.dumps(record, indent=2) + "\n")
        return RetrainResult(self.architecture, self.network, final)

    def _train(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, Batch]:
        """One step: (loss, logits, batch on the device), the first two detached."""
        batch = on_device(batch, self.device, self.config.run)
        smoothing = self.config.retrain.label_smoothing
        found = training_step(self.network, batch, self.optimizer, smoothing, self.autocast, self.reduction)
        return *found, batch

    def _epoch_end(self, loss: torch.Tensor) -> Evaluation | None:
        """Evaluation and checkpoint, where they are due after the step just done."""
        run, test = self.config.run, None
        if self.step % (run.evaluate_every * self.stream.batches_per_epoch) == 0 or self.step == self.steps:
            test = self._test()
            if self.metrics:
                figures = accuracy_curves("test", (test.loss, test.top1, test.top5), self.classes)
                self.metrics.scalars(self.step, figures)
        if self.step % run.checkpoint_every == 0 or self.step == self.steps:
            mean = float(self.group.mean_of(loss))
            check_finite(mean, self.step)  # a ruined state must not push the last good ones out
            # what one process has met, all know from now on: unreadable files, and BN's statistics of its batches
            self.stream.corrupt = frozenset().union(*self.group.gathered(self.stream.corrupt))
            self.group.average_statistics(self.network)
            if self.metrics:
                self.metrics.flush()  # first, so that no point up to the checkpoint can be missing after a resume
                state = {"net": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}
                self.checkpoints.save(self.step, {"retrain": state, "corrupt": sorted(self.stream.corrupt)})
        return test

    def _restore(self, checkpoint: dict[str, Any]) -> list[int]:
        """Take over a checkpoint's state; returns the unreadable files that it knew."""
        try:
            state = checkpoint["retrain"]
            self.network.load_state_dict(state["net"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]
            return list(checkpoint["corrupt"])
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise CheckpointError(f"{self.out}: its checkpoint does not fit this config: {misfit(error)}") from error

    def _test(self) -> Evaluation:
        """Each process runs its slices, all with the same BN statistics."""
        self.group.average_statistics(self.network)
        batches: Iterator[Batch] = evaluation_batches(
            self.images.test, self.config.retrain.batch_size, self.config.data.workers, **self.group.slice
        )
        return evaluate(self.network, batches, self.device, self.config.run, self.group)
