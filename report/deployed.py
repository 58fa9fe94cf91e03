"""Reads what is known of a network beyond its retraining: its exported files, their timings, and the stages of a job.

These files are written by packages that are not imported here, and by other versions: a part that is not as expected is
left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.files import read_json
from engine.runs.stages import StageRecord, read_stages

EXPORT, TIMINGS, ACCURACY = "export.json", "timings.json", "accuracy.json"
EVALUATION = "evaluate/evaluation.json"
ITSELF = "report"
"""The stage that writes the report, which cannot show itself."""


@dataclass(frozen=True)
class Difference:
    """A comparison of a file's logits with PyTorch's."""

    images: int
    largest: float
    allowed: float
    agreement: float
    """The share of images whose likeliest class is the same."""


@dataclass(frozen=True)
class Quantised:
    """What an int8 file has lost. Every figure may be unknown, which is None."""

    types: str
    """The types of its input and output."""
    points: float | None
    """The accuracy of float32 minus that of int8, in percentage points."""
    interval: tuple[float, float] | None
    """The 95 % interval of `points`."""
    top1: float | None
    top1_float32: float | None
    images: int | None
    """The labelled images of the accuracies."""
    agreement: float | None
    """The images with the same likeliest class as float32, in percent."""
    on: str
    """Which images these are."""
    weight_bits: float | None
    kept: tuple[str, ...]
    """The layers in float32."""
    calibration: str
    """What calibrated it, in words."""
    sensitivity: tuple[tuple[str, float], ...]
    """Layers, and the root of the mean squared difference of a logit when that layer alone is int8."""


@dataclass(frozen=True)
class ExportedFacts:
    """An exported file."""

    format: str
    file: str
    size: int
    """Of all files that belong to it, in bytes."""
    runtime: str
    dtype: str
    differences: Mapping[str, Difference]
    """By the kind of images: random inputs, photographs."""
    images: int | None
    """The labelled images on which it was run; None if it was run on none. The next ones are None then, too."""
    top1: float | None
    """In percent."""
    agreement: float | None
    """In percent of these images."""
    quantised: Quantised | None
    """What quantising has cost; None for a file that is not int8."""


@dataclass(frozen=True)
class TimedFacts:
    """A timing of an exported file."""

    file: str
    runtime: str
    device: str
    threads: int
    batch: int
    median_ms: float
    noise_ms: float
    steady: bool
    predicted_ms: float | None
    error_percent: float | None
    verdict: str
    """In words, with the reason if there is none; empty without a prediction."""
    layers: tuple[tuple[str, str, float, float | None], ...]
    """The place, op, measured and predicted ms of each layer; empty if they are not known."""


@dataclass(frozen=True)
class Deployed:
    """What is known beyond the retraining; every part may be empty."""

    exported: tuple[ExportedFacts, ...] = ()
    timed: tuple[TimedFacts, ...] = ()
    stages: Mapping[str, StageRecord] | None = None
    """The stages of the job but the one that writes the report."""
    classes: Mapping[str, tuple[int, float | None]] | None = None
    """The number of test images of each class, and its top-1 accuracy in percent."""


def deployed_of(home: Path | None, exported: Path | None) -> Deployed:
    """Returns what is known of a job in the folder `home` and of the exported files in a folder.

    exported: None takes those of the job, if there are any. Raises ConfigError if the folder that is given has no
    export.json, or if a file is damaged.
    """
    if exported is not None and not (exported / EXPORT).is_file():
        raise ConfigError(f"--exported {exported}", f"has no {EXPORT}", "a folder of proxyless-nas export --out")
    folders = [exported] if exported is not None else [home / "export", home / "int8"] if home is not None else []
    found: list[ExportedFacts] = []
    timed: list[TimedFacts] = []
    for folder in folders:
        accuracy = _content(folder / ACCURACY)
        for name, entry in _mapping(_content(folder / EXPORT), "files").items():
            if file := _exported(name, entry, _mapping(accuracy, name)):
                found.append(file)
    own = [] if exported is not None or home is None else [home / "time"]
    for folder in [*own, *folders]:  # beside the files are the timings of other devices
        timings = _content(folder / TIMINGS).get("timings")
        timed += filter(None, map(_timed, timings if isinstance(timings, list) else []))
    if home is None:
        return Deployed(tuple(found), tuple(timed))
    record = read_stages(home)
    stages = None if record is None else {k: v for k, v in record.stages.items() if k != ITSELF}
    return Deployed(tuple(found), tuple(timed), stages, _classes(_content(home / EVALUATION)))


def _content(path: Path) -> dict[str, Any]:
    """Returns the content of a JSON file; nothing if there is none. Raises ConfigError if it is no JSON."""
    content = read_json(path, "a record of an exported network") if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def _mapping(value: Any, key: str) -> dict[str, Any]:
    """Returns the mapping below a key; an empty one if there is none."""
    inner = value.get(key) if isinstance(value, dict) else None
    return inner if isinstance(inner, dict) else {}


def number(value: Any) -> float | None:
    """Returns a finite number; None if the value is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def _exported(name: str, entry: Any, accuracy: Mapping[str, Any]) -> ExportedFacts | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("file"), str):
        return None
    parity, parts = _mapping(entry, "parity"), entry.get("files")
    sizes = (
        [number(part.get("bytes")) or 0 for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    )
    differences = {}
    for key, words in (("random", "random inputs"), ("photographs", "photographs")):
        part = _mapping(parity, key)
        numbers = [number(part.get(k)) for k in ("images", "max_abs_diff", "allowed", "argmax_agreement")]
        images, largest, allowed, agreement = numbers
        if images is not None and largest is not None and allowed is not None and agreement is not None:
            differences[words] = Difference(int(images), largest, allowed, agreement)
    folder = _mapping(parity, "folder")
    images, top1 = number(accuracy.get("images")), number(accuracy.get("top1"))
    if top1 is None:
        images, top1 = number(folder.get("images")), number(folder.get("top1_file"))
    dtype = entry.get("dtype")
    return ExportedFacts(
        name, entry["file"], int(sum(sizes)), str(parity.get("runtime") or entry.get("runtime") or ""),
        dtype if isinstance(dtype, str) else str(parity.get("precision", "")), differences,
        None if images is None else int(images), top1, number(accuracy.get("agreement")),
        _quantised(entry) if dtype == "int8" else None,
    )  # fmt: skip


def _quantised(entry: Mapping[str, Any]) -> Quantised:
    drop, same, calibration = (_mapping(entry, key) for key in ("drop", "agreement", "calibration"))
    ends = drop.get("interval")
    low, high = (number(end) for end in ends) if isinstance(ends, list) and len(ends) == 2 else (None, None)
    images, share = number(drop.get("images")), number(same.get("share"))
    costs = entry.get("sensitivity")
    pairs = [
        (str(cost.get("layer")), value)
        for cost in (costs if isinstance(costs, list) else [])
        if isinstance(cost, dict) and (value := number(cost.get("rms_diff"))) is not None
    ]
    kept, types = entry.get("kept"), _mapping(entry, "types")
    return Quantised(
        ", ".join(f"{place} {kind}" for place, kind in types.items()),
        number(drop.get("points")),
        None if low is None or high is None else (low, high),
        number(drop.get("top1_int8")),
        number(drop.get("top1_float32")),
        None if images is None else int(images),
        None if share is None else 100 * share,
        str(same.get("on", "")),
        number(entry.get("weight_bits")),
        tuple(map(str, kept)) if isinstance(kept, list) else (),
        f"{calibration['images']} of {calibration.get('source')}" if calibration.get("images") else "",
        tuple(pairs),
    )


def _timed(entry: Any) -> TimedFacts | None:
    """Returns a timing of timings.json; None if it lacks something."""
    if not isinstance(entry, dict):
        return None
    keys = ("threads", "batch", "median_ms", "noise_ms")
    threads, batch, median_ms, noise_ms = (number(entry.get(key)) for key in keys)
    if threads is None or batch is None or median_ms is None or noise_ms is None:
        return None
    own = _mapping(entry, "prediction")
    verdict, reason = str(own.get("verdict", "")), str(own.get("reason") or entry.get("no_prediction") or "")
    if reason:
        verdict = f"{verdict or 'not predicted'}: {reason}"
    device = _mapping(entry, "device")
    return TimedFacts(
        str(entry.get("file", "")), str(entry.get("runtime", "")), str(device.get("name", "")), int(threads),
        int(batch), median_ms, noise_ms, entry.get("steady") is not False, number(own.get("ms")),
        number(own.get("error_percent")), verdict, tuple(_timed_layers(entry.get("layers"))),
    )  # fmt: skip


def _timed_layers(layers: Any) -> list[tuple[str, str, float, float | None]]:
    found = []
    for layer in layers if isinstance(layers, list) else []:
        ms = number(layer.get("measured_ms")) if isinstance(layer, dict) else None
        if ms is not None:
            found.append((str(layer.get("place", "")), str(layer.get("op", "")), ms, number(layer.get("predicted_ms"))))
    return found


def _classes(evaluation: Mapping[str, Any]) -> dict[str, tuple[int, float | None]] | None:
    rows = {}
    for name, row in _mapping(evaluation, "classes").items():
        images = number(row.get("images")) if isinstance(row, dict) else None
        if images is not None:
            rows[str(name)] = (int(images), number(row.get("top1")))
    return rows or None
