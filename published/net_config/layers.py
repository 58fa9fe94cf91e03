"""Reads and writes the layers that every class of networks has: ConvLayer and LinearLayer."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from published.net_config.names import ACTIVATIONS, ORDERS, THEIRS, Dialect
from published.records import Record, shown
from supernet.chain import ChainConfig, ClassifierConfig, ConvConfig, MBConvConfig
from supernet.errors import InvalidError
from supernet.json_text import of_validation

Layer = TypeVar("Layer", bound=BaseModel)
KEYS = {"width": "out_channels", "kernel": "kernel_size", "classes": "out_features"}
"""The published key of each field of a layer that has another name here."""
CONV_DEFAULTS: dict[str, Any] = {"kernel_size": 3, "stride": 1, "use_bn": True, "bias": False}
"""What once-for-all's ConvLayer has where its record says nothing."""


def made(kind: type[Layer], record: Record, keys: Mapping[str, str] = MappingProxyType({}), /, **fields: Any) -> Layer:
    """Returns the layer with these fields. Raises InvalidError, which names the key of the record, for a value outside
    what a chain can have. keys: that of each field, if it is not in KEYS."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else ""
        place = record.at(keys.get(field) or KEYS.get(field, field))
        bounds = ("less than or equal to ", "greater than or equal to ")
        limit = next((first["msg"].partition(words)[1:] for words in bounds if words in first["msg"]), None)
        if limit is None:
            raise InvalidError.of(of_validation(error, ""), place) from None
        raise InvalidError(place, f"got {shown(fields[field])}", "".join(limit)) from None


def read_conv(record: Record, c_in: int | None, *, taken: bool = False) -> ConvConfig:
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
        return made(ConvConfig, record, op="conv", width=width)
    kernel, stride = record.odd("kernel_size", 3), record.number("stride", 1, 1)
    bn, bias = record.flag("use_bn", True), record.flag("bias", False)
    act: Any = ACTIVATIONS[record.word("act_func", tuple(ACTIVATIONS), "relu")]
    record.end()
    return made(
        ConvConfig, record, op="conv", width=width, kernel=kernel, stride=stride, activation=act, bn=bn, bias=bias
    )


def read_linear(record: Record, c_in: int, hidden: int | None, activation: Any) -> ClassifierConfig:
    """Reads the classifier, a LinearLayer. hidden, activation: of the hidden layer before it."""
    record.word("name", ("LinearLayer",))
    record.equal("in_features", c_in)
    classes = record.number("out_features", 2)
    bias, dropout = record.flag("bias", True), record.rate("dropout_rate")
    record.only("use_bn", False, default=False)
    record.only("act_func", None, default=None)
    record.word("ops_order", ORDERS, "weight_bn_act")
    record.end()
    return made(
        ClassifierConfig, record, classes=classes, dropout=dropout, bias=bias, hidden=hidden, activation=activation
    )


def activation_of(block: ConvConfig | MBConvConfig, config: ChainConfig) -> str:
    """Returns the activation of a layer: its own, or the chain's if it has none of its own."""
    return block.activation or config.activation


def written_conv(conv: ConvConfig, c_in: int, config: ChainConfig, dialect: Dialect) -> dict[str, Any]:
    """Returns the record of a ConvLayer into which `c_in` channels flow."""
    written = {
        "name": "ConvLayer", "kernel_size": conv.kernel, "stride": conv.stride, "dilation": 1, "groups": 1,
        "bias": conv.bias, "has_shuffle": False, "in_channels": c_in, "out_channels": conv.width, "use_bn": conv.bn,
        "act_func": THEIRS[activation_of(conv, config)], "dropout_rate": 0, "ops_order": "weight_bn_act",
    }  # fmt: skip
    return written | ({"use_se": False} if dialect == "ofa2" else {})


def written_linear(head: ClassifierConfig, c_in: int, order: str) -> dict[str, Any]:
    """Returns the record of the classifier, a LinearLayer into which `c_in` features flow. order: its `ops_order`."""
    return {
        "name": "LinearLayer", "in_features": c_in, "out_features": head.classes, "bias": head.bias, "use_bn": False,
        "act_func": None, "dropout_rate": head.dropout or 0, "ops_order": order,
    }  # fmt: skip
