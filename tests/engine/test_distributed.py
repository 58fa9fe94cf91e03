"""Two processes that share values, gradients and evaluations compute what one process would compute."""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from engine import distributed
from engine.data import DataConfig, evaluation_batches, open_images, statistics_batches
from engine.distributed import ALONE, Group, LostPeerError, reduce_gradients
from engine.errors import ConfigError, UserError
from engine.evaluation import evaluate, recalibrate_bn
from engine.run_config import RunConfig
from tests.processes import together

CPU = torch.device("cpu")


class Branches(nn.Module):
    """Two branches of which one runs; a parameter shared by two layers, channels-last weights, a large layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.branches = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)) for _ in range(2))
        self.shared = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor, branch: int) -> torch.Tensor:
        x = self.branches[branch](self.stem(x)).mean(dim=(2, 3))
        return self.head(self.shared(self.shared(x)))


def branches() -> Branches:
    torch.manual_seed(0)
    net = Branches()
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net


def backward(net: Branches, rank: int, branch: int, reduction: contextlib.AbstractContextManager[None]) -> None:
    torch.manual_seed(rank)
    loss = net(torch.randn(4, 3, 8, 8), branch).square().mean()
    net.zero_grad(set_to_none=True)
    with reduction:
        loss.backward()


def gradients(group: Group, bucket_bytes: int) -> dict[str, object]:
    distributed.BUCKET_BYTES = bucket_bytes
    net = branches()
    local = []
    for branch in (0, 1, 0):
        backward(net, group.rank, branch, contextlib.nullcontext())
        local.append({name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None})
    reduction = reduce_gradients(list(net.parameters()), group)
    reduced, strides, buckets = [], [], []
    for branch in (0, 1, 0):
        send, sent = reduction._send, []
        reduction._send = lambda send=send, sent=sent: sent.append(len(reduction._ready)) or send()
        backward(net, group.rank, branch, reduction)
        reduction._send = send
        buckets.append(sent)
        reduced.append({name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None})
        strides.append(all(p.grad is None or p.grad.stride() == p.stride() for p in net.parameters()))
    return {"local": local, "reduced": reduced, "strides": strides, "buckets": buckets}


def in_turn(group: Group) -> tuple[float, float]:
    with group.in_turn():
        begin = time.monotonic()
        time.sleep(0.02)
        return begin, time.monotonic()


def evaluation(group: Group) -> tuple[object, torch.Tensor, torch.Tensor]:
    images = open_images(DataConfig(name="fake", fake_images=42, fake_classes=5), input_size=8, channels=3, classes=5)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    torch.manual_seed(0)
    for p in net.parameters():
        nn.init.normal_(p)
    norm = net[1]
    assert isinstance(norm, nn.BatchNorm2d)
    batches = statistics_batches(images.train, 8, 3, 0, **group.slice)  # of which process 0 has two, process 1 one
    recalibrate_bn(net, (batch.images for batch in batches), group)
    # the last of these batches has one image, so one process has nothing of it
    scored = evaluation_batches(images.test, 3, 0, **group.slice)
    return evaluate(net, scored, CPU, RunConfig(), group), norm.running_mean.clone(), norm.running_var.clone()


def job(group: Group) -> dict[str, object]:
    def refused() -> str:
        with pytest.raises(UserError) as error:
            group.check_same({"limits": [group.rank], "seed": 3}, "the resolved config")
        return str(error.value)

    def broadcast() -> list[torch.Tensor]:
        tensors = [torch.full((2, 3), float(group.rank)), torch.full((1, 2, 2, 2), 5.0 + group.rank)]
        tensors[1] = tensors[1].contiguous(memory_format=torch.channels_last)
        group.broadcast(tensors)
        return tensors

    group.check_same({"seed": 3}, "equal values")
    values = torch.tensor([1.0, 3.0], dtype=torch.float64) * (group.rank + 1)
    found: dict[str, object] = {
        "mean": group.mean_of(values),
        "sum": group.sum_of(values),
        "untouched": values,
        "from_first": group.from_first(lambda: {"made by": group.rank}),
        "gathered": group.gathered({"rank": group.rank}),
        "largest": [group.largest(value)() for value in (0, group.rank, 15 * group.first, -group.rank - 1)],
        "refused": refused(),
        "broadcast": broadcast(),
        "turn": in_turn(group),
        "evaluation": evaluation(group),
    }
    return found | {f"gradients {size}": gradients(group, size) for size in (1, 3000, 1 << 30)}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return together(job, tmp_path_factory.mktemp("distributed") / "job")


def test_both_processes_get_the_same_mean_sum_and_objects(found):
    for rank, own in enumerate(found):
        assert own["mean"].tolist() == [1.5, 4.5]
        assert own["sum"].tolist() == [3.0, 9.0]
        assert own["untouched"].tolist() == [1.0 * (rank + 1), 3.0 * (rank + 1)]
        assert own["from_first"] == {"made by": 0}
        assert own["gathered"] == [{"rank": 0}, {"rank": 1}]
        assert [tensor.unique().tolist() for tensor in own["broadcast"]] == [[0.0], [5.0]]


def test_both_processes_get_the_largest_of_their_values(found):
    assert [own["largest"] for own in found] == [[0, 1, 15, -1]] * 2
    assert ALONE.largest(3)() == 3


def test_a_value_that_differs_is_refused_in_both_with_the_same_words(found):
    assert found[0]["refused"] == found[1]["refused"]
    assert found[0]["refused"].startswith(
        "the resolved config: process 1 has another than process 0 (limits.0: 0 -> 1)"
    )


def test_what_is_done_in_turn_is_done_by_process_0_first(found):
    (_, ended), (began, _) = found[0]["turn"], found[1]["turn"]
    assert ended <= began


@pytest.mark.parametrize("size", [1, 3000, 1 << 30], ids=["a bucket each", "some buckets", "one bucket"])
def test_gradients_are_means_over_processes_and_absent_where_nothing_ran(found, size):
    """Only one of the two branches has run; its parameters alone have gradients, in the memory format of the
    weights."""
    first, second = (own[f"gradients {size}"] for own in found)
    assert first["buckets"] == second["buckets"]
    for i, branch in enumerate((0, 1, 0)):
        mean, others = first["reduced"][i], second["reduced"][i]
        assert mean.keys() == others.keys() == first["local"][i].keys()
        assert not any(name.startswith(f"branches.{1 - branch}") for name in mean)
        for name, value in mean.items():
            assert torch.equal(value, others[name]), name
            expected = (first["local"][i][name] + second["local"][i][name]) / 2
            assert torch.equal(value, expected), name
            assert not torch.equal(first["local"][i][name], second["local"][i][name]) or not value.any(), name
        count = len(mean)
        assert sum(first["buckets"][i]) == count
        assert {1: count, 1 << 30: 1}.get(size, len(first["buckets"][i])) == len(first["buckets"][i])
    assert first["strides"] == [True] * 3
    if size == 3000:
        assert 1 < len(first["buckets"][0]) < len(first["reduced"][0])


def test_an_evaluation_is_of_all_images_whoever_ran_them(found):
    (first, *_), (second, *_) = (own["evaluation"] for own in found)
    assert first == second
    assert first.images == evaluation(ALONE)[0].images == 10


def test_bn_statistics_are_those_of_one_process_whatever_the_number(found):
    """The mean over three batches, of which one process had two: mean and unbiased variance of one process alone."""
    _, *alone = evaluation(ALONE)
    (_, *first), (_, *second) = (own["evaluation"] for own in found)
    for one, other, expected in zip(first, second, alone, strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, expected)


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_processes_share_out_the_same_whole_batches_of_statistics(world_size):
    images = open_images(DataConfig(name="fake", fake_images=42, fake_classes=5), input_size=8, channels=3, classes=5)
    whole = list(statistics_batches(images.train, 8, 3, 0))
    assert [len(batch.labels) for batch in whole] == [8, 8, 8]
    for rank in range(world_size):
        own = list(statistics_batches(images.train, 8, 3, 0, rank=rank, world_size=world_size))
        assert len(own) == len(whole[rank::world_size])
        for batch, expected in zip(own, whole[rank::world_size], strict=True):
            assert torch.equal(batch.images, expected.images)


@pytest.mark.parametrize("world_size", [2, 3, 4, 7])
def test_the_slices_of_an_evaluation_are_the_whole_set(world_size):
    images = open_images(DataConfig(name="fake", fake_images=50), input_size=8, channels=1, classes=10).train
    shares = [evaluation_batches(images, 16, 0, rank=rank, world_size=world_size) for rank in range(world_size)]
    labels = np.sort(np.concatenate([batch.labels.numpy() for share in shares for batch in share]))
    assert np.array_equal(labels, np.sort(images.labels))


@pytest.mark.parametrize("batch_size", [7, 2, 4, 6])
def test_a_batch_that_cannot_be_shared_is_refused(batch_size):
    group = Group(0, 4)
    with pytest.raises(ConfigError) as error:
        group.share_of(batch_size, "search.batch_size")
    assert str(error.value).startswith(f"search.batch_size: got {batch_size}, which 4 processes share, expected ")
    assert group.share_of(8, "search.batch_size") == 2


def test_a_batch_that_is_too_small_for_the_networks_that_share_it_is_refused():
    group = Group(0, 4)
    with pytest.raises(ConfigError, match=r"got 20, .* a multiple of 4, 24 or more .* each of the 3 networks in each"):
        group.share_of(20, "search.batch_size", 3)
    assert group.share_of(24, "search.batch_size", 3) == 6


LOST = [
    RuntimeError("[.../pair.cc:561] Connection closed by peer [127.0.0.1]:52951. This is typically"),
    RuntimeError("[.../pair.cc:545] Read error [127.0.0.1]:6571: Connection reset by peer. This is"),
    RuntimeError("[.../unbound_buffer.cc:78] Timed out waiting 1800000ms for recv operation to complete"),
    dist.DistNetworkError("failed to recv, got 0 bytes"),
    dist.DistStoreError("wait timeout after 1800000ms, keys: /default_pg/0//cpu//1"),
    dist.DistBackendError(
        "NCCL error in: NCCLUtils.hpp:317, remote process exited or there was a network error, NCCL version 2.27.5\n"
        "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.\n"
        "Last error:\nsocketProgress: Connection closed by remote peer node1<47332>"
    ),
]  # fmt: skip
OWN = [
    torch.AcceleratorError("CUDA error: device-side assert triggered", 710),
    RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported later"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    dist.DistBackendError(
        "NCCL error in: NCCLUtils.hpp:317, unhandled cuda error (run with NCCL_DEBUG=INFO for details)\n"
        "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 'out of memory'"
    ),
    dist.DistBackendError(
        "NCCL error in: NCCLUtils.hpp:317, unhandled system error, NCCL version 2.27.5\nncclSystemError: System call "
        "(e.g. socket, malloc) or external library call failed or device error. It can be also caused by unexpected "
        "exit of a remote peer, you can check NCCL warnings for failure reason and see if there is connection closure "
        "by a peer.\nLast error:\nError while creating shared memory segment /dev/shm/nccl-Ab12 (size 9637888)"
    ),
    dist.DistBackendError("NCCL error: invalid usage\nLast error:\nDuplicate GPU detected : rank 0 and rank 1"),
    RuntimeError("[enforce fail at ../gloo/transport/tcp/pair.cc:494] op.preamble.length <= op.nbytes. 8 vs 4"),
    RuntimeError("The size of tensor a (3) must match the size of tensor b (4) at non-singleton dimension 0"),
]


def raised(error: RuntimeError, monkeypatch: pytest.MonkeyPatch) -> BaseException:
    """Returns the error of a mean over two processes if its collective raises `error`."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(dist, "all_reduce", fail)
    with pytest.raises(Exception) as found:  # noqa: PT011 (which one is the question)
        Group(0, 2).mean_of(torch.ones(3))
    return found.value


