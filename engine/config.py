"""Configuration: YAML -> one nested dictionary -> frozen models, validated once, errors in one line."""

from __future__ import annotations

import datetime
import difflib
import json
import re
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from engine.errors import ConfigError

M = TypeVar("M", bound=BaseModel)


class Section(BaseModel):
    """A section of a YAML file: immutable, and strict about keys and types."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-3 and 300e6 as numbers (YAML 1.2) and refuses duplicate keys."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _mapping_without_duplicates(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not text", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)


def load_config(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A YAML file with its `extends:` bases merged in, then `key.sub=value` overrides.

    `extends` names one file or a list, relative to the file that says so; mappings merge, everything else is replaced.
    Raises ConfigError.
    """
    config = _load_with_bases(path, ())
    for override in overrides:
        _override(config, override, str(path))
    return config


def _load_with_bases(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    resolved = path.resolve()
    if resolved in above:
        raise ConfigError(f"{path}: extends: the file extends itself through {above[-1].name}; remove one of the two")
    own = _parse(path)
    bases = own.pop("extends", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{path}: extends: got {bases!r}, expected a file name or a list of them")
    merged: dict[str, Any] = {}
    for base in bases:
        merged = _merged(merged, _load_with_bases(path.parent / base, (*above, resolved)))
    return _merged(merged, own)


def _parse(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; expected a YAML file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; expected a YAML file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text; expected a YAML file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        data = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{place}: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    if not isinstance(data, dict):
        found = "nothing" if data is None else f"a {type(data).__name__}"
        raise ConfigError(f"{path}: found {found}, expected a mapping of sections")
    return data


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _override(config: dict[str, Any], override: str, source: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise ConfigError(f"override '{override}': expected key=value with a dotted key, e.g. search.epochs=10")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        raise ConfigError(f"override '{override}': '{text}' is not a YAML value") from None
    here: Any = config
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if isinstance(here, list):
            if not part.isdigit() or int(part) >= len(here):
                where = ".".join(parts[:i])
                raise ConfigError(f"override '{override}': {where} is a list of {len(here)}, got '{part}' as its index")
            if last:
                here[int(part)] = value
            else:
                here = here[int(part)]
        elif isinstance(here, dict):
            if last:
                here[part] = value
            else:
                here = here.setdefault(part, {})
        else:
            raise ConfigError(
                f"override '{override}': {'.'.join(parts[:i])} in {source} is a single value, not a section"
            )


def validate(model: type[M], data: dict[str, Any], source: str) -> M:
    """Check a nested dictionary against a model. ConfigError with the first error in one line; `source` begins it."""
    try:
        text = json.dumps(data, default=_as_text)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{source}: {error}") from None
    try:
        return model.model_validate_json(text)  # JSON mode: lists become tuples, text becomes paths, "3" stays text
    except ValidationError as error:
        errors = error.errors()
        more = f" (+{len(errors) - 1} more)" if len(errors) > 1 else ""
        raise ConfigError(f"{source}: {_explained(model, data, errors[0])}{more}") from None


def _as_text(value: object) -> str:
    if isinstance(value, datetime.date):  # YAML reads 2026-01-31 as a date
        return value.isoformat()
    raise TypeError(f"a value of type {type(value).__name__} cannot be used in a configuration")


def _explained(model: type[BaseModel], data: object, error: Any) -> str:
    """One pydantic error in words: key, what was found, what is accepted, the nearest name."""
    keys = _keys_in(data, error["loc"])
    where = ".".join(map(str, keys)) or "the file"
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        accepted = sorted(_accepted_keys(model, keys[:-1]))
        return f"{where}: unknown key; accepted here: {', '.join(accepted)}{_nearest(str(keys[-1]), accepted)}"
    if kind == "missing":
        return f"{where}: is missing{_type_hint(error)}"
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        return (
            f"{where}: got {error['input']!r}, expected {context['expected']}{_nearest(str(error['input']), choices)}"
        )
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag = context["discriminator"].strip("'")
        choices = re.findall(r"'([^']*)'", context.get("expected_tags", ""))
        found = context.get("tag")
        expected = f"expected {', '.join(choices)}" if choices else "it says which kind this is"
        return (
            f"{where}.{tag}: {f'got {found!r}' if found else 'is missing'}, {expected}{_nearest(str(found), choices)}"
        )
    if kind == "value_error":
        return f"{where}: {context['error']!s}"
    message = error["msg"].replace("Input should be", "expected")
    return f"{where}: got {_shown(error['input'])}, {message[0].lower()}{message[1:]}"


def _type_hint(error: Any) -> str:
    inside = error["input"]
    return f"; this section has {', '.join(map(str, inside)) or 'nothing'}" if isinstance(inside, dict) else ""


def _shown(value: object) -> str:
    text = repr(value)
    return f"{text[:57]}..." if len(text) > 60 else text


def _nearest(found: str, accepted: Sequence[str]) -> str:
    near = difflib.get_close_matches(found, accepted, n=1)
    return f". Did you mean '{near[0]}'?" if near else ""


def _keys_in(data: object, loc: Sequence[int | str]) -> list[int | str]:
    """A pydantic location without the names of union branches, which are no keys of the file."""
    keys: list[int | str] = []
    for i, part in enumerate(loc):
        last = i == len(loc) - 1
        if isinstance(data, dict) and (part in data or (last and isinstance(part, str) and part.isidentifier())):
            keys.append(part)
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            keys.append(part)
            data = data[part]
    return keys


def _accepted_keys(model: type[BaseModel], keys: Sequence[int | str]) -> set[str]:
    """The field names of the section at `keys`; all branches of a union count."""
    models = {model}
    for key in keys:
        fields = [m.model_fields[key].annotation for m in models if isinstance(key, str) and key in m.model_fields]
        if fields:
            models = {inner for field in fields for inner in _models_in(field)}
    return {name for m in models for name in m.model_fields}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if (
        isinstance(annotation, type)
        and issubclass(annotation, BaseModel)
        and not isinstance(annotation, types.GenericAlias)
    ):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """`key: old -> new` for every value that differs between two nested structures."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        lines = []
        for key in keys:
            lines += differences(old.get(key, "(absent)"), new.get(key, "(absent)"), f"{prefix}{key}.")
        return lines
    if isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for i, (a, b) in pairs for line in differences(a, b, f"{prefix}{i}.")]
    return [] if old == new else [f"{prefix.rstrip('.')}: {_shown(old)} -> {_shown(new)}"]
