"""A way in which alpha learns: from the mean losses of candidates, see docs/extending/arch_update.md."""

import torch
from torch import Tensor

from engine.data import Batch
from engine.errors import ConfigError
from search.learn.regression import network_losses
from search.state import SearchState
from search.update import Estimator, Update

NETWORKS = 4
"""Networks that a step draws from the path probabilities."""
SHARPNESS = 20.0
"""How much alpha a nat of cross entropy is worth."""


class MeanLosses(Estimator):
    """Sets alpha of a candidate to minus the mean loss of the networks so far that held it, relative to all of them."""

    def step(
        self, state: SearchState, batch: Batch, draws: torch.Generator, d_terms: Tensor | None, *, final: bool
    ) -> Update:
        if d_terms is not None:
            raise ConfigError("search.terms, search.entropy", "MeanLosses has no gradient to add them to")
        alpha = state.alpha
        networks = [alpha.sample_paths(draws) for _ in range(NETWORKS)]
        with torch.no_grad():
            losses = network_losses(state.net, batch, networks, self.autocast)
        losses = self.group.mean_of(losses.double()).cpu()  # every process has a part of the batch
        zeros = torch.zeros(alpha.mask.shape, dtype=torch.float64)  # (E, N)
        sums = state.kept.setdefault("sums", zeros.clone())
        counts = state.kept.setdefault("counts", zeros.clone())
        for paths, loss in zip(networks, losses, strict=True):
            edges = torch.arange(len(paths))
            sums[edges, list(paths)] += loss
            counts[edges, list(paths)] += 1
        typical = sums.sum() / counts.sum()
        effects = torch.where(counts > 0, sums / counts.clamp(min=1) - typical, 0.0)
        alpha.values.copy_(-SHARPNESS * effects)
        return Update({"arch/ce": float(losses.mean())})
