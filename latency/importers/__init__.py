"""Imports tables that others measured, in their formats. A new format is a module with `recognise` and `translate`, and
an entry in IMPORTERS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.config import read_mapping
from engine.wording import shown
from latency.existing import save_table
from latency.importers import ofa, official, tunas
from latency.importers.source import Imported, LeftOut, SourceFile, in_words
from latency.table import LatencyTable, TableError

__all__ = [
    "IMPORTERS",
    "Imported",
    "Importer",
    "LeftOut",
    "import_official",
    "import_table",
    "import_to_file",
    "in_words",
]


@dataclass(frozen=True)
class Importer:
    """A format. keys: its typical keys, for errors. recognise: returns a key of the records that shows it, or None.
    translate: makes the table."""

    keys: str
    recognise: Callable[[dict[str, object]], str | None]
    translate: Callable[[SourceFile], Imported]


IMPORTERS = {  # in this order, since a once-for-all file would pass as an official one, too
    "tunas": Importer("bias_ms, first_block_sepconv_ms and layers", tunas.recognise, tunas.translate),
    "ofa": Importer("expanded_conv-input:...-se:0-hs:0", ofa.recognise, ofa.translate),
    "official": Importer("expanded_conv-input:...-idskip:0", official.recognise, official.translate),
}


def import_table(path: Path, *, device_name: str, format: str | None = None, activation: str | None = None) -> Imported:
    """Returns the table of another project's file, and the records that were left out of it.

    format: a name of IMPORTERS; None: the one that its keys show. activation: which entries to take, if the file has
    several. device_name: the device that the file's author measured. Raises ConfigError if the file cannot be read, and
    TableError that names the key at fault.
    """
    records = read_mapping(path, "a latency table")
    if not records:
        raise TableError(str(path), "is empty", f"a latency table of {_formats()}")
    shown_by = {name: key for name, importer in IMPORTERS.items() if (key := importer.recognise(records))}
    if not shown_by:
        first = next(iter(records))
        if first == "format":
            raise TableError(
                str(path),
                f"'format': this file is ours already, {shown(str(records[first]))}",
                remedy="a table is used as it is, results of a device kit become one by proxyless-nas kit import",
            )
        raise TableError(str(path), f"{shown(first)} is no key of a known format", _formats(), "convert the file")
    seen, key = next(iter(shown_by.items()))
    if format is not None and format != seen:
        raise TableError(str(path), f"key '{key}' is of the format {seen}, not {format}", remedy=f"use --format {seen}")
    return IMPORTERS[seen].translate(SourceFile(path, records, device_name, activation))


def import_to_file(
    source: Path, out: Path, *, device_name: str, format: str | None = None, activation: str | None = None
) -> Imported:
    """Imports a table as `import_table` does, writes it to `out`, and returns it with what was left out.

    Raises TableError, too, if `out` cannot be written or holds anything but an earlier import of this file.
    """
    imported = import_table(source, device_name=device_name, format=format, activation=activation)
    save_table(imported.table, out)
    return imported


def import_official(path: Path, *, device_name: str) -> LatencyTable:
    """Returns the table of a file in the official ProxylessNAS key format. Raises the errors of `import_table`."""
    return import_table(path, device_name=device_name, format="official").table


def _formats() -> str:
    """Returns the known formats in words."""
    return "; ".join(f"{name} ({importer.keys})" for name, importer in IMPORTERS.items())
