"""What a latency table's predictions are worth: notes for the user, or a refusal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from latency.device import this_device
from latency.interpolation import interpolate
from latency.runtimes import version_here
from latency.table import LatencyTable, TableError
from latency.verification import NOISY_PERCENT
from supernet.space import Space


@dataclass(frozen=True)
class Note:
    """What the user should know of a table, and may do about it."""

    text: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.text}; {self.remedy}"


def completed(table: LatencyTable, path: Path, space: Space) -> tuple[LatencyTable, Note]:
    """The table with its missing entries predicted from others, and a note about them. Raises TableError."""
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


def of_this_runtime(table: LatencyTable, path: Path, command: Callable[..., str]) -> list[Note]:
    """A note on a table of this very machine whose runtime has another version by now. command: as in `trust`."""
    kind: Literal["cpu", "cuda"] = "cuda" if table.device.kind == "gpu" else "cpu"
    if kind == "cuda" and not torch.cuda.is_available():
        return []
    if table.device.fingerprint != this_device(kind).fingerprint:
        return []
    here = version_here(table.runtime.name)
    if here in (None, table.runtime.version):
        return []
    text = f"{path}: was measured with {table.runtime.name} {table.runtime.version}, this is {here}"
    return [Note(text, f"see whether it still holds: {command('--verify', '40')}")]


def trust(
    table: LatencyTable, path: Path, largest_error: float, where: str, command: Callable[..., str], recalibrate: str, *,
    external: bool,
) -> list[Note]:  # fmt: skip
    """Returns notes on the verification of a table as it was loaded. Raises TableError if its error is above
    `largest_error`.

    largest_error: in percent; where: its place in its file. command: returns the measuring command with further
    arguments. recalibrate: the command that recalibrates a copy of the table.
    """
    there = " on the machine with its GPU" if elsewhere(table) and not external else ""
    verify = f"{there}: " + ("the kit of scripts/device_kit.py" if external else command("--verify", "40"))

    found = table.verification
    if found is None and table.method in ("whole_networks", "imported"):
        text = f"{path}: comes from elsewhere and was never verified on whole networks"
        if table.calibration:
            text += f" (error on networks left out of its fit: {table.calibration.cross_validation_percent:.2g} %)"
        return [Note(text, "time the derived network on the device before you rely on its latency")]
    if found is None:
        text = f"{path}: never verified on whole networks, so its error is unknown"
        return [Note(text, f"verify it{verify}")]
    error = found.table.mape_percent
    disturbed = found.noise_mape_percent > NOISY_PERCENT
    if error > largest_error:
        refit = f"make a new one with {recalibrate}" if external else f"recalibrate a copy{there} ({recalibrate})"
        busy = (
            f"the device was busy when it was verified (a repeated measurement differed by "
            f"{found.noise_mape_percent:.2g} %): verify again when it is idle{verify}; else "
        )
        raise TableError(
            where,
            f"{path} predicts whole networks with an error of {error:.3g} %, above {largest_error:g} %",
            remedy=f"{busy if disturbed else ''}{refit}, measure again on an idle device, or raise this bound",
        )
    if disturbed:
        text = (
            f"{path}: the device was busy when it was verified (a repeated measurement differed by "
            f"{found.noise_mape_percent:.2g} %), so its error of {error:.3g} % proves little"
        )
        return [Note(text, f"verify again on an idle device{verify}")]
    if not found.holds:
        text = (
            f"{path}: predicts whole networks with an error of {error:.3g} %, more than 3 % and twice the noise "
            f"({found.noise_mape_percent:.2g} %), overall or in a third of the range"
        )
        return [Note(text, "measure again on an idle device")]
    return []
