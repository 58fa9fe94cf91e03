"""A retraining writes curves, text and figures for TensorBoard; they are read back from its event files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tensorboard.plugins.hparams import metadata

from engine.curves.comparison import FINAL
from retrain.report import CURVES, predicted_latency
from supernet.architecture import Architecture
from supernet.summary import as_markdown, table_of
from tests.curves import curves_in

CLASSES = 6


@pytest.fixture
def run(door, tmp_path, write_yaml, space_of, tiny_search, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    space = space_of(tiny_search["space"] | {"classes": CLASSES})
    architecture = Architecture(space, (0, 0, 2), "mine")
    predicted = [{"metric": "macs", "value": 3.0}, {"metric": "latency", "value": 7.5, "unit": "ms"}]
    Path("a.json").write_text(architecture.to_json(predicted))
    config = {
        "data": {"name": "fake", "fake_images": 16, "fake_classes": CLASSES, "workers": 0},
        "retrain": {"epochs": 2, "batch_size": 8, "lr": 0.1},
        "run": {"seed": 3, "threads": 1, "log_every": 1},
    }
    write_yaml(Path("retrain.yaml"), config)
    ended = door("run_retrain", "retrain.yaml", "--architecture", "a.json", "--out", "runs/r")
    assert ended.status == 0, ended.err
    return Path("runs/r")


def test_tensorboard_has_the_architecture_the_figures_and_curves_with_descriptions(run, door):
    def check() -> None:
        found = curves_in(run)
        described = CURVES | FINAL
        shown = {tag for tag in found.points if not tag.startswith(("_hparams_/", "custom_scalars__", "__run_graph"))}
        of_searches = {"final/measured", "final/rank", "final/tau"}
        of_settings = {tag for tag in described if tag.startswith("validation") or "_not_averaged/" in tag}
        assert shown == described.keys() - of_searches - of_settings
        for tag in shown:
            assert found.metadata[tag].summary_description == described[tag].description
        architecture = Architecture.from_json(Path("a.json").read_text())
        assert found.texts["architecture"] == [(0, as_markdown(table_of(architecture)))]
        result = json.loads((run / "result.json").read_text())
        c = architecture.complexity
        final = {tag: points for tag, points in found.scalars.items() if tag.startswith("final/")}
        assert final == {
            "final/top1": [(4, pytest.approx(result["test"]["top1"]))],
            "final/latency": [(4, 7.5)],
            "final/macs": [(4, c.macs)],
            "final/params": [(4, c.params)],
        }
        content = found.metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
        start = metadata.parse_session_start_info_plugin_data(content)
        assert (start.group_name, start.hparams["kind"].string_value) == ("runs/r", "retraining")
        assert (start.hparams["architecture"].string_value, start.hparams["seed"].number_value) == ("mine", 3)
        (graph,) = found.graphs
        names = {node.name for node in graph.node}
        assert "classifier/linear/linear" in names
        assert any(name.startswith("stage0/0.mbconv_k3_e1/") for name in names)

    check()
    ended = door("run_retrain", "retrain.yaml", "--architecture", "a.json", "--out", "runs/r", "--resume")
    assert ended.status == 0, ended.err
    check()  # what the end of a run writes is there once


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"predicted": None},
        {"predicted": 5},
        {"predicted": [{"metric": "latency", "value": "x"}]},
        {"predicted": [{"metric": "macs", "value": 3.0}, 7]},
    ],
)
def test_an_architecture_without_a_prediction_has_no_predicted_latency(record):
    assert predicted_latency(record) is None
