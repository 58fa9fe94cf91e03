"""Converts net.config, the JSON in which ProxylessNAS and once-for-all publish networks, to chains of layers and back.

Three classes of networks are read: ProxylessNASNets, MobileNetV3 (once-for-all) and PyramidTreeNet (the CIFAR-10
network). Reading is strict: every key is known, every number of channels is the one that flows there, and what a chain
cannot represent is refused by its field, such as `blocks.3.shortcut.name`.

A file comes in one of three dialects, which a chain remembers: `proxyless` (the paper's code), `ofa` (once-for-all's
published files: MBInvertedConvLayer with mid_channels, act_func and use_se) and `ofa2` (once-for-all's code today:
ResidualBlock, MBConvLayer). Writing keeps it; a network that the first one cannot express is written in the second.

The normal form (`normal_form`) of a net.config is what is written after reading it. It differs from the file only so:

- keys that a file leaves out are there, with the published classes' defaults; the order of keys is fixed
- a whole number in a list ([24], as once-for-all writes an identity's channels) is the number
- an inverted residual without expansion has expand_ratio 1 and mid_channels null; another one has mid_channels as a
  number and expand_ratio = mid_channels / in_channels, null if that is 1
- a zero block has an identity shortcut and stride 1, and a ZeroLayer as a shortcut is null: they compute the same
- `bn` has momentum and eps; without it, as in the published readers, 0.1 and 1e-3, of a MobileNetV3 0.1 and 1e-5
- a tree network's tree_node_config, cell_drop_rate and cell_drop_scheme are left out; they must be neutral
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from published.records import Record, shown
from supernet.catalogue import make_divisible
from supernet.chain import (
    Chain,
    ChainConfig,
    ClassifierConfig,
    ConvConfig,
    MBConvConfig,
    ZeroConfig,
)
from supernet.design import Design
from supernet.errors import InvalidError
from supernet.json_text import of_validation, parsed
from supernet.space import BNConfig
from supernet.tree import BranchConfig, NodeConfig, TransitionConfig, TreeConfig, UnitConfig, split_channels

PROXYLESS, MOBILENET_V3, TREE = "ProxylessNASNets", "MobileNetV3", "PyramidTreeNet"
Dialect = Literal["proxyless", "ofa", "ofa2"]
ACTIVATIONS = {"relu6": "relu6", "relu": "relu", "h_swish": "hswish", None: "none"}
"""Our name of each activation of a net.config."""
_THEIRS = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
_TREE_BN = {"eps": 1e-5, "momentum": 0.1}  # a tree network's config has none, and torch's defaults hold
_INPUT_SIZES = {PROXYLESS: 224, MOBILENET_V3: 224, TREE: 32}
_ORDERS = ("weight_bn_act", "bn_act_weight", "bn_weight_act", "act_weight_bn", "act_bn_weight", "weight_act_bn")


def is_net_config(record: Any) -> bool:
    """Returns whether a JSON value looks like a net.config rather than like an architecture.json."""
    return isinstance(record, dict) and "format" not in record and "name" in record and "classifier" in record


def read_net_config(text: str, *, name: str = "unnamed", input_size: int | None = None) -> Chain:
    """Returns the network that the text of a net.config describes; see `chain_of`."""
    return chain_of(parsed(text), name=name, input_size=input_size)


def chain_of(config: Mapping[str, Any], *, name: str = "unnamed", input_size: int | None = None) -> Chain:
    """Returns the network that the content of a net.config describes.

    input_size: height and width of its images in pixels, which a net.config does not have; None for 32 of a tree
    network and 224 of the others. Raises InvalidError, which names the field, for what a chain cannot represent.
    """
    record = Record(config, "")
    family = record.word("name", tuple(_INPUT_SIZES))
    size = _INPUT_SIZES[family] if input_size is None else input_size
    try:
        read = _tree_network(record, size) if family == TREE else _mobile_network(record, family, size)
        return Chain(read, name)
    except ValidationError as error:
        raise of_validation(error, "") from None
    except RecursionError:
        raise InvalidError("blocks", "has too many nodes inside each other") from None


def normal_form(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a net.config in its normal form, which the head of this module states. Raises InvalidError."""
    return net_config_of(chain_of(config))


