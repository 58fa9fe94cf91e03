"""Wrong arguments of the package's functions and of the newer subcommands end with one line that names them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import proxyless_nas as pn
from proxyless_nas.commands import main

NO_PATHS: dict[str, Any] = {
    "None": None, "int": 3, "bytes": b"x", "dict": {}, "empty": "", "nul": "a\0b", "long": "n" * 300, "float": 1.5,
    "another user": "~nosuchuser/x",
}  # fmt: skip
NO_CONFIGS: dict[str, Any] = {
    "None": None, "int": 3, "bytes": b"a.yaml", "list": [{}], "empty": "", "nul": "a\0b", "class": pn.SearchConfig
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny_search, space_of, formula_table):
    monkeypatch.chdir(tmp_path)
    Path("search.yaml").write_text(yaml.safe_dump(tiny_search))
    formula_table(space_of(tiny_search["space"])).save(tmp_path / "table.yaml")
    Path("retrain.yaml").write_text(yaml.safe_dump({"data": tiny_search["data"], "retrain": {"epochs": 1}}))
    return tmp_path


@pytest.fixture
def architecture(space_of, tiny_search):
    return pn.Architecture(space_of(tiny_search["space"]), (0, 0, 0))


@pytest.mark.parametrize("value", NO_PATHS.values(), ids=NO_PATHS)
def test_a_value_that_is_no_path_is_refused_with_the_parameters_name(folder, architecture, value):
    before = sorted(folder.iterdir())
    calls = {
        "out": [lambda: pn.search("search.yaml", value), lambda: pn.retrain("retrain.yaml", architecture, value),
                lambda: pn.sweep(["search.yaml"], value)],
        "architecture": [lambda: pn.retrain("retrain.yaml", value, "new")],
        "checkpoint": [lambda: pn.evaluate("retrain.yaml", value), lambda: pn.pretrained(None, value)],
        "run": [lambda: pn.derive(value)],
        "images": [lambda: pn.predict("run", [value])],
        "table": [lambda: pn.verify(value, "search.yaml")],
        "source": [lambda: pn.show(value), lambda: pn.predict(value, "a.png")],
        "configs": [lambda: pn.sweep([value], "new")],
        "the picture's file": [lambda: pn.show(architecture).save(value)],
    }  # fmt: skip
    for name, several in calls.items():
        for call in several:
            with pytest.raises(pn.UserError) as refused:
                call()
            assert refused.value.where.startswith(name)
            assert len(str(refused.value).splitlines()) == 1
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("value", NO_CONFIGS.values(), ids=NO_CONFIGS)
def test_a_value_that_is_no_configuration_is_refused(folder, architecture, value):
    for call in (
        lambda: pn.search(value, "new"),
        lambda: pn.measure(value),
        lambda: pn.retrain(value, architecture, "new"),
        lambda: pn.evaluate(value, "a.pt"),
    ):
        with pytest.raises(pn.UserError, match=r"^(the )?config: got "):
            call()


def test_a_model_of_another_kind_is_refused(folder, architecture):
    retraining = pn.RetrainConfig.read("retrain.yaml")
    for call in (lambda: pn.search(retraining, "new"), lambda: pn.measure(retraining)):
        with pytest.raises(pn.UserError, match="RetrainConfig, expected"):
            call()
    with pytest.raises(pn.UserError, match="SearchConfig, expected"):
        pn.retrain(pn.SearchConfig.read("search.yaml"), architecture, "new")


@pytest.mark.parametrize("value", ["run.seed=1", None, [1], b"x", {"run.seed": 1}])
def test_overrides_that_are_no_list_of_texts_are_refused(folder, architecture, value):
    for call in (
        lambda: pn.search("search.yaml", "new", overrides=value),
        lambda: pn.measure("search.yaml", overrides=value),
        lambda: pn.retrain("retrain.yaml", architecture, "new", overrides=value),
        lambda: pn.sweep(["search.yaml"], "new", overrides=value),
    ):
        with pytest.raises(pn.UserError, match=r"^overrides: got .*expected a list"):
            call()
    assert not (folder / "new").exists()


def test_a_single_text_for_a_list_of_texts_is_shown_as_a_list(folder):
    with pytest.raises(pn.UserError, match=r"overrides: got 'run.seed=1', expected a list; write \['run.seed=1'\]"):
        pn.search("search.yaml", "new", overrides="run.seed=1")
    with pytest.raises(pn.UserError, match=r"configs: got 'search.yaml', expected a list; write \['search.yaml'\]"):
        pn.sweep("search.yaml", "new")
    with pytest.raises(pn.UserError, match=r"allow_modules: got 'own.py', expected a list; write \['own.py'\]"):
        pn.retrain("retrain.yaml", "architecture.json" if _written(folder) else "", "new", allow_modules="own.py")


def _written(folder: Path) -> bool:
    (folder / "architecture.json").write_text("{}")
    return True


@pytest.mark.parametrize("at", [None, True, b"30%", {"a": 1}, ["30%", None], [["30%"]]])
def test_a_bound_that_is_no_number_or_text_is_refused(folder, at):
    with pytest.raises(pn.UserError, match="at: got "):
        pn.derive("run", at, scored=False)


@pytest.mark.parametrize(("name", "value"), [("method", "argmx"), ("device", "tpu"), ("device", 0)])
def test_an_unknown_choice_is_no_silent_default(folder, name, value):
    with pytest.raises(pn.UserError, match=f"{name}: got .*, or None"):
        pn.derive("run", **{name: value})


@pytest.mark.parametrize("tables", [[3], {"table.yaml": 3}, {"table.yaml": "table.yaml"}])
def test_tables_that_are_no_tables_by_path_are_refused(folder, tables):
    with pytest.raises(pn.UserError, match=r"tables: got .*a LatencyTable for each path"):
        pn.search("search.yaml", "new", tables=tables)


def test_a_path_in_the_home_folder_is_found_from_python_too(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    result = pn.search("~/search.yaml", "~/runs/a", overrides=["search.arch_update=two_path"])
    assert (folder / "runs" / "a" / "architecture.json").exists()
    assert not Path("~").exists()
    assert "stem" in str(pn.show("~/runs/a"))
    assert result.architecture.name == "a"


def run(*words: str | Path, capsys) -> str:
    """Runs a subcommand that is refused; returns its line."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    assert end.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    return str(line)


