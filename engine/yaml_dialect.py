"""Reads and writes YAML as this project uses it: the scalars of YAML 1.2, text keys given once, and bounded work.

A scalar without quotes is read by the core schema of YAML 1.2.2 (Sec. 10.3.2): `0042` is 42, `0o17` is 15, `1e-3` is a
number, and `yes`, `on`, `1_000`, `0b1` and `2026-01-31` are text. `12:30` and `1:30.5`, which are 750 and 90.5 in YAML
1.1 (base 60), are refused. `<<: *anchor` merges, as in YAML 1.1, because configurations need it.
"""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any, ClassVar, NoReturn

import yaml

MOST_CHARACTERS = 2 << 20
"""The most characters of a YAML text. PyYAML reads about a million characters in a second."""
MOST_NODES = 60_000
"""The most values, keys and lists of a YAML text, with every alias written out; 100 characters of a long text count as
one more. A latency table has about ten for each entry."""
MOST_LEVELS = 100
"""The most lists and sections inside each other."""
MOST_DIGITS = 400
"""The most digits of a whole number: somewhat more than the largest floating-point number has."""

TOO_DEEP = "has too many brackets or sections inside each other"
_PREFIX = "tag:yaml.org,2002:"
_BASE_60 = f"{_PREFIX}base60"

_NULL = re.compile(r"(?:~|null|Null|NULL|)\Z")
_TRUE, _FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")
_BOOL = re.compile(rf"(?:{'|'.join(_TRUE + _FALSE)})\Z")
_DECIMAL = re.compile(r"[-+]?[0-9]+\Z")
_INT = re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z")
_INFINITY = re.compile(r"[-+]?\.(?:inf|Inf|INF)\Z")
_NAN = re.compile(r"\.(?:nan|NaN|NAN)\Z")
_FLOAT = re.compile(
    r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
)
_SIXTY = re.compile(r"[-+]?(?:[1-9][0-9_]*(?::[0-5]?[0-9])+|[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*)\Z")
_DIGITS = list("-+.0123456789")
_SCALARS = (  # (tag, pattern of its plain scalars, their first characters), tried in this order
    (f"{_PREFIX}null", _NULL, ["~", "n", "N", ""]),
    (f"{_PREFIX}bool", _BOOL, list("tTfF")),
    (f"{_PREFIX}int", _INT, _DIGITS),
    (f"{_PREFIX}float", _FLOAT, _DIGITS),
    (_BASE_60, _SIXTY, _DIGITS),
    (f"{_PREFIX}merge", re.compile(r"<<\Z"), ["<"]),
)


