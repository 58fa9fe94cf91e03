"""Measured latency closes the loop: with a timer of known error, the derivation is corrected, or the miss is said."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from latency.config import MeasureConfig
from latency.device import this_device
from latency.measure import TIMING_ROUNDS, Timing
from latency.table import Entry, LatencyTable, UsedRuntime
from search.derive.clock import MOST_TIMINGS, Clock, acceptable_error, meets_bound
from search.derive.derivation import derive
from search.derive.measured import MOST_TRIES, derive_measured, local_latency_limits
from search.limits.limit import AdditiveLimit, TableSource, named
from supernet.alpha import Alpha
from supernet.cost import Cost
from supernet.space import Space, SpaceConfig


@pytest.fixture
def fine_space(make_tiny_config):
    """Enough architectures that every window of 2 % holds one."""
    stage = {"width": 4, "depth": 8, "candidates": ["mbconv_k3_e1", "mbconv_k3_e2", "mbconv_k5_e3", "skip"]}
    return Space(SpaceConfig.model_validate(make_tiny_config(stages=[stage]), strict=False))


def table_for(space, fingerprint):
    here = this_device("cpu")
    entries = {
        str(layer): Entry(median_ms=0.1 + layer.complexity.macs / 1e5, n=1)
        for layer in space.all_layers
        if str(layer.spec) != "skip"
    }
    return LatencyTable(
        device=here.model_copy(update={"fingerprint": fingerprint or here.fingerprint}),
        runtime=UsedRuntime(name="pytorch", version="x"),
        threads=1,
        batch=1,
        dtype="float32",
        memory_format="channels_last",
        activation="relu6",
        input_size=8,
        date=datetime.date(2026, 1, 1).isoformat(),
        method="in_context",
        how="made up for a test",
        entries=entries,
    )


def limit_at(space, share, *, at=True, fingerprint=None):
    table = table_for(space, fingerprint)
    cost = table.cost(space)
    low, high = cost.reachable
    return AdditiveLimit(
        name="latency",
        metric="latency",
        kind="at" if at else "below",
        bound=low + share * (high - low),
        unit="ms",
        tolerance=0.02,
        cost=cost,
        sources=(TableSource(Path("table.yaml"), table, cost, MeasureConfig()),),
    )


def timer_with_error(limit, factor, offset=0.0, noise=1e-4, drift=1.0):
    """A device on which the derived networks take factor * table + offset, and the reference drift * table."""
    calls = []

    def timer(architectures, measure, progress=None):
        network, reference = architectures
        calls.append(network.paths)
        return [
            Timing(factor * limit.cost.of(network.paths) + offset, noise, 10),
            Timing(drift * limit.cost.of(reference.paths), 1e-4, 10),
        ]

    return timer, calls


def measured_ms(result):
    return result.outcomes[0].readings[0].timing.median_ms


def asked(result, k=0):
    """Returns the bounds of limit number `k` in all tries, in ms."""
    return [one.asked for one in result.outcomes[k].tries]


def verdicts(result):
    return [outcome.met for outcome in result.outcomes]


def random_alpha(space):
    return Alpha.of_space(space, torch.randn(space.mask.shape, generator=torch.Generator().manual_seed(0)))


def run(space, limit, timer, method="constrained"):
    return derive_measured(random_alpha(space), space, [limit], method, timer=timer)


@pytest.mark.parametrize("factor", [0.85, 0.95, 1.0, 1.08, 1.2])
def test_a_biased_table_is_corrected_until_the_measurement_meets_the_bound(fine_space, factor):
    limit = limit_at(fine_space, 0.5)
    timer, calls = timer_with_error(limit, factor)
    result = run(fine_space, limit, timer)
    measured = measured_ms(result)
    assert result.met
    assert limit.bound * 0.95 <= measured <= limit.bound * 1.02
    assert len(result.tries) == 1 if factor == 1.0 else len(result.tries) > 1
    assert len(result.outcomes[0].readings) == 2
    assert calls[-1] == result.derivation.paths  # the confirming timing is of the accepted network
    assert len(calls) == len(result.tries) + 1


def test_a_hopeless_miss_is_said_after_the_last_try(fine_space):
    limit = limit_at(fine_space, 0.5)
    timer, _ = timer_with_error(limit, 1.0, offset=10 * limit.bound)
    result = run(fine_space, limit, timer)
    assert not result.met
    assert 1 <= len(result.tries) <= MOST_TRIES


def test_a_timing_that_other_work_disturbs_corrects_nothing(fine_space):
    """Doubled by what else runs, and as noisy as that: the bound stays, whatever was measured."""
    limit = limit_at(fine_space, 0.5)
    timer, calls = timer_with_error(limit, 2.0, noise=0.3 * limit.bound)
    result = run(fine_space, limit, timer)
    assert (result.met, verdicts(result)) == (None, [None])
    assert asked(result) == [limit.bound]
    assert result.derivation.paths == derive(random_alpha(fine_space), [limit], "constrained").paths
    assert calls == [result.derivation.paths] * (2 * MOST_TIMINGS)  # the confirmation's too
    (note,) = result.derivation.notes
    assert note.startswith("latency: other work on this machine disturbs the timing (2x noise is 30 %)")
    assert "--resume" in note


@pytest.mark.parametrize("drift", [0.85, 1.15, 1.6])
def test_a_machine_that_is_off_as_a_whole_corrects_nothing(fine_space, drift):
    """Steady, but a network that the table knows well is off as much: a correction would give half the budget away."""
    limit = limit_at(fine_space, 0.5)
    timer, calls = timer_with_error(limit, drift, drift=drift)
    result = run(fine_space, limit, timer)
    assert result.met is None
    assert asked(result) == [limit.bound]
    own = derive(random_alpha(fine_space), [limit], "constrained").paths
    assert result.derivation.paths == own
    assert calls == [own] * (2 * MOST_TIMINGS)
    (note,) = result.derivation.notes
    assert f"takes {drift:.2f} times what the table predicts" in note
    assert "recalibrate" in note


@pytest.mark.parametrize("drift", [0.92, 1.08])
def test_a_machine_that_is_off_by_what_a_table_may_be_is_corrected(fine_space, drift):
    limit = limit_at(fine_space, 0.5)
    timer, _ = timer_with_error(limit, drift, drift=drift)
    result = run(fine_space, limit, timer)
    assert result.met
    assert len(result.tries) > 1
    assert result.derivation.notes == ()
    assert limit.bound * 0.95 <= measured_ms(result) <= limit.bound * 1.02


def test_a_reliable_timing_is_chosen_before_one_that_is_not(fine_space):
    """The first network is faster than needed. That of the raised bound is timed while the machine is fast as a whole:
    it seems to use more of the budget, and would exceed it."""
    limit = limit_at(fine_space, 0.5)
    calls = []
    exact, _ = timer_with_error(limit, 1.0)

    def timer(architectures, measure, progress=None):
        calls.append(architectures[0].paths)
        first = architectures[0].paths == calls[0]
        factor, drift = (0.89, 1.0) if first else (0.94, 0.8)
        reference = exact(architectures, measure)[1]
        return [Timing(factor * limit.bound, 1e-4, 10), Timing(drift * reference.median_ms, 1e-4, 10)]

    result = run(fine_space, limit, timer)
    assert result.met
    assert (result.chosen, len(result.tries)) == (0, 2)
    assert asked(result)[0] == limit.bound
    assert asked(result)[1] > limit.bound
    assert result.derivation.paths == calls[0]
    assert result.derivation.notes == ()  # those of the try that won


def test_a_second_timing_that_misses_is_said(fine_space):
    limit = limit_at(fine_space, 0.5)
    calls = []
    exact, _ = timer_with_error(limit, 1.0)

    def timer(architectures, measure, progress=None):
        calls.append(architectures[0].paths)
        network, reference = exact(architectures, measure)
        return [replace(network, median_ms=(1.0 if len(calls) == 1 else 1.07) * network.median_ms), reference]

    result = run(fine_space, limit, timer)
    assert result.met
    (note,) = result.derivation.notes
    assert "in a second one, which misses" in note


def test_an_accepted_timing_that_is_disturbed_says_so_beside_other_notes(fine_space):
    """An empty window brings a note of its own."""
    limit = limit_at(fine_space, 0.5)
    limit = replace(limit, bound=1.0003 * limit.bound, tolerance=1e-6)
    timer, _ = timer_with_error(limit, 1.0, noise=0.2 * limit.bound)
    result = run(fine_space, limit, timer)
    assert result.met is None
    assert [("derived in the nearest" in n, "disturbs the timing" in n) for n in result.derivation.notes] == [
        (True, False),
        (False, True),
    ]


def test_a_steady_timing_after_disturbed_ones_decides(fine_space):
    limit = limit_at(fine_space, 0.5)
    plain, _ = timer_with_error(limit, 1.2)
    calls = []

    def timer(architectures, measure, progress=None):
        calls.append(architectures[0].paths)
        network, reference = plain(architectures, measure)
        noisy = [Timing(9 * limit.bound, 5 * limit.bound, 10), reference]
        drifted = [network, Timing(1.5 * reference.median_ms, 1e-4, 10)]
        return (noisy, drifted, [network, reference])[(len(calls) - 1) % 3]

    result = run(fine_space, limit, timer)
    assert result.met
    assert len(result.tries) > 1
    assert result.derivation.notes == ()
    assert len(calls) == 3 * (len(result.tries) + 1)
    assert max(one.reading.timing.median_ms for one in result.outcomes[0].tries) < 2 * limit.bound


def test_below_accepts_a_fast_network_at_once(fine_space):
    limit = limit_at(fine_space, 0.5, at=False)
    timer, _ = timer_with_error(limit, 0.5)
    result = run(fine_space, limit, timer)
    assert result.met
    assert len(result.tries) == 1


def test_a_table_of_another_device_is_not_checked_here(fine_space):
    limit = limit_at(fine_space, 0.5, fingerprint="another device")
    timer, calls = timer_with_error(limit, 2.0)
    result = run(fine_space, limit, timer)
    assert result.met
    assert result.tries == ()
    assert calls == []
    assert result.outcomes[0].readings == ()
    here = limit_at(fine_space, 0.5)
    assert local_latency_limits([limit]) == ()
    assert local_latency_limits([limit, here]) == (here,)


def test_argmax_is_timed_once_and_never_corrected(fine_space):
    limit = limit_at(fine_space, 0.2)
    timer, _ = timer_with_error(limit, 3.0)
    result = run(fine_space, limit, timer, method="argmax")
    assert len(result.tries) == 1


def test_argmax_meets_only_what_it_happens_to_meet(fine_space):
    """Nothing is timed, so the prediction decides; the largest network is the likeliest."""
    limit = limit_at(fine_space, 0.2, fingerprint="another device")
    alpha = Alpha.of_space(fine_space, torch.as_tensor(limit.cost.table).float())
    for method, met in (("argmax", False), ("constrained", True)):
        measured = derive_measured(alpha, fine_space, [limit], method)
        assert (measured.tries, measured.met) == ((), met)


def test_a_timed_limit_does_not_stand_for_the_others(fine_space):
    """argmax again: the first limit is measured and holds, the second is of another device and does not."""
    here, there = limit_at(fine_space, 1.0), limit_at(fine_space, 0.2, fingerprint="another device")
    timer, _ = timer_with_error(here, 0.9)
    alpha = Alpha.of_space(fine_space, torch.as_tensor(here.cost.table).float())
    for limits, met in (([here], [True]), ([there, here], [False, True])):
        measured = derive_measured(alpha, fine_space, limits, "argmax", timer=timer)
        assert len(measured.tries) == 1
        assert (verdicts(measured), measured.met) == (met, all(met))
        assert [outcome.limit for outcome in measured.outcomes if outcome.readings] == [here]


def two_limits(space, *shares):
    """Returns limits for two runtimes of this machine, distinguished by `measure`; the second one's latency grows
    differently."""
    one, two = (limit_at(space, share, at=False) for share in shares)
    (source,) = two.sources
    cost = Cost(two.cost.fixed, np.sqrt(two.cost.table), two.cost.mask)
    low, high = cost.reachable
    source = replace(source, path=Path("other.yaml"), cost=cost, measure=MeasureConfig(threads=2))
    return named([one, replace(two, cost=cost, bound=low + shares[1] * (high - low), sources=(source,))])


def timer_of_two(limits, factors, noises=(1e-4, 1e-4)):
    """A machine on which networks take factors[k] times what the k-th table says."""

    def timer(architectures, measure, progress=None):
        k = 1 if measure.threads == 2 else 0
        network, reference = (limits[k].cost.of(a.paths) for a in architectures)
        return [Timing(factors[k] * network, noises[k] * network, 10), Timing(reference, 1e-4, 10)]

    return timer


@pytest.mark.parametrize("factors", [(1.0, 1.0), (1.08, 1.0), (1.0, 1.06), (1.08, 1.06)])
@pytest.mark.parametrize("shares", [(0.4, 0.7), (0.7, 0.4), (0.5, 0.5)])
def test_every_table_of_this_machine_is_timed_and_corrected(fine_space, factors, shares):
    limits = two_limits(fine_space, *shares)
    both = torch.as_tensor(limits[0].cost.table + limits[1].cost.table)  # both limits are felt
    alpha = Alpha.of_space(fine_space, both.float() * 9)
    measured = derive_measured(alpha, fine_space, limits, "constrained", timer=timer_of_two(limits, factors))
    assert measured.met
    paths = measured.derivation.paths
    for limit, factor, outcome in zip(limits, factors, measured.outcomes, strict=True):
        assert outcome.limit is limit
        timing = outcome.readings[1].timing
        assert timing.median_ms == pytest.approx(factor * limit.cost.of(paths))
        assert timing.median_ms <= 1.02 * limit.bound
    assert measured.derivation.notes == ()


def test_a_limit_that_holds_keeps_its_bound_while_another_one_s_moves(fine_space):
    limits = two_limits(fine_space, 0.5, 0.9)
    alpha = Alpha.of_space(fine_space, torch.as_tensor(limits[0].cost.table).float() * 9)
    measured = derive_measured(alpha, fine_space, limits, "constrained", timer=timer_of_two(limits, (1.08, 0.5)))
    assert measured.met
    assert asked(measured, 1) == [limits[1].bound] * len(measured.tries)
    assert asked(measured, 0)[1] < limits[0].bound


def test_one_limit_s_disturbed_timing_keeps_no_other_from_being_corrected(fine_space):
    limits = two_limits(fine_space, 0.5, 0.5)
    timer = timer_of_two(limits, (1.08, 1.5), (1e-4, 0.3))
    alpha = Alpha.of_space(fine_space, torch.as_tensor(limits[0].cost.table).float() * 9)
    measured = derive_measured(
        alpha, fine_space, limits, "constrained",
        timer=timer,
    )  # fmt: skip
    assert (measured.met, verdicts(measured)) == (None, [True, None])
    assert set(asked(measured, 1)) == {limits[1].bound}
    assert asked(measured)[0] > asked(measured)[-1]
    (note,) = measured.derivation.notes
    assert [outcome.note for outcome in measured.outcomes] == ["", note]
    assert note.startswith("latency_other: other work on this machine disturbs the timing (2x noise is 40 %)")


def test_a_correction_that_contradicts_another_limit_keeps_the_tries(fine_space, make_bounded):
    """The device is slower than the table, and the second limit forbids anything the table holds for faster."""
    latency = limit_at(fine_space, 0.5, at=False)
    timer, _ = timer_with_error(latency, 1.5)
    alpha = Alpha.of_space(fine_space)
    paths = derive(alpha, [limit_at(fine_space, 0.5)], "constrained").paths  # close to the bound
    table = latency.cost.table
    opposite = Cost(1.0, np.where(fine_space.mask, table.max() - table, 0.0), fine_space.mask)
    other = make_bounded(opposite, opposite.of(paths) * (1 + 1e-12), metric="params")
    result = derive_measured(alpha, fine_space, [latency, other], "constrained", timer=timer)
    assert not result.met
    assert len(result.tries) == 1
    assert [len(outcome.readings) for outcome in result.outcomes] == [2, 0]


def test_acceptable_error_is_a_t_quantile_of_the_standard_error_within_two_and_five_percent():
    """The quantile of 14 degrees of freedom is 2.1448; a median's standard error is sqrt(pi / 2) noise / sqrt(n)."""
    timing = Timing(10.0, 0.4, 450, rounds=15)
    assert timing.standard_error_ms == pytest.approx(1.2533 * 0.4 / 15**0.5, rel=1e-4)
    assert acceptable_error(timing) == pytest.approx(2.1448 * timing.standard_error_ms / 10.0, rel=1e-4)
    assert acceptable_error(Timing(10.0, 0.01, 450, rounds=15)) == 0.02
    assert acceptable_error(Timing(10.0, 3.0, 450, rounds=15)) == 0.05
    assert acceptable_error(Timing(10.0, 0.4, 90, rounds=3)) == 0.05  # few rounds give a poor estimate of their noise


