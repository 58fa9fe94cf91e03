"""Which candidate trains when, while alpha does not draw the paths: evenly, whatever chance would do.

With paths drawn at random, one candidate of an edge would be trained more often than another and look better for it.
FairNAS (arXiv 1907.01845, Sec. 3.2) trains each equally often. Here the candidates that look at one pixel alone (skip,
proj, conv_k1) are trained half as often: a network with few other layers has little in common with the networks that a
search is about, and every step that trains such a one is missing to them (docs/results.md).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from supernet.space import Space


def training_slots(space: Space) -> Tensor:
    """(searchable edges, S) int64: each edge's candidates as often as they are trained in a block of S, -1 behind them.

    Once each; where an edge has spatial candidates and others, the spatial ones twice.
    """
    rows = []
    for edge in space.searchable:
        spatial = [layer.spec.spatial for layer in edge.layers]
        times = [1 + (of_it and not all(spatial)) for of_it in spatial]
        rows.append([i for i, count in enumerate(times) for _ in range(count)])
    slots = torch.full((len(rows), max(map(len, rows), default=0)), -1, dtype=torch.int64)
    for e, row in enumerate(rows):
        slots[e, : len(row)] = torch.tensor(row)
    return slots


def balanced_paths(slots: Tensor, block: torch.Generator, position: int) -> tuple[int, ...]:
    """One path of a block of S. Paths of two positions take different slots of an edge, and edges are independent.

    slots (E, S): of `training_slots`. An edge with n of them takes each floor(S / n) or ceil(S / n) times in a block.
    block: a generator seeded alike for all S positions of a block.
    """
    edges, most = slots.shape
    filled = slots >= 0
    order = torch.rand((most, edges), generator=block).argsort(dim=0)[position]  # (E,): each place once in a block
    places = torch.rand((edges, most), generator=block).masked_fill(~filled, math.inf).argsort(dim=1)  # empty ones last
    taken = places.gather(1, (order % filled.sum(dim=1))[:, None])
    return tuple(slots.gather(1, taken)[:, 0].tolist())
