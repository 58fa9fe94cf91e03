"""Holds everything that changes during a search, in one place, so that a checkpoint cannot omit any of it."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from engine.config import Section, differences, validate
from engine.device import memory_format
from engine.errors import CheckpointError, ConfigError
from engine.runs.checkpoints import misfit
from engine.runs.states import check_module, check_optimizer, check_tensor
from engine.seeding import mix
from engine.training import split_decay
from search.config import SearchConfig, SearchSettings
from search.learn.collapse import Settled
from search.learn.regression import Evidence, restored
from supernet.alpha import Alpha
from supernet.space import Space
from supernet.supernet import Supernet

# The purposes of random draws. A draw's generator is seeded by the purpose, run.seed and the step.
(
    WEIGHTS_PATHS, ARCHITECTURE_PATHS, DROPOUT, SPLIT, TRAINING_ORDER, VALIDATION_ORDER, WARMUP_PATHS, SAMPLED_COSTS,
    JUDGED,
) = range(9)  # fmt: skip


def weights_optimizer(net: nn.Module, settings: SearchSettings) -> torch.optim.SGD | torch.optim.AdamW:
    """Returns the optimizer of the weights. A step updates the parameters that have a gradient; the others keep their
    value, their moments and their count of steps.

    One fused kernel updates them all, in half the time of torch's loop over them on a CPU. All moments begin as zeros,
    as torch's own do at the first step, so that a checkpoint that lacks some can be recognised, and since the kernel of
    SGD takes parameters of which all or none have one.
    """
    lr, decay = settings.warmup_lr or settings.resolved_lr, settings.resolved_weight_decay
    if settings.optimizer == "adamw":
        adamw = torch.optim.AdamW(split_decay(net, decay), lr=lr, fused=True)
        for p in net.parameters():
            step = torch.zeros((), dtype=torch.float32, device=p.device)
            adamw.state[p] = {"step": step, "exp_avg": _zeros(p), "exp_avg_sq": _zeros(p)}
        return adamw
    momentum = settings.momentum
    sgd = torch.optim.SGD(
        net.parameters(), lr=lr, momentum=momentum, nesterov=momentum > 0, weight_decay=decay, fused=True
    )
    for p in net.parameters() if momentum > 0 else ():
        sgd.state[p]["momentum_buffer"] = _zeros(p)  # 0.9 * 0 + g = g, what SGD begins with
    return sgd


def _zeros(p: Tensor) -> Tensor:
    return torch.zeros_like(p, memory_format=torch.preserve_format)


@dataclass
class SearchState:
    """Everything that changes during a search. The state of random generators is not a part of it: each draw has a
    generator of its own, seeded by run.seed, the purpose of the draw and the step."""

    net: Supernet
    optimizer: torch.optim.SGD | torch.optim.AdamW
    """The optimizer of the weights."""
    alpha: Alpha
    """Its values are float32 on the CPU."""
    arch_optimizer: torch.optim.Adam
    pressures: tuple[float, ...]
    """For each additive limit, the sum of its pressures in all projections (`Projected.pressures`; with
    regression, which makes alpha anew in each step, those of the last), for the curves; empty if alpha is not
    projected."""
    duals: tuple[float, ...] = ()
    """For each additive limit, the number that the loss form keeps (LossForm.next_dual); empty if it keeps none."""
    baseline: float | None = None
    """REINFORCE's moving average of rewards."""
    evidence: Evidence | None = None
    """The sums over all evaluated networks that the regression fits; None in the other modes."""
    final_steps: int = 0
    """Architecture steps done after the last weights step."""
    step: int = 0
    """Weights steps done, warm-up included: also the position in the training data."""
    arch_steps: int = 0
    """Architecture steps done: also the position in the validation data."""
    settled: Settled | None = None
    """The probabilities that the early stop compares with; None before the search, or without an early stop."""
    warned: dict[str, str] = field(default_factory=dict)
    """The warnings of CollapseAlarm so far: kind of alarm -> its text."""
    kept: dict[str, Any] = field(default_factory=dict)
    """What an `arch_update` of the user's own keeps between its steps: tensors and plain values, by its own names."""
    gradients: list[tuple[float, float]] = field(default_factory=list)
    """For each architecture step since the last point of the curves: the norms of the two shares of alpha's gradient,
    that of the cross entropy and that of the limits."""

    @classmethod
    def fresh(cls, config: SearchConfig, space: Space, device: torch.device) -> SearchState:
        """Returns the state in which a search begins, with the supernet on `device`."""
        settings = config.search
        net = Supernet(space, seed=mix(config.run.seed))
        net.to(device=device, memory_format=memory_format(config.run))  # type: ignore[call-overload]
        alpha = Alpha.of_space(space)
        return cls(
            net=net,
            optimizer=weights_optimizer(net, settings),
            alpha=alpha,
            arch_optimizer=torch.optim.Adam([alpha.values], lr=settings.arch_lr, betas=settings.arch_betas),
            pressures=(0.0,) * len(config.additive) if settings.projects else (),
            duals=(0.0,) * len(config.additive) if settings.resolved_loss.keeps_duals else (),
            evidence=Evidence.none(*alpha.mask.shape) if settings.mode.collects_evidence else None,
        )

    def to_checkpoint(self) -> dict[str, Any]:
        """Returns the state as a dictionary of tensors and plain values, which `restore` takes."""
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "alpha": self.alpha.values.clone(),
            "arch_optimizer": self.arch_optimizer.state_dict(),
            "pressures": list(self.pressures),
            "baseline": self.baseline,
            "evidence": asdict(self.evidence) if self.evidence else None,
            "final_steps": self.final_steps,
            "step": self.step,
            "arch_steps": self.arch_steps,
            "settled": asdict(self.settled) if self.settled else None,
            "told": dict(self.warned),
            "gradients": list(self.gradients),
            **({"duals": list(self.duals)} if self.duals else {}),
            **({"kept": copy.deepcopy(self.kept)} if self.kept else {}),
        }

    def restore(self, checkpoint: Any) -> None:
        """Restores a state that `to_checkpoint` has made.

        Every part is checked first. If one does not fit this search, CheckpointError is raised and nothing changes.
        """
        try:
            if not isinstance(checkpoint, dict):
                raise ValueError(f"its state is a value of type {type(checkpoint).__name__}")
            tensors = {key: checkpoint[key] for key in ("net", "optimizer", "alpha", "arch_optimizer")}
            evidence, kept = restored(checkpoint.get("evidence"), self.evidence), checkpoint.get("kept", {})
            if not isinstance(kept, dict):
                raise ValueError(f"it keeps a value of type {type(kept).__name__}, expected a dictionary")
            # earlier versions wrote duals for forms that keep none
            apart = (*tensors, "evidence", "kept", *(() if self.duals else ("duals",)))
            rest = {key: value for key, value in checkpoint.items() if key not in apart}
            plain = validate(_Plain, rest, "its state")
            if len(plain.pressures) != len(self.pressures):
                raise ValueError(f"it has pressures of {len(plain.pressures)} limits, expected {len(self.pressures)}")
            if len(plain.duals) != len(self.duals):
                raise ValueError(f"it has duals of {len(plain.duals)} limits, expected {len(self.duals)}")
            if plain.arch_steps > plain.step + plain.final_steps or (
                plain.settled and plain.settled.since > plain.step
            ):
                raise ValueError(f"it counts more than the {plain.step} steps that it has done")
            check_module(tensors["net"], self.net)
            check_tensor("alpha", tensors["alpha"], self.alpha.values.shape, self.alpha.values.dtype)
            check_optimizer(tensors["optimizer"], self.optimizer, scheduled=True)
            check_optimizer(tensors["arch_optimizer"], self.arch_optimizer, scheduled=False)
            rows = [len(row) for row in plain.settled.anchor] if plain.settled else []
            edges, candidates = self.alpha.mask.shape
            if plain.settled and rows != [candidates] * edges:
                raise ValueError(f"settled.anchor has another shape than alpha, ({edges}, {candidates})")
        except KeyError as error:
            raise CheckpointError(found=f"the checkpoint has no {error}, so it is not of a search") from error
        except (RuntimeError, ValueError, TypeError, ConfigError) as error:
            raise CheckpointError(found=f"the checkpoint does not fit this search's config: {misfit(error)}") from error
        self.net.load_state_dict(tensors["net"])
        self.optimizer.load_state_dict(tensors["optimizer"])
        self.arch_optimizer.load_state_dict(tensors["arch_optimizer"])
        self.alpha.values.copy_(tensors["alpha"])
        self.pressures, self.duals = plain.pressures, plain.duals
        self.evidence, self.final_steps = evidence, plain.final_steps
        self.baseline, self.step, self.arch_steps = plain.baseline, plain.step, plain.arch_steps
        self.settled = Settled(**plain.settled.model_dump()) if plain.settled else None
        self.warned, self.gradients, self.kept = dict(plain.told), list(plain.gradients), kept


