"""What is said of a search that has ended without meeting its limits."""

from __future__ import annotations

import pytest

from engine.training import Evaluation
from latency.measure import Timing
from search.clock import Reading
from search.closing import MeasuredDerivation, Try
from search.derivation import Derivation
from search.loop import SearchResult
from search.summary import misses, print_result
from supernet.architecture import Architecture


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
