"""Prints every key of the YAML files as Markdown:  python docs/tools/keys.py [KEY ...]

Types, bounds, defaults and meanings are those of the models that check the files, so nothing here is written twice.
With KEY (`search.regression`, `limits`) it prints the tables of these sections alone.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

BOUNDS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}", "min_length": "≥ {} entries",
          "max_length": "≤ {} entries"}  # fmt: skip
NAMES = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path", type(None): "null"}


@dataclass(frozen=True)
class Section:
    """A table of the reference: the keys of one model at one place of the files."""

    key: str
    """Its place, such as `search.regression`; an entry of a list is `limits[]`."""
    model: type[BaseModel]

    @property
    def heading(self) -> str:
        """The heading of its table, with the anchor that other tables link to."""
        form = self.model.model_fields.get("form")
        which = f" with form {_type(form.annotation)}" if form else ""
        return f"## `{self.key}`{which} {{#{self.model.__name__}}}"

    @property
    def rows(self) -> list[tuple[str, str, str, str]]:
        """For each key its name, what it accepts, its default and its meaning."""
        return [
            (name, accepted(field), default_of(field), meaning_of(field))
            for name, field in self.model.model_fields.items()
            if name != "form"  # the heading has it
        ]


def files() -> dict[str, type[BaseModel]]:
    """Returns the model of each kind of file. (Importing them takes seconds, so this is done when it is needed.)"""
    from latency.config import LatencyConfig
    from proxyless_nas.shipping.config import ShipConfig
    from retrain.config import RetrainConfig
    from search.config import SearchConfig

    return {"search": SearchConfig, "latency": LatencyConfig, "retrain": RetrainConfig, "ship": ShipConfig}


def sections(models: Mapping[str, type[BaseModel]]) -> list[Section]:
    """Returns the sections of the files in the order of their keys, one for each model, at its first place."""
    found: dict[type[BaseModel], Section] = {}
    for model in models.values():
        for name, field in model.model_fields.items():
            for section in _below(name, field.annotation):
                found.setdefault(section.model, section)
    return list(found.values())


def _below(key: str, annotation: Any) -> Iterator[Section]:
    """Yields the sections that a key with this type holds, and those within them."""
    if _is_file(annotation):  # it has a place of its own in the reference
        return
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield Section(key, annotation)
        for name, field in annotation.model_fields.items():
            yield from _below(f"{key}.{name}", field.annotation)
        return
    several = get_origin(annotation) in (tuple, list)
    for part in get_args(annotation):
        yield from _below(f"{key}[]" if several else key, part)


def _is_file(annotation: Any) -> bool:
    """Returns whether a type is the model of a whole file, which a key of another file may hold."""
    from engine.config import ConfigFile

    return isinstance(annotation, type) and issubclass(annotation, ConfigFile)


def accepted(field: FieldInfo) -> str:
    """Returns the type of a key and its bounds."""
    return _with_bounds(_type(field.annotation), field.metadata)


def _type(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _with_bounds(_type(parts[0]), _flat(parts[1:]))
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(part) for part in parts))
    if origin in (tuple, list):
        inner = [_type(part) for part in parts if part is not Ellipsis]
        return f"list: {inner[0]}" if len(set(inner)) == 1 else f"[{', '.join(inner)}]"
    if _is_file(annotation):
        return "a whole file, by its name or with changes"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        form = annotation.model_fields.get("form")
        name = f"form {_type(form.annotation)}" if form else "section"
        return f"[{name}](#{annotation.__name__})"
    return NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _flat(metadata: Any) -> list[Any]:
    """Returns the bounds in metadata, those within a Field included."""
    return [bound for part in metadata for bound in (part.metadata if isinstance(part, FieldInfo) else [part])]


def _with_bounds(text: str, metadata: list[Any]) -> str:
    bounds = [
        words.format(_number(getattr(part, name)))
        for part in metadata
        for name, words in BOUNDS.items()
        if getattr(part, name, None) is not None
    ]
    return f"{text}, {', '.join(bounds)}" if bounds else text


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def default_of(field: FieldInfo) -> str:
    """Returns the default as YAML writes it; 'required' if there is none."""
    if field.default is PydanticUndefined:
        return "**required**"
    return _written(field.default)


def _written(value: Any) -> str:
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, tuple | list):
        return f"`[{', '.join(_written(part).strip('`') for part in value)}]`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def meaning_of(field: FieldInfo) -> str:
    """Returns the docstring of a key in one line; '' if it has none."""
    return " ".join((field.description or "").split())


def markdown(chosen: list[Section]) -> str:
    """Returns a heading and a table for each section."""
    return "\n".join(line for section in chosen for line in _table(section))


def _table(section: Section) -> Iterator[str]:
    yield section.heading
    yield ""
    if doc := section.model.__doc__:
        yield " ".join(doc.split()).replace("|", "\\|")
        yield ""
    if section.rows:
        yield "| key | accepts | default | meaning |"
        yield "|---|---|---|---|"
    for name, *cells in section.rows:
        safe = (cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells)
        yield f"| `{name}` | {' | '.join(safe)} |"
    yield ""


def main() -> None:
    found = sections(files())
    if wanted := sys.argv[1:]:
        found = [s for s in found if any(s.key == w or s.key.startswith((f"{w}.", f"{w}[]")) for w in wanted)]
        if not found:
            sys.exit(f"error: no section {' or '.join(wanted)}, expected {', '.join(s.key for s in sections(files()))}")
    sys.stdout.write(markdown(found))


if __name__ == "__main__":
    main()
