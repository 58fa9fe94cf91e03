"""Judges, by random networks, whether the supernet ranks networks reliably and whether alpha ranks them alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from engine.config import Section
from engine.data import ImageSet, statistics_batches
from engine.device import Autocast, on_device
from engine.distributed import ALONE, Group
from engine.progress import Report, reported, silent
from engine.seeding import mix
from search.baseline import random_architectures
from search.config import SearchConfig
from search.derive.derivation import meets
from search.learn.regression import Paths, network_losses
from search.limits.limit import AdditiveLimit
from search.plan import Plan
from search.state import JUDGED
from supernet.alpha import Alpha
from supernet.supernet import Supernet

NETWORKS = 20
"""The number of random networks that a judgement compares."""
IMAGES = 1000
"""About how many validation images they are compared on: whole batches, and no more than there are."""
SIGNIFICANT = 2.0
"""A rank correlation of fewer standard errors than this may be by chance."""
FEWEST = 4
"""The fewest networks whose order can be told from chance: that of 3 agrees by chance in one case of six."""


@dataclass(frozen=True)
class Reliability:
    """The agreement between the losses of random networks on two halves of the images."""

    tau: float
    """Kendall's rank correlation."""
    networks: int

    @property
    def chance(self) -> bool:
        """Whether the agreement may be by chance."""
        return self.tau < SIGNIFICANT * chance_error(self.networks)


class Judgement(Section):
    """A comparison, at the end of a search, with random networks of equal cost: a part of result.json."""

    networks: int
    """The number of random networks."""
    images: int
    """The number of validation images that all were compared on."""
    rank: int
    """1 if the derived network has the smallest loss of all, networks + 1 if it has the largest."""
    tau: float
    """Kendall's rank correlation between the random networks' log probability under alpha and minus their losses."""
    error: float
    """The standard error of tau if alpha is independent of the losses."""
    reliability: float | None
    """Kendall's rank correlation of the random networks' losses between two halves of the images; null if the images
    are a single batch."""

    @property
    def halves(self) -> Reliability | None:
        """The supernet's reliability; None if there are too few batches or networks to tell it from chance."""
        if self.reliability is None or self.networks < FEWEST:
            return None
        return Reliability(self.reliability, self.networks)

    @property
    def notes(self) -> tuple[str, ...]:
        """A warning with its remedy, if alpha or the supernet ranks the networks by chance; else none, as with too few
        networks to tell."""
        if self.halves and self.halves.chance:
            return (unreliable(self.halves),)
        if self.networks < FEWEST or self.tau >= SIGNIFICANT * self.error:
            return ()
        return (
            f"alpha ranks random networks of equal cost no better than chance does (Kendall {self.tau:.2f}, error "
            f"{self.error:.2f}); train longer (search.epochs), and see docs/search.md",
        )


def unreliable(r: Reliability) -> str:
    """Returns the warning about a supernet that does not rank random networks."""
    return (
        f"the supernet does not rank {r.networks} random networks: on two halves of the images, their losses agree "
        f"no better than by chance (Kendall {r.tau:.2f}, error {chance_error(r.networks):.2f}); train longer "
        "(search.warmup_epochs, search.epochs), with a larger batch, or on more images"
    )


