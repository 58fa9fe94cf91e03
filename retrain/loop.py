"""Trains a network: the steps, and what comes between them."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.curves.metrics import MetricsLog, accuracy_curves
from engine.data import Batch, BatchStream, ImageSet, Splits, class_weights, evaluation_batches
from engine.data.augmentation import augmented
from engine.device import autocast, memory_format, on_device, seed_draws
from engine.distributed import Group, reduce_gradients
from engine.errors import CheckpointError, ConfigError, Interrupted, InvalidError
from engine.evaluation import ClassCounts, Evaluation, accuracy, evaluate_by_class
from engine.files import write_atomically
from engine.interrupts import interrupts_between_steps
from engine.progress import Progress
from engine.runs.checkpoints import FORMAT, Checkpoints
from engine.seeding import mix
from engine.training import Throughput, check_finite
from retrain.checkpoint import Learned, fitting
from retrain.config import RetrainConfig
from retrain.passes import Passes
from retrain.recipe import (
    Averaged,
    Loss,
    Mixing,
    augmentation_for,
    bounded,
    gradient_norm,
    hurry_statistics,
    likeliest,
    lr_at,
    optimizer_of,
    scaled_lr,
)
from retrain.report import CURVES, log_begin, log_end, log_evaluation, log_images, result_of
from retrain.standing import Standing, parts_of
from retrain.start import Trained, begin_with
from retrain.state import statistics_of
from retrain.teacher import Teacher
from retrain.weights import in_words, layers_of, load_network, refuse_other_network
from supernet.design import Design
from supernet.network import Network

log = logging.getLogger("retrain")

# The uses of random numbers. Each is mixed into the run's seed, so that no two uses share their draws.
WEIGHTS, DROPOUT, TRAINING_ORDER, MIXING, HELD_OUT = range(5)


@dataclass(frozen=True)
class RetrainResult:
    """The trained network and its accuracy."""

    architecture: Design
    network: nn.Module
    """The network that is the result, on the run's device: with averaged weights if they are averaged, of the epoch
    that is best on the images held out if there are any, otherwise with the weights of the last step."""
    test: Evaluation
    """Its result on the test set. Nothing was selected on it."""


class Training:
    """One process's part of a training: the network, its optimizer, the stream of batches and the log."""

    def __init__(
        self,
        config: RetrainConfig,
        architecture: Design,
        images: Splits,
        device: torch.device,
        out: Path,
        resume: bool,
        group: Group,
        predicted_ms: float | None,
        shown: bool,
        trained: Trained | None,
        teacher: Teacher | None,
    ):
        self.shown = shown and group.first
        self.config, self.architecture, self.images, self.device, self.out = config, architecture, images, device, out
        self.group, self.predicted_ms = group, predicted_ms
        self.classes = architecture.classes
        settings, run = config.retrain, config.run
        self.augment = augmentation_for(architecture.complexity.macs, settings.augment)
        train, self.held_out = self._training_images()
        self.standing = Standing(images.test, self.held_out)
        weights = self._class_weights(train)
        self.checkpoints = Checkpoints(out / "checkpoints")
        newest = group.from_first(self.checkpoints.resume) if resume else None
        network = self._fresh_network() if newest else self._network_to_begin_with(trained)
        self.learned = self._learned(network)
        self.mixing = Mixing(self.augment, self.classes)
        self.step = 0
        self.saved: int | None = None
        """The step of the last checkpoint of this process."""
        corrupt = self._restored(*newest) if newest else ()
        self.stream = self._stream(train)
        self.steps = settings.epochs * self.stream.batches_per_epoch
        if newest:
            log.info("%s: resuming at step %d of %d", out, self.step, self.steps)
            with fitting(self._place(newest[0])):
                self.stream.corrupt = frozenset(corrupt)
        elif resume:
            log.info("%s: no checkpoint yet, so training begins again at its first step", out)
        hurry_statistics(self.learned.network, self.steps * settings.accumulate)
        self.parameters = list(self.learned.network.parameters())
        group.broadcast(self.parameters)
        self.passes = Passes(
            self.learned.network,
            Loss(settings, teacher, weights),
            settings,
            partial(autocast, run, device),
            reduce_gradients(self.parameters, group),
            self.learned.scaler.scale,
            group,
        )
        if self.step > self.steps:
            raise CheckpointError(self._place(self.step), f"this training has {self.steps} steps")
        if not newest:
            log.info("%s", self._in_words())
        if not newest and (settings.inherit is not None or trained is not None):
            self._save()  # from now on, the weights that it begins with are not needed any more
        # Opened last: if anything above is refused, the folder stays one without a run
        begun = self.step > 0  # a start that was killed after it had saved the first weights has written no curves
        self.metrics = MetricsLog(out, resume_step=self.step if begun else None, curves=CURVES) if group.first else None
        if self.metrics and not begun:
            log_begin(self.metrics, config, architecture, out)

    def _training_images(self) -> tuple[ImageSet, ImageSet | None]:
        """Returns the images to train on, augmented, and those to choose an epoch by, None if there are none."""
        settings = self.config.retrain
        train, held_out = parts_of(self.images, settings, mix(self.config.run.seed, HELD_OUT))
        try:
            return augmented(train, self.augment.of(settings.epochs)), held_out
        except InvalidError as error:
            raise ConfigError.of(error, "retrain.augment") from None

    def _class_weights(self, train: ImageSet) -> torch.Tensor | None:
        """Returns the weight (classes,) of each class in the loss, None if all weigh the same."""
        if self.config.data.balance != "weights":
            return None
        return torch.from_numpy(class_weights(train.labels, self.classes)).to(self.device)

    def _fresh_network(self) -> Network:
        """Returns the network with the first weights of a training from scratch."""
        return Network(self.architecture, seed=mix(self.config.run.seed, WEIGHTS))

    def _network_to_begin_with(self, trained: Trained | None) -> Network:
        """Returns the network before the first step: with inherited weights, with those of the network that
        `retrain.start` names, or fresh."""
        inherit = self.config.retrain.inherit
        if inherit is not None:
            return load_network(inherit, self.architecture).network
        network = self._fresh_network()
        if trained is not None:
            begin_with(trained, network, self.images.class_names, "retrain.start")
        return network

    def _learned(self, network: Network) -> Learned:
        """Returns the network on its device, with the optimizer and the average of its weights."""
        settings, run, device = self.config.retrain, self.config.run, self.device
        network = network.to(device=device, memory_format=memory_format(run))  # type: ignore[call-overload]
        averaged = None if settings.ema is None else Averaged(network, settings.ema, settings.batch_size)
        scaler = torch.amp.GradScaler(device.type, enabled=run.amp == "fp16")
        return Learned(network, optimizer_of(network, settings, device), scaler, averaged)

    def _stream(self, train: ImageSet) -> BatchStream:
        """Returns the training batches from the current step on."""
        settings, data, run = self.config.retrain, self.config.data, self.config.run
        return BatchStream(
            train,
            batch_size=settings.batch_size,
            seed=mix(run.seed, TRAINING_ORDER),
            workers=data.workers,
            start=self.step,
            balanced=data.balance == "sampling",
            device=self.device,
            layout=memory_format(run),
            **self.group.slice,
            key="retrain.batch_size",
        )

    def run(self) -> RetrainResult:
        """Trains to the last step, or until a signal stops it, and closes the stream and the log."""
        settings, run, group = self.config.retrain, self.config.run, self.group
        throughput = Throughput()
        try:
            with (
                Progress(self.steps, self.step, "retrain", shown=self.shown) as progress,
                interrupts_between_steps(group) as signal_to_stop,
            ):
                self.learned.network.train()
                while self.step < self.steps:
                    lr = lr_at(settings, self.step, self.steps)
                    for parameters in self.learned.optimizer.param_groups:
                        parameters["lr"] = lr
                    # dropout draws from the global generator; each process has other images
                    seed_draws(mix(run.seed, DROPOUT, self.step, group.rank), self.device)
                    loss, logits, batch, norm = self._train(next(self.stream))
                    throughput.add(len(batch.labels) * group.world_size)
                    self.step += 1
                    if self.learned.averaged:
                        self.learned.averaged.update(self.step)
                    if self.step == 1 or self.step % run.log_every == 0 or self.step == self.steps:
                        scalars = self._scalars(loss, logits, batch, norm, lr, throughput.per_second())
                        if self.metrics:
                            self.metrics.scalars(self.step, scalars)
                        shown = {key: scalars[f"train/{key}"] for key in ("loss", "top1")}
                        shown["images/s"] = scalars["speed/images_per_second"]
                        progress.update(self.step, **shown, **self.standing.in_words())
                    if self.metrics and self._new_size():
                        log_images(self.metrics, self.step, batch.images, self.images.train.preprocessing)
                    self._epoch_end(loss)
                    if signal := signal_to_stop():
                        self._save(interrupted=True)
                        raise Interrupted(signal, f"step {self.step} of {self.steps} is saved")
            return self._result()
        finally:
            self.stream.close()
            if self.metrics:
                self.metrics.close()

    def _train(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, Batch, torch.Tensor | None]:
        """Does one step. Returns its loss () and logits (N, classes), both detached, the batch on the device as the
        network saw it, and the norm () of the gradient if it is bounded."""
        settings = self.config.retrain
        batch = on_device(batch, self.device, self.config.run)
        batch = self.mixing(batch, mix(self.config.run.seed, MIXING, self.step))
        loss, logits = self.passes(batch)
        optimizer, scaler = self.learned.optimizer, self.learned.scaler
        scaler.unscale_(optimizer)
        norm = bounded(self.parameters, settings.clip)
        scaler.step(optimizer)  # a step whose gradients are not finite is left out, and the scale is halved
        scaler.update()
        return loss, logits, batch, norm

    def _scalars(
        self,
        loss: torch.Tensor,
        logits: torch.Tensor,
        batch: Batch,
        norm: torch.Tensor | None,
        lr: float,
        images_per_second: float,
    ) -> dict[str, float]:
        """Returns the points of the curves after a step: the loss and the accuracy are means over all processes. Raises
        an error if the loss is not finite. The arguments are what `_train` returns, and the step's learning rate."""
        figures = torch.stack([loss, *accuracy(logits, likeliest(batch.labels))])
        scalars = accuracy_curves("train", self.group.mean_of(figures).tolist(), self.classes)
        norm = gradient_norm(self.parameters) if norm is None else norm
        scalars |= {"lr/weights": lr, "gradient/norm": float(norm), "speed/images_per_second": images_per_second}
        check_finite(scalars["train/loss"], self.step)
        return scalars

    def _in_words(self) -> str:
        """Returns what the settings come to for this batch and network."""
        settings = self.config.retrain
        words = [f"{settings.optimizer}, learning rate {scaled_lr(settings):.4g} for batches of {settings.batch_size}"]
        if self.learned.averaged:
            words.append(f"weights averaged with decay {self.learned.averaged.decay:.6g}")
        if self.held_out is not None:
            words.append(f"{len(self.held_out)} images held out to choose an epoch by")
        return "; ".join(words)

    def _new_size(self) -> bool:
        """Returns whether the step just done is the first one, or the first with training images of its size."""
        if self.step == 1:
            return True
        sizes = self.augment.of(self.config.retrain.epochs)
        before, now = ((self.step - k) // self.stream.batches_per_epoch for k in (2, 1))
        return sizes.size_at(before, 0) != sizes.size_at(now, 0)

    def _epoch_end(self, loss: torch.Tensor) -> None:
        """Evaluates and saves a checkpoint, if they are due after the step just done; an evaluation is always saved."""
        run = self.config.run
        due = self.step % (run.evaluate_every * self.stream.batches_per_epoch) == 0 or self.step == self.steps
        if due:
            self._evaluate()
        if due or self.step % run.checkpoint_every == 0:
            check_finite(float(self.group.mean_of(loss)), self.step)  # a ruined one would replace a good one
            self._save()

    def _evaluate(self) -> None:
        """Evaluates the network on the images held out, or on the test images if there are none, and the averaged
        network beside it; keeps the weights of the best epoch if it is chosen by the images held out."""
        final, images = self.learned.final, self.standing.images
        scores, counts = self._scores(final, images)
        raw = None if final is self.learned.network else self._scores(self.learned.network, images)[0]
        self.standing.add(self.step, final, scores, counts, raw)
        if self.metrics:
            self.metrics.scalars(self.step, self.standing.curves(self.classes))
            log_evaluation(self.metrics, self.step, counts, self.images.class_names)

    def _result(self) -> RetrainResult:
        """Writes and returns the result, after the last step."""
        network, found, best = self.learned.final, self.standing.evaluated, self.standing.best
        if best is not None:
            network.load_state_dict(best.weights)
            log.info("the result is the network of step %d, the best on the images held out", best.step)
        at_end = self.standing.at_end(self.steps)
        if at_end is not None and self.standing.counts is not None:
            test, counts = at_end, self.standing.counts
        else:  # also in a finished run that is resumed, in which no step is left
            test, counts = self._scores(network, self.images.test)
            test = at_end if at_end is not None else test
        if self.metrics:
            if best is not None:
                log_evaluation(self.metrics, self.step, counts, self.images.class_names)
            log_end(self.metrics, self.step, self.architecture, test, self.predicted_ms)
            self.metrics.flush()
        if self.group.first:
            record = {"architecture": self.architecture.name, "epochs": self.config.retrain.epochs}
            record |= result_of(test, counts, self.images.class_names)
            if found is not None and found.raw is not None:
                record[f"{self.standing.part}_not_averaged"] = asdict(found.raw)
            if best is not None:
                epoch = best.step / self.stream.batches_per_epoch
                record["chosen"] = {"step": best.step, "epoch": epoch, "validation_top1": best.top1}
            write_atomically(self.out / "result.json", json.dumps(record, indent=2) + "\n")
        return RetrainResult(self.architecture, network, test)

    def _save(self, *, interrupted: bool = False) -> None:
        """Saves a checkpoint of the step just done, unless there is one.

        interrupted: whether a run without interruption would not save this step. BN's statistics of each process are
        saved then: if all went on with their mean, as after other checkpoints, later rounding would differ.
        """
        if self.saved == self.step:
            return
        self.saved = self.step
        # exchanged among all processes: unreadable files, and BN's statistics of their batches
        self.stream.corrupt = frozenset().union(*self.group.gathered(self.stream.corrupt))
        networks = self.learned.networks
        own = self.group.gathered(statistics_of(networks)) if interrupted and not self.group.alone else []
        for network in networks:
            self.group.average_statistics(network)
        if not self.group.first:
            return
        if self.step > 0:  # flushed first, so that no point up to the checkpoint can be missing after a resume
            assert self.metrics is not None
            self.metrics.flush()
        state = self.learned.states() | {"step": self.step}
        if self.standing.best is not None:
            state["best"] = self.standing.best.weights
        kept = {
            "format": FORMAT,
            "network": in_words(self.architecture),
            **layers_of(self.architecture),
            "architecture": self.architecture.to_json(),
            "classes": list(self.images.class_names),
            "preprocessing": self.images.train.preprocessing.record(),
            "epoch": self.step / self.stream.batches_per_epoch,
            **self.standing.record(),
            "retrain": state | ({"statistics": own} if own else {}),
            "corrupt": sorted(self.stream.corrupt),
        }
        self.checkpoints.save(self.step, kept)

    def _place(self, step: int) -> str:
        """Returns the place of a step's checkpoint, for errors."""
        return f"{self.checkpoints.folder}, step {step}"

    def _restored(self, step: int, checkpoint: dict[str, Any]) -> tuple[int, ...]:
        """Restores the state from the checkpoint of this step and returns the indices of the training images whose
        files cannot be read. Raises CheckpointError if it does not fit."""
        refuse_other_network(checkpoint, self.architecture, self._place(step))
        corrupt = self.learned.restore(step, checkpoint, self.standing, self.group, self._place(step))
        self.step = step
        return corrupt

    def _scores(self, network: nn.Module, images: ImageSet) -> tuple[Evaluation, ClassCounts]:
        """Evaluates a network. Each process runs its slices, all with the same BN statistics."""
        self.group.average_statistics(network)
        settings, workers = self.config.retrain, self.config.data.workers
        batches = evaluation_batches(images, settings.batch_size, workers, device=self.device, **self.group.slice)
        return evaluate_by_class(network, batches, self.device, self.config.run, self.classes, self.group)
