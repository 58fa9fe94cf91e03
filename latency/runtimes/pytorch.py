"""Times networks with PyTorch, eager or compiled, on the CPU or the GPU that this process uses."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from engine.device import keep_freed_memory
from engine.errors import UserError
from latency.config import MeasureConfig
from latency.plan import TimingJob
from latency.runtimes.base import Runtime, random_images, timing_module
from supernet.blocks import isolated_rng
from supernet.compiled import reason_of
from supernet.space import Layer, Space


class PyTorch(Runtime):
    """Runs PyTorch eagerly: a network is the chain of its layers' modules.

    On the CPU, memory that an op frees is kept for the next one, as a server's allocator (jemalloc, tcmalloc) does:
    with glibc's defaults the same op takes up to three times as long when the pages of its output have to be asked for
    anew, and whether they have depends on the ops before it.
    """

    sees_inside = True

    def __init__(self, space: Space | None, measure: MeasureConfig):
        super().__init__(space, measure)
        self.version = torch.__version__
        self.device = torch.device(measure.device)
        self.how = f"PyTorch eager, {self._manner}; eval mode, inference mode"
        self._modules: dict[tuple[int, Layer], nn.Module] = {}
        self._images: dict[tuple[int, int], Tensor] = {}

    @property
    def _manner(self) -> str:
        """Returns what the times leave out or assume, in words for the table's reader."""
        if self.device.type == "cuda":
            return "GPU time of queued kernels without the gaps of launching, as a CUDA graph runs them"
        return "freed memory kept"

    @classmethod
    def installed(cls, name: str) -> str | None:
        return torch.__version__

    def __enter__(self) -> Self:
        self._undo.enter_context(intra_op_threads(self._measure.threads))
        self._undo.enter_context(torch.inference_mode())
        keep_freed_memory()
        return self

    def prepare(self, jobs: Sequence[TimingJob], progress: Callable[[int, int], None] | None = None) -> None:
        assert self._space is not None
        settings = self._space.op_settings(running_stats=True)
        with isolated_rng(0):
            for done, job in enumerate(jobs):
                for key in _places(job):
                    if key not in self._modules:
                        self._modules[key] = self._ready(timing_module(key[1], settings))
                first = job.layers[0]
                if (first.c_in, first.size) not in self._images:
                    images = random_images(first, self._measure.batch)
                    self._images[first.c_in, first.size] = self._moved(images)
                if progress:
                    progress(done + 1, len(jobs))

    def open(self, job: TimingJob) -> _Chain:
        first = job.layers[0]
        modules = [self._modules[key] for key in _places(job)]
        return self._chain(modules, self._images[first.c_in, first.size], job.inside)

    def load(self, name: str, network: nn.Module, images: Tensor) -> Callable[[], _Chain]:
        chain = self._chain([self._ready(network)], self._moved(images))
        return lambda: chain

    def _chain(self, modules: Sequence[nn.Module], images: Tensor, inside: bool = False) -> _Chain:
        kind = _CudaChain if self.device.type == "cuda" else _Chain
        return kind(modules, images, inside)

    def _ready(self, module: nn.Module) -> nn.Module:
        """Returns a layer's module as it will run."""
        measure = self._measure
        moved: nn.Module = module.to(device=self.device, dtype=measure.torch_dtype, memory_format=measure.memory_format)  # type: ignore[call-overload]
        return moved

    def _moved(self, images: Tensor) -> Tensor:
        """Returns images on the device, in the precision and the memory format of the table."""
        measure = self._measure
        return images.to(device=self.device, dtype=measure.torch_dtype, memory_format=measure.memory_format)


class PyTorchCompile(PyTorch):
    """Runs layers that torch.compile has compiled: a network is the chain of these ("regional compilation").

    Compiling sixty whole networks would take hours, and convolutional layers have little to fuse across their borders.
    """

    def __init__(self, space: Space | None, measure: MeasureConfig):
        super().__init__(space, measure)
        self.how = f"torch.compile of each layer, {self._manner}; eval mode, inference mode"

    def __enter__(self) -> Self:
        # one program per layer shape; dynamo's default gives up after eight
        unlimited = torch._dynamo.config.patch(recompile_limit=10_000, accumulated_recompile_limit=10_000)
        self._undo.enter_context(unlimited)
        return super().__enter__()

    def prepare(self, jobs: Sequence[TimingJob], progress: Callable[[int, int], None] | None = None) -> None:
        super().prepare(jobs)
        for done, job in enumerate(jobs):
            self._compile(self.open(job))
            if progress:
                progress(done + 1, len(jobs))

    def load(self, name: str, network: nn.Module, images: Tensor) -> Callable[[], _Chain]:
        """Compiles the whole network at once, as its user would, since any module may be given."""
        opened = super().load(name, network, images)
        self._compile(opened())
        return opened

    def _compile(self, chain: _Chain) -> None:
        """Runs a chain once, by which its layers are compiled. Raises UserError if that fails."""
        try:
            chain.run(1)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            raise UserError(
                "measure.runtime",
                f"pytorch_compile failed ({reason_of(error)})",
                remedy="on a CPU it needs a C++ compiler (g++), or set measure.runtime=pytorch",
            ) from None

    def _ready(self, module: nn.Module) -> nn.Module:
        return torch.compile(super()._ready(module), dynamic=False)  # type: ignore[return-value]


