"""Limits in numbers: what each metric adds up to, in which unit, and what is refused."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch

from engine.config import config_text
from engine.errors import ConfigError, UserError
from latency.config import MeasureConfig
from latency.device import this_device
from latency.on_device import models
from latency.on_device.errors import KitError
from latency.table import Calibration, TableError, memory_format_name
from search.curves import architecture_scalars
from search.derive.measured import local_latency_limits
from search.limits.limit import named
from search.limits.resolve import resolve, resolve_bound
from search.loop import run_search
from search.many.family import derive_family
from search.state import SearchState
from supernet.architecture import Architecture
from supernet.space import Space


@pytest.fixture
def table_file(space, tmp_path, make_table, make_verification):
    path = tmp_path / "table.yaml"
    make_table(space, path, verification=make_verification())
    return path


def all_paths(space):
    return itertools.product(*(range(len(edge.candidates)) for edge in space.searchable))


EXTERNAL = {"device": "external"}  # what a made-up device is


@pytest.mark.parametrize(
    ("metric", "unit", "by_hand"),
    [
        ("macs", "MACs", lambda architecture, table: architecture.complexity.macs),
        ("params", "parameters", lambda architecture, table: architecture.complexity.params),
        ("weight_bytes", "bytes", lambda architecture, table: 4 * architecture.complexity.params),
        (
            "latency", "ms",
            lambda architecture, table: 0.5 + sum(e.ms for e in map(table.entry, architecture.layers) if e),
        ),
        (
            "energy_mj", "mJ",
            lambda architecture, table: 0.25 + sum(
                table.columns["energy_mj"].values.get(str(layer), 0) for layer in architecture.layers
            ),
        ),
    ],
)  # fmt: skip
def test_a_limit_costs_the_sum_over_an_architectures_layers_and_a_constant(
    metric, unit, by_hand, space, table_file, make_search_file, make_table, tmp_path
):
    table = make_table(space, tmp_path / "same.yaml")
    needs_table = metric in ("latency", "energy_mj")
    entry = {"metric": metric, "at": "50%"} | ({"table": str(table_file)} if needs_table else {})
    (limit,) = resolve(make_search_file([entry], measure=EXTERNAL), "search.yaml").limits
    values = []
    for paths in all_paths(space):
        values.append(by_hand(Architecture(space, paths), table))
        assert limit.cost.of(paths) == pytest.approx(values[-1], rel=1e-6)
    assert limit.unit == unit
    assert limit.bound == pytest.approx((min(values) + max(values)) / 2, rel=1e-6)
    predicted = limit.record(paths)
    assert (predicted["metric"], predicted["unit"]) == (metric, unit)
    assert ("table_sha256" in predicted) == needs_table


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2)])
def test_weight_bytes_are_parameters_in_the_measured_precision(dtype, size, space, make_search_file):
    config = make_search_file([{"metric": "weight_bytes", "below": "80%"}], measure={"dtype": dtype})
    (limit,) = resolve(config, "search.yaml").limits
    paths = (0,) * len(space.searchable)
    assert limit.cost.of(paths) == size * Architecture(space, paths).complexity.params


def test_the_record_of_a_run_resolves_to_the_same_again(table_file, make_search_file, space):
    limits = [
        {"metric": "latency", "table": str(table_file), "at": "50%"},
        {"metric": "energy_mj", "table": str(table_file), "below": "90%"},
        {"metric": "peak_activation_bytes", "below": "50%"},
        {"metric": "params", "below": "95%"},
    ]
    first = resolve(make_search_file(limits, measure=EXTERNAL), "search.yaml")
    record = first.record
    assert isinstance(record["limits"][2]["below"], float)
    again = resolve(make_search_file(record["limits"], record["space"], measure=EXTERNAL), "config.yaml")
    assert again.record == record
    assert again.space == first.space
    assert again.space != space  # something was masked
    assert [limit.name for limit in again.limits] == ["latency", "energy_mj", "params", "peak_activation_bytes"]
    assert [limit.name for limit in again.additive] == ["latency", "energy_mj", "params"]


def test_a_column_guides_alpha_and_the_derivation_and_is_recorded(tmp_path, make_search_file, table_file):
    limits = [
        {"metric": "energy_mj", "table": str(table_file), "at": "50%"},
        {"metric": "weight_bytes", "below": "90%"},
        {"metric": "peak_activation_bytes", "below": "60%"},
    ]
    config = tmp_path / "search.yaml"
    config.write_text(config_text(make_search_file(limits, measure=EXTERNAL)))
    few = ["search.regression.final_steps=5"]
    result = run_search(config, tmp_path / "run", overrides=few)
    paths = result.architecture.paths
    assert len(result.limits) == 3
    assert all(limit.cost_of(paths) <= limit.bound * (1 + 1e-9) for limit in result.limits)
    assert all(limit.allows(paths) for limit in result.limits)
    assert result.limits[-1].metric == "peak_activation_bytes"
    resolved = resolve(make_search_file(limits, measure=EXTERNAL), "search.yaml")
    curves = architecture_scalars(
        SearchState.fresh(resolved.config, resolved.space, torch.device("cpu")), resolved.additive
    )
    assert {"expected/energy_mj", "target/energy_mj", "pressure/weight_bytes"} <= curves.keys()
    run_search(config, tmp_path / "run", overrides=few, resume=True)  # the finished run has the same config
    (member,) = derive_family(tmp_path / "run")
    assert member.architecture.paths == paths
    text = (tmp_path / "run" / "architecture.json").read_text()
    assert Architecture.from_json(text).space == resolved.space
    assert all(f'"metric": "{limit["metric"]}"' in text for limit in limits)
    run_search(tmp_path / "run" / "config.yaml", tmp_path / "again")  # a run's own record is a config
    assert resolve(resolved.config, "x").space == Space(result.architecture.space.config)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (
            {"metric": "mac", "at": "50%"},
            ("limits.0.metric: got 'mac'", "weight_bytes", "Did you mean 'macs'?"),
        ),
        ({"metric": "flops", "at": "50%"}, ("limits.0.metric: got 'flops'", "Did you mean 'macs'?")),
        ({"metric": "energy_mj", "at": "50%"}, ("limits.0.metric: got 'energy_mj'", "a column of a `table`")),
        ({"metric": "latency", "at": "50%"}, ("limits.0.table: is missing",)),
        ({"metric": "weight_bytes", "at": "50%", "table": "t.yaml"}, ("limits.0.table: remove it, weight_bytes",)),
        ({"metric": "peak_activation_bytes", "below": 9, "table": "t.yaml"}, ("limits.0.table: remove it",)),
        ({"metric": "peak_activation_bytes", "at": 9}, ("limits.0.at: remove it", "write below: 9")),
        ({"metric": "macs", "at": "50%", "missing": "interpolate"}, ("limits.0.missing: remove it",)),
        ({"metric": "latency", "at": "1%", "table": "t", "missing": "guess"}, ("limits.0.missing: got 'guess'",)),
        ({"metric": "macs", "at": "50%", "largest_error": 5.0}, ("limits.0.largest_error: remove it",)),
        ({"metric": "latency", "at": "1%", "table": "t", "largest_error": 0}, ("limits.0.largest_error: got 0",)),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_limit_that_makes_no_sense_is_one_line(limit, words, make_search_file):
    with pytest.raises(ConfigError) as caught:
        make_search_file([limit])
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("pair", [["macs", "macs"], ["peak_activation_bytes", "peak_activation_bytes"]])
def test_two_limits_on_one_metric_and_table_are_refused(pair, make_search_file):
    with pytest.raises(ConfigError, match="two entries have the same metric and table"):
        make_search_file([{"metric": metric, "below": f"{50 + i}%"} for i, metric in enumerate(pair)])


def test_mul_log_goes_with_one_limit_beside_a_peak(make_search_file):
    peak = {"metric": "peak_activation_bytes", "below": "50%"}
    search = {"batch_size": 8, "arch_update": "two_path", "loss": {"form": "mul_log"}}
    make_search_file([{"metric": "macs", "at": "50%"}, peak], search=search)
    with pytest.raises(ConfigError, match="mul_log multiplies by one limit"):
        make_search_file([peak], search=search)


def test_a_column_that_the_table_lacks_is_named_with_those_it_has(table_file, make_search_file):
    config = make_search_file([{"metric": "energy", "table": str(table_file), "at": "50%"}], measure=EXTERNAL)
    with pytest.raises(ConfigError, match=r"limits.0.metric: got 'energy'.*Did you mean 'energy_mj'\?.*energy_mj"):
        resolve(config, "search.yaml")


def test_a_column_that_lacks_a_layer_names_both(space, tmp_path, make_table, make_search_file):
    path = tmp_path / "t.yaml"
    full = make_table(space, path).columns["energy_mj"].model_dump()
    gone = str(space.edges[1].layers[1])
    values = {key: value for key, value in full["values"].items() if key != gone}
    make_table(space, path, columns={"energy_mj": full | {"values": values}})
    config = make_search_file([{"metric": "energy_mj", "table": str(path), "at": "50%"}], measure=EXTERNAL)
    with pytest.raises(TableError) as caught:
        resolve(config, "search.yaml")
    assert "columns.energy_mj" in str(caught.value)
    assert gone in str(caught.value)


# --- trust in a table ------------------------------------------------------------------------------------------------


def resolved_with(make_search_file, path, measure=None, **limit):
    entry = {"metric": "latency", "table": str(path), "at": "50%"} | limit
    return resolve(make_search_file([entry], measure=measure or EXTERNAL), "a search.yaml", ["measure.batch=1"])


def test_a_verified_table_needs_no_words(table_file, make_search_file):
    assert resolved_with(make_search_file, table_file).notes == ()


@pytest.mark.parametrize(
    ("runtime", "version", "said"),
    [
        ("pytorch", "1.0", f"was measured with pytorch 1.0, this is {torch.__version__}; see whether it still holds: "),
        ("pytorch", torch.__version__, None),
        ("litert", "never installed", None),
    ],
)
def test_a_table_of_this_machine_and_another_runtime_version_is_noted(
    runtime, version, said, space, tmp_path, make_table, make_search_file, make_verification, monkeypatch
):
    monkeypatch.setattr(models, "litert", mock.Mock(side_effect=KitError("litert is not installed")))
    path = tmp_path / "t.yaml"
    measure = {"device": "cpu", "runtime": runtime}
    for device, words in ((this_device("cpu").model_dump(), said), (CPU, None)):
        table = make_table(space, path, device=device, verification=make_verification(1.0, holds=True))
        header = table.runtime.model_copy(update={"name": runtime, "version": version})
        layout = memory_format_name(MeasureConfig.model_validate(measure))
        table.model_copy(update={"runtime": header, "memory_format": layout}).save(path)
        notes = [str(note) for note in resolved_with(make_search_file, path, measure).notes]
        assert len(notes) == (0 if words is None else 1)
        for note in notes:
            assert words in note
            assert f"--out {path} --verify 40" in note


CPU = {"kind": "cpu", "name": "made up", "fingerprint": "none"}


@pytest.mark.parametrize(
    ("measure", "words"),
    [
        ({"device": "external"}, "verify it by a kit (proxyless-nas kit)"),
        ({"device": "cpu"}, "verify it: proxyless-nas measure 'a search.yaml' --out {} --verify 40 measure.batch=1"),
    ],
)
def test_a_table_that_was_never_verified_is_noted_with_the_command(
    measure, words, space, tmp_path, make_table, make_search_file
):
    path = tmp_path / "t.yaml"
    make_table(space, path, device=CPU)
    (note,) = resolved_with(make_search_file, path, measure).notes
    assert str(note).startswith(f"{path}: never verified")
    assert str(note).endswith(words.format(path))


@pytest.mark.parametrize("method", ["imported", "whole_networks"])
def test_a_table_that_cannot_be_verified_says_what_to_do_instead(method, space, tmp_path, make_table, make_search_file):
    path = tmp_path / "t.yaml"
    calibration = {"date": "d", "networks": 20, "strength": 1.0, "cross_validation_percent": 4.25, "seed": 0}
    table = make_table(space, path, device=CPU, method=method)
    if method == "whole_networks":
        entries = {key: entry.model_copy(update={"calibrated_ms": 1.0}) for key, entry in table.entries.items()}
        validated = Calibration.model_validate(calibration)
        table.model_copy(update={"entries": entries, "calibration": validated}).save(path)
    (note,) = resolved_with(make_search_file, path, {"device": "external"}).notes
    assert "comes from elsewhere and was never verified" in str(note)
    assert "time the derived network on the device" in str(note)
    assert ("networks left out of its fit: 4.2 %" in str(note)) == (method == "whole_networks")


def test_a_table_with_a_large_error_is_refused_with_its_remedies(
    space, tmp_path, make_table, make_search_file, make_verification
):
    path = tmp_path / "t.yaml"
    make_table(space, path, device=CPU, verification=make_verification(14.2, holds=False))
    with pytest.raises(TableError) as caught:
        resolved_with(make_search_file, path, {"device": "cpu"})
    for word in ("limits.0.largest_error", "14.2 %", "10 %", "recalibrate a copy", "measure again", "raise this bound"):
        assert word in str(caught.value)
    (note,) = resolved_with(make_search_file, path, largest_error=15.0).notes
    assert "14.2 %" in note.text
    assert "idle" in note.remedy


def test_a_missing_entry_is_an_error_that_tells_of_interpolation(space, tmp_path, make_table, make_search_file):
    path = tmp_path / "t.yaml"
    incomplete(space, path, make_table)
    with pytest.raises(TableError, match=r"no entry 'mbconv_k3_e2.*missing: interpolate"):
        resolved_with(make_search_file, path)


def test_a_table_of_another_size_is_not_a_case_for_interpolation(space, tmp_path, make_table, make_search_file):
    path = tmp_path / "t.yaml"
    make_table(space, path, input_size=16)
    for how in ("error", "interpolate"):
        with pytest.raises(TableError, match="input_size is 16") as caught:
            resolved_with(make_search_file, path, missing=how)
        assert "interpolate" not in str(caught.value)


def incomplete(space, path, make_table, **changes):
    """Without the entries of mbconv_k3_e2."""
    full = make_table(space, path)
    entries = {k: e.model_dump(exclude_defaults=True) for k, e in full.entries.items() if "mbconv_k3_e2" not in k}
    return make_table(space, path, entries=entries, columns={}, **changes)


MBCONVS = [f"mbconv_k{k}_e{e}" for k in (3, 5, 7) for e in (1, 2, 3)]


@pytest.fixture
def wide_space(make_tiny_config):
    stages = [{"width": 8, "depth": 2, "candidates": MBCONVS}, {"width": 16, "stride": 2, "candidates": MBCONVS}]
    return make_tiny_config(stages=stages)


def test_interpolated_entries_are_used_and_noted(wide_space, space_of, tmp_path, make_table, make_search_file):
    """The note has the count and the error; measured entries stay."""
    path, space = tmp_path / "t.yaml", space_of(wide_space)
    full = make_table(space, tmp_path / "full.yaml").cost(space)
    made = incomplete(space, path, make_table)
    config = make_search_file(
        [{"metric": "latency", "table": str(path), "at": "50%", "missing": "interpolate"}], wide_space, measure=EXTERNAL
    )
    resolved = resolve(config, "search.yaml")
    unverified, interpolated = resolved.notes
    assert "never verified" in unverified.text
    assert f"{len(made.missing(space))} entries are interpolated" in interpolated.text
    assert "leave-one-out error" in interpolated.text
    entries = resolved.limits[0].cost.table
    column = MBCONVS.index("mbconv_k3_e2")
    assert (entries[:, column] > 0).all()
    others = [i for i in range(len(MBCONVS)) if i != column]
    assert entries[:, others] == pytest.approx(full.table[:, others], rel=1e-5)


def test_interpolation_does_not_hide_a_large_error(
    wide_space, space_of, tmp_path, make_table, make_search_file, make_verification
):
    path = tmp_path / "t.yaml"
    incomplete(space_of(wide_space), path, make_table, verification=make_verification(30.0, holds=False))
    entry = {"metric": "latency", "table": str(path), "at": "50%", "missing": "interpolate"}
    with pytest.raises(TableError, match="largest_error"):
        resolve(make_search_file([entry], wide_space, measure=EXTERNAL), "search.yaml")


def test_what_cannot_be_interpolated_names_the_table(space, tmp_path, make_table, make_search_file):
    path = tmp_path / "t.yaml"
    incomplete(space, path, make_table)
    with pytest.raises(TableError, match=rf"{path}: no entry 'mbconv_k3_e2.*cannot be interpolated"):
        resolved_with(make_search_file, path, missing="interpolate")


def test_an_error_of_the_user_stays_one(make_search_file, tmp_path):
    with pytest.raises(UserError, match="no file"):
        resolved_with(make_search_file, tmp_path / "none.yaml")


def test_only_a_latency_limit_is_timed_on_the_tables_own_device(space, tmp_path, make_table, make_search_file):
    """A column of a table measured here is no latency, so no timing may correct its bound."""
    path = tmp_path / "t.yaml"
    make_table(space, path, device=this_device("cpu").model_dump(mode="json"))
    for metric, timed in (("latency", True), ("energy_mj", False)):
        config = make_search_file([{"metric": metric, "table": str(path), "at": "50%"}])
        (limit,) = resolve(config, "search.yaml").limits
        assert local_latency_limits([limit]) == ((limit,) if timed else ())


def test_all_of_the_range_can_be_read_back_as_a_number(space, make_cost):
    """The run's config.yaml holds the number."""
    for seed in range(300):
        cost = make_cost(space, seed)
        bound = resolve_bound("100%", cost, "limits.0.at", "ms")
        assert bound == pytest.approx(cost.reachable[1], rel=1e-12)
        assert resolve_bound(bound, cost, "limits.0.at", "ms") == bound


