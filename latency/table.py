"""Defines the latency table: milliseconds per layer, and how they were measured. Its file is YAML, a line per entry."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from engine.config import Section, load_config, validate
from engine.errors import Action, ConfigError, InvalidError, UserError
from engine.files import write_atomically
from engine.nearest import nearest
from engine.yaml_dialect import Dumper
from latency.config import EXPORTED, MeasureConfig
from latency.device import Device
from supernet.cost import Cost
from supernet.space import Layer, Space


class TableError(UserError):
    """Raised if a latency table cannot be used as asked."""


class MissingEntryError(TableError):
    """Raised if a table has no entry for a layer of the space."""


class Entry(Section):
    """The milliseconds of one layer, in eval mode and inference mode. A layer on an edge includes the residual add."""

    median_ms: float = Field(ge=0)
    """As measured, in the way that `method` of the table names."""
    iqr_ms: float | None = Field(None, ge=0)
    """The interquartile range; null if it is not known."""
    n: int | None = Field(None, ge=1)
    """The number of timings behind the median; null if it is not known."""
    calibrated_ms: float | None = Field(None, ge=0)
    """Corrected so that sums predict whole networks (latency/calibration.py). It takes the place of the median."""
    interpolated: bool = False
    """Whether it was predicted from other entries of its op family (latency/interpolation.py), not measured."""

    @property
    def ms(self) -> float:
        """The milliseconds that the layer adds to a network's latency."""
        return self.median_ms if self.calibrated_ms is None else self.calibrated_ms


class UsedRuntime(Section):
    """The runtime that ran the networks of a table, e.g. name onnxruntime, version 1.22.0."""

    name: str
    version: str

    @classmethod
    def parsed(cls, text: str) -> UsedRuntime:
        """Returns the runtime that a text such as 'tflite 2.16' names; without a version, that is 'unknown'."""
        name, _, version = text.partition(" ")
        return cls(name=name, version=version or "unknown")


class Column(Section):
    """Another additive quantity of the same layers, e.g. energy: one number per layer, with the keys of `entries`."""

    unit: str
    how: str
    constant: float = 0.0
    """Added once per network."""
    values: dict[str, Annotated[float, Field(ge=0)]] = Field(min_length=1)


class Drawn(Section):
    """The networks of a calibration, which latency/plan.py draws again from their number and the seed."""

    networks: int = Field(ge=1)
    seed: int


class UsedPrior(Section):
    """The prior of a table of whole networks (latency/prior.py)."""

    source: str
    """The file of another device's table, or `macs`."""
    device: str | None = None
    """The name of that device."""
    sha256: str | None = None
    """The hash of that table's numbers."""
    scale: float = Field(gt=0)
    """Milliseconds of the timed networks per millisecond of the prior, or per MAC."""


class Calibration(Section):
    """The fit of `calibrated_ms` and `constant_ms` (latency/calibration.py)."""

    date: str
    networks: int = Field(ge=1)
    strength: float = Field(gt=0)
    """The strength of the pull towards the measured entries, chosen by cross-validation; in a table of whole networks,
    towards the milliseconds of like layers, chosen by their likelihood (latency/shrinkage.py)."""
    cross_validation_percent: float = Field(ge=0)
    """RMS relative error on networks left out of the fit."""
    seed: int
    """The seed of the plan from which the networks were drawn; verification avoids them."""
    history: tuple[Drawn, ...] = ()
    """The networks of the calibrations that this one started from, oldest first; verification avoids them, too."""
    prior: UsedPrior | None = None
    """The prior of a table of whole networks; null: a guess from shapes."""

    @property
    def drawn(self) -> tuple[Drawn, ...]:
        """The networks of every calibration that changed the entries, oldest first."""
        return (*self.history, Drawn(networks=self.networks, seed=self.seed))


