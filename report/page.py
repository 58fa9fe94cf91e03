"""Writes the report of runs: one HTML page that asks nothing of any network and needs no JavaScript.

The same runs give the same bytes: nothing of the page depends on the time or the machine on which it is written.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from engine.errors import ConfigError
from engine.evaluation import wilson
from engine.files import as_path, write_atomically
from engine.quantities import TOP5_CLASSES, amount, quantity
from latency.summary import summary, verdict
from report.colours import variables
from report.drawing import Bar, Line, Marks, chart, heat, layers
from report.facts import Facts, Front, LayerFacts, Snapshot, collect
from report.runs import UsedTable
from search.judge import SIGNIFICANT, Reliability
from search.result import LimitFigures, ResultFile
from supernet.summary import with_unit

MOST_FRAMES = 24
"""The most pictures of path probabilities; of more, evenly spaced ones are shown."""
MOST_CELLS = 6_000
"""The most cells of all these pictures together, so that the page stays small."""
MOST_ROWS = 500
"""The most rows of a table."""
UNKNOWN = "not known"

Mood = Literal["", "good", "bad", "unsure", "dim"]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    mood: Mood = ""
    kind: str = "text"


@dataclass(frozen=True)
class Table:
    """A table, whose first column names its rows."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    """The number of first columns that are words; the others are aligned as numbers."""
    total: bool = False
    """Whether the last row is a sum."""
    folded: bool = False
    kind: str = "table"


@dataclass(frozen=True)
class Figures:
    """Pictures side by side, where there is room."""

    figures: Sequence[Any]
    kind: str = "figures"


@dataclass(frozen=True)
class Frame:
    """A picture of a slider."""

    label: str
    picture: Any


@dataclass(frozen=True)
class Slider:
    """Pictures of which one is shown, chosen by radio buttons."""

    legend: str
    frames: Sequence[Frame]
    kind: str = "slider"


@dataclass(frozen=True)
class Listing:
    """A text of a file, folded."""

    caption: str
    text: str
    kind: str = "listing"


Block = Text | Table | Figures | Slider | Listing


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading."""

    id: str
    heading: str
    blocks: Sequence[Block] = field(default_factory=tuple)


@dataclass(frozen=True)
class Tile:
    """A figure at the top of the page."""

    name: str
    value: str
    more: str = ""


def report(
    run: Path | str,
    other: Path | str | None = None,
    *,
    out: Path | str = "report.html",
    allow_modules: Collection[str] = (),
) -> Path:
    """Writes the report of a run as one HTML file, and returns its path.

    run: the folder of a search, of a retraining, of a quick start or of a sweep. other: a retraining beside its search,
    or the reverse; a retraining's search is found by itself if its architecture.json came from there. out: the file,
    which ends in .html. allow_modules: the user's modules that the runs' architecture may import. Raises ConfigError
    and WriteError.
    """
    path = as_path(out, "out")
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--out {path}", f"ends in {path.suffix or 'nothing'!r}", "a file that ends in .html")
    facts = collect([run, *([] if other is None else [other])], path, allow_modules)
    write_atomically(path, page_of(facts))
    return path


def page_of(facts: Facts) -> str:
    """Returns the text of the page."""
    import jinja2
    from markupsafe import Markup

    texts = files("report")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    template = environment.from_string((texts / "page.html.j2").read_text(encoding="utf-8"))
    sections = [section for section in _sections(facts) if section.blocks]
    style = variables() + (texts / "page.css").read_text(encoding="utf-8") + _frames_style(sections)
    return template.render(
        title=facts.title, lead=_lead(facts), tiles=_tiles(facts), sections=sections, style=Markup(style.strip())
    )


def _frames_style(sections: Sequence[Section]) -> str:
    """Returns the rules that show the picture of a slider whose radio button is chosen, and hide the others."""
    rules = []
    for section in sections:
        for block in section.blocks:
            if isinstance(block, Slider) and len(block.frames) > 1:
                rules.append(f"#{section.id} .frames>div{{display:none}}")
                chosen = (f"#{section.id}-{i}:checked~.frames>.frame-{i}" for i in range(len(block.frames)))
                rules.append(f"{','.join(chosen)}{{display:block}}")
    return "\n".join(rules)