def test_every_limit_has_a_name_of_its_own(space, make_cost, make_limit):
    limit = make_limit(make_cost(space, 0), 0.5)
    assert [one.name for one in named([limit])] == ["latency"]
    three = named([limit, replace(limit, metric="energy"), limit])
    assert [one.name for one in three] == ["latency_1", "energy", "latency_2"]


def test_mul_log_looks_at_the_smallest_expectation_of_a_worst_case(
    make_search_file, space, tmp_path, make_table, monkeypatch
):
    """Every network takes more than 1 ms on one of the devices, an expectation over networks need not."""
    monkeypatch.chdir(tmp_path)
    table = make_table(space, tmp_path / "a.yaml")
    low = table.cost(space).reachable[0]
    make_table(space, tmp_path / "b.yaml")
    limit = {"metric": "latency", "tables": ["a.yaml", "b.yaml"], "combine": "worst_case", "at": "90%"}
    search = {"batch_size": 8, "arch_update": "two_path", "loss": {"form": "mul_log"}}
    config = make_search_file([limit | {"weights": [0.99 / low, 0.99 / low]}], search=search)
    with pytest.raises(ConfigError, match=r"smallest reachable value \(0.99 ms\) must exceed 1"):
        resolve(config, "search.yaml")
    resolve(make_search_file([limit | {"weights": [1.01 / low, 0.5 / low]}], search=search), "search.yaml")


