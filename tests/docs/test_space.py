"""The space of docs/extending/space.md is what the page says, and a small one is searched and retrained."""

from __future__ import annotations

import json
from itertools import product

import pytest
import torch
import torchvision

from search.config import SearchConfig
from supernet import CANDIDATES, Architecture, Network, Space
from supernet.blocks import build_op
from supernet.complexity import Complexity, conv_complexity, linear_complexity
from supernet.ops import OpSettings
from supernet.space import Layer

FORMER_FC, CLASSES = 2048, 1000
PUBLISHED = Complexity(25_557_032, 4_089_184_256)  # torchvision's ResNet-50, its 25.6 M and 4.1 G
PAGE = Complexity(26_632_232, 4_190_920_704)


@pytest.fixture(scope="module")
def path(checkout):
    return checkout / "configs" / "search" / "resnet_gpu.yaml"


@pytest.fixture(scope="module")
def space(path) -> Space:
    return Space(SearchConfig.read(path).space)


@pytest.fixture(scope="module")
def uniform(space) -> Architecture:
    return Architecture.from_names(space, ["maxpool_k3"] + ["bottleneck_k3_r4"] * 16)


def difference(a: Complexity, b: Complexity) -> Complexity:
    return Complexity(a.params - b.params, a.macs - b.macs)


def test_the_stages_are_those_of_resnet_50(space):
    edges = [(e.c_in, e.c_out, e.size, e.stride) for e in space.edges]
    assert (space.stem.size, space.stem.c_out, space.stem.stride) == (224, 64, 2)
    assert edges[0] == (64, 64, 112, 2)
    first = [(64, 256, 56, 1), (256, 512, 56, 2), (512, 1024, 28, 2), (1024, 2048, 14, 2)]
    assert [edge for edge in edges[1:] if edge[0] != edge[1]] == first
    assert [e.candidates for e in space.edges if "skip" in e.candidates] == [
        (*e.candidates[:-1], "skip") for e in space.edges if e.residual
    ]
    assert [sum(e.c_out == width for e in space.edges[1:]) for width in (256, 512, 1024, 2048)] == [3, 4, 6, 3]


def test_the_uniform_network_differs_from_resnet_50_in_its_head_alone(uniform, count):
    """Up to the head, each tensor of torchvision's network has one of the same shape here."""
    reference, own = torchvision.models.resnet50(), Network(uniform)
    images = torch.randn(1, 3, 224, 224)
    assert count(reference, images) == PUBLISHED
    assert count(own, images) == uniform.complexity == PAGE
    theirs = sorted(tuple(p.shape) for name, p in reference.named_parameters() if not name.startswith("fc."))
    ours = sorted(
        tuple(p.shape) for name, p in own.named_parameters() if not name.startswith(("feature_mix", "classifier"))
    )
    assert ours == theirs


def test_the_difference_from_resnet_50_is_the_one_that_the_page_states(uniform, checkout):
    mix = conv_complexity(FORMER_FC, 1024, 1, 7)
    classifier = difference(linear_complexity(1024, CLASSES), linear_complexity(FORMER_FC, CLASSES))
    assert difference(uniform.complexity, PUBLISHED) == mix + classifier
    page = (checkout / "docs" / "extending" / "space.md").read_text()
    for c in (PUBLISHED, mix, PAGE):
        assert f"{c.params:,} | " in page
        assert f"{c.macs:,} |" in page
    assert f"- {-classifier.params:,} | - {-classifier.macs:,} |" in page


@pytest.mark.parametrize("name", [f"bottleneck_k{k}_r{r}" for k, r in product((3, 5), (2, 4, 8))])
@pytest.mark.usefixtures("space")
def test_the_bottlenecks_formulas_for_params_and_macs_equal_what_hooks_count(name, check_candidate):
    check_candidate(name)


@pytest.mark.usefixtures("space")
def test_a_bottleneck_applies_no_activation_after_adding_its_projection():
    """With a last BN that gives -1 everywhere the op is -1 on an edge that adds x, and -1 plus the projection of x
    where it does not: no activation changes either."""
    for c_in, stride in ((32, 1), (16, 2)):
        op = build_op(Layer(CANDIDATES["bottleneck_k3_r4"], c_in, 32, 6, stride), OpSettings("relu")).eval()
        torch.nn.init.zeros_(op.expand.bn.weight)
        torch.nn.init.constant_(op.expand.bn.bias, -1.0)
        x = torch.randn(2, c_in, 6, 6)
        projected = torch.zeros_like(x) if c_in == 32 else op.shortcut(x)
        assert c_in == 32 or (projected < 0).any()
        assert torch.equal(op(x), projected - 1)


def test_a_small_space_of_bottlenecks_is_searched_derived_and_retrained(
    path, door, tmp_path, monkeypatch, formula_table
):
    """The commands run in another folder than the repository, and find the candidates' file from there."""
    monkeypatch.chdir(tmp_path)
    fake = "{name: fake, fake_images: 32, fake_classes: 2, validation: 0.5}"
    overrides = ["space.input_size=32", "space.classes=2", "space.width_multiplier=0.125", "space.feature_mix=32"]
    overrides += ["measure.device=cpu", f"data={fake}", "run.device=cpu", "run.amp=none", "run.threads=1"]
    overrides += ["search.batch_size=4", "search.warmup_epochs=1", "search.epochs=1", "search.arch_every=1"]
    overrides += ["search.regression.final_steps=2", "search.bn_batches=1", "search.evaluation_images=8"]
    overrides += ["run.log_every=1"]
    config = SearchConfig.read(path, overrides)
    space = Space(config.space)
    formula_table(space, config.measure).save(tmp_path / "tables" / "resnet_gpu.yaml")
    ended = door("run_search", path, "--out", "run", *overrides)
    assert ended.status == 0, ended.err
    record = json.loads((tmp_path / "run" / "architecture.json").read_text())
    assert record["predicted"][0]["value"] <= record["predicted"][0]["at"] * (1 + 1e-9)
    points = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [point["step"] for point in points if "arch/ce" in point] == [5, 6, 7, 8]

    retrain = tmp_path / "retrain.yaml"
    retrain.write_text(f"data: {fake}\nretrain: {{epochs: 1, batch_size: 16}}\nrun: {{threads: 1}}\n")
    ended = door("run_retrain", retrain, "--architecture", "run/architecture.json", "--out", "retrained")
    assert ended.status == 0, ended.err
    assert json.loads((tmp_path / "retrained" / "result.json").read_text())["test"]["images"] == 8
