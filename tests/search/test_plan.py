"""Tests the schedule of a search by its step numbers."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from search.limits.resolve import resolve
from search.plan import Plan


@pytest.fixture
def make_plan(make_search_file, tmp_path):
    """make_plan(**search): 10 steps an epoch: one epoch of warm-up, two of search, an architecture step after every 5
    weights steps."""

    def make(**changes):
        search = {"epochs": 2, "warmup_epochs": 1, "batch_size": 8, "arch_every": 5, "arch_lr": 0.02}
        search |= {"optimizer": "sgd", "lr": 0.1}
        config = make_search_file([{"metric": "macs", "at": "40%"}], search=search | changes)
        resolved = resolve(config, tmp_path / "search.yaml")
        return Plan(resolved.config, resolved.space, resolved.limits, torch.device("cpu"), range(80), range(40))

    return make


@pytest.fixture
def plan(make_plan):
    return make_plan()


def rates(plan):
    return [plan.lr(step) for step in range(plan.steps)]


def test_the_warm_up_has_no_architecture_step(plan):
    assert (plan.steps_per_epoch, plan.warmup_steps, plan.steps) == (10, 10, 30)
    assert [step for step in range(plan.steps) if plan.architecture_step_follows(step)] == [14, 19, 24, 29]


def test_the_learning_rate_is_one_cosine_over_warm_up_and_search(plan, make_plan):
    lr = rates(plan)
    assert lr[0] == 0.1
    assert lr[15] == pytest.approx(0.05)  # half way
    assert lr[10] == pytest.approx(0.075)  # a third of the way: (1 + cos 60 degrees) / 2
    assert all(a > b for a, b in pairwise(lr))
    assert lr == rates(make_plan(warmup_epochs=0, epochs=3))  # where the warm-up ends does not matter


def test_a_learning_rate_of_the_warm_ups_own_makes_two_cosines_as_published(make_plan):
    lr = rates(make_plan(warmup_lr=0.3))
    assert (lr[0], lr[10]) == (0.3, 0.1)
    assert (lr[5], lr[20]) == (pytest.approx(0.15), pytest.approx(0.05))  # half way
    for phase in (lr[:10], lr[10:]):
        assert phase == sorted(phase, reverse=True)


def test_the_learning_rate_of_adamw_rises_to_the_cosine_in_a_straight_line(make_plan):
    """It rises over 2 % of 300 steps, that is, in 6."""
    adamw = make_plan(optimizer="adamw", epochs=20, warmup_epochs=10)
    cosine = rates(make_plan(epochs=20, warmup_epochs=10))
    assert rates(adamw)[:6] == [pytest.approx(share / 6 * lr) for share, lr in enumerate(cosine[:6], 1)]
    assert rates(adamw)[6:] == cosine[6:]
    two = make_plan(optimizer="adamw", warmup_lr=0.3, epochs=20, warmup_epochs=10)
    assert (rates(two)[0], rates(two)[100]) == (pytest.approx(0.05), 0.1)


def test_the_learning_rate_of_alpha_is_zero_in_the_warm_up(plan):
    assert [plan.arch_lr(step) for step in (0, 9, 10, 29)] == [0, 0, 0.02, 0.02]


def test_progress_is_counted_without_the_warm_up(plan):
    assert [plan.progress(step) for step in (0, 10, 20, 30)] == [0, 0, 0.5, 1]


def test_only_regression_has_final_steps_and_balanced_paths_throughout(make_plan):
    plan = make_plan(regression={"final_steps": 7})
    assert (plan.final_steps, plan.alpha_draws) == (7, False)
    for update in ("full", "full_v2", "two_path", "reinforce"):
        plan = make_plan(arch_update=update)
        assert (plan.final_steps, plan.alpha_draws) == (0, True)
