"""Tells to which layer of the network each operation of a file belongs, so that a runtime's profile can be read.

The names of a file's operations begin with `L<position>.`, as those of a latency table's networks do
(`bench.layer_times` reads them): position i is the i-th of `GraphLayers.places`.
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
_LANDMARKS = ("conv2d", "linear", "mean")
"""Operations of torch that every converter writes as one operation, in the same order."""
LANDMARKS = ("Conv", "Gemm", "MatMul", "ReduceMean", "Convolution", "GroupConvolution")
"""Their types in ONNX and OpenVINO."""


@dataclass(frozen=True)
class GraphLayers:
    """The layers of a graph that have operations of their own."""

    places: tuple[str, ...] = ()
    """The name of each layer's place, as `Design.places` has it, in the order in which they run."""
    landmarks: tuple[int, ...] = ()
    """The position of each convolution, matrix product and mean, in the order in which they run."""

    def positions(self, types: Iterable[str]) -> Iterator[int]:
        """Yields the position of the layer of each operation of a file, whose types are given in the order in which
        they run. An operation that is no landmark belongs to the layer of the one before it. Yields nothing if the file
        has another number of landmarks than torch's graph, since then nothing is known of its layers."""
        types = list(types)
        if sum(kind in LANDMARKS for kind in types) != len(self.landmarks):
            return
        coming, position = iter(self.landmarks), 0
        for kind in types:
            position = next(coming) if kind in LANDMARKS else position
            yield position


def layers_of(graph: ExportedProgram, design: Design) -> GraphLayers:
    """Returns the layers of a graph of `export.program.Deployed`, whose `network` has this design."""
    edges = {f"edges.{i}": place for i, (place, _) in enumerate(design.places[1:-2])}
    names: dict[str, str] = {"stem": "stem", **edges, "feature_mix": "feature_mix", "classifier": "classifier"}
    positions: dict[str, int] = {}
    landmarks = []
    for node in graph.graph.nodes:
        part = _part(node)
        if part is not None:
            position = positions.setdefault(part, len(positions))
            if str(node.target).removeprefix("aten.").partition(".")[0] in _LANDMARKS:
                landmarks.append(position)
    return GraphLayers(tuple(names[part] for part in positions), tuple(landmarks))


def _part(node: fx.Node) -> str | None:
    """Returns the part of the network, such as `edges.3`, that computes a node; None if none does."""
    modules = [str(module) for module, _ in node.meta.get("nn_module_stack", {}).values()]
    matches = [match for match in map(_PART.match, modules) if match]
    return matches[0][1] if node.op == "call_function" and matches else None


def layer_name(position: int, name: str) -> str:
    """Returns the name of an operation of the layer at a position."""
    return f"L{position:02}.{name}"
