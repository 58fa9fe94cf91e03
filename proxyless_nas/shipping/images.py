"""Says whether the images of a job are still those with which its search and its retraining were begun."""

from __future__ import annotations

from typing import Literal

from engine.errors import ConfigError
from engine.runs.inputs import Inputs, changed_inputs, recorded
from proxyless_nas.shipping.folder import CONFIG, DERIVED, Job
from retrain.data import images_to_train_on
from retrain.inputs import image_inputs as retraining_images
from retrain.weights import load_chosen
from search.scoring import image_inputs as search_images
from search.scoring import open_parts

Part = Literal["search", "retrain"]
WITH_IMAGES: tuple[Part, ...] = ("search", "retrain")
"""The stages that record the images with which they were begun."""


def changed_images(job: Job, part: Part) -> list[str]:
    """Returns a line for each kind of difference between the images with which a part of the job was begun and those
    that are there now.

    Raises ConfigError, which names the part's settings, if the images cannot be opened.
    """
    folder = job.out / part
    before = recorded(folder)
    if before is None:  # a run of an earlier version
        return []
    try:
        now = _images_of(job, part)
    except ConfigError as error:
        raise error.within(f"{job.out / CONFIG}: {part}") from None
    return changed_inputs(folder, {name: before[name] for name in before if name.endswith(" images")}, now)


def refuse_other_images(job: Job, part: Part) -> None:
    """Raises ConfigError, which names what has changed, unless a part's images are those with which it was begun."""
    if lines := changed_images(job, part):
        folder = job.out / part
        remedy = f"put back what it was begun with, or delete {folder}: the stage then runs anew"
        raise ConfigError(str(folder), f"{'; '.join(lines)} since it began", remedy=remedy)


def _images_of(job: Job, part: Part) -> Inputs:
    """Returns the images of a part as a run records them."""
    if part == "search":
        return search_images(*open_parts(job.config.search))
    return retraining_images(images_to_train_on(load_chosen(job.out / DERIVED, job.modules), job.config.retrain))
