"""Times a kit on a phone, by adb and LiteRT's benchmark program: each model is pushed, timed there, and removed.

The program is `benchmark_model` of LiteRT / TensorFlow Lite for the phone's instruction set, as its authors publish or
build it. It prints, for the warm-up and then for the passes that count, a line such as

    count=50 first=5123 curr=5090 min=5021 max=5310 avg=5099.2 std=41 p5=5030 median=5094 p95=5180

in microseconds; older ones end after std.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from engine.errors import one_line
from engine.files import reason_of, write_atomically, writing
from engine.progress import Report, silent
from engine.wording import shown
from latency.kit import LONGEST_MS, KitFileError, KitFiles, open_kit, prepare_results_file
from latency.on_device.errors import KitError
from latency.on_device.manifest import sha256
from latency.on_device.models import unpacked
from latency.on_device.program import RESULTS_FORMAT
from latency.on_device.rounds import timed_rounds

FOLDER = "/data/local/tmp/latency_kit"
_COUNTED = re.compile(r"count=(\d{1,9}) .*?avg=([-+.\deE]+)(?:.*?median=([-+.\deE]+))?")
NO_ANSWER_S = 600


class Adb:
    """The adb program, connected to one phone."""

    def __init__(self, program: str = "adb", serial: str | None = None):
        self._command = [program, *(["-s", serial] if serial else [])]

    def __call__(self, *arguments: str) -> str:
        """Runs `adb ARGUMENTS` and returns its standard output, which does not have adb's own messages, such as its
        start.

        Raises KitFileError if it cannot run, fails, or does not end within 10 minutes.
        """
        command = [*self._command, *arguments]
        called = f"`{one_line(shlex.join(command), 200)}`"
        try:
            done = subprocess.run(
                command, capture_output=True, stdin=subprocess.DEVNULL, timeout=NO_ANSWER_S, check=False
            )
        except FileNotFoundError:
            raise KitFileError(
                "--adb", f"no program '{self._command[0]}'", remedy="install Android's platform tools, or give its path"
            ) from None
        except subprocess.TimeoutExpired:
            raise KitFileError(
                "", f"{called} did not end within {NO_ANSWER_S} s", remedy="is the phone awake?"
            ) from None
        except (OSError, ValueError) as error:  # it is not executable or for another processor, or its name has a NUL
            reason = reason_of(error) if isinstance(error, OSError) else str(error)
            raise KitFileError(
                "--adb",
                f"'{self._command[0]}' cannot be run ({reason})",
                remedy="give the path of the adb program of Android's platform tools for this machine",
            ) from None
        printed, errors = (text.decode("utf-8", errors="replace") for text in (done.stdout, done.stderr))
        if done.returncode:
            lines = [line for line in (errors or printed).strip().splitlines() if not line.startswith("* daemon")]
            last = one_line(lines[-1], 300) if lines else "it printed nothing"
            raise KitFileError("", f"{called} failed: {last}", remedy=_remedy(" ".join(lines)))
        return printed

    def shell(self, *arguments: str) -> str:
        """Runs a command on the phone and returns its output. Raises KitFileError as `__call__` does."""
        return self("shell", shlex.join(arguments))


_REMEDIES = {
    "unauthorized": "unlock the phone and allow debugging from this computer",
    "more than one": "choose one with --serial, as `adb devices` lists them",
    "no devices": "plug the phone in, and switch on USB debugging in its developer options",
    "offline": "plug the phone in again, or run `adb reconnect`",
}


def _remedy(printed: str) -> str:
    """Returns what to do about a message of the adb program."""
    return next((remedy for word, remedy in _REMEDIES.items() if word in printed), "see `adb devices`")


def _one_answer(adb: Adb, *arguments: str, optional: bool = False) -> str:
    """Returns the last line that a command on the phone prints. Raises KitFileError if it is no name, or there is none.

    optional: return '' if there is none.
    """
    lines = [line.strip() for line in adb.shell(*arguments).splitlines() if line.strip()]
    if optional and not lines:
        return ""
    if not lines or len(lines[-1]) > 100 or not lines[-1].isprintable() or "\ufffd" in lines[-1]:
        raise KitFileError(
            "",
            f"`adb shell {shlex.join(arguments)}` printed {shown(lines[-1]) if lines else 'nothing'}",
            "the phone's answer",
            "is --adb the program of Android's platform tools?",
        )
    return lines[-1]


def time_to_file(
    kit: Path,
    out: Path,
    *,
    benchmark: Path,
    adb: str = "adb",
    serial: str | None = None,
    report: Report = silent,
) -> None:
    """Times a LiteRT kit on a phone and writes its results.json to `out`.

    kit: the folder of the kit. benchmark: the benchmark_model program for the phone, a file here. adb: the adb program.
    serial: the phone, if several are connected. Raises KitFileError if one of these cannot be used.
    """
    files = open_kit(kit)
    prepare_results_file(out)
    results = run_on_phone(files, kit, Adb(adb, serial), benchmark, partial(report, "phone"))
    write_atomically(out, json.dumps(results, allow_nan=False) + "\n")


def run_on_phone(
    kit: KitFiles, folder: Path, adb: Adb, benchmark: Path, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Times a LiteRT kit on a phone and returns the content of its results.json. Raises KitFileError.

    folder: the kit's. benchmark: the benchmark_model program for the phone, a file here. progress: called with (done,
    total), in timings.
    """
    manifest = kit.manifest
    if manifest["runtime"] != "litert":
        raise KitFileError(
            str(folder), f"is a kit for {manifest['runtime']}", remedy="export one with measure.runtime=litert"
        )
    if not benchmark.is_file():
        raise KitFileError(f"--benchmark {benchmark}", "no such file", "LiteRT's benchmark_model for the phone")
    model = _one_answer(adb, "getprop", "ro.product.model")
    soc = _one_answer(adb, "getprop", "ro.soc.model", optional=True)  # phones before Android 12 do not give it
    name = ", ".join(filter(None, [model, soc]))
    machine = _one_answer(adb, "uname", "-m")
    cores = _one_answer(adb, "nproc")
    program = f"{FOLDER}/benchmark_model"
    jobs = {job["id"]: job for job in manifest["jobs"]}
    try:
        adb.shell("mkdir", "-p", FOLDER)
        adb("push", str(benchmark), program)
        adb.shell("chmod", "755", program)
        with tempfile.TemporaryDirectory() as temporary:
            samples, _ = timed_rounds(
                manifest["schedule"],
                lambda job: _Model(adb, folder / jobs[job]["file"], Path(temporary), program, manifest),
                passes=manifest["passes"],
                warmup=manifest["warmup"],
                seed=manifest["seed"],
                progress=progress,
            )
    finally:
        with contextlib.suppress(KitFileError):  # if the phone is gone, that has been reported already
            adb.shell("rm", "-rf", FOLDER)
    return {
        "format": RESULTS_FORMAT,
        "manifest_sha256": kit.digest,
        "device": {
            "name": name,
            "cores": int(cores) if re.fullmatch("[1-9][0-9]{0,3}", cores) else None,
            "machine": machine,
            "kind": "phone",
        },
        "runtime": {"name": "litert", "version": f"benchmark_model sha256 {sha256(benchmark)[:12]}"},
        "provider": "CPUExecutionProvider",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "summarised": True,
        "samples_ms": samples,
        "energy_mj": {},
    }


