"""TorchScript: a .pt file that libtorch loads in C++. PyTorch itself recommends torch.export for what is new."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from export.formats.base import METADATA, Format, Opened, opened_in_pytorch, quiet

if TYPE_CHECKING:
    from export.program import Program


def write(program: Program, path: Path) -> None:
    """Traces a program's graph, freezes its weights and writes it."""
    import torch

    module = program.module
    module._forward_pre_hooks.clear()  # they compare the input's shape, which cannot be traced
    with quiet(), torch.no_grad():
        frozen = torch.jit.freeze(torch.jit.trace(module, program.example, check_trace=False).eval())
        frozen.save(str(path), _extra_files={METADATA: json.dumps(program.metadata, ensure_ascii=False)})


def open_file(path: Path, threads: int = 1) -> Opened:
    """Opens a TorchScript file in PyTorch."""
    import torch

    torch.set_num_threads(threads)
    inside = {METADATA: ""}
    with quiet():
        module = torch.jit.load(str(path), _extra_files=inside)
    ops = Counter(node.kind() for node in module.graph.nodes() if not node.kind().startswith("prim::"))
    return opened_in_pytorch(module, ops, inside[METADATA])


FORMAT = Format(
    name="torchscript",
    title="PyTorch (TorchScript)",
    suffix=".torchscript.pt",
    modules=("torch",),
    write=write,
    open=open_file,
    litter={
        "bn": ("aten::batch_norm",),
        "transpose": ("aten::permute", "aten::transpose"),
        "identity": ("aten::dropout", "aten::detach", "aten::alias"),
        "quantise": (),
    },
)
