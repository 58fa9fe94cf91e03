"""Computes every recorded number of a job again, from what its stages have made."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from engine.data import Preprocessing
from engine.errors import UserError
from engine.files import read_json
from engine.progress import Stages
from engine.runs.stages import StagesFile, changed_files, sha256_of
from export.formats import FORMATS
from export.job import RECORD
from export.parity import Reference, check
from export.program import metadata_of
from export.timing import time_files
from export.timings import TimedFile, read_timings
from latency.build import predicted_ms
from latency.measure import used_networks
from latency.plan import network_job, verification_networks
from latency.table import LatencyTable
from latency.verification import accepted_percent, fitted_line, scores
from proxyless_nas.shipping.deployment import exported_files, file_on_images, timed_against
from proxyless_nas.shipping.folder import ACCURACY, ARCHITECTURE, DERIVATION, DERIVED, EVALUATION, TIME, Job, result_of
from proxyless_nas.shipping.images import WITH_IMAGES, Part, changed_images
from proxyless_nas.shipping.stages import STAGES
from proxyless_nas.shipping.training import derivation_record, evaluated, evaluation_record
from proxyless_nas.sources import trained_network
from report.page import report as write_report
from retrain.weights import load_chosen
from search.limits.limit import Limit, additive
from search.many.again import derive_again
from search.opening import resolved_run
from supernet.architecture import Architecture
from supernet.space import Space

ROUNDED = 2e-5
"""The relative difference that two of the rounded numbers of a table's file may have, which has six digits."""
POINTS = 2e-3
"""The difference, in percentage points, that an error may have which is computed from such numbers."""
COMPUTED = 1e-4
"""The relative difference of a loss that is computed again, with its additions in another order."""
TIMED = 0.15
"""The relative difference of a timing that is made again, on a machine that may be busier."""


@dataclass(frozen=True)
class Compared:
    """A recorded number and the one that was computed again."""

    stage: str
    what: str
    recorded: Any
    again: Any
    """An error's text if it cannot be computed."""
    slack: float = 0.0
    """The accepted difference."""

    @property
    def same(self) -> bool:
        """Whether the two agree."""
        numbers = [v for v in (self.recorded, self.again) if isinstance(v, int | float) and not isinstance(v, bool)]
        if len(numbers) == 2:
            one, other = map(float, numbers)
            return one == other or abs(one - other) <= self.slack or (math.isnan(one) and math.isnan(other))
        return bool(self.recorded == self.again)

    def __str__(self) -> str:
        """Returns both in one line."""
        mark = "same" if self.same else "DIFFERS"
        return f"{mark:7}  {self.stage}: {self.what}: recorded {_text(self.recorded)}, again {_text(self.again)}"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "nothing" if value is None else str(value)


def compared(
    job: Job, record: StagesFile, *, timings: bool = False, stages: Collection[str] = ()
) -> Iterator[Compared]:
    """Yields a comparison for every number of the job's stages that have ended.

    timings: whether the derived network is timed again, too. stages: the names of the only ones to check; () is all.
    """
    again = cache(lambda: evaluation_record(evaluated(job)))  # for two stages
    checks: Mapping[str, Callable[[], Iterator[Compared]]] = {
        "table": lambda: _table(job),
        "search": lambda: _search(job),
        "derive": lambda: _derive(job),
        "retrain": lambda: _retrain(job, again()),
        "evaluate": lambda: _evaluate(job, again()),
        "export": lambda: _export(job),
        "int8": lambda: _int8(job, again()),
        "time": lambda: _time(job, timings),
        "report": lambda: _report(job),
    }
    for stage in STAGES:
        if stages and stage.name not in stages:
            continue
        ended = record.stages.get(stage.name)
        if ended is None or ended.outputs is None:
            yield Compared(stage.name, "stage", "ended", "not ended" if ended else "not begun")
            continue
        changed = changed_files(ended, job.out)
        yield from (Compared(stage.name, f"SHA-256 of {name}", "as made", _state(job.out / name)) for name in changed)
        if not changed:
            yield Compared(stage.name, "SHA-256 of its files", "as made", "as made")
        try:
            now = dict(stage.inputs(job, record.stages))
            yield from (
                Compared(stage.name, f"input {name}", ended.inputs.get(name), now.get(name))
                for name in dict.fromkeys([*ended.inputs, *now])
                if ended.inputs.get(name) != now.get(name)
            )
            for part in WITH_IMAGES:
                if part == stage.name:
                    yield from _images(job, part)
            yield from checks[stage.name]()
        except UserError as error:
            yield Compared(stage.name, "its numbers", "computable", str(error))
    if timings:
        yield from _timings(job)


