"""Closing the loop: on the table's own device, the derived network is timed and has to keep its word.

A table's sum is a prediction. Where the search runs on the table's own device, the prediction is checked, and if it
misses, the bound given to the derivation is moved by the miss and the derivation repeated.

A machine that is slower than usual would move it, too, and to a much worse network. So each network is timed in turn
with a reference, a network of the middle of the range: where that is off by more than a table may be, it is the machine
that is off, and nothing is moved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from latency.config import MeasureConfig
from latency.device import this_device
from latency.measure import Timing, time_architectures
from latency.plan import spread_networks
from search.derivation import ROUNDING, Derivation, InfeasibleError, derive
from search.limits import Limit
from supernet.architecture import Architecture
from supernet.cost import Cost
from supernet.space import Space

MOST_TRIES = 5
MOST_TIMINGS = 5
"""Of one network, until one can be believed."""
LARGEST_ERROR = 0.10
"""Of a measurement's distance from the bound that is accepted; and of what a decision can be based on, 2x noise and the
reference's distance from its prediction."""
Timer = Callable[[Sequence[Architecture], MeasureConfig], Sequence[Timing]]
"""Times networks in turn."""


@dataclass(frozen=True)
class Try:
    """One derivation and its timing. All in ms."""

    asked: float
    """The bound given to the derivation."""
    predicted: float
    timing: Timing
    drift: float = 1.0
    """Of the reference, timed in turn with it: measured over predicted."""

    @property
    def believed(self) -> bool:
        """Whether a correction may follow from it. On a busy machine a median can be 40 % off, and a bound that is
        moved by as much gives another, worse network."""
        return steady(self.timing) and abs(self.drift - 1) <= LARGEST_ERROR


@dataclass(frozen=True)
class MeasuredDerivation:
    derivation: Derivation
    tries: tuple[Try, ...]
    """In order. Empty where the table's device is not this machine."""
    missed: tuple[int, ...] = ()
    """Indices of the limits that are not met: measured where it was timed, else predicted."""
    timed: int | None = None
    """Index of the limit that the timings are of."""
    chosen: int = 0
    """The index of the try whose derivation this is."""
    confirmation: Timing | None = None
    """A second timing, independent of the one that decided."""

    @property
    def met(self) -> bool:
        return not self.missed


def local_latency_limits(limits: Sequence[Limit]) -> list[int]:
    """The indices of the latency limits whose tables were measured on this very device. The first can be timed.

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


def twice_noise(timing: Timing) -> float:
    """As a share of the measurement."""
    return 2 * timing.noise_ms / timing.median_ms


def acceptable_error(timing: Timing) -> float:
    """How far a measurement may lie from the bound, as a share: twice the timer's noise, within 2 % and 10 %."""
    return min(LARGEST_ERROR, max(0.02, twice_noise(timing)))


def steady(timing: Timing) -> bool:
    """Whether other work has left it alone."""
    return twice_noise(timing) <= LARGEST_ERROR


