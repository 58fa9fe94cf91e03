"""The scripts that measure and fit tables: which files they keep and replace, what they print, how they end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import latency.measure
from latency.config import LatencyConfig
from latency.fit import fit_to_file
from latency.measure import measure_to_file
from latency.plan import calibration_networks
from latency.summary import WRONG_TABLE
from latency.table import LatencyTable, TableError, Verification
from latency.verification import accepted_percent
from supernet.architecture import Architecture


@pytest.fixture
def config(small_space, write_yaml, tmp_path) -> Path:
    measure = {"rounds": 2, "passes": 2, "warmup_passes": 1, "coverings": 1, "calibration_networks": 10}
    return write_yaml(tmp_path / "c.yaml", {"space": small_space.config.model_dump(mode="json"), "measure": measure})


def written(ended: Any) -> None:
    """Checks that a table was written; so few timings may have an error above 10 %, for which the status is 3."""
    assert ended.status in (0, WRONG_TABLE), ended.err


@pytest.fixture
def measured(config, door, tmp_path) -> Path:
    out = tmp_path / "t.yaml"
    ended = door("measure_latency", config, "--out", out)
    written(ended)
    assert "calibrated by 10 networks" in ended.out
    assert "not verified" in ended.out
    return out


def test_verify_keeps_an_existing_table(config, measured, door, tmp_path):
    before = LatencyTable.load(measured)
    ended = door("measure_latency", config, "--out", measured, "--verify", 6)
    written(ended)
    assert "verified on 6 fresh networks" in ended.out
    after = LatencyTable.load(measured)
    assert after.entries == before.entries
    assert after.verification is not None
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")


def test_verify_measures_a_table_if_there_is_none(config, door, tmp_path):
    ended = door("measure_latency", config, "--out", tmp_path / "new.yaml", "--verify", 6)
    written(ended)
    table = LatencyTable.load(tmp_path / "new.yaml")
    assert table.verification is not None
    assert table.verification.networks == 6


def test_without_verify_an_existing_table_is_measured_anew(config, measured, door):
    before = LatencyTable.load(measured)
    written(door("measure_latency", config, "--out", measured))
    assert LatencyTable.load(measured).entries != before.entries


def test_recalibrate_keeps_what_was_measured_and_drops_the_verification(config, measured, door):
    door("measure_latency", config, "--out", measured, "--verify", 6)
    before = LatencyTable.load(measured)
    ended = door("measure_latency", config, "--out", measured, "--recalibrate")
    written(ended)
    after = LatencyTable.load(measured)
    assert {k: e.median_ms for k, e in after.entries.items()} == {k: e.median_ms for k, e in before.entries.items()}
    assert after.calibration != before.calibration
    assert after.verification is None
    ended = door("measure_latency", config, "--out", measured, "--recalibrate", "--verify", 6)
    assert "verified on 6" in ended.out


def test_each_verification_times_other_networks(config, measured, door):
    """If no seed is given, the time is the seed."""
    ranges = set()
    for seed in ((), (), ("--seed", 7), ("--seed", 7)):
        door("measure_latency", config, "--out", measured, "--verify", 6, *seed)
        verification = LatencyTable.load(measured).verification
        assert verification is not None
        ranges.add(verification.measured_ms)
    assert len(ranges) == 4  # timings differ anyway


def test_a_table_that_cannot_be_measured_again_is_not_replaced(config, measured, door, tmp_path):
    """The table comes from a board, a fit or a publication; any other file is not replaced either."""
    table = LatencyTable.load(measured)
    table.model_copy(update={"source": "results.json of a board"}).save(measured)
    other = tmp_path / "notes.yaml"
    other.write_text("my: notes\n")
    for path, words in (
        (measured, "made from results.json of a board"),
        (other, "no table that could be made again"),
    ):
        before = path.read_bytes()
        said = refused(door, "measure_latency", config, "--out", path)
        assert words in said
        assert path.read_bytes() == before


def test_the_suggested_command_keeps_the_overrides_and_the_table(config, measured, door):
    said = refused(door, "measure_latency", config, "--out", measured, "--recalibrate", "measure.threads=2")
    free = measured.with_name("t-2.yaml")
    assert said.endswith(f"make another table: proxyless-nas measure {config} --out {free} measure.threads=2")
    free.write_text("taken")
    said = refused(door, "measure_latency", config, "--out", measured, "--verify", 6, "measure.threads=2")
    assert said.endswith(f"--out {measured.with_name('t-3.yaml')} --verify 6 measure.threads=2")


@pytest.mark.parametrize("flags", [(), ("--verify", "6"), ("--recalibrate", "--verify", "6")])
def test_ctrl_c_says_what_there_is_and_what_to_do(flags, config, measured, door, tmp_path, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    if flags:
        monkeypatch.setattr(latency.measure, "verify_table", interrupted)
    else:
        monkeypatch.setattr(latency.measure, "timed_jobs", interrupted)
    before = measured.read_bytes()
    ended = door("measure_latency", config, "--out", measured, *flags)
    assert ended.status == 130
    if "--recalibrate" in flags:
        left = f"{measured} is recalibrated but not verified; verify it, without recalibrating again"
    else:
        assert measured.read_bytes() == before
        left = f"its timings are lost and {measured} is as it was; the same command begins anew"
    assert ended.err.splitlines()[-1] == f"interrupted; {left}"
    if not flags:
        ended = door("measure_latency", config, "--out", tmp_path / "new.yaml")
        assert "lost and no table was written; the same" in ended.err
        assert not (tmp_path / "new.yaml").exists()


def test_a_table_from_elsewhere_is_searched_as_external(small_space, measured, quick):
    table = LatencyTable.load(measured).model_copy(update={"source": "results.json of a board", "threads": 4})
    with pytest.raises(TableError, match=r"threads is 4.*comes from elsewhere.*set measure\.device: external") as error:
        table.check(small_space, quick, "t.yaml", "command")
    assert "command" not in str(error.value)


def refused(door: Any, *arguments: object) -> str:
    ended = door(*arguments)
    assert ended.status == 2, ended.out
    (line,) = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize("count", ["1", "-3"])
def test_a_verification_by_too_few_networks_is_refused(count, config, door, tmp_path):
    assert f"--verify: got {count}" in refused(
        door, "measure_latency", config, "--out", tmp_path / "t.yaml", "--verify", count
    )


def test_recalibrating_without_a_table_is_refused(config, door, tmp_path):
    said = refused(door, "measure_latency", config, "--out", tmp_path / "none.yaml", "--recalibrate")
    assert "--recalibrate: no table" in said
    assert not (tmp_path / "none.yaml").exists()


@pytest.mark.parametrize("flags", [("--verify", "6"), ("--recalibrate",)])
def test_a_table_made_for_other_settings_is_refused_and_kept(flags, config, measured, door):
    before = measured.read_bytes()
    said = refused(door, "measure_latency", config, "--out", measured, *flags, "measure.batch=2")
    assert "batch is 1" in said
    assert measured.read_bytes() == before


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t: t[: len(t) // 3], ("t.yaml",)),
        (lambda t: t.replace("unit: ms", "unit: us"), ("unit", "'us'", "'ms'")),
        (lambda t: t.replace("median_ms: ", "median_ms: -", 1), ("median_ms",)),
        (lambda t: t.replace("calibrated_ms: ", "calibrated_ms: .nan #", 1), ("t.yaml",)),
        (lambda t: t.replace("method: in_context", "method: guessed"), ("method", "'guessed'")),
        (lambda t: t + t[t.index("entries:") + 9 :].splitlines()[0] + "\n", ("t.yaml", "twice")),
        (lambda t: t.replace("constant_ms", "constant_s"), ("constant_s",)),
        (lambda t: t.replace("format: proxylessnas/latency-table@1", "format: x"), ("format",)),
    ],
)
def test_a_malformed_table_is_one_line_and_kept(spoil, words, config, measured, door):
    text = spoil(measured.read_text())
    assert text != measured.read_text()
    measured.write_text(text)
    said = refused(door, "measure_latency", config, "--out", measured, "--verify", "6")
    for word in words:
        assert word in said, said
    assert measured.read_text() == text


def test_timings_of_whole_networks_make_a_table(config, small_space, door, tmp_path):
    rng = np.random.default_rng(0)
    prices = {str(layer): float(rng.uniform(1, 3)) for layer in small_space.all_layers}
    lines = ["architecture,ms"]
    for i, paths in enumerate(calibration_networks(small_space, 14, 0)):
        architecture = Architecture(small_space, paths)
        ms = 2.0 + sum(prices[str(layer)] for layer in architecture.layers if str(layer.spec) != "skip")
        if i % 2:
            (tmp_path / f"a{i}.json").write_text(architecture.to_json())
            lines.append(f"a{i}.json,{ms}")
        else:
            lines.append(f"{' '.join(architecture.names)},{ms}")
    (tmp_path / "timings.csv").write_text("\n".join(lines) + "\n")
    out = tmp_path / "fitted.yaml"
    ended = door("fit_latency", config, tmp_path / "timings.csv", "--out", out, "--device-name", "my board")
    assert ended.status == 0, ended.err
    assert "error on networks left out of the fit" in ended.out
    table = LatencyTable.load(out)
    assert (table.method, table.device.name) == ("whole_networks", "my board")
    assert table.missing(small_space) == []


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", "architecture,latency\nx,1\n", ("line 1", "architecture and ms")),
        ("t.csv", "", ("line 1 is 'nothing'",)),
        ("t.csv", "architecture,ms\nconv_k1 proj skip,fast\n", ("t.csv:2", "'fast'", "milliseconds")),
        ("t.csv", "architecture,ms\nconv_k1 proj skip,nan\n", ("t.csv:2", "'nan'")),
        ("t.csv", "architecture,ms\nconv_k1 proj skip,-1\n", ("t.csv:2", "'-1'")),
        ("t.csv", "architecture,ms\nconv_k1 proj\n", ("t.csv:2",)),
        ("t.csv", "architecture,ms\nconv_k1 proj conv_k9,1\n", ("t.csv:2", "'conv_k9'")),
        ("t.csv", "architecture,ms\nnone.json,1\n", ("t.csv:2", "none.json")),
        ("t.csv", "architecture,ms\nconv_k1 proj skip,1\n", ("1 different networks", "at least 10")),
        ("t.json", "[", ("not JSON",)),
        ("t.json", "{}", ("expected a list",)),
        ("t.json", '[{"architecture": "x"}]', ("entry 0", "architecture and ms")),
        ("t.txt", "x", ("'.txt'", ".csv or .json")),
    ],
)
def test_wrong_timings_are_one_line(name, text, words, config, door, tmp_path):
    (tmp_path / name).write_text(text)
    said = refused(door, "fit_latency", config, tmp_path / name, "--out", tmp_path / "out.yaml")
    for word in (name, *words):
        assert word in said, said
    assert not (tmp_path / "out.yaml").exists()


def test_an_architecture_of_another_space_is_refused(config, small_space, space_of, door, tmp_path):
    other = space_of(small_space.config.model_dump(mode="json") | {"classes": 3})
    (tmp_path / "a.json").write_text(Architecture(other, (0, 0, 0)).to_json())
    (tmp_path / "t.json").write_text(json.dumps([{"architecture": "a.json", "ms": 1.0}]))
    assert "another space" in refused(door, "fit_latency", config, tmp_path / "t.json", "--out", tmp_path / "o.yaml")


# --- from Python ------------------------------------------------------------------------------------------------------


def test_a_table_is_measured_verified_and_refused_from_python_without_a_config_file(small_space, quick, tmp_path):
    """An error then names no command, since there is no file that one could give to it."""
    config, out = LatencyConfig(space=small_space.config, measure=quick), tmp_path / "t.yaml"
    table = measure_to_file(config, out)
    assert LatencyTable.load(str(out)).entries.keys() == table.entries.keys()
    verified = measure_to_file(config, out, verify=6)
    assert verified.verification is not None
    assert LatencyTable.load(out).verification is not None
    other = config.model_copy(update={"measure": quick.model_copy(update={"batch": 2})})
    with pytest.raises(TableError, match="batch is 1") as refused:
        measure_to_file(other, out, recalibrate=True)
    assert refused.value.action is None
    assert refused.value.remedy.endswith(f"make another table, in another file, e.g. {tmp_path / 't-2.yaml'}")


def test_a_fit_takes_a_table_object_as_its_prior(small_space, quick, formula_table, tmp_path):
    config = LatencyConfig(space=small_space.config, measure=quick)
    prior = formula_table(small_space, quick)
    fit = fit_to_file(config, made_timings(small_space, tmp_path), tmp_path / "t.yaml", prior=prior)
    calibration = LatencyTable.load(tmp_path / "t.yaml").calibration
    assert calibration is not None
    assert calibration.prior is not None
    assert calibration.prior.sha256 == prior.sha256
    assert fit.prior_alone is not None


# --- what is there already --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: {"batch": 2}, "a table with batch 2, where the new one has 1"),
        (lambda t: {"dtype": "bfloat16"}, "a table with dtype bfloat16"),
        (lambda t: {"device": t.device.model_copy(update={"name": "Other", "fingerprint": "f"})}, "another device (Ot"),
        (lambda t: {"entries": dict(list(t.entries.items())[1:])}, "a table of another space ('"),
        (lambda t: {"entries": t.entries | {"conv_k9 8x8x8->8 s1": next(iter(t.entries.values()))}}, "'conv_k9 8x8"),
        (lambda t: {"columns": t.columns | {"mine": t.columns["macs"]}}, "a column 'mine' of your own"),
        (lambda t: {"source": "x.csv", "method": "whole_networks"}, "made from x.csv"),
    ],
)
def test_only_the_same_table_is_measured_again(change, words, config, measured, door):
    """Any other table at that place would be lost; the line names what differs, and a file that is free."""
    table = LatencyTable.load(measured)
    table.model_copy(update=change(table)).save(measured)
    before = measured.read_bytes()
    said = refused(door, "measure_latency", config, "--out", measured)
    assert words in said
    assert f"choose another file, e.g. --out {measured.with_name('t-2.yaml')}" in said
    assert measured.read_bytes() == before


def made_timings(space: Any, folder: Path, noise: float = 0.0) -> Path:
    rng = np.random.default_rng(0)
    lines = ["architecture,ms"]
    for paths in calibration_networks(space, 14, 0):
        architecture = Architecture(space, paths)
        ms = sum(1 + layer.complexity.macs / 1e4 for layer in architecture.layers) * np.exp(noise * rng.normal())
        lines.append(f"{' '.join(architecture.names)},{ms}")
    path = folder / "timings.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_fit_or_an_import_replaces_its_own_table_alone(config, measured, small_space, door, tmp_path):
    timings, before = made_timings(small_space, tmp_path), measured.read_bytes()
    assert "a measured table, which would be lost" in refused(door, "fit_latency", config, timings, "--out", measured)
    assert measured.read_bytes() == before
    fitted = tmp_path / "fitted.yaml"
    assert door("fit_latency", config, timings, "--out", fitted).status == 0
    assert door("fit_latency", config, timings, "--out", fitted).status == 0
    before = fitted.read_bytes()
    said = refused(door, "fit_latency", config, timings, "--out", fitted, "--device-name", "another")
    assert "a table of another device (unknown device" in said
    source = tmp_path / "official.json"
    source.write_text(json.dumps({"Conv-input:8x8x3-output:4x4x8": {"count": 1, "mean": 1.0, "var": 0.0}}))
    assert "made from" in refused(door, "import_latency", source, "--out", fitted)
    assert fitted.read_bytes() == before
    imported = tmp_path / "imported.yaml"
    for _ in range(2):
        assert door("import_latency", source, "--out", imported).status == 0
    other = tmp_path / "other.json"
    other.write_text(source.read_text())
    assert "made from official.json" in refused(door, "import_latency", other, "--out", imported)


# --- what the exit status says ----------------------------------------------------------------------------------------


def test_a_fit_that_misses_its_networks_ends_with_a_warning_and_status_3(config, small_space, door, tmp_path):
    ended = door("fit_latency", config, made_timings(small_space, tmp_path, 0.8), "--out", tmp_path / "bad.yaml")
    assert ended.status == WRONG_TABLE == 3
    (warning,) = [line for line in ended.out.splitlines() if line.startswith("WARNING")]
    assert "on networks left out of the fit is above the 10 % that searches accept" in warning
    assert LatencyTable.load(tmp_path / "bad.yaml").missing(small_space) == []  # it is written all the same
    ended = door("fit_latency", config, made_timings(small_space, tmp_path), "--out", tmp_path / "good.yaml")
    assert ended.status == 0
    assert "WARNING" not in ended.out


@pytest.mark.parametrize(
    ("error", "noise", "status", "first", "last"),
    [
        (2.0, 1.0, 0, "the table holds", "the table holds"),
        (8.0, 1.0, 0, "the table does NOT hold", "the table does NOT hold"),
        (12.0, 1.0, 3, "the table does NOT hold", "WARNING: as it is, searches refuse"),
        (12.0, 20.0, 3, "the machine was busy", "WARNING: as it is, searches refuse"),
        (8.0, 6.0, 0, "the machine was busy", "the machine was busy"),
    ],
)
def test_a_busy_machine_is_named_before_a_table_is_called_wrong(
    error, noise, status, first, last, measured, door, config, monkeypatch
):
    """A verification with a known error and noise takes the place of timing."""
    plain = {"mape_percent": error, "rmse_ms": 1, "bias_percent": 0, "mape_percent_thirds": (error,) * 3}
    verification = Verification.model_validate(
        {
            "date": "2026-01-31", "networks": 3, "measured_range_ms": (1, 4), "noise_mape_percent": noise,
            **dict.fromkeys(("table", "raw", "constant", "macs"), plain), "measured_ms": (1, 2, 4),
            "predicted_ms": (1, 2, 4), "holds": error <= accepted_percent(noise),
        }
    )  # fmt: skip
    monkeypatch.setattr(
        "latency.measure.verify_table", lambda table, *_, **__: table.model_copy(update={"verification": verification})
    )
    ended = door("measure_latency", config, "--out", measured, "--verify", 6)
    assert ended.status == status
    said = ended.out.splitlines()
    after = said[next(i for i, line in enumerate(said) if line.startswith("predicted against measured")) + 1 :]
    assert after[0].startswith(first)
    assert after[-1].startswith(last)
    assert len([line for line in after if "the table" in line and "hold" in line]) == (0 if "busy" in first else 1)


# --- a table of a GPU that is elsewhere -------------------------------------------------------------------------------


def test_without_a_gpu_the_error_names_what_works_on_this_machine(config, door, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said = refused(door, "measure_latency", config, "--out", tmp_path / "gpu.yaml", "measure.device=cuda")
    assert "measure where the GPU is and search here with its table by measure.device=external" in said
