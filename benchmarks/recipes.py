"""Which recipe trains a small network best?  python benchmarks/recipes.py --fashion DATA --cifar10 CIFAR10 --jobs 2

Trains one network of each data set from scratch with recipes of configs/retrain/, all with the same images, batches and
number of steps, and with several seeds:

    published         imagenet.yaml
    modern            imagenet_modern.yaml as it is: networks of fewer than 100 M multiply-accumulates, as both of
                      these, get the published augmentation
    modern_strong     the same with its strong augmentation, whatever the size of the network
    modern_distilled  modern, with a teacher: the largest network of the space, trained with the published recipe for
                      TEACHER_EPOCHS times as many epochs and with another seed
    averaged          published, with the averaged weights of the modern recipe
    published_strong  published, with the strong augmentation

Fashion-MNIST: the network that a search derived (docs/results.md); CIFAR-10: one of 46 M multiply-accumulates of
NAS-Bench-Macro, where it reaches 91.8 % (three trainings, by its authors); with --small the network of Fashion-MNIST,
for pictures in colour and of 32 px, which a CPU trains in minutes. Changed in the files: data, epochs,
batch_size (256) and the epochs of the warm-up, which are as large a share of the training as in the file, but half an
epoch or more. The learning rate of each optimizer is the one of RATES that is best on a tenth of the training images,
in one training with another seed (100), of half the epochs (--choosing-epochs); the test images choose nothing. The
recipes differ in nothing else.

Whatever is finished is used again, and unfinished trainings go on: the same command resumes, also after --seconds, at
which the trainings stop; the tables have the recipes of which all seeds are finished. Prints for each set the
mean top-1 on the test images with its standard error over seeds; the paired differences to the published recipe, seed
by seed, with the standard error of their mean; seconds and images per second of a training. The last line is JSON with
these figures (keys: sets, made_on).
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.arguments import path_argument
from engine.errors import Interrupted, run_command
from engine.files import write_atomically
from engine.processes import side_by_side
from engine.progress import set_up_logging
from engine.runs.folder import refuse_changes, run_begun
from latency.device import made_on
from retrain.config import RetrainConfig
from retrain.inputs import resolved_training
from retrain.run import retrain
from search.config import SearchConfig
from small_sets import write_pictures
from stopping import stopped_when
from supernet.architecture import Architecture
from supernet.space import Space
from timed_loop import ROOT

log = logging.getLogger("benchmark")

CONFIGS = ROOT / "configs"
BATCH = 256
CHOOSING_SEED, TEACHER_SEED = 100, 101
TEACHER_EPOCHS = 2
HELD_OUT = 0.1
"""The share of the training images by which a learning rate is chosen."""
WARMUP = 0.5
"""The fewest epochs of a warm-up."""


@dataclass(frozen=True)
class Recipe:
    """A file of configs/retrain, and what is changed in it."""

    file: str
    changes: tuple[str, ...] = ()
    distilled: bool = False


STRONG = ("retrain.augment.weaker_below=0",)
_MODERN = RetrainConfig.read(CONFIGS / "retrain/imagenet_modern.yaml").retrain
RECIPES = {
    "published": Recipe("imagenet"),
    "modern": Recipe("imagenet_modern"),
    "modern_strong": Recipe("imagenet_modern", STRONG),
    "modern_distilled": Recipe("imagenet_modern", distilled=True),
    "averaged": Recipe("imagenet", (f"retrain.ema={_MODERN.ema}",)),
    "published_strong": Recipe(
        "imagenet",
        (
            f"retrain.augment.policy={_MODERN.augment.policy}",
            f"retrain.augment.magnitude={_MODERN.augment.magnitude}",
            f"retrain.augment.erasing={_MODERN.augment.erasing}",
        ),
    ),
}
DEFAULT = ("published", "modern", "modern_strong", "modern_distilled")
RATES = {"imagenet": (0.05, 0.2, 0.4), "imagenet_modern": (0.008, 0.016, 0.032)}
"""The learning rates for a batch of 256 among which each file's is chosen; its own is one of them."""


@dataclass(frozen=True)
class Data:
    """A data set and the network that is trained on it."""

    name: str
    search: str
    """The file of configs/search with the network's space."""
    changes: tuple[str, ...]
    """Overrides of that file."""
    names: tuple[str, ...]
    """The candidates of the network, one for each edge."""
    root: Path
    """The folder of its images, as `write_pictures` writes them."""
    epochs: int
    choosing_epochs: int

    @property
    def space(self) -> Space:
        """The space of the network."""
        return Space(SearchConfig.read(CONFIGS / f"search/{self.search}.yaml", self.changes).space)

    @property
    def network(self) -> Architecture:
        """The network that all recipes train."""
        return Architecture.from_names(self.space, self.names, self.name)

    @property
    def largest(self) -> Architecture:
        """The network with the most multiply-accumulates: the teacher."""
        space = self.space
        costs = [[layer.complexity.macs for layer in edge.layers] for edge in space.searchable]
        return Architecture(space, tuple(row.index(max(row)) for row in costs), "largest")


