"""Shows a network's files for runtimes, how they were quantised, how long they take, and the stages of a job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engine.quantities import quantity
from engine.runs.stages import StageRecord
from report.blocks import MOST_ROWS, Block, Figures, Table, Text
from report.deployed import Deployed, ExportedFacts, TimedFacts, number
from report.drawing import Marks, chart

MOST_LAYERS = 20
"""The most sensitive layers of a quantised network that are shown."""


def export_blocks(files: Sequence[ExportedFacts]) -> Iterator[Block]:
    """Yields the files, what their check against PyTorch showed, and their accuracies."""
    if not files:
        return
    rows = []
    for file in files:
        kinds = [file.differences.get(kind) for kind in ("random inputs", "photographs")]
        worst = [f"{one.largest:.1e} of {one.allowed:.1e}" if one else "" for one in kinds]
        known = [one.agreement for one in kinds if one]
        agreement = f"{100 * min(known):.4g}" if known else ""
        rows.append((file.format, file.file, file.runtime, file.dtype, quantity(file.size, "bytes"), *worst, agreement))
    head = ("format", "file", "runtime", "precision", "size", "difference, random", "difference, photographs",
            "same class %")  # fmt: skip
    yield Table("Files, each loaded in its runtime and compared with PyTorch", head, rows, words=4)
    yield Text(
        "Difference: the largest one of a logit from PyTorch's, and the largest that is accepted. Each file was opened "
        "in a process of its own, and run on 16 random inputs and 16 photographs, one at a time and several at once."
    )
    scored = [file for file in files if file.top1 is not None]
    if scored:
        found = [
            (file.file, f"{file.top1:.2f}", "" if file.agreement is None else f"{file.agreement:.2f}", str(file.images))
            for file in scored
        ]
        yield Table("On labelled images", ("file", "top-1 %", "same class as PyTorch %", "images"), found)


def int8_blocks(files: Sequence[ExportedFacts]) -> Iterator[Block]:
    """Yields what quantising the files to int8 has cost."""
    quantised = [(file, file.quantised) for file in files if file.quantised is not None]
    rows, sensitive = [], []
    for file, record in quantised:
        drop = record.get("drop")
        rows.append((file.file, *_drop(drop), _percent(_within(record.get("agreement"))), _text(record.get("kept"))))
        if layers := _sensitivity(record.get("sensitivity")):
            sensitive.append((file.file, layers))
    if rows:
        head = ("file", "drop, points", "95 % interval", "same class as float %", "layers kept in float")
        yield Table("int8 beside float32", head, rows)
        calibrations = list(dict.fromkeys(_text(record.get("calibration")) for _, record in quantised))
        for text in filter(None, calibrations):
            yield Text(f"Calibration: {text}.")
    for name, layers in sensitive:
        caption = f"{name}: the layers that cost most when they alone are int8"
        yield Table(caption, ("layer", "cost"), layers[:MOST_LAYERS], folded=True)


def _drop(value: Any) -> tuple[str, str]:
    """Returns a drop and its interval, as export.json has them: a number, or a mapping of several."""
    if isinstance(value, Mapping):
        named = ("points", "drop", "top1", "value")
        points = next((found for key in named if (found := number(value.get(key))) is not None), None)
        interval = value.get("interval") or [value.get("low"), value.get("high")]
        ends = [number(end) for end in interval] if isinstance(interval, list | tuple) else []
        span = f"{ends[0]:+.2f} to {ends[1]:+.2f}" if len(ends) == 2 and None not in ends else ""
        return ("" if points is None else f"{points:+.2f}"), span
    points = number(value)
    return ("" if points is None else f"{points:+.2f}"), ""


def _within(value: Any) -> float | None:
    """Returns the number in a record that may be a mapping with one."""
    if isinstance(value, Mapping):
        return next((found for part in value.values() if (found := number(part)) is not None), None)
    return number(value)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share if share <= 1 else share:.2f}"


def _text(value: Any) -> str:
    """Returns plain values in a few words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key.replace('_', ' ')} {_text(v)}" for key, v in value.items() if v is not None)
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _sensitivity(value: Any) -> list[tuple[str, str]]:
    """Returns the layers and their costs, as export.json lists them."""
    pairs = value.items() if isinstance(value, Mapping) else value if isinstance(value, list) else []
    found = []
    for pair in pairs:
        if isinstance(pair, Mapping):
            texts = [part for part in pair.values() if isinstance(part, str)]
            costs = [part for part in pair.values() if number(part) is not None]
            pair = (texts[0], costs[0]) if texts and costs else ()
        if isinstance(pair, list | tuple) and len(pair) == 2 and (cost := number(pair[1])) is not None:
            found.append((str(pair[0]), f"{cost:.4g}"))
    return found


