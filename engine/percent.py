"""A share of a range as people write it: `50%`."""

from __future__ import annotations

import re
from typing import Self

from engine.errors import InvalidError

_PERCENT = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?\s*%")


class Percent(str):
    """A text `N%`, N from 0 to 100; a space may stand before the sign.

    It is the text as it was written, because the config of a run and the names of files repeat it. Raises InvalidError
    for any other text.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        text = text.strip()
        if not cls.matches(text):
            raise InvalidError("", f"got '{text[:60]}'", "0% to 100%, such as 50%")
        return super().__new__(cls, text)

    @staticmethod
    def matches(text: str) -> bool:
        """Returns whether a text, without spaces around it, is a percentage from 0 to 100."""
        return _PERCENT.fullmatch(text) is not None and float(text.rstrip("% ")) <= 100

    @property
    def number(self) -> float:
        """The number before the sign, from 0 to 100."""
        return float(self.rstrip("% "))

    def between(self, low: float, high: float) -> float:
        """Returns the place in a range, in its unit: `low` at 0 % and `high` at 100 %, but for rounding."""
        return low + self.number / 100 * (high - low)
