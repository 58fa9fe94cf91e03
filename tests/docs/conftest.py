"""A check that every candidate of a user's own has to pass, whatever it computes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from supernet import CANDIDATES
from supernet.blocks import build_op
from supernet.ops import OpSettings
from supernet.space import Layer

SHAPES = [(16, 16, 8, 1), (16, 24, 7, 2), (64, 128, 9, 2), (7, 9, 9, 1), (5, 5, 7, 2), (24, 16, 1, 1)]


@pytest.fixture
def check_candidate(count) -> Callable[[str], None]:
    """check_candidate("ghost_k3_e3") compares params and MACs with hooks, and checks the output's shape."""

    def check(name: str) -> None:
        for c_in, c_out, size, stride in SHAPES:
            layer = Layer(CANDIDATES[name], c_in, c_out, size, stride)
            op = build_op(layer, OpSettings("relu"))
            x = torch.randn(2, c_in, size, size)
            before = x.clone()
            assert layer.complexity == count(op, x), layer
            assert op(x).shape == (2, c_out, layer.size_out, layer.size_out)
            assert torch.equal(x, before)

    return check
