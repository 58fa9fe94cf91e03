"""latency/on_device/: the order of timing, profiles, energy, manifests, and that it needs nothing else of this
package."""

from __future__ import annotations

import ast
import errno
import gc
import gzip
import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from latency import on_device
from latency.on_device import models
from latency.on_device.errors import KitError
from latency.on_device.machine import cpu_name, energy_counter, usable_cores
from latency.on_device.manifest import MANIFEST_FORMAT, read_manifest
from latency.on_device.models import layer_times, unpacked
from latency.on_device.program import check_writable, write_results
from latency.on_device.rounds import timed_rounds


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch):
    """Replaces garbage collection, which takes a tenth of a second in a process that has imported torch."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


class Recorder:
    """Opens jobs, and notes what is done to them."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str, int]] = []

    def open(self, name: str):
        recorder = self

        class Opened:
            def run(self, passes):
                recorder.log.append((name, "run", passes))

            def times(self, passes):
                recorder.log.append((name, "times", passes))
                return [float(len(recorder.log))] * passes

            def close(self):
                recorder.log.append((name, "close", 0))

        return Opened()


ROUNDS = [["a", "b", "c", "d", "e"]] * 4


def timed(recorder: Recorder, seed: int = 0, **more: object):
    return timed_rounds(ROUNDS, recorder.open, passes=3, warmup=2, seed=seed, **more)


def test_every_job_is_warmed_up_timed_and_closed_once_a_round():
    recorder = Recorder()
    samples, energy = timed(recorder)
    assert {name: np.shape(taken) for name, taken in samples.items()} == dict.fromkeys("abcde", (4, 3))
    assert energy == {}
    for i in range(0, len(recorder.log), 3):
        name = recorder.log[i][0]
        assert recorder.log[i : i + 3] == [(name, "run", 2), (name, "times", 3), (name, "close", 0)]
    names = [name for name, what, _ in recorder.log if what == "times"]
    for i in range(0, 20, 5):
        assert sorted(names[i : i + 5]) == ROUNDS[0]


def test_every_round_has_its_own_order_fixed_by_the_seed():
    def orders(seed: int) -> list[str]:
        recorder = Recorder()
        timed(recorder, seed)
        names = "".join(name for name, what, _ in recorder.log if what == "times")
        return [names[i : i + 5] for i in range(0, 20, 5)]

    assert len(set(orders(0))) > 1
    assert orders(0) == orders(0)
    assert orders(0) != orders(1)


def test_a_round_times_its_own_jobs_only():
    recorder = Recorder()
    samples, _ = timed_rounds([["a"], ["a", "b"]], recorder.open, passes=1, warmup=1, seed=0)
    assert {name: len(taken) for name, taken in samples.items()} == {"a": 2, "b": 1}


def test_progress_counts_the_jobs():
    seen = []
    timed(Recorder(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 20) for i in range(1, 21)]


def test_energy_is_per_pass_and_leaves_the_warm_up_out():
    recorder = Recorder()

    def joules() -> float:  # 1 J per entry in the log
        return float(len(recorder.log))

    _, energy = timed(recorder, joules=joules)
    assert energy == {name: [pytest.approx(1e3 / 3)] * 4 for name in "abcde"}


@pytest.mark.parametrize("collecting", [True, False])
def test_garbage_collection_is_off_during_timing_and_restored_afterwards(collecting):
    seen = []
    before = gc.isenabled()
    (gc.enable if collecting else gc.disable)()
    try:
        timed(Recorder(), progress=lambda *_: seen.append(gc.isenabled()))
        assert gc.isenabled() is collecting
    finally:
        (gc.enable if before else gc.disable)()
    assert not any(seen)


def test_a_job_that_fails_is_closed_and_garbage_collection_is_on_again():
    recorder = Recorder()
    opened = recorder.open("a")

    def fail(passes):
        raise RuntimeError("broken")

    opened.times = fail
    with pytest.raises(RuntimeError, match="broken"):
        timed_rounds([["a"]], lambda name: opened, passes=1, warmup=1, seed=0)
    assert recorder.log[-1] == ("a", "close", 0)
    assert gc.isenabled()


@pytest.mark.parametrize("collecting", [True, False])
@pytest.mark.parametrize("what", ["open", "run"])
def test_garbage_collection_is_restored_after_an_error(what, collecting):
    recorder = Recorder()
    opened = recorder.open("a")

    def fail(*_):
        raise RuntimeError("broken")

    if what == "run":
        opened.run = fail
    before = gc.isenabled()
    (gc.enable if collecting else gc.disable)()
    try:
        with pytest.raises(RuntimeError, match="broken"):
            timed_rounds([["a"]], fail if what == "open" else lambda _: opened, passes=1, warmup=1, seed=0)
        assert gc.isenabled() is collecting
    finally:
        (gc.enable if before else gc.disable)()
    assert [what for _, what, _ in recorder.log] == ([] if what == "open" else ["close"])


