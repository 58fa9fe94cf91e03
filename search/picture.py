"""Draws the path probabilities as a picture that is readable in a card of TensorBoard. Its colours are the constants
below."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.quantities import amount
from search.limits.combine import members
from search.limits.limit import AdditiveLimit
from supernet.space import Space

CELL = (0.85, 0.6)
"""Width and height of a cell, in inches."""
DPI, MOST_PIXELS = 100, 4000
"""A card shows the picture at a third to a half of its size, hence the large letters; huge spaces get fewer dots."""
PROBABILITY = "viridis"
"""The colour map of probabilities from 0 to 1, of matplotlib: from dark blue to yellow."""
ABSENT = "#d9d9d9"
"""The colour of cells of candidates that an edge does not have: light grey."""
CHOSEN = "#e8000b"
"""The colour of the frames around the chosen candidates: red."""
TEXT_ON_DARK, TEXT_ON_LIGHT, LIGHT_ABOVE = "white", "black", 0.6
"""The colours of the numbers in a cell, and the probability above which its background is light."""
STAGE_LINE = "black"
"""The colour of the lines between stages."""


def probabilities_picture(
    p: np.ndarray, space: Space, paths: tuple[int, ...] | None, limits: Sequence[AdditiveLimit]
) -> np.ndarray:
    """Returns the picture, uint8 (height, width, 3): a column per searchable edge and a row per candidate, since
    TensorBoard's cards are wide.

    p: (edges, candidates). paths: the network whose candidates are framed; None frames none. Below each probability is
    the cell's cost for the first limit on latency, or for the first limit if there is none on latency.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    edges = space.searchable
    names = list(dict.fromkeys(name for edge in edges for name in edge.candidates))
    rows = [[names.index(name) for name in edge.candidates] for edge in edges]
    cells = np.full((len(names), len(edges)), np.nan)
    for e, places in enumerate(rows):
        cells[places, e] = p[e, : len(places)]
    costs, unit = _costs(limits)

    size = 3.6 + CELL[0] * len(edges), 2.2 + CELL[1] * len(names)
    figure = Figure(figsize=size, dpi=min(DPI, MOST_PIXELS / max(size)), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_facecolor(ABSENT)
    image = axes.imshow(cells, vmin=0, vmax=1, cmap=PROBABILITY, aspect="auto")
    for e, places in enumerate(rows):
        for i, y in enumerate(places):
            colour = TEXT_ON_LIGHT if p[e, i] > LIGHT_ABOVE else TEXT_ON_DARK
            axes.text(e, y - 0.16, f"{p[e, i]:.2f}", ha="center", va="center", fontsize=18, weight="bold", color=colour)
            if costs is not None:
                axes.text(e, y + 0.27, _short(costs[e, i], unit), ha="center", va="center", fontsize=13.5, color=colour)
    for e, path in enumerate(paths or ()):
        corner = (e - 0.46, rows[e][path] - 0.46)
        axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, edgecolor=CHOSEN, linewidth=4))
    for e in range(1, len(edges)):
        if edges[e].stage != edges[e - 1].stage:
            axes.axvline(e - 0.5, color=STAGE_LINE, linewidth=4)
    axes.set_xticks(range(len(edges)), [edge.name.removeprefix("stage") for edge in edges], fontsize=17)
    axes.set_yticks(range(len(names)), names, fontsize=17)
    axes.set_xlabel("edge (stage.place)" + (f"; small: cost in {unit}" if costs is not None else ""), fontsize=18)
    axes.set_ylabel("candidate", fontsize=18)
    axes.set_title("path probabilities" + ("; framed: derived now" if paths is not None else ""), fontsize=18)
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.01)
    bar.set_label("probability", fontsize=17)
    bar.ax.tick_params(labelsize=15)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _costs(limits: Sequence[AdditiveLimit]) -> tuple[np.ndarray | None, str]:
    """Returns the costs (edges, candidates) of the limit to show, and their unit; for several tables the largest
    entry."""
    if not limits:
        return None, ""
    limit = next((limit for limit in limits if limit.metric == "latency"), limits[0])
    return np.max([cost.table for cost in members(limit.cost)], axis=0), limit.unit


def _short(cost: float, unit: str) -> str:
    return f"{cost:.3g}" if unit == "ms" else amount(cost)
