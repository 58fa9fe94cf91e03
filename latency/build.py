"""Makes a table of timings: entries, calibration, verification, other columns. It does not matter whether this machine
measured them or a device kit did."""

from __future__ import annotations

import datetime
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latency.calibration import Correction, fit_correction, outliers
from latency.config import MeasureConfig
from latency.device import Device
from latency.plan import Paths, TimingJob, timed_layers
from latency.table import Calibration, Column, Entry, LatencyTable, Method, UsedPrior, UsedRuntime, memory_format_name
from latency.verification import verification
from supernet.cost import Cost
from supernet.space import Space

log = logging.getLogger("latency")


Samples = Mapping[str, Sequence[Sequence[Any]]]
"""Maps the id of a job to its milliseconds: [round][pass], or [round][pass][layer] if each layer was timed."""


@dataclass(frozen=True)
class Origin:
    """The parts of a table's header that describe who measured it: the device, the runtime, how, and the day."""

    device: Device
    runtime: UsedRuntime
    how: str
    date: str = ""
    quantiser: str | None = None
    """The program that made the int8 models, with its version; None for another precision."""


def build_table(
    space: Space, measure: MeasureConfig, jobs: Sequence[TimingJob], samples: Samples, origin: Origin, *, seed: int,
    energy: Mapping[str, Sequence[float]] | None = None,
) -> LatencyTable:  # fmt: skip
    """Returns the table of a plan's timings.

    samples: see `Samples`, for every job. energy: maps the id of a job to its mJ per pass in each round, if this was
    measured. seed: the seed of the plan; it is recorded so that a later verification draws other networks.
    """
    own = [job for job in jobs if not job.in_float32]
    entries, method = _entries(own, samples)
    timed = {
        "in_context": f"layers timed inside {sum(job.inside for job in own)} random networks",
        "isolated": "layers timed alone, since this runtime does not tell a running network's layers apart",
    }[method]
    table = LatencyTable(
        device=origin.device,
        runtime=origin.runtime,
        threads=measure.threads if origin.device.kind != "gpu" else None,
        batch=measure.batch,
        dtype=measure.dtype,
        quantiser=origin.quantiser,
        memory_format=memory_format_name(measure),
        activation=space.config.activation,
        input_size=space.config.input_size,
        date=origin.date or today(),
        method=method,
        how=f"{origin.how}; {timed}, {measure.rounds} rounds in random order, {measure.passes} passes after "
        f"{measure.warmup_passes} thrown away, median",
        columns=columns_of(space, measure),
        entries={str(layer): entries[str(layer)] for layer in space.all_layers if str(layer) in entries},
    )
    calibration = [job for job in own if job.purpose == "calibration"]
    if calibration:
        table = calibrated(table, space, calibration, network_ms(calibration, samples), seed=seed)
        if energy and all(job.id in energy for job in calibration):
            used = np.array([np.median(energy[job.id]) for job in calibration])
            if (used > 0).all():  # a counter may be too coarse for so small a network
                table = with_energy(table, space, calibration, used, seed=seed)
    if compared := [job for job in jobs if job.in_float32]:
        table = with_float32(table, space, compared, samples, seed=seed)
    checked = [job for job in jobs if job.purpose == "verification"]
    return verified(table, checked, samples, used=[job.paths for job in calibration]) if checked else table


def _entries(jobs: Sequence[TimingJob], samples: Samples) -> tuple[dict[str, Entry], Method]:
    """Returns an entry for each layer that was timed, and how."""
    if context := [job for job in jobs if job.purpose == "context"]:
        return entries_in_context(context, samples), "in_context"
    return entries_alone([job for job in jobs if job.purpose == "layer"], samples), "isolated"


def today() -> str:
    """Returns the date in UTC, e.g. 2026-01-31."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def entries_in_context(jobs: Sequence[TimingJob], samples: Samples) -> dict[str, Entry]:
    """Returns an entry for each layer, of all its timings in all networks that hold it."""
    times: dict[str, list[float]] = defaultdict(list)
    for job in jobs:
        passes = np.concatenate([np.asarray(taken, dtype=float) for taken in samples[job.id]])  # (passes, layers)
        for layer, column in zip(job.layers, passes.T, strict=True):
            times[str(layer)].extend(column.tolist())
    return {key: _entry(taken) for key, taken in times.items()}


def entries_alone(jobs: Sequence[TimingJob], samples: Samples) -> dict[str, Entry]:
    """Returns an entry for each layer that was timed alone."""
    return {str(job.layers[0]): _entry(np.ravel(samples[job.id]).tolist()) for job in jobs}


def _entry(times: Sequence[float]) -> Entry:
    """Returns the entry of a layer's timings in ms."""
    low, median, high = np.percentile(times, [25, 50, 75])
    return Entry(median_ms=float(median), iqr_ms=float(high - low), n=len(times))


