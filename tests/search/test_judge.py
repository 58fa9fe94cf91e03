"""Tests the comparison with random networks on made-up losses: rank, correlation and reliability."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import permutations, product

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from search.judge import FEWEST, SIGNIFICANT, Judge, chance_error, judge, split_half, supernet_losses
from search.limits.resolve import resolve
from search.plan import Plan
from search.scoring import open_parts
from supernet.alpha import Alpha
from supernet.supernet import Supernet

from .conftest import search_file


def judged(losses, alpha, networks, space):
    return judge(losses, 0, networks, Alpha.of_space(space, torch.as_tensor(alpha, dtype=torch.float64)), 100)


def judge_of(sections, folder):
    """The judge of a search of the tiny space with these sections."""
    config = search_file([{"metric": "macs", "at": "70%", "tolerance": 0.2}], **sections)
    resolved = resolve(config, folder / "search.yaml")
    plan = Plan(resolved.config, resolved.space, resolved.limits, torch.device("cpu"), *open_parts(config))
    return Judge(plan, nullcontext)


@pytest.fixture
def networks():
    """21 networks, of which the first is the derived one."""
    rng = np.random.default_rng(0)
    return [tuple(int(i) for i in rng.integers((3, 3, 2, 3))) for _ in range(21)]


def test_an_alpha_that_is_minus_the_loss_has_a_correlation_of_one(networks, space):
    alpha = np.random.default_rng(1).normal(size=(4, 3))
    losses = -np.array([alpha[range(4), paths].sum() for paths in networks])[:, None] + np.zeros((1, 4))
    judgement = judged(losses, alpha, networks, space)
    assert judgement.tau == pytest.approx(1.0)
    assert judgement.reliability == pytest.approx(1.0)
    assert judgement.rank == 1 + int((losses[1:, 0] < losses[0, 0]).sum())
    assert not judgement.notes


def test_an_alpha_of_equal_probabilities_gets_a_note_that_it_ranks_by_chance(networks, space):
    rng = np.random.default_rng(2)
    losses = rng.normal(size=21)[:, None] + 0.01 * rng.normal(size=(21, 8))
    judgement = judged(losses, np.zeros((4, 3)), networks, space)
    assert judgement.tau == 0.0
    assert len(judgement.notes) == 1
    assert "alpha ranks random networks" in judgement.notes[0]


def test_if_the_supernet_ranks_by_chance_the_only_note_is_about_the_supernet(networks, space):
    losses = np.random.default_rng(3).normal(size=(21, 8))
    judgement = judged(losses, np.zeros((4, 3)), networks, space)
    assert judgement.reliability < SIGNIFICANT * judgement.error
    assert len(judgement.notes) == 1
    assert "the supernet does not rank" in judgement.notes[0]


def test_chance_error_is_the_standard_deviation_of_tau_over_all_orders():
    taus = [kendalltau(range(5), order).statistic for order in permutations(range(5))]
    assert chance_error(5) == pytest.approx(float(np.std(taus)), rel=1e-9)


def test_split_half_compares_disjoint_batches():
    losses = np.array([[1.0, 9.0, 1.0], [2.0, 8.0, 2.0], [3.0, 7.0, 3.0]])
    assert split_half(losses) == pytest.approx(-1.0)  # even batches rise where the odd one falls
    assert split_half(losses[:, :1]) is None


def test_a_single_batch_has_no_halves_and_says_nothing_about_the_supernet(networks, space, tmp_path):
    losses = np.random.default_rng(4).normal(size=(21, 1))
    alpha = np.random.default_rng(1).normal(size=(4, 3))
    losses[:, 0] = [-alpha[range(4), paths].sum() for paths in networks]
    judgement = judged(losses, alpha, networks, space)
    assert judgement.reliability is None
    assert not judgement.notes
    judge = judge_of({"data": {"name": "fake", "fake_images": 80, "fake_classes": 4, "validation": 0.15}}, tmp_path)
    assert 8 <= len(judge.plan.validation) < 16
    assert judge.reliability(Supernet(judge.plan.space)) is None


@pytest.mark.parametrize("count", [2, 3])
def test_so_few_networks_that_even_one_order_may_be_by_chance_say_nothing(networks, space, count, tmp_path):
    assert SIGNIFICANT * chance_error(FEWEST - 1) > 1 >= SIGNIFICANT * chance_error(FEWEST)
    losses = np.arange(count + 1.0)[:, None] + np.zeros((1, 4))
    judgement = judged(losses, np.zeros((4, 3)), networks[: count + 1], space)
    assert (judgement.reliability, judgement.notes) == (pytest.approx(1.0), ())
    judge = judge_of({}, tmp_path)
    judge.networks = judge.networks[:count]
    assert judge.reliability(Supernet(judge.plan.space)) is None


def test_every_network_is_evaluated_on_the_same_images(space):
    config = search_file([{"metric": "macs", "at": "50%"}])
    _, validation = open_parts(config)
    net = Supernet(space)
    paths = (0, 1, 0, 1)
    losses, images = supernet_losses(
        net, [paths, paths], config, validation, torch.device("cpu"), nullcontext, images=24
    )
    assert losses.shape == (2, 3)
    assert images == 24
    assert (losses[0] == losses[1]).all()
    assert len(set(losses[0])) == 3  # batches differ


def test_a_network_of_a_corrected_bound_is_judged_among_networks_of_its_own_cost(tmp_path):
    judge = judge_of({}, tmp_path)
    plan, (limit,) = judge.plan, judge.plan.limits
    asked = [limit.cost.of(paths) for paths in judge.networks]
    assert asked
    assert all(0.8 * limit.bound <= cost <= limit.bound for cost in asked)
    everything = list(product(*(range(int(n)) for n in plan.space.mask.sum(axis=1))))
    derived = max((p for p in everything if limit.cost.of(p) < 0.7 * limit.bound), key=limit.cost.of)
    own = limit.cost.of(derived)
    assert judge.judgement(Supernet(plan.space), Alpha.of_space(plan.space), derived).networks > 2
    costs = [limit.cost.of(paths) for paths in judge._as_costly_as(derived)]
    assert costs
    assert all(0.8 * own * (1 - 1e-9) <= cost <= own * (1 + 1e-9) for cost in costs)
    assert judge._as_costly_as(judge.networks[0]) is judge.networks
