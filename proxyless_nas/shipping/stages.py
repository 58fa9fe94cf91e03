"""The stages of a whole job, from the latency table to the report. Each works in a part of the job's folder."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from engine.config import config_text, validate
from engine.data import ImageSet
from engine.errors import ConfigError, UserError
from engine.evaluation import wilson
from engine.files import make_folder, read_json, write_atomically
from engine.progress import Stages
from engine.quantities import TOP5_CLASSES, amount, quantity
from engine.runs.folder import run_begun
from engine.runs.stages import Done, Stage, StageRecord, sha256_of, sha256_of_values
from export.formats import FORMATS
from export.formats.base import Format, versions_of
from export.int8 import DropError
from export.job import RECORD, ExportedInt8, chosen_formats
from export.timing import TIMINGS, time_files
from latency.config import LatencyConfig, MeasureConfig
from latency.summary import summary
from latency.table import LatencyTable, Verification
from latency.verification import NOISY_PERCENT
from proxyless_nas.calm import calmest_table
from proxyless_nas.shipping.config import ShipConfig
from proxyless_nas.shipping.files_on_images import OnImages, on_images
from proxyless_nas.sources import trained_network
from proxyless_nas.starting import published_network
from proxyless_nas.verbs import export as export_files
from report.page import report as write_report
from retrain.config import RetrainConfig
from retrain.data import images_for
from retrain.data import own_files as files_of_retraining
from retrain.evaluation import Scores, score_checkpoint
from retrain.run import run_retrain
from retrain.weights import load_chosen
from search.config import PEAK, SearchConfig
from search.derive.derivation import Derivation
from search.given import with_paths
from search.loop import finish_search
from search.many.again import Again, derive_again
from search.many.family import derive_family, written_bounds
from search.own import own_files as files_of_search
from search.result import ResultFile, load_result, write_architecture
from supernet.architecture import Architecture

Records = Mapping[str, StageRecord]
CONFIG = "ship.yaml"
"""The resolved configuration in the job's folder."""
DERIVATION, EVALUATION = "derive/derivation.json", "evaluate/evaluation.json"
ACCURACY = "accuracy.json"
"""The file beside the exported ones with their accuracies on the test images."""
FAMILY = ("search/architecture-*.json", "search/pareto*")
"""The networks for other bounds, which the stage `derive` makes."""
ARCHITECTURE, DERIVED = "search/architecture.json", "derive/architecture.json"
"""The network as the search has named it, and as the job names it: the stages after `derive` use the latter."""


@dataclass(frozen=True)
class UsedFile:
    """A latency table that a limit of the search names."""

    path: Path
    """As the configuration has it."""
    copy: Path
    """Its place in the job's folder."""
    measure: MeasureConfig
    """How it is measured."""

    @property
    def name(self) -> str:
        return f"tables/{self.copy.name}"


