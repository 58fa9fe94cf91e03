"""Defines what a format is: how its file is written, and how it is opened again.

The modules of this folder import nothing slow: the process that opens a file imports that file's runtime alone.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from export.program import Program

    Predict = Callable[[np.ndarray], np.ndarray]
    """Returns the logits (N, classes) of images, in the file's own layout."""

METADATA = "metadata.json"
"""The name of the metadata inside a file of PyTorch."""
METADATA_ENDING = ".json"
"""The end of the name of the file beside a file whose format has no place for metadata."""
WEIGHT_BITS = 8
"""The bits of an int8 file's weights if nothing else is chosen."""
LARGEST_CODE: Mapping[int, int] = {8: 127, 7: 64}
"""Maps the bits that the weights of an int8 file may have to the largest code, which the sign does not change. Two
products of an activation's code, at most 255, and a weight's of 7 bits fit into 16 bits: 2 * 255 * 64 < 2^15. Therefore
x86 CPUs without VNNI add them exactly in their fast instruction. ONNX Runtime and OpenVINO compute depthwise
convolutions in another way, always exactly: their weights keep 8 bits."""


@dataclass(frozen=True)
class Opened:
    """A file that its runtime has loaded."""

    runtime: str
    """The runtime's name and version."""
    metadata: Mapping[str, Any] | None
    """What the file says about itself; None if it says nothing."""
    ops: Mapping[str, int]
    """How often each operation occurs in the file's graph."""
    run: Callable[[np.ndarray], np.ndarray]
    """Returns the logits (N, classes) of images, in the file's own layout. Both are float32: of a file that takes
    codes, the images are turned into codes here."""
    precision: str = "float32"
    """The precision in which the runtime was asked to compute."""
    prepared: Callable[[np.ndarray], Callable[[], object]] | None = None
    """Gives images to the runtime and returns what runs it on them: what is timed. None if `run` is timed, where giving
    the images takes no time."""
    layer_times: Callable[[np.ndarray, int, int], list[list[float]]] | None = None
    """Returns the milliseconds of each layer in each of so many passes over images: (images, passes, layers) ->
    [pass][layer]. None if the runtime does not tell them."""
    types: Mapping[str, str] = field(default_factory=dict)
    """The types of the file's `input` and `output`, if they are not float32."""


@dataclass(frozen=True)
class Quantiser:
    """How a format's int8 file is written, and what it must hold."""

    write: Callable[[Program, Path, Iterable[np.ndarray], Collection[str], int], Predict]
    """Writes an int8 file: program, path, calibration inputs, the layers that stay in float32, by name, and the bits of
    the others' weights. Returns what runs the quantised model in this process, before it was a file. Raises UserError
    if it cannot be written."""
    faults: Callable[[Program, Path, Collection[str], Mapping[str, tuple[float, float]], int], list[str]]
    """Returns what an int8 file lacks, in words: layers that the runtime does not compute in integers, weights with one
    scale or with more bits, conversions that are not needed. Program, layers and bits as above, and the smallest and
    the largest output of each layer on the calibration images, by PyTorch."""
    modules: tuple[str, ...]
    """The modules that quantising needs."""
    packages: tuple[str, ...]
    """The packages, as pip names them, whose versions are recorded."""
    scheme: Mapping[str, str]
    """How `weights`, `activations` and `ranges` are quantised, in words."""
    weight_bits: tuple[int, ...] = (WEIGHT_BITS,)
    """The bits that weights may have."""
    noise_remedy: str = ""
    """What to do about a file with weights of 8 bits whose logits are too far from float32's; empty if nothing is
    known."""


@dataclass(frozen=True)
class Format:
    """A format of files, and the runtime that reads them."""

    name: str
    title: str
    """The name of the runtime for a reader."""
    suffix: str
    """The end of a file's name."""
    modules: tuple[str, ...]
    """The modules that writing and checking need."""
    write: Callable[[Program, Path], None]
    """Writes a file, and what belongs to it, into an empty folder. Raises UserError if an operation cannot be
    written."""
    open: Callable[[Path, int], Opened]
    """Opens a file in its runtime, on so many threads. It is called in a process of its own."""
    extra: str = ""
    """The extra of this package that installs `modules`; empty if they come with it."""
    packages: tuple[str, ...] = ()
    """The packages, as pip names them, whose versions are recorded."""
    layout: Literal["nchw", "nhwc"] = "nchw"
    """The layout in which the runtime computes."""
    any_batch: bool = True
    """Whether a file may take any number of images."""
    pools_keep_dims: bool = False
    """Whether its converter knows a mean over all pixels only as (N, C, H, W) -> (N, C, 1, 1)."""
    litter: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of operations that a good file does not contain, by what they are: `bn`, `transpose`, `identity`,
    `quantise`."""
    below: tuple[tuple[str, str], ...] = ()
    """Packages with the version below which they must be."""
    measured_as: str = ""
    """The runtime of latency tables, as `measure.runtime` names it, in which its files run; empty if there is none."""
    int8: Quantiser | None = None
    """How an int8 file is written; None if there is none."""

    def refuse_if_missing(self, int8: bool = False) -> None:
        """Raises UserError if a module is not installed, or a package is too new. int8: whether an int8 file is to be
        written."""
        modules = self.modules + (self.int8.modules if int8 and self.int8 is not None else ())
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        install = f'pip install "proxylessnas[{self.extra}]"'
        if missing:
            found = f"{self.name} needs the Python package {missing[0]}, which is not installed"
            raise UserError("--to", found, remedy=install)
        versions = versions_of([package for package, _ in self.below])
        for package, most in self.below:
            if _release(versions[package]) >= _release(most):
                found = f"{self.name} does not work with {package} {versions[package]}"
                raise UserError("--to", found, f"{package} below {most}", remedy=f"{install} in another environment")


def versions_of(packages: list[str]) -> dict[str, str]:
    """Returns the version of each installed package."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _release(version: str) -> tuple[int, ...]:
    """Returns the numbers of a version, such as (2, 14) for 2.14.1+cpu."""
    return tuple(int(part) for part in version.partition("+")[0].split(".")[:2] if part.isdigit())


