"""Tables that others measured, in their formats, into ours."""

from __future__ import annotations

import datetime
import hashlib
import re
from pathlib import Path

from engine.config import load_config
from latency.device import Device
from latency.table import Entry, LatencyTable, Runtime, TableError

_SHAPE = r"(?P<{0}h>\d+)x(?P<{0}w>\d+)x(?P<{0}c>\d+)"
_BLOCK = re.compile(
    "expanded_conv-input:" + _SHAPE.format("i") + "-output:" + _SHAPE.format("o")
    + r"-expand:(?P<expand>\d+)-kernel:(?P<kernel>\d+)-stride:(?P<stride>\d+)-idskip:(?P<idskip>[01])"
)  # fmt: skip
_CONV = re.compile(r"(?P<name>Conv|Conv_1)-input:" + _SHAPE.format("i") + "-output:" + _SHAPE.format("o"))
_LOGITS = re.compile("Logits-input:" + _SHAPE.format("i") + r"-output:(?P<classes>\d+)")
_PUBLISHED_STEM_KERNEL = 3  # the key does not state it; the published space has no other


def import_official(path: Path, *, device_name: str) -> LatencyTable:
    """The key format of the official ProxylessNAS tables (`expanded_conv-input:...: {count, mean, var}`), in ms.

    Means go into `median_ms`, since the source has no medians. device_name: what the source's author measured on.
    Raises ConfigError for a malformed file, TableError naming the first key that is not of this format.
    """
    records = load_config(path)
    entries: dict[str, Entry] = {}
    input_size = 0
    for official, record in records.items():
        if not isinstance(record, dict) or not {"mean", "count"} <= record.keys():
            raise TableError(f"{path}: '{official}': expected a mapping with mean and count, found {record!r}")
        mean, count = record["mean"], record["count"]
        if isinstance(mean, bool) or not isinstance(mean, int | float) or not 0 <= mean < float("inf"):
            raise TableError(f"{path}: '{official}': mean is {mean!r}, expected milliseconds >= 0")
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise TableError(f"{path}: '{official}': count is {count!r}, expected a whole number >= 1")
        key, size = _our_key(official, path)
        input_size = size or input_size
        entries[key] = Entry(median_ms=float(mean), n=count)
    if not input_size:
        raise TableError(f"{path}: no key 'Conv-input:...', the first convolution, which states the input size")
    identity = hashlib.sha256(f"{device_name}|{path.name}".encode()).hexdigest()[:16]
    return LatencyTable(
        device=Device(kind="phone", name=device_name, fingerprint=identity),
        runtime=Runtime(name="unknown", version="unknown"),
        batch=1,
        dtype="float32",
        activation="relu6",
        input_size=input_size,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        how="imported from the official ProxylessNAS key format; median_ms holds means, the date is the import's",
        source=f"{path.name} sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}",
        entries=entries,
    )


def _our_key(official: str, path: Path) -> tuple[str, int]:
    """(our key, input size in pixels if this is the first convolution, else 0)."""
    shapes = re.findall(r"(\d+)x(\d+)x(\d+)", official)
    if any(int(h) != int(w) or not int(h) or not int(c) for h, w, c in shapes):
        raise TableError(f"{path}: key '{official}' has a shape that no space has; expected square maps, none empty")
    if m := _BLOCK.fullmatch(official):
        residual = "+residual" if m["idskip"] == "1" else ""
        op = f"mbconv_k{m['kernel']}_e{m['expand']}{residual}"
        return f"{op} {m['ih']}x{m['iw']}x{m['ic']}->{m['oc']} s{m['stride']}", 0
    if m := _CONV.fullmatch(official):
        is_stem = m["name"] == "Conv"
        op = f"stem_k{_PUBLISHED_STEM_KERNEL}" if is_stem else "feature_mix"
        key = f"{op} {m['ih']}x{m['iw']}x{m['ic']}->{m['oc']} s{-(-int(m['ih']) // int(m['oh']))}"
        return key, int(m["ih"]) if is_stem else 0
    if m := _LOGITS.fullmatch(official):
        return f"pool_classifier {m['ih']}x{m['iw']}x{m['ic']}->{m['classes']} s1", 0
    raise TableError(
        f"{path}: key '{official}' is not official, expected Conv-, Conv_1-, Logits- or expanded_conv-input:..."
    )
