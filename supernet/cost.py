"""Additive costs: one number per layer, summed along a path. MACs, parameters, table latencies have this form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from supernet.space import Layer, Space


@dataclass(frozen=True, eq=False)
class Cost:
    """cost(paths) = fixed + sum_e table[e, paths[e]].

    fixed: stem, head and fixed edges. table: (searchable edges, most candidates) float64, padding 0. mask: its shape.
    """

    fixed: float
    table: np.ndarray
    mask: np.ndarray

    @classmethod
    def of_space(cls, space: Space, price: Callable[[Layer, str], float], *, constant: float = 0.0) -> Cost:
        """Ask `price(layer, place)` for each layer of the space; `constant` is added once per network."""
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
        return self.fixed + float(self.table[np.arange(len(paths)), list(paths)].sum())

    @property
    def reachable(self) -> tuple[float, float]:
        """Smallest and largest cost of any architecture."""
        low = np.where(self.mask, self.table, np.inf).min(axis=1, initial=np.inf)
        high = np.where(self.mask, self.table, -np.inf).max(axis=1, initial=-np.inf)
        return self.fixed + float(low.sum()), self.fixed + float(high.sum())


def macs_cost(space: Space) -> Cost:
    return Cost.of_space(space, lambda layer, _: layer.complexity.macs)


def params_cost(space: Space) -> Cost:
    return Cost.of_space(space, lambda layer, _: layer.complexity.params)
