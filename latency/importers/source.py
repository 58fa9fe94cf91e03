"""Helps all importers: holds the file to be imported, checks its numbers, and collects entries under our keys."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from engine.files import read_bytes
from engine.wording import shown
from latency.device import Device
from latency.table import Entry, LatencyTable, TableError, UsedRuntime
from supernet.catalogue import CANDIDATES

Activation = Literal["relu6", "relu", "hswish"]

STEM = "stem_k3"
"""No format states the stem's kernel; the published spaces have no other."""
NUMBER = r"\d{1,6}"
MOST_MS = 1e9
"""The most milliseconds of an entry."""


def hwc(prefix: str) -> str:
    """Returns a regular expression of HxWxC; `prefix` begins the names of its groups."""
    return "x".join(rf"(?P<{prefix}{axis}>{NUMBER})" for axis in "hwc")


@dataclass(frozen=True)
class SourceFile:
    """A file of another project. records: its content. device_name: what its author measured. activation: the entries
    to take; None: those that the format has first."""

    path: Path
    records: dict[str, Any]
    device_name: str
    activation: str | None = None

    def activation_of(self, accepted: tuple[Activation, ...]) -> Activation:
        """Returns the activation that was asked for, or the first of `accepted`. Raises TableError if it is no such."""
        for activation in accepted:
            if self.activation in (None, activation):
                return activation
        raise TableError(
            f"--activation {self.activation}",
            f"{self.path} has only {' and '.join(accepted)}",
            remedy="choose of these, or leave --activation out",
        )


class LeftOut(NamedTuple):
    """A record of the source that the table does not have, and why."""

    key: str
    reason: str


@dataclass(frozen=True)
class Imported:
    """An imported table, and the records that it does not have."""

    table: LatencyTable
    left_out: tuple[LeftOut, ...] = ()


def milliseconds(value: object, where: str, name: str) -> float:
    """Returns a number of milliseconds >= 0. Raises TableError, which begins with `where`, for anything else.

    name: the name of the value, for the error.
    """
    ms = finite(value, where, name, "milliseconds >= 0")
    if ms < 0:
        raise TableError(where, f"{name} is {shown(value)}", "milliseconds >= 0", "correct the file")
    return ms


def finite(value: object, where: str, name: str, accepted: str = "a finite number of milliseconds") -> float:
    """Returns a finite number. Raises TableError, which begins with `where`, for anything else."""
    if (
        isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MOST_MS
    ):  # this is so for nan, too
        text = repr(value) if isinstance(value, bool | float) else shown(value)
        raise TableError(where, f"{name} is {text}", accepted, "correct the file")
    return float(value)


