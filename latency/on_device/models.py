"""Runs models in files, with ONNX Runtime or with LiteRT."""

from __future__ import annotations

import abc
import gzip
import json
import os
import re
import shutil
import sys
import tempfile
import time
import zlib
from typing import Any, Callable, Sequence

import numpy as np

from .errors import KitError

MOST_MODEL_BYTES = 2 << 30
"""The largest model, unpacked; unpacking stops there."""


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


def onnx_options(threads: int, exact: bool = True) -> Any:
    """Returns ONNX Runtime's session options for so many threads, with which int8 networks are computed exactly.

    On x86 CPUs that have AVX2 or AVX-512 but not VNNI, ONNX Runtime by default adds two products of a uint8 and an int8
    in 16 bits, which cuts sums beyond 32767. `session.x64quantprecision` makes it choose slower products that fit.
    It changes nothing on other CPUs and in float32. exact: whether it is set; weights of 7 bits do not need it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", "1" if exact else "0")
    return options


def _needs_exact(session: Any) -> bool:
    """Returns whether a model may have int8 weights of 8 bits. One that has not says so in its metadata."""
    text = session.get_modelmeta().custom_metadata_map.get("quantisation", "null")
    try:
        about = json.loads(text)
    except ValueError:  # another program's file
        return True
    bits = about.get("weight_bits") if isinstance(about, dict) else None
    return not isinstance(bits, int) or bits >= 8


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

        self.layers, self.inside = layers, inside
        if provider not in onnxruntime.get_available_providers():
            have = ", ".join(onnxruntime.get_available_providers())
            raise KitError("--provider", f"got '{provider}', this onnxruntime has {have}")
        self._profiles = tempfile.mkdtemp(prefix="latency_profile_") if inside else None

        def session(exact: bool) -> Any:
            options = onnx_options(threads, exact)
            if self._profiles:
                options.enable_profiling = True
                options.profile_file_prefix = os.path.join(self._profiles, f"exact{exact:d}")  # one name a session
            return onnxruntime.InferenceSession(str(path), options, providers=[provider])

        try:
            self.session = session(True)
            if not _needs_exact(self.session):  # it is faster without
                self.session = session(False)
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
