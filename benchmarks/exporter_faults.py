"""Faults that exporters have, planted into good ONNX files; benchmarks/export_matrix.py counts how many are caught.

Each function of FAULTS returns a model with one fault. Most change the graph or the weights; a few let the converter
write a network that was prepared wrongly.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from torch import nn

from engine.data import Preprocessing
from export.formats import onnx_file
from export.program import INPUT, OUTPUT, make_program
from supernet.network import Network

GEMM = "Gemm"


@dataclass(frozen=True)
class Good:
    """A good export."""

    network: Network
    preprocessing: Preprocessing
    metadata: dict[str, Any]
    model: onnx.ModelProto

    def copied(self) -> onnx.ModelProto:
        """Returns a copy of the model."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        return model

    def exported(self, change: Callable[[nn.Module], None]) -> onnx.ModelProto:
        """Returns the model that the converter makes of a changed network."""
        network = copy.deepcopy(self.network).eval()
        change(network)
        return onnx_file.model_of(make_program(network, "x", self.preprocessing, 0, "nchw", False, self.metadata))

    def with_weights_of(self, change: Callable[[nn.Module], None]) -> onnx.ModelProto:
        """Returns the model with the weights of a changed network."""
        network = copy.deepcopy(self.network).eval()
        change(network)
        state = make_program(network, "x", self.preprocessing, 0, "nchw", False, {}).graph.state_dict
        return self.with_weights(lambda name, old: state[name].numpy() if name in state else old)

    def with_weights(self, new: Callable[[str, np.ndarray], np.ndarray]) -> onnx.ModelProto:
        """Returns the model with other weights. new: returns them for a name and the old ones."""
        model = self.copied()
        for tensor in model.graph.initializer:
            old = numpy_helper.to_array(tensor)
            if old.size > 1 and old.dtype == np.float32:
                tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(new(tensor.name, old)), tensor.name))
        return model


def _nodes(model: onnx.ModelProto, op: str) -> list[Any]:
    """Returns the nodes of an operation, in order."""
    return [node for node in model.graph.node if node.op_type == op]


