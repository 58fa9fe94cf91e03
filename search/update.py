"""Updates alpha: makes an architecture step with the mode's estimator, then projects alpha onto the limits."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor

from engine.data import Batch
from engine.device import autocast
from engine.distributed import Group
from engine.errors import UserError, explain
from engine.seeding import generator
from engine.training import check_finite
from engine.wording import shown
from search.learn.forms import next_duals
from search.learn.gradient import architecture_step, share_of
from search.learn.modes import GradientMode, is_reference
from search.learn.objective import Objective, expected_costs
from search.learn.own_class import own_class
from search.learn.projection import Projector
from search.learn.regression import regression_step
from search.learn.reinforce import reinforce_step, user_reward
from search.learn.terms import build_terms, terms_gradient
from search.plan import Plan
from search.state import ARCHITECTURE_PATHS, SearchState
from supernet.alpha import Alpha
from supernet.user_modules import failures_named, in_words


@dataclass(frozen=True)
class Update:
    """The outcome of one update; the state has been changed in place."""

    figures: dict[str, float]
    """Values of curves, by their tags."""
    norms: tuple[float, float] | None = None
    """The norms of the gradients on alpha of the cross entropy and of the limits; None if the limits have none."""


class Estimator(ABC):
    """Makes the architecture steps of a search; there is a subclass for each way in which alpha learns (ESTIMATORS).

    A user's file may hold a further one (docs/extending/arch_update.md). An estimator is made once for a search. What
    it has to remember between steps belongs into the state of the search, so that a resumed search equals an
    uninterrupted one; one of the user's own puts it into `state.kept`.
    """

    def __init__(self, plan: Plan, group: Group, projector: Projector | None):
        """projector: brings alpha to the limits after each step; None if they enter in another way."""
        self.plan, self.settings, self.group = plan, plan.config.search, group
        self.autocast = partial(autocast, plan.config.run, plan.device)

    @abstractmethod
    def step(
        self, state: SearchState, batch: Batch, draws: torch.Generator, d_terms: Tensor | None, *, final: bool
    ) -> Update:
        """Makes one architecture step: changes alpha, and what else the estimator keeps in `state` between steps.

        batch: validation images on the plan's device; the processes of the group have a part each. d_terms: (E, N)
        float64, the gradient in p of the terms of the loss; None if there are none. draws: a generator of this step.
        final: whether the weights stay as they are from now on. Raises UserError if a loss is not finite.
        """


class RegressionEstimator(Estimator):
    """Computes alpha from the losses of whole networks (search/learn/regression.py)."""

    def __init__(self, plan: Plan, group: Group, projector: Projector | None):
        super().__init__(plan, group, projector)
        uniform = Alpha.of_space(plan.space)
        self.drawn_from = projector(uniform).alpha if projector else uniform
        """The alpha that draws the networks to compare: equal probabilities, projected onto the limits."""

    def step(
        self, state: SearchState, batch: Batch, draws: torch.Generator, d_terms: Tensor | None, *, final: bool
    ) -> Update:
        """Evaluates networks on the batch, adds their losses to the evidence, and sets alpha to the fitted effects.

        While the weights learn, the weight of earlier evidence is multiplied by exp(-1 / memory) in each step.
        """
        settings = self.settings.resolved_regression
        assert state.evidence is not None
        done = regression_step(
            state.net, batch, self.drawn_from, state.evidence.faded(1.0 if final else math.exp(-1 / settings.memory)),
            settings.samples, draws, self.autocast, self.group,
        )  # fmt: skip
        check_finite(done.ce, state.step + 1)
        state.evidence = done.evidence
        state.pressures = (0.0,) * len(state.pressures)  # alpha is made anew, so no earlier projection is left in it
        state.alpha.values.copy_(done.effects.alpha())
        effects = done.effects
        return Update(
            {
                "arch/ce": done.ce,
                "arch/effect": effects.effect,
                "arch/error": effects.error,
                "arch/noise": effects.noise,
            }
        )


class ReinforceEstimator(Estimator):
    """Moves alpha along the policy gradient of sampled networks' rewards (search/learn/reinforce.py)."""

    def __init__(self, plan: Plan, group: Group, projector: Projector | None):
        super().__init__(plan, group, projector)
        self.own_reward = user_reward(self.settings.resolved_reinforce)

    def step(
        self, state: SearchState, batch: Batch, draws: torch.Generator, d_terms: Tensor | None, *, final: bool
    ) -> Update:
        """Samples networks, computes their rewards on the batch, and moves alpha along the policy gradient.

        With a moving average as the baseline, the first step only sets that average and leaves alpha as it is.
        """
        done = reinforce_step(
            state.net, batch, state.alpha, state.arch_optimizer, self.settings.resolved_reinforce, self.plan.additive,
            state.baseline, draws, self.autocast, self.own_reward, d_terms, self.group,
        )  # fmt: skip
        check_finite(done.ce, state.step + 1)
        state.baseline = done.baseline
        figures = {"arch/ce": done.ce, "arch/reward": done.reward, "arch/gradient": done.gradient}
        return Update(figures | {"arch/top1": 100 * done.accuracy})


