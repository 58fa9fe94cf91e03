"""What do the ImageNet recipes cost on this device?  python benchmarks/imagenet_cost.py --device cuda --price 2.5

Runs the first --steps steps of imagenet.yaml, imagenet_modern.yaml and imagenet_short.yaml, as they are but for the
batch: the real loop, on JPEG files of ImageNet's size at the recipe's image size, with the learning rates that the
steps of the whole training on ImageNet have. Then times what is missing: the other sizes of a recipe that grows its
images (with --more steps each), and an evaluation. From these figures it ESTIMATES hours, and the price if --price says
what an hour costs:

    hours = epochs * (1,281,167 / images per second of the training + evaluations * 50,000 / images per second of one)

Start and checkpoints are left out, and nobody has run such a training to its end here. The files are parts of two
photographs (benchmarks/jpeg_files.py) in 1,000 classes, --per-class of each, which come again and again: the decoding
costs what it costs on ImageNet, but all files stay in the system's cache, so that reading from a disk is not in it.
The classes can be told apart, so the loss has to go down; it says nothing about the accuracy on ImageNet.

Prints for each recipe the mean loss of the first and of the last quarter of the steps, images per second (the median
over blocks of 10 steps in the second half), memory and the estimate. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from engine.data import evaluation_batches, open_images
from engine.device import memory_format, prepare_device
from engine.errors import Interrupted, run_command
from engine.evaluation import evaluate
from engine.run_config import NEVER
from jpeg_files import write_classes
from latency.device import made_on
from published.designs import design_of
from retrain.config import RetrainConfig
from retrain.run import retrain
from stopping import stopped_when
from supernet.design import Design
from supernet.network import Network
from timed_loop import ROOT

IMAGES, TEST_IMAGES, CLASSES = 1_281_167, 50_000, 1000
FILES = {"published": "imagenet", "modern": "imagenet_modern", "short": "imagenet_short"}
BLOCK = 10


def recipe(name: str, folder: Path, args: argparse.Namespace, size: int | None = None) -> RetrainConfig:
    """Returns a recipe on the files of `folder`. As these are fewer than ImageNet's, the epochs are more by the same
    factor, so that each step has the learning rate that it has on ImageNet. size: of the training images; None: as the
    recipe says."""
    path = ROOT / f"configs/retrain/{FILES[name]}.yaml"
    settings = RetrainConfig.read(path).retrain
    longer = (IMAGES // args.batch) / (CLASSES * args.per_class // args.batch)
    changes = [
        f"data={{name: folder, root: {folder}, workers: {'null' if args.workers is None else args.workers}}}",
        f"retrain.batch_size={args.batch}",
        f"retrain.epochs={round(settings.epochs * longer)}",
        f"retrain.warmup_epochs={settings.warmup_epochs * longer}",
        *(f"run.device={args.device}", f"run.amp={'bf16' if args.device == 'cuda' else 'none'}"),
        *(f"run.log_every={BLOCK}", f"run.checkpoint_every={NEVER}", f"run.evaluate_every={NEVER}"),
        *([f"retrain.augment.sizes=[{size}]"] if size else []),
    ]
    return RetrainConfig.read(path, changes)


def first_steps(config: RetrainConfig, design: Design, steps: int, out: Path, limit: float) -> dict[str, float]:
    """Returns the losses, images per second and memory of the first steps of a training: fewer than `steps` if they
    take more than `limit` seconds, of which the start is no part. images_per_second is nan for fewer than BLOCK."""
    cuda = config.run.device == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    began = time.monotonic()
    ends: list[float] = []  # of the steps

    def over() -> bool:
        ends.append(time.monotonic())
        return len(ends) == steps or ends[-1] > ends[0] + limit

    with stopped_when(over), suppress(Interrupted):
        retrain(config, design, out, shown=False)
    seconds = time.monotonic() - began
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    speeds = [line["speed/images_per_second"] for line in lines if "speed/images_per_second" in line]
    quarter = max(1, len(losses) // 4)
    later = speeds[max(1, len(speeds) // 2) :]  # the first one is of the start
    peak = torch.cuda.max_memory_allocated() if cuda else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "steps": len(ends),
        "loss_first": statistics.fmean(losses[:quarter]),
        "loss_last": statistics.fmean(losses[-quarter:]),
        "images_per_second": statistics.median(later) if later else math.nan,
        "memory_gb": peak / 1e9,
        "seconds": seconds,
    }


def evaluation_speed(config: RetrainConfig, design: Design) -> float:
    """Returns the images per second of an evaluation, of the second of two passes over the test files."""
    device = prepare_device(config.run)
    network = Network(design, seed=0).to(device=device, memory_format=memory_format(config.run))  # type: ignore[call-overload]
    images = open_images(config.data, input_size=design.input_size, channels=3, classes=CLASSES).test
    for _ in range(2):
        began = time.monotonic()
        batches = evaluation_batches(images, config.retrain.batch_size, config.data.workers, device=device)
        evaluate(network, batches, device, config.run)
        seconds = time.monotonic() - began
    if images.readers is not None:
        images.readers.close()
    return len(images) / seconds


def of_recipe(name: str, design: Design, folder: Path, work: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Returns the figures of the first steps of a recipe, and the speed at each of its sizes."""
    config = recipe(name, folder, args)
    found: dict[str, Any] = first_steps(config, design, args.steps, work / name, args.seconds)
    sizes = config.retrain.augment.sizes or (design.input_size,)
    speeds = {sizes[0]: found["images_per_second"]}
    for size in sizes[1:]:
        more = first_steps(recipe(name, folder, args, size), design, args.more, work / f"{name}{size}", args.seconds)
        speeds[size] = more["images_per_second"]
    return found | {"images_per_second": speeds}


