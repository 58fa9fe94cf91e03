"""Every file of configs/ loads, says how it is used, and runs in its script at a reduced size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from engine.config import load_config
from engine.shipped import shipped_name
from latency.config import LatencyConfig
from proxyless_nas.shipping.config import ShipConfig
from retrain.config import RetrainConfig
from search import judge
from search.config import SearchConfig
from supernet.architecture import Architecture
from supernet.space import Space

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
KINDS = ("latency", "search", "retrain", "ship")
LATENCY, SEARCH, RETRAIN, SHIP = (sorted((CONFIGS / kind).glob("*.yaml")) for kind in KINDS)
WITH_TABLE = [path for path in SEARCH if any("table" in limit for limit in load_config(path)["limits"])]
PUBLISHED = [path for path in SEARCH if path.name.startswith("imagenet_")]
COMMANDS = {
    "latency": ("measure", "import"),
    "search": ("search",),
    "retrain": ("retrain",),
    "ship": ("ship",),
}


def named(paths: list[Path]) -> dict[str, Any]:
    return {"argvalues": paths, "ids": [f"{path.parent.name}-{path.stem}" for path in paths]}


def test_there_is_a_config_of_each_kind():
    assert LATENCY
    assert SEARCH
    assert RETRAIN
    assert PUBLISHED
    assert SHIP
    assert {path.parent.name for path in CONFIGS.rglob("*.yaml")} == set(KINDS)


@pytest.mark.parametrize("path", **named([*LATENCY, *SEARCH]))
def test_a_latency_or_search_config_can_be_measured(path):
    """A search config too: `proxyless-nas measure` reads its space and measure sections."""
    config = LatencyConfig.read(path)
    assert Space(config.space).searchable


@pytest.mark.parametrize("path", **named(SEARCH))
def test_a_search_config_is_valid(path):
    SearchConfig.read(path)


@pytest.mark.parametrize("path", **named(RETRAIN))
def test_a_retraining_config_is_valid(path):
    RetrainConfig.read(path)


@pytest.mark.parametrize("path", **named(SHIP))
def test_the_config_of_a_job_is_valid(path):
    ShipConfig.read(path)


@pytest.mark.parametrize("path", **named([*LATENCY, *SEARCH, *RETRAIN, *SHIP]))
def test_a_config_opens_with_its_purpose_its_cost_and_its_command(path):
    """The comment says what the file is and costs, and has a command of its kind, which names it unless it imports."""
    comment = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert path.read_text().startswith("# What: ")
    assert "\n# Cost: " in comment
    commands = [line for line in comment.splitlines() if "  proxyless-nas " in line]
    assert any(f"proxyless-nas {command} " in line for line in commands for command in COMMANDS[path.parent.name])
    if " import " not in commands[-1]:
        assert f" {shipped_name(path)} " in commands[-1]


@pytest.mark.parametrize("path", **named(WITH_TABLE))
def test_the_first_command_of_a_config_writes_the_table_that_its_limit_reads(path):
    """The file that the first command writes is the one that the limit reads."""
    commands = [line for line in path.read_text().splitlines() if line.startswith("#   proxyless-nas ")]
    table = load_config(path)["limits"][0]["table"]
    assert f"--out {table}" in commands[0].removesuffix(" --verify 40")
    assert commands[0].endswith(("--verify 40", f"--out {table}"))


@pytest.mark.parametrize("path", **named(PUBLISHED))
def test_an_imagenet_search_is_as_long_as_the_published_one(path):
    """The epochs and the batch size are the published ones; the optimizer and alpha's learning are not."""
    config = SearchConfig.read(path)
    s = config.search
    assert (s.warmup_epochs, s.epochs, s.batch_size) == (40, 120, 256)
    assert (s.optimizer, s.warmup_lr, s.resolved_lr, s.resolved_weight_decay) == ("adamw", None, 0.004, 0.05)
    assert (s.label_smoothing, s.arch_update) == (0.1, "regression")
    assert (config.data.name, config.data.validation) == ("imagenet", 50_000)


def test_the_mobile_and_flops_configs_have_the_published_targets():
    assert load_config(CONFIGS / "search" / "imagenet_mobile.yaml")["limits"][0]["at"] == 80
    flops = load_config(CONFIGS / "search" / "imagenet_flops.yaml")["limits"][0]
    assert (flops["metric"], flops["at"]) == ("macs", 300e6)


def test_defaults_of_forms_that_no_file_names_are_the_published_settings():
    """Sec. 4's numbers for the forms that no file names."""
    from search.config import ReinforceConfig, SearchSettings
    from search.learn.forms import AddLinear, MulLog

    s = SearchSettings(arch_update="two_path", optimizer="sgd")
    assert (s.resolved_lr, s.momentum, s.resolved_weight_decay, s.label_smoothing) == (0.025, 0.9, 4e-5, 0.1)
    assert (s.arch_lr, s.arch_betas, s.arch_every) == (1e-3, (0.0, 0.999), 5)
    assert s.resolved_gate_gradient == "first_order"
    assert AddLinear().weight == 0.1
    assert (MulLog().scale, MulLog().power) == (0.2, 0.3)
    assert (ReinforceConfig().samples, ReinforceConfig().exponent) == (10, 0.1)


