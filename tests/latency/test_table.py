"""The table's file, its keys and prices, and the uses that it refuses."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from engine.errors import ConfigError
from latency.config import MeasureConfig
from latency.table import Calibration, Column, Entry, LatencyTable, Scores, TableError, UsedRuntime, Verification
from supernet.space import Layer, Space

SPACE: dict[str, Any] = {
    "input_size": 9,
    "input_channels": 1,
    "classes": 3,
    "stem": {"kernel": 3, "stride": 1, "width": 8},
    "stages": [
        {"width": 8, "depth": 2, "candidates": ["mbconv_k3_e3", "mbconv_k3_e3_se", "skip"]},
        {"width": 8, "depth": 2, "stride": 2, "candidates": ["mbconv_k3_e3", "mbconv_k5_e3", "skip"]},
        {"width": 16, "candidates": ["proj"]},
    ],
    "feature_mix": 24,
}
CALIBRATION = Calibration(date="2026-01-31", networks=60, strength=0.01, cross_validation_percent=0.8, seed=3)
COMMAND = "proxyless-nas measure a.yaml --out t.yaml"


@pytest.fixture
def space(space_of) -> Space:
    return space_of(SPACE)


@pytest.fixture
def table(space, formula_table) -> LatencyTable:
    """A table with irrational prices, so that a sum cannot be right by chance."""
    return formula_table(space, price=lambda layer: len(str(layer)) ** 0.5)


def without(table: LatencyTable, *keys: str) -> LatencyTable:
    return table.model_copy(update={"entries": {k: e for k, e in table.entries.items() if k not in keys}})


def verification(spearman: float | None = 0.75) -> Verification:
    score = Scores(
        mape_percent=1.5, rmse_ms=0.25, spearman=spearman, kendall=0.5, bias_percent=-0.5, mape_percent_thirds=(1, 2, 3)
    )
    plain = score.model_copy(update={"spearman": None, "kendall": None})
    return Verification(
        date="2026-01-31", networks=3, measured_range_ms=(1, 4), noise_mape_percent=0.25, noise_spearman=spearman,
        table=score, raw=score, constant=plain, macs=score, holds=True,
        measured_ms=(1, 2.5, 4), predicted_ms=(1.125, 2.5, 4.25),
    )  # fmt: skip


def full(table: LatencyTable) -> LatencyTable:
    """Returns the table with everything that a table may hold."""
    entries = {
        key: Entry(median_ms=round(e.median_ms, 4), iqr_ms=0.25, n=7, calibrated_ms=0.5 + i, interpolated=i == 2)
        for i, (key, e) in enumerate(table.entries.items())
    }
    first = next(iter(entries))
    energy = Column(unit="mJ", how="made up", constant=-0.5, values={key: 2.0 + i for i, key in enumerate(entries)})
    return table.model_copy(
        update={
            "entries": entries | {f"{first} @stage0.1": Entry(median_ms=3.5, calibrated_ms=4.5)},
            "source": "a file: with 'quotes' and ü",
            "constant_ms": -0.25,
            "calibration": CALIBRATION,
            "verification": verification(),
            "columns": {"energy_mj": energy},
        }
    )


def test_a_table_in_the_format_of_another_version_is_refused(table, tmp_path):
    path = tmp_path / "table.yaml"
    table.save(path)
    path.write_text(path.read_text().replace("latency-table@1", "latency-table@7"))
    with pytest.raises(ConfigError, match=r"got 'proxylessnas/latency-table@7', which another version wrote.*again"):
        LatencyTable.load(path)


@pytest.mark.parametrize("text", ["1234567890123e45", "0042", "0o17", "12:30", "1e3", "yes", "~", "2026-01-31", "a: b"])
def test_a_text_of_the_header_stays_text(table, text, tmp_path):
    """A device's fingerprint in hexadecimal may look like a number in scientific notation."""
    device = table.device.model_copy(update={"fingerprint": text, "name": text})
    named = table.model_copy(update={"device": device, "source": text})
    named.save(tmp_path / "t.yaml")
    assert LatencyTable.load(tmp_path / "t.yaml").device == device


def test_a_saved_table_loads_as_it_was(table, tmp_path):
    path = tmp_path / "deep" / "folder" / "t.yaml"
    full(table).save(path)
    assert LatencyTable.load(path) == full(table)


def test_missing_correlations_are_saved_and_loaded(table, tmp_path):
    """If all predictions or measurements are equal, there is no rank."""
    own = table.model_copy(update={"verification": verification(spearman=None)})
    own.save(tmp_path / "t.yaml")
    assert LatencyTable.load(tmp_path / "t.yaml").verification == own.verification


