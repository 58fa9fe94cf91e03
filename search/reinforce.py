"""REINFORCE: alpha learns from rewards of sampled networks, without a gradient through them (Sec. 3.3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.distributed import ALONE, Group
from search.config import ReinforceConfig
from search.gradient import Autocast
from search.limits import Limit
from supernet.alpha import probabilities, sample_paths
from supernet.supernet import Supernet

BASELINE_DECAY = 0.99


def reward(accuracy: float, paths: tuple[int, ...], limits: Sequence[Limit], exponent: float) -> float:
    """R = accuracy * (T / latency)^w, with one factor per limit; accuracy in [0, 1], latency the table's sum."""
    value = accuracy
    for limit in limits:
        value *= (limit.bound / limit.cost.of(paths)) ** exponent
    return value


def policy_gradient(p: Tensor, samples: Sequence[tuple[int, ...]], advantages: Tensor) -> Tensor:
    """Gradient in alpha of -1/M sum_m A_m log p(g^m), log p(g) = sum_e log p[e, g_e]: (E, N) float64.

    p (E, N) float64, advantages (M,) float64. d log p_i / d alpha_j = delta_ij - p_j.
    """
    chosen = torch.tensor(samples, dtype=torch.long)  # (M, E)
    hot = torch.nn.functional.one_hot(chosen, p.shape[1]).double()  # (M, E, N)
    return -(advantages[:, None, None] * (hot - p)).mean(dim=0)


def advantages(rewards: Tensor, config: ReinforceConfig, baseline: float | None) -> tuple[Tensor | None, float | None]:
    """(R - b for each sample, the next baseline). None for the first step of a moving average, which only sets b.

    rewards (M,) float64. The moving average is used before this step's rewards enter it; leave_one_out compares each
    reward with the mean of the others and keeps no state.
    """
    if config.baseline == "leave_one_out":
        return rewards - (rewards.sum() - rewards) / (len(rewards) - 1), None
    mean = float(rewards.mean())
    if baseline is None:
        return None, mean
    return rewards - baseline, BASELINE_DECAY * baseline + (1 - BASELINE_DECAY) * mean


def reinforce_step(
    net: Supernet,
    images: Tensor,
    labels: Tensor,
    alpha: Tensor,
    mask: Tensor,
    limits: Sequence[Limit],
    config: ReinforceConfig,
    baseline: float | None,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    autocast: Autocast,
    group: Group = ALONE,
) -> tuple[float, float | None]:
    """M sampled networks on one validation batch, which the processes of `group` share. Returns (mean reward, next
    baseline); changes alpha in place."""
    samples = [sample_paths(alpha, mask, generator) for _ in range(config.samples)]
    with torch.no_grad(), autocast():
        correct = torch.stack([(net(images, paths).argmax(dim=1) == labels).double().mean() for paths in samples])
    accuracies = group.mean_of(correct).cpu().tolist()  # one copy to the host for the whole step
    scored = zip(accuracies, samples, strict=True)
    rewards = torch.tensor([reward(a, paths, limits, config.exponent) for a, paths in scored], dtype=torch.float64)
    advantage, following = advantages(rewards, config, baseline)
    if advantage is not None:
        alpha.grad = policy_gradient(probabilities(alpha.detach(), mask), samples, advantage).to(alpha.dtype)
        optimizer.step()
    return float(rewards.mean()), following
