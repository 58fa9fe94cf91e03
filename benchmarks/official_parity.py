"""Compares random networks with the classes of the published code, bit for bit:

    python benchmarks/official_parity.py --official CHECKOUT --networks 1000

CHECKOUT is a checkout of mit-han-lab/ProxylessNAS, or of mit-han-lab/once-for-all with --family ofa. Each network is
drawn from the ImageNet space (or, for once-for-all, from its space of MobileNetV3), written as net.config and as a
state dict under the official names, built from both by the published classes, and run there and here on the same
images.
Prints how many outputs are equal, and the largest difference.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import nn

from published.net_config.conversion import chain_of, net_config_of
from published.state_names import official_state
from supernet.catalogue import make_divisible
from supernet.chain import Chain, ChainConfig, ClassifierConfig, ConvConfig, MBConvConfig, ZeroConfig
from supernet.network import Network
from supernet.space import BNConfig

NETWORKS = "ofa.imagenet_classification.networks"
SMALL = 64
"""Height and width of the images: the smallest that every stride divides."""


def proxyless_chain(draw: random.Random) -> Chain:
    """Returns a random network of the ImageNet space: kernels 3, 5, 7, expansions 3, 6, zero blocks, a width from 0.35
    to 1.4, with or without the last convolution."""
    scale = draw.choice([0.35, 0.5, 1.0, 1.4])
    c = stem = make_divisible(32 * scale)
    blocks: list[MBConvConfig | ZeroConfig] = []
    stages = [(16, 1, 1), (24, 4, 2), (40, 4, 2), (80, 4, 2), (96, 4, 1), (192, 4, 2), (320, 1, 1)]
    for s, (width, depth, stride) in enumerate(stages):
        for i in range(depth):
            w, down = make_divisible(width * scale), stride if i == 0 else 1
            residual = down == 1 and c == w
            if residual and draw.random() < 0.25:
                blocks.append(ZeroConfig(op="zero"))
                continue
            kernel, expand = (3, 1) if s == 0 else (draw.choice([3, 5, 7]), draw.choice([3, 6]))
            hidden = c * expand if expand > 1 else None
            blocks.append(
                MBConvConfig(op="mbconv", width=w, kernel=kernel, stride=down, hidden=hidden, residual=residual)
            )
            c = w
    mix = ConvConfig(op="conv", width=make_divisible(1280 * scale), kernel=1) if draw.random() < 0.8 else None
    config = ChainConfig(
        input_size=SMALL,
        bn=BNConfig(eps=draw.choice([1e-3, 1e-5])),
        stem=ConvConfig(op="conv", width=stem, stride=2),
        blocks=tuple(blocks),
        feature_mix=mix,
        classifier=ClassifierConfig(classes=draw.choice([10, 100, 1000]), dropout=draw.choice([0.0, 0.2])),
    )
    return Chain(config)


def mobilenet_v3_chain(draw: random.Random) -> Chain:
    """Returns a random network of once-for-all's space: kernels 3, 5, 7, expansions 3, 4, 6, depths 2 to 4, squeeze-
    excite and h-swish in later stages."""
    c, blocks = 16, [MBConvConfig(op="mbconv", width=16, activation="relu", residual=True)]
    for width, stride, excited, act in [
        (24, 2, False, "relu"), (40, 2, True, "relu"), (80, 2, False, None), (112, 1, True, None), (160, 2, True, None)
    ]:  # fmt: skip
        for i in range(draw.randint(2, 4)):
            hidden = make_divisible(c * draw.choice([3, 4, 6]))
            fields: dict[str, Any] = {"hidden": hidden, "activation": act, "residual": i > 0}
            fields["squeezed"] = make_divisible(hidden // 4) if excited else None
            fields |= {"kernel": draw.choice([3, 5, 7]), "stride": stride if i == 0 else 1}
            blocks.append(MBConvConfig(op="mbconv", width=width, **fields))
            c = width
    config = ChainConfig(
        input_size=SMALL,
        activation="hswish",
        bn=BNConfig(eps=1e-5),
        stem=ConvConfig(op="conv", width=16, stride=2),
        blocks=tuple(blocks),
        feature_mix=ConvConfig(op="conv", width=960, kernel=1),
        classifier=ClassifierConfig(hidden=1280, dropout=0.1),
        dialect="ofa",
    )
    return Chain(config)


FAMILIES = {"proxyless": proxyless_chain, "ofa": mobilenet_v3_chain}


def published_classes(checkout: Path, family: str) -> dict[str, Any]:
    """Returns the published classes of networks by the name that a net.config has."""
    if family == "proxyless":
        package = types.ModuleType("published_code")  # beside ours, which has the same name
        package.__path__ = [str(checkout / "proxyless_nas")]
        sys.modules["published_code"] = package
        modules = [importlib.import_module(f"published_code.{name}") for name in ("nas_modules", "cifar_modules")]
    else:
        # the modules of its networks alone: the others read images, and need further packages
        for name, folder in (("ofa", "ofa"), ("ofa.utils", "ofa/utils"), (NETWORKS, NETWORKS.replace(".", "/"))):
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__path__ = [str(checkout / folder)]
        for name in ("common_tools", "my_modules", "pytorch_modules", "layers"):
            vars(sys.modules["ofa.utils"]).update(vars(importlib.import_module(f"ofa.utils.{name}")))
        names = ("mobilenet_v3", "proxyless_nets")
        modules = [importlib.import_module(f"{NETWORKS}.{name}") for name in names]
    wanted = ("ProxylessNASNets", "PyramidTreeNet", "MobileNetV3")
    return {name: getattr(module, name) for module in modules for name in wanted if hasattr(module, name)}


def published_network(network: Network, classes: dict[str, Any], *, new_names: bool) -> nn.Module:
    """Returns the published network that our network's net.config and state dict describe."""
    config = json.loads(json.dumps(net_config_of(network.architecture)))
    theirs: Any = classes[config["name"]].build_from_config(json.loads(json.dumps(config)))
    if "bn" in config and hasattr(theirs, "set_bn_param"):
        theirs.set_bn_param(config["bn"]["momentum"], config["bn"]["eps"])
    state = official_state(network, block="conv" if new_names else "mobile_inverted_conv")
    nn.Module.load_state_dict(theirs, state, strict=True)
    built: nn.Module = theirs
    return built


