"""The stages that bring a trained network to runtimes: its files in float32 and int8, and their timings."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from engine.data import ImageSet
from engine.errors import UserError
from engine.files import make_folder, read_json
from engine.progress import Stages
from engine.runs.stages import Done, Stage
from export.formats import FORMATS
from export.formats.base import Format, versions_of
from export.job import RECORD, ExportedInt8
from export.parity import ParityError
from export.timing import time_files
from export.timings import TIMINGS
from proxyless_nas.shipping.files_on_images import OnImages, on_images
from proxyless_nas.shipping.folder import (
    ACCURACY,
    DERIVED,
    TIME,
    Job,
    Records,
    files_in,
    hash_of,
    write_values,
)
from proxyless_nas.shipping.training import weights_input
from proxyless_nas.sources import trained_network
from proxyless_nas.verbs import export as export_files
from retrain.data import images_for
from retrain.weights import load_chosen


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
    settings = {"settings": hash_of(job.config.export, job.config.retrain.data)}
    return weights_input(job, records) | settings | versions


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
    write_values(folder / ACCURACY, found)
    top1 = "; ".join(f"{name} {figures['top1']:.2f} %" for name, figures in found.items())
    return Done(f"top-1 {top1}", files_in(folder))


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
    known = [FORMATS[name] for name in _formats(job) if name in FORMATS]
    able = [each for each in known if each.int8 is not None and wanted.weight_bits in each.int8.weight_bits]
    return [format.name for format in able if _quantiser_is_installed(format)]


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
    return weights_input(job, records) | {"settings": hash_of(*settings), "formats": " ".join(_int8_formats(job))}


def _int8(job: Job, records: Records) -> Done:
    """Writes an int8 file for each runtime that has one, but none that fails its check or loses too much accuracy."""
    formats, wanted, folder = _int8_formats(job), job.config.int8, job.out / "int8"
    if not formats or wanted is None:
        return Done("none is asked for" if wanted is None else "no installed format has int8 files")
    lines, refused = [], {}
    for name in formats:
        try:
            with Stages() as report:
                (made,) = export_files(
                    job.out / "retrain", folder, [name], dtype="int8", calibration_images=wanted.calibration_images,
                    max_drop=wanted.max_drop, keep_layers=wanted.keep_layers, weight_bits=wanted.weight_bits,
                    batch=job.config.export.batch, layout=job.config.export.layout,
                    normalise=job.config.export.normalise, allow_modules=job.modules, report=report,
                )  # fmt: skip
        except ParityError as error:  # DropError is one
            refused[name] = str(error)
            lines.append(f"{name} REFUSED: {error}")
            continue
        assert isinstance(made, ExportedInt8)  # what dtype asks for
        drop = made.check.drop
        lines.append(f"{name} drop {drop.points:+.2f} points" if drop is not None else f"{name} without labels")
    return Done("; ".join(lines), files_in(folder) if folder.is_dir() else [], {"refused": refused})


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
    settings = {} if job.config.time is None else {"settings": hash_of(job.config.time)}
    return settings | made | dict(records["table"].outputs or {})


def _time(job: Job, records: Records) -> Done:
    """Times the files in turn, beside what the first latency table predicts."""
    files, wanted = exported_files(job), job.config.time
    if wanted is None or not files:
        return Done("not asked for" if wanted is None else "nothing to time")
    with Stages() as report:
        timed = time_files(
            files, timed_against(job), threads=wanted.threads, rounds=wanted.rounds, folder=make_folder(job.out / TIME),
            allow_modules=job.modules, report=report,
        )  # fmt: skip
    lines = []
    for one in timed:
        line = f"{one.file} {one.median_ms:.4g} ms"
        if one.prediction is not None:
            reason = f", since {one.prediction.reason}" if one.prediction.reason else ""
            line += f" ({one.prediction.ms:.4g} predicted: {one.prediction.verdict}{reason})"
        lines.append(line)
    return Done("; ".join(lines), [job.out / TIME / TIMINGS])


def timed_against(job: Job) -> Path | None:
    """Returns the latency table that predicts the exported files: the first of the limits, if there is one."""
    return next((table.copy for table in job.tables), None)


DEPLOYMENT: tuple[Stage[Job], ...] = (
    Stage("export", "writes and checks the files of runtimes, and runs them on the test images", ("export",),
          _export_inputs, _export),
    Stage("int8", "writes and checks int8 files", ("int8",), _int8_inputs, _int8),
    Stage("time", "times the files in turn", (TIME,), _time_inputs, _time),
)  # fmt: skip
"""The stages in their order."""
