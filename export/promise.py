"""Compares how long an exported file takes with what a latency table predicts for its network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from export.exported_file import ExportedFile
from export.job import RECORD
from export.timings import Prediction, TimedFile, TimedLayer, TimedReference, Verdict
from latency.config import LARGEST_ERROR
from latency.device import Device
from latency.measure import Timing
from latency.noise import LARGEST_DISTURBANCE, acceptable_error, steady
from latency.prediction import predicted_layers, predicted_ms
from latency.table import LatencyTable, TableError
from supernet.design import Design

NORMAL_95 = 2.5
"""95 % of normal errors are at most this many times their mean size: 1.96 sigma, where the mean size is 0.8 sigma."""


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
    """Returns why a table does not promise anything for a measurement, all reasons in one line; empty if it does."""
    own: dict[str, tuple[object, object]] = {
        "runtime": (table.runtime.name, file.format.measured_as or file.format.title),
        "dtype": (table.dtype, file.dtype),
        "weight bits": (8 if table.dtype == "int8" else None, file.entry.get("weight_bits")),
        "threads": (table.threads, measured.threads),
        "batch": (table.batch, measured.batch),
        "device": (table.device.fingerprint, measured.device.fingerprint),
    }
    others = {what for what, (promised, found) in own.items() if None not in (promised, found) and promised != found}
    own["device"] = table.device.name, measured.device.name
    found = [f"{what} {own[what][0]}, not {own[what][1]}" for what in own if what in others]
    return f"the table is of {'; '.join(found)}" if found else ""