def test_the_imagenet_retraining_has_the_published_settings():
    r = RetrainConfig.read(CONFIGS / "retrain" / "imagenet.yaml").retrain
    assert (r.epochs, r.batch_size, r.lr, r.momentum) == (300, 256, 0.05, 0.9)
    assert (r.weight_decay, r.label_smoothing, r.inherit) == (4e-5, 0.1, None)


@pytest.mark.parametrize("path", **named(WITH_TABLE))
def test_a_search_without_its_table_names_the_command_that_makes_it(path, door, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config(path)
    table = config["limits"][0]["table"]
    ended = door("run_search", path, "--out", "run", "run.device=cpu")
    assert ended.status == 2
    command = "import SOURCE" if config["measure"]["device"] == "external" else f"measure {path.stem}"
    for words in ("error: ", f"no file {table}", f"proxyless-nas {command} --out {table}"):
        assert words in ended.err
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory) -> Path:
    """train/ and val/ of two classes, 16 and 4 images each."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for part, count in (("train", 16), ("val", 4)):
        for name in ("dark", "light"):
            place = root / part / name
            place.mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(0, 128, size=(40, 36, 3)) + (127 if name == "light" else 0)
                Image.fromarray(noise.astype(np.uint8)).save(place / f"{i}.jpg")
    return root


def smaller(space: dict[str, Any]) -> list[str]:
    """Overrides: the file's own stages and candidates, narrow and on small images."""
    size = 32 if space["input_size"] > 64 else 16
    return [f"space.input_size={size}", "space.classes=2", "space.width_multiplier=0.25", "space.feature_mix=64"]


def on_folder(root: Path) -> list[str]:
    return ["data.name=folder", f"data.root={root}", "data.workers=0"]


ON_CPU = ["run.device=cpu", "run.amp=none", "run.threads=1"]


@pytest.mark.parametrize("path", **named(SEARCH))
def test_a_search_config_runs_at_reduced_size(path, door, jpegs, tmp_path, monkeypatch, formula_table):
    """2 warm-up steps, then 2 weights steps, each followed by an architecture step; 2 of these at the end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(judge, "NETWORKS", 4)  # random networks beside the derived one: 20 take most of the time
    config = load_config(path)
    overrides = [*smaller(config["space"]), *on_folder(jpegs), *ON_CPU, "data.validation=0.75", "search.bn_batches=2"]
    overrides += ["search.batch_size=4", "search.warmup_epochs=1", "search.epochs=1", "search.arch_every=1"]
    overrides += ["search.regression.final_steps=2", "run.log_every=1", "measure.device=cpu", "limits.0.at=50%"]
    reduced = SearchConfig.read(path, overrides)
    for limit in reduced.limits:
        if limit.table is not None:
            formula_table(Space(reduced.space), reduced.measure).save(tmp_path / limit.table)
    ended = door("run_search", path, "--out", "run", *overrides)
    assert ended.status == 0, ended.err

    run = tmp_path / "run"
    architecture = Architecture.from_json((run / "architecture.json").read_text())
    assert architecture.space == Space(reduced.space)
    resolved = yaml.safe_load((run / "config.yaml").read_text())
    assert isinstance(resolved["limits"][0]["at"], float)
    points = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = [point for point in points if "train/loss" in point]
    assert [point["step"] for point in trained] == [1, 2, 3, 4]
    assert [point["lr/arch"] > 0 for point in trained] == [False, False, True, True]
    assert [point["step"] for point in points if "arch/ce" in point] == [3, 4]
    assert all(value is not None for point in points for value in point.values())
    assert list(run.glob("events.out.tfevents.*"))
    assert list((run / "checkpoints").glob("step-000000004-*.pt"))


@pytest.mark.parametrize("path", **named(RETRAIN))
def test_a_retraining_config_runs_at_reduced_size(path, door, jpegs, tmp_path, monkeypatch, space_of):
    monkeypatch.chdir(tmp_path)
    stages = [{"width": 8, "depth": 2, "candidates": ["mbconv_k3_e3", "skip"]}]
    space = space_of({"input_size": 16, "classes": 2, "stem": {"width": 8}, "stages": stages, "feature_mix": 16})
    (tmp_path / "a.json").write_text(Architecture(space, (0, 1)).to_json())
    overrides = [*on_folder(jpegs), *ON_CPU, "retrain.batch_size=16", "retrain.epochs=1", "run.log_every=1"]
    overrides += ["retrain.warmup_epochs=0", "retrain.start=null", "retrain.augment.weaker_below=0"]
    if load_config(path)["retrain"].get("augment", {}).get("sizes"):
        overrides.append("retrain.augment.sizes=[8, 16]")
    ended = door("run_retrain", path, "--architecture", "a.json", "--out", "run", *overrides)
    assert ended.status == 0, ended.err

    run = tmp_path / "run"
    points = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [point["step"] for point in points if "train/loss" in point] == [1, 2]
    assert json.loads((run / "result.json").read_text())["test"]["images"] == 8
    assert list(run.glob("events.out.tfevents.*"))
    assert list((run / "checkpoints").glob("step-000000002-*.pt"))
    assert (run / "config.yaml").exists()
