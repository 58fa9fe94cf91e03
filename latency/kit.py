"""Exports a device kit, a folder that measures a table on a device without this package, and imports its results.

    manifest.json       what is timed, how often, in which order, and the sha256 of every file
    bench.py            the program that runs on the device
    on_device/          what it imports, a copy of latency/on_device/
    models/             networks and ops for the kit's runtime
    README.txt          the commands to type there and here

The manifest also holds the space, the settings and the seed of the plan, so that the results alone, together with the
kit, make the table.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from engine.config import Section, validate
from engine.errors import InvalidError, UserError
from engine.files import read_json, replacing_folder, write_atomically, writing
from engine.progress import Report, silent
from engine.wording import shown
from latency import on_device
from latency.build import Origin, build_table
from latency.config import EXPORTED, FILE_DTYPES, LatencyConfig
from latency.device import Device, Kind, named_device
from latency.existing import save_table
from latency.on_device.errors import KitError
from latency.on_device.manifest import MANIFEST, MANIFEST_FORMAT, read_manifest, sha256
from latency.on_device.models import RUNTIMES
from latency.on_device.program import RESULTS_FORMAT, check_writable
from latency.plan import Counts, TimingJob, draw_plan, schedule
from latency.runtimes.exported import FILE_RUNTIMES, write_models
from latency.runtimes.int8_models import quantiser_of
from latency.table import LatencyTable, UsedRuntime, prepare_table_file
from latency.verification import check_count, check_seed
from supernet.space import Space

MODELS = "models"


class KitFileError(UserError):
    """Raised if a device kit, or its results, cannot be used."""


def _printable(text: str) -> str:
    """Returns the text. Raises ValueError if it has control characters."""
    if not text.isprintable():
        raise InvalidError("", "has control characters", remedy="run bench.py again")
    return text


Word = Annotated[str, Field(max_length=200), AfterValidator(_printable)]
"""A text from another machine that is printed here and written into a table."""


class DeviceRecord(Section):
    """The device in results.json."""

    name: Word
    cores: int | None = Field(None, ge=1, le=1_000_000)
    machine: Word
    kind: Kind = "cpu"


class RuntimeRecord(Section):
    """The runtime in results.json."""

    name: Word
    version: Word


class Results(Section):
    """The content of results.json, which bench.py or latency/adb.py writes."""

    format: str
    manifest_sha256: Word
    device: DeviceRecord
    runtime: RuntimeRecord
    provider: Word
    date: Word
    summarised: bool = False
    """Whether there is one number per round, the median or mean of its passes, instead of one per pass."""
    samples_ms: dict[str, tuple[Any, ...]]
    energy_mj: dict[str, tuple[float, ...]] = Field(default_factory=dict)

    @property
    def named_device(self) -> Device:
        """The device, as a table's header has it: a GPU if a provider of one ran the models."""
        gpu = "CUDA" in self.provider or "Tensorrt" in self.provider
        own = self.device
        return named_device("gpu" if gpu else own.kind, own.name, own.cores, own.machine)


@dataclass(frozen=True)
class ExportedKit:
    """A kit that was written."""

    folder: Path
    runtime: str
    timings: int
    """The number of timings in all rounds together."""


@dataclass(frozen=True)
class KitFiles:
    """A kit's checked manifest and its sha256. Every file exists and is unchanged; no module has been imported."""

    manifest: Mapping[str, Any]
    digest: str


@dataclass(frozen=True)
class Kit(KitFiles):
    """A kit that was read back, with the plan that its manifest describes."""

    config: LatencyConfig
    space: Space
    jobs: tuple[TimingJob, ...]


