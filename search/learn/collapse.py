"""Is the search going wrong? Signs of a collapse, as curves and as an alarm that is printed once."""

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
"""Mean probability of skip over a stage's edges that have it."""
DECIDED = 0.05
"""Share of the largest entropy below which alpha has decided; alarming in the first half of a search."""
UNDECIDED = 0.9
"""Share above which it has not, at the end of a search."""
OUT_OF_BALANCE = 100.0
"""Factor between the gradients of cross entropy and of the limits beyond which one of them alone steers alpha."""

MISSED = 0.05
"""Share of the bound by which expected cost is off the target (`at`) or above it (`below`)."""


def skip_rates(p: Tensor, space: Space) -> dict[str, float]:
    """For each stage with skip among its candidates: its mean probability over the edges that have it. p (E, N)."""
    of_stage: dict[str, list[float]] = {}
    for row, edge in zip(p.tolist(), space.searchable, strict=True):
        for value, name in zip(row, edge.candidates, strict=False):  # rows are padded
            if isinstance(CANDIDATES[name], SkipSpec):
                of_stage.setdefault(edge.stage, []).append(value)
    return {stage: sum(values) / len(values) for stage, values in of_stage.items()}


@dataclass
class CollapseAlarm:
    """Detects what is worth a warning; each kind is logged once."""

    strength: str | None
    """The key that sets how strongly limits pull; None if they have no gradient (LossForm.strength_key)."""
    draws: bool = True
    """Whether the weights are trained on paths that alpha draws: only then does it matter that it decides early."""
    told: dict[str, str] = field(default_factory=dict)
    """Kind of alarm -> its text. The search keeps it in its state, so that a resumed one logs nothing twice."""

    def look(
        self,
        skip: dict[str, float],
        entropy: float,
        ce_gradient: float,
        limits_gradient: float,
        missed: float,
        progress: float,
    ) -> list[str]:
        """What has newly gone wrong, each with what to do.

        entropy: relative; gradients: norms of the two shares of alpha's gradient, averaged over steps; missed: by how
        much the limit that is missed most is, as a share of its bound; progress: of the search, in [0, 1].
        """
        found: dict[str, str] = {}
        if skip and all(rate > MOSTLY_SKIP for rate in skip.values()):
            found["skip"] = (
                f"skip has more than {MOSTLY_SKIP:.0%} of the probability in every stage that has it: the search may "
                "be collapsing onto skip; look at the target, use `at` in place of `below`, or lengthen the warm-up"
            )
        if entropy < DECIDED and progress < 0.5 and self.draws:
            found["entropy"] = (
                f"alpha has decided (entropy {entropy:.1%} of the largest) in the first half of the search; lower "
                "search.arch_lr, or keep it undecided for longer with search.entropy"
            )
        if self.strength and ce_gradient > 0 and limits_gradient > 0:
            ratio = ce_gradient / limits_gradient
            if ratio < 1 / OUT_OF_BALANCE:
                found["limits alone"] = (
                    f"the limits' gradient is {1 / ratio:.3g} times that of the cross entropy: alpha follows latency "
                    f"alone; lower {self.strength}, or use the form projection"
                )
            elif ratio > OUT_OF_BALANCE and missed > MISSED:  # at its target, a limit has no gradient
                found["accuracy alone"] = (
                    f"the cross entropy's gradient is {ratio:.3g} times that of the limits: alpha ignores them; "
                    f"raise {self.strength}, or use the form projection"
                )
        new = {kind: text for kind, text in found.items() if kind not in self.told}
        self.told |= new
        return list(new.values())


def undecided(alpha: Alpha, settings: SearchSettings) -> str | None:
    """What to say at the end of a search whose alpha has hardly moved; None where it has."""
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
    """Whether alpha's probabilities have stopped to move: state of the early stop, in the checkpoint."""

    anchor: tuple[tuple[float, ...], ...]
    """The probabilities that later ones are compared with, row by row."""
    since: int
    """The step they are from."""

    @classmethod
    def at(cls, p: Tensor, step: int) -> Settled:
        return cls(tuple(tuple(row) for row in p.tolist()), step)

    def observe(self, p: Tensor, step: int, change: float) -> Settled:
        """The next state: a new anchor where any probability has moved by more than `change` since the last one."""
        moved = float((p - torch.tensor(self.anchor, dtype=p.dtype)).abs().max())
        return Settled.at(p, step) if moved > change else self


def mean_norms(shares: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Means of (ce_gradient, limits_gradient) pairs; (0, 0) without any."""
    if not shares:
        return 0.0, 0.0
    ce, limits = zip(*shares, strict=True)
    return sum(ce) / len(ce), sum(limits) / len(limits)