def test_a_picture_never_replaces_a_file_of_another_kind(folder, architecture, capsys):
    (folder / "architecture.json").write_text(architecture.to_json())
    config = (folder / "search.yaml").read_bytes()
    for name in ("search.yaml", "layers", "layers.jpg"):
        assert "expected a file that ends in .png" in run("show", "architecture.json", "--picture", name, capsys=capsys)
    assert (folder / "search.yaml").read_bytes() == config


def test_a_configuration_is_copied_or_the_folder_refused(folder, capsys):
    os.symlink("nowhere", "link")
    Path("linked").mkdir()
    os.symlink("nowhere", "linked/imagenet_cpu.yaml")
    for place, says in {
        "search.yaml": "is a file, or lies below one, expected a folder",
        "search.yaml/a": "is a file, or lies below one, expected a folder",
        "link": "a folder",
        "n" * 300: "a name of 300 bytes, which no file can have; shorten it",
        "linked": "imagenet_cpu.yaml: is there already",
    }.items():
        assert says in run("configs", "copy", "imagenet_cpu", place, capsys=capsys)
    assert os.path.islink("linked/imagenet_cpu.yaml")


@pytest.mark.parametrize("name", ["two words", "a\nspace: 3", os.fsdecode(b"d\xff"), "it's", r"a\1b"])
def test_a_configuration_copied_into_a_folder_of_a_strange_name_is_valid(folder, name, capsys):
    with pytest.raises(SystemExit) as end:
        main(["configs", "copy", "imagenet_cpu", name])
    assert end.value.code == 0
    copied = pn.SearchConfig.read(Path(name) / "imagenet_cpu.yaml")
    assert copied == pn.SearchConfig.read("imagenet_cpu")


def test_a_quick_start_measures_nothing_if_its_folder_cannot_be_made(folder, capsys):
    line = run("quickstart", "--out", "search.yaml/a", capsys=capsys)
    assert line.startswith("error: --out search.yaml/a: is a file")


def test_a_sweep_of_no_file_is_refused(folder, capsys):
    line = run("sweep", "", "--out", "new", capsys=capsys)
    assert line == "error: configs: got '', expected the name of a file or folder"
    Path("folder").mkdir()
    assert "error: folder: is a folder, expected a YAML file" in run("sweep", "folder", "--out", "new", capsys=capsys)


@pytest.mark.parametrize("device", ["gpu", "cuda:0", torch.device("cpu"), None, 0])
def test_predict_refuses_a_device_that_it_does_not_know(folder, device):
    with pytest.raises(pn.UserError, match=r"^device: got .*, expected 'cpu' or 'cuda'$"):
        pn.predict("run", "a.png", device=device)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"seeds": [1.5]}, "seeds: got 1.5, expected whole numbers from 0 on"),
        ({"seeds": ["1"]}, "seeds: got '1', expected whole numbers from 0 on"),
        ({"seeds": [-1]}, "seeds: got -1, expected whole numbers from 0 on"),
        ({"jobs": 0}, "jobs: got 0, expected a whole number from 1 on"),
    ],
)
def test_a_sweep_of_wrong_seeds_or_jobs_starts_nothing(folder, settings, says):
    with pytest.raises(pn.UserError) as refused:
        pn.sweep(["search.yaml"], "new", **settings)
    assert str(refused.value) == says
    assert not (folder / "new").exists()


def test_numbers_that_are_negative_or_huge_are_refused_before_anything_is_timed(folder):
    """They ended in a traceback of numpy or torch, a wrong kind of device after all networks had been timed."""

    def never(_: object) -> float:
        raise AssertionError("nothing is timed")

    for call, says in (
        (lambda: pn.measure("search.yaml", seed=-1), "--seed: got -1, expected a whole number from 0 on"),
        (lambda: pn.measure("search.yaml", "new.yaml", seed=-1), "--seed: got -1, expected a whole number from 0 on"),
        (lambda: pn.measure("search.yaml", verify=10**30), f"--verify: got {10**30}, expected at most 10000 networks"),
        (lambda: pn.verify("table.yaml", "search.yaml", seed=1 << 64), f"--seed: got {1 << 64}, expected a whole"),
        (lambda: pn.fit("search.yaml", never, "new.yaml", networks=10**30), "networks: got 1000000"),
        (lambda: pn.fit("search.yaml", never, "new.yaml", device_kind="tpu"), "device_kind: got 'tpu', expected 'cpu'"),
        (lambda: pn.export("run", "new", size=10**30), "size: got 1000000"),
        (lambda: pn.export("run", "new", batch=1 << 17), "batch: got 131072, expected a whole number from 1 to 65536"),
    ):
        with pytest.raises(pn.UserError) as refused:
            call()
        assert str(refused.value).startswith(says)
    assert not Path("new.yaml").exists()