def share_met(space, share_of_bound, round_noise, seeds=400):
    """Returns the share of reliable simulated readings by which a network at `share_of_bound` T is met.

    Every round is slowed or sped up by `round_noise`, and every pass within it by 2 %.
    """
    limit = limit_at(space, 0.5)
    rng = np.random.default_rng(0)
    shape = (TIMING_ROUNDS, 30)

    def timer(architectures, measure, progress=None):
        _, reference = architectures
        noise = 1 + round_noise * rng.standard_normal((shape[0], 1)) + 0.02 * rng.standard_normal(shape)
        return [Timing.of(share_of_bound * limit.bound * noise), Timing(limit.cost.of(reference.paths), 1e-4, 10)]

    clock = Clock.of(space, limit.cost, MeasureConfig(), timer)
    readings = [clock.timed(clock.reference) for _ in range(seeds)]
    settled = [meets_bound(reading.timing, limit.bound) for reading in readings if reading.reliable]
    assert len(settled) > 0.9 * seeds
    return sum(settled) / len(settled)


@pytest.mark.parametrize("round_noise", [0.01, 0.03, 0.05])
def test_a_network_seven_percent_above_the_bound_is_rarely_called_met(fine_space, round_noise):
    """With twice the noise of single rounds as the tolerance it was met in 71 % of readings at a noise of 5 %."""
    assert share_met(fine_space, 1.07, round_noise) < 0.05


