"""Loads checkpoints of other projects into networks of this one: every weight, by name and shape, and nothing else."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import CheckpointError, InvalidError
from engine.files import read_bytes
from engine.runs.checkpoints import NOT_A_STATE
from engine.runs.states import check_tensor
from published.download import MOST_BYTES

_EXPECTED = "the weights of a network"
_COUNT = "num_batches_tracked"
"""BN's count of batches, which no output depends on. Files that torch before 0.4.1 wrote do not have it."""


def load_official(path: Path, network: nn.Module, names: Mapping[str, str] | None = None) -> None:
    """Copies the weights in a checkpoint file into a network, all of them or none.

    names: the network's name of each weight in the file, by the file's name of it; None if they are equal. Raises
    CheckpointError if the file cannot be read, lacks a weight, has one more, or one of another shape or type or with
    values that are not finite. BN's counts of batches may be missing; they become 0.
    """
    names = {name: name for name in network.state_dict()} if names is None else names
    load_state(read_state(path), str(path), network, names)


def load_state(state: Mapping[str, Tensor], place: str, network: nn.Module, names: Mapping[str, str]) -> None:
    """Copies weights into a network, all of them or none. place: of the weights, for errors. See `load_official`."""
    own = network.state_dict()
    assert sorted(names.values()) == sorted(own), "the mapping names every weight of the network once"
    missing = [name for name in names if name not in state and not name.endswith(_COUNT)]
    if missing:
        raise CheckpointError(place, f"lacks {missing[0]}{_others(missing)}", "a weight for each of the network")
    if extra := [name for name in state if name not in names]:
        raise CheckpointError(place, f"has {extra[0]}{_others(extra)}, which the network has not", "its weights alone")
    try:
        for name, value in state.items():
            check_tensor(name, value, own[names[name]].shape, own[names[name]].dtype)
    except InvalidError as error:
        raise CheckpointError.of(error, place) from None
    zero = {theirs: torch.zeros_like(own[ours], device="cpu") for theirs, ours in names.items() if theirs not in state}
    network.load_state_dict({names[name]: value for name, value in {**state, **zero}.items()})


def read_state(path: Path) -> dict[str, Tensor]:
    """Returns the weights in a checkpoint file by name: its content, or its entry `state_dict`; of a checkpoint of this
    framework the content.

    The file is read as weights alone (torch.load's `weights_only`), so no code in it runs. Raises CheckpointError if it
    cannot be read so, or holds something else.
    """
    content = read_bytes(path, _EXPECTED, CheckpointError, most=MOST_BYTES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch names a protocol of pickle that it does not expect
            state: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except NOT_A_STATE:
        found = "is damaged, or a pickle that holds more than weights; nothing in it was run"
        raise CheckpointError(str(path), found, _EXPECTED) from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict) and "retrain" not in state:
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise CheckpointError(str(path), "holds no tensors by name", _EXPECTED)
    return dict(state)


def _others(names: list[str]) -> str:
    """Returns how many more there are than the first, as words; nothing if there are none."""
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
