"""Chooses the images of an int8 export: those that calibrate, and those on which the accuracy is compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from engine.data import ImageSet, Preprocessing
from engine.data.evaluated import open_test_images
from engine.errors import ConfigError
from engine.progress import Report, silent
from engine.wording import shown
from export.calibration import calibration_of_folder, calibration_of_set
from export.formats.base import LARGEST_CODE, WEIGHT_BITS
from export.quantisation import Int8
from proxyless_nas.sources import Source, own_images
from retrain.evaluation import refuse_other_classes


def int8_settings(
    path: Path,
    source: Source,
    preprocessing: Preprocessing,
    *,
    calibration: Path | None,
    count: int,
    images: Path | None,
    max_drop: float,
    keep: int | Sequence[str],
    weight_bits: int = WEIGHT_BITS,
    report: Report = silent,
) -> Int8:
    """Returns what an int8 export needs beside the network.

    path: what the user named; source: what it is. calibration: a folder of training images; None takes a retraining's
    own training images. count: how many. images: a folder of labelled images; None takes a retraining's own test
    images, and none of another network. max_drop, keep, weight_bits: see `Int8`. Raises ConfigError if there is
    nothing to calibrate with, or if the images do not fit.
    """
    number = isinstance(max_drop, int | float) and not isinstance(max_drop, bool)
    if not number or not math.isfinite(max_drop) or not 0 <= max_drop <= 100:
        raise ConfigError("max_drop", f"got {shown(max_drop)}", "percentage points from 0 to 100")
    if isinstance(keep, bool) or (isinstance(keep, int) and keep < 0):
        raise ConfigError("keep_layers", f"got {shown(keep)}", "a number from 0 on, or names of layers")
    if isinstance(weight_bits, bool) or weight_bits not in LARGEST_CODE:
        raise ConfigError("weight_bits", f"got {shown(weight_bits)}", " or ".join(map(str, LARGEST_CODE)))
    own = own_images(path, source.network, preprocessing) if calibration is None or images is None else None
    test: ImageSet | None = None
    test_source = ""
    if images is not None:
        test, names = open_test_images(images, preprocessing, len(source.classes), source.folder_names)
        refuse_other_classes(source.folder_names, names, "the network", str(images))
        test_source = str(images)
    elif own is not None:
        test, test_source = own.test, "the run's test images"
    others = count if test is None else 0
    if calibration is not None:
        chosen = calibration_of_folder(calibration, preprocessing, count, others=others, report=report)
    elif own is not None:
        source_name = "the run's training images"
        chosen = calibration_of_set(own.train, count, source_name, others=others, report=report)
    else:
        raise ConfigError(
            "calibration", "is missing", "a folder of training images", "name one with --calibration: int8 needs some "
            "images of the training set, without labels, to choose the ranges of activations",
        )  # fmt: skip
    kept = keep if isinstance(keep, int) else tuple(keep)
    return Int8(chosen, float(max_drop), kept, weight_bits, test, test_source)
