"""Prints how good a table is, and draws a picture beside its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console

from engine.quantities import duration
from latency.config import LARGEST_ERROR
from latency.fit import Fit, named
from latency.importers import Imported, in_words
from latency.kit import ExportedKit
from latency.table import LatencyTable, Scores, UsedPrior, Verification
from latency.verification import NOISY_PERCENT, accepted_percent, draw_picture
from supernet.space import Space

MOST_LISTED = 6
"""The most entries of one group that a report lists."""
MOST_MISSING = 20
"""The most layers without an entry that a report lists."""
UNLIKELY_SCALE = 100.0
"""The factor by which two devices may differ before a report asks whether their files are in milliseconds."""
WRONG_TABLE = 3
"""The exit status if the written table has an error for which a search would refuse it."""


def exit_status(table: LatencyTable) -> int:
    """Returns WRONG_TABLE if the known error of the table is above LARGEST_ERROR, else 0."""
    if table.verification:
        return WRONG_TABLE if table.verification.table.mape_percent > LARGEST_ERROR else 0
    return WRONG_TABLE if table.calibration and table.calibration.cross_validation_percent > LARGEST_ERROR else 0


def fit_status(fit: Fit) -> int:
    """Returns WRONG_TABLE if the error on networks left out of the fit is above LARGEST_ERROR, else 0."""
    return WRONG_TABLE if fit.left_out.mape_percent > LARGEST_ERROR else 0


def summary(verification: Verification) -> str:
    """Returns a verification in one line."""
    spearman = "-" if verification.table.spearman is None else f"{verification.table.spearman:.3f}"
    thirds = ", ".join(f"{third:.1f}" for third in verification.table.mape_percent_thirds)
    low, high = verification.measured_range_ms
    return (
        f"{verification.networks} fresh networks of {duration(low)} to {duration(high)}: "
        f"error {verification.table.mape_percent:.1f} % "
        f"(thirds {thirds}; a repeated measurement {verification.noise_mape_percent:.1f} %), bias "
        f"{verification.table.bias_percent:+.1f} %, Spearman {spearman}; "
        f"a constant {verification.constant.mape_percent:.1f} %, linear in MACs {verification.macs.mape_percent:.1f} %"
    )


def print_report(table: LatencyTable, path: Path) -> None:
    """Prints the errors of a table that was written to `path`. Draws predicted against measured ms beside it, if it is
    verified."""
    console = _console()
    console.print(
        f"{path}: {len(table.entries)} ops on {table.device.name}, {table.runtime.name} {table.runtime.version}, "
        f"{table.method.replace('_', ' ')}"
    )
    if table.calibration:
        console.print(
            f"calibrated by {table.calibration.networks} networks: error "
            f"{table.calibration.cross_validation_percent:.1f} % on those left out of the fit"
        )
    verification = table.verification
    if verification is None:
        console.print("not verified: how far its sums are off is not known")
        if exit_status(table):
            console.print(
                f"WARNING: networks left out of the fit are missed by more than the {LARGEST_ERROR:g} % that searches "
                "accept: measure again on an idle machine"
            )
        return
    console.print(f"verified on {summary(verification)}")
    if verification.calibrated_by:
        console.print(
            f"{verification.calibrated_by} of these networks had calibrated the table, since the space has too few "
            "others: the error is understated"
        )
    picture = path.with_suffix(".png")
    draw_picture(
        picture,
        {
            table.device.name: [
                (table.runtime.name, np.array(verification.predicted_ms), np.array(verification.measured_ms))
            ]
        },
    )
    console.print(f"predicted against measured: {picture}")
    for line in verdict(verification):
        console.print(line)


def verdict(verification: Verification) -> list[str]:
    """Returns whether the table holds, in lines. If the machine was busy, the lines say so instead."""
    worst = max(verification.table.mape_percent, *verification.table.mape_percent_thirds)
    accepted = accepted_percent(verification.noise_mape_percent)
    refused = verification.table.mape_percent > LARGEST_ERROR
    lines = []
    if verification.noise_mape_percent > NOISY_PERCENT:
        lines.append(
            f"the machine was busy: a repeated measurement differs by {verification.noise_mape_percent:.1f} %, so this "
            "verification does not say whether the table is right; --verify again on an idle machine"
        )
    elif verification.holds:
        lines.append(
            f"the table holds: {worst:.1f} % at most, overall and in each third, where {accepted:.1f} % is accepted"
        )
    else:
        lines.append(
            f"the table does NOT hold: {worst:.1f} %, overall or in a third, where {accepted:.1f} % is accepted; "
            "measure again on an idle machine, or refit it with --recalibrate"
        )
    if refused:
        lines.append(
            f"WARNING: as it is, searches refuse this table: its error of {verification.table.mape_percent:.1f} % "
            f"is above {LARGEST_ERROR:g} %"
        )
    return lines


def print_how_to_search(path: Path) -> None:
    """Prints the lines of a search's YAML that read a table of another device."""
    console = _console()
    console.print("to search with it, put into the search's YAML:")
    console.print("  measure: {device: external}")
    console.print(f"  limits: [{{metric: latency, table: {path}, at: 50%}}]")


