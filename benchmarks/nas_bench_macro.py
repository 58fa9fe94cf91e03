"""Does a search beat chance where every network's accuracy is known?  python benchmarks/nas_bench_macro.py --images DIR

The space of configs/search/cifar10_macro.yaml: 6,561 networks, each of which NAS-Bench-Macro has trained three times on
CIFAR-10 (Su et al., CVPR 2021). `--truth` is a JSON file of these accuracies, `--images` a folder of CIFAR-10 with
train/<class>/<image>. Of it each seed chooses 12,000 training images (budget `small`: 8,000 for the weights, 4,000 for
alpha; 6 + 14 epochs) or 24,000 (`large`: 16,000 and 8,000; 12 + 28 epochs).

For each target T (MACs) and seed, methods choose a network; `percentile` is the share of the networks of [0.9 T, T]
whose true accuracy is lower (random is 50), `gap` is (best - chosen) / (best - mean of the band). `cost` is what a
method looks at, in images through a network: forward 1, backward 2.

    default     the product's default search
    control_K   K random networks of the band, of which the supernet's loss on CONTROL_IMAGES images chooses; `control`
                is that of the largest K (budget small: as many images as the default's alpha learns from)
    evolution   evolution on the supernet, as many evaluations of as many images as control_100
    alpha       two_path with second_order, a step in every second one and the projection: alpha alone chooses
                (--methods alpha)
    random      a random network of the band, by expectation

The weights of the default do not depend on T, so one training serves all targets of a seed; the alpha of `alpha` moves
them, so each of its searches trains on from the same warm-up. What is done is kept below --out; a second call goes on.
Prints a table and, last, one line of JSON: one object per method with percentile, percentile_error, gap, gap_error and
cost (means over targets and seeds; errors are of these means, over seeds), `kendall` (the supernet's loss and the truth
in the bands) and the rows. Exits with status 0 and says why where --images or --truth is absent.
"""

import argparse
import json
import logging
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.stats import kendalltau

from bands import BAND, Band
from engine.device import autocast, prepare_device
from engine.distributed import ALONE
from engine.errors import ConfigError, run_command
from engine.files import write_atomically
from engine.progress import Progress, set_up_logging
from engine.runs.checkpoints import Checkpoints
from latency.config import LatencyConfig
from latency.device import made_on
from macro_images import FILE
from search.baseline import every_architecture
from search.config import SearchConfig
from search.derive.derivation import constrained
from search.judge import supernet_losses
from search.limits.resolve import resolve
from search.loop import Search
from search.plan import Plan
from search.scoring import open_parts
from supernet.alpha import Alpha
from supernet.cost import macs_cost
from supernet.space import Space

HERE = Path(__file__).resolve().parent / "macro"
CONFIG = HERE / "search.yaml"
TRUTH = Path(__file__).resolve().parents[2] / "shared" / "data" / "nas_bench_macro_part.json"
TARGETS = (45.0, 63.0, 70.0, 80.0)
"""In 1e6 MACs."""
BUDGETS = {"small": (12_000, 4_000, 6, 14), "large": (24_000, 8_000, 12, 28)}
"""Images, those of them for alpha, epochs of the warm-up and of the search."""
CONTROLS = (10, 30, 100)
CONTROL_IMAGES = 2000
"""100 networks then cost what the default's alpha learns from."""
POPULATION, PARENTS, MUTATION = 20, 5, 0.1
"""The evolution: networks of a generation, its best ones that the next is made of, and the chance that an edge of a
child is drawn anew (once-for-all, arXiv 1908.09791, Sec. 3.3, with a smaller population)."""
METHODS = ("default", "control", "evolution", "alpha")

Paths = tuple[int, ...]
log = logging.getLogger("benchmark")


@dataclass(frozen=True)
class MacroTruth:
    """The networks with a known accuracy."""

    networks: list[Paths]
    accuracy: np.ndarray
    macs: np.ndarray

    @classmethod
    def load(cls, path: Path) -> "MacroTruth":
        record = json.loads(path.read_text())["networks"]
        networks = [tuple(map(int, key)) for key in record]
        values = np.array([record[key] for key in record], dtype=float)
        return cls(networks, values[:, 0], values[:, 2])

    def band(self, target: float) -> Band:
        return Band.of(target, self.macs, self.accuracy)

    def check(self, target: float) -> None:
        """Raises ConfigError unless every network of a target's band is known."""
        space = Space(LatencyConfig.read(CONFIG).space)
        every = [tuple(paths) for paths in every_architecture(space).tolist()]
        macs = np.array(list(map(macs_cost(space).of, every)))
        known = set(self.networks)
        band = [every[i] for i in Band.of(1e6 * target, macs, macs).indices]
        if not band:
            raise ConfigError(
                f"--targets {target:g}: no network of this space has {BAND * target:g} to {target:g} M MACs; choose "
                "another target"
            )
        there = sum(paths in known for paths in band)
        if there < len(band):
            raise ConfigError(
                f"--targets {target:g}: --truth has {there} of the {len(band)} networks of {BAND * target:g} to "
                f"{target:g} M MACs, expected all; choose another target, or a complete file"
            )

    def judged(self, band: Band, paths: Paths) -> dict[str, float]:
        """percentile and gap of one network of the band."""
        index = self.networks.index(paths)
        accuracy = float(self.accuracy[index])
        return {"percentile": band.percentile(index, accuracy), "gap": band.gap(accuracy)}