FASHION = ("conv_k3", "conv_k3", "conv_k3", "mbconv_k5_e3", "sepconv_k3", "conv_k3", "conv_k3", "conv_k3")
COLOUR = ("space.input_channels=3", "space.input_size=32")
"""What makes the space of Fashion-MNIST one for CIFAR-10."""
CIFAR10 = "11220100"
"""A network of NAS-Bench-Macro in its own notation: a digit for each edge."""


def macro_names(space: Space, digits: str) -> tuple[str, ...]:
    """Returns the candidates of a network of NAS-Bench-Macro. 0: skip, or proj at a stage's first edge."""
    words = {"1": "mbconv_k3_e3", "2": "mbconv_k5_e6"}
    edges = zip(space.edges, digits, strict=True)
    return tuple(words.get(d, "skip" if "skip" in edge.candidates else "proj") for edge, d in edges)


@dataclass(frozen=True)
class Job:
    """One training."""

    data: Data
    network: Architecture
    recipe: Recipe
    seed: int
    epochs: int
    rate: float
    out: Path
    device: str
    threads: int | None
    teacher: Path | None = None
    choosing: bool = False
    until: float = math.inf
    """The time (time.time()) at which it stops."""

    @property
    def config(self) -> RetrainConfig:
        """The recipe's file with what the set and the number of epochs change in it."""
        path = CONFIGS / f"retrain/{self.recipe.file}.yaml"
        own = RetrainConfig.read(path).retrain
        warmup = max(WARMUP, own.warmup_epochs * self.epochs / own.epochs) if own.warmup_epochs else 0
        module = Path(__file__).with_name("small_sets.py")
        changes = [
            f"data={{module: {module}, name: pictures, root: {self.data.root.resolve()}, workers: 2}}",
            *(f"retrain.epochs={self.epochs}", f"retrain.batch_size={BATCH}", f"retrain.lr={self.rate}"),
            f"retrain.warmup_epochs={warmup}",
            *(f"run.seed={self.seed}", f"run.device={self.device}", "run.amp=none"),
            *(f"run.evaluate_every={self.epochs}", "run.checkpoint_every=500", "run.log_every=50"),
            *([f"run.threads={self.threads}"] if self.threads else []),
            *self.recipe.changes,
            *([f"retrain.validation={HELD_OUT}"] if self.choosing else []),
            *([f"retrain.teacher={{network: {self.teacher.resolve()}}}"] if self.teacher else []),
        ]
        return RetrainConfig.read(path, changes)


Figures = dict[str, float]


def trained(job: Job) -> Figures | None:
    """Returns top1 (by which to choose: of the images held out), seconds and images per second of a training: of an
    earlier call if it is finished. None if the time is over before its end. The teacher must have begun. Raises
    ConfigError if the folder holds another training."""
    record, config = job.out / "training.json", job.config
    if not record.exists():
        while job.teacher is not None and not (job.teacher / "training.json").exists() and time.time() < job.until:
            time.sleep(0.2)
        if time.time() >= job.until:
            return None
        began = time.monotonic()
        try:
            with stopped_when(lambda: time.time() >= job.until):
                result = retrain(config, job.network, job.out, resume=run_begun(job.out), shown=False)
        except Interrupted:
            if math.isfinite(job.until):
                return None
            raise
        seconds = time.monotonic() - began
        found = json.loads((job.out / "result.json").read_text())
        top1 = found["chosen"]["validation_top1"] if job.choosing else result.test.top1
        lines = [json.loads(line) for line in (job.out / "metrics.jsonl").read_text().splitlines()]
        speeds = [line["speed/images_per_second"] for line in lines if "speed/images_per_second" in line]
        values = {"top1": top1, "seconds": seconds, "speed": statistics.median(speeds[1:] or speeds)}
        write_atomically(record, json.dumps(values) + "\n")
    refuse_changes(job.out, resolved_training(config, job.network))
    values = json.loads(record.read_text())
    return {key: float(value) for key, value in values.items()}