def _depthwise(good: Good) -> str:
    """Returns the name of the weights of a depthwise convolution in the middle."""
    names = [str(t.name) for t in good.model.graph.initializer if "depthwise.conv.weight" in t.name]
    return names[len(names) // 2]


def _metadata(good: Good, key: str, value: Any) -> onnx.ModelProto:
    """Returns the model with another value of its metadata."""
    model = good.copied()
    for prop in model.metadata_props:
        if prop.key == key:
            prop.value = json.dumps(value)
    return model


def _insert_before(model: onnx.ModelProto, index: int, node: Any) -> None:
    """Puts a node before the node at `index`."""
    nodes = [*model.graph.node[:index], node, *model.graph.node[index:]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def bn_in_training_mode(good: Good) -> onnx.ModelProto:
    """BN normalises by the statistics of the batch."""

    def change(network: nn.Module) -> None:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.track_running_stats = False
                module.running_mean = module.running_var = None

    return good.exported(change)


def bn_eps_of_another_framework(good: Good) -> onnx.ModelProto:
    """BN is folded with torch's default eps, 1e-5, in place of another, or with 1e-3 if torch's is the network's."""

    def change(network: nn.Module) -> None:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 1e-3 if module.eps == 1e-5 else 1e-5

    return good.with_weights_of(change)


def transposed_kernel(good: Good) -> onnx.ModelProto:
    """One depthwise kernel has its rows and columns exchanged."""
    one = _depthwise(good)
    return good.with_weights(lambda name, old: old.swapaxes(2, 3) if name == one else old)


def flipped_kernel(good: Good) -> onnx.ModelProto:
    """One depthwise kernel is turned by 180 degrees, as in a convolution of mathematics."""
    one = _depthwise(good)
    return good.with_weights(lambda name, old: old[:, :, ::-1, ::-1] if name == one else old)


def wrong_padding(good: Good) -> onnx.ModelProto:
    """The odd row and column of zeros of the first convolution is at the upper left."""
    model = good.copied()
    (pads,) = (attribute for attribute in _nodes(model, "Conv")[0].attribute if attribute.name == "pads")
    top, left, bottom, right = pads.ints
    pads.ints[:] = (
        [bottom, right, top, left] if (top, left) != (bottom, right) else [top + 1, left + 1, bottom - 1, right - 1]
    )
    return model


def swapped_channels(good: Good) -> onnx.ModelProto:
    """The network gets blue, green, red."""
    return good.with_weights(lambda name, old: old[:, ::-1] if name.endswith("stem.conv.weight") else old)


def constant_of_the_dummy_batch(good: Good) -> onnx.ModelProto:
    """One convolution's output is a constant, computed from the image with which the network was traced."""
    import onnxruntime

    model = good.copied()
    add = _nodes(model, "Add")[len(_nodes(model, "Add")) // 2]
    source = add.input[1]
    probe = good.copied()
    probe.graph.output.append(helper.make_empty_tensor_value_info(source))
    session = onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    shape = (1, *good.metadata["input"]["shape"][1:])
    image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    model.graph.initializer.append(numpy_helper.from_array(session.run([source], {INPUT: image})[0], "folded"))
    add.input[1] = "folded"
    return model


def batch_fixed_silently(good: Good) -> onnx.ModelProto:
    """The file takes one image, though it says that it takes any number."""
    model = good.copied()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    return model


def images_of_a_batch_mixed(good: Good) -> onnx.ModelProto:
    """The logits of a batch come in reverse order; of one image they are right."""
    model = good.copied()
    last = model.graph.node[-1]
    last.output[0] = "forward"
    for name, value in (("starts", [-1]), ("ends", [-(2**31)]), ("axes", [0]), ("steps", [-1])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    model.graph.node.append(helper.make_node("Slice", ["forward", "starts", "ends", "axes", "steps"], [OUTPUT]))
    return model


def another_resize(good: Good) -> onnx.ModelProto:
    """The file says that pictures are resized with the other interpolation."""
    how = good.preprocessing.record()
    other = "bilinear" if how.get("interpolation") == "bicubic" else "bicubic"
    return _metadata(good, "preprocessing", {**how, "interpolation": other})


def another_normalisation(good: Good) -> onnx.ModelProto:
    """The file says that images have another mean."""
    mean = [round(value + 0.01, 6) for value in good.preprocessing.record()["mean"]]
    return _metadata(good, "preprocessing", {**good.preprocessing.record(), "mean": mean})


def missing_residual(good: Good) -> onnx.ModelProto:
    """The input of one block is not added to its output."""
    model = good.copied()
    add = _nodes(model, "Add")[len(_nodes(model, "Add")) // 2]
    add.op_type = "Identity"
    del add.input[0]
    return model


def another_activation(good: Good) -> onnx.ModelProto:
    """ReLU in place of ReLU6; LeakyReLU in place of ReLU."""
    model = good.copied()
    clips, relus = _nodes(model, "Clip"), _nodes(model, "Relu")
    assert clips or relus, "the network has neither activation"
    for clip in clips:
        del clip.input[2:]
    for relu in relus:
        relu.op_type = "LeakyRelu"
    return model


def dropout_active(good: Good) -> onnx.ModelProto:
    """Dropout before the classifier is in training mode: a fifth of its inputs are 0, others each time.

    It is written as a random mask: of a Dropout node with training_mode, ONNX Runtime 1.32 makes the identity.
    """
    model = good.copied()
    index = next(i for i, node in enumerate(model.graph.node) if node.op_type == GEMM)
    source = model.graph.node[index].input[0]
    for name, value in (("ratio", 0.2), ("kept", 1.25)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    model.graph.node[index].input[0] = "dropped"
    nodes = [
        helper.make_node("RandomUniformLike", [source], ["uniform"], low=0.0, high=1.0),
        helper.make_node("Greater", ["uniform", "ratio"], ["mask"]),
        helper.make_node("Cast", ["mask"], ["ones"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", [source, "ones"], ["masked"]),
        helper.make_node("Mul", ["masked", "kept"], ["dropped"]),
    ]
    for node in reversed(nodes):
        _insert_before(model, index, node)
    return model


def stale_weights(good: Good) -> onnx.ModelProto:
    """The weights are those of an earlier step: each differs by 0.1 % on average."""
    rng = np.random.default_rng(0)

    def older(name: str, old: np.ndarray) -> np.ndarray:
        return (old * (1 + 1e-3 * rng.standard_normal(old.shape))).astype(np.float32)

    return good.with_weights(older)


def bias_dropped(good: Good) -> onnx.ModelProto:
    """One convolution has lost its bias."""
    one = _depthwise(good).replace("weight", "bias")
    return good.with_weights(lambda name, old: 0 * old if name == one else old)


def float16_weights(good: Good) -> onnx.ModelProto:
    """The weights were rounded to float16, as OpenVINO's save_model does by default."""
    return good.with_weights(lambda name, old: old.astype(np.float16).astype(np.float32))


def softmax_added(good: Good) -> onnx.ModelProto:
    """The file returns probabilities."""
    model = good.copied()
    model.graph.node[-1].output[0] = "raw"
    model.graph.node.append(helper.make_node("Softmax", ["raw"], [OUTPUT], axis=1))
    return model


def classes_permuted(good: Good) -> onnx.ModelProto:
    """The names of the classes are shifted by one, as after a class for the background."""
    names = good.metadata["classes"]
    return _metadata(good, "classes", [names[-1], *names[:-1]])


def another_pool(good: Good) -> onnx.ModelProto:
    """The maximum over all pixels in place of the mean."""
    model = good.copied()
    (pool,) = _nodes(model, "ReduceMean")
    pool.op_type = "ReduceMax"
    return model


def last_layer_quantised(good: Good) -> onnx.ModelProto:
    """The classifier's weights have 8 bits, with one scale."""

    def coarse(name: str, old: np.ndarray) -> np.ndarray:
        scale = np.abs(old).max() / 127
        return (old / scale).round().astype(np.float32) * scale if name.endswith("linear.weight") else old

    return good.with_weights(coarse)


FAULTS: Mapping[str, Callable[[Good], onnx.ModelProto]] = {
    fault.__name__: fault
    for fault in (
        bn_in_training_mode, bn_eps_of_another_framework, transposed_kernel, flipped_kernel, wrong_padding,
        swapped_channels, constant_of_the_dummy_batch, batch_fixed_silently, images_of_a_batch_mixed, another_resize,
        another_normalisation, missing_residual, another_activation, dropout_active, stale_weights, bias_dropped,
        float16_weights, softmax_added, classes_permuted, another_pool, last_layer_quantised,
    )
}  # fmt: skip
"""Maps the name of each fault to the function that plants it."""
