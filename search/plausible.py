"""Do a latency table's numbers look like milliseconds? Their implied speed says so, and so do extremes."""

from __future__ import annotations

import numpy as np

from latency.table import LatencyTable
from search.trust import Note
from supernet.cost import Cost, macs_cost
from supernet.space import Space

LONGEST_MS = 10_000.0
FLOAT32_PER_THREAD = 200.0
"""GMAC/s that no CPU thread exceeds: 32 multiply-accumulates a cycle are 112 at 3.5 GHz."""
LOW_PRECISION_PER_THREAD = 4000.0
SLOWEST = {"cpu": 0.05, "gpu": 0.2, "phone": 0.05, "other": 0.01}
"""GMAC/s, in networks that are worth searching for."""
FASTEST = {"gpu": 1e6, "phone": 5e4, "other": 1e5}


def implied_speed(space: Space, table: LatencyTable, cost: Cost) -> float:
    """GMAC/s of the architecture with the most MACs."""
    macs = macs_cost(space)
    paths = tuple(int(i) for i in np.where(macs.mask, macs.table, -1).argmax(axis=1))
    ms = cost.of(paths)
    return macs.of(paths) * table.batch / ms / 1e6 if ms > 0 else float("inf")


def plausible_speeds(table: LatencyTable) -> tuple[float, float]:
    """GMAC/s between which the table's kind of device computes networks; another unit is a factor of 1000 away."""
    kind = table.device.kind
    if kind != "cpu":
        return SLOWEST[kind], FASTEST[kind]
    threads = table.threads or table.device.cores or 1
    return SLOWEST[kind], threads * (FLOAT32_PER_THREAD if table.dtype == "float32" else LOW_PRECISION_PER_THREAD)


def doubts(space: Space, table: LatencyTable, cost: Cost) -> list[Note]:
    """What looks wrong. cost: of the table, in ms."""
    found = []
    priced = [(layer, table.price(layer, place)) for place, layer in space.places if not layer.is_skip]
    if zeros := sorted({str(layer) for layer, ms in priced if ms == 0}):
        more = f" and {len(zeros) - 1} more" if len(zeros) > 1 else ""
        found.append(Note(f"'{zeros[0]}'{more} costs 0 ms", "only skip is free: measure again"))
    layer, longest = max(priced, key=lambda pair: pair[1])
    speed = implied_speed(space, table, cost)
    slowest, fastest = plausible_speeds(table)
    says = f"the largest network runs at {speed:.3g} GMAC/s, where a {table.device.kind} has {slowest:g} to {fastest:g}"
    if longest > LONGEST_MS:
        found.append(Note(f"'{layer}' takes {longest:.3g} ms; that looks like microseconds", "divide by 1000"))
    elif speed < slowest:
        found.append(Note(f"{says}; the numbers look like microseconds", "divide them by 1000 if they are"))
    elif speed > fastest:
        found.append(Note(f"{says}; the numbers look like seconds", "multiply them by 1000 if they are"))
    return found
