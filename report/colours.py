"""Defines the colours of the page, for a light and a dark screen, as variables of its style sheet."""

from __future__ import annotations

from collections.abc import Mapping

from report.drawing import LEVELS

Palette = Mapping[str, str]

LIGHT: Palette = {
    "page": "#ffffff", "panel": "#f4f6f8", "text": "#1b1f24", "dim": "#57606a", "link": "#0550ae", "line": "#d0d7de",
    "axis": "#6e7781", "good": "#116329", "bad": "#a40e26", "unsure": "#7d4e00",
    "s0": "#0969da", "s1": "#bc4c00", "s2": "#1a7f37", "s3": "#8250df", "s4": "#bf3989", "s5": "#57606a",
}  # fmt: skip
DARK: Palette = {
    "page": "#0d1117", "panel": "#161b22", "text": "#e6edf3", "dim": "#9da7b1", "link": "#79b8ff", "line": "#30363d",
    "axis": "#8b949e", "good": "#56d364", "bad": "#ff9492", "unsure": "#e3b341",
    "s0": "#58a6ff", "s1": "#f0883e", "s2": "#3fb950", "s3": "#bc8cff", "s4": "#f778ba", "s5": "#9da7b1",
}  # fmt: skip
TEXTS = ("text", "dim", "link", "good", "bad", "unsure")
"""Colours of letters, which need a contrast of 4.5 to `page` and `panel` (WCAG 2.2, AA)."""
GRAPHICS = ("axis", "s0", "s1", "s2", "s3", "s4", "s5")
"""Colours of lines and areas, which need a contrast of 3."""


def shades() -> list[tuple[str, str]]:
    """Returns the colours of a cell and of the letters in it, from probability 0 to 1, on light and dark screens."""
    found = []
    for level in range(LEVELS + 1):
        share = level / LEVELS
        cell = "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in ((236, 8), (241, 60), (248, 130)))
        black, white = "#000000", "#ffffff"
        found.append((cell, black if contrast(black, cell) >= contrast(white, cell) else white))
    return found


def contrast(one: str, other: str) -> float:
    """Returns the contrast ratio of two colours `#rrggbb`, from 1 to 21 (WCAG 2.2)."""
    dark, light = sorted(map(_luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def variables() -> str:
    """Returns the variables of the style sheet, and the classes of the shades."""
    light, dark = (";".join(f"--{name}:{value}" for name, value in p.items()) for p in (LIGHT, DARK))
    cells = "".join(f".p{i}{{fill:{cell}}}.t{i}{{fill:{text}}}" for i, (cell, text) in enumerate(shades()))
    series = "".join(f".s{i}{{--c:var(--s{i})}}" for i in range(6))
    return f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}{series}{cells}"
