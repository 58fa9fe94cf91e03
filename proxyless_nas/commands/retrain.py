"""Trains a derived network from scratch, or a trained one further:

    proxyless-nas retrain imagenet --architecture runs/cpu/architecture.json --out runs/r data.root=/images
    proxyless-nas retrain finetune --out runs/f retrain.start=proxyless_cpu data.root=/photos
    proxyless-nas retrain finetune --out runs/f retrain.start=runs/r data.root=/photos

Writes config.yaml, curves (metrics.jsonl and, for TensorBoard, an event file), checkpoints/, result.json and
source.json, which names the architecture's file, into --out.
Several processes or machines: torchrun --nproc-per-node 8 -m proxyless_nas retrain ... (docs/cluster.md)
"""

import argparse

from engine.arguments import add_allow_modules, path_argument
from proxyless_nas.commands.base import Command, add_config, add_overrides, config_path


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser, "YAML file, see configs/retrain/")
    parser.add_argument(
        "--architecture",
        type=path_argument,
        help="architecture.json of a search, net.config or published network; default: that of retrain.start",
    )
    parser.add_argument("--out", type=path_argument, required=True, help="folder for results")
    parser.add_argument("--resume", action="store_true", help="continue the training in --out")
    add_overrides(parser, "retrain.epochs=10")
    add_allow_modules(parser, "the architecture's file")


def _run(args: argparse.Namespace) -> None:
    from engine.job import open_group
    from engine.progress import set_up_logging
    from engine.quantities import accuracy_text
    from proxyless_nas.starting import architecture_or_file, published_network
    from retrain.loop import run_retrain

    with open_group() as group:
        set_up_logging(group)
        result = run_retrain(
            config_path(args),
            architecture_or_file(args.architecture, args.allow_modules),
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


COMMAND = Command(__doc__, _arguments, _run, resumable=True)