# --- images and searches ---------------------------------------------------------------------------------------------


def write_images(source: Path, count: int, seed: int, folder: Path) -> None:
    """Writes `count` training images, each class with its share, in a random order, unless they are there."""
    if (folder / FILE).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    classes = sorted(path.name for path in (source / "train").iterdir() if path.is_dir())
    rng = np.random.default_rng(seed)
    images, labels = [], []
    for c, name in enumerate(classes):
        files = sorted((source / "train" / name).iterdir())
        for i in rng.choice(len(files), count // len(classes), replace=False):
            with Image.open(files[i]) as image:
                images.append(np.asarray(image.convert("RGB")))
            labels.append(c)
    order = rng.permutation(len(labels))
    np.savez(folder / FILE, images=np.stack(images)[order], labels=np.array(labels)[order], classes=np.array(classes))


def plan_of(target: float, seed: int, budget: str, device: str, folder: Path, more: Sequence[str] = ()) -> Plan:
    _, validation, warmup, epochs = BUDGETS[budget]
    overrides = [
        f"limits.0.at={target * 1e6:.0f}", f"run.seed={seed}", f"data.root={folder}", f"data.validation={validation}",
        f"search.warmup_epochs={warmup}", f"search.epochs={epochs}", f"run.device={device}", *more,
    ]  # fmt: skip
    config = SearchConfig.read(CONFIG, overrides)
    resolved = resolve(config, CONFIG, overrides)
    parts = open_parts(config)
    return Plan(resolved.config, Space(resolved.config.space), resolved.limits, prepare_device(config.run), *parts)


def checkpoint_of(run: Path) -> tuple[int, dict[str, Any]]:
    newest = Checkpoints(run / "checkpoints").newest()
    assert newest is not None  # each run here ends with one
    return newest


def begun(out: Path) -> int | None:
    """Returns the step of the newest checkpoint of an earlier call, or None: then `out` is empty."""
    newest = Checkpoints(out / "checkpoints").newest()
    if newest is None:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        return None
    return newest[0]


def warm_up(plan: Plan, out: Path) -> None:
    """Trains on to the end of the warm-up, of which a checkpoint is left in `out`."""
    step = begun(out)
    if step is not None and step >= plan.warmup_steps:
        return
    search = Search(plan, out, step is not None, ALONE)
    try:
        with Progress(plan.warmup_steps, search.state.step, "warm-up") as progress:
            while search.state.step < plan.warmup_steps:
                search.step(progress)
            search.save()
    finally:
        search.close()


def searched(plan: Plan, before: Path, out: Path, change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Searches on from the newest checkpoint of `before`, after `change` has been made to its state; returns what is
    kept of it, by an earlier call, too."""
    record = out / "record.json"
    if record.exists():
        found: dict[str, Any] = json.loads(record.read_text())
        return found
    if begun(out) is None:
        step, state = checkpoint_of(before)
        change(state["search"])
        Checkpoints(out / "checkpoints").save(step, state)
    result = Search(plan, out, True, ALONE).run()
    judged = result.judged
    found = {"paths": list(result.architecture.paths), "cost": cost_of(plan)}
    if judged:
        found |= {"tau": judged.tau, "reliability": judged.reliability, "rank": judged.rank}
    write_atomically(record, json.dumps(found) + "\n")
    return found


def cost_of(plan: Plan) -> dict[str, int]:
    """Returns the images that pass through a network, forward counted once and backward twice: those that train the
    weights, and those that alpha learns from."""
    s = plan.config.search
    batch = s.batch_size
    steps = plan.config.search.epochs * plan.steps_per_epoch // s.arch_every
    if s.arch_update == "regression":
        alpha = (steps + plan.final_steps) * batch * s.resolved_regression.samples
    else:
        # forward, backward through the activations alone, and the other candidate of each pair
        alpha = steps * batch * 4
    return {"weights": plan.steps * batch * 3, "alpha": alpha}


# --- what the supernet alone is worth --------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainedSupernet:
    """The supernet of a finished search of the default, with its weights."""

    plan: Plan
    search: Search

    @classmethod
    def of(cls, plan: Plan, run: Path) -> "TrainedSupernet":
        return cls(plan, Search(plan, run, True, ALONE))

    def losses(self, networks: Sequence[Paths], images: int) -> np.ndarray:
        """(networks,): validation losses."""
        plan = self.plan
        losses, _ = supernet_losses(
            self.search.state.net, networks, plan.config, plan.validation, plan.device,
            lambda: autocast(plan.config.run, plan.device), images=images,
        )  # fmt: skip
        return np.asarray(losses.mean(axis=1))


def evolved(supernet: TrainedSupernet, truth: MacroTruth, band: Band, rng: np.random.Generator) -> Paths:
    """The best network of an evolution of as many evaluations as the largest control has."""
    known = {truth.networks[i] for i in band.indices}
    candidates = supernet.plan.space.mask.sum(axis=1)
    generation = [truth.networks[i] for i in rng.choice(band.indices, POPULATION, replace=False)]
    seen = dict(zip(generation, supernet.losses(generation, CONTROL_IMAGES), strict=True))
    for _ in range(CONTROLS[-1] // POPULATION - 1):
        parents = sorted(seen, key=lambda paths: float(seen[paths]))[:PARENTS]
        children: dict[Paths, None] = {}
        for attempt in range(100_000):
            one, other = (np.array(parents[i]) for i in rng.integers(len(parents), size=2))
            child = np.where(rng.random(len(one)) < 0.5, one, other) if attempt % 2 else one
            child = np.where(rng.random(len(one)) < MUTATION, rng.integers(candidates), child)
            paths = tuple(child.tolist())
            if paths in known and paths not in seen:
                children[paths] = None
                if len(children) == POPULATION:
                    break
        if not children:
            break
        seen |= dict(zip(children, supernet.losses(list(children), CONTROL_IMAGES), strict=True))
    return min(seen, key=lambda paths: float(seen[paths]))


def supernet_rows(
    supernet: TrainedSupernet, truth: MacroTruth, target: float, seed: int, methods: Sequence[str]
) -> dict[str, Any]:
    """Returns, for one band, a row for each control and for the evolution, and Kendall's tau with the truth."""
    band = truth.band(1e6 * target)
    rng = np.random.default_rng([seed, int(target)])
    drawn = rng.choice(band.indices, min(CONTROLS[-1], len(band.indices)), replace=False)
    found: dict[str, Any] = {}
    if "control" in methods:
        losses = supernet.losses([truth.networks[i] for i in drawn], CONTROL_IMAGES)
        found["kendall"] = float(kendalltau(-losses, truth.accuracy[drawn]).statistic)
        order = np.argsort(losses)
        ranks = Band(band.target, drawn, truth.accuracy[drawn])
        for k in CONTROLS:
            # the expectation over which k of the drawn ones are looked at; judged in the whole band
            chances = ranks.chances(len(order), k)
            rows = [truth.judged(band, truth.networks[drawn[i]]) for i in order]
            found[f"control_{k}"] = {
                name: float(chances @ np.array([row[name] for row in rows])) for name in ("percentile", "gap")
            } | {"cost": k * CONTROL_IMAGES}
    if "evolution" in methods:
        chosen = evolved(supernet, truth, band, rng)
        found["evolution"] = truth.judged(band, chosen) | {"cost": CONTROLS[-1] * CONTROL_IMAGES}
    return found


# --- all together ----------------------------------------------------------------------------------------------------


def rows_of(seed: int, truth: MacroTruth, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each method and target of one seed."""
    folder = args.out / args.budget / f"seed-{seed}"
    write_images(args.images, BUDGETS[args.budget][0], seed, folder)
    plans = {target: plan_of(target, seed, args.budget, args.device, folder) for target in args.targets}
    first = plans[args.targets[0]]
    warm_up(first, folder / "warm")
    rows: list[dict[str, Any]] = []

    def again(state: dict[str, Any]) -> None:
        """Back to the last weights step."""
        state["arch_steps"] -= state["final_steps"]
        state["final_steps"] = 0

    for target, plan in plans.items():
        out = folder / f"default-{target:g}"
        before = folder / f"default-{args.targets[0]:g}" if target != args.targets[0] else folder / "warm"
        kept = searched(plan, before, out, again)
        row = truth.judged(truth.band(1e6 * target), tuple(kept["paths"]))
        row |= {name: kept[name] for name in ("tau", "reliability", "rank") if name in kept}
        rows.append({"method": "default", "target": target, "seed": seed, "cost": kept["cost"]["alpha"]} | row)
        log.info("%s", rows[-1])
    supernet = TrainedSupernet.of(first, folder / f"default-{args.targets[0]:g}")
    for target in args.targets:
        if not {"control", "evolution"} & set(args.methods):
            break
        kinds = "-".join(sorted({"control", "evolution"} & set(args.methods)))
        record = folder / f"supernet-{target:g}-{kinds}-{CONTROL_IMAGES}.json"
        if not record.exists():
            found = supernet_rows(supernet, truth, target, seed, args.methods)
            write_atomically(record, json.dumps(found) + "\n")
        for name, row in json.loads(record.read_text()).items():
            value = {"kendall": row} if name == "kendall" else row
            rows.append({"method": name, "target": target, "seed": seed} | value)
            log.info("%s", rows[-1])
    supernet.search.close()
    for target in args.targets if "alpha" in args.methods else ():
        plan = plan_of(
            target, seed, args.budget, args.device, folder,
            ["search.arch_update=two_path", "search.gate_gradient=second_order", "search.arch_every=2"],
        )  # fmt: skip

        def gradient(state: dict[str, Any]) -> None:
            state["evidence"] = None

        kept = searched(plan, folder / "warm", folder / f"alpha-{target:g}", gradient)
        _, state = checkpoint_of(folder / f"alpha-{target:g}")
        likeliest = constrained(Alpha.of_space(plan.space, state["search"]["alpha"]), plan.additive).paths
        row = truth.judged(truth.band(1e6 * target), likeliest)
        rows.append({"method": "alpha", "target": target, "seed": seed, "cost": kept["cost"]["alpha"]} | row)
        log.info("%s", rows[-1])
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over targets and seeds; the errors are of seeds, whose targets share a supernet."""
    found: dict[str, Any] = {"searches": len(rows)}
    for name in ("percentile", "gap"):
        by_seed: dict[int, list[float]] = {}
        for row in rows:
            by_seed.setdefault(row["seed"], []).append(row[name])
        means = [statistics.fmean(values) for values in by_seed.values()]
        found[name] = statistics.fmean(row[name] for row in rows)
        found[f"{name}_error"] = statistics.stdev(means) / len(means) ** 0.5 if len(means) > 1 else None
    return found | {"cost": statistics.fmean(row["cost"] for row in rows)}


def run(args: argparse.Namespace) -> int:
    for given, what in ((args.truth, "truth"), (args.images and args.images / "train", "images")):
        if given is None or not given.exists():
            print(f"skipped: {given or '--images'}: found no {what}; see --help")
            return 0
    truth = MacroTruth.load(args.truth)
    for target in args.targets:
        truth.check(target)
    torch.set_num_threads(1)
    rows = [row for seed in args.seeds for row in rows_of(seed, truth, args)]
    methods = dict.fromkeys(row["method"] for row in rows if "percentile" in row)
    record: dict[str, Any] = {m: summary([row for row in rows if row["method"] == m]) for m in methods}
    if f"control_{CONTROLS[-1]}" in record:
        record["control"] = record[f"control_{CONTROLS[-1]}"]
    record["random"] = {"percentile": 50.0, "gap": 1.0, "cost": 0}
    if kendall := [row["kendall"] for row in rows if "kendall" in row]:
        record["kendall"] = statistics.fmean(kendall)
    print("| method | percentile | gap | images through a network beside the weights |\n|---|---|---|---|")
    for name in (*methods, "random"):
        r = record[name]
        errors = [f" ± {r[key]:.2g}" if r.get(key) is not None else "" for key in ("percentile_error", "gap_error")]
        print(f"| {name} | {r['percentile']:.1f}{errors[0]} | {r['gap']:.2f}{errors[1]} | {r['cost']:,.0f} |")
    about = {"budget": args.budget, "targets": args.targets, "seeds": args.seeds, "band": BAND, **made_on()}
    print(json.dumps(record | about | {"rows": rows}))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of CIFAR-10 with train/<class>/<image>")
    parser.add_argument("--truth", type=Path, default=TRUTH, help="JSON file of NAS-Bench-Macro")
    parser.add_argument("--budget", choices=list(BUDGETS), default="small")
    parser.add_argument("--targets", type=float, nargs="+", default=list(TARGETS), help="in 1e6 MACs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["default", "control", "evolution"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/nas_bench_macro"), help="what is done is kept here")
    args = parser.parse_args()
    set_up_logging()
    return run(args)


if __name__ == "__main__":
    run_command(main)
