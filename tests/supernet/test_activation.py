"""Working sets against sums made by hand, in elements: pixels times channels."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from supernet.activation import working_set
from supernet.catalogue import CANDIDATES, Candidate, FeatureMixSpec, PoolClassifierSpec, StemSpec
from supernet.complexity import Complexity
from supernet.ops import OpSettings
from supernet.space import Layer

RELU6 = OpSettings("relu6")


def layer(name, c_in, c_out, size, stride=1, residual=False):
    return Layer(CANDIDATES[name], c_in, c_out, size, stride, residual)


def test_the_working_set_of_an_inverted_residual_is_the_one_counted_by_hand():
    """mbconv_k3_e6+residual 28x28x40->40: the depthwise convolution reads 240 channels and writes 240 while the edge's
    40 wait for the add. Activations and BN change tensors in place."""
    assert working_set(layer("mbconv_k3_e6", 40, 40, 28, residual=True), RELU6) == 28 * 28 * (240 + 240 + 40)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (layer("mbconv_k3_e6", 40, 40, 28), 28 * 28 * (240 + 240)),  # no add: the input is gone after the expansion
        (layer("mbconv_k3_e1", 40, 40, 28, residual=True), 28 * 28 * (40 + 40 + 40)),  # project, while the input waits
        (layer("mbconv_k5_e6", 40, 80, 28, stride=2), 28 * 28 * 240 + 14 * 14 * 240),
        (layer("conv_k3", 8, 24, 10), 10 * 10 * (8 + 24)),
        (layer("conv_k3", 8, 24, 11, stride=2), 11 * 11 * 8 + 6 * 6 * 24),  # ceil(11 / 2)
        (layer("maxpool_k3", 8, 8, 10, residual=True), 10 * 10 * (8 + 8)),
        (layer("skip", 8, 8, 10, residual=True), 10 * 10 * 8),
        (Layer(StemSpec(3), 3, 32, 224, 2), 224 * 224 * 3 + 112 * 112 * 32),
        (Layer(FeatureMixSpec(), 320, 1280, 7), 7 * 7 * (320 + 1280)),
        (Layer(PoolClassifierSpec(0.2), 1280, 1000, 7), 7 * 7 * 1280 + 1280),  # then 1280 + 1000
    ],
    ids=lambda value: str(value),
)
def test_the_working_sets_of_ops_are_those_counted_by_hand(made, expected):
    assert working_set(made, RELU6) == expected


@pytest.mark.parametrize("activation", ["relu6", "relu", "hswish"])
def test_no_activation_function_needs_a_second_tensor(activation):
    made = layer("mbconv_k3_e6", 40, 40, 28, residual=True)
    assert working_set(made, OpSettings(activation, running_stats=False)) == working_set(made, RELU6)


def test_squeeze_excite_keeps_the_tensor_that_it_scales():
    """With one pixel, its hidden layer is as large as the map: hidden + squeezed + hidden, beside the edge's input."""
    c_in, hidden, squeezed = 40, 240, 64  # 240 / 4 = 60, rounded to 8
    one = layer("mbconv_k3_e6_se", c_in, c_in, 1, residual=True)
    # expand of the squeeze: reads 64, writes 240 (its gate), while the map of 240 and the edge's 40 wait
    assert working_set(one, RELU6) == hidden + squeezed + hidden + c_in
    wide = layer("mbconv_k3_e6_se", c_in, c_in, 28, residual=True)
    assert working_set(wide, RELU6) == 28 * 28 * (240 + 240 + 40)  # still the depthwise convolution


class Branches(nn.Module):
    """Two branches: the input lives until the second has read it, and the first's output until they are joined."""

    def __init__(self, c_in, c_out):
        super().__init__()
        self.a, self.b = nn.Conv2d(c_in, c_out // 2, 1), nn.Conv2d(c_in, c_out // 2, 1)

    def forward(self, x):
        first = torch.tanh(self.a(x))
        return torch.cat([first, self.b(x)], dim=1)


@dataclass(frozen=True)
class BranchesSpec(Candidate):
    dynamic: bool = False

    def __str__(self):
        return "branches"

    def build(self, c_in, c_out, stride, settings):
        return Dynamic() if self.dynamic else Branches(c_in, c_out)

    def complexity(self, c_in, c_out, size, stride):
        return Complexity()


class Dynamic(nn.Module):
    def forward(self, x):
        return x * float(x.sum())


def test_the_working_set_of_an_own_candidate_counts_ops_that_are_no_modules():
    made = Layer(BranchesSpec(), 8, 20, 6)
    assert working_set(made, RELU6) == 6 * 6 * (10 + 10 + 20)  # the join; before it 8 + 10 + 10


def test_a_candidate_that_cannot_run_on_the_meta_device_is_named_in_the_error():
    with pytest.raises(ValueError, match=r"'branches 6x6x8->8 s1': its peak activation cannot be computed"):
        working_set(Layer(BranchesSpec(dynamic=True), 8, 8, 6), RELU6)


def test_a_working_set_leaves_torchs_random_state_unchanged():
    before = torch.get_rng_state()
    working_set(layer("mbconv_k7_e6", 48, 48, 9, residual=True), RELU6)
    assert torch.equal(torch.get_rng_state(), before)
