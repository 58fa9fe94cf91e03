"""Builds the Keras model of a network: the same layers, and the same weights in TensorFlow's layouts.

The modules of a network are converted one by one, so whatever is made of modules in `CONVERSIONS` can be built, be it
an op of the catalogue, an explicit layer, a tree, or a candidate of the user's own. Only layers that Keras itself
defines are used, so the model can be trained, saved and converted without this project.

N batch, C channels, H W height and width. PyTorch's maps are (N, C, H, W), TensorFlow's (N, H, W, C).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from engine.errors import ConfigError, InvalidError, UserError
from proxyless_nas_tensorflow import libraries
from supernet import explicit, ops, tree
from supernet.blocks import Block
from supernet.design import Design
from supernet.network import Network

_COUNT = "num_batches_tracked"
"""BN's count of batches, on which no output depends; Keras has none."""


def keras_model(network: nn.Module | Design, *, input_size: int | None = None) -> Any:
    """Returns a network as a keras.Model: images (N, S, S, C) float32, normalised, -> logits (N, classes).

    network: a Network, whose weights and BN statistics are copied; a design gets the fresh weights that its Network
    has. input_size: S; None takes the network's own. A layer's name is the path of its module, such as
    `edges.3.op.expand.conv`. Outputs of `model(images, training=False)` differ from the network's by rounding alone. In
    training Keras estimates BN's variances without Bessel's correction. Raises UserError if TensorFlow is not
    installed, if an op cannot be built, which it names, or if it is no such network.
    """
    keras = libraries.keras()
    if isinstance(network, Design):
        network = Network(network)
    if not isinstance(network, Network):
        raise ConfigError("network", f"is of class {type(network).__qualname__}", "a Network, or what describes one")
    design = network.architecture
    size = design.input_size if input_size is None else input_size
    graph = Graph(keras)
    x = images = keras.Input((size, size, design.input_channels), name="images")
    for (place, layer), (path, module) in zip(design.places, _modules_of(network), strict=True):
        try:
            x = graph.run(path, module, x)
        except InvalidError as error:
            raise UserError.of(error, f"{design.name}: {place}: '{layer.spec}'") from None
    model = keras.Model(images, x, name=_keras_name(design.name))
    try:
        graph.copy_weights(network, model)
    except InvalidError as error:
        raise UserError.of(error, design.name) from None
    return model


def _modules_of(network: Network) -> Iterator[tuple[str, nn.Module]]:
    """Yields the module of each place of a design with its path, in the order in which they run."""
    yield "stem", network.stem
    yield from ((f"edges.{i}", edge) for i, edge in enumerate(network.edges))
    yield "feature_mix", network.feature_mix
    yield "classifier", network.classifier


