"""Trains a network on all training images, and reports its last epoch. If a part of them is held out to choose an epoch
by, that one is reported; none is ever chosen by the test images."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.config import keys_of, naming, validate
from engine.curves.metrics import MetricsLog, accuracy_curves
from engine.data import (
    Batch,
    BatchStream,
    ImageSet,
    Splits,
    class_weights,
    evaluation_batches,
    statistics_batches,
)
from engine.data.augmentation import augmented
from engine.device import autocast, memory_format, on_device, prepare_device, seed_draws
from engine.distributed import ALONE, Group, reduce_gradients
from engine.errors import CheckpointError, ConfigError, Interrupted, InvalidError, UserError
from engine.evaluation import ClassCounts, Evaluation, accuracy, evaluate_by_class
from engine.files import as_path, read_json, write_atomically
from engine.interrupts import interrupts_between_steps
from engine.progress import Progress
from engine.runs.checkpoints import FORMAT, Checkpoints, misfit
from engine.runs.folder import open_run
from engine.runs.inputs import Inputs, of_file, of_images, recorded
from engine.runs.lock import locked
from engine.runs.states import check_module, check_optimizer, check_tensor
from engine.seeding import mix
from engine.training import Throughput, check_finite
from retrain.config import RetrainConfig, RetrainSettings
from retrain.data import images_for, images_of_any_classes, own_files
from retrain.evaluation import BN_BATCHES
from retrain.passes import Passes, check_passes
from retrain.recipe import (
    Averaged,
    Loss,
    Mixing,
    augmentation_for,
    bounded,
    gradient_norm,
    likeliest,
    lr_at,
    optimizer_of,
    scaled_lr,
)
from retrain.report import CURVES, log_begin, log_end, log_evaluation, log_images, predicted_latency, result_of
from retrain.source import record_source
from retrain.standing import Standing, parts_of
from retrain.start import FindPublished, Trained, begin_with, checksum, design_of_start, find_trained, none_published
from retrain.state import Best, PlainContent, ScalerRecord, set_statistics, statistics_of
from retrain.teacher import Teacher, open_teacher
from retrain.weights import (
    SPACE_KEYS,
    architecture_of,
    in_words,
    layers_of,
    load_network,
    read_checkpoint,
    refuse_other_network,
)
from supernet.design import Design
from supernet.design_file import read_design
from supernet.network import Network

log = logging.getLogger("retrain")

# The uses of random numbers. Each is mixed into the run's seed, so that no two uses share their draws.
WEIGHTS, DROPOUT, TRAINING_ORDER, MIXING, HELD_OUT = range(5)

_FIRST_KEYS = ("epochs", "batch_size", "lr", "momentum", "weight_decay", "label_smoothing", "inherit")
"""Keys of the section `retrain` that every version has. The others are left out of config.yaml if they have their
defaults, so that runs of earlier versions can be resumed."""


@dataclass(frozen=True)
class RetrainResult:
    """The trained network and its accuracy."""

    architecture: Design
    network: nn.Module
    """The network that is the result, on the run's device: with averaged weights if they are averaged, of the epoch
    that is best on the images held out if there are any, otherwise with the weights of the last step."""
    test: Evaluation
    """Its result on the test set. Nothing was selected on it."""


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
            architecture = _recorded_design(out, allow_modules) if begun else design_of_start(trained)
        if settings.start is None:
            images = images_for(architecture, config.data)
        else:
            images = images_of_any_classes(architecture, config.data)
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
        job = _Retrain(config, architecture, images, device, out, resume, group, predicted_ms, shown, trained, teacher)
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


def _recorded_design(out: Path, allow_modules: Collection[str]) -> Design:
    """Returns the architecture in the newest checkpoint of a run."""
    content, where = read_checkpoint(out)
    try:
        return read_design(content["architecture"], allow_modules=allow_modules)
    except (KeyError, ValueError) as error:
        raise CheckpointError(where, "does not say which network it is of", remedy="give --architecture") from error


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
        "training images": of_images(images.train),
        "test images": of_images(images.test),
        **({} if images.validation is None else {"validation images": of_images(images.validation)}),
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


def resolved_training(config: RetrainConfig, architecture: Design) -> dict[str, Any]:
    """Returns the content of a run's config.yaml. The architecture is part of it, so that a resume with another one is
    refused."""
    settings = config.retrain
    values = config.model_dump(mode="json", exclude_none=True)
    new = settings.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    values["retrain"] = {key: value for key, value in values["retrain"].items() if key in _FIRST_KEYS or key in new}
    values["retrain"] |= {"lr": settings.resolved_lr, "weight_decay": settings.resolved_weight_decay}
    return values | {"architecture": json.loads(architecture.to_json())}


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
        trained: Trained | None,
        teacher: Teacher | None,
    ):
        self.shown = shown and group.first
        self.config, self.architecture, self.images, self.device, self.out = config, architecture, images, device, out
        self.group, self.predicted_ms = group, predicted_ms
        self.classes = architecture.classes
        settings, run = config.retrain, config.run
        self.augment = augmentation_for(architecture.complexity.macs, settings.augment)
        train, self.held_out = parts_of(images, settings, mix(run.seed, HELD_OUT))
        self.standing = Standing(images.test, self.held_out)
        try:
            train = augmented(train, self.augment.of(settings.epochs))
        except InvalidError as error:
            raise ConfigError.of(error, "retrain.augment") from None
        weights = None
        if config.data.balance == "weights":
            weights = torch.from_numpy(class_weights(train.labels, self.classes)).to(device)
        self.checkpoints = Checkpoints(out / "checkpoints")
        newest = group.from_first(self.checkpoints.resume) if resume else None
        network = Network(architecture, seed=mix(run.seed, WEIGHTS))
        if newest is None:
            if settings.inherit is not None:
                network = load_network(settings.inherit, architecture).network
            elif trained is not None:
                begin_with(trained, network, images.class_names, "retrain.start")
        self.network = network.to(device=device, memory_format=memory_format(run))  # type: ignore[call-overload]
        self.parameters = list(self.network.parameters())
        self.optimizer = optimizer_of(self.network, settings, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=run.amp == "fp16")
        self.averaged = None if settings.ema is None else Averaged(self.network, settings.ema, settings.batch_size)
        self.mixing = Mixing(self.augment, self.classes)
        self.step = 0
        self.saved: int | None = None
        """The step of the last checkpoint of this process."""
        corrupt = self._restored(*newest) if newest else ()
        self.stream = BatchStream(
            train,
            batch_size=settings.batch_size,
            seed=mix(run.seed, TRAINING_ORDER),
            workers=config.data.workers,
            start=self.step,
            balanced=config.data.balance == "sampling",
            device=device,
            layout=memory_format(run),
            **group.slice,
            key="retrain.batch_size",
        )
        if newest:
            log.info("%s: resuming at step %d of %d", out, self.step, settings.epochs * self.stream.batches_per_epoch)
            with self._fitting(newest[0]):
                self.stream.corrupt = frozenset(corrupt)
        elif resume:
            log.info("%s: no checkpoint yet, so training begins again at its first step", out)
        group.broadcast(self.parameters)
        self.passes = Passes(
            network,
            Loss(settings, teacher, weights),
            settings,
            partial(autocast, run, device),
            reduce_gradients(self.parameters, group),
            self.scaler.scale,
            group,
        )
        self.steps = settings.epochs * self.stream.batches_per_epoch
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

    def run(self) -> RetrainResult:
        """Trains to the last step, or until a signal stops it, and closes the stream and the log."""
        settings, run, group = self.config.retrain, self.config.run, self.group
        throughput = Throughput()
        try:
            with (
                Progress(self.steps, self.step, "retrain", shown=self.shown) as progress,
                interrupts_between_steps(group) as signal_to_stop,
            ):
                self.network.train()
                while self.step < self.steps:
                    lr = lr_at(settings, self.step, self.steps)
                    for parameters in self.optimizer.param_groups:
                        parameters["lr"] = lr
                    # dropout draws from the global generator; each process has other images
                    seed_draws(mix(run.seed, DROPOUT, self.step, group.rank), self.device)
                    loss, logits, batch, norm = self._train(next(self.stream))
                    throughput.add(len(batch.labels) * group.world_size)
                    self.step += 1
                    if self.averaged:
                        self.averaged.update(self.step)
                    if self.step == 1 or self.step % run.log_every == 0 or self.step == self.steps:
                        figures = torch.stack([loss, *accuracy(logits, likeliest(batch.labels))])
                        scalars = accuracy_curves("train", group.mean_of(figures).tolist(), self.classes)
                        speed = throughput.per_second()
                        norm = gradient_norm(self.parameters) if norm is None else norm
                        scalars |= {"lr/weights": lr, "gradient/norm": float(norm), "speed/images_per_second": speed}
                        check_finite(scalars["train/loss"], self.step)
                        if self.metrics:
                            self.metrics.scalars(self.step, scalars)
                        shown = {"loss": scalars["train/loss"], "top1": scalars["train/top1"], "images/s": speed}
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
        self.scaler.unscale_(self.optimizer)
        norm = bounded(self.parameters, settings.clip)
        self.scaler.step(self.optimizer)  # a step whose gradients are not finite is left out, and the scale is halved
        self.scaler.update()
        return loss, logits, batch, norm

    def _in_words(self) -> str:
        """Returns what the settings come to for this batch and network."""
        settings = self.config.retrain
        words = [f"{settings.optimizer}, learning rate {scaled_lr(settings):.4g} for batches of {settings.batch_size}"]
        if self.averaged:
            words.append(f"weights averaged with decay {self.averaged.decay:.6g}")
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
        final, images = self._final_network(), self.standing.images
        scores, counts = self._scores(final, images)
        raw = None if final is self.network else self._scores(self.network, images)[0]
        self.standing.add(self.step, final, scores, counts, raw)
        if self.metrics:
            self.metrics.scalars(self.step, self.standing.curves(self.classes))
            log_evaluation(self.metrics, self.step, counts, self.images.class_names)

    def _final_network(self) -> nn.Module:
        """Returns the network that is the result if the training ends now: the averaged one, if there is one."""
        return self.averaged.network if self.averaged else self.network

    def _result(self) -> RetrainResult:
        """Writes and returns the result, after the last step."""
        network, found, best = self._final_network(), self.standing.evaluated, self.standing.best
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

    def _networks(self) -> list[nn.Module]:
        """Returns all networks that have BN statistics of this process's batches."""
        return [self.network, *([self.averaged.network] if self.averaged else [])]

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
        networks = self._networks()
        own = self.group.gathered(statistics_of(networks)) if interrupted and not self.group.alone else []
        for network in networks:
            self.group.average_statistics(network)
        if not self.group.first:
            return
        if self.step > 0:  # flushed first, so that no point up to the checkpoint can be missing after a resume
            assert self.metrics is not None
            self.metrics.flush()
        state = {"net": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}
        if self.scaler.is_enabled():
            state["scaler"] = self.scaler.state_dict()
        if self.averaged:
            state["ema"] = self.averaged.network.state_dict()
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
            evaluated = checkpoint.get(self.standing.part)
            rest = {"step": state["step"], "corrupt": checkpoint["corrupt"], "test": evaluated}
            rest |= {key: checkpoint.get(key) for key in ("best", "highest")}
            plain = validate(PlainContent, rest, "the checkpoint")
            if plain.step != step:
                raise InvalidError("", f"its name says step {step}, its state is of step {plain.step}")
            check_module(net, self.network)
            check_optimizer(optimizer, self.optimizer, scheduled=True)
            if self.averaged:
                check_module(state["ema"], self.averaged.network)
            if plain.best is not None:
                check_module(state["best"], self.network)
            networks = self._networks()
            own = statistics_of(networks)
            for rank, values in enumerate(each):
                check_tensor(f"process {rank}'s BN statistics", values, own.shape, own.dtype)
            self.network.load_state_dict(net)
            self.optimizer.load_state_dict(optimizer)
            if self.scaler.is_enabled():
                scaler = validate(ScalerRecord, state["scaler"], "the checkpoint")
                self.scaler.load_state_dict(scaler.model_dump(by_alias=True))
            if self.averaged:
                self.averaged.network.load_state_dict(state["ema"])
            if plain.best is not None:
                self.standing.best = Best(plain.best.step, plain.best.top1, state["best"])
            if len(each) == self.group.world_size > 1:
                set_statistics(networks, each[self.group.rank])
        self.step = step
        self.standing.restore(plain)
        return plain.corrupt

    def _scores(self, network: nn.Module, images: ImageSet) -> tuple[Evaluation, ClassCounts]:
        """Evaluates a network. Each process runs its slices, all with the same BN statistics."""
        self.group.average_statistics(network)
        settings, workers = self.config.retrain, self.config.data.workers
        batches = evaluation_batches(images, settings.batch_size, workers, device=self.device, **self.group.slice)
        return evaluate_by_class(network, batches, self.device, self.config.run, self.classes, self.group)
