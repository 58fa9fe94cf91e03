"""Masking by peak activation leaves exactly the architectures whose peak is below the bound."""

from __future__ import annotations

import itertools
import logging

import pytest

from engine.errors import ConfigError
from latency.config import MeasureConfig
from search.check import announce, resolved_checks
from search.limits.peak import layer_bytes, reachable_peaks, restrict
from search.limits.resolve import resolve
from supernet.space import Space, SpaceConfig

NAMES = ["mbconv_k3_e1", "mbconv_k3_e2", "mbconv_k5_e6", "conv_k3", "skip"]
STAGES = {
    "first edge not residual": [{"width": 8, "depth": 3, "stride": 2, "candidates": NAMES}],
    "all alike": [{"width": 4, "depth": 2, "candidates": NAMES}],
    "one edge": [{"width": 8, "stride": 2, "candidates": NAMES}],
    "one edge with its own list": [{"width": 8, "candidates": ["conv_k5"], "first": NAMES[:4]}],
    "own list for the first": [{"width": 8, "depth": 2, "stride": 2, "first": NAMES[1:4], "candidates": NAMES}],
    "never residual": [{"width": 4, "depth": 2, "residual": False, "candidates": NAMES}],
    "two stages": [
        {"width": 4, "depth": 1, "candidates": NAMES},
        {"width": 12, "depth": 2, "stride": 2, "candidates": NAMES},
    ],
}
MEASURE = MeasureConfig()


def space_with(stages, make_tiny_config):
    return Space(SpaceConfig.model_validate(make_tiny_config(stages=stages), strict=False))


def bounds(space):
    """Every working set of the space that some architecture stays below: all that a bound can tell apart."""
    low, _ = reachable_peaks(space, MEASURE)
    return sorted({b for layer in space.all_layers if (b := layer_bytes(layer, space, MEASURE)) >= low})


@pytest.mark.parametrize("stages", STAGES.values(), ids=STAGES)
def test_every_edge_keeps_exactly_the_candidates_below_the_bound(stages, make_tiny_config, make_search_file):
    space = space_with(stages, make_tiny_config)
    checked_bounds = 0
    for bound in bounds(space):
        config = make_search_file([limit_of(bound)], make_tiny_config(stages=stages))
        expected = [
            tuple(n for n, layer in zip(e.candidates, e.layers, strict=True) if fits(layer, space, bound))
            for e in space.edges
        ]
        if all(len(names) == 1 for names in expected):
            with pytest.raises(ConfigError, match="nothing is left to search"):
                restrict(config)
            continue
        left, peak = restrict(config)
        assert [edge.candidates for edge in Space(left.space).edges] == expected
        assert restrict(left)[0] == left  # again: nothing changes
        assert dict(peak.removed) == {
            edge.name: gone
            for edge, names in zip(space.edges, expected, strict=True)
            if (gone := tuple(n for n in edge.candidates if n not in names))
        }
        SpaceConfig.model_validate(left.space.model_dump())  # it could have been written in YAML
        checked_bounds += bool(peak.removed)
    assert checked_bounds


def limit_of(bound):
    return {"metric": "peak_activation_bytes", "below": bound}


def fits(layer, space, bound):
    return layer_bytes(layer, space, MEASURE) <= bound


def architectures(space):
    """The names of every architecture."""
    return set(itertools.product(*(edge.candidates for edge in space.edges)))


@pytest.mark.parametrize("stages", STAGES.values(), ids=STAGES)
def test_what_is_left_are_the_architectures_whose_own_peak_is_below(stages, make_tiny_config, make_search_file):
    """Brute force over the whole space, with the peak that architecture.json records."""
    space = space_with(stages, make_tiny_config)
    middle = bounds(space)[len(bounds(space)) // 2]
    left, _ = restrict(make_search_file([limit_of(middle)], make_tiny_config(stages=stages)))
    _, whole = restrict(make_search_file([limit_of(1e9)], make_tiny_config(stages=stages)))
    below = set()
    for names in architectures(space):
        pairs = zip(space.edges, names, strict=True)
        paths = tuple(edge.candidates.index(name) for edge, name in pairs if edge.searchable)
        if whole.cost_of(paths) <= middle:
            below.add(names)
    assert architectures(Space(left.space)) == below
    assert len(below) > 0


def test_percent_is_of_the_reachable_range_of_peaks(make_search_file, space):
    low, high = reachable_peaks(space, MEASURE)
    for percent, expected in (("0%", low), ("50%", (low + high) / 2), ("100%", high)):
        _, peak = restrict(make_search_file([limit_of(percent)]))
        assert peak.bound == expected
    assert restrict(make_search_file([limit_of("100%")]))[0].space == space.config


@pytest.mark.parametrize("measure", [{"batch": 8}, {"dtype": "bfloat16"}])
def test_bytes_follow_the_measured_batch_and_precision(measure, space):
    layer = space.edges[0].layers[0]
    factor = {"batch": 8.0, "dtype": 0.5}[next(iter(measure))]
    assert layer_bytes(layer, space, MeasureConfig(**measure)) == factor * layer_bytes(layer, space, MEASURE)


def test_an_edge_that_nothing_fits_is_named_with_what_it_needs(make_search_file, space):
    low, _ = reachable_peaks(space, MEASURE)
    with pytest.raises(ConfigError) as caught:
        restrict(make_search_file([{"metric": "macs", "at": "50%"}, limit_of(low - 1)]), "search.yaml")
    message = str(caught.value)
    assert message.startswith(f"search.yaml: limits.1.below: got {low - 1} bytes, but ")
    assert f"needs at least {low} " in message


def test_the_stem_cannot_be_masked(make_search_file, make_tiny_config):
    stem = make_tiny_config(stem={"kernel": 3, "stride": 1, "width": 64})
    stem["stages"] = [{"width": 4, "stride": 2, "candidates": ["proj", "conv_k3"]}]
    with pytest.raises(ConfigError, match=r"got 100 bytes, but stem needs at least"):
        restrict(make_search_file([limit_of(100)], stem))


def test_alpha_and_other_limits_see_the_space_that_is_left(make_search_file, space, caplog):
    config = make_search_file([limit_of("30%"), {"metric": "macs", "at": "100%"}])
    resolved = resolve(config, "search.yaml")
    macs, peak = resolved.limits
    assert macs.cost.mask.sum() < space.mask.sum()
    assert resolved.record["space"]["stages"] != config.space.model_dump(mode="json")["stages"]
    with caplog.at_level(logging.INFO, logger="search"):
        announce(resolved_checks(resolved), "search.yaml")
    (line,) = [r.getMessage() for r in caplog.records if "removes" in r.getMessage()]
    for edge, names in peak.removed:
        assert f"{edge} {', '.join(names)}" in line


def test_a_candidate_that_cannot_be_analysed_is_named(make_search_file, monkeypatch):
    def broken(layer, settings):
        raise ValueError(f"'{layer}': its peak activation cannot be computed")

    monkeypatch.setattr("search.limits.peak.working_set", broken)
    with pytest.raises(ConfigError, match=r"limits.0.below: 'stem_k3 .*cannot be computed"):
        restrict(make_search_file([limit_of("50%")]), "search.yaml")