# Reading


def _mobile_network(record: Record, family: str, size: int) -> ChainConfig:
    """Reads a ProxylessNASNets or a MobileNetV3."""
    bn = _bn(record, family)
    dialect: Dialect = "proxyless" if family == PROXYLESS else "ofa"
    stem_record = Record(record.take("first_conv"), "first_conv")
    channels = stem_record.number("in_channels", 1)
    stem = _conv(stem_record, None)
    c = stem.width
    blocks: list[MBConvConfig | ZeroConfig] = []
    values = record.take("blocks")
    if not isinstance(values, list):
        raise InvalidError("blocks", f"got {shown(values)}", "a list")
    for i, value in enumerate(values):
        block, spoken = _block(Record(value, f"blocks.{i}"), c)
        dialect = max(dialect, spoken, key=("proxyless", "ofa", "ofa2").index)
        blocks.append(block)
        c = c if isinstance(block, ZeroConfig) else block.width
    mix_key = "final_expand_layer" if family == MOBILENET_V3 else "feature_mix_layer"
    mix_value = record.take(mix_key, None)
    if mix_value is None and family == MOBILENET_V3:
        raise InvalidError(mix_key, "is missing")
    mix = None if mix_value is None else _conv(Record(mix_value, mix_key), c)
    c = c if mix is None else mix.width
    hidden = hidden_act = None
    if family == MOBILENET_V3:
        last = Record(record.take("feature_mix_layer"), "feature_mix_layer")
        for key, kept in (("kernel_size", 1), ("stride", 1), ("use_bn", False), ("bias", False)):
            last.only(key, kept, default=_CONV_DEFAULTS[key])
        act = last.word("act_func", tuple(key for key in ACTIVATIONS if key), "relu")
        hidden_act = ACTIVATIONS[act]
        last_conv = _conv(last, c, taken=True)
        c = hidden = last_conv.width
    classifier = _linear(Record(record.take("classifier"), "classifier"), c, hidden, hidden_act)
    record.end()
    activation = stem.activation if stem.activation != "none" else "relu6"

    def brief(layer: Any) -> Any:
        """Returns a layer without the activation that is the chain's."""
        own = getattr(layer, "activation", None)
        return layer.model_copy(update={"activation": None}) if own is not None and own == activation else layer

    return ChainConfig.model_validate(
        {
            "input_size": size, "input_channels": channels, "activation": activation, "bn": bn, "dialect": dialect,
            "stem": brief(stem), "blocks": tuple(map(brief, blocks)), "feature_mix": brief(mix),
            "classifier": brief(classifier),
        }
    )  # fmt: skip


def _bn(record: Record, family: str) -> BNConfig:
    """Reads `bn`."""
    value = record.take("bn", None)
    if value is None:
        return BNConfig(eps=1e-5 if family == MOBILENET_V3 else 1e-3, momentum=0.1)
    bn = Record(value, "bn")
    numbers = {}
    for key in ("momentum", "eps"):
        number = bn.take(key)
        if type(number) not in (int, float) or not 0 < number <= 1:
            raise InvalidError(bn.at(key), f"got {shown(number)}", "a number above 0, at most 1")
        numbers[key] = float(number)
    bn.only("ws_eps", None, default=None)
    bn.only("gn_channel_per_group", None, default=None)
    bn.end()
    return BNConfig(**numbers)


Layer = TypeVar("Layer", bound=BaseModel)
_KEYS = {"width": "out_channels", "kernel": "kernel_size", "classes": "out_features"}
"""The published key of each field of a layer that has another name here."""


