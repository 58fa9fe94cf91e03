"""LiteRT: a .tflite file for the interpreter with XNNPACK. Metadata lie in a JSON file beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from export.formats.base import Format, Opened, cannot_write, read_beside, write_beside

if TYPE_CHECKING:
    import numpy as np

    from export.program import Program


def write(program: Program, path: Path) -> None:
    """Writes a program as a .tflite file, with its metadata beside it."""
    from latency.runtimes.litert_models import converted

    try:
        path.write_bytes(converted(program.module, program.example))
    except (RuntimeError, NotImplementedError, ValueError) as error:
        raise cannot_write("litert", program.metadata["network"], error) from None
    write_beside(path, program.metadata)


def open_file(path: Path, threads: int = 1) -> Opened:
    """Opens a .tflite file in LiteRT's interpreter, with XNNPACK."""
    from latency import bench

    metadata = read_beside(path)
    if metadata is None:
        raise ValueError("there is no file of metadata beside it")
    model = bench.LiteRTModel(str(path), metadata["input"]["shape"], threads=threads)
    ops = Counter(op["op_name"] for op in model.interpreter._get_ops_details())

    def prepared(images: np.ndarray) -> Callable[[], object]:
        model.output(images)  # the interpreter keeps its input
        invoke: Callable[[], object] = model.interpreter.invoke
        return invoke

    return Opened(f"LiteRT {model.version()}", metadata, ops, model.output, prepared=prepared)


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
)
