"""Defines an architecture, the immutable choice of one candidate per edge, and its file `architecture.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from supernet.complexity import Complexity
from supernet.errors import InvalidError
from supernet.module_names import portable
from supernet.space import Layer, Space, SpaceConfig
from supernet.summary import NO_CONSTANTS, NO_COSTS, as_text, table_of

FORMAT = "proxylessnas/architecture@1"
_TOO_DEEP = "has too many brackets inside each other"
_KEYS = {"format", "name", "space", "paths", "complexity", "predicted"}


@dataclass(frozen=True)
class Architecture:
    """One candidate for each edge of a space. Raises InvalidError if the paths do not fit the space."""

    space: Space
    paths: tuple[int, ...]
    """One candidate index per searchable edge."""
    name: str = "unnamed"

    def __post_init__(self) -> None:
        self.space.check_paths(self.paths)

    def __repr__(self) -> str:
        return f"Architecture({self.name!r}: {' '.join(self.names)})"

    @classmethod
    def from_names(cls, space: Space, names: Sequence[str], name: str = "unnamed") -> Architecture:
        """Returns the architecture with these candidates, one per edge, fixed edges included. Raises InvalidError if an
        edge has no such candidate."""
        if len(names) != len(space.edges):
            raise InvalidError(
                "paths", f"got {len(names)} names", f"{len(space.edges)}, one for each edge of the space"
            )
        for edge, candidate in zip(space.edges, names, strict=True):
            if candidate not in edge.candidates:
                found = f"edge {edge.name} has no candidate '{candidate}'"
                raise InvalidError("paths", found, ", ".join(edge.candidates))
        pairs = zip(space.edges, names, strict=True)
        return cls(space, tuple(edge.candidates.index(n) for edge, n in pairs if edge.searchable), name)

    @property
    def names(self) -> tuple[str, ...]:
        """The candidate of each edge, fixed edges included."""
        return tuple(str(layer.spec) for layer in self.space.edge_layers(self.paths))

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer, stem and head included."""
        return self.space.layers(self.paths)

    @property
    def complexity(self) -> Complexity:
        """Parameters and MACs of the network."""
        return self.space.complexity(self.paths)

    def summary(
        self, costs: Mapping[str, Sequence[float]] = NO_COSTS, constants: Mapping[str, float] = NO_CONSTANTS
    ) -> str:
        """Returns a table to print: each layer's op, channels, input size, stride, params and MACs, and the sum.

        costs: further columns, with a number for each of `layers`. constants: the number that is added once per network
        to a column.
        """
        return as_text(table_of(self, costs, constants))

    def to_json(self, predicted: Sequence[Mapping[str, Any]] = ()) -> str:
        """Returns the text of architecture.json.

        predicted: a record for each limit, with its metric, its value and unit, and the latency table that it is from.
        """
        c = self.complexity
        space = self.space.config
        record = {
            "format": FORMAT,
            "name": self.name,
            "paths": list(self.names),
            "complexity": {"params": c.params, "macs": c.macs},
            "predicted": [dict(p) for p in predicted],
            "space": space.model_dump(mode="json") | {"candidate_modules": list(portable(space.candidate_modules))},
        }
        return json.dumps(record, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, allow_modules: Collection[str] = ()) -> Architecture:
        """Returns the architecture that the text of an architecture.json describes.

        allow_modules: the modules of candidates that the text may import beside those that are imported already; see
        `supernet.module_names.permitted`. Raises InvalidError, which names the wrong key.
        """
        record = _parsed(text)
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            found = record.get("format") if isinstance(record, dict) else type(record).__name__
            raise InvalidError("format", f"got {found!r}", f"'{FORMAT}'")
        if unknown := sorted(record.keys() - _KEYS):
            raise InvalidError("", f"unknown key '{unknown[0]}'", ", ".join(sorted(_KEYS)))
        for key in ("space", "paths"):
            if key not in record:
                raise InvalidError("", f"'{key}' is missing", remedy="derive the architecture again")
        if not isinstance(record.get("name", ""), str):
            raise InvalidError("name", f"got {record['name']!r}", "text")
        names = record["paths"]
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise InvalidError("paths", expected="a list of candidate names, one per edge")
        try:
            text = json.dumps(record["space"])
            config = SpaceConfig.model_validate_json(text, context={"allow_modules": allow_modules})
        except RecursionError:
            raise InvalidError("space", _TOO_DEEP) from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(["space", *map(str, first["loc"])])
            cause = first.get("ctx", {}).get("error")  # of our own validators; pydantic's errors have a text alone
            raise InvalidError.of(cause if isinstance(cause, ValueError) else ValueError(first["msg"]), where) from None
        architecture = cls.from_names(Space(config), names, record.get("name", "unnamed"))
        c = architecture.complexity
        stated = record.get("complexity", {"params": c.params, "macs": c.macs})
        if stated != {"params": c.params, "macs": c.macs}:
            raise InvalidError(
                "complexity",
                f"the file states {stated}, its paths compute to params {c.params}, macs {c.macs}",
                remedy="the file was edited or the catalogue changed, derive it again",
            )
        return architecture


def _parsed(text: str) -> Any:
    """Returns the value of a JSON text. Raises InvalidError if it is no JSON, or has a number that is not finite, or a
    key that is given twice."""

    def finite(written: str) -> float:
        if not math.isfinite(number := float(written)):
            raise InvalidError("", f"{written} is not a finite number")
        return number

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record: dict[str, Any] = {}
        for key, value in pairs:
            if key in record:
                raise InvalidError("", f"key '{key}' is given twice")
            record[key] = value
        return record

    try:
        return json.loads(text, parse_float=finite, parse_constant=finite, object_pairs_hook=once)
    except RecursionError:
        raise InvalidError("", _TOO_DEEP) from None
    except ValueError as error:
        raise InvalidError("", f"not JSON: {error}") from None
