"""The main job end to end on bundled images, as `proxyless-nas quickstart` runs it.

It measures a latency table on this CPU (again if other work disturbs it), searches, derives, retrains the derived
network and random ones of the same predicted latency, times them all in turn, and writes a page about it. These are
stages of one folder (engine/runs/stages.py), so that a quick start which was stopped goes on where it was.
"""

from __future__ import annotations

import json
import logging
import math
import shlex
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from engine.config import load_config
from engine.evaluation import Evaluation
from engine.files import read_json, write_atomically
from engine.progress import Stages
from engine.runs.folder import run_begun
from engine.runs.lock import locked
from engine.runs.stages import Done, Stage, StageRecord, record_to_go_on_with, run_stages
from engine.shipped import shipped_config
from export.formats.base import versions_of
from latency.config import LARGEST_ERROR, LatencyConfig
from latency.measure import Timing
from latency.summary import summary
from proxyless_nas.calm import calmest_table
from proxyless_nas.quickstart_words import Ending, Row, print_ending
from proxyless_nas.shipping.folder import ARCHITECTURE, Records, files_in, hash_of
from proxyless_nas.shipping.training import search_line
from report.page import report as write_report
from retrain.config import RetrainConfig
from retrain.several import retrain_all
from retrain.weights import load_chosen
from search.baseline import random_architectures
from search.config import SearchConfig
from search.derive.clock import Clock, Reading
from search.derive.outcome import Try
from search.limits.limit import AdditiveLimit, additive
from search.loop import run_search
from search.opening import resolved_run
from search.result import load_result
from supernet.architecture import Architecture
from supernet.cost import Cost

log = logging.getLogger("quickstart")
VERIFIED = 20  # fresh networks that the table's error is computed from
LAST_TIMINGS = 2  # timings of all networks at most, until one is undisturbed: they decide nothing

SEARCH, RETRAIN = "quickstart_cpu", "quickstart"  # names of shipped configurations
TABLE, RESULT, PAGE = "table.yaml", "result.json", "report.html"


@dataclass(frozen=True)
class Job:
    """What every stage is given."""

    out: Path
    seed: int
    baselines: int
    """The number of random networks that are retrained beside the derived one."""

    @property
    def architecture(self) -> Architecture:
        """The derived network, which the search has written."""
        return load_chosen(self.out / ARCHITECTURE)

    @cached_property
    def limit(self) -> AdditiveLimit:
        """The limit of the search, on latency, by the table of the folder. Call it once the search has ended."""
        (limit,) = additive(resolved_run(self.out / "search").limits)
        return limit

    def networks(self) -> dict[str, Architecture]:
        """Returns the derived network and the random ones, by name."""
        derived = self.architecture
        # the derived network's own sum, which is not the target's where a timing has corrected the bound
        same = [self.limit.of_cost(derived.paths)]
        drawn = random_architectures(derived.space, same, self.baselines + 1, seed=self.seed, at_least=0)
        others = [paths for paths in drawn if paths != derived.paths][: self.baselines]
        found = {"derived": derived.paths} | {f"random {i}": paths for i, paths in enumerate(others, 1)}
        return {name: Architecture(derived.space, paths) for name, paths in found.items()}

    def searching(self, records: Records) -> list[str]:
        """Returns the overrides of the search's configuration: the table of the folder, and with which error it is
        accepted."""
        return [
            f"limits.0.table={self.out / TABLE}",
            f"run.seed={self.seed}",
            f"limits.0.largest_error={records['table'].figures['largest_error']}",
        ]

    def retraining(self) -> RetrainConfig:
        return RetrainConfig.read(shipped_config(RETRAIN), [f"run.seed={self.seed}"])


