"""Tests that a search is the same from a file, a dictionary or a model, with tables as files or as objects."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

import proxyless_nas
from engine.errors import ConfigError
from latency.table import LatencyTable
from search.check import check_search
from search.config import SearchConfig
from search.given import given_search
from search.loop import run_search
from search.many.family import derive_family
from search.opening import kept_place, resolved_run


@pytest.fixture
def table(space, tmp_path, make_table):
    """A table whose numbers its file rounds."""
    table = make_table(space, tmp_path / "elsewhere" / "board.yaml")
    entries = {
        key: entry.model_copy(update={"median_ms": entry.median_ms * 1.000000123})
        for key, entry in table.entries.items()
    }
    shutil.rmtree(tmp_path / "elsewhere")
    return table.model_copy(update={"entries": entries})


@pytest.fixture
def content(make_tiny_config):
    """The content of a search's file, as a dictionary, with a limit on a table at board.yaml."""
    return {
        "space": make_tiny_config(),
        "measure": {"device": "external"},
        "data": {"name": "fake", "fake_images": 80, "fake_classes": 4, "validation": 0.4},
        "limits": [{"metric": "latency", "table": "board.yaml", "at": "50%", "tolerance": 0.2}],
        "search": {"warmup_epochs": 0, "epochs": 1, "batch_size": 8, "arch_every": 2, "bn_batches": 1}
        | {"regression": {"final_steps": 5}},
        "run": {"threads": 1},
    }


def with_table(content, table):
    return content | {"limits": [content["limits"][0] | {"table": table}]}


def test_a_dictionary_with_a_table_object_a_model_and_a_file_give_the_same_search(
    table, content, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    table.save(Path("board.yaml"))
    Path("search.yaml").write_text(yaml.safe_dump(content))
    results = [
        run_search(Path("search.yaml"), Path("file")),
        run_search(content, "dictionary"),
        run_search(SearchConfig.read(Path("search.yaml")), "model"),
        run_search(with_table(content, table), "object"),
        run_search(with_table(content, Path("absent.yaml")), "by-path", tables={"absent.yaml": table}),
    ]
    assert len({result.architecture.paths for result in results}) == 1
    assert len({result.limits[0].bound for result in results}) == 1
    hashes = {result.limits[0].source.sha256 for result in results}
    assert hashes == {LatencyTable.load(Path("board.yaml")).sha256}
    copies = [Path(result.limits[0].source.path) for result in results[-2:]]
    assert copies == [tmp_path / "object/tables/table-0.yaml", tmp_path / "by-path/tables/absent.yaml"]
    assert all(LatencyTable.load(copy).sha256 in hashes for copy in copies)


def test_a_search_with_a_table_object_is_resumed_and_derived_from_its_folder_alone(table, content, tmp_path):
    given = with_table(content, table)
    first = run_search(given, tmp_path / "run")
    again = run_search(given, tmp_path / "run", resume=True)
    from_folder = run_search(tmp_path / "run" / "config.yaml", tmp_path / "run", resume=True)
    assert first.architecture.paths == again.architecture.paths == from_folder.architecture.paths
    (tmp_path / "run").rename(tmp_path / "moved")
    (member,) = derive_family(tmp_path / "moved", ["50%"], scored=False)
    record = json.loads(member.path.read_text())["predicted"][0]
    assert record["table"] == str(tmp_path / "moved" / "tables" / "table-0.yaml")
    assert member.architecture.paths == first.architecture.paths


def test_a_search_whose_table_was_a_relative_path_is_opened_from_any_folder(
    table, content, tmp_path, monkeypatch, caplog
):
    (tmp_path / "start").mkdir()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "start")
    table.save(Path("board.yaml"))
    first = run_search(content, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "other")
    (member,) = derive_family(tmp_path / "run", ["50%"], scored=False)
    assert member.architecture.paths == first.architecture.paths
    assert "latency" in proxyless_nas.show(tmp_path / "run").text
    with monkeypatch.context() as patched:
        loaded: list[Path] = []
        load = LatencyTable.load
        patched.setattr(LatencyTable, "load", staticmethod(lambda path: loaded.append(path) or load(path)))
        resolved_run(tmp_path / "run")
        assert loaded == [kept_place(tmp_path / "run", Path("board.yaml"), first.limits[0].source.sha256)]  # once
    entries = {key: entry.model_copy(update={"median_ms": 2 * entry.median_ms}) for key, entry in table.entries.items()}
    table.model_copy(update={"entries": entries}).save(Path("board.yaml"))  # another table of that name, here
    (member,) = derive_family(tmp_path / "run", ["50%"], scored=False)  # the run has its own copy
    assert member.architecture.paths == first.architecture.paths
    assert "board.yaml: not the table that this run began with; its own copy is used: " in caplog.text
    shutil.rmtree(tmp_path / "run" / "tables")
    with pytest.raises(ConfigError, match=r"board\.yaml is not the table of this run"):
        derive_family(tmp_path / "run", ["50%"], scored=False)


