"""What a latency table's predictions are worth: notes for the user, or a refusal."""

from __future__ import annotations

from collections.abc import Callable

from latency.table import LatencyTable, TableError
from search.config import LimitConfig
from supernet.space import Space


def completed(table: LatencyTable, limit: LimitConfig, space: Space) -> tuple[LatencyTable, tuple[str, ...]]:
    """The table with its missing entries predicted from others, and a note about them. Raises TableError."""
    from latency.interpolation import interpolate

    count = len(table.missing(space))
    table, interpolation = interpolate(table, space)
    entries = "1 entry is" if count == 1 else f"{count} entries are"
    return table, (f"{limit.table}: {entries} interpolated, not measured: {interpolation}",)


def trust(
    table: LatencyTable, limit: LimitConfig, where: str, command: Callable[..., str], *, external: bool
) -> tuple[str, ...]:
    """Notes on the table's verification. TableError where its error is above `largest_error`.

    where: the limit's place in its file. command: gives the measuring command with further arguments.
    """
    found = table.verification
    if found is None:
        how = "the kit of scripts/device_kit.py" if external else command("--verify", "40")
        return (f"{limit.table}: never verified on whole networks, so its error is unknown; verify it: {how}",)
    error = found.table.mape_percent
    if error > limit.largest_error:
        again = "the kit of scripts/device_kit.py" if external else command("--recalibrate")
        raise TableError(
            f"{where}.largest_error: {limit.table} predicts whole networks with an error of {error:.3g} %, above "
            f"{limit.largest_error:g} %; recalibrate it ({again}), measure again on an idle device, or raise this bound"
        )
    if not found.holds:
        return (
            f"{limit.table}: predicts whole networks with an error of {error:.3g} %, more than 3 % and twice the noise "
            f"({found.noise_mape_percent:.2g} %), overall or in a third of the range; measure again on an idle device",
        )
    return ()
