"""Comparisons: what each figure is, which network is best, what is refused, and the files that are written."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torchvision import models

import proxyless_nas as pn
from engine.config import validate
from engine.errors import ConfigError, UserError
from engine.evaluation import wilson
from engine.files import WriteError
from latency.config import MeasureConfig
from latency.measure import TIMING_ROUNDS, Timing
from proxyless_nas.comparison import devices
from proxyless_nas.comparison.compare import compare
from proxyless_nas.comparison.devices import MOST_TIMINGS, measured_columns, targets_of
from proxyless_nas.comparison.judge import verdicts
from proxyless_nas.comparison.networks import networks_of
from proxyless_nas.comparison.result import Accuracy, Column, Latency, Row
from proxyless_nas.comparison.table import Comparison
from published.networks import NAMED, PUBLISHED_DEVICES, named
from retrain.config import RetrainConfig
from retrain.run import retrain
from supernet.architecture import Architecture
from supernet.network import Network
from supernet.space import Space
from tests.engine.image_folder import write_images

SECTION: dict[str, Any] = {
    "input_size": 8, "input_channels": 3, "classes": 2, "stem": {"stride": 1, "width": 8},
    "stages": [{"width": 8, "candidates": ["mbconv_k3_e1", "conv_k1", "skip"]}], "feature_mix": 16,
}  # fmt: skip


@pytest.fixture
def space(space_of) -> Space:
    return space_of(SECTION)


@pytest.fixture
def small(space) -> Architecture:
    return Architecture(space, (0,), "small")


@pytest.fixture
def file(small, tmp_path) -> Path:
    path = tmp_path / "run" / "architecture.json"
    path.parent.mkdir()
    path.write_text(small.to_json())
    return path


# ---- sizes and published figures ----


@pytest.mark.parametrize("name", ["mobilenet_v3_large", "resnet34", "googlenet"])
def test_the_size_of_a_torchvision_network_is_what_hooks_count_and_what_is_published(name, count):
    """torchvision states parameters, and multiply-accumulates in 1e9 with three decimals."""
    (network,) = networks_of([f"torchvision:{name}"])
    module = network.fresh().eval()
    assert network.complexity == count(module, torch.zeros(1, 3, 224, 224))
    meta = models.get_model_weights(name).DEFAULT.meta
    assert network.complexity.params == meta["num_params"]
    assert network.complexity.macs / 1e9 == pytest.approx(meta["_ops"], abs=6e-4)
    assert (network.classes, network.channels, network.input_size) == (1000, 3, 224)
    (accuracy,) = network.accuracies
    assert (accuracy.top1, accuracy.published) == (meta["_metrics"]["ImageNet-1K"]["acc@1"], True)


def test_a_module_is_counted_as_the_formulas_count_its_design():
    """The published CPU network, given as a module whose layers are not known, has the size of its chain."""

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Network(named("proxyless_cpu"))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.inner(images)

    (network,) = networks_of([Wrapped()])
    assert (network.name, network.complexity) == ("Wrapped", named("proxyless_cpu").complexity)


def test_the_published_figures_are_those_of_the_reference_data(shared_data):
    reference = json.loads((shared_data / "reference_archs.json").read_text())["networks"]
    for name, record in reference.items():
        published = record["published"]
        assert NAMED[name].top1 == published["top1"]
        exact = {device: ms for device, ms in published["latency_ms"].items() if not isinstance(ms, str)}
        assert NAMED[name].latency_ms == exact
    assert {device for network in NAMED.values() for device in network.latency_ms} == set(PUBLISHED_DEVICES)


def test_published_figures_are_columns_of_their_own_and_marked():
    comparison = compare(["proxyless_cpu", "proxyless_gpu", "proxyless_mobile"])
    assert [c.name for c in comparison.columns] == [f"published_{device}" for device in PUBLISHED_DEVICES]
    assert {c.kind for c in comparison.columns} == {"published"}
    assert comparison.matrix.tolist() == [[7.4, 138.7, 116], [5.1, 204.9, 124], [7.2, 164.1, 78]]
    assert [v.fastest for v in comparison.verdicts] == [("proxyless_gpu",), ("proxyless_cpu",), ("proxyless_mobile",)]
    heads = comparison.to_markdown().splitlines()[0].strip("| ").split(" | ")
    assert all(head.endswith(", published") for head in heads[3:])


# ---- latencies by tables ----


def test_a_predicted_latency_is_the_sum_of_the_tables_entries(space, small, formula_table):
    other = Architecture(space, (2,), "skipping")
    table = formula_table(space)
    table = table.model_copy(update={"constant_ms": 2.5})
    comparison = compare([small, other], tables=[table])
    priced = [[layer for layer in a.layers if not layer.is_skip] for a in (small, other)]
    sums = [2.5 + sum(1.5 + layer.complexity.macs / 1e5 for layer in layers) for layers in priced]
    np.testing.assert_allclose(comparison.matrix[:, 0], sums)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"feature_mix": 24}, "the table has no entry 'feature_mix"),
        ({"input_size": 16}, "its input size is 16, the table's is 8"),
        ({"activation": "relu"}, "its activation is relu, the table's is relu6"),
    ],
)
def test_a_network_of_another_space_has_an_empty_cell_and_the_others_their_numbers(
    keys, reason, space_of, small, formula_table
):
    foreign = Architecture(space_of(SECTION | keys), (0,), "foreign")
    comparison = compare([foreign, small, "torchvision:squeezenet1_1"], tables=[formula_table(small.space)])
    (column,) = comparison.columns
    cells = [row.latencies[column.name] for row in comparison.rows]
    assert [cell.ms is None for cell in cells] == [True, False, True]
    assert cells[0].reason.startswith(reason)
    assert cells[2].reason == "the network's layers are not known, so that no table covers it"
    assert f"[1] {reason}" in str(comparison)


def test_tables_are_named_by_their_files_and_a_table_given_twice_is_one_column(small, formula_table, tmp_path):
    for name in ("cpu.yaml", "phone.yaml"):
        formula_table(small.space).save(tmp_path / name)
    files = [tmp_path / "cpu.yaml", tmp_path / "phone.yaml", f"{tmp_path}/./cpu.yaml"]
    assert [c.name for c in compare([small], tables=files).columns] == ["cpu'", "phone"]  # `cpu` is a device


# ---- latencies by a clock ----


class Planned:
    """A NetworkTimer that has loaded modules and returns planned timings."""

    def __init__(self, attempts: Sequence[Mapping[str, tuple[float, float]]], refused: str = ""):
        self.attempts, self.refused, self.calls = list(attempts), refused, 0

    def __call__(self, measure: MeasureConfig) -> Any:
        self.names: list[str] = []
        return self

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def load(self, name: str, network: nn.Module, channels: int, size: int) -> None:
        if name == self.refused:
            raise UserError("", f"'{name}' cannot be exported to ONNX: no such op")
        with torch.no_grad():
            assert network.eval()(torch.zeros(1, channels, size, size)).dim() == 2
        self.names.append(name)

    def timings(self, rounds: int, progress: Callable[[int, int], None]) -> dict[str, Timing]:
        self.calls += 1
        progress(0, rounds)
        plan = self.attempts[min(self.calls, len(self.attempts)) - 1]
        return {name: Timing(*plan[name], n=270) for name in self.names}


def timed(small: Architecture, clock: Planned) -> tuple[Column, dict[str, Latency], list[str]]:
    networks = networks_of({"a": small, "b": small})
    said: list[str] = []

    def report(what: str, done: int, total: int) -> None:
        said.append(what)

    ((column, figures),) = measured_columns(networks, targets_of(["cpu"], 1, 1), 15, report, clock)
    return column, figures, said


def test_a_disturbed_timing_is_repeated_and_the_first_steady_one_counts(small):
    noisy, steady = {"network0": (10.0, 2.0), "network1": (9.0, 0.1)}, {"network0": (8.0, 0.1), "network1": (9.5, 0.2)}
    clock = Planned([noisy, steady, noisy])
    column, figures, said = timed(small, clock)
    assert clock.calls == 2
    assert (column.name, column.kind) == ("cpu", "measured")
    assert [(f.ms, f.noise_ms, f.steady) for f in figures.values()] == [(8.0, 0.1, True), (9.5, 0.2, True)]
    assert "time on cpu, 2 of at most 3: the machine is busy" in said


def test_of_disturbed_timings_the_least_disturbed_counts_and_settles_nothing(small, caplog):
    attempts = [{"network0": (10.0, noise), "network1": (20.0, 0.1)} for noise in (3.0, 1.0, 2.0)]
    clock = Planned(attempts)
    with caplog.at_level(logging.WARNING):
        column, figures, _ = timed(small, clock)
    assert clock.calls == MOST_TIMINGS
    assert [(f.noise_ms, f.steady) for f in figures.values()] == [(1.0, False), (0.1, True)]
    assert "other work disturbed the timings, the noise between rounds is up to 10 %" in caplog.text
    rows = [row(name, cpu=figure) for name, figure in figures.items()]
    comparison = comparison_of([column], rows)
    assert not comparison.verdicts[0].steady
    text = comparison.to_markdown()
    assert "10 ± 1 ~" in text
    assert "**" not in text
    assert "not settled, since other work disturbed the timings" in text


def test_a_network_that_the_runtime_cannot_run_has_an_empty_cell_with_its_own_name(small):
    clock = Planned([{"network1": (9.0, 0.1)}], refused="network0")
    _, figures, _ = timed(small, clock)
    assert figures["a"].reason == "'a' cannot be exported to ONNX: no such op"
    assert figures["b"].ms == 9.0


def test_small_networks_are_timed_in_pytorch_and_given_modules_stay_as_they_are(small, file, monkeypatch, capsys):
    monkeypatch.setattr(devices, "MOST_TIMINGS", 1)
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(256, 2)).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    comparison = pn.compare([small, file, module], devices="cpu", rounds=2, input_size=8, batch=2)
    assert [row.name for row in comparison.rows] == ["small", str(file.parent), "Sequential"]
    assert comparison.rows[2].macs == 64 * 3 * 4 + 256 * 2
    assert np.all(comparison.matrix > 0)
    assert "batch 2" in comparison.columns[0].text
    assert capsys.readouterr().out == ""
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


# ---- which is best ----


def row(name: str, top1: float | None = None, classes: int = 2, data: str = "X", **latencies: Latency) -> Row:
    accuracies = () if top1 is None else (Accuracy(top1=top1, data=data, published=False, images=100),)
    return Row(
        name=name, params=1, macs=1, channels=3, input_size=8, classes=classes, accuracies=accuracies,
        latencies=latencies,
    )  # fmt: skip


def comparison_of(columns: Sequence[Column], rows: Sequence[Row], **at: float) -> Comparison:
    made_on = {"device": "d", "torch": "t", "python": "p"}
    return Comparison(date="2026-01-31", made_on=made_on, columns=tuple(columns), rows=tuple(rows), at=at)


CPU = Column(name="cpu", kind="measured", text="this CPU")


def test_the_fastest_is_named_with_those_that_the_errors_do_not_tell_apart():
    """3 % and 4 % together are 5 %: 10.5 ms is not told apart from 10 ms, 10.6 ms is."""
    rows = [
        row("slow", cpu=Latency(ms=10.6, error=0.04)),
        row("near", cpu=Latency(ms=10.5, error=0.04)),
        row("first", cpu=Latency(ms=10.0, error=0.03)),
        row("absent", cpu=Latency(reason="no op")),
    ]
    (verdict,) = verdicts([CPU], rows, {})
    assert verdict.fastest == ("first", "near")


def test_the_front_and_the_most_accurate_network_within_a_latency():
    rows = [
        row("quick", 60, cpu=Latency(ms=5.0)),
        row("dominated", 59, cpu=Latency(ms=6.0)),
        row("middle", 70, cpu=Latency(ms=8.0)),
        row("best", 75, cpu=Latency(ms=12.0)),
        row("elsewhere", 99, data="Y", cpu=Latency(ms=7.0)),
        row("unknown", cpu=Latency(ms=1.0)),
    ]
    (verdict,) = verdicts([CPU], rows, {"cpu": 8.0})
    one, other = verdict.fronts
    assert (one.basis, one.efficient, one.best) == ("X, 100 images", ("quick", "middle", "best"), ("middle",))
    assert (other.basis, other.efficient, other.best) == ("Y, 100 images", ("elsewhere",), ("elsewhere",))
    assert verdict.fastest == ("unknown",)
    assert verdicts([CPU], rows, {"cpu": 4.0})[0].fronts[0].best == ()


def test_networks_with_other_classes_are_not_compared_with_each_other():
    rows = [row("a", cpu=Latency(ms=5.0)), row("b", classes=10, cpu=Latency(ms=1.0))]
    assert [(v.classes, v.fastest) for v in verdicts([CPU], rows, {})] == [(2, ("a",)), (10, ("b",))]
    assert "cpu, 10 classes: fastest b" in str(comparison_of([CPU], rows))


# ---- accuracies ----


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("pictures"), 6, classes=2, size=12, parts=["val"])


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory, space_of) -> Path:
    """A retraining of one epoch on noise, with its checkpoint and its test accuracy."""
    out = tmp_path_factory.mktemp("retrained") / "r"
    values = {
        "data": {"name": "fake", "fake_images": 16, "fake_classes": 2, "workers": 0},
        "retrain": {"epochs": 1, "batch_size": 8, "lr": 0.1},
        "run": {"threads": 1, "channels_last": False},
    }
    config = validate(RetrainConfig, values, "retrain.yaml")
    retrain(config, Architecture(space_of(SECTION), (1,), "net"), out, shown=False)
    return out


def test_a_retraining_brings_its_test_accuracy_with_its_data_and_its_interval(trained_run):
    (shown,) = compare([trained_run]).rows
    test = json.loads((trained_run / "result.json").read_text())["test"]
    (accuracy,) = shown.accuracies
    assert (accuracy.top1, accuracy.images, accuracy.published) == (test["top1"], test["images"], False)
    assert accuracy.data == "test images of fake"
    assert accuracy.interval == wilson(test["top1"], test["images"])


def test_a_new_figure_on_the_same_images_takes_the_place_of_the_old_one(trained_run, tmp_path):
    figures = tmp_path / "accuracy.yaml"
    new = {"top1": 12.5, "images": 4, "data": "test images of fake"}
    figures.write_text(yaml.safe_dump({"accuracies": {str(trained_run): new}}))
    (shown,) = compare([trained_run], accuracy=figures).rows
    assert [(a.top1, a.source) for a in shown.accuracies] == [(12.5, str(figures))]


def test_networks_with_weights_are_evaluated_on_a_folder_of_images(trained_run, small, file, pictures):
    network = Network(small, seed=4)
    comparison = compare([trained_run, network, file, "proxyless_cifar"], images=pictures)
    run, own, bare, other = comparison.rows
    images = f"images of {pictures}"
    assert "other classes than" in run.no_accuracy  # its classes have other names than the folders
    assert [a.data for a in run.accuracies] == ["test images of fake"]
    assert run.no_accuracy in str(comparison)
    assert [(a.data, a.images) for a in own.accuracies] == [(images, 12)]
    assert bare.no_accuracy == f"{file.parent}: a file without weights"
    assert not other.accuracies
    assert other.no_accuracy.startswith("proxyless_cifar: ")
    with pytest.raises(ConfigError, match="no such folder"):
        compare([network], images=pictures / "absent")


def test_a_search_has_no_accuracy_of_its_network(small, tmp_path):
    """The weights are the supernet's."""
    run = tmp_path / "search"
    run.mkdir()
    (run / "config.yaml").write_text("search: {epochs: 1}\n")
    with pytest.raises(ConfigError, match=r"has no architecture\.json"):
        compare([run])
    (run / "architecture.json").write_text(small.to_json())
    (shown,) = compare([run]).rows
    assert (shown.name, shown.accuracies) == (str(run), ())


