"""Records the checksums of a run's images and of the user's own files, and compares them when the run is resumed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.data import ImageSet
from engine.errors import ConfigError, explain
from engine.files import read_json, reason_of, write_atomically

log = logging.getLogger("engine")

FILE = "inputs.json"
FORMAT = "proxylessnas/inputs@1"

Inputs = dict[str, dict[str, Any]]
"""Maps each part of a run's inputs to its figures and checksums by name. The parts are `training images`, `validation
images` and `own files`, the files of Python code that the user's config names. They are recorded when a run begins and
compared when it is resumed."""


def of_images(images: ImageSet) -> dict[str, Any]:
    """Returns the number of images, the checksum of their labels, and that of their content: for a set in memory the
    pixels, for a set of files their names and sizes."""
    labels = hashlib.sha256(np.ascontiguousarray(images.labels).data).hexdigest()
    return {"number": len(images), "labels": labels, **images.content()}


def of_file(path: Path, key: str) -> str:
    """Returns the checksum of a file's content. Raises ConfigError, which begins with `key`, if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(key, f"{path} cannot be read ({reason_of(error)})") from None


def checksums(modules: Sequence[tuple[str, str]], file_of: Callable[[str], Path | None]) -> dict[str, str]:
    """Returns the checksum of the file of each (key, module). Raises ConfigError, which begins with the key, if a file
    cannot be read.

    file_of: returns the file of a module, None for one without a file; raises ValueError if it is not found. Callers
    pass `supernet.user_modules.file_of`, because engine/ imports no other package of this project.
    """
    sums = {}
    for key, module in modules:
        with explain(key):
            path = file_of(module)
        if path is not None:
            sums[f"{key} {module}"] = of_file(path, key)
    return sums


def recorded(out: Path) -> Inputs | None:
    """Returns the recorded inputs of a run; None if there is no record. Raises ConfigError for a damaged record."""
    path = out / FILE
    if not os.path.lexists(path):
        return None
    expected, remedy = "what this run was begun with", "put the file back, or start again in a new folder"
    record = read_json(path, expected, remedy=remedy)
    inputs = record.get("inputs") if isinstance(record, dict) and record.get("format") == FORMAT else None
    if not isinstance(inputs, dict) or not all(isinstance(part, dict) for part in inputs.values()):
        raise ConfigError(str(path), "is no record of inputs", expected, remedy)
    return inputs


def record(out: Path, inputs: Inputs) -> None:
    """Writes the inputs with which a run begins."""
    write_atomically(out / FILE, json.dumps({"format": FORMAT, "inputs": inputs}, indent=2) + "\n")


def refuse_other_inputs(out: Path, inputs: Inputs) -> None:
    """Raises ConfigError, naming each difference, unless the run in `out` began with these inputs."""
    before = recorded(out)
    if before is None:
        log.warning("%s: has no %s, so changes of the data since the run began would not be noticed", out, FILE)
        record(out, inputs)
        return
    changed = [line for part in before | inputs for line in _changes(part, before.get(part, {}), inputs.get(part, {}))]
    if changed:
        remedy = "put back what it was begun with, or start a new run in another folder"
        raise ConfigError("--resume", f"{'; '.join(changed)} since the run in {out} began", remedy=remedy)


def _changes(part: str, before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Returns a line for each figure or checksum of a part that differs."""
    lines = []
    for name in before | now:
        old, new = before.get(name), now.get(name)
        if old != new:
            words = f"{name} of the {part}" if name in ("number", "labels", "pixels", "names") else f"{part}: {name}"
            number = isinstance(old, int) and isinstance(new, int)
            lines.append(f"{words} changed from {old} to {new}" if number else f"{words} changed")
    return lines
