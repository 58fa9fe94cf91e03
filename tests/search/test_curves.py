"""Tests the curves of a search, read back from its event files, and that writing them changes nothing."""

from __future__ import annotations

import io
import json
import math
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from matplotlib.axes import Axes
from PIL import Image
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2, metadata

from engine.curves.comparison import FINAL, HYPERPARAMETERS
from engine.curves.metrics import MetricsLog
from engine.evaluation import Evaluation
from search.curves import CURVES, SAMPLES, charts, curves_of, hyperparameters, layer_costs, log_evaluation
from search.limits.resolve import resolve
from search.loop import run_search
from search.picture import CHOSEN, probabilities_picture
from search.plan import Plan
from search.result import load_result
from search.state import SearchState
from supernet.architecture import Architecture
from tests.curves import Curves, curves_in
from tests.processes import python

ROOT = Path(__file__).resolve().parents[2]
LIMITS = [
    {"metric": "latency", "table": "table.yaml", "at": "50%"},
    {"metric": "energy_mj", "table": "table.yaml", "below": "80%"},
    {"metric": "macs", "below": "90%"},
    {"metric": "peak_activation_bytes", "below": "100%"},
]


@pytest.fixture(autouse=True)
def drawn(undrawn, monkeypatch):
    """Searches draw path probabilities, as they do outside of tests."""
    monkeypatch.setattr("search.curves.probabilities_picture", probabilities_picture)


@pytest.fixture
def config(make_search_file, make_table, space, tmp_path, monkeypatch):
    """A search of 18 steps with an evaluation after each 6, under limits of all kinds."""
    monkeypatch.chdir(tmp_path)
    make_table(space, Path("table.yaml"))
    search = {"warmup_epochs": 1, "epochs": 2, "batch_size": 8, "arch_every": 2, "bn_batches": 1}
    search["regression"] = {"final_steps": 5}
    return make_search_file(
        LIMITS, search=search, measure={"device": "external"},
        run={"threads": 1, "log_every": 2, "checkpoint_every": 6},
    )  # fmt: skip


@pytest.fixture
def config_file(config, tmp_path):
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)))
    return path


@pytest.fixture
def run(config_file, tmp_path):
    run_search(config_file, Path("runs/cpu"))
    return tmp_path / "runs" / "cpu"


@pytest.fixture
def plan(config):
    resolved = resolve(config, "search.yaml")
    nothing = None  # no images are read
    return Plan(resolved.config, resolved.space, resolved.limits, torch.device("cpu"), nothing, nothing)


def test_the_event_files_of_a_search_hold_every_curve_text_and_picture(run, plan):
    """One run serves all checks, since a search takes seconds."""
    curves = curves_in(run)
    evaluations = [0, 6, 12, 18, 19]  # the last after the final steps
    described_tags(curves, plan)
    run_names(run)
    architecture_texts(curves, run, plan, evaluations)
    row_of_hparams(curves, run, plan)
    charts_of_limits(curves)
    distributions(curves, plan, evaluations)
    pictures(curves, evaluations)
    graph(curves, run)


def described_tags(curves: Curves, plan: Plan) -> None:
    described = curves_of(plan.space, plan.limits) | FINAL
    special = {tag for tag in curves.points if tag.startswith(("_hparams_/", "custom_scalars__", "__run_graph"))}
    assert curves.points.keys() - special <= described.keys()
    for tag in curves.points.keys() - special:
        said = curves.metadata[tag].summary_description
        assert said == described[tag].description
        assert said.endswith(".")
    assert curves.metadata["expected/latency"].summary_description.endswith(" Unit: ms.")
    assert curves.metadata["derived/energy_mj"].summary_description.endswith(" Unit: mJ.")
    assert curves.metadata["derived/peak_activation_bytes"].summary_description.endswith(" Unit: bytes.")
    assert curves.metadata["train/top1"].summary_description.endswith(" Unit: %.")


def run_names(run: Path) -> None:
    runs = EventMultiplexer().AddRunsFromDirectory(str(run.parent)).Reload().Runs()
    assert list(runs) == ["cpu"]


