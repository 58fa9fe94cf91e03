"""Results as tables on the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from search.family import Family
from search.limits import limit_names
from search.loop import SearchResult
from search.report import layer_costs
from search.sweep import COLUMNS, Sweep, row_of
from supernet.complexity import Complexity


def print_result(result: SearchResult) -> None:
    """The derived network: limits, complexity, accuracy with the supernet's weights, and timings if any."""
    console = Console()
    table = Table(title="derived network", show_header=False)
    names, found = limit_names(result.limits), result.measured
    for name, limit in zip(names, result.limits, strict=True):
        word = "at" if limit.at else "below"
        value = f"{limit.cost.of(result.architecture.paths):.4g} {limit.unit}"
        table.add_row(f"predicted {name}", value, f"{word} {limit.bound:.4g} {limit.unit}")
    if result.peak:
        peak = f"{result.peak.of(result.architecture.paths):.4g} {result.peak.unit}"
        table.add_row(f"predicted {result.peak.metric}", peak, f"below {result.peak.bound:.4g} {result.peak.unit}")
    table.add_row("complexity", complexity_text(result.architecture.complexity))
    table.add_row("top-1 with the supernet's weights", f"{result.accuracy.top1:.2f} %", "on validation images")
    for k, i in enumerate(found.timed):
        first, second = found.tries[found.chosen].readings[k].timing, found.confirmation[k]
        says = "not met" if i in found.missed else "not settled" if i in found.unsettled else "met"
        table.add_row(f"measured {names[i]}", f"{first.median_ms:.4g} ms", f"noise {first.noise_ms:.2g} ms: {says}")
        table.add_row("a second timing", f"{second.median_ms:.4g} ms", f"noise {second.noise_ms:.2g} ms")
    console.print(table)
    for k, i in enumerate(found.timed):
        tries = Table("asked", "predicted", "measured", "noise", title=f"tries, {names[i]} [ms]")
        for t in found.tries:
            timing = t.readings[k].timing
            row = (t.asked[k], t.readings[k].predicted, timing.median_ms, timing.noise_ms)
            tries.add_row(*(f"{value:.4g}" for value in row))
        console.print(tries)
    for text in misses(result):
        console.print(text, highlight=False)
    columns, constants = layer_costs(result.architecture, result.limits)
    console.print(result.architecture.summary(columns, constants), highlight=False, markup=False, soft_wrap=True)


def misses(result: SearchResult) -> list[str]:
    """Of each limit that is not met, or not shown to be, a line with what to do about it."""
    found, measured, names = [], result.measured, limit_names(result.limits)
    for i in measured.missed:
        limit, value = result.limits[i], result.limits[i].cost.of(result.architecture.paths)
        if i in measured.timed:
            found.append(
                f"{names[i]}: measured, it misses {limit.bound:.4g} {limit.unit}: see the tries; measure the table "
                "again on an idle machine."
            )
        else:
            found.append(
                f"{names[i]}: {value:.4g} {limit.unit} predicted, above {limit.bound:.4g}; argmax looks at no "
                "limit: scripts/derive.py with --method constrained meets it."
            )
    return found + [
        f"{names[i]}: whether it meets {result.limits[i].bound:.4g} {result.limits[i].unit} is not settled, since its "
        "timing cannot be believed: see the warning; time it again on an idle machine (--resume)."
        for i in measured.unsettled
    ]


def print_family(family: Family) -> None:
    """One row per derived architecture; where they were scored, those that another one beats are marked."""
    console = Console()
    scored = any(m.accuracy for m in family)
    title = f"architectures derived at step {family.step}"
    table = Table(title=f"{title}; top-1 with the supernet's weights" if scored else title)
    table.add_column("", no_wrap=True)
    table.add_column("predicted, bound")
    for column in ("M params", "M MACs", "log p", *(("top-1 %", "front") if scored else ())):
        table.add_column(column, no_wrap=True)
    for m in family:
        c, paths = m.architecture.complexity, m.architecture.paths
        costs = [
            f"{limit.cost.of(paths):.4g} {'at' if limit.at else 'below'} {limit.bound:.4g} {limit.unit}"
            for limit in m.limits
        ]
        row = [
            m.asked or "the run's",
            "\n".join(costs),
            f"{c.params / 1e6:.3g}",
            f"{c.macs / 1e6:.3g}",
            f"{m.derivation.log_probability:.1f}",
        ]
        if m.accuracy:
            row += [f"{m.accuracy.top1:.2f}", "yes" if m.on_front else "no"]
        table.add_row(*row)
    console.print(table)
    for m in family:
        console.print(f"{m.asked or 'written'}: {m.path}", soft_wrap=True, highlight=False, markup=False)
    for m in family:
        for note in m.derivation.notes:
            console.print(f"{m.path.name}: {note}")


def print_sweep(sweep: Sweep, out: Path) -> None:
    """One row per search; what went wrong below it, where a line has room."""
    console = Console()
    used = [i for i, _ in enumerate(COLUMNS[:-1]) if i < 2 or any(row_of(o)[i] for o in sweep.outcomes)]
    table = Table(*(COLUMNS[i] for i in used), title=f"{out}")
    for outcome in sweep.outcomes:
        row = row_of(outcome)
        table.add_row(*(row[i] for i in used))
    console.print(table)
    for outcome in sweep.outcomes:
        if outcome.error:
            console.print(f"{outcome.search.name}: {outcome.error}", soft_wrap=True, highlight=False, markup=False)
    if sweep.interrupted:
        console.print("interrupted; continue with --resume")


def complexity_text(c: Complexity) -> str:
    return f"{c.params / 1e6:.3g} M parameters, {c.macs / 1e6:.4g} M MACs"
