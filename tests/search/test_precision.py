"""An int8 table beside float32: which ops are not faster, and what the check before a search says."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from latency.config import MeasureConfig
from latency.table import LatencyTable
from search.check import check_search
from search.limits.limit import TableSource
from search.limits.precision import compared
from supernet.space import Layer, Space


def float32_ms(layer: Layer) -> float:
    """Returns the milliseconds of a layer in float32."""
    return 0.1 + layer.complexity.macs / 1e6


def int8_table(space: Space, path: Path, make_table, slow: str = "", factor: float = 0.5, **changes) -> LatencyTable:
    """Writes a table in which int8 takes `factor` of the time, and 1.5 times as long for layers with `slow`."""
    layers = [layer for layer in space.all_layers if not layer.is_skip]
    plain = {str(layer): float32_ms(layer) for layer in layers}
    entries = {key: {"median_ms": ms * (1.5 if slow and slow in key else factor), "n": 3} for key, ms in plain.items()}
    columns = {"float32_ms": {"unit": "ms", "how": "made up", "constant": 0.5, "values": plain}}
    settings = {"dtype": "int8", "quantiser": "made up 1", "entries": entries, "columns": columns}
    return make_table(space, path, **settings | changes)


def source(space: Space, table: LatencyTable) -> TableSource:
    return TableSource(Path("t.yaml"), table, table.cost(space), MeasureConfig(device="external"))


def test_layers_that_are_slower_in_int8_are_found_the_costliest_first(space, tmp_path, make_table):
    found = compared(space, source(space, int8_table(space, tmp_path / "t.yaml", make_table, slow="mbconv_k3_e1")), [])
    assert found is not None
    slow = {layer for layer in space.all_layers if "mbconv_k3_e1" in str(layer)}
    assert slow
    assert {one.layer for one in found.slower} == slow
    assert found.layers == len([layer for layer in space.all_layers if not layer.is_skip])
    assert [one.lost_ms for one in found.slower] == pytest.approx(
        sorted((0.5 * float32_ms(a) for a in slow), reverse=True)
    )


def test_a_network_takes_the_time_of_its_layers_in_both_precisions(space, tmp_path, make_table):
    """The constant counts, too: here it is half of that in float32."""
    found = compared(space, source(space, int8_table(space, tmp_path / "t.yaml", make_table, constant_ms=0.25)), [])
    assert found is not None
    assert found.ratio == pytest.approx(0.5)
    assert found.slower == ()


def test_a_float32_table_of_the_same_conditions_serves_as_well(space, tmp_path, make_table):
    int8 = source(space, int8_table(space, tmp_path / "t.yaml", make_table, slow="mbconv_k3_e1", columns={}))
    plain = source(space, make_table(space, tmp_path / "f.yaml"))
    assert compared(space, int8, [int8]) is None
    assert compared(space, plain, [int8, plain]) is None
    found = compared(space, int8, [int8, plain])
    assert found is not None
    assert {one.layer for one in found.slower} == {layer for layer in space.all_layers if "mbconv_k3_e1" in str(layer)}
    for change in ({"threads": 2}, {"batch": 8}, {"runtime": {"name": "litert", "version": "1"}}):
        other = source(space, make_table(space, tmp_path / "o.yaml", **change))
        assert compared(space, int8, [int8, other]) is None


@pytest.mark.parametrize(
    ("slow", "factor", "level", "words", "fix"),
    [
        ("", 0.5, "ok", "ops is faster in int8", ""),
        ("mbconv_k3_e1", 0.5, "warn", "int8 is not faster for", "the search avoids them"),
        ("", 1.2, "warn", "int8 is not faster for", "search and deploy in float32"),
    ],
)
def test_the_check_says_where_int8_is_not_faster(
    slow, factor, level, words, fix, space, tmp_path, make_table, make_search_file, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    int8_table(space, tmp_path / "t.yaml", make_table, slow=slow, factor=factor)
    limit = {"metric": "latency", "table": "t.yaml", "at": "50%", "tolerance": 0.5}
    config = make_search_file([limit], measure={"device": "external"})
    (line,) = [line for line in check_search(config) if line.what == "int8"]
    assert line.level == level
    assert words in line.text
    assert line.fix.startswith(fix)
    assert "times as long as in float32" in line.text
    if slow:
        assert "mbconv_k3_e1 8x8x4->8 s2 (0.152 ms in int8, 0.101 in float32)" in line.text


def test_an_int8_and_a_float32_limit_stand_beside_each_other(
    space, tmp_path, make_table, make_search_file, monkeypatch
):
    """The derived network meets both bounds, whether the two limits read one table or two."""
    monkeypatch.chdir(tmp_path)
    int8_table(space, tmp_path / "int8.yaml", make_table)
    make_table(space, tmp_path / "float32.yaml")
    limits = [
        {"metric": "latency", "table": "int8.yaml", "below": "60%"},
        {"metric": "latency", "table": "float32.yaml", "below": "50%"},
        {"metric": "float32_ms", "table": "int8.yaml", "below": "70%"},
    ]
    lines = check_search(make_search_file(limits, measure={"device": "external"}))
    assert "FAIL" not in {line.level for line in lines}, lines
    assert [line.level for line in lines if line.what == "limits together"] == ["ok"]
    assert sum(line.what == "int8" for line in lines) == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda column: column["values"].popitem(), "columns.float32_ms has no value for "),
        (lambda column: column.update(unit="s"), "columns.float32_ms has the unit s, expected ms"),
        (lambda column: column.update(constant=-99.0), "columns.float32_ms.constant is -99"),
    ],
)
def test_a_search_does_not_need_the_comparison(
    change, says, space, tmp_path, make_table, make_search_file, monkeypatch
):
    """A table may lack it: one with interpolated entries, for example, whose milliseconds in float32 are not known."""
    monkeypatch.chdir(tmp_path)
    int8_table(space, tmp_path / "int8.yaml", make_table)
    content = yaml.safe_load((tmp_path / "int8.yaml").read_text())
    change(content["columns"]["float32_ms"])
    (tmp_path / "int8.yaml").write_text(yaml.safe_dump(content))
    limits = [{"metric": "latency", "table": "int8.yaml", "below": "60%"}]
    lines = check_search(make_search_file(limits, measure={"device": "external"}))
    assert "FAIL" not in {line.level for line in lines}, lines
    (text,) = (line.text for line in lines if line.what == "int8")
    assert text.startswith(f"not compared with float32: int8.yaml: {says}")
