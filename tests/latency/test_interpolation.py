"""Predicted entries: they are exact if the model is, marked, never used as a source, and their error is estimated."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from engine.config import load_config
from latency.importers import import_official
from latency.interpolation import (
    STRENGTHS,
    Features,
    interpolate,
    layer_of,
    leave_one_out,
    mape_percent,
    ridge,
)
from latency.table import Calibration, Entry, LatencyTable, TableError, Verification
from supernet.catalogue import MBConvSpec, SkipSpec
from supernet.space import Layer, Space

CALIBRATION = Calibration(date="2026-01-31", networks=10, strength=1.0, cross_validation_percent=1.0, seed=0)


@pytest.fixture
def space(space_of) -> Space:
    ops = [f"mbconv_k{k}_e{e}" for k in (3, 5, 7) for e in (3, 6)]
    stages = [
        {"width": w, "depth": 2, "stride": s, "candidates": [*ops, "skip"]} for w, s in ((16, 1), (24, 2), (40, 2))
    ]
    return space_of({"input_size": 32, "stages": stages, "feature_mix": 64, "classes": 10})


def power_law(layer: Layer) -> float:
    """Returns milliseconds that the model can reproduce exactly."""
    kernel = getattr(layer.spec, "kernel_size", 1)
    return 1e-4 * layer.complexity.macs**0.7 * layer.c_out**0.2 * (kernel + 1) ** 0.3 * (1.1 if layer.residual else 1.0)


def without(table: LatencyTable, keys: set[str]) -> LatencyTable:
    assert keys <= table.entries.keys()
    return table.model_copy(update={"entries": {k: e for k, e in table.entries.items() if k not in keys}})


def dropped(space: Space, count: int, seed: int = 0) -> set[str]:
    keys = [str(layer) for layer in space.all_layers if isinstance(layer.spec, MBConvSpec)]
    return {keys[i] for i in np.random.default_rng(seed).permutation(len(keys))[:count]}


def test_a_power_law_is_recovered(space, formula_table):
    """If log(ms) is linear in the features, leave-one-out errors choose a penalty without a visible effect."""
    whole = formula_table(space, price=power_law)
    keys = dropped(space, 8)
    completed, report = interpolate(without(whole, keys), space)
    assert completed.missing(space) == []
    assert {key: completed.entries[key].ms for key in keys} == pytest.approx(
        {key: whole.entries[key].ms for key in keys}, rel=1e-3
    )
    assert set(report.predicted) == keys
    (family,) = report.families
    assert (family.family, family.measured) == ("MBConv", 36 - 8)
    assert family.loo_mape_percent < 0.1
    assert "MBConv: 8 entries predicted from 28 measured" in str(report)


@pytest.mark.parametrize("strength", [STRENGTHS[0], 1e-3, 0.1])
def test_leave_one_out_predictions_are_those_of_refits(strength):
    """The formula with H_ii gives the same as fitting again without layer i, with the penalty of N layers."""
    rng = np.random.default_rng(0)
    X = np.column_stack([np.ones(12), rng.normal(size=(12, 5))])
    y = rng.normal(size=12)
    refits = []
    for i in range(12):
        rest = np.arange(12) != i
        w = ridge(X[rest], y[rest], strength * 12 / 11)
        refits.append(np.exp(X[i] @ w))
    np.testing.assert_allclose(leave_one_out(X, y, strength), refits, rtol=1e-8)


def test_ridge_minimises_its_objective():
    """The gradient of |y - X w|^2 + strength N |w|^2 without w_0 is zero."""
    rng = np.random.default_rng(1)
    X, y = np.column_stack([np.ones(9), rng.normal(size=(9, 4))]), rng.normal(size=9)
    w = ridge(X, y, 0.3)
    np.testing.assert_allclose(X.T @ (X @ w - y) + 0.3 * 9 * np.array([0, *w[1:]]), 0, atol=1e-12)


def test_the_error_is_a_mean_of_ratios():
    assert mape_percent(np.array([1.1, 1.0]), np.array([1.0, 2.0])) == pytest.approx((10 + 50) / 2)


def test_new_entries_are_marked_and_old_ones_untouched(space, formula_table):
    table = without(formula_table(space), keys := dropped(space, 5))
    completed, _ = interpolate(table, space)
    assert {key for key, entry in completed.entries.items() if entry.interpolated} == keys
    assert {key: completed.entries[key] for key in table.entries} == table.entries
    assert all(completed.entries[key].calibrated_ms is None for key in keys)
    assert not any(key.startswith(str(SkipSpec())) for key in completed.entries)


def test_an_interpolated_entry_is_never_a_source(space, formula_table):
    """Interpolating in two steps, the second beside wild predictions of the first, gives what one step gives."""
    first, second = dropped(space, 4), dropped(space, 8) - dropped(space, 4)
    table = without(formula_table(space), first | second)
    at_once, _ = interpolate(table, space)
    wild = {key: Entry(median_ms=1e6, interpolated=True) for key in first}
    later, report = interpolate(table.model_copy(update={"entries": table.entries | wild}), space)
    assert {key: later.entries[key] for key in second} == {key: at_once.entries[key] for key in second}
    assert set(report.predicted) == second
    assert report.families[0].measured == 36 - 8


def test_a_complete_table_is_left_alone(space, formula_table):
    table = formula_table(space)
    same, report = interpolate(table, space)
    assert same is table
    assert report.families == ()


def test_a_calibrated_table_gets_both_numbers(space, formula_table):
    """calibrated_ms counts, so it is what the report is about; here both follow a power law, 3 apart."""
    whole = formula_table(space, price=power_law)
    entries = {
        key: entry.model_copy(update={"calibrated_ms": 3 * entry.median_ms}) for key, entry in whole.entries.items()
    }
    whole = whole.model_copy(update={"entries": entries, "calibration": CALIBRATION})
    keys = dropped(space, 6)
    completed, _ = interpolate(without(whole, keys), space)
    for key in keys:
        assert completed.entries[key].median_ms == pytest.approx(whole.entries[key].median_ms, rel=1e-3)
        assert completed.entries[key].ms == pytest.approx(whole.entries[key].ms, rel=1e-3)
    LatencyTable.model_validate(completed.model_dump())


def test_a_completed_table_loads_as_it_was_saved(space, formula_table, tmp_path):
    keys = dropped(space, 3)
    completed, _ = interpolate(without(formula_table(space), keys), space)
    completed.save(tmp_path / "t.yaml")
    read = LatencyTable.load(tmp_path / "t.yaml")
    assert {key for key, entry in read.entries.items() if entry.interpolated} == keys


def test_an_entry_outside_the_measured_range_of_macs_is_reported(space, formula_table):
    """The layer with the most MACs is outside the range of the others."""
    layers = [layer for layer in space.all_layers if isinstance(layer.spec, MBConvSpec)]
    heaviest = str(max(layers, key=lambda layer: layer.complexity.macs))
    inside = str(sorted(layers, key=lambda layer: layer.complexity.macs)[18])
    _, report = interpolate(without(formula_table(space), {heaviest, inside}), space)
    assert report.families[0].extrapolated == (heaviest,)
    assert f"outside the measured range of MACs: {heaviest}" in report.lines()[0]


@pytest.mark.parametrize("op", ["stem_k3", "feature_mix", "pool_classifier"])
def test_a_family_with_too_few_entries_is_refused(op, space, formula_table):
    table = formula_table(space)
    key = next(key for key in table.entries if key.startswith(op))
    with pytest.raises(TableError) as error:
        interpolate(without(table, {key}), space)
    for word in (f"no entry '{key}'", "has 0 measured layers", "at least 5", "measure the table"):
        assert word in str(error.value)


def test_five_layers_are_enough_and_four_are_not(space, formula_table):
    table = formula_table(space)
    keys = [key for key in table.entries if key.startswith("mbconv")]
    completed, _ = interpolate(without(table, set(keys[5:])), space)
    assert completed.missing(space) == []
    with pytest.raises(TableError, match="has 4 measured layers of its op family MBConv"):
        interpolate(without(table, set(keys[4:])), space)


def test_a_source_of_0_ms_is_refused(space, formula_table):
    """A linear model's gauge puts ops at 0 ms, which have no logarithm."""
    table = without(formula_table(space), dropped(space, 2))
    key = next(key for key in table.entries if key.startswith("mbconv"))
    table = table.model_copy(update={"entries": table.entries | {key: Entry(median_ms=0.0)}})
    with pytest.raises(TableError, match="is 0 ms"):
        interpolate(table, space)