def test_accuracies_come_from_a_file_of_figures_or_from_another_comparison(file, tmp_path):
    figures = tmp_path / "accuracy.yaml"
    own = str(file.parent)
    figures.write_text(yaml.safe_dump({"accuracies": {own: {"top1": 71.5, "images": 1000, "data": "my photos"}}}))
    first = compare([file, "proxyless_cpu"], accuracy=figures)
    (accuracy,) = first.rows[0].accuracies
    assert (accuracy.top1, accuracy.basis, accuracy.published) == (71.5, "my photos, 1000 images", False)
    earlier = tmp_path / "earlier.json"
    earlier.write_text(first.to_json())
    assert compare([file], accuracy=earlier).rows[0].accuracies == (accuracy,)
    with pytest.raises(ConfigError, match="has a measured accuracy of none of the networks, expected proxyless_gpu"):
        compare(["proxyless_gpu"], accuracy=figures)
    figures.write_text("accuracies: {a: {top1: 101, data: x}}")
    with pytest.raises(ConfigError, match=r"accuracies\.a\.top1: got 101, expected at most 100"):
        compare(["proxyless_gpu"], accuracy=figures)


# ---- files ----


@pytest.fixture
def mixed() -> Comparison:
    columns = [Column(name="published_gpu", kind="published", text="V100"), CPU]
    published = Accuracy(top1=75.29, data="ImageNet", published=True, source="its authors")
    rows = [
        row("a|b", 70.5, published_gpu=Latency(ms=7.4), cpu=Latency(ms=30.25, noise_ms=0.5, error=0.02)),
        row("c", published_gpu=Latency(reason="none"), cpu=Latency(ms=25.0, noise_ms=0.25, error=0.02)),
    ]
    rows[1] = rows[1].model_copy(update={"accuracies": (published,)})
    return comparison_of(columns, rows, cpu=28.0)


