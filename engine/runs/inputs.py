"""Records what a run is begun with, and compares it when the run is resumed.

inputs.json has the numbers of images, and checksums of their labels, of the names and sizes of their files (or of the
pixels of a set in memory) and of the content of the user's own files. The content of image files is not read, which
would take hours for ImageNet: a file that is replaced by another one of the same size is not noticed. images.csv.gz has
the name, size and class of each image file, so that a change can be described.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import logging
import os
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.data import FileList, ImageSet
from engine.errors import ConfigError, UserError, explain
from engine.files import read_bytes, read_json, reason_of, replacing, write_atomically, writing

log = logging.getLogger("engine")

FILE = "inputs.json"
LIST = "images.csv.gz"
FORMAT = "proxylessnas/inputs@1"
MOST_LIST_BYTES = 1 << 30

Inputs = dict[str, dict[str, Any]]
"""Maps each part of a run's inputs to its figures and checksums by name. The parts are `training images`, `validation
images` and `own files`, the files of Python code that the user's config names. They are recorded when a run begins and
compared when it is resumed."""


def of_images(images: ImageSet) -> dict[str, Any]:
    """Returns the number of images, the checksum of their labels, and that of their content: for a set in memory the
    pixels, for a set of files their names and sizes, and the list of these."""
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
    _write_list(out, inputs)
    plain = {part: _without_lists(values) for part, values in inputs.items()}
    write_atomically(out / FILE, json.dumps({"format": FORMAT, "inputs": plain}, indent=2) + "\n")


def refuse_other_inputs(out: Path, inputs: Inputs) -> None:
    """Raises ConfigError, naming each difference, unless the run in `out` began with these inputs."""
    before = recorded(out)
    if before is None:
        log.warning("%s: has no %s, so changes of the data since the run began would not be noticed", out, FILE)
        record(out, inputs)
        return
    if lines := changed_inputs(out, before, inputs):
        remedy = "put back what it was begun with, or start a new run in another folder"
        raise ConfigError("--resume", f"{'; '.join(lines)} since the run in {out} began", remedy=remedy)
    if not (out / LIST).exists():  # a run of an earlier version
        _write_list(out, inputs)


def changed_inputs(out: Path, before: Inputs, now: Inputs) -> list[str]:
    """Returns a line for each difference between what the run in `out` began with and what is there now."""
    parts = before | now
    changed = {part: _changes(part, before.get(part, {}), _without_lists(now.get(part, {}))) for part in parts}
    described = _described(out, now) if any(changed.values()) else []
    if described:  # in the place of numbers and checksums
        changed |= {part: [] for part, values in now.items() if "files" in values}
    return [*described, *(line for part in changed.values() for line in part)]


def _without_lists(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not isinstance(value, FileList)}


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


Files = dict[str, tuple[str, str, str]]
"""Maps the name of each image file to its part, class and size in bytes, as texts."""


def _rows(inputs: Inputs) -> Iterable[tuple[str, str, int, int]]:
    """Yields (part, name, class, bytes) of every image file."""
    for part, values in inputs.items():
        files = values.get("files")
        if isinstance(files, FileList):
            columns = (files.names.tolist(), files.labels.tolist(), files.sizes.tolist())
            for name, label, size in zip(*columns, strict=True):
                yield part, os.fsdecode(name), label, size


def _write_list(out: Path, inputs: Inputs) -> None:
    """Writes the list of all image files; deletes that of a start that failed if there are none."""
    path = out / LIST
    if not any("files" in values for values in inputs.values()):
        path.unlink(missing_ok=True)
        return
    with (
        replacing(path) as temporary,
        writing(path),
        temporary.open("wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
        io.TextIOWrapper(packed, "utf-8", "surrogateescape", newline="") as text,
    ):
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("part", "path", "class", "bytes"))
        writer.writerows(_rows(inputs))


def _begun_with(out: Path) -> Files:
    """Returns the image files that a run began with; none if they were not recorded, or the list is damaged."""
    try:
        content = gzip.decompress(read_bytes(out / LIST, "a list of images", most=MOST_LIST_BYTES))
        text = io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")
        return {path: (part, label, size) for part, path, label, size in list(csv.reader(text))[1:]}
    except (UserError, OSError, EOFError, zlib.error, ValueError, csv.Error):
        return {}


def _described(out: Path, inputs: Inputs) -> list[str]:
    """Returns lines that name the image files which differ from those that the run in `out` began with; none if that is
    not known."""
    before = _begun_with(out)
    now: Files = {name: (part, str(label), str(size)) for part, name, label, size in _rows(inputs)}
    if not before or not now:
        return []
    differences: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for name, (part, label, size) in before.items():
        if name not in now:
            differences[part, "missing"].append(name)
            continue
        new_part, new_label, new_size = now[name]
        if new_size != size:
            differences[part, "of another size"].append(name)
        if new_label != label:
            differences[part, "of another class"].append(name)
        if new_part != part:
            differences[part, f"among the {new_part}"].append(name)
    for name in now.keys() - before.keys():
        differences[now[name][0], "new"].append(name)
    kinds = {how for _, how in differences}
    if kinds & {"missing", "new"}:
        # the split of a search depends on all images, and the numbers of classes on all folders
        kinds = {"missing", "new", "of another size"}
    lines = []
    for (part, how), names in differences.items():
        if how in kinds:
            several = len(names) > 1
            what = f"{len(names)} {part} are {how} (first: " if several else f"1 {part.removesuffix('s')} is {how} ("
            lines.append(f"{what}'{min(names)}')")
    return lines
