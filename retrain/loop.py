"""Trains a derived network from scratch on all training images. The last epoch is reported, not the best one."""

from __future__ import annotations

import json
import logging
import math
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import nn

from engine.config import Section, keys_of, naming, validate
from engine.curves.metrics import MetricsLog, accuracy_curves
from engine.data import Batch, BatchStream, Splits, class_weights, evaluation_batches
from engine.device import autocast, memory_format, on_device, prepare_device
from engine.distributed import ALONE, Group, reduce_gradients
from engine.errors import CheckpointError, Interrupted, InvalidError, UserError
from engine.evaluation import Evaluation, accuracy, evaluate
from engine.files import as_path, read_json, write_atomically
from engine.interrupts import interrupts_between_steps
from engine.progress import Progress
from engine.runs.checkpoints import FORMAT, Checkpoints, misfit
from engine.runs.folder import open_run
from engine.runs.inputs import Inputs, of_file, of_images, recorded
from engine.runs.lock import locked
from engine.runs.states import check_module, check_optimizer, check_tensor
from engine.seeding import mix
from engine.training import Throughput, check_finite, cosine_lr, split_decay, training_step
from retrain.config import RetrainConfig
from retrain.data import images_for, own_files
from retrain.report import CURVES, log_begin, log_end, predicted_latency
from retrain.weights import SPACE_KEYS, architecture_of, in_words, layers_of, load_network, refuse_other_network
from supernet.design import Design
from supernet.network import Network

log = logging.getLogger("retrain")

# The uses of random numbers. Each is mixed into the run's seed, so that no two uses share their draws.
WEIGHTS, DROPOUT, TRAINING_ORDER = range(3)


@dataclass(frozen=True)
class RetrainResult:
    """The trained network and its accuracy."""

    architecture: Design
    network: nn.Module
    """The network with the weights of the last step, on the run's device."""
    test: Evaluation
    """The result on the test set after the last epoch. Nothing was selected on it."""


def run_retrain(
    config: RetrainConfig | str | Path | Mapping[str, Any],
    architecture: Design | str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    overrides: Sequence[str] = (),
    allow_modules: Collection[str] = (),
    group: Group = ALONE,
) -> RetrainResult:
    """Trains an architecture and writes config.yaml, curves, checkpoints/ and result.json into the folder `out`.

    config: a YAML file, or its content as dictionaries or a model; `overrides` (key.sub=value) change it. architecture:
    an architecture, or the path of an architecture.json, whose predicted latency is then shown in TensorBoard.
    allow_modules: the modules that the architecture's file may import, see `Architecture.from_json`. The processes of
    `group` share every batch; the first one writes. Raises UserError for anything wrong that the user can mend.
    """
    settings = RetrainConfig.read(config, overrides)
    network, path = architecture_of(architecture, allow_modules)
    with naming(config, keys_of(RetrainConfig)), naming(path, SPACE_KEYS):
        predicted_ms = None if path is None else predicted_latency(read_json(path, "an architecture.json"))
        return retrain(settings, network, as_path(out, "out"), resume=resume, group=group, predicted_ms=predicted_ms)


def retrain(
    config: RetrainConfig,
    architecture: Design,
    out: Path,
    *,
    resume: bool = False,
    group: Group = ALONE,
    predicted_ms: float | None = None,
    shown: bool = True,
) -> RetrainResult:
    """Does the same as `run_retrain`, from objects alone.

    predicted_ms: the network's latency by its search's table, shown in TensorBoard; None if it is not known. shown:
    whether progress is printed.
    """
    group.share_of(config.retrain.batch_size, "retrain.batch_size")
    device = prepare_device(config.run, group)
    group = group.on(device)
    with group.in_turn() if config.data.download else nullcontext():
        images = images_for(architecture, config.data)
    resolved = resolved_training(config, architecture)
    group.check_same(resolved, "the config")
    group.check_same([len(images.train), zlib.crc32(images.train.labels.tobytes())], "the images of data.root")
    with locked(out) if group.first else nullcontext():
        group.from_first(lambda: open_run(out, resolved, inputs_of(config, architecture, images, out), resume=resume))
        return _Retrain(config, architecture, images, device, out, resume, group, predicted_ms, shown).run()


def inputs_of(config: RetrainConfig, architecture: Design, images: Splits, out: Path) -> Inputs:
    """Returns what a retraining depends on beside its config: images, classes, own files and inherited weights."""
    inputs: Inputs = {
        "training images": of_images(images.train),
        "test images": of_images(images.test),
        "classes": {"names": list(images.class_names)},
        "own files": own_files(architecture, config.data),
    }
    if config.retrain.inherit is not None:
        # once a checkpoint exists, it has the weights: the file is no longer needed, and its record stays
        begun = Checkpoints(out / "checkpoints").steps()
        known = (recorded(out) or {}).get("inherited weights") if begun else None
        inputs["inherited weights"] = known or {"content": of_file(config.retrain.inherit, "retrain.inherit")}
    return inputs


