"""The main job end to end on bundled images, as `proxyless-nas quickstart` runs it.

It measures a latency table on this CPU (again if other work disturbs it), searches, derives, retrains the derived
network and random ones of the same predicted latency, and times them all in turn. `closing_words` says what the results
show, and what they do not show.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import shlex
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import ConfigError
from engine.files import make_folder, write_atomically
from engine.shipped import shipped_config

if TYPE_CHECKING:  # the functions import slow modules themselves, after the arguments have been parsed
    from engine.evaluation import Evaluation
    from search.derive.clock import Reading
    from search.derive.outcome import Try
    from search.loop import SearchResult
    from supernet.architecture import Architecture

log = logging.getLogger("quickstart")
VERIFIED = 20  # fresh networks that the table's error is computed from
LAST_TIMINGS = 2  # timings of all networks at most, until one is undisturbed: they decide nothing

SEARCH, RETRAIN = "quickstart_cpu", "quickstart"  # names of shipped configurations


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
    target_ms: float
    met: bool | None
    """The search's verdict: whether `decided` meets the target; None if that is undecided."""
    decided: Reading
    """The reading of the derived network by which the search decided."""
    again: Reading
    """The reading of the derived network in the last timing, which the printed table shows."""
    rows: tuple[Row, ...]
    """A row for each network, the derived one first."""
    test_images: int
    resume: str
    """The command that times the derived network again."""


def quickstart(out: Path, seed: int = 0, baselines: int = 10) -> dict[str, object]:
    """Runs everything below the folder `out`. Returns what was measured, and writes it to result.json.

    baselines: the number of random networks that are retrained beside the derived one. Raises ConfigError if `out`
    holds a quick start already, finished or not.
    """
    from engine.progress import Stages
    from report.page import report as write_report
    from retrain.config import RetrainConfig
    from retrain.several import retrain_all
    from search.baseline import random_architectures
    from search.derive.clock import Clock
    from search.limits.limit import additive
    from search.loop import run_search
    from supernet.architecture import Architecture
    from supernet.cost import Cost

    if (out / "search").exists():
        remedy = "choose another folder, or delete this one"
        raise ConfigError(f"--out {out}", "holds a quick start already", remedy=remedy)
    make_folder(out, "--out")  # before the measuring, which takes minutes
    began = time.monotonic()
    table_path = out / "table.yaml"
    overrides = [f"limits.0.table={table_path}", f"run.seed={seed}"]
    overrides.append(f"limits.0.largest_error={measured(table_path, seed)}")
    result = run_search(shipped_config(SEARCH), out / "search", overrides=overrides)
    closed, space = result.measured, result.architecture.space
    outcome, (limit,) = closed.outcomes[0], additive(result.limits)  # the file has one limit, on latency
    # the derived network's own sum, which is not the target's where a timing has corrected the bound
    same = [limit.of_cost(result.architecture.paths)]
    networks = {"derived": result.architecture.paths}
    drawn = random_architectures(space, same, baselines + 1, seed=seed, at_least=0)
    others = [paths for paths in drawn if paths != result.architecture.paths]
    networks |= {f"random {i}": paths for i, paths in enumerate(others[:baselines], 1)}
    folders = [out / ("retrain" if name == "derived" else name.replace(" ", "")) for name in networks]
    architectures = [Architecture(space, paths) for paths in networks.values()]
    config = RetrainConfig.read(shipped_config(RETRAIN), [f"run.seed={seed}"])
    with _search_kept(out), Stages() as report:
        tests = retrain_all(config, architectures, folders, report, "retraining the derived and the random networks")
    assert isinstance(limit.cost, Cost)  # limits of the one table that was measured above
    assert limit.source is not None
    clock = Clock.of(space, limit.cost, limit.source.measure)
    with Stages() as report:
        readings = clock.timed_all(list(networks.values()), report, "timing all networks in turn", LAST_TIMINGS)
    rows = tuple(map(_row, networks, architectures, tests, readings))
    resume = ["proxyless-nas", "search", SEARCH, "--out", str(out / "search"), "--resume", *overrides]
    ending = Ending(
        out, limit.bound, closed.met, outcome.readings[0], readings[0], rows, tests[0].images, shlex.join(resume),
    )  # fmt: skip
    record: dict[str, object] = {
        "seed": seed,
        "target_ms": limit.bound,
        "met": closed.met,
        "decided": ending.decided.figures(),
        "tries": [_record_of(t) for t in closed.tries],
        "networks": [asdict(row) for row in rows],
        "drift": readings[0].drift,
        "seconds": time.monotonic() - began,
    }
    write_atomically(out / "result.json", json.dumps(record, indent=2) + "\n")
    page = write_report(out, out=out / "report.html")
    _print(ending, result, page)
    return record


