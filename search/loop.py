"""Runs a search: the warm-up, then weights and architecture steps in turn (Fig. 2), checkpoints, curves, derivation.

In the warm-up, the weights are trained on balanced paths (supernet/balance.py). After it, alpha draws the paths, except
with regression, which keeps balanced paths throughout.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from engine.config import keys_of, naming, validate
from engine.curves.metrics import MetricsLog, accuracy_curves
from engine.data import BatchStream, class_weights
from engine.device import autocast, on_device, prepare_device
from engine.distributed import ALONE, Group, reduce_gradients
from engine.errors import CheckpointError, Interrupted, UserError
from engine.evaluation import Evaluation, accuracy
from engine.files import as_path, write_atomically
from engine.interrupts import interrupts_between_steps
from engine.progress import Progress, Report, Stages, silent
from engine.quantities import quantity
from engine.runs.checkpoints import FORMAT, Checkpoints, misfit
from engine.runs.folder import open_run, refuse_begun, refuse_changes, run_begun
from engine.runs.lock import locked
from engine.seeding import generator, mix
from engine.training import Throughput, check_finite
from latency.table import LatencyTable
from search.check import announce, data_checks, resolved_checks
from search.compilation import compile_supernet
from search.config import SearchConfig
from search.curves import architecture_scalars, curves_of, log_alpha, log_begin, log_end, log_evaluation
from search.derive.derivation import derive
from search.derive.measured import derive_measured
from search.derive.outcome import MeasuredDerivation
from search.given import ConfigLike, GivenSearch, given_search
from search.judge import Judge, Judgement, unreliable
from search.learn.collapse import (
    CollapseAlarm,
    Settled,
    mean_norms,
    skip_rates,
    undecided,
)
from search.learn.gradient import weights_step
from search.learn.objective import expected_cost
from search.learn.regression import Evidence, preferences
from search.limits.limit import Limit
from search.limits.resolve import resolve
from search.opening import keep_tables
from search.own import own_files
from search.plan import Plan
from search.program import UnfinishedError
from search.result import ResultFile, load_result, result_of, write_architecture
from search.scoring import image_inputs, open_parts, score
from search.state import (
    DROPOUT,
    TRAINING_ORDER,
    VALIDATION_ORDER,
    WARMUP_PATHS,
    WEIGHTS_PATHS,
    Progressed,
    SearchState,
    check_supernet,
    in_words,
)
from search.update import ArchitectureUpdate
from supernet.architecture import Architecture
from supernet.balance import balanced_paths, training_slots

log = logging.getLogger("search")


@dataclass(frozen=True)
class SearchResult:
    """The result of a search that has ended."""

    architecture: Architecture
    measured: MeasuredDerivation
    """The derivation, with an outcome for each limit."""
    accuracy: Evaluation
    """The accuracy of the derived network with the supernet's weights, on the validation part."""
    judged: Judgement | None = None
    """The derived network among random ones of equal cost; None where there are none."""

    @property
    def limits(self) -> tuple[Limit, ...]:
        """All limits of the search, the one on peak activation last."""
        return self.measured.limits


def run_search(
    config: ConfigLike,
    out: Path | str,
    *,
    resume: bool = False,
    overrides: Sequence[str] = (),
    tables: Mapping[Path | str, LatencyTable] | None = None,
    group: Group = ALONE,
) -> SearchResult:
    """Runs a search. Writes config.yaml, metrics.jsonl, an event file, checkpoints/, architecture.json and result.json
    into `out`.

    config: the path of a YAML file, its content as a dictionary, or a SearchConfig. tables: latency tables as objects,
    by the path at which a limit names them; in a dictionary, a limit's `table` may be such an object itself. `out` gets
    copies of them. The processes of `group` share every batch; the first one writes. Raises UserError (ConfigError,
    TableError, CheckpointError, ...) for anything wrong that the user can mend.
    """
    out = as_path(out, "out")
    given = given_search(config, overrides, tables, out)
    with naming(given.source, keys_of(SearchConfig)):
        return _run_search(given, out, resume, group)


