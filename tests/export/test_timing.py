"""Exported files are timed in their runtimes, here or by a kit, and judged by a latency table's prediction."""

from __future__ import annotations

import importlib.metadata
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import proxyless_nas as pn
from engine.data import Preprocessing
from engine.errors import ConfigError, UserError
from export.exported_file import ExportedFile
from export.formats import FORMATS
from export.job import export_network
from export.promise import Measured, judged
from export.timings import Timings, layer_table, write_timings
from latency.device import this_device
from latency.kit import KitFileError, import_results, open_kit
from latency.measure import Timing
from latency.on_device.program import run_kit, write_results
from latency.plan import middle_network
from latency.table import Entry, LatencyTable, UsedRuntime
from proxyless_nas.sources import trained_network
from supernet.architecture import Architecture
from supernet.design import Design
from supernet.network import Network

SECTION = {
    "input_size": 16, "input_channels": 3, "classes": 3, "stem": {"kernel": 3, "stride": 1, "width": 8},
    "stages": [
        {"width": 8, "candidates": ["mbconv_k3_e3", "mbconv_k3_e3_se", "skip"]},
        {"width": 16, "depth": 2, "stride": 2, "first": ["conv_k3"], "candidates": ["mbconv_k3_e1", "skip"]},
    ],
    "feature_mix": 24,
}  # fmt: skip
PLACES = ("stem", "stage0.0", "stage1.0", "feature_mix", "classifier")
"""The layers of the exported network that have operations: its last edge is skipped."""


@pytest.fixture(autouse=True)
def _timed_once(monkeypatch):
    """The figures are of no importance here, so that a disturbed timing is not repeated."""
    monkeypatch.setattr("export.timing.MOST_TIMINGS", 1)


@pytest.fixture(scope="module")
def space(space_of):
    return space_of(SECTION)


