"""benchmarks/search_speed.py compares equals with equals, and leaves what it wraps as it was. No time is asserted."""

from __future__ import annotations

import json
from contextlib import nullcontext
from unittest.mock import patch

import pytest
import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode

import search_speed
from engine.data import Batch, BatchStream
from search.learn.gradient import weights_step
from search_speed import Bare
from supernet.supernet import Supernet
from timed_loop import PARTS, Case, Loop, plan_of, shares


@pytest.fixture
def loop(tmp_path):
    """Blocks of 4 weights and 2 architecture steps, in a space of 3 edges."""
    stage = {"width": 4, "depth": 3, "candidates": ["mbconv_k3_e1", "mbconv_k3_e2", "conv_k3", "skip"]}
    stem = {"kernel": 3, "stride": 1, "width": 4}
    config = {
        "space": {
            "input_size": 8,
            "input_channels": 1,
            "classes": 4,
            "stem": stem,
            "stages": [stage],
            "feature_mix": 8,
        },
        "data": {"name": "fake", "fake_images": 80, "fake_classes": 4, "validation": 0.4},
        "limits": [{"metric": "macs", "at": "50%"}],
        "search": {"arch_update": "two_path", "batch_size": 8, "arch_every": 2},
    }
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump(config))
    loop = Loop(plan_of(Case("tiny", path, (), block=4), 1), 4, tmp_path / "run")
    yield loop
    loop.search.close()


def test_bare_steps_run_the_paths_of_the_loop(loop):
    ran = []
    forward = Supernet.forward

    def recorded(net, images, paths, gates=None, **rest):
        ran.append((len(images), paths, gates is not None, rest.get("compared")))
        return forward(net, images, paths, gates, **rest)

    bare = Bare(loop)
    bare.steps()()  # as the benchmark does: the loop's first step projects alpha
    loop.run()
    with patch.object(Supernet, "forward", recorded):
        for _ in range(3):
            first, second = bare.steps(), bare.steps()
            for block in (first, loop.run, second):
                block()
    blocks = [ran[i : i + 6] for i in range(0, len(ran), 6)]
    assert len(blocks) == 9
    assert [call[2] for call in blocks[0]] == [False, False, True, False, False, True]
    for before, real, after in zip(blocks[0::3], blocks[1::3], blocks[2::3], strict=True):
        assert before == real == after
    assert len({str(block) for block in blocks}) == 3  # each round has paths of its own


def test_shares_cover_the_time_and_wrap_nothing_for_good(loop):
    wrapped = (BatchStream.__next__, Supernet.forward, torch.Tensor.backward, torch.optim.SGD.step)
    found = shares(loop, 2)
    assert set(found) == set(PARTS)
    assert sum(found.values()) == pytest.approx(1, abs=1e-3)
    assert min(found[part] for part in ("data", "forward", "backward", "optimizer")) > 0
    assert found["other"] >= 0
    assert wrapped == (
        BatchStream.__next__, Supernet.forward, torch.Tensor.backward, torch.optim.SGD.step
    )  # fmt: skip


class ToHost(TorchDispatchMode):
    """Counts what makes a program wait for its device: numbers read, and tensors copied to the CPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        copied = name == "_to_copy" and str((kwargs or {}).get("device")) == "cpu"
        self.count += name in ("_local_scalar_dense", "nonzero", "equal") or copied
        return func(*args, **(kwargs or {}))


def test_a_weights_step_never_waits_for_its_device(loop):
    state = loop.search.state
    with ToHost() as seen:
        images, labels = torch.randn(8, 1, 8, 8), torch.arange(8) % 4
        loss, _ = weights_step(state.net, Batch(images, labels), [(0, 1, 3)], state.optimizer, 0.1, nullcontext)
        assert seen.count == 0
        float(loss)
        assert seen.count == 1


@pytest.mark.parametrize(
    ("value", "noise", "verdict"), [(1.0, 0.02, "met"), (1.02, 0.02, "undecided"), (1.06, 0.02, "missed")]
)
def test_a_verdict_holds_whatever_the_noise(value, noise, verdict):
    """The aim is 1.03."""
    record = {"iteration_overhead_fake_224": value, "noise_fake_224": noise, "gpu": "skipped"}
    assert search_speed.verdicts(record) == {"iteration_overhead_fake_224": verdict}


def test_the_line_of_json_has_the_speeds_under_one_key(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["search_speed.py", "--only", "memory_28", "--rounds", "1"])
    found = {"images_per_second_memory_28": 7.0, "iteration_overhead_memory_28": 1.0, "noise_memory_28": 0.3}
    monkeypatch.setattr(search_speed, "overhead", lambda *_: found)
    search_speed.main()
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["images_per_second"] == {"memory_28": 7.0}
    assert record["verdicts"] == {"iteration_overhead_memory_28": "undecided"}
    assert record["iteration_overhead_memory_28"] == 1.0
