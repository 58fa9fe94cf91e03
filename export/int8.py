"""Quantises a network to int8 files, checks each, and measures what it loses.

A file is loaded in its runtime in a fresh process. It must hold int8 weights with a scale for each output channel, be
computed in integers, give the logits that the quantised model gave before it was a file, and be no further from float32
than a simulation in PyTorch, which shares no code with the quantiser, predicts. On labelled images its top-1 accuracy
is compared with float32's, image by image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.data import ImageSet, Preprocessing, evaluation_batches
from engine.device import prepare_device
from engine.errors import ConfigError
from engine.evaluation import paired_difference
from engine.nearest import nearest
from engine.progress import Report, reported, silent
from engine.run_config import RunConfig
from export.calibration import Calibration
from export.formats.base import Format, Quantiser
from export.fresh_process import FreshProcess
from export.parity import SEVERAL, TOLERANCE, ParityError, Reference, prepared, run_in_batches, same_metadata
from export.program import Layout, Program
from export.simulation import Cost, Simulation, rms

MAX_DROP = 1.0
"""The largest accepted loss of top-1 accuracy in percentage points."""
NOISE = 1.5
"""The largest accepted ratio of a file's distance from float32 to the simulated one. Both are the roots of the mean
squared difference of a logit."""
GATE_IMAGES = 16
"""The calibration images on which a file's distance from float32 is compared with the simulated one."""
SHOWN = 5
"""The layers that an error names."""
_AT_ONCE = 100


class DropError(ParityError):
    """An int8 file loses more accuracy than is accepted."""


@dataclass(frozen=True, eq=False)
class Int8:
    """What an int8 export needs beside the network."""

    calibration: Calibration
    max_drop: float = MAX_DROP
    """The largest accepted loss of top-1 accuracy in percentage points."""
    keep: int | tuple[str, ...] = 0
    """How many of the costliest layers stay in float32, or their names."""
    test: ImageSet | None = None
    """Labelled images. Without them no accuracy is compared."""
    test_source: str = ""
    """Where they are from, for a reader."""


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


@dataclass(frozen=True)
class Int8Check:
    """The result of a check that an int8 file has passed."""

    runtime: str
    precision: str
    ops: Mapping[str, int]
    types: Mapping[str, str]
    """The types of the file's input and output."""
    reload_max_abs_diff: float
    """The largest difference of a logit from the quantised model's before it was a file."""
    noise: float
    """How far the file is from float32: the root of the mean squared difference of a logit on GATE_IMAGES calibration
    images."""
    simulated_noise: float
    """How far the simulation in PyTorch is from float32 on the same images."""
    agreement: Agreement
    drop: Drop | None
    """None without labelled images."""
    calibration: Mapping[str, Any]
    scheme: Mapping[str, str]
    kept: tuple[str, ...]
    """The layers in float32."""
    sensitivity: tuple[Cost, ...]
    """What each layer costs alone, the costliest first."""

    def record(self) -> dict[str, Any]:
        """Returns plain values for export.json."""
        return asdict(self)

    def __str__(self) -> str:
        """Returns what the check showed, in one line."""
        same = self.agreement
        types = ", ".join(f"{place} {kind}" for place, kind in self.types.items())
        parts = [f"{self.runtime}, {types}"]
        if self.kept:
            parts.append(f"{len(self.kept)} layers in float32")
        if self.drop is not None:
            low, high = self.drop.interval
            parts.append(
                f"top-1 {self.drop.top1_int8:.2f} % on {self.drop.images} images, float32 "
                f"{self.drop.top1_float32:.2f} % (drop {self.drop.points:+.2f} points, 95 % interval {low:+.2f} to "
                f"{high:+.2f})"
            )
        parts.append(
            f"the same class as float32 in {100 * same.share:.4g} % of {same.images} {same.on}, a logit differs by at "
            f"most {same.max_abs_diff:.2g}"
        )
        return "; ".join(parts)


