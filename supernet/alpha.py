"""Architecture parameters: alpha (searchable edges E, candidates N) float32 on the CPU, and the sampling of paths.

Rows of edges with fewer candidates are padded; padded entries stay finite and `mask` (E, N) bool marks the real ones.
Everything below works on the whole matrix at once and in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from supernet.space import Space


def initial_alpha(space: Space) -> Tensor:
    """Zeros: every candidate of an edge equally likely."""
    return torch.zeros(space.mask.shape, dtype=torch.float32)


def mask_of(space: Space) -> Tensor:
    """(E, N) bool: True where alpha has an entry."""
    return torch.from_numpy(space.mask.copy())


def log_probabilities(alpha: Tensor, mask: Tensor) -> Tensor:
    """log softmax over each row's candidates: (E, N) float64, -inf where padded."""
    return alpha.double().masked_fill(~mask, -math.inf).log_softmax(dim=1)


def probabilities(alpha: Tensor, mask: Tensor) -> Tensor:
    """p = softmax(alpha): (E, N) float64, 0 where padded (Eq. 2)."""
    return log_probabilities(alpha, mask).exp()


def entropy(alpha: Tensor, mask: Tensor) -> Tensor:
    """Mean over edges of -sum_i p_i log p_i, in nats."""
    p = probabilities(alpha, mask)
    mean: Tensor = torch.special.entr(p).sum(dim=1).mean()
    return mean


def _gumbel_top_k(alpha: Tensor, mask: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k candidates per row without replacement, in the order drawn: (E, k) int64.

    log p + Gumbel noise, largest k. Exact whatever the magnitude of alpha: no probability is formed, so none
    underflows, and padding can never be drawn.
    """
    if not len(alpha):  # no searchable edge
        return torch.empty((0, k), dtype=torch.int64)
    exponential = torch.empty(alpha.shape, dtype=torch.float64).exponential_(generator=generator)
    keys = alpha.double() - exponential.log()
    return keys.masked_fill(~mask, -math.inf).topk(k, dim=1).indices


def sample_paths(alpha: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[int, ...]:
    """Draw one path: P(paths[e] = i) = p[e, i], edges independent (Eq. 3)."""
    return tuple(_gumbel_top_k(alpha.detach(), mask, 1, generator)[:, 0].tolist())


@dataclass(frozen=True)
class PairSample:
    """Two candidates per edge and the active one (Sec. 3.2)."""

    pairs: Tensor
    """(E, 2) int64."""
    q: Tensor
    """(E, 2) float64: softmax over the two alphas."""
    paths: tuple[int, ...]
    """The active candidate of each edge, drawn from q."""


def sample_pairs(alpha: Tensor, mask: Tensor, generator: torch.Generator) -> PairSample:
    """Draw two candidates of each edge without replacement from p, then the active one of them from q."""
    alpha = alpha.detach()
    pairs = _gumbel_top_k(alpha, mask, 2, generator)
    q = alpha.double().gather(1, pairs).softmax(dim=1)
    second = torch.rand(len(pairs), dtype=torch.float64, generator=generator) >= q[:, 0]
    paths = pairs.gather(1, second.long()[:, None])[:, 0]
    return PairSample(pairs, q, tuple(paths.tolist()))
