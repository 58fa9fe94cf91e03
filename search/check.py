"""Checks before a search, in seconds and without training, every condition that would spoil it later."""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from engine.data import open_images_for, stratified_split
from engine.device import prepare_device
from engine.errors import ConfigError, IncompleteDataError, UserError, explain
from engine.progress import Report, silent
from engine.quantities import quantity, rate
from engine.runs.checkpoints import Checkpoints
from latency.measure import Timing, time_architecture
from latency.plan import middle_network
from latency.table import LatencyTable
from search.config import SearchConfig, SearchSettings
from search.derive.clock import steady, twice_noise
from search.derive.derivation import constrained
from search.derive.measured import local_latency_limits
from search.given import ConfigLike, given_search
from search.learn.gradient import softmax_jacobian
from search.learn.projection import Projector
from search.learn.reinforce import sampled, user_reward
from search.learn.terms import build_terms, terms_gradient
from search.limits.combine import members
from search.limits.limit import AdditiveLimit, TableSource
from search.limits.peak import PeakLimit, restrict
from search.limits.precision import compared
from search.limits.resolve import Resolved, resolve_limit, resolved_from
from search.limits.trust import Note, elsewhere
from search.limits.units import implied_speed, unlikely_numbers
from supernet import user_modules
from supernet.alpha import Alpha
from supernet.architecture import Architecture
from supernet.cost import Cost
from supernet.own_candidates import check_running, is_own
from supernet.space import Space

log = logging.getLogger("search")


@dataclass(frozen=True)
class Check:
    """The result of one check. FAIL: the search cannot run to its end. warn: it can, but its result is probably not
    what was meant."""

    level: Literal["ok", "warn", "FAIL"]
    what: str
    """The name of the check, such as `limits together`."""
    text: str
    """What the check has shown."""
    fix: str = ""
    """What to do about it; empty if all is well."""
    error: UserError | None = None
    """The error that a failed check has raised; None if it raised none."""

    @property
    def line(self) -> str:
        """The text and what to do, in one line."""
        return "; ".join(filter(None, [self.text, self.fix]))

    def __str__(self) -> str:
        return f"{self.level:<4} {self.what}: {self.text}" + (f"  fix: {self.fix}" if self.fix else "")


def check_search(
    config: ConfigLike,
    overrides: Sequence[str] = (),
    out: Path | None = None,
    report: Report = silent,
    *,
    tables: Mapping[Path | str, LatencyTable] | None = None,
) -> list[Check]:
    """Runs every check of a search's settings and returns the results. out: the folder for its results, whose free
    space is checked. report: called during the checks that take a while. config, tables: as in run_search.

    If a check fails, only those that need its result are left out. It raises no UserError.
    """
    try:
        given = given_search(config, overrides, tables)
    except UserError as error:
        return [failed("config", error)]
    config, source = given.config, given.source
    checks = [Check("ok", "config", f"{source} is valid")]
    peak = None
    try:
        config, peak = restrict(config, source)
    except UserError as error:
        checks.append(failed("space", error))
    space = Space(config.space)
    limits: list[tuple[AdditiveLimit, list[Note]]] = []
    for i, entry in config.additive.items():
        try:
            limits.append(resolve_limit(config, space, i, source, overrides, given.tables))
        except UserError as error:
            checks.append(failed(f"limits.{i} {entry.metric}", error))
    resolved = resolved_from(config, space, limits, peak)
    checks += resolved_checks(resolved, out, report)
    return checks + _caught("data", lambda: _data(config)) + _caught("run", lambda: _run(config))


def announce(checks: Sequence[Check], source: Path | str) -> None:
    """Logs the warnings, and raises the first failure as a ConfigError whose place begins with `source`."""
    for check in checks:
        if check.level == "FAIL":
            raise _error_of(check, str(source))
        if check.level == "warn":
            log.warning(check.line)
        elif check.what == "peak":
            log.info(check.line)


def _error_of(check: Check, source: str) -> ConfigError:
    if check.error is None:
        return ConfigError(source, check.text, remedy=check.fix)
    return ConfigError.of(check.error, "" if check.error.where.startswith(source) else source)


