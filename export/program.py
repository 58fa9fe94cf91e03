"""Turns a network into one graph of tensor operations, from which every format is written.

The graph is torch.export's. Each BN that follows a convolution is folded into its weights, and dropout is removed, so
that no converter has to do it.
"""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from engine.data import Preprocessing
from engine.errors import UserError
from export.layers import GraphLayers, layers_of
from supernet.network import Network

Layout = Literal["nchw", "nhwc"]
"""The order of an input's dimensions: N batch, C channels, H height, W width."""
DUMMY_BATCH = 2
"""The batch size with which a graph for any batch is traced. The check of a file uses others."""
MOST_IMAGES = 4096
"""The largest batch of a graph for any batch."""
INPUT, OUTPUT = "images", "logits"
"""The names of the input and the output in files whose format has names."""


@dataclass(frozen=True)
class Options:
    """What the user may choose about a file. None is the format's own choice."""

    batch: int | None = None
    """The number of images that the file takes at once; 0: any number."""
    layout: Layout | None = None
    normalise: bool = False
    """Whether the file takes pixels from 0 to 255 and normalises them itself, as its first operation."""


@dataclass(frozen=True)
class Program:
    """A network ready to be written as a file."""

    graph: ExportedProgram
    """(N, C, H, W) or (N, H, W, C) float32 -> logits (N, classes)."""
    example: Tensor
    """An input of the graph."""
    batch: int
    """The number of images that it takes at once; 0: any number."""
    layout: Layout
    metadata: dict[str, Any]
    """What a file has to say about itself; see `metadata_of`."""
    layers: GraphLayers = field(default_factory=GraphLayers)
    """The layers of the network that its operations belong to."""
    network: nn.Module | None = None
    """The network, for a format that is written layer by layer. It must not be changed."""

    @property
    def module(self) -> nn.Module:
        """The graph as a module. It does not check its input's shape."""
        return self.graph.module(check_guards=False)

    @property
    def dynamic_shapes(self) -> tuple[dict[int, Any], ...] | None:
        """The input's dimensions that may change, as torch.export takes them."""
        return dynamic_shapes(self.batch)


class Deployed(nn.Module):
    """A network with the input that a file shall have.

    layout: of the images. preprocessing: if it is given, the images are pixels from 0 to 255, which are normalised
    here.
    """

    def __init__(self, network: nn.Module, layout: Layout, preprocessing: Preprocessing | None):
        super().__init__()
        self.network, self.channels_last, self.normalise = network, layout == "nhwc", preprocessing is not None
        if preprocessing is not None:
            mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
            self.scale = nn.Buffer(1 / (255 * std))
            self.shift = nn.Buffer(mean / std)

    def forward(self, images: Tensor) -> Tensor:
        """images (N, C, H, W), or (N, H, W, C) -> logits (N, classes)."""
        if self.channels_last:
            images = images.permute(0, 3, 1, 2)
        if self.normalise:
            images = images * self.scale - self.shift
        logits: Tensor = self.network(images)
        return logits


def dynamic_shapes(batch: int) -> tuple[dict[int, Any], ...] | None:
    """Returns the dimensions of the input that may change, as torch.export takes them: the first one if `batch` is
    0."""
    return None if batch else ({0: Dim("batch", min=1, max=MOST_IMAGES)},)


