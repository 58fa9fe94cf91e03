"""Tests sweeps of real searches: a failing one among good ones, a resume, Ctrl-C, and refused settings."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from types import SimpleNamespace

import pytest
import yaml

import engine.children
import search.many.sweep
from engine.children import ending_of, write_error
from engine.errors import ConfigError
from engine.evaluation import Evaluation
from engine.queue import Slot
from engine.runs.lock import locked
from search.config import SearchConfig
from search.derive.derivation import Derivation
from search.derive.outcome import MeasuredDerivation
from search.loop import run_search
from search.many.sweep import (
    Outcome,
    Sweep,
    SweptSearch,
    as_files,
    panels_of,
    plan_sweep,
    row_of,
    run_sweep,
    write_sweep,
)
from search.result import LimitFigures, MeasuredFigures, load_result, result_of
from supernet.alpha import Alpha
from supernet.architecture import Architecture
from tests.processes import Child


@pytest.fixture(scope="module")
def environment(shell):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in shell.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_search, environment):
    """(folder, sweep) of three searches two at a time, the second of which cannot run."""
    folder = tmp_path_factory.mktemp("sweep")
    for name, limit, batch in (("small", "30%", 4), ("broken", "50%", 64), ("large", "80%", 4)):
        config = tiny_search | {"limits": [{"metric": "macs", "at": limit}]}
        config["search"] = config["search"] | {"batch_size": batch, "regression": {"final_steps": 2}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    configs = [folder / f"{name}.yaml" for name in ("small", "broken", "large")]
    return folder, run_sweep(configs, folder / "out", jobs=2, seeds=[5], overrides=["search.label_smoothing=0.05"])


@pytest.fixture
def folder(made, tmp_path):
    """A copy of the sweep's folder and its configs; configs keep their paths' names."""
    shutil.copytree(made[0], tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def forked():
    """A monkeypatch that stays when the test undoes its other one."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def files(folder, name):
    return {path: path.stat().st_mtime_ns for path in (folder / "out" / name).rglob("*") if path.is_file()}


def test_a_failing_search_does_not_stop_the_others(made):
    folder, sweep = made
    assert [(o.search.name, o.status) for o in sweep.outcomes] == [
        ("small-seed5", "finished"), ("broken-seed5", "failed"), ("large-seed5", "finished"),
    ]  # fmt: skip
    assert sweep.exit_status == 1
    small, broken, large = sweep.outcomes
    assert "search.batch_size: got 64, but the training part of the data has 16 images" in broken.error
    assert "\n" not in broken.error
    assert broken.result is None
    assert small.result == load_result(folder / "out" / "small-seed5")
    assert small.result.seed == large.result.seed == 5
    assert small.result.limits[0].bound < large.result.limits[0].bound
    assert "label_smoothing: 0.05" in (folder / "out" / "small-seed5" / "config.yaml").read_text()
    assert "error: " in (folder / "out" / "broken-seed5.log").read_text()


