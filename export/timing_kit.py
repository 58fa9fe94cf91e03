"""Takes exported files to another device: writes a device kit that times them there, and reads its results.

The kit is one of latency/kit.py, whose program `bench.py` runs it on a board, and `proxyless-nas kit adb` on a phone.
It holds the exported files themselves, and the reference of the table if one is given.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.files import replacing_folder, write_atomically, writing
from export.exported_file import ExportedFile
from export.promise import Measured, judged
from export.timing import REFERENCE, ReferenceNetwork, layer_medians, measure_of
from export.timings import TimedFile, write_timings
from latency.config import EXPORTED
from latency.kit import (
    MODELS,
    ExportedKit,
    KitFileError,
    KitFiles,
    check_samples,
    copy_program,
    open_kit,
    read_results,
    readme,
    refuse_if_used,
)
from latency.measure import TIMING_ROUNDS, Timing
from latency.on_device.manifest import MANIFEST, MANIFEST_FORMAT, sha256
from latency.on_device.models import RUNTIMES
from latency.runtimes.exported import write_models
from latency.table import LatencyTable

PASSES = 18
"""The passes of each round, as on this machine."""
WARMUP = 10


def export_timing_kit(
    files: Sequence[Path],
    folder: Path,
    table: Path | None = None,
    *,
    threads: int | None = None,
    batch: int | None = None,
    rounds: int = TIMING_ROUNDS,
    allow_modules: Collection[str] = (),
) -> ExportedKit:
    """Writes a kit that times exported files on another device, into `folder`, which must not hold anything yet.

    files: ONNX files, or LiteRT files. table: the device's own table, of which the reference is taken. threads, batch,
    rounds, allow_modules: as for `export.timing.time_files`. Raises ConfigError if a file cannot be in a kit, and
    KitFileError if the folder cannot be used.
    """
    exported = [ExportedFile.read(path, allow_modules) for path in files]
    runtimes = list(dict.fromkeys(file.format.measured_as for file in exported))
    for file in exported:
        if file.format.measured_as not in EXPORTED or len(runtimes) > 1:
            found = f"runs in {file.format.title}"
            raise ConfigError(str(file.path), found, "ONNX files alone, or LiteRT files alone", "make a kit of each")
    refuse_if_used(f"--kit {folder}", folder)
    (runtime,) = runtimes
    promise = None if table is None else LatencyTable.load(table)
    threads = threads or (promise.threads if promise else None) or 1
    batch = batch or (promise.batch if promise else None)
    same = promise is not None and promise.runtime.name == runtime and promise.threads == threads
    reference = ReferenceNetwork.of(exported, promise) if same else None
    jobs: list[dict[str, Any]] = []
    names = {}
    with writing(f"--kit {folder}"), replacing_folder(folder) as new:
        (new / MODELS).mkdir()
        for i, file in enumerate(exported):
            name = f"{MODELS}/{i}-{file.path.name}"
            shutil.copyfile(file.path, new / name)
            names[f"file{i}"] = file.path.name
            shape = [file.images_at_once(batch), *_shape(file)[1:]]
            job = {"id": f"file{i}", "file": name, "shape": shape, "inside": False, "layers": 1}
            jobs.append(job)
            if RUNTIMES[runtime].times_layers and file.places:
                jobs.append(job | {"id": f"layers{i}", "inside": True, "layers": len(file.places)})
        if reference is not None:
            assert promise is not None
            (record,) = write_models(reference.space, measure_of(promise), [reference.job], new / MODELS)
            jobs.append(record | {"file": f"{MODELS}/{record['file']}", "inside": False})
        copy_program(new)
        command = f"proxyless-nas time {' '.join(path.name for path in files)} --kit KIT --results results.json"
        (new / "README.txt").write_text(readme(runtime, command), encoding="utf-8")
        every = sorted(path for path in new.rglob("*") if path.is_file())
        schedule = [[job["id"] for job in jobs]] * rounds
        manifest = {
            "format": MANIFEST_FORMAT,
            "runtime": runtime,
            "threads": threads,
            "passes": PASSES,
            "warmup": WARMUP,
            "seed": 0,
            "exported": {name: {"file": names[name], "sha256": exported[i].digest} for i, name in enumerate(names)},
            "reference_ms": None if reference is None else reference.predicted_ms,
            "table_sha256": None if reference is None or promise is None else promise.sha256,
            "files": {str(path.relative_to(new)): sha256(path) for path in every},
            "jobs": jobs,
            "schedule": schedule,
        }
        write_atomically(new / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return ExportedKit(folder, runtime, len(jobs) * rounds)


def import_timings(
    files: Sequence[Path],
    folder: Path,
    results: Path,
    table: Path | None = None,
    *,
    allow_modules: Collection[str] = (),
) -> list[TimedFile]:
    """Reads how long exported files took on another device, records them in timings.json, and returns them.

    files: the files of which the kit in `folder` was made. results: results.json of the device. table: the device's
    table. allow_modules: as for `export.timing.time_files`. Raises KitFileError if the kit or the results are wrong or
    of other files, and ConfigError if a file or the table is.
    """
    kit = open_kit(folder)
    of_kit = kit.manifest.get("exported")
    if not isinstance(of_kit, dict) or not all(isinstance(part, dict) for part in of_kit.values()):
        found = "is no kit of exported files"
        raise KitFileError(str(folder), found, remedy="make one with proxyless-nas time FILE --kit FOLDER")
    exported = [ExportedFile.read(path, allow_modules) for path in files]
    jobs = [_job_of(file, of_kit, folder) for file in exported]
    read = read_results(results, kit)
    check_samples(results, kit, read)
    promise = None if table is None else LatencyTable.load(table)
    reference = None
    if promise is not None and REFERENCE in read.samples_ms and kit.manifest.get("table_sha256") == promise.sha256:
        ms = kit.manifest.get("reference_ms")
        if not isinstance(ms, float) or not ms > 0:
            raise KitFileError(str(folder), "lacks or misstates 'reference_ms'", remedy="make the kit again")
        reference = (Timing.of(read.samples_ms[REFERENCE]).median_ms, ms)
    shapes = {job["id"]: job["shape"] for job in kit.manifest["jobs"]}
    timed = []
    for file, job in zip(exported, jobs, strict=True):
        layers, no_layers = _layers_in(read.samples_ms, job, file, kit)
        measured = Measured(
            timing=Timing.of(read.samples_ms[job]), layers=layers, no_layers=no_layers,
            runtime=f"{file.format.title} {read.runtime.version}", device=read.named_device,
            threads=kit.manifest["threads"], batch=shapes[job][0], date=read.date,
        )  # fmt: skip
        timed.append(judged(file, measured, table, promise, reference))
    write_timings(files, timed)
    return timed


def _shape(file: ExportedFile) -> list[Any]:
    """Returns the shape of a file's input. Raises ConfigError if no export.json tells it."""
    if not file.entry:
        raise ConfigError(str(file.path), "is in no export.json beside it", "a file of `proxyless-nas export`")
    shape: list[Any] = file.entry["input"]["shape"]
    return shape


def _job_of(file: ExportedFile, of_kit: Mapping[str, Any], folder: Path) -> str:
    """Returns the id of a file's job in a kit. Raises KitFileError if the kit holds another file."""
    for name, part in of_kit.items():
        if part.get("file") == file.path.name and part.get("sha256") == file.digest:
            return name
    raise KitFileError(str(folder), f"does not hold the file {file.path}", remedy="give the files that it was made of")


def _layers_in(
    samples: Mapping[str, Sequence[Any]], job: str, file: ExportedFile, kit: KitFiles
) -> tuple[tuple[float, ...] | None, str]:
    """Returns the median milliseconds of each layer, or None and the reason why they are not known."""
    inside = samples.get(job.replace("file", "layers"))
    if inside is None:
        return None, f"a kit of {kit.manifest['runtime']} does not tell how long a layer takes"
    return layer_medians([each for passes in inside for each in passes]), ""
