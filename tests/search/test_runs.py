"""Tests whole searches through the real script: killed and resumed, watched, derived from."""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console

from engine.errors import CheckpointError, ConfigError, Interrupted, UserError
from engine.runs.checkpoints import Checkpoints
from engine.runs.lock import locked
from search.loop import finish_search, run_search
from search.many.family import derive_family
from search.program import UnfinishedError
from search.result import load_result
from supernet.architecture import Architecture
from supernet.space import Space
from tests.curves import curves_in
from tests.engine.image_folder import write_images
from tests.processes import Python, torchrun
from tests.search.conftest import tiny_config

ROOT = Path(__file__).resolve().parents[2]
DOOR = ROOT / "scripts" / "run_search.py"


def search_of(space):
    """6 warm-up steps and 18 more on 80 made-up images, then 3 architecture steps."""
    return {
        "space": space,
        "data": {"name": "fake", "fake_images": 80, "fake_classes": 4, "validation": 0.4},
        "limits": [{"metric": "macs", "at": "50%", "tolerance": 0.2}],  # random networks meet it, too
        "search": {
            "warmup_epochs": 1,
            "epochs": 3,
            "batch_size": 8,
            "arch_every": 2,
            "arch_lr": 0.05,
            "bn_batches": 2,
            "regression": {"samples": 4, "final_steps": 3},
        },
        "run": {"seed": 3, "threads": 1, "log_every": 1, "checkpoint_every": 3},
    }


def updated_by(mode):
    """Overrides: another `arch_update`, which refuses the settings of the regression."""
    return [f"search.arch_update={mode}", "search.regression=null"]


@pytest.fixture
def config_file(tmp_path, make_tiny_config):
    """A search of 24 steps; dropout uses torch's global generator."""
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump(search_of(make_tiny_config(dropout=0.2))))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(config, folder) of a search that has ended."""
    folder = tmp_path_factory.mktemp("finished")
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump(search_of(tiny_config(dropout=0.2))))
    run_search(path, folder / "run")
    return path, folder / "run"


def final_state(run):
    newest = Checkpoints(run / "checkpoints").newest()
    assert newest is not None
    return newest


def flattened(state, prefix=""):
    """Every leaf of a nested checkpoint by its path, but the time it took."""
    items = state.items() if isinstance(state, dict) else enumerate(state)
    leaves = {}
    for key, value in items:
        name = f"{prefix}/{key}"
        if name == "/seconds":
            continue
        leaves |= flattened(value, name) if isinstance(value, dict | list | tuple) else {name: value}
    return leaves


def assert_identical(a, b):
    a, b = flattened(a), flattened(b)
    assert a.keys() == b.keys()
    for name, value in a.items():
        same = torch.equal(value, b[name]) if isinstance(value, torch.Tensor) else value == b[name]
        assert same, name


def metrics(run):
    """Every record but the speed, which no two processes share."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{tag: value for tag, value in record.items() if not tag.startswith("speed/")} for record in records]


def run_until_killed(config_file, out, step, *arguments):
    """Start the real process and SIGKILL it once metrics.jsonl shows `step`."""
    status, errors = run_until_signalled(config_file, out, step, signal.SIGKILL, *arguments)
    assert status == -signal.SIGKILL, errors


def run_until_signalled(config_file, out, step, number, *arguments):
    """(exit status, stderr) of the real process that gets a signal once metrics.jsonl shows `step`."""
    process = Python(DOOR, config_file, "--out", out, *arguments)
    wait_for(step, out, process)
    if process.poll() is None:
        process.send_signal(number)
    _, errors = process.communicate()
    return process.returncode, errors


def wait_for(step, out, process):
    """Returns once metrics.jsonl shows `step`, if the process has ended, or after five minutes."""
    log, deadline = out / "metrics.jsonl", time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if log.exists() and f'"step": {step},' in log.read_text():
            break
        time.sleep(0.005)


