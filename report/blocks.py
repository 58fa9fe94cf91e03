"""Defines what a page of a report consists of: sections of blocks, which page.html.j2 draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from report.drawing import Line, chart

MOST_ROWS = 500
"""The most rows of a table."""
UNKNOWN = "not known"

Mood = Literal["", "good", "bad", "unsure", "dim"]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    mood: Mood = ""
    kind: str = "text"


@dataclass(frozen=True)
class Table:
    """A table, whose first column names its rows."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    """The number of first columns that are words; the others are aligned as numbers."""
    total: bool = False
    """Whether the last row is a sum."""
    folded: bool = False
    kind: str = "table"


@dataclass(frozen=True)
class Figures:
    """Pictures side by side, where there is room."""

    figures: Sequence[Any]
    kind: str = "figures"


@dataclass(frozen=True)
class Frame:
    """A picture of a slider."""

    label: str
    picture: Any


@dataclass(frozen=True)
class Slider:
    """Pictures of which one is shown, chosen by radio buttons."""

    legend: str
    frames: Sequence[Frame]
    kind: str = "slider"


@dataclass(frozen=True)
class Listing:
    """A text of a file, folded."""

    caption: str
    text: str
    kind: str = "listing"


Block = Text | Table | Figures | Slider | Listing


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading."""

    id: str
    heading: str
    blocks: Sequence[Block] = field(default_factory=tuple)


@dataclass(frozen=True)
class Tile:
    """A figure at the top of the page."""

    name: str
    value: str
    more: str = ""


def lines(
    title: str, curves: Mapping[str, Sequence[tuple[float, float]]], tags: Mapping[str, str], unit: str, x: str = "step"
) -> str:
    """Returns the chart of the curves of these tags, each with the name that `tags` gives it; "" if there is none."""
    drawn = [Line(name, curves[tag], tag.startswith("target/")) for tag, name in tags.items() if curves.get(tag)]
    return chart(title, drawn, [], x, unit)