def timing_blocks(timed: Sequence[TimedFacts]) -> Iterator[Block]:
    """Yields the timings of the files beside what a latency table predicts."""
    if not timed:
        return
    from markupsafe import Markup

    rows = []
    for one in timed:
        threads = f"{one.threads} thread{'s' if one.threads != 1 else ''}, batch {one.batch}"
        predicted = "" if one.predicted_ms is None else f"{one.predicted_ms:.4g}"
        error = "" if one.error_percent is None else f"{one.error_percent:+.1f}"
        rows.append(
            (one.file, one.runtime, f"{one.device}; {threads}", f"{one.median_ms:.4g} ± {one.noise_ms:.2g}", predicted,
             error, one.verdict)
        )  # fmt: skip
    head = ("file", "runtime", "device", "measured ms ± noise", "predicted ms", "error %", "verdict")
    yield Table("Measured in the runtime, beside the table's prediction", head, rows, words=3)
    if not all(one.steady for one in timed):
        yield Text("Other work disturbed some of these timings.", "unsure")
    pairs = [(one, one.predicted_ms) for one in timed if one.predicted_ms is not None]
    if len(pairs) > 1:
        marks = [Marks("files", [(ms, one.median_ms) for one, ms in pairs], [one.file for one, _ in pairs])]
        picture = chart("Files: predicted against measured", [], marks, "predicted ms", "measured ms", diagonal=True)
        yield Figures([Markup(picture)])
    for one in timed:
        if one.layers:
            layers = [
                (place, op, f"{ms:.4g}", "" if predicted_ms is None else f"{predicted_ms:.4g}")
                for place, op, ms, predicted_ms in one.layers
            ]
            caption = f"{one.file}: each layer, by the runtime's profile"
            columns = ("layer", "op", "measured ms", "predicted ms")
            yield Table(caption, columns, layers[:MOST_ROWS], words=2, folded=True)


def class_blocks(classes: Mapping[str, tuple[int, float | None]] | None) -> Iterator[Block]:
    """Yields the accuracy of each class."""
    if classes:
        rows = [(name, "" if top1 is None else f"{top1:.2f}", str(images)) for name, (images, top1) in classes.items()]
        caption = f"Each class of the test set{f', the first {MOST_ROWS}' if len(rows) > MOST_ROWS else ''}"
        yield Table(caption, ("class", "top-1 %", "images"), rows[:MOST_ROWS], folded=True)


def stage_blocks(stages: Mapping[str, StageRecord] | None) -> Iterator[Block]:
    """Yields the stages of a job: their results, and what each began from."""
    if not stages:
        return
    rows = [
        (name, record.line or "has not ended", "" if record.seconds is None else f"{record.seconds:.0f}")
        for name, record in stages.items()
    ]
    yield Table("Each stage", ("stage", "result", "seconds"), rows, words=2)
    inputs = [(name, key, value) for name, record in stages.items() for key, value in record.inputs.items()]
    yield Table("What each stage began from", ("stage", "input", "SHA-256, or the value"), inputs, words=3, folded=True)


def unfinished(deployed: Deployed) -> str:
    """Returns the first stage that has not ended; empty if all have, or if there are none."""
    return next((name for name, record in (deployed.stages or {}).items() if record.outputs is None), "")