@pytest.mark.parametrize("error", LOST, ids=range(len(LOST)))
def test_a_peer_that_has_ended_is_one_line_with_the_remedy(error, monkeypatch):
    found = raised(error, monkeypatch)
    assert isinstance(found, LostPeerError)
    assert re.fullmatch(r"another process of this job has ended, or .* \(.+\); continue with --resume", str(found))


@pytest.mark.parametrize("error", OWN, ids=range(len(OWN)))
def test_a_fault_of_this_process_is_not_taken_for_a_lost_peer(error, monkeypatch):
    """A GPU's fault, memory, a mistake in a program: none of them is mended by starting again."""
    assert raised(error, monkeypatch) is error


def ends(group: Group, folder: Path) -> None:
    """Process 1 ends while process 0 waits for it; process 0 writes the error that it got."""
    if group.rank == 1:
        os._exit(0)  # no destructor runs, as if it was killed
    try:
        group.largest(1)()
    except LostPeerError as error:
        (folder / "told").write_text(str(error))
    os._exit(0)


def test_gloos_messages_about_a_peer_that_has_ended_are_recognised(tmp_path):
    with pytest.raises(FileNotFoundError):  # neither process comes to its end, so neither has a result
        together(ends, tmp_path / "job", tmp_path)
    reported = (tmp_path / "told").read_text()
    assert reported.startswith("another process of this job has ended, or cannot be reached (")
    assert reported.endswith("); continue with --resume")


def test_several_gpus_without_nccl_are_one_line(monkeypatch):
    monkeypatch.setattr(dist, "is_nccl_available", lambda: False)
    with pytest.raises(ConfigError, match=r"^run\.device: got 'cuda' in several processes, .* NCCL, .*; install torch"):
        Group(0, 2).on(torch.device("cuda", 0))


def test_a_process_alone_copies_nothing_and_registers_no_hook():
    """Without a group, each function returns the object that it was given."""
    values, net = torch.ones(3), branches()
    assert ALONE.mean_of(values) is values
    assert ALONE.sum_of(values) is values
    assert ALONE.on(CPU) is ALONE
    assert isinstance(reduce_gradients(list(net.parameters()), ALONE), contextlib.nullcontext)
    assert not any(p._post_accumulate_grad_hooks for p in net.parameters())
