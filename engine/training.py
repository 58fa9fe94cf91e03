"""Holds the parts that training loops share: a step of the weights, the learning rate, weight decay, and speed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.data.images import Batch
from engine.device import Autocast
from engine.errors import UserError

Criterion = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A function of images (N, C, H, W), logits (N, classes) and labels, which are classes (N,) or probabilities (N,
classes). It returns the mean loss ()."""


def cosine_lr(base: float, step: int, total: int) -> float:
    """Returns the learning rate at `step`: half a cosine from `base` at step 0 to 0 at step `total`."""
    return base * 0.5 * (1 + math.cos(math.pi * step / total))


def warmed_cosine_lr(base: float, step: int, total: int, warmup: int) -> float:
    """Returns the learning rate at `step`: `warmup` steps of a linear rise, the last of them at `base`, then half a
    cosine from `base` to 0 at step `total`."""
    return base * (step + 1) / warmup if step < warmup else cosine_lr(base, step - warmup, total - warmup)


def check_finite(loss: float, step: int) -> None:
    """Raises UserError if the loss is not finite: the training has diverged. Its last checkpoints are still good."""
    if not math.isfinite(loss):
        raise UserError(
            found=f"the loss is {loss} at step {step}: training has diverged",
            remedy="start again in another folder with a lower learning rate, or more warm-up",
        )


def split_decay(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Returns two groups for an optimizer: weights with decay; BN and biases (one-dimensional parameters) without."""
    decayed = [p for p in module.parameters() if p.ndim > 1]
    plain = [p for p in module.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def cross_entropy(
    logits: Tensor, labels: Tensor, label_smoothing: float, class_weights: Tensor | None = None
) -> Tensor:
    """Returns the mean cross entropy () of logits (N, classes).

    labels: classes (N,), or probabilities (N, classes). class_weights: (classes,), by which the loss of an image is
    multiplied according to its label. The sum is divided by N, not by the sum of the weights as in torch: so the loss
    of a batch that processes share is the mean of theirs, and the gradient is that of the weighted loss of all images
    in expectation.
    """
    if class_weights is None:
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    losses = F.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none")
    weights = class_weights[labels] if labels.ndim == 1 else labels @ class_weights.to(labels.dtype)
    return (weights * losses).mean()


def _unchanged(loss: Tensor) -> Tensor:
    return loss


def backward_pass(
    forward: Callable[[Tensor], Tensor],
    batch: Batch,
    criterion: Criterion,
    precision: Autocast,
    reduction: AbstractContextManager[None] | None = None,
    parts: int = 1,
    scaled: Callable[[Tensor], Tensor] = _unchanged,
) -> tuple[Tensor, Tensor]:
    """Adds the gradients of a batch's mean loss to those of the weights that `forward` uses, from images to logits.
    Returns (loss, logits), both detached.

    parts: the equal parts of the batch that run one after the other. precision: returns the autocast context of a
    forward pass. reduction: the context of the last backward pass if several processes share the batch
    (engine/distributed.py). scaled: multiplies a loss before its backward pass.
    """
    losses, outputs = [], []
    for i, (images, labels) in enumerate(zip(batch.images.chunk(parts), batch.labels.chunk(parts), strict=True), 1):
        with precision():
            logits = forward(images)
            loss = criterion(images, logits, labels)
        with reduction if reduction and i == parts else nullcontext():
            scaled(loss if parts == 1 else loss / parts).backward()
        losses.append(loss.detach())
        outputs.append(logits.detach())
    return (losses[0], outputs[0]) if parts == 1 else (torch.stack(losses).mean(), torch.cat(outputs))


def training_step(
    forward: Callable[[Tensor], Tensor],
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    label_smoothing: float,
    precision: Autocast,
    reduction: AbstractContextManager[None] | None = None,
    class_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Does one step of the weights that `forward` uses, with the cross entropy as the loss. Returns what
    `backward_pass` returns. class_weights: as in `cross_entropy`."""

    def criterion(_: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels, label_smoothing, class_weights)

    optimizer.zero_grad(set_to_none=True)  # unused weights have no gradient, hence no decay or momentum
    result = backward_pass(forward, batch, criterion, precision, reduction)
    optimizer.step()
    return result


class Throughput:
    """Counts images, and returns how many there were per second since the last reading."""

    def __init__(self) -> None:
        self._images, self._since = 0, time.monotonic()

    def add(self, images: int) -> None:
        """Counts further images."""
        self._images += images

    def per_second(self) -> float:
        """Returns the images per second since the last reading, and begins the next interval."""
        now = time.monotonic()
        rate = self._images / max(now - self._since, 1e-9)
        self._images, self._since = 0, now
        return rate
