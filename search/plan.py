"""Holds what stays the same during a search: the resolved config, the data, and the schedule of its steps.

Which paths train the weights is a part of the schedule (`Plan.alpha_draws`): in the warm-up they are balanced
(supernet/balance.py); after it alpha draws them, except with regression, which keeps balanced paths throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from engine.data import ImageSet
from engine.training import cosine_lr
from search.config import SearchConfig
from search.limits.limit import AdditiveLimit, Limit, additive
from supernet.space import Space

RAMP = 0.02
"""The share of all steps in which AdamW's learning rate rises."""


@dataclass(frozen=True)
class Plan:
    """The config, space, limits, device and data of a search, and the schedule that follows from them."""

    config: SearchConfig
    space: Space
    limits: tuple[Limit, ...]
    device: torch.device
    training: ImageSet
    validation: ImageSet

    @cached_property
    def additive(self) -> tuple[AdditiveLimit, ...]:
        """The limits on sums over layers; only these act on alpha and on the derivation."""
        return additive(self.limits)

    @property
    def steps_per_epoch(self) -> int:
        """The weights steps of an epoch."""
        return len(self.training) // self.config.search.batch_size

    @property
    def warmup_steps(self) -> int:
        """The weights steps of the warm-up."""
        return self.config.search.warmup_epochs * self.steps_per_epoch

    @property
    def steps(self) -> int:
        """The weights steps of the warm-up and the search together."""
        return self.warmup_steps + self.config.search.epochs * self.steps_per_epoch

    def lr(self, step: int) -> float:
        """Returns the learning rate of the weights at a step: one cosine over all steps, or with `warmup_lr` one for
        the warm-up and one for the search.

        With adamw it is multiplied by a ramp from 0 to 1 over the first RAMP of all steps, since the first estimates of
        the moments are poor.
        """
        s = self.config.search
        ramp = min(1.0, (step + 1) / (RAMP * self.steps)) if s.optimizer == "adamw" else 1.0
        if s.warmup_lr is None:
            return ramp * cosine_lr(s.resolved_lr, step, self.steps)
        if step < self.warmup_steps:
            return ramp * cosine_lr(s.warmup_lr, step, self.warmup_steps)
        return ramp * cosine_lr(s.resolved_lr, step - self.warmup_steps, self.steps - self.warmup_steps)

    def progress(self, step: int) -> float:
        """Returns the progress of the search without its warm-up, in [0, 1]."""
        return max(0, step - self.warmup_steps) / (self.steps - self.warmup_steps)

    def architecture_step_follows(self, step: int) -> bool:
        """Returns whether an architecture step comes after weights step number `step`, counted from 0."""
        done = step + 1 - self.warmup_steps
        return done > 0 and done % self.config.search.arch_every == 0

    @property
    def networks(self) -> int:
        """The number of networks that share the images of a weights step."""
        return self.config.search.resolved_paths_per_step

    @property
    def final_steps(self) -> int:
        """The number of architecture steps after the last weights step."""
        s = self.config.search
        return s.resolved_regression.final_steps if s.mode.collects_evidence else 0

    @property
    def alpha_draws(self) -> bool:
        """Whether alpha draws the paths that train the weights after the warm-up. If not, as with regression, they stay
        balanced (supernet/balance.py). In the warm-up they are balanced in every mode."""
        return self.config.search.mode.trained_on_draws

    def arch_lr(self, step: int) -> float:
        """Returns the learning rate of alpha for the curves: 0 in the warm-up."""
        return 0.0 if step < self.warmup_steps else self.config.search.arch_lr
