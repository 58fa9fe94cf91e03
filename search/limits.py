"""What the derived network must meet: limits resolved into numbers and cost matrices."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError
from latency.table import LatencyTable, file_hash
from search.config import LimitConfig, MulLog, SearchFile
from supernet.cost import Cost, macs_cost, params_cost
from supernet.space import Space

UNITS = {"latency": "ms", "macs": "MACs", "params": "parameters"}


@dataclass(frozen=True)
class Limit:
    """A limit in numbers. `at`: the budget is to be used; otherwise `bound` is an upper bound only."""

    metric: str
    bound: float
    """T, in `unit`."""
    at: bool
    tolerance: float
    cost: Cost
    table: LatencyTable | None = None
    """The latency table behind `cost`, for metric latency."""
    table_path: Path | None = None

    @property
    def unit(self) -> str:
        return UNITS[self.metric]

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
    config_path: Path | str, table: Path, overrides: Sequence[str] = (), *, external: bool = False
) -> str:
    """The command that makes a config's table."""
    if external:
        return f"python scripts/import_latency.py SOURCE --out {table}"
    shaping = [o for o in overrides if o.startswith(("space.", "measure."))]
    return shlex.join(["python", "scripts/measure_latency.py", str(config_path), "--out", str(table), *shaping])


def resolve_limits(
    config: SearchFile, space: Space, source: Path | str, overrides: Sequence[str] = ()
) -> tuple[Limit, ...]:
    """Load each limit's table, check that it fits, and turn bounds into numbers.

    source, overrides: what the user gave, for the command that errors name. Raises ConfigError or TableError.
    """
    limits = []
    for i, limit in enumerate(config.limits):
        where = f"{source}: limits.{i}"
        table = None
        if limit.table is not None:
            external = config.measure.device == "external"
            command = measure_command(source, limit.table, overrides, external=external)
            table = _load_table(limit, where, command)
            table.check(space, config.measure, str(limit.table), command)
        cost = _cost(limit, space, table)
        bound = resolve_bound(
            limit.bound, cost, f"{where}.{'below' if limit.at is None else 'at'}", UNITS[limit.metric]
        )
        if isinstance(config.search.loss, MulLog) and min(bound, cost.reachable[0]) <= 1:
            raise ConfigError(
                f"{where}: loss mul_log takes logarithms, so the bound ({bound:g}) and the smallest reachable value "
                f"({cost.reachable[0]:g} {UNITS[limit.metric]}) must exceed 1; use lagrangian instead"
            )
        limits.append(Limit(limit.metric, bound, limit.at is not None, limit.tolerance, cost, table, limit.table))
    return tuple(limits)


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


def _cost(limit: LimitConfig, space: Space, table: LatencyTable | None) -> Cost:
    if limit.metric == "macs":
        return macs_cost(space)
    if limit.metric == "params":
        return params_cost(space)
    assert table is not None  # LimitConfig requires one
    return table.cost(space)


def resolved_config(config: SearchFile, limits: Sequence[Limit]) -> dict[str, object]:
    """The config with every bound a number and every table's hash: what a run's config.yaml holds."""
    record = config.model_dump(mode="json", exclude_none=True)
    for entry, limit in zip(record["limits"], limits, strict=True):
        entry["at" if limit.at else "below"] = limit.bound
        if limit.table_path is not None:
            entry["table_sha256"] = file_hash(limit.table_path)
    return record
