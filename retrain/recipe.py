"""Makes what a step needs from the settings of a retraining: optimizer, learning rate, mixed images, loss, averaged
weights."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from engine.data import Batch
from engine.data.augmentation import seeded
from engine.quantities import amount
from engine.training import cross_entropy, split_decay, warmed_cosine_lr
from retrain.config import AugmentSettings, RetrainSettings
from retrain.teacher import Teacher

log = logging.getLogger("retrain")

BATCH = 256
"""The batch size for which `lr` and `ema` are given."""
BN_MOMENTUM = 0.1
"""torch's own."""
LEFT = 0.01
"""The weight that BN statistics may leave to those that a training began with, after half of its steps."""


def optimizer_of(network: nn.Module, settings: RetrainSettings, device: torch.device) -> torch.optim.Optimizer:
    """Returns the optimizer of all weights; BN and biases have no decay.

    torch has fused kernels of SGD and AdamW. SGD on a CPU is not fused: its results are those of earlier versions.
    """
    groups, lr, momentum = split_decay(network, settings.resolved_weight_decay), scaled_lr(settings), settings.momentum
    match settings.optimizer:
        case "sgd":
            fused = True if device.type == "cuda" else None
            return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=fused)
        case "adamw":
            return torch.optim.AdamW(groups, lr=lr, fused=True)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr=lr, alpha=0.9, eps=0.0316, momentum=momentum)


def scaled_lr(settings: RetrainSettings) -> float:
    """Returns the highest learning rate: `lr` scaled linearly with the batch (Goyal et al. 2017, arXiv 1706.02677)."""
    return settings.resolved_lr * settings.batch_size / BATCH


def lr_at(settings: RetrainSettings, step: int, steps: int) -> float:
    """Returns the learning rate at `step` of `steps`."""
    warmup = round(settings.warmup_epochs * steps / settings.epochs)
    return warmed_cosine_lr(scaled_lr(settings), step, steps, warmup)


def hurry_statistics(network: nn.Module, updates: int) -> None:
    """Raises BN momenta that are too small for a training in which the statistics are updated so often, and logs it.

    A running statistic keeps (1 - momentum)^n of its first value after n updates. Published networks have a momentum of
    0.01, made for hundreds of epochs: after 100 steps a third of a fresh network's statistics would still be zeros and
    ones, and it would be evaluated by them. A raised momentum leaves LEFT after half of the updates, and is at most
    BN_MOMENTUM; with 917 updates or more 0.01 stays as it is.
    """
    least = min(BN_MOMENTUM, 1 - LEFT ** (2 / updates))
    slow = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d) and m.momentum and m.momentum < least]
    if slow:
        log.info(
            "BN momentum %.3g in place of %s: the training has only %d steps for the statistics to settle in",
            least, " and ".join(f"{own:g}" for own in sorted({float(m.momentum or 0) for m in slow})), updates,
        )  # fmt: skip
    for m in slow:
        m.momentum = least


def augmentation_for(macs: int, settings: AugmentSettings) -> AugmentSettings:
    """Returns the settings for a network of so many multiply-accumulates, and logs what is left out for a small one."""
    if macs >= settings.weaker_below or settings == settings.weaker:
        return settings
    left_out = [key for key in ("policy", "erasing", "mixup", "cutmix") if _differs(settings, key)]
    log.info(
        "the network has %s multiply-accumulates, fewer than retrain.augment.weaker_below (%s): it trains without %s",
        amount(macs), amount(settings.weaker_below),
        ", ".join(f"{key} {getattr(settings, key)}" for key in left_out),
    )  # fmt: skip
    return settings.weaker


def _differs(settings: AugmentSettings, key: str) -> bool:
    return bool(getattr(settings, key) != getattr(settings.weaker, key))


