"""One update of alpha, by gradient or REINFORCE, and what follows from it: the multipliers of the limits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from engine.data import Batch
from engine.distributed import Group
from engine.seeding import generator
from engine.training import autocast, check_finite
from search.config import Lagrangian, Loss
from search.gradient import architecture_step
from search.objective import Dual, Objective, expected_cost, movable
from search.plan import Plan
from search.reinforce import reinforce_step, user_reward
from search.state import ARCHITECTURE_PATHS, SearchState
from search.terms import build_terms, terms_gradient
from supernet.alpha import mask_of, probabilities


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
        self.plan, self.group, self.mask = plan, group, mask_of(plan.space)
        self.autocast = partial(autocast, plan.config.run, plan.device)
        self.terms = build_terms(s.entropy, s.terms, plan.space)
        self.own_reward = user_reward(s.reinforce) if s.reinforce else None

    def step(self, state: SearchState, batch: Batch) -> Update:
        """Moves `state`. batch: on the plan's device."""
        plan, s = self.plan, self.plan.config.search
        draws = generator(plan.config.run.seed, ARCHITECTURE_PATHS, state.arch_steps)
        state.arch_steps += 1
        figures: dict[str, float] = {}
        d_terms = None
        if self.terms:
            p = probabilities(state.alpha.detach(), self.mask)
            figures["arch/terms"], d_terms = terms_gradient(self.terms, p, plan.progress(state.step))
        objective = Objective(plan.limits, s.resolved_loss, state.duals, d_terms)
        if s.arch_update == "reinforce":
            found = reinforce_step(
                state.net, batch, state.alpha, state.arch_optimizer, s.resolved_reinforce, objective, state.baseline,
                draws, self.autocast, self.own_reward, self.group,
            )  # fmt: skip
            check_finite(found.ce, state.step + 1)
            state.baseline = found.baseline
            figures |= {"arch/ce": found.ce, "arch/reward": found.reward, "arch/gradient": found.gradient}
            figures |= {"arch/top1": 100 * found.accuracy}
            if s.resolved_reinforce.limits != "lagrangian" or not found.moved:
                return Update(figures, None)
            self._follow(state, found.duals, objective.loss)
            return Update(figures, (found.gradient, found.limits_gradient))
        done = architecture_step(
            state.net, batch, state.alpha, state.arch_optimizer, s.arch_update, s.resolved_gate_gradient, objective,
            draws, self.autocast, self.group,
        )  # fmt: skip
        check_finite(done.ce, state.step + 1)
        self._follow(state, done.duals, objective.loss)
        return Update(figures | {"arch/ce": done.ce}, (done.ce_gradient, done.limits_gradient))

    def _follow(self, state: SearchState, duals: tuple[Dual, ...], loss: Loss) -> None:
        """The multipliers of the lagrangian, after alpha has moved."""
        state.duals = duals
        if isinstance(loss, Lagrangian):
            p: Tensor = probabilities(state.alpha.detach(), self.mask)
            free, arch_lr = movable(p), self.plan.config.search.arch_lr
            state.duals = tuple(
                dual.step(float(expected_cost(p, limit.cost)) / limit.bound - 1, free, loss, arch_lr, at=limit.at)
                for dual, limit in zip(duals, self.plan.limits, strict=True)
            )
