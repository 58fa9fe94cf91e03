"""Turns pydantic's errors into the parts of one line: key, what was found, what is accepted, the nearest name."""

from __future__ import annotations

import itertools
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from engine.errors import InvalidError
from engine.nearest import LONGEST_NAME, nearest
from engine.yaml_dialect import Dumper, meant_number

MOST_PROBLEMS = 200
"""The most errors of a file that are compared to explain the first one."""
MOST_NAMED = 40
"""The most keys of a section that an error lists."""


@dataclass(frozen=True)
class _Problem:
    """One pydantic error.

    keys: the place of the wrong value in the file. holder, expected: the annotations of what holds the value and of the
    value itself. branches: the unions on the way, as (place, name of the branch whose error this is).
    """

    keys: tuple[int | str, ...]
    holder: Any
    expected: Any
    branches: tuple[tuple[tuple[int | str, ...], str], ...]
    error: Any

    @property
    def kind(self) -> str:
        """pydantic's name of the kind of error, e.g. `literal_error`."""
        return str(self.error["type"])


def first_in_words(model: type[BaseModel], errors: Sequence[Any]) -> InvalidError:
    """Returns the first error of a file as the parts of a line; a note counts the further ones.

    errors: the list that pydantic.ValidationError.errors() returns for `model`.
    """
    seen = errors[:MOST_PROBLEMS]
    problems = _of_meant_branches([_Problem(*_place(model, error["loc"]), error) for error in seen])
    places: dict[tuple[int | str, ...], list[_Problem]] = {}  # the branches of a union have errors of one place
    for problem in problems:
        # A section or list whose inside is wrong: the other branch of a union, or a count without the wrong entries
        if not any(len(p.keys) > len(problem.keys) and p.keys[: len(problem.keys)] == problem.keys for p in problems):
            places.setdefault(problem.keys, []).append(problem)
    first = next(iter(places.values()))
    if first[0].kind == "missing":  # a mistyped key explains why another one is missing
        siblings = (group for keys, group in places.items() if keys[:-1] == first[0].keys[:-1])
        first = next((group for group in siblings if group[0].kind == "extra_forbidden"), first)
    explained = _explained(model, first)
    if len(errors) > len(seen):
        explained.note = "and many more"
    elif len(places) > 1:
        explained.note = f"+{len(places) - 1} more"
    return explained


def _of_meant_branches(problems: list[_Problem]) -> list[_Problem]:
    """Drops problems inside a value that belong to unlikely branches of a union, if several branches have some.

    The likeliest branch is one whose fixed words fit, such as a `form`, and of these the one with the fewest problems.
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
    """Returns keys, holder, expected and branches of a _Problem. pydantic has keys and branches in one row."""
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
    """Returns the types that a value may have, without null; more than one for a union."""
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        return [annotation]
    inner = [branch for branch in typing.get_args(annotation) if branch is not type(None)]
    return _branches(inner[0]) if len(inner) == 1 else inner


def _has_label(branch: Any, label: int | str) -> bool:
    """Returns whether pydantic calls this union branch `label`: its type's name, or its value of the discriminator."""
    kind = _branches(branch)[0]
    tags = [tag for f in kind.model_fields.values() for tag in _choices(f.annotation)] if _is_section(kind) else []
    if choices := _choices(kind):
        return label == f"literal[{','.join(map(repr, choices))}]"
    return label in tags or getattr(kind, "__name__", "?") in str(label)


def _choices(annotation: Any) -> tuple[Any, ...]:
    """Returns the values of a Literal; none for any other annotation."""
    return typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and not typing.get_args(annotation) and issubclass(annotation, BaseModel)


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
_TYPE_ERRORS = {
    *("int_type", "int_from_float", "float_type", "bool_type", "string_type", "path_type", "tuple_type", "list_type"),
    *("dict_type", "model_type", "model_attributes_type"),
}


