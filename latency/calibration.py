"""Correcting a table's entries by the latencies of whole networks.

A sum of entries m over a network's layers misses what happens between layers and what the measuring itself adds. So the
latency of network i is modelled as

    y_i = c + sum_k n_ik w_k m_k,    w_k >= 0,

with n_ik the number of times entry k occurs in it, and (w, c) fitted to measured networks: least squares in relative
error, every w_k pulled towards one common factor g that is fitted too,

    minimise  sum_i (prediction_i / y_i - 1)^2 + strength * sum_k (w_k - g)^2.

A large strength leaves a common factor and a constant, a small one moves each entry; cross-validation decides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

STRENGTHS = tuple(10.0 ** (k / 2) for k in range(-8, 7))  # 1e-4 to 1e3
FOLDS = 10


@dataclass(frozen=True)
class Correction:
    """factors: (entries,), each >= 0. constant: in the unit of the measurements."""

    factors: np.ndarray
    constant: float
    strength: float
    left_out: np.ndarray
    """(networks,): what each network is predicted to take by a fit that it took no part in, at this strength."""
    cross_validation_percent: float
    """RMS relative error of these."""


def fit_correction(occurrences: np.ndarray, entries: np.ndarray, measured: np.ndarray, *, seed: int = 0) -> Correction:
    """occurrences: (networks, entries) counts n. entries: (entries,) m >= 0. measured: (networks,) y > 0.

    Deterministic for a seed, which deals the networks into folds. Raises ValueError for measurements that are not
    above 0.
    """
    if not (np.isfinite(measured).all() and (measured > 0).all()):
        raise ValueError("measured latencies must be finite and above 0")
    parts = occurrences * entries
    left_out = {strength: _left_out(parts, measured, strength, seed) for strength in STRENGTHS}
    errors = {s: float(np.sqrt(np.mean((p / measured - 1) ** 2))) for s, p in left_out.items()}
    best = min(STRENGTHS, key=lambda strength: errors[strength])
    factors, constant = _solve(parts, measured, best)
    return Correction(factors, constant, best, left_out[best], 100 * errors[best])


def outliers(left_out: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Indices of networks that no fit to the others explains: off by more than 30 %, and by 6 times the
    median error."""
    errors = np.abs(left_out / measured - 1)
    found: np.ndarray = np.flatnonzero(errors > max(0.3, 6 * float(np.median(errors))))
    return found


def _left_out(parts: np.ndarray, measured: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """(networks,): predictions of networks that took no part in the fit."""
    folds = np.random.default_rng(seed).permutation(len(measured)) % min(FOLDS, len(measured))
    predicted = np.empty(len(measured))
    for fold in np.unique(folds):
        out = folds == fold
        factors, constant = _solve(parts[~out], measured[~out], strength)
        predicted[out] = parts[out] @ factors + constant
    return predicted


def _solve(parts: np.ndarray, measured: np.ndarray, strength: float) -> tuple[np.ndarray, float]:
    """(w, c) of the minimum above. parts: (networks, entries) n_ik m_k.

    For any w the best g is its mean and the best c a projection; with both put in, non-negative least squares remain,
    which an active-set method solves exactly.
    """
    networks, count = parts.shape
    pull = np.sqrt(strength) * (np.eye(count) - 1 / count)
    fit = np.vstack([parts / measured[:, None], pull])
    target = np.concatenate([np.ones(networks), np.zeros(count)])
    constant = np.concatenate([1 / measured, np.zeros(count)])
    unit = constant / np.linalg.norm(constant)
    factors, _ = nnls(fit - np.outer(unit, unit @ fit), target - unit * (unit @ target), maxiter=100 * count)
    return factors, float(unit @ (target - fit @ factors) / np.linalg.norm(constant))
