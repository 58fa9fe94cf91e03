"""Configuration: YAML -> one nested dictionary -> frozen models, validated once, errors in one line."""

from __future__ import annotations

import copy
import datetime
import difflib
import itertools
import json
import re
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
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


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes the text '1e-3', which _Loader would read as a number, and repeats what is shared."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def _mapping_without_duplicates(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *anchor`: what it brings may be given again
            continue
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            written = f"'{key_node.value}'" if isinstance(key_node, yaml.ScalarNode) else repr(key)
            problem = f"key {written} is not text; put it in quotes"
            raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


def _path_as_text(dumper: yaml.SafeDumper, path: PurePath) -> yaml.ScalarNode:
    return dumper.represent_str(str(path))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)
_Dumper.add_multi_representer(PurePath, _path_as_text)


def config_text(config: BaseModel | dict[str, Any]) -> str:
    """A configuration as YAML; `load_config` reads the same values from it, paths as text and tuples as lists."""
    values = config.model_dump(mode="json") if isinstance(config, BaseModel) else config
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


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
        raise ConfigError(f"{path}: extends: got {_shown(bases)}, expected a file name or a list of them")
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
        data = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{place}: {_syntax_error(error)}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    except RecursionError:  # PyYAML calls itself for each level
        raise ConfigError(f"{path}: has too many brackets or sections inside each other") from None
    if not isinstance(data, dict):
        found = "is empty" if data is None else f"got {_shown(data)}"
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
        value = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
        raise ConfigError(f"override {_shown(override, 200)}: {_shown(text)} is not a YAML value") from None
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
                f"override '{override}': {where} in {source} is the single value {_shown(here)}, not a section"
            )
        if i == len(parts) - 1:
            here[index] = value
            return
        below = here.get(part) if isinstance(here, dict) else here[index]
        # a copy, because YAML's aliases share sections; an absent or empty one begins here
        here[index] = below = {} if below is None else copy.copy(below)
        here = below


def validate(model: type[M], data: dict[str, Any], source: str) -> M:
    """Check a nested dictionary against a model. ConfigError with the first error in one line; `source` begins it."""
    try:
        text = json.dumps(data, default=_as_text, ensure_ascii=False).encode()  # ValueError for half a surrogate pair
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{source}: {error}") from None
    try:
        return model.model_validate_json(text)  # JSON mode: lists become tuples, text becomes paths, "3" stays text
    except ValidationError as error:
        raise ConfigError(f"{source}: {_first_in_words(model, error.errors())}") from None


def _as_text(value: object) -> str:
    if isinstance(value, datetime.date):  # YAML reads 2026-01-31 as a date
        return value.isoformat()
    raise TypeError(f"a value of type {type(value).__name__} cannot be used in a configuration")


@dataclass(frozen=True)
class _Problem:
    """One pydantic error.

    keys: its place in the file. holder, expected: annotations of what holds it and of itself. branches: the unions on
    the way, as (place, name of the branch that complains).
    """

    keys: tuple[int | str, ...]
    holder: Any
    expected: Any
    branches: tuple[tuple[tuple[int | str, ...], str], ...]
    error: Any

    @property
    def kind(self) -> str:
        return str(self.error["type"])


def _first_in_words(model: type[BaseModel], errors: Sequence[Any]) -> str:
    problems = _of_meant_branches([_Problem(*_place(model, error["loc"]), error) for error in errors])
    places: dict[tuple[int | str, ...], list[_Problem]] = {}  # branches of a union complain about the same place
    for problem in problems:
        # A section or list whose inside is wrong: the other branch of a union, or a count without the wrong entries
        if not any(len(p.keys) > len(problem.keys) and p.keys[: len(problem.keys)] == problem.keys for p in problems):
            places.setdefault(problem.keys, []).append(problem)
    first = next(iter(places.values()))
    if first[0].kind == "missing":  # a mistyped key explains why another one is missing
        siblings = (group for keys, group in places.items() if keys[:-1] == first[0].keys[:-1])
        first = next((group for group in siblings if group[0].kind == "extra_forbidden"), first)
    more = f" (+{len(places) - 1} more)" if len(places) > 1 else ""
    return _explained(model, first) + more


def _of_meant_branches(problems: list[_Problem]) -> list[_Problem]:
    """Where several branches of a union complain about what is inside a value, keep those of the likeliest branch.

    That is the one whose fixed words fit, such as a `form`, and of these the one with the fewest complaints.
    """
    for place in sorted({place for p in problems for place, _ in p.branches}, key=len):
        inside: dict[str, list[_Problem]] = {}
        for problem in problems:
            branch = dict(problem.branches).get(place)
            if branch is not None and len(problem.keys) > len(place):
                inside.setdefault(branch, []).append(problem)
        if len(inside) > 1:
            meant = min(inside, key=lambda b: (sum(p.kind == "literal_error" for p in inside[b]), len(inside[b])))
            others = [problem for branch in inside if branch != meant for problem in inside[branch]]
            problems = [problem for problem in problems if not any(problem is other for other in others)]
    return problems


