"""Measures how good a network is: its accuracy and loss on a set of images, and BN statistics collected for it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.data.images import Batch
from engine.device import autocast, on_device
from engine.distributed import ALONE, Group
from engine.memory import memory_explained
from engine.run_config import RunConfig


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
    """Returns the percentage of labels (N,) among the k largest logits (N, classes), a 0-dim tensor for each k.

    `hits` defines what counts if logits are equal.
    """
    return tuple(100 * hits(logits, labels, k).float().mean() for k in topk)


@contextlib.contextmanager
def _in_eval_mode(network: nn.Module) -> Iterator[None]:
    """Puts all modules in eval mode, and at the end each back in the mode it had."""
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

    Every batch weighs the same, whichever process has it, and a process may have none. Only BN runs in training mode
    (no dropout). Momenta and modes are restored. Raises ValueError if no process has a batch.
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
    for m in norms:  # weighted, so that the mean over processes is the mean over batches
        assert m.running_mean is not None
        assert m.running_var is not None
        m.running_mean.mul_(count * group.world_size / total)
        m.running_var.mul_(count * group.world_size / total)
    group.average_statistics(network)


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`. loss: mean cross entropy in nats; top1, top5: in percent; images: their number."""

    loss: float
    top1: float
    top5: float
    images: int


@dataclass(frozen=True)
class ClassRow:
    """The figures of one class; shares are in percent, and NaN for a class without an image."""

    name: str
    images: int
    top1: float
    interval: tuple[float, float]
    """The ends of Wilson's 95 % interval of `top1`."""
    top5: float
    taken_for: str | None
    """The class that most of its other images were taken for; None if there is none."""
    taken: int
    """How many of them were."""


@dataclass(frozen=True)
class ClassCounts:
    """How a network classified the images of each class."""

    confusions: Tensor
    """(classes, classes) int64: how many images of each class were taken for each class. An image of its own class
    counts on the diagonal exactly if it is a hit of top-1."""
    top5: Tensor
    """(classes,) int64: the images of each class whose class is among the five likeliest."""

    @property
    def images(self) -> Tensor:
        """How many images of each class there are, (classes,)."""
        return self.confusions.sum(dim=1)

    @property
    def top1(self) -> Tensor:
        """How many images of each class were classified as that class, (classes,)."""
        return self.confusions.diagonal()

    def rows(self, names: Sequence[str]) -> list[ClassRow]:
        """Returns the figures of each class. names: the name of class i at position i."""
        rows = []
        for i, name in enumerate(names):
            images, others = int(self.images[i]), self.confusions[i].clone()
            others[i] = 0
            taken = int(others.max())
            top1, top5 = (100 * int(hits[i]) / images if images else math.nan for hits in (self.top1, self.top5))
            interval = wilson(top1, images) if images else (math.nan, math.nan)
            taken_for = names[int(others.argmax())] if taken else None
            rows.append(ClassRow(name, images, top1, interval, top5, taken_for, taken))
        return rows

    def most_confused(self, count: int) -> list[tuple[int, int, int]]:
        """Returns at most `count` of (images, their class, the class that they were taken for), the most images first,
        then in the order of the classes."""
        wrong = self.confusions.clone().fill_diagonal_(0).flatten()
        order = wrong.argsort(descending=True, stable=True)[:count].tolist()
        classes = len(self.confusions)
        return [(int(wrong[i]), *divmod(i, classes)) for i in order if wrong[i]]


def wilson(percent: float, images: int, z: float = 1.959964) -> tuple[float, float]:
    """Returns the ends of Wilson's 95 % interval of a share in percent, of which `images` were counted (E. B. Wilson
    1927). z: the quantile of the normal distribution."""
    share, square = percent / 100, z * z
    middle = (share + square / (2 * images)) / (1 + square / images)
    half = z / (1 + square / images) * math.sqrt(share * (1 - share) / images + square / (4 * images**2))
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)