def export_kit(
    config: LatencyConfig | Path,
    folder: Path,
    *,
    overrides: Sequence[str] = (),
    seed: int = 0,
    verify: int = 40,
    isolated: bool = False,
    report: Report = silent,
) -> ExportedKit:
    """Writes a kit into `folder`, which must not hold anything yet.

    config: an object, or the path of a YAML file to which `overrides` (key.sub=value) apply. seed: the seed
    by which the networks are drawn. verify: the number of networks on which the table's error will be measured.
    isolated: time ops alone instead of inside networks, as is always done with LiteRT.

    Raises ConfigError if the config is wrong or the runtime's extra is not installed, TableError for a `verify` that is
    too small, KitFileError if the folder cannot be used.
    """
    check_count(verify)
    check_seed(seed)
    config = LatencyConfig.read(config, overrides)
    measure, space = config.measure, Space(config.space)
    if measure.runtime not in EXPORTED:
        raise KitFileError(
            "measure.runtime",
            f"got '{measure.runtime}', a kit holds model files",
            f"{' or '.join(EXPORTED)}, e.g. measure.runtime=onnxruntime",
        )
    if measure.dtype not in FILE_DTYPES:
        raise KitFileError(
            "measure.dtype", f"got '{measure.dtype}', the models of a kit are in another", " or ".join(FILE_DTYPES)
        )
    refuse_if_used(f"--out {folder}", folder)
    alone = isolated or not RUNTIMES[measure.runtime].times_layers
    counts = Counts(
        0 if alone else measure.coverings, measure.calibration_networks, verify, alone, float32=measure.dtype == "int8"
    )
    jobs = draw_plan(space, counts, seed)
    with writing(f"--out {folder}"), replacing_folder(folder) as new:
        (new / MODELS).mkdir()
        records = write_models(space, measure, jobs, new / MODELS, partial(report, "export"))
        copy_program(new)
        (new / "README.txt").write_text(readme(measure.runtime, IMPORT), encoding="utf-8")
        for record, job in zip(records, jobs, strict=True):
            record["file"] = f"{MODELS}/{record['file']}"
            record["keys"] = [str(layer) for layer in job.layers]
        rounds = schedule(jobs, measure.rounds)
        files = sorted(path for path in new.rglob("*") if path.is_file())
        manifest = {
            "format": MANIFEST_FORMAT,
            "runtime": measure.runtime,
            "threads": measure.threads,
            "passes": measure.passes,
            "warmup": measure.warmup_passes,
            "seed": seed,
            "quantiser": quantiser_of(measure),
            "counts": asdict(counts),
            "config": config.model_dump(mode="json"),
            "files": {str(path.relative_to(new)): sha256(path) for path in files},
            "jobs": records,
            "schedule": rounds,
        }
        write_atomically(new / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return ExportedKit(folder, measure.runtime, sum(len(names) for names in rounds))


def copy_program(folder: Path) -> None:
    """Copies the program that runs on the device into the folder of a kit: bench.py and the folder on_device."""
    source = Path(on_device.__file__).parent
    (folder / source.name).mkdir()
    for path in sorted(source.glob("*.py")):
        shutil.copyfile(path, folder / ("" if path.name == "bench.py" else source.name) / path.name)


def refuse_if_used(where: str, folder: Path) -> None:
    """Raises KitFileError if something is in the folder of a new kit. where: what the error is about."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise KitFileError(where, "exists and is not empty", remedy="choose another folder for the kit")


IMPORT = "proxyless-nas kit import KIT results.json --out tables/device.yaml"
"""The command that reads the results of a kit that measures a table."""


def readme(runtime: str, command: str) -> str:
    """Returns the text of README.txt. command: what reads the results."""
    package = FILE_RUNTIMES[runtime].device_package
    return (
        "On the device, with nothing else running:\n"
        f"  python3 -m venv env && env/bin/pip install numpy {package} && env/bin/python bench.py\n"
        "It writes results.json beside this file. Copy that back to where the kit was exported, and there:\n"
        f"  {command}\n"
    )


def prepare_results_file(path: Path) -> None:
    """Raises KitFileError if results cannot be written to `path`. Call it before the minutes of measuring."""
    try:
        check_writable(str(path))
    except KitError as error:
        raise KitFileError.of(error) from None


def open_kit(folder: Path) -> KitFiles:
    """Returns the kit's checked manifest. Raises KitFileError if the kit is incomplete or was changed. Nothing that it
    names is imported or run."""
    try:
        return KitFiles(*read_manifest(str(folder)))
    except KitError as error:
        raise KitFileError.of(error) from None


def plan_of(files: KitFiles, folder: Path, allow_modules: Collection[str] = ()) -> Kit:
    """Returns the kit with the plan of the space in its manifest.

    allow_modules: modules of candidates that the manifest may import, see `supernet.module_names.permitted`. Raises
    KitFileError if another version of this package made the kit, ConfigError if its space is wrong.
    """
    manifest, digest = files.manifest, files.digest
    where = str(folder / MANIFEST)
    seed, records = manifest["seed"], {job["id"]: job for job in manifest["jobs"]}
    if "exported" in manifest:
        raise KitFileError(where, "is of a kit of exported files", remedy="read its results with proxyless-nas time")
    counts, data = _counts(manifest, where), manifest.get("config")
    if not isinstance(data, dict):
        raise KitFileError(where, "lacks or misstates 'config'", remedy="export the kit again")
    config = validate(LatencyConfig, data, where, {"allow_modules": allow_modules})
    space = Space(config.space)
    jobs = draw_plan(space, counts, seed)
    keys = {job.id: [str(layer) for layer in job.layers] for job in jobs}
    if keys != {name: record.get("keys") for name, record in records.items()}:
        raise KitFileError(where, "was made by another version of this package", remedy="export the kit again")
    return Kit(manifest, digest, config, space, jobs)


def _counts(manifest: Mapping[str, Any], where: str) -> Counts:
    """Returns the counts of the plan. They are at most the number of the manifest's jobs, so that a forged manifest
    cannot make drawing the plan take long."""
    counts = manifest.get("counts")
    names = [job["id"] for job in manifest["jobs"]]
    there = {purpose: sum(name.startswith(purpose) for name in names) for purpose in ("context", "calibration")}
    most = {
        "coverings": there["context"],
        "calibration": there["calibration"],
        "verification": sum(name.startswith("verification") for name in names),
    }
    if isinstance(counts, dict):
        counts = {"float32": False, **counts}  # earlier kits lack it
    whether = ("alone", "float32")
    if (
        not isinstance(counts, dict)
        or counts.keys() != {*most, *whether}
        or not all(isinstance(counts[key], bool) for key in whether)
    ):
        raise KitFileError(where, "lacks or misstates 'counts'", remedy="export the kit again")
    for key, largest in most.items():
        value = counts[key]
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= largest:
            raise KitFileError(
                f"{where}: counts.{key}",
                f"does not fit the {len(names)} jobs; it was changed, or made by another version of this package",
                remedy="export the kit again",
            )
    return Counts(**counts)


def import_results(folder: Path, path: Path, allow_modules: Collection[str] = ()) -> LatencyTable:
    """Returns the table of a kit's results, calibrated and verified. allow_modules: as for plan_of.

    The results are compared with the kit before anything that its manifest names is imported. Raises KitFileError or
    ConfigError in one line.
    """
    files = open_kit(folder)
    results = read_results(path, files)
    kit = plan_of(files, folder, allow_modules)
    check_samples(path, files, results)
    measure = kit.config.measure
    if results.runtime.name != measure.runtime:
        raise KitFileError(
            str(path),
            f"runtime.name is '{results.runtime.name}', the kit is for {measure.runtime}",
            remedy="run its own bench.py",
        )
    provider = "" if results.provider == "CPUExecutionProvider" else f", {results.provider}"
    origin = Origin(
        results.named_device,
        UsedRuntime(name=results.runtime.name, version=results.runtime.version),
        f"device kit, {FILE_RUNTIMES[measure.runtime].title}{provider}",
        results.date,
        _quantiser(kit.manifest, str(folder / MANIFEST)),
    )
    table = build_table(
        kit.space, measure, kit.jobs, results.samples_ms, origin, seed=kit.manifest["seed"], energy=results.energy_mj
    )
    return table.model_copy(update={"source": f"{path.name} sha256 {sha256(path)}"})


def _quantiser(manifest: Mapping[str, Any], where: str) -> str | None:
    """Returns the program that made a kit's int8 models; None for another precision. Raises KitFileError if the
    manifest names none in words."""
    name = manifest.get("quantiser")
    if name is None or (isinstance(name, str) and len(name) <= 200 and name.isprintable()):
        return name
    raise KitFileError(f"{where}: quantiser", f"got {shown(name)}", "the name of a program", "export the kit again")


def import_to_file(folder: Path, results: Path, out: Path, allow_modules: Collection[str] = ()) -> LatencyTable:
    """Makes the table of a kit's results as `import_results` does, writes it to `out` and returns it.

    Raises TableError, too, if `out` cannot be written or holds anything but an earlier version of this table.
    """
    prepare_table_file(out)
    table = import_results(folder, results, allow_modules)
    save_table(table, out)
    return table


def read_results(path: Path, kit: KitFiles) -> Results:
    """Reads the results.json of this kit; its samples are not checked yet. Raises KitFileError that names what is
    wrong."""
    missing = "run bench.py on the device and copy its results.json here"
    data = read_json(
        path, "a device's results.json", KitFileError, "perhaps cut off; copy it from the device again", missing
    )
    if not isinstance(data, dict) or data.get("format") != RESULTS_FORMAT:
        found = shown(data.get("format")) if isinstance(data, dict) else type(data).__name__
        raise KitFileError(f"{path}: format", f"got {found}", f"'{RESULTS_FORMAT}', as bench.py writes it")
    results = validate(Results, data, str(path))
    if results.manifest_sha256 != kit.digest:
        raise KitFileError(
            str(path),
            (
                f"manifest_sha256 is {results.manifest_sha256[:12]}..., this kit's manifest has "
                f"{kit.digest[:12]}...: the results are of another kit"
            ),
            remedy="import them with the kit that was run",
        )
    return results


def check_samples(path: Path, kit: KitFiles, results: Results) -> None:
    """Raises KitFileError unless the results have as many numbers as the kit's schedule asks for, all in range."""
    expected: dict[str, int] = {}
    for names in kit.manifest["schedule"]:
        for name in names:
            expected[name] = expected.get(name, 0) + 1
    if odd := sorted(results.samples_ms.keys() ^ expected.keys()):
        word = "is missing" if odd[0] in expected else "is not in the kit"
        raise KitFileError(str(path), f"samples_ms.{odd[0]} {word} ({len(odd)} such jobs)", remedy="run bench.py again")
    passes = 1 if results.summarised else kit.manifest["passes"]
    jobs = {job["id"]: job for job in kit.manifest["jobs"]}
    for name, rounds in results.samples_ms.items():
        where = f"{path}: samples_ms.{name}"
        if len(rounds) != expected[name]:
            raise KitFileError(where, f"has {len(rounds)} rounds", str(expected[name]), "run bench.py again")
        for taken in rounds:
            if not isinstance(taken, list) or len(taken) != passes:
                raise KitFileError(where, expected=f"{passes} passes in every round", remedy="run bench.py again")
            for value in taken:
                inside, layers = jobs[name]["inside"], jobs[name]["layers"]
                numbers = value if inside else [value]
                if not isinstance(numbers, list) or (inside and len(numbers) != layers):
                    raise KitFileError(
                        where,
                        expected=f"{layers} layers in every pass",
                        remedy="run bench.py again",
                    )
                _check_numbers(where, numbers, whole=not inside)
    for name, energies in results.energy_mj.items():
        where = f"{path}: energy_mj.{name}"
        if name not in expected or len(energies) != expected[name]:
            raise KitFileError(
                where, expected="one number for each round of a job of the kit", remedy="run bench.py again"
            )
        if not all(0 <= value <= LARGEST_MJ for value in energies):
            raise KitFileError(where, expected=f"millijoules >= 0, below {LARGEST_MJ:g}", remedy="run bench.py again")


LONGEST_MS = 1e6
"""The longest accepted pass: a quarter of an hour."""
LARGEST_MJ = 1e9
"""The largest accepted energy of a pass: 1 kW for as long."""


def _check_numbers(where: str, numbers: Sequence[Any], *, whole: bool) -> None:
    """Raises KitFileError unless all numbers are possible milliseconds. whole: whether they are the times of whole
    networks, which cannot be 0."""
    for value in numbers:
        good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LONGEST_MS
        if not good or (whole and value == 0):
            raise KitFileError(
                where,
                f"got {shown(value)}",
                f"milliseconds above 0 and below {LONGEST_MS:g}",
                "run bench.py again",
            )
