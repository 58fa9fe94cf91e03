"""Defines the blocks of tree-structured networks, such as the CIFAR-10 network that the ProxylessNAS paper publishes.

A block is a bottleneck, a tree of layers and a second bottleneck, beside a shortcut whose missing channels are zeros
(path-level network transformation, arXiv 1806.02639, on a PyramidNet, arXiv 1610.02915).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from supernet.catalogue import Candidate
from supernet.complexity import Complexity, conv_complexity
from supernet.errors import InvalidError
from supernet.ops import ACTIVATIONS, OpSettings
from supernet.space import Channels, Section

MOST_BRANCHES = 16
MOST_UNITS = 1000
ANY_SIZE = 1 << 10
"""An input size that no kernel exceeds, where only the channels of an output are asked for."""
Order = Literal["weight_bn_act", "bn_act_weight", "bn_weight_act", "act_weight_bn", "act_bn_weight", "weight_act_bn"]


class UnitConfig(Section):
    """A layer of a tree: BN, an activation and a weight, which is a convolution, a pool or nothing, in any order."""

    kind: Literal["conv", "depthwise", "pool", "identity"]
    """`depthwise` is a depthwise convolution and a 1x1 convolution. `pool` and `identity` keep the channels."""
    width: Channels | None = None
    """Output channels of a convolution."""
    kernel: int = Field(1, ge=1, le=31)
    """Height and width of the kernel, odd unless it is a pool's of stride above 1."""
    stride: int = Field(1, ge=1, le=32)
    dilation: int = Field(1, ge=1, le=8)
    groups: int = Field(1, ge=1)
    """Groups of the convolution; of `depthwise`, those of its 1x1 convolution."""
    bias: bool = False
    shuffle: bool = False
    """Whether the groups' channels are interleaved after the convolution (ShuffleNet, arXiv 1707.01083)."""
    pool: Literal["avg", "max"] = "avg"
    bn: bool = True
    activation: Literal["relu", "relu6", "none"] = "none"
    dropout: float = Field(0.0, ge=0, lt=1)
    """The share of channels that are set to 0 before the weight in training."""
    order: Order = "bn_act_weight"

    @property
    def pads(self) -> bool:
        """Whether the map is padded so that the output has ceil(H / stride) rows. A pool with a stride is not."""
        return self.kind != "pool" or self.stride == 1

    def shape(self, c_in: int, size: int) -> tuple[int, int]:
        """Returns the output's channels and size. Raises InvalidError if the layer cannot take such an input."""
        if self.kind == "identity":
            return c_in, size
        if self.pads and self.kernel % 2 == 0:
            raise InvalidError("kernel", f"got {self.kernel}", "an odd number")
        if self.kind == "pool":
            out = -(-size // self.stride) if self.pads else (size - self.kernel) // self.stride + 1
            if out < 1:
                raise InvalidError("kernel", f"got a pool of {self.kernel} on {size} x {size} pixels", "a larger input")
            return c_in, out
        if self.width is None:
            raise InvalidError("width", "is missing", "the output channels of the convolution")
        if c_in % self.groups or self.width % self.groups:
            found = f"got {self.groups} groups for {c_in} -> {self.width} channels"
            raise InvalidError("groups", found, "a divisor of both")
        return self.width, -(-size // self.stride)

    def complexity(self, c_in: int, size: int) -> Complexity:
        """Returns parameters and MACs on a `size` x `size` input."""
        c_out, size_out = self.shape(c_in, size)
        normalised = c_in if self._bn_first else c_out
        total = Complexity(2 * normalised if self.bn else 0)
        if self.kind == "depthwise":
            total += conv_complexity(c_in, c_in, self.kernel, size_out, groups=c_in, bn=False)
        if self.kind in ("conv", "depthwise"):
            kernel = self.kernel if self.kind == "conv" else 1
            total += conv_complexity(c_in, c_out, kernel, size_out, groups=self.groups, bias=self.bias, bn=False)
        return total

    @property
    def _bn_first(self) -> bool:
        return self.order.index("bn") < self.order.index("weight")


class BranchConfig(Section):
    """A branch of a node: a layer, then a node; each may be absent."""

    edge: UnitConfig | None = None
    child: NodeConfig | None = None

    def shape(self, c_in: int, size: int) -> tuple[int, int]:
        """Returns the output's channels and size."""
        if self.edge is not None:
            c_in, size = self.edge.shape(c_in, size)
        return (c_in, size) if self.child is None else self.child.shape(c_in, size)


class NodeConfig(Section):
    """A node of a tree: its input goes to branches, whose outputs are merged."""

    branches: tuple[BranchConfig, ...] = Field(min_length=1, max_length=MOST_BRANCHES)
    split: Literal["copy", "split", "none"] = "copy"
    """`copy`: each branch gets the input. `split`: each gets a part of its channels. `none`: there is one branch."""
    merge: Literal["add", "concat", "none"] = "add"
    """How the outputs become one. `none`: there is one branch."""
    branch_bn: bool = False
    """Whether a branch is e(x) + BN(child(e(x))), with e its layer, rather than child(e(x))."""

    def inputs(self, c_in: int) -> list[int]:
        """Returns the input channels of each branch."""
        return split_channels(c_in, len(self.branches)) if self.split == "split" else [c_in] * len(self.branches)

    def shape(self, c_in: int, size: int) -> tuple[int, int]:
        """Returns the output's channels and size. Raises InvalidError if the branches do not fit together."""
        if len(self.branches) > 1 and "none" in (self.split, self.merge):
            found = f"got {len(self.branches)} branches"
            raise InvalidError("branches", found, "one, since the node does not split or does not merge")
        if len(self.branches) > c_in:
            raise InvalidError("branches", f"got {len(self.branches)} for {c_in} channels", "fewer than channels")
        shapes = [branch.shape(c, size) for branch, c in zip(self.branches, self.inputs(c_in), strict=True)]
        sizes, widths = {size for _, size in shapes}, [c for c, _ in shapes]
        if len(sizes) > 1 or (self.merge == "add" and len(set(widths)) > 1):
            raise InvalidError("branches", f"their outputs are {shapes} (channels, size)", "equal shapes")
        return sum(widths) if self.merge == "concat" else widths[0], sizes.pop()


class TransitionConfig(Section):
    """`op: transition`: layers one after the other, without a shortcut."""

    op: Literal["transition"]
    units: tuple[UnitConfig, ...] = Field(min_length=1, max_length=MOST_UNITS)

    def shape(self, c_in: int, size: int) -> tuple[int, int]:
        """Returns the output's channels and size."""
        for unit in self.units:
            c_in, size = unit.shape(c_in, size)
        return c_in, size


class TreeConfig(Section):
    """`op: tree`: shortcut(x), with zeros for its missing channels, plus BN(out(tree(in(x)))). A part that is null is
    left out."""

    op: Literal["tree"]
    cell: NodeConfig
    """The tree."""
    into: UnitConfig | None = None
    """The first bottleneck."""
    out: UnitConfig | None = None
    """The second bottleneck."""
    shortcut: UnitConfig
    final_bn: bool = True

    def shape(self, c_in: int, size: int) -> tuple[int, int]:
        """Returns the output's channels and size. Raises InvalidError if the shortcut does not fit."""
        beside, size_beside = self.shortcut.shape(c_in, size)
        c, now = (c_in, size) if self.into is None else self.into.shape(c_in, size)
        c, now = self.cell.shape(c, now)
        c, now = (c, now) if self.out is None else self.out.shape(c, now)
        if now != size_beside:
            raise InvalidError("shortcut", f"its output has {size_beside} pixels a side, the tree's {now}", "as many")
        if beside > c:
            raise InvalidError("shortcut", f"its output has {beside} channels, the tree's {c}", "no more")
        return c, now


class Unit(nn.Module):
    """The layer of a UnitConfig: (N, C_in, H, W) -> (N, C_out, H', W')."""

    def __init__(self, config: UnitConfig, c_in: int, settings: OpSettings):
        super().__init__()
        c_out, _ = config.shape(c_in, config.kernel)
        self.config = config
        same = config.kernel // 2 * config.dilation
        if config.kind == "conv":
            self.conv = nn.Conv2d(
                c_in, c_out, config.kernel, config.stride, same, config.dilation, config.groups, config.bias
            )
        elif config.kind == "depthwise":
            self.depth_conv = nn.Conv2d(
                c_in, c_in, config.kernel, config.stride, same, config.dilation, c_in, bias=False
            )
            self.point_conv = nn.Conv2d(c_in, c_out, 1, groups=config.groups, bias=config.bias)
        elif config.kind == "pool":
            padding = config.kernel // 2 if config.pads else 0
            self.pool: nn.Module = (
                nn.AvgPool2d(config.kernel, config.stride, padding, count_include_pad=False)
                if config.pool == "avg"
                else nn.MaxPool2d(config.kernel, config.stride, padding)
            )
        if config.bn:
            self.bn = settings.bn(c_in if config._bn_first else c_out)
        self.act = ACTIVATIONS[config.activation]()
        self.dropout = nn.Dropout2d(config.dropout) if config.dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for step in self.config.order.split("_"):
            if step == "weight":
                x = self._weight(self.dropout(x))
            elif step == "act":
                x = self.act(x)
            elif self.config.bn:
                x = self.bn(x)
        return x

    def _weight(self, x: Tensor) -> Tensor:
        match self.config.kind:
            case "conv":
                x = self.conv(x)
            case "depthwise":
                x = self.point_conv(self.depth_conv(x))
            case "pool":
                x = self.pool(x)
        return shuffled(x, self.config.groups) if self.config.shuffle and self.config.groups > 1 else x


class Node(nn.Module):
    """The node of a NodeConfig: (N, C_in, H, W) -> (N, C_out, H', W')."""

    def __init__(self, config: NodeConfig, c_in: int, settings: OpSettings):
        super().__init__()
        self.config, self.inputs = config, config.inputs(c_in)
        edges: list[nn.Module | None] = []
        children: list[nn.Module | None] = []
        norms: list[nn.Module | None] = []
        for branch, c in zip(config.branches, self.inputs, strict=True):
            width, _ = (c, 0) if branch.edge is None else branch.edge.shape(c, branch.edge.kernel)
            out, _ = branch.shape(c, ANY_SIZE)
            edges.append(None if branch.edge is None else Unit(branch.edge, c, settings))
            children.append(None if branch.child is None else Node(branch.child, width, settings))
            norms.append(settings.bn(out) if config.branch_bn else None)
        self.edges, self.child_nodes, self.branch_bns = _modules(edges), _modules(children), _modules(norms)

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split(self.inputs, dim=1) if self.config.split == "split" else [x] * len(self.inputs)
        outputs = [self._branch(i, parts[i].contiguous()) for i in range(len(self.inputs))]
        if self.config.merge == "concat":
            return torch.cat(outputs, dim=1)
        total = outputs[-1]
        for output in reversed(outputs[:-1]):  # from the last one, as the published code adds them
            total = output + total
        return total

    def _branch(self, i: int, x: Tensor) -> Tensor:
        edge, child, bn = (_at(modules, i) for modules in (self.edges, self.child_nodes, self.branch_bns))
        e = x if edge is None else edge(x)
        out: Tensor = e if child is None else child(e)
        return out if bn is None else bn(out) + e


class Transition(nn.Module):
    """The layers of a TransitionConfig: (N, C_in, H, W) -> (N, C_out, H', W')."""

    def __init__(self, config: TransitionConfig, c_in: int, settings: OpSettings):
        super().__init__()
        units = []
        for unit in config.units:
            units.append(Unit(unit, c_in, settings))
            c_in, _ = unit.shape(c_in, ANY_SIZE)
        self.layers = nn.ModuleList(units)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class TreeBlock(nn.Module):
    """The block of a TreeConfig: (N, C_in, H, W) -> (N, C_out, H', W')."""

    def __init__(self, config: TreeConfig, c_in: int, settings: OpSettings):
        super().__init__()
        self.shortcut = Unit(config.shortcut, c_in, settings)
        self.in_bottle = None if config.into is None else Unit(config.into, c_in, settings)
        width, _ = (c_in, 0) if config.into is None else config.into.shape(c_in, ANY_SIZE)
        self.cell = Node(config.cell, width, settings)
        width, _ = config.cell.shape(width, ANY_SIZE)
        self.out_bottle = None if config.out is None else Unit(config.out, width, settings)
        width, _ = (width, 0) if config.out is None else config.out.shape(width, ANY_SIZE)
        self.final_bn = settings.bn(width) if config.final_bn else None
        self.missing = width - config.shortcut.shape(c_in, ANY_SIZE)[0]
        """The channels of zeros that the shortcut lacks."""

    def forward(self, x: Tensor) -> Tensor:
        beside = self.shortcut(x)
        for part in (self.in_bottle, self.cell, self.out_bottle, self.final_bn):
            x = x if part is None else part(x)
        if self.missing:
            zeros = beside.new_zeros(x.shape[0], self.missing, x.shape[2], x.shape[3])
            beside = torch.cat((beside, zeros), dim=1)
        out: Tensor = beside + x
        return out


@dataclass(frozen=True)
class TreeSpec(Candidate):
    """`tree_1a2b3c4d`, `transition_1a2b3c4d`: a block of a tree-structured network, named by a digest of its config."""

    config: TreeConfig | TransitionConfig

    def __str__(self) -> str:
        text = self.config.model_dump_json(exclude_defaults=True)
        return f"{self.config.op}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    def build(self, c_in: int, c_out: int, stride: int, settings: OpSettings) -> nn.Module:
        if isinstance(self.config, TreeConfig):
            return TreeBlock(self.config, c_in, settings)
        return Transition(self.config, c_in, settings)

    def complexity(self, c_in: int, c_out: int, size: int, stride: int) -> Complexity:
        parts = _parts(self.config, c_in, size)
        return sum(parts, Complexity())


def _parts(config: TreeConfig | TransitionConfig, c_in: int, size: int) -> Iterator[Complexity]:
    """Yields the complexity of each layer of a block."""
    if isinstance(config, TransitionConfig):
        for unit in config.units:
            yield unit.complexity(c_in, size)
            c_in, size = unit.shape(c_in, size)
        return
    yield config.shortcut.complexity(c_in, size)
    if config.into is not None:
        yield config.into.complexity(c_in, size)
        c_in, size = config.into.shape(c_in, size)
    yield from _of_node(config.cell, c_in, size)
    c_in, size = config.cell.shape(c_in, size)
    if config.out is not None:
        yield config.out.complexity(c_in, size)
        c_in, size = config.out.shape(c_in, size)
    yield Complexity(2 * c_in if config.final_bn else 0)


def _of_node(node: NodeConfig, c_in: int, size: int) -> Iterator[Complexity]:
    """Yields the complexity of each layer below a node."""
    for branch, c in zip(node.branches, node.inputs(c_in), strict=True):
        yield Complexity(2 * branch.shape(c, size)[0] if node.branch_bn else 0)
        now = size
        if branch.edge is not None:
            yield branch.edge.complexity(c, now)
            c, now = branch.edge.shape(c, now)
        if branch.child is not None:
            yield from _of_node(branch.child, c, now)


def split_channels(channels: int, parts: int) -> list[int]:
    """Returns the channels of each part of a map, the first ones larger by one if they cannot be equal."""
    return [channels // parts + (i < channels % parts) for i in range(parts)]


def shuffled(x: Tensor, groups: int) -> Tensor:
    """Returns a map (N, C, H, W) whose channels are interleaved between groups."""
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


def _modules(parts: Sequence[nn.Module | None]) -> nn.ModuleDict:
    """Returns the parts that are there by their number, so that their parameters have the published names."""
    return nn.ModuleDict({str(i): part for i, part in enumerate(parts) if part is not None})


def _at(modules: nn.ModuleDict, i: int) -> nn.Module | None:
    """Returns part number `i`; None if it is absent."""
    return dict(modules.items()).get(str(i))