def _state(path: Path) -> str:
    return "another content" if path.is_file() else "missing"


def _images(job: Job, part: Part) -> Iterator[Compared]:
    """Compares the images with those with which a part of the job was begun."""
    lines = changed_images(job, part)
    yield from (Compared(part, "images", "as it began", line) for line in lines)
    if not lines:
        yield Compared(part, "images", "as it began", "as it began")


def _table(job: Job) -> Iterator[Compared]:
    """Compares the errors of each table with those of its own raw timings, and these predictions with its entries."""
    space = Space(job.config.search.space)
    for used in job.tables:
        table = LatencyTable.load(used.copy)
        v, what = table.verification, f"{used.name}: "
        if v is None:
            continue
        measured, predicted = np.array(v.measured_ms), np.array(v.predicted_ms)
        own = scores(predicted, measured)
        for name, value in own.model_dump().items():
            yield from _near("table", f"{what}{name}", getattr(v.table, name), value,
                             absolute=POINTS if "percent" in name else ROUNDED * float(measured.max()))  # fmt: skip
        constant = scores(fitted_line(None, measured), measured)
        flat = (v.constant.mape_percent, constant.mape_percent)
        yield from _near("table", f"{what}mape_percent of a constant", *flat, absolute=POINTS)
        yield from _near("table", f"{what}measured_range_ms", list(v.measured_range_ms),
                         [float(measured.min()), float(measured.max())])  # fmt: skip
        worst = max(own.mape_percent, *own.mape_percent_thirds)
        yield Compared("table", f"{what}holds", v.holds, worst <= accepted_percent(v.noise_mape_percent))
        if table.foreign or used.path.is_file() or table.calibration is None:
            continue  # only the networks of a table that this job has measured can be drawn again
        drawn = verification_networks(space, v.networks, job.config.search.run.seed, avoid=used_networks(space, table))
        jobs = [network_job(space, f"network{i}", "verification", paths) for i, paths in enumerate(drawn)]
        yield from _near("table", f"{what}predicted_ms by its entries", list(v.predicted_ms),
                         predicted_ms(table, jobs).tolist())  # fmt: skip
        macs = np.array([sum(layer.complexity.macs for layer in job.layers) for job in jobs], dtype=float)
        linear = scores(fitted_line(macs / macs.mean(), measured), measured)
        sloped = (v.macs.mape_percent, linear.mape_percent)
        yield from _near("table", f"{what}mape_percent linear in MACs", *sloped, absolute=POINTS)


def _near(
    stage: str, what: str, recorded: Any, again: Any, relative: float = ROUNDED, absolute: float = 1e-9
) -> Iterator[Compared]:
    """Yields the comparison of two numbers that may differ by rounding; of two lists the entry that differs most.

    relative, absolute: the accepted differences, of which the larger one counts.
    """
    if isinstance(recorded, list | tuple) and isinstance(again, list | tuple):
        if len(recorded) != len(again):
            yield Compared(stage, what, f"{len(recorded)} numbers", f"{len(again)} numbers")
            return
        pairs = [
            one for pair in zip(recorded, again, strict=True) for one in _near(stage, what, *pair, relative, absolute)
        ]
        yield next((pair for pair in pairs if not pair.same), pairs[0])
        return
    slack = absolute
    if isinstance(recorded, int | float) and isinstance(again, int | float):
        slack = max(relative * max(abs(recorded), abs(again)), absolute)
    yield Compared(stage, what, recorded, again, slack)


def _search(job: Job) -> Iterator[Compared]:
    """Compares the costs of the derived network with the table's entries and its layers."""
    folder, result = job.out / "search", result_of(job)
    assert result is not None  # the stage has ended
    architecture = load_chosen(job.out / ARCHITECTURE, job.modules)
    resolved = resolved_run(folder, job.modules)
    paths = architecture.paths
    for limit in resolved.limits:
        figures = next((one for one in result.limits if one.name == limit.name), None)
        cost = float(limit.cost_of(paths))
        predicted = None if figures is None else figures.predicted
        yield from _near("search", f"{limit.name} predicted [{limit.unit}]", predicted, cost, 1e-9)
        yield from _near("search", f"{limit.name} bound [{limit.unit}]", None if figures is None else figures.bound,
                         limit.bound, 1e-9)  # fmt: skip
    c = architecture.complexity
    yield Compared("search", "parameters", result.params, c.params)
    yield Compared("search", "MACs", result.macs, c.macs)
    yield from _of_file(job, "search", ARCHITECTURE, architecture, resolved.limits)
    yield Compared("search", "the network's name", result.architecture, architecture.name)
    timed = [limit for limit in result.limits if limit.measured is not None]
    verdicts = [
        None if not m.believed else m.median_ms <= limit.bound * (1 + _acceptable(m.noise_ms, m.median_ms))
        for limit in timed
        if (m := limit.measured) is not None
    ]
    rest = [limit.allows(paths) for limit in resolved.limits if limit.name not in {one.name for one in timed}]
    every = {*verdicts, *rest}
    yield Compared("search", "met", result.met, False if False in every else None if None in every else True)


