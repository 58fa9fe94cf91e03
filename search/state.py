"""Everything that changes during a search, in one place, so that a checkpoint cannot forget any of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from engine.checkpoints import misfit
from engine.errors import CheckpointError
from engine.seeding import mix
from engine.training import memory_format
from search.collapse import Settled
from search.config import SearchConfig, SearchFile
from search.objective import Dual
from supernet.alpha import initial_alpha
from supernet.space import Space
from supernet.supernet import Supernet

# What a random draw is for; with (seed, step) it seeds the draw's generator.
WEIGHTS_PATHS, ARCHITECTURE_PATHS, DROPOUT, SPLIT, TRAINING_ORDER, VALIDATION_ORDER, WARMUP_PATHS, SAMPLED_COSTS = (
    range(8)
)


def weights_optimizer(net: nn.Module, settings: SearchConfig) -> torch.optim.SGD:
    """SGD, Nesterov, of the parameters that have a gradient; the others keep their value and their momentum.

    One fused kernel updates them all, in half the time of torch's loop over them on a CPU. It wants the momentum of all
    or of none of its parameters, while each step brings some for the first time; so all begin with zeros, of which the
    first step makes what SGD begins with: 0.9 * 0 + g = g.
    """
    optimizer = torch.optim.SGD(
        net.parameters(),
        lr=settings.warmup_lr,
        momentum=settings.momentum,
        nesterov=settings.momentum > 0,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    if settings.momentum > 0:
        for p in net.parameters():
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.preserve_format)
    return optimizer


@dataclass
class SearchState:
    """Random numbers are no state: every draw comes from a generator seeded by (seed, what for, step)."""

    net: Supernet
    optimizer: torch.optim.SGD
    alpha: Tensor
    """(E, N) float32 on the CPU."""
    arch_optimizer: torch.optim.Adam
    duals: tuple[Dual, ...]
    """One per additive limit."""
    baseline: float | None = None
    """REINFORCE's moving average of rewards."""
    step: int = 0
    """Weights steps done, warm-up included: also the position in the training data."""
    arch_steps: int = 0
    """Architecture steps done: also the position in the validation data."""
    settled: Settled | None = None
    """What the early stop compares with; None before the search, or without an early stop."""
    told: dict[str, str] = field(default_factory=dict)
    """The alarms so far, see CollapseAlarm."""
    gradients: list[tuple[float, float]] = field(default_factory=list)
    """Norms of CE's and the limits' share of alpha's gradient, of each architecture step since the last point
    of the curves."""

    @classmethod
    def fresh(cls, config: SearchFile, space: Space, device: torch.device) -> SearchState:
        settings = config.search
        net = Supernet(space, seed=mix(config.run.seed))
        net.to(device=device, memory_format=memory_format(config.run))  # type: ignore[call-overload]
        alpha = initial_alpha(space).requires_grad_()
        return cls(
            net=net,
            optimizer=weights_optimizer(net, settings),
            alpha=alpha,
            arch_optimizer=torch.optim.Adam([alpha], lr=settings.arch_lr, betas=settings.arch_betas),
            duals=tuple(Dual() for _ in config.additive),
        )

    def to_checkpoint(self) -> dict[str, Any]:
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "alpha": self.alpha.detach().clone(),
            "arch_optimizer": self.arch_optimizer.state_dict(),
            "duals": [asdict(dual) for dual in self.duals],
            "baseline": self.baseline,
            "step": self.step,
            "arch_steps": self.arch_steps,
            "settled": asdict(self.settled) if self.settled else None,
            "told": dict(self.told),
            "gradients": list(self.gradients),
        }

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Raises CheckpointError if the checkpoint is not of such a search."""
        try:
            self.net.load_state_dict(checkpoint["net"])
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            self.arch_optimizer.load_state_dict(checkpoint["arch_optimizer"])
            with torch.no_grad():
                self.alpha.copy_(checkpoint["alpha"])
            self.duals = tuple(Dual(**dual) for dual in checkpoint["duals"])
            self.baseline, self.step = checkpoint["baseline"], checkpoint["step"]
            self.arch_steps = checkpoint["arch_steps"]
            settled = checkpoint["settled"]
            self.settled = Settled(**settled) if settled else None
            self.told = dict(checkpoint["told"])
            self.gradients = [(ce, limits) for ce, limits in checkpoint["gradients"]]
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise CheckpointError(f"the checkpoint does not fit this search's config: {misfit(error)}") from error
