"""Defines what a retraining's checkpoint holds beside tensors, and what changes between two evaluations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from pydantic import Field
from torch import nn

from engine.config import Section
from engine.evaluation import Evaluation


class ScoresRecord(Section):
    """The figures of an evaluation, in a checkpoint."""

    loss: float | None
    """The loss; None if it is not a number."""
    top1: float
    """Percent."""
    top5: float
    """Percent."""
    images: int

    @property
    def evaluation(self) -> Evaluation:
        return Evaluation(math.nan if self.loss is None else self.loss, self.top1, self.top5, self.images)


class EvaluationRecord(ScoresRecord):
    """The last evaluation, in a checkpoint."""

    step: int = Field(ge=1)
    raw: ScoresRecord | None = None
    """That of the network whose weights are not averaged, if others are."""


class BestRecord(Section):
    """The best epoch so far, in a checkpoint."""

    step: int = Field(ge=1)
    top1: float


class ScalerRecord(Section):
    """The state of torch.amp.GradScaler, in a checkpoint."""

    scale: float = Field(gt=0)
    growth_factor: float
    backoff_factor: float
    growth_interval: int
    growth_tracker: int = Field(alias="_growth_tracker", ge=0)


class PlainContent(Section):
    """The content of a checkpoint beside tensors and the description of the network."""

    step: int = Field(ge=0)
    test: EvaluationRecord | None
    corrupt: tuple[int, ...]
    best: BestRecord | None
    highest: float | None
    """The highest top-1 of all evaluations so far; earlier versions have no such key."""


@dataclass(frozen=True)
class Best:
    """The epoch that is best on the images held out."""

    step: int
    top1: float
    weights: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Evaluated:
    """An evaluation, and the step after which it was made."""

    step: int
    scores: Evaluation
    """That of the network which is the result if the training ends here."""
    raw: Evaluation | None
    """That of the network whose weights are not averaged; None if none are averaged."""

    def record(self) -> dict[str, Any]:
        """Returns plain values for a checkpoint."""
        raw = {} if self.raw is None else {"raw": _plain(self.raw)}
        return {"step": self.step, **_plain(self.scores), **raw}

    @classmethod
    def of_record(cls, record: EvaluationRecord) -> Evaluated:
        return cls(record.step, record.evaluation, record.raw.evaluation if record.raw else None)


def _plain(scores: Evaluation) -> dict[str, Any]:
    return asdict(scores) | {"loss": scores.loss if math.isfinite(scores.loss) else None}


def _buffers(networks: Sequence[nn.Module]) -> list[torch.Tensor]:
    """Returns BN's running means and variances; its other buffers count batches and are the same in all processes."""
    return [buffer for network in networks for buffer in network.buffers() if buffer.is_floating_point()]


def statistics_of(networks: Sequence[nn.Module]) -> torch.Tensor:
    """Returns BN's running statistics on the CPU, (numbers,)."""
    return torch.cat([torch.zeros(0), *(buffer.flatten().cpu() for buffer in _buffers(networks))])


def set_statistics(networks: Sequence[nn.Module], values: torch.Tensor) -> None:
    """Copies BN's running statistics (numbers,), as `statistics_of` returns them, into the networks."""
    buffers = _buffers(networks)
    for buffer, part in zip(buffers, values.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(part.view_as(buffer))
