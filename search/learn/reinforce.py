"""Implements REINFORCE: alpha learns from rewards of sampled networks, without a gradient through them (Sec. 3.3.2).

M networks are sampled; E is the number of searchable edges, N that of the candidates of an edge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.data import Batch
from engine.device import Autocast
from engine.distributed import ALONE, Group
from engine.errors import UserError
from engine.evaluation import hits
from search.config import ReinforceConfig
from search.learn.gradient import softmax_jacobian
from search.limits.limit import AdditiveLimit
from search.own import own_function
from supernet.alpha import Alpha
from supernet.architecture import Architecture
from supernet.supernet import Supernet

BASELINE_DECAY = 0.99


def reward(accuracy: float, paths: tuple[int, ...], limits: Sequence[AdditiveLimit], exponent: float) -> float:
    """Returns R = accuracy * (T / latency)^w, with one factor per limit; accuracy in [0, 1], latency by the table."""
    value = accuracy
    for limit in limits:
        value *= (limit.bound / limit.cost.of(paths)) ** exponent
    return value


def policy_gradient(p: Tensor, samples: Sequence[tuple[int, ...]], advantages: Tensor) -> Tensor:
    """Returns the gradient in alpha of -1/M sum_m A_m log p(g^m), log p(g) = sum_e log p[e, g_e]: (E, N) float64.

    p (E, N) float64, advantages (M,) float64. d log p_i / d alpha_j = delta_ij - p_j.
    """
    chosen = torch.tensor(samples, dtype=torch.long)  # (M, E)
    hot = torch.nn.functional.one_hot(chosen, p.shape[1]).double()  # (M, E, N)
    return -(advantages[:, None, None] * (hot - p)).mean(dim=0)


def advantages(rewards: Tensor, config: ReinforceConfig, baseline: float | None) -> tuple[Tensor | None, float | None]:
    """Returns (the advantages R - b of the samples, (M,); the next baseline). In the first step of a moving average,
    which only sets b, the advantages are None.

    rewards (M,) float64. The moving average is used before this step's rewards enter it; leave_one_out compares each
    reward with the mean of the others and keeps no state.
    """
    if config.baseline == "leave_one_out":
        return rewards - (rewards.sum() - rewards) / (len(rewards) - 1), None
    mean = float(rewards.mean())
    if baseline is None:
        return None, mean
    return rewards - baseline, BASELINE_DECAY * baseline + (1 - BASELINE_DECAY) * mean


@dataclass(frozen=True)
class Sampled:
    """One sampled network: the argument of a user's reward."""

    architecture: Architecture
    accuracy: float
    """Top-1 on the validation batch, in [0, 1]."""
    logits: Tensor
    """(images, classes) float32 on the CPU."""
    labels: Tensor
    """(images,) int64 on the CPU."""
    costs: dict[str, float]
    """This network's cost for each limit, by the limit's name (as in the curves) and also by its metric; if several
    limits have one metric, the first limit's."""


def sampled(
    architecture: Architecture, accuracy: float, logits: Tensor, labels: Tensor, limits: Sequence[AdditiveLimit]
) -> Sampled:
    """Returns the argument of a user's reward for one network, with its cost for each limit."""
    costs = {}
    for limit in limits:
        costs[limit.name] = limit.cost.of(architecture.paths)
        costs.setdefault(limit.metric, costs[limit.name])
    return Sampled(architecture, accuracy, logits, labels, costs)


Reward = Callable[[Sampled], float]


def user_reward(config: ReinforceConfig) -> Reward | None:
    """Returns the function that `search.reinforce.reward` names, which also checks each reward; None if none is named.
    Raises ConfigError if it cannot be loaded."""
    if config.reward is None:
        return None
    function = own_function(config.reward, "search.reinforce.reward", ("sample",))

    def checked(sample: Sampled) -> float:
        value = function(sample)
        number = _number(value)
        if number is None or not math.isfinite(number):
            described = _described(value) if number is None else repr(number)
            returned = f"{config.reward} returned {described}"
            raise UserError("search.reinforce.reward", returned, "a finite number", "correct it")
        return number

    return checked


