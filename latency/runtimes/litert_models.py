"""Writes layers and networks as LiteRT models, gzipped.

A converter of whole programs makes them, so a network takes some seconds. It takes 1.3 to 2.2 times as many if it folds
BN, so the ops have BN folded from the start. An op alone keeps its random weights and is compared with PyTorch; a
network has constant weights, which compress to nothing and take as long. An int8 model takes and gives int8: so an op
alone has no conversions at its ends, which it has not inside a network either.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import litert_torch
import torch
from torch import nn

from engine.errors import UserError
from latency.config import MeasureConfig
from latency.on_device.models import LiteRTModel
from latency.plan import TimingJob
from latency.runtimes.base import CALIBRATION_INPUTS, alike, int8_alike, random_images, timing_module
from latency.runtimes.int8_models import quantised_litert
from supernet.space import Layer, Space

NETWORK_WEIGHT, NETWORK_BIAS = 1e-4, 1e-2
"""The value of all weights of a network, and that of all its biases. The weights are so small that no activation grows
from layer to layer."""


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

    def __init__(self, space: Space, measure: MeasureConfig, jobs: Sequence[TimingJob], folder: Path):
        self._settings = replace(space.op_settings(running_stats=True), folded=True)
        self._measure, self._batch, self._folder = measure, measure.batch, folder
        precisions = Counter(layers for layers, _ in {(job.layers, job.dtype(measure)) for job in jobs})
        self._twice = {layers for layers, count in precisions.items() if count > 1}
        """The chains that are written both in float32 and in int8."""
        self._converted: dict[tuple[Layer, ...], bytes] = {}
        """Their float32 models, gzipped."""

    def input_shape(self, job: TimingJob) -> list[int]:
        """Returns the shape of a job's input, [N, H, W, C]."""
        first = job.layers[0]
        return [self._batch, first.size, first.size, first.c_in]

    def write(self, job: TimingJob) -> str:
        """Writes a job's model and returns the file's name. Raises UserError if an op cannot be converted or quantised,
        or computes something else than in PyTorch."""
        what = f"'{job.layers[0]}'{' and what follows' if len(job.layers) > 1 else ''}"
        name = f"{job.id}.tflite.gz"
        content = self._converted.get(job.layers) or self._in_float32(job, what)
        if job.layers in self._twice:
            self._converted[job.layers] = content
        if job.dtype(self._measure) == "int8":
            images = [random_images(job.layers[0], self._batch) for _ in range(CALIBRATION_INPUTS)]
            content = _packed(_quantised(gzip.decompress(content), images, what))
        (self._folder / name).write_bytes(content)
        return name

    def _in_float32(self, job: TimingJob, what: str) -> bytes:
        """Returns a job's float32 model, gzipped."""
        module = nn.Sequential(*(timing_module(layer, self._settings) for layer in job.layers))
        images = random_images(job.layers[0], self._batch)
        whole_network = job.paths is not None
        if whole_network:
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.fill_(NETWORK_BIAS if parameter.dim() < 2 else NETWORK_WEIGHT)
        content = _packed(_convert(module, images, what))
        if not whole_network:
            _check_numerics(module, images, content, self._folder, what)
            if self._measure.dtype == "int8":
                int8 = _packed(_quantised(gzip.decompress(content), [images], what))
                _check_numerics(module, images, int8, self._folder, what, int8=True)
        return content

    def finish(self) -> None:
        """Does nothing: every model has its own weights."""


def write_network(
    name: str, network: nn.Module, images: torch.Tensor, folder: Path, dtype: str
) -> tuple[str, list[int]]:
    """Writes a whole network as `<name>.tflite.gz`, and compares its output with PyTorch's. Returns the file's name and
    the shape of its input, [N, H, W, C]. dtype: float32 or int8. Raises UserError if it cannot be converted or
    quantised, or computes something else."""
    what = f"'{name}'"
    content = _convert(network, images, what)
    if dtype == "int8":
        others = [torch.randn_like(images) for _ in range(CALIBRATION_INPUTS - 1)]
        content = _quantised(content, [images, *others], what)
    _check_numerics(network, images, _packed(content), folder, what, int8=dtype == "int8")
    (folder / f"{name}.tflite.gz").write_bytes(_packed(content))
    n, c, h, w = images.shape
    return f"{name}.tflite.gz", [n, h, w, c]


def _packed(content: bytes) -> bytes:
    """Returns the content of a file, gzipped."""
    return gzip.compress(content, compresslevel=1, mtime=0)


def _quantised(content: bytes, images: Sequence[torch.Tensor], what: str) -> bytes:
    """Returns a float32 model in int8. images (N, C, H, W): its calibration inputs. what: the module, for errors."""
    try:
        return quantised_litert(content, [x.permute(0, 2, 3, 1).contiguous().numpy() for x in images])
    except (RuntimeError, ValueError, TypeError, LookupError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            "",
            f"{what} cannot be quantised for LiteRT: {reason}",
            remedy="use ops that ai_edge_quantizer knows, or set measure.dtype=float32",
        ) from None


def _check_numerics(
    module: nn.Module, images: torch.Tensor, content: bytes, folder: Path, what: str, *, int8: bool = False
) -> None:
    """Raises UserError unless a gzipped model computes what its module does. folder: for its file, which is deleted.
    what: the module, for errors. int8: whether it is quantised."""
    given = images.permute(0, 2, 3, 1).contiguous().numpy()
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".tflite.gz") as file:
        file.write(content)
        file.flush()
        there = LiteRTModel(file.name, given.shape, threads=1).output(given)
    with torch.inference_mode():
        here = _ChannelsLast(module)(images.permute(0, 2, 3, 1)).numpy()
    if there.shape != here.shape or not (int8_alike if int8 else alike)(there, here):
        raise UserError(
            "",
            f"{what} computes something else in LiteRT{' in int8' if int8 else ''} than in PyTorch",
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
