"""Tests REINFORCE: the estimator's mean over an enumerated space is the exact gradient."""

from __future__ import annotations

import contextlib
import copy
from itertools import product

import numpy as np
import pytest
import torch

from engine.data import Batch
from engine.errors import UserError
from search.config import ReinforceConfig
from search.learn.objective import expected_cost
from search.learn.projection import Projector
from search.learn.reinforce import advantages, policy_gradient, reinforce_step, reward, user_reward
from supernet.alpha import Alpha
from supernet.supernet import Supernet


def enumerated(space):
    return [tuple(int(i) for i in paths) for paths in np.ndindex(*space.mask.sum(axis=1))]


def exact_gradient(alpha, rewards):
    """d/dalpha of -sum_g p(g) R(g)."""
    values = alpha.values.double().requires_grad_()
    p = alpha.with_values(values).probabilities()
    value = sum(torch.stack([p[e, i] for e, i in enumerate(g)]).prod() * r for g, r in rewards.items())
    return torch.autograd.grad(-value, [values])[0]


def probability(p, g):
    return float(torch.stack([p[e, i] for e, i in enumerate(g)]).prod())


@pytest.fixture
def rewards(space):
    rng = np.random.default_rng(0)
    return {g: float(r) for g, r in zip(enumerated(space), rng.uniform(size=len(enumerated(space))), strict=True)}


@pytest.mark.parametrize("baseline", [0.0, 0.7])
def test_mean_gradient_over_the_enumerated_space_is_exact_whatever_the_baseline(space, rewards, baseline):
    alpha = Alpha.of_space(space, torch.randn(space.mask.shape, generator=torch.Generator().manual_seed(1)))
    p, config = alpha.probabilities(), ReinforceConfig(samples=1)
    mean = torch.zeros(p.shape, dtype=torch.float64)
    for g, r in rewards.items():
        advantage, _ = advantages(torch.tensor([r], dtype=torch.float64), config, baseline)
        mean += probability(p, g) * policy_gradient(p, [g], advantage)
    torch.testing.assert_close(mean, exact_gradient(alpha, rewards), rtol=1e-9, atol=1e-12)


def test_leave_one_out_is_unbiased(space, rewards):
    """The test sums over all ordered pairs of samples (M = 2)."""
    alpha = Alpha.of_space(space, torch.randn(space.mask.shape, generator=torch.Generator().manual_seed(2)))
    p, config = alpha.probabilities(), ReinforceConfig(samples=2, baseline="leave_one_out")
    mean = torch.zeros(p.shape, dtype=torch.float64)
    for a, b in product(rewards, repeat=2):
        advantage, following = advantages(torch.tensor([rewards[a], rewards[b]], dtype=torch.float64), config, None)
        assert following is None
        mean += probability(p, a) * probability(p, b) * policy_gradient(p, [a, b], advantage)
    torch.testing.assert_close(mean, exact_gradient(alpha, rewards), rtol=1e-9, atol=1e-12)


def test_moving_average_is_used_before_it_is_updated_and_starts_at_the_first_mean():
    config, rewards = ReinforceConfig(samples=2), torch.tensor([0.2, 0.6], dtype=torch.float64)
    advantage, baseline = advantages(rewards, config, None)
    assert advantage is None
    assert baseline == pytest.approx(0.4)
    advantage, baseline = advantages(rewards + 1, config, 0.4)
    assert advantage.tolist() == pytest.approx([0.8, 1.2])
    assert baseline == pytest.approx(0.99 * 0.4 + 0.01 * 1.4)


def test_reward_is_accuracy_times_the_power_of_the_latency_ratio(space, make_cost, make_limit):
    limit = make_limit(make_cost(space, 0), 0.5)
    paths = enumerated(space)[5]
    assert reward(0.8, paths, [limit], 0.1) == pytest.approx(0.8 * (limit.bound / limit.cost.of(paths)) ** 0.1)
    assert reward(0.8, paths, [limit], 0.0) == 0.8


def test_a_step_moves_alpha_only_and_the_first_one_not_even_that(space, make_cost, make_limit):
    net = Supernet(space, seed=0)
    alpha = Alpha.of_space(space)
    optimizer = torch.optim.Adam([alpha.values], lr=0.1)
    draws = torch.Generator().manual_seed(0)
    batch = Batch(torch.randn(16, 1, 8, 8, generator=draws), torch.randint(0, 4, (16,), generator=draws))
    before, baseline = copy.deepcopy(net.state_dict()), None
    limits = [make_limit(make_cost(space, 0), 0.5)]
    for step in range(2):
        baseline = reinforce_step(
            net, batch, alpha, optimizer, ReinforceConfig(samples=4), limits, baseline, draws,
            contextlib.nullcontext,
        ).baseline  # fmt: skip
        assert torch.equal(alpha.values, torch.zeros(space.mask.shape)) is (step == 0)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


