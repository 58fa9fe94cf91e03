"""Defines a design: a network described layer by layer, without weights.

It is a choice in a search space (supernet/architecture.py), or a chain of explicit layers (supernet/chain.py), such as
a published network that is in no space. Whatever needs layers, shapes and costs alone takes either.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

from supernet.complexity import Complexity
from supernet.errors import InvalidError
from supernet.ops import OpSettings
from supernet.space import Layer
from supernet.summary import NO_CONSTANTS, NO_COSTS, as_text, table_of


class Design(ABC):
    """A network described layer by layer: a stem, edges, a feature mix and a classifier, in this order."""

    name: str

    @property
    @abstractmethod
    def places(self) -> tuple[tuple[str, Layer], ...]:
        """Every layer with the name of its place: `stem`, the edges, `feature_mix`, `classifier`."""

    @property
    @abstractmethod
    def op_settings(self) -> OpSettings:
        """The settings that all its ops share."""

    @property
    @abstractmethod
    def candidate_modules(self) -> tuple[str, ...]:
        """The user's modules that have registered its candidates."""

    @abstractmethod
    def to_json(self, predicted: Sequence[Mapping[str, Any]] = ()) -> str:
        """Returns the text of architecture.json. predicted: as in `Architecture.to_json`."""

    @abstractmethod
    def with_classes(self, classes: int) -> Self:
        """Returns the same network with a classifier of so many classes."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer, stem and head included."""
        return tuple(layer for _, layer in self.places)

    @property
    def names(self) -> tuple[str, ...]:
        """The op of each edge, fixed edges included."""
        return tuple(str(layer.spec) for layer in self.layers[1:-2])

    @property
    def complexity(self) -> Complexity:
        """Parameters and MACs of the network."""
        return sum((layer.complexity for layer in self.layers), Complexity())

    @property
    def input_size(self) -> int:
        """Height and width of the input in pixels."""
        return self.layers[0].size

    @property
    def input_channels(self) -> int:
        """Channels of the images."""
        return self.layers[0].c_in

    @property
    def classes(self) -> int:
        """The number of classes."""
        return self.layers[-1].c_out

    def summary(
        self, costs: Mapping[str, Sequence[float]] = NO_COSTS, constants: Mapping[str, float] = NO_CONSTANTS
    ) -> str:
        """Returns a table to print: each layer's op, channels, input size, stride, params and MACs, and the sum.

        costs: further columns, with a number for each of `layers`. constants: the number that is added once per network
        to a column.
        """
        return as_text(table_of(self, costs, constants))


def check_complexity(record: Mapping[str, Any], design: Design, source: str, remedy: str) -> None:
    """Raises InvalidError if the key `complexity` of an architecture.json states another size than the design has.

    source: the key that determines the size. remedy: what to do.
    """
    c = design.complexity
    stated = record.get("complexity", {"params": c.params, "macs": c.macs})
    if stated != {"params": c.params, "macs": c.macs}:
        raise InvalidError(
            "complexity",
            f"the file states {stated}, its {source} compute to params {c.params}, macs {c.macs}",
            remedy=remedy,
        )
