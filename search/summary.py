"""Prints results as tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from engine.quantities import amount, quantity
from search.curves import layer_costs
from search.derive.outcome import LimitOutcome
from search.limits.limit import additive
from search.loop import SearchResult
from search.many.family import Family
from search.many.sweep import COLUMNS, Sweep, row_of
from supernet.complexity import Complexity

MET = {True: "met", False: "not met", None: "not settled"}
"""The words for LimitOutcome.met."""
WIDEST_NAME = 30
"""The most characters of a search's name on one line of a table; a longer name is folded."""


def print_result(result: SearchResult) -> None:
    """Prints the derived network: limits, complexity, accuracy with the supernet's weights, and timings if any."""
    console = Console()
    table = _table(("", "", ""), "derived network", header=False)
    for outcome in result.measured.outcomes:
        limit = outcome.limit
        table.add_row(f"predicted {limit.name}", quantity(outcome.predicted, limit.unit), limit.asked)
    table.add_row("complexity", complexity_text(result.architecture.complexity))
    table.add_row("top-1 with the supernet's weights", f"{result.accuracy.top1:.2f} %", "on validation images")
    if j := result.judged:
        table.add_row(
            "rank by the supernet's loss", f"{j.rank} of {j.networks + 1}", f"beside {j.networks} random networks"
        )
        own = "" if j.reliability is None else f"the supernet's own: {j.reliability:.2f}"
        table.add_row("alpha's rank correlation", f"{j.tau:.2f} ± {j.error:.2f}", own)
    timed = [outcome for outcome in result.measured.outcomes if outcome.readings]
    for outcome in timed:
        first, second = (reading.timing for reading in outcome.readings)
        verdict = MET[outcome.met]
        name = outcome.limit.name
        table.add_row(f"measured {name}", f"{first.median_ms:.4g} ms", f"noise {first.noise_ms:.2g} ms: {verdict}")
        table.add_row("a second timing", f"{second.median_ms:.4g} ms", f"noise {second.noise_ms:.2g} ms")
    console.print(table)
    for outcome in timed:
        tries = _table(("asked", "predicted", "measured", "noise"), f"tries, {outcome.limit.name} (ms)")
        for one in outcome.tries:
            timing = one.reading.timing
            row = (one.asked, one.reading.predicted, timing.median_ms, timing.noise_ms)
            tries.add_row(*(f"{value:.4g}" for value in row))
        console.print(tries)
    for text in misses(result):
        console.print(text, highlight=False, markup=False)
    columns, constants = layer_costs(result.architecture, additive(result.limits))
    console.print(result.architecture.summary(columns, constants), highlight=False, markup=False, soft_wrap=True)


def misses(result: SearchResult) -> list[str]:
    """Returns a line for each limit that is not met, or not shown to be met, with what to do about it."""
    outcomes = result.measured.outcomes
    missed = [_miss(outcome) for outcome in outcomes if outcome.met is False]
    return missed + [
        f"{o.limit.name}: whether it meets {quantity(o.limit.bound, o.limit.unit)} is not settled, since its timing "
        "was disturbed: see the warning; time it again on an idle machine (--resume)."
        for o in outcomes
        if o.met is None
    ]


def _miss(outcome: LimitOutcome) -> str:
    limit = outcome.limit
    bound = quantity(limit.bound, limit.unit)
    if outcome.readings:
        return f"{limit.name}: measured, it misses {bound}: see the tries; measure the table again on an idle machine."
    return (
        f"{limit.name}: {quantity(outcome.predicted, limit.unit)} predicted, above {bound}; argmax ignores limits: "
        "proxyless-nas derive with --method constrained meets it."
    )


def print_family(family: Family) -> None:
    """Prints one row per derived architecture; if they were scored, a column shows which are on the front."""
    console = Console()
    scored = any(m.accuracy for m in family)
    title = f"architectures derived at step {family.step}"
    columns = ("", "predicted, bound", "params", "MACs", "log p", *(("top-1 %", "front") if scored else ()))
    table = _table(columns, f"{title}; top-1 with the supernet's weights" if scored else title)
    for m in family:
        c, paths = m.architecture.complexity, m.architecture.paths
        costs = [f"{quantity(limit.cost.of(paths), limit.unit)}, {limit.asked}" for limit in additive(m.limits)]
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
    """Returns the parameters and MACs of a network as a phrase."""
    return f"{amount(c.params)} parameters, {amount(c.macs)} MACs"
