"""Defines additive costs: one number per layer, summed over a path. MACs, parameters and latencies have this form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from supernet.space import Layer, Space


@dataclass(frozen=True, eq=False)
class Cost:
    """A cost of architectures: cost(paths) = fixed + sum_e table[e, paths[e]]."""

    fixed: float
    """The cost of stem, head and fixed edges."""
    table: np.ndarray
    """(searchable edges, most candidates) float64: the cost of each candidate; 0 where padded."""
    mask: np.ndarray
    """(searchable edges, most candidates) bool: True where there is a candidate."""

    @classmethod
    def of_space(cls, space: Space, price: Callable[[Layer, str], float], *, constant: float = 0.0) -> Cost:
        """Returns the cost whose number for each layer is `price(layer, place)`, with the places of `Space.places`.
        constant: is added once per network."""
        fixed, table = constant, np.zeros(space.mask.shape)
        rows = {edge.name: e for e, edge in enumerate(space.searchable)}
        columns = dict.fromkeys(rows, 0)
        for place, layer in space.places:
            if place in rows:
                table[rows[place], columns[place]] = price(layer, place)
                columns[place] += 1
            else:
                fixed += price(layer, place)
        return cls(float(fixed), table, space.mask)

    def of(self, paths: tuple[int, ...]) -> float:
        """Returns the cost of an architecture."""
        return self.fixed + float(self.table[np.arange(len(paths)), list(paths)].sum())

    @property
    def reachable(self) -> tuple[float, float]:
        """The smallest and the largest cost of any architecture."""
        low = np.where(self.mask, self.table, np.inf).min(axis=1, initial=np.inf)
        high = np.where(self.mask, self.table, -np.inf).max(axis=1, initial=-np.inf)
        return self.fixed + float(low.sum()), self.fixed + float(high.sum())


def macs_cost(space: Space) -> Cost:
    """Returns the multiply-accumulates of the space's layers as a cost."""
    return Cost.of_space(space, lambda layer, _: layer.complexity.macs)


def params_cost(space: Space) -> Cost:
    """Returns the parameters of the space's layers as a cost."""
    return Cost.of_space(space, lambda layer, _: layer.complexity.params)
