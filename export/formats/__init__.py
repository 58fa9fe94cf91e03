"""The formats to which a network can be exported, a module for each. FORMATS has them all."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from export.formats import (
    executorch_file,
    litert_file,
    onnx_file,
    openvino_ir,
    saved_model_folder,
    torch_program,
    torchscript_file,
)
from export.formats.base import Format

FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "onnx": onnx_file.FORMAT,
        "openvino": openvino_ir.FORMAT,
        "litert": litert_file.FORMAT,
        "executorch": executorch_file.FORMAT,
        "torch_export": torch_program.FORMAT,
        "torchscript": torchscript_file.FORMAT,
        "saved_model": saved_model_folder.FORMAT,
    }
)
"""Maps the name of each format, as `--to` has it, to what is known of it."""
