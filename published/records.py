"""Reads the objects of other projects' files strictly: each key is taken once, and what is left over is refused."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from supernet.errors import InvalidError

_ABSENT: Any = object()


class Record:
    """An object of a file, whose keys are taken one by one. Each method raises InvalidError, which names the field."""

    def __init__(self, value: Any, place: str):
        if not isinstance(value, dict):
            raise InvalidError(place, f"got {shown(value)}", "an object")
        self._values, self._place = dict(value), place

    def at(self, key: str) -> str:
        """Returns the place of a key."""
        return f"{self._place}.{key}" if self._place else key

    def has(self, key: str) -> bool:
        """Returns whether a key is there and has not been taken."""
        return key in self._values

    def take(self, key: str, default: Any = _ABSENT) -> Any:
        """Returns a value of any kind."""
        if key in self._values:
            return self._values.pop(key)
        if default is _ABSENT:
            raise InvalidError(self.at(key), "is missing")
        return default

    def word(self, key: str, accepted: Collection[str | None], default: Any = _ABSENT) -> Any:
        """Returns a value that must be one of those accepted."""
        value = self.take(key, default)
        if not (value is None or isinstance(value, str)) or value not in accepted:
            words = ", ".join("null" if word is None else f"'{word}'" for word in accepted)
            raise InvalidError(self.at(key), f"got {shown(value)}", words)
        return value

    def number(self, key: str, least: int, default: Any = _ABSENT) -> int:
        """Returns a whole number, which may be in a list of its own."""
        value = self.take(key, default)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if type(value) is not int or value < least:
            raise InvalidError(self.at(key), f"got {shown(value)}", f"a whole number from {least} on")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Returns true or false."""
        value = self.take(key, default)
        if type(value) is not bool:
            raise InvalidError(self.at(key), f"got {shown(value)}", "true or false")
        return value

    def rate(self, key: str, default: Any = 0) -> float:
        """Returns a share, at least 0 and below 1."""
        value = self.take(key, default)
        if type(value) not in (int, float) or not 0 <= value < 1:
            raise InvalidError(self.at(key), f"got {shown(value)}", "a number from 0 to below 1")
        return float(value)

    def only(self, key: str, *accepted: Any, default: Any = _ABSENT) -> None:
        """Takes a key whose value must be one of those that a chain can represent."""
        value = self.take(key, default)
        if not any(type(value) is type(one) and value == one for one in accepted):
            words = " or ".join(shown(one) for i, one in enumerate(accepted) if one not in accepted[:i])
            raise InvalidError(self.at(key), f"got {shown(value)}", f"{words}: nothing else can be represented")

    def equal(self, key: str, flowing: int) -> None:
        """Takes a number that must be the one that flows there."""
        if (value := self.number(key, 1)) != flowing:
            raise InvalidError(self.at(key), f"got {value}", f"{flowing}, which the layers before it give")

    def odd(self, key: str, default: int) -> int:
        """Returns an odd number from 1 on, such as the size of a kernel."""
        value = self.number(key, 1, default)
        if value % 2 == 0:
            raise InvalidError(self.at(key), f"got {value}", "an odd number")
        return value

    def end(self) -> None:
        """Refuses the keys that have not been taken."""
        if self._values:
            raise InvalidError(self.at(next(iter(self._values))), "is an unknown field")


def shown(value: Any) -> str:
    """Returns a value of a file for an error, in the words of JSON."""
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    if isinstance(value, list) and len(value) <= 4 and all(type(one) in (int, float) for one in value):
        return f"[{', '.join(map(shown, value))}]"
    return f"{value!r:.60}" if isinstance(value, str | int | float) else f"a value of type {type(value).__name__}"
