"""Resolves the YAML section `limits` into limits in numbers: bounds, cost matrices, names, tables that fit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from engine.config import validate
from engine.errors import ConfigError, explain
from engine.nearest import nearest_path
from engine.percent import Percent
from engine.quantities import quantity
from engine.wording import shown
from latency.config import MeasureConfig
from latency.table import LatencyTable, MissingEntryError
from search.config import LimitConfig, SearchConfig, unknown_metric
from search.limits.combine import WorstCase, members, scaled, weighted_sum
from search.limits.limit import AdditiveLimit, Limit, TableSource, additive, named
from search.limits.making import Making
from search.limits.peak import PeakLimit, restrict
from search.limits.trust import Note, completed, of_this_runtime, trust
from search.own import own_function
from supernet.catalogue import FeatureMixSpec, PoolClassifierSpec, StemSpec
from supernet.cost import Cost, macs_cost, params_cost
from supernet.space import Layer, Space

ALONE_OF_THEIR_KIND = (StemSpec, FeatureMixSpec, PoolClassifierSpec)
UNITS = {"latency": "ms", "macs": "MACs", "params": "parameters", "weight_bytes": "bytes"}


def resolve_bound(bound: float | str, cost: Cost | WorstCase, where: str, unit: str) -> float:
    """Returns a bound as a number in the cost's unit; `N%` is min + N % of (max - min). Raises ConfigError for a bound
    outside the reachable range."""
    low, high = cost.reachable
    if isinstance(bound, str):  # 100 % may round to more than `high`, and has to be a bound when it is read again
        return min(high, Percent(bound).between(low, high))
    if not low <= bound <= high:
        raise ConfigError(
            where,
            f"got {quantity(bound, unit)}, but architectures of this space reach {quantity(low, unit)} to "
            f"{quantity(high, unit)}",
            remedy="choose a bound in between, or a percentage such as 50%",
        )
    return float(bound)


@dataclass(frozen=True)
class Resolved:
    """A search's file with everything in numbers."""

    config: SearchConfig
    """Its space has lost the candidates that a limit on peak activation forbids."""
    space: Space
    limits: tuple[Limit, ...]
    """All limits: those on sums in the order of the config, then the one on peak activation, if any."""
    notes: tuple[Note, ...] = ()
    """Notes to the user about the tables."""

    @property
    def additive(self) -> tuple[AdditiveLimit, ...]:
        """The limits on sums, which alone act on alpha and on the derivation."""
        return additive(self.limits)

    @property
    def record(self) -> dict[str, object]:
        """The config with every bound a number and every table's hash: what a run's config.yaml holds."""
        record = self.config.model_dump(mode="json", exclude_none=True)
        for i, limit in zip(self.config.additive, self.additive, strict=True):
            record["limits"][i][limit.kind] = limit.bound
            hashes = [source.sha256 for source in limit.sources]
            if limit.source and self.config.limits[i].measure:  # with what it takes from the file's `measure`
                record["limits"][i]["measure"] = limit.source.measure.model_dump(mode="json", exclude_none=True)
            if limit.source:
                record["limits"][i]["table_sha256"] = hashes[0]
            elif hashes:
                record["limits"][i]["tables_sha256"] = hashes
        return record


def resolve(
    config: SearchConfig,
    source: Path | str,
    overrides: Sequence[str] = (),
    tables: Mapping[Path, LatencyTable] = MappingProxyType({}),
) -> Resolved:
    """Applies the limit on peak activation to the space, loads and checks the tables, turns bounds into numbers.

    source, overrides: what the user gave, for the command that errors name. tables: objects in place of the files at
    these paths. Raises ConfigError or TableError.
    """
    config, peak = restrict(config, source)
    space = Space(config.space)
    pairs = [resolve_limit(config, space, i, source, overrides, tables) for i in config.additive]
    return resolved_from(config, space, pairs, peak)


