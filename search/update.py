"""One update of alpha, by regression, gradient or REINFORCE, and the projection onto the limits that follows it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch

from engine.data import Batch
from engine.device import autocast
from engine.distributed import Group
from engine.errors import UserError
from engine.seeding import generator
from engine.training import check_finite
from search.learn.gradient import architecture_step
from search.learn.objective import Objective, expected_costs
from search.learn.projection import Projector
from search.learn.regression import regression_step
from search.learn.reinforce import reinforce_step, user_reward
from search.learn.terms import build_terms, terms_gradient
from search.plan import Plan
from search.state import ARCHITECTURE_PATHS, SearchState
from supernet.alpha import Alpha


@dataclass(frozen=True)
class Update:
    figures: dict[str, float]
    """For the curves."""
    norms: tuple[float, float] | None
    """The norms of the gradients on alpha of the cross entropy and of the limits; None if the limits have none."""


class ArchitectureUpdate:
    """What an update needs beside the state and a validation batch, made once."""

    def __init__(self, plan: Plan, group: Group):
        s = plan.config.search
        self.plan, self.group = plan, group
        self.autocast = partial(autocast, plan.config.run, plan.device)
        self.terms = build_terms(s.entropy, s.terms, plan.space)
        self.own_reward = user_reward(s.reinforce) if s.reinforce else None
        self.projector = Projector(plan.additive) if s.projects and plan.additive else None
        self.uniform = Alpha.of_space(plan.space)
        if self.projector:
            self.uniform = self.projector(self.uniform).alpha

    def step(self, state: SearchState, batch: Batch, *, final: bool = False) -> Update:
        """Moves `state`. batch: on the plan's device. final: the weights stay, so the regression forgets nothing."""
        plan, s = self.plan, self.plan.config.search
        draws = generator(plan.config.run.seed, ARCHITECTURE_PATHS, state.arch_steps)
        state.arch_steps += 1
        figures: dict[str, float] = {}
        d_terms = None
        if self.terms:
            p = state.alpha.probabilities()
            figures["arch/terms"], d_terms = terms_gradient(self.terms, p, plan.progress(state.step))
        if s.arch_update == "regression":
            figures |= self._regression(state, batch, draws, final)
            norms = None
        elif s.arch_update == "reinforce":
            found = reinforce_step(
                state.net, batch, state.alpha, state.arch_optimizer, s.resolved_reinforce, plan.additive,
                state.baseline, draws, self.autocast, self.own_reward, d_terms, self.group,
            )  # fmt: skip
            check_finite(found.ce, state.step + 1)
            state.baseline, norms = found.baseline, None
            figures |= {"arch/ce": found.ce, "arch/reward": found.reward, "arch/gradient": found.gradient}
            figures |= {"arch/top1": 100 * found.accuracy}
        else:
            done = architecture_step(
                state.net, batch, state.alpha, state.arch_optimizer, s.arch_update, s.resolved_gate_gradient,
                Objective(plan.additive, s.resolved_loss, d_terms, state.duals), draws, self.autocast, self.group,
            )  # fmt: skip
            check_finite(done.ce, state.step + 1)
            figures["arch/ce"] = done.ce
            norms = None if s.projects else (done.ce_gradient, done.limits_gradient)
            if state.duals:
                reached = expected_costs(state.alpha.probabilities(), plan.additive, state.duals)
                state.duals = tuple(map(s.resolved_loss.next_dual, reached))
        self.project(state)
        return Update(figures, norms)

    def _regression(self, state: SearchState, batch: Batch, draws: torch.Generator, final: bool) -> dict[str, float]:
        """Moves alpha to what the evaluations say; returns figures for the curves."""
        settings = self.plan.config.search.resolved_regression
        assert state.evidence is not None
        found = regression_step(
            state.net, batch, self.uniform,
            state.evidence.faded(1.0 if final else math.exp(-1 / settings.memory)),
            settings.samples, draws, self.autocast, self.group,
        )  # fmt: skip
        check_finite(found.ce, state.step + 1)
        state.evidence = found.evidence
        state.pressures = (0.0,) * len(state.pressures)  # alpha is made anew, so no earlier projection is left in it
        state.alpha.values.copy_(found.effects.alpha())
        return {
            "arch/ce": found.ce, "arch/effect": found.effects.effect, "arch/error": found.effects.error,
            "arch/noise": found.effects.noise,
        }  # fmt: skip

    def project(self, state: SearchState) -> None:
        """Puts the projection of alpha in its place, if the limits enter by it. Every process computes the same.

        Raises UserError if alpha is not finite."""
        if self.projector is None:
            return
        if not bool(state.alpha.values.isfinite().all()):
            raise UserError(
                f"alpha is not finite at step {state.step + 1}: the search has diverged; start again in another folder "
                "with a lower search.arch_lr, or correct the reward"
            )
        found = self.projector(state.alpha)
        state.alpha.values.copy_(found.alpha.values)
        state.pressures = tuple(sum(pair) for pair in zip(state.pressures, found.pressures, strict=True))