def _places(job: TimingJob) -> Iterator[tuple[int, Layer]]:
    """Yields (how often this layer occurred before, layer) for each layer of a job, since layers of equal shape at
    different depths have weights of their own."""
    seen: Counter[Layer] = Counter()
    for layer in job.layers:
        yield seen[layer], layer
        seen[layer] += 1


class _Chain:
    """A chain of layers on the CPU, ready to run."""

    def __init__(self, modules: Sequence[nn.Module], images: Tensor, inside: bool):
        self.modules, self.images, self.inside = modules, images, inside

    def run(self, passes: int) -> None:
        for _ in range(passes):
            x = self.images
            for module in self.modules:
                x = module(x)

    def times(self, passes: int) -> list[Any]:
        return [self._layers() if self.inside else self._whole() for _ in range(passes)]

    def _whole(self) -> float:
        """Returns the milliseconds of one pass."""
        start = time.perf_counter_ns()
        self.run(1)
        return (time.perf_counter_ns() - start) / 1e6

    def _layers(self) -> list[float]:
        """Returns the milliseconds of each layer in one pass."""
        x, stamps = self.images, [time.perf_counter_ns()]
        for module in self.modules:
            x = module(x)
            stamps.append(time.perf_counter_ns())
        return [(b - a) / 1e6 for a, b in pairwise(stamps)]

    def close(self) -> None:
        pass


FIRST_WAIT, LONGEST_WAIT = 1 << 23, 1 << 32
"""Cycles that a GPU waits while its work is queued: first about 5 ms, at most about 2 s."""


class _CudaChain(_Chain):
    """Times the layers of a network on a GPU, where a call returns before its work is done.

    At batch 1 a small kernel runs for less time than it takes to launch the next one, so that the GPU idles between
    kernels, and events around a layer measure the launching. So the GPU is first given a kernel that only waits, and
    the network is queued behind it: once the wait ends the kernels run one after the other, as in a CUDA graph. The
    event behind the wait shows whether the wait was long enough: the GPU must not have reached it when everything is
    queued.
    """

    def __init__(self, modules: Sequence[nn.Module], images: Tensor, inside: bool):
        super().__init__(modules, images, inside)
        self._wait = FIRST_WAIT

    def run(self, passes: int) -> None:
        super().run(passes)
        torch.cuda.synchronize()

    def _whole(self) -> float:
        return self._queued(each=False)[0]

    def _layers(self) -> list[float]:
        return self._queued(each=True)

    def _queued(self, *, each: bool) -> list[float]:
        """Returns the GPU milliseconds of each layer, or of all together in one number. Raises UserError if the CPU is
        too slow."""
        while self._wait <= LONGEST_WAIT:
            events = [torch.cuda.Event(enable_timing=True) for _ in range(len(self.modules) + 1 if each else 2)]
            torch.cuda.synchronize()
            torch.cuda._sleep(self._wait)
            events[0].record()
            x = self.images
            for i, module in enumerate(self.modules):
                x = module(x)
                if each:
                    events[i + 1].record()
            if not each:
                events[1].record()
            in_time = not events[0].query()
            torch.cuda.synchronize()
            if in_time:
                return [a.elapsed_time(b) for a, b in pairwise(events)]
            self._wait *= 2
        raise UserError(
            "measure.device",
            "a network cannot be queued on the GPU while that waits, so launching it would count as its time",
            remedy=(
                "an op waits for the GPU itself (.item(), .cpu(), a shape that depends on values): take it "
                "out of the candidates, or measure on the CPU"
            ),
        )


@contextmanager
def intra_op_threads(threads: int) -> Iterator[None]:
    """Sets torch's thread count in the block, and restores it after."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