def resolved_checks(resolved: Resolved, out: Path | None = None, report: Report = silent) -> list[Check]:
    """Returns the checks of a resolved config that need no data."""
    checks = [_space(resolved), *_unread(resolved.config.search)]
    checks += [Check("ok", "peak", str(limit)) for limit in resolved.limits if isinstance(limit, PeakLimit)]
    for limit in resolved.additive:
        checks += [_reach(limit), _gradient(resolved.space, limit)]
    if len(resolved.additive) == len(resolved.config.additive) > 0:
        checks += _caught("limits together", lambda: _together(resolved))
    checks += _caught("own candidates", lambda: _own_candidates(resolved))
    checks += _caught("own functions", lambda: _own_functions(resolved))
    checks += _tables(resolved, report)
    if out is not None:
        checks.append(_disk(resolved.space, resolved.config.search, out))
    return checks


def failed(what: str, error: UserError) -> Check:
    """Returns the failed check of an error: what is wrong, and what to do."""
    return Check("FAIL", what, error.problem, error.what_to_do, error)


def _caught(what: str, checks: Callable[[], list[Check]]) -> list[Check]:
    """Returns the results of some checks; if a UserError stops them, that one as a failed check called `what`."""
    try:
        return checks()
    except UserError as error:
        return [failed(what, error)]


def _space(resolved: Resolved) -> Check:
    """Returns the size of the space."""
    edges = resolved.space.searchable
    count = math.prod(len(edge.candidates) for edge in edges)
    return Check("ok", "space", f"{len(edges)} searchable edges, {float(count):.3g} architectures")


def _unread(s: SearchSettings) -> list[Check]:
    """Returns a warning if the search has no optimizer of alpha, and that one's settings are not the defaults.

    What else a search would not read is refused (`SearchSettings`). These cannot be, since a file that another one
    extends may set them for other modes.
    """
    defaults = SearchSettings()
    keys = [f"search.{key}" for key in ("arch_lr", "arch_betas") if getattr(s, key) != getattr(defaults, key)]
    if s.mode.follows_gradient or not keys:
        return []
    verb = "changes" if len(keys) == 1 else "change"
    text = f"{' and '.join(keys)} {verb} nothing: {s.arch_update} computes alpha anew in each step"
    return [Check("warn", "settings", text, "remove it, or choose another search.arch_update")]


def _reach(limit: AdditiveLimit) -> Check:
    """Returns what a limit asks for, and the costs that architectures reach."""
    low, high = limit.cost.reachable
    source = "; " + ", ".join(f"{s.path} has every layer" for s in limit.sources) if limit.sources else ""
    reach = f"{quantity(low, limit.unit)} to {quantity(high, limit.unit)}"
    return Check("ok", f"limit {limit.name}", f"{limit.asked}, reachable are {reach}{source}")


def cost_gradient(space: Space, cost: Cost) -> Tensor:
    """Returns dE/dalpha (E, N) of the expected cost at the start of a search, where every candidate is equally
    likely."""
    p = Alpha.of_space(space).probabilities()
    return softmax_jacobian(torch.from_numpy(cost.table), p)


def _gradient(space: Space, limit: AdditiveLimit) -> Check:
    """Checks on which edges the expected cost has a gradient in alpha: none where all candidates cost the same."""
    what = f"gradient of {limit.name}"
    # of a worst case, any member may become the worst
    each = torch.stack([cost_gradient(space, member).abs() for member in members(limit.cost)])  # (members, E, N)
    steepest = each.amax(dim=(0, 2))
    flat = [
        edge.name
        for edge, slope in zip(space.searchable, steepest.tolist(), strict=True)
        if slope <= 1e-12 * limit.cost.reachable[1]
    ]
    if not flat:
        return Check("ok", what, f"reaches all {len(steepest)} searchable edges")
    same = f"all candidates of {', '.join(flat)} cost the same, so {limit.name} does not act there"
    if len(flat) == len(steepest) and limit.sources:
        return Check("FAIL", what, same, "no edge can be steered: correct the table, or the candidates")
    return Check("warn", what, same, "correct the table if that is not meant")