def test_entries_of_edges_count_as_one_layer(space, formula_table):
    """A layer timed on two edges is left out as one, so that its twin does not make the error too small."""
    table = without(formula_table(space, price=power_law), dropped(space, 2))
    key = next(key for key in table.entries if key.startswith("mbconv"))
    ms = table.entries[key].ms
    twins = {f"{key} @stage0.0": Entry(median_ms=0.9 * ms), f"{key} @stage0.1": Entry(median_ms=1.1 * ms)}
    entries = {k: e for k, e in table.entries.items() if k != key} | twins
    _, plain = interpolate(table, space)
    _, on_edges = interpolate(table.model_copy(update={"entries": entries}), space)
    assert on_edges.families[0].measured == plain.families[0].measured
    assert on_edges.families[0].loo_mape_percent == pytest.approx(plain.families[0].loo_mape_percent, abs=1e-6)


def test_text_fields_of_an_op_are_features():
    """avg and max pooling differ in nothing but a word."""
    layers = [layer_of(f"{kind}pool_k3 {size}x{size}x8->8 s1") for kind in ("avg", "max") for size in (4, 8, 16, 32)]
    ms = np.array([(1.0 if "avg" in str(layer) else 2.0) * layer.size**1.5 for layer in layers])
    X = Features.of(layers).of_layers(layers)
    np.testing.assert_allclose(np.exp(X @ ridge(X, np.log(ms), STRENGTHS[0])), ms, rtol=1e-4)


