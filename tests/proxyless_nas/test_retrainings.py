"""Sweeps of retrainings: which networks, what the figures show, and what becomes of a killed and a failing one."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import statistics
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

import engine.children
import proxyless_nas.retrainings.run
from engine.config import config_text
from engine.errors import ConfigError
from engine.evaluation import Evaluation
from engine.runs import inputs
from proxyless_nas.commands import main
from proxyless_nas.retrainings.figures import Spread, against_random, difference_of, spread_of
from proxyless_nas.retrainings.networks import TOLERANCE, Entries, Entry, entries_of, saved
from proxyless_nas.retrainings.results import Outcome, RetrainSweep, write_results
from proxyless_nas.retrainings.run import retrain_sweep
from retrain import loop
from retrain.config import RetrainConfig
from retrain.inputs import resolved_training
from retrain.run import run_retrain
from search.config import SearchConfig
from supernet.architecture import Architecture
from supernet.design_file import read_design
from supernet.space import Space
from tests.processes import Child, nothing

OWN = [91.0, 92.5, 91.8]
OTHERS = [90.1, 91.2, 90.7, 91.9, 89.8]
RECIPE = {
    "data": {"name": "fake", "fake_images": 16, "fake_classes": 2, "workers": 0},
    "retrain": {"epochs": 2, "batch_size": 4},
    "run": {"threads": 1, "log_every": 1, "checkpoint_every": 5, "evaluate_every": 10},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_search) -> Path:
    """The folder of a search that has ended, with a limit on MACs: its settings and its architecture."""
    folder = tmp_path_factory.mktemp("runs") / "macs"
    folder.mkdir()
    names = ["mbconv_k3_e1", "mbconv_k3_e2", "mbconv_k5_e1", "mbconv_k5_e2", "conv_k1", "skip"]
    space = tiny_search["space"] | {
        "stages": [{"width": 8, "candidates": names[:5]}, {"width": 16, "depth": 3, "candidates": names}]
    }
    config = SearchConfig.read(tiny_search | {"space": space, "limits": [{"metric": "macs", "at": "60%"}]})
    (folder / "config.yaml").write_text(config_text(config))
    architecture = Architecture(Space(config.space), (1, 2, 1, 5), "macs")
    record = {"metric": "macs", "value": float(architecture.complexity.macs), "unit": "MACs"}
    (folder / "architecture.json").write_text(architecture.to_json([record]))
    return folder


# --- statistics ------------------------------------------------------------------------------------------------------


def test_the_interval_against_random_networks_is_welchs():
    """With the network's own spread alone, the formula is that of Welch's t-test."""
    spread = Spread(statistics.stdev(OWN), len(OWN) - 1)
    found = against_random(OWN, [[x] for x in OTHERS], spread)
    assert found is not None
    welch = stats.ttest_ind(OWN, OTHERS, equal_var=False).confidence_interval(0.95)
    assert found.difference.points == pytest.approx(statistics.fmean(OWN) - statistics.fmean(OTHERS))
    assert (found.difference.low, found.difference.high) == pytest.approx((welch.low, welch.high))


def test_with_one_seed_the_interval_is_students_for_one_more_network():
    found = against_random([91.0], [[x] for x in OTHERS], spread_of([[91.0], *([x] for x in OTHERS)]))
    assert found is not None
    half = stats.t.ppf(0.975, 4) * statistics.stdev(OTHERS) * math.sqrt(1 + 1 / 5)
    points = 91.0 - statistics.fmean(OTHERS)
    assert (found.difference.low, found.difference.high) == pytest.approx((points - half, points + half))


def test_the_chance_of_a_rank_is_that_of_a_network_drawn_at_random():
    """If each of n + 1 networks takes its turn, a chance of at most p is found p of the time."""
    everyone = [90.0, 91.0, 92.0, 93.0]
    chances = [
        against_random([own], [[x] for x in everyone if x != own], None).chance  # type: ignore[union-attr]
        for own in everyone
    ]
    assert sorted(chances) == [0.25, 0.5, 0.75, 1.0]
    tied = against_random([93.0], [[93.0], [90.0]], None)
    assert tied is not None
    assert tied.chance == pytest.approx(2 / 3)  # an equal one is not beaten
    assert against_random([93.0], [[90.0]], None) is None


def test_the_spread_is_pooled_and_gives_the_intervals_of_means_and_differences():
    groups = [[90.0, 91.0], [80.0, 82.0, 81.0], [70.0]]
    spread = spread_of(groups)
    assert spread == Spread(math.sqrt((0.5 + 2.0) / 3), 3)
    quantile = stats.t.ppf(0.975, 3)
    low, high = spread.interval(groups[0])
    assert (low + high, high - low) == pytest.approx((181.0, 2 * quantile * spread.points / math.sqrt(2)))
    between = difference_of(groups[1], groups[0], spread)
    assert between.points == pytest.approx(-9.5)
    assert between.high - between.low == pytest.approx(2 * quantile * spread.points * math.sqrt(1 / 3 + 1 / 2))
    assert spread_of([[90.0], [80.0]]) is None
    assert difference_of([80.0], [90.0], None).low is None


# --- networks --------------------------------------------------------------------------------------------------------


def test_random_networks_meet_the_limit_and_cost_what_the_first_network_costs(run, tmp_path):
    entries = entries_of([run], 4)
    first, *others = entries.all
    assert (entries.metric, first.name, first.random) == ("macs", "macs", False)
    assert [entry.name for entry in others] == [f"random{i}" for i in range(1, 5)]
    assert first.cost == first.design.complexity.macs
    for entry in others:
        assert entry.cost == entry.design.complexity.macs
        assert (1 - TOLERANCE) * first.cost <= entry.cost <= first.cost
    assert len({entry.design.paths for entry in entries.all}) == 5
    assert entries_of([run / "architecture.json"], 2).all == entries.all[:3]  # more of them keep the first ones
    for entry in saved(entries, tmp_path).all[1:]:
        text = (tmp_path / "networks" / f"{entry.name}.json").read_text()
        assert read_design(text).paths == entry.design.paths
        assert json.loads(text)["predicted"][0]["value"] == entry.cost


def test_costs_without_random_networks_are_those_in_the_files(run, tmp_path):
    shutil.copy(run / "architecture.json", tmp_path / "other.json")
    entries = entries_of({"a": run, "b": tmp_path / "other.json", "c": "proxyless_cpu"})
    assert [entry.cost == entries.first.design.complexity.macs for entry in entries.all] == [True, True, False]
    assert entries.all[2].source == "proxyless_cpu"


@pytest.mark.parametrize(
    ("name", "expected"), [("ä b.json", "ä_b"), (".hidden.json", "_hidden"), ("a;b/architecture.json", "a_b")]
)
def test_a_network_whose_path_has_spaces_or_other_letters_has_a_name(name, expected, run, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    shutil.copy(run / "architecture.json", path)
    assert entries_of([path]).first.name == expected


def test_fewer_random_networks_than_asked_for_are_reported(run, caplog):
    count = len(entries_of([run], 100).all) - 1
    assert count < 100
    assert f"--random: {count} networks instead of 100" in caplog.text


@pytest.mark.parametrize(
    ("architectures", "settings", "says"),
    [
        (["macs", "macs/architecture.json"], {}, "architectures: two networks would have the name macs and share "),
        (["proxyless_cpu"], {"random": 2}, "--random: proxyless_cpu is not in the folder of a search"),
        ([None], {}, "architecture: is missing"),
        ([], {}, "architectures: got none"),
        ({"a/b": "macs"}, {}, "architectures: got the name 'a/b', expected letters"),
        (["macs"], {"seeds": [1, 2, 1]}, "seeds: 1 is given twice"),
        (["macs"], {"seeds": [-1]}, "seeds: got -1, expected whole numbers from 0 on"),
        (["macs"], {"seeds": [1], "overrides": ["run.seed=2"]}, "seeds: the override run.seed sets a seed too"),
        (["macs"], {"jobs": 0}, "jobs: got 0, expected a whole number from 1 on"),
        (["none.json"], {}, "none.json: no such file"),
    ],
)  # fmt: skip
def test_what_cannot_be_retrained_is_refused_before_anything_starts(
    architectures, settings, says, run, tmp_path, monkeypatch
):
    monkeypatch.chdir(run.parent)
    with pytest.raises(ConfigError) as error:
        retrain_sweep(RECIPE, architectures, tmp_path / "out", **settings)
    assert str(error.value).startswith(says)
    assert not (tmp_path / "out").exists()


def ended_run(folder: Path, run: Path, seed: int, test_images: str, *overrides: str) -> None:
    """Writes what a retraining leaves, as far as a sweep reads it."""
    settings = RetrainConfig.read(RECIPE, [f"run.seed={seed}", *overrides])
    design = read_design((run / "architecture.json").read_text())
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(config_text(resolved_training(settings, design)))
    inputs.record(folder, {"test images": {"content": test_images}})
    figures = {"top1": 50.0, "top5": 100.0, "loss": 1.0, "images": 16}
    (folder / "result.json").write_text(json.dumps({"test": figures}))


def test_a_refused_sweep_leaves_the_files_of_another_one_as_they_are(run, tmp_path):
    ended_run(tmp_path / "macs-seed0", run, 0, "old")
    with pytest.raises(ConfigError, match="macs-seed0 holds a run already"):
        retrain_sweep(RECIPE | {"retrain": {"epochs": 7}}, [run], tmp_path, random=2)
    assert {path.name for path in tmp_path.iterdir()} <= {"macs-seed0", ".lock"}


def test_a_retraining_whose_images_have_changed_since_the_others_is_no_result(run, tmp_path, monkeypatch, caplog):
    ended_run(tmp_path / "macs-seed0", run, 0, "old")

    def children(runs: Any, slots: Any, ended: Any, *_: Any, **__: Any) -> None:
        for child in runs:
            ended_run(child.folder, run, child.seed, "new" if child.seed == 1 else "old")
            ended(child, engine.children.Ending("ended", 1.0))

    monkeypatch.setattr(proxyless_nas.retrainings.run, "run_children", children)
    sweep = retrain_sweep(RECIPE, [run], tmp_path, seeds=[0, 1, 2], resume=True)
    assert [outcome.status for outcome in sweep.outcomes] == ["ended", "failed", "ended"]
    assert "macs-seed1: has other test images than " in str(sweep.outcomes[1].error)
    assert (sweep.exit_status, sweep.top1) == (1, {"macs": {0: 50.0, 2: 50.0}})
    with pytest.raises(ConfigError, match="macs-seed1: has other test images"):
        retrain_sweep(RECIPE, [run], tmp_path, seeds=[0, 1, 2], resume=True)


def test_without_a_gpu_a_sweep_that_needs_one_is_refused_unless_all_of_it_has_ended(run, tmp_path, monkeypatch):
    monkeypatch.setattr(engine.children.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(engine.children.subprocess, "Popen", None)  # nothing can start
    on_gpu = {"resume": True, "overrides": ["run.device=cuda"]}
    ended_run(tmp_path / "macs-seed0", run, 0, "same", "run.device=cuda")
    assert retrain_sweep(RECIPE, [run], tmp_path, seeds=[0], **on_gpu).top1 == {"macs": {0: 50.0}}
    with pytest.raises(ConfigError, match=r"retrain\.yaml: run\.device: got 'cuda', but torch finds no CUDA device"):
        retrain_sweep(RECIPE, [run], tmp_path, seeds=[0, 1], **on_gpu)


# --- results ---------------------------------------------------------------------------------------------------------


def sweep_of(tmp_path, accuracies, seeds=(0,)):
    """Made-up results: the first network, then random ones."""
    names = ["own", *map(str, range(1, len(accuracies)))]
    networks = [Entry(name, None, None, 20.0 - i / 10, random=i > 0) for i, name in enumerate(names)]
    outcomes = tuple(
        Outcome(entry.name, seed, tmp_path, tmp_path, "ended", test=Evaluation(1.0, values[seed], 99.0, 1000))
        for entry, values in zip(networks, accuracies, strict=True)
        for seed in seeds
    )
    return RetrainSweep(Entries(tuple(networks), "latency", "ms"), outcomes, tuple(seeds), tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    ("own", "others", "says"),
    [
        (99.0, [90.0 + i / 10 for i in range(19)], "So it is better than chance."),
        (99.0, [90.0, 90.1, 90.2], "on average; to rank above chance takes 19 random networks."),
        (90.1, [90.0, 90.1, 90.2], "So this does not show that it is better than chance."),
        (70.0, [90.0, 90.0, 90.0], "So this does not show that it is better than chance."),  # no error can be estimated
        (70.0, [90.0, 90.1, 90.2], "So it is worse than what chance gives: that search has failed."),
    ],
)
def test_the_verdict_compares_the_network_with_the_random_ones(own, others, says, tmp_path):
    sweep = sweep_of(tmp_path, [[own], *([x] for x in others)])
    (sentence,) = sweep.conclusions
    assert sentence.startswith(f"own has {own:.2f} % of the test images right, {len(others)} random networks of equal ")
    assert "predicted latency (20 ms)" in sentence
    assert sentence.endswith(says)


def test_the_files_have_each_network_and_run(tmp_path):
    sweep = sweep_of(tmp_path, [[91.0, 92.0], [90.0, 90.5], [89.0, 88.0]], seeds=(0, 1))
    failed = Outcome("2", 7, tmp_path, tmp_path, "failed", error="boom")
    sweep = RetrainSweep(sweep.entries, (*sweep.outcomes, failed), (0, 1, 7), sweep.config)
    write_results(tmp_path, sweep)
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["format"] == "proxylessnas/retrainings@1"
    assert [n["mean"] for n in record["networks"]] == [91.5, 90.25, 88.5]
    assert record["networks"][0]["interval"] == list(sweep.spread.interval([91.0, 92.0]))
    assert (record["runs"][-1]["status"], record["runs"][-1]["error"]) == ("failed", "boom")
    assert record["against_random"]["better_than"] == 2
    assert record["verdict"][-1] == "1 of 7 retrainings have no result and are left out."
    lines = (tmp_path / "results.md").read_text().splitlines()
    assert lines[2].startswith("| own | 20 |  |  | 91.00 | 92.00 |  | 91.50 | ")
    assert len({line.count(" | ") for line in lines[:5]}) == 1
    assert (tmp_path / "results.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert sweep.exit_status == 1
    given = [Entry(e.name, None, None) for e in sweep.entries.all]
    texts = RetrainSweep(Entries(tuple(given)), sweep.outcomes, sweep.seeds, sweep.config).conclusions
    assert texts[0].startswith("1 has 1.25 points less than own (95 % interval of the difference -")


def test_the_command_passes_all_on_and_prints_the_table_and_the_verdict(tmp_path, monkeypatch, capsys):
    """key=value among the architectures is an override, as it was when there was one architecture."""
    seen: list[object] = []

    def sweep(*given: object, **settings: object) -> RetrainSweep:
        seen.extend([*given, settings])
        return sweep_of(tmp_path, [[91.0, 92.0], [90.0, 90.5], [89.0, 88.0]], seeds=(0, 1))

    monkeypatch.setattr(proxyless_nas.retrainings.run, "retrain_sweep", sweep)
    words = ["retrain", "recipe", "--arch", "a.json", "runs/b", "retrain.epochs=1", "--seeds", "0", "1", "--out", "o"]
    with pytest.raises(SystemExit) as end:
        main([*words, "--random", "2", "data.workers=0"])
    assert not end.value.code
    config, architectures, out, settings = seen
    assert (config, architectures, out) == (Path("recipe"), [Path("a.json"), Path("runs/b")], Path("o"))
    assert settings == {
        "random": 2, "seeds": [0, 1], "jobs": 1, "resume": False, "allow_modules": [],
        "overrides": ["data.workers=0", "retrain.epochs=1"],
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert "[ms]" in printed
    assert printed.index("91.50") < printed.index("90.25") < printed.index("88.50") < printed.index("own has 91.50 %")
    with pytest.raises(SystemExit) as end:
        main(["retrain", "recipe", "--arch", "a.json", "--jobs", "2", "--out", "o"])
    assert end.value.code == 2
    assert "--jobs: got one retraining; give several architectures, --random or --seeds" in capsys.readouterr().err


# --- real processes --------------------------------------------------------------------------------------------------


def kill_at_step_6() -> None:
    """Makes a retraining of this process kill the process in its 7th step."""
    plain = loop.Training._train

    def train(self: Any, batch: Any) -> Any:
        if self.step == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, batch)

    loop.Training._train = train  # type: ignore[method-assign]


def test_a_killed_retraining_fails_and_a_resume_completes_it(run, tmp_path, monkeypatch):
    """A retraining gets SIGKILL in the middle; after a resume, its result is that of one which nobody killed."""
    given, folder = {"macs": run}, tmp_path / "out" / "macs-seed3"
    monkeypatch.setattr(engine.children.subprocess, "Popen", Child)
    monkeypatch.setattr(Child, "prepare", kill_at_step_6)
    first = retrain_sweep(RECIPE, given, tmp_path / "out", seeds=[3])
    (killed,) = first.outcomes
    assert (killed.status, killed.error) == ("failed", "killed by signal 9 (SIGKILL)")
    assert first.exit_status == 1
    assert first.conclusions == ()
    assert json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 6
    (checkpoint,) = (folder / "checkpoints").glob("*.pt")
    assert checkpoint.name.startswith("step-000000005-")
    monkeypatch.setattr(Child, "prepare", nothing)
    with pytest.raises(ConfigError, match=r"macs-seed3 holds a run already; continue the sweep with --resume"):
        retrain_sweep(RECIPE, given, tmp_path / "out", seeds=[3])
    sweep = retrain_sweep(RECIPE, given, tmp_path / "out", seeds=[3], resume=True)
    (outcome,) = sweep.outcomes
    assert (outcome.status, sweep.exit_status) == ("ended", 0)
    assert outcome.seconds > killed.seconds
    alone = run_retrain(RECIPE, run / "architecture.json", tmp_path / "alone", overrides=["run.seed=3"])
    assert outcome.test == alone.test
    assert sweep.top1 == {"macs": {3: alone.test.top1}}
    log = folder / "metrics.jsonl"
    before = log.stat().st_mtime_ns
    again = retrain_sweep(RECIPE, given, tmp_path / "out", seeds=[3], resume=True)
    assert again.outcomes == sweep.outcomes
    assert log.stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"retrain\.lr: .* -> 0\.7"):
        retrain_sweep(RECIPE, given, tmp_path / "out", seeds=[3], resume=True, overrides=["retrain.lr=0.7"])