def _together(resolved: Resolved) -> list[Check]:
    """Checks whether an architecture meets all limits, and whether alpha can meet them in expectation."""
    search, checks = resolved.config.search, []
    if search.derive == "constrained":  # argmax ignores limits
        derivation = constrained(Alpha.of_space(resolved.space), resolved.additive)
        remedy = "raise `tolerance`, or move a bound"
        checks += [Check("warn", "limits together", note, remedy) for note in derivation.notes]
        checks = checks or [Check("ok", "limits together", "an architecture meets all of them")]
    if search.projects and Projector(resolved.additive).loosened:
        checks.append(_loosened(resolved.additive))
    return checks


def _loosened(limits: Sequence[AdditiveLimit]) -> Check:
    """Returns the warning about limits that no path probabilities meet in expectation."""
    each = [f"{limit.name} {limit.asked}" for limit in limits]
    text = (
        f"no path probabilities give {' and '.join(each)} in expectation, so for alpha `at` counts as `below`, and not "
        "every budget is used up"
    )
    return Check("warn", "limits in expectation", text, "move a bound, or write `below` in place of an `at`")


def _own_candidates(resolved: Resolved) -> list[Check]:
    """Runs the user's own candidates once on random images, if this machine has the search's device."""
    layers, device = resolved.space.all_layers, resolved.config.run.device
    own = list(dict.fromkeys(str(layer.spec) for layer in layers if is_own(layer.spec)))
    if not own or (device == "cuda" and not torch.cuda.is_available()):
        return []  # another check reports that the device is absent
    with explain("space.candidate_modules"):
        check_running(layers, torch.device(device))
    return [Check("ok", "own candidates", f"{', '.join(own)}: run, and leave their input as it is")]


def _own_functions(resolved: Resolved) -> list[Check]:
    """Calls the user's own terms and reward once, since a mistake that shows at the first architecture step would cost
    a warm-up.

    The terms are called with equal probabilities. The reward is called with a made-up sample: the first candidate of
    every edge, logits of 0, and the accuracy of a guess.
    """
    s, space = resolved.config.search, resolved.space
    checks = []
    if s.terms:
        p = Alpha.of_space(space).probabilities()
        value, _ = terms_gradient(build_terms(None, s.terms, space), p, 0.0)
        checks.append(Check("ok", "own functions", f"search.terms add {value:.4g} at equal probabilities"))
    if s.reinforce and (reward := user_reward(s.reinforce)):
        paths = tuple(0 for _ in space.searchable)
        labels = torch.arange(s.batch_size) % space.config.classes
        logits = torch.zeros(s.batch_size, space.config.classes)
        sample = sampled(Architecture(space, paths), 1 / space.config.classes, logits, labels, resolved.additive)
        checks.append(
            Check("ok", "own functions", f"search.reinforce.reward gives {reward(sample):.4g} without training")
        )
    return checks


def _tables(resolved: Resolved, report: Report) -> list[Check]:
    """Checks the latency tables: their notes, their verification, their units, and a timing on this machine."""
    checks = [Check("warn", "table", note.text, note.what_to_do) for note in resolved.notes]
    measured = [source for limit in resolved.additive if limit.metric == "latency" for source in limit.sources]
    for source in measured:
        verified = source.table.verification
        if verified and verified.holds:
            text = (
                f"{source.path}: error {verified.table.mape_percent:.2g} % on {verified.networks} whole networks, "
                f"noise {verified.noise_mape_percent:.2g} %"
            )
            checks.append(Check("ok", "table", text))
        notes = unlikely_numbers(resolved.space, source.table, source.cost)
        checks += [Check("warn", "units", f"{source.path}: {note.text}", note.remedy) for note in notes]
        if not notes:
            speed = rate(implied_speed(resolved.space, source.table, source.cost))
            checks.append(Check("ok", "units", f"{source.path}: the largest network runs at {speed}"))
        checks += _int8(resolved.space, source, measured)
    if measured:
        checks += _caught("timing", lambda: _timing(resolved, measured, report))
    return checks


