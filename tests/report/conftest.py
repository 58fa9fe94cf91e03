"""A search and the retraining of its network, for reports and publications."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import proxyless_nas as pn


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def runs(one_thread, tmp_path_factory, tiny_search, formula_table, space_of) -> Path:
    """A search in `search`, whose table is of another device, and in `retrain` the retraining of its network."""
    home = tmp_path_factory.mktemp("runs")
    table = home / "table.yaml"
    formula_table(space_of(tiny_search["space"])).save(table)
    limits = [{"metric": "latency", "table": str(table), "at": "50%"}]
    pn.search({**tiny_search, "limits": limits}, home / "search")
    pn.derive(home / "search", ["20%", "80%"])
    settings = {
        "data": {"name": "fake", "fake_images": 32, "fake_classes": 2, "workers": 0},
        "retrain": {"epochs": 1, "batch_size": 8},
        "run": {"threads": 1},
    }
    pn.retrain(settings, home / "search" / "architecture.json", home / "retrain")
    return home
