"""Results as tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from engine.quantities import amount, quantity
from search.curves import layer_costs
from search.limits.limit import limit_names
from search.loop import SearchResult
from search.many.family import Family
from search.many.sweep import COLUMNS, Sweep, row_of
from supernet.complexity import Complexity

WIDEST_NAME = 30
"""The most characters of a search's name on one line of a table; a longer name is folded."""


def print_result(result: SearchResult) -> None:
    """The derived network: limits, complexity, accuracy with the supernet's weights, and timings if any."""
    console = Console()
    table = _table(("", "", ""), "derived network", header=False)
    names, found = limit_names(result.limits), result.measured
    for name, limit in zip(names, result.limits, strict=True):
        word = "at" if limit.at else "below"
        value = quantity(limit.cost.of(result.architecture.paths), limit.unit)
        table.add_row(f"predicted {name}", value, f"{word} {quantity(limit.bound, limit.unit)}")
    if result.peak:
        peak = quantity(result.peak.of(result.architecture.paths), result.peak.unit)
        table.add_row(f"predicted {result.peak.metric}", peak, f"below {quantity(result.peak.bound, result.peak.unit)}")
    table.add_row("complexity", complexity_text(result.architecture.complexity))
    table.add_row("top-1 with the supernet's weights", f"{result.accuracy.top1:.2f} %", "on validation images")
    if j := result.judged:
        table.add_row(
            "rank by the supernet's loss", f"{j.rank} of {j.networks + 1}", f"beside {j.networks} random networks"
        )
        table.add_row(
            "alpha's rank correlation", f"{j.tau:.2f} ± {j.error:.2f}", f"the supernet's own: {j.reliability:.2f}"
        )
    for k, i in enumerate(found.timed):
        first, second = found.tries[found.chosen].readings[k].timing, found.confirmation[k]
        says = "not met" if i in found.missed else "not settled" if i in found.unsettled else "met"
        table.add_row(f"measured {names[i]}", f"{first.median_ms:.4g} ms", f"noise {first.noise_ms:.2g} ms: {says}")
        table.add_row("a second timing", f"{second.median_ms:.4g} ms", f"noise {second.noise_ms:.2g} ms")
    console.print(table)
    for k, i in enumerate(found.timed):
        tries = _table(("asked", "predicted", "measured", "noise"), f"tries, {names[i]} (ms)")
        for t in found.tries:
            timing = t.readings[k].timing
            row = (t.asked[k], t.readings[k].predicted, timing.median_ms, timing.noise_ms)
            tries.add_row(*(f"{value:.4g}" for value in row))
        console.print(tries)
    for text in misses(result):
        console.print(text, highlight=False, markup=False)
    columns, constants = layer_costs(result.architecture, result.limits)
    console.print(result.architecture.summary(columns, constants), highlight=False, markup=False, soft_wrap=True)


def misses(result: SearchResult) -> list[str]:
    """Returns a line for each limit that is not met, or not shown to be met, with what to do about it."""
    found, measured, names = [], result.measured, limit_names(result.limits)
    for i in measured.missed:
        limit, value = result.limits[i], result.limits[i].cost.of(result.architecture.paths)
        if i in measured.timed:
            found.append(
                f"{names[i]}: measured, it misses {quantity(limit.bound, limit.unit)}: see the tries; measure the "
                "table again on an idle machine."
            )
        else:
            found.append(
                f"{names[i]}: {quantity(value, limit.unit)} predicted, above {quantity(limit.bound, limit.unit)}; "
                "argmax ignores limits: scripts/derive.py with --method constrained meets it."
            )
    return found + [
        f"{names[i]}: whether it meets {quantity(result.limits[i].bound, result.limits[i].unit)} is not settled, since "
        "its timing was disturbed: see the warning; time it again on an idle machine (--resume)."
        for i in measured.unsettled
    ]


def print_family(family: Family) -> None:
    """One row per derived architecture; where they were scored, those that another one beats are marked."""
    console = Console()
    scored = any(m.accuracy for m in family)
    title = f"architectures derived at step {family.step}"
    columns = ("", "predicted, bound", "params", "MACs", "log p", *(("top-1 %", "front") if scored else ()))
    table = _table(columns, f"{title}; top-1 with the supernet's weights" if scored else title)
    for m in family:
        c, paths = m.architecture.complexity, m.architecture.paths
        costs = [
            f"{quantity(limit.cost.of(paths), limit.unit)}, {'at' if limit.at else 'below'} "
            f"{quantity(limit.bound, limit.unit)}"
            for limit in m.limits
        ]
        row = [
            m.asked or "the run's",
            "\n".join(costs),
            amount(c.params),
            amount(c.macs),
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
            console.print(f"{m.path.name}: {note}", highlight=False, markup=False)


def print_sweep(sweep: Sweep, out: Path) -> None:
    """Prints one row per search, with the name in full; errors are printed below the table, where a line has room."""
    console = Console()
    used = [i for i, _ in enumerate(COLUMNS[:-1]) if i < 2 or any(row_of(o)[i] for o in sweep.outcomes)]
    table = _table([COLUMNS[i] for i in used], f"{out}")
    longest = max((len(outcome.search.name) for outcome in sweep.outcomes), default=0)
    table.columns[0].min_width = min(longest, WIDEST_NAME)
    for outcome in sweep.outcomes:
        row = row_of(outcome)
        table.add_row(*(escape(row[i]) for i in used))
    console.print(table)
    for outcome in sweep.outcomes:
        if outcome.error:
            console.print(f"{outcome.search.name}: {outcome.error}", soft_wrap=True, highlight=False, markup=False)
    if sweep.interrupted:
        console.print("interrupted; continue with --resume")


def _table(columns: Sequence[str], title: str, *, header: bool = True) -> Table:
    """Returns a table that folds text too long for its column, which rich would replace by dots."""
    table = Table(title=escape(title), show_header=header)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def complexity_text(c: Complexity) -> str:
    return f"{amount(c.params)} parameters, {amount(c.macs)} MACs"
