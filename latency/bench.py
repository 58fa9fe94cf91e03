"""Times networks and ops in rounds. A device kit holds a copy of this file, which needs nothing else of ours:

    python bench.py            # in the kit's folder, on the device: times everything, writes results.json

It needs Python 3.8 or newer, numpy, and the kit's runtime: onnxruntime, or LiteRT (ai-edge-litert or tflite-runtime).
On the machine that makes tables, the same functions time every runtime, so that a table means the same wherever it was
made.
"""

from __future__ import annotations

import argparse
import gc
import glob
import gzip
import hashlib
import json
import os
import platform
import re
import sys
import tempfile
import time
from typing import Any, Callable, Sequence

try:
    import numpy as np
except ImportError:  # the likeliest mistake on a fresh board
    sys.exit("error: numpy is not installed; pip install numpy")

MANIFEST = "manifest.json"
MANIFEST_FORMAT = "proxylessnas/device-kit@1"
RESULTS_FORMAT = "proxylessnas/device-results@1"


class KitError(Exception):
    """Something about the kit or the device that its user can mend, in one line."""


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
    """Time the jobs of each round in random order: a drift of the machine hits all alike.

    schedule: a list of rounds, each a list of job ids. open_job(id) -> an object with run(n): n forward passes;
    times(n): milliseconds of n passes, a number or a list of one per layer for each; close(). The `warmup` passes
    after opening are thrown away. joules(): a counter of energy used so far, None where there is none. progress(done,
    total): told after each job. Returns (samples, energy): {id: [round][pass] or [round][pass][layer]} in ms, {id:
    [round]} in mJ a pass.
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


class OnnxModel:
    """A model of ONNX Runtime. inside: time each layer, by the runtime's own profile.

    The first node of each layer is found by its name, `L<position>....`; a layer lasts until the next one begins, so
    that what the runtime does between nodes is counted, and the layers of a pass add up to the pass.
    """

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
            options.profile_file_prefix = os.path.join(tempfile.gettempdir(), f"latency_profile_{os.getpid()}")
        if provider not in onnxruntime.get_available_providers():
            have = ", ".join(onnxruntime.get_available_providers())
            raise KitError(f"--provider: got '{provider}', this onnxruntime has {have}")
        self.session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
        image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        self.feed = {self.session.get_inputs()[0].name: image}

    def run(self, passes: int) -> None:
        for _ in range(passes):
            self.session.run(None, self.feed)

    def times(self, passes: int) -> list[Any]:
        if self.inside:
            self.run(passes)
            return self._profile()[-passes:]
        return [_milliseconds(self.session.run, None, self.feed) for _ in range(passes)]

    def _profile(self) -> list[list[float]]:
        path = self.session.end_profiling()
        try:
            with open(path, encoding="utf-8") as file:
                events = json.load(file)
        finally:
            os.remove(path)
            self.inside = False
        runs = sorted((e["ts"], e["dur"]) for e in events if e["name"] == "model_run")
        nodes = sorted((e["ts"], e["name"]) for e in events if e["cat"] == "Node" and "kernel_time" in e["name"])
        return [
            layer_times([(at, name) for at, name in nodes if start <= at < start + lasted], start, lasted, self.layers)
            for start, lasted in runs
        ]

    def close(self) -> None:
        if self.inside:  # never timed: the profile is still open
            os.remove(self.session.end_profiling())
        del self.session


def layer_times(nodes: Sequence[tuple[int, str]], start: int, lasted: int, layers: int) -> list[float]:
    """Milliseconds of each of `layers` layers in one pass. nodes: (microsecond, name), in order. start, lasted: in
    us."""
    begins: list[Any] = [None] * layers
    for at, name in nodes:
        found = re.match(r"L(\d+)\.", name)
        if found and begins[int(found.group(1))] is None:
            begins[int(found.group(1))] = at
    if None in begins or begins != sorted(begins):
        raise RuntimeError(f"the runtime's profile does not show the layers in order: {begins}")
    begins[0] = start  # what precedes the first layer is a part of the pass
    return [(after - before) / 1e3 for before, after in zip(begins, [*begins[1:], start + lasted])]


class LiteRTModel:
    """A model of LiteRT (TensorFlow Lite), on the CPU by XNNPACK. The file may be gzipped."""

    def __init__(self, path: str | os.PathLike[str], shape: Sequence[int], *, threads: int):
        name = str(path)
        with (gzip.open if name.endswith(".gz") else open)(name, "rb") as file:
            content = file.read()
        self.interpreter = litert().Interpreter(model_content=content, num_threads=threads)
        self.interpreter.allocate_tensors()
        image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        self.interpreter.set_tensor(self.interpreter.get_input_details()[0]["index"], image)

    def run(self, passes: int) -> None:
        for _ in range(passes):
            self.interpreter.invoke()

    def times(self, passes: int) -> list[Any]:
        return [_milliseconds(self.interpreter.invoke) for _ in range(passes)]

    def output(self, image: np.ndarray) -> np.ndarray:
        """What the model computes."""
        self.interpreter.set_tensor(self.interpreter.get_input_details()[0]["index"], image)
        self.interpreter.invoke()
        return self.interpreter.get_tensor(self.interpreter.get_output_details()[0]["index"])

    def close(self) -> None:
        del self.interpreter


def litert() -> Any:
    """The interpreter's module, under the name that the device has it."""
    try:
        from ai_edge_litert import interpreter
    except ImportError:
        try:
            from tflite_runtime import interpreter
        except ImportError:
            raise KitError("LiteRT is not installed; pip install ai-edge-litert (or tflite-runtime)") from None
    return interpreter


