"""OpenVINO: an .xml file of the graph and a .bin file of its weights, in float32. Metadata are its rt_info."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from export.formats.base import WEIGHT_BITS, Format, Opened, Quantiser, cannot_write, int8_weights_faults, quiet
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

    model = model_of(program)
    _add_metadata(model, program)
    ov.save_model(model, path, compress_to_fp16=False)


def model_of(program: Program) -> ov.Model:
    """Returns a program as OpenVINO's model. Raises UserError if an operation cannot be converted."""
    import openvino as ov

    from export.program import INPUT, OUTPUT

    try:
        with quiet("openvino"):
            model = ov.convert_model(program.graph)
            model.inputs[0].get_tensor().set_names({INPUT})
            model.outputs[0].get_tensor().set_names({OUTPUT})
            model.get_parameters()[0].set_friendly_name(INPUT)
            _name_layers(model, program.layers)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise cannot_write("openvino", program.metadata["network"], error) from None
    return model


def _add_metadata(model: ov.Model, program: Program) -> None:
    """Makes a program's metadata a part of a model."""
    for key, value in program.metadata.items():
        model.set_rt_info(json.dumps(value, ensure_ascii=False), [PLACE, key])


def write_int8(
    program: Program, path: Path, inputs: Iterable[np.ndarray], kept: Collection[str], weight_bits: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Writes a program as an int8 model of NNCF, and returns what runs it; see `Quantiser`.

    weight_bits: with 7, depthwise convolutions keep 8, as NNCF knows that OpenVINO computes them without overflow.
    """
    import openvino as ov

    model = model_of(program)
    given = list(inputs)
    with quiet("nncf", "openvino"):
        import nncf
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        overflow = nncf.OverflowFix.ENABLE if weight_bits < WEIGHT_BITS else None  # None: NNCF's choice
        names = [op.get_friendly_name() for name, op in _layers(model, program).items() if name in kept]
        one_by_one = given if program.batch else [image[None] for batch in given for image in batch]
        quantised = nncf.quantize(
            model,
            nncf.Dataset(one_by_one),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(one_by_one),
            ignored_scope=nncf.IgnoredScope(names=names) if names else None,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=overflow, activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
            ),
        )
    _forget_tools(quantised)
    _add_metadata(quantised, program)
    ov.save_model(quantised, path, compress_to_fp16=False)
    return _runner(_compiled(quantised))


def _forget_tools(model: ov.Model) -> None:
    """Deletes what tools have noted in a model: their settings hold paths of this machine."""
    for key in ("nncf", "conversion_parameters", "optimum"):
        if model.has_rt_info([key]):
            model.set_rt_info("", [key])


def int8_faults(
    program: Program, path: Path, kept: Collection[str], ranges: Mapping[str, tuple[float, float]], weight_bits: int
) -> list[str]:
    """Returns what an int8 model lacks; see `Quantiser`.

    OpenVINO must compute every layer that is not kept in 8 bits, and nothing between two of them in float32. Each
    layer's weights must be int8 with a scale for each output channel, and within half a step of the network's.
    """
    import numpy as np
    import openvino as ov

    model = ov.Core().read_model(path)
    faults = []
    for name, op in _layers(model, program).items():
        if name in kept:
            continue
        weights = program.graph.state_dict[f"network.{name}.weight"].numpy()
        found = _stored(op.input_value(1).get_node())
        if found is None:
            faults.append(f"{name}: its weights are float32")
            continue
        codes, scales = found
        codes, scales = codes.reshape(weights.shape), scales.reshape(-1)
        bits = WEIGHT_BITS if op.get_type_name() == "GroupConvolution" else weight_bits
        faults += int8_weights_faults(name, codes, scales, np.zeros(1), weights, bits=bits)
    executed = _compiled(model).get_runtime_model()
    kinds = Counter(
        op.get_rt_info()["runtimePrecision"].astype(str)
        for op in executed.get_ops()
        if op.get_rt_info()["layerType"].astype(str) in ("Convolution", "GroupConvolution", "FullyConnected", "MatMul")
    )
    floats = sum(number for kind, number in kinds.items() if kind not in ("i8", "u8"))
    if floats > len(kept):
        faults.append(f"OpenVINO computes {floats} of {kinds.total()} layers in float32")
    return faults


def _layers(model: ov.Model, program: Program) -> dict[str, ov.Node]:
    """Returns the operation of each layer of a program in OpenVINO's model, float32 or int8, by the layer's name.

    OpenVINO numbers the convolutions in the order of the program; so they are found by number, and matrix products by
    their order.
    """
    import torch

    from export.simulation import layers_of

    convolutions, products = {}, []
    for op in model.get_ordered_ops():
        if op.get_type_name() in ("Convolution", "GroupConvolution"):
            own = re.sub(r"^L\d+\.", "", op.get_friendly_name())  # see export/layers.py
            number = own.partition("/")[0].removeprefix("convolution").removeprefix("_")
            convolutions[int(number or 0)] = op
        elif op.get_type_name() == "MatMul":
            products.append(op)
    ordered = iter([convolutions[number] for number in sorted(convolutions)])
    matrices = iter(products)
    return {
        name: next(matrices if node.target == torch.ops.aten.linear.default else ordered)
        for name, node in layers_of(program).items()
    }


def _stored(node: ov.Node) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the codes and the scales of a layer's weights: constants, converted to float32 and multiplied. None if
    the weights are float32."""
    while node.get_type_name() in ("Reshape", "Convert"):
        node = node.input_value(0).get_node()
    if node.get_type_name() == "Multiply":
        inner, scales = (node.input_value(i).get_node() for i in (0, 1))
        while inner.get_type_name() in ("Convert", "Reshape"):
            inner = inner.input_value(0).get_node()
        while scales.get_type_name() == "Convert":
            scales = scales.input_value(0).get_node()
        if inner.get_type_name() == scales.get_type_name() == "Constant":
            return inner.get_data(), scales.get_data()
    return None


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
    compiled = _compiled(model, threads)
    precision = str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
    ops = Counter(op.get_type_name() for op in model.get_ops())

    def layer_times(images: np.ndarray, passes: int, layers: int) -> list[list[float]]:
        request = _compiled(model, threads, PERF_COUNT=True).create_infer_request()
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

    return Opened(
        f"OpenVINO {ov.get_version()}", metadata or None, ops, _runner(compiled), precision, layer_times=layer_times
    )


def _compiled(model: ov.Model, threads: int = 1, **options: bool) -> ov.CompiledModel:
    """Returns a model for the CPU; what is not int8 computes in float32. options: further properties of OpenVINO's."""
    import openvino as ov

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    return ov.Core().compile_model(model, "CPU", settings | options)


def _runner(compiled: ov.CompiledModel) -> Callable[[np.ndarray], np.ndarray]:
    """Returns what runs a compiled model on images."""

    def run(images: np.ndarray) -> np.ndarray:
        logits: np.ndarray = compiled(images)[0].copy()
        return logits

    return run


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
    int8=Quantiser(
        write=write_int8,
        faults=int8_faults,
        modules=("nncf",),
        packages=("nncf",),
        scheme={
            "weights": "int8, symmetric, a scale for each output channel",
            "activations": "uint8 or int8, a scale and a zero point for a whole map; NNCF's preset MIXED",
            "ranges": "the smallest and the largest number on the calibration images; biases corrected",
        },
        weight_bits=(8, 7),
        noise_remedy="OpenVINO overflows on x86 CPUs without VNNI; there, use --weight-bits 7",
    ),
)
