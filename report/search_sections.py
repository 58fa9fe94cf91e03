"""Shows a search: its limits, the path probabilities, the curves, and the networks beside the derived one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engine.quantities import quantity
from report.blocks import MOST_ROWS, Block, Figures, Frame, Slider, Table, Text, lines
from report.drawing import Line, Marks, chart, heat
from report.facts import Facts, Front, Snapshot
from search.judge import FEWEST, SIGNIFICANT
from search.result import LimitFigures, ResultFile
from supernet.summary import with_unit

MOST_FRAMES = 24
"""The most pictures of path probabilities; of more, evenly spaced ones are shown."""
MOST_CELLS = 6_000
"""The most cells of all these pictures together, so that the page stays small."""


def limits_blocks(facts: Facts) -> Iterator[Block]:
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


def beside_blocks(facts: Facts) -> Iterator[Block]:
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


def probabilities_blocks(snapshots: Sequence[Snapshot], facts: Facts) -> Iterator[Block]:
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


def search_blocks(facts: Facts) -> Iterator[Block]:
    search = facts.runs.search
    if search is None:
        return
    from markupsafe import Markup

    curves = facts.search_curves
    figures = [
        lines("Loss", curves, {"train/loss": "training batches", "derived/loss": "the network derived then"}, "nats")
    ]
    accuracy = {"train/top1": "training batches", "derived/top1": "the network derived then"}
    figures.append(lines("Accuracy", curves, accuracy, "top-1 %"))
    for tag in curves:
        if tag.startswith("expected/"):
            name = tag.removeprefix("expected/")
            tags = {tag: "expected of alpha", f"derived/{name}": "the network derived then", f"target/{name}": "target"}
            figures.append(lines(name, curves, tags, _unit(search.result, name)))
    decided = {"arch/relative_entropy": "entropy of alpha"}
    figures.append(lines("Undecided (1) to decided (0)", curves, decided, "share"))
    skips = {tag: tag.removeprefix("skip/") for tag in curves if tag.startswith("skip/")}
    figures.append(lines("Probability of skip, by stage", curves, skips, "mean"))
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
        ranks = judged.tau >= SIGNIFICANT * judged.error
        better = f"alpha {'ranks' if ranks else 'does not rank'} them better than chance"
        halves = judged.halves
        supernet = ""
        if halves is not None:
            verdict = ", which may be by chance: the supernet does not rank networks" if halves.chance else ""
            supernet = f" Between two halves of the images their losses agree by {halves.tau:.2f}{verdict}."
        yield Text(
            f"Beside {judged.networks} random networks of equal cost, all with the supernet's weights on "
            f"{judged.images} validation images, the derived network has rank {judged.rank} of {judged.networks + 1} "
            f"by its loss. Kendall's correlation between alpha's ranking of them and their losses is {judged.tau:.2f} "
            f"(by chance {judged.error:.2f}): {better if judged.networks >= FEWEST else 'too few networks to tell'}."
            f"{supernet}"
        )
    hours = f"{result.seconds / 3600:.2f} h" if result.seconds > 3600 else f"{result.seconds:.0f} s"
    more = f", resumed at step {result.resumed_at}" if result.resumed_at else ""
    yield Text(
        f"{result.steps} steps of the weights in {hours}{more}; seed {result.seed}; {result.tries} timed derivations; "
        f"top-1 {result.top1:.2f} % on {result.images} validation images with the supernet's weights.", "dim",
    )  # fmt: skip


def _unit(result: ResultFile | None, name: str) -> str:
    return next((limit.unit for limit in result.limits if limit.name == name), "") if result else ""


def fronts_blocks(fronts: Sequence[Front]) -> Iterator[Block]:
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
        stairs = [Line("the front", steps)] if len(steps) > 1 else []
        if picture := chart(front.title, stairs, marks, front.cost, front.accuracy):
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


def sweep_blocks(rows: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
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
