"""Converts the content of a whole net.config to a chain of layers, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from published.net_config.mobile import read_mobile, written_mobile
from published.net_config.names import INPUT_SIZES, TREE
from published.net_config.tree import read_tree, written_tree
from published.records import Record
from supernet.chain import Chain
from supernet.design import Design
from supernet.errors import InvalidError
from supernet.json_text import of_validation, parsed
from supernet.tree import TransitionConfig, TreeConfig


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
    family = record.word("name", tuple(INPUT_SIZES))
    size = INPUT_SIZES[family] if input_size is None else input_size
    try:
        read = read_tree(record, size) if family == TREE else read_mobile(record, family, size)
        return Chain(read, name)
    except ValidationError as error:
        raise of_validation(error, "") from None
    except RecursionError:
        raise InvalidError("blocks", "has too many nodes inside each other") from None


def normal_form(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a net.config in its normal form, which the head of this package states. Raises InvalidError."""
    return net_config_of(chain_of(config))


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
        return written_tree(chain)
    return written_mobile(config)