def _in_words(annotation: Any) -> str:
    """Returns how a value of this annotation looks in a file, in words."""
    branches = _branches(annotation)
    if len(branches) > 1:
        if all(map(_is_section, branches)):
            shared = [name for name in branches[0].model_fields if all(_choices_of(b, name) for b in branches)]
            if shared:
                tags = [tag for branch in branches for tag in _choices_of(branch, shared[0])]
                return f"a section with `{shared[0]}`: {in_a_row(tags)}"
        return _either(map(_in_words, branches))
    kind = branches[0]
    if _is_section(kind):
        return f"a section (keys: {', '.join(kind.model_fields)})"
    if choices := _choices(kind):
        return in_a_row(choices)
    if typing.get_origin(kind) in (tuple, list):
        inner = _branches(typing.get_args(kind)[0])
        return "a list of sections, each begun by '- '" if _is_section(inner[0]) else "a list"
    return _WORDS.get(kind, "a value")


def _choices_of(section: type[BaseModel], key: str) -> tuple[Any, ...]:
    """Returns the values of a section's key that is a Literal; none for any other key."""
    return _choices(section.model_fields[key].annotation) if key in section.model_fields else ()


def _either(words: Iterable[str]) -> str:
    """Returns descriptions joined by `or`, each once."""
    distinct = list(dict.fromkeys(words))
    if "a number" in distinct and "a whole number" in distinct:
        distinct.remove("a whole number")
    return " or ".join(distinct)


def in_a_row(choices: Sequence[Any]) -> str:
    """Returns choices as text: `'a', 'b' or 'c'`."""
    *others, last = map(shown, choices)
    return f"{', '.join(others)} or {last}" if others else last


def _explained(model: type[BaseModel], problems: Sequence[_Problem]) -> InvalidError:
    """Returns the problems of one place as the parts of a line: key, what was found, what is accepted, the nearest
    name."""
    problem = problems[0]
    keys, kind, error = problem.keys, problem.kind, problem.error
    found, context = error["input"], error.get("ctx", {})
    where = ".".join(map(str, keys))
    if kind == "extra_forbidden":
        accepted = sorted({name for p in problems for name in p.holder.model_fields})
        homes = [f"{n}.{keys[-1]}" for n in model.model_fields if n != keys[0] and keys[-1] in keys_below(model, n)]
        return InvalidError(
            where, f"unknown key; accepted here: {', '.join(accepted)}",
            suggestion=homes or nearest(str(keys[-1]), accepted),
        )  # fmt: skip
    if kind == "missing" and isinstance(keys[-1], int):
        count = len(typing.get_args(problem.holder))
        return InvalidError(".".join(map(str, keys[:-1])), f"got {shown(found)}", f"{count} entries")
    if kind == "missing":
        return InvalidError(where, "is missing", _in_words(problem.expected), _found_instead(keys[:-1], found))
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag = context["discriminator"].strip("'")
        choices = [choice for branch in _branches(problem.expected) for choice in _choices_of(branch, tag)]
        if tag not in found:
            return InvalidError(f"{where}.{tag}", "is missing", in_a_row(choices), _found_instead(keys, found))
        return InvalidError(
            f"{where}.{tag}", f"got {shown(found[tag])}", in_a_row(choices),
            suggestion=nearest(str(found[tag]), choices),
        )  # fmt: skip
    if kind == "value_error":
        return _placed(where, context["error"], _branches(problem.expected)[0])
    expected = _either(map(_accepted, problems))
    if found is None:
        section = any(map(_is_section, _branches(problem.expected)))
        return InvalidError(where or "the file", "is empty", expected, "fill it or remove it" if section else "")
    literals = [c for p in problems if p.kind == "literal_error" for b in _branches(p.expected) for c in _choices(b)]
    return InvalidError(
        where or "the file", f"got {shown(found)}", expected, _remedy(problems),
        suggestion=nearest(str(found), literals),
    )  # fmt: skip


def _placed(where: str, error: ValueError, expected: Any) -> InvalidError:
    """Returns a validator's error with the key at fault: `where`, or a key in the section of this place that the error
    names. The validator of a whole file may name the key in full."""
    placed = InvalidError.of(error)
    own = placed.where
    if own and (not where or own == where or own.startswith(f"{where}.")):
        return placed
    if not own or (where.endswith(f".{own}") and not _is_section(expected)):  # a validator of this very key
        placed.where = where
    elif _is_section(expected) and own.partition(".")[0] in expected.model_fields:
        placed.where = f"{where}.{own}"
    else:
        placed.where = f"{where}: {own}"
    return placed