def test_a_comparison_is_read_back_from_json_as_it_was(mixed):
    text = mixed.to_json()
    assert Comparison.from_json(text) == mixed
    assert json.loads(text)["verdicts"][1]["fastest"] == ["c"]
    with pytest.raises(ConfigError, match=r"^f\.json: format: got 'other', expected 'proxylessnas/comparison@1'"):
        Comparison.from_json(text.replace("comparison@1", "comparison@2").replace("proxylessnas/comparison@2", "other"),
            "f.json")  # fmt: skip


def test_csv_has_the_exact_figures(mixed):
    first, second = csv.DictReader(io.StringIO(mixed.to_csv()))
    low, high = wilson(70.5, 100)
    assert first == {
        "network": "a|b", "params": "1", "macs": "1", "channels": "3", "input_size": "8", "classes": "2",
        "top1_published": "", "data_published": "", "top1_measured": "70.5", "data_measured": "X",
        "images_measured": "100", "low_measured": str(low), "high_measured": str(high),
        "published_gpu_ms": "7.4", "measured_cpu_ms": "30.25", "measured_cpu_noise_ms": "0.5",
        "measured_cpu_steady": "true",
    }  # fmt: skip
    assert (second["published_gpu_ms"], second["top1_published"], second["low_measured"]) == ("", "75.29", "")
    matrix = [
        [float(line[key] or "nan") for key in ("published_gpu_ms", "measured_cpu_ms")] for line in (first, second)
    ]
    np.testing.assert_array_equal(matrix, mixed.matrix)


