"""Determines which networks no other one beats in both accuracy and cost, and draws accuracy over cost."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Point:
    """A network in a picture, with a label for one or several bounds or searches."""

    label: str
    cost: float
    top1: float
    """Percent."""
    series: str = ""
    """Points of one series have one colour."""


@dataclass(frozen=True)
class Panel:
    """The networks of one picture, whose costs can be compared."""

    title: str
    cost: str
    """The label of the horizontal axis, with its unit."""
    points: tuple[Point, ...]


def on_front(points: Sequence[Point]) -> list[bool]:
    """Returns for each point whether it is on the front: no other point has a lower cost and at least its accuracy, or
    a higher accuracy at no more cost. Equal points are both on it, or neither."""
    kept = [False] * len(points)
    best, cost_of_best = -float("inf"), float("nan")
    for i in sorted(range(len(points)), key=lambda i: (points[i].cost, -points[i].top1)):
        p = points[i]
        kept[i] = p.top1 > best or (p.top1 == best and p.cost == cost_of_best)
        if p.top1 > best:
            best, cost_of_best = p.top1, p.cost
    return kept


def draw_fronts(path: Path, panels: Sequence[Panel]) -> None:
    """Writes the picture of `front_figure` as a PNG, atomically."""
    content = io.BytesIO()
    front_figure(panels).savefig(content, format="png", dpi=120)
    write_atomically(path, content.getvalue())


def front_figure(panels: Sequence[Panel]) -> Figure:
    """Draws accuracy over cost, with axes for each panel: the front as steps, dominated points hollow."""
    from matplotlib.figure import Figure  # not pyplot: it keeps figures and picks a backend

    figure = Figure(figsize=(6 * len(panels), 4.5), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw_front(axes, panel, "top-1 % with the supernet's weights")
    return figure


def draw_front(axes: Axes, panel: Panel, accuracy: str) -> None:
    """Draws a panel: the front as steps, dominated points hollow. accuracy: the label of the vertical axis."""
    front = on_front(panel.points)
    steps = sorted({(p.cost, p.top1) for p, kept in zip(panel.points, front, strict=True) if kept})
    axes.step([c for c, _ in steps], [a for _, a in steps], where="post", color="0.6", linewidth=1)
    names = list(dict.fromkeys(p.series for p in panel.points))
    for p, kept in zip(panel.points, front, strict=True):
        colour = f"C{names.index(p.series) % 10}"
        axes.plot(p.cost, p.top1, "o", markersize=5, color=colour, markerfacecolor=colour if kept else "none")
        axes.annotate(p.label, (p.cost, p.top1), xytext=(4, -9), textcoords="offset points", fontsize=7)
    axes.set(xlabel=panel.cost, ylabel=accuracy, title=panel.title)
    axes.margins(x=0.1, y=0.1)
