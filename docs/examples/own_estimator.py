"""An estimate of alpha's gradient from the gates' gradients, see docs/extending/estimator.md."""

from torch import Tensor

from search.learn.gradient import second_order


def halfway(d_gates: Tensor, p: Tensor, active: Tensor) -> Tensor:
    """The mean of first_order and second_order: half the error of the one, less than the noise of the other.

    d_gates, p (E, N) float64, 0 where padded; active (E,) int64. Returns CE's share of dL/dalpha, (E, N).
    """
    first_order = p * (d_gates - (p * d_gates).sum(dim=1, keepdim=True))  # Eq. 4
    return (first_order + second_order(d_gates, p, active)) / 2
