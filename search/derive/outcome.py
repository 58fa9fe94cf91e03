"""Defines the result of a derivation whose networks are timed: its tries, and one outcome for each limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search.derive.clock import Reading, acceptable_error, meets_bound
from search.derive.derivation import Derivation
from search.limits.limit import AdditiveLimit, Limit


@dataclass(frozen=True)
class TimedLimit:
    """One limit in one try: the bound that the derivation was given, and the reading of the derived network."""

    limit: AdditiveLimit
    asked: float
    """The bound given to the derivation, in ms."""
    reading: Reading

    @property
    def within(self) -> bool:
        """Whether the reading meets the limit's own bound."""
        return meets_bound(self.reading.timing, self.limit.bound)

    @property
    def used(self) -> float:
        """The measured latency as a share of the limit's bound."""
        return self.reading.timing.median_ms / self.limit.bound

    @property
    def corrected(self) -> float:
        """The bound for the next derivation, in ms: the limit's bound, less the difference between the measured and the
        predicted latency. It stays as it is if the network is within the limit and uses it, or if the reading is not
        reliable."""
        limit, timing = self.limit, self.reading.timing
        unused = limit.kind == "at" and timing.median_ms < limit.bound * (
            1 - limit.tolerance - acceptable_error(timing)
        )
        if (self.within and not unused) or not self.reading.reliable:
            return self.asked
        low, high = limit.cost.reachable
        return min(high, max(low, limit.bound - (timing.median_ms - self.reading.predicted)))


@dataclass(frozen=True)
class Try:
    """One derivation and the timings of its network."""

    derivation: Derivation
    timed: tuple[TimedLimit, ...]
    """One for each limit whose table is of this machine."""

    @property
    def asked(self) -> dict[AdditiveLimit, float]:
        """The bounds given to the derivation, in ms."""
        return {one.limit: one.asked for one in self.timed}


@dataclass(frozen=True)
class LimitOutcome:
    """The outcome of one limit."""

    limit: Limit
    predicted: float
    """The metric of the derived network, in the limit's unit: by its tables, or computed from the space."""
    met: bool | None
    """Whether the limit is met: measured if it is timed, else predicted. None if its timing is not reliable, so that
    this is undecided."""
    tries: tuple[TimedLimit, ...] = ()
    """The limit in each try, in order; empty if its table is not of this machine."""
    readings: tuple[Reading, ...] = ()
    """The readings of the derived network: the one that decided, then an independent one. Empty if it is not timed."""
    note: str = ""
    """A warning about the timing, with the remedy; empty if all is well."""

    @classmethod
    def predicted_only(cls, limit: Limit, paths: tuple[int, ...]) -> LimitOutcome:
        """Returns the outcome of a limit that is not timed: the prediction decides."""
        return cls(limit, limit.cost_of(paths), limit.allows(paths))


@dataclass(frozen=True)
class MeasuredDerivation:
    """A derivation with an outcome for every limit."""

    derivation: Derivation
    """Its notes include those of the outcomes."""
    outcomes: tuple[LimitOutcome, ...] = ()
    """One for each limit, in their order."""
    tries: tuple[Try, ...] = ()
    """The tries in order; empty if nothing is timed."""
    chosen: int = 0
    """The index of the try whose derivation this is."""

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The limits, in their order."""
        return tuple(outcome.limit for outcome in self.outcomes)

    @property
    def met(self) -> bool | None:
        """Whether every limit is met; None if that is undecided."""
        return all_met(self.outcomes)


def all_met(outcomes: Sequence[LimitOutcome]) -> bool | None:
    """Returns whether every limit is met; None if none is missed, but one is undecided."""
    verdicts = {outcome.met for outcome in outcomes}
    return False if False in verdicts else None if None in verdicts else True