@pytest.fixture(scope="module")
def table(space) -> LatencyTable:
    """A table of this machine, in which layer i takes i + 1 ms."""
    layers = [layer for layer in space.all_layers if not layer.is_skip]
    return LatencyTable(
        device=this_device("cpu"), runtime=UsedRuntime(name="onnxruntime", version="1"), threads=1, batch=1,
        dtype="float32", activation="relu6", input_size=16, date="2026-01-01", method="isolated", how="made up",
        constant_ms=0.5, entries={str(layer): Entry(median_ms=i + 1.0) for i, layer in enumerate(layers)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def exported(space, tmp_path_factory) -> Path:
    """The folder of a network with squeeze-excite, as ONNX."""
    pytest.importorskip("onnxscript")
    out = tmp_path_factory.mktemp("timed")
    network = Network(Architecture(space, (1, 1), name="timed"))
    export_network(network, Preprocessing.of_files(16, (0.5,) * 3, (0.2,) * 3), ("a", "b", "c"), ["onnx"], out)
    return out


@pytest.fixture
def file(exported) -> ExportedFile:
    return ExportedFile.read(exported / "timed.onnx")


def measured(ms: float, noise: float = 0.0, **changes: object) -> Measured:
    """Returns a timing whose two rounds have the medians ms -+ noise / sqrt(2)."""
    timing = Timing.of([[ms - noise / 2**0.5], [ms + noise / 2**0.5]])
    own = Measured(timing, None, "not asked", "ONNX Runtime 1", this_device("cpu"), 1, 1, "2026-01-01")
    return replace(own, **changes)  # type: ignore[arg-type]


def test_a_file_is_timed_and_its_layers_are_those_of_the_architecture(exported, table, tmp_path):
    """The runtime's profile is read by the names of the operations; predictions of layers add up to the network's."""
    table.save(tmp_path / "table.yaml")
    file = exported / "timed.onnx"
    (timed,) = pn.time_files([file, file], tmp_path / "table.yaml", rounds=2)  # which is timed once
    design = ExportedFile.read(exported / "timed.onnx").design
    assert design is not None
    ops = {place: str(layer.spec) for place, layer in design.places}
    assert [(layer.place, layer.op) for layer in timed.layers] == [(place, ops[place]) for place in PLACES]
    assert all(layer.measured_ms > 0 for layer in timed.layers)
    assert timed.prediction.ms == pytest.approx(sum(layer.predicted_ms for layer in timed.layers) + 0.5)
    assert timed.passes == 2 * 18
    assert timed.prediction.verdict == "not judged"  # the reference takes far less than the made-up milliseconds
    assert timed.prediction.reason.endswith("the table predicts for a reference") or not timed.steady
    assert timed.prediction.reference.measured_ms > 0
    assert layer_table(timed).count("\n") == len(PLACES)
    stored = json.loads((exported / "timings.json").read_text())
    assert stored["format"] == "proxylessnas/timings@1"
    assert Timings.model_validate_json(json.dumps(stored)).timings == (timed,)


def test_the_verdict_compares_the_error_with_those_of_table_and_timing(file, table):
    """The table is neither verified nor calibrated, so 10 % are accepted; a steady timing adds 2 %."""
    promised = judged(file, measured(1), Path("t.yaml"), table, None).prediction.ms

    def verdict(ms: float, reference: tuple[float, float] | None = None, noise: float = 0.0, **changes: object) -> str:
        prediction = judged(file, measured(ms, noise, **changes), Path("t.yaml"), table, reference).prediction
        assert prediction.accepted_percent == pytest.approx(12) or noise
        return prediction.verdict if not prediction.reason else prediction.reason

    assert verdict(promised) == "as predicted"
    assert verdict(promised / 1.119) == "as predicted"
    assert verdict(promised / 1.121) == "faster"
    assert verdict(promised / 0.881) == "as predicted"
    assert verdict(promised / 0.879) == "slower"
    assert verdict(promised * 2, (1.09, 1.0)) == "slower"
    assert verdict(promised * 2, (1.11, 1.0)).startswith("the machine takes 1.11 times as long")
    assert verdict(promised, noise=promised / 19) == "other work disturbed the timing"


def test_a_table_of_other_settings_promises_nothing_and_all_that_differs_is_said_in_one_line(file, table):
    elsewhere = this_device("cpu").model_copy(update={"name": "a board", "fingerprint": "0"})

    def reason(other: LatencyTable = table, own: ExportedFile = file, **changes: object) -> str:
        prediction = judged(own, measured(1, **changes), Path("t.yaml"), other, None).prediction
        assert (prediction.verdict == "not judged") == bool(prediction.reason)
        return prediction.reason

    assert reason() == ""
    assert reason(threads=2) == "the table is of threads 1, not 2"
    assert reason(table.model_copy(update={"threads": None}), threads=2) == ""  # of a GPU, whose threads are no setting
    assert reason(batch=8) == "the table is of batch 1, not 8"
    assert reason(device=elsewhere) == f"the table is of device {table.device.name}, not a board"
    pytorch = table.model_copy(update={"runtime": UsedRuntime(name="pytorch", version="2.14")})
    assert reason(pytorch) == "the table is of runtime pytorch, not onnxruntime"
    int8 = replace(file, entry=dict(file.entry) | {"dtype": "int8"})
    assert reason(own=int8) == "the table is of dtype float32, not int8"
    of_int8 = table.model_copy(update={"dtype": "int8"})
    seven = replace(int8, entry=dict(int8.entry) | {"weight_bits": 7})
    assert reason(of_int8, int8) == ""
    assert reason(of_int8, seven) == "the table is of weight bits 8, not 7"
    every = (
        "the table is of runtime pytorch, not onnxruntime; dtype float32, not int8; threads 1, not 4; batch 1, not 2"
    )
    assert reason(pytorch, int8, threads=4, batch=2) == every


def test_a_file_whose_network_the_table_does_not_cover_is_timed_without_a_prediction(file, table):
    larger = table.model_copy(update={"input_size": 32})
    timed = judged(file, measured(1), Path("t.yaml"), larger, None)
    assert (timed.prediction, timed.no_prediction) == (None, "its input size is 16, the table's is 32")
    assert str(timed).endswith("; not predicted: its input size is 16, the table's is 32")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("proxyless_mobile", r"the table has no entry 'stem_k3 .*' and \d+ more of its layers"),
        ("tiny_training/proxyless-w0.3.pkl", "its input size is 128, the table's is 224"),
    ],
)
def test_a_published_network_is_predicted_by_no_table_of_other_layers(source, reason, table, request):
    """The reason is in the line and in timings.json; nothing predicts a network by halves."""
    if source.endswith(".pkl"):
        model = request.getfixturevalue("shared_data") / source
        design: Design = trained_network(model).network.architecture
    else:
        design = pn.proxyless_mobile(pretrained=False).architecture
    size = design.input_size
    entry = {"input": {"shape": ["batch", 3, size, size]}}
    file = ExportedFile(Path(__file__), FORMATS["onnx"], entry, design, ())
    timed = judged(file, measured(1), Path("t.yaml"), table.model_copy(update={"input_size": 224}), None)
    assert timed.prediction is None
    assert re.fullmatch(reason, timed.no_prediction)
    assert str(timed).endswith(f"; not predicted: {timed.no_prediction}")


