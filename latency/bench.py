"""Times networks and ops in rounds. A device kit holds a copy of this file, which needs nothing else of this package:

    python bench.py            # in the kit's folder, on the device: times everything, writes results.json

It needs Python 3.8 or newer, numpy, and the kit's runtime: onnxruntime, or LiteRT (ai-edge-litert or tflite-runtime).
On the machine that makes tables, the same functions time every runtime, so that a table means the same wherever it was
made.
"""

from __future__ import annotations

import abc
import argparse
import gc
import glob
import gzip
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import sys
import tempfile
import time
import zlib
from typing import Any, Callable, Sequence

try:
    import numpy as np
except ImportError:  # a fresh board often lacks it
    sys.exit("error: numpy is not installed; pip install numpy")

MANIFEST = "manifest.json"
MANIFEST_FORMAT = "proxylessnas/device-kit@1"
RESULTS_FORMAT = "proxylessnas/device-results@1"


class KitError(Exception):
    """Raised for a fault of the kit or the device that its user can mend; its text is one line."""

    def __init__(self, where: str, found: str = "", expected: str = "", remedy: str = ""):
        """Takes the parts, each of which may be empty.

        where: the file or option at fault. found: what is there. expected: what is accepted. remedy: what to do.
        """
        super().__init__(where, found, expected, remedy)
        self.where, self.found, self.expected, self.remedy = where, found, expected, remedy

    def __str__(self) -> str:
        text = ", ".join(filter(None, [self.found, self.expected and "expected " + self.expected]))
        text = ": ".join(filter(None, [self.where, text]))
        return "; ".join(filter(None, [text, self.remedy]))


# ---- the order of timing ----


def timed_rounds(
    schedule: Sequence[Sequence[str]],
    open_job: Callable[[str], Any],
    *,
    passes: int,
    warmup: int,
    seed: int,
    joules: Callable[[], float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, list[list[Any]]], dict[str, list[float]]]:
    """Times the jobs of each round in random order, so that a drift of the machine affects all alike.

    schedule: a list of rounds, each a list of job ids. open_job(id): returns an object with the methods of Model. The
    `warmup` passes after opening are thrown away. joules(): returns the joules used so far; None if energy is not
    counted. progress(done, total): called after each job. Returns (samples, energy): {id: [round][pass] or
    [round][pass][layer]} in ms, {id: [round]} in mJ per pass.
    """
    rng = np.random.default_rng(seed)
    samples: dict[str, list[list[Any]]] = {}
    energy: dict[str, list[float]] = {}
    done, total = 0, sum(len(jobs) for jobs in schedule)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()  # a collection in the middle of a pass would count as its time
    try:
        for jobs in schedule:
            for i in rng.permutation(len(jobs)):
                job = jobs[i]
                opened = open_job(job)
                try:
                    opened.run(warmup)
                    before = joules() if joules else 0.0
                    samples.setdefault(job, []).append(opened.times(passes))
                    if joules:
                        energy.setdefault(job, []).append((joules() - before) * 1e3 / passes)
                finally:
                    opened.close()
                done += 1
                if progress:
                    progress(done, total)
            gc.collect()
    finally:
        if collecting:
            gc.enable()
    return samples, energy


# ---- models in files ----


class Model(abc.ABC):
    """A model in a file, ready to run. RUNTIMES has a subclass for each runtime."""

    times_layers = False
    """Whether the runtime can time each layer of a running network, so that a job may be `inside`."""

    @staticmethod
    @abc.abstractmethod
    def version() -> str:
        """Returns the version of the installed runtime. Raises KitError if it is not installed."""

    @classmethod
    @abc.abstractmethod
    def of_job(cls, path: str, job: dict[str, Any], threads: int, provider: str) -> Model:
        """Returns the model in the file `path`, which belongs to this job of a manifest."""

    @abc.abstractmethod
    def run(self, passes: int) -> None:
        """Runs forward passes without timing them."""

    @abc.abstractmethod
    def times(self, passes: int) -> list[Any]:
        """Returns the milliseconds of each pass: a number, or a list with one number per layer if the job is
        `inside`."""

    @abc.abstractmethod
    def close(self) -> None:
        """Frees the model."""


