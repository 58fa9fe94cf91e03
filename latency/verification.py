"""Scores predictions on fresh networks, beside plain predictors, and draws a picture of them."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from engine.files import replacing, writing
from latency.config import MOST_REPEATS
from latency.table import Scores, TableError, Verification

ACCEPTED_PERCENT = 3.0
"""A table holds if its MAPE is at most this, or at most twice the noise if that is more, overall and in each third."""
NOISY_PERCENT = 5.0
"""The machine was busy if the repeated measurement of a verification differs by more than this."""
FEWEST_NETWORKS = 6
"""The fewest networks of a verification: two in each third of the range."""


def accepted_percent(noise_mape_percent: float) -> float:
    """Returns the largest MAPE of a table that holds, in percent."""
    return max(ACCEPTED_PERCENT, 2 * noise_mape_percent)


def check_count(networks: int) -> None:
    """Raises TableError for a --verify of fewer than FEWEST_NETWORKS or more than MOST_REPEATS; 0 asks for none."""
    if not isinstance(networks, int) or (networks and networks < FEWEST_NETWORKS):
        raise TableError("--verify", f"got {networks}", f"at least {FEWEST_NETWORKS} networks, e.g. 40, or 0 for none")
    if networks > MOST_REPEATS:
        raise TableError("--verify", f"got {networks}", f"at most {MOST_REPEATS} networks, e.g. 40")


def check_seed(seed: int | None) -> None:
    """Raises TableError for a --seed that numpy does not take; None is one that it chooses."""
    if seed is not None and not 0 <= seed < 1 << 63:
        raise TableError("--seed", f"got {seed}", "a whole number from 0 on")


def scores(predicted: np.ndarray, measured: np.ndarray) -> Scores:
    """Returns the errors of predictions. Both are (networks,) in ms, measured > 0, at least 3 networks.

    The thirds are those of the measured networks by rank.
    """
    from scipy.stats import kendalltau, spearmanr

    relative = (predicted - measured) / measured
    thirds = [
        float(100 * np.abs(relative[part]).mean()) for part in np.array_split(np.argsort(measured, kind="stable"), 3)
    ]
    ranked = np.ptp(predicted) > 0 and np.ptp(measured) > 0
    return Scores(
        mape_percent=float(100 * np.abs(relative).mean()),
        rmse_ms=float(np.sqrt(np.mean((predicted - measured) ** 2))),
        spearman=float(spearmanr(predicted, measured).statistic) if ranked else None,
        kendall=float(kendalltau(predicted, measured).statistic) if ranked else None,
        bias_percent=float(100 * relative.mean()),
        mape_percent_thirds=(thirds[0], thirds[1], thirds[2]),
    )


def fitted_line(feature: np.ndarray | None, measured: np.ndarray) -> np.ndarray:
    """Returns the predictions of the best a + b * feature in relative least squares, (networks,); for None, of the best
    constant."""
    columns = np.ones((len(measured), 1)) if feature is None else np.column_stack([np.ones(len(measured)), feature])
    coefficients, *_ = np.linalg.lstsq(columns / measured[:, None], np.ones(len(measured)), rcond=None)
    predicted: np.ndarray = columns @ coefficients
    return predicted


def verification(
    *,
    predicted: np.ndarray,
    raw: np.ndarray,
    macs: np.ndarray,
    measured: np.ndarray,
    repeated: np.ndarray,
    calibrated_by: int = 0,
) -> Verification:
    """Computes a verification. Its arrays are (networks,): ms by the table, ms by its uncorrected entries, MACs, and
    two measurements of the same networks in ms.

    Predictions are compared with the first measurement; the second gives the noise, which is the error of a repeated
    measurement. calibrated_by: how many of the networks had calibrated the table.
    """
    noise = scores(repeated, measured)
    own = scores(predicted, measured)
    return Verification(
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        networks=len(measured),
        calibrated_by=calibrated_by,
        measured_range_ms=(float(measured.min()), float(measured.max())),
        noise_mape_percent=noise.mape_percent,
        noise_spearman=noise.spearman,
        table=own,
        raw=scores(raw, measured),
        constant=scores(fitted_line(None, measured), measured),
        macs=scores(fitted_line(macs / macs.mean(), measured), measured),
        holds=max(own.mape_percent, *own.mape_percent_thirds) <= accepted_percent(noise.mape_percent),
        measured_ms=tuple(measured.tolist()),
        predicted_ms=tuple(predicted.tolist()),
    )


def draw_picture(path: Path, panels: Mapping[str, Sequence[tuple[str, np.ndarray, np.ndarray]]]) -> None:
    """Draws predicted against measured ms: one panel per title, one colour per (label, predicted, measured).

    Writes a PNG, whole or not at all. Raises WriteError if the system refuses.
    """
    from matplotlib.figure import Figure  # not pyplot: it keeps figures and picks a backend

    figure = Figure(figsize=(5.2 * len(panels), 5), layout="constrained")
    for axes, (title, series) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True):
        everything = np.concatenate([np.concatenate([p, m]) for _, p, m in series])
        ends = [0.95 * float(everything.min()), 1.05 * float(everything.max())]
        axes.plot(ends, ends, color="0.6", linewidth=1)
        for label, predicted, measured in series:
            mape = scores(predicted, measured).mape_percent
            axes.plot(measured, predicted, "o", markersize=4, alpha=0.8, label=f"{label}: MAPE {mape:.1f} %")
        axes.set(xlabel="measured ms", ylabel="predicted ms", title=title, xlim=ends, ylim=ends, aspect="equal")
        axes.legend(frameon=False)
    with replacing(path) as temporary, writing(path):
        figure.savefig(temporary, dpi=120, format="png")
