"""Writes layers as ONNX models, and networks as chains of them.

Exporting a network takes seconds, and a space has few distinct layers: so these are exported once, all in one go, and a
network is the chain of its layers' graphs. Node names begin with `L<position>.`, by which a profile is read.
Weights lie in one file of random numbers that all models share, each tensor of a network in a place of its own: their
values do not matter for the time, but their place in memory does.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.utils
import onnxruntime
import torch
from onnx import TensorProto, helper
from torch import nn
from torch.export import ExportedProgram

from engine.errors import UserError
from latency.plan import TimingJob
from latency.runtimes.base import timing_module
from supernet.space import Layer, Space

WEIGHTS_FILE = "weights.bin"
LARGEST_INLINE = 64
"""The most elements of a constant that stays in the graph: the output depends on axes and clip bounds."""
ALIGNMENT = 4096
"""The size of a page in bytes: weights begin at its multiples, so that they can be mapped into memory."""
OPSET, IR_VERSION = 18, 8
"""The oldest versions that the exporter offers; ONNX Runtime reads them from 1.14 on."""
TOLERANCE = 1e-3
"""The largest difference from PyTorch, relative to the largest output: float32 in another order of adding."""


class _SideBySide(nn.Module):
    """Layers side by side, not connected: exporting them together takes a fifth of the time."""

    def __init__(self, layers: Sequence[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, *images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns the output of each layer for its own input."""
        return tuple(layer(x) for layer, x in zip(self.layers, images, strict=True))


def export_layers(modules: Mapping[Layer, nn.Module], batch: int) -> dict[Layer, onnx.ModelProto]:
    """Returns a model `x` (batch, C_in, H, W) -> `y` of each layer, after comparing its output with PyTorch's.

    Raises UserError that names the layer that cannot be exported, or computes something else.
    """
    layers = list(modules)
    images = [torch.randn(batch, layer.c_in, layer.size, layer.size) for layer in layers]
    try:
        exported = _export(_SideBySide([modules[layer] for layer in layers]), images)
    except torch.onnx.errors.OnnxExporterError:
        for layer, x in zip(layers, images, strict=True):  # find the one to name
            try:
                _export(_SideBySide([modules[layer]]), [x])
            except torch.onnx.errors.OnnxExporterError as error:
                raise _no_export(layer, error) from None
        raise
    extractor = onnx.utils.Extractor(exported)
    models = {}
    for i, layer in enumerate(layers):
        model = extractor.extract_model([f"x{i}"], [f"y{i}"])
        _check_numerics(model, modules[layer], layer, images[i])
        models[layer] = model
    return models


def _no_export(what: Layer | str, error: Exception) -> UserError:
    """Returns the error for a layer or a network that cannot be exported."""
    found = f"'{what}' cannot be exported to ONNX: {str(error).strip().splitlines()[0]}"
    return UserError("", found, remedy="use ops that torch.onnx.export knows, or set measure.runtime=pytorch")


def _export(module: nn.Module, images: Sequence[torch.Tensor]) -> onnx.ModelProto:
    """Returns a module as one ONNX model with inputs x0, x1, ... and outputs y0, y1, ..."""
    inputs, outputs = ([f"{letter}{i}" for i in range(len(images))] for letter in "xy")
    return exported_model(module.eval(), images, inputs, outputs)


def exported_model(
    program: nn.Module | ExportedProgram,
    images: Sequence[torch.Tensor],
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic_shapes: tuple[dict[int, Any], ...] | None = None,
) -> onnx.ModelProto:
    """Returns a module in eval mode, or a graph of torch.export, as one ONNX model. Nothing is printed.

    images: an input for each of `inputs`, the names of the model's. dynamic_shapes: the dimensions that may change, as
    torch.export takes them. Raises torch.onnx.errors.OnnxExporterError if an op cannot be exported.
    """
    talkers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [talker.level for talker in talkers]
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            for talker in talkers:
                talker.setLevel(logging.ERROR)
            exported = torch.onnx.export(
                program,
                tuple(images),
                dynamo=True,
                opset_version=OPSET,
                verbose=False,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=dynamic_shapes,
            )
    finally:
        for talker, level in zip(talkers, levels, strict=True):
            talker.setLevel(level)
    assert exported is not None  # with dynamo=True
    model: onnx.ModelProto = exported.model_proto
    model.ir_version = IR_VERSION
    return model