def _of_file(
    job: Job, stage: str, name: str, architecture: Architecture, limits: Sequence[Limit]
) -> Iterator[Compared]:
    """Compares the numbers in an architecture.json with those of a network."""
    content, c = read_json(job.out / name, "an architecture.json"), architecture.complexity
    of_file = [entry for entry in content.get("predicted", []) if isinstance(entry, dict)]
    for i, limit in enumerate(limits):
        value = of_file[i].get("value") if i < len(of_file) else None
        yield from _near(stage, f"{name}: {limit.name}", value, float(limit.cost_of(architecture.paths)), 1e-9)
    complexity = content.get("complexity")
    own = complexity if isinstance(complexity, dict) else {}
    yield Compared(stage, f"{name}: parameters", own.get("params"), c.params)
    yield Compared(stage, f"{name}: MACs", own.get("macs"), c.macs)
    yield Compared(stage, f"{name}: paths", " ".join(map(str, content.get("paths", []))), " ".join(architecture.names))


def _acceptable(noise_ms: float, median_ms: float) -> float:
    """Returns by how much a timing may be above its bound, as a share."""
    from latency.measure import TIMING_ROUNDS, Timing
    from search.derive.clock import acceptable_error

    return acceptable_error(Timing(median_ms, noise_ms, TIMING_ROUNDS))


def _derive(job: Job) -> Iterator[Compared]:
    """Derives, scores and judges the network again."""
    result = result_of(job)
    assert result is not None  # the stage before has ended
    architecture = load_chosen(job.out / ARCHITECTURE, job.modules)
    with Stages() as report:
        again = derive_again(job.out / "search", allow_modules=job.modules, report=report)
    names = " ".join(again.architecture.names)
    yield Compared("derive", "the network, derived exactly", " ".join(architecture.names), names)
    yield from _of_file(job, "derive", DERIVED, again.architecture, again.limits)
    likely = again.derivation.log_probability
    yield from _near("derive", "log probability", result.log_probability, likely, 1e-9)
    record = read_json(job.out / DERIVATION, "the record of a derivation")
    for key, value in derivation_record(again).items():
        yield from (
            _near("derive", f"{key} in derivation.json", record.get(key), value, 1e-9)
            if isinstance(value, float)
            else [Compared("derive", f"{key} in derivation.json", record.get(key), value)]
        )
    slack = _slack(result.images, job.config.search.run.device)
    yield Compared("derive", "top-1 % with the supernet's weights", result.top1, again.accuracy.top1, slack)
    yield Compared("derive", "top-5 % with the supernet's weights", result.top5, again.accuracy.top5, slack)
    yield Compared("derive", "validation images", result.images, again.accuracy.images)
    loss = again.accuracy.loss if math.isfinite(again.accuracy.loss) else None
    yield from _near("derive", "loss with the supernet's weights", result.loss, loss, COMPUTED)
    if result.judgement is not None and again.judged is not None:
        for key, value in again.judged.model_dump().items():
            yield from _near("derive", f"judgement: {key}", getattr(result.judgement, key), value, COMPUTED)
    else:
        own, other = (None if judged is None else "there" for judged in (result.judgement, again.judged))
        yield Compared("derive", "judgement by random networks", own, other)
    path = job.out / "search" / "pareto.json"
    if job.config.derive.at and path.exists():
        sums = additive(resolved_run(job.out / "search", job.modules).limits)
        for member in read_json(path, "the record of a family")["members"]:
            one = load_chosen(job.out / "search" / member["file"], job.modules)
            yield Compared("derive", f"{member['file']}: MACs", member["complexity"]["macs"], one.complexity.macs)
            if sums:
                value = member["predicted"][0]["value"]
                yield from _near("derive", f"{member['file']}: predicted", value, sums[0].cost.of(one.paths), 1e-9)


