"""ExecuTorch: a .pte file whose every operation XNNPACK runs. Metadata lie in a JSON file beside it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import UserError
from export.formats.base import Format, Opened, cannot_write, quiet, read_beside, versions_of, write_beside

if TYPE_CHECKING:
    import numpy as np
    from torch.export import ExportedProgram

    from export.program import Program

OUTSIDE = ("executorch_call_delegate", "getitem", "executorch.delegate")
"""What a graph may hold beside the parts that XNNPACK runs: the calls of these parts, and reading their results."""


def write(program: Program, path: Path) -> None:
    """Writes a program as a .pte file, with its metadata beside it. Raises UserError if XNNPACK cannot run an
    operation."""
    name = program.metadata["network"]
    try:
        with quiet("executorch", "torch"):
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            edge = to_edge_transform_and_lower(program.graph, partitioner=[XnnpackPartitioner()])
            left = undelegated(edge.exported_program())
            if left:
                found = f"XNNPACK cannot run {', '.join(f'{op} ({n} times)' for op, n in left.items())}"
                raise UserError(name, f"cannot be exported to executorch: {found}", remedy="choose other ops")
            path.write_bytes(edge.to_executorch().buffer)
    except (RuntimeError, NotImplementedError, ValueError, AssertionError) as error:
        raise cannot_write("executorch", name, error) from None
    write_beside(path, program.metadata)


def undelegated(graph: ExportedProgram) -> dict[str, int]:
    """Returns the operations of a lowered graph that are not in a part for XNNPACK, with their numbers."""
    calls = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    names = (getattr(target, "__name__", str(target)) for target in calls)
    return dict(Counter(name for name in names if name not in OUTSIDE))


def open_file(path: Path, threads: int = 1) -> Opened:
    """Opens a .pte file in ExecuTorch's runtime."""
    import torch
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
    from executorch.runtime import Runtime

    _unsafe_reset_threadpool(threads)  # by default XNNPACK takes every core
    program = Runtime.get().load_program(path)
    method = program.load_method("forward")
    if method is None:
        raise ValueError("has no method 'forward'")

    def run(images: np.ndarray) -> np.ndarray:
        logits: np.ndarray = method.execute([torch.from_numpy(images)])[0].numpy().copy()
        return logits

    version = versions_of(["executorch"])["executorch"]
    return Opened(f"ExecuTorch {version}", read_beside(path), {}, run)


FORMAT = Format(
    name="executorch",
    title="ExecuTorch",
    suffix=".pte",
    modules=("executorch",),
    write=write,
    open=open_file,
    extra="executorch",
    packages=("executorch", "torchao"),
    any_batch=False,
    pools_keep_dims=True,
)
