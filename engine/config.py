"""Reads YAML files into one nested dictionary, and validates it against frozen models; each error is one line."""

from __future__ import annotations

import copy
import itertools
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema

from engine.errors import ConfigError, InvalidError
from engine.files import as_path, as_texts, impossible_size, in_home, parsed_json, read_text
from engine.shipped import located
from engine.wording import ABSENT, first_in_words, keys_below, shown
from engine.yaml_dialect import MOST_CHARACTERS, MOST_NODES, TOO_DEEP, Dumper, Loader

M = TypeVar("M", bound=BaseModel)

MOST_FILES = 32
"""The most files of one configuration: itself and those that it extends, directly or through others."""
MOST_IN_AN_OVERRIDE = 30_000
"""The most characters of an override `key=value`; also the most values in it, with every alias written out."""
MOST_PARTS = 30
"""The most names in an override's key, which dots separate."""
IN_PYTHON = "the config"
"""The place in errors about a configuration that is no file."""
MOST_DIFFERENCES = 100
"""The most lines that `differences` returns."""


def _with_lists(schema: Any) -> Any:
    """Returns a pydantic schema in which a tuple may be given as a list from Python too, as in YAML and JSON.

    Other types stay strict. The schemas of models inside have been treated by their own classes. supernet/space.py has
    the same function, since neither package imports the other.
    """
    if isinstance(schema, list):
        return [_with_lists(inner) for inner in schema]
    if not isinstance(schema, dict) or schema.get("type") == "model":
        return schema
    inside = {key: _with_lists(value) for key, value in schema.items()}
    if inside.get("type") != "tuple":
        return inside
    given = core_schema.no_info_before_validator_function(lambda v: tuple(v) if isinstance(v, list) else v, inside)
    return core_schema.json_or_python_schema(json_schema=inside, python_schema=given)


class Section(BaseModel):
    """A section of a YAML file: immutable, and strict about keys and types."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Returns pydantic's schema of the model, in which a tuple may be given as a list."""
        schema = handler(source)
        model: Any = handler.resolve_ref_schema(schema)
        while model["type"] != "model":  # the model's own validators are around it
            model = model["schema"]
        model["schema"] = _with_lists(model["schema"])
        return schema


class ConfigFile(Section):
    """A whole YAML file."""

    @classmethod
    def read(cls, source: str | Path | Mapping[str, Any] | Self, overrides: Sequence[str] = ()) -> Self:
        """Returns the validated content of a file, after `overrides` (key.sub=value) have been applied.

        source: the path of the file, the name of one that comes with the package, what a file would hold, as nested
        dictionaries in which values may be models too, or a whole model. Raises ConfigError.
        """
        overrides = as_texts(overrides, "overrides")
        if isinstance(source, cls):
            if not overrides:
                return source
            source = dict(source)
        if isinstance(source, Mapping):
            content = extended(source)
            apply_overrides(content, overrides, IN_PYTHON)
            if _has_more_values(content, MOST_NODES):  # or holds itself
                raise ConfigError(IN_PYTHON, f"has more than {MOST_NODES} values with what it extends")
            with _in_words(cls, IN_PYTHON):
                return cls.model_validate(cls.part_of(content))
        if not isinstance(source, str | Path):
            raise ConfigError(IN_PYTHON, f"got {shown(source)}", f"a path, a dictionary or a {cls.__name__}")
        path = as_path(source, IN_PYTHON)
        return validate(cls, cls.part_of(load_config(path, overrides)), str(place_of(path)))

    @classmethod
    def part_of(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Returns the sections of a file that this model describes: all of them, unless a model says otherwise."""
        return content


def _user_path(path: Path) -> Path:
    """Returns the path with `~` replaced. Raises InvalidError if no file can have that name."""
    text = str(path)
    if "\0" in text:
        raise InvalidError("", f"got {shown(text)}", "a path without a NUL character", "correct it")
    if size := impossible_size(text):
        found = f"got {shown(text)}, a name of {size} bytes, which no file can have"
        raise InvalidError("", found, remedy="shorten it")
    try:
        return in_home(path)
    except ConfigError as error:
        raise InvalidError.of(error) from None


# Sections are strict, but a path is written as text: this one conversion is wanted.
UserPath = Annotated[Path, Field(strict=False), AfterValidator(_user_path)]
"""A path in a configuration: `~` is the home folder. A run's config.yaml records it in full."""


def config_text(config: BaseModel | dict[str, Any]) -> str:
    """Returns a configuration as YAML: paths as text, tuples as lists. `load_config` reads the same values from it."""
    values = config.model_dump(mode="json") if isinstance(config, BaseModel) else config
    return yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110)


