"""The search: warm-up, then weights and architecture steps in turn (Fig. 2), checkpoints, curves, derivation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from engine.checkpoints import Checkpoints
from engine.config import config_text, keys_of, load_config, naming, validate
from engine.data import (
    Batch,
    BatchStream,
    ImageSet,
    evaluation_batches,
    open_images,
    statistics_batches,
    stratified_split,
    subset,
)
from engine.metrics import MetricsLog
from engine.progress import Progress
from engine.runs import open_run, write_atomically
from engine.seeding import generator, mix
from engine.training import (
    Evaluation,
    Throughput,
    accuracy,
    autocast,
    check_finite,
    cosine_lr,
    evaluate,
    memory_format,
    prepare_device,
    recalibrate_bn,
)
from search.check import data_checks, judge, report
from search.closing import MeasuredDerivation, derive_measured
from search.config import Lagrangian, ReinforceConfig, SearchFile
from search.derivation import derive
from search.gradient import architecture_step, weights_step
from search.limits import Limit, resolve
from search.objective import expected_cost, movable
from search.peak import PeakLimit
from search.reinforce import reinforce_step
from search.report import architecture_scalars, limit_names, log_picture
from search.state import SearchState
from supernet import user_modules
from supernet.alpha import mask_of, probabilities, sample_paths
from supernet.architecture import Architecture
from supernet.network import Network
from supernet.space import Space

log = logging.getLogger("search")

# What a random draw is for; with (seed, step) it seeds the draw's generator.
WEIGHTS_PATHS, ARCHITECTURE_PATHS, DROPOUT, SPLIT, TRAINING_ORDER, VALIDATION_ORDER = range(6)


@dataclass(frozen=True)
class SearchResult:
    architecture: Architecture
    limits: tuple[Limit, ...]
    measured: MeasuredDerivation
    accuracy: Evaluation
    """Of the derived network with the supernet's weights, on the validation part."""
    peak: PeakLimit | None = None


@dataclass(frozen=True)
class Plan:
    """What stays the same during a search."""

    config: SearchFile
    space: Space
    limits: tuple[Limit, ...]
    device: torch.device
    training: ImageSet
    validation: ImageSet
    peak: PeakLimit | None = None

    @property
    def steps_per_epoch(self) -> int:
        return len(self.training) // self.config.search.batch_size

    @property
    def warmup_steps(self) -> int:
        return self.config.search.warmup_epochs * self.steps_per_epoch

    @property
    def steps(self) -> int:
        return self.warmup_steps + self.config.search.epochs * self.steps_per_epoch

    def lr(self, step: int) -> float:
        """Of the weights: two cosines, one for the warm-up and one for the search."""
        s = self.config.search
        if step < self.warmup_steps:
            return cosine_lr(s.warmup_lr, step, self.warmup_steps)
        return cosine_lr(s.lr, step - self.warmup_steps, self.steps - self.warmup_steps)

    def architecture_step_follows(self, step: int) -> bool:
        """Whether an architecture step comes after weights step number `step` (from 0)."""
        done = step + 1 - self.warmup_steps
        return done > 0 and done % self.config.search.arch_every == 0


def run_search(config_path: Path, out: Path, *, resume: bool = False, overrides: Sequence[str] = ()) -> SearchResult:
    """Search as a YAML file says and write config.yaml, metrics.jsonl, tensorboard/, checkpoints/, architecture.json.

    Raises UserError (ConfigError, TableError, CheckpointError, ...) where something the user can mend is wrong.
    """
    with naming(config_path, keys_of(SearchFile)):
        return _run_search(config_path, out, resume, overrides)


def _run_search(config_path: Path, out: Path, resume: bool, overrides: Sequence[str]) -> SearchResult:
    config = validate(SearchFile, load_config(config_path, overrides), str(config_path))
    resolved = resolve(config, config_path, overrides)
    config, space = resolved.config, resolved.space
    device = prepare_device(config.run)
    images = open_images(
        config.data,
        input_size=config.space.input_size,
        channels=config.space.input_channels,
        classes=config.space.classes,
        call=user_modules.call,
    ).train
    chosen, held_out = stratified_split(images.labels, config.data.validation, mix(config.run.seed, SPLIT))
    report(judge(resolved, out) + data_checks(config, len(chosen), len(held_out)), config_path)
    training, validation = subset(images, chosen), subset(images, held_out)
    plan = Plan(config, space, resolved.limits, device, training, validation, resolved.peak)
    open_run(out, resolved.record, resume=resume)
    return _Search(plan, out, resume).run()


