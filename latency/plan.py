"""Draws the plan of a table: which networks and ops are timed. It runs none, so a plan can go to another device.

- `context`: networks that cover every candidate of every edge equally often; their layers are timed one by one.
- `layer`: each op alone, for runtimes that cannot time the layers of a running network.
- `calibration`: whole networks that the table's corrections are fitted to, spread over the reachable range.
- `verification`: fresh whole networks, spread alike, each measured twice, for the table's error.

For an int8 table, some of these run in float32 once more, in the same rounds: it then says where int8 is not faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.optimize import brentq

from latency.config import MeasureConfig
from supernet.cost import Cost, macs_cost
from supernet.space import Layer, Space

FLOAT32_COVERINGS = 6
"""How often each candidate of each edge is timed in float32 for an int8 table, at most."""
FLOAT32_NETWORKS = 20
"""The whole networks that are timed in float32 for an int8 table, at most."""

Purpose = Literal["context", "layer", "calibration", "verification"]
Paths = tuple[int, ...]
"""A network: the index of the candidate of each searchable edge."""


@dataclass(frozen=True)
class TimingJob:
    """One thing to time: a chain of layers, `skip` left out. The id is unique in a plan."""

    id: str
    purpose: Purpose
    layers: tuple[Layer, ...]
    paths: Paths | None = None
    """The paths of a whole network; None for a layer alone."""
    in_float32: bool = False
    """Whether it runs in float32, to be compared with an int8 table; else it runs in the table's own precision."""

    def dtype(self, measure: MeasureConfig) -> str:
        """Returns the precision in which it runs for a table that is measured so."""
        return "float32" if self.in_float32 else measure.dtype

    @property
    def inside(self) -> bool:
        """Whether each layer is timed, rather than the whole."""
        return self.purpose == "context"


@dataclass(frozen=True)
class Counts:
    """The number of networks of each purpose in a plan. coverings: how often each candidate of each edge occurs among
    the context networks."""

    coverings: int
    calibration: int
    verification: int
    alone: bool
    """Whether each op is also timed alone."""
    float32: bool = False
    """Whether some of them run in float32, too."""


def draw_plan(space: Space, counts: Counts, seed: int) -> tuple[TimingJob, ...]:
    """Returns the jobs that make and verify a table of `space`. The same arguments give the same on every machine."""
    rng = _generator(seed, "context")
    context = [paths for _ in range(counts.coverings) for paths in covering_networks(space, rng)]
    calibration = calibration_networks(space, counts.calibration, seed)
    verification = verification_networks(space, counts.verification, seed, avoid=calibration)
    jobs = [network_job(space, f"context{i:03}", "context", paths) for i, paths in enumerate(context)]
    if counts.alone:
        jobs += [TimingJob(f"layer{i:03}", "layer", (layer,)) for i, layer in enumerate(timed_layers(space))]
    jobs += [network_job(space, f"calibration{i:03}", "calibration", p) for i, p in enumerate(calibration)]
    if counts.float32:
        jobs += _in_float32(jobs, counts)
    jobs += verification_jobs(space, verification)
    return tuple(jobs)