def test_the_residual_add_is_a_feature():
    """Layers of equal shape take a tenth more with the add."""
    keys = [f"mbconv_k3_e3{add} {size}x{size}x8->8 s1" for add in ("", "+residual") for size in (4, 8, 16, 32)]
    layers = [layer_of(key) for key in keys]
    ms = np.array([(1.1 if layer.residual else 1.0) * layer.size**1.5 for layer in layers])
    X = Features.of(layers).of_layers(layers)
    np.testing.assert_allclose(np.exp(X @ ridge(X, np.log(ms), STRENGTHS[0])), ms, rtol=1e-4)


def test_a_verification_is_dropped(space, formula_table):
    """It was a verification of the measured entries; a table that lacks nothing keeps it."""
    verified = formula_table(space).model_copy(update={"verification": Verification.model_construct()})
    assert interpolate(verified, space)[0].verification is not None
    assert interpolate(without(verified, dropped(space, 3)), space)[0].verification is None


def test_a_key_names_its_layer(space):
    """layer_of inverts str; the classifier's dropout, which costs nothing, is not in its key."""
    for layer in space.all_layers:
        assert layer_of(str(layer)) == layer
        assert layer_of(f"{layer} @stage1.2") == layer
    odd = Layer(MBConvSpec(5, 6, se=True), 24, 24, 7, 1, residual=True)
    assert layer_of(str(odd)) == odd
    assert layer_of(str(dataclasses.replace(odd, c_out=32, stride=2, residual=False))).stride == 2


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("mbconv_k3_e3", "not a layer"),
        ("mbconv_k3_e3 8x9x16->16 s1", "not a layer"),
        ("mbconv_k3_e3 8x8x0->16 s1", "not a layer"),
        ("mbconv_k3_e3 8x8x16->16 s1 @", "not a layer"),
        ("mine_k3 8x8x16->16 s1", "no op 'mine_k3'"),
        ("stem_k4 8x8x16->16 s1", "no op 'stem_k4'"),
    ],
)
def test_a_key_that_names_no_layer_is_refused(key, words):
    with pytest.raises(TableError, match=words):
        layer_of(key)


def test_ten_left_out_entries_of_a_phone_table_are_predicted(shared_data, checkout, space_of):
    """In a published table, the error on ten left-out blocks is about the leave-one-out error."""
    path = shared_data / "latency_tables" / "mobile_trim.yaml"
    if not path.exists():
        pytest.skip(f"no {path.name} in `shared/data` beside the checkout")
    published = space_of(load_config(checkout / "configs" / "search" / "imagenet_mobile.yaml")["space"])
    table = import_official(path, device_name="a phone")
    keys = dropped(published, 10)
    completed, report = interpolate(without(table, keys), published)
    predicted_and_true = np.array([(completed.entries[key].ms, table.entries[key].ms) for key in keys])
    assert set(report.predicted) == keys
    assert report.families[0].loo_mape_percent < 8
    assert mape_percent(predicted_and_true[:, 0], predicted_and_true[:, 1]) < 12