def paired_difference(both: int, first: int, second: int, neither: int) -> tuple[float, float]:
    """Returns the ends of the 95 % interval of the difference of two accuracies on the same images, the first minus the
    second, in percentage points: R. G. Newcombe's hybrid score interval for paired data (1998, method 10).

    both, first, second, neither: the images that both networks, the first alone, the second alone and none of them
    classified correctly. Raises ValueError if there is no image.
    """
    images = both + first + second + neither
    if images == 0:
        raise ValueError("no image to compare accuracies on")
    one, other = 100 * (both + first) / images, 100 * (both + second) / images
    (low1, high1), (low2, high2) = wilson(one, images), wilson(other, images)
    excess: float = both * neither - first * second
    excess = max(excess - images / 2, 0) if excess > 0 else excess  # the continuity correction of method 10
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    correlation = excess / math.sqrt(margins) if margins else 0.0

    def half(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * correlation * a * b + b * b))

    difference = one - other
    return difference - half(one - low1, high2 - other), difference + half(high1 - one, other - low2)


@torch.no_grad()
@memory_explained()
def evaluate(
    network: nn.Module, batches: Iterable[Batch], device: torch.device, run: RunConfig, group: Group = ALONE
) -> Evaluation:
    """Returns a network's loss and accuracy in eval mode on the batches of all processes; all modes are restored.

    Sums stay on the device until the end. Raises ValueError if there is no image.
    """
    return _totals(network, batches, device, run, group, None)


@torch.no_grad()
@memory_explained()
def evaluate_by_class(
    network: nn.Module,
    batches: Iterable[Batch],
    device: torch.device,
    run: RunConfig,
    classes: int,
    group: Group = ALONE,
) -> tuple[Evaluation, ClassCounts]:
    """Returns what `evaluate` returns, and how the images of each class were classified, in all processes together.
    classes: their number."""
    counts = torch.zeros(classes * (classes + 1), dtype=torch.int64, device=device)
    result = _totals(network, batches, device, run, group, counts)
    table = group.sum_of(counts.cpu()).view(classes, classes + 1)
    return result, ClassCounts(table[:, :-1].clone(), table[:, -1].clone())


def _totals(
    network: nn.Module,
    batches: Iterable[Batch],
    device: torch.device,
    run: RunConfig,
    group: Group,
    counts: Tensor | None,
) -> Evaluation:
    """Does the work of `evaluate`, and adds to counts (classes x (classes + 1),): one row for each class, of the
    classes that its images were taken for and, at its end, of the hits of top-5."""
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    count = 0
    with _in_eval_mode(network):
        for batch in batches:
            images, labels, _ = on_device(batch, device, run)
            with autocast(run, device):
                logits = network(images)
            loss = F.cross_entropy(logits.float(), labels, reduction="sum")
            first, fifth = (hits(logits, labels, k) for k in (1, 5))
            right = torch.stack([first.sum(), fifth.sum()])  # whole images: equal sums are equal
            sums += torch.cat([loss[None], right]).double()
            count += len(labels)
            if counts is not None:
                row = labels * (logits.shape[1] + 1)
                counts += torch.bincount(row + _taken_for(logits, labels, first), minlength=len(counts))
                counts += torch.bincount((row + logits.shape[1])[fifth], minlength=len(counts))
    *totals, images = group.sum_of(torch.cat([sums.cpu(), torch.tensor([count], dtype=torch.float64)])).tolist()
    if images == 0:
        raise ValueError("no image to evaluate on")
    loss_sum, hits1, hits5 = totals
    return Evaluation(loss_sum / images, 100 * hits1 / images, 100 * hits5 / images, int(images))


def _taken_for(logits: Tensor, labels: Tensor, first: Tensor) -> Tensor:
    """Returns the class (N,) of each image that the network takes it for: its own if it is a hit `first` (N,), else the
    likeliest other one."""
    best, second = logits.topk(2, dim=1).indices.unbind(1)
    return torch.where(first, labels, torch.where(best == labels, second, best))