def _made(kind: type[Layer], record: Record, keys: Mapping[str, str] = MappingProxyType({}), /, **fields: Any) -> Layer:
    """Returns the layer with these fields. Raises InvalidError, which names the key of the record, for a value outside
    what a chain can have. keys: that of each field, if it is not in _KEYS."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else ""
        place = record.at(keys.get(field) or _KEYS.get(field, field))
        bounds = ("less than or equal to ", "greater than or equal to ")
        limit = next((first["msg"].partition(words)[1:] for words in bounds if words in first["msg"]), None)
        if limit is None:
            raise InvalidError.of(of_validation(error, ""), place) from None
        raise InvalidError(place, f"got {shown(fields[field])}", "".join(limit)) from None


_CONV_DEFAULTS: dict[str, Any] = {"kernel_size": 3, "stride": 1, "use_bn": True, "bias": False}


def _conv(record: Record, c_in: int | None, *, taken: bool = False) -> ConvConfig:
    """Reads a ConvLayer. c_in: the channels that flow into it, None if they are read already. taken: whether kernel,
    stride, BN, bias and activation are read already."""
    record.word("name", ("ConvLayer",))
    if c_in is not None:
        record.equal("in_channels", c_in)
    width = record.number("out_channels", 1)
    record.only("dilation", 1, default=1)
    record.only("groups", 1, default=1)
    record.only("has_shuffle", False, default=False)
    record.only("use_se", False, default=False)
    record.only("dropout_rate", 0, 0.0, default=0)
    record.only("ops_order", "weight_bn_act", default="weight_bn_act")
    if taken:
        record.end()
        return _made(ConvConfig, record, op="conv", width=width)
    kernel, stride = record.odd("kernel_size", 3), record.number("stride", 1, 1)
    bn, bias = record.flag("use_bn", True), record.flag("bias", False)
    act: Any = ACTIVATIONS[record.word("act_func", tuple(ACTIVATIONS), "relu")]
    record.end()
    return _made(
        ConvConfig, record, op="conv", width=width, kernel=kernel, stride=stride, activation=act, bn=bn, bias=bias
    )


def _linear(record: Record, c_in: int, hidden: int | None, activation: Any) -> ClassifierConfig:
    """Reads the classifier, a LinearLayer. hidden, activation: of the hidden layer before it."""
    record.word("name", ("LinearLayer",))
    record.equal("in_features", c_in)
    classes = record.number("out_features", 2)
    bias, dropout = record.flag("bias", True), record.rate("dropout_rate")
    record.only("use_bn", False, default=False)
    record.only("act_func", None, default=None)
    record.word("ops_order", _ORDERS, "weight_bn_act")
    record.end()
    return _made(
        ClassifierConfig, record, classes=classes, dropout=dropout, bias=bias, hidden=hidden, activation=activation
    )


def _block(record: Record, c_in: int) -> tuple[MBConvConfig | ZeroConfig, Dialect]:
    """Reads an inverted residual or a zero block, and the dialect that it is written in."""
    dialect: Dialect = "proxyless"
    kind = record.word("name", ("MobileInvertedResidualBlock", "ResidualBlock"), "MobileInvertedResidualBlock")
    key = "conv" if record.has("conv") else "mobile_inverted_conv"
    if kind == "ResidualBlock" or key == "conv":
        dialect = "ofa2"
    value = record.take(key)
    shortcut = record.take("shortcut", None)
    place = record.at("shortcut")
    record.end()
    if value is None or (isinstance(value, dict) and value.get("name") == "ZeroLayer"):
        if value is not None:
            zero = Record(value, record.at(key))
            zero.take("name")
            zero.only("stride", 1, default=1)
            zero.end()
        _shortcut(shortcut, place, c_in)
        return ZeroConfig(op="zero"), "ofa2" if value is None else dialect
    conv = Record(value, record.at(key))
    known = {"mid_channels", "act_func", "use_se", "groups"} & set(value)
    if conv.word("name", ("MBInvertedConvLayer", "MBConvLayer", "ZeroLayer")) == "MBConvLayer":
        dialect = "ofa2"
    elif known and dialect == "proxyless":
        dialect = "ofa"
    conv.equal("in_channels", c_in)
    width = conv.number("out_channels", 1)
    kernel, stride = conv.odd("kernel_size", 3), conv.number("stride", 1, 1)
    expanded_by = "expand_ratio" if value.get("mid_channels") is None else "mid_channels"
    hidden = _hidden(conv, c_in)
    act: Any = ACTIVATIONS[conv.word("act_func", tuple(key for key in ACTIVATIONS if key), "relu6")]
    squeezed = make_divisible((hidden or c_in) // 4) if conv.flag("use_se", False) else None
    conv.only("groups", None, default=None)
    conv.end()
    residual = _shortcut(shortcut, place, c_in)
    if residual and (stride != 1 or width != c_in):
        raise InvalidError(place, f"got an identity at stride {stride} and {c_in} -> {width} channels", "null")
    block = _made(
        MBConvConfig, conv, {"hidden": expanded_by, "squeezed": "use_se"}, op="mbconv", width=width, kernel=kernel,
        stride=stride, hidden=hidden, squeezed=squeezed, activation=act, residual=residual,
    )  # fmt: skip
    return block, dialect


def _hidden(conv: Record, c_in: int) -> int | None:
    """Reads expand_ratio and mid_channels. Returns the channels of the expanding convolution, None if there is none."""
    ratio, mid = conv.take("expand_ratio", 6), conv.take("mid_channels", None)
    if mid is not None and (type(mid) is not int or mid < 1):
        raise InvalidError(conv.at("mid_channels"), f"got {shown(mid)}", "a whole number from 1 on, or null")
    if ratio is None and mid is not None:
        return mid
    if type(ratio) not in (int, float) or not 0 < ratio < math.inf:
        expected = "a number above 0" if mid is None else "a number above 0, or null"
        raise InvalidError(conv.at("expand_ratio"), f"got {shown(ratio)}", expected)
    if ratio == 1:
        if mid not in (None, c_in):
            found = f"got {mid} with expand_ratio 1, which has no expanding convolution"
            raise InvalidError(conv.at("mid_channels"), found, f"{c_in} or null")
        return None
    if mid is None and ratio < 1:
        found = f"got {shown(ratio)} without mid_channels, which the published readers take differently"
        raise InvalidError(conv.at("expand_ratio"), found, "1 or more")
    return round(c_in * ratio) if mid is None else mid


def _shortcut(value: Any, place: str, c_in: int) -> bool:
    """Reads the shortcut of a block. Returns whether it is an identity."""
    if value is None:
        return False
    record = Record(value, place)
    if record.word("name", ("IdentityLayer", "ZeroLayer")) == "ZeroLayer":
        record.only("stride", 1, default=1)
        record.end()
        return False
    record.equal("in_channels", c_in)
    record.equal("out_channels", c_in)
    record.only("use_bn", False, default=False)
    record.only("act_func", None, default=None)
    record.only("dropout_rate", 0, 0.0, default=0)
    record.word("ops_order", _ORDERS, "weight_bn_act")
    record.end()
    return True


def _tree_network(record: Record, size: int) -> ChainConfig:
    """Reads a PyramidTreeNet."""
    record.only("tree_node_config", {}, None, default=None)
    record.only("cell_drop_rate", 0, 0.0, default=0)
    record.word("cell_drop_scheme", ("linear", "constant"), "linear")
    values = record.take("blocks")
    if not isinstance(values, list) or not values:
        raise InvalidError("blocks", f"got {shown(values)}", "a list of one block or more")
    channels = c = _first_channels(values[0])
    start, blocks = size, []
    for i, value in enumerate(values):
        block = _tree_block(Record(value, f"blocks.{i}"), c, size)
        c, size = block.shape(c, size)
        blocks.append(block)
    if size != 1:
        found = f"the last map has {size} x {size} pixels at input size {start}"
        raise InvalidError("classifier.in_features", found, "1 x 1: nothing else can be represented")
    classifier = _linear(Record(record.take("classifier"), "classifier"), c, None, None)
    record.end()
    return ChainConfig.model_validate(
        {
            "input_size": start, "input_channels": channels, "activation": "relu", "bn": BNConfig(**_TREE_BN),
            "stem": blocks[0], "blocks": tuple(blocks[1:]), "feature_mix": None, "classifier": classifier,
        }
    )  # fmt: skip


def _first_channels(block: Any) -> int:
    """Returns the channels that the first layer of a tree network takes."""
    record = Record(block, "blocks.0")
    layers = record.take("layers", None)
    if isinstance(layers, list) and layers:
        return Record(layers[0], "blocks.0.layers.0").number("in_channels", 1)
    return Record(record.take("shortcut"), "blocks.0.shortcut").number("in_channels", 1)


def _tree_block(record: Record, c_in: int, size: int) -> TransitionConfig | TreeConfig:
    if record.word("name", ("TransitionBlock", "ResidualTreeBlock")) == "TransitionBlock":
        layers, units = record.take("layers"), []
        if not isinstance(layers, list) or not layers:
            raise InvalidError(record.at("layers"), f"got {shown(layers)}", "a list of one layer or more")
        for i, value in enumerate(layers):
            unit, c_in, size = _unit(value, f"{record.at('layers')}.{i}", c_in, size)
            units.append(unit)
        record.end()
        return TransitionConfig(op="transition", units=tuple(units))
    record.only("cell_drop_rate", 0, 0.0, default=0)
    shortcut, *_ = _unit(record.take("shortcut"), record.at("shortcut"), c_in, size)
    into, c, now = _unit_or_none(record.take("in_bottle"), record.at("in_bottle"), c_in, size)
    cell, c, now = _node(Record(record.take("cell"), record.at("cell")), c, now)
    out, *_ = _unit_or_none(record.take("out_bottle"), record.at("out_bottle"), c, now)
    block = TreeConfig(
        op="tree", cell=cell, into=into, out=out, shortcut=shortcut, final_bn=record.flag("final_bn", True)
    )
    place = record.at("shortcut")
    record.end()
    try:
        block.shape(c_in, size)
    except InvalidError as error:
        raise InvalidError(place, error.found, error.expected) from None
    return block


def _node(record: Record, c_in: int, size: int) -> tuple[NodeConfig, int, int]:
    """Reads a TreeNode. Returns it with its output's channels and size."""
    record.word("name", ("TreeNode",), "TreeNode")
    record.equal("in_channels", c_in)
    split, merge = (
        record.word("split_type", ("copy", "split", None), "copy"),
        record.word("merge_type", ("add", "concat", None), "add"),
    )
    bn = record.flag("has_branch_bn", False)
    record.only("path_drop_rate", 0, 0.0, default=0)
    edges, children = record.take("edges"), record.take("child_nodes")
    if not isinstance(edges, list) or not isinstance(children, list) or not edges or len(edges) != len(children):
        raise InvalidError(record.at("edges"), "and child_nodes are no lists of equal length, 1 or more")
    parts = split_channels(c_in, len(edges)) if split == "split" else [c_in] * len(edges)
    branches = []
    for i, (edge, child, c) in enumerate(zip(edges, children, parts, strict=True)):
        unit, width, now = _unit_or_none(edge, f"{record.at('edges')}.{i}", c, size)
        below = None if child is None else _node(Record(child, f"{record.at('child_nodes')}.{i}"), width, now)[0]
        branches.append(BranchConfig(edge=unit, child=below))
    node = NodeConfig(branches=tuple(branches), split=split or "none", merge=merge or "none", branch_bn=bn)
    try:
        c_out, size_out = node.shape(c_in, size)
    except InvalidError as error:
        raise InvalidError(record.at("edges"), error.found, error.expected) from None
    record.equal("out_channels", c_out)
    record.end()
    return node, c_out, size_out


