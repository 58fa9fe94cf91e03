"""Quantises model files to int8: of ONNX Runtime and of LiteRT. Exports and latency tables do it by these functions.

Weights are int8, symmetric, with a scale for each output channel; activations are 8-bit codes whose ranges come from
calibration inputs. Both formats then hold what their runtimes compute in integers: in ONNX, pairs of QuantizeLinear and
DequantizeLinear that ONNX Runtime fuses with the operation between them (QDQ); in LiteRT, int8 tensors.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import onnx

    from latency.config import MeasureConfig

Ranges = Literal["minmax", "percentile"]
"""How the range of an activation follows from its values during calibration: all of them, or all but the outermost."""
Feed = Mapping[str, np.ndarray]
"""A calibration input: an array for each of the model's inputs, by its name."""
_PREPROCESSED = ("onnx.quant.pre_process", "onnxruntime.quant")
"""The key and value by which ONNX Runtime's quantiser knows a model that was prepared; it prints a warning else."""


def quantised_onnx(
    model: onnx.ModelProto,
    feeds: Iterable[Feed],
    *,
    keep: Collection[str] = (),
    per_channel: bool = True,
    weight_bits: int = 8,
    ranges: Ranges = "minmax",
    percentile: float = 99.99,
) -> onnx.ModelProto:
    """Returns a float32 model as an int8 one for ONNX Runtime, in QDQ form; its inputs and outputs stay float32.

    feeds: at least one calibration input, read once. keep: names of nodes that stay in float32. per_channel: whether
    each output channel has a scale of its own; if not, a weight has one. weight_bits: 7 gives weights codes from -64 to
    64, but for depthwise convolutions (see `export.formats.base.LARGEST_CODE`). percentile: for `ranges` percentile,
    the percentage of an activation's values that its range contains. Activations are uint8, so that a ReLU or ReLU6
    becomes the lower end of a range and costs nothing. The model given is not changed.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    prepared = _prepared(model)
    own = {prop.key: prop.value for prop in model.metadata_props}
    prepared.metadata_props.add(key=_PREPROCESSED[0], value=_PREPROCESSED[1])
    options: dict[str, Any] = {"ForceQuantizeNoInputCheck": True, "CalibPercentile": percentile}
    if weight_bits < 8:
        whole = {"reduce_range": False} | ({"axis": 0} if per_channel else {})
        options["TensorQuantOverrides"] = {name: [whole] for name in _depthwise_weights(prepared)}
    method = CalibrationMethod.Percentile if ranges == "percentile" else CalibrationMethod.MinMax
    with tempfile.TemporaryDirectory(prefix="quantised_") as folder, _quiet():
        file = Path(folder) / "int8.onnx"
        quantize_static(
            prepared,
            file,
            _reader(feeds),
            quant_format=QuantFormat.QDQ,
            per_channel=per_channel,
            reduce_range=weight_bits < 8,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(keep),
            calibrate_method=method,
            extra_options=options,
        )
        quantised = onnx.load(file)
    onnx.helper.set_model_props(quantised, own)
    return quantised


def _depthwise_weights(model: onnx.ModelProto) -> list[str]:
    """Returns the names of the weights of a model's depthwise convolutions."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    groups = {node.input[1]: groups_of(node) for node in model.graph.node if node.op_type == "Conv"}
    return [name for name, number in groups.items() if name in shapes and is_depthwise(shapes[name], number)]


def groups_of(node: onnx.NodeProto) -> int:
    """Returns the number of groups of a layer; 1 of a matrix product."""
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "group"), 1)


def is_depthwise(shape: Sequence[int], groups: int) -> bool:
    """Returns whether weights (C_out, C_in / groups, k, k) are a depthwise convolution's."""
    return groups > 1 and len(shape) == 4 and shape[0] == groups and shape[1] == 1