class _Settled(Section):
    anchor: tuple[tuple[float, ...], ...]
    since: int = Field(ge=0)


class _Plain(Section):
    """The plain values in a checkpoint's state; the fields are those of SearchState."""

    pressures: tuple[float, ...] = ()
    """Checkpoints of earlier versions lack it."""
    duals: tuple[float, ...] = ()
    baseline: float | None
    final_steps: int = Field(0, ge=0)
    """Checkpoints of earlier versions lack it."""
    step: int = Field(ge=0)
    arch_steps: int = Field(ge=0)
    settled: _Settled | None
    told: dict[str, str]
    """SearchState.warned, under its key in the file."""
    gradients: tuple[tuple[float, float], ...]


class Unreadable(Section):
    """The indices of the images whose files cannot be read, in each part of the data."""

    training: tuple[int, ...]
    validation: tuple[int, ...]


class Progressed(Section):
    """The content of a checkpoint that is not part of the state."""

    seconds: float = Field(ge=0)
    """The wall-clock time of the search so far, interrupted commands included."""
    corrupt: Unreadable


def in_words(space: Space) -> str:
    """Returns the name of the supernet of a space for a message."""
    count = math.prod(len(edge.candidates) for edge in space.searchable)
    c = space.config
    return (
        f"a supernet of {len(space.searchable)} searchable edges and {float(count):.3g} architectures for "
        f"{c.input_size} x {c.input_size} images of {c.classes} classes"
    )


def check_supernet(checkpoint: dict[str, Any], space: Space, where: str) -> None:
    """Raises CheckpointError, which names both spaces, if a checkpoint has another space than `space`."""
    if "space" not in checkpoint:  # of an earlier version, which did not record the space
        return
    changes = differences(checkpoint["space"], space.config.model_dump(mode="json"), "space.")
    if changes:
        other = checkpoint.get("network", "another supernet")
        found = f"is of {other}, this search's is {in_words(space)}: {'; '.join(changes[:3])}"
        raise CheckpointError(where, found, remedy="use the run folder of this search, or begin in another one")