def _unit_or_none(value: Any, place: str, c_in: int, size: int) -> tuple[UnitConfig | None, int, int]:
    return (None, c_in, size) if value is None else _unit(value, place, c_in, size)


_KINDS = {"ConvLayer": "conv", "DepthConvLayer": "depthwise", "PoolingLayer": "pool", "IdentityLayer": "identity"}


def _unit(value: Any, place: str, c_in: int, size: int) -> tuple[UnitConfig, int, int]:
    """Reads a layer of a tree network. Returns it with its output's channels and size."""
    record = Record(value, place)
    kind = _KINDS[record.word("name", tuple(_KINDS))]
    weights = kind in ("conv", "depthwise")
    record.equal("in_channels", c_in)
    width = record.number("out_channels", 1)
    bn = record.flag("use_bn", weights)
    acts = {key: ours for key, ours in ACTIVATIONS.items() if key != "h_swish"}
    act = acts[record.word("act_func", tuple(acts), "relu" if weights else None)]
    fields: dict[str, Any] = {"kind": kind, "bn": bn, "activation": act, "dropout": record.rate("dropout_rate")}
    fields["order"] = record.word("ops_order", _ORDERS, "weight_bn_act")
    if kind == "pool":
        fields["pool"] = record.word("pool_type", ("avg", "max"))
    if kind != "identity":
        fields["kernel"] = record.number("kernel_size", 1, 3 if weights else 2)
        fields["stride"] = record.number("stride", 1, 1 if weights else 2)
    if weights:
        fields |= {"width": width, "dilation": record.number("dilation", 1, 1), "groups": record.number("groups", 1, 1)}
        fields |= {"bias": record.flag("bias", False), "shuffle": record.flag("has_shuffle", False)}
    record.end()
    unit = _made(UnitConfig, record, **fields)
    try:
        c_out, size_out = unit.shape(c_in, size)
    except InvalidError as error:
        names = {"kernel": "kernel_size", "width": "out_channels"}
        raise InvalidError(record.at(names.get(error.where, error.where)), error.found, error.expected) from None
    if c_out != width:
        raise InvalidError(record.at("out_channels"), f"got {width}", f"{c_out}, which the layers before it give")
    return unit, c_out, size_out


