"""ONNX: one file, opset 18, which ONNX Runtime runs from 1.14 on. Metadata are its metadata_props, as JSON texts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.formats.base import Format, Opened, cannot_write
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

    from latency import bench

    model = onnx.load(path)
    shape = [dim.dim_value or 1 for dim in model.graph.input[0].type.tensor_type.shape.dim]
    opened = bench.OnnxModel(str(path), shape, threads=threads)
    metadata: dict[str, Any] = {prop.key: json.loads(prop.value) for prop in model.metadata_props}
    ops = Counter(node.op_type for node in model.graph.node)

    def layer_times(images: np.ndarray, passes: int, layers: int) -> list[list[float]]:
        inside = bench.OnnxModel(str(path), images.shape, threads=threads, inside=True, layers=layers)
        inside.feed = dict.fromkeys(inside.feed, images)
        inside.run(WARMUP)
        try:
            return inside.times(passes)
        finally:
            inside.close()

    version = f"ONNX Runtime {opened.version()}"
    return Opened(version, metadata or None, ops, opened.output, layer_times=layer_times)


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
)
