"""Compiles candidates with torch.compile: one program for each distinct layer, which is kept if it is faster."""

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
"""The largest ratio of compiled to eager time at which a program is kept. Smaller gains are within a timing's noise."""
WARM_UP, PAIRS = 3, 15
"""The numbers of untimed steps and of timed steps of each kind."""


class CompileError(RuntimeError):
    """torch.compile works for none of the candidates here."""


@dataclass(frozen=True)
class Trial:
    """The result of compiling one distinct layer."""

    layer: Layer
    ratio: float | None
    """Compiled over eager time of a forward and a backward pass; None if torch.compile cannot translate this op."""
    kept: bool
    """Whether the supernet uses the program."""


def compile_candidates(
    net: Supernet,
    images: Tensor,
    precision: Callable[[], AbstractContextManager[object]] = nullcontext,
    *,
    faster: float = FASTER,
    agree: Callable[[list[float | None]], list[float | None]] = lambda ratios: ratios,
    progress: Callable[[int, int], None] | None = None,
) -> list[Trial]:
    """Compiles every distinct candidate, makes `net` use the programs that are faster, and returns the trials.

    images (N, C, H, W): a batch of the search's size; other sizes would be compiled anew. precision: the autocast of
    the search's steps. faster: the ratio up to which a program is kept. agree: makes the ratios, in the order of the
    layers, the same in several processes, which have to keep the same programs, since gradients come in another order
    from a program. Programs run if a graph is kept. Without one (gates of candidates that did not run, REINFORCE's
    samples) candidates stay eager, since BN can then be folded on a CPU. Weights and their gradients do not change. A
    second call compiles anew. Raises CompileError.
    """
    inputs, places = edge_inputs(net, images, precision), distinct_candidates(net)
    programs = {
        layer: torch.compile(own_code(f"candidate{i}"), fullgraph=True, dynamic=False) for i, layer in enumerate(places)
    }
    results: list[float | str] = []
    for done, (layer, (e, i)) in enumerate(places.items()):
        results.append(compared(programs[layer], copy.deepcopy(mixed_edges(net)[e].ops[i]), inputs[e], precision))
        if progress:
            progress(done + 1, len(places))
    reasons = [reason for reason in results if isinstance(reason, str)]
    if len(reasons) == len(results) > 0:
        raise CompileError(reasons[0])
    ratios = agree([None if isinstance(value, str) else value for value in results])
    kept = [ratio is not None and ratio <= faster for ratio in ratios]
    trials = [Trial(*values) for values in zip(places, ratios, kept, strict=True)]
    chosen = {trial.layer: programs[trial.layer] for trial in trials if trial.kept}
    for edge, mixed in zip(net.space.edges, mixed_edges(net), strict=True):
        mixed.compiled = {i: chosen[layer] for i, layer in enumerate(edge.layers) if layer in chosen}
    return trials


def mixed_edges(net: Supernet) -> list[MixedEdge]:
    """Returns the supernet's edges with their type."""
    return [edge for edge in net.edges if isinstance(edge, MixedEdge)]


def distinct_candidates(net: Supernet) -> dict[Layer, tuple[int, int]]:
    """Returns every candidate layer that computes something, with the indices of the first edge and candidate that have
    it."""
    places: dict[Layer, tuple[int, int]] = {}
    for e, (edge, mixed) in enumerate(zip(net.space.edges, mixed_edges(net), strict=True)):
        for i, layer in enumerate(edge.layers):
            if not isinstance(mixed.ops[i], Zero):
                places.setdefault(layer, (e, i))
    return places


def edge_inputs(
    net: Supernet, images: Tensor, precision: Callable[[], AbstractContextManager[object]]
) -> Sequence[Tensor]:
    """Returns the input of each edge (N, C, H, W), in the layout and precision of the search's steps, as a leaf that
    requires a gradient."""
    inputs = []
    with torch.no_grad(), precision():  # without a graph nothing compiled runs
        x = net.stem(images)
        for edge in net.edges:
            inputs.append(x)
            x = edge(x, 0)
    return [x.detach().requires_grad_() for x in inputs]


def run_op(op: nn.Module, x: Tensor) -> Tensor:
    """Returns op(x). The module is an argument, so that layers of equal shape share a compiled program."""
    out: Tensor = op(x)
    return out


def own_code(name: str) -> Call:
    """Returns `run_op` with a code object of its own, since torch keeps its programs by code object, searches all of
    them at each call, and gives up after eight."""
    return FunctionType(run_op.__code__.replace(co_name=name), run_op.__globals__)


def reason_of(error: torch._dynamo.exc.TorchDynamoException) -> str:
    """Returns the reason why torch.compile has failed, in one line."""
    cause = error.inner_exception if isinstance(error, torch._dynamo.exc.BackendCompilerFailed) else error
    return str(cause).strip().partition("\n")[0]


def compared(
    program: Call, op: nn.Module, x: Tensor, precision: Callable[[], AbstractContextManager[object]]
) -> float | str:
    """Returns the median ratio of compiled to eager time of a forward and a backward pass, or the reason if
    torch.compile cannot translate the op."""
    weights = [p for p in op.parameters() if p.requires_grad]

    def seconds(call: Call) -> float:
        """Times one forward and backward pass."""
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
