"""What a second process costs a search:  python benchmarks/two_processes.py

torchrun starts this file twice; a round is process 0 alone, both together over gloo, both side by side without
exchange, process 0 alone. It is one of the cases of search_speed.py, which says what the figures are. Prints one line
of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from engine.job import open_group
from timed_loop import ROOT, Loop, fake_224, noise_of, plan_of, seconds, shares


def two_processes(rounds: int, folder: Path) -> dict[str, object]:
    """Two processes of this file; the first one writes what it found into `folder`."""
    result = folder / "two_processes.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(Path(__file__).resolve()), "--rounds", str(rounds), "--process-of-two", str(result)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    found: dict[str, object] = json.loads(result.read_text())
    return found


def in_cache() -> Callable[[], object]:
    """Arithmetic on 110 KB."""
    a, b, out = torch.ones(96, 96), torch.ones(96, 96), torch.empty(96, 96)

    def run() -> None:
        for _ in range(5000):
            torch.mm(a, b, out=out)

    return run


def in_memory() -> Callable[[], object]:
    """Copies of 256 MB."""
    a, out = torch.ones(1 << 26), torch.empty(1 << 26)

    def run() -> None:
        for _ in range(4):
            out.copy_(a)

    return run


def process_of_two(rounds: int, result: Path) -> None:
    """A round: process 0 alone, both together, both side by side without exchange, process 0 alone. While one is alone
    the other waits without a core."""
    with open_group() as group:
        case = fake_224("two_processes", 16 * group.world_size)
        plan = plan_of(case, 1, group)
        group = group.on(plan.device)
        together = Loop(plan, case.block, result.parent / "together", group)
        alone = Loop(plan_of(fake_224("alone", 16), 1), case.block, result.parent / f"alone{group.rank}")

        def by_itself(run: Callable[[], object]) -> float:
            taken = seconds(run) if group.first else 0.0
            group.barrier()
            if not group.first:
                run()  # untimed: both are to be at the same step, whose paths are the same, when they meet
            group.barrier()
            return taken

        def to_the_last(run: Callable[[], object]) -> float:
            """Both processes begin at once, and the slower one counts."""
            group.barrier()
            start = time.perf_counter()
            run()
            group.barrier()
            return time.perf_counter() - start

        kernels = {"cache": in_cache(), "memory": in_memory()}
        by_itself(alone.run)
        together.run()
        alone.run()
        ratios, twins, together_s, alone_s, side_ratios = [], [], [], [], []
        kernel_ratios: dict[str, list[float]] = {name: [] for name in kernels}
        for _ in range(rounds):
            before = by_itself(alone.run)
            both = to_the_last(together.run)
            side = to_the_last(alone.run)
            after = by_itself(alone.run)
            for name, kernel in kernels.items():
                first, beside, last = by_itself(kernel), to_the_last(kernel), by_itself(kernel)
                if group.first:
                    kernel_ratios[name].append(2 * beside / (first + last))
            if group.first:
                ratios.append(2 * both / (before + after))
                side_ratios.append(2 * side / (before + after))
                twins.append(before / after)
                together_s.append(both)
                alone_s += [before, after]
        where = shares(together, max(1, rounds // 3))
        if group.first:
            images = case.block + case.block // plan.config.search.arch_every
            found = {
                "two_process_slowdown": round(statistics.median(ratios), 4),
                "side_by_side_slowdown": round(statistics.median(side_ratios), 4),
                **{f"side_by_side_{name}": round(statistics.median(kernel_ratios[name]), 4) for name in kernels},
                "noise_two_processes": round(noise_of(ratios, twins), 4),
                "images_per_second_one_process": round(16 * images / statistics.median(alone_s), 1),
                "images_per_second_two_processes": round(32 * images / statistics.median(together_s), 1),
                "shares_two_processes": where,
            }
            result.write_text(json.dumps(found))
        for loop in (together, alone):
            loop.search.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--process-of-two", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be positive")
    if args.process_of_two:
        process_of_two(args.rounds, args.process_of_two)
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(two_processes(args.rounds, Path(folder))))


if __name__ == "__main__":
    main()