@pytest.mark.parametrize("round_noise", [0.01, 0.03, 0.05])
def test_a_network_exactly_at_the_bound_is_met_nearly_always(fine_space, round_noise):
    assert share_met(fine_space, 1.0, round_noise) > 0.95


def test_every_stage_of_the_closed_loop_is_reported(fine_space):
    """The first timing is disturbed, and the network too slow: timed again, derived again, timed, confirmed."""
    limit = limit_at(fine_space, 0.5)
    plain, calls = timer_with_error(limit, 1.08)
    reports = []

    def timer(architectures, measure, progress):
        progress(0, 30)
        network, reference = plain(architectures, measure)
        return [replace(network, noise_ms=limit.bound if len(calls) == 1 else 1e-4), reference]

    alpha = random_alpha(fine_space)
    derive_measured(
        alpha, fine_space, [limit], "constrained", 2, lambda paths: 1.0,
        timer=timer, report=lambda *call: reports.append(call))  # fmt: skip
    assert reports[:6] == [
        ("deriving", 0, 0),
        ("deriving: scoring the candidates", 0, 2),
        ("deriving: scoring the candidates", 1, 2),
        ("deriving: scoring the candidates", 2, 2),
        ("timing the derived network", 0, 30),
        ("timing the derived network, 2 of at most 5: the machine is busy", 0, 30),
    ]
    assert reports[6] == ("deriving again (2 of at most 5), with a corrected bound", 0, 0)
    assert reports[-1] == ("timing once more, to confirm", 0, 30)


