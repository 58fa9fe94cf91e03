"""Computes parameters and multiply-accumulates (MACs) from shapes alone; nothing is built.

By the convention of published figures, convolutions and linear layers count, at batch 1; BN, activations, pooling,
biases and residual adds cost no MACs. BN has two learned numbers a channel.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Complexity:
    """The size of a layer or a network. Complexities can be added."""

    params: int = 0
    """Learned numbers."""
    macs: int = 0
    """Multiply-accumulates of one forward pass at batch 1."""

    def __add__(self, other: Complexity) -> Complexity:
        return Complexity(self.params + other.params, self.macs + other.macs)


def conv_complexity(
    c_in: int, c_out: int, kernel_size: int, size_out: int, *, groups: int = 1, bias: bool = False, bn: bool = True
) -> Complexity:
    """Returns the complexity of a square convolution with `size_out` x `size_out` output pixels, followed by BN unless
    `bn` is False."""
    weights = c_out * (c_in // groups) * kernel_size**2
    return Complexity(weights + (c_out if bias else 0) + (2 * c_out if bn else 0), weights * size_out**2)


def linear_complexity(features_in: int, features_out: int) -> Complexity:
    """Returns the complexity of a linear layer with bias."""
    return Complexity(features_in * features_out + features_out, features_in * features_out)
