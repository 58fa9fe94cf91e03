"""Measures tables and times networks on this machine, with any runtime (latency/runtimes/)."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from engine.errors import Action, Interrupted, explain
from engine.progress import Report, silent
from engine.shipped import as_argument
from latency.build import (
    FLOAT32_MS,
    Origin,
    Samples,
    build_table,
    calibrated,
    network_ms,
    recalibrated_float32,
    verified,
)
from latency.config import LatencyConfig, MeasureConfig
from latency.device import this_device
from latency.existing import Identity, free_file, refuse_to_replace
from latency.on_device.machine import energy_counter
from latency.on_device.rounds import timed_rounds
from latency.plan import (
    Counts,
    TimingJob,
    calibration_networks,
    draw_plan,
    network_job,
    schedule,
    verification_jobs,
    verification_networks,
)
from latency.runtimes import Opened, Runtime, open_runtime
from latency.runtimes.base import ready_to_time
from latency.runtimes.int8_models import quantiser_of
from latency.table import LatencyTable, TableError, UsedRuntime, prepare_table_file
from latency.verification import check_count, check_seed
from supernet.architecture import Architecture
from supernet.blocks import isolated_rng
from supernet.own_candidates import check_running
from supernet.space import Space

RECALIBRATION_NETWORKS = 20
"""The networks that a recalibration times."""
TIMING_ROUNDS = 15
"""The rounds of one timing. More rounds make its median more certain; more passes do not, since all passes of a round
share its disturbance."""


@dataclass(frozen=True)
class Timing:
    """A whole network's latency at the measured batch."""

    median_ms: float
    """The median over all passes of all rounds."""
    noise_ms: float
    """The standard deviation of the medians of the rounds."""
    n: int
    """The number of passes in all rounds."""
    rounds: int = TIMING_ROUNDS

    @property
    def standard_error_ms(self) -> float:
        """The standard deviation of `median_ms` over repeated timings on an equally busy machine.

        It is sqrt(pi / 2) noise / sqrt(rounds) for the median of independent rounds with normal noise. This is an upper
        estimate here: if passes differ within a round, too, the median over all of them is nearer to the mean.
        """
        return math.sqrt(math.pi / 2) * self.noise_ms / math.sqrt(self.rounds)

    @classmethod
    def of(cls, samples: ArrayLike) -> Timing:
        """Summarises a timing. samples (rounds, passes): milliseconds."""
        ms = np.asarray(samples, dtype=float)
        spread = float(np.std(np.median(ms, axis=1), ddof=1))
        return cls(float(np.median(ms)), spread, ms.size, len(ms))


def measure_to_file(
    config: LatencyConfig | Path,
    out: Path,
    *,
    overrides: Sequence[str] = (),
    verify: int = 0,
    recalibrate: bool = False,
    seed: int | None = None,
    report: Report = silent,
) -> LatencyTable:
    """Measures the table of a config on this machine, or verifies or recalibrates the one in `out`; writes and returns
    it.

    config: an object, or the path of a YAML file to which `overrides` (key.sub=value) apply. verify: how many fresh
    networks the table's error is measured on; if it is above 0 and `out` exists, that table is kept and verified.
    recalibrate: keep the measured entries of `out` and refit their corrections to networks timed now. seed: the seed
    of the networks and their order; None is 0 for a new table, and the time for one that is kept, so that the networks
    differ from those of any time before.

    Raises ConfigError if the config is wrong, or the device or the runtime is not here; TableError if `out` cannot be
    written, holds anything but an earlier version of this table, or does not fit the config; Interrupted at Ctrl-C,
    with what there is: timings are not kept, and `out` changes when they are complete.
    """
    check_count(verify)
    check_seed(seed)
    path = None if isinstance(config, LatencyConfig) else config
    config = LatencyConfig.read(config, overrides)
    space, measure = Space(config.space), config.measure
    if measure.device == "cpu" or (measure.device == "cuda" and torch.cuda.is_available()):
        with explain(f"{path}: space.candidate_modules" if path else "space.candidate_modules"):
            check_running(space.all_layers, torch.device(measure.device))
    prepare_table_file(out)
    if not (recalibrate or (verify and out.exists())):
        refuse_to_replace(out, Identity.of_measuring(space, measure))
        with _interrupted_with(_as_it_was(out)):
            table = measure_table(space, measure, seed=seed or 0, verify=verify, report=report)
        table.save(out)
        return table
    if not out.exists():
        raise TableError("--recalibrate", f"no table {out}", remedy="measure one first, without --recalibrate")
    table = LatencyTable.load(out)
    free = free_file(out)
    if path is None:
        table.check(space, measure, str(out), f"make another table, in another file, e.g. {free}")
    else:
        verified_too = ("--verify", str(verify)) if verify else ()
        again = Action("measure", (as_argument(path), "--out", str(free), *verified_too, *overrides))
        table.check(space, measure, str(out), "make another table", again)
    seed = int(time.time()) if seed is None else seed
    if recalibrate:
        with _interrupted_with(_as_it_was(out)):
            table = recalibrate_table(table, space, measure, seed=seed, report=report)
        table.save(out)
    if verify:
        saved = f"{out} is recalibrated but not verified; verify it, without recalibrating again"
        with _interrupted_with(saved if recalibrate else _as_it_was(out)):
            table = verify_table(table, space, measure, verify, seed=seed, report=report)
        table.save(out)
    return table


