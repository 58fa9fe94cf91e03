"""What a GPU would wait for, found on a CPU where that shows it; and tests that need a GPU, or two."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from engine.data import Batch
from engine.device import autocast, memory_format, on_device
from engine.distributed import ALONE, WAIT, Group, reduce_gradients
from engine.errors import UserError
from engine.evaluation import evaluate, recalibrate_bn
from engine.memory import memory_explained
from engine.run_config import RunConfig
from search.config import ReinforceConfig
from search.learn.forms import Hinge
from search.learn.gradient import architecture_step, gate_gradients, one_hot, share_of, weights_step
from search.learn.objective import Objective
from search.learn.regression import Evidence, regression_step
from search.learn.reinforce import reinforce_step
from supernet.alpha import Alpha
from supernet.architecture import Architecture
from supernet.network import Network
from supernet.space import Space
from supernet.supernet import Supernet

CPU = torch.device("cpu")
NEEDS_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
NEEDS_TWO = [pytest.mark.gpu, pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")]


def needs(marks: list[pytest.MarkDecorator]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def mark(test: Callable[..., None]) -> Callable[..., None]:
        for one in marks:
            test = one(test)
        return test

    return mark


def made_up_batch(size: int = 8, count: int = 8) -> Batch:
    draws = torch.Generator().manual_seed(0)
    return Batch(torch.randn(count, 1, size, size, generator=draws), torch.arange(count) % 4)


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """Each way in which a number of a tensor has been read on the host."""
    reads: list[str] = []
    for name in ("item", "__float__", "__int__", "__bool__", "__index__", "tolist", "nonzero", "cpu", "numpy"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda self, *a, name=name, original=original: reads.append(name) or original(self, *a)
        )
    return reads


@pytest.mark.parametrize("amp", ["none", "bf16"])
def test_a_weights_step_reads_nothing_on_the_host(space, read, amp):
    """It is queued as a whole while the GPU still works on the step before."""
    net = Supernet(space)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, foreach=False)
    precision = partial(autocast, RunConfig(amp=amp), CPU)
    weights_step(net, made_up_batch(), [(0, 1, 0, 1)], optimizer, 0.1, precision)
    assert read == []


@pytest.mark.parametrize("compared", [None, [(0, 1)] * 4])
def test_gate_gradients_are_read_in_one_copy(space, read, compared):
    precision = partial(autocast, RunConfig(), CPU)
    gate_gradients(Supernet(space), made_up_batch(), (0, 1, 0, 1), compared, False, precision, ALONE)
    assert read == ["cpu", "__float__"]  # the number is of the copy


def test_gates_go_to_the_device_without_waiting_for_it(monkeypatch):
    given: list[bool] = []
    original = torch.Tensor.to

    def to(self: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        if args == (CPU,):
            given.append(bool(options.get("non_blocking")))
        return original(self, *args, **options)

    monkeypatch.setattr(torch.Tensor, "to", to)
    assert one_hot((1, 0), 3, CPU).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert given == [True]


class OnGpu:
    """A search's parts on the first GPU, as run_search makes them."""

    def __init__(self, space: Space, amp: str, make_cost, make_limit):
        self.device, self.run = torch.device("cuda", 0), RunConfig(device="cuda", amp=amp)
        self.net = Supernet(space).to(device=self.device, memory_format=memory_format(self.run))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.01, momentum=0.9, nesterov=True)
        self.precision = partial(autocast, self.run, self.device)
        batch = made_up_batch()
        self.batch = on_device(Batch(batch.images.pin_memory(), batch.labels.pin_memory()), self.device, self.run)
        self.alpha = Alpha.of_space(space)
        self.arch_optimizer = torch.optim.Adam([self.alpha.values], lr=0.05)
        self.evidence = Evidence.none(*self.alpha.mask.shape)
        self.limits = [make_limit(make_cost(space, 0), 0.5)]
        self.objective = Objective(self.limits, Hinge())

    def weights(self) -> None:
        weights_step(self.net, self.batch, [(0, 1, 0, 1)], self.optimizer, 0.1, self.precision)

    def architecture(self, mode: str) -> None:
        draws = torch.Generator().manual_seed(0)
        if mode == "reinforce":
            reinforce_step(
                self.net, self.batch, self.alpha, self.arch_optimizer, ReinforceConfig(samples=3), self.limits, None,
                draws, self.precision,
            )  # fmt: skip
        elif mode == "regression":
            regression_step(
                self.net, self.batch, self.alpha, self.evidence, 3, draws, self.precision
            )  # fmt: skip
        else:
            architecture_step(
                self.net, self.batch, self.alpha, self.arch_optimizer, mode, share_of("first_order"),
                self.objective, draws, self.precision,
            )  # fmt: skip


