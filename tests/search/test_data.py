"""A search on data as they come: a list without a split, with classes of different sizes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from search import loop
from search.loop import run_search
from tests.engine.image_folder import labelled_list
from tests.search.test_runs import search_of


@pytest.fixture
def listed(tmp_path) -> Path:
    """A list of 12 grey images of class 0 and 28 of each of three others."""
    return labelled_list(tmp_path, [0 if i < 12 else 1 + i % 3 for i in range(96)])


@pytest.mark.parametrize("balance", ["weights", "sampling"])
def test_the_training_part_of_a_search_is_balanced(balance, listed, make_tiny_config, tmp_path, monkeypatch):
    """A quarter of each class tests, half of the rest is for alpha: 4 or 5, and 10 or 11, of a class train."""
    labels: list[int] = []
    weights: list[Any] = []
    real = loop.weights_step

    def step(net: Any, batch: Any, *rest: Any) -> Any:
        labels.extend(batch.labels.tolist())
        weights.append(rest[-1])
        return real(net, batch, *rest)

    monkeypatch.setattr(loop, "weights_step", step)
    config = search_of(make_tiny_config())
    config["search"] |= {"warmup_epochs": 0, "epochs": 2, "batch_size": 6, "arch_every": 4}
    config["data"] = {"name": "csv", "csv": str(listed), "test": 0.25, "balance": balance, "workers": 0}
    run_search(config, tmp_path / "run")
    counts = Counter(labels)
    if balance == "sampling":
        assert max(counts.values()) - min(counts.values()) <= 3  # the last images of an epoch fill no batch
        assert weights == [None] * len(weights)
    else:
        assert counts[0] < 0.6 * min(counts[c] for c in (1, 2, 3))
        given = weights[0] * torch.tensor([counts[c] for c in range(4)]) / len(labels)
        torch.testing.assert_close(given, torch.full((4,), 0.25), atol=0.05, rtol=0)
