"""Tables in the official key format: known sums, coverage of the published space, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.config import load_config
from engine.errors import ConfigError, UserError
from latency.config import latency_part
from latency.importers import import_official
from latency.table import LatencyTable, TableError
from supernet.architecture import Architecture
from supernet.space import Space

STEM = "Conv-input:224x224x3-output:112x112x32"


@pytest.fixture
def published(checkout, space_of) -> Space:
    """The published ImageNet space, whose first searched stage has 24 channels."""
    config = load_config(checkout / "configs" / "search" / "imagenet_mobile.yaml")
    return space_of(latency_part(config)["space"])


@pytest.fixture
def imported(shared_data):
    def load(name: str) -> LatencyTable:
        path = shared_data / "latency_tables" / f"{name}.yaml"
        if not path.exists():
            pytest.skip(f"no {path.name} in `shared/data` beside the checkout")
        return import_official(path, device_name="a phone")

    return load


@pytest.mark.parametrize(("name", "ms"), [("mobile_trim", 11.36), ("pixel_trim", 15.65)])
def test_the_fixed_part_of_the_published_space(name, ms, imported, published):
    """First convolution, first block, feature mix and classifier."""
    assert imported(name).cost(published).fixed == pytest.approx(ms, abs=0.005)


@pytest.mark.parametrize(
    ("name", "candidate", "ms"),
    [
        ("mobile_trim", "mbconv_k3_e3", 76.0),
        ("pixel_trim", "mbconv_k3_e3", 72.5),
        ("mobile_trim", "mbconv_k7_e6", 191.0),
    ],
)
def test_the_same_op_on_every_edge(name, candidate, ms, imported, published):
    """Depth 4 everywhere, the fixed part included."""
    names = [candidate if edge.searchable else edge.candidates[0] for edge in published.edges]
    paths = Architecture.from_names(published, names).paths
    assert imported(name).cost(published).of(paths) == pytest.approx(ms, abs=0.05)


@pytest.mark.parametrize("name", ["mobile_trim", "pixel_trim"])
def test_the_published_space_is_covered(name, imported, published):
    assert imported(name).missing(published) == []


def test_the_table_fits_the_mobile_search(imported, published, checkout, tmp_path):
    """As the search would check it, after a round trip through a file."""
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


@pytest.mark.parametrize("text", ["[1, 2]", "", "just words"])
def test_a_source_is_a_mapping(text, tmp_path):
    path = tmp_path / "official.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"official\.yaml"):
        import_official(path, device_name="a phone")


@pytest.mark.parametrize("key", ["Conv-input:224x224x3-output:0x0x32", "Conv-input:224x112x3-output:112x56x32"])
def test_a_shape_that_no_space_has_is_refused(key, tmp_path):
    """No output pixels; an image that is not square."""
    with pytest.raises(UserError, match="Conv-input"):
        import_official(written(tmp_path, {key: GOOD}), device_name="a phone")


def test_the_once_for_all_format_is_another_one(shared_data):
    path = shared_data / "latency_tables" / "ofa_note10_224.yaml"
    if not path.exists():
        pytest.skip(f"no {path.name} in `shared/data` beside the checkout")
    with pytest.raises(TableError, match="ofa_note10_224"):
        import_official(path, device_name="Note10")
