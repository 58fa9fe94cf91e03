"""The functions that training loops share compute what their definitions say."""

from __future__ import annotations

import contextlib
import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from engine import training
from engine.data.images import Batch
from engine.device import prepare_device
from engine.distributed import Group
from engine.errors import ConfigError, UserError
from engine.evaluation import Evaluation, accuracy, evaluate, hits, recalibrate_bn
from engine.memory import memory_explained
from engine.run_config import RunConfig
from engine.training import Throughput, cosine_lr, split_decay

CPU = torch.device("cpu")


class Net(nn.Module):
    """Two BNs of different momenta and a dropout that would show in everything after it."""

    def __init__(self, classes: int = 7):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, momentum=0.3))
        self.dropout = nn.Dropout(0.5)
        self.second = nn.Sequential(nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5))
        self.classifier = nn.Linear(5, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.dropout(F.relu(self.first(x))))
        return self.classifier(F.relu(x).mean(dim=(2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = Net()
    for norm in (net.first[1], net.second[1]):  # statistics unlike those of any batch
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(1, 3)
    return net


def test_cosine_goes_from_base_to_zero_through_half():
    assert cosine_lr(0.2, 0, 10) == 0.2
    assert cosine_lr(0.2, 10, 10) == pytest.approx(0, abs=1e-17)
    assert cosine_lr(0.2, 5, 10) == pytest.approx(0.1)
    rates = [cosine_lr(0.2, step, 10) for step in range(11)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("classes", [2, 3, 5, 6, 20])
def test_accuracy_is_the_share_of_labels_among_the_largest_logits(classes):
    torch.manual_seed(classes)
    logits, labels = torch.randn(31, classes), torch.randint(classes, (31,))
    for k, found in zip((1, 5), accuracy(logits, labels), strict=True):
        hits = 0
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
            hits += sum(other > row[label] for other in row) < k
        assert found.ndim == 0
        assert found.item() == pytest.approx(100 * hits / 31)


TIED = torch.tensor([[1.0, 3.0, 3.0, 0.0], [3.0, 1.0, 3.0, 3.0], [2.0, 2.0, 2.0, 2.0], [5.0, 4.0, 4.0, 4.0]])


@pytest.mark.parametrize(("k", "right"), [(1, "0001"), (2, "1001"), (3, "1101"), (4, "1111")])
def test_a_tie_counts_against_the_network(k, right):
    """Label 1, 2, 3 and 0: one logit ties with the first, two with the second, all with the third, none with the last;
    whatever the order of the classes, and whatever more precision would say."""
    labels = torch.tensor([1, 2, 3, 0])
    for order in (list(range(4)), [3, 1, 0, 2], [2, 0, 3, 1]):
        moved = torch.tensor([order.index(int(label)) for label in labels])
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            found = hits(TIED[:, order].to(dtype), moved, k)
            assert found.int().tolist() == [int(digit) for digit in right]


def test_equal_logits_are_no_accuracy():
    assert [float(a) for a in accuracy(torch.zeros(8, 8), torch.arange(8))] == [0.0, 0.0]


@pytest.mark.parametrize("classes", [3, 8])
def test_a_logit_that_is_not_a_number_is_never_right(classes):
    """All logits are NaN, or the label's, or that of another class, which then takes the first place."""
    nan, labels = float("nan"), torch.tensor([1, 1, 1])
    logits = torch.arange(3.0 * classes).view(3, classes) - 100
    logits[0], logits[1, 1], logits[2] = nan, nan, torch.tensor([nan, 5.0, *[0.0] * (classes - 2)])
    assert hits(logits, labels, 1).tolist() == [False, False, False]
    assert hits(logits, labels, 5).tolist() == [False, False, True]
    found = evaluate(nn.Identity(), [Batch(logits, labels)], CPU, RunConfig(channels_last=False))
    assert (found.top1, found.top5) == (0.0, pytest.approx(100 / 3))


def test_recalibrated_statistics_are_the_mean_over_batches(net):
    """Each batch weighs the same; the variance is the mean of torch's unbiased batch variances."""
    batches = [torch.randn(n, 3, 8, 8) + n for n in (6, 4, 9)]
    with torch.no_grad():
        before = [net.first[0](images) for images in batches]  # what the first BN sees
    recalibrate_bn(net, batches)
    norm = net.first[1]
    torch.testing.assert_close(norm.running_mean, torch.stack([x.mean((0, 2, 3)) for x in before]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([x.var((0, 2, 3)) for x in before]).mean(0))
    assert norm.num_batches_tracked == 3


def test_recalibration_is_torchs_cumulative_average_to_the_bit(net):
    batches = [torch.randn(n, 3, 8, 8) + n for n in (6, 4, 9, 5, 7)]
    cumulative = copy.deepcopy(net).eval()
    for norm in (cumulative.first[1], cumulative.second[1]):
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for images in batches:
            cumulative(images)
    recalibrate_bn(net, batches)
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), cumulative.buffers(), strict=True))


def test_recalibration_and_evaluation_wait_for_no_layer(net, monkeypatch):
    """On a GPU each number read on the host waits for all that was queued: an evaluation reads its sums at the end."""
    read = []
    for name in ("item", "__float__", "__int__", "__bool__", "tolist"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda self, *a, name=name, original=original: read.append(name) or original(self, *a)
        )
    batches = [Batch(torch.randn(4, 3, 8, 8), torch.randint(7, (4,))) for _ in range(3)]
    recalibrate_bn(net, (batch.images for batch in batches))
    assert read == []
    evaluate(net, batches, CPU, RunConfig())
    assert read == ["tolist"]


def test_recalibration_runs_without_dropout_and_with_batch_statistics_upstream(net):
    batches = [torch.randn(6, 3, 8, 8) for _ in range(3)]
    first, norm = net.first
    with torch.no_grad():
        seen = [
            net.second[0](F.relu(F.batch_norm(first(x), None, None, norm.weight, norm.bias, training=True)))
            for x in batches
        ]
    net.train()
    recalibrate_bn(net, batches)
    second = net.second[1]
    torch.testing.assert_close(second.running_mean, torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0))
    torch.testing.assert_close(second.running_var, torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0))


