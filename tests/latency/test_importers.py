"""Tables in other projects' formats: known sums, coverage of their spaces, and files that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.config import load_config
from engine.errors import ConfigError, UserError
from latency.importers import IMPORTERS, import_official, import_table
from latency.table import LatencyTable, TableError
from supernet.architecture import Architecture
from supernet.space import Space

STEM = "Conv-input:224x224x3-output:112x112x32"


@pytest.fixture
def published(checkout, space_of) -> Space:
    """The published ImageNet space, whose first searched stage has 24 channels."""
    config = load_config(checkout / "configs" / "search" / "imagenet_mobile.yaml")
    return space_of(config["space"])


@pytest.fixture
def imported(shared_data):
    def load(name: str) -> LatencyTable:
        path = shared_data / "latency_tables" / f"{name}.yaml"
        if not path.exists():
            pytest.skip(f"no {path.name} in `shared/data` beside the checkout")
        return import_official(path, device_name="a phone")

    return load


@pytest.mark.parametrize(("name", "ms"), [("mobile_trim", 11.36), ("pixel_trim", 15.65)])
def test_the_fixed_part_of_the_published_space_has_the_published_sum(name, ms, imported, published):
    """It consists of the first convolution, the first block, the feature mix and the classifier."""
    assert imported(name).cost(published).fixed == pytest.approx(ms, abs=0.005)


@pytest.mark.parametrize(
    ("name", "candidate", "ms"),
    [
        ("mobile_trim", "mbconv_k3_e3", 76.0),
        ("pixel_trim", "mbconv_k3_e3", 72.5),
        ("mobile_trim", "mbconv_k7_e6", 191.0),
    ],
)
def test_networks_with_the_same_op_on_every_edge_have_the_published_sum(name, candidate, ms, imported, published):
    """Every stage has depth 4; the sum includes the fixed part."""
    names = [candidate if edge.searchable else edge.candidates[0] for edge in published.edges]
    paths = Architecture.from_names(published, names).paths
    assert imported(name).cost(published).of(paths) == pytest.approx(ms, abs=0.05)


@pytest.mark.parametrize("name", ["mobile_trim", "pixel_trim"])
def test_the_published_space_is_covered(name, imported, published):
    assert imported(name).missing(published) == []


def test_the_table_fits_the_mobile_search(imported, published, checkout, tmp_path):
    """It passes the check of a search after it was saved and loaded."""
    from latency.config import MeasureConfig

    imported("mobile_trim").save(tmp_path / "t.yaml")
    measure = load_config(checkout / "configs" / "search" / "imagenet_mobile.yaml")["measure"]
    LatencyTable.load(tmp_path / "t.yaml").check(published, MeasureConfig(**measure), "t.yaml", "command")


def written(folder: Path, records: object) -> Path:
    path = folder / "official.yaml"
    path.write_text(json.dumps(records))
    return path


BLOCK = "expanded_conv-input:112x112x16-output:56x56x24-expand:3-kernel:5-stride:2-idskip:0"
RESIDUAL = "expanded_conv-input:56x56x24-output:56x56x24-expand:6-kernel:7-stride:1-idskip:1"
GOOD = {"mean": 1.5, "count": 3, "var": 0.1}


def test_keys_and_values_are_translated(tmp_path):
    records = {STEM: GOOD, BLOCK: GOOD, RESIDUAL: {"mean": 2, "count": 4}}
    records |= {"Conv_1-input:7x7x320-output:7x7x1280": GOOD, "Logits-input:7x7x1280-output:1000": GOOD}
    path = written(tmp_path, records)
    table = import_official(path, device_name="Pixel 1")
    assert {key: (e.median_ms, e.n) for key, e in table.entries.items()} == {
        "stem_k3 224x224x3->32 s2": (1.5, 3),
        "mbconv_k5_e3 112x112x16->24 s2": (1.5, 3),
        "mbconv_k7_e6+residual 56x56x24->24 s1": (2.0, 4),
        "feature_mix 7x7x320->1280 s1": (1.5, 3),
        "pool_classifier 7x7x1280->1000 s1": (1.5, 3),
    }
    assert (table.input_size, table.batch, table.device.kind, table.device.name) == (224, 1, "phone", "Pixel 1")
    assert path.name in (table.source or "")


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ({STEM: GOOD | {"median": 1.0}}, (STEM, "unknown field 'median'")),
        ({STEM: GOOD | {"mean": 10**400}}, (STEM, "mean", "milliseconds")),
        ({STEM: GOOD, BLOCK: GOOD, BLOCK.replace("expand:3", "expand:03"): GOOD}, (BLOCK, "expand:03", "both")),
        ({STEM: GOOD, BLOCK.replace("stride:2", "stride:1"): GOOD}, ("stride 1", "ceil")),
        ({STEM: GOOD, BLOCK.replace("idskip:0", "idskip:1"): GOOD}, ("idskip:1", "differ")),
        ({STEM: GOOD, "Conv_2-input:7x7x3-output:7x7x4": GOOD}, ("Conv_2-input:7x7x3-output:7x7x4", "not official")),
        ({STEM: GOOD, f"{BLOCK}-se:1": GOOD}, (f"{BLOCK}-se:1", "not official")),
        ({STEM: GOOD | {"mean": -0.5}}, (STEM, "-0.5", "milliseconds")),
        ({STEM: GOOD | {"mean": True}}, (STEM, "True", "milliseconds")),
        ({STEM: GOOD | {"mean": "fast"}}, (STEM, "'fast'", "milliseconds")),
        ({STEM: GOOD | {"mean": float("nan")}}, (STEM, "nan", "milliseconds")),
        ({STEM: GOOD | {"count": 0}}, (STEM, "count is 0", "whole number")),
        ({STEM: GOOD | {"count": 2.5}}, (STEM, "count is 2.5", "whole number")),
        ({STEM: {"mean": 1.0}}, (STEM, "mean and count")),
        ({STEM: 1.0}, (STEM, "mean and count", "1.0")),
        ({BLOCK: GOOD}, ("Conv-input", "first convolution")),
    ],
)
def test_a_wrong_record_is_named(records, words, tmp_path):
    path = written(tmp_path, records)
    if "NaN" in path.read_text():
        path.write_text(path.read_text().replace("NaN", ".nan"))
    with pytest.raises(TableError) as error:
        import_official(path, device_name="a phone")
    for word in (str(path), *words):
        assert word in str(error.value)


@pytest.mark.parametrize("name", ["official.json", "official.yaml"])
def test_json_may_be_indented_by_tabs(name, tmp_path):
    """Editors write JSON with tabs, which YAML forbids."""
    path = tmp_path / name
    path.write_text(json.dumps({STEM: GOOD, BLOCK: GOOD}, indent="\t"))
    table = import_official(path, device_name="a phone")
    assert {key: entry.median_ms for key, entry in table.entries.items()} == {
        "stem_k3 224x224x3->32 s2": 1.5,
        "mbconv_k5_e3 112x112x16->24 s2": 1.5,
    }


def test_a_mistake_in_json_with_tabs_is_not_called_one_of_indentation(tmp_path):
    path = tmp_path / "official.json"
    path.write_text('{\n\t"Conv-input": [1,\n}')
    with pytest.raises(ConfigError, match=r"official\.json: not JSON: Expecting value: line 3 column 1"):
        import_official(path, device_name="a phone")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "-1", '"1.5"', "true", "null", "[1.5]", "1e12"])
def test_a_time_that_is_not_finite_or_below_zero_is_refused(value, tmp_path):
    path = tmp_path / "official.json"
    path.write_text(json.dumps({STEM: GOOD | {"mean": 0}}).replace('"mean": 0', f'"mean": {value}'))
    with pytest.raises(TableError, match=f"'{STEM}': mean is .*, expected milliseconds >= 0; correct the file"):
        import_official(path, device_name="a phone")


@pytest.mark.parametrize("value", ["0.5", "true", "-3", '"3"', "NaN", "0"])
def test_a_count_that_is_no_whole_number_is_refused(value, tmp_path):
    path = tmp_path / "official.json"
    path.write_text(json.dumps({STEM: GOOD | {"count": 99}}).replace("99", value))
    with pytest.raises(TableError, match=f"'{STEM}': count is .*, expected a whole number >= 1; correct the file"):
        import_official(path, device_name="a phone")


def test_a_foreign_table_does_not_name_other_files_to_read(tmp_path):
    """`extends` is a key of our configurations alone."""
    written(tmp_path, {STEM: GOOD})
    path = tmp_path / "other.yaml"
    path.write_text(f"extends: official.yaml\n{BLOCK}: {{mean: 1.0, count: 3}}\n")
    with pytest.raises(TableError, match="key 'extends' is not official"):
        import_official(path, device_name="a phone")


@pytest.mark.parametrize("text", ["[1, 2]", "", "just words"])
def test_a_source_that_is_no_mapping_is_refused(text, tmp_path):
    path = tmp_path / "official.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"official\.yaml"):
        import_official(path, device_name="a phone")


@pytest.mark.parametrize("key", ["Conv-input:224x224x3-output:0x0x32", "Conv-input:224x112x3-output:112x56x32"])
def test_a_shape_that_no_space_has_is_refused(key, tmp_path):
    """It has no output pixels, or an image that is not square."""
    with pytest.raises(UserError, match="Conv-input"):
        import_official(written(tmp_path, {key: GOOD}), device_name="a phone")


def test_ops_that_the_catalogue_lacks_are_reported(tmp_path):
    foreign = BLOCK.replace("kernel:5", "kernel:9")
    imported = import_table(written(tmp_path, {STEM: GOOD, foreign: GOOD}), device_name="a phone")
    assert list(imported.table.entries) == ["stem_k3 224x224x3->32 s2"]
    assert imported.left_out == ((foreign, "the catalogue has no op mbconv_k9_e3"),)


# --- once-for-all ----------------------------------------------------------------------------------------------------

HSWISH = "expanded_conv-input:28x28x48-output:14x14x96-expand:192-kernel:5-stride:2-idskip:0-se:0-hs:1"
SQUEEZED = "expanded_conv-input:7x7x192-output:7x7x192-expand:1152-kernel:3-stride:1-idskip:1-se:1-hs:1"
RELU = "expanded_conv-input:56x56x32-output:56x56x32-expand:96-kernel:7-stride:1-idskip:1-se:0-hs:0"
TIMED = {"mean": 2.5, "count": 7, "std": 0.1}
HEAD = (
    "AvgPool2D-input:7x7x1152-output:1x1x1152",
    "Conv_2-input:1x1x1152-output:1x1x1536",
    "Logits-input:1x1x1536-output:10",
)


def test_once_for_all_keys_are_translated(tmp_path):
    """In that format, expand is the number of hidden channels: 192 of 48 is a ratio of 4."""
    keys = (STEM, HSWISH, SQUEEZED, RELU, "Conv_1-input:7x7x192-output:7x7x1152", *HEAD)
    path = written(tmp_path, dict.fromkeys(keys, TIMED))
    imported = import_table(path, device_name="Note10")
    assert {key: (e.median_ms, e.n, e.iqr_ms) for key, e in imported.table.entries.items()} == {
        "stem_k3 224x224x3->32 s2": (2.5, 7, None),
        "mbconv_k5_e4 28x28x48->96 s2": (2.5, 7, None),
        "mbconv_k3_e6_se+residual 7x7x192->192 s1": (2.5, 7, None),
        "feature_mix 7x7x192->1152 s1": (2.5, 7, None),
    }
    assert (imported.table.activation, imported.table.method) == ("hswish", "imported")
    assert {key for key, _ in imported.left_out} == {RELU, *HEAD}
    other = import_table(path, device_name="Note10", activation="relu")
    assert list(other.table.entries) == ["mbconv_k7_e3+residual 56x56x32->32 s1"]
    assert {key for key, _ in other.left_out} == set(keys) - {RELU}


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ({HSWISH.replace("192", "190"): TIMED}, ("190 hidden channels", "multiple of the 48")),
        ({HSWISH.replace("expand:192", "expand:0"): TIMED}, ("0 hidden channels",)),
        ({HSWISH: TIMED, HSWISH.replace("192", "0192"): TIMED}, ("are both 'mbconv_k5_e4 28x28x48->96 s2'",)),
        ({HSWISH: TIMED, BLOCK: GOOD}, (BLOCK, "unknown field 'var'")),
        ({HSWISH: TIMED, BLOCK: TIMED}, (BLOCK, "not of the once-for-all format", "--format")),
        ({HSWISH: TIMED | {"mean": -1}}, (HSWISH, "mean is -1", "milliseconds")),
        ({HSWISH: {"mean": 1.0}}, (HSWISH, "mean and count")),
        ({HSWISH: TIMED}, ("Conv-input", "first convolution")),
        ({HSWISH.replace("output:14x14", "output:13x13"): TIMED}, ("13 pixels", "ceil")),
    ],
)
def test_a_wrong_once_for_all_record_is_named(records, words, tmp_path):
    path = written(tmp_path, records)
    with pytest.raises(TableError) as error:
        import_table(path, device_name="Note10", format="ofa")
    for word in (str(path), *words):
        assert word in str(error.value)


@pytest.fixture
def note10(shared_data) -> Path:
    path = shared_data / "latency_tables" / "ofa_note10_224.yaml"
    if not path.exists():
        pytest.skip(f"no {path.name} in `shared/data` beside the checkout")
    return path


def mobilenet_v3_like(space_of, first: int, last: int, activation: str, size: int, stem: int) -> Space:
    """Stages first..last of the once-for-all space as a space of its own, whose stem has `stem` channels."""
    stages = [(32, 2, ""), (48, 2, "_se"), (96, 2, ""), (136, 1, "_se"), (192, 2, "_se")]
    ops = [f"mbconv_k{k}_e{e}" for k in (3, 5, 7) for e in (3, 4, 6)]
    chosen = [
        {"width": width, "depth": 4, "stride": stride, "candidates": [f"{op}{se}" for op in ops]}
        for width, stride, se in stages[first:last]
    ]
    return space_of(
        {"input_size": size, "stem": {"width": stem}, "stages": chosen, "feature_mix": 1152, "activation": activation}
    )


@pytest.mark.parametrize(
    ("first", "last", "activation", "size", "stem", "lacking"),
    [
        (0, 2, "relu", 224, 24, {"stem_k3", "feature_mix", "pool_classifier"}),
        (2, 5, "hswish", 56, 48, {"stem_k3", "pool_classifier"}),
    ],
)
def test_the_once_for_all_table_covers_its_stages(first, last, activation, size, stem, lacking, note10, space_of):
    """Its blocks are covered in the activation of the source's timings; its head never is."""
    table = import_table(note10, device_name="Note10", activation=activation).table
    space = mobilenet_v3_like(space_of, first, last, activation, size, stem)
    assert {str(layer.spec) for layer in table.missing(space)} == lacking


