"""FBNet's block as candidates, such as `fbnet_k3_e1_g2`: 1x1 expand, k x k depthwise, 1x1 project (arXiv 1812.03443).

`_g2`: both 1x1 convolutions in two groups. FBNet shuffles the channels between them; this does not, for nothing is
trained with it: benchmarks/few_shot_tables.py needs the shapes alone.
"""

from dataclasses import dataclass

from torch import nn

from supernet.catalogue import Candidate, register
from supernet.complexity import Complexity, conv_complexity
from supernet.ops import ConvBN, ConvBNAct, OpSettings


@register(kernel_size=(3, 5), expand=(1, 3, 6), groups=(1, 2))
@dataclass(frozen=True)
class FBNetSpec(Candidate):
    kernel_size: int
    expand: int
    groups: int

    def __str__(self) -> str:
        return f"fbnet_k{self.kernel_size}_e{self.expand}" + (f"_g{self.groups}" if self.groups > 1 else "")

    def build(self, c_in: int, c_out: int, stride: int, settings: OpSettings) -> nn.Module:
        hidden = c_in * self.expand
        return nn.Sequential(
            ConvBNAct(c_in, hidden, 1, settings, groups=self.groups),  # (N, C_in * expand, H, W)
            ConvBNAct(hidden, hidden, self.kernel_size, settings, stride=stride, groups=hidden),
            ConvBN(hidden, c_out, 1, settings, groups=self.groups),  # (N, C_out, H', W')
        )

    def complexity(self, c_in: int, c_out: int, size: int, stride: int) -> Complexity:
        hidden, size_out = c_in * self.expand, -(-size // stride)
        expand = conv_complexity(c_in, hidden, 1, size, groups=self.groups)
        depthwise = conv_complexity(hidden, hidden, self.kernel_size, size_out, groups=hidden)
        return expand + depthwise + conv_complexity(hidden, c_out, 1, size_out, groups=self.groups)
