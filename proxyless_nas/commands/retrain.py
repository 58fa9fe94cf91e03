"""Trains a derived network from scratch, or a trained one further:

    proxyless-nas retrain imagenet --architecture runs/cpu/architecture.json --out runs/r data.root=/images
    proxyless-nas retrain finetune --out runs/f retrain.start=proxyless_cpu data.root=/photos
    proxyless-nas retrain finetune --out runs/f retrain.start=runs/r data.root=/photos
    proxyless-nas retrain imagenet --architecture runs/cpu --random 10 --seeds 0 1 2 --out runs/compared

Writes config.yaml, curves (metrics.jsonl and, for TensorBoard, an event file), checkpoints/, result.json and
source.json, which names the architecture's file, into --out.
Several processes or machines: torchrun --nproc-per-node 8 -m proxyless_nas retrain ... (docs/cluster.md)

Several architectures, --random or --seeds retrain each network with each seed, every one in a process and a folder of
its own in --out, --jobs at a time. --random N adds N random networks that are predicted to cost what the first one
costs. One that fails does not stop the others. Ctrl-C stops all; --resume continues those that have begun and skips
those that have ended. Prints a table and a verdict, and writes results.json, results.md and results.png. Exit status: 1
if a retraining failed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from engine.arguments import add_allow_modules, path_argument
from engine.errors import Action, UserError
from proxyless_nas.commands.base import Command, add_config, add_overrides, at_least, config_path, seed_argument

if TYPE_CHECKING:
    from proxyless_nas.retrainings.results import RetrainSweep


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser, "YAML file, see configs/retrain/")
    parser.add_argument(
        "--architecture",
        "--arch",
        nargs="+",
        default=[],
        metavar="FILE",
        help="architecture.json or folder of a search, net.config or published network; default: that of retrain.start",
    )
    parser.add_argument(
        "--random",
        type=at_least(0),
        default=0,
        metavar="N",
        help="also retrain N random networks of equal predicted cost",
    )
    parser.add_argument(
        "--seeds",
        type=seed_argument,
        nargs="+",
        default=[],
        help="retrain each network with each seed; default: run.seed of the configuration",
    )
    parser.add_argument(
        "--jobs", type=at_least(1), help="retrainings that run at once on the CPU, or on each GPU; default: 1"
    )
    parser.add_argument("--out", type=path_argument, required=True, help="folder for results")
    parser.add_argument("--resume", action="store_true", help="continue the training in --out")
    add_overrides(parser, "retrain.epochs=10")
    add_allow_modules(parser, "the architecture's file")


def _run(args: argparse.Namespace) -> int:
    # key=value after --architecture is an override, unless there is such a file
    given = [text for text in args.architecture if "=" not in text or path_argument(text).exists()]
    args.overrides = [*args.overrides, *(text for text in args.architecture if text not in given)]
    if len(given) > 1 or args.random or args.seeds:
        return _run_several(args, [path_argument(text) for text in given])
    if args.jobs is not None:
        raise UserError("--jobs", "got one retraining", remedy="give several architectures, --random or --seeds")
    one = path_argument(given[0]) if given else None
    if one is not None and (one / "architecture.json").is_file():
        one /= "architecture.json"
    return _run_one(args, one)


def _run_one(args: argparse.Namespace, architecture: Path | None) -> int:
    from engine.job import open_group
    from engine.progress import set_up_logging
    from engine.quantities import accuracy_text
    from proxyless_nas.starting import architecture_or_file, published_network
    from retrain.run import run_retrain

    with open_group() as group:
        set_up_logging(group)
        result = run_retrain(
            config_path(args),
            architecture_or_file(architecture, args.allow_modules),
            args.out,
            resume=args.resume,
            overrides=args.overrides,
            allow_modules=args.allow_modules,
            group=group,
            published=published_network,
        )
        if group.first:
            test = result.test
            figures = accuracy_text(test.top1, test.top5, test.loss, result.architecture.classes)
            print(f"test set, {test.images} images: {figures}")
            prediction = Action("predict", (str(args.out), "IMAGE"))
            files = Action("export", (str(args.out), "--to", "onnx", "--out", "FOLDER"))
            print(f"to classify an image: {prediction}; to export it: {files}")
    return 0


def _run_several(args: argparse.Namespace, architectures: list[Path]) -> int:
    import os

    from engine.progress import set_up_logging
    from proxyless_nas.retrainings.run import retrain_sweep

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        found = "several retrainings were started by torchrun"
        raise UserError(found=found, remedy="start them without it: each gets a GPU, or cores, of its own")
    set_up_logging()
    sweep = retrain_sweep(
        args.config,
        architectures or [None],
        args.out,
        random=args.random,
        seeds=args.seeds,
        jobs=args.jobs or 1,
        resume=args.resume,
        overrides=args.overrides,
        allow_modules=args.allow_modules,
    )
    _print(sweep, args.out)
    return sweep.exit_status


def _print(sweep: RetrainSweep, out: Path) -> None:
    """Prints the table of networks, the errors of retrainings that failed, and the verdict."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    rows = sweep.rows
    used = [i for i, column in enumerate(sweep.columns) if i == 0 or any(row[i] for row in rows)]
    table = Table(title=escape(str(out)))
    for i in used:
        table.add_column(escape(sweep.columns[i]), overflow="fold", justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(escape(row[i]) for i in used))
    console.print(table)
    width = {"soft_wrap": not console.is_terminal, "highlight": False, "markup": False}
    for outcome in sweep.outcomes:
        if outcome.error:
            console.print(f"{outcome.folder.name}: {outcome.error}", **width)  # type: ignore[arg-type]
    for sentence in sweep.conclusions:
        console.print()
        console.print(sentence, **width)  # type: ignore[arg-type]
    if sweep.signalled is not None:
        console.print("interrupted; continue with --resume")


COMMAND = Command(__doc__, _arguments, _run, resumable=True)
