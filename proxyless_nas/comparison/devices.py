"""Gathers the latencies of networks: published, predicted by tables, and measured in the runtimes of this machine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from engine.errors import ConfigError, UserError
from engine.nearest import nearest
from engine.progress import Report
from latency.config import MeasureConfig
from latency.device import this_device
from latency.measure import NetworkTimer, Timing
from latency.noise import LARGEST_DISTURBANCE, acceptable_error, least_disturbed, steady, twice_noise
from latency.prediction import predicted_ms
from latency.runtimes import RUNTIMES, version_here
from latency.runtimes.exported import FILE_RUNTIMES, check_installed
from latency.table import LatencyTable, TableError
from proxyless_nas.comparison.networks import Compared
from proxyless_nas.comparison.result import Column, Latency
from published.networks import PUBLISHED_DEVICES
from supernet.design import Design

log = logging.getLogger("proxyless_nas")

MOST_TIMINGS = 3
"""The most timings of all networks in one runtime, until all are steady. A search repeats a timing more often, since it
decides by it; here it is one of many figures, and says itself if it was disturbed."""
ALIASES: Mapping[str, str] = {"pytorch": "cpu"}
"""Further names of devices."""
DEVICES: Mapping[str, Mapping[str, str]] = {
    "cpu": {"device": "cpu", "runtime": "pytorch"},
    "cuda": {"device": "cuda", "runtime": "pytorch"},
    **{runtime: {"device": "cpu", "runtime": runtime} for runtime in RUNTIMES if runtime != "pytorch"},
}
"""The devices that `--devices` names: PyTorch on the CPU and on the GPU, and the other runtimes on the CPU."""
Figures = dict[str, Latency]
"""The latency of each network by its name."""
Timer = Callable[[MeasureConfig], NetworkTimer]


@dataclass(frozen=True)
class Target:
    """A runtime of this machine in which networks are timed."""

    name: str
    measure: MeasureConfig


def targets_of(devices: Sequence[str], threads: int, batch: int) -> tuple[Target, ...]:
    """Returns the devices of these names, each once. Raises ConfigError if one is not known, not here, or its runtime
    is not installed, so that this is said before anything is timed."""
    targets: dict[str, Target] = {}
    for given in devices:
        name = ALIASES.get(given, given)
        if name not in DEVICES:
            expected = ", ".join(DEVICES)
            raise ConfigError("--devices", f"got '{given[:80]}'", expected, suggestion=nearest(given, DEVICES))
        measure = MeasureConfig.model_validate({**DEVICES[name], "threads": threads, "batch": batch})
        try:
            this_device(measure.device)  # type: ignore[arg-type]  # none is external
            if measure.runtime in FILE_RUNTIMES:
                check_installed(measure.runtime)
        except ConfigError as error:
            raise error.at("--devices") from None
        targets[name] = Target(name, measure)
    return tuple(targets.values())


def published_columns(networks: Sequence[Compared]) -> list[tuple[Column, Figures]]:
    """Returns a column for each published device of which one of the networks has a figure."""
    columns = []
    for device, words in PUBLISHED_DEVICES.items():
        if not any(device in network.published_ms for network in networks):
            continue
        reason = "no latency of it is published"
        figures = {
            network.name: Latency(ms=float(network.published_ms[device]))
            if device in network.published_ms
            else Latency(reason=reason)
            for network in networks
        }
        columns.append((Column(name=f"published_{device}", kind="published", text=words), figures))
    return columns


def predicted_columns(
    networks: Sequence[Compared], tables: Sequence[tuple[str, LatencyTable]]
) -> list[tuple[Column, Figures]]:
    """Returns a column for each table: the sums of its entries over the layers of each network that it covers."""
    columns = []
    for name, table in tables:
        threads = "" if table.threads is None else f", {table.threads} thread{'s' if table.threads > 1 else ''}"
        known = f"error {table.verification.table.mape_percent:.1f} %" if table.verification else "not verified"
        text = f"table of {table.device.name}, {table.runtime.name} {table.runtime.version}{threads}, "
        text += f"batch {table.batch}, {table.dtype}; {known}"
        figures = {network.name: predicted(network.design, table) for network in networks}
        columns.append((Column(name=name, kind="predicted", text=text), figures))
    return columns


def predicted(design: Design | None, table: LatencyTable) -> Latency:
    """Returns the latency of a network by a table, or the reason why the table does not cover it."""
    if design is None:
        return Latency(reason="the network's layers are not known, so that no table covers it")
    try:
        ms = predicted_ms(design, table)
    except TableError as reason:
        return Latency(reason=str(reason))
    error = table.verification.table.mape_percent / 100 if table.verification else 0.0
    return Latency(ms=ms, error=error)


def named_tables(tables: Sequence[LatencyTable | Path], words: Sequence[str] = ()) -> list[tuple[str, LatencyTable]]:
    """Reads tables. Returns each with a name of its own: that of its file, or of its device if it is an object."""
    named: dict[str, LatencyTable] = {}
    seen: set[Path] = set()
    for table in tables:
        if isinstance(table, Path):
            if table.resolve() in seen:
                continue
            seen.add(table.resolve())
        own = table if isinstance(table, LatencyTable) else LatencyTable.load(table)
        name = table.stem if isinstance(table, Path) else f"table_of_{own.device.kind}"
        taken = {*DEVICES, *ALIASES, *named}
        while name in taken:
            name += "'"
        named[name] = own
    return list(named.items())


def measured_columns(
    networks: Sequence[Compared],
    targets: Sequence[Target],
    rounds: int,
    report: Report,
    timer: Timer = NetworkTimer,
) -> list[tuple[Column, Figures]]:
    """Returns a column for each device of this machine: all networks timed in turn, `rounds` times.

    If other work disturbs a timing, all are timed again, at most MOST_TIMINGS times; the figures come from the timing
    that was disturbed least. timer: returns what times them.
    """
    return [_measured(networks, target, rounds, report, timer) for target in targets]


def _measured(
    networks: Sequence[Compared], target: Target, rounds: int, report: Report, timer: Timer
) -> tuple[Column, Figures]:
    figures: Figures = {}
    with timer(target.measure) as clock:
        words = {f"network{i}": network for i, network in enumerate(networks)}
        for done, (word, network) in enumerate(words.items()):
            report(f"prepare for {target.name}", done, len(words))
            try:
                clock.load(word, network.fresh(), network.channels, network.input_size)
            except UserError as error:
                reason = str(error).replace(f"'{word}'", f"'{network.name}'")
                figures[network.name] = Latency(reason=reason)
        report(f"prepare for {target.name}", len(words), len(words))
        if len(figures) < len(networks):
            timings = _timings(clock, target.name, rounds, report)
            figures |= {words[word].name: _figure(timing) for word, timing in timings.items()}
    return Column(name=target.name, kind="measured", text=_words(target, rounds)), figures


def _timings(clock: NetworkTimer, device: str, rounds: int, report: Report) -> dict[str, Timing]:
    """Returns the timing of each network, from the first timing in which all are steady or the best of MOST_TIMINGS."""

    def attempt(number: int) -> dict[str, Timing]:
        again = f", {number + 1} of at most {MOST_TIMINGS}: the machine is busy" if number else ""
        return clock.timings(rounds, partial(report, f"time on {device}{again}"))

    best = least_disturbed(attempt, _disturbance, MOST_TIMINGS)
    if _disturbance(best) > LARGEST_DISTURBANCE:
        log.warning(
            "%s: other work disturbed the timings, the noise between rounds is up to %.0f %% of a latency; measure "
            "again on an idle machine",
            device, 50 * _disturbance(best),
        )  # fmt: skip
    return best


def _disturbance(timings: Mapping[str, Timing]) -> float:
    """Returns twice the noise of the timing that has the most, as a share."""
    return max(map(twice_noise, timings.values()))


def _figure(timing: Timing) -> Latency:
    still = steady(timing)
    error = acceptable_error(timing) if still else twice_noise(timing)
    return Latency(ms=timing.median_ms, noise_ms=timing.noise_ms, error=error, steady=still)


def _words(target: Target, rounds: int) -> str:
    """Returns the device and the conditions of a measured column."""
    measure = target.measure
    device = this_device(measure.device)  # type: ignore[arg-type]  # none is external
    how = {"pytorch": "PyTorch", "pytorch_compile": "torch.compile, PyTorch"}
    runtime = how.get(measure.runtime) or FILE_RUNTIMES[measure.runtime].title
    threads = f", {measure.threads} thread{'s' if measure.threads > 1 else ''}" if measure.device == "cpu" else ""
    version = version_here(measure.runtime)
    text = f"{runtime} {version} on {device.name} ({device.cores} cores){threads}, batch {measure.batch}, "
    return text + f"{measure.dtype}; median of {rounds} rounds ± the standard deviation of the rounds"