def test_numbers_keep_six_digits(table, tmp_path):
    table.save(tmp_path / "t.yaml")
    loaded = LatencyTable.load(tmp_path / "t.yaml")
    assert loaded.entries.keys() == table.entries.keys()
    for key, entry in loaded.entries.items():
        assert entry.median_ms == pytest.approx(table.entries[key].median_ms, rel=1e-5)


def test_any_yaml_reader_reads_the_file(table, tmp_path):
    """Keys and tiny or huge numbers are plain YAML 1.1 too: other programs read tables."""
    entries = dict(table.entries)
    first, second, *_ = entries
    entries[first], entries[second] = Entry(median_ms=2.5e-7, n=1), Entry(median_ms=3.5e8, n=1)
    table.model_copy(update={"entries": entries}).save(tmp_path / "t.yaml")
    plain = yaml.safe_load((tmp_path / "t.yaml").read_text())
    assert {key: type(key) for key in plain["entries"]} == dict.fromkeys(entries, str)
    for key, entry in plain["entries"].items():
        assert isinstance(entry["median_ms"], int | float)
        assert entry["median_ms"] == pytest.approx(entries[key].median_ms, rel=1e-5)


def test_the_file_has_one_line_for_each_entry(table, tmp_path):
    table.save(tmp_path / "t.yaml")
    lines = (tmp_path / "t.yaml").read_text().splitlines()
    assert len(lines) - 1 - lines.index("entries:") == len(table.entries)


def test_the_header_is_a_screenful_and_each_value_of_a_column_a_line(table, tmp_path):
    """Lists and small sections of the header are in brackets; people read it."""
    own = full(table)
    own.save(tmp_path / "t.yaml")
    lines = (tmp_path / "t.yaml").read_text().splitlines()
    header, columns = lines[: lines.index("columns:")], lines[lines.index("columns:") : lines.index("entries:")]
    assert len(header) < 60
    assert any(re.fullmatch(r"device: \{kind: cpu, .*\}", line) for line in header)
    assert any(line.startswith("  measured_ms: [1.0, 2.5, 4.0]") for line in header)
    assert sum(line.startswith("      ") for line in columns) == len(own.columns["energy_mj"].values)


def test_a_table_has_to_state_its_method(table):
    """The errors of sums depend on whether ops were timed inside networks."""
    values = table.model_dump()
    del values["method"]
    with pytest.raises(ValidationError, match="method"):
        LatencyTable.model_validate(values)


@pytest.mark.parametrize("change", [{"calibration": None}, {"entries": "as measured"}])
def test_calibrated_entries_and_their_record_come_together(change, table):
    values = full(table).model_dump()
    if "entries" in change:
        change = {"entries": {key: {"median_ms": 1.0} for key in values["entries"]}}
    with pytest.raises(ValidationError, match="exactly where entries have calibrated_ms"):
        LatencyTable.model_validate(values | change)


def test_an_entry_counts_as_calibrated_where_it_is(table):
    assert Entry(median_ms=2.0).ms == 2.0
    assert Entry(median_ms=2.0, calibrated_ms=3.0).ms == 3.0
    assert Entry(median_ms=2.0, calibrated_ms=0.0).ms == 0.0  # a correction may remove an op's whole cost


def test_the_identity_is_that_of_the_numbers_and_survives_a_file_and_a_verification(table, tmp_path):
    path = tmp_path / "t.yaml"
    table.save(path)
    kept = LatencyTable.load(path)
    kept.save(path)
    assert LatencyTable.load(path).sha256 == kept.sha256
    for result in (None, verification(), verification(0.5)):
        assert kept.model_copy(update={"verification": result}).sha256 == kept.sha256
    entries = dict(kept.entries)
    first = next(iter(entries))
    entries[first] = entries[first].model_copy(update={"median_ms": entries[first].median_ms * 1.01})
    for changed in ({"batch": 2}, {"constant_ms": 1.0}, {"entries": entries}):
        assert kept.model_copy(update=changed).sha256 != kept.sha256


@pytest.mark.parametrize("place", ["", "t.yaml/below"])
def test_a_place_that_cannot_hold_a_table_is_refused(place, table, tmp_path):
    (tmp_path / "t.yaml").write_text("")
    with pytest.raises(TableError, match="--out"):
        table.save(tmp_path / place)


