"""The edge of a derived network (one op) and of a supernet (all candidates), and the chain that both share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from supernet.gates import GateGradient
from supernet.ops import OpSettings, Zero
from supernet.space import Edge, Layer, Space

Call = Callable[[nn.Module, Tensor], Tensor]
"""Runs an op on its input."""


def build_op(layer: Layer, settings: OpSettings) -> nn.Module:
    return layer.spec.build(layer.c_in, layer.c_out, layer.stride, settings)


class Block(nn.Module):
    """An edge with its op chosen: o(x), plus x where residual. (N, C_in, H, W) -> (N, C_out, H', W')."""

    def __init__(self, layer: Layer, settings: OpSettings):
        super().__init__()
        self.op = build_op(layer, settings)
        self.residual = layer.residual

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.op, Zero):  # legal on residual edges only
            return x
        out: Tensor = self.op(x)
        return x + out if self.residual else out


class MixedEdge(nn.Module):
    """An edge with all its candidates: sum_i g_i o_i(x), plus x where residual (Eq. 2)."""

    def __init__(self, edge: Edge, settings: OpSettings):
        super().__init__()
        self.ops = nn.ModuleList(build_op(layer, settings) for layer in edge.layers)
        self.residual = edge.residual
        self.compiled: dict[int, Call] = {}
        """What runs a candidate in place of its module where a graph is kept (supernet/compiled.py)."""

    def forward(self, x: Tensor, path: int) -> Tensor:
        """Only the sampled candidate runs."""
        return self._run(x, path)[0]

    def gated(self, x: Tensor, path: int, gates: Tensor, compared: Iterable[int]) -> Tensor:
        """As forward; the backward pass also gives dL/dg of the `compared` candidates to `gates` (candidates,)."""
        out, o = self._run(x, path)
        detached = None if o is None else o.detach()
        echo: Tensor = GateGradient.apply(out, gates, x, detached, list(self.ops), path, compared)
        return echo

    def keeping_all(self, x: Tensor, gates: Tensor) -> Tensor:
        """Mode `full`: every candidate runs and is kept for autograd."""
        out = x if self.residual else None
        for i, op in enumerate(self.ops):
            if not isinstance(op, Zero):
                term = gates[i].to(x.dtype) * op(x)
                out = term if out is None else out + term
        assert out is not None  # an edge that is not residual has no Zero among its candidates
        return out

    def _run(self, x: Tensor, path: int) -> tuple[Tensor, Tensor | None]:
        """(edge output, op output); the latter None for Zero."""
        op = self.ops[path]
        if isinstance(op, Zero):
            return x, None
        call = self.compiled.get(path) if torch.is_grad_enabled() else None
        o = op(x) if call is None else call(op, x)
        return (x + o if self.residual else o), o


class Chain(nn.Module):
    """Stem, edges, head. Supernet and Network are chains that differ in their edges only."""

    def __init__(self, space: Space, edges: Iterable[nn.Module], settings: OpSettings):
        super().__init__()
        self.stem = build_op(space.stem, settings)
        self.edges = nn.ModuleList(edges)
        self.feature_mix = build_op(space.feature_mix, settings)
        self.classifier = build_op(space.classifier, settings)


def init_weights(module: nn.Module) -> None:
    """Kaiming normal, fan-out, for convolutions; 1 and 0 for BN; uniform in 1/sqrt(fan_in) and 0 for linear layers.

    Other parameters (of users' own ops) keep what their constructor gave them. Draws from torch's global generator.
    """
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out")
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        elif isinstance(m, nn.BatchNorm2d) and m.affine:
            nn.init.ones_(m.weight)
            nn.init.zeros_(m.bias)
        elif isinstance(m, nn.Linear):
            bound = m.in_features**-0.5
            nn.init.uniform_(m.weight, -bound, bound)
            if m.bias is not None:
                nn.init.zeros_(m.bias)


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Seed torch's global CPU generator inside, restore it outside: constructors leave no trace in a run's state."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU too, for good
        yield
