"""Scores compared with hand-computed ones, plain predictors at their optimum, and the verdict at its threshold."""

from __future__ import annotations

import errno
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from engine.files import WriteError
from latency.verification import ACCEPTED_PERCENT, draw_picture, fitted_line, scores, verification

MEASURED = np.array([1.0, 2.0, 4.0, 5.0, 8.0, 10.0])
PREDICTED = np.array([1.1, 1.8, 4.0, 5.5, 8.0, 11.0])


def test_scores_equal_those_computed_by_hand():
    """The relative errors are +10, -10, 0, +10, 0, +10 %; the ranks agree."""
    result = scores(PREDICTED, MEASURED)
    assert result.mape_percent == pytest.approx(40 / 6)
    assert result.bias_percent == pytest.approx(20 / 6)
    assert result.rmse_ms == pytest.approx(np.sqrt((0.01 + 0.04 + 0.25 + 1.0) / 6))
    assert result.mape_percent_thirds == pytest.approx((10, 5, 5))
    assert (result.spearman, result.kendall) == (pytest.approx(1), pytest.approx(1))


def test_thirds_are_by_measured_rank_whatever_the_order():
    order = np.random.default_rng(0).permutation(6)
    assert scores(PREDICTED[order], MEASURED[order]).mape_percent_thirds == pytest.approx((10, 5, 5))


def test_rank_correlations_by_hand():
    """With one swapped pair of 4, Spearman is 1 - 6 * 2 / 60 and Kendall (5 - 1) / 6."""
    result = scores(np.array([1.0, 3.0, 2.0, 4.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert result.spearman == pytest.approx(0.8)
    assert result.kendall == pytest.approx(4 / 6)


def test_tied_predictions_share_their_rank():
    """For ranks 1, 2.5, 2.5, 4 against 1 to 4, Spearman is Pearson's 4.5 / sqrt(4.5 * 5), and Kendall's tau b 5 /
    sqrt(5 * 6)."""
    result = scores(np.array([1.0, 2.0, 2.0, 4.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert result.spearman == pytest.approx(4.5 / np.sqrt(4.5 * 5))
    assert result.kendall == pytest.approx(5 / np.sqrt(5 * 6))


def test_rank_correlations_count_pairs():
    """Kendall counts concordant minus discordant pairs; Spearman is 1 - 6 sum d^2 / (n (n^2 - 1))."""
    rng = np.random.default_rng(0)
    a, b = rng.permutation(30) + 1.0, rng.permutation(30) + 1.0
    pairs = [np.sign((a[i] - a[j]) * (b[i] - b[j])) for i in range(30) for j in range(i)]
    result = scores(a, b)
    assert result.kendall == pytest.approx(np.mean(pairs))
    assert result.spearman == pytest.approx(1 - 6 * np.sum((a - b) ** 2) / (30 * (30**2 - 1)))


def test_equal_measurements_have_no_rank():
    assert scores(MEASURED, np.full(6, 5.0)).spearman is None


@pytest.mark.parametrize("count", [3, 4, 5, 40])
def test_thirds_are_as_equal_as_can_be(count):
    """The error grows with rank, so each third has its own mean; the larger ones come first."""
    measured = np.arange(count) + 1.0
    result = scores(measured * (1 + np.arange(count) / 100), measured)
    sizes = [count // 3 + (i < count % 3) for i in range(3)]
    ends = np.cumsum([0, *sizes])
    expected = [np.arange(a, b).mean() for a, b in pairwise(ends)]
    assert result.mape_percent_thirds == pytest.approx(expected)


def test_equal_predictions_have_no_rank():
    result = scores(np.full(6, 5.0), MEASURED)
    assert result.spearman is None
    assert result.kendall is None


@pytest.mark.parametrize("feature", [None, np.array([1.0, 3.0, 2.0, 5.0, 7.0, 9.0])])
def test_plain_predictors_are_at_their_optimum(feature):
    """No small change of the coefficients lowers the sum of squared relative errors."""
    best = fitted_line(feature, MEASURED)
    loss = np.sum((best / MEASURED - 1) ** 2)
    for constant, slope in ((1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3)):
        moved = best + constant + slope * (0 if feature is None else feature)
        assert np.sum((moved / MEASURED - 1) ** 2) >= loss


def test_a_fitted_line_equals_the_line_that_the_points_lie_on():
    feature = np.array([1.0, 3.0, 2.0, 5.0, 7.0, 9.0])
    np.testing.assert_allclose(fitted_line(feature, 2 + 3 * feature), 2 + 3 * feature)


def verdict(errors: np.ndarray, noise: float) -> bool:
    """Returns a verification. errors, noise: in percent."""
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


def at(errors: list[float], again: float) -> bool:
    """Returns a verification with errors in whole milliseconds of 100 ms, so that percentages are not rounded."""
    hundred = np.full(6, 100.0)
    predicted = hundred + np.array(errors)
    return verification(
        predicted=predicted, raw=hundred, macs=np.arange(1.0, 7), measured=hundred, repeated=hundred + again
    ).holds


def test_the_threshold_itself_holds():
    assert ACCEPTED_PERCENT == 3
    assert at([3.0, -3.0] * 3, again=0)
    assert not at([3.0, -3.0, 3.0, -3.0, 3.0, -3.0000001], again=0)
    assert at([0, 0, 0, 0, 3.0, 3.0], again=0)
    assert not at([0, 0, 3.0, 3.0000001, 0, 0], again=0)
    assert at([4.0] * 6, again=-2)
    assert not at([4.0] * 5 + [4.0000001], again=-2)
    assert not at([3.5] * 6, again=1.5)  # 2 x 1.5 % is no more than 3 %


def test_a_table_is_unreliable_if_one_third_of_the_networks_is_predicted_badly():
    """The mean of 1.2 % hides 3.6 % among the slowest."""
    assert not verdict(np.array([0, 0, 0, 0, 3.6, 3.6]), noise=0)
    assert verdict(np.array([0, 0, 0, 0, 2.9, 2.9]), noise=0)


def test_noise_is_the_repeated_measurements_error():
    result = verification(
        predicted=MEASURED, raw=2 * MEASURED, macs=MEASURED, measured=MEASURED, repeated=MEASURED * 1.01
    )
    assert result.noise_mape_percent == pytest.approx(1)
    assert result.raw.mape_percent == pytest.approx(100)
    assert result.table.mape_percent == 0
    assert result.macs.mape_percent == pytest.approx(0, abs=1e-9)
    assert result.constant.mape_percent > 20
    assert result.networks == 6
    assert result.measured_range_ms == (1, 10)
    assert result.measured_ms == tuple(MEASURED)


def test_the_picture_is_a_png(tmp_path):
    series = [("table", PREDICTED, MEASURED), ("other", MEASURED, MEASURED)]
    draw_picture(tmp_path / "p.png", {"a": series, "b": series[:1]})
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    """If the disk fills up while it is drawn, the error is one line and the old picture is kept."""
    path, numbers = tmp_path / "t.png", np.array([1.0, 2.0, 3.0])
    panels = {"a device": [("a runtime", numbers, numbers + 0.1)]}
    draw_picture(path, panels)
    before = path.read_bytes()
    assert before.startswith(b"\x89PNG")

    def full(self, file, **_):
        Path(file).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(WriteError, match=r"t\.png: cannot be written \(No space left on device\); make room"):
        draw_picture(path, panels)
    assert [p.name for p in tmp_path.iterdir()] == ["t.png"]
    assert path.read_bytes() == before