def test_the_key_marks_a_residual_edge(space):
    """An op without its residual add is another layer, with another latency."""
    first, second = (edge.layers[0] for edge in space.edges[2:4])
    assert (str(first), str(second)) == ("mbconv_k3_e3 9x9x8->8 s2", "mbconv_k3_e3+residual 5x5x8->8 s1")


def test_the_key_marks_a_residual_edge_of_the_same_shape(space):
    layer = space.edges[0].layers[0]
    plain = Layer(layer.spec, layer.c_in, layer.c_out, layer.size, layer.stride, residual=False)
    assert str(layer) == "mbconv_k3_e3+residual 9x9x8->8 s1"
    assert str(plain) == "mbconv_k3_e3 9x9x8->8 s1"


def test_the_key_holds_squeeze_and_excitation(space):
    assert str(space.edges[0].layers[1]) == "mbconv_k3_e3_se+residual 9x9x8->8 s1"


def test_skip_costs_nothing_and_has_no_entry(space, table):
    skip = space.edges[0].layers[-1]
    assert str(skip.spec) == "skip"
    assert table.price(skip) == 0.0
    assert not any(key.startswith("skip") for key in table.entries)
    assert table.missing(space) == []


def test_missing_follows_the_chain(space, table):
    """Layers are in the order in which an image passes them, whatever the table's order."""
    gone = [space.classifier, space.edges[4].layers[0], space.edges[2].layers[1], space.stem]
    assert without(table, *map(str, gone)).missing(space) == gone[::-1]


def test_a_missing_layer_is_named_with_the_file_and_the_command(space, table):
    key = str(space.edges[2].layers[1])
    assert key == "mbconv_k5_e3 9x9x8->8 s2"
    with pytest.raises(TableError) as error:
        without(table, key).check(space, MeasureConfig(), "t.yaml", COMMAND)
    message = str(error.value)
    for words in ("t.yaml", key, "9x9 input with 8 channels", "'mbconv_k3_e3 9x9x8->8 s2'", COMMAND):
        assert words in message
    assert "more)" not in message


def test_missing_layers_are_counted(space, table):
    with pytest.raises(TableError, match=r"\(and 2 more\)"):
        without(table, *list(table.entries)[:3]).check(space, MeasureConfig(), "t.yaml", COMMAND)


def test_an_entry_for_one_edge_goes_before_the_common_one(space, table):
    """stage1.0 and stage1.1 differ in shape; stage0.0 and stage0.1 share their keys."""
    layer = space.searchable[0].layers[1]
    assert layer == space.searchable[1].layers[1]
    own = table.model_copy(update={"entries": table.entries | {f"{layer} @stage0.1": Entry(median_ms=77.0)}})
    assert own.price(layer) == own.price(layer, "stage0.0") == table.price(layer)
    assert own.price(layer, "stage0.1") == 77.0
    difference = own.cost(space).table - table.cost(space).table
    expected = np.zeros_like(difference)
    expected[1, 1] = 77.0 - table.price(layer)
    np.testing.assert_allclose(difference, expected, atol=1e-12)


def test_entries_for_every_edge_need_no_common_one(space, table):
    layer = space.searchable[0].layers[1]
    lacking = without(table, str(layer)).entries
    both = {f"{layer} @{place}": Entry(median_ms=1.0) for place in ("stage0.0", "stage0.1")}
    assert table.model_copy(update={"entries": lacking | both}).missing(space) == []
    del both[f"{layer} @stage0.1"]
    assert table.model_copy(update={"entries": lacking | both}).missing(space) == [layer]


def test_the_stem_and_the_head_have_places_too(space, table):
    added = {f"{space.stem} @stem": Entry(median_ms=50.0), f"{space.classifier} @classifier": Entry(median_ms=70.0)}
    own = table.model_copy(update={"entries": table.entries | added})
    expected = table.cost(space).fixed + 120 - table.price(space.stem) - table.price(space.classifier)
    assert own.cost(space).fixed == pytest.approx(expected)


def test_a_price_that_the_table_lacks_is_a_key_error(space, table):
    with pytest.raises(KeyError, match=re.escape(str(space.stem))):
        without(table, str(space.stem)).price(space.stem)


def test_a_table_that_covers_the_space_passes_the_check(space, table):
    table.check(space, MeasureConfig(), "t.yaml", COMMAND)


