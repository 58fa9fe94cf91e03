"""Device kits: export, run and import, and what may happen to a folder that is copied around."""

from __future__ import annotations

import errno
import importlib
import json
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import UserError
from latency import on_device
from latency.config import LatencyConfig, MeasureConfig
from latency.kit import KitFileError, export_kit, import_results, open_kit, plan_of
from latency.on_device.errors import KitError
from latency.on_device.machine import cpu_name
from latency.on_device.manifest import read_manifest, sha256
from latency.on_device.program import RESULTS_FORMAT, run_kit, write_results
from latency.plan import Counts, draw_plan
from latency.summary import WRONG_TABLE
from latency.table import LatencyTable
from supernet.space import Space, SpaceConfig

MEASURE = {
    "device": "external", "runtime": "onnxruntime",
    "rounds": 2, "passes": 3, "warmup_passes": 1, "coverings": 2, "calibration_networks": 10,
}  # fmt: skip


@pytest.fixture(scope="module")
def exported(tmp_path_factory, config) -> Path:
    """Exports a kit for ONNX Runtime and returns its folder."""
    pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
    folder = tmp_path_factory.mktemp("kits") / "kit"
    export_kit(config(), folder, verify=6)
    return folder


@pytest.fixture(scope="session")
def config(small_section) -> Callable[..., LatencyConfig]:
    """config(runtime="pytorch"): a file of configs/latency/, with changes to `measure`."""

    def make(**changes: object) -> LatencyConfig:
        space = SpaceConfig.model_validate_json(json.dumps(small_section))
        return LatencyConfig(space=space, measure=MeasureConfig(**(MEASURE | changes)))

    return make


@pytest.fixture(scope="module")
def results(exported) -> dict[str, Any]:
    """Runs the kit's program on this machine and returns its results."""
    return run_kit(str(exported))


@pytest.fixture
def kit(exported, results, tmp_path) -> Path:
    """Returns a copy of the kit with its results.json."""
    folder = tmp_path / "kit"
    shutil.copytree(exported, folder)
    write_results(str(folder / "results.json"), results)
    return folder


def test_results_make_a_calibrated_and_verified_table(kit, results, config):
    table = import_results(kit, kit / "results.json")
    space = Space(config().space)
    assert table.missing(space) == []
    assert table.method == "in_context"
    assert table.calibration is not None
    assert table.verification is not None
    assert (table.calibration.networks, table.verification.networks) == (10, 6)
    assert (table.runtime.name, table.runtime.version) == ("onnxruntime", results["runtime"]["version"])
    assert table.device.name == cpu_name()
    table.check(space, config().measure, "t.yaml", "command")
    assert sha256(kit / "results.json") in (table.source or "")


def test_an_int8_kit_carries_int8_models_and_makes_an_int8_table(config, tmp_path):
    """It times some of its models in float32, too. The table says who quantised them."""
    pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    folder = tmp_path / "kit"
    export_kit(config(dtype="int8"), folder, verify=6)
    write_results(str(tmp_path / "results.json"), run_kit(str(folder)))
    table = import_results(folder, tmp_path / "results.json")
    space = Space(config().space)
    table.check(space, config(device="cpu", dtype="int8").measure, "t.yaml", "command")
    assert (table.dtype, table.quantiser) == ("int8", f"onnxruntime {onnxruntime.__version__}")
    assert table.columns["float32_ms"].values.keys() == table.entries.keys()
    assert table.verification is not None
    sizes = {
        int8: sum(len(_codes(path)) for path in folder.rglob("*.onnx") if ("float32" in path.name) != int8)
        for int8 in (True, False)
    }
    assert sizes[True] > 0
    assert sizes[False] == 0
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["quantiser"] = "x\ny"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    digest = sha256(folder / "manifest.json")
    change(tmp_path, lambda results: results.update(manifest_sha256=digest))
    with pytest.raises(KitFileError, match=r"quantiser: got .* the name of a program"):
        import_results(folder, tmp_path / "results.json")


def _codes(model: Path) -> list[str]:
    """Returns the nodes of a model that make codes."""
    import onnx

    nodes = onnx.load(model, load_external_data=False).graph.node
    return [node.name for node in nodes if node.op_type == "QuantizeLinear"]


