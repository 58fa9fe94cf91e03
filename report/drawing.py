"""Draws charts as SVG inside the page: texts are texts, colours are classes of the page's style sheet (page.css).

A chart is about as wide as a phone (340 units), so that its letters are readable there, and grows to a multiple of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 340, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 12, 34
MOST_POINTS = 240
"""The most points of a line; of more, each stretch shows its mean."""
ROW = 20
"""The height of a row of a picture that lists layers or edges."""
LEVELS = 10
"""The shades of a probability from 0 to 1."""
SERIES = 6
"""The colours of series, which are classes s0, s1, ..."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A line of a chart."""

    name: str
    points: Sequence[Point]
    dashed: bool = False


@dataclass(frozen=True)
class Marks:
    """Points of a chart that are not joined."""

    name: str
    points: Sequence[Point]
    labels: Sequence[str] = ()
    shape: str = "dot"
    """dot, ring or star."""


@dataclass(frozen=True)
class Bar:
    """A layer of a picture of an architecture."""

    place: str
    op: str
    kind: int
    """The number of its colour."""
    value: float | None
    """What its bar shows; None if it is not known."""
    text: str
    """The value in words."""
    skip: bool = False


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Returns at most `count` + 1 round numbers that lie between two numbers."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    step = 10.0 ** math.floor(math.log10(span / count))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (factor * step) <= count)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """Returns a number for an axis: few digits, with k and M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"


def thinned(points: Sequence[Point]) -> list[Point]:
    """Returns at most MOST_POINTS points: the means of equally many neighbours."""
    size = -(-len(points) // MOST_POINTS)
    if size <= 1:
        return list(points)
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return [(part[-1][0], sum(y for _, y in part) / len(part)) for part in parts]


class _Axes:
    """The frame of a chart: from numbers to places, with ticks and titles."""

    def __init__(self, points: Sequence[Point], x_title: str, y_title: str, *, square: bool = False):
        xs, ys = [x for x, _ in points], [y for _, y in points]
        self.x, self.y = _range(xs), _range(ys)
        if square:
            self.x = self.y = (min(self.x[0], self.y[0]), max(self.x[1], self.y[1]))
        self.titles = x_title, y_title

    def at(self, x: float, y: float) -> tuple[float, float]:
        right = LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT)
        down = HEIGHT - BOTTOM - (y - self.y[0]) / (self.y[1] - self.y[0]) * (HEIGHT - TOP - BOTTOM)
        return right, down

    def drawn(self) -> str:
        parts = []
        for value in ticks(*self.x):
            x, _ = self.at(value, self.y[0])
            parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
            parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 13}">{number(value)}</text>')
        for value in ticks(*self.y):
            _, y = self.at(self.x[0], value)
            parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
            parts.append(f'<text class="tick end" x="{LEFT - 4}" y="{y + 4:.1f}">{number(value)}</text>')
        parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
        middle, across = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
        parts.append(f'<text class="tick" x="{middle}" y="{HEIGHT - 5}">{escape(self.titles[0])}</text>')
        turned = f'transform="translate(10 {across}) rotate(-90)"'
        parts.append(f'<text class="tick" {turned}>{escape(self.titles[1])}</text>')
        return "".join(parts)


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or abs(high) * 0.1 or 1.0
    return low - margin, high + margin


def chart(title: str, lines: Sequence[Line], marks: Sequence[Marks], x: str, y: str, *, diagonal: bool = False) -> str:
    """Returns a chart of lines and points with a legend, as a figure; nothing if there is no point.

    title: its heading. x, y: the titles of the axes. diagonal: whether the line y = x is drawn, and both axes have one
    range.
    """
    finite = [
        Line(line.name, thinned([p for p in line.points if all(map(math.isfinite, p))]), line.dashed) for line in lines
    ]
    shown = [line for line in finite if line.points]
    every = [p for line in shown for p in line.points] + [p for group in marks for p in group.points]
    if not every:
        return ""
    axes = _Axes(every, x, y, square=diagonal)
    parts = [axes.drawn()]
    if diagonal:
        (a, b), (c, d) = axes.at(axes.x[0], axes.x[0]), axes.at(axes.x[1], axes.x[1])
        parts.append(f'<path class="axis dash" d="M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}"/>')
    for i, line in enumerate(shown):
        places = " ".join("{:.1f} {:.1f}".format(*axes.at(*point)) for point in line.points)
        dash = " dash" if line.dashed else ""
        if len(line.points) == 1:
            parts.append(_mark("dot", *axes.at(*line.points[0]), i, ""))
        else:
            parts.append(f'<path class="line s{i % SERIES}{dash}" d="M{places}"/>')
    for k, group in enumerate(marks, len(shown)):
        for i, point in enumerate(group.points):
            label = group.labels[i] if i < len(group.labels) else ""
            parts.append(_mark(group.shape, *axes.at(*point), k, label))
    named = [(line.name, i, "dash" if line.dashed else "line") for i, line in enumerate(shown)]
    named += [(group.name, k, group.shape) for k, group in enumerate(marks, len(shown))]
    return _figure(title, svg(WIDTH, HEIGHT, "".join(parts), title), _legend(named))


