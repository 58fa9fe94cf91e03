"""What is said of a search that has ended without meeting its limits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.evaluation import Evaluation
from latency.measure import Timing
from search.derive.clock import Reading
from search.derive.derivation import Derivation
from search.derive.measured import MeasuredDerivation, Try
from search.limits.limit import Limit
from search.loop import SearchResult
from search.many.sweep import Outcome, Search, Sweep
from search.result import LimitFigures, MeasuredFigures, result_of
from search.summary import misses, print_result, print_sweep
from supernet.alpha import initial_alpha
from supernet.architecture import Architecture
from supernet.cost import macs_cost


@pytest.fixture
def ended(space, make_cost, make_limit):
    """ended(missed, timed, timings): the network of all first candidates under a limit that it meets and one that it
    does not."""
    architecture = Architecture(space, tuple(0 for _ in space.searchable), "a")
    limits = (make_limit(make_cost(space, 0), 1.0), make_limit(make_cost(space, 1), 0.0))

    def make(missed, timed=(), timings=(), unsettled=()):
        found = Derivation(architecture.paths, -1.0)
        readings = tuple(Reading(8.0, timing) for timing in timings)
        tries = (Try(found, (9.0,) * len(timed), readings),) if timed else ()
        measured = MeasuredDerivation(found, missed, unsettled, timed, tries, confirmation=timings)
        return SearchResult(architecture, limits, measured, Evaluation(1.0, 50.0, 90.0, 8), None)

    return make


def test_nothing_is_said_where_all_limits_are_met(ended):
    assert misses(ended(())) == []


def test_a_limit_that_was_predicted_to_be_missed_is_not_called_measured(ended):
    (line,) = misses(ended((1,)))
    assert "predicted, above" in line
    assert "--method constrained" in line
    assert "measure" not in line


def test_a_measured_miss_says_what_to_do(ended, capsys):
    result = ended((0,), (0,), (Timing(9.5, 0.01, 3),))
    (line,) = misses(result)
    assert "measured, it misses" in line
    assert "measure the table again on an idle machine" in line
    print_result(result)
    printed = capsys.readouterr().out
    assert "see the tries" in printed
    assert "noise 0.01 ms: not met" in printed


def test_of_two_timed_limits_each_has_its_own_verdict(ended, capsys):
    """Limits of one metric are called by their tables; these have none, so both are numbered."""
    result = ended((0,), (0, 1), (Timing(9.5, 0.01, 3), Timing(7.25, 3.0, 3)), unsettled=(1,))
    missed, unsettled = misses(result)
    assert missed.startswith("latency_1: measured, it misses")
    assert unsettled.startswith("latency_2: whether it meets")
    assert "--resume" in unsettled
    print_result(result)
    printed = capsys.readouterr().out
    assert [printed.count(f"tries, latency_{k}") for k in (1, 2)] == [1, 1]
    assert "noise 3 ms: not settled" in printed


def test_a_sweep_names_its_searches_in_full_on_80_columns(space, make_cost, make_limit, tmp_path, capsys, monkeypatch):
    """Every column is filled; what has no room is folded, never cut off."""
    monkeypatch.setenv("COLUMNS", "80")
    names = ["imagenet_cpu_reinforce-seed0", "a_name_that_is_longer_than_any_table_has_room_for_on_a_terminal[1]"]
    limit = LimitFigures(
        name="latency", metric="latency", unit="ms", at=9.123, predicted=8.123, expected=8.567, table="t",
        measured=MeasuredFigures(
            median_ms=8.254, noise_ms=0.25, drift=1.0, believed=True, confirmation_ms=9.9, confirmation_noise_ms=1
        ),
    )  # fmt: skip
    paths = tuple(0 for _ in space.searchable)
    result = result_of(
        Architecture(space, paths, "a"), [], None, initial_alpha(space),
        MeasuredDerivation(Derivation(paths, -1.0)), Evaluation(1.0, 91.23, 99.0, 8),
        notes=(), seed=0, steps=1, seconds=5.0, resumed_at=0,
    ).model_copy(update={"limits": (limit,)})  # fmt: skip
    outcomes = tuple(
        Outcome(Search(n, tmp_path / "a.yaml", (), tmp_path), "finished", 61.4, None, result) for n in names
    )
    print_sweep(Sweep(outcomes), tmp_path)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in printed
    assert names[0] in printed
    first_column = "".join(line.split("│")[1].strip() for line in printed.splitlines() if line.startswith("│"))
    assert names[1] in first_column


def test_numbers_have_units_instead_of_exponents(ended, space, capsys):
    result = ended(())
    macs = Limit("macs", 4_230_000.0, False, 0.02, macs_cost(space))
    print_result(replace(result, limits=(macs, macs)))
    printed = capsys.readouterr().out
    assert "below 4.23 M MACs" in printed
    assert "e+0" not in printed
    assert "top-5" not in printed
