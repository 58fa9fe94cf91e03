"""What training loops share: the device, learning rates, accuracy, BN statistics, evaluation, speed."""

from __future__ import annotations

import contextlib
import ctypes
import math
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from engine.config import Section
from engine.data.images import Batch
from engine.distributed import ALONE, Group
from engine.errors import ConfigError, UserError
from engine.memory import memory_explained

Autocast = Callable[[], AbstractContextManager[object]]
"""Makes what a forward pass runs in, see `autocast`."""


# Bounds of settings: far above what makes sense, and low enough to refuse a mistyped number before training begins.
MOST_EPOCHS = 1_000_000
LARGEST_BATCH = 1 << 20
LARGEST_LR = 100.0
"""The largest learning rate, and the largest weight decay."""
NEVER = 1_000_000_000
"""The largest number of steps or epochs between two reports, which is never."""
MOST_THREADS = 4096


class RunConfig(Section):
    """YAML section `run`: where and how a program runs, and how often it reports."""

    seed: int = Field(0, ge=0, lt=1 << 63)
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int | None = Field(None, ge=1, le=MOST_THREADS)
    """CPU threads inside an op; null is torch's default. Another number can change results in the last bit."""
    log_every: int = Field(10, ge=1, le=NEVER)
    """Steps between two points of the training curves."""
    checkpoint_every: int = Field(200, ge=1, le=NEVER)
    """Steps."""
    evaluate_every: int = Field(1, ge=1, le=NEVER)
    """Epochs."""
    amp: Literal["none", "bf16"] = "none"
    """bf16: automatic mixed precision, with the classifier in float32. A GPU must compute bfloat16 itself, not emulate
    it. Its exponents are those of float32, so gradients need no scaling."""
    channels_last: bool = True


def keep_freed_memory() -> None:
    """Let the C library reuse freed memory instead of returning it to the kernel and faulting it in again page by page.

    A step frees and allocates the same large tensors over and over. For glibc (Linux); other C libraries decide alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_threshold = -1, -3  # of mallopt(3)
    libc = ctypes.CDLL(None)
    libc.mallopt(mmap_threshold, 1 << 30)
    libc.mallopt(trim_threshold, (1 << 31) - 1)


def prepare_device(run: RunConfig, group: Group = ALONE) -> torch.device:
    """Sets the thread count and returns the device; each of several processes on a machine has a GPU of its own. Raises
    ConfigError for cuda if there is no GPU, and for bf16 on a GPU that only emulates it.

    The thread count is all that a CPU needs to repeat a run bit for bit: the ops of these networks are deterministic on
    a CPU for a given thread count, so torch.use_deterministic_algorithms would change nothing.
    """
    keep_freed_memory()
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    if run.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "run.device: got 'cuda', but torch finds no CUDA device; set run.device=cpu, and run.amp=none, which is "
            "faster there"
        )
    if run.device == "cuda":
        if group.local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"run.device: got 'cuda', but there is no GPU for process {group.local_rank} of this machine, counted "
                f"from 0: torch finds {torch.cuda.device_count()}; start as many with torchrun --nproc-per-node"
            )
        device = torch.device("cuda", group.local_rank)
        torch.cuda.set_device(device)
        if run.amp == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise ConfigError(
                f"run.amp: got 'bf16', but {torch.cuda.get_device_name(device)} only emulates it, slower than float32; "
                "set run.amp=none, or take a GPU of compute capability 8.0 or newer"
            )
        return device
    return torch.device(run.device)


def memory_format(run: RunConfig) -> torch.memory_format:
    return torch.channels_last if run.channels_last else torch.contiguous_format


def autocast(run: RunConfig, device: torch.device) -> AbstractContextManager[object]:
    """A fresh context for one forward pass."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if run.amp == "bf16" else contextlib.nullcontext()


def cosine_lr(base: float, step: int, total: int) -> float:
    """Half a cosine from `base` at step 0 to 0 at step `total`."""
    return base * 0.5 * (1 + math.cos(math.pi * step / total))


def check_finite(loss: float, step: int) -> None:
    """UserError if a training has diverged; its last checkpoints, which are still good, stay as they are."""
    if not math.isfinite(loss):
        raise UserError(
            f"the loss is {loss} at step {step}: training has diverged; start again in another folder with a lower "
            "learning rate, or more warm-up"
        )