def _keras_name(name: str) -> str:
    """Returns a name that Keras accepts for a model."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-.") else "_" for c in name) or "unnamed"


@dataclass
class Graph:
    """The layers that have been built so far, and where each of their weights comes from."""

    keras: Any
    sources: list[tuple[Any, str, Callable[[Tensor], Tensor]]] = field(default_factory=list)
    """(Keras variable, name in the network's state dict, conversion of the layout)."""

    def run(self, path: str, module: nn.Module, x: Any) -> Any:
        """Returns the output of a module with input x, both Keras tensors (N, H, W, C). Raises InvalidError if the
        module, or one in it, cannot be built."""
        convert = CONVERSIONS.get(type(module))
        if convert is None:
            found = f"has a module of class {type(module).__qualname__}, which no layer of TensorFlow stands for"
            known = "modules of supernet.ops and torch.nn"
            remedy = "describe it by those, or enter its conversion into proxyless_nas_tensorflow.builder.CONVERSIONS"
            raise InvalidError("", found, known, remedy)
        return convert(self, path, module, x)

    def named(self, path: str, parent: nn.Module, names: str, x: Any) -> Any:
        """Runs the attributes `names`, separated by blanks, of a module one after the other."""
        for name in names.split():
            x = self.run(f"{path}.{name}", getattr(parent, name), x)
        return x

    def layer(self, kind: str, path: str, x: Any, **options: Any) -> Any:
        """Returns the output of a new Keras layer without weights, named `path`."""
        return getattr(self.keras.layers, kind)(name=path, **options)(x)

    def copy_weights(self, network: nn.Module, model: Any) -> None:
        """Copies the weights of the network: each array of its state dict into one variable of the model, and each
        variable of the model from one array. A grouped convolution's array is the only one that has several variables,
        each a slice. Raises InvalidError if an array or a variable is left over."""
        state = network.state_dict()
        unused = [name for name in state if not name.endswith(_COUNT)]
        filled = set[str]()
        for variable, name, convert in self.sources:
            value = convert(state[name].detach().cpu()).contiguous().numpy()
            assert tuple(variable.shape) == value.shape, (variable.path, variable.shape, value.shape)
            assert variable.path not in filled, variable.path
            variable.assign(value)
            filled.add(variable.path)
        taken = {name for _, name, _ in self.sources}
        if left := [name for name in unused if name not in taken]:
            raise InvalidError("", f"the weight {left[0]} belongs to no layer", "modules that use all their weights")
        assert filled == {v.path for layer in model.layers for v in layer.weights if "seed_generator" not in v.path}


def _sequential(graph: Graph, path: str, module: Any, x: Any) -> Any:
    for name, child in module.named_children():
        x = graph.run(f"{path}.{name}", child, x)
    return x


def _identity(graph: Graph, path: str, module: Any, x: Any) -> Any:
    return x


def _activation(name: str) -> Callable[[Graph, str, Any, Any], Any]:
    return lambda graph, path, module, x: graph.layer("Activation", path, x, activation=name)


def _conv(graph: Graph, path: str, conv: nn.Conv2d, x: Any) -> Any:
    """A convolution. PyTorch pads symmetrically, which TensorFlow's SAME does at stride 1 alone, so the zeros are a
    layer of their own at other strides."""
    if conv.padding_mode != "zeros":
        raise InvalidError("", f"pads with '{conv.padding_mode}'", "zeros")
    stride, dilation = conv.stride, conv.dilation
    reach = tuple(d * (k - 1) for d, k in zip(dilation, conv.kernel_size, strict=True))
    if isinstance(conv, ops.SamePaddedConv2d):
        if any(conv.padding) or set(dilation) != {1}:
            raise InvalidError("", f"has padding {conv.padding} and dilation {dilation}", "0 and 1 with padding SAME")
        padding = "same"
    elif conv.padding == "same" or (set(stride) == {1} and reach == tuple(2 * int(p) for p in conv.padding)):
        padding = "same"
    else:
        padding = "valid"
        x = _zeros(graph, path, (0, 0) if isinstance(conv.padding, str) else conv.padding, x)
    depthwise = conv.groups == conv.in_channels > 1
    apart = stride != (1, 1) and (dilation != (1, 1) or (depthwise and stride[0] != stride[1]))  # TensorFlow cannot
    options = {
        "kernel_size": conv.kernel_size,
        "strides": (1, 1) if apart else stride,
        "dilation_rate": dilation,
        "padding": padding,
        "use_bias": conv.bias is not None,
    }
    x = (_depthwise if depthwise else _grouped)(graph, path, conv, options, x)
    return _every(graph, path, stride, x) if apart else x


def _zeros(graph: Graph, path: str, padding: tuple[int, ...], x: Any) -> Any:
    """Adds (rows, columns) of zeros on each side."""
    return graph.layer("ZeroPadding2D", f"{path}.zeros", x, padding=padding) if any(padding) else x


def _every(graph: Graph, path: str, stride: tuple[int, ...], x: Any) -> Any:
    """Keeps the first pixel of every `stride` rows and columns."""
    return graph.layer("MaxPooling2D", f"{path}.every", x, pool_size=1, strides=stride)


def _depthwise(graph: Graph, path: str, conv: nn.Conv2d, options: dict[str, Any], x: Any) -> Any:
    c, multiplier = conv.in_channels, conv.out_channels // conv.in_channels
    layer = graph.keras.layers.DepthwiseConv2D(
        depth_multiplier=multiplier, depthwise_initializer="zeros", name=path, **options
    )
    out = layer(x)
    layout = (c, multiplier, *conv.kernel_size)  # C * m, 1, kH, kW -> kH, kW, C, m
    graph.sources.append((layer.kernel, f"{path}.weight", lambda w: w.view(layout).permute(2, 3, 0, 1)))
    if conv.bias is not None:
        graph.sources.append((layer.bias, f"{path}.bias", _same))
    return out


def _grouped(graph: Graph, path: str, conv: nn.Conv2d, options: dict[str, Any], x: Any) -> Any:
    """A convolution in groups of channels, as one convolution each: TensorFlow's own runs on few devices."""
    groups, width = conv.groups, conv.out_channels // conv.groups
    outputs = []
    for i, part in enumerate([x] if groups == 1 else graph.keras.ops.split(x, groups, axis=-1)):
        layer = graph.keras.layers.Conv2D(
            width, kernel_initializer="zeros", name=path if groups == 1 else f"{path}.group{i}", **options
        )
        outputs.append(layer(part))
        own = partial(_part, begin=i * width, end=(i + 1) * width)
        graph.sources.append((layer.kernel, f"{path}.weight", partial(_kernel, part=own)))
        if conv.bias is not None:
            graph.sources.append((layer.bias, f"{path}.bias", own))
    return outputs[0] if groups == 1 else graph.layer("Concatenate", f"{path}.groups", outputs)


def _part(value: Tensor, *, begin: int, end: int) -> Tensor:
    return value[begin:end]


def _kernel(value: Tensor, *, part: Callable[[Tensor], Tensor]) -> Tensor:
    return part(value).permute(2, 3, 1, 0)  # O, I, kH, kW -> kH, kW, I, O


def _same(value: Tensor) -> Tensor:
    return value


def _bn(graph: Graph, path: str, bn: nn.BatchNorm2d, x: Any) -> Any:
    if bn.running_mean is None or bn.momentum is None:
        raise InvalidError("", "has a BatchNorm2d without running statistics or momentum", "one with both")
    layer = graph.keras.layers.BatchNormalization(
        momentum=1 - bn.momentum, epsilon=bn.eps, center=bn.affine, scale=bn.affine, name=path
    )
    out = layer(x)
    names = {"weight": "gamma", "bias": "beta"} if bn.affine else {}
    for theirs, own in (names | {"running_mean": "moving_mean", "running_var": "moving_variance"}).items():
        graph.sources.append((getattr(layer, own), f"{path}.{theirs}", _same))
    return out


def _linear(graph: Graph, path: str, linear: nn.Linear, x: Any) -> Any:
    layer = graph.keras.layers.Dense(
        linear.out_features, use_bias=linear.bias is not None, kernel_initializer="zeros", name=path
    )
    out = layer(x)
    graph.sources.append((layer.kernel, f"{path}.weight", lambda w: w.T))
    if linear.bias is not None:
        graph.sources.append((layer.bias, f"{path}.bias", _same))
    return out


def _flatten(graph: Graph, path: str, flatten: nn.Flatten, x: Any) -> Any:
    if (flatten.start_dim, flatten.end_dim) != (1, -1):
        raise InvalidError("", f"has {flatten}", "one that flattens all but the batch")
    if x.shape[1:-1] not in ((), (1, 1)):
        x = graph.layer("Permute", f"{path}.order", x, dims=(3, 1, 2))  # the order of PyTorch's maps
    return graph.layer("Flatten", path, x)


def _dropout(graph: Graph, path: str, dropout: nn.Dropout, x: Any) -> Any:
    return graph.layer("Dropout", path, x, rate=dropout.p) if dropout.p else x


def _dropout2d(graph: Graph, path: str, dropout: nn.Dropout2d, x: Any) -> Any:
    return graph.layer("SpatialDropout2D", path, x, rate=dropout.p) if dropout.p else x


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _pool(graph: Graph, path: str, pool: nn.AvgPool2d | nn.MaxPool2d, x: Any) -> Any:
    """An average or a maximum over windows. If padding does not count, a padded pool with a stride is the same pool
    with stride 1, which pads as TensorFlow's SAME does, and then every stride-th pixel."""
    average = isinstance(pool, nn.AvgPool2d)
    kind = "AveragePooling2D" if average else "MaxPooling2D"
    kernel, stride, padding = _pair(pool.kernel_size), _pair(pool.stride), _pair(pool.padding)
    if pool.ceil_mode or (pool.divisor_override if isinstance(pool, nn.AvgPool2d) else _pair(pool.dilation) != (1, 1)):
        raise InvalidError("", f"has {pool}", "a pool without ceil_mode, divisor_override and dilation")
    counts = isinstance(pool, nn.AvgPool2d) and pool.count_include_pad
    if padding == (0, 0) or counts:
        x = _zeros(graph, path, padding, x)
        return graph.layer(kind, path, x, pool_size=kernel, strides=stride, padding="valid")
    if kernel != tuple(2 * p + 1 for p in padding):
        raise InvalidError("", f"has {pool}", "a pool whose padding is 0 or half of an odd kernel")
    x = graph.layer(kind, path, x, pool_size=kernel, strides=1, padding="same")
    return x if stride == (1, 1) else _every(graph, path, stride, x)


def _adaptive_pool(graph: Graph, path: str, pool: nn.AdaptiveAvgPool2d, x: Any) -> Any:
    out = _pair(pool.output_size)  # type: ignore[arg-type]
    if out == (1, 1):
        return graph.layer("GlobalAveragePooling2D", path, x, keepdims=True)
    size = tuple(x.shape[1:3])
    if None in out or any(s % o for s, o in zip(size, out, strict=True)):
        raise InvalidError("", f"has {pool} on {size[0]} x {size[1]} pixels", "an output that divides them")
    return graph.layer(
        "AveragePooling2D", path, x, pool_size=tuple(s // o for s, o in zip(size, out, strict=True)), padding="valid"
    )


def _mbconv(graph: Graph, path: str, op: ops.MBConv, x: Any) -> Any:
    return graph.named(path, op, "expand depthwise excite project", x)


def _sepconv(graph: Graph, path: str, op: ops.SepConv, x: Any) -> Any:
    return graph.named(path, op, "depthwise project", x)


def _excite(graph: Graph, path: str, excite: ops.SqueezeExcite, x: Any) -> Any:
    gate = graph.named(path, excite, "pool reduce relu expand gate", x)
    return graph.layer("Multiply", f"{path}.scale", [x, gate])


def _block(graph: Graph, path: str, block: Block, x: Any) -> Any:
    if isinstance(block.op, ops.Zero):
        return x
    out = graph.run(f"{path}.op", block.op, x)
    return graph.layer("Add", f"{path}.add", [x, out]) if block.residual else out


def _pool_classifier(graph: Graph, path: str, head: ops.PoolClassifier, x: Any) -> Any:
    x = graph.layer("GlobalAveragePooling2D", f"{path}.pool", x)
    return graph.named(path, head, "dropout linear", x)


def _head(graph: Graph, path: str, head: explicit.Head, x: Any) -> Any:
    x = graph.layer("GlobalAveragePooling2D", f"{path}.pool", x, keepdims=True)
    x = graph.named(path, head, "mix act", x)
    return graph.named(path, head, "dropout linear", graph.layer("Flatten", f"{path}.flatten", x))


def _unit(graph: Graph, path: str, unit: tree.Unit, x: Any) -> Any:
    config = unit.config
    weights = {"conv": "conv", "depthwise": "depth_conv point_conv", "pool": "pool", "identity": ""}[config.kind]
    for step in config.order.split("_"):
        if step == "weight":
            x = graph.named(path, unit, f"dropout {weights}", x)
            if config.shuffle and config.groups > 1:
                x = _shuffled(graph, f"{path}.shuffle", config.groups, x)
        elif step == "act":
            x = graph.named(path, unit, "act", x)
        elif config.bn:
            x = graph.named(path, unit, "bn", x)
    return x


def _shuffled(graph: Graph, path: str, groups: int, x: Any) -> Any:
    """Interleaves the channels of groups (`supernet.tree.shuffled`)."""
    _, h, w, c = x.shape
    x = graph.layer("Reshape", f"{path}.split", x, target_shape=(h, w, groups, c // groups))
    x = graph.layer("Permute", f"{path}.swap", x, dims=(1, 2, 4, 3))
    return graph.layer("Reshape", f"{path}.join", x, target_shape=(h, w, c))


def _node(graph: Graph, path: str, node: tree.Node, x: Any) -> Any:
    config, parts = node.config, [x] * len(node.inputs)
    if config.split == "split" and len(parts) > 1:
        ends = [sum(node.inputs[: i + 1]) for i in range(len(node.inputs) - 1)]
        parts = graph.keras.ops.split(x, ends, axis=-1)
    outputs = [_branch(graph, path, node, str(i), part) for i, part in enumerate(parts)]
    if len(outputs) == 1:
        return outputs[0]
    if config.merge == "concat":
        return graph.layer("Concatenate", f"{path}.merge", outputs)
    return graph.layer("Add", f"{path}.merge", outputs[::-1])


def _branch(graph: Graph, path: str, node: tree.Node, i: str, x: Any) -> Any:
    e = graph.run(f"{path}.edges.{i}", node.edges[i], x) if i in node.edges else x
    out = graph.run(f"{path}.child_nodes.{i}", node.child_nodes[i], e) if i in node.child_nodes else e
    if i not in node.branch_bns:
        return out
    out = graph.run(f"{path}.branch_bns.{i}", node.branch_bns[i], out)
    return graph.layer("Add", f"{path}.branch{i}", [out, e])


def _transition(graph: Graph, path: str, transition: tree.Transition, x: Any) -> Any:
    return _sequential(graph, f"{path}.layers", transition.layers, x)


def _tree(graph: Graph, path: str, block: tree.TreeBlock, x: Any) -> Any:
    beside = graph.run(f"{path}.shortcut", block.shortcut, x)
    parts = ("in_bottle", "cell", "out_bottle", "final_bn")
    x = graph.named(path, block, " ".join(name for name in parts if getattr(block, name) is not None), x)
    if missing := x.shape[-1] - beside.shape[-1]:
        beside = graph.keras.ops.pad(beside, [[0, 0], [0, 0], [0, 0], [0, missing]])
    return graph.layer("Add", f"{path}.add", [beside, x])


CONVERSIONS: dict[type[nn.Module], Callable[[Graph, str, Any, Any], Any]] = {
    nn.Sequential: _sequential,
    nn.Identity: _identity,
    nn.Conv2d: _conv,
    nn.BatchNorm2d: _bn,
    nn.Linear: _linear,
    nn.Flatten: _flatten,
    nn.Dropout: _dropout,
    nn.Dropout2d: _dropout2d,
    nn.AvgPool2d: _pool,
    nn.MaxPool2d: _pool,
    nn.AdaptiveAvgPool2d: _adaptive_pool,
    nn.ReLU: _activation("relu"),
    nn.ReLU6: _activation("relu6"),
    nn.Hardswish: _activation("hard_swish"),
    nn.Hardsigmoid: _activation("hard_sigmoid"),
    nn.Sigmoid: _activation("sigmoid"),
    nn.SiLU: _activation("silu"),
    ops.ConvBN: _sequential,
    ops.ConvBNAct: _sequential,
    ops.SamePaddedConv2d: _conv,
    ops.SqueezeExcite: _excite,
    ops.MBConv: _mbconv,
    ops.SepConv: _sepconv,
    ops.PoolClassifier: _pool_classifier,
    explicit.Conv: _sequential,
    explicit.Head: _head,
    tree.Unit: _unit,
    tree.Node: _node,
    tree.Transition: _transition,
    tree.TreeBlock: _tree,
    Block: _block,
}
"""How the modules of each class, subclasses excluded, become Keras layers. A module of another class is refused."""
