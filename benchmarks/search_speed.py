"""How fast a search runs, and what its loop adds to the steps themselves:  python benchmarks/search_speed.py

Timed is a block of the REAL loop (search/loop.py): reading and augmenting batches, drawing paths, weights steps and,
after every fifth, an architecture step (two_path), and one point of the curves. Beside it runs a bare block: the same
steps on the same paths, called on fixed tensors. A round is bare, loop, bare; all rounds are of one run.

    iteration_overhead_fake_224   ImageNet space, 224 px noise in memory, batch 16
    iteration_overhead_memory_28  Fashion-MNIST's space and images (noise of that size if the files are not in data/)
    iteration_overhead_jpeg       ImageNet space, JPEGs of 500 x 375 px written on the spot, 2 processes read them
    compile_ratio                 a bare block with search.compile over one without, Fashion-MNIST's space; on a GPU the
                                  ImageNet space, once for each precision
    two_process_slowdown          ImageNet space, batch 16 in each process, one thread each, gloo: blocks of 2 processes
                                  over those of one alone
    side_by_side_slowdown         the same without gloo: two searches that know nothing of each other, over one alone.
                                  What two busy processes cost on this machine whatever they are
    side_by_side_cache, _memory   why: two processes beside one, that multiply matrices which stay in the cache, and
                                  that copy an array which does not fit into it

Overhead: median over rounds of loop / mean(bare, bare), plus a checkpoint's share: its seconds (median of 3) over those
of the steps between two of them. Evaluations, once an epoch, are no part of it. noise_*: |median - 1| of bare / bare
plus the bootstrap standard error of the median overhead. alpha's learning rate is 1e-9, so that both sides draw the
same paths; they are drawn in advance for the bare weights steps. images_per_second: the speed of the loop, architecture
steps' images included. shares: the shares of the loop's time, measured in blocks of their own; on a GPU with a
synchronisation at each boundary; `reduce` is what remains of the exchange of gradients after backward has ended,
`other` all the rest.

`verdicts` compares with the aims: met or missed where that holds whatever the noise, else undecided.

With a GPU also batch 256 in float32 and bfloat16. Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image

from engine.data import Batch
from engine.device import autocast, memory_format
from engine.seeding import generator
from latency.device import made_on
from search.config import SearchConfig
from search.learn.gradient import architecture_step, share_of, weights_step
from search.learn.modes import GradientMode
from search.learn.objective import Objective
from search.state import ARCHITECTURE_PATHS, WEIGHTS_PATHS, SearchState
from supernet.compiled import compile_candidates, mixed_edges
from timed_loop import (
    GRADIENT,
    ROOT,
    Case,
    Loop,
    fake_224,
    imagenet,
    noise_of,
    plan_of,
    seconds,
    shares,
    synchronise,
)  # fmt: skip
from two_processes import two_processes

BARS = {"fake_224": 1.03, "memory_28": 1.15, "two_processes": 1.10}


def memory_28() -> tuple[Case, bool]:
    """The case, and whether Fashion-MNIST's own files are there."""
    real = (ROOT / "data/FashionMNIST/raw").is_dir()
    data = f"data.root={ROOT / 'data'}" if real else "data={name: fake, fake_images: 10000, validation: 0.2}"
    changes = (*GRADIENT, "search.batch_size=128", data)
    return Case("memory_28", ROOT / "configs/search/fashion_cpu.yaml", changes, block=10), real


def jpeg(folder: Path) -> Case:
    """320 + 20 files in 20 classes: blurred noise, so that they compress as photographs do."""
    random = np.random.default_rng(0)
    for part, per_class in (("train", 16), ("val", 1)):
        for label in range(20):
            place = folder / part / f"class{label:02d}"
            place.mkdir(parents=True)
            for i in range(per_class):
                coarse = random.integers(0, 256, (24, 32, 3), dtype=np.uint8)
                fine = np.asarray(Image.fromarray(coarse).resize((500, 375)), dtype=np.int16)
                noisy = (fine + random.integers(-12, 13, fine.shape)).clip(0, 255).astype(np.uint8)
                Image.fromarray(noisy).save(place / f"{i}.jpg", quality=90)
    data = f"data={{name: folder, root: {folder}, validation: 0.5, workers: 2}}"
    # what was read ahead during a bare block, 4 batches, must not carry a block of the loop
    return imagenet("jpeg", 16, "space.classes=20", data, block=20)


