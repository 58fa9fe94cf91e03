"""Closing the loop: on its table's own device, the derived network is timed and its bound corrected.

A table's sum is a prediction. Where the search runs on the device of a limit's table, the prediction is checked, and if
it misses, the bound given to the derivation is moved by the miss and the derivation repeated. Several limits may be of
this machine, of other runtimes or thread counts: each is timed as its table was measured, and has its own bound moved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from engine.progress import Report, silent
from latency.device import this_device
from search.derive.clock import Clock, Reading, Timer, in_turn, meets_bound, steady, twice_noise
from search.derive.derivation import Derivation, InfeasibleError, derive
from search.derive.outcome import LimitOutcome, MeasuredDerivation, TimedLimit, Try
from search.limits.limit import AdditiveLimit, Limit, additive
from search.program import UnfinishedError
from supernet.alpha import Alpha
from supernet.cost import Cost
from supernet.space import Space

MOST_TRIES = 5


def local_latency_limits(limits: Sequence[Limit]) -> tuple[AdditiveLimit, ...]:
    """Returns the latency limits whose tables were measured on this very device, so that it can time networks.

    A limit of several tables is none: what it bounds cannot be timed on one device.
    """
    return tuple(limit for limit in additive(limits) if _is_local(limit))


def _is_local(limit: AdditiveLimit) -> bool:
    """Returns whether a limit is on the latency of this very machine."""
    source = limit.source
    if limit.metric != "latency" or source is None or source.measure.device == "external":
        return False
    return source.table.device.fingerprint == this_device(source.measure.device).fingerprint


def derive_measured(
    alpha: Alpha,
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
    sums = additive(limits)
    clocks = {limit: _clock(limit, space, timer) for limit in local_latency_limits(limits)}
    if not clocks:
        report("deriving", 0, 0)
        derivation = derive(alpha, sums, method, among, loss, report)
        predicted = (LimitOutcome.predicted_only(limit, derivation.paths) for limit in limits)
        return MeasuredDerivation(derivation, tuple(predicted))
    most = MOST_TRIES if method == "constrained" else 1

    def derived(moved: Sequence[AdditiveLimit], what: str) -> Derivation:
        report(what, 0, 0)
        return derive(alpha, moved, method, among, loss, report, what)

    tries = _tries(derived, sums, clocks, most, report)
    chosen = _best(tries)
    derivation, decisive = tries[chosen].derivation, {one.limit: one for one in tries[chosen].timed}
    second = {
        limit: clock.timed(derivation.paths, report, "timing once more, to confirm") for limit, clock in clocks.items()
    }
    of_limit = {limit: tuple(one for t in tries for one in t.timed if one.limit is limit) for limit in clocks}
    outcomes = tuple(
        _timed_outcome(decisive[limit], second[limit], of_limit[limit])
        if limit in decisive
        else LimitOutcome.predicted_only(limit, derivation.paths)
        for limit in limits
    )
    moved_notes = [  # the derivation's notes on its windows hold for these bounds
        f"{limit.name}: derived at {one.asked:.6g} ms for {limit.bound:.6g} ms, as the timings asked for"
        for limit, one in decisive.items()
        if derivation.notes and one.asked != limit.bound
    ]
    notes = (*derivation.notes, *moved_notes, *(outcome.note for outcome in outcomes if outcome.note))
    return MeasuredDerivation(replace(derivation, notes=notes), outcomes, tuple(tries), chosen)


def _tries(
    derived: Callable[[Sequence[AdditiveLimit], str], Derivation],
    limits: Sequence[AdditiveLimit],
    clocks: Mapping[AdditiveLimit, Clock],
    most: int,
    report: Report,
) -> list[Try]:
    """Derives, times and moves the bounds, until nothing moves them or `most` tries are made; the last may meet no
    limit."""
    asked = {limit: limit.bound for limit in clocks}
    tries: list[Try] = []
    for k in range(most):
        again = f" again ({k + 1} of at most {most}), with a corrected bound" if k else ""
        moved = [replace(limit, bound=asked.get(limit, limit.bound)) for limit in limits]
        try:
            derivation = derived(moved, f"deriving{again}")
        except (InfeasibleError, UnfinishedError):
            if not tries:
                raise
            break  # the corrected bounds and the other limits exclude each other, or may; the tries so far decide
        timed = tuple(
            TimedLimit(limit, asked[limit], clock.timed(derivation.paths, report, "timing the derived network"))
            for limit, clock in clocks.items()
        )
        tries.append(Try(derivation, timed))
        asked = {one.limit: one.corrected for one in timed}
        if any(asked == t.asked for t in tries):
            break  # all is well, or nothing may be moved, or a bound is clamped to the reachable range
    return tries


def _timed_outcome(decisive: TimedLimit, second: Reading, tries: tuple[TimedLimit, ...]) -> LimitOutcome:
    """Returns the outcome of a timed limit. second: the reading of the confirmation."""
    limit, first = decisive.limit, decisive.reading
    note, met = "", decisive.within if first.reliable else None
    if met is None:
        note = _disturbed(limit.name, first)
    elif met and second.reliable and not meets_bound(second.timing, limit.bound):
        note = (
            f"{limit.name}: {first.timing.median_ms:.4g} ms in the timing that decided, {second.timing.median_ms:.4g} "
            f"ms in a second one, which misses {limit.bound:.4g} ms; ask for a little less where the limit is hard"
        )
    return LimitOutcome(limit, first.predicted, met, tries, (first, second), note)


def _clock(limit: AdditiveLimit, space: Space, timer: Timer) -> Clock:
    assert limit.source is not None
    assert isinstance(limit.cost, Cost)  # of one table
    return Clock.of(space, limit.cost, limit.source.measure, timer)


def _best(tries: Sequence[Try]) -> int:
    """Returns, among the tries that meet every timed limit, the one that uses most of the limits; if none meets them,
    the try closest to that. Tries with reliable readings come before all others."""

    def used(i: int) -> list[float]:
        return [one.used for one in tries[i].timed]

    reliable = [i for i, t in enumerate(tries) if all(one.reading.reliable for one in t.timed)]
    for candidates in (reliable, range(len(tries))):
        if kept := [i for i in candidates if all(one.within for one in tries[i].timed)]:
            return max(kept, key=lambda i: sum(used(i)))
    return min(reliable or range(len(tries)), key=lambda i: max(used(i)))


def _disturbed(name: str, last: Reading) -> str:
    """Returns the note about a reading that is not reliable."""
    again = "when the machine is idle, proxyless-nas search with --resume times again"
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
