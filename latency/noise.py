"""Tells how certain a timing is: whether other work has disturbed it, and how far it may be off."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from scipy.special import stdtrit

from latency.measure import Timing

LARGEST_DISTURBANCE = 0.10
"""A timing is reliable only if twice the noise between its rounds, and its reference's distance from the prediction,
are at most this share."""
CONFIDENCE = 0.975
"""Probability that a timing of a network exactly at the bound is called met, as far as its standard error shows."""
SMALLEST_ERROR = 0.02
"""The difference between two timings of one network on an idle machine (docs/latency.md). The rounds within each are
alike, so the standard error does not include it."""
LARGEST_ERROR = 0.05
"""The largest acceptable error. A steady timing of TIMING_ROUNDS rounds has at most 3.5 %; with fewer rounds, more than
this is not accepted."""

T = TypeVar("T")


def least_disturbed(attempt: Callable[[int], T], disturbance: Callable[[T], float], most: int) -> T:
    """Times something until other work does not disturb it, at most `most` times, and returns the attempt that was
    disturbed least.

    attempt(i): returns the i-th attempt, from 0. disturbance: how far other work may have moved it, as a share; up to
    LARGEST_DISTURBANCE it is accepted.
    """
    attempts: list[T] = []
    while len(attempts) < most and not (attempts and disturbance(attempts[-1]) <= LARGEST_DISTURBANCE):
        attempts.append(attempt(len(attempts)))
    return min(attempts, key=disturbance)


def twice_noise(timing: Timing) -> float:
    """Returns twice the noise between rounds, as a share of the measurement."""
    return 2 * timing.noise_ms / timing.median_ms


def steady(timing: Timing) -> bool:
    """Returns whether the rounds are undisturbed by other work. This compares single rounds: work that disturbs some of
    them may shift all of them, and then no average over rounds helps."""
    return twice_noise(timing) <= LARGEST_DISTURBANCE


def acceptable_error(timing: Timing) -> float:
    """Returns how far above a bound a measurement may lie and still meet it, as a share of the bound.

    It is the measurement's standard error times the t-quantile for its rounds: a network exactly at the bound exceeds
    it once in 40 timings. It is at least SMALLEST_ERROR and at most LARGEST_ERROR.
    """
    quantile = stdtrit(max(1, timing.rounds - 1), CONFIDENCE)
    error = float(quantile) * timing.standard_error_ms / timing.median_ms
    return min(LARGEST_ERROR, max(SMALLEST_ERROR, error))
