"""Puts the results of retrainings together: a table, a verdict, a picture, and the files of them."""

from __future__ import annotations

import io
import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from engine.evaluation import Evaluation, wilson
from engine.files import write_atomically
from engine.quantities import amount, quantity
from proxyless_nas.retrainings.figures import (
    AgainstRandom,
    Difference,
    Spread,
    against_random,
    difference_of,
    spread_of,
)
from proxyless_nas.retrainings.networks import Entries, Entry

FORMAT = "proxylessnas/retrainings@1"
RECORD, TABLE, PICTURE = "results.json", "results.md", "results.png"
SELDOM = 0.05
"""A rank that chance gives more seldom than this is called better than chance."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one retraining."""

    network: str
    seed: int
    folder: Path
    """Its run folder."""
    log: Path
    """All that it has printed."""
    status: Literal["ended", "failed", "interrupted", "waiting"]
    """waiting: it had not begun when the sweep was interrupted."""
    seconds: float = 0.0
    """The time of its processes, including those before a resume of the sweep."""
    error: str | None = None
    """The error of a failed one, in one line."""
    test: Evaluation | None = None
    """Its result on the test images, if it has ended."""


@dataclass(frozen=True)
class RetrainSweep:
    """The results of several networks that were retrained alike."""

    entries: Entries
    outcomes: tuple[Outcome, ...]
    """For each seed the networks in their order."""
    seeds: tuple[int, ...]
    config: Path
    signalled: int | None = None
    """The signal that has interrupted the sweep."""

    @property
    def exit_status(self) -> int:
        """0 if every retraining has ended, 1 if one has not, and 128 plus the signal's number if a signal has
        interrupted the sweep: 130 for Ctrl-C, 143 for SIGTERM."""
        if self.signalled is not None:
            return 128 + self.signalled
        return 0 if all(outcome.test is not None for outcome in self.outcomes) else 1

    @cached_property
    def top1(self) -> dict[str, dict[int, float]]:
        """The accuracies in percent of each network by its seeds, of the retrainings that have ended."""
        found: dict[str, dict[int, float]] = {entry.name: {} for entry in self.entries.all}
        for outcome in self.outcomes:
            if outcome.test is not None:
                found[outcome.network][outcome.seed] = outcome.test.top1
        return found

    @cached_property
    def spread(self) -> Spread | None:
        """The spread from seed to seed; None if no network has two results."""
        return spread_of([[*values.values()] for values in self.top1.values()])

    @property
    def images(self) -> int:
        """The number of test images; 0 if nothing has ended."""
        return next((outcome.test.images for outcome in self.outcomes if outcome.test is not None), 0)

    def mean(self, name: str) -> float | None:
        """Returns the mean accuracy of a network; None if it has no result."""
        values = self.top1[name].values()
        return statistics.fmean(values) if values else None

    def interval(self, name: str) -> tuple[float, float] | None:
        """Returns the 95 % interval of a network's mean accuracy: by the spread from seed to seed, or, if every network
        has one result alone, Wilson's by the number of test images. None if it has no result."""
        values = [*self.top1[name].values()]
        if not values:
            return None
        return wilson(values[0], self.images) if self.spread is None else self.spread.interval(values)

    @cached_property
    def against_random(self) -> AgainstRandom | None:
        """The first network compared with the random ones; None if fewer than two of them have results."""
        others = [[*self.top1[e.name].values()] for e in self.entries.all if e.random and self.top1[e.name]]
        return against_random([*self.top1[self.entries.first.name].values()], others, self.spread)

    @cached_property
    def differences(self) -> dict[str, Difference]:
        """The mean accuracy of each further network that was given minus that of the first one."""
        first = [*self.top1[self.entries.first.name].values()]
        rest = [e.name for e in self.entries.all[1:] if not e.random and self.top1[e.name]]
        return {name: difference_of([*self.top1[name].values()], first, self.spread) for name in rest if first}

    @property
    def conclusions(self) -> tuple[str, ...]:
        """What the results show, in sentences; none if there is nothing to compare."""
        sentences = []
        if self.against_random is not None:
            sentences.append(_of_random(self.entries, self.against_random, len(self.top1[self.entries.first.name])))
        first = self.entries.first.name
        for name, d in self.differences.items():
            text = f"{name} has {_points(d.points)} than {first}"
            if d.low is None or d.high is None:
                text += "; one seed each does not show how far chance moves that"
            else:
                sure = "" if d.low <= 0 <= d.high else ", so it is not chance alone"
                text += f" (95 % interval of the difference {d.low:+.2f} to {d.high:+.2f}){sure}"
            sentences.append(f"{text}.")
        lacking = sum(outcome.test is None for outcome in self.outcomes)
        if sentences and lacking:
            sentences.append(f"{lacking} of {len(self.outcomes)} retrainings have no result and are left out.")
        return tuple(sentences)

    @property
    def columns(self) -> list[str]:
        """The headings of the table."""
        cost = f"predicted {self.entries.metric} [{self.entries.unit}]" if self.entries.metric else "predicted"
        seeds = [f"seed {seed}" for seed in self.seeds]
        return ["network", cost, "MACs", "params", *seeds, "mean top-1 %", "95 % interval"]

    @property
    def rows(self) -> list[list[str]]:
        """The cells of the table, the most accurate network first."""
        order = sorted(self.entries.all, key=lambda e: -(self.mean(e.name) or 0.0))
        return [self._row(entry) for entry in order]

    def _row(self, entry: Entry) -> list[str]:
        c = None if entry.design is None else entry.design.complexity
        mean, interval, values = self.mean(entry.name), self.interval(entry.name), self.top1[entry.name]
        return [
            entry.name,
            "" if entry.cost is None else f"{entry.cost:.4g}" if entry.cost < 1e4 else amount(entry.cost),
            "" if c is None else amount(c.macs),
            "" if c is None else amount(c.params),
            *(f"{values[seed]:.2f}" if seed in values else "" for seed in self.seeds),
            "" if mean is None else f"{mean:.2f}",
            "" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}",
        ]


