# ruff: noqa: E501 - a row of a table is one mistake and its message
"""Tests that each mistake in a real search file gives one readable line."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from engine.config import load_config, validate
from search.config import ReinforceConfig, SearchConfig, SearchSettings
from search.learn.forms import Hinge, Projection
from search.learn.gradient import DRAWS, GATE_GRADIENTS
from search.learn.modes import MODES, GateGradient, GradientMode
from search.update import ESTIMATORS
from tests.engine.config_files import message_of

BASE = Path("configs/search/quickstart_cpu.yaml")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def search_message(monkeypatch):
    """The error of quickstart_cpu.yaml with overrides, without the file's name."""
    monkeypatch.chdir(ROOT)

    def message(*overrides: str) -> str:
        text = message_of(validate, SearchConfig, load_config(BASE, overrides), str(BASE))
        assert text.startswith(f"{BASE}: ")
        return text.removeprefix(f"{BASE}: ")

    return message


def test_the_quick_start_is_accepted(monkeypatch):
    monkeypatch.chdir(ROOT)
    SearchConfig.read(BASE)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.epochs='3'", "search.epochs: got '3', expected a whole number; remove the quotes"),
        ("search.epochs=true", "search.epochs: got true, expected a whole number"),
        ("search.epochs=1.5", "search.epochs: got 1.5, expected a whole number"),
        ("search.epochs=1e3", "search.epochs: got 1000.0, expected a whole number; write 1000"),
        ("search.epochs=0", "search.epochs: got 0, expected at least 1"),
        ("search.epochs=null", "search.epochs: is empty, expected a whole number"),
        ("search.lr=.nan", "search.lr: got .nan, expected a finite number"),
        ("search.lr=.inf", "search.lr: got .inf, expected a finite number"),
        ("data.validation=true", "data.validation: got true, expected a number"),
        ("search.lr=fast", "search.lr: got 'fast', expected a number"),
        ("search.lr=0", "search.lr: got 0, expected a number above 0"),
        ("search.momentum=1", "search.momentum: got 1, expected a number below 1"),
        ("search.lr=2026-01-31", "search.lr: got '2026-01-31', expected a number"),
        ("run.channels_last=1", "run.channels_last: got 1, expected true or false"),
        ("run.device=gpu", "run.device: got 'gpu', expected 'cpu' or 'cuda'. Did you mean 'cuda'?"),
        ("run.amp=fp16", "run.amp: got 'fp16', which is for retrainings: its gradients have to be scaled, expected 'bf16' or 'none'; choose one of them"),
        ("run.amp=true", "run.amp: got true, expected 'none', 'bf16' or 'fp16'"),
        ("search.arch_betas=0.5", "search.arch_betas: got 0.5, expected a list"),
        ("search.arch_betas=[0.5, 1]", "search.arch_betas: got [0.5, 1.0], expected two numbers in [0, 1)"),
        ("search.arch_update=two-path", "search.arch_update: got 'two-path', expected regression, full, full_v2, two_path, reinforce or path/to/file.py:name. Did you mean 'two_path'?"),
        ("search={arch_update: reinforce, gate_gradient: second_order}", "search.gate_gradient: reinforce differentiates no gates; remove it (or set it to null) or choose a gradient arch_update"),
        ("search.gate_gradient=second", "search.gate_gradient: got 'second', expected first_order, second_order or path/to/file.py:name. Did you mean 'second_order'?"),
        ("search.loss={form: hinge, wieght: 3}", "search.loss.wieght: unknown key; accepted here: form, weight. Did you mean 'weight'?"),
        ("search.loss.form=projected", "search.loss.form: got 'projected', expected 'add_linear', 'hinge', 'mul_log' or 'projection'. Did you mean 'projection'?"),
        ("search.loss=hinge", "search.loss: got 'hinge', expected a section with `form`: 'add_linear', 'hinge', 'mul_log' or 'projection'"),
        ("search.reinforce={samples: 3}", "search.reinforce: arch_update is regression; remove it or set arch_update: reinforce"),
        ("search={arch_update: two_path, regression: {samples: 3}}", "search.regression: arch_update is two_path; remove it or set arch_update: regression"),
        ("search={arch_update: reinforce, regression: {}}", "search.regression: arch_update is reinforce; remove it or set arch_update: regression"),
        ("search.regression={samples: 1}", "search.regression.samples: got 1, expected at least 2"),
        ("search.loss.form=hinge", "search.loss: hinge is a term of a gradient, and regression projects; remove it or choose a gradient arch_update"),
        ("search.gate_gradient=first_order", "search.gate_gradient: regression differentiates no gates; remove it (or set it to null) or choose a gradient arch_update"),
        ("search.entropy={start: 0.1}", "search.entropy: adds to a gradient of alpha, which regression does not have; remove it or choose another arch_update"),
        ("search.terms=[{function: 'own.py:term'}]", "search.terms: adds to a gradient of alpha, which regression does not have; remove it or choose another arch_update"),
        ("search={arch_update: reinforce, loss: {form: projection}}", "search.loss: reinforce has a reward, not a loss; remove it or choose a gradient arch_update"),
        ("search.warmup_lr=0", "search.warmup_lr: got 0, expected a number above 0"),
        ("space.stem.width=wide", "space.stem.width: got 'wide', expected a whole number or a section (keys: exact)"),
        ("space.stem=8", "space.stem: got 8, expected a section (keys: kernel, stride, width)"),
        ("space.stages.1.dept=3", "space.stages.1.dept: unknown key; accepted here: candidates, depth, first, residual, stride, width. Did you mean 'depth'?"),
        ("limits=[]", "limits: got [], expected at least 1 entry"),
        ("limits.0.at=50 ms", "limits.0.at: got '50 ms', expected a number in the metric's unit, or 0% to 100%, such as 50%; write 50"),
        ("limits.0.at=[1]", "limits.0.at: got [1], expected a number or text"),
        ("limits.0.table=null", "limits.0.table: is missing; a latency limit reads its milliseconds from a latency table"),
        ("limits.0.below=3", "limits.0: expected exactly one of `at` (use the budget) and `below` (an upper bound); set the other to null"),
        ("measure.dtype=float16", "measure.dtype: got 'float16' with device cpu, expected float32 or bfloat16 there"),
        ("data.name=CIFAR10", "data.name: got 'CIFAR10', expected 'digits', 'cluttered_digits', 'fashion_mnist', 'cifar10', 'imagenet', 'folder', 'shards', 'csv' or 'fake'. Did you mean 'cifar10'?"),
        ("sarch.epochs=3", "sarch: unknown key; accepted here: data, limits, measure, run, search, space. Did you mean 'search'?"),
        ("epochs=3", "epochs: unknown key; accepted here: data, limits, measure, run, search, space. Did you mean 'search.epochs'?"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_search_config_gets_one_readable_line(search_message, override, message):
    assert search_message(override) == message


@pytest.mark.parametrize(
    ("update", "projects"), [("regression", True), ("two_path", True), ("full", True), ("reinforce", False)]
)
def test_limits_enter_by_projection_unless_a_loss_or_a_reward_has_them(update, projects):
    assert SearchSettings(arch_update=update).projects == projects
    if update == "reinforce":
        assert SearchSettings(arch_update=update, reinforce=ReinforceConfig(limits="projection")).projects
    elif update != "regression":
        assert not SearchSettings(arch_update=update, loss=Hinge()).projects
    else:
        assert SearchSettings(loss=Projection()).projects


def test_an_unknown_key_lists_what_is_accepted(search_message):
    message = search_message("search.epoch=3")
    assert message.startswith("search.epoch: unknown key; accepted here: arch_betas, ")
    assert message.endswith(". Did you mean 'epochs'?")


def test_a_key_of_another_section_is_sent_there(search_message):
    assert search_message("search.seed=3").endswith(". Did you mean 'run.seed'?")
    assert search_message("search.threads=3").endswith(". Did you mean 'measure.threads' or 'run.threads'?")


def test_the_error_of_an_empty_section_lists_its_keys(search_message):
    message = search_message("run=null")
    assert message.startswith("run: is empty, expected a section (keys: seed, device, ")
    assert message.endswith("; fill it or remove it")


def test_further_errors_are_counted_by_place(search_message):
    assert search_message("search.epochs=x", "run.seed=x", "space.stem.width=x").endswith(" (+2 more)")


@pytest.mark.parametrize("section", ["space", "data", "limits"])
def test_a_missing_section_is_named_with_those_that_are_there(section, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_config(BASE)
    del config[section]
    message = message_of(validate, SearchConfig, config, "f.yaml")
    assert message.startswith(f"f.yaml: {section}: is missing, expected a ")
    assert message.endswith(f"; the file has {', '.join(config)}")


def test_a_mistyped_key_is_named_before_the_key_that_is_missing_because_of_it(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_config(BASE)
    config["spce"] = config.pop("space")
    message = message_of(validate, SearchConfig, config, "f.yaml")
    assert message.startswith("f.yaml: spce: unknown key; ")
    assert message.endswith(". Did you mean 'space'? (+1 more)")


def test_a_seed_beyond_64_bits_is_refused(search_message):
    assert search_message(f"run.seed={10**25}").startswith("run.seed: got 10000000000000000000000000, expected ")


def test_every_mode_and_gate_gradient_has_its_entry_in_the_registries():
    assert ESTIMATORS.keys() == MODES.keys()
    assert tuple(DRAWS) == tuple(name for name, mode in MODES.items() if mode.differentiates_gates)
    assert tuple(DRAWS) == get_args(GradientMode)
    assert tuple(GATE_GRADIENTS) == get_args(GateGradient)
