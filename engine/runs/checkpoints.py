"""Writes and reads the checkpoints of a run. A process may be killed at any moment: the newest whole file is taken."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import pickle
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.errors import CheckpointError, UserError
from engine.files import make_folder, read_bytes, remove_stale, write_atomically, writing
from engine.runs.states import not_finite

log = logging.getLogger("engine")

# torch.load raises one of these on other files: it depends on where they cease to look like a checkpoint
NOT_A_STATE = (
    *(RuntimeError, pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError, AttributeError),
    *(ArithmeticError, AssertionError, ImportError, struct.error),
)

FORMAT = "proxylessnas/checkpoint@1"
"""The value of a checkpoint's key `format`. Checkpoints of earlier versions have no such key."""
DESCRIPTION = ("network", "space", "layers", "activation", "architecture", "classes", "preprocessing", "epoch", "test")
"""Keys that describe the network of a checkpoint; each kind of run writes some of them. Their values are plain."""
STATES = ("search", "retrain")
"""Keys of the state of a run, a mapping; a checkpoint has one of them."""
_EXPECTED, _FOREIGN = "a step-*.pt file of a run", "is not a checkpoint of this framework"
_NAME = re.compile(r"step-(?P<step>\d{9})-(?P<hash>[0-9a-f]{12})\.pt")


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run: files `step-000001200-<hash of the content>.pt` in `folder`."""

    folder: Path
    keep: int = 2

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Writes a checkpoint atomically, then deletes all but the newest `keep`.

        Other files of this step or a later one are deleted too: a run that saves here has skipped them as damaged.
        Raises WriteError if the system refuses, UserError if a value of the state is not finite, and UnpicklingError if
        the state holds anything but tensors and plain values, which could not be read back. None of these errors
        changes a file.
        """
        if ruined := not_finite(state):
            good = [other for other in self.steps() if other < step]
            rest = f"the checkpoint of step {good[0]} is good" if good else "and there is no checkpoint before it"
            raise UserError(
                found=f"{ruined} is not finite at step {step}: training has diverged; this state is not saved, {rest}",
                remedy="start again in another folder with a lower learning rate, or more warm-up",
            )
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        # Fails if the state cannot be read back, so such a bug shows at the first save, not at the resume. No tensor is
        # read: meta tensors have no content.
        torch.load(io.BytesIO(content), map_location="meta", weights_only=True)
        make_folder(self.folder)
        path = self.folder / f"step-{step:09d}-{_hash(content)}.pt"
        write_atomically(path, content)
        # a folder of such a name is no checkpoint and is left alone
        others = [other for other in self._files() if other != path and (other.is_symlink() or not other.is_dir())]
        before = [other for other in others if _step(other) < step and other.is_file()][: self.keep - 1]
        for other in others:
            if other not in before:
                with writing(other):
                    other.unlink(missing_ok=True)
        remove_stale(self.folder)  # left by a process that was killed while writing
        return path

    def newest(self) -> tuple[int, dict[str, Any]] | None:
        """Returns (step, state) of the newest good checkpoint; None if there is none.

        A damaged file is named in a warning and the one before it is taken. Raises CheckpointError if all are damaged.
        Safe while another process writes: a file that it deletes meanwhile has a newer one beside it.
        """
        damaged: set[Path] = set()
        while True:
            candidates = [path for path in self._files() if path not in damaged]
            if not candidates:
                break
            try:
                state = load_checkpoint(candidates[0])
            except CheckpointError as error:
                if not os.path.lexists(candidates[0]):  # deleted meanwhile; a link to nothing is damaged
                    continue
                log.warning("%s; trying the checkpoint before it", error)
                damaged.add(candidates[0])
            else:
                return _step(candidates[0]), state
        if damaged:
            found = f"all {len(damaged)} checkpoints are damaged"
            raise CheckpointError(str(self.folder), found, remedy="start again in a new folder")
        return None

    def resume(self) -> tuple[int, dict[str, Any]] | None:
        """Returns the same as newest(). Only the process that writes here calls it.

        Damaged files that were skipped are renamed to `*.damaged`, so that no later save counts them among the
        checkpoints that it keeps. Raises WriteError if the system refuses.
        """
        newest = self.newest()
        if newest is None:
            return None
        for path in self._files():
            if _step(path) > newest[0]:
                with writing(path):
                    path.rename(path.with_name(f"{path.name}.damaged"))
        return newest

    def steps(self) -> list[int]:
        """Returns the steps that have a file, the newest first. A file may be damaged; newest() checks that."""
        return [_step(path) for path in self._files()]

    def _files(self) -> list[Path]:
        """Returns the files of checkpoints, the newest first."""
        paths = self.folder.glob("step-*.pt") if self.folder.is_dir() else ()
        return sorted((path for path in paths if _NAME.fullmatch(path.name)), key=_step, reverse=True)


def _step(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match["step"])


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def load_checkpoint(path: Path, expected: str = _EXPECTED) -> dict[str, Any]:
    """Returns the content of a checkpoint file. Raises CheckpointError if it is absent, damaged, or no checkpoint.

    expected: a noun for what the caller accepts, for the error if there is no such file.
    """
    content = read_bytes(path, expected, CheckpointError, most=_size(path))
    named = _NAME.fullmatch(path.name)
    if named and named["hash"] != _hash(content):
        raise CheckpointError(str(path), "is damaged: its content does not match the hash in its name")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except NOT_A_STATE:
        raise CheckpointError(str(path), _FOREIGN, _EXPECTED) from None
    if not isinstance(state, dict):
        raise CheckpointError(str(path), _FOREIGN, _EXPECTED)
    if state.get("format", FORMAT) != FORMAT:
        raise CheckpointError(str(path), f"has the format {state['format']!r:.60}", f"'{FORMAT}'")
    for key in STATES:
        if key in state and not isinstance(state[key], dict):
            raise CheckpointError(f"{path}: {key}", "holds something else than a state", _EXPECTED)
    for key in DESCRIPTION:
        if not _is_plain(state.get(key)):
            raise CheckpointError(f"{path}: {key}", "holds something else than text and numbers", _EXPECTED)
    return state


def _is_plain(value: Any) -> bool:
    """Returns whether a value could be JSON: text, numbers, lists and mappings of them."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float)


def _size(path: Path) -> int:
    """Returns the size of a file in bytes. Raises CheckpointError if twice as much (the content and its tensors)
    exceeds the memory of this machine: then no run here has written it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        size = path.stat().st_size
    except (OSError, ValueError):  # reading it raises the error
        return 0
    if 2 * size > memory:
        found = f"has {size >> 20} MB, too many for this machine's memory"
        raise CheckpointError(str(path), found, _EXPECTED)
    return size


def misfit(error: Exception) -> str:
    """Returns the first fault that torch's load_state_dict reports, in a short line; the first line of torch's own
    message only reports a failure."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[1] if len(lines) > 1 else lines[0]
    return f"{line[:157]}..." if len(line) > 160 else line