@pytest.mark.parametrize(
    ("header", "setting"),
    [
        ({"input_size": 10}, "space.input_size"),
        ({"activation": "relu"}, "space.activation"),
        ({"batch": 2}, "measure.batch"),
        ({"dtype": "bfloat16"}, "measure.dtype"),
        ({"memory_format": "contiguous"}, "measure.channels_last"),
        ({"memory_format": None}, "measure.channels_last"),
        ({"runtime": UsedRuntime(name="onnxruntime", version="1")}, "measure.runtime"),
        ({"threads": 2}, "measure.threads"),
        ({"threads": None}, "measure.threads"),
        ({"kind": "gpu"}, "measure.device"),
        ({"kind": "phone"}, "measure.device"),
    ],
)
def test_each_field_of_the_header_has_to_agree(header, setting, space, table):
    kind = header.pop("kind", None)
    device = table.device.model_copy(update={"kind": kind}) if kind else table.device
    other = table.model_copy(update={"device": device, **header})
    with pytest.raises(TableError, match=re.escape(f"({setting})")) as error:
        other.check(space, MeasureConfig(), "t.yaml", COMMAND)
    assert COMMAND in str(error.value)


def test_a_gpu_has_no_thread_count(space, formula_table):
    measure = MeasureConfig(device="cuda", threads=3)
    formula_table(space, measure).check(space, measure, "t.yaml", COMMAND)


def test_an_external_table_is_of_any_device_but_of_this_batch(space, table):
    """Its runtime is unknown here, but its shapes are known."""
    phone = table.model_copy(update={"threads": None, "memory_format": None, "dtype": "int8"})
    phone.check(space, MeasureConfig(device="external"), "t.yaml", COMMAND)
    with pytest.raises(TableError, match="batch"):
        phone.check(space, MeasureConfig(device="external", batch=4), "t.yaml", COMMAND)


def test_the_cost_of_paths_is_the_sum_of_their_entries(space, table):
    cost = table.cost(space)
    for paths in [(0, 0, 0, 0), (2, 2, 1, 2), (1, 0, 1, 1)]:
        expected = 0.0
        for layer in space.layers(paths):
            expected += 0.0 if str(layer.spec) == "skip" else table.entries[str(layer)].median_ms
        assert cost.of(paths) == pytest.approx(expected, rel=1e-12)


def test_the_fixed_part_is_stem_head_and_fixed_edges(space, table):
    fixed = (space.stem, space.edges[4].layers[0], space.feature_mix, space.classifier)
    assert table.cost(space).fixed == pytest.approx(sum(table.entries[str(f)].median_ms for f in fixed), rel=1e-12)


def test_the_reachable_range_is_the_cheapest_and_the_dearest_architecture(space, table):
    cost = table.cost(space)
    shapes = [range(len(edge.candidates)) for edge in space.searchable]
    every = [cost.of((a, b, c, d)) for a in shapes[0] for b in shapes[1] for c in shapes[2] for d in shapes[3]]
    assert cost.reachable == pytest.approx((min(every), max(every)), rel=1e-12)


def test_the_constant_is_added_once_per_network(space, table):
    own = table.model_copy(update={"constant_ms": -0.75})
    for paths in [(0, 0, 0, 0), (2, 2, 1, 2)]:
        assert own.cost(space).of(paths) == pytest.approx(table.cost(space).of(paths) - 0.75)


def test_the_cost_is_of_calibrated_entries(space, table):
    halved = {k: e.model_copy(update={"calibrated_ms": e.median_ms / 2}) for k, e in table.entries.items()}
    own = table.model_copy(update={"entries": halved, "calibration": CALIBRATION})
    assert own.cost(space).of((0, 0, 0, 0)) == pytest.approx(table.cost(space).of((0, 0, 0, 0)) / 2)


def with_column(table: LatencyTable, **values: float) -> LatencyTable:
    everywhere = dict.fromkeys(table.entries, 1.0) | values
    return table.model_copy(
        update={"columns": {"energy_mj": Column(unit="mJ", how="made up", constant=10.0, values=everywhere)}}
    )


def test_a_column_makes_a_cost_of_its_own(space, table):
    """The column has 1 mJ for each layer but skip, and 10 more per network: stem, 5 edges, head and classifier."""
    cost = with_column(table).column_cost(space, "energy_mj", "t.yaml")
    assert cost.of((0, 0, 0, 0)) == 10 + 8
    assert cost.of((2, 2, 1, 2)) == 10 + 5
    layer = space.searchable[0].layers[0]
    edge = with_column(table, **{f"{layer} @stage0.1": 4.0}).column_cost(space, "energy_mj", "t.yaml")
    assert edge.of((0, 0, 0, 0)) == 10 + 7 + 4