def resolved_from(
    config: SearchConfig, space: Space, pairs: Sequence[tuple[AdditiveLimit, list[Note]]], peak: PeakLimit | None
) -> Resolved:
    """Returns a search's limits and notes in one object; the limits get their names here, and nowhere else.

    pairs: results of `resolve_limit`, in the order of the config. config, space, peak: results of `restrict`.
    """
    limits = named([limit for limit, _ in pairs])
    notes = dict.fromkeys(note for _, more in pairs for note in more)
    return Resolved(config, space, (*limits, peak) if peak else limits, tuple(notes))


def resolve_limit(
    config: SearchConfig,
    space: Space,
    i: int,
    source: Path | str,
    overrides: Sequence[str] = (),
    tables: Mapping[Path, LatencyTable] = MappingProxyType({}),
) -> tuple[AdditiveLimit, list[Note]]:
    """Returns number `i` of `config.limits`, one on a sum, and notes about its tables. Its name is still its metric."""
    limit, where = config.limits[i], f"{source}: limits.{i}"
    sources: list[TableSource] = []
    notes: list[Note] = []
    for k in range(len(limit.files)):
        found, more = _source(config, space, limit, k, where, source, overrides, tables)
        sources.append(found)
        notes += more
    if limit.function is not None:
        cost: Cost | WorstCase = own_cost(limit.function, space, f"{where}.function")
    else:
        cost = _combined(limit, sources) if sources else _computed(config, space, limit.metric)
    unit = _unit(limit, sources, where)
    bound = resolve_bound(limit.bound, cost, f"{where}.{limit.kind}", unit)
    # an expectation over networks can be below any network's worst case, but not below any member's own smallest cost
    least = max(member.reachable[0] for member in members(cost))
    if bound <= 0:  # only a percentage can be, of what a function of the user's own returns
        remedy = "choose one between 0 and the next sum, such as 0.5 for a count"
        if bound < 0:
            remedy = "raise it, or let the function return so much more for the stem that every sum is above 0"
        raise ConfigError(
            f"{where}.{limit.kind}",
            f"{limit.bound} is {quantity(bound, unit)}, and what a limit asks for is a share of its bound",
            "a bound above 0",
            remedy,
        )
    if config.search.arch_update == "reinforce" and config.search.resolved_reinforce.divides_by_costs and least <= 0:
        raise ConfigError(
            where,
            f"the reward multiplies by (bound / cost)^w, but networks reach {quantity(least, unit)}",
            "costs above 0",
            "set search.reinforce.limits: projection",
        )
    with explain(where):
        config.search.resolved_loss.check_limit(bound, least, unit)
    resolved = AdditiveLimit(
        name=limit.metric, metric=limit.metric, kind=limit.kind, bound=bound, unit=unit, tolerance=limit.tolerance,
        cost=cost, sources=tuple(sources), combined=limit.combine,
    )  # fmt: skip
    return resolved, notes


def _unit(limit: LimitConfig, sources: Sequence[TableSource], where: str) -> str:
    """Returns the unit of a limit's costs. Raises ConfigError if its tables give a column in different ones."""
    if limit.function is not None:
        return limit.metric  # "at 3 squeezes"
    if limit.metric in UNITS:
        return UNITS[limit.metric]
    units = [source.table.columns[limit.metric].unit for source in sources]
    if len(set(units)) > 1:
        raise ConfigError(
            f"{where}.tables", f"'{limit.metric}' is in {', '.join(units)}", "one unit", "convert the columns"
        )
    return units[0]


def own_cost(reference: str, space: Space, where: str) -> Cost:
    """Returns the cost whose number for each layer is what a function of the user's own returns.

    reference: path/to/file.py:name; it is called as name(layer, place), with the places of `Space.places`. Raises
    ConfigError, which begins with `where`, if it cannot be loaded, fails, or returns no finite number.
    """
    function = own_function(reference, where, ("layer", "place"))

    def price(layer: Layer, place: str) -> float:
        value = function(layer, place)
        number = isinstance(value, int | float | np.integer | np.floating)
        if not number or not math.isfinite(value):
            found = f"{reference} returned {shown(value)} for {layer} at {place}"
            raise ConfigError(where, found, "a finite number", "correct it")
        return float(value)

    return Cost.of_space(space, price)