# Writing


def net_config_of(design: Design) -> dict[str, Any]:
    """Returns the content of the net.config of a network, in its normal form.

    Raises InvalidError, which names the part of the network, for what no published class can express: ops of other
    kinds than mbconv and skip, TensorFlow's padding, or another width of squeeze-excite than once-for-all's.
    """
    chain = Chain.of(design)
    config = chain.config
    if config.padding != "symmetric":
        raise InvalidError("padding", f"got '{config.padding}'", "symmetric: net.config has nothing else")
    if isinstance(config.stem, TransitionConfig | TreeConfig) or any(
        isinstance(block, TransitionConfig | TreeConfig) for block in config.blocks
    ):
        return _written_tree(chain)
    dialect = _dialect(config)
    c, blocks = config.stem.width, []
    for i, block in enumerate(config.blocks):
        if not isinstance(block, MBConvConfig | ZeroConfig):
            raise InvalidError(f"blocks.{i}", f"is '{block.op}'", "mbconv or zero")
        blocks.append(_written_block(block, f"blocks.{i}", c, config, dialect))
        c = c if isinstance(block, ZeroConfig) else block.width
    head, mix = config.classifier, config.feature_mix
    bn = {"momentum": config.bn.momentum, "eps": config.bn.eps}
    record: dict[str, Any] = {
        "name": PROXYLESS if head.hidden is None else MOBILENET_V3,
        "bn": bn | ({"ws_eps": None} if dialect == "ofa2" else {}),
        "first_conv": _written_conv(config.stem, config.input_channels, config, dialect),
    }
    written = None if mix is None else _written_conv(mix, c, config, dialect)
    c = c if mix is None else mix.width
    if head.hidden is None:
        record["feature_mix_layer"] = written
    elif written is None:
        raise InvalidError("feature_mix", "is null before a hidden layer", "a convolution: MobileNetV3 has one")
    else:
        record["final_expand_layer"] = written
        hidden = ConvConfig(op="conv", width=head.hidden, kernel=1, activation=head.activation, bn=False)
        record["feature_mix_layer"] = _written_conv(hidden, c, config, dialect)
        c = head.hidden
    record["classifier"] = _written_linear(head, c, "weight_bn_act")
    record["blocks"] = blocks
    return record


