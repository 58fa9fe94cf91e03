"""Closing the loop: on the table's own device, the derived network is timed and has to keep its word.

A table's sum is a prediction. Where the search runs on the table's own device, the prediction is checked, and if it
misses, the bound given to the derivation is moved by the miss and the derivation repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from latency.config import MeasureConfig
from latency.device import this_device
from latency.measure import Timing, time_architecture
from search.derivation import ROUNDING, Derivation, InfeasibleError, derive
from search.limits import Limit
from supernet.architecture import Architecture
from supernet.space import Space

MOST_TRIES = 5
MOST_TIMINGS = 5
"""Of one network, until one is steady."""
LARGEST_ERROR = 0.10
"""Of a measurement's distance from the bound that is accepted, and of 2x noise that a decision can be based on."""


@dataclass(frozen=True)
class Try:
    """One derivation and its timing. All in ms."""

    asked: float
    """The bound given to the derivation."""
    predicted: float
    timing: Timing


@dataclass(frozen=True)
class MeasuredDerivation:
    derivation: Derivation
    tries: tuple[Try, ...]
    """In order. Empty where the table's device is not this machine."""
    met: bool
    chosen: int = 0
    """The index of the try whose derivation this is."""
    confirmation: Timing | None = None
    """A second timing, independent of the one that decided."""


def local_latency_limit(limits: Sequence[Limit]) -> int | None:
    """The index of the latency limit whose table was measured on this very device; None where there is none.

    A limit of several tables is none: what it bounds cannot be timed on one device.
    """
    for i, limit in enumerate(limits):
        source = limit.source
        if limit.metric != "latency" or source is None or source.measure.device == "external":
            continue
        if source.table.device.fingerprint == this_device(source.measure.device).fingerprint:
            return i
    return None


def acceptable_error(timing: Timing) -> float:
    """How far a measurement may lie from the bound, as a share: twice the timer's noise, within 2 % and 10 %."""
    return min(LARGEST_ERROR, max(0.02, 2 * timing.noise_ms / timing.median_ms))


def steady(timing: Timing) -> bool:
    """Whether a correction may follow from it. On a busy machine a median can be 40 % off, and a bound that is moved by
    as much gives another, worse network."""
    return 2 * timing.noise_ms <= LARGEST_ERROR * timing.median_ms


def derive_measured(
    alpha: Tensor,
    mask: Tensor,
    space: Space,
    limits: Sequence[Limit],
    method: str,
    among: int = 1,
    loss: Callable[[tuple[int, ...]], float] | None = None,
    timer: Callable[[Architecture, MeasureConfig], Timing] = time_architecture,
) -> MeasuredDerivation:
    """Derive (see derivation.derive); where the table's device is this one, measure and correct, at most MOST_TRIES
    times.

    A limit is met if measured <= T (1 + acceptable_error); one that is not timed, if it is predicted so. With `at`, a
    network that is faster than T (1 - tolerance - acceptable_error) is no violation but leaves budget unused, so it is
    corrected too while tries last; the try closest to T from below wins. `argmax` ignores limits: it is timed once and
    never corrected. A timing that is not steady after MOST_TIMINGS corrects nothing: the tries end, and a note says so.
    """
    index = local_latency_limit(limits)
    if index is None:
        found = derive(alpha, mask, limits, method, among, loss)
        return MeasuredDerivation(found, (), met=_predicted_within(found.paths, limits))
    limit = limits[index]
    assert limit.source is not None
    measure = limit.source.measure
    low, high = limit.cost.reachable
    asked = limit.bound
    tries: list[Try] = []
    derivations: list[Derivation] = []
    for _ in range(MOST_TRIES if method == "constrained" else 1):
        moved = [replace(other, bound=asked) if i == index else other for i, other in enumerate(limits)]
        try:
            found = derive(alpha, mask, moved, method, among, loss)
        except InfeasibleError:
            if not tries:
                raise
            break  # the corrected bound and the other limits exclude each other; the tries so far decide
        timing = _timed(Architecture(space, found.paths), measure, timer)
        tries.append(Try(asked, limit.cost.of(found.paths), timing))
        derivations.append(found)
        good = _within(timing, limit) and not (limit.at and _unused(timing, limit))
        if good or not steady(timing):
            break
        asked = min(high, max(low, limit.bound - (timing.median_ms - tries[-1].predicted)))
        if any(asked == t.asked for t in tries):
            break  # the correction is clamped to the reachable range: deriving again would change nothing
    kept = [i for i, t in enumerate(tries) if _within(t.timing, limit)]
    best = (
        max(kept, key=lambda i: tries[i].timing.median_ms)
        if kept
        else min(range(len(tries)), key=lambda i: tries[i].timing.median_ms)
    )
    confirmation = _timed(Architecture(space, derivations[best].paths), measure, timer)
    chosen = replace(derivations[best], notes=(*derivations[best].notes, *_disturbed(tries[-1].timing, limit)))
    others = [other for other in limits if other is not limit]
    met = bool(kept) and _predicted_within(chosen.paths, others)
    return MeasuredDerivation(chosen, tuple(tries), met=met, chosen=best, confirmation=confirmation)


def _predicted_within(paths: tuple[int, ...], limits: Sequence[Limit]) -> bool:
    """Always of a constrained derivation; argmax looks at no limit."""
    return all(limit.cost.of(paths) <= limit.bound * (1 + ROUNDING) for limit in limits)


def _disturbed(last: Timing, limit: Limit) -> tuple[str, ...]:
    """What to say of the timing that ended the tries, if it was not steady."""
    if steady(last):
        return ()
    noise = 200 * last.noise_ms / last.median_ms
    return (
        f"{limit.metric}: other work on this machine disturbs the timing (2x noise is {noise:.0f} %), so it corrected "
        "nothing and proves little; when the machine is idle, scripts/run_search.py with --resume times again",
    )


def _timed(
    architecture: Architecture, measure: MeasureConfig, timer: Callable[[Architecture, MeasureConfig], Timing]
) -> Timing:
    """The first steady timing, or of MOST_TIMINGS the one with the least noise."""
    found: list[Timing] = []
    while len(found) < MOST_TIMINGS and not (found and steady(found[-1])):
        found.append(timer(architecture, measure))
    return min(found, key=lambda timing: timing.noise_ms / timing.median_ms)


def _within(timing: Timing, limit: Limit) -> bool:
    return timing.median_ms <= limit.bound * (1 + acceptable_error(timing))


def _unused(timing: Timing, limit: Limit) -> bool:
    return timing.median_ms < limit.bound * (1 - limit.tolerance - acceptable_error(timing))