def waits(work: Callable[[], object]) -> list[str]:
    """Where `work`, which has run once before, waits for the GPU."""
    work()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return [str(w.message) for w in caught if "synchroniz" in str(w.message)]


@needs(NEEDS_GPU)
@pytest.mark.parametrize("amp", ["none", "bf16"])
def test_on_a_gpu_a_weights_step_waits_for_nothing_and_others_once(space, amp, make_cost, make_limit):
    parts = OnGpu(space, amp, make_cost, make_limit)
    assert waits(parts.weights) == []
    for mode in ("full", "full_v2", "two_path", "reinforce", "regression"):
        assert len(waits(partial(parts.architecture, mode))) == 1, mode


@needs(NEEDS_GPU)
def test_on_a_gpu_recalibration_waits_for_nothing_and_an_evaluation_once(space):
    device, run = torch.device("cuda", 0), RunConfig(device="cuda")
    network = Network(Architecture(space, (0, 1, 0, 1))).to(device)
    batches = [on_device(made_up_batch(), device, run) for _ in range(3)]
    assert waits(lambda: recalibrate_bn(network, [batch.images for batch in batches])) == []
    assert len(waits(lambda: evaluate(network, batches, device, run))) <= 2  # the sums, and their zeros


@needs(NEEDS_GPU)
@pytest.mark.parametrize("amp", ["none", "bf16"])
def test_on_a_gpu_an_evaluation_is_that_of_the_cpu(space, amp):
    network = Network(Architecture(space, (0, 1, 0, 1)))
    batches = [made_up_batch(count=64) for _ in range(3)]
    recalibrate_bn(network, (batch.images for batch in batches))
    expected = evaluate(network, batches, CPU, RunConfig())
    device = torch.device("cuda", 0)
    evaluation = evaluate(network.to(device), batches, device, RunConfig(device="cuda", amp=amp))
    assert evaluation.loss == pytest.approx(expected.loss, rel=0.05 if amp == "bf16" else 1e-3)
    assert evaluation.top1 == pytest.approx(expected.top1, abs=5.0)


@needs(NEEDS_GPU)
def test_on_a_gpu_convolutions_get_channels_last(space, make_cost, make_limit):
    parts = OnGpu(space, "bf16", make_cost, make_limit)
    seen = []
    for m in parts.net.modules():
        if isinstance(m, nn.Conv2d):
            m.register_forward_hook(
                lambda m, args, _: seen.append(args[0].is_contiguous(memory_format=torch.channels_last))
            )
    parts.architecture("full_v2")
    assert seen
    assert all(seen)


@needs(NEEDS_GPU)
def test_a_gpus_memory_that_does_not_suffice_is_one_line():
    line = r"^the GPU's memory does not suffice \(.*\); choose a smaller batch_size"
    with pytest.raises(UserError, match=line), memory_explained():
        torch.empty(1 << 50, device="cuda")


def reduced(rank: int, folder: Path) -> None:
    """One of two processes, each with a GPU: gradients of its half of a batch, alone and as means."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=WAIT)
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    group = Group(rank, 2, rank, host=dist.group.WORLD).on(device)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)).to(device)
    batch = made_up_batch()
    half = batch.images[rank * 4 : rank * 4 + 4].to(device)
    local = torch.autograd.grad(net(half).square().mean(), list(net.parameters()))
    with reduce_gradients(list(net.parameters()), group):
        net(half).square().mean().backward()
    means = [p.grad.cpu() for p in net.parameters()]
    torch.save(
        {"local": [g.cpu() for g in local], "mean": means, "largest": group.largest(rank)()}, folder / f"{rank}.pt"
    )
    group.barrier()
    dist.destroy_process_group()


@needs(NEEDS_TWO)
def test_two_gpus_exchange_gradients_by_nccl(tmp_path):
    mp.spawn(reduced, args=(tmp_path,), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2))
    assert first["largest"] == second["largest"] == 1
    for mean, other, a, b in zip(first["mean"], second["mean"], first["local"], second["local"], strict=True):
        assert torch.equal(mean, other)
        torch.testing.assert_close(mean, (a + b) / 2)


KILLED = """
import os, signal, torch
from engine.errors import run_command
from engine.job import open_group

def main():
    with open_group() as group:
        device = torch.device("cuda", group.local_rank)
        torch.cuda.set_device(device)
        group = group.on(device)
        values = torch.ones(1 << 20, device=device)
        group.mean_of(values)
        if group.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        for _ in range(1000):
            group.mean_of(values).sum().item()

run_command(main, resumable=True)
"""


@needs(NEEDS_TWO)
def test_a_process_that_waits_in_nccl_for_a_killed_one_ends_with_one_line(tmp_path, shell):
    program = tmp_path / "program.py"
    program.write_text(KILLED)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    end = subprocess.run(
        [*torchrun, str(program)], env=shell, capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip
    lines = [line for line in end.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "another process of this job has ended" in lines[0]