def beside(path: Path) -> Path:
    """Returns the place of the metadata of a file whose format has none."""
    return path.with_name(path.name + METADATA_ENDING)


def write_beside(path: Path, metadata: Mapping[str, Any]) -> None:
    """Writes the metadata of a file whose format has no place for them."""
    beside(path).write_text(json.dumps(metadata, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_beside(path: Path) -> dict[str, Any] | None:
    """Returns the metadata beside a file; None if there are none."""
    if not beside(path).exists():
        return None
    metadata: dict[str, Any] = json.loads(beside(path).read_text(encoding="utf-8"))
    return metadata


@contextlib.contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Keeps converters from printing, logging and warning. Errors are raised as ever."""
    talkers = [logging.getLogger(name) for name in loggers]
    levels = [talker.level for talker in talkers]
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            _descriptor_2_closed(),
        ):
            warnings.simplefilter("ignore")
            for talker in talkers:
                talker.setLevel(logging.ERROR)
            yield
    finally:
        for talker, level in zip(talkers, levels, strict=True):
            talker.setLevel(level)


@contextlib.contextmanager
def _descriptor_2_closed() -> Iterator[None]:
    """Sends what native code prints on standard error to nowhere."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def cannot_write(format: str, network: str, error: BaseException) -> UserError:
    """Returns the error for a converter that has refused a network."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    reason = lines[0].strip() if lines else type(error).__name__
    return UserError(network, f"cannot be exported to {format}: {reason}", remedy="choose other ops, or another format")


def opened_in_pytorch(module: Callable[[Tensor], Tensor], ops: Mapping[str, int], metadata: str) -> Opened:
    """Returns what PyTorch has loaded from a file. metadata: the content of METADATA in it, "" if it has none."""
    import torch

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            logits: np.ndarray = module(torch.from_numpy(images)).numpy()
        return logits

    return Opened(f"PyTorch {torch.__version__}", json.loads(metadata or "null"), ops, run)


def range_faults(name: str, found: tuple[float, float], expected: tuple[float, float]) -> list[str]:
    """Returns what is wrong with the range of a layer's output in codes, in words: an end may be a step and a half from
    the expected one."""
    step = (found[1] - found[0]) / 255
    if max(abs(one - other) for one, other in zip(found, expected, strict=True)) <= 1.5 * step + 1e-6:
        return []
    words = "{:.3g} to {:.3g}".format
    return [f"{name}: its output has codes for {words(*found)}, and is {words(*expected)} on the calibration images"]


def int8_weights_faults(
    name: str, codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray, weights: np.ndarray, axis: int = 0,
    bits: int = WEIGHT_BITS,
) -> list[str]:  # fmt: skip
    """Returns what is wrong with a layer's int8 weights, in words.

    codes, weights: the file's and the network's, of one shape. scales, zeros: the file's. axis: of the output channels.
    bits: those that the codes may have.
    """
    import numpy as np

    if codes.dtype != np.int8:
        return [f"{name}: its weights are {codes.dtype}"]
    channels = weights.shape[axis]
    if np.size(scales) != channels:
        return [f"{name}: its weights have {np.size(scales)} scales for {channels} output channels"]
    if np.any(zeros):
        return [f"{name}: its weights are not symmetric"]
    largest = int(np.abs(codes.astype(np.int16)).max())
    if bits < WEIGHT_BITS and largest > LARGEST_CODE[bits]:
        return [f"{name}: a weight has the code {largest}, of more than {bits} bits"]
    steps = np.reshape(scales, [-1 if i == axis else 1 for i in range(weights.ndim)])
    apart = np.abs(codes.astype(np.float64) * steps - weights)
    if not (apart <= 0.51 * steps + 1e-9).all():
        return [f"{name}: a weight is {float((apart / steps).max()):.2g} steps from the network's"]
    return []
