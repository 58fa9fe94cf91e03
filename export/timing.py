"""Times exported files in their runtimes, and compares each with what a latency table promised for its network.

All files are timed in turn, each in a process of its own. If a table was made for the runtime, the threads and the
device, a reference is timed in turn with them: a network from the middle of the table's space, as the table's own
networks are run. If the reference takes longer than its prediction, the machine is slower than it was, and no verdict
is given.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import ConfigError, UserError
from engine.progress import Report, silent
from export.exported_file import ExportedFile
from export.fresh_process import FreshProcess
from export.promise import Measured, judged
from export.timings import TimedFile, write_timings
from latency.config import MeasureConfig
from latency.device import this_device
from latency.measure import TIMING_ROUNDS, Timing, timed_in_turn
from latency.noise import least_disturbed, twice_noise
from latency.plan import TimingJob, middle_network, network_job
from latency.runtimes import open_runtime
from latency.table import LatencyTable
from supernet.architecture import Architecture
from supernet.space import Space

MOST_TIMINGS = 3
"""The most timings of all files, until other work disturbs none."""
LAYER_PASSES = 50
"""The passes in which the layers of a file are timed."""
REFERENCE = "reference"
"""The name of the reference among the files that are timed in turn."""


def time_files(
    files: Sequence[Path],
    table: Path | None = None,
    *,
    threads: int | None = None,
    batch: int | None = None,
    rounds: int = TIMING_ROUNDS,
    folder: Path | None = None,
    allow_modules: Collection[str] = (),
    report: Report = silent,
) -> list[TimedFile]:
    """Times exported files in their runtimes on this machine, records them in timings.json, and returns them.

    table: a latency table, whose prediction for each file's network is put beside the measurement. threads: CPU threads
    of the runtimes; None is the table's, or 1. batch: images at once for files that take any number; None is the
    table's, or 1. rounds: of the timing, all files being timed in each. folder: where timings.json is written; None is
    beside each file. allow_modules: the user's modules that an
    architecture may import. Raises ConfigError if a file, the table or a number is wrong, and UserError if a runtime is
    not installed or cannot run its file.
    """
    exported = [ExportedFile.read(path, allow_modules) for path in files]
    for file in exported:
        file.format.refuse_if_missing()
    promise = None if table is None else LatencyTable.load(table)
    threads = threads or (promise.threads if promise else None) or 1
    batch = batch or (promise.batch if promise else None)
    measured, reference = _measured_here(exported, promise, threads, batch, rounds, report)
    timed = [judged(file, measure, table, promise, reference) for file, measure in zip(exported, measured, strict=True)]
    write_timings(files if folder is None else [folder / path.name for path in files], timed)
    return timed


@dataclass(frozen=True)
class ReferenceNetwork:
    """A network from the middle of a table's space."""

    space: Space
    job: TimingJob
    predicted_ms: float

    @classmethod
    def of(cls, files: Sequence[ExportedFile], table: LatencyTable | None) -> ReferenceNetwork | None:
        """Returns the reference for files: of the space of the first one that has a space which the table covers. None
        if there is none."""
        for file in files:
            design = file.design
            if table is None or not isinstance(design, Architecture) or table.missing(design.space):
                continue
            cost = table.cost(design.space)
            paths = middle_network(cost)
            return cls(design.space, network_job(design.space, REFERENCE, "verification", paths), cost.of(paths))
        return None


def measure_of(table: LatencyTable) -> MeasureConfig:
    """Returns the settings with which a table of a CPU was measured."""
    return MeasureConfig.model_validate(
        {"runtime": table.runtime.name, "threads": table.threads or 1, "batch": table.batch, "dtype": table.dtype}
    )


class _Running:
    """A file in its process, as `timed_rounds` runs it."""

    def __init__(self, file: FreshProcess):
        self._file = file

    def run(self, passes: int) -> None:
        self._file.times(passes)

    def times(self, passes: int) -> list[float]:
        return self._file.times(passes)

    def close(self) -> None:
        """Keeps the process for the next round."""


