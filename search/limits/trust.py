"""Judges whether a latency table's predictions can be relied on: gives notes to the user, or refuses the table."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from engine.errors import Action
from latency.device import this_device
from latency.interpolation import interpolate
from latency.runtimes import version_here
from latency.table import LatencyTable, TableError
from latency.verification import NOISY_PERCENT
from search.limits.making import Making
from supernet.space import Space


@dataclass(frozen=True)
class Note:
    """A note to the user about a table, and what to do about it."""

    text: str
    remedy: str
    action: Action | None = None
    """The command for the remedy."""

    @property
    def what_to_do(self) -> str:
        """The remedy, with the command."""
        return self.remedy if self.action is None else f"{self.remedy}: {self.action}"

    def __str__(self) -> str:
        return f"{self.text}; {self.what_to_do}"


def completed(table: LatencyTable, path: Path, space: Space) -> tuple[LatencyTable, Note]:
    """Returns the table with its missing entries predicted from others, and a note about them. Raises TableError."""
    count = len(table.missing(space))
    try:
        table, interpolation = interpolate(table, space)
    except TableError as error:
        raise error.within(str(path)) from None
    entries = "1 entry is" if count == 1 else f"{count} entries are"
    text = f"{path}: {entries} interpolated, not measured: {interpolation}"
    return table, Note(text, "measure a table for this space where that error is too large")


def elsewhere(table: LatencyTable) -> bool:
    """Returns whether the table is of a GPU and this machine has none, so that it cannot be measured here."""
    return table.device.kind == "gpu" and not torch.cuda.is_available()


def of_this_runtime(table: LatencyTable, making: Making) -> list[Note]:
    """Returns a note if the table is of this very machine and its runtime has another version by now."""
    kind: Literal["cpu", "cuda"] = "cuda" if table.device.kind == "gpu" else "cpu"
    if kind == "cuda" and not torch.cuda.is_available():
        return []
    if table.device.fingerprint != this_device(kind).fingerprint:
        return []
    here = version_here(table.runtime.name)
    if here in (None, table.runtime.version):
        return []
    text = f"{making.table}: was measured with {table.runtime.name} {table.runtime.version}, this is {here}"
    return [Note(text, "see whether it still holds", making.action())]


def trust(table: LatencyTable, largest_error: float, where: str, making: Making) -> list[Note]:
    """Returns notes on the verification of a table as it was loaded. Raises TableError if its error is above
    `largest_error`.

    largest_error: in percent; where: its place in its file. making: how the table was made.
    """
    path, external = making.table, making.external
    there = " on the machine with its GPU" if elsewhere(table) and not external else ""
    verify = None if external else making.action()
    by_kit = " by a kit (proxyless-nas kit)" if external else ""

    verification = table.verification
    if verification is None and table.method in ("whole_networks", "imported"):
        text = f"{path}: comes from elsewhere and was never verified on whole networks"
        if table.calibration:
            text += f" (error on networks left out of its fit: {table.calibration.cross_validation_percent:.2g} %)"
        return [Note(text, "time the derived network on the device before you rely on its latency")]
    if verification is None:
        text = f"{path}: never verified on whole networks, so its error is unknown"
        return [Note(text, f"verify it{there}{by_kit}", verify)]
    error = verification.table.mape_percent
    disturbed = verification.noise_mape_percent > NOISY_PERCENT
    if error > largest_error:
        action = making.action("--recalibrate", out=making.free)
        refit = f"recalibrate a copy{there} (after: {shlex.join(['cp', str(path), str(making.free)])})"
        if external:
            refit = making.words("a new one")
        again = f"verify again when it is idle{there}{by_kit or ' (--verify 40)'}; else "
        busy = (
            f"the device was busy when it was verified (a repeated measurement differed by "
            f"{verification.noise_mape_percent:.2g} %): {again}"
        )
        raise TableError(
            where,
            f"{path} predicts whole networks with an error of {error:.3g} %, above {largest_error:g} %",
            remedy=f"{busy if disturbed else ''}raise this bound, measure again on an idle device, or {refit}",
            action=action,
        )
    if disturbed:
        text = (
            f"{path}: the device was busy when it was verified (a repeated measurement differed by "
            f"{verification.noise_mape_percent:.2g} %), so its error of {error:.3g} % proves little"
        )
        return [Note(text, f"verify again on an idle device{there}{by_kit}", verify)]
    if not verification.holds:
        text = (
            f"{path}: predicts whole networks with an error of {error:.3g} %, more than 3 % and twice the noise "
            f"({verification.noise_mape_percent:.2g} %), overall or in a third of the range"
        )
        return [Note(text, "measure again on an idle device")]
    return []
