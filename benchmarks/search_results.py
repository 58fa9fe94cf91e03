"""Is the found network better than others of equal latency?  python benchmarks/search_results.py --jobs 2

Searches as a YAML says, then retrains, all alike and with each seed: the derived network, random networks of the same
predicted latency, and the widest uniform network (one op wherever it is legal, equally many layers kept in every stage,
the most MACs) that is predicted to be no slower than the derived one. Every finished part is kept below --out and used
by the next call, so a stopped run continues; what was made with other settings is refused.

The retrainings are a sweep (proxyless_nas/retrainings), whose results.json is below --out.

Prints its table in Markdown and one line of JSON: for each of `networks` name, predicted_ms; measured_ms, noise_ms,
drift and believed, of a timing in turn with a reference when all are trained (search/derive/clock.py); top1 (one for
each seed), params, macs; rank, the derived network's place by mean top-1 among the random ones and itself; difference,
its mean top-1 minus the random ones', with the 95 % interval; search_seconds, retrain_seconds.
"""

import argparse
import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from engine.errors import ConfigError, UserError, run_command
from engine.progress import set_up_logging
from latency.device import made_on
from proxyless_nas.retrainings.results import RetrainSweep
from proxyless_nas.retrainings.run import retrain_sweep
from search.config import SearchConfig
from search.derive.clock import Clock
from search.derive.measured import local_latency_limits
from search.limits.limit import ROUNDING, AdditiveLimit
from search.limits.resolve import resolve
from search.loop import finish_search
from supernet.architecture import Architecture
from supernet.space import Space

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


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


def run(args: argparse.Namespace) -> int:
    result = finish_search(args.search, args.out / "search", overrides=args.override)
    derived = Architecture.from_json((args.out / "search" / "architecture.json").read_text())
    config = SearchConfig.read(args.search, args.override)
    limit = resolve(config, args.search, args.override).additive[0]
    same = replace(limit.of_cost(derived.paths), kind="at")
    overrides = [f"retrain.epochs={args.epochs}", "run.threads=1", *(o for o in args.override if o.startswith("data."))]
    out = args.out / "retrained"
    sweep = retrain_sweep(
        args.retrain,
        {"derived": args.out / "search", "uniform": widest_uniform(derived.space, same)},
        out,
        random=args.random,
        seeds=range(args.seeds),
        jobs=args.jobs,
        resume=out.exists(),
        overrides=overrides,
    )
    if sweep.exit_status:
        failed = [
            f"{outcome.folder.name}: {outcome.error or outcome.status}"
            for outcome in sweep.outcomes
            if not outcome.test
        ]
        raise UserError(str(out), "; ".join(failed), remedy="mend it, and call again")
    source = limit.source if local_latency_limits([limit]) else None
    clock = Clock.of(derived.space, source.cost, source.measure) if source else None
    timings = {}
    for entry in sweep.entries.all:
        assert isinstance(entry.design, Architecture)  # all are of the search's space
        timings[entry.name] = clock.timed(entry.design.paths).figures() if clock else {}
    report(sweep, limit, timings, args.epochs, result.seconds)
    return 0


def report(
    sweep: RetrainSweep,
    limit: AdditiveLimit,
    timings: Mapping[str, Mapping[str, Any]],
    epochs: int,
    search_seconds: float,
) -> None:
    """Prints the table with the timings, the verdict and one line of JSON."""
    measured = {
        name: f"{timing['measured_ms']:.3f} ± {timing['noise_ms']:.3f}" if timing else ""
        for name, timing in timings.items()
    }
    print(f"| {' | '.join(sweep.columns)} | measured ms |")
    print("|---" * (len(sweep.columns) + 1) + "|")
    for row in sweep.rows:
        print(f"| {' | '.join(row)} | {measured[row[0]]} |")
    print("\n".join(sweep.conclusions))
    rows = [
        {
            "name": entry.name, "predicted_ms": entry.cost, **timings[entry.name],
            "top1": [*sweep.top1[entry.name].values()],
            "params": entry.design.complexity.params, "macs": entry.design.complexity.macs,
            "names": list(entry.design.names),
        }
        for entry in sweep.entries.all if entry.design
    ]  # fmt: skip
    against = sweep.against_random
    assert against is not None  # every retraining has ended, of two random networks or more
    means = [sweep.mean(entry.name) or 0.0 for entry in sweep.entries.all if entry.random]
    record = {
        "target_ms": limit.bound,
        "networks": rows,
        "rank": 1 + sum(mean > against.top1 for mean in means),
        "random_mean": against.others_top1,
        "random_std": statistics.stdev(means),
        "random_best": max(means),
        "derived": against.top1,
        "difference": asdict(against.difference),
        "uniform": sweep.mean("uniform"),
        "epochs": epochs,
        "search_seconds": search_seconds,
        "retrain_seconds": sum(outcome.seconds for outcome in sweep.outcomes),
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