def _run_search(given: GivenSearch, out: Path, resume: bool, group: Group) -> SearchResult:
    resolved = resolve(given.config, given.source, given.overrides, given.tables)
    config, space = resolved.config, resolved.space
    group.share_of(config.search.batch_size, "search.batch_size", config.search.resolved_paths_per_step)
    device = prepare_device(config.run, group)
    group = group.on(device)
    group.check_same(resolved.record, "the resolved config")
    with group.in_turn() if config.data.download else nullcontext():
        training, validation = open_parts(config)
    labels = [zlib.crc32(part.labels.tobytes()) for part in (training, validation)]
    group.check_same([len(training), len(validation), *labels], "the images of data.root")

    def check() -> None:
        refuse_begun(out, resume=resume)  # before a network is timed; begin() asks again, once the folder is locked
        with Stages() as stages:
            checks = resolved_checks(resolved, out, stages)
        announce(checks + data_checks(config, len(training), len(validation)), given.source)

    group.from_first(check)
    plan = Plan(config, space, resolved.limits, device, training, validation)

    def begin() -> None:
        inputs = image_inputs(training, validation)
        open_run(out, resolved.record, inputs | {"own files": own_files(config)}, resume=resume)
        given.save_tables()
        keep_tables(resolved.additive, out)

    with locked(out) if group.first else nullcontext():
        group.from_first(begin)
        return Search(plan, out, resume, group).run()


def finish_search(config: ConfigLike, out: Path, *, overrides: Sequence[str] = ()) -> ResultFile:
    """Returns the result of the search in `out`, which is begun, continued or left as it is, whichever the folder calls
    for.

    Raises the errors of run_search, and ConfigError if the folder holds another search.
    """
    result = load_result(out)
    if result is None:
        run_search(config, out, resume=run_begun(out), overrides=overrides)
        result = load_result(out)
        assert result is not None  # the search has ended
        return result
    given = given_search(config, overrides, folder=out)
    with naming(given.source, keys_of(SearchConfig)):
        refuse_changes(out, resolve(given.config, given.source, given.overrides, given.tables).record)
    return result


