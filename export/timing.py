"""Times exported files in their runtimes, and compares each with what a latency table promised for its network.

All files are timed in turn, each in a process of its own. If a table was made for the runtime, the threads and the
device, a reference is timed in turn with them: a network from the middle of the table's space, as the table's own
networks are run. If the reference takes longer than its prediction, the machine is slower than it was, and no verdict
is given.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from engine.config import Section, validate
from engine.errors import ConfigError, UserError, explain
from engine.files import read_json, write_atomically
from engine.progress import Report, silent
from export.formats import FORMATS
from export.formats.base import Format
from export.fresh_process import FreshProcess
from export.job import RECORD, read_record
from latency.config import LARGEST_ERROR, MeasureConfig
from latency.device import Device, this_device
from latency.measure import TIMING_ROUNDS, Timing, timed_in_turn
from latency.noise import LARGEST_DISTURBANCE, acceptable_error, least_disturbed, steady, twice_noise
from latency.on_device.manifest import sha256
from latency.plan import TimingJob, middle_network, network_job
from latency.prediction import predicted_layers, predicted_ms
from latency.runtimes import open_runtime
from latency.table import LatencyTable, TableError
from supernet.architecture import Architecture
from supernet.design import Design
from supernet.design_file import read_design
from supernet.space import Space

TIMINGS = "timings.json"
"""The file beside the exported ones that records how long they take."""
TIMINGS_FORMAT = "proxylessnas/timings@1"
MOST_TIMINGS = 3
"""The most timings of all files, until other work disturbs none."""
LAYER_PASSES = 50
"""The passes in which the layers of a file are timed."""
NORMAL_95 = 2.5
"""95 % of normal errors are at most this many times their mean size: 1.96 sigma, where the mean size is 0.8 sigma."""
REFERENCE = "reference"
"""The name of the reference among the files that are timed in turn."""
Verdict = Literal["as predicted", "slower", "faster", "not judged"]


class TimedLayer(Section):
    """One layer of a file, by the runtime's own profile."""

    place: str
    """The name of its place, as in architecture.json: `stem`, an edge, `feature_mix` or `classifier`."""
    op: str
    measured_ms: float
    """The median over the passes. The profile itself takes time, which the layers' sum includes."""
    predicted_ms: float | None
    """The table's entry; null without a table that covers it."""


class TimedReference(Section):
    """A network from the middle of the table's space, timed in turn with the files."""

    measured_ms: float
    predicted_ms: float
    drift: float
    """Measured over predicted."""


class Prediction(Section):
    """What a latency table promises, beside the measurement."""

    table: str
    """The table's file."""
    table_sha256: str
    of: str
    """The table's device and runtime, in words."""
    ms: float
    error_percent: float
    """100 (predicted - measured) / measured."""
    accepted_percent: float
    """The largest error that is called `as predicted`: that of the table and that of the timing together."""
    verdict: Verdict
    reason: str
    """Why there is no verdict; empty if there is one."""
    reference: TimedReference | None
    """null if the table is not of this runtime and device, or its network is of no search space."""