def _as_it_was(out: Path) -> str:
    """Returns what an interrupted measurement leaves, in words: `out` unchanged."""
    left = f"{out} is as it was" if out.exists() else "no table was written"
    return f"its timings are lost and {left}; the same command begins anew"


@contextlib.contextmanager
def _interrupted_with(words: str) -> Iterator[None]:
    """Says at Ctrl-C what there is and what to do."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise Interrupted(signal.SIGINT, words) from interrupt


def measure_table(
    space: Space, measure: MeasureConfig, *, seed: int = 0, verify: int = 0, report: Report = silent
) -> LatencyTable:
    """Returns the table of a space: every layer is measured, and corrected and verified on whole networks.

    verify: the number of fresh networks on which it is verified; 0: none. seed: the seed of the networks and their
    order. Raises ConfigError if the device or the runtime is not here.
    """
    with open_runtime(space, measure) as runner:
        counts = Counts(
            coverings=measure.coverings if runner.sees_inside else 0,
            calibration=measure.calibration_networks,
            verification=verify,
            alone=not runner.sees_inside,
            float32=measure.dtype == "int8",
        )
        jobs = draw_plan(space, counts, seed)
        samples, energy = timed_jobs(runner, measure, jobs, seed, report)
        return build_table(space, measure, jobs, samples, _origin(runner, measure), seed=seed, energy=energy)


def verify_table(
    table: LatencyTable,
    space: Space,
    measure: MeasureConfig,
    networks: int,
    *,
    seed: int,
    report: Report = silent,
) -> LatencyTable:
    """Returns the table with its error on `networks` fresh networks that are timed now.

    The networks are others than those of any calibration of the table, as long as the space has such. Raises TableError
    if the table is another device's.
    """
    refuse_foreign(table, measure)
    used = used_networks(space, table)
    paths = verification_networks(space, networks, seed, avoid=used)
    jobs = verification_jobs(space, paths)
    with open_runtime(space, measure) as runner:
        samples, _ = timed_jobs(runner, measure, jobs, seed, report)
    return verified(table, jobs, samples, used=used)


def used_networks(space: Space, table: LatencyTable) -> list[tuple[int, ...]]:
    """Returns the networks of every calibration of a table that this package measured, each once."""
    drawn = table.calibration.drawn if table.calibration else ()
    every = [paths for one in drawn for paths in calibration_networks(space, one.networks, one.seed)]
    return list(dict.fromkeys(every))


def recalibrate_table(
    table: LatencyTable, space: Space, measure: MeasureConfig, *, seed: int, report: Report = silent
) -> LatencyTable:
    """Returns the table with corrections that are refitted to RECALIBRATION_NETWORKS networks timed now. Raises
    TableError if the table is another device's.

    The networks may be among those of earlier calibrations or verifications, since only their time now counts. The
    table records their count and seed, from which they are drawn again to be kept out of the next verification. For an
    int8 table they also run in float32, and its column `float32_ms` is refitted.
    """
    refuse_foreign(table, measure)
    paths = calibration_networks(space, RECALIBRATION_NETWORKS, seed)
    jobs = [network_job(space, f"calibration{i:03}", "calibration", p) for i, p in enumerate(paths)]
    column = table.columns.get(FLOAT32_MS)
    compared = table.dtype == "int8" and column is not None and column.values.keys() == table.entries.keys()
    plain = [replace(job, id=f"float32_{job.id}", in_float32=True) for job in jobs] if compared else []
    with open_runtime(space, measure) as runner:
        samples, _ = timed_jobs(runner, measure, [*jobs, *plain], seed, report)
    table = calibrated(table, space, jobs, network_ms(jobs, samples), seed=seed)
    return recalibrated_float32(table, space, plain, samples, seed=seed) if plain else table


def time_architecture(
    architecture: Architecture,
    measure: MeasureConfig,
    *,
    rounds: int = TIMING_ROUNDS,
    progress: Callable[[int, int], None] | None = None,
) -> Timing:
    """Times a whole network on this machine, with fresh weights, which do not change its speed.

    progress: called with (done, total), in rounds. Raises ConfigError if the device or the runtime is not here.
    """
    return time_architectures([architecture], measure, rounds=rounds, progress=progress)[0]


def time_architectures(
    architectures: Sequence[Architecture],
    measure: MeasureConfig,
    *,
    rounds: int = TIMING_ROUNDS,
    progress: Callable[[int, int], None] | None = None,
) -> list[Timing]:
    """Times several networks of one space in turn, in the order of `architectures`, so that a disturbance affects all.

    progress: called with (done, total), in networks times rounds. Raises ConfigError if the device or the runtime is
    not here.
    """
    space = architectures[0].space
    jobs = [network_job(space, f"network{i}", "verification", a.paths) for i, a in enumerate(architectures)]
    of_id = {job.id: job for job in jobs}
    if progress:
        progress(0, rounds * len(jobs))  # preparing may take longer than timing
    with open_runtime(space, measure) as runner:
        runner.prepare(jobs)
        timings = timed_in_turn(list(of_id), lambda name: runner.open(of_id[name]), measure, rounds, progress)
    return list(timings.values())


def timed_in_turn(
    names: Sequence[str],
    open_one: Callable[[str], Opened],
    measure: MeasureConfig,
    rounds: int,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Timing]:
    """Returns the timing of each of `names`, timed in each round in random order. open_one(name): returns one ready to
    run. progress: called with (done, total), in names times rounds."""
    schedule = [list(names)] * rounds
    samples, _ = timed_rounds(schedule, open_one, passes=3 * measure.passes, warmup=10, seed=0, progress=progress)
    return {name: Timing.of(samples[name]) for name in names}


class NetworkTimer:
    """Times whole networks, given as modules of any kind, in turn on this machine. Use as a context manager.

    Raises ConfigError on entering if the device is not here.
    """

    def __init__(self, measure: MeasureConfig):
        self.measure = measure
        self._runner: Runtime = open_runtime(None, measure)
        self._openers: dict[str, Callable[[], Opened]] = {}

    def __enter__(self) -> Self:
        self._runner.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._runner.__exit__(*exception)

    @property
    def version(self) -> str:
        """The version of the runtime; known once a network has been loaded."""
        return self._runner.version

    def load(self, name: str, network: nn.Module, channels: int, size: int) -> None:
        """Makes a network ready, for images of (channels, size, size); its weights are of no importance, but they
        should be fresh (see `latency.runtimes.base.ready_to_time`).

        name: letters, digits and `_`, the network's own. Raises UserError if the runtime cannot run it.
        """
        with isolated_rng(0):
            images = torch.randn(self.measure.batch, channels, size, size)
            self._openers[name] = self._runner.load(name, ready_to_time(network), images)

    def timings(
        self, rounds: int = TIMING_ROUNDS, progress: Callable[[int, int], None] | None = None
    ) -> dict[str, Timing]:
        """Returns the timing of each network that is loaded, all timed in turn. progress: called with (done, total), in
        networks times rounds."""
        return timed_in_turn(list(self._openers), lambda name: self._openers[name](), self.measure, rounds, progress)


def refuse_foreign(table: LatencyTable, measure: MeasureConfig) -> None:
    """Raises TableError unless this package measured the table on this very device."""
    if measure.device == "external":
        raise TableError(
            "measure.device",
            "got 'external'",
            remedy="a table of another device is verified there: see proxyless-nas kit",
        )
    if any(" @" in key for key in table.entries):
        raise TableError(
            "",
            "the table has entries of single edges (keys ending in ` @stage...`), as imported ones may have",
            remedy="only tables that this package measured can be verified and recalibrated here",
        )
    here = this_device(measure.device)
    if table.device.fingerprint != here.fingerprint:
        raise TableError(
            "",
            (
                f"the table was measured on {table.device.name} ({table.device.cores} cores), this is "
                f"{here.name} ({here.cores} cores); its error can be measured on its own device only"
            ),
            remedy="measure a table for this one",
        )


def timed_jobs(
    runner: Runtime, measure: MeasureConfig, jobs: Sequence[TimingJob], seed: int, report: Report
) -> tuple[Samples, dict[str, list[float]]]:
    """Prepares and times every job in rounds. Returns (samples in ms, energy in mJ a pass in each round), by job id."""
    runner.prepare(jobs, partial(report, "prepare"))
    by_id = {job.id: job for job in jobs}
    samples, energy = timed_rounds(
        schedule(jobs, measure.rounds),
        lambda name: runner.open(by_id[name]),
        passes=measure.passes,
        warmup=measure.warmup_passes,
        seed=seed,
        joules=energy_counter() if measure.device == "cpu" else None,
        progress=partial(report, "measure"),
    )
    return samples, energy


def _origin(runner: Runtime, measure: MeasureConfig) -> Origin:
    """Returns the part of a table's header that names this machine and the runtime."""
    device = this_device("cuda" if measure.device == "cuda" else "cpu")
    used = UsedRuntime(name=runner.name, version=runner.version)
    return Origin(device, used, runner.how, quantiser=quantiser_of(measure))
