"""Is the found network better than others of equal latency?  python benchmarks/search_results.py --jobs 2

Searches as a YAML says, then retrains, all alike and with each seed: the derived network, random networks of the same
predicted latency, and the widest uniform network (one op wherever it is legal, equally many layers kept in every stage,
the most MACs) that is predicted to be no slower than the derived one. Every finished part is kept below --out and used
by the next call, so a stopped run continues; what was made with other settings is refused.

Prints a table in Markdown and one line of JSON: for each of `networks` name, predicted_ms; measured_ms, noise_ms, drift
and believed, of a timing in turn with a reference when all are trained (search/derive/clock.py); top1 (one for each
seed), params, macs, seconds; rank, the derived network's place by mean top-1 among the random ones and itself;
search_seconds, retrain_seconds.
"""

import argparse
import json
import logging
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from engine.errors import ConfigError, run_command
from engine.files import write_atomically
from engine.processes import side_by_side
from engine.progress import set_up_logging
from engine.runs.folder import refuse_changes, run_begun
from latency.device import made_on
from retrain.config import RetrainConfig
from retrain.loop import resolved_training, retrain
from search.baseline import random_architectures
from search.config import SearchConfig
from search.derive.clock import Clock
from search.derive.measured import local_latency_limits
from search.limits.limit import ROUNDING, AdditiveLimit
from search.limits.resolve import resolve
from search.loop import finish_search
from supernet.architecture import Architecture
from supernet.space import Space

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
TOLERANCE = 0.02
"""Random networks cost between (1 - TOLERANCE) of what the derived one is predicted to cost, and as much."""

log = logging.getLogger("benchmark")


@dataclass(frozen=True)
class Training:
    """One training from scratch."""

    architecture: Architecture
    seed: int
    out: Path


def uniform_architectures(space: Space) -> list[tuple[int, ...]]:
    """One op on every edge that has it and, where edges may be skipped, 1, 2, ... layers kept in every stage."""
    names = dict.fromkeys(name for edge in space.searchable for name in edge.candidates if name != "skip")
    stages = [list(edges) for _, edges in groupby(space.searchable, key=lambda edge: edge.stage)]
    depth = max(map(len, stages))
    found: dict[tuple[int, ...], None] = {}
    for name in names:
        for kept in range(1, depth + 1):
            paths = []
            for stage in stages:
                for place, edge in enumerate(stage):
                    wanted = "skip" if place >= kept and "skip" in edge.candidates else name
                    paths.append(edge.candidates.index(wanted) if wanted in edge.candidates else 0)
            found[tuple(paths)] = None
    return list(found)


def widest_uniform(space: Space, limit: AdditiveLimit) -> Architecture:
    """The uniform network with the most MACs whose cost is at most the bound."""
    feasible = [p for p in uniform_architectures(space) if limit.cost.of(p) <= limit.bound * (1 + ROUNDING)]
    if not feasible:
        raise ConfigError(f"no uniform network takes at most {limit.bound:.4g} {limit.unit}: choose a larger limit")
    return Architecture(space, max(feasible, key=lambda paths: space.complexity(paths).macs), "uniform")


def trained(path: Path, overrides: Sequence[str], job: Training) -> tuple[float, float]:
    """(top-1 on the test images, seconds); of an earlier call where it has finished. A resumed training's seconds are
    of its last piece. ConfigError where the folder holds another training."""
    record = job.out / "training.json"
    config = RetrainConfig.read(path, [f"run.seed={job.seed}", *overrides])
    if not record.exists():
        began = time.monotonic()
        result = retrain(config, job.architecture, job.out, resume=run_begun(job.out), shown=False)
        values = {"top1": result.test.top1, "seconds": time.monotonic() - began}
        write_atomically(record, json.dumps(values) + "\n")
    refuse_changes(job.out, resolved_training(config, job.architecture))
    values = json.loads(record.read_text())
    return values["top1"], values["seconds"]


