"""Scores against hand-computed ones, plain predictors at their optimum, the verdict at its threshold."""

from __future__ import annotations

import numpy as np
import pytest

from latency.verification import draw_picture, fitted_line, scores, verification

MEASURED = np.array([1.0, 2.0, 4.0, 5.0, 8.0, 10.0])
PREDICTED = np.array([1.1, 1.8, 4.0, 5.5, 8.0, 11.0])


def test_scores_by_hand():
    """Relative errors +10, -10, 0, +10, 0, +10 %; the ranks agree."""
    found = scores(PREDICTED, MEASURED)
    assert found.mape_percent == pytest.approx(40 / 6)
    assert found.bias_percent == pytest.approx(20 / 6)
    assert found.rmse_ms == pytest.approx(np.sqrt((0.01 + 0.04 + 0.25 + 1.0) / 6))
    assert found.mape_percent_thirds == pytest.approx((10, 5, 5))
    assert (found.spearman, found.kendall) == (pytest.approx(1), pytest.approx(1))


def test_thirds_are_by_measured_rank_whatever_the_order():
    order = np.random.default_rng(0).permutation(6)
    assert scores(PREDICTED[order], MEASURED[order]).mape_percent_thirds == pytest.approx((10, 5, 5))


def test_rank_correlations_by_hand():
    """One swapped pair of 4: Spearman 1 - 6 * 2 / 60, Kendall (5 - 1) / 6."""
    found = scores(np.array([1.0, 3.0, 2.0, 4.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert found.spearman == pytest.approx(0.8)
    assert found.kendall == pytest.approx(4 / 6)


def test_equal_predictions_have_no_rank():
    found = scores(np.full(6, 5.0), MEASURED)
    assert found.spearman is None
    assert found.kendall is None


@pytest.mark.parametrize("feature", [None, np.array([1.0, 3.0, 2.0, 5.0, 7.0, 9.0])])
def test_plain_predictors_are_at_their_optimum(feature):
    """No small change of the coefficients lowers the sum of squared relative errors."""
    best = fitted_line(feature, MEASURED)
    loss = np.sum((best / MEASURED - 1) ** 2)
    for constant, slope in ((1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3)):
        moved = best + constant + slope * (0 if feature is None else feature)
        assert np.sum((moved / MEASURED - 1) ** 2) >= loss


def test_a_line_finds_a_line():
    feature = np.array([1.0, 3.0, 2.0, 5.0, 7.0, 9.0])
    np.testing.assert_allclose(fitted_line(feature, 2 + 3 * feature), 2 + 3 * feature)


def verdict(errors: np.ndarray, noise: float) -> bool:
    """errors, noise: in percent."""
    return verification(
        predicted=MEASURED * (1 + errors / 100), raw=MEASURED, macs=MEASURED, measured=MEASURED,
        repeated=MEASURED * (1 + noise / 100),
    ).holds  # fmt: skip


def test_a_table_holds_up_to_three_percent_or_twice_the_noise():
    every = np.ones(6)
    assert verdict(2.99 * every, noise=0)
    assert not verdict(3.01 * every, noise=0)
    assert verdict(3.99 * every, noise=2)
    assert not verdict(4.01 * every, noise=2)


def test_one_bad_third_is_enough():
    """The mean of 1.2 % hides 3.6 % among the slowest."""
    assert not verdict(np.array([0, 0, 0, 0, 3.6, 3.6]), noise=0)
    assert verdict(np.array([0, 0, 0, 0, 2.9, 2.9]), noise=0)


def test_noise_is_the_repeated_measurements_error():
    found = verification(
        predicted=MEASURED, raw=2 * MEASURED, macs=MEASURED, measured=MEASURED, repeated=MEASURED * 1.01
    )
    assert found.noise_mape_percent == pytest.approx(1)
    assert found.raw.mape_percent == pytest.approx(100)
    assert found.table.mape_percent == 0
    assert found.macs.mape_percent == pytest.approx(0, abs=1e-9)
    assert found.constant.mape_percent > 20
    assert found.networks == 6
    assert found.measured_range_ms == (1, 10)
    assert found.measured_ms == tuple(MEASURED)


def test_the_picture_is_a_png(tmp_path):
    series = [("table", PREDICTED, MEASURED), ("other", MEASURED, MEASURED)]
    draw_picture(tmp_path / "p.png", {"a": series, "b": series[:1]})
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
