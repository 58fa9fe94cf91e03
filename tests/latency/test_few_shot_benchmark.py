"""The simulation and the averages of benchmarks/few_shot_tables.py: identities on made-up tables."""

from __future__ import annotations

import numpy as np
import pytest

from few_shot_tables import COUNTS, counts_of, mean_and_error, means, read_space, simulated
from supernet.space import Space


@pytest.fixture
def space(space_of) -> Space:
    stages = [{"width": 16, "depth": 3, "candidates": ["mbconv_k3_e3", "mbconv_k5_e6", "mbconv_k7_e3", "skip"]}]
    return space_of({"input_size": 16, "stem": {"width": 16}, "stages": [*stages, *stages], "feature_mix": 32})


def test_without_noise_and_pairs_a_device_takes_the_sums_of_its_table(space, formula_table):
    table = formula_table(space)
    sample = simulated(space, table, 0.0, 0.0)(15, 1)
    entries = np.array([entry.ms for entry in table.entries.values()])
    np.testing.assert_allclose(sample.ms, sample.counts @ entries)
    np.testing.assert_allclose(sample.fresh_ms, sample.fresh_counts @ entries)
    assert len(sample.ms) == 15
    assert len(np.unique(np.vstack([sample.counts, sample.fresh_counts]), axis=0)) <= 315


def test_held_out_networks_have_no_noise_and_the_pairs_of_a_device_are_the_same_in_every_draw(space, formula_table):
    table = formula_table(space)
    quiet, noisy = (simulated(space, table, noise, 0.05)(15, 1) for noise in (0.0, 0.03))
    np.testing.assert_array_equal(quiet.fresh_ms, noisy.fresh_ms)
    assert 0.01 < np.std(np.log(noisy.ms / quiet.ms)) < 0.06
    sums = quiet.fresh_counts @ np.array([entry.ms for entry in table.entries.values()])
    assert 0.001 < np.std(quiet.fresh_ms / sums) < 0.05


def test_the_published_space_has_22_edges_of_9_candidates(checkout):
    space = read_space(checkout / "benchmarks" / "few_shot" / "fbnet.yaml")
    assert [len(edge.candidates) for edge in space.searchable] == [9] * 22
    assert space.feature_mix.size == 4
    assert (
        counts_of(space, [(8,) * 22])[0] > 0
    ).sum() == 3 + 6  # stem, head, and a 1x1 convolution where shapes change


def test_errors_are_those_of_means_over_devices():
    """For two devices and three seeds, the error is that of the seeds' means, not of single fits."""
    one, two = [(0.9, 2.0), (0.8, 3.0), (0.7, 4.0)], [(0.5, 4.0), (0.6, 3.0), (0.7, 2.0)]
    averages = means([{count: {"none": scores} for count in COUNTS} for scores in (one, two)])
    assert averages["30"]["none"] == [0.7, 0.0, 3.0, 0.0]
    assert mean_and_error(np.array(one)) == pytest.approx([0.8, 0.1 / 3**0.5, 3.0, 1 / 3**0.5], abs=1e-4)
