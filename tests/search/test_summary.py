"""Tests the lines that are printed about a search, above all if it has ended without meeting its limits."""

from __future__ import annotations

import pytest

from engine.evaluation import Evaluation
from latency.measure import Timing
from search.derive.clock import Reading
from search.derive.derivation import Derivation
from search.derive.outcome import LimitOutcome, MeasuredDerivation, TimedLimit, Try
from search.limits.limit import named
from search.loop import SearchResult
from search.many.sweep import Outcome, Sweep, SweptSearch
from search.result import LimitFigures, MeasuredFigures, result_of
from search.summary import misses, print_result, print_sweep
from supernet.alpha import Alpha
from supernet.architecture import Architecture
from supernet.cost import macs_cost


@pytest.fixture
def ended(space, make_cost, make_limit):
    """ended(met, timings): the network of all first candidates under two limits, with these verdicts; timings: by the
    limit's index."""
    architecture = Architecture(space, tuple(0 for _ in space.searchable), "a")
    pair = named([make_limit(make_cost(space, 0), 1.0), make_limit(make_cost(space, 1), 0.0)])

    def make(met, timings=(), limits=pair):
        derivation = Derivation(architecture.paths, -1.0)
        timed = [TimedLimit(limit, 9.0, Reading(8.0, timing)) for limit, timing in zip(limits, timings, strict=False)]
        outcomes = [
            LimitOutcome(limit, limit.cost_of(architecture.paths), verdict, (one,), (one.reading,) * 2)
            if one
            else LimitOutcome(limit, limit.cost_of(architecture.paths), verdict)
            for limit, verdict, one in zip(limits, met, [*timed, None, None][:2], strict=True)
        ]
        tries = (Try(derivation, tuple(timed)),) if timed else ()
        measured = MeasuredDerivation(derivation, tuple(outcomes), tries)
        return SearchResult(architecture, measured, Evaluation(1.0, 50.0, 90.0, 8))

    return make


def test_no_line_is_printed_about_misses_if_all_limits_are_met(ended):
    assert misses(ended((True, True))) == []


def test_a_limit_that_was_predicted_to_be_missed_is_not_called_measured(ended):
    (line,) = misses(ended((True, False)))
    assert "predicted, above" in line
    assert "--method constrained" in line
    assert "measure" not in line


def test_a_measured_miss_is_printed_with_what_to_do(ended, capsys):
    result = ended((False, True), [Timing(9.5, 0.01, 3)])
    (line,) = misses(result)
    assert "measured, it misses" in line
    assert "measure the table again on an idle machine" in line
    print_result(result)
    printed = capsys.readouterr().out
    assert "see the tries" in printed
    assert "noise 0.01 ms: not met" in printed


def test_each_of_two_timed_limits_has_its_own_verdict(ended, capsys):
    """Limits of one metric are called by their tables; these have none, so both are numbered."""
    result = ended((False, None), [Timing(9.5, 0.01, 3), Timing(7.25, 3.0, 3)])
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
        Architecture(space, paths, "a"), Alpha.of_space(space),
        MeasuredDerivation(Derivation(paths, -1.0)), Evaluation(1.0, 91.23, 99.0, 8),
        notes=(), seed=0, steps=1, seconds=5.0, resumed_at=0,
    ).model_copy(update={"limits": (limit,)})  # fmt: skip
    outcomes = tuple(
        Outcome(SweptSearch(n, tmp_path / "a.yaml", (), tmp_path), "finished", 61.4, None, result) for n in names
    )
    print_sweep(Sweep(outcomes), tmp_path)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in printed
    assert names[0] in printed
    first_column = "".join(line.split("│")[1].strip() for line in printed.splitlines() if line.startswith("│"))
    assert names[1] in first_column


def test_numbers_have_units_instead_of_exponents(ended, make_bounded, space, capsys):
    macs = make_bounded(macs_cost(space), 4_230_000.0, "below", 0.02, metric="macs")
    print_result(ended((True, True), limits=(macs, macs)))
    printed = capsys.readouterr().out
    assert "below 4.23 M MACs" in printed
    assert "e+0" not in printed
    assert "top-5" not in printed