def test_the_files_of_a_sweep_hold_every_search(made):
    folder, sweep = made
    record = json.loads((folder / "out" / "sweep.json").read_text())
    assert record["format"] == "proxylessnas/sweep@1"
    for row, outcome in zip(record["searches"], sweep.outcomes, strict=True):
        assert (row["name"], row["status"], row["error"]) == (outcome.search.name, outcome.status, outcome.error)
        assert row["seconds"] == outcome.seconds > 0
        assert row["result"] == (outcome.result.model_dump(mode="json") if outcome.result else None)
    lines = (folder / "out" / "sweep.md").read_text().splitlines()
    assert len(lines) == 5
    assert len({line.count(" | ") for line in lines}) == 1
    assert lines[2].startswith("| small-seed5 | finished | at ")
    assert f"{sweep.outcomes[0].result.top1:.2f}" in lines[2]
    assert (folder / "out" / "sweep.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_resume_skips_what_has_ended_and_begins_what_has_failed(folder, door, environment, forked):
    forked.setattr(engine.children.subprocess, "Popen", Child)
    configs = [folder / f"{name}.yaml" for name in ("small", "broken", "large")]
    corrected = yaml.safe_load(configs[1].read_text())
    corrected["search"]["batch_size"] = 4
    configs[1].write_text(yaml.safe_dump(corrected))
    ended_ones = {name: files(folder, name) for name in ("small-seed5", "large-seed5")}
    earlier = {r["name"]: r["seconds"] for r in json.loads((folder / "out" / "sweep.json").read_text())["searches"]}
    arguments = (*configs, "--out", folder / "out", "search.label_smoothing=0.05", "--seeds", "5")
    again = door("run_sweep", *arguments)
    assert again.status == 2
    assert "small-seed5 holds a run already; continue the sweep with --resume" in again.err
    resumed = door("run_sweep", *arguments, "--resume")
    assert resumed.status == 0, resumed.err
    assert {name: files(folder, name) for name in ended_ones} == ended_ones
    rows = {r["name"]: r for r in json.loads((folder / "out" / "sweep.json").read_text())["searches"]}
    assert {r["status"] for r in rows.values()} == {"finished"}
    assert rows["small-seed5"]["seconds"] == earlier["small-seed5"]
    assert rows["broken-seed5"]["seconds"] > earlier["broken-seed5"]
    assert rows["broken-seed5"]["result"]["steps"] == 4


def test_a_resume_with_another_setting_is_refused_before_anything_starts(folder):
    configs = [folder / f"{name}.yaml" for name in ("small", "large")]
    with pytest.raises(ConfigError, match=r"search\.lr: \(absent\) -> 0\.5"):
        run_sweep(
            configs, folder / "out", seeds=[5], resume=True, overrides=["search.label_smoothing=0.05", "search.lr=0.5"]
        )


def test_a_folder_in_which_a_sweep_works_is_refused(folder, door):
    config = folder / "small.yaml"
    arguments = (config, "search.label_smoothing=0.05", "--out", folder / "out", "--seeds", "5", "--resume")
    before = files(folder, "")
    with locked(folder / "out"):
        ended = door("run_sweep", *arguments)
    assert ended.status == 2
    assert f"error: --out {folder / 'out'}: process {os.getpid()} on " in ended.err
    assert {path: t for path, t in files(folder, "").items() if path.name != ".lock"} == {
        path: t for path, t in before.items() if path.name != ".lock"
    }


def test_an_interrupted_and_resumed_sweep_ends_like_an_uninterrupted_one(
    tmp_path, tiny_search, door, environment, monkeypatch, forked
):
    config = tiny_search | {"limits": [{"metric": "macs", "at": "50%"}]}
    config["search"] = config["search"] | {"epochs": 15, "regression": {"samples": 2, "final_steps": 2}}
    config["run"] = config["run"] | {"checkpoint_every": 1000, "evaluate_every": 1000}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(config))
    out = tmp_path / "out"
    sweep, curves = ("run_sweep", tmp_path / "a.yaml", "--out", out, "--seeds", "0", "1"), out / "a-seed0/metrics.jsonl"

    def look(_pause):
        """Sends SIGTERM to this process, the sweep's, as soon as the first search has made 5 steps."""
        time.sleep(0.01)
        if curves.exists() and '"step": 5,' in curves.read_text():
            monkeypatch.undo()
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("engine.queue.time", SimpleNamespace(sleep=look))
    forked.setattr(engine.children.subprocess, "Popen", Child)
    interrupted = door(*sweep)
    assert interrupted.status == 143, interrupted.err
    assert "interrupted; continue with --resume" in interrupted.out
    assert "is saved; continue with --resume" in (out / "a-seed0.log").read_text()
    rows = json.loads((out / "sweep.json").read_text())["searches"]
    assert [row["status"] for row in rows] == ["interrupted", "waiting"]
    steps = len(curves.read_text().splitlines())
    time.sleep(0.5)
    assert len(curves.read_text().splitlines()) == steps  # nobody writes any more
    resumed = door(*sweep, "--resume")
    assert resumed.status == 0, resumed.err
    again = [load_result(out / name) for name in ("a-seed0", "a-seed1")]
    assert [r.steps for r in again] == [60, 60]
    assert 0 < again[0].resumed_at < 60 == again[0].steps
    assert again[1].resumed_at == 0
    run_search(tmp_path / "a.yaml", tmp_path / "whole", overrides=["run.seed=0"])
    own = {"architecture": "", "seconds": 0.0, "resumed_at": 0}  # its folder's name and its time
    assert again[0].model_copy(update=own) == load_result(tmp_path / "whole").model_copy(update=own)


