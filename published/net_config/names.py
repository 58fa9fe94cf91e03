"""The words of net.config: classes, dialects, activations and orders."""

from __future__ import annotations

from typing import Literal

PROXYLESS, MOBILENET_V3, TREE = "ProxylessNASNets", "MobileNetV3", "PyramidTreeNet"
"""The classes of networks that are read."""
Dialect = Literal["proxyless", "ofa", "ofa2"]
ACTIVATIONS = {"relu6": "relu6", "relu": "relu", "h_swish": "hswish", None: "none"}
"""Our name of each activation of a net.config."""
THEIRS = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
"""The activation of a net.config for each of ours."""
TREE_BN = {"eps": 1e-5, "momentum": 0.1}
"""The BN of a tree network, whose config has none: torch's defaults hold."""
INPUT_SIZES = {PROXYLESS: 224, MOBILENET_V3: 224, TREE: 32}
"""Height and width in pixels of the images of each class of networks, which a net.config does not have."""
ORDERS = ("weight_bn_act", "bn_act_weight", "bn_weight_act", "act_weight_bn", "act_bn_weight", "weight_act_bn")
"""The orders of weights, BN and activation inside a layer."""
KINDS = {"ConvLayer": "conv", "DepthConvLayer": "depthwise", "PoolingLayer": "pool", "IdentityLayer": "identity"}
"""Our name of each layer of a tree network."""
