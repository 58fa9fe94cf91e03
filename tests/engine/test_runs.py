"""The run folder: begun once, continued only with the same configuration."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from engine.config import load_config
from engine.errors import ConfigError
from engine.runs import open_run

CONFIG = {
    "search": {"epochs": 3, "lr": 4e-05, "betas": [0.0, 0.999], "note": "1e-3"},
    "limits": [{"metric": "latency", "at": 1.0304 / 3}],
    "run": {"seed": 0, "threads": None, "channels_last": True},
    "floats": [1e-3, 0.1 + 0.2, 300e6, 1e22, 5e-324],
}


def refused(out: Path, config: dict, *, resume: bool) -> str:
    with pytest.raises(ConfigError) as error:
        open_run(out, config, resume=resume)
    assert "\n" not in str(error.value)
    return str(error.value)


def begin(out: Path) -> None:
    """A run that has reached its first step."""
    open_run(out, CONFIG, resume=False)
    (out / "metrics.jsonl").touch()


def test_a_start_that_failed_before_its_first_step_leaves_no_run(tmp_path):
    """The corrected start is not refused, and its config is the one that counts."""
    open_run(tmp_path, {**CONFIG, "new": 1}, resume=False)
    for resume in (False, True):
        open_run(tmp_path, CONFIG, resume=resume)
        assert load_config(tmp_path / "config.yaml") == CONFIG


def test_a_fresh_run_writes_a_config_that_reloads_to_the_same_values(tmp_path):
    out = tmp_path / "runs" / "first"
    open_run(out, CONFIG, resume=False)
    assert [path.name for path in out.iterdir()] == ["config.yaml"]
    assert load_config(out / "config.yaml") == CONFIG


def test_an_empty_folder_may_be_begun_in(tmp_path):
    open_run(tmp_path, CONFIG, resume=False)
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
    open_run(tmp_path, CONFIG, resume=True)
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


@pytest.mark.parametrize("below", ["", "deeper", "deeper/still"])
@pytest.mark.parametrize("resume", [False, True])
def test_out_is_not_a_file(tmp_path, below, resume):
    file = tmp_path / "file"
    file.write_text("kept")
    message = refused(file / below, CONFIG, resume=resume)
    assert "is a file, or lies below one; expected a folder" in message
    assert file.read_text() == "kept"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    try:
        assert "choose a folder you may write" in refused(tmp_path, CONFIG, resume=False)
        assert "choose a folder you may write" in refused(tmp_path / "new", CONFIG, resume=False)
    finally:
        tmp_path.chmod(0o700)


def test_a_resume_where_there_is_no_run_begins_with_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        open_run(tmp_path / "new", CONFIG, resume=True)
    assert caplog.messages == [f"{tmp_path / 'new'} holds no run yet; starting from the beginning"]
    assert load_config(tmp_path / "new" / "config.yaml") == CONFIG


@pytest.mark.parametrize("resume", [False, True])
def test_checkpoints_without_their_config_are_not_touched(tmp_path, resume):
    (tmp_path / "checkpoints").mkdir()
    message = refused(tmp_path, CONFIG, resume=resume)
    assert "has checkpoints but no config.yaml; put it back" in message
    assert not (tmp_path / "config.yaml").exists()


def test_a_damaged_config_is_named(tmp_path):
    begin(tmp_path)
    (tmp_path / "config.yaml").write_text("a: [1\n")
    assert refused(tmp_path, CONFIG, resume=True).startswith(f"{tmp_path / 'config.yaml'}:2:1: ")
