"""Tests that each check gives the right result, and no other check gives one because of it."""

from __future__ import annotations

import logging
import os
import shutil
from collections import namedtuple

import pytest
import torch

from engine.config import config_text
from engine.errors import ConfigError
from latency.device import this_device
from latency.measure import Timing
from search.check import check_search, cost_gradient
from search.learn.objective import expected_cost
from search.limits.units import largest_network
from search.loop import run_search
from supernet.alpha import Alpha
from supernet.cost import macs_cost
from supernet.supernet import Supernet


@pytest.fixture
def checked(tmp_path, make_search_file, monkeypatch):
    """checked(limits, **sections): lines of check_search by what they are about, in the folder of table.yaml."""
    monkeypatch.chdir(tmp_path)

    def check(limits, *overrides, out=None, **sections):
        path = tmp_path / "search.yaml"
        path.write_text(config_text(make_search_file(limits, **sections)))
        lines = {}
        for line in check_search(path, overrides, out):
            lines.setdefault(line.what, []).append(line)
        return lines

    return check


def levels(lines):
    return {what: [line.level for line in checks] for what, checks in lines.items()}


LATENCY = {"metric": "latency", "table": "table.yaml", "at": "50%", "tolerance": 0.5}
MACS = {"metric": "macs", "at": "50%", "tolerance": 0.5}
EXTERNAL = {"device": "external"}
CPU = {"kind": "cpu", "name": "made up", "fingerprint": "none"}


def test_a_good_search_is_ok_in_every_respect(checked, space, tmp_path, make_table, make_verification):
    make_table(space, tmp_path / "table.yaml", verification=make_verification())
    limits = [LATENCY, {"metric": "params", "below": "90%"}, {"metric": "peak_activation_bytes", "below": "100%"}]
    lines = checked(limits, out=tmp_path / "runs" / "a", measure=EXTERNAL)
    assert {level for checks in levels(lines).values() for level in checks} == {"ok"}, lines
    expected = ["config", "space", "peak", "limit latency", "gradient of latency", "limit params", "gradient of params"]
    assert list(lines) == [*expected, "limits together", "table", "units", "timing", "disk", "data", "run"]
    assert "error 2.5 % on 4 whole networks, noise 1.2 %" in lines["table"][0].text
    assert "48 training and 32 validation images, 6 steps an epoch" in lines["data"][0].text
    assert all(str(line).startswith("ok   ") for checks in lines.values() for line in checks)


def test_checks_that_can_run_do_so_after_one_has_failed(checked, tmp_path):
    limits = [LATENCY, {"metric": "macs", "at": 1}, {"metric": "peak_activation_bytes", "below": 1}]
    lines = checked(limits, "search.batch_size=64", "space.classes=3", out=tmp_path)
    assert levels(lines)["space"] == ["FAIL", "ok"]
    assert levels(lines)["limits.0 latency"] == levels(lines)["limits.1 macs"] == levels(lines)["data"] == ["FAIL"]
    assert levels(lines)["disk"] == levels(lines)["run"] == ["ok"]
    assert lines["limits.0 latency"][0].fix.startswith("make it: proxyless-nas measure ")
    assert str(lines["data"][0]).startswith("FAIL data: ")
    assert "  fix: " in str(lines["data"][0])


def test_a_config_that_cannot_be_read_is_the_only_line(tmp_path):
    (line,) = check_search(tmp_path / "none.yaml")
    assert line.level == "FAIL"
    assert "no such file" in line.text


def test_the_gradient_is_that_of_expected_cost_by_finite_differences(space, make_cost):
    cost = make_cost(space, 4)
    alpha, step = Alpha.of_space(space), 1e-3
    gradient = cost_gradient(space, cost)
    for e, i in alpha.mask.nonzero().tolist():
        shift = torch.zeros(alpha.mask.shape, dtype=torch.float64)
        shift[e, i] = step
        up, down = (expected_cost(alpha.with_values(sign * shift).probabilities(), cost) for sign in (1, -1))
        torch.testing.assert_close(gradient[e, i], (up - down) / (2 * step), rtol=1e-5, atol=1e-8)
    assert not gradient[~alpha.mask].any()


