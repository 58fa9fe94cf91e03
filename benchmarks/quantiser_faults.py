"""Faults that quantisers have, planted into int8 ONNX files; benchmarks/export_matrix.py counts how many are caught.

Each function of FAULTS returns a model with one fault, which is there before the model is a file; one of FILE_FAULTS
comes in on the way to the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.calibration import Calibration
from export.program import INPUT
from latency.runtimes.int8_models import quantised_onnx


@dataclass(frozen=True)
class GoodInt8:
    """A good int8 export."""

    floats: onnx.ModelProto
    """The float32 model."""
    model: onnx.ModelProto
    """The int8 model."""
    calibration: Calibration

    def inputs(self) -> Iterable[np.ndarray]:
        """Returns the calibration images as the file takes them."""
        return self.calibration.inputs("nchw", False, 16)

    def quantised(self, change: Callable[[np.ndarray], np.ndarray], **options: Any) -> onnx.ModelProto:
        """Returns the model that the quantiser makes of changed calibration images."""
        return quantised_onnx(self.floats, ({INPUT: change(images)} for images in self.inputs()), **options)

    def copied(self) -> onnx.ModelProto:
        """Returns a copy of the int8 model."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        return model

    def changed(self, name: str, new: Callable[[np.ndarray], np.ndarray]) -> onnx.ModelProto:
        """Returns the model with another value of a constant."""
        model = self.copied()
        (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
        old = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(new(old)).astype(old.dtype), name))
        return model


def _activation(good: GoodInt8, share: float) -> Any:
    """Returns the node that turns an activation into codes, at a share of the way through the network."""
    nodes = [node for node in good.model.graph.node if node.op_type == "QuantizeLinear"]
    return nodes[int(share * len(nodes))]


def _weights(good: GoodInt8) -> Any:
    """Returns the node that turns the codes of a depthwise kernel in the middle into numbers."""
    nodes = [
        node
        for node in good.model.graph.node
        if node.op_type == "DequantizeLinear" and "depthwise.conv.weight" in node.input[0]
    ]
    return nodes[len(nodes) // 2]


def _bias(good: GoodInt8) -> str:
    """Returns the name of the codes of a bias in the middle."""
    name = str(_weights(good).input[0]).partition("weight")[0]
    (codes,) = (t.name for t in good.model.graph.initializer if t.name.startswith(f"{name}bias_quantized") and
                "scale" not in t.name and "zero" not in t.name)  # fmt: skip
    return str(codes)


def per_tensor_weights(good: GoodInt8) -> onnx.ModelProto:
    """Each layer's weights have one scale."""
    return good.quantised(lambda images: images, per_channel=False)


def calibrated_with_pixels(good: GoodInt8) -> onnx.ModelProto:
    """The calibration images are pixels from 0 to 1, not normalised."""
    how = good.calibration.preprocessing
    mean, std = (np.array(values, np.float32).reshape(1, -1, 1, 1) for values in (how.mean, how.std))
    return good.quantised(lambda images: images * std + mean)


def calibrated_with_darker_images(good: GoodInt8) -> onnx.ModelProto:
    """The calibration images are normalised by another deviation: a quarter of the range is missing."""
    return good.quantised(lambda images: images * np.float32(0.5))


def calibrated_with_noise(good: GoodInt8) -> onnx.ModelProto:
    """The calibration images are random numbers."""
    rng = np.random.default_rng(0)
    return good.quantised(lambda images: rng.standard_normal(images.shape, dtype=np.float32))


def zero_point_shifted(good: GoodInt8) -> onnx.ModelProto:
    """The zero point of one map is shifted by 8 codes."""
    node = _activation(good, 0.5)
    return good.changed(node.input[2], lambda old: np.clip(old.astype(int) + 8, 0, 255))


def zero_point_shifted_by_one(good: GoodInt8) -> onnx.ModelProto:
    """The zero point of one map is shifted by 1 code."""
    node = _activation(good, 0.5)
    return good.changed(node.input[2], lambda old: np.clip(old.astype(int) + 1, 0, 255))


def range_halved(good: GoodInt8) -> onnx.ModelProto:
    """The range of one map ends at half of its largest number."""
    return good.changed(_activation(good, 0.35).input[1], lambda old: old / 2)


def scales_of_other_channels(good: GoodInt8) -> onnx.ModelProto:
    """The scales of one layer's weights are in reverse order."""
    return good.changed(_weights(good).input[1], lambda old: old[::-1])


def four_bits(good: GoodInt8) -> onnx.ModelProto:
    """The weights of one layer have 4 bits."""
    return good.changed(_weights(good).input[0], lambda old: np.clip(np.round(old / 16) * 16, -127, 127))


def unsigned_weights(good: GoodInt8) -> onnx.ModelProto:
    """The zero point of one layer's weights is 1."""
    return good.changed(_weights(good).input[2], lambda old: old + 1)


def bias_dropped(good: GoodInt8) -> onnx.ModelProto:
    """One convolution has lost its bias."""
    return good.changed(_bias(good), lambda old: 0 * old)


def bias_saturated(good: GoodInt8) -> onnx.ModelProto:
    """One convolution's bias has 8 bits in place of 32."""
    return good.changed(_bias(good), lambda old: np.clip(old, -128, 127))


def float_layer(good: GoodInt8) -> onnx.ModelProto:
    """One convolution is computed in float32."""
    nodes = [node.name for node in good.floats.graph.node if node.op_type == "Conv"]
    return good.quantised(lambda images: images, keep=[nodes[len(nodes) // 2]])


def float_addition(good: GoodInt8) -> onnx.ModelProto:
    """One residual addition is computed in float32, since a number is multiplied by 1.0001 before it."""
    nodes = [node.name for node in good.model.graph.node if node.op_type == "Add"]
    return _multiplied_by_one(good, nodes[len(nodes) // 2])


def float_input(good: GoodInt8) -> onnx.ModelProto:
    """One convolution is computed in float32, since its input is multiplied by 1.0001 before it."""
    nodes = [node.name for node in good.model.graph.node if node.op_type == "Conv"]
    return _multiplied_by_one(good, nodes[len(nodes) // 3])


def _multiplied_by_one(good: GoodInt8, name: str) -> onnx.ModelProto:
    """Returns the model with a multiplication by 1.0001 before a node: ONNX Runtime leaves one by 1 out."""
    model = good.copied()
    index, reader = next((i, node) for i, node in enumerate(model.graph.node) if node.name == name)
    source, reader.input[0] = reader.input[0], "again"
    model.graph.initializer.append(numpy_helper.from_array(np.array(1.0001, np.float32), "one"))
    nodes = list(model.graph.node)
    nodes.insert(index, helper.make_node("Mul", [source, "one"], ["again"], name="again"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


FAULTS: Mapping[str, Callable[[GoodInt8], onnx.ModelProto]] = {
    fault.__name__: fault
    for fault in (
        per_tensor_weights, calibrated_with_pixels, calibrated_with_darker_images, calibrated_with_noise,
        zero_point_shifted, range_halved, scales_of_other_channels, four_bits, unsigned_weights, bias_dropped,
        bias_saturated, float_layer, float_addition, float_input,
    )
}  # fmt: skip
"""Maps the name of each fault of a quantiser to the function that plants it."""
FILE_FAULTS: Mapping[str, Callable[[GoodInt8], onnx.ModelProto]] = {
    fault.__name__: fault for fault in (zero_point_shifted_by_one,)
}
"""Maps the name of each fault that comes in on the way to the file to the function that plants it."""
