"""Opens a trained network that another one learns from: one of this framework, of torchvision or of timm."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.data import Preprocessing
from engine.device import memory_format
from engine.errors import ConfigError, UserError, one_line
from engine.evaluation import recalibrate_bn
from engine.imagenet import same_classes
from engine.nearest import nearest
from engine.run_config import RunConfig
from retrain.start import FindPublished, checksum, find_trained, none_published
from supernet.architecture import Architecture
from supernet.design import Design

KEY = "retrain.teacher.network"


@dataclass(frozen=True)
class _Model:
    """A model of another package or of this one, with what is known of it."""

    network: nn.Module
    mean: tuple[float, ...] | None
    """The mean of each channel that its images are normalised by, for pixels in [0, 1]; None: that of the data."""
    std: tuple[float, ...] | None
    classes: tuple[str, ...] | None
    """The names of its classes, if they can be compared with those of the data."""


class Teacher:
    """A trained network in evaluation mode, which never changes.

    It gets the images of a batch as they are, normalised by its own mean and deviation.
    """

    def __init__(self, network: nn.Module, scale: Tensor, shift: Tensor, identity: str):
        self.network, self._scale, self._shift = network, scale, shift
        self.identity = identity
        """A checksum of its weights."""

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """images (N, C, H, W), normalised as the data are -> logits (N, classes)."""
        theirs: Tensor = self.network(torch.addcmul(self._shift, images, self._scale))
        return theirs


def open_teacher(
    name: str,
    design: Design,
    classes: tuple[str, ...],
    preprocessing: Preprocessing,
    device: torch.device,
    run: RunConfig,
    allow_modules: Collection[str] = (),
    published: FindPublished = none_published,
    statistics: Iterable[Tensor] = (),
) -> Teacher:
    """Returns the teacher of a name (`retrain.teacher.network`) for the images of the data.

    design, classes, preprocessing: the network to train, the data's classes and how its images are normalised. A
    search's checkpoint gives the largest network of its space with the supernet's weights; statistics: the batches (N,
    C, H, W) from which its BN statistics are collected, on the CPU. Raises UserError if there is no such network, if
    its weights cannot be had, or if it has other classes or channels.
    """
    package, colon, model = name.partition(":")
    collects = False
    if colon and package in _PACKAGES:
        opened = _PACKAGES[package](model)
    else:
        trained = find_trained(name, KEY, _largest(design), allow_modules, published)
        collects = trained.needs_statistics
        known = trained.preprocessing
        mean, std = (known.mean, known.std) if known else (None, None)
        opened = _Model(trained.network, mean, std, trained.classes)
    if opened.classes is not None and not same_classes(opened.classes, classes):
        raise ConfigError(KEY, f"{name} knows other classes than those of the data", remedy="choose another teacher")
    identity = checksum(opened.network)  # before statistics are collected, whose last bits depend on the machine
    if collects:
        recalibrate_bn(opened.network, statistics)
    network = opened.network.eval().requires_grad_(requires_grad=False)
    network.to(device=device, memory_format=memory_format(run))  # type: ignore[call-overload]
    scale, shift = (t.to(device) for t in _conversion(preprocessing, opened))
    teacher = Teacher(network, scale, shift, identity)
    _check(teacher, name, design, len(classes), device)
    return teacher


def _largest(design: Design) -> Design:
    """Returns the network of a design's space whose candidates have the most multiply-accumulates; the design itself if
    it is of no space."""
    if not isinstance(design, Architecture):
        return design
    costs = [[layer.complexity.macs for layer in edge.layers] for edge in design.space.searchable]
    return Architecture(design.space, tuple(row.index(max(row)) for row in costs), "the largest of the space")


def _conversion(own: Preprocessing, theirs: _Model) -> tuple[Tensor, Tensor]:
    """Returns scale and shift (1, C, 1, 1), by which an image that is normalised as the data are becomes one that is
    normalised as the teacher's are. A grey image fills the channels of a teacher of colours."""
    mean, std = theirs.mean or own.mean, theirs.std or own.std
    own_mean, own_std = own.mean, own.std
    if len(own_mean) == 1 < len(mean):
        own_mean, own_std = own_mean * len(mean), own_std * len(mean)
    if len(own_mean) != len(mean):
        found = f"the teacher's images have {len(mean)} channels, those of the data {len(own_mean)}"
        raise ConfigError(KEY, found, remedy="choose another teacher")

    def row(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)

    scale, shift = row(own_std) / row(std), (row(own_mean) - row(mean)) / row(std)
    return scale.float(), shift.float()


def _check(teacher: Teacher, name: str, design: Design, classes: int, device: torch.device) -> None:
    """Raises ConfigError unless the teacher takes the images of the data and knows as many classes."""
    size = design.input_size
    try:
        theirs = teacher.logits(torch.zeros(1, design.input_channels, size, size, device=device))
    except RuntimeError as error:
        found = f"{name} cannot take images of {size} x {size} pixels ({one_line(str(error).splitlines()[0])})"
        raise ConfigError(KEY, found, remedy="choose another teacher") from None
    if theirs.ndim != 2 or theirs.shape[1] != classes:
        found = f"{name} has {theirs.shape[-1]} classes, the data {classes}"
        raise ConfigError(KEY, found, remedy="choose a teacher that was trained on the classes of the data")


def _of_torchvision(name: str) -> _Model:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        accepted = "the name of a classification model of torchvision, such as resnet50"
        raise ConfigError(KEY, f"torchvision has no '{name}'", accepted, suggestion=nearest(name, known))
    weights: Any = models.get_model_weights(name).DEFAULT
    try:
        network = models.get_model(name, weights=weights, progress=False)
    except (OSError, RuntimeError) as error:
        remedy = "connect to the internet, or put the file into torch's cache"
        raise UserError(KEY, f"{weights.url} cannot be had ({one_line(str(error))})", remedy=remedy) from None
    transforms = weights.transforms()
    return _Model(network, tuple(transforms.mean), tuple(transforms.std), None)


def _of_timm(name: str) -> _Model:
    try:
        import timm
    except ImportError:
        raise UserError(KEY, "timm is not installed", remedy="pip install timm, or choose another teacher") from None
    if not timm.is_model(name):
        near = nearest(name, timm.list_models())
        raise ConfigError(KEY, f"timm has no '{name}'", "the name of a model of timm", suggestion=near)
    try:
        network = timm.create_model(name, pretrained=True)
    except (OSError, RuntimeError) as error:
        remedy = "connect to the internet, or choose a model that has weights"
        raise UserError(KEY, f"the weights of {name} cannot be had ({one_line(str(error))})", remedy=remedy) from None
    return _Model(network, tuple(network.pretrained_cfg["mean"]), tuple(network.pretrained_cfg["std"]), None)


_PACKAGES = {"torchvision": _of_torchvision, "timm": _of_timm}
