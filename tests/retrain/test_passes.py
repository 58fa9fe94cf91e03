"""Forward and backward passes: compiled, as a CUDA graph, and without reading a number from the device."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.config import validate
from engine.data import Batch
from engine.distributed import Group
from engine.errors import ConfigError, UserError
from engine.runs.checkpoints import Checkpoints
from retrain import loop
from retrain.config import RetrainConfig
from retrain.passes import check_passes
from retrain.recipe import Averaged
from retrain.run import retrain
from supernet import compiled
from supernet.architecture import Architecture
from supernet.compiled import CompiledNetwork
from supernet.network import Network
from supernet.space import Space, SpaceConfig

SPACE = {
    "input_size": 8, "input_channels": 3, "classes": 4, "stem": {"kernel": 3, "stride": 1, "width": 8}, "dropout": 0.2,
    "stages": [{"width": 8, "depth": 3, "candidates": ["conv_k1", "conv_k3", "skip"]}], "feature_mix": 8,
}  # fmt: skip
GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture
def architecture() -> Architecture:
    """A stem, conv_k1 twice in the same shape, a skip and a feature mix: three distinct layers to compile."""
    return Architecture(Space(SpaceConfig.model_validate(SPACE, strict=False)), (0, 0, 2))


def config_of(run: dict[str, Any] | None = None, **settings: Any) -> RetrainConfig:
    values: dict[str, Any] = {
        "data": {"name": "fake", "fake_images": 32, "fake_classes": 4},
        "retrain": {"epochs": 2, "batch_size": 8} | settings,
        "run": {"seed": 0, "threads": 1, "log_every": 1, "checkpoint_every": 3} | (run or {}),
    }
    return validate(RetrainConfig, values, "retrain.yaml")


def weights(out: Path) -> dict[str, torch.Tensor]:
    newest = Checkpoints(out / "checkpoints").newest()
    assert newest is not None
    found: dict[str, torch.Tensor] = newest[1]["retrain"]["net"]
    return found


def needs_gpu(test: Callable[..., None]) -> Callable[..., None]:
    for mark in GPU:
        test = mark(test)
    return test


@pytest.fixture
def quick_compiler(monkeypatch) -> None:
    """Lets torch.compile translate a layer as ever, and run the result's ops one by one: no compiler takes seconds."""
    plain = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **kind: plain(function, backend="eager", **kind))


def stopped_and_resumed(config: RetrainConfig, architecture: Architecture, out: Path, monkeypatch: Any) -> None:
    """Trains, stops before step 4, one after a checkpoint, and resumes."""
    plain = loop.Training._train

    def train(self: Any, batch: Batch) -> Any:
        if self.step == 4:
            raise RuntimeError("stopped")
        return plain(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "_train", train)
        with pytest.raises(RuntimeError, match="stopped"):
            retrain(config, architecture, out, shown=False)
    retrain(config, architecture, out, resume=True, shown=False)


def test_a_compiled_training_equals_the_other_up_to_rounding_and_is_resumed_bit_for_bit(
    architecture, tmp_path, monkeypatch, caplog, quick_compiler
):
    """The compiler is a stand-in. With the real one the test takes a minute; it passed once, with the same
    tolerance."""
    config = config_of(compile=True)
    with caplog.at_level(logging.INFO, "retrain"):
        retrain(config, architecture, tmp_path / "whole", shown=False)
    assert "retrain.compile: compiled 3 distinct layers" in [record.getMessage() for record in caplog.records]
    stopped_and_resumed(config, architecture, tmp_path / "run", monkeypatch)
    retrain(config_of(), architecture, tmp_path / "eager", shown=False)
    whole, resumed, eager = (weights(tmp_path / name) for name in ("whole", "run", "eager"))
    assert all(torch.equal(whole[name], value) for name, value in resumed.items())
    for name, value in eager.items():
        torch.testing.assert_close(whole[name], value, rtol=1e-4, atol=1e-5)


def test_layers_of_equal_shape_share_a_program_and_one_that_cannot_be_compiled_runs_as_it_is(monkeypatch):
    calls: list[str] = []

    def stands_in(function: Any, **_: Any) -> Any:
        def program(op: Any, x: torch.Tensor) -> torch.Tensor:
            if function.__code__.co_name == "layer0":
                raise torch._dynamo.exc.Unsupported("a loop over data")
            calls.append(function.__code__.co_name)
            return function(op, x)

        return program

    monkeypatch.setattr(torch, "compile", stands_in)
    network = Network(Architecture(Space(SpaceConfig.model_validate(SPACE, strict=False)), (0, 0, 2)))
    images, told = torch.randn(4, 3, 8, 8), []
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fast = CompiledNetwork(network, compiled=lambda reasons: told.extend(reasons.values()))
    with torch.random.fork_rng():
        logits = fast(images)
    assert told == ["a loop over data", None, None]
    assert calls == ["layer1", "layer4", "layer1", "layer1", "layer4"]  # each once as a trial, then all in turn
    other = Network(network.architecture)
    other.load_state_dict(before)
    with torch.random.fork_rng():
        assert torch.equal(logits, other(images))
    after = other.state_dict()  # of one pass: the trial has changed no statistics
    assert all(torch.equal(value, after[name]) for name, value in network.state_dict().items())