def resolved_training(config: RetrainConfig, architecture: Design) -> dict[str, Any]:
    """Returns the content of a run's config.yaml. The architecture is part of it, so that a resume with another one is
    refused."""
    return config.model_dump(mode="json", exclude_none=True) | {"architecture": json.loads(architecture.to_json())}


class _Retrain:
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
    ):
        self.shown = shown and group.first
        self.config, self.architecture, self.images, self.device, self.out = config, architecture, images, device, out
        self.group, self.predicted_ms = group, predicted_ms
        self.classes = architecture.classes
        settings, run = config.retrain, config.run
        self.checkpoints = Checkpoints(out / "checkpoints")
        newest = group.from_first(self.checkpoints.resume) if resume else None
        network = Network(architecture, seed=mix(run.seed, WEIGHTS))
        if settings.inherit is not None and newest is None:
            network = load_network(settings.inherit, architecture).network
        self.network = network.to(device=device, memory_format=memory_format(run))  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(
            split_decay(self.network, settings.weight_decay),
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.momentum > 0,
        )
        self.step = 0
        self.saved: int | None = None
        """The step of the last checkpoint of this process."""
        self.test: _Test | None = None
        """The last evaluation; None before the first one."""
        corrupt = self._restored(*newest) if newest else ()
        self.stream = BatchStream(
            images.train,
            batch_size=settings.batch_size,
            seed=mix(run.seed, TRAINING_ORDER),
            workers=config.data.workers,
            start=self.step,
            balanced=config.data.balance == "sampling",
            pin_memory=device.type == "cuda",
            **group.slice,
            key="retrain.batch_size",
        )
        weights = class_weights(images.train.labels, self.classes) if config.data.balance == "weights" else None
        self.class_weights = None if weights is None else torch.from_numpy(weights).to(device)
        if newest:
            log.info("%s: resuming at step %d of %d", out, self.step, settings.epochs * self.stream.batches_per_epoch)
            with self._fitting(newest[0]):
                self.stream.corrupt = frozenset(corrupt)
        elif resume:
            log.info("%s: no checkpoint yet, so training begins again at its first step", out)
        group.broadcast(self.network.parameters())
        self.reduction = reduce_gradients(list(self.network.parameters()), group)
        self.steps = settings.epochs * self.stream.batches_per_epoch
        if self.step > self.steps:
            raise CheckpointError(self._place(self.step), f"this training has {self.steps} steps")
        self.autocast = partial(autocast, run, device)
        # Opened last: if anything above is refused, the folder stays one without a run
        resume_step = self.step if newest else None
        self.metrics = MetricsLog(out, resume_step=resume_step, curves=CURVES) if group.first else None
        if self.metrics and not newest:
            log_begin(self.metrics, config, architecture, out)

    def run(self) -> RetrainResult:
        """Trains to the last step, or until a signal stops it, and closes the stream and the log."""
        settings, run, group = self.config.retrain, self.config.run, self.group
        throughput = Throughput()
        base_lr = settings.lr * settings.batch_size / 256
        try:
            with (
                Progress(self.steps, self.step, "retrain", shown=self.shown) as progress,
                interrupts_between_steps(group) as signal_to_stop,
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
                    self._epoch_end(loss)
                    if signal := signal_to_stop():
                        self._save(interrupted=True)
                        raise Interrupted(signal, f"step {self.step} of {self.steps} is saved")
            # a finished run that is resumed has no step left
            final = self.test.scores if self.test and self.test.step == self.steps else self._test()
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
        """Does one step. Returns its loss () and logits (N, classes), both detached, and the batch on the device."""
        batch = on_device(batch, self.device, self.config.run)
        smoothing = self.config.retrain.label_smoothing
        loss, logits = training_step(
            self.network, batch, self.optimizer, smoothing, self.autocast, self.reduction, self.class_weights
        )
        return loss, logits, batch

    def _epoch_end(self, loss: torch.Tensor) -> None:
        """Evaluates and saves a checkpoint, if they are due after the step just done; an evaluation is always saved."""
        run = self.config.run
        evaluated = self.step % (run.evaluate_every * self.stream.batches_per_epoch) == 0 or self.step == self.steps
        if evaluated:
            test = self._test()
            self.test = _Test(self.step, test)
            if self.metrics:
                figures = accuracy_curves("test", (test.loss, test.top1, test.top5), self.classes)
                self.metrics.scalars(self.step, figures)
        if evaluated or self.step % run.checkpoint_every == 0:
            check_finite(float(self.group.mean_of(loss)), self.step)  # a ruined one would replace a good one
            self._save()

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
        own = self.group.gathered(_statistics(self.network)) if interrupted and not self.group.alone else []
        self.group.average_statistics(self.network)
        if not self.metrics:
            return
        self.metrics.flush()  # flushed first, so that no point up to the checkpoint can be missing after a resume
        state = {"net": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}
        kept = {
            "format": FORMAT,
            "network": in_words(self.architecture),
            **layers_of(self.architecture),
            "architecture": self.architecture.to_json(),
            "classes": list(self.images.class_names),
            "preprocessing": self.images.train.preprocessing.record(),
            "epoch": self.step / self.stream.batches_per_epoch,
            "test": self.test.record() if self.test else None,
            "retrain": state | ({"statistics": own} if own else {}),
            "corrupt": sorted(self.stream.corrupt),
        }
        self.checkpoints.save(self.step, kept)

    def _place(self, step: int) -> str:
        """Returns the place of a step's checkpoint, for errors."""
        return f"{self.checkpoints.folder}, step {step}"

    @contextmanager
    def _fitting(self, step: int) -> Iterator[None]:
        """Turns any error about the content of this step's checkpoint into a CheckpointError that names its place."""
        try:
            yield
        except KeyError as error:
            raise CheckpointError(self._place(step), f"has no {error}") from error
        except (UserError, RuntimeError, ValueError, TypeError) as error:
            raise CheckpointError(self._place(step), f"does not fit this config: {misfit(error)}") from error

    def _restored(self, step: int, checkpoint: dict[str, Any]) -> tuple[int, ...]:
        """Restores the state from the checkpoint of this step and returns the indices of the training
        images whose files cannot be read. Raises CheckpointError if it does not fit."""
        refuse_other_network(checkpoint, self.architecture, self._place(step))
        with self._fitting(step):
            state = checkpoint["retrain"]
            net, optimizer, each = state["net"], state["optimizer"], state.get("statistics", [])
            rest = {"step": state["step"], "corrupt": checkpoint["corrupt"], "test": checkpoint.get("test")}
            plain = validate(_PlainContent, rest, "the checkpoint")
            if plain.step != step:
                raise InvalidError("", f"its name says step {step}, its state is of step {plain.step}")
            check_module(net, self.network)
            check_optimizer(optimizer, self.optimizer, scheduled=True)
            own = _statistics(self.network)
            for rank, values in enumerate(each):
                check_tensor(f"process {rank}'s BN statistics", values, own.shape, own.dtype)
            self.network.load_state_dict(net)
            self.optimizer.load_state_dict(optimizer)
            if len(each) == self.group.world_size > 1:
                _set_statistics(self.network, each[self.group.rank])
        self.step = step
        self.test = _Test.of_record(plain.test) if plain.test else None
        return plain.corrupt

    def _test(self) -> Evaluation:
        """Evaluates the network on the test set. Each process runs its slices, all with the same BN statistics."""
        self.group.average_statistics(self.network)
        batches: Iterator[Batch] = evaluation_batches(
            self.images.test, self.config.retrain.batch_size, self.config.data.workers, **self.group.slice
        )
        return evaluate(self.network, batches, self.device, self.config.run, self.group)


class _TestRecord(Section):
    """The last evaluation, in a checkpoint."""

    step: int = Field(ge=1)
    loss: float | None
    """The loss; None if it is not a number."""
    top1: float
    """Percent."""
    top5: float
    """Percent."""
    images: int


class _PlainContent(Section):
    """The content of a checkpoint beside tensors and the description of the network."""

    step: int = Field(ge=1)
    test: _TestRecord | None
    corrupt: tuple[int, ...]


@dataclass(frozen=True)
class _Test:
    """An evaluation on the test set, and the step after which it was made."""

    step: int
    scores: Evaluation

    def record(self) -> dict[str, Any]:
        """Returns plain values for a checkpoint."""
        loss = self.scores.loss if math.isfinite(self.scores.loss) else None
        return {"step": self.step, **asdict(self.scores), "loss": loss}

    @classmethod
    def of_record(cls, record: _TestRecord) -> _Test:
        loss = math.nan if record.loss is None else record.loss
        return cls(record.step, Evaluation(loss, record.top1, record.top5, record.images))


def _buffers(network: nn.Module) -> list[torch.Tensor]:
    """Returns BN's running means and variances; its other buffers count batches and are the same in all processes."""
    return [buffer for buffer in network.buffers() if buffer.is_floating_point()]


def _statistics(network: nn.Module) -> torch.Tensor:
    """Returns BN's running statistics on the CPU, (numbers,)."""
    return torch.cat([torch.zeros(0), *(buffer.flatten().cpu() for buffer in _buffers(network))])


def _set_statistics(network: nn.Module, values: torch.Tensor) -> None:
    """Copies BN's running statistics (numbers,), as `_statistics` returns them, into the network."""
    buffers = _buffers(network)
    for buffer, part in zip(buffers, values.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(part.view_as(buffer))
