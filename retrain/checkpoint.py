"""Writes and reads what the steps of a training change: the network, its optimizer, and what goes with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from engine.config import validate
from engine.distributed import Group
from engine.errors import CheckpointError, InvalidError, UserError
from engine.runs.checkpoints import misfit
from engine.runs.states import check_module, check_optimizer, check_tensor
from retrain.recipe import Averaged
from retrain.standing import Standing
from retrain.state import Best, PlainContent, ScalerRecord, set_statistics, statistics_of
from supernet.network import Network


@dataclass(frozen=True)
class Learned:
    """What the steps of a training change."""

    network: Network
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    """The scale of the loss; it is enabled for float16 alone."""
    averaged: Averaged | None
    """The average of the weights, if `retrain.ema` asks for one."""

    @property
    def final(self) -> nn.Module:
        """The network that is the result if the training ends now: the averaged one, if there is one."""
        return self.averaged.network if self.averaged else self.network

    @property
    def networks(self) -> list[nn.Module]:
        """All networks that have BN statistics of this process's batches."""
        return [self.network, *([self.averaged.network] if self.averaged else [])]

    def states(self) -> dict[str, Any]:
        """Returns the state of each part, for a checkpoint."""
        states = {"net": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.scaler.is_enabled():
            states["scaler"] = self.scaler.state_dict()
        if self.averaged:
            states["ema"] = self.averaged.network.state_dict()
        return states

    def restore(
        self, step: int, checkpoint: Mapping[str, Any], standing: Standing, group: Group, place: str
    ) -> tuple[int, ...]:
        """Restores everything from the checkpoint of this step, the standing too, and returns the indices of the
        training images whose files cannot be read. Raises CheckpointError, which names `place`, if the checkpoint does
        not fit."""
        with fitting(place):
            state = checkpoint["retrain"]
            net, optimizer, each = state["net"], state["optimizer"], state.get("statistics", [])
            rest = {"step": state["step"], "corrupt": checkpoint["corrupt"], "test": checkpoint.get(standing.part)}
            rest |= {key: checkpoint.get(key) for key in ("best", "highest")}
            plain = validate(PlainContent, rest, "the checkpoint")
            if plain.step != step:
                raise InvalidError("", f"its name says step {step}, its state is of step {plain.step}")
            check_module(net, self.network)
            check_optimizer(optimizer, self.optimizer, scheduled=True)
            if self.averaged:
                check_module(state["ema"], self.averaged.network)
            if plain.best is not None:
                check_module(state["best"], self.network)
            own = statistics_of(self.networks)
            for rank, values in enumerate(each):
                check_tensor(f"process {rank}'s BN statistics", values, own.shape, own.dtype)
            self.network.load_state_dict(net)
            self.optimizer.load_state_dict(optimizer)
            if self.scaler.is_enabled():
                scaler = validate(ScalerRecord, state["scaler"], "the checkpoint")
                self.scaler.load_state_dict(scaler.model_dump(by_alias=True))
            if self.averaged:
                self.averaged.network.load_state_dict(state["ema"])
            if plain.best is not None:
                standing.best = Best(plain.best.step, plain.best.top1, state["best"])
            if len(each) == group.world_size > 1:
                set_statistics(self.networks, each[group.rank])
        standing.restore(plain)
        return plain.corrupt


@contextmanager
def fitting(place: str) -> Iterator[None]:
    """Turns any error about the content of a checkpoint into a CheckpointError that names its place."""
    try:
        yield
    except KeyError as error:
        raise CheckpointError(place, f"has no {error}") from error
    except (UserError, RuntimeError, ValueError, TypeError) as error:
        raise CheckpointError(place, f"does not fit this config: {misfit(error)}") from error
