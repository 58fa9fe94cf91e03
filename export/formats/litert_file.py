"""LiteRT: a .tflite file for the interpreter with XNNPACK. Metadata lie in a JSON file beside it."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.formats.base import (
    Format,
    Opened,
    Quantiser,
    cannot_write,
    int8_weights_faults,
    read_beside,
    write_beside,
)

if TYPE_CHECKING:
    import numpy as np

    from export.program import Program

LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
"""The operations with weights."""
SMALLEST = 1e-4
"""The smallest largest weight of an output channel in an int8 file, as a share of the channel's bias."""


def write(program: Program, path: Path) -> None:
    """Writes a program as a .tflite file, with its metadata beside it."""
    path.write_bytes(_model_of(program))
    write_beside(path, program.metadata)


def _model_of(program: Program) -> bytes:
    """Returns a program as a .tflite model. Raises UserError if an operation cannot be converted."""
    from latency.runtimes.litert_models import converted

    try:
        return converted(program.module, program.example)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        raise cannot_write("litert", program.metadata["network"], error) from None


def write_int8(
    program: Program, path: Path, inputs: Iterable[np.ndarray], kept: Collection[str], weight_bits: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Writes a program as an int8 .tflite file, and returns what runs the model; see `Quantiser`. weight_bits: 8, the
    only ones that its quantiser has."""
    from latency.on_device.models import LiteRTModel
    from latency.runtimes.int8_models import quantised_litert

    model = _model_of(_without_empty_channels(program))
    ops = _layers(_interpreter(model), program)
    names = [op["name"] for name, op in ops.items() if name in kept]
    quantised = quantised_litert(model, inputs, keep=[f"^{re.escape(name)}$" for name in names])
    path.write_bytes(quantised)
    write_beside(path, program.metadata)
    return LiteRTModel(str(path), program.metadata["input"]["shape"], threads=1).output


def _without_empty_channels(program: Program) -> Program:
    """Returns a program in which each output channel has a weight that is not 0.

    The quantiser divides a channel's bias by the scale of its weights. Of a channel without weights, which trained
    networks have, it makes codes that are not numbers: proxyless-w0.3 lost 13 points of accuracy by its six.
    """
    import torch

    state = dict(program.graph.state_dict)
    for name, weights in state.items():
        bias = state.get(name.removesuffix("weight") + "bias")
        if not name.endswith("weight") or weights.dim() < 2:
            continue
        empty = weights.abs().flatten(1).amax(dim=1) == 0
        if empty.any():
            size = torch.ones(len(weights)) if bias is None else bias.abs().clamp(min=1e-6)
            changed = weights.detach().clone()
            changed.flatten(1)[empty, 0] = SMALLEST * size[empty].detach()
            trained = isinstance(weights, torch.nn.Parameter)  # torch.export refuses a plain tensor in its place
            state[name] = torch.nn.Parameter(changed, requires_grad=False) if trained else changed
    graph = copy.deepcopy(program.graph)
    graph.state_dict.update(state)
    return replace(program, graph=graph)


def int8_faults(
    program: Program, path: Path, kept: Collection[str], ranges: Mapping[str, tuple[float, float]], weight_bits: int
) -> list[str]:
    """Returns what an int8 .tflite file lacks; see `Quantiser`.

    Each layer's weights must be int8 with a scale for each output channel, and within half a step of the network's;
    and no number may be turned into codes or back unless a layer is kept.
    """
    from export.simulation import PREFIX

    interpreter = _interpreter(path.read_bytes())
    state = _without_empty_channels(program).graph.state_dict
    faults = []
    for name, op in _layers(interpreter, program).items():
        if name in kept:
            continue
        codes, how = interpreter.get_tensor(op["weights"]), op["quantisation"]
        weights = state[f"{PREFIX}{name}.weight"].detach().numpy()
        if codes.dtype.kind == "f":
            faults.append(f"{name}: its weights are float32")
            continue
        axis = int(how["quantized_dimension"])
        if weights.ndim == 4:  # (C_out, C_in, k, k) -> (C_out, k, k, C_in), and (1, k, k, C_out) of a depthwise one
            weights = (
                weights.transpose(1, 2, 3, 0) if op["op_name"] == "DEPTHWISE_CONV_2D" else weights.transpose(0, 2, 3, 1)
            )
        faults += int8_weights_faults(name, codes, how["scales"], how["zero_points"], weights, axis, weight_bits)
    counts = Counter(op["op_name"] for op in interpreter._get_ops_details())
    litter = {op: counts[op] for op in ("QUANTIZE", "DEQUANTIZE") if counts[op]}
    if litter and not kept:
        faults.append(f"it holds {', '.join(f'{number} {op}' for op, number in litter.items())}")
    return faults


def _layers(interpreter: Any, program: Program) -> dict[str, dict[str, Any]]:
    """Returns, for each layer of a program by its name, in a .tflite model: the name of its output, the number of its
    weights' tensor, and how they are quantised. Layers are in the order of the program in both."""
    from export.simulation import layers_of

    tensors = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
    ops = [op for op in interpreter._get_ops_details() if op["op_name"] in LAYERS]
    return {
        name: {
            "op_name": op["op_name"],
            "name": tensors[op["outputs"][0]]["name"],
            "weights": op["inputs"][1],
            "quantisation": tensors[op["inputs"][1]]["quantization_parameters"],
        }
        for name, op in zip(layers_of(program), ops, strict=True)
    }


def _interpreter(model: bytes) -> Any:
    """Returns a model in LiteRT's interpreter, on one thread."""
    from latency.on_device.models import litert

    interpreter = litert().Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def _types(interpreter: Any) -> dict[str, str]:
    """Returns the types of a model's input and output; of codes, also how they are numbers."""

    def words(details: dict[str, Any]) -> str:
        scale, zero = details["quantization"]
        codes = f", (code - {zero}) * {scale:.6g}" if scale else ""
        return f"{details['dtype'].__name__}{codes}"

    (given,), (returned,) = interpreter.get_input_details(), interpreter.get_output_details()
    return {"input": words(given), "output": words(returned)}


def open_file(path: Path, threads: int = 1) -> Opened:
    """Opens a .tflite file in LiteRT's interpreter, with XNNPACK."""
    from latency.on_device.models import LiteRTModel

    metadata = read_beside(path)
    if metadata is None:
        raise ValueError("there is no file of metadata beside it")
    model = LiteRTModel(str(path), metadata["input"]["shape"], threads=threads)
    ops = Counter(op["op_name"] for op in model.interpreter._get_ops_details())

    def prepared(images: np.ndarray) -> Callable[[], object]:
        model.output(images)  # the interpreter keeps its input
        invoke: Callable[[], object] = model.interpreter.invoke
        return invoke

    return Opened(
        f"LiteRT {model.version()}", metadata, ops, model.output, types=_types(model.interpreter), prepared=prepared
    )


FORMAT = Format(
    name="litert",
    title="LiteRT",
    suffix=".tflite",
    modules=("litert_torch", "ai_edge_litert"),
    write=write,
    open=open_file,
    extra="litert",
    measured_as="litert",
    packages=("litert-torch", "ai-edge-litert"),
    layout="nhwc",
    any_batch=False,
    pools_keep_dims=True,
    litter={
        "bn": (),
        "transpose": ("TRANSPOSE",),
        "identity": ("RESHAPE", "CAST"),
        "quantise": ("QUANTIZE", "DEQUANTIZE"),
    },
    below=(("torch", "2.15"),),
    int8=Quantiser(
        write=write_int8,
        faults=int8_faults,
        modules=("ai_edge_quantizer",),
        packages=("ai-edge-quantizer",),
        scheme={
            "weights": "int8, symmetric, a scale for each output channel",
            "activations": "int8, a scale and a zero point for a whole map",
            "ranges": "the smallest and the largest number on the calibration images",
        },
    ),
)
