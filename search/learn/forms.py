"""The forms of alpha's loss: how the limits enter it beside the cross entropy (Sec. 3.3.1).

A form is one class: its YAML section `search.loss`, its value, and its slopes. A new one is a class and an entry in
FORMS, nothing else (docs/extending/loss_form.md). CE is the cross entropy, E a limit's expected cost, T its bound.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from engine.config import Section
from engine.errors import InvalidError

LARGEST_WEIGHT = 1e6
"""The largest weight of a term of the loss. The cross entropy is about 1, so with a larger weight no other term would
count."""
LARGEST_POWER = 100.0


@dataclass(frozen=True)
class ExpectedCost:
    """The values of one limit from which a form computes the loss, in the limit's unit."""

    expected: float
    """E, the expected cost under the path probabilities."""
    bound: float
    """T, above 0 unless costs below 0 are in a table."""
    kind: Literal["at", "below"]
    """at: the bound is to be used up; below: it is an upper bound only."""
    dual: float = 0.0
    """The number that the form keeps for this limit from step to step; 0 at first."""

    @property
    def excess(self) -> float:
        """c = E/T - 1."""
        return self.expected / self.bound - 1


@dataclass(frozen=True)
class Slopes:
    """The derivatives of a loss L."""

    ce: float
    """dL/dCE."""
    limits: tuple[float, ...]
    """dL/dE for each limit, in 1 / the limit's unit."""


class LossForm(Section):
    """YAML section `search.loss`. Read with the gradient modes of `search.arch_update`.

    A subclass sets `form` to its name, adds its settings, and defines `value` and `slopes`.
    """

    form: str
    strength: ClassVar[str | None] = None
    """The setting that sets how strongly limits pull beside CE; None if they have no gradient."""
    projects: ClassVar[bool] = False
    """Whether alpha is projected onto the limits after each of its steps (search/learn/projection.py)."""
    keeps_duals: ClassVar[bool] = False
    """Whether the form keeps a number for each limit from step to step, see `next_dual`."""

    @abstractmethod
    def value(self, ce: float, limits: Sequence[ExpectedCost]) -> float:
        """Returns the loss L. A search uses only its slopes; tests compare the two."""

    @abstractmethod
    def slopes(self, ce: float, limits: Sequence[ExpectedCost]) -> Slopes:
        """Returns dL/dCE, and dL/dE of each limit."""

    def next_dual(self, limit: ExpectedCost) -> float:
        """Returns the dual of a limit after a step of alpha. limit: its new E, and its old dual."""
        return limit.dual

    def check_count(self, limits: int) -> None:
        """Raises InvalidError if the form cannot be used with so many limits."""

    def check_limit(self, bound: float, least: float, unit: str) -> None:
        """Raises InvalidError if the form cannot be used with a bound, or with a limit whose smallest reachable cost
        is `least`; both in `unit`."""

    @property
    def strength_key(self) -> str | None:
        """The key of `strength`, for messages."""
        return f"search.loss.{self.strength}" if self.strength else None


class AddLinear(LossForm):
    """The loss CE + weight c, with c = E/T - 1."""

    form: Literal["add_linear"] = "add_linear"
    weight: float = Field(0.1, ge=0, le=LARGEST_WEIGHT)
    """The factor of c."""
    strength = "weight"

    def value(self, ce: float, limits: Sequence[ExpectedCost]) -> float:
        return ce + sum(self.weight * limit.excess for limit in limits)

    def slopes(self, ce: float, limits: Sequence[ExpectedCost]) -> Slopes:
        return Slopes(1.0, tuple(self.weight / limit.bound for limit in limits))


class Hinge(LossForm):
    """The loss CE + weight max(0, c), with c = E/T - 1."""

    form: Literal["hinge"] = "hinge"
    weight: float = Field(0.1, ge=0, le=LARGEST_WEIGHT)
    """The factor of c."""
    strength = "weight"

    def value(self, ce: float, limits: Sequence[ExpectedCost]) -> float:
        return ce + sum(self.weight * max(0.0, limit.excess) for limit in limits)

    def slopes(self, ce: float, limits: Sequence[ExpectedCost]) -> Slopes:
        slopes = (self.weight / limit.bound if limit.expected > limit.bound else 0.0 for limit in limits)
        return Slopes(1.0, tuple(slopes))


class MulLog(LossForm):
    """The loss scale CE (log E / log T)^power, as published (Sec. 3.3.1). E and T must exceed 1 in the metric's
    unit."""

    form: Literal["mul_log"] = "mul_log"
    scale: float = Field(0.2, gt=0, le=LARGEST_WEIGHT)
    """The factor of the product."""
    power: float = Field(0.3, gt=0, le=LARGEST_POWER)
    """The exponent of the ratio of logarithms."""
    strength = "power"  # scale multiplies CE's gradient and the limit's alike

    def value(self, ce: float, limits: Sequence[ExpectedCost]) -> float:
        return self.slopes(ce, limits).ce * ce

    def slopes(self, ce: float, limits: Sequence[ExpectedCost]) -> Slopes:
        (limit,) = limits
        E, T = limit.expected, limit.bound
        ratio = math.log(E) / math.log(T)
        d_expected = self.scale * ce * self.power * ratio ** (self.power - 1) / (E * math.log(T))
        return Slopes(self.scale * ratio**self.power, (d_expected,))

    def check_count(self, limits: int) -> None:
        if limits != 1:
            remedy = "use projection, or keep one entry in `limits` beside peak_activation_bytes"
            raise InvalidError("search.loss", "mul_log multiplies by one limit", remedy=remedy)

    def check_limit(self, bound: float, least: float, unit: str) -> None:
        if min(bound, least) <= 1:
            found = (
                f"loss mul_log takes logarithms, so the bound ({bound:g}) and the smallest reachable value "
                f"({least:g} {unit}) must exceed 1"
            )
            raise InvalidError("", found, remedy="use projection instead")


class Projection(LossForm):
    """The loss CE alone. After each step of alpha, its path probabilities are replaced by the nearest ones with E = T
    (search/learn/projection.py)."""

    form: Literal["projection"] = "projection"
    projects = True

    def value(self, ce: float, limits: Sequence[ExpectedCost]) -> float:
        return ce

    def slopes(self, ce: float, limits: Sequence[ExpectedCost]) -> Slopes:
        return Slopes(1.0, (0.0,) * len(limits))


FORMS: dict[str, type[LossForm]] = {
    form.model_fields["form"].default: form for form in (AddLinear, Hinge, MulLog, Projection)
}
"""Maps the name of each form in YAML to its class."""

if TYPE_CHECKING:
    Loss = LossForm
else:
    Loss = Annotated[reduce(or_, FORMS.values()), Field(discriminator="form")]
    """A field of this type takes the section of any form in FORMS, and recognises it by its key `form`."""