class _Search:
    """One process's work on a run: opens what has to be closed again."""

    def __init__(self, plan: Plan, out: Path, resume: bool):
        self.plan, self.out = plan, out
        config = plan.config
        self.state = SearchState.fresh(config, plan.space, plan.device)
        self.checkpoints = Checkpoints(out / "checkpoints")
        newest = self.checkpoints.newest() if resume else None
        corrupt: dict[str, list[int]] = {"training": [], "validation": []}
        if newest:
            self.state.restore(newest[1]["search"])
            corrupt = newest[1]["corrupt"]
        stream = partial(
            BatchStream,
            batch_size=config.search.batch_size,
            workers=config.data.workers,
            key="search.batch_size",
        )
        seed = config.run.seed
        # Only the training images are augmented: alpha learns on what an evaluation would see.
        self.training = stream(plan.training, seed=mix(seed, TRAINING_ORDER), start=self.state.step)
        self.validation = stream(
            plan.validation, seed=mix(seed, VALIDATION_ORDER), start=self.state.arch_steps, augment=False
        )
        self.training.corrupt, self.validation.corrupt = corrupt["training"], corrupt["validation"]
        self.autocast = partial(autocast, config.run, plan.device)
        self.mask = mask_of(plan.space)
        self.throughput = Throughput()
        # last: where anything above is refused, the folder stays one without a run
        self.metrics = MetricsLog(out, resume_step=self.state.step if newest else None)
        if not newest:
            self.metrics.text("config", f"```yaml\n{config_text(config)}```")

    def run(self) -> SearchResult:
        plan, state, run = self.plan, self.state, self.plan.config.run
        try:
            with Progress(plan.steps, state.step, "search") as progress:
                if state.step == 0:
                    self._evaluate(0)
                while state.step < plan.steps:
                    step, seed = state.step, run.seed
                    # dropout is the one op that draws from torch's global generator
                    torch.manual_seed(mix(seed, DROPOUT, step))
                    for group in state.optimizer.param_groups:
                        group["lr"] = plan.lr(step)
                    batch = self._on_device(next(self.training))
                    paths = sample_paths(state.alpha, self.mask, generator(seed, WEIGHTS_PATHS, step))
                    loss, logits = weights_step(
                        state.net, batch.images, batch.labels, paths, state.optimizer,
                        plan.config.search.label_smoothing, self.autocast,
                    )  # fmt: skip
                    self.throughput.add(len(batch.labels))
                    figures = self._architecture_step() if plan.architecture_step_follows(step) else {}
                    state.step += 1
                    if step == 0 or state.step % run.log_every == 0 or state.step == plan.steps:
                        top1, top5 = (float(value) for value in accuracy(logits, batch.labels))
                        scalars = {"train/loss": float(loss), "train/top1": top1, "train/top5": top5}
                        scalars |= {"lr/weights": plan.lr(step), "lr/arch": self._arch_lr(step)}
                        scalars |= {"speed/images_per_second": self.throughput.per_second()}
                        scalars |= figures | architecture_scalars(state, plan.limits)
                        check_finite(scalars["train/loss"], state.step)
                        self.metrics.scalars(state.step, scalars)
                        progress.update(state.step, **self._headline(scalars))
                    self._epoch_end(loss)
            return self._finish()
        finally:
            self.training.close()
            self.validation.close()
            self.metrics.close()

    def _epoch_end(self, loss: torch.Tensor) -> None:
        """Evaluation and checkpoint, where they are due after the step just done."""
        plan, step = self.plan, self.state.step
        if step % (plan.config.run.evaluate_every * plan.steps_per_epoch) == 0 or step == plan.steps:
            self._evaluate(step)
        if step % plan.config.run.checkpoint_every == 0 or step == plan.steps:
            check_finite(float(loss), step)  # a ruined state must not push the last good ones out
            self.metrics.flush()  # first, so that no point up to the checkpoint can be missing after a resume
            corrupt = {"training": sorted(self.training.corrupt), "validation": sorted(self.validation.corrupt)}
            self.checkpoints.save(step, {"search": self.state.to_checkpoint(), "corrupt": corrupt})

    def _on_device(self, batch: Batch) -> Batch:
        run, device = self.plan.config.run, self.plan.device
        images = batch.images.to(device, memory_format=memory_format(run), non_blocking=True)
        return batch._replace(images=images, labels=batch.labels.to(device, non_blocking=True))

    def _arch_lr(self, step: int) -> float:
        return 0.0 if step < self.plan.warmup_steps else self.plan.config.search.arch_lr

    def _architecture_step(self) -> dict[str, float]:
        """One update of alpha; returns figures for the curves."""
        plan, state, s = self.plan, self.state, self.plan.config.search
        batch = self._on_device(next(self.validation))
        draws = generator(plan.config.run.seed, ARCHITECTURE_PATHS, state.arch_steps)
        state.arch_steps += 1
        self.throughput.add(len(batch.labels))
        if s.arch_update == "reinforce":
            mean_reward, state.baseline = reinforce_step(
                state.net, batch.images, batch.labels, state.alpha, self.mask, plan.limits,
                s.reinforce or ReinforceConfig(), state.baseline, state.arch_optimizer, draws, self.autocast,
            )  # fmt: skip
            return {"arch/reward": mean_reward}
        loss = s.loss or Lagrangian()
        done = architecture_step(
            state.net, batch.images, batch.labels, state.alpha, self.mask, s.arch_update, plan.limits, loss,
            state.duals, state.arch_optimizer, draws, self.autocast,
        )  # fmt: skip
        check_finite(done.ce, state.step + 1)
        state.duals = done.duals
        if isinstance(loss, Lagrangian):
            p = probabilities(state.alpha.detach(), self.mask)
            free = movable(p)
            state.duals = tuple(
                dual.step(float(expected_cost(p, limit.cost)) / limit.bound - 1, free, loss, s.arch_lr, at=limit.at)
                for dual, limit in zip(done.duals, plan.limits, strict=True)
            )
        return {"arch/ce": done.ce}

    def _headline(self, scalars: dict[str, float]) -> dict[str, float | str]:
        """The few figures that the progress line shows."""
        phase = "warm-up" if self.state.step <= self.plan.warmup_steps else "search"
        shown: dict[str, float | str] = {"phase": phase, "loss": scalars["train/loss"], "top1": scalars["train/top1"]}
        for name, limit in list(zip(limit_names(self.plan.limits), self.plan.limits, strict=True))[:1]:
            shown[name] = f"{scalars[f'expected/{name}']:.4g}/{limit.bound:.4g} {limit.unit}"
        return shown

    def _evaluate(self, step: int) -> None:
        """Curves of the network that would be derived now. Leaves no trace in the supernet or in any stream."""
        paths = derive(self.state.alpha, self.mask, self.plan.limits, self.plan.config.search.derive).paths
        score = self.score(Architecture(self.plan.space, paths))
        values = {"derived/loss": score.loss, "derived/top1": score.top1, "derived/top5": score.top5}
        for name, limit in zip(limit_names(self.plan.limits), self.plan.limits, strict=True):
            values[f"derived/{name}"] = limit.cost.of(paths)
        if self.plan.peak:
            values[f"derived/{self.plan.peak.metric}"] = self.plan.peak.of(paths)
        self.metrics.scalars(step, values)
        log_picture(self.metrics, step, self.state)
        self.throughput = Throughput()  # training speed, without the time that this took

    def score(self, architecture: Architecture) -> Evaluation:
        """Accuracy of an architecture with the supernet's weights, on the validation part."""
        plan, s = self.plan, self.plan.config.search
        network = Network.inherit(self.state.net, architecture)
        network.to(memory_format=memory_format(plan.config.run))
        batches = statistics_batches(plan.training, s.batch_size, s.bn_batches, plan.config.data.workers)
        recalibrate_bn(network, (self._on_device(batch).images for batch in batches))
        scored = evaluation_batches(plan.validation, s.batch_size, plan.config.data.workers, limit=s.evaluation_images)
        return evaluate(network, scored, plan.device, plan.config.run)

    def _finish(self) -> SearchResult:
        """Derive, measure where the table's device is this one, and write architecture.json."""
        plan, state, config = self.plan, self.state, self.plan.config
        measured = derive_measured(
            state.alpha, self.mask, plan.space, plan.limits, config.measure, config.search.derive
        )
        for note in measured.derivation.notes:
            log.warning(note)
        architecture = Architecture(plan.space, measured.derivation.paths, self.out.name)
        score = self.score(architecture)
        write_architecture(self.out / "architecture.json", architecture, plan.limits, plan.peak)
        return SearchResult(architecture, plan.limits, measured, score, plan.peak)


def write_architecture(
    path: Path, architecture: Architecture, limits: Sequence[Limit], peak: PeakLimit | None = None
) -> None:
    """Atomically; with what each limit's metric is for it."""
    predicted = [limit.predicted(architecture.paths) for limit in limits]
    if peak:
        predicted.append(peak.predicted(architecture.paths))
    write_atomically(path, architecture.to_json(predicted))
