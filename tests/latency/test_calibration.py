"""The calibration's fit: its optimum, its limits, its cross-validation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from latency.calibration import FOLDS, STRENGTHS, _solve, fit_correction


def problem(seed: int, networks: int = 30, entries: int = 12, noise: float = 0.0):
    """Networks that take c + sum n f m ms, up to relative noise: (occurrences, m, f, c, measured)."""
    rng = np.random.default_rng(seed)
    n = rng.integers(0, 4, (networks, entries)).astype(float)
    n[:, 0] = 1  # a stem
    m = 10 ** rng.uniform(-2, 0.5, entries)
    f = rng.uniform(0.7, 1.5, entries)
    c = rng.uniform(0, 1)
    measured = (c + (n * m) @ f) * (1 + noise * rng.standard_normal(networks))
    return n, m, f, c, measured


def objective(factors, common, constant, parts, measured, strength) -> float:
    """As in the module's docstring."""
    fit = (constant + parts @ factors) / measured - 1
    return float(np.sum(fit**2) + strength * np.sum((factors - common) ** 2))


@pytest.mark.parametrize("strength", [1e-3, 1e-1, 10.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_solution_is_the_minimum(seed, strength):
    """No worse than an independent solver, and no step from it improves: the problem is convex."""
    n, m, _, _, measured = problem(seed, entries=6, noise=0.05)
    parts = n * m
    factors, constant = _solve(parts, measured, strength)
    common = factors.mean()  # the best g, by its own first-order condition
    ours = objective(factors, common, constant, parts, measured, strength)

    def flat(v):
        return objective(v[:6], v[6], v[7], parts, measured, strength)

    found = minimize(flat, np.ones(8), method="L-BFGS-B", bounds=[(0, None)] * 6 + [(None, None)] * 2, tol=1e-14)
    assert ours <= found.fun * (1 + 1e-6) + 1e-12
    rng = np.random.default_rng(seed)
    for _ in range(200):
        step = 1e-3 * rng.standard_normal(8)
        there = flat(np.array([*np.maximum(factors + step[:6], 0), common + step[6], constant + step[7]]))
        assert there >= ours - 1e-10


def test_noise_free_networks_are_predicted():
    """Also ones that took no part: 120 networks determine 12 corrections and a constant."""
    n, m, f, c, measured = problem(3, networks=120)
    found = fit_correction(n[:100], m, measured[:100])
    predicted = found.constant + (n[100:] * m) @ found.factors
    np.testing.assert_allclose(predicted, measured[100:], rtol=1e-3)
    assert found.strength == STRENGTHS[0]
    # a stem that is everywhere cannot be told from the constant; all others are found
    np.testing.assert_allclose(found.factors[1:] * m[1:], f[1:] * m[1:], atol=0.02)
    assert found.constant + found.factors[0] * m[0] == pytest.approx(c + f[0] * m[0], abs=0.02)


def test_a_common_factor_and_a_constant_need_no_weak_pull():
    """Where every op is off by the same factor, the strongest pull loses nothing."""
    n, m, _, _, _ = problem(4)
    measured = 0.3 + 1.25 * (n * m).sum(axis=1)
    factors, constant = _solve(n * m, measured, 1e3)
    np.testing.assert_allclose(factors, 1.25, rtol=1e-6)
    assert constant == pytest.approx(0.3, rel=1e-5)


def test_an_infinite_pull_is_the_fit_of_two_numbers():
    n, m, _, _, measured = problem(5, noise=0.1)
    parts = n * m
    factors, constant = _solve(parts, measured, 1e7)
    columns = np.column_stack([parts.sum(axis=1), np.ones(len(measured))]) / measured[:, None]
    (common, expected), *_ = np.linalg.lstsq(columns, np.ones(len(measured)), rcond=None)
    np.testing.assert_allclose(factors, common, rtol=1e-4)
    assert constant == pytest.approx(expected, rel=1e-3)


def test_corrections_are_never_negative():
    """Two ops that nearly cancel would have one below zero in plain least squares."""
    rng = np.random.default_rng(0)
    n = rng.integers(0, 3, (40, 3)).astype(float)
    m = np.ones(3)
    measured = 5 + n @ np.array([2.0, -0.8, 1.0])
    factors, _ = _solve(n, measured, 1e-4)
    assert 0 <= factors.min() < 1e-9
    plain, *_ = np.linalg.lstsq(np.column_stack([n, np.ones(40)]), measured, rcond=None)
    assert plain.min() < 0
    assert (fit_correction(n, m, measured).factors >= 0).all()


def test_left_out_predictions_are_those_of_refits():
    n, m, _, _, measured = problem(6, networks=23, noise=0.05)
    found = fit_correction(n, m, measured, seed=9)
    folds = np.random.default_rng(9).permutation(23) % FOLDS
    for fold in range(FOLDS):
        out = folds == fold
        factors, constant = _solve((n * m)[~out], measured[~out], found.strength)
        np.testing.assert_allclose(found.left_out[out], constant + (n * m)[out] @ factors)
    rms = np.sqrt(np.mean((found.left_out / measured - 1) ** 2))
    assert found.cross_validation_percent == pytest.approx(100 * rms)


def test_the_strength_is_the_best_of_all():
    n, m, _, _, measured = problem(7, networks=25, entries=20, noise=0.05)
    best = fit_correction(n, m, measured)
    from latency.calibration import _left_out

    errors = [np.mean((_left_out(n * m, measured, s, 0) / measured - 1) ** 2) for s in STRENGTHS]
    assert best.strength == STRENGTHS[int(np.argmin(errors))]


def test_the_unit_does_not_matter():
    """In microseconds the same corrections, and a constant a thousand times as large."""
    n, m, _, _, measured = problem(8, noise=0.03)
    ms, us = fit_correction(n, m, measured), fit_correction(n, 1e3 * m, 1e3 * measured)
    assert ms.strength == us.strength
    np.testing.assert_allclose(us.factors, ms.factors, rtol=1e-6, atol=1e-9)
    assert us.constant == pytest.approx(1e3 * ms.constant, rel=1e-6, abs=1e-6)


def test_an_entry_that_no_network_holds_takes_the_common_factor():
    n, m, _, _, measured = problem(9, noise=0.02)
    n[:, 5] = 0
    measured = 0.1 + 1.3 * (n * m).sum(axis=1)
    found = fit_correction(n, m, measured)
    assert found.factors[5] == pytest.approx(1.3, rel=1e-3)


def test_an_entry_of_zero_stays_zero():
    n, m, _, _, measured = problem(10, noise=0.02)
    m[2] = 0
    found = fit_correction(n, m, measured)
    assert np.isfinite(found.factors).all()
    assert found.factors[2] * m[2] == 0


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_impossible_measurements_are_refused(bad):
    n, m, _, _, measured = problem(11)
    measured[3] = bad
    with pytest.raises(ValueError, match="finite and above 0"):
        fit_correction(n, m, measured)


@pytest.mark.parametrize("shape", [(60, 70), (20, 70), (10, 3)])
def test_every_size_and_scale_is_solved(shape):
    """More entries than networks, entries of 1e-3 to 10 ms, duplicates, every strength."""
    for seed in range(3):
        rng = np.random.default_rng([seed, *shape])
        n = rng.integers(0, 3, shape).astype(float)
        n[1] = n[0]
        m = 10 ** rng.uniform(-3, 1, shape[1])
        measured = ((n * m) @ rng.uniform(0.5, 2, shape[1]) + 0.5) * (1 + 0.02 * rng.standard_normal(shape[0]))
        for strength in (STRENGTHS[0], 1.0, STRENGTHS[-1]):
            factors, constant = _solve(n * m, measured, strength)
            assert np.isfinite(factors).all()
            assert np.isfinite(constant)
