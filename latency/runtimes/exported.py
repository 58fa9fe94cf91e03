"""Runs networks in runtimes that read model files: ONNX Runtime and LiteRT. The files are those of a device kit."""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

from torch import Tensor, nn

from engine.errors import ConfigError, UserError
from engine.files import writing
from latency.config import MeasureConfig
from latency.on_device.errors import KitError
from latency.on_device.models import RUNTIMES, open_model, runtime_version
from latency.plan import TimingJob
from latency.runtimes.base import Opened, Runtime
from supernet.blocks import isolated_rng
from supernet.space import Space

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class FileRuntime:
    """How model files are written for a runtime. latency/on_device/models.py runs them, by its own table RUNTIMES."""

    title: str
    """The name of the runtime for a table's reader."""
    extra: str
    """The extra of this package that installs `modules`."""
    modules: tuple[str, ...]
    """The modules that exporting and running need."""
    device_package: str
    """The package that runs the models on another device, as pip installs it."""
    writer: str
    """module:class of the ModelWriter. It is imported when it is needed, since it imports `modules`."""
    network_writer: str
    """module:function, a NetworkWriter."""
    how: str = ""
    """A note for a table's reader about how the models are run; empty if there is nothing to note."""


FILE_RUNTIMES = {
    "onnxruntime": FileRuntime(
        "ONNX Runtime", "onnx", ("onnx", "onnxscript", "onnxruntime"), "onnxruntime",
        "latency.runtimes.onnx_models:OnnxWriter", "latency.runtimes.onnx_models:write_network",
        "CPU provider, layers told apart by its own profile",
    ),
    "litert": FileRuntime(
        "LiteRT with XNNPACK", "litert", ("litert_torch",), "ai-edge-litert",
        "latency.runtimes.litert_models:LiteRTWriter", "latency.runtimes.litert_models:write_network",
    ),
}  # fmt: skip
"""Maps the name of each runtime that reads model files, as in `measure.runtime`, to how its files are written. The
names are those of `latency.on_device.models.RUNTIMES`."""


class ModelWriter(Protocol):
    """Writes jobs as model files."""

    def __init__(self, space: Space, measure: MeasureConfig, jobs: Sequence[TimingJob], folder: Path) -> None:
        """jobs: all jobs that will be written, into `folder`. measure: has the images of a forward pass (`batch`) and
        the precision; see TimingJob.dtype."""

    def input_shape(self, job: TimingJob) -> list[int]:
        """Returns the shape of a job's input."""

    def write(self, job: TimingJob) -> str:
        """Writes a job's model and returns the file's name. Raises UserError if an op cannot be exported, or not be
        quantised."""

    def finish(self) -> None:
        """Writes what all models share, if anything."""


class NetworkWriter(Protocol):
    """Writes a whole network, given as a module, as a model file."""

    def __call__(
        self, name: str, network: nn.Module, images: Tensor, folder: Path, dtype: str
    ) -> tuple[str, list[int]]:
        """Writes `name` into the folder. Returns the file's name and the shape of its input; images (N, C, H, W) is the
        network's. dtype: float32 or int8. Raises UserError if an op cannot be exported or quantised, or computes
        something else in the runtime."""


def write_models(
    space: Space, measure: MeasureConfig, jobs: Sequence[TimingJob], folder: Path, progress: Progress | None = None
) -> list[dict[str, object]]:
    """Writes every job's model into `folder`, and returns the jobs as a kit's manifest has them.

    Jobs with equal layers, in the same precision, share a file. progress: called with (done, total), in jobs. Raises
    ConfigError if the extra is not installed, and UserError if an op cannot be exported.
    """
    check_installed(measure.runtime)
    writer_class: type[ModelWriter] = _imported(FILE_RUNTIMES[measure.runtime].writer)
    with isolated_rng(0):
        writer = writer_class(space, measure, jobs, folder)
        records, files = [], {}
        for done, job in enumerate(jobs):
            kind = (job.layers, job.dtype(measure))
            if kind not in files:
                files[kind] = writer.write(job)
            records.append(
                {
                    "id": job.id,
                    "file": files[kind],
                    "shape": writer.input_shape(job),
                    "inside": job.inside,
                    "layers": len(job.layers),
                }
            )
            if progress:
                progress(done + 1, len(jobs))
        writer.finish()
    return records


def check_installed(runtime: str) -> None:
    """Raises ConfigError, which names the extra, unless all that exporting to a runtime needs is installed."""
    needs = FILE_RUNTIMES[runtime]
    if missing := [module for module in needs.modules if importlib.util.find_spec(module) is None]:
        raise ConfigError(
            "measure.runtime",
            f"{runtime} needs the Python package {missing[0]}, which is not installed",
            remedy=f'pip install "proxylessnas[{needs.extra}]"',
        )


def _imported(place: str) -> Any:
    """Returns what `module:name` names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


class Exported(Runtime):
    """Writes models to a temporary folder and runs them with the functions of a device kit."""

    def __init__(self, space: Space | None, measure: MeasureConfig):
        super().__init__(space, measure)
        runtime = FILE_RUNTIMES[measure.runtime]
        self.sees_inside = RUNTIMES[measure.runtime].times_layers
        self.how = ", ".join(filter(None, [runtime.title, runtime.how]))
        self._jobs: dict[str, dict[str, Any]] = {}
        self._folder = ""

    @classmethod
    def installed(cls, name: str) -> str | None:
        try:
            return runtime_version(name)
        except KitError:
            return None

    def __enter__(self) -> Self:
        with writing(tempfile.gettempdir()):
            self._folder = self._undo.enter_context(tempfile.TemporaryDirectory(prefix="latency_models_"))
        return self

    def prepare(self, jobs: Sequence[TimingJob], progress: Progress | None = None) -> None:
        assert self._space is not None
        with writing(self._folder):
            records = write_models(self._space, self._measure, jobs, Path(self._folder), progress)
        self._jobs = {str(record["id"]): record for record in records}
        self.version = runtime_version(self.name)

    def open(self, job: TimingJob) -> Opened:
        return self._opened(self._jobs[job.id])

    def load(self, name: str, network: nn.Module, images: Tensor) -> Callable[[], Opened]:
        check_installed(self.name)
        write: NetworkWriter = _imported(FILE_RUNTIMES[self.name].network_writer)
        with writing(self._folder):
            file, shape = write(name, network, images, Path(self._folder), self._measure.dtype)
        self.version = runtime_version(self.name)
        return partial(self._opened, {"file": file, "shape": shape, "inside": False, "layers": 1})

    def _opened(self, record: dict[str, Any]) -> Opened:
        """Returns the model of a record of a manifest, ready to run."""
        try:
            return open_model(self._folder, record, self.name, self._measure.threads, "CPUExecutionProvider")
        except KitError as error:
            raise UserError.of(error) from error
