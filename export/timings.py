"""The record of how long exported files take, timings.json, and its figures in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from engine.config import Section, validate
from engine.errors import ConfigError
from engine.files import read_json, write_atomically
from latency.device import Device

TIMINGS = "timings.json"
"""The file beside the exported ones that records how long they take."""
TIMINGS_FORMAT = "proxylessnas/timings@1"
Verdict = Literal["as predicted", "slower", "faster", "not judged"]


class TimedLayer(Section):
    """One layer of a file, by the runtime's own profile."""

    place: str
    """The name of its place, as in architecture.json: `stem`, an edge, `feature_mix` or `classifier`."""
    op: str
    measured_ms: float
    """The median over the passes. The profile itself takes time, which the layers' sum includes."""
    predicted_ms: float | None
    """The table's entry; null without a table that covers it."""


class TimedReference(Section):
    """A network from the middle of the table's space, timed in turn with the files."""

    measured_ms: float
    predicted_ms: float
    drift: float
    """Measured over predicted."""


class Prediction(Section):
    """What a latency table promises, beside the measurement."""

    table: str
    """The table's file."""
    table_sha256: str
    of: str
    """The table's device and runtime, in words."""
    ms: float
    error_percent: float
    """100 (predicted - measured) / measured."""
    accepted_percent: float
    """The largest error that is called `as predicted`: that of the table and that of the timing together."""
    verdict: Verdict
    reason: str
    """Why there is no verdict; empty if there is one."""
    reference: TimedReference | None
    """null if the table is not of this runtime and device, or its network is of no search space."""


class TimedFile(Section):
    """How long one exported file takes in its runtime on one device."""

    file: str
    sha256: str
    dtype: str
    """The precision of the file's weights and activations, as export.json states it."""
    runtime: str
    """The runtime's name and version."""
    device: Device
    threads: int
    batch: int
    """The images of a pass."""
    date: str
    median_ms: float
    noise_ms: float
    """The standard deviation of the medians of the rounds."""
    standard_error_ms: float
    """The standard deviation of the median."""
    rounds: int
    passes: int
    """The passes of all rounds together."""
    steady: bool
    """Whether twice the noise is at most 10 % of the median; if not, other work disturbed the timing."""
    prediction: Prediction | None
    no_prediction: str
    """Why the table predicts nothing for this network; empty without a table, or if it does."""
    layers: tuple[TimedLayer, ...] | None
    no_layers: str
    """Why the layers' times are not known; empty if they are."""

    @property
    def identity(self) -> tuple[object, ...]:
        """What another timing has to share to take this one's place in timings.json."""
        return self.file, self.device.fingerprint, self.runtime.partition(" ")[0], self.threads, self.batch

    def __str__(self) -> str:
        """Returns the figures in one line."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        noise = f"±{self.noise_ms:.2g} between rounds"
        line = f"{self.file}: {self.median_ms:.4g} ms ({noise}; {self.runtime}, {threads}, batch {self.batch})"
        line += "" if self.steady else "; other work disturbed the timing"
        if self.prediction is None:
            return f"{line}; not predicted: {self.no_prediction}" if self.no_prediction else line
        own = self.prediction
        line += f"; predicted {own.ms:.4g} ms ({own.error_percent:+.1f} %): "
        if own.verdict == "not judged":
            return f"{line}not judged, since {own.reason}"
        verdict = own.verdict if own.verdict == "as predicted" else f"{own.verdict.upper()} than predicted"
        return f"{line}{verdict} (accepted: {own.accepted_percent:.1f} %)"


class Timings(Section):
    """The content of timings.json."""

    format: Literal["proxylessnas/timings@1"] = "proxylessnas/timings@1"
    timings: tuple[TimedFile, ...] = ()
    """One for each file, device, runtime, threads and batch."""


def layer_table(timed: TimedFile) -> str:
    """Returns the layers of a timing as a table to print, or why they are not known."""
    if timed.layers is None:
        return f"  {timed.no_layers}"
    rows = [("place", "op", "measured ms", "predicted ms")]
    for layer in timed.layers:
        predicted = "" if layer.predicted_ms is None else f"{layer.predicted_ms:.3f}"
        rows.append((layer.place, layer.op, f"{layer.measured_ms:.3f}", predicted))
    place, op, measured, predicted_width = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(
        f"  {a:{place}}  {b:{op}}  {c:>{measured}}  {d:>{predicted_width}}".rstrip() for a, b, c, d in rows
    )


def read_timings(folder: Path) -> Timings:
    """Returns the content of a folder's timings.json; nothing is in it if there is none. Raises ConfigError."""
    path = folder / TIMINGS
    if not path.exists():
        return Timings()
    content = read_json(path, f"a {TIMINGS}")
    if not isinstance(content, dict):
        raise ConfigError(str(path), f"got {type(content).__name__}", f"a {TIMINGS}", "delete it and time again")
    return validate(Timings, content, str(path))


def write_timings(files: Sequence[Path], timed: Sequence[TimedFile]) -> None:
    """Writes timings into the timings.json of the folder of each file, in place of earlier ones of the same file,
    device, runtime, threads and batch."""
    for folder in dict.fromkeys(path.parent for path in files):
        new = [timing for path, timing in zip(files, timed, strict=True) if path.parent == folder]
        replaced = {timing.identity for timing in new}
        kept = [timing for timing in read_timings(folder).timings if timing.identity not in replaced]
        record = Timings(timings=(*kept, *new)).model_dump(mode="json")
        write_atomically(folder / TIMINGS, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