def _reader(feeds: Iterable[Feed]) -> Any:
    """Returns calibration inputs as ONNX Runtime's quantiser reads them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the package has no types
        def __init__(self) -> None:
            self._remaining = iter(feeds)

        def get_next(self) -> dict[str, np.ndarray] | None:
            feed = next(self._remaining, None)
            return None if feed is None else dict(feed)

    return Reader()


def _prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a copy of a model that computes the same, in operations that ONNX Runtime has in int8: a mean over all
    pixels becomes a GlobalAveragePool."""
    import onnx
    from onnx import helper

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in copied.graph.initializer if tensor.dims}
    nodes = []
    for node in copied.graph.node:
        kept = _spatial_mean(node, constants)
        if kept is None:
            nodes.append(node)
            continue
        pooled = node.output[0] if kept else f"{node.output[0]}_pooled"
        nodes.append(helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], name=node.name))
        if not kept:
            nodes.append(helper.make_node("Flatten", [pooled], [node.output[0]], name=f"{node.name}_flat"))
    del copied.graph.node[:]
    copied.graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    used = [tensor for tensor in copied.graph.initializer if tensor.name in read]
    del copied.graph.initializer[:]
    copied.graph.initializer.extend(used)
    return copied


def _spatial_mean(node: onnx.NodeProto, constants: Mapping[str, np.ndarray]) -> bool | None:
    """Returns whether a mean over height and width keeps these dimensions; None if the node is no such mean."""
    if node.op_type != "ReduceMean" or len(node.input) != 2 or node.input[1] not in constants:
        return None
    if sorted(constants[node.input[1]].tolist()) not in ([2, 3], [-2, -1]):
        return None
    return next((bool(attribute.i) for attribute in node.attribute if attribute.name == "keepdims"), True)


def quantised_litert(model: bytes, inputs: Iterable[np.ndarray], *, keep: Collection[str] = ()) -> bytes:
    """Returns a float32 .tflite model as an int8 one; its input and output are int8, too.

    model: with one signature, of one input. inputs: at least one calibration input, in the model's own shape. keep:
    regular expressions for the names of output tensors whose operations stay in float32.
    """
    from ai_edge_quantizer import calibrator, quantizer, recipe
    from ai_edge_quantizer.utils import qsv_utils

    with _quiet():
        job = quantizer.Quantizer(bytearray(model))
        job.load_quantization_recipe(recipe.static_wi8_ai8())
        for expression in keep:
            job.update_quantization_recipe(regex=expression, operation_name="*", algorithm_key="no_quantize")
        ((signature, names),) = _signatures(model).items()
        (name,) = names["inputs"]
        # job.calibrate takes a moving average of the ends, which cuts what few images reach
        observer = calibrator.Calibrator(bytearray(model), num_threads=1, qsv_update_func=qsv_utils.min_max_update)
        observer.calibrate({signature: [{name: given} for given in inputs]}, job._recipe_manager)
        return bytes(job.quantize(observer.get_model_qsvs(), enable_progress_report=False).quantized_model)


def _signatures(model: bytes) -> dict[str, dict[str, list[str]]]:
    """Returns the names of a .tflite model's inputs and outputs, by signature."""
    from ai_edge_litert.interpreter import Interpreter

    found: dict[str, dict[str, list[str]]] = Interpreter(model_content=model).get_signature_list()
    return found


def quantiser(runtime: str) -> str:
    """Returns the program that quantises for a runtime, onnxruntime or litert, with its version."""
    package = {"onnxruntime": "onnxruntime", "litert": "ai-edge-quantizer"}[runtime]
    return f"{package} {version(package)}"


def quantiser_of(measure: MeasureConfig) -> str | None:
    """Returns the program that makes the models of a table, with its version; None if they are not int8."""
    return quantiser(measure.runtime) if measure.dtype == "int8" else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps quantisers from printing, logging and warning. Errors are raised as ever."""
    root = logging.getLogger()
    level = root.manager.disable
    quiet = io.StringIO()
    try:
        logging.disable(logging.WARNING)
        with warnings.catch_warnings(), contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