class _Model:
    """A model on the phone while it is timed: what `timed_rounds` opens."""

    def __init__(self, adb: Adb, packed: Path, folder: Path, program: str, manifest: Any):
        self._adb, self._program, self._manifest = adb, program, manifest
        self._there = f"{FOLDER}/model.tflite"
        self._warmup = 0
        here = folder / "model.tflite"
        try:
            content = unpacked(str(packed))
        except KitError as error:
            raise KitFileError.of(error) from None
        with writing(here):
            here.write_bytes(content)
        adb("push", str(here), self._there)

    def run(self, passes: int) -> None:
        """Requests so many untimed passes: each call of `times` starts the benchmark program, which warms up itself."""
        self._warmup = passes

    def times(self, passes: int) -> list[float]:
        """Returns one number, the median milliseconds of `passes` forward passes."""
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
        """Deletes the model on the phone."""
        with contextlib.suppress(KitFileError):  # the whole folder is deleted at the end
            self._adb.shell("rm", "-f", self._there)


def milliseconds(printed: str, passes: int) -> float:
    """Returns the milliseconds of the median pass from what the benchmark program printed; if it prints no median, of
    the mean pass. Raises KitFileError if it printed neither for `passes` passes."""
    counted: Sequence[re.Match[str]] = [m for line in printed.splitlines() if (m := _COUNTED.search(line[:2000]))]
    if counted and int(counted[-1][1]) >= passes:
        _, average, median = counted[-1].groups()
        with contextlib.suppress(ValueError):  # the text has digits and signs but is no number
            us = float(median or average)
            if 0 < us <= LONGEST_MS * 1e3:
                return us / 1e3
    tail = one_line(" / ".join(printed.strip().splitlines()[-2:]), 300)
    raise KitFileError(
        "",
        f"the benchmark program printed no line 'count={passes} ... avg=... median=...' but '{tail}'",
        "LiteRT's benchmark_model",
    )