def _points(points: float) -> str:
    return f"{abs(points):.2f} points {'more' if points >= 0 else 'less'}"


def _of_random(entries: Entries, a: AgainstRandom, seeds: int) -> str:
    """Returns what the comparison with random networks shows: the difference, the rank, and what follows. seeds: of the
    first network."""
    first, d = entries.first, a.difference
    known = d.low is not None and d.high is not None
    interval = (
        f"95 % interval of the difference {d.low:+.2f} to {d.high:+.2f}" if known else "no interval: all are equal"
    )
    cost = "" if first.cost is None else f" ({quantity(first.cost, entries.unit)})"
    over = f" in the mean of {seeds} seeds" if seeds > 1 else ""
    text = (
        f"{first.name} has {a.top1:.2f} % of the test images right{over}, {a.others} random networks of equal "
        f"predicted {entries.metric}{cost} {a.others_top1:.2f} %: {_points(d.points)} ({interval}). It is better than "
        f"{a.better_than} of the {a.others}; a random network ranks so high with probability {a.chance:.2g}. "
    )
    if d.low is None or d.high is None or d.low <= 0 <= d.high:
        return f"{text}So this does not show that it is better than chance."
    if d.high < 0:
        return f"{text}So it is worse than what chance gives: that search has failed."
    if a.chance <= SELDOM:
        return f"{text}So it is better than chance."
    needed = math.ceil(1 / SELDOM) - 1
    short = f"; to rank above chance takes {needed} random networks" if a.others < needed else ""
    return f"{text}So it is better than random networks are on average{short}."


