"""Checks that an exported file computes what the network computes in PyTorch.

The file is loaded in its runtime in a fresh process. It is run on random inputs and on real photographs, one at a time
and several at once, and its logits are compared with those that PyTorch computed before the file was written. The
photographs are prepared as the file's own metadata say. On a labelled folder the accuracies are compared too.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from engine.config import differences, validate
from engine.data import Preprocessing
from engine.errors import UserError
from engine.progress import Report, silent
from engine.run_config import RunConfig
from export.formats.base import Format
from export.fresh_process import FreshProcess
from export.photographs import photographs
from export.program import Layout
from retrain.evaluation import score_files

TOLERANCE = 5e-6
"""The largest accepted difference of a logit from PyTorch's, relative to the largest logit of the 16 images: float32 in
another order of adding. It is 5e-5 where that is 10, which is what trained networks of ImageNet reach."""
SEVERAL = 5
"""The images of a batch of several. Graphs for any batch are traced with another number."""
RANDOM = 16
"""The random inputs. Half of them are five times as large as a normalised image, so that activations reach every
clip."""
LARGE = 5.0
TOP1_DIFFERENCE = 0.1
"""The largest accepted difference of the top-1 accuracies in percentage points, or one image if that is more: images
whose two likeliest classes are equally likely."""


class ParityError(UserError):
    """An exported file computes something else than PyTorch."""


@dataclass(frozen=True)
class Compared:
    """What a comparison of logits showed."""

    images: int
    batches: tuple[int, ...]
    """The batch sizes at which the file was run."""
    max_abs_diff: float
    """The largest difference of a logit."""
    allowed: float
    """The largest accepted one."""
    largest_logit: float
    argmax_agreement: float
    """The share of images whose likeliest class is the same."""


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of PyTorch and of the file on a labelled folder, in percent."""

    images: int
    top1_pytorch: float
    top1_file: float
    loss_pytorch: float
    """The mean cross entropy in nats."""
    loss_file: float


@dataclass(frozen=True)
class Parity:
    """The result of a check that a file has passed."""

    runtime: str
    precision: str
    ops: Mapping[str, int]
    random: Compared
    photographs: Compared | None
    """None if the images have neither 1 nor 3 colours."""
    folder: Accuracy | None
    """None without a labelled folder."""

    def record(self) -> dict[str, Any]:
        """Returns plain values for export.json."""
        return asdict(self)


class Reference:
    """What PyTorch computes, before any converter has seen the network.

    network: it is copied, and put into evaluation mode in float32 on the CPU. preprocessing: how its images are
    prepared. normalise: whether the files take pixels and normalise them themselves.
    """

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, normalise: bool):
        self.network = copy.deepcopy(network).cpu().float().eval()
        self.preprocessing, self.normalise = preprocessing, normalise
        size, channels = preprocessing.input_size, preprocessing.channels
        generator = torch.Generator().manual_seed(0)
        shape = (RANDOM, channels, size, size)
        if normalise:
            self.random = torch.randint(256, shape, generator=generator).float()
            mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
            normalised = (self.random - 255 * mean) / (255 * std)
        else:
            self.random = torch.randn(shape, generator=generator)
            self.random[1::2] *= LARGE
            normalised = self.random
        self.of_random = self.logits(normalised)
        self.pictures = photographs() if preprocessing.colours in (1, 3) else []
        self.of_photographs = self.logits(prepared(self.pictures, preprocessing)) if self.pictures else None

    def logits(self, images: Tensor) -> np.ndarray:
        """Returns the logits (N, classes) of normalised images, each computed alone."""
        with torch.inference_mode():
            logits: np.ndarray = torch.cat([self.network(image[None]) for image in images]).numpy()
        return logits


def prepared(pictures: Sequence[Image.Image], preprocessing: Preprocessing, normalise: bool = True) -> Tensor:
    """Returns the inputs (N, channels, S, S) float32 of RGB pictures: normalised, or pixels from 0 to 255."""
    mode = "RGB" if preprocessing.colours == 3 else "L"
    pixels = torch.stack([preprocessing.pixels_of(picture.convert(mode)) for picture in pictures])
    if normalise:
        return preprocessing.normalised(pixels)
    return pixels.float().expand(-1, preprocessing.channels, -1, -1).contiguous()