def _number(value: object) -> float | None:
    """Returns a user's value as a number, which may be infinite; None if it is no number."""
    if isinstance(value, Tensor):
        single = value.ndim == 0 and value.device.type != "meta" and value.layout == torch.strided
        value = value.item() if single else None
    elif isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer above 1e308
        return math.inf


def _described(value: object) -> str:
    """Returns a value that is no number as a noun phrase for a message, such as "a value of type list"."""
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        return f"a {kind} tensor of shape {tuple(value.shape)} on {value.device}"
    if isinstance(value, str):
        return repr(value[:50])
    return "None" if value is None else f"a value of type {type(value).__name__}"


@dataclass(frozen=True)
class ReinforceStep:
    """The figures of an update; alpha and its optimizer have been changed in place."""

    ce: float
    """Cross entropy of the validation batch, mean over the samples."""
    accuracy: float
    """Mean accuracy over the samples, in [0, 1]."""
    reward: float
    """Mean reward over the samples."""
    baseline: float | None
    """The baseline for the next update."""
    gradient: float
    """Norm of the policy gradient in alpha; 0 in the first step of a moving average, which leaves alpha as it is."""


def reinforce_step(
    net: Supernet,
    batch: Batch,
    alpha: Alpha,
    optimizer: torch.optim.Optimizer,
    config: ReinforceConfig,
    limits: Sequence[AdditiveLimit],
    baseline: float | None,
    generator: torch.Generator,
    autocast: Autocast,
    own_reward: Reward | None = None,
    d_terms: Tensor | None = None,
    group: Group = ALONE,
) -> ReinforceStep:
    """Samples M networks, evaluates them on one validation batch, which the processes of `group` share, and moves alpha
    along the policy gradient of their rewards.

    own_reward: the user's reward, in place of `reward`; each process calls it with its own part of the batch, and the
    mean over the processes counts. d_terms: (E, N) float64, the gradient in p of further terms (search/learn/terms.py).
    """
    samples = [alpha.sample_paths(generator) for _ in range(config.samples)]
    logits = evaluated(net, batch.images, samples, autocast)
    correct = torch.stack([hits(own, batch.labels, 1).double().mean() for own in logits])
    ce = F.cross_entropy(logits.flatten(0, 1), batch.labels.repeat(len(samples))).double()
    figures = group.mean_of(torch.cat([correct, ce[None]])).cpu()  # one copy to the host for the whole step
    if own_reward is None:
        scored = zip(figures[:-1].tolist(), samples, strict=True)
        values = [reward(a, paths, limits, config.weight_of_costs) for a, paths in scored]
    else:
        labels = batch.labels.cpu()
        values = [
            own_reward(sampled(Architecture(net.space, paths), accuracy, own, labels, limits))
            for paths, accuracy, own in zip(samples, correct.tolist(), logits.cpu(), strict=True)
        ]
        values = group.sum_of(torch.tensor(values, dtype=torch.float64)).div(group.world_size).tolist()
    rewards = torch.tensor(values, dtype=torch.float64)
    advantage, following = advantages(rewards, config, baseline)
    norm = 0.0
    if advantage is not None:
        p = alpha.probabilities()
        gradient = policy_gradient(p, samples, advantage)
        norm = float(gradient.norm())
        if d_terms is not None:
            gradient = gradient + softmax_jacobian(d_terms, p)
        alpha.values.grad = gradient.to(alpha.values.dtype)
        optimizer.step()
    return ReinforceStep(
        ce=float(figures[-1]), accuracy=float(figures[:-1].mean()), reward=float(rewards.mean()), baseline=following,
        gradient=norm,
    )  # fmt: skip


@torch.no_grad()
def evaluated(net: Supernet, images: Tensor, samples: Sequence[tuple[int, ...]], autocast: Autocast) -> Tensor:
    """Returns the logits of each sampled network: (M, images, classes) float32."""
    outputs = []
    for paths in samples:
        with autocast():
            outputs.append(net(images, paths).float())
    return torch.stack(outputs)
