"""Protects a table's file that exists already: decides what may replace it, and finds a free file name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.errors import UserError
from latency.build import FLOAT32_MS, columns_of
from latency.config import MeasureConfig
from latency.device import Device, this_device
from latency.plan import timed_layers
from latency.table import LatencyTable, TableError, memory_format_name, prepare_table_file
from supernet.space import Space

MEASURED_COLUMNS = frozenset({"macs", "params", "weight_bytes", "energy_mj", FLOAT32_MS})
"""Columns that a measurement computes anew."""


@dataclass(frozen=True)
class Identity:
    """The parts of a table that stay the same if it is measured, fitted or imported again."""

    source: str | None
    """The file from which the table was made; None for a table that was measured here."""
    device: Device
    settings: tuple[tuple[str, object], ...]
    keys: frozenset[str]
    """The keys of the entries."""
    columns: frozenset[str]

    @classmethod
    def of_table(cls, table: LatencyTable) -> Identity:
        """Returns the identity of a table that exists."""
        return cls(
            None if table.source is None else table.source.partition(" sha256 ")[0],
            table.device,
            _settings(
                table.runtime.name,
                table.threads,
                table.batch,
                table.dtype,
                table.memory_format,
                table.activation,
                table.input_size,
            ),
            frozenset(table.entries),
            frozenset(table.columns) | MEASURED_COLUMNS,
        )

    @classmethod
    def of_measuring(cls, space: Space, measure: MeasureConfig) -> Identity:
        """Returns the identity of the table that measuring `space` here will make. Raises ConfigError if the device is
        not here."""
        device = this_device("cuda" if measure.device == "cuda" else "cpu")
        return cls(
            None,
            device,
            _settings(
                measure.runtime,
                measure.threads if device.kind != "gpu" else None,
                measure.batch,
                measure.dtype,
                memory_format_name(measure),
                space.config.activation,
                space.config.input_size,
            ),
            frozenset(str(layer) for layer in timed_layers(space)),
            frozenset(columns_of(space, measure)) | MEASURED_COLUMNS,
        )

    def lost_by(self, other: Identity) -> str | None:
        """Returns in words what a file with this identity has and a file with the other one lacks; None if they are the
        same."""
        if self.source != other.source:
            return f"the table of {self.device.name}, made from {self.source}" if self.source else "a measured table"
        if self.device.fingerprint != other.device.fingerprint:
            return f"a table of another device ({self.device.name}, {self.device.cores} cores)"
        for (name, own), (_, its) in zip(self.settings, other.settings, strict=True):
            if own != its:
                return f"a table with {name} {own}, where the new one has {its}"
        if self.keys != other.keys:
            odd = min(self.keys - other.keys, default=None) or min(other.keys - self.keys)
            return f"a table of another space ('{odd}' is in one of the two alone)"
        if more := sorted(self.columns - other.columns):
            return f"a table with a column '{more[0]}' of your own"
        return None


def _settings(*values: object) -> tuple[tuple[str, object], ...]:
    """Returns the settings of an Identity with their names in a table's header."""
    names = ("runtime", "threads", "batch", "dtype", "memory_format", "activation", "input_size")
    return tuple(zip(names, values, strict=True))


def free_file(path: Path) -> Path:
    """Returns a name beside `path` that no file has: `table-2.yaml` for `table.yaml`."""
    k = 2
    while (free := path.with_name(f"{path.stem}-{k}{path.suffix}")).exists() or free.is_symlink():
        k += 1
    return free


def save_table(table: LatencyTable, path: Path) -> None:
    """Writes a table that was made anew. Raises TableError, and leaves the file alone, if `path` holds anything but an
    earlier version of the same table."""
    prepare_table_file(path)
    refuse_to_replace(path, Identity.of_table(table))
    table.save(path)


def refuse_to_replace(path: Path, new: Identity) -> None:
    """Raises TableError if `path` holds anything but an earlier version of the same table, which may be replaced."""
    if not path.exists():
        return
    elsewhere = f"choose another file, e.g. --out {free_file(path)}, or delete this one"
    try:
        table = LatencyTable.load(path)
    except UserError as error:
        raise TableError(
            f"--out {path}", f"exists and is no table that could be made again ({error})", remedy=f"{elsewhere}"
        ) from None
    if lost := Identity.of_table(table).lost_by(new):
        raise TableError(f"--out {path}", f"holds {lost}, which would be lost", remedy=elsewhere)