def quickstart(
    out: Path, seed: int = 0, baselines: int = 10, *, say: Callable[[str], None] = print
) -> dict[str, object]:
    """Runs everything below the folder `out`. Returns what was measured, and writes it to result.json.

    The same call goes on where one before was stopped, even killed, and repeats the stages that another seed or number
    of baselines concerns. baselines: the number of random networks that are retrained beside the derived one. say:
    called with a line for each stage. Raises ConfigError if `out` holds files that a stage would delete, and that no
    stage has made.
    """
    job = Job(out, seed, baselines)
    with locked(out):
        record_to_go_on_with(STAGES, out, "quickstart")
        stages = run_stages(STAGES, job, out, kind="quickstart", say=say).stages
    result: dict[str, object] = read_json(out / RESULT, "the result of a quick start")
    print_ending(_ending(job, stages), out / PAGE)
    return result


def _table_inputs(job: Job, records: Records) -> dict[str, str]:
    return {"settings": hash_of(LatencyConfig.read(shipped_config(SEARCH))), "seed": str(job.seed)}


def _table(job: Job, records: Records) -> Done:
    """Measures a latency table, again if other work on this machine disturbs it.

    The error in percent with which a search shall accept it is that of any search, or the table's own if the machine is
    never calm enough.
    """
    path = job.out / TABLE
    table = calmest_table(LatencyConfig.read(shipped_config(SEARCH)), seed=job.seed, verify=VERIFIED)
    verification = table.verification
    assert verification is not None  # asked for
    table.save(path)
    error = verification.table.mape_percent
    if error > LARGEST_ERROR:
        log.warning(
            "the table is off by %.0f %%, where a search accepts %g %%: the quick start goes on with it, so that you "
            "see the rest, but no latency in it means anything. Run it again on an idle machine, in another folder",
            error, LARGEST_ERROR,
        )  # fmt: skip
    accepted = max(LARGEST_ERROR, math.ceil(error))
    return Done(f"{path.name}, {summary(verification)}", [path], {"largest_error": accepted})


def _search_inputs(job: Job, records: Records) -> dict[str, str]:
    settings = {"settings": hash_of(SearchConfig.read(shipped_config(SEARCH))), "seed": str(job.seed)}
    return settings | dict(records["table"].outputs or {})


def _search(job: Job, records: Records) -> Done:
    folder = job.out / "search"
    result = run_search(shipped_config(SEARCH), folder, resume=run_begun(folder), overrides=job.searching(records))
    closed = result.measured
    (limit,), outcome = additive(result.limits), closed.outcomes[0]  # the file has one limit, on latency
    decided, written = outcome.readings[0], load_result(folder)
    assert written is not None  # the search has ended
    figures = {
        "target_ms": limit.bound,
        "met": closed.met,
        "reading": asdict(decided),
        "decided": decided.figures(),
        "tries": [_record_of(t) for t in closed.tries],
    }
    return Done(search_line(written), files_in(folder), figures)


def _retrain_inputs(job: Job, records: Records) -> dict[str, str]:
    made = {name: digest for name, digest in (records["search"].outputs or {}).items() if name == ARCHITECTURE}
    settings = {"settings": hash_of(job.retraining()), "seed": str(job.seed), "baselines": str(job.baselines)}
    return settings | made | dict(records["table"].outputs or {})


def _retrain(job: Job, records: Records) -> Done:
    """Retrains the derived network and the random ones alike."""
    networks = job.networks()
    folders = [job.out / ("retrain" if name == "derived" else name.replace(" ", "")) for name in networks]
    with Stages() as report:
        tests = retrain_all(
            job.retraining(), list(networks.values()), folders, report,
            "retraining the derived and the random networks", resume=True,
        )  # fmt: skip
    derived, *others = tests
    line = f"top-1 {derived.top1:.2f} % on {derived.images} test images"
    if others:
        line += f"; {len(others)} random networks {statistics.fmean(test.top1 for test in others):.2f} % in the mean"
    made = [path for folder in folders for path in files_in(folder)]
    return Done(line, made, {"tests": [asdict(test) for test in tests]})


def _time_inputs(job: Job, records: Records) -> dict[str, str]:
    return {name: hash_of(records[name]) for name in ("search", "retrain")}