class Judge:
    """Compares the derived network with random ones that meet the limits; they are the same each time.

    If the derived network itself does not meet the limits by the table (with a corrected bound, an extended window or
    argmax), the random ones have its own cost instead.
    """

    def __init__(self, plan: Plan, autocast: Autocast, group: Group = ALONE):
        self.plan, self.autocast, self.group = plan, autocast, group

    @cached_property
    def networks(self) -> list[Paths]:
        """NETWORKS random networks that meet the limits; fewer if the space holds no more."""
        return self._drawn(self.plan.additive)

    def _drawn(self, limits: Sequence[AdditiveLimit]) -> list[Paths]:
        """Returns at most NETWORKS random networks that meet these limits, the same each time."""
        plan = self.plan
        return random_architectures(plan.space, limits, NETWORKS, seed=mix(plan.config.run.seed, JUDGED), at_least=0)

    def _as_costly_as(self, derived: Paths) -> list[Paths]:
        """Returns the random networks to compare the derived one with."""
        limits = self.plan.additive
        if meets(derived, limits):
            return self.networks
        return self._drawn([limit.of_cost(derived) for limit in limits])

    def reliability(self, net: Supernet, report: Report = silent) -> Reliability | None:
        """Returns how well the supernet ranks random networks; None if fewer than FEWEST networks meet the limits, or
        if the validation images are a single batch."""
        if len(self.networks) < FEWEST:
            return None
        losses, _ = self._losses(net, self.networks, report)
        tau = split_half(losses)
        return None if tau is None else Reliability(tau, len(self.networks))

    def judgement(self, net: Supernet, alpha: Alpha, derived: Paths, report: Report = silent) -> Judgement | None:
        """Returns how the derived network compares with random ones; None if fewer than two networks beside the derived
        one are as costly."""
        networks = [derived, *(paths for paths in self._as_costly_as(derived) if paths != derived)]
        if len(networks) < 3:
            return None
        losses, images = self._losses(net, networks, report)
        return judge(losses, 0, networks, alpha, images)

    def _losses(self, net: Supernet, networks: Sequence[Paths], report: Report) -> tuple[np.ndarray, int]:
        plan = self.plan
        return supernet_losses(
            net, networks, plan.config, plan.validation, plan.device, self.autocast, self.group, report
        )


def judge(losses: np.ndarray, derived: int, networks: Sequence[Paths], alpha: Alpha, images: int) -> Judgement:
    """Compares the derived network with random ones.

    losses: (networks, batches) float64, a row for each of `networks`. derived: the row of the derived network; the
    others are of random ones. images: the number on which all were compared.
    """
    means = losses.mean(axis=1)
    log_p = alpha.log_probabilities().numpy()
    scores = np.array([log_p[np.arange(len(paths)), list(paths)].sum() for paths in networks])
    others = np.arange(len(networks)) != derived
    return Judgement(
        networks=int(others.sum()),
        images=images,
        rank=1 + int((means[others] < means[derived]).sum()),
        tau=correlation(scores[others], -means[others]),
        error=chance_error(int(others.sum())),
        reliability=split_half(losses[others]),
    )


def split_half(losses: np.ndarray) -> float | None:
    """Returns Kendall's rank correlation between the networks' losses on the even and on the odd batches; None for a
    single batch. losses: (networks, batches)."""
    return correlation(losses[:, ::2].mean(axis=1), losses[:, 1::2].mean(axis=1)) if losses.shape[1] > 1 else None


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Returns Kendall's tau of two series; 0 if one of them is constant."""
    from scipy.stats import kendalltau

    tau = float(kendalltau(a, b).statistic)
    return tau if math.isfinite(tau) else 0.0


def chance_error(n: int) -> float:
    """Returns the standard deviation of Kendall's tau between two independent orders of n (Kendall, Biometrika 30,
    1938)."""
    return math.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1))) if n > 1 else math.inf


def supernet_losses(
    net: Supernet,
    networks: Sequence[Paths],
    config: SearchConfig,
    validation: ImageSet,
    device: torch.device,
    autocast: Autocast,
    group: Group = ALONE,
    report: Report = silent,
    images: int = IMAGES,
) -> tuple[np.ndarray, int]:
    """Returns (losses (networks, batches) float64, the number of images) with the supernet's weights.

    All networks run on the same validation batches, each normalised by the batch's own statistics as in a step. images:
    about how many to use. The processes of `group` take whole batches in turn.
    """
    s = config.search
    count = max(2, math.ceil(min(images, len(validation)) / s.batch_size))
    whole = max(1, min(count, len(validation) // s.batch_size))
    workers = config.data.workers
    batches = statistics_batches(validation, s.batch_size, count, workers, device=device, **group.slice)
    own = [
        (
            len(batch.labels),
            network_losses(net, on_device(batch, device, config.run), networks, autocast).double().cpu(),
        )
        for batch in reported(batches, "comparing random networks", math.ceil(whole / group.world_size), report)
    ]
    gathered = [one for of_process in group.gathered(own) for one in of_process]
    return torch.stack([losses for _, losses in gathered], dim=1).numpy(), sum(size for size, _ in gathered)