def _place(
    model: type[BaseModel], loc: Sequence[int | str]
) -> tuple[tuple[int | str, ...], Any, Any, tuple[tuple[tuple[int | str, ...], str], ...]]:
    """Keys, holder, expected and branches of a _Problem: pydantic's location has keys and branches in one row."""
    keys: list[int | str] = []
    chosen: list[tuple[tuple[int | str, ...], str]] = []
    holder: Any = None
    here: Any = model
    for part in loc:
        branches = _branches(here)
        if len(branches) > 1:
            here = next((branch for branch in branches if _has_label(branch, part)), Any)
            chosen.append((tuple(keys), str(part)))
            continue
        holder, arguments = branches[0], typing.get_args(branches[0])
        if _is_section(holder):
            here = holder.model_fields[part].annotation if part in holder.model_fields else Any
        elif isinstance(part, int) and arguments:
            here = arguments[part] if part < len(arguments) and arguments[-1] is not Ellipsis else arguments[0]
        else:
            here = arguments[-1] if arguments else Any
        keys.append(part)
    return tuple(keys), holder, here, tuple(chosen)


def _branches(annotation: Any) -> list[Any]:
    """What a value may be, null aside; more than one for a union."""
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        return [annotation]
    inner = [branch for branch in typing.get_args(annotation) if branch is not type(None)]
    return _branches(inner[0]) if len(inner) == 1 else inner


def _has_label(branch: Any, label: int | str) -> bool:
    """Whether pydantic calls this union branch `label`: its type's name, or its value of the discriminator."""
    kind = _branches(branch)[0]
    tags = [tag for f in kind.model_fields.values() for tag in _choices(f.annotation)] if _is_section(kind) else []
    return label in tags or getattr(kind, "__name__", "?") in str(label)


def _choices(annotation: Any) -> tuple[Any, ...]:
    return typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and not typing.get_args(annotation) and issubclass(annotation, BaseModel)


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
_TYPE_ERRORS = {
    *("int_type", "int_from_float", "float_type", "bool_type", "string_type", "path_type", "tuple_type", "list_type"),
    *("dict_type", "model_type", "model_attributes_type"),
}


def _in_words(annotation: Any) -> str:
    """What a value of this annotation looks like in a file."""
    branches = _branches(annotation)
    if len(branches) > 1:
        if all(map(_is_section, branches)):
            shared = [name for name in branches[0].model_fields if all(_choices_of(b, name) for b in branches)]
            if shared:
                tags = [tag for branch in branches for tag in _choices_of(branch, shared[0])]
                return f"a section with `{shared[0]}`: {_or(tags)}"
        return _either(map(_in_words, branches))
    kind = branches[0]
    if _is_section(kind):
        return f"a section (keys: {', '.join(kind.model_fields)})"
    if choices := _choices(kind):
        return _or(choices)
    if typing.get_origin(kind) in (tuple, list):
        inner = _branches(typing.get_args(kind)[0])
        return "a list of sections, each begun by '- '" if _is_section(inner[0]) else "a list"
    return _WORDS.get(kind, "a value")


def _choices_of(section: type[BaseModel], key: str) -> tuple[Any, ...]:
    return _choices(section.model_fields[key].annotation) if key in section.model_fields else ()


def _either(words: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(words))
    if "a number" in distinct and "a whole number" in distinct:
        distinct.remove("a whole number")
    return " or ".join(distinct)


def _or(choices: Sequence[Any]) -> str:
    *others, last = map(_shown, choices)
    return f"{', '.join(others)} or {last}" if others else last