def broken_batches():
    yield torch.randn(2, 3, 8, 8)
    raise RuntimeError("a broken file")


@pytest.mark.parametrize("batches", [[torch.randn(4, 3, 8, 8)], [], broken_batches()])
def test_recalibration_restores_modes_and_momenta(net, batches):
    net.train()
    net.second[1].eval()  # of its own
    modes = [m.training for m in net.modules()]
    weights = [p.clone() for p in net.parameters()]
    with contextlib.suppress(ValueError, RuntimeError):  # no batch; a broken file
        recalibrate_bn(net, batches)
    assert [m.training for m in net.modules()] == modes
    assert (net.first[1].momentum, net.second[1].momentum) == (0.3, 0.1)
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(map(torch.equal, weights, net.parameters()))


def test_recalibration_needs_a_batch(net):
    with pytest.raises(ValueError, match="no batch"):
        recalibrate_bn(net, [])


@pytest.mark.parametrize("channels_last", [False, True])
def test_evaluation_is_the_mean_over_images_not_batches(net, channels_last):
    images, labels = torch.randn(21, 3, 8, 8), torch.randint(7, (21,))
    batches = [Batch(images[i : i + 8], labels[i : i + 8]) for i in range(0, 21, 8)]  # the last has 5
    net.eval()
    with torch.no_grad():
        logits = net(images)
    found = evaluate(net, iter(batches), CPU, RunConfig(channels_last=channels_last))
    assert found.images == 21
    assert found.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    top1, top5 = accuracy(logits, labels)
    assert found.top1 == pytest.approx(top1.item(), rel=1e-5)
    assert found.top5 == pytest.approx(top5.item(), rel=1e-5)


def test_evaluation_leaves_no_trace(net):
    batches = [Batch(torch.randn(4, 3, 8, 8), torch.randint(7, (4,)))]
    net.train()
    net.first.eval()  # frozen BN in a network that trains
    modes = [m.training for m in net.modules()]
    state = {key: value.clone() for key, value in net.state_dict().items()}
    evaluate(net, batches, CPU, RunConfig())
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in state.items())
    with pytest.raises(ValueError, match="no image to evaluate on"):
        evaluate(net, [], CPU, RunConfig())
    assert [m.training for m in net.modules()] == modes


def test_evaluation_keeps_no_graph(net):
    """A graph would hold every batch in memory until the end."""
    graphs = []
    net.register_forward_hook(lambda module, inputs, output: graphs.append(output.requires_grad))
    evaluate(net, [Batch(torch.randn(4, 3, 8, 8), torch.zeros(4, dtype=torch.long))] * 2, CPU, RunConfig())
    assert graphs == [False, False]


def test_evaluation_in_bf16_is_near_that_in_float32(net):
    batches = [Batch(torch.randn(16, 3, 8, 8), torch.randint(7, (16,)))]
    full, half = (evaluate(net, batches, CPU, RunConfig(amp=amp)) for amp in ("none", "bf16"))
    assert half.loss == pytest.approx(full.loss, rel=0.05)
    assert half.loss != full.loss