def test_layers_of_a_pass_add_up_to_the_pass():
    """Nodes without a layer's name (reorders) count for the layer before them, and the time before all nodes for the
    first."""
    nodes = [(105, "L00.conv"), (120, "ReorderInput"), (130, "L01.conv_nchwc"), (140, "L01.add"), (170, "L02.gemm")]
    times = layer_times(nodes, 100, 90, 3)
    assert times == pytest.approx([0.030, 0.040, 0.020])
    assert sum(times) == pytest.approx(0.090)


@pytest.mark.parametrize("nodes", [[(1, "L01.a"), (2, "L00.b")], [(1, "L00.a")], []])
def test_a_profile_that_does_not_show_the_layers_in_order_is_an_error(nodes):
    with pytest.raises(RuntimeError, match="in order"):
        layer_times(nodes, 0, 10, 2)


def counter(root: Path, zone: str, name: str, microjoules: int, span: int = 1_000_000) -> Path:
    folder = root / zone
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{span}\n")
    return folder / "energy_uj"


def test_energy_is_the_sum_of_all_packages_even_if_a_counter_wraps_around(tmp_path):
    first = counter(tmp_path, "intel-rapl:0", "package-0", 900_000)
    second = counter(tmp_path, "intel-rapl:1", "package-1", 5)
    inside = counter(tmp_path, "intel-rapl:0:0", "core", 77)  # counted in its package already
    around = counter(tmp_path, "intel-rapl:2", "psys", 77)
    joules = energy_counter(str(tmp_path))
    assert joules is not None
    assert joules() == 0
    first.write_text("950000")
    second.write_text("10005")
    inside.write_text("900077")
    around.write_text("900077")
    assert joules() == pytest.approx(0.06)
    first.write_text("100000")  # beyond 1,000,000 it begins at 0 again
    assert joules() == pytest.approx(0.06 + 0.15)


def test_without_a_counter_there_is_no_energy(tmp_path):
    assert energy_counter(str(tmp_path)) is None
    counter(tmp_path, "intel-rapl:0", "package-0", 1).unlink()
    assert energy_counter(str(tmp_path)) is None


def test_the_program_of_a_kit_needs_only_python_3_8_numpy_and_a_runtime():
    files = {path.stem: path for path in Path(on_device.__file__).parent.glob("*.py")}
    names = set()
    for path in files.values():
        source = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source, feature_version=(3, 8))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(str(node.module).partition(".")[0])
            elif isinstance(node, ast.ImportFrom):
                assert (node.level, node.module in files) == (1, True)
        assert "->" not in source or "from __future__ import annotations" in source
    runtimes = {"onnxruntime", "ai_edge_litert", "tflite_runtime"}
    assert names - set(sys.stdlib_module_names) == {"on_device", "numpy", *runtimes}