def _in_float32(jobs: Sequence[TimingJob], counts: Counts) -> list[TimingJob]:
    """Returns the jobs that run in float32 once more: the first context networks, each op alone, and whole networks
    that are spread over the range like those of the calibration."""
    context = [job for job in jobs if job.purpose == "context"]
    calibration = [job for job in jobs if job.purpose == "calibration"]
    kept = -(-len(context) * min(counts.coverings, FLOAT32_COVERINGS) // max(counts.coverings, 1))
    step = max(1, len(calibration) // FLOAT32_NETWORKS)
    again = [
        *context[:kept],
        *(job for job in jobs if job.purpose == "layer"),
        *calibration[::step][:FLOAT32_NETWORKS],
    ]
    return [replace(job, id=f"float32_{job.id}", in_float32=True) for job in again]


def verification_jobs(space: Space, networks: Sequence[Paths]) -> list[TimingJob]:
    """Returns two jobs for each network, from which the error of a repeated measurement is computed."""
    return [
        network_job(space, f"verification{i:03}{again}", "verification", paths)
        for i, paths in enumerate(networks)
        for again in ("a", "b")
    ]


def network_job(space: Space, name: str, purpose: Purpose, paths: Paths) -> TimingJob:
    """Returns the job of a whole network. name: its id."""
    layers = tuple(layer for layer in space.layers(paths) if not layer.is_skip)
    return TimingJob(name, purpose, layers, paths)


def timed_layers(space: Space) -> list[Layer]:
    """Returns each distinct layer of the space for which a table needs an entry: all but `skip`."""
    return [layer for layer in space.all_layers if not layer.is_skip]


def covering_networks(space: Space, rng: np.random.Generator) -> list[Paths]:
    """Returns the fewest networks that hold every candidate of every edge, each edge in its own random order.

    An edge with fewer candidates than others repeats some of them.
    """
    counts = space.mask.sum(axis=1)
    orders = [rng.permutation(count) for count in counts]
    return [
        tuple(int(order[i % len(order)]) for order in orders)
        for i in range(max((len(order) for order in orders), default=1))
    ]


def calibration_networks(space: Space, count: int, seed: int) -> list[Paths]:
    """Returns `count` networks: up to a quarter from `uniform_networks`, the others from `spread_networks`."""
    uniform = uniform_networks(space)[: count // 4]
    rng = _generator(seed, "calibration")
    return [*uniform, *spread_networks(macs_cost(space), count - len(uniform), rng, avoid=uniform)]


def verification_networks(space: Space, count: int, seed: int, *, avoid: Sequence[Paths]) -> list[Paths]:
    """Returns `count` spread networks, as long as the space has enough none of those in `avoid`."""
    return spread_networks(macs_cost(space), count, _generator(seed, "verification"), avoid=avoid)


def _generator(seed: int, purpose: Purpose) -> np.random.Generator:
    """Returns the generator of one purpose. Each has its own, so that its networks do not depend on other counts."""
    return np.random.default_rng([seed, ("context", "layer", "calibration", "verification").index(purpose)])


def uniform_networks(space: Space) -> list[Paths]:
    """Returns a network for each candidate. It takes that wherever an edge has it, and the first one elsewhere."""
    names = dict.fromkeys(name for edge in space.searchable for name in edge.candidates)
    return list(
        dict.fromkeys(
            tuple(edge.candidates.index(name) if name in edge.candidates else 0 for edge in space.searchable)
            for name in names
        )
    )


def spread_networks(cost: Cost, count: int, rng: np.random.Generator, *, avoid: Sequence[Paths] = ()) -> list[Paths]:
    """Returns `count` random networks whose expected costs are evenly spaced over the reachable range.

    Edge e takes candidate i with probability proportional to exp(-tau F_e,i); tau runs from negative (the most
    expensive ops) to positive (the cheapest), solved so that the expectation meets each target. Networks are distinct
    from each other and from `avoid` as long as the space has enough of them.
    """
    seen = set(avoid)
    networks = []
    for share in (np.arange(count) + 0.5) / max(count, 1):
        tau = _tau_for(cost, float(share))
        for closeness in np.linspace(1, 0, 200):  # a small space may have no other network left near this cost
            p = _boltzmann(cost, closeness * tau)
            paths = tuple(int(rng.choice(len(row), p=row)) for row in p)
            if paths not in seen:
                break
        seen.add(paths)
        networks.append(paths)
    return networks


def middle_network(cost: Cost) -> Paths:
    """Returns one network from the middle of the reachable range, the same every time."""
    (paths,) = spread_networks(cost, 1, np.random.default_rng(0))
    return paths


def _boltzmann(cost: Cost, tau: float) -> np.ndarray:
    """Returns p (edges, candidates), with p_e,i proportional to exp(-tau F_e,i)."""
    logits = np.where(cost.mask, -tau * cost.table, -np.inf)
    p = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))  # a space may have no edge to choose on
    normalised: np.ndarray = p / p.sum(axis=1, keepdims=True)
    return normalised


def _tau_for(cost: Cost, share: float) -> float:
    """Returns the tau at which the expected cost lies `share` of the way from the smallest to the largest one."""
    low, high = cost.reachable
    if high <= low:
        return 0.0
    target = low + share * (high - low)

    def excess(tau: float) -> float:
        """Returns how far the expected cost is above the target."""
        return cost.fixed + float((_boltzmann(cost, tau) * cost.table).sum()) - target

    bound = 1.0 / (high - low)
    while not excess(-bound) > 0 > excess(bound):  # the expectation falls with tau, from `high` to `low`
        bound *= 2
    root: float = brentq(excess, -bound, bound, xtol=1e-12 * bound)  # the default is absolute, but tau has a unit
    return root


def schedule(jobs: Sequence[TimingJob], rounds: int) -> list[list[str]]:
    """Returns the ids of the jobs of each round. A context network takes part in one round, since there are many; every
    other job takes part in all."""
    context = [job.id for job in jobs if job.purpose == "context"]
    others = [job.id for job in jobs if job.purpose != "context"]
    return [[*context[r::rounds], *others] for r in range(rounds)]