@dataclass(frozen=True)
class Job:
    """What every stage is given."""

    out: Path
    """The folder of the job, in full."""
    config: ShipConfig

    @cached_property
    def tables(self) -> list[UsedFile]:
        """The latency tables of the limits, each once."""
        search = self.config.search
        found: dict[Path, MeasureConfig] = {}
        for i, limit in enumerate(search.limits):
            own = limit.measure.model_dump(mode="json", exclude_unset=True) if limit.measure else {}
            if limit.tables:  # of several devices
                own = {"device": "external"}
            for path in limit.files:
                whole = search.measure.model_dump(mode="json") | own
                found.setdefault(path, validate(MeasureConfig, whole, f"search: limits.{i}.measure"))
        counts = Counter(path.name for path in found)
        names = [path.name if counts[path.name] == 1 else f"{i}-{path.name}" for i, path in enumerate(found)]
        return [
            UsedFile(path, self.out / "tables" / name, measure)
            for (path, measure), name in zip(found.items(), names, strict=True)
        ]

    @cached_property
    def search(self) -> SearchConfig:
        """The configuration of the search, whose limits name the tables of the job's folder."""
        return with_paths(self.config.search, {table.path: table.copy for table in self.tables})

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """The user's own modules that the configuration names, which may run therefore."""
        search, retrain = self.config.search, self.config.retrain
        functions = [term.function for term in search.search.terms]
        if search.search.reinforce and search.search.reinforce.reward:
            functions.append(search.search.reinforce.reward)
        named = [*search.space.candidate_modules, search.data.module, retrain.data.module]
        return tuple(filter(None, [*named, *(reference.rpartition(":")[0] for reference in functions)]))

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint of the retraining. Raises ConfigError if there is none."""
        folder = self.out / "retrain" / "checkpoints"
        steps = sorted(folder.glob("step-*.pt"))
        if not steps:
            raise ConfigError(str(folder), "has no checkpoint", remedy="run the same command without --verify")
        return steps[-1]


def refuse_impossible(config: ShipConfig, stages: Sequence[str]) -> None:
    """Raises UserError if one of the stages would refuse its settings hours later: a bound that is none, a format that
    is unknown or not installed."""
    limits = config.search.limits
    if "derive" in stages and config.derive.at:
        first = next((limit for limit in limits if limit.metric != PEAK), None)
        if first is None:
            found = "has bounds, but the search has no limit that they could be of"
            raise ConfigError("derive.at", found, remedy="give the search a limit, or leave derive.at out")
        try:
            written_bounds([str(bound) for bound in config.derive.at], first.metric, "the limit's unit")
        except ConfigError as error:
            raise error.at("derive.at") from None
    for name, part in (("export", config.export), ("int8", config.int8)):
        if name in stages and part is not None and part.to is not None:
            try:
                chosen_formats(part.to, FORMATS, config.export.batch, name == "int8")
            except UserError as error:
                raise error.at("export.batch" if error.where == "batch" else f"{name}.to") from None


def _settings(*models: Any) -> str:
    """Returns the hash of settings."""
    return sha256_of_values([model.model_dump(mode="json") for model in models])


def _made(folder: Path) -> list[Path]:
    """Returns the files of a folder but hidden ones."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def _table_inputs(job: Job, records: Records) -> dict[str, str]:
    """Returns the hash of each table's file, or that of the settings with which it is measured. A file that was copied
    and is no longer there counts as the copy: the job may have been moved, or be called in another folder."""
    found, before = {}, records.get("table")
    for table in job.tables:
        copied = (before.outputs or {}).get(table.name) if before is not None else None
        if table.path.is_file():
            found[str(table.path)] = sha256_of(table.path)
        elif before is not None and copied is not None and before.inputs.get(str(table.path)) == copied:
            found[str(table.path)] = copied
        else:
            found[str(table.path)] = _settings(job.config.search.space, table.measure, job.config.table)
    return found


def _table(job: Job, records: Records) -> Done:
    """Copies each table that is there, and measures the others."""
    if not job.tables:
        return Done("no limit of the search has one")
    lines = []
    make_folder(job.out / "tables")
    for table in job.tables:
        if table.path.is_file():
            LatencyTable.load(table.path)
            write_atomically(table.copy, table.path.read_bytes())
            lines.append(f"{table.path}, which was there")
            continue
        if table.measure.device == "external":
            found, remedy = "no such file", "measure it on its device (docs/device.md), or import it"
            raise ConfigError(f"search: limits: table {table.path}", found, "the table of a device", remedy)
        config = LatencyConfig(space=job.config.search.space, measure=table.measure)
        made = calmest_table(config, seed=job.config.search.run.seed, verify=job.config.table.verify)
        made.save(table.copy)
        assert made.verification is not None  # asked for
        lines.append(f"{table.name}, {summary(made.verification)}")
        _refuse_wrong(made.verification, table, job.config.search)
    return Done("; ".join(lines), [table.copy for table in job.tables])


def _refuse_wrong(verification: Verification, table: UsedFile, search: SearchConfig) -> None:
    """Raises UserError if the search would refuse a table that was measured here, so that the same command measures it
    again."""
    for i, limit in enumerate(search.limits):
        error = verification.table.mape_percent
        if table.path in limit.files and error > limit.largest_error:
            busy = verification.noise_mape_percent > NOISY_PERCENT
            found = f"predicts whole networks with an error of {error:.1f} %"
            found += "; other work disturbed its measuring" if busy else ""
            accept = f"search.limits.{i}.largest_error={math.ceil(error)} accepts it"
            remedy = f"on an idle machine, the same command measures it again; or {accept}"
            raise UserError(str(table.copy), found, f"at most {limit.largest_error:g} %", remedy)


def _search_inputs(job: Job, records: Records) -> dict[str, str]:
    found = {"settings": _settings(job.config.search)} | _own(files_of_search(job.config.search))
    return found | dict(records["table"].outputs or {})


def _own(files: Mapping[str, str]) -> dict[str, str]:
    """Returns the checksums of the user's own modules as inputs."""
    return {"own modules": sha256_of_values(dict(files))} if files else {}


def _search(job: Job, records: Records) -> Done:
    folder = job.out / "search"
    result = finish_search(_as_file(job, "search", job.search), folder)
    family = {path for pattern in FAMILY for path in job.out.glob(pattern)}  # which the next stage has made
    return Done(search_line(result), [path for path in _made(folder) if path not in family])


