"""`proxyless-nas configs`, and the names of configurations that come with the package in place of files."""

from __future__ import annotations

import pytest

from engine.config import load_config
from engine.errors import ConfigError
from engine.shipped import as_argument, located, shipped_config, shipped_configs, shipped_name
from proxyless_nas.commands.configs import copy, whole_text
from search.config import SearchConfig

NAMES = list(shipped_configs())


def test_every_file_of_configs_has_a_name_and_no_two_share_one(checkout):
    files = sorted((checkout / "configs").rglob("*.yaml"))
    assert sorted(path.resolve() for path in shipped_configs().values()) == files
    assert {shipped_name(path) for path in files} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_in_one_text_reads_as_the_file_with_its_bases(name, tmp_path):
    (tmp_path / "whole.yaml").write_text(whole_text(shipped_config(name)))
    assert load_config(tmp_path / "whole.yaml") == load_config(shipped_config(name))


def test_the_list_has_each_with_its_first_line(command):
    status, out, _ = command("configs")
    assert status == 0
    assert command("configs", "list")[1] == out
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    assert "search on CIFAR-10" in lines[NAMES.index("cifar10_macro")]


def test_a_copy_stands_alone_and_its_commands_name_it(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = command("configs", "copy", "imagenet_gpu", "mine")
    assert status == 0
    assert out.startswith("mine/imagenet_gpu.yaml: ")
    text = (tmp_path / "mine" / "imagenet_gpu.yaml").read_text()
    assert text == command("configs", "show", "imagenet_gpu")[1].replace(" imagenet_gpu ", " mine/imagenet_gpu.yaml ")
    assert "proxyless-nas search mine/imagenet_gpu.yaml --out" in text
    assert SearchConfig.read(tmp_path / "mine" / "imagenet_gpu.yaml") == SearchConfig.read("imagenet_gpu")


def test_a_copy_overwrites_nothing(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imagenet.yaml").write_text("mine\n")
    status, _, err = command("configs", "copy", "imagenet", ".")
    assert status == 2
    assert err.startswith("error: imagenet.yaml: is there already")
    assert (tmp_path / "imagenet.yaml").read_text() == "mine\n"
    assert command("configs", "copy", "imagenet", "imagenet.yaml")[0] == 2


@pytest.mark.parametrize("word", ["show", "copy"])
def test_an_unknown_name_is_one_line_with_the_nearest(word, command, tmp_path):
    status, _, err = command("configs", word, "imagnet_cpu", *([tmp_path] if word == "copy" else []))
    assert status == 2
    assert err.count("\n") == 1
    assert err.endswith("a name that `proxyless-nas configs` lists. Did you mean 'imagenet_cpu'?\n")


def test_a_name_is_found_in_place_of_a_file_and_a_file_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert located(shipped_config("imagenet")) == shipped_config("imagenet")
    assert SearchConfig.read("imagenet_cpu") == SearchConfig.read(shipped_config("imagenet_cpu"))
    (tmp_path / "imagenet_cpu").write_text(whole_text(shipped_config("quickstart_cpu")))
    assert SearchConfig.read("imagenet_cpu") == SearchConfig.read("quickstart_cpu")


def test_a_word_that_is_neither_file_nor_name_is_one_line(command, tmp_path):
    status, _, err = command("search", "imagenet_cpuu", "--out", tmp_path / "run")
    assert status == 2
    assert err == (
        "error: imagenet_cpuu: no such file, and no configuration comes with the package under this name, expected a "
        "YAML file or a name that `proxyless-nas configs` lists. Did you mean 'imagenet_cpu'?\n"
    )


def test_extends_takes_a_name(tmp_path):
    """A first search on own images sets three keys, and a retraining two."""
    (tmp_path / "flowers.yaml").write_text(
        "extends: own_images_cpu\nspace: {classes: 5}\ndata: {root: /images/flowers}\n"
    )
    config = SearchConfig.read(tmp_path / "flowers.yaml")
    assert (config.space.classes, str(config.data.root)) == (5, "/images/flowers")
    (tmp_path / "wrong.yaml").write_text("extends: own_image_cpu\n")
    with pytest.raises(ConfigError, match=r"wrong.yaml: extends: own_image_cpu: .* Did you mean 'own_images_cpu'\?"):
        load_config(tmp_path / "wrong.yaml")


def test_a_dictionary_and_a_model_are_read_as_a_file_is(tmp_path, write_yaml, tiny_search):
    path = write_yaml(tmp_path / "a.yaml", tiny_search)
    config = SearchConfig.read(path)
    assert SearchConfig.read(tiny_search) == config
    assert SearchConfig.read(config) is config
    assert SearchConfig.read(tiny_search, ["run.seed=3"]) == SearchConfig.read(path, ["run.seed=3"])
    assert SearchConfig.read(config, ["run.seed=3"]) == SearchConfig.read(path, ["run.seed=3"])
    of_base = {"extends": "quickstart_cpu", "run": {"seed": 7}}
    assert SearchConfig.read(of_base) == SearchConfig.read("quickstart_cpu", ["run.seed=7"])
    assert of_base == {"extends": "quickstart_cpu", "run": {"seed": 7}}  # as it was
    with pytest.raises(ConfigError, match=r"^the config: search\.epochs: got 'x'"):
        SearchConfig.read(tiny_search, ["search.epochs=x"])


def test_copy_returns_the_new_file(tmp_path):
    assert copy("quickstart", tmp_path / "new") == tmp_path / "new" / "quickstart.yaml"


def test_a_command_in_a_message_has_the_name_unless_a_file_shadows_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert as_argument(shipped_config("imagenet_cpu")) == "imagenet_cpu"
    assert as_argument(tmp_path / "mine.yaml") == str(tmp_path / "mine.yaml")
    path = shipped_config("imagenet_cpu")
    (tmp_path / "imagenet_cpu").write_text("{}")
    assert as_argument(path) == str(path)