def hits(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Returns whether each label (N,) is among the k largest logits (N, classes): (N,) bool.

    A label is a hit if fewer than k other logits are as large as its own: a tie counts against the network, so that the
    answer does not depend on the order of classes, and equal logits for all classes are no hit. A label whose own logit
    is NaN is no hit, and a NaN of another class counts as larger. With k classes or fewer, every label is a hit.
    """
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    own = logits.gather(1, labels[:, None])  # (N, 1)
    others = (~(logits < own)).sum(dim=1) - 1  # NaN is smaller than no number; the own logit is not smaller than itself
    return (others < k) & ~own.isnan()[:, 0]


def accuracy(logits: Tensor, labels: Tensor, topk: Sequence[int] = (1, 5)) -> tuple[Tensor, ...]:
    """Returns the percentage of labels (N,) among the k largest logits (N, classes), for each k: 0-dim tensors. Ties:
    see `hits`."""
    return tuple(100 * hits(logits, labels, k).float().mean() for k in topk)


def split_decay(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for an optimizer: weights with decay; BN and biases (one-dimensional parameters) without."""
    decayed = [p for p in module.parameters() if p.ndim > 1]
    plain = [p for p in module.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


@contextlib.contextmanager
def _in_eval_mode(network: nn.Module) -> Iterator[None]:
    """Every module has its own mode again at the end."""
    modes = {m: m.training for m in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@torch.no_grad()
@memory_explained()
def recalibrate_bn(network: nn.Module, batches: Iterable[Tensor], group: Group = ALONE) -> None:
    """Collects BN statistics anew: the average over the batches of images (N, C, H, W) of all processes.

    Every batch weighs the same, whichever process has it, and one process may have none. Only BN runs in training mode
    (no dropout). Momenta and modes are restored. ValueError without any batch.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    count = 0
    with _in_eval_mode(network):
        for m in norms:
            m.reset_running_stats()
            m.train()
        try:
            for images in batches:
                count += 1
                for m in norms:
                    # The average of `count` batches. torch computes the same if momentum is None, but then reads its
                    # count of batches from the device: each layer of each batch would wait for a GPU.
                    m.momentum = 1 / count
                network(images)
        finally:
            for m, momentum in zip(norms, momenta, strict=True):
                m.momentum = momentum
    total = count if group.alone else int(group.sum_of(torch.tensor(count)))
    if total == 0:
        raise ValueError("no batch to collect BN statistics from")
    if group.alone:
        return
    for m in norms:  # so that the mean over processes is the mean over batches
        assert m.running_mean is not None
        assert m.running_var is not None
        m.running_mean.mul_(count * group.world_size / total)
        m.running_var.mul_(count * group.world_size / total)
    group.average_statistics(network)


@dataclass(frozen=True)
class Evaluation:
    """loss: mean cross entropy. top1, top5: percent. images: how many."""

    loss: float
    top1: float
    top5: float
    images: int


def on_device(batch: Batch, device: torch.device, run: RunConfig) -> Batch:
    """The batch where the network is; from pinned memory the copy goes on while the caller does."""
    images = batch.images.to(device, memory_format=memory_format(run), non_blocking=True)
    return batch._replace(images=images, labels=batch.labels.to(device, non_blocking=True))


def training_step(
    forward: Callable[[Tensor], Tensor],
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    label_smoothing: float,
    precision: Autocast,
    reduction: AbstractContextManager[None] | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of the weights that `forward` uses, from images to logits. Returns (loss, logits), both detached.

    precision: makes what the forward pass runs in (`autocast`). reduction: what the backward pass runs in where several
    processes share the batch (engine/distributed.py).
    """
    with precision():
        logits = forward(batch.images)
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=label_smoothing)
    optimizer.zero_grad(set_to_none=True)  # what was not used has no gradient, hence no decay or momentum
    with reduction or nullcontext():
        loss.backward()
    optimizer.step()
    return loss.detach(), logits.detach()


@torch.no_grad()
@memory_explained()
def evaluate(
    network: nn.Module, batches: Iterable[Batch], device: torch.device, run: RunConfig, group: Group = ALONE
) -> Evaluation:
    """Score a network in eval mode on the batches of all processes; all modes are restored. Sums stay on the device
    until the end."""
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    count = 0
    with _in_eval_mode(network):
        for batch in batches:
            images, labels, _ = on_device(batch, device, run)
            with autocast(run, device):
                logits = network(images)
            loss = F.cross_entropy(logits.float(), labels, reduction="sum")
            right = torch.stack([hits(logits, labels, k).sum() for k in (1, 5)])  # whole images: equal sums are equal
            sums += torch.cat([loss[None], right]).double()
            count += len(labels)
    *totals, images = group.sum_of(torch.cat([sums.cpu(), torch.tensor([count], dtype=torch.float64)])).tolist()
    if images == 0:
        raise ValueError("no image to evaluate on")
    loss_sum, hits1, hits5 = totals
    return Evaluation(loss_sum / images, 100 * hits1 / images, 100 * hits5 / images, int(images))


class Throughput:
    """Images per second between two readings."""

    def __init__(self) -> None:
        self._images, self._since = 0, time.monotonic()

    def add(self, images: int) -> None:
        self._images += images

    def per_second(self) -> float:
        """Since the last reading; starts a new one."""
        now = time.monotonic()
        rate = self._images / max(now - self._since, 1e-9)
        self._images, self._since = 0, now
        return rate