MOST_SLOWER = 3
"""The most layers that are listed as not faster in int8."""


def _int8(space: Space, source: TableSource, measured: Sequence[TableSource]) -> list[Check]:
    """Checks whether int8 is faster than float32 on the device of an int8 table, and on which layers it is not."""
    try:
        found = compared(space, source, measured)
    except UserError as error:  # the search does not need the comparison
        return [Check("warn", "int8", f"not compared with float32: {error}")]
    if found is None:
        return []
    text = f"{source.path}: a network of the middle of the range takes {found.ratio:.2f} times as long as in float32"
    if not found.slower:
        return [Check("ok", "int8", f"{text}; each of {found.layers} ops is faster in int8")]
    listed = ", ".join(map(str, found.slower[:MOST_SLOWER]))
    more = f" and {len(found.slower) - MOST_SLOWER} more" if len(found.slower) > MOST_SLOWER else ""
    text += f"; int8 is not faster for {len(found.slower)} of {found.layers} ops: {listed}{more}"
    if found.ratio >= 1:
        return [Check("warn", "int8", text, "search and deploy in float32 (measure.dtype=float32)")]
    remedy = "the search avoids them as far as their ms tell; a network without them gains more from int8"
    return [Check("warn", "int8", text, remedy)]


DECISIVE = 2.0
"""The distance that an entry of alpha must be able to move during a search, or a check warns. A step of Adam moves it
by about arch_lr. Two entries that are 2 apart have probabilities in the ratio e^2, about 7."""
OFF, FAR_OFF = 1.25, 3.0
"""Bounds of the factor between the measured and the predicted latency of a network. Even on an idle machine it may come
near the first. Beyond the second, the table is wrong, unless the machine is busy."""
BUSIEST = 30.0
"""The largest factor that other work on this machine can explain. It never explains a factor below 1."""
CHECK_ROUNDS = 5


def _timing(resolved: Resolved, measured: Sequence[TableSource], report: Report) -> list[Check]:
    """Checks whether the derived network will be timed; if so, times one network from the middle of the range of
    costs now."""
    local = [limit.source for limit in local_latency_limits(resolved.limits)]
    return [_timed(resolved.space, source, report) for source in local if source] or [_untimed(measured)]


def _timed(space: Space, source: TableSource, report: Report) -> Check:
    """Checks a table of this machine by timing one network, from the middle of the range of costs."""
    paths = middle_network(source.cost)
    predicted = source.cost.of(paths)
    timing = time_architecture(
        Architecture(space, paths), source.measure, rounds=CHECK_ROUNDS,
        progress=partial(report, f"timing one network of {source.path}"),
    )  # fmt: skip
    ratio = timing.median_ms / predicted if predicted > 0 else math.inf
    text = (
        f"the device of {source.path} is this one: a network of {predicted:.4g} predicted ms takes "
        f"{timing.median_ms:.4g} ms"
    )
    busy = _busy(timing)
    if busy and OFF < ratio <= BUSIEST:
        remedy = "wait until the machine is idle and check again; measure the table again if that changes nothing"
        return Check("warn", "timing", f"this machine is busy ({busy}), so its table was not judged: {text}", remedy)
    if max(ratio, 1 / ratio) > FAR_OFF:
        return Check("FAIL", "timing", text, f"measure {source.path} again: its numbers are not this device's ms")
    if max(ratio, 1 / ratio) > OFF:
        return Check("warn", "timing", text, "verify the table, or wait until the machine is idle")
    return Check("ok", "timing", f"{text}; the derived network will be timed and corrected")


def _busy(timing: Timing) -> str:
    """Returns the signs, as a phrase, that other work disturbs this machine; '' if there are none."""
    signs = [] if steady(timing) else [f"rounds of one timing differ by {50 * twice_noise(timing):.0f} %"]
    load, cores = load_average(), os.cpu_count() or 1
    if load > cores:
        signs.append(f"{load:.3g} processes want its {cores} cores")
    return ", ".join(signs)


