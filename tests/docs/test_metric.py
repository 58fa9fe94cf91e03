"""docs/extending/metric.md: a limit on a metric of the user's own is met exactly, and its errors are one line."""

from __future__ import annotations

import json

import pytest
import torch

from engine.errors import UserError
from search.config import SearchConfig
from search.derive.derivation import likeliest
from search.learn.projection import Projector
from search.limits.resolve import resolve
from search.own import own_files, with_permitted_modules
from supernet.alpha import Alpha
from supernet.architecture import Architecture

OPS = ["mbconv_k3_e1", "mbconv_k3_e1_se", "mbconv_k3_e2_se", "skip"]
ATTENTIONS = {"metric": "attentions", "function": "docs/examples/own_metric.py:attentions"}
ESTIMATOR = "docs/examples/own_estimator.py:halfway"
MACS = {"metric": "macs", "at": "60%"}


@pytest.fixture
def with_limits(tiny_search):
    """with_limits(*limits, **search) returns the tiny search in a space with squeeze-excite, under these limits."""

    def make(*limits, **search):
        stages = [{**stage, "candidates": OPS} for stage in tiny_search["space"]["stages"]]
        space = tiny_search["space"] | {"stages": stages}
        return tiny_search | {"space": space, "limits": list(limits), "search": tiny_search["search"] | search}

    return make


@pytest.fixture
def resolved_with(with_limits, write_yaml, tmp_path):
    def resolved(*limits):
        file = write_yaml(tmp_path / "search.yaml", with_limits(*limits))
        return resolve(SearchConfig.read(file, ()), file)

    return resolved


def attentions(architecture):
    return sum(name.endswith("_se") for name in architecture.names)


def test_the_likeliest_networks_have_at_most_as_many_attentions_as_asked(resolved_with):
    """By enumeration; alpha prefers squeeze-excite everywhere, and its projection has the bound's expectation."""
    resolved = resolved_with(ATTENTIONS | {"below": 1}, MACS)
    space, (limit, _) = resolved.space, resolved.additive
    assert (limit.name, limit.asked, limit.cost.reachable) == (
        "attentions",
        "below 1 attentions",
        (0, len(space.edges)),
    )
    prefers = torch.zeros(space.mask.shape)
    for e, edge in enumerate(space.searchable):
        for i, name in enumerate(edge.candidates):
            prefers[e, i] = 3.0 * name.endswith("_se")
    alpha = Alpha.of_space(space, prefers)
    found = likeliest(alpha, resolved.additive, 5)
    assert all(attentions(Architecture(space, one.paths)) <= 1 for one in found)
    projected = Projector(resolved.additive)(alpha).alpha.probabilities()
    expected = sum(
        float(projected[e, i])
        for e, edge in enumerate(space.searchable)
        for i, name in enumerate(edge.candidates)
        if name.endswith("_se")
    )
    assert expected == pytest.approx(1, abs=1e-6)


def test_a_search_meets_it_and_records_it_and_runs_with_an_own_estimator(
    with_limits, door, write_yaml, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    file = write_yaml(
        tmp_path / "search.yaml",
        with_limits(ATTENTIONS | {"below": 1}, MACS, arch_update="two_path", gate_gradient=ESTIMATOR),
    )
    ended = door("run_search", file, "--out", tmp_path / "run")
    assert ended.status == 0, ended.err
    result = json.loads((tmp_path / "run/result.json").read_text())
    (first, _) = result["limits"]
    found = attentions(Architecture.from_json((tmp_path / "run/architecture.json").read_text()))
    assert (first["metric"], first["predicted"]) == ("attentions", found)
    assert found <= 1
    files = (tmp_path / "run/inputs.json").read_text()  # a resume compares them
    assert "own_metric.py" in files
    assert "own_estimator.py" in files


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"metric": "macs"}, "limits.0.metric: got 'macs', expected a name of your own for what `function` computes"),
        ({"metric": "a b"}, "limits.0.metric: got 'a b', expected a name of your own"),
        ({"table": "t.yaml"}, "limits.0.function: remove it, or the table that the metric is in"),
        ({"function": "attentions"}, "limits.0.function: got 'attentions', expected path/to/file.py:name"),
        ({"function": "docs/examples/own_metric.py:attention"}, "Did you mean 'attentions'?"),
        ({"below": "0%"}, "limits.0.below: 0% is 0 attentions, and what a limit asks for is a share of its bound"),
        ({"below": 9}, "limits.0.below: got 9 attentions, but architectures of this space reach 0 attentions to"),
    ],
)
def test_a_limit_that_cannot_be_read_is_one_line(resolved_with, entry, message):
    with pytest.raises(UserError) as error:
        resolved_with({**ATTENTIONS, "below": 1, **entry})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_published_reward_refuses_costs_of_0_by_which_it_would_divide(with_limits, write_yaml, tmp_path):
    def resolved(**reinforce):
        limits = with_limits(ATTENTIONS | {"below": 1}, MACS, arch_update="reinforce", reinforce=reinforce)
        file = write_yaml(tmp_path / "search.yaml", limits)
        return resolve(SearchConfig.read(file, ()), file)

    with pytest.raises(UserError, match=r"limits.0: the reward multiplies by .* but networks reach 0 attentions"):
        resolved(samples=2)
    assert len(resolved(limits="projection").additive) == 2
    assert len(resolved(exponent=0.0).additive) == 2


@pytest.mark.parametrize("kind", ["at", "below"])
def test_a_percentage_that_is_below_0_is_refused_since_no_file_may_hold_such_a_bound(
    resolved_with, tmp_path, monkeypatch, kind
):
    """A run's config.yaml has the number, and add_linear and hinge would push costs away from it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("def mine(layer, place):\n    return -1 if layer.is_skip else 0.25\n")
    limit = {"metric": "mine", "function": "own.py:mine"}
    with pytest.raises(UserError, match=rf"limits.0.{kind}: 10% is -.* mine, .* expected a bound above 0; raise it"):
        resolved_with(limit | {kind: "10%"})
    (above,) = resolved_with(limit | {kind: "90%"}).additive
    assert above.cost.reachable[0] < 0 < above.bound


@pytest.mark.parametrize("returned", ["None", "'3'", "float('nan')", "place + 1"])
def test_a_function_that_returns_no_number_is_one_line(resolved_with, tmp_path, monkeypatch, returned):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(f"def mine(layer, place):\n    return {returned}\n")
    with pytest.raises(UserError, match=r"limits.0.function: .*own.py.*(finite number|TypeError)"):
        resolved_with({"metric": "mine", "function": "own.py:mine", "below": 1})


def test_a_run_from_elsewhere_may_not_call_it_unasked():
    config = {"limits": [{"metric": "mine", "function": "theirs.py:mine", "below": 1}]}
    with pytest.raises(ValueError, match=r"would run 'theirs.py'"):
        with_permitted_modules(config, [])


def test_its_file_is_compared_by_a_resume(resolved_with):
    config = resolved_with(ATTENTIONS | {"below": 1}, MACS).config
    assert "own_metric.py" in str(own_files(config))