def _sections(facts: Facts) -> Iterator[Section]:
    yield Section("limits", "Limits, and how they are met", tuple(_limits(facts)))
    yield Section("network", "The network", tuple(_network(facts)))
    yield Section("random", "Beside random networks of equal latency", tuple(_beside(facts)))
    yield Section("probabilities", "Path probabilities over time", tuple(_probabilities(facts.snapshots, facts)))
    yield Section("search", "The search", tuple(_search(facts)))
    yield Section("front", "Accuracy over cost", tuple(_fronts(facts.fronts)))
    yield Section("sweep", "Searches", tuple(_sweep(facts.sweep)))
    yield Section("retraining", "The retraining", tuple(_retraining(facts)))
    yield Section("table", "The latency table", tuple(block for used in facts.tables for block in _table(used)))
    yield Section("settings", "Every setting", tuple(Listing(*pair) for pair in facts.settings.items()))
    yield Section("files", "Files", tuple(_files(facts)))


def _lead(facts: Facts) -> list[Text]:
    """Returns the first sentences: what was found, and whether it meets what was asked."""
    runs, lines = facts.runs, []
    if runs.search is not None:
        result = runs.search.result
        if result is None:
            lines.append(Text("The search has not ended: this page shows what there is so far.", "unsure"))
        else:
            limits = ", ".join(f"{limit.name} {limit.asked}" for limit in result.limits)
            words: Mapping[bool | None, tuple[str, Mood]] = {
                True: ("The network meets what was asked", "good"),
                False: ("The network does NOT meet what was asked", "bad"),
                None: ("Whether the network meets what was asked is not settled, since other work disturbed its timing",
                       "unsure"),
            }  # fmt: skip
            text, mood = words[result.met]
            lines.append(Text(f"{text}: {limits}." if limits else f"{text}.", mood))
    if runs.retraining is not None and runs.retraining.test is None:
        lines.append(Text("The retraining has not ended: the accuracy on the test set is not known yet.", "unsure"))
    return lines


def _tiles(facts: Facts) -> list[Tile]:
    """Returns the few figures that one looks for first."""
    tiles = []
    search, retraining = facts.runs.search, facts.runs.retraining
    result = search.result if search else None
    if retraining is not None and retraining.test is not None:
        test = retraining.test
        low, high = wilson(test.top1, test.images)
        more = f"95 % interval {low:.2f} to {high:.2f}, {test.images} test images"
        tiles.append(
            Tile(
                "top-1, trained from scratch" if retraining.from_scratch else "top-1, retrained",
                f"{test.top1:.2f} %",
                more,
            )
        )
    elif result is not None:
        more = f"with the supernet's weights, {result.images} validation images"
        tiles.append(Tile("top-1", f"{result.top1:.2f} %", more))
    for limit in result.limits if result else ():
        if limit.measured:
            more = f"predicted {quantity(limit.predicted, limit.unit)}, asked {limit.asked}"
            tiles.append(Tile(f"{limit.name}, measured", f"{limit.measured.median_ms:.4g} ms", more))
        else:
            predicted = quantity(limit.predicted, limit.unit)
            tiles.append(Tile(f"{limit.name}, predicted", predicted, f"asked {limit.asked}"))
    if facts.design is not None:
        c, design = facts.design.complexity, facts.design
        tiles.append(Tile("parameters", amount(c.params, 4)))
        channels = "1 channel" if design.input_channels == 1 else f"{design.input_channels} channels"
        tiles.append(Tile("MACs", amount(c.macs, 4), f"{design.input_size} x {design.input_size} px, {channels}"))
    return tiles


