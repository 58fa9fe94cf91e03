"""Exports a network to several formats: writes each file, checks it, and records it in export.json."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from engine.data import Preprocessing
from engine.errors import ConfigError, UserError
from engine.files import fsync_folder, make_folder, read_json, write_atomically, writing
from engine.progress import Report, silent
from export.formats import FORMATS
from export.formats.base import Format, versions_of
from export.parity import Parity, Reference, check
from export.program import Layout, Program, make_program, metadata_of
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
    chosen = [_format(name, formats) for name in to]
    for format in chosen:
        if batch == "any" and not format.any_batch:
            found = f"a file of {format.name} takes a fixed number of images"
            raise ConfigError("batch", found, "a number, such as 1")
        format.refuse_if_missing()
    make_folder(out, "out")
    name = re.sub(r"[^\w.-]+", "_", network.architecture.name).strip("._")
    name = "network" if name in ("", UNNAMED) else name
    record = read_record(out)
    reference = Reference(network, preprocessing, normalise)
    programs: dict[tuple[object, ...], Program] = {}
    exported = []
    for done, format in enumerate(chosen):
        report("export", done, len(chosen))
        own_layout = layout or format.layout
        images_at_once = {None: 0 if format.any_batch else 1, "any": 0}.get(batch, batch)  # type: ignore[arg-type]
        assert isinstance(images_at_once, int)
        key = (images_at_once, own_layout, format.pools_keep_dims)
        if key not in programs:
            metadata = metadata_of(network, name, preprocessing, tuple(classes), images_at_once, own_layout, normalise)
            programs[key] = make_program(
                network, name, preprocessing, images_at_once, own_layout, normalise, metadata,
                pools_keep_dims=format.pools_keep_dims,
            )  # fmt: skip
        program = programs[key]
        _refuse_other_network(record, program.metadata, out)
        with writing(out), tempfile.TemporaryDirectory(prefix=".export-", suffix=".tmp", dir=out) as staging:
            path = Path(staging) / f"{name}{format.suffix}"
            format.write(program, path)
            parity = check(
                path, format, reference, program.metadata, images=images, class_names=folder_names, report=report
            )
            files = _move(Path(staging), out, path.name)
        size = sum(int(file["bytes"]) for file in files)
        record = _with_entry(record, format, program, files, parity, network.architecture)
        write_atomically(out / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        exported.append(Exported(format.name, out / path.name, size, parity))
    report("export", len(chosen), len(chosen))
    return exported


def _format(name: str, formats: Mapping[str, Format]) -> Format:
    """Returns the format of this name. Raises ConfigError."""
    import difflib

    if name not in formats:
        near = difflib.get_close_matches(name, formats, n=1)
        raise ConfigError("to", f"got '{name[:80]}'", ", ".join(formats), suggestion=near[0] if near else "")
    return formats[name]


def read_record(out: Path) -> dict[str, Any]:
    """Returns the content of the folder's export.json, to which another call may have added files. Raises ConfigError
    if it is damaged."""
    path = out / RECORD
    if not path.exists():
        return {"format": RECORD_FORMAT, "files": {}}
    record = read_json(path, "an export.json")
    if not isinstance(record, dict) or record.get("format") != RECORD_FORMAT or not isinstance(record["files"], dict):
        raise ConfigError(str(path), "is of another format", RECORD_FORMAT, "choose another folder")
    return record


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
    record: dict[str, Any],
    format: Format,
    program: Program,
    files: list[dict[str, Any]],
    parity: Parity,
    architecture: Design,
) -> dict[str, Any]:
    """Returns the record with a further file."""
    about = program.metadata
    entry = {
        "file": files[-1]["file"].partition("/")[0],  # of a folder, its name
        "files": files,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "input": about["input"],
        "versions": versions_of(["proxylessnas", "torch", *format.packages]),
        "parity": parity.record(),
    }
    shared = {key: about[key] for key in ("network", "weights_sha256", "preprocessing", "output", "classes")}
    shared |= {"architecture": json.loads(architecture.to_json()), "layers": list(program.layers.places)}
    return {"format": RECORD_FORMAT, **shared, "files": record["files"] | {format.name: entry}}
