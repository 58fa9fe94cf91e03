"""Chains stand wherever architectures do: in show, the sum of a table, retraining, evaluation and prediction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import proxyless_nas as pn
from engine.errors import ConfigError
from proxyless_nas.interchange import convert
from published.net_config.conversion import net_config_of
from published.networks import mobile_chain, named
from published.state_names import official_state
from supernet.chain import Chain, ChainConfig, ClassifierConfig


@pytest.fixture
def small() -> Chain:
    """A chain for bundled digits, 8 x 8 pixels and 10 classes."""
    chain = mobile_chain("small", 8, ((8, 1, "k3e1"), (16, 2, "k3e3 - k5e6")), 32)
    fields = dict(chain.config) | {"input_size": 8, "input_channels": 1, "classifier": ClassifierConfig(classes=10)}
    return Chain(ChainConfig.model_validate(fields), "small")


@pytest.fixture
def settings() -> dict[str, Any]:
    return {
        "data": {"name": "digits", "workers": 0},
        "retrain": {"epochs": 1, "batch_size": 50},
        "run": {"threads": 1},
    }


def test_a_chain_is_retrained_evaluated_and_predicts(small: Chain, settings: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "architecture.json"
    file.write_text(small.to_json())
    result = pn.retrain(settings, file, tmp_path / "run")
    assert result.architecture == small
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("*.pt")
    assert pn.evaluate(settings, checkpoint).top1 == result.test.top1
    assert pn.evaluate(settings, checkpoint, file).top1 == result.test.top1
    network = pn.pretrained(None, tmp_path / "run")
    assert network.architecture == small
    assert "mbconv_k5_e6" in str(pn.show(tmp_path / "run"))


def test_show_and_the_sum_of_a_table_take_a_chain(space_of, formula_table, tmp_path: Path) -> None:
    names = ["mbconv_k3_e3", "mbconv_k5_e6", "skip"]
    stages = [{"width": 8, "candidates": ["mbconv_k3_e1"]}, {"width": 16, "depth": 3, "stride": 2, "candidates": names}]
    section = {"input_size": 8, "input_channels": 1, "classes": 10, "stem": {"width": 8}, "stages": stages}
    space = space_of(section | {"feature_mix": 32})
    architecture = pn.Architecture(space, (0, 2, 1))
    table = formula_table(space)
    chain = Chain.of(architecture)
    milliseconds = [table.price(layer, place) for place, layer in chain.places]
    assert milliseconds == [table.price(layer, place) for place, layer in architecture.places]
    ours, theirs = (str(pn.show(design, table)).splitlines() for design in (chain, architecture))
    assert ours[-1].split() == theirs[-1].split()


def test_convert_takes_a_config_and_weights_there_and_back(command, small: Chain, tmp_path: Path) -> None:
    network = pn.Network(small, seed=3)
    torch.save({"state_dict": official_state(network)}, tmp_path / "official.pth")
    config = net_config_of(small)
    (tmp_path / "net.config").write_text(json.dumps(config))
    there = command(
        "convert", tmp_path / "net.config", tmp_path / "architecture.json", "--input-size", 8,
        "--weights", tmp_path / "official.pth", tmp_path / "ours.pt",
    )  # fmt: skip
    assert there.status == 0, there.err
    assert "params" in there.out
    assert pn.Network(small).architecture.layers == pn.pretrained(None, tmp_path / "ours.pt").architecture.layers
    back = command(
        "convert", tmp_path / "architecture.json", tmp_path / "again.config",
        "--weights", tmp_path / "ours.pt", tmp_path / "again.pth",
    )  # fmt: skip
    assert back.status == 0, back.err
    assert json.loads((tmp_path / "again.config").read_text()) == config
    state = torch.load(tmp_path / "again.pth", weights_only=True)["state_dict"]
    assert state.keys() == official_state(network).keys()
    assert all(torch.equal(value, state[name]) for name, value in official_state(network).items())


def test_convert_replaces_no_file_that_holds_something_else(small: Chain, tmp_path: Path) -> None:
    """What it has written itself it writes again; before it refuses one target, it writes no other one."""
    source, target = tmp_path / "small.json", tmp_path / "net.config"
    saved, weights = tmp_path / "saved.pth", tmp_path / "official.pth"
    source.write_text(small.to_json())
    torch.save({"state_dict": official_state(pn.Network(small, seed=3))}, saved)
    convert(source, target, (saved, weights))
    written = target.read_bytes(), weights.read_bytes()
    convert(source, target, (saved, weights))
    assert (target.read_bytes(), weights.read_bytes()) == written
    weights.write_bytes(b"of a long training")
    target.unlink()
    with pytest.raises(
        ConfigError, match=r"--weights: .*official\.pth exists, and holds something else; choose another"
    ):
        convert(source, target, (saved, weights))
    assert not target.exists()
    target.mkdir()
    with pytest.raises(ConfigError, match=r"target: .*net\.config exists, and holds something else"):
        convert(source, target)


def test_convert_writes_a_named_network(command, tmp_path: Path) -> None:
    ended = command("convert", "proxyless_cpu", tmp_path / "net.config")
    assert ended.status == 0, ended.err
    assert json.loads((tmp_path / "net.config").read_text()) == net_config_of(named("proxyless_cpu"))
    ended = command("convert", "proxyless_cpu", tmp_path / "architecture.json")
    assert ended.status == 0, ended.err
    assert "4361648" in (tmp_path / "architecture.json").read_text()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{", "x.config: not JSON"),
        ('{"name": "ResNets", "classifier": {}}', "x.config: name: got 'ResNets', expected 'ProxylessNASNets'"),
        ("[]", "x.config: "),
    ],
)
def test_a_wrong_file_is_one_line(command, tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "x.config").write_text(text)
    ended = command("convert", tmp_path / "x.config", tmp_path / "architecture.json")
    assert ended.status == 2
    assert line in ended.err
    assert len(ended.err.strip().splitlines()) == 1
    assert not (tmp_path / "architecture.json").exists()


def test_an_unknown_name_is_one_line_with_the_nearest(command, tmp_path: Path) -> None:
    ended = command("show", "proxyless_cqu")
    assert ended.status == 2
    assert "Did you mean 'proxyless_cpu'?" in ended.err


def test_show_takes_a_name(command) -> None:
    ended = command("show", "proxyless_mobile14")
    assert ended.status == 0
    assert "6.86 M" in ended.out
