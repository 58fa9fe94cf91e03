"""Tables of timings that follow from a known cost of every layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from latency.build import Origin, build_table, calibrated, network_ms, occurrences, predicted_ms
from latency.config import MeasureConfig
from latency.device import Device
from latency.plan import Counts, TimingJob, calibration_networks, draw_plan, network_job, verification_networks
from latency.table import Entry, LatencyTable, UsedRuntime
from supernet.space import Layer, Space

MEASURE = MeasureConfig(rounds=2, passes=3)
ORIGIN = Origin(
    Device(kind="cpu", name="x", cores=1, fingerprint="f"), UsedRuntime(name="pytorch", version="1"), "made up"
)
CONSTANT = 0.4


@pytest.fixture
def space(space_of) -> Space:
    names = ["mbconv_k3_e3", "mbconv_k3_e6", "mbconv_k5_e3", "skip"]
    return space_of(
        {
            "input_size": 16,
            "classes": 4,
            "stem": {"width": 8},
            "stages": [{"width": 16, "depth": 4, "candidates": names}, {"width": 24, "depth": 4, "candidates": names}],
            "feature_mix": 32,
        }
    )


def seen(layer: Layer) -> float:
    """Returns the milliseconds of an op as they are measured inside a network."""
    return 0.05 + layer.complexity.macs / 1e6


def true(layer: Layer) -> float:
    """Returns the milliseconds that it adds to a network: those above, times a factor of its kernel size."""
    return seen(layer) * (1.3 if "k5" in str(layer) else 0.9)


def world(jobs: Sequence[TimingJob], inside: Callable[[Layer], float] = seen) -> dict[str, list[list[object]]]:
    """Returns timings: 2 rounds of 3 passes, the second of which is an outlier that a median ignores."""
    samples: dict[str, list[list[object]]] = {}
    for job in jobs:
        layers = [inside(layer) for layer in job.layers]
        whole = CONSTANT + sum(true(layer) for layer in job.layers)
        one: list[object] = [layers] * 3 if job.inside else [layers[0] if job.paths is None else whole] * 3
        slow = [[10 * ms for ms in layers]] if job.inside else [10 * float(one[0])]  # type: ignore[arg-type]
        rounds = 1 if job.inside else 2
        samples[job.id] = [[one[0], slow[0], one[2]]] * rounds
    return samples


def built(space: Space, *, alone: bool = False, verify: int = 9, **more: object) -> LatencyTable:
    counts = Counts(0 if alone else 3, 60, verify, alone)
    jobs = draw_plan(space, counts, 0)
    return build_table(space, MEASURE, jobs, world(jobs), ORIGIN, seed=0, **more)


@pytest.mark.parametrize("alone", [False, True])
def test_entries_are_medians_and_networks_are_predicted(alone, space):
    table = built(space, alone=alone)
    assert table.method == ("isolated" if alone else "in_context")
    for layer in space.all_layers:
        if str(layer.spec) != "skip":
            assert table.entries[str(layer)].median_ms == pytest.approx(seen(layer))
    assert table.verification is not None
    assert table.verification.table.mape_percent < 0.2
    assert table.verification.raw.mape_percent > 5
    assert table.verification.noise_mape_percent == 0
    assert table.verification.holds


def test_a_tables_cost_is_its_prediction(space):
    """The matrices of a search and the sums of latency/ are the same numbers, constant included."""
    table = built(space)
    cost = table.cost(space)
    for paths in verification_networks(space, 5, 1, avoid=()):
        job = network_job(space, "n", "verification", paths)
        assert cost.of(paths) == pytest.approx(predicted_ms(table, [job])[0])
        true_ms = CONSTANT + sum(true(layer) for layer in job.layers)
        assert cost.of(paths) == pytest.approx(true_ms, rel=0.01)


def test_a_saved_table_predicts_the_same(space, tmp_path):
    table = built(space)
    table.save(tmp_path / "t.yaml")
    loaded = LatencyTable.load(tmp_path / "t.yaml")
    paths = (0,) * len(space.searchable)
    assert loaded.cost(space).of(paths) == pytest.approx(table.cost(space).of(paths), rel=1e-5)
    assert loaded.verification is not None
    assert loaded.calibration is not None
    assert loaded.verification.measured_ms == pytest.approx(table.verification.measured_ms, rel=1e-5)


def test_recalibrating_follows_a_machine_that_became_slower(space):
    """Everything takes 1.5 times as long: 20 networks correct it, the entries stay as measured, and the verification is
    dropped."""
    table = built(space)
    jobs = [network_job(space, f"c{i}", "calibration", p) for i, p in enumerate(calibration_networks(space, 20, 5))]
    slower = 1.5 * network_ms(jobs, world(jobs))
    again = calibrated(table, space, jobs, slower, seed=5)
    assert again.verification is None
    assert {k: e.median_ms for k, e in again.entries.items()} == {k: e.median_ms for k, e in table.entries.items()}
    paths = verification_networks(space, 9, 8, avoid=())
    fresh = [network_job(space, f"n{i}", "verification", p) for i, p in enumerate(paths)]
    np.testing.assert_allclose(predicted_ms(again, fresh), 1.5 * network_ms(fresh, world(fresh)), rtol=0.01)


def test_every_calibration_leaves_its_networks_in_the_record(space):
    table = built(space)
    for seed in (5, 6):
        paths = calibration_networks(space, 20, seed)
        jobs = [network_job(space, f"c{i}", "calibration", p) for i, p in enumerate(paths)]
        table = calibrated(table, space, jobs, network_ms(jobs, world(jobs)), seed=seed)
    assert table.calibration is not None
    assert [(d.networks, d.seed) for d in table.calibration.drawn] == [(60, 0), (20, 5), (20, 6)]


def test_a_fit_to_slow_networks_alone_predicts_more_than_0_ms_for_the_fastest(space):
    """The measuring adds 0.3 ms to each layer, and all of the networks have nearly all layers."""
    raw = built(space, verify=0).model_copy(update={"calibration": None})
    raw = raw.model_copy(update={"entries": {k: Entry(median_ms=e.median_ms + 0.3) for k, e in raw.entries.items()}})
    paths = [p for p in calibration_networks(space, 60, 1) if sum(i == 3 for i in p) <= 1]
    jobs = [network_job(space, f"c{i}", "calibration", p) for i, p in enumerate(paths)]
    start = np.array([entry.ms for entry in raw.entries.values()])
    measured = occurrences(jobs, list(raw.entries)) @ start - 2.5
    smallest = sum(raw.price(layer) for layer in space.layers(tuple(len(e.layers) - 1 for e in space.searchable)))
    assert smallest < 2.5
    table = calibrated(raw, space, jobs, measured, seed=0)
    assert table.constant_ms >= 0
    assert table.cost(space).reachable[0] > 0


def test_recalibration_starts_from_the_correction_before(space):
    """20 networks are too few to correct each kernel size if the fit starts from the raw entries."""
    table = built(space)
    jobs = [network_job(space, f"c{i}", "calibration", p) for i, p in enumerate(calibration_networks(space, 20, 5))]
    again = calibrated(table, space, jobs, network_ms(jobs, world(jobs)), seed=5)
    raw = table.model_copy(
        update={
            "entries": {k: e.model_copy(update={"calibrated_ms": None}) for k, e in table.entries.items()},
            "calibration": None,
        }
    )
    assert again.calibration is not None
    from_raw = calibrated(raw, space, jobs, network_ms(jobs, world(jobs)), seed=5).calibration
    assert from_raw is not None
    assert again.calibration.cross_validation_percent < 0.5 * from_raw.cross_validation_percent


def test_columns_add_up_to_the_complexity(space):
    table = built(space)
    for paths in verification_networks(space, 3, 2, avoid=()):
        complexity = space.complexity(paths)
        assert table.column_cost(space, "macs", "t").of(paths) == complexity.macs
        assert table.column_cost(space, "params", "t").of(paths) == complexity.params
        assert table.column_cost(space, "weight_bytes", "t").of(paths) == 4 * complexity.params


def test_the_energy_of_networks_gives_the_energy_of_layers(space):
    """The power is 3 W, hence 3 mJ per ms: a fit that starts from milliseconds reproduces it exactly."""
    jobs = draw_plan(space, Counts(3, 60, 9, alone=False), 0)
    energy = {
        job.id: [3 * (CONSTANT + sum(true(layer) for layer in job.layers))] * 2
        for job in jobs
        if job.purpose == "calibration"
    }
    table = build_table(space, MEASURE, jobs, world(jobs), ORIGIN, seed=0, energy=energy)
    assert table.columns["energy_mj"].unit == "mJ"
    cost = table.column_cost(space, "energy_mj", "t")
    for paths in verification_networks(space, 5, 1, avoid=()):
        true_mj = 3 * (CONSTANT + sum(true(a) for a in network_job(space, "n", "verification", paths).layers))
        assert cost.of(paths) == pytest.approx(true_mj, rel=0.01)
    assert "energy_mj" not in built(space).columns


def test_a_plan_without_calibration_and_verification_makes_a_table_without_them(space):
    jobs = draw_plan(space, Counts(3, 0, 0, alone=False), 0)
    table = build_table(space, MEASURE, jobs, world(jobs), ORIGIN, seed=0)
    assert table.calibration is None
    assert table.verification is None
    assert table.constant_ms == 0


def test_entries_are_the_quartiles_of_every_timing_of_their_layer(space):
    """The place of the layer in a network and the round do not matter; the random numbers differ in each."""
    jobs = draw_plan(space, Counts(3, 0, 0, alone=False), 0)
    rng = np.random.default_rng(0)
    samples = {job.id: rng.uniform(1, 2, (2, 5, len(job.layers))).tolist() for job in jobs}
    table = build_table(space, MEASURE, jobs, samples, ORIGIN, seed=0)
    key = str(space.searchable[1].layers[1])
    times = [
        samples[job.id][r][p][k]
        for job in jobs
        for k, layer in enumerate(job.layers)
        if str(layer) == key
        for r in range(2)
        for p in range(5)
    ]
    low, median, high = np.percentile(times, [25, 50, 75])
    entry = table.entries[key]
    assert (entry.median_ms, entry.iqr_ms, entry.n) == (pytest.approx(median), pytest.approx(high - low), len(times))
    assert len(times) > 30


def test_if_all_ops_are_off_by_the_same_factor_predictions_are_exact(space):
    """c + 1.3 times what the ops seem to take: fresh networks to 1e-6, and the raw sums are far off."""
    jobs = draw_plan(space, Counts(3, 60, 20, alone=False), 0)
    samples = world(jobs)
    for job in jobs:
        if not job.inside:
            samples[job.id] = [[CONSTANT + 1.3 * sum(seen(layer) for layer in job.layers)]] * 2
    verification = build_table(space, MEASURE, jobs, samples, ORIGIN, seed=0).verification
    assert verification is not None
    np.testing.assert_allclose(verification.predicted_ms, verification.measured_ms, rtol=1e-6)
    assert verification.raw.mape_percent > 20


def test_an_op_that_is_free_costs_nothing(space):
    """Networks are faster than their sums by more than the op took inside: its factor stops at 0."""
    jobs = draw_plan(space, Counts(3, 60, 9, alone=False), 0)
    samples = world(jobs)
    for job in jobs:
        if not job.inside:
            whole = 5 + sum(seen(a) * (-0.2 if "k5" in str(a) else 1) for a in job.layers)
            samples[job.id] = [[whole]] * 2
    table = build_table(space, MEASURE, jobs, samples, ORIGIN, seed=0)
    calibrated_ms = {key: entry.calibrated_ms for key, entry in table.entries.items()}
    assert min(calibrated_ms.values()) == 0
    assert all("k5" in key for key, ms in calibrated_ms.items() if ms == 0)


def energy_of(jobs: Sequence[TimingJob], unit: float) -> dict[str, list[float]]:
    rng = np.random.default_rng(7)
    return {
        job.id: [unit * sum(true(layer) for layer in job.layers) * float(rng.uniform(0.95, 1.05))] * 2
        for job in jobs
        if job.purpose == "calibration"
    }


def test_energy_does_not_depend_on_its_unit(space):
    """The pull is towards one common factor in mJ per mJ, so 0.01 W and 300 W are fitted in the same way."""
    jobs = draw_plan(space, Counts(3, 60, 0, alone=False), 0)
    small, large = (
        build_table(space, MEASURE, jobs, world(jobs), ORIGIN, seed=0, energy=energy_of(jobs, unit)).columns[
            "energy_mj"
        ]
        for unit in (0.01, 300.0)
    )
    ratio = [large.values[key] / value for key, value in small.values.items() if value > 1e-9]
    np.testing.assert_allclose(ratio, 3e4, rtol=1e-6)


@pytest.mark.parametrize("what", ["a counter too coarse to move", "a network without energy"])
def test_without_the_energy_of_every_network_there_is_no_column(what, space):
    """The table is made all the same."""
    jobs = draw_plan(space, Counts(3, 60, 0, alone=False), 0)
    energy = energy_of(jobs, 3.0)
    first = next(iter(energy))
    if what == "a network without energy":
        del energy[first]
    else:
        energy[first] = [0.0, 0.0]
    table = build_table(space, MEASURE, jobs, world(jobs), ORIGIN, seed=0, energy=energy)
    assert "energy_mj" not in table.columns
    assert table.calibration is not None


def test_the_repeats_of_a_verification_are_its_noise(space):
    """The second timing of each network takes 4 % longer; predictions are compared with the first."""
    jobs = draw_plan(space, Counts(3, 60, 9, alone=False), 0)
    samples = world(jobs)
    for job in jobs:
        if job.purpose == "verification" and job.id.endswith("b"):
            samples[job.id] = (1.04 * np.array(samples[job.id])).tolist()
    table = build_table(space, MEASURE, jobs, samples, ORIGIN, seed=0)
    assert table.verification is not None
    assert table.verification.noise_mape_percent == pytest.approx(4)
    first = [job for job in jobs if job.purpose == "verification" and job.id.endswith("a")]
    assert table.verification.measured_ms == tuple(network_ms(first, samples))
    assert table.verification.predicted_ms == pytest.approx(tuple(predicted_ms(table, first)))


def test_a_layer_without_an_entry_is_an_error(space):
    (job,) = (network_job(space, "n", "calibration", paths) for paths in calibration_networks(space, 1, 0))
    with pytest.raises(ValueError, match="no entry"):
        occurrences([job], ["conv_k1 8x8x8->8 s1"])


@pytest.mark.parametrize("alone", [False, True])
def test_an_int8_table_has_the_milliseconds_of_float32_too(alone, space):
    """In float32 a network takes 1.5 times as long if it has no kernel of 5 pixels, which alone are slow in int8."""

    def float32(layer: Layer) -> float:
        return seen(layer) * (0.5 if "k5" in str(layer) else 1.5)

    def whole(job: TimingJob) -> float:
        return 1.2 * sum(float32(layer) for layer in job.layers)

    counts = Counts(0 if alone else 8, 60, 9, alone, float32=True)
    jobs = draw_plan(space, counts, 0)
    samples = world([job for job in jobs if not job.in_float32]) | {
        name: taken if job.purpose != "calibration" else [[whole(job)] * 3] * 2
        for name, taken in world([job for job in jobs if job.in_float32], inside=float32).items()
        for job in jobs
        if job.id == name
    }
    measure = MeasureConfig(runtime="onnxruntime", dtype="int8")
    table = build_table(space, measure, jobs, samples, replace(ORIGIN, quantiser="a quantiser 1.0"), seed=0)
    assert (table.dtype, table.quantiser) == ("int8", "a quantiser 1.0")
    plain = built(space, alone=alone)
    assert {key: entry.median_ms for key, entry in table.entries.items()} == pytest.approx(
        {key: entry.median_ms for key, entry in plain.entries.items()}
    )  # none of float32 is among them
    assert table.calibration is not None
    assert table.calibration.networks == 60
    column = table.columns["float32_ms"]
    assert column.unit == "ms"
    cost = table.column_cost(space, "float32_ms", "t.yaml")
    for paths in verification_networks(space, 9, 3, avoid=()):
        assert cost.of(paths) == pytest.approx(whole(network_job(space, "n", "verification", paths)), rel=0.02)
    assert table.columns["weight_bytes"].values == table.columns["params"].values