@pytest.mark.parametrize(("flat", "level"), [("stage1.0", "warn"), ("stage1.0, stage1.1", "FAIL")])
def test_an_edge_whose_candidates_cost_the_same_is_named(
    flat, level, checked, make_tiny_config, space_of, tmp_path, make_table
):
    stages = [
        {"width": 4, "candidates": ["mbconv_k3_e1"]},
        {"width": 8, "depth": 2, "candidates": ["mbconv_k3_e1", "conv_k3"]},
    ]
    section = make_tiny_config(stages=stages)
    space = space_of(section)
    table = make_table(space, tmp_path / "table.yaml")
    edges = [edge for edge in space.edges if edge.name in flat.split(", ")]
    alike = {str(layer) for edge in edges for layer in edge.layers}
    entries = {key: {"median_ms": 0.3 if key in alike else e.median_ms, "n": 3} for key, e in table.entries.items()}
    make_table(space, tmp_path / "table.yaml", entries=entries)
    (line,) = checked([LATENCY], space=section, measure=EXTERNAL)["gradient of latency"]
    assert line.level == level
    assert f"all candidates of {flat} cost the same" in line.text


@pytest.mark.parametrize(("factor", "words"), [(1, None), (1e-3, "look like seconds"), (1e3, "look like microseconds")])
def test_another_unit_shows_in_the_implied_speed(
    factor, words, checked, space, tmp_path, make_table, make_verification
):
    """Tables of a CPU at 10 GMAC/s and 0.02 ms a layer, written in ms, in seconds and in microseconds."""
    layers = [layer for layer in space.all_layers if str(layer.spec) != "skip"]
    entries = {str(x): {"median_ms": factor * (x.complexity.macs / 1e7 + 0.02), "n": 3} for x in layers}
    make_table(
        space, tmp_path / "table.yaml", entries=entries, device=CPU, constant_ms=0.0, verification=make_verification()
    )
    (line,) = checked([LATENCY])["units"]
    if words is None:
        assert line.level == "ok"
        macs, layers = macs_cost(space).of(largest_network(space)), len(space.layers(largest_network(space)))
        assert f"runs at {macs / 1e6 / (macs / 1e7 + 0.02 * layers) * 1e3:.3g} MMAC/s" in line.text
    else:
        assert line.level == "warn"
        assert words in line.text


def test_entries_of_zero_and_of_minutes_are_named(checked, space, tmp_path, make_table):
    table = make_table(space, tmp_path / "table.yaml")
    odd, long = str(space.edges[0].layers[0]), str(space.feature_mix)
    entries = {key: {"median_ms": e.median_ms, "n": 3} for key, e in table.entries.items()}
    entries |= {odd: {"median_ms": 0.0, "n": 3}, long: {"median_ms": 20_000.0, "n": 3}}
    make_table(space, tmp_path / "table.yaml", entries=entries)
    texts = [line.text for line in checked([LATENCY], measure=EXTERNAL)["units"]]
    assert any(f"'{odd}' costs 0 ms" in text for text in texts)
    assert any(f"'{long}' takes 20 s; that looks like microseconds" in text for text in texts)


@pytest.fixture
def contradiction(space, tmp_path, make_table):
    """Two limits that no architecture meets: the edge without skip has its fewest MACs where it has the most energy."""
    table = make_table(space, tmp_path / "table.yaml")
    values = {key: 1 / entry.median_ms for key, entry in table.entries.items()}
    column = {"unit": "mJ", "how": "made up", "values": values}
    make_table(space, tmp_path / "table.yaml", columns={"energy_mj": column})
    energy = {"metric": "energy_mj", "table": str(tmp_path / "table.yaml"), "below": "0%"}
    return [{"metric": "macs", "below": "0%"}, energy]


def test_limits_that_exclude_each_other_fail(checked, contradiction):
    (line,) = checked(contradiction, measure=EXTERNAL)["limits together"]
    assert line.level == "FAIL"
    assert "no architecture meets the limits together" in line.text
    assert line.fix == "raise a bound"
    (line,) = checked(contradiction, "search.derive=argmax", measure=EXTERNAL)["limits together"]
    assert line.level == "FAIL"  # alpha cannot be projected onto them
    gradient = ["search.arch_update=two_path", "search.loss={form: hinge, weight: 1}", "search.derive=argmax"]
    assert "limits together" not in checked(contradiction, *gradient, measure=EXTERNAL)  # nothing has to meet them


