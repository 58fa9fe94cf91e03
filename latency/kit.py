"""A folder that measures a table on a device which has nothing of ours: exported here, run there, imported here.

    manifest.json       what is timed, how often, in which order, and the sha256 of every file
    bench.py            latency/bench.py: the program that runs on the device
    models/             networks and ops for the kit's runtime
    README.txt          three lines for whoever runs it

The manifest also holds the space, the settings and the seed of the plan, so that the results alone, together with the
kit, make the table.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from engine.config import Section, validate
from engine.errors import UserError
from engine.files import write_atomically
from latency import bench
from latency.build import Origin, build_table
from latency.config import EXPORTED, LatencyConfig, MeasureConfig
from latency.device import Kind, named_device
from latency.plan import Counts, Job, draw_plan, schedule
from latency.runtimes.exported import FILE_RUNTIMES, write_models
from latency.table import LatencyTable, Runtime
from supernet.space import Space

MODELS = "models"


class KitFileError(UserError):
    """A device kit, or its results, that cannot be used."""


class DeviceRecord(Section):
    name: str
    cores: int | None = None
    machine: str
    kind: Kind = "cpu"


class RuntimeRecord(Section):
    name: str
    version: str


class Results(Section):
    """results.json, as bench.py or the adb route writes it."""

    format: str
    manifest_sha256: str
    device: DeviceRecord
    runtime: RuntimeRecord
    provider: str
    date: str
    summarised: bool = False
    """One number per round, the device's own median or mean of the passes, instead of one per pass."""
    samples_ms: dict[str, tuple[Any, ...]]
    energy_mj: dict[str, tuple[float, ...]] = Field(default_factory=dict)


@dataclass(frozen=True)
class Kit:
    """A kit read back, complete and unchanged."""

    manifest: Mapping[str, Any]
    digest: str
    config: LatencyConfig
    space: Space
    jobs: tuple[Job, ...]