def make_program(
    network: nn.Module, name: str, preprocessing: Preprocessing, batch: int, layout: Layout, normalise: bool,
    metadata: dict[str, Any], *, pools_keep_dims: bool = False,
) -> Program:  # fmt: skip
    """Returns the graph of a network, which is not changed.

    name: of the network, for errors. batch: 0 for any number of images. metadata: what the file shall say about itself.
    pools_keep_dims: whether a mean over all pixels gives (N, C, 1, 1), which is then flattened, in place of (N, C):
    some converters know the former alone. Raises UserError if torch.export cannot trace the network, or not for any
    batch.
    """
    network = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    module = Deployed(network, layout, preprocessing if normalise else None).eval()
    size, channels = preprocessing.input_size, preprocessing.channels
    shape = (channels, size, size) if layout == "nchw" else (size, size, channels)
    example = torch.randn(batch or DUMMY_BATCH, *shape)
    try:
        graph = folded(module, example, batch, pools_keep_dims)
    except (torch._dynamo.exc.TorchDynamoException, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        remedy = "use ops that torch.export can trace" + ("" if batch else ", or try --batch 1")
        raise UserError(name, f"cannot be exported: {reason}", remedy=remedy) from None
    layers = layers_of(graph, network.architecture) if isinstance(network, Network) else GraphLayers()
    return Program(graph, example, batch, layout, metadata, layers, network)


def folded(module: nn.Module, example: Tensor, batch: int, pools_keep_dims: bool = False) -> ExportedProgram:
    """Returns the graph of a module in eval mode, each BN after a convolution folded into it, and no dropout."""
    with torch.no_grad():
        shapes = dynamic_shapes(batch)
        traced = torch.export.export(module, (example,), dynamic_shapes=shapes, strict=False)
        graph = traced.module(check_guards=False)
        assert isinstance(graph, fx.GraphModule)
        for node in list(graph.graph.nodes):
            if node.target in (torch.ops.aten.dropout.default, torch.ops.aten.dropout_.default):
                node.replace_all_uses_with(node.args[0])
                graph.graph.erase_node(node)
            elif node.target == torch.ops.aten.batch_norm.default:
                _fold(graph, node)
            elif node.target == torch.ops.aten.mean.dim and pools_keep_dims:
                _keep_dims(graph, node)
            elif node.target in _OUT_OF_PLACE and len(node.args[0].users) == 1:
                node.target = _OUT_OF_PLACE[node.target]
        graph.graph.lint()
        graph.recompile()
        return torch.export.export(graph, (example,), dynamic_shapes=shapes, strict=False)


_OUT_OF_PLACE = {
    torch.ops.aten.hardtanh_.default: torch.ops.aten.hardtanh.default,
    torch.ops.aten.relu_.default: torch.ops.aten.relu.default,
    torch.ops.aten.hardswish_.default: torch.ops.aten.hardswish.default,
}
"""Activations that write over their input, with those that do not: converters take far less time for the latter."""


def _fold(graph: fx.GraphModule, bn: fx.Node) -> None:
    """Folds a BN into the convolution before it, unless something else reads that one's output or weights."""
    conv = bn.args[0]
    if not isinstance(conv, fx.Node) or conv.target != torch.ops.aten.conv2d.default or len(conv.users) != 1:
        return
    weight, *rest = conv.args[1:]
    bias = rest[0] if rest else None
    if not isinstance(weight, fx.Node) or len(weight.users) != 1:
        return
    _, scale, shift, mean, variance, training, _, eps, *_ = bn.args
    if training or not isinstance(eps, float):  # it has no running statistics
        return
    w = _value(graph, weight)
    factor = (_value(graph, variance).double() + eps).rsqrt()  # (C,)
    if scale is not None:
        factor = factor * _value(graph, scale)
    new_bias = -_value(graph, mean) * factor
    if bias is not None:
        new_bias = new_bias + _value(graph, bias) * factor
    if shift is not None:
        new_bias = new_bias + _value(graph, shift)
    new_weight = w.double() * factor.view(-1, 1, 1, 1)
    owner, _, leaf = str(weight.target).rpartition(".")
    parent = graph.get_submodule(owner)
    parent.register_parameter(leaf, nn.Parameter(new_weight.to(w.dtype), requires_grad=False))
    parent.register_parameter("bias", nn.Parameter(new_bias.to(w.dtype), requires_grad=False))
    with graph.graph.inserting_before(conv):
        bias_node = graph.graph.get_attr(f"{owner}.bias")
    conv.args = (conv.args[0], weight, bias_node, *rest[1:])
    bn.replace_all_uses_with(conv)
    graph.graph.erase_node(bn)


def _keep_dims(graph: fx.GraphModule, mean: fx.Node) -> None:
    """Makes a mean over the pixels (N, C, H, W) -> (N, C) one that gives (N, C, 1, 1), and flattens that."""
    image, dims, *keep = mean.args
    assert isinstance(image, fx.Node)
    assert isinstance(dims, list)
    rank = image.meta["val"].dim()
    if rank != 4 or sorted(d % rank for d in dims) != [2, 3] or any(keep):
        return
    with graph.graph.inserting_after(mean):
        flat = graph.graph.call_function(torch.ops.aten.flatten.using_ints, (mean, 1))
    mean.replace_all_uses_with(flat, delete_user_cb=lambda user: user is not flat)
    mean.args = (image, dims, True)


def _value(graph: fx.GraphModule, node: Any) -> Tensor:
    """Returns the parameter or buffer that a node reads."""
    owner, _, leaf = str(node.target).rpartition(".")
    value: Tensor = getattr(graph.get_submodule(owner), leaf)
    return value


def metadata_of(
    network: nn.Module, name: str, preprocessing: Preprocessing, classes: tuple[str, ...], batch: int, layout: Layout,
    normalise: bool,
) -> dict[str, Any]:  # fmt: skip
    """Returns what a file says about itself, as plain values: the network's name and weights, its input and output,
    how an image is prepared, and the names of the classes."""
    size, channels = preprocessing.input_size, preprocessing.channels
    images: int | str = batch or "batch"
    shape = [images, channels, size, size] if layout == "nchw" else [images, size, size, channels]
    return {
        "format": FORMAT,
        "network": name,
        "weights_sha256": weights_sha256(network),
        "input": {
            "name": INPUT,
            "layout": layout,
            "shape": shape,
            "dtype": "float32",
            "values": "pixels from 0 to 255" if normalise else "normalised pixels",
        },
        "output": {"name": OUTPUT, "shape": [images, len(classes)], "dtype": "float32", "values": "logits"},
        "preprocessing": preprocessing.record(),
        "classes": list(classes),
    }


FORMAT = "proxylessnas/exported-network@1"


def weights_sha256(network: nn.Module) -> str:
    """Returns the sha256 of a network's weights, statistics and their names."""
    digest = hashlib.sha256()
    for key, value in network.state_dict().items():
        digest.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