def test_once_for_all_networks_have_the_sums_of_the_file(note10):
    """The sums were typed from the file: Conv, Conv_1 and the hswish entries; 37 of 91 blocks run ReLU."""
    imported = import_table(note10, device_name="Note10")
    table = imported.table
    assert table.entries["stem_k3 224x224x3->24 s2"].ms + table.entries[
        "feature_mix 7x7x192->1152 s1"
    ].ms == pytest.approx(0.994418 + 0.694356)
    assert len(table.entries) == 54 + 2
    assert len(imported.left_out) == 37 + 3
    relu = import_table(note10, device_name="Note10", activation="relu").table
    keys = (
        "mbconv_k3_e1+residual 112x112x24->24 s1",
        "mbconv_k5_e3 112x112x24->32 s2",
        "mbconv_k7_e6 112x112x24->32 s2",
    )
    assert sum(relu.entries[key].ms for key in keys) == pytest.approx(1.772802 + 3.499981 + 9.153907, abs=1e-5)


# --- TuNAS -----------------------------------------------------------------------------------------------------------


def tunas_space(space_of, depth: int = 4, activation: str = "relu") -> Space:
    """The published space with a 32-channel first searched stage, a searched first block, and skip where legal."""
    names = [f"mbconv_k{k}_e{e}" for k in (3, 5, 7) for e in (3, 6)]
    shapes = [(32, depth, 2), (40, depth, 2), (80, depth, 2), (96, depth, 1), (192, depth, 2), (320, 1, 1)]
    first = {"width": 16, "candidates": [f"mbconv_k{k}_e1" for k in (3, 5, 7)]}
    stages = [{"width": w, "depth": d, "stride": s, "candidates": [*names, "skip"]} for w, d, s in shapes]
    return space_of({"stages": [first, *stages], "activation": activation})