def _mark(shape: str, x: float, y: float, series: int, label: str) -> str:
    hint = f"<title>{escape(label)}</title>" if label else ""
    kind = f"s{series % SERIES}"
    if shape == "star":
        turns = [(7 if k % 2 == 0 else 3, math.pi * k / 5) for k in range(10)]
        corners = " ".join(f"{x + r * math.sin(a):.1f} {y - r * math.cos(a):.1f}" for r, a in turns)
        return f'<path class="fill {kind}" d="M{corners}z">{hint}</path>'
    drawn = "ring" if shape == "ring" else "fill"
    return f'<circle class="{drawn} {kind}" cx="{x:.1f}" cy="{y:.1f}" r="4">{hint}</circle>'


def _legend(named: Sequence[tuple[str, int, str]]) -> str:
    """Returns the legend of a chart. named: the name, the number of the colour and the shape of each series."""
    entries = []
    for name, series, shape in named:
        if shape in ("line", "dash"):
            mark = f'<path class="line s{series % SERIES}{" dash" if shape == "dash" else ""}" d="M0 7H22"/>'
        else:
            mark = _mark(shape, 11, 7, series, "")
        key = f'<svg class="key" viewBox="0 0 22 14" aria-hidden="true">{mark}</svg>'
        entries.append(f"<li>{key}{escape(name)}</li>")
    return f'<ul class="legend">{"".join(entries)}</ul>'


def svg(width: float, height: float, content: str, title: str) -> str:
    """Returns a picture with its title, which screen readers read."""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}" '
        f'style="max-width:{1.6 * width:g}px">{content}</svg>'
    )


def _figure(title: str, picture: str, below: str = "") -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption>{picture}{below}</figure>"


def heat(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Mapping[int, float]],
    framed: Sequence[int],
) -> str:
    """Returns the picture of a matrix of probabilities: a row for each edge, a column for each candidate.

    values: of each row, the probability by the number of the column; a column that is missing is left empty. framed:
    the column of each row that is framed; -1 frames none.
    """
    left, cell = 8 + 6.2 * max(map(len, rows)), 38
    head = 12 + 5.2 * max(map(len, columns))
    width, height = left + cell * len(columns) + 30, head + ROW * len(rows) + 4
    parts = []
    for k, name in enumerate(columns):
        at = f"translate({left + cell * k + 16:g} {head - 5:g}) rotate(-55)"
        parts.append(f'<text class="label" transform="{at}">{escape(name)}</text>')
    for e, name in enumerate(rows):
        y = head + ROW * e
        parts.append(f'<text class="label end" x="{left - 5:g}" y="{y + 14:g}">{escape(name)}</text>')
        for k, p in values[e].items():
            level = min(LEVELS, max(0, round(p * LEVELS)))
            x = left + cell * k
            parts.append(f'<rect class="p{level}" x="{x:g}" y="{y:g}" width="{cell - 2}" height="{ROW - 2}"/>')
            parts.append(f'<text class="t{level}" x="{x + cell / 2 - 1:g}" y="{y + 13.5:g}">{p:.2f}</text>')
        if framed[e] >= 0:
            x = left + cell * framed[e]
            parts.append(f'<rect class="frame" x="{x:g}" y="{y:g}" width="{cell - 2}" height="{ROW - 2}"/>')
    return _figure(title, svg(width, height, "".join(parts), title))


def layers(title: str, bars: Sequence[Bar], unit: str) -> str:
    """Returns the picture of an architecture from the stem down: the op of each layer, and a bar for what it costs.

    unit: of the bars, in words.
    """
    left = 8 + 6.2 * max(len(bar.place) for bar in bars)
    middle = left + 16 + 6.9 * max(len(bar.op) for bar in bars)
    room = max(90.0, WIDTH - middle - 50)
    most = max((bar.value or 0.0 for bar in bars), default=0.0) or 1.0
    parts = []
    for i, bar in enumerate(bars):
        y = 4 + ROW * i
        parts.append(f'<text class="label end" x="{left - 5:g}" y="{y + 13:g}">{escape(bar.place)}</text>')
        if bar.skip:
            parts.append(f'<path class="axis dash" d="M{left + 4:g} {y}v{ROW}"/>')
            parts.append(f'<text class="label dim" x="{left + 12:g}" y="{y + 13:g}">{escape(bar.op)}</text>')
        else:
            parts.append(
                f'<rect class="fill s{bar.kind % SERIES}" x="{left:g}" y="{y + 1}" width="8" height="{ROW - 2}"/>'
            )
            parts.append(f'<text class="label" x="{left + 12:g}" y="{y + 13:g}">{escape(bar.op)}</text>')
            if bar.value is not None:
                size = room * bar.value / most
                parts.append(
                    f'<rect class="fill s{bar.kind % SERIES}" x="{middle:g}" y="{y + 3}" width="{size:.1f}" '
                    f'height="{ROW - 6}"/>'
                )
                parts.append(
                    f'<text class="label" x="{middle + size + 4:.1f}" y="{y + 13:g}">{escape(bar.text)}</text>'
                )
    caption = f"{title}; the bars: {unit}"
    return _figure(caption, svg(middle + room + 52, 8 + ROW * len(bars), "".join(parts), caption))
