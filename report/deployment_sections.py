"""Shows a network's files for runtimes, how they were quantised, how long they take, and the stages of a job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from engine.quantities import quantity
from engine.runs.stages import StageRecord
from report.blocks import MOST_ROWS, Block, Figures, Table, Text
from report.deployed import Deployed, ExportedFacts, TimedFacts
from report.drawing import Marks, chart

MOST_LAYERS = 20
"""The most sensitive layers of a quantised network that are shown."""


def export_blocks(files: Sequence[ExportedFacts]) -> Iterator[Block]:
    """Yields the files, what their check against PyTorch showed, and their accuracies."""
    if not files:
        return
    rows = []
    for file in files:
        if file.quantised is not None:
            continue  # another table has them
        kinds = [file.differences.get(kind) for kind in ("random inputs", "photographs")]
        worst = [f"{one.largest:.1e} of {one.allowed:.1e}" if one else "" for one in kinds]
        known = [one.agreement for one in kinds if one]
        agreement = f"{100 * min(known):.4g}" if known else ""
        rows.append((file.format, file.file, file.runtime, file.dtype, quantity(file.size, "bytes"), *worst, agreement))
    head = ("format", "file", "runtime", "precision", "size", "difference, random", "difference, photographs",
            "same class %")  # fmt: skip
    if not rows:
        return
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
    quantised = [(file.file, file.quantised) for file in files if file.quantised is not None]
    if not quantised:
        return
    rows = []
    for name, one in quantised:
        span = "" if one.interval is None else "{:+.2f} to {:+.2f}".format(*one.interval)
        pair = (one.top1, one.top1_float32)
        top1 = "" if None in pair else "{:.2f} of {:.2f}".format(*pair)
        points = "" if one.points is None else f"{one.points:+.2f}"
        same = "" if one.agreement is None else f"{one.agreement:.2f}"
        images = "" if one.images is None else str(one.images)
        rows.append((name, one.types, top1, points, span, images, same))
    head = ("file", "types", "top-1 % of float32's", "drop, points", "95 % interval", "images", "same class %")
    yield Table("int8 beside float32", head, rows, words=2)
    yield Text(
        "Drop: the accuracy of float32 minus that of int8 on the same images; the interval is Newcombe's for paired "
        "data. Same class: the share of images for which both find the same class the likeliest."
    )
    for text in dict.fromkeys(one.calibration for _, one in quantised if one.calibration):
        yield Text(f"The ranges of the activations follow from {text}.")
    for name, one in quantised:
        if one.weight_bits not in (None, 8):
            yield Text(f"The weights of {name} have {one.weight_bits:g} bits.")
        if one.kept:
            yield Text(f"{name} has these layers in float32: {', '.join(one.kept)}.")
    for name, one in quantised:
        if one.sensitivity:
            caption = f"{name}: the layers that cost most when they alone are int8"
            costs = [(layer, f"{cost:.3g}") for layer, cost in one.sensitivity[:MOST_LAYERS]]
            yield Table(caption, ("layer", "difference of a logit, root mean square"), costs, folded=True)


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
