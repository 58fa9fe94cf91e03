"""What benchmarks/search_quality.py, search_results.py and search_target.py compute: identities on made-up figures."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from bands import BAND, Band
from engine.errors import ConfigError
from search_results import uniform_architectures, widest_uniform
from search_target import holds, keep, kept
from truth import Truth


@pytest.fixture
def band():
    """Costs 1 to 20; T is 10, so the band is [9, 10] with three networks, one of them at each end."""
    costs = np.array([1.0, 10.0, 9.0, 9.5, 10.1, 8.9, 20.0])
    accuracy = np.array([99.0, 70.0, 80.0, 90.0, 98.0, 97.0, 96.0])
    return Band.of(10.0, costs, accuracy), costs, accuracy


def test_a_band_holds_the_networks_just_below_the_target(band):
    own_band, costs, accuracy = band
    assert own_band.indices.tolist() == [1, 2, 3]
    assert all(BAND * 10 <= costs[i] <= 10 for i in own_band.indices)
    assert own_band.accuracies.tolist() == accuracy[own_band.indices].tolist()
    assert own_band.middle(costs) == 3


def test_percentile_and_gap_are_0_and_1_where_they_should_be(band):
    own_band, _, accuracy = band
    assert [own_band.percentile(i, accuracy[i]) for i in (1, 2, 3)] == [0, 50, 100]
    assert own_band.percentile(6, 96.0) == 100  # outside the band all of its networks are others
    assert own_band.gap(90.0) == 0
    assert own_band.gap(80.0) == pytest.approx(1)  # the mean of 70, 80 and 90
    tied = Band(10.0, np.array([0, 1, 2]), np.array([50.0, 50.0, 40.0]))
    assert tied.percentile(0, 50.0) == 75  # better than one, equal to one


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_random_search_is_the_mean_over_all_draws(count):
    accuracies = np.random.default_rng(0).normal(80, 2, 7)
    band = Band(1.0, np.arange(7), accuracies)
    best = [max(draw) for draw in combinations(accuracies, min(count, 7))]
    percentile, gap = band.random_search(count)
    assert gap == pytest.approx(np.mean([band.gap(a) for a in best]))
    of_draws = [band.percentile(int(np.argmax(accuracies == a)), a) for a in best]
    assert percentile == pytest.approx(np.mean(of_draws))


def test_the_control_is_the_mean_over_all_draws_of_what_the_loss_chooses():
    random = np.random.default_rng(2)
    accuracies, losses = random.normal(80, 2, 6), random.normal(0, 1, 6)
    band = Band(1.0, np.arange(6), accuracies)
    draws = [min(draw, key=lambda i: losses[i]) for draw in combinations(range(6), 3)]
    percentile, gap = band.chosen_by(losses, 3)
    assert gap == pytest.approx(np.mean([band.gap(accuracies[i]) for i in draws]))
    assert percentile == pytest.approx(np.mean([band.percentile(i, accuracies[i]) for i in draws]))
    assert band.random_search(0) == band.random_search(1)  # it has to return a network
    assert band.random_search(1)[0] == pytest.approx(50)


def test_the_seed_noise_is_that_of_one_training():
    top1 = np.random.default_rng(1).normal(0, 0.5, (4000, 2)) + np.linspace(70, 90, 4000)[:, None]
    truth = Truth([], top1, {})
    assert truth.seed_noise == pytest.approx(0.5, rel=0.05)
    assert truth.noise == pytest.approx(truth.seed_noise / 2**0.5)
    assert truth.accuracy.shape == (4000,)


def test_the_widest_uniform_network_is_the_largest_below_the_bound(space, make_cost, make_limit):
    every = uniform_architectures(space)
    assert len(set(every)) == len(every) > 3
    for paths in every:
        space.check_paths(paths)
    cost = make_cost(space, 0)
    costs = sorted(cost.of(paths) for paths in every)
    limit = replace(make_limit(cost, 0.5), bound=costs[len(costs) // 2])
    chosen = widest_uniform(space, limit)
    feasible = [p for p in every if cost.of(p) <= limit.bound * (1 + 1e-9)]
    assert 0 < len(feasible) < len(every)
    assert chosen.paths in feasible
    assert chosen.complexity.macs == max(space.complexity(p).macs for p in feasible)
    with pytest.raises(ConfigError, match="choose a larger limit"):
        widest_uniform(space, replace(limit, bound=0.9 * costs[0]))


GOOD = {
    "target_ms": 10.0,
    "expected_error": 9e-7,
    "predicted_first_ms": 9.9,
    "error": 0.019,
    "acceptable_error": 0.02,
}


@pytest.mark.parametrize(
    ("change", "met"),
    [
        ({}, True),
        ({"expected_error": 1.1e-6}, False),
        ({"predicted_first_ms": 9.79}, False),
        ({"predicted_first_ms": 10.01}, False),
        ({"predicted_first_ms": 10.0}, True),
        ({"error": -0.021}, False),
        ({"error": 0.021}, False),
        ({"error": 0.021, "acceptable_error": 0.022}, True),
    ],
)
def test_a_target_holds_where_every_bar_is_met(change, met):
    assert holds(GOOD | change) is met


def test_what_was_kept_is_used_with_the_same_settings_alone(tmp_path):
    assert kept(tmp_path, {"lr": 0.1}) is None
    keep(tmp_path, {"lr": 0.1}, {"seconds": 5.0})
    assert kept(tmp_path, {"lr": 0.1}) == {"seconds": 5.0}
    with pytest.raises(ConfigError, match=r"other settings \(lr: 0.1 -> 0.2\); choose another --out"):
        kept(tmp_path, {"lr": 0.2})