def _slack(images: int, device: str) -> float:
    """Returns by how many points an accuracy may differ: by nothing on a CPU, by a few images on another device."""
    return 1e-9 if device == "cpu" else max(0.1, 200 / images)


def _retrain(job: Job, again: Mapping[str, Any]) -> Iterator[Compared]:
    """Compares the result of the retraining with that of its checkpoint. again: what evaluating that gave."""
    recorded = read_json(job.out / "retrain" / "result.json", "the result of a retraining")["test"]
    yield from _evaluation(job, "retrain", recorded, again)


def _evaluation(job: Job, stage: str, recorded: Mapping[str, Any], again: Mapping[str, Any]) -> Iterator[Compared]:
    slack = _slack(again["images"], job.config.retrain.run.device)
    for key in ("top1", "top5"):
        yield Compared(stage, f"{key} % on the test images", recorded.get(key), again[key], slack)
    yield Compared(stage, "test images", recorded.get("images"), again["images"])
    yield from _near(stage, "loss on the test images", recorded.get("loss"), again["loss"], COMPUTED)


def _evaluate(job: Job, again: Mapping[str, Any]) -> Iterator[Compared]:
    """Compares the record of the evaluation with another one."""
    recorded = read_json(job.out / EVALUATION, "the record of an evaluation")
    yield from _evaluation(job, "evaluate", recorded, again)
    yield from _near("evaluate", "95 % interval of top-1", recorded.get("top1_interval"), again["top1_interval"], 1e-6)
    for name, row in again["classes"].items():
        own = recorded.get("classes", {}).get(name, {})
        yield Compared("evaluate", f"images of class {name}", own.get("images"), row["images"])
        slack = _slack(max(1, row["images"]), job.config.retrain.run.device)
        yield Compared("evaluate", f"top-1 % of class {name}", own.get("top1"), row["top1"], slack)


def _export(job: Job) -> Iterator[Compared]:
    """Checks each file against PyTorch again, and runs it on the test images again."""
    folder = job.out / "export"
    if not (folder / RECORD).exists():
        return
    record = read_json(folder / RECORD, "an export.json")
    accuracy = read_json(folder / ACCURACY, "the accuracies of exported files")
    source = trained_network(job.out / "retrain", allow_modules=job.modules)
    preprocessing: Preprocessing = source.preprocessing
    for name, entry in record["files"].items():
        normalise = entry["input"]["values"] != "normalised pixels"
        reference = Reference(source.network, preprocessing, normalise)
        batch = entry["input"]["shape"][0]
        about = metadata_of(
            source.network, record["network"], preprocessing, source.classes, batch if isinstance(batch, int) else 0,
            entry["input"]["layout"], normalise,
        )  # fmt: skip
        yield Compared("export", f"{name}: SHA-256 of the weights", record["weights_sha256"], about["weights_sha256"])
        path = folder / entry["file"]
        for part in entry["files"]:
            own_file = folder / part["file"]
            now = sha256_of(own_file) if own_file.is_file() else None
            yield Compared("export", f"{name}: SHA-256 of {part['file']}", part["sha256"], now)
        try:
            parity = check(path, FORMATS[name], reference, about).record()
            for part in ("random", "photographs"):
                own, now = entry["parity"].get(part), parity[part]
                if own is None or now is None:
                    continue
                yield Compared("export", f"{name}: largest difference on {part}", own["max_abs_diff"],
                               now["max_abs_diff"], 0.2 * now["allowed"])  # fmt: skip
                yield Compared("export", f"{name}: agreement on {part}", own["argmax_agreement"],
                               now["argmax_agreement"], 1e-9)  # fmt: skip
            yield Compared("export", f"{name}: operations", sum(entry["parity"]["ops"].values()),
                           sum(parity["ops"].values()))  # fmt: skip
            again = file_on_images(job, name, path)
        except UserError as error:
            yield Compared("export", f"{name}: its numbers", "computable", str(error))
            continue
        own = accuracy.get(name, {})
        for key in ("images", "top1", "loss", "agreement"):
            value = getattr(again, key)
            relative = COMPUTED if key == "loss" else 1e-9
            yield from _near("export", f"{name}: {key} on the test images", own.get(key), value, relative)


