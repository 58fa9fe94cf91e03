"""Writes layers as ONNX models, and networks as chains of them.

Exporting a network takes seconds, and a space has few distinct layers: so these are exported once, all in one go, and a
network is the chain of its layers' graphs. Node names begin with `L<position>.`, by which a profile is read.
Weights lie in one file of random numbers that all models share, each tensor of a network in a place of its own: their
values do not matter for the time, but their place in memory does.

An int8 layer is quantised alone, once. Between two such layers there is one pair of QuantizeLinear and
DequantizeLinear, that before the second layer's input, as in a network that was quantised as a whole. All layers have
the same range of inputs, since ONNX Runtime fuses an operation only if the codes around it agree.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnx.utils
import onnxruntime
import torch
from onnx import TensorProto, helper
from torch import nn
from torch.export import ExportedProgram

from engine.errors import UserError
from latency.config import MeasureConfig
from latency.on_device.models import onnx_options
from latency.plan import TimingJob
from latency.runtimes.base import CALIBRATION_INPUTS, alike, int8_alike, random_images, timing_module
from latency.runtimes.int8_models import quantised_onnx
from supernet.space import Layer, Space

WEIGHTS_FILE = "weights.bin"
LARGEST_INLINE = 64
"""The most elements of a constant that stays in the graph: the output depends on axes and clip bounds."""
ALIGNMENT = 4096
"""The size of a page in bytes: weights begin at its multiples, so that they can be mapped into memory."""
OPSET, IR_VERSION = 18, 8
"""The oldest versions that the exporter offers; ONNX Runtime reads them from 1.14 on."""


RANGE = 6.0
"""The largest input of an int8 layer."""


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


def _check_numerics(
    model: onnx.ModelProto, module: nn.Module, what: Layer | str, images: torch.Tensor, *, int8: bool = False
) -> None:
    """Raises UserError unless a model computes what its module does. int8: whether it is quantised."""
    options = onnx_options(threads=1)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (there,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.inference_mode():
        here = module(images).numpy()
    if there.shape != here.shape or not (int8_alike if int8 else alike)(there, here):
        raise UserError(
            "",
            f"'{what}' computes something else in ONNX Runtime {onnxruntime.__version__}{' in int8' if int8 else ''} "
            "than in PyTorch",
            remedy="another version may differ, or measure with measure.runtime=pytorch",
        )


def quantised_layers(
    models: Mapping[Layer, onnx.ModelProto], modules: Mapping[Layer, nn.Module], batch: int
) -> dict[Layer, onnx.ModelProto]:
    """Returns the int8 model of each layer, after comparing its output with PyTorch's. Raises UserError that names the
    layer that cannot be quantised."""
    quantised = {}
    for layer, model in models.items():
        images = [_of_fixed_range(random_images(layer, batch)) for _ in range(CALIBRATION_INPUTS)]
        quantised[layer] = _quantised(model, images, layer)
        _check_numerics(quantised[layer], modules[layer], layer, images[0], int8=True)
    return quantised


def _of_fixed_range(images: torch.Tensor) -> torch.Tensor:
    """Returns images whose smallest value is -RANGE and whose largest one is RANGE."""
    flat = images.clamp(-RANGE, RANGE).flatten()
    flat[0], flat[-1] = -RANGE, RANGE
    return flat.view_as(images)


def _quantised(model: onnx.ModelProto, images: Sequence[torch.Tensor], what: Layer | str) -> onnx.ModelProto:
    """Returns a model of one input in int8. what: the layer or the network, for errors."""
    name = model.graph.input[0].name
    try:
        return quantised_onnx(model, [{name: x.numpy()} for x in images])
    except (RuntimeError, ValueError, TypeError, LookupError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            "",
            f"'{what}' cannot be quantised for ONNX Runtime: {reason}",
            remedy="use ops that onnxruntime.quantization knows, or set measure.dtype=float32",
        ) from None


def chain(
    models: Sequence[onnx.ModelProto], names: Sequence[str], values: SharedValues | None = None, start: int = 0
) -> tuple[onnx.ModelProto, int]:
    """Returns one model of several in a row, with its weights in WEIGHTS_FILE, and how much of that file it reads.

    names: the names of the layers, for the reader of the graph. Each model has one input and one output. values: what
    int8 layers share in WEIGHTS_FILE; None for float32 layers. start: where the random numbers begin in that file.
    Where a model ends and the next one begins with a pair of QuantizeLinear and DequantizeLinear, the first is left
    out.
    """
    nodes, initializers, offset = [], [], start
    value = models[0].graph.input[0].name
    for i, (model, name) in enumerate(zip(models, names, strict=True)):
        own = {model.graph.input[0].name: value, "": ""}  # an empty name is an optional input left out

        def renamed(inner: str, prefix: str = f"L{i:02}.", own: dict[str, str] = own) -> str:
            return own.setdefault(inner, prefix + inner)

        given, result = list(model.graph.node), model.graph.output[0].name
        if i + 1 < len(models) and _quantises_its_input(models[i + 1]):
            given, result = _without_codes_of(given, result)
        read = {inner for node in given for inner in node.input}
        for source in model.graph.initializer:
            if source.name in read:
                tensor, offset = _outside(source, renamed(source.name), offset, values)
                initializers.append(tensor)
        for source_node in given:
            node = onnx.NodeProto()
            node.CopyFrom(source_node)
            node.name = f"L{i:02}.{source_node.name}"
            node.doc_string = name
            node.ClearField("metadata_props")
            node.input[:] = [renamed(inner) for inner in source_node.input]
            node.output[:] = [renamed(inner) for inner in source_node.output]
            nodes.append(node)
        value = renamed(result)
    first, last = models[0].graph.input[0], models[-1].graph.output[0]
    output = helper.make_value_info(value, last.type)
    graph = helper.make_graph(nodes, "chain", [first], [output], initializers)
    model = helper.make_model(graph, opset_imports=models[0].opset_import, ir_version=models[0].ir_version)
    return model, offset


def _quantises_its_input(model: onnx.ModelProto) -> bool:
    """Returns whether a model turns its input into codes."""
    given = model.graph.input[0].name
    return given in {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}


def _without_codes_of(nodes: list[onnx.NodeProto], result: str) -> tuple[list[onnx.NodeProto], str]:
    """Returns the nodes without the pair that rounds `result` to codes, and the name of what it rounded; the same nodes
    and name if there is no such pair."""
    makers = {output: node for node in nodes for output in node.output}
    last = makers.get(result)
    if last is None or last.op_type != "DequantizeLinear" or last.input[0] not in makers:
        return nodes, result
    rounding = makers[last.input[0]]
    return [node for node in nodes if node is not last and node is not rounding], rounding.input[0]


class SharedValues:
    """The beginning of WEIGHTS_FILE for int8 models: what the quantiser computed for layers, each value once.

    Scales, zero points and biases cannot be random, and all networks that hold a layer may share them.
    """

    def __init__(self, models: Iterator[onnx.ModelProto]):
        self.size = 0
        """Bytes, up to the next page."""
        self._places: dict[bytes, int] = {}
        for model in models:
            for tensor in model.graph.initializer:
                if _is_large(tensor) and not _is_random(tensor, int8=True):
                    content = onnx.numpy_helper.to_array(tensor).tobytes()
                    if content not in self._places:
                        self._places[content] = self.size
                        self.size = _next_page(self.size + len(content))

    def place(self, tensor: TensorProto) -> tuple[int, int]:
        """Returns where a tensor begins, and its length in bytes."""
        content = onnx.numpy_helper.to_array(tensor).tobytes()
        return self._places[content], len(content)

    def write(self, file: BinaryIO) -> None:
        """Writes all values."""
        for content, offset in self._places.items():
            file.write(content.ljust(_next_page(offset + len(content)) - offset, b"\0"))


def _next_page(offset: int) -> int:
    """Returns the first multiple of ALIGNMENT from `offset` on."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _is_large(tensor: TensorProto) -> bool:
    """Returns whether a tensor lies outside its graph."""
    return int(np.prod(tensor.dims)) > LARGEST_INLINE


