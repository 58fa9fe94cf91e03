"""The Keras model of a network computes what the network computes."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.official_parity import mobilenet_v3_chain
from engine.errors import UserError
from proxyless_nas_tensorflow import keras_model, libraries
from proxyless_nas_tensorflow.builder import CONVERSIONS, Graph
from published.networks import CPU, EFFICIENTNET_LITE0, cifar_chain, mobile_chain
from supernet.blocks import Block
from supernet.catalogue import CANDIDATES, Candidate, ConvSpec
from supernet.chain import Chain, ConvConfig
from supernet.network import Network
from supernet.ops import OpSettings
from supernet.space import Layer
from supernet.tree import UnitConfig
from tests.proxyless_nas_tensorflow.conftest import images_for

pytestmark = pytest.mark.usefixtures("needs_tensorflow")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
OURS = {name: spec for name, spec in CANDIDATES.items() if type(spec).__module__ == "supernet.catalogue"}


def computed(model: Any, x: Tensor) -> Any:
    """Returns what a Keras model gives for x (N, C, H, W), (N, classes) or several of them by name."""
    found = model(x.permute(0, 2, 3, 1).contiguous().numpy(), training=False)
    if isinstance(found, dict):
        return {name: torch.from_numpy(out.numpy().copy()) for name, out in found.items()}
    return torch.from_numpy(found.numpy().copy())


def both(modules: dict[str, nn.Module], x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns what each module gives for x (N, C, H, W), computed by PyTorch and by the layers of one Keras model."""
    keras = libraries.keras()
    holder = nn.ModuleDict(modules).eval()
    graph, images = Graph(keras), keras.Input((*x.shape[2:], x.shape[1]))
    outputs = {name: graph.run(name, module, images) for name, module in holder.items()}
    model = keras.Model(images, outputs)
    graph.copy_weights(holder, model)
    theirs = {name: out.permute(0, 3, 1, 2) if out.dim() == 4 else out for name, out in computed(model, x).items()}
    with torch.no_grad():
        return {name: module(x) for name, module in holder.items()}, theirs


@pytest.mark.parametrize(
    ("stride", "size", "activation", "padding"),
    [
        (1, 9, "relu6", "symmetric"),
        (2, 10, "hswish", "symmetric"),
        (2, 9, "relu", "symmetric"),
        (2, 10, "relu6", "same"),
    ],
)
def test_every_op_of_the_catalogue_is_built(as_if_trained, stride, size, activation, padding):
    settings = OpSettings(activation=activation, bn_eps=0.01, padding=padding)
    x = images_for(8, size)
    blocks: dict[str, nn.Module] = {}
    for name, spec in OURS.items():
        if getattr(spec, "expand", 1) in (1, 3) and not spec.why_illegal(8, 8, stride, residual=stride == 1):
            block = Block(Layer(spec, 8, 8, size, stride, residual=stride == 1), settings)
            blocks[name] = as_if_trained(block, x)
    assert len(blocks) == 12 + 9 + (stride == 1)
    ours, theirs = both(blocks, x)
    torch.testing.assert_close(theirs, ours, **CLOSE)


PARTS = {
    "grouped": nn.Conv2d(8, 12, 3, 2, 1, groups=4),
    "dilated": nn.Conv2d(8, 8, 3, 1, 2, dilation=2),
    "dilated, with a stride": nn.Conv2d(8, 4, 3, 2, 2, dilation=2),
    "without padding": nn.Conv2d(8, 4, 5, 2, padding="valid"),
    "padded as named": nn.Conv2d(8, 4, 5, padding="same", dilation=2),
    "rectangular": nn.Conv2d(8, 4, (1, 5), (2, 1), (0, 2)),
    "two maps of a channel": nn.Conv2d(8, 16, 3, 2, 1, groups=8),
    "depthwise, unequal strides": nn.Conv2d(8, 8, 3, (1, 2), 1, groups=8),
    "average of zeros too": nn.AvgPool2d(3, 2, 1),
    "average without padding": nn.AvgPool2d(2),
    "maximum without padding": nn.MaxPool2d(3, 2),
    "average in stride": nn.AvgPool2d(5, 3, 2, count_include_pad=False),
    "thirds": nn.AdaptiveAvgPool2d(3),
    "soft gate": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Sigmoid()),
    "silu": nn.SiLU(),
    "no scale": nn.BatchNorm2d(8, affine=False),
    "dropped": nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Dropout(0.5), nn.Flatten(), nn.Linear(32, 3, bias=False)),
    "one by one": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
}