def run(args: argparse.Namespace) -> int:
    result = finish_search(args.search, args.out / "search", overrides=args.override)
    derived = Architecture.from_json((args.out / "search" / "architecture.json").read_text())
    space = derived.space
    config = SearchConfig.read(args.search, args.override)
    limit = resolve(config, args.search, args.override).additive[0]
    same = replace(limit.of_cost(derived.paths), kind="at")
    drawn = random_architectures(space, [same], args.random, seed=0, tolerance=TOLERANCE)
    networks = {
        "derived": derived,
        "uniform": widest_uniform(space, same),
        **{f"random{i + 1:02d}": Architecture(space, paths) for i, paths in enumerate(drawn)},
    }
    overrides = [f"retrain.epochs={args.epochs}", "run.threads=1", *(o for o in args.override if o.startswith("data."))]
    jobs = [
        Training(architecture, seed, args.out / f"{name}-seed{seed}")
        for seed in range(args.seeds)
        for name, architecture in networks.items()
    ]
    done: dict[Path, tuple[float, float]] = {}

    def finished(place: int, found: tuple[float, float]) -> None:
        done[jobs[place].out] = found
        log.info("%d of %d: %s %.2f %%, %.0f s", len(done), len(jobs), jobs[place].out.name, *found)

    side_by_side(trained, [(args.retrain, overrides, job) for job in jobs], args.jobs, finished)
    source = limit.source if local_latency_limits([limit]) else None
    clock = Clock.of(space, source.cost, source.measure) if source else None
    rows = []
    for name, architecture in networks.items():
        found = [done[args.out / f"{name}-seed{seed}"] for seed in range(args.seeds)]
        c = architecture.complexity
        rows.append(
            {
                "name": name, "predicted_ms": limit.cost.of(architecture.paths),
                **(clock.timed(architecture.paths).figures() if clock else {}),
                "top1": [top1 for top1, _ in found], "seconds": statistics.fmean(s for _, s in found),
                "params": c.params, "macs": c.macs, "names": list(architecture.names),
            }
        )  # fmt: skip
    report(args, rows, limit, result.seconds, sum(seconds for _, seconds in done.values()))
    return 0


def report(
    args: argparse.Namespace,
    rows: list[dict[str, Any]],
    limit: AdditiveLimit,
    search_seconds: float,
    retrain_seconds: float,
) -> None:
    mean = {row["name"]: statistics.fmean(row["top1"]) for row in rows}
    others = sorted((mean[name] for name in mean if name.startswith("random")), reverse=True)
    seeds = " | ".join(f"seed {seed}" for seed in range(args.seeds))
    print(f"| network | predicted ms | measured ms | {seeds} | mean top-1 | MACs | params |")
    print("|---" * (6 + args.seeds) + "|")
    for row in sorted(rows, key=lambda r: -mean[r["name"]]):
        measured = f"{row['measured_ms']:.3f} ± {row['noise_ms']:.3f}" if "measured_ms" in row else ""
        top1 = " | ".join(f"{t:.2f}" for t in row["top1"])
        print(
            f"| {row['name']} | {row['predicted_ms']:.3f} | {measured} | {top1} | {mean[row['name']]:.2f} "
            f"| {row['macs'] / 1e6:.2f} M | {row['params'] / 1e3:.0f} k |"
        )
    record = {
        "target_ms": limit.bound,
        "networks": rows,
        "rank": 1 + sum(other > mean["derived"] for other in others),
        "random_mean": statistics.fmean(others),
        "random_std": statistics.stdev(others),
        "random_best": others[0],
        "derived": mean["derived"],
        "uniform": mean["uniform"],
        "epochs": args.epochs,
        "search_seconds": search_seconds,
        "retrain_seconds": retrain_seconds,
        **made_on(),
    }
    print(json.dumps(record))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", type=Path, default=CONFIGS / "search" / "fashion_cpu.yaml")
    parser.add_argument("--retrain", type=Path, default=CONFIGS / "retrain" / "fashion.yaml")
    parser.add_argument("--epochs", type=int, default=30, help="of every retraining")
    parser.add_argument("--random", type=int, default=10, help="random networks (at least 2)")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=1, help="retrainings at a time, one thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/results"))
    parser.add_argument("override", nargs="*", help="of the search's config; those of data also for the retraining")
    args = parser.parse_intermixed_args()
    if args.random < 2 or args.seeds < 1:
        parser.error("--random must be 2 or more, --seeds 1 or more")
    set_up_logging()
    return run(args)


if __name__ == "__main__":
    run_command(main)