class Scores(Section):
    """The errors of predictions of measured networks. Rank correlations are null if all predictions are equal."""

    mape_percent: float = Field(ge=0)
    rmse_ms: float = Field(ge=0)
    spearman: float | None = Field(None, ge=-1, le=1)
    kendall: float | None = Field(None, ge=-1, le=1)
    bias_percent: float
    """The mean of (predicted - measured) / measured."""
    mape_percent_thirds: tuple[float, float, float]
    """The MAPE among the fastest, middle and slowest third of the networks."""


class Verification(Section):
    """The errors of the table's predictions on fresh whole networks (latency/verification.py)."""

    date: str
    networks: int = Field(ge=3)
    calibrated_by: int = Field(0, ge=0)
    """How many of them had calibrated the table: more than 0 only if the space has too few others."""
    measured_range_ms: tuple[float, float]
    noise_mape_percent: float = Field(ge=0)
    """The MAPE of a repeated measurement of the same networks."""
    noise_spearman: float | None = None
    table: Scores
    raw: Scores
    """The errors of the entries before calibration."""
    constant: Scores
    """The errors of a plain predictor: one number for every network, fitted on these networks."""
    macs: Scores
    """The errors of another plain predictor: linear in MACs, fitted on these networks."""
    holds: bool
    """Whether the table's MAPE is at most max(3 %, 2x noise), overall and in each third."""
    measured_ms: tuple[float, ...]
    predicted_ms: tuple[float, ...]
    """The predictions, in the order of `measured_ms`."""


Method = Literal["in_context", "isolated", "whole_networks", "imported"]


