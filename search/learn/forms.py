"""The forms of alpha's loss: how the limits enter it beside the cross entropy (Sec. 3.3.1).

A form is one class: its YAML section `search.loss`, its value, and its slopes. A user's own is a class in a file of
theirs (docs/extending/loss_form.md); one of the package is a class and an entry in FORMS. CE is the cross entropy, E a
limit's expected cost, T its bound.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, PlainSerializer, SerializationInfo, WrapValidator

from engine.config import Section, validate
from engine.errors import InvalidError, UserError, explain
from engine.wording import shown
from search.learn.modes import is_reference
from search.learn.own_class import own_class
from supernet.user_modules import failures_named

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
    """T, above 0."""
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


def own_form(reference: str) -> type[LossForm]:
    """Returns the class of a user's own form. Raises InvalidError if there is none.

    reference: path/to/file.py:name or package.module:name.
    """
    return own_class(reference, LossForm, "form")  # type: ignore[type-abstract]


def _validated(value: Any, of_the_package: Callable[[Any], LossForm]) -> LossForm:
    """Validates `search.loss`, of the package's forms or of the user's own."""
    if isinstance(value, LossForm) and is_reference(value.form):
        return value
    if not isinstance(value, Mapping) or not is_reference(value.get("form")):
        return of_the_package(value)
    try:
        return validate(own_form(value["form"]), dict(value), "")
    except UserError as error:
        raise InvalidError.of(error) from error


def _written(form: LossForm, info: SerializationInfo) -> dict[str, Any]:
    return form.model_dump(mode=info.mode, exclude_none=info.exclude_none, exclude_unset=info.exclude_unset)


def slopes_of(form: LossForm, ce: float, limits: Sequence[ExpectedCost]) -> Slopes:
    """Returns `form.slopes(ce, limits)`. Raises UserError if a form of the user's own fails, or returns anything but a
    finite number for CE and for each limit."""
    if not is_reference(form.form):
        return form.slopes(ce, limits)
    with explain("search.loss"), failures_named("slopes()", form.form):
        slopes = form.slopes(ce, limits)
    if not isinstance(slopes, Slopes) or len(slopes.limits) != len(limits) or not _finite(slopes.ce, *slopes.limits):
        expected = f"Slopes with a finite number for CE and for each of the {len(limits)} limits"
        raise UserError("search.loss", f"{form.form}: slopes() returned {shown(slopes, 80)}", expected, "correct it")
    return slopes


def next_duals(form: LossForm, limits: Sequence[ExpectedCost]) -> tuple[float, ...]:
    """Returns `form.next_dual` of each limit. Raises UserError if a form of the user's own fails, or returns anything
    but finite numbers."""
    with explain("search.loss"), failures_named("next_dual()", form.form):
        duals = tuple(form.next_dual(limit) for limit in limits)
    if not _finite(*duals):
        found = f"{form.form}: next_dual() returned {shown(duals, 80)}"
        raise UserError("search.loss", found, "finite numbers", "correct it")
    return duals


def _finite(*numbers: object) -> bool:
    return all(isinstance(n, int | float) and math.isfinite(n) for n in numbers)


if TYPE_CHECKING:
    Loss = LossForm
else:
    Loss = Annotated[
        reduce(or_, FORMS.values()),
        Field(discriminator="form"),
        WrapValidator(_validated),
        PlainSerializer(_written),
    ]
"""A field of this type takes the section of any form in FORMS, recognised by its key `form`, or of the user's own."""
