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
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bands import BAND, Band
from engine.device import prepare_device
from engine.errors import ConfigError, run_command
from engine.progress import set_up_logging
from latency.config import LatencyConfig
from macro_images import FILE
from methods import Bench, Known, print_record, rows_of
from search.baseline import every_architecture
from search.config import SearchConfig
from search.limits.resolve import resolve
from search.plan import Plan
from search.scoring import open_parts
from supernet.cost import macs_cost
from supernet.space import Space

HERE = Path(__file__).resolve().parent / "macro"
CONFIG = HERE / "search.yaml"
TRUTH = Path(__file__).resolve().parents[2] / "shared" / "data" / "nas_bench_macro_part.json"
TARGETS = (45.0, 63.0, 70.0, 80.0)
"""In 1e6 MACs."""
BUDGETS = {"small": (12_000, 4_000, 6, 14), "large": (24_000, 8_000, 12, 28)}
"""Images, those of them for alpha, epochs of the warm-up and of the search."""
LEARNERS = {"alpha": ("search.arch_update=two_path", "search.gate_gradient=second_order", "search.arch_every=2")}
METHODS = ("default", "control", "evolution", *LEARNERS)
CONTROLS, CONTROL_IMAGES = (10, 30, 100), 2000
"""100 networks then cost what the default's alpha learns from."""


class MacroTruth(Known):
    """The networks with a known accuracy."""

    @classmethod
    def load(cls, path: Path) -> "MacroTruth":
        record = json.loads(path.read_text())["networks"]
        networks = [tuple(map(int, key)) for key in record]
        values = np.array([record[key] for key in record], dtype=float)
        return cls(networks, values[:, 0], values[:, 2])

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


def bench_of(args: argparse.Namespace, truth: MacroTruth, seed: int) -> Bench:
    """Writes the images of a seed; returns what its searches share."""
    folder = args.out / args.budget / f"seed-{seed}"
    write_images(args.images, BUDGETS[args.budget][0], seed, folder)

    def plan(target: float, more: Sequence[str]) -> Plan:
        return plan_of(target, seed, args.budget, args.device, folder, more)

    return Bench(
        truth, seed, folder, args.targets, plan, controls=CONTROLS, control_images=CONTROL_IMAGES, learners=LEARNERS
    )


def run(args: argparse.Namespace) -> int:
    for given, what in ((args.truth, "truth"), (args.images and args.images / "train", "images")):
        if given is None or not given.exists():
            print(f"skipped: {given or '--images'}: found no {what}; see --help")
            return 0
    truth = MacroTruth.load(args.truth)
    for target in args.targets:
        truth.check(target)
    torch.set_num_threads(1)
    rows = [row for seed in args.seeds for row in rows_of(bench_of(args, truth, seed), args.methods)]
    about = {"budget": args.budget, "targets": args.targets, "seeds": args.seeds}
    print_record(rows, about, CONTROLS)
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
