"""Timing a kit on a phone by adb. A program on PATH takes the place of adb, and a folder that of the phone; the program
prints lines such as LiteRT's benchmark program does."""

from __future__ import annotations

import gzip
import json
import os
import stat
import sys
from pathlib import Path

import pytest

from latency import kit as kits
from latency.adb import Adb, milliseconds, run_on_phone
from latency.config import LatencyConfig, MeasureConfig
from latency.kit import KitFileError, export_kit, import_results, open_kit, plan_of
from supernet.space import Space, SpaceConfig

FAKE = '''#!{python}
"""adb [-s SERIAL] push FILE PLACE | shell COMMAND: the folder $PHONE is the phone, a model's text its milliseconds."""
import os, pathlib, shlex, shutil, sys
phone, words = pathlib.Path(os.environ["PHONE"]), sys.argv[1:]
with open(phone / "log", "a") as log:
    log.write(" ".join(words) + "\\n")
if os.environ.get("STARTS"):
    print("* daemon not running; starting now at tcp:5037", file=sys.stderr)
    print("* daemon started successfully", file=sys.stderr)
if os.environ.get("FAILS"):
    print("* daemon started successfully", file=sys.stderr)
    sys.exit(os.environ["FAILS"])
if os.environ.get("BYTES"):
    sys.stdout.buffer.write(b"\\xff\\xfe\\x1b[2J\\n")
    sys.exit()
if words[0] == "-s":
    if words[1] != "SERIAL1":
        sys.exit("error: device '" + words[1] + "' not found")
    words = words[2:]
if words[0] == "push":
    target = phone / words[2].lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(words[1], target)
    sys.exit()
command, *rest = shlex.split(words[1])
if command == "getprop":
    print({{"ro.product.model": "Pixel 9", "ro.soc.model": "Tensor G4"}}[rest[0]])
elif command == "uname":
    print("aarch64")
elif command == "nproc":
    print(8)
elif command == "rm":
    for place in rest[1:]:
        shutil.rmtree(phone / place.lstrip("/"), ignore_errors=True)
        (phone / place.lstrip("/")).unlink(missing_ok=True) if (phone / place.lstrip("/")).is_file() else None
elif command.endswith("benchmark_model"):
    options = dict(word[2:].split("=") for word in rest)
    us = 1000 * float((phone / options["graph"].lstrip("/")).read_text())
    if os.environ.get("BROKEN"):
        sys.exit("ERROR: Failed to load model")
    print("INFO: count=%s curr=9 p5=9 median=9 p95=9" % options["warmup_runs"])
    runs = options["num_runs"]
    print("INFO: count=%s first=9 curr=9 min=9 max=9e9 avg=9.9e9 std=9 p5=9 median=%f p95=9" % (runs, us))
    print("INFO: Inference timings in us: Init: 9, First inference: 9, Warmup (avg): 9, Inference (avg): 9.9e9")
'''


@pytest.fixture
def phone(tmp_path, monkeypatch) -> Path:
    """Puts an `adb` on PATH, and returns the folder that takes the place of the phone."""
    programs = tmp_path / "programs"
    programs.mkdir()
    adb = programs / "adb"
    adb.write_text(FAKE.format(python=sys.executable))
    adb.chmod(adb.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "phone").mkdir()
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PHONE", str(tmp_path / "phone"))
    return tmp_path / "phone"


@pytest.fixture
def benchmark_model(tmp_path) -> Path:
    program = tmp_path / "benchmark_model"
    program.write_text("the phone's program")
    return program


def price(layer) -> float:
    return 0.5 + layer.complexity.macs / 1e4


@pytest.fixture
def kit(tmp_path, monkeypatch, small_space) -> Path:
    """A LiteRT kit whose models are texts: the milliseconds of their layers, plus 2 for being a network."""

    def write_texts(space, measure, jobs, folder, progress):
        records = []
        for job in jobs:
            ms = sum(price(layer) for layer in job.layers) + (2 if job.paths is not None else 0)
            (folder / f"{job.id}.tflite.gz").write_bytes(gzip.compress(str(ms).encode()))
            shape = [1, 8, 8, 1]
            records.append(
                {
                    "id": job.id,
                    "file": f"{job.id}.tflite.gz",
                    "shape": shape,
                    "inside": False,
                    "layers": len(job.layers),
                }
            )
        return records

    monkeypatch.setattr(kits, "write_models", write_texts)
    measure = MeasureConfig(device="external", runtime="litert", rounds=2, calibration_networks=10)
    space = SpaceConfig.model_validate_json(json.dumps(small_space.config.model_dump(mode="json")))
    export_kit(LatencyConfig(space=space, measure=measure), tmp_path / "kit", verify=6)
    return tmp_path / "kit"


