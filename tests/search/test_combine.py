"""Tests limits on several devices: sums and worst cases against brute force over a tiny space."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from engine.errors import Action, ConfigError
from latency.table import TableError
from search.derive.derivation import constrained, meets
from search.learn.objective import cost_slopes, expected_cost
from search.limits.combine import WorstCase, least_worst, members, scaled, weighted_sum
from search.limits.resolve import resolve
from search.program import UnfinishedError
from supernet.alpha import Alpha


def all_paths(space):
    return list(product(*(range(int(n)) for n in space.mask.sum(axis=1))))


@pytest.fixture
def costs(space, make_cost):
    return [make_cost(space, seed) for seed in (1, 2, 3)]


def test_a_weighted_sum_is_the_sum_for_every_architecture(space, costs):
    weights = (0.5, 2.0, 0.1)
    total = weighted_sum(costs, weights)
    for paths in all_paths(space):
        by_hand = sum(w * cost.of(paths) for w, cost in zip(weights, costs, strict=True))
        assert total.of(paths) == pytest.approx(by_hand, rel=1e-12)


def test_the_reachable_range_of_a_worst_case_equals_brute_force(space, costs):
    worst = WorstCase(tuple(costs))
    values = [max(cost.of(paths) for cost in costs) for paths in all_paths(space)]
    assert [worst.of(paths) for paths in all_paths(space)] == values
    assert worst.reachable == pytest.approx((min(values), max(values)), rel=1e-12)
    assert least_worst(costs) > max(cost.reachable[0] for cost in costs)  # no network is the best on all of them


def test_the_expectation_of_a_worst_case_and_its_slopes_by_finite_differences(space, costs):
    draws = torch.Generator().manual_seed(0)
    alpha = Alpha.of_space(space, torch.randn(space.mask.shape, generator=draws, dtype=torch.float64))
    p = alpha.probabilities()
    worst = WorstCase((costs[0], scaled(costs[1], 1.3)))
    assert float(expected_cost(p, worst)) == max(float(expected_cost(p, m)) for m in members(worst))
    slopes = cost_slopes(p, worst)
    for e, i in alpha.mask.nonzero().tolist():
        shift = torch.zeros_like(p)
        shift[e, i] = 1e-6
        numeric = (expected_cost(p + shift, worst) - expected_cost(p - shift, worst)) / 2e-6
        torch.testing.assert_close(slopes[e, i], numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("at", [True, False])
def test_derivation_under_a_worst_case_equals_brute_force(space, costs, seed, at, make_limit):
    alpha = Alpha.of_space(space, 2 * torch.randn(space.mask.shape, generator=torch.Generator().manual_seed(seed)))
    worst = WorstCase(tuple(costs))
    share = np.random.default_rng(seed).uniform(0.2, 1)
    limit = make_limit(worst, share, at=at, tolerance=0.15)
    log_p = alpha.log_probabilities().numpy()
    allowed = [paths for paths in all_paths(space) if meets(paths, [limit])]
    derivation = constrained(alpha, [limit])
    if allowed:
        best = max(log_p[range(len(paths)), list(paths)].sum() for paths in allowed)
        assert derivation.log_probability == pytest.approx(best, abs=1e-9)
        assert meets(derivation.paths, [limit])
        assert not derivation.notes
    else:
        assert derivation.notes


def test_an_empty_window_of_a_worst_case_reaches_down_to_the_nearest(space, costs, make_bounded):
    worst = WorstCase(tuple(costs))
    values = sorted(worst.of(paths) for paths in all_paths(space))
    gap = max(range(1, len(values)), key=lambda i: values[i] / values[i - 1])
    bound = 0.5 * (values[gap - 1] + values[gap])  # nothing lies just below it
    limit = make_bounded(worst, bound, "at", 1e-6)
    draws = torch.Generator().manual_seed(3)
    derivation = constrained(Alpha.of_space(space, torch.randn(space.mask.shape, generator=draws)), [limit])
    assert worst.of(derivation.paths) == pytest.approx(values[gap - 1], rel=1e-5)
    assert "derived in the nearest below" in derivation.notes[0]


def test_two_windows_are_extended_one_after_the_other(space, costs, make_bounded):
    """The second limit's window is as near as the first one's leaves it."""
    first, second = (make_bounded(cost, 0.6 * sum(cost.reachable), "at", 1e-6) for cost in costs[:2])
    derivation = constrained(Alpha.of_space(space), [first, second])
    below = [p for p in all_paths(space) if meets(p, [replace(first, kind="below"), replace(second, kind="below")])]
    nearest = max(first.cost.of(p) for p in below)
    assert first.cost.of(derivation.paths) == pytest.approx(nearest, rel=1e-5)
    assert derivation.notes


# --- from a config ---------------------------------------------------------------------------------------------------


@pytest.fixture
def two_tables(space, make_table, tmp_path):
    """A phone and a board: on the second, everything takes between once and thrice as long."""
    first = make_table(space, tmp_path / "phone.yaml")
    rng = np.random.default_rng(0)
    entries = {key: {"median_ms": e.median_ms * rng.uniform(1, 3), "n": 3} for key, e in first.entries.items()}
    make_table(space, tmp_path / "board.yaml", entries=entries)
    return [str(tmp_path / name) for name in ("phone.yaml", "board.yaml")]


@pytest.mark.parametrize("weights", [None, [0.8, 0.4]])
@pytest.mark.parametrize("combine", ["weighted_sum", "worst_case"])
def test_tables_of_a_config_are_combined_and_recorded(space, make_search_file, two_tables, combine, weights):
    entry = {"metric": "latency", "tables": two_tables, "combine": combine, "at": "50%"}
    entry |= {"weights": weights} if weights else {}
    resolved = resolve(make_search_file([entry]), "search.yaml")
    (limit,) = resolved.limits
    phone, board = (source.cost for source in limit.sources)
    a, b = weights or ((0.5, 0.5) if combine == "weighted_sum" else (1, 1))
    for paths in all_paths(space):
        parts = (a * phone.of(paths), b * board.of(paths))
        assert limit.cost.of(paths) == pytest.approx(sum(parts) if combine == "weighted_sum" else max(parts))
    predicted = limit.record(paths)
    assert predicted["combine"] == combine
    assert [entry["value"] for entry in predicted["tables"]] == [phone.of(paths), board.of(paths)]
    again = resolve(make_search_file(resolved.record["limits"], resolved.record["space"]), "config.yaml")
    assert again.record == resolved.record  # with both hashes, and the bound a number


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"combine": None}, "combine: is missing, expected weighted_sum or worst_case"),
        ({"weights": [1.0]}, "weights: got 1, expected one for each of the 2 tables"),
        ({"weights": [1.0, -1.0]}, "weights: got [1.0, -1.0], expected numbers above 0"),
        ({"table": "a.yaml"}, "table: remove it, `tables` has the tables"),
        ({"tables": ["a.yaml"]}, "expected at least two different files; use `table`"),
        ({"tables": None}, "combine: remove it, or give several `tables`"),
        ({"measure": {}}, "measure: remove it"),
        ({"tables_sha256": ["0", "1"]}, "is not the table of this run"),
        ({"tables": ["a.yaml", "b.yaml"]}, "limits.0.tables.0: no file a.yaml; make it by import, kit or fit"),
    ],
)
def test_tables_that_cannot_be_combined_are_refused(make_search_file, two_tables, change, message):
    entry = {"metric": "latency", "tables": two_tables, "combine": "worst_case", "at": "50%"} | change
    with pytest.raises(ConfigError) as error:
        resolve(make_search_file([{k: v for k, v in entry.items() if v is not None}]), "search.yaml")
    assert message in str(error.value)


def test_a_column_in_two_units_is_not_combined(space, make_search_file, make_table, two_tables, tmp_path):
    table = make_table(space, tmp_path / "other.yaml")
    column = table.columns["energy_mj"].model_dump() | {"unit": "J"}
    make_table(space, tmp_path / "other.yaml", columns={"energy_mj": column})
    tables = [two_tables[0], str(tmp_path / "other.yaml")]
    entry = {"metric": "energy_mj", "tables": tables, "combine": "worst_case", "below": "50%"}
    with pytest.raises(ConfigError, match="'energy_mj' is in mJ, J, expected one unit"):
        resolve(make_search_file([entry]), "search.yaml")


def test_a_limit_may_have_a_measure_section_of_its_own(space, make_search_file, make_table, tmp_path):
    make_table(space, tmp_path / "batch8.yaml", batch=8, device={"kind": "phone", "name": "p", "fingerprint": "none"})
    entry = {"metric": "latency", "table": str(tmp_path / "batch8.yaml"), "at": "50%"}
    with pytest.raises(TableError, match="batch is 8, but the search has 1"):
        resolve(make_search_file([entry]), "search.yaml")
    resolved = resolve(make_search_file([entry | {"measure": {"device": "external", "batch": 8}}]), "search.yaml")
    assert resolved.limits[0].source.measure.batch == 8


def test_what_a_limits_own_measure_does_not_set_is_as_in_the_files(space, make_search_file, make_table, tmp_path):
    entry = {"metric": "latency", "table": str(tmp_path / "t.yaml"), "at": "50%"}
    make_table(space, tmp_path / "t.yaml", batch=8)
    config = make_search_file([entry | {"measure": {"device": "external"}}], measure={"batch": 8, "threads": 2})
    resolved = resolve(config, "search.yaml")
    measure = resolved.limits[0].source.measure
    assert (measure.device, measure.batch, measure.threads) == ("external", 8, 2)
    kept = resolved.record["limits"][0]["measure"]  # complete, so that a change of the file's would show
    assert (kept["device"], kept["batch"], kept["threads"]) == ("external", 8, 2)


def test_the_command_for_a_limits_table_has_its_own_measure(space, make_search_file, tmp_path):
    path = tmp_path / "none.yaml"
    own = {"runtime": "onnxruntime", "threads": 2}
    config = make_search_file([{"metric": "latency", "table": str(path), "measure": own, "at": "50%"}])
    with pytest.raises(ConfigError, match=r"no file .*; make it$") as error:
        resolve(config, "a.yaml")
    shaping = ("--verify", "40", "measure.runtime=onnxruntime", "measure.threads=2")
    assert error.value.action == Action("measure", ("a.yaml", "--out", str(path), *shaping))


@pytest.mark.parametrize("shift", [-100.0, -7.0])
def test_the_smallest_worst_case_of_costs_below_zero_is_that_of_brute_force(space, costs, shift):
    moved = [replace(cost, fixed=cost.fixed + shift) for cost in costs]
    every = [max(cost.of(paths) for cost in moved) for paths in all_paths(space)]
    assert least_worst(moved) == pytest.approx(min(every), rel=1e-9)
    third = sorted(moved[2].of(paths) for paths in all_paths(space))[20]
    allowed = [max(c.of(p) for c in moved[:2]) for p in all_paths(space) if moved[2].of(p) <= third + 1e-9]
    assert least_worst(moved[:2], [(moved[2], third + 1e-9)]) == pytest.approx(min(allowed), rel=1e-9)


def test_a_smallest_worst_case_that_is_not_proven_is_an_error(costs):
    with pytest.raises(UnfinishedError, match="was not found in 0 s; combine fewer tables"):
        least_worst(costs, seconds=0.0)
