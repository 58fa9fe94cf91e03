"""Fits a table to whole-network timings, for people who have these and nothing else.

No op was timed: an entry begins as a guess from shapes, fitted to the networks, or as the scaled entry of another
device's table, and the networks move it (latency/shrinkage.py). What they do not determine is listed: entries that none
of them holds, and entries that always change together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from engine.errors import UserError
from latency.build import columns_of, corrected, occurrences, smallest_sum, today
from latency.calibration import Correction, left_out, outliers, reaches_0
from latency.config import FEWEST_CALIBRATION_NETWORKS, LatencyConfig, MeasureConfig
from latency.device import Device, Kind, named_device
from latency.existing import save_table
from latency.plan import Paths, TimingJob, network_job, timed_layers
from latency.prior import Prior, predicted_alone, read_prior
from latency.shrinkage import Layers, Shrunk, fit_entries, guess
from latency.table import Entry, LatencyTable, Scores, UsedRuntime, memory_format_name, prepare_table_file
from latency.timings import read_timings
from latency.verification import scores
from supernet.architecture import Architecture
from supernet.space import Layer, Space


class FitError(UserError):
    """Raised if no table can be made of the measurements."""


@dataclass(frozen=True)
class Identified:
    """Which entries of the space the measured networks determine, and which they do not."""

    unseen: tuple[str, ...]
    """The entries that no measured network holds: their milliseconds follow from the prior, or a guess from shapes,
    and from layers like them."""
    inseparable: tuple[tuple[str, ...], ...]
    """Groups of entries of which the networks determine only sums, though other networks of the space would determine
    each."""
    rank: int
    """The number of independent comparisons between the measured networks."""
    needed: int
    """The number that would determine every network made of the seen entries."""


@dataclass(frozen=True)
class Fit:
    """A table fitted to whole networks, and how good it is."""

    space: Space
    table: LatencyTable
    left_out: Scores
    """The errors on networks that were left out of the fit that predicts them."""
    identified: Identified
    outliers: tuple[tuple[Paths, float, float], ...] = ()
    """(network, measured ms, ms that the others predict) of networks that no fit to the others explains."""
    prior_alone: Scores | None = None
    """The errors of the prior's sums, scaled and shifted to the others, on left-out networks; None without a prior."""


_LEAST_SHARE = 1e-6
"""The least entry of a scaled prior, as a share of the largest."""
LARGEST_REPEAT = 1.5
"""Timings of one network that differ by more than this factor contradict each other."""


def fit_table(
    space: Space,
    measure: MeasureConfig,
    measurements: Sequence[tuple[Paths, float]],
    *,
    device: Device,
    runtime: UsedRuntime,
    source: str,
    prior: Prior | None = None,
    seed: int = 0,
) -> Fit:
    """Fits a table to timings of whole networks.

    measurements: (paths, milliseconds); several of one network count as their median. source: the file or device that
    they come from, for the table's header and for errors. prior: the entries of another device; None for a guess from
    shapes. seed: the seed by which networks are left out of the fits that predict them.

    Raises FitError for fewer than FEWEST_CALIBRATION_NETWORKS different networks, for timings of one network that
    differ by more than LARGEST_REPEAT, and if all timings are equal; PriorError if the prior's
    sums, scaled and shifted, predict left-out networks no better than one number for all of them.
    """
    times = _times_by_network(space, measurements, source)
    jobs = [network_job(space, f"network{i}", "calibration", paths) for i, paths in enumerate(times)]
    measured = np.array([float(np.median(taken)) for taken in times.values()])
    layers = timed_layers(space)
    keys = [str(layer) for layer in layers]
    counts = occurrences(jobs, keys)
    known = Layers.of(layers, prior.entries if prior else None)
    alone = used = None
    if prior:
        alone = scores(predicted_alone(prior, counts, measured, seed), measured)
        used = prior.used(counts, measured)
        start = used.scale * prior.entries
        start = np.maximum(start, _LEAST_SHARE * start.max())  # a factor cannot change an entry of 0
    else:
        start = guess(known.shapes, counts, measured)
    correction = _correction(known, start, counts, measured, smallest_sum(space, keys), seed)
    table = LatencyTable(
        device=device,
        runtime=runtime,
        threads=measure.threads if device.kind == "cpu" else None,
        batch=measure.batch,
        dtype=measure.dtype,
        memory_format=memory_format_name(measure),
        activation=space.config.activation,
        input_size=space.config.input_size,
        date=today(),
        method="whole_networks",
        how=f"fitted to {len(jobs)} whole-network latencies{f', prior: {prior}' if prior else ''}; no op was timed",
        source=source,
        columns=columns_of(space, measure),
        entries={key: Entry(median_ms=float(ms)) for key, ms in zip(keys, start, strict=True)},
    )
    off = tuple(
        (list(times)[i], float(measured[i]), float(correction.left_out[i]))
        for i in outliers(correction.left_out, measured)
    )
    fitted = corrected(table, correction, seed, used)
    return Fit(space, fitted, scores(correction.left_out, measured), identify(space, jobs), off, alone)


