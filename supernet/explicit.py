"""Defines the ops of explicit layers that no candidate of a space describes: any hidden width, an activation function
of their own, no BN, and the head of MobileNetV3."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, nn

from supernet.catalogue import Candidate
from supernet.complexity import Complexity, conv_complexity, linear_complexity
from supernet.ops import ACTIVATIONS, MBConv, OpSettings


@dataclass(frozen=True)
class IdentitySpec(Candidate):
    """The place of a feature mix in a network that has none: its input is its output."""

    spatial = False

    def __str__(self) -> str:
        return "identity"

    def build(self, c_in: int, c_out: int, stride: int, settings: OpSettings) -> nn.Module:
        return nn.Identity()

    def complexity(self, c_in: int, c_out: int, size: int, stride: int) -> Complexity:
        return Complexity()


class Conv(nn.Sequential):
    """A k x k convolution, then BN and an activation, each if it is there: (N, C_in, H, W) -> (N, C_out, H', W')."""


@dataclass(frozen=True)
class ExplicitConvSpec(Candidate):
    """`stem_k3_relu`, `conv_k1_hswish_nobn`: a convolution with its own activation, with or without BN and bias."""

    kind: str
    """The word that its name begins with: stem, conv or feature_mix."""
    kernel_size: int
    activation: str
    bn: bool = True
    bias: bool = False

    def __str__(self) -> str:
        words = [self.kind, f"k{self.kernel_size}", self.activation]
        return "_".join(words + ["nobn"] * (not self.bn) + ["bias"] * self.bias)

    def build(self, c_in: int, c_out: int, stride: int, settings: OpSettings) -> nn.Module:
        settings = replace(settings, activation=self.activation)
        conv = settings.conv(c_in, c_out, self.kernel_size, stride)
        if self.bias:
            conv.bias = nn.Parameter(conv.weight.new_zeros(c_out))
        built = Conv()
        built.add_module("conv", conv)
        if self.bn:
            built.add_module("bn", settings.bn(c_out))
        if self.activation != "none":
            built.add_module("act", settings.act())
        return built

    def complexity(self, c_in: int, c_out: int, size: int, stride: int) -> Complexity:
        return conv_complexity(c_in, c_out, self.kernel_size, -(-size // stride), bias=self.bias, bn=self.bn)


@dataclass(frozen=True)
class ExplicitMBConvSpec(Candidate):
    """`mbconv_k5_m120_se32_hswish`: an inverted residual with any hidden width, an activation of its own, or no BN."""

    kernel_size: int
    hidden: int | None
    """The channels of the expanding convolution; None if there is none."""
    squeezed: int | None
    """The channels inside squeeze-excite; None without it."""
    activation: str | None
    """None: that of the network."""
    bn: bool = True
    """Whether each convolution has BN; otherwise it has a bias."""

    def __str__(self) -> str:
        words = ["mbconv", f"k{self.kernel_size}", f"m{self.hidden}" if self.hidden else "e1"]
        words += [f"se{self.squeezed}"] if self.squeezed else []
        return "_".join(words + ([self.activation] if self.activation else []) + ["nobn"] * (not self.bn))

    def build(self, c_in: int, c_out: int, stride: int, settings: OpSettings) -> nn.Module:
        settings = replace(settings, activation=self.activation or settings.activation, folded=not self.bn)
        return MBConv(
            c_in, c_out, settings, kernel_size=self.kernel_size, stride=stride, expand=1, squeezed=self.squeezed,
            hidden=self.hidden,
        )  # fmt: skip

    def complexity(self, c_in: int, c_out: int, size: int, stride: int) -> Complexity:
        hidden, size_out = self.hidden or c_in, -(-size // stride)
        conv = partial(conv_complexity, bn=self.bn, bias=not self.bn)
        total = conv(hidden, hidden, self.kernel_size, size_out, groups=hidden) + conv(hidden, c_out, 1, size_out)
        if self.hidden:
            total += conv(c_in, hidden, 1, size)
        if self.squeezed:
            total += conv_complexity(hidden, self.squeezed, 1, 1, bias=True, bn=False)
            total += conv_complexity(self.squeezed, hidden, 1, 1, bias=True, bn=False)
        return total


class Head(nn.Module):
    """A global average pool, a linear layer with an activation, dropout and a linear layer (MobileNetV3, arXiv
    1905.02244, Sec. 5.1): (N, C, H, W) -> logits (N, classes). Without `hidden` it is the pool and the last layer."""

    def __init__(self, c_in: int, classes: int, hidden: int | None, activation: str, dropout: float, bias: bool):
        super().__init__()
        self.mix = nn.Conv2d(c_in, hidden, 1, bias=False) if hidden else nn.Identity()
        self.act = ACTIVATIONS[activation]() if hidden else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden or c_in, classes, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean(dim=(2, 3), keepdim=True)  # (N, C, 1, 1)
        logits: Tensor = self.linear(self.dropout(self.act(self.mix(pooled)).flatten(1)))
        return logits


@dataclass(frozen=True)
class HeadSpec(Candidate):
    """`head_m1280_hswish`: a classifier with a hidden layer, or without bias."""

    hidden: int | None
    activation: str
    dropout: float = 0.0
    bias: bool = True

    def __str__(self) -> str:
        words = [f"m{self.hidden}", self.activation] if self.hidden else []
        return "_".join(["head", *words] + ["nobias"] * (not self.bias))

    def build(self, c_in: int, c_out: int, stride: int, settings: OpSettings) -> nn.Module:
        return Head(c_in, c_out, self.hidden, self.activation, self.dropout, self.bias)

    def complexity(self, c_in: int, c_out: int, size: int, stride: int) -> Complexity:
        last = linear_complexity(self.hidden or c_in, c_out)
        last = Complexity(last.params - (0 if self.bias else c_out), last.macs)
        return last + conv_complexity(c_in, self.hidden, 1, 1, bn=False) if self.hidden else last