def _as_file(job: Job, name: str, config: SearchConfig | RetrainConfig) -> Path:
    """Writes the configuration of a part as a file of its own, which messages name, and returns its path."""
    content = config.model_dump(mode="json")
    content["data"]["workers"] = config.data.workers  # which no record of a run has
    path = make_folder(job.out / "config") / f"{name}.yaml"
    write_atomically(path, config_text(content))
    return path


def search_line(result: ResultFile) -> str:
    """Returns the result of a search in one line."""
    parts = []
    for limit in result.limits:
        text = f"{limit.name} {quantity(limit.predicted, limit.unit)} predicted"
        if limit.measured:
            text += f", {limit.measured.median_ms:.4g} ms measured"
        parts.append(f"{text} ({limit.asked} was asked)")
    met = {True: "met", False: "NOT met", None: "not settled"}[result.met]
    limits = f"{'; '.join(parts)}: {met}; " if parts else ""
    return f"{limits}{amount(result.params)} parameters, {amount(result.macs)} MACs"


def _derive_inputs(job: Job, records: Records) -> dict[str, str]:
    made = records["search"].outputs or {}
    parts = {name: made[name] for name in made if name.startswith("search/checkpoints/") or name == ARCHITECTURE}
    return {"settings": _settings(job.config.derive)} | parts


def _derive(job: Job, records: Records) -> Done:
    """Derives the search's network once more, exactly, and those for other bounds."""
    folder = job.out / "search"
    with Stages() as report:
        again = derive_again(folder, allow_modules=job.modules, report=report)
    same = again.architecture.paths == load_chosen(job.out / ARCHITECTURE, job.modules).paths
    if not same:
        found = "is not the network that the newest checkpoint of the search gives"
        raise UserError(str(job.out / ARCHITECTURE), found, remedy="begin in another folder")
    make_folder(job.out / "derive")
    named = Architecture(again.architecture.space, again.architecture.paths, job.out.name)
    write_architecture(job.out / DERIVED, named, again.limits)
    _write(job.out / DERIVATION, derivation_record(again))
    line = derivation_line(again.derivation)
    files = [job.out / DERIVATION, job.out / DERIVED]
    if job.config.derive.at:
        bounds = [str(bound) for bound in job.config.derive.at]
        with Stages() as report:
            family = derive_family(folder, bounds, report=report, allow_modules=job.modules)
        line += f"; {len(family)} networks for other bounds"
        files += [member.path for member in family]
        files += [path for path in (folder / "pareto.json", folder / "pareto.png") if path.exists()]
    return Done(line, files)


def derivation_record(again: Again) -> dict[str, Any]:
    """Returns the content of derivation.json."""
    return {
        "step": again.step,
        "bounds": list(again.bounds),
        "paths": list(again.architecture.names),
        "log_probability": again.derivation.log_probability,
        "proven": again.derivation.proven,
    }


def derivation_line(derivation: Derivation) -> str:
    """Returns what an exact derivation showed, in one line."""
    proof = "no network within the limits is likelier" if derivation.proven else "the solver's time was up: not proven"
    return f"log probability {derivation.log_probability:.4f}; {proof}"


def _retrain_inputs(job: Job, records: Records) -> dict[str, str]:
    architecture = load_chosen(job.out / DERIVED, job.modules)
    own = _own(files_of_retraining(architecture, job.config.retrain.data))
    return {
        "settings": _settings(job.config.retrain),
        DERIVED: (records["derive"].outputs or {})[DERIVED],
    } | own


def _retrain(job: Job, records: Records) -> Done:
    folder = job.out / "retrain"
    run_retrain(
        _as_file(job, "retrain", job.config.retrain), job.out / DERIVED, folder, resume=run_begun(folder),
        allow_modules=job.modules, published=published_network,
    )  # fmt: skip
    test = read_json(folder / "result.json", "the result of a retraining")["test"]
    return Done(f"top-1 {test['top1']:.2f} % on {test['images']} test images", _made(folder))


def _of_checkpoint(job: Job, records: Records) -> dict[str, str]:
    """Returns the weights of the retraining as an input."""
    name = str(job.checkpoint.relative_to(job.out))
    return {"weights": (records["retrain"].outputs or {}).get(name, "missing")}


def _evaluate_inputs(job: Job, records: Records) -> dict[str, str]:
    retrain = job.config.retrain
    return _of_checkpoint(job, records) | {"settings": _settings(retrain.data, retrain.run)}


