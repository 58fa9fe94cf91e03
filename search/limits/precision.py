"""Compares an int8 latency table with float32: int8 is slower where a runtime lacks a fast int8 kernel of an op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from latency.build import FLOAT32_MS
from latency.plan import middle_network
from latency.table import TableError
from search.limits.limit import TableSource
from supernet.cost import Cost
from supernet.space import Layer, Space

NEGLIGIBLE = 0.002
"""Layers of less than this share of a network's latency are not judged: their milliseconds are mostly noise."""


@dataclass(frozen=True)
class Layerwise:
    """A layer in int8 and in float32."""

    layer: Layer
    int8_ms: float
    float32_ms: float

    @property
    def lost_ms(self) -> float:
        """The milliseconds that int8 costs; below 0 if it is faster."""
        return self.int8_ms - self.float32_ms

    def __str__(self) -> str:
        return f"{self.layer} ({self.int8_ms:.3g} ms in int8, {self.float32_ms:.3g} in float32)"


@dataclass(frozen=True)
class Comparison:
    """An int8 table beside the milliseconds of float32 on the same device."""

    ratio: float
    """The latency in int8 per latency in float32 of a network from the middle of the range."""
    slower: tuple[Layerwise, ...]
    """The layers that are not faster in int8, the one that loses most milliseconds first."""
    layers: int
    """The layers that were compared."""


def compared(space: Space, source: TableSource, others: Sequence[TableSource]) -> Comparison | None:
    """Returns how an int8 table compares with float32; None if it is of another precision, or there is nothing to
    compare it with.

    others: all tables of the search. The milliseconds of float32 are the table's own column `float32_ms`, or those of a
    float32 table of the same device, runtime, threads and batch among `others`. Raises TableError if the column lacks
    a layer of the space, as one that was interpolated, or is in another unit.
    """
    if source.table.dtype != "int8":
        return None
    found = _float32(space, source, others)
    if found is None:
        return None
    price, cost = found
    paths = middle_network(source.cost)
    least = NEGLIGIBLE * max(source.cost.of(paths), cost.of(paths))
    places = {layer: place for place, layer in space.places if not layer.is_skip}
    each = [Layerwise(layer, source.table.price(layer, place), price(layer, place)) for layer, place in places.items()]
    judged = [one for one in each if max(one.int8_ms, one.float32_ms) >= least]
    slower = sorted((one for one in judged if one.lost_ms >= 0), key=lambda one: -one.lost_ms)
    return Comparison(source.cost.of(paths) / cost.of(paths), tuple(slower), len(judged))


def _float32(
    space: Space, source: TableSource, others: Sequence[TableSource]
) -> tuple[Callable[[Layer, str], float], Cost] | None:
    """Returns the milliseconds of a layer in float32 on the device of an int8 table, and the networks' cost by them."""
    if FLOAT32_MS in source.table.columns:
        where, unit = str(source.path), source.table.columns[FLOAT32_MS].unit
        if unit != "ms":
            raise TableError(where, f"columns.{FLOAT32_MS} has the unit {unit}", "ms", "convert the column")
        price = source.table.column_price(FLOAT32_MS, where)
        return price, source.table.column_cost(space, FLOAT32_MS, where)
    own = _conditions(source)
    for other in others:
        if other.table.dtype == "float32" and _conditions(other) == own:
            return other.table.price, other.cost
    return None


def _conditions(source: TableSource) -> tuple[object, ...]:
    """Returns what two tables must share if their milliseconds are to be compared."""
    table = source.table
    return table.device.fingerprint, table.runtime.name, table.threads, table.batch
