"""The modules of the candidates compute what their formulas say."""

import pytest
import torch
import torchvision
from torch import nn

from supernet import CANDIDATES
from supernet.ops import InputMoments, MBConv, OpSettings, PoolClassifier, SqueezeExcite


def test_squeeze_excite_computes_the_same_as_torchvisions_mobilenet_v3():
    ours = SqueezeExcite(24, 8)
    theirs = torchvision.ops.SqueezeExcitation(24, 8, scale_activation=nn.Hardsigmoid)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x = torch.randn(2, 24, 5, 5)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(("c_in", "expand", "squeezed"), [(24, 3, 24), (40, 3, 32), (80, 6, 120), (112, 6, 168)])
def test_squeezed_widths_are_those_of_mobilenet_v3(c_in, expand, squeezed):
    """A quarter of the hidden channels, rounded to 8 (arXiv 1905.02244, Table 1)."""
    op = CANDIDATES[f"mbconv_k5_e{expand}_se"].build(c_in, c_in, 1, OpSettings())
    assert op.excite.reduce.weight.shape == (squeezed, c_in * expand, 1, 1)


@pytest.mark.parametrize("trains", [False, True])
def test_logits_under_autocast_are_those_of_float32(trains):
    """1000 classes have 1000 logits; in bfloat16 most would tie with another."""
    torch.manual_seed(0)
    classifier = PoolClassifier(64, 1000, dropout=0.2).train(trains)
    x = torch.randn(4, 64, 3, 3).bfloat16()
    torch.manual_seed(1)
    expected = classifier(x.float())
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = classifier(x)
        assert torch.nn.functional.linear(x.mean(dim=(2, 3)), classifier.linear.weight).dtype == torch.bfloat16
    assert logits.dtype == torch.float32
    assert logits[0].unique().numel() == 1000
    torch.testing.assert_close(logits, expected)
    logits.sum().backward()
    assert all(p.grad is not None for p in classifier.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_classifier_without_autocast_computes_in_its_own_precision(dtype):
    """A latency table times the classifier so."""
    assert PoolClassifier(8, 5, dropout=0.0).to(dtype)(torch.randn(2, 8, 3, 3, dtype=dtype)).dtype == dtype


def test_a_classifier_runs_on_the_meta_device():
    """Activation sizes are computed there, and torch has no autocast for it."""
    logits = PoolClassifier(8, 5, dropout=0.0).to("meta")(torch.randn(2, 8, 3, 3, device="meta"))
    assert logits.shape == (2, 5)


def test_pooling_ignores_its_padding():
    """A constant map stays constant up to its border."""
    x = torch.full((1, 2, 5, 5), -3.0)
    for name in ("avgpool_k3", "maxpool_k3"):
        pool = CANDIDATES[name].build(2, 2, 2, OpSettings())
        assert torch.equal(pool(x), torch.full((1, 2, 3, 3), -3.0))


@pytest.mark.parametrize("name", ["mbconv_k3_e6", "mbconv_k5_e1_se", "sepconv_k3", "proj"])
def test_the_last_layer_is_linear(name):
    """Nothing follows the last BN: outputs are normalised, so they take both signs."""
    out = CANDIDATES[name].build(8, 8, 1, OpSettings("relu6", running_stats=False))(torch.randn(8, 8, 6, 6))
    torch.testing.assert_close(out.mean(dim=(0, 2, 3)), torch.zeros(8), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("activation", "kind"), [("relu6", nn.ReLU6), ("relu", nn.ReLU), ("hswish", nn.Hardswish)])
def test_all_ops_have_the_activation_of_the_space(activation, kind):
    op = MBConv(8, 8, OpSettings(activation), kernel_size=3, stride=1, expand=2)
    assert sum(isinstance(m, kind) for m in op.modules()) == 2


@pytest.mark.parametrize("name", CANDIDATES)
@pytest.mark.parametrize("activation", ["relu6", "hswish"])
def test_no_candidate_changes_its_input(name, activation):
    """The same input goes to the other candidates and to the residual add."""
    x = torch.randn(2, 8, 5, 5)
    before = x.clone()
    CANDIDATES[name].build(8, 8, 1, OpSettings(activation))(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("offset", [0.0, 30.0])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_an_expansion_by_moments_computes_the_same_as_the_modules(dtype, offset, layout):
    """Batch statistics of W x from the mean and covariance of x; an input far from 0 does not cancel."""
    generator = torch.Generator().manual_seed(0)
    op = MBConv(6, 8, OpSettings(running_stats=False), kernel_size=3, stride=2, expand=3).to(dtype)
    x = (torch.randn(4, 6, 9, 9, generator=generator, dtype=dtype) + offset).to(memory_format=layout)
    with torch.no_grad():
        torch.nn.init.normal_(op.expand.bn.weight, generator=generator)
        torch.nn.init.normal_(op.expand.bn.bias, generator=generator)
        tolerance = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-3, "atol": 1e-3}
        torch.testing.assert_close(op(x, InputMoments.of(x)), op(x), **tolerance)
