"""Limits in numbers: a bound on one metric of the derived network, of one of two kinds.

An `AdditiveLimit` bounds a sum over layers, such as a latency by a table; alpha and the derivation see it. A
`PeakLimit` (search/limits/peak.py) bounds a largest value over layers; it removes candidates before the search.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from engine.quantities import quantity
from latency.config import MeasureConfig
from latency.table import LatencyTable
from search.config import BoundKind
from search.limits.combine import WorstCase, magnitude, members
from supernet.cost import Cost

ROUNDING = 1e-9
"""The rounding error of a sum, as a share of the bound: two sums of the same entries differ by less."""


@dataclass(frozen=True)
class TableSource:
    """One table of a limit."""

    path: Path
    table: LatencyTable
    cost: Cost
    """The cost by this table alone, unweighted."""
    measure: MeasureConfig
    """The settings by which networks are timed on the table's device, if that is this one."""
    weight: float = 1.0
    sha256: str = ""
    """The hash of the table as its file has it, without interpolated entries."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Limit(ABC):
    """A bound on one metric of the derived network."""

    name: str
    """The name in curves, messages and result.json: the metric, with more words where several limits share one."""
    metric: str
    kind: BoundKind
    """`at`: the budget is to be used up. `below`: the bound is an upper bound only."""
    bound: float
    """T, in `unit`."""
    unit: str
    sources: tuple[TableSource, ...] = ()
    """The tables behind the limit: none, one, or several that are combined."""
    combined: str | None = None
    """The way in which several tables make one limit: weighted_sum or worst_case."""

    @abstractmethod
    def cost_of(self, paths: tuple[int, ...]) -> float:
        """Returns the metric of an architecture, in `unit`, as it is predicted."""

    @abstractmethod
    def allows(self, paths: tuple[int, ...]) -> bool:
        """Returns whether an architecture is predicted to be within the upper bound."""

    @property
    def asked(self) -> str:
        """The kind and the bound in words, e.g. `at 20 ms`."""
        return f"{self.kind} {quantity(self.bound, self.unit)}"

    @property
    def source(self) -> TableSource | None:
        """The only table, if there is just one."""
        return self.sources[0] if len(self.sources) == 1 else None

    def record(self, paths: tuple[int, ...]) -> dict[str, object]:
        """Returns the entry of architecture.json: the metric of an architecture, the bound, and the tables."""
        record: dict[str, object] = {"metric": self.metric, "value": self.cost_of(paths), "unit": self.unit}
        record |= {self.kind: self.bound}
        if self.source:
            return record | {"table": str(self.source.path), "table_sha256": self.source.sha256}
        if self.sources:
            each = [
                {"table": str(s.path), "table_sha256": s.sha256, "weight": s.weight, "value": s.cost.of(paths)}
                for s in self.sources
            ]
            record |= {"combine": self.combined, "tables": each}
        return record


@dataclass(frozen=True, eq=False, kw_only=True)
class AdditiveLimit(Limit):
    """A limit on a sum over layers, or on the largest of several such sums."""

    tolerance: float
    """With `at`, the derived network lies in [bound (1 - tolerance), bound]."""
    cost: Cost | WorstCase

    def cost_of(self, paths: tuple[int, ...]) -> float:
        return self.cost.of(paths)

    def allows(self, paths: tuple[int, ...]) -> bool:
        return self.cost.of(paths) <= self.most

    @cached_property
    def scale(self) -> float:
        """The cost of which `tolerance` and ROUNDING are shares."""
        return magnitude(members(self.cost), self.bound)

    @property
    def most(self) -> float:
        """The most that the limit's sums may be: the bound, up to ROUNDING."""
        return self.bound + ROUNDING * self.scale

    @property
    def least(self) -> float:
        """The least that one of the limit's sums has to reach with `at`: the lower side of the window, up to
        ROUNDING."""
        return self.bound - (self.tolerance + ROUNDING) * self.scale

    def of_cost(self, paths: tuple[int, ...]) -> AdditiveLimit:
        """Returns the same limit with an architecture's cost for a bound: others as costly meet it."""
        return replace(self, bound=self.cost.of(paths))


def additive(limits: Iterable[Limit]) -> tuple[AdditiveLimit, ...]:
    """Returns the limits on sums, which alone act on alpha and on the derivation."""
    return tuple(limit for limit in limits if isinstance(limit, AdditiveLimit))


def named(limits: Sequence[AdditiveLimit]) -> tuple[AdditiveLimit, ...]:
    """Returns the limits with their names: the metric, with its tables' names if several limits share a metric, and a
    number if these are alike. Called once, when the limits of a search are resolved."""
    metrics = [limit.metric for limit in limits]
    names = [_long_name(limit) if metrics.count(limit.metric) > 1 else limit.metric for limit in limits]
    numbered = [
        f"{name}_{names[:i].count(name) + 1}" if names.count(name) > 1 else name for i, name in enumerate(names)
    ]
    return tuple(replace(limit, name=name) for limit, name in zip(limits, numbered, strict=True))


def _long_name(limit: Limit) -> str:
    return "_".join([limit.metric, *filter(None, [limit.combined]), *(source.path.stem for source in limit.sources)])
