"""The stages that make a trained network: its latency table, search, derivation, retraining and evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from engine.config import config_text
from engine.errors import ConfigError, UserError
from engine.evaluation import wilson
from engine.files import make_folder, read_json, write_atomically
from engine.progress import Stages
from engine.quantities import TOP5_CLASSES, amount, quantity
from engine.runs.folder import run_begun
from engine.runs.stages import Done, Stage, sha256_of, sha256_of_values
from latency.config import LatencyConfig
from latency.summary import summary
from latency.table import LatencyTable, Verification
from latency.verification import NOISY_PERCENT
from proxyless_nas.calm import calmest_table
from proxyless_nas.shipping.folder import (
    ARCHITECTURE,
    DERIVATION,
    DERIVED,
    EVALUATION,
    FAMILY,
    Job,
    Records,
    UsedFile,
    files_in,
    hash_of,
    write_values,
)
from proxyless_nas.shipping.images import refuse_other_images
from proxyless_nas.starting import published_network
from retrain.config import RetrainConfig
from retrain.data import own_files as files_of_retraining
from retrain.evaluation import Scores, score_checkpoint
from retrain.run import run_retrain
from retrain.weights import load_chosen
from search.config import SearchConfig
from search.derive.derivation import Derivation
from search.limits.limit import Limit
from search.loop import finish_search
from search.many.again import Again, derive_again
from search.many.family import derive_family
from search.own import own_files as files_of_search
from search.result import ResultFile, write_architecture
from supernet.architecture import Architecture


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
            found[str(table.path)] = hash_of(job.config.search.space, table.measure, job.config.table)
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
    found = {"settings": hash_of(job.config.search)} | _own(files_of_search(job.config.search))
    return found | dict(records["table"].outputs or {})


def _own(files: Mapping[str, str]) -> dict[str, str]:
    """Returns the checksums of the user's own modules as inputs."""
    return {"own modules": sha256_of_values(dict(files))} if files else {}


def _search(job: Job, records: Records) -> Done:
    folder = job.out / "search"
    result = finish_search(_as_file(job, "search", job.search), folder)
    family = {path for pattern in FAMILY for path in job.out.glob(pattern)}  # which the next stage has made
    return Done(search_line(result), [path for path in files_in(folder) if path not in family])


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
    return {"settings": hash_of(job.config.derive)} | parts


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
    write_architecture(job.out / DERIVED, named, _with_own_names(job, again.limits))
    write_values(job.out / DERIVATION, derivation_record(again))
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


def _with_own_names(job: Job, limits: Sequence[Limit]) -> list[Limit]:
    """Returns a search's limits, whose tables have their paths in the job's folder, so that what is derived is the same
    file wherever that folder is."""
    own = {table.path: Path(table.name) for table in job.tables}
    files = [limit.files for limit in job.config.search.additive.values()]  # the limits begin with these
    found = list(limits)
    for i, paths in enumerate(files):
        pairs = zip(limits[i].sources, paths, strict=True)
        found[i] = replace(limits[i], sources=tuple(replace(source, path=own[path]) for source, path in pairs))
    return found


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
        "settings": hash_of(job.config.retrain),
        DERIVED: (records["derive"].outputs or {})[DERIVED],
    } | own


def _retrain(job: Job, records: Records) -> Done:
    folder = job.out / "retrain"
    run_retrain(
        _as_file(job, "retrain", job.config.retrain), job.out / DERIVED, folder, resume=run_begun(folder),
        allow_modules=job.modules, published=published_network,
    )  # fmt: skip
    test = read_json(folder / "result.json", "the result of a retraining")["test"]
    return Done(f"top-1 {test['top1']:.2f} % on {test['images']} test images", files_in(folder))


def weights_input(job: Job, records: Records) -> dict[str, str]:
    """Returns the weights of the retraining as an input."""
    name = str(job.checkpoint.relative_to(job.out))
    return {"weights": (records["retrain"].outputs or {}).get(name, "missing")}


def _evaluate_inputs(job: Job, records: Records) -> dict[str, str]:
    retrain = job.config.retrain
    return weights_input(job, records) | {"settings": hash_of(retrain.data, retrain.run)}


def _evaluate(job: Job, records: Records) -> Done:
    make_folder(job.out / "evaluate")
    record = evaluation_record(evaluated(job))
    write_values(job.out / EVALUATION, record)
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


TRAINING: tuple[Stage[Job], ...] = (
    Stage("table", "measures the latency tables of the limits that are not there yet", ("tables",),
          _table_inputs, _table),
    Stage("search", "searches, and times the derived network on this device if it is the table's", ("search",),
          _search_inputs, _search, True, ("search/config.yaml", "search/inputs.json", "search/images.csv.gz"),
          partial(refuse_other_images, part="search")),
    Stage("derive", "derives the network once more, exactly, and those for other bounds",
          ("derive", *FAMILY), _derive_inputs, _derive),
    Stage("retrain", "trains the derived network from scratch", ("retrain",), _retrain_inputs, _retrain,
          True, ("retrain/config.yaml", "retrain/inputs.json", "retrain/images.csv.gz"),
          partial(refuse_other_images, part="retrain")),
    Stage("evaluate", "evaluates its checkpoint on the test images", ("evaluate",), _evaluate_inputs, _evaluate),
)  # fmt: skip
"""The stages in their order."""