def _limits(facts: Facts) -> Iterator[Block]:
    search = facts.runs.search
    if search is None or search.result is None:
        return
    rows = [_limit_row(limit) for limit in search.result.limits]
    head = ("limit", "asked", "expected of alpha", "predicted", "measured", "second timing", "drift")
    yield Table("What was asked, and what the derived network needs", head, rows, words=2)
    measured = [limit.measured for limit in search.result.limits if limit.measured]
    if measured:
        yield Text(
            "Predicted is the sum of the network's table entries. Measured is the timing that decided, ± its standard "
            "error; the second timing is independent of it. Drift is how much slower a reference network ran in turn "
            "with it than the table says: 1 is as fast as when the table was measured."
        )
        if not all(m.believed for m in measured):
            yield Text("Other work disturbed the timing that decided: it proves nothing.", "unsure")
    elif search.result.limits:
        yield Text("The network was not timed: no table of the limits is of the device that the search ran on.", "dim")
    if facts.attempts:
        tries = [
            (str(i), *(f"{ms:.4g}" for ms in (a.asked_ms, a.predicted_ms, a.measured_ms)), f"{a.noise_ms:.2g}",
             f"{a.drift:.3f}")
            for i, a in enumerate(facts.attempts, 1)
        ]  # fmt: skip
        columns = ("try", "asked ms", "predicted ms", "measured ms", "noise ms", "drift")
        yield Table("Derivations, each with the timing of its network", columns, tries)


def _limit_row(limit: LimitFigures) -> tuple[str, ...]:
    m = limit.measured
    error = "" if m is None or m.standard_error_ms is None else f" ± {m.standard_error_ms:.2g}"
    measured = ("", "", "") if m is None else (
        f"{m.median_ms:.4g}{error} ms", f"{m.confirmation_ms:.4g} ms", f"{m.drift:.3f}"
    )  # fmt: skip
    expected = "" if limit.expected is None else quantity(limit.expected, limit.unit)
    return (limit.name, limit.asked, expected, quantity(limit.predicted, limit.unit), *measured)


def _network(facts: Facts) -> Iterator[Block]:
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


def _beside(facts: Facts) -> Iterator[Block]:
    if len(facts.beside) < 2:
        return
    from markupsafe import Markup

    derived, *others = facts.beside
    marks = [
        Marks("random networks", [(n.measured_ms, n.top1) for n in others], [n.name for n in others]),
        Marks("the derived network", [(derived.measured_ms, derived.top1)], [derived.name], "star"),
    ]
    yield Figures([Markup(chart("Accuracy over latency", [], marks, "measured ms", "test top-1 %"))])
    mean = sum(n.top1 for n in others) / len(others)
    beaten = sum(derived.top1 > n.top1 for n in others)
    yield Text(
        f"All were retrained alike and timed in turn. The derived network has {derived.top1:.2f} % of the test images "
        f"right, the {len(others)} random networks of the same predicted latency {mean:.2f} % in the mean; it is more "
        f"accurate than {beaten} of them."
    )
    rows = [
        (n.name, f"{n.predicted_ms:.4g}", f"{n.measured_ms:.4g} ± {n.noise_ms:.2g}", f"{n.top1:.2f}",
         with_unit(n.params), with_unit(n.macs))
        for n in facts.beside
    ]  # fmt: skip
    head = ("network", "predicted ms", "measured ms ± noise", "test top-1 %", "parameters", "MACs")
    yield Table("Each network", head, rows)


