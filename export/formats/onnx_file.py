"""ONNX: one file, opset 18, which ONNX Runtime runs from 1.14 on. Metadata are its metadata_props, as JSON texts."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.formats.base import (
    WEIGHT_BITS,
    Format,
    Opened,
    Quantiser,
    cannot_write,
    int8_weights_faults,
    range_faults,
)
from export.layers import WARMUP, GraphLayers, layer_name

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from export.program import Program


def model_of(program: Program) -> onnx.ModelProto:
    """Returns a program as an ONNX model with its metadata. Raises UserError if torch.onnx cannot write it."""
    import torch

    from export.program import INPUT, OUTPUT
    from latency.runtimes.onnx_models import exported_model

    try:
        model = exported_model(program.graph, [program.example], [INPUT], [OUTPUT], program.dynamic_shapes)
    except torch.onnx.errors.OnnxExporterError as error:
        raise cannot_write("onnx", program.metadata["network"], error) from None
    _remove_origins(model)
    _name_layers(model, program.layers)
    for key, value in program.metadata.items():
        model.metadata_props.add(key=key, value=json.dumps(value, ensure_ascii=False))
    return model


def _remove_origins(model: onnx.ModelProto) -> None:
    """Deletes what the exporter notes at each node: stack traces, with the paths of this machine."""
    graph = model.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer, graph, model):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _name_layers(model: onnx.ModelProto, layers: GraphLayers) -> None:
    """Makes the names of all operations, and of what they compute, begin with their layer's position."""
    ends = {value.name for value in (*model.graph.input, *model.graph.output)}
    renamed: dict[str, str] = {}
    for node, position in zip(model.graph.node, layers.positions(n.op_type for n in model.graph.node), strict=False):
        node.name = layer_name(position, node.name)
        for i, name in enumerate(node.output):
            if name and name not in ends:
                renamed[name] = node.output[i] = layer_name(position, name)
        node.input[:] = [renamed.get(name, name) for name in node.input]
    for value in model.graph.value_info:
        value.name = renamed.get(value.name, value.name)


def write(program: Program, path: Path) -> None:
    """Writes a program as an ONNX file."""
    import onnx

    onnx.save(model_of(program), path)


def open_file(path: Path, threads: int = 1) -> Opened:
    """Opens an ONNX file in ONNX Runtime."""
    import onnx

    from latency.on_device.models import OnnxModel

    model = onnx.load(path)
    shape = [dim.dim_value or 1 for dim in model.graph.input[0].type.tensor_type.shape.dim]
    opened = OnnxModel(str(path), shape, threads=threads)
    metadata: dict[str, Any] = {prop.key: json.loads(prop.value) for prop in model.metadata_props}
    ops = Counter(node.op_type for node in model.graph.node)

    def layer_times(images: np.ndarray, passes: int, layers: int) -> list[list[float]]:
        inside = OnnxModel(str(path), images.shape, threads=threads, inside=True, layers=layers)
        inside.feed = dict.fromkeys(inside.feed, images)
        inside.run(WARMUP)
        try:
            return inside.times(passes)
        finally:
            inside.close()

    version = f"ONNX Runtime {opened.version()}"
    return Opened(version, metadata or None, ops, opened.output, layer_times=layer_times)