def place_of(source: object) -> Path:
    """Returns the place of a configuration for messages: its file, or IN_PYTHON if it is none."""
    return located(Path(source)) if isinstance(source, str | Path) else Path(IN_PYTHON)


def load_config(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Reads a YAML or JSON file, merges its `extends:` bases in, then applies `key.sub=value` overrides.

    path: a file, or the name of a configuration that comes with the package (engine/shipped.py). `extends` names one
    such or a list, files relative to the file that holds it; mappings merge, everything else is replaced. Raises
    ConfigError.
    """
    path = located(path)
    config = _load_with_bases(path, (), _Loaded())
    apply_overrides(config, overrides, str(path))
    if _has_more_values(config, MOST_NODES):
        raise ConfigError(str(path), f"has more than {MOST_NODES} values with what it extends and the overrides")
    return config


def apply_overrides(config: dict[str, Any], overrides: Sequence[str], source: str) -> None:
    """Applies `key.sub=value` overrides to a nested dictionary, in place. Raises ConfigError, which names `source`."""
    for override in as_texts(overrides, "overrides"):
        _override(config, override, source)


def extended(content: Mapping[str, Any], source: Path = Path(IN_PYTHON)) -> dict[str, Any]:
    """Returns what a file of this content would hold after its `extends:` bases have been merged in.

    source: the file that the content is a part of, to which the paths of bases are relative; by default they are
    relative to the current folder. Values may be objects. Raises ConfigError.
    """
    return _with_bases(dict(content), source, (), _Loaded())


def read_mapping(path: Path, expected: str = "a YAML file", *, missing: str = "") -> dict[str, Any]:
    """Returns the content of one YAML or JSON file, without `extends`. Raises ConfigError if it is no mapping.

    The file's name does not matter: a text that is JSON is read as JSON, since YAML forbids its tabs. expected,
    missing: see engine.files.read_text.
    """
    return _mapping(path, read_text(path, expected, missing=missing))


@dataclass
class _Loaded:
    """The files of one configuration that have been read."""

    merged: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Each file with its bases merged in, by its real path."""
    characters: int = 0
    """The characters of all these files together."""


def _load_with_bases(path: Path, above: tuple[Path, ...], loaded: _Loaded) -> dict[str, Any]:
    """Returns a file with its bases merged in. above: the files that extend it, each through the next."""
    text = read_text(path, f"the file that {above[-1].name} extends" if above else "a YAML file")
    real = os.path.realpath(path)
    if real in map(os.path.realpath, above):
        where, found = f"{path}: extends", f"the file extends itself through {above[-1].name}"
        raise ConfigError(where, found, remedy="remove one of the two")
    if real in loaded.merged:
        return loaded.merged[real]
    loaded.characters += len(text)
    if loaded.characters > MOST_CHARACTERS and above:
        raise ConfigError(f"{path}: extends", f"the files have more than {MOST_CHARACTERS >> 20} MB together")
    if len(loaded.merged) + len(above) >= MOST_FILES:
        found = f"more than {MOST_FILES} files extend each other"
        raise ConfigError(f"{path}: extends", found, remedy="merge some of them")
    loaded.merged[real] = _with_bases(_mapping(path, text), path, above, loaded)
    return loaded.merged[real]


def _with_bases(own: dict[str, Any], path: Path, above: tuple[Path, ...], loaded: _Loaded) -> dict[str, Any]:
    """Returns the content `own` of the file `path`, merged into that of the files that it extends."""
    bases = own.pop("extends", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) and base.strip() for base in bases):
        raise ConfigError(f"{path}: extends", f"got {shown(bases)}", "a file name or a list of them")
    merged: dict[str, Any] = {}
    for base in reversed(dict.fromkeys(reversed(bases))):  # if a file is named twice, the last place counts
        try:
            file = located(in_home(Path(base)), path.parent)
        except ConfigError as error:
            raise error.within(f"{path}: extends") from None
        merged = _merged(merged, _load_with_bases(file, (*above, path), loaded))
    return _merged(merged, own)