class Bare:
    """The loop's next block without the loop: the same steps of a twin on fixed tensors."""

    def __init__(self, loop: Loop):
        self.loop, self.plan = loop, loop.plan
        self.state = SearchState.fresh(self.plan.config, self.plan.space, self.plan.device)
        space, n = self.plan.config.space, self.plan.config.search.batch_size
        images = torch.randn(n, space.input_channels, space.input_size, space.input_size)
        images = images.to(self.plan.device, memory_format=memory_format(self.plan.config.run))
        self.batch = Batch(images, (torch.arange(n) % space.classes).to(self.plan.device))

    def steps(self) -> Callable[[], None]:
        """To call for the block that the loop is at."""
        plan, state, position = self.plan, self.state, self.loop.search.state
        s, seed, device = plan.config.search, plan.config.run.seed, plan.device
        assert s.mode.differentiates_gates  # the cases are of gradient modes
        mode, objective = cast(GradientMode, s.arch_update), Objective(plan.additive, s.resolved_loss)
        precision = lambda: autocast(plan.config.run, device)  # noqa: E731
        first, first_arch = position.step, position.arch_steps
        drawn = [
            [
                state.alpha.sample_paths(generator(seed, WEIGHTS_PATHS, step * plan.networks + i))
                for i in range(plan.networks)
            ]
            for step in range(first, first + self.loop.block)
        ]
        follows = [plan.architecture_step_follows(step) for step in range(first, first + self.loop.block)]
        draws = [generator(seed, ARCHITECTURE_PATHS, first_arch + i) for i in range(sum(follows))]

        def run() -> None:
            random = iter(draws)
            for networks, arch in zip(drawn, follows, strict=True):
                weights_step(state.net, self.batch, networks, state.optimizer, s.label_smoothing, precision)
                if arch:
                    architecture_step(
                        state.net, self.batch, state.alpha, state.arch_optimizer, mode,
                        share_of(s.resolved_gate_gradient), objective, next(random), precision,
                    )  # fmt: skip
                    self.loop.search.update.project(state)
            synchronise(device)

        return run


def printed(found: dict[str, object]) -> dict[str, object]:
    print("\n".join(f"{key:34} {value}" for key, value in found.items()), flush=True)
    return found


