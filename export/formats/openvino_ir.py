"""OpenVINO: an .xml file of the graph and a .bin file of its weights, in float32. Metadata are its rt_info."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from export.formats.base import Format, Opened, cannot_write, quiet
from export.layers import WARMUP, GraphLayers, layer_name

if TYPE_CHECKING:
    import numpy as np
    import openvino as ov

    from export.program import Program

PLACE = "proxylessnas"
"""The key of rt_info below which the metadata are."""


def write(program: Program, path: Path) -> None:
    """Writes a program as OpenVINO's intermediate representation. The weights stay float32: save_model would store
    them as float16 by default."""
    import openvino as ov

    from export.program import INPUT, OUTPUT

    try:
        with quiet("openvino"):
            model = ov.convert_model(program.graph)
            model.inputs[0].get_tensor().set_names({INPUT})
            model.outputs[0].get_tensor().set_names({OUTPUT})
            model.get_parameters()[0].set_friendly_name(INPUT)
            _name_layers(model, program.layers)
            for key, value in program.metadata.items():
                model.set_rt_info(json.dumps(value, ensure_ascii=False), [PLACE, key])
            ov.save_model(model, path, compress_to_fp16=False)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise cannot_write("openvino", program.metadata["network"], error) from None


def _name_layers(model: ov.Model, layers: GraphLayers) -> None:
    """Makes the names of all operations begin with their layer's position."""
    ordered = model.get_ordered_ops()
    for op, position in zip(ordered, layers.positions(op.get_type_name() for op in ordered), strict=False):
        if op.get_type_name() not in ("Parameter", "Constant", "Result"):
            op.set_friendly_name(layer_name(position, op.get_friendly_name()))


def open_file(path: Path, threads: int = 1) -> Opened:
    """Opens a file in OpenVINO on the CPU, in float32: on some CPUs it would compute in bfloat16 by default."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(path)
    keys = model.get_rt_info([PLACE]).astype(dict) if model.has_rt_info([PLACE]) else {}
    metadata = {key: json.loads(model.get_rt_info([PLACE, key]).astype(str)) for key in keys}
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(model, "CPU", settings)
    precision = str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
    ops = Counter(op.get_type_name() for op in model.get_ops())

    def run(images: np.ndarray) -> np.ndarray:
        logits: np.ndarray = compiled(images)[0]
        return logits

    def layer_times(images: np.ndarray, passes: int, layers: int) -> list[list[float]]:
        request = core.compile_model(model, "CPU", settings | {"PERF_COUNT": True}).create_infer_request()
        times = []
        for _ in range(WARMUP + passes):
            request.infer([images])
            ms = [0.0] * layers
            for node in request.get_profiling_info():  # a reordering of an input is named after the node that reads it
                match = re.search(r"L(\d+)\.", node.node_name)
                if match and int(match[1]) < layers:
                    ms[int(match[1])] += node.real_time.total_seconds() * 1e3
            times.append(ms)
        if not any(times[-1]):
            raise ValueError("the names of its operations do not tell their layers")
        return times[WARMUP:]

    return Opened(f"OpenVINO {ov.get_version()}", metadata or None, ops, run, precision, layer_times=layer_times)


FORMAT = Format(
    name="openvino",
    title="OpenVINO",
    suffix=".xml",
    modules=("openvino",),
    write=write,
    open=open_file,
    extra="openvino",
    packages=("openvino",),
    litter={
        "bn": ("BatchNormInference",),
        "transpose": ("Transpose",),
        "identity": ("Reshape", "Convert"),
        "quantise": ("FakeQuantize",),
    },
)