def _times_by_network(
    space: Space, measurements: Sequence[tuple[Paths, float]], source: str
) -> dict[Paths, list[float]]:
    """Returns all milliseconds of each network. Raises FitError if no table can be fitted to them, see `fit_table`."""
    times: dict[Paths, list[float]] = {}
    for paths, ms in measurements:
        times.setdefault(paths, []).append(ms)
    if len(times) < FEWEST_CALIBRATION_NETWORKS:
        raise FitError(
            source,
            f"holds {len(times)} different networks",
            f"at least {FEWEST_CALIBRATION_NETWORKS}, better 60",
            "measure more",
        )
    for paths, taken in times.items():
        if max(taken) > LARGEST_REPEAT * min(taken):
            raise FitError(
                source,
                f"the network {named(space, paths)} has {min(taken):g} and {max(taken):g} ms",
                remedy="timings of one network should agree: remove the wrong one, or time it again",
            )
    if len({ms for taken in times.values() for ms in taken}) == 1:
        raise FitError(source, f"all networks have {measurements[0][1]:g} ms", "what each of them took")
    return times


def fit_to_file(
    config: LatencyConfig | Path,
    timings: Path,
    out: Path,
    *,
    overrides: Sequence[str] = (),
    device_name: str = "unknown device",
    device_kind: Kind = "other",
    runtime: str = "unknown",
    prior: LatencyTable | Path | Literal["macs"] | None = None,
    allow_modules: Collection[str] = (),
) -> Fit:
    """Fits a table to a file of whole-network timings, writes it to `out` and returns the fit.

    config: an object, or the path of a YAML file to which `overrides` (key.sub=value) apply. timings: see
    `latency.timings.read_timings`, also for allow_modules. device_name, device_kind, runtime: what timed the networks,
    the runtime in words such as 'tflite 2.16'. prior: see `latency.prior.read_prior`.

    Raises ConfigError, TimingsError, FitError or PriorError if one of these is wrong, and TableError if `out` cannot be
    written or holds anything but an earlier version of this table.
    """
    config = LatencyConfig.read(config, overrides)
    space = Space(config.space)
    prepare_table_file(out)
    fit = fit_table(
        space,
        config.measure,
        read_timings(timings, space, allow_modules),
        device=named_device(device_kind, device_name, None, "unknown"),
        runtime=UsedRuntime.parsed(runtime),
        source=str(timings),
        prior=None if prior is None else read_prior(prior, space),
    )
    save_table(fit.table, out)
    return fit


def named(space: Space, paths: Paths) -> str:
    """Returns a network as a file of timings has it: the candidates of all its edges, in quotes."""
    return f"'{' '.join(Architecture(space, paths).names)}'"


def _correction(
    layers: Layers,
    start: np.ndarray,
    counts: np.ndarray,
    measured: np.ndarray,
    smallest: Callable[[np.ndarray], float],
    seed: int,
) -> Correction:
    """Returns the factors from `start`, (entries,) ms > 0, to the fitted entries. counts: (networks, entries).

    A left-out network takes no part in anything that predicts it, the guess and the variances included.
    """

    def fit(some: np.ndarray, taken: np.ndarray) -> Shrunk:
        free = fit_entries(layers, some, taken)
        if reaches_0(smallest(free.ms) + free.constant, taken):
            return fit_entries(layers, some, taken, free_constant=False)
        return free

    def entries(some: np.ndarray, taken: np.ndarray) -> tuple[np.ndarray, float]:
        shrunk = fit(some, taken)
        return shrunk.ms, shrunk.constant

    shrunk, predicted = fit(counts, measured), left_out(entries, counts, measured, seed)
    error = float(np.sqrt(np.mean((predicted / measured - 1) ** 2)))
    return Correction(shrunk.ms / start, shrunk.constant, shrunk.strength, predicted, 100 * error)