def _probabilities(snapshots: Sequence[Snapshot], facts: Facts) -> Iterator[Block]:
    if not snapshots:
        return
    from markupsafe import Markup

    cells = max(1, sum(len(row) for row in snapshots[-1].probabilities.values()))
    count = max(1, min(MOST_FRAMES, MOST_CELLS // cells, len(snapshots)))
    places = sorted({round(i * (len(snapshots) - 1) / max(1, count - 1)) for i in range(count)} | {len(snapshots) - 1})
    chosen = {layer.place: layer.op.partition("+")[0] for layer in facts.layers}
    frames = []
    for i in places:
        shot = snapshots[i]
        rows = list(shot.probabilities)
        columns = list(dict.fromkeys(name for row in shot.probabilities.values() for name in row))
        values = [{columns.index(name): p for name, p in row.items()} for row in shot.probabilities.values()]
        framed = [columns.index(chosen[row]) if chosen.get(row) in columns else -1 for row in rows]
        picture = heat(f"Step {shot.step}", [row.removeprefix("stage") for row in rows], columns, values, framed)
        frames.append(Frame(f"{shot.step}", Markup(picture)))
    yield Text(
        "The probability of each candidate of each searchable layer (stage.place). Framed is what was derived in the "
        "end." + (" Choose a step; the arrow keys go from one to the next." if len(frames) > 1 else "")
    )
    if len(frames) == 1:
        yield Figures([frames[0].picture])
    else:
        yield Slider("Step", frames)


def _search(facts: Facts) -> Iterator[Block]:
    search = facts.runs.search
    if search is None:
        return
    from markupsafe import Markup

    curves = facts.search_curves
    figures = [
        _lines("Loss", curves, {"train/loss": "training batches", "derived/loss": "the network derived then"}, "nats")
    ]
    accuracy = {"train/top1": "training batches", "derived/top1": "the network derived then"}
    figures.append(_lines("Accuracy", curves, accuracy, "top-1 %"))
    for tag in curves:
        if tag.startswith("expected/"):
            name = tag.removeprefix("expected/")
            tags = {tag: "expected of alpha", f"derived/{name}": "the network derived then", f"target/{name}": "target"}
            figures.append(_lines(name, curves, tags, _unit(search.result, name)))
    decided = {"arch/relative_entropy": "entropy of alpha"}
    figures.append(_lines("Undecided (1) to decided (0)", curves, decided, "share"))
    skips = {tag: tag.removeprefix("skip/") for tag in curves if tag.startswith("skip/")}
    figures.append(_lines("Probability of skip, by stage", curves, skips, "mean"))
    drawn = [Markup(figure) for figure in figures if figure]
    if search.result is not None:
        yield from _judged(search.result)
    if drawn:
        yield Figures(drawn)


def _judged(result: ResultFile) -> Iterator[Block]:
    """Returns the signs of a search that went wrong, or that there are none."""
    for note in result.notes:
        yield Text(f"Warning: {note}", "bad")
    if not result.notes:
        yield Text("No alarm was raised: neither a collapse onto one op nor one of the other signs of a failed search.",
                   "good")  # fmt: skip
    judged = result.judgement
    if judged is not None:
        chance = Reliability(judged.reliability, judged.networks).chance
        ranks = judged.tau >= SIGNIFICANT * judged.error
        yield Text(
            f"Beside {judged.networks} random networks of equal cost, all with the supernet's weights on "
            f"{judged.images} validation images, the derived network has rank {judged.rank} of {judged.networks + 1} "
            f"by its loss. Kendall's correlation between alpha's ranking of them and their losses is {judged.tau:.2f} "
            f"(by chance {judged.error:.2f}): alpha {'ranks' if ranks else 'does not rank'} them better than chance. "
            f"Between two halves of the images their losses agree by {judged.reliability:.2f}"
            + (", which may be by chance: the supernet does not rank networks." if chance else ".")
        )
    hours = f"{result.seconds / 3600:.2f} h" if result.seconds > 3600 else f"{result.seconds:.0f} s"
    more = f", resumed at step {result.resumed_at}" if result.resumed_at else ""
    yield Text(
        f"{result.steps} steps of the weights in {hours}{more}; seed {result.seed}; {result.tries} timed derivations; "
        f"top-1 {result.top1:.2f} % on {result.images} validation images with the supernet's weights.", "dim",
    )  # fmt: skip


def _unit(result: ResultFile | None, name: str) -> str:
    return next((limit.unit for limit in result.limits if limit.name == name), "") if result else ""


def _lines(
    title: str, curves: Mapping[str, Sequence[tuple[float, float]]], tags: Mapping[str, str], unit: str, x: str = "step"
) -> str:
    lines = [Line(name, curves[tag], tag.startswith("target/")) for tag, name in tags.items() if curves.get(tag)]
    return chart(title, lines, [], x, unit)


def _fronts(fronts: Sequence[Front]) -> Iterator[Block]:
    from markupsafe import Markup

    for front in fronts:
        kept = [m for m in front.members if m.on_front]
        other = [m for m in front.members if not m.on_front]
        marks = [
            Marks(name, [(m.cost, m.top1) for m in members], [m.label for m in members], shape)
            for name, members, shape in (("on the front", kept, "dot"), ("beaten in both", other, "ring"))
            if members
        ]
        steps = _steps(sorted({(m.cost, m.top1) for m in kept}))
        lines = [Line("the front", steps)] if len(steps) > 1 else []
        if picture := chart(front.title, lines, marks, front.cost, front.accuracy):
            yield Figures([Markup(picture)])
            rows = [
                (m.label, f"{m.cost:.6g}", f"{m.top1:.2f}", "yes" if m.on_front else "")
                for m in sorted(front.members, key=lambda m: m.cost)
            ]
            yield Table(front.title, ("asked", front.cost, "top-1 %", "on the front"), rows[:MOST_ROWS])
        for line in front.refused:
            yield Text(f"Not met: {line}", "unsure")


def _steps(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns the corners of a line that goes right, then up, from one point to the next."""
    corners: list[tuple[float, float]] = []
    for x, y in points:
        if corners:
            corners.append((x, corners[-1][1]))
        corners.append((x, y))
    return corners


def _sweep(rows: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    if not rows:
        return
    shown = []
    for row in rows[:MOST_ROWS]:
        result = row.get("result") if isinstance(row.get("result"), dict) else None
        top1 = f"{result['top1']:.2f}" if result and isinstance(result.get("top1"), int | float) else ""
        seconds = row.get("seconds")
        time = f"{seconds:.0f}" if isinstance(seconds, int | float) and math.isfinite(seconds) else ""
        shown.append((str(row.get("name")), str(row.get("status")), str(row.get("error") or ""), top1, time))
    yield Table("Each search", ("search", "status", "error", "top-1 %", "seconds"), shown, words=3)


def _retraining(facts: Facts) -> Iterator[Block]:
    retraining = facts.runs.retraining
    if retraining is None:
        return
    from markupsafe import Markup

    if retraining.test is not None:
        test, classes = retraining.test, retraining.design.classes
        shares = [("top-1", test.top1)] + ([("top-5", test.top5)] if classes >= TOP5_CLASSES else [])
        cells = [
            (what, f"{p:.2f}", "{:.2f} to {:.2f}".format(*wilson(p, test.images)), str(test.images))
            for what, p in shares
        ]
        yield Table("On the test set", ("", "%", "95 % interval", "images"), cells)
        yield Text(f"Loss {test.loss:.4f} nats, on the test images {retraining.selection}. The intervals are Wilson's.")
    curves = facts.retraining_curves
    figures = [
        _lines("Loss", curves, {"train/loss": "training batches", "test/loss": "test images"}, "nats"),
        _lines("Accuracy", curves, {"train/top1": "training batches", "test/top1": "test images"}, "top-1 %"),
    ]
    if drawn := [Markup(figure) for figure in figures if figure]:
        yield Figures(drawn)
    data = retraining.config.get("data", {})
    rows = [("data set", str(data.get("name", UNKNOWN)))]
    for part in ("training images", "test images"):
        rows.append((part, str((retraining.inputs or {}).get(part, {}).get("number", UNKNOWN))))
    rows += [(key, str(value)) for key, value in retraining.config.get("retrain", {}).items()]
    yield Table("How it was trained", ("setting", "value"), rows, words=2)


def _table(used: UsedTable) -> Iterator[Block]:
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


def _files(facts: Facts) -> Iterator[Block]:
    if not facts.files:
        return
    rows = [(file.path, f"{file.size:,}", file.sha256) for file in facts.files[:MOST_ROWS]]
    left = len(facts.files) - len(rows)
    caption = f"SHA-256 of {len(facts.files)} files" + (f", the first {MOST_ROWS}" if left else "")
    yield Table(caption, ("file", "bytes", "SHA-256"), rows, folded=True)