@pytest.fixture
def pixel1(shared_data) -> LatencyTable:
    path = shared_data / "latency_tables" / "tunas_pixel1.json"
    if not path.exists():
        pytest.skip(f"no {path.name} in `shared/data` beside the checkout")
    return import_table(path, device_name="Pixel 1").table


def test_tunas_covers_its_space(pixel1, space_of):
    assert pixel1.missing(tunas_space(space_of)) == []


@pytest.mark.parametrize(("candidate", "ms"), [("mbconv_k3_e3", 70.7), ("mbconv_k7_e6", 209.1)])
def test_tunas_networks_with_the_same_op_on_every_edge_have_the_published_sum(candidate, ms, pixel1, space_of):
    space = tunas_space(space_of)
    names = ["mbconv_k3_e1", *[candidate] * 21]
    assert pixel1.cost(space).of(Architecture.from_names(space, names).paths) == pytest.approx(ms, abs=0.05)


def test_tunas_gives_the_published_latency_of_proxylessnas_mobile(pixel1, space_of, shared_data):
    """It is 84.42 ms by the linear model; the blocks of the network are in the reference data."""
    published = json.loads((shared_data / "reference_archs.json").read_text())["networks"]["proxyless_mobile"]["blocks"]
    words = (block.split() for block in published)
    names = ["skip" if op == "skip" else f"{op}_{rest[0]}_{rest[1]}" for op, *rest in words]
    space = tunas_space(space_of)
    assert pixel1.cost(space).of(Architecture.from_names(space, names).paths) == pytest.approx(84.42, abs=0.005)