def _evaluate(job: Job, records: Records) -> Done:
    make_folder(job.out / "evaluate")
    record = evaluation_record(evaluated(job))
    _write(job.out / EVALUATION, record)
    low, high = record["top1_interval"]
    text = f"top-1 {record['top1']:.2f} % (95 % interval {low:.2f} to {high:.2f})"
    if len(record["classes"]) >= TOP5_CLASSES:
        text += f", top-5 {record['top5']:.2f} %"
    return Done(f"{text} on {record['images']} test images", [job.out / EVALUATION])


def evaluated(job: Job) -> Scores:
    """Returns how the retrained network does on the test images, of each class too."""
    with Stages() as report:
        _, scores = score_checkpoint(
            job.config.retrain, None, job.checkpoint, job.modules, by_class=True, report=report
        )
    return scores


def evaluation_record(scores: Scores) -> dict[str, Any]:
    """Returns the content of evaluation.json."""
    test = scores.test
    assert scores.by_class is not None  # asked for
    rows = scores.by_class.rows(scores.class_names)
    classes = {row.name: {"images": row.images, "top1": row.top1 if row.images else None} for row in rows}
    interval = list(wilson(test.top1, test.images))
    return {
        "images": test.images, "top1": test.top1, "top1_interval": interval, "top5": test.top5, "loss": test.loss,
        "classes": classes,
    }  # fmt: skip


def installed() -> list[str]:
    """Returns the formats whose runtimes are installed."""
    found = []
    for name, format in FORMATS.items():
        try:
            format.refuse_if_missing()
        except UserError:
            continue
        found.append(name)
    return found


def _formats(job: Job) -> list[str]:
    return list(job.config.export.to) if job.config.export.to is not None else installed()


def _export_inputs(job: Job, records: Records) -> dict[str, str]:
    versions = {
        f"format {name}": " ".join(
            f"{package} {version}" for package, version in versions_of(["torch", *FORMATS[name].packages]).items()
        )
        for name in _formats(job)
        if name in FORMATS  # the stage itself refuses another one
    }
    settings = {"settings": _settings(job.config.export, job.config.retrain.data)}
    return _of_checkpoint(job, records) | settings | versions


def _export(job: Job, records: Records) -> Done:
    """Writes a file for each runtime, and runs it on the test images."""
    folder, wanted = job.out / "export", job.config.export
    formats = _formats(job)
    if not formats:
        return Done("no format is asked for")
    with Stages() as report:
        exported = export_files(
            job.out / "retrain", folder, formats, batch=wanted.batch, layout=wanted.layout,
            normalise=wanted.normalise, allow_modules=job.modules, report=report,
        )  # fmt: skip
    found = {file.format: asdict(file_on_images(job, file.format, file.path)) for file in exported}
    _write(folder / ACCURACY, found)
    top1 = "; ".join(f"{name} {figures['top1']:.2f} %" for name, figures in found.items())
    return Done(f"top-1 {top1}", _made(folder))


def file_on_images(job: Job, format: str, path: Path) -> OnImages:
    """Returns how an exported file does on the test images of the retraining."""
    network = trained_network(job.out / "retrain", allow_modules=job.modules).network
    with Stages() as report:
        return on_images(path, FORMATS[format], network, _test_images(job), job.config.retrain.data.workers, report)


def _test_images(job: Job) -> ImageSet:
    return images_for(load_chosen(job.out / DERIVED, job.modules), job.config.retrain.data).test


def _int8_formats(job: Job) -> list[str]:
    """Returns the formats of the int8 files."""
    wanted = job.config.int8
    if wanted is None:
        return []
    if wanted.to is not None:
        return list(wanted.to)
    able = [name for name in _formats(job) if name in FORMATS and FORMATS[name].int8 is not None]
    return [name for name in able if _quantiser_is_installed(FORMATS[name])]


def _quantiser_is_installed(format: Format) -> bool:
    try:
        format.refuse_if_missing(int8=True)
    except UserError:
        return False
    return True


def _int8_inputs(job: Job, records: Records) -> dict[str, str]:
    settings = [job.config.export, job.config.retrain.data]
    if job.config.int8 is not None:
        settings.append(job.config.int8)
    return _of_checkpoint(job, records) | {"settings": _settings(*settings), "formats": " ".join(_int8_formats(job))}