def _explained(model: type[BaseModel], problems: Sequence[_Problem]) -> str:
    """The problems of one place in words: key, what was found, what is accepted, the nearest name."""
    problem = problems[0]
    keys, kind, error = problem.keys, problem.kind, problem.error
    found, context = error["input"], error.get("ctx", {})
    where = ".".join(map(str, keys))
    if kind == "extra_forbidden":
        accepted = sorted({name for p in problems for name in p.holder.model_fields})
        homes = [f"{n}.{keys[-1]}" for n in model.model_fields if n != keys[0] and keys[-1] in _keys_below(model, n)]
        nearest = f". Did you mean {_or(homes)}?" if homes else _nearest(str(keys[-1]), accepted)
        return f"{where}: unknown key; accepted here: {', '.join(accepted)}{nearest}"
    if kind == "missing" and isinstance(keys[-1], int):
        count = len(typing.get_args(problem.holder))
        return f"{'.'.join(map(str, keys[:-1]))}: got {_shown(found)}, expected {count} entries"
    if kind == "missing":
        return f"{where}: is missing, expected {_in_words(problem.expected)}{_found_instead(keys[:-1], found)}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag = context["discriminator"].strip("'")
        choices = [choice for branch in _branches(problem.expected) for choice in _choices_of(branch, tag)]
        if tag not in found:
            return f"{where}.{tag}: is missing, expected {_or(choices)}{_found_instead(keys, found)}"
        nearest = _nearest(str(found[tag]), choices)
        return f"{where}.{tag}: got {_shown(found[tag])}, expected {_or(choices)}{nearest}"
    if kind == "value_error":
        own = str(context["error"])
        begins = re.match(r"[\w.]+(?=: )", own)  # a validator of a section may begin with the key at fault
        named = begins.group() if begins else ""
        if not where or named == where or named.startswith(f"{where}."):
            return own
        inside = _branches(problem.expected)[0]
        if where.endswith(f".{named}") and not _is_section(inside):  # a validator of this very key
            return f"{where}{own.removeprefix(named)}"
        return f"{where}.{own}" if _is_section(inside) and named in inside.model_fields else f"{where}: {own}"
    expected = _either(map(_accepted, problems))
    if found is None:
        section = any(map(_is_section, _branches(problem.expected)))
        return f"{where or 'the file'}: is empty, expected {expected}{'; fill it or remove it' if section else ''}"
    literals = [p.error["ctx"]["expected"] for p in problems if p.kind == "literal_error"]
    nearest = _nearest(str(found), re.findall(r"'([^']*)'", " ".join(literals)))
    return f"{where or 'the file'}: got {_shown(found)}, expected {expected}{nearest}{_remedy(problems)}"


def _accepted(problem: _Problem) -> str:
    context = problem.error.get("ctx", {})
    if problem.kind in _TYPE_ERRORS:
        return _in_words(problem.expected)
    match problem.kind:
        case "literal_error":
            return str(context["expected"])
        case "finite_number":
            return "a finite number"
        case "greater_than":
            return f"a number above {context['gt']:g}"
        case "greater_than_equal":
            return f"at least {context['ge']:g}"
        case "less_than":
            return f"a number below {context['lt']:g}"
        case "less_than_equal":
            return f"at most {context['le']:g}"
        case "too_short":
            return f"at least {context['min_length']} {'entry' if context['min_length'] == 1 else 'entries'}"
        case "too_long":
            return f"{context['max_length']} {'entry' if context['max_length'] == 1 else 'entries'} at most"
    message = str(problem.error["msg"]).replace("Input should be ", "")
    return message[0].lower() + message[1:]


def _remedy(problems: Sequence[_Problem]) -> str:
    found, kinds = problems[0].error["input"], {p.kind for p in problems}
    if isinstance(found, float) and kinds & {"int_type", "int_from_float"} and found.is_integer():
        return f"; write {int(found)}"
    if isinstance(found, str) and kinds & {"int_type", "float_type"} and re.fullmatch(r"-?\d+(\.\d+)?", found):
        return "; remove the quotes"
    return ""


def _found_instead(keys: Sequence[int | str], section: object) -> str:
    if not isinstance(section, dict):
        return ""
    return f"; {'.'.join(map(str, keys)) or 'the file'} has {', '.join(map(str, section)) or 'nothing'}"


def _keys_below(model: type[BaseModel], section: str) -> set[str]:
    """The keys of a top-level section."""
    return {
        name for m in _branches(model.model_fields[section].annotation) if _is_section(m) for name in m.model_fields
    }


def _shown(value: object, most: int = 60) -> str:
    """A value as YAML would have it, in one line, shortened."""
    if value is _ABSENT:
        return "(absent)"
    if isinstance(value, str):
        text = repr(value)
    else:
        text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=1 << 30, allow_unicode=True)
        text = text.removesuffix("...\n").strip()
    return f"{text[: most - 3]}..." if len(text) > most else text


_ABSENT = object()


def _nearest(found: str, accepted: Sequence[Any]) -> str:
    plain = {str(name).lower(): name for name in accepted}
    near = difflib.get_close_matches(found.lower().replace("-", "_"), plain, n=1)
    return f". Did you mean '{plain[near[0]]}'?" if near else ""


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """`key: old -> new` for every value that differs between two nested structures."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        lines = []
        for key in keys:
            lines += differences(old.get(key, _ABSENT), new.get(key, _ABSENT), f"{prefix}{key}.")
        return lines
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        nested = any(isinstance(entry, dict | list | tuple) for entry in (*old, *new))
        if nested or len(old) == len(new):
            pairs = enumerate(itertools.zip_longest(old, new, fillvalue=_ABSENT))
            return [line for i, (a, b) in pairs for line in differences(a, b, f"{prefix}{i}.")]
    return [] if old == new else [f"{prefix.rstrip('.')}: {_shown(old, 200)} -> {_shown(new, 200)}"]
