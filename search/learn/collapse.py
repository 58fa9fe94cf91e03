"""Detects a search that goes wrong: figures for the curves, and alarms that are logged once each. Also the early
stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from search.config import SearchSettings
from supernet.alpha import Alpha
from supernet.catalogue import CANDIDATES, SkipSpec
from supernet.space import Space

MOSTLY_SKIP = 0.9
"""The mean probability of skip, over a stage's edges that have it, above which a stage counts as collapsed."""
DECIDED = 0.05
"""The share of the largest entropy below which alpha has decided; an alarm in the first half of a search."""
UNDECIDED = 0.9
"""The share of the largest entropy above which alpha has not decided; a warning at the end of a search."""
OUT_OF_BALANCE = 100.0
"""The factor between the gradients of cross entropy and of the limits beyond which one of them alone steers alpha."""

MISSED = 0.05
"""The share of the bound by which the expected cost may be off the target (`at`) or above it (`below`) without an
alarm."""


def skip_rates(p: Tensor, space: Space) -> dict[str, float]:
    """Returns, for each stage that has skip among its candidates, skip's mean probability over the edges that have it.
    p: (E, N)."""
    of_stage: dict[str, list[float]] = {}
    for row, edge in zip(p.tolist(), space.searchable, strict=True):
        for value, name in zip(row, edge.candidates, strict=False):  # rows are padded
            if isinstance(CANDIDATES[name], SkipSpec):
                of_stage.setdefault(edge.stage, []).append(value)
    return {stage: sum(values) / len(values) for stage, values in of_stage.items()}


@dataclass
class CollapseAlarm:
    """Raises alarms when a search seems to go wrong, each kind of alarm once."""

    strength: str | None
    """The key that sets how strongly limits pull; None if they have no gradient (LossForm.strength_key)."""
    draws: bool = True
    """Whether the weights are trained on paths that alpha draws: only then does an early decision of alpha matter."""
    warned: dict[str, str] = field(default_factory=dict)
    """Maps the kinds of alarm raised so far to their texts. The search keeps this dictionary in its state, so that a
    resumed one logs nothing twice."""

    def new_warnings(
        self,
        skip: dict[str, float],
        entropy: float,
        ce_gradient: float,
        limits_gradient: float,
        missed: float,
        progress: float,
    ) -> list[str]:
        """Returns the text of each alarm that is raised for the first time; a text also says what to do.

        skip: as `skip_rates` returns it. entropy: alpha's, relative to the largest. ce_gradient, limits_gradient: the
        norms of the two shares of alpha's gradient, averaged over steps. missed: the largest miss of a limit, as a
        share of its bound. progress: the share of the search that is done, in [0, 1].
        """
        texts: dict[str, str] = {}
        if skip and all(rate > MOSTLY_SKIP for rate in skip.values()):
            texts["skip"] = (
                f"skip has more than {MOSTLY_SKIP:.0%} of the probability in every stage that has it: the search may "
                "be collapsing onto skip; look at the target, use `at` in place of `below`, or lengthen the warm-up"
            )
        if entropy < DECIDED and progress < 0.5 and self.draws:
            texts["entropy"] = (
                f"alpha has decided (entropy {entropy:.1%} of the largest) in the first half of the search; lower "
                "search.arch_lr, or keep it undecided for longer with search.entropy"
            )
        if self.strength and ce_gradient > 0 and limits_gradient > 0:
            ratio = ce_gradient / limits_gradient
            if ratio < 1 / OUT_OF_BALANCE:
                texts["limits alone"] = (
                    f"the limits' gradient is {1 / ratio:.3g} times that of the cross entropy: alpha follows latency "
                    f"alone; lower {self.strength}, or use the form projection"
                )
            elif ratio > OUT_OF_BALANCE and missed > MISSED:  # at its target, a limit has no gradient
                texts["accuracy alone"] = (
                    f"the cross entropy's gradient is {ratio:.3g} times that of the limits: alpha ignores them; "
                    f"raise {self.strength}, or use the form projection"
                )
        new = {kind: text for kind, text in texts.items() if kind not in self.warned}
        self.warned |= new
        return list(new.values())


def undecided(alpha: Alpha, settings: SearchSettings) -> str | None:
    """Returns the warning for the end of a search whose alpha is still undecided; None if alpha has decided."""
    share = alpha.relative_entropy()
    if share <= UNDECIDED:
        return None
    gates = settings.mode.differentiates_gates and settings.resolved_gate_gradient == "first_order"
    if not settings.mode.follows_gradient:
        remedy = "raise search.regression.final_steps (more networks are compared) or search.epochs"
    else:
        remedy = (
            f"{'set search.gate_gradient: second_order, ' if gates else ''}raise search.arch_lr or search.epochs, or "
            "lower search.arch_every"
        )
    return (
        f"alpha is undecided (entropy {share:.0%} of the largest), so the likeliest networks are hardly better than "
        f"random ones that meet the limits; {remedy}"
    )


@dataclass(frozen=True)
class Settled:
    """The state of the early stop: how long alpha's probabilities have not moved. The checkpoint holds it."""

    anchor: tuple[tuple[float, ...], ...]
    """The probabilities that later ones are compared with, row by row."""
    since: int
    """The step of these probabilities."""

    @classmethod
    def at(cls, p: Tensor, step: int) -> Settled:
        """Returns the state with p (E, N), the probabilities at `step`, as its anchor."""
        return cls(tuple(tuple(row) for row in p.tolist()), step)

    def observe(self, p: Tensor, step: int, change: float) -> Settled:
        """Returns the next state: with a new anchor if any probability has moved by more than `change` since the last
        one, else this one. p: (E, N)."""
        moved = float((p - torch.tensor(self.anchor, dtype=p.dtype)).abs().max())
        return Settled.at(p, step) if moved > change else self


def mean_norms(shares: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Returns the means of (ce_gradient, limits_gradient) pairs; (0, 0) if there are none."""
    if not shares:
        return 0.0, 0.0
    ce, limits = zip(*shares, strict=True)
    return sum(ce) / len(ce), sum(limits) / len(limits)
