"""Measuring: every layer, as often as was asked, and no trace left in the process or in the network."""

from __future__ import annotations

import copy
import time

import numpy as np
import pytest
import torch

from engine.errors import ConfigError
from latency.config import MeasureConfig
from latency.device import this_device
from latency.measure import measure_space, time_network
from latency.table import LatencyTable
from supernet.architecture import Architecture
from supernet.network import Network
from supernet.space import Space

MEASURE = MeasureConfig(rounds=4, warmup_rounds=1)
SPACE = {
    "input_size": 8,
    "input_channels": 1,
    "classes": 2,
    "stem": {"kernel": 3, "stride": 1, "width": 8},
    "stages": [
        {"width": 8, "candidates": ["mbconv_k3_e3", "mbconv_k3_e3_se", "conv_k1", "skip"]},
        {"width": 16, "depth": 2, "stride": 2, "first": ["proj", "conv_k3"], "candidates": ["mbconv_k3_e1", "skip"]},
    ],
    "feature_mix": 16,
}


@pytest.fixture
def space(space_of) -> Space:
    return space_of(SPACE)


@pytest.fixture
def network(space) -> Network:
    return Network(Architecture(space, (0, 0, 0)))


def test_the_table_covers_the_space(space):
    table = measure_space(space, MEASURE)
    assert table.missing(space) == []
    table.check(space, MEASURE, "t.yaml", "command")
    assert list(table.entries) == [str(layer) for layer in space.all_layers if str(layer.spec) != "skip"]
    assert all(e.median_ms > 0 and e.iqr_ms is not None and e.iqr_ms >= 0 for e in table.entries.values())


def test_ops_of_the_longest_column_are_timed_once_a_round(space):
    """A shorter column repeats its candidates; the stem, alone in its column, runs in every pass."""
    entries = measure_space(space, MEASURE).entries
    longest = max(space.edges, key=lambda edge: len(edge.candidates))
    counts = [entries[str(layer)].n for layer in longest.layers if str(layer.spec) != "skip"]
    assert counts == [MEASURE.rounds] * 3
    assert entries[str(space.stem)].n == MEASURE.rounds * len(longest.candidates)
    assert all(entry.n >= MEASURE.rounds for entry in entries.values())


def test_a_layer_of_two_edges_is_timed_in_both(space_of):
    twice = SPACE | {"stages": [{"width": 8, "depth": 2, "candidates": ["mbconv_k3_e3", "conv_k1"]}]}
    entries = measure_space(space_of(twice), MEASURE).entries
    assert entries["conv_k1+residual 8x8x8->8 s1"].n == 2 * MEASURE.rounds


def test_the_header_tells_what_was_measured(space):
    table = measure_space(space, MeasureConfig(rounds=3, warmup_rounds=1, threads=2, batch=3, channels_last=False))
    assert (table.threads, table.batch, table.dtype, table.memory_format) == (2, 3, "float32", "contiguous")
    assert (table.input_size, table.activation) == (8, "relu6")
    assert table.device == this_device("cpu")
    assert (table.runtime.name, table.runtime.version) == ("pytorch", torch.__version__)


def test_a_measured_table_survives_its_file(space, tmp_path):
    table = measure_space(space, MEASURE)
    table.save(tmp_path / "t.yaml")
    loaded = LatencyTable.load(tmp_path / "t.yaml")
    assert loaded.model_copy(update={"entries": table.entries}) == table


def test_progress_is_told_of_every_round(space):
    seen: list[tuple[int, int]] = []
    measure_space(space, MEASURE, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 5) for i in range(1, 6)]


@pytest.mark.parametrize("what", ["space", "network"])
def test_measuring_leaves_no_trace_in_the_process(what, space, network):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        torch.manual_seed(3)
        own, numpys = torch.get_rng_state(), np.random.get_state(legacy=False)  # noqa: NPY002
        measure = MEASURE.model_copy(update={"threads": 2})
        if what == "space":
            measure_space(space, measure)
        else:
            time_network(network, space, measure)
        assert torch.get_num_threads() == 1
        assert torch.equal(torch.get_rng_state(), own)
        after = np.random.get_state(legacy=False)  # noqa: NPY002
        assert np.array_equal(after["state"]["key"], numpys["state"]["key"])
        assert after["state"]["pos"] == numpys["state"]["pos"]
        assert not torch.is_inference_mode_enabled()
    finally:
        torch.set_num_threads(before)