# --- the plan --------------------------------------------------------------------------------------------------------


@pytest.fixture
def configs(tmp_path):
    for path, device in (("x/cpu.yaml", "cpu"), ("y/cpu.yaml", "cpu"), ("gpu.yaml", "cuda"), ("bad.yaml", "[")):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(f"run: {{device: {device}}}\n")
    return tmp_path


def test_every_config_with_every_seed_has_its_folder_log_and_kind(configs):
    paths = [configs / "gpu.yaml", configs / "x" / "cpu.yaml", configs / "bad.yaml"]
    searches = plan_sweep(paths, configs / "out", seeds=[0, 7], overrides=["search.epochs=1"])
    assert [(s.name, s.kind) for s in searches] == [
        ("gpu-seed0", "cuda"), ("gpu-seed7", "cuda"), ("cpu-seed0", "cpu"), ("cpu-seed7", "cpu"),
        ("bad-seed0", "cpu"), ("bad-seed7", "cpu"),
    ]  # fmt: skip
    assert searches[1].overrides == ("search.epochs=1", "run.seed=7")
    assert len({s.folder for s in searches} | {s.log for s in searches}) == 12
    (own,) = plan_sweep([configs / "gpu.yaml"], configs / "out", overrides=["run.device=cpu", "run.seed=3"])
    assert (own.name, own.kind, own.overrides) == ("gpu", "cpu", ("run.device=cpu", "run.seed=3"))


def test_a_sweep_that_cannot_run_is_refused(configs):
    out = configs / "out"

    def refused(*paths, **settings):
        with pytest.raises(ConfigError) as error:
            run_sweep([configs / path for path in paths], out, **settings)
        assert not out.exists()
        return str(error.value)

    shared = refused("x/cpu.yaml", "y/cpu.yaml")
    assert shared == (
        f"configs: {configs / 'x/cpu.yaml'} and {configs / 'y/cpu.yaml'} would share the folder {out / 'cpu'}; rename "
        "one"
    )
    assert "--seeds: 1 is given twice" in refused("gpu.yaml", seeds=[1, 0, 1])
    assert "give one of the two" in refused("gpu.yaml", seeds=[1], overrides=["run.seed=2"])
    assert refused("none.yaml").startswith(f"{configs / 'none.yaml'}: no such file")


def test_a_search_on_a_gpu_can_use_that_gpu_alone_and_the_cores_are_shared(configs, monkeypatch):
    """Four searches, two GPUs, no process: the environment that each would have had."""
    seen = []

    class Ended:
        pid = -1

        def poll(self):
            return 2

    def popen(command, *, env, **_):
        seen.append((command, env["CUDA_VISIBLE_DEVICES"], env["OMP_NUM_THREADS"]))
        return Ended()

    monkeypatch.setattr(engine.children.subprocess, "Popen", popen)
    monkeypatch.setattr(engine.children, "gpu_slots", lambda *_: [Slot("cuda", "GPU-a"), Slot("cuda", "GPU-b")])
    monkeypatch.setattr(engine.children, "worker_count", lambda _: 9)
    sweep = run_sweep([configs / "gpu.yaml"], configs / "out", seeds=[0, 1, 2, 3])
    assert {gpu for _, gpu, _ in seen} == {"GPU-a", "GPU-b"}
    assert {threads for _, _, threads in seen} == {"4"}
    assert [command[-1] for command, _, _ in seen] == [f"run.seed={seed}" for seed in range(4)]
    assert not any("--resume" in command for command, _, _ in seen)
    assert {command[command.index("--parent") + 1] for command, _, _ in seen} == {str(os.getpid())}
    assert [o.error for o in sweep.outcomes] == [
        f"exit status 2, no message: see {o.search.log}" for o in sweep.outcomes
    ]


