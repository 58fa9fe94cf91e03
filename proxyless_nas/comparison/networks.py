"""Finds the networks to compare: published ones by name, files, folders of runs, torchvision's, objects."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from engine.config import load_config
from engine.data.preprocessing import Preprocessing
from engine.errors import ConfigError, UserError
from engine.files import as_path, read_json
from engine.nearest import nearest
from engine.progress import Report
from proxyless_nas.comparison.result import Accuracy
from proxyless_nas.sources import Source, as_folders, trained_network
from proxyless_nas.views import retrained_design
from published.designs import design_of
from published.networks import ALIASES, NAMED, is_named, named
from published.preprocessing import preprocessing_of
from retrain.weights import load_chosen
from supernet.complexity import Complexity
from supernet.design import Design
from supernet.network import Network

log = logging.getLogger("proxyless_nas")

TORCHVISION = "torchvision:"
"""The beginning of the name of one of torchvision's networks, e.g. torchvision:resnet34."""
IMAGENET_VALIDATION = "ImageNet validation"
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    name: {"aux_logits": False, "init_weights": False} for name in ("googlenet", "inception_v3")
}
"""Arguments of torchvision's networks whose defaults are for training or warn."""


@dataclass(frozen=True)
class Trained:
    """A network with its trained weights."""

    network: nn.Module
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None = None
    """The names that a folder of images must have for its classes; None if they are not known."""

    @classmethod
    def of(cls, source: Source) -> Trained:
        """Returns what a comparison needs of a network with its weights."""
        return cls(source.network, source.preprocessing, source.folder_names)


@dataclass(frozen=True)
class Compared:
    """A network to compare."""

    name: str
    channels: int
    input_size: int
    """Height and width of the input in pixels."""
    classes: int
    complexity: Complexity
    fresh: Callable[[], nn.Module]
    """Returns the network with weights that may be changed."""
    design: Design | None = None
    """Its layers; None if they are not known."""
    accuracies: tuple[Accuracy, ...] = ()
    published_ms: Mapping[str, float] = field(default_factory=dict)
    """The published latency on each device of the publication."""
    trained: Callable[[Report], Trained] | None = None
    """Returns the network with its trained weights, which may be downloaded."""
    untrained: str = "has no trained weights"
    """Why there is no `trained`."""


def networks_of(
    sources: Sequence[Any] | Mapping[str, Any], allow_modules: Collection[str] = (), input_size: int = 224
) -> tuple[Compared, ...]:
    """Returns the networks that are given, each once, in order.

    sources: names, files, folders and objects (see `compare`); or a mapping from the names that they shall have. A
    network that is given twice by the same name is taken once. Raises ConfigError if there is none, or one cannot be
    read.
    """
    named_sources: Iterable[tuple[str | None, Any]]
    if isinstance(sources, Mapping):
        named_sources = sources.items()
    elif isinstance(sources, str | Path | Design | nn.Module):
        named_sources = [(None, sources)]
    elif isinstance(sources, Iterable):
        named_sources = [(None, source) for source in sources]
    else:
        raise ConfigError("networks", f"got {type(sources).__name__}", "a list of names, files, folders or objects")
    found: dict[str, Compared] = {}
    for label, source in named_sources:
        name = _name_of(source) if label is None else label
        if name in found and isinstance(source, str | Path):
            log.info("%s is given twice, and is compared once", name)
            continue
        while name in found:  # another object of the same name
            name += "'"
        found[name] = _network_of(source, name, allow_modules, input_size)
    if not found:
        raise ConfigError("networks", "got none", "names of published networks, files or folders")
    return tuple(found.values())


def _name_of(source: Any) -> str:
    """Returns the name of a network in a comparison: its own, or the file or folder that it is in."""
    if isinstance(source, Network):
        return source.architecture.name
    if isinstance(source, Design):
        return source.name
    if isinstance(source, nn.Module):
        return type(source).__name__
    text = str(source)
    if text.startswith(TORCHVISION):
        return text
    path = Path(text)
    return str(path.parent) if path.name == "architecture.json" else ALIASES.get(text, str(path))


def _network_of(source: Any, name: str, allow_modules: Collection[str], input_size: int) -> Compared:
    if isinstance(source, Network):
        size = source.architecture.input_size
        own = Trained(source, preprocessing_of(source.architecture.name, size), as_folders(source.class_names))
        return _of_design(source.architecture, name, trained=lambda _: own)
    if isinstance(source, Design):
        return _of_design(source, name)
    if isinstance(source, nn.Module):
        return _of_module(source, name, input_size)
    if not isinstance(source, str | Path):
        expected = "a name, a file, a folder, an architecture, a chain or a module"
        raise ConfigError("networks", f"got an entry of type {type(source).__name__}", expected)
    text = str(source)
    if text.startswith(TORCHVISION):
        return _of_torchvision(text.removeprefix(TORCHVISION), name)
    path = as_path(source, "networks")
    if is_named(text) and not path.exists():
        return _of_name(ALIASES.get(text, text), name)
    if (path / "config.yaml").exists():
        return _of_run(path, name, allow_modules)
    if path.is_dir():
        if not (path / "architecture.json").exists():
            expected = "the folder of a search or of a retraining"
            raise ConfigError(text, "has neither config.yaml nor architecture.json", expected)
        path /= "architecture.json"
    return _of_design(design_of(path, allow_modules=allow_modules), name, untrained="a file without weights")


def _of_design(design: Design, name: str, **rest: Any) -> Compared:
    return Compared(
        name, design.input_channels, design.input_size, design.classes, design.complexity,
        fresh=lambda: Network(design), design=design, **rest,
    )  # fmt: skip


