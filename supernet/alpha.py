"""Alpha, the architecture parameters, and the sampling of paths from it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from supernet.space import Edge, Layer, Space


@dataclass(frozen=True, eq=False)
class Alpha:
    """The architecture parameters: a number for each candidate of each searchable edge (Sec. 3.2).

    E is the number of searchable edges, N that of the candidates of the edge that has most. Rows of edges with fewer
    candidates are padded: `mask` marks the real entries, and padded ones may have any finite value. Methods work on the
    whole matrix at once and in float64, on the CPU.
    """

    values: Tensor
    """(E, N). The optimizer changes it in place."""
    mask: Tensor
    """(E, N) bool: True where an edge has a candidate."""
    edges: tuple[Edge, ...] = ()
    """The edges of the rows, which have the names of edges and candidates; empty if they are not known."""

    @classmethod
    def of_space(cls, space: Space, values: Tensor | None = None) -> Alpha:
        """Returns the alpha of a space. Without `values` it is float32 zeros: the candidates of an edge are equally
        likely."""
        mask = torch.from_numpy(space.mask.copy())
        return cls(torch.zeros(mask.shape) if values is None else values, mask, space.searchable)

    def with_values(self, values: Tensor) -> Alpha:
        """Returns other values (E, N) of the same candidates."""
        return replace(self, values=values)

    @property
    def alike(self) -> tuple[int, ...]:
        """A number for each row, the same for edges with the same layers; empty if the edges are not known."""
        numbers: dict[tuple[Layer, ...], int] = {}
        return tuple(numbers.setdefault(edge.layers, len(numbers)) for edge in self.edges)

    def log_probabilities(self) -> Tensor:
        """log softmax over each row's candidates: (E, N) float64, -inf where padded."""
        return self.values.double().masked_fill(~self.mask, -math.inf).log_softmax(dim=1)

    def probabilities(self) -> Tensor:
        """p = softmax(alpha): (E, N) float64, 0 where padded (Eq. 2)."""
        return self.log_probabilities().exp()

    def named_probabilities(self) -> dict[str, dict[str, float]]:
        """Returns p by the name of the edge and the name of the candidate."""
        rows = zip(self.edges, self.probabilities().tolist(), strict=True)
        return {edge.name: dict(zip(edge.candidates, row, strict=False)) for edge, row in rows}  # rows are padded

    def entropy(self) -> Tensor:
        """Mean over edges of -sum_i p_i log p_i, in nats: 0-dim float64."""
        return self._entropies().mean()

    def relative_entropy(self) -> float:
        """Mean over edges of the entropy, as a share of that of equal probabilities: 1 undecided, 0 decided."""
        largest = self.mask.sum(dim=1).double().log()
        return float((self._entropies() / largest).mean())

    def sample_paths(self, generator: torch.Generator) -> tuple[int, ...]:
        """Draws one path: P(paths[e] = i) = p[e, i], edges independent (Eq. 3)."""
        return tuple(self._gumbel_top_k(1, generator)[:, 0].tolist())

    def sample_pairs(self, generator: torch.Generator) -> PairSample:
        """Draws two candidates of each edge without replacement from p, then the active one of them from q."""
        pairs = self._gumbel_top_k(2, generator)
        q = self.values.detach().double().gather(1, pairs).softmax(dim=1)
        second = torch.rand(len(pairs), dtype=torch.float64, generator=generator) >= q[:, 0]
        paths = pairs.gather(1, second.long()[:, None])[:, 0]
        return PairSample(pairs, q, tuple(paths.tolist()))

    def _entropies(self) -> Tensor:
        """The entropy of each edge, in nats: (E,) float64."""
        entropies: Tensor = torch.special.entr(self.probabilities()).sum(dim=1)
        return entropies

    def _gumbel_top_k(self, k: int, generator: torch.Generator) -> Tensor:
        """Draws k candidates per row without replacement, in the order drawn: (E, k) int64.

        log p + Gumbel noise, largest k. Exact whatever the magnitude of alpha: no probability is formed, so none
        underflows, and padding can never be drawn.
        """
        if not len(self.values):  # no searchable edge
            return torch.empty((0, k), dtype=torch.int64)
        exponential = torch.empty(self.values.shape, dtype=torch.float64).exponential_(generator=generator)
        keys = self.values.detach().double() - exponential.log()
        return keys.masked_fill(~self.mask, -math.inf).topk(k, dim=1).indices


@dataclass(frozen=True)
class PairSample:
    """Two candidates per edge and the active one (Sec. 3.2)."""

    pairs: Tensor
    """(E, 2) int64."""
    q: Tensor
    """(E, 2) float64: softmax over the two alphas."""
    paths: tuple[int, ...]
    """The active candidate of each edge, drawn from q."""
