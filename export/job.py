"""Exports a network to several formats: writes each file, checks it, and records it in export.json."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from engine.data import Preprocessing
from engine.errors import ConfigError, UserError
from engine.files import fsync_folder, make_folder, read_json, write_atomically, writing
from engine.nearest import nearest
from engine.progress import Report, silent
from engine.wording import shown
from export.formats import FORMATS
from export.formats.base import LARGEST_CODE, WEIGHT_BITS, Format, versions_of
from export.int8 import Int8Check, write_and_check
from export.parity import Parity, Reference, check
from export.program import Layout, Program, make_program, metadata_of
from export.quantisation import Int8, Quantisation
from supernet.design import Design
from supernet.network import Network

RECORD = "export.json"
"""The file beside the exported ones that records what they are and what their check showed."""
RECORD_FORMAT = "proxylessnas/export@1"
UNNAMED = "unnamed"
"""The name of an architecture that nobody has named."""


@dataclass(frozen=True)
class Exported:
    """A file that has passed its check."""

    format: str
    path: Path
    bytes: int
    """The size of the file, and of those that belong to it."""
    parity: Parity

    def __str__(self) -> str:
        """Returns the file, its size and what its check showed, in one line."""
        compared = [(what, part) for what, part in (("random inputs", self.parity.random), ("photographs",
            self.parity.photographs)) if part is not None]  # fmt: skip
        parts = [
            f"{part.max_abs_diff:.1e} on {part.images} {what}, the same class in {100 * part.argmax_agreement:.4g} %"
            for what, part in compared
        ]
        line = f"{self.path}: {self.bytes / 1e6:.1f} MB; {self.parity.runtime} differs by at most {'; '.join(parts)}"
        folder = self.parity.folder
        if folder is not None:
            line += f"; top-1 {folder.top1_file:.2f} % on {folder.images} images, PyTorch {folder.top1_pytorch:.2f} %"
        return line


@dataclass(frozen=True)
class ExportedInt8:
    """An int8 file that has passed its check."""

    format: str
    path: Path
    bytes: int
    """The size of the file, and of those that belong to it."""
    check: Int8Check

    def __str__(self) -> str:
        """Returns the file, its size and what its check showed, in one line."""
        return f"{self.path}: {self.bytes / 1e6:.1f} MB; {self.check}"


def export_network(
    network: Network,
    preprocessing: Preprocessing,
    classes: Sequence[str],
    to: Sequence[str],
    out: Path,
    *,
    batch: int | Literal["any"] | None = None,
    layout: Layout | None = None,
    normalise: bool = False,
    images: Path | None = None,
    folder_names: Sequence[str] | None = None,
    formats: Mapping[str, Format] = FORMATS,
    report: Report = silent,
) -> list[Exported]:
    """Writes a trained network as a file of each format into a folder, and returns what was written.

    A file gets its name only after it has been loaded in its runtime in a fresh process and has computed what PyTorch
    computes (export/parity.py). preprocessing: how its images are prepared; its size is the input's. classes: their
    names. batch: the number of images that a file takes at once; None is any number where the format can, and 1 where
    it cannot. layout: of the images; None is the format's own. normalise: whether a file takes pixels from 0 to 255.
    images: a folder of labelled images, on which the accuracies are compared too. folder_names: the names that the
    class folders must have, if it is known. Raises UserError if a format is unknown or not installed, if an operation
    cannot be exported, or if the folder holds another network's files, and ParityError if a file computes something
    else.
    """
    chosen = chosen_formats(to, formats, batch)
    job = _Job(network, preprocessing, tuple(classes), out, batch, layout, normalise)
    reference = Reference(network, preprocessing, normalise)

    def write(format: Format, program: Program, path: Path) -> Parity:
        format.write(program, path)
        return check(path, format, reference, program.metadata, images=images, class_names=folder_names, report=report)

    def entry(parity: Parity) -> dict[str, Any]:
        return {"dtype": "float32", "parity": parity.record()}

    exported = []
    for done, format in enumerate(chosen):
        report("export", done, len(chosen))
        exported.append(Exported(format.name, *job.write(format, "", {}, write, entry)))
    report("export", len(chosen), len(chosen))
    return exported


def export_int8(
    network: Network,
    preprocessing: Preprocessing,
    classes: Sequence[str],
    to: Sequence[str],
    out: Path,
    settings: Int8,
    *,
    batch: int | Literal["any"] | None = None,
    layout: Layout | None = None,
    normalise: bool = False,
    formats: Mapping[str, Format] = FORMATS,
    report: Report = silent,
) -> list[ExportedInt8]:
    """Writes a trained network as an int8 file of each format into a folder, and returns what was written.

    A file gets its name, such as net.int8.onnx, only after it has passed the check of export/int8.py. settings: the
    images that calibrate, the labelled ones, and what may be lost. The others are those of `export_network`. Raises
    what `export_network` raises, ConfigError if a format has no int8 files, and DropError if a file loses more accuracy
    than `settings.max_drop`.
    """
    chosen = chosen_formats(to, formats, batch, int8=True, weight_bits=settings.weight_bits)
    job = _Job(network, preprocessing, tuple(classes), out, batch, layout, normalise)
    reference = Reference(network, preprocessing, normalise)
    quantisation = Quantisation(network, preprocessing, settings, reference, report)
    about = {
        "quantisation": {
            "dtype": "int8",
            "weight_bits": settings.weight_bits,
            "calibration_images": len(settings.calibration.pixels),
            "float32_layers": list(quantisation.kept),
        }
    }

    def write(format: Format, program: Program, path: Path) -> Int8Check:
        return write_and_check(quantisation, format, program, path, report)

    def entry(check: Int8Check) -> dict[str, Any]:
        return {"dtype": "int8", **check.record()}

    exported = []
    for done, format in enumerate(chosen):
        report("export int8", done, len(chosen))
        exported.append(ExportedInt8(format.name, *job.write(format, ".int8", about, write, entry)))
    report("export int8", len(chosen), len(chosen))
    return exported


def chosen_formats(
    to: Sequence[str], formats: Mapping[str, Format], batch: int | Literal["any"] | None, int8: bool = False,
    weight_bits: int = WEIGHT_BITS,
) -> list[Format]:  # fmt: skip
    """Returns the formats of these names. Raises UserError if one is unknown, not installed, or cannot do what is
    asked."""
    chosen = [_format(name, formats) for name in to]
    for format in chosen:
        if batch == "any" and not format.any_batch:
            found = f"a file of {format.name} takes a fixed number of images"
            raise ConfigError("batch", found, "a number, such as 1")
        if int8 and format.int8 is None:
            able = ", ".join(name for name, other in formats.items() if other.int8 is not None)
            raise ConfigError("to", f"{format.name} has no int8 files", able)
        if int8 and format.int8 is not None and weight_bits not in format.int8.weight_bits:
            found = f"got {shown(weight_bits)}, but weights of {format.name} have"
            found += f" {' or '.join(map(str, format.int8.weight_bits))} bits"
            raise ConfigError("weight_bits", found, _with_bits(weight_bits, formats))
        format.refuse_if_missing(int8)
    return chosen


def _with_bits(weight_bits: int, formats: Mapping[str, Format]) -> str:
    """Returns what is accepted in place of so many bits, in words: the formats that have them, or other numbers."""
    able = [name for name, other in formats.items() if other.int8 is not None and weight_bits in other.int8.weight_bits]
    if able:
        return f"{WEIGHT_BITS}, or another format: {', '.join(able)}"
    return " or ".join(map(str, LARGEST_CODE))


Result = TypeVar("Result")


class _Job:
    """Writes the files of one network into a folder, and records them in its export.json."""

    def __init__(
        self, network: Network, preprocessing: Preprocessing, classes: tuple[str, ...], out: Path,
        batch: int | Literal["any"] | None, layout: Layout | None, normalise: bool,
    ):  # fmt: skip
        make_folder(out, "out")
        name = re.sub(r"[^\w.-]+", "_", network.architecture.name).strip("._")
        self._name = "network" if name in ("", UNNAMED) else name
        self._network, self._preprocessing, self._classes = network, preprocessing, classes
        self._out, self._batch, self._layout, self._normalise = out, batch, layout, normalise
        self._record = read_record(out)
        self._programs: dict[tuple[object, ...], Program] = {}

    def write(
        self, format: Format, kind: str, about: dict[str, Any],
        write: Callable[[Format, Program, Path], Result], entry: Callable[[Result], dict[str, Any]],
    ) -> tuple[Path, int, Result]:  # fmt: skip
        """Lets `write` write and check a file, moves it to its place and records it. Returns its path, its size in
        bytes and what `write` returned.

        kind: stands between the network's name and the format's ending. about: what the file says about itself beside
        `metadata_of`. entry: returns what export.json says of the check.
        """
        program = self._program(format, about)
        _refuse_other_network(self._record, program.metadata, self._out)
        with writing(self._out), tempfile.TemporaryDirectory(
            prefix=".export-", suffix=".tmp", dir=self._out
        ) as staging:  # fmt: skip
            path = Path(staging) / f"{self._name}{kind}{format.suffix}"
            result = write(format, program, path)
            files = _move(Path(staging), self._out, path.name)
        size = sum(int(file["bytes"]) for file in files)
        key = format.name + kind.replace(".", "_")
        design = self._network.architecture
        self._record = _with_entry(self._record, key, format, bool(kind), program, files, entry(result), design)
        write_atomically(self._out / RECORD, json.dumps(self._record, indent=1, ensure_ascii=False) + "\n")
        return self._out / path.name, size, result

    def _program(self, format: Format, about: dict[str, Any]) -> Program:
        """Returns the network's graph for a format."""
        layout = self._layout or format.layout
        batch = {None: 0 if format.any_batch else 1, "any": 0}.get(self._batch, self._batch)  # type: ignore[arg-type]
        assert isinstance(batch, int)
        key = (batch, layout, format.pools_keep_dims)
        if key not in self._programs:
            shape = (self._network, self._name, self._preprocessing)
            metadata = metadata_of(*shape, self._classes, batch, layout, self._normalise) | about
            self._programs[key] = make_program(
                *shape, batch, layout, self._normalise, metadata, pools_keep_dims=format.pools_keep_dims
            )
        return self._programs[key]