def _milliseconds(call: Callable[..., object], *arguments: object) -> float:
    start = time.perf_counter_ns()
    call(*arguments)
    return (time.perf_counter_ns() - start) / 1e6


# ---- the device ----


def cpu_name() -> str:
    """The board's or processor's name, as the kernel tells it."""
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
    """CPU cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only; it respects containers and taskset
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def energy_counter(root: str = "/sys/class/powercap") -> Callable[[], float] | None:
    """A function that returns the joules used so far by all processor packages (RAPL), or None where they cannot be
    read.

    Zones inside a package (cores, memory) and around it (psys) would count its energy again and are left out.
    The counters wrap around; the function adds the wraps up, as long as it is called often enough (about once a
    minute).
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
    return int(_text(path))


def _text(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()


# ---- a kit ----


def read_manifest(folder: str) -> tuple[dict[str, Any], str]:
    """The manifest of the kit in `folder`, and its sha256. KitError unless the kit is complete and unchanged."""
    path = os.path.join(folder, MANIFEST)
    try:
        with open(path, "rb") as file:
            content = file.read()
        manifest = json.loads(content.decode("utf-8"))
    except OSError:
        raise KitError(f"{path}: no such file; run bench.py in the folder that device_kit.py exported") from None
    except ValueError:
        raise KitError(f"{path}: is not JSON, perhaps cut off; copy the kit again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != MANIFEST_FORMAT:
        raise KitError(f"{path}: expected format '{MANIFEST_FORMAT}'; export the kit again")
    for key in ("files", "jobs", "schedule", "runtime", "threads", "passes", "warmup", "seed"):
        if key not in manifest:
            raise KitError(f"{path}: lacks '{key}'; export the kit again")
    for name, digest in sorted(manifest["files"].items()):
        there = os.path.join(folder, name)
        if not os.path.exists(there):
            raise KitError(f"{there}: is missing; copy the whole kit again")
        if sha256(there) != digest:
            raise KitError(f"{there}: is not the exported file (its sha256 differs); copy the kit again")
    return manifest, hashlib.sha256(content).hexdigest()


def sha256(path: str | os.PathLike[str]) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def open_model(folder: str, job: dict[str, Any], runtime: str, threads: int, provider: str) -> OnnxModel | LiteRTModel:
    """A job of a manifest, ready to run."""
    path = os.path.join(folder, job["file"])
    try:
        if runtime == "litert":
            return LiteRTModel(path, job["shape"], threads=threads)
        return OnnxModel(
            path, job["shape"], threads=threads, inside=job["inside"], layers=job["layers"], provider=provider
        )
    except KitError:
        raise
    except Exception as error:  # noqa: BLE001: runtimes raise types of their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise KitError(f"{path}: {runtime} cannot load it: {reason}; try a newer {runtime}") from error


def runtime_version(runtime: str) -> str:
    """The version of the installed runtime. KitError where it is not installed."""
    if runtime == "litert":
        module = litert()
        return getattr(sys.modules[module.__name__.partition(".")[0]], "__version__", "unknown")
    try:
        import onnxruntime
    except ImportError:
        raise KitError("onnxruntime is not installed; pip install onnxruntime") from None
    return onnxruntime.__version__


def run_kit(
    folder: str, provider: str = "CPUExecutionProvider", progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Time everything in a kit. Returns what results.json holds."""
    manifest, digest = read_manifest(folder)
    runtime, version = manifest["runtime"], runtime_version(manifest["runtime"])
    jobs = {job["id"]: job for job in manifest["jobs"]}
    if provider != "CPUExecutionProvider" and any(job["inside"] for job in jobs.values()):
        raise KitError(
            f"--provider {provider}: only the CPU's profile tells how long a layer takes; export the kit with "
            "--isolated"
        )

    def open_job(name: str) -> OnnxModel | LiteRTModel:
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
    """KitError where results could not be written, before minutes of measuring."""
    try:
        if os.path.isdir(path):
            raise KitError(f"--out {path}: is a folder; expected a file, e.g. {os.path.join(path, 'results.json')}")
        with open(path + ".part", "w", encoding="utf-8"):
            pass
        os.remove(path + ".part")
    except OSError as error:
        raise KitError(f"--out {path}: cannot be written ({error.strerror}); choose another place") from None


def write_results(path: str, results: dict[str, Any]) -> None:
    """Atomically: a file that is there is complete."""
    with open(path + ".part", "w", encoding="utf-8") as file:
        json.dump(results, file)
    os.replace(path + ".part", path)


def _tell(done: int, total: int) -> None:
    """A counter on a terminal, a line for each tenth elsewhere."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{done} of {total} timings" + ("\n" if done == total else ""))
    elif done * 10 // total > (done - 1) * 10 // total:
        sys.stderr.write(f"{done} of {total} timings\n")
    sys.stderr.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = os.path.dirname(os.path.abspath(__file__))
    parser.add_argument("--kit", default=here, help="folder of the kit; default: where this file is")
    parser.add_argument("--out", default=None, help="default: results.json in the kit's folder")
    parser.add_argument("--provider", default="CPUExecutionProvider", help="of ONNX Runtime")
    args = parser.parse_args()
    try:
        out = args.out or os.path.join(args.kit, "results.json")
        check_writable(out)
        write_results(out, run_kit(args.kit, args.provider, _tell))
    except KitError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    print(f"{out}: copy it back and run scripts/device_kit.py import")
    return 0


if __name__ == "__main__":
    sys.exit(main())