def _is_random(tensor: TensorProto, *, int8: bool) -> bool:
    """Returns whether a large tensor's values may be replaced by random ones. int8: whether its model is quantised."""
    if int8:
        return len(tensor.dims) > 1 and tensor.data_type in (TensorProto.INT8,)
    return tensor.data_type in (TensorProto.FLOAT,)


def _outside(source: TensorProto, name: str, offset: int, values: SharedValues | None) -> tuple[TensorProto, int]:
    """Returns a tensor that reads its values from WEIGHTS_FILE, random ones at `offset`, and the next free offset. A
    small tensor keeps its values."""
    tensor = TensorProto()
    int8 = values is not None
    if not _is_large(source) or (not int8 and not _is_random(source, int8=False)):
        tensor.CopyFrom(source)
        tensor.name = name
        return tensor, offset
    tensor.name, tensor.data_type = name, source.data_type
    tensor.dims[:] = source.dims
    tensor.data_location = TensorProto.EXTERNAL
    if values is not None and not _is_random(source, int8=True):
        place, length = values.place(source)
    else:
        place, length = offset, int(np.prod(source.dims)) * (1 if int8 else 4)
        offset = _next_page(offset + length)
    for key, text in (("location", WEIGHTS_FILE), ("offset", str(place)), ("length", str(length))):
        tensor.external_data.add(key=key, value=text)
    return tensor, offset