def test_interrupted_at_any_step_and_resumed_equals_uninterrupted(config_file, tmp_path, caplog):
    """Only the interrupts save checkpoints before the end."""
    overrides = ["run.checkpoint_every=1000", "run.evaluate_every=1000", "run.log_every=1"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_search(config_file, whole, overrides=overrides)
    reached = 0
    for step, number, status in ((2, signal.SIGINT, 130), (9, signal.SIGTERM, 143)):
        resume = ["--resume"] if reached else []
        ended, errors = run_until_signalled(config_file, broken, step, number, *resume, *overrides)
        assert ended == status, errors
        saved = final_state(broken)[0]
        assert saved >= step > reached
        assert errors.splitlines()[-1] == f"interrupted; step {saved} of 24 is saved; continue with --resume"
        if reached:
            assert f"{broken}: resuming at step {reached} of 24" in errors
        reached = saved
    with caplog.at_level(logging.INFO):
        run_search(config_file, broken, resume=True, overrides=overrides)
    assert f"{broken}: resuming at step {reached} of 24" in caplog.messages
    assert_identical(final_state(whole)[1], final_state(broken)[1])
    assert metrics(whole) == metrics(broken)


def signalled_after(monkeypatch, due):
    """SIGTERM comes to this process within each step for which `due(search)` holds."""
    import search.loop as loop

    step, update = loop.Search.step, loop.ArchitectureUpdate.step

    def weights(self, progress):
        step(self, progress)
        if due(self.state, False):
            signal.raise_signal(signal.SIGTERM)

    def architecture(self, state, batch, *, final=False):
        updated = update(self, state, batch, final=final)
        if final and due(state, True):
            signal.raise_signal(signal.SIGTERM)
        return updated

    monkeypatch.setattr(loop.Search, "step", weights)
    monkeypatch.setattr(loop.ArchitectureUpdate, "step", architecture)


def written_by(run):
    """The files that a search ends with, without the times."""
    result = json.loads((run / "result.json").read_text())
    return (run / "architecture.json").read_bytes(), {
        key: value for key, value in result.items() if key not in ("seconds", "resumed_at")
    }


@pytest.mark.parametrize(
    "overrides", [[], updated_by("two_path"), updated_by("reinforce")], ids=["regression", "two_path", "reinforce"]
)
def test_interrupted_after_every_step_equals_uninterrupted(config_file, tmp_path, monkeypatch, overrides):
    """12 steps, each by a process of its own; the architecture steps after them are broken off after each, too."""
    overrides = [*overrides, "search.epochs=1", "run.checkpoint_every=1000", "run.evaluate_every=1000"]
    whole, broken = tmp_path / "whole" / "run", tmp_path / "broken" / "run"
    run_search(config_file, whole, overrides=overrides)
    last = 0 if "search.regression=null" in overrides else 3
    left = [(False, step) for step in range(1, 13)] + [(True, step) for step in range(1, last + 1)]
    done = []

    def due(state, final):
        done.append(state.step if not final else 0)
        reached = (final, done.count(0) if final else state.step)
        if left and reached == left[0]:
            return bool(left.pop(0))
        return False

    signalled_after(monkeypatch, due)
    interrupts = 0
    while left:
        done.clear()
        before = len(left)
        with pytest.raises(Interrupted):
            run_search(config_file, broken, resume=interrupts > 0, overrides=overrides)
        assert len(left) == before - 1
        assert not (broken / "result.json").exists()
        interrupts += 1
    assert interrupts == 12 + last
    run_search(config_file, broken, resume=True, overrides=overrides)
    assert_identical(final_state(whole)[1], final_state(broken)[1])
    assert final_state(whole)[1]["search"]["final_steps"] == last
    assert metrics(whole) == metrics(broken)
    assert written_by(whole) == written_by(broken)


def test_an_ended_regression_does_nothing_again(finished, tmp_path, monkeypatch):
    import search.loop as loop

    config_file, run = finished
    out = tmp_path / "run"
    shutil.copytree(run, out)
    monkeypatch.setattr(loop.ArchitectureUpdate, "step", None)
    run_search(config_file, out, resume=True)
    assert_identical(final_state(run)[1], final_state(out)[1])
    assert written_by(run) == written_by(out)


def test_a_search_that_breaks_off_after_the_judgement_of_the_supernet_writes_it_once(
    config_file, tmp_path, monkeypatch
):
    """At the end of the warm-up, step 6, a checkpoint is written before the judgement."""
    import search.loop as loop

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_search(config_file, whole)
    with monkeypatch.context() as patch:
        real = loop.Search.step
        patch.setattr(
            loop.Search, "step", lambda self, progress: real(self, progress) if self.state.step < 8 else 1 / 0
        )
        with pytest.raises(ZeroDivisionError):
            run_search(config_file, broken)
    assert final_state(broken)[0] == 6
    run_search(config_file, broken, resume=True)
    ours, theirs = curves_in(broken).scalars, curves_in(whole).scalars
    assert ours["judge/reliability"] == theirs["judge/reliability"]
    assert metrics(broken) == metrics(whole)


def test_weights_of_a_regression_do_not_depend_on_the_limit(config_file, tmp_path):
    """Nor on alpha, then: one supernet serves every limit."""
    few, many = tmp_path / "few", tmp_path / "many"
    for out, bound in ((few, "30%"), (many, "70%")):
        run_search(config_file, out, overrides=[f"limits.0.at={bound}"])
    ours, theirs = (final_state(out)[1]["search"] for out in (few, many))
    assert_identical(ours["net"], theirs["net"])
    assert_identical(ours["optimizer"], theirs["optimizer"])
    assert not torch.equal(ours["alpha"], theirs["alpha"])


@pytest.mark.parametrize("overrides", [[], updated_by("two_path")], ids=["regression", "two_path"])
def test_the_expected_cost_is_the_bound_from_the_first_step_after_the_warm_up(config_file, tmp_path, overrides):
    run_search(config_file, tmp_path / "run", overrides=overrides)
    points = {record["step"]: record for record in metrics(tmp_path / "run") if "expected/macs" in record}
    assert sorted(points) == list(range(1, 25 if overrides else 26))  # one more after the final steps
    for step, point in points.items():
        near = point["expected/macs"] == pytest.approx(point["target/macs"], rel=1e-6)
        assert near == (step > 6), step
        assert (point["pressure/macs"] == 0) == (step <= 6)
    result = load_result(tmp_path / "run")
    assert result.limits[0].expected == pytest.approx(result.limits[0].bound, rel=1e-6)


def test_the_judgement_is_written_and_shown(config_file, tmp_path, door, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    ended = door("run_search", config_file, "--out", tmp_path / "run")
    assert ended.status == 0, ended.err
    j = json.loads((tmp_path / "run" / "result.json").read_text())["judgement"]
    assert j["images"] == 32
    assert 2 <= j["networks"] <= 20
    assert 1 <= j["rank"] <= j["networks"] + 1
    assert all(-1 <= j[key] <= 1 for key in ("tau", "reliability"))
    (rank,) = (line for line in ended.out.splitlines() if "rank by the supernet's loss" in line)
    assert f"{j['rank']} of {j['networks'] + 1}" in rank
    (tau,) = (line for line in ended.out.splitlines() if "alpha's rank correlation" in line)
    assert f"{j['tau']:.2f} ± {j['error']:.2f}" in tau
    assert f"the supernet's own: {j['reliability']:.2f}" in tau
    run = tmp_path / "run"
    retrain = f"proxyless-nas retrain CONFIG --architecture {run} --out FOLDER"
    assert ended.out.splitlines()[-1] == f"written: {run / 'architecture.json'}; to train it: {retrain}"
    curves = curves_in(tmp_path / "run").scalars
    assert [step for step, _ in curves["judge/reliability"]] == [6]  # the end of the warm-up


def test_a_signal_to_all_processes_of_a_group_lets_those_that_read_data_finish_the_step(config_file, tmp_path, shell):
    """`timeout`, systemd and Slurm send signals to all processes at once."""
    root, out = write_images(tmp_path / "images", 40), tmp_path / "out"
    overrides = [
        f"data={{name: folder, root: {root}, validation: 0.4, workers: 1}}", "space.classes=2", "search.epochs=200",
        "run.checkpoint_every=1000", "run.evaluate_every=1000",
    ]  # fmt: skip
    process = Python(DOOR, config_file, "--out", out, *overrides, env=shell)
    wait_for(9, out, process)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 143, errors
    assert f"interrupted; step {final_state(out)[0]} of " in errors


def test_each_evaluation_is_saved(config_file, tmp_path):
    run_search(config_file, tmp_path / "run", overrides=["run.checkpoint_every=1000", "run.evaluate_every=1"])
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps() == [24, 18]  # the last two of 6, 12, 18, 24


def test_a_folder_in_which_a_process_works_is_refused(config_file, tmp_path, door):
    out = tmp_path / "run"
    run_search(config_file, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != ".lock"}
    with locked(out):
        ended = door("run_search", config_file, "--out", out, "--resume")
        with pytest.raises(ConfigError, match=f"--out {out}: process {os.getpid()} on .* works in this folder"):
            run_search(config_file, out, resume=True)
    assert ended.status == 2
    (line,) = (line for line in ended.err.splitlines() if line.startswith("error: "))
    assert "works in this folder; wait until it has ended, or stop it, then use --resume" in line
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != ".lock"}
    run_search(config_file, out, resume=True)  # the lock goes with its holder


def test_a_resume_with_other_images_is_refused(config_file, tmp_path):
    root, out = tmp_path / "images", tmp_path / "run"
    write_images(root, 24, parts=("train",))
    write_images(root, 2, parts=("test",))
    data = f"data={{name: folder, root: {root}, validation: 0.4, workers: 0}}"
    overrides = [data, "space.classes=2", "search.epochs=1"]
    run_search(config_file, out, overrides=overrides)
    shutil.rmtree(root / "test")  # a search never reads it
    write_images(root, 3, parts=("test",))
    run_search(config_file, out, resume=True, overrides=overrides)
    (image,) = root.glob("train/class0/003.*")
    content = image.read_bytes()
    image.write_bytes(content + b"more")
    with pytest.raises(ConfigError, match=r"image is of another size \('train/class0/003.png'\) since the run in"):
        run_search(config_file, out, resume=True, overrides=overrides)
    image.unlink()
    # and nothing of the images that change parts, since the split is one of fewer images
    match = r"--resume: 1 (training|validation) image is missing \('train/class0/003.png'\) since"
    with pytest.raises(ConfigError, match=match):
        run_search(config_file, out, resume=True, overrides=overrides)
    image.write_bytes(content)
    run_search(config_file, out, resume=True, overrides=overrides)


OWN_DATA = """
import numpy as np
from engine.data import Arrays, OwnSet

def noise(root):
    pixels = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 1), dtype=np.uint8)
    labels = np.arange(80) % 4
    return OwnSet(Arrays(pixels, labels), Arrays(pixels, labels), ("a", "b", "c", "d"), flip=False)
"""


def test_a_resume_with_edited_own_files_is_refused(config_file, tmp_path):
    out, data, objective = tmp_path / "run", tmp_path / "own_data.py", tmp_path / "own_terms.py"
    data.write_text(OWN_DATA)
    objective.write_text("def flat(p, space, progress):\n    return (p * 0).sum()\n")
    overrides = [
        f"data={{module: {data}, name: noise, validation: 0.4}}",
        f"search.terms=[{{function: {objective}:flat}}]",
        "search.epochs=1",
        *updated_by("two_path"),
    ]
    run_search(config_file, out, overrides=overrides)
    for path, key in ((data, "data.module"), (objective, "search.terms.function")):
        content = path.read_text()
        path.write_text(content + "# edited\n")
        with pytest.raises(ConfigError, match=f"own files: {key} {path} changed since the run in"):
            run_search(config_file, out, resume=True, overrides=overrides)
        path.write_text(content)
    run_search(config_file, out, resume=True, overrides=overrides)


def forged(out, change, *, name_step=None):
    """The newest checkpoint of a run, changed, under a name whose hash is right."""
    step, state = final_state(out)
    state = copy.deepcopy(state)
    change(state)
    folder = Checkpoints(out / "checkpoints")
    for path in folder._files():
        path.unlink()
    folder.save(name_step or step, state)


@pytest.mark.parametrize(
    ("change", "step", "says"),
    [
        (lambda c: None, 23, "its name says step 23, its state is of step 24"),
        (lambda c: c["search"].update(step=99), 99, "this search has 24 steps"),
        (lambda c: c["corrupt"].update(training=[48]), None, "corrupt file 48 is not an index of a set of 48 images"),
        (lambda c: c["corrupt"].update(validation=[-1]), None, "corrupt file -1 is not an index"),
        (lambda c: c["corrupt"].update(validation=7), None, "corrupt.validation"),
        (lambda c: c.update(corrupt=[]), None, "corrupt"),
        (lambda c: c.update(seconds=-1.0), None, "seconds"),
        (lambda c: c.pop("search"), None, "its state is a value of type NoneType"),
        (lambda c: c["space"]["stages"][0].update(width=16), None, "is of a supernet .*: space.stages.0.width: 16"),
        (lambda c: c["search"]["net"].pop("stem.conv.weight"), None, "it lacks stem.conv.weight"),
    ],
    ids=["name", "beyond", "unreadable", "negative", "number", "list", "seconds", "foreign", "network", "weights"],
)  # fmt: skip
def test_a_forged_or_foreign_checkpoint_is_one_line(finished, tmp_path, change, step, says):
    config_file, run = finished
    out = tmp_path / "run"
    shutil.copytree(run, out)
    forged(out, change, name_step=step)
    with pytest.raises(CheckpointError, match=says) as error:
        run_search(config_file, out, resume=True)
    assert str(error.value).startswith(f"{out / 'checkpoints'}, step {step or 24}: ")
    assert "\n" not in str(error.value)


def test_a_checkpoint_without_a_description_still_resumes(finished, tmp_path):
    """Checkpoints of earlier versions have none."""
    config_file, run = finished
    out = tmp_path / "run"
    shutil.copytree(run, out)
    forged(out, lambda c: [c.pop(key) for key in ("format", "network", "space")])
    assert run_search(config_file, out, resume=True).architecture.paths


def test_weights_ruined_by_the_update_before_a_checkpoint_are_not_saved(config_file, tmp_path, monkeypatch):
    """The loss of the step, which was computed before its update, is still finite."""
    import search.loop as loop

    real, seen = loop.weights_step, []

    def ruining(net, *rest):
        returned = real(net, *rest)
        seen.append(1)
        if len(seen) == 9:
            with torch.no_grad():
                net.stem.conv.weight[0] = float("inf")
        return returned

    monkeypatch.setattr(loop, "weights_step", ruining)
    with pytest.raises(UserError) as error:
        run_search(config_file, tmp_path / "run", overrides=["search.arch_every=2"])
    assert str(error.value).startswith("search.net.stem.conv.weight is not finite at step 9: training has diverged")
    assert "the checkpoint of step 6 is good" in str(error.value)
    assert final_state(tmp_path / "run")[0] == 6


@pytest.mark.parametrize(
    "overrides", [[], updated_by("two_path"), updated_by("reinforce")], ids=["regression", "two_path", "reinforce"]
)
def test_killed_at_several_steps_and_resumed_equals_uninterrupted(config_file, tmp_path, overrides):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_search(config_file, whole, overrides=overrides)
    run_until_killed(config_file, broken, 2, *overrides)  # before the first checkpoint
    run_until_killed(config_file, broken, 8, "--resume", *overrides)
    run_until_killed(config_file, broken, 17, "--resume", *overrides)
    run_search(config_file, broken, resume=True, overrides=overrides)
    (step, expected), (resumed_step, resumed) = final_state(whole), final_state(broken)
    assert step == resumed_step == 24
    assert_identical(expected, resumed)
    assert metrics(whole) == metrics(broken)
    paths = [json.loads((run / "architecture.json").read_text())["paths"] for run in (whole, broken)]
    assert paths[0] == paths[1]
    unbroken, curves = curves_in(whole), curves_in(broken)
    assert [step for step, _ in curves.scalars["train/loss"]] == list(range(1, 25))
    assert curves.points.keys() == unbroken.points.keys()
    for tag in curves.points:  # each once: scalars, texts, pictures, distributions, the row of HPARAMS
        assert [step for step, _ in curves.points[tag]] == [step for step, _ in unbroken.points[tag]], tag
    assert len(curves.graphs) == 1


def test_killed_between_two_points_of_the_curves_and_resumed_equals_uninterrupted(config_file, tmp_path):
    """The point after the resume averages over steps before it."""
    overrides = ["run.log_every=5", "run.checkpoint_every=3", "search.arch_every=1", *updated_by("two_path")]
    overrides += ["search.loss.form=add_linear"]  # where limits have a gradient, its norm is averaged
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_search(config_file, whole, overrides=overrides)
    run_until_killed(config_file, broken, 10, *overrides)  # at 9 or 12
    run_search(config_file, broken, resume=True, overrides=overrides)
    assert_identical(final_state(whole)[1], final_state(broken)[1])
    assert metrics(whole) == metrics(broken)
    assert any("arch/ce_over_limits" in record for record in metrics(whole))


def test_a_search_is_finished_whatever_its_folder_holds(config_file, tmp_path):
    overrides = updated_by("two_path")
    out, broken = tmp_path / "out", tmp_path / "broken"
    result = finish_search(config_file, out, overrides=overrides)
    assert result == load_result(out)
    files = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert finish_search(config_file, out, overrides=overrides) == result
    assert files == {path: path.stat().st_mtime_ns for path in out.rglob("*")}  # nothing was run again
    with pytest.raises(ConfigError, match="arch_lr"):
        finish_search(config_file, out, overrides=[*overrides, "search.arch_lr=0.5"])
    run_until_killed(config_file, broken, 17, *overrides)
    earlier = final_state(broken)[1]["seconds"]
    continued = finish_search(config_file, broken, overrides=overrides)
    assert_identical(final_state(out)[1], final_state(broken)[1])
    assert (result.resumed_at, continued.resumed_at) == (0, 15)
    assert continued.seconds > final_state(broken)[1]["seconds"] > earlier > 0  # the killed process counts, too


def test_how_often_one_evaluates_never_changes_the_run(config_file, tmp_path):
    often, never = tmp_path / "often", tmp_path / "never"
    run_search(config_file, often, overrides=["run.evaluate_every=1"])
    run_search(config_file, never, overrides=["run.evaluate_every=100"])
    assert_identical(final_state(often)[1], final_state(never)[1])


def test_curves_begin_with_the_first_step(config_file, tmp_path):
    run_search(config_file, tmp_path / "run")
    curves = curves_in(tmp_path / "run").scalars
    first = {
        "train/loss", "train/top1", "lr/weights", "lr/arch", "arch/entropy", "expected/macs",
        "target/macs", "pressure/macs", "speed/images_per_second",
    }  # fmt: skip
    assert first <= set(curves)
    assert all(curves[tag][0][0] == 1 for tag in first)
    assert {"derived/top1", "derived/macs"} <= set(curves)
    assert not any("top5" in tag for tag in curves)  # of four classes
    assert list(curves_in(tmp_path / "run").of("images")) == ["arch/probabilities"]
    logged = {tag for record in metrics(tmp_path / "run") for tag in record} - {"step"}
    probabilities = {tag for tag in logged if tag.startswith("probability/")}  # TensorBoard has pictures of these
    assert {tag.split("/")[1] for tag in probabilities} == {"stage0.0", "stage0.1", "stage1.0", "stage1.1"}
    assert logged - probabilities == {tag for tag in curves if not tag.startswith(("speed/", "final/"))}


def test_alpha_stays_in_the_warm_up_and_moves_after_it(config_file, tmp_path):
    run_search(config_file, tmp_path / "run")
    entropies = {
        record["step"]: record["arch/entropy"] for record in metrics(tmp_path / "run") if "arch/entropy" in record
    }
    assert len({entropies[step] for step in range(1, 7)}) == 1  # 6 steps of warm-up
    assert entropies[24] != entropies[6]


def test_weights_and_alpha_learn_on_disjoint_stratified_parts(config_file, tmp_path, monkeypatch):
    """The stream of each kind of step is watched: the parts are disjoint and make up the training set."""
    import search.scoring as scoring

    seen = {}
    real = scoring.subset

    def watched(images, indices):
        seen[len(seen)] = [int(i) for i in indices]
        return real(images, indices)

    monkeypatch.setattr(scoring, "subset", watched)
    run_search(config_file, tmp_path / "run")
    training, validation = seen[0], seen[1]
    assert sorted(training + validation) == list(range(80))
    assert len(validation) == 32


@pytest.mark.parametrize("form", ["add_linear", "hinge", "mul_log", "projection"])
def test_every_loss_form_and_mode_searches(config_file, tmp_path, form):
    mode = {"add_linear": "full", "hinge": "full_v2", "mul_log": "two_path", "projection": "full_v2"}[form]
    result = run_search(config_file, tmp_path / "run", overrides=[f"search.loss.form={form}", *updated_by(mode)])
    limit = result.limits[0]
    assert limit.cost.of(result.architecture.paths) <= limit.bound


def test_a_family_is_derived_from_a_running_or_stopped_search(config_file, tmp_path):
    out = tmp_path / "run"
    run_until_killed(config_file, out, 15)
    members = derive_family(out, ["30%", "60 %"])
    for member, name in zip(members, ("architecture-30percent.json", "architecture-60percent.json"), strict=True):
        assert member.path.name == name
        loaded = Architecture.from_json(member.path.read_text())
        assert loaded.paths == member.architecture.paths
        assert member.limits[0].cost.of(loaded.paths) <= member.limits[0].bound
    (own,) = derive_family(out)
    assert own.path == out / "architecture.json"
    finish_search(config_file, out)
    written = (out / "architecture.json").read_bytes()
    (own,) = derive_family(out)
    assert own.path == out / "architecture-derived.json"
    assert (out / "architecture.json").read_bytes() == written


def test_a_search_reports_each_stage_after_its_last_step(config_file, tmp_path, monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr("engine.progress.console", Console(file=out, width=80, force_terminal=False))
    run_search(config_file, tmp_path / "run")
    lines = out.getvalue().splitlines()
    (last_step,) = (i for i, line in enumerate(lines) if line.startswith("search 24/24"))
    assert "left" not in lines[last_step]
    batches = 2 + 4  # of BN statistics, and of the 32 validation images
    assert [line.split("  ")[0] for line in lines[last_step + 1 :]] == [
        "deriving",
        "comparing random networks 0/4",
        "comparing random networks 4/4",
        f"scoring the derived network 0/{batches}",
        f"scoring the derived network {batches}/{batches}",
    ]


def test_an_evaluation_with_an_unfinished_derivation_causes_a_warning_and_the_search_goes_on(
    config_file, tmp_path, monkeypatch, caplog
):
    def unfinished(*args, **kwargs):
        raise UnfinishedError("in 60 s nothing was found")

    monkeypatch.setattr("search.loop.derive", unfinished)
    run_search(config_file, tmp_path / "run")
    assert "step 24: in 60 s nothing was found" in [record.message for record in caplog.records]
    assert not any(tag.startswith("derived/") for record in metrics(tmp_path / "run") for tag in record)
    assert load_result(tmp_path / "run") is not None


def drawn_for_the_weights(monkeypatch) -> list[list[tuple[int, ...]]]:
    """To be filled with the networks of each weights step."""
    import search.loop as loop

    drawn, real = [], loop.weights_step
    monkeypatch.setattr(loop, "weights_step", lambda *args: drawn.append(args[2]) or real(*args))
    return drawn


def is_balanced(block: list[tuple[int, ...]], space: Space) -> bool:
    """Whether five networks take each op of each edge twice and skip once; the edge without skip has two ops."""

    def of_edge(taken: tuple[int, ...], candidates: tuple[str, ...]) -> bool:
        names = sorted(candidates[i] for i in taken)
        if "skip" not in candidates:
            return 2 <= names.count(candidates[0]) <= 3
        return names == sorted([*2 * [name for name in candidates if name != "skip"], "skip"])

    chosen = zip(*block, strict=True)
    return all(of_edge(taken, edge.candidates) for taken, edge in zip(chosen, space.searchable, strict=True))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_weights_are_trained_on_balanced_paths_to_the_end(config_file, tmp_path, monkeypatch, space, count):
    """While alpha rests, and after it. In a block of 5 networks each op is taken twice and skip once."""
    drawn = drawn_for_the_weights(monkeypatch)
    run_search(config_file, tmp_path / "run", overrides=[f"search.paths_per_step={count}"])
    assert [len(networks) for networks in drawn] == [count] * 24
    networks = [paths for step in drawn for paths in step]
    blocks = [networks[i : i + 5] for i in range(0, len(networks) - 4, 5)]
    assert len({tuple(block) for block in blocks}) == len(blocks)
    assert all(is_balanced(block, space) for block in blocks)


def test_if_alpha_draws_the_paths_only_those_of_the_warm_up_are_balanced(config_file, tmp_path, monkeypatch, space):
    drawn = drawn_for_the_weights(monkeypatch)
    run_search(config_file, tmp_path / "run", overrides=updated_by("two_path"))
    networks = [paths for (paths,) in drawn]
    blocks = [networks[i : i + 5] for i in range(0, 20, 5)]
    assert is_balanced(blocks[0], space)  # of the 6 steps of the warm-up
    assert not all(is_balanced(block, space) for block in blocks[2:])


def test_alpha_learns_on_images_without_augmentation_and_scores_are_of_its_part(config_file, tmp_path, monkeypatch):
    import search.loop as loop
    import search.scoring as scoring

    streams, scored = [], []
    real_stream, real_batches = loop.BatchStream, scoring.evaluation_batches

    def stream(images, **settings):
        streams.append((len(images), settings.get("augment", True)))
        return real_stream(images, **settings)

    def batches(images, *args, **settings):
        scored.append(len(images))
        return real_batches(images, *args, **settings)

    monkeypatch.setattr(loop, "BatchStream", stream)
    monkeypatch.setattr(scoring, "evaluation_batches", batches)
    run_search(config_file, tmp_path / "run")
    assert streams == [(48, True), (32, False)]
    assert set(scored) == {32}


def test_a_diverged_training_stops_and_keeps_its_good_checkpoints(config_file, tmp_path, monkeypatch):
    import search.loop as loop

    real = loop.weights_step

    def diverging(net, images, labels, *rest):
        loss, logits = real(net, images, labels, *rest)
        return (loss * float("nan") if len(seen) == 8 else loss), seen.append(1) or logits

    seen = []
    monkeypatch.setattr(loop, "weights_step", diverging)
    with pytest.raises(UserError, match="loss is nan at step 9: training has diverged"):
        run_search(config_file, tmp_path / "run")
    assert final_state(tmp_path / "run")[0] == 6


def worker(process, rank):
    """The pid of a rank of this torchrun, which starts them in their order."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[rank])


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are found in /proc, which is Linux's")
def test_a_killed_process_ends_the_job_and_resumes_with_as_many_processes_or_one(
    config_file, tmp_path, shell, monkeypatch
):
    import search.loop as loop

    def start(out, *arguments):
        return torchrun(DOOR, config_file, "--out", out, *arguments, env=shell)

    whole, broken, fewer = (tmp_path / name for name in ("whole", "broken", "fewer"))
    process = start(whole)
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert out.count("derived network") == 1  # printed by one process

    process = start(broken)
    wait_for(8, broken, process)
    os.kill(worker(process, 1), signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    (line,) = (line for line in errors.splitlines() if line.startswith("error: "))
    assert "another process of this job has ended" in line
    assert "--resume" in line
    shutil.copytree(broken, fewer)

    process = start(broken, "--resume")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert_identical(final_state(whole)[1], final_state(broken)[1])
    assert metrics(whole) == metrics(broken)

    begun = []
    real = loop.Search.run
    monkeypatch.setattr(loop.Search, "run", lambda self: begun.append((self.state.step, self.training.position,
        self.validation.position, self.state.alpha.values.clone())) or real(self))  # fmt: skip
    step, checkpoint = final_state(fewer)
    run_search(config_file, fewer, resume=True)
    assert step in (6, 9)
    ((*positions, alpha),) = begun
    assert positions == [step, step, checkpoint["search"]["arch_steps"]]
    assert torch.equal(alpha, checkpoint["search"]["alpha"])
    assert final_state(fewer)[0] == 24
    before = [record for record in metrics(whole) if record["step"] <= step]
    assert metrics(fewer)[: len(before)] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_launcher_saves_the_step_that_all_processes_have_done(config_file, tmp_path, shell, number):
    out = tmp_path / "out"
    overrides = ["run.checkpoint_every=1000", "run.evaluate_every=1000", "search.epochs=40"]
    process = torchrun(DOOR, config_file, "--out", out, *overrides, env=shell)
    wait_for(8, out, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    (line,) = (line for line in errors.splitlines() if line.startswith("interrupted; "))
    step = final_state(out)[0]
    assert line == f"interrupted; step {step} of 246 is saved; continue with --resume"
    assert step >= 8


def test_a_search_of_one_process_continues_with_two(config_file, tmp_path, shell):
    """Two processes share what one did alone. They have the same paths and images, so the same losses up to BN's batch
    statistics, which are those of half a batch each."""
    whole, more = tmp_path / "whole", tmp_path / "more"
    run_search(config_file, whole)
    run_until_killed(config_file, more, 8)
    step, _ = final_state(more)
    process = torchrun(DOOR, config_file, "--out", more, "--resume", env=shell)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert final_state(more)[0] == 24
    ours, theirs = metrics(more), metrics(whole)
    assert [record["step"] for record in ours] == [record["step"] for record in theirs]
    assert [r for r in ours if r["step"] <= step] == [r for r in theirs if r["step"] <= step]
    first = next(i for i, r in enumerate(theirs) if r["step"] == step + 1)
    assert ours[first]["train/loss"] == pytest.approx(theirs[first]["train/loss"], rel=0.2)
    assert ours[first]["train/loss"] != theirs[first]["train/loss"]


def test_a_folder_with_a_run_is_refused_before_a_network_is_timed(config_file, tmp_path, monkeypatch):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "step-000000001-0a0b0c0d.pt").touch()
    (tmp_path / "run" / "config.yaml").touch()
    monkeypatch.setattr("search.loop.resolved_checks", lambda *_: pytest.fail("checked first"))
    with pytest.raises(ConfigError, match="run: holds a run already; continue it with --resume, or choose another"):
        run_search(config_file, tmp_path / "run")
