"""Draws paths such that the candidates of an edge are trained evenly.

A search trains the weights on these balanced paths in its warm-up; after it, alpha draws the paths, except in a search
by regression, which uses balanced paths throughout.

With paths drawn at random, one candidate of an edge would be trained more often than another and look better for it.
FairNAS (arXiv 1907.01845, Sec. 3.2) trains each equally often. Here the candidates that look at one pixel alone (skip,
proj, conv_k1) are trained half as often: a network with few other layers has little in common with the networks that a
search ends with, and steps spent on it are lost to them (docs/results.md).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from supernet.space import Space


def training_slots(space: Space) -> Tensor:
    """Returns the candidates of each edge, each as often as it is trained in a block of S steps: (searchable edges, S)
    int64, filled up with -1.

    A candidate is listed once; if an edge has both spatial candidates and others, the spatial ones are listed twice.
    """
    rows = []
    for edge in space.searchable:
        spatial = [layer.spec.spatial for layer in edge.layers]
        times = [2 if is_spatial and not all(spatial) else 1 for is_spatial in spatial]
        rows.append([i for i, count in enumerate(times) for _ in range(count)])
    slots = torch.full((len(rows), max(map(len, rows), default=0)), -1, dtype=torch.int64)
    for e, row in enumerate(rows):
        slots[e, : len(row)] = torch.tensor(row)
    return slots


def balanced_paths(slots: Tensor, block: torch.Generator, position: int) -> tuple[int, ...]:
    """Returns the path at one position of a block of S steps. Edges are independent.

    slots (E, S): as `training_slots` returns them. An edge that has n slots takes each of them floor(S / n) or
    ceil(S / n) times in a block. block: a generator with the same seed for all S positions of a block.
    """
    edges, most = slots.shape
    filled = slots >= 0
    order = torch.rand((most, edges), generator=block).argsort(dim=0)[position]  # (E,): each place once in a block
    places = torch.rand((edges, most), generator=block).masked_fill(~filled, math.inf).argsort(dim=1)  # empty ones last
    taken = places.gather(1, (order % filled.sum(dim=1))[:, None])
    return tuple(slots.gather(1, taken)[:, 0].tolist())
