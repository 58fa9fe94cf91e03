"""Computes the gradients of a batch: op by op, by compiled layers, or as one CUDA graph."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from engine.data import Batch
from engine.device import Autocast
from engine.distributed import Group
from engine.errors import ConfigError, UserError
from engine.run_config import RunConfig
from engine.training import backward_pass
from retrain.config import RetrainSettings
from retrain.recipe import Loss
from supernet.compiled import CompiledNetwork, CompileError
from supernet.network import Network
from supernet.space import Layer

log = logging.getLogger("retrain")

Run = Callable[[Batch], tuple[Tensor, Tensor]]
"""Adds the gradients of a batch to those of the weights, and returns its loss () and logits (N, classes), detached."""


def check_passes(settings: RetrainSettings, run: RunConfig, group: Group) -> None:
    """Raises ConfigError for a CUDA graph where there can be none."""
    if not settings.cuda_graphs:
        return
    if run.device != "cuda":
        raise ConfigError("retrain.cuda_graphs", f"got true with run.device={run.device}", "a GPU", "set it to false")
    if not group.alone:
        found = f"got true in {group.world_size} processes, which exchange gradients during the backward pass"
        raise ConfigError("retrain.cuda_graphs", found, remedy="set it to false, or start one process")


class Passes:
    """The forward and backward passes of a training. Called with a batch on the network's device, it returns the loss
    () and the logits (N, classes), both detached, and leaves the gradients of the mean loss in the weights."""

    def __init__(
        self,
        network: Network,
        loss: Loss,
        settings: RetrainSettings,
        precision: Autocast,
        reduction: AbstractContextManager[None],
        scaled: Callable[[Tensor], Tensor],
        group: Group,
    ):
        self.network, self.loss, self.parts = network, loss, settings.accumulate
        self.precision, self.reduction, self.scaled, self.group = precision, reduction, scaled, group
        self.forward: Callable[[Tensor], Tensor] = network
        if settings.compile:
            self.forward = CompiledNetwork(network, self._agreed, self._log)
        self.graphs = settings.cuda_graphs
        self.recorded: Recorded | None = None
        """The passes of batches of the present size as a CUDA graph, if that is wanted."""

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        try:
            if not self.graphs:
                self.network.zero_grad(set_to_none=True)
                return self._run(batch)
            if self.recorded is None or not self.recorded.fits(batch):
                self.recorded = None  # its memory is freed first
                self.recorded = Recorded(self._run, self.network, batch)
            return self.recorded(batch)
        except CompileError as error:
            needs = "Triton and a GPU of compute capability 7.0 or newer" if batch.images.is_cuda else "a C++ compiler"
            remedy = f"it needs {needs} here, or set retrain.compile=false"
            raise UserError("retrain.compile", f"torch.compile failed ({error})", remedy=remedy) from None

    def _run(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return backward_pass(self.forward, batch, self.loss, self.precision, self.reduction, self.parts, self.scaled)

    def _agreed(self, reasons: list[str | None]) -> list[str | None]:
        """Returns for each layer a reason why one of the processes cannot compile it; None if all can."""
        return [next(filter(None, each), None) for each in zip(*self.group.gathered(reasons), strict=True)]

    def _log(self, reasons: dict[Layer, str | None]) -> None:
        if not self.group.first:
            return
        log.info("retrain.compile: compiled %d distinct layers", sum(reason is None for reason in reasons.values()))
        for layer, reason in reasons.items():
            if reason is not None:
                log.warning("retrain.compile: torch.compile cannot do %s; it runs as it is", layer)


class Recorded:
    """The forward and backward pass of batches of one shape as a CUDA graph, which the GPU runs without waiting for the
    program to send each op. It computes what the ops would; dropout draws from the generator as it is seeded when the
    graph runs. The gradients, the loss and the logits are overwritten by the next run."""

    WARM_UP = 3
    """Runs before the recording, in which libraries choose their kernels and make their work space."""

    def __init__(self, run: Run, network: Network, batch: Batch):
        """run: computes the passes of a batch. The network's BN statistics stay as they are."""
        device = batch.images.device
        self.batch = Batch(batch.images.clone(), batch.labels.clone())
        statistics = [(buffer, buffer.clone()) for buffer in network.buffers()]
        draws = torch.cuda.get_rng_state(device)
        current, aside = torch.cuda.current_stream(device), torch.cuda.Stream(device)
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            for _ in range(self.WARM_UP):
                network.zero_grad(set_to_none=True)
                run(self.batch)
        current.wait_stream(aside)
        network.zero_grad(set_to_none=True)  # so the recorded pass writes the gradients rather than adding to them
        self.graph = torch.cuda.CUDAGraph()
        # other threads, which pin memory, may use the GPU meanwhile
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.loss, self.logits = run(self.batch)
        with torch.no_grad():
            for buffer, value in statistics:
                buffer.copy_(value)
        torch.cuda.set_rng_state(draws, device)

    def fits(self, batch: Batch) -> bool:
        """Returns whether a batch has the shapes and types that were recorded."""
        return all(
            mine.shape == theirs.shape and mine.dtype == theirs.dtype
            for mine, theirs in ((self.batch.images, batch.images), (self.batch.labels, batch.labels))
        )

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        self.batch.images.copy_(batch.images)
        self.batch.labels.copy_(batch.labels)
        self.graph.replay()
        return self.loss, self.logits