def hours(name: str, speeds: list[float], evaluation: float) -> dict[str, float]:
    """Returns the hours of the training and of the evaluations of a recipe. speeds: images per second of each of equal
    parts of the training; evaluation: those of an evaluation."""
    config = RetrainConfig.read(ROOT / f"configs/retrain/{FILES[name]}.yaml")
    epochs = config.retrain.epochs
    evaluated = epochs // config.run.evaluate_every * (1 if config.retrain.ema is None else 2)
    return {
        "training": epochs * IMAGES * statistics.fmean(1 / speed for speed in speeds) / 3600,
        "evaluations": evaluated * TEST_IMAGES / evaluation / 3600,
    }


def run(args: argparse.Namespace) -> int:
    """Runs the steps and prints the estimates."""
    if args.device == "cuda" and not torch.cuda.is_available():
        print("skipped: torch finds no CUDA device")
        return 0
    design = design_of(args.network).with_classes(CLASSES)
    device = made_on() | ({"gpu": torch.cuda.get_device_name()} if args.device == "cuda" else {})
    record: dict[str, Any] = {"network": args.network, "batch": args.batch, "steps": args.steps, **device}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        began = time.monotonic()
        parts = {"train": args.per_class, "val": 1}
        record["jpeg_bytes"] = round(write_classes(work / "images", parts=parts, classes=CLASSES))
        print(f"{sum(parts.values()) * CLASSES} files in {time.monotonic() - began:.0f} s", flush=True)
        config = recipe("published", work / "images", args)
        record["evaluation"] = evaluation_speed(config, design)
        print(f"evaluation: {record['evaluation']:.0f} images/s", flush=True)
        for recipe_name in args.recipes:
            found = of_recipe(recipe_name, design, work / "images", work, args)
            found["hours"] = hours(recipe_name, list(found["images_per_second"].values()), record["evaluation"])
            if args.price is not None:
                found["price"] = args.price * sum(found["hours"].values())
            record[recipe_name] = found
            print(f"{recipe_name}: {json.dumps(found)}", flush=True)
    c = design.complexity
    print(f"\n{args.network}, {c.macs / 1e6:.0f} M MACs, batches of {args.batch}, estimated hours\n")
    print(
        "| recipe | steps | loss, first and last quarter | images/s | memory | training, h | evaluations, h | price |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for recipe_name in args.recipes:
        found = record[recipe_name]
        speed = ", ".join(f"{value:.0f} ({size} px)" for size, value in found["images_per_second"].items())
        print(
            f"| {recipe_name} | {found['steps']} | {found['loss_first']:.2f}, {found['loss_last']:.2f} | {speed} "
            f"| {found['memory_gb']:.1f} GB | {found['hours']['training']:.0f} | {found['hours']['evaluations']:.0f} "
            f"| {found.get('price', '')} |"
        )
    print()
    print(json.dumps(record))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="proxyless_mobile", help="a published network or an architecture.json")
    parser.add_argument("--recipes", nargs="+", choices=FILES, default=list(FILES))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--more", type=int, default=60, help="steps at each further size of a recipe")
    parser.add_argument("--batch", type=int, default=256, help="images of a step; learning rate and decay follow it")
    parser.add_argument("--per-class", type=int, default=2, help="training files of each of the 1,000 classes")
    parser.add_argument("--workers", type=int, help="processes that read files (data.workers)")
    parser.add_argument("--seconds", type=float, default=math.inf, help="the most for the steps of one recipe and size")
    parser.add_argument("--price", type=float, help="what an hour of the device costs, in your currency")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    if min(args.steps, args.more) < 2 * BLOCK or args.per_class * CLASSES < args.batch:
        parser.error(f"--steps and --more must be {2 * BLOCK} or more, --batch at most {CLASSES} * --per-class")
    return run(args)


if __name__ == "__main__":
    run_command(main)