def export_kit(
    config: LatencyConfig, folder: Path, *, seed: int = 0, verify: int = 40, isolated: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> int:  # fmt: skip
    """Write a kit into `folder`, which must not hold anything yet. Returns the number of timings per round.

    isolated: time ops alone instead of inside networks; LiteRT knows no other way. Raises ConfigError without the
    runtime's extra, KitFileError where the folder cannot be used.
    """
    measure, space = config.measure, Space(config.space)
    if measure.runtime not in EXPORTED:
        raise KitFileError(
            f"measure.runtime: got '{measure.runtime}', a kit holds model files; expected {' or '.join(EXPORTED)}, "
            "e.g. measure.runtime=onnxruntime"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise KitFileError(f"--out {folder}: exists and is not empty; choose another folder for the kit")
    alone = isolated or measure.runtime != "onnxruntime"
    counts = Counts(0 if alone else measure.coverings, measure.calibration_networks, verify, alone)
    jobs = draw_plan(space, counts, seed)
    models = folder / MODELS
    try:
        models.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KitFileError(f"--out {folder}: cannot be made ({error.strerror}); choose another place") from None
    complete = False
    try:
        told = (lambda done, total: progress("export", done, total)) if progress else None
        records = write_models(space, measure, jobs, models, told)
        shutil.copyfile(bench.__file__, folder / "bench.py")
        write_atomically(folder / "README.txt", _readme(measure))
        complete = True
    finally:
        if not complete:
            shutil.rmtree(folder)
    for record, job in zip(records, jobs, strict=True):
        record["file"] = f"{MODELS}/{record['file']}"
        record["keys"] = [str(layer) for layer in job.layers]
    rounds = schedule(jobs, measure.rounds)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = {
        "format": bench.MANIFEST_FORMAT,
        "runtime": measure.runtime,
        "threads": measure.threads,
        "passes": measure.passes,
        "warmup": measure.warmup_passes,
        "seed": seed,
        "counts": asdict(counts),
        "config": config.model_dump(mode="json"),
        "files": {str(path.relative_to(folder)): bench.sha256(path) for path in files},
        "jobs": records,
        "schedule": rounds,
    }
    write_atomically(folder / bench.MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return sum(len(names) for names in rounds)


def _readme(measure: MeasureConfig) -> str:
    package = "onnxruntime" if measure.runtime == "onnxruntime" else "ai-edge-litert"
    return (
        "On the device, with nothing else running:\n"
        f"  python3 -m venv env && env/bin/pip install numpy {package} && env/bin/python bench.py\n"
        "It writes results.json beside this file. Copy that back to where the kit was exported, and there:\n"
        "  python scripts/device_kit.py import KIT results.json --out tables/device.yaml\n"
    )


def read_kit(folder: Path, allow_modules: Collection[str] = ()) -> Kit:
    """allow_modules: the modules of candidates that the manifest may import, see `supernet.module_names.permitted`.
    Raises KitFileError where the kit is not complete, was changed, or was made by another version of this
    package."""
    try:
        manifest, digest = bench.read_manifest(str(folder))
    except bench.KitError as error:
        raise KitFileError(str(error)) from None
    where = str(folder / bench.MANIFEST)
    try:
        counts, seed = Counts(**manifest["counts"]), int(manifest["seed"])
        data, records = manifest["config"], {job["id"]: job for job in manifest["jobs"]}
    except (KeyError, TypeError, ValueError) as error:
        raise KitFileError(f"{where}: lacks or misstates {error}; export the kit again") from None
    config = validate(LatencyConfig, data, where, {"allow_modules": allow_modules})
    space = Space(config.space)
    jobs = draw_plan(space, counts, seed)
    keys = {job.id: [str(layer) for layer in job.layers] for job in jobs}
    if keys != {name: record["keys"] for name, record in records.items()}:
        raise KitFileError(f"{where}: was made by another version of this package; export the kit again")
    return Kit(manifest, digest, config, space, jobs)


def import_results(folder: Path, path: Path, allow_modules: Collection[str] = ()) -> LatencyTable:
    """The table that a kit's results make: calibrated and verified. allow_modules: as for read_kit. Raises KitFileError
    or ConfigError in one line."""
    kit = read_kit(folder, allow_modules)
    results = read_results(path, kit)
    measure = kit.config.measure
    if results.runtime.name != measure.runtime:
        raise KitFileError(
            f"{path}: runtime.name is '{results.runtime.name}', the kit is for {measure.runtime}; run its own bench.py"
        )
    own = results.device
    provider = "" if results.provider == "CPUExecutionProvider" else f", {results.provider}"
    kind: Kind = "gpu" if "CUDA" in results.provider or "Tensorrt" in results.provider else own.kind
    origin = Origin(
        named_device(kind, own.name, own.cores, own.machine),
        Runtime(name=results.runtime.name, version=results.runtime.version),
        f"device kit, {FILE_RUNTIMES[measure.runtime].title}{provider}",
        results.date,
    )
    table = build_table(
        kit.space, measure, kit.jobs, results.samples_ms, origin, seed=kit.manifest["seed"], energy=results.energy_mj
    )
    return table.model_copy(update={"source": f"{path.name} sha256 {bench.sha256(path)}"})


def read_results(path: Path, kit: Kit) -> Results:
    """results.json, every number checked against the kit's manifest. KitFileError names the first that is wrong."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise KitFileError(f"{path}: no such file; run bench.py on the device and copy its results.json here") from None
    except (OSError, UnicodeDecodeError) as error:
        raise KitFileError(f"{path}: cannot be read ({error}); copy it again") from None
    except ValueError:
        raise KitFileError(f"{path}: is not JSON, perhaps cut off; copy it from the device again") from None
    if not isinstance(data, dict) or data.get("format") != bench.RESULTS_FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise KitFileError(f"{path}: format: got {found!r}, expected '{bench.RESULTS_FORMAT}', as bench.py writes it")
    results = validate(Results, data, str(path))
    if results.manifest_sha256 != kit.digest:
        raise KitFileError(
            f"{path}: manifest_sha256 is {results.manifest_sha256[:12]}..., this kit's manifest has "
            f"{kit.digest[:12]}...: the results are of another kit; import them with the kit that was run"
        )
    _check_samples(path, kit, results)
    return results


def _check_samples(path: Path, kit: Kit, results: Results) -> None:
    expected: dict[str, int] = {}
    for names in kit.manifest["schedule"]:
        for name in names:
            expected[name] = expected.get(name, 0) + 1
    if odd := sorted(results.samples_ms.keys() ^ expected.keys()):
        word = "is missing" if odd[0] in expected else "is not in the kit"
        raise KitFileError(f"{path}: samples_ms.{odd[0]} {word} ({len(odd)} such jobs); run bench.py again")
    passes = 1 if results.summarised else kit.manifest["passes"]
    jobs = {job.id: job for job in kit.jobs}
    for name, rounds in results.samples_ms.items():
        where = f"{path}: samples_ms.{name}"
        if len(rounds) != expected[name]:
            raise KitFileError(f"{where}: has {len(rounds)} rounds, expected {expected[name]}; run bench.py again")
        for taken in rounds:
            if not isinstance(taken, list) or len(taken) != passes:
                raise KitFileError(f"{where}: expected {passes} passes in every round; run bench.py again")
            for value in taken:
                numbers = value if jobs[name].inside else [value]
                if not isinstance(numbers, list) or (jobs[name].inside and len(numbers) != len(jobs[name].layers)):
                    raise KitFileError(
                        f"{where}: expected {len(jobs[name].layers)} layers in every pass; run bench.py again"
                    )
                _check_numbers(where, numbers, whole=not jobs[name].inside)
    for name, energies in results.energy_mj.items():
        if not all(math.isfinite(value) and value >= 0 for value in energies):
            raise KitFileError(f"{path}: energy_mj.{name}: expected millijoules >= 0; run bench.py again")


LONGEST_MS = 1e6  # a quarter of an hour for one pass: no network of a search


def _check_numbers(where: str, numbers: Sequence[Any], *, whole: bool) -> None:
    for value in numbers:
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not good or value < 0 or (whole and value == 0) or value > LONGEST_MS:
            raise KitFileError(
                f"{where}: got {value!r}, expected milliseconds above 0 and below {LONGEST_MS:g}; run bench.py again"
            )