def test_pytorchs_own_layers_are_built(as_if_trained):
    x = images_for(8, 12)
    names = {f"part{i}": name for i, name in enumerate(PARTS)}
    ours, theirs = both({key: as_if_trained(PARTS[name], x) for key, name in names.items()}, x)
    for key, name in names.items():
        torch.testing.assert_close(theirs[key], ours[key], **CLOSE, msg=lambda text, name=name: f"{name}: {text}")


def small(chain: Chain, size: int, classes: int = 10) -> Chain:
    head = chain.config.classifier.model_copy(update={"classes": classes})
    return Chain(chain.config.model_copy(update={"input_size": size, "classifier": head}), chain.name)


def tree() -> Chain:
    """The first block of the CIFAR-10 network, a block of stride 2, and its pool, with dropout, groups and a bias."""
    chain = cifar_chain()
    odd = UnitConfig(
        kind="conv", width=24, kernel=3, groups=4, shuffle=True, bias=True, order="weight_bn_act", dropout=0.1,
        activation="relu6",
    )  # fmt: skip
    blocks = chain.config.blocks
    shuffled = blocks[-1].model_copy(update={"units": (odd, *blocks[-1].units)})
    config = chain.config.model_copy(update={"blocks": (blocks[0], blocks[18], shuffled)})
    return Chain(config, "tree")


