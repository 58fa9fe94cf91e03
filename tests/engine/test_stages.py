"""A job of several stages goes on where it was stopped, and repeats what a change concerns."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.runs.stages import FILE, Done, Stage, read_stages, run_stages
from tests.processes import python

PROGRAM = """
import os, signal, sys
from pathlib import Path
from tests.engine.test_stages import Settings, adding_stages
from engine.runs.stages import run_stages
out, moment = Path(sys.argv[1]), sys.argv[2]
def stop(at):
    if at == moment:
        os.kill(os.getpid(), signal.SIGKILL)
run_stages(adding_stages(out, stop), Settings(), out)
"""


@dataclass
class Settings:
    """What the stages below are given."""

    first: str = "1"
    second: str = "2"
    ran: list[str] = field(default_factory=list)


def adding_stages(folder: Path, stop=lambda at: None):
    """Two stages: `one` writes its setting into two files, and `two` writes one of these and its setting. stop: called
    at several moments."""

    def one(settings, records):
        settings.ran.append("one")
        (folder / "one").mkdir(exist_ok=True)
        stop("one begun")
        (folder / "one" / "a").write_text(settings.first)
        stop("one half")
        (folder / "one" / "b").write_text(settings.first)
        stop("one written")
        return Done("one is done", [folder / "one" / "a", folder / "one" / "b"], {"length": len(settings.first)})

    def two(settings, records):
        settings.ran.append("two")
        stop("two begun")
        (folder / "two").write_text((folder / "one" / "a").read_text() + settings.second)
        stop("two written")
        return Done("two is done", [folder / "two"])

    def inputs_of_one(settings, records):
        stop("before one")
        return {"first": settings.first}

    def inputs_of_two(settings, records):
        return {"second": settings.second, "a": records["one"].outputs["one/a"]}

    return (
        Stage("one", "writes", ("one",), inputs_of_one, one, True, ("one/b",)),
        Stage("two", "adds", ("two",), inputs_of_two, two),
    )


@pytest.fixture
def run(tmp_path):
    """run(first="1"): runs the stages, and returns the names of those that worked and the lines that were said."""

    def go(stop=lambda at: None, until=None, **settings):
        job, said = Settings(**settings), []
        run_stages(adding_stages(tmp_path, stop), job, tmp_path, until=until, say=said.append)
        return job.ran, said

    return go


def test_a_finished_job_does_nothing_again(run, tmp_path):
    assert run() == (["one", "two"], ["one: one is done", "two: two is done"])
    before = (tmp_path / FILE).read_bytes()
    assert run() == ([], ["one: done before: one is done", "two: done before: two is done"])
    assert (tmp_path / FILE).read_bytes() == before
    assert read_stages(tmp_path).stages["one"].figures == {"length": 1}


def test_a_changed_setting_repeats_its_stage_and_what_depends_on_it(run, tmp_path):
    run()
    assert run(second="3") == (
        ["two"],
        ["one: done before: one is done", "two: second has changed, so it runs anew", "two: two is done"],
    )
    (tmp_path / "one" / ".half").touch()
    ran, said = run(first="7", second="3")
    assert ran == ["one", "two"]
    assert said[0] == "one: first has changed, so it runs anew"
    assert said[2] == "two: a has changed, so it runs anew"
    assert (tmp_path / "two").read_text() == "73"
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["a", "b"]  # the folder was emptied


def test_files_that_no_stage_has_made_are_kept_when_a_stage_runs_anew(run, tmp_path):
    run()
    (tmp_path / "one" / "more").mkdir()
    (tmp_path / "one" / "more" / "mine").write_text("mine")
    (tmp_path / "two").write_text("edited")
    _, said = run(first="7")
    assert said[1] == "one: one/more/mine not as a stage made it, so that is kept in kept-1"
    assert "two: two not as a stage made it, so that is kept in kept-2" in said
    assert (tmp_path / "kept-1" / "one" / "more" / "mine").read_text() == "mine"
    assert (tmp_path / "kept-2" / "two").read_text() == "edited"
    assert [path.name for path in (tmp_path / "kept-1" / "one").iterdir()] == ["more"]  # what it had made is deleted
    assert (tmp_path / "two").read_text() == "72"


def test_a_folder_with_a_job_of_another_kind_is_refused_and_left_alone(run, tmp_path):
    """Both kinds may have stages of the same names, whose files the other kind would delete."""
    run()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"holds a job of proxyless-nas ship, .*; choose another folder"):
        run_stages(adding_stages(tmp_path), Settings(first="7"), tmp_path, kind="quickstart")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_last_stage_to_run_may_be_named(run, tmp_path):
    assert run(until="one") == (["one"], ["one: one is done"])
    assert run()[0] == ["two"]


def test_a_file_that_was_changed_or_deleted_is_made_again(run, tmp_path):
    run()
    (tmp_path / "one" / "a").write_text("x")
    ran, said = run()
    assert ran == ["one"]  # it made the same file again, so nothing changes for the next stage
    assert said[0] == "one: one/a not as this stage made it, so that is made again"
    assert (tmp_path / "kept-1" / "one" / "a").read_text() == "x"
    (tmp_path / "two").unlink()
    assert run()[0] == ["two"]
    for name in ("a", "b"):
        (tmp_path / "one" / name).unlink()
    ran, said = run()
    assert (ran, said[0]) == (["one"], "one: its files are gone, so it runs anew")


def test_a_stage_does_not_go_on_without_a_file_that_it_needs(run, tmp_path):
    run()
    (tmp_path / "one" / "b").write_text("x")
    with pytest.raises(ConfigError, match=r"one/b: is not what the stage one made; put it back, or delete .*one: the"):
        run()


def test_a_folder_with_other_files_is_left_alone(run, tmp_path):
    (tmp_path / "two").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds two, which no job recorded in stages\.json has made"):
        run()
    assert (tmp_path / "two").read_text() == "mine"


def test_files_at_the_place_of_a_stage_that_has_never_begun_are_left_alone(run, tmp_path):
    """A user may have put them there while the stages before it ran."""
    run(until="one")
    (tmp_path / "two").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds two, which no job .*; move it to another place"):
        run()
    assert (tmp_path / "two").read_text() == "mine"
    (tmp_path / "two").unlink()
    assert run()[0] == ["two"]


def test_a_job_that_is_stopped_while_it_deletes_goes_on_to_delete(run, tmp_path, monkeypatch):
    run()
    with monkeypatch.context() as patched:
        patched.setattr("engine.runs.stages.shutil.rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(first="7")
    (tmp_path / "one" / "left over").touch()
    ran, said = run(first="7")
    assert (ran, said[0]) == (["one", "two"], "one: was stopped, so it begins again")
    assert not (tmp_path / "one" / "left over").exists()


def test_a_damaged_record_is_one_line(run, tmp_path):
    run()
    (tmp_path / FILE).write_text(json.dumps({"format": "other"}))
    with pytest.raises(ConfigError, match=r"stages\.json: format"):
        run()


def test_a_record_that_names_files_elsewhere_is_refused(run, tmp_path):
    """Such a file would be deleted: a job's folder may come from somebody else."""
    run()
    text = (tmp_path / FILE).read_text()
    for name in ("../mine", str(tmp_path.parent / "mine")):
        (tmp_path / FILE).write_text(text.replace('"two": "', f'"{name}": "', 1))
        with pytest.raises(ConfigError, match=r"stages\.json: two: names the file .*mine, expected files in its own"):
            run()


