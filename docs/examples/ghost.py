"""The bottleneck of GhostNet as candidates, such as `ghost_k3_e6` (Han et al. 2020, arXiv 1911.11907)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from supernet.catalogue import Candidate, register
from supernet.complexity import Complexity, conv_complexity
from supernet.ops import ConvBN, ConvBNAct, OpSettings


class GhostConv(nn.Module):
    """A 1x1 convolution that computes half of its channels, and the other half from these by a k x k depthwise one.

    (N, C_in, H, W) -> (N, C_out, H, W).
    """

    def __init__(self, c_in: int, c_out: int, settings: OpSettings, *, kernel_size: int, act: bool):
        super().__init__()
        block = ConvBNAct if act else ConvBN
        half = half_of(c_out)
        self.c_out = c_out
        self.primary = block(c_in, half, 1, settings)
        self.cheap = block(half, half, kernel_size, settings, groups=half)

    def forward(self, x: Tensor) -> Tensor:
        first = self.primary(x)  # (N, half, H, W)
        both = torch.cat([first, self.cheap(first)], dim=1)  # (N, 2 half, H, W)
        return both[:, : self.c_out]  # an odd C_out leaves one over


def half_of(channels: int) -> int:
    return (channels + 1) // 2


class GhostBottleneck(nn.Module):
    """Ghost expansion, k x k depthwise where the stride is 2, ghost projection; k in the ghosts too.

    (N, C_in, H, W) -> (N, C_out, H', W').
    """

    def __init__(self, c_in: int, c_out: int, settings: OpSettings, *, kernel_size: int, stride: int, expand: int):
        super().__init__()
        hidden = c_in * expand
        self.expand = GhostConv(c_in, hidden, settings, kernel_size=kernel_size, act=True)
        depthwise = ConvBN(hidden, hidden, kernel_size, settings, stride=stride, groups=hidden)
        self.depthwise = depthwise if stride > 1 else nn.Identity()
        self.project = GhostConv(hidden, c_out, settings, kernel_size=kernel_size, act=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.expand(x)  # (N, C_in * expand, H, W)
        x = self.depthwise(x)  # (N, C_in * expand, H', W')
        return self.project(x)  # (N, C_out, H', W')


@register(kernel_size=(3, 5), expand=(3, 6))  # an entry for each combination of the fields: ghost_k3_e3, ...
@dataclass(frozen=True)
class GhostSpec(Candidate):
    kernel_size: int
    expand: int

    def __str__(self) -> str:
        return f"ghost_k{self.kernel_size}_e{self.expand}"

    def build(self, c_in: int, c_out: int, stride: int, settings: OpSettings) -> nn.Module:
        return GhostBottleneck(c_in, c_out, settings, kernel_size=self.kernel_size, stride=stride, expand=self.expand)

    def complexity(self, c_in: int, c_out: int, size: int, stride: int) -> Complexity:
        hidden, size_out = c_in * self.expand, -(-size // stride)
        total = ghost_complexity(c_in, hidden, self.kernel_size, size)
        total += ghost_complexity(hidden, c_out, self.kernel_size, size_out)
        if stride > 1:
            total += conv_complexity(hidden, hidden, self.kernel_size, size_out, groups=hidden)
        return total


def ghost_complexity(c_in: int, c_out: int, kernel_size: int, size: int) -> Complexity:
    half = half_of(c_out)
    return conv_complexity(c_in, half, 1, size) + conv_complexity(half, half, kernel_size, size, groups=half)