def network_ms(jobs: Sequence[TimingJob], samples: Samples) -> np.ndarray:
    """Returns the median of each whole network's timings, (jobs,) ms."""
    return np.array([np.median(samples[job.id]) for job in jobs])


def occurrences(jobs: Sequence[TimingJob], keys: Sequence[str]) -> np.ndarray:
    """Returns how often each entry occurs in each network, (jobs, keys). Raises ValueError if a layer has no entry."""
    column = {key: k for k, key in enumerate(keys)}
    counts = np.zeros((len(jobs), len(keys)))
    for i, job in enumerate(jobs):
        for layer in job.layers:
            if str(layer) not in column:
                raise ValueError(f"no entry '{layer}'")
            counts[i, column[str(layer)]] += 1
    return counts


def smallest_sum(space: Space, keys: Sequence[str]) -> Callable[[np.ndarray], float]:
    """Returns a function of the milliseconds of `keys` that returns the smallest sum of any network of the space."""

    def smallest(ms: np.ndarray) -> float:
        own = dict(zip(keys, ms.tolist(), strict=True))
        return Cost.of_space(space, lambda layer, _: 0.0 if layer.is_skip else own[str(layer)]).reachable[0]

    return smallest


def calibrated(
    table: LatencyTable, space: Space, jobs: Sequence[TimingJob], measured: np.ndarray, *, seed: int
) -> LatencyTable:
    """Returns the table with corrected entries beside the measured ones. It starts from an earlier correction, if there
    is one.

    measured: (jobs,) ms. An earlier verification no longer holds and is dropped.
    """
    keys = list(table.entries)
    start = np.array([entry.ms for entry in table.entries.values()])
    correction = fit_correction(occurrences(jobs, keys), start, measured, smallest=smallest_sum(space, keys), seed=seed)
    for i in outliers(correction.left_out, measured):
        log.warning(
            f"{jobs[i].id} took {measured[i]:.4g} ms, where the other networks predict "
            f"{correction.left_out[i]:.4g} ms: "
            "something disturbed it, and the whole table suffers; measure again"
        )
    return corrected(table, correction, seed)


def corrected(table: LatencyTable, correction: Correction, seed: int, prior: UsedPrior | None = None) -> LatencyTable:
    """Returns the table with the `calibrated_ms` and the constant of a correction of its entries. prior: what it used.

    The table's history keeps the networks of every earlier calibration.
    """
    entries = {
        key: entry.model_copy(update={"calibrated_ms": float(factor * entry.ms)})
        for (key, entry), factor in zip(table.entries.items(), correction.factors, strict=True)
    }
    record = Calibration(
        date=today(),
        networks=len(correction.left_out),
        strength=correction.strength,
        cross_validation_percent=correction.cross_validation_percent,
        seed=seed,
        history=table.calibration.drawn if table.calibration else (),
        prior=prior,
    )
    return table.model_copy(
        update={"entries": entries, "constant_ms": correction.constant, "calibration": record, "verification": None}
    )


def with_energy(
    table: LatencyTable, space: Space, jobs: Sequence[TimingJob], measured_mj: np.ndarray, *, seed: int
) -> LatencyTable:
    """Returns the table with a column `energy_mj`: the energy of each layer, fitted to those of whole networks.

    measured_mj: (jobs,) mJ > 0. The fit is that of the latencies and starts from them.
    """
    keys = list(table.entries)
    start = np.array([entry.ms for entry in table.entries.values()])
    start *= measured_mj.mean() / (occurrences(jobs, keys) @ start).mean()  # mJ, so that factors are near 1
    how = f"RAPL counters of {len(jobs)} whole networks, fitted"
    return _with_fitted(table, space, jobs, measured_mj, dict(zip(keys, start.tolist(), strict=True)),
                        "energy_mj", "mJ", how, seed)  # fmt: skip


FLOAT32_MS = "float32_ms"
"""The column of an int8 table that has the milliseconds of the same layers in float32."""