@pytest.mark.skipif("torch" in sys.modules and sys.modules["torch"].cuda.is_available(), reason="the GPU would be used")
def test_without_a_gpu_a_sweep_with_a_search_that_needs_one_is_refused_before_any_search_starts(configs, monkeypatch):
    monkeypatch.setattr(engine.children.subprocess, "Popen", None)  # nothing can start
    with pytest.raises(ConfigError) as error:
        run_sweep([configs / "x" / "cpu.yaml", configs / "gpu.yaml"], configs / "out")
    assert str(error.value) == (
        f"{configs / 'gpu.yaml'}: run.device: got 'cuda', but torch finds no CUDA device; set run.device=cpu, and "
        "run.amp=none, which is faster there"
    )
    assert not (configs / "out" / "sweep.json").exists()


# --- the summary -----------------------------------------------------------------------------------------------------


def outcome_of(space, tmp_path, name, top1, *, measured_ms=None, table="t/cpu.yaml", met=True):
    """A search that has ended with made-up figures: predicted 8 of at 9 ms."""
    paths = tuple(0 for _ in space.searchable)
    measured = MeasuredDerivation(Derivation(paths, -1.0))
    result = result_of(
        Architecture(space, paths, name), Alpha.of_space(space), measured, Evaluation(1.0, top1, 90.0, 8),
        notes=(), seed=0, steps=1, seconds=5.0, resumed_at=0,
    )  # fmt: skip
    timing = None
    if measured_ms:
        timing = MeasuredFigures(
            median_ms=measured_ms, noise_ms=0.25, drift=1.0, believed=True, confirmation_ms=9.9, confirmation_noise_ms=1
        )
    limit = LimitFigures(
        name="latency", metric="latency", unit="ms", at=9.0, predicted=8.0, expected=8.5, table=table, measured=timing
    )
    status = "finished" if met else "missed"
    search_ = SweptSearch(name, tmp_path / f"{name}.yaml", (), tmp_path)
    return Outcome(search_, status, 61.4, None, result.model_copy(update={"limits": (limit,), "met": met}))


def test_rows_and_exit_status(space, tmp_path):
    timed = outcome_of(space, tmp_path, "timed", 91.234, measured_ms=8.25, met=False)
    expected = ["timed", "missed", "at 9 ms", "8.5 ms", "8 ms", "8.25 ± 0.25 ms", "91.23", "61", ""]
    assert row_of(timed) == expected
    good = outcome_of(space, tmp_path, "good", 90.0)
    failed = Outcome(good.search, "failed", 1.0, "a | b")
    assert row_of(failed) == ["good", "failed", "", "", "", "", "", "1", "a | b"]
    assert Sweep((good,)).exit_status == 0
    assert Sweep((good, timed)).exit_status == 3
    assert Sweep((good, timed, failed)).exit_status == 1
    assert Sweep((good, failed), signal.SIGINT).exit_status == 130
    assert Sweep((good, failed), signal.SIGTERM).exit_status == 143
    write_sweep(tmp_path, [failed])
    assert "a \\| b" in (tmp_path / "sweep.md").read_text()
    assert not (tmp_path / "sweep.png").exists()  # nothing to draw


def test_only_comparable_searches_share_a_panel(space, tmp_path):
    cpu = [outcome_of(space, tmp_path, f"c{i}", 90.0 + i, measured_ms=7.0 + i) for i in range(2)]
    gpu = outcome_of(space, tmp_path, "g", 80.0, table="t/gpu.yaml")
    panels = panels_of([*cpu, gpu])
    assert [panel.title for panel in panels] == ["cpu", "gpu"]
    assert [panel.cost for panel in panels] == ["measured latency [ms]", "predicted latency [ms]"]
    assert [(p.label, p.cost, p.top1) for p in panels[0].points] == [("c0", 7.0, 90.0), ("c1", 8.0, 91.0)]
    mixed = panels_of([*cpu, outcome_of(space, tmp_path, "untimed", 92.0)])
    assert [p.cost for p in mixed[0].points] == [8.0] * 3  # where one was not timed, all are predicted


