"""Candidates through torch.compile: one program for each distinct shape, kept where it is faster."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import FunctionType

import torch
from torch import Tensor, nn

from supernet.blocks import Call, MixedEdge
from supernet.ops import Zero
from supernet.space import Layer
from supernet.supernet import Supernet

FASTER = 0.97
"""Compiled over eager time from which on a program is kept: a gain below the noise of a timing is none."""
WARM_UP, PAIRS = 3, 15
"""Steps of each kind that are not timed, and that are."""


class CompileError(RuntimeError):
    """torch.compile works for no candidate here."""


@dataclass(frozen=True)
class Trial:
    """What compiling brought for one distinct layer."""

    layer: Layer
    ratio: float | None
    """Time of forward and backward, compiled over eager; None where torch.compile cannot do this op."""
    kept: bool


def compile_candidates(
    net: Supernet,
    images: Tensor,
    precision: Callable[[], AbstractContextManager[object]] = nullcontext,
    *,
    faster: float = FASTER,
    agree: Callable[[list[float | None]], list[float | None]] = lambda ratios: ratios,
    progress: Callable[[int, int], None] | None = None,
) -> list[Trial]:
    """Compile every distinct candidate and let `net` run those that gain; again from scratch if called twice.

    images (N, C, H, W): a batch as the search has them; other sizes would be compiled anew. precision: the autocast
    that the search steps in. faster: the ratio up to which a program is kept. Compiled candidates run where a graph is
    kept; without one (gates of candidates that did not run, REINFORCE's samples) they stay eager, which on a CPU folds
    BN. agree: makes the ratios, in the order of the layers, the same in several processes, which have to keep the same
    programs: gradients come in another order from a program. Weights and their gradients are untouched. Raises
    CompileError.
    """
    inputs, places = edge_inputs(net, images, precision), distinct_candidates(net)
    programs = {
        layer: torch.compile(own_code(f"candidate{i}"), fullgraph=True, dynamic=False) for i, layer in enumerate(places)
    }
    found: list[float | str] = []
    for done, (layer, (e, i)) in enumerate(places.items()):
        found.append(compared(programs[layer], copy.deepcopy(mixed_edges(net)[e].ops[i]), inputs[e], precision))
        if progress:
            progress(done + 1, len(places))
    reasons = [reason for reason in found if isinstance(reason, str)]
    if len(reasons) == len(found) > 0:
        raise CompileError(reasons[0])
    ratios = agree([None if isinstance(value, str) else value for value in found])
    kept = [ratio is not None and ratio <= faster for ratio in ratios]
    trials = [Trial(*values) for values in zip(places, ratios, kept, strict=True)]
    chosen = {trial.layer: programs[trial.layer] for trial in trials if trial.kept}
    for edge, mixed in zip(net.space.edges, mixed_edges(net), strict=True):
        mixed.compiled = {i: chosen[layer] for i, layer in enumerate(edge.layers) if layer in chosen}
    return trials


def mixed_edges(net: Supernet) -> list[MixedEdge]:
    return [edge for edge in net.edges if isinstance(edge, MixedEdge)]


def distinct_candidates(net: Supernet) -> dict[Layer, tuple[int, int]]:
    """Every candidate layer that computes something, with the first (edge, candidate) that has it."""
    found: dict[Layer, tuple[int, int]] = {}
    for e, (edge, mixed) in enumerate(zip(net.space.edges, mixed_edges(net), strict=True)):
        for i, layer in enumerate(edge.layers):
            if not isinstance(mixed.ops[i], Zero):
                found.setdefault(layer, (e, i))
    return found


def edge_inputs(
    net: Supernet, images: Tensor, precision: Callable[[], AbstractContextManager[object]]
) -> Sequence[Tensor]:
    """What each edge gets, in the layout and precision that it gets it in, as a leaf that wants a gradient."""
    inputs = []
    with torch.no_grad(), precision():  # without a graph nothing compiled runs
        x = net.stem(images)
        for edge in net.edges:
            inputs.append(x)
            x = edge(x, 0)
    return [x.detach().requires_grad_() for x in inputs]


def run_op(op: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = op(x)
    return out


def own_code(name: str) -> Call:
    """`run_op` with a code object of its own: torch keeps its programs by code object, would search all of them at each
    call, and gives up after eight. The module is an argument, so that layers of equal shape share a program."""
    return FunctionType(run_op.__code__.replace(co_name=name), run_op.__globals__)


def reason_of(error: torch._dynamo.exc.TorchDynamoException) -> str:
    """Why torch.compile has failed, in a line."""
    cause = error.inner_exception if isinstance(error, torch._dynamo.exc.BackendCompilerFailed) else error
    return str(cause).strip().partition("\n")[0]


def compared(
    program: Call, op: nn.Module, x: Tensor, precision: Callable[[], AbstractContextManager[object]]
) -> float | str:
    """Median ratio of `program` to eager, forward and backward; the reason where torch.compile cannot do it."""
    weights = [p for p in op.parameters() if p.requires_grad]

    def seconds(call: Call) -> float:
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        start = time.perf_counter()
        with precision():
            out = call(op, x)
        torch.autograd.grad(out, [x, *weights], torch.ones_like(out))
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        return time.perf_counter() - start

    try:
        for _ in range(WARM_UP):
            seconds(program), seconds(run_op)
    except torch._dynamo.exc.TorchDynamoException as error:
        return reason_of(error)
    return statistics.median(seconds(program) / seconds(run_op) for _ in range(PAIRS))