class GateEstimator(Estimator):
    """Moves alpha along the gradient of the loss through the gates (search/learn/gradient.py)."""

    def __init__(self, plan: Plan, group: Group, projector: Projector | None):
        super().__init__(plan, group, projector)
        self.share = share_of(self.settings.resolved_gate_gradient)

    def step(
        self, state: SearchState, batch: Batch, draws: torch.Generator, d_terms: Tensor | None, *, final: bool
    ) -> Update:
        """Draws paths, computes the gradient of the loss in alpha, and makes a step of alpha's Adam along it.

        If the loss form keeps duals, they are updated with the new expected costs.
        """
        s, limits = self.settings, self.plan.additive
        done = architecture_step(
            state.net, batch, state.alpha, state.arch_optimizer, cast(GradientMode, s.arch_update),
            self.share, Objective(limits, s.resolved_loss, d_terms, state.duals), draws, self.autocast,
            self.group,
        )  # fmt: skip
        check_finite(done.ce, state.step + 1)
        if state.duals:
            reached = expected_costs(state.alpha.probabilities(), limits, state.duals)
            state.duals = next_duals(s.resolved_loss, reached)
        norms = None if s.projects else (done.ce_gradient, done.limits_gradient)
        return Update({"arch/ce": done.ce}, norms)


ESTIMATORS: dict[str, type[Estimator]] = {
    "regression": RegressionEstimator,
    "full": GateEstimator,
    "full_v2": GateEstimator,
    "two_path": GateEstimator,
    "reinforce": ReinforceEstimator,
}
"""The estimator of each mode; search/learn/modes.py says which settings a mode takes."""


_KEY = "search.arch_update"


class OwnEstimator(Estimator):
    """Runs an estimator of the user's own, and turns what fails in it into a UserError."""

    def __init__(self, plan: Plan, group: Group, projector: Projector | None):
        super().__init__(plan, group, projector)
        self.reference = self.settings.arch_update
        with explain(_KEY):
            made = own_class(self.reference, Estimator)  # type: ignore[type-abstract]
            with failures_named(f"{made.__name__}()", self.reference):
                self.own = made(plan, group, projector)

    def step(
        self, state: SearchState, batch: Batch, draws: torch.Generator, d_terms: Tensor | None, *, final: bool
    ) -> Update:
        """Makes a step of the user's class. Raises UserError if it fails, returns no Update with finite figures, or has
        put another alpha in the place of the one that the optimizer moves."""
        alpha = state.alpha
        try:
            done = self.own.step(state, batch, draws, d_terms, final=final)
        except (UserError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise UserError(_KEY, f"{self.reference}: step() failed: {in_words(error)}", remedy="correct it") from error
        figures = done.figures if isinstance(done, Update) else None
        if not isinstance(figures, dict) or not all(_is_figure(*item) for item in figures.items()):
            what = f"the figures {shown(figures, 80)}" if figures else f"a value of type {type(done).__name__}"
            found = f"{self.reference}: step() returned {what}"
            raise UserError(_KEY, found, "an Update whose figures are finite numbers by their tags", "correct it")
        if state.alpha is not alpha:
            found = f"{self.reference}: step() has put another alpha in the place of state.alpha"
            raise UserError(_KEY, found, "its values changed in place", "use state.alpha.values.copy_(...)")
        return done


def _is_figure(tag: object, value: object) -> bool:
    return isinstance(tag, str) and isinstance(value, int | float) and math.isfinite(value)


class ArchitectureUpdate:
    """Updates alpha: the terms of the loss, the estimator and the projection, one after the other.

    It is made once for a search, since its preparation solves linear programs and loads the user's files.
    """

    def __init__(self, plan: Plan, group: Group):
        s = plan.config.search
        self.plan = plan
        self.terms = build_terms(s.entropy, s.terms, plan.space)
        self.projector = Projector(plan.additive) if s.projects and plan.additive else None
        kind = OwnEstimator if is_reference(s.arch_update) else ESTIMATORS[s.arch_update]
        self.estimator = kind(plan, group, self.projector)

    def step(self, state: SearchState, batch: Batch, *, final: bool = False) -> Update:
        """Makes one architecture step and the projection after it; `state` is changed in place.

        batch: validation images on the plan's device. final: whether the weights stay as they are from now on. Raises
        UserError if a loss or alpha is not finite.
        """
        draws = generator(self.plan.config.run.seed, ARCHITECTURE_PATHS, state.arch_steps)
        state.arch_steps += 1
        figures: dict[str, float] = {}
        d_terms = None
        if self.terms:
            p = state.alpha.probabilities()
            figures["arch/terms"], d_terms = terms_gradient(self.terms, p, self.plan.progress(state.step))
        done = self.estimator.step(state, batch, draws, d_terms, final=final)
        self.project(state)
        return Update(figures | done.figures, done.norms)

    def project(self, state: SearchState) -> None:
        """Replaces alpha by its projection onto the limits, if this search projects. Every process computes the same.

        Raises UserError if alpha is not finite.
        """
        if self.projector is None:
            return
        if not bool(state.alpha.values.isfinite().all()):
            raise UserError(
                "",
                f"alpha is not finite at step {state.step + 1}: the search has diverged",
                remedy="start again in another folder with a lower search.arch_lr, or correct the reward",
            )
        projected = self.projector(state.alpha)
        state.alpha.values.copy_(projected.alpha.values)
        state.pressures = tuple(sum(pair) for pair in zip(state.pressures, projected.pressures, strict=True))