@pytest.mark.parametrize("metric", ["latency", "energy_mj"])
def test_a_table_whose_fastest_network_takes_no_time_is_refused(metric, space, tmp_path, make_table, make_search_file):
    """Every bound would be met or infeasible by accident, and a reward takes its logarithm."""
    path = tmp_path / "t.yaml"
    table = make_table(space, path, constant_ms=-100.0)
    energy = table.columns["energy_mj"].model_copy(update={"constant": -100.0})
    table.model_copy(update={"columns": {"energy_mj": energy}}).save(path)
    with pytest.raises(TableError, match=rf"{path}: .*constant.* is -100, .*expected more than 0"):
        resolved_with(make_search_file, path, metric=metric)


# --- remedies that destroy nothing and work ---------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"input_size": 16}, {"entries": "fewer"}, {"batch": 2}])
def test_the_command_for_a_table_of_another_space_leaves_that_table_alone(
    change, space, tmp_path, make_table, make_search_file
):
    """It names a file that is free, and the message says where the search reads it from."""
    path = tmp_path / "t.yaml"
    make_table(space, path, device=CPU, method="in_context", verification=None)
    if "entries" in change:
        incomplete(space, path, make_table)
    else:
        make_table(space, path, device=CPU, **change)
    before = path.read_bytes()
    for taken in (tmp_path / "t-2.yaml", None):
        with pytest.raises(TableError) as caught:
            resolved_with(make_search_file, path, {"device": "cpu"})
        said, action = str(caught.value), caught.value.action
        assert caught.value.with_command.endswith(f": {action}")
        arguments = action.arguments
        assert (action.command, arguments[0]) == ("measure", "a search.yaml")
        out = Path(arguments[arguments.index("--out") + 1])
        assert out == (tmp_path / "t-2.yaml" if taken else tmp_path / "t-3.yaml")
        assert not out.exists()
        assert f"({out}, to be named in a search.yaml: limits.0.table)" in said
        (taken or tmp_path / "x").write_text("another file")
    assert path.read_bytes() == before


