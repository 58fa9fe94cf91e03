"""What the tests of exporting share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import export.job
import export.simulation
from export.program import Program, make_program, weights_sha256


@pytest.fixture(scope="package", autouse=True)
def graphs_made_once():
    """Keeps the graph that torch.export makes of a network, which takes most of the time of these tests. A network
    with other weights, layers or settings has a graph of its own."""
    kept: dict[tuple[object, ...], Program] = {}

    def made(
        network: torch.nn.Module, name: str, preprocessing: Any, batch: int, layout: Any, normalise: bool,
        metadata: dict[str, Any], *, pools_keep_dims: bool = False,
    ) -> Program:  # fmt: skip
        key = (weights_sha256(network), repr(network), preprocessing, batch, layout, normalise, pools_keep_dims)
        if key not in kept:
            kept[key] = make_program(
                network, name, preprocessing, batch, layout, normalise, metadata, pools_keep_dims=pools_keep_dims
            )
        return replace(kept[key], metadata=metadata)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export.job, "make_program", made)
        patch.setattr(export.simulation, "make_program", made)
        yield