def all_trained(jobs: Sequence[Job], workers: int) -> list[Figures | None]:
    """Returns the figures of each job, as many at a time as there are workers."""
    began, done = time.monotonic(), []

    def finished(place: int, found: Figures | None) -> None:
        done.append(place)
        words = "the time is over"
        if found:
            words = f"{found['top1']:.2f} %, {found['seconds']:.0f} s, {found['speed']:.0f} images/s"
        log.info("%d of %d, %.0f s: %s %s", len(done), len(jobs), time.monotonic() - began, jobs[place].out, words)

    return side_by_side(trained, [(job,) for job in jobs], workers, finished)


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Returns the mean and its standard error; the error of one value is nan."""
    if len(values) < 2:
        return statistics.fmean(values), math.nan
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))


def summary(found: dict[str, list[Figures]], reference: str = "published") -> dict[str, dict[str, Any]]:
    """Returns the figures of each recipe. found: those of its trainings, in the same order of seeds for each recipe.
    reference: the recipe to which the others have a paired difference."""
    rows = {}
    for name, runs in found.items():
        top1 = [run["top1"] for run in runs]
        row: dict[str, Any] = {"top1": top1}
        row["mean"], row["error"] = mean_and_error(top1)
        row |= {key: statistics.median(run[key] for run in runs) for key in ("seconds", "speed")}
        if name != reference and reference in found:
            differences = [a - b["top1"] for a, b in zip(top1, found[reference], strict=True)]
            row["difference"], row["difference_error"] = mean_and_error(differences)
        rows[name] = row
    return rows


def show(data: Data, rates: dict[str, float], rows: dict[str, dict[str, Any]]) -> None:
    """Prints the table of a data set in Markdown."""
    c = data.network.complexity
    print(f"\n{data.name}: {c.macs / 1e6:.1f} M MACs, {c.params / 1e3:.0f} k params, {data.epochs} epochs\n")
    seeds = range(len(next(iter(rows.values()))["top1"]))
    each = " | ".join(f"seed {seed}" for seed in seeds)
    print(f"| recipe | learning rate | {each} | mean top-1 % | difference | seconds | images/s |")
    print("|---" * (6 + len(seeds)) + "|")
    for name, row in rows.items():
        top1 = " | ".join(f"{value:.2f}" for value in row["top1"])
        rate = f"{rates[RECIPES[name].file]:g}"
        difference = f"{row['difference']:+.2f} ± {row['difference_error']:.2f}" if "difference" in row else ""
        print(
            f"| {name} | {rate} | {top1} | {row['mean']:.2f} ± {row['error']:.2f} | {difference} "
            f"| {row['seconds']:.0f} | {row['speed']:.0f} |"
        )


def chosen_rates(sets: Sequence[Data], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Returns the learning rate of each file of recipes for each set: those of --rates, or the best of RATES."""
    if args.rates is not None:
        rates: dict[str, dict[str, float]] = json.loads(args.rates.read_text())
        return rates
    jobs = [
        Job(
            data, data.network, Recipe(file), CHOOSING_SEED, data.choosing_epochs, rate,
            args.out / data.name / f"choose_{file}_{rate:g}", args.device, args.threads, choosing=True,
        )
        for data in sets for file in dict.fromkeys(RECIPES[name].file for name in args.recipes) for rate in RATES[file]
    ]  # fmt: skip
    scores: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for job, found in zip(jobs, all_trained(jobs, args.jobs), strict=True):
        assert found is not None  # there is no time at which a choice stops
        scores.setdefault((job.data.name, job.recipe.file), []).append((found["top1"], job.rate))
    rates = {data.name: {} for data in sets}
    for (name, file), pairs in scores.items():
        rates[name][file] = max(pairs)[1]
        tried = ", ".join(f"{rate:g}: {top1:.2f} %" for top1, rate in pairs)
        print(f"{name}, {file}.yaml, learning rate on {HELD_OUT:.0%} held out: {tried}", flush=True)
    write_atomically(args.out / "rates.json", json.dumps(rates) + "\n")
    return rates


def data_of(name: str, root: Path, epochs: int, choosing_epochs: int) -> Data:
    """Returns a set, fashion_mnist, cifar10 or cifar10_small, with the network that is trained on it."""
    if name == "fashion_mnist":
        return Data(name, "fashion_cpu", (), FASHION, root, epochs, choosing_epochs)
    if name == "cifar10_small":
        return Data(name, "fashion_cpu", COLOUR, FASHION, root, epochs, choosing_epochs)
    macro = Data(name, "cifar10_macro", (), (), root, epochs, choosing_epochs)
    return replace(macro, names=macro_names(macro.space, CIFAR10))


def opened(name: str, source: Path, epochs: int, choosing_epochs: int, args: argparse.Namespace) -> Data:
    """Writes the images of a set into its folder, and returns it."""
    root = args.out / name / "data"
    write_pictures(source, root, args.most)
    return data_of(name, root, epochs, choosing_epochs)


