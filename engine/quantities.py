"""Formats numbers for people: few digits, and the unit that keeps them short."""

from __future__ import annotations

import math

COUNTED = ("MACs", "parameters", "bytes")
"""The units that get k, M and G; others, such as ms, are written plainly."""


def amount(value: float, digits: int = 3) -> str:
    """Returns a number of at most `digits` digits with the unit k, M, G or T, e.g. `5.3 M`."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        # a number that would round up to 1e+03 k is 1 M
        if abs(value) >= size * (1 - 0.5 * 10**-digits):
            return f"{value / size:.{digits}g} {unit}"
    return f"{value:.{digits}g}"


def quantity(value: float, unit: str, digits: int = 4) -> str:
    """Returns a number with its unit, e.g. `300 M MACs`, `1.5 MB`, `12.25 ms`."""
    if unit not in COUNTED:
        return f"{value:.{digits}g} {unit}"
    number = amount(value, digits)
    return f"{number}B" if unit == "bytes" and number[-1].isalpha() else f"{number} {unit}"


def duration(ms: float) -> str:
    """Returns milliseconds in the unit that fits, e.g. `1.2 us`, `34.5 ms`, `2.1 s`."""
    size = abs(ms)
    if not math.isfinite(ms) or size == 0:
        return f"{ms:g} ms"
    if size < 0.1:
        return f"{ms * 1e3:.3g} us"
    return f"{ms:.3g} ms" if size < 1000 else f"{ms / 1e3:.4g} s" if size < 1e6 else f"{ms / 3.6e6:.3g} h"


def rate(gmacs: float) -> str:
    """Returns a speed in GMAC/s in the unit that fits, e.g. `850 MAC/s`, `12 MMAC/s`, `3.2 GMAC/s`, `3.2 TMAC/s`."""
    if not math.isfinite(gmacs) or gmacs <= 0:
        return f"{gmacs:g} GMAC/s"
    number = amount(gmacs * 1e9)
    return f"{number}MAC/s" if number[-1].isalpha() else f"{number} MAC/s"


TOP5_CLASSES = 6
"""The fewest classes for which top-5 is shown: with fewer it is 100 % for every network."""


def accuracy_text(top1: float, top5: float, loss: float, classes: int) -> str:
    """Returns accuracies in percent and the loss as text; top-5 only with more than 5 classes, since it is 100 %
    otherwise."""
    fifth = f", top-5 {top5:.2f} %" if classes >= TOP5_CLASSES else ""
    return f"top-1 {top1:.2f} %{fifth}, loss {loss:.4f}"
