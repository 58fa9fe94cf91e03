"""Tells to which layer of the network each operation of a file belongs, so that a runtime's profile can be read.

The names of a file's operations begin with `L<position>.`, as those of a latency table's networks do
(`latency.on_device.models.layer_times` reads them): position i is the i-th of `GraphLayers.places`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import fx
    from torch.export import ExportedProgram

    from supernet.design import Design

_PART = re.compile(r"network\.(stem|edges\.\d+|feature_mix|classifier)")
_WEIGHTED = ("conv2d", "linear")
"""Operations of torch that every converter writes as one operation with weights, in the same order."""
_POOLS = ("mean", "adaptive_avg_pool2d")
WEIGHTED = ("Conv", "Gemm", "MatMul", "Convolution", "GroupConvolution")
"""The types of the former in ONNX and OpenVINO."""
POOLS = ("ReduceMean", "GlobalAveragePool")
WARMUP = 10
"""The passes before those whose layers are timed."""


@dataclass(frozen=True)
class GraphLayers:
    """The layers of a graph that have operations of their own."""

    places: tuple[str, ...] = ()
    """The name of each layer's place, as `Design.places` has it, in the order in which they run."""
    weighted: tuple[int, ...] = ()
    """The position of each convolution and matrix product, in the order in which they run."""
    pools: tuple[int, ...] = ()
    """The position of each mean over pixels."""

    def positions(self, types: Iterable[str]) -> Iterator[int]:
        """Yields the position of the layer of each operation of a file, whose types are given in the order in which
        they run. Convolutions, matrix products and means are landmarks; another operation belongs to the layer of the
        one before it. Means are no landmarks if the file has another number of them than torch's graph; if it has
        another number of the others, nothing is known of its layers, and nothing is yielded."""
        types = list(types)
        if sum(kind in WEIGHTED for kind in types) != len(self.weighted):
            return
        pools_too = sum(kind in POOLS for kind in types) == len(self.pools)
        weighted, pools, position = iter(self.weighted), iter(self.pools), 0
        for kind in types:
            if kind in WEIGHTED:
                position = next(weighted)
            elif kind in POOLS and pools_too:
                position = next(pools)
            yield position


def layers_of(graph: ExportedProgram, design: Design) -> GraphLayers:
    """Returns the layers of a graph of `export.program.Deployed`, whose `network` has this design."""
    edges = {f"edges.{i}": place for i, (place, _) in enumerate(design.places[1:-2])}
    names: dict[str, str] = {"stem": "stem", **edges, "feature_mix": "feature_mix", "classifier": "classifier"}
    positions: dict[str, int] = {}
    weighted, pools = [], []
    for node in graph.graph.nodes:
        part = _part(node)
        if part is not None:
            position = positions.setdefault(part, len(positions))
            kind = str(node.target).removeprefix("aten.").partition(".")[0]
            if kind in _WEIGHTED:
                weighted.append(position)
            elif kind in _POOLS:
                pools.append(position)
    return GraphLayers(tuple(names[part] for part in positions), tuple(weighted), tuple(pools))


def _part(node: fx.Node) -> str | None:
    """Returns the part of the network, such as `edges.3`, that computes a node; None if none does."""
    modules = [str(module) for module, _ in node.meta.get("nn_module_stack", {}).values()]
    matches = [match for match in map(_PART.match, modules) if match]
    return matches[0][1] if node.op == "call_function" and matches else None


def layer_name(position: int, name: str) -> str:
    """Returns the name of an operation of the layer at a position."""
    return f"L{position:02}.{name}"