def check(
    path: Path,
    format: Format,
    reference: Reference,
    metadata: Mapping[str, Any],
    *,
    images: Path | None = None,
    class_names: Sequence[str] | None = None,
    report: Report = silent,
) -> Parity:
    """Returns what the check of a file showed.

    metadata: what the file must say about itself. images: a labelled folder. class_names: the names that its folders
    must have, if it is known. Raises ParityError, which says which comparison failed, the difference and the allowed
    one, and UserError if the file cannot be loaded.
    """
    with FreshProcess(format, path) as file:
        same_metadata(file, metadata)
        batch = metadata["input"]["shape"][0]
        layout: Layout = metadata["input"]["layout"]
        batches = (batch,) if isinstance(batch, int) else (1, SEVERAL)
        random = _compare(file, "random inputs", reference.random, reference.of_random, layout, batches)
        photos = None
        if reference.of_photographs is not None:
            assert file.metadata is not None
            own = validate(Preprocessing, file.metadata["preprocessing"], f"{path.name}: preprocessing")
            inputs = prepared(reference.pictures, own, not reference.normalise)
            photos = _compare(file, "photographs", inputs, reference.of_photographs, layout, batches)
        folder = None
        if images is not None:
            folder = _on_folder(
                file, reference, images, layout, batches[-1], len(metadata["classes"]), class_names, report
            )
        return Parity(file.runtime, file.precision, dict(file.ops), random, photos, folder)


def same_metadata(file: FreshProcess, metadata: Mapping[str, Any]) -> None:
    """Raises ParityError unless a file says about itself what it should."""
    found = differences(dict(metadata), dict(file.metadata or {}))
    if found:
        raise ParityError(file.path.name, f"its metadata are not the network's: {found[0]}")


def _compare(
    file: FreshProcess,
    what: str,
    images: Tensor,
    expected: np.ndarray,
    layout: Layout,
    batches: Sequence[int],
) -> Compared:
    """Runs a file on images (N, C, S, S) in batches of each size, and compares the logits with the expected ones.
    Raises ParityError."""
    largest = float(np.abs(expected).max())
    allowed = TOLERANCE * largest
    difference, agreement = 0.0, 1.0
    for batch in batches:
        logits = run_in_batches(file, images, layout, batch)
        where = f"{what}, batch {batch}"
        if logits.shape != expected.shape:
            found = f"{where}: its output has the shape {logits.shape}"
            raise ParityError(file.path.name, found, f"{expected.shape}")
        apart = np.abs(logits.astype(np.float64) - expected).max(axis=1)  # (N,)
        same = float((logits.argmax(axis=1) == expected.argmax(axis=1)).mean())
        if not (apart <= allowed).all():  # not a number is not accepted either
            found = f"{where}: a logit differs from PyTorch's by {apart.max():.2g}"
            found += f", and {100 * same:.3g} % of the likeliest classes agree"
            raise ParityError(file.path.name, found, f"at most {allowed:.2g}")
        difference, agreement = max(difference, float(apart.max())), min(agreement, same)
    return Compared(len(images), tuple(batches), difference, allowed, largest, agreement)


def run_in_batches(file: FreshProcess, images: Tensor, layout: Layout, batch: int) -> np.ndarray:
    """Returns the logits of images (N, C, S, S), which the file gets in batches. The last batch is filled up with the
    first images if the file takes this many alone; of one that takes any number it is smaller."""
    assert file.metadata is not None
    given = images if layout == "nchw" else images.permute(0, 2, 3, 1)
    parts = list(given.split(batch))
    missing = batch - len(parts[-1])
    if missing and isinstance(file.metadata["input"]["shape"][0], int):
        parts[-1] = torch.cat([parts[-1], given[:1].expand(missing, -1, -1, -1)])
    return np.concatenate([file(part.contiguous().numpy()) for part in parts])[: len(images)]


class _Remote(nn.Module):
    """A file as a module: images (N, C, S, S) -> logits (N, classes). scale: what the images are multiplied by."""

    def __init__(self, file: FreshProcess, layout: Layout, batch: int, scale: float):
        super().__init__()
        self.file, self.layout, self.batch, self.scale = file, layout, batch, scale

    def forward(self, images: Tensor) -> Tensor:
        images = images.contiguous() if self.scale == 1 else (images * self.scale).round()
        return torch.from_numpy(run_in_batches(self.file, images, self.layout, self.batch))


def _on_folder(
    file: FreshProcess,
    reference: Reference,
    images: Path,
    layout: Layout,
    batch: int,
    classes: int,
    class_names: Sequence[str] | None,
    report: Report,
) -> Accuracy:
    """Compares the accuracy of PyTorch and of the file on a labelled folder. Raises ParityError."""
    own = reference.preprocessing
    run = RunConfig(device="cpu")
    here = score_files(reference.network, images, own, classes, run=run, class_names=class_names, report=report).test
    if reference.normalise:  # the file gets pixels
        own = own.model_copy(update={"mean": (0.0,) * own.channels, "std": (1.0,) * own.channels})
    remote = _Remote(file, layout, batch, 255 if reference.normalise else 1)
    there = score_files(remote, images, own, classes, run=run, class_names=class_names, report=report).test
    allowed = max(TOP1_DIFFERENCE, 100 / here.images)
    if not abs(here.top1 - there.top1) <= allowed + 1e-9:
        found = f"{images}: its top-1 accuracy is {there.top1:.2f} %, PyTorch's {here.top1:.2f} %"
        raise ParityError(file.path.name, found, f"a difference of at most {allowed:.2g} points")
    return Accuracy(here.images, here.top1, there.top1, here.loss, there.loss)
