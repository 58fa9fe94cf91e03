"""Closing the loop: on its table's own device, the derived network is timed and has to keep its word.

A table's sum is a prediction. Where the search runs on the device of a limit's table, the prediction is checked, and if
it misses, the bound given to the derivation is moved by the miss and the derivation repeated. Several limits may be of
this machine, of other runtimes or thread counts: each is timed as its table was measured, and has its own bound moved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from engine.progress import Report, silent
from latency.device import this_device
from latency.measure import Timing
from search.derive.clock import Clock, Reading, Timer, acceptable_error, in_turn, meets_bound, steady, twice_noise
from search.derive.derivation import Derivation, InfeasibleError, below_bound, derive
from search.limits.limit import Limit, limit_names
from search.program import UnfinishedError
from supernet.cost import Cost
from supernet.space import Space

MOST_TRIES = 5


@dataclass(frozen=True)
class Try:
    """One derivation and its timings; a tuple's entries are of the limits in MeasuredDerivation.timed."""

    derivation: Derivation
    asked: tuple[float, ...]
    """The bounds given to the derivation, in ms."""
    readings: tuple[Reading, ...]


@dataclass(frozen=True)
class MeasuredDerivation:
    derivation: Derivation
    missed: tuple[int, ...] = ()
    """Indices of the limits that are not met: measured where they are timed, else predicted."""
    unsettled: tuple[int, ...] = ()
    """Indices of the limits whose timing is not reliable, so that it is undecided whether they are met."""
    timed: tuple[int, ...] = ()
    """Indices of the limits whose tables are of this machine."""
    tries: tuple[Try, ...] = ()
    """The tries in order; empty if nothing is timed."""
    chosen: int = 0
    """The index of the try whose derivation this is."""
    confirmation: tuple[Timing, ...] = ()
    """Second timings, independent of those that decided; one for each in `timed`."""

    @property
    def met(self) -> bool | None:
        """Whether every limit is met; None if that is undecided."""
        return False if self.missed else None if self.unsettled else True


def local_latency_limits(limits: Sequence[Limit]) -> list[int]:
    """The indices of the latency limits whose tables were measured on this very device, so that it can time networks.

    A limit of several tables is none: what it bounds cannot be timed on one device.
    """
    found = []
    for i, limit in enumerate(limits):
        source = limit.source
        if limit.metric != "latency" or source is None or source.measure.device == "external":
            continue
        if source.table.device.fingerprint == this_device(source.measure.device).fingerprint:
            found.append(i)
    return found


def derive_measured(
    alpha: Tensor,
    mask: Tensor,
    space: Space,
    limits: Sequence[Limit],
    method: str,
    among: int = 1,
    loss: Callable[[tuple[int, ...]], float] | None = None,
    timer: Timer = in_turn,
    report: Report = silent,
) -> MeasuredDerivation:
    """Derives (see derivation.derive) and, if tables are of this device, measures and corrects, at most MOST_TRIES
    times.

    A limit is met if measured <= T (1 + acceptable_error); one that is not timed, if it is predicted so. With `at`, a
    network that is faster than T (1 - tolerance - acceptable_error) is no violation but leaves budget unused, so it is
    corrected too while tries last; of the tries that meet every timed limit, the one that uses most of them wins.
    `argmax` ignores limits: it is timed once and never corrected. An unreliable reading (see clock.Reading) decides
    nothing: no bound is moved, the try wins only if no other one meets the limits, and the limit is neither met nor
    missed. If no bound is moved, the tries end. The notes describe the try that won. report: called with what is being
    done.
    """
    local = tuple(local_latency_limits(limits))
    if not local:
        report("deriving", 0, 0)
        found = derive(alpha, mask, limits, method, among, loss, report)
        return MeasuredDerivation(found, tuple(_predicted_above(found.paths, limits)))
    timed = [limits[i] for i in local]
    clocks = [_clock(limit, space, timer) for limit in timed]
    most = MOST_TRIES if method == "constrained" else 1

    def derived(moved: Sequence[Limit], what: str) -> Derivation:
        report(what, 0, 0)
        return derive(alpha, mask, moved, method, among, loss, report, what)

    tries = _tries(derived, limits, local, clocks, most, report)
    chosen = _best(tries, timed)
    derivation = tries[chosen].derivation
    confirmation = tuple(clock.timed(derivation.paths, report, "timing once more, to confirm") for clock in clocks)
    every_name = limit_names(limits)
    names = [every_name[i] for i in local]
    verdicts = list(map(_verdict, names, timed, tries[chosen].readings, confirmation))
    moved_notes = [  # what the derivation says of its windows is of these bounds
        f"{name}: derived at {asked:.6g} ms for {limit.bound:.6g} ms, as the timings asked for"
        for name, limit, asked in zip(names, timed, tries[chosen].asked, strict=True)
        if derivation.notes and asked != limit.bound
    ]
    missed = {i for i in _predicted_above(derivation.paths, limits) if i not in local}
    missed |= {i for i, verdict in zip(local, verdicts, strict=True) if verdict.met is False}
    return MeasuredDerivation(
        replace(derivation, notes=(*derivation.notes, *moved_notes, *(v.note for v in verdicts if v.note))),
        tuple(sorted(missed)),
        tuple(i for i, verdict in zip(local, verdicts, strict=True) if verdict.met is None),
        local,
        tuple(tries),
        chosen,
        tuple(second.timing for second in confirmation),
    )


