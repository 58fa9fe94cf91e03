"""Entries fitted to few networks: the likelihood, the pull, and identities of the fit."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from latency.build import occurrences
from latency.calibration import _solve, solve
from latency.plan import calibration_networks, network_job, timed_layers
from latency.shrinkage import LEAST_UNIT, Layers, Likelihood, _pull, _shapes, fit_entries, guess
from supernet.complexity import Complexity
from supernet.space import Space


@pytest.fixture
def space(space_of) -> Space:
    ops = [f"mbconv_k{k}_e{e}" for k in (3, 5, 7) for e in (3, 6)]
    stages = [{"width": w, "depth": 3, "stride": 2, "candidates": [*ops, "skip"]} for w in (16, 24, 40)]
    return space_of({"input_size": 64, "stem": {"width": 16}, "stages": stages, "feature_mix": 160})


def counts_of(space: Space, networks) -> np.ndarray:
    jobs = [network_job(space, f"n{i}", "calibration", paths) for i, paths in enumerate(networks)]
    return occurrences(jobs, [str(layer) for layer in timed_layers(space)])


def random_counts(space: Space, count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    sizes = space.mask.sum(axis=1)
    return counts_of(space, [tuple(int(rng.integers(size)) for size in sizes) for _ in range(count)])


def some_ms(layers: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 2.0, layers)


# ---- the parts ----


@pytest.fixture(params=[6, 30], ids=["fewer networks than entries", "more"])
def problem(request):
    """parts (networks, entries), free (networks, 2), three covariances, log variances."""
    rng = np.random.default_rng(0)
    parts = rng.uniform(size=(request.param, 9))
    free = np.column_stack([parts.sum(axis=1), rng.uniform(1, 2, request.param)])
    factors = [rng.normal(size=(9, k)) for k in (9, 4, 1)]
    return parts, free, [f @ f.T for f in factors], np.log([0.3, 0.1, 0.2, 0.05])


def test_the_likelihood_is_that_of_contrasts_without_the_free_parts(problem):
    """The reference has no rotation and another constant: A has orthonormal columns with A'free = 0."""
    parts, free, covariances, logs = problem
    networks = len(parts)
    A = np.linalg.svd(free)[0][:, 2:]

    def direct(logs: np.ndarray) -> float:
        V = sum(v * parts @ K @ parts.T for v, K in zip(np.exp(logs), covariances, strict=False))
        V = A.T @ (V + np.exp(logs[-1]) * np.eye(networks)) @ A
        y = A.T @ np.ones(networks)
        return float(-(np.linalg.slogdet(V)[1] + y @ np.linalg.solve(V, y)) / 2)

    likelihood = Likelihood.of(parts, free, covariances)
    elsewhere = logs + np.array([0.5, -1.0, 0.3, 1.0])
    assert likelihood.at(elsewhere)[0] - likelihood.at(logs)[0] == pytest.approx(
        direct(elsewhere) - direct(logs), rel=1e-9
    )


def test_the_slope_of_the_likelihood_is_its_derivative(problem):
    parts, free, covariances, logs = problem
    likelihood = Likelihood.of(parts, free, covariances)
    steps = 1e-5 * np.eye(4)
    slope = [(likelihood.at(logs + step)[0] - likelihood.at(logs - step)[0]) / 2e-5 for step in steps]
    np.testing.assert_allclose(likelihood.at(logs)[1], slope, rtol=1e-6)


def test_the_pull_is_the_distance_from_the_nearest_multiple_of_the_prior():
    rng = np.random.default_rng(1)
    factor, prior, w = rng.normal(size=(7, 9)), rng.uniform(size=7), rng.normal(size=7)
    covariance = factor @ factor.T

    def distance(g: float) -> float:
        return float((w - g * prior) @ np.linalg.solve(covariance, w - g * prior))

    assert np.sum((_pull(covariance, prior) @ w) ** 2) == pytest.approx(minimize_scalar(distance).fun, rel=1e-6)