NETWORKS: dict[str, Callable[[], Chain]] = {
    "proxyless_cpu": lambda: small(mobile_chain("proxyless_cpu", 40, CPU, 1432, dropout=0.2), 33),
    "efficientnet_lite0": lambda: small(mobile_chain("lite0", 32, EFFICIENTNET_LITE0, 1280, padding="same"), 48),
    "mobilenet_v3": lambda: mobilenet_v3_chain(random.Random(1)),
    "tree": tree,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_and_its_keras_model_give_equal_logits(as_if_trained, name):
    design = NETWORKS[name]()
    images = images_for(3, design.input_size, 8)
    network = as_if_trained(Network(design, seed=3), images)
    model = keras_model(network)
    assert model.input_shape == (None, design.input_size, design.input_size, 3)
    with torch.no_grad():
        logits = network(images)
    assert logits.std() > 0.1
    torch.testing.assert_close(computed(model, images), logits, rtol=0, atol=1e-4)


def test_bn_momentum_eps_and_dropout_come_along():
    chain = small(mobile_chain("a", 8, ((8, 2, "k3e1"),), 16, eps=1e-2, momentum=0.01, dropout=0.3), 8)
    model = keras_model(chain)
    bn = model.get_layer("edges.0.op.depthwise.bn")
    assert (bn.momentum, bn.epsilon) == (pytest.approx(0.99), pytest.approx(1e-2))
    assert model.get_layer("classifier.dropout").rate == 0.3
    assert model.name == "a"


def test_a_training_step_of_keras_moves_the_weights(as_if_trained):
    """The model has layers of Keras alone, so that it can be trained there."""
    chain = small(mobile_chain("a", 8, ((8, 2, "k3e1"),), 16), 8, classes=3)
    model = keras_model(chain)
    before = [value.copy() for value in model.get_weights()]
    model.compile("sgd", libraries.keras().losses.SparseCategoricalCrossentropy(from_logits=True))
    model.train_on_batch(images_for(3, 8).permute(0, 2, 3, 1).numpy(), torch.tensor([0, 1, 2, 0]).numpy())
    assert all((was != now).any() for was, now in zip(before, model.get_weights(), strict=True))


def test_a_keras_model_for_another_input_size_computes_the_same(as_if_trained):
    design = small(mobile_chain("a", 8, ((8, 2, "k3e1"), (16, 2, "k5e3")), 16), 16)
    images = images_for(3, 23)
    network = as_if_trained(Network(design), images)
    with torch.no_grad():
        torch.testing.assert_close(computed(keras_model(network, input_size=23), images), network(images), **CLOSE)


@dataclass(frozen=True)
class OwnSpec(ConvSpec):
    def build(self, c_in: int, c_out: int, stride: int, settings: OpSettings) -> nn.Module:
        return Own(super().build(c_in, c_out, stride, settings))

    def __str__(self) -> str:
        return "own_k1"


class Own(nn.Module):
    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return -self.inner(x)


@pytest.fixture
def with_an_own_op() -> Network:
    chain = small(mobile_chain("mine", 8, ((8, 1, "k3e1"),), 16), 8)
    network = Network(chain)
    own: Candidate = OwnSpec(1)
    layer = Layer(own, 8, 8, 4, residual=True)
    network.edges[0] = Block(layer, chain.op_settings)
    stem, edge, *rest = chain.places
    chain.__dict__["places"] = (stem, (edge[0], layer), *rest)
    return network


def test_an_op_without_a_counterpart_is_refused_by_its_name(with_an_own_op):
    with pytest.raises(UserError, match=r"^mine: block0: 'own_k1': has a module of class Own, which no layer of "):
        keras_model(with_an_own_op)


def test_a_conversion_of_an_own_op_can_be_entered(with_an_own_op, as_if_trained, monkeypatch):
    def negated(graph: Graph, path: str, own: Own, x: Any) -> Any:
        return -graph.run(f"{path}.inner", own.inner, x)

    monkeypatch.setitem(CONVERSIONS, Own, negated)
    images = images_for(3, 8)
    network = as_if_trained(with_an_own_op, images)
    with torch.no_grad():
        torch.testing.assert_close(computed(keras_model(network), images), network(images), **CLOSE)


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), "pads with 'reflect', expected zeros"),
        (nn.AvgPool2d(3, 2, ceil_mode=True), "expected a pool without ceil_mode"),
        (nn.MaxPool2d(4, 2, 1), "expected a pool whose padding is 0 or half of an odd kernel"),
        (nn.AdaptiveAvgPool2d(3), r"on 8 x 8 pixels, expected an output that divides them"),
        (nn.BatchNorm2d(3, track_running_stats=False), "without running statistics"),
        (nn.GELU(), "has a module of class GELU"),
    ],
)
def test_a_layer_that_tensorflow_cannot_express_is_refused(module, says):
    with pytest.raises(ValueError, match=says):
        both({"m": module}, images_for(3, 8))


def test_another_module_is_refused():
    with pytest.raises(UserError, match=r"^network: is of class Conv2d, expected a Network, or what describes one"):
        keras_model(nn.Conv2d(3, 3, 1))


def test_a_weight_that_no_layer_takes_is_refused(as_if_trained):
    network = Network(small(mobile_chain("a", 8, ((8, 1, "k3e1"),), 16), 8))
    network.stem.conv.gain = nn.Parameter(torch.ones(1))
    with pytest.raises(UserError, match=r"^a: the weight stem.conv.gain belongs to no layer"):
        keras_model(network)


def test_a_stem_without_bn_and_with_a_bias(as_if_trained):
    chain = small(mobile_chain("a", 8, ((8, 1, "k3e1"),), 16), 8)
    stem = ConvConfig(op="conv", width=8, bn=False, bias=True, activation="hswish", stride=2)
    chain = Chain(chain.config.model_copy(update={"stem": stem, "feature_mix": None}), "a")
    images = images_for(3, 8)
    network = as_if_trained(Network(chain), images)
    with torch.no_grad():
        torch.testing.assert_close(computed(keras_model(network), images), network(images), **CLOSE)