def test_split_decay_covers_every_parameter_once(net):
    decayed, plain = split_decay(net, 3e-5)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (3e-5, 0.0)
    split = [*decayed["params"], *plain["params"]]
    assert sorted(map(id, split)) == sorted(map(id, net.parameters()))
    names = {id(p): name for name, p in net.named_parameters()}
    assert [names[id(p)] for p in decayed["params"]] == ["first.0.weight", "second.0.weight", "classifier.weight"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_is_an_error_with_the_way_out():
    with pytest.raises(
        ConfigError, match=r"^run\.device: got 'cuda', but .*; set run\.device=cpu, and run\.amp=none, "
    ):
        prepare_device(RunConfig(device="cuda"))


def test_each_process_of_a_machine_has_a_gpu_of_its_own(monkeypatch):
    """A machine with two GPUs is simulated."""
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    run = RunConfig(device="cuda")
    devices = [prepare_device(run), prepare_device(run, Group(5, 8, 1))]
    assert devices == current == [torch.device("cuda:0"), torch.device("cuda:1")]
    with pytest.raises(ConfigError, match=r"no GPU for process 2 of this machine.*: torch finds 2; start as many"):
        prepare_device(run, Group(2, 4, 2))
    assert prepare_device(RunConfig(), Group(2, 4, 2)) == CPU


@pytest.mark.parametrize(
    ("native", "amp", "refused"), [(False, "bf16", True), (False, "none", False), (True, "bf16", False)]
)
def test_a_gpu_that_emulates_bf16_is_refused_before_anything_runs(monkeypatch, native, amp, refused):
    """torch counts emulation as support unless it is asked not to."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Tesla T4 {device.index}")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    run = RunConfig(device="cuda", amp=amp)
    if not refused:
        assert prepare_device(run, Group(1, 2, 1)) == torch.device("cuda:1")
        return
    with pytest.raises(
        ConfigError, match=r"^run\.amp: got 'bf16', but Tesla T4 1 only emulates it, .*; set run\.amp=none"
    ):
        prepare_device(run, Group(1, 2, 1))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), "the GPU's memory does not suffice"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "the GPU's memory does not suffice"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), "the memory of this"),
        (MemoryError(), "the memory of this machine does not suffice (an allocation failed); choose a smaller"),
    ],
)  # fmt: skip
def test_memory_that_does_not_suffice_is_one_line_with_the_ways_out(error, line):
    def network(_: torch.Tensor) -> torch.Tensor:
        raise error

    module = nn.Identity()
    module.forward = network
    with pytest.raises(UserError, match="choose a smaller batch_size, ") as found:
        evaluate(module, [Batch(torch.zeros(1, 3, 4, 4), torch.zeros(1, dtype=torch.long))], CPU, RunConfig())
    assert str(found.value).startswith(line)


def test_other_errors_of_a_network_are_not_changed(net):
    with pytest.raises(RuntimeError, match="expected input"):
        evaluate(net, [Batch(torch.zeros(1, 9, 8, 8), torch.zeros(1, dtype=torch.long))], CPU, RunConfig())


def test_a_huge_allocation_is_explained():
    with pytest.raises(UserError, match="the memory of this machine does not suffice"), memory_explained():
        torch.empty(1 << 50)


def test_the_thread_count_is_set_where_given():
    before = torch.get_num_threads()
    try:
        assert prepare_device(RunConfig(threads=1)) == CPU
        assert torch.get_num_threads() == 1
        prepare_device(RunConfig())
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_throughput_counts_from_reading_to_reading(monkeypatch):
    now = 5.0
    monkeypatch.setattr(training.time, "monotonic", lambda: now)
    throughput = Throughput()
    throughput.add(30)
    throughput.add(10)
    now = 7.0
    assert throughput.per_second() == 20
    assert math.isfinite(throughput.per_second())  # nothing since: no division by zero
    throughput.add(9)
    now = 10.0
    assert throughput.per_second() == 3


def test_accuracies_of_as_many_hits_are_equal_however_they_fall_into_batches():
    """Percentages of batches are rounded numbers; their sum must not tell where the hits were."""
    labels = torch.zeros(690, dtype=torch.int64)

    def scored(wrong: range) -> Evaluation:
        logits = torch.zeros(690, 7)
        logits[:, 0] = 1.0
        logits[list(wrong), 1:] = 2.0 + torch.arange(6.0)
        parts = zip(logits.split(32), labels.split(32), strict=True)
        return evaluate(
            nn.Identity(), (Batch(x, y) for x, y in parts), torch.device("cpu"), RunConfig(channels_last=False)
        )

    found = {scored(range(start, start + 431)) for start in range(0, 250, 7)}
    assert {(e.top1, e.top5) for e in found} == {(100 * 259 / 690, 100 * 259 / 690)}