def test_markdown_marks_the_fastest_and_numbers_the_reasons(mixed):
    head, _, first, second, *notes = mixed.to_markdown().splitlines()
    assert head.split(" | ")[3:6] == ["top-1 %, published", "top-1 %, measured", "gpu [ms], published"]
    assert r"a\|b" in first
    assert "| **7.4** |" in first
    assert "**25 ± 0.25**" in second
    assert "- <sup>1</sup> X, 100 images" in notes
    assert "- cpu: most accurate at or below 28 ms (ImageNet, published): `c`" in notes
    assert "- cpu: most accurate at or below 28 ms (X, 100 images): none" in notes


@pytest.mark.parametrize("columns", [0, 1, 2])
def test_the_picture_is_a_png_with_any_number_of_columns(mixed, columns):
    part = mixed.model_copy(update={"columns": mixed.columns[:columns]})
    assert part.picture().png.startswith(b"\x89PNG")


# ---- the command ----


@pytest.fixture
def no_timing(monkeypatch) -> None:
    """Fails a test in which anything is timed."""
    monkeypatch.setattr(devices, "NetworkTimer", None)


def test_the_command_writes_all_files(door, file, tmp_path, formula_table, small, monkeypatch):
    monkeypatch.setattr(devices, "MOST_TIMINGS", 1)
    deep = tmp_path / ("a-long-name-" * 10) / file.name  # its picture has to have room for it
    deep.parent.mkdir()
    file = file.rename(deep)
    table = tmp_path / "phone.yaml"
    formula_table(small.space).save(table)
    outputs = {"csv": "out/a.csv", "markdown": "a.md", "picture": "a.png", "json": "a.json"}
    words = [word for option, name in outputs.items() for word in (f"--{option}", tmp_path / name)]
    ended = door("compare", file, file.parent, "--tables", table, "--devices", "cpu", "--rounds", 2, "--at", "cpu=1e6",
        "--at", "phone=0.5", *words)  # fmt: skip
    assert ended.status == 0, ended.err
    assert "given twice" in ended.err
    comparison = Comparison.from_json((tmp_path / "a.json").read_text())
    assert [row.name for row in comparison.rows] == [str(file.parent)]
    assert [c.name for c in comparison.columns] == ["phone", "cpu"]
    assert comparison.at == {"phone": 0.5}  # the last --at counts, as with other options
    assert (tmp_path / "out/a.csv").read_text() == comparison.to_csv()
    assert (tmp_path / "a.md").read_text() == comparison.to_markdown()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert str(comparison) in ended.out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["proxyles_cpu"], "error: proxyles_cpu: is neither a file nor the name of a published network"),
        (["torchvision:resnet43"], "Did you mean 'torchvision:resnet34'?"),
        (["proxyless_cpu", "--devices", "cpu,onxruntime"], "Did you mean 'onnxruntime'?"),
        (["proxyless_cpu", "--picture", "a.jpg"], "error: a.jpg: ends in '.jpg', expected a file that ends in .png"),
        (["proxyless_cpu", "--csv", "a", "--json", "a"], "error: --csv: got a, which another output is"),
        (["proxyless_cpu", "--csv", "."], "error: --csv .: is a folder, expected the name of a file"),
        (["proxyless_cpu", "--csv", "/dev/null/x.csv"], "error: --csv /dev/null: is a file, or lies below one"),
        (["proxyless_cpu", "--at", "5", "6"], "error: --at: got two latencies for one device"),
        (["proxyless_cpu", "--at", "phone=6"], "error: at: got 'phone', expected published_gpu, published_cpu"),
        (["proxyless_cpu", "--at", "-1"], "error: at: got -1.0, expected milliseconds above 0"),
        (["mobilenet_v2", "--at", "5"], "error: at: got a latency, but no network has one"),
        (["proxyless_cpu", "--tables", "absent.yaml"], "error: absent.yaml: no such file"),
        (["."], "error: .: has neither config.yaml nor architecture.json"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_before_anything_is_timed(
    words, line, door, tmp_path, monkeypatch, no_timing
):
    monkeypatch.chdir(tmp_path)
    ended = door("compare", *words)
    assert ended.status == 2
    assert line in ended.err
    assert ended.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_runtime_that_is_not_installed_is_said_with_its_extra(door, monkeypatch, no_timing):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "onnx" else real(name, *rest))
    ended = door("compare", "proxyless_cpu", "--devices", "onnxruntime")
    assert ended.status == 2
    assert ended.err == (
        "error: --devices: onnxruntime needs the Python package onnx, which is not installed; "
        'pip install "proxylessnas[onnx]"\n'
    )


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_timed(monkeypatch, tmp_path, no_timing):
    from engine import files

    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "open", full)
    with pytest.raises(WriteError, match=r"^--csv .*a\.csv: cannot be written \(No space left on device\); make room"):
        files.check_writable(tmp_path / "a.csv", "--csv")


