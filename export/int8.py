"""Writes int8 files of a network, and checks each.

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
from torch import Tensor

from engine.progress import Report, silent
from export.formats.base import WEIGHT_BITS, Format, Quantiser
from export.fresh_process import FreshProcess
from export.int8_loss import Agreement, Drop, compared
from export.parity import SEVERAL, TOLERANCE, ParityError, Reference, prepared, run_in_batches, same_metadata
from export.program import Layout, Program
from export.quantisation import GATE_IMAGES, Quantisation
from export.simulation import Cost, rms

NOISE = 1.5
"""The largest accepted ratio of a file's distance from float32 to the simulated one. Both are the roots of the mean
squared difference of a logit."""


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
    weight_bits: int
    """The bits of the weights."""
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
        if self.weight_bits != WEIGHT_BITS:
            parts.append(f"weights of {self.weight_bits} bits")
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
    predict = quantiser.write(program, path, inputs, quantisation.kept, settings.weight_bits)
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
        noise = _refuse_noise(path.name, logits, quantisation, quantiser)
        types = {"input": "float32", "output": "float32"} | dict(file.types)

        def run(images: Tensor) -> np.ndarray:
            return run_in_batches(file, _pixels_of(images, reference), program.layout, batches[-1])

        agreement, drop = compared(quantisation, run, path.name, report)
        return Int8Check(
            file.runtime, file.precision, dict(file.ops), types, again, noise, quantisation.simulated, agreement, drop,
            settings.calibration.record(), dict(quantiser.scheme), settings.weight_bits, quantisation.kept,
            quantisation.costs,
        )  # fmt: skip


def _refuse_faults(quantiser: Quantiser, program: Program, path: Path, quantisation: Quantisation) -> None:
    """Raises ParityError if an int8 file does not hold what it should."""
    weight_bits = quantisation.settings.weight_bits
    faults = quantiser.faults(program, path, quantisation.kept, quantisation.ranges, weight_bits)
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


def _refuse_noise(name: str, logits: np.ndarray, quantisation: Quantisation, quantiser: Quantiser) -> float:
    """Returns how far logits are from float32's. Raises ParityError if that is much further than simulated."""
    noise = rms(torch.from_numpy(logits.astype(np.float64) - quantisation.expected))
    allowed = NOISE * quantisation.simulated + TOLERANCE * float(np.abs(quantisation.expected).max())
    if not noise <= allowed:
        found = f"calibration images: its logits differ from float32's by {noise:.2g} in the root mean square"
        bits = quantisation.settings.weight_bits
        raise ParityError(
            name,
            found,
            f"at most {allowed:.2g}, {NOISE:g} times what 8 bits cost in a simulation in PyTorch",
            quantiser.noise_remedy if bits == WEIGHT_BITS else "",
        )
    return noise


def _pixels_of(images: Tensor, reference: Reference) -> Tensor:
    """Returns normalised images as a file takes them: pixels from 0 to 255 if it normalises them itself."""
    if not reference.normalise:
        return images
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1) for values in (reference.preprocessing.mean, reference.preprocessing.std)
    )
    return (255 * (images * std + mean)).round()
