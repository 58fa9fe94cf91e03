"""An architecture: the immutable choice of one candidate per edge, and its file `architecture.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from supernet.complexity import Complexity
from supernet.space import Layer, Space, SpaceConfig
from supernet.summary import NO_CONSTANTS, NO_COSTS, as_text, table_of

FORMAT = "proxylessnas/architecture@1"
_KEYS = {"format", "name", "space", "paths", "complexity", "predicted"}


@dataclass(frozen=True)
class Architecture:
    """`paths`: one candidate index per searchable edge. Raises ValueError if they do not fit the space."""

    space: Space
    paths: tuple[int, ...]
    name: str = "unnamed"

    def __post_init__(self) -> None:
        self.space.check_paths(self.paths)

    def __repr__(self) -> str:
        return f"Architecture({self.name!r}: {' '.join(self.names)})"

    @classmethod
    def from_names(cls, space: Space, names: Sequence[str], name: str = "unnamed") -> Architecture:
        """`names`: one candidate per edge, fixed edges included. Raises ValueError on a name that an edge lacks."""
        if len(names) != len(space.edges):
            raise ValueError(
                f"paths: got {len(names)} names, expected {len(space.edges)}, one for each edge of the space"
            )
        for edge, candidate in zip(space.edges, names, strict=True):
            if candidate not in edge.candidates:
                raise ValueError(
                    f"paths: edge {edge.name} has no candidate '{candidate}', expected {', '.join(edge.candidates)}"
                )
        pairs = zip(space.edges, names, strict=True)
        return cls(space, tuple(edge.candidates.index(n) for edge, n in pairs if edge.searchable), name)

    @property
    def names(self) -> tuple[str, ...]:
        """The candidate of each edge, fixed edges included."""
        return tuple(str(layer.spec) for layer in self.space.edge_layers(self.paths))

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.space.layers(self.paths)

    @property
    def complexity(self) -> Complexity:
        return self.space.complexity(self.paths)

    def summary(
        self, costs: Mapping[str, Sequence[float]] = NO_COSTS, constants: Mapping[str, float] = NO_CONSTANTS
    ) -> str:
        """A table to print: each layer's op, channels, input size, stride, params and MACs, and the sum.

        costs: further columns, a number for each of `layers`; constants: what a column has once per network.
        """
        return as_text(table_of(self, costs, constants))

    def to_json(self, predicted: Sequence[Mapping[str, Any]] = ()) -> str:
        """The text of architecture.json. predicted: what each limit's metric is, in whose table and which unit."""
        c = self.complexity
        record = {
            "format": FORMAT,
            "name": self.name,
            "paths": list(self.names),
            "complexity": {"params": c.params, "macs": c.macs},
            "predicted": [dict(p) for p in predicted],
            "space": self.space.config.model_dump(mode="json"),
        }
        return json.dumps(record, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Rebuild from the text of architecture.json. Raises ValueError saying which key is wrong."""
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"not JSON: {error}") from None
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            found = record.get("format") if isinstance(record, dict) else type(record).__name__
            raise ValueError(f"format: got {found!r}, expected '{FORMAT}'")
        if unknown := sorted(record.keys() - _KEYS):
            raise ValueError(f"unknown key '{unknown[0]}', expected {', '.join(sorted(_KEYS))}")
        for key in ("space", "paths"):
            if key not in record:
                raise ValueError(f"'{key}' is missing; derive the architecture again")
        if not isinstance(record.get("name", ""), str):
            raise ValueError(f"name: got {record['name']!r}, expected text")
        names = record["paths"]
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise ValueError("paths: expected a list of candidate names, one per edge")
        try:
            config = SpaceConfig.model_validate_json(json.dumps(record["space"]))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(["space", *map(str, first["loc"])])
            raise ValueError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None
        architecture = cls.from_names(Space(config), names, record.get("name", "unnamed"))
        c = architecture.complexity
        stated = record.get("complexity", {"params": c.params, "macs": c.macs})
        if stated != {"params": c.params, "macs": c.macs}:
            raise ValueError(
                f"complexity: the file states {stated}, its paths compute to params {c.params}, macs {c.macs}; "
                "the file was edited or the catalogue changed, derive it again"
            )
        return architecture
