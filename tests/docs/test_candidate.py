"""The example of docs/extending/candidate.md, a ghost bottleneck, is counted, trained, measured and searched."""

from __future__ import annotations

import json

import pytest
import torch

from latency.table import LatencyTable
from search.config import SearchConfig
from supernet import CANDIDATES, Architecture, Network, Space, Supernet
from supernet.blocks import build_op
from supernet.catalogue import import_candidates
from supernet.ops import OpSettings
from supernet.space import Layer

GHOSTS = [f"ghost_k{k}_e{e}" for k in (3, 5) for e in (3, 6)]


@pytest.fixture(scope="module")
def config(checkout) -> SearchConfig:
    path = checkout / "docs" / "examples" / "ghost_cpu.yaml"
    return SearchConfig.read(path)


@pytest.mark.parametrize("name", GHOSTS)
def test_the_examples_formulas_for_params_and_macs_equal_what_hooks_count(name, check_candidate):
    import_candidates("docs/examples/ghost.py")
    check_candidate(name)


def test_half_of_a_ghost_convolution_is_made_from_the_other_half():
    """If the depthwise convolution is an identity without activation, the second half of the channels equals the
    first."""
    import_candidates("docs/examples/ghost.py")
    op = build_op(Layer(CANDIDATES["ghost_k3_e3"], 4, 6, 5), OpSettings("relu")).eval()
    cheap = op.project.cheap
    torch.nn.init.dirac_(cheap.conv.weight, groups=3)
    out = op(torch.randn(2, 4, 5, 5))
    torch.testing.assert_close(out[:, 3:], out[:, :3] / (1 + cheap.bn.eps) ** 0.5)
    assert out.abs().sum() > 0


def test_a_supernet_with_own_candidates_gives_their_gates_gradients(config, count):
    space = Space(config.space)
    ghosts = tuple(next(i for i, name in enumerate(e.candidates) if "ghost" in name) for e in space.searchable)
    architecture = Architecture(space, ghosts)
    size = config.space.input_size
    images = torch.randn(4, 1, size, size)
    assert architecture.complexity == count(Network(architecture), images)
    gates = torch.zeros(space.mask.shape)
    gates[range(len(ghosts)), list(ghosts)] = 1
    supernet = Supernet(space)
    assert not list(supernet.buffers())  # their BN keeps no running statistics there
    (d_gates,) = torch.autograd.grad(supernet(images, ghosts, gates.requires_grad_()).square().sum(), [gates])
    assert (d_gates[range(len(ghosts)), list(ghosts)] != 0).all()


def test_own_candidates_are_measured_and_searched(checkout, door, tmp_path, monkeypatch):
    """The page's commands, on little: a table is measured on this CPU, then 4 steps are searched with it."""
    monkeypatch.chdir(tmp_path)  # the candidate's file is found all the same
    path = checkout / "docs" / "examples" / "ghost_cpu.yaml"
    little = ["measure.rounds=2", "measure.passes=1", "measure.warmup_passes=1", "measure.coverings=1"]
    little += ["measure.calibration_networks=0"]
    ended = door("measure_latency", path, "--out", "tables/ghost_cpu.yaml", *little)
    assert ended.status == 0, ended.err
    table = LatencyTable.load(tmp_path / "tables" / "ghost_cpu.yaml")
    entries = table.entries
    assert entries["ghost_k3_e3+residual 10x10x24->24 s1"].median_ms > 0
    assert entries["ghost_k5_e6 5x5x48->96 s1"].median_ms > 0

    # as if of another device: so few timings on a busy machine need not agree with the ones that the search would make
    elsewhere = table.device.model_copy(update={"fingerprint": "another"})
    table.model_copy(update={"device": elsewhere}).save(tmp_path / "tables" / "ghost_cpu.yaml")
    shorter = ["data={name: fake, fake_images: 32, validation: 0.5}", "search.batch_size=4", "search.warmup_epochs=0"]
    shorter += ["search.epochs=1", "search.bn_batches=1", "search.regression.final_steps=2", "run.threads=1"]
    ended = door("run_search", path, "--out", "run", *little, *shorter)
    assert ended.status == 0, ended.err
    record = json.loads((tmp_path / "run" / "architecture.json").read_text())
    assert record["space"]["candidate_modules"] == ["docs/examples/ghost.py"]
    assert len(record["paths"]) == 8
