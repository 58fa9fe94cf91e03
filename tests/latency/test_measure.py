"""Measuring on this machine: every layer is timed as often as configured, and the process is left as it was."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import numpy as np
import pytest
import torch

from engine.errors import ConfigError
from latency import measure as measuring
from latency.config import MeasureConfig
from latency.device import this_device
from latency.measure import (
    measure_table,
    recalibrate_table,
    time_architecture,
    time_architectures,
    used_networks,
    verify_table,
)
from latency.plan import calibration_networks, network_job, verification_networks
from latency.table import Column, LatencyTable, TableError
from supernet.architecture import Architecture
from supernet.network import Network
from supernet.ops import ConvBNAct


def test_the_table_covers_the_space(small_space, quick):
    table = measure_table(small_space, quick)
    assert table.missing(small_space) == []
    table.check(small_space, quick, "t.yaml", "command")
    assert list(table.entries) == [str(layer) for layer in small_space.all_layers if str(layer.spec) != "skip"]
    assert all(e.median_ms > 0 and e.iqr_ms is not None and e.iqr_ms >= 0 for e in table.entries.values())


def test_the_header_names_the_device_and_the_settings(small_space, quick):
    measure = quick.model_copy(update={"threads": 2, "batch": 3, "channels_last": False})
    table = measure_table(small_space, measure, verify=6)
    assert (table.threads, table.batch, table.dtype, table.memory_format) == (2, 3, "float32", "contiguous")
    assert (table.input_size, table.activation, table.method) == (8, "relu6", "in_context")
    assert table.device == this_device("cpu")
    assert (table.runtime.name, table.runtime.version) == ("pytorch", torch.__version__)
    assert table.calibration is not None
    assert table.calibration.networks == 10
    assert table.verification is not None
    assert table.verification.networks == 6


def test_an_int8_table_names_its_quantiser_and_has_the_milliseconds_of_float32(small_space, quick):
    pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    measure = quick.model_copy(update={"runtime": "onnxruntime", "dtype": "int8", "calibration_networks": 0})
    table = measure_table(small_space, measure)
    assert (table.dtype, table.quantiser) == ("int8", f"onnxruntime {onnxruntime.__version__}")
    assert table.columns["float32_ms"].values.keys() == table.entries.keys()


def test_recalibrating_an_int8_table_refits_both_precisions(small_space, quick, formula_table, monkeypatch):
    """The device takes twice as long as when the table was measured, and three times in float32."""
    measure = quick.model_copy(update={"runtime": "onnxruntime", "dtype": "int8"})
    table = formula_table(small_space, measure)
    values = {key: entry.median_ms for key, entry in table.entries.items()}
    column = Column(unit="ms", how="then", values={key: 1.5 * ms for key, ms in values.items()})
    table = table.model_copy(update={"columns": {"float32_ms": column}})

    def timed(runner: object, measure: object, jobs: Any, *_: object) -> tuple[dict[str, list[list[float]]], dict]:
        whole = {job.id: sum(values[str(layer)] for layer in job.layers) for job in jobs}
        return {job.id: [[(4.5 if job.in_float32 else 2.0) * whole[job.id]]] for job in jobs}, {}

    monkeypatch.setattr(measuring, "refuse_foreign", lambda *_: None)
    monkeypatch.setattr(measuring, "open_runtime", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(measuring, "timed_jobs", timed)
    again = recalibrate_table(table, small_space, measure, seed=1)
    cost, plain = again.cost(small_space), again.column_cost(small_space, "float32_ms", "t.yaml")
    for paths in calibration_networks(small_space, 4, 7):
        ms = sum(values[str(layer)] for layer in network_job(small_space, "n", "verification", paths).layers)
        assert cost.of(paths) == pytest.approx(2.0 * ms, rel=0.01)
        assert plain.of(paths) == pytest.approx(4.5 * ms, rel=0.01)


def test_the_longest_column_is_timed_passes_times_coverings(small_space, quick):
    """A shorter column repeats its candidates; the stem, alone in its column, runs in every network."""
    entries = measure_table(small_space, quick).entries
    counts = [entries[str(layer)].n for layer in small_space.edges[0].layers if str(layer.spec) != "skip"]
    assert counts == [quick.coverings * quick.passes] * 3
    assert entries[str(small_space.stem)].n == 4 * quick.coverings * quick.passes


def test_without_calibration_the_entries_are_as_measured(small_space, quick):
    table = measure_table(small_space, quick.model_copy(update={"calibration_networks": 0}))
    assert table.calibration is None
    assert table.constant_ms == 0
    assert all(entry.calibrated_ms is None and entry.ms == entry.median_ms for entry in table.entries.values())


def test_a_measured_table_loads_as_it_was_saved(small_space, quick, tmp_path):
    table = measure_table(small_space, quick, verify=6)
    table.save(tmp_path / "t.yaml")
    loaded = LatencyTable.load(tmp_path / "t.yaml")
    assert loaded.entries.keys() == table.entries.keys()
    for key, entry in table.entries.items():
        assert loaded.entries[key].ms == pytest.approx(entry.ms, rel=1e-5)
    assert loaded.device == table.device
    assert loaded.columns.keys() == {"macs", "params", "weight_bytes"}


def test_progress_is_reported_for_every_job(small_space, quick):
    seen: dict[str, list[tuple[int, int]]] = {}
    measure_table(small_space, quick, report=lambda what, done, total: seen.setdefault(what, []).append((done, total)))
    assert list(seen) == ["prepare", "measure"]
    for calls in seen.values():
        assert [done for done, _ in calls] == list(range(1, calls[0][1] + 1))


@pytest.mark.parametrize("what", ["table", "network"])
def test_measuring_restores_threads_random_numbers_and_inference_mode(what, small_space, quick):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        torch.manual_seed(3)
        own, numpys = torch.get_rng_state(), np.random.get_state(legacy=False)  # noqa: NPY002
        measure = quick.model_copy(update={"threads": 2})
        if what == "table":
            measure_table(small_space, measure)
        else:
            time_architecture(Architecture(small_space, (0, 0, 0)), measure)
        assert torch.get_num_threads() == 1
        assert torch.equal(torch.get_rng_state(), own)
        after = np.random.get_state(legacy=False)  # noqa: NPY002
        assert np.array_equal(after["state"]["key"], numpys["state"]["key"])
        assert after["state"]["pos"] == numpys["state"]["pos"]
        assert not torch.is_inference_mode_enabled()
    finally:
        torch.set_num_threads(before)


def test_the_thread_count_is_restored_after_an_error(small_space, quick):
    before = torch.get_num_threads()

    def fail(what: str, done: int, total: int) -> None:
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        measure_table(small_space, quick.model_copy(update={"threads": before + 1}), report=fail)
    assert torch.get_num_threads() == before
    assert not torch.is_inference_mode_enabled()


def test_an_entry_is_the_time_of_its_op(small_space, quick, monkeypatch):
    """A stem that sleeps is slow in the table, and no other op is."""
    plain = ConvBNAct.forward

    def slow(self, x):
        if x.shape[1] == 1:  # the stem alone sees the grey image
            time.sleep(0.1)  # far more than a busy machine keeps any other op waiting
        return plain(self, x)

    monkeypatch.setattr(ConvBNAct, "forward", slow)
    table = measure_table(small_space, quick.model_copy(update={"calibration_networks": 0}))
    assert table.price(small_space.stem) >= 100
    assert all(e.median_ms < 100 for key, e in table.entries.items() if key != str(small_space.stem))


def test_a_network_takes_at_least_what_its_layers_take(small_space, quick, monkeypatch):
    """The test has a lower bound only, which no other work of the machine can break."""
    plain = ConvBNAct.forward

    def slow(self, x):
        time.sleep(0.01)
        return plain(self, x)

    monkeypatch.setattr(ConvBNAct, "forward", slow)
    architecture = Architecture(small_space, (0, 0, 0))
    sleeping = sum(isinstance(module, ConvBNAct) for module in Network(architecture).modules())
    assert sleeping >= 2
    assert time_architecture(architecture, quick, rounds=2).median_ms >= 10 * sleeping


def test_networks_are_timed_in_turn_and_returned_in_order(small_space, quick, monkeypatch):
    seen = []

    def rounds_of(rounds, opened, **_):
        seen.append([list(names) for names in rounds])
        count = {name: sum(p.numel() for m in opened(name).modules for p in m.parameters()) for name in rounds[0]}
        return {name: np.full((len(rounds), 2), float(n)) for name, n in count.items()}, None

    monkeypatch.setattr("latency.measure.timed_rounds", rounds_of)
    pair = [Architecture(small_space, paths) for paths in ((0, 0, 0), (1, 1, 1))]
    first, second = time_architectures(pair, quick, rounds=3)
    other, again = time_architectures(pair[::-1], quick, rounds=3)
    assert (first, second) == (again, other)
    assert first.median_ms != second.median_ms  # the made-up time of a network is its number of parameters
    assert all(len(names) == 2 for names in seen[0])
    assert len(seen[0]) == 3


def test_timing_counts_its_passes(small_space, quick):
    timing = time_architecture(Architecture(small_space, (0, 0, 0)), quick, rounds=3)
    assert timing.n == 3 * 3 * quick.passes
    assert timing.rounds == 3
    assert timing.median_ms > 0
    assert timing.noise_ms >= 0


def test_verifying_keeps_entries_and_uses_other_networks(small_space, quick, monkeypatch):
    table = measure_table(small_space, quick, seed=4)
    seen = []
    real = measuring.timed_jobs

    def watched(runner, measure, jobs, seed, progress):
        seen.extend(job.paths for job in jobs)
        return real(runner, measure, jobs, seed, progress)

    monkeypatch.setattr(measuring, "timed_jobs", watched)
    verified = verify_table(table, small_space, quick, 6, seed=4)
    assert verified.entries == table.entries
    assert verified.verification is not None
    assert len(seen) == 12  # twice each
    assert seen[::2] == seen[1::2]
    # the space has 4 * 2 * 2 networks, 10 of which calibrated: the 6 others are all that is left
    used = calibration_networks(small_space, 10, 4)
    assert used_networks(small_space, table) == used
    assert not set(seen) & set(used)
    assert set(seen) == set(verification_networks(small_space, 6, 4, avoid=used))


def test_verifying_avoids_the_networks_of_every_calibration(space_of, small_space, quick, monkeypatch):
    """The space has more networks than all calibrations and verifications need."""
    wide = small_space.config.model_dump(mode="json")
    wide["stages"][0] |= {"depth": 3}
    space = space_of(wide)
    table = measure_table(space, quick, seed=4)
    first = set(used_networks(space, table))
    for seed in (5, 6):
        table = recalibrate_table(table, space, quick, seed=seed)
    assert table.calibration is not None
    used = set(used_networks(space, table))
    assert first < used
    assert used == first | {p for s in (5, 6) for p in calibration_networks(space, measuring.RECALIBRATION_NETWORKS, s)}
    among = [paths for paths in verification_networks(space, 60, 4, avoid=()) if paths in first]
    assert among  # a plan that avoids none would draw some networks of the first calibration
    seen = []
    monkeypatch.setattr(
        measuring,
        "timed_jobs",
        lambda runner, measure, jobs, seed, progress: (
            seen.extend(job.paths for job in jobs) or {job.id: [[1.0 + i]] for i, job in enumerate(jobs)},
            {},
        ),
    )
    verified = verify_table(table, space, quick, 60, seed=4)
    assert not used & set(seen)
    assert verified.verification is not None
    assert verified.verification.calibrated_by == 0


def test_a_verification_with_too_few_fresh_networks_records_how_many_had_calibrated(small_space, quick):
    """The space has 16 networks and 20 calibrate, so none is fresh."""
    table = recalibrate_table(measure_table(small_space, quick, seed=4), small_space, quick, seed=5)
    verification = verify_table(table, small_space, quick, 9, seed=4).verification
    assert verification is not None
    assert verification.calibrated_by == verification.networks == 9


def test_recalibrating_keeps_what_was_measured(small_space, quick):
    table = measure_table(small_space, quick, verify=6)
    again = recalibrate_table(table, small_space, quick, seed=1)
    assert {k: e.median_ms for k, e in again.entries.items()} == {k: e.median_ms for k, e in table.entries.items()}
    assert again.verification is None  # it was of the old numbers
    assert again.calibration is not None
    assert again.calibration.networks == measuring.RECALIBRATION_NETWORKS


@pytest.mark.parametrize("ask", [verify_table, recalibrate_table])
def test_a_table_of_another_device_cannot_be_verified_here(ask, small_space, quick, formula_table):
    arguments = {"networks": 6} if ask is verify_table else {}
    with pytest.raises(TableError, match=r"measured on formula.*this is"):
        ask(formula_table(small_space, quick), small_space, quick, seed=0, **arguments)


def test_entries_of_single_edges_cannot_be_verified_here(small_space, quick):
    table = measure_table(small_space, quick)
    key = str(small_space.stem)
    entries = table.entries | {f"{key} @stem": table.entries[key]}
    with pytest.raises(TableError, match="entries of single edges"):
        recalibrate_table(table.model_copy(update={"entries": entries}), small_space, quick, seed=0)


@pytest.mark.parametrize(
    "measured", [measure_table, lambda space, measure: time_architecture(Architecture(space, (0, 0, 0)), measure)]
)
def test_an_external_device_is_refused(measured, small_space):
    with pytest.raises(ConfigError, match=r"measure\.device: got 'external'.*proxyless-nas kit.*proxyless-nas import"):
        measured(small_space, MeasureConfig(device="external"))


def test_cuda_without_a_gpu_names_the_key(small_space):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match=r"measure\.device: got 'cuda'"):
        measure_table(small_space, MeasureConfig(device="cuda"))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_table_can_be_measured_on_a_gpu(dtype, small_space, quick):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    measure = quick.model_copy(update={"device": "cuda", "dtype": dtype, "batch": 2})
    table = measure_table(small_space, measure, verify=6)
    table.check(small_space, measure, "t.yaml", "command")
    assert (table.device.kind, table.threads) == ("gpu", None)
    assert all(entry.median_ms > 0 for entry in table.entries.values())
    assert time_architecture(Architecture(small_space, (0, 0, 0)), measure).median_ms > 0


@pytest.mark.gpu
def test_gpu_timing_waits_for_the_device(small_space, quick, space_of):
    """64 times as many images take longer; without synchronising, only the launches would be timed."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    large = space_of(small_space.config.model_dump(mode="json") | {"input_size": 64})
    architecture = Architecture(large, (0, 0, 0))
    few, many = (
        time_architecture(architecture, quick.model_copy(update={"device": "cuda", "batch": batch}))
        for batch in (16, 1024)
    )
    assert many.median_ms > 2 * few.median_ms
