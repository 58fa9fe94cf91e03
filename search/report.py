"""What a search tells while it runs: curves, and a picture of the path probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from engine.metrics import MetricsLog
from search.limits import Limit, limit_names
from search.objective import expected_cost
from search.state import SearchState
from supernet.alpha import entropy, mask_of, probabilities
from supernet.space import Space


def architecture_scalars(state: SearchState, limits: Sequence[Limit]) -> dict[str, float]:
    """Curves of alpha: entropy, and each limit's expected cost beside its target, and lambda."""
    mask = mask_of(state.net.space)
    p = probabilities(state.alpha.detach(), mask)
    values = {"arch/entropy": float(entropy(state.alpha.detach(), mask))}
    for name, limit, dual in zip(limit_names(limits), limits, state.duals, strict=True):
        values[f"expected/{name}"] = float(expected_cost(p, limit.cost))
        values[f"target/{name}"] = limit.bound
        values[f"lambda/{name}"] = dual.multiplier
    return values


def probabilities_picture(p: np.ndarray, space: Space) -> np.ndarray:
    """A heat map, edges down, candidates across: uint8 (height, width, 3)."""
    edges = space.searchable
    figure = Figure(figsize=(1.5 + 0.9 * p.shape[1], 1.0 + 0.3 * p.shape[0]), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.imshow(np.where(space.mask, p, np.nan), vmin=0, vmax=1, cmap="viridis", aspect="auto")
    for e, edge in enumerate(edges):
        for i, name in enumerate(edge.candidates):
            colour = "black" if p[e, i] > 0.6 else "white"
            axes.text(i, e, f"{name}\n{p[e, i]:.2f}", ha="center", va="center", fontsize=5, color=colour)
    axes.set_yticks(range(len(edges)), [edge.name for edge in edges], fontsize=6)
    axes.set_xticks([])
    axes.set_title("path probabilities", fontsize=8)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def log_picture(log: MetricsLog, step: int, state: SearchState) -> None:
    space = state.net.space
    p = probabilities(state.alpha.detach(), mask_of(space)).numpy()
    log.image(step, "arch/probabilities", probabilities_picture(p, space))