def test_the_phone_makes_a_table(kit, phone, benchmark_model, door, tmp_path):
    results = tmp_path / "results.json"
    ended = door("device_kit", "adb", kit, "--benchmark", benchmark_model, "--out", results, "--serial", "SERIAL1")
    assert ended.status == 0, ended.err
    table = import_results(kit, results)
    assert (table.device.kind, table.device.name, table.device.cores) == ("phone", "Pixel 9, Tensor G4", 8)
    assert table.runtime.name == "litert"
    space = Space(plan_of(open_kit(kit), kit).config.space)
    for key, entry in table.entries.items():
        (layer,) = [layer for layer in space.all_layers if str(layer) == key]
        assert entry.median_ms == pytest.approx(price(layer), rel=1e-6)  # the median, not the huge mean
    assert table.verification is not None
    assert table.verification.table.mape_percent == pytest.approx(0, abs=0.05)
    assert table.constant_ms == pytest.approx(2, rel=0.02)


def test_models_are_pushed_timed_and_removed_one_by_one(kit, phone, benchmark_model):
    run_on_phone(plan_of(open_kit(kit), kit), kit, Adb(), benchmark_model)
    assert [path for path in phone.rglob("*") if path.is_file()] == [phone / "log"]
    log = (phone / "log").read_text().splitlines()
    timings = sum(len(names) for names in plan_of(open_kit(kit), kit).manifest["schedule"])
    assert sum(line.startswith("push") and "model.tflite" in line for line in log) == timings
    timed = [line for line in log if "--graph" in line]
    assert len(timed) == timings
    assert all("--num_threads=1 --num_runs=6 --warmup_runs=2" in line for line in timed)


def test_each_fault_of_the_phone_or_the_options_is_one_line(kit, phone, benchmark_model, door, tmp_path, monkeypatch):
    out = tmp_path / "results.json"

    def refused(*arguments: object) -> str:
        ended = door("device_kit", "adb", kit, "--out", out, *arguments)
        assert ended.status == 2
        lines = [line for line in ended.err.splitlines() if line.startswith("error")]
        assert len(lines) == 1
        assert not out.exists()
        return lines[0]

    good = ("--benchmark", benchmark_model)
    assert "no program 'nowhere'" in refused(*good, "--adb", "nowhere")
    assert "device 'X' not found" in refused(*good, "--serial", "X")
    assert "benchmark_model" in refused("--benchmark", tmp_path / "absent")
    monkeypatch.setenv("BROKEN", "1")
    assert "Failed to load model" in refused(*good)
    assert [path.name for path in phone.rglob("*") if path.is_file()] == ["log"]  # cleaned up


def adb_error(kit, benchmark_model, program: str = "adb") -> str:
    with pytest.raises(KitFileError) as error:
        run_on_phone(open_kit(kit), kit, Adb(program), benchmark_model)
    assert "\n" not in str(error.value)
    assert str(error.value).isprintable()
    return str(error.value)


def test_the_start_message_of_adb_is_no_part_of_the_phones_name(kit, phone, benchmark_model, monkeypatch):
    monkeypatch.setenv("STARTS", "1")
    results = run_on_phone(open_kit(kit), kit, Adb(), benchmark_model)
    assert results["device"] == {"name": "Pixel 9, Tensor G4", "cores": 8, "machine": "aarch64", "kind": "phone"}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("error: device unauthorized.", "unlock the phone and allow debugging"),
        ("error: more than one device/emulator", "choose one with --serial"),
        ("adb: no devices/emulators found", "plug the phone in, and switch on USB debugging"),
        ("error: device offline", "adb reconnect"),
        ("error: closed", "see `adb devices`"),
        ("\x1b[31merror: closed", "failed: \\x1b[31merror: closed; see"),
    ],
)
def test_each_message_of_adb_gets_its_remedy(said, words, kit, phone, benchmark_model, monkeypatch):
    monkeypatch.setenv("FAILS", said)
    assert words in adb_error(kit, benchmark_model)