def test_a_kit_times_the_file_on_a_device_and_its_results_are_judged_here(exported, table, space, tmp_path):
    """The kit's own program runs it; the reference is the network from the middle of the table's space."""
    table.save(tmp_path / "table.yaml")
    path, kit, results = exported / "timed.onnx", tmp_path / "kit", tmp_path / "results.json"
    written = pn.time_files([path], tmp_path / "table.yaml", rounds=2, kit=kit)
    assert written.timings == 3 * 2  # the file, its layers and the reference
    write_results(str(results), run_kit(str(kit)))
    (timed,) = pn.time_files([path], tmp_path / "table.yaml", kit=kit, results=results)
    samples = json.loads(results.read_text())["samples_ms"]
    assert timed.median_ms == np.median(samples["file0"])
    assert [layer.place for layer in timed.layers] == list(PLACES)
    per_pass = np.concatenate(samples["layers0"])
    assert [layer.measured_ms for layer in timed.layers] == np.median(per_pass, axis=0).tolist()
    cost = table.cost(space)
    assert timed.prediction.reference.predicted_ms == pytest.approx(cost.of(middle_network(cost)))
    with pytest.raises(KitFileError, match="is of a kit of exported files; read its results with proxyless-nas time"):
        import_results(kit, results)
    other = tmp_path / "other.onnx"
    other.write_bytes(path.read_bytes())
    with pytest.raises(KitFileError, match="does not hold the file"):
        pn.time_files([other], kit=kit, results=results)
    assert open_kit(kit).manifest["runtime"] == "onnxruntime"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"files": []}, "files: got none, expected at least one exported file"),
        ({"files": ["nowhere.onnx"]}, "nowhere.onnx: no such file"),
        ({"rounds": 1}, "rounds: got 1, expected a whole number from 2 to 10000"),
        ({"results": "results.json"}, "results: got a file without its kit, expected the kit's folder, too"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, exported):
    with pytest.raises(ConfigError) as error:
        pn.time_files(**({"files": [exported / "timed.onnx"]} | arguments))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"files": {"onnx": {"file": "timed.onnx"}}}, r"export\.json: files\.onnx: is damaged, .*; export again"),
        ({"files": []}, r"export\.json: files: got \[\], expected an entry for each format"),
        ({}, r"export\.json: files: got null"),
        ({"format": "proxylessnas/export@9"}, r"export\.json: is of another format"),
    ],
)
def test_a_damaged_record_beside_a_file_is_one_line(content, message, exported, tmp_path):
    path = tmp_path / "timed.onnx"
    path.write_bytes((exported / "timed.onnx").read_bytes())
    (tmp_path / "export.json").write_text(json.dumps({"format": "proxylessnas/export@1"} | content))
    with pytest.raises(ConfigError, match=message):
        pn.time_files([path])


def test_a_file_without_its_record_is_timed_at_the_batch_that_it_states_itself(exported):
    """And a batch that it cannot take is refused."""
    alone = replace(ExportedFile.read(exported / "timed.onnx"), entry={})
    assert alone.images_at_once(None, ["batch", 3, 16, 16]) == 1
    assert alone.images_at_once(None, [4, 3, 16, 16]) == 4
    with pytest.raises(ConfigError, match=r"got 2, but timed\.onnx takes 4 images at once"):
        alone.images_at_once(2, [4, 3, 16, 16])


def test_a_file_that_is_not_the_exported_one_is_refused(exported, tmp_path):
    changed = tmp_path / "timed.onnx"
    changed.write_bytes((exported / "timed.onnx").read_bytes() + b"\0")
    (tmp_path / "export.json").write_bytes((exported / "export.json").read_bytes())
    with pytest.raises(ConfigError, match=r"is not the file that export\.json records"):
        pn.time_files([changed])
    text = tmp_path / "notes.txt"
    text.write_text("")
    with pytest.raises(UserError, match=r"is no exported file, expected a name that ends in \.onnx, \.xml"):
        pn.time_files([text])


def test_the_command_ends_with_status_3_if_a_file_is_slower_than_promised(exported, table, tmp_path, door, monkeypatch):
    """The table promises a hundred-thousandth of a millisecond for each layer, and no reference contradicts it. The
    timing takes the place of an earlier one of the same file in timings.json."""
    earlier = judged(ExportedFile.read(exported / "timed.onnx"), measured(1), None, None, None)
    assert earlier.prediction is None  # without a table
    version = importlib.metadata.version("onnxruntime")
    write_timings([exported / "timed.onnx"], [earlier.model_copy(update={"runtime": f"ONNX Runtime {version}"})])
    entries = {key: Entry(median_ms=1e-5) for key in table.entries}
    table.model_copy(update={"entries": entries, "constant_ms": 0.0}).save(tmp_path / "table.yaml")
    monkeypatch.setattr("export.timing.ReferenceNetwork.of", lambda files, table: None)
    monkeypatch.setattr("export.promise.steady", lambda timing: True)
    ended = door("time_files", exported / "timed.onnx", "--table", tmp_path / "table.yaml", "--rounds", 2, "--layers")
    assert ended.status == 3, ended.err
    assert "SLOWER than predicted (accepted: " in ended.out
    (stored,) = Timings.model_validate_json((exported / "timings.json").read_text()).timings
    assert stored.prediction.verdict == "slower"
    assert "\n  stage0.0     mbconv_k3_e3_se" in ended.out
