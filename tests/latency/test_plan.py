"""The networks of a plan: they are balanced, spread over the range, fresh, and the same on every machine."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from latency.config import MeasureConfig
from latency.plan import (
    FLOAT32_COVERINGS,
    FLOAT32_NETWORKS,
    Counts,
    _boltzmann,
    _tau_for,
    calibration_networks,
    covering_networks,
    draw_plan,
    schedule,
    spread_networks,
    timed_layers,
    uniform_networks,
    verification_networks,
)
from supernet.cost import Cost, macs_cost
from supernet.space import Space


@pytest.fixture
def wide_space(space_of) -> Space:
    """12 searchable edges; 5 ^ 10 * 4 ^ 2 networks."""
    names = ["mbconv_k3_e3", "mbconv_k3_e6", "mbconv_k5_e3", "mbconv_k7_e6", "skip"]
    return space_of(
        {
            "input_size": 16,
            "classes": 4,
            "stem": {"width": 8},
            "stages": [{"width": 16, "depth": 6, "candidates": names}, {"width": 24, "depth": 6, "candidates": names}],
            "feature_mix": 32,
        }
    )


def all_paths(space: Space) -> list[tuple[int, ...]]:
    return list(product(*(range(len(edge.candidates)) for edge in space.searchable)))


def test_a_covering_holds_every_candidate_of_every_edge(wide_space, small_space):
    for space in (wide_space, small_space):
        networks = covering_networks(space, np.random.default_rng(0))
        assert len(networks) == max(len(edge.candidates) for edge in space.searchable)
        for e, edge in enumerate(space.searchable):
            times = Counter(paths[e] for paths in networks)
            assert times.keys() == set(range(len(edge.candidates)))
            assert max(times.values()) - min(times.values()) <= 1


def test_each_covering_draws_other_networks(wide_space):
    rng = np.random.default_rng(0)
    assert covering_networks(wide_space, rng) != covering_networks(wide_space, rng)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.73, 0.99])
def test_tau_gives_exactly_the_expected_cost(share, small_space):
    """The reference is the sum over all networks of p(network) cost(network), p(network) = prod_e exp(-tau F) / Z_e."""
    cost = macs_cost(small_space)
    p = _boltzmann(cost, _tau_for(cost, share))
    assert p[~cost.mask].sum() == 0
    expected = sum(np.prod([p[e, i] for e, i in enumerate(paths)]) * cost.of(paths) for paths in all_paths(small_space))
    low, high = cost.reachable
    assert expected == pytest.approx(low + share * (high - low), rel=1e-9)


def test_probabilities_are_boltzmann(small_space):
    """On every edge, log p_a - log p_b = -tau (F_a - F_b)."""
    cost = macs_cost(small_space)
    tau = 3e-4
    p = _boltzmann(cost, tau)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    for e, row in enumerate(cost.mask):
        (there,) = np.nonzero(row)
        for a in there:
            difference = np.log(p[e, a]) - np.log(p[e, there[0]])
            assert difference == pytest.approx(-tau * (cost.table[e, a] - cost.table[e, there[0]]), abs=1e-9)


def test_tau_falls_from_positive_to_negative(wide_space):
    cost = macs_cost(wide_space)
    taus = [_tau_for(cost, share) for share in np.linspace(0.02, 0.98, 25)]
    assert taus == sorted(taus, reverse=True)
    assert taus[0] > 0 > taus[-1]


def test_networks_spread_over_the_whole_range(wide_space):
    """Uniformly drawn networks would leave the outer quarters almost empty; these fill every eighth."""
    cost = macs_cost(wide_space)
    low, high = cost.reachable
    drawn = spread_networks(cost, 64, np.random.default_rng(0))
    shares = [(cost.of(paths) - low) / (high - low) for paths in drawn]
    counts, _ = np.histogram(shares, bins=8, range=(0, 1))
    assert counts.min() >= 2
    rng = np.random.default_rng(0)
    uniform = [tuple(int(i) for i in rng.integers(wide_space.mask.sum(axis=1))) for _ in range(64)]
    outer = [paths for paths in uniform if not 0.25 < (cost.of(paths) - low) / (high - low) < 0.75]
    assert len(outer) < 6


def test_uniform_networks_take_one_op_wherever_it_is_legal(wide_space):
    networks = uniform_networks(wide_space)
    assert len(networks) == 5
    for name, paths in zip(wide_space.searchable[1].candidates, networks, strict=True):
        for edge, path in zip(wide_space.searchable, paths, strict=True):
            assert edge.candidates[path] == (name if name in edge.candidates else edge.candidates[0])


def test_verification_networks_are_fresh(wide_space):
    used = calibration_networks(wide_space, 60, 3)
    fresh = verification_networks(wide_space, 40, 3, avoid=used)
    assert len(set(used)) == 60
    assert len(set(fresh)) == 40
    assert not set(used) & set(fresh)


def test_each_purpose_draws_random_numbers_of_its_own(wide_space):
    """The networks of a verification would otherwise be near those of the fit. 5 of the 45 are uniform."""
    used = calibration_networks(wide_space, 45, 3)[5:]
    assert len({*used} & {*verification_networks(wide_space, 40, 3, avoid=())}) < 5


def test_a_plan_is_a_function_of_its_arguments(wide_space):
    counts = Counts(2, 12, 6, alone=True)
    assert draw_plan(wide_space, counts, 5) == draw_plan(Space(wide_space.config), counts, 5)
    assert draw_plan(wide_space, counts, 5) != draw_plan(wide_space, counts, 6)


def test_one_purposes_networks_do_not_depend_on_anothers_count(wide_space):
    """A table's calibration networks can thus be drawn again from its seed and their number alone."""
    a = draw_plan(wide_space, Counts(1, 12, 6, alone=False), 0)
    b = draw_plan(wide_space, Counts(3, 12, 9, alone=True), 0)
    calibration = [[job for job in jobs if job.purpose == "calibration"] for jobs in (a, b)]
    assert calibration[0] == calibration[1]
    assert [job.paths for job in calibration[0]] == calibration_networks(wide_space, 12, 0)