def whole(value: object, where: str, name: str) -> int:
    """Returns a whole number >= 1. Raises TableError, which begins with `where`, for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise TableError(where, f"{name} is {shown(value)}", "a whole number >= 1", "correct the file")
    return value


def mean_and_count(source: SourceFile, key: str, spread: str) -> Entry:
    """Returns a record {count, mean, `spread`} as an entry. Its mean goes into `median_ms`, as there is no median."""
    where, record = f"{source.path}: '{key}'", source.records[key]
    if not isinstance(record, dict) or not {"mean", "count"} <= record.keys():
        raise TableError(where, f"got {shown(record)}", "a mapping with mean and count", "complete the record")
    if unknown := sorted(record.keys() - {"mean", "count", spread}):
        raise TableError(where, f"unknown field '{unknown[0]}'", f"count, mean and {spread}", "remove it")
    return Entry(median_ms=milliseconds(record["mean"], where, "mean"), n=whole(record["count"], where, "count"))


@dataclass(frozen=True)
class Shape:
    """The shape of a layer: (size, size, c_in) -> (size_out, size_out, c_out)."""

    size: int
    c_in: int
    size_out: int
    c_out: int

    @classmethod
    def of(cls, groups: dict[str, str], source: SourceFile, key: str) -> Shape:
        """Returns the shape in a key's groups ih, iw, ic, oh, ow, oc. Raises TableError if the maps are not square, or
        empty."""
        h, w, c_in, h_out, w_out, c_out = (int(groups[name]) for name in ("ih", "iw", "ic", "oh", "ow", "oc"))
        if h != w or h_out != w_out or not all((h, c_in, h_out, c_out)):
            raise TableError(
                str(source.path), f"key '{key}' has a shape that no space has", "square maps, none empty", "remove it"
            )
        return cls(h, c_in, h_out, c_out)

    def key(self, op: str, stride: int | None, residual: bool, source: SourceFile, official: str) -> str:
        """Returns our key. stride: None if it follows from the sizes. Raises TableError if one of them contradicts the
        shape."""
        stride = stride if stride is not None else -(-self.size // self.size_out)
        if stride not in (1, 2) or -(-self.size // stride) != self.size_out:
            raise TableError(
                str(source.path),
                f"key '{official}' has stride {stride} from {self.size} to {self.size_out} pixels",
                "stride 1 or 2, and ceil(size / stride) pixels",
                "correct the key",
            )
        if residual and (stride != 1 or self.c_in != self.c_out):
            raise TableError(
                str(source.path),
                f"key '{official}' adds its input (idskip:1), but input and output differ",
                remedy="correct the key",
            )
        return f"{op}{'+residual' if residual else ''} {self.size}x{self.size}x{self.c_in}->{self.c_out} s{stride}"


@dataclass
class Collected:
    """Collects the translated entries, and the records that are left out. origin: maps our key to the source's."""

    source: SourceFile
    entries: dict[str, Entry] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    origin: dict[str, str] = field(default_factory=dict)

    def add(self, key: str, entry: Entry, official: str) -> None:
        """Adds an entry, or leaves it out if the catalogue lacks its op. official: the source's key.

        Raises TableError if two of the source's keys mean the same layer.
        """
        op = key.split()[0].removesuffix("+residual")
        if op not in CANDIDATES and op not in {STEM, "feature_mix", "pool_classifier"}:
            self.left_out.append(LeftOut(official, f"the catalogue has no op {op}"))
            return
        if key in self.entries:
            raise TableError(
                str(self.source.path),
                f"'{official}' and '{self.origin[key]}' are both '{key}'",
                remedy="remove one of them",
            )
        self.entries[key], self.origin[key] = entry, official


def table_of(
    source: SourceFile,
    entries: dict[str, Entry],
    *,
    activation: Activation,
    input_size: int,
    how: str,
    constant: float = 0.0,
) -> LatencyTable:
    """Returns a phone's table at batch 1 in float32; none of the formats has the runtime or the threads.

    Raises TableError if there are no entries.
    """
    if not entries:
        raise TableError(
            str(source.path), f"no entry can be used with activation {activation}", remedy="try another --activation"
        )
    sha256 = hashlib.sha256(read_bytes(source.path, "a latency table")).hexdigest()
    return LatencyTable(
        device=_phone(source.device_name, source.path.name),
        runtime=UsedRuntime(name="unknown", version="unknown"),
        batch=1,
        dtype="float32",
        activation=activation,
        input_size=input_size,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        method="imported",
        how=f"{how}; the date is the import's",
        source=f"{source.path.name} sha256 {sha256}",
        constant_ms=constant,
        entries=entries,
    )


def _phone(name: str, file: str) -> Device:
    """Returns a phone whose fingerprint is a hash of its name and the file's."""
    identity = hashlib.sha256(f"{name}|{file}".encode()).hexdigest()[:16]
    return Device(kind="phone", name=name, fingerprint=identity)


def in_words(left_out: Iterable[LeftOut], most: int = 5) -> list[str]:
    """Returns a line for each reason: how many records, the reason, and the first `most` of their keys."""
    reasons: dict[str, list[str]] = {}
    for key, reason in left_out:
        reasons.setdefault(reason, []).append(key)
    return [
        f"left out: {len(keys)} ({reason}): {', '.join(keys[:most])}{', ...' if len(keys) > most else ''}"
        for reason, keys in reasons.items()
    ]
