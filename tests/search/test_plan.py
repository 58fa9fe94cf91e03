"""When what is due in a search: by step numbers alone."""

from __future__ import annotations

import pytest
import torch

from search.limits import resolve
from search.plan import Plan


@pytest.fixture
def plan(make_search_file, tmp_path):
    """10 steps an epoch: one epoch of warm-up, two of search, an architecture step after every 5 weights steps."""
    search = {"epochs": 2, "warmup_epochs": 1, "batch_size": 8, "arch_every": 5, "warmup_lr": 0.3, "lr": 0.1}
    config = make_search_file([{"metric": "macs", "at": "40%"}], search=search | {"arch_lr": 0.02})
    resolved = resolve(config, tmp_path / "search.yaml")
    return Plan(resolved.config, resolved.space, resolved.limits, torch.device("cpu"), range(80), range(40))


def test_the_warm_up_has_no_architecture_step(plan):
    assert (plan.steps_per_epoch, plan.warmup_steps, plan.steps) == (10, 10, 30)
    assert [step for step in range(plan.steps) if plan.architecture_step_follows(step)] == [14, 19, 24, 29]


def test_learning_rates_are_two_cosines_and_alpha_rests_in_the_warm_up(plan):
    lr = [plan.lr(step) for step in range(plan.steps)]
    assert (lr[0], lr[10]) == (0.3, 0.1)
    assert (lr[5], lr[20]) == (pytest.approx(0.15), pytest.approx(0.05))  # half way
    for phase in (lr[:10], lr[10:]):
        assert phase == sorted(phase, reverse=True)
    assert [plan.arch_lr(step) for step in (0, 9, 10, 29)] == [0, 0, 0.02, 0.02]


def test_progress_is_of_the_search_alone(plan):
    assert [plan.progress(step) for step in (0, 10, 20, 30)] == [0, 0, 0.5, 1]
