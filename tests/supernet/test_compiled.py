"""Compiled candidates compute what their modules do; layers of equal shape share a program, kept if it is faster."""

from __future__ import annotations

import copy
import shutil
import warnings
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed
from torch._dynamo.utils import counters

from supernet import Space, Supernet, compiled
from supernet.compiled import CompileError, compile_candidates, distinct_candidates

CANDIDATES = ["skip", "conv_k3", "sepconv_k3"]

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler (g++)")


@pytest.fixture
def space(make_space) -> Space:
    """Two searchable edges of the same shape: 6 candidates, 2 distinct layers that compute something."""
    stage = {"width": 6, "depth": 2, "candidates": CANDIDATES}
    return make_space(stage, input_size=8, classes=4, stem={"width": 6, "stride": 1}, feature_mix=8)


@pytest.fixture
def net(space) -> Supernet:
    return Supernet(space, seed=1).double().to(memory_format=torch.channels_last)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return images.to(memory_format=torch.channels_last), torch.tensor([0, 1, 2, 3])


@pytest.fixture
def stands_in(monkeypatch):
    """Replaces torch.compile by `make`, so that nothing is compiled."""

    def replace(make) -> None:
        monkeypatch.setattr(torch, "compile", lambda function, **_: make(function))

    return replace


def gradients(net: Supernet, batch: tuple[Tensor, Tensor], paths: tuple[int, ...]) -> list[Tensor | None]:
    """Returns the loss, dL/dg of all candidates, and dL/dw."""
    gates = F.one_hot(torch.tensor(paths), len(CANDIDATES)).double().requires_grad_()
    net.zero_grad(set_to_none=True)
    loss = F.cross_entropy(net(batch[0], paths, gates), batch[1])
    loss.backward()
    return [loss.detach(), gates.grad, *(p.grad for p in net.parameters())]


@needs_compiler
def test_compiled_and_eager_candidates_compute_the_same(net, batch):
    eager = copy.deepcopy(net)
    before = counters["stats"]["unique_graphs"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trials = compile_candidates(net, batch[0], faster=float("inf"))
    assert [str(trial.layer.spec) for trial in trials] == ["conv_k3", "sepconv_k3"]
    assert all(trial.kept and trial.ratio > 0 for trial in trials)
    assert all(p.grad is None and torch.equal(p, q) for p, q in zip(net.parameters(), eager.parameters(), strict=True))
    for paths in product(range(3), repeat=2):
        for ours, theirs in zip(gradients(net, batch, paths), gradients(eager, batch, paths), strict=True):
            assert (ours is None) == (theirs is None)
            if ours is not None:
                torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    # both edges share the programs, and no path compiled anything more
    assert counters["stats"]["unique_graphs"] - before == len(trials) == len(distinct_candidates(net))


def test_compiled_programs_run_only_if_a_graph_is_kept(net, batch, stands_in):
    ran = []

    def counted(function):
        def call(op: nn.Module, x: Tensor) -> Tensor:
            ran.append(type(op).__name__)
            return function(op, x)

        return call

    stands_in(counted)
    compile_candidates(net, batch[0], faster=float("inf"))
    ran.clear()
    net(batch[0], (1, 2))
    assert ran == ["ConvBNAct", "SepConv"]
    with torch.no_grad():
        net(batch[0], (1, 2))
    gradients(net, batch, (0, 1))  # the gates of the others are evaluated without a graph
    assert ran == ["ConvBNAct", "SepConv", "ConvBNAct"]


def test_a_program_is_kept_only_if_it_is_faster(net, batch, stands_in, monkeypatch):
    stands_in(lambda function: function)
    ratios = iter([0.9, 0.99])
    monkeypatch.setattr(compiled, "compared", lambda *_: next(ratios))
    assert [trial.kept for trial in compile_candidates(net, batch[0])] == [True, False]
    assert [sorted(edge.compiled) for edge in compiled.mixed_edges(net)] == [[1], [1]]
    ratios = iter([0.98, 0.98])
    assert not any(trial.kept for trial in compile_candidates(net, batch[0]))
    assert [edge.compiled for edge in compiled.mixed_edges(net)] == [{}, {}]  # nothing is left of the first time


def test_all_processes_keep_the_same_programs(net, batch, stands_in, monkeypatch):
    stands_in(lambda function: function)
    monkeypatch.setattr(compiled, "compared", lambda *_: 0.5)
    trials = compile_candidates(net, batch[0], agree=lambda ratios: [None, ratios[1]])
    assert [(trial.ratio, trial.kept) for trial in trials] == [(None, False), (0.5, True)]
    assert [sorted(edge.compiled) for edge in compiled.mixed_edges(net)] == [[2], [2]]


def test_a_program_that_runs_its_op_twice_is_slower_and_not_kept(net, batch, stands_in):
    def twice(function):
        return lambda op, x: (function(op, x), function(op, x), function(op, x), function(op, x))[0]

    stands_in(twice)
    images = torch.randn(64, 3, 8, 8, dtype=torch.float64)
    assert all(trial.ratio > 1 and not trial.kept for trial in compile_candidates(net, images))


@needs_compiler
def test_a_candidate_that_torch_cannot_translate_stays_eager(net, batch):
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.detach().sum()) > 0 else -x

    for edge in compiled.mixed_edges(net):
        edge.ops[1] = Branching()
    trials = compile_candidates(net, batch[0], faster=float("inf"))
    assert [(trial.ratio is None, trial.kept) for trial in trials] == [(True, False), (False, True)]
    net(batch[0], (1, 1))


def test_one_op_that_cannot_be_compiled_does_not_end_the_search(net, batch, stands_in):
    def picky(function):
        def call(op: nn.Module, x: Tensor) -> Tensor:
            if type(op).__name__ == "SepConv":
                raise BackendCompilerFailed(function, RuntimeError("no lowering"), None)
            return function(op, x)

        return call

    stands_in(picky)
    trials = compile_candidates(net, batch[0], faster=float("inf"))
    assert [(trial.ratio is None, trial.kept) for trial in trials] == [(False, True), (True, False)]


def test_without_a_compiler_the_error_is_one_line(net, batch, stands_in):
    def broken(function):
        def call(op: nn.Module, x: Tensor) -> Tensor:
            raise BackendCompilerFailed(function, RuntimeError("no g++\nand much more"), None)

        return call

    stands_in(broken)
    with pytest.raises(CompileError, match=r"no g\+\+$"):
        compile_candidates(net, batch[0])
