"""Reads and writes the networks of the classes ProxylessNASNets and MobileNetV3."""

from __future__ import annotations

import math
from typing import Any

from published.net_config.layers import (
    CONV_DEFAULTS,
    activation_of,
    made,
    read_conv,
    read_linear,
    written_conv,
    written_linear,
)
from published.net_config.names import ACTIVATIONS, MOBILENET_V3, ORDERS, PROXYLESS, THEIRS, Dialect
from published.records import Record, shown
from supernet.catalogue import make_divisible
from supernet.chain import ChainConfig, ConvConfig, MBConvConfig, ZeroConfig
from supernet.errors import InvalidError
from supernet.space import BNConfig

# Reading


def read_mobile(record: Record, family: str, size: int) -> ChainConfig:
    """Reads a ProxylessNASNets or a MobileNetV3."""
    bn = _bn(record, family)
    dialect: Dialect = "proxyless" if family == PROXYLESS else "ofa"
    stem_record = Record(record.take("first_conv"), "first_conv")
    channels = stem_record.number("in_channels", 1)
    stem = read_conv(stem_record, None)
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
    mix = None if mix_value is None else read_conv(Record(mix_value, mix_key), c)
    c = c if mix is None else mix.width
    hidden = hidden_act = None
    if family == MOBILENET_V3:
        last = Record(record.take("feature_mix_layer"), "feature_mix_layer")
        for key, kept in (("kernel_size", 1), ("stride", 1), ("use_bn", False), ("bias", False)):
            last.only(key, kept, default=CONV_DEFAULTS[key])
        act = last.word("act_func", tuple(key for key in ACTIVATIONS if key), "relu")
        hidden_act = ACTIVATIONS[act]
        last_conv = read_conv(last, c, taken=True)
        c = hidden = last_conv.width
    classifier = read_linear(Record(record.take("classifier"), "classifier"), c, hidden, hidden_act)
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
    block = made(
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
    record.word("ops_order", ORDERS, "weight_bn_act")
    record.end()
    return True


# Writing


def written_mobile(config: ChainConfig) -> dict[str, Any]:
    """Returns the content of the net.config of a chain without blocks of a tree. Raises InvalidError, which names the
    part of the network, for what no published class can express."""
    assert isinstance(config.stem, ConvConfig)
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
        "first_conv": written_conv(config.stem, config.input_channels, config, dialect),
    }
    written = None if mix is None else written_conv(mix, c, config, dialect)
    c = c if mix is None else mix.width
    if head.hidden is None:
        record["feature_mix_layer"] = written
    elif written is None:
        raise InvalidError("feature_mix", "is null before a hidden layer", "a convolution: MobileNetV3 has one")
    else:
        record["final_expand_layer"] = written
        hidden = ConvConfig(op="conv", width=head.hidden, kernel=1, activation=head.activation, bn=False)
        record["feature_mix_layer"] = written_conv(hidden, c, config, dialect)
        c = head.hidden
    record["classifier"] = written_linear(head, c, "weight_bn_act")
    record["blocks"] = blocks
    return record


def _dialect(config: ChainConfig) -> Dialect:
    """Returns the dialect in which a chain is written: its own, or `ofa` if it says more than `proxyless` can."""
    if config.dialect != "proxyless":
        return config.dialect
    c = config.stem.width if isinstance(config.stem, ConvConfig) else 0
    convs = [conv for conv in (config.stem, config.feature_mix) if isinstance(conv, ConvConfig)]
    plain = config.classifier.hidden is None and all(activation_of(conv, config) != "hswish" for conv in convs)
    for block in config.blocks:
        if isinstance(block, MBConvConfig):
            expands = block.hidden is None or block.hidden > c
            plain = plain and expands and block.squeezed is None and activation_of(block, config) == "relu6"
            c = block.width
    return "proxyless" if plain else "ofa"


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
        conv |= {"mid_channels": block.hidden, "act_func": THEIRS[activation_of(block, config)]}
        conv |= {"use_se": block.squeezed is not None}
    return conv | ({"groups": None} if dialect == "ofa2" else {})


def _whole(ratio: float) -> float:
    return int(ratio) if ratio == int(ratio) else ratio


def _identity(c: int, order: str) -> dict[str, Any]:
    return {
        "name": "IdentityLayer", "in_channels": c, "out_channels": c, "use_bn": False, "act_func": None,
        "dropout_rate": 0, "ops_order": order,
    }  # fmt: skip
