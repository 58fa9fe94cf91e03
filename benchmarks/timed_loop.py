"""Blocks of a search's real loop, to be timed, and where their time goes. search_speed.py says what is made of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

import search.loop
from engine.data import BatchStream
from engine.device import prepare_device
from engine.distributed import ALONE, GradientReduction, Group
from engine.progress import Progress
from search.config import SearchConfig
from search.limits.resolve import resolve
from search.loop import Search
from search.plan import Plan
from search.scoring import open_parts

ROOT = Path(__file__).resolve().parents[1]
GRADIENT = ("search.arch_update=two_path", "search.arch_every=5")
"""Changes to a config: the published update, with both kinds of steps."""
NEVER = 10**6
PARTS = ("data", "forward", "backward", "reduce", "optimizer", "other")


@dataclass(frozen=True)
class Case:
    """A search to time: a config, what is changed in it, and weights steps of a block."""

    name: str
    config: Path
    changes: tuple[str, ...]
    block: int


def imagenet(name: str, batch: int, *changes: str, block: int = 5) -> Case:
    run = (f"search.batch_size={batch}", "run.device=cpu", "run.amp=none")
    return Case(name, ROOT / "configs/search/imagenet_cpu.yaml", (*GRADIENT, *run, *changes), block)


def fake_224(name: str, batch: int, *changes: str) -> Case:
    data = "data={name: fake, fake_images: 2000, fake_classes: 1000, validation: 0.5}"
    return imagenet(name, batch, data, *changes)


def plan_of(case: Case, threads: int | None, group: Group = ALONE) -> Plan:
    """As `run_search` makes it, with limits that need no table and without what a block is not to hold."""
    changes = [
        *case.changes,
        *("limits=[{metric: macs, at: 50%}]", "search.warmup_epochs=0", "search.lr=1e-3", "search.arch_lr=1e-9"),
        *(f"run.log_every={case.block}", f"run.checkpoint_every={NEVER}", f"run.evaluate_every={NEVER}"),
        f"run.threads={'null' if threads is None else threads}",
    ]
    resolved = resolve(SearchConfig.read(case.config, changes), case.config, changes)
    config = resolved.config
    device = prepare_device(config.run, group)
    return Plan(config, resolved.space, resolved.limits, device, *open_parts(config))


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Loop:
    """Blocks of the real loop. Its log goes to a folder that is thrown away, its progress line nowhere."""

    def __init__(self, plan: Plan, block: int, out: Path, group: Group = ALONE):
        out.mkdir(parents=True, exist_ok=True)
        self.plan, self.block, self.device = plan, block, plan.device
        self.search = Search(plan, out, False, group)
        self.progress = Progress(plan.steps, 0, "search", shown=False)

    def run(self) -> None:
        for _ in range(self.block):
            self.search.step(self.progress)
        synchronise(self.device)

    def checkpoint(self) -> None:
        assert self.search.metrics is not None  # the first process writes
        self.search.save_checkpoint(self.search.metrics)


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


class PartTimes:
    """Seconds that the parts of a loop take, by wrapping what they go through. Parts do not overlap."""

    def __init__(self, device: torch.device):
        self.device = device
        self.spent = dict.fromkeys(PARTS, 0.0)
        self._inside = False

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        if self._inside:  # counted by the part around it
            yield
            return
        self._inside = True
        synchronise(self.device)
        start = time.perf_counter()
        try:
            yield
        finally:
            synchronise(self.device)
            self.spent[name] += time.perf_counter() - start
            self._inside = False

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return call


def shares(loop: Loop, blocks: int) -> dict[str, float]:
    """Returns the shares of the loop's time that its parts take."""
    clock, state = PartTimes(loop.device), loop.search.state
    places = [
        ("data", BatchStream, "__next__"),
        ("data", search.loop, "on_device"),
        ("forward", type(state.net), "forward"),
        ("backward", torch.Tensor, "backward"),
        ("backward", torch.autograd, "grad"),
        ("reduce", GradientReduction, "__exit__"),
        ("reduce", Group, "mean_of"),
        *(("optimizer", kind, "step") for kind in dict.fromkeys((type(state.optimizer), type(state.arch_optimizer)))),
    ]
    patches = [patch.object(owner, name, clock.timed(part, getattr(owner, name))) for part, owner, name in places]
    for p in patches:
        p.start()
    try:
        total = sum(seconds(loop.run) for _ in range(blocks))
    finally:
        for p in patches:
            p.stop()
    clock.spent["other"] = total - sum(clock.spent.values())
    return {name: round(spent / total, 4) for name, spent in clock.spent.items()}


def noise_of(ratios: list[float], bare: list[float]) -> float:
    """|median of bare / bare - 1| plus the bootstrap standard error of the median ratio."""
    medians = np.median(np.random.default_rng(0).choice(ratios, (2000, len(ratios))), axis=1)
    return abs(statistics.median(bare) - 1) + float(medians.std())