def identify(space: Space, jobs: Sequence[TimingJob]) -> Identified:
    """Compares the span of the measured networks with that of all networks of the space.

    A network is the vector of its entries' counts and a 1 for the constant. Predictions are determined for exactly the
    networks in the span of the measured ones. Shifting milliseconds between layers that every network has (stem, head)
    changes no prediction, so it is no lack: only directions inside the span of the whole space count.
    """
    keys = [str(layer) for layer in timed_layers(space)]
    counts = occurrences(jobs, keys)
    seen = counts.sum(axis=0) > 0
    unseen = tuple(key for key, there in zip(keys, seen, strict=True) if not there)
    measured = np.hstack([counts, np.ones((len(jobs), 1))])
    everything = _span_of_space(space, keys, seen)
    basis, unnoticeable = _span_and_rest(everything)
    within = measured @ basis.T  # coordinates of the measured networks in the span of the space
    _, values, directions = np.linalg.svd(within, full_matrices=True)
    rank = int((values > _TINY * values.max()).sum())
    lacking = directions[rank:] @ basis  # (needed - rank, entries + 1): changes of entries that no measurement notices
    # a stable order, since changes of stem, head and constant have the same norm; the constant is last
    smallest_first = np.argsort(np.linalg.norm(lacking, axis=0).round(6), kind="stable")
    lacking = _in_few_entries(lacking, unnoticeable, smallest_first)
    return Identified(unseen, _groups(lacking[:, :-1], keys), rank, len(basis))


def _in_few_entries(changes: np.ndarray, unnoticeable: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Returns changes of entries that change predictions as `changes` do, but leave the first entries of `order` alone.

    changes, unnoticeable: (any, entries + 1). The latter is a basis of the changes that alter the prediction of no
    network of the space, such as more for every candidate of an edge and less for the stem. As many entries are left
    alone as it has rows.
    """
    staying: list[int] = []
    for k in order:
        if np.linalg.matrix_rank(unnoticeable[:, [*staying, k]], tol=1e-6) > len(staying):
            staying.append(int(k))
    shares = np.linalg.solve(unnoticeable[:, staying].T, changes[:, staying].T)
    few: np.ndarray = changes - shares.T @ unnoticeable
    return few


_TINY = 1e-9


def _span_of_space(space: Space, keys: Sequence[str], seen: np.ndarray) -> np.ndarray:
    """Returns rows that span all networks made of seen entries: one network, and each exchange of one candidate."""
    column = {key: k for k, key in enumerate(keys)}

    def vector(layer: Layer) -> np.ndarray | None:
        """Returns the row of one layer; None if its entry was not seen."""
        row = np.zeros(len(keys) + 1)
        if not layer.is_skip:
            if not seen[column[str(layer)]]:
                return None
            row[column[str(layer)]] = 1
        return row

    base, rows = np.zeros(len(keys) + 1), []
    base[-1] = 1
    for layer in (space.stem, space.feature_mix, space.classifier):
        base[column[str(layer)]] += 1
    for edge in space.edges:
        options = [row for layer in edge.layers if (row := vector(layer)) is not None]
        base += options[0]  # every edge of a measured network took a candidate, so there is one
        rows += [row - options[0] for row in options[1:]]
    return np.array([base, *rows])


def _span_and_rest(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns orthonormal bases of the span of the rows, and of its complement."""
    _, values, directions = np.linalg.svd(rows, full_matrices=True)
    rank = int((values > _TINY * values.max()).sum())
    return directions[:rank], directions[rank:]


def _groups(lacking: np.ndarray, keys: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Returns the entries that the rows of `lacking` move, grouped so that none of these changes links two groups."""
    if not len(lacking):
        return ()
    basis, _ = _span_and_rest(lacking)
    moves = np.abs(basis.T @ basis) > 1e-6
    left = {k for k in range(len(keys)) if moves[k, k]}
    groups = []
    while left:
        group, waiting = set(), {min(left)}
        while waiting:
            k = waiting.pop()
            group.add(k)
            waiting |= {j for j in left - group if moves[k, j]}
        left -= group
        groups.append(tuple(keys[k] for k in sorted(group)))
    return tuple(groups)