def _dialect(config: ChainConfig) -> Dialect:
    """Returns the dialect in which a chain is written: its own, or `ofa` if it says more than `proxyless` can."""
    if config.dialect != "proxyless":
        return config.dialect
    c = config.stem.width if isinstance(config.stem, ConvConfig) else 0
    convs = [conv for conv in (config.stem, config.feature_mix) if isinstance(conv, ConvConfig)]
    plain = config.classifier.hidden is None and all(_act(conv, config) != "hswish" for conv in convs)
    for block in config.blocks:
        if isinstance(block, MBConvConfig):
            expands = block.hidden is None or block.hidden > c
            plain = plain and expands and block.squeezed is None and _act(block, config) == "relu6"
            c = block.width
    return "proxyless" if plain else "ofa"


def _act(block: ConvConfig | MBConvConfig, config: ChainConfig) -> str:
    return block.activation or config.activation


def _written_conv(conv: ConvConfig, c_in: int, config: ChainConfig, dialect: Dialect) -> dict[str, Any]:
    written = {
        "name": "ConvLayer", "kernel_size": conv.kernel, "stride": conv.stride, "dilation": 1, "groups": 1,
        "bias": conv.bias, "has_shuffle": False, "in_channels": c_in, "out_channels": conv.width, "use_bn": conv.bn,
        "act_func": _THEIRS[_act(conv, config)], "dropout_rate": 0, "ops_order": "weight_bn_act",
    }  # fmt: skip
    return written | ({"use_se": False} if dialect == "ofa2" else {})


