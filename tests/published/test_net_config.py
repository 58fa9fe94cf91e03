"""net.config becomes a chain and comes back identical; what a chain cannot represent is refused by its field."""

from __future__ import annotations

import copy
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from official_parity import mobilenet_v3_chain, proxyless_chain
from published.net_config.conversion import chain_of, is_net_config, net_config_of, normal_form, read_net_config
from published.networks import NAMED, load_published, named
from published.state_names import official_names, official_state
from supernet import Architecture, Chain, Network
from supernet.design_file import read_design
from supernet.errors import InvalidError

OFFICIAL = {
    "proxyless_mobile.config": (4080512, 320427584),
    "proxyless_cpu.config": (4361648, 439243864),
    "proxyless_cifar.config": (5731530, 1213155872),
    # params by torch, MACs by hooks over the published classes' convolutions and linear layers
    "ofa/note10_lat-30ms_top1-78.4_finetune-75.config": (7465896, 339352816),
    "ofa/cpu_lat-15ms_top1-74.6_finetune-25.config": (4875704, 413034680),
}


def with_numbers(value: Any) -> Any:
    """Returns a net.config in which a number of channels is not a list, as the only thing that reading changes."""
    if isinstance(value, list):
        return [with_numbers(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    listed = ("in_channels", "out_channels")
    return {k: v[0] if k in listed and isinstance(v, list) else with_numbers(v) for k, v in value.items()}


@pytest.mark.parametrize("name", OFFICIAL)
def test_an_official_config_comes_back_identical(shared_data: Path, name: str, count) -> None:
    config = json.loads((shared_data / "official" / name).read_text())
    assert is_net_config(config)
    before = copy.deepcopy(config)
    chain = chain_of(config)
    assert config == before
    assert net_config_of(chain) == with_numbers(config) == normal_form(config)
    again = read_design(chain.to_json())
    assert again == chain
    assert net_config_of(again) == with_numbers(config)
    assert (chain.complexity.params, chain.complexity.macs) == OFFICIAL[name]
    network = Network(chain).eval()
    assert count(network, torch.zeros(1, chain.input_channels, chain.input_size, chain.input_size)) == chain.complexity


@pytest.mark.parametrize("name", ["proxyless_mobile", "proxyless_cpu", "proxyless_cifar"])
def test_the_typed_networks_are_the_official_configs(shared_data: Path, name: str) -> None:
    text = (shared_data / "official" / f"{name}.config").read_text()
    assert named(name) == read_net_config(text, name=name)


def test_state_dict_keys_are_the_official_ones(shared_data: Path) -> None:
    lines = (shared_data / "official" / "proxyless_mobile.state_dict_keys.txt").read_text().splitlines()
    state = official_state(Network(named("proxyless_mobile")))
    assert sorted(f"{name} {list(value.shape)}" for name, value in state.items()) == sorted(lines)


@pytest.mark.parametrize("seed", range(100))
@pytest.mark.parametrize("draw", [proxyless_chain, mobilenet_v3_chain])
def test_random_networks_come_back_identical(draw, seed: int) -> None:
    chain = draw(random.Random(seed))
    config = json.loads(json.dumps(net_config_of(chain)))
    assert net_config_of(chain_of(config)) == config
    assert net_config_of(read_design(chain.to_json())) == config
    assert chain_of(config, input_size=chain.input_size) == chain


@pytest.mark.parametrize("name", ["proxyless_gpu", "proxyless_cifar", "mobilenet_v3"])
def test_a_round_trip_of_config_and_weights_changes_no_bit_of_the_output(tmp_path: Path, name: str) -> None:
    chain = mobilenet_v3_chain(random.Random(3)) if name == "mobilenet_v3" else named(name)
    network = Network(chain, seed=1)
    for m in network.modules():
        if isinstance(m, nn.BatchNorm2d):
            assert m.running_mean is not None
            m.running_mean.uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(0))
    torch.save({"state_dict": official_state(network)}, tmp_path / "official.pth")
    (tmp_path / "net.config").write_text(json.dumps(net_config_of(chain)))
    again = Network(read_net_config((tmp_path / "net.config").read_text()), seed=2)
    load_published(again, tmp_path / "official.pth")
    size = 32 if name == "proxyless_cifar" else 64
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(network.eval()(images), again.eval()(images))


def test_a_checkpoint_in_the_names_of_todays_once_for_all_is_read(tmp_path: Path) -> None:
    chain = mobilenet_v3_chain(random.Random(0))
    network, again = Network(chain, seed=1), Network(chain, seed=2)
    state = official_state(network, block="conv")
    assert any(".conv.depth_conv.se.fc.reduce." in name for name in state)
    torch.save(state, tmp_path / "x.pth")
    load_published(again, tmp_path / "x.pth")
    assert all(map(torch.equal, network.state_dict().values(), again.state_dict().values()))


@pytest.mark.parametrize("name", NAMED)
def test_every_weight_has_one_official_name(name: str) -> None:
    with torch.device("meta"):
        network = Network(named(name))
    names = official_names(network)
    assert sorted(names.values()) == sorted(network.state_dict())


def test_an_architecture_of_a_space_is_written_as_its_chain(space_of) -> None:
    stages: list[dict[str, Any]] = [{"width": 16, "candidates": ["mbconv_k3_e1"]}]
    stages.append({"width": 24, "depth": 3, "stride": 2, "candidates": ["mbconv_k5_e3", "mbconv_k3_e6_se", "skip"]})
    space = space_of({"stages": stages, "input_size": 32, "classes": 10, "dropout": 0.1, "feature_mix": 64})
    architecture = Architecture(space, (0, 1, 2))
    chain = Chain.of(architecture)
    assert chain.layers == architecture.layers
    ours, theirs = Network(architecture), Network(chain_of(net_config_of(architecture), input_size=32))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(ours.eval()(images), theirs.eval()(images))


def test_an_op_without_a_published_form_is_refused_with_its_edge(space_of) -> None:
    space = space_of({"stages": [{"width": 16, "candidates": ["sepconv_k3"]}], "input_size": 32})
    with pytest.raises(InvalidError, match=r"edge stage0\.0: 'sepconv_k3' has no explicit form, expected mbconv"):
        net_config_of(Architecture(space, ()))
    with pytest.raises(InvalidError, match=r"padding: got 'same', expected symmetric"):
        net_config_of(named("efficientnet_lite0"))


def changed(config: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """Returns a net.config with another value at a place such as blocks.0.shortcut; `...` removes the key."""
    config = copy.deepcopy(config)
    *way, last = (int(word) if word.isdigit() else word for word in place.split("."))
    inner: Any = config
    for step in way:
        inner = inner[step]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return config


MBCONV = "blocks.1.mobile_inverted_conv"
REFUSED = [  # in proxyless_mobile: block 1 has stride 2, block 2 is residual, block 3 is zero
    ("name", "ResNets", r"name: got 'ResNets', expected 'ProxylessNASNets', 'MobileNetV3', 'PyramidTreeNet'"),
    ("name", ..., "name: is missing"),
    ("bn", [0.1, 1e-3], r"bn: got \[0.1, 0.001\], expected an object"),
    ("bn.eps", 0, "bn.eps: got 0, expected a number above 0"),
    ("bn.ws_eps", 1e-5, "bn.ws_eps: got 1e-05, expected null"),
    ("depth", 3, "depth: is an unknown field"),
    ("first_conv.name", "DepthConvLayer", "first_conv.name: got 'DepthConvLayer', expected 'ConvLayer'"),
    ("first_conv.kernel_size", 4, "first_conv.kernel_size: got 4, expected an odd number"),
    ("first_conv.kernel_size", [3, 5], r"first_conv.kernel_size: got \[3, 5\], expected a whole number"),
    ("first_conv.kernel_size", 33, "first_conv.kernel_size: got 33, expected less than or equal to 31"),
    ("first_conv.out_channels", 10**12, "first_conv.out_channels: got 1000000000000, expected less than or equal to"),
    ("first_conv.dropout_rate", 0.1, "first_conv.dropout_rate: got 0.1, expected 0: nothing else"),
    ("first_conv.stride", 0, "first_conv.stride: got 0, expected a whole number from 1 on"),
    ("first_conv.dilation", 2, "first_conv.dilation: got 2, expected 1"),
    ("first_conv.groups", 3, "first_conv.groups: got 3, expected 1"),
    ("first_conv.has_shuffle", True, "first_conv.has_shuffle: got true, expected false"),
    ("first_conv.use_se", True, "first_conv.use_se: got true, expected false"),
    ("first_conv.act_func", "tanh", "first_conv.act_func: got 'tanh', expected 'relu6', 'relu', 'h_swish', null"),
    ("first_conv.dropout_rate", 0.5, "first_conv.dropout_rate: got 0.5, expected 0"),
    ("first_conv.ops_order", "bn_act_weight", "first_conv.ops_order: got 'bn_act_weight'"),
    ("first_conv.out_channels", "32", "first_conv.out_channels: got '32', expected a whole number"),
    ("first_conv.use_bn", 1, "first_conv.use_bn: got 1, expected true or false"),
    (f"{MBCONV}.name", "ConvLayer", rf"{MBCONV}.name: got 'ConvLayer', expected 'MBInvertedConvLayer'"),
    (f"{MBCONV}.in_channels", 24, rf"{MBCONV}.in_channels: got 24, expected 16"),
    (f"{MBCONV}.expand_ratio", 0.5, rf"{MBCONV}.expand_ratio: got 0.5 without mid_channels"),
    (f"{MBCONV}.expand_ratio", "6", rf"{MBCONV}.expand_ratio: got '6', expected a number above 0"),
    (f"{MBCONV}.act_func", None, rf"{MBCONV}.act_func: got null, expected 'relu6', 'relu', 'h_swish'"),
    (f"{MBCONV}.groups", 8, rf"{MBCONV}.groups: got 8, expected null"),
    (f"{MBCONV}.use_se", None, rf"{MBCONV}.use_se: got null, expected true or false"),
    (f"{MBCONV}.mid_channels", 0, rf"{MBCONV}.mid_channels: got 0, expected a whole number"),
    ("blocks.0.mobile_inverted_conv.mid_channels", 64, "blocks.0.mobile_inverted_conv.mid_channels: got 64 with"),
    ("blocks.1", 7, "blocks.1: got 7, expected an object"),
    ("blocks", {}, "blocks: got a value of type dict, expected a list"),
    ("blocks.1.name", "ResNetBottleneckBlock", "blocks.1.name: got 'ResNetBottleneckBlock'"),
    ("blocks.1.shortcut", {"name": "ConvLayer"}, "blocks.1.shortcut.name: got 'ConvLayer', expected 'IdentityLayer'"),
    ("blocks.2.shortcut.use_bn", True, "blocks.2.shortcut.use_bn: got true, expected false"),
    ("blocks.2.mobile_inverted_conv.stride", 2, "blocks.2.shortcut: got an identity at stride 2 and 32 -> 32"),
    ("blocks.3.mobile_inverted_conv.stride", 2, "blocks.3.mobile_inverted_conv.stride: got 2, expected 1"),
    ("feature_mix_layer.in_channels", 96, "feature_mix_layer.in_channels: got 96, expected 320"),
    ("classifier.in_features", 96, "classifier.in_features: got 96, expected 1280"),
    ("classifier.use_bn", True, "classifier.use_bn: got true, expected false"),
    ("classifier.act_func", "relu", "classifier.act_func: got 'relu', expected null"),
    ("classifier.dropout_rate", 1, "classifier.dropout_rate: got 1, expected a number from 0 to below 1"),
    ("classifier.name", "MultiHeadLinearLayer", "classifier.name: got 'MultiHeadLinearLayer'"),
]


@pytest.mark.parametrize(("place", "value", "line"), REFUSED)
def test_what_cannot_be_represented_is_refused_by_its_field(place: str, value: Any, line: str) -> None:
    config = changed(net_config_of(named("proxyless_mobile")), place, value)
    with pytest.raises(InvalidError, match=f"^{line}") as caught:
        chain_of(config)
    assert "\n" not in str(caught.value)


def test_limits_of_a_chain_are_refused_by_the_key_that_exceeds_them() -> None:
    config = net_config_of(named("proxyless_mobile"))
    huge = "got 16000000, expected less than or equal to 65536$"
    with pytest.raises(InvalidError, match=rf"^{MBCONV}\.expand_ratio: {huge}"):
        chain_of(changed(config, f"{MBCONV}.expand_ratio", 1e6))
    with pytest.raises(InvalidError, match=rf"^{MBCONV}\.mid_channels: {huge}"):
        chain_of(changed(config, f"{MBCONV}.mid_channels", 16_000_000))
    for ratio in (math.nan, math.inf):
        with pytest.raises(InvalidError, match=rf"^{MBCONV}\.expand_ratio: got (nan|inf), expected a number above 0"):
            chain_of(changed(config, f"{MBCONV}.expand_ratio", ratio))
    with pytest.raises(InvalidError, match=r"^input_size: Input should be less than or equal to 8192"):
        chain_of(config, input_size=10**8)


def test_bn_that_a_file_leaves_out_is_that_of_the_published_readers() -> None:
    config = changed(net_config_of(named("proxyless_mobile")), "bn", ...)
    assert normal_form(config)["bn"] == {"momentum": 0.1, "eps": 1e-3}


CELL = "blocks.1.cell.child_nodes.0"
REFUSED_TREES = [
    ("cell_drop_rate", 0.1, "cell_drop_rate: got 0.1, expected 0"),
    ("tree_node_config", {"path_drop_rate": 0.1}, "tree_node_config: got a value of type dict"),
    ("bn", {"eps": 1e-3, "momentum": 0.1}, "bn: is an unknown field"),
    ("blocks.1.cell_drop_rate", 0.2, "blocks.1.cell_drop_rate: got 0.2, expected 0"),
    (f"{CELL}.path_drop_rate", 0.2, f"{CELL}.path_drop_rate: got 0.2, expected 0"),
    (f"{CELL}.merge_type", "max", f"{CELL}.merge_type: got 'max', expected 'add', 'concat', null"),
    (f"{CELL}.out_channels", 20, f"{CELL}.out_channels: got 20, expected 18"),
    (f"{CELL}.edges.0.name", "MBInvertedConvLayer", f"{CELL}.edges.0.name: got 'MBInvertedConvLayer'"),
    (f"{CELL}.edges", [], f"{CELL}.edges: and child_nodes are no lists of equal length"),
    ("blocks.1.in_bottle.act_func", "h_swish", "blocks.1.in_bottle.act_func: got 'h_swish'"),
    ("blocks.1.in_bottle.groups", 7, "blocks.1.in_bottle.groups: got 7 groups for 16 -> 18 channels"),
    ("blocks.1.out_bottle.stride", 2, "blocks.1.shortcut: its output has 32 pixels a side, the tree's 16"),
    ("blocks.55.layers.0.kernel_size", 16, "blocks.55.layers.0.kernel_size: got a pool of 16 on 8 x 8 pixels"),
]


@pytest.mark.parametrize(("place", "value", "line"), REFUSED_TREES)
def test_a_tree_that_cannot_be_represented_is_refused_by_its_field(place: str, value: Any, line: str) -> None:
    config = changed(net_config_of(named("proxyless_cifar")), place, value)
    with pytest.raises(InvalidError, match=f"^{line}"):
        chain_of(config)


def test_a_tree_network_on_images_of_another_size_is_refused() -> None:
    config = net_config_of(named("proxyless_cifar"))
    with pytest.raises(InvalidError, match=r"^classifier.in_features: the last map has 2 x 2 pixels at input size 64"):
        chain_of(config, input_size=64)


@pytest.mark.parametrize(
    ("conv", "hidden", "ratio"),
    [
        ({"expand_ratio": None, "mid_channels": 16}, 16, None),  # an expansion to as many channels
        ({"expand_ratio": 3, "mid_channels": 56}, 56, 3.5),
        ({"expand_ratio": 2.5}, 40, 2.5),
        ({"expand_ratio": 1, "mid_channels": 16}, None, 1),
        ({}, 96, 6),
    ],
)
def test_hidden_widths_in_all_their_forms(conv: dict[str, Any], hidden: int | None, ratio: float | None) -> None:
    config = net_config_of(named("proxyless_mobile"))
    block = config["blocks"][1]["mobile_inverted_conv"]
    del block["expand_ratio"]
    block |= conv
    chain = chain_of(config)
    assert chain.config.blocks[1].hidden == hidden
    written = normal_form(config)
    assert written["blocks"][1]["mobile_inverted_conv"]["expand_ratio"] == ratio
    assert normal_form(written) == written
    assert chain_of(written).layers == chain.layers


def test_a_zero_block_computes_the_same_without_its_shortcut() -> None:
    config = net_config_of(named("proxyless_mobile"))
    assert config["blocks"][3]["mobile_inverted_conv"] == {"name": "ZeroLayer", "stride": 1}
    without = changed(config, "blocks.3.shortcut", None)
    assert normal_form(without) == config


def test_the_dialect_is_kept_and_extended_only_where_it_has_to_be() -> None:
    config = net_config_of(named("proxyless_mobile"))
    assert set(config["blocks"][1]["mobile_inverted_conv"]) == {
        "name", "in_channels", "out_channels", "kernel_size", "stride", "expand_ratio"
    }  # fmt: skip
    with_se = changed(config, f"{MBCONV}.use_se", True)
    assert normal_form(with_se)["blocks"][5]["mobile_inverted_conv"]["use_se"] is False
    today = changed(config, "blocks.0.name", "ResidualBlock")
    block = normal_form(today)["blocks"][1]
    assert block["name"] == "ResidualBlock"
    assert block["conv"]["name"] == "MBConvLayer"
    assert chain_of(normal_form(today)) == chain_of(today)
