"""Defines the error for a wrong value: one line, whose parts a program can read."""

from __future__ import annotations

from typing import Self


class InvalidError(ValueError):
    """A wrong value. Its text is `where: found, expected E. Did you mean 'S'?; remedy`, without the parts that are
    empty."""

    def __init__(
        self, where: str = "", found: str = "", expected: str = "", remedy: str = "", *, suggestion: str = ""
    ) -> None:
        """Takes the parts; each may be empty.

        where: the key, file or candidate at fault. found: what is there. expected: what is accepted. remedy: what to
        do. suggestion: the accepted name that is nearest.
        """
        super().__init__(where, found, expected, remedy)
        self.where, self.found, self.expected, self.remedy = where, found, expected, remedy
        self.suggestions = (suggestion,) if suggestion else ()

    def __str__(self) -> str:
        text = ", ".join(filter(None, [self.found, self.expected and f"expected {self.expected}"]))
        question = f"Did you mean {' or '.join(map(repr, self.suggestions))}?" if self.suggestions else ""
        text = ". ".join(filter(None, [": ".join(filter(None, [self.where, text])), question]))
        return "; ".join(filter(None, [text, self.remedy]))

    @classmethod
    def of(cls, error: Exception, place: str = "") -> Self:
        """Returns an error of this class with the parts of another one, found at `place`. The text of an error without
        parts is what was found."""
        where = ": ".join(filter(None, [place, getattr(error, "where", "")]))
        if not isinstance(error, InvalidError):
            return cls(where, str(error))
        suggestion = error.suggestions[0] if error.suggestions else ""
        return cls(where, error.found, error.expected, error.remedy, suggestion=suggestion)
