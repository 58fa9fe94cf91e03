"""Checks that a latency table's numbers can be milliseconds, by the fastest and slowest speeds of its kind of device.

A layer of M multiply-accumulates takes between

    overhead_min + M / fastest    and    overhead_max + M / slowest

on any device of a kind, and a network the sum over its layers. For all kinds but `other`, overhead_max / overhead_min
and fastest / slowest are at most 1000, and so is the ratio of the sums: a table in seconds or microseconds, which is
1000 times off, lies outside wherever the same table in milliseconds lies inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.quantities import duration, rate
from latency.table import LatencyTable
from search.limits.trust import Note
from supernet.cost import Cost, macs_cost
from supernet.space import Layer, Space

LONGEST_MS = 10_000.0
"""The longest time of a single layer for one image."""


@dataclass(frozen=True)
class Speeds:
    """The bounds of a kind of device: GMAC/s of whole networks, and milliseconds that a layer takes without any
    work."""

    slowest: float
    fastest: float
    overhead_min_ms: float = 1e-3
    """The smallest layer is a call of a kernel or two, which takes a microsecond on CPUs and GPUs alike."""
    overhead_max_ms: float = 1.0
    """A dozen calls of an eager framework take that long on a slow board."""


PER_THREAD = {
    # 32 multiply-accumulates a cycle (two AVX-512 units) are 112 to 182 GMAC/s at 3.5 to 5.7 GHz
    4: Speeds(0.2, 200.0),
    # matrix units (AMX: 512 a cycle) at half of their peak; a ResNet-50 reaches 316 on a thread of a Xeon with AMX
    2: Speeds(0.8, 800.0),
    1: Speeds(1.6, 1600.0),
}
"""CPU cores, by bytes of a number. Both bounds are multiplied by the number of threads: networks gain less than that
from threads, but not so much less that they fall below the lower bound."""
GPU = {
    # TF32 matrix units of a data centre's GPU at a third of their peak; 20 GMAC/s of a small board's GPU are within the
    # overhead of their layers
    4: Speeds(100.0, 1e5),
    2: Speeds(400.0, 4e5),
    1: Speeds(400.0, 4e5),
}
PHONE = {
    # CPU or GPU of a phone: MobileNets take 20 to 300 ms on phones of 2016 and 2 ms on new ones
    4: Speeds(0.5, 500.0),
    # from a CPU of 2016 (3 GMAC/s) to an accelerator of today on networks for phones (some 1000); on much larger ones
    # it may be faster than this, and the note is wrong
    2: Speeds(3.0, 3000.0),
    1: Speeds(3.0, 3000.0),
}
OTHER = Speeds(0.01, 4e5, 1e-4, 10.0)
"""From a microcontroller to a GPU: too wide to notice every factor of 1000."""
BYTES = {
    "float32": 4,
    "float64": 4,
    "tf32": 4,
    "bfloat16": 2,
    "float16": 2,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "int4": 1,
}


def speeds_of(table: LatencyTable) -> Speeds:
    """Returns the speeds of the table's kind of device, with its threads and precision."""
    kind, size = table.device.kind, BYTES.get(table.dtype.lower(), 4)
    if kind == "cpu" or (kind == "phone" and table.threads):
        fewest, most = (table.threads, table.threads) if table.threads else (1, table.device.cores or 1)
        one = PER_THREAD[size]
        return Speeds(one.slowest * fewest, one.fastest * most)
    return {"gpu": GPU[size], "phone": PHONE[size]}.get(kind, OTHER)


@dataclass(frozen=True)
class Span:
    """The least and the most milliseconds that a kind of device takes for some layers."""

    least: float
    most: float

    @classmethod
    def of(cls, layers: Sequence[Layer], batch: int, speeds: Speeds) -> Span:
        gmacs = batch * sum(layer.complexity.macs for layer in layers) / 1e6  # in ms at 1 GMAC/s
        return cls(
            len(layers) * speeds.overhead_min_ms + gmacs / speeds.fastest,
            len(layers) * speeds.overhead_max_ms + gmacs / speeds.slowest,
        )


def largest_network(space: Space) -> tuple[int, ...]:
    """Returns the paths with the most MACs."""
    macs = macs_cost(space)
    return tuple(int(i) for i in np.where(macs.mask, macs.table, -1).argmax(axis=1))


def implied_speed(space: Space, table: LatencyTable, cost: Cost) -> float:
    """Returns the GMAC/s of the architecture with the most MACs."""
    paths = largest_network(space)
    return macs_cost(space).of(paths) * table.batch / cost.of(paths) / 1e6


def unlikely_numbers(space: Space, table: LatencyTable, cost: Cost) -> list[Note]:
    """Returns notes on numbers of a table that can hardly be milliseconds. cost: the networks' cost by that table, in
    ms."""
    notes = []
    priced = [(layer, table.price(layer, place)) for place, layer in space.places if not layer.is_skip]
    if zeros := sorted({str(layer) for layer, ms in priced if ms == 0}):
        more = f" and {len(zeros) - 1} more" if len(zeros) > 1 else ""
        notes.append(Note(f"'{zeros[0]}'{more} costs 0 ms", "only skip is free: measure again"))
    layer, longest = max(priced, key=lambda pair: pair[1])
    if longest > LONGEST_MS * table.batch:
        notes.append(Note(f"'{layer}' takes {duration(longest)}; that looks like microseconds", "divide by 1000"))
    elif unit := _another_unit(space, table, cost):
        notes.append(unit)
    return notes


def _another_unit(space: Space, table: LatencyTable, cost: Cost) -> Note | None:
    """Returns a note if the largest network, with the constant or without, is slower or faster than the device can be.

    The check without the constant is needed because a constant in other units than the entries can hide theirs.
    """
    speeds, paths = speeds_of(table), largest_network(space)
    layers = [layer for layer in space.layers(paths) if not layer.is_skip]
    span = Span.of(layers, table.batch, speeds)
    whole = cost.of(paths)
    alone = whole - table.constant_ms
    kind = f"{'any device' if table.device.kind == 'other' else f'a {table.device.kind}'} in {table.dtype}"
    speed = rate(implied_speed(space, table, cost))
    says = f"the largest network takes {duration(whole)} ({speed}), where {kind} takes {duration(span.least)} to "
    says += duration(span.most)
    if whole > span.most:
        return Note(f"{says}; the numbers look like microseconds", "divide them by 1000 if they are")
    if whole < span.least:
        return Note(f"{says}; the numbers look like seconds", "multiply them by 1000 if they are")
    if alone < span.least:
        return Note(
            f"the layers of the largest network take {duration(alone)}, where {kind} takes {duration(span.least)} at "
            f"least, and constant_ms is {duration(table.constant_ms)}; the entries look like seconds",
            "multiply them by 1000 if they are",
        )
    return None