def small_tunas() -> dict[str, Any]:
    """Two positions after the first block: one that changes the shape, one that may be skipped."""
    return {
        "bias_ms": 10.0,
        "first_block_sepconv_ms": {"k3": 0.0, "k5": 1.0},
        "layers": [
            {"in_hw": 16, "in_ch": 16, "out_hw": 8, "out_ch": 24, "stride": 2, "ms": {"k3e3": 1.0, "k5e6": 2.0}},
            {
                "in_hw": 8,
                "in_ch": 24,
                "out_hw": 8,
                "out_ch": 24,
                "stride": 1,
                "ms": {"k3e3": 3.0, "k7e3": 4.0, "zero": 0},
            },
        ],
    }


def test_tunas_positions_become_edges(tmp_path):
    table = import_table(written(tmp_path, small_tunas()), device_name="Pixel 1").table
    assert {key: entry.ms for key, entry in table.entries.items()} == {
        "mbconv_k3_e1 16x16x32->16 s1 @stage0.0": 0.0,
        "mbconv_k5_e1 16x16x32->16 s1 @stage0.0": 1.0,
        "mbconv_k3_e3 16x16x16->24 s2 @stage1.0": 1.0,
        "mbconv_k5_e6 16x16x16->24 s2 @stage1.0": 2.0,
        "mbconv_k3_e3+residual 8x8x24->24 s1 @stage1.1": 3.0,
        "mbconv_k7_e3+residual 8x8x24->24 s1 @stage1.1": 4.0,
        "stem_k3 32x32x3->32 s2": 0.0,
        "feature_mix 8x8x24->1280 s1": 0.0,
        "pool_classifier 8x8x1280->1000 s1": 0.0,
    }
    assert (table.constant_ms, table.input_size, table.activation, table.method) == (10.0, 32, "relu", "imported")
    assert {(entry.n, entry.iqr_ms) for entry in table.entries.values()} == {(None, None)}