class Quantisation:
    """What is shared by all int8 files of a network: its simulation, its costliest layers, and float32's logits.

    network: it is not changed. Raises ConfigError if `keep` names a layer that there is not.
    """

    def __init__(
        self, network: nn.Module, preprocessing: Preprocessing, settings: Int8, reference: Reference,
        report: Report = silent,
    ):  # fmt: skip
        self.settings, self.reference, self.preprocessing = settings, reference, preprocessing
        pixels = settings.calibration.pixels
        simulation = Simulation(network, preprocessing, pixels)
        self.layers, self.ranges = simulation.layers, simulation.ranges
        if not isinstance(settings.keep, int):
            _refuse_unknown(settings.keep, self.layers)
        self.costs = tuple(simulation.costs(report))
        costliest = tuple(cost.layer for cost in self.costs[: settings.keep]) if isinstance(settings.keep, int) else ()
        self.kept = costliest or (() if isinstance(settings.keep, int) else settings.keep)
        self.images = preprocessing.normalised(pixels[:GATE_IMAGES])
        self.expected = reference.logits(self.images)
        self.simulated = rms(simulation.logits(self.images, self.kept) - torch.from_numpy(self.expected))
        self._of_test: tuple[np.ndarray, np.ndarray] | None = None

    def on_test(self, report: Report) -> tuple[np.ndarray, np.ndarray]:
        """Returns float32's logits (N, classes) on the labelled images, and the labels (N,)."""
        if self._of_test is None:
            network = self.reference.network
            with torch.inference_mode():
                self._of_test = _over(self.settings.test, lambda images: network(images).numpy(), "float32", report)
        return self._of_test


def _refuse_unknown(names: Sequence[str], layers: Sequence[str]) -> None:
    """Raises ConfigError if a name is not a layer's."""
    for name in names:
        if name not in layers:
            expected = f"a number, or names of layers such as {layers[0]}"
            raise ConfigError("keep_layers", f"got '{name[:80]}'", expected, suggestion=nearest(name, layers))


def write_and_check(
    quantisation: Quantisation, format: Format, program: Program, path: Path, report: Report = silent
) -> Int8Check:
    """Writes a program as an int8 file, and returns what its check showed. Raises ParityError, or DropError, which
    names the layers that cost most, and UserError if the file cannot be written or loaded."""
    quantiser = format.int8
    assert quantiser is not None
    settings, reference = quantisation.settings, quantisation.reference
    report("quantise", 0, 1)
    calibration = settings.calibration
    given = calibration.whole_batches if program.batch else calibration.inputs
    inputs = given(program.layout, reference.normalise, program.batch or GATE_IMAGES)
    predict = quantiser.write(program, path, inputs, quantisation.kept)
    report("quantise", 1, 1)
    return check_int8(quantisation, format, program, path, predict, report)


def check_int8(
    quantisation: Quantisation, format: Format, program: Program, path: Path,
    predict: Callable[[np.ndarray], np.ndarray] | None, report: Report = silent,
) -> Int8Check:  # fmt: skip
    """Returns what the check of an int8 file showed. predict: runs the quantised model in this process, before it was a
    file; None if there is none. Raises what `write_and_check` raises."""
    quantiser = format.int8
    assert quantiser is not None
    settings, reference = quantisation.settings, quantisation.reference
    _refuse_faults(quantiser, program, path, quantisation)
    batches = (program.batch,) if program.batch else (1, SEVERAL)
    with FreshProcess(format, path) as file:
        same_metadata(file, program.metadata)
        again = 0.0
        if predict is not None:
            again = _reloaded(file, predict, reference, program.layout, batches)
        given = quantisation.images
        logits = run_in_batches(file, _pixels_of(given, reference), program.layout, batches[-1])
        noise = _refuse_noise(path.name, logits, quantisation)
        types = {"input": "float32", "output": "float32"} | dict(file.types)

        def run(images: Tensor) -> np.ndarray:
            return run_in_batches(file, _pixels_of(images, reference), program.layout, batches[-1])

        agreement, drop = _compared(quantisation, run, path.name, report)
        return Int8Check(
            file.runtime, file.precision, dict(file.ops), types, again, noise, quantisation.simulated, agreement, drop,
            settings.calibration.record(), dict(quantiser.scheme), quantisation.kept, quantisation.costs,
        )  # fmt: skip


def _refuse_faults(quantiser: Quantiser, program: Program, path: Path, quantisation: Quantisation) -> None:
    """Raises ParityError if an int8 file does not hold what it should."""
    faults = quantiser.faults(program, path, quantisation.kept, quantisation.ranges)
    if faults:
        more = f", and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ParityError(path.name, f"is not a good int8 file: {'; '.join(faults[:3])}{more}")


