"""Loads checkpoints of other projects into networks of this one: every weight, by name and shape, and nothing else."""

from __future__ import annotations

import io
import logging
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import CheckpointError, InvalidError, one_line
from engine.files import read_bytes
from engine.runs.checkpoints import NOT_A_STATE, STATES
from engine.runs.states import check_tensor
from published.download import MOST_BYTES

logger = logging.getLogger("published")
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
    """Returns the weights in a checkpoint file by name: its content, its entry `state_dict`, or its only entry that
    holds tensors by name; of a checkpoint of this framework the content. A safetensors file is read, too.

    A `module.` in front of every name, as DataParallel leaves it, is removed. The file is read as weights alone
    (torch.load's `weights_only`), so no code in it runs. Raises CheckpointError if it cannot be read so, or holds
    something else.
    """
    content = read_bytes(path, _EXPECTED, CheckpointError, most=MOST_BYTES)
    if _is_safetensors(content):
        return _without_module(_of_safetensors(content, path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch names a protocol of pickle that it does not expect
            state: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except NOT_A_STATE:
        found = _kind_of(content) or "is damaged, or a pickle that holds more than weights"
        raise CheckpointError(str(path), f"{found}; nothing in it was run", _EXPECTED) from None
    if damaged := _damaged_member(content):
        text = "%s: the checksum of its part %s is wrong: it is damaged, or was written without checksums"
        logger.warning(text, path, one_line(damaged, 80))
    if isinstance(state, dict) and not any(key in state for key in STATES):
        state = _set_of_weights(state, path)
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise CheckpointError(str(path), "holds no tensors by name", _EXPECTED)
    return _without_module(state)


def _set_of_weights(state: dict[Any, Any], path: Path) -> dict[Any, Any]:
    """Returns the weights in the content of a checkpoint, which may hold them in an entry, beside others. Raises
    CheckpointError if there are several sets of them, of which none is called `state_dict`."""
    sets = {
        str(key): value
        for key, value in state.items()
        if isinstance(value, dict) and value and all(isinstance(weight, Tensor) for weight in value.values())
    }
    if isinstance(state.get("state_dict"), dict):
        if others := [key for key in sets if key != "state_dict"]:
            text = "%s: holds several sets of weights; state_dict is used, and not %s"
            logger.warning(text, path, one_line(", ".join(others), 80))
        inner: dict[Any, Any] = state["state_dict"]
        return inner
    if any(isinstance(value, Tensor) for value in state.values()) or not sets:
        return state
    if len(sets) > 1:
        found = f"holds several sets of weights: {one_line(', '.join(sets), 80)}"
        raise CheckpointError(str(path), found, "one, or one called state_dict", "save the one that you mean alone")
    return next(iter(sets.values()))


def _without_module(state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns weights without the prefix of DataParallel and DistributedDataParallel, if every name has it."""
    if state and all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): value for name, value in state.items()}
    return dict(state)


def _is_safetensors(content: bytes) -> bool:
    """Returns whether a content begins as a safetensors file does: the length of a header, and the header in JSON."""
    return content[8:9] == b"{" and int.from_bytes(content[:8], "little") <= len(content) - 8


def _of_safetensors(content: bytes, path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a safetensors file by name. Raises CheckpointError if it is damaged, or the package is not
    installed."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load
    except ImportError:
        remedy = 'install it: pip install "proxylessnas[safetensors]"'
        raise CheckpointError(str(path), "is a safetensors file", "the package safetensors", remedy) from None
    try:
        state: dict[str, Tensor] = load(content)
    except (SafetensorError, *NOT_A_STATE):
        raise CheckpointError(str(path), "is a damaged safetensors file", _EXPECTED) from None
    return state


def _damaged_member(content: bytes) -> str | None:
    """Returns the first part of a checkpoint whose checksum is wrong, which torch.load does not compare; None if there
    is none, or the file has no checksums, as before torch 1.6."""
    if not content.startswith(b"PK"):
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        return str(error)


def _kind_of(content: bytes) -> str:
    """Returns what a file is that is no checkpoint, by its first bytes, in words; empty if it could be one."""
    begin = content[:512].lstrip()
    if not content:
        return "is empty"
    if begin[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "is a web page"
    if begin.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, whose file `git lfs pull` fetches"
    if content.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")) or content[257:262] == b"ustar":
        return "is an archive, which has to be unpacked first"
    return ""


def _others(names: list[str]) -> str:
    """Returns how many more there are than the first, as words; nothing if there are none."""
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