def _of_name(own: str, name: str) -> Compared:
    """Returns a published network. own: its name among them."""
    what = NAMED[own]
    source = what.top1_source or "its authors"
    figures = [] if what.top1 is None else [what.top1]
    accuracies = tuple(Accuracy(top1=t, data=IMAGENET_VALIDATION, published=True, source=source) for t in figures)

    def trained(report: Report) -> Trained:
        return Trained.of(trained_network(own, report=report))

    return _of_design(named(own), name, accuracies=accuracies, published_ms=what.latency_ms, trained=trained)


def _of_run(run: Path, name: str, allow_modules: Collection[str]) -> Compared:
    """Returns the network of a search or of a retraining, whose test accuracy comes with it."""
    stored = load_config(run / "config.yaml")
    if "search" in stored:
        file = run / "architecture.json"
        if not file.exists():
            raise ConfigError(str(run), "has no architecture.json", "a search that has ended")
        untrained = "a search, whose weights are the supernet's: retrain it"
        return _of_design(load_chosen(file, allow_modules), name, untrained=untrained)
    design = retrained_design(stored, str(run / "config.yaml"), allow_modules)

    def trained(report: Report) -> Trained:
        return Trained.of(trained_network(design, run))

    return _of_design(design, name, accuracies=_test_accuracy(run, stored), trained=trained)


def _test_accuracy(run: Path, stored: Mapping[str, Any]) -> tuple[Accuracy, ...]:
    """Returns the accuracy in a retraining's result.json; none if it has not ended."""
    file = run / "result.json"
    if not file.exists():
        return ()
    record = read_json(file, "the result.json of a retraining")
    test = record.get("test") if isinstance(record, dict) else None
    top1, images = (test.get("top1"), test.get("images")) if isinstance(test, dict) else (None, None)
    if not isinstance(top1, int | float) or not isinstance(images, int) or not 0 <= top1 <= 100 or images < 1:
        raise ConfigError(str(file), "has no test accuracy", "the result.json of a retraining")
    data = stored.get("data", {})
    root = f" in {data['root']}" if data.get("root") else ""
    words = f"test images of {data.get('name', 'its data')}{root}"
    return (Accuracy(top1=float(top1), data=words, published=False, images=images, source=str(file)),)


def _of_torchvision(own: str, name: str) -> Compared:
    """Returns one of torchvision's networks for classification. Raises ConfigError if there is none of this name."""
    from torchvision import models

    known = models.list_models(module=models)
    if own not in known:
        near = nearest(own, known)
        suggestion = TORCHVISION + near if near else ""
        expected = f"{TORCHVISION}NAME, NAME being a classification network of torchvision.models"
        raise ConfigError("networks", f"got '{TORCHVISION}{own[:80]}'", expected, suggestion=suggestion)
    weights = models.get_model_weights(own).DEFAULT
    prepare = weights.transforms()
    size = int(prepare.crop_size[0])

    def fresh() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            network: nn.Module = models.get_model(own, **_OPTIONS.get(own, {}))
        return network

    def trained(report: Report) -> Trained:
        try:
            network: nn.Module = models.get_model(own, weights=weights)
        except (OSError, RuntimeError) as error:
            raise UserError(name, f"its weights cannot be had ({error})", remedy="connect to the internet") from None
        interpolation = str(prepare.interpolation.value)
        side = int(prepare.resize_size[0])
        words = f"{interpolation} with antialiasing, the shorter side to {side}, then the central {size} x {size}"
        own_way = Preprocessing.model_validate(
            {
                "input_size": size, "channels": 3, "colours": 3, "resize": words, "shorter_side": side,
                "mean": tuple(prepare.mean), "std": tuple(prepare.std), "interpolation": interpolation,
            }
        )  # fmt: skip
        return Trained(network, own_way)

    with torch.device("meta"):  # shapes alone: nothing is computed
        module = fresh().eval()
    complexity, classes = _complexity(module, torch.empty(1, 3, size, size, device="meta"), name)
    top1 = float(weights.meta["_metrics"]["ImageNet-1K"]["acc@1"])
    published = Accuracy(top1=top1, data=IMAGENET_VALIDATION, published=True, source=f"torchvision, {weights.name}")
    return Compared(name, 3, size, classes, complexity, fresh, accuracies=(published,), trained=trained)


def _of_module(module: nn.Module, name: str, size: int) -> Compared:
    """Returns a module of any kind. size: height and width of its three-channel input in pixels."""
    own = copy.deepcopy(module).cpu().float().eval()
    complexity, classes = _complexity(own, torch.zeros(1, 3, size, size), name)
    plain = Trained(module, preprocessing_of("", size))
    return Compared(name, 3, size, classes, complexity, partial(copy.deepcopy, own), trained=lambda _: plain)


def _complexity(module: nn.Module, images: torch.Tensor, name: str) -> tuple[Complexity, int]:
    """Returns a module's complexity for images (1, C, H, W), and its number of classes. Raises ConfigError if it does
    not return logits for them.

    torch counts the operations of convolutions, linear layers and matrix products, two for each multiply-accumulate.
    """
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            logits = module(images)
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        found = f"fails on images of shape {tuple(images.shape)} ({reason})"
        remedy = "give the size of its images as input_size"
        raise ConfigError(f"networks: {name}", found, remedy=remedy) from None
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2:
        found = f"returns {tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__}"
        raise ConfigError(f"networks: {name}", found, "logits of shape (N, classes)")
    params = sum(parameter.numel() for parameter in module.parameters())
    return Complexity(params, counter.get_total_flops() // 2), logits.shape[1]