def _computed(config: SearchConfig, space: Space, metric: str) -> Cost:
    """Returns the cost of a metric that follows from the space."""
    if metric == "macs":
        return macs_cost(space)
    if metric == "params":
        return params_cost(space)
    assert metric == "weight_bytes"  # everything else has a table, see LimitConfig
    size = config.measure.torch_dtype.itemsize
    return Cost.of_space(space, lambda layer, _: layer.complexity.params * size)


def _combined(limit: LimitConfig, sources: Sequence[TableSource]) -> Cost | WorstCase:
    """Returns the cost of one table, or of several as `combine` says."""
    costs = [source.cost for source in sources]
    if limit.combine is None:
        return costs[0]
    if limit.combine == "weighted_sum":
        return weighted_sum(costs, limit.shares)
    return WorstCase(tuple(scaled(cost, weight) for cost, weight in zip(costs, limit.shares, strict=True)))


def _source(
    config: SearchConfig,
    space: Space,
    limit: LimitConfig,
    k: int,
    where: str,
    source: Path | str,
    overrides: Sequence[str],
    tables: Mapping[Path, LatencyTable],
) -> tuple[TableSource, list[Note]]:
    """Returns a limit's table number `k`, checked against the space, and notes about it."""
    path = limit.files[k]
    own = limit.measure.model_dump(mode="json", exclude_unset=True) if limit.measure else {}
    measure = validate(MeasureConfig, config.measure.model_dump(mode="json") | own, f"{where}.measure")
    if limit.combine is not None:  # tables of several devices: what one `measure` says cannot hold for all of them
        measure = measure.model_copy(update={"device": "external"})
    making = Making.of(source, path, measure, overrides, own)
    key = f"{where}.{'table' if limit.table else f'tables.{k}'}"
    table = tables.get(path) or _load_table(path, key, making)
    sha256 = table.sha256
    hashes = limit.tables_sha256 if limit.tables else (limit.table_sha256,)
    if hashes and hashes[k] not in (None, sha256):
        raise ConfigError(
            key,
            f"{path} is not the table of this run (its sha256 differs from table_sha256)",
            remedy="put the old table back, or start a new run in another folder",
        )
    if limit.metric != "latency" and limit.metric not in table.columns:
        unknown = unknown_metric(limit.metric, list(table.columns), f"{where}.metric")
        unknown.remedy = f"the columns of {path} beside latency: {', '.join(table.columns) or 'none'}"
        raise ConfigError.of(unknown)
    notes = [] if making.external else of_this_runtime(table, making)
    if limit.metric == "latency":  # before interpolation, whose table has no verification any more
        bound = f"{where}.largest_error"
        notes += trust(table, limit.largest_error, bound, making)
    try:
        table.check(space, measure, str(path), *making.another(key))
    except MissingEntryError as error:
        if limit.missing == "error":
            if any(isinstance(layer.spec, ALONE_OF_THEIR_KIND) for layer in table.missing(space)):
                raise  # stem and head have no others of their kind to be predicted from
            error.remedy = f"predict it from others of its kind (missing: interpolate), or {error.remedy}"
            raise
        table, note = completed(table, path, space)
        notes.append(note)
        table.check(space, measure, str(path), *making.another(key))
    cost = (
        table.cost(space, str(path)) if limit.metric == "latency" else table.column_cost(space, limit.metric, str(path))
    )
    return TableSource(path, table, cost, measure, limit.shares[k], sha256), notes


def _load_table(path: Path, key: str, making: Making) -> LatencyTable:
    """Loads the table of a limit. key: its place in the config."""
    if not path.exists():
        near = nearest_path(path)
        raise ConfigError(
            key, f"no file {path}", remedy=making.words("it"), suggestion=near, action=making.action(),
        )  # fmt: skip
    return LatencyTable.load(path)