class Search:
    """The work of one process on a search. Opens data streams and files, which `close` closes again."""

    def __init__(self, plan: Plan, out: Path, resume: bool, group: Group):
        self.plan, self.out, self.group, self.began = plan, out, group, time.monotonic()
        config = plan.config
        self.state = SearchState.fresh(config, plan.space, plan.device)
        self.checkpoints = Checkpoints(out / "checkpoints")
        self.saved: int | None = None
        """The step of the last checkpoint of this process."""
        newest = group.from_first(self.checkpoints.resume) if resume else None
        if newest:
            before = self._restored(*newest)
            self.began -= before.seconds
        self.resumed_at = self.state.step
        if resume:
            log.info("%s: resuming at step %d of %d", out, self.state.step, plan.steps)
        group.broadcast(self.state.net.parameters())
        if config.search.compile and not self._ended:
            compile_supernet(self.state.net, plan, group)
        self.reduction = reduce_gradients(list(self.state.net.parameters()), group)
        stream = partial(
            BatchStream, batch_size=config.search.batch_size, workers=config.data.workers,
            device=plan.device, key="search.batch_size", **group.slice,
        )  # fmt: skip
        seed = config.run.seed
        # Only the training images are augmented: alpha learns on images as an evaluation uses them.
        balance = config.data.balance
        self.training = stream(
            plan.training, seed=mix(seed, TRAINING_ORDER), start=self.state.step, balanced=balance == "sampling"
        )
        weights = class_weights(plan.training.labels, plan.space.config.classes) if balance == "weights" else None
        self.class_weights = None if weights is None else torch.from_numpy(weights).to(plan.device)
        self.validation = stream(
            plan.validation, seed=mix(seed, VALIDATION_ORDER), start=self.state.arch_steps, augment=False
        )
        if newest:
            with self._fitting(newest[0]):
                self.training.corrupt, self.validation.corrupt = before.corrupt.training, before.corrupt.validation
        self.autocast = partial(autocast, config.run, plan.device)
        self.slots = training_slots(plan.space)
        self.update = ArchitectureUpdate(plan, group)
        self.judge = Judge(plan, self.autocast, group)
        self.alarm = CollapseAlarm(config.search.resolved_loss.strength_key, plan.alpha_draws, self.state.warned)
        self.throughput = Throughput()
        # last: if anything above is refused, the folder stays one without a run
        curves = curves_of(plan.space, plan.limits)
        # the points after the final steps are one step further, so that a resume before these drops them
        resume_step = self.state.step + (self.state.final_steps > 0) if newest else None
        self.metrics = MetricsLog(out, resume_step=resume_step, curves=curves) if group.first else None
        if self.metrics and not newest:
            log_begin(self.metrics, plan, out)

    def run(self) -> SearchResult:
        """Searches from the current step to the end and returns the result. Raises Interrupted, after a checkpoint, if
        a signal stops it."""
        plan, state, group = self.plan, self.state, self.group
        try:
            with (
                Progress(
                    plan.steps,
                    state.step,
                    "search",
                    shown=group.first,
                    phases=(("warm-up", plan.warmup_steps), ("search", plan.steps)),
                ) as progress,
                interrupts_between_steps(group) as told_to_stop,
            ):
                if state.step == 0:
                    self._evaluate(0, progress.between_steps)
                while not self._ended:
                    self.step(progress)
                    if signal := told_to_stop():
                        self.save()
                        raise Interrupted(signal, f"step {state.step} of {plan.steps} is saved")
                self._final_steps(progress.between_steps, told_to_stop)
            if state.step < plan.steps and group.first:
                log.info("probabilities have settled: the search ends at step %d of %d", state.step, plan.steps)
            with Stages(shown=group.first) as report:
                return self._finish(report)
        finally:
            self.close()

    def _judge_supernet(self, report: Report) -> None:
        """Logs at the end of the warm-up how reliably the supernet ranks random networks: with a warning if it ranks
        them by chance, since a search with it has nothing to go by."""
        step = self.state.step
        reliability = self.judge.reliability(self.state.net, report)
        if reliability is None:
            return
        if self.metrics:
            self.metrics.scalars(step, {"judge/reliability": reliability.tau})
        if reliability.chance:
            log.warning("step %d: %s", step, unreliable(reliability))
        else:
            log.info("step %d: the supernet ranks random networks with a reliability of %.2f", step, reliability.tau)

    def _final_steps(self, report: Report, told_to_stop: Callable[[], int | None]) -> None:
        """Makes the architecture steps after the last weights step, with evidence that begins empty.

        A checkpoint is saved only when all are done; if they are interrupted, a resume repeats them with the same
        result. The curves get one more point, for the alpha that the search ends with, one step after the last.
        """
        plan, state = self.plan, self.state
        if state.final_steps >= plan.final_steps:
            return
        state.evidence = Evidence.none(*state.alpha.mask.shape)
        for done in range(plan.final_steps):
            report("comparing whole networks", done, plan.final_steps)
            batch = on_device(next(self.validation), plan.device, plan.config.run)
            self.update.step(state, batch, final=True)
            if signal := told_to_stop():
                raise Interrupted(signal, f"step {state.step} of {plan.steps} is saved")
        state.final_steps = plan.final_steps
        if self.metrics:
            self.metrics.scalars(state.step + 1, architecture_scalars(state, plan.additive) | self._collapse_figures())
        self._evaluate(state.step + 1, report)
        self.saved = None  # that step is saved again, with the alpha that the search ends with
        self.save()

    def step(self, progress: Progress) -> None:
        """Makes a weights step and, if they are due after it, an architecture step, a point of the curves, an
        evaluation and a checkpoint."""
        plan, state, run, group = self.plan, self.state, self.plan.config.run, self.group
        step, seed = state.step, run.seed
        # dropout is the one op that draws from torch's global generator; each process has other images
        torch.manual_seed(mix(seed, DROPOUT, step, group.rank))
        for parameters in state.optimizer.param_groups:
            parameters["lr"] = plan.lr(step)
        batch = on_device(next(self.training), plan.device, run)
        if step == plan.warmup_steps:
            self.update.project(state)
        networks = [self._weights_paths(step * plan.networks + i) for i in range(plan.networks)]
        loss, logits = weights_step(
            state.net, batch, networks, state.optimizer, plan.config.search.label_smoothing, self.autocast,
            self.reduction, self.class_weights,
        )  # fmt: skip
        self.throughput.add(len(batch.labels) * group.world_size)
        figures = self._architecture_step() if plan.architecture_step_follows(step) else {}
        state.step += 1
        self._observe()
        if step == 0 or state.step % run.log_every == 0 or self._ended:
            group.check_same(state.alpha.values.tolist(), f"alpha at step {state.step}")
            means = group.mean_of(torch.stack([loss, *accuracy(logits, batch.labels)]))
            scalars = accuracy_curves("train", means.tolist(), plan.space.config.classes)
            scalars |= {"lr/weights": plan.lr(step), "lr/arch": plan.arch_lr(step)}
            scalars |= {"speed/images_per_second": self.throughput.per_second()}
            scalars |= figures | architecture_scalars(state, plan.additive) | self._collapse_figures()
            check_finite(scalars["train/loss"], state.step)
            if self.metrics:
                self.metrics.scalars(state.step, scalars)
            progress.update(state.step, **self._headline(scalars))
        self._epoch_end(loss, progress.between_steps)

    def close(self) -> None:
        """Closes the streams of images and the curves."""
        self.training.close()
        self.validation.close()
        if self.metrics:
            self.metrics.close()

    def _weights_paths(self, number: int) -> tuple[int, ...]:
        """Returns the paths of network `number`, counted over all weights steps: balanced in the warm-up (and with
        regression throughout), else drawn from alpha."""
        plan, seed = self.plan, self.plan.config.run.seed
        if number < plan.warmup_steps * plan.networks or not plan.alpha_draws:
            block, position = divmod(number, self.slots.shape[1])
            return balanced_paths(self.slots, generator(seed, WARMUP_PATHS, block), position)
        return self.state.alpha.sample_paths(generator(seed, WEIGHTS_PATHS, number))

    @property
    def _ended(self) -> bool:
        """Whether the weights steps are over: all are done, or the early stop ends them."""
        state, rule = self.state, self.plan.config.search.stop_when_settled
        if state.step >= self.plan.steps or rule is None or state.settled is None:
            return state.step >= self.plan.steps
        return state.step - state.settled.since >= rule.epochs * self.plan.steps_per_epoch

    def _observe(self) -> None:
        """Updates the state of the early stop with alpha's probabilities, once an epoch after the warm-up."""
        plan, state, rule = self.plan, self.state, self.plan.config.search.stop_when_settled
        if rule is None or state.step < plan.warmup_steps or state.step % plan.steps_per_epoch:
            return
        p = state.alpha.probabilities()
        state.settled = (state.settled or Settled.at(p, state.step)).observe(p, state.step, rule.change)

    def _collapse_figures(self) -> dict[str, float]:
        """Returns the curves that show a collapse of the search: the share of skip, alpha's entropy, and the balance of
        its gradients. Logs each new alarm that they raise (CollapseAlarm)."""
        plan, state = self.plan, self.state
        p = state.alpha.probabilities()
        skip, share = skip_rates(p, plan.space), state.alpha.relative_entropy()
        ce, limits = mean_norms(state.gradients)
        state.gradients.clear()
        values = {f"skip/{stage}": rate for stage, rate in skip.items()} | {"arch/relative_entropy": share}
        if ce > 0 and limits > 0:
            values["arch/ce_over_limits"] = ce / limits
        if state.step > plan.warmup_steps:
            off = [(limit.kind, float(expected_cost(p, limit.cost)) / limit.bound - 1) for limit in plan.additive]
            missed = max((abs(c) if kind == "at" else c for kind, c in off), default=0.0)
            for text in self.alarm.new_warnings(skip, share, ce, limits, missed, plan.progress(state.step)):
                log.warning("step %d: %s", state.step, text)
        return values

    def _epoch_end(self, loss: torch.Tensor, report: Report) -> None:
        """Judges the supernet at the end of the warm-up, evaluates, and saves a checkpoint, each if it is due. A
        checkpoint follows every evaluation."""
        plan, step = self.plan, self.state.step
        if step == plan.warmup_steps:  # before the save, so that a resume does not log it twice
            self._judge_supernet(report)
        evaluated = step % (plan.config.run.evaluate_every * plan.steps_per_epoch) == 0 or self._ended
        if evaluated:
            self._evaluate(step, report)
        if evaluated or step % plan.config.run.checkpoint_every == 0:
            check_finite(float(self.group.mean_of(loss)), step)  # a ruined one would replace a good one
            self.save()

    def save(self) -> None:
        """Saves a checkpoint of the step just done, unless this process has saved one already."""
        if self.saved == self.state.step:
            return
        for stream in (self.training, self.validation):  # exchanged: the unreadable files that any process has met
            stream.corrupt = frozenset().union(*self.group.gathered(stream.corrupt))
        if self.metrics:
            self.save_checkpoint(self.metrics)
        self.saved = self.state.step

    def save_checkpoint(self, metrics: MetricsLog) -> None:
        """Writes the curves so far, then the checkpoint. Only process 0 calls this."""
        metrics.flush()  # first, so that no point up to the checkpoint can be missing after a resume
        corrupt = {"training": sorted(self.training.corrupt), "validation": sorted(self.validation.corrupt)}
        space = self.plan.space
        kept = {
            "format": FORMAT,
            "network": in_words(space),
            "space": space.config.model_dump(mode="json"),
            "search": self.state.to_checkpoint(),
            "corrupt": corrupt,
            "seconds": time.monotonic() - self.began,
        }
        self.checkpoints.save(self.state.step, kept)

    @contextmanager
    def _fitting(self, step: int) -> Iterator[None]:
        """Raises any error inside as a CheckpointError that begins with the folder and step of the checkpoint."""
        try:
            yield
        except (UserError, ValueError) as error:
            raise CheckpointError(f"{self.checkpoints.folder}, step {step}", misfit(error)) from error

    def _restored(self, step: int, checkpoint: dict[str, Any]) -> Progressed:
        """Restores the state from the checkpoint of this step and returns the rest of its content. Raises
        CheckpointError if it does not fit."""
        check_supernet(checkpoint, self.plan.space, f"{self.checkpoints.folder}, step {step}")
        with self._fitting(step):
            self.state.restore(checkpoint.get("search"))
            if self.state.step != step:
                raise ValueError(f"its name says step {step}, its state is of step {self.state.step}")
            if step > self.plan.steps:
                raise ValueError(f"this search has {self.plan.steps} steps")
            rest: dict[str, Any] = {key: checkpoint[key] for key in ("seconds", "corrupt") if key in checkpoint}
            return validate(Progressed, rest, "the checkpoint")

    def _architecture_step(self) -> dict[str, float]:
        """Updates alpha once on a validation batch, and returns figures for the curves by their tags."""
        batch = on_device(next(self.validation), self.plan.device, self.plan.config.run)
        self.throughput.add(len(batch.labels) * self.group.world_size)
        update = self.update.step(self.state, batch)
        if update.norms:
            self.state.gradients.append(update.norms)
        return update.figures

    def _headline(self, scalars: dict[str, float]) -> dict[str, float | str]:
        """Returns the few figures that the progress line shows."""
        phase = "warm-up" if self.state.step <= self.plan.warmup_steps else "search"
        shown: dict[str, float | str] = {"phase": phase, "loss": scalars["train/loss"], "top1": scalars["train/top1"]}
        for limit in self.plan.additive[:1]:
            expected = quantity(scalars[f"expected/{limit.name}"], limit.unit)
            shown[limit.name] = f"{expected} of {quantity(limit.bound, limit.unit)}"
        return shown

    def _evaluate(self, step: int, report: Report) -> None:
        """Derives a network from the present alpha, scores it and writes its curves. The supernet and the streams of
        images stay as they are."""
        plan = self.plan
        paths = self.group.from_first(lambda: self._derived_now(report))
        if paths is None:
            if self.metrics:
                log_alpha(self.metrics, step, self.state, plan)
        else:
            architecture = Architecture(plan.space, paths)
            evaluation = self.score(architecture, report, "evaluating")
            if self.metrics:
                log_evaluation(self.metrics, step, self.state, plan, architecture, evaluation)
        self.throughput = Throughput()  # training speed, without the time that this took

    def _derived_now(self, report: Report) -> tuple[int, ...] | None:
        """Returns the network that would be derived now; None, with a warning, if the solver finds none in its time.
        Only process 0 calls this."""
        plan, state = self.plan, self.state
        report("deriving", 0, 0)
        try:
            wanted = preferences(state.alpha, state.evidence, plan.config.search.derive)
            derivation = derive(wanted, plan.additive, plan.config.search.derive)
        except UnfinishedError as error:
            log.warning("step %d: %s", state.step, error)
            return None
        if not derivation.proven:
            log.warning("step %d: %s", state.step, "; ".join(derivation.notes))
        return derivation.paths

    def score(self, architecture: Architecture, report: Report = silent, what: str = "scoring") -> Evaluation:
        """Returns the accuracy of an architecture with the supernet's weights, on the validation part. report: called
        with `what` is being done."""
        plan = self.plan
        return score(
            self.state.net, architecture, plan.config, plan.training, plan.validation, plan.device, self.group,
            report=report, what=what,
        )  # fmt: skip

    def _finish(self, report: Report) -> SearchResult:
        """Derives the network, times it if the table's device is this one, scores and judges it, and writes
        architecture.json and result.json."""
        plan, state, s = self.plan, self.state, self.plan.config.search

        @cache  # a corrected bound meets some of the same networks again
        def loss(paths: tuple[int, ...]) -> float:  # called by process 0 alone
            architecture = Architecture(plan.space, paths)
            return score(state.net, architecture, plan.config, plan.training, plan.validation, plan.device).loss

        wanted = preferences(state.alpha, state.evidence, s.derive)
        measured = self.group.from_first(
            lambda: derive_measured(wanted, plan.space, plan.limits, s.derive, s.derive_among, loss, report=report)
        )
        still_undecided = undecided(state.alpha, plan.config.search)
        judged = self.judge.judgement(state.net, state.alpha, measured.derivation.paths, report)
        notes = (*filter(None, [still_undecided]), *(judged.notes if judged else ()), *measured.derivation.notes)
        for note in notes:
            log.warning(note)
        architecture = Architecture(plan.space, measured.derivation.paths, self.out.name)
        scored = self.score(architecture, report, "scoring the derived network")
        if self.group.first:
            self._write(architecture, measured, scored, judged, (*state.warned.values(), *notes))
        return SearchResult(architecture, measured, scored, judged)

    def _write(
        self,
        architecture: Architecture,
        measured: MeasuredDerivation,
        scored: Evaluation,
        judged: Judgement | None,
        notes: Sequence[str],
    ) -> None:
        """Writes architecture.json, the last point of the curves and, last of all, result.json. Only process 0 calls
        this."""
        plan, state = self.plan, self.state
        write_architecture(self.out / "architecture.json", architecture, plan.limits)
        figures = result_of(
            architecture, state.alpha, measured, scored, judged, notes=notes,
            seed=plan.config.run.seed, steps=state.step, seconds=time.monotonic() - self.began,
            resumed_at=self.resumed_at,
        )  # fmt: skip
        if self.metrics:
            log_end(self.metrics, state.step, architecture, plan.additive, figures)
            self.metrics.flush()
        # last: if this file exists, the search has ended
        write_atomically(self.out / "result.json", figures.model_dump_json(indent=2) + "\n")
