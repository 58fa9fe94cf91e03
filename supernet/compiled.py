"""Compiles layers with torch.compile, one program for each distinct layer: a supernet's candidates, whose programs are
kept if they are faster, and all layers of a network but its classifier."""

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

from supernet.blocks import Block, Call, MixedEdge
from supernet.network import Network
from supernet.ops import Zero
from supernet.space import Layer
from supernet.supernet import Supernet

FASTER = 0.97
"""The largest ratio of compiled to eager time at which a program is kept. Smaller gains are within a timing's noise."""
WARM_UP, PAIRS = 3, 15
"""The numbers of untimed steps and of timed steps of each kind."""


class CompileError(RuntimeError):
    """torch.compile works for none of the layers here."""


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


class CompiledNetwork:
    """Runs a network's training with compiled layers: images (N, C, H, W) -> logits (N, classes).

    Each distinct layer has one program, as in Megatron's and diffusers' regional compilation, so that repeated blocks
    are compiled once; images of another size get programs of their own. The classifier runs as it is, so that dropout
    draws the same numbers, and so does a layer that torch cannot compile. Weights, statistics and gradients are those
    of the network, which itself stays as it is.
    """

    def __init__(
        self,
        network: Network,
        agree: Callable[[list[str | None]], list[str | None]] = lambda reasons: reasons,
        compiled: Callable[[dict[Layer, str | None]], None] = lambda _: None,
    ):
        """agree: makes the layers that fail the same in several processes, since gradients come in another order from a
        program. compiled: is called after the compilation for a size of images, with the distinct layers and the
        reasons why torch cannot compile them, None for those that run compiled."""
        self.network, self._agree, self._compiled = network, agree, compiled
        self._programs: dict[torch.Size, list[Call]] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """Computes the logits. With images of a new size it compiles first, which takes minutes. Raises CompileError if
        torch can compile no layer."""
        if images.shape not in self._programs:
            self._programs[images.shape] = self._compile(images)
        x = images
        for program, part in zip(self._programs[images.shape], self._parts(self.network), strict=True):
            x = program(part, x)
        logits: Tensor = self.network.classifier(x)
        return logits

    @staticmethod
    def _parts(network: Network) -> list[nn.Module]:
        """Returns the modules before the classifier, in order."""
        return [network.stem, *network.edges, network.feature_mix]

    def _compile(self, images: Tensor) -> list[Call]:
        """Returns the program of each part for images of this size, in the precision that is set at the moment."""
        programs: dict[Layer, Call] = {}
        reasons: dict[Layer, str | None] = {}
        layers, x = self.network.architecture.layers[:-1], images.detach()
        with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):  # own ops may draw numbers
            for i, (layer, part) in enumerate(zip(layers, self._parts(copy.deepcopy(self.network)), strict=True)):
                if layer not in programs:
                    programs[layer] = run_op
                    if not (isinstance(part, Block) and isinstance(part.op, Zero)):
                        program = torch.compile(own_code(f"layer{i}"), fullgraph=True, dynamic=False)
                        reasons[layer] = failure(program, part, x)
                        programs[layer] = program
                with torch.no_grad():
                    x = part(x)
                x.requires_grad_()
        agreed = dict(zip(reasons, self._agree(list(reasons.values())), strict=True))
        if agreed and None not in agreed.values():
            raise CompileError(next(iter(agreed.values())))
        self._compiled(agreed)
        return [run_op if agreed.get(layer) is not None else programs[layer] for layer in layers]


def failure(program: Call, op: nn.Module, x: Tensor) -> str | None:
    """Runs a forward and a backward pass of a program. Returns the reason if torch.compile cannot translate the op."""
    inputs = [*([x] if x.requires_grad else []), *(p for p in op.parameters() if p.requires_grad)]
    try:
        out = program(op, x)
        torch.autograd.grad(out, inputs, torch.ones_like(out))
    except torch._dynamo.exc.TorchDynamoException as error:
        return reason_of(error)
    return None