def write_results(out: Path, sweep: RetrainSweep) -> None:
    """Writes results.json, results.md and, if a retraining has ended, results.png; each atomically."""
    write_atomically(out / RECORD, json.dumps(_record(sweep), indent=2) + "\n")
    lines = [sweep.columns, ["---"] * len(sweep.columns), *sweep.rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    write_atomically(out / TABLE, "\n\n".join([table, *sweep.conclusions]) + "\n")
    if any(sweep.top1.values()):
        content = io.BytesIO()
        picture(sweep).savefig(content, format="png", dpi=120)
        write_atomically(out / PICTURE, content.getvalue())


def _record(sweep: RetrainSweep) -> dict[str, Any]:
    entries, against = sweep.entries, sweep.against_random
    return {
        "format": FORMAT,
        "config": str(sweep.config),
        "seeds": list(sweep.seeds),
        "metric": entries.metric or None,
        "unit": entries.unit or None,
        "test_images": sweep.images,
        "networks": [_network(sweep, entry) for entry in entries.all],
        "seed_spread": None if sweep.spread is None else asdict(sweep.spread),
        "against_random": None if against is None else asdict(against),
        "differences": {name: asdict(d) for name, d in sweep.differences.items()},
        "verdict": list(sweep.conclusions),
        "runs": [_run(outcome) for outcome in sweep.outcomes],
    }


def _network(sweep: RetrainSweep, entry: Entry) -> dict[str, Any]:
    c = None if entry.design is None else entry.design.complexity
    interval = sweep.interval(entry.name)
    return {
        "name": entry.name, "random": entry.random, "architecture": entry.source, "predicted": entry.cost,
        "macs": None if c is None else c.macs, "params": None if c is None else c.params,
        "top1": {str(seed): value for seed, value in sweep.top1[entry.name].items()},
        "mean": sweep.mean(entry.name), "interval": None if interval is None else list(interval),
    }  # fmt: skip


def _run(outcome: Outcome) -> Mapping[str, Any]:
    test = outcome.test
    return {
        "name": outcome.folder.name, "network": outcome.network, "seed": outcome.seed, "folder": str(outcome.folder),
        "log": str(outcome.log), "status": outcome.status, "seconds": outcome.seconds, "error": outcome.error,
        "top1": None if test is None else test.top1, "images": None if test is None else test.images,
    }  # fmt: skip


def picture(sweep: RetrainSweep) -> Figure:
    """Draws the mean accuracy of each network with its interval over its predicted cost, or over its MACs if a cost is
    not known."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")  # not pyplot: it keeps figures and picks a backend
    axes = figure.subplots()
    shown = [entry for entry in sweep.entries.all if sweep.top1[entry.name]]
    by_cost = all(entry.cost is not None for entry in shown)
    labelled = False
    for i, entry in enumerate(shown):
        mean, interval = sweep.mean(entry.name), sweep.interval(entry.name)
        if mean is None or interval is None:
            continue
        macs = 0.0 if entry.design is None else entry.design.complexity.macs / 1e6
        x = macs if entry.cost is None or not by_cost else entry.cost
        bars = [[mean - interval[0]], [interval[1] - mean]]
        looks: dict[str, Any] = {"fmt": "o", "color": "0.6", "markersize": 5, "elinewidth": 1, "zorder": 1}
        if not entry.random:
            mark = "*" if entry is sweep.entries.first else "D"
            looks = {"fmt": mark, "color": f"C{i % 10}", "markersize": 13 if mark == "*" else 6, "zorder": 2}
        label = ("" if labelled else "random") if entry.random else entry.name
        labelled = labelled or entry.random
        axes.errorbar([x], [mean], yerr=bars, capsize=3, label=label or "_nolegend_", **looks)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    cost = f"predicted {sweep.entries.metric} [{sweep.entries.unit}]" if by_cost else "MACs [M]"
    of = "mean over seeds, with its 95 % interval" if sweep.spread is not None else "with Wilson's 95 % interval"
    axes.set(xlabel=cost, ylabel=f"top-1 % on test images\n({of})", title=sweep.config.stem)
    axes.grid(color="0.93")
    axes.margins(x=0.15, y=0.1)
    axes.legend(frameon=False, fontsize=8)
    return figure