def trainings(data: Data, rates: dict[str, float], args: argparse.Namespace) -> dict[tuple[str, int], Job]:
    """Returns the trainings of a set, by recipe and seed: the teacher if there is one (seed TEACHER_SEED), then those
    without a teacher, seed by seed, then those with it."""
    where, until = args.out / data.name, args.until
    names = sorted(args.recipes, key=lambda name: RECIPES[name].distilled)
    jobs = {}
    if any(RECIPES[name].distilled for name in names):
        jobs["teacher", TEACHER_SEED] = Job(
            data, data.largest, RECIPES["published"], TEACHER_SEED, TEACHER_EPOCHS * data.epochs, rates["imagenet"],
            where / "teacher", args.device, args.threads, until=until,
        )  # fmt: skip
    for distilled in (False, True):
        for seed in range(args.seeds):
            for name in names:
                if RECIPES[name].distilled == distilled:
                    jobs[name, seed] = Job(
                        data, data.network, RECIPES[name], seed, data.epochs, rates[RECIPES[name].file],
                        where / f"{name}-seed{seed}", args.device, args.threads,
                        where / "teacher" if distilled else None, until=until,
                    )  # fmt: skip
    return jobs


def run(args: argparse.Namespace) -> int:
    """Trains everything and prints the tables."""
    args.until = math.inf if args.seconds is None else time.time() + args.seconds
    cifar10 = "cifar10_small" if args.small else "cifar10"
    sources = {cifar10: (args.cifar10, -1), "fashion_mnist": (args.fashion, 0)}
    for source, _ in sources.values():
        if source is not None and not source.exists():
            print(f"skipped: {source}: is not there; see --help")
            return 0
    choosing = args.choosing_epochs or [max(2, epochs // 2) for epochs in args.epochs]
    sets = [
        opened(name, source, args.epochs[place], choosing[place], args)
        for name, (source, place) in sources.items() if source is not None
    ]  # fmt: skip
    rates = chosen_rates(sets, args)
    if args.choose:
        return 0
    jobs = {(data.name, *key): job for data in sets for key, job in trainings(data, rates[data.name], args).items()}
    jobs = dict(sorted(jobs.items(), key=lambda item: item[0][1] != "teacher"))  # the longest first
    done = dict(zip(jobs, all_trained(list(jobs.values()), args.jobs), strict=True))
    record: dict[str, Any] = {}
    for data in sets:
        found: dict[str, list[Figures]] = {}
        for name in args.recipes:
            seeds = [done[data.name, name, seed] for seed in range(args.seeds)]
            if all(seeds):
                found[name] = [figures for figures in seeds if figures]
        if not found:
            continue
        rows = summary(found)
        show(data, rates[data.name], rows)
        teacher = done.get((data.name, "teacher", TEACHER_SEED))
        if teacher:
            print(f"\nteacher: {teacher['top1']:.2f} %, {teacher['seconds']:.0f} s")
        c = data.network.complexity
        record[data.name] = {
            "epochs": data.epochs, "batch": BATCH, "macs": c.macs, "params": c.params, "rates": rates[data.name],
            "recipes": rows, "teacher": teacher,
        }  # fmt: skip
    print()
    print(json.dumps({"sets": record, "run_on": args.device, "jobs": args.jobs, **made_on()}))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion", type=path_argument, help="torchvision's folder of Fashion-MNIST, or an .npz")
    parser.add_argument("--cifar10", type=path_argument, help="CIFAR-10: train/<class>/<image> and test/, or an .npz")
    parser.add_argument("--small", action="store_true", help="train a small network on CIFAR-10, as on Fashion-MNIST")
    parser.add_argument("--most", type=int, help="training images of each set, each class with its share")
    parser.add_argument("--epochs", type=int, nargs="+", default=[12], help="of Fashion-MNIST and of CIFAR-10")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=DEFAULT)
    parser.add_argument("--choosing-epochs", type=int, nargs="+", help="of the choice of learning rates, as --epochs")
    parser.add_argument("--choose", action="store_true", help="choose the learning rates alone")
    parser.add_argument("--rates", type=path_argument, help="rates.json of an earlier choice; none is made then")
    parser.add_argument("--seconds", type=float, help="the time after which trainings (not choices) stop")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each training")
    parser.add_argument("--out", type=path_argument, default=Path("runs/recipes"))
    args = parser.parse_args()
    if (
        min(args.epochs + (args.choosing_epochs or [])) < 2
        or args.seeds < 1
        or args.jobs < 1
        or not (args.fashion or args.cifar10)
    ):
        parser.error("--fashion or --cifar10 is needed; --epochs must be 2 or more, --seeds and --jobs 1 or more")
    set_up_logging()
    return run(args)


if __name__ == "__main__":
    run_command(main)