class OnnxModel(Model):
    """A model that ONNX Runtime runs. inside: whether each layer is timed, by the runtime's own profile.

    The first node of each layer is found by its name, `L<position>....`; a layer lasts until the next one begins, so
    that the time between nodes is counted, and the layers of a pass add up to the pass.
    """

    times_layers = True

    @staticmethod
    def version() -> str:
        """Returns the version of ONNX Runtime. Raises KitError if it is not installed."""
        try:
            import onnxruntime
        except ImportError:
            raise KitError("", "onnxruntime is not installed", remedy="pip install onnxruntime") from None
        return str(onnxruntime.__version__)

    @classmethod
    def of_job(cls, path: str, job: dict[str, Any], threads: int, provider: str) -> OnnxModel:
        """Returns a job's model. Raises KitError if this onnxruntime lacks the provider."""
        return cls(path, job["shape"], threads=threads, inside=job["inside"], layers=job["layers"], provider=provider)

    def __init__(
        self,
        path: str,
        shape: Sequence[int],
        *,
        threads: int,
        inside: bool = False,
        layers: int = 0,
        provider: str = "CPUExecutionProvider",
    ):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.layers, self.inside = layers, inside
        if inside:
            options.enable_profiling = True
        if provider not in onnxruntime.get_available_providers():
            have = ", ".join(onnxruntime.get_available_providers())
            raise KitError("--provider", f"got '{provider}', this onnxruntime has {have}")
        self._profiles = tempfile.mkdtemp(prefix="latency_profile_") if inside else None
        if self._profiles:
            options.profile_file_prefix = os.path.join(self._profiles, "profile")
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
        except BaseException:
            self._remove_profiles()
            raise
        image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        self.feed = {self.session.get_inputs()[0].name: image}

    def run(self, passes: int) -> None:
        """Runs forward passes without timing them."""
        for _ in range(passes):
            self.session.run(None, self.feed)

    def times(self, passes: int) -> list[Any]:
        """Returns the milliseconds of each pass, or, the first time if `inside`, of each layer in each pass."""
        if self.inside:
            self.run(passes)
            return self._profile()[-passes:]
        return [_milliseconds(self.session.run, None, self.feed) for _ in range(passes)]

    def output(self, image: np.ndarray) -> np.ndarray:
        """Returns the output of the model for an input."""
        out: np.ndarray = self.session.run(None, {self.session.get_inputs()[0].name: image})[0]
        return out

    def _profile(self) -> list[list[float]]:
        """Ends the profile and returns the milliseconds of each layer in each pass."""
        try:
            with open(self.session.end_profiling(), encoding="utf-8") as file:
                events = json.load(file)
        finally:
            self._remove_profiles()
            self.inside = False
        runs = sorted((e["ts"], e["dur"]) for e in events if e["name"] == "model_run")
        nodes = sorted((e["ts"], e["name"]) for e in events if e["cat"] == "Node" and "kernel_time" in e["name"])
        return [
            layer_times([(at, name) for at, name in nodes if start <= at < start + lasted], start, lasted, self.layers)
            for start, lasted in runs
        ]

    def close(self) -> None:
        """Frees the model."""
        if self.inside:  # it was never timed, so the profile is still open
            self.session.end_profiling()
        self._remove_profiles()
        del self.session

    def _remove_profiles(self) -> None:
        """Deletes the folder of the runtime's profiles, if there is one."""
        if self._profiles:
            shutil.rmtree(self._profiles, ignore_errors=True)
            self._profiles = None


