"""The fit of the calibration: its optimum, its limits, and its cross-validation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import lsq_linear, minimize

from latency.calibration import FOLDS, STRENGTHS, _left_out, _solve, fit_correction


def problem(seed: int, networks: int = 30, entries: int = 12, noise: float = 0.0):
    """Returns (occurrences, m, f, c, measured) of networks that take c + sum n f m ms, up to relative noise."""
    rng = np.random.default_rng(seed)
    n = rng.integers(0, 4, (networks, entries)).astype(float)
    n[:, 0] = 1  # a stem
    m = 10 ** rng.uniform(-2, 0.5, entries)
    f = rng.uniform(0.7, 1.5, entries)
    c = rng.uniform(0, 1)
    measured = (c + (n * m) @ f) * (1 + noise * rng.standard_normal(networks))
    return n, m, f, c, measured


def objective(factors, common, constant, parts, measured, strength) -> float:
    """Returns the sum that latency/calibration.py minimises."""
    fit = (constant + parts @ factors) / measured - 1
    return float(np.sum(fit**2) + strength * np.sum((factors - common) ** 2))


@pytest.mark.parametrize("strength", [1e-3, 1e-1, 10.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_solution_is_the_minimum(seed, strength):
    """It is no worse than that of an independent solver, and no step from it improves; the problem is convex."""
    n, m, _, _, measured = problem(seed, entries=6, noise=0.05)
    parts = n * m
    factors, constant = _solve(parts, measured, strength)
    common = factors.mean()  # the best g, by its own first-order condition
    ours = objective(factors, common, constant, parts, measured, strength)

    def flat(v):
        return objective(v[:6], v[6], v[7], parts, measured, strength)

    optimum = minimize(flat, np.ones(8), method="L-BFGS-B", bounds=[(0, None)] * 6 + [(None, None)] * 2, tol=1e-14)
    assert ours <= optimum.fun * (1 + 1e-6) + 1e-12
    rng = np.random.default_rng(seed)
    for _ in range(200):
        step = 1e-3 * rng.standard_normal(8)
        there = flat(np.array([*np.maximum(factors + step[:6], 0), common + step[6], constant + step[7]]))
        assert there >= ours - 1e-10


def test_noise_free_networks_are_predicted():
    """100 networks determine 12 corrections and a constant, and thereby 20 other networks."""
    n, m, f, c, measured = problem(3, networks=120)
    correction = fit_correction(n[:100], m, measured[:100])
    predicted = correction.constant + (n[100:] * m) @ correction.factors
    np.testing.assert_allclose(predicted, measured[100:], rtol=1e-3)
    assert correction.strength == STRENGTHS[0]
    # a stem that is everywhere cannot be separated from the constant; all others are recovered
    np.testing.assert_allclose(correction.factors[1:] * m[1:], f[1:] * m[1:], atol=0.02)
    assert correction.constant + correction.factors[0] * m[0] == pytest.approx(c + f[0] * m[0], abs=0.02)


def test_the_strongest_pull_fits_a_common_factor_and_a_constant_exactly():
    """If every op is off by the same factor, the strongest pull costs no accuracy."""
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
    assert factors.min() == 0
    plain, *_ = np.linalg.lstsq(np.column_stack([n, np.ones(40)]), measured, rcond=None)
    assert plain.min() < 0
    assert (fit_correction(n, m, measured).factors >= 0).all()


def test_left_out_predictions_are_those_of_fits_to_the_other_networks():
    n, m, _, _, measured = problem(6, networks=23, noise=0.05)
    correction = fit_correction(n, m, measured, seed=9)
    folds = np.random.default_rng(9).permutation(23) % FOLDS
    for fold in range(FOLDS):
        out = folds == fold
        factors, constant = _solve((n * m)[~out], measured[~out], correction.strength)
        np.testing.assert_allclose(correction.left_out[out], constant + (n * m)[out] @ factors)
    rms = np.sqrt(np.mean((correction.left_out / measured - 1) ** 2))
    assert correction.cross_validation_percent == pytest.approx(100 * rms)


def test_the_strength_has_the_lowest_error_of_all_strengths():
    n, m, _, _, measured = problem(7, networks=25, entries=20, noise=0.05)
    best = fit_correction(n, m, measured)
    errors = [np.mean((_left_out(n * m, measured, s, 0) / measured - 1) ** 2) for s in STRENGTHS]
    assert best.strength == STRENGTHS[int(np.argmin(errors))]


def test_corrections_do_not_depend_on_the_unit_of_time():
    """In microseconds, the corrections are the same and the constant is a thousand times as large."""
    n, m, _, _, measured = problem(8, noise=0.03)
    ms, us = fit_correction(n, m, measured), fit_correction(n, 1e3 * m, 1e3 * measured)
    assert ms.strength == us.strength
    np.testing.assert_allclose(us.factors, ms.factors, rtol=1e-6, atol=1e-9)
    assert us.constant == pytest.approx(1e3 * ms.constant, rel=1e-6, abs=1e-6)


def test_an_entry_that_no_network_holds_takes_the_common_factor():
    n, m, _, _, measured = problem(9, noise=0.02)
    n[:, 5] = 0
    measured = 0.1 + 1.3 * (n * m).sum(axis=1)
    correction = fit_correction(n, m, measured)
    assert correction.factors[5] == pytest.approx(1.3, rel=1e-3)


def test_an_entry_of_zero_stays_zero():
    n, m, _, _, measured = problem(10, noise=0.02)
    m[2] = 0
    correction = fit_correction(n, m, measured)
    assert np.isfinite(correction.factors).all()
    assert correction.factors[2] * m[2] == 0


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_impossible_measurements_are_refused(bad):
    n, m, _, _, measured = problem(11)
    measured[3] = bad
    with pytest.raises(ValueError, match="finite and above 0"):
        fit_correction(n, m, measured)


def networks_of_a_space(seed: int, networks: int, entries: int, noise: float):
    """Returns (parts, measured): one op of each of some 8 edges, ops from 1e-3 to 10 ms, factors down to 0."""
    rng = np.random.default_rng([seed, networks, entries])
    n = np.zeros((networks, entries))
    n[:, :3] = 1
    for ops in np.array_split(rng.permutation(np.arange(3, entries)), rng.integers(4, 12)):
        np.add.at(n, (np.arange(networks), rng.choice(ops, networks)), 1)
    n[1] = n[0]  # timed twice
    parts = n * 10 ** rng.uniform(-3, 1, entries)
    plain = parts @ rng.uniform(0, 2, entries) + rng.uniform(0, 0.5)
    return parts, plain * np.exp(noise * rng.standard_normal(networks))


@pytest.mark.parametrize("shape", [(60, 70), (20, 70), (12, 30)])
@pytest.mark.parametrize("noise", [0.0, 0.02, 1.0])
def test_the_kkt_conditions_hold_at_every_size_and_strength(shape, noise):
    """dL/dw_k is 0 where w_k > 0 and not negative where it is 0; dL/dc is 0. This proves the minimum: L is convex."""
    for seed, strength in enumerate(STRENGTHS):
        parts, measured = networks_of_a_space(seed, *shape, noise)
        factors, constant = _solve(parts, measured, strength)
        residual = (parts @ factors + constant) / measured - 1
        d_factors = parts.T @ (residual / measured) + strength * (factors - factors.mean())
        size = np.linalg.norm(parts / measured[:, None], axis=0) + strength  # of a unit step's effect
        free = factors > 0
        assert np.abs(d_factors / size)[free].max() < 1e-9
        assert (d_factors / size)[~free].min(initial=0) > -1e-9
        assert abs((residual / measured).sum()) < 1e-9 * np.linalg.norm(1 / measured)


def test_an_interior_point_method_finds_nothing_better():
    for seed, strength in enumerate(STRENGTHS):
        parts, measured = networks_of_a_space(seed, 40, 50, 0.02)
        factors, constant = _solve(parts, measured, strength)
        ours = objective(factors, factors.mean(), constant, parts, measured, strength)
        pull = np.sqrt(strength) * np.column_stack([np.eye(50), -np.ones(50), np.zeros(50)])
        fit = np.column_stack([parts, np.zeros(40), np.ones(40)]) / measured[:, None]
        bounds = (np.array([0.0] * 50 + [-np.inf] * 2), np.inf)
        optimum = lsq_linear(np.vstack([fit, pull]), np.concatenate([np.ones(40), np.zeros(50)]), bounds=bounds)
        assert ours <= 2 * optimum.cost * (1 + 1e-9)
        assert ours == pytest.approx(2 * optimum.cost, rel=1e-3)


def test_the_constant_is_negative_if_measuring_adds_to_every_layer():
    """Each of the layers' timings holds 0.1 ms of the measuring itself: networks are faster than their sums.

    A network with fewer layers than any that was measured may then be predicted below 0.
    """
    n, m, _, _, _ = problem(12)
    measured = 1.0 * (n * m).sum(axis=1) - 0.05
    assert measured.min() > 0
    correction = fit_correction(n, m, measured)
    assert correction.constant == pytest.approx(-0.05, abs=1e-3)
    np.testing.assert_allclose((n * m) @ correction.factors + correction.constant, measured, rtol=1e-3)


def test_the_same_seed_gives_the_same_fit():
    n, m, _, _, measured = problem(13, noise=0.05)
    one, two = fit_correction(n, m, measured, seed=4), fit_correction(n, m, measured, seed=4)
    np.testing.assert_array_equal(one.left_out, two.left_out)
    assert not np.array_equal(one.left_out, fit_correction(n, m, measured, seed=5).left_out)


def test_a_constant_that_may_not_be_negative_gives_the_best_fit_without_one():
    """The conditions of a minimum with w, c >= 0: a slope of 0 where a number is above 0, and none below 0 where it is
    0."""
    for seed, strength in enumerate(STRENGTHS):
        parts, measured = networks_of_a_space(seed, 40, 50, 0.02)
        measured = np.maximum(measured - 0.3 * measured.min(), 0.1 * measured)
        factors, constant = _solve(parts, measured, strength, free_constant=False)
        assert constant >= 0
        residual = (parts @ factors + constant) / measured - 1
        slope = float((residual / measured).sum()) / float(np.linalg.norm(1 / measured))
        assert slope > -1e-9
        assert constant == 0 or abs(slope) < 1e-9
        d_factors = parts.T @ (residual / measured) + strength * (factors - factors.mean())
        size = np.linalg.norm(parts / measured[:, None], axis=0) + strength
        assert np.abs(d_factors / size)[factors > 0].max() < 1e-9
        assert (d_factors / size)[factors == 0].min(initial=0) > -1e-9


def test_the_smallest_network_keeps_a_time_above_0():
    """Networks of 12 to 28 layers give c = -1.9 ms; one of a single layer of 1 ms would then take -0.9 ms."""
    rng = np.random.default_rng(0)
    n, m = rng.multinomial(rng.integers(12, 29, size=40), [0.25] * 4).astype(float), np.ones(4)
    measured = n @ np.array([1.0, 1.1, 1.2, 1.3]) - 1.9
    free = fit_correction(n, m, measured, smallest=lambda ms: 10 * ms.min())
    assert free.constant == pytest.approx(-1.9, abs=0.05)
    bound = fit_correction(n, m, measured, smallest=lambda ms: ms.min())
    assert bound.constant >= 0
    assert bound.factors.min() > 0
    np.testing.assert_allclose(n @ bound.factors + bound.constant, measured, rtol=0.1)
    assert bound.cross_validation_percent > free.cross_validation_percent  # that of the fit that is returned
