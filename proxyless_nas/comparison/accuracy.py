"""Gathers the accuracies of networks: measured now on a folder of images, or in a file of earlier figures."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from pydantic import Field

from engine.config import ConfigFile, Section, load_config, validate
from engine.errors import ConfigError, UserError
from engine.nearest import nearest
from engine.progress import Report
from engine.run_config import RunConfig
from proxyless_nas.comparison.networks import Compared
from proxyless_nas.comparison.result import Accuracy
from retrain.evaluation import score_files


class Figure(Section):
    """A measured accuracy in a file of `read_accuracies`."""

    top1: float = Field(ge=0, le=100)
    """Percent."""
    data: str = Field(min_length=1, max_length=200)
    """The images, in words. Accuracies are compared with each other if these words and `images` are equal."""
    images: int | None = Field(None, ge=1)
    """The number of images, from which the interval is computed."""


class Figures(ConfigFile):
    """The measured accuracies of some networks."""

    accuracies: dict[str, Figure]
    """By the names of the networks."""


def read_accuracies(path: Path, names: Sequence[str]) -> dict[str, tuple[Accuracy, ...]]:
    """Returns the measured accuracies in a file by the names of networks, of those that it has.

    The file is YAML or JSON with the key `accuracies` (see `Figures`), or the JSON of another comparison. Raises
    ConfigError if it is none, or has a figure of none of the names.
    """
    content = load_config(path)
    if "rows" in content:
        from proxyless_nas.comparison.table import Comparison

        rows = validate(Comparison, Comparison.stored(content, str(path)), str(path)).rows
        found = {row.name: tuple(a for a in row.accuracies if not a.published) for row in rows}
    else:
        figures = validate(Figures, content, str(path)).accuracies
        found = {
            name: (Accuracy(top1=f.top1, data=f.data, published=False, images=f.images, source=str(path)),)
            for name, f in figures.items()
        }
    if not any(found.get(name) for name in names):
        near = [n for name in names if (n := nearest(name, found))]
        listed = ", ".join(names)
        raise ConfigError(str(path), "has a measured accuracy of none of the networks", listed, suggestion=near[:1])
    return {name: found[name] for name in names if found.get(name)}


def measured_accuracies(
    networks: Sequence[Compared], images: Path, report: Report
) -> tuple[dict[str, Accuracy], dict[str, str]]:
    """Evaluates every network that has trained weights on a folder of images, which holds val/ with a folder for each
    class. Returns the accuracies, and the reasons why a network has none, by the networks' names.

    Raises ConfigError if there is no such folder.
    """
    check_images(images)
    found: dict[str, Accuracy] = {}
    reasons: dict[str, str] = {}
    run = RunConfig.model_validate({"device": "cuda" if torch.cuda.is_available() else "cpu"})
    for network in networks:
        if network.trained is None:
            reasons[network.name] = f"{network.name}: {network.untrained}"
            continue
        try:
            trained = network.trained(report)
            test = score_files(
                copy.deepcopy(trained.network).eval(),
                images,
                trained.preprocessing,
                network.classes,
                run=run,
                class_names=trained.class_names,
                report=report,
            ).test
        except UserError as error:
            reasons[network.name] = f"{network.name}: {error}"
            continue
        found[network.name] = Accuracy(
            top1=test.top1, data=f"images of {images}", published=False, images=test.images, source="measured now"
        )
    return found, reasons


def check_images(images: Path) -> None:
    """Raises ConfigError unless there is such a folder."""
    if not images.is_dir():
        raise ConfigError(f"--path {images}", "no such folder", "a folder that holds val/ with a folder for each class")


def with_measured(
    networks: Sequence[Compared], measured: Mapping[str, tuple[Accuracy, ...]]
) -> dict[str, tuple[Accuracy, ...]]:
    """Returns the accuracies of each network by its name: its own ones and those in `measured`, which take the place of
    its own on the same images."""
    result = {}
    for network in networks:
        new = measured.get(network.name, ())
        bases = {accuracy.basis for accuracy in new}
        result[network.name] = (*(a for a in network.accuracies if a.basis not in bases), *new)
    return result
