"""Writes layers and networks as LiteRT models, gzipped.

A converter of whole programs makes them, so a network takes some seconds. An op alone keeps its random weights and is
compared with PyTorch; a network has constant weights, which compress to nothing and take as long.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import litert_torch
import numpy as np
import torch
from torch import nn

from engine.errors import UserError
from latency import bench
from latency.plan import TimingJob
from latency.runtimes.base import random_images, timing_module
from supernet.space import Space

TOLERANCE = 1e-3
"""The largest difference from PyTorch, relative to the largest output: float32 in another order of adding."""
NETWORK_WEIGHT = 0.01
"""The value of all weights of a network."""


class _ChannelsLast(nn.Module):
    """A module whose input and output are (N, H, W, C), the layout of LiteRT; logits stay (N, classes)."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, H, W, C_in) -> (N, H', W', C_out), or (N, classes)."""
        out: torch.Tensor = self.module(images.permute(0, 3, 1, 2))
        return out.permute(0, 2, 3, 1) if out.dim() == 4 else out


class LiteRTWriter:
    """Writes jobs as `<id>.tflite.gz`."""

    def __init__(self, space: Space, batch: int, jobs: Sequence[TimingJob], folder: Path):
        self._settings = space.op_settings(running_stats=True)
        self._batch, self._folder = batch, folder

    def input_shape(self, job: TimingJob) -> list[int]:
        """Returns the shape of a job's input, [N, H, W, C]."""
        first = job.layers[0]
        return [self._batch, first.size, first.size, first.c_in]

    def write(self, job: TimingJob) -> str:
        """Writes a job's model and returns the file's name. Raises UserError if an op cannot be converted, or computes
        something else than in PyTorch."""
        module = nn.Sequential(*(timing_module(layer, self._settings) for layer in job.layers))
        what = f"'{job.layers[0]}'{' and what follows' if len(job.layers) > 1 else ''}"
        images = random_images(job.layers[0], self._batch)
        whole_network = job.paths is not None
        if whole_network:
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.fill_(NETWORK_WEIGHT)
        name = _written(job.id, module, images, self._folder, what)
        if not whole_network:
            _check_numerics(module, images, self._folder / name, what)
        return name

    def finish(self) -> None:
        """Does nothing: every model has its own weights."""


def write_network(name: str, network: nn.Module, images: torch.Tensor, folder: Path) -> tuple[str, list[int]]:
    """Writes a whole network as `<name>.tflite.gz`, and compares its output with PyTorch's. Returns the file's name and
    the shape of its input, [N, H, W, C]. Raises UserError if it cannot be converted, or computes something else."""
    file = _written(name, network, images, folder, f"'{name}'")
    _check_numerics(network, images, folder / file, f"'{name}'")
    n, c, h, w = images.shape
    return file, [n, h, w, c]


def _written(name: str, module: nn.Module, images: torch.Tensor, folder: Path, what: str) -> str:
    """Writes a module's model and returns the file's name. what: the module, for errors."""
    content = _convert(module, images, what)
    (folder / f"{name}.tflite.gz").write_bytes(gzip.compress(content, compresslevel=1, mtime=0))
    return f"{name}.tflite.gz"


def _check_numerics(module: nn.Module, images: torch.Tensor, file: Path, what: str) -> None:
    """Raises UserError unless a written model computes what its module does. what: the module, for errors."""
    there = bench.LiteRTModel(file, tuple(images.permute(0, 2, 3, 1).shape), threads=1).output(
        images.permute(0, 2, 3, 1).contiguous().numpy()
    )
    with torch.inference_mode():
        here = _ChannelsLast(module)(images.permute(0, 2, 3, 1)).numpy()
    if there.shape != here.shape or not np.abs(there - here).max() <= TOLERANCE * np.abs(here).max():
        raise UserError(
            "",
            f"{what} computes something else in LiteRT than in PyTorch",
            remedy="another version may differ, or measure with measure.runtime=onnxruntime",
        )


def _convert(module: nn.Module, images: torch.Tensor, what: str) -> bytes:
    """Returns a module as a LiteRT model. images (N, C, H, W): its input. what: the module, for errors. Raises
    UserError if an op cannot be converted."""
    try:
        return converted(_ChannelsLast(module).eval(), images.permute(0, 2, 3, 1))
    except (RuntimeError, NotImplementedError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            "",
            f"{what} cannot be converted to LiteRT: {reason}",
            remedy="use ops that litert_torch knows, or set measure.runtime=onnxruntime",
        ) from None


def converted(module: nn.Module, images: torch.Tensor) -> bytes:
    """Returns a module in eval mode, or the module of a graph of torch.export, as a LiteRT model. Nothing is printed.

    images: an input of the module. Raises RuntimeError, NotImplementedError or ValueError if an op cannot be converted.
    """
    logging.getLogger("torch").setLevel(logging.ERROR)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        tempfile.TemporaryDirectory() as folder,
    ):
        warnings.simplefilter("ignore")
        file = Path(folder) / "model.tflite"
        litert_torch.convert(module, (images,)).export(str(file))
        return file.read_bytes()
