"""Runs exported files on the test images of a retraining, and compares the classes that they choose with PyTorch's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.data import ImageSet, evaluation_batches
from engine.distributed import ALONE
from engine.evaluation import evaluate
from engine.progress import Report, reported, silent
from engine.run_config import RunConfig
from export.formats.base import Format
from export.fresh_process import FreshProcess
from export.parity import run_in_batches

BATCH = 100
"""The images that a file gets at once if it takes any number."""


@dataclass(frozen=True)
class OnImages:
    """How an exported file does on labelled images."""

    images: int
    top1: float
    """In percent."""
    loss: float
    """The mean cross entropy in nats."""
    agreement: float
    """The share of images, in percent, for which PyTorch finds the same class the likeliest."""


class _Beside(nn.Module):
    """A file as a module, normalised images (N, C, S, S) -> logits (N, classes), which counts how often PyTorch's
    network agrees. network: in evaluation mode, on the CPU."""

    mean: Tensor
    std: Tensor

    def __init__(self, file: FreshProcess, network: nn.Module):
        super().__init__()
        assert file.metadata is not None
        about = file.metadata
        self.file, self.network, self.agreed = file, network, 0
        self.layout = about["input"]["layout"]
        fixed = about["input"]["shape"][0]
        self.batch = fixed if isinstance(fixed, int) else BATCH
        self.pixels = about["input"]["values"] != "normalised pixels"
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(about["preprocessing"][name]).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        given = ((images * self.std + self.mean) * 255).round() if self.pixels else images
        logits = torch.from_numpy(run_in_batches(self.file, given, self.layout, self.batch))
        chosen = logits.argmax(1, keepdim=True)
        self.agreed += int((chosen[:, 0] == self.network(images).argmax(1)).sum())
        # The first of equal logits, which int8 has often, is the class that the file chooses: an evaluation would count
        # a tie as wrong.
        above = torch.nextafter(logits.gather(1, chosen), torch.tensor(torch.inf))
        return logits.scatter(1, chosen, above)


def on_images(
    path: Path, format: Format, network: nn.Module, images: ImageSet, workers: int | None, report: Report = silent
) -> OnImages:
    """Returns how a file does on images, which are prepared as in the network's training.

    network: the one that was exported; it is put into evaluation mode on the CPU. workers: as in the YAML section data.
    Raises UserError if the file cannot be loaded or run.
    """
    with FreshProcess(format, path) as file:
        beside = _Beside(file, network.cpu().float().eval())
        batches = evaluation_batches(images, BATCH, workers)
        shown = reported(batches, f"{path.name} on the test images", -(-len(images) // BATCH), report)
        scores = evaluate(beside, shown, torch.device("cpu"), RunConfig(device="cpu"), ALONE)
    return OnImages(scores.images, scores.top1, scores.loss, 100 * beside.agreed / scores.images)