def _mapping(path: Path, text: str) -> dict[str, Any]:
    """Returns the value of a file's text. Raises ConfigError if it is no mapping."""
    data = _parsed(path, text)
    if not isinstance(data, dict):
        found = "is empty" if data is None else f"got {shown(data)}"
        raise ConfigError(str(path), found, "a mapping of sections such as `search: ...`")
    return data


def _parsed(path: Path, text: str) -> Any:
    """Returns the value of a file's text, which is JSON or YAML. Raises ConfigError if it is neither."""
    not_json = None
    if text.lstrip()[:1] in ("{", "["):
        try:
            return parsed_json(text, str(path))
        except ConfigError as error:
            not_json = error
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        if not_json and (len(text) > MOST_CHARACTERS or "\t" in text):  # it is broken JSON rather than YAML
            raise not_json from None
        if not isinstance(error, yaml.MarkedYAMLError):
            raise ConfigError(str(path), f"not YAML: {error}") from None
        mark = error.problem_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError.of(_syntax_error(error), f"{path}{place}") from None


def _has_more_values(data: Any, most: int) -> bool:
    """Returns whether `data` holds more than `most` values; shared values count each time. Stops counting at `most`."""
    left, open_values = most, [iter((data,))]
    while open_values:
        for value in open_values[-1]:
            left -= 1
            if left < 0:
                return True
            if isinstance(value, dict):
                open_values.append(iter(value.values()))
                break
            if isinstance(value, list):
                open_values.append(iter(value))
                break
        else:
            open_values.pop()
    return False


