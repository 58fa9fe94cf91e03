"""The term of docs/extending/objective.md is an expectation, its reward a minimum, and a search runs with each."""

from __future__ import annotations

import json
import math
from itertools import product

import pytest
import torch

from search.learn.reinforce import Sampled
from search.own import own_function
from supernet import Architecture
from supernet.alpha import Alpha

EXAMPLE = "docs/examples/own_objective.py"


@pytest.fixture
def space(tiny_search, space_of):
    return space_of(tiny_search["space"])


def count_changes(names, space):
    stages = [edge.name.partition(".")[0] for edge in space.searchable]
    return sum(a != b and s == t for a, b, s, t in zip(names, names[1:], stages, stages[1:], strict=False))


def test_the_examples_term_is_the_expected_number_of_changes(space):
    """The reference is an enumeration: the sum over architectures of p(architecture) * changes."""
    changes = own_function(f"{EXAMPLE}:changes", "search.terms")
    draws = torch.Generator().manual_seed(0)
    p = Alpha.of_space(space, torch.randn(space.mask.shape, generator=draws)).probabilities()
    expected = 0.0
    for paths in product(*(range(int(n)) for n in space.mask.sum(axis=1))):
        chance = math.prod(float(p[e, i]) for e, i in enumerate(paths))
        names = [edge.candidates[i] for edge, i in zip(space.searchable, paths, strict=True)]
        expected += chance * count_changes(names, space)
    assert float(changes(p, space, 0.0)) == pytest.approx(expected, rel=1e-12)


def test_the_examples_reward_is_the_worst_recall(space):
    worst_class = own_function(f"{EXAMPLE}:worst_class", "search.reinforce.reward")
    logits = torch.eye(3)[[0, 0, 1, 2, 2, 1]]  # class 0: 2 of 2, class 1: 1 of 3, class 2: 1 of 1
    labels = torch.tensor([0, 0, 1, 1, 1, 2])
    logits[5] = torch.tensor([0.0, 0.0, 1.0])
    sample = Sampled(Architecture(space, (0,) * len(space.searchable)), 0.5, logits, labels, {"latency": 80.0})
    assert worst_class(sample) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "search",
    [
        {"arch_update": "two_path", "terms": [{"function": f"{EXAMPLE}:changes", "weight": 0.1}]},
        {"arch_update": "reinforce", "reinforce": {"reward": f"{EXAMPLE}:worst_class", "samples": 2}},
    ],
)
def test_a_search_runs_with_the_examples_term_or_reward(
    tmp_path, door, tiny_search, formula_table, write_yaml, space, monkeypatch, search
):
    monkeypatch.chdir(tmp_path)  # the example is found from anywhere
    formula_table(space).save(tmp_path / "table.yaml")
    config = tiny_search | {"search": tiny_search["search"] | search}
    ended = door("run_search", write_yaml(tmp_path / "search.yaml", config), "--out", tmp_path / "run")
    assert ended.status == 0, ended.err
    curves = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any(("arch/terms" if "terms" in search else "arch/reward") in point for point in curves)