class Mixing:
    """Mixes the images of a batch in pairs, and their labels with them.

    torchvision's MixUp and CutMix draw from torch's global generator, which is seeded for each batch and put back. Each
    image is mixed with the one before it in its process's share of the batch, in the same proportion in all processes.
    """

    def __init__(self, settings: AugmentSettings, classes: int):
        from torchvision.transforms import v2

        kinds = {v2.MixUp: settings.mixup, v2.CutMix: settings.cutmix}
        mixes = [kind(alpha=alpha, num_classes=classes) for kind, alpha in kinds.items() if alpha > 0]
        self._mix = v2.RandomChoice(mixes) if len(mixes) == 2 else mixes[0] if mixes else None

    def __call__(self, batch: Batch, seed: int) -> Batch:
        """Returns the batch with mixed images (N, C, H, W), and labels (N, classes), each row a distribution; the batch
        itself if nothing is to be mixed."""
        if self._mix is None:
            return batch
        with seeded(seed):
            images, labels = self._mix(batch.images, batch.labels)
        return batch._replace(images=images, labels=labels)


def likeliest(labels: Tensor) -> Tensor:
    """Returns the classes (N,) of labels, which are classes already or probabilities (N, classes)."""
    return labels if labels.ndim == 1 else labels.argmax(dim=1)


class Averaged:
    """An exponential moving average of a network's weights and of its BN statistics, which belong to them.

    decay: per step of 256 images; `decay` raised to the power batch_size / 256 weighs an image the same for every batch
    (Busbridge et al. 2023, arXiv 2307.13813). In step n it is at most (1 + n) / (10 + n), as in TensorFlow's
    ExponentialMovingAverage, so that the first weights are soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float, batch_size: int):
        self.decay: float = decay ** (batch_size / BATCH)
        self.network = copy.deepcopy(network).requires_grad_(requires_grad=False)
        """The network with the averaged weights."""
        pairs = [
            (mine.detach(), theirs.detach())
            for mine, theirs in zip(_tensors(self.network), _tensors(network), strict=True)
        ]
        self._averages, self._values = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        self._counts = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Adds the network's weights after `step`, counted from 1, to the average. The first ones are copied, and so
        are whole numbers, such as BN's count of batches."""
        decay = min(self.decay, (1 + step) / (10 + step)) if step > 1 else 0.0
        get_ema_multi_avg_fn(decay)(self._averages, self._values, step)
        for mine, theirs in self._counts:
            mine.copy_(theirs)


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    return chain(network.parameters(), network.buffers())


class Loss:
    """The loss of a batch: cross entropy with smoothed labels, and with a teacher, for its share of the weight w,

        (1 - w) * cross entropy + w * T^2 * KL(softmax(teacher / T) || softmax(network / T))

    (Hinton et al. 2015, arXiv 1503.02531; the teacher sees the same images, mixed ones too: Beyer et al. 2021, arXiv
    2106.05237). The cross entropy of an image is multiplied by the weight of its class, if there are class_weights.
    """

    def __init__(self, settings: RetrainSettings, teacher: Teacher | None = None, class_weights: Tensor | None = None):
        self.class_weights = class_weights
        self._smoothing, self._teacher, self._settings = settings.label_smoothing, teacher, settings.teacher

    def __call__(self, images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """images (N, C, H, W), logits (N, classes), labels (N,) or (N, classes) -> loss ()."""
        loss = cross_entropy(logits, labels, self._smoothing, self.class_weights)
        if self._teacher is None or self._settings is None:
            return loss
        weight, T = self._settings.weight, self._settings.temperature
        theirs = F.log_softmax(self._teacher.logits(images).float() / T, dim=1)
        own = F.log_softmax(logits.float() / T, dim=1)
        return (1 - weight) * loss + weight * T**2 * F.kl_div(own, theirs, reduction="batchmean", log_target=True)


def bounded(parameters: Sequence[nn.Parameter], clip: float | None) -> Tensor | None:
    """Scales the gradients so that their norm is at most `clip`. Returns the norm before, (); None if there is no
    bound."""
    if clip is None:
        return None
    return torch.nn.utils.clip_grad_norm_(parameters, clip)


def gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Returns the norm of all gradients together, ()."""
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