class LatencyTable(Section):
    """A latency table file. `entries` is keyed by `str(layer)`, e.g. `mbconv_k3_e6+residual 28x28x40->40 s1`.

    A key may end in ` @stage1.2`, the name of an edge: that entry is for this edge alone and goes before the other.
    """

    format: Literal["proxylessnas/latency-table@1"] = "proxylessnas/latency-table@1"
    unit: Literal["ms"] = "ms"
    device: Device
    runtime: UsedRuntime
    threads: int | None = Field(None, ge=1)
    batch: int = Field(ge=1)
    dtype: str
    quantiser: str | None = None
    """The program that made the int8 models, with its version; null for another precision."""
    memory_format: str | None = None
    activation: Literal["relu6", "relu", "hswish"]
    input_size: int = Field(ge=1)
    date: str
    method: Method
    """in_context: layers timed inside running networks. isolated: ops alone. whole_networks: no op was timed;
    `median_ms` is guessed from shapes, or a prior's entry, scaled, and `calibrated_ms` fitted to whole networks.
    imported: see `how`."""
    how: str
    """A sentence on how the numbers were made."""
    source: str | None = None
    """The file from which an imported or fitted table was made; null if it was measured here."""
    constant_ms: float = 0.0
    """Added once per network."""
    calibration: Calibration | None = None
    verification: Verification | None = None
    columns: dict[str, Column] = Field(default_factory=dict)
    """Other additive quantities, by name; a limit's `metric` may name one."""
    entries: dict[str, Entry] = Field(min_length=1)

    @model_validator(mode="after")
    def constant_is_calibrated(self) -> Self:
        """Raises ValueError if entries are calibrated without a record of the calibration, or the reverse."""
        if any(entry.calibrated_ms is not None for entry in self.entries.values()) != (self.calibration is not None):
            found = "must be present exactly where entries have calibrated_ms"
            raise InvalidError("calibration", found, remedy="measure again")
        return self

    @property
    def sha256(self) -> str:
        """The hash of everything but the verification: the identity of the numbers in a run's config.yaml."""
        numbers = _without_later_keys(self.model_dump(mode="json", exclude={"verification"}))
        return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()

    @classmethod
    def load(cls, path: Path | str) -> LatencyTable:
        """Reads a table's file. Raises ConfigError that names the key at fault."""
        path = Path(path)
        content = load_config(path)
        known, found = cls.model_fields["format"].default, content.get("format")
        if isinstance(found, str) and found.startswith(known.split("@")[0]) and found != known:
            raise ConfigError(
                f"{path}: format",
                f"got {found!r}, which another version wrote; this one reads {known!r}",
                remedy="measure the table again with proxyless-nas measure, or import it again",
            )
        return validate(cls, content, str(path))

    def save(self, path: Path | str) -> None:
        """Writes the table atomically, after creating the folder. Raises TableError if that is impossible."""
        path = Path(path)
        header = _rounded(_without_later_keys(self.model_dump(mode="json", exclude={"entries"}, exclude_none=True)))
        columns = {"columns": header.pop("columns")}
        lines = [
            yaml.dump(header, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None),
            yaml.dump(columns, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110) if self.columns else "",
            "entries:\n",
        ]
        for key, entry in self.entries.items():
            values = ", ".join(f"{k}: {_number(v)}" for k, v in entry.model_dump(exclude_defaults=True).items())
            lines.append(f"  {key}: {{{values}}}\n")
        prepare_table_file(path)
        write_atomically(path, "".join(lines))

    def entry(self, layer: Layer, place: str = "") -> Entry | None:
        """Returns the entry of a layer on the edge named `place`; None if the table lacks it. `skip` never has one."""
        return self.entries.get(f"{layer} @{place}") or self.entries.get(str(layer))

    def price(self, layer: Layer, place: str = "") -> float:
        """Returns the milliseconds of a layer on the edge named `place`; `skip` is 0 by definition. Raises KeyError if
        the table lacks it; `check` raises TableError before."""
        if layer.is_skip:
            return 0.0
        entry = self.entry(layer, place)
        if entry is None:
            raise KeyError(str(layer))
        return entry.ms

    def missing(self, space: Space) -> list[Layer]:
        """Returns the layers of the space that have no entry, each once."""
        lacking = (layer for place, layer in space.places if not layer.is_skip and self.entry(layer, place) is None)
        return list(dict.fromkeys(lacking))

    @property
    def foreign(self) -> bool:
        """Whether the table was made from a file of another device or program."""
        return self.source is not None

    def check(
        self, space: Space, measure: MeasureConfig, where: str, remedy: str, action: Action | None = None
    ) -> None:
        """Raises TableError unless this table was made for `space` and `measure`.

        where: its file. remedy, action: how to make another table without changing this one, and the command for it.
        """
        own: dict[str, tuple[object, object, str]] = {
            "input_size": (self.input_size, space.config.input_size, "space.input_size"),
            "activation": (self.activation, space.config.activation, "space.activation"),
            "batch": (self.batch, measure.batch, "measure.batch"),
        }
        if measure.device != "external":
            kind = "gpu" if measure.device == "cuda" else "cpu"
            own["device.kind"] = (self.device.kind, kind, "measure.device")
            own["dtype"] = (self.dtype, measure.dtype, "measure.dtype")
            own["runtime.name"] = (self.runtime.name, measure.runtime, "measure.runtime")
            own["memory_format"] = (self.memory_format, memory_format_name(measure), "measure.channels_last")
            if kind == "cpu":
                own["threads"] = (self.threads, measure.threads, "measure.threads")
        for key, (found, expected, setting) in own.items():
            if found != expected:
                differs = f"{key} is {found}, but the search has {expected} ({setting})"
                if self.foreign and measure.device != "external":
                    origin = f"this table comes from elsewhere ({self.source})"
                    use = f"{origin}: to search with it, set measure.device: external"
                    raise TableError(where, differs, remedy=use)
                if setting.startswith("measure."):
                    remedy = f"if the table is right, correct `measure`, the limit's own or the file's; else {remedy}"
                raise TableError(where, differs, remedy=remedy, action=action)
        if missing := self.missing(space):
            first, more = missing[0], f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            near = nearest(str(first), self.entries)
            other = f"; the nearest entry is '{near}'" if near else ""
            raise MissingEntryError(
                where,
                (
                    f"no entry '{first}', the op {first.spec} on a {first.size}x{first.size} input with "
                    f"{first.c_in} channels{more}{other}"
                ),
                remedy=remedy,
                action=action,
            )

    def cost(self, space: Space, where: str = "the latency table") -> Cost:
        """Returns the entries as matrices over the space's paths, in ms. where: its file.

        Raises TableError if an architecture would take 0 ms or less: it would meet every bound, and has no logarithm.
        """
        cost = Cost.of_space(space, self.price, constant=self.constant_ms)
        least, _ = cost.reachable
        if least <= 0:
            raise TableError(
                where,
                f"constant_ms is {self.constant_ms:.4g}, so the fastest architecture would take {least:.4g} ms",
                "more than 0",
                self._how_to_mend_the_constant,
            )
        return cost

    @property
    def _how_to_mend_the_constant(self) -> str:
        if self.method == "whole_networks":
            return "time some fast networks, too, and make the table again with proxyless-nas fit"
        if self.foreign:
            return "correct the constant or the entries, or make the table again where it comes from"
        return "refit it with proxyless-nas measure --recalibrate, or measure it again"

    def column_cost(self, space: Space, name: str, where: str) -> Cost:
        """Returns a column as matrices over the space's paths. where: the table's file.

        Raises TableError if the table has no such column, or not for every layer, or if an architecture would have 0 or
        less.
        """
        column = self.columns.get(name)
        if column is None:
            has = f"columns {', '.join(self.columns)}" if self.columns else "no columns beside latency"
            raise TableError(
                where, f"no column '{name}'; it has {has}", remedy="choose one of them as metric, or add it"
            )

        cost = Cost.of_space(space, self.column_price(name, where), constant=column.constant)
        least, _ = cost.reachable
        if least <= 0:
            raise TableError(
                where,
                (
                    f"columns.{name}.constant is {column.constant:.4g}, so the smallest architecture would have "
                    f"{least:.4g} {column.unit}"
                ),
                "more than 0",
                "correct the constant or the values",
            )
        return cost

    def column_price(self, name: str, where: str) -> Callable[[Layer, str], float]:
        """Returns the entry of a layer on the named edge in a column; 0 for `skip`. Raises TableError if the column
        lacks it."""
        values = self.columns[name].values

        def price(layer: Layer, place: str) -> float:
            if layer.is_skip:
                return 0.0
            value = values.get(f"{layer} @{place}", values.get(str(layer)))
            if value is None:
                raise TableError(where, f"columns.{name} has no value for '{layer}'", remedy="complete the column")
            return value

        return price