def randomise(network: nn.Module, seed: int) -> None:
    """Gives BN scales, shifts and statistics that change an output."""
    generator = torch.Generator().manual_seed(seed)
    for m in network.modules():
        if isinstance(m, nn.BatchNorm2d):
            for tensor, low in ((m.weight, 0.5), (m.bias, -0.2), (m.running_mean, -0.2), (m.running_var, 0.5)):
                assert tensor is not None
                with torch.no_grad():
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + low)


@torch.no_grad()
def difference(network: Network, theirs: nn.Module, seed: int) -> float:
    """Returns the largest difference between the outputs of two networks in evaluation; 0.0 if every bit is equal."""
    design = network.architecture
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, design.input_channels, design.input_size, design.input_size, generator=generator)
    return float((network.eval()(images) - theirs.eval()(images)).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, required=True, help="a checkout of the published code")
    parser.add_argument("--family", choices=sorted(FAMILIES), default="proxyless")
    parser.add_argument("--networks", type=int, default=1000)
    parser.add_argument("--config", type=Path, action="append", default=[], help="a net.config to compare as well")
    args = parser.parse_args()
    classes = published_classes(args.official, args.family)
    chains = [chain_of(json.loads(path.read_text()), name=path.name) for path in args.config]
    chains += [FAMILIES[args.family](random.Random(seed)) for seed in range(args.networks)]
    worst, equal = 0.0, 0
    for seed, chain in enumerate(chains):
        network = Network(chain, seed=seed)
        randomise(network, seed)
        distance = difference(network, published_network(network, classes, new_names=args.family == "ofa"), seed)
        worst, equal = max(worst, distance), equal + (distance == 0)
        if seed < len(args.config):
            print(f"{chain.name}: largest difference {distance:.3g}")
    print(f"{equal} of {len(chains)} networks have equal outputs, bit for bit; largest difference {worst:.3g}")


if __name__ == "__main__":
    main()
