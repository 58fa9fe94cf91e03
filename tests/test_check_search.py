"""`proxyless-nas check` prints one line for each check, and its exit status says whether any failed."""

from __future__ import annotations

import pytest


@pytest.fixture
def config(tmp_path, tiny_search, write_yaml, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_yaml(tmp_path / "search.yaml", tiny_search | {"limits": [{"metric": "macs", "at": "50%"}]})


def test_one_line_for_each_check_and_status_0(config, door):
    ended = door("check_search", config, "--out", "runs/a")
    assert ended.status == 0, ended.err
    lines = ended.out.splitlines()
    assert len(lines) == 8
    assert all(line.startswith(("ok   ", "warn ")) for line in lines)
    assert not (config.parent / "runs").exists()


def test_a_failure_is_status_2_and_other_lines_stay(config, door):
    ended = door("check_search", config, "search.batch_size=64", "limits.0.at=1e15", "run.amp=bf16")
    assert ended.status == 2
    starts = [line.split(":")[0] for line in ended.out.splitlines()]
    assert starts == ["ok   config", "FAIL limits.0 macs", "ok   space", "FAIL data", "warn run"]
    assert all("  fix: " in line for line in ended.out.splitlines() if line.startswith("FAIL"))


def test_a_rate_that_nothing_reads_is_named(config, door):
    lines = door("check_search", config, "search.arch_update=regression", "search.arch_lr=0.01").out.splitlines()
    (line,) = (line for line in lines if line.startswith("warn settings: "))
    assert line.startswith("warn settings: search.arch_lr changes nothing: regression ")
    assert "settings" not in door("check_search", config, "search.arch_update=two_path", "search.arch_lr=0.01").out
    assert "settings" not in door("check_search", config, "search.arch_update=regression").out


def test_a_config_of_another_kind_is_status_2(config, door):
    ended = door("check_search", config, "serach.epochs=1")
    assert ended.status == 2
    assert ended.out.startswith("FAIL config: ")


@pytest.mark.parametrize("changes", [["search.batch_size=64"], ["limits.0.metric=flops"]])
def test_run_search_ends_with_one_line_for_the_same_mistake(changes, config, door):
    checked = door("check_search", config, *changes)
    ended = door("run_search", config, "--out", "new", *changes)
    assert checked.status == ended.status == 2
    (line,) = (line for line in ended.err.splitlines() if not line.startswith("WARNING: "))
    assert line.startswith("error: ")
    (failure,) = (line for line in checked.out.splitlines() if line.startswith("FAIL"))
    assert failure.partition(": ")[2].partition("  fix")[0].partition(": ")[2][:40] in line


IN_PLACE = """
from dataclasses import dataclass
from torch import nn
from supernet.catalogue import Candidate, register
from supernet.complexity import Complexity

class Doubles(nn.Module):
    def forward(self, x):
        return {forward}

@register()
@dataclass(frozen=True)
class DoublesSpec(Candidate):
    def __str__(self):
        return "{name}"
    def build(self, c_in, c_out, stride, settings):
        return Doubles()
    def complexity(self, c_in, c_out, size, stride):
        return Complexity(0, 1000)
"""


@pytest.mark.parametrize(("name", "forward"), [("doubles", "2 * x"), ("doubles_in_place", "x.mul_(2)")])
def test_an_own_candidate_is_run_before_anything_is_measured_or_trained(
    name, forward, config, door, tiny_search, write_yaml
):
    """A candidate that changes its input would silently spoil the other candidates of its edge."""
    (config.parent / "own.py").write_text(IN_PLACE.format(name=name, forward=forward))
    stages = [{"width": 8, "candidates": [name, "conv_k1"]}]
    space = tiny_search["space"] | {"stages": stages, "candidate_modules": ["own.py"]}
    write_yaml(config, tiny_search | {"space": space, "limits": [{"metric": "macs", "at": "50%"}]})
    checked = door("check_search", config)
    quick = ["measure.rounds=2", "measure.passes=1", "measure.coverings=1", "measure.calibration_networks=0"]
    measured = door("measure_latency", config, "--out", "t.yaml", *quick)
    searched = door("run_search", config, "--out", "run", "search.regression.final_steps=5")
    if name == "doubles":
        assert "ok   own candidates: doubles: run, and leave their input as it is" in checked.out
        assert (checked.status, measured.status, searched.status) == (0, 0, 0), measured.err + searched.err
        return
    assert (checked.status, measured.status, searched.status) == (2, 2, 2)
    says = f"space.candidate_modules: candidate '{name}': forward() changed its input in place"
    assert says in checked.out
    assert says in measured.err
    assert says in searched.err
    assert not (config.parent / "t.yaml").exists()