def test_jobs_hold_the_layers_of_their_networks_without_skip(wide_space):
    jobs = draw_plan(wide_space, Counts(1, 12, 6, alone=True), 0)
    assert len({job.id for job in jobs}) == len(jobs)
    for job in jobs:
        assert "skip" not in {str(layer.spec) for layer in job.layers}
        if job.paths is not None:
            assert list(job.layers) == [a for a in wide_space.layers(job.paths) if str(a.spec) != "skip"]
    assert [job.layers for job in jobs if job.purpose == "layer"] == [(layer,) for layer in timed_layers(wide_space)]
    first = [job.paths for job in jobs if job.id.endswith("a")]
    assert first == [job.paths for job in jobs if job.id.endswith("b")]


def test_the_plan_of_an_int8_table_has_some_of_its_jobs_in_float32_too(wide_space):
    counts = Counts(8, 60, 6, alone=True)
    plain = draw_plan(wide_space, counts, 0)
    jobs = draw_plan(wide_space, replace(counts, float32=True), 0)
    twice = [job for job in jobs if job.in_float32]
    assert [job for job in jobs if not job.in_float32] == list(plain)
    assert len({job.id for job in jobs}) == len(jobs)
    of_id = {job.id: job for job in plain}
    for job in twice:
        assert replace(job, id=job.id.removeprefix("float32_"), in_float32=False) == of_id[job.id[8:]]
    context = [job for job in twice if job.purpose == "context"]
    assert len(context) == FLOAT32_COVERINGS * sum(job.purpose == "context" for job in plain) / 8
    covered = {layer for job in context for layer in job.layers}
    assert covered == set(timed_layers(wide_space)) == {job.layers[0] for job in twice if job.purpose == "layer"}
    whole = [job.paths for job in twice if job.purpose == "calibration"]
    assert len(whole) == FLOAT32_NETWORKS
    macs = [macs_cost(wide_space).of(paths) for paths in whole]
    low, high = macs_cost(wide_space).reachable
    assert min(macs) < low + 0.2 * (high - low)
    assert max(macs) > low + 0.8 * (high - low)
    int8 = MeasureConfig(runtime="onnxruntime", dtype="int8")
    assert {job.dtype(int8) for job in twice} == {"float32"}
    assert {job.dtype(int8) for job in plain} == {"int8"}


