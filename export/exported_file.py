"""Reads what export.json says of an exported file."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ConfigError, explain
from export.formats import FORMATS
from export.formats.base import Format
from export.job import RECORD, read_record
from latency.on_device.manifest import sha256
from supernet.design import Design
from supernet.design_file import read_design


@dataclass(frozen=True)
class ExportedFile:
    """A file with what the export.json beside it says of it."""

    path: Path
    format: Format
    entry: Mapping[str, Any]
    """Its part of export.json; empty if that does not know it."""
    design: Design | None
    places: tuple[str, ...]
    """The place of each layer that its operations are named after."""

    @classmethod
    def read(cls, path: Path, allow_modules: Collection[str] = ()) -> ExportedFile:
        """Reads what is known of a file. Raises ConfigError if it has the name of no format, is missing, or has been
        changed since it was exported."""
        endings = {format.suffix: format for format in FORMATS.values()}
        found = [format for suffix, format in endings.items() if path.name.endswith(suffix)]
        if not path.exists():
            raise ConfigError(str(path), "no such file", "an exported file, such as net.onnx")
        if not found:
            raise ConfigError(str(path), "is no exported file", f"a name that ends in {', '.join(endings)}")
        format = max(found, key=lambda format: len(format.suffix))
        record = read_record(path.parent) if (path.parent / RECORD).exists() else {"files": {}}
        entries = [entry for entry in record["files"].values() if entry["file"] == path.name]
        if not entries:
            return cls(path, format, {}, None, ())
        for part in entries[0]["files"]:
            own = path.parent / part["file"]
            if not own.is_file() or sha256(own) != part["sha256"]:
                changed = f"is not the file that {RECORD} records"
                raise ConfigError(str(own), changed, "the exported file", "export again")
        design = None
        if "architecture" in record:
            with explain(f"{path.parent / RECORD}: architecture"):
                design = read_design(json.dumps(record["architecture"]), allow_modules=allow_modules)
        return cls(path, format, entries[0], design, tuple(record.get("layers", ())))

    @property
    def dtype(self) -> str:
        """The precision of its weights and activations."""
        return str(self.entry.get("dtype", "float32"))

    @property
    def digest(self) -> str:
        """The sha256 of the file; of a folder, that of its largest file."""
        path = self.path
        if path.is_dir():
            path = max((part for part in path.rglob("*") if part.is_file()), key=lambda part: part.stat().st_size)
        return sha256(path)

    def images_at_once(self, wanted: int | None, shape: Sequence[Any] = ()) -> int:
        """Returns the batch at which it is timed. shape: of its input, as the file itself states it; () is that in
        export.json. Raises ConfigError if it cannot take so many images."""
        fixed = (shape or (self.entry["input"]["shape"] if self.entry else ["batch"]))[0]
        if isinstance(fixed, int) and wanted not in (None, fixed):
            raise ConfigError("batch", f"got {wanted}, but {self.path.name} takes {fixed} images at once")
        return fixed if isinstance(fixed, int) else wanted or 1