def prepare_table_file(path: Path) -> None:
    """Creates the folder of a table. Raises TableError if no file can be written there.

    Call it before the minutes of measuring.
    """
    if "\0" in str(path):
        raise TableError("--out", "got a name with a NUL character", "the table's file")
    if path.is_dir():
        raise TableError(f"--out {path}", "is a folder", f"the table's file, e.g. {path / 'table.yaml'}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TableError(
            f"--out {path}", f"its folder cannot be made ({error.strerror})", remedy="choose another place"
        ) from None
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise TableError(
            f"--out {path}", f"{path.parent} is not writable ({error.strerror})", remedy="choose another place"
        ) from None


def _without_later_keys(content: dict[str, Any]) -> dict[str, Any]:
    """Returns the content without an empty history, prior and quantiser, so that tables without them keep the hash that
    they had before tables could have them."""
    if not content.get("quantiser"):
        content.pop("quantiser", None)
    calibration = content.get("calibration")
    if calibration:
        for key in ("history", "prior"):
            if not calibration.get(key):
                calibration.pop(key, None)
    return content


def memory_format_name(measure: MeasureConfig) -> str:
    """Returns the memory format of a table that is measured with these settings, as its header has it."""
    if measure.runtime in EXPORTED:
        return "chosen by the runtime"
    return "channels_last" if measure.channels_last else "contiguous"


def _number(value: float) -> str:
    """Returns a number or a bool of an entry as YAML, floats with six digits."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _rounded(value: Any) -> Any:
    """Returns the header with floats of six digits, as in the entries."""
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
