"""Simulates in PyTorch what a network loses in 8 bits, independently of every runtime's quantiser.

Weights get 255 codes for each output channel, symmetric around 0, or 129 if they have 7 bits; the output of each
operation gets 256 codes for a whole map, whose range is that of the calibration images. Numbers are rounded to codes
and computed with in float32. The result says how far an int8 file may be from float32, and which layers cost most.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from engine.data import Preprocessing
from engine.progress import Report, silent
from export.formats.base import LARGEST_CODE, WEIGHT_BITS
from export.program import Program, make_program
from latency.runtimes.int8_models import is_depthwise

SENSITIVITY_IMAGES = 8
"""The calibration images on which each layer is tried alone."""
_AT_ONCE = 16
ATEN = torch.ops.aten
LAYERS = (ATEN.conv2d.default, ATEN.convolution.default, ATEN.linear.default)
"""The operations with weights."""
CLIPS = (ATEN.hardtanh.default, ATEN.relu.default, ATEN.relu6.default, ATEN.clamp.default, ATEN.hardtanh_.default)
"""The operations that become the ends of the range of the layer before them."""
VIEWS = (ATEN.flatten.using_ints, ATEN.view.default, ATEN.reshape.default, ATEN.permute.default, operator.getitem)
"""The operations that change no number."""
PREFIX = "network."
"""The beginning of a parameter's name in a graph; see `Deployed`."""


@dataclass(frozen=True)
class Cost:
    """What one layer costs if it alone is in 8 bits."""

    layer: str
    rms_diff: float
    """The root of the mean squared difference of a logit from float32's."""


class Simulation:
    """A network in 8 bits; if `weight_bits` is 7, the weights of all but depthwise convolutions in 7.

    network: it is not changed. pixels: the calibration images, (N, colours, S, S) uint8.
    """

    def __init__(
        self, network: nn.Module, preprocessing: Preprocessing, pixels: Tensor, weight_bits: int = WEIGHT_BITS
    ):
        program = make_program(network, "network", preprocessing, 0, "nchw", False, {})
        module = program.module
        assert isinstance(module, fx.GraphModule)
        self._module, self._preprocessing, self._pixels = module, preprocessing, pixels
        self._weight_bits = weight_bits
        self._layers = {layer_of(node): node for node in module.graph.nodes if node.target in LAYERS}
        self._points = {node for node in module.graph.nodes if _is_point(node)}
        self._ranges = self._observed()

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers, in the order of the graph."""
        return tuple(self._layers)

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """The smallest and the largest output of each layer, after its clip, on the calibration images, 0 included."""
        return {name: self._ranges[_output_point(node)] for name, node in self._layers.items()}

    def logits(self, images: Tensor, kept: Collection[str] = ()) -> Tensor:
        """Returns the logits (N, classes) of normalised images, all layers but the kept ones in 8 bits."""
        return self._run(images, set(self._layers) - set(kept), self._points)

    def costs(self, report: Report = silent) -> list[Cost]:
        """Returns what each layer costs alone, its weights and its output in 8 bits, the costliest first."""
        images = self._preprocessing.normalised(self._pixels[:SENSITIVITY_IMAGES])
        values: dict[fx.Node, Any] = {}
        exact = self._run(images, set(), set(), keep=values)
        order = list(values)
        found = []
        for done, (name, node) in enumerate(self._layers.items()):
            report("try layers in int8", done, len(self._layers))
            known = {earlier: values[earlier] for earlier in order[: order.index(node)]}
            alone = self._run(images, {name}, {_output_point(node)}, known=known)
            found.append(Cost(name, rms(alone - exact)))
        report("try layers in int8", len(self._layers), len(self._layers))
        return sorted(found, key=lambda cost: -cost.rms_diff)

    def _run(
        self,
        images: Tensor,
        layers: set[str],
        points: set[fx.Node],
        *,
        known: dict[fx.Node, Any] | None = None,
        keep: dict[fx.Node, Any] | None = None,
    ) -> Tensor:
        """Returns the logits with these layers' weights, and the outputs of these nodes, in codes.

        known: the values of the first nodes, if they are. keep: gets the value of each node. Both are for images that
        are run at once.
        """
        assert (known is None and keep is None) or len(images) <= _AT_ONCE
        nodes = {self._layers[name] for name in layers}

        def change(node: fx.Node, value: Tensor) -> Tensor:
            value = in_codes(value, *self._ranges[node]) if node in points else value
            if keep is not None:
                keep[node] = value
            return value

        interpreter = _Interpreter(self._module, change, nodes, self._weight_bits)
        with torch.inference_mode():
            return torch.cat([interpreter.run(part, initial_env=known) for part in images.split(_AT_ONCE)])

    def _observed(self) -> dict[fx.Node, tuple[float, float]]:
        """Returns the smallest and the largest number of each node's output on the calibration images."""
        ranges: dict[fx.Node, tuple[float, float]] = {}

        def observe(node: fx.Node, value: Tensor) -> Tensor:
            if node in self._points:
                low, high = (float(end) for end in value.aminmax())
                before = ranges.get(node, (0.0, 0.0))  # 0 has a code
                ranges[node] = min(low, before[0]), max(high, before[1])
            return value

        interpreter = _Interpreter(self._module, observe, set())
        with torch.inference_mode():
            for part in self._pixels.split(_AT_ONCE):
                interpreter.run(self._preprocessing.normalised(part))
        return ranges