def architecture_texts(curves: Curves, run: Path, plan: Plan, evaluations: list[int]) -> None:
    texts = curves.texts
    assert [step for step, _ in texts["architecture"]] == evaluations
    assert [step for step, _ in texts["config"]] == [0]
    assert "arch_update: regression" in texts["config"][0][1]
    derived = dict(curves.scalars["derived/latency"])
    for step, text in texts["architecture"]:
        rows = [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
        assert rows[0] == [
            "layer",
            "op",
            "channels",
            "input",
            "stride",
            "params",
            "MACs",
            "latency [ms]",
            "energy_mj [mJ]",
        ]
        assert [row[0] for row in rows[3:-4]] == [edge.name for edge in plan.space.edges]
        assert float(rows[-1][7]) == pytest.approx(derived[step], rel=1e-3)
        assert re.search(r"^- latency: [\d.]+ ms, asked at [\d.]+ ms$", text, re.M)
        assert re.search(r"^- macs: .* MACs, asked below .* MACs$", text, re.M)
    final = Architecture.from_json((run / "architecture.json").read_text())
    ((step, text),) = texts["final/architecture"]
    assert step == evaluations[-2]  # the last weights step
    assert [re.split(r"[|+]", line)[2].strip() for line in text.splitlines()[3:7]] == list(final.names)


def row_of_hparams(curves: Curves, run: Path, plan: Plan) -> None:
    tags = metadata.EXPERIMENT_TAG, metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG
    assert [[step for step, _ in curves.points[tag]] for tag in tags] == [[0], [0], [18]]
    contents = [curves.metadata[tag].plugin_data.content for tag in tags]
    experiment = metadata.parse_experiment_plugin_data(contents[0])
    start = metadata.parse_session_start_info_plugin_data(contents[1])
    end = metadata.parse_session_end_info_plugin_data(contents[2])
    assert [info.name for info in experiment.hparam_infos] == list(HYPERPARAMETERS)
    assert [info.name.tag for info in experiment.metric_infos] == list(FINAL)
    assert all(info.description for info in (*experiment.hparam_infos, *experiment.metric_infos))
    assert sum(info.differs for info in experiment.hparam_infos) == 5
    assert start.group_name == "runs/cpu"
    values = {name: value.string_value or value.number_value for name, value in start.hparams.items()}
    assert values == hyperparameters(plan.config, plan.additive)
    assert (values["kind"], values["seed"], values["loss"], values["device"]) == ("search", 0, "projection", "made up")
    assert values["bound"] == plan.limits[0].bound
    assert values["limits"].startswith("latency at ")
    assert end.status == api_pb2.STATUS_SUCCESS
    result = load_result(run)
    figures = {tag: points for tag, points in curves.scalars.items() if tag.startswith("final/")}
    assert figures == {
        "final/top1": [(18, pytest.approx(result.top1))],
        "final/latency": [(18, pytest.approx(result.limits[0].predicted))],
        "final/macs": [(18, result.macs)],
        "final/params": [(18, result.params)],
        "final/rank": [(18, result.judgement.rank)],
        "final/tau": [(18, pytest.approx(result.judgement.tau))],
    }  # none was measured: the table is of another device


def charts_of_limits(curves: Curves) -> None:
    ((step, content),) = curves.points["custom_scalars__config__"]
    assert step == 0
    layout = layout_pb2.Layout.FromString(content.item())
    assert [category.title for category in layout.category] == ["limits", "accuracy", "alpha"]
    shown = {
        chart.title: {tag for tag in curves.scalars for pattern in chart.multiline.tag if re.match(pattern, tag)}
        for category in layout.category
        for chart in category.chart
    }
    # the first two charts are beside each other
    assert list(shown)[:2] == ["latency [ms]: expected, target, derived", "latency: pressure"]
    assert shown["latency [ms]: expected, target, derived"] == {"expected/latency", "target/latency", "derived/latency"}
    assert shown["latency: pressure"] == {"pressure/latency"}
    assert shown["energy_mj: pressure"] == {"pressure/energy_mj"}
    assert all(shown.values())


def distributions(curves: Curves, plan: Plan, evaluations: list[int]) -> None:
    shown = curves.of("histograms")
    edges = plan.space.searchable
    names = {"arch/alpha", *(f"probability/{edge.name}" for edge in edges)}
    assert shown.keys() == names | {"sampled/latency", "sampled/energy_mj", "sampled/macs"}
    for tag, points in shown.items():
        assert [step for step, _ in points] == evaluations, tag
    numbers = {tag: {buckets[:, 2].sum() for _, buckets in points} for tag, points in shown.items()}
    assert numbers["arch/alpha"] == {sum(len(edge.candidates) for edge in edges)}
    assert [numbers[f"probability/{edge.name}"] for edge in edges] == [{len(edge.candidates)} for edge in edges]
    assert numbers["sampled/latency"] == {SAMPLES}
    low, high = plan.limits[0].cost.reachable
    for _, buckets in shown["sampled/latency"]:
        assert low <= buckets[0, 0] < buckets[-1, 1] <= high
    assert shown["arch/alpha"][0][1].tolist() == [[0.0, 0.0, numbers["arch/alpha"].pop()]]  # all alike: one bin


def pictures(curves: Curves, evaluations: list[int]) -> None:
    assert [step for step, _ in curves.points["arch/probabilities"]] == evaluations
    for _, (width, height, content) in curves.points["arch/probabilities"]:
        picture = Image.open(io.BytesIO(content))
        assert picture.size == (int(width), int(height))
        assert min(picture.size) >= 400
        assert len(content) < 100_000


def graph(curves: Curves, run: Path) -> None:
    (drawn,) = curves.graphs
    names = [node.name for node in drawn.node]
    assert all(name in names for node in drawn.node for name in node.input)
    final = Architecture.from_json((run / "architecture.json").read_text())
    parts = list(dict.fromkeys("/".join(name.split("/")[: 2 if name.startswith("stage") else 1]) for name in names))
    edges = [
        f"{edge.name.replace('.', '/')}.{op}"
        for edge, op in zip(final.space.edges, final.names, strict=True)
        if op != "skip"
    ]
    assert parts == ["images", "stem", *edges, "feature_mix", "classifier"]


def test_a_resume_of_an_ended_search_shows_its_end_once(run, config_file):
    before = curves_in(run)
    run_search(config_file, Path("runs/cpu"), resume=True)
    after = curves_in(run)
    assert after.points.keys() == before.points.keys()
    steps = {tag: [step for step, _ in points] for tag, points in after.points.items()}
    assert steps == {tag: [step for step, _ in points] for tag, points in before.points.items()}
    assert len(after.graphs) == 1
    assert {tag: m.summary_description for tag, m in after.metadata.items()} == {
        tag: m.summary_description for tag, m in before.metadata.items()
    }


def test_writing_curves_changes_nothing_in_a_search(plan, tmp_path):
    state = SearchState.fresh(plan.config, plan.space, plan.device)
    state.alpha.values.copy_(torch.randn(state.alpha.mask.shape, generator=torch.Generator().manual_seed(1)))

    def snapshot() -> list[torch.Tensor]:
        tensors = [*state.net.state_dict().values(), state.alpha.values, torch.get_rng_state()]
        return [tensor.detach().clone() for tensor in tensors]

    before, others = snapshot(), random.getstate()
    log = MetricsLog(tmp_path, resume_step=None, curves=curves_of(plan.space, plan.limits))
    architecture = Architecture(plan.space, (0,) * len(plan.space.searchable))
    log_evaluation(log, 3, state, plan, architecture, Evaluation(1.0, 50.0, 90.0, 8))
    log.close()
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(), strict=True))
    assert random.getstate() == others
    assert state.alpha.values.grad is None


