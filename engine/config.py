"""Configuration: YAML -> one nested dictionary -> frozen models, validated once, errors in one line."""

from __future__ import annotations

import copy
import datetime
import itertools
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from engine.errors import ConfigError
from engine.wording import ABSENT, first_in_words, keys_below, shown
from engine.yaml_dialect import Dumper, Loader

M = TypeVar("M", bound=BaseModel)


class Section(BaseModel):
    """A section of a YAML file: immutable, and strict about keys and types."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def config_text(config: BaseModel | dict[str, Any]) -> str:
    """A configuration as YAML; `load_config` reads the same values from it, paths as text and tuples as lists."""
    values = config.model_dump(mode="json") if isinstance(config, BaseModel) else config
    return yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110)


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
    own = _parse(path, above[-1] if above else None)
    bases = own.pop("extends", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) and base.strip("\0 ") for base in bases):
        raise ConfigError(f"{path}: extends: got {shown(bases)}, expected a file name or a list of them")
    merged: dict[str, Any] = {}
    for base in bases:
        merged = _merged(merged, _load_with_bases(path.parent / base, (*above, resolved)))
    return _merged(merged, own)


def _parse(path: Path, extended_by: Path | None) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        role = f"the file that {extended_by.name} extends" if extended_by else "a YAML file"
        raise ConfigError(f"{path}: no such file; expected {role}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; expected a YAML file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text; expected a YAML file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        data = yaml.load(text, Loader=Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{place}: {_syntax_error(error)}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    except RecursionError:  # PyYAML calls itself for each level
        raise ConfigError(f"{path}: has too many brackets or sections inside each other") from None
    if not isinstance(data, dict):
        found = "is empty" if data is None else f"got {shown(data)}"
        raise ConfigError(f"{path}: {found}, expected a mapping of sections such as `search: ...`")
    return data


def _syntax_error(error: yaml.MarkedYAMLError) -> str:
    words = error.problem or ""
    if error.context:
        start = error.context_mark
        words = f"{words} {error.context}{f' that begins in line {start.line + 1}' if start else ''}"
    if "\\t" in words:
        return f"{words}; indent with spaces"
    if isinstance(error, yaml.scanner.ScannerError | yaml.parser.ParserError):
        return f"{words}; check the indentation, colons, quotes and brackets before this place"
    return words


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _override(config: dict[str, Any], override: str, source: str) -> None:
    key, equals, text = override.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise ConfigError(f"override '{override}': expected key=value with a dotted key, e.g. search.epochs=10")
    try:
        value = yaml.load(text, Loader=Loader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
        raise ConfigError(f"override {shown(override, 200)}: {shown(text)} is not a YAML value") from None
    here: Any = config
    for i, part in enumerate(parts):
        where = ".".join(parts[:i])
        index: Any = part
        if isinstance(here, list):
            if not part.isdecimal() or int(part) >= len(here):
                count = f"a list of {len(here)}, counted from 0"
                raise ConfigError(f"override '{override}': {where} is {count}; got '{part}' as its index")
            index = int(part)
        elif not isinstance(here, dict):
            raise ConfigError(
                f"override '{override}': {where} in {source} is the single value {shown(here)}, not a section"
            )
        if i == len(parts) - 1:
            here[index] = value
            return
        below = here.get(part) if isinstance(here, dict) else here[index]
        # a copy, because YAML's aliases share sections; an absent or empty one begins here
        here[index] = below = {} if below is None else copy.copy(below)
        here = below


def validate(model: type[M], data: dict[str, Any], source: str, context: Mapping[str, Any] | None = None) -> M:
    """Check a nested dictionary against a model. ConfigError with the first error in one line; `source` begins it.

    context: what the model's validators are given beside the values, as pydantic's `info.context`.
    """
    try:
        text = json.dumps(data, default=_as_text, ensure_ascii=False).encode()  # ValueError for half a surrogate pair
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{source}: {error}") from None
    try:
        return model.model_validate_json(
            text, context=context
        )  # JSON mode: lists become tuples, text becomes paths, "3" stays text
    except ValidationError as error:
        raise ConfigError(f"{source}: {first_in_words(model, error.errors())}") from None


def keys_of(model: type[BaseModel]) -> frozenset[str]:
    """`section.key` for each key of each section of a file."""
    return frozenset(f"{section}.{key}" for section in model.model_fields for key in keys_below(model, section))


@contextmanager
def naming(source: Path, keys: Collection[str]) -> Iterator[None]:
    """Begin a ConfigError raised inside with `source` where it begins with one of the `keys` of that file.

    For what only shows when a setting is used, far from the file: data that is not there, a device that is not there.
    """
    try:
        yield
    except ConfigError as error:
        key = re.match(r"\w+\.\w+(?=[.:])", str(error))
        if key is None or key.group() not in keys:
            raise
        raise ConfigError(f"{source}: {error}") from error


def _as_text(value: object) -> str:
    if isinstance(value, datetime.date):  # YAML reads 2026-01-31 as a date
        return value.isoformat()
    raise TypeError(f"a value of type {type(value).__name__} cannot be used in a configuration")


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """`key: old -> new` for every value that differs between two nested structures."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        lines = []
        for key in keys:
            lines += differences(old.get(key, ABSENT), new.get(key, ABSENT), f"{prefix}{key}.")
        return lines
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        nested = any(isinstance(entry, dict | list | tuple) for entry in (*old, *new))
        if nested or len(old) == len(new):
            pairs = enumerate(itertools.zip_longest(old, new, fillvalue=ABSENT))
            return [line for i, (a, b) in pairs for line in differences(a, b, f"{prefix}{i}.")]
    return [] if old == new else [f"{prefix.rstrip('.')}: {shown(old, 200)} -> {shown(new, 200)}"]