def overhead(case: Case, rounds: int, folder: Path, threads: int | None) -> dict[str, object]:
    """Returns the time that the loop adds to the steps, its speed, and the shares of its time."""
    plan = plan_of(case, threads)
    loop = Loop(plan, case.block, folder / case.name)
    try:
        bare = Bare(loop)
        bare.steps()()
        loop.run()  # warm-up of both; processes that read files start
        ratios, twins, loop_s = [], [], []
        for _ in range(rounds):
            first, second = bare.steps(), bare.steps()
            before, real, after = seconds(first), seconds(loop.run), seconds(second)
            ratios.append(2 * real / (before + after))
            twins.append(before / after)
            loop_s.append(real)
        checkpoint_s = statistics.median(seconds(loop.checkpoint) for _ in range(3))
        every = SearchConfig.read(case.config, case.changes).run.checkpoint_every
        block_s = statistics.median(loop_s)
        share = checkpoint_s / (every * block_s / case.block)
        images = plan.config.search.batch_size * (case.block + case.block // plan.config.search.arch_every)
        found: dict[str, object] = {
            f"iteration_overhead_{case.name}": round(statistics.median(ratios) + share, 4),
            f"noise_{case.name}": round(noise_of(ratios, twins), 4),
            f"checkpoint_share_{case.name}": round(share, 4),
            f"images_per_second_{case.name}": round(images / block_s, 1),
            f"shares_{case.name}": shares(loop, max(1, rounds // 3)),
        }
    finally:
        loop.search.close()
    return printed(found)


def compiled(case: Case, rounds: int, folder: Path, threads: int | None) -> dict[str, object]:
    """Returns the gain of search.compile in steps, and its cost before them."""
    plan = plan_of(case, threads)
    loop = Loop(plan, case.block, folder / f"compile_{case.name}")
    try:
        bare = Bare(loop)
        began = time.perf_counter()
        trials = compile_candidates(bare.state.net, bare.batch.images, partial(autocast, plan.config.run, plan.device))
        compile_s = time.perf_counter() - began
        edges = mixed_edges(bare.state.net)
        programs = [edge.compiled for edge in edges]

        def block(compiled: bool) -> float:
            for edge, found in zip(edges, programs, strict=True):
                edge.compiled = found if compiled else {}
            return seconds(bare.steps())

        block(True), block(False)
        ratios, twins = [], []
        for _ in range(rounds):
            loop.run()  # to the next paths
            before, fast, after = block(False), block(True), block(False)
            ratios.append(2 * fast / (before + after))
            twins.append(before / after)
    finally:
        loop.search.close()
    found: dict[str, object] = {
        f"compile_ratio_{case.name}": round(statistics.median(ratios), 4),
        f"noise_compile_{case.name}": round(noise_of(ratios, twins), 4),
        f"compile_seconds_{case.name}": round(compile_s, 1),
        f"compile_kept_{case.name}": f"{sum(trial.kept for trial in trials)} of {len(trials)}",
    }
    return printed(found)


def on_gpu(rounds: int, folder: Path) -> dict[str, object]:
    """Batch 256 in float32 and bfloat16; where there is no GPU, why not."""
    if not torch.cuda.is_available():
        return {"gpu": "skipped: torch finds no CUDA device"}
    found: dict[str, object] = {"gpu": torch.cuda.get_device_name()}
    for name, amp in (("gpu_fp32", "none"), ("gpu_bf16", "bf16")):
        if amp == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            found[name] = "skipped: this GPU only emulates bf16"
            continue
        case = fake_224(name, 256)
        case = replace(case, changes=(*case.changes, "run.device=cuda", f"run.amp={amp}"))
        found |= overhead(case, rounds, folder, None) | compiled(case, rounds, folder, None)
    return found


def verdicts(record: dict[str, object]) -> dict[str, str]:
    """Returns for each aim that was measured whether it is met or missed, or undecided within the noise."""
    found = {}
    for name, bar in BARS.items():
        key = "two_process_slowdown" if name == "two_processes" else f"iteration_overhead_{name}"
        value, noise = record.get(key), record.get(f"noise_{name}")
        if isinstance(value, float) and isinstance(noise, float):
            found[key] = "met" if value + noise <= bar else "missed" if value - noise > bar else "undecided"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("fake_224", "memory_28", "jpeg", "compile", "two_processes", "gpu")
    parser.add_argument("--rounds", type=int, default=9, help="bare, loop, bare; of each case")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON line here too")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be positive")

    start = time.perf_counter()
    record: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if "fake_224" in args.only:
            record |= overhead(fake_224("fake_224", 16), args.rounds, folder, args.threads)
        if "memory_28" in args.only:
            case, record["memory_28_real_images"] = memory_28()
            record |= overhead(case, args.rounds, folder, args.threads)
        if "jpeg" in args.only:
            record |= overhead(jpeg(folder / "images"), max(1, args.rounds // 3), folder, args.threads)
        if "compile" in args.only:
            record |= compiled(memory_28()[0], args.rounds, folder, args.threads)
        if "two_processes" in args.only:
            record |= printed(two_processes(args.rounds, folder))
        if "gpu" in args.only:
            record |= on_gpu(args.rounds, folder)
    speed = "images_per_second_"
    record |= {
        "images_per_second": {k.removeprefix(speed): v for k, v in record.items() if k.startswith(speed)},
        "bars": BARS,
        "verdicts": verdicts(record),
        "rounds": args.rounds,
        "threads": args.threads,
        "elapsed_s": round(time.perf_counter() - start, 1),
        **made_on(),
    }
    line = json.dumps(record)
    if args.json:
        args.json.write_text(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