def _int8(job: Job, records: Records) -> Done:
    """Writes an int8 file for each runtime that has one. A file that loses too much accuracy is left out."""
    formats, wanted, folder = _int8_formats(job), job.config.int8, job.out / "int8"
    if not formats or wanted is None:
        return Done("none is asked for" if wanted is None else "no installed format has int8 files")
    lines, refused = [], {}
    for name in formats:
        try:
            with Stages() as report:
                (made,) = export_files(
                    job.out / "retrain", folder, [name], dtype="int8", calibration_images=wanted.calibration_images,
                    max_drop=wanted.max_drop, keep_layers=wanted.keep_layers, batch=job.config.export.batch,
                    layout=job.config.export.layout, normalise=job.config.export.normalise, allow_modules=job.modules,
                    report=report,
                )  # fmt: skip
        except DropError as error:
            refused[name] = str(error)
            lines.append(f"{name} REFUSED: {error}")
            continue
        assert isinstance(made, ExportedInt8)  # what dtype asks for
        drop = made.check.drop
        lines.append(f"{name} drop {drop.points:+.2f} points" if drop is not None else f"{name} without labels")
    return Done("; ".join(lines), _made(folder) if folder.is_dir() else [], {"refused": refused})


def exported_files(job: Job) -> list[Path]:
    """Returns the files of runtimes that the job has written, int8 ones last."""
    found = []
    for name in ("export", "int8"):
        path = job.out / name / RECORD
        if path.exists():
            files = read_json(path, "an export.json")["files"].values()
            found += [path.parent / str(entry["file"]) for entry in files]
    return found


def _time_inputs(job: Job, records: Records) -> dict[str, str]:
    made = {**(records["export"].outputs or {}), **(records["int8"].outputs or {})}
    settings = {} if job.config.time is None else {"settings": _settings(job.config.time)}
    return settings | made | dict(records["table"].outputs or {})


def _time(job: Job, records: Records) -> Done:
    """Times the files in turn, beside what the first latency table predicts."""
    files, wanted = exported_files(job), job.config.time
    if wanted is None or not files:
        return Done("not asked for" if wanted is None else "nothing to time")
    with Stages() as report:
        timed = time_files(
            files, timed_against(job), threads=wanted.threads, rounds=wanted.rounds, allow_modules=job.modules,
            report=report,
        )  # fmt: skip
    lines = []
    for one in timed:
        line = f"{one.file} {one.median_ms:.4g} ms"
        if one.prediction is not None:
            reason = f", since {one.prediction.reason}" if one.prediction.reason else ""
            line += f" ({one.prediction.ms:.4g} predicted: {one.prediction.verdict}{reason})"
        lines.append(line)
    places = dict.fromkeys(path.parent / TIMINGS for path in files)
    return Done("; ".join(lines), list(places))


def timed_against(job: Job) -> Path | None:
    """Returns the latency table that predicts the exported files: the first of the limits, if there is one."""
    return next((table.copy for table in job.tables), None)


def _report_inputs(job: Job, records: Records) -> dict[str, str]:
    versions = versions_of(["proxylessnas", "jinja2"]) | {"settings": sha256_of(job.out / CONFIG)}
    return {
        name: sha256_of_values(record.model_dump(mode="json")) for name, record in records.items() if name != "report"
    } | versions


def _report(job: Job, records: Records) -> Done:
    page = write_report(job.out, out=job.out / "report.html", allow_modules=job.modules)
    return Done(f"{page.stat().st_size / 1000:.0f} kB", [page])


def _write(path: Path, values: Any) -> None:
    write_atomically(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


STAGES: tuple[Stage[Job], ...] = (
    Stage("table", "measures the latency tables of the limits that are not there yet", ("tables",),
          _table_inputs, _table),
    Stage("search", "searches, and times the derived network on this device if it is the table's", ("search",),
          _search_inputs, _search, True, ("search/config.yaml", "search/inputs.json", "search/images.csv.gz")),
    Stage("derive", "derives the network once more, exactly, and those for other bounds",
          ("derive", *FAMILY), _derive_inputs, _derive),
    Stage("retrain", "trains the derived network from scratch", ("retrain",), _retrain_inputs, _retrain,
          True, ("retrain/config.yaml", "retrain/inputs.json", "retrain/images.csv.gz")),
    Stage("evaluate", "evaluates its checkpoint on the test images", ("evaluate",), _evaluate_inputs, _evaluate),
    Stage("export", "writes and checks the files of runtimes, and runs them on the test images", ("export",),
          _export_inputs, _export),
    Stage("int8", "writes and checks int8 files", ("int8",), _int8_inputs, _int8),
    Stage("time", "times the files in turn", (f"export/{TIMINGS}", f"int8/{TIMINGS}"), _time_inputs, _time),
    Stage("report", "writes report.html", ("report.html",), _report_inputs, _report),
)  # fmt: skip
"""The stages in their order."""


def result_of(job: Job) -> ResultFile | None:
    """Returns the result of the job's search."""
    return load_result(job.out / "search")