def test_without_likeness_the_pull_is_that_to_a_common_factor(space):
    """It is then a covariance of I / strength around a common factor, as in the correction of measured tables."""
    parts = random_counts(space, 40, 0)
    measured = 1.0 + parts @ some_ms(parts.shape[1], 0)
    count = parts.shape[1]
    factors, constant = solve(parts, measured, _pull(np.eye(count) / 0.3, np.ones(count)))
    expected, expected_constant = _solve(parts, measured, 0.3)
    np.testing.assert_allclose(factors, expected, rtol=1e-6)
    assert constant == pytest.approx(expected_constant)


def test_no_op_is_guessed_to_be_free():
    """If MACs explain everything, an op without MACs still gets a time above 0."""
    layers = [SimpleNamespace(c_in=4, c_out=4, size=8, size_out=8, complexity=Complexity(0, m)) for m in (0, 10**6)]
    counts = np.random.default_rng(0).integers(1, 5, (20, 2)).astype(float)
    guessed = guess(_shapes(layers), counts, 3.0 * counts[:, 1])  # type: ignore[arg-type]
    assert guessed[1] == pytest.approx(3.0)
    assert guessed[0] == pytest.approx(LEAST_UNIT * 1.5)


def test_likeness_is_a_correlation_within_families(space):
    layers = timed_layers(space)
    likeness = Layers.of(layers).likeness
    np.testing.assert_allclose(np.diag(likeness), 1.0)
    np.testing.assert_allclose(likeness, likeness.T)
    assert np.linalg.eigvalsh(likeness).min() > -1e-9
    families = np.array([type(layer.spec).__name__ for layer in layers])
    assert (likeness[families[:, None] != families[None]] == 0).all()
    names = [str(layer) for layer in layers]
    k3, k5, k7 = (names.index(f"mbconv_k{k}_e3+residual 16x16x16->16 s1") for k in (3, 5, 7))
    assert 1 > likeness[k3, k5] > likeness[k3, k7] > 0


# ---- the fit ----


def test_the_unit_of_the_timings_is_that_of_the_entries(space):
    counts = random_counts(space, 25, 0)
    measured = 2.0 + counts @ some_ms(counts.shape[1], 1)
    layers = Layers.of(timed_layers(space))
    in_ms, in_us = fit_entries(layers, counts, measured), fit_entries(layers, counts, 1e3 * measured)
    np.testing.assert_allclose(in_us.ms, 1e3 * in_ms.ms, rtol=1e-5, atol=1e-4)
    assert in_us.constant == pytest.approx(1e3 * in_ms.constant, rel=1e-5)


def test_an_op_that_no_network_holds_is_as_much_slower_as_ops_like_it(space):
    """The 7x7 kernels of the device are twice as slow as their shapes suggest, which networks without one of them show,
    too."""
    layers = timed_layers(space)
    truth = np.array([1e-5 * layer.complexity.macs * (2 if "k7" in str(layer) else 1) for layer in layers])
    unseen = [str(layer) for layer in layers].index("mbconv_k7_e6+residual 16x16x16->16 s1")
    counts = random_counts(space, 150, 2)
    counts = counts[counts[:, unseen] == 0]
    measured = counts @ truth
    fit = fit_entries(Layers.of(layers), counts, measured)
    by_shape = guess(_shapes(layers), counts, measured)
    assert abs(fit.ms[unseen] / truth[unseen] - 1) < abs(by_shape[unseen] / truth[unseen] - 1) / 2


def test_entries_are_never_below_0(space):
    counts = counts_of(space, calibration_networks(space, 12, 0))
    measured = 50.0 + np.random.default_rng(0).uniform(0, 30, len(counts))  # noise alone
    for free_constant in (True, False):
        fit = fit_entries(Layers.of(timed_layers(space)), counts, measured, free_constant)
        assert (fit.ms >= 0).all()
        assert free_constant or fit.constant >= 0