def test_an_absent_column_lists_the_present_ones(space, table):
    with pytest.raises(TableError, match=r"t\.yaml: no column 'watts'; it has columns energy_mj"):
        with_column(table).column_cost(space, "watts", "t.yaml")
    with pytest.raises(TableError, match="no columns beside latency"):
        table.column_cost(space, "watts", "t.yaml")


def test_an_incomplete_column_names_the_layer(space, table):
    own = with_column(table)
    del own.columns["energy_mj"].values[str(space.stem)]
    with pytest.raises(TableError, match=re.escape(f"columns.energy_mj has no value for '{space.stem}'")):
        own.column_cost(space, "energy_mj", "t.yaml")


# --- costs of 0 and less ----------------------------------------------------------------------------------------------


def test_a_network_that_would_take_no_time_is_refused(space, table):
    """A bound would always be met, and logarithms of costs would not exist."""
    least, largest = table.cost(space).reachable
    table.model_copy(update={"constant_ms": -0.999 * least}).cost(space)
    for constant in (-least, -1.5 * least, -2 * largest):
        with pytest.raises(TableError, match=r"t\.yaml: constant_ms is -.*fastest architecture would take.*refit") as e:
            table.model_copy(update={"constant_ms": constant}).cost(space, "t.yaml")
        assert f"{constant:.4g}" in str(e.value)
        assert f"{least + constant:.4g} ms" in str(e.value)


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"method": "whole_networks", "source": "a.csv"}, "time some fast networks, too"),
        ({"method": "imported", "source": "a.yaml"}, "make the table again where it comes from"),
        ({"method": "in_context"}, "--recalibrate"),
    ],
)
def test_the_remedy_for_a_negative_constant_depends_on_how_the_table_was_made(changes, remedy, space, table):
    with pytest.raises(TableError, match=remedy):
        table.model_copy(update={"constant_ms": -1e9} | changes).cost(space)


def test_entries_of_zero_alone_are_refused_too(space, table):
    nothing = {key: Entry(median_ms=0.0) for key in table.entries}
    with pytest.raises(TableError, match=r"constant_ms is 0, so the fastest architecture would take 0 ms"):
        table.model_copy(update={"entries": nothing}).cost(space)


def test_a_column_that_goes_to_0_or_below_is_refused(space, table):
    own = with_column(table)
    least, _ = own.column_cost(space, "energy_mj", "t.yaml").reachable  # 10 of it the constant
    low = own.columns["energy_mj"].model_copy(update={"constant": 10 - least})
    with pytest.raises(TableError, match=r"t\.yaml: columns\.energy_mj\.constant is -5, .*would have 0 mJ"):
        own.model_copy(update={"columns": {"energy_mj": low}}).column_cost(space, "energy_mj", "t.yaml")


# --- the networks that calibrated a table -----------------------------------------------------------------------------


def test_a_table_that_was_calibrated_once_has_the_identity_and_the_file_that_it_had_before_there_was_a_history():
    """Runs that were begun with it are resumed by its hash."""
    table = LatencyTable.model_validate(
        {
            "device": {"kind": "cpu", "name": "x", "cores": 2, "fingerprint": "f"},
            "runtime": {"name": "pytorch", "version": "1"},
            "threads": 1,
            "batch": 1,
            "dtype": "float32",
            "memory_format": "contiguous",
            "activation": "relu6",
            "input_size": 8,
            "date": "2026-01-31",
            "method": "in_context",
            "how": "made up",
            "constant_ms": -0.25,
            "calibration": CALIBRATION,
            "entries": {"stem_k3 8x8x1->8 s1": {"median_ms": 1.0, "n": 3, "calibrated_ms": 1.5}},
        }
    )
    assert table.sha256 == "c55ff117a9843461939243d30d520dd617a330348b9a6bedc54ccd384b951af3"


def test_the_history_of_calibrations_is_saved_and_a_part_of_the_identity(table, tmp_path):
    once = full(table)
    once.save(tmp_path / "once.yaml")
    assert "history" not in (tmp_path / "once.yaml").read_text()
    assert LatencyTable.load(tmp_path / "once.yaml").calibration == CALIBRATION
    twice = once.model_copy(update={"calibration": CALIBRATION.model_copy(update={"history": CALIBRATION.drawn})})
    twice.save(tmp_path / "twice.yaml")
    assert LatencyTable.load(tmp_path / "twice.yaml") == twice
    assert twice.calibration is not None
    assert [(d.networks, d.seed) for d in twice.calibration.drawn] == [(60, 3), (60, 3)]
    assert twice.sha256 != once.sha256