def test_results_are_written_whole_or_not_at_all(tmp_path):
    write_results(str(tmp_path / "results.json"), {"a": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    with pytest.raises(TypeError):
        write_results(str(tmp_path / "results.json"), {"a": object()})
    assert (tmp_path / "results.json").read_text() == '{"a": 1}'


def test_this_machine_has_a_name_and_cores():
    assert cpu_name()
    assert usable_cores() >= 1


def kit(folder: Path) -> Path:
    """Writes a kit of one file, complete and unchanged."""
    (folder / "model").write_bytes(b"weights")
    files = {"model": hashlib.sha256(b"weights").hexdigest()}
    settings = {"jobs": [], "schedule": [], "runtime": "onnxruntime", "threads": 1, "passes": 1, "warmup": 1, "seed": 0}
    (folder / "manifest.json").write_text(json.dumps({"format": MANIFEST_FORMAT, "files": files} | settings))
    return folder


def test_a_manifest_is_read_with_its_hash(tmp_path):
    manifest, digest = read_manifest(str(kit(tmp_path)))
    assert list(manifest["files"]) == ["model"]
    assert digest == hashlib.sha256((tmp_path / "manifest.json").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("manifest.json", None, "no such file; run bench.py in the folder"),
        ("manifest.json", b"{", "is not JSON, perhaps cut off"),
        ("manifest.json", b"\xff\xfe", "is not JSON, perhaps cut off"),
        ("manifest.json", b"[1]", "expected format"),
        ("manifest.json", b'{"format": "other@1", "files": {}}', "expected format"),
        ("manifest.json", b'{"format": "proxylessnas/device-kit@1", "files": {}}', "lacks 'jobs'"),
        ("model", None, "is missing; copy the whole kit again"),
        ("model", b"weightz", "its sha256 differs"),
    ],
)
def test_a_kit_that_is_not_as_exported_is_refused_in_one_line(name, content, words, tmp_path):
    kit(tmp_path)
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_bytes(content)
    with pytest.raises(KitError, match=words) as error:
        read_manifest(str(tmp_path))
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


# ---- what a manifest may not do ----


def hostile(folder: Path, edit) -> str:
    """Returns the line with which an edited manifest is refused."""
    settings = json.loads((kit(folder) / "manifest.json").read_text())
    job = {"id": "a", "file": "model", "shape": [1, 3, 8, 8], "inside": False, "layers": 2}
    settings |= {"jobs": [job], "schedule": [["a"], ["a"]]}
    (folder / "manifest.json").write_text(json.dumps(settings))
    read_manifest(str(folder))  # as it is, it is accepted
    edit(settings)
    (folder / "manifest.json").write_text(json.dumps(settings))
    with pytest.raises(KitError) as error:
        read_manifest(str(folder))
    said = str(error.value)
    assert "\n" not in said
    assert said.isprintable()
    assert len(said) < 1000
    return said.replace(str(folder), "")


def job_with(**changes: object):
    return lambda m: m["jobs"][0].update(changes)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            lambda m: m["files"].update({"/etc/passwd": "0" * 64}),
            "files: '/etc/passwd' is no name of a file in the kit",
        ),
        (lambda m: m["files"].update({"../x": "0" * 64}), "files: '../x' is no name"),
        (lambda m: m["files"].update({"a/../../x": "0" * 64}), "is no name"),
        (lambda m: m["files"].update({"a//x": "0" * 64}), "is no name"),
        (lambda m: m["files"].update({"": "0" * 64}), "files: '' is no name"),
        (lambda m: m["files"].update({"..\\x": "0" * 64}), "is no name"),
        (lambda m: m["files"].update({"C:x": "0" * 64}), "is no name"),
        (lambda m: m["files"].update({"a\0b": "0" * 64}), "is no name"),
        (lambda m: m["files"].update({"a\nb": "0" * 64}), "is no name"),
        (lambda m: m["files"].update({"x" * 5000: "0" * 64}), "is no name"),
        (lambda m: m["files"].update(model=5), "files.model: got 5, expected a sha256"),
        (lambda m: m["files"].update(model="0" * 63), "expected a sha256"),
        (lambda m: m.update(files=[]), "files: got a list of 0"),
        (lambda m: m.update(files="x"), "files: got 'x'"),
        (lambda m: m.update(runtime="rm -rf"), "runtime: got 'rm -rf', expected onnxruntime or litert"),
        (lambda m: m.update(runtime=["litert"]), "runtime: got a list of 1"),
        (lambda m: m.update(passes=10**9), "passes: got 1000000000, expected a whole number from 1 to 100000"),
        (lambda m: m.update(passes=0), "passes: got 0"),
        (lambda m: m.update(passes="6"), "passes: got '6'"),
        (lambda m: m.update(passes=6.0), "passes: got 6.0"),
        (lambda m: m.update(passes=True), "passes: got True"),
        (lambda m: m.update(warmup=10**9), "warmup: got 1000000000"),
        (lambda m: m.update(warmup=-1), "warmup: got -1"),
        (lambda m: m.update(threads=10**6), "threads: got 1000000"),
        (lambda m: m.update(threads=None), "threads: got None"),
        (lambda m: m.update(seed=-1), "seed: got -1"),
        (lambda m: m.update(seed={"a": {"b": []}}), "seed: got a section of 1"),
        (lambda m: m.update(jobs={}), "jobs: got a section of 0"),
        (lambda m: m.update(jobs=["a"]), "jobs.0: got 'a', expected a section"),
        (lambda m: m["jobs"].append(m["jobs"][0]), "jobs.1.id: got 'a', expected a name of its own"),
        (lambda m: m["jobs"][0].pop("shape"), "jobs.0: lacks 'shape'"),
        (job_with(id=1), "jobs.0.id: got 1"),
        (job_with(id="a/b"), "jobs.0.id: got 'a/b'"),
        (job_with(id="\x1b[31m"), "jobs.0.id"),
        (job_with(file="/etc/passwd"), "jobs.0.file: got '/etc/passwd', expected one of `files`"),
        (job_with(file="../model"), "jobs.0.file"),
        (job_with(file="unhashed"), "jobs.0.file: got 'unhashed'"),
        (job_with(file=["model"]), "jobs.0.file: got a list of 1"),
        (job_with(shape=[10**9, 10**9]), "jobs.0.shape"),
        (job_with(shape=[2**20, 2**20, 0]), "jobs.0.shape"),
        (job_with(shape=[-1, -1]), "jobs.0.shape"),
        (job_with(shape=["8"]), "jobs.0.shape"),
        (job_with(shape=[]), "jobs.0.shape"),
        (job_with(shape=[1] * 9), "jobs.0.shape"),
        (job_with(shape="1388"), "jobs.0.shape"),
        (job_with(inside="yes"), "jobs.0.inside: got 'yes'"),
        (lambda m: (m.update(runtime="litert"), m["jobs"][0].update(inside=True)), "jobs.0.inside: got True"),
        (job_with(layers=0), "jobs.0.layers: got 0"),
        (job_with(layers=10**9), "jobs.0.layers"),
        (lambda m: m.update(schedule="aa"), "schedule: got 'aa'"),
        (lambda m: m.update(schedule=[["a"]] * 10_001), "schedule: got a list of 10001"),
        (lambda m: m.update(schedule=["a"]), "schedule.0: got 'a'"),
        (lambda m: m.update(schedule=[["b"]]), "schedule.0: got 'b'"),
        (lambda m: m.update(schedule=[["a", "a"]]), "schedule.0: got a list of 2"),
        (lambda m: m.update(schedule=[[["a"]]]), "schedule.0: got a list of 1"),
    ],
)
def test_a_hostile_manifest_is_refused_in_one_line(edit, words, tmp_path):
    """Anybody may have written it: it must not name a file outside its folder, one without a hash, or unbounded
    work."""
    assert words in hostile(tmp_path, edit)


