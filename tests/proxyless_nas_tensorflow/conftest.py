"""Networks whose BN statistics are those of a trained one: all different, and of the data."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from engine.evaluation import recalibrate_bn


@pytest.fixture
def needs_tensorflow() -> None:
    pytest.importorskip("tensorflow", reason="needs the extra [tensorflow]")


def images_for(channels: int, size: int, count: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="session")
def as_if_trained() -> Callable[[nn.Module, Tensor], nn.Module]:
    """as_if_trained(network, images): gives all biases and BN's scales and shifts random values, and BN the statistics
    of the images; returns the network in eval mode."""

    def prepared(network: nn.Module, images: Tensor) -> nn.Module:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if parameter.dim() == 1:
                    low = 0.5 if name.endswith("weight") else -0.5
                    parameter.copy_(torch.rand(parameter.shape, generator=generator) + low)
        if any(isinstance(m, nn.BatchNorm2d) for m in network.modules()):
            recalibrate_bn(network, [images])
        return network.eval()

    return prepared