def load_average() -> float:
    """Returns how many processes needed a core of this machine, averaged over a minute; 0 if the system does not
    provide it."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _untimed(measured: Sequence[TableSource]) -> Check:
    """Returns why the derived network will not be timed: no table is of this machine."""
    names = ", ".join(source.table.device.name for source in measured)
    if all(source.measure.device == "external" for source in measured):  # those of several tables count as such
        return Check("ok", "timing", "every table is of an external device, so a derived network will not be timed")
    text = f"the table's device ({names}) is not this one, so a derived network will not be timed"
    if any(elsewhere(source.table) for source in measured):
        return Check("warn", "timing", f"{text}, and this machine has no GPU", "set measure.device: external")
    return Check("warn", "timing", text, "measure a table here, or set measure.device: external if that is meant")


def _disk(space: Space, settings: SearchSettings, out: Path) -> Check:
    """Checks whether the checkpoints will fit on the disk of `out`."""
    parameters = sum(layer.complexity.params for _, layer in space.places)
    files = Checkpoints(out).keep + 1  # the next is complete before the oldest goes
    moments = 2 if settings.optimizer == "adamw" else 1
    needed = parameters * 4 * (1 + moments) * files  # float32; weights and what the optimizer keeps of each
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    text = f"checkpoints need {quantity(needed, 'bytes', 3)}, {there} has {quantity(free, 'bytes')} free"
    if free < needed:
        return Check("FAIL", "disk", text, "choose another --out, or make room")
    return Check("ok", "disk", text)


def _data(config: SearchConfig) -> list[Check]:
    """Checks the images, which are not downloaded for that. Raises ConfigError if they are incomplete."""
    local = config.data.model_copy(update={"download": False})
    try:
        images = open_images_for(config.space, local, user_modules.call).train
    except IncompleteDataError:
        if config.data.download:
            text = f"'{config.data.name}' is not in '{config.data.root}' yet"
            return [Check("warn", "data", text, "nothing to do: data.download fetches it when the search starts")]
        raise
    training, validation = stratified_split(images.labels, config.data.validation, config.run.seed)
    return data_checks(config, len(training), len(validation))


def data_checks(config: SearchConfig, training: int, validation: int) -> list[Check]:
    """Checks whether the two parts of the training set hold a batch each, and give enough architecture steps.

    training, validation: their numbers of images.
    """
    s = config.search
    for part, images in (("training", training), ("validation", validation)):
        if images < s.batch_size:
            text = f"search.batch_size: got {s.batch_size}, but the {part} part of the data has {images} images"
            return [Check("FAIL", "data", text, "choose a smaller batch, or change data.validation")]
    steps = training // s.batch_size
    text = f"{training} training and {validation} validation images, {steps} steps an epoch"
    learns_at_the_end = s.mode.collects_evidence and s.resolved_regression.final_steps > 0
    if steps * s.epochs < s.arch_every and not learns_at_the_end:
        text += f", {steps * s.epochs} after the warm-up, so alpha never learns"
        return [Check("warn", "data", text, f"search.epochs above {s.arch_every // steps}, or a smaller arch_every")]
    arch_steps = steps * s.epochs // s.arch_every
    if s.mode.follows_gradient and arch_steps * s.arch_lr < DECISIVE:
        text += (
            f"; {arch_steps} architecture steps of arch_lr {s.arch_lr:g} move an entry of alpha by about "
            f"{arch_steps * s.arch_lr:.2g} at most, too little to decide"
        )
        return [Check("warn", "data", text, "raise search.arch_lr or search.epochs, or lower search.arch_every")]
    return [Check("ok", "data", text)]


def _run(config: SearchConfig) -> list[Check]:
    """Checks whether this machine has the device of `run`. Raises ConfigError if it does not."""
    run = config.run
    prepare_device(run.model_copy(update={"threads": None}))  # the thread count of this process stays
    if run.amp == "bf16" and run.device == "cpu":
        return [Check("warn", "run", "run.amp: bf16 makes most CPUs slower", "run.amp=none unless measured")]
    return [Check("ok", "run", f"device {run.device}, amp {run.amp}")]