def _tries(
    derived: Callable[[Sequence[Limit], str], Derivation],
    limits: Sequence[Limit],
    local: Sequence[int],
    clocks: Sequence[Clock],
    most: int,
    report: Report,
) -> list[Try]:
    """Derive, time, move the bounds, until nothing moves them or `most` tries are made; the last may meet no limit."""
    timed = [limits[i] for i in local]
    asked = tuple(limit.bound for limit in timed)
    tries: list[Try] = []
    for k in range(most):
        bounds = dict(zip(local, asked, strict=True))
        again = f" again ({k + 1} of at most {most}), with a corrected bound" if k else ""
        moved = [replace(limit, bound=bounds.get(i, limit.bound)) for i, limit in enumerate(limits)]
        try:
            found = derived(moved, f"deriving{again}")
        except (InfeasibleError, UnfinishedError):
            if not tries:
                raise
            break  # the corrected bounds and the other limits exclude each other, or may; the tries so far decide
        tries.append(
            Try(found, asked, tuple(clock.timed(found.paths, report, "timing the derived network") for clock in clocks))
        )
        asked = tuple(map(_corrected, asked, timed, tries[-1].readings))
        if any(asked == t.asked for t in tries):
            break  # all is well, or nothing may be moved, or a bound is clamped to the reachable range
    return tries


@dataclass(frozen=True)
class _Verdict:
    """The verdict on one timed limit."""

    met: bool | None
    """Whether the limit is met; None if the timing is not reliable enough to decide."""
    note: str = ""


def _verdict(name: str, limit: Limit, reading: Reading, second: Reading) -> _Verdict:
    """Returns the verdict on a limit. second: the reading of the confirmation."""
    if not reading.believed:
        return _Verdict(None, _disturbed(name, reading))
    if not _within(limit, reading):
        return _Verdict(False)
    if second.believed and not _within(limit, second):
        first_ms, second_ms = reading.timing.median_ms, second.timing.median_ms
        return _Verdict(
            True,
            f"{name}: {first_ms:.4g} ms in the timing that decided, {second_ms:.4g} ms in a second one, which misses "
            f"{limit.bound:.4g} ms; ask for a little less where the limit is hard",
        )
    return _Verdict(True)


def _clock(limit: Limit, space: Space, timer: Timer) -> Clock:
    assert limit.source is not None
    assert isinstance(limit.cost, Cost)  # of one table
    return Clock.of(space, limit.cost, limit.source.measure, timer)


def _corrected(asked: float, limit: Limit, reading: Reading) -> float:
    """Returns the bound for the next derivation: moved by the miss, unless there is none or the reading is not
    reliable."""
    unused = limit.at and reading.timing.median_ms < limit.bound * (
        1 - limit.tolerance - acceptable_error(reading.timing)
    )
    if (_within(limit, reading) and not unused) or not reading.believed:
        return asked
    low, high = limit.cost.reachable
    return min(high, max(low, limit.bound - (reading.timing.median_ms - reading.predicted)))


def _best(tries: Sequence[Try], limits: Sequence[Limit]) -> int:
    """Returns, among the tries that meet every timed limit, the one that uses most of the limits; if none meets them,
    the try closest to that. Tries with reliable readings come before all others."""

    def used(i: int) -> list[float]:
        return [r.timing.median_ms / limit.bound for limit, r in zip(limits, tries[i].readings, strict=True)]

    believed = [i for i, t in enumerate(tries) if all(reading.believed for reading in t.readings)]
    for candidates in (believed, range(len(tries))):
        if kept := [i for i in candidates if all(map(_within, limits, tries[i].readings))]:
            return max(kept, key=lambda i: sum(used(i)))
    return min(believed or range(len(tries)), key=lambda i: max(used(i)))


def _within(limit: Limit, reading: Reading) -> bool:
    return meets_bound(reading.timing, limit.bound)


def _predicted_above(paths: tuple[int, ...], limits: Sequence[Limit]) -> list[int]:
    """Returns the limits that a network is predicted to miss: none after a constrained derivation; argmax ignores
    limits."""
    return [i for i, limit in enumerate(limits) if not below_bound(paths, limit)]


def _disturbed(name: str, last: Reading) -> str:
    """Returns the note about a reading that is not reliable."""
    again = "when the machine is idle, scripts/run_search.py with --resume times again"
    if not steady(last.timing):
        noise = 100 * twice_noise(last.timing)
        return (
            f"{name}: other work on this machine disturbs the timing (2x noise is {noise:.0f} %), so no "
            f"bound is corrected and it stays open whether the limit is met; {again}"
        )
    return (
        f"{name}: a network of the middle of the range takes {last.drift:.2f} times what the table predicts, so the "
        "whole machine is slower or faster than its table, and it stays open whether the limit is met; "
        f"{again}, or recalibrate the table if that stays"
    )