class _Interpreter(fx.Interpreter):
    """Runs a graph; `change` gets each output, and the weights of `layers` are in codes of so many bits."""

    def __init__(
        self, module: fx.GraphModule, change: Callable[[fx.Node, Tensor], Tensor], layers: set[fx.Node],
        weight_bits: int = WEIGHT_BITS,
    ):  # fmt: skip
        super().__init__(module)
        self._change = change
        self._weights: Mapping[fx.Node, Tensor] = {
            node: _weights_of(module.get_parameter(str(weight_of(node).target)), node, weight_bits) for node in layers
        }

    def run_node(self, n: fx.Node) -> Any:
        if n in self._weights:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            args = (args[0], self._weights[n], *args[2:])
            value = self.call_function(n.target, args, kwargs)
        else:
            value = super().run_node(n)
        return self._change(n, value) if isinstance(value, Tensor) and n.op != "output" else value


def weight_of(node: fx.Node) -> fx.Node:
    """Returns the node that reads a layer's weights."""
    weight = node.args[1]
    assert isinstance(weight, fx.Node)
    return weight


def layers_of(program: Program) -> dict[str, fx.Node]:
    """Returns the node of each layer of a program, by the layer's name, in the order of the graph.

    Their weights are in `program.graph.state_dict`, named PREFIX, the layer's name and `.weight`.
    """
    module = program.module
    assert isinstance(module, fx.GraphModule)
    return {layer_of(node): node for node in module.graph.nodes if node.target in LAYERS}


def layer_of(node: fx.Node) -> str:
    """Returns the name of the layer of a node in LAYERS, such as stem.conv."""
    return str(weight_of(node).target).removeprefix(PREFIX).removesuffix(".weight")


def in_codes(values: Tensor, low: float, high: float) -> Tensor:
    """Returns numbers rounded to 256 codes for the range from low <= 0 to high >= 0, one of which is 0."""
    scale = (high - low) / 255 or 1.0
    zero = round(-low / scale)
    return ((values / scale).round() + zero).clamp(0, 255).sub(zero).mul(scale)


def weights_in_codes(weights: Tensor, bits: int = WEIGHT_BITS) -> Tensor:
    """Returns weights (C_out, ...) rounded to the codes of so many bits for each output channel."""
    scales = weights.abs().flatten(1).amax(dim=1).div(LARGEST_CODE[bits]).view(-1, *[1] * (weights.dim() - 1))
    scales = scales.where(scales > 0, 1.0)
    return (weights / scales).round() * scales


def _weights_of(weights: Tensor, node: fx.Node, bits: int) -> Tensor:
    """Returns a layer's weights rounded to codes: a depthwise convolution's have 8 bits."""
    return weights_in_codes(weights, WEIGHT_BITS if is_depthwise(weights.shape, _groups(node)) else bits)


def _groups(node: fx.Node) -> int:
    """Returns the number of groups of a layer; 1 of a matrix product."""
    places: dict[object, int] = {ATEN.conv2d.default: 6, ATEN.convolution.default: 8}
    place = places.get(node.target, len(node.args))
    groups = node.args[place] if place < len(node.args) else node.kwargs.get("groups", 1)
    assert isinstance(groups, int)
    return groups


def rms(differences: Tensor) -> float:
    """Returns the root of the mean square."""
    return float(differences.double().square().mean().sqrt())


def _is_point(node: fx.Node) -> bool:
    """Returns whether a node's output is stored in codes: it is an image, or computed, and no clip follows."""
    if node.op == "placeholder":
        return True
    if node.op != "call_function" or node.target in VIEWS:
        return False
    return node.target not in LAYERS or not _is_clipped(node)


def _is_clipped(layer: fx.Node) -> bool:
    """Returns whether a layer's output goes to a clip alone."""
    return len(layer.users) == 1 and next(iter(layer.users)).target in CLIPS


def _output_point(layer: fx.Node) -> fx.Node:
    """Returns the node whose output in codes is the layer's."""
    return next(iter(layer.users)) if _is_clipped(layer) else layer
