"""SavedModel: a folder that TensorFlow loads, and TensorFlow Serving serves. Metadata are a file inside the folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.formats.base import METADATA, Format, Opened, quiet, versions_of

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from export.program import Program

INSIDE = f"assets.extra/{METADATA}"
"""The place of the metadata in the folder; TensorFlow leaves this part of it to others."""
SIGNATURE = "serving_default"


def write(program: Program, path: Path) -> None:
    """Writes a program as a SavedModel, by the Keras model of its network. Raises UserError if a layer cannot be
    built."""
    from export.program import INPUT, OUTPUT
    from proxyless_nas_tensorflow import keras_model, libraries
    from proxyless_nas_tensorflow.saved_model import save

    tf = libraries.tensorflow()
    assert program.network is not None
    shape = program.example.shape
    size, channels = shape[2], shape[1] if program.layout == "nchw" else shape[3]
    with quiet("tensorflow", "absl"):
        net = keras_model(folded(program.network), input_size=size)
        how = program.metadata["preprocessing"]
        mean, std = (255 * tf.constant(how[key], tf.float32) for key in ("mean", "std"))
        pixels = program.metadata["input"]["values"] != "normalised pixels"

        def infer(images: Any) -> dict[str, Any]:
            if program.layout == "nchw":
                images = tf.transpose(images, (0, 2, 3, 1))
            if pixels:
                images = (images - mean) / std
            return {OUTPUT: net(images, training=False)}

        sizes = (channels, size, size) if program.layout == "nchw" else (size, size, channels)
        spec = tf.TensorSpec((program.batch or None, *sizes), tf.float32, name=INPUT)
        module = tf.Module()
        module.model = net
        module.infer = tf.function(infer, input_signature=[spec])
        metadata = json.dumps(program.metadata, indent=1, ensure_ascii=False) + "\n"
        save(module, {SIGNATURE: module.infer}, path, {INSIDE: metadata})


def folded(network: nn.Module) -> nn.Module:
    """Returns a copy of a network in which each BN after a convolution is folded into it."""
    import copy
    from itertools import pairwise

    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    copied = copy.deepcopy(network).eval().double()
    for module in copied.modules():
        if isinstance(module, nn.Sequential):
            for (name, conv), (after, bn) in pairwise(list(module.named_children())):
                if isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d):
                    setattr(module, name, fuse_conv_bn_eval(conv, bn))
                    setattr(module, after, nn.Identity())
    return copied.float()


def open_file(path: Path, threads: int = 1) -> Opened:
    """Opens a SavedModel in TensorFlow."""
    from proxyless_nas_tensorflow import libraries

    tf = libraries.tensorflow()
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    loaded = tf.saved_model.load(str(path))
    infer = loaded.signatures[SIGNATURE]
    (name,) = infer.structured_input_signature[1]
    metadata = json.loads((path / INSIDE).read_text(encoding="utf-8"))
    graph = infer.graph.as_graph_def()
    ops = Counter(node.op for part in (graph, *(graph.library.function)) for node in _nodes(part))

    def prepared(images: np.ndarray) -> Callable[[], np.ndarray]:
        given, output = {name: tf.constant(images)}, metadata["output"]["name"]
        return lambda: infer(**given)[output].numpy()

    def run(images: np.ndarray) -> np.ndarray:
        return prepared(images)()

    versions = versions_of(["tensorflow", "tensorflow-cpu"])
    return Opened(f"TensorFlow {next(iter(versions.values()), tf.__version__)}", metadata, ops, run, prepared=prepared)


def _nodes(part: Any) -> Any:
    """Returns the operations of a graph, or of a function in it."""
    return part.node if hasattr(part, "node") else part.node_def


FORMAT = Format(
    name="saved_model",
    title="TensorFlow",
    suffix=".saved_model",
    modules=("tensorflow",),
    write=write,
    open=open_file,
    extra="tensorflow",
    packages=("tensorflow", "tensorflow-cpu", "keras"),
    layout="nhwc",
    litter={
        "bn": ("FusedBatchNormV3",),
        "transpose": ("Transpose",),
        "identity": ("Cast",),
        "quantise": ("FakeQuantWithMinMaxVars",),
    },
)