def _time(job: Job, records: Records) -> Done:
    """Times all networks in turn, and writes the figures of the whole quick start."""
    began = time.monotonic()
    networks, limit, found = job.networks(), job.limit, records["search"].figures
    assert isinstance(limit.cost, Cost)  # limits of the one table that was measured here
    assert limit.source is not None
    clock = Clock.of(job.architecture.space, limit.cost, limit.source.measure)
    with Stages() as report:
        paths = [network.paths for network in networks.values()]
        readings = clock.timed_all(paths, report, "timing all networks in turn", LAST_TIMINGS)
    tests = [Evaluation(**test) for test in records["retrain"].figures["tests"]]
    rows = list(map(_row, networks, networks.values(), tests, readings))
    before = sum(record.seconds or 0.0 for name, record in records.items() if name not in ("time", "report"))
    result = {
        "seed": job.seed,
        **{name: found[name] for name in ("target_ms", "met", "decided", "tries")},
        "networks": [asdict(row) for row in rows],
        "drift": readings[0].drift,
        "seconds": before + time.monotonic() - began,
    }
    write_atomically(job.out / RESULT, json.dumps(result, indent=2) + "\n")
    busy = "" if readings[0].reliable else "; the machine was busy"
    line = f"the derived network {rows[0].measured_ms:.4g} ms in turn with all others{busy}"
    return Done(line, [job.out / RESULT], {"reading": asdict(readings[0])})


def _report_inputs(job: Job, records: Records) -> dict[str, str]:
    made = {name: hash_of(record) for name, record in records.items() if name != "report"}
    return made | versions_of(["proxylessnas", "jinja2"])


def _report(job: Job, records: Records) -> Done:
    page = write_report(job.out, out=job.out / PAGE)
    return Done(f"{page.stat().st_size / 1000:.0f} kB", [page])


STAGES: tuple[Stage[Job], ...] = (
    Stage("table", "measures the latency table", (TABLE,), _table_inputs, _table),
    Stage("search", "searches, and times the derived network", ("search",), _search_inputs, _search,
          True, ("search/config.yaml", "search/inputs.json", "search/images.csv.gz")),
    Stage("retrain", "trains the derived network and random ones from scratch", ("retrain", "random[0-9]*"),
          _retrain_inputs, _retrain, True),
    Stage("time", "times all networks in turn, and writes result.json", (RESULT,), _time_inputs, _time),
    Stage("report", "writes report.html", (PAGE,), _report_inputs, _report),
)  # fmt: skip
"""The stages in their order."""


def _ending(job: Job, records: Mapping[str, StageRecord]) -> Ending:
    """Returns what the closing words describe, from the record of the stages and result.json."""
    found, tests = records["search"].figures, records["retrain"].figures["tests"]
    rows = read_json(job.out / RESULT, "the result of a quick start")["networks"]
    words = ["proxyless-nas", "search", SEARCH, "--out", str(job.out / "search"), "--resume", *job.searching(records)]
    return Ending(
        out=job.out,
        asked=load_config(shipped_config(SEARCH))["limits"][0]["at"],
        target_ms=found["target_ms"],
        met=found["met"],
        decided=_reading(found["reading"]),
        again=_reading(records["time"].figures["reading"]),
        rows=tuple(Row(**row) for row in rows),
        ops=tuple(job.architecture.names),
        test_images=tests[0]["images"],
        resume=shlex.join(words),
    )


def _reading(values: Mapping[str, Any]) -> Reading:
    """Returns a reading from the values of its fields."""
    return Reading(values["predicted"], Timing(**values["timing"]), values["drift"])


def _row(name: str, architecture: Architecture, test: Evaluation, reading: Reading) -> Row:
    c, timing = architecture.complexity, reading.timing
    ms = (reading.predicted, timing.median_ms, timing.noise_ms, timing.standard_error_ms)
    return Row(name, *ms, test.top1, c.params, c.macs)


def _record_of(one: Try) -> dict[str, object]:
    """Returns what result.json says of one derivation and the timings of its network."""
    readings = [asdict(timed.reading) for timed in one.timed]
    return {"derivation": asdict(one.derivation), "asked": [timed.asked for timed in one.timed], "readings": readings}
