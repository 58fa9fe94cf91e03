"""An official checkpoint is loaded strictly: every weight by name, shape and type, or one clear line."""

from __future__ import annotations

import copy
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.errors import CheckpointError
from published.weights import load_official

State = dict[str, Tensor]


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


@pytest.fixture
def state() -> State:
    torch.manual_seed(1)
    return {
        name: torch.rand_like(value) if value.dim() else value + 7 for name, value in network().state_dict().items()
    }


NAMES = {name: f"theirs.{name}" for name in network().state_dict()}


def saved(folder: Path, content: Any, **options: Any) -> Path:
    torch.save(content, folder / "proxyless_cpu.pth", **options)
    return folder / "proxyless_cpu.pth"


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_every_weight_is_copied_by_its_name_in_the_file(state, tmp_path, zipped, wrapped):
    official = {NAMES[name]: value for name, value in state.items()}
    content = {"state_dict": official, "epoch": 3} if wrapped else official
    path = saved(tmp_path, content, _use_new_zipfile_serialization=zipped)
    net = network()
    load_official(path, net, {theirs: ours for ours, theirs in NAMES.items()})
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_counts_of_batches_may_be_missing(state, tmp_path):
    del state["1.num_batches_tracked"]
    net = network()
    net(torch.rand(2, 1, 5, 5))
    load_official(saved(tmp_path, state), net)
    assert net[1].num_batches_tracked == 0
    assert torch.equal(net[1].running_mean, state["1.running_mean"])


def without(state: State) -> None:
    del state["0.bias"], state["0.weight"]


def with_one_more(state: State) -> None:
    state["2.weight"] = torch.zeros(1)


def of_another_shape(state: State) -> None:
    state["0.weight"] = torch.zeros(2, 1, 5, 5)


def of_another_type(state: State) -> None:
    state["0.bias"] = state["0.bias"].half()


def not_finite(state: State) -> None:
    state["1.running_var"][0] = torch.nan


def no_tensor(state: State) -> None:
    state["0.bias"] = [0.0, 0.0]  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(without, "lacks 0.weight and 1 more, expected a weight for each of the network", id="7-missing"),
        pytest.param(
            with_one_more, "has 2.weight, which the network has not, expected its weights alone", id="8-extra"
        ),
        pytest.param(
            of_another_shape,
            "0.weight has shape (2, 1, 5, 5) of float32, expected (2, 1, 3, 3) of float32",
            id="9-another-shape",
        ),
        pytest.param(of_another_type, "0.bias has shape (2,) of float16, expected (2,) of float32", id="another-type"),
        pytest.param(not_finite, "1.running_var has values that are not finite", id="not-finite"),
        pytest.param(no_tensor, "0.bias is a value of type list, expected a tensor of shape (2,)", id="no-tensor"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_line_and_changes_no_weight(
    state: State, change: Callable[[State], None], says: str, tmp_path: Path
) -> None:
    change(state)
    net = network()
    before = copy.deepcopy(net.state_dict())
    path = saved(tmp_path, {"state_dict": state})
    with pytest.raises(CheckpointError) as raised:
        load_official(path, net)
    assert str(raised.value) == f"{path}: {says}"
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("content", [[1, 2], {1: torch.zeros(1)}, "text", torch.zeros(2)])
def test_a_file_without_tensors_by_name_is_refused(content, tmp_path):
    with pytest.raises(CheckpointError, match="holds no tensors by name, expected the weights of a network"):
        load_official(saved(tmp_path, content), network())


@pytest.mark.parametrize("content", [b"\x80\x02}q\x00", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_refused(content, tmp_path):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged, or a pickle that holds more than weights"):
        load_official(tmp_path / "a.pth", network())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html>404", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        (gzip.compress(b"weights", mtime=0), "is an archive"),
        (b"\x02\0\0\0\0\0\0\0{]", "safetensors"),
    ],
)
def test_a_file_of_another_kind_is_called_by_it(content, says, tmp_path):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=says) as raised:
        load_official(tmp_path / "a.pth", network())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "form",
    [
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"model": state, "epoch": 3, "optimizer": {"state": {}, "param_groups": []}},
        lambda state: {"model_state_dict": {f"module.{name}": value for name, value in state.items()}},
    ],
)
def test_weights_are_found_under_the_names_that_training_programs_give_them(form, state, tmp_path):
    net = network()
    load_official(saved(tmp_path, form(state)), net)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_of_several_sets_of_weights_state_dict_is_used_with_a_word_and_others_are_refused(state, tmp_path, caplog):
    other = {name: value * 2 for name, value in state.items()}
    net = network()
    load_official(saved(tmp_path, {"state_dict": state, "state_dict_ema": other}), net)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert "state_dict is used, and not state_dict_ema" in caplog.text
    with pytest.raises(
        CheckpointError, match=r"holds several sets of weights: model, ema, expected one, or one called"
    ):
        load_official(saved(tmp_path, {"model": state, "ema": other}), net)


def test_a_flipped_byte_is_noticed(state, tmp_path, caplog):
    """torch.load does not compare the checksums in the file."""
    path = saved(tmp_path, state)
    content = bytearray(path.read_bytes())
    place = bytes(content).index(state["0.weight"].numpy().tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    load_official(path, network())
    assert "the checksum of its part proxyless_cpu/data/" in caplog.text


def test_a_safetensors_file_is_read(state, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch", reason="the extra safetensors is not installed")
    (tmp_path / "a.safetensors").write_bytes(safetensors.save(state))
    net = network()
    load_official(tmp_path / "a.safetensors", net)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
