"""Times a network so that a decision can be based on it: beside a reference, and again if the machine was busy.

On a machine that is slower than usual, every network is slow. So each is timed in turn with a reference, a network of
the middle of the range: if the reference is off by more than a table may be, the machine is off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from engine.progress import Report, silent
from latency.config import MeasureConfig
from latency.measure import Timing, time_architectures
from latency.noise import LARGEST_DISTURBANCE
from latency.noise import acceptable_error as acceptable_error
from latency.noise import steady as steady
from latency.noise import twice_noise as twice_noise
from latency.plan import middle_network
from supernet.architecture import Architecture
from supernet.cost import Cost
from supernet.space import Space

MOST_TIMINGS = 5
"""The most timings of one network, until one is reliable (see Reading)."""
Timer = Callable[[Sequence[Architecture], MeasureConfig, Callable[[int, int], None]], Sequence[Timing]]
"""A function that times networks in turn; its last argument is called with (done, total) during the timing."""


def in_turn(
    architectures: Sequence[Architecture], measure: MeasureConfig, progress: Callable[[int, int], None]
) -> Sequence[Timing]:
    """Times networks in turn on this machine; this is a Timer."""
    return time_architectures(architectures, measure, progress=progress)


@dataclass(frozen=True)
class Reading:
    """One network's latency on one device: predicted by its table, and measured."""

    predicted: float
    """The prediction, in ms."""
    timing: Timing
    drift: float = 1.0
    """Measured over predicted latency of the reference, timed in turn with the network."""

    @property
    def reliable(self) -> bool:
        """Whether the noise between the rounds is low and the reference takes about what its table predicts (each
        within LARGEST_DISTURBANCE). Only then a decision is based on the reading: on a busy machine a median can be 40
        % off, and a bound that is moved by as much gives another, worse network."""
        return steady(self.timing) and abs(self.drift - 1) <= LARGEST_DISTURBANCE

    @property
    def trouble(self) -> str:
        """The reason, in a few words, for timing the network again."""
        if not steady(self.timing):
            return "the machine is busy"
        return f"the machine takes {self.drift:.2f} times as long as its table predicts"

    @property
    def disturbance(self) -> float:
        """The larger of twice the noise and the reference's distance from its prediction, as a share; 0 for a perfect
        reading."""
        return max(twice_noise(self.timing), abs(self.drift - 1))

    def figures(self) -> dict[str, float | bool]:
        """Returns the measured figures for a record, in ms, and whether they are reliable."""
        return {
            "measured_ms": self.timing.median_ms, "noise_ms": self.timing.noise_ms,
            "standard_error_ms": self.timing.standard_error_ms, "drift": self.drift, "believed": self.reliable,
        }  # fmt: skip


@dataclass(frozen=True)
class Clock:
    """Times networks on one device, each in turn with a reference, a network of the middle of the range."""

    cost: Cost
    """The cost by the device's table, in ms."""
    measure: MeasureConfig
    timer: Timer
    space: Space
    reference: tuple[int, ...]

    @classmethod
    def of(cls, space: Space, cost: Cost, measure: MeasureConfig, timer: Timer = in_turn) -> Clock:
        return cls(cost, measure, timer, space, middle_network(cost))

    def timed(self, paths: tuple[int, ...], report: Report = silent, what: str = "timing") -> Reading:
        """Returns the reading of one network; see timed_all."""
        return self.timed_all([paths], report, what)[0]

    def timed_all(
        self,
        networks: Sequence[tuple[int, ...]],
        report: Report = silent,
        what: str = "timing",
        most: int = MOST_TIMINGS,
    ) -> list[Reading]:
        """Returns a reading of each network, all timed in turn with the reference, so that they can be compared.

        They come from the first timing in which all are reliable or, if there is none among `most` timings, from the
        one that comes closest to it. report: called with `what` is being timed and, from the second timing on, its
        number and the reason.
        """
        attempts: list[list[Reading]] = []
        every = [Architecture(self.space, paths) for paths in (*networks, self.reference)]
        expected = self.cost.of(self.reference)
        while len(attempts) < most and not (attempts and _worst(attempts[-1]).reliable):
            again = f", {len(attempts) + 1} of at most {most}: {_worst(attempts[-1]).trouble}" if attempts else ""
            *timings, reference = self.timer(every, self.measure, partial(report, what + again))
            drift = reference.median_ms / expected
            attempts.append([Reading(self.cost.of(p), t, drift) for p, t in zip(networks, timings, strict=True)])
        if _worst(attempts[-1]).reliable:
            return attempts[-1]
        return min(attempts, key=lambda readings: _worst(readings).disturbance)


def _worst(readings: Sequence[Reading]) -> Reading:
    return max(readings, key=lambda reading: reading.disturbance)


def meets_bound(timing: Timing, bound: float) -> bool:
    """Returns whether a measurement is at most the bound, in ms, or above it by no more than acceptable_error."""
    return timing.median_ms <= bound * (1 + acceptable_error(timing))
