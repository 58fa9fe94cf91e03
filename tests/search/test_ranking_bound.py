"""benchmarks/ranking_bound.py, on made-up accuracies."""

import itertools

import numpy as np
import pytest
from scipy.stats import kendalltau

from bands import Band
from methods import Known
from ranking_bound import FITTED, additive_scores, at_tau, at_truth, chosen, noise_for


@pytest.fixture
def band():
    accuracies = np.random.default_rng(1).normal(90, 1, 400)
    return Band(1.0, np.arange(400), accuracies)


@pytest.mark.parametrize("tau", [0.3, 0.7])
def test_noise_gives_the_tau_that_is_asked_for(band, tau):
    rng = np.random.default_rng(2)
    noise = noise_for(tau, band.accuracies, rng)
    fresh = band.accuracies + noise * rng.normal(size=(20, 400))
    assert np.mean([kendalltau(one, band.accuracies).statistic for one in fresh]) == pytest.approx(tau, abs=0.02)


def test_a_better_ranking_finds_a_better_network(band):
    rng = np.random.default_rng(3)
    worst, middle, best = (at_tau(band, tau, rng) for tau in (0.02, 0.5, 0.98))
    assert worst[0] == pytest.approx(50, abs=8)
    assert worst[1] == pytest.approx(1, abs=0.15)
    assert worst[0] < middle[0] < best[0]
    assert worst[1] > middle[1] > best[1]
    assert best[0] > 99


def test_a_truth_without_noise_is_found_exactly(band):
    assert at_truth(band, np.zeros(400), np.random.default_rng(4)) == (100.0, 0.0)


def test_noise_of_the_truth_hides_its_best_network(band):
    percentile, gap = at_truth(band, np.full(400, 0.5), np.random.default_rng(5))
    assert 80 < percentile < 100
    assert 0 < gap < 0.5


@pytest.mark.parametrize("fitted", FITTED.values(), ids=FITTED)
def test_additive_accuracies_are_found_exactly_and_pairs_of_edges_are_not(fitted):
    """What one more candidate adds is fitted among the networks near the target; the others may be as they like."""
    networks = list(itertools.product(range(3), repeat=6))
    choices = np.array(networks)
    effects = np.random.default_rng(6).normal(0, 1, (6, 3))
    additive = 90 + effects[range(6), choices].sum(axis=1)
    macs = 4.0 + choices.sum(axis=1)
    near = (macs >= fitted[0] * 10) & (macs <= fitted[1] * 10)
    truth = Known(networks, np.where(near, additive, 10.0), macs)
    band = truth.band(10.0)
    assert additive_scores(truth, band, fitted) == pytest.approx(band.accuracies)
    assert chosen(band, additive_scores(truth, band, fitted)[None]) == (100.0, 0.0)
    pair = Known(networks, additive + 5.0 * ((choices[:, 0] == 1) & (choices[:, 1] == 1)), macs)
    assert np.abs(additive_scores(pair, pair.band(10.0), fitted) - pair.band(10.0).accuracies).max() > 0.5
