"""From timings to a table: entries, calibration, verification, other columns. The same for here and for a device
kit."""

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
from latency.plan import Job, Paths, timed_layers
from latency.table import Calibration, Column, Entry, LatencyTable, Method, UsedPrior, UsedRuntime, memory_format_name
from latency.verification import verification
from supernet.cost import Cost
from supernet.space import Space

log = logging.getLogger("latency")


Samples = Mapping[str, Sequence[Sequence[Any]]]
"""Job id -> [round][pass], or [round][pass][layer] for a job timed from inside; milliseconds."""


@dataclass(frozen=True)
class Origin:
    """Who measured: what a table's header says of it."""

    device: Device
    runtime: UsedRuntime
    how: str
    date: str = ""


def build_table(
    space: Space, measure: MeasureConfig, jobs: Sequence[Job], samples: Samples, origin: Origin, *, seed: int,
    energy: Mapping[str, Sequence[float]] | None = None,
) -> LatencyTable:  # fmt: skip
    """The table that a plan's timings make. energy: job id -> mJ per pass in each round, if the platform measures
    it."""
    context = [job for job in jobs if job.purpose == "context"]
    alone = [job for job in jobs if job.purpose == "layer"]
    entries = entries_in_context(context, samples) if context else entries_alone(alone, samples)
    method: Method = "in_context" if context else "isolated"
    timed = {
        "in_context": f"layers timed inside {len(context)} random networks",
        "isolated": "layers timed alone, since this runtime does not tell a running network's layers apart",
    }[method]
    table = LatencyTable(
        device=origin.device,
        runtime=origin.runtime,
        threads=measure.threads if origin.device.kind != "gpu" else None,
        batch=measure.batch,
        dtype=measure.dtype,
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
    calibration = [job for job in jobs if job.purpose == "calibration"]
    if calibration:
        table = calibrated(table, space, calibration, network_ms(calibration, samples), seed=seed)
        if energy and all(job.id in energy for job in calibration):
            used = np.array([np.median(energy[job.id]) for job in calibration])
            if (used > 0).all():  # a counter may be too coarse for so small a network
                table = with_energy(table, space, calibration, used, seed=seed)
    checked = [job for job in jobs if job.purpose == "verification"]
    return verified(table, checked, samples, used=[job.paths for job in calibration]) if checked else table


def today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def entries_in_context(jobs: Sequence[Job], samples: Samples) -> dict[str, Entry]:
    """Every timing of a layer, wherever it stood."""
    times: dict[str, list[float]] = defaultdict(list)
    for job in jobs:
        passes = np.concatenate([np.asarray(taken, dtype=float) for taken in samples[job.id]])  # (passes, layers)
        for layer, column in zip(job.layers, passes.T, strict=True):
            times[str(layer)].extend(column.tolist())
    return {key: _entry(taken) for key, taken in times.items()}


def entries_alone(jobs: Sequence[Job], samples: Samples) -> dict[str, Entry]:
    return {str(job.layers[0]): _entry(np.ravel(samples[job.id]).tolist()) for job in jobs}


def _entry(times: Sequence[float]) -> Entry:
    low, median, high = np.percentile(times, [25, 50, 75])
    return Entry(median_ms=float(median), iqr_ms=float(high - low), n=len(times))


def network_ms(jobs: Sequence[Job], samples: Samples) -> np.ndarray:
    """(jobs,): the median of each whole network's timings."""
    return np.array([np.median(samples[job.id]) for job in jobs])


def occurrences(jobs: Sequence[Job], keys: Sequence[str]) -> np.ndarray:
    """(jobs, keys): how often each entry occurs in each network. ValueError for a layer without an entry."""
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
    table: LatencyTable, space: Space, jobs: Sequence[Job], measured: np.ndarray, *, seed: int
) -> LatencyTable:
    """The table with corrected entries beside the measured ones; an earlier correction is what the new one starts from.

    measured: (jobs,) ms. The old verification no longer holds and is dropped.
    """
    keys = list(table.entries)
    start = np.array([entry.ms for entry in table.entries.values()])
    found = fit_correction(occurrences(jobs, keys), start, measured, smallest=smallest_sum(space, keys), seed=seed)
    for i in outliers(found.left_out, measured):
        log.warning(
            f"{jobs[i].id} took {measured[i]:.4g} ms, where the other networks predict {found.left_out[i]:.4g} ms: "
            "something disturbed it, and the whole table suffers; measure again"
        )
    return corrected(table, found, seed)


def corrected(table: LatencyTable, found: Correction, seed: int, prior: UsedPrior | None = None) -> LatencyTable:
    """Returns the table with `calibrated_ms` and the constant of a fit that started from its entries, and used `prior`.

    Its history keeps the networks of every earlier calibration.
    """
    entries = {
        key: entry.model_copy(update={"calibrated_ms": float(factor * entry.ms)})
        for (key, entry), factor in zip(table.entries.items(), found.factors, strict=True)
    }
    record = Calibration(
        date=today(),
        networks=len(found.left_out),
        strength=found.strength,
        cross_validation_percent=found.cross_validation_percent,
        seed=seed,
        history=table.calibration.drawn if table.calibration else (),
        prior=prior,
    )
    return table.model_copy(
        update={"entries": entries, "constant_ms": found.constant, "calibration": record, "verification": None}
    )


def with_energy(
    table: LatencyTable, space: Space, jobs: Sequence[Job], measured_mj: np.ndarray, *, seed: int
) -> LatencyTable:
    """A column `energy_mj`: energies of whole networks, dealt to layers by the same fit that starts from their
    latencies."""
    keys = list(table.entries)
    counts = occurrences(jobs, keys)
    start = np.array([entry.ms for entry in table.entries.values()])
    start *= measured_mj.mean() / (counts @ start).mean()  # mJ, so that factors are near 1, as strengths expect
    found = fit_correction(counts, start, measured_mj, smallest=smallest_sum(space, keys), seed=seed)
    how = f"RAPL counters of {len(jobs)} whole networks, fitted; left-out error {found.cross_validation_percent:.2g} %"
    values = dict(zip(keys, (found.factors * start).tolist(), strict=True))
    column = Column(unit="mJ", how=how, constant=found.constant, values=values)
    return table.model_copy(update={"columns": table.columns | {"energy_mj": column}})


def verified(
    table: LatencyTable, jobs: Sequence[Job], samples: Samples, *, used: Sequence[Paths | None]
) -> LatencyTable:
    """Returns the table with its verification. jobs: `...a` and `...b`, two measurements of each network. used: the
    networks that calibrated the table."""
    first = [job for job in jobs if job.id.endswith("a")]
    again = [job for job in jobs if job.id.endswith("b")]
    found = verification(
        predicted=predicted_ms(table, first),
        raw=np.array([sum(table.entries[str(layer)].median_ms for layer in job.layers) for job in first]),
        macs=np.array([sum(layer.complexity.macs for layer in job.layers) for job in first], dtype=float),
        measured=network_ms(first, samples),
        repeated=network_ms(again, samples),
        calibrated_by=sum(job.paths in used for job in first),
    )
    return table.model_copy(update={"verification": found})


def predicted_ms(table: LatencyTable, jobs: Sequence[Job]) -> np.ndarray:
    """(jobs,): the table's sums."""
    return np.array([table.constant_ms + sum(table.price(layer) for layer in job.layers) for job in jobs])


def columns_of(space: Space, measure: MeasureConfig) -> dict[str, Column]:
    """What follows from shapes alone."""
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
