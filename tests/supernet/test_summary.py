"""An architecture's text is short in a message and complete as a table."""

from __future__ import annotations

import pytest

from supernet import Architecture
from supernet.summary import as_markdown, table_of, with_unit


@pytest.fixture
def architecture(make_space) -> Architecture:
    space = make_space(
        {"width": 8, "candidates": ["mbconv_k3_e1", "conv_k1", "skip"]},
        {"width": 16, "depth": 2, "stride": 2, "candidates": ["mbconv_k3_e3", "skip", "mbconv_k5_e6"]},
        input_size=9,
        classes=10,
        stem={"kernel": 3, "stride": 1, "width": 8},
        feature_mix=32,
    )
    return Architecture(space, (0, 0, 1), "mine")


def test_the_repr_of_an_architecture_has_its_name_and_ops(architecture):
    assert repr(architecture) == "Architecture('mine': mbconv_k3_e1 mbconv_k3_e3 skip)"


def test_summary_has_each_layer_with_its_shapes_and_complexity(architecture):
    head, rule, *rows, last_rule, total = architecture.summary().splitlines()
    assert head.split() == ["layer", "op", "channels", "input", "stride", "params", "MACs"]
    assert rule == last_rule
    assert [row.split()[:5] for row in rows] == [
        ["stem", "stem_k3", "3->8", "9x9", "1"],
        ["stage0.0", "mbconv_k3_e1+residual", "8->8", "9x9", "1"],
        ["stage1.0", "mbconv_k3_e3", "8->16", "9x9", "2"],
        ["stage1.1", "skip", "16->16", "5x5", "1"],
        ["feature_mix", "feature_mix", "16->32", "5x5", "1"],
        ["classifier", "pool_classifier", "32->10", "5x5", "1"],
    ]
    # stem: 8 * 3 * 3 * 3 weights and 16 of BN; each weight is used at 81 places
    assert rows[0].split()[5:] == ["232", "17.5", "k"]
    assert rows[3].split()[5:] == ["0", "0"]
    c = architecture.complexity
    assert total.split() == ["sum", *with_unit(c.params).split(), *with_unit(c.macs).split()]
    assert len({len(line) for line in (head, rule)}) == 1


def test_columns_of_costs_are_summed_with_what_a_network_costs_once(architecture):
    ms = [0.5, 1.0, 2.0, 0.0, 0.25, 0.125]
    rows = table_of(architecture, {"ms": ms, "mJ": [1.0] * 6}, {"ms": 0.0625, "mJ": 0.0})
    assert rows[0][-2:] == ["ms", "mJ"]
    assert [row[-2] for row in rows[1:]] == ["0.5", "1", "2", "0", "0.25", "0.125", "0.0625", "3.938"]
    assert [row[0] for row in rows[-2:]] == ["once per network", "sum"]
    assert rows[-1][-1] == "6"
    assert [row[0] for row in table_of(architecture, {"ms": ms})][-2:] == ["classifier", "sum"]  # nothing once


def test_a_column_of_another_length_is_refused(architecture):
    with pytest.raises(ValueError, match=r"column 'ms': got 2 numbers, expected one for each of 6 layers"):
        architecture.summary({"ms": [1.0, 2.0]})


def test_markdown_has_as_many_cells_in_each_line(architecture):
    lines = as_markdown(table_of(architecture)).splitlines()
    assert {line.count("|") for line in lines} == {8}
    assert lines[1] == "| :-- | :-- | --: | --: | --: | --: | --: |"
    assert lines[-1].startswith("| **sum** |")


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (7, "7"), (999, "999"), (999.6, "1.00 k"), (1000, "1.00 k"), (23_456, "23.5 k"), (999_499, "999 k"),
     (999_600, "1.00 M"), (257e6, "257 M"), (1e9, "1.00 G"), (2.5e12, "2.50 T"), (0.01234, "0.0123")],
)  # fmt: skip
def test_a_number_with_a_unit_keeps_three_digits(number, text):
    assert with_unit(number) == text