@pytest.mark.parametrize("through", ["file", "folder"])
def test_a_kit_has_no_links(through, tmp_path):
    """A link would lead to a file elsewhere, though its hash may be right."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"weights")
    folder = tmp_path / "kit"
    folder.mkdir()
    if through == "file":
        (folder / "linked").symlink_to(outside / "secret")
    else:
        (folder / "linked").symlink_to(outside)
    name = "linked" if through == "file" else "linked/secret"
    digest = hashlib.sha256(b"weights").hexdigest()
    assert "is a link, or lies behind one" in hostile(folder, lambda m: m["files"].update({name: digest}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 200_000, "too many brackets"),
        ('{"a": ' * 200_000, "too many brackets"),
        ('{"format": "proxylessnas/device-kit@1", "passes": 1, "passes": 1000}', "key 'passes' is given twice"),
        ('{"passes": ' + "9" * 5000 + "}", "a number has 5000 digits"),
        ('{"passes": NaN}', "NaN is no number"),
    ],
)
def test_a_manifest_with_a_malformed_text_is_refused(text, words, tmp_path):
    kit(tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(KitError, match=words) as error:
        read_manifest(str(tmp_path))
    assert len(str(error.value)) < 500


def test_a_file_that_is_a_pipe_is_refused_and_not_waited_for(tmp_path):
    kit(tmp_path)
    (tmp_path / "model").unlink()
    os.mkfifo(tmp_path / "model")
    with pytest.raises(KitError, match="is no regular file"):
        read_manifest(str(tmp_path))


def test_a_packed_model_is_unpacked_up_to_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "MOST_MODEL_BYTES", 1000)
    (tmp_path / "m.gz").write_bytes(gzip.compress(b"0" * 1001))
    with pytest.raises(KitError, match="when unpacked"):
        unpacked(str(tmp_path / "m.gz"))
    (tmp_path / "m.gz").write_bytes(gzip.compress(b"0" * 1000))
    assert unpacked(str(tmp_path / "m.gz")) == b"0" * 1000
    (tmp_path / "m.gz").write_bytes(gzip.compress(b"0" * 1000)[:-9])
    with pytest.raises(KitError, match="cannot be read"):
        unpacked(str(tmp_path / "m.gz"))


# ---- what is written ----


def test_results_get_the_permissions_of_the_umask_and_no_predictable_name(tmp_path, monkeypatch):
    """`results.json.part` could be a link that somebody has put there."""
    victim = tmp_path / "victim"
    victim.write_text("theirs")
    for name in ("results.json.part", ".results.json.part"):
        (tmp_path / name).symlink_to(victim)
    before = os.umask(0o027)
    try:
        check_writable(str(tmp_path / "results.json"))
        write_results(str(tmp_path / "results.json"), {"a": 1})
    finally:
        os.umask(before)
    assert victim.read_text() == "theirs"
    assert (tmp_path / "results.json").stat().st_mode & 0o777 == 0o640
    assert len(list(tmp_path.iterdir())) == 4


def test_a_full_disk_is_one_line_and_leaves_the_old_results(tmp_path, monkeypatch):
    write_results(str(tmp_path / "results.json"), {"a": 1})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KitError, match=r"--out .*results.json: cannot be written \(No space left on device\)"):
        write_results(str(tmp_path / "results.json"), {"a": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert (tmp_path / "results.json").read_text() == '{"a": 1}'