def _accepted(problem: _Problem) -> str:
    """Returns what is accepted in place of a wrong value, in words."""
    context = problem.error.get("ctx", {})
    if problem.kind in _TYPE_ERRORS:
        return _in_words(problem.expected)
    match problem.kind:
        case "literal_error":
            return str(context["expected"])
        case "finite_number":
            return "a finite number"
        case "greater_than":
            return f"a number above {_bound(context['gt'])}"
        case "greater_than_equal":
            return f"at least {_bound(context['ge'])}"
        case "less_than":
            return f"a number below {_bound(context['lt'])}"
        case "less_than_equal":
            return f"at most {_bound(context['le'])}"
        case "too_short":
            return f"at least {context['min_length']} {'entry' if context['min_length'] == 1 else 'entries'}"
        case "too_long":
            return f"{context['max_length']} {'entry' if context['max_length'] == 1 else 'entries'} at most"
    message = str(problem.error["msg"]).replace("Input should be ", "")
    return message[0].lower() + message[1:]


def _bound(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


_SWITCHES = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}
"""Words that are bool in YAML 1.1 and text in YAML 1.2."""


def _remedy(problems: Sequence[_Problem]) -> str:
    """Returns how to write the value that was probably meant; empty if that is not clear."""
    found, kinds = problems[0].error["input"], {p.kind for p in problems}
    if isinstance(found, float) and kinds & {"int_type", "int_from_float"} and found.is_integer():
        return f"write {found:.0f}" if abs(found) < 1e18 else ""
    if isinstance(found, str) and kinds & {"int_type", "float_type"} and len(found) <= LONGEST_NAME:
        return number_remedy(found)
    if isinstance(found, str) and "bool_type" in kinds and found.lower() in (*_SWITCHES, "true", "false"):
        return f"write {_SWITCHES.get(found.lower(), found.lower())}"
    return ""


def number_remedy(text: str) -> str:
    """Returns the remedy for a text that stands for a number: quoted, or written in a way that YAML 1.2 lacks. Empty
    for any other text."""
    number = meant_number(text)
    if not number:
        return ""
    return "remove the quotes" if number == text else f"write {number}"


def _found_instead(keys: Sequence[int | str], section: object) -> str:
    """Returns which keys a section has, in words, for an error about one that is missing."""
    if not isinstance(section, dict):
        return ""
    names = [str(name) for name in itertools.islice(section, MOST_NAMED + 1)]
    listed = ", ".join([*names[:MOST_NAMED], "..."] if len(names) > MOST_NAMED else names)
    return f"{'.'.join(map(str, keys)) or 'the file'} has {listed or 'nothing'}"


def keys_below(model: type[BaseModel], section: str) -> set[str]:
    """Returns the keys of a top-level section."""
    return {
        name for m in _branches(model.model_fields[section].annotation) if _is_section(m) for name in m.model_fields
    }


def shown(value: object, most: int = 60) -> str:
    """Returns a value as YAML, in one line of at most `most` characters. That bounds the work, whatever the value."""
    if value is ABSENT:
        return "(absent)"
    value = _beginning(value, [most])
    if isinstance(value, str):
        text = repr(value)
    else:
        try:
            text = yaml.dump(value, Dumper=Dumper, default_flow_style=True, width=1 << 30, allow_unicode=True)
        except yaml.representer.RepresenterError:  # an object from Python, which no file can hold
            return f"a value of type {type(value).__name__}"
        text = text.removesuffix("...\n").strip()
    return f"{text[: most - 3]}..." if len(text) > most else text


def _beginning(value: Any, left: list[int]) -> Any:
    """Returns a value with only its first `left` values, which suffice for as many characters; `left` is counted
    down."""
    most = left[0]
    left[0] -= 1
    if isinstance(value, str):
        left[0] -= len(value)
        return value[: max(most, 0) + 1]
    if isinstance(value, dict):
        pairs = itertools.takewhile(lambda _: left[0] > 0, value.items())
        return {_beginning(key, left): _beginning(item, left) for key, item in pairs}
    if isinstance(value, list | tuple):
        return [_beginning(item, left) for item in itertools.takewhile(lambda _: left[0] > 0, value)]
    return value


ABSENT = object()
"""Stands for a value that is not there, beside null, in comparisons of two structures."""
