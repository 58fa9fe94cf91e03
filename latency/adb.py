"""A phone, by adb and LiteRT's benchmark program: the kit's models are pushed one by one, timed there, and removed.

The program is `benchmark_model` of LiteRT / TensorFlow Lite for the phone's instruction set, as its authors publish or
build it. It prints, for the warm-up and then for the passes that count, a line such as

    count=50 first=5123 curr=5090 min=5021 max=5310 avg=5099.2 std=41 p5=5030 median=5094 p95=5180

in microseconds; older ones end after std.
"""

from __future__ import annotations

import gzip
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from latency import bench
from latency.kit import Kit, KitFileError

FOLDER = "/data/local/tmp/latency_kit"
_COUNTED = re.compile(r"count=(\d+) .*?avg=([-+.\deE]+)(?:.*?median=([-+.\deE]+))?")
NO_ANSWER_S = 600


class Adb:
    """The adb program, to one phone."""

    def __init__(self, program: str = "adb", serial: str | None = None):
        self._command = [program, *(["-s", serial] if serial else [])]

    def __call__(self, *arguments: str) -> str:
        """Run `adb ARGUMENTS` and return its output. KitFileError where it fails or says nothing for 10 minutes."""
        command = [*self._command, *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=NO_ANSWER_S, check=False)
        except FileNotFoundError:
            raise KitFileError(
                f"--adb: no program '{self._command[0]}'; install Android's platform tools, or give its path"
            ) from None
        except subprocess.TimeoutExpired:
            raise KitFileError(
                f"`{shlex.join(command)}` did not end within {NO_ANSWER_S} s; is the phone awake?"
            ) from None
        if done.returncode:
            last = (done.stderr or done.stdout).strip().splitlines()
            raise KitFileError(
                f"`{shlex.join(command)}` failed: {last[-1] if last else 'it said nothing'}; see `adb devices`"
            )
        return done.stdout + done.stderr

    def shell(self, *arguments: str) -> str:
        return self("shell", shlex.join(arguments))


def run_on_phone(
    kit: Kit, folder: Path, adb: Adb, benchmark: Path, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Time a LiteRT kit on a phone. Returns what results.json holds; raises KitFileError.

    benchmark: the benchmark_model program for the phone, a file here.
    """
    manifest = kit.manifest
    if manifest["runtime"] != "litert":
        raise KitFileError(f"{folder}: is a kit for {manifest['runtime']}; export one with measure.runtime=litert")
    if not benchmark.is_file():
        raise KitFileError(f"--benchmark {benchmark}: no such file; expected LiteRT's benchmark_model for the phone")
    name = f"{adb.shell('getprop', 'ro.product.model').strip()}, {adb.shell('getprop', 'ro.soc.model').strip()}"
    machine = adb.shell("uname", "-m").strip()
    cores = adb.shell("nproc").strip()
    program = f"{FOLDER}/benchmark_model"
    adb.shell("mkdir", "-p", FOLDER)
    adb("push", str(benchmark), program)
    adb.shell("chmod", "755", program)
    jobs = {job["id"]: job for job in manifest["jobs"]}
    try:
        with tempfile.TemporaryDirectory() as unpacked:
            samples, _ = bench.timed_rounds(
                manifest["schedule"],
                lambda job: _Model(adb, folder / jobs[job]["file"], Path(unpacked), program, manifest),
                passes=manifest["passes"],
                warmup=manifest["warmup"],
                seed=manifest["seed"],
                progress=progress,
            )
    finally:
        adb.shell("rm", "-rf", FOLDER)
    return {
        "format": bench.RESULTS_FORMAT,
        "manifest_sha256": kit.digest,
        "device": {
            "name": name,
            "cores": int(cores) if cores.isdecimal() else None,
            "machine": machine,
            "kind": "phone",
        },
        "runtime": {"name": "litert", "version": f"benchmark_model sha256 {bench.sha256(benchmark)[:12]}"},
        "provider": "CPUExecutionProvider",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "summarised": True,
        "samples_ms": samples,
        "energy_mj": {},
    }


class _Model:
    """One model on the phone while it is timed."""

    def __init__(self, adb: Adb, packed: Path, unpacked: Path, program: str, manifest: Any):
        self._adb, self._program, self._manifest = adb, program, manifest
        self._there = f"{FOLDER}/model.tflite"
        self._warmup = 0
        here = unpacked / "model.tflite"
        here.write_bytes(gzip.decompress(packed.read_bytes()))
        adb("push", str(here), self._there)

    def run(self, passes: int) -> None:
        self._warmup = passes  # a program of its own for each call: it warms up itself

    def times(self, passes: int) -> list[float]:
        printed = self._adb.shell(
            self._program,
            f"--graph={self._there}",
            f"--num_threads={self._manifest['threads']}",
            f"--num_runs={passes}",
            f"--warmup_runs={self._warmup}",
            "--min_secs=0",
            "--warmup_min_secs=0",
            "--use_xnnpack=true",
        )
        return [milliseconds(printed, passes)]

    def close(self) -> None:
        self._adb.shell("rm", "-f", self._there)


def milliseconds(printed: str, passes: int) -> float:
    """The median pass from what the benchmark program printed, its mean where it prints no median. KitFileError
    else."""
    counted: Sequence[re.Match[str]] = [m for line in printed.splitlines() if (m := _COUNTED.search(line))]
    if not counted or int(counted[-1][1]) < passes:
        tail = " / ".join(printed.strip().splitlines()[-2:])
        raise KitFileError(
            f"the benchmark program printed no line 'count={passes} ... avg=... median=...' but '{tail}'; expected "
            "LiteRT's benchmark_model"
        )
    _, average, median = counted[-1].groups()
    return float(median or average) / 1e3