def test_a_kit_has_no_models_in_half_precision(config, tmp_path):
    with pytest.raises(KitFileError, match=r"measure.dtype: got 'bfloat16'.*expected float32 or int8"):
        export_kit(config(dtype="bfloat16"), tmp_path / "kit")


def test_entries_are_the_medians_of_the_results(kit, results, config):
    import numpy as np

    table = import_results(kit, kit / "results.json")
    stem = str(Space(config().space).stem)
    inside = [name for name, taken in results["samples_ms"].items() if name.startswith("context")]
    times = [one_pass[0] for name in inside for taken in results["samples_ms"][name] for one_pass in taken]
    assert table.entries[stem].median_ms == pytest.approx(np.median(times))
    assert table.entries[stem].n == len(times)


def test_the_kit_holds_the_files_of_its_manifest(exported):
    manifest, digest = read_manifest(str(exported))
    assert set(manifest["files"]) == {
        str(path.relative_to(exported))
        for path in exported.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    copied = [exported / "bench.py", *(exported / "on_device").iterdir()]
    assert {path.name: path.read_text() for path in copied} == {
        path.name: path.read_text() for path in Path(on_device.__file__).parent.glob("*.py")
    }
    assert plan_of(open_kit(exported), exported).digest == digest
    assert {job["id"] for job in manifest["jobs"]} == {name for names in manifest["schedule"] for name in names}


def test_networks_share_one_file_of_weights(exported):
    """A kit of a hundred networks would be too large for a board otherwise."""
    models = [path for path in (exported / "models").iterdir() if path.suffix == ".onnx"]
    weights = exported / "models" / "weights.bin"
    assert max(path.stat().st_size for path in models) < 40_000
    assert weights.exists()


def test_the_same_seed_exports_the_same_plan(exported, tmp_path, config):
    counts = Counts(2, 10, 6, alone=False)
    space = Space(config().space)
    assert plan_of(open_kit(exported), exported).jobs == draw_plan(space, counts, 0)
    assert draw_plan(space, counts, 1) != draw_plan(space, counts, 0)


def test_the_kit_runs_on_a_device_with_two_packages_alone(kit, door, tmp_path):
    """The kit runs in a virtual environment with numpy and onnxruntime alone; its results are imported here."""
    there = tmp_path / "device"
    venv.create(there)
    python = there / "bin" / "python"
    places = {"base": str(there), "platbase": str(there)}
    packages = Path(sysconfig.get_path("platlib", "venv", vars=places))
    for name in ("numpy", "onnxruntime"):
        installed = Path(importlib.import_module(name).__file__).parent
        for folder in installed.parent.glob(f"{name}*"):  # numpy.libs too, which the wheels of Linux have
            if folder.suffix in ("", ".libs"):
                (packages / folder.name).symlink_to(folder)
    (kit / "results.json").unlink()
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}  # no PYTHONPATH
    ours = subprocess.run(
        [str(python), "-c", "import torch"], capture_output=True, cwd=tmp_path, env=environment, check=False
    )
    assert ours.returncode != 0
    done = subprocess.run(
        [str(python), str(kit / "bench.py")], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "proxyless-nas kit import" in done.stdout
    ended = door("device_kit", "import", kit, kit / "results.json", "--out", tmp_path / "board.yaml")
    assert ended.status in (0, WRONG_TABLE), ended.err  # so few timings may miss by more than 10 %
    assert "verified on 6 fresh networks" in ended.out
    assert (tmp_path / "board.png").exists()
    assert LatencyTable.load(tmp_path / "board.yaml").verification is not None


def test_the_script_exports_and_imports(door, tmp_path, write_yaml, small_section):
    pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
    written = write_yaml(tmp_path / "c.yaml", {"space": small_section, "measure": MEASURE})
    settings = ("measure.rounds=2", "measure.coverings=1")
    ended = door("device_kit", "export", written, "--out", tmp_path / "kit", "--verify", 6, *settings)
    assert ended.status == 0, ended.err
    write_results(str(tmp_path / "r.json"), run_kit(str(tmp_path / "kit")))
    ended = door("device_kit", "import", tmp_path / "kit", tmp_path / "r.json", "--out", tmp_path / "t.yaml")
    assert ended.status in (0, WRONG_TABLE), ended.err  # so few timings may miss by more than 10 %
    assert LatencyTable.load(tmp_path / "t.yaml").calibration is not None


def test_an_isolated_kit_times_ops_alone(tmp_path, config):
    pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
    export_kit(config(), tmp_path / "kit", verify=6, isolated=True)
    write_results(str(tmp_path / "r.json"), run_kit(str(tmp_path / "kit")))
    table = import_results(tmp_path / "kit", tmp_path / "r.json")
    assert table.method == "isolated"
    assert "alone" in table.how


# ---- what may be wrong ----


def refused(kit: Path) -> str:
    """Returns the one line with which the import is refused."""
    with pytest.raises(UserError) as error:
        import_results(kit, kit / "results.json")
    assert "\n" not in str(error.value)
    return str(error.value)


def change(kit: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edits results.json."""
    data = json.loads((kit / "results.json").read_text())
    edit(data)
    (kit / "results.json").write_text(json.dumps(data))


def set_first_pass(value: object) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["samples_ms"]["calibration000"][0].__setitem__(0, value)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda d: d.update(manifest_sha256="0" * 64), ("manifest_sha256 is 000000000000", "another kit")),
        (lambda d: d.update(format="other"), ("format: got 'other'", RESULTS_FORMAT)),
        (lambda d: d["samples_ms"].pop("calibration003"), ("samples_ms.calibration003 is missing",)),
        (lambda d: d["samples_ms"].update(more=[]), ("samples_ms.more is not in the kit",)),
        (lambda d: d["samples_ms"]["calibration000"].pop(), ("calibration000: has 1 rounds, expected 2",)),
        (lambda d: d["samples_ms"]["calibration000"][1].pop(), ("calibration000: expected 3 passes",)),
        (lambda d: d["samples_ms"]["context000"][0][0].pop(), ("context000: expected", "layers in every pass")),
        (set_first_pass(float("nan")), ("not JSON: NaN is not a finite number",)),
        (set_first_pass(10**400), ("calibration000: got 1000", "milliseconds above 0")),
        (set_first_pass([[1.0]]), ("calibration000: got [[1.0]]", "milliseconds above 0")),
        (set_first_pass(-1.0), ("calibration000", "-1.0", "milliseconds above 0")),
        (set_first_pass(0), ("calibration000: got 0", "milliseconds above 0")),
        (set_first_pass(True), ("calibration000: got true", "milliseconds above 0")),
        (set_first_pass("1 ms"), ("calibration000: got '1 ms'", "milliseconds above 0")),
        (set_first_pass(3e9), ("calibration000: got 3000000000.0", "below 1e+06")),  # nanoseconds
        (lambda d: d.update(energy_mj={"calibration000": [-1.0, 2.0]}), ("energy_mj.calibration000", "millijoules")),
        (lambda d: d.update(energy_mj={"calibration000": [1e12, 2.0]}), ("energy_mj.calibration000", "below 1e+09")),
        (lambda d: d.update(energy_mj={"calibration000": [1.0]}), ("energy_mj.calibration000", "each round")),
        (lambda d: d.update(energy_mj={"other": [1.0, 2.0]}), ("energy_mj.other", "a job of the kit")),
        (lambda d: d["device"].update(name="\x1b[2Jx"), ("device.name", "control characters")),
        (lambda d: d["device"].update(name="x" * 201), ("device.name",)),
        (lambda d: d["device"].update(cores=-1), ("device.cores",)),
        (lambda d: d["runtime"].update(version="1\n2"), ("runtime.version", "control characters")),
        (lambda d: d["runtime"].update(name="litert"), ("runtime.name is 'litert'", "onnxruntime")),
        (lambda d: d.pop("device"), ("device", "missing")),
        (lambda d: d.update(extra=1), ("extra",)),
    ],
)
def test_wrong_results_are_one_line(edit, words, kit):
    change(kit, edit)
    said = refused(kit)
    for word in ("results.json", *words):
        assert word in said, said


def test_results_that_are_cut_off_are_refused(kit):
    text = (kit / "results.json").read_text()
    (kit / "results.json").write_text(text[: len(text) // 2])
    assert "perhaps cut off" in refused(kit)
    (kit / "results.json").write_bytes(b"\xff\xfe")
    assert "is not UTF-8 text" in refused(kit)
    (kit / "results.json").write_text("[" * 100_000)
    assert "too many brackets" in refused(kit)
    (kit / "results.json").unlink()
    assert "no such file" in refused(kit)


def test_a_changed_kit_is_refused_on_both_sides(kit):
    model = kit / "models" / "calibration000.onnx"
    content = model.read_bytes()
    for spoil, word in ((lambda: model.write_bytes(content[:-10]), "sha256 differs"), (model.unlink, "is missing")):
        spoil()
        assert word in refused(kit)
        with pytest.raises(KitError, match=word):
            run_kit(str(kit))
        model.write_bytes(content)
    import_results(kit, kit / "results.json")  # whole again


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (lambda m: m["counts"].update(calibration=9), "another version"),
        (lambda m: m["counts"].update(calibration=11), "another version"),
        (lambda m: m["jobs"][0]["keys"].pop(), "another version"),
        (lambda m: m.pop("counts"), "lacks or misstates 'counts'"),
        (lambda m: m.pop("seed"), "lacks 'seed'"),
        (lambda m: m.pop("files"), "lacks 'files'"),
        (lambda m: m.update(seed="x"), "seed: got 'x', expected a whole number"),
        (lambda m: m["counts"].update(coverings=10**9), "counts.coverings: does not fit"),
        (lambda m: m["counts"].update(alone="no"), "lacks or misstates 'counts'"),
        (lambda m: m["counts"].update(more=1), "lacks or misstates 'counts'"),
        (lambda m: m.update(config=[]), "lacks or misstates 'config'"),
        (lambda m: m["config"]["measure"].update(threads=0), "measure.threads"),
        (lambda m: m.update(format="x"), "expected format"),
    ],
)
def test_a_wrong_manifest_is_one_line(edit, word, kit):
    manifest = json.loads((kit / "manifest.json").read_text())
    edit(manifest)
    (kit / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError) as error:
        plan_of(open_kit(kit), kit)
    assert "\n" not in str(error.value)
    assert word in str(error.value)
    with pytest.raises(UserError):
        import_results(kit, kit / "results.json")


def test_a_changed_manifest_is_refused_before_anything_that_it_names_is_imported(kit, tmp_path, door):
    """Neither the import of its results nor the timing on a phone imports its modules before comparing its hash."""
    manifest = json.loads((kit / "manifest.json").read_text())
    manifest["config"]["space"]["candidate_modules"] = [str(tmp_path / "evil.py")]
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (kit / "manifest.json").write_text(json.dumps(manifest))
    assert "the results are of another kit" in refused(kit)
    ended = door("device_kit", "adb", kit, "--benchmark", "x", "--out", tmp_path / "r.json")
    assert "is a kit for onnxruntime" in ended.err
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ["", "{", "[1]", '"text"'])
def test_a_manifest_that_is_no_mapping_is_refused(text, kit):
    (kit / "manifest.json").write_text(text)
    assert "manifest.json" in refused(kit)


def test_a_fault_on_the_device_is_one_line(kit):
    (kit / "models" / "weights.bin").unlink()
    done = subprocess.run([sys.executable, str(kit / "bench.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "weights.bin" in done.stderr


def test_a_model_that_the_runtime_cannot_load_is_named(kit, monkeypatch):
    """An old runtime on a board may not load it."""
    (kit / "models" / "calibration000.onnx").write_bytes(b"not a model")
    monkeypatch.setattr(
        "latency.on_device.manifest.sha256", lambda path: manifest["files"].get(str(Path(path).relative_to(kit)))
    )
    manifest = json.loads((kit / "manifest.json").read_text())
    with pytest.raises(KitError, match=r"calibration000\.onnx: onnxruntime cannot load it: .*newer"):
        run_kit(str(kit))


def test_a_provider_that_the_device_lacks_is_refused(kit):
    with pytest.raises(KitError, match=r"--provider CUDAExecutionProvider.*--isolated"):
        run_kit(str(kit), "CUDAExecutionProvider")


def test_a_network_that_something_disturbed_is_named(kit, caplog):
    """Every layer takes one millisecond, so that the other networks are predicted exactly on any machine."""
    jobs = {job["id"]: job for job in json.loads((kit / "manifest.json").read_text())["jobs"]}

    def exact(results):
        for name, rounds in results["samples_ms"].items():
            layers = jobs[name]["layers"]
            one = [1.0] * layers if jobs[name]["inside"] else float(layers)
            results["samples_ms"][name] = [[one] * len(passes) for passes in rounds]

    change(kit, exact)
    import_results(kit, kit / "results.json")
    assert "where the other networks predict" not in caplog.text
    change(kit, lambda d: d["samples_ms"].update(calibration003=[[500.0] * 3] * 2))
    import_results(kit, kit / "results.json")
    assert "calibration003 took 500 ms, where the other networks predict" in caplog.text


@pytest.mark.parametrize("place", ["none/results.json", "models"])
def test_a_place_that_cannot_be_written_is_refused_before_measuring(place, kit):
    done = subprocess.run(
        [sys.executable, str(kit / "bench.py"), "--out", str(kit / place)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: --out")
    assert "timings" not in done.stderr
    assert list(kit.glob("**/*.part")) == []


def test_without_numpy_the_program_names_the_package(kit, tmp_path):
    """It runs without site-packages, as on a fresh board."""
    done = subprocess.run(
        [sys.executable, "-S", "-I", str(kit / "bench.py")], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert done.stderr == "error: numpy is not installed; pip install numpy\n"


def test_a_kit_that_verifies_by_too_few_networks_is_refused(door, tmp_path, write_yaml, small_section):
    written = write_yaml(tmp_path / "c.yaml", {"space": small_section, "measure": MEASURE})
    ended = door("device_kit", "export", written, "--out", tmp_path / "kit", "--verify", 3)
    assert ended.status == 2
    assert "--verify: got 3, expected at least 6" in ended.err
    assert not (tmp_path / "kit").exists()


@pytest.mark.parametrize("what", ["file", "folder"])
def test_an_export_never_writes_over_anything(what, tmp_path, config):
    place = tmp_path / "kit"
    if what == "file":
        place.write_text("mine")
    else:
        place.mkdir()
        (place / "mine.txt").write_text("mine")
    with pytest.raises(KitFileError, match=r"--out .*not empty"):
        export_kit(config(), place)
    assert (place if what == "file" else place / "mine.txt").read_text() == "mine"


def test_a_kit_for_a_runtime_without_model_files_is_refused(tmp_path, config):
    with pytest.raises(KitFileError, match=r"measure\.runtime: got 'pytorch'.*onnxruntime"):
        export_kit(config(runtime="pytorch"), tmp_path / "kit")
    assert not (tmp_path / "kit").exists()


def test_an_export_that_fails_leaves_nothing(tmp_path, monkeypatch, config):
    from latency import kit as kits

    def fail(*arguments: object) -> None:
        raise UserError("no")

    monkeypatch.setattr(kits, "write_models", fail)
    with pytest.raises(UserError, match="no"):
        export_kit(config(), tmp_path / "kit")
    assert not (tmp_path / "kit").exists()


def test_an_export_that_fails_at_the_end_leaves_nothing_under_its_name(tmp_path, monkeypatch, config, door):
    """If the disk is full while the manifest is written, the error is one line, and no folder is left, not even a
    hidden one."""
    from latency import kit as kits

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def write_nothing(space, measure, jobs, folder, progress):
        return [{"id": job.id, "file": "x", "shape": [1], "inside": job.inside, "layers": 1} for job in jobs]

    monkeypatch.setattr(kits, "write_models", write_nothing)
    monkeypatch.setattr(kits.shutil, "copyfile", full)
    with pytest.raises(UserError, match=r"--out .*kit: cannot be written \(No space left on device\); make room"):
        export_kit(config(), tmp_path / "kit")
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_imports_no_module_that_is_not_allowed(kit, tmp_path, monkeypatch, door):
    """The sender of a kit and its results could have put a module beside it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sent.py").write_text("from pathlib import Path\nPath('it_ran').touch()\n")
    manifest = json.loads((kit / "manifest.json").read_text())
    manifest["config"]["space"]["candidate_modules"] = ["sent.py"]
    (kit / "manifest.json").write_text(json.dumps(manifest))
    digest = sha256(kit / "manifest.json")
    change(kit, lambda results: results.update(manifest_sha256=digest))
    ended = door("device_kit", "import", kit, kit / "results.json", "--out", "t.yaml")
    assert ended.status == 2
    assert "space.candidate_modules: the file would run 'sent.py'" in ended.err
    assert not (tmp_path / "it_ran").exists()
    import_results(kit, kit / "results.json", ["sent.py"])
    assert (tmp_path / "it_ran").exists()
