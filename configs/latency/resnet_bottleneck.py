"""The bottleneck of ResNet-50 as candidates, such as `bottleneck_k3_r4`: 1x1 reduce, k x k, 1x1 expand.

He et al. 2015, arXiv 1512.03385, with the stride in the k x k convolution. An edge of this framework adds its input and
does nothing after the add, so the ReLU that ResNet has there is absent. See docs/extending/space.md.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from supernet.catalogue import Candidate, make_divisible, register
from supernet.complexity import Complexity, conv_complexity
from supernet.ops import ConvBN, ConvBNAct, OpSettings


class Bottleneck(nn.Module):
    """expand(conv(reduce(x))), each with BN, an activation after the first two: (N, C_in, H, W) -> (N, C_out, H', W').

    Where the shape changes, the edge cannot add x, so the op adds ResNet's projection of x, a strided 1x1 conv-BN.
    """

    def __init__(self, c_in: int, c_out: int, settings: OpSettings, *, kernel_size: int, stride: int, width: int):
        super().__init__()
        self.reduce = ConvBNAct(c_in, width, 1, settings)
        self.conv = ConvBNAct(width, width, kernel_size, settings, stride=stride)
        self.expand = ConvBN(width, c_out, 1, settings)
        self.shortcut = ConvBN(c_in, c_out, 1, settings, stride=stride) if changes_shape(c_in, c_out, stride) else None

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.reduce(x)  # (N, width, H, W)
        out = self.conv(out)  # (N, width, H', W')
        out = self.expand(out)  # (N, C_out, H', W')
        return out if self.shortcut is None else out + self.shortcut(x)


def changes_shape(c_in: int, c_out: int, stride: int) -> bool:
    return stride > 1 or c_in != c_out


@register(kernel_size=(3, 5), reduction=(2, 4, 8))
@dataclass(frozen=True)
class BottleneckSpec(Candidate):
    """`reduction`: output channels per channel of the k x k convolution. 4 is ResNet-50, 2 is Wide ResNet-50-2."""

    kernel_size: int
    reduction: int

    def __str__(self) -> str:
        return f"bottleneck_k{self.kernel_size}_r{self.reduction}"

    def width(self, c_out: int) -> int:
        return make_divisible(c_out / self.reduction)

    def build(self, c_in: int, c_out: int, stride: int, settings: OpSettings) -> nn.Module:
        width = self.width(c_out)
        return Bottleneck(c_in, c_out, settings, kernel_size=self.kernel_size, stride=stride, width=width)

    def complexity(self, c_in: int, c_out: int, size: int, stride: int) -> Complexity:
        width, size_out = self.width(c_out), -(-size // stride)
        total = conv_complexity(c_in, width, 1, size)
        total += conv_complexity(width, width, self.kernel_size, size_out)
        total += conv_complexity(width, c_out, 1, size_out)
        if changes_shape(c_in, c_out, stride):
            total += conv_complexity(c_in, c_out, 1, size_out)
        return total