@pytest.mark.parametrize(
    ("error", "status", "interrupted", "expected"),
    [
        (ConfigError("the key", remedy="fix it"), 2, False, ("failed", "the key; fix it")),
        (RuntimeError("boom"), 1, False, ("failed", "RuntimeError: boom")),
        (None, -9, False, ("failed", "killed by signal 9 (SIGKILL)")),
        (None, -9, True, ("interrupted", None)),
        (None, 130, True, ("interrupted", None)),
        (None, 143, False, ("interrupted", None)),
        (ConfigError("the key"), 2, True, ("failed", "the key")),
    ],
)
def test_the_status_of_a_process_gives_its_outcome(tmp_path, error, status, interrupted, expected):
    one = SweptSearch("a", tmp_path / "a.yaml", (), tmp_path)
    one.log.write_text("error: of an earlier attempt\n")
    if error:
        write_error(one.error_file, error)
    outcome = ending_of(one, status, interrupted, 1.0, lambda _: False)
    assert (outcome.status, outcome.error) == expected


@pytest.mark.parametrize(
    ("met", "status", "code"), [(True, "finished", 0), (False, "missed", 3), (None, "unsettled", 3)]
)
def test_the_result_of_a_search_gives_its_outcome(space, tmp_path, met, status, code):
    """null in result.json: the network was timed, and the timing proves nothing."""
    made_up = outcome_of(space, tmp_path, "a", 90.0)
    made_up.search.folder.mkdir()
    text = made_up.result.model_copy(update={"met": met}).model_dump_json()
    (made_up.search.folder / "result.json").write_text(text)
    made_up.search.log.write_text("")
    outcome = search.many.sweep._outcome(made_up.search, ending_of(made_up.search, code, False, 1.0, lambda _: True))
    assert (outcome.status, outcome.error) == (status, None)
    assert Sweep((outcome,)).exit_status == code


def test_searches_that_disturb_each_others_timings_are_named_once(tmp_path, caplog):
    (tmp_path / "a.yaml").write_text("limits: [{metric: latency, table: t.yaml, at: 50%}]\n")
    (tmp_path / "b.yaml").write_text("limits: [{metric: latency, table: t.yaml, at: 50%}]\nmeasure: {device: external}")
    (tmp_path / "c.yaml").write_text("limits: [{metric: latency, table: t, at: 50%, measure: {device: external}}]")
    a, b, c = (SweptSearch(name, tmp_path / f"{name}.yaml", (), tmp_path) for name in "abc")
    search.many.sweep._warn_of_disturbed_timings([a, b], 1)
    search.many.sweep._warn_of_disturbed_timings([b, b], 2)
    search.many.sweep._warn_of_disturbed_timings([c, c], 2)
    assert caplog.text == ""
    search.many.sweep._warn_of_disturbed_timings([a, a, b], 2)
    (record,) = caplog.records
    assert "2 searches at once share this CPU" in record.message
    assert os.linesep not in record.message


def test_an_override_after_the_seeds_is_refused_with_its_right_place(door):
    ended = door("run_sweep", "a.yaml", "--out", "sweep", "--seeds", "0", "1", "search.epochs=2")
    assert ended.status == 2
    assert "got 'search.epochs=2', expected a whole number; write key=value before --seeds" in ended.err


def test_settings_that_come_from_no_file_are_written_beside_the_searches(tiny_search, tmp_path):
    """A dictionary and a file, side by side; the search itself reads the file that was written."""
    config = tiny_search | {"limits": [{"metric": "macs", "at": "50%"}]}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(config))
    files = as_files([tmp_path / "a.yaml", config], tmp_path / "out")
    assert files == [tmp_path / "a.yaml", tmp_path / "out" / "search1.yaml"]
    assert SearchConfig.read(files[1]) == SearchConfig.read(files[0])
    with pytest.raises(ConfigError, match=r"^the config: search\.epocs"):
        as_files([config | {"search": {"epocs": 3}}], tmp_path / "out")