def test_what_a_stage_has_made_is_not_used_again_after_its_check_has_failed(tmp_path):
    checked = []

    def check(settings):
        checked.append(settings.first)
        if settings.first == "changed":
            raise ConfigError("images", "are others")

    one, two = adding_stages(tmp_path)
    stages = (replace(one, inputs=lambda settings, records: {}, check=check), two)
    run_stages(stages, Settings(), tmp_path, say=lambda line: None)
    assert checked == []  # a stage that runs reads the images itself
    run_stages(stages, Settings(), tmp_path, say=lambda line: None)
    with pytest.raises(ConfigError, match="images: are others"):
        run_stages(stages, Settings(first="changed", second="3"), tmp_path, say=lambda line: None)
    assert (tmp_path / "two").read_text() == "12"


@pytest.mark.parametrize("moment", ["before one", "one half", "one written", "two begun", "two written"])
def test_a_stage_that_is_stopped_is_run_again_and_gives_the_same(moment, run, tmp_path):
    def stop(at):
        if at == moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(stop)
    ran, said = run()
    assert ran == (["two"] if moment.startswith("two") else ["one", "two"])
    how = {"o": ["one: goes on"], "t": ["two: was stopped, so it begins again"], "b": []}[moment[0]]
    assert [line for line in said if "goes" in line or "stopped" in line] == how
    assert (tmp_path / "two").read_text() == "12"
    assert run()[0] == []


def test_a_job_that_is_killed_in_a_stage_goes_on(run, tmp_path, checkout):
    """The job gets SIGKILL when half of a stage's files are written, and once more in the next stage."""
    for moment in ("one half", "two written"):
        ended = python("-c", PROGRAM, tmp_path, moment, cwd=checkout)
        assert ended.returncode == -9, ended.stderr
        assert read_stages(tmp_path).stages[moment.split()[0]].outputs is None
    assert run()[0] == ["two"]
    assert (tmp_path / "two").read_text() == "12"


def test_a_stage_that_does_not_resume_begins_in_an_empty_place(run, tmp_path):
    def stop(at):
        if at == "two begun":
            (tmp_path / "two").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(stop)
    seen = []
    run(lambda at: seen.append((tmp_path / "two").exists()) if at == "two begun" else None)
    assert seen == [False]


def test_an_input_that_changed_while_a_stage_ran_clears_what_it_had_made(run, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(lambda at: (_ for _ in ()).throw(KeyboardInterrupt) if at == "one half" else None, first="old")
    assert (tmp_path / "one" / "a").read_text() == "old"
    _, said = run(first="new")
    assert said[0] == "one: first has changed, so it runs anew"
    assert (tmp_path / "one" / "b").read_text() == "new"
