"""Corrects a table's entries by the latencies of whole networks.

A sum of entries m over a network's layers misses what happens between layers and what the measuring itself adds. So the
latency of network i is modelled as

    y_i = c + sum_k n_ik w_k m_k,    w_k >= 0,

with n_ik the number of times entry k occurs in it, and (w, c) fitted to measured networks: least squares in relative
error, every w_k pulled towards one common factor g that is fitted too,

    minimise  sum_i (prediction_i / y_i - 1)^2 + strength * sum_k (w_k - g)^2.

A large strength leaves a common factor and a constant, a small one moves each entry; cross-validation decides.

c may be negative, because measuring adds a little to each layer. If it is fitted to slow networks alone, it may become
so negative that the predicted time of the space's fastest network is 0 or less. Such a fit is discarded; the best of
the others is taken, which have other strengths or c >= 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

EntryFit = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, float]]
"""A function of (networks, entries) occurrences, or these times entries, and of (networks,) latencies. It returns
(entries,) milliseconds, or factors, and a constant."""

STRENGTHS = tuple(10.0 ** (k / 2) for k in range(-8, 7))  # 1e-4 to 1e3
FOLDS = 10
LEAST_SHARE = 1e-3
"""The least predicted time of the space's fastest network, as a share of the time of the fastest measured network."""


@dataclass(frozen=True)
class Correction:
    """A fitted correction. factors: (entries,), each >= 0. constant: in the unit of the measurements."""

    factors: np.ndarray
    constant: float
    strength: float
    left_out: np.ndarray
    """(networks,): the prediction for each network by a fit to the others, at this strength."""
    cross_validation_percent: float
    """The RMS relative error of these predictions, in percent."""


def fit_correction(
    occurrences: np.ndarray,
    entries: np.ndarray,
    measured: np.ndarray,
    *,
    smallest: Callable[[np.ndarray], float] | None = None,
    seed: int = 0,
) -> Correction:
    """Returns the correction with the lowest error in cross-validation.

    occurrences: (networks, entries) counts n. entries: (entries,) m >= 0. measured: (networks,) y > 0. smallest: a
    function of the entries (entries,) that returns the smallest sum of any network of the space; None if only networks
    like the measured ones count. seed: deals the networks into folds; the same seed gives the same correction. Raises
    ValueError for measurements that are not above 0.
    """
    if not (np.isfinite(measured).all() and (measured > 0).all()):
        raise ValueError("measured latencies must be finite and above 0")
    parts = occurrences * entries
    fits = _fits(parts, measured, seed, free_constant=True)
    best = min(fits, key=lambda fit: fit.cross_validation_percent)
    if smallest is None:
        return best

    def goes_to_0(fit: Correction) -> bool:
        return reaches_0(smallest(fit.factors * entries) + fit.constant, measured)

    if goes_to_0(best):
        fits += _fits(parts, measured, seed, free_constant=False)
        best = min(fits, key=lambda fit: (goes_to_0(fit), fit.cross_validation_percent))
    return best


def _fits(parts: np.ndarray, measured: np.ndarray, seed: int, *, free_constant: bool) -> list[Correction]:
    """Returns a fit for each strength. free_constant: whether the constant may be below 0."""
    fits = []
    for strength in STRENGTHS:
        left_out = _left_out(parts, measured, strength, seed, free_constant)
        error = float(np.sqrt(np.mean((left_out / measured - 1) ** 2)))
        fits.append(Correction(*_solve(parts, measured, strength, free_constant), strength, left_out, 100 * error))
    return fits


def reaches_0(least: float, measured: np.ndarray) -> bool:
    """Returns whether the predicted time of the space's fastest network, `least`, is as good as 0 or below it.

    measured: (networks,), in the same unit.
    """
    return least < LEAST_SHARE * float(measured.min())


def outliers(left_out: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Returns the indices of networks that a fit to the others misses by more than 30 % and 6 times the median error.

    left_out: (networks,), predictions by fits to the others. measured: (networks,), in the same unit.
    """
    errors = np.abs(left_out / measured - 1)
    indices: np.ndarray = np.flatnonzero(errors > max(0.3, 6 * float(np.median(errors))))
    return indices


def left_out(fit: EntryFit, parts: np.ndarray, measured: np.ndarray, seed: int) -> np.ndarray:
    """Returns a prediction for each network by a fit to others, (networks,).

    parts: (networks, entries), as `fit` takes them. seed: deals the networks into at most FOLDS folds.
    """
    folds = np.random.default_rng(seed).permutation(len(measured)) % min(FOLDS, len(measured))
    predicted = np.empty(len(measured))
    for fold in np.unique(folds):
        out = folds == fold
        values, constant = fit(parts[~out], measured[~out])
        predicted[out] = parts[out] @ values + constant
    return predicted


def _left_out(
    parts: np.ndarray, measured: np.ndarray, strength: float, seed: int, free_constant: bool = True
) -> np.ndarray:
    """Returns a prediction for each network by a fit to others at this strength, (networks,)."""
    return left_out(lambda p, y: _solve(p, y, strength, free_constant), parts, measured, seed)


def _solve(
    parts: np.ndarray, measured: np.ndarray, strength: float, free_constant: bool = True
) -> tuple[np.ndarray, float]:
    """Returns (w, c) of the minimum in this module's docstring, where the best g is the mean of w.

    parts: (networks, entries) n_ik m_k. free_constant: whether c may be below 0.
    """
    count = parts.shape[1]
    return solve(parts, measured, np.sqrt(strength) * (np.eye(count) - 1 / count), free_constant)


def solve(
    parts: np.ndarray, measured: np.ndarray, pull: np.ndarray, free_constant: bool = True
) -> tuple[np.ndarray, float]:
    """Returns (w, c), w >= 0, that minimise sum_i (prediction_i / y_i - 1)^2 + |pull w|^2.

    parts: (networks, entries), prediction = parts w + c. measured: (networks,) y. pull: (any, entries). free_constant:
    whether c may be below 0.

    For any w the best free c is a projection. With it inserted, a problem of non-negative least squares remains, which
    an active-set method solves exactly. With c >= 0, c is one more of its unknowns.
    """
    networks, count = parts.shape
    fit = np.vstack([parts / measured[:, None], pull])
    target = np.concatenate([np.ones(networks), np.zeros(len(pull))])
    constant = np.concatenate([1 / measured, np.zeros(len(pull))])
    if not free_constant:
        everything, _ = nnls(np.column_stack([fit, constant]), target, maxiter=100 * (count + 1))
        return everything[:-1], float(everything[-1])
    unit = constant / np.linalg.norm(constant)
    factors, _ = nnls(fit - np.outer(unit, unit @ fit), target - unit * (unit @ target), maxiter=100 * count)
    return factors, float(unit @ (target - fit @ factors) / np.linalg.norm(constant))