def _int8(job: Job, again: Mapping[str, Any]) -> Iterator[Compared]:
    """Runs each int8 file on the test images again. again: what evaluating the checkpoint gave."""
    folder = job.out / "int8"
    if not (folder / RECORD).exists():
        return
    for entry in read_json(folder / RECORD, "an export.json")["files"].values():
        name = entry["file"]
        for part in entry["files"]:
            own_file = folder / part["file"]
            now = sha256_of(own_file) if own_file.is_file() else None
            yield Compared("int8", f"SHA-256 of {part['file']}", part["sha256"], now)
        try:
            found = file_on_images(job, entry["format"], folder / name)
        except UserError as error:
            yield Compared("int8", f"{name}: its numbers", "computable", str(error))
            continue
        drop = entry.get("drop")
        if not isinstance(drop, dict):
            continue
        slack = _slack(found.images, job.config.retrain.run.device)
        yield Compared("int8", f"{name}: top-1 % on the test images", drop.get("top1_int8"), found.top1, 1e-9)
        yield Compared("int8", f"{name}: top-1 % of float32", drop.get("top1_float32"), again["top1"], slack)
        yield Compared("int8", f"{name}: drop, points", drop.get("points"), again["top1"] - found.top1, slack)
        pairs = 100 * (drop.get("lost", 0) - drop.get("gained", 0)) / found.images
        yield Compared("int8", f"{name}: drop by its images", drop.get("points"), pairs, 1e-9)
        share = entry.get("agreement", {}).get("share")
        yield Compared("int8", f"{name}: same class as float32", share, found.agreement / 100, 1e-9)


def _time(job: Job, again: bool) -> Iterator[Compared]:
    """Compares the predictions and errors of the timings with the table. again: whether the files are timed again."""
    result, recorded = result_of(job), _timings_of(job.out)
    assert result is not None  # the stage before has ended
    limit = next((one for one in result.limits if one.metric == "latency" and one.table), None)
    for one in recorded:
        if (promised := one.prediction) is None:
            continue
        if limit is not None:
            yield from _near("time", f"{one.file}: predicted ms", promised.ms, limit.predicted, 1e-6)
        error = 100 * (promised.ms - one.median_ms) / one.median_ms
        yield from _near("time", f"{one.file}: error %", promised.error_percent, error, 1e-6)
    if not again or not recorded or job.config.time is None:
        return
    with tempfile.TemporaryDirectory() as place, Stages() as report:
        timed = time_files(
            exported_files(job), timed_against(job), threads=job.config.time.threads, rounds=job.config.time.rounds,
            folder=Path(place), allow_modules=job.modules, report=report,
        )  # fmt: skip
    before = {one.file: one.median_ms for one in recorded}
    for one in timed:
        slack = TIMED * one.median_ms
        yield Compared("time", f"{one.file}, timed again [ms]", before.get(one.file), one.median_ms, slack)


def _timings_of(out: Path) -> list[TimedFile]:
    """Returns the timings of a job's files."""
    places = [TIME] if (out / TIME).is_dir() else ["export", "int8"]  # of an earlier version
    return [one for name in places for one in read_timings(out / name).timings]


def _report(job: Job) -> Iterator[Compared]:
    """Writes the page again, elsewhere."""
    with tempfile.TemporaryDirectory() as folder:
        again = write_report(job.out, out=Path(folder) / "report.html", allow_modules=job.modules).read_bytes()
    same = (job.out / "report.html").exists() and again == (job.out / "report.html").read_bytes()
    yield Compared("report", "the page", "as written", "as written" if same else "another page")


def _timings(job: Job) -> Iterator[Compared]:
    """Times the derived network again, on the devices of limits that are this machine."""
    from search.derive.clock import Clock
    from search.derive.measured import local_latency_limits
    from supernet.cost import Cost

    result = result_of(job)
    assert result is not None
    architecture = load_chosen(job.out / ARCHITECTURE, job.modules)
    resolved = resolved_run(job.out / "search", job.modules)
    for limit in local_latency_limits(resolved.limits):
        figures = next((one for one in result.limits if one.name == limit.name), None)
        assert limit.source is not None
        assert isinstance(limit.cost, Cost)  # of one table
        with Stages() as report:
            reading = Clock.of(resolved.space, limit.cost, limit.source.measure).timed(architecture.paths, report)
        own = figures.measured if figures is not None else None
        median = reading.timing.median_ms / reading.drift * (own.drift if own else 1.0)
        yield Compared(
            "search", f"{limit.name}, timed again at the speed of then [ms]", own.median_ms if own else None, median,
            TIMED * median,
        )  # fmt: skip