def test_the_thread_count_is_restored_after_an_error(space):
    before = torch.get_num_threads()

    def fail(done: int, total: int) -> None:
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        measure_space(space, MEASURE.model_copy(update={"threads": before + 1}), progress=fail)
    assert torch.get_num_threads() == before


def test_timing_leaves_the_network_as_it_was(network, space):
    """Mode, dtype, memory format, parameters and BN statistics, though it is timed in another dtype and format."""
    network.train()
    network.edges[1].eval()
    modes = [m.training for m in network.modules()]
    state = copy.deepcopy(network.state_dict())
    strides = {name: value.stride() for name, value in network.state_dict().items()}
    time_network(network, space, MEASURE.model_copy(update={"dtype": "bfloat16"}))
    assert [m.training for m in network.modules()] == modes
    assert {name: value.stride() for name, value in network.state_dict().items()} == strides
    for name, value in network.state_dict().items():
        assert value.dtype == state[name].dtype
        assert torch.equal(value, state[name])
    assert all(p.requires_grad and p.grad is None for p in network.parameters())


def test_timing_counts_its_passes(network, space):
    timing = time_network(network, space, MEASURE, blocks=3)
    assert timing.n == 3 * MEASURE.rounds
    assert timing.median_ms > 0
    assert timing.noise_ms >= 0


def test_more_work_takes_longer(network, space, space_of):
    """64 times the pixels: no noise hides that."""
    larger = space_of(SPACE | {"input_size": 64})
    small = time_network(network, space, MEASURE)
    large = time_network(Network(Architecture(larger, (0, 0, 0))), larger, MEASURE)
    assert large.median_ms > 2 * small.median_ms


def test_an_entry_is_the_time_of_its_op(space, monkeypatch):
    """A stem that sleeps is slow in the table, and no other op is."""
    from supernet.ops import ConvBNAct

    plain = ConvBNAct.forward

    def slow(self, x):
        if x.shape[1] == 1:  # the stem alone sees the grey image
            time.sleep(0.02)
        return plain(self, x)

    monkeypatch.setattr(ConvBNAct, "forward", slow)
    table = measure_space(space, MEASURE)
    assert table.price(space.stem) > 20
    assert all(e.median_ms < 20 for key, e in table.entries.items() if key != str(space.stem))


@pytest.mark.parametrize("measure", [measure_space, lambda space, m: time_network(torch.nn.Identity(), space, m)])
def test_an_external_device_cannot_be_measured(measure, space):
    with pytest.raises(ConfigError, match=r"measure\.device: got 'external'.*import_latency"):
        measure(space, MeasureConfig(device="external"))


def test_cuda_without_a_gpu_names_the_key(space):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match=r"measure\.device: got 'cuda'"):
        measure_space(space, MeasureConfig(device="cuda"))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_on_a_gpu(dtype, space, network):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    measure = MEASURE.model_copy(update={"device": "cuda", "dtype": dtype, "batch": 2})
    table = measure_space(space, measure)
    table.check(space, measure, "t.yaml", "command")
    assert (table.device.kind, table.threads) == ("gpu", None)
    assert all(entry.median_ms > 0 for entry in table.entries.values())
    assert time_network(network, space, measure).median_ms > 0
    assert next(network.parameters()).device.type == "cpu"


@pytest.mark.gpu
def test_gpu_timing_waits_for_the_device(space_of):
    """16 times the images take longer: without synchronising, only the launches would be timed."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    large = space_of(SPACE | {"input_size": 64})
    network = Network(Architecture(large, (0, 0, 0)))
    few, many = (
        time_network(network, large, MeasureConfig(device="cuda", batch=batch, rounds=5)) for batch in (16, 1024)
    )
    assert many.median_ms > 2 * few.median_ms


def test_ops_are_timed_with_the_threads_and_the_mode_that_the_table_states(monkeypatch, space):
    """Inside a pass: the configured thread count, eval mode, inference mode."""
    import latency.measure as measuring

    seen, real = set(), measuring._timed_pass

    def watched(chain, images, device):
        seen.add((torch.get_num_threads(), any(m.training for _, m in chain), torch.is_inference_mode_enabled()))
        return real(chain, images, device)

    monkeypatch.setattr(measuring, "_timed_pass", watched)
    other = 2 if torch.get_num_threads() == 1 else 1
    measuring.measure_space(space, MeasureConfig(threads=other, rounds=3, warmup_rounds=1))
    assert seen == {(other, False, True)}
