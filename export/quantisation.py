"""What all int8 files of a network share: the settings, a simulation in PyTorch, and float32's logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from engine.data import ImageSet, Preprocessing, evaluation_batches
from engine.device import prepare_device
from engine.errors import ConfigError
from engine.nearest import nearest
from engine.progress import Report, reported, silent
from engine.run_config import RunConfig
from export.calibration import Calibration
from export.formats.base import WEIGHT_BITS
from export.parity import Reference
from export.simulation import Simulation, rms

MAX_DROP = 1.0
"""The largest accepted loss of top-1 accuracy in percentage points."""
GATE_IMAGES = 16
"""The calibration images on which a file's distance from float32 is compared with the simulated one."""
AT_ONCE = 100
"""The images that are run at once, to compare accuracies."""


@dataclass(frozen=True, eq=False)
class Int8:
    """What an int8 export needs beside the network."""

    calibration: Calibration
    max_drop: float = MAX_DROP
    """The largest accepted loss of top-1 accuracy in percentage points."""
    keep: int | tuple[str, ...] = 0
    """How many of the costliest layers stay in float32, or their names."""
    weight_bits: int = WEIGHT_BITS
    """The bits of the weights; see `export.formats.base.LARGEST_CODE`."""
    test: ImageSet | None = None
    """Labelled images. Without them no accuracy is compared."""
    test_source: str = ""
    """Where they are from, for a reader."""


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
        simulation = Simulation(network, preprocessing, pixels, settings.weight_bits)
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
                self._of_test = logits_over(
                    self.settings.test, lambda images: network(images).numpy(), "float32", report
                )
        return self._of_test


def _refuse_unknown(names: Sequence[str], layers: Sequence[str]) -> None:
    """Raises ConfigError if a name is not a layer's."""
    for name in names:
        if name not in layers:
            expected = f"a number, or names of layers such as {layers[0]}"
            raise ConfigError("keep_layers", f"got '{name[:80]}'", expected, suggestion=nearest(name, layers))


def logits_over(
    images: ImageSet | None, run: Callable[[Tensor], np.ndarray], what: str, report: Report
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the logits (N, classes) of a set's images, and their labels (N,)."""
    assert images is not None
    # read in this process: LiteRT's converter has begun threads here, and a fork of it could wait for ever
    batches = evaluation_batches(images, AT_ONCE, 0, device=prepare_device(RunConfig(device="cpu")))
    logits, labels = [], []
    for batch in reported(batches, f"evaluate {what}", -(-len(images) // AT_ONCE), report):
        logits.append(run(batch.images))
        labels.append(batch.labels.numpy())
    if images.readers is not None:
        images.readers.close()
    return np.concatenate(logits), np.concatenate(labels)