def layer_times(nodes: Sequence[tuple[int, str]], start: int, lasted: int, layers: int) -> list[float]:
    """Returns the milliseconds of each of `layers` layers in one pass.

    nodes: (microsecond, name), in order. start: the time at which the pass begins, in us. lasted: its duration, in us.
    """
    begins: list[Any] = [None] * layers
    for at, name in nodes:
        match = re.match(r"L(\d+)\.", name)
        if match and begins[int(match.group(1))] is None:
            begins[int(match.group(1))] = at
    if None in begins or begins != sorted(begins):
        raise RuntimeError(f"the runtime's profile does not show the layers in order: {begins}")
    begins[0] = start  # what precedes the first layer is a part of the pass
    return [(after - before) / 1e3 for before, after in zip(begins, [*begins[1:], start + lasted])]


class LiteRTModel(Model):
    """A model that LiteRT (TensorFlow Lite) runs on the CPU with XNNPACK. The file may be gzipped.

    The input and the output of an int8 model are codes; `output` takes and returns the numbers that they stand for.
    """

    @staticmethod
    def version() -> str:
        """Returns the version of LiteRT. Raises KitError if it is not installed."""
        module = litert()
        return str(getattr(sys.modules[module.__name__.partition(".")[0]], "__version__", "unknown"))

    @classmethod
    def of_job(cls, path: str, job: dict[str, Any], threads: int, provider: str) -> LiteRTModel:
        """Returns a job's model; LiteRT has no providers."""
        return cls(path, job["shape"], threads=threads)

    def __init__(self, path: str | os.PathLike[str], shape: Sequence[int], *, threads: int):
        name = str(path)
        content = unpacked(name)
        self.interpreter = litert().Interpreter(model_content=content, num_threads=threads)
        self.interpreter.allocate_tensors()
        self._give(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))

    def run(self, passes: int) -> None:
        """Runs forward passes without timing them."""
        for _ in range(passes):
            self.interpreter.invoke()

    def times(self, passes: int) -> list[Any]:
        """Returns the milliseconds of each pass."""
        return [_milliseconds(self.interpreter.invoke) for _ in range(passes)]

    def output(self, image: np.ndarray) -> np.ndarray:
        """Returns the output of the model for an input."""
        self._give(image)
        self.interpreter.invoke()
        details = self.interpreter.get_output_details()[0]
        out: np.ndarray = self.interpreter.get_tensor(details["index"])
        if out.dtype != np.int8:
            return out
        scale, zero = details["quantization"]
        return (out.astype(np.float32) - np.float32(zero)) * np.float32(scale)

    def _give(self, image: np.ndarray) -> None:
        """Sets the input of the next pass."""
        details = self.interpreter.get_input_details()[0]
        if details["dtype"] == np.int8:
            scale, zero = details["quantization"]
            image = np.clip(np.round(image / scale) + zero, -128, 127).astype(np.int8)
        self.interpreter.set_tensor(details["index"], image)

    def close(self) -> None:
        """Frees the model."""
        del self.interpreter


RUNTIMES: dict[str, type[Model]] = {"onnxruntime": OnnxModel, "litert": LiteRTModel}
"""Maps the name of each runtime that reads model files, as in `measure.runtime`, to its models."""


