"""The latency table: milliseconds per layer, with the provenance of the measurement. YAML, one line per entry."""

from __future__ import annotations

import difflib
import hashlib
import os
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from engine.config import Section, load_config, validate
from engine.errors import UserError
from engine.runs import write_atomically
from latency.config import MeasureConfig
from latency.device import Device
from supernet.catalogue import SkipSpec
from supernet.cost import Cost
from supernet.space import Layer, Space


class TableError(UserError):
    """A latency table that cannot be used as asked."""


class Entry(Section):
    """Milliseconds of one layer: the whole edge including its residual add, eval mode, inference mode."""

    median_ms: float = Field(ge=0)
    iqr_ms: float | None = Field(None, ge=0)
    """Interquartile range; null where the source does not tell."""
    n: int = Field(ge=1)
    """Timings behind the median."""


class Runtime(Section):
    name: str
    version: str


class LatencyTable(Section):
    """A latency table file. `entries` is keyed by `str(layer)`, e.g. `mbconv_k3_e6+residual 28x28x40->40 s1`."""

    format: Literal["proxylessnas/latency-table@1"] = "proxylessnas/latency-table@1"
    unit: Literal["ms"] = "ms"
    device: Device
    runtime: Runtime
    threads: int | None = Field(None, ge=1)
    batch: int = Field(ge=1)
    dtype: str
    memory_format: str | None = None
    activation: Literal["relu6", "relu", "hswish"]
    input_size: int = Field(ge=1)
    date: str
    how: str
    """How the numbers were made, in words."""
    source: str | None = None
    """Where an imported table comes from."""
    entries: dict[str, Entry] = Field(min_length=1)
    calibration: dict[str, Any] | None = None
    verification: dict[str, Any] | None = None

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Raises ConfigError with the key at fault; the file's owner measured or imported it."""
        return validate(cls, load_config(path), str(path))

    def save(self, path: Path) -> None:
        """Write atomically; creates the folder. TableError where that is impossible."""
        header = self.model_dump(mode="json", exclude={"entries"}, exclude_none=True)
        lines = [yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=110), "entries:\n"]
        for key, entry in self.entries.items():
            values = ", ".join(f"{k}: {_number(v)}" for k, v in entry.model_dump(exclude_none=True).items())
            lines.append(f"  {key}: {{{values}}}\n")
        prepare_table_file(path)
        write_atomically(path, "".join(lines))

    def price(self, layer: Layer) -> float:
        """Milliseconds of a layer; `skip` is 0 by definition. KeyError if the table lacks it: see `check` first."""
        return 0.0 if isinstance(layer.spec, SkipSpec) else self.entries[str(layer)].median_ms

    def missing(self, space: Space) -> list[Layer]:
        """Layers of the space that have no entry."""
        layers = (layer for layer in space.all_layers if not isinstance(layer.spec, SkipSpec))
        return [layer for layer in layers if str(layer) not in self.entries]

    def check(self, space: Space, measure: MeasureConfig, where: str, command: str) -> None:
        """TableError unless this table was made for `space` and `measure`. where: its file. command: what makes it."""
        own: dict[str, tuple[object, object, str]] = {
            "input_size": (self.input_size, space.config.input_size, "space.input_size"),
            "activation": (self.activation, space.config.activation, "space.activation"),
            "batch": (self.batch, measure.batch, "measure.batch"),
        }
        if measure.device != "external":
            kind = "gpu" if measure.device == "cuda" else "cpu"
            own["device.kind"] = (self.device.kind, kind, "measure.device")
            own["dtype"] = (self.dtype, measure.dtype, "measure.dtype")
            own["memory_format"] = (self.memory_format, memory_format_name(measure), "measure.channels_last")
            if kind == "cpu":
                own["threads"] = (self.threads, measure.threads, "measure.threads")
        for key, (found, expected, setting) in own.items():
            if found != expected:
                raise TableError(
                    f"{where}: {key} is {found}, but the search has {expected} ({setting}); make a table "
                    f"for it: {command}"
                )
        if missing := self.missing(space):
            first, more = missing[0], f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            near = difflib.get_close_matches(str(first), self.entries, n=1)
            hint = f" The nearest entry is '{near[0]}'." if near else ""
            raise TableError(
                f"{where}: no entry '{first}', the op {first.spec} on a {first.size}x{first.size} input with "
                f"{first.c_in} channels{more}.{hint} Make a table for this space: {command}"
            )

    def cost(self, space: Space) -> Cost:
        """Entries as matrices over the space's paths, in ms."""
        return Cost.of_space(space, self.price)


def prepare_table_file(path: Path) -> None:
    """Create the folder of a table to be, before minutes of measuring. TableError where no file can be written."""
    if path.is_dir():
        raise TableError(f"--out {path}: is a folder; expected the table's file, e.g. {path / 'table.yaml'}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TableError(f"--out {path}: its folder cannot be made ({error.strerror}); choose another place") from None
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise TableError(f"--out {path}: {path.parent} is not writable; choose another place")


def memory_format_name(measure: MeasureConfig) -> str:
    return "channels_last" if measure.channels_last else "contiguous"


def file_hash(path: Path) -> str:
    """sha256 of a table file: its identity in a run's config.yaml."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"