class TimedFile(Section):
    """How long one exported file takes in its runtime on one device."""

    file: str
    sha256: str
    dtype: str
    """The precision of the file's weights and activations, as export.json states it."""
    runtime: str
    """The runtime's name and version."""
    device: Device
    threads: int
    batch: int
    """The images of a pass."""
    date: str
    median_ms: float
    noise_ms: float
    """The standard deviation of the medians of the rounds."""
    standard_error_ms: float
    """The standard deviation of the median."""
    rounds: int
    passes: int
    """The passes of all rounds together."""
    steady: bool
    """Whether twice the noise is at most 10 % of the median; if not, other work disturbed the timing."""
    prediction: Prediction | None
    no_prediction: str
    """Why the table predicts nothing for this network; empty without a table, or if it does."""
    layers: tuple[TimedLayer, ...] | None
    no_layers: str
    """Why the layers' times are not known; empty if they are."""

    @property
    def identity(self) -> tuple[object, ...]:
        """What another timing has to share to take this one's place in timings.json."""
        return self.file, self.device.fingerprint, self.runtime.partition(" ")[0], self.threads, self.batch

    def __str__(self) -> str:
        """Returns the figures in one line."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        noise = f"±{self.noise_ms:.2g} between rounds"
        line = f"{self.file}: {self.median_ms:.4g} ms ({noise}; {self.runtime}, {threads}, batch {self.batch})"
        line += "" if self.steady else "; other work disturbed the timing"
        if self.prediction is None:
            return f"{line}; not predicted: {self.no_prediction}" if self.no_prediction else line
        own = self.prediction
        line += f"; predicted {own.ms:.4g} ms ({own.error_percent:+.1f} %): "
        if own.verdict == "not judged":
            return f"{line}not judged, since {own.reason}"
        verdict = own.verdict if own.verdict == "as predicted" else f"{own.verdict.upper()} than predicted"
        return f"{line}{verdict} (accepted: {own.accepted_percent:.1f} %)"


class Timings(Section):
    """The content of timings.json."""

    format: Literal["proxylessnas/timings@1"] = "proxylessnas/timings@1"
    timings: tuple[TimedFile, ...] = ()
    """One for each file, device, runtime, threads and batch."""


@dataclass(frozen=True)
class Measured:
    """How a file was timed, here or on another device."""

    timing: Timing
    layers: tuple[float, ...] | None
    """The median milliseconds of each layer."""
    no_layers: str
    runtime: str
    device: Device
    threads: int
    batch: int
    date: str


@dataclass(frozen=True)
class ExportedFile:
    """A file with what the export.json beside it says of it."""

    path: Path
    format: Format
    entry: Mapping[str, Any]
    """Its part of export.json; empty if that does not know it."""
    design: Design | None
    places: tuple[str, ...]
    """The place of each layer that its operations are named after."""

    @classmethod
    def read(cls, path: Path, allow_modules: Collection[str] = ()) -> ExportedFile:
        """Reads what is known of a file. Raises ConfigError if it has the name of no format, is missing, or has been
        changed since it was exported."""
        endings = {format.suffix: format for format in FORMATS.values()}
        found = [format for suffix, format in endings.items() if path.name.endswith(suffix)]
        if not path.exists():
            raise ConfigError(str(path), "no such file", "an exported file, such as net.onnx")
        if not found:
            raise ConfigError(str(path), "is no exported file", f"a name that ends in {', '.join(endings)}")
        format = max(found, key=lambda format: len(format.suffix))
        record = read_record(path.parent) if (path.parent / RECORD).exists() else {"files": {}}
        entries = [entry for entry in record["files"].values() if entry["file"] == path.name]
        if not entries:
            return cls(path, format, {}, None, ())
        for part in entries[0]["files"]:
            own = path.parent / part["file"]
            if not own.is_file() or sha256(own) != part["sha256"]:
                changed = f"is not the file that {RECORD} records"
                raise ConfigError(str(own), changed, "the exported file", "export again")
        design = None
        if "architecture" in record:
            with explain(f"{path.parent / RECORD}: architecture"):
                design = read_design(json.dumps(record["architecture"]), allow_modules=allow_modules)
        return cls(path, format, entries[0], design, tuple(record.get("layers", ())))

    @property
    def dtype(self) -> str:
        """The precision of its weights and activations."""
        return str(self.entry.get("dtype", "float32"))

    @property
    def digest(self) -> str:
        """The sha256 of the file; of a folder, that of its largest file."""
        path = self.path
        if path.is_dir():
            path = max((part for part in path.rglob("*") if part.is_file()), key=lambda part: part.stat().st_size)
        return sha256(path)

    def images_at_once(self, wanted: int | None, shape: Sequence[Any] = ()) -> int:
        """Returns the batch at which it is timed. shape: of its input, as the file itself states it; () is that in
        export.json. Raises ConfigError if it cannot take so many images."""
        fixed = (shape or (self.entry["input"]["shape"] if self.entry else ["batch"]))[0]
        if isinstance(fixed, int) and wanted not in (None, fixed):
            raise ConfigError("batch", f"got {wanted}, but {self.path.name} takes {fixed} images at once")
        return fixed if isinstance(fixed, int) else wanted or 1


def time_files(
    files: Sequence[Path],
    table: Path | None = None,
    *,
    threads: int | None = None,
    batch: int | None = None,
    rounds: int = TIMING_ROUNDS,
    allow_modules: Collection[str] = (),
    report: Report = silent,
) -> list[TimedFile]:
    """Times exported files in their runtimes on this machine, records them in timings.json, and returns them.

    table: a latency table, whose prediction for each file's network is put beside the measurement. threads: CPU threads
    of the runtimes; None is the table's, or 1. batch: images at once for files that take any number; None is the
    table's, or 1. rounds: of the timing, all files being timed in each. allow_modules: the user's modules that an
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
    write_timings(files, timed)
    return timed


def judged(
    file: ExportedFile,
    measured: Measured,
    path: Path | None,
    table: LatencyTable | None,
    reference: tuple[float, float] | None,
) -> TimedFile:
    """Puts a table's prediction beside the measurement of a file.

    path: the table's file. reference: the measured and the predicted milliseconds of the reference; None if none was
    timed.
    """
    timing, prediction, no_prediction = measured.timing, None, ""
    by_place: Mapping[str, float] = {}
    if table is not None:
        try:
            design = _predictable(file)
            by_place = predicted_layers(design, table)
            prediction = _prediction(file, measured, str(path), table, predicted_ms(design, table), reference)
        except TableError as error:
            no_prediction = str(error)
    layers, no_layers = None, measured.no_layers
    if measured.layers is not None and file.design is not None:
        ops = {place: str(layer.spec) for place, layer in file.design.places}
        layers = tuple(
            TimedLayer(place=place, op=ops[place], measured_ms=ms, predicted_ms=by_place.get(place))
            for place, ms in zip(file.places, measured.layers, strict=True)
        )
    return TimedFile(
        file=file.path.name, sha256=file.digest, dtype=file.dtype, runtime=measured.runtime, device=measured.device,
        threads=measured.threads, batch=measured.batch, date=measured.date, median_ms=timing.median_ms,
        noise_ms=timing.noise_ms, standard_error_ms=timing.standard_error_ms, rounds=timing.rounds, passes=timing.n,
        steady=steady(timing), prediction=prediction, no_prediction=no_prediction, layers=layers, no_layers=no_layers,
    )  # fmt: skip