def _format(name: str, formats: Mapping[str, Format]) -> Format:
    """Returns the format of this name. Raises ConfigError."""
    if name not in formats:
        raise ConfigError("to", f"got '{name[:80]}'", ", ".join(formats), suggestion=nearest(name, formats))
    return formats[name]


def read_record(out: Path) -> dict[str, Any]:
    """Returns the content of the folder's export.json, to which another call may have added files. Raises ConfigError
    if it is damaged."""
    path = out / RECORD
    if not path.exists():
        return {"format": RECORD_FORMAT, "files": {}}
    record = read_json(path, "an export.json")
    if not isinstance(record, dict) or record.get("format") != RECORD_FORMAT:
        raise ConfigError(str(path), "is of another format", RECORD_FORMAT, "choose another folder")
    files = record.get("files")
    if not isinstance(files, dict):
        raise ConfigError(f"{path}: files", f"got {shown(files)}", "an entry for each format", "export again")
    for name, entry in files.items():
        if not _is_entry(entry):
            raise ConfigError(f"{path}: files.{name}", "is damaged", "what export has written", "export again")
    return record


def _is_entry(entry: object) -> bool:
    """Returns whether a part of export.json has what its readers use."""
    if not isinstance(entry, dict) or not isinstance(entry.get("file"), str):
        return False
    parts, about = entry.get("files"), entry.get("input")
    if not isinstance(parts, list) or not isinstance(about, dict):
        return False
    shape = about.get("shape")
    return (
        all(isinstance(part, dict) and {"file", "sha256"} <= part.keys() for part in parts)
        and isinstance(shape, list)
        and len(shape) == 4
    )