def test_a_constant_moved_from_the_ops_of_a_position_to_the_bias_changes_no_sum(tmp_path, space_of):
    """A constant that is added to all ops of a position and taken from the bias changes no network's sum."""
    names = ["mbconv_k3_e1", "mbconv_k5_e6", "skip"]
    stages = [
        {"width": 16, "candidates": ["mbconv_k3_e1", "mbconv_k5_e1"]},
        {"width": 24, "depth": 2, "stride": 2, "first": ["mbconv_k3_e3", "mbconv_k5_e6"],
         "candidates": ["mbconv_k3_e3", "mbconv_k7_e3", "skip"]},
    ]  # fmt: skip
    space = space_of({"input_size": 32, "stages": stages, "activation": "relu"})
    records = small_tunas()
    sums = []
    for shift in (0.0, -2.5, 1.5):
        moved = json.loads(json.dumps(records))
        for ms in (moved["first_block_sepconv_ms"], *(layer["ms"] for layer in moved["layers"])):
            ms.update({op: value + shift for op, value in ms.items()})
        moved["bias_ms"] -= 3 * shift
        table = import_table(written(tmp_path, moved), device_name="Pixel 1").table
        assert min(entry.ms for entry in table.entries.values()) >= 0
        cost = table.cost(space)
        sums.append(
            [cost.of(Architecture.from_names(space, chosen).paths) for chosen in (names, [*names[:2], "mbconv_k7_e3"])]
        )
    assert sums[0] == [12.0, 16.0]
    assert sums[1] == pytest.approx(sums[0])
    assert sums[2] == pytest.approx(sums[0])


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        (("bias_ms",), None, ("bias_ms", "finite")),
        (("bias_ms",), "NaN", ("bias_ms", "finite")),
        (("bias_ms",), -50.0, ("bias_ms", "fastest network")),
        (("surprise",), 1, ("unknown key 'surprise'",)),
        (("layers",), [], ("layers", "list of layers")),
        (("layers",), [3], ("layers.0", "mapping")),
        (("first_block_sepconv_ms",), {}, ("first_block_sepconv_ms", "per op")),
        (("first_block_sepconv_ms", "k3e3"), 1.0, ("first_block_sepconv_ms", "unknown op 'k3e3'")),
        (("layers", 0, "stride"), 3, ("layers.0", "stride 3")),
        (("layers", 0, "stride"), 0, ("layers.0.stride", "whole number")),
        (("layers", 0, "in_ch"), "16", ("layers.0.in_ch", "'16'")),
        (("layers", 0, "surprise"), 1, ("layers.0", "unknown field 'surprise'")),
        (("layers", 0, "ms", "zero"), 0.0, ("layers.0.ms", "unknown op 'zero'", "one shape")),
        (("layers", 1, "ms", "zero"), 3.5, ("layers.1.ms.k3e3 is 3, less than zero's 3.5", "skip costs 0 ms")),
        (("layers", 1, "in_ch"), 32, ("layers.1", "8x8x32", "8x8x24")),
        (("layers", 1, "ms", "k3e3"), True, ("layers.1.ms.k3e3", "True")),
        (("layers", 1, "ms"), 4.0, ("layers.1.ms", "per op")),
    ],
)
def test_a_wrong_linear_model_is_named(keys, value, words, tmp_path):
    records = small_tunas()
    here = records
    for key in keys[:-1]:
        here = here[key]
    here[keys[-1]] = value
    path = written(tmp_path, records)
    with pytest.raises(TableError) as error:
        import_table(path, device_name="Pixel 1")
    for word in (str(path), *words):
        assert word in str(error.value)


