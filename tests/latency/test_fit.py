"""Tables fitted to whole networks: recovery of known entries, and the entries that the networks do not determine."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest

from latency.build import occurrences
from latency.config import MeasureConfig
from latency.device import Device
from latency.fit import FitError, _correction, fit_table, identify
from latency.plan import calibration_networks, network_job, timed_layers, verification_networks
from latency.shrinkage import Layers
from latency.table import UsedRuntime
from supernet.space import Space

DEVICE = Device(kind="other", name="board", fingerprint="f")


@pytest.fixture
def space(space_of) -> Space:
    """4 searchable edges and 3 * 4 * 2 * 3 = 72 networks; the second edge of a stage shares its keys with the third."""
    names = ["mbconv_k3_e3", "mbconv_k5_e3", "conv_k1", "skip"]
    return space_of(
        {
            "input_size": 8,
            "classes": 3,
            "stem": {"width": 8},
            "stages": [
                {"width": 16, "depth": 2, "candidates": names},
                {"width": 24, "depth": 2, "first": ["proj", "conv_k3"], "candidates": ["conv_k1", "conv_k3", "skip"]},
            ],
            "feature_mix": 16,
        }
    )


def all_paths(space: Space) -> list[tuple[int, ...]]:
    return list(product(*(range(len(edge.candidates)) for edge in space.searchable)))


def jobs_of(space: Space, networks):
    return [network_job(space, f"n{i}", "calibration", paths) for i, paths in enumerate(networks)]


def fitted(space: Space, measurements):
    runtime = UsedRuntime(name="x", version="1")
    return fit_table(space, MeasureConfig(device="external"), measurements, device=DEVICE, runtime=runtime, source="s")


def price(layer) -> float:
    return 0.2 + layer.complexity.macs / 3e4 + (0.3 if "k5" in str(layer) else 0)


def true_ms(space: Space, paths) -> float:
    return 1.0 + sum(price(a) for a in network_job(space, "n", "calibration", paths).layers)


def test_networks_that_were_not_fitted_are_predicted(space):
    networks = calibration_networks(space, 50, 0)
    fit = fitted(space, [(paths, true_ms(space, paths)) for paths in networks])
    cost = fit.table.cost(space)
    for paths in verification_networks(space, 10, 0, avoid=networks):
        assert cost.of(paths) == pytest.approx(true_ms(space, paths), rel=0.01)
    assert fit.left_out.mape_percent < 1
    assert fit.table.method == "whole_networks"
    assert all(entry.n is None and entry.calibrated_ms is not None for entry in fit.table.entries.values())


@pytest.mark.parametrize("with_prior", [False, True])
def test_a_left_out_prediction_does_not_depend_on_its_network(with_prior, space):
    """Its own time affects neither the guess nor the variances of the fit that predicts it."""
    prior = np.random.default_rng(1).uniform(1, 2, len(timed_layers(space))) if with_prior else None
    layers = Layers.of(timed_layers(space), prior)
    counts = occurrences(jobs_of(space, calibration_networks(space, 30, 0)), [str(a) for a in timed_layers(space)])
    measured = 1.0 + counts @ np.random.default_rng(0).uniform(1, 2, counts.shape[1])
    start = np.ones(counts.shape[1])
    before = _correction(layers, start, counts, measured, lambda ms: 1.0, 0).left_out
    for i in (0, 7, 29):
        changed = measured.copy()
        changed[i] *= 1.4
        after = _correction(layers, start, counts, changed, lambda ms: 1.0, 0).left_out
        assert after[i] == before[i]
        assert (after != before).sum() >= 0.8 * len(before)


def test_several_timings_of_one_network_count_as_their_median(space):
    networks = list(dict.fromkeys(calibration_networks(space, 30, 0)))
    once = fitted(space, [(paths, true_ms(space, paths)) for paths in networks])
    thrice = fitted(space, [(p, true_ms(space, p) * f) for p in networks for f in (1.0, 0.9, 1.3)])
    assert once.table.entries == thrice.table.entries
    assert once.table.calibration == thrice.table.calibration


def test_timings_of_one_network_that_contradict_each_other_are_refused(space):
    networks = list(dict.fromkeys(calibration_networks(space, 30, 0)))
    timings = [(paths, true_ms(space, paths)) for paths in networks]
    twice = (networks[3], 1.6 * true_ms(space, networks[3]))
    with pytest.raises(FitError, match=r"the network '.*' has .* ms; timings of one network should agree"):
        fitted(space, [*timings, twice])


def test_equal_times_of_all_networks_are_refused(space):
    networks = list(dict.fromkeys(calibration_networks(space, 30, 0)))
    with pytest.raises(FitError, match="all networks have 1 ms"):
        fitted(space, [(paths, 1.0) for paths in networks])


def test_a_timing_that_no_other_network_explains_is_named(space):
    networks = list(dict.fromkeys(calibration_networks(space, 40, 0)))
    timings = [(paths, true_ms(space, paths)) for paths in networks]
    assert fitted(space, timings).outliers == ()
    timings[7] = (networks[7], 100 * timings[7][1])
    ((paths, ms, expected),) = fitted(space, timings).outliers
    assert (paths, ms) == timings[7]
    assert expected < ms / 2


def test_too_few_networks_are_refused(space):
    same = all_paths(space)[0]
    with pytest.raises(FitError, match="1 different networks, expected at least 10"):
        fitted(space, [(same, 1.0)] * 40)


def test_rank_and_needed_are_those_of_an_enumeration_of_all_networks(space):
    """The reference enumerates all 72 networks."""
    keys = [str(layer) for layer in timed_layers(space)]
    everything = jobs_of(space, all_paths(space))
    design = np.hstack([occurrences(everything, keys), np.ones((len(everything), 1))])
    identified = identify(space, everything)
    assert identified.needed == np.linalg.matrix_rank(design)
    assert identified.rank == identified.needed
    assert identified.unseen == ()
    assert identified.inseparable == ()  # stem and head are in every network, which no search needs to tell apart


@pytest.mark.parametrize("seed", range(6))
def test_inseparable_ops_are_exactly_those_that_matter_and_are_not_determined(seed, space):
    """Brute force: an entry is determined unless some change of entries that leaves every measured network's sum alone
    changes the sum of another network made of seen entries."""
    rng = np.random.default_rng(seed)
    networks = [all_paths(space)[i] for i in rng.choice(72, size=5, replace=False)]
    measured = jobs_of(space, networks)
    identified = identify(space, measured)
    keys = [str(layer) for layer in timed_layers(space)]
    design = np.hstack([occurrences(measured, keys), np.ones((5, 1))])
    assert identified.rank == np.linalg.matrix_rank(design)
    seen = {key for key, column in zip(keys, design.T, strict=False) if column.any()}
    assert set(identified.unseen) == set(keys) - seen
    possible = [job for job in jobs_of(space, all_paths(space)) if {str(a) for a in job.layers} <= seen]
    whole = np.hstack([occurrences(possible, keys), np.ones((len(possible), 1))])
    assert identified.needed == np.linalg.matrix_rank(np.vstack([design, whole]))
    assert bool(identified.inseparable) == (identified.rank < identified.needed)
    for group in identified.inseparable:
        assert set(group) <= seen
    assert len({key for group in identified.inseparable for key in group}) == sum(map(len, identified.inseparable))


@pytest.mark.parametrize("seed", range(12))
def test_groups_are_small_and_add_up_to_what_is_lacking(seed, space):
    """The reference is an enumeration. A group holds rank(all) - rank(measured) undetermined comparisons, over its
    columns. Together the groups hold all that is lacking, each needs every one of its entries for its own, and none
    splits."""
    rng = np.random.default_rng(seed)
    networks = [all_paths(space)[i] for i in rng.choice(72, size=4 + seed % 5, replace=False)]
    measured = jobs_of(space, networks)
    keys = [str(layer) for layer in timed_layers(space)]
    identified = identify(space, measured)
    possible = [
        job for job in jobs_of(space, all_paths(space)) if not {str(a) for a in job.layers} & {*identified.unseen}
    ]
    few, every = occurrences(measured, keys), occurrences(possible, keys)

    def undetermined(group: Sequence[str]) -> int:
        columns = [keys.index(key) for key in group]
        return int(np.linalg.matrix_rank(every[:, columns]) - np.linalg.matrix_rank(few[:, columns]))

    assert sum(map(undetermined, identified.inseparable)) == identified.needed - identified.rank
    everywhere = {str(space.stem), str(space.feature_mix), str(space.classifier)}
    for group in identified.inseparable:
        assert not everywhere & {*group}
        for key in group:
            assert undetermined([other for other in group if other != key]) < undetermined(group)
        for half in range(1, 2 ** (len(group) - 1)):
            left = [key for i, key in enumerate(group) if half >> i & 1]
            right = [key for key in group if key not in left]
            assert undetermined(left) + undetermined(right) < undetermined(group)


def test_two_ops_that_always_change_together_are_named(space):
    """Edge 0 takes k5 exactly where edge 3 takes conv_k3: no network shows which of the two is slow."""
    edges = space.searchable
    k5 = edges[0].candidates.index("mbconv_k5_e3")
    k3 = edges[3].candidates.index("conv_k3")
    networks = [paths for paths in all_paths(space) if (paths[0] == k5) == (paths[3] == k3)]
    identified = identify(space, jobs_of(space, networks))
    assert identified.unseen == ()
    assert identified.inseparable == ((str(edges[0].layers[k5]), str(edges[3].layers[k3])),)
    assert identified.needed - identified.rank == 1


def test_an_op_that_no_network_holds_is_named(space):
    k5 = space.searchable[0].candidates.index("mbconv_k5_e3")
    networks = [paths for paths in all_paths(space) if paths[0] != k5]
    identified = identify(space, jobs_of(space, networks))
    assert identified.unseen == (str(space.searchable[0].layers[k5]),)
    assert identified.inseparable == ()


# ---- files ----
