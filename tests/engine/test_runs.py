"""A run folder is begun once and continued only with the same configuration and inputs."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from engine.config import load_config
from engine.errors import ConfigError
from engine.files import TEMPORARY
from engine.runs.folder import dump_config, open_run

CONFIG = {
    "search": {"epochs": 3, "lr": 4e-05, "betas": [0.0, 0.999], "note": "1e-3"},
    "limits": [{"metric": "latency", "at": 1.0304 / 3}],
    "run": {"seed": 0, "threads": None, "channels_last": True},
    "floats": [1e-3, 0.1 + 0.2, 300e6, 1e22, 5e-324],
}


INPUTS = {"training images": {"number": 3, "labels": "ab", "pixels": "cd"}, "own files": {"data.module my.py": "ef"}}


def refused(out: Path, config: dict, *, resume: bool) -> str:
    with pytest.raises(ConfigError) as error:
        open_run(out, config, INPUTS, resume=resume)
    assert "\n" not in str(error.value)
    return str(error.value)


def begin(out: Path) -> None:
    """A run that has reached its first step."""
    open_run(out, CONFIG, INPUTS, resume=False)
    (out / "metrics.jsonl").touch()


def test_a_start_that_failed_before_its_first_step_leaves_no_run(tmp_path):
    """The corrected start is not refused, and its config is the one that counts."""
    open_run(tmp_path, {**CONFIG, "new": 1}, {}, resume=False)
    for resume in (False, True):
        open_run(tmp_path, CONFIG, INPUTS, resume=resume)
        assert load_config(tmp_path / "config.yaml") == CONFIG


def test_a_fresh_run_writes_a_config_that_reloads_to_the_same_values(tmp_path):
    out = tmp_path / "first"
    out.mkdir()
    open_run(out, CONFIG, INPUTS, resume=False)
    assert {path.name for path in out.iterdir()} == {"config.yaml", "inputs.json"}
    assert load_config(out / "config.yaml") == CONFIG


def test_an_empty_folder_may_be_begun_in(tmp_path):
    open_run(tmp_path, CONFIG, INPUTS, resume=False)
    assert (tmp_path / "config.yaml").exists()


def test_an_existing_run_is_not_overwritten(tmp_path):
    begin(tmp_path)
    before = (tmp_path / "config.yaml").stat()
    message = refused(tmp_path, CONFIG, resume=False)
    assert message == f"--out {tmp_path}: holds a run already; continue it with --resume, or choose another folder"
    assert (tmp_path / "config.yaml").stat() == before


def test_a_resume_with_the_same_config_changes_nothing(tmp_path, caplog):
    begin(tmp_path)
    before = (tmp_path / "config.yaml").stat()
    open_run(tmp_path, CONFIG, INPUTS, resume=True)
    assert (tmp_path / "config.yaml").stat() == before
    assert not caplog.records


def test_a_resume_with_another_config_shows_every_difference(tmp_path):
    begin(tmp_path)
    changed = {**CONFIG, "search": {**CONFIG["search"], "epochs": 4, "betas": [0.5, 0.999]}, "new": 1}
    message = refused(tmp_path, changed, resume=True)
    config = tmp_path / "config.yaml"
    assert message == (
        f"--resume: the config differs from {config}: search.epochs: 3 -> 4; search.betas.0: 0.0 -> 0.5; "
        "new: (absent) -> 1; undo the change, or start a new run in another folder"
    )
    assert load_config(config) == CONFIG


def test_a_resume_where_there_is_no_run_begins_with_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        (tmp_path / "new").mkdir()
        open_run(tmp_path / "new", CONFIG, INPUTS, resume=True)
    assert caplog.messages == [f"{tmp_path / 'new'} holds no run yet; starting from the beginning"]
    assert load_config(tmp_path / "new" / "config.yaml") == CONFIG


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("trace", ["checkpoints", "metrics.jsonl", "events.out.tfevents.1.host.1.0", "tensorboard"])
def test_files_of_a_run_without_its_config_are_not_touched(tmp_path, resume, trace):
    file = tmp_path / trace if trace.endswith("jsonl") else tmp_path / trace / "kept"
    file.parent.mkdir(exist_ok=True)
    file.write_text("kept")
    assert f"has {trace} but no config.yaml; put it back" in refused(tmp_path, CONFIG, resume=resume)
    assert not (tmp_path / "config.yaml").exists()
    assert file.read_text() == "kept"


def test_a_config_that_no_run_has_written_is_not_overwritten(tmp_path):
    (tmp_path / "config.yaml").write_text("of: the user\n")
    for resume in (False, True):
        assert "has a config.yaml that no run has written" in refused(tmp_path, CONFIG, resume=resume)
    assert (tmp_path / "config.yaml").read_text() == "of: the user\n"


def test_a_folder_with_nothing_but_curves_is_not_overwritten(tmp_path):
    open_run(tmp_path, CONFIG, INPUTS, resume=False)
    (tmp_path / "tensorboard").mkdir()
    assert "holds a run already" in refused(tmp_path, CONFIG, resume=False)


def test_a_resume_names_every_input_that_changed(tmp_path):
    begin(tmp_path)
    changed = {
        "training images": {"number": 2, "labels": "ab", "pixels": "xx"},
        "own files": {"data.module my.py": "x"},
    }
    with pytest.raises(ConfigError) as error:
        open_run(tmp_path, CONFIG, changed, resume=True)
    assert str(error.value) == (
        "--resume: number of the training images changed from 3 to 2; pixels of the training images changed; own "
        f"files: data.module my.py changed since the run in {tmp_path} began; put back what it was begun with, or "
        "start a new run in another folder"
    )


def test_a_run_begun_without_a_record_of_its_inputs_gets_one_with_a_warning(tmp_path, caplog):
    begin(tmp_path)
    (tmp_path / "inputs.json").unlink()
    open_run(tmp_path, CONFIG, INPUTS, resume=True)
    assert "changes of the data since the run began would not be noticed" in caplog.text
    caplog.clear()
    open_run(tmp_path, CONFIG, INPUTS, resume=True)
    assert not caplog.records


@pytest.mark.parametrize("content", ["", "[1]", '{"format": "proxylessnas/inputs@1", "inputs": {"images": 3}}'])
def test_a_damaged_record_of_inputs_is_named(tmp_path, content):
    begin(tmp_path)
    (tmp_path / "inputs.json").write_text(content)
    assert refused(tmp_path, CONFIG, resume=True).startswith(f"{tmp_path / 'inputs.json'}: ")


def test_a_resume_removes_what_killed_processes_left_half_written(tmp_path):
    begin(tmp_path)
    stale = [
        tmp_path / f".result.json.0123{TEMPORARY}",
        tmp_path / "checkpoints" / f".step-000000003-0123456789ab.pt.x1y2{TEMPORARY}",
        tmp_path / "tensorboard" / f".kept{TEMPORARY}",
    ]
    kept = [tmp_path / "notes.tmp", tmp_path / ".hidden"]
    for path in (*stale, *kept):
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    open_run(tmp_path, CONFIG, INPUTS, resume=True)
    assert not any(path.exists() for path in stale)
    assert all(path.exists() for path in kept)


def test_a_damaged_config_is_named(tmp_path):
    begin(tmp_path)
    (tmp_path / "config.yaml").write_text("a: [1\n")
    assert refused(tmp_path, CONFIG, resume=True).startswith(f"{tmp_path / 'config.yaml'}:2:1: ")


def test_a_run_that_recorded_how_many_processes_read_is_resumed_with_any_number(tmp_path):
    """Earlier versions wrote data.workers into config.yaml; no result depends on it."""
    begin(tmp_path)
    config = tmp_path / "config.yaml"
    recorded = load_config(config) | {"data": {"name": "digits", "workers": 2}}
    dump_config(recorded, config)
    open_run(tmp_path, recorded | {"data": {"name": "digits"}}, INPUTS, resume=True)
    message = refused(tmp_path, recorded | {"data": {"name": "fake"}}, resume=True)
    assert "data.name: 'digits' -> 'fake'; undo the change" in message
    assert "workers" not in message


def test_a_run_of_another_kind_is_named_by_its_sections(tmp_path):
    begin(tmp_path)
    other = {"retrain" if key == "search" else key: value for key, value in CONFIG.items()}
    assert "is of a run of another kind (its sections are " in refused(tmp_path, other, resume=True)