def write_int8(
    program: Program, path: Path, inputs: Iterable[np.ndarray], kept: Collection[str], weight_bits: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Writes a program as an int8 ONNX file in QDQ form, and returns what runs the model; see `Quantiser`."""
    import onnx

    from export.program import INPUT
    from latency.runtimes.int8_models import quantised_onnx

    model = model_of(program)
    layers = _layers(model)
    nodes = [node.name for name, node in layers.items() if name in kept]
    feeds = ({INPUT: images} for images in inputs)
    quantised = quantised_onnx(model, feeds, keep=nodes, weight_bits=weight_bits)
    onnx.save(quantised, path)
    return runner(quantised)


def runner(model: onnx.ModelProto) -> Callable[[np.ndarray], np.ndarray]:
    """Returns what runs a model in ONNX Runtime, always with `session.x64quantprecision`. `open_file` leaves that out
    for weights of 7 bits, so that the check of a file compares both."""
    from export.program import INPUT

    session = _session(model.SerializeToString())

    def run(images: np.ndarray) -> np.ndarray:
        logits: np.ndarray = session.run(None, {INPUT: images})[0]
        return logits

    return run


def int8_faults(
    program: Program, path: Path, kept: Collection[str], ranges: Mapping[str, tuple[float, float]], weight_bits: int
) -> list[str]:
    """Returns what an int8 ONNX file lacks; see `Quantiser`.

    Each layer's weights must be int8 with a scale for each output channel, symmetric, and within half a step of the
    network's, and its output must have the range of the calibration images. What ONNX Runtime makes of the file must
    compute every layer and every addition in integers.
    """
    import numpy as np
    import onnx

    from latency.runtimes.int8_models import groups_of, is_depthwise

    model = onnx.load(path)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    stored = {node.input[0]: node for node in model.graph.node if node.op_type == "QuantizeLinear"}
    codes = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    expected = {_layer_of(name): value.numpy() for name, value in program.graph.state_dict.items() if value.dim() > 1}
    faults = []
    for name, node in _layers(model).items():
        if name in kept:
            continue
        if node.input[1] not in codes:
            faults.append(f"{name}: its weights are float32")
            continue
        weights, scales, zeros, *_ = (constants[own] for own in codes[node.input[1]].input)
        own = expected[name] if expected[name].shape == weights.shape else expected[name].T
        depthwise = is_depthwise(weights.shape, groups_of(node))
        faults += int8_weights_faults(name, weights, scales, zeros, own, bits=WEIGHT_BITS if depthwise else weight_bits)
        if node.output[0] in stored:
            scale, zero = (float(np.ravel(constants[end])[0]) for end in stored[node.output[0]].input[1:3])
            faults += range_faults(name, (-zero * scale, (255 - zero) * scale), ranges[name])
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder) / "optimised.onnx"
        _session(model.SerializeToString(), inside)
        optimised = Counter(node.op_type for node in onnx.load(inside).graph.node)
    here = Counter(node.op_type for node in model.graph.node)
    for op in ("Conv", "Gemm", "MatMul"):
        floats = sum(1 for name, node in _layers(model).items() if node.op_type == op and name in kept)
        if optimised[op] > floats:
            faults.append(f"ONNX Runtime computes {optimised[op]} of {here[op]} {op} in float32")
    if not kept:
        if optimised["Add"]:
            faults.append(f"ONNX Runtime computes {optimised['Add']} of {here['Add']} Add in float32")
        for op, most in (("QuantizeLinear", 2), ("DequantizeLinear", 2)):
            if optimised[op] > most and set(here) <= PLAIN:
                faults.append(f"ONNX Runtime converts {optimised[op]} times by {op}, which needs at most {most}")
    return faults


PLAIN = frozenset(
    ("QuantizeLinear", "DequantizeLinear", "Conv", "Add", "Gemm", "Clip", "Relu", "ReduceMean", "GlobalAveragePool",
     "Flatten")
)  # fmt: skip
"""The operations of a file that ONNX Runtime computes in integers from beginning to end."""


def _layer_of(weights: str) -> str:
    """Returns the name of a layer by that of its weights, as `export.simulation` names it."""
    name = weights.removeprefix("network.")
    return name.partition(".weight")[0]


def _layers(model: onnx.ModelProto) -> dict[str, Any]:
    """Returns the node of each layer of a float32 or QDQ model, by the layer's name."""
    named = {tensor.name for tensor in model.graph.initializer}
    sources = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            sources[node.output[0]] = node.input[0]
    found = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul") and len(node.input) > 1:
            weights = sources.get(node.input[1], node.input[1])
            if weights in named:
                found[_layer_of(weights)] = node
    return found


def _session(content: bytes, optimised: Path | None = None) -> Any:
    """Returns a model in ONNX Runtime, on one thread. optimised: where to write what the runtime makes of it."""
    import onnxruntime

    from latency.on_device.models import onnx_options

    options = onnx_options(threads=1)
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


FORMAT = Format(
    name="onnx",
    title="ONNX Runtime",
    suffix=".onnx",
    modules=("onnx", "onnxscript", "onnxruntime"),
    write=write,
    open=open_file,
    extra="onnx",
    measured_as="onnxruntime",
    packages=("onnx", "onnxscript", "onnxruntime"),
    litter={
        "bn": ("BatchNormalization",),
        "transpose": ("Transpose",),
        "identity": ("Identity", "Dropout", "Cast", "Reshape"),
        "quantise": ("QuantizeLinear", "DequantizeLinear"),
    },
    int8=Quantiser(
        write=write_int8,
        faults=int8_faults,
        modules=(),
        packages=("onnxruntime",),
        scheme={
            "weights": "int8, symmetric, a scale for each output channel",
            "activations": "uint8, a scale and a zero point for a whole map",
            "ranges": "the smallest and the largest number on the calibration images",
        },
        weight_bits=(8, 7),
    ),
)
