"""Defines the error that the user of a kit can mend."""

from __future__ import annotations


class KitError(Exception):
    """Raised for a fault of the kit or the device that its user can mend; its text is one line."""

    def __init__(self, where: str, found: str = "", expected: str = "", remedy: str = ""):
        """Takes the parts, each of which may be empty.

        where: the file or option at fault. found: what is there. expected: what is accepted. remedy: what to do.
        """
        super().__init__(where, found, expected, remedy)
        self.where, self.found, self.expected, self.remedy = where, found, expected, remedy

    def __str__(self) -> str:
        text = ", ".join(filter(None, [self.found, self.expected and "expected " + self.expected]))
        text = ": ".join(filter(None, [self.where, text]))
        return "; ".join(filter(None, [text, self.remedy]))
