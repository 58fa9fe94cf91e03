"""What the derived network must meet: limits resolved into numbers and cost matrices."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from engine.errors import ConfigError
from latency.table import LatencyTable, TableError, file_hash
from search.config import LimitConfig, MulLog, SearchFile, metric_hint
from search.peak import PeakLimit, restrict
from search.trust import Note, completed, trust
from supernet.catalogue import FeatureMixSpec, PoolClassifierSpec, StemSpec
from supernet.cost import Cost, macs_cost, params_cost
from supernet.space import Space

ALONE_OF_THEIR_KIND = (StemSpec, FeatureMixSpec, PoolClassifierSpec)
UNITS = {"latency": "ms", "macs": "MACs", "params": "parameters", "weight_bytes": "bytes"}


@dataclass(frozen=True)
class Limit:
    """An additive limit in numbers. `at`: the budget is to be used; otherwise `bound` is an upper bound only."""

    metric: str
    bound: float
    """T, in `unit`."""
    at: bool
    tolerance: float
    cost: Cost
    table: LatencyTable | None = None
    """The latency table behind `cost`, for metric latency."""
    table_path: Path | None = None
    column_unit: str | None = None
    """Where `cost` is a column of the table."""

    @property
    def unit(self) -> str:
        return self.column_unit or UNITS[self.metric]

    def predicted(self, paths: tuple[int, ...]) -> dict[str, object]:
        """The record of architecture.json: what this limit's metric is for an architecture, and in whose table."""
        record: dict[str, object] = {"metric": self.metric, "value": self.cost.of(paths), "unit": self.unit}
        record |= {"at" if self.at else "below": self.bound}
        if self.table_path is not None:
            record |= {"table": str(self.table_path), "table_sha256": file_hash(self.table_path)}
        return record


def resolve_bound(bound: float | str, cost: Cost, where: str, unit: str) -> float:
    """A number in the cost's unit; `N%` = min + N % of (max - min). ConfigError outside the reachable range."""
    low, high = cost.reachable
    if isinstance(bound, str):
        return low + float(bound.strip().rstrip("% ")) / 100 * (high - low)
    if not low <= bound <= high:
        raise ConfigError(
            f"{where}: got {bound:g} {unit}, but architectures of this space reach {low:g} to {high:g}; choose a bound "
            "in between, or a percentage such as 50%"
        )
    return float(bound)


def measure_command(
    config_path: Path | str, table: Path, overrides: Sequence[str] = (), *more: str, external: bool = False
) -> str:
    """The command that makes a config's table. more: further arguments, e.g. `--verify 40`."""
    if external:
        return f"python scripts/import_latency.py SOURCE --out {table}"
    shaping = [o for o in overrides if o.startswith(("space.", "measure."))]
    return shlex.join(["python", "scripts/measure_latency.py", str(config_path), "--out", str(table), *more, *shaping])


@dataclass(frozen=True)
class Resolved:
    """A search's file with everything in numbers."""

    config: SearchFile
    """Its space has lost the candidates that a limit on peak activation forbids."""
    space: Space
    limits: tuple[Limit, ...]
    """The additive ones: what alpha and the derivation see."""
    peak: PeakLimit | None = None
    notes: tuple[Note, ...] = ()
    """What the user should know of the tables."""

    @property
    def record(self) -> dict[str, object]:
        """The config with every bound a number and every table's hash: what a run's config.yaml holds."""
        record = self.config.model_dump(mode="json", exclude_none=True)
        for i, limit in zip(self.config.additive, self.limits, strict=True):
            record["limits"][i]["at" if limit.at else "below"] = limit.bound
            if limit.table_path is not None:
                record["limits"][i]["table_sha256"] = file_hash(limit.table_path)
        return record


def resolve(config: SearchFile, source: Path | str, overrides: Sequence[str] = ()) -> Resolved:
    """Apply the limit on peak activation to the space, load each limit's table, check it, turn bounds into numbers.

    source, overrides: what the user gave, for the command that errors name. Raises ConfigError or TableError.
    """
    config, peak = restrict(config, source)
    space = Space(config.space)
    pairs = [resolve_limit(config, space, i, source, overrides) for i in config.additive]
    notes = dict.fromkeys(note for _, more in pairs for note in more)
    return Resolved(config, space, tuple(limit for limit, _ in pairs), peak, tuple(notes))


