"""torch.export: a .pt2 file of the graph, which PyTorch loads without the network's Python code."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from export.formats.base import METADATA, Format, Opened, opened_in_pytorch

if TYPE_CHECKING:
    from export.program import Program


def write(program: Program, path: Path) -> None:
    """Writes a program as a .pt2 file."""
    import torch

    torch.export.save(program.graph, path, extra_files={METADATA: json.dumps(program.metadata, ensure_ascii=False)})


def open_file(path: Path, threads: int = 1) -> Opened:
    """Opens a .pt2 file in PyTorch."""
    import torch

    torch.set_num_threads(threads)
    inside = {METADATA: ""}
    graph = torch.export.load(path, extra_files=inside)
    module = graph.module()
    ops = Counter(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
    return opened_in_pytorch(module, ops, inside[METADATA])


FORMAT = Format(
    name="torch_export",
    title="PyTorch (torch.export)",
    suffix=".pt2",
    modules=("torch",),
    write=write,
    open=open_file,
    litter={
        "bn": ("aten.batch_norm.default", "aten._native_batch_norm_legit_no_training.default"),
        "transpose": ("aten.permute.default", "aten.transpose.int"),
        "identity": ("aten.dropout.default", "aten.alias.default", "aten.clone.default"),
        "quantise": (),
    },
)