def test_the_remedy_for_a_large_error_recalibrates_a_copy(
    space, tmp_path, make_table, make_search_file, make_verification
):
    path = tmp_path / "t.yaml"
    make_table(space, path, device=CPU, verification=make_verification(14.2, holds=False))
    with pytest.raises(TableError) as caught:
        resolved_with(make_search_file, path, {"device": "cpu"})
    copy = tmp_path / "t-2.yaml"
    assert f"recalibrate a copy (after: cp {path} {copy})" in str(caught.value)
    assert f"): proxyless-nas measure 'a search.yaml' --out {copy} --recalibrate" in caught.value.with_command


def test_a_busy_device_is_named_before_the_table_is_called_wrong(
    space, tmp_path, make_table, make_search_file, make_verification
):
    path = tmp_path / "t.yaml"
    noisy = make_verification(14.2, holds=False) | {"noise_mape_percent": 9.0}
    make_table(space, path, device=CPU, verification=noisy)
    with pytest.raises(TableError, match=r"the device was busy .*9 %.*; else raise .* or recalibrate a copy"):
        resolved_with(make_search_file, path, {"device": "cpu"})
    make_table(space, path, device=CPU, verification=noisy)
    (note,) = resolved_with(make_search_file, path, {"device": "cpu"}, largest_error=20.0).notes
    assert "the device was busy when it was verified" in note.text
    assert "--verify 40" in note.what_to_do


def test_a_table_of_a_gpu_that_is_not_here_has_a_remedy_that_is_not_refused_in_turn(
    space, tmp_path, make_table, make_search_file, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = tmp_path / "gpu.yaml"
    with pytest.raises(ConfigError, match=r"where the GPU is, copy it here to search with measure\.device=external"):
        resolved_with(make_search_file, path, {"device": "cuda"})
    gpu = {"kind": "gpu", "name": "made up", "fingerprint": "none"}
    make_table(space, path, device=gpu, threads=None)
    (note,) = resolved_with(make_search_file, path, {"device": "cuda"}).notes
    assert note.what_to_do.startswith("verify it on the machine with its GPU: proxyless-nas measure ")
    entry = {"metric": "latency", "table": str(path), "at": "50%"}
    resolved = resolve(make_search_file([entry], measure={"device": "cuda"}), "a search.yaml")
    with pytest.raises(ConfigError, match=r"search here with its table by measure\.device=external"):
        local_latency_limits(resolved.limits)
    external = resolve(make_search_file([entry], measure=EXTERNAL), "a search.yaml")  # what it says to do
    assert local_latency_limits(external.limits) == ()
