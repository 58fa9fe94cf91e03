"""Defines an architecture, the immutable choice of one candidate per edge, and its file `architecture.json`."""

from __future__ import annotations

import json
import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from supernet.design import Design, check_complexity
from supernet.errors import InvalidError
from supernet.json_text import TOO_DEEP, of_validation, parsed_design
from supernet.module_names import portable
from supernet.ops import OpSettings
from supernet.space import Layer, Space, SpaceConfig

FORMAT = "proxylessnas/architecture@1"
_KEYS = {"format", "name", "space", "paths", "complexity", "predicted"}


@dataclass(frozen=True)
class Architecture(Design):
    """One candidate for each edge of a space. Raises InvalidError if the paths do not fit the space."""

    space: Space
    paths: tuple[int, ...]
    """One candidate index per searchable edge."""
    name: str = "unnamed"

    def __post_init__(self) -> None:
        if not isinstance(self.space, Space):
            raise InvalidError("space", f"got a value of type {type(self.space).__name__}", "a Space")
        object.__setattr__(self, "paths", _whole_numbers(self.paths))
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

    @cached_property
    def places(self) -> tuple[tuple[str, Layer], ...]:
        stem, *edges, feature_mix, classifier = self.space.layers(self.paths)
        named = ((edge.name, layer) for edge, layer in zip(self.space.edges, edges, strict=True))
        return (("stem", stem), *named, ("feature_mix", feature_mix), ("classifier", classifier))

    @property
    def op_settings(self) -> OpSettings:
        return self.space.op_settings(running_stats=True)

    @property
    def candidate_modules(self) -> tuple[str, ...]:
        return self.space.config.candidate_modules

    def with_classes(self, classes: int) -> Architecture:
        """Returns the same choice in the same space for so many classes."""
        return replace(self, space=Space(self.space.config.model_copy(update={"classes": classes})))

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
        record = parsed_design(text, FORMAT, _KEYS)
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
            raise InvalidError("space", TOO_DEEP) from None
        except ValidationError as error:
            raise of_validation(error, "space") from None
        architecture = cls.from_names(Space(config), names, record.get("name", "unnamed"))
        check_complexity(record, architecture, "paths", "the file was edited or the catalogue changed, derive it again")
        return architecture


def _whole_numbers(paths: Any) -> tuple[int, ...]:
    """Returns the paths, which may be any sequence or tensor of whole numbers, as a tuple that compares and hashes."""
    try:
        return tuple(map(operator.index, paths))
    except TypeError:
        found = f"got {' '.join(repr(paths).split())[:80]}"
        remedy = "Architecture.from_names takes the candidates' names"
        raise InvalidError("paths", found, "a whole number for each searchable edge", remedy) from None