def _predictable(file: ExportedFile) -> Design:
    """Returns the design by which a table predicts a file. Raises TableError if it is not known, or the file takes
    images of another size."""
    if file.design is None:
        raise TableError("", f"no {RECORD} beside it says which network it holds")
    shape = file.entry["input"]["shape"]
    size = shape[2]  # (N, C, H, W) or (N, H, W, C)
    if size != file.design.input_size:
        raise TableError("", f"it takes images of {size} px, its architecture {file.design.input_size}")
    return file.design


def _prediction(
    file: ExportedFile,
    measured: Measured,
    path: str,
    table: LatencyTable,
    ms: float,
    reference: tuple[float, float] | None,
) -> Prediction:
    """Compares a measurement with a prediction, and gives the verdict."""
    timing = measured.timing
    error = (ms - timing.median_ms) / timing.median_ms
    accepted = table_error(table) + acceptable_error(timing)
    drift = 1.0 if reference is None else reference[0] / reference[1]
    reason = _differs(file, measured, table)
    if not reason and not steady(timing):
        reason = "other work disturbed the timing"
    if not reason and abs(drift - 1) > LARGEST_DISTURBANCE:
        reason = f"the machine takes {drift:.2f} times as long as the table predicts for a reference"
    verdict: Verdict = "not judged" if reason else "slower" if error < 0 else "faster"
    if not reason and abs(error) <= accepted:
        verdict = "as predicted"
    return Prediction(
        table=path, table_sha256=table.sha256, of=f"{table.device.name}, {table.runtime.name} {table.runtime.version}",
        ms=ms, error_percent=100 * error, accepted_percent=100 * accepted, verdict=verdict, reason=reason,
        reference=None if reference is None else TimedReference(
            measured_ms=reference[0], predicted_ms=reference[1], drift=drift),
    )  # fmt: skip


def table_error(table: LatencyTable) -> float:
    """Returns the error of a table within which 95 % of networks should lie, as a share: from its verification, or else
    from its calibration, or else the largest that a search accepts."""
    if table.verification:
        return NORMAL_95 * table.verification.table.mape_percent / 100
    if table.calibration:
        return 2 * table.calibration.cross_validation_percent / 100  # a root mean square
    return LARGEST_ERROR / 100


def _differs(file: ExportedFile, measured: Measured, table: LatencyTable) -> str:
    """Returns why a table does not promise anything for a measurement; empty if it does."""
    own: dict[str, tuple[object, object]] = {
        "runtime": (table.runtime.name, file.format.measured_as or file.format.title),
        "threads": (table.threads, measured.threads),
        "batch": (table.batch, measured.batch),
        "dtype": (table.dtype, file.dtype),
    }
    for what, (promised, found) in own.items():
        if promised != found:
            return f"the table's {what} is {promised}, the file's {found}"
    if table.device.fingerprint != measured.device.fingerprint:
        return f"the table is of {table.device.name}, this is {measured.device.name}"
    return ""


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


def layer_table(timed: TimedFile) -> str:
    """Returns the layers of a timing as a table to print, or why they are not known."""
    if timed.layers is None:
        return f"  {timed.no_layers}"
    rows = [("place", "op", "measured ms", "predicted ms")]
    for layer in timed.layers:
        predicted = "" if layer.predicted_ms is None else f"{layer.predicted_ms:.3f}"
        rows.append((layer.place, layer.op, f"{layer.measured_ms:.3f}", predicted))
    place, op, measured, predicted_width = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(
        f"  {a:{place}}  {b:{op}}  {c:>{measured}}  {d:>{predicted_width}}".rstrip() for a, b, c, d in rows
    )


def layer_medians(passes: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Returns the median milliseconds of each layer. passes: [pass][layer]."""
    return tuple(np.median(np.asarray(passes), axis=0).tolist())


def read_timings(folder: Path) -> Timings:
    """Returns the content of a folder's timings.json; nothing is in it if there is none. Raises ConfigError."""
    path = folder / TIMINGS
    if not path.exists():
        return Timings()
    content = read_json(path, f"a {TIMINGS}")
    if not isinstance(content, dict):
        raise ConfigError(str(path), f"got {type(content).__name__}", f"a {TIMINGS}", "delete it and time again")
    return validate(Timings, content, str(path))


def write_timings(files: Sequence[Path], timed: Sequence[TimedFile]) -> None:
    """Writes timings into the timings.json of the folder of each file, in place of earlier ones of the same file,
    device, runtime, threads and batch."""
    for folder in dict.fromkeys(path.parent for path in files):
        new = [timing for path, timing in zip(files, timed, strict=True) if path.parent == folder]
        replaced = {timing.identity for timing in new}
        kept = [timing for timing in read_timings(folder).timings if timing.identity not in replaced]
        record = Timings(timings=(*kept, *new)).model_dump(mode="json")
        write_atomically(folder / TIMINGS, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
