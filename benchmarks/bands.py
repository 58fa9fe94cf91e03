"""Ranks a network among those of equal cost, by percentile and gap, for benchmarks whose truth is known."""

import math
from dataclasses import dataclass

import numpy as np

from search.limits.limit import ROUNDING

BAND = 0.9
"""Networks of [BAND T, T] are compared."""


@dataclass(frozen=True)
class Band:
    """The networks of [BAND T, T]."""

    target: float
    indices: np.ndarray
    accuracies: np.ndarray

    @classmethod
    def of(cls, target: float, costs: np.ndarray, accuracy: np.ndarray) -> "Band":
        inside = np.nonzero((costs <= target * (1 + ROUNDING)) & (costs >= BAND * target))[0]
        return cls(target, inside, accuracy[inside])

    def middle(self, costs: np.ndarray) -> int:
        """The network of median cost."""
        return int(self.indices[np.argsort(costs[self.indices])[len(self.indices) // 2]])

    def percentile(self, index: int, accuracy: float) -> float:
        """Returns the share of the other networks that are worse, from 0 to 100; ties count half."""
        others = self.accuracies[self.indices != index]
        return 100 * float(((others < accuracy) + 0.5 * (others == accuracy)).mean())

    def gap(self, accuracy: float) -> float:
        """0 for the best network of the band, 1 for one that is as good as the band's mean."""
        best = float(self.accuracies.max())
        return (best - accuracy) / (best - float(self.accuracies.mean()))

    def chosen_by(self, losses: np.ndarray, count: int) -> tuple[float, float]:
        """(percentile, gap) of the one with the smallest loss among `count` networks of the band drawn without
        replacement: their exact expectations. losses: (len(indices),)."""
        order = np.argsort(losses)
        chances = self.chances(len(order), count)
        ranks = np.array([self.percentile(int(self.indices[i]), float(self.accuracies[i])) for i in order])
        return float(chances @ ranks), float(chances @ np.array([self.gap(float(self.accuracies[i])) for i in order]))

    def random_search(self, count: int) -> tuple[float, float]:
        """(percentile, gap) of the best of `count` networks drawn without replacement: their exact expectations."""
        # the most accurate is the one with the smallest "loss"; it has to return a network, so it trains one or more
        return self.chosen_by(-self.accuracies, max(1, count))

    @staticmethod
    def chances(n: int, count: int) -> np.ndarray:
        """(n,): the probability that number i of n, in order, is the first of `count` drawn without replacement."""
        count = min(count, n)
        return np.array([math.comb(n - 1 - i, count - 1) / math.comb(n, count) for i in range(n)])