def _check_numerics(model: onnx.ModelProto, module: nn.Module, what: Layer | str, images: torch.Tensor) -> None:
    """Raises UserError unless a model computes what its module does."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (there,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.inference_mode():
        here = module(images).numpy()
    if there.shape != here.shape or not np.abs(there - here).max() <= TOLERANCE * np.abs(here).max():
        raise UserError(
            "",
            f"'{what}' computes something else in ONNX Runtime {onnxruntime.__version__} than in PyTorch",
            remedy="another version may differ, or measure with measure.runtime=pytorch",
        )


def chain(models: Sequence[onnx.ModelProto], names: Sequence[str]) -> tuple[onnx.ModelProto, int]:
    """Returns one model of several in a row, with its weights in WEIGHTS_FILE, and how much of that file it reads.

    names: the names of the layers, for the reader of the graph. Each model has one input and one output.
    """
    nodes, initializers, offset = [], [], 0
    value = models[0].graph.input[0].name
    for i, (model, name) in enumerate(zip(models, names, strict=True)):
        own = {model.graph.input[0].name: value, "": ""}  # an empty name is an optional input left out

        def renamed(inner: str, prefix: str = f"L{i:02}.", own: dict[str, str] = own) -> str:
            return own.setdefault(inner, prefix + inner)

        for source in model.graph.initializer:
            tensor, offset = _outside(source, renamed(source.name), offset)
            initializers.append(tensor)
        for source_node in model.graph.node:
            node = onnx.NodeProto()
            node.CopyFrom(source_node)
            node.name = f"L{i:02}.{source_node.name}"
            node.doc_string = name
            node.ClearField("metadata_props")
            node.input[:] = [renamed(inner) for inner in source_node.input]
            node.output[:] = [renamed(inner) for inner in source_node.output]
            nodes.append(node)
        value = renamed(model.graph.output[0].name)
    first, last = models[0].graph.input[0], models[-1].graph.output[0]
    output = helper.make_value_info(value, last.type)
    graph = helper.make_graph(nodes, "chain", [first], [output], initializers)
    model = helper.make_model(graph, opset_imports=models[0].opset_import, ir_version=models[0].ir_version)
    return model, offset


def _outside(source: TensorProto, name: str, offset: int) -> tuple[TensorProto, int]:
    """Returns a tensor that reads its values from WEIGHTS_FILE at `offset`, and the next free offset. A small tensor
    keeps its values."""
    tensor = TensorProto()
    elements = int(np.prod(source.dims))
    if elements <= LARGEST_INLINE or source.data_type != TensorProto.FLOAT:
        tensor.CopyFrom(source)
        tensor.name = name
        return tensor, offset
    tensor.name, tensor.data_type = name, source.data_type
    tensor.dims[:] = source.dims
    tensor.data_location = TensorProto.EXTERNAL
    length = elements * 4
    for key, text in (("location", WEIGHTS_FILE), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=text)
    return tensor, -(-(offset + length) // ALIGNMENT) * ALIGNMENT


def write_network(name: str, network: nn.Module, images: torch.Tensor, folder: Path) -> tuple[str, list[int]]:
    """Writes a whole network as `<name>.onnx`, after comparing its output with PyTorch's. Returns the file's name and
    the shape of its input. Raises UserError if it cannot be exported, or computes something else."""
    try:
        model = _export(_SideBySide([network]), [images])
    except torch.onnx.errors.OnnxExporterError as error:
        raise _no_export(name, error) from None
    _check_numerics(model, network, name, images)
    onnx.save(model, folder / f"{name}.onnx")
    return f"{name}.onnx", list(images.shape)


class OnnxWriter:
    """Writes jobs as `<id>.onnx`, and the weights' file at the end."""

    def __init__(self, space: Space, batch: int, jobs: Sequence[TimingJob], folder: Path):
        settings = space.op_settings(running_stats=True)
        layers = dict.fromkeys(layer for job in jobs for layer in job.layers)
        self._models = export_layers({layer: timing_module(layer, settings) for layer in layers}, batch)
        self._batch, self._folder = batch, folder
        self._size = 0

    def input_shape(self, job: TimingJob) -> list[int]:
        """Returns the shape of a job's input, [N, C, H, W]."""
        first = job.layers[0]
        return [self._batch, first.c_in, first.size, first.size]

    def write(self, job: TimingJob) -> str:
        """Writes a job's model and returns the file's name."""
        model, size = chain([self._models[layer] for layer in job.layers], [str(layer) for layer in job.layers])
        self._size = max(self._size, size)
        onnx.save(model, self._folder / f"{job.id}.onnx")
        return f"{job.id}.onnx"

    def finish(self) -> None:
        """Writes WEIGHTS_FILE: float32 numbers around 0, small enough that no network overflows."""
        values = np.random.default_rng(0).standard_normal(self._size // 4, dtype=np.float32) * np.float32(0.05)
        values.tofile(self._folder / WEIGHTS_FILE)
