"""A chain of explicit layers: its layers, its JSON form, and the errors in it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from supernet import Architecture, Chain, Design, Network
from supernet.blocks import init_weights
from supernet.chain import ChainConfig
from supernet.design_file import read_design
from supernet.errors import InvalidError

CONFIG: dict[str, Any] = {
    "input_size": 16,
    "stem": {"op": "conv", "width": 8, "stride": 2},
    "blocks": [
        {"op": "mbconv", "width": 8, "residual": True},
        {"op": "mbconv", "width": 12, "kernel": 5, "stride": 2, "hidden": 20, "squeezed": 8, "activation": "hswish"},
        {"op": "mbconv", "width": 12, "hidden": 12},
        {"op": "mbconv", "width": 12, "hidden": 36, "residual": True},
        {"op": "zero"},
        {"op": "mbconv", "width": 12, "hidden": 24, "bn": False, "residual": True},
        {"op": "conv", "width": 16, "activation": "none", "bn": False, "bias": True},
        {"op": "conv", "width": 16, "residual": True},
    ],
    "feature_mix": {"op": "conv", "width": 24, "kernel": 1, "activation": "relu"},
    "classifier": {"classes": 10, "hidden": 30, "dropout": 0.2},
}


def chain_of(config: dict[str, Any]) -> Chain:
    return Chain.from_json(json.dumps({"format": "proxylessnas/chain@1", "name": "x", "chain": config}))


def changed(**values: Any) -> dict[str, Any]:
    return {**CONFIG, **values}


def with_block(**values: Any) -> dict[str, Any]:
    """Returns CONFIG with this inverted residual as its only block."""
    return changed(blocks=[{"op": "mbconv", **values}])


def test_parameters_and_macs_are_those_that_torch_counts(count) -> None:
    chain = chain_of(CONFIG)
    assert isinstance(chain, Design)
    network = Network(chain).eval()
    assert count(network, torch.zeros(2, 3, 16, 16)) == chain.complexity
    assert network(torch.zeros(2, 3, 16, 16)).shape == (2, 10)
    assert (chain.input_size, chain.input_channels, chain.classes) == (16, 3, 10)


def test_a_network_without_bn_computes_what_one_computes_whose_bn_is_folded_into_it() -> None:
    block = {"op": "mbconv", "width": 12, "hidden": 20, "stride": 2, "squeezed": 8}
    network = Network(chain_of(changed(blocks=[block]))).eval()
    for m in network.edges.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            for value in (m.weight.data, m.bias.data, m.running_mean, m.running_var):
                value.uniform_(0.5, 2, generator=torch.Generator().manual_seed(len(value)))
    folded = Network(chain_of(changed(blocks=[block | {"bn": False}]))).eval()
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.edges.modules())
    state = {name: value for name, value in network.state_dict().items() if name in folded.state_dict()}
    for part in ("expand", "depthwise", "project"):
        conv, bn = (network.get_submodule(f"edges.0.op.{part}.{name}") for name in ("conv", "bn"))
        factor = bn.weight / (bn.running_var + bn.eps).sqrt()
        state[f"edges.0.op.{part}.conv.weight"] = conv.weight * factor[:, None, None, None]
        state[f"edges.0.op.{part}.conv.bias"] = bn.bias - bn.running_mean * factor
    folded.load_state_dict(state)
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(folded(images), network(images))


def test_ops_of_the_catalogue_keep_their_names() -> None:
    """So a latency table that was measured on a space prices them."""
    assert [str(layer) for layer in chain_of(CONFIG).layers] == [
        "stem_k3 16x16x3->8 s2",
        "mbconv_k3_e1+residual 8x8x8->8 s1",
        "mbconv_k5_m20_se8_hswish 8x8x8->12 s2",
        "mbconv_k3_m12 4x4x12->12 s1",
        "mbconv_k3_e3+residual 4x4x12->12 s1",
        "skip+residual 4x4x12->12 s1",
        "mbconv_k3_m24_nobn+residual 4x4x12->12 s1",
        "conv_k3_none_nobn_bias 4x4x12->16 s1",
        "conv_k3+residual 4x4x16->16 s1",
        "feature_mix_k1_relu 4x4x16->24 s1",
        "head_m30_relu6 4x4x24->10 s1",
    ]


def test_the_file_comes_back_equal_and_its_text_identical() -> None:
    chain = chain_of(CONFIG)
    text = chain.to_json([{"metric": "latency", "value": 1.5, "unit": "ms"}])
    again = read_design(text)
    assert again == chain
    assert again.to_json() == chain.to_json()
    assert json.loads(text)["chain"] == CONFIG  # defaults are left out
    assert hash(again) == hash(chain)


def test_either_format_is_read(load_space, random_paths) -> None:
    space = load_space("small")
    architecture = Architecture(space, random_paths(space, 0), "a")
    assert read_design(architecture.to_json()) == architecture
    assert isinstance(read_design(chain_of(CONFIG).to_json()), Chain)


def test_the_summary_names_every_layer() -> None:
    lines = chain_of(CONFIG).summary({"ms": [1.0] * 11}).splitlines()
    assert [line.split()[0] for line in lines[2:13]] == [
        "stem", *(f"block{i}" for i in range(8)), "feature_mix", "classifier"
    ]  # fmt: skip
    assert lines[-1].endswith("11")


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (
            changed(blocks=[{"op": "mbconv", "width": 16, "residual": True}]),
            "chain: block0.residual: got true at stride 1",
        ),
        (
            changed(blocks=[{"op": "mbconv", "width": 8, "stride": 2, "residual": True}]),
            "chain: block0.residual: got true",
        ),
        (
            changed(blocks=[{"op": "mbconv", "width": 8, "kernel": 4}]),
            "chain.blocks.0.mbconv.kernel: got 4, expected an odd",
        ),
        (with_block(width=0), "chain.blocks.0.mbconv.width: "),
        (changed(blocks=[{"op": "pool"}]), "chain.blocks.0: "),
        (changed(blocks=[{"op": "zero", "width": 3}]), "chain.blocks.0.zero.width: "),
        (changed(colour=3), "chain.colour: "),
        (changed(classifier={"classes": 1}), "chain.classifier.classes: "),
        (changed(activation="none"), "chain.activation: "),
        (changed(bn={"eps": 0}), "chain.bn.eps: "),
        ({key: value for key, value in CONFIG.items() if key != "stem"}, "chain.stem: "),
    ],
)
def test_a_wrong_key_is_named(config: dict[str, Any], line: str) -> None:
    with pytest.raises(InvalidError) as caught:
        chain_of(config)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("record", "line"),
    [
        ({"format": "proxylessnas/chain@2"}, "format: got 'proxylessnas/chain@2'"),
        ({"format": "proxylessnas/chain@1"}, "'chain' is missing"),
        ({"format": "proxylessnas/chain@1", "chain": CONFIG, "paths": []}, "unknown key 'paths'"),
        ({"format": "proxylessnas/chain@1", "chain": CONFIG, "name": 3}, "name: got 3, expected text"),
        (
            {"format": "proxylessnas/chain@1", "chain": CONFIG, "complexity": {"params": 1, "macs": 2}},
            "complexity: the file states",
        ),
    ],
)
def test_a_wrong_record_is_named(record: dict[str, Any], line: str) -> None:
    with pytest.raises(InvalidError) as caught:
        Chain.from_json(json.dumps(record))
    assert str(caught.value).startswith(line)


def test_weights_are_drawn_from_the_seed_alone() -> None:
    one, two = Network(chain_of(CONFIG), seed=3), Network(chain_of(CONFIG), seed=3)
    assert all(map(torch.equal, one.state_dict().values(), two.state_dict().values()))
    init_weights(two)
    assert not all(map(torch.equal, one.state_dict().values(), two.state_dict().values()))
    assert one.reading_names["edges.1"] == "block1.mbconv_k5_m20_se8_hswish"


def test_a_chain_config_may_have_no_blocks() -> None:
    chain = Chain(ChainConfig.model_validate(changed(blocks=[], feature_mix=None, classifier={"classes": 2})))
    assert Network(chain).eval()(torch.zeros(1, 3, 16, 16)).shape == (1, 2)
    assert chain.names == ()