def test_ctrl_c_leaves_no_file(door, file, tmp_path, monkeypatch):
    def stopped(self: object, *arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(devices.NetworkTimer, "timings", stopped)
    before = set(tmp_path.rglob("*"))
    ended = door("compare", file, "--devices", "cpu", "--csv", tmp_path / "a.csv")
    assert (ended.status, ended.err.splitlines()[-1]) == (130, "interrupted")
    assert set(tmp_path.rglob("*")) == before


def test_the_rounds_of_the_command_are_those_of_a_search():
    from engine.arguments import parser_of
    from proxyless_nas.commands.compare import COMMAND

    parser = parser_of("", "")
    COMMAND.arguments(parser)
    assert parser.parse_args(["proxyless_cpu"]).rounds == TIMING_ROUNDS


@pytest.mark.parametrize(
    ("networks", "error"),
    [
        ([], "networks: got none"),
        ([3], "networks: got an entry of type int"),
        (None, "networks: got NoneType"),
        ([nn.Conv2d(3, 2, 1)], r"networks: Conv2d: returns \(1, 2, 224, 224\), expected logits"),
        ([nn.Linear(7, 2)], r"networks: Linear: fails on images of shape \(1, 3, 224, 224\)"),
    ],
)
def test_what_is_no_network_is_refused(networks, error):
    with pytest.raises(ConfigError, match=f"^{error}"):
        compare(networks)


def test_one_network_given_twice_by_name_is_one_row_and_objects_are_told_apart(small, caplog):
    with caplog.at_level(logging.INFO):
        comparison = compare(["proxyless_mobile14", "proxyless_mobile_14", small, small])
    assert [row.name for row in comparison.rows] == ["proxyless_mobile_14", "small", "small'"]
    assert "proxyless_mobile_14 is given twice, and is compared once" in caplog.text