@contextlib.contextmanager
def _search_kept(out: Path) -> Iterator[None]:
    """Says how the search's result is used if what follows the search ends early, by an error or by Ctrl-C."""
    try:
        yield
    except BaseException:
        words = ["proxyless-nas", "retrain", RETRAIN, "--architecture", str(out / "search" / "architecture.json")]
        command = shlex.join([*words, "--out", str(out / "retrained")])
        log.info("the search had ended, and its network is kept; to retrain that one alone: %s", command)
        raise


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
    from search.derive.clock import acceptable_error

    ms, target = e.decided.timing.median_ms, e.target_ms
    timed = f"the search timed its network at {ms:.3f} ms for a target of {target:.3f} ms"
    off = f"{100 * abs(ms / target - 1):.1f} % {'above' if ms > target else 'below'}"
    if e.met is None:
        why = "other work slowed or disturbed this machine at that time, so that timing proves nothing"
        return f"TARGET NOT SETTLED: {timed} ({off}), but {why}. On an idle machine, time it again: {e.resume}"
    if not e.met:
        return (
            f"TARGET MISSED: {timed}, {off}. Run it again on an idle machine; if your own limit is missed, ask for a "
            "little less."
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
    from scipy.stats import t

    derived, *others = (row.top1 for row in e.rows)
    if len(others) < 2:
        return (
            f"Its accuracy is {derived:.2f} %; what it is worth, --baselines 10 or so show: random networks beside it."
        )
    mean, spread, n = statistics.fmean(others), statistics.stdev(others), len(others)
    half = float(t.ppf(0.975, n - 1)) * spread * math.sqrt(1 + 1 / n)
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


def measured(path: Path, seed: int) -> float:
    """Measures a latency table, again if other work on this machine disturbs it, and writes it.

    Returns the error in percent with which a search shall accept it: that of any search, or the table's own if the
    machine is never calm enough.
    """
    from latency.config import LARGEST_ERROR, LatencyConfig
    from proxyless_nas.calm import calmest_table

    table = calmest_table(LatencyConfig.read(shipped_config(SEARCH)), seed=seed, verify=VERIFIED)
    verification = table.verification
    assert verification is not None  # asked for
    table.save(path)
    error = verification.table.mape_percent
    if error > LARGEST_ERROR:
        log.warning(
            "the table is off by %.0f %%, where a search accepts %g %%: the quick start goes on with it, so that you "
            "see the rest, but no latency in it means anything. Run it again on an idle machine", error, LARGEST_ERROR,
        )  # fmt: skip
    return max(LARGEST_ERROR, math.ceil(error))


def _row(name: str, architecture: Architecture, test: Evaluation, reading: Reading) -> Row:
    c, timing = architecture.complexity, reading.timing
    ms = (reading.predicted, timing.median_ms, timing.noise_ms, timing.standard_error_ms)
    return Row(name, *ms, test.top1, c.params, c.macs)


def _record_of(one: Try) -> dict[str, object]:
    """Returns what result.json says of one derivation and the timings of its network."""
    readings = [asdict(timed.reading) for timed in one.timed]
    return {"derivation": asdict(one.derivation), "asked": [timed.asked for timed in one.timed], "readings": readings}


def _print(ending: Ending, result: SearchResult, page: Path) -> None:
    """Prints the table of networks, the closing words and, last of all, the path of the report's page."""
    from rich.console import Console
    from rich.table import Table

    from engine.config import load_config
    from engine.quantities import amount

    console, share = Console(), load_config(shipped_config(SEARCH))["limits"][0]["at"]
    table = Table(
        *("network", "predicted ms", "measured ms", "noise ms", "test top-1 %", "params", "MACs"),
        title=f"target {ending.target_ms:.4g} ms: {share} of the range that this space reaches on this CPU",
    )
    for row in ending.rows:
        measured = (f"{row.predicted_ms:.4g}", f"{row.measured_ms:.4g}", f"{row.noise_ms:.2g}", f"{row.top1:.2f}")
        table.add_row(row.name, *measured, amount(row.params), amount(row.macs))
    console.print(table)
    console.print("derived: " + "  ".join(result.architecture.names), highlight=False, markup=False)
    for paragraph in closing_words(ending):
        console.print()
        console.print(paragraph, highlight=False, markup=False, soft_wrap=not console.is_terminal)
    console.print()
    console.print(f"All of it on one page, for a browser: {page}", highlight=False, markup=False, soft_wrap=True)
