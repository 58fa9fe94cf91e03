"""Timing ops in context, and whole networks, with PyTorch on this machine.

An op timed alone, its input warm in the cache and its code the only code, is faster than the same op between others.
So every op is timed inside whole networks: in each pass an edge runs one of its candidates, on what the previous edge
just produced, with a timestamp between edges. A round covers every candidate of every edge, in random order, so that a
drift of the machine hits all ops alike.
"""

from __future__ import annotations

import copy
import datetime
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from engine.errors import ConfigError
from latency.config import MeasureConfig
from latency.device import this_device
from latency.table import Entry, LatencyTable, Runtime, memory_format_name
from supernet.blocks import Block, build_op, isolated_rng
from supernet.catalogue import SkipSpec
from supernet.space import Layer, Space


@dataclass(frozen=True)
class Timing:
    """A whole network's latency at the measured batch."""

    median_ms: float
    noise_ms: float
    """Standard deviation of the medians of repeated blocks of timings: how much a repeated measurement differs."""
    n: int


@contextmanager
def intra_op_threads(threads: int) -> Iterator[None]:
    """Set torch's thread count inside, restore it outside."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _local_device(measure: MeasureConfig) -> torch.device:
    if measure.device == "external":
        raise ConfigError(
            "measure.device: got 'external', a device that cannot be timed from here; import its table with "
            "scripts/import_latency.py, or set measure.device to cpu or cuda"
        )
    this_device(measure.device)  # names the key where there is no CUDA
    return torch.device(measure.device)


def measure_space(
    space: Space, measure: MeasureConfig, *, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> LatencyTable:
    """Time every layer of the space and return its table.

    progress: called with (rounds done, rounds in all). Raises ConfigError where the device is absent.
    """
    device = _local_device(measure)
    with isolated_rng(seed), intra_op_threads(measure.threads), torch.inference_mode():
        columns, images = _chain_of_alternatives(space, measure, device)
        rng = np.random.default_rng(seed)
        samples: dict[str, list[float]] = defaultdict(list)
        total = measure.warmup_rounds + measure.rounds
        for done in range(total):
            for passes in _one_round(columns, rng):
                timings = _timed_pass(passes, images, device)
                if done >= measure.warmup_rounds:
                    for (layer, _), ms in zip(passes, timings, strict=True):
                        if not isinstance(layer.spec, SkipSpec):  # 0 by definition, never an entry
                            samples[str(layer)].append(ms)
            if progress:
                progress(done + 1, total)
    entries = {str(layer): _entry(samples[str(layer)]) for layer in space.all_layers if str(layer) in samples}
    return LatencyTable(
        device=this_device("cuda" if device.type == "cuda" else "cpu"),
        runtime=Runtime(name="pytorch", version=torch.__version__),
        threads=measure.threads if device.type == "cpu" else None,
        batch=measure.batch,
        dtype=measure.dtype,
        memory_format=memory_format_name(measure),
        activation=space.config.activation,
        input_size=space.config.input_size,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        how=f"PyTorch eager, ops timed in context inside random networks of the space, {measure.rounds} rounds in "
        f"random order after {measure.warmup_rounds} thrown away, median; eval mode, inference mode",
        entries=entries,
    )


_Alternative = tuple[Layer, nn.Module]


def _chain_of_alternatives(
    space: Space, measure: MeasureConfig, device: torch.device
) -> tuple[list[list[_Alternative]], Tensor]:
    """The chain as a list of columns, each with the modules that may stand there; and an input."""
    settings = space.op_settings(running_stats=True)

    def ready(module: nn.Module) -> nn.Module:
        return module.eval().to(device=device, dtype=measure.torch_dtype, memory_format=measure.memory_format)  # type: ignore[call-overload]

    columns: list[list[_Alternative]] = [[(space.stem, ready(build_op(space.stem, settings)))]]
    columns += [[(layer, ready(Block(layer, settings))) for layer in edge.layers] for edge in space.edges]
    columns += [[(layer, ready(build_op(layer, settings)))] for layer in (space.feature_mix, space.classifier)]
    return columns, example_input(space, measure, device)


def example_input(space: Space, measure: MeasureConfig, device: torch.device) -> Tensor:
    """(batch, C, H, W) random images in the measured dtype and memory format."""
    size = space.config.input_size
    images = torch.randn(measure.batch, space.config.input_channels, size, size)
    return images.to(device=device, dtype=measure.torch_dtype, memory_format=measure.memory_format)


def _one_round(columns: list[list[_Alternative]], rng: np.random.Generator) -> Iterator[list[_Alternative]]:
    """Whole networks that cover every alternative of every column, each column in its own random order."""
    orders = [rng.permutation(len(column)) for column in columns]
    for i in range(max(len(column) for column in columns)):
        yield [column[order[i % len(column)]] for column, order in zip(columns, orders, strict=True)]


def _timed_pass(chain: Sequence[_Alternative], images: Tensor, device: torch.device) -> list[float]:
    """Milliseconds of each op of one forward pass."""
    x = images
    if device.type == "cuda":
        events = [torch.cuda.Event(enable_timing=True) for _ in range(len(chain) + 1)]
        events[0].record()
        for (_, module), event in zip(chain, events[1:], strict=True):
            x = module(x)
            event.record()
        torch.cuda.synchronize(device)
        return [a.elapsed_time(b) for a, b in pairwise(events)]
    stamps = [time.perf_counter_ns()]
    for _, module in chain:
        x = module(x)
        stamps.append(time.perf_counter_ns())
    return [(b - a) / 1e6 for a, b in pairwise(stamps)]


def _entry(samples: Sequence[float]) -> Entry:
    low, median, high = np.percentile(samples, [25, 50, 75])
    return Entry(median_ms=float(median), iqr_ms=float(high - low), n=len(samples))


def time_network(network: nn.Module, space: Space, measure: MeasureConfig, *, blocks: int = 7) -> Timing:
    """Time a whole network (eval mode, inference mode) on this machine.

    `blocks` blocks of `measure.rounds` passes each; the result is the median over all passes, its noise the spread of
    the blocks' medians. The network itself is left as it was. Raises ConfigError where the device is absent.
    """
    device = _local_device(measure)
    network = _copy_for_timing(network, measure, device)
    with isolated_rng(0), intra_op_threads(measure.threads), torch.inference_mode():
        images = example_input(space, measure, device)
        for _ in range(max(measure.warmup_rounds, 10)):
            _timed_call(network, images, device)
        samples = [[_timed_call(network, images, device) for _ in range(measure.rounds)] for _ in range(blocks)]
    medians = np.median(samples, axis=1)
    return Timing(float(np.median(samples)), float(np.std(medians, ddof=1)), int(np.size(samples)))


def _copy_for_timing(network: nn.Module, measure: MeasureConfig, device: torch.device) -> nn.Module:
    copied = copy.deepcopy(network).eval()
    return copied.to(device=device, dtype=measure.torch_dtype, memory_format=measure.memory_format)  # type: ignore[call-overload]


def _timed_call(network: nn.Module, images: Tensor, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter_ns()
    network(images)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter_ns() - start) / 1e6