def _measured_here(
    files: Sequence[ExportedFile],
    table: LatencyTable | None,
    threads: int,
    batch: int | None,
    rounds: int,
    report: Report,
) -> tuple[list[Measured], tuple[float, float] | None]:
    """Times files in turn on this machine. Returns how each was timed, and the reference's measured and predicted ms if
    one was timed."""
    here, date = this_device("cpu"), datetime.datetime.now(datetime.UTC).date().isoformat()
    same = table is not None and table.device.fingerprint == here.fingerprint and table.threads == threads
    alike = [file for file in files if table is not None and file.format.measured_as == table.runtime.name]
    reference = ReferenceNetwork.of(alike, table) if same else None
    with ExitStack() as stack:
        openers: dict[str, Any] = {}
        processes, at_once = [], []
        for i, file in enumerate(files):
            report("load the files", i, len(files))
            process = stack.enter_context(FreshProcess(file.format, file.path, threads))
            images = images_for(file, process, batch)
            process(images)
            processes.append(process)
            at_once.append(len(images))
            openers[f"file{i}"] = partial(_Running, process)
        report("load the files", len(files), len(files))
        if reference is not None:
            assert table is not None
            runner = stack.enter_context(open_runtime(reference.space, measure_of(table)))
            runner.prepare([reference.job])
            openers[REFERENCE] = partial(runner.open, reference.job)

        def attempt(number: int) -> dict[str, Timing]:
            again = f", {number + 1} of at most {MOST_TIMINGS}: the machine is busy" if number else ""
            progress = partial(report, f"time{again}")
            return timed_in_turn(list(openers), lambda name: openers[name](), MeasureConfig(), rounds, progress)

        timings = least_disturbed(attempt, partial(_disturbance, reference), MOST_TIMINGS)
        measured = []
        for i, (file, process, n) in enumerate(zip(files, processes, at_once, strict=True)):
            layers, no_layers = _layers(file, process)
            own = Measured(timings[f"file{i}"], layers, no_layers, process.runtime, here, threads, n, date)
            measured.append(own)
    if reference is None:
        return measured, None
    return measured, (timings[REFERENCE].median_ms, reference.predicted_ms)


def _disturbance(reference: ReferenceNetwork | None, timings: Mapping[str, Timing]) -> float:
    """Returns the larger of twice the noise and the reference's distance from its prediction, as a share."""
    drift = 0.0 if reference is None else abs(timings[REFERENCE].median_ms / reference.predicted_ms - 1)
    return max(drift, *map(twice_noise, timings.values()))


def images_for(file: ExportedFile, process: FreshProcess, batch: int | None) -> np.ndarray:
    """Returns random images for a file. Raises ConfigError if it says nothing about its input."""
    if not process.metadata:
        raise ConfigError(str(file.path), "says nothing about its input", "a file of `proxyless-nas export`")
    about = process.metadata["input"]
    shape = (file.images_at_once(batch, about["shape"]), *about["shape"][1:])
    rng, dtype = np.random.default_rng(0), np.dtype(about["dtype"])
    if dtype.kind == "f":
        return rng.standard_normal(shape, dtype=np.float32).astype(dtype)
    return rng.integers(0, 127, shape).astype(dtype)


def _layers(file: ExportedFile, process: FreshProcess) -> tuple[tuple[float, ...] | None, str]:
    """Returns the median milliseconds of each layer, or None and the reason why they are not known."""
    if not process.tells_layers:
        return None, f"{file.format.title} does not tell how long a layer takes"
    if not file.places:
        return None, "the file's operations are not named after layers; export it again"
    try:
        return layer_medians(process.layer_times(LAYER_PASSES, len(file.places))), ""
    except UserError as error:
        return None, error.found


def layer_medians(passes: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Returns the median milliseconds of each layer. passes: [pass][layer]."""
    return tuple(np.median(np.asarray(passes), axis=0).tolist())