def unpacked(name: str) -> bytes:
    """Returns the content of a model's file, which may be gzipped. Raises KitError if it is too large or damaged."""
    try:
        with (gzip.open if name.endswith(".gz") else open)(name, "rb") as file:
            content = file.read(MOST_MODEL_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise KitError(name, f"cannot be read ({str(error) or 'it is cut off'})", remedy="copy the kit again") from None
    if len(content) > MOST_MODEL_BYTES:
        raise KitError(name, f"has more than {MOST_MODEL_BYTES >> 30} GB when unpacked", remedy="export the kit again")
    return content


def litert() -> Any:
    """Returns the interpreter's module, under the name that it has on this device. Raises KitError if there is none."""
    try:
        from ai_edge_litert import interpreter
    except ImportError:
        try:
            from tflite_runtime import interpreter
        except ImportError:
            raise KitError(
                "", "LiteRT is not installed", remedy="pip install ai-edge-litert (or tflite-runtime)"
            ) from None
    return interpreter


def _milliseconds(call: Callable[..., object], *arguments: object) -> float:
    """Calls a function and returns how long that took."""
    start = time.perf_counter_ns()
    call(*arguments)
    return (time.perf_counter_ns() - start) / 1e6


# ---- the device ----


def cpu_name() -> str:
    """Returns the name of the board or processor, from the kernel."""
    board = "/proc/device-tree/model"
    if os.path.exists(board):
        with open(board, encoding="utf-8", errors="replace") as file:
            return file.read().strip("\0 \n")
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.lower().startswith(("model name", "hardware")):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only; it respects containers and taskset
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def energy_counter(root: str = "/sys/class/powercap") -> Callable[[], float] | None:
    """Returns a function that returns the joules used so far by all processor packages (RAPL); None if they cannot be
    read.

    Zones inside a package (cores, memory) and around it (psys) would count its energy again and are left out.
    The counters wrap around, which the function corrects as long as it is called about once a minute.
    """
    zones = sorted(glob.glob(os.path.join(root, "intel-rapl:*")))
    try:
        packages = [zone for zone in zones if _text(os.path.join(zone, "name")).startswith("package")]
        files = [os.path.join(path, "energy_uj") for path in packages]
        last = [_number(file) for file in files]
        spans = [_number(os.path.join(path, "max_energy_range_uj")) for path in packages]
    except OSError:  # readable by root alone on most systems
        return None
    if not files:
        return None
    total = [0.0]

    def joules() -> float:
        for i, file in enumerate(files):
            now = _number(file)
            total[0] += now - last[i] if now >= last[i] else now - last[i] + spans[i]
            last[i] = now
        return total[0] / 1e6

    return joules


def _number(path: str) -> int:
    """Returns the whole number in a file of the system."""
    return int(_text(path))


def _text(path: str) -> str:
    """Returns the text of a file of the system."""
    with open(path, encoding="ascii") as file:
        return file.read().strip()


# ---- a kit ----


MOST_MANIFEST_BYTES = 64 << 20
MOST_MODEL_BYTES = 2 << 30
"""The largest model, unpacked; unpacking stops there."""
MOST_JOBS = 20_000
MOST_ELEMENTS = 1 << 28
"""The most elements of an input: 1 GB in float32."""
WHOLE_NUMBERS = {"threads": (1, 1024), "passes": (1, 100_000), "warmup": (0, 100_000), "seed": (0, 2**63 - 1)}
"""Maps keys of a manifest to the smallest and the largest accepted value."""


def read_manifest(folder: str) -> tuple[dict[str, Any], str]:
    """Returns the manifest of the kit in `folder`, and its sha256. Raises KitError unless the kit is complete and
    unchanged.

    Nothing in the manifest is trusted: this function checks every value that this program uses, that every named file
    lies in the folder itself, and that every file to be opened has its hash in `files`.
    """
    path = os.path.join(folder, MANIFEST)
    try:
        if not os.path.isfile(path):
            raise KitError(path, "no such file", remedy="run bench.py in the folder that proxyless-nas kit exported")
        with open(path, "rb") as file:
            content = file.read(MOST_MANIFEST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no file name"
        raise KitError(path, f"cannot be read ({reason})", remedy="copy the kit again") from None
    if len(content) > MOST_MANIFEST_BYTES:
        raise KitError(path, f"has more than {MOST_MANIFEST_BYTES >> 20} MB", remedy="export the kit again")
    try:
        manifest = json.loads(
            content.decode("utf-8"), object_pairs_hook=_once, parse_int=_whole, parse_constant=_not_a_number
        )
    except RecursionError:
        raise KitError(path, "has too many brackets inside each other", remedy="export the kit again") from None
    except ValueError as error:
        reason = f" ({error})" if isinstance(error, _RefusedError) else ""
        raise KitError(path, f"is not JSON, perhaps cut off{reason}", remedy="copy the kit again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != MANIFEST_FORMAT:
        raise KitError(path, expected=f"format '{MANIFEST_FORMAT}'", remedy="export the kit again")
    try:
        _check_settings(manifest)
        _check_files(folder, manifest["files"])
        _check_jobs(manifest)
    except _RefusedError as error:
        where = f"{path}: {error.where}" if error.where else path
        raise KitError(where, error.found, error.expected, "export the kit again") from None
    for name, digest in sorted(manifest["files"].items()):
        there = os.path.join(folder, name)
        if not os.path.exists(there):
            raise KitError(there, "is missing", remedy="copy the whole kit again")
        if not os.path.isfile(there):
            raise KitError(there, "is no regular file", remedy="copy the whole kit again")
        try:
            actual = sha256(there)
        except OSError as error:
            raise KitError(there, f"cannot be read ({error.strerror})", remedy="copy the kit again") from None
        if actual != digest:
            raise KitError(there, "is not the exported file (its sha256 differs)", remedy="copy the kit again")
    return manifest, hashlib.sha256(content).hexdigest()


class _RefusedError(ValueError):
    """A fault of a manifest, without the file's name and the remedy. where: the key at fault, if there is one."""

    def __init__(self, where: str, found: str, expected: str = ""):
        super().__init__(where, found, expected)
        self.where, self.found, self.expected = where, found, expected

    def __str__(self) -> str:
        return str(KitError(self.where, self.found, self.expected))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the dictionary of these pairs. Raises _RefusedError if a key occurs twice."""
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise _RefusedError("", f"key {_shown(key)} is given twice")
        values[key] = value
    return values


def _whole(digits: str) -> int:
    """Returns the number. Raises _RefusedError if it has more than 20 digits."""
    if len(digits) > 20:  # the time to convert a longer number grows with its square
        raise _RefusedError("", f"a number has {len(digits)} digits")
    return int(digits)


def _not_a_number(word: str) -> float:
    """Raises _RefusedError, for NaN and Infinity."""
    raise _RefusedError("", f"{word} is no number")


def _shown(value: Any) -> str:
    """Returns a value of a manifest as a short text in one line."""
    if isinstance(value, (dict, list)):
        return f"a {'section' if isinstance(value, dict) else 'list'} of {len(value)}"
    text = ascii(value[:80]) if isinstance(value, str) else ascii(value)
    return text if len(text) <= 100 else text[:100] + "..."


def _is_whole(value: Any, least: int, most: int) -> bool:
    """Returns whether a value is a whole number from `least` to `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _check_settings(manifest: dict[str, Any]) -> None:
    """Raises _RefusedError unless the runtime and all numbers of the settings are accepted."""
    for key in ("files", "jobs", "schedule", "runtime", *WHOLE_NUMBERS):
        if key not in manifest:
            raise _RefusedError("", f"lacks '{key}'")
    if manifest["runtime"] not in list(RUNTIMES):  # it may be unhashable
        raise _RefusedError("runtime", f"got {_shown(manifest['runtime'])}", " or ".join(RUNTIMES))
    for key, (least, most) in WHOLE_NUMBERS.items():
        if not _is_whole(manifest[key], least, most):
            raise _RefusedError(key, f"got {_shown(manifest[key])}", f"a whole number from {least} to {most}")


def _check_files(folder: str, files: Any) -> None:
    """Checks that every name is that of a file below `folder`, reached without links, and has a sha256."""
    if not isinstance(files, dict) or len(files) > MOST_JOBS:
        raise _RefusedError("files", f"got {_shown(files)}", f"at most {MOST_JOBS} names with their sha256")
    root = os.path.realpath(folder)
    for name, digest in files.items():
        parts = name.split("/")
        inside = all(part and part not in (".", "..") for part in parts) and name.isprintable() and len(name) <= 1000
        if not inside or "\\" in name or ":" in name:  # these lead out of the folder on Windows
            raise _RefusedError("files", f"{_shown(name)} is no name of a file in the kit's folder")
        if os.path.realpath(os.path.join(root, name)) != os.path.join(root, *parts):
            raise _RefusedError("files", f"{_shown(name)} is a link, or lies behind one; a kit has no links")
        if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
            raise _RefusedError(f"files.{name[:80]}", f"got {_shown(digest)}", "a sha256 in hexadecimal")


def _check_jobs(manifest: dict[str, Any]) -> None:
    """Raises _RefusedError unless every job and the schedule can be run."""
    jobs, schedule = manifest["jobs"], manifest["schedule"]
    if not isinstance(jobs, list) or len(jobs) > MOST_JOBS:
        raise _RefusedError("jobs", f"got {_shown(jobs)}", f"a list of at most {MOST_JOBS}")
    names = set()
    for i, job in enumerate(jobs):
        if not isinstance(job, dict):
            raise _RefusedError(f"jobs.{i}", f"got {_shown(job)}", "a section")
        for key in ("id", "file", "shape", "inside", "layers"):
            if key not in job:
                raise _RefusedError(f"jobs.{i}", f"lacks '{key}'")
        name, shape = job["id"], job["shape"]
        if not isinstance(name, str) or not re.fullmatch("[A-Za-z0-9_-]{1,100}", name) or name in names:
            raise _RefusedError(f"jobs.{i}.id", f"got {_shown(name)}", "a name of its own, of letters and digits")
        names.add(name)
        if not isinstance(job["file"], str) or job["file"] not in manifest["files"]:
            raise _RefusedError(f"jobs.{i}.file", f"got {_shown(job['file'])}", "one of `files`, where its sha256 is")
        sizes = shape if isinstance(shape, list) else []
        elements = 1
        for size in sizes if len(sizes) <= 8 else []:
            elements = elements * size if _is_whole(size, 1, MOST_ELEMENTS) else MOST_ELEMENTS + 1
        if not 1 <= len(sizes) <= 8 or not 1 <= elements <= MOST_ELEMENTS:
            raise _RefusedError(
                f"jobs.{i}.shape",
                f"got {str(sizes)[:60] or _shown(shape)}",
                f"sizes with at most {MOST_ELEMENTS} elements",
            )
        if not isinstance(job["inside"], bool) or (job["inside"] and not RUNTIMES[manifest["runtime"]].times_layers):
            raise _RefusedError(f"jobs.{i}.inside", f"got {_shown(job['inside'])}", "true (with onnxruntime) or false")
        if not _is_whole(job["layers"], 1, 10_000):
            raise _RefusedError(f"jobs.{i}.layers", f"got {_shown(job['layers'])}", "a whole number from 1 to 10000")
    if not isinstance(schedule, list) or len(schedule) > 10_000:
        raise _RefusedError("schedule", f"got {_shown(schedule)}", "a list of at most 10000 rounds")
    for i, round_ in enumerate(schedule):
        if not isinstance(round_, list) or len(round_) > len(names):
            raise _RefusedError(f"schedule.{i}", f"got {_shown(round_)}", "a list of jobs, each once")
        seen = set()
        for name in round_:
            if not isinstance(name, str) or name not in names or name in seen:
                raise _RefusedError(f"schedule.{i}", f"got {_shown(name)}", "ids of jobs, each once")
            seen.add(name)


def sha256(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def open_model(folder: str, job: dict[str, Any], runtime: str, threads: int, provider: str) -> Model:
    """Returns a job of a manifest, ready to run. Raises KitError if the runtime cannot load its model."""
    path = os.path.join(folder, job["file"])
    try:
        return RUNTIMES[runtime].of_job(path, job, threads, provider)
    except KitError:
        raise
    except Exception as error:  # runtimes raise types of their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise KitError(path, f"{runtime} cannot load it: {reason}", remedy=f"try a newer {runtime}") from error


def runtime_version(runtime: str) -> str:
    """Returns the version of the installed runtime. Raises KitError if it is not installed."""
    return RUNTIMES[runtime].version()


def run_kit(
    folder: str, provider: str = "CPUExecutionProvider", progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Times everything in a kit and returns the content of results.json. Raises KitError.

    progress: called with (done, total), in timings.
    """
    manifest, digest = read_manifest(folder)
    runtime, version = manifest["runtime"], runtime_version(manifest["runtime"])
    jobs = {job["id"]: job for job in manifest["jobs"]}
    if provider != "CPUExecutionProvider" and any(job["inside"] for job in jobs.values()):
        raise KitError(
            f"--provider {provider}",
            "only the CPU's profile tells how long a layer takes",
            remedy="export the kit with --isolated",
        )

    def open_job(name: str) -> Model:
        return open_model(folder, jobs[name], runtime, manifest["threads"], provider)

    samples, energy = timed_rounds(
        manifest["schedule"],
        open_job,
        passes=manifest["passes"],
        warmup=manifest["warmup"],
        seed=manifest["seed"],
        joules=energy_counter(),
        progress=progress,
    )
    return {
        "format": RESULTS_FORMAT,
        "manifest_sha256": digest,
        "device": {"name": cpu_name(), "cores": usable_cores(), "machine": platform.machine()},
        "runtime": {"name": runtime, "version": version},
        "provider": provider,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "samples_ms": samples,
        "energy_mj": energy,
    }


def check_writable(path: str) -> None:
    """Raises KitError if results cannot be written to `path`. Call it before the minutes of measuring."""
    if os.path.isdir(path):
        raise KitError(f"--out {path}", "is a folder", f"a file, e.g. {os.path.join(path, 'results.json')}")
    try:
        descriptor, temporary = _new_file(path)
        os.close(descriptor)
        os.remove(temporary)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no file name"
        raise KitError(f"--out {path}", f"cannot be written ({reason})", remedy="choose another place") from None


def write_results(path: str, results: dict[str, Any]) -> None:
    """Writes results.json atomically. Raises KitError if it cannot be written."""
    text = json.dumps(results, allow_nan=False)
    temporary = None
    try:
        descriptor, temporary = _new_file(path)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise KitError(
            f"--out {path}", f"cannot be written ({error.strerror})", remedy="make room or choose another place"
        ) from None
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.remove(temporary)


def _new_file(path: str) -> tuple[int, str]:
    """Creates a file beside `path` and returns its descriptor and name. Nobody can predict the name; the permissions
    are those that the umask gives."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name[:200]}.{secrets.token_hex(8)}.tmp")
    return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), temporary


def _print_progress(done: int, total: int) -> None:
    """Prints how many timings are done: a counter on a terminal, a line for each tenth elsewhere."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{done} of {total} timings" + ("\n" if done == total else ""))
    elif done * 10 // total > (done - 1) * 10 // total:
        sys.stderr.write(f"{done} of {total} timings\n")
    sys.stderr.flush()


def main() -> int:
    """Runs the command line and returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = os.path.dirname(os.path.abspath(__file__))
    parser.add_argument("--kit", default=here, help="folder of the kit; default: where this file is")
    parser.add_argument("--out", default=None, help="default: results.json in the kit's folder")
    parser.add_argument(
        "--provider", default="CPUExecutionProvider", help="the execution provider of ONNX Runtime that runs the models"
    )
    args = parser.parse_args()
    try:
        out = args.out or os.path.join(args.kit, "results.json")
        check_writable(out)
        write_results(out, run_kit(args.kit, args.provider, _print_progress))
    except KitError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    print(f"{out}: copy it back and run proxyless-nas kit import")
    return 0


if __name__ == "__main__":
    sys.exit(main())
