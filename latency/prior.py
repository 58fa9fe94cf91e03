"""Reads the prior of a table that is fitted to few networks: another device's table, or MACs, up to a scale."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from engine.errors import UserError
from latency.calibration import left_out, solve
from latency.plan import timed_layers
from latency.table import LatencyTable, UsedPrior
from supernet.space import Layer, Space

MACS: Literal["macs"] = "macs"


class PriorError(UserError):
    """Raised if a table is no prior of these networks."""


@dataclass(frozen=True)
class Prior:
    """The expected entries of a table, up to a scale, before its networks are seen.

    entries: (layers,) >= 0, some above 0, of `timed_layers(space)`. constant: in the same unit, added once per network.
    """

    source: str
    """The table's file, or `macs`."""
    entries: np.ndarray
    constant: float = 0.0
    device: str | None = None
    """The device of the table; None for MACs."""
    sha256: str | None = None
    """The hash of the table; None for MACs."""

    def __str__(self) -> str:
        return "MACs" if self.device is None else f"the table of {self.device} ({self.source})"

    def used(self, counts: np.ndarray, measured: np.ndarray) -> UsedPrior:
        """Returns the record of this prior in a table. counts: (networks, layers). measured: (networks,) ms."""
        scale = float(measured.mean() / ((counts @ self.entries).mean() + self.constant))
        return UsedPrior(source=self.source, device=self.device, sha256=self.sha256, scale=scale)


def read_prior(source: LatencyTable | Path | Literal["macs"], space: Space) -> Prior:
    """Returns the prior of a latency table, an object or the path of its file, or that of MACs for the word macs.

    Raises PriorError if the file holds no table, or the table is of another space.
    """
    if source == MACS:
        return macs_prior(space)
    if isinstance(source, LatencyTable):
        return table_prior(source, space, "a table")
    try:
        table = LatencyTable.load(Path(source))
    except UserError as error:
        is_what = "a prior is a latency table (proxyless-nas import makes one of a published file), or the word macs"
        refused = PriorError.of(error, "--prior")
        refused.remedy = "; ".join(filter(None, [refused.remedy, is_what]))
        raise refused from None
    return table_prior(table, space, str(source))


def macs_prior(space: Space) -> Prior:
    """Returns the prior whose entries are the MACs of the layers."""
    return Prior(MACS, np.array([float(layer.complexity.macs) for layer in timed_layers(space)]))


def table_prior(table: LatencyTable, space: Space, source: str) -> Prior:
    """Returns the prior of another device's table. An entry that the table has for single edges counts as their mean.

    source: the table's file, for errors and for the table that is fitted.

    Raises PriorError if the table lacks an op of the space or is 0 throughout, and TableError if the space's fastest
    network would take 0 ms or less.
    """
    layers, where = timed_layers(space), f"--prior {source}"
    if missing := table.missing(space):
        of_another = len(missing) > len(layers) / 10
        raise PriorError(
            where,
            f"has {len(layers) - len(missing)} of the {len(layers)} ops of this space, and no entry '{missing[0]}'",
            "a prior with all of them",
            ("it is of another space: take" if of_another else "complete it, or take")
            + " a table of this space, or --prior macs",
        )
    table.cost(space, where)
    places: dict[Layer, list[float]] = {}
    for place, layer in space.places:
        if not layer.is_skip:
            places.setdefault(layer, []).append(table.price(layer, place))
    entries = np.array([np.mean(places[layer]) for layer in layers])
    if not entries.any():
        raise PriorError(where, "all its entries are 0 ms", "a prior with some above 0", "take another table")
    return Prior(source, entries, table.constant_ms, table.device.name, table.sha256)


def predicted_alone(prior: Prior, counts: np.ndarray, measured: np.ndarray, seed: int) -> np.ndarray:
    """Returns the prior's sum for each network, scaled and shifted to fit the other networks, (networks,) ms.

    counts: (networks, layers). measured: (networks,) ms. seed: deals the networks into folds. Raises PriorError if that
    is no better than one number for all networks.
    """
    sums = counts @ (prior.entries / prior.entries.mean())
    alone, constant = (left_out(_line, feature[:, None], measured, seed) for feature in (sums, 0 * sums))
    error, without = (100 * float(np.sqrt(np.mean((predicted / measured - 1) ** 2))) for predicted in (alone, constant))
    if error >= without:
        raise PriorError(
            f"--prior {prior.source}",
            (
                "explains nothing of these timings: its sums, scaled to them, miss left-out networks by "
                f"{error:.3g} %, one number for all by {without:.3g} %"
            ),
            remedy=(
                "take the table of a device more like this one, or leave out --prior, and check that the "
                "timings belong to these networks"
            ),
        )
    return alone


def _line(sums: np.ndarray, measured: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns ((g,), c), g >= 0, for which c + g sums has the least relative error. sums: (networks, 1)."""
    return solve(sums, measured, np.empty((0, 1)))