def resolve_limit(
    config: SearchFile, space: Space, i: int, source: Path | str, overrides: Sequence[str] = ()
) -> tuple[Limit, list[Note]]:
    """Number `i` of `config.limits`, an additive one, and notes about its table."""
    limit, where = config.limits[i], f"{source}: limits.{i}"
    table, notes = _table(config, space, limit, where, source, overrides)
    cost = _cost(config, space, limit, table)
    column = table.columns.get(limit.metric) if table and limit.metric != "latency" else None
    unit = column.unit if column else UNITS[limit.metric]
    bound = resolve_bound(limit.bound, cost, f"{where}.{'below' if limit.at is None else 'at'}", unit)
    if isinstance(config.search.loss, MulLog) and min(bound, cost.reachable[0]) <= 1:
        raise ConfigError(
            f"{where}: loss mul_log takes logarithms, so the bound ({bound:g}) and the smallest reachable value "
            f"({cost.reachable[0]:g} {unit}) must exceed 1; use lagrangian instead"
        )
    resolved = Limit(
        limit.metric, bound, limit.at is not None, limit.tolerance, cost,
        table if limit.metric == "latency" else None, limit.table, column.unit if column else None,
    )  # fmt: skip
    return resolved, notes


def _table(
    config: SearchFile, space: Space, limit: LimitConfig, where: str, source: Path | str, overrides: Sequence[str]
) -> tuple[LatencyTable | None, list[Note]]:
    """A limit's table, checked against the space; None where its metric needs none."""
    if limit.table is None:
        return None, []
    external = config.measure.device == "external"
    command = partial(measure_command, source, limit.table, overrides)
    table = _load_table(limit, where, command(external=external))
    if limit.metric != "latency" and limit.metric not in table.columns:
        raise ConfigError(
            f"{where}.metric: got '{limit.metric}', {metric_hint(limit.metric, list(table.columns))}; the columns of "
            f"{limit.table} beside latency: {', '.join(table.columns) or 'none'}"
        )
    make = command(external=external)
    # before interpolation, whose table has no verification any more
    notes = trust(table, limit, where, command, external=external) if limit.metric == "latency" else []
    try:
        table.check(space, config.measure, str(limit.table), make)
    except TableError as error:
        if ": no entry '" not in str(error):
            raise
        if limit.missing == "error":
            if any(isinstance(layer.spec, ALONE_OF_THEIR_KIND) for layer in table.missing(space)):
                raise  # stem and head have no others of their kind to be predicted from
            raise TableError(f"{error}, or predict it from others of its kind: missing: interpolate") from None
        table, note = completed(table, limit, space)
        notes.append(note)
        table.check(space, config.measure, str(limit.table), make)
    return table, notes


def _load_table(limit: LimitConfig, where: str, command: str) -> LatencyTable:
    assert limit.table is not None
    if not limit.table.exists():
        raise ConfigError(f"{where}.table: no file {limit.table}; make it with: {command}")
    if limit.table_sha256 is not None and limit.table_sha256 != file_hash(limit.table):
        raise ConfigError(
            f"{where}.table: {limit.table} is not the table of this run (its sha256 differs from table_sha256); "
            "put the old table back, or start a new run in another folder"
        )
    return LatencyTable.load(limit.table)


def _cost(config: SearchFile, space: Space, limit: LimitConfig, table: LatencyTable | None) -> Cost:
    match limit.metric:
        case "macs":
            return macs_cost(space)
        case "params":
            return params_cost(space)
        case "weight_bytes":
            size = config.measure.torch_dtype.itemsize
            return Cost.of_space(space, lambda layer, _: layer.complexity.params * size)
    assert table is not None  # LimitConfig requires one for everything that is not in COMPUTED
    return table.cost(space) if limit.metric == "latency" else table.column_cost(space, limit.metric, str(limit.table))