def test_budgets_that_cannot_be_used_up_together_are_a_warning_if_alpha_is_projected(checked):
    """The network of the fewest parameters has few MACs."""
    limits = [{"metric": "params", "at": "0%"}, {"metric": "macs", "at": "90%"}]
    (line,) = checked(limits)["limits in expectation"]
    assert line.level == "warn"
    assert line.text.startswith("no path probabilities give params at ")
    assert "for alpha `at` counts as `below`" in line.text
    hinge = ["search.arch_update=two_path", "search.loss={form: hinge, weight: 1}"]
    assert "limits in expectation" not in checked(limits, *hinge)
    assert "limits in expectation" not in checked([{"metric": "params", "at": "50%"}])


def test_an_empty_window_is_a_warning(checked):
    (line,) = checked([{"metric": "macs", "at": "99%", "tolerance": 0.001}])["limits together"]
    assert line.level == "warn"
    assert "no architecture lies in macs [" in line.text


@pytest.mark.parametrize(
    ("measure", "level", "words"),
    [
        ({"device": "cpu"}, "warn", "made up) is not this one, so a derived network will not be timed"),
        (EXTERNAL, "ok", "every table is of an external device, so a derived network will not be timed"),
    ],
)
def test_the_check_reports_whether_a_derived_network_will_be_timed(
    measure, level, words, checked, space, tmp_path, make_table
):
    make_table(space, tmp_path / "table.yaml", device=CPU)
    lines = checked([LATENCY], measure=measure)
    assert [line.level for line in lines["timing"]] == [level]
    assert words in lines["timing"][0].text
    assert levels(lines)["table"] == ["warn"]  # never verified


def test_the_measure_section_of_a_limit_decides_whether_it_is_timed(checked, space, tmp_path, make_table):
    """The file's own `measure` is of this CPU, and no table is."""
    make_table(space, tmp_path / "table.yaml", device=CPU)
    make_table(space, tmp_path / "other.yaml", device=CPU)
    combined = {"metric": "latency", "tables": ["table.yaml", "other.yaml"], "combine": "worst_case", "at": "50%"}
    for limit in (LATENCY | {"measure": EXTERNAL}, combined | {"tolerance": 0.5}):
        (line,) = checked([limit], measure={"device": "cpu"})["timing"]
        assert line.level == "ok"


OWN = """
import torch
def term(p, space, progress): return p[0, 0]
def constant(p, space, progress): return torch.zeros(())
def broken(p, space, progress): return p[99, 99]
def infinite(p, space, progress): return p[0, 0] / 0
def reward(sample): return sample.accuracy - sample.costs["macs"] / 1e9 + len(sample.labels) - len(sample.logits)
def wrong(sample): return sample.costs["energy"]
def text(sample): return "good"
"""