def _refuse_other_network(record: Mapping[str, Any], metadata: Mapping[str, Any], out: Path) -> None:
    """Raises UserError if a folder holds the files of another network."""
    own = metadata["weights_sha256"]
    if record.get("weights_sha256", own) != own:
        found = f"holds the files of other weights, of the network '{record.get('network')}'"
        raise UserError(str(out), found, remedy="choose another folder, or delete that one")


def _move(staging: Path, out: Path, main: str) -> list[dict[str, Any]]:
    """Moves all files of a folder into another one, `main` last, and returns a record of each."""
    records = []
    for path in sorted(staging.iterdir(), key=lambda path: (path.name == main, path.name)):
        target = out / path.name
        if target.is_dir():
            shutil.rmtree(target)
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            content = file.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            records.append({"file": str(file.relative_to(staging)), "bytes": len(content), "sha256": digest})
        os.replace(path, target)
    fsync_folder(out)
    return records


def _with_entry(
    record: dict[str, Any], key: str, format: Format, int8: bool, program: Program, files: list[dict[str, Any]],
    found: dict[str, Any], architecture: Design,
) -> dict[str, Any]:  # fmt: skip
    """Returns the record with a further file. found: what its check showed."""
    about = program.metadata
    quantiser = format.int8.packages if int8 and format.int8 is not None else ()
    entry = {
        "format": format.name,
        "file": files[-1]["file"].partition("/")[0],  # of a folder, its name
        "files": files,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "input": about["input"],
        "versions": versions_of(list(dict.fromkeys(["proxylessnas", "torch", *format.packages, *quantiser]))),
        **found,
    }
    shared = {key: about[key] for key in ("network", "weights_sha256", "preprocessing", "output", "classes")}
    shared |= {"architecture": json.loads(architecture.to_json()), "layers": list(program.layers.places)}
    return {"format": RECORD_FORMAT, **shared, "files": record["files"] | {key: entry}}