@pytest.mark.parametrize("missing", ["bias_ms", "first_block_sepconv_ms", "layers"])
def test_a_linear_model_without_a_key_is_refused(missing, tmp_path):
    records = small_tunas()
    del records[missing]
    with pytest.raises(TableError, match=f"no key '{missing}'"):
        import_table(written(tmp_path, records), device_name="Pixel 1")


# --- the door --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("records", "format"), [({STEM: GOOD}, "official"), ({STEM: TIMED, HSWISH: TIMED}, "ofa"), (small_tunas(), "tunas")]
)
def test_a_format_is_recognised_by_its_keys(records, format, tmp_path):
    """If --format names another format, the file is refused, and the right format is suggested."""
    path = written(tmp_path, records)
    imported = import_table(path, device_name="a phone")
    assert imported == import_table(path, device_name="a phone", format=format)
    for other in IMPORTERS.keys() - {format}:
        with pytest.raises(TableError, match=f"not {other}; use --format {format}"):
            import_table(path, device_name="a phone", format=other)


def test_an_unknown_format_lists_the_known_ones(tmp_path):
    with pytest.raises(TableError, match=r"'op_1'.*tunas.*ofa.*official"):
        import_table(written(tmp_path, {"op_1": 3.0}), device_name="a phone")


@pytest.mark.parametrize(("records", "only"), [({STEM: GOOD}, "relu6"), (small_tunas(), "relu")])
def test_an_activation_that_the_format_lacks_is_refused(records, only, tmp_path):
    with pytest.raises(TableError, match=f"--activation hswish: .* has only {only};"):
        import_table(written(tmp_path, records), device_name="a phone", activation="hswish")