def test_context_networks_are_in_one_round_and_all_others_in_each(wide_space):
    jobs = draw_plan(wide_space, Counts(3, 12, 6, alone=True), 0)
    rounds = schedule(jobs, 4)
    times = Counter(name for names in rounds for name in names)
    assert {job.id: times[job.id] for job in jobs} == {job.id: 1 if job.inside else 4 for job in jobs}
    contexts = [sum(name.startswith("context") for name in names) for names in rounds]
    assert max(contexts) - min(contexts) <= 1


def test_drawing_ends_in_a_space_with_fewer_networks_than_requested(small_space):
    """The space has 16 networks, which repeat once all have been drawn."""
    drawn = spread_networks(macs_cost(small_space), 60, np.random.default_rng(0))
    assert len(drawn) == 60
    assert set(drawn) <= set(all_paths(small_space))


def test_equal_costs_are_drawn_uniformly(small_space):
    flat = Cost(1.0, np.where(small_space.mask, 2.0, 0.0), small_space.mask)
    assert _tau_for(flat, 0.3) == 0
    p = _boltzmann(flat, 0.0)
    np.testing.assert_allclose(p[0], 0.25)


def small(space_of, *stages) -> Space:
    return space_of(
        {
            "input_size": 8,
            "input_channels": 1,
            "classes": 2,
            "stem": {"kernel": 3, "stride": 1, "width": 8},
            "stages": list(stages),
            "feature_mix": 16,
        }
    )


@pytest.mark.parametrize("seed", range(5))
def test_networks_stay_distinct_in_a_small_space(seed, space_of):
    """90 of 216 networks are drawn: few are likely near the ends of the range, so repeated draws move inwards."""
    six = [f"mbconv_k{k}_e{e}" for k in (3, 5, 7) for e in (3, 6)]
    space = small(space_of, {"width": 8, "depth": 3, "candidates": six})
    used = calibration_networks(space, 60, seed)
    fresh = verification_networks(space, 30, seed, avoid=used)
    assert len({*used, *fresh}) == 90


def test_networks_are_drawn_in_a_space_with_one_searchable_edge(space_of):
    space = small(space_of, {"width": 8, "candidates": ["mbconv_k3_e3", "conv_k1", "skip"]})
    jobs = draw_plan(space, Counts(2, 3, 0, alone=True), 0)
    assert {job.paths for job in jobs if job.purpose == "calibration"} == {(0,), (1,), (2,)}
    assert Counter(job.paths for job in jobs if job.inside) == {(0,): 2, (1,): 2, (2,): 2}


def test_a_space_without_a_choice_still_has_a_plan(space_of):
    space = small(space_of, {"width": 8, "candidates": ["conv_k1"]})
    jobs = draw_plan(space, Counts(2, 4, 3, alone=True), 0)
    assert Counter(job.purpose for job in jobs) == {"context": 2, "layer": 4, "calibration": 4, "verification": 6}
    assert {job.layers for job in jobs if job.purpose != "layer"} == {space.layers(())}


def test_a_plan_of_no_networks_is_empty(small_space):
    jobs = draw_plan(small_space, Counts(0, 0, 0, alone=False), 0)
    assert jobs == ()
    assert schedule(jobs, 3) == [[], [], []]


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e9])
def test_tau_is_as_exact_in_any_unit(unit, small_space):
    cost = macs_cost(small_space)
    scaled = Cost(unit * cost.fixed, unit * cost.table, cost.mask)
    for share in (0.01, 0.4, 0.99):
        assert unit * _tau_for(scaled, share) == pytest.approx(_tau_for(cost, share), rel=1e-6)