def print_import(imported: Imported, path: Path) -> None:
    """Prints what an imported table, written to `path`, holds, and what was left out of it."""
    table, console = imported.table, _console()
    console.print(f"{path}: {len(table.entries)} ops at {table.input_size} px, batch {table.batch}, {table.activation}")
    for line in in_words(imported.left_out):
        console.print(line)
    print_how_to_search(path)


def print_lacking(table: LatencyTable, space: Space, config: Path) -> None:
    """Prints which layers of a space the table lacks, and for which settings a search would refuse it.

    config: the file of the space.
    """
    missing, console = table.missing(space), _console()
    console.print(f"{config}: the table lacks {len(missing)} of its ops{':' if missing else ''}")
    for layer in missing[:MOST_MISSING]:
        console.print(f"  {layer}")
    if len(missing) > MOST_MISSING:
        console.print(f"  ... and {len(missing) - MOST_MISSING} more")
    for name, own, wanted in (
        ("input_size", table.input_size, space.config.input_size),
        ("activation", table.activation, space.config.activation),
    ):
        if own != wanted:
            console.print(f"{config}: space.{name} is {wanted}, the table's {name} is {own}: a search would refuse it")


def print_export(kit: ExportedKit) -> None:
    """Prints how much an exported kit times, and how large it is."""
    size = sum(path.stat().st_size for path in kit.folder.rglob("*") if path.is_file())
    _console().print(
        f"{kit.folder}: {kit.timings} timings of {kit.runtime} models, {size / 1e6:.3g} MB; see README.txt there"
    )


def print_how_to_import(kit: Path, results: Path) -> None:
    """Prints the command that makes a table of a device's results."""
    _console().print(f"{results}: now `proxyless-nas kit import {kit} {results} --out TABLE`")


def _console() -> Console:
    """Returns a console that prints each line as it is, however long, to the standard output of this moment."""
    return Console(soft_wrap=True, highlight=False, markup=False, emoji=False)


def print_fit(fit: Fit, path: Path) -> None:
    """Prints the error of a fitted table on networks left out of the fit, and the entries that are not determined."""
    console = _console()
    left_out, identified = fit.left_out, fit.identified
    spearman = "-" if left_out.spearman is None else f"{left_out.spearman:.3f}"
    console.print(
        f"{path}: {len(fit.table.entries)} ops, {fit.table.how}; error on networks left out of the fit "
        f"{left_out.mape_percent:.1f} %, Spearman {spearman}"
    )
    prior = fit.table.calibration.prior if fit.table.calibration else None
    if prior and fit.prior_alone:
        console.print(_of_the_prior(prior, fit.prior_alone))
    for paths, ms, expected in fit.outliers:
        console.print(
            f"{named(fit.space, paths)} has {duration(ms)}, where the other networks predict {duration(expected)}: "
            "is that timing right? The whole table suffers from a wrong one"
        )
    if identified.unseen:
        console.print(
            f"{len(identified.unseen)} ops are in none of the networks, their milliseconds are "
            f"{'the prior, scaled and moved as' if prior else 'guesses from'} ops like them: "
            + ", ".join(identified.unseen)
        )
    if identified.inseparable:
        console.print(
            f"the networks give {identified.rank} of {identified.needed} independent comparisons; "
            f"{'the prior' if prior else 'a guess from shapes'} decides the rest, unless you measure at least "
            f"{identified.needed - identified.rank} more, unlike these. Told apart by it alone:"
        )
        for group in identified.inseparable:
            more = f" and {len(group) - MOST_LISTED} more" if len(group) > MOST_LISTED else ""
            console.print("  " + ", ".join(group[:MOST_LISTED]) + more)
    if fit_status(fit):
        console.print(
            f"WARNING: an error of {left_out.mape_percent:.1f} % on networks left out of the fit is above the "
            f"{LARGEST_ERROR:g} % that searches accept of a verified table: look for wrong timings, time more "
            "networks, or time each several times on an idle device"
        )
    print_how_to_search(path)


def _of_the_prior(prior: UsedPrior, alone: Scores) -> str:
    """Returns the errors of the prior's own sums and the ratio of the devices, in one line."""
    line = f"the prior alone, scaled, misses them by {alone.mape_percent:.1f} %"
    if prior.device is None:
        return line
    line += f"; the networks take {prior.scale:.3g} times as long as on {prior.device}"
    if not 1 / UNLIKELY_SCALE < prior.scale < UNLIKELY_SCALE:
        return f"{line}: are the timings and that table in milliseconds?"
    return line
