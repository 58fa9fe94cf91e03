"""Computes what retrainings with several seeds show: means, their intervals, and a network against random ones."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

LEVEL = 0.95
"""The level of all intervals."""


@dataclass(frozen=True)
class Spread:
    """The standard deviation of one network's accuracy from seed to seed, in points."""

    points: float
    freedom: int
    """Its degrees of freedom."""

    def interval(self, accuracies: Sequence[float]) -> tuple[float, float]:
        """Returns the interval of the mean of a network's accuracies."""
        mean, half = statistics.fmean(accuracies), self.half(1 / len(accuracies))
        return mean - half, mean + half

    def half(self, share: float) -> float:
        """Returns half the interval of a mean, or of a difference, whose variance is `share` times that of one run."""
        return _half(self.points * math.sqrt(share), self.freedom)


@dataclass(frozen=True)
class Difference:
    """The difference between two mean accuracies in points, with its interval if the runs show one."""

    points: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class AgainstRandom:
    """A network compared with random ones of equal cost."""

    top1: float
    """Its mean accuracy in percent."""
    others: int
    better_than: int
    """How many of the others have a lower mean accuracy."""
    chance: float
    """The probability that a network which is itself drawn at random ranks as high or higher."""
    others_top1: float
    """The mean of the others' mean accuracies."""
    difference: Difference
    """Between the network and what random networks have on average."""


def spread_of(groups: Sequence[Sequence[float]]) -> Spread | None:
    """Returns the spread from seed to seed, pooled over all networks, which are trained alike. None if none has two
    runs. groups: the accuracies of each network."""
    freedom = sum(len(group) - 1 for group in groups if group)
    if freedom == 0:
        return None
    squares = sum((x - statistics.fmean(group)) ** 2 for group in groups if group for x in group)
    return Spread(math.sqrt(squares / freedom), freedom)


def difference_of(one: Sequence[float], other: Sequence[float], spread: Spread | None) -> Difference:
    """Returns the mean accuracy of one network minus that of another one."""
    points = statistics.fmean(one) - statistics.fmean(other)
    if spread is None:
        return Difference(points)
    half = spread.half(1 / len(one) + 1 / len(other))
    return Difference(points, points - half, points + half)


def against_random(
    own: Sequence[float], others: Sequence[Sequence[float]], spread: Spread | None
) -> AgainstRandom | None:
    """Returns how a network's accuracies compare with those of random networks; None if there are fewer than two.

    The rank needs no assumption: if the network were one more random one, each of its n + 1 places would be equally
    likely. The interval of the difference adds the variance of its own mean, from seed to seed, to that of the mean of
    the others, from network to network (Welch-Satterthwaite). If every network has one run alone, the variance between
    networks, which contains that between seeds, stands for both: it is then Student's interval for one more network.
    """
    if len(others) < 2 or not own:
        return None
    means = [statistics.fmean(other) for other in others]
    n, mean, top1 = len(means), statistics.fmean(means), statistics.fmean(own)
    between = statistics.variance(means)
    if spread is None:
        half = _half(math.sqrt(between * (1 + 1 / n)), n - 1)
    else:
        parts = [(spread.points**2 / len(own), spread.freedom), (between / n, n - 1)]
        variance = sum(v for v, _ in parts)
        divisor = sum(v**2 / freedom for v, freedom in parts)
        half = _half(math.sqrt(variance), variance**2 / divisor if divisor else 1)
    better = sum(top1 > other for other in means)
    points = top1 - mean
    # equal accuracies of all, as of few test images, are no estimate of an error
    difference = Difference(points, points - half, points + half) if half else Difference(points)
    return AgainstRandom(top1, n, better, (n - better + 1) / (n + 1), mean, difference)


def _half(error: float, freedom: float) -> float:
    """Returns half the interval of an estimate with this standard error and these degrees of freedom."""
    return float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