def derive_measured(
    alpha: Tensor,
    mask: Tensor,
    space: Space,
    limits: Sequence[Limit],
    method: str,
    among: int = 1,
    loss: Callable[[tuple[int, ...]], float] | None = None,
    timer: Timer = time_architectures,
) -> MeasuredDerivation:
    """Derive (see derivation.derive); where the table's device is this one, measure and correct, at most MOST_TRIES
    times.

    A limit is met if measured <= T (1 + acceptable_error); one that is not timed, if it is predicted so. With `at`, a
    network that is faster than T (1 - tolerance - acceptable_error) is no violation but leaves budget unused, so it is
    corrected too while tries last; the try closest to T from below wins. `argmax` ignores limits: it is timed once and
    never corrected. A timing that cannot be believed after MOST_TIMINGS corrects nothing: the tries end, and a note
    says so.
    """
    local = local_latency_limits(limits)
    if not local:
        found = derive(alpha, mask, limits, method, among, loss)
        return MeasuredDerivation(found, (), _predicted_above(found.paths, limits))
    index, limit = local[0], limits[local[0]]
    assert limit.source is not None
    assert isinstance(limit.cost, Cost)  # of one table
    clock = Clock.of(space, limit.cost, limit.source.measure, timer)
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
        tries.append(clock.timed(found.paths, asked))
        timing = tries[-1].timing
        derivations.append(found)
        good = _within(timing, limit) and not (limit.at and _unused(timing, limit))
        if good or not tries[-1].believed:
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
    confirmation = clock.timed(derivations[best].paths, tries[best].asked).timing
    notes = (*derivations[best].notes, *_disturbed(tries[-1], limit), *(_untimed(limits[i]) for i in local[1:]))
    chosen = replace(derivations[best], notes=notes)
    missed = {i for i in _predicted_above(chosen.paths, limits) if i != index} | (set() if kept else {index})
    return MeasuredDerivation(chosen, tuple(tries), tuple(sorted(missed)), index, best, confirmation)


def _predicted_above(paths: tuple[int, ...], limits: Sequence[Limit]) -> tuple[int, ...]:
    """The limits that a network is predicted to miss: none after a constrained derivation; argmax looks at none."""
    return tuple(i for i, limit in enumerate(limits) if limit.cost.of(paths) > limit.bound * (1 + ROUNDING))


def _untimed(limit: Limit) -> str:
    assert limit.source is not None
    return (
        f"latency of {limit.source.path}: not timed, though the table is of this machine, since only the first such "
        "limit is; its prediction counts"
    )


def _disturbed(last: Try, limit: Limit) -> tuple[str, ...]:
    """What to say of the timing that ended the tries, if it cannot be believed."""
    if last.believed:
        return ()
    again = "when the machine is idle, scripts/run_search.py with --resume times again"
    if not steady(last.timing):
        noise = 100 * twice_noise(last.timing)
        return (
            f"{limit.metric}: other work on this machine disturbs the timing (2x noise is {noise:.0f} %), so it "
            f"corrected nothing and proves little; {again}",
        )
    return (
        f"{limit.metric}: a network of the middle of the range takes {last.drift:.2f} times what the table says, so "
        f"it is the machine that is off, and nothing was corrected; {again}, or recalibrate the table if that stays",
    )


@dataclass(frozen=True)
class Clock:
    """Times networks in turn with a reference, a network of the middle of the range."""

    cost: Cost
    measure: MeasureConfig
    timer: Timer
    space: Space
    reference: tuple[int, ...]

    @classmethod
    def of(cls, space: Space, cost: Cost, measure: MeasureConfig, timer: Timer = time_architectures) -> Clock:
        (reference,) = spread_networks(space, cost, 1, np.random.default_rng(0))
        return cls(cost, measure, timer, space, reference)

    def timed(self, paths: tuple[int, ...], asked: float) -> Try:
        """The first that can be believed, or of MOST_TIMINGS the one that comes closest to it."""
        found: list[Try] = []
        networks = [Architecture(self.space, paths), Architecture(self.space, self.reference)]
        while len(found) < MOST_TIMINGS and not (found and found[-1].believed):
            timing, reference = self.timer(networks, self.measure)
            drift = reference.median_ms / self.cost.of(self.reference)
            found.append(Try(asked, self.cost.of(paths), timing, drift))
        return found[-1] if found[-1].believed else min(found, key=_doubt)


def _doubt(attempt: Try) -> float:
    return max(twice_noise(attempt.timing), abs(attempt.drift - 1))


def _within(timing: Timing, limit: Limit) -> bool:
    return timing.median_ms <= limit.bound * (1 + acceptable_error(timing))


def _unused(timing: Timing, limit: Limit) -> bool:
    return timing.median_ms < limit.bound * (1 - limit.tolerance - acceptable_error(timing))
