"""Checkpoints that survive being killed: written atomically, named by their content, the last two kept."""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.errors import CheckpointError
from engine.files import write_atomically

log = logging.getLogger("engine")

# What torch.load raises on other files, depending on where they stop to look like one
_NOT_A_STATE = (
    *(RuntimeError, pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError, AttributeError),
    *(ArithmeticError, AssertionError, ImportError, struct.error),
)

_NAME = re.compile(r"step-(?P<step>\d{9})-(?P<hash>[0-9a-f]{12})\.pt")


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run: files `step-000001200-<hash of the content>.pt` in `folder`."""

    folder: Path
    keep: int = 2

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write atomically, then delete all but the newest `keep`.

        Other files of this step or a later one go too: a run that saves here has passed them by as damaged. Raises
        UnpicklingError, and changes no file, for a state that could not be read back: only tensors and plain values.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        # A bug that must show at the first save, not at the resume. No tensor is read: meta tensors have no content.
        torch.load(io.BytesIO(content), map_location="meta", weights_only=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:09d}-{_hash(content)}.pt"
        write_atomically(path, content)
        others = [other for other in self._files() if other != path]
        before = [other for other in others if _step(other) < step][: self.keep - 1]
        for other in others:
            if other not in before:
                other.unlink(missing_ok=True)
        for stale in self.folder.glob(".step-*.tmp"):  # of a process that was killed while writing
            stale.unlink(missing_ok=True)
        return path

    def newest(self) -> tuple[int, dict[str, Any]] | None:
        """(step, state) of the newest good checkpoint, None where there is none.

        A damaged file is named in a warning and the one before it is taken; CheckpointError if all are damaged. Safe
        while another process writes: a file that it deletes meanwhile has a newer one beside it.
        """
        damaged: set[Path] = set()
        while True:
            candidates = [path for path in self._files() if path not in damaged]
            if not candidates:
                break
            try:
                state = load_checkpoint(candidates[0])
            except CheckpointError as error:
                if not candidates[0].exists():  # deleted meanwhile
                    continue
                log.warning("%s; trying the checkpoint before it", error)
                damaged.add(candidates[0])
            else:
                return _step(candidates[0]), state
        if damaged:
            raise CheckpointError(
                f"{self.folder}: all {len(damaged)} checkpoints are damaged; start again in a new folder"
            )
        return None

    def steps(self) -> list[int]:
        """The steps that have a file, newest first; newest() tells whether it is good."""
        return [_step(path) for path in self._files()]

    def _files(self) -> list[Path]:
        """Newest first."""
        found = self.folder.glob("step-*.pt") if self.folder.is_dir() else ()
        return sorted((path for path in found if _NAME.fullmatch(path.name)), key=_step, reverse=True)


def _step(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match["step"])


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """One checkpoint file. CheckpointError where it is absent, damaged, or no checkpoint."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}; expected a .pt file of a run") from None
    named = _NAME.fullmatch(path.name)
    if named and named["hash"] != _hash(content):
        raise CheckpointError(f"{path}: is damaged: its content does not match the hash in its name")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except _NOT_A_STATE:
        raise CheckpointError(
            f"{path}: is not a checkpoint of this framework; expected a step-*.pt file of a run"
        ) from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: is not a checkpoint of this framework; expected a step-*.pt file of a run")
    return state


def misfit(error: Exception) -> str:
    """What torch's load_state_dict found wrong first, in a short line; its own first one only says that it failed."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[1] if len(lines) > 1 else lines[0]
    return f"{line[:157]}..." if len(line) > 160 else line