class Loader(yaml.SafeLoader):
    """Reads the scalars of YAML 1.2 and nothing but null, bool, int, float, text, lists and mappings.

    Refuses keys that are no text or given twice, values that contain themselves, and more than MOST_CHARACTERS,
    MOST_NODES or MOST_LEVELS. Every refusal is a yaml.MarkedYAMLError, except that of too many characters.
    """

    yaml_constructors: ClassVar[dict[str | None, Any]] = {None: yaml.SafeLoader.construct_undefined}

    def __init__(self, text: str, most_nodes: int = MOST_NODES):
        if len(text) > MOST_CHARACTERS:
            raise yaml.YAMLError(f"has more than {MOST_CHARACTERS >> 20} million characters")
        super().__init__(text)
        self._nodes, self._most, self._level = 0, most_nodes, 0
        self._sizes: dict[str, int] = {}  # by anchor, added once complete

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Composes a node as PyYAML does, and counts nodes with every alias written out."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)  # raises an error if there is no such anchor
            if event.anchor not in self._sizes:
                _refuse(f"'*{event.anchor}' stands inside what it names; a value cannot be recursive", event)
            self._count(self._sizes[event.anchor], event)
            return node
        before = self._nodes
        self._level += 1
        if self._level > MOST_LEVELS:
            _refuse(TOO_DEEP, event)
        self._count(1 + (len(event.value) // 100 if isinstance(event, yaml.ScalarEvent) else 0), event)
        node = super().compose_node(parent, index)
        self._level -= 1
        if event.anchor is not None:
            self._sizes[event.anchor] = self._nodes - before
        return node

    def _count(self, more: int, event: yaml.Event) -> None:
        self._nodes += more
        if self._nodes > self._most:
            _refuse(f"has more than {self._most} values, each *alias written out", event)


class Dumper(yaml.SafeDumper):
    """Writes YAML that Loader reads back: a text is quoted only if Loader would read something else. Shared values are
    written out each time."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def meant_number(text: str) -> str:
    """Returns, as YAML 1.2 writes it, the number that a text is (`3`), or is in Python or YAML 1.1 (`1_000`, `0b101`);
    or ''."""
    plain = text.strip().replace("_", "")
    if len(plain) > MOST_DIGITS:
        return ""
    if re.fullmatch(r"[-+]?0b[01]+", plain):
        return str(int(plain, 2))
    return plain if _INT.match(plain) or _FLOAT.match(plain) else ""


def _refuse(problem: str, place: Any) -> NoReturn:
    """Raises the error of a fault in the text. place: the node or the event at fault."""
    raise yaml.constructor.ConstructorError(None, None, problem, place.start_mark)


def _matching(node: yaml.ScalarNode, pattern: re.Pattern[str], kind: str) -> str:
    """Returns the text of a scalar if it is a `kind`, and refuses it otherwise: an explicit tag such as `!!int x` may
    be wrong."""
    if not isinstance(node, yaml.ScalarNode) or not pattern.match(node.value):
        _refuse(f"the tag !!{kind} does not fit this value; remove the tag", node)
    return str(node.value)


def _null(loader: Loader, node: yaml.ScalarNode) -> None:
    _matching(node, _NULL, "null")


def _bool(loader: Loader, node: yaml.ScalarNode) -> bool:
    return _matching(node, _BOOL, "bool") in _TRUE


def _int(loader: Loader, node: yaml.ScalarNode) -> int:
    text = _matching(node, _INT, "int")
    if len(text) > MOST_DIGITS:
        _refuse(f"a whole number of {len(text)} digits, expected at most {MOST_DIGITS}", node)
    if _DECIMAL.match(text):
        return int(text)
    return int(text[2:], 8 if text[1] == "o" else 16)


def _float(loader: Loader, node: yaml.ScalarNode) -> float:
    text = _matching(node, _FLOAT, "float")
    if _NAN.match(text):
        return float("nan")
    if _INFINITY.match(text):
        return float("-inf" if text[0] == "-" else "inf")
    return float(text)


def _text(loader: Loader, node: yaml.ScalarNode) -> str:
    if not isinstance(node, yaml.ScalarNode):
        _refuse("the tag !!str does not fit this value; remove the tag", node)
    return str(node.value)


def _list(loader: Loader, node: yaml.SequenceNode) -> list[Any]:
    if not isinstance(node, yaml.SequenceNode):
        _refuse("the tag !!seq does not fit this value; remove the tag", node)
    return loader.construct_sequence(node, deep=True)


def _base_60(loader: Loader, node: yaml.ScalarNode) -> NoReturn:
    """Refuses a number in base 60 of YAML 1.1; the error names its value."""
    text = _matching(node, _SIXTY, "base60").replace("_", "")
    if len(text) > 60:
        _refuse("a value such as 12:30 is no number; put text in quotes", node)
    number = 0.0
    for part in text.lstrip("-+").split(":"):
        number = number * 60 + float(part)
    number = -number if text[0] == "-" else number
    _refuse(
        f"'{node.value}' is no number; YAML 1.1 read it as {number:.15g}; write the number in full, or put text in "
        "quotes",
        node,
    )


def _mapping_without_duplicates(loader: Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    if not isinstance(node, yaml.MappingNode):
        _refuse("the tag !!map does not fit this value; remove the tag", node)
    seen = set()
    before: Any = None
    for key_node, value_node in node.value:
        before, last = value_node, before
        if key_node.tag == f"{_PREFIX}merge":  # keys that `<<: *anchor` merges in may be given again
            continue
        if key_node.tag == _BASE_60:
            _refuse(f"key '{key_node.value}' is not text; put it in quotes", key_node)
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            if _is_decimal_comma(last, key_node, value_node):
                text, rest = last.value, key_node.value
                problem = f"'{text},{rest}' is no number; write {text}.{rest}, or {text}{rest} without the comma"
                _refuse(problem, last)
            written = f"'{key_node.value}'" if isinstance(key_node, yaml.ScalarNode) else "that is a list or a section"
            _refuse(f"key {written} is not text; put it in quotes", key_node)
        if key in seen:
            _refuse(f"key '{key}' is given twice", key_node)
        seen.add(key)
        if value_node.tag == _BASE_60:
            try:
                loader.construct_object(value_node)
            except yaml.constructor.ConstructorError as error:
                _refuse(f"{key}: {error.problem}", value_node)
    return loader.construct_mapping(node, deep=True)


def _is_decimal_comma(last: Any, key: yaml.Node, value: yaml.Node) -> bool:
    """Returns whether a key is the rest of a number with a comma, as in `{lr: 0,01}`, which YAML reads as `{lr: 0,
    01: null}`. last: the value before the key."""
    digits = [isinstance(node, yaml.ScalarNode) and _DECIMAL.match(node.value) for node in (last, key)]
    adjacent = all(digits) and last.end_mark.index + 1 == key.start_mark.index
    return adjacent and isinstance(value, yaml.ScalarNode) and value.value == ""


def _text_as_it_is(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # YAML reads these line ends as "\n" unless they are escaped, which only double quotes can do
    style = '"' if any(end in text for end in "\x85\u2028\u2029") else None
    return dumper.represent_scalar(f"{_PREFIX}str", text, style=style)


def _text_of_a_kind(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return _text_as_it_is(dumper, str(text))  # a subclass of str, such as Percent


def _path_as_text(dumper: yaml.SafeDumper, path: PurePath) -> yaml.ScalarNode:
    return _text_as_it_is(dumper, str(path))


Loader.yaml_implicit_resolvers, Dumper.yaml_implicit_resolvers = {}, {}  # without the rules of YAML 1.1
for _tag, _pattern, _first in _SCALARS:
    Loader.add_implicit_resolver(_tag, _pattern, _first)
    Dumper.add_implicit_resolver(_tag, _pattern, _first)
_CONSTRUCTORS: dict[str, Any] = {
    "null": _null, "bool": _bool, "int": _int, "float": _float, "str": _text, "seq": _list, "base60": _base_60,
    "map": _mapping_without_duplicates,
}  # fmt: skip
for _kind, _constructor in _CONSTRUCTORS.items():
    Loader.add_constructor(f"{_PREFIX}{_kind}", _constructor)
Dumper.add_representer(str, _text_as_it_is)
Dumper.add_multi_representer(PurePath, _path_as_text)
Dumper.add_multi_representer(str, _text_of_a_kind)
