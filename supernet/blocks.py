"""Defines the edge of a derived network (one op), the edge of a supernet (all candidates), and what both have in
common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from supernet.gates import GateGradient
from supernet.ops import OpSettings, Zero
from supernet.space import Edge, Layer

Call = Callable[[nn.Module, Tensor], Tensor]
"""Runs an op on its input."""


def build_op(layer: Layer, settings: OpSettings) -> nn.Module:
    """Returns the module of a layer's op, without the residual add."""
    return layer.spec.build(layer.c_in, layer.c_out, layer.stride, settings)


class Block(nn.Module):
    """An edge with a single op o: o(x), plus x if it is residual. (N, C_in, H, W) -> (N, C_out, H', W')."""

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
    """An edge with all its candidates: sum_i g_i o_i(x), plus x if it is residual (Eq. 2).

    (N, C_in, H, W) -> (N, C_out, H', W').
    """

    def __init__(self, edge: Edge, settings: OpSettings):
        super().__init__()
        self.ops = nn.ModuleList(build_op(layer, settings) for layer in edge.layers)
        self.residual = edge.residual
        self.compiled: dict[int, Call] = {}
        """The compiled programs by candidate, which run in place of the modules if a graph is kept
        (supernet/compiled.py)."""

    def forward(self, x: Tensor, path: int) -> Tensor:
        """Computes the edge with the candidate `path` alone."""
        return self._run(x, path)[0]

    def gated(self, x: Tensor, path: int, gates: Tensor, compared: Iterable[int]) -> Tensor:
        """Computes the same as forward. The backward pass also gives `gates` (candidates,) the gradients dL/dg of the
        `compared` candidates."""
        out, o = self._run(x, path)
        detached = None if o is None else o.detach()
        echo: Tensor = GateGradient.apply(out, gates, x, detached, list(self.ops), path, compared)
        return echo

    def keeping_all(self, x: Tensor, gates: Tensor) -> Tensor:
        """Computes the edge with every candidate, whose outputs are kept for autograd (mode `full`). gates:
        (candidates,)."""
        out = x if self.residual else None
        for i, op in enumerate(self.ops):
            if not isinstance(op, Zero):
                term = gates[i].to(x.dtype) * op(x)
                out = term if out is None else out + term
        assert out is not None  # an edge that is not residual has no Zero among its candidates
        return out

    def _run(self, x: Tensor, path: int) -> tuple[Tensor, Tensor | None]:
        """Returns the outputs of the edge and of its op; the latter is None for Zero."""
        op = self.ops[path]
        if isinstance(op, Zero):
            return x, None
        call = self.compiled.get(path) if torch.is_grad_enabled() else None
        o = op(x) if call is None else call(op, x)
        return (x + o if self.residual else o), o


class Skeleton(nn.Module):
    """A stem, edges and a head. Supernet and Network differ in their edges only."""

    def __init__(self, ends: tuple[Layer, Layer, Layer], edges: Iterable[nn.Module], settings: OpSettings):
        """ends: the layers of the stem, of the feature mix and of the classifier."""
        super().__init__()
        stem, feature_mix, classifier = ends
        self.stem = build_op(stem, settings)
        self.edges = nn.ModuleList(edges)
        self.feature_mix = build_op(feature_mix, settings)
        self.classifier = build_op(classifier, settings)


def init_weights(module: nn.Module) -> None:
    """Initialises weights: Kaiming normal with fan-out for convolutions, 1 and 0 for BN's scale and shift, uniform in
    +-1/sqrt(fan_in) for linear layers, and 0 for the biases of both.

    Other parameters, of users' own ops, keep their values. Draws from torch's global generator.
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
    """Seeds torch's global CPU generator, and restores its state at the end, so that constructors do not change the
    random numbers of a run."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU too, for good
        yield