def test_the_columns_of_costs_add_up_to_what_the_tables_predict(plan):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        paths = tuple(int(rng.integers(len(edge.candidates))) for edge in plan.space.searchable)
        columns, constants = layer_costs(Architecture(plan.space, paths), plan.limits)
        assert constants == {"latency [ms]": 0.5, "energy_mj [mJ]": 0.25}
        sums = [sum(column) + constants[name] for name, column in columns.items()]
        assert sums == [pytest.approx(limit.cost.of(paths)) for limit in plan.limits[:2]]


def test_each_table_of_a_combined_limit_has_a_column(make_search_file, make_table, space, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_table(space, Path("a.yaml"))
    make_table(space, Path("b.yaml"), constant_ms=1.5)
    tables = {"tables": ["a.yaml", "b.yaml"], "combine": "worst_case"}
    config = make_search_file([{"metric": "latency", **tables, "at": "50%"}], measure={"device": "external"})
    limits = resolve(config, "search.yaml").limits
    columns, constants = layer_costs(Architecture(space, (0,) * len(space.searchable)), limits)
    assert constants == {"latency [ms], a": 0.5, "latency [ms], b": 1.5}
    assert list(columns) == list(constants)


def test_names_of_limits_are_taken_literally_in_charts(make_cost, make_limit, space):
    """A table's name is part of a limit's name, and TensorBoard takes tags for patterns."""
    limits = [replace(make_limit(make_cost(space, 0), 0.5), name="latency_my.board(2)")]
    ((pattern,), (pressure,)) = charts(limits, projected=True)["limits"].values()
    assert re.match(pressure, "pressure/latency_my.board(2)")
    assert list(charts(limits, projected=False)["limits"].values()) == [(pattern,)]
    assert re.match(pattern, "expected/latency_my.board(2)")
    assert not re.match(pattern, "expected/latency_myxboard(2)")
    assert not re.match(pattern, "expected/latency_my.board(2)_3")


@pytest.fixture
def limit(space, make_cost, make_limit):
    return make_limit(make_cost(space, 0), 0.5)


def test_the_picture_frames_the_chosen_candidates(space, limit):
    p = np.where(space.mask, 0.25, 0.0)
    frame = np.array([int(CHOSEN[k : k + 2], 16) for k in (1, 3, 5)])

    def framed(paths: tuple[int, ...]) -> float:
        """Returns the distance of the middle of all frames from the top, as a share of the picture."""
        pixels = probabilities_picture(p, space, paths, [limit])
        down, _ = (np.abs(pixels.astype(int) - frame).sum(axis=2) < 10).nonzero()
        return float(down.mean()) / pixels.shape[0]

    assert framed((2, 2, 0, 2)) > framed((0, 0, 0, 0)) + 0.1  # candidates lie below each other


def test_the_picture_has_a_row_for_each_name_and_no_number_for_a_candidate_that_an_edge_lacks(
    space, limit, monkeypatch
):
    """The spaces of two stages share two of four names; the first edge of the second stage lacks skip."""
    shown: list[np.ndarray] = []
    real = Axes.imshow
    monkeypatch.setattr(Axes, "imshow", lambda self, cells, **k: shown.append(cells) or real(self, cells, **k))
    p = np.where(space.mask, np.arange(1, 4) / 10, 0.0)
    probabilities_picture(p, space, (0, 0, 0, 0), [limit])
    nan = math.nan  # the candidates of each edge: mbconv_k3_e1, mbconv_k3_e2, skip, conv_k3
    expected = [[0.1, 0.2, 0.3, nan], [0.1, 0.2, 0.3, nan], [0.1, nan, nan, 0.2], [0.1, nan, 0.3, 0.2]]
    np.testing.assert_allclose(shown[0].T, expected)


@pytest.mark.parametrize("depth", [1, 100])
def test_the_picture_is_large_enough_to_read_and_bounded(space_of, make_tiny_config, depth):
    section = make_tiny_config()
    section["stages"] = [{"width": 4, "depth": depth, "candidates": ["mbconv_k3_e1", "mbconv_k3_e2", "skip"]}]
    space = space_of(section)
    pixels = probabilities_picture(np.where(space.mask, 1 / 3, 0), space, (0,) * depth, [])
    assert min(pixels.shape[:2]) > 150
    assert max(pixels.shape[:2]) <= 4000


def test_every_tag_is_in_the_documentation():
    text = (ROOT / "docs" / "tensorboard.md").read_text()
    table = text[text.index("| curve | what |") :].partition("\n\n")[0]
    for tag in (*CURVES, *FINAL):
        assert f"`{tag}`" in table, tag


LIMITED = """
import resource, runpy, sys
limit = int(sys.argv.pop(1))
from engine.curves import event_files
real = event_files.EventFile.write
def write(self, event, step=0):  # the search has begun: from here on no file may grow beyond the limit
    if step >= 12:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    real(self, event, step)
event_files.EventFile.write = write
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_search_whose_disk_fills_ends_in_one_line_and_goes_on_later(config_file, run, tmp_path):
    """Before a point at step 12 the event file may not grow any more; its checkpoint of step 6 is whole."""
    door = ROOT / "scripts" / "run_search.py"
    begun = tmp_path / "runs" / "full"
    ended = python("-c", LIMITED, 1000, door, config_file, "--out", "runs/full", cwd=tmp_path, timeout=300)
    assert ended.returncode == 2, ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert "cannot be written (File too large)" in line
    assert "Traceback" not in ended.stderr
    assert not (begun / "result.json").exists()
    run_search(config_file, Path("runs/full"), resume=True)
    whole, later = curves_in(run), curves_in(begun)
    for tag in whole.points:
        assert [step for step, _ in later.points[tag]] == [step for step, _ in whole.points[tag]], tag
    lines = [json.loads(line) for line in (begun / "metrics.jsonl").read_text().splitlines()]
    expected = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    drop = "speed/images_per_second"
    assert [{k: v for k, v in r.items() if k != drop} for r in lines] == [
        {k: v for k, v in r.items() if k != drop} for r in expected
    ]
    assert list(begun.glob("*.damaged")) == []