def write_network(
    name: str, network: nn.Module, images: torch.Tensor, folder: Path, dtype: str
) -> tuple[str, list[int]]:
    """Writes a whole network as `<name>.onnx`, after comparing its output with PyTorch's. Returns the file's name and
    the shape of its input. dtype: float32 or int8. Raises UserError if it cannot be exported or quantised, or computes
    something else."""
    try:
        model = _export(_SideBySide([network]), [images])
    except torch.onnx.errors.OnnxExporterError as error:
        raise _no_export(name, error) from None
    if dtype == "int8":
        model = _quantised(model, [images, *(torch.randn_like(images) for _ in range(CALIBRATION_INPUTS - 1))], name)
    _check_numerics(model, network, name, images, int8=dtype == "int8")
    onnx.save(model, folder / f"{name}.onnx")
    return f"{name}.onnx", list(images.shape)


class OnnxWriter:
    """Writes jobs as `<id>.onnx`, and the weights' file at the end."""

    def __init__(self, space: Space, measure: MeasureConfig, jobs: Sequence[TimingJob], folder: Path):
        settings = space.op_settings(running_stats=True)
        layers = dict.fromkeys(layer for job in jobs for layer in job.layers)
        modules = {layer: timing_module(layer, settings) for layer in layers}
        self._measure, self._folder = measure, folder
        self._models = export_layers(modules, measure.batch)
        in_int8 = {layer for job in jobs if job.dtype(measure) == "int8" for layer in job.layers}
        self._int8 = quantised_layers({a: self._models[a] for a in layers if a in in_int8}, modules, measure.batch)
        self._values = SharedValues(iter(self._int8.values()))
        self._size = self._values.size

    def input_shape(self, job: TimingJob) -> list[int]:
        """Returns the shape of a job's input, [N, C, H, W]."""
        first = job.layers[0]
        return [self._measure.batch, first.c_in, first.size, first.size]

    def write(self, job: TimingJob) -> str:
        """Writes a job's model and returns the file's name."""
        int8 = job.dtype(self._measure) == "int8"
        models = self._int8 if int8 else self._models
        model, size = chain(
            [models[layer] for layer in job.layers],
            [str(layer) for layer in job.layers],
            self._values if int8 else None,
            self._values.size,
        )
        self._size = max(self._size, size)
        onnx.save(model, self._folder / f"{job.id}.onnx")
        return f"{job.id}.onnx"

    def finish(self) -> None:
        """Writes WEIGHTS_FILE: what int8 layers share, then float32 numbers around 0, small enough that no network
        overflows; as int8, their bytes are codes of any size."""
        count = (self._size - self._values.size) // 4 + 1
        weights = np.random.default_rng(0).standard_normal(count, dtype=np.float32) * np.float32(0.05)
        with open(self._folder / WEIGHTS_FILE, "wb") as file:
            self._values.write(file)
            weights.tofile(file)