def _written_linear(head: ClassifierConfig, c_in: int, order: str) -> dict[str, Any]:
    return {
        "name": "LinearLayer", "in_features": c_in, "out_features": head.classes, "bias": head.bias, "use_bn": False,
        "act_func": None, "dropout_rate": head.dropout or 0, "ops_order": order,
    }  # fmt: skip


def _written_block(
    block: MBConvConfig | ZeroConfig, place: str, c_in: int, config: ChainConfig, dialect: Dialect
) -> dict[str, Any]:
    new = dialect == "ofa2"
    conv: dict[str, Any]
    if isinstance(block, ZeroConfig):
        conv, identity = {"name": "ZeroLayer"} | ({} if new else {"stride": 1}), True
    else:
        conv, identity = _written_mbconv(block, place, c_in, config, dialect), block.residual
    return {
        "name": "ResidualBlock" if new else "MobileInvertedResidualBlock",
        "conv" if new else "mobile_inverted_conv": conv,
        "shortcut": _identity(c_in, "weight_bn_act") if identity else None,
    }


def _written_mbconv(
    block: MBConvConfig, place: str, c_in: int, config: ChainConfig, dialect: Dialect
) -> dict[str, Any]:
    if not block.bn:
        raise InvalidError(f"{place}.bn", "got false", "true: an inverted residual of net.config always has BN")
    hidden = block.hidden or c_in
    if block.squeezed not in (None, make_divisible(hidden // 4)):
        raise InvalidError(f"{place}.squeezed", f"got {block.squeezed}", f"{make_divisible(hidden // 4)} or null")
    if block.hidden is None:
        ratio: float | None = 1
    else:
        ratio = None if block.hidden == c_in else _whole(block.hidden / c_in)
    conv = {
        "name": "MBConvLayer" if dialect == "ofa2" else "MBInvertedConvLayer", "in_channels": c_in,
        "out_channels": block.width, "kernel_size": block.kernel, "stride": block.stride, "expand_ratio": ratio,
    }  # fmt: skip
    if dialect != "proxyless":
        conv |= {"mid_channels": block.hidden, "act_func": _THEIRS[_act(block, config)]}
        conv |= {"use_se": block.squeezed is not None}
    return conv | ({"groups": None} if dialect == "ofa2" else {})


def _whole(ratio: float) -> float:
    return int(ratio) if ratio == int(ratio) else ratio


def _identity(c: int, order: str) -> dict[str, Any]:
    return {
        "name": "IdentityLayer", "in_channels": c, "out_channels": c, "use_bn": False, "act_func": None,
        "dropout_rate": 0, "ops_order": order,
    }  # fmt: skip


def _written_tree(chain: Chain) -> dict[str, Any]:
    config = chain.config
    if config.bn != BNConfig(**_TREE_BN):
        raise InvalidError("bn", f"got eps {config.bn.eps}, momentum {config.bn.momentum}", "1e-5 and 0.1")
    if config.feature_mix is not None or config.classifier.hidden is not None:
        raise InvalidError("feature_mix", "is there", "null, and no hidden layer, beside blocks of a tree")
    c, size, blocks = config.input_channels, config.input_size, []
    for i, block in enumerate((config.stem, *config.blocks)):
        if not isinstance(block, TransitionConfig | TreeConfig):
            raise InvalidError(f"blocks.{i}", f"is '{block.op}'", "transition or tree, beside other such blocks")
        blocks.append(_written_tree_block(block, c, size))
        c, size = block.shape(c, size)
    if size != 1:
        raise InvalidError("classifier", f"its input has {size} x {size} pixels", "1 x 1")
    return {"name": TREE, "blocks": blocks, "classifier": _written_linear(config.classifier, c, "bn_act_weight")}


def _written_tree_block(block: TransitionConfig | TreeConfig, c: int, size: int) -> dict[str, Any]:
    if isinstance(block, TransitionConfig):
        layers = []
        for unit in block.units:
            layers.append(_written_unit(unit, c))
            c, size = unit.shape(c, size)
        return {"name": "TransitionBlock", "layers": layers}
    record: dict[str, Any] = {"name": "ResidualTreeBlock", "cell_drop_rate": 0, "final_bn": block.final_bn}
    record["shortcut"] = _written_unit(block.shortcut, c)
    record["in_bottle"] = None if block.into is None else _written_unit(block.into, c)
    c, size = (c, size) if block.into is None else block.into.shape(c, size)
    record["cell"] = _written_node(block.cell, c, size)
    c, size = block.cell.shape(c, size)
    record["out_bottle"] = None if block.out is None else _written_unit(block.out, c)
    return record


def _written_node(node: NodeConfig, c_in: int, size: int) -> dict[str, Any]:
    edges, children = [], []
    for branch, c in zip(node.branches, node.inputs(c_in), strict=True):
        edges.append(None if branch.edge is None else _written_unit(branch.edge, c))
        width, now = (c, size) if branch.edge is None else branch.edge.shape(c, size)
        children.append(None if branch.child is None else _written_node(branch.child, width, now))
    return {
        "name": "TreeNode", "in_channels": c_in, "out_channels": node.shape(c_in, size)[0],
        "split_type": None if node.split == "none" else node.split,
        "merge_type": None if node.merge == "none" else node.merge, "has_branch_bn": node.branch_bn,
        "path_drop_rate": 0, "edges": edges, "child_nodes": children,
    }  # fmt: skip


def _written_unit(unit: UnitConfig, c_in: int) -> dict[str, Any]:
    names = {ours: theirs for theirs, ours in _KINDS.items()}
    record: dict[str, Any] = {"name": names[unit.kind]}
    if unit.kind == "pool":
        record["pool_type"] = unit.pool
    if unit.kind != "identity":
        record |= {"kernel_size": unit.kernel, "stride": unit.stride}
    if unit.kind in ("conv", "depthwise"):
        record |= {"dilation": unit.dilation, "groups": unit.groups, "bias": unit.bias, "has_shuffle": unit.shuffle}
    return record | {
        "in_channels": c_in, "out_channels": unit.width or c_in, "use_bn": unit.bn,
        "act_func": _THEIRS[unit.activation], "dropout_rate": unit.dropout or 0, "ops_order": unit.order,
    }  # fmt: skip
