"""A form in which the limits enter alpha's loss, see docs/extending/loss_form.md."""

from collections.abc import Sequence

from pydantic import Field

from search.learn.forms import ExpectedCost, LossForm, Slopes


class AugmentedLagrangian(LossForm):
    """CE + sum_k (max(0, d_k + weight c_k)^2 - d_k^2) / (2 weight), without the max for `at`."""

    weight: float = Field(1.0, gt=0, le=1e6)
    """The weight of the squares, and the speed of the multipliers."""
    strength = "weight"
    keeps_duals = True

    def value(self, ce: float, limits: Sequence[ExpectedCost]) -> float:
        return ce + sum((self.next_dual(limit) ** 2 - limit.dual**2) / (2 * self.weight) for limit in limits)

    def slopes(self, ce: float, limits: Sequence[ExpectedCost]) -> Slopes:
        return Slopes(1.0, tuple(self.next_dual(limit) / limit.bound for limit in limits))

    def next_dual(self, limit: ExpectedCost) -> float:
        pull = limit.dual + self.weight * limit.excess
        return pull if limit.kind == "at" else max(0.0, pull)
