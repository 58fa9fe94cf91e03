"""What ONNX Runtime makes of a model: the nodes that are left after its optimisations, and its output."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from latency.on_device.models import onnx_options


def _session(model: onnx.ModelProto | Path, optimised: str = "") -> onnxruntime.InferenceSession:
    options = onnx_options(threads=1)
    options.optimized_model_filepath = optimised
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def optimised_ops(model: onnx.ModelProto | Path) -> Counter[str]:
    """Returns how often each operation occurs in a model after ONNX Runtime's optimisations."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "optimised.onnx"
        _session(model, str(file))
        return Counter(node.op_type for node in onnx.load(file, load_external_data=False).graph.node)


def output_of(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """Returns the output of a model of one input."""
    session = _session(model)
    (out,) = session.run(None, {session.get_inputs()[0].name: images})
    return out