def test_text_that_cannot_be_decoded_is_no_name(kit, phone, benchmark_model, monkeypatch):
    monkeypatch.setenv("BYTES", "1")
    assert "expected the phone's answer" in adb_error(kit, benchmark_model)


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (b"#!/bin/sh\n", 0o644, "cannot be run (Permission denied)"),
        (b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xff\x7f", 0o755, "cannot be run (Exec format error)"),
        (b"no program", 0o755, "cannot be run (Exec format error)"),
        (b"#!/nonexistent/interpreter\n", 0o755, "no program"),
    ],
)
def test_an_adb_that_cannot_run_is_one_line(content, mode, words, kit, tmp_path, benchmark_model):
    program = tmp_path / "bad_adb"
    program.write_bytes(content)
    program.chmod(mode)
    assert words in adb_error(kit, benchmark_model, str(program))
    assert "cannot be run (Permission denied)" in adb_error(kit, benchmark_model, str(tmp_path))


def test_an_adb_that_hangs_is_ended(kit, tmp_path, benchmark_model, monkeypatch):
    program = tmp_path / "slow_adb"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr("latency.adb.NO_ANSWER_S", 0.2)
    assert "did not end within 0.2 s; is the phone awake?" in adb_error(kit, benchmark_model, str(program))


def test_if_the_phone_disappears_that_is_the_error_that_is_reported(kit, phone, benchmark_model, monkeypatch):
    """Removing the folder on the phone fails, too, which is not reported."""
    monkeypatch.setenv("BROKEN", "1")
    real = Adb.shell

    def shell(self, *arguments):
        if arguments[0] == "rm":
            raise KitFileError("gone")
        return real(self, *arguments)

    monkeypatch.setattr(Adb, "shell", shell)
    assert "Failed to load" in adb_error(kit, benchmark_model)


def test_a_place_that_cannot_be_written_is_refused_before_the_phone_is_used(
    kit, phone, benchmark_model, door, tmp_path
):
    ended = door("device_kit", "adb", kit, "--benchmark", benchmark_model, "--out", tmp_path / "none" / "r.json")
    assert ended.status == 2
    assert "cannot be written (No such file or directory)" in ended.err
    assert not (phone / "log").exists()


def test_a_kit_for_another_runtime_is_refused(kit, phone, benchmark_model):
    made = plan_of(open_kit(kit), kit)
    other = kits.Kit({**made.manifest, "runtime": "onnxruntime"}, made.digest, made.config, made.space, made.jobs)
    with pytest.raises(KitFileError, match=r"is a kit for onnxruntime.*litert"):
        run_on_phone(other, kit, Adb(), benchmark_model)


OLD = "count=1 curr=9\n\ncount=50 first=5 curr=4 min=4 max=6 avg=2.95034e+06 std=1\n"
NEW = "INFO: count=50 first=5 curr=4 min=4 max=6 avg=9e9 std=1 p5=1 median=5094 p95=6\nInference timings in us: Init: 3"


@pytest.mark.parametrize(("printed", "ms"), [(OLD, 2950.34), (NEW, 5.094)])
def test_the_median_or_the_mean_is_read_from_the_benchmark_programs_output(printed, ms):
    assert milliseconds(printed, 50) == pytest.approx(ms)


ODD = [
    "count=50 first=1 avg=-3 std=1",
    "count=50 first=1 avg=0 std=1",
    "count=50 first=1 avg=1e999 std=1",
    "count=50 first=1 avg=+-+ std=1",
    "count=50 first=1 avg=3 median=e std=1",
    "count=" + "9" * 5000 + " first=1 avg=3 std=1",
    "\x1b[2J" * 2000,
]


@pytest.mark.parametrize("printed", ODD)
def test_output_with_numbers_that_are_no_times_is_an_error_of_one_short_line(printed):
    with pytest.raises(KitFileError, match="printed no line") as error:
        milliseconds(printed, 50)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("printed", ["", "Segmentation fault", "count=2 first=1 avg=3 std=1", "count=50 curr=4"])
def test_output_without_the_passes_asked_for_is_an_error(printed):
    with pytest.raises(KitFileError, match="printed no line"):
        milliseconds(printed, 50)