def _reloaded(
    file: FreshProcess, predict: Callable[[np.ndarray], np.ndarray], reference: Reference, layout: Layout,
    batches: Sequence[int],
) -> float:  # fmt: skip
    """Returns the largest difference of a logit of the file from the quantised model's in this process, on random
    inputs and on photographs. Raises ParityError if it is larger than float32 in another order of adding makes it."""
    largest = 0.0
    inputs = {"random inputs": reference.random}
    if reference.pictures:
        inputs["photographs"] = prepared(reference.pictures, reference.preprocessing, not reference.normalise)
    for what, images in inputs.items():
        given = images if layout == "nchw" else images.permute(0, 2, 3, 1)
        parts = given.split(batches[0])
        expected = np.concatenate([predict(part.contiguous().numpy()) for part in parts if len(part) == batches[0]])
        for batch in batches:
            logits = run_in_batches(file, images[: len(expected)], layout, batch)
            apart = float(np.abs(logits - expected).max()) if logits.shape == expected.shape else float("inf")
            allowed = TOLERANCE * float(np.abs(expected).max())
            if not apart <= allowed:
                found = f"{what}, batch {batch}: a logit differs by {apart:.2g} from the quantised model's before it "
                raise ParityError(file.path.name, f"{found}was a file", f"at most {allowed:.2g}")
            largest = max(largest, apart)
    return largest


def _refuse_noise(name: str, logits: np.ndarray, quantisation: Quantisation) -> float:
    """Returns how far logits are from float32's. Raises ParityError if that is much further than simulated."""
    noise = rms(torch.from_numpy(logits.astype(np.float64) - quantisation.expected))
    allowed = NOISE * quantisation.simulated + TOLERANCE * float(np.abs(quantisation.expected).max())
    if not noise <= allowed:
        found = f"calibration images: its logits differ from float32's by {noise:.2g} in the root mean square"
        raise ParityError(
            name, found, f"at most {allowed:.2g}, {NOISE:g} times what 8 bits cost in a simulation in PyTorch"
        )
    return noise


def _compared(
    quantisation: Quantisation, run: Callable[[Tensor], np.ndarray], name: str, report: Report
) -> tuple[Agreement, Drop | None]:
    """Returns how a file's logits differ from float32's, and the drop of its accuracy if there are labelled images.
    Raises DropError."""
    settings, calibration = quantisation.settings, quantisation.settings.calibration
    if settings.test is None:
        held_out = len(calibration.others) > 0
        images = quantisation.preprocessing.normalised(calibration.others if held_out else calibration.pixels)
        there = np.concatenate([run(part) for part in images.split(_AT_ONCE)])
        on = "images of the calibration folder that did not calibrate" if held_out else "calibration images"
        return _agreement(quantisation.reference.logits(images), there, on), None
    here, labels = quantisation.on_test(report)
    there, _ = _over(settings.test, run, "int8", report)
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
    return DropError(name, found, f"at most {drop.max_drop:g}, as --max-drop says", f"{remedy} or other images")


def _agreement(here: np.ndarray, there: np.ndarray, on: str) -> Agreement:
    """Returns how logits (N, classes) differ."""
    apart = there.astype(np.float64) - here
    same = float((here.argmax(axis=1) == there.argmax(axis=1)).mean())
    return Agreement(len(here), on, same, float(np.abs(apart).max()), float(np.sqrt(np.square(apart).mean())))


def _over(
    images: ImageSet | None, run: Callable[[Tensor], np.ndarray], what: str, report: Report
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the logits (N, classes) of a set's images, and their labels (N,)."""
    assert images is not None
    # read in this process: LiteRT's converter has begun threads here, and a fork of it could wait for ever
    batches = evaluation_batches(images, _AT_ONCE, 0, device=prepare_device(RunConfig(device="cpu")))
    logits, labels = [], []
    for batch in reported(batches, f"evaluate {what}", -(-len(images) // _AT_ONCE), report):
        logits.append(run(batch.images))
        labels.append(batch.labels.numpy())
    if images.readers is not None:
        images.readers.close()
    return np.concatenate(logits), np.concatenate(labels)


def _pixels_of(images: Tensor, reference: Reference) -> Tensor:
    """Returns normalised images as a file takes them: pixels from 0 to 255 if it normalises them itself."""
    if not reference.normalise:
        return images
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1) for values in (reference.preprocessing.mean, reference.preprocessing.std)
    )
    return (255 * (images * std + mean)).round()
