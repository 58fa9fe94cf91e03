"""Defines the modules of the candidates.

N batch, C channels, H W input size, H' = ceil(H / stride), W' = ceil(W / stride). No op adds its input: the residual
add belongs to the edge (supernet/blocks.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu6": nn.ReLU6,
    "relu": nn.ReLU,
    "hswish": nn.Hardswish,
    "none": nn.Identity,
}


@dataclass(frozen=True)
class OpSettings:
    """The settings that all ops of a space share."""

    activation: str = "relu6"
    """A key of ACTIVATIONS."""
    bn_eps: float = 1e-3
    bn_momentum: float = 0.1
    running_stats: bool = True
    """Whether BN keeps running statistics. It does not in a supernet, which normalises by batch statistics in training
    and in evaluation alike."""
    padding: str = "symmetric"
    """`symmetric`: k // 2 zeros on each side. `same`: as few as an output of ceil(H / stride) needs, the odd one at the
    lower right, as in TensorFlow. They differ if the stride is above 1."""
    folded: bool = False
    """Whether BN is folded into the convolutions, which then have a bias in its place."""

    def conv(self, c_in: int, c_out: int, kernel_size: int, stride: int, groups: int = 1) -> nn.Conv2d:
        """Returns a new k x k convolution, without bias unless BN is folded."""
        if self.padding == "same" and stride > 1:
            return SamePaddedConv2d(c_in, c_out, kernel_size, stride, groups=groups, bias=self.folded)
        return nn.Conv2d(c_in, c_out, kernel_size, stride, kernel_size // 2, groups=groups, bias=self.folded)

    def bn(self, channels: int) -> nn.BatchNorm2d:
        """Returns a new BN layer with these settings."""
        return nn.BatchNorm2d(
            channels, eps=self.bn_eps, momentum=self.bn_momentum, track_running_stats=self.running_stats
        )

    def act(self) -> nn.Module:
        """Returns a new activation layer."""
        # hardswish's backward needs its input, which in-place execution would have to copy first
        return ACTIVATIONS[self.activation](inplace=self.activation != "hswish")


class SamePaddedConv2d(nn.Conv2d):
    """A convolution with TensorFlow's padding SAME: (N, C_in, H, W) -> (N, C_out, H', W')."""

    def forward(self, input: Tensor) -> Tensor:  # torch's own name of the argument
        (down, right), (tall, wide) = self.stride, self.kernel_size
        height, width = input.shape[-2:]
        rows = max((-(-height // down) - 1) * down + tall - height, 0)
        columns = max((-(-width // right) - 1) * right + wide - width, 0)
        return super().forward(F.pad(input, (columns // 2, -(-columns // 2), rows // 2, -(-rows // 2))))


class ConvBN(nn.Sequential):
    """A k x k convolution without bias, then BN, or a convolution with bias if the settings have BN folded:
    (N, C_in, H, W) -> (N, C_out, H', W')."""

    conv: nn.Conv2d
    bn: nn.BatchNorm2d

    def __init__(
        self, c_in: int, c_out: int, kernel_size: int, settings: OpSettings, *, stride: int = 1, groups: int = 1
    ):
        super().__init__()
        self.add_module("conv", settings.conv(c_in, c_out, kernel_size, stride, groups))
        if not settings.folded:
            self.add_module("bn", settings.bn(c_out))


class ConvBNAct(ConvBN):
    """A ConvBN, then the activation: (N, C_in, H, W) -> (N, C_out, H', W')."""

    act: nn.Module

    def __init__(
        self, c_in: int, c_out: int, kernel_size: int, settings: OpSettings, *, stride: int = 1, groups: int = 1
    ):
        super().__init__(c_in, c_out, kernel_size, settings, stride=stride, groups=groups)
        self.add_module("act", settings.act())


@dataclass(frozen=True)
class InputMoments:
    """The mean (C,) and covariance (C, C) over all pixels of a batch (N, C, H, W), in float32 or better.

    They give the batch statistics of every 1x1 convolution of that input without running it: z = W x has mean W m and
    variance diag(W S W^T). Candidates of an edge have the same input and therefore the same moments.
    """

    mean: Tensor
    covariance: Tensor

    PIXELS_PER_CHANNEL = 100
    """The fewest pixels of a batch per channel for which the moments are faster."""

    @classmethod
    def is_worth_it(cls, x: Tensor) -> bool:
        """Returns whether the moments cost less time than they save: on a CPU, for large maps of few channels.

        On other devices always False: the moments need copies of the input in float32, two to four times its own
        memory, to save passes that were only measured on a CPU. A GPU normalises in the input's own precision with its
        own kernel.
        """
        if x.device.type != "cpu":
            return False
        return x.shape[0] * x.shape[2] * x.shape[3] >= cls.PIXELS_PER_CHANNEL * x.shape[1]

    @classmethod
    def of(cls, x: Tensor) -> InputMoments:
        """Returns the moments of a batch x (N, C, H, W)."""
        pixels = x.permute(0, 2, 3, 1).flatten(0, 2).to(torch.promote_types(x.dtype, torch.float32))  # (N H W, C)
        with torch.autocast(x.device.type, enabled=False):
            mean = pixels.mean(dim=0)
            centred = pixels - mean  # before squaring: E[x^2] - E[x]^2 would cancel
            return cls(mean, centred.T @ centred / len(pixels))


def normalised_1x1(block: ConvBN, x: Tensor, moments: InputMoments) -> Tensor:
    """Returns `block(x)` for a 1x1 ConvBN in training mode, without passes over the output for statistics and scaling.

    BN is folded into the convolution: z = W x + b with W scaled by gamma / sqrt(var + eps). No graph is kept.
    """
    conv, bn = block.conv, block.bn
    weight = conv.weight[:, :, 0, 0].to(moments.mean.dtype)  # (O, C)
    with torch.autocast(x.device.type, enabled=False):
        mean = weight @ moments.mean
        variance = ((weight @ moments.covariance) * weight).sum(dim=1).clamp_min(0)
        scale = bn.weight * (variance + bn.eps).rsqrt()
        folded, bias = scale[:, None] * weight, bn.bias - scale * mean
    z = F.conv2d(x, folded[:, :, None, None].to(conv.weight.dtype), bias.to(conv.weight.dtype))
    return block.act(z) if isinstance(block, ConvBNAct) else z


class SqueezeExcite(nn.Module):
    """x * hard_sigmoid(W2 relu(W1 mean(x))): (N, C, H, W) -> (N, C, H, W) (MobileNetV3, arXiv 1905.02244, Sec. 5.3)."""

    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.relu = nn.ReLU(inplace=True)
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        scale = self.relu(self.reduce(self.pool(x)))  # (N, squeezed, 1, 1)
        gate: Tensor = self.gate(self.expand(scale))  # (N, C, 1, 1)
        return x * gate


class MBConv(nn.Module):
    """An inverted residual: 1x1 expand, k x k depthwise, optional squeeze-excite, 1x1 project (arXiv 1801.04381).

    (N, C_in, H, W) -> (N, C_out, H', W'). With `expand` 1 there is no expanding convolution. squeezed: the channels
    inside squeeze-excite; None leaves it out. hidden: the channels of the expanding convolution, in place of `expand`.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        settings: OpSettings,
        *,
        kernel_size: int,
        stride: int,
        expand: int,
        squeezed: int | None = None,
        hidden: int | None = None,
    ):
        super().__init__()
        expands = expand > 1 or hidden is not None
        hidden = hidden or c_in * expand
        self.expand = ConvBNAct(c_in, hidden, 1, settings) if expands else nn.Identity()
        self.depthwise = ConvBNAct(hidden, hidden, kernel_size, settings, stride=stride, groups=hidden)
        self.excite = SqueezeExcite(hidden, squeezed) if squeezed else nn.Identity()
        self.project = ConvBN(hidden, c_out, 1, settings)

    def forward(self, x: Tensor, moments: InputMoments | None = None) -> Tensor:
        """Computes the op. With the `moments` of x, the expansion passes over its output once instead of three times,
        but no graph is kept."""
        if moments is not None and isinstance(self.expand, ConvBNAct):
            x = normalised_1x1(self.expand, x, moments)
        else:
            x = self.expand(x)  # (N, C_in * expand, H, W)
        x = self.depthwise(x)  # (N, C_in * expand, H', W')
        x = self.excite(x)
        out: Tensor = self.project(x)  # (N, C_out, H', W')
        return out


class SepConv(nn.Module):
    """A depthwise convolution, BN and activation, a 1x1 convolution and BN: (N, C_in, H, W) -> (N, C_out, H', W')."""

    def __init__(self, c_in: int, c_out: int, settings: OpSettings, *, kernel_size: int, stride: int):
        super().__init__()
        self.depthwise = ConvBNAct(c_in, c_in, kernel_size, settings, stride=stride, groups=c_in)
        self.project = ConvBN(c_in, c_out, 1, settings)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.depthwise(x))
        return out


class Zero(nn.Module):
    """The op of `skip`, 0 everywhere. Edges never run it: a residual edge whose op is Zero returns its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(()).expand_as(x)


class PoolClassifier(nn.Module):
    """A global average pool, dropout and a linear layer: (N, C, H, W) -> logits (N, classes).

    It computes in float32 under autocast too: bfloat16 has 8 bits of mantissa, so different logits would often become
    equal.
    """

    def __init__(self, c_in: int, classes: int, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(c_in, classes)

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            logits: Tensor = self.linear(self.dropout(x.mean(dim=(2, 3))))
            return logits
        with torch.autocast(device, enabled=False):
            in_float: Tensor = self.linear(self.dropout(x.mean(dim=(2, 3), dtype=self.linear.weight.dtype)))
            return in_float