def _syntax_error(error: yaml.MarkedYAMLError) -> InvalidError:
    """Returns the parts of a line about a fault in YAML's syntax; the place is left to the caller."""
    words = error.problem or ""
    if error.context:
        start = error.context_mark
        words = f"{words} {error.context}{f' that begins in line {start.line + 1}' if start else ''}"
    if "\\t" in words:
        return InvalidError("", words, remedy="indent with spaces")
    if isinstance(error, yaml.scanner.ScannerError | yaml.parser.ParserError):
        remedy = "check the indentation, colons, quotes and brackets before this place"
        return InvalidError("", words, remedy=remedy)
    return InvalidError("", words)


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Returns `base` with `own` merged in: mappings merge, everything else is replaced."""
    merged = dict(base)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _override(config: dict[str, Any], override: str, source: str) -> None:
    """Applies one override `key.sub=value` to a configuration, in place. source: the file, for errors."""
    named = f"override {shown(override, 200)}"
    if len(override) > MOST_IN_AN_OVERRIDE:
        raise ConfigError(named, f"has more than {MOST_IN_AN_OVERRIDE} characters", remedy="write it into a file")
    key, equals, text = override.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts) or len(parts) > MOST_PARTS:
        remedy = "" if equals and parts != [""] else "write no spaces around ="
        raise ConfigError(named, expected="key=value with a dotted key, e.g. search.epochs=10", remedy=remedy)
    value = _override_value(text, named)
    here: Any = config
    for i, part in enumerate(parts):
        where = ".".join(parts[:i])
        index: Any = part
        if isinstance(here, list):
            if not part.isdecimal() or len(part) > 9 or int(part) >= len(here):
                count = f"a list of {len(here)}, counted from 0"
                first = ".".join([where, "0", *parts[i:]])
                remedy = f"write {first} for its first entry" if here and not part.lstrip("-").isnumeric() else ""
                raise ConfigError(named, f"{where} is {count}; got {shown(part)} as its index", remedy=remedy)
            index = int(part)
        elif not isinstance(here, dict):
            raise ConfigError(named, f"{where} in {source} is the single value {shown(here)}, not a section")
        if i == len(parts) - 1:
            here[index] = value
            return
        below = here.get(part) if isinstance(here, dict) else here[index]
        here[index] = here = _own_copy(below)


def _own_copy(section: Any) -> Any:
    """Returns what an override may change in place of a section: a copy, since YAML's aliases share sections. An absent
    or empty one begins here; of a model it is its values by key, of a tuple a list."""
    if section is None:
        return {}
    if isinstance(section, BaseModel):
        return dict(section)
    return list(section) if isinstance(section, tuple) else copy.copy(section)


def _override_value(text: str, named: str) -> Any:
    """Returns the value of an override, read as YAML. named: the override as errors quote it.

    An empty text or a comment, which YAML reads as null, is refused: a shell gives an empty text for a variable that is
    not set.
    """
    try:
        value = yaml.load(text, Loader=partial(Loader, most_nodes=MOST_IN_AN_OVERRIDE))  # type: ignore[arg-type]
    except yaml.constructor.ConstructorError as error:  # it is YAML, and is refused
        end = "; it is not a YAML value" if error.problem == TOO_DEEP else ""
        raise ConfigError(named, f"{error.problem}{end}") from None
    except yaml.YAMLError:
        raise ConfigError(named, f"{shown(text)} is not a YAML value") from None
    if value is None and text.split()[:1] not in (["null"], ["Null"], ["NULL"], ["~"]):
        if not text.strip():
            raise ConfigError(named, "has no value", "key=value, or key=null for a key that may be null")
        raise ConfigError(named, f"{shown(text)} is no value in YAML: # begins a comment", remedy="put it in quotes")
    return value


def validate(model: type[M], data: dict[str, Any], source: str, context: Mapping[str, Any] | None = None) -> M:
    """Returns a nested dictionary as a model. Raises ConfigError, which names `source` and the first wrong key.

    context: passed to the model's validators as pydantic's `info.context`.
    """
    try:
        text = json.dumps(data, default=_refuse_type, ensure_ascii=False).encode()  # ValueError: half a surrogate pair
    except RecursionError:
        raise ConfigError(source, TOO_DEEP) from None
    except (TypeError, ValueError) as error:
        raise ConfigError(source, str(error)) from None
    with _in_words(model, source):
        # JSON mode: lists become tuples, text becomes paths, "3" stays text
        return model.model_validate_json(text, context=context)


@contextmanager
def _in_words(model: type[BaseModel], source: str) -> Iterator[None]:
    """Turns a ValidationError of `model` raised inside into a ConfigError about `source`."""
    try:
        yield
    except ValidationError as error:
        errors = error.errors(include_url=False)
        if errors[0]["type"] == "json_invalid":  # json.dumps wrote it, so only its depth can be wrong
            raise ConfigError(source, TOO_DEEP) from None
        raise ConfigError.of(first_in_words(model, errors), source) from None


def keys_of(model: type[BaseModel]) -> frozenset[str]:
    """Returns `section.key` for each key of each section of a file."""
    return frozenset(f"{section}.{key}" for section in model.model_fields for key in keys_below(model, section))


@contextmanager
def naming(source: object, keys: Collection[str]) -> Iterator[None]:
    """Names `source` in a ConfigError raised inside whose place begins with one of the `keys` of that file. If `source`
    is no path, the error is left as it is.

    For settings whose fault only shows when they are used, far from the file: missing data, a missing device.
    """
    try:
        yield
    except ConfigError as error:
        section, _, rest = error.where.partition(".")
        named = f"{section}.{re.split('[.:]', rest, maxsplit=1)[0]}" in keys
        if not named or not isinstance(source, str | Path):
            raise
        raise error.within(str(source)) from error


def _refuse_type(value: object) -> str:
    """Raises TypeError: json.dumps calls it for a value that JSON lacks."""
    raise TypeError(f"a value of type {type(value).__name__} cannot be used in a configuration")


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Returns a line `key: old -> new` for each value that differs between two nested structures, at most
    MOST_DIFFERENCES.

    prefix: the beginning of each key, e.g. `space.`.
    """
    return list(itertools.islice(_differences(old, new, prefix), MOST_DIFFERENCES))


def _differences(old: Any, new: Any, prefix: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _differences(old.get(key, ABSENT), new.get(key, ABSENT), f"{prefix}{key}.")
        return
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        nested = any(isinstance(entry, dict | list | tuple) for entry in (*old, *new))
        if nested or len(old) == len(new):
            for i, (a, b) in enumerate(itertools.zip_longest(old, new, fillvalue=ABSENT)):
                yield from _differences(a, b, f"{prefix}{i}.")
            return
    if old != new and not _same_path(old, new):
        yield f"{prefix.rstrip('.')}: {shown(old, 200)} -> {shown(new, 200)}"


def _same_path(old: Any, new: Any) -> bool:
    """Returns whether two texts are the same path, one of them with `~`: earlier versions recorded it unexpanded."""
    if not (isinstance(old, str) and isinstance(new, str)) or "~" not in (old[:1], new[:1]):
        return False
    try:
        return in_home(Path(old)) == in_home(Path(new))
    except ConfigError:
        return False
