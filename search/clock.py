"""Timing a network so that a decision can be based on it: beside a reference, and again where the machine was busy.

A machine that is slower than usual makes every network look slow. So each is timed in turn with a reference, a network
of the middle of the range: where that is off by more than a table may be, it is the machine that is off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from latency.config import MeasureConfig
from latency.measure import Timing, time_architectures
from latency.plan import middle_network
from supernet.architecture import Architecture
from supernet.cost import Cost
from supernet.space import Space

MOST_TIMINGS = 5
"""Of one network, until one can be believed."""
LARGEST_ERROR = 0.10
"""Of a measurement's distance from the bound that is accepted; and of what a decision can be based on, 2x noise and the
reference's distance from its prediction."""
Timer = Callable[[Sequence[Architecture], MeasureConfig], Sequence[Timing]]
"""Times networks in turn."""


@dataclass(frozen=True)
class Reading:
    """One network's latency on one device, as its table has it and as it was timed."""

    predicted: float
    """ms."""
    timing: Timing
    drift: float = 1.0
    """Of the reference, timed in turn with it: measured over predicted."""

    @property
    def believed(self) -> bool:
        """Whether a correction may follow from it. On a busy machine a median can be 40 % off, and a bound that is
        moved by as much gives another, worse network."""
        return steady(self.timing) and abs(self.drift - 1) <= LARGEST_ERROR

    @property
    def doubt(self) -> float:
        """How far it is from being steady and undrifted, as a share."""
        return max(twice_noise(self.timing), abs(self.drift - 1))

    def figures(self) -> dict[str, float | bool]:
        """For a record: what was measured, in ms, and what it is worth."""
        return {
            "measured_ms": self.timing.median_ms, "noise_ms": self.timing.noise_ms, "drift": self.drift,
            "believed": self.believed,
        }  # fmt: skip


@dataclass(frozen=True)
class Clock:
    """Times networks on one device, each in turn with a reference, a network of the middle of the range."""

    cost: Cost
    """What the device's table predicts, in ms."""
    measure: MeasureConfig
    timer: Timer
    space: Space
    reference: tuple[int, ...]

    @classmethod
    def of(cls, space: Space, cost: Cost, measure: MeasureConfig, timer: Timer = time_architectures) -> Clock:
        return cls(cost, measure, timer, space, middle_network(cost))

    def timed(self, paths: tuple[int, ...]) -> Reading:
        """The first reading that can be believed, or of MOST_TIMINGS the one that comes closest to it."""
        found: list[Reading] = []
        networks = [Architecture(self.space, paths), Architecture(self.space, self.reference)]
        while len(found) < MOST_TIMINGS and not (found and found[-1].believed):
            timing, reference = self.timer(networks, self.measure)
            found.append(Reading(self.cost.of(paths), timing, reference.median_ms / self.cost.of(self.reference)))
        return found[-1] if found[-1].believed else min(found, key=lambda reading: reading.doubt)


def twice_noise(timing: Timing) -> float:
    """As a share of the measurement."""
    return 2 * timing.noise_ms / timing.median_ms


def acceptable_error(timing: Timing) -> float:
    """How far a measurement may lie from the bound, as a share: twice the timer's noise, within 2 % and 10 %."""
    return min(LARGEST_ERROR, max(0.02, twice_noise(timing)))


def steady(timing: Timing) -> bool:
    """Whether other work has left it alone."""
    return twice_noise(timing) <= LARGEST_ERROR
