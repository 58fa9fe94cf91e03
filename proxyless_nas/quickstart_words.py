"""Prints what a quick start ends with: a table of the retrained networks, and what the results do and do not show."""

from __future__ import annotations

import math
import shlex
import statistics
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from scipy.special import stdtrit

from engine.quantities import amount
from search.derive.clock import Reading, acceptable_error


@dataclass(frozen=True)
class Row:
    """One retrained network. Latencies in ms, accuracies in percent."""

    name: str
    predicted_ms: float
    measured_ms: float
    """Its latency in the last timing, in turn with all others."""
    noise_ms: float
    standard_error_ms: float
    top1: float
    params: int
    macs: int


@dataclass(frozen=True)
class Ending:
    """The results that the closing words describe."""

    out: Path
    asked: str
    """The target as the search's configuration has it, such as 40%."""
    target_ms: float
    met: bool | None
    """The search's verdict: whether `decided` meets the target; None if that is undecided."""
    decided: Reading
    """The reading of the derived network by which the search decided."""
    again: Reading
    """The reading of the derived network in the last timing, which the printed table shows."""
    rows: tuple[Row, ...]
    """A row for each network, the derived one first."""
    ops: tuple[str, ...]
    """The candidates of the derived network."""
    test_images: int
    resume: str
    """The command that times the derived network again."""


def print_ending(ending: Ending, page: Path) -> None:
    """Prints the table of networks, the closing words and, last of all, the path of the report's page."""
    console = Console()
    table = Table(
        *("network", "predicted ms", "measured ms", "noise ms", "test top-1 %", "params", "MACs"),
        title=f"target {ending.target_ms:.4g} ms: {ending.asked} of the range that this space reaches on this CPU",
    )
    for row in ending.rows:
        measured = (f"{row.predicted_ms:.4g}", f"{row.measured_ms:.4g}", f"{row.noise_ms:.2g}", f"{row.top1:.2f}")
        table.add_row(row.name, *measured, amount(row.params), amount(row.macs))
    console.print(table)
    console.print("derived: " + "  ".join(ending.ops), highlight=False, markup=False)
    for paragraph in closing_words(ending):
        console.print()
        console.print(paragraph, highlight=False, markup=False, soft_wrap=not console.is_terminal)
    console.print()
    console.print(f"All of it on one page, for a browser: {page}", highlight=False, markup=False, soft_wrap=True)


def closing_words(ending: Ending) -> list[str]:
    """Returns what the quick start has shown, in paragraphs: the target, the two timings, the accuracies, where the
    files lie, and what to do next."""
    out = shlex.quote(str(ending.out))
    return [
        _verdict(ending),
        _two_timings(ending),
        _accuracies(ending),
        f"Written to {out}: result.json (these figures), search/architecture.json (the network), retrain/checkpoints "
        "(its weights, trained from scratch), table.yaml (the latency table).",
        f"The curves of the search and of the retraining: tensorboard --logdir {out}",
        "Next, search for your device and your images (docs/device.md). It begins with a table: "
        "proxyless-nas measure imagenet_cpu --out tables/imagenet_cpu.yaml --verify 40",
    ]


def _verdict(e: Ending) -> str:
    ms, target = e.decided.timing.median_ms, e.target_ms
    timed = f"the search timed its network at {ms:.3f} ms for a target of {target:.3f} ms"
    off = f"{100 * abs(ms / target - 1):.1f} % {'above' if ms > target else 'below'}"
    if e.met is None:
        why = "other work slowed or disturbed this machine at that time, so that timing proves nothing"
        return f"TARGET NOT SETTLED: {timed} ({off}), but {why}. On an idle machine, time it again: {e.resume}"
    if not e.met:
        return (
            f"TARGET MISSED: {timed}, {off}. Run it again on an idle machine, in another folder; if your own limit is "
            "missed, ask for a little less."
        )
    if ms <= target:
        return f"TARGET MET: {timed}, {off}."
    allowed = 100 * acceptable_error(e.decided.timing)
    return f"TARGET MET: {timed}, {off}, which is within the {allowed:.1f} % that such a timing may be off."


def _two_timings(e: Ending) -> str:
    """Returns why the printed table's figure differs from the one that decided: the share of the machine's speed,
    measured on the reference, and the rest."""
    before, now = e.decided.timing.median_ms, e.again.timing.median_ms
    change = now / before
    machine = e.again.drift / e.decided.drift
    text = (
        f"The table above is another timing, after the retraining: there the derived network takes {now:.3f} ms, "
        f"{100 * (change - 1):+.1f} %. It does not change the verdict. A reference network that was timed in turn took "
        f"{e.decided.drift:.2f} times what the latency table predicts in the first timing and "
        f"{e.again.drift:.2f} times in this one, so the machine as a whole accounts for {100 * (machine - 1):+.1f} % "
        f"and {100 * (change / machine - 1):+.1f} % is left."
    )
    if not e.again.reliable:
        return f"{text} The machine was busy this time, so compare the networks of the table at most with each other."
    return (
        f"{text} Two timings of one network differ by some 2 % even on an idle machine; compare the networks of the "
        "table with each other: they were timed in turn."
    )


def _accuracies(e: Ending) -> str:
    """Returns what the accuracies show: whether the derived network lies among random ones of equal latency, with the
    interval in which 95 of 100 of these are expected to lie (Student's t, for one more of the same kind)."""
    derived, *others = (row.top1 for row in e.rows)
    if len(others) < 2:
        return (
            f"Its accuracy is {derived:.2f} %; what it is worth, --baselines 10 or so show: random networks beside it."
        )
    mean, spread, n = statistics.fmean(others), statistics.stdev(others), len(others)
    half = float(stdtrit(n - 1, 0.975)) * spread * math.sqrt(1 + 1 / n)
    beaten = sum(derived > other for other in others)
    text = (
        f"The derived network has {derived:.2f} % of the {e.test_images} test images right. {n} random networks of the "
        f"same predicted latency, retrained alike, have {mean:.2f} % in the mean; of 100 more, 95 are expected between "
        f"{max(0.0, mean - half):.2f} and {min(100.0, mean + half):.2f} %. It beats {beaten} of the {n}"
    )
    if derived > mean + half:
        return f"{text} and lies above that interval: the search found a network that chance seldom finds."
    if derived < mean - half:
        return f"{text} and lies below that interval: this search has failed. Its own judgement above may say why."
    if beaten == n:
        return f"{text}, which one of {n + 1} random networks does as well, and lies inside that interval."
    return f"{text} and lies inside that interval: this search does not show that it beats chance."
