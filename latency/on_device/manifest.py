"""Reads the manifest of a kit, and checks that the kit is complete and unchanged."""

from __future__ import annotations

import hashlib
import json
import os
import re
from typing import Any

from .errors import KitError
from .models import RUNTIMES

MANIFEST = "manifest.json"
MANIFEST_FORMAT = "proxylessnas/device-kit@1"
MOST_MANIFEST_BYTES = 64 << 20
MOST_JOBS = 20_000
MOST_ELEMENTS = 1 << 28
"""The most elements of an input: 1 GB in float32."""
WHOLE_NUMBERS = {"threads": (1, 1024), "passes": (1, 100_000), "warmup": (0, 100_000), "seed": (0, 2**63 - 1)}
"""Maps keys of a manifest to the smallest and the largest accepted value."""


def read_manifest(folder: str) -> tuple[dict[str, Any], str]:
    """Returns the manifest of the kit in `folder`, and its sha256. Raises KitError unless the kit is complete and
    unchanged.

    Nothing in the manifest is trusted: this function checks every value that this program uses, that every named file
    lies in the folder itself, and that every file to be opened has its hash in `files`.
    """
    path = os.path.join(folder, MANIFEST)
    try:
        if not os.path.isfile(path):
            raise KitError(path, "no such file", remedy="run bench.py in the folder that proxyless-nas kit exported")
        with open(path, "rb") as file:
            content = file.read(MOST_MANIFEST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no file name"
        raise KitError(path, f"cannot be read ({reason})", remedy="copy the kit again") from None
    if len(content) > MOST_MANIFEST_BYTES:
        raise KitError(path, f"has more than {MOST_MANIFEST_BYTES >> 20} MB", remedy="export the kit again")
    try:
        manifest = json.loads(
            content.decode("utf-8"), object_pairs_hook=_once, parse_int=_whole, parse_constant=_not_a_number
        )
    except RecursionError:
        raise KitError(path, "has too many brackets inside each other", remedy="export the kit again") from None
    except ValueError as error:
        reason = f" ({error})" if isinstance(error, _RefusedError) else ""
        raise KitError(path, f"is not JSON, perhaps cut off{reason}", remedy="copy the kit again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != MANIFEST_FORMAT:
        raise KitError(path, expected=f"format '{MANIFEST_FORMAT}'", remedy="export the kit again")
    try:
        _check_settings(manifest)
        _check_files(folder, manifest["files"])
        _check_jobs(manifest)
    except _RefusedError as error:
        where = f"{path}: {error.where}" if error.where else path
        raise KitError(where, error.found, error.expected, "export the kit again") from None
    for name, digest in sorted(manifest["files"].items()):
        there = os.path.join(folder, name)
        if not os.path.exists(there):
            raise KitError(there, "is missing", remedy="copy the whole kit again")
        if not os.path.isfile(there):
            raise KitError(there, "is no regular file", remedy="copy the whole kit again")
        try:
            actual = sha256(there)
        except OSError as error:
            raise KitError(there, f"cannot be read ({error.strerror})", remedy="copy the kit again") from None
        if actual != digest:
            raise KitError(there, "is not the exported file (its sha256 differs)", remedy="copy the kit again")
    return manifest, hashlib.sha256(content).hexdigest()


class _RefusedError(ValueError):
    """A fault of a manifest, without the file's name and the remedy. where: the key at fault, if there is one."""

    def __init__(self, where: str, found: str, expected: str = ""):
        super().__init__(where, found, expected)
        self.where, self.found, self.expected = where, found, expected

    def __str__(self) -> str:
        return str(KitError(self.where, self.found, self.expected))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the dictionary of these pairs. Raises _RefusedError if a key occurs twice."""
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise _RefusedError("", f"key {_shown(key)} is given twice")
        values[key] = value
    return values


def _whole(digits: str) -> int:
    """Returns the number. Raises _RefusedError if it has more than 20 digits."""
    if len(digits) > 20:  # the time to convert a longer number grows with its square
        raise _RefusedError("", f"a number has {len(digits)} digits")
    return int(digits)


def _not_a_number(word: str) -> float:
    """Raises _RefusedError, for NaN and Infinity."""
    raise _RefusedError("", f"{word} is no number")


def _shown(value: Any) -> str:
    """Returns a value of a manifest as a short text in one line."""
    if isinstance(value, (dict, list)):
        return f"a {'section' if isinstance(value, dict) else 'list'} of {len(value)}"
    text = ascii(value[:80]) if isinstance(value, str) else ascii(value)
    return text if len(text) <= 100 else text[:100] + "..."


def _is_whole(value: Any, least: int, most: int) -> bool:
    """Returns whether a value is a whole number from `least` to `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _check_settings(manifest: dict[str, Any]) -> None:
    """Raises _RefusedError unless the runtime and all numbers of the settings are accepted."""
    for key in ("files", "jobs", "schedule", "runtime", *WHOLE_NUMBERS):
        if key not in manifest:
            raise _RefusedError("", f"lacks '{key}'")
    if manifest["runtime"] not in list(RUNTIMES):  # it may be unhashable
        raise _RefusedError("runtime", f"got {_shown(manifest['runtime'])}", " or ".join(RUNTIMES))
    for key, (least, most) in WHOLE_NUMBERS.items():
        if not _is_whole(manifest[key], least, most):
            raise _RefusedError(key, f"got {_shown(manifest[key])}", f"a whole number from {least} to {most}")


def _check_files(folder: str, files: Any) -> None:
    """Checks that every name is that of a file below `folder`, reached without links, and has a sha256."""
    if not isinstance(files, dict) or len(files) > MOST_JOBS:
        raise _RefusedError("files", f"got {_shown(files)}", f"at most {MOST_JOBS} names with their sha256")
    root = os.path.realpath(folder)
    for name, digest in files.items():
        parts = name.split("/")
        inside = all(part and part not in (".", "..") for part in parts) and name.isprintable() and len(name) <= 1000
        if not inside or "\\" in name or ":" in name:  # these lead out of the folder on Windows
            raise _RefusedError("files", f"{_shown(name)} is no name of a file in the kit's folder")
        if os.path.realpath(os.path.join(root, name)) != os.path.join(root, *parts):
            raise _RefusedError("files", f"{_shown(name)} is a link, or lies behind one; a kit has no links")
        if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
            raise _RefusedError(f"files.{name[:80]}", f"got {_shown(digest)}", "a sha256 in hexadecimal")


def _check_jobs(manifest: dict[str, Any]) -> None:
    """Raises _RefusedError unless every job and the schedule can be run."""
    jobs, schedule = manifest["jobs"], manifest["schedule"]
    if not isinstance(jobs, list) or len(jobs) > MOST_JOBS:
        raise _RefusedError("jobs", f"got {_shown(jobs)}", f"a list of at most {MOST_JOBS}")
    names = set()
    for i, job in enumerate(jobs):
        if not isinstance(job, dict):
            raise _RefusedError(f"jobs.{i}", f"got {_shown(job)}", "a section")
        for key in ("id", "file", "shape", "inside", "layers"):
            if key not in job:
                raise _RefusedError(f"jobs.{i}", f"lacks '{key}'")
        name, shape = job["id"], job["shape"]
        if not isinstance(name, str) or not re.fullmatch("[A-Za-z0-9_-]{1,100}", name) or name in names:
            raise _RefusedError(f"jobs.{i}.id", f"got {_shown(name)}", "a name of its own, of letters and digits")
        names.add(name)
        if not isinstance(job["file"], str) or job["file"] not in manifest["files"]:
            raise _RefusedError(f"jobs.{i}.file", f"got {_shown(job['file'])}", "one of `files`, where its sha256 is")
        sizes = shape if isinstance(shape, list) else []
        elements = 1
        for size in sizes if len(sizes) <= 8 else []:
            elements = elements * size if _is_whole(size, 1, MOST_ELEMENTS) else MOST_ELEMENTS + 1
        if not 1 <= len(sizes) <= 8 or not 1 <= elements <= MOST_ELEMENTS:
            raise _RefusedError(
                f"jobs.{i}.shape",
                f"got {str(sizes)[:60] or _shown(shape)}",
                f"sizes with at most {MOST_ELEMENTS} elements",
            )
        if not isinstance(job["inside"], bool) or (job["inside"] and not RUNTIMES[manifest["runtime"]].times_layers):
            raise _RefusedError(f"jobs.{i}.inside", f"got {_shown(job['inside'])}", "true (with onnxruntime) or false")
        if not _is_whole(job["layers"], 1, 10_000):
            raise _RefusedError(f"jobs.{i}.layers", f"got {_shown(job['layers'])}", "a whole number from 1 to 10000")
    if not isinstance(schedule, list) or len(schedule) > 10_000:
        raise _RefusedError("schedule", f"got {_shown(schedule)}", "a list of at most 10000 rounds")
    for i, round_ in enumerate(schedule):
        if not isinstance(round_, list) or len(round_) > len(names):
            raise _RefusedError(f"schedule.{i}", f"got {_shown(round_)}", "a list of jobs, each once")
        seen = set()
        for name in round_:
            if not isinstance(name, str) or name not in names or name in seen:
                raise _RefusedError(f"schedule.{i}", f"got {_shown(name)}", "ids of jobs, each once")
            seen.add(name)


def sha256(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
