"""The table's file, its keys, its prices, and what it refuses to be used for."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from latency.config import MeasureConfig
from latency.table import Entry, LatencyTable, TableError, file_hash
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
COMMAND = "python scripts/measure_latency.py a.yaml --out t.yaml"


@pytest.fixture
def space(space_of) -> Space:
    return space_of(SPACE)


@pytest.fixture
def table(space, formula_table) -> LatencyTable:
    """Irrational prices, so that a sum cannot be right by chance."""
    return formula_table(space, price=lambda layer: len(str(layer)) ** 0.5)


def without(table: LatencyTable, *keys: str) -> LatencyTable:
    return table.model_copy(update={"entries": {k: e for k, e in table.entries.items() if k not in keys}})


def test_a_saved_table_loads_as_it_was(table, tmp_path):
    entries = {key: Entry(median_ms=round(e.median_ms, 4), iqr_ms=0.25, n=7) for key, e in table.entries.items()}
    own = table.model_copy(
        update={"entries": entries, "source": "a file: with 'quotes' and ü", "calibration": {"a": 1}}
    )
    path = tmp_path / "deep" / "folder" / "t.yaml"
    own.save(path)
    assert LatencyTable.load(path) == own


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


def test_one_line_per_entry(table, tmp_path):
    table.save(tmp_path / "t.yaml")
    lines = (tmp_path / "t.yaml").read_text().splitlines()
    assert len(lines) - 1 - lines.index("entries:") == len(table.entries)


def test_saving_again_replaces_the_file_and_its_hash(table, tmp_path):
    path = tmp_path / "t.yaml"
    table.save(path)
    before = file_hash(path)
    table.save(path)
    assert file_hash(path) == before
    table.model_copy(update={"batch": 2}).save(path)
    assert file_hash(path) != before


@pytest.mark.parametrize("place", ["", "t.yaml/below"])
def test_a_table_goes_into_a_file(place, table, tmp_path):
    (tmp_path / "t.yaml").write_text("")
    with pytest.raises(TableError, match="--out"):
        table.save(tmp_path / place)


def test_the_key_tells_residual_from_not(space):
    """Without its residual add an op is another layer with another latency."""
    first, second = (edge.layers[0] for edge in space.edges[2:4])
    assert (str(first), str(second)) == ("mbconv_k3_e3 9x9x8->8 s2", "mbconv_k3_e3+residual 5x5x8->8 s1")


def test_the_key_tells_residual_from_not_at_the_same_shape(space):
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
    """In the order in which an image meets the layers, whatever the table's order."""
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


def test_a_fitting_table_passes(space, table):
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
    """What runs there is unknown here; the shapes are not."""
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
