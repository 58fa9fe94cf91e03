"""Defines the plain network of a design: of an architecture, or of a chain of layers."""

from __future__ import annotations

from torch import Tensor

from supernet.architecture import Architecture
from supernet.blocks import Block, Skeleton, init_weights, isolated_rng
from supernet.design import Design
from supernet.errors import InvalidError
from supernet.supernet import Supernet

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class Network(Skeleton):
    """The network of a design: (N, C, H, W) -> logits (N, classes). Its weights are fresh, drawn from `seed`.

    `class_names` has the name of class i at position i, or is None if nobody has set it.
    """

    def __init__(self, architecture: Design, *, seed: int = 0):
        if not isinstance(architecture, Design):
            found = f"got a value of type {type(architecture).__name__}"
            remedy = "Architecture.from_json reads one from the text of an architecture.json"
            raise InvalidError("architecture", found, "an Architecture or a Chain", remedy)
        settings = architecture.op_settings
        stem, *edges, feature_mix, classifier = architecture.layers
        with isolated_rng(seed):
            ends = (stem, feature_mix, classifier)
            super().__init__(ends, (Block(layer, settings) for layer in edges), settings)
            init_weights(self)
        self.architecture = architecture
        self.class_names: tuple[str, ...] | None = None

    @property
    def reading_names(self) -> dict[str, str]:
        """A readable name for each edge's module, grouped by stage: {"edges.3": "stage1/0.mbconv_k3_e6"}."""
        edges = self.architecture.places[1:-2]
        return {f"edges.{i}": f"{place.replace('.', '/')}.{layer.spec}" for i, (place, layer) in enumerate(edges)}

    def forward(self, images: Tensor) -> Tensor:
        """images (N, C, H, W) -> logits (N, classes)."""
        x = self.stem(images)
        for edge in self.edges:
            x = edge(x)
        logits: Tensor = self.classifier(self.feature_mix(x))
        return logits

    @classmethod
    def inherit(cls, supernet: Supernet, architecture: Architecture) -> Network:
        """Returns the derived network with copies of the supernet's weights, on the supernet's device.

        Its BN statistics are fresh and must be collected before it is evaluated (engine.evaluation.recalibrate_bn).
        Raises InvalidError if the architecture is not of the supernet's space.
        """
        if architecture.space != supernet.space:
            raise InvalidError("", "the architecture's space is not the supernet's")
        network = cls(architecture)
        first = next(supernet.parameters())
        network.to(device=first.device, dtype=first.dtype)
        source = supernet.state_dict()
        remaining = iter(architecture.paths)
        chosen = [next(remaining) if edge.searchable else 0 for edge in supernet.space.edges]
        state = network.state_dict()
        for name, value in state.items():
            if not name.endswith(_STATISTICS):
                value.copy_(source[_name_in_supernet(name, chosen)])
        return network


def _name_in_supernet(name: str, chosen: list[int]) -> str:
    """Returns a weight's name in the supernet: `edges.3.op.conv.weight` is `edges.3.ops.<path of edge 3>.conv.weight`.

    chosen: the candidate of each edge.
    """
    if not name.startswith("edges."):
        return name
    _, e, _, rest = name.split(".", 3)
    return f"edges.{e}.ops.{chosen[int(e)]}.{rest}"
