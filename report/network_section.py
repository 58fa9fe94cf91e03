"""Shows a network layer by layer, and the latency tables that its milliseconds come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from engine.quantities import quantity
from latency.summary import summary, verdict
from report.blocks import UNKNOWN, Block, Figures, Mood, Table, Text
from report.drawing import Bar, Marks, chart, layers
from report.facts import Facts, LayerFacts
from report.runs import UsedTable
from supernet.summary import with_unit


def network_blocks(facts: Facts) -> Iterator[Block]:
    if facts.design is None:
        return
    from markupsafe import Markup

    found = facts.layers
    tables = [used for used in facts.tables if used.table]
    kinds = list(dict.fromkeys(_kind(layer) for layer in found if not layer.skip))
    bars = [
        Bar(
            layer.place.replace("_", " "), layer.op, kinds.index(_kind(layer)) if not layer.skip else 0,
            layer.ms[0][0] if tables else float(layer.macs), _bar_text(layer), layer.skip,
        )
        for layer in found
    ]  # fmt: skip
    first = f" by {Path(tables[0].path).name}" if len(tables) > 1 else " by the table"
    unit = f"milliseconds{first}" if tables else "multiply-accumulates"
    yield Figures([Markup(layers("From the image down to the classes", bars, unit))])
    head = ["layer", "op", "input → output", "parameters", "MACs", "feature maps"]
    rows = [_layer_row(layer) for layer in found]
    c = facts.design.complexity
    total = ["sum", "", "", with_unit(c.params), with_unit(c.macs), _largest(found)]
    once = ["once per network", "", "", "", "", ""]
    for t, used in enumerate(tables):
        of = f", {Path(used.path).stem}" if len(tables) > 1 else ""
        head += [f"predicted ms{of}", f"measured ms{of}"]
        constant = used.table.constant_ms if used.table else 0.0
        known = [layer.ms[t][0] for layer in found]
        sums = sum(ms for ms in known if ms is not None) + constant
        total += ["" if None in known else f"{sums:.4g}", ""]
        once += [f"{constant:.4g}" if constant else "", ""]
    if any(once[6:]):
        rows.append(once)
    yield Table("Each layer", head, [*rows, total], words=3, total=True)
    words = "Feature maps: what a layer needs at once for one image in float32; the last row has the largest."
    if tables:
        words += (
            " Measured ms: the layer inside other networks, as it was timed for the table. Predicted ms: corrected, "
        )
        words += "so that sums predict whole networks."
    yield Text(words)


def _bar_text(layer: LayerFacts) -> str:
    if not layer.ms:
        return with_unit(layer.macs)
    return "" if layer.ms[0][0] is None else f"{layer.ms[0][0]:.3g}"


def _kind(layer: LayerFacts) -> str:
    return layer.op.partition("+")[0]


def _layer_row(layer: LayerFacts) -> list[str]:
    memory = "" if layer.memory_bytes is None else quantity(layer.memory_bytes, "bytes")
    row = [layer.place, layer.op, layer.shape, with_unit(layer.params), with_unit(layer.macs), memory]
    return row + ["" if ms is None else f"{ms:.4g}" for pair in layer.ms for ms in pair]


def _largest(found: Sequence[LayerFacts]) -> str:
    known = [layer.memory_bytes for layer in found if layer.memory_bytes is not None]
    return quantity(max(known), "bytes") if known else ""


def table_blocks(used: UsedTable) -> Iterator[Block]:
    from markupsafe import Markup

    rows = [("file", used.path), ("SHA-256 of its numbers", used.sha256 or UNKNOWN)]
    table = used.table
    if table is None:
        yield Table("Where the latencies come from", ("", ""), rows, words=2)
        yield Text("No file with this hash was found: device, method and error are not known.", "unsure")
        return
    device, runtime = table.device, table.runtime
    rows += [
        ("device", f"{device.name}, {device.kind}" + ("" if device.cores is None else f", {device.cores} cores")),
        ("fingerprint", device.fingerprint),
        ("runtime", f"{runtime.name} {runtime.version}, batch {table.batch}, {table.dtype}"),
        ("threads", "" if table.threads is None else str(table.threads)),
        ("date", table.date),
        ("method", f"{table.method.replace('_', ' ')}: {table.how}"),
        ("made from", table.source or ""),
        ("entries", str(len(table.entries))),
    ]
    calibration, verification = table.calibration, table.verification
    if calibration is not None:
        text = f"{calibration.networks} networks on {calibration.date}; error "
        text += f"{calibration.cross_validation_percent:.1f} % on networks left out of the fit"
        rows.append(("corrected by", text))
    yield Table("Where the latencies come from", ("", ""), [row for row in rows if row[1]], words=2)
    if verification is None:
        yield Text("It was never verified: its error on fresh networks is not known.", "unsure")
        return
    mood: Mood = "good" if verification.holds else "bad"
    yield Text(f"{summary(verification)}.")
    for line in verdict(verification):
        yield Text(f"{line[0].upper()}{line[1:]}.", "unsure" if "busy" in line else mood)
    points = list(zip(verification.predicted_ms, verification.measured_ms, strict=False))
    marks = [Marks("fresh networks", points)]
    picture = chart("Predicted against measured latency", [], marks, "predicted ms", "measured ms", diagonal=True)
    if picture:
        yield Figures([Markup(picture)])