def with_float32(
    table: LatencyTable, space: Space, jobs: Sequence[TimingJob], samples: Samples, *, seed: int
) -> LatencyTable:
    """Returns an int8 table with a column `float32_ms`: what each layer takes in float32 in the same runtime.

    jobs: those that ran in float32. The milliseconds are made like the table's own, of fewer timings.
    """
    entries, _ = _entries(jobs, samples)
    start = {key: entries[key].median_ms for key in table.entries}
    whole = [job for job in jobs if job.purpose == "calibration"]
    how = "the same layers in float32, timed in the same rounds"
    if not whole:
        column = Column(unit="ms", how=how, values=start)
        return table.model_copy(update={"columns": table.columns | {FLOAT32_MS: column}})
    how += f", fitted to {len(whole)} whole networks in float32"
    return _with_fitted(table, space, whole, network_ms(whole, samples), start, FLOAT32_MS, "ms", how, seed)


def recalibrated_float32(
    table: LatencyTable, space: Space, jobs: Sequence[TimingJob], samples: Samples, *, seed: int
) -> LatencyTable:
    """Returns an int8 table whose column `float32_ms` is refitted to whole networks that ran in float32 now, so that
    both are of one time. jobs: these networks."""
    how = f"the same layers in float32, refitted to {len(jobs)} whole networks in float32"
    start = table.columns[FLOAT32_MS].values
    return _with_fitted(table, space, jobs, network_ms(jobs, samples), start, FLOAT32_MS, "ms", how, seed)


def _with_fitted(
    table: LatencyTable, space: Space, jobs: Sequence[TimingJob], measured: np.ndarray, start: Mapping[str, float],
    name: str, unit: str, how: str, seed: int,
) -> LatencyTable:  # fmt: skip
    """Returns the table with a column that starts from `start` and is corrected like the entries, by whole networks.

    measured: (jobs,) > 0. start: of the same size as the corrected values, so that factors are near 1, as strengths
    expect.
    """
    keys = list(start)
    values = np.array([start[key] for key in keys])
    fit = fit_correction(occurrences(jobs, keys), values, measured, smallest=smallest_sum(space, keys), seed=seed)
    column = Column(
        unit=unit,
        how=f"{how}; left-out error {fit.cross_validation_percent:.2g} %",
        constant=fit.constant,
        values=dict(zip(keys, (fit.factors * values).tolist(), strict=True)),
    )
    return table.model_copy(update={"columns": table.columns | {name: column}})


def verified(
    table: LatencyTable, jobs: Sequence[TimingJob], samples: Samples, *, used: Sequence[Paths | None]
) -> LatencyTable:
    """Returns the table with its verification.

    jobs: two measurements of each network, whose ids end in a and b. used: the networks that calibrated the table.
    """
    first = [job for job in jobs if job.id.endswith("a")]
    again = [job for job in jobs if job.id.endswith("b")]
    result = verification(
        predicted=predicted_ms(table, first),
        raw=np.array([sum(table.entries[str(layer)].median_ms for layer in job.layers) for job in first]),
        macs=np.array([sum(layer.complexity.macs for layer in job.layers) for job in first], dtype=float),
        measured=network_ms(first, samples),
        repeated=network_ms(again, samples),
        calibrated_by=sum(job.paths in used for job in first),
    )
    return table.model_copy(update={"verification": result})


def predicted_ms(table: LatencyTable, jobs: Sequence[TimingJob]) -> np.ndarray:
    """Returns the table's prediction for each network, (jobs,) ms: the constant and the sum of its entries."""
    return np.array([table.constant_ms + sum(table.price(layer) for layer in job.layers) for job in jobs])


def columns_of(space: Space, measure: MeasureConfig) -> dict[str, Column]:
    """Returns the columns that follow from shapes alone: macs, params and weight_bytes."""
    layers = timed_layers(space)
    size = measure.torch_dtype.itemsize
    how = "from the layer's shapes"
    return {
        "macs": Column(unit="MACs", how=how, values={str(a): float(a.complexity.macs) for a in layers}),
        "params": Column(unit="parameters", how=how, values={str(a): float(a.complexity.params) for a in layers}),
        "weight_bytes": Column(
            unit="bytes",
            how=f"{how}, {measure.dtype}",
            values={str(a): float(size * a.complexity.params) for a in layers},
        ),
    }
