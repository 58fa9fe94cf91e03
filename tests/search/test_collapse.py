"""Tests the alarms of a collapse on made-up probabilities, and the early stop of a real run."""

from __future__ import annotations

import json
import logging

import pytest
import torch
import yaml
from pydantic import TypeAdapter

from search.config import SearchSettings
from search.learn.collapse import CollapseAlarm, Settled, skip_rates, undecided
from search.learn.forms import Loss, Projection
from search.loop import run_search
from supernet.alpha import Alpha

WEIGHT = "search.loss.weight"
FINE = {
    "skip": {"stage0": 0.2},
    "entropy": 0.8,
    "ce_gradient": 1.0,
    "limits_gradient": 1.0,
    "missed": 0.1,
    "progress": 0.3,
}


def test_skip_rates_are_means_over_the_edges_of_a_stage_that_have_skip(space):
    """Stage 0 has skip on both edges; of stage 1 the first edge changes the shape and has none."""
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.4, 0.6, 0.0], [0.0, 0.1, 0.9]], dtype=torch.float64)
    assert skip_rates(p, space) == pytest.approx({"stage0": 0.5, "stage1": 0.9})


def test_relative_entropy_is_one_if_nothing_is_decided_and_zero_if_everything_is(space):
    assert Alpha.of_space(space).relative_entropy() == pytest.approx(1.0)
    decided = Alpha.of_space(space)
    decided.values[:, 0] = 1e3
    assert decided.relative_entropy() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"skip": {"stage0": 0.95, "stage1": 0.91}}, "collapsing onto skip"),
        ({"entropy": 0.01}, "in the first half of the search"),
        ({"ce_gradient": 1e-3, "limits_gradient": 1.0}, "latency alone"),
        ({"ce_gradient": 1e3, "limits_gradient": 1.0}, "alpha ignores them"),
    ],
)
def test_each_alarm_is_raised_once(change, word):
    alarm = CollapseAlarm(WEIGHT)
    assert alarm.new_warnings(**FINE) == []
    (text,) = alarm.new_warnings(**FINE | change)
    assert word in text
    assert alarm.new_warnings(**FINE | change) == []
    resumed = CollapseAlarm(WEIGHT, warned=dict(alarm.warned))
    assert resumed.new_warnings(**FINE | change) == []


@pytest.mark.parametrize("change", [{"ce_gradient": 1e-3}, {"ce_gradient": 1e3}])
def test_an_alarm_names_the_key_of_the_forms_strength_and_a_form_without_one_raises_none(change):
    keys = {"add_linear": "search.loss.weight", "hinge": "search.loss.weight", "mul_log": "search.loss.power"}
    for form, key in keys.items():
        alarm = CollapseAlarm(TypeAdapter(Loss).validate_python({"form": form}).strength_key)
        (text,) = alarm.new_warnings(**FINE | change)
        assert f"{key}, or use the form projection" in text
    without = SearchSettings().resolved_loss.strength_key
    assert without is Projection().strength_key is None
    assert CollapseAlarm(without).new_warnings(**FINE | change) == []


def test_an_early_decision_raises_an_alarm_only_if_alpha_draws_the_weights_paths():
    early = FINE | {"entropy": 0.01}
    (text,) = CollapseAlarm(None, draws=True).new_warnings(**early)
    assert "alpha has decided (entropy 1.0% of the largest)" in text
    assert CollapseAlarm(None, draws=False).new_warnings(**early) == []
    collapsed = early | {"skip": {"stage0": 0.95}}
    (text,) = CollapseAlarm(None, draws=False).new_warnings(**collapsed)  # the other alarms are unchanged
    assert "collapsing onto skip" in text


