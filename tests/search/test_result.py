"""Tests that result.json holds the values that the search returned."""

from __future__ import annotations

import json

import pytest
import yaml

from engine.errors import ConfigError
from engine.evaluation import Evaluation
from latency.measure import Timing
from search.derive.clock import Reading
from search.derive.derivation import derive
from search.derive.outcome import LimitOutcome, MeasuredDerivation, TimedLimit, Try
from search.loop import run_search
from search.result import ResultFile, load_result, result_of
from supernet.alpha import Alpha
from supernet.architecture import Architecture


@pytest.fixture(params=[0, 5])
def run(tmp_path, make_tiny_config, request):
    """A finished search under two limits and one on peak activation, and what it returned."""
    limits = [
        {"metric": "macs", "at": "50%", "tolerance": 0.2},
        {"metric": "params", "below": "90%"},
        {"metric": "peak_activation_bytes", "below": "90%"},
    ]
    config = {
        "space": make_tiny_config(),
        "data": {"name": "fake", "fake_images": 80, "fake_classes": 4, "validation": 0.4},
        "limits": limits,
        "search": {
            "warmup_epochs": 0,
            "epochs": 2,
            "batch_size": 8,
            "arch_every": 2,
            "bn_batches": 1,
            "regression": {"final_steps": request.param},
        },
        "run": {"seed": 3, "threads": 1},
    }
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "run", run_search(tmp_path / "search.yaml", tmp_path / "run")


def test_result_json_holds_the_values_that_the_search_returned(run):
    folder, returned = run
    result = load_result(folder)
    paths, accuracy = returned.architecture.paths, returned.accuracy
    assert (result.top1, result.top5, result.loss) == (accuracy.top1, accuracy.top5, accuracy.loss)
    assert (result.images, result.seed, result.steps, result.resumed_at) == (32, 3, 12, 0)
    macs, params, peak = result.limits
    assert [f.predicted for f in result.limits] == [limit.cost_of(paths) for limit in returned.limits]
    assert [f.predicted for f in result.limits] == [outcome.predicted for outcome in returned.measured.outcomes]
    assert (macs.at, macs.below, params.at) == (returned.limits[0].bound, None, None)
    assert [(f.name, f.kind, f.bound) for f in result.limits] == [(x.name, x.kind, x.bound) for x in returned.limits]
    assert returned.limits[-1].name == "peak_activation_bytes"
    assert peak.expected is None
    last = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    curves = {tag: value for record in last for tag, value in record.items()}  # the last point of each
    assert macs.expected == curves["expected/macs"]
    assert params.expected == curves["expected/params"]
    assert (result.top1, result.loss) == (curves["derived/top1"], curves["derived/loss"])
    judged = returned.judged
    assert result.judgement.model_dump() == judged.model_dump()
    assert 1 <= judged.rank <= judged.networks + 1
    assert result.macs == macs.predicted
    assert result.params == params.predicted
    assert [limit.measured for limit in result.limits] == [None] * 3
    assert (result.tries, result.met) == (0, True)


def test_the_timing_that_decided_is_distinguished_from_its_confirmation(space, make_cost, make_limit):
    """The second of two limits was timed, three times."""
    alpha, limits = Alpha.of_space(space), [make_limit(make_cost(space, seed), 0.5) for seed in range(2)]
    derivation = derive(alpha, limits, "constrained")
    timed = tuple(
        TimedLimit(limits[1], asked, Reading(predicted, Timing(median, noise, 3)))
        for asked, predicted, median, noise in ((9.0, 8.0, 7.0, 0.1), (6.0, 5.0, 4.0, 0.2), (5.0, 5.0, 3.0, 0.2))
    )
    readings = (timed[1].reading, Reading(5.0, Timing(4.5, 0.3, 3)))
    outcomes = (
        LimitOutcome.predicted_only(limits[0], derivation.paths),
        LimitOutcome(limits[1], 5.0, False, timed, readings),
    )
    measured = MeasuredDerivation(derivation, outcomes, tuple(Try(derivation, (one,)) for one in timed), 1)
    accuracy = Evaluation(float("inf"), 50.0, 90.0, 8)
    architecture = Architecture(space, derivation.paths, "a")
    result = result_of(
        architecture,
        alpha,
        measured,
        accuracy,
        notes=["a", "b"],
        seed=0,
        steps=1,
        seconds=0.0,
        resumed_at=0,
    )
    untimed, timed = (limit.measured for limit in result.limits)
    assert untimed is None
    assert (timed.median_ms, timed.noise_ms) == (4.0, 0.2)
    assert (timed.confirmation_ms, timed.confirmation_noise_ms) == (4.5, 0.3)
    assert result.tries == 3
    assert not result.met
    assert result.notes == ("a", "b")
    assert result.loss is None
    assert ResultFile.model_validate_json(result.model_dump_json()) == result


def test_a_search_without_a_result_and_one_with_a_damaged_result(tmp_path):
    assert load_result(tmp_path) is None
    (tmp_path / "result.json").write_text('{"top1": 3}')
    with pytest.raises(ConfigError, match=r"result\.json: is no result of a search \(architecture: Field required\)"):
        load_result(tmp_path)
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(ConfigError, match="delete it and resume the search"):
        load_result(tmp_path)


@pytest.mark.parametrize("text", ["[" * 3000, '{"top1": NaN}', '{"top1": 1e999}'])
def test_a_result_that_is_no_json_is_damaged(text, tmp_path):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(ConfigError, match=r"result\.json: is no result of a search"):
        load_result(tmp_path)


def test_a_result_that_is_a_device_is_refused(tmp_path):
    (tmp_path / "result.json").symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="is a device or a pipe, expected the result of a search"):
        load_result(tmp_path)