@pytest.mark.parametrize(
    ("name", "level", "words"),
    [
        ("term", "ok", "search.terms add 0.3333"),
        ("constant", "FAIL", "expected a 0-dim tensor computed from p"),
        ("broken", "FAIL", "search.terms.function"),
        ("infinite", "FAIL", "has a value that is not finite 0% into the search"),
        ("reward", "ok", "search.reinforce.reward gives 0.25"),
        ("wrong", "FAIL", "search.reinforce.reward"),
        ("text", "FAIL", "returned 'good', expected a finite number"),
    ],
)
def test_own_functions_are_called_once_before_the_warm_up(name, level, words, checked, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    if name in ("reward", "wrong", "text"):
        overrides = ["search.arch_update=reinforce", f"search.reinforce={{reward: 'own.py:{name}'}}"]
    else:
        overrides = ["search.arch_update=two_path", f"search.terms=[{{function: 'own.py:{name}'}}]"]
    (line,) = checked([MACS], *overrides)["own functions"]
    assert line.level == level
    assert words in line.text


@pytest.fixture
def timed_at(monkeypatch, space, tmp_path, make_table):
    """timed_at(factor, noise, load): a table of this device, on which networks take `factor` times what it says."""
    table = make_table(space, tmp_path / "table.yaml", device=this_device("cpu").model_dump(mode="json"))
    cost = table.cost(space)

    def make(factor, noise=0.01, load=0.0):
        def timed(architecture, measure, **_):
            ms = factor * cost.of(architecture.paths)
            return Timing(ms, noise * ms, 90, rounds=5)

        monkeypatch.setattr("search.check.time_architecture", timed)
        monkeypatch.setattr("search.check.load_average", lambda: load * os.cpu_count())

    return make


@pytest.mark.parametrize("busy", [{"noise": 0.2}, {"load": 1.5}])
@pytest.mark.parametrize("factor", [1.35, 4.0, 29.0])
def test_a_busy_machine_is_reported_before_its_table_is_called_wrong(busy, factor, checked, timed_at):
    timed_at(factor, **busy)
    (line,) = checked([LATENCY], measure={"device": "cpu"})["timing"]
    assert line.level == "warn"
    assert line.text.startswith("this machine is busy (")
    assert ("rounds of one timing differ by 20 %" if "noise" in busy else "processes want its") in line.text
    assert line.fix.startswith("wait until the machine is idle")


@pytest.mark.parametrize("factor", [0.3, 31.0, 1000.0])
def test_a_difference_that_no_busy_machine_explains_is_a_fault_of_the_table(factor, checked, timed_at):
    """Other work makes nothing faster, and nothing 30 times slower."""
    timed_at(factor, load=9.0)
    (line,) = checked([LATENCY], measure={"device": "cpu"})["timing"]
    assert line.level == "FAIL"
    assert "its numbers are not this device's ms" in line.fix


def test_a_busy_machine_on_which_the_table_holds_is_ok(checked, timed_at):
    timed_at(1.1, load=9.0)
    (line,) = checked([LATENCY], measure={"device": "cpu"})["timing"]
    assert line.level == "ok"


@pytest.mark.parametrize(
    ("factor", "level"), [(1.0, "ok"), (1.2, "ok"), (0.75, "warn"), (1.35, "warn"), (1000.0, "FAIL"), (0.001, "FAIL")]
)
def test_a_table_of_this_device_is_checked_by_timing_one_network(factor, level, checked, timed_at):
    """A timer of known error; a table that is 1000 times off would lead the search to a wrong network."""
    timed_at(factor)
    (line,) = checked([LATENCY], measure={"device": "cpu"})["timing"]
    assert line.level == level
    assert "is this one: a network of" in line.text
    assert bool(line.fix) == (level != "ok")


def test_each_table_of_this_device_is_checked(checked, space, tmp_path, make_table, monkeypatch):
    """The second one was made with two threads, and is 1.5 times off."""
    here = this_device("cpu").model_dump(mode="json")
    cost = make_table(space, tmp_path / "table.yaml", device=here).cost(space)
    make_table(space, tmp_path / "two.yaml", device=here, threads=2)

    def timed(architecture, measure, **_):
        return Timing((1.5 if measure.threads == 2 else 1.0) * cost.of(architecture.paths), 0.01, 12)

    monkeypatch.setattr("search.check.time_architecture", timed)
    monkeypatch.setattr("search.check.load_average", lambda: 0.0)
    second = LATENCY | {"table": "two.yaml", "measure": {"threads": 2}}
    lines = checked([LATENCY, second], measure={"device": "cpu"})
    assert [(line.level, line.text.split()[3]) for line in lines["timing"]] == [
        ("ok", "table.yaml"),
        ("warn", "two.yaml"),
    ]
    assert levels(lines)["limit latency_two"] == ["ok"]


@pytest.mark.parametrize(
    ("overrides", "level", "words"),
    [
        (["search.batch_size=64"], "FAIL", "got 64, but the training part of the data has 48 images"),
        (["search.batch_size=40"], "FAIL", "got 40, but the validation part of the data has 32 images"),
        (["data.fake_classes=3"], "FAIL", "space.classes: got 4"),
        (["data.validation=99"], "FAIL", "data.validation"),
        (["data={name: folder, root: nowhere}"], "FAIL", "no folder 'nowhere'"),
        (["data={name: cifar10, root: nowhere}", "space.classes=10"], "FAIL", "no complete 'cifar10'"),
        (
            ["data={name: cifar10, root: nowhere, download: true}", "space.classes=10"],
            "warn",
            "is not in 'nowhere' yet",
        ),
        (
            ["search.arch_every=7", "search.regression={final_steps: 0}"],
            "warn",
            "6 after the warm-up, so alpha never learns",
        ),
        (["search.arch_every=7"], "ok", "6 steps an epoch"),  # it learns in the final steps
        (["search.arch_every=7", "search.arch_update=full"], "warn", "6 after the warm-up, so alpha never learns"),
        (["search.arch_every=6", "search.arch_lr=2"], "ok", "6 steps an epoch"),
        (
            ["search.arch_update=two_path", "search.arch_lr=0.6"],
            "warn",
            "3 architecture steps of arch_lr 0.6 move an entry of alpha by about 1.8 at",
        ),
        (["search.arch_update=two_path", "search.arch_lr=0.7"], "ok", "6 steps an epoch"),
        (["search.arch_lr=1e-6"], "ok", "6 steps an epoch"),  # regression does not read it
    ],
)
def test_the_data_must_exist_and_suffice(overrides, level, words, checked, tmp_path):
    (line,) = checked([MACS], *overrides)["data"]
    assert line.level == level
    assert words in line.text
    assert not (tmp_path / "nowhere").exists()  # nothing was fetched


def test_a_disk_without_room_for_the_checkpoints_fails_the_check(checked, space, tmp_path, monkeypatch):
    params = sum(layer.complexity.params for _, layer in space.places)
    need = 12 * 3 * params  # weights and AdamW's two moments in float32; two files kept and one being written
    usage = namedtuple("usage", "total used free")
    for free, level in ((need - 1, "FAIL"), (need, "ok")):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage(10**9, 0, free))
        (line,) = checked([MACS], out=tmp_path / "deep" / "er")["disk"]
        assert line.level == level
        assert str(tmp_path) in line.text
    assert "disk" not in checked([MACS])
    less = 8 * 3 * params  # SGD has one
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, less))
    (line,) = checked([MACS], "search.optimizer=sgd", out=tmp_path / "deep" / "er")["disk"]
    assert line.level == "ok"