def test_an_undecided_alpha_gives_a_warning_with_the_remedies_of_its_mode(space):
    alpha = Alpha.of_space(space)
    for update in ("full", "full_v2", "two_path"):
        text = str(undecided(alpha, SearchSettings(arch_update=update)))
        assert "entropy 100% of the largest" in text
        assert "; set search.gate_gradient: second_order, raise search.arch_lr" in text
    second_order = SearchSettings(arch_update="two_path", gate_gradient="second_order")
    for without in (second_order, SearchSettings(arch_update="reinforce")):
        assert "; raise search.arch_lr" in str(undecided(alpha, without))
    text = str(undecided(alpha, SearchSettings(arch_update="regression")))
    assert text.endswith("; raise search.regression.final_steps (more networks are compared) or search.epochs")
    assert "arch_lr" not in text  # it has no optimizer
    alpha.values[:, 0] += 3.0
    for update in ("regression", "two_path"):
        assert undecided(alpha, SearchSettings(arch_update=update)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"skip": {"stage0": 0.99, "stage1": 0.5}},  # one shallow stage is no collapse
        {"skip": {}},
        {"entropy": 0.01, "progress": 0.9},  # late decisions are what a search is for
        {"ce_gradient": 1e3, "missed": 0.01},  # at its target, a limit has no gradient
        {"ce_gradient": 0.0, "limits_gradient": 0.0},  # reinforce has no such shares
    ],
)
def test_a_sound_search_raises_no_alarm(change):
    assert CollapseAlarm(WEIGHT).new_warnings(**FINE | change) == []


def test_settled_compares_with_the_anchor_so_that_slow_drift_counts():
    first = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    state = Settled.at(first, 10)
    for step in range(11, 16):  # 0.004 an epoch never moves far from one epoch to the next
        state = state.observe(first + (step - 10) * torch.tensor([[0.004, -0.004]]), step, 0.01)
    assert state.since == 13
    assert state.observe(torch.tensor(state.anchor), 99, 0.01) is state


@pytest.fixture
def resting(tmp_path, make_search_file):
    """A search whose alpha hardly moves, for at most 12 epochs of 6 steps after one of warm-up."""
    search = {"warmup_epochs": 1, "epochs": 12, "batch_size": 8, "arch_every": 2, "bn_batches": 1, "arch_lr": 1e-7}
    search["arch_update"] = "two_path"
    search["stop_when_settled"] = {"change": 0.01, "epochs": 3}
    run = {"threads": 1, "log_every": 1000, "evaluate_every": 1000}  # an evaluation draws a picture
    config = make_search_file([{"metric": "macs", "below": "99%"}], search=search, run=run)
    file = tmp_path / "search.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)))
    return file


def points(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_search_that_has_settled_ends_early_and_stays_ended(resting, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run_search(resting, tmp_path / "run")
    steps = 6 * (1 + 3)
    assert f"the search ends at step {steps} of {6 * 13}" in caplog.text
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["steps"] == steps
    before = points(tmp_path / "run")
    assert before[-1]["step"] == steps  # the last step has its curves, evaluation and checkpoint
    run_search(resting, tmp_path / "run", resume=True)
    assert points(tmp_path / "run") == before
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == steps


def test_a_search_whose_alpha_moves_goes_on_to_its_end(resting, tmp_path):
    run_search(resting, tmp_path / "run", overrides=["search.arch_lr=0.1", "search.epochs=4"])
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 6 * 5


def test_warnings_of_a_search_are_notes_in_its_result(resting, tmp_path):
    """An alpha that rests is undecided at the end, and a hinge that ignores its limit was said on the way."""
    changes = ["search.epochs=1", "search.loss={form: hinge, weight: 1e-6}", "limits.0.below=20%", "run.log_every=1"]
    run_search(resting, tmp_path / "run", overrides=changes)
    notes = json.loads((tmp_path / "run" / "result.json").read_text())["notes"]
    notes = [note for note in notes if "does not rank" not in note]  # so small a supernet may or may not
    assert [("alpha ignores them" in note, "alpha is undecided" in note) for note in notes] == [
        (True, False),
        (False, True),
    ]


def test_the_figures_of_the_alarms_are_curves(resting, tmp_path):
    run_search(
        resting,
        tmp_path / "run",
        overrides=["search.epochs=1", "search.loss.form=hinge", "limits.0.below=20%", "run.log_every=1"],
    )
    names = {key for point in points(tmp_path / "run") for key in point}
    assert {"skip/stage0", "skip/stage1", "arch/ce_over_limits", "arch/entropy", "arch/relative_entropy"} <= names