def test_a_drifting_machine_is_reported_during_the_timing(fine_space):
    limit = limit_at(fine_space, 0.5)
    plain, _ = timer_with_error(limit, 1.0, drift=1.4)
    reports = []

    def timer(architectures, measure, progress):
        progress(0, 30)
        return plain(architectures, measure)

    clock = Clock.of(fine_space, limit.cost, MeasureConfig(), timer)
    clock.timed(clock.reference, lambda *call: reports.append(call[0]), "timing")
    assert reports[1] == "timing, 2 of at most 5: the machine takes 1.40 times as long as its table predicts"


def test_several_networks_are_timed_in_turn_with_one_reference(fine_space):
    """They share its drift; where one is disturbed, all are timed again."""
    limit = limit_at(fine_space, 0.5)
    cost, rounds = limit.cost, []

    def timer(architectures, measure, progress):
        noise = 0.5 if not rounds else 1e-4
        rounds.append([a.paths for a in architectures])
        *networks, reference = (cost.of(a.paths) for a in architectures)
        return [*(Timing(ms, noise * ms, 10) for ms in networks), Timing(1.05 * reference, 1e-4, 10)]

    clock = Clock.of(fine_space, cost, MeasureConfig(), timer)
    networks = [tuple(i for _ in fine_space.searchable) for i in range(3)]
    readings = clock.timed_all(networks)
    assert rounds == [[*networks, clock.reference]] * 2
    assert [reading.predicted for reading in readings] == [cost.of(paths) for paths in networks]
    assert [reading.drift for reading in readings] == pytest.approx([1.05] * 3)
    assert all(reading.reliable for reading in readings)