@pytest.mark.parametrize("text", ['{"bias_ms": 1.0, "layers": [', f"{STEM}: {{count: 3, mean"])
def test_a_truncated_file_is_refused_with_its_line(text, tmp_path):
    path = tmp_path / "cut.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"cut\.json:1"):
        import_table(path, device_name="a phone")


def test_the_script_lists_the_records_that_are_left_out_and_the_ops_that_are_missing(door, tmp_path, write_yaml):
    """The exit status is 0 all the same, since an import serves other spaces, too, and missing entries may be
    interpolated."""
    path = written(tmp_path, {STEM: TIMED, HSWISH: TIMED, RELU: TIMED})
    stages = [{"width": 96, "candidates": [f"mbconv_k{k}_e{e}" for k in (3, 5, 7) for e in (1, 2, 3, 4, 5, 6)]}]
    space = {"stem": {"width": 32}, "stages": stages, "activation": "hswish", "feature_mix": 64, "classes": 10}
    config = write_yaml(tmp_path / "space.yaml", {"space": space, "measure": {"device": "external"}})
    ended = door("import_latency", path, "--out", tmp_path / "t.yaml", "--config", config)
    assert ended.status == 0, ended.err
    assert RELU in ended.out
    assert "lacks 20 of its ops" in ended.out
    assert "  mbconv_k3_e1 112x112x32->96 s1\n" in ended.out
    assert "  pool_classifier 112x112x64->10 s1\n" in ended.out
    space["stages"].append({"width": 104, "candidates": ["mbconv_k3_e1"]})
    write_yaml(config, {"space": space})
    ended = door("import_latency", path, "--out", tmp_path / "t.yaml", "--config", config)
    assert "lacks 21 of its ops" in ended.out
    assert "  ... and 1 more\n" in ended.out
    assert "pool_classifier" not in ended.out, "the 21st"
    assert LatencyTable.load(tmp_path / "t.yaml").activation == "hswish"