OWN_REWARD = """
from search.learn.reinforce import Sampled

def rare_class(sample: Sampled) -> float:
    assert sample.logits.shape == (16, 4) and sample.labels.shape == (16,)
    mine = sample.labels == 3
    recall = (sample.logits.argmax(dim=1) == 3)[mine].double().mean()  # has no gradient
    return float(recall) - sample.costs["latency"] / 1e3 + 5 * (sample.architecture.paths[0] == 1)

def nothing(sample):
    return float("nan")
"""

RETURNED = {
    "None": "None",
    "True": "a value of type bool",
    "'0.5' * 10**6": repr(("0.5" * 17)[:50]),
    "0.5j": "a value of type complex",
    "[0.5]": "a value of type list",
    "10**5000": "inf",
    "-float('inf')": "-inf",
    "np.bool_(True)": "a value of type bool",
    "np.ones(1)": "a value of type ndarray",
    "torch.ones(1)": "a float32 tensor of shape (1,) on cpu",
    "torch.ones(2)": "a float32 tensor of shape (2,) on cpu",
    "torch.tensor(1j)": "a complex64 tensor of shape () on cpu",
    "torch.tensor(True)": "a bool tensor of shape () on cpu",
    "torch.ones((), device='meta')": "a float32 tensor of shape () on meta",
}


@pytest.mark.parametrize(("code", "described"), RETURNED.items())
def test_a_reward_that_is_no_number_is_refused(tmp_path, code, described):
    path = tmp_path / "own.py"
    path.write_text(f"import numpy as np\nimport torch\ndef f(sample):\n    return {code}\n")
    reward = user_reward(ReinforceConfig(reward=f"{path}:f"))
    with pytest.raises(UserError) as error:
        reward(None)
    assert str(error.value) == (
        f"search.reinforce.reward: {path}:f returned {described}, expected a finite number; correct it"
    )


@pytest.mark.parametrize("code", ["0.5", "1", "np.float32(0.5)", "torch.tensor(0.5, requires_grad=True)"])
def test_a_reward_may_be_any_kind_of_number(tmp_path, code):
    path = tmp_path / "own.py"
    path.write_text(f"import numpy as np\nimport torch\ndef f(sample):\n    return {code}\n")
    assert user_reward(ReinforceConfig(reward=f"{path}:f"))(None) in (0.5, 1.0)


def test_a_users_reward_takes_the_place_of_the_published_one(space, make_cost, make_limit, tmp_path):
    """The reward is higher by 5 for candidate 1 of the first edge, so alpha moves to it."""
    path = tmp_path / "own.py"
    path.write_text(OWN_REWARD)
    config = ReinforceConfig(samples=6, baseline="leave_one_out")
    net = Supernet(space)
    alpha = Alpha.of_space(space)
    optimizer = torch.optim.Adam([alpha.values], lr=0.1)
    draws = torch.Generator().manual_seed(0)
    batch = Batch(torch.randn(16, 1, 8, 8, generator=draws), torch.arange(16) % 4)
    limits = [make_limit(make_cost(space, 0), 0.5)]

    def step(name):
        return reinforce_step(
            net, batch, alpha, optimizer, config, limits, None, draws, contextlib.nullcontext,
            own_reward=user_reward(ReinforceConfig(reward=f"{path}:{name}")),
        )  # fmt: skip

    for _ in range(25):
        done = step("rare_class")
    assert alpha.probabilities()[0, 1] > 0.8
    assert 0 <= done.accuracy <= 1
    assert done.ce > 0
    with pytest.raises(UserError, match="returned nan, expected a finite number"):
        step("nothing")


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_reward_decides_between_networks_while_the_projection_keeps_their_expected_cost(
    space, make_cost, make_limit, share
):
    """The reward prefers the first candidate, with noise as large as that."""
    cost = make_cost(space, 0)
    limit = make_limit(cost, share)
    alpha = Alpha.of_space(space)
    optimizer = torch.optim.Adam([alpha.values], lr=0.02, betas=(0.0, 0.999))
    config = ReinforceConfig(samples=4, baseline="leave_one_out", limits="projection")
    draws, project = torch.Generator().manual_seed(1), Projector([limit])

    def noisy(sample):
        return float(sample.architecture.paths[0] == 0) + float(torch.randn((), generator=draws))

    net = Supernet(space)
    batch = Batch(torch.randn(4, 1, 8, 8, generator=draws), torch.zeros(4, dtype=torch.long))
    before = project(alpha).alpha.probabilities()[0, 0]
    for _ in range(300):
        reinforce_step(
            net, batch, alpha, optimizer, config, [limit], None, draws, contextlib.nullcontext, own_reward=noisy
        )
        alpha.values.copy_(project(alpha).alpha.values)
        p = alpha.probabilities()
        assert float(expected_cost(p, cost)) == pytest.approx(limit.bound, rel=1e-6)
    assert p[0, 0] > max(0.6, before + 0.2)


def test_the_reward_is_the_accuracy_alone_if_the_limits_enter_by_projection():
    assert ReinforceConfig(limits="projection").weight_of_costs == 0
    assert ReinforceConfig().weight_of_costs == 0.1
