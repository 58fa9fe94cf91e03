"""Draws a comparison: the matrix of latencies, and accuracy over latency on each device."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from search.many.pareto import Panel, Point, draw_front
from search.picture import CHOSEN, TEXT_ON_DARK, TEXT_ON_LIGHT

if TYPE_CHECKING:
    from proxyless_nas.comparison.table import Comparison

SLOWEST = 4.0
"""How many times as long as the fastest network one takes that has the darkest colour."""
DARK = 2.0
"""How many times as long as the fastest one a network takes whose cell has white letters."""
PANELS_IN_A_ROW = 3
DPI = 120
LONGEST_LABEL = 32
"""Characters of a network's name in the picture."""


def drawn(comparison: Comparison) -> bytes:
    """Returns the picture as a PNG.

    Above is the matrix: a row for each network, a column for each device, the colour of a cell being its latency over
    the fastest one of the column, and the fastest framed. Below is accuracy over latency, the front as steps, for each
    device and set of images with at least two networks.
    """
    panels = _panels(comparison)
    below = math.ceil(len(panels) / PANELS_IN_A_ROW)
    across = min(len(panels), PANELS_IN_A_ROW)
    matrix_height = 1.6 + 0.42 * len(comparison.rows)
    width = max(3.5 + 1.5 * max(1, len(comparison.columns)), 4.6 * across)
    figure = Figure(figsize=(width, matrix_height + 4.2 * below), layout="constrained")
    heights = [matrix_height, 4.2 * below] if panels else [matrix_height]
    upper, *lower = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _draw_matrix(upper, comparison)
    if panels:
        places = lower[0].subplots(below, across, squeeze=False).ravel()
        for axes, (panel, basis) in zip(places, panels, strict=False):
            draw_front(axes, panel, f"top-1 % ({basis})")
            axes.margins(x=0.35, y=0.1)  # names are to the right of the points
        for axes in places[len(panels) :]:
            axes.set_axis_off()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI)
    return content.getvalue()


def _label(name: str) -> str:
    """Returns a network's name as it fits beside a picture: of a long path the end."""
    return name if len(name) <= LONGEST_LABEL else "…" + name[1 - LONGEST_LABEL :]


def _draw_matrix(figure: Any, comparison: Comparison) -> None:
    axes = figure.subplots()
    names = [_label(row.name) for row in comparison.rows]
    if not comparison.columns:  # sizes alone
        axes.barh(range(len(names)), [row.macs / 1e6 for row in comparison.rows])
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlabel("MACs [M]")
        return
    ms = comparison.matrix
    known = np.where(np.isnan(ms), np.inf, ms)
    least = np.empty_like(ms)
    tasks = np.array([row.classes for row in comparison.rows])
    for task in set(tasks.tolist()):  # networks for the same task are compared with each other
        least[tasks == task] = known[tasks == task].min(axis=0)
    ratio = np.where(np.isnan(ms), np.nan, ms / np.where(np.isinf(least), 1.0, least))
    image = axes.imshow(ratio, norm=LogNorm(1.0, SLOWEST), cmap="viridis_r", aspect="auto")
    fastest = {(v.column, name) for v in comparison.verdicts if v.steady for name in v.fastest}
    for y, row in enumerate(comparison.rows):
        for x, column in enumerate(comparison.columns):
            latency = comparison.latency(row, column)
            text = "-" if latency.ms is None else f"{latency.ms:.3g}" + ("" if latency.steady else " ~")
            dark = latency.ms is not None and ratio[y, x] > DARK
            axes.text(x, y, text, ha="center", va="center", color=TEXT_ON_DARK if dark else TEXT_ON_LIGHT)
            if (column.name, row.name) in fastest:
                corner = (x - 0.47, y - 0.47)
                axes.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, edgecolor=CHOSEN, linewidth=2))
    axes.set_xticks(range(len(comparison.columns)), [f"{c.short}\n{c.kind}" for c in comparison.columns])
    axes.set_yticks(range(len(names)), names)
    axes.xaxis.tick_top()
    axes.set_title("latency [ms]; framed: the fastest, or not told apart from it")
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, ticks=[1, 1.5, 2, 3, 4])
    bar.ax.set_yticklabels(["1", "1.5", "2", "3", "4"])
    bar.ax.minorticks_off()
    bar.set_label("times the fastest")


def _panels(comparison: Comparison) -> list[tuple[Panel, str]]:
    """Returns the panels of accuracy over latency, each with its set of images in words."""
    panels = []
    for column in comparison.columns:
        bases = dict.fromkeys(a.basis for row in comparison.rows for a in row.accuracies)
        for basis in bases:
            points = [
                Point(_label(row.name), latency.ms, accuracy.top1, row.name)
                for row in comparison.rows
                for accuracy in row.accuracies
                if accuracy.basis == basis and (latency := comparison.latency(row, column)).ms is not None
            ]
            if len(points) > 1:
                panels.append((Panel(f"{column.short}, {column.kind}", column.heading, tuple(points)), basis))
    return panels