def test_without_a_compiler_one_line_says_what_to_do(architecture, tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "failure", lambda *_: "No working C++ compiler found")
    with pytest.raises(UserError, match=r"retrain\.compile: .*No working C\+\+ compiler found.*retrain\.compile=false"):
        retrain(config_of(compile=True), architecture, tmp_path / "run", shown=False)


def test_a_cuda_graph_is_refused_on_a_cpu_and_in_several_processes(architecture, tmp_path):
    with pytest.raises(ConfigError, match=r"retrain\.cuda_graphs: got true with run\.device=cpu"):
        retrain(config_of(cuda_graphs=True), architecture, tmp_path / "run", shown=False)
    config = config_of({"device": "cuda"}, cuda_graphs=True)
    with pytest.raises(ConfigError, match=r"retrain\.cuda_graphs: got true in 2 processes"):
        check_passes(config.retrain, config.run, Group(world_size=2))


LEARNING = {"ema": 0.99, "accumulate": 2, "clip": 0.5, "optimizer": "adamw"}


@pytest.mark.parametrize(("settings", "amp"), [({}, "none"), (LEARNING, "bf16")])
def test_a_step_and_the_average_read_no_number_on_the_host(settings, amp, architecture, tmp_path, monkeypatch):
    """Each such read on a GPU would wait for all that has been sent to it before."""
    reads: list[str] = []
    inside: list[bool] = []
    for name in ("item", "__float__", "__int__", "__bool__", "__index__", "tolist", "nonzero", "cpu", "numpy"):
        original = getattr(torch.Tensor, name)

        def read(self: torch.Tensor, *rest: Any, name: str = name, original: Any = original) -> Any:
            if inside:
                reads.append(name)
            return original(self, *rest)

        monkeypatch.setattr(torch.Tensor, name, read)
    for owner, name in ((loop.Training, "_train"), (Averaged, "update")):
        original = getattr(owner, name)

        def watched(*given: Any, original: Any = original) -> Any:
            inside.append(True)
            found = original(*given)
            inside.pop()
            return found

        monkeypatch.setattr(owner, name, watched)
    config = config_of({"amp": amp, "log_every": 100}, **settings)
    data = config.data.model_copy(update={"workers": 0})  # else a thread reads images, which are on the host, meanwhile
    retrain(config.model_copy(update={"data": data}), architecture, tmp_path / "run", shown=False)
    assert reads == []


EVERYTHING = LEARNING | {"augment": {"mixup": 0.4, "cutmix": 1.0}, "warmup_epochs": 0.5}
CASES = [({}, "none"), (EVERYTHING, "bf16"), (EVERYTHING | {"optimizer": "sgd"}, "fp16")]


@needs_gpu
@pytest.mark.parametrize("cuda_graphs", [False, True])
@pytest.mark.parametrize(("settings", "amp"), [*CASES, (EVERYTHING | {"optimizer": "rmsprop"}, "bf16")])
def test_between_two_points_of_the_curves_a_gpu_is_never_waited_for(
    settings, amp, cuda_graphs, architecture, tmp_path, monkeypatch
):
    """The program waits neither for a batch or a step, nor for the average of the weights or BN's statistics. The first
    steps are left out: they make kernels and work space."""
    plain = loop.Throughput.add

    def add(self: Any, images: int) -> None:
        plain(self, images)
        counted.append(images)
        torch.cuda.set_sync_debug_mode("error" if 4 <= len(counted) < 11 else "default")

    counted: list[int] = []
    monkeypatch.setattr(loop.Throughput, "add", add)
    quiet = {"device": "cuda", "amp": amp, "log_every": 100, "checkpoint_every": 100, "evaluate_every": 100}
    config = config_of(quiet, epochs=3, cuda_graphs=cuda_graphs, **settings)
    try:
        retrain(config, architecture, tmp_path / "run", shown=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(counted) == 12


@needs_gpu
@pytest.mark.parametrize(("settings", "amp"), CASES)
def test_a_cuda_graph_computes_what_the_ops_compute(settings, amp, architecture, tmp_path, monkeypatch):
    """Dropout, mixed images and the statistics of BN included; also for two sizes of images, and after a resume."""
    chosen = settings | {"augment": {"sizes": [6, 8], **settings.get("augment", {})}}
    run = {"device": "cuda", "amp": amp, "checkpoint_every": 1}
    retrain(config_of(run, **chosen), architecture, tmp_path / "ops", shown=False)
    retrain(config_of(run, cuda_graphs=True, **chosen), architecture, tmp_path / "graph", shown=False)
    stopped_and_resumed(config_of(run, cuda_graphs=True, **chosen), architecture, tmp_path / "again", monkeypatch)
    ops, graph, again = (weights(tmp_path / name) for name in ("ops", "graph", "again"))
    tolerance = 1e-4 if amp == "none" else 2e-2
    for name, value in ops.items():
        torch.testing.assert_close(
            graph[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )
        torch.testing.assert_close(
            again[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@needs_gpu
@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_a_compiled_training_on_a_gpu_equals_the_other_up_to_rounding(cuda_graphs, architecture, tmp_path):
    run = {"device": "cuda"}
    retrain(config_of(run), architecture, tmp_path / "ops", shown=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = config_of(run, compile=True, cuda_graphs=cuda_graphs)
        retrain(config, architecture, tmp_path / "compiled", shown=False)
    ops, fast = weights(tmp_path / "ops"), weights(tmp_path / "compiled")
    for name, value in ops.items():
        torch.testing.assert_close(fast[name], value, rtol=1e-3, atol=1e-3)