def test_a_search_that_was_moved_with_its_table_is_resumed(table, content, tmp_path):
    """A path that differs from the recorded one is no change if the table has the recorded hash."""
    table.save(tmp_path / "job" / "tables" / "board.yaml")
    at = [f"limits.0.table={tmp_path / 'job' / 'tables' / 'board.yaml'}"]
    first = run_search(content, tmp_path / "job" / "run", overrides=at)
    (tmp_path / "job").rename(tmp_path / "moved")
    (tmp_path / "moved" / "run" / "result.json").unlink()
    at = [f"limits.0.table={tmp_path / 'moved' / 'tables' / 'board.yaml'}"]
    again = run_search(content, tmp_path / "moved" / "run", resume=True, overrides=at)
    assert again.architecture.paths == first.architecture.paths
    entries = {key: entry.model_copy(update={"median_ms": 2 * entry.median_ms}) for key, entry in table.entries.items()}
    table.model_copy(update={"entries": entries}).save(tmp_path / "moved" / "tables" / "board.yaml")
    with pytest.raises(ConfigError, match=r"limits\.0\.table: .*job.* -> .*moved.*limits\.0\.table_sha256"):
        run_search(content, tmp_path / "moved" / "run", resume=True, overrides=at)


def test_a_resume_with_another_table_object_is_refused(table, content, tmp_path):
    run_search(with_table(content, table), tmp_path / "run")
    entries = {key: entry.model_copy(update={"median_ms": 2 * entry.median_ms}) for key, entry in table.entries.items()}
    with pytest.raises(ConfigError, match=r"limits\.0\.table_sha256"):
        run_search(with_table(content, table.model_copy(update={"entries": entries})), tmp_path / "run", resume=True)


def test_a_family_is_derived_for_a_device_whose_table_is_an_object(table, content, space, make_table, tmp_path):
    run_search(with_table(content, table), tmp_path / "run")
    other = make_table(space, tmp_path / "phone.yaml", constant_ms=0.9)
    by_file = derive_family(tmp_path / "run", ["50%"], table=tmp_path / "phone.yaml", scored=False)
    by_object = derive_family(tmp_path / "run", ["50%"], table=other, scored=False)
    assert by_object.members[0].architecture.paths == by_file.members[0].architecture.paths
    assert by_object.members[0].path.name == "architecture-made-up-50percent.json"
    assert (tmp_path / "run" / "tables" / "made-up.yaml").exists()


def test_a_check_takes_objects_too_and_writes_nothing(table, content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checks = check_search(with_table(content, table))
    assert "FAIL" not in {check.level for check in checks}
    assert str(checks[0]) == "ok   config: the config is valid"
    assert list(tmp_path.iterdir()) == []


def test_overrides_apply_to_dictionaries_and_models_and_errors_name_the_key(content, tmp_path):
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump(content))
    for config in (path, content, SearchConfig.read(path)):
        given = given_search(config, ["search.epochs=7"])
        assert given.config.search.epochs == 7
    assert content["search"]["epochs"] == 1
    half = content | {"search": SearchConfig.read(path).search, "data": SearchConfig.read(path).data}
    given = given_search(half, ["search.epochs=7", "data.workers=3"])
    assert (given.config.search.epochs, given.config.data.workers) == (7, 3)
    assert given.config.search.model_copy(update={"epochs": 1}) == half["search"]
    assert (half["search"].epochs, half["data"].workers) == (1, None)
    with pytest.raises(ConfigError, match=r"^the config: search\.epochs: got 'x'"):
        given_search(content, ["search.epochs=x"])
    with pytest.raises(ConfigError, match=r"^the config: search\.epocs"):
        given_search(content | {"search": {"epocs": 1}})


def test_a_table_that_no_limit_names_is_refused(table, content):
    with pytest.raises(
        ConfigError, match=r"^tables: got one for other\.yaml, which no limit names, expected one of board"
    ):
        given_search(content, tables={"other.yaml": table})


def test_a_dictionary_that_holds_itself_is_one_line(content):
    content["search"]["more"] = content
    with pytest.raises(ConfigError, match=r"^the config: has more than \d+ values"):
        given_search(content)
