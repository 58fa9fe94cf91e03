"""Measures what an int8 file loses: its logits and its accuracy beside float32's, image by image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from engine.evaluation import paired_difference
from engine.progress import Report
from export.formats.base import WEIGHT_BITS
from export.parity import ParityError
from export.quantisation import AT_ONCE, Quantisation, logits_over

SHOWN = 5
"""The layers that an error names."""


class DropError(ParityError):
    """An int8 file loses more accuracy than is accepted."""


@dataclass(frozen=True)
class Agreement:
    """How a file's logits differ from float32's."""

    images: int
    on: str
    """Which images these are."""
    share: float
    """The share of images whose likeliest class is the same."""
    max_abs_diff: float
    """The largest difference of a logit."""
    rms_diff: float
    """The root of the mean squared difference of a logit."""


@dataclass(frozen=True)
class Drop:
    """The top-1 accuracies of float32 and of a file on the same labelled images, in percent."""

    images: int
    on: str
    top1_float32: float
    top1_int8: float
    points: float
    """Float32's accuracy minus the file's."""
    interval: tuple[float, float]
    """The ends of Newcombe's 95 % interval of `points` for paired data (1998, method 10)."""
    lost: int
    """The images that float32 alone classifies correctly."""
    gained: int
    """The images that the file alone classifies correctly."""
    max_drop: float
    """The largest accepted loss."""


def compared(
    quantisation: Quantisation, run: Callable[[Tensor], np.ndarray], name: str, report: Report
) -> tuple[Agreement, Drop | None]:
    """Returns how a file's logits differ from float32's, and the drop of its accuracy if there are labelled images.
    Raises DropError."""
    settings, calibration = quantisation.settings, quantisation.settings.calibration
    if settings.test is None:
        held_out = len(calibration.others) > 0
        images = quantisation.preprocessing.normalised(calibration.others if held_out else calibration.pixels)
        there = np.concatenate([run(part) for part in images.split(AT_ONCE)])
        on = "images of the calibration folder that did not calibrate" if held_out else "calibration images"
        return _agreement(quantisation.reference.logits(images), there, on), None
    here, labels = quantisation.on_test(report)
    there, _ = logits_over(settings.test, run, "int8", report)
    right, kept_right = here.argmax(axis=1) == labels, there.argmax(axis=1) == labels
    lost, gained = int((right & ~kept_right).sum()), int((~right & kept_right).sum())
    both = int((right & kept_right).sum())
    images_in_all = len(labels)
    top1, top1_int8 = (100 * float(hits.mean()) for hits in (right, kept_right))
    interval = paired_difference(both, lost, gained, images_in_all - both - lost - gained)
    points = 100 * (lost - gained) / images_in_all
    drop = Drop(images_in_all, settings.test_source, top1, top1_int8, points, interval, lost, gained, settings.max_drop)
    if drop.points > settings.max_drop + 1e-9 or not np.isfinite(there).all():
        raise _too_much(name, drop, quantisation)
    return _agreement(here, there, "test images"), drop


def _too_much(name: str, drop: Drop, quantisation: Quantisation) -> DropError:
    """Returns the error for a file that loses too much, with the layers that cost most."""
    low, high = drop.interval
    left = [cost for cost in quantisation.costs if cost.layer not in quantisation.kept]
    layers = ", ".join(f"{cost.layer} ({cost.rms_diff:.2g})" for cost in left[:SHOWN])
    found = f"its top-1 accuracy on {drop.images} images is {drop.top1_int8:.2f} %, {drop.points:.2f} points below "
    found += f"float32's {drop.top1_float32:.2f} % (95 % interval {low:.2f} to {high:.2f})"
    remedy = f"keep the layers that cost most in float32, by --keep-layers N or by name: {layers}; or calibrate on more"
    remedy += " or other images"
    if quantisation.settings.weight_bits != WEIGHT_BITS:
        remedy += f"; or leave out --weight-bits {quantisation.settings.weight_bits}"
    return DropError(name, found, f"at most {drop.max_drop:g}, as --max-drop says", remedy)


def _agreement(here: np.ndarray, there: np.ndarray, on: str) -> Agreement:
    """Returns how logits (N, classes) differ."""
    apart = there.astype(np.float64) - here
    same = float((here.argmax(axis=1) == there.argmax(axis=1)).mean())
    return Agreement(len(here), on, same, float(np.abs(apart).max()), float(np.sqrt(np.square(apart).mean())))
