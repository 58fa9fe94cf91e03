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
from supernet.space import Layer, Space

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
        whole_network = job.paths is not None
        if whole_network:
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.fill_(NETWORK_WEIGHT)
        content = _convert(module, job.layers, self._batch)
        name = f"{job.id}.tflite.gz"
        (self._folder / name).write_bytes(gzip.compress(content, compresslevel=1, mtime=0))
        if not whole_network:
            self._check_numerics(module, job.layers[0], name)
        return name

    def finish(self) -> None:
        """Does nothing: every model has its own weights."""

    def _check_numerics(self, module: nn.Module, layer: Layer, name: str) -> None:
        """Raises UserError unless a written model computes what its module does."""
        images = random_images(layer, self._batch)
        there = bench.LiteRTModel(self._folder / name, tuple(images.permute(0, 2, 3, 1).shape), threads=1).output(
            images.permute(0, 2, 3, 1).contiguous().numpy()
        )
        with torch.inference_mode():
            here = _ChannelsLast(module)(images.permute(0, 2, 3, 1)).numpy()
        if there.shape != here.shape or not np.abs(there - here).max() <= TOLERANCE * np.abs(here).max():
            raise UserError(
                "",
                f"'{layer}' computes something else in LiteRT than in PyTorch",
                remedy="another version may differ, or measure with measure.runtime=onnxruntime",
            )


def _convert(module: nn.Module, layers: Sequence[Layer], batch: int) -> bytes:
    """Returns a chain of layers as a LiteRT model. Raises UserError if an op cannot be converted."""
    images = random_images(layers[0], batch).permute(0, 2, 3, 1)
    logging.getLogger("torch").setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            tempfile.TemporaryDirectory() as folder,
        ):
            warnings.simplefilter("ignore")
            file = Path(folder) / "model.tflite"
            litert_torch.convert(_ChannelsLast(module).eval(), (images,)).export(str(file))
            return file.read_bytes()
    except (RuntimeError, NotImplementedError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            "",
            f"'{layers[0]}'{' and what follows' if len(layers) > 1 else ''} cannot be converted to LiteRT: {reason}",
            remedy="use ops that litert_torch knows, or set measure.runtime=onnxruntime",
        ) from None
