"""Does a search beat chance where the size of kernels decides?  python benchmarks/search_pairs.py data.root=DIR

A space of 192 networks (benchmarks/pairs/search.yaml) and a task in which two garments of Fashion-MNIST lie far apart
on one picture, and the left one is to be named (benchmarks/pair_images.py). A network has to see both at once, so 7x7
kernels are worth more than wide layers, one or two of them suffice, and an edge that is skipped may cost little: other
questions than in the spaces of search_quality.py and nas_bench_macro.py, where depth decides. Every network has been
trained from scratch (benchmarks/pairs/truth.json); `--make-truth` makes that file, or goes on with it, and `--effects`
prints what each candidate is worth.

For each target T (1e3 MACs) and seed, methods choose a network; `percentile` is the share of the networks of [0.9 T, T]
whose true accuracy is lower (random is 50), `gap` is (best - chosen) / (best - mean of the band). `cost` is what a
method looks at, in images through a network: forward 1, backward 2.

    default     the product's default search
    among_10    the same; of the ten likeliest networks by its alpha, the supernet's loss chooses (derive_among: 10)
    control_K   K random networks of the band, of which the supernet's loss on all 2,000 validation images chooses;
                the largest K is the whole band: the best that trust in one loss can do
    two_path    by gradient, second order; alpha alone chooses, as in the next
    reinforce   REINFORCE
    random      a random network of the band, by expectation

The weights of the default do not depend on T, so one training serves all targets of a seed; two_path and reinforce move
them, so each of their searches trains on from the same warm-up. What is done is kept below --out; a second call goes
on. Prints a table and, last, one line of JSON as nas_bench_macro.py does. Exits with status 0 and says why where
Fashion-MNIST is absent.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.device import prepare_device
from engine.errors import ConfigError, run_command
from engine.progress import set_up_logging
from methods import Bench, Known, print_record, rows_of
from search.config import SearchConfig
from search.limits.resolve import resolve
from search.plan import Plan
from search.scoring import open_parts
from supernet.cost import macs_cost
from supernet.space import Space
from truth import Trainings, Truth

HERE = Path(__file__).resolve().parent / "pairs"
CONFIG, RETRAIN, TRUTH = HERE / "search.yaml", HERE / "retrain.yaml", HERE / "truth.json"
TARGETS = (200.0, 260.0, 320.0, 380.0)
"""In 1e3 MACs."""
CONTROLS, CONTROL_IMAGES = (3, 10, 30), 2000
LEARNERS = {
    "two_path": (
        "search.arch_update=two_path", "search.gate_gradient=second_order", "search.arch_every=4",
        "search.arch_lr=0.02",
    ),
    "reinforce": (
        "search.arch_update=reinforce", "search.arch_every=3", "search.arch_lr=0.03",
        "search.reinforce={samples: 4, baseline: leave_one_out, limits: projection}",
    ),
}  # fmt: skip
"""With the settings of benchmarks/quality; none was chosen on this space."""
DERIVATIONS = {"among_10": ("search.derive_among=10",)}
METHODS = ("default", *DERIVATIONS, "control", *LEARNERS)
ABOUT = {
    "format": "proxylessnas/search-quality-truth@1",
    "what": "test top-1 (percent) of every network of search.yaml's space, trained as in retrain.yaml; one number per "
    "seed 0, 1, ...; what is not complete is of a random choice of networks",
    "command": "python benchmarks/search_pairs.py --make-truth data.root=DIR",
}
"""What truth.json says of itself."""


def known_networks(truth: Truth, space: Space) -> Known:
    """Returns the truth as `methods` takes it."""
    cost = macs_cost(space)
    return Known(truth.paths, truth.accuracy, np.array([cost.of(paths) for paths in truth.paths]))


def effects(truth: Truth, space: Space) -> dict[str, dict[str, float]]:
    """Returns, for each edge and candidate, the mean true accuracy of the networks with it minus that of all."""
    paths, mean = np.array(truth.paths), truth.accuracy.mean()
    return {
        edge.name: {
            str(candidate): float(truth.accuracy[paths[:, e] == c].mean() - mean)
            for c, candidate in enumerate(edge.candidates)
        }
        for e, edge in enumerate(space.edges)
    }


def spreads(known: Known, targets: Sequence[float]) -> list[dict[str, Any]]:
    """Returns, for each target, the number of networks in its band and their accuracies' least, greatest and standard
    deviation."""
    bands = [known.band(1e3 * target).accuracies for target in targets]
    return [
        {"networks": len(a), "least": float(a.min()), "greatest": float(a.max()), "std": float(a.std(ddof=1))}
        for a in bands
    ]


def plan_of(target: float, seed: int, data: Sequence[str], more: Sequence[str] = ()) -> Plan:
    """Plans the search for a target in 1e3 MACs."""
    overrides = [f"limits.0.at={target * 1e3:.0f}", f"run.seed={seed}", *data, *more]
    config = SearchConfig.read(CONFIG, overrides)
    resolved = resolve(config, CONFIG, overrides)
    parts = open_parts(config)
    return Plan(resolved.config, Space(resolved.config.space), resolved.limits, prepare_device(config.run), *parts)


def print_effects(truth: Truth, space: Space, known: Known) -> None:
    """Prints what the truth says of the space: the effects, the bands, and how well it repeats."""
    found = effects(truth, space)
    names = list(dict.fromkeys(name for row in found.values() for name in row))
    print(f"| edge | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for edge, row in found.items():
        print(f"| {edge} | {' | '.join(f'{row[name]:+.2f}' if name in row else '' for name in names)} |")
    for target, spread in zip(TARGETS, spreads(known, TARGETS), strict=True):
        print(f"band of {target:g}k MACs: {spread}")
    print(
        f"all networks: {truth.accuracy.mean():.2f} ± {truth.accuracy.std(ddof=1):.2f}; seed noise "
        f"{truth.seed_noise:.2f}; correlation of two trainings {truth.reliability:.3f} ({len(truth.twice)} networks); "
        f"a training took {statistics.median(truth.record['seconds']):.1f} s"
    )


def run(args: argparse.Namespace) -> int:
    config = SearchConfig.read(CONFIG, args.data)
    space = Space(config.space)
    root = config.data.root
    if not args.effects and (root is None or not (Path(root) / "FashionMNIST").is_dir()):
        print(f"skipped: {root}: found no FashionMNIST; see --help")
        return 0
    torch.set_num_threads(1)
    if args.make_truth:
        Trainings(space, RETRAIN, args.data).make_truth(TRUTH, args.truth_seeds, ABOUT)
        return 0
    truth = Truth.load(TRUTH, space)
    known = known_networks(truth, space)
    if args.effects:
        print_effects(truth, space, known)
        return 0
    for target in args.targets:
        if len(known.band(1e3 * target).indices) < 2:
            raise ConfigError(f"--targets {target:g}: fewer than two networks cost [0.9 T, T]; choose another target")
    rows = [row for seed in args.seeds for row in rows_of(bench_of(args, known, seed), args.methods)]
    print_record(rows, {"targets": args.targets, "seeds": args.seeds}, CONTROLS)
    return 0


def bench_of(args: argparse.Namespace, known: Known, seed: int) -> Bench:
    """Returns what the searches of a seed share."""

    def plan(target: float, more: Sequence[str]) -> Plan:
        return plan_of(target, seed, args.data, more)

    return Bench(
        known, seed, args.out / f"seed-{seed}", args.targets, plan, unit=1e3, controls=CONTROLS,
        control_images=CONTROL_IMAGES, learners=LEARNERS, derivations=DERIVATIONS,
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make-truth", action="store_true", help="train every network, and write truth.json")
    parser.add_argument("--truth-seeds", type=int, default=1, help="trainings of each network")
    parser.add_argument("--effects", action="store_true", help="print what truth.json says of the space, and end")
    parser.add_argument("--targets", type=float, nargs="+", default=list(TARGETS), help="in 1e3 MACs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--out", type=Path, default=Path("runs/search_pairs"), help="what is done is kept here")
    parser.add_argument("data", nargs="*", help="overrides of the data section, e.g. data.root=/data")
    args = parser.parse_intermixed_args()
    set_up_logging()
    return run(args)


if __name__ == "__main__":
    run_command(main)