def test_the_supernets_parameters_are_counted_as_they_are(space):
    built = sum(p.numel() for p in Supernet(space).parameters())
    assert built == sum(layer.complexity.params for _, layer in space.places)


def test_an_absent_gpu_fails_and_threads_stay(checked, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = torch.get_num_threads()
    (line,) = checked([MACS], "run.device=cuda", f"run.threads={before + 1}")["run"]
    assert line.level == "FAIL"
    assert line.fix == "set run.device=cpu, and run.amp=none, which is faster there"
    assert torch.get_num_threads() == before
    assert levels(checked([MACS], "run.amp=bf16"))["run"] == ["warn"]


def test_a_gpu_that_emulates_bf16_fails(checked, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    (line,) = checked([MACS], "run.device=cuda", "run.amp=bf16")["run"]
    assert line.level == "FAIL"
    assert line.fix == "set run.amp=none, or take a GPU of compute capability 8.0 or newer"


# --- as the search itself says it ------------------------------------------------------------------------------------


def test_a_search_logs_each_warning_once(tmp_path, space, make_search_file, make_table, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_table(space, tmp_path / "table.yaml")
    config = make_search_file(
        [LATENCY, {"metric": "energy_mj", "table": "table.yaml", "below": "90%"}], measure=EXTERNAL
    )
    (tmp_path / "search.yaml").write_text(config_text(config))
    with caplog.at_level(logging.INFO):
        run_search(tmp_path / "search.yaml", tmp_path / "run", overrides=["search.regression.final_steps=5"])
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len([line for line in lines if "never verified" in line]) == 1
    assert len(set(lines)) == len(lines)


def test_a_search_that_cannot_end_well_does_not_begin(tmp_path, make_search_file, contradiction):
    config = make_search_file(contradiction, measure=EXTERNAL)
    (tmp_path / "search.yaml").write_text(config_text(config))
    with pytest.raises(ConfigError, match=r"search.yaml: no architecture meets the limits together.*; raise a bound"):
        run_search(tmp_path / "search.yaml", tmp_path / "run")
    assert not (tmp_path / "run").exists()
