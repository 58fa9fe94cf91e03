"""The values of `search.arch_update`, and what each means for the other settings.

Its estimator in search/update.py does the learning; this table is for the checks of the config and for the loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeGuard

GradientMode = Literal["full", "full_v2", "two_path"]
"""The modes that differentiate gates."""
GateGradient = Literal["first_order", "second_order"]


def is_reference(value: object) -> TypeGuard[str]:
    """Returns whether a setting names something in a file of the user's own: path/to/file.py:name or
    package.module:name."""
    return isinstance(value, str) and ":" in value


@dataclass(frozen=True)
class Mode:
    """A way in which alpha learns."""

    differentiates_gates: bool = False
    """Whether `search.gate_gradient` applies."""
    follows_gradient: bool = True
    """Whether an optimizer moves alpha along a gradient, to which `search.entropy` and `search.terms` can add and whose
    steps `search.arch_lr` sets. Otherwise alpha is computed anew in each step."""
    trained_on_draws: bool = True
    """Whether the weights are trained on paths that alpha draws after the warm-up. Otherwise every candidate is drawn
    alike."""
    collects_evidence: bool = False
    """Whether the losses of whole networks are collected over the steps (search/learn/regression.py)."""
    paths_per_step: int = 1
    """The default of `search.paths_per_step`."""
    without_loss: str = ""
    """The reason why `search.loss` cannot be set, in which {form} stands for its form; empty if any form can be set."""
    may_project: bool = False
    """Whether a form that projects can be set although the others cannot."""

    def refuses(self, form: str, *, projects: bool) -> str | None:
        """Returns why a loss of this form cannot be set in this mode; None if it can."""
        return None if not self.without_loss or (projects and self.may_project) else self.without_loss.format(form=form)


_OF_GATES = Mode(differentiates_gates=True)
MODES: dict[str, Mode] = {
    "regression": Mode(
        follows_gradient=False,
        trained_on_draws=False,
        collects_evidence=True,
        paths_per_step=2,
        without_loss="{form} is a term of a gradient, and regression projects",
        may_project=True,
    ),
    "full": _OF_GATES,
    "full_v2": _OF_GATES,
    "two_path": _OF_GATES,
    "reinforce": Mode(without_loss="reinforce has a reward, not a loss"),
}
"""Maps the name of each mode in YAML to its meaning."""
OWN = Mode(without_loss="{form} is a term of the package's own gradients; alpha is projected", may_project=True)
"""The meaning of an `arch_update` of the user's own."""
