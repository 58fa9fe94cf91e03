"""docs/extending/loss_form.md: the example's slopes are its derivatives, a search runs with it, errors are one line."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from engine.config import validate
from engine.errors import UserError
from search.config import SearchSettings
from search.learn.forms import ExpectedCost, next_duals, own_form, slopes_of
from search.own import with_permitted_modules

EXAMPLE = "docs/examples/own_loss_form.py:AugmentedLagrangian"


def settings(**loss: Any) -> SearchSettings:
    return validate(SearchSettings, {"arch_update": "two_path", "loss": loss}, "search.yaml")


@pytest.mark.parametrize("kind", ["at", "below"])
@pytest.mark.parametrize("share", [0.5, 0.9, 1.2])
@pytest.mark.parametrize("dual", [0.0, 0.7])
def test_the_examples_slopes_are_those_of_its_value(kind, share, dual):
    form = own_form(EXAMPLE)(form=EXAMPLE, weight=2.0)
    up, down = (form.value(1.0, [ExpectedCost(share * 3 + h, 3.0, kind, dual)]) for h in (1e-5, -1e-5))
    (slope,) = slopes_of(form, 1.0, [ExpectedCost(share * 3, 3.0, kind, dual)]).limits
    assert slope == pytest.approx((up - down) / 2e-5, abs=1e-6)


def test_a_section_is_read_with_the_fields_of_the_class_and_written_as_it_was():
    read = settings(form=EXAMPLE, weight=3.0)
    assert (read.resolved_loss.weight, read.resolved_loss.keeps_duals) == (3.0, True)
    written = read.model_dump(mode="json", exclude_none=True)["loss"]
    assert written == {"form": EXAMPLE, "weight": 3.0}
    assert settings(**written) == read
    assert settings(form="hinge", weight=3.0).model_dump(mode="json")["loss"] == {"form": "hinge", "weight": 3.0}


def test_a_search_keeps_the_duals_of_the_example(tmp_path, door, tiny_search, write_yaml, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the example is found from anywhere
    config = tiny_search | {"limits": [{"metric": "macs", "at": "40%"}, {"metric": "params", "below": "60%"}]}
    config["search"] = {**tiny_search["search"], "arch_update": "two_path", "loss": {"form": EXAMPLE, "weight": 1.0}}
    ended = door("run_search", write_yaml(tmp_path / "search.yaml", config), "--out", tmp_path / "run")
    assert ended.status == 0, ended.err
    newest = max((tmp_path / "run/checkpoints").iterdir(), key=lambda f: f.name)
    state = torch.load(newest, weights_only=True)["search"]
    assert len(state["duals"]) == 2
    assert state["duals"][0] != 0
    assert json.loads((tmp_path / "run/result.json").read_text())["steps"] == state["step"]
    assert "own_loss_form.py" in (tmp_path / "run/inputs.json").read_text()  # a resume compares it


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"form": EXAMPLE, "weight": -1}, "search.yaml: loss.weight: got -1, expected a number above 0"),
        (
            {"form": EXAMPLE, "weigth": 1},
            "loss: weigth: unknown key; accepted here: form, weight. Did you mean 'weight'?",
        ),
        ({"form": f"{EXAMPLE[:-1]}m"}, "Did you mean 'AugmentedLagrangian'?"),
        ({"form": "none.py:Form"}, "loss: no such file 'none.py'"),
        ({"form": "hinges"}, "Did you mean 'hinge'?"),
    ],
)
def test_a_section_that_cannot_be_read_is_one_line(loss, message):
    with pytest.raises(UserError) as error:
        settings(**loss)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


OWN = """
from search.learn.forms import LossForm, Slopes


class Mine(LossForm):
    keeps_duals = True

    def value(self, ce, limits):
        return ce

    def slopes(self, ce, limits):
        return {slopes}

    def next_dual(self, limit):
        return {dual}
"""


@pytest.mark.parametrize(
    ("slopes", "dual", "message"),
    [
        ("1.0", "0.0", "own.py:Mine: slopes() returned 1.0, expected Slopes with a finite number for CE and for each"),
        ("Slopes(1.0, ())", "0.0", "expected Slopes with a finite number for CE and for each of the 1 limits"),
        ("Slopes(1.0, (float('nan'),))", "0.0", "expected Slopes with a finite number"),
        ("Slopes(1.0, (limits[0].E,))", "0.0", "slopes() failed: own.py, line 12: AttributeError"),
        ("Slopes(1.0, (0.0,))", "None", "own.py:Mine: next_dual() returned [null], expected finite numbers"),
    ],
)
def test_a_form_that_cannot_be_used_is_one_line(tmp_path, monkeypatch, slopes, dual, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN.format(slopes=slopes, dual=dual))
    form = settings(form="own.py:Mine").resolved_loss
    limit = ExpectedCost(1.0, 2.0, "at")
    with pytest.raises(UserError, match=r"^search.loss: ") as error:
        next_duals(form, [limit] if slopes_of(form, 1.0, [limit]) else [])
    assert message in str(error.value)


def test_a_run_from_elsewhere_may_not_call_it_unasked():
    config = {"search": {"loss": {"form": "theirs.py:Mine"}}}
    with pytest.raises(ValueError, match=r"would run 'theirs.py'"):
        with_permitted_modules(config, [])
